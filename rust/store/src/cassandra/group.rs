//! Small writes of several owners as one request: what a request costs here, and at the servers, is
//! mostly the same whatever is in it.
//!
//! While few requests are on their way a write goes at once and alone; what arrives meanwhile waits
//! for one of them to return and goes together. A batch that fails is given back: each write is
//! then tried by itself, as if there had been no other.

use super::servers::{Cells, Row};
use parking_lot::Mutex;
use scylla::client::session::Session;
use scylla::statement::batch::{Batch, BatchStatement, BatchType};
use scylla::statement::prepared::PreparedStatement;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// Requests on their way above which writes wait for one another.
const ALONE: usize = 8;

/// Most owners of one batch, and most bytes: above either the servers write a warning to their log
/// (`unlogged_batch_across_partitions_warn_threshold`, `batch_size_warn_threshold`).
const OWNERS: usize = 10;
const BYTES: usize = 4_500;

/// The rows of one owner, which are one mutation.
struct Job {
    rows: Vec<(PreparedStatement, Cells)>,
    bytes: usize,
    done: oneshot::Sender<bool>,
}

#[derive(Default)]
struct State {
    /// Requests on their way.
    running: usize,
    waiting: VecDeque<Job>,
}

/// All of them.
pub(super) struct Group {
    session: Arc<Session>,
    runtime: Handle,
    state: Mutex<State>,
}

/// How a write goes.
pub(super) enum Turn {
    /// By itself.
    Alone(Alone),
    /// With others: `true` if it was committed; else it must go by itself.
    Together(oneshot::Receiver<bool>),
}

/// A request on its way; when it ends, what waited for it goes.
pub(super) struct Alone(Arc<Group>);

impl Group {
    /// Of a runtime's task.
    pub(super) fn new(session: Arc<Session>) -> Arc<Self> {
        Arc::new(Self {
            session,
            runtime: Handle::current(),
            state: Mutex::default(),
        })
    }

    /// The turn of these rows of one partition; `None`: they are too many to share a request.
    pub(super) fn enter(self: &Arc<Self>, rows: &[Row<'_>]) -> Option<Turn> {
        let bytes: usize = rows.iter().map(|row| row.bytes).sum();
        if bytes > BYTES {
            return None;
        }
        let mut state = self.state.lock();
        if state.running < ALONE && state.waiting.is_empty() {
            state.running += 1;
            return Some(Turn::Alone(Alone(Arc::clone(self))));
        }
        let (done, wait) = oneshot::channel();
        let rows = rows.iter().map(Row::owned).collect();
        state.waiting.push_back(Job { rows, bytes, done });
        Some(Turn::Together(wait))
    }

    /// The next that go together.
    fn next(&self) -> Vec<Job> {
        let mut state = self.state.lock();
        let (mut count, mut bytes) = (0, 0);
        for job in state.waiting.iter().take(OWNERS) {
            bytes += job.bytes;
            if count > 0 && bytes > BYTES {
                break;
            }
            count += 1;
        }
        state.waiting.drain(..count).collect()
    }

    /// Writes what waits until nothing does.
    async fn serve(self: Arc<Self>) {
        let place = Place(&self);
        loop {
            let jobs = self.next();
            if jobs.is_empty() {
                drop(place);
                return;
            }
            let (mut statements, mut cells) = (Vec::new(), Vec::new());
            let mut askers = Vec::with_capacity(jobs.len());
            for job in jobs {
                for (statement, row) in job.rows {
                    statements.push(BatchStatement::PreparedStatement(statement));
                    cells.push(row);
                }
                askers.push(job.done);
            }
            let mut batch = Batch::new_with_statements(BatchType::Unlogged, statements);
            batch.set_is_idempotent(true);
            let is_done = self.session.batch(&batch, cells).await.is_ok();
            for asker in askers {
                // Fails when the engine has gone.
                let _ = asker.send(is_done);
            }
            if !is_done {
                self.give_back();
            }
        }
    }

    /// Lets everybody go by himself: the servers may be away, and nobody should wait for that in a
    /// row.
    fn give_back(&self) {
        let waiting = std::mem::take(&mut self.state.lock().waiting);
        for job in waiting {
            let _ = job.done.send(false);
        }
    }
}

impl Alone {
    /// The request has failed.
    pub(super) fn failed(&self) {
        self.0.give_back();
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        if state.waiting.is_empty() {
            state.running -= 1;
            return;
        }
        drop(state);
        // The place is theirs now.
        self.0.runtime.spawn(Arc::clone(&self.0).serve());
    }
}

/// The place of those that go together, also when their task ends by a panic.
struct Place<'a>(&'a Arc<Group>);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let waiting = {
            let mut state = self.0.state.lock();
            state.running -= 1;
            std::mem::take(&mut state.waiting)
        };
        // Who came after the last look goes by himself.
        for job in waiting {
            let _ = job.done.send(false);
        }
    }
}

impl std::fmt::Debug for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Group").finish_non_exhaustive()
    }
}
