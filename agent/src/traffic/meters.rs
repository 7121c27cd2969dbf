//! Which counters count for whom.

use std::collections::{BTreeMap, BTreeSet};

use cairn_traffic::{Kind, Meter, Reading};
use serde::{Deserialize, Serialize};

use super::links::Link;
use super::ports::Bytes;
use crate::workloads::Running;

/// The name under which traffic is metered that can't be told whose it is: of containers that aren't ours, and of those that
/// were gone before Docker showed them to the agent.
pub const OTHERS: &str = "(others)";
/// For how many readings a port may be nobody's before it is one of the others': Docker makes it before it starts the container.
const GRACE: u32 = 6;

/// Whose a bridge's port is. Kept, since a port's counters outlive its container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Owners {
    known: BTreeMap<u32, Owner>,
    /// For how many readings a port has been nobody's.
    strange: BTreeMap<u32, u32>,
    /// Whether it was looked which workloads run, since the agent's start: before that, nobody's may be anybody's.
    #[serde(skip)]
    looked: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Owner {
    workload: String,
    customer: String,
    business: String,
}

impl Owners {
    /// Learns which ports lead to which workloads, whose network namespaces have these numbers; if anybody has looked. Gives
    /// whether one wasn't known.
    pub fn learn(&mut self, links: &[Link], namespaces: Option<&[(i32, Running)]>) -> bool {
        let Some(namespaces) = namespaces else {
            return false;
        };
        self.looked = true;
        let before = self.known.len();
        for (namespace, running) in namespaces {
            for link in links.iter().filter(|link| link.peer == Some(*namespace)) {
                self.strange.remove(&link.index);
                // A port is one container's for as long as it is there.
                self.known.entry(link.index).or_insert_with(|| Owner {
                    workload: running.workload.to_string(),
                    customer: running.customer.clone(),
                    business: running.business.clone(),
                });
            }
        }
        self.known.len() > before
    }

    /// The readings of workloads' ports. A living one that is nobody's yet is left out for a while: its counters wait.
    pub fn readings(&mut self, links: &[Link], ports: &BTreeMap<u32, Bytes>) -> Vec<Reading> {
        let mut readings = Vec::new();
        for (port, bytes) in ports {
            let link = links.iter().find(|link| link.index == *port);
            // The node's own interfaces may be ports, too.
            if link.is_some_and(|link| link.kind.as_deref() != Some("veth")) {
                continue;
            }
            let owner = self.known.get(port);
            if owner.is_none() && link.is_some() {
                if !self.looked {
                    continue;
                }
                let seen = self.strange.entry(*port).or_default();
                *seen = seen.saturating_add(1);
                if *seen <= GRACE {
                    continue;
                }
            }
            readings.push(reading(*port, bytes, owner));
        }
        readings
    }

    /// The ports that no interface has any more, whether they have counted anything or not.
    pub fn gone(&self, links: &[Link], ports: &BTreeMap<u32, Bytes>) -> Vec<u32> {
        let there: BTreeSet<u32> = links.iter().map(|link| link.index).collect();
        let all: BTreeSet<u32> = ports.keys().chain(self.known.keys()).copied().collect();
        all.difference(&there).copied().collect()
    }

    /// Ports that are gone are forgotten.
    pub fn forget(&mut self, ports: &[u32]) {
        for port in ports {
            self.known.remove(port);
            self.strange.remove(port);
        }
    }
}

fn reading(port: u32, bytes: &Bytes, owner: Option<&Owner>) -> Reading {
    let meter = Meter {
        kind: Kind::Container,
        name: owner.map_or(OTHERS, |owner| &owner.workload).to_owned(),
        customer: owner.map(|owner| owner.customer.clone()),
        business: owner.map(|owner| owner.business.clone()),
    };
    Reading {
        meter,
        epoch: format!("port {port}"),
        rx: bytes.to,
        tx: bytes.from,
    }
}

/// What ports have counted, whoever they belong to.
pub fn all(ports: &BTreeMap<u32, Bytes>) -> Vec<Reading> {
    let reading = |(port, bytes): (&u32, &Bytes)| reading(*port, bytes, None);
    ports.iter().map(reading).collect()
}

/// The readings of the interfaces that are metered; `wanted` as in the settings.
pub fn interfaces(links: &[Link], wanted: Option<&[String]>) -> Vec<Reading> {
    let metered = links.iter().filter(|link| match wanted {
        None => link.kind.is_none() && !link.loopback,
        Some(names) => names.iter().any(|name| fits(&link.name, name)),
    });
    let reading = |link: &Link| Reading {
        meter: Meter {
            kind: Kind::Interface,
            name: link.name.clone(),
            customer: None,
            business: None,
        },
        epoch: format!("link {}", link.index),
        rx: link.rx,
        tx: link.tx,
    };
    metered.map(reading).collect()
}

fn fits(name: &str, wanted: &str) -> bool {
    match wanted.strip_suffix('*') {
        Some(stem) => name.starts_with(stem),
        None => name == wanted,
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn link(index: u32, name: &str, kind: Option<&str>, peer: Option<i32>) -> Link {
        Link {
            index,
            name: name.into(),
            kind: kind.map(str::to_owned),
            loopback: name == "lo",
            peer,
            rx: 10,
            tx: 20,
        }
    }

    fn names(readings: &[Reading]) -> Vec<&str> {
        readings
            .iter()
            .map(|reading| reading.meter.name.as_str())
            .collect()
    }

    #[test]
    fn hardware_is_metered_unless_names_are_given() {
        let links = [
            link(1, "lo", None, None),
            link(2, "eth0", None, None),
            link(3, "docker0", Some("bridge"), None),
            link(4, "ppp7", Some("ppp"), None),
        ];
        assert_eq!(names(&interfaces(&links, None)), ["eth0"]);
        let wanted = ["eth0".to_owned(), "ppp*".to_owned()];
        let readings = interfaces(&links, Some(&wanted));
        assert_eq!(names(&readings), ["eth0", "ppp7"]);
        assert_eq!(
            (readings[1].epoch.as_str(), readings[1].rx, readings[1].tx),
            ("link 4", 10, 20)
        );
    }

    #[test]
    fn a_port_is_its_workloads_even_when_both_are_gone() {
        let running = Running {
            id: "1".into(),
            workload: "cache".parse().unwrap(),
            customer: "acme".into(),
            business: "vod".into(),
            namespace: PathBuf::from("/run/docker/netns/1"),
            ports: BTreeSet::new(),
        };
        let ports: BTreeMap<u32, Bytes> = [(2, 1), (7, 100), (8, 200)]
            .map(|(port, from)| (port, Bytes { from, to: 5 }))
            .into();
        let (eth, mine) = (
            link(2, "eth0", None, None),
            link(7, "veth1", Some("veth"), Some(4)),
        );
        let foreign = link(8, "veth2", Some("veth"), Some(9));
        let links = [eth, mine, foreign];
        let mut owners = Owners::default();
        // Before it is known what runs, a port of somebody's isn't the others', however often it is read.
        for _ in 0..=GRACE {
            assert!(!owners.learn(&links, None));
            assert_eq!(owners.readings(&links, &ports).len(), 0);
        }
        assert!(owners.learn(&links, Some(&[(4, running.clone())])));
        assert!(!owners.learn(&links, Some(&[(4, running)])));
        // The node's own interface isn't a workload's, and a stranger may still become somebody's.
        let readings = owners.readings(&links, &ports);
        assert_eq!(names(&readings), ["cache"]);
        let first = &readings[0];
        assert_eq!(
            (first.meter.customer.as_deref(), first.rx, first.tx),
            (Some("acme"), 5, 100)
        );
        for _ in 1..GRACE {
            assert_eq!(owners.readings(&links, &ports).len(), 1);
        }
        assert_eq!(names(&owners.readings(&links, &ports)), ["cache", OTHERS]);

        let links = &links[..1];
        let later: Owners = serde_json::from_str(&serde_json::to_string(&owners).unwrap()).unwrap();
        assert_eq!(
            names(&later.clone().readings(links, &ports)),
            ["cache", OTHERS]
        );
        assert_eq!(later.gone(links, &ports), [7, 8]);
        // Of one that never counted anything nothing stays either.
        assert_eq!(later.gone(links, &BTreeMap::new()), [7]);
        let mut later = later;
        later.forget(&[7, 8]);
        assert_eq!(later, Owners::default());
    }
}
