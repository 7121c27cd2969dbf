//! The state machine of one template, one device and one instance.

use serde::{Deserialize, Serialize};

use crate::condition::Verdict;
use crate::template::Template;

/// What is known. The default has nothing to say and needn't be kept, unless something waits ([`Track::due`]).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Track {
    /// Where it is.
    phase: Phase,
    /// Lives that have begun.
    lives: u64,
    /// Time of the newest sample that was judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    judged: Option<i64>,
    /// When it fired and was resolved of late, for the flapping rule.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    changes: Vec<i64>,
    /// A life that people were told of, and whose end they weren't since it was in a silence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    owed: Option<u64>,
    /// When time alone may change something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    due: Option<i64>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Phase {
    #[default]
    Quiet,
    Pending(Span),
    Firing(Firing),
}

/// Something that lasts: by the samples' own time, and by ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Span {
    /// Time of the first sample.
    since: i64,
    /// When it has lasted long enough, if nothing more comes.
    due: i64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Firing {
    fired: i64,
    /// Whether people were told that it fires.
    told: bool,
    acknowledged: bool,
    /// Steps of the escalation that are done.
    level: usize,
    flapping: bool,
    /// Since when it is well.
    clearing: Option<Span>,
}

/// Where a life is, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It is wrong, and not yet for long enough.
    Pending,
    /// It fires.
    Firing,
    /// It fires, and somebody knows.
    Acknowledged,
    /// It is over.
    Resolved,
}

impl Status {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Pending,
        Self::Firing,
        Self::Acknowledged,
        Self::Resolved,
    ];

    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Firing => "firing",
            Self::Acknowledged => "acknowledged",
            Self::Resolved => "resolved",
        }
    }
}

/// Something that happened to a track.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A sample of this time was judged.
    Sample {
        /// When it was measured.
        ts: i64,
        /// What it says.
        verdict: Verdict,
    },
    /// Something came at all, measured at this time: for conditions that wait.
    Heard(i64),
    /// Time has passed. For conditions that wait: when something last came.
    Tick {
        /// The newest sign of life.
        heard: Option<i64>,
    },
    /// Somebody has seen it.
    Acknowledge,
    /// The template or the device is gone, or they have no more to do with each other. Nobody is told.
    Withdraw,
}

/// What people are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Notice {
    /// It fires.
    Fired,
    /// Nobody has acknowledged it; the step of the escalation, from 1.
    Escalated(usize),
    /// It is over.
    Resolved,
}

/// What the caller does, in this order. All but notices are of the track's newest life ([`Track::life`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// A life begins: it is pending.
    Began,
    /// A pending life ends without having fired: it was nothing.
    Lapsed,
    /// It fires.
    Fired,
    /// Somebody has seen it.
    Acknowledged,
    /// It is kept firing although it is well, since it changes too often.
    Flapping,
    /// Nobody has seen it; the step of the escalation, from 1.
    Escalated(usize),
    /// It is over.
    Resolved,
    /// It is over because there is nothing to look at any more.
    Withdrawn,
    /// Tell people. Each notice comes at most once in a life.
    Notify {
        /// Of this life: the newest, or one that ended in a silence.
        life: u64,
        /// What.
        notice: Notice,
    },
}

impl Track {
    /// Number of the newest life, from 1; 0 before the first.
    pub fn life(&self) -> u64 {
        self.lives
    }

    /// When time alone may change something: then call [`step`] with [`Event::Tick`].
    pub fn due(&self) -> Option<i64> {
        self.due
    }

    /// Where the newest life is; nothing if none is open.
    pub fn status(&self) -> Option<Status> {
        match &self.phase {
            Phase::Quiet => None,
            Phase::Pending(_) => Some(Status::Pending),
            Phase::Firing(firing) if firing.acknowledged => Some(Status::Acknowledged),
            Phase::Firing(_) => Some(Status::Firing),
        }
    }

    /// Steps of the escalation that are done.
    pub fn level(&self) -> usize {
        match &self.phase {
            Phase::Firing(firing) => firing.level,
            _ => 0,
        }
    }

    /// Whether it is kept firing since it changes too often.
    pub fn flapping(&self) -> bool {
        matches!(&self.phase, Phase::Firing(firing) if firing.flapping)
    }
}

/// What an event does. `silenced` says until when nobody is to be told, if that is so now.
pub fn step(
    template: &Template,
    before: &Track,
    event: Event,
    now: i64,
    silenced: Option<i64>,
) -> (Track, Vec<Effect>) {
    let mut step = Step {
        template,
        track: before.clone(),
        now,
        silenced: silenced.filter(|until| *until > now),
        effects: Vec::new(),
    };
    match event {
        Event::Sample { ts, verdict } => step.sample(ts, verdict),
        Event::Heard(at) => step.heard(at),
        Event::Tick { heard } => step.tick(heard),
        Event::Acknowledge => step.acknowledge(),
        Event::Withdraw => step.withdraw(),
    }
    step.settle();
    (step.track, step.effects)
}

struct Step<'t> {
    template: &'t Template,
    track: Track,
    now: i64,
    silenced: Option<i64>,
    effects: Vec<Effect>,
}

fn ms(seconds: cairn_fleet::Seconds) -> i64 {
    i64::from(seconds.0) * 1000
}

impl Step<'_> {
    fn sample(&mut self, ts: i64, verdict: Verdict) {
        // Late, out of order, or the same again.
        if self.track.judged.is_some_and(|judged| ts <= judged) {
            return;
        }
        self.track.judged = Some(ts);
        match verdict {
            Verdict::Crosses => self.crosses(ts),
            Verdict::Clears => self.clears(ts),
            Verdict::Between => match &mut self.track.phase {
                Phase::Quiet => {}
                Phase::Pending(_) => self.lapse(),
                Phase::Firing(firing) => firing.clearing = None,
            },
        }
    }

    fn crosses(&mut self, ts: i64) {
        let hold = ms(self.template.hold);
        match &mut self.track.phase {
            Phase::Quiet => {
                self.begin();
                if hold == 0 {
                    self.fire();
                } else {
                    let due = self.now.saturating_add(hold);
                    self.track.phase = Phase::Pending(Span { since: ts, due });
                }
            }
            Phase::Pending(span) if ts.saturating_sub(span.since) >= hold => self.fire(),
            Phase::Pending(_) => {}
            Phase::Firing(firing) => firing.clearing = None,
        }
    }

    fn clears(&mut self, ts: i64) {
        let needed = self.needed();
        match &mut self.track.phase {
            Phase::Quiet => {}
            Phase::Pending(_) => self.lapse(),
            Phase::Firing(firing) => {
                let due = self.now.saturating_add(needed);
                let span = *firing.clearing.get_or_insert(Span { since: ts, due });
                if ts.saturating_sub(span.since) >= needed {
                    self.well(ts);
                }
            }
        }
    }

    /// How long it must be well.
    fn needed(&self) -> i64 {
        let quiet = self
            .template
            .flapping
            .filter(|_| self.track.flapping())
            .map_or(0, |flapping| ms(flapping.quiet));
        ms(self.template.clear_for).max(quiet)
    }

    /// For conditions that wait: something came.
    fn heard(&mut self, at: i64) {
        let fresh = at.saturating_add(ms(self.template.hold));
        // What comes late is no sign that the device is there now.
        if fresh <= self.now {
            return;
        }
        match self.track.phase {
            Phase::Quiet => {
                // Later ones are looked up when the time has come, so that the usual sample changes nothing.
                self.track.due.get_or_insert(fresh);
            }
            Phase::Pending(_) => self.lapse(),
            Phase::Firing(_) => self.clears(at.min(self.now)),
        }
    }

    fn tick(&mut self, heard: Option<i64>) {
        if self.template.when.waits() {
            self.wait(heard);
        }
        match &self.track.phase {
            Phase::Pending(span) if span.due <= self.now => self.fire(),
            Phase::Firing(firing) => match firing.clearing {
                Some(span) if span.due <= self.now => self.well(span.since),
                _ => {}
            },
            _ => {}
        }
    }

    /// Looks whether what is waited for has come.
    fn wait(&mut self, heard: Option<i64>) {
        let hold = ms(self.template.hold);
        let until = heard.map_or(self.now, |heard| heard.saturating_add(hold));
        match &mut self.track.phase {
            Phase::Quiet if until > self.now => self.track.due = Some(until),
            Phase::Quiet => {
                self.begin();
                self.fire();
            }
            Phase::Firing(firing) if until <= self.now => firing.clearing = None,
            _ => {}
        }
    }

    fn begin(&mut self) {
        self.track.lives = self.track.lives.saturating_add(1);
        self.effects.push(Effect::Began);
    }

    fn lapse(&mut self) {
        self.track.phase = Phase::Quiet;
        self.effects.push(Effect::Lapsed);
    }

    fn fire(&mut self) {
        self.track.phase = Phase::Firing(Firing {
            fired: self.now,
            ..Firing::default()
        });
        self.effects.push(Effect::Fired);
        if self.changed() {
            self.flaps();
        }
    }

    /// Notes a change; whether there were too many.
    fn changed(&mut self) -> bool {
        let Some(rule) = self.template.flapping else {
            return false;
        };
        let changes = &mut self.track.changes;
        changes.push(self.now);
        let from = self.now.saturating_sub(ms(rule.within));
        changes.retain(|at| *at > from);
        let most = usize::try_from(rule.changes).unwrap_or(usize::MAX);
        changes.drain(..changes.len().saturating_sub(most));
        changes.len() >= most
    }

    fn flaps(&mut self) {
        if let Phase::Firing(firing) = &mut self.track.phase
            && !firing.flapping
        {
            firing.flapping = true;
            self.effects.push(Effect::Flapping);
        }
    }

    /// It has been well for long enough, since `since`.
    fn well(&mut self, since: i64) {
        if !self.track.flapping() && self.changed() {
            self.flaps();
            let due = self.now.saturating_add(self.needed());
            if let Phase::Firing(firing) = &mut self.track.phase {
                firing.clearing = Some(Span { since, due });
            }
            return;
        }
        let told = matches!(&self.track.phase, Phase::Firing(firing) if firing.told);
        if self.track.flapping() {
            self.track.changes.clear();
        }
        self.track.phase = Phase::Quiet;
        self.effects.push(Effect::Resolved);
        // Who was never told that it fires needn't hear that it is over.
        if told {
            self.track.owed = Some(self.track.lives);
        }
    }

    fn acknowledge(&mut self) {
        if let Phase::Firing(firing) = &mut self.track.phase
            && !firing.acknowledged
        {
            firing.acknowledged = true;
            self.effects.push(Effect::Acknowledged);
        }
    }

    fn withdraw(&mut self) {
        match self.track.phase {
            Phase::Quiet => {}
            Phase::Pending(_) => self.lapse(),
            Phase::Firing(_) => {
                self.track.phase = Phase::Quiet;
                self.effects.push(Effect::Withdrawn);
            }
        }
        self.track.changes.clear();
    }

    /// Tells people what they should know by now, and works out when to look again.
    fn settle(&mut self) {
        let mut due = match &self.track.phase {
            Phase::Quiet if !self.template.when.waits() => None,
            // It has just ended: it waits anew.
            Phase::Quiet if !self.effects.is_empty() => {
                Some(self.now.saturating_add(ms(self.template.hold)))
            }
            Phase::Quiet => self.track.due,
            Phase::Pending(span) => Some(span.due),
            Phase::Firing(_) => self.tell(),
        };
        if let Some(life) = self.track.owed {
            match self.silenced {
                Some(until) => due = Some(due.map_or(until, |due| due.min(until))),
                None => {
                    self.track.owed = None;
                    self.notify(life, Notice::Resolved);
                }
            }
        }
        self.track.due = due;
    }

    /// Of what fires; gives when to look again.
    fn tell(&mut self) -> Option<i64> {
        let Phase::Firing(firing) = &mut self.track.phase else {
            return None;
        };
        let steps = &self.template.escalate;
        let clearing = firing.clearing.map(|span| span.due);
        let earlier = |moment: i64| Some(clearing.map_or(moment, |due| due.min(moment)));
        if firing.acknowledged || (firing.told && firing.level >= steps.len()) {
            return clearing;
        }
        if let Some(until) = self.silenced {
            return earlier(until);
        }
        let mut notices = Vec::new();
        if !firing.told {
            firing.told = true;
            notices.push(Notice::Fired);
        }
        let mut next = clearing;
        while let Some(step) = steps.get(firing.level) {
            let moment = firing.fired.saturating_add(ms(step.after));
            if moment > self.now {
                next = earlier(moment);
                break;
            }
            firing.level += 1;
            notices.push(Notice::Escalated(firing.level));
        }
        for notice in notices {
            if let Notice::Escalated(level) = notice {
                self.effects.push(Effect::Escalated(level));
            }
            self.notify(self.track.lives, notice);
        }
        next
    }

    fn notify(&mut self, life: u64, notice: Notice) {
        self.effects.push(Effect::Notify { life, notice });
    }
}
