//! ICMP's echo (RFC 792, RFC 4443).

use std::net::IpAddr;

/// Bytes of a header.
const HEADER: usize = 8;

/// What one probe is known by.
pub type Token = [u8; 16];

/// A request. The kernel fills in what it wants to: the number of a ping socket, and the sum of ICMPv6.
pub fn request(to: IpAddr, token: Token) -> Vec<u8> {
    let kind = if to.is_ipv4() { 8 } else { 128 };
    let mut message = vec![kind, 0, 0, 0, token[0], token[1], 0, 1];
    message.extend(token);
    if to.is_ipv4() {
        let [high, low] = sum(&message).to_be_bytes();
        message.splice(2..4, [high, low]);
    }
    message
}

/// Whether this is the reply with that token; a raw socket of IPv4 gives IP's header too.
pub fn is_reply(from: IpAddr, raw: bool, packet: &[u8], token: &Token) -> bool {
    let header = match packet.first() {
        Some(first) if raw && from.is_ipv4() => usize::from(first & 0x0f) * 4,
        _ => 0,
    };
    let kind = if from.is_ipv4() { 0 } else { 129 };
    let Some(message) = packet.get(header..) else {
        return false;
    };
    message.first() == Some(&kind) && message.get(HEADER..) == Some(&token[..])
}

/// The Internet's sum (RFC 1071).
fn sum(message: &[u8]) -> u16 {
    let words = message.chunks(2).map(|two| {
        let (high, low) = (two.first().copied(), two.get(1).copied());
        u32::from(u16::from_be_bytes([high.unwrap_or(0), low.unwrap_or(0)]))
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FOUR: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const SIX: IpAddr = IpAddr::V6(std::net::Ipv6Addr::LOCALHOST);
    const TOKEN: Token = *b"0123456789abcdef";

    #[test]
    fn the_sum_is_that_of_the_rfc() {
        // RFC 1071, section 3: the sum of these is ddf2.
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(sum(&bytes), !0xddf2);
        assert_eq!(sum(&request(FOUR, TOKEN)), 0, "with its own sum");
    }

    #[test]
    fn only_the_reply_to_a_request_counts() {
        let request = request(FOUR, TOKEN);
        let mut reply = request.clone();
        reply[0] = 0;
        assert!(is_reply(FOUR, false, &reply, &TOKEN));
        assert!(!is_reply(FOUR, false, &request, &TOKEN));
        assert!(!is_reply(FOUR, false, &reply, &[7; 16]));
        assert!(!is_reply(SIX, false, &reply, &TOKEN));
        let packet = [&[0x45; 20][..], &reply].concat();
        assert!(is_reply(FOUR, true, &packet, &TOKEN));
        assert!(!is_reply(FOUR, false, &packet, &TOKEN));
        reply[0] = 129;
        assert!(is_reply(SIX, true, &reply, &TOKEN));
    }

    proptest! {
        #[test]
        fn no_packet_makes_it_panic(packet in prop::collection::vec(any::<u8>(), 0..100), raw: bool, six: bool) {
            is_reply(if six { SIX } else { FOUR }, raw, &packet, &TOKEN);
        }
    }
}
