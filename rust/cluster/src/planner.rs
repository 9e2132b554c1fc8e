//! Who shall own which shard: rendezvous hashing with a cap on the load, moved towards in steps.
//!
//! The goal depends on nothing but the names of the nodes that take shards, so every planner comes
//! to the same one, whatever happened before. Each shard prefers nodes by score, each node shards
//! by the same score, no node takes more than its cap: the one stable matching of the two. A node
//! that leaves gives away little more than what it had, and one that comes back gets the same.
//!
//! A map is a step: shards of the dead move at once, planned moves a bounded number at a time, and
//! no shard moves again before its last move has settled. Zones do not change the goal (a shard is
//! in one place only); they decide where its shadow stands.

use crate::id::{Epoch, Incarnation, NodeId, Shard};
use crate::map::{MapNode, NODES_MAX, ShardMap, Slot};
use crate::member::{Member, MemberState};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// How the planner plans.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// No node's share is above this part of the mean (105: 5 % above), rounded up.
    pub load_cap_percent: u32,
    /// Planned moves from one node that may be under way at a time.
    pub moves_in_flight: usize,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            load_cap_percent: 105,
            moves_in_flight: 256,
        }
    }
}

/// What the planner knows.
pub struct Situation<'a> {
    /// The map in force.
    pub previous: Option<&'a ShardMap>,
    /// Everybody who is not known to be gone, in any order.
    pub members: &'a [Member],
    /// How many shards there are.
    pub shards: Shard,
    /// Who plans.
    pub planner: Incarnation,
    /// Whether the owner of a shard has said that it serves it since this epoch.
    pub settled: &'a dyn Fn(Shard, Epoch) -> bool,
}

/// How much a node wants a shard. Part of the protocol between versions: never changed.
fn score(shard: Shard, node: &NodeId) -> u64 {
    xxh3_64_with_seed(node.as_str().as_bytes(), u64::from(shard))
}

/// Most shards that one of `nodes` nodes takes.
#[must_use]
pub fn cap(shards: Shard, nodes: usize, load_cap_percent: u32) -> usize {
    let all = usize::from(shards) * load_cap_percent.max(100) as usize;
    all.div_ceil(100 * nodes.max(1))
}

/// The node (an index into `nodes`, whose names are distinct) that shall own each shard; empty
/// without nodes.
#[must_use]
pub fn goal(shards: Shard, nodes: &[&NodeId], load_cap_percent: u32) -> Vec<usize> {
    if nodes.is_empty() {
        return Vec::new();
    }
    let cap = cap(shards, nodes.len(), load_cap_percent);
    // The best choice of a shard below another; a tie of scores is broken by name.
    let best = |shard: Shard, below: Option<(u64, &NodeId)>| {
        let choices = nodes
            .iter()
            .enumerate()
            .map(|(at, id)| (score(shard, id), *id, at));
        choices
            .filter(|(s, id, _)| below.is_none_or(|b| (*s, *id) < b))
            .max()
    };
    let mut taken: Vec<BinaryHeap<Reverse<(u64, Shard)>>> = vec![BinaryHeap::new(); nodes.len()];
    for first in 0..shards {
        let mut asking = Some((first, None));
        while let Some((shard, below)) = asking.take() {
            // Their caps add up to more than all shards, so no shard runs out of nodes.
            let Some((s, _, at)) = best(shard, below) else {
                break;
            };
            taken[at].push(Reverse((s, shard)));
            if taken[at].len() > cap {
                asking = taken[at]
                    .pop()
                    .map(|Reverse((s, rejected))| (rejected, Some((s, nodes[at]))));
            }
        }
    }
    let mut owners = vec![0; usize::from(shards)];
    for (at, heap) in taken.iter().enumerate() {
        for Reverse((_, shard)) in heap {
            owners[usize::from(*shard)] = at;
        }
    }
    owners
}

/// How many shards of the map in force are on their way, or not where they shall be.
#[must_use]
pub fn moving(situation: &Situation<'_>, policy: &Policy) -> usize {
    let (Some(map), Some(aim)) = (situation.previous, aim(situation, policy)) else {
        return 0;
    };
    let is_moving = |shard: &Shard| {
        let goal = aim.members[aim.goal[usize::from(*shard)]].incarnation;
        map.owner(*shard) != Some(goal) || map.slot(*shard).is_some_and(|s| s.from.is_some())
    };
    (0..situation.shards).filter(is_moving).count()
}

/// Who is there, and where everything shall be.
struct Aim<'a> {
    /// By age.
    members: Vec<&'a Member>,
    /// Those who take shards, indices into `members`.
    takers: Vec<usize>,
    /// By shard, an index into `members`.
    goal: Vec<usize>,
}

/// `None`: nobody takes shards.
fn aim<'a>(situation: &Situation<'a>, policy: &Policy) -> Option<Aim<'a>> {
    let mut members: Vec<&Member> = situation.members.iter().collect();
    members.sort_by_key(|m| m.incarnation);
    members.dedup_by_key(|m| m.incarnation);
    members.truncate(NODES_MAX);
    let takers = takers(&members);
    if takers.is_empty() {
        return None;
    }
    let names: Vec<&NodeId> = takers.iter().map(|at| &members[*at].id).collect();
    let goal = goal(situation.shards, &names, policy.load_cap_percent);
    let goal = goal.iter().map(|at| takers[*at]).collect();
    Some(Aim {
        members,
        takers,
        goal,
    })
}

/// The next map; `None`: the one in force is right, or nobody could own anything.
#[must_use]
pub fn plan(situation: &Situation<'_>, policy: &Policy) -> Option<ShardMap> {
    let Aim {
        members,
        takers,
        goal,
    } = aim(situation, policy)?;
    let step = Step {
        situation,
        members: &members,
        takers: &takers,
        goal,
        epoch: situation.previous.map_or(Epoch(1), |map| map.epoch.next()),
        limit: policy.moves_in_flight.max(1),
    };
    let slots = step.slots();
    let nodes = members.iter().map(|m| MapNode {
        id: m.id.clone(),
        incarnation: m.incarnation,
        zone: m.zone.clone(),
        is_draining: m.state == MemberState::Draining,
    });
    let nodes: Vec<MapNode> = nodes.collect();
    let is_same = |map: &ShardMap| map.nodes == nodes && map.slots == slots;
    if situation.previous.is_some_and(is_same) {
        return None;
    }
    ShardMap::new(step.epoch, situation.planner, nodes, slots).ok()
}

/// Members that take shards: those that are up; if there are none, those that are draining, since
/// somebody must. One of each name, the latest.
fn takers(members: &[&Member]) -> Vec<usize> {
    let of = |state: MemberState| {
        let its = members.iter().enumerate().filter(|(_, m)| m.state == state);
        let by_name: BTreeMap<&NodeId, usize> = its.map(|(at, m)| (&m.id, at)).collect();
        let mut takers: Vec<usize> = by_name.into_values().collect();
        takers.sort_unstable();
        takers
    };
    match of(MemberState::Up) {
        up if !up.is_empty() => up,
        _ => of(MemberState::Draining),
    }
}

/// One step towards the goal.
struct Step<'a> {
    situation: &'a Situation<'a>,
    members: &'a [&'a Member],
    takers: &'a [usize],
    /// By shard, an index into `members`.
    goal: Vec<usize>,
    epoch: Epoch,
    limit: usize,
}

impl Step<'_> {
    fn slots(&self) -> Vec<Slot> {
        let mut slots: Vec<Slot> = (0..self.situation.shards).map(|s| self.kept(s)).collect();
        let mut moving: BTreeMap<u16, usize> = BTreeMap::new();
        for from in slots.iter().filter_map(|slot| slot.from) {
            *moving.entry(from).or_default() += 1;
        }
        for (slot, goal) in slots.iter_mut().zip(&self.goal) {
            let goal = *goal as u16;
            if slot.from.is_some() || slot.owner == goal {
                continue;
            }
            let count = moving.entry(slot.owner).or_default();
            if *count < self.limit {
                *count += 1;
                *slot = Slot {
                    owner: goal,
                    from: Some(slot.owner),
                    shadow: None,
                    since: self.epoch,
                    is_clean: true,
                };
            }
        }
        for (shard, slot) in slots.iter_mut().enumerate() {
            slot.shadow = self.shadow(shard as Shard, slot.owner);
        }
        slots
    }

    /// What of the map in force holds for a shard, its owner's death taken into account. A shard
    /// that moves now moves in one go; planned moves come after it.
    fn kept(&self, shard: Shard) -> Slot {
        let goal = self.goal[usize::from(shard)] as u16;
        let fresh = Slot {
            owner: goal,
            from: None,
            shadow: None,
            since: self.epoch,
            is_clean: false,
        };
        let Some((map, slot)) = self
            .situation
            .previous
            .and_then(|map| Some((map, map.slot(shard)?)))
        else {
            return fresh;
        };
        let place = |at: u16| self.place(map.incarnation(at));
        let from = slot.from.and_then(place);
        match place(slot.owner) {
            // Its owner is gone: nobody knows what of its writes is still under way.
            None => Slot {
                from: from.filter(|from| *from != goal),
                ..fresh
            },
            Some(owner) => {
                let is_settled = (self.situation.settled)(shard, slot.since);
                Slot {
                    owner,
                    from: from.filter(|_| !is_settled),
                    shadow: None,
                    since: slot.since,
                    is_clean: slot.is_clean && (slot.from.is_none() || from.is_some()),
                }
            }
        }
    }

    fn place(&self, incarnation: Incarnation) -> Option<u16> {
        let at = self
            .members
            .binary_search_by_key(&incarnation, |m| m.incarnation);
        at.ok().map(|at| at as u16)
    }

    /// The best of another zone than the owner's, else the best other.
    fn shadow(&self, shard: Shard, owner: u16) -> Option<u16> {
        let home = self.members[usize::from(owner)];
        let others = self.takers.iter().filter(|at| **at != usize::from(owner));
        others
            .map(|at| {
                let one = self.members[*at];
                let is_elsewhere = one.zone != home.zone;
                (is_elsewhere, score(shard, &one.id), *at as u16)
            })
            .max()
            .map(|(_, _, at)| at)
    }
}

#[cfg(test)]
mod tests;
