//! Connections that say nothing: what one costs in memory, and all of them in CPU.

use crate::Failure;
use crate::crew::{Crew, events};
use crate::meter::{Meter, Report};
use crate::options::Options;
use crate::pool::Pool;
use crate::proc::{Memory, family};
use crate::session::{Session, Setup};
use mio::Events;
use serde_json::{Value, json};
use std::io::Write;
use std::time::Duration;

/// Logins before the first reading, so that what the server makes once is not counted.
const THROWN_AWAY: usize = 20;
/// What is written to standard error when everybody is in.
const READY: &str = "ready";
const PAUSE: Duration = Duration::from_secs(2);
/// Over this time the CPU of the idle server is taken.
const WATCH: Duration = Duration::from_secs(5);

/// Runs the scenario.
///
/// # Errors
/// Any [`Failure`] of a connection.
pub fn run(options: &Options) -> Result<Value, Failure> {
    let mut events = events();
    let thrown_away = THROWN_AWAY.min(options.connections);
    let (mut pool, crew) = crew_up(options, thrown_away, &mut events)?;
    crew.leave(&mut pool, &mut events);
    std::thread::sleep(PAUSE);
    let pids = family(&options.pids);
    let before = Memory::of(&pids);
    if options.gate {
        std::io::stdin().read_line(&mut String::new())?;
    }
    let (mut pool, mut crew) = crew_up(options, options.connections, &mut events)?;
    if options.gate {
        writeln!(std::io::stderr(), "{READY}")?;
    }
    crew.rest(&mut pool, &mut events, options.settle)?;
    let after = Memory::of(&pids);
    let meter = Meter::start(options);
    crew.rest(&mut pool, &mut events, WATCH)?;
    let window = meter.stop();

    let mut report = Report::new("idle", options);
    report.memory((before, after), options.connections);
    report.set("connections", json!(crew.ready));
    if options.roster {
        let contacts = crew.sessions.iter().map(|session| session.contacts);
        report.set("contacts", json!(contacts.min()));
    }
    report.set("server_cpu_s", json!(window.server.total_s));
    report.set("seconds", json!(window.seconds));
    crew.leave(&mut pool, &mut events);
    Ok(report.finish())
}

fn crew_up(options: &Options, count: usize, events: &mut Events) -> Result<(Pool, Crew), Failure> {
    let setup = Setup {
        presence: true,
        carbons: options.carbons,
        roster: options.roster,
        sm: (options.sm > 0).then_some(true),
    };
    let sessions = (0..count)
        .map(|i| Session::new(i % options.users, format!("r{}", i / options.users), setup))
        .collect();
    let mut pool = Pool::new(options)?;
    let mut crew = Crew::new(options, sessions);
    crew.bring_up(&mut pool, events)?;
    Ok((pool, crew))
}
