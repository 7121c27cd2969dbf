//! What people say of a workload's places.

use cairn_fleet::selector::SelectorError;
use cairn_fleet::{Seconds, Selector};
use serde::{Deserialize, Serialize};

use crate::node::Node;

/// The most copies of a workload; more nodes are meant by leaving `copies` out.
pub const MAX_COPIES: u32 = 10_000;
/// A node that is away for less is not given up: lines drop.
const LEAST_MOVE: Seconds = Seconds(60);

/// Where a workload may run, and on how many nodes. In JSON `on` is the only field that must be there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The nodes that it may run on.
    pub on: Selector,
    /// On how many of them, each with one; none: on each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copies: Option<u32>,
    /// What copies are spread over, evenly as far as nodes allow. Two never share a node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spread: Option<Spread>,
    /// What a node's best line must do when a copy is placed there.
    #[serde(default, skip_serializing_if = "LineNeed::is_none")]
    pub line: LineNeed,
    /// After how long a copy moves from a node that isn't heard of, or where it failed.
    #[serde(default = "quarter", skip_serializing_if = "is_quarter")]
    pub move_after: Seconds,
}

fn quarter() -> Seconds {
    Seconds(900)
}

fn is_quarter(time: &Seconds) -> bool {
    *time == quarter()
}

/// What copies are spread over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Spread {
    /// Groups of devices.
    Group,
    /// Suppliers.
    Supplier,
    /// What follows this in a tag: with `site-`, nodes tagged `site-fra` and `site-ber` are two places.
    Tag(String),
}

impl Spread {
    /// The place that a node counts for.
    pub(crate) fn place<'a>(&self, node: &'a Node) -> &'a str {
        match self {
            Self::Group => &node.group,
            Self::Supplier => node.supplier.as_deref().unwrap_or_default(),
            Self::Tag(stem) => {
                let mut tags = node.tags.iter();
                tags.find_map(|tag| tag.strip_prefix(stem.as_str()))
                    .unwrap_or_default()
            }
        }
    }
}

/// What a line must do. A figure that isn't known doesn't do it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LineNeed {
    /// Latency at most, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<f64>,
    /// Lost packets at most, in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_percent: Option<f64>,
    /// What it takes upwards at least, in bit/s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up_bps: Option<f64>,
}

impl LineNeed {
    fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Whether one of the node's lines does all of it.
    pub(crate) fn is_met(&self, node: &Node) -> bool {
        let most = |limit: Option<f64>, seen: Option<f64>| {
            limit.is_none_or(|limit| seen.is_some_and(|seen| seen <= limit))
        };
        let least = |limit: Option<f64>, seen: Option<f64>| {
            limit.is_none_or(|limit| seen.is_some_and(|seen| seen >= limit))
        };
        self.is_none()
            || node.lines.iter().any(|line| {
                most(self.latency_ms, line.latency_ms)
                    && most(self.loss_percent, line.loss_percent)
                    && least(self.up_bps, line.up_bps)
            })
    }
}

/// A rule makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// Nobody is meant, or too many one by one.
    #[error("on: {0}")]
    On(#[from] SelectorError),
    /// None, or too many.
    #[error("copies: expected 1 to {MAX_COPIES}, got {0}")]
    Copies(u32),
    /// Without copies there is nothing to spread or move.
    #[error("{0}: only copies are spread and moved; expected copies beside it")]
    Each(&'static str),
    /// An empty stem would be any tag.
    #[error("spread: expected the beginning of a tag, as site-")]
    Stem,
    /// A figure that no line can have.
    #[error("line.{0}: expected a number of 0 or more")]
    Line(&'static str),
    /// Too soon.
    #[error("move_after: expected 60s or more")]
    Soon,
}

impl Rule {
    /// Whether it makes sense.
    ///
    /// # Errors
    /// Names the field and what was expected.
    pub fn check(&self) -> Result<(), RuleError> {
        self.on.check()?;
        match self.copies {
            Some(copies) if !(1..=MAX_COPIES).contains(&copies) => {
                return Err(RuleError::Copies(copies));
            }
            None if self.spread.is_some() => return Err(RuleError::Each("spread")),
            None if !is_quarter(&self.move_after) => return Err(RuleError::Each("move_after")),
            _ => {}
        }
        if self.spread == Some(Spread::Tag(String::new())) {
            return Err(RuleError::Stem);
        }
        let figures = [
            ("latency_ms", self.line.latency_ms),
            ("loss_percent", self.line.loss_percent),
            ("up_bps", self.line.up_bps),
        ];
        let wrong = |figure: f64| !(figure.is_finite() && figure >= 0.0);
        if let Some((name, _)) = figures
            .into_iter()
            .find(|(_, figure)| figure.is_some_and(wrong))
        {
            return Err(RuleError::Line(name));
        }
        if self.move_after < LEAST_MOVE {
            return Err(RuleError::Soon);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_named() {
        let rule = |text: &str| serde_json::from_str::<Rule>(text).unwrap();
        let wrong = |text: &str| rule(text).check().unwrap_err().to_string();
        let full = r#"{"on":{"group":"fra"},"copies":3,"spread":{"tag":"site-"},
            "line":{"latency_ms":50,"loss_percent":1.5,"up_bps":1e8},"move_after":"1h"}"#;
        assert_eq!(rule(full).check(), Ok(()));
        let again: Rule =
            serde_json::from_str(&serde_json::to_string(&rule(full)).unwrap()).unwrap();
        assert_eq!(again, rule(full));
        assert_eq!(rule(r#"{"on":"all"}"#).check(), Ok(()));
        assert!(wrong(r#"{"on":"all","copies":0}"#).starts_with("copies: expected 1 to 10000"));
        assert!(wrong(r#"{"on":{"tags":[]}}"#).starts_with("on: "));
        assert!(wrong(r#"{"on":"all","spread":"group"}"#).starts_with("spread: "));
        assert!(wrong(r#"{"on":"all","move_after":"1h"}"#).starts_with("move_after: "));
        assert!(wrong(r#"{"on":"all","copies":1,"move_after":"5s"}"#).contains("60s"));
        assert!(wrong(r#"{"on":"all","copies":1,"spread":{"tag":""}}"#).contains("site-"));
        assert!(wrong(r#"{"on":"all","line":{"up_bps":-1}}"#).starts_with("line.up_bps"));
        assert!(serde_json::from_str::<Rule>(r#"{"copies":1}"#).is_err());
    }
}
