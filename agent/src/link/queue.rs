//! The outbox as the pump's queue.

use cairn_wire::telemetry::Record;

use super::pump::Queue;
use crate::outbox::{Batch, Outbox};

impl Queue for Outbox {
    type Batch = Batch;

    fn records(batch: &Batch) -> &[Record] {
        &batch.records
    }

    async fn next_batch(&self, max_bytes: usize) -> Option<Batch> {
        Self::next_batch(self, max_bytes)
    }

    async fn acked(&self, batch: Batch) {
        Self::acked(self, batch);
    }

    async fn returned(&self, batch: Batch) {
        Self::returned(self, batch);
    }

    async fn set_aside(&self, batch: Batch) {
        Self::set_aside(self, batch);
    }

    async fn ready(&self) {
        Self::ready(self).await;
    }
}
