//! `/v1/stream`: groups, and reading in them. A supplier's people have groups of their own, which see their devices only.

use std::collections::BTreeSet;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use cairn_fleet::Selector;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::Instant;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::engine::{Filter, Group, GroupError, GroupId, Groups as _, Start, Taken};
use super::event::{Event, Kind};
use crate::app::App;
use crate::people::{Caller, Need, audit, scope_type};
use crate::registry::is_label;
use crate::web::{ApiError, Body, Page, PageQuery, Path, Query};

/// Events of a batch if nobody says how many, and at most.
const USUAL: usize = 100;
const MOST: usize = 1000;
/// Seconds that a request waits if it doesn't say, and at most.
const WAIT: u64 = 20;
const LONGEST_WAIT: u64 = 30;
/// Seconds that a batch is its member's alone if nobody says, and at most.
const PATIENCE: i64 = 60;
const LONGEST_PATIENCE: i64 = 3600;
/// While much is stored that isn't for a group, it is looked at so often at most.
const PAUSE: Duration = Duration::from_millis(50);
/// Also without anything new, as another member's batch may have become free.
const LOOK: Duration = Duration::from_secs(1);

/// What a group wants.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewGroup {
    /// Events of which devices: `"all"` (if not said), `{"group": "…"}`, `{"tags": ["…"]}` or `{"devices": ["…"]}`.
    #[serde(default = "all")]
    #[schema(value_type = Object)]
    select: Selector,
    /// Of which kinds: `telemetry`, `attributes`, `connection`, `alarm`; all if not said.
    #[serde(default)]
    kinds: BTreeSet<Kind>,
    /// Where a new group begins: `now` (if not said), or with the `oldest` event that is kept.
    #[serde(default)]
    #[schema(value_type = String)]
    from: Start,
}

fn all() -> Selector {
    Selector::All
}

/// A group, and how far it is.
#[derive(Debug, Serialize, ToSchema)]
pub struct GroupView {
    /// Its name.
    name: String,
    /// Events of which devices.
    #[schema(value_type = Object)]
    select: Selector,
    /// Of which kinds.
    kinds: BTreeSet<Kind>,
    /// All before this offset is acknowledged.
    acknowledged: i64,
    /// Events of whatever kind and device from there to the end of the stream.
    behind: i64,
    /// Events of whatever kind and device that were gone before the group came to them.
    lost: i64,
    /// Members that have a batch which they haven't acknowledged.
    members: Vec<String>,
    /// When it was made, in seconds since 1970.
    created: i64,
    /// By whom.
    created_by: String,
}

impl From<Group> for GroupView {
    fn from(group: Group) -> Self {
        Self {
            name: group.name,
            select: group.filter.select,
            kinds: group.filter.kinds,
            acknowledged: group.acknowledged,
            behind: group.behind,
            lost: group.lost,
            members: group.members,
            created: group.created,
            created_by: group.created_by,
        }
    }
}

/// How to read.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Reading {
    /// Who of the group reads; `default` if not said.
    #[serde(default = "default")]
    member: String,
    /// At most so many events, up to 1000; 100 if not said.
    limit: Option<usize>,
    /// Seconds to wait for an event, up to 30; 20 if not said.
    wait: Option<u64>,
    /// After so many seconds without an acknowledgement another member is given the batch; 60 if not said, up to 3600.
    patience: Option<i64>,
}

fn default() -> String {
    "default".into()
}

/// Events to do something with and to acknowledge.
#[derive(Debug, Serialize, ToSchema)]
pub struct Batch {
    /// The events, in order.
    events: Vec<Event>,
    /// What to acknowledge; none: nothing came, and there is nothing to acknowledge.
    next: Option<i64>,
    /// So many events, of whatever kind and device, were gone before the group came to them.
    lost: i64,
}

/// What was done.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Acknowledgement {
    /// Who of the group did it; `default` if not said.
    #[serde(default = "default")]
    member: String,
    /// `next` of the batch.
    next: i64,
}

/// The routes with their descriptions.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(show, put, remove))
        .routes(routes!(read))
        .routes(routes!(acknowledge))
}

impl From<GroupError> for ApiError {
    fn from(error: GroupError) -> Self {
        match error {
            GroupError::None => Self::not_found("such stream group"),
            GroupError::TooManyGroups(_) | GroupError::TooManyMembers(_) => {
                Self::conflict("too-many", error.to_string())
            }
            GroupError::Store(error) => error.into(),
        }
    }
}

fn id(caller: &Caller, name: String) -> Result<GroupId, ApiError> {
    if !is_label(&name) {
        return Err(ApiError::bad(
            "bad-name",
            "expected as a group's name 1 to 64 of A-Za-z0-9._-",
        ));
    }
    Ok(GroupId {
        supplier: caller.supplier.clone(),
        name,
    })
}

fn member(name: &str) -> Result<(), ApiError> {
    match is_label(name) {
        true => Ok(()),
        false => Err(ApiError::bad(
            "bad-member",
            "member: expected 1 to 64 of A-Za-z0-9._-",
        )),
    }
}

fn now_ms() -> i64 {
    crate::devices::now_ms()
}

fn missing(id: &GroupId) -> ApiError {
    ApiError::not_found(format!("stream group {:?}", id.name))
}

/// The stream's groups by name, and how far each is.
#[utoipa::path(get, path = "/v1/stream/groups", tag = "stream", params(PageQuery),
    security(("token" = ["stream:read"])), responses((status = 200, body = Page<GroupView>)))]
async fn list(
    caller: Need<scope_type::StreamRead>,
    State(app): State<App>,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<GroupView>>, ApiError> {
    let (limit, after) = (page.limit()?, page.cursor()?.unwrap_or_default());
    let supplier = caller.supplier.clone();
    let groups = app
        .store
        .read::<_, ApiError, _>(move |c| Ok(c.list(supplier.as_deref(), &after, limit + 1)?))
        .await?;
    let groups = groups.into_iter().map(GroupView::from).collect();
    Ok(Json(Page::cut(groups, limit, |group| group.name.clone())))
}

/// A group, and how far it is.
#[utoipa::path(get, path = "/v1/stream/groups/{name}", tag = "stream", params(("name" = String, Path)),
    security(("token" = ["stream:read"])), responses((status = 200, body = GroupView)))]
async fn show(
    caller: Need<scope_type::StreamRead>,
    State(app): State<App>,
    Path(name): Path<String>,
) -> Result<Json<GroupView>, ApiError> {
    let id = id(&caller, name)?;
    let found = app
        .store
        .read::<_, ApiError, _>(move |c| c.show(&id)?.ok_or_else(|| missing(&id)))
        .await?;
    Ok(Json(found.into()))
}

/// Makes a group, or gives it another filter; by a new filter everything that isn't acknowledged is given again.
#[utoipa::path(put, path = "/v1/stream/groups/{name}", tag = "stream", params(("name" = String, Path)), request_body = NewGroup,
    security(("token" = ["stream:write"])), responses((status = 200, body = GroupView)))]
async fn put(
    caller: Need<scope_type::StreamWrite>,
    State(app): State<App>,
    Path(name): Path<String>,
    Body(new): Body<NewGroup>,
) -> Result<Json<GroupView>, ApiError> {
    let id = id(&caller, name)?;
    new.select
        .check()
        .map_err(|error| ApiError::bad("bad-select", error.to_string()))?;
    let filter = Filter {
        select: new.select,
        kinds: match new.kinds.is_empty() {
            true => Kind::ALL.into_iter().collect(),
            false => new.kinds,
        },
    };
    let who = caller.who();
    let group = app
        .store
        .write::<_, ApiError, _>(move |tx| {
            tx.put(&id, &filter, new.from, &who, now_ms())?;
            let subject = format!("stream-group/{}", id.name);
            audit(tx, &who, "stream-group.set", &subject, &json!(filter))?;
            tx.show(&id)?.ok_or_else(|| missing(&id))
        })
        .await?;
    Ok(Json(group.into()))
}

/// Forgets a group, and how far it was.
#[utoipa::path(delete, path = "/v1/stream/groups/{name}", tag = "stream", params(("name" = String, Path)),
    security(("token" = ["stream:write"])), responses((status = 204)))]
async fn remove(
    caller: Need<scope_type::StreamWrite>,
    State(app): State<App>,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiError> {
    let id = id(&caller, name)?;
    app.store
        .write::<_, ApiError, _>(move |tx| {
            if !tx.remove(&id)? {
                return Err(missing(&id));
            }
            let subject = format!("stream-group/{}", id.name);
            audit(
                tx,
                &caller.who(),
                "stream-group.remove",
                &subject,
                &json!({}),
            )?;
            Ok(StatusCode::NO_CONTENT)
        })
        .await
}

/// Gives a member of a group its next events, as soon as there are some; the same again until it has acknowledged them.
#[utoipa::path(post, path = "/v1/stream/groups/{name}/read", tag = "stream", params(("name" = String, Path)), request_body = Reading,
    security(("token" = ["stream:write"])), responses((status = 200, body = Batch)))]
async fn read(
    caller: Need<scope_type::StreamWrite>,
    State(app): State<App>,
    Path(name): Path<String>,
    Body(reading): Body<Reading>,
) -> Result<Json<Batch>, ApiError> {
    let id = id(&caller, name)?;
    member(&reading.member)?;
    let limit = reading.limit.unwrap_or(USUAL);
    let wait = reading.wait.unwrap_or(WAIT);
    let patience = reading.patience.unwrap_or(PATIENCE);
    let bad = |what: &str| ApiError::bad("bad-body", what.to_owned());
    if !(1..=MOST).contains(&limit) {
        return Err(bad(&format!("limit: expected 1 to {MOST}")));
    }
    if wait > LONGEST_WAIT {
        return Err(bad(&format!("wait: expected at most {LONGEST_WAIT}")));
    }
    if !(1..=LONGEST_PATIENCE).contains(&patience) {
        return Err(bad(&format!("patience: expected 1 to {LONGEST_PATIENCE}")));
    }
    let end = Instant::now() + Duration::from_secs(wait);
    let mut changes = app.store.changes();
    loop {
        changes.mark_unchanged();
        match look(&app, id.clone(), reading.member.clone(), limit, patience).await? {
            Taken::Batch(batch) => {
                return Ok(Json(Batch {
                    events: batch.events,
                    next: Some(batch.next),
                    lost: batch.lost,
                }));
            }
            Taken::GoOn => continue,
            Taken::Nothing => {}
        }
        if Instant::now() >= end {
            return Ok(Json(Batch {
                events: Vec::new(),
                next: None,
                lost: 0,
            }));
        }
        tokio::time::sleep(PAUSE).await;
        let until = end.min(Instant::now() + LOOK);
        // Nobody changes anything any more when the database is closed; the next look says so.
        let _ = tokio::time::timeout_at(until, changes.changed()).await;
    }
}

/// Takes what there is. Nothing is written when there is nothing.
async fn look(
    app: &App,
    id: GroupId,
    member: String,
    limit: usize,
    patience: i64,
) -> Result<Taken, ApiError> {
    let (same, who) = (id.clone(), member.clone());
    let ready = app
        .store
        .read::<_, GroupError, _>(move |c| c.ready(&same, &who, now_ms()))
        .await?;
    if !ready {
        return Ok(Taken::Nothing);
    }
    let taken = app
        .store
        .write::<_, GroupError, _>(move |tx| {
            let now = now_ms();
            tx.take(&id, &member, limit, now, now + patience * 1000)
        })
        .await?;
    Ok(taken)
}

/// Says that a batch is done; then the member is given the next.
#[utoipa::path(post, path = "/v1/stream/groups/{name}/ack", tag = "stream", params(("name" = String, Path)), request_body = Acknowledgement,
    security(("token" = ["stream:write"])), responses((status = 204)))]
async fn acknowledge(
    caller: Need<scope_type::StreamWrite>,
    State(app): State<App>,
    Path(name): Path<String>,
    Body(done): Body<Acknowledgement>,
) -> Result<StatusCode, ApiError> {
    let id = id(&caller, name)?;
    member(&done.member)?;
    app.store
        .write::<_, ApiError, _>(move |tx| {
            tx.show(&id)?.ok_or_else(|| missing(&id))?;
            match tx.acknowledge(&id, &done.member, done.next)? {
                true => Ok(StatusCode::NO_CONTENT),
                false => Err(ApiError::conflict(
                    "no-such-batch",
                    format!(
                        "{:?} has no batch up to {}: it was acknowledged before, or given to another member",
                        done.member, done.next
                    ),
                )),
            }
        })
        .await
}
