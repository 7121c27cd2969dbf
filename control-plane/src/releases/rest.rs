//! People's side of the release store.

use axum::Json;
use axum::body::Body as Stream;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use cairn_release::Version;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::upload::{NewUpload, Progress, Upload};
use super::{FileInfo, ReleaseInfo};
use crate::app::App;
use crate::people::{Need, scope_type};
use crate::web::{ApiError, Body, Page, PageQuery, Path, Query};

/// Largest JSON body in bytes: a manifest in a string, and something beside it.
const LARGEST_BODY: usize = 9 << 20;

/// A release, and who published it.
#[derive(Debug, Serialize, ToSchema)]
pub struct Published {
    /// The release.
    #[serde(flatten)]
    pub release: ReleaseInfo,
    /// The folder that nodes fetch it from, on this server.
    pub url: String,
    /// When it was published, in seconds since 1970.
    pub published: Option<i64>,
    /// Who did.
    pub published_by: Option<String>,
}

/// Which releases.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Filter {
    /// Only of this channel.
    #[param(value_type = Option<String>)]
    channel: Option<Version>,
    /// Only of this version.
    #[param(value_type = Option<String>)]
    version: Option<Version>,
}

/// Where bytes go on.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Offset {
    /// The file's length so far.
    offset: u64,
}

/// A trust root.
#[derive(Debug, Serialize, ToSchema)]
pub struct TrustInfo {
    /// Its number.
    pub version: u64,
    /// When people should have looked after it, RFC 3339.
    pub expires: Option<String>,
    /// Ids of the keys that may sign releases.
    pub release_keys: Vec<String>,
    /// How many of them must.
    pub release_threshold: usize,
}

/// The routes.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(show, remove))
        .routes(routes!(uploads, begin))
        .routes(routes!(upload, give_up))
        .routes(routes!(put))
        .routes(routes!(commit))
        .routes(routes!(patches))
        .routes(routes!(put_patch))
        .routes(routes!(trust_roots))
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
}

async fn published(app: &App, release: &ReleaseInfo) -> Result<Published, ApiError> {
    let by = app
        .releases
        .published_by(&release.channel, &release.version)
        .await?;
    let (published, published_by) = by.unzip();
    let url = format!("/releases/{}/{}/", release.channel, release.version);
    Ok(Published {
        release: release.clone(),
        url,
        published,
        published_by,
    })
}

/// Releases, by channel, the newest first.
#[utoipa::path(get, path = "/v1/releases", tag = "releases", params(Filter, PageQuery),
    security(("token" = ["releases:read"])), responses((status = 200, body = Page<Published>)))]
async fn list(
    _: Need<scope_type::ReleasesRead>,
    State(app): State<App>,
    Query(filter): Query<Filter>,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<Published>>, ApiError> {
    let (limit, after) = (page.limit()?, page.cursor()?);
    let position = |release: &ReleaseInfo| {
        (
            release.channel.to_string(),
            std::cmp::Reverse(release.sequence.0),
        )
    };
    let after = match &after {
        None => None,
        Some(cursor) => {
            let (sequence, channel) = cursor.split_once('/').ok_or_else(PageQuery::bad_cursor)?;
            Some((
                channel.to_owned(),
                std::cmp::Reverse(sequence.parse().map_err(|_| PageQuery::bad_cursor())?),
            ))
        }
    };
    let mut wanted = app
        .releases
        .list()
        .into_iter()
        .filter(|release| {
            filter
                .channel
                .as_ref()
                .is_none_or(|channel| release.channel == *channel)
        })
        .filter(|release| {
            filter
                .version
                .as_ref()
                .is_none_or(|version| release.version == *version)
        })
        .filter(|release| {
            after
                .as_ref()
                .is_none_or(|after| position(release) > *after)
        });
    let mut items = Vec::new();
    for release in wanted.by_ref().take(limit) {
        items.push(published(&app, &release).await?);
    }
    let last = items
        .last()
        .map(|last| format!("{}/{}", last.release.sequence, last.release.channel));
    Ok(Json(Page::new(
        items,
        last.filter(|_| wanted.next().is_some()),
    )))
}

/// One release.
#[utoipa::path(get, path = "/v1/releases/{channel}/{version}", tag = "releases",
    params(("channel" = String, Path), ("version" = String, Path)),
    security(("token" = ["releases:read"])), responses((status = 200, body = Published)))]
async fn show(
    _: Need<scope_type::ReleasesRead>,
    State(app): State<App>,
    Path((channel, version)): Path<(Version, Version)>,
) -> Result<Json<Published>, ApiError> {
    let Some(release) = app.releases.get_in(&channel, &version) else {
        return Err(ApiError::not_found(format!(
            "release {version} in {channel}"
        )));
    };
    Ok(Json(published(&app, &release).await?))
}

/// Removes a release from a channel. Nodes that have it keep it.
#[utoipa::path(delete, path = "/v1/releases/{channel}/{version}", tag = "releases",
    params(("channel" = String, Path), ("version" = String, Path)),
    security(("token" = ["releases:write"])), responses((status = 204)))]
async fn remove(
    caller: Need<scope_type::ReleasesWrite>,
    State(app): State<App>,
    Path((channel, version)): Path<(Version, Version)>,
) -> Result<StatusCode, ApiError> {
    app.releases
        .remove(&channel, &version, &caller.who())
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Open uploads.
#[utoipa::path(get, path = "/v1/uploads", tag = "releases",
    security(("token" = ["releases:write"])), responses((status = 200, body = Page<Upload>)))]
async fn uploads(
    _: Need<scope_type::ReleasesWrite>,
    State(app): State<App>,
) -> Result<Json<Page<Upload>>, ApiError> {
    let open = tokio::task::spawn_blocking(move || app.releases.open_uploads())
        .await
        .map_err(ApiError::internal)??;
    Ok(Json(Page::new(open, None)))
}

/// Begins an upload, or finds the one that was begun before, with what is there of it.
#[utoipa::path(post, path = "/v1/uploads", tag = "releases", request_body = NewUpload,
    security(("token" = ["releases:write"])), responses((status = 200, body = Upload)))]
async fn begin(
    caller: Need<scope_type::ReleasesWrite>,
    State(app): State<App>,
    Body(new): Body<NewUpload>,
) -> Result<Json<Upload>, ApiError> {
    Ok(Json(app.releases.begin(new, &caller.who()).await?))
}

/// How far an upload is.
#[utoipa::path(get, path = "/v1/uploads/{id}", tag = "releases", params(("id" = String, Path)),
    security(("token" = ["releases:write"])), responses((status = 200, body = Upload)))]
async fn upload(
    _: Need<scope_type::ReleasesWrite>,
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<Upload>, ApiError> {
    Ok(Json(app.releases.upload(&id)?))
}

/// Gives an upload up.
#[utoipa::path(delete, path = "/v1/uploads/{id}", tag = "releases", params(("id" = String, Path)),
    security(("token" = ["releases:write"])), responses((status = 204)))]
async fn give_up(
    caller: Need<scope_type::ReleasesWrite>,
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    app.releases.give_up(&id, &caller.who()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Sends bytes of a file, from where it ends.
#[utoipa::path(put, path = "/v1/uploads/{id}/files/{file}", tag = "releases",
    params(("id" = String, Path), ("file" = String, Path), Offset),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    security(("token" = ["releases:write"])), responses((status = 200, body = Progress)))]
async fn put(
    _: Need<scope_type::ReleasesWrite>,
    State(app): State<App>,
    Path((id, file)): Path<(String, String)>,
    Query(Offset { offset }): Query<Offset>,
    body: Stream,
) -> Response {
    match app.releases.put(&id, &file, offset, body).await {
        Ok(progress) => Json(progress).into_response(),
        Err(error) => cut(error),
    }
}

/// Refuses a body that may not have been read: what is left of it is in the way of another request.
fn cut(error: ApiError) -> Response {
    let mut response = error.into_response();
    response
        .headers_mut()
        .insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Checks a whole upload and publishes it.
#[utoipa::path(post, path = "/v1/uploads/{id}/commit", tag = "releases", params(("id" = String, Path)),
    security(("token" = ["releases:write"])), responses((status = 200, body = Published)))]
async fn commit(
    caller: Need<scope_type::ReleasesWrite>,
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<Published>, ApiError> {
    let release = app.releases.commit(&id, &caller.who()).await?;
    Ok(Json(published(&app, &release).await?))
}

/// Patches that lead to a release, by which a node that has the image they start from fetches less.
#[utoipa::path(get, path = "/v1/releases/{channel}/{version}/patches", tag = "releases",
    params(("channel" = String, Path), ("version" = String, Path)),
    security(("token" = ["releases:read"])), responses((status = 200, body = Page<FileInfo>)))]
async fn patches(
    _: Need<scope_type::ReleasesRead>,
    State(app): State<App>,
    Path((channel, version)): Path<(Version, Version)>,
) -> Result<Json<Page<FileInfo>>, ApiError> {
    let list = tokio::task::spawn_blocking(move || app.releases.patches(&channel, &version))
        .await
        .map_err(ApiError::internal)??;
    Ok(Json(Page::new(list, None)))
}

/// Sends a patch that leads to a published release, whole; it takes the place of one with the same name.
#[utoipa::path(put, path = "/v1/releases/{channel}/{version}/patches/{file}", tag = "releases",
    params(("channel" = String, Path), ("version" = String, Path),
        ("file" = String, Path, description = "SHA-256 of the image that it starts from, and `.patch`")),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    security(("token" = ["releases:write"])), responses((status = 200, body = FileInfo)))]
async fn put_patch(
    caller: Need<scope_type::ReleasesWrite>,
    State(app): State<App>,
    Path((channel, version, file)): Path<(Version, Version, String)>,
    body: Stream,
) -> Response {
    let who = caller.who();
    match app
        .releases
        .put_patch(&channel, &version, &file, body, &who)
        .await
    {
        Ok(kept) => Json(kept).into_response(),
        Err(error) => cut(error),
    }
}

/// The trust roots that uploads are checked against, the oldest first.
#[utoipa::path(get, path = "/v1/trust", tag = "releases",
    security(("token" = ["releases:read"])), responses((status = 200, body = Page<TrustInfo>)))]
async fn trust_roots(
    _: Need<scope_type::ReleasesRead>,
    State(app): State<App>,
) -> Result<Json<Page<TrustInfo>>, ApiError> {
    let roots = tokio::task::spawn_blocking(move || app.releases.trust_roots())
        .await
        .map_err(ApiError::internal)??;
    let items = roots
        .into_iter()
        .map(|root| TrustInfo {
            version: root.trust.version,
            expires: root.trust.expires.map(|expires| expires.to_string()),
            release_keys: root
                .trust
                .release
                .keys
                .iter()
                .map(|key| key.id().to_string())
                .collect(),
            release_threshold: root.trust.release.threshold,
        })
        .collect();
    Ok(Json(Page::new(items, None)))
}
