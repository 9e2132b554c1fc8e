//! A storm of logins: TCP, TLS, SASL, bind, and out again.

use super::stamp::Stamps;
use crate::Failure;
use crate::crew::{Crew, events};
use crate::histogram::Histogram;
use crate::meter::{Meter, Report};
use crate::options::Options;
use crate::pool::{Event, Handler, Pool};
use crate::session::{Session, Setup};
use serde_json::Value;
use std::time::{Duration, Instant};

/// Longest time for the first login of every account, in which clients derive their keys.
const FIRST_ROUND: Duration = Duration::from_secs(120);

struct Login {
    crew: Crew,
    clock: Stamps,
    begun_ns: Vec<u64>,
    latency: Histogram,
    is_measured: bool,
    begun: usize,
    done: u64,
}

/// Runs the scenario.
///
/// # Errors
/// Any [`Failure`] of a connection.
pub fn run(options: &Options) -> Result<Value, Failure> {
    let mut pool = Pool::new(options)?;
    let mut events = events();
    let mut login = Login {
        crew: Crew::new(options, Vec::new()),
        clock: Stamps::new(),
        begun_ns: vec![0; options.window],
        latency: Histogram::default(),
        is_measured: false,
        begun: 0,
        done: 0,
    };
    for id in 0..options.window {
        let session = login.next_session();
        login.crew.sessions.push(session);
        login.begun_ns[id] = login.clock.now();
        pool.open(id)?;
    }
    let begin = Instant::now();
    let is_warm =
        |login: &Login| login.done >= options.users as u64 && begin.elapsed() >= options.warmup;
    if !pool.run_until(&mut events, &mut login, FIRST_ROUND, is_warm)? {
        let text = format!("{} logins in two minutes", login.done);
        return Err(Failure::Stalled(text));
    }
    let meter = Meter::start(options);
    let before = login.done;
    login.is_measured = true;
    pool.run_for(&mut events, &mut login, options.seconds)?;
    let window = meter.stop();
    let mut report = Report::new("login", options);
    report.window(&window, login.done - before);
    report.latency(&login.latency);
    Ok(report.finish())
}

impl Login {
    /// Accounts in turn, every session with a resource of its own.
    fn next_session(&mut self) -> Session {
        let user = self.begun % self.crew.options.users;
        self.begun += 1;
        Session::new(user, format!("r{}", self.begun), Setup::default())
    }

    fn again(&mut self, pool: &mut Pool, id: usize) -> Result<(), Failure> {
        pool.cut(id);
        self.crew.sessions[id] = self.next_session();
        self.begun_ns[id] = self.clock.now();
        pool.open(id)
    }
}

impl Handler for Login {
    fn on(&mut self, pool: &mut Pool, id: usize, event: Event<'_>) -> Result<(), Failure> {
        if self.crew.sessions[id].is_ready() {
            // RFC 6120 §4.4: the server closes its stream too, and that ends the connection.
            return match event {
                Event::End | Event::Closed => self.again(pool, id),
                _ => Ok(()),
            };
        }
        if self.crew.login(pool, id, event)? {
            self.done += 1;
            if self.is_measured {
                self.latency.record(self.clock.now() - self.begun_ns[id]);
            }
            if let Some(out) = pool.say(id) {
                out.extend_from_slice(b"</stream:stream>");
            }
        }
        Ok(())
    }
}
