//! What was accepted and is not done: lanes of writes, one an owner, and the bounds over all.
//!
//! Lock order: a shard of lanes and the account list are never held with another lock.

use super::gate::Pass;
use antiphon_routing::store::{Done, StoreError, Write};
use parking_lot::{Condvar, Mutex};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Lanes are spread over this many locks.
const SHARDS: usize = 64;

/// Most writes that one turn of a lane takes.
pub(super) const GROUP_WRITES: usize = 100;

/// Most bytes of them, where there is more than one.
pub(super) const GROUP_BYTES: usize = 32 * 1024;

/// A write that waits, or is being committed.
pub(super) struct Accepted {
    pub(super) write: Write,
    pub(super) since: Instant,
    /// In which time of the owner; `None`: of no owner's ([`Pass::Free`]).
    pub(super) time: Option<u64>,
    /// Its place among the changes of accounts.
    #[expect(
        dead_code,
        reason = "that it is dropped says that the change has ended"
    )]
    pub(super) account: Option<AccountChange>,
}

impl Accepted {
    /// What its rows are sent with.
    pub(super) fn pass(&self) -> Pass<'_> {
        match self.time {
            Some(time) => Pass::Of(self.write.owner().bare_str(), time),
            None => Pass::Free,
        }
    }
}

/// Who asked for a write: is told, whatever becomes of it, and gives its room back then.
pub(super) struct Asker {
    done: Option<Done>,
    bytes: usize,
    bounds: Arc<Bounds>,
}

impl Asker {
    /// Of a write that these bounds have admitted.
    pub(super) fn new(done: Done, bytes: usize, bounds: Arc<Bounds>) -> Self {
        Self {
            done: Some(done),
            bytes,
            bounds,
        }
    }

    /// Takes out whom to tell; [`Bounds::told_write`] must follow that.
    fn take(&mut self) -> Option<Done> {
        let done = self.done.take()?;
        self.bounds.done_write(self.bytes);
        Some(done)
    }

    /// Tells the outcome; a callee's fault harms nobody.
    pub(super) fn tell(mut self, outcome: Result<(), StoreError>) {
        self.finish(outcome);
    }

    fn finish(&mut self, outcome: Result<(), StoreError>) {
        if let Some(done) = self.take() {
            let _ = catch_unwind(AssertUnwindSafe(|| done(outcome)));
            self.bounds.told_write();
        }
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        // Only a panic on the way leaves it here.
        self.finish(Err(StoreError::Engine("a write panicked".into())));
    }
}

/// An entry of a lane.
enum Step {
    Write(Box<(Accepted, Asker)>),
    /// A read that waits for the writes before it.
    Reached(oneshot::Sender<()>),
}

/// What one turn of a lane has to do.
#[derive(Default)]
pub(super) struct Group {
    pub(super) writes: Vec<Accepted>,
    /// Of the writes, in their order.
    pub(super) askers: Vec<Asker>,
    /// Reads that wait for these writes.
    pub(super) reached: Vec<oneshot::Sender<()>>,
}

/// Some owners' lanes.
type Shard = Mutex<HashMap<Box<str>, VecDeque<Step>>>;

/// The lanes: an owner has one while something of it waits or is being committed.
pub(super) struct Lanes {
    shards: Box<[Shard]>,
    hasher: RandomState,
}

impl Lanes {
    pub(super) fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
        }
    }

    fn shard(&self, owner: &str) -> &Shard {
        // The remainder is below the number of shards.
        &self.shards[(self.hasher.hash_one(owner) % SHARDS as u64) as usize]
    }

    /// Queues a write; `true`: the lane is new and somebody must serve it.
    pub(super) fn push(&self, owner: &str, accepted: Accepted, asker: Asker) -> bool {
        let step = Step::Write(Box::new((accepted, asker)));
        let mut lanes = self.shard(owner).lock();
        if let Some(lane) = lanes.get_mut(owner) {
            lane.push_back(step);
            return false;
        }
        lanes.insert(owner.into(), VecDeque::from([step]));
        true
    }

    /// What a read of this owner must wait for; `None`: nothing.
    pub(super) fn reach(&self, owner: &str) -> Option<oneshot::Receiver<()>> {
        let mut lanes = self.shard(owner).lock();
        let lane = lanes.get_mut(owner)?;
        let (reached, wait) = oneshot::channel();
        lane.push_back(Step::Reached(reached));
        Some(wait)
    }

    /// The next writes of a lane; `false`: there are none and the lane is gone.
    pub(super) fn take(&self, owner: &str, group: &mut Group) -> bool {
        let mut lanes = self.shard(owner).lock();
        let Some(lane) = lanes.get_mut(owner) else {
            return false;
        };
        let mut bytes = 0;
        while let Some(step) = lane.front() {
            if let Step::Write(next) = step {
                bytes += next.1.bytes;
                let fits = group.writes.len() < GROUP_WRITES && bytes <= GROUP_BYTES;
                if !fits && !group.writes.is_empty() {
                    return true;
                }
            }
            match lane.pop_front() {
                Some(Step::Write(write)) => {
                    let (accepted, asker) = *write;
                    group.writes.push(accepted);
                    group.askers.push(asker);
                }
                Some(Step::Reached(reached)) => group.reached.push(reached),
                None => break,
            }
        }
        if group.writes.is_empty() && group.reached.is_empty() {
            lanes.remove(owner);
            return false;
        }
        true
    }
}

#[derive(Debug, Default)]
struct State {
    /// Writes that wait or are being committed, and their memory.
    writes: usize,
    bytes: usize,
    /// Writes whose askers were not told yet.
    untold: usize,
    reads: usize,
    is_closed: bool,
}

/// The bounds over all lanes, and what has to end before the engine does.
#[derive(Debug)]
pub(super) struct Bounds {
    state: Mutex<State>,
    idle: Condvar,
    max: usize,
    max_bytes: usize,
}

impl Bounds {
    pub(super) fn new(max: usize, max_bytes: usize) -> Self {
        Self {
            state: Mutex::default(),
            idle: Condvar::new(),
            max: max.max(1),
            max_bytes,
        }
    }

    /// Makes room for a write.
    ///
    /// # Errors
    /// `Busy` or `Closed`.
    pub(super) fn admit_write(&self, bytes: usize) -> Result<(), StoreError> {
        let mut state = self.state.lock();
        if state.is_closed {
            return Err(StoreError::Closed);
        }
        let is_large = state.bytes.saturating_add(bytes) > self.max_bytes && state.writes > 0;
        if state.writes >= self.max || is_large {
            return Err(StoreError::Busy);
        }
        state.writes += 1;
        state.untold += 1;
        state.bytes += bytes;
        Ok(())
    }

    /// A write is done, and its asker is about to be told.
    fn done_write(&self, bytes: usize) {
        let mut state = self.state.lock();
        state.writes -= 1;
        state.bytes -= bytes;
    }

    /// The asker was told.
    fn told_write(&self) {
        let mut state = self.state.lock();
        state.untold -= 1;
        self.wake(&state);
    }

    /// Makes room for a read.
    ///
    /// # Errors
    /// `Busy` or `Closed`.
    pub(super) fn admit_read(&self) -> Result<(), StoreError> {
        let mut state = self.state.lock();
        if state.is_closed {
            return Err(StoreError::Closed);
        }
        if state.reads >= self.max {
            return Err(StoreError::Busy);
        }
        state.reads += 1;
        Ok(())
    }

    /// A read is answered.
    pub(super) fn done_read(&self) {
        let mut state = self.state.lock();
        state.reads -= 1;
        self.wake(&state);
    }

    fn wake(&self, state: &State) {
        if state.untold == 0 && state.reads == 0 {
            self.idle.notify_all();
        }
    }

    /// Admits nothing more.
    pub(super) fn close(&self) {
        self.state.lock().is_closed = true;
    }

    /// Waits until nothing is left of what was admitted.
    pub(super) fn wait_idle(&self) {
        let mut state = self.state.lock();
        while state.untold > 0 || state.reads > 0 {
            self.idle.wait(&mut state);
        }
    }

    /// Writes that wait or are being committed, and their memory.
    pub(super) fn waiting(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.writes as u64, state.bytes as u64)
    }
}

/// A read that was admitted, until it is answered or dropped.
pub(super) struct ReadPlace<'a>(pub(super) &'a Bounds);

impl Drop for ReadPlace<'_> {
    fn drop(&mut self) {
        self.0.done_read();
    }
}

/// Changes of accounts on their way, for listings that must see them.
#[derive(Debug, Default)]
pub(super) struct AccountChanges {
    state: Mutex<Changes>,
}

/// A change of an account; dropped when it was committed or has failed.
#[derive(Debug)]
pub(super) struct AccountChange {
    number: u64,
    changes: Arc<AccountChanges>,
}

impl Drop for AccountChange {
    fn drop(&mut self) {
        self.changes.end(self.number);
    }
}

#[derive(Debug, Default)]
struct Changes {
    last: u64,
    pending: BTreeSet<u64>,
    waiting: Vec<(u64, oneshot::Sender<()>)>,
}

impl AccountChanges {
    /// A change was accepted.
    pub(super) fn begin(self: &Arc<Self>) -> AccountChange {
        let mut state = self.state.lock();
        state.last += 1;
        let number = state.last;
        state.pending.insert(number);
        AccountChange {
            number,
            changes: Arc::clone(self),
        }
    }

    fn end(&self, number: u64) {
        let mut state = self.state.lock();
        state.pending.remove(&number);
        let first = state.pending.first().copied().unwrap_or(u64::MAX);
        let (ready, waiting) = std::mem::take(&mut state.waiting)
            .into_iter()
            .partition(|(last, _)| *last < first);
        state.waiting = waiting;
        drop(state);
        let ready: Vec<(u64, oneshot::Sender<()>)> = ready;
        for (_, reached) in ready {
            // Fails when the asker has gone.
            let _ = reached.send(());
        }
    }

    /// What a listing must wait for; `None`: nothing.
    pub(super) fn reach(&self) -> Option<oneshot::Receiver<()>> {
        let mut state = self.state.lock();
        let last = state.pending.last().copied()?;
        let (reached, wait) = oneshot::channel();
        state.waiting.push((last, reached));
        Some(wait)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail")]
    use super::*;
    use antiphon_xmpp::Jid;

    fn push(lanes: &Lanes, bytes: usize) -> bool {
        let bounds = Arc::new(Bounds::new(1, 1));
        bounds.admit_write(bytes).unwrap();
        let accepted = Accepted {
            write: Write::AccountDelete {
                jid: Jid::parse("a@b.example").unwrap(),
            },
            since: Instant::now(),
            time: None,
            account: None,
        };
        lanes.push("o", accepted, Asker::new(Box::new(drop), bytes, bounds))
    }

    fn sizes(lanes: &Lanes) -> Vec<usize> {
        let mut group = Group::default();
        lanes.take("o", &mut group);
        group.askers.iter().map(|asker| asker.bytes).collect()
    }

    #[test]
    fn a_group_ends_at_its_bounds_and_holds_at_least_one() {
        let lanes = Lanes::new();
        assert!(push(&lanes, GROUP_BYTES * 2));
        for _ in 0..150 {
            assert!(!push(&lanes, 1));
        }
        assert_eq!(sizes(&lanes), [GROUP_BYTES * 2]);
        assert_eq!(sizes(&lanes).len(), GROUP_WRITES);
        assert_eq!(sizes(&lanes).len(), 50);
        assert!(sizes(&lanes).is_empty());
        assert!(push(&lanes, 1), "the lane was gone");
    }

    #[test]
    fn a_read_waits_for_the_group_of_the_writes_before_it() {
        let lanes = Lanes::new();
        assert!(lanes.reach("o").is_none());
        push(&lanes, GROUP_BYTES);
        let mut first = lanes.reach("o").unwrap();
        push(&lanes, 1);
        let mut group = Group::default();
        assert!(lanes.take("o", &mut group));
        assert_eq!((group.writes.len(), group.reached.len()), (1, 1));
        assert!(first.try_recv().is_err());
        group.reached.remove(0).send(()).unwrap();
        assert!(first.try_recv().is_ok());
    }

    #[test]
    fn a_listing_waits_for_the_changes_before_it_in_whatever_order_they_end() {
        let changes = Arc::new(AccountChanges::default());
        assert!(changes.reach().is_none());
        let (one, two) = (changes.begin(), changes.begin());
        let mut wait = changes.reach().unwrap();
        let three = changes.begin();
        drop(two);
        assert!(wait.try_recv().is_err());
        drop(one);
        assert!(wait.try_recv().is_ok());
        drop(three);
        assert!(changes.reach().is_none());
    }

    #[test]
    fn who_asked_is_told_and_the_room_comes_back_even_when_a_write_is_lost() {
        let (told, tell) = std::sync::mpsc::channel();
        let bounds = Arc::new(Bounds::new(1, 100));
        bounds.admit_write(7).unwrap();
        assert_eq!(bounds.admit_write(1), Err(StoreError::Busy));
        let done: Done = Box::new(move |outcome| told.send(outcome).unwrap());
        drop(Asker::new(done, 7, Arc::clone(&bounds)));
        assert!(matches!(tell.try_recv(), Ok(Err(StoreError::Engine(_)))));
        assert_eq!(bounds.waiting(), (0, 0));
        bounds.wait_idle();
    }

    #[test]
    fn what_is_too_large_passes_alone() {
        let bounds = Bounds::new(10, 100);
        bounds.admit_write(500).unwrap();
        assert_eq!(bounds.admit_write(1), Err(StoreError::Busy));
        bounds.done_write(500);
        bounds.admit_write(1).unwrap();
        bounds.close();
        assert_eq!(bounds.admit_write(1), Err(StoreError::Closed));
        assert_eq!(bounds.admit_read(), Err(StoreError::Closed));
    }
}
