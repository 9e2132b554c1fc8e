//! Sessions whose sockets are on other nodes and whose entities live here.

use super::Mesh;
use super::counts::Brought;
use super::homes::Homes;
use super::unit::Unit;
use crate::node::Node;
use antiphon_cluster::link::UNIT_BYTES_MAX;
use antiphon_net::session::{FIRST_GENERATION, QueueLimits, Session};
use antiphon_routing::SessionId;
use antiphon_routing::effect::Origin;
use antiphon_routing::home::shard_of;
use antiphon_xmpp::packed::{Unpacker, put_number};
use antiphon_xmpp::stream::{Framing, StreamCondition};
use antiphon_xmpp::{Jid, Stanza};
use bytes::Bytes;
use hashbrown::HashMap;
use parking_lot::{Mutex, RwLock};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};
use tokio::sync::Notify;

/// Locks.
const LOCKS: usize = 64;

/// Another node of the cluster.
pub(super) struct Peer {
    pub incarnation: u32,
    /// Proxies of its sessions that have something for it.
    ready: Mutex<Vec<Arc<Foreign>>>,
    wake: Notify,
    is_gone: AtomicBool,
    /// A proxy waits for room on the link.
    is_stalled: AtomicBool,
}

impl Peer {
    pub fn new(incarnation: u32) -> Self {
        Self {
            incarnation,
            ready: Mutex::default(),
            wake: Notify::new(),
            is_gone: AtomicBool::new(false),
            is_stalled: AtomicBool::new(false),
        }
    }

    pub fn leave(&self) {
        self.is_gone.store(true, Ordering::Release);
        self.wake.notify_one();
    }
}

/// A stanza that its edge has handed over and that waits behind one whose answer comes first.
struct Held {
    seq: u64,
    stanza: Stanza,
    brought: Brought,
}

#[derive(Default)]
struct Inbox {
    held: VecDeque<Held>,
    /// The entity has moved: its sender hears of it.
    is_over: bool,
}

/// One such session.
pub(super) struct Foreign {
    pub session: Arc<Session>,
    peer: Arc<Peer>,
    is_ready: AtomicBool,
    /// Held while what the session has is taken and sent, lest it come behind what follows.
    pub outbox: Mutex<()>,
    /// What its edge sent is handled under this lock, one after another. The edge bounds it: what
    /// is not done is charged to the session there.
    inbox: Mutex<Inbox>,
}

impl Foreign {
    /// Nothing more is handled here of what its edge has sent; what was not begun.
    pub fn end_inbox(&self) -> Vec<Brought> {
        let mut inbox = self.inbox.lock();
        inbox.is_over = true;
        inbox.held.drain(..).map(|held| held.brought).collect()
    }
}

impl Wake for Foreign {
    fn wake(self: Arc<Self>) {
        if self.is_ready.swap(true, Ordering::AcqRel) {
            return;
        }
        let peer = Arc::clone(&self.peer);
        peer.ready.lock().push(self);
        peer.wake.notify_one();
    }
}

type Slice = RwLock<HashMap<SessionId, Arc<Foreign>>>;

/// All of them.
pub(super) struct Proxies(Box<[Slice]>);

impl Default for Proxies {
    fn default() -> Self {
        Self((0..LOCKS).map(|_| RwLock::default()).collect())
    }
}

impl Proxies {
    fn slice(&self, id: SessionId) -> &Slice {
        &self.0[id.number as usize % LOCKS]
    }

    pub fn get(&self, id: SessionId) -> Option<Arc<Foreign>> {
        self.slice(id).read().get(&id).cloned()
    }

    /// Enters a session of a peer; the one that is there already, if it is.
    pub fn enter(
        &self,
        id: SessionId,
        jid: Jid,
        peer: &Arc<Peer>,
        limits: QueueLimits,
    ) -> Arc<Foreign> {
        let mut slice = self.slice(id).write();
        let foreign = slice.entry(id).or_insert_with(|| {
            let session = Session::new(id, jid, Framing::Relay, limits);
            let foreign = Arc::new(Foreign {
                session: Arc::new(session),
                peer: Arc::clone(peer),
                is_ready: AtomicBool::new(false),
                outbox: Mutex::new(()),
                inbox: Mutex::default(),
            });
            let waker = Waker::from(Arc::clone(&foreign));
            // There is nothing to take yet; it names whom to wake.
            let _ = foreign.session.take(FIRST_GENERATION, &waker);
            foreign
        });
        Arc::clone(foreign)
    }

    /// Takes one out.
    pub fn leave(&self, id: SessionId) -> Option<Arc<Foreign>> {
        self.slice(id).write().remove(&id)
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.iter().map(|slice| slice.read().len()).sum()
    }

    /// Those for which something holds.
    pub fn those(&self, is_meant: impl Fn(&Foreign) -> bool) -> Vec<Arc<Foreign>> {
        let mut all = Vec::new();
        for slice in &self.0 {
            let slice = slice.read();
            all.extend(slice.values().filter(|f| is_meant(f)).cloned());
        }
        all
    }
}

impl Node {
    /// Carries what proxies have to a peer, while it lives.
    pub(super) async fn pump(self: Arc<Self>, peer: Arc<Peer>) {
        let Some(mesh) = self.mesh.clone() else {
            return;
        };
        while !peer.is_gone.load(Ordering::Acquire) {
            peer.wake.notified().await;
            loop {
                let ready = std::mem::take(&mut *peer.ready.lock());
                if ready.is_empty() {
                    break;
                }
                for foreign in ready {
                    foreign.is_ready.store(false, Ordering::Release);
                    self.look_at_proxy(&mesh, &foreign);
                }
            }
        }
    }

    fn look_at_proxy(self: &Arc<Self>, mesh: &Mesh, foreign: &Arc<Foreign>) {
        if self.carry_proxy(mesh, foreign) {
            self.work_off(mesh, foreign);
        }
    }

    /// What a session elsewhere brought is answered, and the session has the answer, unless it is
    /// over or its shard has just gone.
    pub(crate) fn answered_for(&self, session: &Session, origin: Origin, is_given: bool) {
        let Some(mesh) = self.mesh.as_deref() else {
            return;
        };
        if let Some(foreign) = mesh.proxies.get(session.id) {
            // The answer goes first.
            self.carry_proxy(mesh, &foreign);
        }
        if is_given || self.elsewhere(session.jid.bare_str()).is_none() {
            return self.handled_one(origin);
        }
        for brought in mesh.counts.take_one(origin) {
            self.bring_elsewhere(mesh, brought);
        }
    }

    /// Sends the edge of a proxy what that has; whether it is still carried by this.
    fn carry_proxy(&self, mesh: &Mesh, foreign: &Arc<Foreign>) -> bool {
        let session = &foreign.session;
        let peer = foreign.peer.incarnation;
        let waker = Waker::from(Arc::clone(foreign));
        let has_room = mesh.links.has_room(peer);
        let outbox = foreign.outbox.lock();
        let taken = if has_room {
            session.take(FIRST_GENERATION, &waker)
        } else {
            // What waits stays in the session, where it is bounded; the next tick looks again.
            foreign.peer.is_stalled.store(true, Ordering::Release);
            session.look(FIRST_GENERATION, &waker)
        };
        if taken.is_replaced {
            return false;
        }
        for unit in deliveries(session.id.number, &taken.out.bytes) {
            // A node that is gone needs it no more.
            let _ = mesh.give(session, unit);
        }
        if let Some(error) = taken.close {
            let unit = Unit::Close {
                session: session.id.number,
                condition: error.condition,
                text: error.text.as_deref(),
            };
            mesh.tell(peer, &unit);
        }
        drop(outbox);
        true
    }

    /// Wakes the proxies of peers whose links were full.
    pub(super) fn wake_proxies(&self, mesh: &Mesh) {
        let peers: Vec<Arc<Peer>> = mesh.peers.read().values().cloned().collect();
        for peer in peers {
            if mesh.links.has_room(peer.incarnation)
                && peer.is_stalled.swap(false, Ordering::AcqRel)
            {
                for foreign in mesh.proxies.those(|f| Arc::ptr_eq(&f.peer, &peer)) {
                    foreign.wake();
                }
            }
        }
    }

    /// Handles a stanza that the edge of a proxy has sent, unless one before it must be answered
    /// first.
    pub(super) fn from_proxy(
        self: &Arc<Self>,
        mesh: &Mesh,
        foreign: &Arc<Foreign>,
        seq: u64,
        stanza: Stanza,
        brought: Brought,
    ) {
        let mut inbox = foreign.inbox.lock();
        if inbox.is_over {
            // Its shard has just gone: its sender brings it to the next home.
            drop(inbox);
            return self.bring_elsewhere(mesh, brought);
        }
        if foreign.session.is_held() || !inbox.held.is_empty() {
            inbox.held.push_back(Held {
                seq,
                stanza,
                brought,
            });
            return;
        }
        self.handle_of_proxy(mesh, foreign, seq, stanza, brought);
    }

    fn work_off(self: &Arc<Self>, mesh: &Mesh, foreign: &Arc<Foreign>) {
        let mut inbox = foreign.inbox.lock();
        while !foreign.session.is_held() && !inbox.held.is_empty() {
            // Of a shard that goes it is not begun any more, and goes back to who sent it.
            let shard = shard_of(foreign.session.jid.bare_str());
            let Some(_guard) = Homes::enter(&mesh.homes, shard) else {
                break;
            };
            let Some(held) = inbox.held.pop_front() else {
                break;
            };
            self.handle_of_proxy(mesh, foreign, held.seq, held.stanza, held.brought);
        }
        if inbox.held.is_empty() && inbox.held.capacity() > 64 {
            inbox.held.shrink_to_fit();
        }
    }

    /// Its sender is to look where the home is now.
    pub(super) fn bring_elsewhere(&self, mesh: &Mesh, brought: Brought) {
        let epoch = mesh.holdings.read().epoch();
        self.return_all(mesh, [brought], epoch);
    }

    /// Ends a session's stream with an error, at its edge.
    pub(super) fn close_at_edge(&self, mesh: &Mesh, id: SessionId, condition: StreamCondition) {
        let unit = Unit::Close {
            session: id.number,
            condition,
            text: None,
        };
        mesh.tell(id.node, &unit);
    }
}

/// Ends a proxy that has been taken out: units with all that it still has for its edge, where it was
/// until now. What comes later `successor` gets.
pub(super) fn last_of(session: &Session, successor: Option<&Arc<Session>>) -> Vec<Bytes> {
    let (out, rest) = session.retire(successor);
    let mut packed = out.bytes;
    for sent in rest {
        put_number(sent.offline.unwrap_or(0), &mut packed);
        sent.stanza.pack(&mut packed);
    }
    deliveries(session.id.number, &packed)
}

/// Units that carry these bytes, each with whole stanzas.
fn deliveries(number: u64, packed: &[u8]) -> Vec<Bytes> {
    /// Bytes that need no look at where stanzas end.
    const WHOLE: usize = UNIT_BYTES_MAX - 64;
    let unit = |packed| {
        let session = number;
        Unit::Deliver { session, packed }.pack()
    };
    if packed.is_empty() {
        return Vec::new();
    }
    if packed.len() <= WHOLE {
        return vec![unit(packed)];
    }
    let mut units = Vec::new();
    let (mut start, mut end) = (0, 0);
    let mut from = Unpacker::new(packed);
    while from.number().is_ok() && from.stanza().is_ok() {
        let next = packed.len() - from.rest().len();
        if next - start > WHOLE && end > start {
            units.push(unit(&packed[start..end]));
            start = end;
        }
        end = next;
    }
    units.push(unit(&packed[start..end]));
    units
}
