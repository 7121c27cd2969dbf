//! The queue of what people are to be told: in order for each alarm, no faster than a channel takes it, again until it is taken.
//!
//! What was sent when the server ended is sent once more: its key is the same, and says so.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension, Transaction, params};
use tokio::task::{JoinError, JoinSet};

use super::channel::Channel;
use super::message::Facts;
use super::{now_ms, readable, send};
use crate::coins::{Coins, Purse};
use crate::store::{Store, StoreError};

/// Between two looks.
const ROUND: Duration = Duration::from_millis(250);
/// Messages of one channel that are under way at once.
const AT_ONCE: usize = 4;
/// Attempts at one message: with the pauses between them some five hours.
pub(super) const ATTEMPTS: u32 = 20;
/// The pause after the first attempt, and the longest, in milliseconds.
const FIRST: u64 = 2_000;
const LONGEST: u64 = 30 * 60 * 1000;

/// A message that waits.
struct Waiting {
    id: i64,
    alarm: i64,
    notice: String,
    facts: String,
    attempts: u32,
}

/// What waits for a channel.
struct Line {
    name: String,
    /// None: it is gone, or not in use.
    channel: Option<Channel>,
    waiting: Vec<Waiting>,
}

/// Until it is dropped.
pub(super) async fn run(store: &Store) {
    let mut rounds = tokio::time::interval(ROUND);
    rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let http = match send::http() {
        Ok(http) => http,
        Err(error) => {
            tracing::error!(error, "no channel can be told of alarms");
            return;
        }
    };
    let mut office = Office {
        http,
        tasks: JoinSet::new(),
        under_way: HashMap::new(),
        coins: HashMap::new(),
        waits: HashMap::new(),
    };
    loop {
        // When one is done the next one needn't wait.
        tokio::select! {
            _ = rounds.tick() => {}
            Some(done) = office.tasks.join_next() => office.done(done),
        }
        if let Err(error) = office.round(store).await {
            tracing::error!(%error, "a round of the alarms' messages failed; it is done again");
        }
    }
}

/// What is remembered between rounds.
struct Office {
    http: reqwest::Client,
    tasks: JoinSet<i64>,
    under_way: HashMap<i64, String>,
    coins: HashMap<String, Coins>,
    /// Channels that have had their share, until when, in milliseconds since 1970.
    waits: HashMap<String, i64>,
}

impl Office {
    fn done(&mut self, done: Result<i64, JoinError>) {
        match done {
            Ok(id) => {
                self.under_way.remove(&id);
            }
            Err(error) => {
                tracing::error!(%error, "a message to a channel was given up; it is sent again");
                // Which one isn't known; what is under way is told twice rather than never.
                self.under_way.clear();
            }
        }
    }

    async fn round(&mut self, store: &Store) -> Result<(), StoreError> {
        while let Some(done) = self.tasks.try_join_next() {
            self.done(done);
        }
        let now = now_ms();
        self.waits.retain(|_, until| *until > now);
        let busy: HashSet<i64> = self.under_way.keys().copied().collect();
        let waits: HashSet<String> = self.waits.keys().cloned().collect();
        let lines = store
            .read(move |connection| lines(connection, now, &busy, &waits))
            .await?;
        for line in lines {
            let Some(channel) = line.channel else {
                let name = line.name;
                store
                    .write::<_, StoreError, _>(move |tx| give_up(tx, &name))
                    .await?;
                continue;
            };
            for waiting in line.waiting {
                let under_way = self.under_way.values().filter(|name| **name == line.name);
                if under_way.count() >= AT_ONCE {
                    break;
                }
                if let Some(wait) = self.charge(&channel) {
                    self.waits.insert(line.name.clone(), now + wait);
                    let reason = format!("the channel takes {} a minute", channel.per_minute);
                    store
                        .write::<_, StoreError, _>(move |tx| explain(tx, waiting.id, &reason))
                        .await?;
                    break;
                }
                self.under_way.insert(waiting.id, line.name.clone());
                let told = tell(store.clone(), self.http.clone(), channel.clone(), waiting);
                self.tasks.spawn(told);
            }
        }
        Ok(())
    }

    /// Takes a message from what the channel still takes; or says how long to wait, in milliseconds.
    fn charge(&mut self, channel: &Channel) -> Option<i64> {
        let purse = Purse {
            most: f64::from(channel.per_minute),
            each: Duration::from_secs(60).div_f64(f64::from(channel.per_minute.max(1))),
        };
        let now = Instant::now();
        let mut coins = purse.now(self.coins.get(&channel.name).copied(), now);
        let wait = (!coins.is_one()).then(|| purse.wait(coins, 1.0));
        if wait.is_none() {
            coins.spend(1.0);
        }
        self.coins.insert(channel.name.clone(), coins);
        wait.map(|wait| i64::try_from(wait.as_millis()).unwrap_or(i64::MAX).max(1))
    }
}

/// Sends one, and notes what became of it.
async fn tell(store: Store, http: reqwest::Client, channel: Channel, waiting: Waiting) -> i64 {
    let Waiting {
        id,
        alarm,
        notice,
        facts,
        attempts,
    } = waiting;
    let key = format!("{alarm}-{notice}-{}", channel.name);
    let sent = match serde_json::from_str::<Facts>(&facts) {
        Ok(facts) => send::send(&http, &channel, &key, &facts).await,
        Err(error) => Err(error.to_string()),
    };
    if let Err(reason) = &sent {
        tracing::warn!(channel = channel.name, alarm, notice, %reason, "a channel didn't take a message");
    }
    let noted = store
        .write::<_, StoreError, _>(move |tx| note(tx, id, attempts + 1, sent, now_ms()))
        .await;
    if let Err(error) = noted {
        tracing::error!(%error, "what became of a message can't be noted; it is sent again");
    }
    id
}

/// What waits, in its order; at most so much of each channel as can be under way.
fn lines(
    connection: &Connection,
    now: i64,
    busy: &HashSet<i64>,
    waits: &HashSet<String>,
) -> Result<Vec<Line>, StoreError> {
    let mut query = connection.prepare_cached(
        "SELECT DISTINCT channel FROM alarm_delivery WHERE state = 'queued' AND next <= ?1",
    )?;
    let names: Vec<String> = query
        .query_map([now], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    let mut lines = Vec::new();
    for name in names.into_iter().filter(|name| !waits.contains(name)) {
        let mut query =
            connection.prepare_cached("SELECT settings FROM alarm_channel WHERE name = ?1")?;
        let channel: Option<Channel> = query
            .query_row([&name], |row| {
                Ok(readable("a channel", row.get_ref(0)?.as_str()?))
            })
            .optional()?
            .flatten();
        let mut query = connection.prepare_cached(
            "SELECT id, alarm, notice, facts, attempts FROM alarm_delivery d
             WHERE channel = ?1 AND state = 'queued' AND next <= ?2 AND NOT EXISTS (
                 SELECT 1 FROM alarm_delivery e
                 WHERE e.alarm = d.alarm AND e.channel = d.channel AND e.id < d.id AND e.state = 'queued')
             ORDER BY next, id LIMIT ?3",
        )?;
        let most = i64::try_from(AT_ONCE * 2).unwrap_or(i64::MAX);
        let rows = query.query_map(params![name, now, most], |row| {
            Ok(Waiting {
                id: row.get(0)?,
                alarm: row.get(1)?,
                notice: row.get(2)?,
                facts: row.get(3)?,
                attempts: row.get(4)?,
            })
        })?;
        let waiting: Vec<_> = rows
            .filter(|row| row.as_ref().map_or(true, |row| !busy.contains(&row.id)))
            .collect::<Result<_, _>>()?;
        lines.push(Line {
            name,
            channel: channel.filter(|channel| channel.enabled),
            waiting,
        });
    }
    Ok(lines)
}

fn give_up(tx: &Transaction<'_>, channel: &str) -> Result<(), StoreError> {
    tx.prepare_cached(
        "UPDATE alarm_delivery SET state = 'failed', reason = 'the channel is gone or switched off', done = ?2
         WHERE channel = ?1 AND state = 'queued'",
    )?
    .execute(params![channel, now_ms() / 1000])?;
    Ok(())
}

/// Says why the first of those that wait does.
fn explain(tx: &Transaction<'_>, id: i64, reason: &str) -> Result<(), StoreError> {
    tx.prepare_cached("UPDATE alarm_delivery SET reason = ?2 WHERE id = ?1 AND reason IS NULL")?
        .execute(params![id, reason])?;
    Ok(())
}

/// The pause after so many attempts, in milliseconds: twice as long each time, and never the same for two.
fn pause(attempts: u32, random: f64) -> i64 {
    let usual = FIRST
        .saturating_mul(1 << attempts.saturating_sub(1).min(20))
        .min(LONGEST);
    (usual as f64 * (0.75 + random / 2.0)) as i64
}

/// Notes what became of an attempt.
fn note(
    tx: &Transaction<'_>,
    id: i64,
    attempts: u32,
    sent: Result<(), String>,
    now: i64,
) -> Result<(), StoreError> {
    let (state, next, reason) = match sent {
        Ok(()) => ("sent", now, None),
        Err(reason) if attempts >= ATTEMPTS => ("failed", now, Some(reason)),
        Err(reason) => (
            "queued",
            now + pause(attempts, rand::random()),
            Some(reason),
        ),
    };
    let done = (state != "queued").then_some(now / 1000);
    tx.prepare_cached(
        "UPDATE alarm_delivery SET state = ?2, attempts = ?3, next = ?4, reason = ?5, done = ?6 WHERE id = ?1",
    )?
    .execute(params![id, state, attempts, next, reason, done])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_end() {
        assert_eq!((pause(1, 0.0), pause(1, 1.0)), (1_500, 2_500));
        assert_eq!(pause(2, 0.5), 4_000);
        assert_eq!(pause(99, 0.5), 1_800_000);
    }
}
