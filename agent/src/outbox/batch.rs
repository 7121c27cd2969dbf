//! Records on their way.

use std::fmt;
use std::sync::{Arc, Weak};

use cairn_wire::Record;

use super::stream::Item;
use super::{Inner, Priority};

/// Records for one message. Hand it back by [`Outbox::acked`](super::Outbox::acked), [`Outbox::returned`](super::Outbox::returned) or
/// [`Outbox::set_aside`](super::Outbox::set_aside); one that is only dropped counts as returned.
pub struct Batch {
    /// What to send.
    pub records: Vec<Record>,
    /// Of which priority they are.
    pub priority: Priority,
    items: Vec<Item>,
    outbox: Weak<Inner>,
}

impl Batch {
    pub(super) fn new(
        outbox: &Arc<Inner>,
        priority: Priority,
        records: Vec<Record>,
        items: Vec<Item>,
    ) -> Self {
        Self {
            records,
            priority,
            items,
            outbox: Arc::downgrade(outbox),
        }
    }

    /// How many records.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Never.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Two halves, to find out which record a server can't take; a single record comes back alone.
    pub fn split(mut self) -> (Self, Option<Self>) {
        if self.items.len() < 2 {
            return (self, None);
        }
        let middle = self.items.len() / 2;
        let second = Self {
            records: self.records.split_off(middle.min(self.records.len())),
            priority: self.priority,
            items: self.items.split_off(middle),
            outbox: self.outbox.clone(),
        };
        (self, Some(second))
    }

    pub(super) fn settle(&mut self) -> Vec<Item> {
        std::mem::take(&mut self.items)
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        if !self.items.is_empty()
            && let Some(inner) = self.outbox.upgrade()
        {
            inner.returned(self.priority, &self.settle());
        }
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("priority", &self.priority)
            .field("records", &self.records.len())
            .finish_non_exhaustive()
    }
}
