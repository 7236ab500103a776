//! Single values: durations, addresses, prefixes, ranges, names, keys.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::RangeInclusive;
use std::time::Duration;

use toml::de::DeValue;

use super::section::{Parsed, Wrong, closest, kind};
use super::{AddressRange, Key, Prefix};

/// Ports are handed to instances in aligned blocks of this many.
pub(super) const BLOCK: u16 = 256;

pub(super) fn string(value: &DeValue<'_>) -> Parsed<String> {
    match value {
        DeValue::String(text) => Ok(text.to_string()),
        other => Err(Wrong::new(
            format!("expected a string, found {}", kind(other)),
            "put it in double quotes",
        )),
    }
}

/// Yes or no.
pub(super) fn boolean(value: &DeValue<'_>) -> Parsed<bool> {
    match value {
        DeValue::Boolean(answer) => Ok(*answer),
        other => Err(Wrong::new(
            format!("expected true or false, found {}", kind(other)),
            "write it without quotes",
        )),
    }
}

/// An integer in `range`.
pub(super) fn integer(range: RangeInclusive<u64>) -> impl Fn(&DeValue<'_>) -> Parsed<u64> {
    move |value| {
        let expected = format!(
            "expected an integer from {} to {}",
            range.start(),
            range.end()
        );
        let DeValue::Integer(number) = value else {
            return Err(Wrong::new(format!("{expected}, found {}", kind(value)), ""));
        };
        u64::from_str_radix(number.as_str(), number.radix())
            .ok()
            .filter(|n| range.contains(n))
            .ok_or_else(|| Wrong::new(format!("{expected}, found {number}"), ""))
    }
}

/// A whole number of milliseconds in `range`.
pub(super) fn millis(range: RangeInclusive<u64>) -> impl Fn(&DeValue<'_>) -> Parsed<Duration> {
    let integer = integer(range);
    move |value| integer(value).map(Duration::from_millis)
}

/// A duration such as `"200ms"`, `"30s"`, `"5m"` or `"2h4m"`, from 1 s to 7 days.
pub(super) fn timeout(value: &DeValue<'_>) -> Parsed<Duration> {
    let help = "write a number with a unit, e.g. \"300s\", \"5m\", \"2h4m\"";
    let DeValue::String(text) = value else {
        let found = kind(value);
        return Err(Wrong::new(
            format!("expected a duration, found {found}"),
            help,
        ));
    };
    let span = duration(text)
        .ok_or_else(|| Wrong::new(format!("expected a duration, found \"{text}\""), help))?;
    let allowed = Duration::from_secs(1)..=Duration::from_secs(7 * 86_400);
    if allowed.contains(&span) {
        Ok(span)
    } else {
        Err(Wrong::new(
            format!("expected a duration from 1s to 7d, found \"{text}\""),
            "",
        ))
    }
}

/// Numbers with units, largest unit first or not: `1h30m`.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        let millis = match &rest[..unit] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        total = total.checked_add(Duration::from_millis(number.checked_mul(millis)?))?;
        rest = &rest[unit..];
    }
    (!text.is_empty()).then_some(total)
}

/// One of a few words.
pub(super) fn word<T: Copy>(words: &[(&str, T)]) -> impl Fn(&DeValue<'_>) -> Parsed<T> {
    let words: Vec<(String, T)> = words.iter().map(|(w, t)| ((*w).to_owned(), *t)).collect();
    move |value| {
        let text = string(value)?;
        if let Some((_, meant)) = words.iter().find(|(w, _)| *w == text) {
            return Ok(*meant);
        }
        let names: Vec<&str> = words.iter().map(|(w, _)| w.as_str()).collect();
        let help = closest(&text, names.iter().copied())
            .map(|near| format!("did you mean \"{near}\"?"))
            .unwrap_or_default();
        let quoted: Vec<String> = names.iter().map(|w| format!("\"{w}\"")).collect();
        Err(Wrong::new(
            format!("expected one of {}, found \"{text}\"", quoted.join(", ")),
            help,
        ))
    }
}

/// `address:port` that another node can reach.
pub(super) fn socket(value: &DeValue<'_>) -> Parsed<SocketAddrV4> {
    let text = string(value)?;
    let expected = format!("expected IPv4-ADDRESS:PORT, found \"{text}\"");
    let address: SocketAddrV4 = text
        .parse()
        .map_err(|_| Wrong::new(expected.clone(), "for example \"10.9.0.11:7400\""))?;
    let unusable =
        address.ip().is_unspecified() || address.ip().is_multicast() || address.ip().is_broadcast();
    if unusable || address.port() == 0 {
        let help = "other nodes send to this address: give a real one and a port that is not 0";
        return Err(Wrong::new(expected, help));
    }
    Ok(address)
}

/// `group:port` of IP multicast.
pub(super) fn group(value: &DeValue<'_>) -> Parsed<SocketAddrV4> {
    let text = string(value)?;
    let group = text.parse::<SocketAddrV4>().ok();
    group
        .filter(|group| group.ip().is_multicast() && group.port() != 0)
        .ok_or_else(|| {
            let message = format!("expected MULTICAST-ADDRESS:PORT, found \"{text}\"");
            let help = "239.192.0.0/14 is for an organisation's own groups (RFC 2365): \
                        for example \"239.192.7.1:7900\"";
            Wrong::new(message, help)
        })
}

/// `a.b.c.d/len` without host bits.
pub(super) fn prefix(value: &DeValue<'_>) -> Parsed<Prefix> {
    let text = string(value)?;
    let wrong = || {
        Wrong::new(
            format!("expected an IPv4 prefix, found \"{text}\""),
            "for example \"10.0.0.0/16\"",
        )
    };
    let (addr, len) = text.split_once('/').ok_or_else(wrong)?;
    let addr: Ipv4Addr = addr.parse().map_err(|_| wrong())?;
    let len: u8 = len
        .parse()
        .ok()
        .filter(|len| *len <= 32)
        .ok_or_else(wrong)?;
    let prefix = Prefix::new(addr, len);
    if prefix.first() != addr {
        return Err(Wrong::new(
            format!("expected a prefix without host bits, found \"{text}\""),
            format!("did you mean \"{prefix}\"?"),
        ));
    }
    Ok(prefix)
}

/// `a`, `a-b` or `a/len`.
pub(super) fn addresses(value: &DeValue<'_>) -> Parsed<AddressRange> {
    let text = string(value)?;
    if text.contains('/') {
        let prefix = prefix(value)?;
        return Ok(AddressRange {
            first: prefix.first(),
            last: prefix.last(),
        });
    }
    let (first, last) = text.split_once('-').unwrap_or((&text, &text));
    let parse = |part: &str| {
        part.trim().parse::<Ipv4Addr>().map_err(|_| {
            Wrong::new(
                format!("expected an IPv4 address, range or prefix, found \"{text}\""),
                "for example \"198.51.100.1-198.51.100.16\"",
            )
        })
    };
    let range = AddressRange {
        first: parse(first)?,
        last: parse(last)?,
    };
    if range.first > range.last {
        let help = format!("did you mean \"{}-{}\"?", range.last, range.first);
        return Err(Wrong::new("expected the lower address first", help));
    }
    Ok(range)
}

/// `first-last`, in whole port blocks.
pub(super) fn ports(value: &DeValue<'_>) -> Parsed<RangeInclusive<u16>> {
    let text = string(value)?;
    let wrong = || {
        let found = format!("expected a port range FIRST-LAST, found \"{text}\"");
        Wrong::new(found, "for example \"1024-65535\"")
    };
    let (first, last) = text.split_once('-').ok_or_else(wrong)?;
    let first: u16 = first.trim().parse().map_err(|_| wrong())?;
    let last: u16 = last.trim().parse().map_err(|_| wrong())?;
    if first > last {
        return Err(wrong());
    }
    if first < BLOCK || !first.is_multiple_of(BLOCK) || last % BLOCK != BLOCK - 1 {
        let low = (first / BLOCK).max(1) * BLOCK;
        let high = last - last % BLOCK + (BLOCK - 1);
        return Err(Wrong::new(
            format!(
                "expected whole blocks of {BLOCK} ports above {}, found \"{text}\"",
                BLOCK - 1
            ),
            format!(
                "the nearest range that fits is \"{low}-{}\"",
                high.max(low + (BLOCK - 1))
            ),
        ));
    }
    Ok(first..=last)
}

/// A network interface's name.
pub(super) fn interface(value: &DeValue<'_>) -> Parsed<String> {
    let text = string(value)?;
    let valid = (1..=15).contains(&text.len())
        && text != "."
        && text != ".."
        && text
            .chars()
            .all(|c| c.is_ascii_graphic() && c != '/' && c != ':');
    if valid {
        Ok(text)
    } else {
        let found = format!("expected an interface name, found \"{text}\"");
        Err(Wrong::new(
            found,
            "1 to 15 printable characters; `ip link` lists them",
        ))
    }
}

/// Names become file names and appear in tables: letters, digits, `-`, `_`.
pub(super) fn is_name(text: &str) -> bool {
    (1..=32).contains(&text.len())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
        && !text.starts_with('-')
}

pub(super) fn name(value: &DeValue<'_>) -> Parsed<String> {
    let text = string(value)?;
    if is_name(&text) {
        return Ok(text);
    }
    let found = format!("expected a name, found \"{text}\"");
    Err(Wrong::new(found, "1 to 32 letters, digits, `-` or `_`"))
}

/// 32 hexadecimal digits.
pub(super) fn key(text: &str) -> Parsed<Key> {
    // The text is a secret: the message must not repeat it.
    let wrong = || {
        Wrong::new(
            format!(
                "expected 32 hexadecimal digits (16 bytes), found {} characters",
                text.len()
            ),
            "make one with `openssl rand -hex 16`",
        )
    };
    if text.len() != 32 || !text.is_ascii() {
        return Err(wrong());
    }
    let mut bytes = [0; 16];
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digit = |d: u8| char::from(d).to_digit(16).ok_or_else(wrong);
        *byte = (digit(digits[0])? << 4 | digit(digits[1])?) as u8;
    }
    Ok(Key(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_add_up_their_units() {
        let cases = [
            ("200ms", 200),
            ("5m", 300_000),
            ("2h4m", 7_440_000),
            ("1d", 86_400_000),
            ("90s", 90_000),
        ];
        for (text, ms) in cases {
            assert_eq!(duration(text), Some(Duration::from_millis(ms)), "{text}");
        }
        for text in [
            "",
            "5",
            "m",
            "5 m",
            "5x",
            "-5s",
            "1.5s",
            "99999999999999999999s",
        ] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn the_suggested_port_range_is_itself_accepted() {
        for text in [
            "1-65535",
            "1000-2000",
            "0-255",
            "1024-65000",
            "300-301",
            "65300-65400",
        ] {
            let refused = ports(&DeValue::String(text.into())).expect_err(text);
            let suggestion = refused
                .help
                .split('"')
                .nth(1)
                .expect("quotes a range")
                .to_owned();
            assert!(
                ports(&DeValue::String(suggestion.clone().into())).is_ok(),
                "{suggestion}"
            );
        }
    }

    #[test]
    fn a_refused_key_is_not_repeated() {
        let refused = key("00112233445566778899aabbccddeefg").expect_err("g is no digit");
        assert!(!refused.expected.contains("0011"));
    }
}
