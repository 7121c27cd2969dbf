//! API tokens: for pipelines, with no more scopes than their maker has.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{ApiError, Body, Page, PageQuery, Path, Query};
use crate::app::App;
use crate::people::tokens::{self, Kind, LONGEST_LIFE, MOST, New, Token};
use crate::people::{Caller, Need, Scope, Scopes, now, scope_type};

/// Life of a token if nobody says how long, in seconds.
const USUAL_LIFE: i64 = 90 * 86_400;
/// Longest note in bytes.
const LONGEST_NOTE: usize = 200;

/// A new API token.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewApiToken)]
pub struct NewToken {
    /// What it may do.
    #[schema(value_type = Vec<String>)]
    scopes: Vec<Scope>,
    /// How long, in seconds; 90 days if not said, two years at most.
    lifetime: Option<i64>,
    /// What it is for.
    #[serde(default)]
    note: String,
}

/// An API token with its secret, which is told only now.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ApiTokenCreated)]
pub struct Created {
    /// The bearer token.
    token: String,
    /// What is kept of it.
    #[serde(flatten)]
    about: Token,
}

/// The routes.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(revoke))
}

/// Whose tokens the caller may see or revoke: all, or his own.
fn whose(caller: &Caller, scope: Scope) -> Option<String> {
    (!caller.scopes.has(scope)).then(|| caller.account.clone())
}

/// One's own API tokens; with `accounts:read` everybody's.
#[utoipa::path(get, path = "/v1/api-tokens", tag = "accounts", params(PageQuery),
    security(("token" = [])), responses((status = 200, body = Page<Token>)))]
async fn list(
    caller: Caller,
    State(app): State<App>,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<Token>>, ApiError> {
    let (limit, after) = (page.limit()?, page.cursor()?.unwrap_or_default());
    let account = whose(&caller, Scope::AccountsRead);
    let items = app
        .store
        .read::<_, ApiError, _>(move |connection| {
            Ok(tokens::list(
                connection,
                account.as_deref(),
                &after,
                limit + 1,
            )?)
        })
        .await?;
    Ok(Json(Page::cut(items, limit, |token| token.id.clone())))
}

/// Makes an API token of one's own.
#[utoipa::path(post, path = "/v1/api-tokens", tag = "accounts", request_body = NewToken,
    security(("token" = ["api-tokens:write"])), responses((status = 201, body = Created)))]
async fn create(
    caller: Need<scope_type::ApiTokensWrite>,
    State(app): State<App>,
    Body(new): Body<NewToken>,
) -> Result<(StatusCode, Json<Created>), ApiError> {
    let scopes: Scopes = new.scopes.iter().copied().collect();
    if scopes.is_empty() {
        return Err(ApiError::bad(
            "bad-scopes",
            format!("expected some of the scopes {}", caller.scopes),
        ));
    }
    let beyond = scopes.without(caller.scopes);
    if !beyond.is_empty() {
        return Err(ApiError::forbidden(
            "scope-missing",
            format!("a token can't have more scopes than its maker, who lacks {beyond}"),
        ));
    }
    let lifetime = new.lifetime.unwrap_or(USUAL_LIFE);
    if !(1..=LONGEST_LIFE).contains(&lifetime) {
        return Err(ApiError::bad(
            "bad-lifetime",
            format!("expected a lifetime of 1 to {LONGEST_LIFE} seconds, got {lifetime}"),
        ));
    }
    if new.note.len() > LONGEST_NOTE || new.note.chars().any(char::is_control) {
        return Err(ApiError::bad(
            "bad-note",
            format!("expected a note of one line, at most {LONGEST_NOTE} bytes"),
        ));
    }
    let created = app
        .store
        .write::<_, ApiError, _>(move |tx| {
            let token = New {
                kind: Kind::Api,
                account: &caller.account,
                note: &new.note,
                scopes,
                expires: now().saturating_add(lifetime),
            };
            Ok(tokens::create(tx, &caller.who(), &token)?)
        })
        .await?;
    let Some((about, token)) = created else {
        return Err(ApiError::conflict(
            "too-many-tokens",
            format!("an account has at most {MOST} API tokens; revoke some"),
        ));
    };
    Ok((StatusCode::CREATED, Json(Created { token, about })))
}

/// Revokes an API token of one's own; with `accounts:write` anybody's.
#[utoipa::path(delete, path = "/v1/api-tokens/{id}", tag = "accounts", params(("id" = String, Path)),
    security(("token" = ["api-tokens:write"])), responses((status = 204)))]
async fn revoke(
    caller: Need<scope_type::ApiTokensWrite>,
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    let account = whose(&caller, Scope::AccountsWrite);
    let wanted = id.clone();
    let gone = app
        .store
        .write::<_, ApiError, _>(move |tx| {
            Ok(tokens::revoke(
                tx,
                &caller.who(),
                &wanted,
                account.as_deref(),
            )?)
        })
        .await?;
    if !gone {
        return Err(ApiError::not_found(format!(
            "API token {:?} of yours",
            id.chars().take(40).collect::<String>()
        )));
    }
    Ok(StatusCode::NO_CONTENT)
}
