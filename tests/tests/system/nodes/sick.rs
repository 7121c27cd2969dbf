//! A release that comes up and doesn't do its work; and what is remembered of it.

use super::*;

#[test]
fn a_sick_release_is_left_remembered_and_taken_again_when_forgiven() -> Result<()> {
    let bench = Bench::new("sick", &[SICK])?;
    let before = bench.site.sent();
    let rollout = bench.roll_out(SICK, &[])?;
    bench.node.is_up(SICK, "trial")?;
    // One file is another, and there is a patch.
    bench.site.sent_less(before, 128 << 10)?;
    bench.node.is_up(FIRST, "good")?;
    let end = bench.site.fails(&rollout, &bench.device, "unhealthy")?;
    assert!(
        end.reason.contains("the service does not answer"),
        "{end:?}"
    );
    bench.sends(&end.evidence)?;

    // Ordered again, it is refused before anything is fetched or restarted.
    let rollout = bench.roll_out(SICK, &[])?;
    let Progress { reason, .. } = bench.site.fails(&rollout, &bench.device, "failed-before")?;
    assert!(reason.contains("the service does not answer"), "{reason}");
    assert_eq!(bench.node.boots(SICK)?, 1);

    // The operator mends the cause and clears it.
    ensure!(bench.node.does(&format!("touch {CURE}"))?);
    bench.updates(SICK, &["--forgive"])
}
