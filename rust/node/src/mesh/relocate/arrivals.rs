//! The side to which a session comes.

use super::super::unit::{Unit, resume_id};
use super::super::{Awaited, Mesh};
use super::Wanted;
use crate::node::{Node, goes_on};
use crate::sessions::{Resumable, ResumeId};
use antiphon_net::session::{Carried, Sent, Session};
use antiphon_routing::SessionId;
use antiphon_routing::home::shard_of;
use antiphon_xmpp::packed::{Unpacker, Unreadable};
use antiphon_xmpp::{Jid, Stanza};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

/// How long a client waits for its session.
const ARRIVAL: Duration = Duration::from_secs(12);
/// How much longer it is remembered that nobody waits: what comes late goes back.
const LATE: Duration = Duration::from_secs(90);
/// Sessions that may be on their way here.
const ARRIVALS: usize = 65_536;
/// Bytes of the state of one.
const STATE_BYTES: usize = 256 << 20;
/// Between two looks whether one has come.
const PAUSE: Duration = Duration::from_millis(5);

/// The session, or what it had handled, if that is known.
type Arrived = Result<Arc<Session>, Option<u32>>;

/// A session that is on its way here.
#[derive(Debug)]
pub(super) struct Arrival {
    wanted: Wanted,
    /// Who was told to send it and has not said that it cannot; empty: nobody has it.
    asked: Option<Vec<u32>>,
    /// Who said so before it was known who was told.
    refused: Vec<u32>,
    h: Option<u32>,
    state: Vec<u8>,
    /// Whose client has gone meanwhile, or who is only to keep it: nobody.
    waiting: Option<oneshot::Sender<Arrived>>,
    /// It is not waited for any more.
    is_over: bool,
}

impl Arrival {
    /// A node has not got it. Whether nobody has.
    fn is_refused_by(&mut self, peer: u32) -> bool {
        let Some(asked) = &mut self.asked else {
            self.refused.push(peer);
            return false;
        };
        match asked.iter().position(|node| *node == peer) {
            Some(at) => {
                asked.remove(at);
                asked.is_empty()
            }
            // Whoever had it had passed the question on.
            None => true,
        }
    }
}

/// All of them, by the numbers that they will have.
pub(super) type Arrivals = HashMap<u64, Arrival>;

/// What the former node of a session has of it.
struct State {
    jid: Jid,
    resumable: Resumable,
    carried: Carried,
    /// The last message that its home gave it, by its uid; 0: none that is known.
    last: u64,
    /// The last offline message that it was given; 0: none that is known.
    offline: u64,
}

impl State {
    fn unpack(bytes: &[u8]) -> Result<Self, Unreadable> {
        let mut from = Unpacker::new(bytes);
        let jid = from.jid()?;
        let (id, seconds) = (resume_id(&mut from)?, from.small()?);
        let (handled, acked) = (from.small()?, from.small()?);
        let count: usize = from.small()?;
        let mut sent = Vec::new();
        for _ in 0..count {
            let (at_ms, offline) = (from.number()?, from.number()?);
            sent.push(Sent {
                stanza: from.stanza()?,
                at_ms,
                offline: Some(offline).filter(|id| *id > 0),
            });
        }
        // Of one whose home was its own node, what it did not confirm tells.
        let unconfirmed = sent.iter().rev().filter(|s| s.offline.is_none());
        let unconfirmed = unconfirmed.map(|s| s.stanza.uid).find(|uid| *uid > 0);
        let last = match from.number()? {
            0 => unconfirmed.unwrap_or(0),
            last => last,
        };
        // Earlier versions do not say it.
        let offline = match from.is_empty() {
            true => sent.iter().filter_map(|s| s.offline).max().unwrap_or(0),
            false => from.number()?,
        };
        Ok(Self {
            last,
            offline,
            jid,
            resumable: Resumable { id, seconds },
            carried: Carried {
                handled,
                acked,
                sent,
            },
        })
    }
}

impl Node {
    /// Gets a session of another node here, to be resumed.
    ///
    /// # Errors
    /// No node has it; what it had handled, if that is known.
    pub(crate) async fn resume_from_elsewhere(
        self: &Arc<Self>,
        account: &Jid,
        id: ResumeId,
    ) -> Arrived {
        let mesh = self.mesh.clone().filter(|mesh| mesh.takes_sessions());
        let Some(mesh) = mesh else {
            return Err(None);
        };
        let wanted = Wanted {
            account: account.clone(),
            id,
        };
        // The client may have lost the connection that it first asked on.
        let nobody = SessionId::default();
        self.await_arrival(&mesh, &wanted, nobody).await;
        let found = self.sessions.by_resume_id(id);
        let goes_to = found.as_ref().map(|s| mesh.relocation.goes_to(s.id.number));
        if let (Some(session), Some(None)) = (&found, goes_to) {
            let is_theirs = session.jid.bare_str() == account.as_str();
            return if is_theirs {
                found.ok_or(None)
            } else {
                Err(None)
            };
        }
        let goes_to = goes_to.flatten();
        if goes_to.is_none() && mesh.is_cut_off(shard_of(account.as_str())) {
            // Nobody else knows where it is.
            return Err(None);
        }
        let (to, arrived) = self.expect_arrival(&mesh, &wanted).ok_or(None)?;
        match goes_to {
            Some(other) => {
                self.asked(&mesh, to.number, vec![other.node]);
                if !self.fetch_from(&mesh, other.node, wanted, to) {
                    self.arrival_over(&mesh, to.number);
                }
            }
            None => {
                let shard = shard_of(account.as_str());
                let unit = Unit::Resume {
                    session: to.number,
                    account: account.clone(),
                    id,
                };
                let unit = unit.pack_for(shard);
                if self
                    .to_home(&mesh, (shard, None), unit, Awaited::Nobody)
                    .is_err()
                {
                    self.arrival_over(&mesh, to.number);
                }
            }
        }
        arrived.await.unwrap_or(Err(None))
    }

    /// A node that goes down has a session for this one.
    pub(super) fn take_asked(self: &Arc<Self>, mesh: &Mesh, peer: u32, wanted: Wanted) {
        if !mesh.takes_sessions() {
            return;
        }
        let Some(own) = self.mesh.clone() else {
            return;
        };
        let Some((to, _)) = self.expect_arrival(&own, &wanted) else {
            return;
        };
        self.asked(mesh, to.number, vec![peer]);
        let Wanted { account, id } = wanted;
        let unit = Unit::Fetch {
            account,
            id,
            to,
            is_pushed: true,
        };
        if !mesh.tell(peer, &unit) {
            self.arrival_over(mesh, to.number);
        }
    }

    /// Waits for a session that is on its way here, until it has come; not as `to`, which waits for
    /// whoever asks.
    pub(super) async fn await_arrival(&self, mesh: &Mesh, wanted: &Wanted, to: SessionId) {
        let deadline = Instant::now() + ARRIVAL;
        let is_coming = || {
            let arrivals = mesh.relocation.arrivals.lock();
            let is_it = |a: &Arrival| {
                !a.is_over && a.wanted.id == wanted.id && a.wanted.account == wanted.account
            };
            let is_own = |number: u64| to.node == mesh.me() && to.number == number;
            let mut those = arrivals.iter().filter(|(_, a)| is_it(a));
            those.any(|(number, _)| !is_own(*number))
        };
        let is_here = || self.sessions.by_resume_id(wanted.id).is_some();
        while !is_here() && is_coming() && Instant::now() < deadline {
            sleep(PAUSE).await;
        }
    }

    /// A session that somebody waits for was here all the time.
    pub(super) fn arrived(&self, mesh: &Mesh, number: u64, session: Arc<Session>) {
        let arrival = mesh.relocation.arrivals.lock().remove(&number);
        if let Some(waiting) = arrival.and_then(|a| a.waiting) {
            // The client may have gone, and may come again.
            let _ = waiting.send(Ok(session));
        }
    }

    fn expect_arrival(
        self: &Arc<Self>,
        mesh: &Arc<Mesh>,
        wanted: &Wanted,
    ) -> Option<(SessionId, oneshot::Receiver<Arrived>)> {
        let to = SessionId {
            node: mesh.me(),
            number: self.sessions.next_number(),
        };
        let (told, arrived) = oneshot::channel();
        let arrival = Arrival {
            wanted: wanted.clone(),
            asked: None,
            refused: Vec::new(),
            h: None,
            state: Vec::new(),
            waiting: Some(told),
            is_over: false,
        };
        let mut arrivals = mesh.relocation.arrivals.lock();
        if arrivals.len() >= ARRIVALS {
            return None;
        }
        arrivals.insert(to.number, arrival);
        drop(arrivals);
        let (node, mesh) = (Arc::clone(self), Arc::clone(mesh));
        self.runtime.spawn(async move {
            sleep(ARRIVAL).await;
            if !mesh.relocation.arrivals.lock().contains_key(&to.number) {
                return;
            }
            node.arrival_over(&mesh, to.number);
            sleep(LATE).await;
            mesh.relocation.arrivals.lock().remove(&to.number);
        });
        Some((to, arrived))
    }

    /// These nodes were told to send it.
    pub(super) fn asked(self: &Arc<Self>, mesh: &Mesh, number: u64, nodes: Vec<u32>) {
        let mut arrivals = mesh.relocation.arrivals.lock();
        let Some(arrival) = arrivals.get_mut(&number) else {
            return;
        };
        arrival.asked = Some(nodes);
        let early = std::mem::take(&mut arrival.refused);
        let is_over = arrival.asked.as_ref().is_some_and(Vec::is_empty);
        let is_over = early.into_iter().fold(is_over, |is_over, peer| {
            arrival.is_refused_by(peer) || is_over
        });
        drop(arrivals);
        if is_over {
            self.arrival_over(mesh, number);
        }
    }

    /// One of them has not got it.
    pub(super) fn not_fetched(
        self: &Arc<Self>,
        mesh: &Mesh,
        (peer, number): (u32, u64),
        h: Option<u32>,
    ) {
        let mut arrivals = mesh.relocation.arrivals.lock();
        let Some(arrival) = arrivals.get_mut(&number) else {
            return;
        };
        arrival.h = arrival.h.or(h);
        let is_over = arrival.is_refused_by(peer);
        drop(arrivals);
        if is_over {
            self.arrival_over(mesh, number);
        }
    }

    /// A node is gone, with what it was to send.
    pub(in super::super) fn nothing_comes_from(self: &Arc<Self>, mesh: &Mesh, peer: u32) {
        let mut over = Vec::new();
        for (number, arrival) in mesh.relocation.arrivals.lock().iter_mut() {
            let is_asked = arrival.asked.as_ref().is_some_and(|a| a.contains(&peer));
            if is_asked && arrival.is_refused_by(peer) {
                over.push(*number);
            }
        }
        for number in over {
            self.arrival_over(mesh, number);
        }
    }

    /// It is not waited for any more.
    fn arrival_over(self: &Arc<Self>, mesh: &Mesh, number: u64) {
        let mut arrivals = mesh.relocation.arrivals.lock();
        let Some(arrival) = arrivals.get_mut(&number).filter(|a| !a.is_over) else {
            return;
        };
        arrival.is_over = true;
        let (waiting, h) = (arrival.waiting.take(), arrival.h);
        let account = arrival.wanted.account.clone();
        drop(arrivals);
        let id = SessionId {
            node: mesh.me(),
            number,
        };
        match self.sessions.get(id) {
            // The home knows it: its contacts hear of its end.
            Some(session) => self.end_session(&session),
            None => self.end_unknown(mesh, number, account),
        }
        if let Some(waiting) = waiting {
            // The client may have gone.
            let _ = waiting.send(Err(h));
        }
    }

    /// Tells the home, should it know of a session that nobody takes up.
    fn end_unknown(self: &Arc<Self>, mesh: &Mesh, session: u64, jid: Jid) {
        let shard = shard_of(jid.bare_str());
        let unit = Unit::End {
            session,
            jid,
            is_confirmed: false,
            stanzas: Vec::new(),
        };
        let unit = unit.pack_for(shard);
        if self
            .to_home(mesh, (shard, None), unit, Awaited::Nobody)
            .is_err()
        {
            self.metrics.refused.inc();
        }
    }

    /// The home knows a session by its new name, and what it gets now follows.
    pub(super) fn coming(self: &Arc<Self>, mesh: &Mesh, number: u64, jid: &Jid) {
        if self.arriving(mesh, number, jid).is_none() {
            // In order with what goes home when a session has gone on from here.
            self.end_unknown(mesh, number, jid.clone());
        }
    }

    /// The session that is on its way here under this number, to which things can be delivered
    /// from now on. `None`: nobody waits for it.
    pub(super) fn arriving(&self, mesh: &Mesh, number: u64, jid: &Jid) -> Option<Arc<Session>> {
        let id = SessionId {
            node: mesh.me(),
            number,
        };
        // Locked first: its state may be faster, and nobody waits any more then.
        let arrivals = mesh.relocation.arrivals.lock();
        let arrival = arrivals.get(&number).filter(|a| !a.is_over);
        if let Some(arrival) = arrival {
            let mut gone = mesh.relocation.gone.lock();
            gone.known.remove(&arrival.wanted.id);
        }
        match (self.sessions.get(id), arrival) {
            (Some(session), _) => Some(session),
            (None, Some(_)) => Some(self.enter_arriving(mesh, number, jid)),
            (None, None) => None,
        }
    }

    fn enter_arriving(&self, mesh: &Mesh, number: u64, jid: &Jid) -> Arc<Session> {
        let id = SessionId {
            node: mesh.me(),
            number,
        };
        if let Some(session) = self.sessions.get(id) {
            return session;
        }
        let queue = self.live.load().queue;
        let session = Arc::new(Session::arriving(id, jid.clone(), queue));
        self.sessions.insert(Arc::clone(&session));
        session
    }

    /// Part of what the former node of a session has of it.
    pub(super) fn state_came(
        self: &Arc<Self>,
        mesh: &Mesh,
        number: u64,
        is_last: bool,
        part: &[u8],
    ) {
        let mut arrivals = mesh.relocation.arrivals.lock();
        let Some(arrival) = arrivals.get_mut(&number) else {
            return;
        };
        if arrival.state.len() + part.len() <= STATE_BYTES {
            arrival.state.extend_from_slice(part);
        }
        if !is_last {
            return;
        }
        let state = State::unpack(&std::mem::take(&mut arrival.state));
        let is_theirs = |state: &State| state.jid.bare_str() == arrival.wanted.account.as_str();
        let Some(state) = state.ok().filter(is_theirs) else {
            drop(arrivals);
            self.log_unit(mesh.me(), "the state of a session is unreadable");
            return self.arrival_over(mesh, number);
        };
        let State {
            jid,
            resumable,
            carried,
            last,
            offline,
        } = state;
        if arrival.is_over {
            drop(arrivals);
            return self.give_back_carried(mesh, number, carried);
        }
        let session = self.enter_arriving(mesh, number, &jid);
        if let Err(carried) = session.take_up(carried) {
            // Ended by its home meanwhile.
            drop(arrivals);
            self.give_back_carried(mesh, number, carried);
            return self.arrival_over(mesh, number);
        }
        mesh.relocation.gone.lock().known.remove(&resumable.id);
        self.sessions.enable(session.id, resumable);
        if self.sessions.last_of(number) == 0 {
            self.sessions.note_last(number, last);
        }
        self.sessions.note_offline(number, offline);
        // Until somebody takes it.
        self.sessions.detached(session.id, self.now());
        let waiting = arrivals.remove(&number).and_then(|a| a.waiting);
        drop(arrivals);
        self.let_pass(&session, false);
        if let Some(waiting) = waiting {
            // The client may have gone, and may come again.
            let _ = waiting.send(Ok(session));
        }
    }

    /// What never arrived goes another way.
    fn give_back_carried(self: &Arc<Self>, mesh: &Mesh, number: u64, carried: Carried) {
        let sent = carried.sent.into_iter().filter(goes_on);
        let lost: Vec<(u64, Stanza)> = sent.map(|s| (s.at_ms, s.stanza)).collect();
        self.give_back(mesh, number, lost);
    }
}
