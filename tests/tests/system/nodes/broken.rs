//! Releases that don't come up: the node is back on the good one by itself, and says why.

use super::*;

#[test]
fn a_release_that_panics_hangs_or_has_no_network_is_left() -> Result<()> {
    let bench = Bench::new("broken", &[PANICS, HANGS, DEAF])?;
    for (version, sign, kind) in [
        (PANICS, "Kernel panic", "fell-back"),
        (HANGS, "hanging now", "fell-back"),
        (DEAF, "cairn-up: release 3.0.0-deaf", "unhealthy"),
    ] {
        let rollout = bench.roll_out(version, &[])?;
        bench
            .node
            .says(&format!("cairn: {version}: starting as trial"))?;
        bench.node.says(sign)?;
        bench.node.is_up(FIRST, "good")?;
        let end = bench.site.fails(&rollout, &bench.device, kind)?;
        if version == DEAF {
            assert!(end.reason.contains("control-plane"), "{end:?}");
        }
        bench.sends(&end.evidence)?;
        assert_eq!(bench.site.status(&rollout)?, "halted");
        assert_eq!(bench.node.boots(version)?, 1, "it was tried once");
    }
    Ok(())
}
