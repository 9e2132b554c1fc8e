//! The planner's work: who is gone, and the next map.
//!
//! A member whose key is absent is gone when it has said so, when most of the view have not heard
//! it since (so it knows that it must ask etcd), or after a whole lease time (so its lease has
//! passed by its own clock). For one lease time after etcd was away for the planner itself, nobody
//! is gone: all keys may have vanished at once, and their nodes live.

use super::{Agent, Kind};
use crate::agent::Output;
use crate::fence::majority;
use crate::id::{Epoch, Incarnation, Mono, NodeId, Shard};
use crate::map::{MapNode, ShardMap};
use crate::member::{Member, MemberState, PROTOCOL};
use crate::planner::{Situation, moving, plan};
use crate::planted::Bug;
use crate::talk::{Alert, Call, LeaseId, Note, Revision, Signs};
use std::collections::{BTreeMap, BTreeSet};

/// Doubt about one node.
#[derive(Debug, Default)]
struct Doubt {
    began: Mono,
    ask: u64,
    asked: Mono,
    /// Its key is absent since.
    absent: Option<Mono>,
    silent: BTreeSet<Incarnation>,
    refused: BTreeSet<Incarnation>,
    is_heard: bool,
    is_revoked: bool,
}

/// What a plan depends on.
#[derive(Debug, PartialEq, Eq)]
struct Known {
    epoch: Epoch,
    members: Vec<Member>,
    words: u64,
}

/// What the planner remembers; of no use in any other node.
#[derive(Debug, Default)]
pub(super) struct Planning {
    doubts: BTreeMap<Incarnation, Doubt>,
    stopped: BTreeSet<Incarnation>,
    settled: BTreeMap<Shard, Epoch>,
    /// Goes on with each new word in `settled`.
    words: u64,
    /// Out of this nothing came to be done.
    idle: Option<Known>,
    /// Of the map in etcd.
    pub(super) etcd_epoch: Epoch,
    not_before: Mono,
}

impl Planning {
    pub(super) fn stopped(&mut self, node: Incarnation) {
        self.stopped.insert(node);
    }

    pub(super) fn settled(&mut self, settled: &[(Shard, Epoch)]) {
        for (shard, since) in settled {
            if self.settled.insert(*shard, *since) != Some(*since) {
                self.words += 1;
            }
        }
    }

    pub(super) fn heard(&mut self, from: Incarnation, word: (u64, Incarnation, Signs)) {
        let (ask, target, signs) = word;
        let Some(doubt) = self.doubts.get_mut(&target).filter(|d| d.ask == ask) else {
            return;
        };
        match signs {
            Signs::Hears => doubt.is_heard = true,
            Signs::Silent => {
                doubt.silent.insert(from);
            }
            Signs::Refused => {
                doubt.silent.insert(from);
                doubt.refused.insert(from);
            }
        }
    }

    pub(super) fn published(&mut self, now: Mono, is_done: bool) {
        if !is_done {
            // The watch will say why.
            self.not_before = now.after(100);
        }
    }
}

/// What the planner would do now, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Outlook {
    /// Shards that are on their way, or not where they shall be.
    pub moving: usize,
    /// The smallest and the largest share of the nodes that take shards.
    pub shares: (usize, usize),
    /// It plans nothing for now: etcd was away a moment ago, or is.
    pub is_waiting: bool,
}

impl Agent {
    /// Has the planner plan anew with its next step, whatever it found last; what there is to do.
    /// `None`: this node does not plan.
    pub fn outlook(&mut self, now: Mono) -> Option<Outlook> {
        if !self.is_planner() {
            return None;
        }
        self.planning.idle = None;
        let gap_ms = self.config.timing.gap_ms;
        let is_away = self.contact.is_none_or(|at| now.since(at) >= gap_ms);
        let map = self.map.clone()?;
        let members = self.presumed(now);
        let situation = Situation {
            previous: Some(&map),
            members: &members,
            shards: self.config.shards,
            planner: self.me,
            settled: &|_, _| false,
        };
        let is_up = |node: &&MapNode| !node.is_draining;
        let up = map.nodes().iter().filter(is_up);
        let shares: Vec<usize> = up.map(|node| map.count(node.incarnation)).collect();
        let least = shares.iter().min().copied().unwrap_or_default();
        Some(Outlook {
            moving: moving(&situation, &self.config.policy),
            shares: (least, shares.into_iter().max().unwrap_or_default()),
            is_waiting: is_away || self.is_quiet(now),
        })
    }

    /// Takes back that it shall give its shards away.
    pub(super) fn stay(&mut self) {
        if self.wanted == MemberState::Draining {
            // One that was never ready becomes so by itself.
            self.wanted = match self.state {
                MemberState::Joining => MemberState::Joining,
                _ => MemberState::Up,
            };
        }
    }

    pub(super) fn plan(&mut self, now: Mono, out: &mut Vec<Output>) {
        let timing = self.config.timing;
        let is_in_contact = self.contact.is_some_and(|at| now.since(at) < timing.gap_ms);
        if !is_in_contact || self.is_calling(Kind::Publish) {
            return;
        }
        self.doubt(now, None, out);
        let is_current = self.epoch() == self.planning.etcd_epoch;
        if !is_current && self.relist.is_none() {
            // A peer knows a newer map than etcd's watch has brought.
            self.relist = Some(now.after(timing.gap_ms));
        }
        if now < self.planning.not_before || !is_current || self.is_quiet(now) {
            return;
        }
        let known = Known {
            epoch: self.epoch(),
            members: self.presumed(now),
            words: self.planning.words,
        };
        if self.planning.idle.as_ref() == Some(&known) {
            return;
        }
        let settled = &self.planning.settled;
        let situation = Situation {
            previous: self.map.as_deref(),
            members: &known.members,
            shards: self.config.shards,
            planner: self.me,
            settled: &|shard, since| settled.get(&shard).is_some_and(|at| *at >= since),
        };
        let Some(map) = plan(&situation, &self.config.policy) else {
            self.planning.idle = Some(known);
            return;
        };
        // Settled hand-overs, drains and the like are gathered a little.
        self.planning.not_before = now.after(timing.ping_ms);
        let call = Call::Publish {
            revision: self.map_revision,
            me: self.me,
            nodes: self.left_out(&map),
            map: map.into(),
        };
        self.call(now, Kind::Publish, call, out);
    }

    /// Whether a planner would do nothing: for a lease time after it came, or etcd came back.
    pub(super) fn is_quiet(&self, now: Mono) -> bool {
        let is_new = now.since(self.contact_since) < self.config.timing.lease_ms;
        is_new && self.map.is_some() && !self.planted.has(Bug::SkipQuiet)
    }

    /// Names of the nodes that a map leaves out, each with the revision under which it is gone.
    fn left_out(&self, next: &ShardMap) -> Vec<(NodeId, Revision)> {
        let before = self.map.iter().flat_map(|map| map.nodes());
        before
            .filter(|node| !next.knows(node.incarnation))
            .map(|node| {
                let record = self.records.get(node.id.as_str());
                (node.id.clone(), record.map_or(Revision(0), |r| r.revision))
            })
            .collect()
    }

    /// The members to plan with: every record that reads, and whoever is in the map and not known
    /// to be gone.
    fn presumed(&self, now: Mono) -> Vec<Member> {
        let mut members: Vec<Member> = self.members().cloned().collect();
        let Some(map) = &self.map else {
            return members;
        };
        for node in map.nodes() {
            let is_there = members.iter().any(|m| m.incarnation == node.incarnation);
            if !is_there && !self.is_gone(node, now) {
                members.push(presumed(node));
            }
        }
        members
    }

    fn is_gone(&self, node: &MapNode, now: Mono) -> bool {
        let life = node.incarnation;
        if life == self.me {
            return false;
        }
        // A record that does not read may be this node's.
        let record = self.records.get(node.id.as_str());
        if record.is_some_and(|r| r.member.is_none()) {
            return false;
        }
        let Some(doubt) = self.planning.doubts.get(&life) else {
            return false;
        };
        let Some(absent) = doubt.absent else {
            return false;
        };
        let is_silent = doubt.asked >= absent && self.has_most(&doubt.silent, doubt, life, now);
        self.planning.stopped.contains(&life)
            || is_silent
            || now.since(absent) >= self.config.timing.lease_ms
            || self.planted.has(Bug::SkipQuiet)
    }

    /// Whether most of the view say so, this node among them, and nobody else.
    fn has_most(
        &self,
        voices: &BTreeSet<Incarnation>,
        doubt: &Doubt,
        target: Incarnation,
        now: Mono,
    ) -> bool {
        let Some(map) = &self.map else {
            return false;
        };
        let is_voice = |node: &&Incarnation| map.knows(**node) && **node != target;
        let own = self.signs(target, now);
        let count = voices.iter().filter(is_voice).count() + 1;
        own != Signs::Hears && !doubt.is_heard && count >= majority(map.nodes().len())
    }

    /// Asks about those who are absent, or whose port refuses; revokes what most see dead.
    pub(super) fn doubt(&mut self, now: Mono, only: Option<Incarnation>, out: &mut Vec<Output>) {
        let Some(map) = self.map.clone() else {
            return;
        };
        let timing = self.config.timing;
        self.planning.doubts.retain(|life, _| map.knows(*life));
        self.planning.stopped.retain(|life| map.knows(*life));
        for node in map.nodes() {
            let life = node.incarnation;
            if life == self.me || only.is_some_and(|only| only != life) {
                continue;
            }
            let lease = self.lease_of(node);
            let is_absent = lease.is_none();
            if !is_absent && !self.peers.is_refused(life, timing.refused_ms, now) {
                self.planning.doubts.remove(&life);
                continue;
            }
            let doubts = &mut self.planning.doubts;
            let doubt = doubts.entry(life).or_insert_with(|| Doubt {
                began: now,
                ..Doubt::default()
            });
            match is_absent {
                true if doubt.absent.is_none() => {
                    doubt.absent = Some(now);
                    // What was heard before counts for the revocation alone.
                    doubt.asked = Mono(0);
                }
                true => {}
                false => doubt.absent = None,
            }
            self.revoke_if_dead(now, life, lease, out);
            self.ask_about(now, life, out);
        }
    }

    /// Whether the planner's death would be this node's to find: the first of the view that is up.
    pub(super) fn is_deputy(&self, leader: Incarnation, now: Mono) -> bool {
        let others = self.map.iter().flat_map(|map| map.nodes());
        let first = others
            .map(|node| node.incarnation)
            .find(|life| *life != leader && (*life == self.me || self.fence.is_up(*life, now)));
        first == Some(self.me)
    }

    fn lease_of(&self, node: &MapNode) -> Option<LeaseId> {
        let record = self.records.get(node.id.as_str())?;
        let is_its = |m: &Member| m.incarnation == node.incarnation;
        record
            .member
            .as_ref()
            .is_some_and(is_its)
            .then_some(record.lease?)
    }

    fn revoke_if_dead(
        &mut self,
        now: Mono,
        life: Incarnation,
        lease: Option<LeaseId>,
        out: &mut Vec<Output>,
    ) {
        let (Some(lease), Some(doubt)) = (lease, self.planning.doubts.get(&life)) else {
            return;
        };
        let is_dead = self.has_most(&doubt.refused, doubt, life, now)
            && self.signs(life, now) == Signs::Refused;
        if !is_dead || doubt.is_revoked || self.is_calling(Kind::Revoke) {
            return;
        }
        if let Some(doubt) = self.planning.doubts.get_mut(&life) {
            doubt.is_revoked = true;
        }
        out.push(Output::Alert(Alert::Revoked(life)));
        self.call(now, Kind::Revoke, Call::Revoke { lease }, out);
    }

    fn ask_about(&mut self, now: Mono, life: Incarnation, out: &mut Vec<Output>) {
        let timing = self.config.timing;
        let ask = self.peers.next_ask();
        let Some(doubt) = self.planning.doubts.get_mut(&life) else {
            return;
        };
        // Users wait until the last one who heard it does no more; but words about what is no death
        // must not fill the links.
        let is_young = now.since(doubt.began) < 2 * timing.fresh_ms;
        let every = match doubt.is_heard && is_young {
            true => timing.ping_ms / 3,
            false => timing.ping_ms,
        };
        if now.since(doubt.asked) < every && doubt.asked > Mono(0) {
            return;
        }
        *doubt = Doubt {
            began: doubt.began,
            ask,
            asked: now,
            absent: doubt.absent,
            is_revoked: doubt.is_revoked,
            ..Doubt::default()
        };
        for peer in self.everybody() {
            if peer != life {
                out.push(Output::Note(peer, Note::Doubt { ask, target: life }));
            }
        }
    }
}

/// The record of a node as the map has it, for one whose own does not read or is absent for now.
fn presumed(node: &MapNode) -> Member {
    Member {
        id: node.id.clone(),
        incarnation: node.incarnation,
        state: match node.is_draining {
            true => MemberState::Draining,
            false => MemberState::Up,
        },
        zone: node.zone.clone(),
        version: String::new(),
        protocol: PROTOCOL,
        relay: String::new(),
        control: String::new(),
    }
}
