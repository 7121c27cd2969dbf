//! The way to a connected device: a short queue, what it subscribed for, and how its connection is ended.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

/// Pushes that may wait for a device.
const QUEUE: usize = 64;

/// What a device subscribed for: a set of bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wants(pub u8);

impl Wants {
    /// Changes of shared attributes.
    pub const ATTRIBUTES: Self = Self(1);
    /// Answers to requests for attributes.
    pub const ATTRIBUTE_ANSWERS: Self = Self(2);
    /// Calls.
    pub const CALLS: Self = Self(4);
    /// Answers to its own calls.
    pub const CALL_ANSWERS: Self = Self(8);
    /// Chunks and errors of firmware.
    pub const FIRMWARE: Self = Self(16);
    /// Chunks and errors of software.
    pub const SOFTWARE: Self = Self(32);
}

/// Something for a device.
#[derive(Debug, Clone)]
pub enum Push {
    /// A change of shared attributes.
    Attributes(Bytes),
    /// A call.
    Call {
        /// Its number.
        id: u32,
        /// The call in JSON.
        payload: Bytes,
    },
}

/// Why a connection is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum End {
    /// The device has connected anew.
    Superseded = 1,
    /// It is shut out.
    Revoked = 2,
    /// It doesn't read what is pushed.
    Slow = 3,
}

/// The way to one connection.
#[derive(Debug, Default)]
pub struct Outlet {
    queue: Mutex<VecDeque<Push>>,
    wake: Notify,
    wants: AtomicU8,
    at_least_once: AtomicU8,
    end: AtomicU8,
}

impl Outlet {
    /// Queues something; a full queue ends the connection.
    pub fn push(&self, push: Push) {
        {
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            if queue.len() < QUEUE {
                queue.push_back(push);
            } else {
                self.end.store(End::Slow as u8, Ordering::Release);
            }
        }
        self.wake.notify_one();
    }

    /// Ends the connection.
    pub fn end(&self, why: End) {
        self.end.store(why as u8, Ordering::Release);
        self.wake.notify_one();
    }

    /// Whether and why the connection is to end.
    pub fn ended(&self) -> Option<End> {
        match self.end.load(Ordering::Acquire) {
            1 => Some(End::Superseded),
            2 => Some(End::Revoked),
            3 => Some(End::Slow),
            _ => None,
        }
    }

    /// Waits until there is something to push, or the end.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    /// The next push.
    pub fn next(&self) -> Option<Push> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let next = queue.pop_front();
        if queue.is_empty() {
            // An idle connection keeps no memory for it.
            *queue = VecDeque::new();
        }
        next
    }

    /// Notes a subscription.
    pub fn subscribe(&self, what: Wants, at_least_once: bool) {
        self.wants.fetch_or(what.0, Ordering::AcqRel);
        if at_least_once {
            self.at_least_once.fetch_or(what.0, Ordering::AcqRel);
        } else {
            self.at_least_once.fetch_and(!what.0, Ordering::AcqRel);
        }
    }

    /// Notes the end of a subscription.
    pub fn unsubscribe(&self, what: Wants) {
        self.wants.fetch_and(!what.0, Ordering::AcqRel);
    }

    /// Whether the device subscribed for this.
    pub fn wants(&self, what: Wants) -> bool {
        self.wants.load(Ordering::Acquire) & what.0 != 0
    }

    /// Whether it asked for QoS 1.
    pub fn at_least_once(&self, what: Wants) -> bool {
        self.at_least_once.load(Ordering::Acquire) & what.0 != 0
    }
}
