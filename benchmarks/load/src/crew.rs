//! The clients of a run: brings them up, and answers what every client answers.

use crate::Failure;
use crate::options::Options;
use crate::pool::{Event, Handler, Pool, TICK};
use crate::scram::KeyCache;
use crate::session::{Progress, Session};
use mio::Events;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Longest time for all logins together, beside a share for each of them.
const LOGIN_SECONDS: u64 = 60;
/// Longest time for the ends of all streams.
const LEAVING: Duration = Duration::from_secs(3);

/// Clients by the number of their connection.
pub struct Crew {
    pub options: Options,
    pub cache: KeyCache,
    pub sessions: Vec<Session>,
    /// How many have been let in.
    pub ready: usize,
    opened: usize,
    reply: Vec<u8>,
}

impl Crew {
    /// Clients that have not connected yet.
    pub fn new(options: &Options, sessions: Vec<Session>) -> Self {
        Self {
            options: options.clone(),
            cache: KeyCache::default(),
            sessions,
            ready: 0,
            opened: 0,
            reply: Vec::new(),
        }
    }

    /// Logs everybody in, a limited number at once.
    ///
    /// # Errors
    /// The first failure; [`Failure::Stalled`] after a minute and 10 ms a client.
    pub fn bring_up(&mut self, pool: &mut Pool, events: &mut Events) -> Result<(), Failure> {
        let allowed = Duration::from_secs(LOGIN_SECONDS)
            + Duration::from_millis(10) * u32::try_from(self.sessions.len()).unwrap_or(u32::MAX);
        let deadline = Instant::now() + allowed;
        while self.ready < self.sessions.len() {
            while self.opened < self.sessions.len()
                && self.opened - self.ready < self.options.logins
            {
                pool.open(self.opened)?;
                self.opened += 1;
            }
            pool.turn(events, self, TICK)?;
            if Instant::now() > deadline {
                return Err(Failure::Stalled(format!(
                    "{} of {} clients were let in within {} s",
                    self.ready,
                    self.sessions.len(),
                    allowed.as_secs()
                )));
            }
        }
        Ok(())
    }

    /// One step of a login. True if the client has just become ready.
    ///
    /// # Errors
    /// What the server said, or that it closed.
    pub fn login(&mut self, pool: &mut Pool, id: usize, event: Event<'_>) -> Result<bool, Failure> {
        let session = &mut self.sessions[id];
        let stanza = match event {
            Event::Connected => {
                if let Some(out) = pool.say(id) {
                    session.connected(&self.options, out);
                }
                return Ok(false);
            }
            Event::Stanza(stanza) => stanza,
            Event::End | Event::Closed => {
                return Err(Failure::Login(
                    "the server closed the connection".to_owned(),
                ));
            }
        };
        let Some(out) = pool.say(id) else {
            return Ok(false);
        };
        match session.on_login(stanza, (&self.options, &mut self.cache), out)? {
            Progress::Wait => {}
            Progress::Restart => pool.restart(id),
            Progress::StartTls => {
                pool.start_tls(id)?;
                if let Some(out) = pool.say(id) {
                    session.secured(&self.options, out);
                }
            }
            Progress::Ready => {
                self.ready += 1;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What every client does with an element once it is ready. False if the element was a request
    /// of the server, answered here.
    ///
    /// # Errors
    /// [`Failure::Stream`] for a stream error.
    pub fn courtesy(&mut self, pool: &mut Pool, id: usize, stanza: &[u8]) -> Result<bool, Failure> {
        let is_ours = self.sessions[id].on_stanza(stanza, &mut self.reply)?;
        if !self.reply.is_empty() {
            if let Some(out) = pool.say(id) {
                out.append(&mut self.reply);
            }
            self.reply.clear();
        }
        Ok(is_ours)
    }

    /// Ends every stream, and waits until the server has ended them too: what it does with sessions
    /// that go must not fall into what is measured next. The run is over: what fails is ignored.
    pub fn leave(self, pool: &mut Pool, events: &mut Events) {
        let mut leaving = Leaving {
            left: (0..self.sessions.len())
                .filter(|&id| self.sessions[id].is_ready())
                .filter_map(|id| {
                    pool.say(id)?.extend_from_slice(b"</stream:stream>");
                    Some(id)
                })
                .collect(),
        };
        let _ = pool.run_until(events, &mut leaving, LEAVING, |these| these.left.is_empty());
    }

    /// Lets the loop run for a time while clients only answer.
    ///
    /// # Errors
    /// Any failure of a connection.
    pub fn rest(
        &mut self,
        pool: &mut Pool,
        events: &mut Events,
        time: Duration,
    ) -> Result<(), Failure> {
        pool.run_for(events, self, time)
    }
}

impl Handler for Crew {
    fn on(&mut self, pool: &mut Pool, id: usize, event: Event<'_>) -> Result<(), Failure> {
        if !self.sessions[id].is_ready() {
            self.login(pool, id, event)?;
            return Ok(());
        }
        if let Some(stanza) = said(event)? {
            self.courtesy(pool, id, stanza)?;
        }
        Ok(())
    }
}

/// Connections whose stream the server has not ended yet.
struct Leaving {
    left: BTreeSet<usize>,
}

impl Handler for Leaving {
    fn on(&mut self, pool: &mut Pool, id: usize, event: Event<'_>) -> Result<(), Failure> {
        if matches!(event, Event::End | Event::Closed) && self.left.remove(&id) {
            pool.cut(id);
        }
        Ok(())
    }
}

/// What the server said to a client that is ready; `None` if it said nothing.
///
/// # Errors
/// [`Failure::Stream`] if the session has ended.
pub fn said(event: Event<'_>) -> Result<Option<&[u8]>, Failure> {
    match event {
        Event::Stanza(stanza) => Ok(Some(stanza)),
        Event::Connected => Ok(None),
        Event::End | Event::Closed => Err(ended()),
    }
}

/// A connection that the scenario still needs has ended.
fn ended() -> Failure {
    Failure::Stream("the server ended a session".to_owned())
}

/// Room for the events of one turn.
pub fn events() -> Events {
    Events::with_capacity(1024)
}
