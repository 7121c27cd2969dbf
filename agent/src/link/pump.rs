//! From the outbox to the server: a few batches on their way at a time, and a way out for a message that the server chokes on.
//!
//! Under MQTT 3.1.1 a server has one answer to a message that it can't stand: it closes the connection. Sent again, it would close again,
//! for ever. So after a connection that ended with batches on their way, records go out one at a time; one that the connection
//! ends on [`STRIKES`] times in a row, although the server took another message just before, is set aside.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::{Duration, Instant};

use cairn_wire::telemetry::{Record, RecordId};

/// How often a connection must end on a record alone before it is set aside.
pub const STRIKES: u32 = 3;
/// Batches that may be on their way.
const WINDOW: usize = 4;
/// The size of a batch in bytes.
const BATCH: usize = 32 * 1024;
/// How many single records must get through before batches go out again.
const CLEAN: u32 = 32;
/// How many suspects are remembered.
const SUSPECTS: usize = 16;
/// How long a server may leave a batch unanswered.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where batches come from.
pub trait Queue: Clone + Send + Sync + 'static {
    /// Records that travel together.
    type Batch: Send;
    /// What is in it.
    fn records(batch: &Self::Batch) -> &[Record];
    /// The next records, of `max_bytes` as JSON, but at least one; `None` if there are none.
    fn next_batch(&self, max_bytes: usize) -> impl Future<Output = Option<Self::Batch>> + Send;
    /// The server has them.
    fn acked(&self, batch: Self::Batch) -> impl Future<Output = ()> + Send;
    /// The server doesn't have them, as far as one knows.
    fn returned(&self, batch: Self::Batch) -> impl Future<Output = ()> + Send;
    /// The server can't take them.
    fn set_aside(&self, batch: Self::Batch) -> impl Future<Output = ()> + Send;
    /// Returns when there is something to send.
    fn ready(&self) -> impl Future<Output = ()> + Send;
}

/// The batches on their way over one connection, and what is remembered from one connection to the next.
pub struct Pump<Q: Queue> {
    queue: Q,
    on_their_way: BTreeMap<u64, (Q::Batch, Instant)>,
    next: u64,
    /// `Some`: records go out one at a time; how many got through since.
    caution: Option<u32>,
    /// Records that connections ended on, and how often; the oldest first.
    suspects: Vec<(RecordId, u32)>,
}

/// A message to send, and what it is called until it is answered.
pub struct Outgoing {
    /// For [`Pump::acked`].
    pub ticket: u64,
    /// JSON: an array of records.
    pub payload: Vec<u8>,
}

impl<Q: Queue> Pump<Q> {
    /// Takes from `queue`.
    pub fn new(queue: Q) -> Self {
        Self {
            queue,
            on_their_way: BTreeMap::new(),
            next: 0,
            caution: None,
            suspects: Vec::new(),
        }
    }

    /// Where batches come from.
    pub fn queue(&self) -> &Q {
        &self.queue
    }

    /// Whether another batch may go out.
    pub fn has_room(&self) -> bool {
        self.on_their_way.len() < if self.caution.is_some() { 1 } else { WINDOW }
    }

    /// Whether nothing is on its way.
    pub fn is_idle(&self) -> bool {
        self.on_their_way.is_empty()
    }

    /// The next message, if there is one.
    pub async fn next(&mut self) -> Option<Outgoing> {
        let size = if self.caution.is_some() { 1 } else { BATCH };
        loop {
            let batch = self.queue.next_batch(size).await?;
            let records = Q::records(&batch);
            match Record::batch(records) {
                Some((payload, count)) if count == records.len() => {
                    let ticket = self.next;
                    self.next += 1;
                    self.on_their_way.insert(ticket, (batch, Instant::now()));
                    return Some(Outgoing { ticket, payload });
                }
                // It can never be sent.
                None => self.set_aside(batch).await,
                Some(_) => {
                    // The queue counts otherwise than JSON does; single records always fit.
                    self.queue.returned(batch).await;
                    self.caution.get_or_insert(0);
                    let batch = self.queue.next_batch(1).await?;
                    let Some((payload, _)) = Record::batch(Q::records(&batch)) else {
                        self.set_aside(batch).await;
                        continue;
                    };
                    let ticket = self.next;
                    self.next += 1;
                    self.on_their_way.insert(ticket, (batch, Instant::now()));
                    return Some(Outgoing { ticket, payload });
                }
            }
        }
    }

    /// The server has it.
    pub async fn acked(&mut self, ticket: u64) {
        let Some((batch, _)) = self.on_their_way.remove(&ticket) else {
            return;
        };
        if let Some(clean) = &mut self.caution {
            *clean += 1;
            if *clean >= CLEAN {
                self.caution = None;
            }
        }
        if !self.suspects.is_empty() {
            let taken = Q::records(&batch);
            self.suspects
                .retain(|(id, _)| !taken.iter().any(|record| record.id.as_ref() == Some(id)));
        }
        self.queue.acked(batch).await;
    }

    /// The server says that this one message is wrong. Alone, it is set aside; among others, they are sent one by one.
    pub async fn rejected(&mut self, ticket: u64) {
        let Some((batch, _)) = self.on_their_way.remove(&ticket) else {
            return;
        };
        if Q::records(&batch).len() == 1 {
            self.set_aside(batch).await;
        } else {
            self.caution = Some(0);
            self.queue.returned(batch).await;
        }
    }

    /// The connection is over. `blamed`: the server ended it, or left a batch without an answer, and it had taken another message before.
    pub async fn ended(&mut self, blamed: bool) {
        let mut left = std::mem::take(&mut self.on_their_way);
        if blamed && !left.is_empty() {
            self.caution = Some(0);
            let alone = (left.len() == 1).then(|| left.first_key_value()).flatten();
            if let Some((&ticket, (batch, _))) = alone
                && let [Record { id: Some(id), .. }] = Q::records(batch)
                && self.strike(id.clone()) >= STRIKES
                && let Some((batch, _)) = left.remove(&ticket)
            {
                self.set_aside(batch).await;
            }
        }
        for (batch, _) in left.into_values() {
            self.queue.returned(batch).await;
        }
    }

    /// Counts that a connection ended on this record alone.
    fn strike(&mut self, id: RecordId) -> u32 {
        if let Some((_, strikes)) = self.suspects.iter_mut().find(|(suspect, _)| *suspect == id) {
            *strikes += 1;
            return *strikes;
        }
        if self.suspects.len() >= SUSPECTS {
            self.suspects.remove(0);
        }
        self.suspects.push((id, 1));
        1
    }

    async fn set_aside(&mut self, batch: Q::Batch) {
        if let Some(id) = Q::records(&batch)
            .first()
            .and_then(|record| record.id.as_ref())
        {
            self.suspects.retain(|(suspect, _)| suspect != id);
        }
        if let Some(id) = Q::records(&batch)
            .first()
            .and_then(|record| record.id.as_ref())
        {
            tracing::error!(log = %id.log, seq = id.seq, "the server cannot take this record; it is set aside");
        }
        self.queue.set_aside(batch).await;
    }

    /// When the oldest batch on its way should have been answered.
    pub fn overdue_at(&self) -> Option<Instant> {
        self.on_their_way
            .first_key_value()
            .map(|(_, (_, sent))| *sent + PATIENCE)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::memory::Memory;
    use super::*;

    fn run<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(future)
    }

    /// Sends all there is to a server that closes the connection on the records in `poison`; how many connections it took.
    async fn drain(queue: &Memory, poison: &[u64]) -> u32 {
        let mut pump = Pump::new(queue.clone());
        for connection in 1..10_000 {
            loop {
                let mut sent = Vec::new();
                while pump.has_room() {
                    let Some(message) = pump.next().await else {
                        break;
                    };
                    sent.push(message);
                }
                if sent.is_empty() {
                    return connection;
                }
                let mut closed = false;
                for message in sent {
                    let records = Record::parse_all(&message.payload).unwrap();
                    if records
                        .iter()
                        .any(|record| poison.contains(&record.id.as_ref().unwrap().seq))
                    {
                        closed = true;
                        break;
                    }
                    pump.acked(message.ticket).await;
                }
                if closed {
                    pump.ended(true).await;
                    break;
                }
            }
        }
        panic!("it never ends");
    }

    #[test]
    fn a_poison_message_is_set_aside_alone() {
        run(async {
            let queue = Memory::with(500);
            drain(&queue, &[250]).await;
            assert_eq!(queue.aside_seqs(), [250]);
            assert_eq!(
                queue.acked_seqs(),
                (1..=500).filter(|seq| *seq != 250).collect::<Vec<_>>()
            );
        });
    }

    #[test]
    fn a_lost_link_blames_no_message() {
        run(async {
            let queue = Memory::with(10);
            let mut pump = Pump::new(queue.clone());
            for _ in 0..20 {
                assert!(pump.next().await.is_some());
                pump.ended(false).await;
            }
            assert!(queue.aside_seqs().is_empty());
            drain(&queue, &[]).await;
            assert_eq!(queue.acked_seqs().len(), 10);
        });
    }

    #[test]
    fn a_record_that_never_fits_is_set_aside() {
        run(async {
            let queue = Memory::with(1);
            queue.push(2, "x".repeat(cairn_wire::MAX_PAYLOAD).into());
            queue.push(3, 3.into());
            drain(&queue, &[]).await;
            assert_eq!(
                (queue.acked_seqs(), queue.aside_seqs()),
                (vec![1, 3], vec![2])
            );
        });
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_record_is_taken_or_set_aside_and_only_poison_is(count in 1u64..200, poison in prop::collection::btree_set(1u64..200, 0..4)) {
            run(async {
                let queue = Memory::with(count);
                let poison: Vec<u64> = poison.into_iter().filter(|seq| *seq <= count).collect();
                drain(&queue, &poison).await;
                assert_eq!(queue.aside_seqs(), poison);
                assert_eq!(queue.acked_seqs(), (1..=count).filter(|seq| !poison.contains(seq)).collect::<Vec<_>>());
            });
        }
    }
}
