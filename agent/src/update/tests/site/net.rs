//! A site of its own: nodes on one link, behind a router with a slow uplink to a server.
//!
//! ```text
//!   node 1 ─┐
//!   node 2 ─┼─ bridge, router ──── uplink, shaped ──── server 10.77.1.1
//!   node 3 ─┘   10.77.0.254
//! ```

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::netns::{Space, run, within};

/// Where the server is.
pub const SERVER: &str = "10.77.1.1";

/// Network namespaces, which go with it.
pub struct Net {
    prefix: String,
    _spaces: Vec<Space>,
}

impl Net {
    /// So many nodes; the uplink carries `rate`, as `tc` writes it, in each direction.
    pub fn new(nodes: usize, rate: &str) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let mut net = Self {
            prefix: format!("cairn{}-{count}-", std::process::id()),
            _spaces: Vec::new(),
        };
        let names = (0..nodes).map(|number| net.node(number));
        let names: Vec<String> = names.chain([net.router(), net.server()]).collect();
        net._spaces = names.into_iter().map(Space::new).collect();
        let (router, server) = (net.router(), net.server());
        run(&format!("ip -n {router} link add lan type bridge"));
        run(&format!("ip -n {router} addr add 10.77.0.254/24 dev lan"));
        run(&format!("ip -n {router} link set lan up"));
        for number in 0..nodes {
            let node = net.node(number);
            run(&format!(
                "ip -n {router} link add n{number} type veth peer name eth0 netns {node}"
            ));
            run(&format!("ip -n {router} link set n{number} master lan up"));
            run(&format!(
                "ip -n {node} addr add 10.77.0.{}/24 dev eth0",
                number + 1
            ));
            run(&format!("ip -n {node} link set eth0 up"));
            run(&format!("ip -n {node} route add default via 10.77.0.254"));
        }
        run(&format!(
            "ip -n {router} link add uplink type veth peer name eth0 netns {server}"
        ));
        for (space, name, address) in [
            (&router, "uplink", "10.77.1.254"),
            (&server, "eth0", SERVER),
        ] {
            run(&format!("ip -n {space} addr add {address}/24 dev {name}"));
            run(&format!("ip -n {space} link set {name} up"));
            let shape = format!("root tbf rate {rate} burst 32kb latency 200ms");
            run(&format!("tc -n {space} qdisc add dev {name} {shape}"));
        }
        run(&format!("ip -n {server} route add default via 10.77.1.254"));
        let forwards = || std::fs::write("/proc/sys/net/ipv4/ip_forward", "1");
        within(&router, forwards).unwrap();
        net
    }

    /// The namespace of a node.
    pub fn node(&self, number: usize) -> String {
        format!("{}n{number}", self.prefix)
    }

    fn router(&self) -> String {
        format!("{}r", self.prefix)
    }

    fn server(&self) -> String {
        format!("{}s", self.prefix)
    }

    /// Does something where the server is; its sockets stay there.
    pub fn at_server<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        within(&self.server(), work)
    }

    /// Bytes that went over the uplink, in both directions, headers and all.
    pub fn uplink_bytes(&self) -> u64 {
        let counted = run(&format!("ip -n {} -s -j link show uplink", self.router()));
        let counted: serde_json::Value = serde_json::from_str(&counted).unwrap();
        let counted = &counted[0]["stats64"];
        let bytes = |way: &str| counted[way]["bytes"].as_u64().unwrap();
        bytes("rx") + bytes("tx")
    }
}
