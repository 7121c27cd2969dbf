//! Accounts.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use zeroize::Zeroizing;

use super::login::hash;
use super::{ApiError, Body, Page, PageQuery, Path, Query};
use crate::app::App;
use crate::people::accounts::{self, Account, AccountError};
use crate::people::{Need, Role, scope_type};

/// A new account.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewAccount {
    name: String,
    role: Role,
    /// Whose people it is of: sees and acknowledges alarms of that supplier's devices, and nothing else; none: the operator's.
    #[serde(default)]
    supplier: Option<String>,
    #[serde(deserialize_with = "crate::people::password::secret")]
    #[schema(value_type = String, format = Password)]
    password: Zeroizing<String>,
}

/// Another role.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewRole {
    role: Role,
}

/// Another password.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResetPassword {
    #[serde(deserialize_with = "crate::people::password::secret")]
    #[schema(value_type = String, format = Password)]
    password: Zeroizing<String>,
}

impl From<AccountError> for ApiError {
    fn from(error: AccountError) -> Self {
        let text = error.to_string();
        match error {
            AccountError::Name(_) => Self::bad("bad-name", text),
            AccountError::Supplier => Self::bad("bad-supplier", text),
            AccountError::Exists(_) => Self::conflict("account-exists", text),
            AccountError::Unknown(_) => Self::new(StatusCode::NOT_FOUND, "not-found", text),
            AccountError::LastAdmin(_) => Self::conflict("last-admin", text),
            AccountError::Store(error) => error.into(),
        }
    }
}

/// The routes.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list, add))
        .routes(routes!(change, remove))
        .routes(routes!(password))
}

/// Accounts by name.
#[utoipa::path(get, path = "/v1/accounts", tag = "accounts", params(PageQuery),
    security(("token" = ["accounts:read"])), responses((status = 200, body = Page<Account>)))]
async fn list(
    _: Need<scope_type::AccountsRead>,
    State(app): State<App>,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<Account>>, ApiError> {
    let (limit, after) = (page.limit()?, page.cursor()?.unwrap_or_default());
    let items = app
        .store
        .read::<_, ApiError, _>(move |connection| {
            Ok(accounts::list(connection, &after, limit + 1)?)
        })
        .await?;
    Ok(Json(Page::cut(items, limit, |account| {
        account.name.clone()
    })))
}

/// Adds an account.
#[utoipa::path(post, path = "/v1/accounts", tag = "accounts", request_body = NewAccount,
    security(("token" = ["accounts:write"])), responses((status = 201, body = Account)))]
async fn add(
    caller: Need<scope_type::AccountsWrite>,
    State(app): State<App>,
    Body(new): Body<NewAccount>,
) -> Result<(StatusCode, Json<Account>), ApiError> {
    let phc = hash(new.password).await?;
    let account = app
        .store
        .write::<_, ApiError, _>(move |tx| {
            let supplier = new.supplier.as_deref();
            Ok(accounts::add(
                tx,
                &caller.who(),
                &new.name,
                new.role,
                supplier,
                &phc,
            )?)
        })
        .await?;
    Ok((StatusCode::CREATED, Json(account)))
}

/// Gives an account another role.
#[utoipa::path(patch, path = "/v1/accounts/{name}", tag = "accounts", params(("name" = String, Path)), request_body = NewRole,
    security(("token" = ["accounts:write"])), responses((status = 200, body = Account)))]
async fn change(
    caller: Need<scope_type::AccountsWrite>,
    State(app): State<App>,
    Path(name): Path<String>,
    Body(new): Body<NewRole>,
) -> Result<Json<Account>, ApiError> {
    let account = app
        .store
        .write::<_, ApiError, _>(move |tx| {
            Ok(accounts::set_role(tx, &caller.who(), &name, new.role)?)
        })
        .await?;
    Ok(Json(account))
}

/// Removes an account with its sessions and API tokens.
#[utoipa::path(delete, path = "/v1/accounts/{name}", tag = "accounts", params(("name" = String, Path)),
    security(("token" = ["accounts:write"])), responses((status = 204)))]
async fn remove(
    caller: Need<scope_type::AccountsWrite>,
    State(app): State<App>,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiError> {
    app.store
        .write::<_, ApiError, _>(move |tx| Ok(accounts::remove(tx, &caller.who(), &name)?))
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Gives an account another password, and ends its sessions.
#[utoipa::path(put, path = "/v1/accounts/{name}/password", tag = "accounts", params(("name" = String, Path)),
    request_body = ResetPassword, security(("token" = ["accounts:write"])), responses((status = 204)))]
async fn password(
    caller: Need<scope_type::AccountsWrite>,
    State(app): State<App>,
    Path(name): Path<String>,
    Body(new): Body<ResetPassword>,
) -> Result<StatusCode, ApiError> {
    let phc = hash(new.password).await?;
    app.store
        .write::<_, ApiError, _>(move |tx| {
            Ok(accounts::set_password(tx, &caller.who(), &name, &phc)?)
        })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}
