//! `[update]` and `[health]` of the configuration.

use std::time::Duration;

use cairn_update::Rules;
use cairn_update::window::Window;
use serde::Deserialize;

use crate::setting::{Invalid, duration};

/// The most checks and units together.
const MAX_CHECKS: usize = 64;

/// `[update]` as it is written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Input {
    /// Parts of the day, in UTC, in which the node may restart: `["02:00-05:00"]`; none: always.
    pub window: Option<Vec<String>>,
    /// How often a trial may be started, 1 to 9.
    pub tries: Option<u8>,
    /// How often the good release may be started before the agent says again that it is good, 1 to 9.
    pub good_tries: Option<u8>,
    /// How many releases are kept beside the good one and the trial.
    pub keep: Option<usize>,
    /// How fast to fetch at most: `2Mbit`.
    pub bandwidth: Option<String>,
    /// How much of DATA an update leaves free: `64MiB`.
    pub space_reserve: Option<String>,
}

/// `[health]` as it is written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct HealthInput {
    /// How long all has to be well before a trial is good: `5m`.
    pub soak: Option<String>,
    /// When, after the kernel's start, a trial must be good: `15m`.
    pub deadline: Option<String>,
    /// Whether a trial has to reach the control plane: `required` or `ignored`.
    pub control_plane: Option<ControlPlane>,
    /// systemd units that have to be active.
    pub units: Option<Vec<String>>,
    /// Commands that have to succeed.
    pub check: Option<Vec<CheckInput>>,
}

/// A `[[health.check]]` as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct CheckInput {
    /// Its name.
    pub name: String,
    /// Program and arguments; exit code 0 is well.
    pub command: Vec<String>,
    /// How long it may take: `10s`.
    pub timeout: Option<String>,
}

/// Whether the control plane counts for a trial.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ControlPlane {
    /// It has to answer, be it with an error.
    #[default]
    Required,
    /// It doesn't.
    Ignored,
}

/// Both as they are used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// What the state machine goes by.
    pub rules: Rules,
    /// When the node may restart.
    pub windows: Vec<Window>,
    /// Bytes per second at most.
    pub bandwidth: Option<u64>,
    /// What makes a trial good.
    pub health: Health,
}

/// `[health]` as it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// How long all has to be well.
    pub soak: Duration,
    /// When it must be over, after the kernel's start.
    pub deadline: Duration,
    /// Whether the control plane counts.
    pub control_plane: ControlPlane,
    /// What is looked at.
    pub checks: Vec<Check>,
}

/// Something that is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Its name.
    pub name: String,
    /// What to run.
    pub command: Vec<String>,
    /// How long it may take.
    pub timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            rules: Rules::default(),
            windows: Vec::new(),
            bandwidth: None,
            health: Health {
                soak: Duration::from_secs(300),
                deadline: Duration::from_secs(900),
                control_plane: ControlPlane::Required,
                checks: Vec::new(),
            },
        }
    }
}

impl Settings {
    /// Checks what is written, and fills in what isn't.
    ///
    /// # Errors
    /// If a value can't be used; the error names the key.
    pub fn check(input: &Input, health: &HealthInput) -> Result<Self, Invalid> {
        let default = Self::default();
        let tries = |key: &str, value: Option<u8>, default: u8| match value.unwrap_or(default) {
            tries @ 1..=9 => Ok(tries),
            other => Err(Invalid::new(key, format!("expected 1 to 9, got {other}"))),
        };
        let windows = input.window.iter().flatten().map(|text| {
            text.parse()
                .map_err(|error: cairn_update::window::NotAWindow| {
                    Invalid::new("update.window", error.to_string())
                })
        });
        let bandwidth = input
            .bandwidth
            .as_deref()
            .map(|text| duration::rate("update.bandwidth", text));
        let reserve = input
            .space_reserve
            .as_deref()
            .map(|text| duration::bytes("update.space-reserve", text));
        Ok(Self {
            rules: Rules {
                tries: tries("update.tries", input.tries, default.rules.tries)?,
                good_tries: tries(
                    "update.good-tries",
                    input.good_tries,
                    default.rules.good_tries,
                )?,
                keep: input.keep.unwrap_or(default.rules.keep),
                reserve: reserve.transpose()?.unwrap_or(default.rules.reserve),
            },
            windows: windows.collect::<Result<_, _>>()?,
            bandwidth: bandwidth.transpose()?,
            health: Health::check(health, &default.health)?,
        })
    }
}

impl Health {
    fn check(input: &HealthInput, default: &Self) -> Result<Self, Invalid> {
        let soak = duration::duration_or("health.soak", input.soak.as_deref(), default.soak)?;
        let deadline = duration::duration_or(
            "health.deadline",
            input.deadline.as_deref(),
            default.deadline,
        )?;
        if soak >= deadline {
            return Err(Invalid::new(
                "health.soak",
                "expected less than health.deadline",
            ));
        }
        let mut checks = Vec::new();
        for unit in input.units.iter().flatten() {
            let plain = |b: u8| b.is_ascii_alphanumeric() || b":-_.\\@".contains(&b);
            if unit.is_empty() || unit.starts_with('-') || !unit.bytes().all(plain) {
                return Err(Invalid::new(
                    "health.units",
                    format!("expected a unit as web.service, got {unit:?}"),
                ));
            }
            checks.push(Check {
                name: format!("unit {unit}"),
                command: ["systemctl", "is-active", unit].map(str::to_owned).to_vec(),
                timeout: Duration::from_secs(10),
            });
        }
        for check in input.check.iter().flatten() {
            if check.name.is_empty() || check.command.first().is_none_or(String::is_empty) {
                return Err(Invalid::new(
                    "health.check",
                    "expected a name and a command",
                ));
            }
            let timeout = duration::duration_or(
                "health.check.timeout",
                check.timeout.as_deref(),
                Duration::from_secs(10),
            )?;
            checks.push(Check {
                name: check.name.clone(),
                command: check.command.clone(),
                timeout,
            });
        }
        if checks.len() > MAX_CHECKS {
            return Err(Invalid::new(
                "health",
                format!(
                    "expected at most {MAX_CHECKS} units and checks, got {}",
                    checks.len()
                ),
            ));
        }
        Ok(Self {
            soak,
            deadline,
            control_plane: input.control_plane.unwrap_or(default.control_plane),
            checks,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(update: &str, health: &str) -> String {
        let input: Input = toml::from_str(update).unwrap();
        let health: HealthInput = toml::from_str(health).unwrap();
        Settings::check(&input, &health).unwrap_err().key
    }

    #[test]
    fn what_is_written_is_read() {
        let input: Input = toml::from_str(
            "window = ['02:00-05:00']\nbandwidth = '2Mbit'\nspace-reserve = '1MiB'\ntries = 2",
        )
        .unwrap();
        let text = "soak = '5s'\ndeadline = '1m'\ncontrol-plane = 'ignored'\nunits = ['web.service']\n[[check]]\nname = 'disk'\ncommand = ['true']";
        let settings = Settings::check(&input, &toml::from_str(text).unwrap()).unwrap();
        assert_eq!(
            (
                settings.bandwidth,
                settings.rules.tries,
                settings.rules.reserve
            ),
            (Some(250_000), 2, 1 << 20)
        );
        let names: Vec<_> = settings
            .health
            .checks
            .iter()
            .map(|check| check.name.as_str())
            .collect();
        assert_eq!(names, ["unit web.service", "disk"]);
        assert_eq!(
            Settings::check(&Input::default(), &HealthInput::default()).unwrap(),
            Settings::default()
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert_eq!(wrong("tries = 0", ""), "update.tries");
        assert_eq!(wrong("good-tries = 10", ""), "update.good-tries");
        assert_eq!(wrong("window = ['2-5']", ""), "update.window");
        assert_eq!(wrong("", "soak = '15m'"), "health.soak");
        assert_eq!(wrong("", "units = ['--all']"), "health.units");
        assert_eq!(
            wrong("", "[[check]]\nname = 'x'\ncommand = []"),
            "health.check"
        );
    }
}
