//! When nobody is told: work on devices that is known about.

use std::collections::BTreeSet;

use cairn_fleet::Selector;
use serde::{Deserialize, Serialize};

/// Alarms of these devices go on, and nobody is told of them for a while. Who is still firing at its end is told of then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Silence {
    /// Which devices.
    pub select: Selector,
    /// Of these templates; none named: of all.
    #[serde(default)]
    pub templates: BTreeSet<String>,
    /// From this moment, in seconds since 1970.
    pub from: i64,
    /// Up to this moment, in seconds since 1970.
    pub until: i64,
}

impl Silence {
    /// Until when (milliseconds since 1970) it holds for an alarm of this template and device; nothing, if it doesn't now.
    pub fn covers(
        &self,
        template: &str,
        device: &str,
        group: &str,
        tags: &BTreeSet<String>,
        now: i64,
    ) -> Option<i64> {
        let (from, until) = (
            self.from.saturating_mul(1000),
            self.until.saturating_mul(1000),
        );
        let holds = (from..until).contains(&now)
            && (self.templates.is_empty() || self.templates.contains(template))
            && self.select.matches(device, group, tags);
        holds.then_some(until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silence_has_devices_templates_and_an_end() {
        let silence = Silence {
            select: Selector::Group("paris".into()),
            templates: ["line-loss".to_owned()].into(),
            from: 10,
            until: 20,
        };
        let covers = |template: &str, group: &str, now| {
            silence.covers(template, "edge-1", group, &BTreeSet::new(), now)
        };
        assert_eq!(covers("line-loss", "paris", 10_000), Some(20_000));
        assert_eq!(covers("line-loss", "paris", 20_000), None);
        assert_eq!(covers("line-loss", "paris", 9_999), None);
        assert_eq!(covers("line-loss", "lyon", 15_000), None);
        assert_eq!(covers("storage", "paris", 15_000), None);
    }
}
