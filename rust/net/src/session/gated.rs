//! The part of a session's queue that waits for commits: first in, first out, whatever opens first.

use super::{Phase, Sent, Session, State, Undelivered, overflow, unconfirmed};
use crate::gate::Gate;
use antiphon_xmpp::stanza::Stanza;
use std::collections::VecDeque;
use std::sync::Arc;

/// A stanza that waits for a commit, or behind one that does.
#[derive(Debug)]
pub(super) struct Gated {
    pub gate: Option<Arc<Gate>>,
    pub sent: Sent,
}

/// What waits so, first in first out.
#[derive(Debug, Default)]
pub(super) struct GatedQueue {
    pub waiting: VecDeque<Gated>,
    pub bytes: usize,
}

impl Session {
    /// As [`Session::deliver`], but only once the gate is open; whether it waits for that. Whatever
    /// comes later goes behind it.
    ///
    /// # Errors
    /// As [`Session::deliver`].
    pub fn deliver_behind(
        self: &Arc<Self>,
        gate: &Arc<Gate>,
        stanza: Stanza,
        offline: Option<u64>,
        now_ms: u64,
    ) -> Result<bool, Undelivered> {
        let mut state = self.state.lock();
        if let Some(successor) = state.successor.clone() {
            drop(state);
            return successor.deliver_behind(gate, stanza, offline, now_ms);
        }
        // Named under this lock, so that the gate's opening finds what is put in here.
        let is_shut = gate.wait(self);
        if !is_shut && state.gated.is_none() && state.phase != Phase::Arriving {
            let delivered = self.deliver_now(&mut state, stanza, offline, now_ms);
            return delivered.map(|()| false);
        }
        let gate = is_shut.then(|| Arc::clone(gate));
        let sent = Sent {
            stanza,
            at_ms: now_ms,
            offline,
        };
        let queued = self.queue(&mut state, Gated { gate, sent });
        queued.map(|()| true)
    }

    pub(super) fn queue(&self, state: &mut State, gated: Gated) -> Result<(), Undelivered> {
        if state.phase == Phase::Closed {
            return Err(Undelivered::Closed(gated.sent.stanza));
        }
        let size = gated.sent.stanza.size();
        let queue = state.gated.get_or_insert_default();
        let bytes = queue.bytes.saturating_add(size);
        let is_full = bytes > self.limits.outgoing_bytes
            || queue.waiting.len() >= self.limits.unacked.stanzas;
        if is_full && !queue.waiting.is_empty() {
            overflow(state);
            return Err(Undelivered::Overflow(gated.sent.stanza, unconfirmed(state)));
        }
        queue.bytes = bytes;
        queue.waiting.push_back(gated);
        Ok(())
    }

    /// Delivers what waited for gates that are open now, all of it with `is_forced`; how many
    /// stanzas went. A session that overflows thereby is over and keeps what it cannot take.
    pub fn let_pass(&self, is_forced: bool) -> usize {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let mut count = 0;
        while !matches!(state.phase, Phase::Closed | Phase::Arriving) {
            let Some(queue) = &mut state.gated else { break };
            let may_go = |g: &Gated| is_forced || g.gate.as_ref().is_none_or(|g| g.is_open());
            if !queue.waiting.front().is_some_and(may_go) {
                break;
            }
            let Some(Gated { sent, .. }) = queue.waiting.pop_front() else {
                break;
            };
            queue.bytes = queue.bytes.saturating_sub(sent.stanza.size());
            if queue.waiting.is_empty() {
                // An idle session keeps no queue.
                state.gated = None;
            }
            count += 1;
            self.pass(state, sent);
        }
        count
    }

    /// Whether something waits for a commit.
    #[must_use]
    pub fn is_gated(&self) -> bool {
        self.state.lock().gated.is_some()
    }

    fn pass(&self, state: &mut State, sent: Sent) {
        let Sent {
            stanza,
            at_ms,
            offline,
        } = sent;
        let refused = |stanza| Sent {
            stanza,
            at_ms,
            offline,
        };
        // Newer than this one: out of the way, lest an overflow hand it back as older.
        let newer = state.gated.take();
        match self.deliver_now(state, stanza, offline, at_ms) {
            Ok(()) => {}
            Err(Undelivered::Closed(stanza)) => state.refused.push(refused(stanza)),
            Err(Undelivered::Overflow(stanza, before)) => {
                // What was refused earlier is in it.
                state.refused = before;
                state.refused.push(refused(stanza));
            }
        }
        state.gated = newer;
    }
}

/// Takes what waits for commits.
pub(super) fn take_gated(state: &mut State) -> impl Iterator<Item = Sent> + use<> {
    let queue = state.gated.take();
    queue.into_iter().flat_map(|q| q.waiting).map(|g| g.sent)
}
