//! Whether the servers answer: one report when they stop, one when they are back.

use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Requests fail now and then without an outage; one that has failed for this long is one.
const OUTAGE: Duration = Duration::from_secs(1);

/// What an operator should know of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Requests fail; they are tried again until they succeed or have waited too long.
    Down {
        /// What the driver said last, in one line.
        reason: String,
    },
    /// Some requests fail again and again while others succeed (replicas of some partitions are
    /// away?).
    Stuck {
        /// What the driver said last, in one line.
        reason: String,
    },
    /// Requests succeed again.
    Up {
        /// How long they did not.
        after: Duration,
    },
}

/// [`Event::Stuck`] is not repeated sooner.
const STUCK_AGAIN: Duration = Duration::from_secs(60);

/// Told of [`Event`]s, from a thread of the engine. Must not block.
pub type Watcher = Arc<dyn Fn(Event) + Send + Sync>;

/// What is known of the servers.
pub(super) struct Health {
    watcher: Watcher,
    /// Since when requests have failed without one that succeeded, and whether it was reported.
    failing: Mutex<Option<(Instant, bool)>>,
    /// The same as `failing.is_some()`, to be looked at by every request.
    is_failing: AtomicBool,
    stuck: Mutex<Option<Instant>>,
    retries: AtomicU64,
}

impl Health {
    pub(super) fn new(watcher: Watcher) -> Self {
        Self {
            watcher,
            failing: Mutex::default(),
            is_failing: AtomicBool::new(false),
            stuck: Mutex::default(),
            retries: AtomicU64::new(0),
        }
    }

    /// A request failed in a way that passes.
    pub(super) fn failed(&self, reason: &dyn Fn() -> String) {
        self.retries.fetch_add(1, Ordering::Relaxed);
        let mut failing = self.failing.lock();
        let (since, is_reported) = *failing.get_or_insert((Instant::now(), false));
        self.is_failing.store(true, Ordering::Release);
        if is_reported || since.elapsed() < OUTAGE {
            return;
        }
        *failing = Some((since, true));
        drop(failing);
        (self.watcher)(Event::Down { reason: reason() });
    }

    /// One request has failed for a while.
    pub(super) fn stuck(&self, reason: &dyn Fn() -> String) {
        if self.is_down() {
            return;
        }
        let mut stuck = self.stuck.lock();
        if stuck.is_some_and(|last| last.elapsed() < STUCK_AGAIN) {
            return;
        }
        *stuck = Some(Instant::now());
        drop(stuck);
        (self.watcher)(Event::Stuck { reason: reason() });
    }

    /// A request succeeded; `true`: it ends an outage that was reported.
    pub(super) fn succeeded(&self) -> bool {
        if !self.is_failing.load(Ordering::Acquire) {
            return false;
        }
        let mut failing = self.failing.lock();
        self.is_failing.store(false, Ordering::Release);
        let ended = failing.take();
        drop(failing);
        let Some((since, true)) = ended else {
            return false;
        };
        let after = since.elapsed();
        (self.watcher)(Event::Up { after });
        true
    }

    /// Whether the last request failed.
    pub(super) fn is_failing(&self) -> bool {
        self.is_failing.load(Ordering::Acquire)
    }

    /// Whether an outage was reported and goes on.
    pub(super) fn is_down(&self) -> bool {
        self.is_failing.load(Ordering::Acquire)
            && self.failing.lock().is_some_and(|(_, reported)| reported)
    }

    /// Attempts that failed and were, or will be, repeated.
    pub(super) fn retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }
}

impl std::fmt::Debug for Health {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Health")
            .field("is_down", &self.is_down())
            .finish_non_exhaustive()
    }
}
