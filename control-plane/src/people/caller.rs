//! Who asks, taken from a request's bearer token.

use std::marker::PhantomData;
use std::ops::Deref;

use axum::extract::FromRequestParts;
use axum::http::{StatusCode, header, request::Parts};

use super::tokens::{self, Kind};
use super::{Scope, Scopes};
use crate::app::App;
use crate::store::StoreError;
use crate::web::ApiError;

/// A person or a pipeline. As an argument of a handler it refuses who shows no good token (401).
#[derive(Debug, Clone)]
pub struct Caller {
    /// The account.
    pub account: String,
    /// The token's public name.
    pub token: String,
    /// How the token came to be.
    pub kind: Kind,
    /// What the caller may do.
    pub scopes: Scopes,
    /// Whose people the caller is of; none: the operator's.
    pub supplier: Option<String>,
}

impl Caller {
    /// As the audit log names it: the account, and for an API token its id.
    pub fn who(&self) -> String {
        match self.kind {
            Kind::Session => self.account.clone(),
            Kind::Api => format!("{}/{}", self.account, self.token),
        }
    }

    /// Refuses who lacks a scope.
    ///
    /// # Errors
    /// 403.
    pub fn need(&self, scope: Scope) -> Result<(), ApiError> {
        if self.scopes.has(scope) {
            return Ok(());
        }
        let whose = match self.kind {
            Kind::Session => format!("the role of {}", self.account),
            Kind::Api => format!("the API token {}", self.token),
        };
        Err(ApiError::forbidden(
            "scope-missing",
            format!("this needs the scope {scope}, which {whose} doesn't have"),
        ))
    }

    async fn from_parts(parts: &Parts, app: &App) -> Result<Self, ApiError> {
        let secret = bearer(parts)?;
        let secret = secret.to_owned();
        let proof = app
            .store
            .read::<_, StoreError, _>(move |connection| tokens::prove(connection, &secret))
            .await?;
        let Some(proof) = proof else {
            return Err(unauthorised(
                "token-unknown",
                "the token is unknown, revoked or has expired",
            ));
        };
        if proof.note_use {
            // Nobody waits for this, and a lost one does no harm.
            let (store, id) = (app.store.clone(), proof.id.clone());
            tokio::spawn(async move {
                if let Err(error) = store
                    .write::<_, StoreError, _>(move |tx| tokens::used(tx, &id))
                    .await
                {
                    tracing::debug!(%error, "the use of a token was not noted");
                }
            });
        }
        Ok(Self {
            account: proof.account,
            token: proof.id,
            kind: proof.kind,
            scopes: proof.scopes,
            supplier: proof.supplier,
        })
    }
}

fn unauthorised(code: &'static str, message: &str) -> ApiError {
    ApiError::new(StatusCode::UNAUTHORIZED, code, message)
}

fn bearer(parts: &Parts) -> Result<&str, ApiError> {
    let mut values = parts.headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return Err(unauthorised(
            "token-missing",
            "expected the header Authorization: Bearer TOKEN",
        ));
    };
    let token = value.to_str().ok().and_then(|value| value.split_once(' '));
    match token {
        Some((scheme, token))
            if values.next().is_none()
                && scheme.eq_ignore_ascii_case("bearer")
                && token.len() <= 200 =>
        {
            Ok(token.trim())
        }
        _ => Err(unauthorised(
            "token-bad",
            "expected the header Authorization: Bearer TOKEN",
        )),
    }
}

impl FromRequestParts<App> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        Self::from_parts(parts, app).await
    }
}

/// A scope as a type, for [`Need`].
pub trait Needed: Send {
    /// The scope.
    const SCOPE: Scope;
}

/// A caller who has a scope. As the *first* argument of a handler it refuses all others (401, 403) before anything else is looked at.
pub struct Need<S: Needed>(Caller, PhantomData<S>);

impl<S: Needed> Deref for Need<S> {
    type Target = Caller;

    fn deref(&self) -> &Caller {
        &self.0
    }
}

impl<S: Needed> FromRequestParts<App> for Need<S> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let caller = Caller::from_parts(parts, app).await?;
        caller.need(S::SCOPE)?;
        Ok(Self(caller, PhantomData))
    }
}

macro_rules! needed {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// The scopes as types.
        pub mod scope_type {
            $(
                $(#[$doc])*
                pub struct $name;
                impl super::Needed for $name {
                    const SCOPE: super::Scope = super::Scope::$name;
                }
            )*
        }
    };
}

needed! {
    /// `devices:read`
    DevicesRead,
    /// `devices:write`
    DevicesWrite,
    /// `rpc`
    Rpc,
    /// `tokens:read`
    TokensRead,
    /// `tokens:write`
    TokensWrite,
    /// `traffic:read`
    TrafficRead,
    /// `stream:read`
    StreamRead,
    /// `stream:write`
    StreamWrite,
    /// `releases:read`
    ReleasesRead,
    /// `releases:write`
    ReleasesWrite,
    /// `rollouts:read`
    RolloutsRead,
    /// `rollouts:write`
    RolloutsWrite,
    /// `workloads:read`
    WorkloadsRead,
    /// `workloads:write`
    WorkloadsWrite,
    /// `alarms:read`
    AlarmsRead,
    /// `alarms:ack`
    AlarmsAck,
    /// `alarms:write`
    AlarmsWrite,
    /// `accounts:read`
    AccountsRead,
    /// `accounts:write`
    AccountsWrite,
    /// `api-tokens:write`
    ApiTokensWrite,
    /// `audit:read`
    AuditRead,
}
