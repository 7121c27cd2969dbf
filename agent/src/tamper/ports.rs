//! Who listens on the node's network, and whether that is expected: an image's service, a workload, or a port that the settings name.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;

use cairn_tamper::sockets::{self, Listener, Owner, Port, Protocol};
use cairn_tamper::{Finding, glob};

use crate::telemetry::Sources;

/// So many processes are looked at.
const PROCESSES: usize = 100_000;
/// Services that open ports for others: what they open must be a workload's.
const FOR_OTHERS: [&str; 2] = ["docker.service", "containerd.service"];
/// Services that let people in: without pam_systemd what these start stays in the service's control group.
const LOGINS: [&str; 5] = [
    "*getty@*.service",
    "console-getty.service",
    "debug-shell.service",
    "rescue.service",
    "emergency.service",
];
/// The same, and it listens itself, by this program.
const SSH: (&str, &str) = ("ssh*.service", "sshd");
/// Where systemd itself runs; its sockets are units, and looked at as such.
const SYSTEMD: &str = "/init.scope";
/// Ports that UDP takes when it asks somebody, if the kernel doesn't say.
const PASSING: (u16, u16) = (32_768, 60_999);

/// What is expected.
#[derive(Debug, Default)]
pub struct Expected {
    /// Whoever opens them.
    pub ports: BTreeSet<Port>,
    /// The image's units that run as the image has them.
    pub units: BTreeSet<String>,
    /// What workloads publish.
    pub published: BTreeSet<Port>,
    /// The containers that run for workloads; none before Docker was asked.
    pub containers: Option<BTreeSet<String>>,
    /// What was found last: what can't be judged stays as it was.
    pub found: BTreeSet<Finding>,
}

impl Expected {
    /// None if only Docker could tell, and wasn't asked yet.
    fn allows(&self, port: Port, owner: &Owner) -> Option<bool> {
        if owner.group == SYSTEMD && owner.pid == 1 {
            return Some(true);
        }
        if let Some(id) = owner.container() {
            return Some(self.containers.as_ref()?.contains(id));
        }
        let allowed = match owner.unit() {
            Some(unit) if FOR_OTHERS.contains(&unit) => {
                let is_published = self.published.contains(&port);
                return (is_published || self.containers.is_some()).then_some(is_published);
            }
            Some(unit) if glob::any(&LOGINS, unit) => false,
            Some(unit) if glob::matches(SSH.0, unit) && owner.program != SSH.1 => false,
            Some(unit) => self.units.contains(unit),
            None => false,
        };
        Some(allowed)
    }
}

/// Remembers who owns which socket, so that processes are looked through only for new ones.
#[derive(Debug, Default)]
pub struct Ports {
    owners: BTreeMap<u64, Owner>,
    /// Sockets of passing ports that the last look saw.
    passing: BTreeSet<u64>,
}

impl Ports {
    /// The listeners that nobody expects.
    ///
    /// # Errors
    /// If sockets can't be read, or whose one is can't be found out.
    pub fn look(&mut self, sources: &Sources, expected: &Expected) -> Result<Vec<Finding>, String> {
        let listeners = self.listeners(sources, expected)?;
        let known: BTreeSet<_> = listeners.iter().map(|listener| listener.inode).collect();
        self.owners.retain(|inode, _| known.contains(inode));
        let new = known
            .iter()
            .filter(|inode| !self.owners.contains_key(inode));
        let mut new: BTreeSet<_> = new.copied().filter(|inode| *inode != 0).collect();
        let refused = if new.is_empty() {
            None
        } else {
            self.find_owners(sources, &mut new)
        };
        let mut findings = Vec::new();
        for listener in &listeners {
            match self.owners.get(&listener.inode) {
                Some(owner) => {
                    let finding = sockets::finding(listener, owner);
                    let allowed = expected.allows(listener.port, owner);
                    if !allowed.unwrap_or_else(|| !expected.found.contains(&finding)) {
                        findings.push(finding);
                    }
                }
                // The kernel's own have no number. Any other without an owner is gone, or wasn't shown.
                None if listener.inode == 0 => {
                    findings.push(sockets::finding(listener, &Owner::default()));
                }
                None => {
                    if let Some(error) = &refused {
                        return Err(format!(
                            "whose {} is cannot be found out: {error}",
                            listener.port
                        ));
                    }
                }
            }
        }
        Ok(findings)
    }

    /// Those that others can reach and whose port alone doesn't say that it is right.
    fn listeners(
        &mut self,
        sources: &Sources,
        expected: &Expected,
    ) -> Result<Vec<Listener>, String> {
        let mut all = Vec::new();
        for (protocol, name) in [(Protocol::Tcp, "tcp"), (Protocol::Udp, "udp")] {
            let path = format!("proc/net/{name}");
            let text = sources
                .text(&path)
                .ok_or_else(|| format!("/{path} cannot be read"))?;
            all.extend(sockets::parse(protocol, &text));
            // A kernel without IPv6 has no such file.
            let text = sources.text(&format!("{path}6")).unwrap_or_default();
            all.extend(sockets::parse(protocol, &text));
        }
        let (low, high) = passing(sources);
        let mut passing = BTreeSet::new();
        all.retain(|listener| {
            if listener.is_loopback() || expected.ports.contains(&listener.port) {
                return false;
            }
            // Who asks by UDP waits for the answer at such a port; one that stays is a service.
            if listener.port.protocol == Protocol::Udp
                && (low..=high).contains(&listener.port.number)
            {
                passing.insert(listener.inode);
                return self.passing.contains(&listener.inode);
            }
            true
        });
        self.passing = passing;
        Ok(all)
    }

    /// Looks for the sockets in `wanted` among what processes hold. Gives an error if one could not be looked at.
    fn find_owners(&mut self, sources: &Sources, wanted: &mut BTreeSet<u64>) -> Option<io::Error> {
        let mut refused = None;
        let proc = sources.root.join("proc");
        let processes = fs::read_dir(&proc).into_iter().flatten().flatten();
        let number = |entry: fs::DirEntry| entry.file_name().to_str()?.parse::<u32>().ok();
        let mut processes: Vec<_> = processes.filter_map(number).take(PROCESSES).collect();
        // systemd first: it keeps the sockets that it gave to others.
        processes.sort_unstable();
        for pid in processes {
            if wanted.is_empty() {
                break;
            }
            let held = match held(&proc.join(pid.to_string()).join("fd"), wanted) {
                Ok(held) => held,
                Err(error) => {
                    // A process that has ended holds nothing.
                    if error.kind() == io::ErrorKind::PermissionDenied {
                        refused = Some(error);
                    }
                    continue;
                }
            };
            for inode in held {
                wanted.remove(&inode);
                self.owners.insert(inode, owner(sources, pid));
            }
        }
        refused
    }
}

fn held(folder: &std::path::Path, wanted: &BTreeSet<u64>) -> io::Result<Vec<u64>> {
    let mut held = Vec::new();
    for entry in fs::read_dir(folder)? {
        let link = match fs::read_link(entry?.path()) {
            Ok(link) => link,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let inode = link.to_str().and_then(|link| {
            let number = link.strip_prefix("socket:[")?.strip_suffix(']')?;
            number.parse::<u64>().ok()
        });
        held.extend(inode.filter(|inode| wanted.contains(inode)));
    }
    Ok(held)
}

fn owner(sources: &Sources, pid: u32) -> Owner {
    let text = |name: &str| {
        sources
            .text(&format!("proc/{pid}/{name}"))
            .unwrap_or_default()
    };
    Owner {
        pid,
        program: text("comm").trim_end().to_owned(),
        group: sockets::group(&text("cgroup"))
            .unwrap_or_default()
            .to_owned(),
    }
}

fn passing(sources: &Sources) -> (u16, u16) {
    let read = || {
        let text = sources.text("proc/sys/net/ipv4/ip_local_port_range")?;
        let mut words = text.split_ascii_whitespace().map(|word| word.parse().ok());
        Some((words.next()??, words.next()??))
    };
    read().unwrap_or(PASSING)
}
