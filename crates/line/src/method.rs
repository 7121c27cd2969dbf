//! By which method a target is probed: the best that works, and who answers nothing by it may answer another.
//!
//! - A method that the node itself can't use is left at once for the next.
//! - One that stays silent for [`SILENT`] rounds is left for one that meanwhile answers [`PROVEN`] rounds in a row. When all are
//!   silent it is the line that is down, and the method stays.
//! - Every [`AGAIN`] the better ones are tried beside the one at work, and taken if they answer [`PROVEN`] rounds in a row.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Rounds of silence before other methods are tried.
pub const SILENT: u32 = 3;
/// Rounds in a row that a method must answer before it is taken.
pub const PROVEN: u32 = 3;
/// How often better methods are tried.
pub const AGAIN: Duration = Duration::from_secs(600);

/// How a probe is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// An echo request and its reply (RFC 792, RFC 4443).
    Icmp,
    /// A datagram, and another in return or the word that nobody has that port.
    Udp,
    /// The opening of a connection, accepted or refused.
    Tcp,
}

impl Method {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Icmp => "icmp",
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Methods by preference: at least one, and none twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Methods {
    first: Method,
    others: Vec<Method>,
}

impl Default for Methods {
    fn default() -> Self {
        Self {
            first: Method::Icmp,
            others: vec![Method::Udp, Method::Tcp],
        }
    }
}

impl Methods {
    /// The best first; nothing if there is none, or one is there twice.
    pub fn new(methods: &[Method]) -> Option<Self> {
        let (first, others) = methods.split_first()?;
        let mut seen = methods.iter().enumerate();
        let twice = seen.any(|(at, method)| methods.iter().take(at).any(|other| other == method));
        (!twice).then(|| Self {
            first: *first,
            others: others.to_vec(),
        })
    }

    fn iter(&self) -> impl Iterator<Item = Method> + '_ {
        std::iter::once(self.first).chain(self.others.iter().copied())
    }
}

/// What became of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// An answer came after so long.
    Came(Duration),
    /// None came in time.
    Silent,
    /// The node can't make such a probe, and sent nothing.
    Unusable,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    method: Method,
    /// Rounds in a row with an answer, or without.
    answered: u32,
    silent: u32,
    unusable: bool,
}

/// Chooses the method for one target.
#[derive(Debug, Clone)]
pub struct Chooser {
    current: Method,
    seen: Vec<Seen>,
    /// When better methods are tried again.
    again: Duration,
}

impl Chooser {
    /// Begins with the best.
    pub fn new(methods: &Methods) -> Self {
        let fresh = |method| Seen {
            method,
            answered: 0,
            silent: 0,
            unusable: false,
        };
        Self {
            current: methods.first,
            seen: methods.iter().map(fresh).collect(),
            again: Duration::ZERO,
        }
    }

    /// The one whose answers count.
    pub fn current(&self) -> Method {
        self.current
    }

    /// The methods to probe by at `now`: the one whose answers count, and those that are tried beside it.
    pub fn round(&self, now: Duration) -> Vec<Method> {
        let stuck = self
            .of(self.current)
            .is_some_and(|seen| seen.unusable || seen.silent >= SILENT);
        let current = self.position(self.current);
        let tried = self.seen.iter().enumerate().filter(|(at, seen)| {
            seen.method != self.current && (stuck || (*at < current && now >= self.again))
        });
        let tried = tried.map(|(_, seen)| seen.method);
        std::iter::once(self.current).chain(tried).collect()
    }

    /// What became of a round's probes. Says whether the method has changed, so that earlier answers don't compare with later ones.
    pub fn heard(&mut self, now: Duration, answers: &[(Method, Answer)]) -> bool {
        for (method, answer) in answers {
            if let Some(seen) = self.seen.iter_mut().find(|seen| seen.method == *method) {
                seen.take(*answer);
            }
        }
        let (at, current) = (self.position(self.current), self.of(self.current));
        let Some(current) = current else { return false };
        if current.answered > 0 {
            // What the others answer now says nothing against it; only better ones may go on.
            for worse in self.seen.iter_mut().skip(at + 1) {
                worse.answered = 0;
            }
            let better = self.seen.get(..at).unwrap_or_default();
            if now >= self.again && better.iter().all(|seen| seen.answered == 0) {
                self.again = now.saturating_add(AGAIN);
            }
        }
        let proven = |seen: &&Seen| seen.method != current.method && seen.answered >= PROVEN;
        let next = if current.unusable {
            self.seen.iter().find(|seen| !seen.unusable)
        } else if current.silent >= SILENT {
            self.seen.iter().find(proven)
        } else {
            self.seen.iter().take(at).find(proven)
        };
        let Some(next) = next.map(|seen| seen.method) else {
            return false;
        };
        self.current = next;
        self.again = now.saturating_add(AGAIN);
        for seen in &mut self.seen {
            (seen.answered, seen.silent) = (0, 0);
        }
        true
    }

    fn of(&self, method: Method) -> Option<Seen> {
        self.seen.iter().find(|seen| seen.method == method).copied()
    }

    fn position(&self, method: Method) -> usize {
        self.seen
            .iter()
            .take_while(|seen| seen.method != method)
            .count()
    }
}

impl Seen {
    fn take(&mut self, answer: Answer) {
        let (answered, silent) = (
            self.answered.saturating_add(1),
            self.silent.saturating_add(1),
        );
        (self.answered, self.silent, self.unusable) = match answer {
            Answer::Came(_) => (answered, 0, false),
            Answer::Silent => (0, silent, false),
            Answer::Unusable => (0, 0, true),
        };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CAME: Answer = Answer::Came(Duration::from_millis(9));
    const EVERY: Duration = Duration::from_secs(10);
    const ALL: [Method; 3] = [Method::Icmp, Method::Udp, Method::Tcp];

    /// A target, and rounds of probes to it.
    struct World {
        chooser: Chooser,
        now: Duration,
    }

    impl World {
        fn new() -> Self {
            Self {
                chooser: Chooser::new(&Methods::default()),
                now: Duration::ZERO,
            }
        }

        /// One round in which each method gets its answer; gives how many probes were sent.
        fn round(&mut self, of: [Answer; 3]) -> usize {
            self.now += EVERY;
            let methods = self.chooser.round(self.now);
            assert_eq!(methods[0], self.chooser.current());
            let answer = |method: &Method| (*method, of[*method as usize]);
            let answers: Vec<_> = methods.iter().map(answer).collect();
            let before = self.chooser.current();
            let changed = self.chooser.heard(self.now, &answers);
            assert_eq!(changed, before != self.chooser.current());
            answers.len()
        }

        fn rounds(&mut self, count: u32, of: [Answer; 3]) -> Method {
            for _ in 0..count {
                self.round(of);
            }
            self.chooser.current()
        }
    }

    #[test]
    fn a_silent_method_gives_way_to_one_that_answers_and_comes_back() {
        let mut world = World::new();
        let blocked = [Answer::Silent, Answer::Silent, CAME];
        assert_eq!(world.rounds(SILENT + PROVEN - 1, blocked), Method::Icmp);
        assert_eq!(world.rounds(1, blocked), Method::Tcp);
        // It goes by one probe again, until the better ones are due.
        assert_eq!(world.round(blocked), 1);
        let quiet = u32::try_from(AGAIN.as_secs() / EVERY.as_secs()).unwrap();
        assert_eq!(world.rounds(quiet - 2, [CAME; 3]), Method::Tcp);
        assert_eq!(world.round([CAME; 3]), 3);
        assert_eq!(world.rounds(PROVEN - 2, [CAME; 3]), Method::Tcp);
        assert_eq!(world.rounds(1, [CAME; 3]), Method::Icmp);
    }

    #[test]
    fn a_dead_line_is_not_the_methods_fault() {
        let mut world = World::new();
        assert_eq!(world.rounds(100, [Answer::Silent; 3]), Method::Icmp);
        // All come back at once: nothing has changed.
        assert_eq!(world.rounds(100, [CAME; 3]), Method::Icmp);
    }

    #[test]
    fn what_cannot_be_used_is_left_at_once() {
        let mut world = World::new();
        assert_eq!(world.rounds(1, [Answer::Unusable, CAME, CAME]), Method::Udp);
        assert_eq!(
            world.rounds(1, [Answer::Unusable, Answer::Unusable, CAME]),
            Method::Tcp
        );
        let mut world = World::new();
        assert_eq!(world.rounds(50, [Answer::Unusable; 3]), Method::Tcp);
    }

    #[test]
    fn methods_are_some_and_none_twice() {
        assert_eq!(Methods::new(&ALL), Some(Methods::default()));
        assert_eq!(Methods::new(&[]), None);
        assert_eq!(
            Methods::new(&[Method::Tcp, Method::Icmp, Method::Tcp]),
            None
        );
        assert!(Methods::new(&[Method::Tcp]).is_some());
    }

    fn answer() -> impl Strategy<Value = Answer> {
        prop_oneof![Just(CAME), Just(Answer::Silent), Just(Answer::Unusable)]
    }

    fn answers() -> impl Strategy<Value = [Answer; 3]> {
        prop::array::uniform3(answer())
    }

    proptest! {
        /// Whatever came before: in a world that stays as it is the best method that answers is found, and kept.
        #[test]
        fn the_best_that_answers_is_found_and_kept(
            before in prop::collection::vec(answers(), 0..80),
            after in answers(),
        ) {
            let mut world = World::new();
            for of in before {
                world.round(of);
            }
            world.rounds(200, after);
            if let Some(best) = ALL.into_iter().find(|method| after[*method as usize] == CAME) {
                prop_assert_eq!(world.chooser.current(), best);
                prop_assert_eq!(world.rounds(300, after), best);
            }
        }

        /// Losses alone, of whatever method, never take it from one that answers at least every third probe.
        #[test]
        fn who_answers_now_and_then_stays(
            others in prop::collection::vec((answer(), answer(), 0u32..SILENT), 1..100),
        ) {
            let mut world = World::new();
            for (udp, tcp, lost) in others {
                world.rounds(lost, [Answer::Silent, udp, tcp]);
                prop_assert_eq!(world.rounds(1, [CAME, udp, tcp]), Method::Icmp);
            }
        }
    }
}
