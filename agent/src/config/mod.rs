//! Settings, in three steps: [fragments] (`*.toml` in several folders, the later wins by key) → [`Input`] (each key may be missing)
//! → [`Settings`] (checked, with defaults).

pub mod fragments;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use toml::Table;

use crate::setting::Invalid;
use crate::{
    disks, lines, link, metrics, neighbours, outbox, rpc, tamper, telemetry, traffic, update,
    workloads,
};

/// The configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A folder or a file can't be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A fragment isn't TOML, or says something that nobody understands.
    #[error("{}{}: {reason}", path.display(), line.map(|line| format!(":{line}")).unwrap_or_default())]
    Fragment {
        /// Which one.
        path: PathBuf,
        /// Where in it.
        line: Option<usize>,
        /// What is wrong.
        reason: String,
    },
    /// A value can't be used.
    #[error("{}{invalid}", path.as_ref().map(|path| format!("{}: ", path.display())).unwrap_or_default())]
    Value {
        /// Which fragment says it, if it is one.
        path: Option<PathBuf>,
        /// What is wrong.
        invalid: Invalid,
    },
}

/// What fragments say.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Input {
    /// Where the server is.
    pub server: link::settings::ServerInput,
    /// How to talk to it.
    pub link: link::settings::Input,
    /// What waits to be sent.
    pub outbox: outbox::Input,
    /// How often the node is measured.
    pub telemetry: telemetry::Input,
    /// What traffic is metered.
    pub traffic: traffic::Input,
    /// How the node's lines are watched, by their names.
    pub lines: lines::Input,
    /// What is no sign of tampering.
    pub tamper: tamper::Input,
    /// Where metrics are served.
    pub metrics: metrics::Input,
    /// Whether images are shared at the site.
    pub neighbours: neighbours::Input,
    /// When and how the node updates.
    pub update: update::Input,
    /// What makes a release on trial good.
    pub health: update::HealthInput,
    /// What containers of customers may have.
    pub workloads: workloads::Input,
    /// Where disks may be mounted.
    pub disks: disks::Input,
    /// What the server may ask for.
    pub rpc: rpc::settings::Input,
    /// What the server may have run, by name.
    pub actions: BTreeMap<String, rpc::settings::ActionInput>,
}

/// What is in force.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// `[server]` and `[link]`.
    pub link: link::settings::Settings,
    /// `[outbox]`.
    pub outbox: outbox::Settings,
    /// `[telemetry]`.
    pub telemetry: telemetry::Settings,
    /// `[traffic]`.
    pub traffic: traffic::Settings,
    /// `[lines]`.
    pub lines: lines::Settings,
    /// `[tamper]`.
    pub tamper: tamper::Settings,
    /// `[metrics]`.
    pub metrics: metrics::Settings,
    /// `[neighbours]`.
    pub neighbours: neighbours::Settings,
    /// `[update]` and `[health]`.
    pub update: update::Settings,
    /// `[workloads]`.
    pub workloads: workloads::Settings,
    /// `[disks]`.
    pub disks: disks::Settings,
    /// `[rpc]` and `[actions]`.
    pub rpc: rpc::settings::Settings,
}

impl Settings {
    /// Checks all sections.
    ///
    /// # Errors
    /// Names the first setting that can't be used.
    pub fn check(input: &Input) -> Result<Self, Invalid> {
        Ok(Self {
            link: link::settings::Settings::check(&input.server, &input.link)?,
            outbox: outbox::Settings::check(&input.outbox)?,
            telemetry: telemetry::Settings::check(&input.telemetry)?,
            traffic: traffic::Settings::check(&input.traffic)?,
            lines: lines::Settings::check(&input.lines)?,
            tamper: tamper::Settings::check(&input.tamper)?,
            metrics: metrics::Settings::check(&input.metrics)?,
            neighbours: neighbours::Settings::check(&input.neighbours)?,
            update: update::Settings::check(&input.update, &input.health)?,
            workloads: workloads::Settings::check(&input.workloads)?,
            disks: disks::Settings::check(&input.disks)?,
            rpc: rpc::settings::Settings::check(&input.rpc, &input.actions)?,
        })
    }
}

/// Reads the fragments in `folders`, and checks what they say together; gives that, and what is in force.
///
/// # Errors
/// Names the file, and the key or the line.
pub fn load(folders: &[PathBuf]) -> Result<(Table, Settings), ConfigError> {
    let merged = fragments::read(folders)?;
    let input = merged.input()?;
    let settings = Settings::check(&input).map_err(|invalid| ConfigError::Value {
        path: merged.origin(&invalid.key),
        invalid,
    })?;
    Ok((merged.into_table(), settings))
}
