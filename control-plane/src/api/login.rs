//! Logging in and out, and one's own account.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{ConnectInfo, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use zeroize::Zeroizing;

use super::{ApiError, Body};
use crate::app::App;
use crate::people::login::{self, Limiter, Session};
use crate::people::tokens::{self, Kind};
use crate::people::{Caller, Role, accounts, password};

/// A name and a password.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Login {
    account: String,
    #[serde(deserialize_with = "password::secret")]
    #[schema(value_type = String, format = Password)]
    password: Zeroizing<String>,
}

/// One's own account.
#[derive(Debug, Serialize, ToSchema)]
pub struct Me {
    /// The account.
    account: String,
    /// Its role.
    role: Role,
    /// Whose people it is of; none: the operator's.
    supplier: Option<String>,
    /// What the token that was shown may do.
    scopes: Vec<&'static str>,
}

/// A new password of one's own.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPassword {
    #[serde(deserialize_with = "password::secret")]
    #[schema(value_type = String, format = Password)]
    old: Zeroizing<String>,
    #[serde(deserialize_with = "password::secret")]
    #[schema(value_type = String, format = Password)]
    new: Zeroizing<String>,
}

/// The routes.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(log_in))
        .routes(routes!(log_out))
        .routes(routes!(me))
        .routes(routes!(own_password))
}

type Address = Option<Extension<ConnectInfo<SocketAddr>>>;

fn ip(address: Address) -> Option<IpAddr> {
    address.map(|Extension(ConnectInfo(address))| address.ip())
}

/// Opens a session of twelve hours.
#[utoipa::path(post, path = "/v1/login", tag = "accounts", request_body = Login,
    responses((status = 200, body = Session), (status = 401, description = "wrong"), (status = 429, description = "too many guesses")))]
async fn log_in(
    State(app): State<App>,
    Extension(limiter): Extension<Arc<Limiter>>,
    address: Address,
    Body(login): Body<Login>,
) -> Result<Json<Session>, ApiError> {
    Ok(Json(
        login::login(
            &app.store,
            &limiter,
            login.account,
            login.password,
            ip(address),
        )
        .await?,
    ))
}

/// Ends the session.
#[utoipa::path(post, path = "/v1/logout", tag = "accounts", security(("token" = [])), responses((status = 204)))]
async fn log_out(caller: Caller, State(app): State<App>) -> Result<StatusCode, ApiError> {
    if caller.kind != Kind::Session {
        return Err(ApiError::bad(
            "no-session",
            "an API token has no session to end; revoke it instead",
        ));
    }
    app.store
        .write::<_, ApiError, _>(move |tx| {
            Ok(tokens::end_session(tx, &caller.who(), &caller.token)?)
        })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Who one is.
#[utoipa::path(get, path = "/v1/account", tag = "accounts", security(("token" = [])), responses((status = 200, body = Me)))]
async fn me(caller: Caller, State(app): State<App>) -> Result<Json<Me>, ApiError> {
    let name = caller.account.clone();
    let account = app
        .store
        .read::<_, ApiError, _>(move |connection| Ok(accounts::get(connection, &name)?))
        .await?;
    let account =
        account.ok_or_else(|| ApiError::not_found(format!("account {}", caller.account)))?;
    let scopes = caller
        .scopes
        .iter()
        .map(crate::people::Scope::as_str)
        .collect();
    Ok(Json(Me {
        account: account.name,
        role: account.role,
        supplier: account.supplier,
        scopes,
    }))
}

/// Changes one's own password, and ends one's sessions.
#[utoipa::path(put, path = "/v1/account/password", tag = "accounts", request_body = NewPassword,
    security(("token" = [])), responses((status = 204)))]
async fn own_password(
    caller: Caller,
    State(app): State<App>,
    Extension(limiter): Extension<Arc<Limiter>>,
    address: Address,
    Body(passwords): Body<NewPassword>,
) -> Result<StatusCode, ApiError> {
    if caller.kind != Kind::Session {
        return Err(ApiError::forbidden(
            "no-session",
            "a password is changed by who has logged in with it",
        ));
    }
    login::check(
        &app.store,
        &limiter,
        &caller.account,
        passwords.old,
        ip(address),
    )
    .await?;
    let phc = hash(passwords.new).await?;
    app.store
        .write::<_, ApiError, _>(move |tx| {
            Ok(accounts::set_password(
                tx,
                &caller.who(),
                &caller.account,
                &phc,
            )?)
        })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn hash(password: Zeroizing<String>) -> Result<String, ApiError> {
    password::hash_in_turn(password)
        .await
        .map_err(|error| match error {
            password::PasswordError::Length => ApiError::bad("bad-password", error.to_string()),
            error => ApiError::internal(error),
        })
}
