//! What systemd runs: each unit that can start a program has its file, and that file must be the image's.

use std::collections::BTreeSet;

use crate::finding::{Finding, Kind};
use crate::glob;

/// So many units are looked at.
const UNITS: usize = 10_000;

/// The properties that [`parse`] needs, for `systemctl show --property=`.
pub const PROPERTIES: &str = "Id,ActiveState,FragmentPath,DropInPaths";
/// The kinds of units that start programs, as patterns for systemctl.
pub const PATTERNS: [&str; 4] = ["*.service", "*.socket", "*.timer", "*.path"];

/// A unit, as systemd shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unit {
    /// Its name.
    pub id: String,
    /// The file that it was read from; empty if there is none.
    pub file: String,
    /// Files that change it.
    pub drop_ins: Vec<String>,
}

/// The active units in what `systemctl show` prints: `Name=value` lines, and an empty line between units.
pub fn parse(text: &str) -> Vec<Unit> {
    let read = |block: &str| {
        let value = |name: &str| {
            let mut lines = block.lines();
            lines.find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
        };
        let state = value("ActiveState")?;
        matches!(state, "active" | "activating" | "reloading" | "refreshing").then_some(())?;
        let drop_ins = value("DropInPaths").unwrap_or_default();
        Some(Unit {
            id: value("Id")?.to_owned(),
            file: value("FragmentPath").unwrap_or_default().to_owned(),
            drop_ins: drop_ins
                .split_ascii_whitespace()
                .map(str::to_owned)
                .collect(),
        })
    };
    text.split("\n\n").filter_map(read).take(UNITS).collect()
}

/// Which units are the image's, and what is wrong with the others. `is_baked` says whether a file is as in the image; `expected` are
/// names with `*` that may be others'.
pub fn judge(
    units: &[Unit],
    expected: &[String],
    is_baked: impl Fn(&str) -> bool,
) -> (BTreeSet<String>, Vec<Finding>) {
    let good = |path: &&String| is_generated(path) || is_baked(path);
    let mut baked = BTreeSet::new();
    let mut findings = Vec::new();
    for unit in units {
        let what = if unit.file.is_empty() {
            Some("runs, and has no file")
        } else if !good(&&unit.file) {
            Some("runs, and is not the image's")
        } else if !unit.drop_ins.iter().all(|path| good(&path)) {
            Some("runs, changed by files that are not the image's")
        } else {
            None
        };
        match what {
            None => drop(baked.insert(unit.id.clone())),
            Some(_) if glob::any(expected, &unit.id) => {}
            Some(what) => {
                let files = std::iter::once(&unit.file).chain(&unit.drop_ins);
                let strange: Vec<_> = files.filter(|path| !good(path)).cloned().collect();
                let finding = Finding::new(Kind::Units, &unit.id, what);
                findings.push(finding.with("files", strange.join(" ")));
            }
        }
    }
    (baked, findings)
}

/// systemd's generators, programs of the image, make these from the kernel's command line and `/etc`, which are looked at themselves.
fn is_generated(path: &str) -> bool {
    ["", ".early", ".late"]
        .iter()
        .any(|when| path.starts_with(&format!("/run/systemd/generator{when}/")))
        && !path.contains("/../")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SHOWN: &str = "\
Id=getty@tty1.service
ActiveState=active
FragmentPath=/usr/lib/systemd/system/getty@.service
DropInPaths=/etc/systemd/system/getty@tty1.service.d/autologin.conf /run/systemd/generator/getty@tty1.service.d/x.conf

Id=run-r1.service
FragmentPath=/run/systemd/transient/run-r1.service
ActiveState=activating
DropInPaths=

Id=web.service
ActiveState=inactive
FragmentPath=/etc/systemd/system/web.service

FragmentPath=
ActiveState=active
Id=odd.socket
";

    #[test]
    fn what_runs_is_the_images_or_told() {
        let units = parse(SHOWN);
        assert_eq!(units.len(), 3, "what doesn't run can do nothing");
        let is_baked = |path: &str| path.starts_with("/usr/") || path.ends_with("autologin.conf");
        let (baked, findings) = judge(&units, &[], is_baked);
        assert_eq!(
            baked.into_iter().collect::<Vec<_>>(),
            ["getty@tty1.service"]
        );
        let told: Vec<_> = findings
            .iter()
            .map(|f| (f.subject.as_str(), f.evidence["files"].as_str()))
            .collect();
        assert_eq!(
            told,
            [
                ("run-r1.service", "/run/systemd/transient/run-r1.service"),
                ("odd.socket", "")
            ]
        );
        let expected = ["run-*".to_owned(), "odd.socket".to_owned()];
        assert_eq!(judge(&units, &expected, is_baked).1, []);
        let (_, findings) = judge(&units[..1], &[], |path| path.starts_with("/usr/"));
        assert!(findings[0].evidence["files"].ends_with("autologin.conf"));
        assert!(!is_generated("/run/systemd/generator/../system/x.service"));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = judge(&parse(&format!("ActiveState=active\nId=x\nFragmentPath={text}")), std::slice::from_ref(&text), |_| false);
            let _ = parse(&text);
        }
    }
}
