//! What the stream tells.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// What an event is about.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A record: `{"ts", "values"}`, the time in milliseconds since 1970.
    Telemetry,
    /// Attributes that a device has set: `{"values"}`.
    Attributes,
    /// A device came or went: `{"online"}`.
    Connection,
    /// Something happened to an alarm: `{"alarm", "event", "template", "instance", "severity", "text"}`.
    Alarm,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Telemetry,
        Self::Attributes,
        Self::Connection,
        Self::Alarm,
    ];

    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Telemetry => "telemetry",
            Self::Attributes => "attributes",
            Self::Connection => "connection",
            Self::Alarm => "alarm",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|kind| kind.as_str() == text);
        found.ok_or_else(|| {
            let all = Self::ALL.map(Self::as_str);
            format!("expected one of {}", all.join(", "))
        })
    }
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Event {
    /// Its place in the stream.
    pub offset: i64,
    /// When it was stored, in milliseconds since 1970 by the server's clock.
    pub time: i64,
    /// `telemetry`, `attributes`, `connection` or `alarm`.
    pub kind: Kind,
    /// The device.
    pub device: String,
    /// What, by kind.
    #[schema(value_type = Object)]
    pub body: Value,
}
