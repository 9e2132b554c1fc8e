//! One-to-one messages between pairs of connections.
//!
//! Closed loop: each connection has `window` messages on the way to its partner, and answers each
//! that arrives with one. Open loop: messages go out at times that were fixed before, and carry
//! that time, so a server that stalls cannot slow down the clock it is measured by.

use super::mail::{Mail, Pace};
use super::stamp::Stamps;
use crate::Failure;
use crate::counter;
use crate::crew::{Crew, events, said};
use crate::frame;
use crate::histogram::Histogram;
use crate::meter::{Meter, Report, Window};
use crate::options::Options;
use crate::pool::{Event, Handler, Pool};
use crate::session::{Session, Setup};
use crate::words::Words;
use memchr::memmem;
use mio::Events;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Longest wait for messages that are still on the way when the window ends.
const DRAIN: Duration = Duration::from_secs(5);
/// Longest wait for a server that puts work off, how often it is looked at, and the share of a
/// processor below which it is idle.
const CATCHING_UP: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(500);
const IDLE_SHARE: f64 = 0.02;

/// Messages of a client that the server has not acknowledged (XEP-0198 #acking).
#[derive(Default, Clone)]
struct Unacked {
    /// Stanzas sent since stream management was enabled.
    count: u32,
    /// The count with each, and when it was meant to be sent.
    times: VecDeque<(u32, u64)>,
}

struct Msg {
    crew: Crew,
    stamps: Stamps,
    mail: Mail,
    /// With an ack request after each.
    unacked: Vec<Unacked>,
    acked: Histogram,
    is_running: bool,
    /// Open loop.
    pace: Option<Pace>,
    /// Latencies are counted for messages meant to be sent from then until then.
    window_ns: std::ops::Range<u64>,
    latency: Histogram,
    sent: u64,
    received: u64,
    copies: u64,
    errors: u64,
}

/// Runs the scenario.
///
/// # Errors
/// Any [`Failure`] of a connection.
pub fn run(options: &Options) -> Result<Value, Failure> {
    let mut pool = Pool::new(options)?;
    let mut events = events();
    let mut crew = Crew::new(options, sessions(options));
    crew.bring_up(&mut pool, &mut events)?;
    // Presence of everybody is through before the first message.
    crew.rest(&mut pool, &mut events, Duration::from_millis(300))?;
    let words = options.words.as_deref().map(Words::read).transpose()?;
    let mut msg = Msg::new(crew, words);
    msg.begin(&mut pool)?;
    pool.run_for(&mut events, &mut msg, options.warmup)?;

    let crossed = options.metrics.map(counter::crossings).transpose()?;
    let meter = Meter::start(options);
    let before = (msg.sent, msg.received, msg.copies);
    msg.window_ns = msg.stamps.now()..u64::MAX;
    pool.run_for(&mut events, &mut msg, options.seconds)?;
    let window = meter.stop();
    let grown = match (options.metrics, crossed) {
        (Some(address), Some(before)) => Some(counter::since(before, counter::crossings(address)?)),
        _ => None,
    };
    let after = (msg.sent, msg.received, msg.copies);
    msg.window_ns.end = msg.stamps.now();
    msg.is_running = false;
    pool.set_timer(None)?;
    pool.run_until(&mut events, &mut msg, DRAIN, |msg| {
        msg.received + msg.errors >= msg.sent
    })?;
    let whole = if options.afterwards {
        Some(msg.until_idle(&meter, &mut pool, &mut events)?)
    } else {
        None
    };

    let mut report = Report::new("msg", options);
    report.window(&window, after.1 - before.1);
    if let Some(whole) = whole {
        report.costs(&whole, msg.received - before.1);
    }
    report.set("sent", json!(after.0 - before.0));
    report.set("carbons", json!(after.2 - before.2));
    report.set("errors", json!(msg.errors));
    report.set(
        "lost",
        json!(msg.sent.saturating_sub(msg.received + msg.errors)),
    );
    report.counters(grown);
    report.latency(&msg.latency);
    report.times("ack_ms", &msg.acked);
    msg.crew.leave(&mut pool, &mut events);
    Ok(report.finish())
}

fn sessions(options: &Options) -> Vec<Session> {
    let setup = Setup {
        presence: true,
        carbons: options.carbons,
        roster: false,
        sm: (options.sm > 0).then_some(false),
    };
    let resources = if options.carbons { 2 } else { 1 };
    (0..options.connections * resources)
        .map(|i| {
            let user = i % options.connections % options.users;
            let resource = format!("r{}", i / options.users.min(options.connections));
            Session::new(user, resource, setup)
        })
        .collect()
}

impl Msg {
    fn new(crew: Crew, words: Option<Words>) -> Self {
        let connections = crew.options.connections;
        Self {
            stamps: Stamps::new(),
            mail: Mail::new(&crew, connections, words),
            // Presence is the first stanza of each.
            unacked: vec![
                Unacked {
                    count: 1,
                    times: VecDeque::new(),
                };
                connections
            ],
            acked: Histogram::default(),
            is_running: true,
            pace: None,
            window_ns: u64::MAX..u64::MAX,
            latency: Histogram::default(),
            sent: 0,
            received: 0,
            copies: 0,
            errors: 0,
            crew,
        }
    }

    fn begin(&mut self, pool: &mut Pool) -> Result<(), Failure> {
        if self.crew.options.rate > 0 {
            self.pace = Some(Pace::new(self.crew.options.rate, &self.stamps));
            return pool.set_timer(Some(Duration::ZERO));
        }
        for _ in 0..self.crew.options.window {
            for id in 0..self.crew.options.connections {
                self.send(pool, id, self.stamps.now());
            }
        }
        Ok(())
    }

    /// Lets the server finish what it put off, and tells what was spent until then.
    fn until_idle(
        &mut self,
        meter: &Meter,
        pool: &mut Pool,
        events: &mut Events,
    ) -> Result<Window, Failure> {
        let end = Instant::now() + CATCHING_UP;
        let mut before = meter.stop();
        loop {
            pool.run_for(events, self, LOOK)?;
            let now = meter.stop();
            let spent = now.server.total_s - before.server.total_s;
            if spent < IDLE_SHARE * LOOK.as_secs_f64() || Instant::now() > end {
                return Ok(now);
            }
            before = now;
        }
    }

    fn send(&mut self, pool: &mut Pool, id: usize, stamp_ns: u64) {
        let Some(out) = pool.say(id) else {
            return;
        };
        self.mail
            .write(id, (&self.stamps, stamp_ns), self.sent, out);
        self.sent += 1;
        if self.crew.options.sm == 1 {
            let unacked = &mut self.unacked[id];
            unacked.count += 1;
            unacked.times.push_back((unacked.count, stamp_ns));
        }
    }

    fn on_ack(&mut self, id: usize, stanza: &[u8]) {
        let h =
            frame::attribute(stanza, "h").and_then(|h| std::str::from_utf8(h).ok()?.parse().ok());
        let (Some(h), Some(unacked)) = (h, self.unacked.get_mut(id)) else {
            return;
        };
        let now = self.stamps.now();
        while let Some(&(count, stamp_ns)) = unacked.times.front()
            && count <= h
        {
            unacked.times.pop_front();
            if self.window_ns.contains(&stamp_ns) {
                self.acked.record(now.saturating_sub(stamp_ns));
            }
        }
    }

    fn on_message(&mut self, pool: &mut Pool, id: usize, stanza: &[u8]) {
        let Some(stamp_ns) = self.stamps.find(stanza) else {
            return;
        };
        if frame::attribute(stanza, "type") == Some(b"error") {
            self.errors += 1;
        } else if self.crew.options.carbons && memmem::find(stanza, b"urn:xmpp:carbons:2").is_some()
        {
            self.copies += 1;
            return;
        } else {
            self.received += 1;
            if self.window_ns.contains(&stamp_ns) {
                self.latency
                    .record(self.stamps.now().saturating_sub(stamp_ns));
            }
        }
        if self.is_running && self.crew.options.rate == 0 && id < self.mail.clients() {
            self.send(pool, id, self.stamps.now());
        }
    }
}

impl Handler for Msg {
    fn on(&mut self, pool: &mut Pool, id: usize, event: Event<'_>) -> Result<(), Failure> {
        let Some(stanza) = said(event)? else {
            return Ok(());
        };
        let name = frame::name(stanza);
        if name == b"a" {
            self.on_ack(id, stanza);
        } else if self.crew.courtesy(pool, id, stanza)? && name == b"message" {
            self.on_message(pool, id, stanza);
        }
        Ok(())
    }

    fn on_timer(&mut self, pool: &mut Pool) -> Result<(), Failure> {
        if !self.is_running {
            return Ok(());
        }
        let connections = self.mail.clients() as u64;
        let Some(mut pace) = self.pace.take() else {
            return Ok(());
        };
        while let Some((number, due_ns)) = pace.due(&self.stamps) {
            let id = usize::try_from(number % connections).unwrap_or(0);
            self.send(pool, id, due_ns);
        }
        let pause = pace.pause();
        self.pace = Some(pace);
        pool.set_timer(Some(pause))
    }
}
