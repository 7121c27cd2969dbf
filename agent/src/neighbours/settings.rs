//! `[neighbours]` of the configuration.

use serde::Deserialize;

use crate::setting::{Invalid, duration};

/// As it is written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Input {
    /// Whether to share images with the other nodes of the site.
    pub share: Option<bool>,
    /// The TCP port on which neighbours are answered: 9470.
    pub port: Option<u16>,
    /// How fast to give at most, to all together: `100Mbit`.
    pub rate: Option<String>,
}

/// As it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Whether to share images with the other nodes of the site.
    pub share: bool,
    /// The TCP port on which neighbours are answered; 0: any.
    pub port: u16,
    /// Bytes per second given at most.
    pub rate: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            share: false,
            port: 9470,
            rate: 12_500_000,
        }
    }
}

impl Settings {
    /// Checks what is written, and fills in what isn't.
    ///
    /// # Errors
    /// If the rate isn't one.
    pub fn check(input: &Input) -> Result<Self, Invalid> {
        let default = Self::default();
        let rate = input.rate.as_deref();
        let rate = rate.map(|text| duration::rate("neighbours.rate", text));
        Ok(Self {
            share: input.share.unwrap_or(default.share),
            port: input.port.unwrap_or(default.port),
            rate: rate.transpose()?.unwrap_or(default.rate),
        })
    }
}
