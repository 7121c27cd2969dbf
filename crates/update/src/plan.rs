//! Whether a release fits, and what goes to make room: known before a byte is written.
//!
//! Only DATA takes new bytes. The boot state on the ESP is written in place, and falling back writes nothing at all.

use std::collections::BTreeSet;

use cairn_release::Version;
use cairn_wire::report::FailureKind;

use crate::memory::Memory;
use crate::state::{Cause, Facts, Rules};
use crate::survey::{Installed, Survey};

/// What a release takes beside its bytes: folders, the last block of each file, the tree of extents.
pub const OVERHEAD: u64 = 1 << 20;

/// What an update needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Releases that go first, in this order.
    pub remove: Vec<Version>,
    /// Bytes to fetch at most: what older releases or neighbours have doesn't come from the server.
    pub fetch: u64,
    /// Bytes of DATA that are free at the worst moment.
    pub free_at_peak: u64,
}

impl Plan {
    /// For people.
    pub fn describe(&self) -> String {
        let mut text = format!("at most {} to fetch", size(self.fetch));
        if !self.remove.is_empty() {
            let names: Vec<_> = self.remove.iter().map(Version::as_str).collect();
            text += &format!(", {} goes first", names.join(", "));
        }
        text + &format!(", {} of DATA stay free", size(self.free_at_peak))
    }
}

/// Plans an update to `facts`. `protected` stays whatever happens.
///
/// # Errors
/// If it doesn't fit even without everything that may go.
pub fn plan(
    facts: &Facts,
    survey: &Survey,
    protected: &BTreeSet<Version>,
    failed: &Memory,
    rules: &Rules,
) -> Result<Plan, Cause> {
    let there = survey.installed.iter().find(|i| i.version == facts.version);
    let same = there.is_some_and(|i| i.whole && i.digest == Some(facts.digest));
    let size_of_all = facts
        .manifest_size
        .saturating_add(facts.kernel.size)
        .saturating_add(facts.root.size);
    let fetch = if same {
        0
    } else {
        size_of_all.saturating_sub(survey.fetched)
    };
    let need = if same {
        0
    } else {
        fetch.saturating_add(OVERHEAD)
    }
    .saturating_add(rules.reserve);

    let mut remove = Vec::new();
    let mut free = survey.free;
    // The name is taken by something else: it has to go in any case.
    if let Some(there) = there.filter(|_| !same) {
        remove.push(there.version.clone());
        free = free.saturating_add(there.bytes);
    }
    let mut may_go: Vec<&Installed> = survey
        .installed
        .iter()
        .filter(|i| i.version != facts.version && !protected.contains(&i.version))
        .collect();
    // Known-bad ones first, then the oldest.
    may_go.sort_by_key(|i| (!is_bad(i, failed), i.created, i.version.clone()));
    for candidate in may_go {
        if free >= need && !is_bad(candidate, failed) {
            break;
        }
        remove.push(candidate.version.clone());
        free = free.saturating_add(candidate.bytes);
    }
    if free < need {
        return Err(Cause::passing(
            FailureKind::Space,
            format!(
                "DATA has {} free, {} more with everything removed that may go; {} are needed, {} of them to stay free",
                size(survey.free),
                size(free - survey.free.min(free)),
                size(need),
                size(rules.reserve)
            ),
        ));
    }
    let free_at_peak = free - need + rules.reserve;
    Ok(Plan {
        remove,
        fetch,
        free_at_peak,
    })
}

/// What may go when nothing is under way: all that failed, and all but the `keep` newest of the others.
pub fn tidy(
    survey: &Survey,
    protected: &BTreeSet<Version>,
    failed: &Memory,
    keep: usize,
) -> Vec<Version> {
    let mut others: Vec<&Installed> = survey
        .installed
        .iter()
        .filter(|i| !protected.contains(&i.version))
        .collect();
    others.sort_by_key(|i| std::cmp::Reverse((i.created, i.version.clone())));
    let mut kept = 0;
    others.retain(|i| {
        if is_bad(i, failed) || !i.whole {
            return true;
        }
        kept += 1;
        kept > keep
    });
    others.into_iter().map(|i| i.version.clone()).collect()
}

fn is_bad(installed: &Installed, failed: &Memory) -> bool {
    match &installed.digest {
        Some(digest) => failed.get(digest).is_some(),
        None => failed.names(&installed.version),
    }
}

/// Bytes for people.
pub fn size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    for (unit, one) in UNITS {
        if bytes >= one {
            return format!("{}.{} {unit}", bytes / one, bytes % one * 10 / one);
        }
    }
    format!("{bytes} bytes")
}

#[cfg(test)]
mod tests {
    use cairn_release::Digest;

    use super::*;
    use crate::machine::tests::{facts, version};
    use crate::memory::Entry;

    const MIB: u64 = 1 << 20;

    fn installed(name: &str, mib: u64, created: i64) -> Installed {
        Installed {
            version: version(name),
            digest: Some(Digest::of(name.as_bytes())),
            bytes: mib * MIB,
            created,
            whole: true,
        }
    }

    fn bad(names: &[&str]) -> Memory {
        let mut memory = Memory::default();
        for name in names {
            memory.remember(Entry {
                digest: Digest::of(name.as_bytes()),
                version: version(name),
                kind: FailureKind::FellBack,
                reason: String::new(),
                evidence: None,
            });
        }
        memory
    }

    fn names(versions: &[Version]) -> Vec<&str> {
        versions.iter().map(Version::as_str).collect()
    }

    fn with(free: u64, fetched: u64) -> Survey {
        Survey {
            free: free * MIB,
            installed: vec![
                installed("1.0", 100, 10),
                installed("0.9", 100, 9),
                installed("0.8", 100, 8),
                installed("1.1-bad", 100, 11),
            ],
            fetched: fetched * MIB,
        }
    }

    fn planned(survey: &Survey) -> Result<Plan, Cause> {
        let protected = BTreeSet::from([version("1.0"), version("2.0")]);
        let mut facts = facts("2.0", 2);
        (facts.kernel.size, facts.root.size, facts.manifest_size) = (30 * MIB, 69 * MIB, MIB);
        plan(
            &facts,
            survey,
            &protected,
            &bad(&["1.1-bad"]),
            &Rules::default(),
        )
    }

    #[test]
    fn known_bad_goes_first_then_the_oldest_and_only_what_must() {
        assert_eq!(names(&planned(&with(300, 0)).unwrap().remove), ["1.1-bad"]);
        assert_eq!(names(&planned(&with(65, 0)).unwrap().remove), ["1.1-bad"]);
        assert_eq!(
            names(&planned(&with(64, 0)).unwrap().remove),
            ["1.1-bad", "0.8"]
        );
        let exact = planned(&with(65, 0)).unwrap();
        assert_eq!((exact.fetch, exact.free_at_peak), (100 * MIB, 64 * MIB));
    }

    #[test]
    fn what_is_fetched_already_needs_no_room() {
        assert_eq!(names(&planned(&with(5, 60)).unwrap().remove), ["1.1-bad"]);
    }

    #[test]
    fn the_good_release_never_goes_and_the_reason_says_what_is_missing() {
        let survey = Survey {
            free: 100 * MIB,
            installed: vec![installed("1.0", 900, 1)],
            fetched: 0,
        };
        let cause = planned(&survey).unwrap_err();
        assert_eq!((cause.kind, cause.retry), (FailureKind::Space, true));
        assert_eq!(
            cause.reason,
            "DATA has 100.0 MiB free, 0 bytes more with everything removed that may go; 165.0 MiB are needed, 64.0 MiB of them to stay free"
        );
    }

    #[test]
    fn another_release_of_the_same_name_goes_and_the_same_one_is_used() {
        let mut survey = with(300, 0);
        survey.installed.push(installed("2.0", 50, 20));
        assert_eq!(names(&planned(&survey).unwrap().remove), ["2.0", "1.1-bad"]);
        survey.installed[4].digest = Some(facts("2.0", 2).digest);
        let plan = planned(&survey).unwrap();
        assert_eq!((names(&plan.remove), plan.fetch), (vec!["1.1-bad"], 0));
        survey.installed[4].whole = false;
        assert_eq!(names(&planned(&survey).unwrap().remove), ["2.0", "1.1-bad"]);
    }

    #[test]
    fn tidying_keeps_the_newest() {
        let protected = BTreeSet::from([version("1.0")]);
        let gone = tidy(&with(0, 0), &protected, &bad(&["1.1-bad"]), 1);
        assert_eq!(names(&gone), ["1.1-bad", "0.8"]);
        assert_eq!(
            names(&tidy(&with(0, 0), &protected, &bad(&[]), 0)),
            ["1.1-bad", "0.9", "0.8"]
        );
    }
}
