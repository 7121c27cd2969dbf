//! A damaged boot state: the other copy counts, and nothing hostile reaches the kernel.

use super::*;

const A: &str = "cairn/boot-a.env";
const B: &str = "cairn/boot-b.env";

/// One try of [`NEXT`], in both copies.
fn bench() -> Result<Bench> {
    Bench::new(NEXT, 1)
}

#[test]
fn one_damaged_copy_is_passed_over() -> Result<()> {
    for (damaged, name) in [(A, "a"), (B, "b")] {
        let bench = bench()?;
        let mut block = bench.disk.esp_read(damaged)?;
        block[30] = b'!';
        bench.disk.esp_write(damaged, &block)?;
        let vm = bench.start(&format!("state-{name}"))?;
        says(&vm, &format!("cairn: boot-{name}.env is damaged"))?;
        is_up(&vm, NEXT, "trial")?;
        vm.cut_power();
        let shown = bench.shown()?;
        assert_eq!(
            shown["damaged"].as_array().map(Vec::len),
            Some(1),
            "{shown}"
        );
        assert_eq!(shown["trial_tries"], 0, "the try was not counted");
    }
    Ok(())
}

#[test]
fn with_both_copies_damaged_an_installed_release_boots() -> Result<()> {
    let bench = bench()?;
    for copy in [A, B] {
        bench.disk.esp_write(copy, &[0xff; 1024])?;
    }
    let vm = bench.start("state-both")?;
    says(&vm, "cairn: no boot state, starting the newest release")?;
    vm.serial()
        .expect(
            Regex::new(r"cairn-up: release \S+, slot other, root erofs")?,
            BOOT,
        )
        .map(drop)
}

#[test]
fn hostile_content_never_reaches_the_kernel() -> Result<()> {
    let bench = bench()?;
    let evil = "# GRUB Environment Block\ncairn_gen=9\ncairn_good=1.0.0 init=/bin/sh\ncairn_good_tries=-\n\
                cairn_trial=$(reboot); linux /evil\ncairn_trial_tries=xxx\ncairn_failed=\ncairn_sum=00000000\n\
                check_signatures=no\ncairn_cmdline=init=/bin/sh\nsuperusers=\n";
    let mut block = evil.as_bytes().to_vec();
    block.resize(1024, b'#');
    bench.disk.esp_write(A, &block)?;
    let vm = bench.start("state-hostile")?;
    says(&vm, "cairn: boot-a.env is damaged")?;
    is_up(&vm, NEXT, "trial")?;
    let cmdline = asks(&vm, "cat /proc/cmdline")?;
    assert!(
        !cmdline.contains("init=/bin/sh") && !cmdline.contains("evil"),
        "{cmdline}"
    );
    Ok(())
}
