//! What neighbours have of an image, and whose turn it is to ask the server.
//!
//! A neighbour is never believed: each block is checked, and what it says only puts off this node's own turn, for a
//! bounded time.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use cairn_delta::Run;
use cairn_update::{Cause, turn};
use cairn_wire::neighbour::Role;
use futures_util::{TryStreamExt as _, stream};
use rand::seq::SliceRandom as _;

use super::blocks::{Ended, Place, REQUESTS};
use super::{Fetch, ImageWanted};
use crate::neighbours::Neighbour;
use crate::update::effects::{Effects, GetError};

/// Between two rounds of questions.
const PAUSE: Duration = Duration::from_secs(1);
/// Blocks in one request: 1 MiB.
const PIECE: u32 = 256;
/// Requests in one round.
const ROUND: usize = 64;
/// How often a neighbour may fail before nothing more is taken from it.
const STRIKES: u32 = 3;
/// Milliseconds after which a neighbour that comes no further isn't waited for.
const STANDSTILL_MS: u64 = 60_000;
/// Milliseconds without a block after which nobody is waited for.
const LONGEST_WAIT_MS: u64 = 30 * 60_000;

/// What is thought of the neighbours while one image is fetched.
pub(super) struct Thoughts {
    /// How often each failed.
    strikes: BTreeMap<String, u32>,
    /// What each said last, and since when.
    said: BTreeMap<String, (Role, u64, u64)>,
    /// When something last came from one.
    came_ms: u64,
}

impl Thoughts {
    fn new(now_ms: u64) -> Self {
        Self {
            strikes: BTreeMap::new(),
            said: BTreeMap::new(),
            came_ms: now_ms,
        }
    }

    fn trusts(&self, id: &str) -> bool {
        self.strikes.get(id).is_none_or(|count| *count < STRIKES)
    }

    fn failed(&mut self, id: &str, error: &GetError) {
        // One that has another image than it says may have all of it so.
        let weight = if matches!(error, GetError::Wrong(_)) {
            STRIKES
        } else {
            1
        };
        *self.strikes.entry(id.to_owned()).or_default() += weight;
    }

    /// Who counts in the question whose turn it is.
    fn others<'n>(&mut self, neighbours: &'n [Neighbour], now_ms: u64) -> Vec<(&'n str, Role)> {
        if now_ms.saturating_sub(self.came_ms) > LONGEST_WAIT_MS {
            return Vec::new();
        }
        let mut others = Vec::new();
        for neighbour in neighbours {
            let Some(role) = neighbour.holding.role else {
                continue;
            };
            let says = (role, neighbour.holding.progress);
            let said = self.said.entry(neighbour.id.clone());
            let said = said.or_insert((says.0, says.1, now_ms));
            if (said.0, said.1) != says {
                *said = (says.0, says.1, now_ms);
            }
            if now_ms.saturating_sub(said.2) < STANDSTILL_MS {
                others.push((neighbour.id.as_str(), role));
            }
        }
        others
    }
}

impl<E: Effects> Fetch<'_, E> {
    /// Takes what neighbours have, until it is all there or it is this node's turn to ask the server. Says whether it is.
    ///
    /// # Errors
    /// If the disk fails.
    pub(super) async fn near(&self, wanted: &mut ImageWanted<'_>) -> Result<bool, Cause> {
        let me = self.effects.device();
        let thoughts = Mutex::new(Thoughts::new(self.effects.uptime_ms()));
        let lock = || thoughts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut role = Role::Wants;
        wanted.offer.set_role(Some(role));
        loop {
            if wanted.work.is_some() && wanted.missing().is_empty() && self.finish(wanted).await? {
                return Ok(true);
            }
            let mut neighbours = self.effects.neighbours(&wanted.offer.image).await;
            neighbours.retain(|neighbour| lock().trusts(&neighbour.id));
            let before = wanted.offer.count();
            self.index_near(wanted, &neighbours, &thoughts).await?;
            let asked = self.take_near(wanted, &neighbours, &thoughts).await?;
            let now_ms = self.effects.uptime_ms();
            if wanted.offer.count() > before {
                lock().came_ms = now_ms;
                // Much came, and there may be more at once.
                if asked == ROUND {
                    continue;
                }
            } else {
                role = turn::next(&me, role, lock().others(&neighbours, now_ms));
                wanted.offer.set_role(Some(role));
                match role {
                    Role::Fetches => return Ok(false),
                    Role::Claims => continue,
                    Role::Wants => {}
                }
            }
            self.effects.sleep(PAUSE).await;
        }
    }

    /// Gets the index from one who has it, if it isn't known.
    async fn index_near(
        &self,
        wanted: &mut ImageWanted<'_>,
        neighbours: &[Neighbour],
        thoughts: &Mutex<Thoughts>,
    ) -> Result<(), Cause> {
        let have_it = |neighbour: &&Neighbour| !neighbour.holding.blocks.is_empty();
        for neighbour in neighbours.iter().filter(have_it) {
            if wanted.work.is_some() {
                break;
            }
            let place = Place::Near(&neighbour.url);
            match self.index(place, wanted.part, wanted.image).await {
                Ok(index) => self.begin(wanted, index).await?,
                Err(ended) => missed(thoughts, neighbour, ended)?,
            }
        }
        Ok(())
    }

    /// Gets missing blocks from those who have them; gives how many requests that took.
    async fn take_near(
        &self,
        wanted: &ImageWanted<'_>,
        neighbours: &[Neighbour],
        thoughts: &Mutex<Thoughts>,
    ) -> Result<usize, Cause> {
        let requests = deal(&wanted.missing(), neighbours);
        let count = requests.len();
        let mut open = Vec::new();
        for (neighbour, run) in requests {
            open.push(Ok(self.run_near(wanted, neighbour, run, thoughts)));
        }
        stream::iter(open)
            .try_buffer_unordered(REQUESTS)
            .try_for_each(|()| std::future::ready(Ok(())))
            .await?;
        Ok(count)
    }

    async fn run_near(
        &self,
        wanted: &ImageWanted<'_>,
        neighbour: &Neighbour,
        run: Run,
        thoughts: &Mutex<Thoughts>,
    ) -> Result<(), Cause> {
        let trusts = || {
            let thoughts = thoughts.lock().unwrap_or_else(PoisonError::into_inner);
            thoughts.trusts(&neighbour.id)
        };
        if !trusts() {
            return Ok(());
        }
        match self.run(wanted, Place::Near(&neighbour.url), run).await {
            Ok(()) => Ok(()),
            Err(ended) => missed(thoughts, neighbour, ended),
        }
    }
}

/// A neighbour's failure is remembered; only the own disk's ends the update.
fn missed(thoughts: &Mutex<Thoughts>, neighbour: &Neighbour, ended: Ended) -> Result<(), Cause> {
    let error = match ended {
        Ended::Disk(cause) => return Err(cause),
        Ended::Network(error) => error,
        Ended::NoRanges => GetError::passing("it knows no ranges"),
    };
    let mut thoughts = thoughts.lock().unwrap_or_else(PoisonError::into_inner);
    let before = thoughts.trusts(&neighbour.id);
    thoughts.failed(&neighbour.id, &error);
    if before && !thoughts.trusts(&neighbour.id) {
        tracing::info!(neighbour = neighbour.id, %error, "nothing more is taken from the neighbour");
    }
    Ok(())
}

/// Who is asked for which blocks: pieces in any order, so that nodes that begin together take different ones and then
/// have something for each other, and from everybody who has them in turn.
fn deal<'n>(missing: &[Run], neighbours: &'n [Neighbour]) -> Vec<(&'n Neighbour, Run)> {
    let pieces = missing.iter().flat_map(|run| {
        let starts = (run.at..run.end()).step_by(PIECE as usize);
        starts.map(|at| at..run.end().min(at.saturating_add(PIECE)))
    });
    let mut dealt = Vec::new();
    for (number, piece) in pieces.enumerate() {
        let turned = (0..neighbours.len()).map(|n| (n + number) % neighbours.len());
        for neighbour in turned.filter_map(|n| neighbours.get(n)) {
            let before = dealt.len();
            dealt.extend(neighbour.holding.blocks.among(&piece).map(|run| {
                let count = run.end - run.start;
                (
                    neighbour,
                    Run {
                        at: run.start,
                        count,
                    },
                )
            }));
            if dealt.len() > before {
                break;
            }
        }
    }
    dealt.shuffle(&mut rand::thread_rng());
    dealt.truncate(ROUND);
    dealt
}

#[cfg(test)]
mod tests {
    use cairn_wire::neighbour::{Blocks, Holding};

    use super::*;

    fn neighbour(id: &str, role: Option<Role>, progress: u64, have: &[bool]) -> Neighbour {
        Neighbour {
            id: id.into(),
            url: format!("https://{id}"),
            holding: Holding {
                role,
                progress,
                blocks: Blocks::of(have),
            },
        }
    }

    #[test]
    fn each_missing_block_is_asked_of_one_who_has_it() {
        let (a, b) = ([true, true, false, false], [false, true, true, false]);
        let neighbours = [neighbour("a", None, 0, &a), neighbour("b", None, 0, &b)];
        let missing = [
            Run { at: 0, count: 1 },
            Run { at: 1, count: 1 },
            Run { at: 2, count: 2 },
        ];
        let mut dealt: Vec<_> = deal(&missing, &neighbours)
            .into_iter()
            .map(|(neighbour, run)| (neighbour.id.as_str(), run.at, run.count))
            .collect();
        dealt.sort_unstable_by_key(|(_, at, _)| *at);
        assert_eq!(dealt, [("a", 0, 1), ("b", 1, 1), ("b", 2, 1)]);
        assert!(deal(&missing, &[]).is_empty());
    }

    #[test]
    fn who_comes_no_further_is_not_waited_for_and_nobody_forever() {
        let says = |progress| [neighbour("a", Some(Role::Fetches), progress, &[])];
        let mut thoughts = Thoughts::new(0);
        assert_eq!(thoughts.others(&says(5), 0).len(), 1);
        assert_eq!(thoughts.others(&says(5), STANDSTILL_MS - 1).len(), 1);
        assert_eq!(thoughts.others(&says(5), STANDSTILL_MS).len(), 0);
        assert_eq!(thoughts.others(&says(6), STANDSTILL_MS).len(), 1);
        assert_eq!(thoughts.others(&says(7), LONGEST_WAIT_MS + 1).len(), 0);
    }

    #[test]
    fn a_wrong_block_ends_all_trust_and_a_bad_line_does_not() {
        let mut thoughts = Thoughts::new(0);
        thoughts.failed("slow", &GetError::passing("timed out"));
        thoughts.failed("liar", &GetError::Wrong("block 3".into()));
        assert!(thoughts.trusts("slow") && thoughts.trusts("new") && !thoughts.trusts("liar"));
    }
}
