//! What every handler needs, in one handle.

use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use crate::ca::{Ca, CaError};
use crate::config::{Config, SPEED_A_DAY};
use crate::metrics::Metrics;
use crate::releases::Releases;
use crate::rollouts::Rollouts;
use crate::sessions::Sessions;
use crate::store::{Store, StoreError};
use crate::telemetry::quota::Quota;
use crate::workloads::Workloads;

/// The running server; clones share it. Its parts are the fields of [`Parts`].
#[derive(Clone)]
pub struct App(Arc<Parts>);

/// What the server is made of.
pub struct Parts {
    /// The database.
    pub store: Store,
    /// What the server was told at its start.
    pub config: Config,
    /// Who is connected.
    pub sessions: Sessions,
    /// The certificate authority.
    pub ca: Ca,
    /// The release store.
    pub releases: Releases,
    /// Which device shall run which release.
    pub rollouts: Rollouts,
    /// What customers have the fleet run.
    pub workloads: Workloads,
    /// What each device may still store.
    pub quota: Quota,
    /// What each device may still measure its line with.
    pub speed: Quota,
    /// What Prometheus reads.
    pub metrics: Metrics,
    mqtt_port: AtomicU16,
}

/// The server's data can't be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The data folder.
    #[error("cannot use the data folder {path}: {source}")]
    Folder {
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The certificate authority.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// The release store.
    #[error("cannot open the release store: {0}")]
    Releases(String),
}

impl App {
    /// Opens everything below the data folder; what is missing is made.
    ///
    /// # Errors
    /// If a part can't be opened; the error names it.
    pub fn open(config: Config) -> Result<Self, OpenError> {
        make_folder(&config.data)?;
        let store = Store::open(&config.data.join("cairn.db"))?;
        let ca = Ca::open(&config.data.join("ca"), config.certificate_days)?;
        let metrics = Metrics::new();
        let quota = Quota::new(config.telemetry_quota);
        let releases = Releases::open(&config.data, store.clone())
            .map_err(|error| OpenError::Releases(error.to_string()))?;
        let rollouts = Rollouts::new(store.clone());
        Ok(Self(Arc::new(Parts {
            store,
            config,
            sessions: Sessions::new(),
            ca,
            releases,
            rollouts,
            workloads: Workloads::default(),
            quota,
            speed: Quota::new(SPEED_A_DAY),
            metrics,
            mqtt_port: AtomicU16::new(0),
        })))
    }
}

impl App {
    /// The port of the MQTT listener, once it is there.
    pub fn mqtt_port(&self) -> u16 {
        self.0.mqtt_port.load(Ordering::Relaxed)
    }

    pub(crate) fn set_mqtt_port(&self, port: u16) {
        self.0.mqtt_port.store(port, Ordering::Relaxed);
    }
}

impl Deref for App {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

/// Makes a folder that nobody else may look into.
///
/// # Errors
/// If it can't be made.
pub fn make_folder(path: &Path) -> Result<(), OpenError> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| OpenError::Folder {
            path: path.display().to_string(),
            source,
        })
}
