//! What was booted, from where and with which arguments; and what was mounted over the image since.

use std::collections::BTreeSet;

use crate::finding::{Finding, Kind};

/// What the bootloader itself puts on the command line (`bootloader-entries/grub.cfg`); the rest is in the signed `boot.env`.
const LOADER: [&str; 4] = [
    "BOOT_IMAGE=",
    "cairn.release=",
    "cairn.slot=",
    "cairn.data=",
];
const PANIC: &str = "panic=5";
/// The variable in `boot.env`.
const SIGNED: &str = "cairn_cmdline=";
/// Where the hook mounts something over the image (`initramfs-hook/src/mounts.rs`), and the file system there.
const OURS: [(&str, &str); 3] = [
    ("/etc", "overlay"),
    ("/usr/lib/modules", "squashfs"),
    ("/usr/lib/firmware", "squashfs"),
];
/// Folders of the image where nothing else may lie.
const IMAGE: [&str; 2] = ["/etc", "/usr"];

/// Arguments of the kernel that neither the bootloader puts there nor the release's signed `boot_env` names.
pub fn arguments(cmdline: &str, boot_env: &str) -> Vec<Finding> {
    let signed = boot_env
        .lines()
        .find_map(|line| line.strip_prefix(SIGNED))
        .unwrap_or_default();
    let signed: BTreeSet<_> = signed.split_ascii_whitespace().collect();
    let strange = cmdline.split_ascii_whitespace().filter(|word| {
        let loader = LOADER.iter().any(|name| word.starts_with(name)) || *word == PANIC;
        !loader && !signed.contains(word)
    });
    strange
        .map(|word| {
            let what = "is an argument of the kernel that nobody signed";
            Finding::new(Kind::Medium, word, what)
        })
        .collect()
}

/// What is below a mounted image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Below {
    /// The name of the device-mapper device.
    pub mapped: Option<String>,
    /// The file below that, through a loop device.
    pub file: Option<String>,
}

/// Whether an image is that of the booted `release`, on this node's DATA: `name` is the mapping's, `file` the image's.
pub fn image(release: &str, name: &str, file: &str, below: &Below) -> Option<Finding> {
    let expected = format!("/releases/{release}/{file}");
    let mapped = below.mapped.as_deref() == Some(name);
    let right = below
        .file
        .as_ref()
        .is_some_and(|file| file.ends_with(&expected));
    if mapped && right {
        return None;
    }
    let said = |what: &Option<String>| what.clone().unwrap_or_else(|| "nothing".to_owned());
    let what = "is not what the booted release was installed with";
    Some(
        Finding::new(Kind::Medium, file, what)
            .with("expected", format!("{name} over {expected}"))
            .with("mapped", said(&below.mapped))
            .with("file", said(&below.file)),
    )
}

/// What lies over the image's folders that the hook didn't mount there, or more than once: places, with their file systems.
pub fn mounts<'m>(mounts: impl IntoIterator<Item = (&'m str, &'m str)>) -> Vec<Finding> {
    let mut seen = BTreeSet::new();
    let mut findings = Vec::new();
    for (point, kind) in mounts {
        let within = |folder: &str| {
            point
                .strip_prefix(folder)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let ours = OURS.contains(&(point, kind)) && seen.insert(point);
        if ours || !IMAGE.into_iter().any(within) {
            continue;
        }
        let what = "is mounted over the image";
        findings.push(Finding::new(Kind::Mounts, point, what).with("kind", kind));
    }
    findings
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CMDLINE: &str = "BOOT_IMAGE=(kc_goodx)/vmlinuz cairn.release=1.0.0 cairn.slot=good cairn.data=PARTUUID=9767117e-0564-4697-afb1-af2c5c4a7812 panic=5 console=ttyS0 no_timer_check";
    const ENV: &str = "# GRUB Environment Block\ncairn_cmdline=console=ttyS0 no_timer_check\n#####";

    #[test]
    fn only_signed_arguments_are_right() {
        assert_eq!(arguments(CMDLINE, ENV), []);
        let found = arguments(&format!("{CMDLINE} init=/bin/sh panic=0"), ENV);
        let subjects: Vec<_> = found.iter().map(|f| f.subject.as_str()).collect();
        assert_eq!(subjects, ["init=/bin/sh", "panic=0"]);
        assert_eq!(arguments(CMDLINE, "").len(), 2);
    }

    #[test]
    fn an_image_is_that_of_the_booted_release() {
        let below = |mapped: &str, file: &str| Below {
            mapped: Some(mapped.into()),
            file: Some(file.into()),
        };
        let right = below("cairn-root", "/data/releases/1.0.0/root.erofs");
        let judged =
            |release: &str, below: &Below| image(release, "cairn-root", "root.erofs", below);
        assert_eq!(judged("1.0.0", &right), None);
        assert!(judged("2.0.0", &right).is_some());
        assert!(judged("1.0.0", &below("other", "/data/releases/1.0.0/root.erofs")).is_some());
        let other = judged("1.0.0", &Below::default()).unwrap();
        assert_eq!(other.evidence["mapped"], "nothing");
    }

    #[test]
    fn nothing_lies_over_the_image_but_what_the_hook_mounts() {
        let stock = [
            ("/", "erofs"),
            ("/etc", "overlay"),
            ("/var", "overlay"),
            ("/usr/lib/modules", "squashfs"),
            ("/usr/lib/firmware", "squashfs"),
            ("/data", "ext4"),
            ("/usrx", "ext4"),
            ("/run/cairn/kernel", "squashfs"),
        ];
        assert_eq!(mounts(stock), []);
        for strange in [
            ("/etc", "overlay"),
            ("/etc/passwd", "ext4"),
            ("/usr", "overlay"),
            ("/usr/lib/firmware", "tmpfs"),
        ] {
            let found = mounts(stock.into_iter().chain([strange]));
            assert_eq!(found.len(), 1, "{strange:?}");
            assert_eq!(found[0].subject, strange.0);
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(a in any::<String>(), b in any::<String>()) {
            let _ = (arguments(&a, &b), mounts([(a.as_str(), b.as_str())]));
        }
    }
}
