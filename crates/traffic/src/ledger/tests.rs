//! A node whose counters, clocks and power do what they do, beside a count that nothing can disturb.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::chain::{self, Fit, Known};

fn meter(name: &str) -> Meter {
    Meter {
        kind: Kind::Interface,
        name: name.into(),
        customer: None,
        business: None,
    }
}

fn moment(boot: u32, steady_ms: i64, wall_ms: i64) -> Moment {
    Moment {
        boot: format!("boot-{boot}"),
        steady_ms,
        wall_ms,
    }
}

fn reading(name: &str, epoch: u32, rx: u64, tx: u64) -> Reading {
    Reading {
        meter: meter(name),
        epoch: epoch.to_string(),
        rx,
        tx,
    }
}

/// All that was booked for a meter, in records and in open slots.
fn booked(ledger: &Ledger, records: &[Record], name: &str) -> (u64, u64) {
    let usage = records.iter().flat_map(|record| &record.usage);
    let closed = usage
        .filter(|usage| usage.meter.name == name)
        .map(|usage| (usage.rx, usage.tx));
    let sums = ledger.open.iter().flat_map(|(_, sums)| sums);
    let open = sums
        .filter(|(meter, _)| meter.name == name)
        .map(|(_, sum)| (sum.rx, sum.tx));
    closed
        .chain(open)
        .fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1))
}

#[test]
fn slots_are_exact_and_one_without_traffic_is_no_gap() {
    let mut ledger = Ledger::begin("a".into());
    let at = |seconds: i64| moment(1, seconds * 1000, 1_700_000_100_000 + seconds * 1000);
    // A past that nobody asked about.
    ledger.read(&at(0), vec![reading("eth0", 1, 1000, 2000)]);
    ledger.read(&at(60), vec![reading("eth0", 1, 1600, 2060)]);
    // 60 seconds over the boundary: a fifth of them before it.
    ledger.read(&at(288), vec![reading("eth0", 1, 1600, 2060)]);
    ledger.read(&at(348), vec![reading("eth0", 1, 2600, 2560)]);
    ledger.read(&at(650), vec![reading("eth0", 1, 2600, 2560)]);
    ledger.read(&at(960), vec![reading("eth0", 1, 2631, 2560)]);
    let slots: Vec<_> = ledger
        .pending()
        .iter()
        .map(|record| {
            let usage = &record.usage[0];
            (
                record.slot.start() - 1_700_000_100,
                usage.rx,
                usage.tx,
                usage.estimated,
            )
        })
        .collect();
    assert_eq!(
        slots,
        [
            (0, 800, 160, false),
            (300, 800, 400, true),
            (600, 25, 0, true)
        ]
    );
    ledger.left(1);
    assert_eq!(ledger.pending().len(), 1);
}

#[test]
fn counters_that_nobody_read_for_weeks_go_on() {
    const WEEKS: i64 = 20 * 86_400;
    let mut ledger = Ledger::begin("a".into());
    let at = |seconds: i64| moment(1, seconds * 1000, 1_700_000_100_000 + seconds * 1000);
    let container = |rx| Reading {
        meter: Meter {
            kind: Kind::Container,
            ..meter("web")
        },
        ..reading("web", 1, rx, 0)
    };
    ledger.read(&at(0), vec![]);
    ledger.read(
        &at(60),
        vec![reading("eth0", 1, 5000, 600), container(4000)],
    );
    // Containers can't be read, then nothing is: the agent is stopped.
    ledger.read(&at(WEEKS), vec![reading("eth0", 1, 5001, 600)]);
    let again = vec![reading("eth0", 1, 5010, 600), container(4001)];
    ledger.read(&at(2 * WEEKS), again);
    let records = ledger.pending().to_vec();
    assert_eq!(booked(&ledger, &records, "eth0"), (5010, 600));
    assert_eq!(booked(&ledger, &records, "web"), (4001, 0));

    // A container that is gone, while others are there, is forgotten after a week.
    let other = Reading {
        epoch: "2".into(),
        ..container(7)
    };
    ledger.read(&at(3 * WEEKS), vec![other]);
    assert_eq!(ledger.lives.len(), 2);
}

#[test]
fn a_past_that_is_overlooked_is_never_counted() {
    let mut ledger = Ledger::begin("a".into());
    let at = |seconds: i64| moment(1, seconds * 1000, 1_700_000_100_000 + seconds * 1000);
    ledger.read(&at(0), vec![reading("eth0", 1, 5000, 600)]);
    ledger.overlook(&at(10), vec![reading("web", 7, 4000, 1 << 40)]);
    ledger.read(&at(10), vec![reading("eth0", 1, 5001, 600)]);
    ledger.read(&at(20), vec![reading("web", 7, 4003, 1 << 40)]);
    assert_eq!(booked(&ledger, &[], "web"), (3, 0));
    assert_eq!(booked(&ledger, &[], "eth0"), (1, 0));
}

#[test]
fn another_name_or_owner_goes_on_and_a_name_that_comes_again_is_new() {
    let mut ledger = Ledger::begin("a".into());
    let at = |seconds: i64| moment(1, seconds * 1000, 1_700_000_100_000 + seconds * 1000);
    ledger.read(&at(0), vec![reading("db", 1, 500, 500)]);
    // Renamed, and its receiver's counter wrapped.
    ledger.read(&at(10), vec![reading("web", 1, 20, 600)]);
    assert_eq!(booked(&ledger, &[], "web"), (20, 100));
    // Long after, another one of the first name.
    let month = 30 * 86_400;
    for day in 1..=30 {
        ledger.read(&at(day * 86_400), vec![reading("web", 1, 20, 600)]);
    }
    let before = ledger.pending().len();
    ledger.read(&at(month + 60), vec![reading("db", 2, 7, 8)]);
    assert_eq!(ledger.pending().len(), before);
    assert_eq!(booked(&ledger, ledger.pending(), "db"), (7, 8));
}

/// What happens to a node.
#[derive(Debug, Clone)]
enum Act {
    /// Time passes, and bytes.
    Pass {
        ms: i64,
        rx: u64,
        tx: u64,
    },
    /// The counters are read, and the ledger stored.
    Read,
    /// The counters are read, and the agent is killed before the ledger is stored, or after it and before records are gone.
    Killed {
        stored: bool,
    },
    /// The interface is made anew, or without anybody saying so, reset.
    Remade {
        said: bool,
    },
    Rebooted,
    /// The wall clock is set.
    Clock {
        by_ms: i64,
    },
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        6 => (0i64..700_000, 0u64..1 << 40, 0u64..1 << 40).prop_map(|(ms, rx, tx)| Act::Pass { ms, rx, tx }),
        6 => Just(Act::Read),
        2 => any::<bool>().prop_map(|stored| Act::Killed { stored }),
        1 => any::<bool>().prop_map(|said| Act::Remade { said }),
        1 => Just(Act::Rebooted),
        1 => (-4_000_000i64..4_000_000).prop_map(|by_ms| Act::Clock { by_ms }),
    ];
    prop::collection::vec(act, 0..60)
}

/// A node, its disk, and a server that takes each record once.
struct World {
    ledger: Ledger,
    stored: String,
    boot: u32,
    epoch: u32,
    steady_ms: i64,
    wall_ms: i64,
    counters: (u64, u64),
    /// What the counters showed when they were last seen.
    seen: (u64, u64),
    /// Bytes that went by while somebody could see them.
    truth: (u64, u64),
    server: BTreeMap<u64, Record>,
}

impl World {
    fn new() -> Self {
        let ledger = Ledger::begin("a".into());
        let mut world = Self {
            stored: serde_json::to_string(&ledger).unwrap(),
            ledger,
            boot: 1,
            epoch: 1,
            steady_ms: 5000,
            wall_ms: 1_700_000_000_000,
            counters: (77, 99),
            seen: (77, 99),
            truth: (0, 0),
            server: BTreeMap::new(),
        };
        world.read();
        world.store();
        world
    }

    fn read(&mut self) {
        let reading = reading("eth0", self.epoch, self.counters.0, self.counters.1);
        self.ledger.read(
            &moment(self.boot, self.steady_ms, self.wall_ms),
            vec![reading],
        );
    }

    fn store(&mut self) {
        self.stored = serde_json::to_string(&self.ledger).unwrap();
        self.truth.0 += self.counters.0 - self.seen.0;
        self.truth.1 += self.counters.1 - self.seen.1;
        self.seen = self.counters;
    }

    fn send(&mut self) {
        for record in self.ledger.pending() {
            let at = |number: Option<u64>| number.and_then(|number| self.server.get(&number));
            let number = record.number;
            let known = Known {
                same: at(Some(number)).map(Record::digest),
                before: at(number.checked_sub(1)).map(Record::digest),
                after: at(number.checked_add(1)).map(|after| after.previous),
            };
            let fit = chain::fit(record, &known);
            let new = self.server.insert(number, record.clone()).is_none();
            assert_eq!(fit, if new { Fit::New } else { Fit::Again });
        }
    }

    fn restart(&mut self) {
        self.ledger = serde_json::from_str(&self.stored).unwrap();
    }

    /// What nobody has seen of the old counters is lost with them.
    fn counters_anew(&mut self) {
        (self.counters, self.seen) = ((0, 0), (0, 0));
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Pass { ms, rx, tx } => {
                self.steady_ms += ms;
                self.wall_ms += ms;
                self.counters = (self.counters.0 + rx, self.counters.1 + tx);
            }
            Act::Read => {
                self.read();
                self.store();
                self.send();
                if let Some(last) = self.ledger.pending().last() {
                    let number = last.number;
                    self.ledger.left(number);
                }
            }
            Act::Killed { stored } => {
                self.read();
                if stored {
                    self.store();
                    self.send();
                }
                self.restart();
            }
            Act::Remade { said } => {
                // Unsaid, only a smaller counter shows it.
                self.read();
                self.store();
                self.epoch += u32::from(said);
                if said || self.counters.0 > 0 {
                    self.counters_anew();
                }
            }
            Act::Rebooted => {
                self.boot += 1;
                self.steady_ms = 1000;
                self.wall_ms += 1000;
                self.counters_anew();
                self.restart();
            }
            Act::Clock { by_ms } => self.wall_ms += by_ms,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_byte_is_lost_and_none_counted_twice(acts in acts()) {
        let mut world = World::new();
        let mut unsaid = false;
        for act in acts {
            // After a reset that nobody names, a counter that has grown past its old value looks like one that went on.
            unsaid |= matches!(act, Act::Remade { said: false });
            world.act(act);
        }
        world.read();
        world.store();
        world.send();
        let records: Vec<Record> = world.server.values().cloned().collect();
        let (rx, tx) = booked(&world.ledger, &records, "eth0");
        if unsaid {
            prop_assert!(rx <= world.truth.0 && tx <= world.truth.1);
        } else {
            prop_assert_eq!((rx, tx), world.truth);
        }
        // The chain has no gap and no slot is booked beside its time but by a clock that was set.
        let last = world.server.keys().last().map_or(0, |last| last + 1);
        prop_assert_eq!(last, records.len() as u64);
    }
}
