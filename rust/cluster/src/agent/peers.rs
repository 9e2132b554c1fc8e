//! What the agent says to the others and hears from them.

use super::{Agent, EtcdLoss, Life};
use crate::agent::Output;
use crate::fence::majority;
use crate::id::{Epoch, Incarnation, Mono, Shard};
use crate::talk::{Note, OutReason, Signs};
use std::collections::{BTreeMap, BTreeSet};

/// A question to all.
#[derive(Debug, Default)]
struct Question {
    ask: u64,
    asked: Mono,
    yes: BTreeSet<Incarnation>,
    is_denied: bool,
}

/// What is known of the others.
#[derive(Debug, Default)]
pub(super) struct Peers {
    last_ping: Mono,
    last_settled: Mono,
    /// When a ping of theirs was last answered.
    answered: BTreeMap<Incarnation, Mono>,
    /// Since when their port refuses.
    refused: BTreeMap<Incarnation, Mono>,
    /// When they were last sent the map.
    mapped: BTreeMap<Incarnation, Mono>,
    is_etcd_gone: Question,
    last_ask: u64,
}

impl Peers {
    pub(super) fn port(&mut self, peer: Incarnation, is_refused: bool, now: Mono) {
        if is_refused {
            self.refused.entry(peer).or_insert(now);
        } else {
            self.refused.remove(&peer);
        }
    }

    pub(super) fn viewed(&mut self, others: &[Incarnation]) {
        self.answered.retain(|peer, _| others.contains(peer));
        self.refused.retain(|peer, _| others.contains(peer));
        self.mapped.retain(|peer, _| others.contains(peer));
    }

    /// Whether this peer's port has refused for so long.
    pub(super) fn is_refused(&self, peer: Incarnation, for_ms: u64, now: Mono) -> bool {
        let since = self.refused.get(&peer);
        since.is_some_and(|since| now.since(*since) >= for_ms)
    }

    pub(super) fn next_ask(&mut self) -> u64 {
        self.last_ask += 1;
        self.last_ask
    }
}

impl Agent {
    /// The nodes that cannot be reached, and in whose place no map can put others: the view is
    /// frozen, and they are silent. None as long as a map may come.
    #[must_use]
    pub fn cut_off(&self, now: Mono) -> Vec<Incarnation> {
        match self.is_frozen(now) {
            true => self.fence.silent(now).collect(),
            false => Vec::new(),
        }
    }

    pub(super) fn ping(&mut self, now: Mono, settled: &[(Shard, Epoch)], out: &mut Vec<Output>) {
        let timing = self.config.timing;
        if now.since(self.peers.last_ping) >= timing.ping_ms {
            self.peers.last_ping = now;
            let ping = Note::Ping {
                sent: now,
                epoch: self.epoch(),
            };
            for peer in self.everybody() {
                out.push(Output::Note(peer, ping.clone()));
            }
        }
        if !settled.is_empty() && now.since(self.peers.last_settled) >= 2 * timing.ping_ms {
            self.peers.last_settled = now;
            if self.is_planner() {
                self.planning.settled(settled);
            } else if let Some(leader) = self.leader {
                out.push(Output::Note(leader, Note::Settled(settled.to_vec())));
            }
        }
    }

    /// Before the lease ends without an answer of etcd, and as long as it goes on without one.
    pub(super) fn ask_whether_etcd_is_gone(&mut self, now: Mono, out: &mut Vec<Output>) {
        let timing = self.config.timing;
        let is_gone = self.is_etcd_gone(now);
        let ends_soon = now.after(timing.freeze_ms / 2) >= self.fence.deadline();
        let is_due = now.since(self.peers.is_etcd_gone.asked) >= timing.freeze_ms / 6;
        if self.config.etcd_loss == EtcdLoss::Fence || !is_gone || !ends_soon || !is_due {
            return;
        }
        let ask = self.peers.next_ask();
        self.peers.is_etcd_gone = Question {
            ask,
            asked: now,
            ..Question::default()
        };
        for peer in self.everybody() {
            out.push(Output::Note(peer, Note::IsEtcdGone { ask }));
        }
        self.count_etcd_gone();
    }

    fn is_etcd_gone(&self, now: Mono) -> bool {
        self.contact
            .is_none_or(|at| now.since(at) >= self.config.timing.gap_ms)
    }

    /// As the others are told: it is gone, or was until a moment ago. This node would plan nothing
    /// for a lease time, so whoever has not reached etcd again may go on until shortly before.
    fn is_etcd_gone_or_fresh(&self, now: Mono) -> bool {
        let timing = self.config.timing;
        let fresh_ms = timing.lease_ms - timing.freeze_ms - timing.margin_ms;
        self.is_etcd_gone(now) || now.since(self.contact_since) < fresh_ms
    }

    /// Freezes if most of the view say that etcd is gone and nobody says anything else.
    fn count_etcd_gone(&mut self) {
        let question = &self.peers.is_etcd_gone;
        let view = self.map.as_ref().map_or(1, |map| map.nodes().len());
        if !question.is_denied && question.yes.len() + 1 >= majority(view) {
            self.fence.frozen(question.asked);
        }
    }

    pub(super) fn noted(
        &mut self,
        now: Mono,
        from: Incarnation,
        note: Note,
        out: &mut Vec<Output>,
    ) {
        if !self.is_in() {
            return;
        }
        match note {
            Note::Ping { sent, epoch } => self.pinged(now, (from, sent, epoch), out),
            Note::Pong { sent, .. } => self.fence.answered(from, sent, now),
            Note::Map(map) => self.adopt(map, out),
            Note::Out(epoch) => {
                if epoch > self.epoch() && self.was_in_view {
                    self.out(OutReason::LeftOut, out);
                }
            }
            Note::Stopped => self.planning.stopped(from),
            Note::IsEtcdGone { ask } => {
                let answer = Note::EtcdGone {
                    ask,
                    is_gone: self.is_etcd_gone_or_fresh(now) && self.life == Life::In,
                    epoch: self.epoch(),
                };
                out.push(Output::Note(from, answer));
            }
            Note::EtcdGone {
                ask,
                is_gone,
                epoch,
            } => self.heard_of_etcd(from, (ask, is_gone, epoch)),
            Note::Doubt { ask, target } => {
                let signs = self.signs(target, now);
                out.push(Output::Note(from, Note::Heard { ask, target, signs }));
            }
            Note::Heard { ask, target, signs } => {
                self.planning.heard(from, (ask, target, signs));
                if self.life == Life::In {
                    self.oversee(now, out);
                }
            }
            Note::Settled(settled) => {
                if self.is_planner() {
                    self.planning.settled(&settled);
                }
            }
        }
    }

    fn pinged(
        &mut self,
        now: Mono,
        (from, sent, epoch): (Incarnation, Mono, Epoch),
        out: &mut Vec<Output>,
    ) {
        let Some(map) = self.map.clone() else {
            return;
        };
        if !map.knows(from) && map.epoch() > epoch && !self.members().any(|m| m.incarnation == from)
        {
            out.push(Output::Note(from, Note::Out(map.epoch())));
            return;
        }
        self.peers.answered.insert(from, now);
        let pong = Note::Pong {
            sent,
            epoch: map.epoch(),
        };
        out.push(Output::Note(from, pong));
        let last = self.peers.mapped.get(&from).copied().unwrap_or_default();
        if epoch < map.epoch() && now.since(last) >= self.config.timing.fresh_ms {
            self.peers.mapped.insert(from, now);
            out.push(Output::Note(from, Note::Map(map)));
        }
    }

    fn heard_of_etcd(&mut self, from: Incarnation, word: (u64, bool, Epoch)) {
        let (ask, is_gone, epoch) = word;
        let is_newer = epoch > self.epoch();
        let question = &mut self.peers.is_etcd_gone;
        if question.ask != ask {
            return;
        }
        if !self.map.as_ref().is_some_and(|map| map.knows(from)) && is_gone {
            return;
        }
        if is_gone && !is_newer {
            question.yes.insert(from);
            self.count_etcd_gone();
        } else {
            question.is_denied = true;
            let asked = question.asked;
            self.fence.denied(asked);
        }
    }

    /// How a node looks from here. Only whoever was heard from here can have gone: a port that has
    /// always refused is a wrong address, or a way that is not open yet.
    pub(super) fn signs(&self, target: Incarnation, now: Mono) -> Signs {
        let timing = self.config.timing;
        let answered = self.peers.answered.get(&target);
        if answered.is_some_and(|at| now.since(*at) <= timing.fresh_ms) {
            Signs::Hears
        } else if answered.is_some() && self.peers.is_refused(target, timing.refused_ms, now) {
            Signs::Refused
        } else {
            Signs::Silent
        }
    }
}
