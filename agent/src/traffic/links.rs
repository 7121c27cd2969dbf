//! The node's network interfaces and their counters, by rtnetlink: 64 bits wide, all of one moment.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use super::netlink::{attribute, dump, field, get, written};

/// `linux/rtnetlink.h`, `linux/if_link.h` and `linux/net_namespace.h`.
const RTM_GETLINK: u16 = 18;
const RTM_NEWLINK: u16 = 16;
const RTM_GETNSID: u16 = 90;
const IFINFO: usize = 16;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_STATS64: u16 = 23;
const IFLA_LINK_NETNSID: u16 = 37;
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;
/// `IFF_LOOPBACK`.
const LOOPBACK: u32 = 8;

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number for it: never given twice until all have been.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// What kind of virtual interface it is, as `veth` or `bridge`; none for hardware.
    pub kind: Option<String>,
    /// Whether it leads to the node itself.
    pub loopback: bool,
    /// The namespace of its other end, as the kernel numbers it here.
    pub peer: Option<i32>,
    /// Bytes received since it was made.
    pub rx: u64,
    /// Bytes sent since it was made.
    pub tx: u64,
}

/// All interfaces of this network namespace.
///
/// # Errors
/// If the kernel doesn't tell.
pub fn links() -> io::Result<Vec<Link>> {
    let messages = dump(None, RTM_GETLINK, &[0; IFINFO])?;
    let links = messages
        .iter()
        .filter(|message| message.kind == RTM_NEWLINK);
    Ok(links
        .filter_map(|message| Link::parse(&message.payload))
        .collect())
}

/// The kernel's number for another namespace, if it has given one; `namespace` is a file that stands for it.
///
/// # Errors
/// If the file is none.
pub fn number_of(namespace: &Path) -> io::Result<Option<i32>> {
    let file = File::open(namespace)?;
    let family = [0; 4];
    let wanted = written(NETNSA_FD, &file.as_raw_fd().to_ne_bytes());
    let answer = get(None, RTM_GETNSID, &[&family[..], &wanted].concat())?;
    let attributes = answer.payload.get(family.len()..).unwrap_or_default();
    let number = attribute(attributes, NETNSA_NSID).and_then(|value| field(value, 0));
    Ok(number.map(i32::from_ne_bytes).filter(|number| *number >= 0))
}

impl Link {
    fn parse(payload: &[u8]) -> Option<Self> {
        let index = field(payload, 4).map(i32::from_ne_bytes)?;
        let flags = field(payload, 8).map(u32::from_ne_bytes)?;
        let attributes = payload.get(IFINFO..)?;
        let text = |value: &[u8]| {
            let value = value.strip_suffix(&[0]).unwrap_or(value);
            std::str::from_utf8(value).ok().map(str::to_owned)
        };
        let stats = attribute(attributes, IFLA_STATS64)?;
        // Packets in and out come first.
        let counter = |at: usize| field(stats, at * 8).map(u64::from_ne_bytes);
        let peer = attribute(attributes, IFLA_LINK_NETNSID).and_then(|value| field(value, 0));
        Some(Self {
            index: u32::try_from(index).ok()?,
            name: attribute(attributes, IFLA_IFNAME).and_then(text)?,
            kind: attribute(attributes, IFLA_LINKINFO)
                .and_then(|info| attribute(info, IFLA_INFO_KIND))
                .and_then(text),
            loopback: flags & LOOPBACK != 0,
            peer: peer.map(i32::from_ne_bytes),
            rx: counter(2)?,
            tx: counter(3)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_links_are_those_of_proc() {
        let told = std::fs::read_to_string("/proc/net/dev").unwrap();
        let mut expected: Vec<&str> = told
            .lines()
            .filter_map(|line| Some(line.split_once(':')?.0.trim()))
            .collect();
        expected.sort_unstable();
        let links = links().unwrap();
        let mut names: Vec<&str> = links.iter().map(|link| link.name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, expected);
        let lo = links.iter().find(|link| link.name == "lo").unwrap();
        assert!(lo.loopback && lo.index > 0 && lo.kind.is_none());
        assert_eq!(lo.rx, lo.tx);
    }

    #[test]
    fn what_stands_for_no_namespace_is_refused() {
        assert!(number_of(Path::new("/proc/self/status")).is_err());
        assert!(number_of(Path::new("/nowhere")).is_err());
    }

    #[test]
    fn half_a_message_is_no_link() {
        assert_eq!(Link::parse(&[0; 15]), None);
        assert_eq!(Link::parse(&[0; 40]), None);
    }
}
