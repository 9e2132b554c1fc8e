//! A bound session: what is on its way to one client, whatever connection carries it now.
//!
//! Any thread puts stanzas in; the connection's task takes bytes out. With stream management the
//! session outlives its connection (XEP-0198).

#![allow(
    clippy::result_large_err,
    reason = "a refused stanza is given back, and boxing it would cost every delivery"
)]

use crate::spare;
mod gated;
mod moving;

use antiphon_routing::SessionId;
use antiphon_xmpp::Jid;
use antiphon_xmpp::packed::put_number;
use antiphon_xmpp::stanza::Stanza;
use antiphon_xmpp::stream::csi::{Class, Held, classify};
use antiphon_xmpp::stream::framing::{Framing, Outgoing};
use antiphon_xmpp::stream::sm::{self, AckAhead, AckQueue, AckRequests, Inbound, RequestPolicy};
use antiphon_xmpp::stream::{StreamCondition, StreamError};
use gated::{Gated, GatedQueue, take_gated};
pub use moving::Carried;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::task::Waker;

/// Bytes that a session may have handed to the store and not yet saved, before nothing more is read
/// from its client.
pub const UNSAVED_BYTES: usize = 64 * 1024;

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
    /// What was never confirmed comes along: it goes another way before this one.
    Overflow(Stanza, Vec<Sent>),
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
    /// The peer's `<r/>` was answered with less than it had sent: tell it when so many are handled;
    /// 0: not.
    owed: u64,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Phase {
    /// A connection carries it.
    #[default]
    Attached,
    /// Waits for resumption.
    Detached,
    /// Waits for what another node has of it: what is delivered meanwhile goes behind that.
    Arriving,
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
    /// Present while something waits for a commit: whatever else is delivered goes behind it.
    gated: Option<Box<GatedQueue>>,
    /// Refused while it ended, to go another way.
    refused: Vec<Sent>,
    close: Option<StreamError>,
    /// Its last connection is told that the node goes down.
    is_leaving: bool,
    /// The same session as another node, or this one for another, carries it from now on.
    successor: Option<Arc<Session>>,
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
    /// Bytes that the connection has taken and not yet written.
    unsent: AtomicUsize,
    /// Bytes that its stanzas handed to the store, and that are not saved yet.
    unsaved: AtomicUsize,
    /// The node has too much to save: nothing more is read.
    is_paused: AtomicBool,
    /// Parts of answers that its client was given before their ends; wraps.
    parts: AtomicU32,
    state: Mutex<State>,
}

/// What a connection's task finds when it looks at its session.
#[derive(Debug, Default)]
pub struct Taken {
    /// Bytes to write.
    pub out: Outgoing,
    /// Offline records that are delivered once these bytes are written.
    pub offline: Vec<u64>,
    /// End the stream with this; of a session that was replaced, `conflict` without.
    pub close: Option<StreamError>,
    /// Another connection has resumed the session, or it has gone to another node.
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
            unsent: AtomicUsize::new(0),
            unsaved: AtomicUsize::new(0),
            is_paused: AtomicBool::new(false),
            parts: AtomicU32::new(0),
            state: Mutex::new(State {
                phase: Phase::Attached,
                generation: FIRST_GENERATION,
                out: Outgoing::new(framing),
                sm: None,
                held: None,
                offline: Vec::new(),
                gated: None,
                refused: Vec::new(),
                close: None,
                is_leaving: false,
                successor: None,
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
        if let Some(successor) = state.successor.clone() {
            drop(state);
            return successor.deliver(stanza, offline, now_ms);
        }
        if state.gated.is_some() || state.phase == Phase::Arriving {
            let sent = Sent {
                stanza,
                at_ms: now_ms,
                offline,
            };
            return self.queue(&mut state, Gated { gate: None, sent });
        }
        self.deliver_now(&mut state, stanza, offline, now_ms)
    }

    fn deliver_now(
        &self,
        state: &mut State,
        stanza: Stanza,
        offline: Option<u64>,
        now_ms: u64,
    ) -> Result<(), Undelivered> {
        if state.phase == Phase::Closed {
            return Err(Undelivered::Closed(stanza));
        }
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
        let is_important = classify(&stanza) == Class::Important;
        let mut now = Vec::new();
        held.offer(stanza, &mut |stanza| now.push(stanza));
        state.held = Some(held);
        let last = if is_important { now.pop() } else { None };
        self.put_all(state, now, now_ms);
        match last {
            None => Ok(()),
            Some(stanza) if state.phase == Phase::Closed => {
                let before = unconfirmed(state);
                Err(Undelivered::Overflow(stanza, before))
            }
            Some(stanza) => self.put(
                state,
                Sent {
                    stanza,
                    at_ms: now_ms,
                    offline,
                },
            ),
        }
    }

    /// Puts what was held back on the queue. What finds it full goes another way with the rest.
    fn put_all(&self, state: &mut State, stanzas: Vec<Stanza>, at_ms: u64) {
        for stanza in stanzas {
            let sent = |stanza| Sent {
                stanza,
                at_ms,
                offline: None,
            };
            if state.phase == Phase::Closed {
                state.refused.push(sent(stanza));
                continue;
            }
            match self.put(state, sent(stanza)) {
                Ok(()) => {}
                Err(Undelivered::Closed(stanza)) => state.refused.push(sent(stanza)),
                Err(Undelivered::Overflow(stanza, before)) => {
                    state.refused.extend(before);
                    state.refused.push(sent(stanza));
                }
            }
        }
    }

    /// Whether the connection is so far behind that nothing more may wait for it.
    fn is_full(&self, state: &State) -> bool {
        let unsent = self.unsent.load(Ordering::Relaxed);
        state.out.len().saturating_add(unsent) > self.limits.outgoing_bytes
    }

    fn put(&self, state: &mut State, sent: Sent) -> Result<(), Undelivered> {
        let was_empty = state.out.is_empty();
        let is_attached = state.phase == Phase::Attached;
        let mark = (state.out.bytes.len(), state.out.ends.len());
        if is_attached {
            if self.is_full(state) {
                overflow(state);
                return Err(Undelivered::Overflow(sent.stanza, unconfirmed(state)));
            }
            if state.out.bytes.capacity() == 0 {
                state.out.bytes = spare::take();
            }
            if state.out.framing() == Framing::Relay {
                put_number(sent.offline.unwrap_or(0), &mut state.out.bytes);
            }
            state.out.write_stanza(&sent.stanza);
        }
        match state.sm.as_mut() {
            Some(sm) => {
                let size = sent.stanza.size();
                if let Err(full) = sm.sent.push(sent, size) {
                    // It goes another way, so it must not also go this one.
                    state.out.bytes.truncate(mark.0);
                    state.out.ends.truncate(mark.1);
                    overflow(state);
                    return Err(Undelivered::Overflow(full.0.stanza, unconfirmed(state)));
                }
                if is_attached && sm.requests.on_sent(size) {
                    sm::write_request(&mut state.out);
                }
            }
            // The node at the other end tells what its client has.
            None if state.out.framing() == Framing::Relay => {}
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
            if self.is_full(&state) {
                overflow(&mut state);
                return;
            }
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

    /// The client is given a part of an answer, whose end comes later.
    pub fn note_part(&self) {
        self.parts.fetch_add(1, Ordering::AcqRel);
    }

    /// How many such parts there were; wraps.
    #[must_use]
    pub fn parts(&self) -> u32 {
        self.parts.load(Ordering::Acquire)
    }

    /// Whether stanzas are kept back.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.is_held.load(Ordering::Acquire)
    }

    /// How much the connection has taken and not yet written.
    pub fn set_unsent(&self, bytes: usize) {
        self.unsent.store(bytes, Ordering::Relaxed);
    }

    /// Whether half of what may wait for the client does: time to read nothing more of it.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        let unsent = self.unsent.load(Ordering::Relaxed);
        unsent > 0
            && self.state.lock().out.len().saturating_add(unsent) > self.limits.outgoing_bytes / 2
    }

    /// Stanzas and their bytes that may be added at once now, however fast they come: a quarter of
    /// what the client may owe. `None`: half of that waits already.
    #[must_use]
    pub fn room(&self) -> Option<(usize, usize)> {
        let state = self.state.lock();
        let bytes = self.limits.outgoing_bytes;
        let gated = state
            .gated
            .as_ref()
            .map_or((0, 0), |g| (g.waiting.len(), g.bytes));
        let unsent = self.unsent.load(Ordering::Relaxed).saturating_add(gated.1);
        let mut is_crowded = state.out.len().saturating_add(unsent) > bytes / 2;
        let mut stanzas = usize::MAX;
        if let Some(sm) = &state.sm {
            stanzas = self.limits.unacked.stanzas;
            is_crowded |= sm.sent.len() + gated.0 > stanzas / 2;
            is_crowded |= sm.sent.bytes().saturating_add(gated.1) > self.limits.unacked.bytes / 2;
        }
        (!is_crowded).then_some(((stanzas / 4).max(1), bytes / 4))
    }

    /// As [`Session::take`] for a connection that cannot write: the bytes stay here, in their
    /// bound.
    pub fn look(&self, generation: u64, waker: &Waker) -> Taken {
        let mut state = self.state.lock();
        if state.generation != generation {
            return replaced(&mut state);
        }
        note_waker(&mut state, waker);
        Taken {
            close: state.close.take(),
            ..Taken::default()
        }
    }

    /// The connection's task: who to wake, and what there is to do.
    pub fn take(&self, generation: u64, waker: &Waker) -> Taken {
        let mut state = self.state.lock();
        if state.generation != generation {
            return replaced(&mut state);
        }
        note_waker(&mut state, waker);
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
        state.is_leaving = false;
        self.set_unsent(0);
        debug_assert!(prefix.framing() == framing);
        state.out = prefix;
        state.held = None;
        if let Some(sm) = &mut state.sm {
            sm.owed = 0;
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
    /// for an inactive client joins the queue. `None`: it is over already; else a number for
    /// [`Session::is_claimed`].
    pub fn detach(&self, now_ms: u64) -> Option<u64> {
        let mut state = self.state.lock();
        if matches!(state.phase, Phase::Closed | Phase::Arriving) {
            return None;
        }
        self.let_go(&mut state, now_ms);
        Some(state.generation)
    }

    /// The connection of this generation is gone. `false`: the session has another one by now, or
    /// will have, and goes on.
    pub fn leave(&self, generation: u64, now_ms: u64) -> bool {
        let mut state = self.state.lock();
        if state.generation != generation {
            return false;
        }
        if state.phase != Phase::Closed {
            self.let_go(&mut state, now_ms);
        }
        true
    }

    /// Whether nobody has taken or carried the session since [`Session::detach`] gave this number.
    #[must_use]
    pub fn is_claimed(&self, generation: u64) -> bool {
        let state = self.state.lock();
        state.generation == generation && state.phase == Phase::Detached
    }

    fn let_go(&self, state: &mut State, now_ms: u64) {
        state.phase = Phase::Detached;
        state.generation += 1;
        state.out = Outgoing::default();
        wake(state);
        state.waker = None;
        if let Some(mut held) = state.held.take() {
            let mut now = Vec::new();
            held.flush(&mut |stanza| now.push(stanza));
            self.put_all(state, now, now_ms);
        }
        self.is_held.store(false, Ordering::Release);
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
        rest.append(&mut state.refused);
        rest.extend(take_gated(state));
        wake(state);
        rest
    }

    /// What was never confirmed of a session that is over and not yet [`Session::finish`]ed.
    pub fn take_unconfirmed(&self) -> Vec<Sent> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        if state.phase != Phase::Closed {
            return Vec::new();
        }
        unconfirmed(state)
    }

    /// Whether a connection carries it.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        self.state.lock().phase == Phase::Attached
    }

    /// Whether it is over.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.state.lock().phase == Phase::Closed
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
            owed: 0,
        }));
        wake(&mut state);
    }

    /// Counts a stanza that came in: its number, 0 without stream management.
    pub fn received(&self) -> u64 {
        let mut state = self.state.lock();
        state.sm.as_mut().map_or(0, |sm| sm.inbound.received())
    }

    /// As [`Session::received`], from the connection of this generation. `None`: the session was
    /// taken from it, and `h` is told elsewhere.
    pub fn received_by(&self, generation: u64) -> Option<u64> {
        let mut state = self.state.lock();
        if state.generation != generation {
            return None;
        }
        Some(state.sm.as_mut().map_or(0, |sm| sm.inbound.received()))
    }

    /// So many more writes must be committed before a stanza that came in is handled; each calls
    /// [`Session::handled`] then.
    pub fn expect(&self, seq: u64, more: u32) {
        if seq > 0
            && more > 0
            && let Some(sm) = &mut self.state.lock().sm
        {
            sm.inbound.expect(seq, more);
        }
    }

    /// Its stanzas handed so many bytes to the store.
    pub fn saving(&self, bytes: usize) {
        self.unsaved.fetch_add(bytes, Ordering::AcqRel);
    }

    /// So many of them are saved, or given up.
    pub fn saved(&self, bytes: usize) {
        let before = self.unsaved.fetch_sub(bytes, Ordering::AcqRel);
        if before > UNSAVED_BYTES && before.saturating_sub(bytes) <= UNSAVED_BYTES {
            wake(&mut self.state.lock());
        }
    }

    /// The node has too much to save, or no longer.
    pub fn pause(&self, is_paused: bool) {
        let was_paused = self.is_paused.swap(is_paused, Ordering::AcqRel);
        if was_paused && !is_paused {
            wake(&mut self.state.lock());
        }
    }

    /// Whether so much waits to be saved that nothing more may be read of the client.
    #[must_use]
    pub fn is_saving(&self) -> bool {
        self.unsaved.load(Ordering::Acquire) > UNSAVED_BYTES
            || self.is_paused.load(Ordering::Acquire)
    }

    /// One thing that a stanza that came in waited for is done: `h` may move.
    pub fn handled(&self, seq: u64) {
        if seq == 0 {
            return;
        }
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let Some(sm) = &mut state.sm else { return };
        sm.inbound.handled(seq);
        let is_due = sm.owed > 0 && sm.inbound.done() >= sm.owed;
        if is_due && state.phase == Phase::Attached {
            sm.owed = 0;
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
        if state.phase != Phase::Attached {
            return;
        }
        if self.is_full(state) {
            // A client that asks and asks and reads nothing.
            overflow(state);
            return;
        }
        let Some(sm) = &mut state.sm else { return };
        let is_behind = sm.inbound.in_hand() > 0;
        sm.owed = if is_behind { sm.inbound.count() } else { 0 };
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
        if sm.sent.is_empty() {
            // An idle session keeps no queue, however long it once was.
            sm.sent.shrink();
        }
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
            let mut now = Vec::new();
            held.flush(&mut |stanza| now.push(stanza));
            self.put_all(state, now, now_ms);
        }
    }
}

/// For a connection that carries the session no more.
fn replaced(state: &mut State) -> Taken {
    let is_leaving = std::mem::take(&mut state.is_leaving);
    Taken {
        is_replaced: true,
        close: is_leaving.then(|| StreamCondition::SystemShutdown.into()),
        ..Taken::default()
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

/// Takes what goes another way when a session ends.
fn unconfirmed(state: &mut State) -> Vec<Sent> {
    let sent = state.sm.as_mut().map(|sm| sm.sent.take());
    let mut all: Vec<Sent> = sent.into_iter().flatten().collect();
    all.append(&mut state.refused);
    all.extend(take_gated(state));
    all
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

fn note_waker(state: &mut State, waker: &Waker) {
    match &mut state.waker {
        Some(old) if old.will_wake(waker) => {}
        slot => *slot = Some(waker.clone()),
    }
}

fn wake(state: &mut State) {
    if let Some(waker) = &state.waker {
        waker.wake_by_ref();
    }
}
