//! The front end for clients of Redis.

use std::net::SocketAddr;

use toml::de::DeValue;

use super::problem::Collector;
use super::section::{Parsed, Section, Wrong};
use super::{Resp, values};

/// Keys of a node with this role.
pub(super) const KEYS: [&str; 3] = ["listen", "password", "max-connections"];

/// Connections at once when the file does not say, as Redis has it.
const MAX_CONNECTIONS: usize = 10_000;

/// Reads the keys of a node with this role.
pub(super) fn resp(section: &Section<'_, '_>, out: &mut Collector) -> Option<Resp> {
    let listen = section.required("listen", "\"127.0.0.1:6379\"", out, listen);
    let has_password = section.value("password").is_some();
    let password = section.optional("password", out, password);
    let range = values::integer(1..=1_000_000);
    let most = section.optional("max-connections", out, range);
    let listen = listen?;
    if !has_password && !listen.ip().is_loopback() {
        out.warn(
            &section.path_of("listen"),
            format!("whoever reaches {listen} may read and change everything"),
            "add `password = \"...\"`, or listen on 127.0.0.1",
        );
    }
    Some(Resp {
        listen,
        password: match has_password {
            true => Some(password?),
            false => None,
        },
        max_connections: most.map_or(MAX_CONNECTIONS, |most| most as usize),
    })
}

/// `address:port` to listen at, of IPv4 or IPv6; every address of the machine is allowed.
fn listen(value: &DeValue<'_>) -> Parsed<SocketAddr> {
    let text = values::string(value)?;
    let wrong = || {
        Wrong::new(
            format!("expected ADDRESS:PORT, found \"{text}\""),
            "for example \"127.0.0.1:6379\" or \"[::1]:6379\"",
        )
    };
    let address: SocketAddr = text.parse().map_err(|_| wrong())?;
    match address.port() {
        0 => Err(wrong()),
        _ => Ok(address),
    }
}

/// A password that can be sent. The message must not repeat it.
fn password(value: &DeValue<'_>) -> Parsed<String> {
    let text = values::string(value)?;
    match (1..=512).contains(&text.len()) {
        true => Ok(text),
        false => Err(Wrong::new(
            format!("expected 1 to 512 characters, found {}", text.len()),
            "make one with `openssl rand -hex 32`",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Config, Plain};
    use std::path::Path;

    #[test]
    fn a_front_end_says_where_it_listens_and_who_may_connect() {
        let path = Path::new(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../examples/redis.toml"
        ));
        let (config, warnings) = Config::load(path).unwrap_or_else(|error| panic!("{error}"));
        assert!(warnings.is_empty(), "{}", Plain(&warnings));
        let front = config.nodes["front"].resp.as_ref().expect("a front end");
        assert_eq!((front.listen.port(), front.max_connections), (6379, 10_000));

        let with = |line: &str| {
            let text = std::fs::read_to_string(path).expect("readable");
            let text = text.replace("listen = \"127.0.0.1:6379\"", line);
            Config::parse("redis.toml", &text, Path::new("."))
        };
        let (_, warnings) = with("listen = \"0.0.0.0:6379\"").expect("allowed");
        assert!(
            Plain(&warnings).to_string().contains("password"),
            "{}",
            Plain(&warnings)
        );
        let (config, warnings) =
            with("listen = \"[::]:6379\"\npassword = \"sesame\"").expect("allowed");
        assert!(warnings.is_empty(), "{}", Plain(&warnings));
        assert!(
            !format!("{config:?}").contains("sesame"),
            "a password is not shown"
        );
        for wrong in ["", "listen = \"6379\"", "listen = \"127.0.0.1:0\""] {
            let refused = with(wrong).expect_err(wrong).to_string();
            assert!(refused.contains("node.front.listen"), "{refused}");
        }
    }
}
