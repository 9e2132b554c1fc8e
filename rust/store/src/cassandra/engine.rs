//! The engine behind the handle: lanes served by tasks, reads as tasks.

use super::archives::Archives;
use super::commit::Outcome;
use super::error::Failure;
use super::owners::Owners;
use super::queue::{Accepted, AccountChanges, Asker, Bounds, Group, Lanes, ReadPlace};
use super::servers::Servers;
use super::tell::Message;
use super::{Clock, plan, query};
use antiphon_routing::store::{Done, StoreError, StoreFuture, Write};
use antiphon_xmpp::Jid;
use futures_channel::oneshot as answer;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::Sender;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

/// A count of accounts is used again for this many times as long as the counting took.
const COUNT_SHARE: u32 = 100;

/// And for this long at least; this process's own changes are always in it.
const COUNT_LEAST: Duration = Duration::from_secs(10);

/// Domains whose count is remembered.
const COUNTED: usize = 1_000;

/// Counters since the start.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) groups: AtomicU64,
    pub(super) batches: AtomicU64,
    pub(super) committed: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) failed: AtomicU64,
}

/// All that tasks share.
pub(super) struct Engine {
    pub(super) servers: Servers,
    pub(super) lanes: Lanes,
    pub(super) bounds: Arc<Bounds>,
    pub(super) owners: Owners,
    pub(super) account_changes: Arc<AccountChanges>,
    pub(super) counted: Counted,
    pub(super) counters: Counters,
    pub(super) archives: Archives,
    pub(super) tell: Sender<Message>,
    pub(super) runtime: Handle,
    /// When accounts are created.
    pub(super) clock: Clock,
    pub(super) write_wait: Duration,
    pub(super) read_wait: Duration,
}

impl Engine {
    /// Accepts a write, or calls `done` with the refusal.
    pub(super) fn write(self: &Arc<Self>, write: Write, done: Done) {
        let bytes = write.size_bytes();
        let is_plain = plan::is_plain(&write);
        // What is another's is refused in its lane: whoever calls may hold a lock.
        let time = is_plain.then(|| self.servers.gate.time(write.owner().bare_str()));
        if let Err(refusal) = self.bounds.admit_write(bytes) {
            return done(Err(refusal));
        }
        let account = (!is_plain).then(|| self.account_changes.begin());
        let owner: Box<str> = write.owner().bare_str().into();
        let accepted = Accepted {
            write,
            since: Instant::now(),
            time,
            account,
        };
        let asker = Asker::new(done, bytes, Arc::clone(&self.bounds));
        if self.lanes.push(&owner, accepted, asker) {
            self.runtime.spawn(Arc::clone(self).serve_lane(owner));
        }
    }

    /// What the task of a lane does until the lane is empty.
    async fn serve_lane(self: Arc<Self>, owner: Box<str>) {
        // After a panic below the owner would never be served again.
        let mut end = LaneEnd {
            engine: &self,
            owner: &owner,
            is_over: false,
        };
        let mut group = Group::default();
        while self.lanes.take(&owner, &mut group) {
            if group.writes.is_empty() {
                release(&mut group);
                continue;
            }
            let outcomes = self.commit(&owner, &group.writes).await;
            // First the reads: who is told of a commit may read at once.
            release(&mut group);
            group.writes.clear();
            self.tell(&mut group.askers, outcomes);
        }
        end.is_over = true;
    }

    /// Has the askers told, group after group in the order of the lane's commits. What is not told
    /// yet keeps its place in the bounds, so nothing grows if that takes long.
    fn tell(&self, askers: &mut Vec<Asker>, outcomes: Vec<Outcome>) {
        let outcomes = askers.drain(..).zip(outcomes).collect();
        // The thread lives until the last lane has ended.
        let _ = self.tell.send(Message::Group(outcomes));
    }

    /// Reads behind all writes about an owner.
    pub(super) fn read<T, F>(
        self: &Arc<Self>,
        owner: &Jid,
        query: impl FnOnce(Arc<Self>, Instant) -> F + Send + 'static,
    ) -> StoreFuture<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Failure>> + Send,
    {
        self.read_behind(|engine| engine.lanes.reach(owner.bare_str()), query)
    }

    /// Reads behind all changes of accounts.
    pub(super) fn read_accounts<T, F>(
        self: &Arc<Self>,
        query: impl FnOnce(Arc<Self>, Instant) -> F + Send + 'static,
    ) -> StoreFuture<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Failure>> + Send,
    {
        self.read_behind(|engine| engine.account_changes.reach(), query)
    }

    fn read_behind<T, F>(
        self: &Arc<Self>,
        behind: impl FnOnce(&Self) -> Option<oneshot::Receiver<()>>,
        query: impl FnOnce(Arc<Self>, Instant) -> F + Send + 'static,
    ) -> StoreFuture<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Failure>> + Send,
    {
        if let Err(refusal) = self.bounds.admit_read() {
            return Box::pin(std::future::ready(Err(refusal)));
        }
        let behind = behind(self);
        let (answer, answered) = answer::channel();
        let engine = Arc::clone(self);
        self.runtime.spawn(async move {
            let bounds = Arc::clone(&engine.bounds);
            let _place = ReadPlace(&bounds);
            let reached = match behind {
                None => true,
                // An error: the lane ended by a panic, and there is nothing to wait for.
                Some(behind) => timeout(engine.read_wait, behind).await.is_ok(),
            };
            // Nobody waits any more: a session ended while its record was being read.
            if answer.is_canceled() {
                return;
            }
            let deadline = Instant::now() + engine.read_wait;
            let outcome = if reached {
                query(engine, deadline).await.map_err(StoreError::from)
            } else {
                // The writes before it cannot be committed now.
                Err(StoreError::Busy)
            };
            // Fails when the asker has gone meanwhile: then there is nobody to tell.
            let _ = answer.send(outcome);
        });
        Box::pin(async move {
            // Only a panic in the query drops the sender unanswered.
            answered
                .await
                .unwrap_or_else(|_| Err(StoreError::Engine("a read panicked".into())))
        })
    }

    /// See [`antiphon_routing::store::Store::account_count`].
    pub(super) async fn count(
        self: Arc<Self>,
        deadline: Instant,
        domain: String,
    ) -> Result<u64, Failure> {
        if let Some(count) = self.counted.find(&domain) {
            return Ok(count);
        }
        let (begin, changes) = (Instant::now(), self.counted.changes());
        let count = query::count_accounts(&self, deadline, &domain).await?;
        self.counted.keep(domain, count, begin.elapsed(), changes);
        Ok(count)
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("servers", &self.servers)
            .field("bounds", &self.bounds)
            .finish_non_exhaustive()
    }
}

/// Lets the reads go on that waited for the writes before them.
fn release(group: &mut Group) {
    for reached in group.reached.drain(..) {
        // Fails when the asker has gone.
        let _ = reached.send(());
    }
}

/// The end of a lane's task, also by a panic.
struct LaneEnd<'a> {
    engine: &'a Arc<Engine>,
    owner: &'a str,
    is_over: bool,
}

impl Drop for LaneEnd<'_> {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        // What waits is told of a fault by its own end; the bounds get their room back.
        let mut group = Group::default();
        while self.engine.lanes.take(self.owner, &mut group) {
            release(&mut group);
            group.writes.clear();
            group.askers.clear();
        }
    }
}

/// Counts of accounts that are not worth counting again for a while.
#[derive(Debug, Default)]
pub(super) struct Counted {
    state: Mutex<CountedState>,
}

#[derive(Debug, Default)]
struct CountedState {
    by_domain: HashMap<String, (u64, Instant)>,
    changes: u64,
}

impl Counted {
    fn find(&self, domain: &str) -> Option<u64> {
        let state = self.state.lock();
        let (count, until) = state.by_domain.get(domain)?;
        (Instant::now() < *until).then_some(*count)
    }

    fn changes(&self) -> u64 {
        self.state.lock().changes
    }

    /// Remembers a count, unless an account changed since the counting began.
    fn keep(&self, domain: String, count: u64, took: Duration, changes: u64) {
        let mut state = self.state.lock();
        if state.changes != changes {
            return;
        }
        if state.by_domain.len() >= COUNTED {
            state.by_domain.clear();
        }
        let until = Instant::now() + (took * COUNT_SHARE).max(COUNT_LEAST);
        state.by_domain.insert(domain, (count, until));
    }

    /// An account was made (1) or removed (-1) here.
    pub(super) fn changed(&self, domain: &str, by: i64) {
        let mut state = self.state.lock();
        state.changes += 1;
        if let Some((count, _)) = state.by_domain.get_mut(domain) {
            *count = count.saturating_add_signed(by);
        }
    }
}
