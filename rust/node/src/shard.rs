//! Entities in memory: one lock for each slice of them, none held while another is taken.

use antiphon_routing::SessionId;
use antiphon_routing::effect::Effects;
use antiphon_routing::store::StoreError;
use antiphon_routing::user::User;
use antiphon_xmpp::Jid;
use hashbrown::HashTable;
use parking_lot::{Mutex, MutexGuard};
use std::collections::VecDeque;
use std::sync::Arc;

use crate::node::Node;

/// Locks; a power of two.
const LOCKS: usize = 256;
/// Jobs that may wait for one entity to be read.
const WAITING: usize = 1_000;
/// Entities without sessions that one lock keeps, so that traffic to users who are offline does
/// not read each of them again.
const IDLE: usize = 128;

/// How much longer an entity stays whose client may send messages again, seconds: their stream ended
/// without an end, so it may not know that they were archived.
const RESENT_S: u64 = 3_600;

/// Of the entities in this bound, those of accounts that do not exist: kept so that messages to
/// nobody do not read either. They give way to all others.
const NOBODIES: usize = IDLE / 4;
/// How much sooner these are forgotten, seconds: on one node an account that is made is heard of,
/// but where several share a store, another may make it.
const NOBODY_SOONER_S: u64 = 50;

/// Something to do with an entity: run under its lock once it is there.
pub type Job = Box<dyn FnOnce(&Arc<Node>, Result<&mut User, &StoreError>, &mut Effects) + Send>;

/// What waits for an entity to be read.
#[derive(Default)]
pub struct Waiting {
    /// Before the others: the entity's sessions, told by the nodes that hold their sockets. Each
    /// session is in it once, so it is bounded as they are.
    pub first: VecDeque<Job>,
    /// In the order in which they came.
    pub jobs: VecDeque<Job>,
    /// Sessions that read on once the jobs are done and what they route has been routed.
    pub held: Vec<SessionId>,
    /// The account was made meanwhile: what is read may be from before.
    pub is_outdated: bool,
}

/// An entity that is there, or is being read.
pub enum Slot {
    /// Being read; what waits for it.
    Loading(Jid, Waiting),
    /// There.
    Live(Box<User>, Touch),
}

/// What is known about the use of an entity.
#[derive(Debug, Clone, Copy)]
pub struct Touch {
    /// When it was last used, seconds.
    pub at_s: u64,
    /// Made for one anonymous session: nothing of it is stored.
    pub is_temporary: bool,
}

impl Touch {
    /// It is used now. What is known of an account that does not exist does not last longer by
    /// that.
    pub fn use_of(&mut self, user: &User, now_ms: u64) {
        if user.exists() {
            self.at_s = now_ms / 1000;
        }
    }
}

/// Whether it only says that there is no such account.
fn is_nobody(user: &User) -> bool {
    !user.exists() && user.is_idle()
}

impl Slot {
    fn bare(&self) -> &str {
        match self {
            Self::Loading(jid, _) => jid.as_str(),
            Self::Live(user, _) => user.jid().as_str(),
        }
    }
}

/// One slice of the entities.
#[derive(Default)]
pub struct Shard {
    slots: HashTable<Slot>,
    /// Since the last look at those without sessions.
    inserted: usize,
}

/// What [`Shard::find`] found.
pub enum Found<'a> {
    /// Ready.
    Live(&'a mut User, &'a mut Touch),
    /// Not yet; add a job.
    Loading(&'a mut Waiting),
    /// Not in memory.
    Missing,
}

/// All of them.
pub struct Shards(Box<[Mutex<Shard>]>);

impl Default for Shards {
    fn default() -> Self {
        Self((0..LOCKS).map(|_| Mutex::default()).collect())
    }
}

/// The hash that finds an entity and its shard.
#[must_use]
pub fn hash(bare: &str) -> u64 {
    xxhash_rust::xxh3::xxh3_64(bare.as_bytes())
}

impl Shards {
    /// The slice an entity is in, locked.
    pub fn lock(&self, hash: u64) -> MutexGuard<'_, Shard> {
        // The table uses the high bits.
        self.0[hash as usize & (LOCKS - 1)].lock()
    }

    /// Each slice in turn, locked.
    pub fn each(&self) -> impl Iterator<Item = MutexGuard<'_, Shard>> {
        self.0.iter().map(Mutex::lock)
    }
}

impl Shard {
    /// Looks an entity up.
    pub fn find(&mut self, hash: u64, bare: &str) -> Found<'_> {
        match self.slots.find_mut(hash, |slot| slot.bare() == bare) {
            None => Found::Missing,
            Some(Slot::Live(user, touch)) => Found::Live(user, touch),
            Some(Slot::Loading(_, jobs)) => Found::Loading(jobs),
        }
    }

    /// Enters an entity.
    pub fn insert(&mut self, hash: u64, slot: Slot) {
        self.inserted += 1;
        if self.inserted >= IDLE {
            self.inserted = 0;
            self.evict(0);
        }
        self.slots
            .insert_unique(hash, slot, |slot| self::hash(slot.bare()));
    }

    /// Takes an entity out.
    pub fn remove(&mut self, hash: u64, bare: &str) -> Option<Slot> {
        let found = self
            .slots
            .find_entry(hash, |slot| slot.bare() == bare)
            .ok()?;
        Some(found.remove().0)
    }

    /// An account was made, changed or deleted: what says that there is none goes.
    pub fn renew(&mut self, hash: u64, bare: &str) {
        match self.find(hash, bare) {
            Found::Loading(waiting) => waiting.is_outdated = true,
            Found::Live(user, _) if is_nobody(user) => {
                self.remove(hash, bare);
            }
            Found::Live(..) | Found::Missing => {}
        }
    }

    /// Forgets entities without sessions that were last used before `before_s`, or all but the
    /// bound of them. Those that may yet have messages sent again to them stay for longer.
    pub fn evict(&mut self, before_s: u64) {
        let is_kept_first =
            |slot: &&Slot| matches!(slot, Slot::Live(user, _) if user.is_idle() && user.exists());
        let others = self.slots.iter().filter(is_kept_first).count();
        let mut nobodies = NOBODIES.min(IDLE.saturating_sub(others));
        let before_nobody_s = before_s.saturating_add(NOBODY_SOONER_S);
        let mut kept = 0;
        let before_resent_s = before_s.saturating_sub(RESENT_S);
        self.slots.retain(|slot| match slot {
            Slot::Loading(..) => true,
            Slot::Live(user, _) if !user.is_idle() => true,
            Slot::Live(user, touch) if is_nobody(user) => {
                let is_kept = touch.at_s >= before_nobody_s && nobodies > 0;
                nobodies -= usize::from(is_kept);
                is_kept
            }
            Slot::Live(user, touch) => {
                kept += 1;
                let is_recent =
                    touch.at_s >= before_s || touch.at_s >= before_resent_s && user.may_be_resent();
                is_recent && kept <= IDLE
            }
        });
        if self.slots.capacity() > 64 && self.slots.len() * 4 < self.slots.capacity() {
            self.slots.shrink_to_fit(|slot| hash(slot.bare()));
        }
    }

    /// The entities that are there, and whether they are temporary.
    pub fn users(&mut self) -> impl Iterator<Item = (&mut User, bool)> {
        self.slots.iter_mut().filter_map(|slot| match slot {
            Slot::Live(user, touch) => Some((&mut **user, touch.is_temporary)),
            Slot::Loading(..) => None,
        })
    }

    /// Whether one of these entities is being read.
    #[must_use]
    pub fn is_reading(&self, is_meant: impl Fn(&str) -> bool) -> bool {
        let mut slots = self.slots.iter();
        slots.any(|slot| matches!(slot, Slot::Loading(..)) && is_meant(slot.bare()))
    }

    /// Forgets entities that live elsewhere from now on; what waits for one that is being read
    /// goes with it to its end.
    pub fn forget(&mut self, is_lost: impl Fn(&str) -> bool) {
        self.slots
            .retain(|slot| matches!(slot, Slot::Loading(..)) || !is_lost(slot.bare()));
    }

    /// How many entities are in memory.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}

/// Adds a job that waits for its entity. `Err`: too many wait.
pub fn enqueue(waiting: &mut Waiting, job: Job) -> Result<(), Job> {
    if waiting.jobs.len() >= WAITING {
        return Err(job);
    }
    waiting.jobs.push_back(job);
    Ok(())
}
