//! What works, and who may go back.

use super::*;
use cairn_system::Command;

#[test]
fn a_node_enrols_updates_and_goes_back_only_by_a_signed_order() -> Result<()> {
    let mut bench = Bench::new("good", &[FIRST, SECOND])?;
    a_token_is_good_for_one_node(&bench)?;
    signs_of_tampering_are_told_and_a_new_node_has_none(&bench)?;

    let before = bench.site.sent();
    bench.updates(SECOND, &[])?;
    // One file is another: two verity trees and a few blocks, of 130 MB.
    bench.site.sent_less(before, 2 << 20)?;
    assert!(
        bench
            .node
            .asks("cat /etc/motd")?
            .contains("the second release")
    );
    assert_eq!(bench.node.boots(SECOND)?, 1);

    // Back is refused, and nothing is restarted for it.
    let rollout = bench.roll_out(FIRST, &[])?;
    let Progress { reason, .. } = bench.site.fails(&rollout, &bench.device, "downgrade")?;
    assert!(reason.contains('1') && reason.contains('2'), "{reason}");
    assert_eq!(bench.site.status(&rollout)?, "halted");
    assert_eq!(bench.node.boots(FIRST)?, 1);

    // A release key's word allows it; a stranger's doesn't.
    let stranger = order(&bench, "stranger")?;
    let rollout = bench.roll_out(FIRST, &["--downgrade-order", &stranger])?;
    bench.site.fails(&rollout, &bench.device, "downgrade")?;
    let order = order(&bench, "release")?;
    bench.updates(FIRST, &["--downgrade-order", &order])?;

    // It is the good one now, also after the next start.
    bench.node.power_off()?;
    bench.node.start()?;
    bench.node.is_up(FIRST, "good")?;
    assert_eq!(bench.site.online(&bench.node)?, bench.device);
    bench.node.power_off()?;
    bench.node.disk().fsck()
}

/// An order for [`FIRST`] on this device, signed by the workshop's key of this name.
fn order(bench: &Bench, key: &str) -> Result<String> {
    let workshop = &bench.site.fleet().workshop;
    let out = bench
        .site
        .data()
        .with_file_name(format!("{key}.order.json"));
    workshop
        .imgtool(["order", "--not-after", "2099-01-01T00:00:00Z"])
        .arg(bench.site.fleet().release(FIRST))
        .args(["--device", &bench.device])
        .arg("--key")
        .arg(workshop.key(key))
        .arg("--out")
        .arg(&out)
        .args(["--passphrase-env", "CAIRN_PASSPHRASE"])
        .run()?;
    Ok(out.display().to_string())
}

/// The node's own token, used once more by somebody else: an agent on the host.
fn a_token_is_good_for_one_node(bench: &Bench) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let token = bench.site.data().with_file_name("enrol-node-good.toml");
    // The host reaches the same gate at its own address.
    let text = std::fs::read_to_string(token)?.replace(cairn_tests::site::HOST, "127.0.0.1");
    let file = dir.path().join("enrol.toml");
    std::fs::write(&file, text)?;
    let tried = Command::new(&bench.site.fleet().programs.agent)
        .arg("enrol")
        .arg("--file")
        .arg(&file)
        .arg("--data")
        .arg(dir.path().join("data"))
        .arg("--run-dir")
        .arg(dir.path().join("run"))
        .run();
    let error = tried.err().context("the token was taken twice")?;
    assert!(error.to_string().contains("used"), "{error}");
    let list = bench.site.ctl(&["device", "list"])?;
    assert_eq!(cairn_tests::operator::items(&list).len(), 1);
    Ok(())
}

/// All that the agent looks at is as in the image; a file that somebody adds is told with its evidence, and over when it is gone.
fn signs_of_tampering_are_told_and_a_new_node_has_none(bench: &Bench) -> Result<()> {
    let well = r#"test "$(cairn-agent status --json | grep -Ec '"tamper[.][a-z]+": 0,?$')" = 9"#;
    let told = |what: &str| {
        bench.site.eventually(what, SOON, |site| {
            let last = ["device", "telemetry", &bench.device, "tamper_evidence"];
            let last = site
                .ctl(&[&last[..], &["--last", "1"]].concat())?
                .to_string();
            Ok(last.contains(what).then_some(()))
        })
    };
    bench
        .site
        .eventually("nine looks that find nothing", SOON, |_| {
            Ok(bench.node.does(well)?.then_some(()))
        })
        .with_context(|| bench.node.asks("cairn-agent status").unwrap_or_default())?;
    ensure!(bench.node.does("echo ALL >/etc/added-by-hand")?);
    told("/etc/added-by-hand")?;
    ensure!(bench.node.does("rm /etc/added-by-hand")?);
    told(r#""findings":[]"#)
}
