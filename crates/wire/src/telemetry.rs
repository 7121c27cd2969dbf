//! Telemetry. ThingsBoard knows four shapes; all become a list of [`Record`]s.
//!
//! Our agent adds `"cairn": {"log", "seq"}` beside `ts` and `values`, which ThingsBoard ignores. By it the control plane
//! takes each record once, however often it arrives, whatever the clock did.

use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

use crate::{MAX_PAYLOAD, Object, WireError};

const WHAT: &str = "telemetry";

/// Which record of which log it is: unique among a device's records for ever.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordId {
    /// The log: random when an outbox is made, at most 32 of `0-9a-f`.
    pub log: String,
    /// The record's number in its log, from 1.
    pub seq: u64,
}

/// Some values at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Milliseconds since 1970 UTC; the receiver's own time if there is none.
    pub ts: Option<i64>,
    /// The values: strings, numbers, booleans, or any JSON.
    pub values: Object,
    /// Which record it is, if its sender counts them.
    pub id: Option<RecordId>,
}

impl Serialize for Record {
    /// Without a time and an id the values stand alone: beside neither, `values` would be
    /// read as the name of one.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.ts.is_none() && self.id.is_none() {
            return self.values.serialize(serializer);
        }
        let mut map = serializer.serialize_map(None)?;
        if let Some(ts) = &self.ts {
            map.serialize_entry("ts", ts)?;
        }
        map.serialize_entry("values", &self.values)?;
        if let Some(id) = &self.id {
            map.serialize_entry("cairn", id)?;
        }
        map.end()
    }
}

impl Record {
    /// Reads a payload of any of the four shapes.
    ///
    /// # Errors
    /// If it isn't JSON, is too long, or has another shape.
    pub fn parse_all(payload: &[u8]) -> Result<Vec<Self>, WireError> {
        match crate::parse(WHAT, payload)? {
            Value::Array(items) => items.into_iter().map(Self::from_value).collect(),
            value => Ok(vec![Self::from_value(value)?]),
        }
    }

    fn from_value(value: Value) -> Result<Self, WireError> {
        let shape = |expected| WireError::Shape {
            what: WHAT,
            expected,
        };
        let Value::Object(mut object) = value else {
            return Err(shape("an object, or an array of objects"));
        };
        let stamped = object.contains_key("ts") && object.contains_key("values");
        if !stamped && !object.contains_key("cairn") {
            return Ok(Self {
                ts: None,
                values: object,
                id: None,
            });
        }
        let ts = match object.remove("ts") {
            None => None,
            Some(ts) => Some(
                ts.as_i64()
                    .ok_or_else(|| shape("a number of milliseconds as ts"))?,
            ),
        };
        let Some(Value::Object(values)) = object.remove("values") else {
            return Err(shape("an object as values"));
        };
        let id = object
            .remove("cairn")
            .map(serde_json::from_value::<RecordId>)
            .transpose()
            .map_err(|source| WireError::Json {
                what: "a record's id",
                source,
            })?;
        if let Some(id) = &id
            && (id.log.is_empty()
                || id.log.len() > 32
                || !id
                    .log
                    .bytes()
                    .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
        {
            return Err(shape("1 to 32 of 0-9a-f as the log of a record's id"));
        }
        Ok(Self { ts, values, id })
    }

    /// As many records from the front as fit one message of [`MAX_PAYLOAD`] bytes: the payload, and their number. A single
    /// record that doesn't fit is `None`.
    pub fn batch(records: &[Self]) -> Option<(Vec<u8>, usize)> {
        let mut payload = vec![b'['];
        let mut count = 0;
        for record in records {
            let Ok(json) = serde_json::to_vec(record) else {
                break;
            };
            if payload.len() + json.len() + 2 > MAX_PAYLOAD {
                break;
            }
            if count > 0 {
                payload.push(b',');
            }
            payload.extend(json);
            count += 1;
        }
        payload.push(b']');
        (count > 0).then_some((payload, count))
    }
}
