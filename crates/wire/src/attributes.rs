//! Attributes: *client* ones are the device's own words, *shared* ones the server's.

use serde::{Deserialize, Serialize};

use crate::{Object, WireError};

/// What a device asks for; without any key, for everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Names of client attributes, with commas between.
    #[serde(
        rename = "clientKeys",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub client_keys: Option<String>,
    /// Names of shared attributes, with commas between.
    #[serde(
        rename = "sharedKeys",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub shared_keys: Option<String>,
}

impl Request {
    /// Reads one.
    ///
    /// # Errors
    /// If it isn't one.
    pub fn parse(payload: &[u8]) -> Result<Self, WireError> {
        crate::parse("an attribute request", payload)
    }
}

/// The answer; an empty part is left out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Response {
    /// Client attributes.
    #[serde(default, skip_serializing_if = "Object::is_empty")]
    pub client: Object,
    /// Shared attributes.
    #[serde(default, skip_serializing_if = "Object::is_empty")]
    pub shared: Object,
}

impl Response {
    /// Reads one.
    ///
    /// # Errors
    /// If it isn't one.
    pub fn parse(payload: &[u8]) -> Result<Self, WireError> {
        crate::parse("an answer with attributes", payload)
    }
}

/// A change of shared attributes, as it is pushed to a device.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// These have new values.
    Set(Object),
    /// These are gone.
    Deleted(Vec<String>),
}

impl Change {
    /// Reads one: flat values, or `{"deleted": [names]}`.
    ///
    /// # Errors
    /// If it is neither.
    pub fn parse(payload: &[u8]) -> Result<Self, WireError> {
        let object = parse_set(payload)?;
        if object.len() == 1
            && let Some(serde_json::Value::Array(names)) = object.get("deleted")
        {
            let names: Option<Vec<String>> = names
                .iter()
                .map(|name| name.as_str().map(str::to_owned))
                .collect();
            return names.map(Self::Deleted).ok_or(WireError::Shape {
                what: "attributes",
                expected: "names in deleted",
            });
        }
        Ok(Self::Set(object))
    }

    /// The payload.
    pub fn to_json(&self) -> Vec<u8> {
        let value = match self {
            Self::Set(object) => serde_json::Value::Object(object.clone()),
            Self::Deleted(names) => serde_json::json!({ "deleted": names }),
        };
        value.to_string().into_bytes()
    }
}

/// Reads client attributes that a device sets: an object, flat by custom.
///
/// # Errors
/// If it isn't one.
pub fn parse_set(payload: &[u8]) -> Result<Object, WireError> {
    match crate::parse("attributes", payload)? {
        serde_json::Value::Object(object) => Ok(object),
        _ => Err(WireError::Shape {
            what: "attributes",
            expected: "an object",
        }),
    }
}
