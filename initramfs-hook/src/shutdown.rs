//! The other end: taking everything down, so that DATA is clean.
//!
//! DATA lies below the loop devices below the root, so nothing that runs on that
//! root can unmount it. systemd-shutdown therefore goes to the exit ramdisk in
//! `/run/initramfs`, with the old root in `/oldroot`, and runs `/shutdown` there.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::sync;
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount_change, mount_move, mount_remount,
    unmount,
};
use rustix::system::{RebootCommand, reboot};

use crate::{dm, log, loopdev};

/// Where the exit ramdisk sees the old root.
const OLD_ROOT: &str = "/oldroot";

/// Where mounts are put that hold what they are mounted on: DATA lies in the root,
/// and the root's image lies on DATA.
const APART: &str = "/apart";

/// Takes down what is below `/oldroot` and then does what `verb` says, which is
/// systemd's: `reboot`, `poweroff`, `halt` or `kexec`. Only returns if the
/// kernel refuses.
pub fn run(verb: Option<&str>) {
    log::unlimited();
    log::take_console();
    let left = take_down(&[OLD_ROOT]);
    if left.is_empty() {
        log::notice("all file systems are unmounted");
    }
    sync();
    finish(command(verb));
}

/// What the kernel is asked to do. Nobody stands beside a node: when in doubt it
/// comes back.
fn command(verb: Option<&str>) -> RebootCommand {
    match verb {
        Some("poweroff") => RebootCommand::PowerOff,
        Some("halt") => RebootCommand::Halt,
        Some("kexec") => RebootCommand::Kexec,
        _ => RebootCommand::Restart,
    }
}

/// Ends the machine's run; without a kernel to execute it restarts.
pub fn finish(command: RebootCommand) {
    if let Err(error) = reboot(command) {
        log::error(format_args!("the kernel refuses to end: {error}"));
        // If this is refused too, the end of pid 1 is a panic, and that a reset.
        let _ = reboot(RebootCommand::Restart);
    }
}

/// Unmounts everything in `folders`, and removes the mapped and loop devices below.
/// Gives what can't be; that is made read-only, so that it is at least whole.
pub fn take_down(folders: &[&str]) -> Vec<PathBuf> {
    release(folders);
    // systemd shares every mount, and the kernel moves none out of a shared one.
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    let _ = mount_change("/", private);
    for (at, number) in mounted_below(folders).iter().zip(0..) {
        let apart = Path::new(APART).join(format!("{number}"));
        // Refused for a mount that is in no other, which need not go.
        let _ = fs::create_dir_all(&apart).map(|()| mount_move(at.as_path(), &apart));
    }
    let folders = [folders, &[APART]].concat();
    release(&folders);
    let left = mounted_below(&folders);
    for at in &left {
        log::warn(format_args!(
            "{} is still in use; it is made read-only",
            at.display()
        ));
        if let Err(error) = mount_remount(at.as_path(), MountFlags::RDONLY, "") {
            log::warn(format_args!("{} stays writable: {error}", at.display()));
        }
    }
    left
}

/// Frees what can be freed. What a call answers doesn't tell whether it did: a loop
/// device in use is "detached" too. So the rounds go on until one changes nothing.
fn release(folders: &[&str]) {
    let mut before = None;
    loop {
        let now = (mounted_below(folders), mapped(), loops());
        if before.as_ref() == Some(&now) {
            break;
        }
        for at in &now.0 {
            let _ = unmount(at.as_path(), UnmountFlags::NOFOLLOW);
        }
        for name in &now.1 {
            let _ = dm::remove(name);
        }
        for at in &now.2 {
            let _ = loopdev::detach(at);
        }
        before = Some(now);
    }
}

fn mounted_below(folders: &[&str]) -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut mounts = mount_points(&text);
    mounts.retain(|at| folders.iter().any(|folder| at.starts_with(folder)));
    mounts
}

/// The mount points of a mountinfo, the last mounted first: nothing comes before
/// what is mounted on or in it.
fn mount_points(mountinfo: &str) -> Vec<PathBuf> {
    let fields = mountinfo.lines().filter_map(|line| line.split(' ').nth(4));
    let mut points: Vec<PathBuf> = fields.map(|field| unescaped(field).into()).collect();
    points.reverse();
    // A moved mount keeps its place in the list, so depth decides first.
    points.sort_by_key(|point| std::cmp::Reverse(point.components().count()));
    points
}

/// mountinfo writes space, tab, line end and backslash as `\` and three octal digits.
fn unescaped(field: &str) -> String {
    let mut parts = field.split('\\');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part.get(..3).and_then(|d| u8::from_str_radix(d, 8).ok());
        match code {
            Some(code) => {
                text.push(code.into());
                text.push_str(&part[3..]);
            }
            None => {
                text.push('\\');
                text.push_str(part);
            }
        }
    }
    text
}

/// Names of the device-mapper devices.
fn mapped() -> Vec<String> {
    devices("dm-")
        .filter_map(|sys| fs::read_to_string(sys.join("dm/name")).ok())
        .map(|name| name.trim_end().to_owned())
        .collect()
}

/// Loop devices that have a file.
fn loops() -> Vec<PathBuf> {
    devices("loop")
        .filter(|sys| sys.join("loop/backing_file").exists())
        .filter_map(|sys| Some(Path::new("/dev").join(sys.file_name()?)))
        .collect()
}

fn devices(kind: &str) -> impl Iterator<Item = PathBuf> {
    fs::read_dir("/sys/block")
        .into_iter()
        .flatten()
        .flatten()
        .filter(move |entry| entry.file_name().to_string_lossy().starts_with(kind))
        .map(|entry| entry.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_and_the_last_mounted_comes_first() {
        let mountinfo = "\
22 1 254:0 / /oldroot ro,relatime - erofs /dev/dm-0 ro
23 22 0:20 / /oldroot/etc rw - overlay overlay rw
24 22 8:3 / /oldroot/data rw - ext4 /dev/vda3 rw
25 24 0:30 / /oldroot/data/a\\040b rw - tmpfs tmpfs rw
26 24 0:31 / /oldroot/data/a\\040b rw - tmpfs tmpfs rw
";
        let points: Vec<String> = mount_points(mountinfo)
            .iter()
            .map(|p| p.display().to_string())
            .collect();
        assert_eq!(
            points,
            [
                "/oldroot/data/a b",
                "/oldroot/data/a b",
                "/oldroot/data",
                "/oldroot/etc",
                "/oldroot"
            ]
        );
    }

    #[test]
    fn escapes_are_undone() {
        for (field, expected) in [("/a", "/a"), (r"/a\134b\011", "/a\\b\t"), (r"\9", r"\9")] {
            assert_eq!(unescaped(field), expected);
        }
    }

    #[test]
    fn an_unknown_verb_brings_the_node_back() {
        assert_eq!(command(Some("poweroff")), RebootCommand::PowerOff);
        assert_eq!(command(Some("kexec")), RebootCommand::Kexec);
        for verb in [None, Some("reboot"), Some("exit")] {
            assert_eq!(command(verb), RebootCommand::Restart);
        }
    }
}
