//! What the server orders: the release that this node shall run, its workloads, its disks.
//!
//! The control plane's word is a document with an ETag; a shared attribute says that there is a new one. A stock ThingsBoard has no such
//! document: there the order is read off the `fw_*` attributes. The last order is kept on the disk, so that a restart without
//! a link isn't taken for an order withdrawn.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cairn_wire::attributes::Change;
use cairn_wire::workload::Login;
use cairn_wire::{Desired, Disks, Object, ReleaseOrder, Workloads, desired};
use rand::Rng;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, watch};

use super::backoff::Backoff;
use super::health::Health;
use super::http::Target;
use super::{Http, LinkError, State};
use crate::files;
use crate::shutdown::Shutdown;

/// The longest document, in bytes.
const LIMIT: usize = 2560 * 1024;
/// The shared attributes that matter.
pub const KEYS: [&str; 8] = [
    desired::ATTRIBUTE,
    "fw_title",
    "fw_version",
    "fw_tag",
    "fw_size",
    "fw_url",
    "fw_checksum",
    "fw_checksum_algorithm",
];

/// Gathers orders. Cheap to clone.
#[derive(Clone)]
pub struct Orders(Arc<Inner>);

struct Inner {
    file: PathBuf,
    /// Where the workloads are kept, so that they run after a restart without a link.
    workloads_file: PathBuf,
    logins_file: PathBuf,
    /// The disks, likewise.
    disks_file: PathBuf,
    shared: Mutex<Object>,
    order: watch::Sender<Option<ReleaseOrder>>,
    workloads: watch::Sender<Option<Arc<Workloads>>>,
    disks: watch::Sender<Option<Arc<Disks>>>,
    logins: watch::Sender<Arc<Vec<Login>>>,
    look: Notify,
    /// Whether the server has the document: then `fw_*` counts for nothing.
    has_document: Mutex<Option<bool>>,
}

/// The document that was seen last.
struct Seen {
    /// Whose it was: to another server, or of another node, its tag means nothing.
    from: Arc<Target>,
    etag: String,
}

impl Orders {
    /// With the last order that `folder` keeps.
    pub fn open(folder: &Path) -> Self {
        let file = folder.join("order.json");
        let workloads_file = folder.join("workloads.json");
        let disks_file = folder.join("disks.json");
        let order = kept::<Option<ReleaseOrder>>(&file).flatten();
        let workloads = kept::<Workloads>(&workloads_file).map(Arc::new);
        let logins_file = folder.join("registries.json");
        let logins = kept::<Vec<Login>>(&logins_file).unwrap_or_default();
        let disks = kept::<Disks>(&disks_file).map(Arc::new);
        Self(Arc::new(Inner {
            file,
            workloads_file,
            disks_file,
            logins_file,
            shared: Mutex::default(),
            order: watch::channel(order).0,
            workloads: watch::channel(workloads).0,
            disks: watch::channel(disks).0,
            logins: watch::channel(Arc::new(logins)).0,
            look: Notify::new(),
            has_document: Mutex::default(),
        }))
    }

    /// The order in force.
    pub fn watch(&self) -> watch::Receiver<Option<ReleaseOrder>> {
        self.0.order.subscribe()
    }

    /// The workloads that are declared; none: nobody has said.
    pub fn workloads(&self) -> watch::Receiver<Option<Arc<Workloads>>> {
        self.0.workloads.subscribe()
    }

    /// Users of the registries that the workloads' images come from.
    pub fn logins(&self) -> watch::Receiver<Arc<Vec<Login>>> {
        self.0.logins.subscribe()
    }

    /// The disks that are declared; none: nobody has said.
    pub fn disks(&self) -> watch::Receiver<Option<Arc<Disks>>> {
        self.0.disks.subscribe()
    }

    /// There may be a new document, or the server may be back.
    pub fn look(&self) {
        self.0.look.notify_one();
    }

    /// All shared attributes, as the server answered.
    pub fn attributes(&self, shared: Object) {
        *self.0.shared.lock().unwrap_or_else(PoisonError::into_inner) = only_known(shared);
        self.after_attributes(true);
    }

    /// A change of shared attributes.
    pub fn change(&self, change: Change) {
        let mut revision = false;
        {
            let mut shared = self.0.shared.lock().unwrap_or_else(PoisonError::into_inner);
            match change {
                Change::Set(values) => {
                    let values = only_known(values);
                    revision = values.contains_key(desired::ATTRIBUTE);
                    shared.extend(values);
                }
                Change::Deleted(names) => names.iter().for_each(|name| {
                    shared.remove(name);
                }),
            }
        }
        self.after_attributes(revision);
    }

    fn after_attributes(&self, look: bool) {
        if look {
            self.look();
        }
        if self.has_document() == Some(false) {
            self.follow_firmware();
        }
    }

    fn has_document(&self) -> Option<bool> {
        *self
            .0
            .has_document
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn follow_firmware(&self) {
        let order = ReleaseOrder::from_firmware(
            &self.0.shared.lock().unwrap_or_else(PoisonError::into_inner),
        );
        // Attributes come in parts; an order that is half there isn't one withdrawn.
        let none_at_all = !self
            .0
            .shared
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .keys()
            .any(|key| key.starts_with("fw_"));
        if order.is_some() || none_at_all {
            self.set(order);
        }
    }

    fn document(&self, has: bool) {
        *self
            .0
            .has_document
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(has);
    }

    fn set(&self, order: Option<ReleaseOrder>) {
        if *self.0.order.borrow() == order {
            return;
        }
        keep(&self.0.file, &order);
        match &order {
            Some(order) => tracing::info!(order = %order.id, release = %order.version, "ordered"),
            None => tracing::info!("no release is ordered"),
        }
        self.0.order.send_replace(order);
    }

    /// A document that says nothing of workloads changes nothing about them.
    fn declare(&self, workloads: Option<Workloads>, logins: Vec<Login>) {
        // Before what needs them.
        if workloads.is_some() && **self.0.logins.borrow() != logins {
            keep(&self.0.logins_file, &logins);
            self.0.logins.send_replace(Arc::new(logins));
        }
        take(workloads, &self.0.workloads, &self.0.workloads_file);
    }

    /// The same of disks.
    fn declare_disks(&self, disks: Option<Disks>) {
        take(disks, &self.0.disks, &self.0.disks_file);
    }

    /// Asks for the document when told to look, and every `poll`. While the server is away it is asked again, ever more rarely.
    pub async fn run(
        self,
        http: Http,
        health: Health,
        poll: Duration,
        mut backoff: Backoff,
        refused: Arc<Notify>,
        mut shutdown: Shutdown,
    ) {
        let mut seen = None;
        loop {
            let pause = if http.has_control_plane() {
                match self.fetch(&http, &mut seen).await {
                    Ok(()) => {
                        health.http(State::Up);
                        backoff.reset();
                        poll.mul_f64(rand::thread_rng().gen_range(0.8..=1.2))
                    }
                    Err(error) => self.trouble(&error, &health, &mut backoff, &refused),
                }
            } else {
                self.document(false);
                self.follow_attributes_if_any();
                poll
            };
            tokio::select! {
                () = shutdown.requested() => return,
                () = self.0.look.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    fn follow_attributes_if_any(&self) {
        if !self
            .0
            .shared
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_empty()
        {
            self.follow_firmware();
        }
    }

    fn trouble(
        &self,
        error: &LinkError,
        health: &Health,
        backoff: &mut Backoff,
        refused: &Notify,
    ) -> Duration {
        tracing::debug!(%error, "the desired document");
        if error.refused() {
            refused.notify_one();
        }
        if let LinkError::Status {
            retry_after: Some(asked),
            ..
        } = error
        {
            health.hold(*asked);
        }
        let asked = match error {
            LinkError::Status {
                retry_after,
                status,
                ..
            } => {
                if *status == 404 {
                    self.document(false);
                    self.follow_attributes_if_any();
                }
                health.http(if *status == 404 {
                    State::Up
                } else {
                    State::ServerFailing(error.to_string())
                });
                *retry_after
            }
            // A server that refuses was reached.
            LinkError::Answer { .. } | LinkError::Transport { .. }
                if error.refused() || matches!(error, LinkError::Answer { .. }) =>
            {
                health.http(State::ServerFailing(error.to_string()));
                None
            }
            _ => {
                health.http(State::Down(error.to_string()));
                None
            }
        };
        backoff.next(asked)
    }

    async fn fetch(&self, http: &Http, seen: &mut Option<Seen>) -> Result<(), LinkError> {
        const PATH: &str = "/v1/me/desired";
        let target = http.target();
        // Taken: after an error or an answer without a tag it is asked for whole.
        let known = seen.take().filter(|seen| Arc::ptr_eq(&seen.from, &target));
        let headers: Vec<(&str, &str)> = known
            .iter()
            .map(|seen| ("if-none-match", seen.etag.as_str()))
            .collect();
        let response = http.get(PATH, None, &headers).await?;
        self.document(true);
        if response.status == 304 {
            *seen = known;
            return Ok(());
        }
        let tag = response.etag.clone();
        let body = response.bytes(LIMIT).await?;
        let desired: Desired =
            serde_json::from_slice(&body).map_err(|error| LinkError::Answer {
                url: PATH.to_owned(),
                reason: format!("expected the desired state: {error}"),
            })?;
        self.set(desired.release);
        self.declare(desired.workloads, desired.logins);
        self.declare_disks(desired.disks);
        *seen = tag.map(|etag| Seen { from: target, etag });
        Ok(())
    }
}

/// What is declared now, if anything is, and if it is something else than before.
fn take<T: PartialEq + Serialize>(
    declared: Option<T>,
    current: &watch::Sender<Option<Arc<T>>>,
    file: &Path,
) {
    let Some(declared) = declared else { return };
    if current.borrow().as_deref() == Some(&declared) {
        return;
    }
    keep(file, &declared);
    current.send_replace(Some(Arc::new(declared)));
}

fn kept<T: DeserializeOwned>(file: &Path) -> Option<T> {
    serde_json::from_slice(&files::read(file, 2 * LIMIT as u64).ok()??).ok()
}

fn keep(file: &Path, what: &impl Serialize) {
    let kept = serde_json::to_vec(what)
        .map_err(std::io::Error::from)
        .and_then(|json| files::replace(file, &json));
    if let Err(error) = kept {
        tracing::warn!(file = %file.display(), %error, "cannot keep what is ordered");
    }
}

fn only_known(mut values: Object) -> Object {
    values.retain(|key, _| KEYS.contains(&key.as_str()));
    values
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::clock::Clock;

    fn firmware() -> Object {
        let json = serde_json::json!({
            "fw_title": "os", "fw_version": "2.0", "fw_tag": "2", "fw_url": "https://cp/releases/stable/2.0",
            "fw_checksum": "ab".repeat(32), "fw_checksum_algorithm": "SHA256", "other": 1,
        });
        json.as_object().unwrap().clone()
    }

    #[test]
    fn a_stock_server_orders_by_firmware_attributes() {
        let folder = tempfile::tempdir().unwrap();
        let orders = Orders::open(folder.path());
        orders.document(false);
        orders.attributes(firmware());
        let order = orders.watch().borrow().clone().unwrap();
        assert_eq!(order.version.as_str(), "2.0");

        // It outlives the program.
        assert_eq!(
            *Orders::open(folder.path()).watch().borrow(),
            Some(order.clone())
        );

        // Half of a change is no withdrawal; all of it gone is.
        orders.change(Change::Deleted(vec!["fw_checksum".into()]));
        assert!(orders.watch().borrow().is_some());
        orders.change(Change::Deleted(
            KEYS.iter().map(|&key| key.to_owned()).collect(),
        ));
        assert!(orders.watch().borrow().is_none());
    }

    #[test]
    fn with_a_control_plane_firmware_attributes_order_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let orders = Orders::open(folder.path());
        orders.attributes(firmware());
        orders.document(true);
        orders.change(Change::Set(firmware()));
        assert!(orders.watch().borrow().is_none());
    }

    /// A server whose document, always of revision 1, orders this version; and how often it gave it whole.
    async fn server(version: &str) -> (Arc<Target>, Arc<AtomicU32>) {
        let release = serde_json::json!({
            "id": "o1", "version": version, "sequence": 2, "digest": "ab".repeat(32), "url": "/releases/x/",
        });
        let document = serde_json::json!({ "revision": 1, "release": release }).to_string();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = Some(format!("http://{}", listener.local_addr().unwrap()));
        let whole = Arc::new(AtomicU32::new(0));
        let count = whole.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    stream.read_buf(&mut request).await.unwrap();
                }
                let asked = String::from_utf8(request).unwrap();
                let answer = if asked.contains("if-none-match: \"1\"") {
                    "HTTP/1.1 304 Not Modified\r\nconnection: close\r\n\r\n".to_owned()
                } else {
                    count.fetch_add(1, Ordering::Relaxed);
                    let length = document.len();
                    format!(
                        "HTTP/1.1 200 OK\r\netag: \"1\"\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{document}"
                    )
                };
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        let target = Target {
            base,
            ..Target::default()
        };
        (Arc::new(target), whole)
    }

    #[tokio::test]
    async fn a_tag_counts_only_for_the_server_that_gave_it() {
        let folder = tempfile::tempdir().unwrap();
        let orders = Orders::open(folder.path());
        let ((first, whole), (second, _)) = (server("1.0").await, server("2.0").await);
        let (target, now) = watch::channel(first.clone());
        let http = Http::new(Clock::manual("b", 0, 0), now);
        let mut seen = None;
        let ordered = || orders.watch().borrow().clone().unwrap().version.to_string();
        for _ in 0..3 {
            orders.fetch(&http, &mut seen).await.unwrap();
            assert_eq!(
                (ordered(), whole.load(Ordering::Relaxed)),
                ("1.0".to_owned(), 1)
            );
        }
        for (server, version) in [(second, "2.0"), (first, "1.0")] {
            target.send_replace(server);
            orders.fetch(&http, &mut seen).await.unwrap();
            assert_eq!(ordered(), version);
        }
    }

    #[test]
    fn workloads_outlive_the_program_and_a_document_without_them() {
        let folder = tempfile::tempdir().unwrap();
        let orders = Orders::open(folder.path());
        assert_eq!(*orders.workloads().borrow(), None);
        let login = r#"[{"registry":"r.example.org","user":"u","password":"p"}]"#;
        let logins: Vec<Login> = serde_json::from_str(login).unwrap();
        orders.declare(Some(Workloads::default()), logins.clone());
        orders.declare(None, Vec::new());
        assert_eq!(**orders.logins().borrow(), logins);
        assert_eq!(**Orders::open(folder.path()).logins().borrow(), logins);
        let again = Orders::open(folder.path()).workloads();
        assert_eq!(again.borrow().as_deref(), Some(&Workloads::default()));
    }

    #[test]
    fn a_damaged_file_is_no_order() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("order.json"), b"{half").unwrap();
        assert!(Orders::open(folder.path()).watch().borrow().is_none());
    }
}
