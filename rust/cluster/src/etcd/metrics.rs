//! What the client counts; read by the exporter, written without locks.

use crate::clock;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// Counters of one client.
#[derive(Debug, Default)]
pub struct Metrics {
    contact_ms: AtomicU64,
    watch_contact_ms: AtomicU64,
    calls: AtomicU64,
    writes: AtomicU64,
    failures: AtomicU64,
    relists: AtomicU64,
    watch_breaks: AtomicU64,
    revision: AtomicI64,
    watched: AtomicI64,
}

/// What they show at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Figures {
    /// Milliseconds since etcd last answered anything; `None`: never.
    pub contact_age_ms: Option<u64>,
    /// Milliseconds since the watch last heard anything; `None`: never.
    pub watch_age_ms: Option<u64>,
    /// Revisions of the store, seen elsewhere, that the watch has not reached. Those that touch
    /// no watched key count too, so a small figure that comes and goes is normal.
    pub watch_lag: i64,
    /// Calls begun.
    pub calls: u64,
    /// Of them those that write: put, delete, transactions with such steps, grant and revoke.
    pub writes: u64,
    /// Calls that failed, at any endpoint.
    pub failures: u64,
    /// Times the whole prefix was read, the first time included.
    pub relists: u64,
    /// Times the watch broke and was opened again.
    pub watch_breaks: u64,
    /// Highest revision seen.
    pub revision: i64,
}

impl Metrics {
    /// All of it now.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let now = clock::now_ms();
        let age = |cell: &AtomicU64| match cell.load(Ordering::Relaxed) {
            0 => None,
            at => Some(now.saturating_sub(at)),
        };
        let revision = self.revision.load(Ordering::Relaxed);
        Figures {
            contact_age_ms: age(&self.contact_ms),
            watch_age_ms: age(&self.watch_contact_ms),
            watch_lag: (revision - self.watched.load(Ordering::Relaxed)).max(0),
            calls: self.calls.load(Ordering::Relaxed),
            writes: self.writes.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
            relists: self.relists.load(Ordering::Relaxed),
            watch_breaks: self.watch_breaks.load(Ordering::Relaxed),
            revision,
        }
    }

    pub(super) fn contact(&self, revision: i64) {
        self.contact_ms.store(clock::now_ms(), Ordering::Relaxed);
        self.revision.fetch_max(revision, Ordering::Relaxed);
    }

    pub(super) fn watch_contact(&self, reached: i64) {
        let now = clock::now_ms();
        self.contact_ms.store(now, Ordering::Relaxed);
        self.watch_contact_ms.store(now, Ordering::Relaxed);
        self.watched.fetch_max(reached, Ordering::Relaxed);
    }

    pub(super) fn call(&self, writes: bool) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        if writes {
            self.writes.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn failure(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn relist(&self) {
        self.relists.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn watch_break(&self) {
        self.watch_breaks.fetch_add(1, Ordering::Relaxed);
    }
}
