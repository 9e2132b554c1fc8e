//! Stream management (XEP-0198): counters and the queue of what is not yet confirmed.
//!
//! All of it is pure: the session (in `node`) owns one [`AckQueue`], one [`Inbound`] and one
//! [`AckRequests`], and keeps them while it waits for a resumption.

use super::error::{StreamCondition, StreamError};
use super::framing::Outgoing;
use crate::ns;
use crate::stanza::StanzaCondition;
use crate::xml::Element;
use std::collections::VecDeque;

/// The peer confirmed more than it was sent. The caller closes the stream with
/// [`AckAhead::stream_error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the peer acknowledged {h} stanzas of {sent}")]
pub struct AckAhead {
    /// What the peer claimed to have handled.
    pub h: u32,
    /// The highest count we have sent.
    pub sent: u32,
}

impl AckAhead {
    /// `undefined-condition` with `<handled-count-too-high/>` (XEP-0198 #errors, example 17).
    #[must_use]
    pub fn stream_error(self) -> StreamError {
        let app = Element::new(ns::SM, "handled-count-too-high")
            .with_attr("h", self.h.to_string())
            .with_attr("send-count", self.sent.to_string());
        StreamError::from(StreamCondition::UndefinedCondition)
            .with_text(format!(
                "You acknowledged {} stanzas, but I only sent you {} so far.",
                self.h, self.sent
            ))
            .with_app(app)
    }
}

/// The queue has reached its limit: the session must end, its memory must not grow. The stanza
/// comes back, so that the caller can treat it like the unacknowledged ones.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the queue of unacknowledged stanzas is full")]
pub struct QueueFull<S>(pub S);

/// Limits of an [`AckQueue`]; 0 means none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueLimits {
    /// Stanzas.
    pub stanzas: usize,
    /// Bytes, as given to [`AckQueue::push`].
    pub bytes: usize,
}

/// Stanzas written to one stream and not yet confirmed by the peer (XEP-0198 #acking).
///
/// `acked` and `h` count stanzas and wrap at 2^32.
#[derive(Debug)]
pub struct AckQueue<S> {
    acked: u32,
    pending: VecDeque<(S, usize)>,
    bytes: usize,
    limits: QueueLimits,
}

impl<S> AckQueue<S> {
    /// An empty queue, as it is when `<enabled/>` is sent; allocates nothing.
    #[must_use]
    pub fn new(limits: QueueLimits) -> Self {
        Self::starting_at(0, limits)
    }

    /// An empty queue whose peer has confirmed `acked` stanzas already: a session taken over.
    #[must_use]
    pub fn starting_at(acked: u32, limits: QueueLimits) -> Self {
        Self {
            acked,
            pending: VecDeque::new(),
            bytes: 0,
            limits,
        }
    }

    /// Notes a stanza that is being sent and takes `size` bytes of memory.
    ///
    /// # Errors
    /// [`QueueFull`] gives the stanza back when a limit is reached; nothing has changed then. A
    /// single stanza larger than the byte limit is taken by an empty queue.
    pub fn push(&mut self, stanza: S, size: usize) -> Result<(), QueueFull<S>> {
        let QueueLimits { stanzas, bytes } = self.limits;
        let is_full = (stanzas != 0 && self.pending.len() >= stanzas)
            || (bytes != 0 && !self.pending.is_empty() && self.bytes.saturating_add(size) > bytes);
        if is_full {
            return Err(QueueFull(stanza));
        }
        self.bytes = self.bytes.saturating_add(size);
        self.pending.push_back((stanza, size));
        Ok(())
    }

    /// Notes a stanza that was sent before the session was taken over; whoever had it has looked at
    /// the limits.
    pub fn restore(&mut self, stanza: S, size: usize) {
        self.bytes = self.bytes.saturating_add(size);
        self.pending.push_back((stanza, size));
    }

    /// Applies the peer's `<a h='…'/>` or `<resume h='…'/>` and yields the stanzas it confirms,
    /// oldest first. A count that was confirmed before confirms nothing.
    ///
    /// # Errors
    /// [`AckAhead`] if `h` confirms more than was sent.
    pub fn on_ack(&mut self, h: u32) -> Result<impl Iterator<Item = S> + '_, AckAhead> {
        let mut confirmed = h.wrapping_sub(self.acked);
        if confirmed > u32::MAX / 2 {
            // Behind `acked`: an old answer, or a client that lost its memory. What it confirmed
            // once is gone and cannot be sent again; nothing else is wrong.
            confirmed = 0;
        }
        let count = confirmed as usize;
        if count > self.pending.len() {
            return Err(AckAhead {
                h,
                sent: self.sent(),
            });
        }
        self.acked = self.acked.wrapping_add(confirmed);
        let freed = self.pending.iter().take(count).map(|(_, size)| size).sum();
        self.bytes = self.bytes.saturating_sub(freed);
        Ok(self.pending.drain(..count).map(|(stanza, _)| stanza))
    }

    /// What is unconfirmed, oldest first: to send again after a resumption.
    pub fn iter(&self) -> impl Iterator<Item = &S> {
        self.pending.iter().map(|(stanza, _)| stanza)
    }

    /// Takes out all that is unconfirmed, oldest first: the session ends and they go another way.
    pub fn take(&mut self) -> impl Iterator<Item = S> + use<S> {
        self.bytes = 0;
        std::mem::take(&mut self.pending)
            .into_iter()
            .map(|(stanza, _)| stanza)
    }

    /// Gives unused memory back; for a session that goes idle.
    pub fn shrink(&mut self) {
        self.pending.shrink_to_fit();
    }

    /// Stanzas sent since `<enabled/>`, modulo 2^32.
    #[must_use]
    pub fn sent(&self) -> u32 {
        // Fits: the difference of two counters of 32 bits, see `QueueLimits`.
        self.acked
            .wrapping_add(u32::try_from(self.pending.len()).unwrap_or(u32::MAX))
    }

    /// Stanzas the peer has confirmed, modulo 2^32.
    #[must_use]
    pub fn acked(&self) -> u32 {
        self.acked
    }

    /// Unconfirmed stanzas.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pending.len()
    }

    /// Whether everything sent is confirmed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Bytes of the unconfirmed stanzas.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// What of the peer's stanzas is handled: `h` covers a prefix, because a count cannot say
/// "the fourth, but not the third" (XEP-0198 #acking, `architecture.md` "Acked means durable").
///
/// Each stanza waits for one [`Inbound::handled`] and as many more as [`Inbound::expect`] was told:
/// the writes that it caused. In order, [`Inbound::received`] and [`Inbound::handled`] cost a few
/// integer operations and no memory. Otherwise it keeps four bytes per stanza between the oldest
/// unhandled one and the newest looked at; the budget for unsaved stanzas bounds that.
#[derive(Debug, Default)]
pub struct Inbound {
    received: u64,
    handled: u64,
    told: u64,
    /// For how many things stanza `handled + 1 + index` still waits, 1 behind the end; the first is
    /// never 0.
    waits: VecDeque<u32>,
}

impl Inbound {
    /// Counters as they are when `<enable/>` arrives.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Counters of a session that had handled `h` stanzas and had none in hand.
    #[must_use]
    pub fn starting_at(h: u32) -> Self {
        let h = u64::from(h);
        Self {
            received: h,
            handled: h,
            told: h,
            waits: VecDeque::new(),
        }
    }

    /// Counts one more stanza from the peer and returns its number, from 1, which never wraps.
    pub fn received(&mut self) -> u64 {
        self.received += 1;
        self.received
    }

    /// For how many things an unhandled stanza waits.
    fn wait(&mut self, seq: u64) -> Option<&mut u32> {
        if seq <= self.handled || seq > self.received {
            return None;
        }
        // At most the number of stanzas in hand, which memory bounds far below 2^32.
        let index = usize::try_from(seq - self.handled - 1).ok()?;
        if index >= self.waits.len() {
            self.waits.resize(index + 1, 1);
        }
        self.waits.get_mut(index)
    }

    /// Stanza number `seq` is handled only after `more` further calls of [`Inbound::handled`].
    /// Before the call that would complete it; numbers that were never given out, or are handled
    /// already, change nothing.
    pub fn expect(&mut self, seq: u64, more: u32) {
        if let Some(wait) = self.wait(seq).filter(|wait| **wait > 0) {
            *wait = wait.saturating_add(more);
        }
    }

    /// One thing that stanza number `seq` waited for is done. Numbers that were never given out, or
    /// are handled already, change nothing.
    pub fn handled(&mut self, seq: u64) {
        if self.waits.is_empty() && seq == self.handled + 1 && seq <= self.received {
            // The common case: one after the other, and nothing to wait for.
            self.handled = seq;
            return;
        }
        let Some(wait) = self.wait(seq) else { return };
        *wait = wait.saturating_sub(1);
        while self.waits.front() == Some(&0) {
            self.waits.pop_front();
            self.handled += 1;
        }
        if self.waits.is_empty() && self.waits.capacity() > 64 {
            self.waits = VecDeque::new();
        }
    }

    /// How many stanzas have come in.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.received
    }

    /// How many of them are handled without a gap.
    #[must_use]
    pub fn done(&self) -> u64 {
        self.handled
    }

    /// What `<a/>` may say: the stanzas handled without a gap, modulo 2^32.
    #[must_use]
    pub fn h(&self) -> u32 {
        // Truncation is the wrap that XEP-0198 #acking asks for.
        (self.handled & u64::from(u32::MAX)) as u32
    }

    /// Stanzas received and not yet covered by [`Inbound::h`].
    #[must_use]
    pub fn in_hand(&self) -> u64 {
        self.received - self.handled
    }

    /// Whether `h` has grown since the peer was told.
    #[must_use]
    pub fn is_news(&self) -> bool {
        self.handled != self.told
    }

    /// How many stanzas `h` has grown by since the peer was told.
    #[must_use]
    pub fn untold(&self) -> u64 {
        self.handled - self.told
    }

    /// The `h` to write now; from here on the peer counts as told.
    pub fn tell(&mut self) -> u32 {
        self.told = self.handled;
        self.h()
    }
}

/// When to ask the peer for an acknowledgement; 0 turns a threshold off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestPolicy {
    /// After this many stanzas without a request.
    pub stanzas: u32,
    /// After this many bytes without a request.
    pub bytes: usize,
}

impl Default for RequestPolicy {
    /// Every 16 stanzas or 16 KiB, besides the request of a stream that goes idle.
    fn default() -> Self {
        Self {
            stanzas: 16,
            bytes: 16 * 1024,
        }
    }
}

/// Decides when `<r/>` goes with the stanzas being written (XEP-0198 #scenarios, "Efficient
/// Acking Scenario"). Pure: the driver knows when the stream goes idle.
#[derive(Debug, Default)]
pub struct AckRequests {
    policy: RequestPolicy,
    stanzas: u32,
    bytes: usize,
    is_open: bool,
}

impl AckRequests {
    /// Nothing sent, nothing asked.
    #[must_use]
    pub fn new(policy: RequestPolicy) -> Self {
        Self {
            policy,
            ..Self::default()
        }
    }

    /// A stanza of `size` bytes was written. True if `<r/>` must follow it in the same write; it
    /// counts as written then.
    pub fn on_sent(&mut self, size: usize) -> bool {
        self.stanzas = self.stanzas.saturating_add(1);
        self.bytes = self.bytes.saturating_add(size);
        let RequestPolicy { stanzas, bytes } = self.policy;
        let is_due =
            (stanzas != 0 && self.stanzas >= stanzas) || (bytes != 0 && self.bytes >= bytes);
        is_due && self.ask()
    }

    /// Nothing more will be written for now. True if `<r/>` must be, so that the last stanzas are
    /// confirmed too; it counts as written then.
    pub fn on_idle(&mut self) -> bool {
        self.stanzas > 0 && self.ask()
    }

    /// The peer acknowledged something, asked or not.
    pub fn on_ack(&mut self) {
        self.is_open = false;
    }

    /// Whether a request is unanswered: if it stays so, the peer is dead.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// The stream was resumed: what was asked on the old one is void, `unacked` stanzas are sent
    /// again.
    pub fn on_resumed(&mut self, unacked: u32) {
        self.is_open = false;
        self.stanzas = unacked;
        self.bytes = 0;
    }

    fn ask(&mut self) -> bool {
        if self.is_open {
            return false;
        }
        self.is_open = true;
        self.stanzas = 0;
        self.bytes = 0;
        true
    }
}

/// What `<enabled/>` says (XEP-0198 #enable).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SmEnabled {
    /// Names the session for its resumption, at most 4000 bytes; `None` without resumption.
    pub id: Option<String>,
    /// Seconds it can be resumed after the stream broke; `None` leaves it unsaid.
    pub max: Option<u32>,
    /// Whether it can be resumed.
    pub resume: bool,
    /// Where to reconnect to, as in `see-other-host`.
    pub location: Option<String>,
}

/// Why a session is not resumed (XEP-0198 #resumption, example 14).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SmFailed {
    /// `item-not-found` for an id that is unknown or timed out.
    pub condition: StanzaCondition,
    /// What the timed-out session had handled, where that is still known.
    pub h: Option<u32>,
}

impl From<StanzaCondition> for SmFailed {
    fn from(condition: StanzaCondition) -> Self {
        Self { condition, h: None }
    }
}

impl SmEnabled {
    /// `<enabled/>`
    #[must_use]
    pub fn element(&self) -> Element {
        let mut element = Element::new(ns::SM, "enabled");
        if let Some(id) = &self.id {
            element.set_attr("id", id.as_str());
        }
        if self.resume {
            element.set_attr("resume", "true");
        }
        if let Some(max) = self.max.filter(|_| self.resume) {
            element.set_attr("max", max.to_string());
        }
        if let Some(location) = &self.location {
            element.set_attr("location", location.as_str());
        }
        element
    }
}

impl SmFailed {
    /// `<failed/>`
    #[must_use]
    pub fn element(&self) -> Element {
        let mut element = Element::new(ns::SM, "failed");
        if let Some(h) = self.h {
            element.set_attr("h", h.to_string());
        }
        element.with_child(Element::new(ns::STANZA_ERRORS, self.condition.name()))
    }
}

/// `<resumed/>`: our `h` and the id of the session.
#[must_use]
pub fn resumed(h: u32, previd: &str) -> Element {
    Element::new(ns::SM, "resumed")
        .with_attr("h", h.to_string())
        .with_attr("previd", previd)
}

/// Appends `<a/>`.
pub fn write_ack(h: u32, out: &mut Outgoing) {
    out.message(|bytes| {
        bytes.extend_from_slice(b"<a xmlns='urn:xmpp:sm:3' h='");
        bytes.extend_from_slice(h.to_string().as_bytes());
        bytes.extend_from_slice(b"'/>");
    });
}

/// Appends `<r/>`.
pub fn write_request(out: &mut Outgoing) {
    out.raw(b"<r xmlns='urn:xmpp:sm:3'/>");
}

#[cfg(test)]
#[path = "sm_tests.rs"]
mod tests;
