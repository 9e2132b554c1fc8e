//! Which shards are served here, as every stanza asks it.

use antiphon_cluster::map::ShardMap;
use antiphon_routing::home::{Home, Locator, SHARDS};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

#[derive(Debug, Default)]
struct Slot {
    owner: AtomicU32,
    is_served: AtomicBool,
    /// What goes on with its entities: the shard goes when this is none.
    busy: AtomicU32,
}

/// All shards.
#[derive(Debug)]
pub struct Homes {
    me: AtomicU32,
    slots: Box<[Slot]>,
}

impl Homes {
    /// Of a process with this life (0: none yet), which owns nothing yet.
    #[must_use]
    pub fn new(me: u32) -> Self {
        Self {
            me: AtomicU32::new(me),
            slots: (0..SHARDS).map(|_| Slot::default()).collect(),
        }
    }

    pub(super) fn me(&self) -> u32 {
        self.me.load(Ordering::Acquire)
    }

    /// A new life begins, without a shard.
    pub(super) fn begin(&self, me: u32) {
        for slot in &self.slots {
            slot.owner.store(0, Ordering::Release);
            slot.is_served.store(false, Ordering::SeqCst);
        }
        self.me.store(me, Ordering::Release);
    }

    pub(super) fn is_served(&self, shard: u16) -> bool {
        let slot = self.slots.get(usize::from(shard));
        slot.is_some_and(|slot| slot.is_served.load(Ordering::Acquire))
    }

    pub(super) fn served(&self) -> usize {
        let is_served = |slot: &&Slot| slot.is_served.load(Ordering::Acquire);
        self.slots.iter().filter(is_served).count()
    }

    pub(super) fn serve(&self, shard: u16, is_served: bool) {
        if let Some(slot) = self.slots.get(usize::from(shard)) {
            slot.is_served.store(is_served, Ordering::SeqCst);
        }
    }

    pub(super) fn mapped(&self, map: &ShardMap) {
        for (shard, slot) in (0..SHARDS).zip(&self.slots) {
            let owner = map.owner(shard).map_or(0, |owner| owner.0);
            slot.owner.store(owner, Ordering::Release);
        }
    }

    /// Whether nothing goes on with a shard's entities.
    pub(super) fn is_quiet(&self, shard: u16) -> bool {
        let slot = self.slots.get(usize::from(shard));
        slot.is_none_or(|slot| slot.busy.load(Ordering::SeqCst) == 0)
    }

    pub(super) fn enter(this: &Arc<Self>, shard: u16) -> Option<Guard> {
        let guard = Self::hold(this, shard)?;
        // Behind the count: whoever ends the service looks at the count after this.
        let slot = this.slots.get(usize::from(shard))?;
        slot.is_served.load(Ordering::SeqCst).then_some(guard)
    }

    /// Something goes on with a shard, served or not.
    pub(super) fn hold(this: &Arc<Self>, shard: u16) -> Option<Guard> {
        let slot = this.slots.get(usize::from(shard))?;
        slot.busy.fetch_add(1, Ordering::SeqCst);
        Some(Guard {
            homes: Arc::clone(this),
            shard,
        })
    }
}

/// While it lives, its shard is not given away.
#[derive(Debug)]
pub(crate) struct Guard {
    homes: Arc<Homes>,
    shard: u16,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(slot) = self.homes.slots.get(usize::from(self.shard)) {
            slot.busy.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

impl Locator for Homes {
    fn home(&self, shard: u16) -> Home {
        let owner = self.slots.get(usize::from(shard));
        match owner.map_or(0, |slot| slot.owner.load(Ordering::Acquire)) {
            0 => Home::Unknown,
            owner if owner == self.me() => Home::Here,
            owner => Home::Node(owner),
        }
    }

    fn incarnation(&self) -> u32 {
        self.me()
    }
}
