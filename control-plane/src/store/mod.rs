//! The database: SQLite in `DATA/cairn.db`, behind closures.
//!
//! One thread writes. It takes whatever is waiting, runs each as a savepoint of one transaction, commits once, and only then
//! tells them all: so an answer means that the change is on the disk, and thousands of small changes share one fsync. Readers have
//! connections of their own (WAL) and never wait for the writer.
//!
//! SQL lives here and in the modules' `sql.rs` files, so that another engine can stand behind the same functions.

mod migrate;
#[cfg(test)]
mod tests;

use std::os::unix::fs::OpenOptionsExt;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

/// Jobs that wait for the writer before callers are made to wait.
const QUEUE: usize = 16_384;
/// Jobs that share a transaction.
const BATCH: usize = 2_048;
/// Readers at once.
const READERS: usize = 8;

/// The database said no.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// An SQL error.
    #[error("database: {0}")]
    Sql(#[from] rusqlite::Error),
    /// The writer has ended.
    #[error("the database is closed")]
    Closed,
    /// The file can't be used.
    #[error("cannot open the database {path}: {source}")]
    Open {
        /// The file.
        path: String,
        /// Why.
        source: rusqlite::Error,
    },
    /// Something in it isn't what was written.
    #[error("{what} in the database is damaged: {reason}")]
    Damaged {
        /// What.
        what: &'static str,
        /// How that is known.
        reason: String,
    },
    /// The file was written by a newer program.
    #[error(
        "the database {path} has schema {found}, this program knows up to {known}; use the newer program"
    )]
    Newer {
        /// The file.
        path: String,
        /// Its version.
        found: i64,
        /// Ours.
        known: i64,
    },
}

impl StoreError {
    /// Whether there was no room on the disk.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Sql(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull))
    }
}

type Job = Box<dyn FnOnce(&Transaction<'_>) -> After + Send>;
/// Runs once the transaction is on the disk (`Ok`), or is lost.
type After = Box<dyn FnOnce(Result<(), Lost>) + Send>;
/// Why a transaction is lost; each of its jobs is told.
type Lost = (rusqlite::ffi::Error, String);

/// A handle; clones share the database.
#[derive(Clone)]
pub struct Store {
    jobs: mpsc::Sender<Job>,
    changes: watch::Receiver<()>,
    readers: Arc<Readers>,
}

/// A change that is in the queue.
pub struct Pending<T, E>(oneshot::Receiver<Result<T, E>>);

impl<T, E: From<StoreError>> Pending<T, E> {
    /// Returns once the change is on the disk.
    ///
    /// # Errors
    /// The closure's own, or the database's.
    pub async fn done(self) -> Result<T, E> {
        self.0.await.map_err(|_| StoreError::Closed)?
    }
}

struct Readers {
    path: std::path::PathBuf,
    turns: Semaphore,
    idle: Mutex<Vec<Connection>>,
}

impl Store {
    /// Opens the database, makes it if there is none, brings its schema up to date, and starts the writer.
    ///
    /// # Errors
    /// If the file can't be used or is of a newer program.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let open = |source| StoreError::Open {
            path: path.display().to_string(),
            source,
        };
        // Nobody else reads it, whatever the folder's mode: SQLite gives its log the mode of the file.
        let _ = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path);
        let mut connection = Connection::open(path).map_err(open)?;
        // WAL with FULL: each commit is an fsync of the log.
        connection.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;
             PRAGMA busy_timeout = 5000; PRAGMA cache_size = -65536; PRAGMA wal_autocheckpoint = 4000;",
        )
        .map_err(open)?;
        connection.set_prepared_statement_cache_capacity(256);
        migrate::run(&mut connection, path)?;
        let (jobs, queue) = mpsc::channel(QUEUE);
        let (changed, changes) = watch::channel(());
        std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer(connection, queue, &changed))
            .map_err(|_| StoreError::Closed)?;
        Ok(Self {
            jobs,
            changes,
            readers: Arc::new(Readers {
                path: path.to_owned(),
                turns: Semaphore::new(READERS),
                idle: Mutex::default(),
            }),
        })
    }

    /// Changes something. Returns once the change is on the disk; an error undoes this change only.
    ///
    /// # Errors
    /// The closure's own, or the database's.
    pub async fn write<T, E, F>(&self, change: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<T, E> + Send + 'static,
    {
        self.submit(change).await.done().await
    }

    /// Puts a change into the queue: what is put there later happens later. [`Pending::done`] says when it is on the disk; it happens
    /// also if nobody waits for that.
    pub async fn submit<T, E, F>(&self, change: F) -> Pending<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<T, E> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let job: Job = Box::new(move |transaction| {
            let result = savepoint(transaction, change);
            Box::new(move |committed: Result<(), Lost>| {
                let _ = sender.send(match committed {
                    Err((code, reason)) if result.is_ok() => Err(E::from(StoreError::Sql(
                        rusqlite::Error::SqliteFailure(code, Some(reason)),
                    ))),
                    // An error of its own says why, and all the more if it took the transaction with it.
                    _ => result,
                });
            })
        });
        // A job that isn't taken takes its sender with it, which the receiver is told.
        let _ = self.jobs.send(job).await;
        Pending(receiver)
    }

    /// Tells of every change from now on, once it is on the disk.
    pub fn changes(&self) -> watch::Receiver<()> {
        let mut changes = self.changes.clone();
        changes.mark_unchanged();
        changes
    }

    /// Reads something, on a thread that may block.
    ///
    /// # Errors
    /// The closure's own, or the database's.
    pub async fn read<T, E, F>(&self, query: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
        F: FnOnce(&Connection) -> Result<T, E> + Send + 'static,
    {
        // Without this a crowd of readers would be a crowd of threads and open files.
        let _turn = self
            .readers
            .turns
            .acquire()
            .await
            .map_err(|_| StoreError::Closed)?;
        let readers = Arc::clone(&self.readers);
        tokio::task::spawn_blocking(move || {
            let connection = readers.take()?;
            let result = query(&connection);
            readers.put(connection);
            result
        })
        .await
        .map_err(|_| StoreError::Closed)?
    }
}

impl Readers {
    fn take(&self) -> Result<Connection, StoreError> {
        let idle = self
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        if let Some(connection) = idle {
            return Ok(connection);
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)?;
        connection.busy_timeout(Duration::from_secs(5))?;
        connection.set_prepared_statement_cache_capacity(128);
        Ok(connection)
    }

    fn put(&self, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < READERS {
            idle.push(connection);
        }
    }
}

fn savepoint<T, E: From<StoreError>>(
    transaction: &Transaction<'_>,
    change: impl FnOnce(&Transaction<'_>) -> Result<T, E>,
) -> Result<T, E> {
    let run = |sql| {
        transaction
            .prepare_cached(sql)
            .and_then(|mut s| s.execute([]))
            .map_err(StoreError::from)
    };
    run("SAVEPOINT job")?;
    let result = change(transaction);
    let ended = match &result {
        Ok(_) => run("RELEASE job"),
        Err(_) => run("ROLLBACK TO job").and_then(|_| run("RELEASE job")),
    };
    if let Err(error) = ended {
        undo(transaction);
        // Of two errors the change's own says more.
        return Err(result.err().unwrap_or_else(|| error.into()));
    }
    result
}

/// Ends a transaction of which nobody knows what it holds. A full disk may have ended it before.
fn undo(transaction: &Transaction<'_>) {
    if !transaction.is_autocommit() {
        let _ = transaction.execute_batch("ROLLBACK");
    }
}

/// Runs a job. One that panics takes its transaction with it, not the writer; its caller is told by its channel.
fn run(job: Job, transaction: &Transaction<'_>) -> Option<After> {
    let after = std::panic::catch_unwind(AssertUnwindSafe(|| job(transaction)));
    if after.is_err() {
        undo(transaction);
    }
    after.ok()
}

fn lost(error: rusqlite::Error) -> Lost {
    let text = error.to_string();
    let code = error.sqlite_error().copied();
    let unknown = || rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR);
    (code.unwrap_or_else(unknown), text)
}

fn writer(mut connection: Connection, mut queue: mpsc::Receiver<Job>, changed: &watch::Sender<()>) {
    while let Some(first) = queue.blocking_recv() {
        let mut done = Vec::new();
        // Immediate: another process (`cairn-control account add`) may write between a first read and a first write of ours.
        let committed = match connection.transaction_with_behavior(TransactionBehavior::Immediate) {
            Ok(transaction) => {
                done.extend(run(first, &transaction));
                // Once the transaction is undone the next job would be one of its own, committed behind our back.
                while !transaction.is_autocommit()
                    && done.len() < BATCH
                    && let Ok(job) = queue.try_recv()
                {
                    done.extend(run(job, &transaction));
                }
                transaction.commit().map_err(lost)
            }
            // The job is dropped, and its caller told so by its channel.
            Err(error) => Err(lost(error)),
        };
        if let Err((_, error)) = &committed {
            tracing::error!(%error, jobs = done.len(), "a transaction was lost");
        }
        for after in done {
            after(committed.clone());
        }
        let _ = changed.send(());
    }
}
