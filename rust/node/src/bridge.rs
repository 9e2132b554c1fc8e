//! The queue to Python: bounded, announced by one eventfd, drained in batches.
//!
//! Runtime threads never attach to the interpreter; they put events here.

use crate::value::Value;
use antiphon_net::gateway::{HttpRequest, HttpResponse};
use antiphon_net::session::Session;
use antiphon_routing::effect::Origin;
use antiphon_xmpp::stanza::{Stanza, StanzaCondition, StanzaError};
use parking_lot::Mutex;
use rustix::event::{EventfdFlags, eventfd};
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use tokio::sync::oneshot;

/// Events waiting for Python at most; beyond it requests are answered `resource-constraint`.
const CAPACITY: usize = 8_192;
/// Log records waiting at most; beyond it they are counted and dropped.
const LOG_CAPACITY: usize = 1_024;
/// In-band registration (XEP-0077).
const REGISTER: &str = "jabber:iq:register";
/// How long Python may take for an answer.
const ANSWER_MS: u64 = 60_000;

/// Something for Python.
#[derive(Debug)]
pub enum Event {
    /// An IQ that a declaration wants.
    Iq {
        /// For the answer.
        ticket: u64,
        /// The request.
        stanza: Stanza,
        /// The local session that asks.
        session: Option<antiphon_routing::SessionId>,
        /// Where a request before login came from.
        address: Option<IpAddr>,
        /// Number of the declaration.
        handler: u32,
    },
    /// A call of Python's succeeded.
    Result(u64, Value),
    /// A call of Python's failed.
    Failed(u64, StanzaError),
    /// An HTTP request.
    Http(u64, Box<HttpRequest>),
    /// A log record: level as in Python's `logging`, event, fields.
    Log(u8, &'static str, Vec<(&'static str, String)>),
    /// A presence with capabilities that nobody has asked about yet.
    Caps(Stanza),
}

/// Who waits for Python's answer.
#[derive(Debug)]
enum Waiting {
    Iq {
        stanza: Stanza,
        session: Option<Arc<Session>>,
        origin: Option<Origin>,
        due_ms: u64,
    },
    Register {
        stanza: Stanza,
        answer: oneshot::Sender<Stanza>,
        due_ms: u64,
    },
    Http {
        answer: oneshot::Sender<HttpResponse>,
        due_ms: u64,
    },
}

impl Waiting {
    fn due_ms(&self) -> u64 {
        match self {
            Self::Iq { due_ms, .. } | Self::Register { due_ms, .. } | Self::Http { due_ms, .. } => {
                *due_ms
            }
        }
    }
}

/// Python is behind, or gone.
struct Full;

#[derive(Debug, Default)]
struct Queue {
    events: VecDeque<Event>,
    logs: usize,
    is_closed: bool,
}

/// The node's half of the boundary.
#[derive(Debug)]
pub struct Bridge {
    queue: Mutex<Queue>,
    waiting: Mutex<HashMap<u64, Waiting>>,
    wake: OwnedFd,
    next_ticket: AtomicU64,
    crossings: AtomicU64,
    lost_logs: AtomicU64,
    log_level: AtomicU8,
}

/// Where an answered IQ goes.
#[derive(Debug)]
pub struct Answered {
    /// The result or error, addressed.
    pub stanza: Stanza,
    /// Straight to this session.
    pub session: Option<Arc<Session>>,
    /// What another node brought and is told of now.
    pub origin: Option<Origin>,
}

impl Bridge {
    /// An empty queue.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self {
            queue: Mutex::default(),
            waiting: Mutex::default(),
            wake: eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?,
            next_ticket: AtomicU64::new(1),
            crossings: AtomicU64::new(0),
            lost_logs: AtomicU64::new(0),
            log_level: AtomicU8::new(0),
        })
    }

    /// The descriptor that becomes readable when events wait.
    #[must_use]
    pub fn descriptor(&self) -> RawFd {
        self.wake.as_raw_fd()
    }

    /// Events that crossed, log records left out.
    #[must_use]
    pub fn crossings(&self) -> u64 {
        self.crossings.load(Ordering::Relaxed)
    }

    /// Events that wait now.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.queue.lock().events.len()
    }

    /// Log records that were dropped because Python was behind.
    #[must_use]
    pub fn lost_logs(&self) -> u64 {
        self.lost_logs.load(Ordering::Relaxed)
    }

    /// `reserved`: room was promised when the request was admitted, so this is never refused.
    fn push(&self, event: Event, reserved: bool) -> Result<(), Full> {
        let mut queue = self.queue.lock();
        if queue.is_closed || (!reserved && queue.events.len() >= CAPACITY) {
            return Err(Full);
        }
        if let Event::Log(..) = event {
            if queue.logs >= LOG_CAPACITY {
                self.lost_logs.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
            queue.logs += 1;
        } else {
            self.crossings.fetch_add(1, Ordering::Relaxed);
        }
        let was_empty = queue.events.is_empty();
        queue.events.push_back(event);
        drop(queue);
        if was_empty {
            // Fails only when the counter is full, and then the descriptor is readable anyway.
            let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        }
        Ok(())
    }

    /// Up to `limit` events, oldest first.
    #[must_use]
    pub fn drain(&self, limit: usize) -> Vec<Event> {
        let mut queue = self.queue.lock();
        let n = limit.min(queue.events.len());
        let events: Vec<Event> = queue.events.drain(..n).collect();
        queue.logs -= events
            .iter()
            .filter(|e| matches!(e, Event::Log(..)))
            .count();
        if queue.events.is_empty() {
            let _ = rustix::io::read(&self.wake, &mut [0u8; 8]);
        }
        events
    }

    /// Nothing more is taken; whoever waits is answered with `answers` of [`Bridge::expire`].
    pub fn close(&self) {
        self.queue.lock().is_closed = true;
    }

    fn ticket(&self) -> u64 {
        self.next_ticket.fetch_add(1, Ordering::Relaxed)
    }

    /// Asks Python to answer an IQ, which came in what another node brought as `origin`. The answer,
    /// if the queue is full.
    pub fn ask(
        &self,
        stanza: Stanza,
        session: Option<Arc<Session>>,
        origin: Option<Origin>,
        handler: u32,
        now_ms: u64,
    ) -> Option<Answered> {
        let ticket = self.ticket();
        let id = session.as_ref().map(|s| s.id);
        let waiting = Waiting::Iq {
            stanza: stanza.clone(),
            session,
            origin,
            due_ms: now_ms + ANSWER_MS,
        };
        self.waiting.lock().insert(ticket, waiting);
        let event = Event::Iq {
            ticket,
            stanza,
            session: id,
            address: None,
            handler,
        };
        if self.push(event, false).is_err() {
            return self.fail(ticket, &StanzaCondition::ResourceConstraint.into());
        }
        None
    }

    /// Asks Python about a registration before login.
    pub fn register(
        &self,
        stanza: Stanza,
        address: IpAddr,
        handler: u32,
        now_ms: u64,
    ) -> oneshot::Receiver<Stanza> {
        let ticket = self.ticket();
        let (answer, receiver) = oneshot::channel();
        let waiting = Waiting::Register {
            stanza: stanza.clone(),
            answer,
            due_ms: now_ms + ANSWER_MS,
        };
        self.waiting.lock().insert(ticket, waiting);
        let event = Event::Iq {
            ticket,
            stanza,
            session: None,
            address: Some(address),
            handler,
        };
        if self.push(event, false).is_err() {
            self.fail(ticket, &StanzaCondition::ResourceConstraint.into());
        }
        receiver
    }

    /// Hands an HTTP request over; the receiver fails when Python is too busy.
    pub fn http(&self, request: HttpRequest, now_ms: u64) -> oneshot::Receiver<HttpResponse> {
        let ticket = self.ticket();
        let (answer, receiver) = oneshot::channel();
        self.waiting.lock().insert(
            ticket,
            Waiting::Http {
                answer,
                due_ms: now_ms + ANSWER_MS,
            },
        );
        if self
            .push(Event::Http(ticket, Box::new(request)), false)
            .is_err()
        {
            self.waiting.lock().remove(&ticket);
        }
        receiver
    }

    /// The outcome of a call of Python's.
    pub fn complete(&self, ticket: u64, result: Result<Value, StanzaError>) {
        let event = match result {
            Ok(value) => Event::Result(ticket, value),
            Err(error) => Event::Failed(ticket, error),
        };
        // Refused only once Python has gone.
        let _ = self.push(event, true);
    }

    /// Capabilities to ask about; dropped when Python is busy, since the next presence brings them
    /// again.
    #[must_use]
    pub fn caps(&self, stanza: Stanza) -> bool {
        self.push(Event::Caps(stanza), false).is_ok()
    }

    /// A log record.
    pub fn log(&self, level: u8, event: &'static str, fields: Vec<(&'static str, String)>) {
        if self.logs(level) {
            let _ = self.push(Event::Log(level, event, fields), true);
        }
    }

    /// Whether records of this level are wanted: ask before building costly fields.
    #[must_use]
    pub fn logs(&self, level: u8) -> bool {
        level >= self.log_level.load(Ordering::Relaxed)
    }

    /// The least level that is wanted, as in Python's `logging`.
    pub fn set_log_level(&self, level: u8) {
        self.log_level.store(level, Ordering::Relaxed);
    }

    /// Python's answer to an IQ: the result with this payload.
    pub fn reply(&self, ticket: u64, payload: Option<&antiphon_xmpp::Element>) -> Option<Answered> {
        self.answer(ticket, |request| {
            let result = request.result();
            Some(match payload {
                Some(element) => result.with_child(element),
                None => result,
            })
        })
    }

    /// Python's answer to an IQ: an error.
    pub fn fail(&self, ticket: u64, error: &StanzaError) -> Option<Answered> {
        self.answer(ticket, |request| {
            if request.has_ns(REGISTER) {
                // A password is not sent back (XEP-0077 #security).
                return request.clone().retain(|_| false).error(error);
            }
            request.error(error)
        })
    }

    fn answer(
        &self,
        ticket: u64,
        build: impl FnOnce(&Stanza) -> Option<Stanza>,
    ) -> Option<Answered> {
        let waiting = self.waiting.lock().remove(&ticket)?;
        match waiting {
            Waiting::Iq {
                stanza,
                session,
                origin,
                ..
            } => build(&stanza).map(|stanza| Answered {
                stanza,
                session,
                origin,
            }),
            Waiting::Register { stanza, answer, .. } => {
                if let Some(stanza) = build(&stanza) {
                    // The client may have gone.
                    let _ = answer.send(stanza);
                }
                None
            }
            Waiting::Http { .. } => None,
        }
    }

    /// Forgets the requests that other nodes brought and that are meant, by their origins and by
    /// whom they are about: they are brought to another home, and what Python answers here goes
    /// nowhere.
    pub fn take_brought(&self, is_meant: impl Fn(Origin, &str) -> bool) -> Vec<Origin> {
        let mut waiting = self.waiting.lock();
        let taken = waiting.extract_if(|_, waiting| match waiting {
            Waiting::Iq {
                stanza,
                session,
                origin: Some(origin),
                ..
            } => {
                let owner = match session {
                    Some(session) => Some(session.jid.bare_str()),
                    None => stanza.to.as_ref().map(|to| to.bare_str()),
                };
                owner.is_some_and(|owner| is_meant(*origin, owner))
            }
            _ => false,
        });
        let origins = taken.filter_map(|(_, waiting)| match waiting {
            Waiting::Iq { origin, .. } => origin,
            _ => None,
        });
        origins.collect()
    }

    /// Python's answer to an HTTP request.
    pub fn respond(&self, ticket: u64, response: HttpResponse) {
        if let Some(Waiting::Http { answer, .. }) = self.waiting.lock().remove(&ticket) {
            // The peer may have gone.
            let _ = answer.send(response);
        }
    }

    /// Answers what Python has not answered in time.
    pub fn expire(&self, now_ms: u64) -> Vec<Answered> {
        let late: Vec<u64> = self
            .waiting
            .lock()
            .iter()
            .filter(|(_, w)| w.due_ms() <= now_ms)
            .map(|(ticket, _)| *ticket)
            .collect();
        let error = StanzaError::new(StanzaCondition::RemoteServerTimeout)
            .with_text("the server did not answer in time");
        let answered = late.into_iter().filter_map(|ticket| {
            let answered = self.fail(ticket, &error);
            self.waiting.lock().remove(&ticket);
            answered
        });
        answered.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_descriptor_is_readable_exactly_while_events_wait() {
        let bridge = Bridge::new().unwrap();
        let readable = |b: &Bridge| {
            let mut fds = [rustix::event::PollFd::new(
                &b.wake,
                rustix::event::PollFlags::IN,
            )];
            rustix::event::poll(
                &mut fds,
                Some(&rustix::event::Timespec {
                    tv_sec: 0,
                    tv_nsec: 0,
                }),
            )
            .unwrap()
                == 1
        };
        assert!(!readable(&bridge));
        bridge.complete(1, Ok(Value::None));
        bridge.complete(2, Ok(Value::None));
        assert!(readable(&bridge));
        assert_eq!(bridge.drain(1).len(), 1);
        assert!(readable(&bridge));
        assert_eq!(bridge.drain(10).len(), 1);
        assert!(!readable(&bridge));
        assert_eq!(bridge.crossings(), 2);
    }

    #[test]
    fn a_full_queue_refuses_requests_and_keeps_room_for_results() {
        let bridge = Bridge::new().unwrap();
        let iq = Stanza::new(antiphon_xmpp::StanzaKind::Iq)
            .with_type("get")
            .with_id("1");
        for _ in 0..CAPACITY {
            assert!(bridge.ask(iq.clone(), None, None, 0, 0).is_none());
        }
        let refused = bridge.ask(iq, None, None, 0, 0).unwrap();
        assert_eq!(refused.stanza.type_str(), "error");
        bridge.complete(7, Ok(Value::None));
        assert_eq!(bridge.drain(usize::MAX).len(), CAPACITY + 1);
    }

    #[test]
    fn a_late_answer_becomes_an_error_once() {
        let bridge = Bridge::new().unwrap();
        let iq = Stanza::new(antiphon_xmpp::StanzaKind::Iq)
            .with_type("get")
            .with_id("1");
        assert!(bridge.ask(iq, None, None, 0, 0).is_none());
        assert!(bridge.expire(ANSWER_MS - 1).is_empty());
        assert_eq!(bridge.expire(ANSWER_MS).len(), 1);
        assert!(bridge.reply(1, None).is_none());
    }

    #[test]
    fn log_records_beyond_the_bound_are_counted() {
        let bridge = Bridge::new().unwrap();
        for _ in 0..LOG_CAPACITY + 5 {
            bridge.log(20, "x", Vec::new());
        }
        assert_eq!(bridge.lost_logs(), 5);
        bridge.set_log_level(30);
        bridge.log(20, "x", Vec::new());
        assert_eq!(bridge.lost_logs(), 5);
        assert_eq!(bridge.crossings(), 0);
    }
}
