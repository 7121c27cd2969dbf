//! Devices that poll over HTTP instead of keeping a connection.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cairn_wire::rpc::Call;
use tokio::sync::oneshot;

use crate::registry::DeviceId;

/// A device that polled this recently will poll again.
const RECENT: Duration = Duration::from_secs(60);
/// Requests of one kind that a device may have open at once.
const OPEN: usize = 4;
/// Calls that wait for a device's next request.
const PARKED: usize = 16;

/// A call for a device that polls.
#[derive(Debug)]
pub struct PolledCall {
    /// Its number.
    pub id: u32,
    /// The call.
    pub call: Call,
}

#[derive(Default)]
pub(super) struct Polls(Mutex<HashMap<DeviceId, Poll>>);

struct Poll {
    last: Instant,
    attributes: Vec<oneshot::Sender<Bytes>>,
    calls: VecDeque<oneshot::Sender<PolledCall>>,
    parked: VecDeque<PolledCall>,
}

impl Poll {
    fn new() -> Self {
        Self {
            last: Instant::now(),
            attributes: Vec::new(),
            calls: VecDeque::new(),
            parked: VecDeque::new(),
        }
    }

    fn recent(&self) -> bool {
        self.last.elapsed() < RECENT || self.calls.iter().any(|waiting| !waiting.is_closed())
    }
}

impl Polls {
    fn lock(&self) -> MutexGuard<'_, HashMap<DeviceId, Poll>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn recent(&self, device: &str) -> bool {
        self.lock().get(device).is_some_and(Poll::recent)
    }

    pub(super) fn attributes(&self, device: &str, payload: &Bytes) {
        if let Some(poll) = self.lock().get_mut(device) {
            for waiting in poll.attributes.drain(..) {
                let _ = waiting.send(payload.clone());
            }
        }
    }

    /// Gives a call to a waiting request, or keeps it for the next; `false` if the device doesn't poll.
    pub(super) fn call(&self, device: &str, mut call: PolledCall) -> bool {
        let mut polls = self.lock();
        let Some(poll) = polls.get_mut(device) else {
            return false;
        };
        while let Some(waiting) = poll.calls.pop_front() {
            match waiting.send(call) {
                Ok(()) => return true,
                Err(back) => call = back,
            }
        }
        if !poll.recent() || poll.parked.len() >= PARKED {
            return false;
        }
        poll.parked.push_back(call);
        true
    }

    pub(super) fn wait_attributes(&self, device: &DeviceId) -> Option<oneshot::Receiver<Bytes>> {
        let mut polls = self.lock();
        let poll = polls.entry(device.clone()).or_insert_with(Poll::new);
        // A device that only waits for attributes doesn't take calls, so this isn't `last`.
        poll.attributes.retain(|waiting| !waiting.is_closed());
        if poll.attributes.len() >= OPEN {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        poll.attributes.push(sender);
        Some(receiver)
    }

    pub(super) fn wait_call(&self, device: &DeviceId) -> Option<oneshot::Receiver<PolledCall>> {
        let mut polls = self.lock();
        let poll = polls.entry(device.clone()).or_insert_with(Poll::new);
        poll.last = Instant::now();
        poll.calls.retain(|waiting| !waiting.is_closed());
        if poll.calls.len() >= OPEN {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        match poll.parked.pop_front() {
            Some(call) => {
                let _ = sender.send(call);
            }
            None => poll.calls.push_back(sender),
        }
        Some(receiver)
    }

    pub(super) fn forget(&self, device: &str) {
        self.lock().remove(device);
    }

    pub(super) fn sweep(&self) {
        self.lock().retain(|_, poll| {
            poll.attributes.retain(|waiting| !waiting.is_closed());
            poll.recent() || !poll.attributes.is_empty()
        });
    }
}
