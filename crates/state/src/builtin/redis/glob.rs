//! Patterns of `KEYS` and `SCAN`: `*`, `?`, `[a-z]`, `[^a]`, and `\` before a plain character.

/// Whether `text` matches `pattern`. Takes at most about `pattern * text` steps: after a `*`
/// that was followed by a mismatch only the newest `*` is tried again.
pub(super) fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    loop {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p + 1, t));
            p += 1;
            continue;
        }
        let step = match text.get(t) {
            None if p >= pattern.len() => return true,
            None => return false,
            Some(&byte) => one(&pattern[p..], byte),
        };
        match (step, star) {
            (Some(len), _) => (p, t) = (p + len, t + 1),
            (None, Some((after, from))) => {
                star = Some((after, from + 1));
                (p, t) = (after, from + 1);
            }
            (None, None) => return false,
        }
    }
}

/// Matches one character: how long the pattern's part for it is.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match *pattern {
        [] => None,
        [b'?', ..] => Some(1),
        [b'[', ..] => {
            let (found, len) = class(pattern, byte);
            found.then_some(len)
        }
        [b'\\', plain, ..] => (plain == byte).then_some(2),
        [plain, ..] => (plain == byte).then_some(1),
    }
}

/// A class such as `[^a-c\]x]`: whether it has the character, and how long it is. One that does not
/// end goes on to the pattern's end.
fn class(pattern: &[u8], byte: u8) -> (bool, usize) {
    let mut at = 1;
    let negated = pattern.get(at) == Some(&b'^');
    at += usize::from(negated);
    let mut found = false;
    loop {
        match pattern[at.min(pattern.len())..] {
            [] => return (found != negated, pattern.len()),
            [b'\\', plain, ..] => {
                found |= plain == byte;
                at += 2;
            }
            [b']', ..] => return (found != negated, at + 1),
            [a, b'-', b, ..] => {
                found |= (a.min(b)..=a.max(b)).contains(&byte);
                at += 3;
            }
            [plain, ..] => {
                found |= plain == byte;
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_redis_documents_them() {
        let cases: &[(&str, &str, bool)] = &[
            ("h?llo", "hello", true),
            ("h?llo", "hllo", false),
            ("h*llo", "heeeello", true),
            ("h*llo", "hllo", true),
            ("h[ae]llo", "hillo", false),
            ("h[^e]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-b]llo", "hbllo", true),
            ("h[b-a]llo", "hallo", true),
            ("h\\*llo", "h*llo", true),
            ("h\\*llo", "hxllo", false),
            ("[\\]]", "]", true),
            ("*", "", true),
            ("**a*", "bca", true),
            ("", "", true),
            ("", "a", false),
            ("a[bc", "ab", true),
            ("*a*b", "xaxbxab", true),
            ("*a*b", "xaxbxa", false),
        ];
        for (pattern, text, expected) in cases {
            let matched = matches(pattern.as_bytes(), text.as_bytes());
            assert_eq!(matched, *expected, "{pattern} {text}");
        }
    }

    #[test]
    fn a_hostile_pattern_ends_soon() {
        let text = [b'a'; 2_000];
        let pattern = b"*a".repeat(200);
        assert!(!matches(&[&pattern[..], b"b"].concat(), &text));
    }
}
