//! A queue in memory, for tests.

use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use super::pump::Queue;
use cairn_wire::telemetry::{Record, RecordId};

/// Records waiting, acknowledged, set aside.
#[derive(Clone, Default)]
pub struct Memory(pub Arc<Mutex<State>>, Arc<Notify>);

#[derive(Default)]
/// Where records are.
pub struct State {
    /// Not sent, or sent back.
    pub waiting: Vec<Record>,
    /// Acknowledged.
    pub acked: Vec<Record>,
    /// Set aside.
    pub aside: Vec<Record>,
}

impl Memory {
    /// With so many records, numbered from 1.
    pub fn with(count: u64) -> Self {
        let queue = Self::default();
        for seq in 1..=count {
            queue.push(seq, serde_json::json!(seq));
        }
        queue
    }

    /// Another record.
    pub fn push(&self, seq: u64, value: serde_json::Value) {
        let values = [("k".to_owned(), value)].into_iter().collect();
        let id = Some(RecordId {
            log: "ab".into(),
            seq,
        });
        self.0.lock().unwrap().waiting.push(Record {
            ts: Some(1),
            values,
            id,
        });
        self.1.notify_one();
    }

    /// The numbers of what was acknowledged.
    pub fn acked_seqs(&self) -> Vec<u64> {
        let mut seqs: Vec<u64> = self
            .0
            .lock()
            .unwrap()
            .acked
            .iter()
            .map(|r| r.id.as_ref().unwrap().seq)
            .collect();
        seqs.sort_unstable();
        seqs
    }

    /// The numbers of what was set aside.
    pub fn aside_seqs(&self) -> Vec<u64> {
        self.0
            .lock()
            .unwrap()
            .aside
            .iter()
            .map(|r| r.id.as_ref().unwrap().seq)
            .collect()
    }
}

impl Queue for Memory {
    type Batch = Vec<Record>;
    fn records(batch: &Vec<Record>) -> &[Record] {
        batch
    }
    async fn next_batch(&self, max_bytes: usize) -> Option<Vec<Record>> {
        let mut state = self.0.lock().unwrap();
        let mut size = 0;
        let mut count = 0;
        for record in &state.waiting {
            size += serde_json::to_vec(record).unwrap().len();
            if count > 0 && size > max_bytes {
                break;
            }
            count += 1;
        }
        (count > 0).then(|| state.waiting.drain(..count).collect())
    }
    async fn acked(&self, batch: Vec<Record>) {
        self.0.lock().unwrap().acked.extend(batch);
    }
    async fn returned(&self, batch: Vec<Record>) {
        let mut state = self.0.lock().unwrap();
        state.waiting.extend(batch);
        state
            .waiting
            .sort_by_key(|record| record.id.as_ref().unwrap().seq);
        self.1.notify_one();
    }
    async fn set_aside(&self, batch: Vec<Record>) {
        self.0.lock().unwrap().aside.extend(batch);
    }
    async fn ready(&self) {
        loop {
            let told = self.1.notified();
            if !self.0.lock().unwrap().waiting.is_empty() {
                return;
            }
            told.await;
        }
    }
}
