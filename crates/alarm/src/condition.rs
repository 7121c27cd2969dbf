//! What a value means.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// When something is wrong. In JSON: `{"above": {"limit": 90, "clear": 85}}`, `{"below": {"limit": 10}}`, `{"is": "degraded"}`,
/// `{"is-not": "ok"}`, `"absent"` or `"offline"`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Condition {
    /// The number is above the limit.
    Above(Limit),
    /// The number is below the limit.
    Below(Limit),
    /// The value is this one.
    Is(Value),
    /// The value is another one.
    IsNot(Value),
    /// No sample of the key has come for the template's `for`.
    Absent,
    /// The device is not connected, and has sent nothing for the template's `for`.
    Offline,
}

/// A threshold.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// Beyond this it is wrong.
    pub limit: f64,
    /// At this or on its good side it is well again; `limit` if not said. Between the two nothing changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clear: Option<f64>,
}

/// What a sample says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It is wrong.
    Crosses,
    /// Between the limit and the value that clears it: not wrong enough to fire, not well enough to resolve.
    Between,
    /// It is well.
    Clears,
}

impl Condition {
    /// What a value says; nothing, if it is of a kind that can't be compared. A boolean counts as 1 or 0: what is unknown is not zero,
    /// so `null` and text say nothing to a limit.
    pub fn judge(&self, value: &Value) -> Option<Verdict> {
        let verdict = |crosses| {
            if crosses {
                Verdict::Crosses
            } else {
                Verdict::Clears
            }
        };
        match self {
            Self::Above(limit) => limit.judge(number(value)?, 1.0),
            Self::Below(limit) => limit.judge(number(value)?, -1.0),
            Self::Is(wanted) => (!value.is_null()).then(|| verdict(same(value, wanted))),
            Self::IsNot(wanted) => (!value.is_null()).then(|| verdict(!same(value, wanted))),
            // That there is one at all is the good news.
            Self::Absent | Self::Offline => Some(Verdict::Clears),
        }
    }

    /// Whether it waits for something that doesn't come, instead of judging what does.
    pub fn waits(&self) -> bool {
        matches!(self, Self::Absent | Self::Offline)
    }

    /// What can't be meant, for people.
    pub(crate) fn nonsense(&self) -> Option<&'static str> {
        match self {
            Self::Above(Limit { limit, clear }) | Self::Below(Limit { limit, clear })
                if !limit.is_finite() || clear.is_some_and(|clear| !clear.is_finite()) =>
            {
                Some("a finite number as limit and clear")
            }
            Self::Above(Limit {
                limit,
                clear: Some(clear),
            }) if clear > limit => Some("a clear at or below the limit"),
            Self::Below(Limit {
                limit,
                clear: Some(clear),
            }) if clear < limit => Some("a clear at or above the limit"),
            Self::Is(value) | Self::IsNot(value)
                if !(value.is_boolean()
                    || value.is_number()
                    || value.as_str().is_some_and(|text| text.len() <= 256)) =>
            {
                Some("a boolean, a number or a text of at most 256 bytes to compare with")
            }
            _ => None,
        }
    }
}

impl Limit {
    /// `sign` turns the axis round for what is wrong when it is low.
    fn judge(self, number: f64, sign: f64) -> Option<Verdict> {
        let (number, limit, clear) = (
            number * sign,
            self.limit * sign,
            self.clear.unwrap_or(self.limit) * sign,
        );
        Some(if number > limit {
            Verdict::Crosses
        } else if number <= clear {
            Verdict::Clears
        } else {
            Verdict::Between
        })
    }
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Bool(yes) => Some(f64::from(u8::from(*yes))),
        value => value.as_f64().filter(|number| number.is_finite()),
    }
}

/// 1 and 1.0 are one number.
fn same(value: &Value, wanted: &Value) -> bool {
    match (value.as_f64(), wanted.as_f64()) {
        (Some(value), Some(wanted)) => value == wanted,
        _ => value == wanted,
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Above(limit) => write!(f, "above {}", limit.limit),
            Self::Below(limit) => write!(f, "below {}", limit.limit),
            Self::Is(value) => write!(f, "is {value}"),
            Self::IsNot(value) => write!(f, "is not {value}"),
            Self::Absent => f.write_str("absent"),
            Self::Offline => f.write_str("offline"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn judged(condition: &Value, value: Value) -> Option<Verdict> {
        let condition: Condition = serde_json::from_value(condition.clone()).unwrap();
        assert_eq!(condition.nonsense(), None);
        condition.judge(&value)
    }

    #[test]
    fn a_limit_has_two_sides_and_a_band_between() {
        let above = json!({ "above": { "limit": 90, "clear": 85 } });
        assert_eq!(judged(&above, json!(90.1)), Some(Verdict::Crosses));
        assert_eq!(judged(&above, json!(90)), Some(Verdict::Between));
        assert_eq!(judged(&above, json!(85)), Some(Verdict::Clears));
        let below = json!({ "below": { "limit": 10, "clear": 12 } });
        assert_eq!(judged(&below, json!(9)), Some(Verdict::Crosses));
        assert_eq!(judged(&below, json!(11)), Some(Verdict::Between));
        assert_eq!(judged(&below, json!(12)), Some(Verdict::Clears));
        let count = json!({ "above": { "limit": 0 } });
        assert_eq!(judged(&count, json!(true)), Some(Verdict::Crosses));
        assert_eq!(judged(&count, json!(false)), Some(Verdict::Clears));
        assert_eq!(judged(&count, json!(null)), None, "unknown is not zero");
        assert_eq!(judged(&count, json!("12")), None);
    }

    #[test]
    fn values_are_compared_by_what_they_mean() {
        assert_eq!(
            judged(&json!({ "is": 1 }), json!(1.0)),
            Some(Verdict::Crosses)
        );
        assert_eq!(
            judged(&json!({ "is-not": "ok" }), json!("bad")),
            Some(Verdict::Crosses)
        );
        assert_eq!(
            judged(&json!({ "is-not": "ok" }), json!("ok")),
            Some(Verdict::Clears)
        );
        assert_eq!(judged(&json!({ "is-not": "ok" }), json!(null)), None);
        assert_eq!(judged(&json!("absent"), json!(7)), Some(Verdict::Clears));
    }

    #[test]
    fn what_cannot_be_meant_is_told() {
        for bad in [
            json!({ "above": { "limit": 1, "clear": 2 } }),
            json!({ "below": { "limit": 2, "clear": 1 } }),
            json!({ "is": [1] }),
            json!({ "is-not": null }),
        ] {
            let condition: Condition = serde_json::from_value(bad.clone()).unwrap();
            assert!(condition.nonsense().is_some(), "{bad}");
        }
        assert!(
            serde_json::from_value::<Condition>(json!({ "above": { "limit": 1, "x": 2 } }))
                .is_err()
        );
    }
}
