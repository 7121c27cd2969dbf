//! The control plane is gone, or failing, for the whole trial.

use super::*;

#[test]
fn a_trial_without_the_control_plane_ends_as_the_profile_says() -> Result<()> {
    let mut bench = Bench::new("away", &[SECOND, THIRD])?;

    // Required: the node falls back, once, and stays there while nobody answers.
    let rollout = bench.roll_out(SECOND, &[])?;
    bench
        .node
        .says(&format!("cairn: {SECOND}: starting as trial"))?;
    bench.site.kill();
    bench.node.is_up(FIRST, "good")?;
    bench.site.serve()?;
    let Progress { reason, .. } = bench.site.fails(&rollout, &bench.device, "unhealthy")?;
    assert!(reason.contains("control-plane"), "{reason}");
    assert_eq!(bench.node.boots(SECOND)?, 1, "it looped");
    assert_eq!(bench.node.boots(FIRST)?, 2, "it looped");

    // Failing with 503 is no failure of the node's.
    let rollout = bench.roll_out(SECOND, &["--forgive"])?;
    bench
        .node
        .says(&format!("cairn: {SECOND}: starting as trial"))?;
    bench.site.fail()?;
    bench.node.is_up(SECOND, "trial")?;
    bench.node.holds_for_good(SECOND)?;
    assert!(bench.site.failed() > 0, "the node never asked");
    bench.site.open()?;
    bench.site.succeeds(&rollout, &bench.device)?;

    // Ignored: the node stays, whoever is away.
    bench
        .node
        .set("60-alone", "[health]\ncontrol-plane = \"ignored\"")?;
    bench.site.online(&bench.node)?;
    let rollout = bench.roll_out(THIRD, &[])?;
    bench
        .node
        .says(&format!("cairn: {THIRD}: starting as trial"))?;
    bench.site.kill();
    bench.node.is_up(THIRD, "trial")?;
    bench.node.holds_for_good(THIRD)?;
    bench.site.serve()?;
    bench.site.succeeds(&rollout, &bench.device)
}
