//! What an interface does with frames of XDP programs: the kernel's generic netlink family
//! `netdev` (Linux 6.3; Documentation/netlink/specs/netdev.yaml).

use std::io;

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

/// Bytes of a message before its attributes: netlink header and generic header.
const HEADERS: usize = 20;
/// `NLMSG_ERROR`: the type of a refusal, which carries a negative error number.
const REFUSED: u16 = 2;
/// `NLM_F_REQUEST`.
const REQUEST: u16 = 1;

/// A command of a family, and the attributes of its question and answer.
struct Command {
    family: u16,
    number: u8,
    asks_by: u16,
    answers_in: u16,
}

/// `GENL_ID_CTRL`, `CTRL_CMD_GETFAMILY`: a family's name becomes its number.
const GET_FAMILY: Command = Command {
    family: 0x10,
    number: 3,
    asks_by: 2,
    answers_in: 1,
};

/// `NETDEV_CMD_DEV_GET`: an interface's number becomes its XDP features.
const fn get_features(family: u16) -> Command {
    Command {
        family,
        number: 1,
        asks_by: 1,
        answers_in: 3,
    }
}

/// `NETDEV_XDP_ACT_NDO_XMIT`.
const SENDS_REDIRECTED: u64 = 4;

/// Whether the interface of this number, in the calling thread's network namespace, sends
/// frames that XDP programs redirect to it. `None` where the kernel does not tell.
pub fn sends_redirected(ifindex: u32) -> io::Result<Option<bool>> {
    let family = match ask(&GET_FAMILY, b"netdev\0") {
        Ok(number) => u16::from_ne_bytes([number[0], number[1]]),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let features = ask(&get_features(family), &ifindex.to_ne_bytes())?;
    Ok(Some(u64::from_ne_bytes(features) & SENDS_REDIRECTED != 0))
}

/// Asks the kernel for one number, which comes padded with zeros.
fn ask(command: &Command, value: &[u8]) -> io::Result<[u8; 8]> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(netlink::GENERIC),
    )?;
    send(&socket, &question(command, value), SendFlags::empty())?;
    let mut buffer = [0; 8192];
    // The kernel has answered when `send` returns.
    let (_, len) = recv(&socket, &mut buffer[..], RecvFlags::DONTWAIT)?;
    answer(command, buffer.get(..len).unwrap_or(&buffer))
}

fn question(command: &Command, value: &[u8]) -> Vec<u8> {
    let attribute = 4 + value.len();
    let len = HEADERS + attribute.next_multiple_of(4);
    let mut message = Vec::with_capacity(len);
    message.extend((len as u32).to_ne_bytes());
    message.extend(command.family.to_ne_bytes());
    message.extend(REQUEST.to_ne_bytes());
    message.extend([0; 8]); // sequence number and port
    message.extend([command.number, 1, 0, 0]);
    message.extend((attribute as u16).to_ne_bytes());
    message.extend(command.asks_by.to_ne_bytes());
    message.extend(value);
    message.resize(len, 0);
    message
}

/// The number in an answer, whatever the bytes.
fn answer(command: &Command, message: &[u8]) -> io::Result<[u8; 8]> {
    let short = || io::Error::new(io::ErrorKind::InvalidData, "an odd answer of the kernel");
    let u16_at =
        |bytes: &[u8], at: usize| Some(u16::from_ne_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
    if u16_at(message, 4) == Some(REFUSED) {
        let code = message.get(16..20).and_then(|code| code.try_into().ok());
        let code = code.map(i32::from_ne_bytes).ok_or_else(short)?;
        return Err(io::Error::from_raw_os_error(code.saturating_neg()));
    }
    let mut rest = message.get(HEADERS..).ok_or_else(short)?;
    while let (Some(len), Some(kind)) = (u16_at(rest, 0), u16_at(rest, 2)) {
        let len = usize::from(len);
        let value = rest.get(4..len).ok_or_else(short)?;
        // The upper two bits say how a value is to be read.
        if kind & 0x3fff == command.answers_in {
            let mut number = [0; 8];
            let used = value.len().min(8);
            number[..used].copy_from_slice(&value[..used]);
            return Ok(number);
        }
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Err(short())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_answer_ends(message in proptest::collection::vec(any::<u8>(), 0..80), kind in 0u16..4) {
            let mut message = message;
            if let Some(place) = message.get_mut(4..6) {
                place.copy_from_slice(&kind.to_ne_bytes());
            }
            let _ = answer(&GET_FAMILY, &message);
        }

        #[test]
        fn the_number_is_found_behind_other_attributes(before in proptest::collection::vec(any::<u8>(), 0..20), number: u64) {
            let mut message = question(&Command { asks_by: 9, ..GET_FAMILY }, &before);
            let asked = Command { asks_by: GET_FAMILY.answers_in, ..GET_FAMILY };
            message.extend_from_slice(&question(&asked, &number.to_ne_bytes())[HEADERS..]);
            prop_assert_eq!(answer(&GET_FAMILY, &message).unwrap(), number.to_ne_bytes());
        }
    }

    #[test]
    fn no_interface_has_the_highest_number() {
        // The kernel does not tell, or refuses.
        assert!(!matches!(sends_redirected(i32::MAX as u32), Ok(Some(_))));
    }
}
