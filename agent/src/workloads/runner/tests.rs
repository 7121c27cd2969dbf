use std::sync::Mutex;

use cairn_workload::seen::{self, Run};
use serde_json::json;
use tokio::time::Instant;

use super::super::engine::View;
use super::*;
use crate::outbox;
use crate::shutdown;

/// Docker with one image. As the real one, it tells of a change before it answers who made it.
#[derive(Default)]
struct Fake {
    containers: Mutex<Vec<Seen>>,
    changed: Notify,
    started: Arc<Notify>,
    /// It was told to pull an image, which it never gets done.
    pulling: Arc<Notify>,
    /// It was told to remove an image, which it never gets done.
    removing: Arc<Notify>,
}

const IMAGE: &str = "r.example.org/a";

/// Of the image that is there.
fn digest() -> String {
    format!("sha256:{}", "ab".repeat(32))
}

impl Engine for Fake {
    async fn look(&self, _: &str) -> Result<View, Trouble> {
        Ok(View {
            seen: self.containers.lock().unwrap().clone(),
            images: vec![Present {
                id: digest(),
                names: vec![format!("{IMAGE}@{}", digest())],
                size: 1,
            }],
            running: Vec::new(),
        })
    }

    async fn perform(&self, action: &Action) -> Result<(), Trouble> {
        match action {
            Action::Create(workload) => self.containers.lock().unwrap().push(Seen {
                id: "1".into(),
                name: current_name(&workload.name),
                labels: seen::labels("n", workload),
                image_id: digest(),
                image: workload.image.local(),
                run: Run::Created,
                restarts: 0,
            }),
            Action::Start { .. } => self.started.notify_one(),
            Action::Pull { .. } => {
                self.pulling.notify_one();
                std::future::pending().await
            }
            other => panic!("{other:?}"),
        }
        self.changed.notify_one();
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    async fn remove_image(&self, _: &str) -> Result<(), Trouble> {
        self.removing.notify_one();
        std::future::pending().await
    }

    async fn logs(&self, _: &str, _: u32) -> Result<Vec<String>, Trouble> {
        Ok(Vec::new())
    }

    async fn listen(&self, heard: &Notify) {
        loop {
            self.changed.notified().await;
            heard.notify_one();
        }
    }
}

/// The loop at work, and what it is told.
struct Node {
    folder: tempfile::TempDir,
    declared: watch::Sender<Option<Arc<Workloads>>>,
    trigger: Option<shutdown::Trigger>,
}

impl Node {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            declared: watch::channel(None).0,
            trigger: None,
        }
    }

    fn start(&mut self, engine: Fake) {
        let path = |name: &str| self.folder.path().join(name);
        let clock = Clock::manual("b", 1_800_000_000, 0);
        let mut settings = Settings::check(&super::super::Input::default()).unwrap();
        settings.image_budget = 0;
        let outbox = outbox::Settings::default();
        let deps = Deps {
            settings,
            memory: path("memory.json"),
            node: "n".into(),
            declared: self.declared.subscribe(),
            missing: watch::channel(None).1,
            volumes: path("volumes"),
            running: watch::channel(None).0,
            status: watch::channel(Arc::default()).0,
            asked: super::super::steer::pair().1,
            outbox: Outbox::open(&path("outbox"), &outbox, clock.clone()).unwrap(),
            clock,
        };
        let (trigger, shutdown) = shutdown::pair();
        self.trigger = Some(trigger);
        tokio::spawn(run(engine, deps, shutdown));
    }

    fn declare(&self, digest: &str) {
        let workload = json!({
            "name": "web", "owner": { "customer": "acme", "business": "vod" }, "image": format!("{IMAGE}@{digest}"),
        });
        let workloads: Workloads = serde_json::from_value(json!([workload])).unwrap();
        self.declared.send_replace(Some(Arc::new(workloads)));
    }
}

#[tokio::test(start_paused = true)]
async fn one_step_follows_the_other_without_a_pause() {
    let (mut node, engine) = (Node::new(), Fake::default());
    let started = engine.started.clone();
    node.start(engine);
    let begun = Instant::now();
    node.declare(&digest());
    started.notified().await;
    assert!(begun.elapsed() < GATHER, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_image_that_will_not_go_holds_nobody_up() {
    let (mut node, engine) = (Node::new(), Fake::default());
    // The image was pulled for a workload once, and is over the budget.
    let known = json!({ "boot": "b", "images": { format!("{IMAGE}@{}", digest()): null } });
    std::fs::write(node.folder.path().join("memory.json"), known.to_string()).unwrap();
    let (started, removing) = (engine.started.clone(), engine.removing.clone());
    node.start(engine);
    removing.notified().await;
    node.declare(&digest());
    let limit = Duration::from_secs(60);
    tokio::time::timeout(limit, started.notified())
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_pull_that_nobody_wants_any_more_is_given_up() {
    let (mut node, engine) = (Node::new(), Fake::default());
    let (started, pulling) = (engine.started.clone(), engine.pulling.clone());
    node.start(engine);
    node.declare(&format!("sha256:{}", "cd".repeat(32)));
    pulling.notified().await;
    node.declare(&digest());
    let limit = Duration::from_secs(60);
    tokio::time::timeout(limit, started.notified())
        .await
        .unwrap();
}
