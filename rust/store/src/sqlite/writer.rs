//! The one thread that writes: group commit.

use super::apply::{Change, Failure, State, apply};
use super::checkpoint::Checkpoint;
use super::error::to_store_error;
use super::purge::{Pass, Retention};
use super::queue::{Group, Queued, WriteQueue};
use super::reader::{ReadPool, Watermark};
use super::search::{SearchQueue, log_row};
use super::{Clock, Counters};
use antiphon_routing::store::{StoreError, Write};
use rusqlite::Connection;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Most writes in one commit. Measured with `bench_store` at 4,000 in flight: groups of 128 cost
/// 12-18 µs of CPU a write, of 512 10, of 1,024 8, of 2,048 6.5. From here on the gain is small,
/// and the first of a group waits for its last.
const GROUP_WRITES: usize = 1024;

/// Most bytes in one commit, for the same reason: a disk of 100 MB/s takes 10 ms for it.
const GROUP_BYTES: usize = 1024 * 1024;

/// When this many writes in a row fail alone, the disk is at fault and not they: the rest of their
/// group fails with them, and the next group tries again.
const FAILURES_IN_A_ROW: usize = 8;

/// Of so many groups in a row, one is followed by work in the background; an idle writer does
/// nothing else.
const GROUPS_PER_SLICE: u32 = 8;

/// How long the writer waits for writes when there is nothing to do in the background.
const REST: Duration = Duration::from_secs(60);

/// How long it leaves the background alone after an error there.
const RECOVERY: Duration = Duration::from_secs(5);

/// What became of a write.
type Outcome = Result<(), StoreError>;

/// The writer and its connection.
pub(super) struct Writer {
    db: Connection,
    state: State,
    clock: Clock,
    counters: Arc<Counters>,
    search: Arc<SearchQueue>,
    checkpoint: Arc<Checkpoint>,
    /// The log of the index is cut up to here.
    trimmed: i64,
    retention: Retention,
    pass: Pass,
    /// Groups since the last work in the background.
    groups: u32,
    /// The background is left alone until then.
    resting: Option<Instant>,
}

impl Writer {
    /// A writer on this connection.
    pub(super) fn new(
        db: Connection,
        clock: Clock,
        counters: Arc<Counters>,
        search: Arc<SearchQueue>,
        checkpoint: Arc<Checkpoint>,
        retention: Retention,
    ) -> Self {
        let mut state = State::default();
        // What was left of the last run.
        state.archive.has_purges = true;
        Self {
            db,
            state,
            clock,
            counters,
            search,
            checkpoint,
            trimmed: 0,
            retention,
            pass: Pass::default(),
            groups: 0,
            resting: None,
        }
    }

    /// Commits what the queue brings until it is closed and empty; gives the connection back.
    pub(super) fn serve(mut self, queue: &WriteQueue, reads: &ReadPool) -> Connection {
        let _end = End { queue, reads };
        let mut group = Group::default();
        let mut outcomes = Vec::new();
        while queue.take(&mut group, (GROUP_WRITES, GROUP_BYTES), self.patience()) {
            if group.writes.is_empty() {
                self.background();
                continue;
            }
            let begin = Instant::now();
            self.commit(&group.writes, &mut outcomes);
            self.count(&outcomes, begin);
            // First the reads: who is told of a commit may read at once.
            reads.committed(group.last);
            for (queued, outcome) in group.writes.drain(..).zip(outcomes.drain(..)) {
                // A callee's fault must not end the writer.
                let _ = catch_unwind(AssertUnwindSafe(|| (queued.done)(outcome)));
            }
            self.checkpoint.committed(&self.db);
            self.groups += 1;
            if self.groups >= GROUPS_PER_SLICE {
                self.background();
            }
        }
        // The next start finds that this run came to its end.
        let _ = self.run("DELETE FROM counter WHERE name = 'running'");
        self.db
    }

    /// How long to wait for writes before the background has its turn.
    fn patience(&self) -> Duration {
        if let Some(until) = self.resting {
            return until.saturating_duration_since(Instant::now());
        }
        if self.state.archive.has_purges || self.is_pass_due() {
            return Duration::ZERO;
        }
        REST
    }

    fn is_pass_due(&self) -> bool {
        self.retention != Retention::default() && (self.clock)() >= self.pass.next_ms
    }

    /// A slice of what is to be taken out, in a transaction of its own.
    fn background(&mut self) {
        self.groups = 0;
        if self.resting.is_some_and(|until| Instant::now() < until) {
            return;
        }
        self.resting = None;
        let has_purges = self.state.archive.has_purges;
        if !has_purges && !self.is_pass_due() {
            return;
        }
        let now_ms = (self.clock)();
        let result = self.in_transaction(|writer| {
            let Writer {
                db,
                state,
                pass,
                retention,
                ..
            } = writer;
            let mut change = Change { db, state };
            if has_purges {
                let has_more = change.purge_slice()?;
                state.archive.has_purges = has_more;
            } else {
                change.retain(pass, *retention, now_ms)?;
            }
            Ok(())
        });
        self.checkpoint.committed(&self.db);
        if result.is_err() {
            self.counters.failed_slices.fetch_add(1, Ordering::Relaxed);
            self.resting = Some(Instant::now() + RECOVERY);
        }
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
        self.in_transaction(|writer| {
            for queued in writes {
                match writer.apply(&queued.write) {
                    Ok(()) => outcomes.push(Ok(())),
                    Err(Failure::Refused(refusal)) => outcomes.push(Err(refusal)),
                    Err(broken) => return Err(broken),
                }
            }
            Ok(())
        })
    }

    /// One transaction with what `body` does, and with what the index must learn of it. An error:
    /// nothing of it is kept.
    fn in_transaction(
        &mut self,
        body: impl FnOnce(&mut Self) -> Result<(), Failure>,
    ) -> Result<(), StoreError> {
        let result = self.try_transaction(body);
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
        body: impl FnOnce(&mut Self) -> Result<(), Failure>,
    ) -> Result<(), StoreError> {
        self.run("BEGIN IMMEDIATE")?;
        let indexed = self.search.indexed();
        body(self)?;
        let seq = self.log_changes(indexed)?;
        self.run("COMMIT")?;
        self.trimmed = indexed;
        if let Some(seq) = seq {
            let changes = std::mem::take(&mut self.state.archive.changes);
            self.search.push(seq, changes);
        }
        Ok(())
    }

    /// Writes what the index must learn, and forgets what it knows.
    fn log_changes(&self, indexed: i64) -> Result<Option<i64>, Failure> {
        if indexed > self.trimmed {
            self.db
                .prepare_cached("DELETE FROM search_log WHERE seq < ?1")?
                .execute([indexed])?;
        }
        let changes = &self.state.archive.changes;
        if changes.is_empty() {
            return Ok(None);
        }
        self.db
            .prepare_cached("INSERT INTO search_log (entries) VALUES (?1)")?
            .execute([log_row(changes)])?;
        Ok(Some(self.db.last_insert_rowid()))
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
                // It knows of no other process.
                Err(
                    StoreError::Busy
                    | StoreError::Overtaken
                    | StoreError::Engine(_)
                    | StoreError::Closed,
                ) => {}
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
        while self.queue.take(&mut rest, (usize::MAX, usize::MAX), REST) {
            for queued in rest.writes.drain(..) {
                let _ = catch_unwind(AssertUnwindSafe(|| (queued.done)(Err(StoreError::Closed))));
            }
        }
    }
}
