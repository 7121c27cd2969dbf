//! Calls over the link, in both directions, apart from what carries them.

use cairn_wire::rpc::{Call, Reply};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

/// Calls that may wait or run at a time, in each direction.
pub const AT_A_TIME: usize = 8;

/// A call of the server, for whoever can do it.
#[derive(Debug)]
pub struct FromServer {
    /// What is to be done.
    pub call: Call,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Reply>,
}

/// A call to the server.
#[derive(Debug)]
pub struct ToServer {
    /// What the server shall do.
    pub call: Call,
    /// Where its answer goes; dropped if there is none.
    pub answer: oneshot::Sender<Value>,
}

/// Calls the server. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Caller(mpsc::Sender<ToServer>);

/// A new caller, and the end that the link takes.
pub fn caller() -> (Caller, mpsc::Receiver<ToServer>) {
    let (sender, receiver) = mpsc::channel(AT_A_TIME);
    (Caller(sender), receiver)
}

impl Caller {
    /// Calls, and waits for the answer; `None` if the link is down, or goes down before it comes.
    pub async fn call(&self, call: Call) -> Option<Value> {
        let (answer, wait) = oneshot::channel();
        self.0.send(ToServer { call, answer }).await.ok()?;
        wait.await.ok()
    }
}

/// Has a call done; the answer comes from the receiver.
pub fn hand_over(to: &mpsc::Sender<FromServer>, call: Call) -> oneshot::Receiver<Reply> {
    let (reply, wait) = oneshot::channel();
    if let Err(refused) = to.try_send(FromServer { call, reply }) {
        let (mpsc::error::TrySendError::Full(call) | mpsc::error::TrySendError::Closed(call)) =
            refused;
        let _ = call
            .reply
            .send(Reply::refused("the node is busy with other calls"));
    }
    wait
}

/// The answer as it is sent: what is too long for a message is an error instead.
pub fn to_payload(reply: &Reply) -> Vec<u8> {
    let payload = serde_json::to_vec(reply).unwrap_or_default();
    if !payload.is_empty() && payload.len() <= cairn_wire::MAX_PAYLOAD {
        return payload;
    }
    serde_json::to_vec(&Reply::refused(format_args!(
        "the answer has {} bytes, more than a message holds",
        payload.len()
    )))
    .unwrap_or_default()
}
