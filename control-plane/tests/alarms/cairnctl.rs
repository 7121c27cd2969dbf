//! `cairnctl alarm`, as people type it.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::receiver::Receiver;
use crate::scene::{Scene, storage, webhook};

struct Ctl<'s>(&'s Scene);

impl Ctl<'_> {
    /// What it says; `input` is its stdin.
    fn run(&self, arguments: &[&str], input: &str) -> String {
        let done = self.done(arguments, input);
        assert!(done.status.success(), "{arguments:?}: {done:?}");
        String::from_utf8(done.stdout).unwrap()
    }

    fn done(&self, arguments: &[&str], input: &str) -> Output {
        let Self(scene) = self;
        let mut child = Command::new(env!("CARGO_BIN_EXE_cairnctl"))
            .args(arguments)
            .env("CAIRN_SERVER", scene.server.url(""))
            .env("CAIRN_CA", scene.server.ca())
            .env("CAIRN_TOKEN", scene.operator.token())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input.as_bytes()).unwrap();
        drop(stdin);
        child.wait_with_output().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_sees_acknowledges_and_silences() {
    let receiver = Receiver::start(&[]).await;
    let scene = Scene::new(&[]).await;
    let ctl = Ctl(&scene);
    let text = webhook(&receiver).to_string();
    assert_eq!(
        ctl.run(&["alarm", "channel", "set", "ops", "-"], &text),
        "channel ops is set\n"
    );
    assert_eq!(
        ctl.run(&["alarm", "channel", "test", "ops"], ""),
        "ops took a test message\n"
    );
    let shown = ctl.run(&["alarm", "channel", "show", "ops"], "");
    assert!(
        shown.contains("(set)") && !shown.contains("hush"),
        "{shown}"
    );
    let mut template = storage();
    template["severity"] = json!("critical");
    ctl.run(
        &["alarm", "template", "set", "storage", "-"],
        &template.to_string(),
    );
    assert!(
        ctl.run(&["alarm", "template", "list"], "")
            .contains("critical")
    );

    assert_eq!(ctl.run(&["alarm", "list"], ""), "no alarms\n");
    let node = scene.node("edge").await;
    scene.disk(&node, 95);
    receiver.until(2).await;
    let list = ctl.run(&["alarm", "list"], "");
    assert!(list.contains("firing") && list.contains(&node.id), "{list}");
    // One that isn't there keeps none of the others.
    let some = ctl.done(&["alarm", "ack", "998", "1", "999"], "");
    assert_eq!(some.status.code(), Some(1));
    assert_eq!(some.stdout, b"alarm 1 is acknowledged\n");
    let error = String::from_utf8(some.stderr).unwrap();
    assert!(
        error.starts_with("error: not acknowledged: 998, 999\n")
            && error.contains("there is no alarm 999"),
        "{error}"
    );
    assert_eq!(
        ctl.run(&["alarm", "ack", "1"], ""),
        "alarm 1 is acknowledged\n"
    );
    let shown = ctl.run(&["alarm", "show", "1"], "");
    for wanted in ["acknowledged", "by root", "above 90", "ops"] {
        assert!(shown.contains(wanted), "{wanted}: {shown}");
    }
    for (wrong, name) in [("--device", "nobody"), ("--template", "nothing")] {
        let select = ["--device", &node.id, wrong, name];
        let silence = ["alarm", "silence", "add", "--for", "2h"];
        let refused = ctl.done(&[&silence[..], &select].concat(), "");
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && said.contains(name), "{said}");
    }
    let silence = [
        "--json", "alarm", "silence", "add", "--device", &node.id, "--for", "2h", "--note", "work",
    ];
    let made: Value = serde_json::from_str(&ctl.run(&silence, "")).unwrap();
    let (from, until) = (
        made["silence"]["from"].as_i64(),
        made["silence"]["until"].as_i64(),
    );
    assert_eq!(until.unwrap() - from.unwrap(), 7200);
    scene.disk(&node, 10);
    scene.disk(&node, 99);
    let all: Value =
        serde_json::from_str(&ctl.run(&["--json", "alarm", "list", "--all"], "")).unwrap();
    let states: Vec<_> = all
        .as_array()
        .unwrap()
        .iter()
        .map(|alarm| &alarm["status"])
        .collect();
    assert_eq!(states, ["firing", "resolved"]);
    assert_eq!(
        scene.deliveries(2).await,
        Vec::<Value>::new(),
        "nobody is told in a silence"
    );
    ctl.run(&["alarm", "silence", "remove", &made["id"].to_string()], "");
    // What was held back comes now: that the first is over, and that the second fires.
    let got = receiver.until(4).await;
    let mut keys: Vec<_> = got[2..].iter().map(|got| got.key().to_owned()).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["1-resolved-ops", "2-fired-ops"]);
}
