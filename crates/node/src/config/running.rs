//! What a file says, key by key: so that nodes can tell whether they run the same, and where
//! not. Comments, order and layout do not count.

use std::collections::BTreeMap;
use std::hash::Hasher;

use siphasher::sip::SipHasher24;
use toml::{Table, Value};

use super::Key;

/// Keys whose values are never told.
const SECRETS: [&str; 2] = ["key", "password"];

/// The meaning of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Running {
    /// The same of files that say the same.
    pub fingerprint: String,
    /// Every value by the path to it, such as `nat.ports`; of secrets something that only
    /// tells whether they are equal.
    pub values: BTreeMap<String, String>,
}

impl Running {
    /// Of a file that was read without errors; `key`: that of the cluster, which may stand
    /// elsewhere.
    pub(super) fn of(text: &str, key: Key) -> Self {
        let mut values = BTreeMap::new();
        if let Ok(table) = text.parse::<Table>() {
            flatten("", &Value::Table(table), key, &mut values);
        }
        values.insert("cluster.key".to_owned(), secret("key", &key.0, key));
        let mut all = hasher(key);
        for (path, value) in &values {
            for part in [path, value] {
                all.write_u64(part.len() as u64);
                all.write(part.as_bytes());
            }
        }
        Self {
            fingerprint: format!("{:016x}", all.finish()),
            values,
        }
    }
}

fn flatten(path: &str, value: &Value, key: Key, into: &mut BTreeMap<String, String>) {
    match value {
        Value::Table(table) if !table.is_empty() => {
            for (name, value) in table {
                let path = match path {
                    "" => name.clone(),
                    path => format!("{path}.{name}"),
                };
                flatten(&path, value, key, into);
            }
        }
        Value::Array(list) if list.iter().any(Value::is_table) => {
            for (n, value) in list.iter().enumerate() {
                flatten(&format!("{path}[{n}]"), value, key, into);
            }
        }
        value => {
            let last = path.rsplit('.').next().unwrap_or_default();
            let text = value.to_string();
            let text = match SECRETS.contains(&last) {
                true => secret(path, text.as_bytes(), key),
                false => text,
            };
            into.insert(path.to_owned(), text);
        }
    }
}

/// Whoever does not know the cluster's key learns nothing from it, not even by guessing.
fn secret(path: &str, value: &[u8], key: Key) -> String {
    let mut hash = hasher(key);
    hash.write(path.as_bytes());
    hash.write_u8(0);
    hash.write(value);
    format!("secret {:016x}", hash.finish())
}

fn hasher(key: Key) -> SipHasher24 {
    SipHasher24::new_with_key(&key.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = Key([7; 16]);
    const FILE: &str = "# a comment\n[cluster]\nname = \"t\"\nkey = \"0123456789abcdef\"\n\
        [nat]\nports = \"1024-2047\"\nlist = [1, 2]\n\
        [node.sw]\npassword = \"hush\"\ninstances = [ { node = \"gw1\" }, { node = \"gw2\" } ]\n";

    #[test]
    fn layout_does_not_count_and_values_do() {
        let first = Running::of(FILE, KEY);
        let moved = "[nat]\nlist = [ 1,2 ]\nports = '1024-2047' # here\n\
            [node.sw]\npassword = \"hush\"\n[[node.sw.instances]]\nnode = \"gw1\"\n\
            [[node.sw.instances]]\nnode = \"gw2\"\n\
            [cluster]\nkey = \"0123456789abcdef\"\nname = \"t\"\n";
        assert_eq!(Running::of(moved, KEY), first);
        let other = Running::of(&FILE.replace("2047", "4095"), KEY);
        assert_ne!(first.fingerprint, other.fingerprint);
        let differ: Vec<&String> = first
            .values
            .iter()
            .filter(|(path, value)| other.values.get(*path) != Some(value))
            .map(|(path, _)| path)
            .collect();
        assert_eq!(differ, ["nat.ports"]);
        assert_eq!(first.values["node.sw.instances[1].node"], "\"gw2\"");
    }

    #[test]
    fn secrets_are_compared_and_not_told() {
        let first = Running::of(FILE, KEY);
        let text = format!("{first:?}");
        assert!(
            !text.contains("hush") && !text.contains("0123456789abcdef"),
            "{text}"
        );
        let other = Running::of(&FILE.replace("hush", "lush"), KEY);
        assert_ne!(
            first.values["node.sw.password"],
            other.values["node.sw.password"]
        );
        assert_ne!(
            first.fingerprint,
            Running::of(FILE, Key([8; 16])).fingerprint
        );
    }
}
