//! What goes through each port of a bridge, counted by nftables: by the port's interface number, which is never given
//! twice, and kept by the kernel when the port is gone, whether the agent runs or not. So a workload that ends between two
//! readings loses nothing.
//!
//! Bytes are those of IP and above, without the Ethernet header, of packets as the kernel carries them: what segmentation
//! offload (GSO, GRO) has made one packet of has one header here and many on the wire. What never leaves the link isn't counted,
//! as nobody would pay for it: ARP, and multicast to 224.0.0.0/24 and ff02::/16, in which bridges and hosts tell of themselves.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use cairn_system::Command;
use rustix::net::netlink::NETFILTER;

use super::netlink::{attribute, attributes, dump, field, written};

/// The table, made once and kept: `flags dynamic` sets grow by a port when its first packet comes.
const TABLE: &str = "\
table bridge cairn {
	set from_port {
		typeof meta iif
		size 65535
		flags dynamic
		counter
	}
	set to_port {
		typeof meta oif
		size 65535
		flags dynamic
		counter
	}
	chain in {
		type filter hook prerouting priority -300
		meta protocol != { ip, ip6 } return
		ip daddr 224.0.0.0/24 return
		ip6 daddr ff02::/16 return
		update @from_port { meta iif }
	}
	chain out {
		type filter hook postrouting priority 300
		meta protocol != { ip, ip6 } return
		ip daddr 224.0.0.0/24 return
		ip6 daddr ff02::/16 return
		update @to_port { meta oif }
	}
}
";
/// The name that finds it.
const NAME: &[u8] = b"cairn\0";
/// How long `nft` may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// `linux/netfilter/nfnetlink.h` and `nf_tables.h`.
const NFPROTO_BRIDGE: u8 = 7;
const SUBSYSTEM: u16 = 10 << 8;
const GET_ELEMENTS: u16 = SUBSYSTEM | 13;
const NEW_ELEMENTS: u16 = SUBSYSTEM | 12;
const GENERIC: usize = 4;
const LIST_TABLE: u16 = 1;
const LIST_SET: u16 = 2;
const LIST_ELEMENTS: u16 = 3;
const LIST_ELEMENT: u16 = 1;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_EXPRESSION: u16 = 7;
const ELEMENT_EXPRESSIONS: u16 = 11;
const DATA_VALUE: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const COUNTER_BYTES: u16 = 1;

/// Bytes through a port: from whatever is behind it, and to it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bytes {
    /// What came from it.
    pub from: u64,
    /// What went to it.
    pub to: u64,
}

/// Makes the kernel count, if it doesn't yet.
///
/// # Errors
/// If there is no `nft`, or it refuses.
pub fn count() -> io::Result<()> {
    if counted().is_ok() {
        return Ok(());
    }
    make()
}

/// Makes the table, unless it is there: rules that are there twice would count each byte twice. It may be there although
/// it couldn't be read, or by the `nft` of an agent that was killed.
pub(super) fn make() -> io::Result<()> {
    let script = format!("create table bridge cairn\n{TABLE}");
    let nft = Command::new("nft").args(["-f", "-"]).stdin(script);
    match nft.timeout(PATIENCE).run() {
        Ok(_) => Ok(()),
        Err(error) => counted().map(drop).map_err(|_| io::Error::other(error)),
    }
}

/// What each port has counted, by its interface's number; ports that are gone, too.
///
/// # Errors
/// If the kernel doesn't count, or doesn't tell.
pub fn counted() -> io::Result<BTreeMap<u32, Bytes>> {
    let mut ports: BTreeMap<u32, Bytes> = BTreeMap::new();
    for (port, bytes) in elements(b"from_port\0")? {
        ports.entry(port).or_default().from = bytes;
    }
    for (port, bytes) in elements(b"to_port\0")? {
        ports.entry(port).or_default().to = bytes;
    }
    Ok(ports)
}

/// Forgets ports that are gone and paid for.
///
/// # Errors
/// If `nft` refuses.
pub fn forget(ports: &[u32]) -> io::Result<()> {
    let list: Vec<String> = ports.iter().map(u32::to_string).collect();
    let list = list.join(", ");
    // One that only ever sent, or only ever received, is in one of the sets alone.
    for set in ["from_port", "to_port"] {
        let script = format!(
            "add element bridge cairn {set} {{ {list} }}\ndelete element bridge cairn {set} {{ {list} }}\n"
        );
        let nft = Command::new("nft").args(["-f", "-"]).stdin(script);
        nft.timeout(PATIENCE).run().map_err(io::Error::other)?;
    }
    Ok(())
}

fn elements(set: &[u8]) -> io::Result<Vec<(u32, u64)>> {
    let mut request = vec![NFPROTO_BRIDGE, 0, 0, 0];
    request.extend(written(LIST_TABLE, NAME));
    request.extend(written(LIST_SET, set));
    let messages = dump(Some(NETFILTER), GET_ELEMENTS, &request)?;
    let lists = messages
        .iter()
        .filter(|message| message.kind == NEW_ELEMENTS);
    let lists = lists.filter_map(|message| message.payload.get(GENERIC..));
    let elements = lists
        .filter_map(|payload| attribute(payload, LIST_ELEMENTS))
        .flat_map(attributes)
        .filter(|(kind, _)| *kind == LIST_ELEMENT);
    Ok(elements.filter_map(|(_, element)| parse(element)).collect())
}

fn parse(element: &[u8]) -> Option<(u32, u64)> {
    let key = attribute(attribute(element, ELEMENT_KEY)?, DATA_VALUE)?;
    let counter = match attribute(element, ELEMENT_EXPRESSION) {
        Some(expression) => counter(expression),
        None => attributes(attribute(element, ELEMENT_EXPRESSIONS)?)
            .find_map(|(_, expression)| counter(expression)),
    };
    Some((u32::from_ne_bytes(field(key, 0)?), counter?))
}

fn counter(expression: &[u8]) -> Option<u64> {
    if attribute(expression, EXPRESSION_NAME)? != b"counter\0" {
        return None;
    }
    let data = attribute(expression, EXPRESSION_DATA)?;
    field(attribute(data, COUNTER_BYTES)?, 0).map(u64::from_be_bytes)
}
