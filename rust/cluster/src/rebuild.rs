//! The session registry of a shard that comes, put together from what the nodes report.
//!
//! The truth about a session is the node of its socket. When a shard moves, each node reports its
//! sessions of it to the new home, on the bulk class; binds and ends go there as stanzas do, on the
//! other class, and may overtake the report. So an end is remembered until its node's report has
//! come. What existed on the former home's own node alone is known to the shard's shadow; what of
//! it nobody reports was lost with that node, and contacts are told.

use crate::id::{Incarnation, Shard};
use crate::map::ShardMap;
use antiphon_routing::SessionId;
use std::collections::{BTreeMap, BTreeSet};

/// The registry of one shard while it is rebuilt. `E`: what the home keeps of a session.
#[derive(Debug, Clone)]
pub struct Rebuild<E> {
    waiting: BTreeSet<Incarnation>,
    sessions: BTreeMap<SessionId, E>,
    ended: BTreeSet<SessionId>,
    shadowed: BTreeMap<SessionId, E>,
}

/// The outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rebuilt<E> {
    /// Every session there is.
    pub sessions: Vec<(SessionId, E)>,
    /// Sessions that ended with their node, or without its word: their contacts get unavailable
    /// presence.
    pub lost: Vec<(SessionId, E)>,
}

impl<E> Rebuild<E> {
    /// Waits for every node of the view.
    #[must_use]
    pub fn new(map: &ShardMap) -> Self {
        Self {
            waiting: map.nodes.iter().map(|n| n.incarnation).collect(),
            sessions: BTreeMap::new(),
            ended: BTreeSet::new(),
            shadowed: BTreeMap::new(),
        }
    }

    /// A node's report: all its sessions of the shard. A second one of a node changes nothing.
    pub fn reported(
        &mut self,
        by: Incarnation,
        sessions: impl IntoIterator<Item = (SessionId, E)>,
    ) {
        if !self.waiting.remove(&by) {
            return;
        }
        for (session, entry) in sessions {
            // Only of its own; one that was bound meanwhile is newer than the report.
            if session.node == by.0 && !self.ended.contains(&session) {
                self.sessions.entry(session).or_insert(entry);
            }
        }
        self.ended.retain(|session| session.node != by.0);
    }

    /// What the shadow knows.
    pub fn shadowed(&mut self, sessions: impl IntoIterator<Item = (SessionId, E)>) {
        self.shadowed.extend(sessions);
    }

    /// A session was bound, or what is known of it changed.
    pub fn bound(&mut self, session: SessionId, entry: E) {
        self.ended.remove(&session);
        self.sessions.insert(session, entry);
    }

    /// A session ended.
    pub fn ended(&mut self, session: SessionId) {
        self.sessions.remove(&session);
        self.shadowed.remove(&session);
        if self.waiting.contains(&Incarnation(session.node)) {
            self.ended.insert(session);
        }
    }

    /// The view changed: nobody waits for who is gone, and his sessions are lost.
    pub fn viewed(&mut self, map: &ShardMap) {
        self.waiting.retain(|node| map.knows(*node));
        let is_gone = |s: &SessionId| !map.knows(Incarnation(s.node));
        let gone: Vec<SessionId> = self.sessions.keys().copied().filter(is_gone).collect();
        for session in gone {
            if let Some(entry) = self.sessions.remove(&session) {
                self.shadowed.insert(session, entry);
            }
        }
    }

    /// Who has not reported.
    #[must_use]
    pub fn waiting(&self) -> &BTreeSet<Incarnation> {
        &self.waiting
    }

    /// Whether everybody has.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The registry. Call it when the shard is served.
    #[must_use]
    pub fn finish(mut self) -> Rebuilt<E> {
        for session in self.sessions.keys() {
            self.shadowed.remove(session);
        }
        Rebuilt {
            sessions: self.sessions.into_iter().collect(),
            lost: self.shadowed.into_iter().collect(),
        }
    }
}

/// What this node keeps as the shadow of shards: the existence of sessions whose socket is on their
/// home's own node, which would be forgotten with it.
#[derive(Debug)]
pub struct Shadow<E> {
    /// One tree for all: most shards have a session or two here.
    sessions: BTreeMap<(Shard, SessionId), E>,
    most: usize,
}

impl<E: Clone> Shadow<E> {
    /// Keeps at most so many sessions.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self {
            sessions: BTreeMap::new(),
            most,
        }
    }

    /// The home says that a session of its own node exists. `false`: too many, not kept.
    pub fn keep(&mut self, shard: Shard, session: SessionId, entry: E) -> bool {
        let is_full = self.sessions.len() >= self.most;
        if is_full && !self.sessions.contains_key(&(shard, session)) {
            return false;
        }
        self.sessions.insert((shard, session), entry);
        true
    }

    /// The home says that it ended.
    pub fn ended(&mut self, shard: Shard, session: SessionId) {
        self.sessions.remove(&(shard, session));
    }

    /// What goes into this node's report to the new home.
    #[must_use]
    pub fn of(&self, shard: Shard) -> Vec<(SessionId, E)> {
        let sessions = self.sessions.range((shard, FIRST)..);
        let its = sessions.take_while(|((at, _), _)| *at == shard);
        its.map(|((_, s), e)| (*s, e.clone())).collect()
    }

    /// Forgets what is of no use under this map: a shard of which this node is no shadow any more.
    /// Call it when the reports of a map are out.
    pub fn viewed(&mut self, map: &ShardMap, me: Incarnation) {
        self.sessions.retain(|(shard, _), _| {
            let shadow = map.slot(*shard).and_then(|slot| slot.shadow);
            shadow.is_some_and(|at| map.incarnation(at) == me)
        });
    }

    /// How many sessions are kept.
    #[must_use]
    pub fn count(&self) -> usize {
        self.sessions.len()
    }
}

/// Before every session.
const FIRST: SessionId = SessionId { node: 0, number: 0 };

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Epoch, NodeId};
    use crate::map::{MapNode, Slot};

    fn map(nodes: &[u32]) -> ShardMap {
        let slot = Slot {
            owner: 0,
            from: None,
            shadow: None,
            since: Epoch(1),
            is_clean: false,
        };
        let nodes = nodes.iter().map(|n| MapNode {
            id: NodeId::new(&format!("n{n}")).unwrap(),
            incarnation: Incarnation(*n),
            zone: None,
            is_draining: false,
        });
        ShardMap::new(Epoch(1), Incarnation(1), nodes.collect(), vec![slot]).unwrap()
    }

    fn id(node: u32, number: u64) -> SessionId {
        SessionId { node, number }
    }

    #[test]
    fn the_registry_is_what_all_have_reported() {
        let mut rebuild = Rebuild::new(&map(&[1, 2, 3]));
        rebuild.reported(Incarnation(1), [(id(1, 1), "a")]);
        rebuild.reported(Incarnation(2), [(id(2, 1), "b"), (id(9, 9), "forged")]);
        assert!(!rebuild.is_complete());
        rebuild.viewed(&map(&[1, 2]));
        assert!(rebuild.is_complete());
        let sessions = vec![(id(1, 1), "a"), (id(2, 1), "b")];
        assert_eq!(
            rebuild.finish(),
            Rebuilt {
                sessions,
                lost: vec![]
            }
        );
    }

    #[test]
    fn an_end_that_overtakes_the_report_counts() {
        let mut rebuild = Rebuild::new(&map(&[1, 2]));
        rebuild.ended(id(2, 1));
        rebuild.bound(id(2, 2), "new");
        rebuild.reported(Incarnation(2), [(id(2, 1), "old"), (id(2, 2), "old")]);
        rebuild.reported(Incarnation(2), [(id(2, 1), "again")]);
        rebuild.reported(Incarnation(1), []);
        assert_eq!(rebuild.finish().sessions, vec![(id(2, 2), "new")]);
    }

    #[test]
    fn what_only_the_dead_knew_the_shadow_tells() {
        let mut shadow = Shadow::new(2);
        assert!(shadow.keep(0, id(1, 1), "a") && shadow.keep(0, id(1, 2), "b"));
        assert!(!shadow.keep(0, id(1, 3), "c"));
        shadow.ended(0, id(1, 2));
        assert_eq!(shadow.count(), 1);
        let mut rebuild = Rebuild::new(&map(&[2, 3]));
        rebuild.shadowed(shadow.of(0));
        rebuild.reported(Incarnation(3), [(id(3, 1), "c")]);
        // The one who has reported dies before the other does.
        rebuild.viewed(&map(&[2]));
        rebuild.reported(Incarnation(2), []);
        let lost = vec![(id(1, 1), "a"), (id(3, 1), "c")];
        assert_eq!(
            rebuild.finish(),
            Rebuilt {
                sessions: vec![],
                lost
            }
        );
        shadow.viewed(&map(&[2]), Incarnation(2));
        assert_eq!(shadow.count(), 0);
    }
}
