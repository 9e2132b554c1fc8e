//! What is known of sessions whose sockets are on their home's own node, at another one: their
//! contacts hear of it when that node dies. So they do when it dies before it could tell its shadow:
//! a former home keeps what it handed over until the next one serves the shard.

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
use std::time::{Duration, Instant};

/// Sessions of others that are kept; of more, contacts do not hear when their node dies.
const SESSIONS: usize = 2_000_000;

/// How long the next home may take to serve a shard; one of an earlier version never says that it
/// does.
const HANDED: Duration = Duration::from_secs(60);
/// How long what the next home tells its shadow when it serves a shard may be under way.
const GRACE: Duration = Duration::from_secs(1);

/// What this node keeps for others.
#[derive(Debug)]
pub(super) struct Shadows {
    told: Mutex<Shadow<Known>>,
    handed: Mutex<HashMap<u16, Handed>>,
    /// Homes that handed shards over to this one, and are to hear when it serves them.
    former: Mutex<HashMap<u16, u32>>,
}

/// What a shard's next home may be the only one to know.
#[derive(Debug)]
struct Handed {
    to: u32,
    until: Instant,
    sessions: Vec<Known>,
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
        self.told.lock().keep(shard, known.id, known);
    }

    pub fn ended(&self, id: SessionId, jid: &Jid) {
        let shard = shard_of(jid.bare_str());
        self.told.lock().ended(shard, id);
        if let Some(handed) = self.handed.lock().get_mut(&shard) {
            handed.sessions.retain(|known| known.id != id);
        }
    }

    /// Keeps what a shard's next home is told, until that serves it.
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

    /// A home says that it serves these shards.
    pub fn served(&self, by: u32, shards: &[u16]) {
        let mut all = self.handed.lock();
        for shard in shards {
            if let Some(handed) = all.get_mut(shard).filter(|handed| handed.to == by) {
                handed.until = handed.until.min(Instant::now() + GRACE);
            }
        }
    }

    /// A former home waits to hear that this node serves a shard.
    pub fn came_from(&self, shard: u16, peer: u32) {
        self.former.lock().insert(shard, peer);
    }

    /// Whom to tell of these shards, which are served now.
    pub fn former_of(&self, shards: &[u16]) -> HashMap<u32, Vec<u16>> {
        let mut by_peer: HashMap<u32, Vec<u16>> = HashMap::new();
        let mut former = self.former.lock();
        for shard in shards {
            if let Some(peer) = former.remove(shard) {
                by_peer.entry(peer).or_default().push(*shard);
            }
        }
        by_peer
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
