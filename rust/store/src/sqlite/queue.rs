//! The bounded queue in front of the writer.

use super::reader::Watermark;
use antiphon_routing::store::{Done, StoreError, Write};
use antiphon_xmpp::Jid;
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Owners are told apart by this many slots. Two that share one only wait for each other's
/// writes, which is harmless, and rare beside the number of writes that wait at a time.
const OWNER_SLOTS: usize = 4096;

/// A write that waits, or is being committed.
pub(super) struct Queued {
    /// What.
    pub(super) write: Write,
    /// Whom to tell.
    pub(super) done: Done,
    /// Its memory.
    bytes: usize,
}

/// What one turn of the writer gets.
#[derive(Default)]
pub(super) struct Group {
    /// In the order of the calls.
    pub(super) writes: Vec<Queued>,
    /// The number of the last one.
    pub(super) last: Watermark,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Queued>,
    bytes: usize,
    /// Number of the last accepted write; the first has 1.
    last: Watermark,
    is_closed: bool,
}

/// Accepts writes from any thread; one thread takes them.
pub(super) struct WriteQueue {
    state: Mutex<State>,
    ready: Condvar,
    max_writes: usize,
    max_bytes: usize,
    /// By the hash of the owner: the number of the last accepted write about it.
    last_about: Box<[AtomicU64]>,
}

impl WriteQueue {
    /// A queue with these bounds.
    pub(super) fn new(max_writes: usize, max_bytes: usize) -> Self {
        Self {
            state: Mutex::default(),
            ready: Condvar::new(),
            max_writes: max_writes.max(1),
            max_bytes,
            last_about: (0..OWNER_SLOTS).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Accepts a write, or calls `done` with `Busy` or `Closed`.
    pub(super) fn push(&self, write: Write, done: Done) {
        let bytes = write.size_bytes();
        let slot = slot(write.owner());
        let refusal = {
            let mut state = self.state.lock();
            let is_full = state.waiting.len() >= self.max_writes
                || (state.bytes.saturating_add(bytes) > self.max_bytes
                    && !state.waiting.is_empty());
            if state.is_closed {
                StoreError::Closed
            } else if is_full {
                StoreError::Busy
            } else {
                state.last += 1;
                state.bytes += bytes;
                // Under the lock, so that a slot never goes back.
                self.last_about[slot].store(state.last, Ordering::Release);
                state.waiting.push_back(Queued { write, done, bytes });
                self.ready.notify_one();
                return;
            }
        };
        done(Err(refusal));
    }

    /// Waits for writes and takes what has gathered, up to the bounds of a group: at least one, or
    /// none after so much time. `false`: the queue is closed and empty.
    pub(super) fn take(
        &self,
        group: &mut Group,
        (max_writes, max_bytes): (usize, usize),
        patience: Duration,
    ) -> bool {
        let until = Instant::now() + patience;
        let mut state = self.state.lock();
        while state.waiting.is_empty() {
            if state.is_closed {
                return false;
            }
            if self.ready.wait_until(&mut state, until).timed_out() {
                break;
            }
        }
        let mut bytes = 0;
        while group.writes.len() < max_writes {
            let fits = |next: &Queued| group.writes.is_empty() || bytes + next.bytes <= max_bytes;
            if !state.waiting.front().is_some_and(fits) {
                break;
            }
            let Some(next) = state.waiting.pop_front() else {
                break;
            };
            bytes += next.bytes;
            state.bytes -= next.bytes;
            group.writes.push(next);
        }
        group.last = state.last - state.waiting.len() as u64;
        true
    }

    /// Takes no more; what waits is still handed out.
    pub(super) fn close(&self) {
        self.state.lock().is_closed = true;
        self.ready.notify_all();
    }

    /// How many wait, and their memory.
    pub(super) fn waiting(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.waiting.len() as u64, state.bytes as u64)
    }

    /// The number of the last accepted write about this owner (or one that shares its slot).
    pub(super) fn last_about(&self, owner: &Jid) -> Watermark {
        self.last_about[slot(owner)].load(Ordering::Acquire)
    }

    /// The number of the last accepted write.
    pub(super) fn last(&self) -> Watermark {
        self.state.lock().last
    }
}

impl std::fmt::Debug for WriteQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WriteQueue")
            .field("waiting", &self.waiting())
            .finish_non_exhaustive()
    }
}

fn slot(owner: &Jid) -> usize {
    let mut hasher = DefaultHasher::new();
    owner.bare_str().hash(&mut hasher);
    // The remainder is below the number of slots.
    (hasher.finish() % OWNER_SLOTS as u64) as usize
}
