//! Scopes, what a caller may do, and roles, which scopes an account may have.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One kind of thing that a caller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Scope {
    /// See devices, their attributes, telemetry and evidence.
    #[serde(rename = "devices:read")]
    DevicesRead,
    /// Change, revoke and remove devices.
    #[serde(rename = "devices:write")]
    DevicesWrite,
    /// Call a device.
    #[serde(rename = "rpc")]
    Rpc,
    /// See enrolment tokens (not the secret, which nobody can).
    #[serde(rename = "tokens:read")]
    TokensRead,
    /// Make and revoke enrolment tokens.
    #[serde(rename = "tokens:write")]
    TokensWrite,
    /// See and fetch releases.
    #[serde(rename = "releases:read")]
    ReleasesRead,
    /// Upload and remove releases.
    #[serde(rename = "releases:write")]
    ReleasesWrite,
    /// See rollouts.
    #[serde(rename = "rollouts:read")]
    RolloutsRead,
    /// Make and steer rollouts.
    #[serde(rename = "rollouts:write")]
    RolloutsWrite,
    /// See workloads, and where they run.
    #[serde(rename = "workloads:read")]
    WorkloadsRead,
    /// Declare and remove workloads, and see what they were declared with.
    #[serde(rename = "workloads:write")]
    WorkloadsWrite,
    /// See traffic and what it comes to.
    #[serde(rename = "traffic:read")]
    TrafficRead,
    /// See the stream's groups, and how far each is.
    #[serde(rename = "stream:read")]
    StreamRead,
    /// Read the stream as one of its groups; make and remove groups.
    #[serde(rename = "stream:write")]
    StreamWrite,
    /// See alarms; the operator's people also templates, channels and silences.
    #[serde(rename = "alarms:read")]
    AlarmsRead,
    /// Acknowledge alarms.
    #[serde(rename = "alarms:ack")]
    AlarmsAck,
    /// Change templates, channels and silences.
    #[serde(rename = "alarms:write")]
    AlarmsWrite,
    /// See accounts and everybody's API tokens.
    #[serde(rename = "accounts:read")]
    AccountsRead,
    /// Make, change and remove accounts; revoke everybody's API tokens.
    #[serde(rename = "accounts:write")]
    AccountsWrite,
    /// Make API tokens of one's own.
    #[serde(rename = "api-tokens:write")]
    ApiTokensWrite,
    /// See the audit log.
    #[serde(rename = "audit:read")]
    AuditRead,
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 21] = [
        Self::DevicesRead,
        Self::DevicesWrite,
        Self::Rpc,
        Self::TokensRead,
        Self::TokensWrite,
        Self::ReleasesRead,
        Self::ReleasesWrite,
        Self::RolloutsRead,
        Self::RolloutsWrite,
        Self::WorkloadsRead,
        Self::WorkloadsWrite,
        Self::TrafficRead,
        Self::StreamRead,
        Self::StreamWrite,
        Self::AlarmsRead,
        Self::AlarmsAck,
        Self::AlarmsWrite,
        Self::AccountsRead,
        Self::AccountsWrite,
        Self::ApiTokensWrite,
        Self::AuditRead,
    ];

    /// The scope as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DevicesRead => "devices:read",
            Self::DevicesWrite => "devices:write",
            Self::Rpc => "rpc",
            Self::TokensRead => "tokens:read",
            Self::TokensWrite => "tokens:write",
            Self::ReleasesRead => "releases:read",
            Self::ReleasesWrite => "releases:write",
            Self::RolloutsRead => "rollouts:read",
            Self::RolloutsWrite => "rollouts:write",
            Self::WorkloadsRead => "workloads:read",
            Self::WorkloadsWrite => "workloads:write",
            Self::TrafficRead => "traffic:read",
            Self::StreamRead => "stream:read",
            Self::StreamWrite => "stream:write",
            Self::AlarmsRead => "alarms:read",
            Self::AlarmsAck => "alarms:ack",
            Self::AlarmsWrite => "alarms:write",
            Self::AccountsRead => "accounts:read",
            Self::AccountsWrite => "accounts:write",
            Self::ApiTokensWrite => "api-tokens:write",
            Self::AuditRead => "audit:read",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The text is no scope, or no role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}, got {got:?}")]
pub struct Unknown {
    expected: String,
    got: String,
}

impl FromStr for Scope {
    type Err = Unknown;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|scope| scope.as_str() == text)
            .ok_or_else(|| Unknown {
                expected: format!("one of the scopes {}", Scopes::all()),
                got: text.chars().take(40).collect(),
            })
    }
}

/// A set of scopes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scopes(u32);

impl Scopes {
    /// Every scope.
    pub fn all() -> Self {
        Scope::ALL.into_iter().collect()
    }

    /// Whether this scope is among them.
    pub fn has(self, scope: Scope) -> bool {
        self.0 & (1 << scope as u32) != 0
    }

    /// Those in both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Those that `other` lacks.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// What a supplier's people may do, as far as their role lets them: only what knows whose a device is.
    pub fn suppliers() -> Self {
        [
            Scope::TrafficRead,
            Scope::StreamRead,
            Scope::StreamWrite,
            Scope::AlarmsRead,
            Scope::AlarmsAck,
            Scope::ApiTokensWrite,
        ]
        .into_iter()
        .collect()
    }

    /// Each of them.
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.into_iter().filter(move |scope| self.has(*scope))
    }

    /// Reads scopes with spaces between; those that no longer exist are left out.
    pub fn parse_known(text: &str) -> Self {
        text.split(' ')
            .filter_map(|word| word.parse().ok())
            .collect()
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(
            scopes
                .into_iter()
                .fold(0, |bits, scope| bits | (1 << scope as u32)),
        )
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<_> = self.iter().map(Scope::as_str).collect();
        f.write_str(&words.join(" "))
    }
}

/// What an account is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Everything, accounts included.
    Admin,
    /// Devices, releases, rollouts, workloads and alarms.
    Operator,
    /// Looks, and changes nothing.
    Viewer,
}

impl Role {
    /// The role as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Operator => "operator",
            Self::Viewer => "viewer",
        }
    }

    /// What an account of this role may do.
    pub fn scopes(self) -> Scopes {
        match self {
            Self::Admin => Scopes::all(),
            Self::Operator => Scopes::all().without(
                [Scope::AccountsRead, Scope::AccountsWrite]
                    .into_iter()
                    .collect(),
            ),
            Self::Viewer => [
                Scope::DevicesRead,
                Scope::TokensRead,
                Scope::ReleasesRead,
                Scope::RolloutsRead,
                Scope::WorkloadsRead,
                Scope::TrafficRead,
                Scope::StreamRead,
                Scope::AlarmsRead,
                Scope::ApiTokensWrite,
            ]
            .into_iter()
            .collect(),
        }
    }
}

impl FromStr for Role {
    type Err = Unknown;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Admin, Self::Operator, Self::Viewer]
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| Unknown {
                expected: "one of the roles admin, operator, viewer".into(),
                got: text.chars().take(40).collect(),
            })
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_written_as_they_are_read() {
        for scope in Scope::ALL {
            assert_eq!(scope.as_str().parse(), Ok(scope));
            assert_eq!(serde_json::to_value(scope).unwrap(), scope.as_str());
        }
        assert_eq!(
            Scopes::parse_known("rpc gone:read audit:read").to_string(),
            "rpc audit:read"
        );
        assert!("devices".parse::<Scope>().is_err());
    }

    #[test]
    fn a_lower_role_has_fewer_scopes() {
        let (admin, operator, viewer) = (
            Role::Admin.scopes(),
            Role::Operator.scopes(),
            Role::Viewer.scopes(),
        );
        assert_eq!(operator.and(admin), operator);
        assert_eq!(viewer.and(operator), viewer);
        assert!(!operator.has(Scope::AccountsWrite));
        assert!(
            viewer
                .iter()
                .all(|scope| scope.as_str().ends_with(":read") || scope == Scope::ApiTokensWrite)
        );
    }
}
