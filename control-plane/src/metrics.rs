//! What Prometheus reads.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::telemetry::Counts;

/// By which listener.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Front {
    /// `mqtt` or `https`.
    pub front: &'static str,
}

/// Why a connection was refused or ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Reason {
    /// A word.
    pub reason: &'static str,
}

/// A rollout's status.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Status {
    /// As in the API.
    pub status: &'static str,
}

/// A device's state in a rollout.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct State {
    /// As in the API.
    pub state: &'static str,
}

/// The counters; clones share them.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    /// Connections that were accepted.
    pub accepted: Family<Front, Counter>,
    /// Connections that are open.
    pub open: Family<Front, Gauge>,
    /// TLS handshakes that failed or took too long.
    pub handshake_failures: Family<Front, Counter>,
    /// MQTT connections that the server ended or refused, by cause.
    pub mqtt_closed: Family<Reason, Counter>,
    /// Messages that devices published.
    pub messages: Counter,
    /// Telemetry records that were stored.
    pub records: Counter,
    /// Telemetry records that had been stored before.
    pub duplicates: Counter,
    /// Telemetry records that were stored by the server's time, as their own was too far ahead.
    pub ahead: Counter,
    /// Times that a device had to wait as it had used up its quota.
    pub slowed: Counter,
    /// Rollouts, by status.
    pub rollouts: Family<Status, Gauge>,
    /// Devices of running rollouts, by state.
    pub rollout_devices: Family<State, Gauge>,
    /// Alarms that fire, acknowledged or not.
    pub alarms_firing: Gauge,
    /// Messages of alarms that wait to be sent.
    pub alarm_messages_queued: Gauge,
    /// Certificates that were issued.
    pub certificates: Counter,
    /// Enrolments that were refused, by cause.
    pub enrolments_refused: Family<Reason, Counter>,
    /// Calls to devices, by outcome.
    pub calls: Family<Reason, Counter>,
    /// Seconds since 1970 when the server started.
    pub started: Gauge<i64, std::sync::atomic::AtomicI64>,
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("cairn");
        let metrics = Self {
            registry: Arc::default(),
            accepted: Family::default(),
            open: Family::default(),
            handshake_failures: Family::default(),
            mqtt_closed: Family::default(),
            messages: Counter::default(),
            records: Counter::default(),
            duplicates: Counter::default(),
            ahead: Counter::default(),
            slowed: Counter::default(),
            rollouts: Family::default(),
            rollout_devices: Family::default(),
            alarms_firing: Gauge::default(),
            alarm_messages_queued: Gauge::default(),
            certificates: Counter::default(),
            enrolments_refused: Family::default(),
            calls: Family::default(),
            started: Gauge::default(),
        };
        registry.register(
            "connections_accepted",
            "Connections accepted",
            metrics.accepted.clone(),
        );
        registry.register("connections_open", "Connections open", metrics.open.clone());
        registry.register(
            "tls_handshake_failures",
            "TLS handshakes that failed or timed out",
            metrics.handshake_failures.clone(),
        );
        registry.register(
            "mqtt_closed",
            "MQTT connections ended or refused by the server",
            metrics.mqtt_closed.clone(),
        );
        registry.register(
            "mqtt_messages",
            "Messages that devices published",
            metrics.messages.clone(),
        );
        registry.register(
            "telemetry_records",
            "Telemetry records stored",
            metrics.records.clone(),
        );
        registry.register(
            "telemetry_duplicates",
            "Telemetry records that had been stored before",
            metrics.duplicates.clone(),
        );
        registry.register(
            "telemetry_ahead",
            "Telemetry records stored by the server's time, as their own was too far ahead",
            metrics.ahead.clone(),
        );
        registry.register(
            "telemetry_slowed",
            "Times that a device had to wait as it had used up its telemetry quota",
            metrics.slowed.clone(),
        );
        registry.register("rollouts", "Rollouts by status", metrics.rollouts.clone());
        registry.register(
            "rollout_devices",
            "Devices of running rollouts by state",
            metrics.rollout_devices.clone(),
        );
        registry.register(
            "alarms_firing",
            "Alarms that fire, acknowledged or not",
            metrics.alarms_firing.clone(),
        );
        registry.register(
            "alarm_messages_queued",
            "Messages of alarms that wait to be sent",
            metrics.alarm_messages_queued.clone(),
        );
        registry.register(
            "certificates_issued",
            "Device certificates issued",
            metrics.certificates.clone(),
        );
        registry.register(
            "enrolments_refused",
            "Enrolments and renewals refused",
            metrics.enrolments_refused.clone(),
        );
        registry.register(
            "device_calls",
            "Remote calls to devices",
            metrics.calls.clone(),
        );
        registry.register(
            "start_time_seconds",
            "When the server started, in seconds since 1970",
            metrics.started.clone(),
        );
        metrics.started.set(crate::ca::now());
        Self {
            registry: Arc::new(Mutex::new(registry)),
            ..metrics
        }
    }

    /// Counts what became of records.
    pub fn took(&self, counts: Counts) {
        self.records.inc_by(counts.stored);
        self.duplicates.inc_by(counts.duplicates);
        self.ahead.inc_by(counts.ahead);
    }

    /// Registers more, for other modules.
    pub fn register(&self, with: impl FnOnce(&mut Registry)) {
        with(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// All of them in OpenMetrics text.
    pub fn encode(&self) -> String {
        let mut out = String::new();
        // Writing to a string can't fail.
        let _ = text::encode(
            &mut out,
            &self.registry.lock().unwrap_or_else(PoisonError::into_inner),
        );
        out
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
