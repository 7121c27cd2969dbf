//! Ctrl-C, SIGTERM and SIGKILL at any step leave nothing behind.

use super::bench::{Bench, User};
use anyhow::{Context, Result, ensure};
use cairn_tests::workshop::GOOD;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, kill_process_group, pidfd_open};
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus};

const PACKAGES: &str = "installing packages";
const INITRAMFS: &str = "making the initramfs";
const ROOT: &str = "packing the root image";
const KERNEL: &str = "packing the kernel container";

/// Whom a signal is sent to.
#[derive(Clone, Copy, PartialEq)]
enum To {
    /// imgtool alone, as `kill` does.
    Process,
    /// Its whole group, as a terminal does.
    Group,
}

#[test]
fn a_build_that_is_stopped_leaves_nothing() -> Result<()> {
    let bench = Bench::new()?;
    for (step, signal, to) in [
        (PACKAGES, Signal::INT, To::Group),
        (INITRAMFS, Signal::TERM, To::Process),
        (ROOT, Signal::TERM, To::Group),
        (KERNEL, Signal::INT, To::Process),
    ] {
        leaves_nothing(
            &bench,
            User::Root,
            || bench.build(User::Root, "1", &[]),
            step,
            signal,
            to,
        )?;
    }
    Ok(())
}

#[test]
fn an_ordinary_users_build_that_is_stopped_leaves_nothing() -> Result<()> {
    let bench = Bench::new()?;
    for (step, signal, to) in [
        (PACKAGES, Signal::TERM, To::Process),
        (INITRAMFS, Signal::INT, To::Process),
        (KERNEL, Signal::INT, To::Group),
    ] {
        leaves_nothing(
            &bench,
            User::Ci,
            || bench.build(User::Ci, "1", &[]),
            step,
            signal,
            to,
        )?;
    }
    Ok(())
}

#[test]
fn a_loader_that_is_stopped_leaves_nothing() -> Result<()> {
    let bench = Bench::new()?;
    for (user, step, signal) in [
        (User::Root, "installing the loader's packages", Signal::INT),
        (User::Ci, "making the loader", Signal::TERM),
    ] {
        leaves_nothing(
            &bench,
            user,
            || bench.loader(user, &[]),
            step,
            signal,
            To::Process,
        )?;
    }
    Ok(())
}

#[test]
fn a_flash_that_is_stopped_leaves_nothing() -> Result<()> {
    let bench = Bench::new()?;
    let release = bench.workshop.release(GOOD);
    for (user, step, signal, to) in [
        (User::Root, "checking 1.0.0", Signal::INT, To::Process),
        (User::Root, "writing the ESP", Signal::TERM, To::Process),
        (
            User::Root,
            "writing the data partition",
            Signal::INT,
            To::Group,
        ),
        (
            User::Ci,
            "writing the data partition",
            Signal::TERM,
            To::Process,
        ),
        (User::Root, "reading back", Signal::INT, To::Process),
    ] {
        let flash = || bench.flash(user, &release, "out/disk.img", &["--size", "2G"]);
        leaves_nothing(&bench, user, flash, step, signal, to)?;
    }
    Ok(())
}

#[test]
fn whoever_is_killed_takes_all_with_it() -> Result<()> {
    let bench = Bench::new()?;
    for (user, step) in [(User::Root, PACKAGES), (User::Ci, ROOT)] {
        let mut child = until(&mut bench.build(user, "1", &[]), step)?.0;
        kill_process(pid(&child)?, Signal::KILL)?;
        child.wait()?;
        for pid in bench.processes()? {
            ended(pid)?;
        }
        bench.is_at_rest()?;
    }
    Ok(())
}

/// Starts imgtool, sends `signal` when `step` begins, and looks at what is left.
fn leaves_nothing(
    bench: &Bench,
    user: User,
    command: impl Fn() -> Command,
    step: &str,
    signal: Signal,
    to: To,
) -> Result<()> {
    let before = bench.listing(user)?;
    let (child, mut stderr) = until(&mut command(), step)?;
    match to {
        To::Process => kill_process(pid(&child)?, signal)?,
        To::Group => kill_process_group(pid(&child)?, signal)?,
    }
    let mut said = String::new();
    while stderr.read_line(&mut said)? > 0 {}
    let status = wait(child)?;
    // At once, not after a while.
    bench
        .is_at_rest()
        .with_context(|| format!("{step}: {said}"))?;
    let (code, message) = match signal {
        Signal::INT => (130, "error: interrupted; nothing was left behind\n"),
        _ => (143, "error: stopped by SIGTERM; nothing was left behind\n"),
    };
    assert_eq!(status.code(), Some(code), "{step}: {said}");
    assert!(said.ends_with(message), "{step}: {said}");
    assert_eq!(said.matches("error").count(), 1, "{step}: {said}");
    assert_eq!(bench.listing(user)?, before, "{step}");
    Ok(())
}

/// Starts a program in a group of its own and reads until `step` begins.
fn until(
    command: &mut Command,
    step: &str,
) -> Result<(Child, BufReader<std::process::ChildStderr>)> {
    let mut child = command.process_group(0).spawn()?;
    let mut stderr = BufReader::new(child.stderr.take().context("no stderr")?);
    let (begins, mut said) = (format!("{step} …\n"), String::new());
    while !said.ends_with(&begins) {
        let more = stderr.read_line(&mut said)?;
        ensure!(more > 0, "{step} never began: {said}");
    }
    Ok((child, stderr))
}

fn wait(mut child: Child) -> Result<ExitStatus> {
    Ok(child.wait()?)
}

fn pid(child: &Child) -> Result<Pid> {
    Pid::from_raw(child.id().cast_signed()).context("a process without an id")
}

/// Waits for the end of a process that isn't our child.
fn ended(pid: i32) -> Result<()> {
    let Ok(process) = pidfd_open(Pid::from_raw(pid).context("no id")?, PidfdFlags::empty()) else {
        return Ok(());
    };
    let limit = Timespec {
        tv_sec: 20,
        tv_nsec: 0,
    };
    let mut fds = [PollFd::new(&process, PollFlags::IN)];
    ensure!(
        poll(&mut fds, Some(&limit))? > 0,
        "process {pid} doesn't end"
    );
    Ok(())
}
