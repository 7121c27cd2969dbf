//! What became of a device, in order: its own reports, and what people did to it.

use axum::Json;
use axum::extract::State;
use cairn_wire::report;
use rusqlite::Connection;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{ApiError, Page, Path, Query};
use crate::app::App;
use crate::people::{Need, audit, scope_type};
use crate::registry;
use crate::rollouts::Rollouts;
use crate::telemetry::Series as _;

/// Events in an answer if nobody says how many, and at most.
const USUAL: usize = 200;
const MOST: usize = 1000;

/// How many.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Wanted {
    /// The last so many, up to 1000; 200 if not said.
    last: Option<usize>,
}

/// One thing that happened.
#[derive(Debug, Serialize, ToSchema)]
pub struct Event {
    /// Milliseconds since 1970.
    pub time: i64,
    /// `enrolled`, `update` (the device's own report), `rollout` (what a rollout did), `audit` (what somebody did).
    pub kind: &'static str,
    /// A sentence for people.
    pub text: String,
    /// The whole of it.
    pub detail: Value,
}

/// The routes.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(timeline))
}

/// What became of a device, the oldest first.
#[utoipa::path(get, path = "/v1/devices/{id}/timeline", tag = "devices", params(("id" = String, Path), Wanted),
    security(("token" = ["devices:read"])), responses((status = 200, body = Page<Event>)))]
async fn timeline(
    _: Need<scope_type::DevicesRead>,
    State(app): State<App>,
    Path(id): Path<String>,
    Query(wanted): Query<Wanted>,
) -> Result<Json<Page<Event>>, ApiError> {
    let last = wanted.last.unwrap_or(USUAL);
    if !(1..=MOST).contains(&last) {
        return Err(ApiError::bad(
            "bad-limit",
            format!("expected the last 1 to {MOST}, got {last}"),
        ));
    }
    let events = app
        .store
        .read::<_, ApiError, _>(move |connection| events(connection, &id, last))
        .await?;
    Ok(Json(Page::new(events, None)))
}

fn events(connection: &Connection, id: &str, last: usize) -> Result<Vec<Event>, ApiError> {
    let device = registry::get(connection, id)?.ok_or_else(|| ApiError::no_device(id))?;
    let mut events = vec![Event {
        time: device.created * 1000,
        kind: "enrolled",
        text: format!("enrolled into the group {}", device.group),
        detail: Value::Object(device.facts),
    }];
    for sample in connection.samples(id, report::KEY, i64::MIN..i64::MAX, last)? {
        events.push(Event {
            time: sample.ts,
            kind: "update",
            text: told(&sample.value),
            detail: sample.value,
        });
    }
    for event in Rollouts::timeline(connection, id, None, last)? {
        // The device's own steps are there already; what they came to is the rollout's to say.
        let own = [
            "checking", "planned", "fetching", "verified", "placed", "armed", "on-trial",
        ];
        if event
            .state
            .as_deref()
            .is_some_and(|state| own.contains(&state))
        {
            continue;
        }
        let mut text = format!(
            "rollout {} of {}: {}",
            event.rollout,
            event.release,
            event.state.as_deref().unwrap_or("remark")
        );
        if !event.text.is_empty() {
            text.push_str(&format!(" ({})", event.text));
        }
        let detail = serde_json::to_value(&event).unwrap_or_default();
        events.push(Event {
            time: event.time * 1000,
            kind: "rollout",
            text,
            detail,
        });
    }
    let wanted = audit::Wanted {
        subject: Some(format!("device/{id}")),
        limit: last,
        ..Default::default()
    };
    for entry in audit::list(connection, &wanted)? {
        let method = entry.detail.get("method").and_then(Value::as_str);
        let method = method.map(|method| format!(" {method}"));
        let text = format!(
            "{}{} by {}",
            entry.action,
            method.unwrap_or_default(),
            entry.who
        );
        events.push(Event {
            time: entry.time * 1000,
            kind: "audit",
            text,
            detail: entry.detail,
        });
    }
    // The lists have the newest first; what happened within one second stays in its order.
    events.reverse();
    events.sort_by_key(|event| (event.time, event.kind != "enrolled"));
    let surplus = events.len().saturating_sub(last);
    Ok(events.split_off(surplus))
}

/// A device's report as a sentence.
fn told(report: &Value) -> String {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let field = |name: &str| {
        report
            .get(name)
            .and_then(text)
            .unwrap_or_else(|| "?".into())
    };
    let mut told = format!("{}: {}", field("version"), field("state"));
    if let Some(failure) = report.get("failure").filter(|failure| !failure.is_null()) {
        let part = |name: &str| failure.get(name).and_then(text).unwrap_or_default();
        told.push_str(&format!(" ({}: {})", part("kind"), part("reason")));
    } else if let Some(note) = report.get("note").and_then(text) {
        told.push_str(&format!(" ({note})"));
    }
    if let Some(running) = report.get("running").and_then(text) {
        told.push_str(&format!("; runs {running}"));
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_reads_as_a_sentence() {
        let report = serde_json::json!({
            "order": "r1", "version": "3", "digest": "00", "state": "failed", "running": "2",
            "failure": { "kind": "fell-back", "reason": "the kernel panicked", "retry": false },
        });
        assert_eq!(
            told(&report),
            "3: failed (fell-back: the kernel panicked); runs 2"
        );
        assert_eq!(told(&Value::Null), "?: ?");
    }
}
