use std::collections::BTreeMap;
use std::sync::Mutex;

use tokio::sync::oneshot;

use super::*;
use crate::clock::Clock;
use crate::link::http::Target;

fn rpc(data: &std::path::Path, actions: &str) -> Rpc {
    let input = settings::Input {
        restart_units: Some(vec!["docker.service".into()]),
        ..settings::Input::default()
    };
    let actions: BTreeMap<String, settings::ActionInput> = toml::from_str(actions).unwrap();
    let settings = Arc::new(Settings::check(&input, &actions).unwrap());
    Rpc {
        settings: watch::channel(settings).1,
        device: Arc::new(|| Some("node-1".to_owned())),
        status: Arc::new(|| json!({ "agent": "x" })),
        forgive: Arc::new(|_| Box::pin(async { Ok(()) })),
        diagnose: Arc::new(|()| Box::pin(async { Ok(vec![1]) })),
        workloads: tokio::sync::watch::channel(None).1,
        flush: Arc::new(|()| Box::pin(async { Ok(()) })),
        http: Http::fixed(Clock::manual("b", 0, 0), Target::default()),
        reset: Reset::new(data),
        restarting: Arc::new(Semaphore::new(0)),
    }
}

fn ask(rpc: &Rpc, method: &str, params: Value) -> Reply {
    let call = Call {
        method: method.to_owned(),
        params,
    };
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(rpc.answer(&call))
}

#[test]
fn what_is_not_allowed_is_refused_with_a_reason() {
    let data = tempfile::tempdir().unwrap();
    let rpc = rpc(data.path(), "");
    let refusals = [
        (
            "format-disk",
            json!({}),
            "unknown method \"format-disk\", expected one of status, logs, reboot, restart-unit, run-action, collect-diagnostics, forgive-release, factory-reset, workload, workload-logs",
        ),
        (
            "restart-unit",
            json!({"unit": "sshd.service"}),
            "unit \"sshd.service\" isn't on the list rpc.restart-units",
        ),
        ("restart-unit", json!({}), "unit: expected a text"),
        (
            "run-action",
            json!({"name": "x"}),
            "there is no action \"x\"",
        ),
        (
            "factory-reset",
            json!({"confirm": "node-2"}),
            "confirm: expected the device's own id",
        ),
        (
            "factory-reset",
            json!({"confirm": "node-1", "identity": 1}),
            "identity: expected true or false",
        ),
        (
            "reboot",
            json!({"delay_seconds": -1}),
            "delay_seconds: expected 0 to 86400",
        ),
        ("reboot", json!([]), "expected an object as params"),
        (
            "logs",
            json!({"lines": 100_000}),
            "lines: expected 1 to 1000",
        ),
        (
            "logs",
            json!({"unit": "--help"}),
            "unit: expected a name as docker.service",
        ),
        (
            "workload",
            json!({"name": "Web", "action": "stop"}),
            "name: expected a name of 1 to 63 of a-z, 0-9 and -, beginning and ending with a letter or digit, got \"Web\"",
        ),
        (
            "workload-logs",
            json!({"name": "web"}),
            "this node runs no workloads: there is no Docker",
        ),
        (
            "collect-diagnostics",
            json!({}),
            "no server for HTTP is known",
        ),
    ];
    for (method, params, error) in refusals {
        let reply = ask(&rpc, method, params.clone());
        assert_eq!(
            (reply.ok, reply.error.as_deref()),
            (false, Some(error)),
            "{method} {params}"
        );
    }
    assert!(!data.path().join("agent").exists(), "nothing was begun");
}

#[test]
fn an_action_runs_and_its_failure_is_told() {
    let data = tempfile::tempdir().unwrap();
    let actions = "[greet]\ncommand = ['/bin/echo', 'hello', '{who}']\narguments = { who = 'name' }\n[fail]\ncommand = ['/bin/sh', '-c', 'echo no >&2; exit 4']\n";
    let rpc = rpc(data.path(), actions);
    let reply = ask(
        &rpc,
        "run-action",
        json!({"name": "greet", "arguments": {"who": "world"}}),
    );
    assert_eq!(reply.result["stdout"], "hello world\n");
    let reply = ask(&rpc, "run-action", json!({"name": "fail"}));
    assert_eq!(
        reply.error.as_deref(),
        Some("the action failed with exit status: 4: no")
    );
}

#[test]
fn forgiving_passes_the_digest_on() {
    let data = tempfile::tempdir().unwrap();
    let told: Arc<Mutex<Vec<Digest>>> = Arc::default();
    let mut rpc = rpc(data.path(), "");
    let keep = told.clone();
    rpc.forgive = Arc::new(move |digest| {
        keep.lock().unwrap().push(digest);
        Box::pin(async { Ok(()) })
    });
    let digest = Digest::of(b"x");
    assert!(
        ask(
            &rpc,
            "forgive-release",
            json!({"release": digest.to_string()})
        )
        .ok
    );
    assert_eq!(*told.lock().unwrap(), [digest]);
    assert!(!ask(&rpc, "forgive-release", json!({"release": "abc"})).ok);
}

#[test]
fn calls_are_answered_side_by_side() {
    let data = tempfile::tempdir().unwrap();
    let rpc = rpc(
        data.path(),
        "[slow]\ncommand = ['/bin/sleep', '600']\ntimeout = '1h'\n",
    );
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(async {
            let (sender, receiver) = mpsc::channel(AT_A_TIME);
            let (trigger, shutdown) = crate::shutdown::pair();
            let work = tokio::spawn(rpc.run(receiver, shutdown));
            let call = |method: &str, params: Value| {
                let (reply, wait) = oneshot::channel();
                let call = Call {
                    method: method.to_owned(),
                    params,
                };
                sender.try_send(FromServer { call, reply }).unwrap();
                wait
            };
            let slow = call("run-action", json!({"name": "slow"}));
            let status = call("status", Value::Null);
            assert!(
                tokio::time::timeout(Duration::from_secs(20), status)
                    .await
                    .unwrap()
                    .unwrap()
                    .ok
            );
            trigger.pull();
            tokio::time::timeout(Duration::from_secs(20), work)
                .await
                .unwrap()
                .unwrap();
            assert!(slow.await.is_err(), "what is under way is given up");
        });
}
