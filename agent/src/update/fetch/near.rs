//! What neighbours have of an image, and whose turn it is to ask the server.
//!
//! A neighbour is never believed: each block is checked, and what it says only puts off this node's own turn, for a
//! bounded time.

use std::collections::BTreeMap;
use std::sync::{MutexGuard, PoisonError};
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
/// Milliseconds for which one that fetches counts on though it doesn't answer: its link may be full.
const SILENCE_MS: u64 = 15_000;
/// Milliseconds in all after which nobody is waited for, and how many more each block from a neighbour brings: a site that is
/// slower than 40 KB a second is worth no waiting.
const LONGEST_WAIT_MS: u64 = 30 * 60_000;
const BLOCK_MS: u64 = 100;

/// What is thought of the neighbours while one image is fetched.
pub(super) struct Thoughts {
    /// How often each failed.
    strikes: BTreeMap<String, u32>,
    said: BTreeMap<String, Said>,
    began_ms: u64,
    /// Blocks that came from neighbours.
    blocks: u64,
}

/// What a neighbour said last.
struct Said {
    role: Role,
    progress: u64,
    /// Since when it says so.
    since_ms: u64,
    heard_ms: u64,
}

impl Thoughts {
    pub(super) fn new(now_ms: u64) -> Self {
        Self {
            strikes: BTreeMap::new(),
            said: BTreeMap::new(),
            began_ms: now_ms,
            blocks: 0,
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

    /// Whether others may be waited for at all.
    fn waits(&self, now_ms: u64) -> bool {
        let earned = self.blocks.saturating_mul(BLOCK_MS);
        now_ms.saturating_sub(self.began_ms) <= LONGEST_WAIT_MS.saturating_add(earned)
    }

    /// Who counts in the question whose turn it is, having heard these.
    fn others(&mut self, neighbours: &[Neighbour], now_ms: u64) -> Vec<(&str, Role)> {
        for neighbour in neighbours {
            let Some(role) = neighbour.holding.role else {
                self.said.remove(&neighbour.id);
                continue;
            };
            let progress = neighbour.holding.progress;
            let said = self.said.entry(neighbour.id.clone());
            let said = said.or_insert(Said {
                role,
                progress,
                since_ms: now_ms,
                heard_ms: now_ms,
            });
            if (said.role, said.progress) != (role, progress) {
                (said.role, said.progress, said.since_ms) = (role, progress, now_ms);
            }
            said.heard_ms = now_ms;
        }
        if !self.waits(now_ms) {
            return Vec::new();
        }
        let counts = |said: &Said| {
            let silent_ms = now_ms.saturating_sub(said.heard_ms);
            let there = silent_ms == 0 || said.role == Role::Fetches && silent_ms < SILENCE_MS;
            there && now_ms.saturating_sub(said.since_ms) < STANDSTILL_MS
        };
        let others = self.said.iter().filter(|(_, said)| counts(said));
        others.map(|(id, said)| (id.as_str(), said.role)).collect()
    }
}

impl ImageWanted<'_> {
    fn thoughts(&self) -> MutexGuard<'_, Thoughts> {
        self.thoughts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<E: Effects> Fetch<'_, E> {
    /// Takes what neighbours have, until it is all there or it is this node's turn to ask the server. Says whether it is.
    ///
    /// # Errors
    /// If the disk fails.
    pub(super) async fn near(&self, wanted: &mut ImageWanted<'_>) -> Result<bool, Cause> {
        let me = self.effects.device();
        let mut role = Role::Wants;
        wanted.offer.set_role(Some(role));
        loop {
            if wanted.work.is_some() && wanted.missing().is_empty() && self.finish(wanted).await? {
                return Ok(true);
            }
            let neighbours = self.effects.neighbours(&wanted.offer.image).await;
            let before = wanted.offer.count();
            self.begin_near(wanted, &neighbours).await?;
            let asked = self.take_near(wanted, &neighbours).await?;
            let now_ms = self.effects.uptime_ms();
            let came = wanted.offer.count().saturating_sub(before);
            wanted.thoughts().blocks += came;
            let takes = came > 0 && wanted.thoughts().waits(now_ms);
            let before = role;
            role = if takes {
                Role::Wants
            } else {
                turn::next(&me, role, wanted.thoughts().others(&neighbours, now_ms))
            };
            wanted.offer.set_role(Some(role));
            let claims_first = role == Role::Claims && before != role;
            match role {
                Role::Fetches => return Ok(false),
                _ if claims_first => continue,
                // Much came, and there may be more at once.
                _ if takes && asked == ROUND => continue,
                _ => {}
            }
            self.effects.sleep(PAUSE).await;
        }
    }

    /// Gets the index from one who has it, if it isn't known.
    async fn begin_near(
        &self,
        wanted: &mut ImageWanted<'_>,
        neighbours: &[Neighbour],
    ) -> Result<(), Cause> {
        for neighbour in neighbours {
            let has = !neighbour.holding.blocks.is_empty();
            if wanted.work.is_some() || !has || !wanted.thoughts().trusts(&neighbour.id) {
                continue;
            }
            match self.index_near(wanted, &neighbour.url).await {
                Ok(index) => self.begin(wanted, index).await?,
                Err(ended) => missed(wanted, neighbour, ended)?,
            }
        }
        Ok(())
    }

    /// Gets missing blocks from those who have them; gives how many requests that took.
    async fn take_near(
        &self,
        wanted: &ImageWanted<'_>,
        neighbours: &[Neighbour],
    ) -> Result<usize, Cause> {
        let trusted: Vec<&Neighbour> = {
            let thoughts = wanted.thoughts();
            let trusted = neighbours.iter().filter(|it| thoughts.trusts(&it.id));
            trusted.collect()
        };
        let requests = deal(&wanted.missing(), &trusted);
        let count = requests.len();
        let mut open = Vec::new();
        for (neighbour, run) in requests {
            open.push(Ok(self.run_near(wanted, neighbour, run)));
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
    ) -> Result<(), Cause> {
        if !wanted.thoughts().trusts(&neighbour.id) {
            return Ok(());
        }
        match self.run(wanted, Place::Near(&neighbour.url), run).await {
            Ok(()) => Ok(()),
            Err(ended) => missed(wanted, neighbour, ended),
        }
    }
}

/// A neighbour's failure is remembered; only the own disk's ends the update.
fn missed(wanted: &ImageWanted<'_>, neighbour: &Neighbour, ended: Ended) -> Result<(), Cause> {
    let error = match ended {
        Ended::Disk(cause) => return Err(cause),
        Ended::Network(error) => error,
        Ended::NoRanges => GetError::passing("it knows no ranges"),
    };
    let mut thoughts = wanted.thoughts();
    let before = thoughts.trusts(&neighbour.id);
    thoughts.failed(&neighbour.id, &error);
    if before && !thoughts.trusts(&neighbour.id) {
        tracing::info!(neighbour = neighbour.id, %error, "nothing more is taken from the neighbour");
    }
    Ok(())
}

/// Who is asked for which blocks: pieces in any order, so that nodes that begin together take different ones and then
/// have something for each other, and from everybody who has them in turn.
fn deal<'n>(missing: &[Run], neighbours: &[&'n Neighbour]) -> Vec<(&'n Neighbour, Run)> {
    let pieces = missing.iter().flat_map(|run| {
        let starts = (run.at..run.end()).step_by(PIECE as usize);
        starts.map(|at| at..run.end().min(at.saturating_add(PIECE)))
    });
    let mut dealt = Vec::new();
    for (number, piece) in pieces.enumerate() {
        let turned = (0..neighbours.len()).map(|n| (n + number) % neighbours.len());
        for neighbour in turned.filter_map(|n| neighbours.get(n).copied()) {
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
                device: id.into(),
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
        let mut dealt: Vec<_> = deal(&missing, &neighbours.each_ref())
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
        // Who gives is worth more time, but not all.
        thoughts.blocks = 100;
        assert_eq!(thoughts.others(&says(8), LONGEST_WAIT_MS + 1).len(), 1);
        assert_eq!(
            thoughts
                .others(&says(9), LONGEST_WAIT_MS + 100 * BLOCK_MS + 1)
                .len(),
            0
        );
    }

    #[test]
    fn one_that_fetches_may_be_silent_for_a_moment_and_one_that_waits_may_not() {
        for (role, counts) in [(Role::Fetches, 1), (Role::Wants, 0), (Role::Claims, 0)] {
            let mut thoughts = Thoughts::new(0);
            assert_eq!(
                thoughts
                    .others(&[neighbour("a", Some(role), 1, &[])], 0)
                    .len(),
                1
            );
            assert_eq!(thoughts.others(&[], 1000).len(), counts, "{role:?}");
            assert_eq!(thoughts.others(&[], SILENCE_MS).len(), 0, "{role:?}");
        }
        let mut thoughts = Thoughts::new(0);
        thoughts.others(&[neighbour("a", Some(Role::Fetches), 1, &[])], 0);
        assert_eq!(
            thoughts.others(&[neighbour("a", None, 1, &[])], 1).len(),
            0,
            "it has all"
        );
    }

    #[test]
    fn a_wrong_block_ends_all_trust_and_a_bad_line_does_not() {
        let mut thoughts = Thoughts::new(0);
        thoughts.failed("slow", &GetError::passing("timed out"));
        thoughts.failed("liar", &GetError::Wrong("block 3".into()));
        assert!(thoughts.trusts("slow") && thoughts.trusts("new") && !thoughts.trusts("liar"));
    }
}
