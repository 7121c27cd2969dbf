//! `/v1/workloads`, and `/v1/devices/{id}/workloads`.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use cairn_wire::workload::{Login, Registry, Secret};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::declare::{self, Declaration, MAX};
use super::logins::{self, LoginView};
use super::view::{self, PlaceView, WorkloadView};
use crate::app::App;
use crate::people::{Need, audit, now, scope_type};
use crate::registry;
use crate::web::{ApiError, Body, Page, PageQuery, Path, Query};

/// The routes with their descriptions.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(show, set, remove))
        .routes(routes!(declaration))
        .routes(routes!(places))
        .routes(routes!(of_device))
        .routes(routes!(list_logins))
        .routes(routes!(set_login, remove_login))
}

/// A user of a registry.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewLogin {
    /// The user.
    user: String,
    /// The password, or a token that stands for one. Nobody is shown it again.
    #[schema(value_type = String)]
    password: Secret,
}

fn missing(name: &str) -> ApiError {
    ApiError::not_found(format!("workload {name:?}"))
}

/// Workloads by name.
#[utoipa::path(get, path = "/v1/workloads", tag = "workloads", params(PageQuery),
    security(("token" = ["workloads:read"])), responses((status = 200, body = Page<WorkloadView>)))]
async fn list(
    _: Need<scope_type::WorkloadsRead>,
    State(app): State<App>,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<WorkloadView>>, ApiError> {
    let (limit, after) = (page.limit()?, page.cursor()?.unwrap_or_default());
    let items = app
        .store
        .read::<_, ApiError, _>(move |c| Ok(view::list(c, &after, limit + 1)?))
        .await?;
    Ok(Json(Page::cut(items, limit, |it| it.name.clone())))
}

/// One workload.
#[utoipa::path(get, path = "/v1/workloads/{name}", tag = "workloads", params(("name" = String, Path)),
    security(("token" = ["workloads:read"])), responses((status = 200, body = WorkloadView)))]
async fn show(
    _: Need<scope_type::WorkloadsRead>,
    State(app): State<App>,
    Path(name): Path<String>,
) -> Result<Json<WorkloadView>, ApiError> {
    let found = app
        .store
        .read::<_, ApiError, _>(move |c| view::show(c, &name)?.ok_or_else(|| missing(&name)))
        .await?;
    Ok(Json(found))
}

/// A workload as it was declared, with the values of its environment: so it needs the right to change it.
#[utoipa::path(get, path = "/v1/workloads/{name}/declaration", tag = "workloads", params(("name" = String, Path)),
    security(("token" = ["workloads:write"])), responses((status = 200, body = Value)))]
async fn declaration(
    _: Need<scope_type::WorkloadsWrite>,
    State(app): State<App>,
    Path(name): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let found = app
        .store
        .read::<_, ApiError, _>(move |c| view::declaration(c, &name)?.ok_or_else(|| missing(&name)))
        .await?;
    Ok(Json(found))
}

/// Declares a workload: what runs, and in `place` where. Devices get it as the next plan says, within seconds.
#[utoipa::path(put, path = "/v1/workloads/{name}", tag = "workloads", params(("name" = String, Path)), request_body = Value,
    security(("token" = ["workloads:write"])), responses((status = 200, body = WorkloadView), (status = 201, body = WorkloadView)))]
async fn set(
    caller: Need<scope_type::WorkloadsWrite>,
    State(app): State<App>,
    Path(name): Path<String>,
    Body(body): Body<Value>,
) -> Result<(StatusCode, Json<WorkloadView>), ApiError> {
    let declaration =
        Declaration::read(&name, &body).map_err(|reason| ApiError::bad("bad-workload", reason))?;
    let (was_there, view) = app
        .store
        .write::<_, ApiError, _>(move |tx| {
            let Some(was_there) = declare::set(tx, &declaration, &caller.who(), now())? else {
                return Err(ApiError::conflict(
                    "too-many-workloads",
                    format!("a fleet has at most {MAX} workloads"),
                ));
            };
            // Its environment may hold a secret.
            let detail = json!({ "image": declaration.workload.image, "place": declaration.rule });
            audit(
                tx,
                &caller.who(),
                "workload.set",
                &format!("workload/{name}"),
                &detail,
            )?;
            let view = view::show(tx, &name)?.ok_or_else(|| missing(&name))?;
            Ok((was_there, view))
        })
        .await?;
    app.workloads.wake();
    let status = match was_there {
        true => StatusCode::OK,
        false => StatusCode::CREATED,
    };
    Ok((status, Json(view)))
}

/// Removes a workload from the fleet. Folders that it wrote to stay on the devices.
#[utoipa::path(delete, path = "/v1/workloads/{name}", tag = "workloads", params(("name" = String, Path)),
    security(("token" = ["workloads:write"])), responses((status = 204)))]
async fn remove(
    caller: Need<scope_type::WorkloadsWrite>,
    State(app): State<App>,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiError> {
    app.store
        .write::<_, ApiError, _>(move |tx| {
            if !declare::remove(tx, &name)? {
                return Err(missing(&name));
            }
            let what = format!("workload/{name}");
            Ok(audit(
                tx,
                &caller.who(),
                "workload.remove",
                &what,
                &json!({}),
            )?)
        })
        .await?;
    app.workloads.wake();
    Ok(StatusCode::NO_CONTENT)
}

/// Where a workload is, and where it was in the last 30 days; by device.
#[utoipa::path(get, path = "/v1/workloads/{name}/devices", tag = "workloads", params(("name" = String, Path), PageQuery),
    security(("token" = ["workloads:read"])), responses((status = 200, body = Page<PlaceView>)))]
async fn places(
    _: Need<scope_type::WorkloadsRead>,
    State(app): State<App>,
    Path(name): Path<String>,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<PlaceView>>, ApiError> {
    let (limit, after) = (page.limit()?, page.cursor()?.unwrap_or_default());
    let items = app
        .store
        .read::<_, ApiError, _>(move |c| {
            view::show(c, &name)?.ok_or_else(|| missing(&name))?;
            Ok(view::places(c, &name, &after, limit + 1)?)
        })
        .await?;
    Ok(Json(Page::cut(items, limit, |it| it.device.clone())))
}

/// The workloads of a device, at most 128, with what it said of them last.
#[utoipa::path(get, path = "/v1/devices/{id}/workloads", tag = "workloads", params(("id" = String, Path)),
    security(("token" = ["workloads:read"])), responses((status = 200, body = Vec<PlaceView>)))]
async fn of_device(
    _: Need<scope_type::WorkloadsRead>,
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<Vec<PlaceView>>, ApiError> {
    let found = app
        .store
        .read::<_, ApiError, _>(move |c| {
            registry::get(c, &id)?.ok_or_else(|| ApiError::no_device(&id))?;
            Ok(view::of_device(c, &id)?)
        })
        .await?;
    Ok(Json(found))
}

/// Users of registries that images come from; without their passwords.
#[utoipa::path(get, path = "/v1/registry-logins", tag = "workloads",
    security(("token" = ["workloads:read"])), responses((status = 200, body = Vec<LoginView>)))]
async fn list_logins(
    _: Need<scope_type::WorkloadsRead>,
    State(app): State<App>,
) -> Result<Json<Vec<LoginView>>, ApiError> {
    let found = app
        .store
        .read::<_, ApiError, _>(move |c| Ok(logins::list(c)?))
        .await?;
    Ok(Json(found))
}

/// Sets the user of a registry. Only devices that run an image from there are given it.
#[utoipa::path(put, path = "/v1/registry-logins/{registry}", tag = "workloads", params(("registry" = String, Path)), request_body = NewLogin,
    security(("token" = ["workloads:write"])), responses((status = 204)))]
async fn set_login(
    caller: Need<scope_type::WorkloadsWrite>,
    State(app): State<App>,
    Path(registry): Path<String>,
    Body(new): Body<NewLogin>,
) -> Result<StatusCode, ApiError> {
    let bad = |reason: String| ApiError::bad("bad-login", reason);
    let login = Login {
        registry: Registry::try_from(registry)
            .map_err(|error| bad(format!("registry: {error}")))?,
        user: new.user,
        password: new.password,
    };
    login.check().map_err(bad)?;
    app.store
        .write::<_, ApiError, _>(move |tx| {
            if !logins::set(tx, &login, &caller.who(), now())? {
                return Err(ApiError::conflict(
                    "too-many-logins",
                    format!("there may be {} registries", logins::MAX),
                ));
            }
            let what = format!("registry/{}", login.registry.as_str());
            let detail = json!({ "user": login.user });
            Ok(audit(
                tx,
                &caller.who(),
                "registry-login.set",
                &what,
                &detail,
            )?)
        })
        .await?;
    app.workloads.wake();
    Ok(StatusCode::NO_CONTENT)
}

/// Forgets the user of a registry.
#[utoipa::path(delete, path = "/v1/registry-logins/{registry}", tag = "workloads", params(("registry" = String, Path)),
    security(("token" = ["workloads:write"])), responses((status = 204)))]
async fn remove_login(
    caller: Need<scope_type::WorkloadsWrite>,
    State(app): State<App>,
    Path(registry): Path<String>,
) -> Result<StatusCode, ApiError> {
    app.store
        .write::<_, ApiError, _>(move |tx| {
            if !logins::remove(tx, &registry, now())? {
                return Err(ApiError::not_found(format!("login at {registry:?}")));
            }
            let what = format!("registry/{registry}");
            Ok(audit(
                tx,
                &caller.who(),
                "registry-login.remove",
                &what,
                &json!({}),
            )?)
        })
        .await?;
    app.workloads.wake();
    Ok(StatusCode::NO_CONTENT)
}
