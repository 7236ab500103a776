//! Numbers as Redis reads them: one spelling each.

use super::Fault;

/// The integer a string spells in its only way: no `+`, no leading zeros, no spaces.
pub(super) fn parse(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let canonical = match digits {
        [] => false,
        [b'0', rest @ ..] => rest.is_empty() && digits.len() == text.len(),
        _ => digits.len() <= 19,
    };
    if !canonical {
        return None;
    }
    let mut number = 0i64;
    for digit in digits {
        let value = i64::from(digit.wrapping_sub(b'0'));
        if value > 9 {
            return None;
        }
        // Downwards: the lowest number has no positive counterpart.
        number = number.checked_mul(10)?.checked_sub(value)?;
    }
    if digits.len() == text.len() {
        number.checked_neg()
    } else {
        Some(number)
    }
}

/// The same of an argument.
pub(super) fn integer(text: &[u8]) -> Result<i64, Fault> {
    parse(text).ok_or(Fault::NOT_AN_INTEGER)
}

/// The elements `from ..= to` of `len`, where negative numbers count from the end; `None`: none.
pub(super) fn range(from: i64, to: i64, len: u64) -> Option<(u64, u64)> {
    let len = i64::try_from(len).unwrap_or(i64::MAX);
    let absolute = |at: i64| if at < 0 { at.saturating_add(len) } else { at };
    let (from, to) = (absolute(from).max(0), absolute(to).min(len - 1));
    (from <= to).then(|| (from.cast_unsigned(), to.cast_unsigned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn integers_have_one_spelling() {
        for number in [0, 1, -1, 10, i64::MAX, i64::MIN, i64::MIN + 1] {
            assert_eq!(parse(number.to_string().as_bytes()), Some(number));
        }
        let wrong = [
            "",
            "-",
            "+1",
            "01",
            "-0",
            " 1",
            "1 ",
            "1a",
            "9223372036854775808",
            "-9223372036854775809",
            "99999999999999999999",
            "0x1",
            "1.0",
        ];
        for text in wrong {
            assert_eq!(parse(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn ranges_count_from_both_ends() {
        assert_eq!(range(0, -1, 3), Some((0, 2)));
        assert_eq!(range(-2, 9, 3), Some((1, 2)));
        assert_eq!(range(-9, -9, 3), None);
        assert_eq!(range(0, -1, 0), None);
        assert_eq!(range(i64::MIN, i64::MAX, 1), Some((0, 0)));
    }
}
