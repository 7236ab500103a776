//! Requests of the Redis protocol: arrays of bulk strings, or a line of words.
//!
//! Own code where a codec's crate would do for replies: a request that is too large must be passed
//! over and answered instead of being collected, its size must be known before it is there, and
//! nothing is allocated per word.

use std::ops::Range;

/// Longest line: a header, or words typed by hand.
const LINE: usize = 64 << 10;
/// Longest header of a count or a length: digits, a sign, and the line's end.
const HEADER: usize = 32;
/// The most words, and the longest word, that are a request at all, as Redis has it.
const WORDS: i64 = 1 << 20;
const WORD: i64 = 512 << 20;

/// What the next bytes are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// A request; its words are in the list.
    Request,
    /// A request without words.
    Nothing,
    /// The end of a request that was longer than allowed, and is passed over.
    TooLarge,
}

/// The bytes are not this protocol; nothing after them can be understood.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("Protocol error: {0}")]
pub struct Violation(pub &'static str);

/// Words of a request that is passed over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Skip {
    /// Not begun.
    words: usize,
    /// Of the present one, its line's end included.
    bytes: usize,
}

/// Finds requests in a connection's bytes.
#[derive(Clone, Debug)]
pub struct Decoder {
    limit: usize,
    skip: Option<Skip>,
}

impl Decoder {
    /// For requests of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { limit, skip: None }
    }

    /// The next event and how many bytes it takes; `Ok(None)` if more are needed. Of a request that
    /// is too large it takes what is there: `Some((_, None))`.
    pub fn next(
        &mut self,
        input: &[u8],
        words: &mut Vec<Range<usize>>,
    ) -> Result<Option<(usize, Option<Event>)>, Violation> {
        words.clear();
        if let Some(skip) = self.skip {
            return self.pass_over(input, 0, skip);
        }
        match input.first() {
            None => Ok(None),
            Some(b'*') => self.array(input, words),
            Some(_) => inline(input, words),
        }
    }

    fn array(
        &mut self,
        input: &[u8],
        words: &mut Vec<Range<usize>>,
    ) -> Result<Option<(usize, Option<Event>)>, Violation> {
        let Some((count, mut at)) = header(input, 0, "invalid multibulk length")? else {
            return Ok(None);
        };
        if count > WORDS {
            return Err(Violation("invalid multibulk length"));
        }
        let Ok(count @ 1..) = usize::try_from(count) else {
            return Ok(Some((at, Some(Event::Nothing))));
        };
        for n in 0..count {
            let Some((len, start)) = word(input, at)? else {
                return Ok(None);
            };
            if start + len > self.limit {
                let skip = Skip {
                    words: count - n - 1,
                    bytes: len + 2,
                };
                words.clear();
                return self.pass_over(input, start, skip);
            }
            at = start + len + 2;
            match input.get(start + len..at) {
                None => return Ok(None),
                Some(b"\r\n") => words.push(start..start + len),
                Some(_) => return Err(Violation("expected the end of a bulk string")),
            }
        }
        Ok(Some((at, Some(Event::Request))))
    }

    /// Passes over what is there of a request that is too large.
    fn pass_over(
        &mut self,
        input: &[u8],
        mut at: usize,
        mut skip: Skip,
    ) -> Result<Option<(usize, Option<Event>)>, Violation> {
        loop {
            let passed = skip.bytes.min(input.len() - at);
            at += passed;
            skip.bytes -= passed;
            if skip.bytes == 0 && skip.words == 0 {
                self.skip = None;
                return Ok(Some((at, Some(Event::TooLarge))));
            }
            self.skip = Some(skip);
            let next = match skip.bytes {
                0 => word(input, at)?,
                _ => None,
            };
            match next {
                Some((len, start)) => {
                    at = start;
                    skip = Skip {
                        words: skip.words - 1,
                        bytes: len + 2,
                    };
                }
                None if at == 0 => return Ok(None),
                None => return Ok(Some((at, None))),
            }
        }
    }
}

/// The length of the word whose header stands at `at`, and where its bytes begin.
fn word(input: &[u8], at: usize) -> Result<Option<(usize, usize)>, Violation> {
    match input.get(at) {
        None => return Ok(None),
        Some(b'$') => {}
        Some(_) => return Err(Violation("expected '$'")),
    }
    let Some((len, start)) = header(input, at, "invalid bulk length")? else {
        return Ok(None);
    };
    match usize::try_from(len) {
        Ok(len_there) if len <= WORD => Ok(Some((len_there, start))),
        _ => Err(Violation("invalid bulk length")),
    }
}

/// The number in the header at `at`, and where the next line begins.
fn header(input: &[u8], at: usize, wrong: &'static str) -> Result<Option<(i64, usize)>, Violation> {
    let line = &input[at + 1..input.len().min(at + HEADER)];
    let Some(end) = line.iter().position(|byte| *byte == b'\r') else {
        return match line.len() == HEADER - 1 {
            true => Err(Violation(wrong)),
            false => Ok(None),
        };
    };
    let next = at + 1 + end + 2;
    match input.get(next - 1) {
        None => return Ok(None),
        Some(b'\n') => {}
        Some(_) => return Err(Violation(wrong)),
    }
    let (negative, digits) = match line[..end].strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, &line[..end]),
    };
    if digits.is_empty() || digits.len() > 18 || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Violation(wrong));
    }
    let number = digits
        .iter()
        .fold(0, |number, digit| number * 10 + i64::from(digit - b'0'));
    Ok(Some((if negative { -number } else { number }, next)))
}

/// A line of words between spaces.
fn inline(
    input: &[u8],
    words: &mut Vec<Range<usize>>,
) -> Result<Option<(usize, Option<Event>)>, Violation> {
    let line = &input[..input.len().min(LINE)];
    let Some(end) = line.iter().position(|byte| *byte == b'\n') else {
        return match line.len() == LINE {
            true => Err(Violation("too big inline request")),
            false => Ok(None),
        };
    };
    let mut start = 0;
    for (at, byte) in line[..=end].iter().enumerate() {
        if byte.is_ascii_whitespace() {
            if start < at {
                words.push(start..at);
            }
            start = at + 1;
        }
    }
    let event = match words.is_empty() {
        true => Event::Nothing,
        false => Event::Request,
    };
    Ok(Some((end + 1, Some(event))))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All events of some bytes that arrive in pieces of `step`.
    fn events(input: &[u8], step: usize, limit: usize) -> Result<Vec<Vec<Vec<u8>>>, Violation> {
        let mut decoder = Decoder::new(limit);
        let (mut buffer, mut words, mut all) = (Vec::new(), Vec::new(), Vec::new());
        for piece in input.chunks(step) {
            buffer.extend_from_slice(piece);
            while let Some((used, event)) = decoder.next(&buffer, &mut words)? {
                let texts = words
                    .iter()
                    .map(|word| buffer[word.clone()].to_vec())
                    .collect();
                match event {
                    Some(Event::Request) => all.push(texts),
                    Some(Event::TooLarge) => all.push(vec![b"too large".to_vec()]),
                    Some(Event::Nothing) | None => {}
                }
                buffer.drain(..used);
            }
            assert!(
                buffer.len() <= limit + HEADER,
                "what is too large is not collected"
            );
        }
        Ok(all)
    }

    #[test]
    fn requests_arrive_in_any_pieces() {
        let input =
            b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n*0\r\n*1\r\n$4\r\nPING\r\n\r\nSET  a b\r\n*-1\r\n\
                      *2\r\n$4\r\nECHO\r\n$0\r\n\r\nquit\n";
        let words = |line: &str| {
            line.split(' ')
                .map(|word| word.as_bytes().to_vec())
                .collect()
        };
        let expected: Vec<Vec<Vec<u8>>> = ["GET a", "PING", "SET a b", "ECHO ", "quit"]
            .map(words)
            .into();
        for step in 1..=input.len() {
            assert_eq!(events(input, step, 1_000).as_ref(), Ok(&expected), "{step}");
        }
    }

    #[test]
    fn a_request_that_is_too_large_is_passed_over() {
        let long = "x".repeat(500);
        let input = format!(
            "*3\r\n$3\r\nSET\r\n$1\r\na\r\n$500\r\n{long}\r\n*1\r\n$4\r\nPING\r\n\
             *3\r\n$500\r\n{long}\r\n$0\r\n\r\n$2\r\nhi\r\nPING\r\n"
        );
        for step in [1, 2, 7, 100, 10_000] {
            let all = events(input.as_bytes(), step, 100).expect("no violation");
            let names: Vec<&[u8]> = all.iter().map(|words| words[0].as_slice()).collect();
            assert_eq!(
                names,
                [&b"too large"[..], b"PING", b"too large", b"PING"],
                "{step}"
            );
        }
    }

    #[test]
    fn violations_are_told_as_soon_as_they_are_seen() {
        let cases = [
            ("*1048577\r\n", "invalid multibulk length"),
            ("*x\r\n", "invalid multibulk length"),
            ("*\r\n", "invalid multibulk length"),
            (
                "*11111111111111111111111111111111",
                "invalid multibulk length",
            ),
            ("*1\rx", "invalid multibulk length"),
            ("*1\r\nx", "expected '$'"),
            ("*1\r\n$-1\r\n", "invalid bulk length"),
            ("*1\r\n$536870913\r\n", "invalid bulk length"),
            ("*1\r\n$1\r\nabc", "expected the end of a bulk string"),
        ];
        for (input, message) in cases {
            assert_eq!(
                events(input.as_bytes(), 1, 100),
                Err(Violation(message)),
                "{input}"
            );
        }
        let endless = vec![b'a'; LINE];
        assert!(events(&endless, 1_000, LINE).is_err());
    }
}
