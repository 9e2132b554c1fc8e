//! How the shards that are here came here: what must be known before one of their entities is read.

use super::Mesh;
use crate::node::Node;
use antiphon_routing::home::{SHARDS, shard_of};
use antiphon_routing::store::{Store, StoreError, UserRecord};
use antiphon_store::cassandra::Leave;
use antiphon_xmpp::Jid;
use parking_lot::RwLock;

/// How one did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Taken {
    /// It came from elsewhere: clients may send again what its former home has stored.
    pub is_new: bool,
    /// The epoch of the last time at which a home of it died, 0: never. What that home had on its
    /// way to the store may land at any time, so each archive is taken up once after it, by
    /// whoever reads its owner first; until then the shard goes from home to home with this.
    pub dirty: u64,
}

/// All of them.
#[derive(Debug)]
pub(super) struct TakenUp(RwLock<Vec<Taken>>);

impl Default for TakenUp {
    fn default() -> Self {
        Self(RwLock::new(vec![Taken::default(); usize::from(SHARDS)]))
    }
}

impl TakenUp {
    pub fn of(&self, shard: u16) -> Taken {
        let all = self.0.read();
        all.get(usize::from(shard)).copied().unwrap_or_default()
    }

    pub fn set(&self, shard: u16, taken: Taken) {
        if let Some(slot) = self.0.write().get_mut(usize::from(shard)) {
            *slot = taken;
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
            _ => Leave::Yes(since),
        }
    }
}

impl Node {
    /// Whether a shard is another's by now; without one: it is not.
    pub(crate) fn has_lost(&self, shard: Option<u16>) -> bool {
        let mesh = self.mesh.as_deref().zip(shard);
        mesh.is_some_and(|(mesh, shard)| mesh.holdings.read_recursive().is_away(shard))
    }

    /// Reads an entity's record, as the way in which its shard came here asks for.
    pub(crate) async fn read_user(&self, bare: &Jid) -> Result<Option<UserRecord>, StoreError> {
        let shard = shard_of(bare.as_str());
        let taken = match self.mesh.as_deref() {
            Some(mesh) => mesh.taken.of(shard),
            None => Taken::default(),
        };
        if taken.dirty > 0 {
            let from = self.live.load().policy.clock.next(self.now());
            return self.store.take_up(bare, taken.dirty, from).await;
        }
        match taken.is_new {
            true => self.store.user_of_dead(bare).await,
            false => self.store.user(bare).await,
        }
    }
}
