//! What people read: the facts of an alarm, and templates over them.

use cairn_alarm::{Notice, Severity, Template};
use minijinja::value::Serde;
use minijinja::{Environment, UndefinedBehavior};
use rusqlite::Connection;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::device::Device;
use crate::store::StoreError;

/// Work that a template may do, so that none runs for ever.
const FUEL: u64 = 100_000;
/// Longest text that comes out of one, in bytes.
const LONGEST: usize = 64 * 1024;

const TITLE: &str = "[{{ severity|upper }}] {{ template }} on {{ device_name }}{% if instance %} ({{ instance }}){% endif %}: {{ event }}";

const TEXT: &str = "\
{{ about or template }}: {{ condition }}{% if value is not none %}, it was {{ value }}{% endif %}
Device: {{ device_name }} ({{ device }}), group {{ group }}{% if supplier %}, supplier {{ supplier }}{% endif %}
{% if instance %}Instance: {{ instance }}
{% endif %}Severity: {{ severity }}
{% if fired %}Since: {{ fired }}
{% endif %}{% if resolved %}Resolved: {{ resolved }}
{% endif %}{% if flapping %}It changes often; it is kept firing until it is quiet.
{% endif %}Alarm {{ alarm }}";

/// As it is written in the database and in what channels are sent.
pub(super) fn notice_name(notice: Notice) -> String {
    match notice {
        Notice::Fired => "fired".into(),
        Notice::Escalated(level) => format!("escalated-{level}"),
        Notice::Resolved => "resolved".into(),
    }
}

/// A resource, a severity or the like, as it is written.
pub(super) fn word(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value)
        .ok()
        .and_then(|value| value.as_str().map(str::to_owned))
        .unwrap_or_default()
}

/// An alarm as it was when people were to be told; the names are those in templates and in a webhook's body.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Facts {
    /// The alarm's number.
    pub(super) alarm: i64,
    /// `fired`, `escalated-1` or `resolved`; `test` for a channel's test.
    pub(super) event: String,
    pub(super) severity: Severity,
    pub(super) template: String,
    pub(super) about: String,
    pub(super) resource: String,
    pub(super) device: String,
    pub(super) device_name: String,
    pub(super) group: String,
    pub(super) supplier: Option<String>,
    pub(super) instance: String,
    pub(super) condition: String,
    pub(super) value: Option<Value>,
    pub(super) began: String,
    pub(super) fired: Option<String>,
    pub(super) resolved: Option<String>,
    pub(super) acknowledged_by: Option<String>,
    pub(super) flapping: bool,
}

fn moment(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |at| at.to_string())
}

/// Text that a device chose, in one line and bounded.
fn line(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

impl Facts {
    /// As they are in the database now.
    pub(super) fn read(
        connection: &Connection,
        alarm: i64,
        template: &Template,
        device: &Device,
        notice: Notice,
    ) -> Result<Self, StoreError> {
        let mut query = connection.prepare_cached(
            "SELECT instance, condition, value, began, fired, resolved, acknowledged_by, flapping, severity FROM alarm WHERE id = ?1",
        )?;
        Ok(query.query_row([alarm], |row| {
            let value: Option<String> = row.get("value")?;
            let at =
                |column| Ok::<_, rusqlite::Error>(row.get::<_, Option<i64>>(column)?.map(moment));
            Ok(Self {
                alarm,
                event: notice_name(notice),
                severity: super::json(&format!("\"{}\"", row.get::<_, String>("severity")?))?,
                template: template.name.clone(),
                about: template.about.clone(),
                resource: word(&template.resource),
                device: device.id.clone(),
                device_name: line(&device.name),
                group: device.group.clone(),
                supplier: device.supplier.clone(),
                instance: line(&row.get::<_, String>("instance")?),
                condition: row.get("condition")?,
                value: value.and_then(|text| serde_json::from_str(&text).ok()),
                began: moment(row.get("began")?),
                fired: at("fired")?,
                resolved: at("resolved")?,
                acknowledged_by: row.get("acknowledged_by")?,
                flapping: row.get("flapping")?,
            })
        })?)
    }

    /// Of an alarm that never was, to try channels and templates with.
    pub(super) fn sample(now: i64) -> Self {
        Self {
            alarm: 0,
            event: "test".into(),
            severity: Severity::Info,
            template: "test".into(),
            about: "A test of this channel".into(),
            resource: "other".into(),
            device: "no-device".into(),
            device_name: "no device".into(),
            group: "default".into(),
            supplier: None,
            instance: "instance".into(),
            condition: "above 1".into(),
            value: Some(2.into()),
            began: moment(now),
            fired: Some(moment(now)),
            resolved: None,
            acknowledged_by: None,
            flapping: false,
        }
    }
}

/// A title of one line, and a text.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Message {
    pub(super) title: String,
    pub(super) text: String,
}

impl Message {
    /// By the channel's templates, or the usual ones.
    pub(super) fn write(
        title: Option<&str>,
        text: Option<&str>,
        facts: &Facts,
    ) -> Result<Self, String> {
        let of = |field: &str, template: Option<&str>, usual: &str| {
            fill(template.unwrap_or(usual), facts).map_err(|error| format!("{field}: {error}"))
        };
        Ok(Self {
            title: line(&of("title", title, TITLE)?),
            text: of("text", text, TEXT)?,
        })
    }
}

/// What a template says about something. A name that isn't known is an error, so that it is found when the template is saved.
pub(super) fn fill(template: &str, about: &impl Serialize) -> Result<String, String> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(FUEL));
    let text = environment
        .render_str(template, Serde(about))
        .map_err(|error| error.to_string())?;
    if text.len() > LONGEST {
        return Err(format!(
            "expected at most {LONGEST} bytes, got {}",
            text.len()
        ));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_message_says_what_is_wrong_and_where() {
        let mut facts = Facts::sample(0);
        facts.event = "fired".into();
        let message = Message::write(None, None, &facts).unwrap();
        assert_eq!(message.title, "[INFO] test on no device (instance): fired");
        assert_eq!(
            message.text,
            "A test of this channel: above 1, it was 2\nDevice: no device (no-device), group default\nInstance: instance\n\
             Severity: info\nSince: 1970-01-01T00:00:00Z\nAlarm 0"
        );
    }

    #[test]
    fn a_template_that_is_wrong_is_refused_and_none_runs_for_ever() {
        let facts = Facts::sample(0);
        for bad in [
            "{{ nothing }}",
            "{% if %}",
            "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}",
        ] {
            assert!(fill(bad, &facts).is_err(), "{bad}");
        }
        assert_eq!(fill("{{ value|tojson }}", &facts).unwrap(), "2");
    }
}
