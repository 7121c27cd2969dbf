//! The node at work: two customers' Docker containers on it, traffic that is counted on both
//! ends, and a line that gets worse and better.

use std::fmt::Display;
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
        let began = jiff::Timestamp::now().as_second();
        report.step("their clients send and count", || self.exchange([300, 200]))?;
        let alarm = self.line(report)?;
        report.step("their clients send and count once more", || {
            self.exchange([100, 250])
        })?;
        let customers = report.step("the last slot ends, and its record arrives", || {
            self.adds_up(site, began)
        })?;
        report.note("as many bytes as the clients counted".to_owned());
        let mut pages = vec![("The line".to_owned(), alarm)];
        pages.extend(customers);
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
        let late = format!("the line answers {LATE:?} late");
        let steps = [
            (LATE, late.as_str(), "fired"),
            (Duration::ZERO, "the line is well again", "resolved"),
        ];
        for (delay, what, event) in steps {
            let began = Instant::now();
            self.far_end.delay(delay);
            let message = self.message(event)?;
            let took = message.at - began;
            report.add(&format!("{what}: the alarm has {event}"), took);
            let title = message.body["title"].as_str().unwrap_or_default();
            told.push(format!(
                "{what}; {:.1} s later the webhook gets: {title}",
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

    /// Waits until every slot has come, and sees that what the node counted is what the
    /// clients counted. Gives a page for each customer.
    fn adds_up(&self, site: &Site, began: i64) -> Result<Vec<(String, String)>> {
        let page = |((name, ..), client): (&(&str, &str, u16), &Client)| {
            let what = format!("the slots of {name} add up to {:?}", client.bytes);
            let slots = site.eventually(&what, SLOT, |site| {
                let slots = slots(site, name, began)?;
                let counted = sum(&slots);
                ensure!(counted == client.bytes, "they add up to {counted:?}");
                Ok(Some(slots))
            })?;
            let title = format!("Customer {name}: bytes of IP in slots of five minutes");
            Ok((title, table(&slots, client.bytes)))
        };
        CUSTOMERS.iter().zip(&self.clients).map(page).collect()
    }
}

/// When a slot began, and what the customer's clients sent and received in it, as the node
/// counted it.
type Slot = (String, Bytes);

/// What `cairnctl traffic series` says of a customer, from the slot in which all began.
fn slots(site: &Site, customer: &str, began: i64) -> Result<Vec<Slot>> {
    let from = (began - began % 300).to_string();
    let series = site.ctl(&["traffic", "series", "customer", customer, "--from", &from])?;
    let slots = series["slots"]
        .as_array()
        .context("a series without slots")?;
    let slot = |slot: &Value| {
        // The one that is being counted has none yet.
        let sent = slot["rx_bytes"].as_u64()?;
        let received = slot["tx_bytes"].as_u64()?;
        let from = jiff::Timestamp::from_second(slot["time"].as_i64()?).ok()?;
        Some((from.to_string(), Bytes { sent, received }))
    };
    Ok(slots.iter().filter_map(slot).collect())
}

fn sum(slots: &[Slot]) -> Bytes {
    Bytes {
        sent: slots.iter().map(|(_, bytes)| bytes.sent).sum(),
        received: slots.iter().map(|(_, bytes)| bytes.received).sum(),
    }
}

fn table(slots: &[Slot], clients: Bytes) -> String {
    let row = |name: &str, received: &dyn Display, sent: &dyn Display| {
        format!("  {name:<22}{received:>12}{sent:>12}")
    };
    let of = |name: &str, Bytes { sent, received }: Bytes| row(name, &sent, &received);
    let mut rows = vec![row("FROM", &"RECEIVED", &"SENT")];
    rows.extend(slots.iter().map(|(from, bytes)| of(from, *bytes)));
    rows.push(of("together", sum(slots)));
    rows.push(of("the clients counted", clients));
    rows.join("\n")
}
