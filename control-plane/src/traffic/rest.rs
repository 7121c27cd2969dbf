//! `/v1/traffic`: series, bills, who there is; and `/v1/devices/{id}/traffic`, what came of a device's records.

use std::fmt::Write as _;
use std::ops::Range;

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use cairn_traffic::Kind;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, params};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::bill::{Bill, Rule, Terms};
use super::chains::{self, Sent};
use super::series::{self, Dimension};
use super::sum::{DAY, Sum};
use crate::app::App;
use crate::devices::now_ms;
use crate::people::{Need, scope_type};
use crate::registry;
use crate::web::{ApiError, Page, PageQuery, Path, Query};

/// Days of slots in one answer.
const LONGEST: i64 = 40;

/// Whose traffic.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Subject {
    /// By what it is summed: `all`, `device`, `meter`, `customer`, `business`, `supplier`, `group` or `tag`.
    #[param(value_type = String)]
    dimension: Dimension,
    /// Its name: a device's id, `device/meter`, a customer, `customer/business`, a supplier, a group or a tag; of `all` none.
    #[serde(default)]
    name: String,
    /// What was counted: `interface` or `container`.
    #[param(value_type = String)]
    kind: Kind,
}

/// Which slots.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Span {
    /// Not before this, in seconds since 1970.
    from: Option<i64>,
    /// Before this, in seconds since 1970; now if not said.
    to: Option<i64>,
    /// The last so many slots, in place of `from`; 12 if neither is said.
    last: Option<i64>,
    #[serde(default)]
    /// `json` (if not said) or `csv`.
    #[param(value_type = Option<String>)]
    format: Format,
}

/// How an answer is written.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    #[default]
    Json,
    Csv,
}

/// How a bill is written.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Written {
    #[serde(default)]
    /// `json` (if not said), or `csv`: the days alone.
    #[param(value_type = Option<String>)]
    format: Format,
}

/// Five minutes.
#[derive(Debug, Serialize, ToSchema)]
pub struct Slot {
    /// When they begin, in seconds since 1970.
    time: i64,
    /// Bytes received; none if nothing came: that is no 0.
    rx_bytes: Option<u64>,
    /// Bytes sent.
    tx_bytes: Option<u64>,
    /// How many meters reported.
    meters: u32,
    /// How many of these shared a longer time out evenly: their sum is exact, its place isn't.
    estimated: u32,
}

/// A series.
#[derive(Debug, Serialize, ToSchema)]
pub struct Series {
    /// The slots, in order, without a hole.
    slots: Vec<Slot>,
    /// How many of them nothing came for.
    missing: usize,
}

/// Somebody whose traffic was counted.
#[derive(Debug, Serialize, ToSchema)]
pub struct Counted {
    /// The name.
    name: String,
    /// `interface` or `container`.
    kind: String,
}

/// Which of them.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Which {
    /// By what traffic is summed.
    #[param(value_type = String)]
    dimension: Dimension,
}

/// The routes with their descriptions.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(slots))
        .routes(routes!(bill))
        .routes(routes!(subjects))
        .routes(routes!(records))
}

/// The slot that isn't over.
fn present() -> i64 {
    now_ms().div_euclid(300_000)
}

/// Reads the series, as far as the caller may see it. A supplier's people see the interfaces of their own devices, since these
/// are theirs.
fn read(
    connection: &Connection,
    subject: &Subject,
    supplier: Option<&str>,
    slots: Range<i64>,
) -> Result<Vec<Option<Sum>>, ApiError> {
    let Subject {
        dimension,
        name,
        kind,
    } = subject;
    let missing = || ApiError::not_found(format!("traffic of the {dimension} {name:?}"));
    let mut since = 0;
    if let Some(supplier) = supplier {
        if *kind != Kind::Interface {
            return Err(missing());
        }
        let device = match dimension {
            Dimension::Supplier if name == supplier => None,
            Dimension::Device => Some(name.as_str()),
            Dimension::Meter => name.split('/').next(),
            _ => return Err(missing()),
        };
        if let Some(device) = device {
            let owner = owner(connection, device)?.filter(|owner| owner.supplier == supplier);
            since = owner.ok_or_else(missing)?.since.div_euclid(300);
        }
    }
    let id = series::id(connection, *dimension, name, *kind)?.ok_or_else(missing)?;
    let first = slots.start;
    let mut sums = series::read(connection, id, slots)?;
    for (sum, slot) in sums.iter_mut().zip(first..) {
        sum.take_if(|_| slot < since);
    }
    Ok(sums)
}

/// Whose a device is.
struct Owner {
    supplier: String,
    /// Seconds since 1970.
    since: i64,
}

/// Whose device it is, if it is a supplier's; none if there is none of that id.
fn owner(connection: &Connection, device: &str) -> Result<Option<Owner>, ApiError> {
    let found = connection
        .prepare_cached(
            "SELECT supplier, coalesce(supplier_since, created) FROM device WHERE id = ?1 AND supplier IS NOT NULL",
        )?
        .query_row([device], |row| {
            Ok(Owner {
                supplier: row.get(0)?,
                since: row.get(1)?,
            })
        })
        .optional()?;
    Ok(found)
}

impl Span {
    /// Slots as the database numbers them.
    fn slots(&self) -> Result<Range<i64>, ApiError> {
        let now = present();
        // The present slot is there as soon as a part of it is.
        let to = self.to.map_or(now + 1, |to| to.div_euclid(300));
        let from = match (self.from, self.last) {
            (Some(_), Some(_)) => {
                return Err(ApiError::bad(
                    "bad-query",
                    "expected from or last, not both",
                ));
            }
            (Some(from), None) => from.div_euclid(300),
            (None, last) => to.saturating_sub(last.unwrap_or(12)),
        };
        let length = to.saturating_sub(from);
        if length < 1 {
            return Err(ApiError::bad(
                "bad-query",
                "from: expected a time before to",
            ));
        }
        if !(1..=LONGEST * DAY).contains(&length) || from < 0 {
            return Err(ApiError::bad(
                "bad-query",
                format!("expected 5 minutes to {LONGEST} days, got {length} slots"),
            ));
        }
        Ok(from..to)
    }
}

/// Five-minute sums. Times are multiples of 300 seconds UTC; one in between counts as the slot that it lies in.
#[utoipa::path(get, path = "/v1/traffic/series", tag = "traffic", params(Subject, Span),
    security(("token" = ["traffic:read"])), responses((status = 200, body = Series)))]
async fn slots(
    caller: Need<scope_type::TrafficRead>,
    State(app): State<App>,
    Query(subject): Query<Subject>,
    Query(span): Query<Span>,
) -> Result<Response, ApiError> {
    let (slots, supplier) = (span.slots()?, caller.supplier.clone());
    let first = slots.start;
    let sums = app
        .store
        .read::<_, ApiError, _>(move |connection| {
            read(connection, &subject, supplier.as_deref(), slots)
        })
        .await?;
    let slots: Vec<Slot> = (first..)
        .zip(sums)
        .map(|(slot, sum)| told(slot, sum))
        .collect();
    Ok(match span.format {
        Format::Json => {
            let missing = slots.iter().filter(|slot| slot.rx_bytes.is_none()).count();
            Json(Series { slots, missing }).into_response()
        }
        Format::Csv => csv(
            "time,rx_bytes,tx_bytes,meters,estimated",
            slots.iter().map(|slot| {
                let number =
                    |number: Option<u64>| number.map_or_else(String::new, |n| n.to_string());
                let (rx, tx) = (number(slot.rx_bytes), number(slot.tx_bytes));
                format!(
                    "{},{rx},{tx},{},{}",
                    moment(slot.time),
                    slot.meters,
                    slot.estimated
                )
            }),
        ),
    })
}

fn told(slot: i64, sum: Option<Sum>) -> Slot {
    Slot {
        time: slot * 300,
        rx_bytes: sum.map(|sum| sum.rx),
        tx_bytes: sum.map(|sum| sum.tx),
        meters: sum.map_or(0, |sum| sum.meters),
        estimated: sum.map_or(0, |sum| sum.estimated),
    }
}

fn moment(seconds: i64) -> String {
    Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |time| time.to_string())
}

/// Numbers and times need no quotes.
fn csv(head: &str, lines: impl Iterator<Item = String>) -> Response {
    let mut text = format!("{head}\r\n");
    for line in lines {
        // Writing to memory doesn't fail.
        let _ = write!(text, "{line}\r\n");
    }
    ([(header::CONTENT_TYPE, "text/csv; charset=utf-8")], text).into_response()
}

/// The figures of a month by every usual definition, with the rule that made each.
#[utoipa::path(get, path = "/v1/traffic/bill", tag = "traffic", params(Subject, Rule, Written),
    security(("token" = ["traffic:read"])), responses((status = 200, body = Bill)))]
async fn bill(
    caller: Need<scope_type::TrafficRead>,
    State(app): State<App>,
    Query(subject): Query<Subject>,
    Query(rule): Query<Rule>,
    Query(written): Query<Written>,
) -> Result<Response, ApiError> {
    let terms = Terms::read(&rule).map_err(|reason| ApiError::bad("bad-query", reason))?;
    let now = present();
    let days = terms.days(now).map_err(ApiError::internal)?;
    let (Some((_, first)), Some((_, last))) = (days.first(), days.last()) else {
        return Err(ApiError::bad("bad-query", "month: it hasn't begun"));
    };
    let (slots, supplier) = (first.start..last.end, caller.supplier.clone());
    let sums = app
        .store
        .read::<_, ApiError, _>(move |connection| {
            read(connection, &subject, supplier.as_deref(), slots)
        })
        .await?;
    let bill = terms.bill(&days, &sums, now);
    Ok(match written.format {
        Format::Json => Json(bill).into_response(),
        Format::Csv => csv(
            "date,percentile_bps,peak_bps,missing",
            bill.days.iter().map(|day| {
                let number =
                    |number: Option<u64>| number.map_or_else(String::new, |n| n.to_string());
                let percentile = number(day.percentile.as_ref().map(|figure| figure.bps));
                format!(
                    "{},{percentile},{},{}",
                    day.date,
                    number(day.peak_bps),
                    day.missing
                )
            }),
        ),
    })
}

/// Whose traffic was counted, by name.
#[utoipa::path(get, path = "/v1/traffic/subjects", tag = "traffic", params(Which, PageQuery),
    security(("token" = ["traffic:read"])), responses((status = 200, body = Page<Counted>)))]
async fn subjects(
    caller: Need<scope_type::TrafficRead>,
    State(app): State<App>,
    Query(which): Query<Which>,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<Counted>>, ApiError> {
    if caller.supplier.is_some() {
        return Err(ApiError::forbidden(
            "operators-only",
            "this is for the operator's people, not for a supplier's",
        ));
    }
    let (limit, after) = (page.limit()?, page.cursor()?.unwrap_or_default());
    // A name may be there in both kinds.
    let (name, kind) = match after.rsplit_once(' ') {
        Some((name, kind)) => (name.to_owned(), kind.to_owned()),
        None => (String::new(), String::new()),
    };
    let items = app
        .store
        .read::<_, ApiError, _>(move |connection| {
            let mut found = connection.prepare_cached(
                "SELECT name, kind FROM traffic_series WHERE dimension = ?1 AND (name, kind) > (?2, ?3)
                 ORDER BY name, kind LIMIT ?4",
            )?;
            let most = i64::try_from(limit + 1).unwrap_or(i64::MAX);
            let rows = found.query_map(params![which.dimension.as_str(), name, kind, most], |row| {
                Ok(Counted {
                    name: row.get(0)?,
                    kind: row.get(1)?,
                })
            })?;
            Ok(rows.collect::<Result<Vec<_>, _>>()?)
        })
        .await?;
    Ok(Json(Page::cut(items, limit, |it| {
        format!("{} {}", it.name, it.kind)
    })))
}

/// What came of a device's records: chains, gaps, and what can't be right.
#[utoipa::path(get, path = "/v1/devices/{id}/traffic", tag = "traffic", params(("id" = String, Path)),
    security(("token" = ["traffic:read"])), responses((status = 200, body = Sent)))]
async fn records(
    caller: Need<scope_type::TrafficRead>,
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<Sent>, ApiError> {
    let supplier = caller.supplier.clone();
    let sent = app
        .store
        .read::<_, ApiError, _>(move |connection| {
            registry::get(connection, &id)?.ok_or_else(|| ApiError::no_device(&id))?;
            // Records name customers.
            if supplier.is_some() {
                return Err(ApiError::no_device(&id));
            }
            Ok(chains::sent(connection, &id)?)
        })
        .await?;
    Ok(Json(sent))
}
