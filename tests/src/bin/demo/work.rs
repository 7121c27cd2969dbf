//! The node at work: two customers' Docker containers on it, traffic that is counted on both
//! ends, and a line that gets worse and better.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cairn_tests::customer::{self, Bytes, Client};
use cairn_tests::far_end::FarEnd;
use cairn_tests::fleet::DOCKER;
use cairn_tests::node::{BOOT, SOON};
use cairn_tests::operator::items;
use cairn_tests::registry::Registry;
use cairn_tests::site::HOST;
use cairn_tests::webhook::{Message, Webhook};
use cairn_tests::{Node, Site};
use serde_json::{Value, json};

use crate::report::Report;

/// Name, business, and the port of the node at which its clients ask.
const CUSTOMERS: [(&str, &str, u16); 2] = [("acme", "video", 8001), ("globex", "games", 8002)];
/// How long after its end a slot of five minutes may take to arrive.
const SLOT: Duration = Duration::from_secs(300 + 120);
/// What the line's answers come late by when it is bad.
const LATE: Duration = Duration::from_millis(400);

/// A node that customers work on, and their clients.
pub struct Work {
    webhook: Webhook,
    far_end: FarEnd,
    registry: Registry,
    clients: Vec<Client>,
}

impl Work {
    /// Prepares all that is outside the node, which is still off.
    ///
    /// # Errors
    /// If something doesn't start.
    pub fn prepare(node: &mut Node) -> Result<Self> {
        let mut clients = Vec::new();
        for (_, _, port) in CUSTOMERS {
            let here = customer::free_port()?;
            node.forward(here, port);
            clients.push(Client::new(here)?);
        }
        Ok(Self {
            webhook: Webhook::start()?,
            far_end: FarEnd::start()?,
            registry: Registry::start()?,
            clients,
        })
    }

    /// Does all of it, and gives the report's last pages.
    ///
    /// # Errors
    /// If anything goes another way than it should.
    pub fn run(
        mut self,
        report: &mut Report,
        site: &Site,
        node: &Node,
        device: &str,
    ) -> Result<Vec<(String, String)>> {
        report.step(&format!("rollout of {DOCKER}: it brings Docker"), || {
            let rollout = site.roll_out(DOCKER, device, &[])?;
            site.succeeds(&rollout, device)
        })?;
        report.step("declare a line, its alarm, and who is told", || {
            self.watch_a_line(site, node)
        })?;
        report.step("two customers' workloads: pulled, and running", || {
            self.declare(site, device)
        })?;
        let began = now();
        report.step("their clients send and count", || self.exchange([300, 200]))?;
        let alarm = self.line(report)?;
        report.step("their clients send and count once more", || {
            self.exchange([100, 250])
        })?;
        report.step("the last slot ends, and its record arrives", || {
            self.adds_up(site, began)
        })?;
        report.note("as many bytes as the clients counted".to_owned());
        let mut pages = vec![("The line".to_owned(), alarm)];
        for ((name, ..), client) in CUSTOMERS.iter().zip(&self.clients) {
            let table = series(site, name, began)?.run()?.text();
            let Bytes { sent, received } = client.bytes;
            let title = format!(
                "Customer {name}: its clients sent {sent} and received {received} bytes of IP"
            );
            pages.push((title, table));
        }
        Ok(pages)
    }

    /// The node probes the far end each second; above 150 ms for 15 s an alarm fires.
    fn watch_a_line(&self, site: &Site, node: &Node) -> Result<()> {
        let line = [
            "[lines.wan]",
            &format!("targets = [\"{HOST}\"]"),
            "methods = [\"udp\"]",
            &format!("udp-port = {}", self.far_end.port()),
            "interval = \"1s\"",
            "window = \"10s\"",
        ];
        let webhook = json!({ "to": { "webhook": { "url": self.webhook.url() } } });
        site.declare(&["alarm", "channel", "set", "desk"], &webhook)?;
        let template = json!({
            "about": "A line is slow",
            "resource": "line-latency",
            "key": "line.*.latency_ms",
            "when": { "above": { "limit": 150, "clear": 120 } },
            "for": "15s",
            "clear_for": "15s",
            "severity": "warning",
        });
        site.declare(&["alarm", "template", "set", "line-latency"], &template)?;
        node.set("60-line", &line.join("\n"))
    }

    fn declare(&self, site: &Site, device: &str) -> Result<()> {
        let program = customer::program()?;
        for (name, business, port) in CUSTOMERS {
            let image = self
                .registry
                .publish(HOST, &format!("{name}/{business}"), &program)?;
            let place = json!({ "on": { "devices": [device] } });
            let workload = customer::workload(&place, name, business, &image, port);
            site.declare(
                &["workload", "set", &format!("{name}-{business}")],
                &workload,
            )?;
        }
        site.eventually("both workloads run", BOOT, |site| {
            let list = site.ctl(&["workload", "list", "--device", device])?;
            let runs = |item: &&Value| item["state"] == "running";
            let running = items(&list).iter().filter(runs).count();
            ensure!(running == CUSTOMERS.len(), "they are {list}");
            Ok(Some(()))
        })
    }

    /// So many datagrams for each customer, of a size of its own.
    fn exchange(&mut self, datagrams: [u32; 2]) -> Result<()> {
        for ((client, datagrams), payload) in
            self.clients.iter_mut().zip(datagrams).zip([1200, 700])
        {
            client.exchange(datagrams, payload)?;
        }
        Ok(())
    }

    /// The line gets bad, the alarm fires; it gets good, the alarm is resolved.
    fn line(&self, report: &mut Report) -> Result<String> {
        let mut told = Vec::new();
        for (delay, event) in [(LATE, "fired"), (Duration::ZERO, "resolved")] {
            let began = Instant::now();
            self.far_end.delay(delay);
            let message = self.message(event)?;
            let took = message.at - began;
            report.add(
                &format!("the line answers {delay:?} late: the alarm has {event}"),
                took,
            );
            let title = message.body["title"].as_str().unwrap_or_default();
            told.push(format!(
                "{delay:>5?} late, {:5.1} s later: {title}",
                took.as_secs_f64()
            ));
        }
        Ok(told.join("\n"))
    }

    /// The next message of the line's alarm, which has to be of this event.
    fn message(&self, event: &str) -> Result<Message> {
        let end = Instant::now() + SOON;
        loop {
            let message = self
                .webhook
                .next(end.saturating_duration_since(Instant::now()))?;
            let body = &message.body;
            // A restart of the node is told of, too.
            if body["template"] == "line-latency" {
                ensure!(body["event"] == event, "expected {event}, got {body}");
                return Ok(message);
            }
        }
    }

    /// Waits until every slot has come, and sees that what the node counted is what the clients counted.
    fn adds_up(&self, site: &Site, began: i64) -> Result<()> {
        for ((name, ..), client) in CUSTOMERS.iter().zip(&self.clients) {
            let what = format!("the buckets of {name} add up to {:?}", client.bytes);
            site.eventually(&what, SLOT, |site| {
                let series: Value =
                    serde_json::from_str(&series(site, name, began)?.arg("--json").run()?.text())?;
                let slots = series["slots"]
                    .as_array()
                    .context("a series without slots")?;
                let sum = |key: &str| slots.iter().filter_map(|slot| slot[key].as_u64()).sum();
                let counted = Bytes {
                    sent: sum("rx_bytes"),
                    received: sum("tx_bytes"),
                };
                ensure!(counted == client.bytes, "they add up to {counted:?}");
                Ok(Some(()))
            })?;
        }
        Ok(())
    }
}

/// `cairnctl traffic series` of a customer, from the slot in which all began.
fn series(site: &Site, customer: &str, began: i64) -> Result<cairn_system::Command> {
    let from = (began - began % 300).to_string();
    site.ctl_command(&["traffic", "series", "customer", customer, "--from", &from])
}

fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    })
}
