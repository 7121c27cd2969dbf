//! One of Docker's containers, which does what its command says.

use cairn_wire::workload::Restart;

use crate::seen::{self, Health, Run, Seen};

/// Commands of those that run well.
pub(super) const GOOD: [&str; 3] = ["good-a", "good-b", "checked"];

/// One of Docker's.
#[derive(Debug)]
pub(super) struct Container {
    pub(super) seen: Seen,
    pub(super) command: String,
    /// When Docker starts it again.
    pub(super) rule: Restart,
    /// Its process ended by itself, and nobody has started it since.
    pub(super) ended: bool,
}

impl Container {
    pub(super) fn is_ours(&self) -> bool {
        !self.seen.id.starts_with('f')
    }

    pub(super) fn start(&mut self, now: u64) {
        let health = match self.command.as_str() {
            "checked" | "sick" => Health::Starting,
            _ => Health::Unchecked,
        };
        let since = now.to_string();
        self.seen.run = Run::Running { health, since };
        self.ended = false;
    }

    /// Docker ends, with its process, and starts again. Whoever stopped what ended with a failure, `on-failure` starts it.
    pub(super) fn docker_restarts(&mut self, now: u64) {
        match self.seen.run {
            Run::Exited { code, .. } if code != 0 && self.rule == Restart::OnFailure => {
                self.start(now);
            }
            _ => self.end(now),
        }
    }

    /// Its process ends, if it has one, and Docker goes by its rule.
    pub(super) fn end(&mut self, now: u64) {
        if !self.seen.run.is_active() {
            return;
        }
        let code = i64::from(!GOOD.contains(&self.command.as_str()));
        match self.rule {
            Restart::Always => self.start(now),
            Restart::OnFailure if code != 0 => self.start(now),
            Restart::OnFailure | Restart::Never => {
                self.seen.run = Run::Exited { code, oom: false };
                self.ended = true;
            }
        }
    }
}

/// Those of others.
pub(super) fn foreign() -> Vec<Container> {
    let of = |id: &str, name: &str, labels: &[(&str, &str)]| Seen {
        id: id.into(),
        name: name.into(),
        labels: labels
            .iter()
            .map(|(k, v)| ((*k).into(), (*v).into()))
            .collect(),
        image_id: "theirs".into(),
        image: "theirs".into(),
        run: Run::Running {
            health: Health::Unchecked,
            since: "0".into(),
        },
        restarts: 0,
    };
    let other_node = [(seen::NODE, "other"), (seen::WORKLOAD, "w0")];
    let half = [(seen::WORKLOAD, "w0"), (seen::CUSTOMER, "acme")];
    // Made of an image that was made of one of ours.
    let copied = [(seen::NODE, "n"), (seen::WORKLOAD, "w0")];
    [
        of("f1", "db", &[]),
        of("f2", "cairn-w9", &other_node),
        of("f3", "cairn-x", &half),
        of("f4", "copy", &copied),
    ]
    .map(|seen| Container {
        seen,
        command: String::new(),
        rule: Restart::Always,
        ended: false,
    })
    .into()
}
