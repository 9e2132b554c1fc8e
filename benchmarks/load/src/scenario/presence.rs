//! Presence broadcasts to everybody's contacts; the subscriptions are made first, once.

use super::stamp::Stamps;
use crate::Failure;
use crate::crew::{Crew, events, said};
use crate::frame;
use crate::meter::{Meter, Report};
use crate::options::Options;
use crate::pool::{Event, Handler, Pool};
use crate::session::{Session, Setup};
use memchr::memmem;
use mio::Events;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::time::Duration;

/// Longest time for making the subscriptions.
const SUBSCRIBING: Duration = Duration::from_secs(300);
/// Requests that wait for an answer at once.
const ASKED: usize = 200;

#[derive(PartialEq, Eq)]
enum Phase {
    Rosters,
    Subscribing,
    Broadcasting,
}

struct Presence {
    crew: Crew,
    stamps: Stamps,
    phase: Phase,
    /// Rosters that have come, and mutual subscriptions in them.
    rosters: usize,
    mutual: usize,
    /// Pairs whose subscription is asked for next, and how many directions are granted.
    pairs: Vec<(usize, usize)>,
    granted: usize,
    /// Deliveries that each broadcast still lacks.
    missing: HashMap<u64, usize>,
    next: usize,
    sent: u64,
    delivered: u64,
}

/// Runs the scenario: one client for each account.
///
/// # Errors
/// Any [`Failure`] of a connection.
pub fn run(options: &Options) -> Result<Value, Failure> {
    let setup = Setup {
        presence: true,
        ..Setup::default()
    };
    let sessions = (0..options.users).map(|user| Session::new(user, "r".to_owned(), setup));
    let mut pool = Pool::new(options)?;
    let mut events = events();
    let mut crew = Crew::new(options, sessions.collect());
    crew.bring_up(&mut pool, &mut events)?;
    let mut presence = Presence::new(crew);
    presence.befriend(&mut pool, &mut events)?;

    presence.phase = Phase::Broadcasting;
    for _ in 0..options.window {
        presence.broadcast(&mut pool);
    }
    pool.run_for(&mut events, &mut presence, options.warmup)?;
    let meter = Meter::start(options);
    let before = (presence.sent, presence.delivered);
    pool.run_for(&mut events, &mut presence, options.seconds)?;
    let window = meter.stop();
    let mut report = Report::new("presence", options);
    report.window(&window, presence.delivered - before.1);
    report.set("sent", json!(presence.sent - before.0));
    presence.crew.leave(&mut pool, &mut events);
    Ok(report.finish())
}

impl Presence {
    fn new(crew: Crew) -> Self {
        let (users, half) = (crew.options.users, crew.options.contacts / 2);
        let pairs = (0..users)
            .flat_map(|user| (1..=half).map(move |step| (user, (user + step) % users)))
            .collect();
        Self {
            stamps: Stamps::new(),
            phase: Phase::Rosters,
            rosters: 0,
            mutual: 0,
            pairs,
            granted: 0,
            missing: HashMap::new(),
            next: 0,
            sent: 0,
            delivered: 0,
            crew,
        }
    }

    /// Makes the contacts mutual, those of a ring: every user the next and the last few.
    fn befriend(&mut self, pool: &mut Pool, events: &mut Events) -> Result<(), Failure> {
        for id in 0..self.crew.sessions.len() {
            if let Some(out) = pool.say(id) {
                out.extend_from_slice(
                    b"<iq type='get' id='roster'><query xmlns='jabber:iq:roster'/></iq>",
                );
            }
        }
        let wanted = self.pairs.len() * 2;
        let has_rosters = |this: &Self| this.rosters == this.crew.sessions.len();
        let mut is_done = pool.run_until(events, self, SUBSCRIBING, has_rosters)?;
        self.phase = Phase::Subscribing;
        if is_done && self.mutual < wanted {
            for _ in 0..ASKED {
                self.ask(pool);
            }
            is_done = pool.run_until(events, self, SUBSCRIBING, |this| this.granted >= wanted)?;
        }
        if !is_done {
            let text = format!("{} of {wanted} subscriptions in five minutes", self.granted);
            return Err(Failure::Stalled(text));
        }
        pool.run_for(events, self, Duration::from_secs(1))
    }

    fn ask(&mut self, pool: &mut Pool) {
        if let Some((from, to)) = self.pairs.pop() {
            let options = &self.crew.options;
            self.subscription(
                pool,
                from,
                &format!("{}@{}", options.account(to), options.domain),
                "subscribe",
            );
        }
    }

    fn subscription(&self, pool: &mut Pool, id: usize, to: &str, kind: &str) {
        if let Some(out) = pool.say(id) {
            out.extend_from_slice(format!("<presence to='{to}' type='{kind}'/>").as_bytes());
        }
    }

    fn on_subscribing(&mut self, pool: &mut Pool, id: usize, stanza: &[u8]) {
        let from = frame::attribute(stanza, "from").unwrap_or_default();
        let from = String::from_utf8_lossy(from).into_owned();
        let bare = from.split('/').next().unwrap_or_default();
        match frame::attribute(stanza, "type") {
            Some(b"subscribe") => {
                self.subscription(pool, id, bare, "subscribed");
                if self.is_before(bare, id) {
                    self.subscription(pool, id, bare, "subscribe");
                } else {
                    self.ask(pool);
                }
            }
            Some(b"subscribed") => self.granted += 1,
            _ => {}
        }
    }

    /// Whether `bare` is among those who ask `id`, rather than being asked.
    fn is_before(&self, bare: &str, id: usize) -> bool {
        let users = self.crew.options.users;
        let user = bare
            .strip_prefix('u')
            .and_then(|rest| rest.split('@').next()?.parse::<usize>().ok())
            .and_then(|number| number.checked_sub(self.crew.options.first));
        user.is_some_and(|user| (id + users - user) % users <= self.crew.options.contacts / 2)
    }

    fn broadcast(&mut self, pool: &mut Pool) {
        let id = self.next;
        self.next = (self.next + 1) % self.crew.sessions.len();
        self.missing
            .insert(self.sent, self.crew.options.contacts / 2 * 2);
        if let Some(out) = pool.say(id) {
            out.extend_from_slice(b"<presence><status>");
            self.stamps.write(self.sent, out);
            out.extend_from_slice(b"</status></presence>");
        }
        self.sent += 1;
    }

    fn on_broadcast(&mut self, pool: &mut Pool, id: usize, stanza: &[u8]) {
        let Some(number) = self.stamps.find(stanza) else {
            return;
        };
        let from = frame::attribute(stanza, "from").unwrap_or_default();
        if from == self.crew.sessions[id].jid.as_bytes() {
            return;
        }
        self.delivered += 1;
        if let Some(missing) = self.missing.get_mut(&number) {
            *missing -= 1;
            if *missing == 0 {
                self.missing.remove(&number);
                self.broadcast(pool);
            }
        }
    }
}

impl Handler for Presence {
    fn on(&mut self, pool: &mut Pool, id: usize, event: Event<'_>) -> Result<(), Failure> {
        let Some(stanza) = said(event)? else {
            return Ok(());
        };
        if !self.crew.courtesy(pool, id, stanza)? {
            return Ok(());
        }
        match frame::name(stanza) {
            b"iq" if frame::attribute(stanza, "id") == Some(b"roster") => {
                self.rosters += 1;
                self.mutual += memmem::find_iter(stanza, b"=\"both\"").count()
                    + memmem::find_iter(stanza, b"='both'").count();
            }
            b"iq" if frame::attribute(stanza, "type") == Some(b"set") => {
                // A roster push (RFC 6121 §2.1.6).
                let push = frame::attribute(stanza, "id").unwrap_or_default().to_vec();
                if let Some(out) = pool.say(id) {
                    out.extend_from_slice(b"<iq type='result' id='");
                    out.extend_from_slice(&push);
                    out.extend_from_slice(b"'/>");
                }
            }
            b"presence" if self.phase == Phase::Broadcasting => self.on_broadcast(pool, id, stanza),
            b"presence" => self.on_subscribing(pool, id, stanza),
            _ => {}
        }
        Ok(())
    }
}
