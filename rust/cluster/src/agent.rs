//! A node's part in the cluster: joining, its lease, the map in force, the planner's work when it
//! falls to this node, and the end.
//!
//! A state machine without I/O: the driver hands in the time, etcd's answers and the others' notes,
//! and carries out what comes out. Call [`Agent::step`] with [`Input::Tick`] every 50 ms or so.

use crate::fence::{Fence, Standing};
use crate::id::{Epoch, Incarnation, Mono, NodeId, Shard, Timing, Zone};
use crate::map::ShardMap;
use crate::member::{Member, MemberState, PROTOCOL, speaks_with};
use crate::planner::Policy;
use crate::planted::Planted;
use crate::talk::{
    Alert, Answer, Call, Change, LeaseId, Listed, Note, OutReason, Revision, Stored,
};
use std::collections::BTreeMap;
use std::sync::Arc;

mod peers;
mod planning;
pub use planning::Outlook;
#[cfg(test)]
mod tests;

/// What a node that loses etcd does when the others say that they lost it, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EtcdLoss {
    /// The view is frozen and service goes on.
    #[default]
    Freeze,
    /// It stops.
    Fence,
}

/// What a node is.
#[derive(Debug, Clone)]
pub struct Config {
    /// Its name.
    pub id: NodeId,
    /// Where it stands.
    pub zone: Option<Zone>,
    /// Version of the program.
    pub version: String,
    /// `host:port` of its relay.
    pub relay: String,
    /// `host:port` of its control calls.
    pub control: String,
    /// Every time.
    pub timing: Timing,
    /// How it plans.
    pub policy: Policy,
    /// Without etcd.
    pub etcd_loss: EtcdLoss,
    /// [`antiphon_routing::home::SHARDS`].
    pub shards: Shard,
}

/// What happens to an agent.
#[derive(Debug, Clone)]
pub enum Input<'a> {
    /// Time passes. With [`crate::holdings::Holdings::settled`].
    Tick(&'a [(Shard, Epoch)]),
    /// A call was answered; `None`: it failed or its deadline passed, and its outcome is unknown.
    Answer(u64, Option<Answer>),
    /// The watch saw a change.
    Change(Change),
    /// The driver listed again by itself.
    Relisted(Listed),
    /// A note of a peer, by the life that its link's hello named.
    Note(Incarnation, Note),
    /// A peer's port refused a connection (`true`), or accepted one.
    Port(Incarnation, bool),
    /// The node is ready for its share.
    Ready,
    /// It shall give its shards away.
    Drain,
    /// It shall not any more.
    Stay,
    /// It holds none any more, or shall wait no longer.
    Leave,
}

/// What an agent wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Call etcd.
    Call(u64, Call),
    /// Tell a peer.
    Note(Incarnation, Note),
    /// This life begins.
    Joined(Incarnation),
    /// This map is in force: for holdings, router and directory.
    Map(Arc<ShardMap>),
    /// This life is over: drop everything, close every stream, acknowledge nothing.
    Out(OutReason),
    /// Tell the operator.
    Alert(Alert),
}

/// Where it is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    /// Reads what there is.
    Listing,
    /// Wants a lease.
    Granting,
    /// Puts itself in; `true`: its name was there before.
    Creating,
    /// Belongs to it.
    In,
    /// Its lease was lost while it was in; since then it acknowledges nothing.
    Regaining { until: Mono },
    /// No more.
    Out,
}

/// A record under `nodes/`.
#[derive(Debug, Clone)]
struct Record {
    revision: Revision,
    lease: Option<LeaseId>,
    /// `None`: it does not read.
    member: Option<Member>,
}

/// A call that waits for its answer.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    number: u64,
    sent: Mono,
    what: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    List,
    Grant,
    Put,
    Keepalive,
    Campaign,
    Publish,
    Revoke,
}

/// See the module.
#[derive(Debug)]
pub struct Agent {
    config: Config,
    life: Life,
    me: Incarnation,
    state: MemberState,
    wanted: MemberState,
    lease: Option<LeaseId>,
    lease_sent: Mono,
    fence: Fence,
    /// At most one call of a kind.
    calls: Vec<Waiting>,
    last_call: u64,
    /// Not before then.
    retry: Mono,
    last_keepalive: Mono,
    // What etcd says.
    counter: u32,
    /// The life that the last try to join asked for; the counter may have moved on since.
    asked: Incarnation,
    records: BTreeMap<String, Record>,
    leader: Option<Incarnation>,
    has_leader: bool,
    /// Since when there is no leader.
    leaderless: Option<Mono>,
    map_revision: Revision,
    /// In force, from etcd or from a peer.
    map: Option<Arc<ShardMap>>,
    was_in_view: bool,
    /// The last good answer, and since when there was no gap.
    contact: Option<Mono>,
    contact_since: Mono,
    is_gone_told: bool,
    /// Something did not read: everything is read again then.
    relist: Option<Mono>,
    peers: peers::Peers,
    planning: planning::Planning,
    pub(crate) planted: Planted,
}

impl Agent {
    /// A process that wants to join.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            life: Life::Listing,
            me: Incarnation(0),
            state: MemberState::Joining,
            wanted: MemberState::Joining,
            lease: None,
            lease_sent: Mono(0),
            fence: Fence::new(config.timing),
            calls: Vec::new(),
            last_call: 0,
            retry: Mono(0),
            last_keepalive: Mono(0),
            counter: 0,
            asked: Incarnation(0),
            records: BTreeMap::new(),
            leader: None,
            has_leader: false,
            leaderless: None,
            map_revision: Revision(0),
            map: None,
            was_in_view: false,
            contact: None,
            contact_since: Mono(0),
            is_gone_told: false,
            relist: None,
            peers: peers::Peers::default(),
            planning: planning::Planning::default(),
            planted: Planted::default(),
            config,
        }
    }

    /// With a planted bug.
    #[cfg(any(test, feature = "simulation"))]
    #[must_use]
    pub fn planted(mut self, planted: Planted) -> Self {
        self.planted = planted;
        self.fence.planted = planted;
        self
    }

    /// This life; 0 before it began.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.me
    }

    /// What the node may do: to be looked at anew after every step.
    #[must_use]
    pub fn standing(&self, now: Mono) -> Standing {
        match self.life {
            Life::In => self.fence.standing(now),
            _ => Standing::default(),
        }
    }

    /// Whether it belongs to the cluster, as far as it knows.
    #[must_use]
    pub fn is_in(&self) -> bool {
        matches!(self.life, Life::In | Life::Regaining { .. })
    }

    /// Whether it goes by the word of the others, without etcd.
    #[must_use]
    pub fn is_frozen(&self, now: Mono) -> bool {
        self.life == Life::In && self.fence.is_frozen(now)
    }

    /// Whether the planner's work falls to it.
    #[must_use]
    pub fn is_planner(&self) -> bool {
        self.is_in() && self.leader == Some(self.me)
    }

    /// Who plans.
    #[must_use]
    pub fn leader(&self) -> Option<Incarnation> {
        self.leader
    }

    /// Milliseconds since etcd last answered, for the metrics; `None`: it never did.
    #[must_use]
    pub fn contact_age_ms(&self, now: Mono) -> Option<u64> {
        self.contact.map(|at| now.since(at))
    }

    /// Milliseconds of the lease that are left.
    #[must_use]
    pub fn lease_left_ms(&self, now: Mono) -> u64 {
        self.fence.deadline().since(now)
    }

    /// Every member whose record reads.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.records.values().filter_map(|r| r.member.as_ref())
    }

    /// How many peers answer.
    #[must_use]
    pub fn links_up(&self, now: Mono) -> usize {
        self.fence.links_up(now)
    }

    /// One step.
    pub fn step(&mut self, now: Mono, input: Input<'_>, out: &mut Vec<Output>) {
        if self.life == Life::Out {
            return;
        }
        match input {
            Input::Tick(settled) => self.tick(now, settled, out),
            Input::Answer(number, answer) => self.answered(now, number, answer, out),
            Input::Change(change) => {
                self.in_contact(now, out);
                self.changed(now, change, out);
            }
            Input::Relisted(listed) => {
                self.in_contact(now, out);
                self.listed(now, listed, out);
            }
            Input::Note(from, note) => self.noted(now, from, note, out),
            Input::Port(peer, is_refused) => self.peers.port(peer, is_refused, now),
            Input::Ready => self.wanted = self.wanted.max(MemberState::Up),
            Input::Drain => self.wanted = MemberState::Draining,
            Input::Stay => self.stay(),
            Input::Leave => {
                if let Some(lease) = self.lease {
                    self.call(now, Kind::Revoke, Call::Revoke { lease }, out);
                }
                self.out(OutReason::Left, out);
            }
        }
    }

    fn tick(&mut self, now: Mono, settled: &[(Shard, Epoch)], out: &mut Vec<Output>) {
        let call_ms = self.config.timing.call_ms;
        self.calls.retain(|call| now.since(call.sent) < call_ms);
        if let Some(at) = self.contact
            && now.since(at) >= self.config.timing.gap_ms
            && !self.is_gone_told
        {
            self.is_gone_told = true;
            out.push(Output::Alert(Alert::EtcdGone));
        }
        match self.life {
            Life::Listing | Life::Granting | Life::Creating => self.join(now, out),
            Life::In => self.live(now, settled, out),
            Life::Regaining { until } => {
                if now >= until {
                    self.out(OutReason::LeaseLost, out);
                } else {
                    self.join(now, out);
                }
            }
            Life::Out => {}
        }
    }

    /// The calls on the way in, also back in.
    fn join(&mut self, now: Mono, out: &mut Vec<Output>) {
        let is_waiting = |kind: Kind| self.calls.iter().any(|call| call.what == kind);
        if now < self.retry
            || is_waiting(Kind::List)
            || is_waiting(Kind::Grant)
            || is_waiting(Kind::Put)
        {
            return;
        }
        self.retry = now.after(self.config.timing.ping_ms);
        let ttl_ms = self.config.timing.lease_ms;
        let map = self.map_revision;
        let member = self.member();
        match (self.life, self.lease) {
            (Life::Listing, _) => self.call(now, Kind::List, Call::List, out),
            // An answer that was lost may have left a lease behind: it ends by itself.
            (Life::Granting | Life::Regaining { .. }, None) => {
                self.lease_sent = now;
                self.call(now, Kind::Grant, Call::Grant { ttl_ms }, out);
            }
            (Life::Regaining { .. }, Some(lease)) => {
                self.call(now, Kind::Put, Call::Recreate { lease, member, map }, out);
            }
            (Life::Creating, Some(lease)) => {
                let counter = self.counter;
                self.asked = Incarnation(counter + 1);
                let member = Member {
                    incarnation: self.asked,
                    ..member
                };
                let create = Call::Create {
                    counter,
                    lease,
                    member,
                };
                self.call(now, Kind::Put, create, out);
            }
            _ => self.life = Life::Listing,
        }
    }

    /// Everything a member does as time passes.
    fn live(&mut self, now: Mono, settled: &[(Shard, Epoch)], out: &mut Vec<Output>) {
        let standing = self.fence.standing(now);
        if now >= standing.valid_until {
            self.out(OutReason::LeasePassed, out);
            return;
        }
        // Whoever must ask etcd before each acknowledgement asks often; so does who got no answer.
        let timing = self.config.timing;
        let is_late = now.since(standing.confirmed) > timing.keepalive_ms + timing.call_ms;
        let every = match now < standing.sure_until && !is_late {
            true => timing.keepalive_ms,
            false => timing.ping_ms,
        };
        if let Some(lease) = self.lease {
            if now.since(self.last_keepalive) >= every && !self.is_calling(Kind::Keepalive) {
                self.last_keepalive = now;
                self.call(now, Kind::Keepalive, Call::Keepalive { lease }, out);
            }
            self.declare(now, lease, out);
            if self.may_lead(now) && now >= self.retry && !self.is_calling(Kind::Campaign) {
                self.retry = now.after(timing.ping_ms);
                let me = self.me;
                self.call(now, Kind::Campaign, Call::Campaign { lease, me }, out);
            }
        }
        if self.relist.is_some_and(|at| now >= at) && !self.is_calling(Kind::List) {
            // Until an answer has come.
            self.relist = Some(now.after(timing.gap_ms));
            self.call(now, Kind::List, Call::List, out);
        }
        self.ping(now, settled, out);
        self.ask_whether_etcd_is_gone(now, out);
        self.oversee(now, out);
    }

    /// The planner's work, or a look at who does it.
    fn oversee(&mut self, now: Mono, out: &mut Vec<Output>) {
        if self.is_planner() {
            self.plan(now, out);
        } else if let Some(leader) = self.leader
            && self.is_deputy(leader, now)
        {
            self.doubt(now, Some(leader), out);
        }
    }

    /// Whether nobody leads and this node may. One that has to be quiet ([`Agent::is_quiet`]) lets
    /// others try first.
    fn may_lead(&self, now: Mono) -> bool {
        let patience_ms = match self.is_quiet(now) {
            true => 2 * self.config.timing.fresh_ms,
            false => 0,
        };
        let is_due = |since: Mono| now.since(since) >= patience_ms;
        !self.has_leader && self.leaderless.is_none_or(is_due)
    }

    /// Puts its state into its record when another is wanted.
    fn declare(&mut self, now: Mono, lease: LeaseId, out: &mut Vec<Output>) {
        if self.state == self.wanted || self.is_calling(Kind::Put) || now < self.retry {
            return;
        }
        let Some(revision) = self.own_record().map(|record| record.revision) else {
            return;
        };
        self.retry = now.after(self.config.timing.ping_ms);
        let member = Member {
            state: self.wanted,
            ..self.member()
        };
        self.call(
            now,
            Kind::Put,
            Call::Update {
                lease,
                member,
                revision,
            },
            out,
        );
    }

    fn own_record(&self) -> Option<&Record> {
        let record = self.records.get(self.config.id.as_str())?;
        let is_mine = |m: &Member| m.incarnation == self.me;
        record
            .member
            .as_ref()
            .is_some_and(is_mine)
            .then_some(record)
    }

    fn member(&self) -> Member {
        Member {
            id: self.config.id.clone(),
            incarnation: self.me,
            state: self.state,
            zone: self.config.zone.clone(),
            version: self.config.version.clone(),
            protocol: PROTOCOL,
            relay: self.config.relay.clone(),
            control: self.config.control.clone(),
        }
    }

    fn is_calling(&self, kind: Kind) -> bool {
        self.calls.iter().any(|call| call.what == kind)
    }

    fn call(&mut self, now: Mono, what: Kind, call: Call, out: &mut Vec<Output>) {
        self.last_call += 1;
        let number = self.last_call;
        self.calls.push(Waiting {
            number,
            sent: now,
            what,
        });
        out.push(Output::Call(number, call));
    }

    fn in_contact(&mut self, now: Mono, out: &mut Vec<Output>) {
        let gap_ms = self.config.timing.gap_ms;
        if self.contact.is_none_or(|at| now.since(at) >= gap_ms) {
            self.contact_since = now;
        }
        self.contact = Some(now);
        if self.is_gone_told {
            self.is_gone_told = false;
            out.push(Output::Alert(Alert::EtcdBack));
        }
    }

    fn answered(&mut self, now: Mono, number: u64, answer: Option<Answer>, out: &mut Vec<Output>) {
        let Some(at) = self.calls.iter().position(|call| call.number == number) else {
            return;
        };
        let call = self.calls.swap_remove(at);
        let Some(answer) = answer else {
            return;
        };
        self.in_contact(now, out);
        match (call.what, answer) {
            (Kind::List, Answer::Listed(listed)) => self.listed(now, listed, out),
            (Kind::Grant, Answer::Granted(lease)) => {
                self.lease = Some(lease);
                self.lease_sent = call.sent;
                if self.life == Life::Granting {
                    self.life = Life::Creating;
                }
                self.retry = now;
                self.join(now, out);
            }
            (Kind::Put, Answer::Txn(is_done)) => self.was_put(now, is_done, out),
            (Kind::Keepalive, Answer::Alive(true)) if self.life == Life::In => {
                self.fence.confirmed(call.sent);
            }
            (Kind::Keepalive, Answer::Alive(false)) => self.lost(now, out),
            (Kind::Publish, Answer::Txn(is_done)) => self.planning.published(now, is_done),
            (Kind::Keepalive, Answer::Alive(true))
            | (Kind::Campaign | Kind::Revoke, Answer::Txn(_)) => {}
            _ => self.garbage(now, Alert::BadAnswer, out),
        }
    }

    /// The lease is not there: revoked, or gone in a stall. Nothing is acknowledged until it is
    /// known which.
    fn lost(&mut self, now: Mono, out: &mut Vec<Output>) {
        if self.life != Life::In {
            return;
        }
        self.fence.lost();
        self.lease = None;
        let until = now.after(self.config.timing.lease_ms / 2);
        self.life = Life::Regaining { until };
        self.retry = now;
        self.join(now, out);
    }

    fn was_put(&mut self, now: Mono, is_done: bool, out: &mut Vec<Output>) {
        match (self.life, is_done) {
            (Life::Creating, true) => {
                self.me = self.asked;
                self.life = Life::In;
                self.fence.confirmed(self.lease_sent);
                out.push(Output::Joined(self.me));
                if let Some(map) = self.map.clone() {
                    self.view(&map);
                    out.push(Output::Map(map));
                }
            }
            (Life::Regaining { .. }, true) => {
                self.life = Life::In;
                self.fence.confirmed(self.lease_sent);
            }
            (Life::Creating, false) => self.life = Life::Listing,
            // Either the map changed, or an earlier try got through: look.
            (Life::Regaining { .. }, false) if !self.is_calling(Kind::List) => {
                self.call(now, Kind::List, Call::List, out);
            }
            _ => {}
        }
    }

    fn listed(&mut self, now: Mono, listed: Listed, out: &mut Vec<Output>) {
        self.counter = listed.counter;
        self.relist = None;
        self.records.clear();
        for (key, stored) in listed.nodes {
            self.node_changed(now, key, Some(stored), out);
        }
        self.leader_changed(now, listed.leader, out);
        self.map_changed(now, listed.map, out);
        match self.life {
            Life::Listing if self.records.contains_key(self.config.id.as_str()) => {
                self.try_found(now, out);
            }
            Life::Listing => {
                self.retry = now;
                self.life = match self.lease {
                    Some(_) if now.since(self.lease_sent) < self.config.timing.lease_ms / 2 => {
                        Life::Creating
                    }
                    _ => {
                        self.lease = None;
                        Life::Granting
                    }
                };
            }
            // An earlier try got through.
            Life::Regaining { .. } if self.own_lease() => self.was_put(now, true, out),
            _ => {}
        }
    }

    /// Whether its own record is there under the lease that it has.
    fn own_lease(&self) -> bool {
        let record = self.own_record();
        self.lease.is_some() && record.is_some_and(|r| r.lease == self.lease)
    }

    /// The name is there already: by an earlier try of this process, or it is another's.
    fn try_found(&mut self, now: Mono, out: &mut Vec<Output>) {
        let record = self.records.get(self.config.id.as_str());
        let found = record.filter(|r| self.lease.is_some() && r.lease == self.lease);
        match found.and_then(|r| r.member.as_ref()).map(|m| m.incarnation) {
            Some(incarnation) => {
                self.asked = incarnation;
                self.life = Life::Creating;
                self.was_put(now, true, out);
            }
            None => {
                self.lease = None;
                self.retry = now.after(self.config.timing.fresh_ms);
                out.push(Output::Alert(Alert::NameTaken));
            }
        }
    }

    fn changed(&mut self, now: Mono, change: Change, out: &mut Vec<Output>) {
        match change {
            Change::Node(key, stored) => self.node_changed(now, key, stored, out),
            Change::Leader(stored) => self.leader_changed(now, stored, out),
            Change::Map(stored) => self.map_changed(now, stored, out),
            Change::Counter(version) => self.counter = version,
        }
    }

    fn node_changed(
        &mut self,
        now: Mono,
        key: String,
        stored: Option<Stored>,
        out: &mut Vec<Output>,
    ) {
        let Some(stored) = stored else {
            self.records.remove(&key);
            return;
        };
        let member = match Member::read(&key, &stored.value) {
            Ok(member) => {
                if !speaks_with(member.protocol, PROTOCOL) {
                    let alert = Alert::OtherProtocol(member.id.clone(), member.protocol);
                    out.push(Output::Alert(alert));
                }
                Some(member)
            }
            Err(error) => {
                self.garbage(now, Alert::BadMember(error), out);
                None
            }
        };
        let record = Record {
            revision: stored.revision,
            lease: stored.lease,
            member,
        };
        self.records.insert(key, record);
        if let Some(member) = self.own_record().and_then(|r| r.member.as_ref()) {
            self.state = member.state;
        }
    }

    fn leader_changed(&mut self, now: Mono, stored: Option<Stored>, out: &mut Vec<Output>) {
        self.has_leader = stored.is_some();
        self.leaderless = match self.has_leader {
            true => None,
            false => self.leaderless.or(Some(now)),
        };
        self.leader = stored.as_ref().and_then(|stored| {
            let text = std::str::from_utf8(&stored.value).ok()?;
            text.parse().ok().map(Incarnation)
        });
        if self.has_leader && self.leader.is_none() {
            self.garbage(now, Alert::BadLeader, out);
        } else if self.has_leader && !self.is_leaders(stored.and_then(|s| s.lease)) {
            // Read again: a leader that nobody is would never be missed.
            let at = now.after(self.config.timing.gap_ms);
            self.relist.get_or_insert(at);
        }
    }

    /// Whether the key of the leader stands under the lease of the one that it names.
    fn is_leaders(&self, lease: Option<LeaseId>) -> bool {
        let is_its = |r: &Record| r.member.as_ref().map(|m| m.incarnation) == self.leader;
        lease.is_some() && self.records.values().any(|r| r.lease == lease && is_its(r))
    }

    /// No decision is taken on what does not read; after a while it is read again.
    fn garbage(&mut self, now: Mono, alert: Alert, out: &mut Vec<Output>) {
        self.relist = Some(now.after(self.config.timing.gap_ms));
        out.push(Output::Alert(alert));
    }

    fn map_changed(&mut self, now: Mono, stored: Option<Stored>, out: &mut Vec<Output>) {
        let Some(stored) = stored else {
            // Deleted by hand: what was published holds.
            self.map_revision = Revision(0);
            return;
        };
        match ShardMap::read(&stored.value, self.config.shards) {
            Ok(map) => {
                self.map_revision = stored.revision;
                self.planning.etcd_epoch = map.epoch();
                if map.epoch() < self.epoch() {
                    out.push(Output::Alert(Alert::OldMap(map.epoch())));
                }
                self.adopt(Arc::new(map), out);
            }
            Err(error) => self.garbage(now, Alert::BadMap(error), out),
        }
    }

    fn epoch(&self) -> Epoch {
        self.map.as_ref().map_or(Epoch(0), |map| map.epoch())
    }

    /// A published map, wherever it was learnt.
    fn adopt(&mut self, map: Arc<ShardMap>, out: &mut Vec<Output>) {
        if map.epoch() <= self.epoch() || map.shards() != self.config.shards {
            return;
        }
        self.map = Some(map.clone());
        if self.me == Incarnation(0) {
            return;
        }
        if map.knows(self.me) {
            self.was_in_view = true;
        } else if self.was_in_view {
            self.out(OutReason::LeftOut, out);
            return;
        }
        self.view(&map);
        out.push(Output::Map(map));
    }

    /// Tells fence and peers who the others are.
    fn view(&mut self, map: &ShardMap) {
        self.was_in_view |= map.knows(self.me);
        let others = map.nodes().iter().map(|n| n.incarnation);
        let others: Vec<Incarnation> = others.filter(|n| *n != self.me).collect();
        self.peers.viewed(&others);
        self.fence.viewed(others);
    }

    fn out(&mut self, reason: OutReason, out: &mut Vec<Output>) {
        self.life = Life::Out;
        self.fence.lost();
        for peer in self.everybody() {
            out.push(Output::Note(peer, Note::Stopped));
        }
        out.push(Output::Out(reason));
    }

    /// The other nodes of the map, and those that have a record only.
    fn everybody(&self) -> Vec<Incarnation> {
        let of_map = self
            .map
            .iter()
            .flat_map(|map| map.nodes())
            .map(|n| n.incarnation);
        let mut all: Vec<Incarnation> = self
            .members()
            .map(|m| m.incarnation)
            .chain(of_map)
            .filter(|n| *n != self.me)
            .collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}
