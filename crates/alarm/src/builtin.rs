//! The six templates that everybody begins with, one for each resource kind. Their keys are what the agent sends; see docs/alarms.md.

use cairn_fleet::{Seconds, Selector};

use crate::condition::Condition;
use crate::key::Pattern;
use crate::template::{Escalation, Flapping, Resource, Severity, Template};

/// An hour and nobody has looked: it is worse than it seemed.
fn escalation() -> Vec<Escalation> {
    vec![Escalation {
        after: Seconds(3600),
        severity: Some(Severity::Critical),
        channels: Default::default(),
    }]
}

/// All of them.
pub fn all() -> Vec<Template> {
    // Written here, and each read by a test.
    let limit = |name, resource, key: &str, above, at, clear| {
        let key = key.parse::<Pattern>().ok()?;
        Some(Template::limit(name, resource, key, above, at, clear))
    };
    let templates = [
        Some(Template {
            name: "device-offline".into(),
            about: "The device is not connected and sends nothing".into(),
            resource: Resource::DeviceState,
            key: None,
            when: Condition::Offline,
            hold: Seconds(300),
            clear_for: Seconds(0),
            severity: Severity::Warning,
            escalate: escalation(),
            flapping: Some(Flapping {
                changes: 6,
                within: Seconds(7200),
                quiet: Seconds(1800),
            }),
            select: Selector::All,
            channels: None,
            enabled: true,
        }),
        limit(
            "line-latency",
            Resource::LineLatency,
            "line.*.latency_ms",
            true,
            150.0,
            120.0,
        )
        .map(|template| Template {
            about: "A line's latency in milliseconds".into(),
            hold: Seconds(180),
            clear_for: Seconds(120),
            ..template
        }),
        limit(
            "line-loss",
            Resource::LineLoss,
            "line.*.loss_percent",
            true,
            5.0,
            2.0,
        )
        .map(|template| Template {
            about: "A line's lost packets in percent".into(),
            hold: Seconds(180),
            clear_for: Seconds(120),
            ..template
        }),
        limit(
            "uplink-speed",
            Resource::UplinkSpeed,
            "line.*.up_bps",
            false,
            10e6,
            12e6,
        )
        .map(|template| Template {
            about: "What a line takes upwards, in bit/s".into(),
            ..template
        }),
        limit("tampering", Resource::Tampering, "tamper.*", true, 0.0, 0.0).map(|template| {
            Template {
                about: "The system is not as it was made: true, or a count above 0".into(),
                severity: Severity::Critical,
                ..template
            }
        }),
        limit(
            "storage-use",
            Resource::StorageUse,
            "disk.*.used_percent",
            true,
            90.0,
            85.0,
        )
        .map(|template| Template {
            about: "A file system's used space in percent".into(),
            hold: Seconds(300),
            escalate: escalation(),
            ..template
        }),
    ];
    templates.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_for_each_resource_kind_and_all_make_sense() {
        let all = all();
        assert_eq!(all.len(), 6);
        for template in &all {
            template.check().unwrap();
            let text = serde_json::to_string(template).unwrap();
            assert_eq!(serde_json::from_str::<Template>(&text).unwrap(), *template);
        }
        let kinds: Vec<_> = all.iter().map(|template| template.resource).collect();
        for kind in [
            Resource::DeviceState,
            Resource::LineLatency,
            Resource::LineLoss,
            Resource::UplinkSpeed,
            Resource::Tampering,
            Resource::StorageUse,
        ] {
            assert!(kinds.contains(&kind), "{kind:?}");
        }
    }
}
