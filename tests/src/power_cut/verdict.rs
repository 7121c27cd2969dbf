//! What must hold for every state that a power cut can leave.

use cairn_boot_state::{Damage, Slot, candidates};
use cairn_release::Version;

use super::view::View;

/// What GRUB would start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boots {
    /// As what.
    pub slot: Slot,
    /// Which release.
    pub version: Version,
}

/// Judges a disk on which only `expected` may ever be started.
///
/// # Errors
/// With every rule that is broken:
///
/// - a copy of the boot state is valid, and none looks so to GRUB that isn't;
/// - the good release, and the trial if it has tries left, are complete: for GRUB, whose
///   kernel container has the digest that the signed manifest names and can be read, and
///   for the hook, where both images have theirs. A release that is named and broken
///   would be passed over in most cases; it counts as broken here nevertheless;
/// - what GRUB starts first is one of those;
/// - DATA can be mounted.
pub fn judge(view: &View, expected: &[Version]) -> Result<Boots, Vec<String>> {
    let mut broken = Vec::new();
    if view.boot.from.is_none() {
        broken.push("no copy of the boot state is valid".to_owned());
    }
    for (copy, damage) in &view.boot.damaged {
        // GRUB can't compute the sum, so it would believe this copy.
        if matches!(damage, Damage::Checksum { .. }) {
            broken.push(format!("{copy} looks valid to GRUB, but {damage}"));
        }
    }
    if let Err(reason) = &view.data {
        broken.push(reason.clone());
    }
    let state = &view.boot.state;
    if state.good.is_none() {
        broken.push("no release is known as good".to_owned());
    }
    for seen in &view.seen {
        let what = match state.trial.as_ref() == Some(&seen.version) {
            true => "the trial",
            false => "the good release",
        };
        for (who, sight) in [("GRUB", &seen.by_grub), ("the hook", &seen.by_hook)] {
            if let Err(reason) = sight {
                broken.push(format!("{what} {} for {who}: {reason}", seen.version));
            }
        }
    }
    let first = candidates(state, &view.installed).into_iter().next();
    match first {
        None => broken.push("GRUB finds nothing to start".to_owned()),
        Some(first) => {
            if !expected.contains(&first.version) {
                broken.push(format!(
                    "GRUB would start {} as {}",
                    first.version, first.slot
                ));
            } else if !view.seen.iter().any(|seen| seen.version == first.version) {
                broken.push(format!(
                    "GRUB would start {}, which nothing names",
                    first.version
                ));
            }
            if broken.is_empty() {
                let (slot, version) = (first.slot, first.version);
                return Ok(Boots { slot, version });
            }
        }
    }
    Err(broken)
}

#[cfg(test)]
mod tests {
    use super::super::view::Seen;
    use super::*;
    use cairn_boot_state::{BootState, Tries, pick};

    fn version(text: &str) -> Version {
        text.parse().unwrap()
    }

    /// Good 1, trial 2 with two tries, both complete.
    fn view() -> View {
        let state = BootState {
            generation: 3,
            good: Some(version("1")),
            good_tries: Tries::Unlimited,
            trial: Some(version("2")),
            trial_tries: 2,
            failed: vec![],
        };
        let block = state.to_block();
        let seen = ["1", "2"].map(|name| Seen {
            version: version(name),
            by_grub: Ok(()),
            by_hook: Ok(()),
        });
        View {
            boot: pick(&block, &block),
            installed: vec![version("2"), version("1")],
            seen: seen.to_vec(),
            data: Ok(()),
        }
    }

    fn broken(change: impl FnOnce(&mut View)) -> String {
        let mut view = view();
        change(&mut view);
        judge(&view, &[version("1"), version("2")])
            .unwrap_err()
            .join("; ")
    }

    #[test]
    fn a_sound_disk_boots_what_its_state_says() {
        let mut view = view();
        let expected = [version("1"), version("2")];
        let boots = judge(&view, &expected).unwrap();
        assert_eq!((boots.slot, boots.version.as_str()), (Slot::Trial, "2"));
        view.boot.state.trial_tries = 0;
        view.seen.retain(|seen| seen.version == version("1"));
        let boots = judge(&view, &expected).unwrap();
        assert_eq!((boots.slot, boots.version.as_str()), (Slot::Good, "1"));
    }

    #[test]
    fn each_rule_can_be_broken() {
        let no_state = broken(|view| view.boot = pick(&[], &[]));
        assert!(no_state.contains("no copy of the boot state"), "{no_state}");
        let trial = broken(|view| view.seen[1].by_grub = Err("half".into()));
        assert_eq!(trial, "the trial 2 for GRUB: half");
        let good = broken(|view| view.seen[0].by_hook = Err("half".into()));
        assert_eq!(good, "the good release 1 for the hook: half");
        let data = broken(|view| view.data = Err("no mount".into()));
        assert_eq!(data, "no mount");
        let other = broken(|view| {
            view.boot.state.trial = Some(version("3"));
            view.installed.push(version("3"));
        });
        assert!(other.contains("GRUB would start 3 as trial"), "{other}");
        let none = broken(|view| view.installed.clear());
        assert_eq!(none, "GRUB finds nothing to start");
        let mut sum = view().boot.state.to_block();
        let at = sum
            .windows(10)
            .position(|text| text == b"cairn_gen=")
            .unwrap();
        sum[at + 10] = b'9';
        let sum = broken(|view| view.boot = pick(&view.boot.state.to_block(), &sum));
        assert!(sum.contains("looks valid to GRUB"), "{sum}");
    }
}
