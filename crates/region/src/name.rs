//! Names of regions: `/deployment/node/process/region`.

use std::fmt;
use std::str::FromStr;

use crate::layout::NAME_MAX;

/// Parts a name may have.
const PARTS_MAX: usize = 8;
/// Bytes a part may have.
const PART_MAX: usize = 63;

const _: () = assert!(NAME_MAX <= 256);

/// A region's name: one to eight parts, each after a slash, of letters, digits, `.`, `_`
/// and `-`. `/deployment/node/process/region` is the custom; whoever reads by prefix
/// (`/edge/gw1`) then gets what belongs together.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Name(String);

/// Why a text is not a name.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{text:?} is not a region's name: {why}; write it as /deployment/node/process/region")]
pub struct WrongName {
    text: String,
    why: &'static str,
}

impl Name {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is `prefix`, or below it.
    pub fn is_below(&self, prefix: &str) -> bool {
        let prefix = prefix.trim_end_matches('/');
        let rest = self.0.strip_prefix(prefix);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl FromStr for Name {
    type Err = WrongName;

    fn from_str(text: &str) -> Result<Self, WrongName> {
        let wrong = |why| {
            Err(WrongName {
                text: text.chars().take(NAME_MAX).collect(),
                why,
            })
        };
        let Some(parts) = text.strip_prefix('/') else {
            return wrong("it does not begin with a slash");
        };
        if text.len() >= NAME_MAX {
            return wrong("it has more than 255 bytes");
        }
        let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        for (number, part) in parts.split('/').enumerate() {
            if part.is_empty() {
                return wrong("a part is empty");
            }
            if part.len() > PART_MAX {
                return wrong("a part has more than 63 bytes");
            }
            if !part.chars().all(known) {
                return wrong("a part has other characters than letters, digits, . _ -");
            }
            if number >= PARTS_MAX {
                return wrong("it has more than eight parts");
            }
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_paths_of_plain_parts() {
        let name: Name = "/edge/gw1/nat.2/ports_used-v1".parse().unwrap();
        assert_eq!(name.to_string(), "/edge/gw1/nat.2/ports_used-v1");
        for prefix in ["", "/", "/edge", "/edge/", "/edge/gw1/nat.2/ports_used-v1"] {
            assert!(name.is_below(prefix), "{prefix}");
        }
        for prefix in [
            "/edg",
            "/edge/gw",
            "edge",
            "/edge/gw1/nat.2/ports_used-v1/x",
        ] {
            assert!(!name.is_below(prefix), "{prefix}");
        }
        for (text, why) in [
            ("edge".to_owned(), "slash"),
            ("/".to_owned(), "empty"),
            ("/a//b".to_owned(), "empty"),
            ("/a/".to_owned(), "empty"),
            ("/a b".to_owned(), "characters"),
            ("/../ü".to_owned(), "characters"),
            (format!("/{}", "a".repeat(64)), "63 bytes"),
            ("/a".repeat(9), "eight parts"),
            (format!("/{}", "a".repeat(300)), "255 bytes"),
        ] {
            let error = text.parse::<Name>().unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
