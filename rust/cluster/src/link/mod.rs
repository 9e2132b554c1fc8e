//! Links between nodes: streams of stanzas and hand-overs, each with words about what became of
//! them.
//!
//! Every node dials every other node of its view, once for each [`Class`], each class on its own
//! connection, so that a hand-over never stands before a stanza. What goes over a stream, again
//! after a break, and what was seen already is decided in [`crate::relay`], which has no sockets;
//! here are the sockets, TLS, the handshake and the clock.
//!
//! A unit is bytes; what they mean is the node's matter. [`Links::send`] never blocks: a unit is
//! queued or refused. [`Receiver::receive`] is called for each in order and says what became of
//! it, or that this will be said later by [`Links::done`]. Frames are made when the socket takes
//! them, of all that has queued, so batches grow under load and a lone unit waits for nothing.
//!
//! Who is at the other end: the certificate must bear the node's name (a DNS name of its
//! subjectAltName), and the hello must tell the same name, cluster, a neighbouring protocol version
//! and a clock within half a second. Both sides log one line when a peer is refused.
//!
//! Where the way between two nodes is cut and both reach a third one, the link goes over that: a
//! tunnel of bytes ([`tunnel`]) below TLS, so the third node can hold back or break off and nothing
//! else. All that is said here of a link holds for such a one, end to end. As soon as the direct way
//! works again the link takes it.

mod dial;
mod material;
mod note;
mod pack;
mod peer;
mod serve;
mod tunnel;
mod way;

use crate::clock;
use crate::id::{Epoch, Incarnation, NodeId, Timing};
use crate::log::{Level, Log};
use crate::relay::{Outcome, QueueFull, RelayCounts};
use crate::talk::Note;
use crate::tls::{FileError, Files};
use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use hashbrown::HashMap;
use material::Material;
use parking_lot::Mutex;
use peer::{Peer, wake};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

pub use crate::relay::Class;
pub use dial::Probe;
pub use serve::{Refusal, Why};

/// Most bytes of units in one frame; one unit may be larger.
pub const FRAME_BYTES: usize = 64 << 10;
/// Most bytes of one unit: what is larger (a hand-over) goes in parts.
pub const UNIT_BYTES_MAX: usize = 1 << 20;
/// Tunnels that a node carries for others at a time: both classes, both ways, of 16 cut pairs.
pub const TUNNELS_MAX: usize = 64;
/// Most notes that wait for a peer; the oldest goes.
const NOTES_MAX: usize = 64;
/// What may wait for company goes so long after what went before it: a frame costs a node many
/// times what a unit in it does.
const UNIT_PATIENCE: Duration = Duration::from_millis(10);
/// The same for words that nobody waits for. A shard that moves waits for them.
const WORD_PATIENCE: Duration = Duration::from_millis(20);
/// Smallest window that takes every unit.
pub const WINDOW_BYTES_MIN: u64 = UNIT_BYTES_MAX as u64 + 1024;

/// What the links need to know.
pub struct Options {
    /// Name of the cluster: nodes of another are refused.
    pub cluster: String,
    /// This node.
    pub node: NodeId,
    /// Version of the program, for people.
    pub version: String,
    /// Certificates; all three files.
    pub tls: Files,
    /// Bytes that may wait for a peer, each class; beyond that [`Links::send`] refuses.
    pub queue_bytes_max: usize,
    /// Bytes that a peer may have sent and the node not taken on, each class. The same in all
    /// nodes, and at least [`WINDOW_BYTES_MIN`], or the largest units find no room.
    pub window_bytes: u64,
    /// Ways for others that this node is at a time: [`TUNNELS_MAX`].
    pub tunnels_max: usize,
    /// Pings.
    pub timing: Timing,
    /// Version of the protocol that it says it speaks: [`crate::member::PROTOCOL`].
    pub protocol: u16,
    /// The wall clock, ms since 1970: [`clock::wall_ms`].
    pub wall_ms: fn() -> u64,
    /// Events for the operator.
    pub log: Arc<dyn Log>,
}

/// What the node made of a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It is settled.
    Settled(Outcome),
    /// It is settled, and nobody waits for the word: on a busy link it goes with others.
    Quiet(Outcome),
    /// It was taken on: there is room for the next; [`Links::done`] says what became of it.
    Later,
    /// It is kept by the node and charged to the peer's window until [`Links::done`].
    Held,
}

/// The node, as the links see it. Called on the runtime's threads; nothing here may block.
pub trait Receiver: Send + Sync + 'static {
    /// The next unit of this peer and class, in order, each once in the peer's life. It shares the
    /// memory of its frame ([`FRAME_BYTES`]): what is kept for long is copied.
    fn receive(&self, from: Incarnation, class: Class, number: u64, unit: Bytes) -> Taken;

    /// What became of units that this node sent, in the order in which it came to be.
    fn settled(&self, to: Incarnation, class: Class, outcomes: &[(u64, Outcome)]);

    /// A reading of a peer's hybrid clock and its map's epoch: never run behind the first.
    fn observed(&self, from: Incarnation, clock: u64, epoch: Epoch);
}

/// How a link does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkEvent {
    /// It stands; what was queued goes.
    Up {
        /// With whom.
        peer: Incarnation,
        /// Which.
        class: Class,
    },
    /// It broke; it is dialled again until the peer leaves the view.
    Down {
        /// With whom.
        peer: Incarnation,
        /// Which.
        class: Class,
        /// For people.
        reason: String,
    },
    /// Its port refused a connection, or accepted one; a direct one, never over a third node.
    Port {
        /// Whose.
        peer: Incarnation,
        /// Nobody listens there.
        is_refused: bool,
    },
    /// The peer refuses us, or we refuse it.
    Refused {
        /// Its name.
        node: String,
        /// Why.
        refusal: Refusal,
    },
    /// A peer says something beside the streams.
    Note {
        /// Who, by its hello.
        from: Incarnation,
        /// What.
        note: Note,
    },
}

/// What this node tells its peers with every frame.
#[derive(Debug, Default)]
pub struct Telling {
    /// Epoch of the map it acts on.
    pub epoch: AtomicU64,
    /// Its hybrid clock.
    pub clock: AtomicU64,
}

/// A peer to have links with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its name.
    pub node: NodeId,
    /// Its life.
    pub incarnation: Incarnation,
    /// `host:port` of its relay.
    pub address: String,
}

/// Figures of one class of links with a peer, both directions.
#[derive(Debug, Clone)]
pub struct LinkStats {
    /// Its name.
    pub node: NodeId,
    /// Its life.
    pub incarnation: Incarnation,
    /// Which.
    pub class: Class,
    /// Our connection to it stands.
    pub is_up: bool,
    /// Over which third node our connection to it goes, while the direct way is cut.
    pub via: Option<NodeId>,
    /// Its connection to us stands.
    pub is_heard: bool,
    /// Times our connection stood.
    pub connects: u64,
    /// Times it broke.
    pub resets: u64,
    /// Bytes that wait for it.
    pub queued_bytes: usize,
    /// Units that it received and has said nothing of.
    pub pending: usize,
    /// What we sent.
    pub sent: RelayCounts,
    /// What it sent.
    pub received: RelayCounts,
}

/// Why a unit was not queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// Too much waits for this node: answer `resource-constraint`, type wait.
    #[error(transparent)]
    Full(#[from] QueueFull),
    /// This life of a node is not known (any more): route by the next map.
    #[error("no such node in the view")]
    Unknown,
    /// Larger than [`UNIT_BYTES_MAX`].
    #[error("the unit is too large")]
    TooLarge,
}

type Observer = Box<dyn Fn(LinkEvent) + Send + Sync>;

/// How a unit is queued.
#[derive(Clone, Copy, Default)]
struct Push {
    /// Whatever waits already.
    is_reserved: bool,
    /// It may wait for company.
    is_patient: bool,
}

/// All links of this node. Cheap to clone; [`Links::close`] ends them.
#[derive(Clone)]
pub struct Links(Arc<Shared>);

pub(crate) struct Shared {
    options: Options,
    material: Material,
    receiver: Arc<dyn Receiver>,
    observer: ArcSwapOption<Observer>,
    telling: Telling,
    incarnation: AtomicU32,
    /// Looked at with every unit, replaced with every view.
    peers: ArcSwap<HashMap<Incarnation, Arc<Peer>>>,
    changing: Mutex<View>,
    connection: AtomicU64,
    refused: AtomicU64,
    /// Room for ways that this node is for others.
    tunnels: Arc<Semaphore>,
    is_closed: AtomicBool,
    runtime: Handle,
    listener: Mutex<Option<AbortHandle>>,
    /// What was refused, when it was last said: each reason once a minute.
    said: Mutex<HashMap<String, u64>>,
}

#[derive(Default)]
struct View {
    /// Highest incarnation that a view ever named.
    highest: Incarnation,
}

impl Links {
    /// Reads the certificates; dials nobody and listens nowhere yet.
    ///
    /// # Errors
    /// [`FileError`] names the file.
    pub fn new(
        options: Options,
        receiver: Arc<dyn Receiver>,
        runtime: Handle,
    ) -> Result<Self, FileError> {
        let material = Material::load(options.tls.clone(), options.node.as_str())?;
        Ok(Self(Arc::new(Shared {
            material,
            receiver,
            observer: ArcSwapOption::empty(),
            telling: Telling::default(),
            incarnation: AtomicU32::new(0),
            peers: ArcSwap::default(),
            changing: Mutex::default(),
            // Above those of an earlier process of this life, if there could be one.
            connection: AtomicU64::new(clock::wall_ms()),
            refused: AtomicU64::new(0),
            tunnels: Arc::new(Semaphore::new(options.tunnels_max)),
            is_closed: AtomicBool::new(false),
            runtime,
            listener: Mutex::new(None),
            said: Mutex::default(),
            options,
        })))
    }

    /// Who is told how links do, instead of whoever was before.
    pub fn observe(&self, observer: impl Fn(LinkEvent) + Send + Sync + 'static) {
        let observer: Observer = Box::new(observer);
        self.0.observer.store(Some(Arc::new(observer)));
    }

    /// Takes connections of peers from now on.
    pub fn listen(&self, listener: TcpListener) {
        let task = self
            .0
            .runtime
            .spawn(serve::run(Arc::clone(&self.0), listener));
        *self.0.listener.lock() = Some(task.abort_handle());
    }

    /// This process has joined with that incarnation.
    pub fn joined(&self, incarnation: Incarnation) {
        self.0.incarnation.store(incarnation.0, Ordering::Release);
    }

    /// What frames tell; the caller keeps it current.
    #[must_use]
    pub fn telling(&self) -> &Telling {
        &self.0.telling
    }

    /// The others of the view: links with new ones are made, those with others end, and what was
    /// queued for those is dropped (the router has its own copies).
    pub fn view(&self, targets: &[Target]) {
        let mut view = self.0.changing.lock();
        let highest = targets.iter().map(|t| t.incarnation).max();
        view.highest = view.highest.max(highest.unwrap_or_default());
        let own = self.0.incarnation();
        let mut peers = HashMap::clone(&self.0.peers.load());
        peers.retain(|incarnation, peer| {
            let stays = targets.iter().any(|t| t.incarnation == *incarnation)
                // It joined after this view was made: it stays until a view could name it.
                || (*incarnation > view.highest && !peer.is_dialled.load(Ordering::Relaxed));
            if !stays {
                peer.close();
            }
            stays
        });
        for target in targets.iter().filter(|t| t.incarnation != own) {
            let peer = peers
                .entry(target.incarnation)
                .or_insert_with(|| self.0.new_peer(target.node.clone(), target.incarnation));
            peer.address.lock().clone_from(&target.address);
            if !peer.is_dialled.swap(true, Ordering::AcqRel) {
                dial::start(&self.0, peer);
            }
        }
        self.0.peers.store(Arc::new(peers));
    }

    /// Queues a unit for a peer and tells its number. Never blocks.
    ///
    /// # Errors
    /// [`SendError`]; the unit is not kept then.
    pub fn send(&self, to: Incarnation, class: Class, unit: Bytes) -> Result<u64, SendError> {
        self.push(to, class, unit, Push::default())
    }

    /// Queues what must not be refused: replies and errors, whose room was reserved when their
    /// request was admitted, and hand-overs.
    ///
    /// # Errors
    /// [`SendError::Unknown`] or [`SendError::TooLarge`].
    pub fn send_reserved(
        &self,
        to: Incarnation,
        class: Class,
        unit: Bytes,
    ) -> Result<u64, SendError> {
        let push = Push {
            is_reserved: true,
            is_patient: false,
        };
        self.push(to, class, unit, push)
    }

    /// As [`Links::send_reserved`], for what has a few milliseconds: on a busy link it goes with
    /// whatever goes next, 10 ms later at most. The order is kept.
    ///
    /// # Errors
    /// [`SendError::Unknown`] or [`SendError::TooLarge`].
    pub fn send_soon(&self, to: Incarnation, class: Class, unit: Bytes) -> Result<u64, SendError> {
        let push = Push {
            is_reserved: true,
            is_patient: true,
        };
        self.push(to, class, unit, push)
    }

    /// Whether there is room for a unit that may wait.
    #[must_use]
    pub fn has_room(&self, to: Incarnation, class: Class) -> bool {
        let peers = self.0.peers.load();
        peers.get(&to).is_none_or(|peer| {
            let state = peer.outbox(class).state.lock();
            state.relay.queued_bytes() < self.0.options.queue_bytes_max
        })
    }

    /// Whether the peer is connected, so that what is sent now is on its way.
    #[must_use]
    pub fn is_up(&self, to: Incarnation, class: Class) -> bool {
        let peers = self.0.peers.load();
        let peer = peers.get(&to);
        peer.is_some_and(|peer| peer.outbox(class).is_up.load(Ordering::Relaxed))
    }

    fn push(
        &self,
        to: Incarnation,
        class: Class,
        unit: Bytes,
        push: Push,
    ) -> Result<u64, SendError> {
        if unit.len() > UNIT_BYTES_MAX {
            return Err(SendError::TooLarge);
        }
        let peers = self.0.peers.load();
        let peer = peers.get(&to).ok_or(SendError::Unknown)?;
        let mut state = peer.outbox(class).state.lock();
        let charge = pack::charge(&unit);
        let number = match push.is_reserved {
            true => state.relay.push_reserved(charge, unit),
            false => state.relay.push(charge, unit)?,
        };
        state.queued = number;
        state.is_urgent |= !push.is_patient;
        // Whoever is patient wakes the stream once, to look at the clock.
        let is_waited_for = push.is_patient && state.is_armed;
        let waker = (!is_waited_for).then(|| state.alarm.take()).flatten();
        drop(state);
        wake(waker);
        Ok(number)
    }

    /// Says something beside the streams. It may be lost: where the link is down, or when more
    /// waits than a peer that listens leaves waiting.
    pub fn note(&self, to: Incarnation, note: &Note) {
        let peers = self.0.peers.load();
        let Some(peer) = peers.get(&to) else { return };
        let outbox = peer.outbox(Class::Stanza);
        if !outbox.is_up.load(Ordering::Relaxed) {
            return;
        }
        let mut state = outbox.state.lock();
        if state.notes.len() >= NOTES_MAX {
            state.notes.pop_front();
        }
        state.notes.push_back(note::to_wire(note));
        let waker = state.alarm.take();
        drop(state);
        wake(waker);
    }

    /// Says what became of a unit that was taken with [`Taken::Later`] or [`Taken::Held`]; once for
    /// each. Nothing happens where the peer is gone.
    pub fn done(&self, from: Incarnation, class: Class, number: u64, outcome: Outcome) {
        let peers = self.0.peers.load();
        let Some(peer) = peers.get(&from) else { return };
        let mut state = peer.inbox(class).state.lock();
        if let Some(bytes) = state.held.remove(&number) {
            state.relay.take(bytes);
        }
        state.relay.outcome(number, outcome);
        state.is_due = true;
        let waker = state.alarm.take();
        drop(state);
        wake(waker);
    }

    /// Reads the certificates anew; connections that stand stay.
    ///
    /// # Errors
    /// [`FileError`]; then the old ones stay in force.
    pub fn reload(&self) -> Result<(), FileError> {
        self.0.material.reload()?;
        let fields = [("node", self.0.options.node.to_string())];
        self.0
            .log(Level::Info, "link certificates reloaded", &fields);
        Ok(())
    }

    /// Asks who listens at an address, and what time it is there.
    ///
    /// # Errors
    /// [`Refusal`]: why there was no answer.
    pub async fn probe(
        &self,
        node: &NodeId,
        address: &str,
        timeout: Duration,
    ) -> Result<Probe, Refusal> {
        dial::probe(&self.0, (node, address), None, timeout).await
    }

    /// Tells a node that was probed why this one will not join, for its log. It may be lost.
    pub async fn decline(&self, node: &NodeId, address: &str, why: &Refusal, timeout: Duration) {
        // Nothing depends on it.
        let _ = dial::probe(&self.0, (node, address), Some(why), timeout).await;
    }

    /// Figures of every link.
    #[must_use]
    pub fn stats(&self) -> Vec<LinkStats> {
        let peers = self.0.peers.load();
        peers.values().flat_map(|peer| peer.stats()).collect()
    }

    /// Connections refused since the start, by either side.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Ordering::Relaxed)
    }

    /// Ways that this node is for others now.
    #[must_use]
    pub fn tunnels(&self) -> usize {
        let free = self.0.tunnels.available_permits();
        self.0.options.tunnels_max.saturating_sub(free)
    }

    /// Ends every link and listens no more.
    pub fn close(&self) {
        self.0.is_closed.store(true, Ordering::Release);
        if let Some(task) = self.0.listener.lock().take() {
            task.abort();
        }
        let _view = self.0.changing.lock();
        let peers = self.0.peers.swap(Arc::default());
        peers.values().for_each(|peer| peer.close());
    }
}

impl Shared {
    fn incarnation(&self) -> Incarnation {
        Incarnation(self.incarnation.load(Ordering::Acquire))
    }

    fn wall_ms(&self) -> u64 {
        (self.options.wall_ms)()
    }

    fn new_peer(&self, node: NodeId, incarnation: Incarnation) -> Arc<Peer> {
        Arc::new(Peer::new(
            node,
            incarnation,
            self.options.queue_bytes_max,
            self.options.window_bytes,
        ))
    }

    /// The peer of an incoming connection; `None`: a later life of it is known, or it left the
    /// view.
    fn caller(&self, node: &NodeId, incarnation: Incarnation) -> Option<Arc<Peer>> {
        if let Some(known) = self.peers.load().get(&incarnation) {
            return (known.node == *node).then(|| Arc::clone(known));
        }
        let view = self.changing.lock();
        let mut peers = HashMap::clone(&self.peers.load());
        let has_later = peers
            .values()
            .any(|p| p.node == *node && p.incarnation > incarnation);
        let is_past = incarnation <= view.highest && !peers.contains_key(&incarnation);
        if has_later || is_past || self.is_closed.load(Ordering::Acquire) {
            return None;
        }
        // At most one such life of a node: an earlier one that no view has named goes.
        peers.retain(|_, peer| {
            let stays = peer.node != *node || peer.is_dialled.load(Ordering::Relaxed);
            if !stays {
                peer.close();
            }
            stays
        });
        let peer = peers
            .entry(incarnation)
            .or_insert_with(|| self.new_peer(node.clone(), incarnation));
        let peer = Arc::clone(peer);
        self.peers.store(Arc::new(peers));
        Some(peer)
    }

    fn tell(&self, event: LinkEvent) {
        if let Some(observer) = &*self.observer.load() {
            observer(event);
        }
    }

    fn log(&self, level: Level, event: &'static str, fields: crate::log::Fields<'_>) {
        self.options.log.log(level, event, fields);
    }

    /// A refusal: counted always, logged once a minute for each peer and reason.
    fn refuse(&self, node: &str, address: &str, refusal: &Refusal) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        // Milliseconds, ports and lives differ each time.
        let words = refusal.text.chars().filter(|c| !c.is_ascii_digit());
        let key = format!("{node} {:?} {}", refusal.reason, words.collect::<String>());
        let now = clock::now_ms();
        {
            let mut said = self.said.lock();
            said.retain(|_, at| now.saturating_sub(*at) < 60_000);
            // Strangers may not grow it.
            if said.contains_key(&key) || said.len() >= 1000 {
                return;
            }
            said.insert(key, now);
        }
        let fields = [
            ("peer", node.to_owned()),
            ("address", address.to_owned()),
            ("reason", refusal.to_string()),
        ];
        let level = match refusal.is_passing() {
            true => Level::Info,
            false => Level::Warning,
        };
        self.log(level, "link refused", &fields);
        self.tell(LinkEvent::Refused {
            node: node.to_owned(),
            refusal: refusal.clone(),
        });
    }
}
