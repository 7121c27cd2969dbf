//! Keeps the identity in force: enrols once, renews at two thirds of the certificate's life, and recovers by the key
//! when the certificate has expired or is refused.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cairn_wire::enrol::EnrolFile;
use futures_util::FutureExt;
use rand::Rng;
use tokio::sync::{Notify, watch};

use super::{Identity, IdentityError, key, malformed, request};
use crate::clock::Clock;
use crate::files;
use crate::link::backoff::Backoff;
use crate::shutdown::Shutdown;

/// The longest enrolment file, in bytes.
const LIMIT: u64 = 64 * 1024;
/// How often the clock is looked at while nothing is due; it may have been set.
const LOOK: Duration = Duration::from_secs(600);
/// The shortest time between two renewals because of a refusal.
const REFUSED_PAUSE: Duration = Duration::from_secs(30);

/// How the node stands with the control plane.
#[derive(Debug, Clone, Default)]
pub struct Standing {
    /// The identity in force.
    pub identity: Option<Arc<Identity>>,
    /// What keeps the node from getting one, or a new one.
    pub problem: Option<String>,
}

/// The task that keeps the identity.
pub struct Keeper {
    /// The folder `identity`.
    pub folder: PathBuf,
    /// Where an enrolment file may lie; the first that is there counts.
    pub enrol_files: Vec<PathBuf>,
    /// The clock.
    pub clock: Clock,
    /// Whom to tell.
    pub standing: watch::Sender<Standing>,
    /// Told by the links when the server refuses the certificate.
    pub refused: Arc<Notify>,
    /// Told when an enrolment file may have come.
    pub look_again: Arc<Notify>,
    /// How to wait between attempts.
    pub backoff: Backoff,
}

impl Keeper {
    /// Reads the identity that is there. One that can't be used is as good as none: the key may still be good for a new one.
    pub fn load(&self) {
        match Identity::load(&self.folder) {
            Ok(identity) => {
                let identity = identity.map(Arc::new);
                self.standing
                    .send_modify(|standing| standing.identity = identity);
            }
            Err(error) => self.problem(&error),
        }
    }

    /// Works until told to stop.
    pub async fn run(mut self, mut shutdown: Shutdown) {
        tokio::select! {
            () = shutdown.requested() => {}
            () = self.work() => {}
        }
    }

    async fn work(&mut self) {
        loop {
            let identity = self.standing.borrow().identity.clone();
            match identity {
                None => self.enrolment().await,
                Some(identity) => {
                    self.wait_until_due(&identity).await;
                    self.renewal(&identity).await;
                }
            }
        }
    }

    /// Tries once, and waits if that came to nothing.
    async fn enrolment(&mut self) {
        match self.try_enrol().await {
            Ok(Some(identity)) => {
                self.backoff.reset();
                tracing::info!(device = %identity.device, server = %identity.server, "enrolled");
                self.in_force(identity);
            }
            // Without a file there is nothing to do; a node may be run by a server that knows it by a token.
            Ok(None) => self.look_again.notified().await,
            Err(error) => {
                self.problem(&error);
                let pause = self.backoff.next(retry_after(&error));
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = self.look_again.notified() => {}
                }
            }
        }
    }

    async fn try_enrol(&self) -> Result<Option<Identity>, IdentityError> {
        let Some((path, file)) = self.enrol_file()? else {
            return Ok(None);
        };
        let key = key::load_or_make(&self.folder)?;
        let identity = request::enrol(&file, &key, request::facts(), &self.clock).await?;
        identity.store(&self.folder)?;
        // The token is spent. On a read-only system the file stays, and does no harm.
        if let Err(error) = files::remove(&path) {
            tracing::debug!(file = %path.display(), %error, "the spent enrolment file stays");
        }
        Ok(Some(identity))
    }

    fn enrol_file(&self) -> Result<Option<(PathBuf, EnrolFile)>, IdentityError> {
        for path in &self.enrol_files {
            let bytes = files::read(path, LIMIT).map_err(|source| IdentityError::File {
                path: path.clone(),
                source,
            })?;
            let Some(bytes) = bytes else { continue };
            let file = std::str::from_utf8(&bytes)
                .ok()
                .and_then(|text| toml::from_str(text).ok());
            let file = file.ok_or_else(|| {
                malformed(path.display().to_string(), "server, ca and token as TOML")
            })?;
            return Ok(Some((path.clone(), file)));
        }
        Ok(None)
    }

    /// Returns when the certificate should be renewed, or is refused.
    async fn wait_until_due(&self, identity: &Identity) {
        let life = (identity.not_after - identity.not_before).max(1);
        // Nodes that enrolled together shall not renew together.
        let jitter = rand::thread_rng().gen_range(0..=life / 20);
        loop {
            let now = self
                .clock
                .now()
                .wall_ms
                .map_or_else(|| self.clock.certain(), |ms| ms / 1000);
            let left = identity.renew_at() + jitter - now;
            let Ok(left) = u64::try_from(left) else {
                return;
            };
            if left == 0 {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(left).min(LOOK)) => {}
                () = self.refused.notified() => {
                    tracing::warn!("the server refuses the certificate; asking for a new one by the key");
                    return;
                }
            }
        }
    }

    async fn renewal(&mut self, identity: &Identity) {
        let renewed = match request::renew(identity, &self.clock).await {
            Ok(renewed) => renewed.store(&self.folder).map(|()| renewed),
            Err(error) => Err(error),
        };
        let pause = match renewed {
            Ok(renewed) => {
                tracing::info!(not_after = renewed.not_after, "the certificate is renewed");
                self.backoff.reset();
                self.in_force(renewed);
                REFUSED_PAUSE
            }
            Err(error) => {
                self.problem(&error);
                self.backoff.next(retry_after(&error))
            }
        };
        tokio::time::sleep(pause).await;
        // What the links said of the old certificate meanwhile doesn't count.
        let _ = self.refused.notified().now_or_never();
    }

    fn in_force(&self, identity: Identity) {
        self.standing.send_replace(Standing {
            identity: Some(Arc::new(identity)),
            problem: None,
        });
    }

    fn problem(&self, error: &IdentityError) {
        if error.is_final() {
            tracing::error!(%error, "the control plane gives no certificate");
        } else {
            tracing::warn!(%error, "no certificate yet");
        }
        self.standing
            .send_modify(|standing| standing.problem = Some(error.to_string()));
    }
}

fn retry_after(error: &IdentityError) -> Option<Duration> {
    match error {
        IdentityError::Link(crate::link::LinkError::Status { retry_after, .. }) => *retry_after,
        _ => None,
    }
}
