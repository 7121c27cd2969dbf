//! Making a rollout, and whether it makes sense.

use std::collections::BTreeSet;

use cairn_release::order::DowngradeOrder;
use cairn_release::{Digest, Envelope, Sequence, Version};
use cairn_rollout::{Deadlines, Plan, Rate, Rollout, Seconds, Selector, Share, Window};
use cairn_wire::{ReleaseOrder, When};
use rusqlite::{Transaction, params};
use serde::Deserialize;
use serde_json::json;
use utoipa::ToSchema;

use super::sql::{self, NewEvent};
use super::{Rollouts, steer};
use crate::people::{audit, now};
use crate::releases::Releases;
use crate::store::StoreError;
use crate::web::ApiError;

/// Longest name in characters.
const MAX_NAME: usize = 128;

/// A rollout that is asked for. Durations are strings as `90s`, `5m`, `7d`, or numbers of seconds.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewRollout {
    /// What people call it; the release's version if not said.
    #[serde(default)]
    pub name: Option<String>,
    /// The release's version.
    #[schema(value_type = String)]
    pub release: Version,
    /// Its channel, if it is published in several.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub channel: Option<Version>,
    /// Which devices: `"all"`, `{"group": "…"}`, `{"tags": ["…"]}` (all of them), `{"devices": ["…"]}`.
    #[schema(value_type = Object)]
    pub select: Selector,
    /// Devices in a first small wave.
    #[serde(default)]
    pub canary: Option<u64>,
    /// All devices so far at the end of each wave: numbers or shares of the matching ones, as `["10%", "50%", "100%"]`. All at once if not said.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub waves: Vec<Share>,
    /// How long a wave is watched after its last outcome before the next one. None if not said.
    #[serde(default)]
    #[schema(value_type = String, default = "0s")]
    pub soak: Seconds,
    /// Halts when so many have failed. Without any limit the first failure halts.
    #[serde(default)]
    pub max_failures: Option<u64>,
    /// Halts when so much of the outcomes are failures, as `5%`.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub max_failure_rate: Option<Rate>,
    /// The rate is judged from so many outcomes on; 10 if not said.
    #[serde(default)]
    pub min_outcomes: Option<u64>,
    /// Devices get the order in these hours (UTC) only, as `["02:00-05:00"]`.
    #[serde(default, rename = "window", alias = "windows")]
    #[schema(value_type = Vec<String>)]
    pub windows: Vec<Window>,
    /// No device gets the order before this moment, in seconds since 1970.
    #[serde(default)]
    pub not_before: Option<i64>,
    /// How long a device may stay in each state: one for all of them.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub deadline: Option<Seconds>,
    /// How long a device may stay in each state: `offered`, `checking`, `planned`, `fetching`, `verified`, `placed`, `armed`, `on-trial`.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub deadlines: Option<Deadlines>,
    /// How long a wave waits for devices that don't show up; 7 days if not said.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub fill: Option<Seconds>,
    /// How often a device gets the order again after a failure that may pass; twice if not said.
    #[serde(default)]
    pub retries: Option<u32>,
    /// How long after the failure; 5 minutes if not said.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub retry_delay: Option<Seconds>,
    /// When a device restarts: `now`, or in its own maintenance `window`.
    #[serde(default)]
    #[schema(value_type = String, default = "window")]
    pub when: When,
    /// Devices forget that this release failed on them before.
    #[serde(default)]
    pub forgive: bool,
    /// A signed order that allows a lower sequence, as `imgtool order` writes it.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub downgrade: Option<Envelope>,
    /// Start it at once.
    #[serde(default)]
    pub start: bool,
}

/// What a rollout needs to know of a release.
#[derive(Debug, Clone)]
pub(super) struct Release {
    pub(super) version: Version,
    pub(super) digest: Digest,
    pub(super) sequence: Sequence,
    pub(super) channel: String,
}

impl NewRollout {
    /// The plan, checked.
    pub(super) fn plan(&self) -> Result<Plan, ApiError> {
        let usual = Plan::default();
        let bad = |message: String| ApiError::bad("bad-plan", message);
        if self.deadline.is_some() && self.deadlines.is_some() {
            return Err(bad("expected deadline or deadlines, got both".into()));
        }
        if self.canary == Some(0) {
            return Err(bad("canary: expected at least 1 device".into()));
        }
        let mut waves: Vec<Share> = self
            .canary
            .map(Share::Count)
            .into_iter()
            .chain(self.waves.iter().copied())
            .collect();
        if self.waves.is_empty() {
            waves.push(Share::ALL);
        }
        let plan = Plan {
            waves,
            soak: self.soak,
            max_failures: self.max_failures,
            max_failure_rate: self.max_failure_rate,
            min_outcomes: self.min_outcomes.unwrap_or(usual.min_outcomes),
            windows: self.windows.clone(),
            not_before: self.not_before,
            deadlines: self
                .deadlines
                .clone()
                .or(self.deadline.map(Deadlines::all))
                .unwrap_or(usual.deadlines),
            fill: self.fill.unwrap_or(usual.fill),
            retries: self.retries.unwrap_or(usual.retries),
            retry_delay: self.retry_delay.unwrap_or(usual.retry_delay),
        };
        plan.check().map_err(|error| bad(error.to_string()))?;
        self.select
            .check()
            .map_err(|error| ApiError::bad("bad-selector", format!("select: {error}")))?;
        if let Some(name) = &self.name
            && (name.trim().is_empty()
                || name.chars().count() > MAX_NAME
                || name.chars().any(char::is_control))
        {
            return Err(ApiError::bad(
                "bad-name",
                format!("name: expected 1 to {MAX_NAME} printable characters"),
            ));
        }
        Ok(plan)
    }

    /// The signed order is one, and for this release; whether its signatures are right is for the devices to say.
    fn check_downgrade(&self, release: &Release, now: i64) -> Result<(), ApiError> {
        let Some(envelope) = &self.downgrade else {
            return Ok(());
        };
        let bad =
            |message: String| ApiError::bad("bad-downgrade-order", format!("downgrade: {message}"));
        let order = DowngradeOrder::unsigned(envelope).map_err(|error| bad(error.to_string()))?;
        if order.release != release.digest {
            let (got, expected) = (order.release, release.digest);
            return Err(bad(format!(
                "the order is for the release with digest {got}, not for {} with {expected}",
                release.version
            )));
        }
        if order.not_after.unix() < now {
            return Err(bad(format!("the order ended at {}", order.not_after)));
        }
        Ok(())
    }
}

impl Rollouts {
    /// Makes a rollout, and starts it if that is asked for.
    ///
    /// # Errors
    /// 400 with the field that makes no sense; 404 if there is no such release; 409 if it can't be started.
    pub async fn create(
        &self,
        releases: &Releases,
        new: NewRollout,
        who: String,
    ) -> Result<(i64, Vec<String>), ApiError> {
        let found = match &new.channel {
            Some(channel) => releases
                .get_in(channel, &new.release)
                .map(|release| release.as_ref().clone()),
            None => releases.get(&new.release),
        };
        let Some(found) = found else {
            let place = new
                .channel
                .as_ref()
                .map(|channel| format!(" in channel {channel}"))
                .unwrap_or_default();
            let text = format!(
                "there is no release {}{place}; upload it first",
                new.release
            );
            return Err(ApiError::new(
                axum::http::StatusCode::NOT_FOUND,
                "no-such-release",
                text,
            ));
        };
        let newest = releases
            .list()
            .into_iter()
            .filter(|other| other.channel == found.channel)
            .map(|r| r.sequence)
            .max();
        let release = Release {
            version: found.version,
            digest: found.digest,
            sequence: found.sequence,
            channel: found.channel.to_string(),
        };
        let hints = hints(&new, &release, newest);
        let id = self
            .0
            .store
            .write(move |tx| create(tx, &new, &release, &who, now()))
            .await?;
        self.wake();
        Ok((id, hints))
    }
}

/// What is allowed but may not be what is wanted.
fn hints(new: &NewRollout, release: &Release, newest: Option<Sequence>) -> Vec<String> {
    let mut hints = Vec::new();
    if let Some(newest) = newest
        && newest > release.sequence
        && new.downgrade.is_none()
    {
        hints.push(format!(
            "release {} has sequence {}, {} has {newest} already: devices with a higher sequence refuse it without a signed downgrade order",
            release.version, release.sequence, release.channel
        ));
    }
    if new.downgrade.is_some() && newest == Some(release.sequence) {
        hints.push(format!(
            "release {} is the newest of {}; it needs no downgrade order",
            release.version, release.channel
        ));
    }
    if new.max_failures.is_none() && new.max_failure_rate.is_none() {
        hints.push("no limit for failures is given: the first one halts the rollout".into());
    }
    hints
}

/// As [`Rollouts::create`], in a transaction.
pub(super) fn create(
    tx: &Transaction<'_>,
    new: &NewRollout,
    release: &Release,
    who: &str,
    now: i64,
) -> Result<i64, ApiError> {
    let plan = new.plan()?;
    new.check_downgrade(release, now)?;
    // Random, so that no order is taken for one of a database that was lost.
    let tag = format!("r{:016x}", rand::random::<u64>());
    let template = ReleaseOrder {
        id: tag.clone(),
        version: release.version.clone(),
        sequence: release.sequence,
        digest: release.digest,
        url: format!("/releases/{}/{}/", release.channel, release.version),
        when: new.when,
        forgive: new.forgive,
        downgrade: new.downgrade.clone(),
    };
    let name = new
        .name
        .clone()
        .unwrap_or_else(|| release.version.to_string());
    let (selector, devices) = match &new.select {
        Selector::Devices(devices) => (Selector::Devices(BTreeSet::new()), Some(devices)),
        other => (other.clone(), None),
    };
    let rollout = Rollout::new(plan);
    tx.prepare_cached(
        "INSERT INTO rollout (name, tag, version, digest, sequence, channel, template, selector, created, created_by, status, state)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
    )
    .map_err(StoreError::from)?
    .execute(params![
        name,
        tag,
        release.version.as_str(),
        release.digest.to_string(),
        i64::try_from(release.sequence.0).unwrap_or(i64::MAX),
        release.channel,
        sql::to_json(&template)?,
        sql::to_json(&selector)?,
        now,
        who,
        rollout.status.as_str(),
        sql::to_json(&rollout)?,
    ])
    .map_err(StoreError::from)?;
    let id = tx.last_insert_rowid();
    if let Some(devices) = devices {
        put_devices(tx, id, devices)?;
    }
    let text = format!("created by {who}");
    sql::put_event(
        tx,
        id,
        now,
        &NewEvent {
            text: &text,
            ..NewEvent::default()
        },
    )?;
    let detail = json!({ "name": name, "release": release.version, "digest": release.digest, "forgive": new.forgive,
        "downgrade": new.downgrade.is_some(), "select": selector, "devices": devices.map(BTreeSet::len) });
    audit(tx, who, "rollout.create", &format!("rollout/{id}"), &detail)?;
    if new.start {
        steer::steer(tx, id, steer::Command::Start, who, now)?;
    }
    Ok(id)
}

/// Devices that are named one by one must be there: a slip of the pen would never be reached.
fn put_devices(tx: &Transaction<'_>, id: i64, devices: &BTreeSet<String>) -> Result<(), ApiError> {
    let mut known = tx
        .prepare_cached("SELECT 1 FROM device WHERE id = ?1 AND revoked IS NULL")
        .map_err(StoreError::from)?;
    let mut put = tx
        .prepare_cached("INSERT INTO rollout_device (rollout, device) VALUES (?1, ?2)")
        .map_err(StoreError::from)?;
    for device in devices {
        if !known.exists([device]).map_err(StoreError::from)? {
            let device: String = device.chars().take(80).collect();
            return Err(ApiError::bad(
                "no-such-device",
                format!("select: there is no device {device:?}, or it is revoked"),
            ));
        }
        put.execute(params![id, device]).map_err(StoreError::from)?;
    }
    Ok(())
}
