//! The one thread that writes: group commit.

use super::apply::{Failure, State, apply};
use super::error::to_store_error;
use super::queue::{Group, Queued, WriteQueue};
use super::reader::{ReadPool, Watermark};
use super::{Clock, Counters};
use antiphon_routing::store::{StoreError, Write};
use rusqlite::Connection;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Most writes in one commit. Measured with `bench_store` at 4,000 in flight: groups of 128 cost
/// 12-18 µs of CPU a write, of 512 10, of 1,024 8, of 2,048 6.5. From here on the gain is small,
/// and the first of a group waits for its last.
const GROUP_WRITES: usize = 1024;

/// Most bytes in one commit, for the same reason: a disk of 100 MB/s takes 10 ms for it.
const GROUP_BYTES: usize = 1024 * 1024;

/// When this many writes in a row fail alone, the disk is at fault and not they: the rest of their
/// group fails with them, and the next group tries again.
const FAILURES_IN_A_ROW: usize = 8;

/// What became of a write.
type Outcome = Result<(), StoreError>;

/// The writer and its connection.
pub(super) struct Writer {
    db: Connection,
    state: State,
    clock: Clock,
    counters: Arc<Counters>,
}

impl Writer {
    /// A writer on this connection.
    pub(super) fn new(db: Connection, clock: Clock, counters: Arc<Counters>) -> Self {
        Self {
            db,
            state: State::default(),
            clock,
            counters,
        }
    }

    /// Commits what the queue brings until it is closed and empty; gives the connection back.
    pub(super) fn serve(mut self, queue: &WriteQueue, reads: &ReadPool) -> Connection {
        let _end = End { queue, reads };
        let mut group = Group::default();
        let mut outcomes = Vec::new();
        while queue.take(&mut group, GROUP_WRITES, GROUP_BYTES) {
            let begin = Instant::now();
            self.commit(&group.writes, &mut outcomes);
            self.count(&outcomes, begin);
            // First the reads: who is told of a commit may read at once.
            reads.committed(group.last);
            for (queued, outcome) in group.writes.drain(..).zip(outcomes.drain(..)) {
                // A callee's fault must not end the writer.
                let _ = catch_unwind(AssertUnwindSafe(|| (queued.done)(outcome)));
            }
        }
        self.db
    }

    /// Commits a group, whole if possible; then one by one, so that what fails, fails alone.
    fn commit(&mut self, writes: &[Queued], outcomes: &mut Vec<Outcome>) {
        let Err(error) = self.transaction(writes, outcomes) else {
            return;
        };
        outcomes.clear();
        // Another program has the file, whatever the writes are: trying each would wait for each.
        if writes.len() == 1 || error == StoreError::Busy {
            outcomes.resize(writes.len(), Err(error));
            return;
        }
        let mut failures = 0;
        let mut alone = Vec::with_capacity(1);
        for write in writes.chunks(1) {
            alone.clear();
            match self.transaction(write, &mut alone) {
                Ok(()) => {
                    failures = 0;
                    outcomes.append(&mut alone);
                }
                Err(error) => {
                    failures += 1;
                    outcomes.push(Err(error.clone()));
                    if failures == FAILURES_IN_A_ROW {
                        outcomes.resize(writes.len(), Err(error));
                        return;
                    }
                }
            }
        }
    }

    /// One transaction with these writes, each with its outcome. An error: nothing of it is kept.
    fn transaction(
        &mut self,
        writes: &[Queued],
        outcomes: &mut Vec<Outcome>,
    ) -> Result<(), StoreError> {
        let result = self.try_transaction(writes, outcomes);
        if result.is_err() {
            self.state.rolled_back();
            // After some errors SQLite has rolled back by itself; a failing rollback leaves a
            // transaction that the next BEGIN meets, fails on, and rolls back again.
            if !self.db.is_autocommit() {
                let _ = self.db.execute_batch("ROLLBACK");
            }
        }
        result
    }

    fn try_transaction(
        &mut self,
        writes: &[Queued],
        outcomes: &mut Vec<Outcome>,
    ) -> Result<(), StoreError> {
        self.run("BEGIN IMMEDIATE")?;
        for queued in writes {
            match self.apply(&queued.write) {
                Ok(()) => outcomes.push(Ok(())),
                Err(Failure::Refused(refusal)) => outcomes.push(Err(refusal)),
                Err(Failure::Broken(error)) => return Err(error),
            }
        }
        self.run("COMMIT")
    }

    /// One write; a panic in it is a failure of it alone.
    fn apply(&mut self, write: &Write) -> Result<(), Failure> {
        let Self {
            db, state, clock, ..
        } = self;
        catch_unwind(AssertUnwindSafe(|| apply(db, state, &**clock, write))).unwrap_or_else(|_| {
            Err(Failure::Broken(StoreError::Engine(
                "a write panicked".into(),
            )))
        })
    }

    fn run(&self, statement: &str) -> Result<(), StoreError> {
        self.db
            .prepare_cached(statement)
            .and_then(|mut prepared| prepared.execute([]))
            .map(drop)
            .map_err(|error| to_store_error(&error))
    }

    fn count(&self, outcomes: &[Outcome], begin: Instant) {
        let c = &self.counters;
        let (mut committed, mut refused) = (0, 0);
        for outcome in outcomes {
            match outcome {
                Ok(()) => committed += 1,
                Err(StoreError::NoAccount | StoreError::Exists | StoreError::Full(_)) => {
                    refused += 1;
                }
                Err(StoreError::Busy | StoreError::Engine(_) | StoreError::Closed) => {}
            }
        }
        let failed = outcomes.len() as u64 - committed - refused;
        let micros = u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX);
        c.commits.fetch_add(1, Ordering::Relaxed);
        c.committed.fetch_add(committed, Ordering::Relaxed);
        c.refused.fetch_add(refused, Ordering::Relaxed);
        c.failed.fetch_add(failed, Ordering::Relaxed);
        c.commit_us.fetch_add(micros, Ordering::Relaxed);
    }
}

/// The writer's end, also by a panic: nobody waits for it any more.
struct End<'a> {
    queue: &'a WriteQueue,
    reads: &'a ReadPool,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.queue.close();
        self.reads.committed(Watermark::MAX);
        // Nothing is left here unless the writer panicked.
        let mut rest = Group::default();
        while self.queue.take(&mut rest, usize::MAX, usize::MAX) {
            for queued in rest.writes.drain(..) {
                let _ = catch_unwind(AssertUnwindSafe(|| (queued.done)(Err(StoreError::Closed))));
            }
        }
    }
}
