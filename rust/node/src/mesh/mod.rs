//! This node among others: which entities live here, and what goes to the nodes of the rest.
//!
//! A session has two sides. Its *edge* is the node that holds its socket; its *home* is the node
//! where its entity lives. Where the two differ, the home has a proxy for it ([`proxies`]): a
//! session like any other, whose bytes go to the edge and not to a socket. So everything that is
//! done with sessions is the same for both.
//!
//! What a unit for a home waits for is counted by its receiver ([`counts`]) and told to its sender
//! when it is done: stored where it has to be, or answered. Until then the sender keeps a copy
//! ([`lanes`]), and sends it to the next home should this one die. A home that cannot take a unit
//! yet sends it back and says later when it can, so that nothing waits where it could keep another
//! from moving: what was taken ends by itself.
//!
//! How shards come and go is the work of one task ([`conductor`]); what it needs from other threads
//! is in [`Homes`].

mod announce;
pub(crate) mod conductor;
pub(crate) mod counts;
mod dispatch;
mod edge;
mod given;
mod home;
mod homes;
mod lanes;
mod proxies;
mod refusals;
mod releases;
mod relocate;
mod settle;
mod shadows;
mod taken;
pub(crate) mod unit;

use crate::node::Node;
use antiphon_cluster::holdings::{Head, Holdings, Verdict};
use antiphon_cluster::id::{Epoch, Incarnation};
use antiphon_cluster::link::{Class, SendError, Taken as Taking};
use antiphon_cluster::map::ShardMap;
use antiphon_cluster::membership::Place;
use antiphon_cluster::relay::Outcome;
use antiphon_net::session::Session;
use antiphon_routing::SessionId;
use antiphon_routing::effect::Origin;
use antiphon_routing::home::{SHARDS, shard_of};
use antiphon_xmpp::Jid;
use antiphon_xmpp::stanza::StanzaError;
use arc_swap::ArcSwapOption;
use bytes::Bytes;
pub use conductor::Event;
use counts::{Brought, Counts};
pub(crate) use homes::Guard;
pub use homes::Homes;
use lanes::Lanes;
use parking_lot::{Mutex, RwLock};
use proxies::Peer;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::{mpsc, oneshot};
use unit::Unit;

/// The ways to the other nodes: [`antiphon_cluster::link::Links`], or a test's.
pub trait Links: Send + Sync + 'static {
    /// Queues a unit for a node and never waits; its number, by which [`Node::units_settled`] tells
    /// what became of it. Units to one node and class arrive in the order in which they were sent,
    /// each once, while both live.
    ///
    /// # Errors
    /// [`SendError`]: there are no links with that node.
    fn send(&self, peer: u32, class: Class, unit: Bytes) -> Result<u64, SendError>;
    /// The same for what may wait for company, a few milliseconds at most.
    ///
    /// # Errors
    /// As [`Links::send`].
    fn send_soon(&self, peer: u32, class: Class, unit: Bytes) -> Result<u64, SendError> {
        self.send(peer, class, unit)
    }
    /// Whether there is room for more that may wait.
    fn has_room(&self, peer: u32) -> bool;
    /// Whether the peer is connected: one that is not may be dead.
    fn is_up(&self, _peer: u32) -> bool {
        true
    }
    /// Whether the peer cannot be reached and no map can come that puts another in its place: what
    /// is sent to it waits for nobody knows how long.
    fn is_cut_off(&self, _peer: u32) -> bool {
        false
    }
    /// Tells a node what became of a unit of its.
    fn done(&self, peer: u32, class: Class, number: u64, outcome: Outcome);
    /// The hybrid clock and the epoch, for all that is sent from now on.
    fn tell(&self, clock: u64, epoch: u64);
}

/// What waits for a unit to be done.
#[derive(Debug)]
pub(crate) enum Awaited {
    /// A stanza of a session here, and the bytes that are charged to it meanwhile.
    Session(Arc<Session>, u64, usize),
    /// Whatever brought it here.
    Origin(Origin),
    /// Nobody; it is sent again all the same if its receiver dies.
    Nobody,
}

/// How much is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Readings {
    /// Units for homes that are not done.
    pub sent: usize,
    /// Messages that clients sent again and that were known.
    pub known: u64,
    /// Units of others that are not done here.
    pub brought: usize,
    /// Sessions of other nodes whose entities live here.
    pub proxies: usize,
    /// Sessions of other nodes that this one is the shadow of.
    pub shadows: usize,
    /// Shards that are served here.
    pub served: usize,
    /// Epoch of the map.
    pub epoch: u64,
    /// Units of senders that the map does not know.
    pub refused: u64,
    /// Shards released in order, taken up released, taken up from the dead, dropped.
    pub moves: [u64; 4],
}

/// What a [`Node`] of a cluster has besides.
pub struct Mesh {
    links: Arc<dyn Links>,
    homes: Arc<Homes>,
    /// Whether it may still act; `None`: always, in tests without etcd.
    place: Option<Place>,
    map: ArcSwapOption<ShardMap>,
    pub(crate) holdings: RwLock<Holdings>,
    peers: RwLock<HashMap<u32, Arc<Peer>>>,
    /// By node: the epoch that it last told.
    epochs: RwLock<HashMap<u32, u64>>,
    proxies: proxies::Proxies,
    pub(crate) counts: Counts,
    lanes: Lanes,
    binds: Mutex<HashMap<u64, oneshot::Sender<Option<StanzaError>>>>,
    refusals: refusals::Refusals,
    /// Shards whose home could not be reached.
    retry: Mutex<BTreeSet<u16>>,
    /// Who waits for all that went to a node before.
    flushes: Mutex<HashMap<(u32, u64), oneshot::Sender<()>>>,
    taken: taken::TakenUp,
    unsure: settle::Unsure,
    /// Components that are connected to other nodes.
    components: RwLock<HashMap<Jid, u32>>,
    /// Anonymous users who have logged in here and bind elsewhere.
    guests: Mutex<HashSet<Jid>>,
    relocation: relocate::Relocation,
    shadows: shadows::Shadows,
    given: given::Given,
    events: mpsc::UnboundedSender<Event>,
    refused: AtomicU64,
    /// Messages that came again from clients and were known.
    pub(crate) known: AtomicU64,
    /// It drains: nobody binds here any more.
    is_draining: AtomicBool,
}

impl Mesh {
    /// A node before it has joined. The receiver is for [`Node::conduct`].
    #[must_use]
    pub fn new(
        links: Arc<dyn Links>,
        homes: Arc<Homes>,
        place: Option<Place>,
    ) -> (Self, mpsc::UnboundedReceiver<Event>) {
        let (events, receiver) = mpsc::unbounded_channel();
        let me = Incarnation(homes.me());
        let mesh = Self {
            links,
            homes,
            place,
            map: ArcSwapOption::empty(),
            holdings: RwLock::new(Holdings::new(me, SHARDS)),
            peers: RwLock::default(),
            epochs: RwLock::default(),
            proxies: proxies::Proxies::default(),
            counts: Counts::default(),
            lanes: Lanes::default(),
            binds: Mutex::default(),
            refusals: refusals::Refusals::default(),
            retry: Mutex::default(),
            flushes: Mutex::default(),
            taken: taken::TakenUp::default(),
            unsure: settle::Unsure::default(),
            components: RwLock::default(),
            guests: Mutex::default(),
            relocation: relocate::Relocation::default(),
            shadows: shadows::Shadows::default(),
            given: given::Given::default(),
            events,
            refused: AtomicU64::new(0),
            known: AtomicU64::new(0),
            is_draining: AtomicBool::new(false),
        };
        (mesh, receiver)
    }

    pub(crate) fn me(&self) -> u32 {
        self.homes.me()
    }

    /// The map in force.
    pub(crate) fn map(&self) -> Option<Arc<ShardMap>> {
        self.map.load_full()
    }

    /// Tells [`Node::conduct`].
    pub fn happened(&self, event: Event) {
        // After the end nobody listens.
        let _ = self.events.send(event);
    }

    /// Nobody binds here any more.
    pub(crate) fn close_doors(&self) {
        self.is_draining.store(true, Ordering::Release);
    }

    /// They do.
    pub(crate) fn open_doors(&self) {
        self.is_draining.store(false, Ordering::Release);
    }

    /// Whether sessions may be bound here: it is in the cluster, and does not leave it.
    pub(crate) fn takes_sessions(&self) -> bool {
        self.me() != 0 && !self.is_draining.load(Ordering::Acquire)
    }

    /// Whether a shard is served here.
    #[must_use]
    pub fn serves(&self, shard: u16) -> bool {
        self.homes.is_served(shard)
    }

    /// Shards on their way here, and away.
    pub(crate) fn moving(&self) -> (usize, usize) {
        self.holdings.read().moving()
    }

    /// [`Holdings::settled`], of what is served indeed.
    pub(crate) fn settled(&self) -> Vec<(u16, Epoch)> {
        let settled = self.holdings.read().settled();
        let is_served = |at: &(u16, Epoch)| self.homes.is_served(at.0);
        settled.into_iter().filter(is_served).collect()
    }

    /// How a shard is held, for logs and people.
    #[must_use]
    pub fn describe(&self, shard: u16) -> String {
        let busy = self.homes.is_quiet(shard);
        let held = self.holdings.read().describe(shard);
        format!("{held}, quiet: {busy}, wait: {}", self.lanes.is_open(shard))
    }

    /// What is under way.
    #[must_use]
    pub fn readings(&self) -> Readings {
        let holdings = self.holdings.read();
        let counts = holdings.counts();
        Readings {
            sent: self.lanes.len(),
            known: self.known.load(Ordering::Relaxed),
            brought: self.counts.len(),
            proxies: self.proxies.len(),
            shadows: self.shadows.len(),
            served: self.homes.served(),
            epoch: holdings.epoch().0,
            refused: self.refused.load(Ordering::Relaxed),
            moves: [
                counts.released,
                counts.taken_clean,
                counts.taken_unclean,
                counts.dropped,
            ],
        }
    }

    /// A session of another node, as it is known here.
    pub(crate) fn proxy(&self, id: SessionId) -> Option<Arc<Session>> {
        self.proxies.get(id).map(|f| Arc::clone(&f.session))
    }

    /// A shard that is served here; it does not go while the guard lives. `None`: it is not, or
    /// this process may take nothing on.
    pub(crate) fn enter(&self, shard: u16) -> Option<Guard> {
        let guard = Homes::enter(&self.homes, shard)?;
        let may_accept = self.place.as_ref().is_none_or(Place::may_accept);
        may_accept.then_some(guard)
    }

    /// Whether no map names a node that sends something: it died, left, never joined, or joins just
    /// now. The epoch of the first map that may name it. One that acts on a later map than this
    /// node's may have joined by that.
    fn stranger(&self, peer: u32) -> Option<Epoch> {
        if peer == self.me() || self.peers.read().contains_key(&peer) {
            return None;
        }
        let epoch = Epoch(self.epochs.read().get(&peer).copied().unwrap_or(0));
        let holdings = self.holdings.read();
        let verdict = holdings.judge_sender(Incarnation(peer), epoch);
        if verdict != Some(Verdict::Refuse) {
            return None;
        }
        self.refused.fetch_add(1, Ordering::Relaxed);
        Some(Epoch(holdings.epoch().0 + 1))
    }

    /// Whether a unit for a shard is taken; else what becomes of it.
    fn judge(&self, peer: u32, head: (u16, u32)) -> Result<Guard, Outcome> {
        if let Some(needs) = self.stranger(peer) {
            // One that joins sends it again by the map that names it; the others never.
            let outcome = Outcome::Returned(needs);
            self.refusals.note(peer, head, outcome);
            return Err(outcome);
        }
        let is_behind = self.refusals.has(peer, head);
        if !is_behind && let Some(guard) = self.enter(head.0) {
            return Ok(guard);
        }
        let outcome = self.refusal(peer, head.0);
        self.refusals.note(peer, head, outcome);
        if !is_behind && outcome == Outcome::NotYet && self.enter(head.0).is_some() {
            // It came between the two looks: its sender may try again at once.
            return Err(Outcome::Returned(Epoch(0)));
        }
        Err(outcome)
    }

    fn refusal(&self, peer: u32, shard: u16) -> Outcome {
        let holdings = self.holdings.read();
        let epoch = match peer == self.me() {
            true => holdings.epoch(),
            false => Epoch(self.epochs.read().get(&peer).copied().unwrap_or(0)),
        };
        let sender = Incarnation(peer);
        let head = Head {
            shard,
            epoch,
            sender,
        };
        match holdings.judge(&head) {
            Verdict::Stale { epoch } | Verdict::Redirect { epoch } => Outcome::Returned(epoch),
            Verdict::Accept { .. } if self.enter(shard).is_some() => Outcome::Returned(Epoch(0)),
            Verdict::Accept { .. } | Verdict::Park(_) => Outcome::NotYet,
            Verdict::Refuse => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                Outcome::NotYet
            }
        }
    }

    /// Tells a node something.
    pub(super) fn tell(&self, peer: u32, unit: &Unit<'_>) -> bool {
        self.send_unit(peer, unit.pack()).is_ok()
    }

    /// Queues a packed unit.
    fn send_unit(&self, peer: u32, unit: Bytes) -> Result<u64, SendError> {
        match unit::is_patient(&unit) {
            true => self.links.send_soon(peer, Class::Stanza, unit),
            false => self.links.send(peer, Class::Stanza, unit),
        }
    }

    pub(super) fn tell_all(&self, unit: &Unit<'_>) {
        let peers: Vec<u32> = self.peers.read().keys().copied().collect();
        for peer in peers {
            self.tell(peer, unit);
        }
    }

    /// Sends part of a hand-over.
    fn hand(&self, peer: u32, unit: &Unit<'_>) -> bool {
        self.links.send(peer, Class::Bulk, unit.pack()).is_ok()
    }

    /// A peer's reading of its clock, and its epoch.
    pub fn observed(&self, peer: u32, epoch: u64) {
        if self.epochs.read().get(&peer) == Some(&epoch) {
            return;
        }
        let mut epochs = self.epochs.write();
        // Strangers are few: their links are refused before.
        let known = epochs.entry(peer).or_default();
        *known = epoch.max(*known);
    }

    fn flushed(&self, peer: u32, number: u64) {
        if let Some(waiting) = self.flushes.lock().remove(&(peer, number)) {
            // Whoever waited may have gone.
            let _ = waiting.send(());
        }
    }
}

/// What [`Node::stay`] finds.
pub(crate) enum Stay {
    /// The entity's shard is here, for as long as the guard lives.
    Here(Option<Guard>),
    /// It is, unless another has taken it: that is not certain now.
    Unsure,
    /// It goes, or is another's.
    Gone,
}

impl Node {
    /// What is under way to other nodes and from them.
    #[must_use]
    pub fn mesh_readings(&self) -> Option<Readings> {
        self.mesh.as_deref().map(Mesh::readings)
    }

    /// The mesh, if what concerns this address is not handled here and now.
    pub(crate) fn elsewhere(&self, bare: &str) -> Option<(&Mesh, u16)> {
        let mesh = self.mesh.as_deref()?;
        let shard = shard_of(bare);
        let is_here = mesh.homes.is_served(shard) && !mesh.lanes.is_open(shard);
        (!is_here).then_some((mesh, shard))
    }

    /// Keeps an entity's shard here for as long as the guard lives.
    ///
    /// # Errors
    /// It is not served here.
    pub(crate) fn enter(&self, bare: &str) -> Result<Option<Guard>, crate::node::Busy> {
        match self.mesh.as_deref() {
            Some(mesh) => mesh
                .enter(shard_of(bare))
                .map(Some)
                .ok_or(crate::node::Busy),
            None => Ok(None),
        }
    }

    /// As [`Node::enter`], also while the shard comes and its entities are told of their sessions.
    pub(crate) fn stay(&self, bare: &str) -> Stay {
        let Some(mesh) = self.mesh.as_deref() else {
            return Stay::Here(None);
        };
        let shard = shard_of(bare);
        let guard = Homes::hold(&mesh.homes, shard);
        // Behind the count: whoever gives it away looks at the count after this.
        if mesh.holdings.read().serving(shard).is_none() {
            return Stay::Gone;
        }
        match mesh.place.as_ref().is_none_or(Place::may_accept) {
            true => Stay::Here(guard),
            false => Stay::Unsure,
        }
    }

    /// Whether an entity has nothing to do with this node.
    pub(crate) fn is_away(&self, bare: &str) -> bool {
        let mesh = self.mesh.as_deref();
        mesh.is_some_and(|mesh| mesh.holdings.read().is_away(shard_of(bare)))
    }

    /// Keeps an entity's shard here, be it served or not.
    pub(crate) fn keep_shard(&self, bare: &str) -> Option<Guard> {
        let mesh = self.mesh.as_deref()?;
        Homes::hold(&mesh.homes, shard_of(bare))
    }

    /// A session by its id, whichever node holds its socket.
    pub(crate) fn session(&self, id: SessionId) -> Option<Arc<Session>> {
        let Some(mesh) = self.mesh.as_deref() else {
            return self.sessions.get(id);
        };
        let find = |id: SessionId| match id.node == mesh.me() {
            true => self.sessions.get(id),
            false => mesh.proxy(id),
        };
        // Whoever asked something for it may know it by a name that it had before.
        find(id).or_else(|| find(mesh.relocation.name_of(id)?))
    }

    /// A stanza waits for so many more things.
    pub(crate) fn expect_more(&self, origin: Origin, more: u32) {
        match self.mesh.as_deref() {
            Some(mesh) if origin.session.node != mesh.me() => mesh.counts.expect(origin, more),
            _ => {
                if let Some(session) = self.sessions.get(origin.session) {
                    session.expect(origin.seq, more);
                }
            }
        }
    }

    /// One thing that a stanza waited for is done.
    pub(crate) fn handled_one(&self, origin: Origin) {
        match self.mesh.as_deref() {
            Some(mesh) if origin.session.node != mesh.me() => {
                for Brought { peer, number } in mesh.counts.handled(origin) {
                    mesh.links.done(peer, Class::Stanza, number, Outcome::Done);
                }
            }
            _ => {
                if let Some(session) = self.sessions.get(origin.session) {
                    session.handled(origin.seq);
                }
            }
        }
    }

    /// A unit of another node has come. Units of one node and class must be handed over one after
    /// another.
    pub fn unit_received(
        self: &Arc<Self>,
        peer: u32,
        class: Class,
        number: u64,
        bytes: &Bytes,
    ) -> Taking {
        let Some(mesh) = self.mesh.as_deref() else {
            return Taking::Settled(Outcome::Done);
        };
        if class == Class::Bulk {
            // Its room is given back when it has been looked at.
            mesh.happened(Event::Bulk {
                peer,
                number,
                unit: bytes.clone(),
            });
            return Taking::Held;
        }
        if unit::is_delivery(bytes) && mesh.stranger(peer).is_some() {
            return Taking::Settled(Outcome::Done);
        }
        let guard = match unit::head_of(bytes) {
            None => None,
            Some(head) => match mesh.judge(peer, head) {
                Ok(guard) => Some(guard),
                Err(outcome) => return Taking::Settled(outcome),
            },
        };
        let brought = Brought { peer, number };
        match Unit::unpack(bytes) {
            Ok(unit) => match self.take_unit(mesh, brought, unit) {
                true => {
                    drop(guard);
                    Taking::Later
                }
                false if unit::is_flush(bytes) => Taking::Settled(Outcome::Done),
                false => Taking::Quiet(Outcome::Done),
            },
            Err(error) => {
                self.log_unit(peer, &error.to_string());
                // Done, or its sender would keep it for ever.
                Taking::Settled(Outcome::Done)
            }
        }
    }

    fn log_unit(&self, peer: u32, reason: &str) {
        let fields = vec![("peer", peer.to_string()), ("reason", reason.to_owned())];
        self.bridge.log(crate::node::ERROR, "unit dropped", fields);
    }

    fn settle(&self, awaited: &Awaited) {
        match awaited {
            Awaited::Session(session, seq, bytes) => {
                session.handled(*seq);
                session.saved(*bytes);
            }
            Awaited::Origin(origin) => self.handled_one(*origin),
            Awaited::Nobody => {}
        }
    }
}
