//! Enrolment tokens: what a node trades for its first certificate.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{ApiError, Body, Page, Path};
use crate::app::App;
use crate::people::{Need, audit, scope_type};
use crate::registry::{enrolment, is_label};

/// Life of a token if nobody says how long, in seconds.
const USUAL_LIFE: i64 = 7 * 86_400;
/// Longest life in seconds.
const LONGEST_LIFE: i64 = 366 * 86_400;
/// Devices of one token at most.
const MOST_USES: u32 = 1_000_000;
/// Tags of one token at most.
const MOST_TAGS: usize = 32;

/// A new enrolment token.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewEnrolmentToken)]
pub struct NewToken {
    /// How many devices; 1 if not said.
    uses: Option<u32>,
    /// How long, in seconds; 7 days if not said, a year at most.
    lifetime: Option<i64>,
    /// The group that the devices come into; `default` if not said.
    group: Option<String>,
    /// The tags that they get.
    #[serde(default)]
    tags: Vec<String>,
    /// The supplier whose devices they are; the operator's own if not said.
    supplier: Option<String>,
    /// What it is for.
    #[serde(default)]
    note: String,
}

/// An enrolment token, without its secret.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = EnrolmentToken)]
pub struct Token {
    /// Its public name.
    id: String,
    /// The group that its devices come into.
    group: String,
    /// The tags that they get.
    tags: Vec<String>,
    /// The supplier whose devices they are; `null`: the operator's own.
    supplier: Option<String>,
    /// Uses that are left.
    uses: u32,
    /// Seconds since 1970.
    created: i64,
    /// Seconds since 1970.
    expires: i64,
    /// What it is for.
    note: String,
}

impl From<enrolment::Token> for Token {
    fn from(token: enrolment::Token) -> Self {
        let enrolment::Token {
            id,
            group,
            tags,
            supplier,
            uses,
            created,
            expires,
            note,
        } = token;
        Self {
            id,
            group,
            tags,
            supplier,
            uses,
            created,
            expires,
            note,
        }
    }
}

/// An enrolment token with its secret, which is told only now, and what else a node needs for `enrol.toml`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = EnrolmentTokenCreated)]
pub struct Created {
    /// The secret.
    token: String,
    /// `https://host:port` as devices reach this server.
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<String>,
    /// The CA that this server's certificate is checked against, in PEM.
    ca: String,
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

/// Enrolment tokens, the newest first.
#[utoipa::path(get, path = "/v1/enrolment-tokens", tag = "devices",
    security(("token" = ["tokens:read"])), responses((status = 200, body = Page<Token>)))]
async fn list(
    _: Need<scope_type::TokensRead>,
    State(app): State<App>,
) -> Result<Json<Page<Token>>, ApiError> {
    let items = app
        .store
        .read::<_, ApiError, _>(|connection| Ok(enrolment::list(connection)?))
        .await?;
    Ok(Json(Page::new(
        items.into_iter().map(Token::from).collect(),
        None,
    )))
}

/// Makes an enrolment token.
#[utoipa::path(post, path = "/v1/enrolment-tokens", tag = "devices", request_body = NewToken,
    security(("token" = ["tokens:write"])), responses((status = 201, body = Created)))]
async fn create(
    caller: Need<scope_type::TokensWrite>,
    State(app): State<App>,
    Body(new): Body<NewToken>,
) -> Result<(StatusCode, Json<Created>), ApiError> {
    let (uses, lifetime) = (new.uses.unwrap_or(1), new.lifetime.unwrap_or(USUAL_LIFE));
    if !(1..=MOST_USES).contains(&uses) {
        return Err(ApiError::bad(
            "bad-uses",
            format!("expected 1 to {MOST_USES} uses, got {uses}"),
        ));
    }
    if !(1..=LONGEST_LIFE).contains(&lifetime) {
        return Err(ApiError::bad(
            "bad-lifetime",
            format!("expected a lifetime of 1 to {LONGEST_LIFE} seconds, got {lifetime}"),
        ));
    }
    let group = new.group.unwrap_or_else(|| "default".into());
    check_labels(new.tags.iter().chain([&group]).chain(&new.supplier))?;
    if new.tags.len() > MOST_TAGS || new.note.len() > 200 {
        return Err(ApiError::bad(
            "bad-token",
            format!("expected at most {MOST_TAGS} tags and a note of at most 200 bytes"),
        ));
    }
    let wanted = enrolment::NewToken {
        group,
        tags: new.tags,
        supplier: new.supplier,
        uses,
        lifetime,
        note: new.note,
    };
    let (about, token) = app
        .store
        .write::<_, ApiError, _>(move |tx| {
            let (about, secret) = enrolment::create_token(tx, &wanted)?;
            let detail = json!({ "group": about.group, "tags": about.tags, "supplier": about.supplier, "uses": about.uses, "expires": about.expires });
            audit(tx, &caller.who(), "enrolment-token.create", &format!("enrolment-token/{}", about.id), &detail)?;
            Ok((about, secret))
        })
        .await?;
    let created = Created {
        token,
        server: app.config.public_url.clone(),
        ca: app.ca.ca_pem().to_owned(),
        about: about.into(),
    };
    Ok((StatusCode::CREATED, Json(created)))
}

/// Revokes an enrolment token. Devices that it made stay.
#[utoipa::path(delete, path = "/v1/enrolment-tokens/{id}", tag = "devices", params(("id" = String, Path)),
    security(("token" = ["tokens:write"])), responses((status = 204)))]
async fn revoke(
    caller: Need<scope_type::TokensWrite>,
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    app.store
        .write::<_, ApiError, _>(move |tx| {
            if !enrolment::revoke(tx, &id)? {
                return Err(ApiError::not_found(format!(
                    "enrolment token {:?}",
                    id.chars().take(40).collect::<String>()
                )));
            }
            Ok(audit(
                tx,
                &caller.who(),
                "enrolment-token.revoke",
                &format!("enrolment-token/{id}"),
                &json!({}),
            )?)
        })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Checks names of groups and tags.
pub(super) fn check_labels<'l>(
    labels: impl IntoIterator<Item = &'l String>,
) -> Result<(), ApiError> {
    match labels.into_iter().find(|label| !is_label(label)) {
        Some(bad) => Err(ApiError::bad(
            "bad-label",
            format!(
                "expected as group, tag or supplier 1 to 64 characters A-Za-z0-9._-, got {:?}",
                bad.chars().take(80).collect::<String>()
            ),
        )),
        None => Ok(()),
    }
}
