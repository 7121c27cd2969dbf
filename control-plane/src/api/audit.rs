//! The audit log.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{ApiError, Page, PageQuery, Query};
use crate::app::App;
use crate::people::audit::{self, Entry};
use crate::people::{Need, scope_type};

/// Which lines.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Wanted {
    /// Only of this subject, as `device/edge-7`.
    subject: Option<String>,
    /// Only by this caller.
    who: Option<String>,
}

/// The routes.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list))
}

/// The log, the newest first.
#[utoipa::path(get, path = "/v1/audit", tag = "audit", params(Wanted, PageQuery),
    security(("token" = ["audit:read"])), responses((status = 200, body = Page<Entry>)))]
async fn list(
    _: Need<scope_type::AuditRead>,
    State(app): State<App>,
    Query(wanted): Query<Wanted>,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<Entry>>, ApiError> {
    let limit = page.limit()?;
    let before = page
        .cursor()?
        .map(|cursor| cursor.parse().map_err(|_| PageQuery::bad_cursor()))
        .transpose()?;
    let wanted = audit::Wanted {
        before,
        subject: wanted.subject,
        who: wanted.who,
        limit: limit + 1,
    };
    let items = app
        .store
        .read::<_, ApiError, _>(move |connection| Ok(audit::list(connection, &wanted)?))
        .await?;
    Ok(Json(Page::cut(items, limit, |entry| entry.id.to_string())))
}
