//! What waits for commits: acknowledgements, deliveries, and the reading of clients that send faster
//! than the store saves.
//!
//! The store's threads only note what is done; one task of the runtime looks at it, for a whole
//! group of writes at once.

use crate::mesh::Guard;
use crate::node::Node;
use antiphon_net::gate::Gate;
use antiphon_net::session::Session;
use antiphon_routing::effect::{Effects, Local, Origin};
use parking_lot::Mutex;
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::time::timeout;

/// A store whose oldest write is older than this is slow: deliveries go ahead of their commits.
const SLOW: Duration = Duration::from_millis(50);
/// How often that is looked at, while there are writes.
const TICK: Duration = Duration::from_millis(10);
/// Ticks without a slow write after which deliveries wait for commits again.
const CALM_TICKS: u32 = 100;
/// Ticks without any write after which nobody looks any more.
const IDLE_TICKS: u32 = 100;
/// Bytes handed to the store and not yet saved, before no client's stanzas are read; half of it
/// before they are read again.
pub(crate) const UNSAVED_BYTES: usize = 256 * 1024 * 1024;

/// A write that the store has answered.
pub(crate) struct Completed {
    gate: Option<Arc<Gate>>,
    origin: Option<Origin>,
    feeder: Option<Arc<Session>>,
    bytes: usize,
    /// The generation it was counted in.
    age: Option<usize>,
    /// In a cluster: the shard stays until this is looked at.
    guard: Option<Guard>,
}

impl Completed {
    /// What deliveries wait for.
    pub fn gate(&self) -> Option<Arc<Gate>> {
        self.gate.clone()
    }
}

thread_local! {
    /// The session whose stanza is being routed on this thread.
    static FEEDER: RefCell<Option<Arc<Session>>> = const { RefCell::new(None) };
}

/// While it lives, what this thread hands to the store is this session's.
pub(crate) struct Feeding(());

impl Feeding {
    /// Names the session.
    pub fn by(session: &Arc<Session>) -> Self {
        FEEDER.with_borrow_mut(|feeder| *feeder = Some(Arc::clone(session)));
        Self(())
    }
}

impl Drop for Feeding {
    fn drop(&mut self) {
        FEEDER.with_borrow_mut(|feeder| *feeder = None);
    }
}

/// Writes that are pending, in two generations: when the older one is empty, the younger takes its
/// place. So the age of the oldest write is known to a tick, without a list of them.
#[derive(Debug, Default)]
struct Ages {
    /// How many, by generation.
    pending: [AtomicUsize; 2],
    /// When a generation last had its first write, µs since the start.
    since_us: [AtomicU64; 2],
    young: AtomicUsize,
}

impl Ages {
    fn begin(&self, now_us: impl FnOnce() -> u64) -> usize {
        let young = self.young.load(Ordering::Acquire);
        if self.pending[young].fetch_add(1, Ordering::AcqRel) == 0 {
            self.since_us[young].store(now_us(), Ordering::Release);
        }
        young
    }

    fn end(&self, generation: usize) {
        self.pending[generation].fetch_sub(1, Ordering::AcqRel);
    }

    fn is_empty(&self) -> bool {
        self.pending.iter().all(|p| p.load(Ordering::Acquire) == 0)
    }

    /// How long the oldest write waits at most, to be asked at every tick.
    fn oldest_us(&self, now_us: u64) -> u64 {
        let young = self.young.load(Ordering::Acquire);
        let mut old = 1 - young;
        if self.pending[old].load(Ordering::Acquire) == 0 {
            self.young.store(old, Ordering::Release);
            old = young;
        }
        if self.pending[old].load(Ordering::Acquire) == 0 {
            return 0;
        }
        now_us.saturating_sub(self.since_us[old].load(Ordering::Acquire))
    }
}

/// All that waits for commits.
#[derive(Default)]
pub(crate) struct Saving {
    ages: Ages,
    /// The store is slow.
    is_slow: AtomicBool,
    /// Somebody looks at the ages.
    is_watched: AtomicBool,
    /// Bytes handed to the store and not yet saved.
    unsaved: AtomicUsize,
    done: Mutex<Vec<Completed>>,
    ready: Notify,
    /// Sessions in whose queues something may wait for a gate, to be let pass if the store is slow.
    gated: Mutex<Vec<Arc<Session>>>,
    /// Sessions that are not read for the time being.
    paused: Mutex<Vec<Arc<Session>>>,
}

impl Completed {
    /// Keeps the shard of what is written here until that is done.
    pub fn keeping(mut self, guard: Option<Guard>) -> Self {
        self.guard = guard;
        self
    }
}

impl Node {
    fn since_start_us(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Bytes handed to the store and not yet saved.
    pub(crate) fn unsaved_bytes(&self) -> usize {
        self.saving.unsaved.load(Ordering::Relaxed)
    }

    /// Counts a write that goes to the store. With `is_awaited`, deliveries wait for its commit:
    /// unless the store is slow, the gate for it is there.
    pub(crate) fn begin_write(
        &self,
        bytes: usize,
        origin: Option<Origin>,
        is_awaited: bool,
    ) -> Completed {
        let saving = &self.saving;
        let feeder = FEEDER.with_borrow(Clone::clone);
        let unsaved = saving.unsaved.fetch_add(bytes, Ordering::AcqRel) + bytes;
        if let Some(feeder) = &feeder {
            feeder.saving(bytes);
            if unsaved > UNSAVED_BYTES {
                feeder.pause(true);
                saving.paused.lock().push(Arc::clone(feeder));
            }
        }
        let is_gated = is_awaited && !saving.is_slow.load(Ordering::Acquire);
        let age = is_awaited.then(|| saving.ages.begin(|| self.since_start_us()));
        if is_awaited && !saving.is_watched.swap(true, Ordering::AcqRel) {
            saving.ready.notify_one();
        }
        Completed {
            gate: is_gated.then(Arc::default),
            origin,
            feeder,
            bytes,
            age,
            guard: None,
        }
    }

    /// The store has answered: from any thread, also one that must not wait. Unless it is true,
    /// nobody hears of it: this process is out of its cluster.
    pub(crate) fn end_write(&self, mut completed: Completed, is_true: bool) {
        if !is_true {
            (completed.gate, completed.origin) = (None, None);
        }
        let mut done = self.saving.done.lock();
        done.push(completed);
        let is_first = done.len() == 1;
        drop(done);
        if is_first {
            self.saving.ready.notify_one();
        }
    }

    /// Notes that something in this session's queue waits for a gate.
    pub(crate) fn note_gated(&self, session: &Arc<Session>) {
        self.metrics.gated.inc();
        self.saving.gated.lock().push(Arc::clone(session));
    }

    /// The stanza of `origin` is handled only when what is to be written for it is. Before the
    /// effects are carried out.
    pub(crate) fn expect(&self, origin: Option<Origin>, fx: &Effects) {
        let Some(origin) = origin.filter(|o| o.seq > 0) else {
            return;
        };
        let is_its = |effect: &&Local| matches!(effect, Local::Store { origin: Some(o), .. } if *o == origin);
        let count = fx.local.iter().filter(is_its).count();
        if count > 0 {
            // As many as one transition has effects.
            self.expect_more(origin, u32::try_from(count).unwrap_or(u32::MAX));
        }
    }

    fn completed(&self, completed: Completed, woken: &mut Vec<Arc<Session>>) {
        let Completed {
            gate,
            origin,
            feeder,
            bytes,
            age,
            guard: _guard,
        } = completed;
        if let Some(age) = age {
            self.saving.ages.end(age);
        }
        self.saving.unsaved.fetch_sub(bytes, Ordering::AcqRel);
        if let Some(gate) = gate {
            woken.extend(gate.open());
        }
        if let Some(origin) = origin.filter(|o| o.seq > 0) {
            match &feeder {
                Some(feeder) if feeder.id == origin.session && self.mesh.is_none() => {
                    feeder.handled(origin.seq);
                }
                _ => self.handled_one(origin),
            }
        }
        if let Some(feeder) = feeder {
            feeder.saved(bytes);
        }
    }

    /// Begins to look at what the store has done; once, before the first session.
    pub fn watch_store(self: &Arc<Self>) {
        self.runtime.spawn(watch(Arc::clone(self)));
    }

    /// Looks at all that is done.
    fn complete_all(self: &Arc<Self>) {
        let done = std::mem::take(&mut *self.saving.done.lock());
        if done.is_empty() {
            return;
        }
        let mut woken = Vec::new();
        for completed in done {
            self.completed(completed, &mut woken);
        }
        for session in woken {
            self.let_pass(&session, false);
        }
        if self.saving.unsaved.load(Ordering::Acquire) <= UNSAVED_BYTES / 2 {
            for session in std::mem::take(&mut *self.saving.paused.lock()) {
                session.pause(false);
            }
        }
    }

    pub(crate) fn let_pass(self: &Arc<Self>, session: &Arc<Session>, is_forced: bool) -> usize {
        let count = session.let_pass(is_forced);
        if count > 0 && session.is_closed() {
            // Too much for it: with a connection, that ends it.
            self.metrics.overflows.inc();
            if !session.is_attached() {
                self.end_session(session);
            }
        }
        count
    }

    /// Lets everything pass that waits for a commit.
    fn pass_all(self: &Arc<Self>) {
        for session in std::mem::take(&mut *self.saving.gated.lock()) {
            let count = self.let_pass(&session, true);
            self.metrics.passed.inc_by(count as u64);
        }
    }
}

/// Looks at what the store has done, and at how fast it is; for the life of the node.
async fn watch(node: Arc<Node>) {
    let saving = &node.saving;
    let mut calm_ticks = CALM_TICKS;
    let mut idle_ticks = 0;
    let mut last = Instant::now();
    loop {
        if saving.is_watched.load(Ordering::Acquire) {
            // Either way there may be something.
            let _ = timeout(TICK, saving.ready.notified()).await;
        } else {
            saving.ready.notified().await;
        }
        node.complete_all();
        if last.elapsed() < TICK {
            continue;
        }
        last = Instant::now();
        let oldest_us = saving.ages.oldest_us(node.since_start_us());
        let is_late = Duration::from_micros(oldest_us) > SLOW;
        calm_ticks = if is_late {
            0
        } else {
            calm_ticks.saturating_add(1)
        };
        let is_slow = calm_ticks < CALM_TICKS;
        saving.is_slow.store(is_slow, Ordering::Release);
        if is_slow {
            node.pass_all();
        } else {
            let mut gated = saving.gated.lock();
            // Most have been let pass since.
            gated.retain(|session| session.is_gated());
            if gated.capacity() > 1024 && gated.is_empty() {
                gated.shrink_to_fit();
            }
        }
        idle_ticks = if saving.ages.is_empty() {
            idle_ticks + 1
        } else {
            0
        };
        if idle_ticks >= IDLE_TICKS && !is_slow {
            idle_ticks = 0;
            saving.is_watched.store(false, Ordering::Release);
        }
    }
}
