//! One stream from one node to another, of one class, without its socket: what is sent, sent again,
//! seen already, and when there is room.
//!
//! Stanzas go one way, words about them the other. The receiver says three things: what it has
//! received (the sender need not send it again), how much it will take (so that a slow node never
//! grows anyone's memory), and what became of each stanza (so that the sender's copy is freed and
//! the sender's stanza acknowledged). The last is a stream of its own, numbered and repeated until
//! it is seen.
//!
//! No node waits for another for ever, for two reasons. Words never wait for room: they are
//! bounded by the stanzas that they are about. And a receiver takes a stanza in whatever its own
//! outgoing streams look like: what it cannot handle it calls refused.

use crate::id::Epoch;
use crate::planted::{Bug, Planted};
use std::collections::VecDeque;

/// What a stream carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Stanzas of all kinds, binds and ends of sessions: one order, so that a message never
    /// overtakes a join.
    Stanza,
    /// Reports of sessions and hand-overs.
    Bulk,
}

/// What became of a stanza.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Committed or answered: `done`.
    Done,
    /// Sent back: look at a map of at least this epoch.
    Returned(Epoch),
    /// Sent back: the receiver cannot take it yet, and will say when ([`crate::router`]).
    NotYet,
    /// Not taken, since too much waits: its sender is answered `resource-constraint`, type wait.
    Refused,
}

/// Stanzas on their way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame<T> {
    /// Of the connection: a frame of an earlier one is dropped.
    pub connection: u64,
    /// Number of the first stanza, from 1.
    pub first: u64,
    /// With the bytes that each is charged.
    pub stanzas: Vec<(usize, T)>,
    /// Every word up to this number has been seen.
    pub seen: u64,
}

/// What the receiver says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Words {
    /// Of the connection.
    pub connection: u64,
    /// Every stanza up to this number was received.
    pub received: u64,
    /// So many bytes of stanzas it takes, counted from the beginning.
    pub room: u64,
    /// Number of the first outcome, from 1.
    pub first: u64,
    /// (number of the stanza, what became of it), in the order in which it came to be.
    pub outcomes: Vec<(u64, Outcome)>,
}

/// Counts for the metrics, of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RelayCounts {
    /// Frames.
    pub frames: u64,
    /// Stanzas.
    pub stanzas: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Stanzas sent again (of a receiver: dropped, since they came before).
    pub again: u64,
    /// Not queued for want of room (of a receiver: called refused).
    pub refused: u64,
}

/// No room in the queue: the stanza is answered with `resource-constraint`, type wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too much is queued for this node")]
pub struct QueueFull;

/// What a peer must not do: the connection is closed, and counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Breach {
    /// Something is missing: connect again.
    #[error("something is missing in between")]
    Gap,
    /// More than there was room for.
    #[error("more was sent than there was room for")]
    Room,
    /// It speaks of what was never sent.
    #[error("it speaks of stanzas that were never sent")]
    Unsent,
}

/// The sender's side.
#[derive(Debug)]
pub struct Outbound<T> {
    /// Queued or not yet received, in order; the first has number `first`.
    queue: VecDeque<(usize, T)>,
    first: u64,
    /// How many of the queue were sent on this connection.
    sent: usize,
    /// Highest number that was ever sent.
    highest: u64,
    /// Bytes of all stanzas before the queue.
    passed: u64,
    /// Bytes of those that were sent on this connection.
    sent_bytes: u64,
    room: u64,
    queued_bytes: usize,
    queue_bytes_max: usize,
    /// Received, nothing said of it yet; ascending. What is said is nearly always of the first.
    pending: VecDeque<u64>,
    seen: u64,
    is_seen_told: bool,
    connection: Option<u64>,
    counts: RelayCounts,
}

impl<T: Clone> Outbound<T> {
    /// To a process, from its and this one's beginning on.
    #[must_use]
    pub fn new(queue_bytes_max: usize) -> Self {
        Self {
            queue: VecDeque::new(),
            first: 1,
            sent: 0,
            highest: 0,
            passed: 0,
            sent_bytes: 0,
            room: 0,
            queued_bytes: 0,
            queue_bytes_max,
            pending: VecDeque::new(),
            seen: 0,
            is_seen_told: true,
            connection: None,
            counts: RelayCounts::default(),
        }
    }

    /// Counts for the metrics.
    #[must_use]
    pub fn counts(&self) -> RelayCounts {
        self.counts
    }

    /// Bytes that were not received yet.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Received and not called done.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Queues a stanza and tells its number.
    ///
    /// # Errors
    /// [`QueueFull`]; nothing waits here.
    pub fn push(&mut self, bytes: usize, stanza: T) -> Result<u64, QueueFull> {
        if self.queued_bytes + bytes > self.queue_bytes_max && !self.queue.is_empty() {
            self.counts.refused += 1;
            return Err(QueueFull);
        }
        Ok(self.push_reserved(bytes, stanza))
    }

    /// Queues what must not be refused: replies and errors, whose room was reserved when their
    /// request was admitted, and all of the bulk class.
    pub fn push_reserved(&mut self, bytes: usize, stanza: T) -> u64 {
        self.queued_bytes += bytes;
        self.queue.push_back((bytes, stanza));
        self.first + self.queue.len() as u64 - 1
    }

    /// A connection is there: the receiver's first words tell where to go on.
    ///
    /// # Errors
    /// See [`Outbound::heard`].
    pub fn connected(&mut self, words: &Words) -> Result<Vec<(u64, Outcome)>, Breach> {
        self.connection = Some(words.connection);
        self.sent = 0;
        self.sent_bytes = 0;
        self.is_seen_told = false;
        self.heard(words)
    }

    /// It broke.
    pub fn disconnected(&mut self) {
        self.connection = None;
    }

    /// What the receiver says: outcomes that are new, in order.
    ///
    /// # Errors
    /// [`Breach`]: close the connection. Nothing has changed then.
    pub fn heard(&mut self, words: &Words) -> Result<Vec<(u64, Outcome)>, Breach> {
        if self.connection != Some(words.connection) {
            return Ok(Vec::new());
        }
        if words.first > self.seen + 1 {
            return Err(Breach::Gap);
        }
        let is_unsent = words.received > self.highest
            || words
                .outcomes
                .iter()
                .any(|(number, _)| *number > words.received);
        if is_unsent {
            return Err(Breach::Unsent);
        }
        while self.first <= words.received {
            let Some((bytes, _)) = self.queue.pop_front() else {
                break;
            };
            self.pending.push_back(self.first);
            self.first += 1;
            self.passed += bytes as u64;
            self.queued_bytes -= bytes;
            if self.sent > 0 {
                self.sent -= 1;
                self.sent_bytes -= bytes as u64;
            }
        }
        self.room = self.room.max(words.room);
        let skip = (self.seen + 1).saturating_sub(words.first) as usize;
        let mut new = Vec::new();
        for (number, outcome) in words.outcomes.iter().skip(skip) {
            self.seen += 1;
            self.is_seen_told = false;
            if let Ok(at) = self.pending.binary_search(number) {
                self.pending.remove(at);
                new.push((*number, *outcome));
            }
        }
        Ok(new)
    }

    /// What to send now: as much as there is room for, at most `bytes_max` (but one stanza at
    /// least). `None`: nothing.
    pub fn frame(&mut self, bytes_max: usize) -> Option<Frame<T>> {
        let connection = self.connection?;
        let mut stanzas = Vec::new();
        let mut total = 0;
        let first = self.first + self.sent as u64;
        while let Some((bytes, stanza)) = self.queue.get(self.sent) {
            let upto = self.passed + self.sent_bytes + *bytes as u64;
            if upto > self.room || (total > 0 && total + bytes > bytes_max) {
                break;
            }
            total += bytes;
            stanzas.push((*bytes, stanza.clone()));
            self.sent += 1;
            self.sent_bytes += *bytes as u64;
        }
        if stanzas.is_empty() && self.is_seen_told {
            return None;
        }
        self.is_seen_told = true;
        let last = first + stanzas.len() as u64 - 1;
        let new = last.saturating_sub(self.highest.max(first - 1));
        self.highest = self.highest.max(last);
        self.counts.frames += 1;
        self.counts.stanzas += new;
        self.counts.again += stanzas.len() as u64 - new;
        self.counts.bytes += total as u64;
        Some(Frame {
            connection,
            first,
            stanzas,
            seen: self.seen,
        })
    }
}

/// The receiver's side.
#[derive(Debug)]
pub struct Inbound {
    connection: u64,
    received: u64,
    received_bytes: u64,
    /// Bytes that were taken on: room for as many more.
    taken_bytes: u64,
    window_bytes: u64,
    /// Not yet seen by the sender; the first has number `first`.
    outcomes: VecDeque<(u64, Outcome)>,
    first: u64,
    /// How many outcomes were said on this connection, and what else.
    said: usize,
    said_received: u64,
    said_room: u64,
    counts: RelayCounts,
    pub(crate) planted: Planted,
}

impl Inbound {
    /// From a process, from its and this one's beginning on. At most `window_bytes` are received
    /// and not taken on.
    #[must_use]
    pub fn new(window_bytes: u64) -> Self {
        Self {
            connection: 0,
            received: 0,
            received_bytes: 0,
            taken_bytes: 0,
            window_bytes,
            outcomes: VecDeque::new(),
            first: 1,
            said: 0,
            said_received: 0,
            said_room: 0,
            counts: RelayCounts::default(),
            planted: Planted::default(),
        }
    }

    /// Counts for the metrics.
    #[must_use]
    pub fn counts(&self) -> RelayCounts {
        self.counts
    }

    /// A connection is there, numbered by the receiver and above every earlier one: the first
    /// words, which repeat what was not seen.
    pub fn connected(&mut self, connection: u64) -> Words {
        self.connection = connection;
        self.said = 0;
        self.say(usize::MAX)
    }

    /// Takes a frame in: the stanzas that are new, with their numbers, in order. Each is to be
    /// [`Inbound::take`]n on, and called an outcome, whatever becomes of it.
    ///
    /// # Errors
    /// [`Breach`]: close the connection.
    pub fn receive<T>(&mut self, frame: Frame<T>) -> Result<Vec<(u64, usize, T)>, Breach> {
        if frame.connection != self.connection {
            return Ok(Vec::new());
        }
        if frame.first > self.received + 1 {
            return Err(Breach::Gap);
        }
        let seen = frame.seen.saturating_sub(self.first - 1);
        if seen > self.said as u64 {
            return Err(Breach::Unsent);
        }
        // All of a frame or nothing: what counts as received must have been handed on.
        let numbered = (frame.first..).zip(&frame.stanzas);
        let fresh = numbered.filter(|(number, _)| *number > self.received);
        let bytes: u64 = fresh.map(|(_, (bytes, _))| *bytes as u64).sum();
        if self.received_bytes + bytes > self.taken_bytes + self.window_bytes {
            return Err(Breach::Room);
        }
        self.outcomes.drain(..seen as usize);
        self.first += seen;
        self.said -= seen as usize;
        self.counts.frames += 1;
        let mut new = Vec::new();
        for (number, (bytes, stanza)) in (frame.first..).zip(frame.stanzas) {
            if number <= self.received && !self.planted.has(Bug::SkipSeen) {
                self.counts.again += 1;
                continue;
            }
            self.received_bytes += bytes as u64;
            self.received = self.received.max(number);
            self.counts.stanzas += 1;
            self.counts.bytes += bytes as u64;
            new.push((number, bytes, stanza));
        }
        Ok(new)
    }

    /// A stanza of so many bytes was taken on (handed to its entity, parked or refused): there is
    /// room for as many more.
    pub fn take(&mut self, bytes: usize) {
        self.taken_bytes += bytes as u64;
    }

    /// What became of a stanza; once for each.
    pub fn outcome(&mut self, number: u64, outcome: Outcome) {
        self.counts.refused += u64::from(outcome == Outcome::Refused);
        self.outcomes.push_back((number, outcome));
    }

    /// What to say now, at most so many outcomes; `None`: nothing new.
    pub fn words(&mut self, outcomes_max: usize) -> Option<Words> {
        let room = self.taken_bytes + self.window_bytes;
        // Room is told in steps, the rest at once.
        let has_room = room - self.said_room >= self.window_bytes / 4;
        let has_more = self.said < self.outcomes.len();
        if !has_room && !has_more && self.said_received == self.received {
            return None;
        }
        Some(self.say(outcomes_max))
    }

    fn say(&mut self, outcomes_max: usize) -> Words {
        let outcomes: Vec<_> = self
            .outcomes
            .iter()
            .skip(self.said)
            .take(outcomes_max)
            .copied()
            .collect();
        let first = self.first + self.said as u64;
        self.said += outcomes.len();
        self.said_received = self.received;
        self.said_room = self.taken_bytes + self.window_bytes;
        Words {
            connection: self.connection,
            received: self.received,
            room: self.said_room,
            first,
            outcomes,
        }
    }
}

#[cfg(test)]
mod tests;
