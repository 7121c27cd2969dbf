//! What an operator writes, and whether it makes sense.

use std::collections::BTreeSet;
use std::fmt;

use cairn_fleet::selector::SelectorError;
use cairn_fleet::{Seconds, Selector};
use serde::{Deserialize, Serialize};

use crate::condition::{Condition, Limit};
use crate::key::Pattern;

/// Longest time that a template may wait for anything.
const LONGEST: Seconds = Seconds(30 * 86_400);
/// Most steps of an escalation.
const MOST_STEPS: usize = 5;
/// Most channels that are named in one place.
const MOST_CHANNELS: usize = 20;
/// Most changes that a flapping rule counts.
const MOST_CHANGES: u32 = 100;

/// What kind of thing is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resource {
    /// The device itself is there or not.
    DeviceState,
    /// Time to a target and back.
    LineLatency,
    /// Lost packets.
    LineLoss,
    /// What a line takes upwards.
    UplinkSpeed,
    /// The system is not as it was made.
    Tampering,
    /// File systems fill.
    StorageUse,
    /// Anything else.
    Other,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Good to know.
    Info,
    /// Somebody should look at it in working hours.
    Warning,
    /// Somebody should look at it now.
    Critical,
}

impl Severity {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What is wrong when, and who is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Template {
    /// Its name, 1 to 64 of a-z0-9-.
    pub name: String,
    /// For people.
    #[serde(default)]
    pub about: String,
    /// What kind of thing.
    pub resource: Resource,
    /// Which telemetry; none for `offline`, which looks at the device's connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Pattern>,
    /// When it is wrong.
    pub when: Condition,
    /// How long it must be wrong before it fires; for `absent` and `offline`: how long nothing must have come.
    #[serde(default, rename = "for")]
    pub hold: Seconds,
    /// How long it must be well before it is resolved.
    #[serde(default)]
    pub clear_for: Seconds,
    /// How bad.
    pub severity: Severity,
    /// What happens if nobody acknowledges it; in order.
    #[serde(default)]
    pub escalate: Vec<Escalation>,
    /// When it changes too often.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flapping: Option<Flapping>,
    /// Which devices.
    #[serde(default = "all")]
    pub select: Selector,
    /// Who is told: these of the operator's channels; not said: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channels: Option<BTreeSet<String>>,
    /// Whether it is in use.
    #[serde(default = "yes")]
    pub enabled: bool,
}

fn all() -> Selector {
    Selector::All
}

fn yes() -> bool {
    true
}

/// A step of an escalation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Escalation {
    /// So long after it fired, if nobody has acknowledged it.
    pub after: Seconds,
    /// It is this bad then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub severity: Option<Severity>,
    /// These channels are told too, and stay told.
    #[serde(default)]
    pub channels: BTreeSet<String>,
}

/// An alarm that fires or resolves `changes` times `within` a time is kept firing until it has been well for `quiet`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flapping {
    /// So many times.
    pub changes: u32,
    /// In so long.
    pub within: Seconds,
    /// Well for so long.
    pub quiet: Seconds,
}

/// A template makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {what}")]
pub struct TemplateError {
    /// Which field.
    pub field: &'static str,
    /// What is wrong with it.
    pub what: String,
}

fn bad(field: &'static str, what: impl Into<String>) -> TemplateError {
    TemplateError {
        field,
        what: what.into(),
    }
}

/// Whether a text can name a template or a channel.
pub fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

impl Template {
    /// Whether it makes sense.
    ///
    /// # Errors
    /// If not; the error names the field and says what was expected.
    pub fn check(&self) -> Result<(), TemplateError> {
        if !is_name(&self.name) {
            return Err(bad("name", "expected 1 to 64 of a-z0-9-"));
        }
        if self.about.len() > 1024 || self.about.chars().any(char::is_control) {
            return Err(bad("about", "expected one line of at most 1024 bytes"));
        }
        match (&self.when, &self.key) {
            (Condition::Offline, Some(_)) => {
                return Err(bad(
                    "key",
                    "expected none: offline looks at the device's connection",
                ));
            }
            (Condition::Offline, None) | (_, Some(_)) => {}
            (_, None) => {
                return Err(bad(
                    "key",
                    "expected a telemetry key, as disk.*.used_percent",
                ));
            }
        }
        if let Some(expected) = self.when.nonsense() {
            return Err(bad("when", format!("expected {expected}")));
        }
        if self.when.waits() && self.hold == Seconds(0) {
            return Err(bad(
                "for",
                "expected how long nothing must have come, as 5m",
            ));
        }
        for (field, time) in [("for", self.hold), ("clear_for", self.clear_for)] {
            at_most(field, time)?;
        }
        self.check_escalation()?;
        if let Some(flapping) = self.flapping {
            if !(3..=MOST_CHANGES).contains(&flapping.changes) {
                return Err(bad(
                    "flapping",
                    format!("expected 3 to {MOST_CHANGES} changes"),
                ));
            }
            at_most("flapping", flapping.within.max(flapping.quiet))?;
            if flapping.within.min(flapping.quiet) == Seconds(0) {
                return Err(bad("flapping", "expected within and quiet above 0"));
            }
        }
        if let Some(channels) = &self.channels {
            check_channels("channels", channels)?;
        }
        self.select
            .check()
            .map_err(|error: SelectorError| bad("select", error.to_string()))
    }

    fn check_escalation(&self) -> Result<(), TemplateError> {
        if self.escalate.len() > MOST_STEPS {
            return Err(bad(
                "escalate",
                format!("expected at most {MOST_STEPS} steps"),
            ));
        }
        let (mut before, mut severity) = (Seconds(0), self.severity);
        for step in &self.escalate {
            if step.after <= before {
                return Err(bad("escalate", "expected each step after the one before"));
            }
            before = step.after;
            at_most("escalate", step.after)?;
            check_channels("escalate", &step.channels)?;
            if step.severity.is_none() && step.channels.is_empty() {
                return Err(bad(
                    "escalate",
                    "expected a severity or channels in each step",
                ));
            }
            if let Some(higher) = step.severity {
                if higher <= severity {
                    let text = format!("expected a higher severity than {severity}, got {higher}");
                    return Err(bad("escalate", text));
                }
                severity = higher;
            }
        }
        Ok(())
    }

    /// How bad it is after so many steps of the escalation.
    pub fn severity_at(&self, level: usize) -> Severity {
        self.escalate
            .iter()
            .take(level)
            .filter_map(|step| step.severity)
            .fold(self.severity, Severity::max)
    }

    /// All channels that it names.
    pub fn named_channels(&self) -> BTreeSet<&str> {
        let escalated = self.escalate.iter().map(|step| &step.channels);
        let sets = self.channels.iter().chain(escalated);
        sets.flatten().map(String::as_str).collect()
    }

    /// Channels that the escalation has added after so many steps.
    pub fn channels_at(&self, level: usize) -> BTreeSet<&str> {
        self.escalate
            .iter()
            .take(level)
            .flat_map(|step| step.channels.iter().map(String::as_str))
            .collect()
    }

    /// A template over a limit, as the built-in ones are.
    pub(crate) fn limit(
        name: &str,
        resource: Resource,
        key: Pattern,
        above: bool,
        limit: f64,
        clear: f64,
    ) -> Self {
        let limit = Limit {
            limit,
            clear: Some(clear),
        };
        Self {
            name: name.into(),
            about: String::new(),
            resource,
            key: Some(key),
            when: if above {
                Condition::Above(limit)
            } else {
                Condition::Below(limit)
            },
            hold: Seconds(0),
            clear_for: Seconds(0),
            severity: Severity::Warning,
            escalate: Vec::new(),
            flapping: Some(Flapping {
                changes: 6,
                within: Seconds(3600),
                quiet: Seconds(900),
            }),
            select: Selector::All,
            channels: None,
            enabled: true,
        }
    }
}

fn at_most(field: &'static str, time: Seconds) -> Result<(), TemplateError> {
    if time > LONGEST {
        return Err(bad(field, format!("expected at most {LONGEST}")));
    }
    Ok(())
}

fn check_channels(field: &'static str, channels: &BTreeSet<String>) -> Result<(), TemplateError> {
    if channels.len() > MOST_CHANNELS || !channels.iter().all(|name| is_name(name)) {
        return Err(bad(
            field,
            format!("expected at most {MOST_CHANNELS} names of channels"),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn with(change: Value) -> Result<(), TemplateError> {
        let mut template = json!({
            "name": "storage", "resource": "storage-use", "key": "disk.*.used_percent", "severity": "warning",
            "when": { "above": { "limit": 90 } }, "for": "5m",
            "escalate": [{ "after": "30m", "severity": "critical", "channels": ["boss"] }],
            "flapping": { "changes": 4, "within": "10m", "quiet": "10m" },
        });
        for (key, value) in change.as_object().unwrap() {
            template[key] = value.clone();
        }
        serde_json::from_value::<Template>(template)
            .unwrap()
            .check()
    }

    #[test]
    fn a_bad_template_is_told_by_its_field() {
        assert_eq!(with(json!({})), Ok(()));
        for (field, value) in [
            ("name", json!("A b")),
            ("key", json!(null)),
            ("for", json!("31d")),
            ("clear_for", json!("99d")),
            ("escalate", json!([{ "after": "5m" }])),
            (
                "escalate",
                json!([{ "after": "5m", "severity": "info" }, { "after": "5m", "severity": "info" }]),
            ),
            (
                "flapping",
                json!({ "changes": 1, "within": "1m", "quiet": "1m" }),
            ),
            (
                "flapping",
                json!({ "changes": 3, "within": "0s", "quiet": "1m" }),
            ),
            (
                "escalate",
                json!([{ "after": "5m", "severity": "warning" }]),
            ),
            ("channels", json!(["no such name!"])),
            ("select", json!({ "tags": [] })),
            ("when", json!({ "above": { "limit": 1, "clear": 2 } })),
        ] {
            let error = with(json!({ field: value })).unwrap_err();
            assert_eq!(error.field, field, "{error}");
        }
        assert_eq!(
            with(json!({ "when": "absent", "for": "0" }))
                .unwrap_err()
                .field,
            "for"
        );
        assert_eq!(with(json!({ "when": "offline" })).unwrap_err().field, "key");
    }

    #[test]
    fn an_escalation_only_adds() {
        let template = crate::builtin::all().remove(0);
        assert_eq!(template.severity_at(0), template.severity);
        assert!(template.severity_at(9) >= template.severity);
    }

    #[test]
    fn every_channel_that_is_named_is_known() {
        let mut template = crate::builtin::all().remove(0);
        assert!(template.named_channels().is_empty());
        template.channels = Some(["ops".to_owned()].into());
        template.escalate = vec![Escalation {
            after: Seconds(60),
            severity: None,
            channels: ["boss".to_owned()].into(),
        }];
        assert_eq!(template.named_channels(), ["boss", "ops"].into());
    }
}
