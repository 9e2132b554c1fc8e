//! What is known of sessions whose sockets are on their home's own node, at another one: their
//! contacts hear of it when that node dies.

use super::Mesh;
use super::unit::{Known, Unit};
use crate::node::Node;
use antiphon_cluster::id::Incarnation;
use antiphon_cluster::map::ShardMap;
use antiphon_cluster::rebuild::Shadow;
use antiphon_routing::SessionId;
use antiphon_routing::home::shard_of;
use antiphon_routing::user::User;
use antiphon_xmpp::Jid;
use parking_lot::Mutex;
use std::collections::HashSet;

/// Sessions of others that are kept; of more, contacts do not hear when their node dies.
const SESSIONS: usize = 2_000_000;

/// What this node keeps for others.
#[derive(Debug)]
pub(super) struct Shadows(Mutex<Shadow<Known>>);

impl Default for Shadows {
    fn default() -> Self {
        Self(Mutex::new(Shadow::new(SESSIONS)))
    }
}

impl Shadows {
    pub fn keep(&self, known: Known) {
        let shard = shard_of(known.jid.bare_str());
        self.0.lock().keep(shard, known.id, known);
    }

    pub fn ended(&self, id: SessionId, jid: &Jid) {
        self.0.lock().ended(shard_of(jid.bare_str()), id);
    }

    /// What goes into a report of these shards.
    pub fn of(&self, shards: &HashSet<u16>) -> Vec<Known> {
        let shadow = self.0.lock();
        let all = shards.iter().flat_map(|shard| shadow.of(*shard));
        all.map(|(_, known)| known).collect()
    }

    /// Forgets what is of no use under this map.
    pub fn mapped(&self, map: &ShardMap, me: u32) {
        self.0.lock().viewed(map, Incarnation(me));
    }

    pub fn clear(&self) {
        *self.0.lock() = Shadow::new(SESSIONS);
    }

    pub fn len(&self) -> usize {
        self.0.lock().count()
    }
}

impl Mesh {
    /// The node that is told of a shard's sessions.
    fn shadow_of(&self, shard: u16) -> Option<u32> {
        let map = self.map.load();
        let map = map.as_ref()?;
        let at = map.slot(shard)?.shadow?;
        let node = map.incarnation(at).0;
        (node != self.me()).then_some(node)
    }

    /// A session of this node is known to its entity here.
    pub(super) fn tell_shadow(&self, id: SessionId, jid: &Jid, keepsake: &[u8]) {
        if let Some(shadow) = self.shadow_of(shard_of(jid.bare_str())) {
            let session = id.number;
            let jid = jid.clone();
            self.tell(
                shadow,
                &Unit::Shadow {
                    session,
                    jid,
                    keepsake,
                },
            );
        }
    }

    /// It is over.
    pub(crate) fn tell_shadow_end(&self, id: SessionId, jid: &Jid) {
        if id.node == self.me()
            && let Some(shadow) = self.shadow_of(shard_of(jid.bare_str()))
        {
            let session = id.number;
            let jid = jid.clone();
            self.tell(shadow, &Unit::ShadowEnd { session, jid });
        }
    }

    fn tell_shadow_all(&self, user: &User) {
        for (id, jid) in user.sessions() {
            if id.node == self.me()
                && user.was_told(id)
                && let Some(keepsake) = user.keepsake(id)
            {
                self.tell_shadow(id, &jid, &keepsake);
            }
        }
    }
}

impl Node {
    /// Tells the shadows of these shards all that they are to know: the shards have just come here,
    /// or the shadows are new.
    pub(super) fn tell_shadows(&self, mesh: &Mesh, shards: &HashSet<u16>) {
        if shards.is_empty() {
            return;
        }
        for mut slice in self.shards.each() {
            for (user, _) in slice.users() {
                if !user.is_idle() && shards.contains(&shard_of(user.jid().as_str())) {
                    mesh.tell_shadow_all(user);
                }
            }
        }
    }
}

/// Shards of this node whose shadow is another one by the second map.
pub(super) fn changed(before: Option<&ShardMap>, map: &ShardMap, me: u32) -> HashSet<u16> {
    let shadow = |map: &ShardMap, shard| {
        let at = map.slot(shard)?.shadow?;
        Some(map.incarnation(at))
    };
    let is_changed = |shard: &u16| {
        map.owner(*shard) == Some(Incarnation(me))
            && before.and_then(|before| shadow(before, *shard)) != shadow(map, *shard)
    };
    (0..map.shards()).filter(is_changed).collect()
}
