//! The effects on a real node.

mod disk;
mod esp;
mod evidence;
mod freeze;
pub(crate) mod host;
mod origin;
mod shelf;

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cairn_boot_state::Copy;
use cairn_release::{Digest, Version};
use cairn_update::survey::Survey;
use cairn_wire::report::UpdateReport;
use tokio::sync::watch;

use super::effects::{Answer, Booted, Effects, GetError, Part};
use super::settings::Check;
use crate::clock::Clock;
use crate::files;
use crate::link::{self, Http};
use crate::neighbours::{Neighbour, Neighbours, Offer};
use crate::outbox::{Outbox, Priority};
use disk::Releases;

pub(super) use evidence::upload;
pub use shelf::Shelf;

/// Where things are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// DATA's mount point: `/data`.
    pub data: PathBuf,
    /// The agent's own folder on it: `/data/agent`.
    pub agent: PathBuf,
    /// The agent's folder of this boot: `/run/cairn`.
    pub run: PathBuf,
}

impl Paths {
    /// The releases, as neighbours are given them.
    pub fn shelf(&self, clock: Clock) -> Shelf {
        Shelf::new(self.releases(), clock)
    }

    fn releases(&self) -> Releases {
        Releases::new(self.data.join("releases"))
    }

    /// Where evidence waits.
    pub fn evidence(&self) -> PathBuf {
        self.agent.join("evidence")
    }

    fn state(&self) -> PathBuf {
        self.agent.join("update.json")
    }

    /// The trust root that the initramfs started from; it leaves a copy.
    fn built_in_trust(&self) -> PathBuf {
        self.run.join("trust.dsse.json")
    }

    fn trust(&self, number: u64) -> PathBuf {
        self.data.join(format!("trust/{number}.dsse.json"))
    }
}

/// How long a neighbour may take to begin an answer.
const NEAR_ANSWER: Duration = Duration::from_secs(15);
/// No stored state is larger.
const STATE_LIMIT: u64 = 4 << 20;
/// No trust root is larger.
const TRUST_LIMIT: u64 = 1 << 20;
/// The most trust roots that are read.
const TRUST_MOST: u64 = 1000;

/// Images shared at the site.
#[derive(Clone)]
pub struct Sharing {
    /// The others.
    pub neighbours: Neighbours,
    /// What they are given.
    pub shelf: Arc<Shelf>,
}

/// A node.
pub struct Real {
    paths: Paths,
    releases: Releases,
    http: Http,
    sharing: Option<Sharing>,
    link: watch::Receiver<link::State>,
    outbox: Outbox,
    clock: Clock,
}

impl Real {
    /// This one.
    pub fn new(
        paths: Paths,
        http: Http,
        sharing: Option<Sharing>,
        link: watch::Receiver<link::State>,
        outbox: Outbox,
        clock: Clock,
    ) -> Self {
        // Should the last agent have been killed at the worst of moments.
        freeze::thaw(&paths.data);
        let releases = paths.releases();
        Self {
            paths,
            releases,
            http,
            sharing,
            link,
            outbox,
            clock,
        }
    }

    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(Releases) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let releases = self.releases.clone();
        blocking(move || work(releases)).await
    }
}

/// Work that may take long goes where it stops nobody.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)?
}

impl Effects for Real {
    type Body = origin::Download;

    async fn sleep(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    fn uptime_ms(&self) -> u64 {
        self.clock.now().mono_ms
    }

    fn wall(&self) -> Option<i64> {
        self.clock.now().wall_ms.map(|ms| ms / 1000)
    }

    fn certain(&self) -> i64 {
        self.clock.certain()
    }

    fn load(&self) -> io::Result<Option<Vec<u8>>> {
        files::read(&self.paths.state(), STATE_LIMIT)
    }

    fn store(&self, state: &[u8]) -> io::Result<()> {
        files::replace(&self.paths.state(), state)
    }

    fn booted(&self) -> io::Result<Option<Booted>> {
        host::booted()
    }

    fn boot_failure(&self, version: &Version) -> Option<String> {
        host::boot_failure(&self.paths.agent, version)
    }

    fn device(&self) -> String {
        #[derive(serde::Deserialize)]
        struct Kept {
            device: String,
        }
        let bytes = files::read(&self.paths.agent.join("identity/identity.json"), 64 << 10)
            .ok()
            .flatten();
        bytes
            .and_then(|bytes| serde_json::from_slice::<Kept>(&bytes).ok())
            .map(|kept| kept.device)
            .unwrap_or_default()
    }

    async fn get(&self, url: &str, range: Range<u64>) -> Result<Answer<Self::Body>, GetError> {
        origin::get(&self.http, url, range).await
    }

    fn offer(&self, version: &Version, part: Part, offer: &Arc<Offer>) {
        if let Some(sharing) = &self.sharing {
            sharing.shelf.offer(version, part, offer.clone());
        }
    }

    async fn neighbours(&self, image: &Digest) -> Vec<Neighbour> {
        match &self.sharing {
            Some(sharing) => sharing.neighbours.holding(image).await,
            None => Vec::new(),
        }
    }

    async fn get_near(&self, url: &str, range: Range<u64>) -> Result<Answer<Self::Body>, GetError> {
        let sharing = self.sharing.as_ref();
        let sharing = sharing.ok_or_else(|| GetError::Refused("nothing is shared".into()))?;
        let asked = origin::get(sharing.neighbours.http(), url, range);
        let answer = tokio::time::timeout(NEAR_ANSWER, asked).await;
        answer.map_err(|_| GetError::passing("no answer"))?
    }

    fn given_ms(&self) -> Option<u64> {
        self.sharing.as_ref()?.shelf.given_ms()
    }

    fn trust_roots(&self) -> io::Result<Vec<Vec<u8>>> {
        trust_roots(&self.paths)
    }

    fn keep_trust_root(&self, number: u64, bytes: &[u8]) -> io::Result<()> {
        let path = self.paths.trust(number);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        files::replace(&path, bytes)
    }

    async fn survey(&self, coming: Option<&Version>) -> io::Result<Survey> {
        let coming = coming.cloned();
        self.on_disk(move |releases| releases.survey(coming.as_ref()))
            .await
    }

    fn manifest(&self, version: &Version) -> io::Result<Vec<u8>> {
        self.releases.manifest(version)
    }

    async fn remove(&self, version: &Version) -> io::Result<()> {
        let version = version.clone();
        self.on_disk(move |releases| releases.remove(&version))
            .await
    }

    async fn clear_partials(&self, keep: Option<&Version>) -> io::Result<()> {
        let keep = keep.cloned();
        self.on_disk(move |releases| releases.clear_partials(keep.as_ref()))
            .await
    }

    fn is_placed(&self, version: &Version) -> io::Result<bool> {
        self.releases.is_placed(version)
    }

    fn fetched(&self, version: &Version, part: Part) -> io::Result<u64> {
        self.releases.fetched(version, part)
    }

    fn reserve(&self, version: &Version, part: Part, size: u64) -> io::Result<()> {
        self.releases.reserve(version, part, size)
    }

    fn read(&self, version: &Version, part: Part, range: Range<u64>) -> io::Result<Vec<u8>> {
        self.releases.read(version, part, range)
    }

    fn write(&self, version: &Version, part: Part, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.releases.write(version, part, at, bytes)
    }

    fn share(
        &self,
        version: &Version,
        part: Part,
        at: u64,
        bytes: &[u8],
        from: (&Version, u64),
    ) -> io::Result<()> {
        let shared = self.releases.share(version, part, at, bytes.len(), from);
        // Only some file systems can.
        shared.or_else(|_| self.releases.write(version, part, at, bytes))
    }

    fn discard(&self, version: &Version, part: Part) -> io::Result<()> {
        self.releases.discard(version, part)
    }

    async fn sync(&self, version: &Version, part: Part) -> io::Result<()> {
        let version = version.clone();
        self.on_disk(move |releases| releases.sync(&version, part))
            .await
    }

    async fn digest(&self, version: &Version, part: Part) -> io::Result<(u64, Digest)> {
        let version = version.clone();
        self.on_disk(move |releases| releases.digest(&version, part))
            .await
    }

    async fn place(&self, version: &Version, created: i64) -> io::Result<()> {
        let version = version.clone();
        self.on_disk(move |releases| releases.place(&version, created))
            .await
    }

    async fn boot_copies(&self) -> io::Result<[Vec<u8>; 2]> {
        let data = self.paths.data.clone();
        blocking(move || esp::read(&data)).await
    }

    async fn write_boot_copy(&self, copy: Copy, block: Vec<u8>) -> io::Result<()> {
        let data = self.paths.data.clone();
        blocking(move || esp::write(&data, copy, &block)).await
    }

    async fn restart(&self, attempt: u32) -> io::Result<()> {
        host::restart(attempt).await
    }

    fn declare(&self) -> io::Result<()> {
        std::fs::create_dir_all(&self.paths.run)?;
        std::fs::write(self.paths.run.join("good"), b"")
    }

    async fn check(&self, check: &Check) -> Option<String> {
        host::check(check).await
    }

    fn control_plane_reached(&self) -> bool {
        matches!(
            *self.link.borrow(),
            link::State::Up | link::State::ServerFailing(_)
        )
    }

    async fn collect(&self, version: &Version, reason: &str) -> Vec<u8> {
        evidence::collect(&self.paths.agent, version, reason).await
    }

    fn keep_evidence(&self, name: &str, text: &[u8]) -> io::Result<()> {
        evidence::keep(&self.paths.evidence(), name, text)
    }

    async fn report(&self, report: &UpdateReport) -> io::Result<()> {
        self.outbox
            .append(Priority::Event, super::report::values(report));
        self.outbox.flush().await.map_err(io::Error::other)
    }
}

/// The initramfs' own trust root and those that lie on DATA. An initramfs that leaves no copy is older than this; then the first on
/// DATA, which the disk was flashed with, has to do.
fn trust_roots(paths: &Paths) -> io::Result<Vec<Vec<u8>>> {
    let first = match files::read(&paths.built_in_trust(), TRUST_LIMIT)? {
        Some(bytes) => bytes,
        None => match lowest(&paths.data.join("trust"))? {
            Some(number) => {
                files::read(&paths.trust(number), TRUST_LIMIT)?.ok_or(io::ErrorKind::NotFound)?
            }
            None => return Ok(Vec::new()),
        },
    };
    let number = cairn_release::TrustRoot::parse(&first)
        .map(|trust| trust.version)
        .map_err(io::Error::other)?;
    let mut roots = vec![first];
    for next in number.saturating_add(1)..=number.saturating_add(TRUST_MOST) {
        match files::read(&paths.trust(next), TRUST_LIMIT)? {
            Some(bytes) => roots.push(bytes),
            None => break,
        }
    }
    Ok(roots)
}

fn lowest(folder: &Path) -> io::Result<Option<u64>> {
    let names = std::fs::read_dir(folder)?
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    Ok(names
        .filter_map(|name| name.strip_suffix(".dsse.json")?.parse().ok())
        .min())
}
