//! Decimal fractions: what `INCRBYFLOAT` adds. A replicated procedure has no floating point, and
//! need not miss it: decimals are added exactly, where Redis rounds to the nearest binary fraction
//! and says 17 places of it.

use alloc::vec::Vec;
use core::time::Duration;

/// Places after the point.
const PLACES: usize = 17;
const ONE: i128 = 10i128.pow(PLACES as u32);
/// Exponents beyond this are never needed: no number is so large or so small.
const EXPONENT: i32 = 60;

/// A number of at most 17 places, below 10^21.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Decimal(i128);

impl Decimal {
    pub(super) const ZERO: Self = Self(0);

    /// Reads `12`, `-1.5`, `+.5`, `2.5e-3`; what is beyond the last place is rounded.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let (negative, rest) = match text {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            rest => (false, rest),
        };
        let at = |wanted: &[u8]| rest.iter().position(|byte| wanted.contains(byte));
        let (digits, exponent) = match at(b"eE") {
            Some(e) => (&rest[..e], exponent(&rest[e + 1..])?),
            None => (rest, 0),
        };
        let (whole, places) = match digits.iter().position(|byte| *byte == b'.') {
            Some(point) => (&digits[..point], &digits[point + 1..]),
            None => (digits, &[][..]),
        };
        let all = || whole.iter().chain(places);
        if all().next().is_none() || !all().all(u8::is_ascii_digit) {
            return None;
        }
        // How many digits are before the point once the exponent has moved it.
        let before = i64::try_from(whole.len()).ok()? + i64::from(exponent);
        let wanted = before + PLACES as i64;
        let mut number = 0i128;
        let digits = all().map(|digit| i128::from(digit - b'0'));
        for (place, digit) in (0i64..).zip(digits) {
            if place < wanted {
                number = number.checked_mul(10)?.checked_add(digit)?;
            } else if place == wanted {
                number += i128::from(digit >= 5);
            } else {
                break;
            }
        }
        for _ in all().count() as i64..wanted {
            if number == 0 {
                break;
            }
            number = number.checked_mul(10)?;
        }
        Some(Self(if negative { -number } else { number }))
    }

    pub(super) fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    /// As a span of so many seconds, if it is one.
    pub(super) fn seconds(self) -> Option<Duration> {
        let nanos = u64::try_from(self.0 / (ONE / 1_000_000_000)).ok()?;
        Some(Duration::from_nanos(nanos))
    }

    /// Whether it is below zero.
    pub(super) const fn is_negative(self) -> bool {
        self.0 < 0
    }

    /// Its shortest spelling.
    pub(super) fn text(self) -> Vec<u8> {
        let mut text = Vec::new();
        let number = self.0.unsigned_abs();
        if self.0 < 0 {
            text.push(b'-');
        }
        let one = ONE.unsigned_abs();
        text.extend_from_slice(itoa::Buffer::new().format(number / one).as_bytes());
        let mut rest = number % one;
        if rest > 0 {
            text.push(b'.');
        }
        let mut unit = one / 10;
        while rest > 0 {
            text.push(b'0' + u8::try_from(rest / unit).expect("a digit"));
            rest %= unit;
            unit /= 10;
        }
        text
    }
}

fn exponent(text: &[u8]) -> Option<i32> {
    let text = core::str::from_utf8(text).ok()?;
    let exponent: i32 = text.parse().ok()?;
    Some(exponent.clamp(-EXPONENT, EXPONENT))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::String;

    fn read(text: &str) -> Option<String> {
        let text = Decimal::parse(text.as_bytes())?.text();
        Some(String::from_utf8(text).expect("digits"))
    }

    #[test]
    fn decimals_are_read_and_written() {
        let all = [
            ("0", "0"),
            ("-0", "0"),
            ("12", "12"),
            ("+1.50", "1.5"),
            (".5", "0.5"),
            ("5.", "5"),
            ("-0.00000000000000001", "-0.00000000000000001"),
            ("0.000000000000000005", "0.00000000000000001"),
            ("0.000000000000000004", "0"),
            ("2.5e-3", "0.0025"),
            ("25E+2", "2500"),
            ("0e999999999", "0"),
            ("1e-2147483647", "0"),
            ("100000000000000000000", "100000000000000000000"),
            ("00012.3400", "12.34"),
        ];
        for (text, spelled) in all {
            assert_eq!(read(text).as_deref(), Some(spelled), "{text}");
        }
        let wrong = [
            "",
            "+",
            "-",
            ".",
            "e5",
            "1e",
            "1e1.5",
            "1 ",
            " 1",
            "1,5",
            "0x10",
            "inf",
            "nan",
            "1e60",
            "--1",
            "1.2.3",
            "10000000000000000000000",
        ];
        for text in wrong {
            assert_eq!(read(text), None, "{text:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn sums_are_those_of_integers(a in -1_000_000_000_000i64..1_000_000_000_000, b in -1_000_000_000_000i64..1_000_000_000_000, places in 0..9u32) {
            let scaled = |n: i64| Decimal::parse(alloc::format!("{n}e-{places}").as_bytes()).expect("small");
            let sum = scaled(a).checked_add(scaled(b)).expect("small");
            proptest::prop_assert_eq!(sum, scaled(a + b));
            proptest::prop_assert_eq!(Decimal::parse(&sum.text()), Some(sum));
        }

        #[test]
        fn arbitrary_text_never_panics(text in "[-+0-9.eE]{0,60}") {
            if let Some(number) = Decimal::parse(text.as_bytes()) {
                proptest::prop_assert_eq!(Decimal::parse(&number.text()), Some(number));
            }
        }
    }
}
