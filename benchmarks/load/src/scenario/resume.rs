//! A reconnect storm: connections are cut, and their sessions resumed (XEP-0198 #resumption).

use super::stamp::Stamps;
use crate::Failure;
use crate::crew::{Crew, events};
use crate::histogram::Histogram;
use crate::meter::{Meter, Report};
use crate::options::Options;
use crate::pool::{Event, Handler, Pool};
use crate::session::{Session, Setup};
use serde_json::Value;
use std::time::Duration;

struct Resume {
    crew: Crew,
    clock: Stamps,
    begun_ns: Vec<u64>,
    latency: Histogram,
    next: usize,
    done: u64,
    is_measured: bool,
}

/// Runs the scenario.
///
/// # Errors
/// Any [`Failure`] of a connection.
pub fn run(options: &Options) -> Result<Value, Failure> {
    let setup = Setup {
        presence: true,
        carbons: options.carbons,
        roster: false,
        sm: Some(true),
    };
    let sessions = (0..options.connections)
        .map(|i| Session::new(i % options.users, format!("r{}", i / options.users), setup))
        .collect();
    let mut pool = Pool::new(options)?;
    let mut events = events();
    let mut crew = Crew::new(options, sessions);
    crew.bring_up(&mut pool, &mut events)?;
    crew.rest(&mut pool, &mut events, Duration::from_secs(1))?;
    if let Some(session) = crew.sessions.iter().find(|s| s.sm_id.is_none()) {
        return Err(Failure::Login(format!("no resumption for {}", session.jid)));
    }
    let mut resume = Resume {
        crew,
        clock: Stamps::new(),
        begun_ns: vec![0; options.connections],
        latency: Histogram::default(),
        next: 0,
        done: 0,
        is_measured: false,
    };
    for _ in 0..options.window {
        resume.cut_next(&mut pool)?;
    }
    pool.run_for(&mut events, &mut resume, options.warmup)?;
    let meter = Meter::start(options);
    let before = resume.done;
    resume.is_measured = true;
    pool.run_for(&mut events, &mut resume, options.seconds)?;
    let window = meter.stop();
    let mut report = Report::new("resume", options);
    report.window(&window, resume.done - before);
    report.latency(&resume.latency);
    resume.crew.leave(&mut pool, &mut events);
    Ok(report.finish())
}

impl Resume {
    fn cut_next(&mut self, pool: &mut Pool) -> Result<(), Failure> {
        let id = self.next;
        self.next = (self.next + 1) % self.crew.sessions.len();
        pool.cut(id);
        self.crew.sessions[id].resume();
        self.begun_ns[id] = self.clock.now();
        pool.open(id)
    }
}

impl Handler for Resume {
    fn on(&mut self, pool: &mut Pool, id: usize, event: Event<'_>) -> Result<(), Failure> {
        if !self.crew.sessions[id].is_ready() || matches!(event, Event::Connected) {
            if self.crew.login(pool, id, event)? {
                self.done += 1;
                if self.is_measured {
                    self.latency.record(self.clock.now() - self.begun_ns[id]);
                }
                self.cut_next(pool)?;
            }
            return Ok(());
        }
        self.crew.on(pool, id, event)
    }
}
