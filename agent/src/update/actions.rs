//! How each action of the state machine is done. All of them may be done again after a crash, and end the same.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use cairn_release::{
    Digest, DowngradeOrder, Envelope, Manifest, Timestamp, TrustRoot, Version, manifest,
};
use cairn_update::memory::Memory;
use cairn_update::state::{Checked, Ending, Facts, Image};
use cairn_update::{Action, Cause, Event, window};
use cairn_wire::report::FailureKind;
use cairn_wire::{ReleaseOrder, When};

use super::boot::{self, Change};
use super::effects::{Effects, Part};
use super::fetch::{self, Fetch, storage};
use super::settings::Settings;
use super::{judge, trust};

/// Milliseconds after which a neighbour that asked for nothing more has what it wants.
const STILL_GIVING_MS: u64 = 10_000;
/// A restart isn't put off for longer, in milliseconds.
const GIVING_MS: u64 = 300_000;
/// No manifest is larger.
const MANIFEST_LIMIT: usize = 1 << 20;

/// What doing needs.
pub struct Doer<E> {
    /// The world.
    pub effects: E,
    /// The settings.
    pub settings: Settings,
    /// Is told how far a long action is, for people.
    pub note: Box<dyn Fn(String) + Send + Sync>,
}

impl<E: Effects> Doer<E> {
    /// Does it; what came of it, if the state machine has to know.
    pub async fn perform(self: Arc<Self>, action: Action) -> Option<Event> {
        let done = match action {
            Action::Report(report) => return self.report(&report).await,
            Action::Check(order) => self
                .check(&order)
                .await
                .map(|checked| Event::Checked(Box::new(checked))),
            Action::Prepare { version, remove } => self
                .prepare(&version, &remove)
                .await
                .map(|()| Event::Prepared),
            Action::Fetch { url, facts } => self.fetch(&url, &facts).await.map(|()| Event::Fetched),
            Action::Verify { facts } => self.verify(&facts).await,
            Action::Place { facts } => self.place(&facts).await.map(|()| Event::Placed),
            Action::Measure => Ok(Event::Measured {
                baseline: judge::baseline(&self.effects, &self.settings.health).await,
            }),
            Action::Arm { version, tries } => {
                boot::change(&self.effects, Change::Try(version, tries))
                    .await
                    .map(|()| Event::Armed)
            }
            Action::AwaitRestart(when) => {
                self.await_window(when).await;
                self.await_neighbours().await;
                Ok(Event::RestartAllowed)
            }
            Action::Restart => {
                self.restart().await;
                return None;
            }
            Action::Judge { baseline } => {
                judge::watch(&self.effects, &self.settings.health, baseline, &*self.note)
                    .await
                    .map(|()| Event::Healthy)
                    .map_err(|reason| Cause::lasting(FailureKind::Unhealthy, reason))
            }
            Action::MakeGood { version, tries } => {
                boot::change(&self.effects, Change::Good(version, tries))
                    .await
                    .map(|()| Event::MadeGood)
            }
            Action::Settle { version, ending } => {
                self.settle(&version, &ending).await;
                Ok(Event::Settled)
            }
            Action::Rearm { version, tries } => {
                if let Err(cause) = boot::change(&self.effects, Change::Good(version, tries)).await
                {
                    tracing::error!(
                        reason = cause.reason,
                        "the good release's counter is not armed"
                    );
                }
                return None;
            }
            Action::Declare => {
                if let Err(error) = self.effects.declare() {
                    tracing::error!(%error, "cannot tell that this boot needs no rescue");
                }
                return None;
            }
            // Needs the state: the executor's.
            Action::Tidy { .. } => return None,
        };
        Some(done.unwrap_or_else(Event::Failed))
    }

    /// Removes what the state doesn't need.
    pub async fn tidy(
        self: Arc<Self>,
        protected: BTreeSet<Version>,
        failed: Memory,
        keep: usize,
    ) -> Option<Event> {
        match self.effects.survey(None).await {
            Err(error) => tracing::warn!(%error, "cannot look at DATA to tidy it"),
            Ok(survey) => {
                for version in cairn_update::plan::tidy(&survey, &protected, &failed, keep) {
                    tracing::info!(%version, "the release isn't needed any more");
                    if let Err(error) = self.effects.remove(&version).await {
                        tracing::warn!(%version, %error, "cannot remove the release");
                    }
                }
            }
        }
        None
    }

    async fn report(&self, report: &cairn_wire::UpdateReport) -> Option<Event> {
        for attempt in 1u32..=3 {
            match self.effects.report(report).await {
                Ok(()) => return report.state.is_final().then_some(Event::Reported),
                Err(error) => tracing::warn!(%error, attempt, "the outbox doesn't take a report"),
            }
            self.effects.sleep(Duration::from_secs(1)).await;
        }
        None
    }

    async fn check(&self, order: &ReleaseOrder) -> Result<Checked, Cause> {
        let refused = |reason: String| Cause::lasting(FailureKind::Refused, reason);
        let mut trust =
            trust::current(&self.effects).map_err(|error| refused(error.to_string()))?;
        if let Some(folder) = trust::folder(&order.url) {
            trust = trust::update(&self.effects, trust, &folder).await;
        }
        let url = format!("{}{}", order.url, Part::Manifest.name());
        let bytes = fetch::small(&self.effects, &url, MANIFEST_LIMIT).await?;
        let (envelope, manifest) = read(&trust, &bytes).map_err(refused)?;
        let mut facts = facts(&envelope, &manifest, bytes.len() as u64);
        if let Some(allowed) = &order.downgrade {
            match self.allows(&trust, allowed, &facts.digest) {
                Ok(()) => facts.downgrade_allowed = true,
                Err(reason) => tracing::warn!(reason, "the downgrade order counts for nothing"),
            }
        }
        let survey = self
            .effects
            .survey(Some(&order.version))
            .await
            .map_err(|error| storage("cannot look at DATA", &error))?;
        Ok(Checked { facts, survey })
    }

    fn allows(
        &self,
        trust: &TrustRoot,
        envelope: &Envelope,
        release: &Digest,
    ) -> Result<(), String> {
        let now = self.effects.wall().unwrap_or(0).max(self.effects.certain());
        let now = Timestamp::from_unix(now).map_err(|error| error.to_string())?;
        let order =
            DowngradeOrder::from_envelope(envelope, trust).map_err(|error| error.to_string())?;
        order
            .allows(release, &self.effects.device(), now)
            .map_err(|error| error.to_string())
    }

    async fn prepare(&self, version: &Version, remove: &[Version]) -> Result<(), Cause> {
        let cannot = |error| storage("cannot make room", &error);
        self.effects
            .clear_partials(Some(version))
            .await
            .map_err(cannot)?;
        for old in remove {
            tracing::info!(version = %old, "the release is removed to make room");
            self.effects.remove(old).await.map_err(cannot)?;
        }
        // An older failure of this name is judged by digest, here; a mark that appears from now on is news.
        boot::change(&self.effects, Change::Forgive(version.clone())).await
    }

    async fn fetch(&self, url: &str, facts: &Facts) -> Result<(), Cause> {
        let cannot = |error| storage("cannot look at the release", &error);
        if self.effects.is_placed(&facts.version).map_err(cannot)? {
            return Ok(());
        }
        self.drop_other_release(facts)?;
        let fetch = Fetch::new(&self.effects, &facts.version, url, self.settings.bandwidth);
        let manifest = self.manifest(&fetch, facts).await?;
        let images = [
            (Part::Kernel, &manifest.kernel.image),
            (Part::Root, &manifest.root),
        ];
        let total: u64 = images.iter().map(|(_, image)| image.size).sum();
        let mut before = 0;
        for (part, image) in images {
            let progress = |at: u64| {
                let percent = (before + at).saturating_mul(100) / total.max(1);
                (self.note)(format!("{percent} % of the release are here"));
            };
            fetch.image(part, image, &progress).await?;
            before += image.size;
        }
        Ok(())
    }

    /// Fetches the manifest whose signatures were checked, and reads it back.
    async fn manifest(&self, fetch: &Fetch<'_, E>, facts: &Facts) -> Result<Manifest, Cause> {
        const TRIES: u32 = 3;
        let part = Part::Manifest;
        for _ in 0..TRIES {
            fetch.manifest(facts.manifest_size).await?;
            let bytes = self.effects.manifest(&facts.version);
            let bytes = bytes.map_err(|error| fetch::disk("read", part, &error))?;
            let envelope = Envelope::parse(&bytes, manifest::PAYLOAD_TYPE).ok();
            let same = envelope.filter(|envelope| Digest::of(&envelope.payload) == facts.digest);
            if let Some(manifest) = same.and_then(|it| Manifest::from_payload(&it.payload).ok()) {
                return Ok(manifest);
            }
            let discarded = self.effects.discard(&facts.version, part);
            discarded.map_err(|error| fetch::disk("discard", part, &error))?;
        }
        let reason = "the server has another manifest now than when it was checked";
        Err(Cause::passing(FailureKind::Fetch, reason))
    }

    /// What is left of another release with this name is of no use.
    fn drop_other_release(&self, facts: &Facts) -> Result<(), Cause> {
        let Ok(bytes) = self.effects.manifest(&facts.version) else {
            return Ok(());
        };
        let same = Envelope::parse(&bytes, manifest::PAYLOAD_TYPE)
            .is_ok_and(|envelope| Digest::of(&envelope.payload) == facts.digest);
        if same && bytes.len() as u64 == facts.manifest_size {
            return Ok(());
        }
        // A manifest that is cut short says nothing about the images, and they are verified in any case.
        let all = if Envelope::parse(&bytes, manifest::PAYLOAD_TYPE).is_ok() && !same {
            &Part::ALL[..]
        } else {
            &[Part::Manifest]
        };
        for part in all {
            self.effects
                .discard(&facts.version, *part)
                .map_err(|error| fetch::disk("discard", *part, &error))?;
        }
        Ok(())
    }

    /// Reads back what is on the disk, and throws away what is damaged.
    async fn verify(&self, facts: &Facts) -> Result<Event, Cause> {
        let version = &facts.version;
        (self.note)("reading back what was fetched".into());
        let mut wrong = Vec::new();
        for part in Part::ALL {
            match self.damage(facts, part).await {
                Ok(None) => {}
                Ok(Some(damage)) => wrong.push((part, damage)),
                // Thrown away before a cut.
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    wrong.push((part, "it isn't there".to_owned()));
                }
                Err(error) => return Err(fetch::disk("read", part, &error)),
            }
        }
        if wrong.is_empty() {
            return Ok(Event::Verified);
        }
        if self
            .effects
            .is_placed(version)
            .map_err(|error| storage("cannot look at the release", &error))?
        {
            self.effects
                .remove(version)
                .await
                .map_err(|error| storage("cannot remove the release", &error))?;
        } else {
            for (part, _) in &wrong {
                self.effects
                    .discard(version, *part)
                    .map_err(|error| fetch::disk("discard", *part, &error))?;
            }
        }
        let damages: Vec<String> = wrong
            .into_iter()
            .map(|(part, damage)| format!("{}: {damage}", part.name()))
            .collect();
        let what = damages.join("; ");
        tracing::warn!(%version, what, "what was fetched is damaged");
        Ok(Event::Damaged(what))
    }

    /// What is wrong with a file, if anything.
    async fn damage(&self, facts: &Facts, part: Part) -> std::io::Result<Option<String>> {
        let image = match part {
            Part::Manifest => {
                let bytes = self.effects.manifest(&facts.version)?;
                let same = Envelope::parse(&bytes, manifest::PAYLOAD_TYPE)
                    .is_ok_and(|envelope| Digest::of(&envelope.payload) == facts.digest);
                return Ok((!same).then(|| "it is another manifest".to_owned()));
            }
            Part::Kernel | Part::KernelPatch => &facts.kernel,
            Part::Root | Part::RootPatch => &facts.root,
        };
        let (size, digest) = self.effects.digest(&facts.version, part).await?;
        Ok((size != image.size || digest != image.sha256).then(|| {
            let expected = format!("{} bytes with digest {}", image.size, image.sha256);
            format!("expected {expected}, read back {size} with {digest}")
        }))
    }

    async fn place(&self, facts: &Facts) -> Result<(), Cause> {
        self.effects
            .place(&facts.version, facts.created)
            .await
            .map_err(|error| storage("cannot put the release in its place", &error))
    }

    async fn await_window(&self, when: When) {
        while when == When::Window && !window::open(&self.settings.windows, self.effects.wall()) {
            let windows: Vec<String> = self
                .settings
                .windows
                .iter()
                .map(ToString::to_string)
                .collect();
            (self.note)(format!(
                "waits for {} (UTC) to restart",
                windows.join(" or ")
            ));
            self.effects.sleep(Duration::from_secs(15)).await;
        }
    }

    /// A neighbour that is being given an image would have to fetch the rest of it from the server.
    async fn await_neighbours(&self) {
        let began = self.effects.uptime_ms();
        loop {
            let now = self.effects.uptime_ms();
            let given = self.effects.given_ms();
            let busy = given.is_some_and(|given| now.saturating_sub(given) < STILL_GIVING_MS);
            if !busy || now.saturating_sub(began) > GIVING_MS {
                return;
            }
            (self.note)("gives the release to a neighbour before it restarts".into());
            self.effects.sleep(Duration::from_secs(1)).await;
        }
    }

    /// Only returns if somebody stops waiting.
    async fn restart(&self) {
        for attempt in 1u32.. {
            if let Err(error) = self.effects.restart(attempt).await {
                tracing::error!(%error, "the node doesn't restart");
            }
            // The agent is stopped on the way down; if not, something is stuck.
            self.effects.sleep(Duration::from_secs(120)).await;
        }
    }

    async fn settle(&self, version: &Version, ending: &Ending) {
        if let Some(name) = &ending.evidence {
            let text = self.effects.collect(version, &ending.cause.reason).await;
            if let Err(error) = self.effects.keep_evidence(name, &text) {
                tracing::error!(%error, "the evidence is lost");
            }
        }
        let change = if ending.condemn {
            Change::Condemn(version.clone())
        } else {
            Change::Withdraw(version.clone())
        };
        if let Err(cause) = boot::change(&self.effects, change).await {
            tracing::error!(
                reason = cause.reason,
                "the boot state still names the release"
            );
        }
        let keep = ending.cause.retry.then_some(version);
        if let Err(error) = self.effects.clear_partials(keep).await {
            tracing::warn!(%error, "an unfinished download is still there");
        }
    }
}

fn read(trust: &TrustRoot, bytes: &[u8]) -> Result<(Envelope, Manifest), String> {
    let envelope = Envelope::parse(bytes, manifest::PAYLOAD_TYPE)
        .map_err(|error| format!("the manifest can't be read: {error}"))?;
    let manifest = trust
        .manifest(&envelope)
        .map_err(|error| format!("the manifest is not trusted: {error}"))?;
    Ok((envelope, manifest))
}

fn facts(envelope: &Envelope, manifest: &Manifest, manifest_size: u64) -> Facts {
    let image = |image: &manifest::Image| Image {
        size: image.size,
        sha256: image.sha256,
    };
    Facts {
        version: manifest.version.clone(),
        digest: Digest::of(&envelope.payload),
        sequence: manifest.sequence,
        minimum_sequence: manifest.minimum_sequence,
        architecture: manifest.architecture.clone(),
        compatible: manifest.compatible.clone(),
        created: manifest.created.unix(),
        manifest_size,
        kernel: image(&manifest.kernel.image),
        root: image(&manifest.root),
        downgrade_allowed: false,
    }
}
