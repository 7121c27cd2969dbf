//! An update from a shell, in the wrong order: it shows that the checker sees what an
//! agent could do wrong.

use super::*;
use cairn_boot_state::{BootState, Event, step};
use cairn_release::name;
use cairn_tests::Writes;
use cairn_tests::power_cut::Replay;
use cairn_tests::power_cut::sweep::{Bad, scratch};
use cairn_tests::workshop::{GOOD, NEXT};

/// Types a command and waits until it has succeeded.
fn does(vm: &Vm, command: &str) -> Result<()> {
    vm.serial()
        .send_line(&format!("{command}; echo ans''wered=$?"))?;
    let answer = vm.serial().expect(Regex::new(r"answered=(\d+)")?, BOOT)?;
    let said = &answer.before;
    ensure!(answer.groups[1] == "0", "`{command}` said: {said}");
    Ok(())
}

/// The release is armed before it is in place, and then put there without a freeze. In
/// between nothing can start it; afterwards the kernel could, but not GRUB, which sees
/// what the journal hasn't brought to its place yet.
#[test]
fn a_release_that_is_armed_too_early_is_found() -> Result<()> {
    let workshop = Workshop::ensure()?;
    let dir = scratch()?;
    let base = workshop.flash(&dir.path().join("base.img"), &[GOOD], &[])?;
    let state = BootState::parse(&base.esp_read("cairn/boot-a.env")?)?;
    let (version, tries) = (NEXT.parse()?, 3);
    let trial = step(&state, Event::TrialChosen { version, tries })?;
    base.write_data_file("/trial.env", &trial.to_block())?;
    for file in [name::MANIFEST, name::KERNEL, name::ROOT] {
        let bytes = std::fs::read(workshop.release(NEXT).join(file))?;
        base.write_data_file(&format!("/releases/{NEXT}.partial/{file}"), &bytes)?;
    }
    let disk = base.copy_to(dir.path().join("disk.img"))?;
    let log = dir.path().join("writes.log");
    let mut vm = Vm::builder("power-cut-by-hand")
        .disk(disk.path(), Writes::Kept)
        .log_writes(&log)
        .start()?;
    vm.serial().expect("cairn-up: release", BOOT)?;
    vm.serial().expect("bash-5.2# ", SOON)?;
    does(&vm, "mkdir /run/esp && mount /dev/vda2 /run/esp")?;
    for copy in ["b", "a"] {
        let to = format!("of=/run/esp/cairn/boot-{copy}.env");
        does(
            &vm,
            &format!("dd if=/data/trial.env {to} conv=notrunc,fsync"),
        )?;
    }
    let (partial, place) = (format!("{NEXT}.partial"), "/data/releases");
    does(
        &vm,
        &format!("cd {place} && mv {partial} {NEXT} && sync {place}; cd /"),
    )?;
    does(
        &vm,
        "sync -f /data && fsfreeze -f /data && fsfreeze -u /data",
    )?;
    vm.serial().send_line("systemctl poweroff")?;
    vm.wait_for_end(BOOT)?;

    let plan = Plan {
        seed: seed()?,
        cuts: 10,
        expected: vec![GOOD.parse()?, NEXT.parse()?],
        trust: trust(&workshop)?,
    };
    let sweep = Sweep::run(&base, &log, &plan)?;
    println!("{sweep}");
    let found = |who: &str| {
        let what = format!("the trial {NEXT} for {who}: ");
        let broken = |bad: &&Bad, what: &str| bad.reasons.iter().any(|why| why.starts_with(what));
        sweep.bad.iter().filter(|bad| broken(bad, &what)).count()
    };
    let (grub, hook) = (found("GRUB"), found("the hook"));
    ensure!(hook > 0, "armed without files, and nothing was found");
    ensure!(
        grub > hook,
        "not frozen, and GRUB would have found all: {grub}, {hook}"
    );
    let first = sweep.sound.first().context("nothing is sound")?;
    ensure!(first.1.version.as_str() == GOOD);
    let last = sweep.sound.last().context("nothing is sound")?;
    ensure!(
        last.1.version.as_str() == NEXT,
        "after the freeze all is well"
    );

    // The log tells the whole story: it leads to the disk as the machine left it.
    let mut replay = Replay::open(&base, &log, &dir.path().join("replayed.img"))?;
    ensure!(!replay.history.cut_short);
    replay.advance(replay.history.ops.len())?;
    let differs = replay.difference(&disk)?;
    ensure!(
        differs.is_none(),
        "the replayed disk differs at {differs:?}"
    );
    Ok(())
}
