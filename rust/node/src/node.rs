//! The node: entities, sessions, store and bridge, and the way of a stanza through them.

#![allow(
    clippy::result_large_err,
    reason = "what is refused is given back, and boxing it would cost every stanza"
)]

use crate::accounts::{Failures, Hashing};
use crate::bridge::{Answered, Bridge};
use crate::cached::Cached;
use crate::caps::KnownCaps;
use crate::history::{Turns, is_result};
use crate::live::Live;
use crate::mesh::Mesh;
use crate::metrics::Metrics;
use crate::requests::Requests;
use crate::saving::Saving;
use crate::sessions::Sessions;
use crate::shard::Shards;
use antiphon_net::gate::Gate;
use antiphon_net::session::{Sent, Session, Undelivered};
use antiphon_routing::SessionId;
use antiphon_routing::effect::{Effects, Local, Origin};
use antiphon_routing::home::{Locator, shard_of};
use antiphon_routing::store::{Store, StoreError, Write};
use antiphon_routing::user::User;
use antiphon_xmpp::Jid;
use antiphon_xmpp::stanza::{Stanza, StanzaCondition, StanzaError};
use antiphon_xmpp::stream::StreamError;
use arc_swap::ArcSwap;
use parking_lot::{Mutex, RwLock};
use ring::rand::{SecureRandom, SystemRandom};
use rustix::time::{ClockId, clock_gettime};
use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::Notify;

/// Between two looks whether a session has room for more of them, ms: first and longest.
const ROOM_MS: (u64, u64) = (10, 500);

/// One node. Everything that routes holds an `Arc` of it.
pub struct Node {
    pub(crate) live: ArcSwap<Live>,
    pub(crate) store: Cached,
    pub(crate) locator: Arc<dyn Locator>,
    pub(crate) shards: Shards,
    pub(crate) sessions: Sessions,
    pub(crate) bridge: Arc<Bridge>,
    pub(crate) components: RwLock<HashMap<String, Arc<Session>>>,
    pub(crate) requests: Requests,
    pub(crate) failures: Failures,
    pub(crate) hashing: Hashing,
    pub(crate) caps: KnownCaps,
    pub(crate) metrics: Metrics,
    pub(crate) turns: Turns,
    pub(crate) saving: Saving,
    /// The other nodes of a cluster.
    pub(crate) mesh: Option<Arc<Mesh>>,
    pub(crate) runtime: Handle,
    pub(crate) started: Instant,
    pub(crate) is_stopping: AtomicBool,
    /// A queue that was full was thrown away.
    pub(crate) emptied: Notify,
    /// What was last said of the store, and when.
    store_said: Mutex<Option<(Instant, String)>>,
    random: SystemRandom,
}

thread_local! {
    /// Effects are made for every stanza; their buffers are used again.
    static POOL: RefCell<Vec<Effects>> = const { RefCell::new(Vec::new()) };
}

/// Random bytes drawn at once: a login takes five small portions, each a system call otherwise.
const RANDOM_BYTES: usize = 512;

/// Random bytes of this thread not yet given out: the first `left`.
struct Drawn {
    bytes: [u8; RANDOM_BYTES],
    left: usize,
}

thread_local! {
    static DRAWN: RefCell<Drawn> = const {
        RefCell::new(Drawn { bytes: [0; RANDOM_BYTES], left: 0 })
    };
}

pub(crate) fn borrow_effects() -> Effects {
    POOL.with_borrow_mut(Vec::pop).unwrap_or_default()
}

pub(crate) fn return_effects(mut fx: Effects) {
    fx.local.clear();
    fx.routes.clear();
    if fx.local.capacity() <= 1024 && fx.routes.capacity() <= 1024 {
        POOL.with_borrow_mut(|pool| {
            if pool.len() < 8 {
                pool.push(fx);
            }
        });
    }
}

/// Stanzas on their way, first in first out.
pub(crate) type Routes = VecDeque<Stanza>;

impl Node {
    /// A node around its store. Call on the runtime that `runtime` is. `proof_key` is random: see
    /// [`Cached::new`].
    pub fn new(
        live: Live,
        store: Arc<dyn Store>,
        proof_key: [u8; 32],
        locator: Arc<dyn Locator>,
        bridge: Arc<Bridge>,
        runtime: Handle,
    ) -> Self {
        Self {
            live: ArcSwap::from_pointee(live),
            store: Cached::new(store, &proof_key),
            locator,
            shards: Shards::default(),
            sessions: Sessions::default(),
            bridge,
            components: RwLock::default(),
            requests: Requests::default(),
            failures: Failures::default(),
            hashing: Hashing::default(),
            caps: KnownCaps::default(),
            metrics: Metrics::default(),
            turns: Turns::default(),
            saving: Saving::default(),
            mesh: None,
            runtime,
            started: Instant::now(),
            is_stopping: AtomicBool::new(false),
            emptied: Notify::new(),
            store_said: Mutex::default(),
            random: SystemRandom::new(),
        }
    }

    /// The same as one node of a cluster; its locator is the mesh's own.
    #[must_use]
    pub fn joined(mut self, mesh: Arc<Mesh>) -> Self {
        self.mesh = Some(mesh);
        self
    }

    /// Milliseconds since 1970.
    #[must_use]
    pub fn now(&self) -> u64 {
        // The time of the last tick: a message looks at it ten times, and a few milliseconds are
        // finer than anything that is decided by it.
        let now = clock_gettime(ClockId::RealtimeCoarse);
        let millis = now.tv_sec * 1_000 + now.tv_nsec / 1_000_000;
        u64::try_from(millis).unwrap_or(0)
    }

    /// Fills with random bytes.
    pub(crate) fn fill_random(&self, out: &mut [u8]) {
        DRAWN.with_borrow_mut(|drawn| {
            if drawn.left < out.len() {
                self.draw(&mut drawn.bytes);
                drawn.left = RANDOM_BYTES;
            }
            if out.len() > RANDOM_BYTES {
                return self.draw(out);
            }
            let taken = &mut drawn.bytes[drawn.left - out.len()..drawn.left];
            out.copy_from_slice(taken);
            // What was given out once is known to nobody here any more.
            taken.fill(0);
            drawn.left -= out.len();
        });
    }

    fn draw(&self, out: &mut [u8]) {
        if self.random.fill(out).is_err() {
            // Every id and nonce depends on it: better to end this stream than to go on.
            #[allow(clippy::panic, reason = "the operating system has no randomness")]
            {
                panic!("the system's random generator failed");
            }
        }
    }

    /// Puts a new configuration to use, for the entities in memory too. Those that are entered
    /// meanwhile look at it under the lock that this takes after them.
    pub(crate) fn apply(&self, mut live: Live) {
        let old = self.live.load();
        live.policy.clock = Arc::clone(&old.policy.clock);
        live.policy.archive_key = old.policy.archive_key;
        drop(old);
        let live = Arc::new(live);
        self.live.store(Arc::clone(&live));
        for mut shard in self.shards.each() {
            for (user, is_temporary) in shard.users() {
                user.switch(live.switches_of(user.jid().domain(), is_temporary));
            }
        }
    }

    /// Carries out what must happen under the entity's lock; more rounds where a session turns out
    /// to be over.
    pub(crate) fn carry(self: &Arc<Self>, user: &mut User, is_temporary: bool, fx: &mut Effects) {
        self.carry_effects(user, is_temporary, fx);
        if let Some(mesh) = self.mesh.as_deref() {
            self.send_keepsakes(mesh, user);
        }
    }

    fn carry_effects(self: &Arc<Self>, user: &mut User, is_temporary: bool, fx: &mut Effects) {
        let now_ms = self.now();
        let mut gate: Option<Arc<Gate>> = None;
        for _ in 0..MAX_ROUNDS {
            if fx.local.is_empty() {
                return;
            }
            let mut over: Vec<(SessionId, u64, Stanza)> = Vec::new();
            let mut effects = std::mem::take(&mut fx.local);
            for effect in effects.drain(..) {
                match effect {
                    Local::Deliver {
                        session,
                        stanza,
                        offline,
                    } => {
                        if let Err((stanza, before)) =
                            self.deliver(session, stanza, offline, now_ms, gate.as_ref())
                        {
                            let before = before.into_iter().filter(goes_on);
                            over.extend(before.map(|s| (session, s.at_ms, s.stanza)));
                            if offline.is_none() && !is_result(&stanza) {
                                over.push((session, now_ms, stanza));
                            }
                        }
                    }
                    Local::Store {
                        write,
                        origin,
                        refused,
                    } => {
                        if !is_temporary {
                            gate = self.write(write, origin, refused).or(gate);
                        }
                    }
                    other => self.carry_rare(other),
                }
            }
            if fx.local.is_empty() {
                // Its buffer is used again.
                fx.local = effects;
            }
            if over.is_empty() {
                return;
            }
            let live = self.live.load();
            for (session, ..) in &over {
                user.unbind(*session, now_ms, &live.policy, fx);
            }
            let stanzas = over
                .into_iter()
                .map(|(_, at_ms, stanza)| (at_ms, stanza))
                .collect();
            user.undelivered(stanzas, now_ms, &live.policy, fx);
        }
    }

    fn carry_rare(self: &Arc<Self>, effect: Local) {
        match effect {
            Local::ReadOffline {
                owner,
                session,
                after,
                ..
            } => self.read_offline(owner, session, after),
            Local::Close { session, condition } => self.close_session(session, condition.into()),
            Local::Ask {
                handler,
                stanza,
                session,
                origin,
            } => {
                let session = session.and_then(|id| self.session(id));
                self.ask(stanza, session, origin, handler);
            }
            Local::InboxMoved { owner, peer } => self.inbox_moved(owner, peer),
            Local::Deliver { .. } | Local::Store { .. } => {}
        }
    }

    /// Puts a stanza on a session's queue; gives it back if the session is over, and what the session
    /// never confirmed.
    pub(crate) fn deliver(
        self: &Arc<Self>,
        id: SessionId,
        stanza: Stanza,
        offline: Option<u64>,
        now_ms: u64,
        gate: Option<&Arc<Gate>>,
    ) -> Result<(), (Stanza, Vec<Sent>)> {
        let Some(session) = self.session(id) else {
            return Err((stanza, Vec::new()));
        };
        if let (Some(offline), Some(mesh)) = (offline, self.mesh.as_deref())
            && session.id.node == mesh.me()
        {
            self.sessions.note_offline(session.id.number, offline);
        }
        self.metrics.delivered(stanza.kind);
        let delivered = match gate {
            None => session.deliver(stanza, offline, now_ms),
            Some(gate) => match session.deliver_behind(gate, stanza, offline, now_ms) {
                Ok(waits) => {
                    if waits {
                        self.note_gated(&session);
                    }
                    Ok(())
                }
                Err(undelivered) => Err(undelivered),
            },
        };
        match delivered {
            Ok(()) => Ok(()),
            Err(Undelivered::Closed(stanza)) => Err((stanza, session.take_unconfirmed())),
            Err(Undelivered::Overflow(stanza, before)) => {
                self.metrics.overflows.inc();
                self.emptied.notify_one();
                if !session.is_attached() {
                    // Nobody else will end it; not here, under its entity's lock.
                    let node = Arc::clone(self);
                    self.runtime
                        .spawn(async move { node.end_session(&session) });
                }
                Err((stanza, before))
            }
        }
    }

    /// Hands a write to the store. Its commit moves the sender's `h`; deliveries that are to follow
    /// it go behind the gate that comes back.
    fn write(
        self: &Arc<Self>,
        write: Write,
        origin: Option<Origin>,
        refused: Option<Box<Stanza>>,
    ) -> Option<Arc<Gate>> {
        let is_archive = matches!(write, Write::Archive { .. });
        if is_archive {
            self.metrics.archived.inc();
        }
        let is_roster = matches!(write, Write::RosterPut { .. } | Write::RosterRemove { .. });
        let is_awaited = is_archive || is_roster;
        let completed = self.begin_write(write.size_bytes(), origin, is_awaited);
        let completed = completed.keeping(self.keep_shard(write.owner().bare_str()));
        let gate = completed.gate();
        let node = Arc::clone(self);
        let shard = self
            .mesh
            .as_ref()
            .map(|_| shard_of(write.owner().bare_str()));
        let done = move |result: Result<(), StoreError>| {
            // Refused because it is another's: that is where it comes again.
            let is_overtaken = matches!(result, Err(StoreError::Overtaken));
            if is_overtaken {
                // It comes again when this node is out: its senders' streams end then.
                node.log_store_error("a commit is not acknowledged", &StoreError::Overtaken);
            }
            let is_lost = is_overtaken || result.is_err() && node.has_lost(shard);
            if let Err(error) = result
                && !is_lost
            {
                node.write_failed(&error, refused);
            }
            match node.mesh.clone() {
                Some(_) if is_lost => node.end_write(completed, false),
                Some(mesh) => mesh.acknowledged(move |is_true| node.end_write(completed, is_true)),
                None => node.end_write(completed, true),
            }
        };
        self.store.write(write, Box::new(done));
        gate
    }

    /// A write was refused: whoever sent what is lost thereby hears of it.
    fn write_failed(self: &Arc<Self>, error: &StoreError, refused: Option<Box<Stanza>>) {
        self.log_store_error("write failed", error);
        let condition = match error {
            // What was wrong with the store may be over the next time.
            StoreError::Busy
            | StoreError::Overtaken
            | StoreError::Engine(_)
            | StoreError::Closed => StanzaError::new(StanzaCondition::ResourceConstraint)
                .with_text("it could not be stored, try again later"),
            StoreError::Full(_) | StoreError::NoAccount | StoreError::Exists => {
                StanzaCondition::ServiceUnavailable.into()
            }
        };
        let answer = refused.filter(|refused| refused.from.is_some());
        if let Some(answer) = answer.and_then(|refused| refused.error(&condition)) {
            // The writer's thread must not route.
            let node = Arc::clone(self);
            self.runtime.spawn(async move {
                node.route(answer, None);
            });
        }
    }

    /// Waits until a session has room; see [`Session::room`]. `None`: it is over.
    pub(crate) async fn room(&self, id: SessionId) -> Option<(usize, usize)> {
        let mut pause_ms = ROOM_MS.0;
        loop {
            let session = self.session(id)?;
            if let Some(room) = session.room() {
                return Some(room);
            }
            // What makes room are its acknowledgements.
            session.release();
            drop(session);
            tokio::time::sleep(Duration::from_millis(pause_ms)).await;
            pause_ms = ROOM_MS.1.min(pause_ms * 2);
        }
    }

    pub(crate) fn release(&self, session: SessionId) {
        if let Some(session) = self.session(session) {
            session.release();
        }
    }

    /// Ends a session's stream with an error, wherever its connection is.
    pub(crate) fn close_session(self: &Arc<Self>, id: SessionId, error: StreamError) {
        let Some(session) = self.session(id) else {
            return;
        };
        session.close(error);
        if !session.is_attached() {
            let node = Arc::clone(self);
            self.runtime
                .spawn(async move { node.end_session(&session) });
        }
    }

    /// A session is over: contacts hear of it, and what it never confirmed finds another way.
    pub(crate) fn end_session(self: &Arc<Self>, session: &Arc<Session>) {
        self.end_session_in_order(session, false);
    }

    /// As [`Node::end_session`]; with `is_confirmed` its client has said itself that it ends, and
    /// sends nothing again.
    pub(crate) fn end_session_in_order(
        self: &Arc<Self>,
        session: &Arc<Session>,
        is_confirmed: bool,
    ) {
        if !self.sessions.remove(session) {
            return;
        }
        let now_ms = self.now();
        let unacked = session.finish(now_ms);
        let stanzas: Vec<(u64, Stanza)> = unacked
            .into_iter()
            .filter(goes_on)
            .map(|s| (s.at_ms, s.stanza))
            .collect();
        let is_away = self.elsewhere(session.jid.bare_str()).is_some();
        let guard = self.enter(session.jid.bare_str());
        match (self.mesh.as_deref(), is_away, guard) {
            (_, false, Ok(_guard)) => {
                self.end_at_home(&session.jid, session.id, is_confirmed, stanzas);
            }
            (Some(mesh), ..) => {
                let shard = shard_of(session.jid.bare_str());
                self.end_elsewhere(mesh, shard, session, is_confirmed, stanzas);
            }
            (None, ..) => {}
        }
    }

    /// A session of an entity that lives here is over.
    pub(crate) fn end_at_home(
        self: &Arc<Self>,
        jid: &Jid,
        id: SessionId,
        is_confirmed: bool,
        stanzas: Vec<(u64, Stanza)>,
    ) {
        let now_ms = self.now();
        let full = jid.clone();
        let job =
            move |node: &Arc<Self>, user: Result<&mut User, &StoreError>, fx: &mut Effects| {
                let was_told = user.as_ref().map_or(true, |user| user.was_told(id));
                if was_told && let Some(mesh) = node.mesh.as_deref() {
                    mesh.tell_shadow_end(id, &full);
                }
                if let Ok(user) = user {
                    let live = node.live.load();
                    if is_confirmed {
                        user.confirmed(id);
                    }
                    user.unbind(id, now_ms, &live.policy, fx);
                    user.undelivered(stanzas, now_ms, &live.policy, fx);
                }
            };
        // An entity with a session is always in memory, so nothing waits here; and nobody refuses,
        // also while its shard comes or goes.
        let guard = self.keep_shard(jid.bare_str());
        let mut routes = Routes::new();
        let _ = self.with_user_kept(jid, None, (guard, job), &mut routes);
        self.route_all(routes);
    }

    /// Sends an answer of Python's on its way.
    pub(crate) fn answered(self: &Arc<Self>, answered: Answered) {
        let Answered {
            stanza,
            session,
            origin,
        } = answered;
        let Some(session) = session else {
            self.route(stanza, None);
            if let Some(origin) = origin {
                self.handled_one(origin);
            }
            return;
        };
        // A session that is over needs no answer.
        let is_given = session.deliver(stanza, None, self.now()).is_ok();
        session.release();
        if let Some(origin) = origin {
            self.answered_for(&session, origin, is_given);
        }
    }

    /// Python's answer to an IQ: a result.
    pub fn reply(self: &Arc<Self>, ticket: u64, payload: Option<&antiphon_xmpp::Element>) {
        if let Some(answered) = self.bridge.reply(ticket, payload) {
            self.answered(answered);
        }
    }

    /// Python's answer to an IQ: an error.
    pub fn fail(self: &Arc<Self>, ticket: u64, error: &StanzaError) {
        if let Some(answered) = self.bridge.fail(ticket, error) {
            self.answered(answered);
        }
    }

    /// Python's answer to an HTTP request.
    pub fn respond(&self, ticket: u64, response: antiphon_net::gateway::HttpResponse) {
        self.bridge.respond(ticket, response);
    }

    /// A stanza of Python's.
    pub fn send(self: &Arc<Self>, stanza: Stanza) {
        self.route(stanza, None);
    }

    /// A request of Python's: its answer comes as an event with this ticket.
    pub fn request(self: &Arc<Self>, ticket: u64, stanza: Stanza, timeout_ms: u64) {
        let id: std::sync::Arc<str> =
            crate::requests::id(self.locator.incarnation(), &self.random_id()).into();
        let stanza = Stanza {
            id: Some(id),
            ..stanza
        };
        if self.requests.open(ticket, &stanza, self.now() + timeout_ms) {
            self.route(stanza, None);
        } else {
            self.bridge.complete(ticket, Err(Busy.into()));
        }
    }

    /// Capabilities that need not be asked about.
    pub fn learn_caps(&self, hash: &str, ver: &str) {
        self.caps.learn(hash, ver);
    }

    pub(crate) fn ask(
        self: &Arc<Self>,
        stanza: Stanza,
        session: Option<Arc<Session>>,
        origin: Option<Origin>,
        handler: u32,
    ) {
        let now = self.now();
        if let Some(refused) = self.bridge.ask(stanza, session, origin, handler, now) {
            self.metrics.refused.inc();
            self.answered(refused);
        }
    }

    /// Counts it, and says it; the same not again within a moment: a full disk fails every write.
    pub(crate) fn log_store_error(&self, event: &'static str, error: &StoreError) {
        self.metrics.store_errors.inc();
        let reason = error.to_string();
        let text = format!("{event}: {reason}");
        let mut said = self.store_said.lock();
        let is_again = said
            .as_ref()
            .is_some_and(|(at, last)| *last == text && at.elapsed() < STORE_SAID);
        if is_again {
            return;
        }
        *said = Some((Instant::now(), text));
        drop(said);
        self.bridge.log(ERROR, event, vec![("reason", reason)]);
    }

    /// Whether the node is going down.
    #[must_use]
    pub fn stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Acquire)
    }
}

/// Whether what a session never confirmed goes another way: not what is in the store anyway, and not
/// what only that session had asked for.
pub(crate) fn goes_on(sent: &Sent) -> bool {
    sent.offline.is_none() && !is_result(&sent.stanza)
}

/// How long the same is not said again of the store.
const STORE_SAID: Duration = Duration::from_secs(5);

/// Rounds of effects that one transition may cause by finding sessions over: each round ends one
/// session at least, so this is only a backstop.
const MAX_ROUNDS: usize = 64;

/// Python's `logging.ERROR`.
pub(crate) const ERROR: u8 = 40;
/// Python's `logging.DEBUG`.
pub(crate) const DEBUG: u8 = 10;
/// Python's `logging.INFO`.
pub(crate) const INFO: u8 = 20;

/// Too many wait for this entity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Busy;

impl From<Busy> for StanzaError {
    fn from(_: Busy) -> Self {
        Self::new(StanzaCondition::ResourceConstraint).with_text("the server is busy, try again")
    }
}

/// The stanza error for what the store said.
pub(crate) fn store_error(error: &StoreError) -> StanzaError {
    match error {
        StoreError::Busy | StoreError::Overtaken | StoreError::Closed => Busy.into(),
        StoreError::Full(what) => {
            StanzaError::new(StanzaCondition::ResourceConstraint).with_text(*what)
        }
        StoreError::NoAccount => StanzaCondition::ItemNotFound.into(),
        StoreError::Exists => StanzaCondition::Conflict.into(),
        StoreError::Engine(_) => StanzaCondition::InternalServerError.into(),
    }
}
