//! Replies: those the front end gives itself, and the store's in the form a connection asked for.

/// What a connection speaks.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) enum Protocol {
    /// As every Redis since 1.2.
    #[default]
    Resp2,
    /// After `HELLO 3`.
    Resp3,
}

impl Protocol {
    /// Its number in `HELLO`.
    pub(super) fn number(self) -> i64 {
        match self {
            Self::Resp2 => 2,
            Self::Resp3 => 3,
        }
    }
}

fn number(kind: u8, number: i64, out: &mut Vec<u8>) {
    out.push(kind);
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// A simple string.
pub(super) fn status(text: &str, out: &mut Vec<u8>) {
    out.push(b'+');
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// An error. What a client sent may be in it, so control characters become spaces.
pub(super) fn error(text: &str, out: &mut Vec<u8>) {
    out.push(b'-');
    let plain = |byte: u8| if byte.is_ascii_control() { b' ' } else { byte };
    out.extend(text.bytes().map(plain));
    out.extend_from_slice(b"\r\n");
}

/// An integer.
pub(super) fn int(value: i64, out: &mut Vec<u8>) {
    number(b':', value, out);
}

/// A string of any bytes.
pub(super) fn bulk(bytes: &[u8], out: &mut Vec<u8>) {
    number(b'$', bytes.len() as i64, out);
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// Text: of RESP3 one that tells what it is.
pub(super) fn text(protocol: Protocol, text: &str, out: &mut Vec<u8>) {
    if protocol == Protocol::Resp2 {
        return bulk(text.as_bytes(), out);
    }
    number(b'=', text.len() as i64 + 4, out);
    out.extend_from_slice(b"txt:");
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Nothing.
pub(super) fn nil(protocol: Protocol, out: &mut Vec<u8>) {
    out.extend_from_slice(match protocol {
        Protocol::Resp2 => b"$-1\r\n",
        Protocol::Resp3 => b"_\r\n",
    });
}

/// Nothing where an array might be.
pub(super) fn nil_array(protocol: Protocol, out: &mut Vec<u8>) {
    out.extend_from_slice(match protocol {
        Protocol::Resp2 => b"*-1\r\n",
        Protocol::Resp3 => b"_\r\n",
    });
}

/// The beginning of an array.
pub(super) fn array(len: usize, out: &mut Vec<u8>) {
    number(b'*', len as i64, out);
}

/// The beginning of pairs.
pub(super) fn map(protocol: Protocol, pairs: usize, out: &mut Vec<u8>) {
    match protocol {
        Protocol::Resp2 => array(pairs * 2, out),
        Protocol::Resp3 => number(b'%', pairs as i64, out),
    }
}

/// Moves one of the store's replies from the beginning of `said`, which is RESP3 but for null
/// arrays, to `out` in the connection's form. `None` if it is malformed.
pub(super) fn forward(protocol: Protocol, said: &mut &[u8], out: &mut Vec<u8>) -> Option<()> {
    let mut values = 1usize;
    while values > 0 {
        values -= 1;
        let end = said.iter().position(|byte| *byte == b'\r')?;
        let (line, rest) = said.split_at_checked(end + 2)?;
        *said = rest;
        let (kind, count) = (*line.first()?, line.get(1..end)?);
        match kind {
            b'+' | b'-' | b':' => out.extend_from_slice(line),
            b'_' => nil(protocol, out),
            b'$' => {
                let (bytes, rest) = said.split_at_checked(parse(count)? + 2)?;
                out.extend_from_slice(line);
                out.extend_from_slice(bytes);
                *said = rest;
            }
            b'*' if count == b"-1" => nil_array(protocol, out),
            b'*' => {
                values += parse(count)?;
                out.extend_from_slice(line);
            }
            b'%' => {
                let pairs = parse(count)?;
                values += pairs * 2;
                map(protocol, pairs, out);
            }
            b'~' => {
                values += parse(count)?;
                out.push(if protocol == Protocol::Resp2 {
                    b'*'
                } else {
                    b'~'
                });
                out.extend_from_slice(&line[1..]);
            }
            _ => return None,
        }
    }
    Some(())
}

/// A count below 2^31.
fn parse(digits: &[u8]) -> Option<usize> {
    if digits.is_empty() || digits.len() > 9 {
        return None;
    }
    digits.iter().try_fold(0, |number, digit| {
        let value = digit.wrapping_sub(b'0');
        (value <= 9).then(|| number * 10 + usize::from(value))
    })
}

/// Takes an array of strings that the store said.
pub(super) fn strings(said: &mut &[u8]) -> Option<Vec<Vec<u8>>> {
    let count = header(said, b'*')?;
    let mut all = Vec::new();
    for _ in 0..count {
        let len = header(said, b'$')?;
        let (string, rest) = said.split_at_checked(len + 2)?;
        all.push(string[..len].to_vec());
        *said = rest;
    }
    Some(all)
}

/// Takes a line that says how many or how long.
fn header(said: &mut &[u8], kind: u8) -> Option<usize> {
    let end = said.iter().position(|byte| *byte == b'\r')?;
    let (line, rest) = said.split_at_checked(end + 2)?;
    *said = rest;
    parse(line[..end].strip_prefix(&[kind])?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(protocol: Protocol, mut said: &[u8]) -> String {
        let mut out = Vec::new();
        while !said.is_empty() {
            forward(protocol, &mut said, &mut out).expect("well formed");
        }
        String::from_utf8(out).expect("ASCII")
    }

    #[test]
    fn replies_take_the_form_asked_for() {
        let said =
            "+OK\r\n$2\r\n\r\n\r\n%1\r\n+a\r\n~2\r\n:1\r\n_\r\n*-1\r\n*2\r\n*0\r\n-ERR x\r\n";
        let resp3 = "+OK\r\n$2\r\n\r\n\r\n%1\r\n+a\r\n~2\r\n:1\r\n_\r\n_\r\n*2\r\n*0\r\n-ERR x\r\n";
        let resp2 =
            "+OK\r\n$2\r\n\r\n\r\n*2\r\n+a\r\n*2\r\n:1\r\n$-1\r\n*-1\r\n*2\r\n*0\r\n-ERR x\r\n";
        assert_eq!(all(Protocol::Resp3, said.as_bytes()), resp3);
        assert_eq!(all(Protocol::Resp2, said.as_bytes()), resp2);
        for cut in 0..said.len() {
            // Whatever was cut is never read past its end.
            let mut said = &said.as_bytes()[..cut];
            while forward(Protocol::Resp2, &mut said, &mut Vec::new()).is_some() {}
        }
    }

    #[test]
    fn strings_of_an_array_are_taken() {
        let mut said = &b"*2\r\n$1\r\na\r\n$0\r\n\r\n+rest\r\n"[..];
        assert_eq!(strings(&mut said), Some(vec![b"a".to_vec(), Vec::new()]));
        assert_eq!(said, b"+rest\r\n");
        assert_eq!(strings(&mut &b"*2\r\n$1\r\na\r\n$9\r\n\r\n"[..]), None);
    }

    #[test]
    fn an_error_is_one_line() {
        let mut out = Vec::new();
        error("ERR a\r\n+OK", &mut out);
        assert_eq!(out, b"-ERR a  +OK\r\n");
    }
}
