//! Counters kept in Rust, in Prometheus' text format.

use crate::storage::StoreReadings;
use antiphon_net::admission::LoginReadings;
use antiphon_xmpp::StanzaKind;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use std::fmt::Write as _;
use std::sync::atomic::AtomicU64;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: KindLabel,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct KindLabel(StanzaKind);

impl prometheus_client::encoding::EncodeLabelValue for KindLabel {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        encoder.write_str(self.0.name())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Mechanism {
    mechanism: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Condition {
    condition: &'static str,
}

/// Three counters, one a kind, found without a lock.
#[derive(Debug, Default)]
struct ByKind([Counter; 3]);

impl ByKind {
    fn get(&self, kind: StanzaKind) -> &Counter {
        match kind {
            StanzaKind::Message => &self.0[0],
            StanzaKind::Presence => &self.0[1],
            StanzaKind::Iq => &self.0[2],
        }
    }

    fn register(&self, registry: &mut Registry, name: &str, help: &str) {
        let family = Family::<Kind, Counter>::default();
        for kind in [StanzaKind::Message, StanzaKind::Presence, StanzaKind::Iq] {
            let counter = self.get(kind).get();
            family
                .get_or_create(&Kind {
                    kind: KindLabel(kind),
                })
                .inc_by(counter);
        }
        registry.register(name, help, family);
    }
}

/// All of them. Names and help are those of python/antiphon/metrics/names.py; a test compares.
#[derive(Debug, Default)]
#[allow(missing_docs, reason = "the help texts are in `Metrics::text`")]
pub struct Metrics {
    received: ByKind,
    delivered: ByKind,
    pub accepted: Counter,
    pub refused_connections: Counter,
    pub bytes_in: Counter,
    pub bytes_out: Counter,
    pub tls_failures: Counter,
    pub panics: Counter,
    pub throttled: Counter,
    pub overflows: Counter,
    pub refused: Counter,
    pub store_errors: Counter,
    pub auth_failures: Counter,
    pub resumed: Counter,
    pub archived: Counter,
    pub archive_pages: Counter,
    pub inbox_reads: Counter,
    pub gated: Counter,
    pub passed: Counter,
    logins: Family<Mechanism, Counter>,
    stream_errors: Family<Condition, Counter>,
}

/// What is read when metrics are asked for.
#[derive(Debug, Clone, Copy)]
pub struct Readings {
    /// Bound sessions.
    pub sessions: usize,
    /// Open connections.
    pub connections: usize,
    /// Logins under way.
    pub logins: LoginReadings,
    /// Entities in memory.
    pub entities: usize,
    /// Events that crossed into Python.
    pub crossings: u64,
    /// Events that wait for Python.
    pub queue: usize,
    /// Log records dropped.
    pub lost_logs: u64,
    /// Bytes handed to the store and not yet saved.
    pub unsaved_bytes: usize,
    /// Of the store.
    pub store: StoreReadings,
}

impl Metrics {
    /// A stanza came from a client.
    pub fn received(&self, kind: StanzaKind) {
        self.received.get(kind).inc();
    }

    /// A stanza was put on a client's queue.
    pub fn delivered(&self, kind: StanzaKind) {
        self.delivered.get(kind).inc();
    }

    /// A client logged in.
    pub fn login(&self, mechanism: &'static str) {
        self.logins.get_or_create(&Mechanism { mechanism }).inc();
    }

    /// We ended a stream.
    pub fn stream_error(&self, condition: &'static str) {
        self.stream_errors
            .get_or_create(&Condition { condition })
            .inc();
    }

    /// Stanzas received and delivered so far, all kinds.
    #[must_use]
    pub fn stanzas(&self) -> (u64, u64) {
        let sum = |by: &ByKind| by.0.iter().map(Counter::get).sum();
        (sum(&self.received), sum(&self.delivered))
    }

    /// The exposition text.
    #[must_use]
    pub fn text(&self, readings: Readings) -> String {
        let mut registry = Registry::with_prefix("antiphon");
        let r = &mut registry;
        self.received
            .register(r, "stanzas_received", "Stanzas that clients sent");
        self.delivered
            .register(r, "stanzas_delivered", "Stanzas put on clients' queues");
        for (name, help, counter) in [
            (
                "connections_accepted",
                "Connections accepted",
                &self.accepted,
            ),
            (
                "connections_refused",
                "Connections refused by a limit",
                &self.refused_connections,
            ),
            (
                "tls_failures",
                "TLS handshakes that failed",
                &self.tls_failures,
            ),
            (
                "connection_panics",
                "Connections ended by a fault of the server",
                &self.panics,
            ),
            (
                "clients_throttled",
                "Times a client was slowed down by its rate limit",
                &self.throttled,
            ),
            (
                "queue_overflows",
                "Sessions ended because their client did not read",
                &self.overflows,
            ),
            (
                "requests_refused",
                "Requests refused because Python was busy",
                &self.refused,
            ),
            (
                "store_errors",
                "Operations that the store refused or failed",
                &self.store_errors,
            ),
            ("auth_failures", "Failed logins", &self.auth_failures),
            ("sessions_resumed", "Sessions resumed", &self.resumed),
            (
                "messages_archived",
                "Messages handed to the archive, once for each owner",
                &self.archived,
            ),
            (
                "archive_pages",
                "Pages of archives given to clients",
                &self.archive_pages,
            ),
            (
                "inbox_reads",
                "Lists of conversations given to clients",
                &self.inbox_reads,
            ),
            (
                "deliveries_gated",
                "Stanzas that waited for a commit before their delivery",
                &self.gated,
            ),
            (
                "deliveries_passed",
                "Stanzas delivered ahead of their commit because the store was slow",
                &self.passed,
            ),
        ] {
            r.register(name, help, counter.clone());
        }
        let (sent, received) = (self.bytes_out.clone(), self.bytes_in.clone());
        r.register_with_unit("socket_sent", "Sent on sockets", Unit::Bytes, sent);
        r.register_with_unit(
            "socket_received",
            "Received on sockets",
            Unit::Bytes,
            received,
        );
        r.register("logins", "Successful logins", self.logins.clone());
        r.register(
            "stream_errors",
            "Streams ended by the server",
            self.stream_errors.clone(),
        );
        counter_of(
            r,
            "crossings",
            "Events that crossed into Python",
            readings.crossings,
        );
        counter_of(
            r,
            "login_steps_delayed",
            "Steps of logins that had to wait for their turn",
            readings.logins.delayed,
        );
        counter_of(
            r,
            "logs_lost",
            "Log records dropped because Python was behind",
            readings.lost_logs,
        );
        for (name, help, value) in [
            ("sessions", "Bound sessions", readings.sessions),
            ("connections", "Open connections", readings.connections),
            (
                "connections_before_login",
                "Open connections that have not logged in",
                readings.logins.connections,
            ),
            (
                "login_steps_in_hand",
                "Steps of logins in hand",
                readings.logins.in_hand,
            ),
            (
                "login_steps_in_hand_max",
                "The most steps of logins that were in hand at once",
                readings.logins.in_hand_max,
            ),
            (
                "logins_waiting",
                "Connections that wait for their turn to log in",
                readings.logins.waiting,
            ),
            ("entities", "Entities in memory", readings.entities),
            (
                "bridge_queue",
                "Events that wait for Python",
                readings.queue,
            ),
        ] {
            let gauge = Gauge::<i64>::default();
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
            r.register(name, help, gauge);
        }
        store_gauges(r, &readings);
        let mut text = String::new();
        if encode(&mut text, &registry).is_err() {
            // Writing to a string does not fail.
            let _ = write!(text, "# EOF");
        }
        text
    }
}

fn store_gauges(registry: &mut Registry, readings: &Readings) {
    let waiting = Gauge::<u64, AtomicU64>::default();
    waiting.set(readings.store.queued);
    let help = "Writes that wait for the store";
    registry.register("store_writes_waiting", help, waiting);
    let unsaved = Gauge::<u64, AtomicU64>::default();
    unsaved.set(readings.unsaved_bytes as u64);
    let help = "Handed to the store and not yet saved";
    registry.register_with_unit("unsaved", help, Unit::Bytes, unsaved);
    let lag = Gauge::<f64, AtomicU64>::default();
    lag.set(readings.store.search_lag);
    let help = "How long the oldest message waits to be found by a search";
    registry.register_with_unit("search_lag", help, Unit::Seconds, lag);
}

fn counter_of(registry: &mut Registry, name: &str, help: &str, value: u64) {
    let counter = Counter::<u64>::default();
    counter.inc_by(value);
    registry.register(name, help, counter);
}
