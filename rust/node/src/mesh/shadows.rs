//! What is known of sessions whose sockets are on their home's own node, at another one: their
//! contacts hear of it when that node dies. So they do when it dies before it could tell its shadow:
//! a former home keeps what it handed over until the next one's shadow has it.

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
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Sessions of others that are kept; of more, contacts do not hear when their node dies.
const SESSIONS: usize = 2_000_000;

/// How long the next home may take to tell its shadow; one of an earlier version never says that it
/// has.
const HANDED: Duration = Duration::from_secs(60);

/// What this node keeps for others.
#[derive(Debug)]
pub(super) struct Shadows {
    told: Mutex<Shadow<Known>>,
    handed: Mutex<HashMap<u16, Handed>>,
    /// What of the homes that handed shards over to this one each keeps meanwhile.
    former: Mutex<HashMap<u16, Former>>,
}

/// What a shard's next home may be the only one to know.
#[derive(Debug)]
struct Handed {
    to: u32,
    until: Instant,
    sessions: Vec<Known>,
}

/// A home that handed a shard over, and sessions of this node that it keeps.
#[derive(Debug)]
pub(super) struct Former {
    peer: u32,
    sessions: Vec<(SessionId, Jid)>,
}

impl Default for Shadows {
    fn default() -> Self {
        Self {
            told: Mutex::new(Shadow::new(SESSIONS)),
            handed: Mutex::default(),
            former: Mutex::default(),
        }
    }
}

impl Shadows {
    pub fn keep(&self, known: Known) {
        let shard = shard_of(known.jid.bare_str());
        // What the home says itself is newer.
        self.unhand(shard, known.id);
        self.told.lock().keep(shard, known.id, known);
    }

    /// It is over, or another node has it.
    pub fn ended(&self, id: SessionId, jid: &Jid) {
        let shard = shard_of(jid.bare_str());
        self.told.lock().ended(shard, id);
        self.unhand(shard, id);
    }

    fn unhand(&self, shard: u16, id: SessionId) {
        let mut all = self.handed.lock();
        if let Some(handed) = all.get_mut(&shard) {
            handed.sessions.retain(|known| known.id != id);
            if handed.sessions.is_empty() {
                all.remove(&shard);
            }
        }
    }

    /// Keeps what a shard's next home is told, until its shadow has it.
    pub fn hand(&self, shard: u16, to: u32, sessions: impl IntoIterator<Item = Known>) {
        let mut all = self.handed.lock();
        let kept: usize = all.values().map(|handed| handed.sessions.len()).sum();
        let sessions = sessions.into_iter().take(SESSIONS.saturating_sub(kept));
        let sessions: Vec<Known> = sessions.collect();
        if sessions.is_empty() {
            return;
        }
        let until = Instant::now() + HANDED;
        match all.get_mut(&shard).filter(|handed| handed.to == to) {
            Some(handed) => {
                handed.until = until;
                handed.sessions.extend(sessions);
            }
            None => {
                all.insert(
                    shard,
                    Handed {
                        to,
                        until,
                        sessions,
                    },
                );
            }
        }
    }

    /// This node serves these shards: what it kept for itself is in their registries.
    pub fn served(&self, me: u32, shards: &[u16]) {
        let is_here = |shard: &u16| shards.contains(shard);
        let mut all = self.handed.lock();
        all.retain(|shard, handed| handed.to != me || !is_here(shard));
    }

    /// A former home keeps these sessions of this node meanwhile.
    pub fn came_from(&self, shard: u16, peer: u32, sessions: Vec<(SessionId, Jid)>) {
        self.former.lock().insert(shard, Former { peer, sessions });
    }

    /// Who keeps sessions of these shards, which are served now.
    pub fn former_of(&self, shards: &[u16]) -> Vec<(u16, Former)> {
        let mut former = self.former.lock();
        let known = shards.iter();
        known
            .filter_map(|shard| Some((*shard, former.remove(shard)?)))
            .collect()
    }

    /// What goes into a report of these shards.
    pub fn of(&self, shards: &HashSet<u16>) -> Vec<Known> {
        let shadow = self.told.lock();
        let all = shards.iter().flat_map(|shard| shadow.of(*shard));
        let mut all: Vec<Known> = all.map(|(_, known)| known).collect();
        drop(shadow);
        let now = Instant::now();
        let handed = self.handed.lock();
        let mut handed: Vec<Known> = shards
            .iter()
            .filter_map(|shard| handed.get(shard).filter(|handed| handed.until > now))
            .flat_map(|handed| handed.sessions.iter().cloned())
            .collect();
        all.append(&mut handed);
        all
    }

    /// Forgets what is of no use under this map.
    pub fn mapped(&self, map: &ShardMap, me: u32) {
        self.told.lock().viewed(map, Incarnation(me));
        let is_its = |shard: u16, to| map.owner(shard) == Some(Incarnation(to));
        self.handed.lock().retain(|shard, h| is_its(*shard, h.to));
        self.former.lock().retain(|shard, _| is_its(*shard, me));
    }

    /// Forgets what nobody waits for any more.
    pub fn forget_old(&self) {
        let now = Instant::now();
        self.handed.lock().retain(|_, handed| handed.until > now);
    }

    pub fn clear(&self) {
        *self.told.lock() = Shadow::new(SESSIONS);
        self.handed.lock().clear();
        self.former.lock().clear();
    }

    pub fn len(&self) -> usize {
        self.told.lock().count()
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
    /// What entities of a shard know of sessions whose nodes are not in the map: nobody else does.
    pub(super) fn known_of_the_dead(&self, mesh: &Mesh, map: &ShardMap, shard: u16) -> Vec<Known> {
        let is_dead = |id: SessionId| !map.knows(Incarnation(id.node));
        let is_its = |bare: &str| shard_of(bare) == shard;
        let lost = mesh
            .proxies
            .those(|f| is_dead(f.session.id) && is_its(f.session.jid.bare_str()));
        let mut all = Vec::new();
        if lost.is_empty() {
            return all;
        }
        for mut slice in self.shards.each() {
            for (user, _) in slice.users().filter(|(u, _)| is_its(u.jid().as_str())) {
                for (id, jid) in user.sessions() {
                    if let Some(keepsake) = user.keepsake(id).filter(|_| is_dead(id)) {
                        let last = 0;
                        all.push(Known {
                            id,
                            jid,
                            keepsake,
                            last,
                        });
                    }
                }
            }
        }
        all
    }

    /// Tells former homes that they need not keep what they handed over, once the shadows have it.
    pub(super) fn tell_former(self: &Arc<Self>, mesh: &Arc<Mesh>, shards: &[u16]) {
        let former = mesh.shadows.former_of(shards);
        if former.is_empty() {
            return;
        }
        let (node, mesh) = (Arc::clone(self), Arc::clone(mesh));
        self.runtime.spawn(async move {
            let shadows = former
                .iter()
                .filter_map(|(shard, _)| mesh.shadow_of(*shard))
                .collect();
            node.flush(&mesh, shadows).await;
            for (shard, Former { peer, sessions }) in former {
                // One that is the shadow itself has been told.
                if mesh.shadow_of(shard) == Some(peer) {
                    continue;
                }
                for (id, jid) in sessions {
                    let session = id.number;
                    mesh.tell(peer, &Unit::ShadowEnd { session, jid });
                }
            }
        });
    }

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
