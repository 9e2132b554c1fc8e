//! Time, chance, the wires and the truth: everything that is not a process.

use super::process::{Msg, Pid};
use super::store::{Store, User};
use super::{Event, Failure};
use crate::id::{Epoch, Incarnation, Shard};
use antiphon_routing::SessionId;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Chance: splitmix64.
#[derive(Debug, Clone)]
pub(super) struct Rng(pub(super) u64);

impl Rng {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From `low` to `high`, both included.
    pub(super) fn range(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }

    pub(super) fn one_in(&mut self, n: u64) -> bool {
        self.next().is_multiple_of(n)
    }
}

/// How a pair of processes is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// Nothing arrives.
    Silent,
    /// Nothing arrives, and ports refuse.
    Refused,
}

/// How a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    Running,
    Paused,
    Dead,
}

/// What a user's session is, in truth.
#[derive(Debug, Clone, Copy)]
pub(super) struct Truth {
    pub(super) session: SessionId,
    pub(super) pid: Pid,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Env {
    pub(super) now: u64,
    pub(super) rng: Rng,
    queue: BTreeMap<(u64, u64), Event>,
    last: u64,
    pub(super) store: Store,
    pub(super) lives: BTreeMap<Pid, Life>,
    pub(super) pids: BTreeMap<Incarnation, Pid>,
    pub(super) cuts: BTreeMap<(Pid, Pid), Cut>,
    pub(super) etcd_cuts: BTreeSet<Pid>,
    pub(super) is_lossy: bool,
    pub(super) is_etcd_alone: bool,
    /// The last arrival on a wire.
    fifo: BTreeMap<(Pid, Pid, u8), u64>,
    pub(super) connection: u64,
    /// Sessions whose bind a home has confirmed and that nobody has ended.
    pub(super) online: BTreeMap<User, Truth>,
    /// When each time of ownership was taken up.
    pub(super) taken: BTreeMap<(Shard, Epoch), (Incarnation, u64)>,
    pub(super) failure: Option<Failure>,
    pub(super) trace: VecDeque<String>,
    pub(super) is_tracing: bool,
    pub(super) acknowledged: u64,
    pub(super) offline: u64,
}

impl Env {
    pub(super) fn new(seed: u64, is_tracing: bool) -> Self {
        Self {
            now: 0,
            rng: Rng(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ 0x5bf0_3635),
            queue: BTreeMap::new(),
            last: 0,
            store: Store::default(),
            lives: BTreeMap::new(),
            pids: BTreeMap::new(),
            cuts: BTreeMap::new(),
            etcd_cuts: BTreeSet::new(),
            is_lossy: false,
            is_etcd_alone: false,
            fifo: BTreeMap::new(),
            connection: 0,
            online: BTreeMap::new(),
            taken: BTreeMap::new(),
            failure: None,
            trace: VecDeque::new(),
            is_tracing,
            acknowledged: 0,
            offline: 0,
        }
    }

    pub(super) fn at(&mut self, delay: u64, event: Event) {
        self.last += 1;
        self.queue.insert((self.now + delay, self.last), event);
    }

    pub(super) fn pop(&mut self) -> Option<Event> {
        let ((at, _), event) = self.queue.pop_first()?;
        self.now = at;
        Some(event)
    }

    pub(super) fn fail(&mut self, what: String) {
        self.note(|| format!("FAIL {what}"));
        let at_ms = self.now;
        self.failure.get_or_insert(Failure { at_ms, what });
    }

    pub(super) fn note(&mut self, text: impl FnOnce() -> String) {
        if self.is_tracing {
            let line = format!("{:>7} {}", self.now, text());
            self.trace.push_back(line);
        }
    }

    pub(super) fn life(&self, pid: Pid) -> Life {
        self.lives.get(&pid).copied().unwrap_or(Life::Dead)
    }

    pub(super) fn cut(&self, a: Pid, b: Pid) -> Option<Cut> {
        self.cuts.get(&(a.min(b), a.max(b))).copied()
    }

    /// In order on the wire, whatever its delay. What is under way when the pair is cut is lost.
    pub(super) fn stream(&mut self, from: Pid, to: Pid, wire: u8, msg: Msg) {
        let delay = match self.rng.one_in(40) {
            true => self.rng.range(1, 150),
            false => self.rng.range(1, 6),
        };
        let last = self.fifo.get(&(from, to, wire)).copied().unwrap_or(0);
        let arrival = (self.now + delay).max(last);
        self.fifo.insert((from, to, wire), arrival);
        let event = Event::Wire { from, to, msg };
        self.at(arrival - self.now, event);
    }

    /// May be lost or late.
    pub(super) fn datagram(&mut self, from: Pid, to: Pid, msg: Msg) {
        if self.is_lossy && self.rng.one_in(6) {
            return;
        }
        let delay = match self.rng.one_in(30) {
            true => self.rng.range(1, 900),
            false => self.rng.range(1, 6),
        };
        self.at(delay, Event::Wire { from, to, msg });
    }
}
