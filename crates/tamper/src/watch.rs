//! Findings over time: each is told once when it is new and once when it is over.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::finding::{Finding, Kind};

/// So many findings of one kind are kept; more are only counted.
const KEPT: usize = 128;
/// How long what is told of findings may be, in bytes of JSON: it must fit a message with room to spare.
const TOLD: usize = 24 << 10;

/// What is known of all kinds. It outlives the program, so that nothing is told twice.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watch {
    kinds: BTreeMap<Kind, Known>,
}

/// What the last look that could be had showed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    findings: BTreeSet<Finding>,
    /// Also those that aren't kept.
    count: usize,
    /// Why nobody can tell how it is now.
    #[serde(skip)]
    unknown: Option<String>,
    /// Not looked at since the program started.
    #[serde(skip)]
    seen: bool,
}

/// What has changed with a look.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// What wasn't there before.
    pub appeared: Vec<Finding>,
    /// What isn't there any more.
    pub over: Vec<Finding>,
}

impl Change {
    /// Whether nothing has.
    pub fn is_empty(&self) -> bool {
        self.appeared.is_empty() && self.over.is_empty()
    }

    /// Adds another one, of another kind.
    pub fn add(&mut self, other: Self) {
        self.appeared.extend(other.appeared);
        self.over.extend(other.over);
    }
}

impl Watch {
    /// Takes in what a look at one kind showed.
    pub fn saw(&mut self, kind: Kind, findings: Vec<Finding>) -> Change {
        let count = findings.len();
        let mut now: BTreeSet<_> = findings.into_iter().collect();
        let count = count.min(now.len());
        while now.len() > KEPT {
            now.pop_last();
        }
        let known = self.kinds.entry(kind).or_default();
        let change = Change {
            appeared: now.difference(&known.findings).cloned().collect(),
            over: known.findings.difference(&now).cloned().collect(),
        };
        *known = Known {
            findings: now,
            count,
            unknown: None,
            seen: true,
        };
        change
    }

    /// A look could not be had; gives whether that is another reason than before. What was found is not over.
    pub fn could_not_see(&mut self, kind: Kind, reason: &str) -> bool {
        let known = self.kinds.entry(kind).or_default();
        known.seen = true;
        let other = known.unknown.as_deref() != Some(reason);
        known.unknown = Some(reason.to_owned());
        other
    }

    /// What was found of a kind when it could be looked at last.
    pub fn found(&self, kind: Kind) -> BTreeSet<Finding> {
        let known = self.kinds.get(&kind);
        known
            .map(|known| known.findings.clone())
            .unwrap_or_default()
    }

    /// A kind that isn't looked at any more.
    pub fn forget(&mut self, kind: Kind) {
        self.kinds.remove(&kind);
    }

    /// `tamper.<kind>` for each kind that was looked at: how many findings there are. One that can't be looked at is left out.
    pub fn counts(&self) -> Map<String, Value> {
        let looked = self
            .kinds
            .iter()
            .filter(|(_, known)| known.seen && known.unknown.is_none());
        looked
            .map(|(kind, known)| (format!("tamper.{}", kind.as_str()), known.count.into()))
            .collect()
    }

    /// What is told of a change: the counts, and under `tamper_evidence` all that is found, the new ones first and marked, and what is
    /// over. Of more than 24 KiB the rest is left out and counted.
    pub fn told(&self, change: &Change) -> Map<String, Value> {
        let mut room = TOLD;
        let mut omitted = 0;
        let mut take = |value: Value, into: &mut Vec<Value>| {
            let size = value.to_string().len();
            if size > room {
                omitted += 1;
            } else {
                room -= size;
                into.push(value);
            }
        };
        let (mut findings, mut over) = (Vec::new(), Vec::new());
        for finding in &change.appeared {
            let mut value = as_value(finding);
            value["new"] = true.into();
            take(value, &mut findings);
        }
        for finding in &change.over {
            take(
                json!({ "kind": finding.kind, "subject": finding.subject, "what": finding.what }),
                &mut over,
            );
        }
        let all = self.kinds.values().flat_map(|known| &known.findings);
        for finding in all.filter(|finding| !change.appeared.contains(finding)) {
            take(as_value(finding), &mut findings);
        }
        let mut told = self.counts();
        let evidence = json!({ "findings": findings, "over": over, "omitted": omitted });
        told.insert("tamper_evidence".to_owned(), evidence);
        told
    }

    /// For a person at the console: what is found, and what can't be looked at.
    pub fn status(&self) -> Value {
        let all = self.kinds.values().flat_map(|known| &known.findings);
        let unknown: Map<String, Value> = self
            .kinds
            .iter()
            .filter_map(|(kind, known)| {
                Some((kind.as_str().to_owned(), known.unknown.clone()?.into()))
            })
            .collect();
        json!({ "counts": self.counts(), "findings": all.take(KEPT).collect::<Vec<_>>(), "unknown": unknown })
    }
}

fn as_value(finding: &Finding) -> Value {
    serde_json::to_value(finding).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn finding(name: &str) -> Finding {
        Finding::new(Kind::Etc, name, "changed")
    }

    #[test]
    fn a_finding_is_told_once_when_it_is_new_and_once_when_it_is_over() {
        let mut watch = Watch::default();
        assert_eq!(
            watch.counts(),
            Map::new(),
            "what wasn't looked at isn't well"
        );
        assert!(watch.saw(Kind::Etc, vec![]).is_empty());
        assert_eq!(watch.counts()["tamper.etc"], 0);
        let change = watch.saw(Kind::Etc, vec![finding("a"), finding("a")]);
        assert_eq!(change.appeared, [finding("a")]);
        assert_eq!(watch.counts()["tamper.etc"], 1);
        let told = watch.told(&change);
        assert_eq!(told["tamper.etc"], 1);
        assert_eq!(
            told["tamper_evidence"]["findings"],
            json!([{ "kind": "etc", "subject": "a", "what": "changed", "new": true }])
        );
        let change = watch.saw(Kind::Etc, vec![finding("a"), finding("b")]);
        assert_eq!((change.appeared.len(), change.over.len()), (1, 0));
        let change = watch.saw(Kind::Etc, vec![finding("b")]);
        assert_eq!(change.over, [finding("a")]);
        assert_eq!(
            watch.told(&change)["tamper_evidence"]["over"][0]["subject"],
            "a"
        );
    }

    #[test]
    fn what_cannot_be_seen_is_neither_well_nor_over() {
        let mut watch = Watch::default();
        watch.saw(Kind::Etc, vec![finding("a")]);
        assert!(watch.could_not_see(Kind::Etc, "no systemd"));
        assert!(!watch.could_not_see(Kind::Etc, "no systemd"), "logged once");
        assert_eq!(watch.counts(), Map::new());
        assert_eq!(watch.status()["unknown"]["etc"], "no systemd");
        assert!(watch.saw(Kind::Etc, vec![finding("a")]).is_empty());
        assert_eq!(watch.counts()["tamper.etc"], 1);
    }

    #[test]
    fn a_restart_tells_nothing_again_and_is_no_look() {
        let mut watch = Watch::default();
        watch.saw(Kind::Etc, vec![finding("a")]);
        let kept = serde_json::to_string(&watch).unwrap();
        let mut again: Watch = serde_json::from_str(&kept).unwrap();
        assert_eq!(again.counts(), Map::new());
        assert!(again.saw(Kind::Etc, vec![finding("a")]).is_empty());
    }

    #[test]
    fn more_than_anybody_reads_is_counted() {
        let mut watch = Watch::default();
        let many = (0..10_000)
            .map(|n| finding(&format!("{n:05}{}", "x".repeat(300))))
            .collect();
        let change = watch.saw(Kind::Etc, many);
        let told = watch.told(&change);
        assert_eq!(told["tamper.etc"], 10_000);
        assert!(Value::from(told.clone()).to_string().len() < TOLD + 1024);
        let shown = told["tamper_evidence"]["findings"].as_array().unwrap();
        assert_eq!(told["tamper_evidence"]["omitted"], KEPT - shown.len());
    }

    proptest! {
        /// Whoever adds up what is told knows what is there.
        #[test]
        fn changes_add_up_to_what_is_there(looks in prop::collection::vec(prop::collection::btree_set("[a-e]", 0..5), 0..20)) {
            let mut watch = Watch::default();
            let mut known = BTreeSet::new();
            for look in looks {
                let change = watch.saw(Kind::Etc, look.iter().map(|name| finding(name)).collect());
                for finding in &change.appeared {
                    prop_assert!(known.insert(finding.subject.clone()), "told twice");
                }
                for finding in &change.over {
                    prop_assert!(known.remove(&finding.subject), "over twice");
                }
                prop_assert_eq!(&known, &look);
                watch = serde_json::from_str(&serde_json::to_string(&watch).unwrap()).unwrap();
            }
        }
    }
}
