//! A session that goes to another node (XEP-0198 #resumption): what of it goes there, and what becomes
//! of what is left.

use super::gated::GatedQueue;
use super::{Phase, QueueLimits, Sent, Session, StreamManagement, unconfirmed, wake};
use antiphon_routing::SessionId;
use antiphon_xmpp::Jid;
use antiphon_xmpp::stream::framing::{Framing, Outgoing};
use antiphon_xmpp::stream::sm::{AckQueue, AckRequests, Inbound, RequestPolicy};
use std::sync::Arc;

/// What goes with a session to another node.
#[derive(Debug)]
pub struct Carried {
    /// What it has handled of what its client sent: `h`.
    pub handled: u32,
    /// What its client has confirmed.
    pub acked: u32,
    /// What it has not, oldest first.
    pub sent: Vec<Sent>,
}

impl Session {
    /// A session of another node that comes here. What is delivered waits until [`Session::take_up`].
    #[must_use]
    pub fn arriving(id: SessionId, jid: Jid, limits: QueueLimits) -> Self {
        let session = Self::new(id, jid, Framing::Tcp, limits);
        session.state.lock().phase = Phase::Arriving;
        session
    }

    /// Whether it waits for what another node has of it.
    #[must_use]
    pub fn is_arriving(&self) -> bool {
        self.state.lock().phase == Phase::Arriving
    }

    /// What the other node had: from now on the session waits for its resumption.
    /// [`Session::let_pass`] then lets go what came meanwhile.
    ///
    /// # Errors
    /// It is over, or has come already; what never arrived comes back.
    pub fn take_up(&self, carried: Carried) -> Result<(), Carried> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        if state.phase != Phase::Arriving {
            return Err(carried);
        }
        let mut sent = AckQueue::starting_at(carried.acked, self.limits.unacked);
        for one in carried.sent {
            let size = one.stanza.size();
            sent.restore(one, size);
        }
        state.sm = Some(Box::new(StreamManagement {
            sent,
            inbound: Inbound::starting_at(carried.handled),
            requests: AckRequests::new(RequestPolicy::default()),
            owed: 0,
        }));
        state.phase = Phase::Detached;
        Ok(())
    }

    /// Takes the session from its connection as [`Session::detach`]; that ends with
    /// `system-shutdown`.
    pub fn detach_leaving(&self, now_ms: u64) -> Option<u64> {
        let mut state = self.state.lock();
        if matches!(state.phase, Phase::Closed | Phase::Arriving) {
            return None;
        }
        state.is_leaving = true;
        self.let_go(&mut state, now_ms);
        Some(state.generation)
    }

    /// Ends the session here, for another node to go on with it; all that came in is handled. What
    /// is delivered to it from now on, its successor gets, where that is known here. A connection
    /// that has just come to carry it loses it: that was decided before. `None`: it is over, or
    /// without stream management.
    pub fn hand_over(&self, successor: Option<&Arc<Session>>) -> Option<Carried> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        if matches!(state.phase, Phase::Closed | Phase::Arriving) {
            return None;
        }
        let (handled, acked) = {
            let sm = state.sm.as_ref()?;
            (sm.inbound.h(), sm.sent.acked())
        };
        let sent = unconfirmed(state);
        state.phase = Phase::Closed;
        state.generation += 1;
        state.out = Outgoing::default();
        state.successor = successor.cloned();
        wake(state);
        Some(Carried {
            handled,
            acked,
            sent,
        })
    }

    /// Takes over what waits for commits in the session that this one replaces.
    pub fn inherit(self: &Arc<Self>, from: &Session) {
        let Some(mut queue) = from.state.lock().gated.take() else {
            return;
        };
        let mut state = self.state.lock();
        for gated in &mut queue.waiting {
            if gated.gate.as_ref().is_some_and(|gate| !gate.wait(self)) {
                gated.gate = None;
            }
        }
        match &mut state.gated {
            None => state.gated = Some(queue),
            Some(mine) => put_before(mine, *queue),
        }
    }

    /// Ends the session here: whatever is delivered to it from now on, its successor gets, where it
    /// has one. What is left to be written and what is left besides, all at one moment: what waits for
    /// a commit may pass at any other.
    pub fn retire(&self, successor: Option<&Arc<Session>>) -> (Outgoing, Vec<Sent>) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        state.successor = successor.cloned();
        state.phase = Phase::Closed;
        state.generation += 1;
        let rest = unconfirmed(state);
        wake(state);
        state.waker = None;
        (std::mem::take(&mut state.out), rest)
    }
}

fn put_before(queue: &mut GatedQueue, mut older: GatedQueue) {
    older.waiting.append(&mut queue.waiting);
    queue.waiting = older.waiting;
    queue.bytes = queue.bytes.saturating_add(older.bytes);
}
