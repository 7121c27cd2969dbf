//! Questions to the kernel over netlink (RFC 3549): a request, and all messages of its answer.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, sendto,
    socket_with,
};

/// Flags of a message (`linux/netlink.h`).
const REQUEST: u16 = 1;
const CHANGED: u16 = 0x10;
const LIST: u16 = 0x300;
/// Message types of the protocol itself.
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// Bytes of a message's header.
const HEADER: usize = 16;
/// The two highest bits of an attribute's type say how its value is to be read.
const TYPE: u16 = 0x3fff;
/// What one read takes: the kernel makes no larger pieces.
const PIECE: usize = 64 << 10;
/// The kernel answers at once; this only keeps a wrong expectation from waiting for ever.
const PATIENCE: Duration = Duration::from_secs(5);
/// Messages of one answer.
const MOST: usize = 100_000;
/// How often a list that changed while it was read is read again.
const TRIES: u32 = 5;

/// A message's header fields that matter, and what follows the header.
pub struct Message {
    /// Its type.
    pub kind: u16,
    /// The payload.
    pub payload: Vec<u8>,
}

/// All of a list, as it was at one moment. No protocol is that of routes and links.
///
/// # Errors
/// If the kernel refuses, or the list changes faster than it can be read.
pub fn dump(protocol: Option<Protocol>, kind: u16, payload: &[u8]) -> io::Result<Vec<Message>> {
    for _ in 0..TRIES {
        if let Some(messages) = ask(protocol, kind, REQUEST | LIST, payload)? {
            return Ok(messages);
        }
    }
    Err(io::Error::other("the kernel's list changes all the time"))
}

/// One answer to one question.
///
/// # Errors
/// If the kernel refuses.
pub fn get(protocol: Option<Protocol>, kind: u16, payload: &[u8]) -> io::Result<Message> {
    let messages = ask(protocol, kind, REQUEST, payload)?.unwrap_or_default();
    let first = messages.into_iter().next();
    first.ok_or_else(|| malformed("no answer"))
}

/// `None` if the list changed meanwhile.
fn ask(
    protocol: Option<Protocol>,
    kind: u16,
    flags: u16,
    payload: &[u8],
) -> io::Result<Option<Vec<Message>>> {
    let socket: OwnedFd = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        protocol,
    )?;
    set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
    let length = u32::try_from(HEADER + payload.len()).map_err(io::Error::other)?;
    let mut request = Vec::new();
    request.extend(length.to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend(flags.to_ne_bytes());
    // A number and a port of the sender: one question a socket needs neither.
    request.extend([0; 8]);
    request.extend(payload);
    let kernel = netlink::SocketAddrNetlink::new(0, 0);
    sendto(&socket, &request, SendFlags::empty(), &kernel)?;

    let list = flags & LIST == LIST;
    let (mut messages, mut whole) = (Vec::new(), true);
    let mut buffer = vec![0; PIECE];
    loop {
        let (_, size) = recv(&socket, &mut buffer[..], RecvFlags::TRUNC)?;
        let mut rest = buffer
            .get(..size)
            .ok_or_else(|| malformed("a message longer than any"))?;
        while !rest.is_empty() {
            let length = field(rest, 0).map_or(0, u32::from_ne_bytes) as usize;
            let payload = rest.get(HEADER..length);
            let (Some(payload), Some(kind), Some(flags)) =
                (payload, field(rest, 4), field(rest, 6))
            else {
                return Err(malformed("a message of a wrong length"));
            };
            whole &= u16::from_ne_bytes(flags) & CHANGED == 0;
            match u16::from_ne_bytes(kind) {
                DONE => return Ok(whole.then_some(messages)),
                ERROR => return Err(refusal(payload)),
                kind => messages.push(Message {
                    kind,
                    payload: payload.to_vec(),
                }),
            }
            if !list {
                return Ok(Some(messages));
            }
            if messages.len() > MOST {
                return Err(malformed("too many messages"));
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// An error message begins with the negative number of the error.
fn refusal(payload: &[u8]) -> io::Error {
    match field(payload, 0).map(i32::from_ne_bytes) {
        Some(code) if code < 0 => io::Error::from_raw_os_error(code.saturating_neg()),
        _ => malformed("an error without a number"),
    }
}

fn malformed(reason: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.to_string())
}

/// Bytes of fixed size at a place; `None` if the end comes before.
pub fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// The attributes in some bytes, up to the first that isn't one: type and value.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(field(bytes, 0)?));
        let kind = u16::from_ne_bytes(field(bytes, 2)?);
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & TYPE, value))
    })
}

/// The first attribute of a type.
pub fn attribute(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(kind, value)| (kind == wanted).then_some(value))
}

/// An attribute as it is written.
pub fn written(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    let mut bytes = Vec::new();
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn attributes_are_read_as_they_are_written() {
        let bytes = [
            written(3, b"eth0\0"),
            written(0x8000 | 18, &written(1, b"veth")),
        ]
        .concat();
        assert_eq!(attribute(&bytes, 3), Some(&b"eth0\0"[..]));
        assert_eq!(
            attribute(attribute(&bytes, 18).unwrap(), 1),
            Some(&b"veth"[..])
        );
        assert_eq!(attribute(&bytes, 4), None);
    }

    #[test]
    fn a_refusal_is_the_systems_error() {
        let error = dump(None, 9999, &[0; 16]);
        assert!(error.is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            attributes(&bytes).for_each(drop);
            refusal(&bytes);
        }
    }
}
