//! A disk that is too full.

use super::*;

#[test]
fn a_full_disk_refuses_before_a_byte_and_an_old_release_makes_room() -> Result<()> {
    // PANICS is on the disk and nothing but old.
    let bench = Bench::with("space", &[FIRST, PANICS], &[SECOND])?;
    let node = &bench.node;
    // Leaves so many MiB of DATA free. A release takes some 130, the reserve 64 more.
    let leave = |mebibytes: u32| {
        let free = "$(df --output=avail -BM /data | tail -1 | tr -dc 0-9)";
        let fill = format!("rm -f /data/fill; fallocate -l $(({free} - {mebibytes}))M /data/fill");
        ensure!(node.does(&fill)?, "cannot fill DATA");
        Ok(())
    };
    // In one line, as the agent's words may come in between.
    let listing = || -> Result<String> {
        let said = node.asks("echo installed: $(ls /data/releases)")?;
        let line = said.lines().find(|line| line.starts_with("installed: "));
        line.map(str::to_owned).context(said)
    };
    leave(40)?;
    let before = listing()?;
    let rollout = bench.roll_out(SECOND, &[])?;
    let Progress { reason, .. } = bench.site.fails(&rollout, &bench.device, "space")?;
    assert!(reason.contains("MB") || reason.contains("MiB"), "{reason}");
    assert_eq!(listing()?, before, "something was written or removed");

    // It fits once the old release goes, and not before.
    leave(120)?;
    bench.updates(SECOND, &[])?;
    assert_eq!(listing()?, format!("installed: {FIRST} {SECOND}"));
    Ok(())
}
