//! Holds what ARCHITECTURE.md promises: which crate may know which, what the pure
//! crates must not touch, and which folders there are.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;
use walkdir::WalkDir;

/// Each crate's folder, its package, and the crates of ours that it may know.
const CRATES: [(&str, &str, &[&str]); 21] = [
    ("crates/release", "cairn-release", &[]),
    ("crates/boot-state", "cairn-boot-state", &["cairn-release"]),
    ("crates/delta", "cairn-delta", &["cairn-release"]),
    ("crates/wire", "cairn-wire", &["cairn-release"]),
    (
        "crates/update",
        "cairn-update",
        &["cairn-release", "cairn-boot-state", "cairn-wire"],
    ),
    ("crates/fleet", "cairn-fleet", &[]),
    (
        "crates/rollout",
        "cairn-rollout",
        &["cairn-release", "cairn-wire", "cairn-fleet"],
    ),
    ("crates/alarm", "cairn-alarm", &["cairn-fleet"]),
    ("crates/placement", "cairn-placement", &["cairn-fleet"]),
    ("crates/traffic", "cairn-traffic", &["cairn-release"]),
    ("crates/line", "cairn-line", &[]),
    (
        "crates/workload",
        "cairn-workload",
        &["cairn-release", "cairn-wire"],
    ),
    ("crates/tamper", "cairn-tamper", &[]),
    (
        "crates/topology",
        "cairn-topology",
        &["cairn-release", "cairn-wire"],
    ),
    ("crates/system", "cairn-system", &[]),
    (
        "initramfs-hook",
        "cairn-initramfs-hook",
        &["cairn-release", "cairn-boot-state"],
    ),
    (
        "agent",
        "cairn-agent",
        &[
            "cairn-release",
            "cairn-boot-state",
            "cairn-wire",
            "cairn-update",
            "cairn-workload",
            "cairn-topology",
            "cairn-delta",
            "cairn-traffic",
            "cairn-line",
            "cairn-tamper",
            "cairn-system",
        ],
    ),
    (
        "control-plane",
        "cairn-control-plane",
        &[
            "cairn-release",
            "cairn-delta",
            "cairn-wire",
            "cairn-fleet",
            "cairn-rollout",
            "cairn-alarm",
            "cairn-placement",
            "cairn-traffic",
        ],
    ),
    (
        "imgtool",
        "cairn-imgtool",
        &[
            "cairn-release",
            "cairn-boot-state",
            "cairn-delta",
            "cairn-system",
        ],
    ),
    (
        "tests",
        "cairn-tests",
        &[
            "cairn-release",
            "cairn-boot-state",
            "cairn-wire",
            "cairn-delta",
            "cairn-system",
            "cairn-imgtool",
        ],
    ),
    (
        "tests/fuzz/targets",
        "cairn-fuzz-targets",
        &[
            "cairn-release",
            "cairn-boot-state",
            "cairn-delta",
            "cairn-wire",
        ],
    ),
];

/// Crates that are functions over bytes.
const PURE: [&str; 14] = [
    "crates/delta",
    "crates/release",
    "crates/boot-state",
    "crates/wire",
    "crates/update",
    "crates/fleet",
    "crates/rollout",
    "crates/alarm",
    "crates/placement",
    "crates/traffic",
    "crates/line",
    "crates/tamper",
    "crates/workload",
    "crates/topology",
];

/// What a function over bytes has no use for.
const EFFECTS: &str = r"\bstd::(fs|net|process|thread|env)\b|\bstd::io::std(in|out|err)\b|\bSystemTime\b|\bInstant\b|\bTimestamp::now\b";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()))
}

fn toml(path: &Path) -> toml::Table {
    read(path)
        .parse()
        .unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()))
}

/// The crates of ours that a Cargo.toml names, in whatever table of dependencies.
fn ours(table: &toml::Table) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (name, value) in table {
        let Some(inner) = value.as_table() else {
            continue;
        };
        if name.ends_with("dependencies") {
            for (key, dependency) in inner {
                let renamed = dependency.get("package").and_then(|name| name.as_str());
                found.insert(renamed.unwrap_or(key).to_owned());
            }
        } else if name == "target" {
            for platform in inner.values().filter_map(|value| value.as_table()) {
                found.extend(ours(platform));
            }
        }
    }
    found.retain(|name| name.starts_with("cairn-"));
    found
}

#[test]
fn every_member_of_the_workspace_has_a_rule() {
    let workspace = toml(&root().join("Cargo.toml"));
    let members: BTreeSet<&str> = workspace["workspace"]["members"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|member| member.as_str())
        .collect();
    assert_eq!(members, CRATES.map(|(folder, ..)| folder).into());
}

#[test]
fn a_crate_knows_only_the_crates_above_it() {
    for (folder, package, allowed) in CRATES {
        let table = toml(&root().join(folder).join("Cargo.toml"));
        assert_eq!(table["package"]["name"].as_str(), Some(package), "{folder}");
        let allowed: BTreeSet<String> = allowed.iter().map(|&name| name.to_owned()).collect();
        let wrong: Vec<String> = ours(&table).difference(&allowed).cloned().collect();
        assert!(wrong.is_empty(), "{package} must not know {wrong:?}");
    }
}

#[test]
fn a_renamed_or_conditional_dependency_is_seen() {
    let table: toml::Table = r#"
        [dependencies]
        serde = "1"
        harness = { package = "cairn-tests", path = "../tests" }
        [dev-dependencies]
        cairn-system.workspace = true
        [target.'cfg(unix)'.build-dependencies]
        cairn-imgtool.workspace = true
    "#
    .parse()
    .unwrap();
    let expected = ["cairn-imgtool", "cairn-system", "cairn-tests"];
    assert_eq!(ours(&table), expected.map(str::to_owned).into());
}

/// The lines that have an effect on the world, or take one from it, with their
/// numbers. A test module ends a file; comments don't count.
fn effects(source: &str) -> Vec<(usize, &str)> {
    let effect = Regex::new(EFFECTS).unwrap();
    // `use std::{…}` would hide what follows it from the pattern.
    let grouped = Regex::new(r"\buse std::\{").unwrap();
    source
        .lines()
        .enumerate()
        .take_while(|(_, line)| line.trim() != "#[cfg(test)]")
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
        .filter(|(_, line)| effect.is_match(line) || grouped.is_match(line))
        .map(|(at, line)| (at + 1, line.trim()))
        .collect()
}

#[test]
fn the_pure_crates_touch_no_file_socket_process_or_clock() {
    for folder in PURE {
        let mut files = 0;
        for entry in WalkDir::new(root().join(folder).join("src")) {
            let path = entry.unwrap().into_path();
            if path.extension().is_none_or(|extension| extension != "rs") {
                continue;
            }
            files += 1;
            let source = read(&path);
            let found = effects(&source);
            assert!(found.is_empty(), "{}: {found:?}", path.display());
        }
        assert!(files > 0, "{folder} has no source");
    }
}

#[test]
fn an_effect_is_seen_and_a_test_may_have_one() {
    let source = "\
use std::fmt;
// std::fs is for others
let now = Instant::now();
use std::{fs, io};
fn installs() {}
#[cfg(test)]
use std::fs;
";
    let lines: Vec<usize> = effects(source).into_iter().map(|(at, _)| at).collect();
    assert_eq!(lines, [3, 4]);
}

/// The folders in the first column of the table under "Folders".
fn listed() -> BTreeSet<String> {
    let text = read(&root().join("ARCHITECTURE.md"));
    let row = Regex::new(r"^\| `([a-z.][a-z-]*)/").unwrap();
    text.lines()
        .skip_while(|line| *line != "## Folders")
        .skip(1)
        .take_while(|line| !line.starts_with("## "))
        .filter_map(|line| Some(row.captures(line)?[1].to_owned()))
        .collect()
}

#[test]
fn the_folders_are_those_that_the_architecture_lists() {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(root()).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        // An editor's folders are nobody's business; CI's is ours.
        let own = !name.starts_with('.') || name == ".ci";
        if own && name != "target" && entry.file_type().unwrap().is_dir() {
            found.insert(name);
        }
    }
    assert_eq!(found, listed());
}

/// `make test` doesn't look for tests in docs, which would take a minute to find none.
#[test]
fn code_in_docs_is_no_test() {
    let fence = Regex::new(r"^\s*//[/!]\s*```(\w*)").unwrap();
    for (folder, ..) in CRATES {
        for entry in WalkDir::new(root().join(folder).join("src")) {
            let path = entry.unwrap().into_path();
            if path.extension().is_none_or(|extension| extension != "rs") {
                continue;
            }
            let source = read(&path);
            let fences = source.lines().filter_map(|line| fence.captures(line));
            for opening in fences.step_by(2) {
                assert!(
                    matches!(&opening[1], "text" | "toml" | "json" | "sh"),
                    "{}: expected text, toml, json or sh behind the fence",
                    path.display()
                );
            }
        }
    }
}
