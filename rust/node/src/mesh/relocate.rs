//! A client resumes its session on another node than the one that holds it (XEP-0198 #resumption),
//! or that node goes down and gives the session away.
//!
//! Where it comes to asks the home of the account, in order with everything else to it, and the home
//! asks the nodes that hold sessions of the account. The one that has it takes it from its
//! connection, waits until all that it brought is handled, and asks the home, again in order, to
//! know the session by its new name. From then on the home sends what there is for it to the new
//! place, where it waits; behind all that it had sent to the old one it says so there, and the old
//! place gives the rest away. Nobody is told anything: for contacts nothing has changed.

mod arrivals;

use super::proxies::last_of;
use super::unit::Unit;
use super::{Awaited, Mesh};
use crate::gateway::Abandoned;
use crate::node::{INFO, Node, goes_on};
use crate::sessions::{Resumable, ResumeId};
use antiphon_cluster::link::Class;
use antiphon_cluster::relay::Outcome;
use antiphon_net::session::{Carried, Session};
use antiphon_routing::SessionId;
use antiphon_routing::effect::Effects;
use antiphon_routing::home::shard_of;
use antiphon_routing::store::StoreError;
use antiphon_routing::user::User;
use antiphon_xmpp::packed::{put_bytes, put_number};
use antiphon_xmpp::{Jid, Stanza};
use arrivals::Arrivals;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{sleep, timeout};

/// How long the home may take to know a session by its new name.
const MOVE: Duration = Duration::from_secs(30);
/// How long a node may take to take a session's state, while it lives.
const LINK: Duration = Duration::from_secs(60);
/// Bytes of a part of a session's state, well below what a link takes.
const PART_BYTES: usize = 512 << 10;
/// Sessions that have moved and are remembered.
const REMEMBERED: usize = 10_000;
/// Sessions that are given away at once by a node that goes down.
const PUSHED: usize = 256;
/// How long one of them may take.
const PUSH: Duration = Duration::from_secs(10);
/// Between two looks whether one is gone.
const PAUSE: Duration = Duration::from_millis(5);

/// A session that is asked for: whose it must be, and its resumption id.
#[derive(Debug, Clone)]
struct Wanted {
    pub account: Jid,
    pub id: ResumeId,
}

/// A session here that goes to another node.
#[derive(Debug)]
struct Leaving {
    to: SessionId,
    /// There once the home was asked: then it goes for good.
    moved: Option<oneshot::Sender<bool>>,
    is_sent: bool,
}

/// The last so many that were noted.
#[derive(Debug)]
struct Recent<K> {
    known: HashMap<K, SessionId>,
    order: VecDeque<K>,
}

impl<K> Default for Recent<K> {
    fn default() -> Self {
        Self {
            known: HashMap::new(),
            order: VecDeque::new(),
        }
    }
}

impl<K: Copy + Eq + std::hash::Hash> Recent<K> {
    fn note(&mut self, key: K, session: SessionId) {
        if self.order.len() >= REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        self.known.insert(key, session);
        self.order.push_back(key);
    }
}

/// All that is under way.
#[derive(Debug, Default)]
pub(super) struct Relocation {
    arrivals: Mutex<Arrivals>,
    /// By number.
    leaving: Mutex<HashMap<u64, Leaving>>,
    /// What sessions are called now, by their former names: at their homes.
    renamed: Mutex<Recent<SessionId>>,
    /// Where sessions went from here that have not come back.
    gone: Mutex<Recent<ResumeId>>,
}

impl Relocation {
    /// The last name of a session whose name this was.
    pub fn name_of(&self, id: SessionId) -> Option<SessionId> {
        let renamed = self.renamed.lock();
        let mut name = *renamed.known.get(&id)?;
        // Names are never given again, so there is an end.
        while let Some(next) = renamed.known.get(&name) {
            name = *next;
        }
        Some(name)
    }

    /// The home of a session that leaves has answered.
    pub fn moved(&self, number: u64, is_moved: bool) {
        let mut leaving = self.leaving.lock();
        let told = leaving.get_mut(&number).and_then(|l| l.moved.take());
        if let Some(told) = told {
            // Whoever waited has given up.
            let _ = told.send(is_moved);
        }
    }

    /// Whether something is on its way to another node.
    fn is_giving(&self) -> bool {
        !self.leaving.lock().is_empty()
    }

    /// Where a session goes that can be had here no more.
    fn goes_to(&self, number: u64) -> Option<SessionId> {
        let leaving = self.leaving.lock();
        leaving.get(&number).filter(|l| l.is_sent).map(|l| l.to)
    }
}

/// Ends the note that a session leaves.
struct Departure {
    mesh: Arc<Mesh>,
    number: u64,
    to: SessionId,
}

impl Drop for Departure {
    fn drop(&mut self) {
        let mut leaving = self.mesh.relocation.leaving.lock();
        if leaving.get(&self.number).is_some_and(|l| l.to == self.to) {
            leaving.remove(&self.number);
        }
    }
}

impl Node {
    /// Takes a session from its connection, to be resumed here. `None`: it is over, or goes to
    /// another node.
    pub(crate) fn claim(&self, session: &Session) -> Option<u64> {
        let Some(mesh) = self.mesh.as_deref() else {
            return session.detach(self.now());
        };
        // Locked: it does not begin to go for good meanwhile.
        let leaving = mesh.relocation.leaving.lock();
        let is_gone = leaving.get(&session.id.number).is_some_and(|l| l.is_sent);
        match is_gone {
            true => None,
            false => session.detach(self.now()),
        }
    }

    /// A unit about a session that moves.
    pub(super) fn take_moving(self: &Arc<Self>, mesh: &Mesh, peer: u32, unit: Unit<'_>) {
        let of_peer = |number| SessionId { node: peer, number };
        match unit {
            Unit::Resume {
                session,
                account,
                id,
            } => self.resume_asked(account, id, of_peer(session)),
            Unit::Move { session, jid, to } => self.move_asked(of_peer(session), jid, to),
            Unit::Fetch {
                account,
                id,
                to,
                is_pushed,
            } => self.fetch_asked(Wanted { account, id }, to, is_pushed),
            Unit::Asked { session, nodes } => self.asked(mesh, session, nodes),
            Unit::Fetched { session, h } => self.not_fetched(mesh, (peer, session), h),
            Unit::Coming { session, jid } => self.coming(mesh, session, &jid),
            Unit::Moved { session, is_moved } => mesh.relocation.moved(session, is_moved),
            Unit::State {
                session,
                is_last,
                part,
            } => self.state_came(mesh, session, is_last, part),
            Unit::Take { account, id } => self.take_asked(mesh, peer, Wanted { account, id }),
            _ => {}
        }
    }

    /// To the home: a client resumes a session. The nodes that may have it are told.
    fn resume_asked(self: &Arc<Self>, account: Jid, id: ResumeId, to: SessionId) {
        let owner = account.clone();
        let job = move |node: &Arc<Self>,
                        user: Result<&mut User, &StoreError>,
                        _fx: &mut Effects| {
            let Some(mesh) = node.mesh.as_deref() else {
                return;
            };
            let sessions = user.map(|user| user.sessions()).unwrap_or_default();
            let nodes: HashSet<u32> = sessions.iter().map(|(id, _)| id.node).collect();
            // Clients of a node that has just died come at once: they need not wait for it.
            let is_meant =
                |peer: &u32| *peer != to.node && (*peer == mesh.me() || mesh.links.is_up(*peer));
            let mut asked = Vec::new();
            for peer in nodes.into_iter().filter(is_meant) {
                let wanted = Wanted {
                    account: account.clone(),
                    id,
                };
                if node.fetch_from(mesh, peer, wanted, to) {
                    asked.push(peer);
                }
            }
            node.tell_asked(mesh, to, asked);
        };
        if self.on_user(&owner, job).is_err()
            && let Some(mesh) = self.mesh.as_deref()
        {
            self.tell_asked(mesh, to, Vec::new());
        }
    }

    fn tell_asked(self: &Arc<Self>, mesh: &Mesh, to: SessionId, nodes: Vec<u32>) {
        let session = to.number;
        if to.node != mesh.me() {
            mesh.tell(to.node, &Unit::Asked { session, nodes });
            return;
        }
        // Not under the lock of the entity, which is held.
        let node = Arc::clone(self);
        self.runtime.spawn(async move {
            if let Some(mesh) = node.mesh.as_deref() {
                node.asked(mesh, session, nodes);
            }
        });
    }

    /// Tells a node to give a session away; whether it could be told.
    fn fetch_from(self: &Arc<Self>, mesh: &Mesh, peer: u32, wanted: Wanted, to: SessionId) -> bool {
        if peer == mesh.me() {
            self.fetch_asked(wanted, to, false);
            return true;
        }
        let Wanted { account, id } = wanted;
        let unit = Unit::Fetch {
            account,
            id,
            to,
            is_pushed: false,
        };
        mesh.tell(peer, &unit)
    }

    /// A session that may be here is wanted elsewhere.
    fn fetch_asked(self: &Arc<Self>, wanted: Wanted, to: SessionId, is_pushed: bool) {
        let node = Arc::clone(self);
        self.runtime.spawn(async move {
            if let Some(mesh) = node.mesh.clone()
                && let Err(h) = node.give_away(&mesh, wanted, to, is_pushed).await
            {
                node.refuse(&mesh, to, h);
            }
        });
    }

    fn refuse(self: &Arc<Self>, mesh: &Mesh, to: SessionId, h: Option<u32>) {
        let session = to.number;
        match to.node == mesh.me() {
            true => self.not_fetched(mesh, (mesh.me(), session), h),
            false => {
                mesh.tell(to.node, &Unit::Fetched { session, h });
            }
        }
    }

    /// The session that is wanted elsewhere; `None`: it is somewhere else, where the question goes.
    ///
    /// # Errors
    /// It is not here; what it had handled, if that is known.
    async fn wanted_here(
        self: &Arc<Self>,
        mesh: &Mesh,
        wanted: Wanted,
        to: SessionId,
        is_pushed: bool,
    ) -> Result<Option<Arc<Session>>, Option<u32>> {
        // What is only to be kept is not taken from whoever has it by now.
        let pass_on = |node: u32, wanted: Wanted| match !is_pushed
            && self.fetch_from(mesh, node, wanted, to)
        {
            true => Ok(None),
            false => Err(None),
        };
        if let Some(other) = self.followed(mesh, wanted.id).await {
            return pass_on(other, wanted);
        }
        self.await_arrival(mesh, &wanted, to).await;
        let found = self.sessions.by_resume_id(wanted.id);
        let Some(session) = found else {
            return Err(self.sessions.last_h(wanted.id));
        };
        if session.jid.bare_str() != wanted.account.as_str() {
            // Somebody else's: as if there were none.
            return Err(None);
        }
        let other = mesh.relocation.goes_to(session.id.number);
        if let Some(other) = other {
            // Of two that resume at once the later one has it.
            return pass_on(other.node, wanted);
        }
        if to.node == mesh.me() {
            // Two have asked here, and both questions went round.
            self.arrived(mesh, to.number, session);
            return Ok(None);
        }
        Ok(Some(session))
    }

    /// Gives a session away.
    ///
    /// # Errors
    /// It is not here, or not to be had; what it had handled, if that is known.
    async fn give_away(
        self: &Arc<Self>,
        mesh: &Arc<Mesh>,
        wanted: Wanted,
        to: SessionId,
        is_pushed: bool,
    ) -> Result<(), Option<u32>> {
        let session = self.wanted_here(mesh, wanted, to, is_pushed).await?;
        let Some(session) = session else {
            return Ok(());
        };
        let claim = self.claim_for(mesh, &session, to, is_pushed).ok_or(None)?;
        let _departure = Departure {
            mesh: Arc::clone(mesh),
            number: session.id.number,
            to,
        };
        self.sessions.attached(session.id);
        let guard = Abandoned::new(self, &session);
        if self.settled(&session).await.is_none() {
            guard.disarm();
            self.end_session(&session);
            return Err(None);
        }
        let Some(moved) = self.begin_move(mesh, &session, claim, to) else {
            guard.disarm();
            return Err(None);
        };
        self.ask_move(mesh, &session, to)?;
        let moved = timeout(MOVE, moved).await;
        guard.disarm();
        match moved {
            Ok(Ok(true)) => self.send_state(mesh, &session, to).await,
            Ok(_) => {
                self.lost(&session);
                Err(None)
            }
            Err(_) => {
                // It may yet move: then nobody takes it up there.
                self.end_session(&session);
                Err(None)
            }
        }
    }

    /// The node to which a session went from here.
    async fn followed(&self, mesh: &Mesh, id: ResumeId) -> Option<u32> {
        if self.sessions.by_resume_id(id).is_some() {
            return None;
        }
        let gone = mesh.relocation.gone.lock().known.get(&id).copied();
        let other = gone?.node;
        // It may be about to come back, and the question with it.
        sleep(PAUSE).await;
        Some(other)
    }

    fn claim_for(
        &self,
        mesh: &Mesh,
        session: &Session,
        to: SessionId,
        is_pushed: bool,
    ) -> Option<u64> {
        let mut leaving = mesh.relocation.leaving.lock();
        let number = session.id.number;
        let other = leaving.get(&number);
        if other.is_some_and(|l| l.is_sent || is_pushed) {
            return None;
        }
        let claim = match is_pushed {
            true => session.detach_leaving(self.now()),
            false => session.detach(self.now()),
        };
        let entry = Leaving {
            to,
            moved: None,
            is_sent: false,
        };
        leaving.insert(number, entry);
        claim
    }

    /// From here on it goes. `None`: somebody else has taken it.
    fn begin_move(
        &self,
        mesh: &Mesh,
        session: &Session,
        claim: u64,
        to: SessionId,
    ) -> Option<oneshot::Receiver<bool>> {
        let mut leaving = mesh.relocation.leaving.lock();
        let entry = leaving.get_mut(&session.id.number);
        let entry = entry.filter(|l| l.to == to && session.is_claimed(claim))?;
        let (told, moved) = oneshot::channel();
        entry.moved = Some(told);
        entry.is_sent = true;
        Some(moved)
    }

    fn ask_move(
        self: &Arc<Self>,
        mesh: &Mesh,
        session: &Session,
        to: SessionId,
    ) -> Result<(), Option<u32>> {
        let shard = shard_of(session.jid.bare_str());
        let unit = Unit::Move {
            session: session.id.number,
            jid: session.jid.clone(),
            to,
        };
        self.to_home(mesh, (shard, None), unit.pack_for(shard), Awaited::Nobody)
            .map_err(|_| None)
    }

    /// To the home: a session goes on under another name.
    fn move_asked(self: &Arc<Self>, old: SessionId, jid: Jid, to: SessionId) {
        let account = jid.bare();
        let job =
            move |node: &Arc<Self>, user: Result<&mut User, &StoreError>, fx: &mut Effects| {
                if let Some(mesh) = node.mesh.as_deref() {
                    let is_moved =
                        user.is_ok_and(|user| node.move_session(mesh, user, (old, to), &jid, fx));
                    node.tell_moved(mesh, old, is_moved);
                }
            };
        if self.on_user(&account, job).is_err()
            && let Some(mesh) = self.mesh.as_deref()
        {
            self.tell_moved(mesh, old, false);
        }
    }

    fn tell_moved(&self, mesh: &Mesh, old: SessionId, is_moved: bool) {
        let session = old.number;
        match old.node == mesh.me() {
            true => mesh.relocation.moved(session, is_moved),
            false => {
                mesh.tell(old.node, &Unit::Moved { session, is_moved });
            }
        }
    }

    /// Under the entity's lock: what comes later finds the new place, what came before is on its
    /// way to the old one.
    fn move_session(
        self: &Arc<Self>,
        mesh: &Mesh,
        user: &mut User,
        (old, to): (SessionId, SessionId),
        jid: &Jid,
        fx: &mut Effects,
    ) -> bool {
        if !user.has_session(old) {
            return user.has_session(to);
        }
        let queue = self.live.load().queue;
        let new = if to.node == mesh.me() {
            self.arriving(mesh, to.number, jid)
        } else {
            self.peer(mesh, to.node).map(|peer| {
                let foreign = mesh.proxies.enter(to, jid.clone(), &peer, queue);
                let unit = Unit::Coming {
                    session: to.number,
                    jid: jid.clone(),
                };
                mesh.tell(to.node, &unit);
                Arc::clone(&foreign.session)
            })
        };
        let Some(new) = new else {
            return false;
        };
        user.move_session(old, to, &self.live.load().policy, fx);
        mesh.relocation.renamed.lock().note(old, to);
        if old.node != mesh.me() {
            self.retire_proxy(mesh, old, &new);
        } else if let Some(session) = self.sessions.get(old) {
            new.inherit(&session);
            user.has_all(to);
            mesh.tell_shadow_end(old, jid);
        }
        if new.is_gated() {
            self.note_gated(&new);
        }
        true
    }

    /// Sends what a proxy still has to its edge; what waits for commits waits on in its successor.
    fn retire_proxy(&self, mesh: &Mesh, old: SessionId, new: &Arc<Session>) {
        let Some(foreign) = mesh.proxies.leave(old) else {
            return;
        };
        for brought in foreign.end_inbox() {
            // Of before it could be resumed: whoever sent it does not count on it.
            mesh.links
                .done(brought.peer, Class::Stanza, brought.number, Outcome::Done);
        }
        let _outbox = foreign.outbox.lock();
        new.inherit(&foreign.session);
        for unit in last_of(&foreign.session, Some(new)) {
            // A node that is gone needs it no more.
            let _ = mesh.give(&foreign.session, unit);
        }
    }

    /// Sends all that a session has to where it goes. It is over here.
    ///
    /// # Errors
    /// It was over before.
    async fn send_state(
        self: &Arc<Self>,
        mesh: &Arc<Mesh>,
        session: &Arc<Session>,
        to: SessionId,
    ) -> Result<(), Option<u32>> {
        let successor = self.session(to);
        let resumable = self.sessions.resumable(session.id.number);
        let (Some(resumable), Some(carried)) = (resumable, session.hand_over(successor.as_ref()))
        else {
            self.end_session(session);
            return Err(None);
        };
        let number = session.id.number;
        let last = (
            self.sessions.last_of(number),
            self.sessions.offline_of(number),
        );
        let state = pack_state(session, &resumable, &carried, last);
        mesh.relocation.gone.lock().note(resumable.id, to);
        self.sessions.remove(session);
        if !self.send_parts(mesh, to, &state).await {
            // It goes another way, as with any session whose node dies.
            let sent = carried.sent.into_iter().filter(goes_on);
            let lost: Vec<(u64, Stanza)> = sent.map(|s| (s.at_ms, s.stanza)).collect();
            self.give_back(mesh, session.id.number, lost);
        }
        Ok(())
    }

    async fn send_parts(&self, mesh: &Mesh, to: SessionId, state: &[u8]) -> bool {
        let mut parts = state.chunks(PART_BYTES).peekable();
        let mut taken = None;
        while let Some(part) = parts.next() {
            let is_last = parts.peek().is_none();
            let unit = Unit::State {
                session: to.number,
                is_last,
                part,
            };
            // Locked first: it may be taken before its number is noted.
            let mut flushes = mesh.flushes.lock();
            let Ok(number) = mesh.links.send(to.node, Class::Stanza, unit.pack()) else {
                return false;
            };
            if is_last {
                let (told, is_taken) = oneshot::channel();
                flushes.insert((to.node, number), told);
                taken = Some(is_taken);
            }
        }
        match taken {
            Some(taken) => matches!(timeout(LINK, taken).await, Ok(Ok(()))),
            None => false,
        }
    }

    /// Gives the sessions that can be resumed to other nodes, until a deadline: this one goes down.
    /// How many are gone.
    pub async fn give_all_away(self: &Arc<Self>, until: Instant) -> usize {
        let Some(mesh) = self.mesh.clone() else {
            return 0;
        };
        let is_free = Arc::new(Semaphore::new(PUSHED));
        let mut tasks = Vec::new();
        for session in self.sessions.all() {
            if Instant::now() >= until {
                break;
            }
            let resumable = self.sessions.resumable(session.id.number);
            let place = self.place_for(&mesh, &session);
            let (Some(resumable), Some(peer)) = (resumable, place) else {
                continue;
            };
            let left = until.saturating_duration_since(Instant::now());
            let Ok(Ok(permit)) = timeout(left, Arc::clone(&is_free).acquire_owned()).await else {
                break;
            };
            let (node, mesh) = (Arc::clone(self), Arc::clone(&mesh));
            tasks.push(self.runtime.spawn(async move {
                let is_gone = node.push(&mesh, &session, resumable.id, peer).await;
                drop(permit);
                is_gone
            }));
        }
        let mut gone = 0;
        for task in tasks {
            let left = until.saturating_duration_since(Instant::now());
            gone += usize::from(matches!(timeout(left, task).await, Ok(Ok(true))));
        }
        // What clients fetch by themselves.
        while mesh.relocation.is_giving() && Instant::now() < until {
            sleep(PAUSE).await;
        }
        if gone > 0 {
            let fields = vec![("sessions", gone.to_string())];
            self.bridge.log(INFO, "sessions given away", fields);
        }
        gone
    }

    /// The home, if that is another node that stays, else any that does.
    fn place_for(&self, mesh: &Mesh, session: &Session) -> Option<u32> {
        let map = mesh.map()?;
        let nodes = map.nodes().iter();
        let others: Vec<u32> = nodes
            .filter(|n| !n.is_draining() && n.incarnation().0 != mesh.me())
            .map(|n| n.incarnation().0)
            .collect();
        let home = map.owner(shard_of(session.jid.bare_str()))?.0;
        match others.contains(&home) {
            true => Some(home),
            false if others.is_empty() => None,
            false => {
                let count = others.len() as u64;
                others.get((session.id.number % count) as usize).copied()
            }
        }
    }

    async fn push(
        self: &Arc<Self>,
        mesh: &Mesh,
        session: &Arc<Session>,
        id: ResumeId,
        peer: u32,
    ) -> bool {
        let account = session.jid.bare();
        if !mesh.tell(peer, &Unit::Take { account, id }) {
            return false;
        }
        let deadline = tokio::time::Instant::now() + PUSH;
        // Until it has been sent, too.
        let number = session.id.number;
        let is_leaving = || mesh.relocation.leaving.lock().contains_key(&number);
        while self.sessions.get(session.id).is_some() || is_leaving() {
            if tokio::time::Instant::now() >= deadline {
                return false;
            }
            sleep(PAUSE).await;
        }
        true
    }
}

/// `last` as in [`crate::sessions::Sessions::note_last`] and
/// [`crate::sessions::Sessions::note_offline`].
fn pack_state(
    session: &Session,
    resumable: &Resumable,
    carried: &Carried,
    last: (u64, u64),
) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    put_bytes(session.jid.as_str().as_bytes(), &mut out);
    put_bytes(&resumable.id, &mut out);
    let numbers = [resumable.seconds, carried.handled, carried.acked];
    for number in numbers {
        put_number(u64::from(number), &mut out);
    }
    put_number(carried.sent.len() as u64, &mut out);
    for sent in &carried.sent {
        put_number(sent.at_ms, &mut out);
        put_number(sent.offline.unwrap_or(0), &mut out);
        sent.stanza.pack(&mut out);
    }
    put_number(last.0, &mut out);
    put_number(last.1, &mut out);
    out
}
