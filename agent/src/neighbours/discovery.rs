//! Who is there: multicast DNS (RFC 6762) and service discovery (RFC 6763).
//!
//! A node announces `<device>._cairn._tcp.local`. Who believes that learns no more than where to try TLS.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mdns_sd::{IfKind, IfPredicate, ResolvedService, ServiceDaemon, ServiceEvent, ServiceInfo};
use tokio::sync::watch;
use tokio::time::Instant;

const SERVICE: &str = "_cairn._tcp.local.";
/// No more neighbours are remembered.
const MOST: usize = 64;
/// How long after the first question all who are there have answered.
const SETTLED: Duration = Duration::from_secs(3);
/// How long one that failed isn't asked.
const ILL: Duration = Duration::from_secs(30);

/// The neighbours, as far as they are known. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Known {
    all: Arc<Mutex<BTreeMap<String, Place>>>,
    /// When the search began.
    since: watch::Sender<Option<Instant>>,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    address: SocketAddr,
    ill_until: Option<Instant>,
}

impl Default for Known {
    fn default() -> Self {
        Self {
            all: Arc::default(),
            since: watch::channel(None).0,
        }
    }
}

impl Known {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Place>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All who can be asked now: id and address.
    pub fn all(&self) -> Vec<(String, SocketAddr)> {
        let now = Instant::now();
        let all = self.lock();
        let well = all
            .iter()
            .filter(|(_, place)| place.ill_until.is_none_or(|until| until <= now));
        well.map(|(id, place)| (id.clone(), place.address))
            .collect()
    }

    /// It failed, and isn't asked for a while, unless it announces itself.
    pub fn is_ill(&self, id: &str) {
        if let Some(place) = self.lock().get_mut(id) {
            place.ill_until = Some(Instant::now() + ILL);
        }
    }

    /// Waits until those who were there when the search began have answered.
    pub async fn settled(&self) {
        let mut since = self.since.subscribe();
        let began = async {
            since
                .wait_for(Option::is_some)
                .await
                .ok()
                .and_then(|began| *began)
        };
        if let Ok(Some(began)) = tokio::time::timeout(SETTLED, began).await {
            tokio::time::sleep_until(began + SETTLED).await;
        }
    }

    /// It announced itself.
    pub fn add(&self, id: String, address: SocketAddr) {
        let mut all = self.lock();
        if all.len() < MOST || all.contains_key(&id) {
            let place = Place {
                address,
                ill_until: None,
            };
            let known = all.insert(id.clone(), place);
            if known.is_none_or(|known| known.address != address) {
                tracing::info!(neighbour = id, %address, "a neighbour is there");
            }
        }
    }

    fn remove(&self, id: &str) {
        self.lock().remove(id);
    }
}

/// Announces this node and follows who else is there, until it is dropped.
///
/// # Errors
/// If there is no way to send or receive multicasts.
pub async fn run(device: &str, port: u16, known: &Known) -> io::Result<Infallible> {
    let daemon = Daemon(ServiceDaemon::new().map_err(io::Error::other)?);
    // Neither the node itself nor its containers are neighbours.
    let inner = |name: &str| {
        ["lo", "docker", "veth", "br-"]
            .iter()
            .any(|kind| name.starts_with(kind))
    };
    let inner = IfPredicate::new(move |interface| inner(&interface.name));
    let disabled = daemon.0.disable_interface(IfKind::Predicate(inner));
    disabled.map_err(io::Error::other)?;
    let host = format!("cairn-{device}.local.");
    let service = ServiceInfo::new(SERVICE, device, &host, "", port, None);
    let service = service.map_err(io::Error::other)?.enable_addr_auto();
    daemon.0.register(service).map_err(io::Error::other)?;
    let events = daemon.0.browse(SERVICE).map_err(io::Error::other)?;
    known.lock().clear();
    known.since.send_replace(Some(Instant::now()));
    while let Ok(event) = events.recv_async().await {
        match event {
            ServiceEvent::ServiceResolved(service) => {
                if let Some((id, address)) = place(&service).filter(|(id, _)| id != device) {
                    known.add(id, address);
                }
            }
            ServiceEvent::ServiceRemoved(_, name) => {
                if let Some(id) = instance(&name) {
                    known.remove(id);
                }
            }
            _ => {}
        }
    }
    Err(io::Error::other("multicast DNS has ended"))
}

/// Tells the others that this node is gone, when it is dropped.
struct Daemon(ServiceDaemon);

impl Drop for Daemon {
    fn drop(&mut self) {
        // It has ended already, then.
        let _ = self.0.shutdown();
    }
}

fn instance(name: &str) -> Option<&str> {
    name.strip_suffix(SERVICE)?.strip_suffix('.')
}

/// Its id, and an address that needs no interface's name beside it; one of version 4 if there is one.
fn place(service: &ResolvedService) -> Option<(String, SocketAddr)> {
    let id = instance(&service.fullname)?;
    let addresses = service.addresses.iter().map(|address| address.to_ip_addr());
    let usable = addresses.filter(|address| match address {
        IpAddr::V4(_) => true,
        IpAddr::V6(address) => !address.is_unicast_link_local(),
    });
    let address = usable.min_by_key(|address| (address.is_ipv6(), *address))?;
    Some((id.to_owned(), SocketAddr::new(address, service.port)))
}
