//! The published map: which node is home to which shard. Written by the planner alone; a node acts
//! on it and never computes its own.

use crate::id::{Epoch, Incarnation, NodeId, Shard, Zone};

/// Most nodes of a cluster.
pub const NODES_MAX: usize = 1000;

/// A node as the map knows it: the view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapNode {
    /// Its name.
    pub id: NodeId,
    /// Its life.
    pub incarnation: Incarnation,
    /// Where it stands.
    pub zone: Option<Zone>,
    /// It gives its shards away.
    pub is_draining: bool,
}

impl MapNode {
    /// Its name.
    #[must_use]
    pub fn id(&self) -> &NodeId {
        &self.id
    }

    /// Its life.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Whether it gives its shards away.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.is_draining
    }
}

/// One shard. Nodes are indices into [`ShardMap::nodes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// Its home.
    pub owner: u16,
    /// Who held it before, lives, and must release it first; cleared when that is done.
    pub from: Option<u16>,
    /// Who is told what only the home's own process knows: the next in rendezvous order, of
    /// another zone where there is one.
    pub shadow: Option<u16>,
    /// The epoch at which it came to this owner: what was sent to it under an older one is stale.
    pub since: Epoch,
    /// Every former owner released it or will. Otherwise writes of one may still land, and the new
    /// owner must kill them.
    pub is_clean: bool,
}

/// A published map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardMap {
    pub(crate) epoch: Epoch,
    pub(crate) planner: Incarnation,
    pub(crate) nodes: Vec<MapNode>,
    pub(crate) slots: Vec<Slot>,
}

/// A map that contradicts itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadMap {
    /// Too short, too long, or not ours.
    #[error("this is no map: {0}")]
    Garbage(&'static str),
    /// Written by a later program in a way that this one cannot read.
    #[error("the map has format {0}, which is too new for this node")]
    Format(u8),
    /// A part contradicts another.
    #[error("the map contradicts itself: {0}")]
    Contradiction(&'static str),
    /// Made for another number of shards.
    #[error("the map has {0} shards")]
    Shards(u64),
}

impl ShardMap {
    /// Puts a map together.
    ///
    /// # Errors
    /// [`BadMap::Contradiction`].
    pub fn new(
        epoch: Epoch,
        planner: Incarnation,
        nodes: Vec<MapNode>,
        slots: Vec<Slot>,
    ) -> Result<Self, BadMap> {
        let wrong = |why| Err(BadMap::Contradiction(why));
        if epoch == Epoch(0) {
            return wrong("epoch 0");
        }
        if nodes.is_empty() || nodes.len() > NODES_MAX {
            return wrong("number of nodes");
        }
        if nodes[0].incarnation == Incarnation(0)
            || !nodes.is_sorted_by(|a, b| a.incarnation < b.incarnation)
        {
            return wrong("order of nodes");
        }
        let is_node = |at: u16| usize::from(at) < nodes.len();
        for slot in &slots {
            if !is_node(slot.owner)
                || !slot.from.is_none_or(is_node)
                || !slot.shadow.is_none_or(is_node)
            {
                return wrong("a shard of no node");
            }
            if slot.from == Some(slot.owner) || slot.shadow == Some(slot.owner) {
                return wrong("a node twice for a shard");
            }
            if slot.since > epoch || slot.since == Epoch(0) {
                return wrong("a shard of the future");
            }
        }
        Ok(Self {
            epoch,
            planner,
            nodes,
            slots,
        })
    }

    /// Its epoch.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Who published it.
    #[must_use]
    pub fn planner(&self) -> Incarnation {
        self.planner
    }

    /// The view: every node that may hold sessions, by incarnation.
    #[must_use]
    pub fn nodes(&self) -> &[MapNode] {
        &self.nodes
    }

    /// Its shards, in order.
    #[must_use]
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// How many shards.
    #[must_use]
    pub fn shards(&self) -> Shard {
        // Made from a `u16` wherever a map is made.
        self.slots.len() as Shard
    }

    /// What it says of a shard; of one that it does not have, nothing.
    #[must_use]
    pub fn slot(&self, shard: Shard) -> Option<&Slot> {
        self.slots.get(usize::from(shard))
    }

    /// The home of a shard.
    #[must_use]
    pub fn owner(&self, shard: Shard) -> Option<Incarnation> {
        self.slot(shard).map(|slot| self.incarnation(slot.owner))
    }

    /// The life of the node at this index, which is one of this map.
    #[must_use]
    pub fn incarnation(&self, at: u16) -> Incarnation {
        self.nodes[usize::from(at)].incarnation
    }

    /// Whether this life belongs to the view.
    #[must_use]
    pub fn knows(&self, incarnation: Incarnation) -> bool {
        self.node(incarnation).is_some()
    }

    /// The node of this life.
    #[must_use]
    pub fn node(&self, incarnation: Incarnation) -> Option<&MapNode> {
        let at = self
            .nodes
            .binary_search_by_key(&incarnation, |n| n.incarnation);
        at.ok().map(|at| &self.nodes[at])
    }

    /// How many shards a node is home to.
    #[must_use]
    pub fn count(&self, incarnation: Incarnation) -> usize {
        let is_its = |slot: &&Slot| self.incarnation(slot.owner) == incarnation;
        self.slots.iter().filter(is_its).count()
    }

    /// Whether a shard waits for a release.
    #[must_use]
    pub fn is_moving(&self) -> bool {
        self.slots.iter().any(|slot| slot.from.is_some())
    }
}
