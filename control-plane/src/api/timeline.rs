//! What became of a device, in order: its own reports, and what people did to it.

use std::ops::Range;

use axum::Json;
use axum::extract::State;
use cairn_wire::report;
use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::device_data::Sample;
use super::devices::unknown;
use super::{ApiError, Page, Path, Query};
use crate::app::App;
use crate::people::{Need, audit, scope_type};
use crate::registry;
use crate::rollouts::Rollouts;
use crate::store::StoreError;

/// Events in an answer if nobody says how many, and at most.
const USUAL: usize = 200;
const MOST: usize = 1000;
/// Values of one answer, in bytes of JSON; what is behind them is left out.
const ANSWER: usize = 4 << 20;

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
    let device = registry::get(connection, id)?.ok_or_else(|| unknown(id))?;
    let mut events = vec![Event {
        time: device.created * 1000,
        kind: "enrolled",
        text: format!("enrolled into the group {}", device.group),
        detail: Value::Object(device.facts),
    }];
    for sample in samples(connection, id, report::KEY, i64::MIN..i64::MAX, last)? {
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

/// Samples of a key, the newest first.
pub(super) fn samples(
    connection: &Connection,
    device: &str,
    key: &str,
    time: Range<i64>,
    limit: usize,
) -> Result<Vec<Sample>, StoreError> {
    let mut query = connection.prepare_cached(
        "SELECT key, ts, value FROM sample WHERE device = ?1 AND key = ?2 AND ts >= ?3 AND ts < ?4 ORDER BY ts DESC LIMIT ?5",
    )?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    bounded(query.query(params![device, key, time.start, time.end, limit])?)
}

/// The newest sample of each key.
pub(super) fn newest(connection: &Connection, device: &str) -> Result<Vec<Sample>, StoreError> {
    // Walks from key to key by the index, and doesn't read what lies between.
    let mut query = connection.prepare_cached(
        "WITH RECURSIVE keys (key) AS (
             SELECT min(key) FROM sample WHERE device = ?1
             UNION ALL
             SELECT (SELECT min(key) FROM sample WHERE device = ?1 AND key > keys.key) FROM keys WHERE keys.key IS NOT NULL
         )
         SELECT s.key, s.ts, s.value FROM keys JOIN sample s
         ON s.device = ?1 AND s.key = keys.key
            AND s.ts = (SELECT max(ts) FROM sample WHERE device = ?1 AND key = keys.key)
         ORDER BY s.key LIMIT 10000",
    )?;
    bounded(query.query([device])?)
}

/// As many as come to [`ANSWER`]: a device chose how large they are.
fn bounded(mut rows: rusqlite::Rows<'_>) -> Result<Vec<Sample>, StoreError> {
    let (mut samples, mut bytes) = (Vec::new(), 0);
    while let Some(row) = rows.next()? {
        let value = row.get_ref(2)?.as_str().map_err(rusqlite::Error::from)?;
        bytes += value.len();
        if bytes > ANSWER {
            break;
        }
        samples.push(Sample {
            key: row.get(0)?,
            ts: row.get(1)?,
            value: serde_json::from_str(value).unwrap_or(Value::Null),
        });
    }
    Ok(samples)
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

    #[test]
    fn the_newest_of_each_key_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cairn.db");
        drop(crate::store::Store::open(&path).unwrap());
        let connection = Connection::open(&path).unwrap();
        assert!(newest(&connection, "a").unwrap().is_empty());
        for (device, key, ts) in [
            ("a", "x", 1),
            ("a", "x", 3),
            ("a", "y", 2),
            ("b", "x", 9),
            ("b", "z", 9),
        ] {
            connection
                .execute(
                    "INSERT INTO sample VALUES (?1, ?2, ?3, '1')",
                    params![device, key, ts],
                )
                .unwrap();
        }
        let found: Vec<_> = newest(&connection, "a")
            .unwrap()
            .into_iter()
            .map(|s| (s.key, s.ts))
            .collect();
        assert_eq!(found, [("x".to_owned(), 3), ("y".to_owned(), 2)]);
        assert_eq!(samples(&connection, "a", "x", 0..3, 10).unwrap().len(), 1);
        // However much a device has sent, an answer fits into memory.
        let large = format!("\"{}\"", "x".repeat(65_000));
        for ts in 0..100 {
            connection
                .execute(
                    "INSERT INTO sample VALUES ('c', 'x', ?1, ?2)",
                    params![ts, large],
                )
                .unwrap();
        }
        let found = samples(&connection, "c", "x", 0..i64::MAX, 10_000).unwrap();
        assert_eq!((found.len(), found[0].ts), (ANSWER / large.len(), 99));
    }
}
