//! A bound session: what is on its way to one client, whatever connection carries it now.
//!
//! Any thread puts stanzas in; the connection's task takes bytes out. With stream management the
//! session outlives its connection (XEP-0198).

#![allow(
    clippy::result_large_err,
    reason = "a refused stanza is given back, and boxing it would cost every delivery"
)]

use antiphon_routing::SessionId;
use antiphon_xmpp::Jid;
use antiphon_xmpp::stanza::Stanza;
use antiphon_xmpp::stream::csi::Held;
use antiphon_xmpp::stream::framing::{Framing, Outgoing};
use antiphon_xmpp::stream::sm::{self, AckAhead, AckQueue, AckRequests, Inbound, RequestPolicy};
use antiphon_xmpp::stream::{StreamCondition, StreamError};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;

/// A stanza that was written and is not yet confirmed.
#[derive(Debug)]
pub struct Sent {
    /// The stanza.
    pub stanza: Stanza,
    /// When it was first put on the queue, ms since 1970.
    pub at_ms: u64,
    /// The offline record it came from.
    pub offline: Option<u64>,
}

/// Why a stanza was not taken.
#[derive(Debug)]
pub enum Undelivered {
    /// The session is over.
    Closed(Stanza),
    /// The client reads too slowly; the session is being ended with `resource-constraint`.
    Overflow(Stanza),
}

/// Bounds of one session's queues.
#[derive(Debug, Clone, Copy)]
pub struct QueueLimits {
    /// Bytes not yet written to the socket.
    pub outgoing_bytes: usize,
    /// What is not yet confirmed (XEP-0198).
    pub unacked: sm::QueueLimits,
    /// Stanzas held back for an inactive client (XEP-0352); more are sent after all.
    pub held_stanzas: usize,
}

#[derive(Debug)]
struct StreamManagement {
    sent: AckQueue<Sent>,
    inbound: Inbound,
    requests: AckRequests,
    /// The peer's `<r/>` was answered with less than it had sent: tell it when that changes.
    is_owed: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Phase {
    /// A connection carries it.
    #[default]
    Attached,
    /// Waits for resumption.
    Detached,
    /// Over.
    Closed,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// Counts connections: an older one sees that it was replaced.
    generation: u64,
    out: Outgoing,
    sm: Option<Box<StreamManagement>>,
    /// Present while the client is inactive (XEP-0352).
    held: Option<Box<Held>>,
    /// Offline records in `out` of a session without stream management.
    offline: Vec<u64>,
    close: Option<StreamError>,
    waker: Option<Waker>,
}

/// What the connection that bound the session calls itself in [`Session::take`].
pub const FIRST_GENERATION: u64 = 1;

/// One bound session.
#[derive(Debug)]
pub struct Session {
    /// Its name.
    pub id: SessionId,
    /// Its full JID (a component's domain).
    pub jid: Jid,
    limits: QueueLimits,
    is_held: AtomicBool,
    state: Mutex<State>,
}

/// What a connection's task finds when it looks at its session.
#[derive(Debug, Default)]
pub struct Taken {
    /// Bytes to write.
    pub out: Outgoing,
    /// Offline records that are delivered once these bytes are written.
    pub offline: Vec<u64>,
    /// End the stream with this.
    pub close: Option<StreamError>,
    /// Another connection has resumed the session.
    pub is_replaced: bool,
}

impl Session {
    /// A session that its connection is about to carry.
    #[must_use]
    pub fn new(id: SessionId, jid: Jid, framing: Framing, limits: QueueLimits) -> Self {
        Self {
            id,
            jid,
            limits,
            is_held: AtomicBool::new(false),
            state: Mutex::new(State {
                phase: Phase::Attached,
                generation: FIRST_GENERATION,
                out: Outgoing::new(framing),
                sm: None,
                held: None,
                offline: Vec::new(),
                close: None,
                waker: None,
            }),
        }
    }

    /// Puts a stanza on the queue.
    ///
    /// # Errors
    /// [`Undelivered`] gives it back.
    pub fn deliver(
        &self,
        stanza: Stanza,
        offline: Option<u64>,
        now_ms: u64,
    ) -> Result<(), Undelivered> {
        let mut state = self.state.lock();
        if state.phase == Phase::Closed {
            return Err(Undelivered::Closed(stanza));
        }
        let state = &mut *state;
        let Some(mut held) = state.held.take() else {
            return self.put(
                state,
                Sent {
                    stanza,
                    at_ms: now_ms,
                    offline,
                },
            );
        };
        let mut result = Ok(());
        held.offer(stanza, &mut |stanza| {
            if result.is_ok() {
                result = self.put(
                    state,
                    Sent {
                        stanza,
                        at_ms: now_ms,
                        offline,
                    },
                );
            }
        });
        state.held = Some(held);
        result
    }

    fn put(&self, state: &mut State, sent: Sent) -> Result<(), Undelivered> {
        let was_empty = state.out.is_empty();
        let is_attached = state.phase == Phase::Attached;
        if is_attached {
            if state.out.len() > self.limits.outgoing_bytes {
                overflow(state);
                return Err(Undelivered::Overflow(sent.stanza));
            }
            state.out.write_stanza(&sent.stanza);
        }
        match state.sm.as_mut() {
            Some(sm) => {
                let size = sent.stanza.size();
                if let Err(full) = sm.sent.push(sent, size) {
                    overflow(state);
                    return Err(Undelivered::Overflow(full.0.stanza));
                }
                if is_attached && sm.requests.on_sent(size) {
                    sm::write_request(&mut state.out);
                }
            }
            None => state.offline.extend(sent.offline),
        }
        if was_empty && is_attached {
            wake(state);
        }
        Ok(())
    }

    /// Writes something that is no stanza (`<a/>`, `<enabled/>`), in order with the stanzas.
    pub fn write(&self, nonza: Outgoing) {
        let mut state = self.state.lock();
        if state.phase == Phase::Attached {
            let was_empty = state.out.is_empty();
            append(&mut state.out, nonza);
            if was_empty {
                wake(&mut state);
            }
        }
    }

    /// Ends the stream with an error; the session is over.
    pub fn close(&self, error: StreamError) {
        let mut state = self.state.lock();
        state.close.get_or_insert(error);
        wake(&mut state);
    }

    /// Lets the session's next stanza be read after [`crate::gateway::Flow::Hold`].
    pub fn release(&self) {
        if self.is_held.swap(false, Ordering::AcqRel) {
            wake(&mut self.state.lock());
        }
    }

    /// Keeps the session's next stanzas back until [`Session::release`].
    pub fn hold(&self) {
        self.is_held.store(true, Ordering::Release);
    }

    /// Whether stanzas are kept back.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.is_held.load(Ordering::Acquire)
    }

    /// The connection's task: who to wake, and what there is to do.
    pub fn take(&self, generation: u64, waker: &Waker) -> Taken {
        let mut state = self.state.lock();
        if state.generation != generation {
            return Taken {
                is_replaced: true,
                ..Taken::default()
            };
        }
        match &mut state.waker {
            Some(old) if old.will_wake(waker) => {}
            slot => *slot = Some(waker.clone()),
        }
        let close = state.close.take();
        let state = &mut *state;
        // One `<r/>` rides on the write that empties the queue, while none is unanswered.
        if let Some(sm) = state
            .sm
            .as_mut()
            .filter(|_| close.is_none() && !state.out.is_empty())
            && !sm.sent.is_empty()
            && sm.requests.on_idle()
        {
            sm::write_request(&mut state.out);
        }
        let framing = state.out.framing();
        Taken {
            out: std::mem::replace(&mut state.out, Outgoing::new(framing)),
            offline: std::mem::take(&mut state.offline),
            close,
            is_replaced: false,
        }
    }

    /// A connection carries the session from now on; what was not confirmed is written again
    /// behind `prefix`. The number names this connection in [`Session::take`].
    pub fn attach(&self, framing: Framing, prefix: Outgoing) -> u64 {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        state.generation += 1;
        if state.phase != Phase::Closed {
            state.phase = Phase::Attached;
        }
        debug_assert!(prefix.framing() == framing);
        state.out = prefix;
        state.held = None;
        if let Some(sm) = &mut state.sm {
            sm.is_owed = false;
            for sent in sm.sent.iter() {
                state.out.write_stanza(&sent.stanza);
            }
            // Bounded by the queue's limit, which is far below 2^32.
            sm.requests
                .on_resumed(u32::try_from(sm.sent.len()).unwrap_or(u32::MAX));
        }
        wake(state);
        state.generation
    }

    /// Takes the session from its connection, so that it can be resumed or ended. What is held back
    /// for an inactive client joins the queue. `false`: it is over already.
    pub fn detach(&self, now_ms: u64) -> bool {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        if state.phase == Phase::Closed {
            return false;
        }
        state.phase = Phase::Detached;
        state.generation += 1;
        state.out = Outgoing::default();
        wake(state);
        state.waker = None;
        if let Some(mut held) = state.held.take() {
            held.flush(&mut |stanza| {
                // Above the bound the session is over, which the next delivery finds out.
                let _ = self.put(
                    state,
                    Sent {
                        stanza,
                        at_ms: now_ms,
                        offline: None,
                    },
                );
            });
        }
        self.is_held.store(false, Ordering::Release);
        true
    }

    /// Ends the session: later stanzas are refused, and what was not confirmed comes back.
    pub fn finish(&self, now_ms: u64) -> Vec<Sent> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        state.phase = Phase::Closed;
        state.out = Outgoing::default();
        let mut rest: Vec<Sent> = state
            .sm
            .take()
            .map(|mut sm| sm.sent.take().collect())
            .unwrap_or_default();
        if let Some(mut held) = state.held.take() {
            held.flush(&mut |stanza| {
                rest.push(Sent {
                    stanza,
                    at_ms: now_ms,
                    offline: None,
                })
            });
        }
        wake(state);
        rest
    }

    /// Whether a connection carries it.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        self.state.lock().phase == Phase::Attached
    }

    /// Whether it has stream management.
    #[must_use]
    pub fn has_sm(&self) -> bool {
        self.state.lock().sm.is_some()
    }

    /// Puts what the stream wrote while it was bound in front of everything else.
    pub fn prepend(&self, mut prefix: Outgoing) {
        let mut state = self.state.lock();
        append(&mut prefix, std::mem::take(&mut state.out));
        state.out = prefix;
    }

    /// Turns stream management on: counts what is written behind `enabled`.
    pub fn enable_sm(&self, enabled: Outgoing) {
        let mut state = self.state.lock();
        append(&mut state.out, enabled);
        state.sm = Some(Box::new(StreamManagement {
            sent: AckQueue::new(self.limits.unacked),
            inbound: Inbound::new(),
            requests: AckRequests::new(RequestPolicy::default()),
            is_owed: false,
        }));
        wake(&mut state);
    }

    /// Counts a stanza that came in: its number, 0 without stream management.
    pub fn received(&self) -> u64 {
        let mut state = self.state.lock();
        state.sm.as_mut().map_or(0, |sm| sm.inbound.received())
    }

    /// A stanza that came in is handled: `h` may move.
    pub fn handled(&self, seq: u64) {
        if seq == 0 {
            return;
        }
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let Some(sm) = &mut state.sm else { return };
        sm.inbound.handled(seq);
        if sm.is_owed && sm.inbound.in_hand() == 0 && state.phase == Phase::Attached {
            sm.is_owed = false;
            sm::write_ack(sm.inbound.tell(), &mut state.out);
            wake(state);
        }
    }

    /// What has been handled of what came in, and whether that is all.
    #[must_use]
    pub fn inbound(&self) -> Option<(u32, bool)> {
        self.state
            .lock()
            .sm
            .as_ref()
            .map(|sm| (sm.inbound.h(), sm.inbound.in_hand() == 0))
    }

    /// The peer asks for `<a/>`.
    pub fn answer_ack_request(&self) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let Some(sm) = &mut state.sm else { return };
        sm.is_owed = sm.inbound.in_hand() > 0;
        let was_empty = state.out.is_empty();
        sm::write_ack(sm.inbound.tell(), &mut state.out);
        if was_empty {
            wake(state);
        }
    }

    /// The peer confirms; yields the offline records that it thereby has.
    ///
    /// # Errors
    /// [`AckAhead`]: it confirms more than was sent (XEP-0198 #errors).
    pub fn acked(&self, h: u32) -> Result<Vec<u64>, AckAhead> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let Some(sm) = &mut state.sm else {
            return Ok(Vec::new());
        };
        let confirmed = sm.sent.on_ack(h)?.filter_map(|sent| sent.offline).collect();
        sm.requests.on_ack();
        Ok(confirmed)
    }

    /// Client state (XEP-0352): while inactive, what may wait is held back.
    pub fn set_active(&self, is_active: bool, now_ms: u64) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        if !is_active {
            let limit = self.limits.held_stanzas;
            state
                .held
                .get_or_insert_with(|| Box::new(Held::new(limit, HELD_BYTES)));
        } else if let Some(mut held) = state.held.take() {
            held.flush(&mut |stanza| {
                // A full queue has ended the session; what follows is refused like this one.
                let _ = self.put(
                    state,
                    Sent {
                        stanza,
                        at_ms: now_ms,
                        offline: None,
                    },
                );
            });
        }
    }
}

/// Bytes held back for an inactive client.
const HELD_BYTES: usize = 256 * 1024;

fn overflow(state: &mut State) {
    state.phase = Phase::Closed;
    let error = StreamError::from(StreamCondition::ResourceConstraint);
    state.close = Some(error.with_text("too much waits to be read by this client"));
    wake(state);
}

pub(crate) fn append(out: &mut Outgoing, more: Outgoing) {
    let base = out.bytes.len();
    if base == 0 {
        *out = more;
        return;
    }
    out.bytes.extend_from_slice(&more.bytes);
    // Budgets keep both far below 4 GiB.
    out.ends.extend(
        more.ends
            .iter()
            .map(|end| end + u32::try_from(base).unwrap_or(u32::MAX)),
    );
}

fn wake(state: &mut State) {
    if let Some(waker) = &state.waker {
        waker.wake_by_ref();
    }
}
