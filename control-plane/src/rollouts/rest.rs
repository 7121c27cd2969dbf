//! `/v1/rollouts`.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use cairn_rollout::{DeviceState, Status};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::create::NewRollout;
use super::steer::Command;
use super::view::{self, DeviceView, RolloutView, TimelineEvent};
use crate::app::App;
use crate::people::{Need, scope_type};
use crate::web::{ApiError, Body, Page, PageQuery, Path, Query};

/// Which rollouts.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Filter {
    /// Only those that are `draft`, `running`, `paused`, `halted`, `finished` or `aborted`.
    status: Option<String>,
}

/// Which devices of a rollout.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct DeviceFilter {
    /// Only those in this state, as `failed`.
    #[param(value_type = Option<String>)]
    state: Option<DeviceState>,
}

/// The routes with their descriptions.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(show))
        .routes(routes!(devices))
        .routes(routes!(timeline))
        .routes(routes!(start))
        .routes(routes!(pause))
        .routes(routes!(resume))
        .routes(routes!(abort))
}

async fn one(app: &App, id: i64) -> Result<RolloutView, ApiError> {
    let found = app
        .store
        .read::<_, ApiError, _>(move |connection| Ok(view::show(connection, id)?))
        .await?;
    found.ok_or_else(|| missing(id))
}

fn missing(id: i64) -> ApiError {
    ApiError::not_found(format!("rollout {id}"))
}

fn number(cursor: Option<String>) -> Result<Option<i64>, ApiError> {
    cursor
        .map(|cursor| cursor.parse().map_err(|_| PageQuery::bad_cursor()))
        .transpose()
}

/// Rollouts, the newest first.
#[utoipa::path(get, path = "/v1/rollouts", tag = "rollouts", params(Filter, PageQuery),
    security(("token" = ["rollouts:read"])), responses((status = 200, body = Page<RolloutView>)))]
async fn list(
    _: Need<scope_type::RolloutsRead>,
    State(app): State<App>,
    Query(filter): Query<Filter>,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<RolloutView>>, ApiError> {
    if let Some(status) = &filter.status
        && !Status::NAMES.contains(&status.as_str())
    {
        return Err(ApiError::bad(
            "bad-query",
            format!("status: expected one of {}", Status::NAMES.join(", ")),
        ));
    }
    let (limit, before) = (page.limit()?, number(page.cursor()?)?);
    let items = app
        .store
        .read::<_, ApiError, _>(move |c| {
            Ok(view::list(c, filter.status.as_deref(), before, limit + 1)?)
        })
        .await?;
    Ok(Json(Page::cut(items, limit, |rollout| {
        rollout.id.to_string()
    })))
}

/// Makes a rollout.
#[utoipa::path(post, path = "/v1/rollouts", tag = "rollouts", request_body = NewRollout,
    security(("token" = ["rollouts:write"])), responses((status = 201, body = RolloutView)))]
async fn create(
    caller: Need<scope_type::RolloutsWrite>,
    State(app): State<App>,
    Body(new): Body<NewRollout>,
) -> Result<(StatusCode, Json<RolloutView>), ApiError> {
    let (id, hints) = app
        .rollouts
        .create(&app.releases, new, caller.who())
        .await?;
    let view = RolloutView {
        hints,
        ..one(&app, id).await?
    };
    Ok((StatusCode::CREATED, Json(view)))
}

/// One rollout.
#[utoipa::path(get, path = "/v1/rollouts/{id}", tag = "rollouts", params(("id" = i64, Path)),
    security(("token" = ["rollouts:read"])), responses((status = 200, body = RolloutView)))]
async fn show(
    _: Need<scope_type::RolloutsRead>,
    State(app): State<App>,
    Path(id): Path<i64>,
) -> Result<Json<RolloutView>, ApiError> {
    Ok(Json(one(&app, id).await?))
}

/// The devices of a rollout that have a slot, by id.
#[utoipa::path(get, path = "/v1/rollouts/{id}/devices", tag = "rollouts", params(("id" = i64, Path), DeviceFilter, PageQuery),
    security(("token" = ["rollouts:read"])), responses((status = 200, body = Page<DeviceView>)))]
async fn devices(
    _: Need<scope_type::RolloutsRead>,
    State(app): State<App>,
    Path(id): Path<i64>,
    Query(filter): Query<DeviceFilter>,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<DeviceView>>, ApiError> {
    let (limit, after) = (page.limit()?, page.cursor()?.unwrap_or_default());
    let items = app
        .store
        .read::<_, ApiError, _>(move |c| {
            view::show(c, id)?.ok_or_else(|| missing(id))?;
            Ok(view::devices(c, id, filter.state, &after, limit + 1)?)
        })
        .await?;
    Ok(Json(Page::cut(items, limit, |device| {
        device.device.clone()
    })))
}

/// What happened to a rollout as a whole, the newest first. What happened to a device is at `/v1/devices/{id}/timeline`.
#[utoipa::path(get, path = "/v1/rollouts/{id}/timeline", tag = "rollouts", params(("id" = i64, Path), PageQuery),
    security(("token" = ["rollouts:read"])), responses((status = 200, body = Page<TimelineEvent>)))]
async fn timeline(
    _: Need<scope_type::RolloutsRead>,
    State(app): State<App>,
    Path(id): Path<i64>,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<TimelineEvent>>, ApiError> {
    let (limit, before) = (page.limit()?, number(page.cursor()?)?);
    let items = app
        .store
        .read::<_, ApiError, _>(move |c| {
            view::show(c, id)?.ok_or_else(|| missing(id))?;
            Ok(view::timeline(
                c,
                &view::Timeline::Rollout(id),
                before,
                limit + 1,
            )?)
        })
        .await?;
    Ok(Json(Page::cut(items, limit, |event| event.id.to_string())))
}

async fn steer(
    caller: &Need<scope_type::RolloutsWrite>,
    app: &App,
    id: i64,
    command: Command,
) -> Result<Json<RolloutView>, ApiError> {
    app.rollouts.steer(id, command, caller.who()).await?;
    Ok(Json(one(app, id).await?))
}

/// Starts it: from now on devices that match get the order, wave by wave.
#[utoipa::path(post, path = "/v1/rollouts/{id}/start", tag = "rollouts", params(("id" = i64, Path)),
    security(("token" = ["rollouts:write"])), responses((status = 200, body = RolloutView)))]
async fn start(
    caller: Need<scope_type::RolloutsWrite>,
    State(app): State<App>,
    Path(id): Path<i64>,
) -> Result<Json<RolloutView>, ApiError> {
    steer(&caller, &app, id, Command::Start).await
}

/// Pauses it: no device gets the order any more; those that have it go on.
#[utoipa::path(post, path = "/v1/rollouts/{id}/pause", tag = "rollouts", params(("id" = i64, Path)),
    security(("token" = ["rollouts:write"])), responses((status = 200, body = RolloutView)))]
async fn pause(
    caller: Need<scope_type::RolloutsWrite>,
    State(app): State<App>,
    Path(id): Path<i64>,
) -> Result<Json<RolloutView>, ApiError> {
    steer(&caller, &app, id, Command::Pause).await
}

/// Lets it go on, after a pause or a halt. Failures up to now don't count against it any more.
#[utoipa::path(post, path = "/v1/rollouts/{id}/resume", tag = "rollouts", params(("id" = i64, Path)),
    security(("token" = ["rollouts:write"])), responses((status = 200, body = RolloutView)))]
async fn resume(
    caller: Need<scope_type::RolloutsWrite>,
    State(app): State<App>,
    Path(id): Path<i64>,
) -> Result<Json<RolloutView>, ApiError> {
    steer(&caller, &app, id, Command::Resume).await
}

/// Ends it for good, and takes the order back from all devices that haven't armed.
#[utoipa::path(post, path = "/v1/rollouts/{id}/abort", tag = "rollouts", params(("id" = i64, Path)),
    security(("token" = ["rollouts:write"])), responses((status = 200, body = RolloutView)))]
async fn abort(
    caller: Need<scope_type::RolloutsWrite>,
    State(app): State<App>,
    Path(id): Path<i64>,
) -> Result<Json<RolloutView>, ApiError> {
    steer(&caller, &app, id, Command::Abort).await
}
