//! Real lines: two network namespaces, nftables that drops what it is told to, and tbf (needs root, iproute2 and nftables).

mod probing;
mod speeds;

use std::future::Future;

use super::*;
use crate::link::http::Target;
use crate::netns::{Space, run, within};
use crate::outbox;

/// The node's end, and the other one.
const NODE: &str = "10.99.0.1";
const FAR: &str = "10.99.0.2";
const FAR_SIX: &str = "fd00:99::2";
/// Milliseconds since 1970.
const NOW: i64 = 1_800_000_000;

/// A node with one line, `eth0`, and who is at its other end.
struct World {
    node: Space,
    far: Space,
    folder: tempfile::TempDir,
}

impl World {
    fn new(name: &str) -> Self {
        Self::of(name, Space::new)
    }

    /// Without IPv6 nothing but what is sent on purpose is on the line.
    fn quiet(name: &str) -> Self {
        Self::of(name, Space::quiet)
    }

    fn of(name: &str, space: fn(String) -> Space) -> Self {
        let prefix = format!("cairn{}-{name}", std::process::id());
        let (node, far) = (space(format!("{prefix}-n")), space(format!("{prefix}-f")));
        run(&format!(
            "ip -n {} link add eth0 type veth peer name eth0 netns {}",
            node.0, far.0
        ));
        for (space, address) in [(&node.0, NODE), (&far.0, FAR)] {
            run(&format!("ip -n {space} addr add {address}/24 dev eth0"));
            run(&format!("ip -n {space} link set eth0 up"));
        }
        let folder = tempfile::tempdir().unwrap();
        Self { node, far, folder }
    }

    /// Gives both ends addresses of IPv6.
    fn six(&self) {
        for (space, address) in [(&self.node.0, "fd00:99::1"), (&self.far.0, FAR_SIX)] {
            run(&format!(
                "ip -n {space} addr add {address}/64 dev eth0 nodad"
            ));
        }
    }

    /// Drops some of what comes in or goes out of one end.
    fn drops(&self, space: &Space, hook: &str, what: &str) {
        let nft = format!("ip netns exec {} nft", space.0);
        run(&format!("{nft} add table inet {hook}"));
        run(&format!(
            "{nft} add chain inet {hook} some {{ type filter hook {hook} priority 0 ; }}"
        ));
        run(&format!("{nft} add rule inet {hook} some {what} drop"));
    }

    /// Does something as the node.
    fn at_node<T: Send>(&self, work: impl Future<Output = T> + Send) -> T {
        within(&self.node.0, || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.unwrap().block_on(work)
        })
    }

    /// A line by the name `wan`, as this configuration has it.
    fn line(&self, written: &str) -> Line {
        let input = toml::from_str(&format!("[wan]\n{written}")).unwrap();
        let settings = Settings::check(&input).unwrap().0.remove(0);
        let clock = Clock::manual("b", NOW, 0);
        let outbox = outbox::Settings {
            commit_interval: Duration::from_millis(1),
            ..outbox::Settings::default()
        };
        let outbox = Outbox::open(&self.folder.path().join("outbox"), &outbox, clock.clone());
        let deps = Deps {
            report: Duration::from_secs(60),
            folder: self.folder.path().to_owned(),
            http: Http::fixed(clock.clone(), Target::default()),
            clock,
            outbox: outbox.unwrap(),
            broker: None,
            shown: watch::channel(Object::new()).0,
        };
        let ledger = Arc::new(Mutex::new(Ledger::open(self.folder.path())));
        Line::new(settings, deps, ledger)
    }
}

impl Line {
    async fn rounds(&mut self, count: usize) {
        for _ in 0..count {
            self.round().await;
        }
    }

    /// What the last report said, and the method if that was told.
    async fn reported(&mut self) -> Object {
        self.report();
        let mut all = Object::new();
        self.deps.outbox.flush().await.unwrap();
        while let Some(batch) = self.deps.outbox.next_batch(60_000) {
            for record in &batch.records {
                all.extend(record.values.clone());
            }
            self.deps.outbox.acked(batch);
        }
        all
    }
}
