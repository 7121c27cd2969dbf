//! `cairnctl` as a person or a pipeline runs it.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::release;
use crate::site::{PASSWORD, Site};

pub fn command(site: &Site) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cairnctl"));
    command.env_clear().env(
        "CAIRNCTL_CONFIG",
        site.folder.path().join("config/cairnctl.toml"),
    );
    command
}

fn with_stdin(mut command: Command, stdin: &str) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    child.wait_with_output().unwrap()
}

/// Runs it with a token from the environment, as a pipeline does; gives its JSON.
pub fn run(site: &Site, token: &str, arguments: &[&str]) -> Value {
    run_with_stdin(site, token, arguments, "")
}

/// The same with something on stdin.
pub fn run_with_stdin(site: &Site, token: &str, arguments: &[&str], stdin: &str) -> Value {
    let mut command = command(site);
    command
        .env("CAIRN_SERVER", &site.url)
        .env("CAIRN_CA", site.data().join("ca/ca.pem"))
        .env("CAIRN_TOKEN", token)
        .arg("--json")
        .args(arguments);
    let done = with_stdin(command, stdin);
    assert!(
        done.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    serde_json::from_slice(&done.stdout).unwrap()
}

/// Runs it for people, again and again while the device is between two polls.
pub fn until_online(site: &Site, token: &str, arguments: &[&str]) -> (bool, String, String) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let done = command(site)
            .env("CAIRN_SERVER", &site.url)
            .env("CAIRN_CA", site.data().join("ca/ca.pem"))
            .env("CAIRN_TOKEN", token)
            .args(arguments)
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let (out, error) = (text(done.stdout), text(done.stderr));
        if !error.contains("isn't connected") || Instant::now() > deadline {
            return (done.status.success(), out, error);
        }
    }
}

fn start_upload(site: &Site, token: &str, folder: &str) -> Child {
    command(site)
        .env("CAIRN_SERVER", &site.url)
        .env("CAIRN_CA", site.data().join("ca/ca.pem"))
        .env("CAIRN_TOKEN", token)
        .args(["release", "upload", folder])
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// Bytes of root images on their way.
fn arrived(site: &Site) -> u64 {
    let folders = std::fs::read_dir(site.data().join("releases/.uploads"))
        .into_iter()
        .flatten()
        .flatten();
    let files = folders.flat_map(|folder| {
        std::fs::read_dir(folder.path())
            .into_iter()
            .flatten()
            .flatten()
    });
    files
        .filter(|file| file.file_name() == "root.erofs")
        .filter_map(|file| Some(file.metadata().ok()?.len()))
        .sum()
}

/// Waits until something is so, or the client has ended.
fn wait_until(client: &mut Child, so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !so() && client.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "nothing happened");
        std::thread::yield_now();
    }
}

fn login(site: &Site, password: &str) -> Output {
    let ca = site.data().join("ca/ca.pem");
    let mut login = command(site);
    login.args([
        "login",
        &site.url,
        "--ca",
        ca.to_str().unwrap(),
        "--user",
        "root",
        "--password-stdin",
    ]);
    with_stdin(login, password)
}

fn text(site: &Site, arguments: &[&str]) -> (bool, String, String) {
    let done = command(site)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (done.status.success(), text(done.stdout), text(done.stderr))
}

#[tokio::test]
async fn a_login_is_kept_for_its_owner_only() {
    let site = Site::start().await;
    let config = site.folder.path().join("config/cairnctl.toml");
    let wrong = login(&site, "wrong wrong wrong\n");
    assert_eq!(wrong.status.code(), Some(1));
    assert!(!config.exists());
    let (ok, _, error) = text(&site, &["device", "list"]);
    assert!(
        !ok && error.contains("not logged in") && error.contains("hint: "),
        "{error}"
    );

    let right = login(&site, &format!("{PASSWORD}\n"));
    assert!(right.status.success(), "{right:?}");
    assert_eq!(
        config.metadata().unwrap().permissions().mode() & 0o777,
        0o600
    );
    let (ok, out, _) = text(&site, &["whoami"]);
    assert!(ok && out.contains("root") && out.contains("admin"), "{out}");
    let kept: toml::Table = toml::from_str(&std::fs::read_to_string(&config).unwrap()).unwrap();
    let session = kept["token"].as_str().unwrap();
    let token = site.token(session, &["devices:read"]).await;
    // A pipeline's token is not what was logged in with.
    let out = command(&site)
        .arg("logout")
        .env("CAIRN_TOKEN", &token)
        .output()
        .unwrap();
    assert_eq!(out.stdout, b"logged out\n", "{out:?}");
    assert!(!config.exists());
    assert_eq!(site.get("/v1/account", session).await.status, 401);
    assert_eq!(site.get("/v1/account", &token).await.status, 200);
    let (ok, out, _) = text(&site, &["logout"]);
    assert!(ok && out == "not logged in\n", "{out}");
    assert_eq!(
        command(&site)
            .arg("nonsense")
            .output()
            .unwrap()
            .status
            .code(),
        Some(2)
    );
}

#[tokio::test]
async fn a_server_of_another_ca_is_not_trusted() {
    let (site, other) = (Site::start().await, Site::start().await);
    let done = command(&site)
        .env("CAIRN_SERVER", &other.url)
        .env("CAIRN_CA", site.data().join("ca/ca.pem"))
        .env("CAIRN_TOKEN", "x")
        .args(["device", "list"])
        .output()
        .unwrap();
    let error = String::from_utf8(done.stderr).unwrap();
    assert!(
        !done.status.success() && error.contains("hint: the server's certificate is of another CA"),
        "{error}"
    );
}

#[tokio::test]
async fn a_wrong_address_or_ca_is_named() {
    let site = Site::start().await;
    let (ca, shell) = (
        site.data().join("ca/ca.pem"),
        site.folder.path().join("env.sh"),
    );
    std::fs::write(&shell, "CAIRN_TOKEN=x\n").unwrap();
    let (mqtt, admin) = site.others();
    let path = format!("{}/v1", site.url);
    for (url, ca, wanted) in [
        (site.url.as_str(), &shell, "env.sh"),
        (path.as_str(), &ca, "without a path, got"),
        (mqtt.as_str(), &ca, "--https"),
        (admin.as_str(), &ca, "--https"),
    ] {
        let done = command(&site)
            .env("CAIRN_SERVER", url)
            .env("CAIRN_CA", ca)
            .env("CAIRN_TOKEN", "x")
            .arg("whoami")
            .output()
            .unwrap();
        let error = String::from_utf8(done.stderr).unwrap();
        assert!(
            !done.status.success() && error.contains(wanted),
            "{wanted}: {error}"
        );
    }
}

#[tokio::test]
async fn an_operator_makes_tokens_and_sees_devices() {
    let site = Site::start().await;
    assert!(login(&site, PASSWORD).status.success());
    let file = site.folder.path().join("enrol.toml");
    let create = [
        "token",
        "create",
        "--uses",
        "3",
        "--group",
        "lab",
        "--tag",
        "a",
        "--out",
        file.to_str().unwrap(),
    ];
    let (ok, out, error) = text(&site, &create);
    assert!(ok, "{error}");
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let enrol: cairn_wire::enrol::EnrolFile =
        toml::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    assert!(
        enrol.server.starts_with("https://")
            && enrol.ca.contains("BEGIN CERTIFICATE")
            && !out.contains(&enrol.token)
    );
    for server in ["ftp://x", "http://x", "https://x/v1"] {
        let file = site.folder.path().join("none.toml");
        let create = ["token", "create", "--server", server, "--out"];
        let done = command(&site).args(create).arg(&file).output().unwrap();
        let error = String::from_utf8(done.stderr).unwrap();
        assert_eq!(done.status.code(), Some(2), "{error}");
        assert!(error.contains("--server") && !file.exists(), "{error}");
    }
    let (_, list, _) = text(&site, &["token", "list"]);
    assert!(list.contains("lab") && list.lines().count() == 2, "{list}");

    let root = site.login("root").await;
    let device = site.device(&root, "edge-1").await;
    let (_, list, _) = text(&site, &["device", "list", "--tag", "t"]);
    assert!(list.contains(&device) && list.contains("offline"), "{list}");
    let (_, list, _) = text(&site, &["device", "list", "--online"]);
    assert_eq!(list, "no device matches\n");
    let typo = ["device", "list", "--group", "typo"];
    assert_eq!(run(&site, &root, &typo), Value::Array(vec![]));
    let (ok, shown, _) = text(
        &site,
        &[
            "device",
            "set",
            &device,
            "--group",
            "lab",
            "--add-tag",
            "x",
            "--remove-tag",
            "t",
        ],
    );
    assert!(
        ok && shown.contains("lab") && shown.contains('x'),
        "{shown}"
    );
    let broken = ["device", "attributes", &device, "--set", "j={\"x\":1,}"];
    let (ok, _, error) = text(&site, &broken);
    assert!(!ok && error.contains("expected JSON for j"), "{error}");
    let (ok, out, _) = text(&site, &["device", "attributes", &device]);
    assert!(ok && !out.contains("shared"), "{out}");
    let (ok, _, error) = text(&site, &["rpc", &device, "reboot"]);
    assert!(!ok && error.contains("isn't connected"), "{error}");
    let (ok, timeline, _) = text(&site, &["device", "timeline", &device]);
    assert!(
        ok && timeline.contains("enrolled") && timeline.contains("device.change by root"),
        "{timeline}"
    );
    let (ok, ..) = text(&site, &["device", "revoke", &device]);
    assert!(ok);
    let (_, shown, _) = text(&site, &["device", "show", &device]);
    assert!(shown.contains("revoked"), "{shown}");
    let (ok, out, _) = text(&site, &["--json", "device", "show", "none"]);
    assert!(!ok && out.is_empty());
    let (_, log, _) = text(&site, &["audit", "--last", "2"]);
    assert!(
        log.lines().count() == 3 && log.contains("device.revoke"),
        "{log}"
    );
}

#[tokio::test]
async fn a_pipeline_uploads_and_goes_on_after_a_kill() {
    let mut site = Site::start().await;
    let root = site.login("root").await;
    site.set_trust(&release::trust(
        &site.folder.path().join("trust"),
        1,
        &[1],
        &[10],
        &[1],
    ));
    let token = site
        .token(&root, &["releases:write", "releases:read"])
        .await;
    let folder = release::make(site.folder.path(), "1.0.0", 1, 10, 4000);
    let folder = folder.to_str().unwrap();

    // Kill client and server in the middle of it.
    let mut upload = start_upload(&site, &token, folder);
    wait_until(&mut upload, || arrived(&site) > 0);
    let _ = upload.kill();
    upload.wait().unwrap();
    site.kill_and_start();

    let done = run(&site, &token, &["release", "upload", folder]);
    assert_eq!(done["version"], "1.0.0");
    assert_eq!(
        run(&site, &token, &["release", "upload", folder])["unchanged"],
        true
    );
    assert_eq!(run(&site, &token, &["release", "list"])[0]["sequence"], 1);
    assert_eq!(
        run(&site, &token, &["release", "show", "1.0.0"])["channel"],
        "stable"
    );
    assert_eq!(
        run(&site, &root, &["release", "remove", "1.0.0"])["removed"],
        "1.0.0"
    );
    assert_eq!(
        run(&site, &token, &["release", "list"]),
        serde_json::json!([])
    );
}

#[tokio::test]
async fn killed_at_any_moment_a_release_is_there_whole_or_not_at_all() {
    let mut site = Site::start().await;
    let root = site.login("root").await;
    site.set_trust(&release::trust(
        &site.folder.path().join("trust"),
        1,
        &[1],
        &[10],
        &[1],
    ));
    let channel = site.data().join("releases/stable");
    for round in 1..=12_u64 {
        let folder = release::make(site.folder.path(), &format!("1.{round}.0"), round, 10, 300);
        let mut upload = start_upload(&site, &root, folder.to_str().unwrap());
        let size = folder.join("root.erofs").metadata().unwrap().len();
        // From the last byte's arrival on, a little later in each round.
        wait_until(&mut upload, || {
            arrived(&site) == size || channel.join(format!("1.{round}.0")).exists()
        });
        let begun = Instant::now();
        wait_until(&mut upload, || {
            begun.elapsed() > Duration::from_millis(4 * round)
        });
        site.kill_and_start();
        let _ = upload.kill();
        upload.wait().unwrap();

        let listed = run(&site, &root, &["release", "list"]);
        let listed: Vec<_> = listed
            .as_array()
            .unwrap()
            .iter()
            .map(|r| r["version"].as_str().unwrap().to_owned())
            .collect();
        let newest = listed.first().cloned();
        if let Some(newest) = &newest {
            let latest = std::fs::read(channel.join("latest.dsse.json")).unwrap();
            assert_eq!(
                latest,
                std::fs::read(channel.join(newest).join("manifest.dsse.json")).unwrap()
            );
        }
        for version in &listed {
            assert_eq!(
                std::fs::read_dir(channel.join(version)).unwrap().count(),
                7,
                "{version}"
            );
        }
        // The pipeline's next try ends well either way.
        run(
            &site,
            &root,
            &["release", "upload", folder.to_str().unwrap()],
        );
        for file in std::fs::read_dir(&folder).unwrap() {
            let file = file.unwrap();
            let there =
                std::fs::read(channel.join(format!("1.{round}.0")).join(file.file_name())).unwrap();
            assert!(
                there == std::fs::read(file.path()).unwrap(),
                "{:?}",
                file.file_name()
            );
        }
    }
}

#[tokio::test]
async fn two_pipelines_with_the_same_release_both_succeed() {
    let site = Site::start().await;
    let root = site.login("root").await;
    site.set_trust(&release::trust(
        &site.folder.path().join("trust"),
        1,
        &[1],
        &[10],
        &[1],
    ));
    let folder = release::make(site.folder.path(), "1.0.0", 1, 10, 3000);
    let folder = folder.to_str().unwrap();
    let both = [
        start_upload(&site, &root, folder),
        start_upload(&site, &root, folder),
    ];
    for upload in both {
        let done = upload.wait_with_output().unwrap();
        assert!(
            done.status.success(),
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
    }
    assert_eq!(
        run(&site, &root, &["release", "list"])
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test]
async fn a_rollout_is_made_started_and_aborted() {
    let site = Site::start().await;
    let root = site.login("root").await;
    site.set_trust(&release::trust(
        &site.folder.path().join("trust"),
        1,
        &[1],
        &[10],
        &[1],
    ));
    let folder = release::make(site.folder.path(), "2.0.0", 2, 10, 3);
    run(
        &site,
        &root,
        &["release", "upload", folder.to_str().unwrap()],
    );
    site.device(&root, "edge-1").await;
    let create = [
        "rollout",
        "create",
        "--release",
        "2.0.0",
        "--tag",
        "t",
        "--soak",
        "5m",
        "--waves",
        "1,100%",
        "--max-failures",
        "1",
    ];
    let made = run(&site, &root, &create);
    let id = made["id"].to_string();
    assert_eq!(
        (made["status"].as_str(), made["release"]["version"].as_str()),
        (Some("draft"), Some("2.0.0"))
    );
    assert_eq!(
        run(&site, &root, &["rollout", "start", &id])["status"],
        "running"
    );
    assert_eq!(
        run(&site, &root, &["rollout", "pause", &id])["status"],
        "paused"
    );
    assert_eq!(
        run(&site, &root, &["rollout", "resume", &id])["status"],
        "running"
    );
    assert_eq!(run(&site, &root, &["rollout", "show", &id])["matched"], 1);
    let in_use = site
        .call(
            reqwest::Method::DELETE,
            "/v1/releases/stable/2.0.0",
            Some(&root),
            Value::Null,
        )
        .await;
    assert_eq!(
        (in_use.status.as_u16(), in_use.code()),
        (409, "release-in-use")
    );
    assert_eq!(
        run(&site, &root, &["rollout", "abort", &id])["status"],
        "aborted"
    );
    assert_eq!(
        run(&site, &root, &["rollout", "list"])[0]["status"],
        "aborted"
    );
}

#[test]
fn completions_are_written_for_each_shell() {
    for shell in ["bash", "zsh", "fish"] {
        let done = Command::new(env!("CARGO_BIN_EXE_cairnctl"))
            .args(["completions", shell])
            .output()
            .unwrap();
        assert!(
            done.status.success() && String::from_utf8(done.stdout).unwrap().contains("cairnctl"),
            "{shell}"
        );
    }
}

#[test]
fn traffic_is_csv_or_json() {
    for line in [
        ["--json", "traffic", "series", "all", "", "--csv"],
        ["traffic", "series", "all", "", "--csv", "--json"],
    ] {
        let done = Command::new(env!("CARGO_BIN_EXE_cairnctl"))
            .args(line)
            .output()
            .unwrap();
        let error = String::from_utf8(done.stderr).unwrap();
        assert!(!done.status.success() && done.stdout.is_empty());
        assert!(error.contains("--csv or --json"), "{error}");
    }
}
