//! One probe: a question to a host, and how long its answer took.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use cairn_line::{Answer, Method};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with};
use tokio::net::{TcpSocket, UdpSocket};
use tokio::time::{Instant, timeout};

use super::echo::{self, Token};

/// The longest packet that is looked at.
const PACKET: usize = 1500;
/// TCP asks again after so long (RFC 6298, section 2); an answer that comes later may be to either.
const ASKED_AGAIN: Duration = Duration::from_secs(1);

/// Where probes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Goal {
    /// The host.
    pub address: IpAddr,
    /// Where UDP is sent to.
    pub udp_port: u16,
    /// Where TCP connects to.
    pub tcp_port: u16,
}

/// Probes once. What isn't answered within `patience` is lost, and so is what no route or interface takes: that is how a line
/// is that isn't there. Only what this node isn't able or allowed to send says nothing of the line.
pub async fn probe(
    method: Method,
    goal: Goal,
    interface: Option<&str>,
    patience: Duration,
) -> Answer {
    let asked = async {
        match method {
            Method::Icmp => icmp(goal.address, interface).await,
            Method::Udp => udp(goal, interface).await,
            Method::Tcp => tcp(goal, interface).await,
        }
    };
    let patience = match method {
        Method::Tcp => patience.min(ASKED_AGAIN),
        _ => patience,
    };
    match timeout(patience, asked).await {
        Ok(Ok(took)) if took < patience => Answer::Came(took),
        Ok(Err(error)) if is_ours(&error) => {
            tracing::debug!(%method, %error, "a probe cannot be sent");
            Answer::Unusable
        }
        _ => Answer::Silent,
    }
}

/// Whether an error is this node's and not its line's.
fn is_ours(error: &io::Error) -> bool {
    let ours = [
        Errno::PERM,
        Errno::ACCESS,
        Errno::AFNOSUPPORT,
        Errno::PROTONOSUPPORT,
        Errno::MFILE,
        Errno::NFILE,
        Errno::NOMEM,
        Errno::NOBUFS,
    ];
    ours.iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

async fn icmp(to: IpAddr, interface: Option<&str>) -> io::Result<Duration> {
    // Who may open a ping socket says net.ipv4.ping_group_range; a raw one needs CAP_NET_RAW.
    let (socket, raw) = match icmp_socket(to, SocketType::DGRAM) {
        Ok(socket) => (socket, false),
        Err(_) => (icmp_socket(to, SocketType::RAW)?, true),
    };
    socket.bind_device(interface.map(str::as_bytes))?;
    socket.connect(SocketAddr::new(to, 0)).await?;
    let token: Token = rand::random();
    let request = echo::request(to, token);
    let mut packet = [0; PACKET];
    let asked = Instant::now();
    socket.send(&request).await?;
    loop {
        // A raw socket also hears what others are told.
        let size = socket.recv(&mut packet).await?;
        let took = asked.elapsed();
        if echo::is_reply(to, raw, packet.get(..size).unwrap_or_default(), &token) {
            return Ok(took);
        }
    }
}

pub(super) fn icmp_socket(to: IpAddr, kind: SocketType) -> io::Result<UdpSocket> {
    let (family, protocol) = match to {
        IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP),
        IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6),
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket: OwnedFd = socket_with(family, kind, flags, Some(protocol))?;
    // It sends and receives packets as any socket of datagrams does.
    UdpSocket::from_std(socket.into())
}

async fn udp(goal: Goal, interface: Option<&str>) -> io::Result<Duration> {
    let any: IpAddr = match goal.address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.bind_device(interface.map(str::as_bytes))?;
    socket.connect((goal.address, goal.udp_port)).await?;
    let token: Token = rand::random();
    let mut packet = [0; PACKET];
    let asked = Instant::now();
    socket.send(&token).await?;
    let heard = socket.recv(&mut packet).await.map(drop);
    let took = asked.elapsed();
    refusal_counts(heard)?;
    Ok(took)
}

async fn tcp(goal: Goal, interface: Option<&str>) -> io::Result<Duration> {
    let socket = match goal.address {
        IpAddr::V4(_) => TcpSocket::new_v4()?,
        IpAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.bind_device(interface.map(str::as_bytes))?;
    // Ends the connection with one packet.
    socket.set_zero_linger()?;
    let to = SocketAddr::new(goal.address, goal.tcp_port);
    let asked = Instant::now();
    let opened = socket.connect(to).await;
    let took = asked.elapsed();
    refusal_counts(opened.map(drop))?;
    Ok(took)
}

/// That nobody has this port is an answer of the host.
fn refusal_counts(heard: io::Result<()>) -> io::Result<()> {
    match heard {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        heard => heard,
    }
}
