//! CONNECT: who is it?
//!
//! A certificate counts before everything else: who shows one that is refused isn't asked for a token.

use rumqttc::mqttbytes::v4::{Connect, ConnectAuth, ConnectReturnCode, Packet};
use rustls::pki_types::CertificateDer;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::wire::Wire;
use super::{Closed, connection, provision};
use crate::app::App;
use crate::registry::DeviceId;
use crate::registry::credentials::{self, Basic};

/// User name or client id of who wants to be provisioned.
const PROVISION: &str = "provision";
/// Passwords that are checked at once: each takes 19 MiB and some hundredths of a second.
static PASSWORDS: Semaphore = Semaphore::const_new(2);

enum Who {
    /// When its certificate ends, if it showed one of ours.
    Device(DeviceId, Option<i64>),
    Provision,
    Nobody(&'static str),
    Unknown,
}

pub(super) async fn serve(
    app: &App,
    mut wire: Wire,
    certificate: Option<CertificateDer<'static>>,
    shutdown: &CancellationToken,
) -> Closed {
    let connect = match tokio::time::timeout(app.config.handshake_timeout, first(&mut wire)).await {
        Ok(Ok(connect)) => connect,
        Ok(Err(closed)) => return closed,
        Err(_) => return Closed::Silent,
    };
    let who = match authenticate(app, &connect, certificate).await {
        Ok(who) => who,
        Err(error) => {
            tracing::error!(%error, "a device can't be looked up");
            return wire
                .refuse(ConnectReturnCode::ServiceUnavailable, Closed::Storage)
                .await;
        }
    };
    match who {
        Who::Device(device, ends) => {
            connection::serve(app, wire, device, ends, connect.keep_alive, shutdown).await
        }
        Who::Provision => provision::serve(app, wire, shutdown).await,
        Who::Nobody(reason) => {
            tracing::info!(reason, "a connection was refused");
            wire.refuse(ConnectReturnCode::NotAuthorized, Closed::Refused)
                .await
        }
        Who::Unknown => {
            tracing::info!(reason = "credentials", "a connection was refused");
            wire.refuse(ConnectReturnCode::BadUserNamePassword, Closed::Refused)
                .await
        }
    }
}

/// The first packet must be a CONNECT.
async fn first(wire: &mut Wire) -> Result<Connect, Closed> {
    loop {
        match wire.packet()? {
            Some(Packet::Connect(connect)) => return Ok(connect),
            Some(_) => return Err(Closed::Malformed),
            None => wire.fill().await?,
        }
    }
}

async fn authenticate(
    app: &App,
    connect: &Connect,
    certificate: Option<CertificateDer<'static>>,
) -> Result<Who, crate::store::StoreError> {
    use credentials::Refused;
    if let Some(certificate) = certificate {
        let ca = app.ca.clone();
        let found = app
            .store
            .read::<_, Refused, _>(move |connection| {
                credentials::by_certificate(connection, &ca, &certificate)
            })
            .await;
        return match found {
            Ok((device, ends)) => Ok(Who::Device(device, ends)),
            Err(Refused::Store(error)) => Err(error),
            Err(refused) => Ok(Who::Nobody(refused.code())),
        };
    }
    let (user, password) = match &connect.auth {
        ConnectAuth::None => (String::new(), Vec::new()),
        ConnectAuth::Username { username } => (username.clone(), Vec::new()),
        ConnectAuth::UsernamePassword { username, password } => {
            (username.clone(), password.to_vec())
        }
    };
    if user == PROVISION || (user.is_empty() && connect.client_id == PROVISION) {
        return Ok(Who::Provision);
    }
    if !user.is_empty() {
        let token = user.clone();
        let found = app
            .store
            .read(move |connection| credentials::by_access_token(connection, &token))
            .await?;
        if let Some(device) = found {
            return Ok(Who::Device(device, None));
        }
    }
    let basic = Basic {
        client_id: connect.client_id.clone(),
        user,
    };
    let Some((device, phc)) = app
        .store
        .read(move |connection| credentials::by_basic(connection, &basic))
        .await?
    else {
        return Ok(Who::Unknown);
    };
    let fits = match phc {
        None => true,
        Some(phc) => {
            let _turn = PASSWORDS.acquire().await;
            tokio::task::spawn_blocking(move || credentials::fits(&password, &phc))
                .await
                .unwrap_or(false)
        }
    };
    Ok(if fits {
        Who::Device(device, None)
    } else {
        Who::Unknown
    })
}
