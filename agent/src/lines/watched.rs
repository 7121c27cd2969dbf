//! A target of a line: where it is, how it is probed, what it answered.

use std::net::IpAddr;
use std::time::Duration;

use cairn_line::{Answer, Chooser, Figures, Method, Window};
use futures_util::future::join_all;
use tokio::time::{Instant, timeout};

use super::probe::{Goal, probe};
use super::settings::{Line, Target};

/// How long a name's address is taken for granted; less if it stays silent.
const KNOWN: Duration = Duration::from_secs(600);
const DOUBTED: Duration = Duration::from_secs(60);
/// How long it may take to look a name up.
const LOOKUP: Duration = Duration::from_secs(5);

/// A host and a port.
pub type Place = (String, u16);

/// One target.
pub struct Watched {
    target: Target,
    found: Option<Found>,
    chooser: Chooser,
    window: Window,
    silent: bool,
}

/// A name's address.
struct Found {
    host: String,
    address: IpAddr,
    at: Instant,
}

impl Watched {
    /// Nothing is known yet.
    pub fn new(target: Target, line: &Line) -> Self {
        Self {
            target,
            found: None,
            chooser: Chooser::new(&line.methods),
            window: Window::new(line.window),
            silent: false,
        }
    }

    /// Probes it once, by one method or more. `server` is where the control plane is, and `began` what time counts from.
    pub async fn round(&mut self, line: &Line, server: Option<&Place>, began: Instant) {
        let Some(goal) = self.goal(line, server).await else {
            return;
        };
        let at = began.elapsed();
        let probes = self.chooser.round(at).into_iter().map(|method| async move {
            let answer = probe(method, goal, line.interface.as_deref(), line.timeout).await;
            (method, answer)
        });
        let answers = join_all(probes).await;
        let current = self.chooser.current();
        let counts = answers.iter().find(|(method, _)| *method == current);
        match counts.map(|(_, answer)| *answer) {
            Some(Answer::Came(took)) => self.window.add(at, Some(took)),
            Some(Answer::Silent) => self.window.add(at, None),
            Some(Answer::Unusable) | None => {}
        }
        self.silent = !answers
            .iter()
            .any(|(_, answer)| matches!(answer, Answer::Came(_)));
        if self.chooser.heard(at, &answers) {
            let now = self.chooser.current();
            tracing::info!(line = line.name, target = %goal.address, before = %current, %now, "probed by another method");
            self.window.clear();
        }
    }

    /// What it shows of its line, if it was probed at all.
    pub fn figures(&mut self, began: Instant) -> Option<(Method, Figures)> {
        Some((
            self.chooser.current(),
            self.window.figures(began.elapsed())?,
        ))
    }

    async fn goal(&mut self, line: &Line, server: Option<&Place>) -> Option<Goal> {
        let (host, tcp_port) = match &self.target {
            Target::Server => server.cloned()?,
            Target::Host(host, port) => (host.clone(), *port),
        };
        let address = self.address(host, line).await?;
        Some(Goal {
            address,
            udp_port: line.udp_port,
            tcp_port,
        })
    }

    /// An address of the host; the one that is known if a new one can't be found.
    async fn address(&mut self, host: String, line: &Line) -> Option<IpAddr> {
        let known = self.found.as_ref().filter(|found| found.host == host);
        let fresh = if self.silent { DOUBTED } else { KNOWN };
        if let Some(found) = known
            && found.at.elapsed() < fresh
        {
            return Some(found.address);
        }
        let (known, at) = (known.map(|found| found.address), Instant::now());
        let address = look_up(&host, known).await.or(known);
        if address.is_none() {
            tracing::debug!(
                line = line.name,
                host,
                "no address is known of a line's target"
            );
        }
        // Another host's answers don't compare.
        if self.found.as_ref().map(|found| found.address) != address {
            self.chooser = Chooser::new(&line.methods);
            self.window.clear();
        }
        self.found = address.map(|address| Found { host, address, at });
        address
    }
}

/// An address of a name: the one that is known if it is still one of them, for each has its own round trips.
async fn look_up(host: &str, known: Option<IpAddr>) -> Option<IpAddr> {
    if let Ok(address) = host.parse() {
        return Some(address);
    }
    let found = timeout(LOOKUP, tokio::net::lookup_host((host, 0))).await;
    let mut found = found.ok()?.ok()?.map(|found| found.ip()).peekable();
    let first = found.peek().copied();
    found.find(|found| Some(*found) == known).or(first)
}
