//! Whether this process may still act as an owner: its lease, its links, and what follows for an
//! acknowledgement.
//!
//! Two ways lead out of the cluster. The lease runs out in etcd: then the local deadline has passed
//! before, since it is counted from the time at which the last good keepalive was *sent*, less a
//! margin. Or the planner revokes it, because most of the view see the node dead: then most of its
//! links are down at that time, for a link counts only while its peer answered a ping of late.
//! So a node that has most of its links, each without a break since before its last good keepalive
//! was sent, is in; any other must ask etcd again before it acknowledges anything.
//!
//! A link that goes over a third node ([`crate::link`]) counts like any other, here and where a view
//! agrees that etcd is gone. What counts is the word of the peer at its other end, who answers only
//! what it has heard and then calls the asker heard in turn; the third node can keep it back and
//! cannot make it up. So two majorities still meet, whatever way they speak, and a part of the
//! cluster that no node joins with the rest is as alone as before. Whoever is heard over a third node
//! can moreover deny that etcd is gone.

use crate::id::{Incarnation, Mono, SKEW_MAX_MS, Timing};
use crate::planted::{Bug, Planted};
use std::collections::BTreeMap;

/// How many of `nodes` in the view must answer a node for the word of the others to be too few to
/// revoke its lease; itself not counted.
#[must_use]
pub fn links_needed(nodes: usize) -> usize {
    nodes.saturating_sub(1).saturating_sub(nodes / 2)
}

/// How many of `nodes` in the view must agree on something about one of them.
#[must_use]
pub fn majority(nodes: usize) -> usize {
    nodes / 2 + 1
}

#[derive(Debug, Clone, Copy)]
struct Link {
    /// When the latest answered ping was sent.
    proof: Mono,
    /// Since when there was always an answered ping that was young enough.
    since: Mono,
}

/// What [`Fence::standing`] found, good until one of its times passes. Small and `Copy`, so that
/// every thread on the message path can look at one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Standing {
    /// Until then nobody can have taken anything from this node.
    pub sure_until: Mono,
    /// Until then it may still be in, as a keepalive can tell.
    pub valid_until: Mono,
    /// When the latest good keepalive was sent.
    pub confirmed: Mono,
    /// Until then its lease lasts by itself. From then on it goes by the word of the others, and a
    /// part of the network that still sees etcd may have taken from it what it has.
    pub leased_until: Mono,
}

/// What becomes of an acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acknowledge {
    /// It may go out.
    Now,
    /// Not before a keepalive is answered that was sent after the commit.
    AfterKeepalive,
    /// The lease has passed, or is in doubt: what became of the write, the next owner knows. Looked
    /// at again if the agent gets back in, forgotten when it is out.
    Barred,
}

impl Standing {
    /// The check between commit and acknowledgement.
    #[must_use]
    pub fn acknowledge(&self, committed: Mono, now: Mono) -> Acknowledge {
        if now < self.sure_until {
            Acknowledge::Now
        } else if now >= self.valid_until {
            Acknowledge::Barred
        } else if self.confirmed >= committed {
            Acknowledge::Now
        } else {
            Acknowledge::AfterKeepalive
        }
    }

    /// Whether a stanza may be taken on, given an id and handed to the store. `now` is the time
    /// that the id is made from. If not, it waits for the next keepalive or the end.
    #[must_use]
    pub fn may_accept(&self, now: Mono) -> bool {
        let is_confirmed = now < self.valid_until && now.since(self.confirmed) <= SKEW_MAX_MS;
        now < self.sure_until || is_confirmed
    }
}

/// Lease and links of one process.
#[derive(Debug)]
pub struct Fence {
    timing: Timing,
    /// When the latest good keepalive (or the grant) was sent; `None`: no lease.
    confirmed: Option<Mono>,
    /// When the last two questions were asked upon which most of the view agreed that etcd is gone,
    /// the later one first.
    frozen: [Option<Mono>; 2],
    links: BTreeMap<Incarnation, Link>,
    /// The others of the view.
    view: Vec<Incarnation>,
    pub(crate) planted: Planted,
}

impl Fence {
    /// Without a lease.
    #[must_use]
    pub fn new(timing: Timing) -> Self {
        Self {
            timing,
            confirmed: None,
            frozen: [None; 2],
            links: BTreeMap::new(),
            view: Vec::new(),
            planted: Planted::default(),
        }
    }

    /// etcd granted the lease, or kept it alive, upon a call sent then.
    pub fn confirmed(&mut self, sent: Mono) {
        self.confirmed = self.confirmed.max(Some(sent));
        self.frozen = [None; 2];
    }

    /// etcd does not know the lease.
    pub fn lost(&mut self) {
        self.confirmed = None;
        self.frozen = [None; 2];
    }

    /// Most of the view agreed that etcd is gone, upon a question sent then.
    pub fn frozen(&mut self, asked: Mono) {
        if self.frozen[0].is_none_or(|last| last < asked) {
            self.frozen = [Some(asked), self.frozen[0]];
        }
    }

    /// Somebody said otherwise to the question that was asked then. What was agreed before holds
    /// for its time: whoever plans leaves a lease time after etcd came back.
    pub fn denied(&mut self, asked: Mono) {
        if self.frozen[0] == Some(asked) {
            self.frozen = [self.frozen[1], None];
        }
    }

    fn frozen_until(&self) -> Mono {
        self.frozen[0].map_or(Mono(0), |asked| asked.after(self.timing.freeze_ms))
    }

    /// Whether only the word of the others keeps it in.
    #[must_use]
    pub fn is_frozen(&self, now: Mono) -> bool {
        now >= self.deadline() && now < self.frozen_until()
    }

    /// Whether it has a lease at all, as far as it knows.
    #[must_use]
    pub fn has_lease(&self) -> bool {
        self.confirmed.is_some()
    }

    /// When the lease ends for this process.
    #[must_use]
    pub fn deadline(&self) -> Mono {
        let lasts = self.timing.lease_ms - self.timing.margin_ms;
        match self.confirmed {
            Some(_) if self.planted.has(Bug::IgnoreDeadline) => Mono(u64::MAX),
            Some(sent) => sent.after(lasts),
            None => Mono(0),
        }
    }

    /// The view changed: `others` are its nodes without this one.
    pub fn viewed(&mut self, others: Vec<Incarnation>) {
        self.links.retain(|peer, _| others.contains(peer));
        self.view = others;
    }

    /// A peer answered a ping that was sent at `sent`.
    pub fn answered(&mut self, peer: Incarnation, sent: Mono, now: Mono) {
        if now.since(sent) > self.timing.fresh_ms {
            return;
        }
        let since = now;
        let link = self
            .links
            .entry(peer)
            .or_insert(Link { proof: sent, since });
        // Counted from its arrival: what the peer said in between, to others, is unknown.
        if now > link.proof.after(self.timing.fresh_ms) {
            link.since = now;
        }
        link.proof = link.proof.max(sent);
    }

    /// Whether a peer answered of late.
    #[must_use]
    pub fn is_up(&self, peer: Incarnation, now: Mono) -> bool {
        let link = self.links.get(&peer);
        link.is_some_and(|l| now < l.proof.after(self.timing.fresh_ms))
    }

    /// Peers of the view that have answered nothing for as long as the word of most holds: no short
    /// stall, for which their users would be sent away.
    pub fn silent(&self, now: Mono) -> impl Iterator<Item = Incarnation> {
        let is_silent = move |peer: &Incarnation| {
            let link = self.links.get(peer);
            link.is_none_or(|l| now >= l.proof.after(self.timing.freeze_ms))
        };
        self.view.iter().copied().filter(is_silent)
    }

    /// Peers of the view whose link is up.
    #[must_use]
    pub fn links_up(&self, now: Mono) -> usize {
        self.view.iter().filter(|p| self.is_up(**p, now)).count()
    }

    /// What this process may do, from `now` on.
    #[must_use]
    pub fn standing(&self, now: Mono) -> Standing {
        let valid_until = self.deadline().max(self.frozen_until());
        let confirmed = self.confirmed.unwrap_or_default();
        let needed = links_needed(self.view.len() + 1);
        let mut proofs: Vec<Mono> = self
            .view
            .iter()
            .filter_map(|peer| self.links.get(peer))
            .filter(|link| link.since <= confirmed && now < link.proof.after(self.timing.fresh_ms))
            .map(|link| link.proof.after(self.timing.fresh_ms))
            .collect();
        proofs.sort_unstable_by(|a, b| b.cmp(a));
        let by_links = match needed.checked_sub(1) {
            _ if self.planted.has(Bug::IgnoreLinks) => valid_until,
            None => valid_until,
            Some(last) => proofs.get(last).copied().unwrap_or_default(),
        };
        // Nobody can revoke a lease in an etcd that is gone.
        let by_links = by_links.max(self.frozen_until());
        Standing {
            sure_until: by_links.min(valid_until),
            valid_until,
            confirmed,
            leased_until: self.deadline(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fence(peers: u32) -> Fence {
        let mut fence = Fence::new(Timing::default());
        fence.viewed((2..2 + peers).map(Incarnation).collect());
        fence
    }

    fn pings(fence: &mut Fence, peers: u32, times: std::ops::Range<u64>) {
        for at in times.step_by(150) {
            for peer in 2..2 + peers {
                fence.answered(Incarnation(peer), Mono(at), Mono(at + 5));
            }
        }
    }

    #[test]
    fn two_majorities_of_a_view_always_meet() {
        for nodes in 1..50 {
            assert!(links_needed(nodes) + majority(nodes) >= nodes);
        }
    }

    #[test]
    fn the_lease_counts_from_the_sending_of_its_last_good_keepalive() {
        let mut fence = fence(0);
        assert_eq!(
            fence.standing(Mono(5)).acknowledge(Mono(1), Mono(5)),
            Acknowledge::Barred
        );
        fence.confirmed(Mono(100));
        assert_eq!(fence.deadline(), Mono(9_100));
        fence.confirmed(Mono(50));
        assert_eq!(fence.deadline(), Mono(9_100));
        let standing = fence.standing(Mono(200));
        assert_eq!(
            standing.acknowledge(Mono(150), Mono(9_099)),
            Acknowledge::Now
        );
        assert_eq!(
            standing.acknowledge(Mono(150), Mono(9_100)),
            Acknowledge::Barred
        );
        fence.lost();
        assert!(!fence.standing(Mono(300)).may_accept(Mono(300)));
    }

    #[test]
    fn with_most_links_down_only_a_keepalive_behind_the_commit_counts() {
        let mut fence = fence(2);
        pings(&mut fence, 2, 10_000..12_000);
        fence.confirmed(Mono(11_000));
        let standing = fence.standing(Mono(12_000));
        assert_eq!(
            standing.acknowledge(Mono(11_990), Mono(12_000)),
            Acknowledge::Now
        );
        assert!(standing.sure_until < Mono(12_700));
        // Nobody answers any more.
        let standing = fence.standing(Mono(13_000));
        assert_eq!(
            standing.acknowledge(Mono(12_990), Mono(13_000)),
            Acknowledge::AfterKeepalive
        );
        assert!(!standing.may_accept(Mono(13_000)));
        fence.confirmed(Mono(12_995));
        let standing = fence.standing(Mono(13_000));
        assert_eq!(
            standing.acknowledge(Mono(12_990), Mono(13_000)),
            Acknowledge::Now
        );
        assert!(standing.may_accept(Mono(13_000)));
        assert!(!standing.may_accept(Mono(13_600)));
    }

    #[test]
    fn links_that_came_back_count_only_with_a_keepalive_sent_since() {
        let mut fence = fence(2);
        pings(&mut fence, 2, 10_000..12_000);
        fence.confirmed(Mono(12_000));
        pings(&mut fence, 2, 14_000..15_000);
        let standing = fence.standing(Mono(15_000));
        assert_eq!(
            standing.acknowledge(Mono(14_990), Mono(15_000)),
            Acknowledge::AfterKeepalive
        );
        fence.confirmed(Mono(14_500));
        let standing = fence.standing(Mono(15_000));
        assert_eq!(
            standing.acknowledge(Mono(14_990), Mono(15_000)),
            Acknowledge::Now
        );
    }

    #[test]
    fn an_answer_that_comes_late_tells_of_a_gap() {
        let mut fence = fence(2);
        fence.confirmed(Mono(900));
        fence.answered(Incarnation(2), Mono(1_000), Mono(1_001));
        fence.confirmed(Mono(1_100));
        assert!(fence.standing(Mono(1_200)).sure_until > Mono(1_200));
        // Sent within the time of the first proof, answered behind it.
        fence.answered(Incarnation(2), Mono(1_500), Mono(1_900));
        assert_eq!(fence.standing(Mono(1_901)).sure_until, Mono(0));
    }

    #[test]
    fn a_frozen_view_holds_for_a_while_and_ends_when_etcd_answers() {
        let mut fence = fence(2);
        fence.confirmed(Mono(0));
        fence.frozen(Mono(9_500));
        let standing = fence.standing(Mono(9_600));
        assert!(fence.is_frozen(Mono(9_600)));
        assert_eq!(
            standing.acknowledge(Mono(9_590), Mono(9_600)),
            Acknowledge::Now
        );
        assert_eq!(
            standing.acknowledge(Mono(9_590), Mono(12_500)),
            Acknowledge::Barred
        );
        // A later question is denied: the earlier agreement holds for its time.
        fence.frozen(Mono(10_000));
        fence.denied(Mono(10_000));
        assert!(fence.is_frozen(Mono(9_700)) && !fence.is_frozen(Mono(12_600)));
        fence.lost();
        assert_eq!(
            fence
                .standing(Mono(9_700))
                .acknowledge(Mono(9_590), Mono(9_700)),
            Acknowledge::Barred
        );
    }
}
