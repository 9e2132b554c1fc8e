//! How the shards that are here came here: what must be known before one of their entities is read.

use super::Mesh;
use crate::node::Node;
use antiphon_routing::home::{SHARDS, shard_of};
use antiphon_routing::store::{Store, StoreError, UserRecord};
use antiphon_store::cassandra::Leave;
use antiphon_xmpp::Jid;
use parking_lot::{Mutex, RwLock};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// How one did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Taken {
    /// It came from elsewhere: clients may send again what its former home has stored.
    pub is_new: bool,
    /// The epoch of the last time at which a home of it died, 0: never. What that home had on its
    /// way to the store may land at any time, so each archive is taken up once after it, by
    /// whoever reads its owner first; until then the shard goes from home to home with this.
    pub dirty: u64,
    /// When a home of it died last, ms since 1970, 0: not lately. For a while what its users send may
    /// be what that home had passed on; this goes from home to home too, since a shard that was
    /// taken up goes on to whoever joins in place of the dead one, before its clients are back.
    pub died_ms: u64,
}

/// How long a message may be one that a home that died had passed on already. As long as one without
/// an origin-id is known by its `id` and content where nobody died.
const DOUBT_MS: u64 = 30 * 60 * 1000;

/// Owners that are remembered as taken up; all are forgotten when there are more.
const OWNERS: usize = 1_000_000;

/// All of them.
#[derive(Debug)]
pub(super) struct TakenUp {
    shards: RwLock<Vec<Taken>>,
    /// Whose entities were read since their shard came, by shard: the next time they are read as
    /// any other.
    read: Mutex<HashMap<u16, HashSet<u64>>>,
    count: AtomicUsize,
    /// When a node died that was home to something, ms since 1970.
    death_ms: AtomicU64,
}

impl Default for TakenUp {
    fn default() -> Self {
        Self {
            shards: RwLock::new(vec![Taken::default(); usize::from(SHARDS)]),
            read: Mutex::default(),
            count: AtomicUsize::new(0),
            death_ms: AtomicU64::new(0),
        }
    }
}

impl TakenUp {
    pub fn of(&self, shard: u16) -> Taken {
        let all = self.shards.read();
        all.get(usize::from(shard)).copied().unwrap_or_default()
    }

    pub fn set(&self, shard: u16, taken: Taken) {
        if let Some(slot) = self.shards.write().get_mut(usize::from(shard)) {
            *slot = taken;
        }
        let gone = self.read.lock().remove(&shard);
        let gone = gone.map_or(0, |owners| owners.len());
        self.count.fetch_sub(gone, Ordering::Relaxed);
    }

    /// A node died, or may have.
    pub fn note_death(&self, now_ms: u64) {
        self.death_ms.store(now_ms, Ordering::Relaxed);
    }

    /// Whether messages may come that somebody's dead home has passed on before.
    fn is_after_death(&self, now_ms: u64) -> bool {
        now_ms < self.death_ms.load(Ordering::Relaxed) + DOUBT_MS
    }

    fn was_read(&self, shard: u16, owner: u64) -> bool {
        let read = self.read.lock();
        read.get(&shard).is_some_and(|o| o.contains(&owner))
    }

    fn note_read(&self, shard: u16, owner: u64) {
        let mut read = self.read.lock();
        if self.count.load(Ordering::Relaxed) >= OWNERS {
            read.clear();
            self.count.store(0, Ordering::Relaxed);
        }
        if read.entry(shard).or_default().insert(owner) {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Mesh {
    /// Whether rows of an entity may be sent to the store now: only of a shard that is here, under a
    /// lease that is certain, and made in this time of having it.
    pub(crate) fn may_write(&self, owner: &str) -> Leave {
        let shard = shard_of(owner);
        // Recursive: who writes may be reading them.
        let holdings = self.holdings.read_recursive();
        let is_away = holdings.is_away(shard);
        let since = holdings.since(shard).map_or(0, |since| since.0);
        drop(holdings);
        match &self.place {
            _ if is_away => Leave::No,
            Some(place) if !place.may_accept() => Leave::Wait(since),
            Some(place) if place.is_past_lease() => Leave::Doubted(since),
            _ => Leave::Yes(since),
        }
    }
}

impl Node {
    /// Whether what users of this address send may have been passed on by a home that died.
    pub(crate) fn is_doubtful(&self, bare: &str) -> bool {
        let Some(mesh) = self.mesh.as_deref() else {
            return false;
        };
        let died_ms = mesh.taken.of(shard_of(bare)).died_ms;
        died_ms > 0 && self.now() < died_ms + DOUBT_MS
    }

    /// Whether a shard is another's by now; without one: it is not.
    pub(crate) fn has_lost(&self, shard: Option<u16>) -> bool {
        let mesh = self.mesh.as_deref().zip(shard);
        mesh.is_some_and(|(mesh, shard)| mesh.holdings.read_recursive().is_away(shard))
    }

    /// Reads an entity's record, as the way in which its shard came here asks for.
    pub(crate) async fn read_user(&self, bare: &Jid) -> Result<Option<UserRecord>, StoreError> {
        let Some(mesh) = self.mesh.as_deref() else {
            return self.store.user(bare).await;
        };
        let shard = shard_of(bare.as_str());
        let taken = mesh.taken.of(shard);
        let owner = crate::shard::hash(bare.as_str());
        if taken == Taken::default() || mesh.taken.was_read(shard, owner) {
            // It may have been forgotten since, with what it knew of the messages that came.
            return match mesh.taken.is_after_death(self.now()) {
                true => self.store.user_of_dead(bare).await,
                false => self.store.user(bare).await,
            };
        }
        let record = if taken.dirty > 0 {
            let from = self.live.load().policy.clock.next(self.now());
            self.store.take_up(bare, taken.dirty, from).await
        } else {
            self.store.user_of_dead(bare).await
        };
        if record.is_ok() && mesh.taken.of(shard) == taken {
            mesh.taken.note_read(shard, owner);
        }
        record
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn for_a_while_after_a_death_messages_may_come_again() {
        let all = TakenUp::default();
        assert!(!all.is_after_death(DOUBT_MS));
        all.note_death(1_000_000_000);
        assert!(all.is_after_death(1_000_000_000 + DOUBT_MS - 1));
        assert!(!all.is_after_death(1_000_000_000 + DOUBT_MS));
    }

    #[test]
    fn an_owner_is_taken_up_once_each_time_his_shard_comes() {
        let all = TakenUp::default();
        assert_eq!(all.of(7), Taken::default());
        let taken = Taken {
            is_new: true,
            dirty: 3,
            died_ms: 0,
        };
        all.set(7, taken);
        assert!(!all.was_read(7, 1));
        all.note_read(7, 1);
        assert!(all.was_read(7, 1) && !all.was_read(7, 2) && !all.was_read(8, 1));
        all.set(7, taken);
        assert!(!all.was_read(7, 1));
        for owner in 0..OWNERS as u64 + 1 {
            all.note_read(9, owner);
        }
        assert!(!all.was_read(9, 0) && all.was_read(9, OWNERS as u64));
    }
}
