//! The agent's metrics as Prometheus reads them, and a small HTTP listener for them on loopback.
//!
//! `GET /metrics`, `/healthz` (the process runs) and `/readyz` (it has an identity and stores what it is told); nothing else. A request
//! has 8 KiB and five seconds, and there are never more than eight at a time.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};

use crate::outbox;
use crate::requests::{self, Head, Requests};
use crate::setting::Invalid;
use crate::shutdown::Shutdown;
use crate::telemetry::Process;

/// For a request and its answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Requests at a time.
const MANY: usize = 8;

/// `[metrics]` as it is written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Input {
    /// A loopback address, as `127.0.0.1:9469`; without it nothing listens.
    pub listen: Option<String>,
}

/// `[metrics]` as it is used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// Where to listen; a loopback address.
    pub listen: Option<SocketAddr>,
}

impl Settings {
    /// Checks what is written.
    ///
    /// # Errors
    /// If it isn't a loopback address with a port: there is no login.
    pub fn check(input: &Input) -> Result<Self, Invalid> {
        let Some(text) = &input.listen else {
            return Ok(Self::default());
        };
        let address: Option<SocketAddr> = text.parse().ok();
        match address.filter(|address| address.ip().is_loopback()) {
            Some(address) => Ok(Self {
                listen: Some(address),
            }),
            None => Err(Invalid::new(
                "metrics.listen",
                format!("expected a loopback address as 127.0.0.1:9469, got {text:?}"),
            )),
        }
    }
}

/// The agent at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    /// The release that runs, if it is known.
    pub release: Option<String>,
    /// In which role it was started: `trial`, `good` or `other`.
    pub slot: Option<String>,
    /// Whether the server takes what the node says.
    pub link_up: bool,
    /// How often the link came up since the agent's start.
    pub link_connects: u64,
    /// Until when the certificate holds, in seconds since 1970.
    pub certificate_until: Option<i64>,
    /// The update under way: its state's word.
    pub update: Option<String>,
    /// Releases that are remembered as failed.
    pub releases_failed: u64,
    /// What waits to be sent.
    pub outbox: outbox::Stats,
    /// What the agent takes.
    pub process: Process,
    /// When the agent started, in seconds since 1970.
    pub started: Option<i64>,
    /// Why the agent isn't ready.
    pub not_ready: Option<String>,
}

/// The text of all metrics.
pub fn render(snapshot: &Snapshot) -> String {
    let mut page = Page(String::with_capacity(2048));
    let label = |text: &Option<String>| text.clone().unwrap_or_default();
    let info = [
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("release", label(&snapshot.release)),
        ("slot", label(&snapshot.slot)),
    ];
    page.metric("cairn_agent_info", "gauge", "What runs.", &[(&info, 1.0)]);
    page.gauge(
        "cairn_agent_link_up",
        "Whether the server takes what the node says.",
        f64::from(u8::from(snapshot.link_up)),
    );
    page.counter(
        "cairn_agent_link_connects_total",
        "How often the link came up.",
        snapshot.link_connects,
    );
    if let Some(until) = snapshot.certificate_until {
        page.gauge(
            "cairn_agent_certificate_expiry_seconds",
            "Until when the certificate holds, since 1970.",
            seconds(until),
        );
    }
    if let Some(state) = &snapshot.update {
        page.metric(
            "cairn_agent_update",
            "gauge",
            "The update under way.",
            &[(&[("state", state.clone())], 1.0)],
        );
    }
    page.gauge(
        "cairn_agent_releases_failed",
        "Releases that are remembered as failed.",
        float(snapshot.releases_failed),
    );
    let outbox = &snapshot.outbox;
    page.gauge(
        "cairn_agent_outbox_records",
        "Records that aren't acknowledged.",
        float(outbox.records),
    );
    page.gauge(
        "cairn_agent_outbox_bytes",
        "What they take on the disk.",
        float(outbox.bytes),
    );
    page.counter(
        "cairn_agent_outbox_dropped_total",
        "Records dropped unsent for want of space.",
        outbox.dropped,
    );
    page.counter(
        "cairn_agent_outbox_set_aside_total",
        "Records that the server couldn't take.",
        outbox.set_aside,
    );
    page.counter(
        "cairn_agent_outbox_damaged_total",
        "Records that the disk lost.",
        outbox.damaged,
    );
    page.gauge(
        "cairn_agent_outbox_failing",
        "Whether the disk takes no records.",
        f64::from(u8::from(outbox.failing.is_some())),
    );
    if let Some(oldest) = outbox.oldest_ms {
        page.gauge(
            "cairn_agent_outbox_oldest_seconds",
            "When the oldest record was made, since 1970.",
            seconds(oldest) / 1000.0,
        );
    }
    page.gauge(
        "process_resident_memory_bytes",
        "Memory in RAM.",
        float(snapshot.process.resident_bytes),
    );
    page.metric(
        "process_cpu_seconds_total",
        "counter",
        "Processor time.",
        &[(&[], snapshot.process.cpu_seconds)],
    );
    if let Some(started) = snapshot.started {
        page.gauge(
            "process_start_time_seconds",
            "When the agent started, since 1970.",
            seconds(started),
        );
    }
    page.0
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus knows floats only")]
fn float(number: u64) -> f64 {
    number as f64
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus knows floats only")]
fn seconds(number: i64) -> f64 {
    number as f64
}

/// Labels and a value.
type Sample<'s> = (&'s [(&'s str, String)], f64);

struct Page(String);

impl Page {
    fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.metric(name, "gauge", help, &[(&[], value)]);
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.metric(name, "counter", help, &[(&[], float(value))]);
    }

    fn metric(&mut self, name: &str, kind: &str, help: &str, samples: &[Sample<'_>]) {
        // Writing to a string doesn't fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            self.0.push_str(name);
            for (number, (label, text)) in labels.iter().enumerate() {
                let open = if number == 0 { '{' } else { ',' };
                let text = text
                    .replace('\\', "\\\\")
                    .replace('"', "\\\"")
                    .replace('\n', "\\n");
                let _ = write!(self.0, "{open}{label}=\"{text}\"");
            }
            let close = if labels.is_empty() { "" } else { "}" };
            let _ = writeln!(self.0, "{close} {value}");
        }
    }
}

/// Answers requests until `shutdown`.
pub async fn serve(
    listener: TcpListener,
    snapshot: impl Fn() -> Snapshot + Send + Sync + 'static,
    mut shutdown: Shutdown,
) {
    let snapshot = Arc::new(snapshot);
    let answered = requests::accept(listener, MANY, |stream| {
        let snapshot = Arc::clone(&snapshot);
        async move {
            // Who is slow or gone gets nothing.
            let _ = tokio::time::timeout(PATIENCE, answer(stream, || snapshot())).await;
        }
    });
    tokio::select! {
        _ = answered => {}
        () = shutdown.requested() => {}
    }
}

async fn answer(stream: TcpStream, snapshot: impl Fn() -> Snapshot) -> std::io::Result<()> {
    let mut requests = Requests::new(stream);
    let Some(head) = requests.next().await? else {
        return Ok(());
    };
    let (status, body) = respond(&head, snapshot);
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let stream = &mut requests.stream;
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

fn respond(head: &Head, snapshot: impl Fn() -> Snapshot) -> (&'static str, String) {
    if head.method != "GET" {
        return ("405 Method Not Allowed", "only GET\n".to_owned());
    }
    match head.target.split('?').next().unwrap_or_default() {
        "/metrics" => ("200 OK", render(&snapshot())),
        "/healthz" => ("200 OK", "ok\n".to_owned()),
        "/readyz" => match snapshot().not_ready {
            None => ("200 OK", "ready\n".to_owned()),
            Some(reason) => ("503 Service Unavailable", format!("{reason}\n")),
        },
        _ => (
            "404 Not Found",
            "there are /metrics, /healthz and /readyz\n".to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;
    use crate::shutdown;

    async fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[test]
    fn only_loopback_is_listened_on() {
        let check = |text: &str| {
            Settings::check(&Input {
                listen: Some(text.to_owned()),
            })
        };
        assert_eq!(check("[::1]:9").unwrap().listen, "[::1]:9".parse().ok());
        for wrong in [
            "0.0.0.0:9469",
            "127.0.0.1",
            "localhost:1",
            "10.0.0.1:9469",
            "",
        ] {
            assert_eq!(check(wrong).unwrap_err().key, "metrics.listen", "{wrong}");
        }
    }

    #[test]
    fn the_page_is_what_prometheus_reads() {
        let outbox = outbox::Stats {
            records: 3,
            dropped: 5,
            oldest_ms: Some(1500),
            ..outbox::Stats::default()
        };
        let page = render(&Snapshot {
            release: Some("1\"2\\\n".into()),
            outbox,
            link_up: true,
            ..Snapshot::default()
        });
        for line in [
            "release=\"1\\\"2\\\\\\n\",slot=\"\"} 1",
            "# TYPE cairn_agent_outbox_dropped_total counter\ncairn_agent_outbox_dropped_total 5",
            "cairn_agent_link_up 1",
            "cairn_agent_outbox_oldest_seconds 1.5",
        ] {
            assert!(page.contains(line), "{line} is not in\n{page}");
        }
        let names: Vec<&str> = page
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE "))
            .collect();
        assert_eq!(
            names.len(),
            page.lines().filter(|line| !line.starts_with('#')).count(),
            "one sample for each"
        );
        assert!(page.lines().all(|line| !line.is_empty()) && page.ends_with('\n'));
    }

    #[tokio::test]
    async fn requests_are_answered_and_bad_ones_do_no_harm() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (trigger, shutdown) = shutdown::pair();
        let snapshot = || Snapshot {
            not_ready: Some("not enrolled".into()),
            ..Snapshot::default()
        };
        let task = tokio::spawn(serve(listener, snapshot, shutdown));
        // More than there is room for, and none says anything.
        let _silent: Vec<TcpStream> = futures_util::future::join_all(
            (0..MANY - 1).map(|_| async { TcpStream::connect(address).await.unwrap() }),
        )
        .await;
        assert!(
            ask(address, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
                .await
                .contains("cairn_agent_link_up 0")
        );
        assert!(
            ask(address, "GET /healthz?x HTTP/1.1\r\n\r\n")
                .await
                .starts_with("HTTP/1.1 200 OK\r\n")
        );
        assert!(
            ask(address, "GET /readyz HTTP/1.1\r\n\r\n")
                .await
                .ends_with("\r\n\r\nnot enrolled\n")
        );
        assert!(
            ask(address, "POST /metrics HTTP/1.1\r\n\r\n")
                .await
                .starts_with("HTTP/1.1 405")
        );
        assert!(
            ask(address, "GET /etc/passwd HTTP/1.1\r\n\r\n")
                .await
                .starts_with("HTTP/1.1 404")
        );
        let mut flood = TcpStream::connect(address).await.unwrap();
        let _ = flood.write_all(&vec![b'x'; 3 * requests::HEAD]).await;
        let mut answer = Vec::new();
        let _ = flood.read_to_end(&mut answer).await;
        assert!(answer.is_empty());
        trigger.pull();
        tokio::time::timeout(Duration::from_secs(20), task)
            .await
            .unwrap()
            .unwrap();
    }
}
