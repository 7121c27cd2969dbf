//! The kernel's modules: each must be one of the kernel container's, and built with that kernel.

use std::collections::BTreeSet;

use crate::finding::{Finding, Kind};
use crate::glob;

/// So many modules are read.
const MANY: usize = 4096;

/// A module that is loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Its name, with `_` and no `-`.
    pub name: String,
    /// What it taints the kernel with (`Documentation/admin-guide/tainted-kernels.rst`).
    pub taints: String,
}

/// Reads `/proc/modules`.
pub fn parse(text: &str) -> Vec<Module> {
    let read = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let name = words.next()?.to_owned();
        // Size, uses, users, state, address; then flags, if there are any.
        let taints = words.nth(5).unwrap_or_default();
        let taints = taints.trim_matches(['(', ')', '-', '+']).to_owned();
        Some(Module { name, taints })
    };
    text.lines().take(MANY).filter_map(read).collect()
}

/// The module that a line of `modules.dep` is about: `kernel/drivers/md/dm-verity.ko.zst: …`.
pub fn in_dep(line: &str) -> Option<String> {
    let file = line.split(':').next()?.rsplit('/').next()?;
    Some(file.split_once(".ko")?.0.replace('-', "_"))
}

/// What is loaded and isn't of `baked`, or is no part of this kernel: forced in, built elsewhere, or unsigned. `expected` are names with
/// `*`.
pub fn judge(modules: &[Module], baked: &BTreeSet<String>, expected: &[String]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for module in modules {
        if glob::any(expected, &module.name) {
            continue;
        }
        let what = if !baked.contains(&module.name) {
            "is loaded, and is not in the kernel container"
        } else if module.taints.contains(['F', 'O', 'E']) {
            "is loaded, and was forced in, built out of the tree or not signed"
        } else {
            continue;
        };
        let finding = Finding::new(Kind::Modules, &module.name, what);
        findings.push(if module.taints.is_empty() {
            finding
        } else {
            finding.with("taints", &module.taints)
        });
    }
    findings
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_module_is_the_containers_and_of_its_kernel() {
        let text = "\
dm_verity 40960 2 - Live 0xffffffffc0a00000
evil 16384 0 - Live 0xffffffffc0b00000 (OE)
loop 40960 4 dm_verity, Live 0xffffffffc0c00000 (E+)
nvidia 40960 4 - Live 0xffffffffc0c00000 (POE)
odd
";
        let baked = [
            "kernel/drivers/md/dm-verity.ko.zst: kernel/a.ko.zst",
            "kernel/loop.ko:",
            "extra/nvidia.ko.xz:",
            "no module",
        ];
        let baked = baked.iter().filter_map(|line| in_dep(line)).collect();
        let found = judge(&parse(text), &baked, &["nvidia*".to_owned()]);
        let names: Vec<_> = found.iter().map(|f| f.subject.as_str()).collect();
        assert_eq!(names, ["evil", "loop", "odd"]);
        assert_eq!(found[1].evidence["taints"], "E");
    }

    proptest! {
        #[test]
        fn no_text_panics(text in any::<String>()) {
            let baked = text.lines().filter_map(in_dep).collect();
            let _ = judge(&parse(&text), &baked, &[]);
        }
    }
}
