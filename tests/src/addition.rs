//! What the converted packages get in place of their maintainer scripts, the
//! way Arch does it: alpm hooks and a scriptlet; and the packages that no Debian
//! package stands for: `filesystem`, `base`, `grub`, `linux-firmware` and one with
//! every odd kind of file.

use anyhow::{Context, Result};

use crate::test_package::TestPackage;

/// A file: where, mode, text.
type Extra = (&'static str, u32, &'static str);

/// What one converted package gets.
#[derive(Debug, Default)]
pub struct Addition {
    /// Files beside its own.
    pub files: &'static [Extra],
    /// Symbolic links beside its own: where, and to what.
    pub links: &'static [(&'static str, &'static str)],
    /// Its `.INSTALL`.
    pub scriptlet: Option<&'static str>,
    /// What the scriptlet needs beside what the package itself does.
    pub depends: &'static [&'static str],
}

impl Addition {
    /// Of the package of that name; for most it is nothing.
    pub fn of(package: &str) -> Self {
        let files: &[Extra] = match package {
            "systemd" => &[(
                "usr/share/libalpm/hooks/20-systemd-sysusers.hook",
                0o644,
                include_str!("../data/hooks/20-systemd-sysusers.hook"),
            )],
            "udev" => &[(
                "usr/share/libalpm/hooks/30-systemd-hwdb.hook",
                0o644,
                include_str!("../data/hooks/30-systemd-hwdb.hook"),
            )],
            "kmod" => &[
                (
                    "usr/share/libalpm/hooks/60-depmod.hook",
                    0o644,
                    include_str!("../data/hooks/60-depmod.hook"),
                ),
                (
                    "usr/share/libalpm/scripts/depmod",
                    0o755,
                    include_str!("../data/scripts/depmod"),
                ),
            ],
            "ca-certificates" => &[
                (
                    "usr/share/libalpm/hooks/40-ca-certificates.hook",
                    0o644,
                    include_str!("../data/hooks/40-ca-certificates.hook"),
                ),
                (
                    "usr/share/libalpm/scripts/ca-certificates",
                    0o755,
                    include_str!("../data/scripts/ca-certificates"),
                ),
            ],
            "docker.io" => &[("usr/lib/sysusers.d/docker.conf", 0o644, "g docker - -\n")],
            // Debian makes these from its packages' wishes when it installs.
            "libpam-runtime" => &[
                (
                    "etc/pam.d/common-auth",
                    0o644,
                    "auth required pam_unix.so nullok\n",
                ),
                (
                    "etc/pam.d/common-account",
                    0o644,
                    "account required pam_unix.so\n",
                ),
                (
                    "etc/pam.d/common-password",
                    0o644,
                    "password required pam_unix.so yescrypt\n",
                ),
                (
                    "etc/pam.d/common-session",
                    0o644,
                    "session required pam_unix.so\n",
                ),
                (
                    "etc/pam.d/common-session-noninteractive",
                    0o644,
                    "session required pam_unix.so\n",
                ),
            ],
            _ => &[],
        };
        let links: &[(&str, &str)] = match package {
            // Debian's alternatives.
            "iptables" => &[
                ("usr/sbin/iptables", "xtables-nft-multi"),
                ("usr/sbin/ip6tables", "xtables-nft-multi"),
            ],
            _ => &[],
        };
        // Without a /bin/sh in the tree pacman runs no scriptlet, and says nothing.
        let (scriptlet, depends): (_, &[&str]) = match package {
            "bash" => (
                Some(include_str!("../data/scripts/bash.install")),
                &["dash", "grep"],
            ),
            _ => (None, &[]),
        };
        Self {
            files,
            links,
            scriptlet,
            depends,
        }
    }
}

/// The root of the tree: folders, the links of a merged `/usr`, and the users
/// that Debian's packages expect, from its own master lists.
///
/// # Errors
/// If a list isn't what it should be.
pub fn filesystem(passwd_master: &str, group_master: &str) -> Result<TestPackage> {
    let mut package = TestPackage::new("filesystem", "2026.11");
    for folder in [
        "boot",
        "data",
        "dev",
        "etc",
        "home",
        "mnt",
        "opt",
        "proc",
        "run",
        "srv",
        "sys",
        "usr/bin",
        "usr/include",
        "usr/lib",
        "usr/lib/firmware",
        "usr/lib/modules",
        "usr/lib64",
        "usr/local/bin",
        "usr/local/sbin",
        "usr/sbin",
        "usr/share",
        "usr/src",
        "var/cache",
        "var/lib",
        "var/log",
        "var/opt",
        "var/spool",
    ] {
        package = package.folder(folder, 0o755);
    }
    for (folder, mode) in [("root", 0o700), ("tmp", 0o1777), ("var/tmp", 0o1777)] {
        package = package.folder(folder, mode);
    }
    for (link, target) in [
        ("bin", "usr/bin"),
        ("sbin", "usr/sbin"),
        ("lib", "usr/lib"),
        ("lib64", "usr/lib64"),
        ("etc/os-release", "../usr/lib/os-release"),
        ("etc/mtab", "../proc/self/mounts"),
        ("var/run", "../run"),
        ("var/lock", "../run/lock"),
    ] {
        package = package.symlink(link, target);
    }
    let names = |master: &str| -> Result<Vec<String>> {
        let name = |line: &str| Some(line.split_once(':')?.0.to_owned());
        let names: Option<Vec<_>> = master.lines().map(name).collect();
        names.context("a line without a colon in the list of users")
    };
    // Nobody has a password; the names' places in the shadow files are for tools that want them.
    let shadow: String = names(passwd_master)?
        .iter()
        .map(|name| format!("{name}:*:::::::\n"))
        .collect();
    let gshadow: String = names(group_master)?
        .iter()
        .map(|name| format!("{name}:*::\n"))
        .collect();
    let shadow_group = 42;
    Ok(package
        .file("etc/passwd", 0o644, passwd_master.replace(":*:", ":x:"))
        .file("etc/group", 0o644, group_master.replace(":*:", ":x:"))
        .file("etc/shadow", 0o640, shadow)
        .owner(0, shadow_group)
        .file("etc/gshadow", 0o640, gshadow)
        .owner(0, shadow_group)
        .file("etc/shells", 0o644, "/bin/sh\n")
        .file("etc/fstab", 0o644, "")
        .file("etc/hosts", 0o644, "127.0.0.1 localhost\n::1 localhost\n")
        .file(
            "etc/nsswitch.conf",
            0o644,
            include_str!("../data/filesystem/nsswitch.conf"),
        )
        .file(
            "etc/profile",
            0o644,
            include_str!("../data/filesystem/profile"),
        )
        .file(
            "usr/lib/os-release",
            0o644,
            include_str!("../data/filesystem/os-release"),
        ))
}

/// What makes a bootable system, for a profile to name in one word, as on Arch.
pub const BASE: &[&str] = &[
    "bash",
    "bsdutils",
    "ca-certificates",
    "coreutils",
    "dash",
    "dbus",
    "debianutils",
    "diffutils",
    "dosfstools",
    "e2fsprogs",
    "filesystem",
    "findutils",
    "grep",
    "gzip",
    "hostname",
    "iproute2",
    "kmod",
    "libc-bin",
    "libpam-runtime",
    "login",
    "mawk",
    "mount",
    "ncurses-base",
    "ncurses-bin",
    "openssl",
    "passwd",
    "procps",
    "sed",
    "systemd",
    "systemd-sysv",
    "tar",
    "tzdata",
    "udev",
    "util-linux",
];

/// What `grub` stands for: Debian splits what Arch keeps together.
pub const GRUB: &[&str] = &["grub-common", "grub-efi-amd64-bin", "grub-pc-bin"];

/// What `linux-firmware` stands for.
pub const FIRMWARE: &[&str] = &["firmware-linux-free"];

/// What `docker` stands for. Debian's kernel has AppArmor on, and Docker starts nothing then without its parser.
pub const DOCKER: &[&str] = &["docker.io", "apparmor"];

/// A package of nothing but needs.
pub fn meta(name: &str, depends: &[&str]) -> TestPackage {
    depends
        .iter()
        .fold(TestPackage::new(name, "2026.11"), |package, need| {
            package.depends(need)
        })
}

/// `cap_net_raw` permitted and effective, as the kernel stores it (`struct
/// vfs_cap_data`, revision 2, in `linux/capability.h`).
pub const CAP_NET_RAW: &[u8] = &[
    1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];

/// Every kind of file that is easily lost on the way into an image.
pub fn odd_files() -> TestPackage {
    TestPackage::new("cairn-odd-files", "1.0")
        .depends("filesystem")
        .file("usr/bin/odd-capable", 0o755, "#!/bin/sh\n")
        .xattr("security.capability", CAP_NET_RAW)
        .file("usr/bin/odd-setuid", 0o4755, "#!/bin/sh\n")
        .folder("usr/share/odd/nobodys", 0o2750)
        .owner(4242, 4243)
        .file(
            "usr/share/odd/nobodys/file",
            0o640,
            "owned by nobody here\n",
        )
        .owner(4242, 4243)
        .file("usr/share/odd/a-name", 0o644, "one file, two names\n")
        .hard_link("usr/share/odd/b-name", "usr/share/odd/a-name")
        .symlink("usr/share/odd/link", "a-name")
        .symlink("usr/share/odd/dangling", "/no/such/file")
        .file("usr/share/odd/Grüße-石", 0o644, "a name beyond ASCII\n")
        .file("usr/share/odd/with space", 0o644, "")
}
