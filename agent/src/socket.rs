//! The agent's socket: programs on the node ask it how things are, and watch an update.
//!
//! Requests and answers are lines of JSON. Only root can connect: the socket has mode 0600.
//!
//! ```text
//! {"cmd":"status"}                     → everything, as `cairn-agent status --json` shows it
//! {"cmd":"watch"}                      → the update's state, now and at each change, until the client hangs up
//! {"cmd":"forgive","release":digest}   → forgets that a release failed
//! {"cmd":"reload"}                     → settings and identity are read again
//! {"cmd":"report","values":{…}}        → kept on the disk; it goes to the control plane as telemetry
//! ```

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cairn_release::Digest;
use cairn_wire::Object;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::outbox::Priority;
use crate::rpc::Service;
use crate::shutdown::{Shutdown, boxed};

/// The longest request, in bytes.
const REQUEST: u64 = 4096;
/// The longest answer, in bytes.
const ANSWER: u64 = 4 * 1024 * 1024;
/// Clients at a time.
const CLIENTS: usize = 8;
/// How long a client may take to ask, or to read.
const PATIENCE: Duration = Duration::from_secs(30);

/// A request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cmd", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Everything.
    Status,
    /// The update's state, again and again.
    Watch,
    /// Forgets that a release failed.
    Forgive {
        /// Digest of its manifest's payload.
        release: Digest,
    },
    /// Reads settings and identity again.
    Reload,
    /// Tells the control plane something; the answer comes when it is on the disk.
    Report(Report),
}

/// What a program on the node has to say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// Telemetry by name. Names that begin with `cairn_` are the agent's own.
    pub values: Object,
    /// What is dropped first if the outbox is full.
    #[serde(default)]
    pub priority: Priority,
}

impl Report {
    /// Whether it may be sent.
    ///
    /// # Errors
    /// If it says nothing, or speaks in the agent's name.
    pub fn check(&self) -> Result<(), String> {
        if self.values.is_empty() {
            return Err("values: expected at least one".to_owned());
        }
        match self.values.keys().find(|key| key.starts_with("cairn_")) {
            Some(key) => Err(format!(
                "values: {key:?} is the agent's own; expected another name"
            )),
            None => Ok(()),
        }
    }
}

/// What the socket's clients may ask for.
#[derive(Clone)]
pub struct Services {
    /// All there is to say.
    pub status: Arc<dyn Fn() -> Value + Send + Sync>,
    /// The update's state.
    pub progress: watch::Receiver<Value>,
    /// Forgets that a release failed.
    pub forgive: Service<Digest, ()>,
    /// Reads settings and identity again.
    pub reload: Arc<dyn Fn() + Send + Sync>,
    /// Keeps a report until it is sent.
    pub report: Service<Report, ()>,
}

/// The listening socket; it is removed when this is dropped.
pub struct Socket {
    path: PathBuf,
    listener: UnixListener,
}

impl Socket {
    /// Listens at `path`. What a killed agent left there is replaced.
    ///
    /// # Errors
    /// If another agent listens there, or the folder can't be written to.
    pub fn bind(path: &Path) -> io::Result<Self> {
        if std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(io::Error::new(
                    io::ErrorKind::AddrInUse,
                    "another agent is running",
                ));
            }
            std::fs::remove_file(path)?;
        }
        // Nobody else may connect, not even before the mode is set: the socket gets its name last.
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        let beside = PathBuf::from(beside);
        crate::files::remove(&beside)?;
        let listener = UnixListener::bind(&beside)?;
        std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o600))?;
        std::fs::rename(&beside, path)?;
        Ok(Self {
            path: path.to_owned(),
            listener,
        })
    }

    /// Answers until told to stop.
    pub async fn run(self, services: Services, mut shutdown: Shutdown) {
        let places = Arc::new(Semaphore::new(CLIENTS));
        let mut clients = JoinSet::new();
        loop {
            tokio::select! {
                () = shutdown.requested() => return,
                Some(_) = clients.join_next() => {}
                client = self.listener.accept() => {
                    let Ok((stream, _)) = client else {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    };
                    // One too many is hung up on.
                    let Ok(place) = places.clone().try_acquire_owned() else { continue };
                    let services = services.clone();
                    clients.spawn(boxed(async move {
                        if let Err(error) = serve(stream, services).await {
                            tracing::debug!(%error, "a client of the socket");
                        }
                        drop(place);
                    }));
                }
            }
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn serve(stream: UnixStream, services: Services) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    loop {
        let mut line = Vec::new();
        let mut request = (&mut reader).take(REQUEST);
        if tokio::time::timeout(PATIENCE, request.read_until(b'\n', &mut line)).await?? == 0 {
            return Ok(());
        }
        if line.last() != Some(&b'\n') {
            return send(
                &mut writer,
                &json!({ "error": format!("expected a line of at most {REQUEST} bytes") }),
            )
            .await;
        }
        let answer = match serde_json::from_slice::<Request>(&line) {
            Err(error) => json!({ "error": format!("expected a request: {error}") }),
            Ok(Request::Status) => (services.status)(),
            Ok(Request::Forgive { release }) => match (services.forgive)(release).await {
                Ok(()) => json!({ "ok": true }),
                Err(error) => json!({ "error": error }),
            },
            Ok(Request::Report(report)) => match (services.report)(report).await {
                Ok(()) => json!({ "ok": true }),
                Err(error) => json!({ "error": error }),
            },
            Ok(Request::Reload) => {
                (services.reload)();
                json!({ "ok": true })
            }
            Ok(Request::Watch) => return watch(reader, writer, services.progress).await,
        };
        send(&mut writer, &answer).await?;
    }
}

async fn watch(
    mut reader: impl AsyncReadExt + Unpin,
    mut writer: impl AsyncWriteExt + Unpin,
    mut progress: watch::Receiver<Value>,
) -> io::Result<()> {
    let mut rest = [0; 64];
    loop {
        let now = progress.borrow_and_update().clone();
        send(&mut writer, &now).await?;
        tokio::select! {
            changed = progress.changed() => if changed.is_err() { return Ok(()) },
            read = reader.read(&mut rest) => if read? == 0 { return Ok(()) },
        }
    }
}

async fn send(writer: &mut (impl AsyncWriteExt + Unpin), value: &Value) -> io::Result<()> {
    let mut line = value.to_string().into_bytes();
    line.push(b'\n');
    tokio::time::timeout(PATIENCE, writer.write_all(&line)).await?
}

/// Asks the agent at `path` once.
///
/// # Errors
/// If none listens there, or it doesn't answer in time.
pub async fn ask(path: &Path, request: &Request) -> io::Result<Value> {
    let work = async {
        let (reader, mut writer) = UnixStream::connect(path).await?.into_split();
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        writer.write_all(&line).await?;
        let mut answer = Vec::new();
        BufReader::new(reader)
            .take(ANSWER)
            .read_until(b'\n', &mut answer)
            .await?;
        Ok(serde_json::from_slice(&answer)?)
    };
    tokio::time::timeout(PATIENCE, work).await?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<F: Future>(future: F) -> F::Output {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(60), future)
                .await
                .unwrap()
        })
    }

    fn services() -> (Services, watch::Sender<Value>) {
        let (sender, progress) = watch::channel(json!({ "state": "idle" }));
        let services = Services {
            status: Arc::new(|| json!({ "agent": "x" })),
            progress,
            forgive: Arc::new(|_| Box::pin(async { Err("it didn't fail".to_owned()) })),
            reload: Arc::new(|| {}),
            report: Arc::new(|report: Report| Box::pin(async move { report.check() })),
        };
        (services, sender)
    }

    #[test]
    fn requests_are_answered_line_by_line() {
        run(async {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("agent.sock");
            let socket = Socket::bind(&path).unwrap();
            assert_eq!(
                std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
                0o600
            );
            let (trigger, shutdown) = crate::shutdown::pair();
            let (services, progress) = services();
            let server = tokio::spawn(socket.run(services, shutdown));

            assert_eq!(
                ask(&path, &Request::Status).await.unwrap(),
                json!({ "agent": "x" })
            );
            let forgive = Request::Forgive {
                release: Digest::of(b"x"),
            };
            assert_eq!(
                ask(&path, &forgive).await.unwrap(),
                json!({ "error": "it didn't fail" })
            );

            let report = |key: &str| {
                let values = [(key.to_owned(), json!(1))].into_iter().collect();
                Request::Report(Report {
                    values,
                    priority: Priority::Sample,
                })
            };
            assert_eq!(
                ask(&path, &report("wear")).await.unwrap(),
                json!({ "ok": true })
            );
            let refused = ask(&path, &report("cairn_update")).await.unwrap();
            assert_eq!(
                refused["error"],
                "values: \"cairn_update\" is the agent's own; expected another name"
            );

            let (reader, mut writer) = UnixStream::connect(&path).await.unwrap().into_split();
            let mut lines = BufReader::new(reader).lines();
            writer
                .write_all(b"nonsense\n{\"cmd\":\"watch\"}\n")
                .await
                .unwrap();
            assert!(
                lines
                    .next_line()
                    .await
                    .unwrap()
                    .unwrap()
                    .starts_with("{\"error\":\"expected a request")
            );
            assert_eq!(
                lines.next_line().await.unwrap().unwrap(),
                "{\"state\":\"idle\"}"
            );
            progress.send_replace(json!({ "state": "fetching" }));
            assert_eq!(
                lines.next_line().await.unwrap().unwrap(),
                "{\"state\":\"fetching\"}"
            );

            trigger.pull();
            server.await.unwrap();
            assert!(!path.exists(), "the socket is removed");
        });
    }

    #[test]
    fn a_line_without_end_is_refused() {
        run(async {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("agent.sock");
            let (_trigger, shutdown) = crate::shutdown::pair();
            tokio::spawn(Socket::bind(&path).unwrap().run(services().0, shutdown));
            let (reader, mut writer) = UnixStream::connect(&path).await.unwrap().into_split();
            writer.write_all(&[b'x'; 5000]).await.unwrap();
            let answer = BufReader::new(reader)
                .lines()
                .next_line()
                .await
                .unwrap()
                .unwrap();
            assert_eq!(
                answer,
                "{\"error\":\"expected a line of at most 4096 bytes\"}"
            );
        });
    }

    #[test]
    fn a_dead_agents_socket_is_replaced_and_a_live_ones_is_not() {
        run(async {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("agent.sock");
            drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
            let alive = Socket::bind(&path).unwrap();
            assert_eq!(
                Socket::bind(&path).err().unwrap().kind(),
                io::ErrorKind::AddrInUse
            );
            drop(alive);
        });
    }
}
