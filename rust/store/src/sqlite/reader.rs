//! Reads: a few threads, each with a read-only connection.

use super::error::to_store_error;
use antiphon_routing::store::{StoreError, StoreFuture};
use futures_channel::oneshot;
use parking_lot::{Condvar, Mutex};
use rusqlite::Connection;
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The number of a write in the order of acceptance. A read at a watermark runs when all writes up
/// to it are committed (or have failed).
pub(super) type Watermark = u64;

/// A query and the way its answer goes.
type Job = Box<dyn FnOnce(&Connection) + Send>;

#[derive(Default)]
struct State {
    ready: VecDeque<Job>,
    /// By the watermark they wait for.
    waiting: BTreeMap<Watermark, Vec<Job>>,
    /// How many are in `waiting`.
    waiting_len: usize,
    /// All writes up to this one are done.
    committed: Watermark,
    is_closed: bool,
}

/// The reads that wait for their writes or for a thread.
pub(super) struct ReadPool {
    state: Mutex<State>,
    ready: Condvar,
    max_jobs: usize,
}

impl ReadPool {
    /// A pool that holds at most this many reads.
    pub(super) fn new(max_jobs: usize) -> Self {
        Self {
            state: Mutex::default(),
            ready: Condvar::new(),
            max_jobs: max_jobs.max(1),
        }
    }

    /// Runs a query on a thread of the pool, behind the writes up to `behind`.
    pub(super) fn run<T: Send + 'static>(
        &self,
        behind: Watermark,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> StoreFuture<T> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |db| {
            // Nobody waits any more: a session ended while its record was being read.
            if answer.is_canceled() {
                return;
            }
            // Fails when the asker has gone meanwhile: then there is nobody to tell.
            let _ = answer.send(query(db).map_err(|error| to_store_error(&error)));
        });
        if let Err(refusal) = self.submit(behind, job) {
            return Box::pin(std::future::ready(Err(refusal)));
        }
        Box::pin(async move {
            // Only a panic in the query drops the sender unanswered.
            answered
                .await
                .unwrap_or_else(|_| Err(StoreError::Engine("a read panicked".into())))
        })
    }

    fn submit(&self, behind: Watermark, job: Job) -> Result<(), StoreError> {
        let mut state = self.state.lock();
        if state.is_closed {
            return Err(StoreError::Closed);
        }
        if state.ready.len() + state.waiting_len >= self.max_jobs {
            return Err(StoreError::Busy);
        }
        if behind <= state.committed {
            state.ready.push_back(job);
            self.ready.notify_one();
        } else {
            state.waiting.entry(behind).or_default().push(job);
            state.waiting_len += 1;
        }
        Ok(())
    }

    /// All writes up to `last` are done: the reads that waited for them may run.
    pub(super) fn committed(&self, last: Watermark) {
        let mut state = self.state.lock();
        state.committed = last;
        while let Some(entry) = state.waiting.first_entry() {
            if *entry.key() > last {
                break;
            }
            let jobs = entry.remove();
            state.waiting_len -= jobs.len();
            state.ready.extend(jobs);
            self.ready.notify_all();
        }
    }

    /// Takes no more; what waits is still answered.
    pub(super) fn close(&self) {
        self.state.lock().is_closed = true;
        self.ready.notify_all();
    }

    /// What a thread of the pool does until the pool is closed and empty.
    pub(super) fn serve(&self, db: &Connection) {
        while let Some(job) = self.next() {
            // The asker learns of a panic by the end of its channel; the thread lives on.
            let _ = catch_unwind(AssertUnwindSafe(|| job(db)));
        }
    }

    fn next(&self) -> Option<Job> {
        let mut state = self.state.lock();
        loop {
            if let Some(job) = state.ready.pop_front() {
                return Some(job);
            }
            if state.is_closed && state.waiting.is_empty() {
                return None;
            }
            self.ready.wait(&mut state);
        }
    }
}

impl std::fmt::Debug for ReadPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReadPool").finish_non_exhaustive()
    }
}
