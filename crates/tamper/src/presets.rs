//! Which of the image's units the first boot enables: systemd then makes links in `/etc`, which are no sign of tampering.
//!
//! systemd.preset(5): the first line that names a unit counts; a unit that none names is enabled. What `[Install]` names under `Also=` is
//! enabled with it.

use std::collections::{BTreeMap, BTreeSet};

use crate::glob;

/// So many units are looked at.
const UNITS: usize = 10_000;

/// The lines of all preset files, in the order in which they count.
#[derive(Debug, Clone, Default)]
pub struct Presets(Vec<(bool, String)>);

impl Presets {
    /// Of the files' texts, in the order of their names.
    pub fn parse<T: AsRef<str>>(texts: &[T]) -> Self {
        let lines = texts.iter().flat_map(|text| text.as_ref().lines());
        let read = |line: &str| {
            let mut words = line.split_ascii_whitespace();
            let enable = match words.next()? {
                "enable" => true,
                "disable" | "ignore" => false,
                _ => return None,
            };
            Some((enable, words.next()?.to_owned()))
        };
        Self(lines.filter_map(read).collect())
    }

    fn enables(&self, unit: &str) -> bool {
        let line = self.0.iter().find(|(_, name)| glob::matches(name, unit));
        line.is_none_or(|(enable, _)| *enable)
    }
}

/// What the first boot enables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Enabled {
    /// Each unit with its other names.
    names: BTreeMap<String, Vec<String>>,
    /// All units that the image has.
    all: BTreeSet<String>,
}

impl Enabled {
    /// Of the image's units: their names, and what gives the text of one.
    pub fn new(
        presets: &Presets,
        units: impl IntoIterator<Item = String>,
        read: impl Fn(&str) -> Option<String>,
    ) -> Self {
        let all: BTreeSet<String> = units.into_iter().take(UNITS).collect();
        let named = all.iter().filter(|unit| presets.enables(unit));
        let mut open: Vec<String> = named.cloned().collect();
        let mut names = BTreeMap::new();
        while let Some(unit) = open.pop() {
            if names.len() >= UNITS || names.contains_key(&unit) {
                continue;
            }
            let Some(text) = read(&unit) else { continue };
            let (also, alias) = install(&text);
            open.extend(also);
            names.insert(unit, alias);
        }
        Self { names, all }
    }

    /// Whether a link at `path` (relative to `/etc`) to `target` is one that enables such a unit, or one that an earlier release had.
    pub fn makes(&self, path: &str, target: &str) -> bool {
        let (Some(path), Some((folder, target))) = (
            path.strip_prefix("systemd/system/"),
            target.rsplit_once('/'),
        ) else {
            return false;
        };
        if !matches!(folder, "/usr/lib/systemd/system" | "/lib/systemd/system") {
            return false;
        }
        let aliases = self.names.get(target);
        match path.split_once('/') {
            None => aliases.is_some_and(|aliases| aliases.iter().any(|alias| alias == path)),
            Some((folder, name)) => {
                let wants = [".wants", ".requires", ".upholds"];
                let same = name == target || template(name).as_deref() == Some(target);
                // A link to a unit that isn't there starts nothing.
                let gone = || !self.all.contains(target);
                wants.iter().any(|wants| folder.ends_with(wants))
                    && same
                    && (aliases.is_some() || gone())
            }
        }
    }
}

/// `getty@.service` of `getty@tty1.service`.
fn template(unit: &str) -> Option<String> {
    let (name, rest) = unit.split_once('@')?;
    let (_, kind) = rest.rsplit_once('.')?;
    Some(format!("{name}@.{kind}"))
}

/// `Also=` and `Alias=` of a unit's `[Install]`.
fn install(text: &str) -> (Vec<String>, Vec<String>) {
    let (mut also, mut alias) = (Vec::new(), Vec::new());
    let mut within = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            within = line == "[Install]";
        } else if let Some((name, value)) = line.split_once('=').filter(|_| within) {
            let words = value.split_ascii_whitespace().map(str::to_owned);
            match name.trim_end() {
                "Also" => also.extend(words),
                "Alias" => alias.extend(words),
                _ => {}
            }
        }
    }
    (also, alias)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As in systemd 252, and what a first boot in QEMU made of it.
    fn stock() -> Enabled {
        let presets = Presets::parse(&[
            "# comment\nenable getty@.service\nenable systemd-networkd.service\nenable reboot.target\ndisable debug-shell.service\ndisable systemd-networkd-wait-online.service\n",
            "disable *\n",
        ]);
        let units = [
            ("getty@.service", "[Install]\nWantedBy=getty.target\n"),
            (
                "systemd-networkd.service",
                "[Unit]\nAlso=no\n[Install]\nAlso=systemd-networkd.socket\nAlias=dbus-org.freedesktop.network1.service\nAlso=systemd-networkd-wait-online.service systemd-networkd.service\n",
            ),
            ("systemd-networkd.socket", "[Install]\n"),
            ("systemd-networkd-wait-online.service", ""),
            ("reboot.target", "[Install]\nAlias=ctrl-alt-del.target\n"),
            (
                "debug-shell.service",
                "[Install]\nWantedBy=sysinit.target\n",
            ),
        ];
        let read = |name: &str| {
            let unit = units.iter().find(|(unit, _)| *unit == name)?;
            Some(unit.1.to_owned())
        };
        Enabled::new(&presets, units.map(|(name, _)| name.to_owned()), read)
    }

    #[test]
    fn the_links_of_a_first_boot_are_expected() {
        let enabled = stock();
        for (path, target) in [
            ("getty.target.wants/getty@tty1.service", "getty@.service"),
            ("ctrl-alt-del.target", "reboot.target"),
            (
                "multi-user.target.wants/systemd-networkd.service",
                "systemd-networkd.service",
            ),
            (
                "network-online.target.wants/systemd-networkd-wait-online.service",
                "systemd-networkd-wait-online.service",
            ),
            (
                "dbus-org.freedesktop.network1.service",
                "systemd-networkd.service",
            ),
            (
                "multi-user.target.wants/of-an-earlier-release.service",
                "of-an-earlier-release.service",
            ),
        ] {
            for folder in ["/usr/lib", "/lib"] {
                let target = format!("{folder}/systemd/system/{target}");
                assert!(
                    enabled.makes(&format!("systemd/system/{path}"), &target),
                    "{path}"
                );
            }
        }
    }

    #[test]
    fn links_that_no_first_boot_makes_are_not() {
        let enabled = stock();
        let unit = |name: &str| format!("/usr/lib/systemd/system/{name}");
        for (path, target) in [
            (
                "systemd/system/sysinit.target.wants/debug-shell.service",
                unit("debug-shell.service"),
            ),
            ("systemd/system/cairn-agent.service", unit("reboot.target")),
            ("systemd/system/cairn-agent.service", "/dev/null".into()),
            (
                "systemd/system/multi-user.target.wants/getty@.service",
                "/tmp/getty@.service".into(),
            ),
            (
                "systemd/system/multi-user.target.wants/other.service",
                unit("systemd-networkd.service"),
            ),
            ("cron.d/getty@.service", unit("getty@.service")),
        ] {
            assert!(!enabled.makes(path, &target), "{path}");
        }
    }

    #[test]
    fn what_no_preset_names_is_enabled() {
        let presets = Presets::parse(&["ignore x\nenable"]);
        assert!(presets.enables("web.service") && !presets.enables("x"));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[ a-z@./=\\[\\]I\\n]{0,80}", path in "[a-z@./]{0,40}") {
            let enabled = Enabled::new(&Presets::parse(&[&text]), [path.clone()], |_| Some(text.clone()));
            enabled.makes(&format!("systemd/system/{path}"), &text);
        }
    }
}
