//! `/v1/alarms`, `/v1/alarm-templates`, `/v1/alarm-channels`, `/v1/alarm-silences`.
//!
//! A supplier's people reach the first only, and there what is of their devices. Templates, channels and silences are the operator's.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use cairn_alarm::{Silence, Status, Template};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::message::Facts;
use super::view::{self, AlarmDetails, AlarmView, SilenceView, Wanted};
use super::{channel, manage, now_ms, send};
use crate::app::App;
use crate::people::{Caller, Need, scope_type};
use crate::web::{ApiError, Body, Page, PageQuery, Path, Query, read};

/// Longest silence, in seconds.
const LONGEST_SILENCE: i64 = 366 * 86_400;

/// Which alarms.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Filter {
    /// Only those that are `pending`, `firing`, `acknowledged` or `resolved`; several with commas between.
    status: Option<String>,
    /// Only of this device.
    device: Option<String>,
    /// Only of this template.
    template: Option<String>,
    /// Only those that are `info`, `warning` or `critical`.
    severity: Option<String>,
    /// Only of this supplier's devices.
    supplier: Option<String>,
}

/// A new silence.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewSilence {
    /// Which devices, as in a rollout.
    #[schema(value_type = Object)]
    select: cairn_alarm::Selector,
    /// Of these templates; none named: of all.
    #[serde(default)]
    templates: std::collections::BTreeSet<String>,
    /// From when, in seconds since 1970; now if not said.
    from: Option<i64>,
    /// Until when, in seconds since 1970.
    until: i64,
    /// What for.
    #[serde(default)]
    note: String,
}

/// What became of a test.
#[derive(Debug, Serialize, ToSchema)]
pub struct Tested {
    /// Always true; a failure is an error with its reason.
    sent: bool,
}

/// The routes with their descriptions.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(show))
        .routes(routes!(acknowledge))
        .routes(routes!(templates))
        .routes(routes!(template, put_template, remove_template))
        .routes(routes!(channels))
        .routes(routes!(channel, put_channel, remove_channel))
        .routes(routes!(test_channel))
        .routes(routes!(silences, add_silence))
        .routes(routes!(remove_silence))
}

/// Templates, channels and silences say how the operator works, and whom he tells.
fn operators_only(caller: &Caller) -> Result<(), ApiError> {
    match &caller.supplier {
        None => Ok(()),
        Some(_) => Err(ApiError::forbidden(
            "operators-only",
            "this is for the operator's people, not for a supplier's",
        )),
    }
}

fn number(cursor: Option<String>) -> Result<Option<i64>, ApiError> {
    cursor
        .map(|cursor| cursor.parse().map_err(|_| PageQuery::bad_cursor()))
        .transpose()
}

fn one_of(field: &str, value: &str, known: &[&str]) -> Result<(), ApiError> {
    if known.contains(&value) {
        return Ok(());
    }
    Err(ApiError::bad(
        "bad-query",
        format!("{field}: expected one of {}", known.join(", ")),
    ))
}

/// Alarms, the newest first.
#[utoipa::path(get, path = "/v1/alarms", tag = "alarms", params(Filter, PageQuery),
    security(("token" = ["alarms:read"])), responses((status = 200, body = Page<AlarmView>)))]
async fn list(
    caller: Need<scope_type::AlarmsRead>,
    State(app): State<App>,
    Query(filter): Query<Filter>,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<AlarmView>>, ApiError> {
    let limit = page.limit()?;
    let statuses: Vec<String> = filter
        .status
        .iter()
        .flat_map(|text| text.split(','))
        .map(str::to_owned)
        .collect();
    for status in &statuses {
        one_of("status", status, &Status::ALL.map(Status::as_str))?;
    }
    if let Some(severity) = &filter.severity {
        one_of("severity", severity, &manage::SEVERITIES)?;
    }
    let wanted = Wanted {
        statuses,
        device: filter.device,
        template: filter.template,
        severity: filter.severity,
        // A supplier's people see their own, whatever they ask for.
        supplier: caller.supplier.clone().or(filter.supplier),
        before: number(page.cursor()?)?,
        limit: limit + 1,
    };
    let items = app
        .store
        .read::<_, ApiError, _>(move |connection| Ok(view::list(connection, &wanted)?))
        .await?;
    Ok(Json(Page::cut(items, limit, |alarm| alarm.id.to_string())))
}

async fn details(
    app: &App,
    id: i64,
    supplier: Option<String>,
) -> Result<Json<AlarmDetails>, ApiError> {
    app.store
        .read::<_, ApiError, _>(move |connection| {
            view::show(connection, id, supplier.as_deref())?
                .map(Json)
                .ok_or_else(|| ApiError::not_found(format!("alarm {id}")))
        })
        .await
}

/// One alarm, with its history and who was told.
#[utoipa::path(get, path = "/v1/alarms/{id}", tag = "alarms", params(("id" = i64, Path)),
    security(("token" = ["alarms:read"])), responses((status = 200, body = AlarmDetails)))]
async fn show(
    caller: Need<scope_type::AlarmsRead>,
    State(app): State<App>,
    Path(id): Path<i64>,
) -> Result<Json<AlarmDetails>, ApiError> {
    details(&app, id, caller.supplier.clone()).await
}

/// Somebody has seen it: it escalates no more.
#[utoipa::path(post, path = "/v1/alarms/{id}/acknowledge", tag = "alarms", params(("id" = i64, Path)),
    security(("token" = ["alarms:ack"])), responses((status = 200, body = AlarmDetails)))]
async fn acknowledge(
    caller: Need<scope_type::AlarmsAck>,
    State(app): State<App>,
    Path(id): Path<i64>,
) -> Result<Json<AlarmDetails>, ApiError> {
    let (who, supplier) = (caller.who(), caller.supplier.clone());
    app.store
        .write(move |tx| manage::acknowledge(tx, &who, id, supplier.as_deref()))
        .await?;
    details(&app, id, caller.supplier.clone()).await
}

/// Templates by name.
#[utoipa::path(get, path = "/v1/alarm-templates", tag = "alarms", params(PageQuery),
    security(("token" = ["alarms:read"])), responses((status = 200, body = Page<Object>)))]
async fn templates(
    caller: Need<scope_type::AlarmsRead>,
    State(app): State<App>,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<Template>>, ApiError> {
    operators_only(&caller)?;
    let (limit, after) = (page.limit()?, page.cursor()?.unwrap_or_default());
    let items = app
        .store
        .read::<_, ApiError, _>(move |c| Ok(view::templates(c, &after, limit + 1)?))
        .await?;
    Ok(Json(Page::cut(items, limit, |template| {
        template.name.clone()
    })))
}

/// One template.
#[utoipa::path(get, path = "/v1/alarm-templates/{name}", tag = "alarms", params(("name" = String, Path)),
    security(("token" = ["alarms:read"])), responses((status = 200, body = Object)))]
async fn template(
    caller: Need<scope_type::AlarmsRead>,
    State(app): State<App>,
    Path(name): Path<String>,
) -> Result<Json<Template>, ApiError> {
    operators_only(&caller)?;
    app.store
        .read::<_, ApiError, _>(move |connection| {
            manage::template_rule(connection, &name)?
                .map(Json)
                .ok_or_else(|| ApiError::none_named("alarm template", &name))
        })
        .await
}

/// The body with the path's name in it.
fn named(mut body: Value, name: &str) -> Result<Value, ApiError> {
    let Some(fields) = body.as_object_mut() else {
        return Err(ApiError::bad("bad-body", "expected an object"));
    };
    if fields.get("name").is_some_and(|said| said != name) {
        return Err(ApiError::bad("bad-body", "name: expected the path's"));
    }
    fields.insert("name".into(), name.into());
    Ok(body)
}

/// Makes a template, or replaces it. If it looks at something else than before, what it has begun is withdrawn.
#[utoipa::path(put, path = "/v1/alarm-templates/{name}", tag = "alarms", params(("name" = String, Path)), request_body = Object,
    security(("token" = ["alarms:write"])), responses((status = 200, body = Object)))]
async fn put_template(
    caller: Need<scope_type::AlarmsWrite>,
    State(app): State<App>,
    Path(name): Path<String>,
    Body(body): Body<Value>,
) -> Result<Json<Template>, ApiError> {
    let template: Template =
        read(named(body, &name)?).map_err(|error| ApiError::bad("bad-template", error))?;
    let who = caller.who();
    let template = app
        .store
        .write::<_, ApiError, _>(move |tx| {
            manage::put_template(tx, &who, &template)?;
            Ok(template)
        })
        .await?;
    Ok(Json(template))
}

/// Removes a template; what it has begun is withdrawn.
#[utoipa::path(delete, path = "/v1/alarm-templates/{name}", tag = "alarms", params(("name" = String, Path)),
    security(("token" = ["alarms:write"])), responses((status = 204)))]
async fn remove_template(
    caller: Need<scope_type::AlarmsWrite>,
    State(app): State<App>,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiError> {
    app.store
        .write::<_, ApiError, _>(move |tx| {
            match manage::remove_template(tx, &caller.who(), &name)? {
                true => Ok(StatusCode::NO_CONTENT),
                false => Err(ApiError::none_named("alarm template", &name)),
            }
        })
        .await
}

/// Channels by name; secrets are shown as `(set)`.
#[utoipa::path(get, path = "/v1/alarm-channels", tag = "alarms", params(PageQuery),
    security(("token" = ["alarms:read"])), responses((status = 200, body = Page<Object>)))]
async fn channels(
    caller: Need<scope_type::AlarmsRead>,
    State(app): State<App>,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<Value>>, ApiError> {
    operators_only(&caller)?;
    let (limit, after) = (page.limit()?, page.cursor()?.unwrap_or_default());
    let items = app
        .store
        .read::<_, ApiError, _>(move |c| Ok(view::channels(c, &after, limit + 1)?))
        .await?;
    Ok(Json(Page::cut(items, limit, |channel| {
        channel["name"].as_str().unwrap_or_default().to_owned()
    })))
}

async fn one_channel(app: &App, name: String) -> Result<channel::Channel, ApiError> {
    app.store
        .read::<_, ApiError, _>(move |connection| {
            let settings = manage::settings(connection, &name)?
                .ok_or_else(|| ApiError::none_named("alarm channel", &name))?;
            serde_json::from_value(settings)
                .map_err(|_| ApiError::internal("a channel's settings can't be read"))
        })
        .await
}

/// One channel; secrets are shown as `(set)`.
#[utoipa::path(get, path = "/v1/alarm-channels/{name}", tag = "alarms", params(("name" = String, Path)),
    security(("token" = ["alarms:read"])), responses((status = 200, body = Object)))]
async fn channel(
    caller: Need<scope_type::AlarmsRead>,
    State(app): State<App>,
    Path(name): Path<String>,
) -> Result<Json<Value>, ApiError> {
    operators_only(&caller)?;
    Ok(Json(channel::shown(&one_channel(&app, name).await?)))
}

/// Makes a channel, or replaces it; `(set)` keeps the secret that is there.
#[utoipa::path(put, path = "/v1/alarm-channels/{name}", tag = "alarms", params(("name" = String, Path)), request_body = Object,
    security(("token" = ["alarms:write"])), responses((status = 200, body = Object)))]
async fn put_channel(
    caller: Need<scope_type::AlarmsWrite>,
    State(app): State<App>,
    Path(name): Path<String>,
    Body(body): Body<Value>,
) -> Result<Json<Value>, ApiError> {
    let wanted = named(body, &name)?;
    let channel = app
        .store
        .write::<_, ApiError, _>(move |tx| manage::put_channel(tx, &caller.who(), &name, wanted))
        .await?;
    Ok(Json(channel::shown(&channel)))
}

/// Removes a channel that no template names; what waits for it is given up.
#[utoipa::path(delete, path = "/v1/alarm-channels/{name}", tag = "alarms", params(("name" = String, Path)),
    security(("token" = ["alarms:write"])), responses((status = 204)))]
async fn remove_channel(
    caller: Need<scope_type::AlarmsWrite>,
    State(app): State<App>,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiError> {
    app.store
        .write::<_, ApiError, _>(move |tx| {
            match manage::remove_channel(tx, &caller.who(), &name)? {
                true => Ok(StatusCode::NO_CONTENT),
                false => Err(ApiError::none_named("alarm channel", &name)),
            }
        })
        .await
}

/// Sends a test message to a channel, and says what became of it.
#[utoipa::path(post, path = "/v1/alarm-channels/{name}/test", tag = "alarms", params(("name" = String, Path)),
    security(("token" = ["alarms:write"])), responses((status = 200, body = Tested), (status = 502, description = "it wasn't taken")))]
async fn test_channel(
    _: Need<scope_type::AlarmsWrite>,
    State(app): State<App>,
    Path(name): Path<String>,
) -> Result<Json<Tested>, ApiError> {
    let channel = one_channel(&app, name).await?;
    let now = now_ms();
    let key = format!("test-{now}-{}", channel.name);
    let sent = match send::http() {
        Ok(http) => send::send(&http, &channel, &key, &Facts::sample(now / 1000)).await,
        Err(reason) => Err(reason),
    };
    sent.map_err(|reason| ApiError::new(StatusCode::BAD_GATEWAY, "channel-failed", reason))?;
    Ok(Json(Tested { sent: true }))
}

/// Silences, the newest first.
#[utoipa::path(get, path = "/v1/alarm-silences", tag = "alarms", params(PageQuery),
    security(("token" = ["alarms:read"])), responses((status = 200, body = Page<SilenceView>)))]
async fn silences(
    caller: Need<scope_type::AlarmsRead>,
    State(app): State<App>,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<SilenceView>>, ApiError> {
    operators_only(&caller)?;
    let (limit, before) = (page.limit()?, number(page.cursor()?)?);
    let items = app
        .store
        .read::<_, ApiError, _>(move |c| Ok(view::silences(c, before, limit + 1)?))
        .await?;
    Ok(Json(Page::cut(items, limit, |silence| {
        silence.id.to_string()
    })))
}

/// Silences alarms: they go on, and nobody is told before its end.
#[utoipa::path(post, path = "/v1/alarm-silences", tag = "alarms", request_body = NewSilence,
    security(("token" = ["alarms:write"])), responses((status = 201, body = SilenceView)))]
async fn add_silence(
    caller: Need<scope_type::AlarmsWrite>,
    State(app): State<App>,
    Body(new): Body<NewSilence>,
) -> Result<(StatusCode, Json<SilenceView>), ApiError> {
    let now = now_ms() / 1000;
    let from = new.from.unwrap_or(now);
    let bad = |text: String| Err(ApiError::bad("bad-silence", text));
    if new.until <= now || new.until <= from || new.until - from > LONGEST_SILENCE {
        return bad("until: expected a moment to come, after from and within a year".into());
    }
    if new.note.len() > 512 || new.note.chars().any(char::is_control) {
        return bad("note: expected one line of at most 512 bytes".into());
    }
    if new.templates.len() > 100 {
        return bad("templates: expected at most 100".into());
    }
    let silence = Silence {
        select: new.select,
        templates: new.templates,
        from,
        until: new.until,
    };
    let who = caller.who();
    let made = app
        .store
        .write::<_, ApiError, _>(move |tx| {
            let id = manage::add_silence(tx, &who, &silence, &new.note)?;
            view::silences(tx, Some(id + 1), 1)?
                .pop()
                .ok_or_else(|| ApiError::internal("a new silence isn't there"))
        })
        .await?;
    Ok((StatusCode::CREATED, Json(made)))
}

/// Ends a silence; who fires still is told of now.
#[utoipa::path(delete, path = "/v1/alarm-silences/{id}", tag = "alarms", params(("id" = i64, Path)),
    security(("token" = ["alarms:write"])), responses((status = 204)))]
async fn remove_silence(
    caller: Need<scope_type::AlarmsWrite>,
    State(app): State<App>,
    Path(id): Path<i64>,
) -> Result<StatusCode, ApiError> {
    app.store
        .write::<_, ApiError, _>(
            move |tx| match manage::remove_silence(tx, &caller.who(), id)? {
                true => Ok(StatusCode::NO_CONTENT),
                false => Err(ApiError::not_found(format!("alarm silence {id}"))),
            },
        )
        .await
}
