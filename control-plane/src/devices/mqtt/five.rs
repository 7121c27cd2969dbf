//! MQTT 5 in the terms of 3.1.1, for clients that speak nothing else (ThingsBoard's Python SDK). Properties are read over: nothing that
//! they ask for is served, and CONNACK says so.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use rumqttc::mqttbytes::v4::{
    Connect, ConnectAuth, ConnectReturnCode, Packet, PubAck, Publish, Subscribe, SubscribeFilter,
    SubscribeReasonCode, Unsubscribe,
};
use rumqttc::mqttbytes::{Error, QoS, qos};

use super::Closed;

/// Whether a stream starts with a CONNECT of MQTT 5; `None` as long as that can't be seen.
pub(super) fn is_five(stream: &[u8]) -> Option<bool> {
    // Type, one to four bytes of length, length of the name, "MQTT", level.
    let length = stream.get(1..)?.iter().position(|byte| byte & 0x80 == 0)? + 1;
    stream
        .get(length + 7)
        .map(|level| stream.first() == Some(&0x10) && *level == 5)
}

/// The next packet.
pub(super) fn read(stream: &mut BytesMut, limit: usize) -> Result<Packet, Error> {
    let (header, length) = fixed_header(stream)?;
    if length > limit {
        return Err(Error::PayloadSizeLimitExceeded(length));
    }
    if stream.len() < header + length {
        return Err(Error::InsufficientBytes(header + length - stream.len()));
    }
    let mut body = stream.split_to(header + length).freeze();
    let first = body.first().copied().ok_or(Error::MalformedPacket)?;
    body.advance(header);
    match (first >> 4, first & 0x0f) {
        (1, 0) => connect(body).map(Packet::Connect),
        (3, flags) => publish(flags, body).map(Packet::Publish),
        (4, 0) => Ok(Packet::PubAck(PubAck::new(u16(&mut body)?))),
        (8, 2) => subscribe(body).map(Packet::Subscribe),
        (10, 2) => unsubscribe(body).map(Packet::Unsubscribe),
        (12, 0) => Ok(Packet::PingReq),
        (14, 0) => Ok(Packet::Disconnect),
        (kind, _) => Err(Error::InvalidPacketType(kind)),
    }
}

/// Length of the fixed header, and what it says that follows.
fn fixed_header(stream: &[u8]) -> Result<(usize, usize), Error> {
    let mut length = 0;
    for (place, byte) in stream.iter().skip(1).take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Ok((place + 2, length));
        }
    }
    if stream.len() >= 5 {
        Err(Error::MalformedRemainingLength)
    } else {
        Err(Error::InsufficientBytes(1))
    }
}

fn u8(body: &mut Bytes) -> Result<u8, Error> {
    if body.has_remaining() {
        Ok(body.get_u8())
    } else {
        Err(Error::MalformedPacket)
    }
}

fn u16(body: &mut Bytes) -> Result<u16, Error> {
    if body.remaining() >= 2 {
        Ok(body.get_u16())
    } else {
        Err(Error::MalformedPacket)
    }
}

fn bytes(body: &mut Bytes) -> Result<Bytes, Error> {
    let length = usize::from(u16(body)?);
    if body.remaining() < length {
        Err(Error::BoundaryCrossed(length))
    } else {
        Ok(body.split_to(length))
    }
}

fn text(body: &mut Bytes) -> Result<String, Error> {
    let bytes = bytes(body)?;
    std::str::from_utf8(&bytes)
        .map(str::to_owned)
        .map_err(|source| Error::TopicNotUtf8 { source })
}

fn skip_properties(body: &mut Bytes) -> Result<(), Error> {
    let mut length = 0;
    for place in 0..4 {
        let byte = u8(body)?;
        length |= usize::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            if body.remaining() < length {
                return Err(Error::BoundaryCrossed(length));
            }
            body.advance(length);
            return Ok(());
        }
    }
    Err(Error::MalformedRemainingLength)
}

fn connect(mut body: Bytes) -> Result<Connect, Error> {
    if text(&mut body)? != "MQTT" {
        return Err(Error::InvalidProtocol);
    }
    let level = u8(&mut body)?;
    if level != 5 {
        return Err(Error::InvalidProtocolLevel(level));
    }
    let flags = u8(&mut body)?;
    if flags & 1 != 0 {
        return Err(Error::IncorrectPacketFormat);
    }
    let keep_alive = u16(&mut body)?;
    skip_properties(&mut body)?;
    let mut connect = Connect::new(text(&mut body)?);
    connect.keep_alive = keep_alive;
    connect.clean_session = flags & 2 != 0;
    if flags & 4 != 0 {
        // A last will is nobody's business here.
        skip_properties(&mut body)?;
        bytes(&mut body)?;
        bytes(&mut body)?;
    }
    let username = if flags & 0x80 == 0 {
        None
    } else {
        Some(text(&mut body)?)
    };
    let password = if flags & 0x40 == 0 {
        None
    } else {
        Some(bytes(&mut body)?)
    };
    connect.auth = match (username, password) {
        (None, None) => ConnectAuth::None,
        (Some(username), None) => ConnectAuth::Username { username },
        (username, Some(password)) => ConnectAuth::UsernamePassword {
            username: username.unwrap_or_default(),
            password,
        },
    };
    Ok(connect)
}

fn publish(flags: u8, mut body: Bytes) -> Result<Publish, Error> {
    let qos = qos((flags >> 1) & 3)?;
    let topic = bytes(&mut body)?;
    let pkid = if qos == QoS::AtMostOnce {
        0
    } else {
        u16(&mut body)?
    };
    if qos != QoS::AtMostOnce && pkid == 0 {
        return Err(Error::PacketIdZero);
    }
    skip_properties(&mut body)?;
    Ok(Publish {
        dup: flags & 8 != 0,
        qos,
        retain: flags & 1 != 0,
        topic,
        pkid,
        payload: body,
    })
}

fn subscribe(mut body: Bytes) -> Result<Subscribe, Error> {
    let pkid = u16(&mut body)?;
    skip_properties(&mut body)?;
    let mut filters = Vec::new();
    while body.has_remaining() {
        let path = text(&mut body)?;
        let options = u8(&mut body)?;
        filters.push(SubscribeFilter {
            path,
            qos: qos(options & 3)?,
        });
    }
    if pkid == 0 {
        Err(Error::PacketIdZero)
    } else {
        Ok(Subscribe { pkid, filters })
    }
}

fn unsubscribe(mut body: Bytes) -> Result<Unsubscribe, Error> {
    let pkid = u16(&mut body)?;
    skip_properties(&mut body)?;
    let mut topics = Vec::new();
    while body.has_remaining() {
        topics.push(text(&mut body)?);
    }
    if pkid == 0 {
        Err(Error::PacketIdZero)
    } else {
        Ok(Unsubscribe { pkid, topics })
    }
}

fn put(out: &mut BytesMut, first: u8, body: &[u8]) {
    out.put_u8(first);
    let mut left = body.len();
    loop {
        let byte = u8::try_from(left & 0x7f).unwrap_or(0);
        left >>= 7;
        out.put_u8(if left > 0 { byte | 0x80 } else { byte });
        if left == 0 {
            break;
        }
    }
    out.put_slice(body);
}

/// Writes a packet; those that the server never sends are left out. `assigned` is the client id if the client brought none.
pub(super) fn write(packet: &Packet, out: &mut BytesMut, assigned: Option<&str>) {
    let mut body = BytesMut::new();
    match packet {
        Packet::ConnAck(ack) => {
            let code = match ack.code {
                ConnectReturnCode::Success => 0x00,
                ConnectReturnCode::RefusedProtocolVersion => 0x84,
                ConnectReturnCode::BadClientId => 0x85,
                ConnectReturnCode::BadUserNamePassword => 0x86,
                ConnectReturnCode::NotAuthorized => 0x87,
                ConnectReturnCode::ServiceUnavailable => 0x88,
            };
            body.put_slice(&[0, code]);
            let mut properties = BytesMut::new();
            if code == 0 {
                // The session ends with the connection; QoS 1 at most; nothing retained; no identifiers, nothing shared.
                properties.put_slice(&[0x11, 0, 0, 0, 0, 0x24, 1, 0x25, 0, 0x29, 0, 0x2a, 0]);
                if let Some(id) = assigned {
                    properties.put_u8(0x12);
                    properties.put_u16(u16::try_from(id.len()).unwrap_or(0));
                    properties.put_slice(id.as_bytes());
                }
            }
            body.put_u8(u8::try_from(properties.len()).unwrap_or(0));
            body.put_slice(&properties);
            put(out, 0x20, &body);
        }
        Packet::PubAck(ack) => put(out, 0x40, &ack.pkid.to_be_bytes()),
        Packet::SubAck(ack) => {
            body.put_u16(ack.pkid);
            body.put_u8(0);
            for code in &ack.return_codes {
                body.put_u8(match code {
                    SubscribeReasonCode::Success(qos) => *qos as u8,
                    SubscribeReasonCode::Failure => 0x87,
                });
            }
            put(out, 0x90, &body);
        }
        Packet::Publish(publish) => {
            body.put_u16(u16::try_from(publish.topic.len()).unwrap_or(0));
            body.put_slice(&publish.topic);
            if publish.qos != QoS::AtMostOnce {
                body.put_u16(publish.pkid);
            }
            body.put_u8(0);
            body.put_slice(&publish.payload);
            put(out, 0x30 | ((publish.qos as u8) << 1), &body);
        }
        Packet::PingResp => put(out, 0xd0, &[]),
        _ => {}
    }
}

/// UNSUBACK names an outcome for each filter.
pub(super) fn unsuback(out: &mut BytesMut, packet: u16, filters: usize) {
    let mut body = packet.to_be_bytes().to_vec();
    body.resize(3 + filters, 0);
    put(out, 0xb0, &body);
}

/// DISCONNECT with the reason.
pub(super) fn goodbye(out: &mut BytesMut, closed: Closed) {
    let reason = match closed {
        Closed::Gone => return,
        Closed::Done => 0x00,
        Closed::Malformed => 0x81,
        Closed::Storage => 0x83,
        Closed::Refused | Closed::Revoked => 0x87,
        Closed::Shutdown => 0x8b,
        Closed::Silent => 0x8d,
        Closed::Superseded => 0x8e,
        Closed::Slow => 0x97,
        Closed::Expired => 0xa0,
    };
    put(out, 0xe0, &[reason]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connect() -> Vec<u8> {
        let mut packet = vec![0x10, 0, 0, 4, b'M', b'Q', b'T', b'T', 5, 0xc2, 0, 60];
        // Session expiry.
        packet.extend([5, 0x11, 0, 0, 0, 9]);
        for part in ["id", "user", "pass"] {
            packet.extend(u16::try_from(part.len()).unwrap().to_be_bytes());
            packet.extend(part.as_bytes());
        }
        packet[1] = u8::try_from(packet.len() - 2).unwrap();
        packet
    }

    #[test]
    fn a_connect_is_seen_and_read() {
        let bytes = connect();
        for cut in 0..bytes.len() {
            let seen = is_five(&bytes[..cut]);
            assert!(seen.is_none() || seen == Some(true), "{cut}");
            let mut stream = BytesMut::from(&bytes[..cut]);
            assert!(
                matches!(read(&mut stream, 1000), Err(Error::InsufficientBytes(_))),
                "{cut}"
            );
            assert_eq!(stream.len(), cut, "nothing of half a packet is taken");
        }
        let mut stream = BytesMut::from(&bytes[..]);
        let Ok(Packet::Connect(read)) = read(&mut stream, 1000) else {
            panic!()
        };
        assert_eq!((read.client_id.as_str(), read.keep_alive), ("id", 60));
        assert!(read.auth.validate("user", "pass"));
        assert_eq!(
            is_five(&[0x10, 12, 0, 4, b'M', b'Q', b'T', b'T', 4]),
            Some(false)
        );
    }

    #[test]
    fn a_message_goes_out_and_comes_back() {
        let message = Publish {
            dup: false,
            qos: QoS::AtLeastOnce,
            retain: false,
            topic: Bytes::from_static(b"a/b"),
            pkid: 7,
            payload: Bytes::from(vec![1; 300]),
        };
        let mut out = BytesMut::new();
        write(&Packet::Publish(message.clone()), &mut out, None);
        assert_eq!(read(&mut out, 1000).unwrap(), Packet::Publish(message));
        assert!(out.is_empty());
    }

    #[test]
    fn nonsense_is_an_error() {
        let long = [0x30, 0xff, 0xff, 0xff, 0x7f];
        assert!(matches!(
            read(&mut BytesMut::from(&long[..]), 1000),
            Err(Error::PayloadSizeLimitExceeded(_))
        ));
        for bad in [
            &[0x30, 0xff, 0xff, 0xff, 0xff, 1][..],
            &[0x30, 1, 0],
            &[0x30, 3, 0, 9, b'a'],
            &[0x32, 5, 0, 1, b'a', 0, 0],
            &[0x30, 4, 0, 1, b'a', 9],
            &[0x82, 4, 0, 0, 0, 0],
            &[0x00, 0],
            &[0xf0, 0],
            &[0x36, 4, 0, 1, b'a', 0],
        ] {
            let read = read(&mut BytesMut::from(bad), 1000);
            assert!(
                read.is_err() && !matches!(read, Err(Error::InsufficientBytes(_))),
                "{bad:?}: {read:?}"
            );
        }
    }
}
