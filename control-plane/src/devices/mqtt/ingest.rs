//! Telemetry and attributes. What came in one read is one job for the database; several jobs of a connection are under way at once,
//! and messages are acknowledged in the order in which they came, each after its job is on the disk.

use std::sync::{Arc, LazyLock};

use cairn_wire::{Object, Record};
use rusqlite::Transaction;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;

use super::Closed;
use crate::app::App;
use crate::devices::now_ms;
use crate::registry::attributes::{self, AttributeError, Scope};
use crate::registry::{self, DeviceId};
use crate::sessions::Wants;
use crate::store::StoreError;
use crate::telemetry::{Counts, Intake};

/// Messages of one job.
pub(super) const BATCH: usize = 512;

/// KiB of messages of all connections that may be under way.
const BUDGET_KIB: usize = 256 * 1024;

static BUDGET: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(BUDGET_KIB)));

/// A share of the memory for messages under way, as soon as there is one; given back when dropped.
pub(crate) async fn share(bytes: usize) -> Option<OwnedSemaphorePermit> {
    let kib = (bytes / 1024 + 1).min(BUDGET_KIB);
    Arc::clone(&BUDGET)
        .acquire_many_owned(u32::try_from(kib).unwrap_or(1))
        .await
        .ok()
}

/// What one message wants stored.
pub(super) enum Item {
    Telemetry(Vec<Record>),
    Attributes(Object),
}

/// A message: its packet's number if it wants an acknowledgement.
pub(super) struct Message {
    pub(super) packet: Option<u16>,
    pub(super) item: Item,
}

/// What became of messages, in their order.
#[derive(Default)]
pub(super) struct Outcome {
    /// Packets to acknowledge.
    pub(super) acknowledge: Vec<u16>,
    /// Messages to send, if the device subscribed for them.
    pub(super) send: Vec<(Wants, String, bytes::Bytes)>,
    /// The connection ends after these.
    pub(super) closed: Option<Closed>,
}

/// Something under way; it goes on if the connection ends.
pub(super) type Job = JoinHandle<Outcome>;

/// Starts to store messages, behind those that were started before.
pub(super) async fn store(
    app: &App,
    device: &DeviceId,
    messages: Vec<Message>,
    seen: bool,
    permit: OwnedSemaphorePermit,
) -> Job {
    let (app, device, id) = (app.clone(), device.clone(), device.clone());
    let received = now_ms();
    let change = move |tx: &Transaction<'_>| write(tx, &id, messages, received, seen);
    let pending = app.store.submit(change).await;
    tokio::spawn(async move {
        let stored = pending.done().await;
        drop(permit);
        match stored {
            Ok((outcome, counts)) => {
                app.metrics.took(counts);
                outcome
            }
            Err(error) => {
                tracing::error!(device = %device, %error, "messages can't be stored");
                Outcome {
                    closed: Some(Closed::Storage),
                    ..Outcome::default()
                }
            }
        }
    })
}

fn write(
    tx: &Transaction<'_>,
    device: &DeviceId,
    messages: Vec<Message>,
    received: i64,
    seen: bool,
) -> Result<(Outcome, Counts), StoreError> {
    let (mut outcome, mut counts) = (Outcome::default(), Counts::default());
    if !registry::exists(tx, device)? {
        // Removed while this was on its way; nobody would ever delete it.
        outcome.closed = Some(Closed::Revoked);
        return Ok((outcome, counts));
    }
    let mut intake = Intake::new(tx, device, received)?;
    for message in messages {
        match message.item {
            Item::Telemetry(records) => {
                counts += intake.records(records)?;
            }
            Item::Attributes(values) => {
                if let Err(error) = client_attributes(tx, device, &values)? {
                    tracing::info!(device = %device, %error, "attributes were refused");
                    outcome.closed = Some(Closed::Malformed);
                    break;
                }
                intake.attributes(&values)?;
            }
        }
        outcome.acknowledge.extend(message.packet);
    }
    intake.finish()?;
    if seen {
        registry::seen(tx, device, true)?;
    }
    Ok((outcome, counts))
}

/// Sets client attributes, all or none. The inner error is the device's fault.
pub(crate) fn client_attributes(
    tx: &Transaction<'_>,
    device: &DeviceId,
    values: &Object,
) -> Result<Result<(), AttributeError>, StoreError> {
    let run = |sql| -> Result<(), StoreError> {
        tx.prepare_cached(sql)?.execute([])?;
        Ok(())
    };
    run("SAVEPOINT attributes")?;
    let result = match attributes::set(tx, device, Scope::Client, values) {
        Err(AttributeError::Store(error)) => return Err(error),
        result => result,
    };
    if result.is_err() {
        run("ROLLBACK TO attributes")?;
    }
    run("RELEASE attributes")?;
    Ok(result)
}
