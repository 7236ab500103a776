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
