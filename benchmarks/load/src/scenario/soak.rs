//! Many idle sessions and a few busy ones for a long time, until the server is told to end.
//!
//! Prints one JSON line at once for each interval (the memory of the server, the latencies in it),
//! one when all is delivered, and then waits: whoever started the server sends it SIGTERM. The
//! result says what every client was told.

use super::mail::{Mail, Pace, opening};
use super::stamp::Stamps;
use crate::Failure;
use crate::crew::{Crew, events};
use crate::frame;
use crate::histogram::Histogram;
use crate::meter::{Meter, Report};
use crate::options::Options;
use crate::pool::{Event, Handler, Pool};
use crate::proc::{Memory, family};
use crate::session::{Session, Setup};
use memchr::memmem;
use mio::Events;
use serde_json::{Value, json};
use std::io::Write;
use std::time::{Duration, Instant};

/// Between two readings of memory.
const INTERVAL: Duration = Duration::from_secs(5);
/// Longest wait for messages that are still on the way at the end, and for the roll call.
const DRAIN: Duration = Duration::from_secs(20);
/// Longest wait for the server's end.
const PATIENCE: Duration = Duration::from_secs(90);
/// So many messages of the roll call go at once.
const ROLL_CALL_AT_ONCE: u64 = 200;
/// Reasons of unexpected ends that are reported.
const MAX_REASONS: usize = 10;

/// What a client has seen of the end.
#[derive(Debug, Clone, Copy, Default)]
struct Farewell {
    /// `<system-shutdown/>` (RFC 6120 §4.9.3.19).
    is_told: bool,
    /// The end of the stream.
    is_ended: bool,
    is_closed: bool,
}

struct Soak {
    crew: Crew,
    stamps: Stamps,
    busy: usize,
    mail: Mail,
    /// Messages of each busy connection so far, and those that its partner has received.
    said: Vec<u64>,
    heard: Vec<u64>,
    pace: Pace,
    is_sending: bool,
    is_stopping: bool,
    latency: Histogram,
    all: Histogram,
    sent: u64,
    received: u64,
    errors: u64,
    /// Messages that came twice or not in the order of sending.
    disordered: u64,
    answered: u64,
    farewells: Vec<Farewell>,
    dropped: u64,
    reasons: Vec<String>,
}

/// Runs the scenario.
///
/// # Errors
/// Any [`Failure`] of a login, [`Failure::Stalled`] if the server does not end.
pub fn run(options: &Options) -> Result<Value, Failure> {
    let mut pool = Pool::new(options)?;
    let mut events = events();
    let mut crew = Crew::new(options, sessions(options));
    let began = Instant::now();
    crew.bring_up(&mut pool, &mut events)?;
    say(&json!({"event": "up", "connections": crew.ready, "seconds": seconds(began)}))?;
    let mut soak = Soak::new(crew);
    pool.set_timer(Some(Duration::ZERO))?;
    let meter = Meter::start(options);
    soak.watch(&mut pool, &mut events, began)?;
    let window = meter.stop();
    let received = soak.received;
    soak.is_sending = false;
    pool.set_timer(None)?;
    pool.run_until(&mut events, &mut soak, DRAIN, |soak| {
        soak.received + soak.errors >= soak.sent
    })?;
    soak.roll_call(&mut pool, &mut events)?;

    let mut report = Report::new("soak", options);
    report.window(&window, received);
    report.set("busy", json!(soak.busy));
    report.set("sent", json!(soak.sent));
    report.set("errors", json!(soak.errors));
    let gone = soak.received + soak.errors;
    report.set("lost", json!(soak.sent.saturating_sub(gone)));
    report.set("disordered", json!(soak.disordered));
    report.set("called", json!(soak.farewells.len() - soak.busy));
    report.set("answered", json!(soak.answered));
    report.set("dropped", json!(soak.dropped));
    report.latency(&soak.all);
    say(&json!({"event": "quiet"}))?;
    soak.is_stopping = true;
    soak.see_off(&mut pool, &mut events)?;
    let count = |seen: fn(&Farewell) -> bool| soak.farewells.iter().filter(|f| seen(f)).count();
    report.set("told", json!(count(|f| f.is_told)));
    report.set("ended", json!(count(|f| f.is_ended)));
    report.set("closed", json!(count(|f| f.is_closed)));
    report.set("reasons", json!(soak.reasons));
    Ok(report.finish())
}

fn sessions(options: &Options) -> Vec<Session> {
    let setup = |id: usize| Setup {
        presence: true,
        sm: (options.sm > 0).then_some(id >= options.busy),
        ..Setup::default()
    };
    (0..options.connections)
        .map(|id| {
            let resource = format!("r{}", id / options.users);
            Session::new(id % options.users, resource, setup(id))
        })
        .collect()
}

fn say(line: &Value) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

fn seconds(since: Instant) -> f64 {
    (since.elapsed().as_secs_f64() * 1000.0).round() / 1000.0
}

impl Soak {
    fn new(crew: Crew) -> Self {
        let busy = crew.options.busy;
        let stamps = Stamps::new();
        Self {
            pace: Pace::new(crew.options.rate, &stamps),
            stamps,
            busy,
            mail: Mail::new(&crew, busy, None),
            said: vec![0; busy],
            heard: vec![0; busy],
            is_sending: true,
            is_stopping: false,
            latency: Histogram::default(),
            all: Histogram::default(),
            sent: 0,
            received: 0,
            errors: 0,
            disordered: 0,
            answered: 0,
            farewells: vec![Farewell::default(); crew.sessions.len()],
            dropped: 0,
            reasons: Vec::new(),
            crew,
        }
    }

    /// Lets it run for the time asked for, a line for each interval.
    fn watch(
        &mut self,
        pool: &mut Pool,
        events: &mut Events,
        began: Instant,
    ) -> Result<(), Failure> {
        let pids = family(&self.crew.options.pids);
        let start = Instant::now();
        let total = self.crew.options.seconds;
        let mut due = Duration::ZERO;
        while due < total {
            due = (due + INTERVAL).min(total);
            let (sent, received) = (self.sent, self.received);
            let meter = Meter::start(&self.crew.options);
            let left = (start + due).saturating_duration_since(Instant::now());
            pool.run_for(events, self, left)?;
            let window = meter.stop();
            let memory = Memory::of(&pids);
            let latency = std::mem::take(&mut self.latency);
            say(&json!({
                "event": "interval", "at_s": seconds(began), "seconds": window.seconds,
                "rss_kib": memory.rss, "pss_kib": memory.pss, "private_kib": memory.private,
                "server_cpu_s": window.server.total_s, "generator_cpu_s": window.generator.total_s,
                "machine_cpu_s": window.server.machine_s,
                "sent": self.sent - sent, "received": self.received - received,
                "p50_ms": latency.quantile_ms(0.5), "p99_ms": latency.quantile_ms(0.99),
                "p99_9_ms": latency.quantile_ms(0.999), "max_ms": latency.max_ms(),
                "dropped": self.dropped,
            }))?;
        }
        Ok(())
    }

    /// One message to each idle session: that it is still there can be seen in no other way.
    fn roll_call(&mut self, pool: &mut Pool, events: &mut Events) -> Result<(), Failure> {
        let idle = self.busy..self.farewells.len();
        let mut called = 0;
        let end = Instant::now() + DRAIN;
        for id in idle {
            let left = end.saturating_duration_since(Instant::now());
            pool.run_until(events, self, left, |soak| {
                called - soak.answered < ROLL_CALL_AT_ONCE
            })?;
            let caller = id % self.busy;
            if let Some(out) = pool.say(caller) {
                out.extend_from_slice(&opening(&self.crew.sessions[id].jid));
                out.extend_from_slice(b"roll'><body>");
                self.stamps.write(self.stamps.now(), out);
                out.extend_from_slice(b"</body></message>");
            }
            called += 1;
        }
        let left = end.saturating_duration_since(Instant::now());
        pool.run_until(events, self, left, |soak| soak.answered >= called)?;
        Ok(())
    }

    /// Waits until the server has closed every connection.
    fn see_off(&mut self, pool: &mut Pool, events: &mut Events) -> Result<(), Failure> {
        let is_seen_off = |soak: &Self| soak.farewells.iter().all(|farewell| farewell.is_closed);
        if !pool.run_until(events, self, PATIENCE, is_seen_off)? {
            let open = self.farewells.iter().filter(|f| !f.is_closed).count();
            let text = format!("{open} connections were still open after {PATIENCE:?}");
            self.because(text);
        }
        Ok(())
    }

    fn send(&mut self, pool: &mut Pool, id: usize, stamp_ns: u64) {
        let Some(out) = pool.say(id) else {
            return;
        };
        self.mail
            .write(id, (&self.stamps, stamp_ns), self.said[id], out);
        self.said[id] += 1;
        self.sent += 1;
    }

    fn on_message(&mut self, id: usize, stanza: &[u8]) {
        let Some(stamp_ns) = self.stamps.find(stanza) else {
            return;
        };
        if frame::attribute(stanza, "type") == Some(b"error") {
            self.errors += 1;
            self.because(String::from_utf8_lossy(stanza).into_owned());
            return;
        }
        let Some(heard) = self.heard.get_mut(id) else {
            self.answered += 1;
            return;
        };
        let number = frame::attribute(stanza, "id")
            .and_then(|id| u64::from_str_radix(std::str::from_utf8(id).ok()?, 16).ok());
        if number == Some(*heard) {
            *heard += 1;
        } else {
            self.disordered += 1;
        }
        self.received += 1;
        let nanoseconds = self.stamps.now().saturating_sub(stamp_ns);
        self.latency.record(nanoseconds);
        self.all.record(nanoseconds);
    }

    fn on_end(&mut self, pool: &mut Pool, id: usize, event: &Event<'_>) {
        match event {
            Event::Stanza(stanza) => {
                let is_told = memmem::find(stanza, b"<system-shutdown").is_some();
                self.farewells[id].is_told = is_told;
                if !is_told || !self.is_stopping {
                    self.because(String::from_utf8_lossy(stanza).into_owned());
                }
            }
            Event::End => {
                self.farewells[id].is_ended = true;
                if let Some(out) = pool.say(id) {
                    out.extend_from_slice(b"</stream:stream>");
                }
            }
            Event::Closed => {
                self.farewells[id].is_closed = true;
                self.dropped += u64::from(!self.is_stopping);
            }
            Event::Connected => {}
        }
    }

    fn because(&mut self, reason: String) {
        if self.reasons.len() < MAX_REASONS {
            self.reasons.push(reason);
        }
    }
}

impl Handler for Soak {
    fn on(&mut self, pool: &mut Pool, id: usize, event: Event<'_>) -> Result<(), Failure> {
        match event {
            Event::Stanza(stanza) if frame::name(stanza) != b"error" => {
                if self.crew.courtesy(pool, id, stanza)? && frame::name(stanza) == b"message" {
                    self.on_message(id, stanza);
                }
            }
            event => self.on_end(pool, id, &event),
        }
        Ok(())
    }

    fn on_timer(&mut self, pool: &mut Pool) -> Result<(), Failure> {
        if !self.is_sending {
            return Ok(());
        }
        let busy = self.busy as u64;
        while let Some((number, due_ns)) = self.pace.due(&self.stamps) {
            let id = usize::try_from(number % busy).unwrap_or(0);
            self.send(pool, id, due_ns);
        }
        pool.set_timer(Some(self.pace.pause()))
    }
}
