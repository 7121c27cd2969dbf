//! A node of files: a real overlay over a real mount, real sockets; what only a kernel or systemd of a node has are texts.

mod ports;

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde_json::json;
use tokio::sync::watch;

use super::*;
use crate::outbox;

const UNITS: &str = "usr/lib/systemd/system";
const CMDLINE: &str = "BOOT_IMAGE=(kc_goodx)/vmlinuz cairn.release=1.0.0 cairn.slot=good cairn.data=PARTUUID=9767117e-0564-4697-afb1-af2c5c4a7812 panic=5 console=ttyS0\n";
const MOUNTS: &str = "\
1 0 0:1 / / rw - rootfs rootfs rw
20 1 254:1 / / ro - erofs /dev/dm-1 ro
21 20 0:20 / /etc rw - overlay overlay rw
22 20 0:21 / /var rw - overlay overlay rw
23 20 254:0 /modules /usr/lib/modules ro - squashfs /dev/dm-0 ro
24 20 254:0 /firmware /usr/lib/firmware ro - squashfs /dev/dm-0 ro
25 20 254:0 / /run/cairn/kernel ro - squashfs /dev/dm-0 ro
26 20 8:3 / /data rw - ext4 /dev/sda3 rw
";
const SHOWN: &str = "\
Id=getty@tty1.service
ActiveState=active
FragmentPath=/usr/lib/systemd/system/getty@.service
DropInPaths=

Id=cairn-up.service
ActiveState=active
FragmentPath=/etc/systemd/system/cairn-up.service
DropInPaths=
";

/// A node after its first boot. Needs root.
struct Node {
    folder: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        let node = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        let root = node.path("");
        fs::create_dir(&root).unwrap();
        mount("tmpfs", &root, "tmpfs", MountFlags::empty(), None).unwrap();
        // The image.
        node.write("etc/motd", "welcome\n");
        node.write("etc/hosts", "127.0.0.1 localhost\n");
        node.write("etc/machine-id", "uninitialized\n");
        node.write("etc/old/one", "1");
        node.write("etc/old/two", "2");
        node.write("etc/systemd/system/cairn-up.service", "[Service]\n");
        node.write(
            "etc/passwd",
            "root:x:0:0:root:/root:/bin/bash\nbin:x:1:1::/:/usr/bin/nologin\n",
        );
        node.write("etc/group", "wheel:x:998:\n");
        node.write("etc/shadow", "root:*:1::::::\n");
        node.write(
            &format!("{UNITS}/getty@.service"),
            "[Install]\nWantedBy=getty.target\n",
        );
        node.write(&format!("{UNITS}/debug-shell.service"), "");
        node.write(
            &format!("{UNITS}/reboot.target"),
            "[Install]\nAlias=ctrl-alt-del.target\n",
        );
        node.write(
            "usr/lib/systemd/system-preset/90-systemd.preset",
            "enable getty@.service\nenable reboot.target\n",
        );
        node.write(
            "usr/lib/systemd/system-preset/99-default.preset",
            "disable *\n",
        );
        // What the machine says.
        node.write("proc/cmdline", CMDLINE);
        node.write("proc/1/mountinfo", MOUNTS);
        node.write("proc/modules", "dm_verity 40960 2 - Live 0x0\n");
        node.write("proc/sys/kernel/osrelease", "6.12.1-lts\n");
        for name in ["tcp", "tcp6", "udp", "udp6"] {
            node.write(&format!("proc/net/{name}"), "head\n");
        }
        let kernel = "run/cairn/kernel";
        node.write(
            &format!("{kernel}/boot.env"),
            "# GRUB Environment Block\ncairn_cmdline=console=ttyS0\n##",
        );
        let modules = format!("{kernel}/modules/6.12.1-lts");
        node.write(
            &format!("{modules}/modules.dep"),
            "kernel/dm-verity.ko.zst:\n",
        );
        node.write(&format!("{modules}/modules.builtin"), "kernel/loop.ko\n");
        for (number, name, file) in [
            (0, "cairn-kernel", "kernel.squashfs"),
            (1, "cairn-root", "root.erofs"),
        ] {
            node.write(
                &format!("sys/dev/block/254:{number}/dm/name"),
                &format!("{name}\n"),
            );
            node.write(
                &format!("sys/dev/block/254:{number}/slaves/loop{number}/x"),
                "",
            );
            node.write(
                &format!("sys/block/loop{number}/loop/backing_file"),
                &format!("/data/releases/1.0.0/{file}\n"),
            );
        }
        node.write("sys/block/sda/sda3/size", "1\n");
        node.write("dev/kmsg", "");
        let state = node.folder.path().join("data/state/etc");
        let options = format!(
            "lowerdir={0}/etc,upperdir={1}/upper,workdir={1}/work,xino=off,index=off,metacopy=off,redirect_dir=off",
            root.display(),
            state.display()
        );
        for name in ["upper", "work"] {
            fs::create_dir_all(state.join(name)).unwrap();
        }
        let options = std::ffi::CString::new(options).unwrap();
        let nothing = MountFlags::empty();
        mount(
            "overlay",
            root.join("etc"),
            "overlay",
            nothing,
            options.as_c_str(),
        )
        .unwrap();
        // The first boot, as one in QEMU left it.
        node.write("etc/machine-id", "0123456789abcdef0123456789abcdef\n");
        node.write("etc/.pwd.lock", "");
        node.write("etc/ssh/ssh_host_ed25519_key", "secret");
        node.link(
            "etc/systemd/system/getty.target.wants/getty@tty1.service",
            "/usr/lib/systemd/system/getty@.service",
        );
        node.link(
            "etc/systemd/system/ctrl-alt-del.target",
            "/lib/systemd/system/reboot.target",
        );
        node
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join("root").join(path)
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn link(&self, path: &str, to: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(to, path).unwrap();
    }

    fn append(&self, path: &str, text: &str) {
        let mut file = fs::OpenOptions::new();
        let mut file = file.append(true).open(self.path(path)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn sources(&self) -> Sources {
        Sources {
            root: self.path(""),
            data: self.folder.path().join("data"),
        }
    }

    fn deps(&self, settings: &str, clock: &Clock) -> Deps {
        let outbox = self.folder.path().join("outbox");
        let outbox = Outbox::open(&outbox, &outbox::Settings::default(), clock.clone()).unwrap();
        Deps {
            settings: Settings::check(&toml::from_str(settings).unwrap()).unwrap(),
            folder: self.folder.path().to_owned(),
            sources: self.sources(),
            clock: clock.clone(),
            outbox,
            declared: watch::channel(None).1,
            running: watch::channel(None).1,
            workloads: workloads::Settings::check(&workloads::Input::default()).unwrap(),
            shown: watch::channel(Shown::default()).0,
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for path in ["etc", ""] {
            let _ = unmount(self.path(path), UnmountFlags::DETACH);
        }
    }
}

fn clock() -> Clock {
    Clock::manual("boot", 1_800_000_000, 0)
}

fn at(clock: &Clock, units: &str) -> At {
    At {
        raw: clock.raw(),
        synchronised: None,
        units: Ok(units.to_owned()),
        published: BTreeSet::new(),
        containers: Some(BTreeSet::new()),
    }
}

fn subjects(findings: &[Finding]) -> Vec<(&str, &str)> {
    findings
        .iter()
        .map(|finding| (finding.kind.as_str(), finding.subject.as_str()))
        .collect()
}

#[tokio::test]
async fn a_node_that_was_just_made_is_quiet_and_looked_at_whole() {
    let (node, clock) = (Node::new(), clock());
    let mut guard = Guard::new(&node.deps("", &clock));
    let change = guard.look(at(&clock, SHOWN));
    assert_eq!(change, Change::default());
    let shown = guard.shown();
    assert_eq!(shown.status["unknown"], json!({}));
    for kind in Kind::ALL {
        assert_eq!(shown.sample[&format!("tamper.{}", kind.as_str())], 0);
    }
    assert_eq!(shown.sample["disk.sda.io_errors"], 0);
}

#[tokio::test]
async fn what_somebody_does_in_etc_is_found_and_over_when_it_is_undone() {
    let (node, clock) = (Node::new(), clock());
    let mut guard = Guard::new(&node.deps("files = ['wireguard/*']", &clock));
    guard.look(at(&clock, SHOWN));
    node.write("etc/motd", "hacked\n");
    fs::set_permissions(node.path("etc/hosts"), Permissions::from_mode(0o666)).unwrap();
    fs::remove_file(node.path("etc/old/one")).unwrap();
    node.write("etc/sudoers.d/eve", "eve ALL=(ALL) NOPASSWD: ALL\n");
    node.write("etc/wireguard/wg0.conf", "PrivateKey = secret");
    node.link(
        "etc/systemd/system/sysinit.target.wants/debug-shell.service",
        "/usr/lib/systemd/system/debug-shell.service",
    );
    let change = guard.look(at(&clock, SHOWN));
    assert_eq!(
        subjects(&change.appeared),
        [
            ("etc", "/etc/hosts"),
            ("etc", "/etc/motd"),
            ("etc", "/etc/old/one"),
            ("etc", "/etc/sudoers.d/eve"),
            (
                "etc",
                "/etc/systemd/system/sysinit.target.wants/debug-shell.service"
            ),
        ]
    );
    let motd = &change.appeared[1];
    let digest = cairn_release::Digest::of(b"hacked\n");
    assert_eq!(
        motd.evidence["node"],
        format!("file 0644 0:0 7 bytes sha256 {digest}")
    );
    assert!(motd.evidence["image"].contains("8 bytes"));
    let told = Value::from(guard.memory.watch.told(&change)).to_string();
    assert!(!told.contains("NOPASSWD") && !told.contains("hacked\\n"));
    assert_eq!(guard.shown().sample["tamper.etc"], 5);

    node.write("etc/motd", "welcome\n");
    let change = guard.look(at(&clock, SHOWN));
    assert_eq!(subjects(&change.over), [("etc", "/etc/motd")]);
    assert!(change.appeared.is_empty());
}

#[tokio::test]
async fn the_mount_of_a_declared_disk_is_no_sign_and_one_that_does_more_is() {
    let (node, clock) = (Node::new(), clock());
    let mut guard = Guard::new(&node.deps("", &clock));
    let units = node.path("etc/systemd/system");
    let unit = crate::disks::units::Unit {
        disk: "cache".parse().unwrap(),
        partition: cairn_topology::Guid::derive(&["p"]),
        at: "/srv/cache".parse().unwrap(),
        file_system: cairn_wire::disk::FileSystem::Ext4,
        options: "nosuid,nodev,noatime".into(),
    };
    assert!(crate::disks::units::sync(&units, &[unit], &|_| false).unwrap());
    assert_eq!(guard.look(at(&clock, SHOWN)), Change::default());
    node.append("etc/systemd/system/srv-cache.mount", "# and more\n");
    let change = guard.look(at(&clock, SHOWN));
    assert_eq!(
        subjects(&change.appeared),
        [
            (
                "etc",
                "/etc/systemd/system/multi-user.target.wants/srv-cache.mount"
            ),
            ("etc", "/etc/systemd/system/srv-cache.mount"),
        ]
    );
}

#[tokio::test]
async fn a_folder_made_anew_hides_the_images() {
    let (node, clock) = (Node::new(), clock());
    let mut guard = Guard::new(&node.deps("", &clock));
    fs::remove_dir_all(node.path("etc/old")).unwrap();
    node.write("etc/old/two", "2");
    let change = guard.look(at(&clock, SHOWN));
    assert_eq!(subjects(&change.appeared), [("etc", "/etc/old/one")]);
    assert_eq!(change.appeared[0].what, "removed");
}

#[tokio::test]
async fn units_accounts_modules_boot_and_mounts_are_looked_at() {
    let (node, clock) = (Node::new(), clock());
    let mut guard = Guard::new(&node.deps("off = ['etc']", &clock));
    guard.look(at(&clock, SHOWN));
    node.append("etc/passwd", "toor:x:0:0::/:/bin/sh\n");
    node.append("etc/systemd/system/cairn-up.service", "ExecStart=/tmp/x\n");
    node.append("proc/modules", "evil 1 0 - Live 0x0 (OE)\n");
    node.append(
        "proc/1/mountinfo",
        "30 21 8:3 /x /etc/ssh/sshd_config rw - ext4 /dev/sda3 rw\n",
    );
    node.write("sys/block/loop1/loop/backing_file", "/mnt/usb/root.erofs\n");
    node.write(
        "proc/cmdline",
        &format!("{} init=/bin/sh\n", CMDLINE.trim()),
    );
    let transient = "\nId=run-r1.service\nActiveState=active\nFragmentPath=/run/systemd/transient/run-r1.service\n";
    let change = guard.look(at(&clock, &format!("{SHOWN}{transient}")));
    let mut found = subjects(&change.appeared);
    found.sort_unstable();
    assert_eq!(
        found,
        [
            ("medium", "init=/bin/sh"),
            ("medium", "root.erofs"),
            ("modules", "evil"),
            ("mounts", "/etc/ssh/sshd_config"),
            ("units", "cairn-up.service"),
            ("units", "run-r1.service"),
            ("users", "toor"),
        ]
    );
    assert!(!guard.shown().sample.contains_key("tamper.etc"));
}

#[tokio::test]
async fn what_the_kernel_says_is_counted_once_also_by_the_next_agent() {
    let (node, clock) = (Node::new(), clock());
    let deps = node.deps("", &clock);
    let mut guard = Guard::new(&deps);
    let verity = "3,7,1,-;device-mapper: verity: 7:1: data block 1704 is corrupted\n";
    for record in [
        verity,
        "3,8,1,-;I/O error, dev sda, sector 1 op 0x0:(READ)\n",
        "2,9,1,-;EXT4-fs error (device sda3): ext4_lookup:1785: x\n",
    ] {
        node.append("dev/kmsg", record);
        guard.look(at(&clock, SHOWN));
    }
    let sample = guard.shown().sample;
    assert_eq!(
        (
            &sample["tamper.verity"],
            &sample["disk.sda.io_errors"],
            &sample["disk.sda.fs_errors"]
        ),
        (&1.into(), &1.into(), &1.into())
    );
    drop(guard);
    // The new one hears it all again.
    node.write("dev/kmsg", verity);
    let mut guard = Guard::new(&deps);
    assert_eq!(guard.look(at(&clock, SHOWN)), Change::default());
    assert_eq!(guard.shown().sample["tamper.verity"], 1);
    assert_eq!(guard.shown().sample["disk.sda.io_errors"], 1);
}

#[tokio::test]
async fn what_cannot_be_looked_at_has_a_reason_and_no_count() {
    let (node, clock) = (Node::new(), clock());
    let mut guard = Guard::new(&node.deps("", &clock));
    fs::remove_file(node.path("dev/kmsg")).unwrap();
    fs::remove_file(node.path("run/cairn/kernel/boot.env")).unwrap();
    let mut blind = at(&clock, "");
    blind.units = Err("systemctl: not there".to_owned());
    guard.kmsg = Err("no kmsg".to_owned());
    guard.look(blind);
    let shown = guard.shown();
    for kind in ["verity", "medium", "units", "ports"] {
        assert!(!shown.sample.contains_key(&format!("tamper.{kind}")));
        assert!(shown.status["unknown"][kind].is_string(), "{kind}");
    }
    assert_eq!(shown.sample["tamper.etc"], 0);

    node.write("proc/cmdline", "root=/dev/sda1\n");
    let mut guard = Guard::new(&node.deps("", &clock));
    guard.look(at(&clock, SHOWN));
    let shown = guard.shown();
    assert!(!shown.sample.contains_key("tamper.etc"));
    assert_eq!(shown.sample["tamper.clock"], 0);
    assert!(
        shown.status["unknown"]["etc"]
            .as_str()
            .unwrap()
            .contains("bootloader")
    );
}

#[tokio::test]
async fn a_change_is_an_event_with_its_evidence_in_the_outbox() {
    let (node, clock) = (Node::new(), clock());
    let deps = node.deps("", &clock);
    let (outbox, mut shown) = (deps.outbox.clone(), deps.shown.subscribe());
    let mut guard = Guard::new(&deps);
    node.write("etc/motd", "hacked\n");
    let change = guard.look(at(&clock, SHOWN));
    tell(&deps, &guard, &change);
    let same = guard.look(at(&clock, SHOWN));
    tell(&deps, &guard, &same);
    outbox.flush().await.unwrap();
    let batch = outbox.next_batch(60_000).unwrap();
    assert_eq!((batch.priority, batch.len()), (Priority::Event, 1));
    let values = &batch.records[0].values;
    assert_eq!(values["tamper.etc"], 1);
    assert_eq!(
        values["tamper_evidence"]["findings"][0]["subject"],
        "/etc/motd"
    );
    assert_eq!(shown.borrow_and_update().sample["tamper.etc"], 1);
}

#[test]
fn the_clock_is_watched() {
    let node = Node::new();
    let clock = clock();
    let outbox = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let _entered = outbox.enter();
    let mut guard = Guard::new(&node.deps("", &clock));
    let jump = |guard: &mut Guard, by_ms: i64, synchronised| {
        let mut at = at(&clock, SHOWN);
        at.raw.wall_ms += by_ms;
        at.synchronised = synchronised;
        guard.look(at).appeared.len()
    };
    assert_eq!(jump(&mut guard, 0, None), 0);
    assert_eq!(jump(&mut guard, 7_200_000, Some(SystemTime::UNIX_EPOCH)), 0);
    assert_eq!(jump(&mut guard, 0, Some(SystemTime::UNIX_EPOCH)), 1);
    assert_eq!(guard.shown().sample["tamper.clock"], 1);
}
