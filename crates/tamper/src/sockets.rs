//! Who listens, by `/proc/net/{tcp,tcp6,udp,udp6}`.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::fmt;
use std::str::FromStr;

use crate::finding::{Finding, Kind};

/// So many sockets of one file are read.
const MANY: usize = 4096;
/// States in these files (`net/tcp_states.h`): a TCP socket that listens, a UDP socket that isn't connected.
const LISTEN: &str = "0A";
const UNCONNECTED: &str = "07";

/// What a socket speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A port of a protocol, as `tcp/22`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// Of which protocol.
    pub protocol: Protocol,
    /// Its number.
    pub number: u16,
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.protocol, self.number)
    }
}

impl FromStr for Port {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || format!("expected a port as tcp/22 or udp/53, got {text:?}");
        let (protocol, number) = text.split_once('/').ok_or_else(wrong)?;
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => return Err(wrong()),
        };
        let number = number.parse().ok().filter(|number| *number > 0);
        Ok(Self {
            protocol,
            number: number.ok_or_else(wrong)?,
        })
    }
}

/// A socket that takes what comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Its protocol and port.
    pub port: Port,
    /// Where it listens.
    pub address: IpAddr,
    /// Whose it is.
    pub uid: u32,
    /// Its number, by which its owner is found; 0 for the kernel's own.
    pub inode: u64,
}

impl Listener {
    /// Whether nobody outside reaches it.
    pub fn is_loopback(&self) -> bool {
        self.address.to_canonical().is_loopback()
    }
}

/// The listeners in one of these files.
pub fn parse(protocol: Protocol, text: &str) -> Vec<Listener> {
    let wanted = match protocol {
        Protocol::Tcp => LISTEN,
        Protocol::Udp => UNCONNECTED,
    };
    let read = |line: &str| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let local = words.next()?;
        let state = words.nth(1)?;
        (state == wanted).then_some(())?;
        let uid = words.nth(3)?.parse().ok()?;
        let inode = words.nth(1)?.parse().ok()?;
        let local = address(local)?;
        Some(Listener {
            port: Port {
                protocol,
                number: local.port(),
            },
            address: local.ip(),
            uid,
            inode,
        })
    };
    text.lines().skip(1).filter_map(read).take(MANY).collect()
}

/// Words of 32 bits in this machine's order, then the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut words = ip.as_bytes().chunks(8).map(|word| {
        let word = std::str::from_utf8(word).ok()?;
        Some(u32::from_str_radix(word, 16).ok()?.to_ne_bytes())
    });
    let ip = match ip.len() {
        8 => IpAddr::V4(Ipv4Addr::from(words.next()??)),
        32 => {
            let mut octets = [0; 16];
            for quarter in octets.chunks_mut(4) {
                quarter.copy_from_slice(&words.next()??);
            }
            IpAddr::V6(Ipv6Addr::from(octets))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// Who holds a socket.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owner {
    /// The process.
    pub pid: u32,
    /// Its program's name.
    pub program: String,
    /// Its control group, as `/system.slice/sshd.service`.
    pub group: String,
}

/// The control group of a process, from its `/proc/<pid>/cgroup`: that of the unified hierarchy, or else systemd's own.
pub fn group(text: &str) -> Option<&str> {
    let of = |start: &str| text.lines().find_map(|line| line.strip_prefix(start));
    // systemd's own hierarchy is the one with its name on machines that have the old ones still.
    let named = || {
        text.lines()
            .find_map(|line| Some(line.split_once(":name=systemd:")?.1))
    };
    named().or_else(|| of("0::"))
}

impl Owner {
    /// The system's unit that it belongs to; none for what people and containers run.
    pub fn unit(&self) -> Option<&str> {
        let path = self.group.strip_prefix("/system.slice/")?;
        // Slices may lie between, as `system-getty.slice`. Below the unit it may call its groups what it likes.
        let unit = path.split('/').find(|part| !part.ends_with(".slice"))?;
        unit.ends_with(".service").then_some(unit)
    }

    /// The Docker container that it belongs to, by its id.
    pub fn container(&self) -> Option<&str> {
        self.group.split('/').find_map(|part| {
            let scope = part.strip_prefix("docker-");
            let id = scope.and_then(|scope| scope.strip_suffix(".scope"));
            let id = id.unwrap_or(part);
            let is_id = id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
            is_id.then_some(id)
        })
    }
}

/// A listener that nobody expects.
pub fn finding(listener: &Listener, owner: &Owner) -> Finding {
    let subject = format!("{} {}", listener.port, listener.address);
    let finding = Finding::new(Kind::Ports, &subject, "listens, and nobody expects it")
        .with("uid", listener.uid);
    if owner.pid == 0 {
        return finding;
    }
    finding
        .with("program", &owner.program)
        .with("group", &owner.group)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TCP: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1060 1 00000000b6a0ea7c 100 0 0 10 0
   1: 00000000:07E8 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 1061 1 00000000b6a0ea7c 100 0 0 10 0
   2: 0100007F:07E8 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 1062 1 00000000b6a0ea7c 100 0 0 10 0
   3: 00000000:07E8
";
    const TCP6: &str = "\
  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000000000000000000001000000:0016 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 7 1 0 100 0 0 10 0
   1: 0000000000000000FFFF00000100007F:0016 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 8 1 0 100 0 0 10 0
";

    #[test]
    fn listeners_are_read_with_who_owns_them() {
        let found = parse(Protocol::Tcp, TCP);
        assert_eq!(found.len(), 2);
        if cfg!(target_endian = "little") {
            assert!(found[0].is_loopback() && !found[1].is_loopback());
            let six = parse(Protocol::Tcp, TCP6);
            assert!(six.len() == 2 && six.iter().all(Listener::is_loopback));
        }
        assert_eq!(
            (
                found[1].port.to_string().as_str(),
                found[1].uid,
                found[1].inode
            ),
            ("tcp/2024", 1000, 1061)
        );
        assert_eq!(parse(Protocol::Udp, TCP), []);
    }

    #[test]
    fn a_process_belongs_to_a_unit_a_container_or_a_person() {
        let of = |group: &str| Owner {
            group: group.into(),
            ..Owner::default()
        };
        assert_eq!(
            of("/system.slice/sshd.service").unit(),
            Some("sshd.service")
        );
        assert_eq!(
            of("/system.slice/system-getty.slice/getty@tty1.service").unit(),
            Some("getty@tty1.service")
        );
        let id = "a".repeat(64);
        for group in [
            format!("/system.slice/docker-{id}.scope"),
            format!("/docker/{id}"),
            format!("/system.slice/docker-{id}.scope/sshd.service"),
        ] {
            assert_eq!(of(&group).container(), Some(id.as_str()));
            assert_eq!(of(&group).unit(), None);
        }
        let person = of("/user.slice/user-0.slice/user@0.service/app.slice/x.service");
        assert_eq!((person.unit(), person.container()), (None, None));
        assert_eq!(of("/system.slice/run-1.scope/sshd.service").unit(), None);
        assert_eq!(group("0::/init.scope\n"), Some("/init.scope"));
        assert_eq!(
            group("2:cpu:/\n1:name=systemd:/system.slice/a.service\n0::/\n"),
            Some("/system.slice/a.service")
        );
    }

    #[test]
    fn a_port_is_written_as_it_is_read() {
        assert_eq!("udp/53".parse::<Port>().unwrap().to_string(), "udp/53");
        for wrong in ["", "22", "tcp/0", "tcp/65536", "sctp/1", "tcp/-1"] {
            assert!(wrong.parse::<Port>().is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[0-9A-F: \n]{0,200}", address in "[0-9A-Fé]{0,40}:[0-9A-F]{0,6}") {
            for text in [format!("head\n{text}"), format!("head\n0: {address} 0:0 0A 0:0 0:0 0 0 0 1\n")] {
                let _ = (parse(Protocol::Tcp, &text), parse(Protocol::Udp, &text), group(&text).map(str::len));
            }
        }

        #[test]
        fn any_address_is_read_back(octets in any::<[u8; 16]>(), port in any::<u16>()) {
            let words: String = octets.chunks(4).map(|w| format!("{:08X}", u32::from_ne_bytes([w[0], w[1], w[2], w[3]]))).collect();
            prop_assert_eq!(address(&format!("{words}:{port:04X}")), Some(SocketAddr::new(Ipv6Addr::from(octets).into(), port)));
        }
    }
}
