//! The side of a session where its entity lives, when its socket is on another node.

use super::counts::{Brought, Joined};
use super::homes::{Guard, Homes};
use super::proxies::{Foreign, Peer};
use super::unit::{Known, Leg, Unit};
use super::{Awaited, Mesh};
use crate::node::{Busy, Node};
use crate::route::Handled;
use crate::saving::Feeding;
use antiphon_cluster::id::Incarnation;
use antiphon_cluster::link::Class;
use antiphon_cluster::map::ShardMap;
use antiphon_cluster::relay::Outcome;
use antiphon_routing::SessionId;
use antiphon_routing::archive::{ArchiveFilter, ArchiveId, ArchivedMessage};
use antiphon_routing::effect::{Effects, Origin};
use antiphon_routing::home::shard_of;
use antiphon_routing::store::{Store, StoreError};
use antiphon_routing::user::{Rebound, User};
use antiphon_xmpp::stanza::{Stanza, StanzaError};
use antiphon_xmpp::stream::StreamCondition;
use antiphon_xmpp::{Jid, StanzaKind};
use std::sync::Arc;

/// Messages that a session is given at most which its dead home had not given it.
const MISSED: usize = 200;
/// How often they are tried to be read; meanwhile their shard is not served.
const MISSED_TRIES: usize = 2;

impl Node {
    /// A stanza of a session whose home this is. Whether it is told later that it is done.
    pub(super) fn stanza_from_edge(
        self: &Arc<Self>,
        mesh: &Mesh,
        brought: Brought,
        (number, seq): (u64, u64),
        stanza: Stanza,
    ) -> bool {
        let session = SessionId {
            node: brought.peer,
            number,
        };
        match mesh.counts.join(Origin { session, seq }, brought) {
            Joined::New => {}
            Joined::Waits => return true,
            Joined::Done => return false,
        }
        match mesh.proxies.get(session) {
            Some(foreign) => self.from_proxy(mesh, &foreign, seq, stanza, brought),
            None => {
                // Nobody told of it: better a stream that is made anew than one whose messages go
                // nowhere.
                self.close_at_edge(mesh, session, StreamCondition::Reset);
                return false;
            }
        }
        true
    }

    pub(super) fn handle_of_proxy(
        self: &Arc<Self>,
        mesh: &Mesh,
        foreign: &Foreign,
        seq: u64,
        stanza: Stanza,
        brought: Brought,
    ) {
        let session = &foreign.session;
        let origin = Origin {
            session: session.id,
            seq,
        };
        let done = || {
            let Brought { peer, number } = brought;
            mesh.links.done(peer, Class::Stanza, number, Outcome::Done);
        };
        let _feeding = Feeding::by(session);
        match self.handle(session, stanza, seq, Some(brought)) {
            Ok(Handled::Asked) => {}
            // Nothing is counted on its stream.
            Ok(Handled::Done) if seq == 0 || !mesh.counts.is_open(origin) => done(),
            Ok(Handled::Done) => self.handled_one(origin),
            // Its entity has moved; or the session is over.
            Err(_) if self.elsewhere(session.jid.bare_str()).is_some() => {
                self.bring_elsewhere(mesh, brought);
            }
            Err(_) => done(),
        }
    }

    /// A stanza to somebody whose home this is. Whether it is told later that it is done.
    pub(super) fn routed_here(
        self: &Arc<Self>,
        mesh: &Mesh,
        brought: Brought,
        stanza: Stanza,
    ) -> bool {
        // No place in an archive here comes before one that was given there.
        let place = ArchiveId(stanza.uid & ArchiveId::MAX.0);
        self.live.load().policy.clock.observe(place);
        let origin = mesh.counts.open_unnamed(brought);
        self.route_here(stanza, Some(origin));
        self.handled_one(origin);
        true
    }

    /// What was sent on for a stanza when its sender lived elsewhere. Whether it is told later that
    /// it is done.
    pub(super) fn leg_here(
        self: &Arc<Self>,
        mesh: &Mesh,
        brought: Brought,
        (number, seq): (u64, u64),
        stanza: Stanza,
    ) -> bool {
        let session = SessionId {
            node: brought.peer,
            number,
        };
        match mesh.counts.join(Origin { session, seq }, brought) {
            Joined::Waits => return true,
            Joined::Done => return false,
            Joined::New => {}
        }
        // The home that had it is dead.
        let origin = mesh.counts.open_unnamed(brought);
        self.route(stanza, Some(origin));
        self.handled_one(origin);
        true
    }

    /// A unit of this node's own, whose home this is by now.
    pub(super) fn own_unit_here(self: &Arc<Self>, mesh: &Mesh, unit: &[u8], awaited: &Awaited) {
        let me = mesh.me();
        match (Unit::unpack(unit), awaited) {
            (Ok(Unit::Stanza { stanza, seq, .. }), Awaited::Session(session, ..)) => {
                let id = session.id;
                if mesh.counts.was_begun(Origin { session: id, seq }) {
                    return;
                }
                // Once for its being handled, once for its having been sent.
                session.expect(seq, 1);
                let _feeding = Feeding::by(session);
                // Given back only of a session that is over.
                if self.handle(session, stanza, seq, None).is_err() {
                    session.handled(seq);
                }
            }
            (Ok(Unit::Route { stanza }), Awaited::Origin(origin)) => {
                self.route_here(stanza, Some(*origin));
            }
            (Ok(Unit::Route { stanza }), _) => self.route_here(stanza, None),
            (Ok(Unit::Leg { stanza, .. }), Awaited::Origin(origin)) => {
                if !mesh.counts.was_begun(*origin) {
                    self.route(stanza, Some(*origin));
                }
            }
            (Ok(unit), _) => {
                // None of the rest waits for anything.
                self.take_unit(
                    mesh,
                    Brought {
                        peer: me,
                        number: 0,
                    },
                    unit,
                );
            }
            (Err(_), _) => {}
        }
    }

    /// A session of another node binds an address of an account whose home this is.
    pub(super) fn bind_from_edge(
        self: &Arc<Self>,
        mesh: &Mesh,
        id: SessionId,
        jid: Jid,
        (is_temporary, knows_new): (bool, bool),
    ) {
        let account = jid.bare();
        if is_temporary {
            self.make_temporary(&account);
        }
        if id.node != mesh.me() {
            let Some(peer) = self.peer(mesh, id.node) else {
                return;
            };
            mesh.proxies
                .enter(id, jid.clone(), &peer, self.live.load().queue);
        }
        let job =
            move |node: &Arc<Self>, user: Result<&mut User, &StoreError>, fx: &mut Effects| {
                let result = match user {
                    Ok(user) => {
                        let result = user.bind(id, &jid, &node.live.load().policy, fx);
                        if !knows_new {
                            user.tell_again(id);
                        }
                        result
                    }
                    Err(error) => Err(crate::node::store_error(error)),
                };
                node.bound(id, result);
            };
        if self.on_user(&account, job).is_err() {
            self.bound(id, Err(Busy.into()));
        }
    }

    fn bound(&self, id: SessionId, result: Result<(), StanzaError>) {
        if result.is_err()
            && let Some(mesh) = self.mesh.as_deref()
        {
            self.forget_proxy(mesh, id);
        }
        self.answer_bind(id.node, id.number, result.err());
    }

    fn answer_bind(&self, peer: u32, session: u64, refused: Option<StanzaError>) {
        let Some(mesh) = self.mesh.as_deref() else {
            return;
        };
        if peer != mesh.me() {
            mesh.tell(peer, &Unit::Bound { session, refused });
        } else if let Some(answer) = mesh.binds.lock().remove(&session) {
            // Whoever asked may have gone.
            let _ = answer.send(refused);
        }
    }

    /// A proxy is over; what it had on the way.
    pub(super) fn forget_proxy(&self, mesh: &Mesh, id: SessionId) -> Vec<(u64, Stanza)> {
        let Some(foreign) = mesh.proxies.leave(id) else {
            return Vec::new();
        };
        for Brought { peer, number } in foreign.end_inbox() {
            // Of a session that is over.
            mesh.links.done(peer, Class::Stanza, number, Outcome::Done);
        }
        self.finish_proxy(&foreign)
    }

    /// Ends a proxy that has been taken out.
    pub(super) fn finish_proxy(&self, foreign: &Foreign) -> Vec<(u64, Stanza)> {
        let now_ms = self.now();
        // Lets go of the waker, which holds the proxy.
        let _ = foreign.session.detach(now_ms);
        let rest = foreign.session.finish(now_ms);
        let rest = rest.into_iter().filter(crate::node::goes_on);
        rest.map(|s| (s.at_ms, s.stanza)).collect()
    }

    /// A session of another node is over.
    pub(super) fn ended_at_edge(
        self: &Arc<Self>,
        mesh: &Mesh,
        id: SessionId,
        jid: &Jid,
        is_confirmed: bool,
        mut stanzas: Vec<(u64, Stanza)>,
    ) {
        if id.node != mesh.me() {
            stanzas.extend(self.forget_proxy(mesh, id));
        }
        self.end_at_home(jid, id, is_confirmed, stanzas);
    }

    /// An entity that comes here is told of a session that was bound before.
    pub(super) fn take_up_session(self: &Arc<Self>, mesh: &Mesh, known: Known) {
        let (id, jid) = (known.id, known.jid.clone());
        let is_ours = id.node == mesh.me();
        let peer = match is_ours {
            true => None,
            false => self.peer(mesh, id.node),
        };
        let is_over = match &peer {
            Some(peer) => {
                let queue = self.live.load().queue;
                mesh.proxies.enter(id, jid.clone(), peer, queue);
                false
            }
            None => !is_ours,
        };
        if is_ours {
            // It is known here from now on.
            self.sessions.unkeep(id.number);
        }
        self.rebind(mesh, known, is_over);
        if is_over {
            // Its node is dead; its contacts hear of it.
            self.end_at_home(&jid, id, false, Vec::new());
        }
    }

    fn rebind(self: &Arc<Self>, mesh: &Mesh, known: Known, is_over: bool) {
        let Known {
            id,
            jid,
            keepsake,
            last,
        } = known;
        let account = jid.bare();
        let guard = Homes::hold(&mesh.homes, shard_of(account.as_str()));
        let job =
            move |node: &Arc<Self>, user: Result<&mut User, &StoreError>, fx: &mut Effects| {
                let mut seen = None;
                let lives = |id: SessionId| match node.mesh.as_deref() {
                    Some(mesh) => id.node == mesh.me() || node.peer(mesh, id.node).is_some(),
                    None => true,
                };
                let has_successor = |user: &&mut User| {
                    let mut others = user.sessions().into_iter();
                    others.any(|(o, at)| o != id && at == jid && (o > id || lives(o)))
                };
                if is_over && user.as_ref().is_ok_and(has_successor) {
                    // Whoever told of it had not heard.
                    return;
                }
                let rebound = user.map(|user| {
                    let rebound = user.rebind(id, &jid, &keepsake);
                    if !is_over {
                        seen = user.missed_behind(id, last);
                        user.read_on(id, &node.live.load().policy, fx);
                    }
                    rebound
                });
                let (gone, condition) = match rebound {
                    Ok(Ok(Rebound::Done)) => return node.catch_up(id, jid, seen, guard),
                    Ok(Ok(Rebound::Replaced(gone))) if gone != id => {
                        node.close_session(gone, StreamCondition::Conflict.into());
                        return node.catch_up(id, jid, seen, guard);
                    }
                    Ok(Ok(Rebound::Replaced(gone))) => (gone, StreamCondition::Conflict),
                    Ok(Ok(Rebound::NoAccount)) => (id, StreamCondition::NotAuthorized),
                    Ok(Err(_)) | Err(_) => (id, StreamCondition::Reset),
                };
                node.close_session(gone, condition.into());
                drop(guard);
            };
        let mut routes = crate::node::Routes::new();
        self.with_user_first(&account, job, &mut routes);
        self.route_all(routes);
    }

    /// Gives a session what its dead home had stored behind the message that it got last; its shard
    /// is not served before.
    fn catch_up(
        self: &Arc<Self>,
        id: SessionId,
        jid: Jid,
        seen: Option<ArchiveId>,
        guard: Option<Guard>,
    ) {
        let Some(seen) = seen else {
            return;
        };
        let node = Arc::clone(self);
        self.runtime.spawn(async move {
            let owner = jid.bare();
            let Some(messages) = node.missed(&owner, seen).await else {
                // Better a stream that is made anew than one that lacks messages.
                return node.close_session(id, StreamCondition::Reset.into());
            };
            if messages.is_empty() {
                return;
            }
            let job =
                move |node: &Arc<Self>, user: Result<&mut User, &StoreError>, fx: &mut Effects| {
                    if let Ok(user) = user {
                        user.catch_up(id, messages, &node.live.load().policy, fx);
                    }
                    drop(guard);
                };
            let mut routes = crate::node::Routes::new();
            node.with_user_first(&owner, job, &mut routes);
            node.route_all(routes);
        });
    }

    /// The newest messages behind one; `None`: they cannot be read.
    async fn missed(&self, owner: &Jid, seen: ArchiveId) -> Option<Vec<ArchivedMessage>> {
        for _ in 0..MISSED_TRIES {
            let filter = ArchiveFilter {
                after: Some(seen),
                ..ArchiveFilter::default()
            };
            match self.store.archive_page(owner, filter, true, MISSED).await {
                Ok(page) => return Some(page.messages),
                Err(error) => self.log_store_error("missed messages not read", &error),
            }
        }
        None
    }

    /// What an entity that comes here has sent on and no home has taken.
    pub(super) fn take_up_leg(self: &Arc<Self>, mesh: &Mesh, source: u16, leg: Leg) {
        let Leg { origin, stanza } = leg;
        let Some(to) = &stanza.to else {
            return;
        };
        let is_counted = origin.seq > 0;
        if is_counted {
            mesh.counts.open_handed(origin);
        }
        if is_counted && origin.session.node == mesh.me() {
            // Its session counts by itself; that it was begun is remembered.
            self.expect_more(origin, 1);
            mesh.counts.handled(origin);
        }
        let shard = shard_of(to.bare_str());
        let awaited = match is_counted {
            true => Awaited::Origin(origin),
            false => Awaited::Nobody,
        };
        let unit = Unit::Route { stanza }.pack_for(shard);
        if let Err(parcel) = self.to_home(mesh, (shard, Some(source)), unit, awaited) {
            self.settle(&parcel.awaited);
            self.parcel_refused(&parcel);
        }
    }

    pub(super) fn peer(&self, mesh: &Mesh, incarnation: u32) -> Option<Arc<Peer>> {
        mesh.peers.read().get(&incarnation).cloned()
    }

    /// Gets to know the nodes of a map; those that are gone.
    pub(super) fn meet(self: &Arc<Self>, mesh: &Arc<Mesh>, map: &ShardMap) -> Vec<u32> {
        let mut met = Vec::new();
        let mut gone = Vec::new();
        let mut peers = mesh.peers.write();
        let others = map.nodes().iter().map(|n| n.incarnation().0);
        for incarnation in others.filter(|n| *n != mesh.me()) {
            peers.entry(incarnation).or_insert_with(|| {
                let peer = Arc::new(Peer::new(incarnation));
                met.push(incarnation);
                self.runtime.spawn(Arc::clone(self).pump(Arc::clone(&peer)));
                peer
            });
        }
        peers.retain(|incarnation, peer| {
            let is_there = map.knows(Incarnation(*incarnation));
            if !is_there {
                peer.leave();
                gone.push(*incarnation);
            }
            is_there
        });
        drop(peers);
        for peer in met {
            self.tell_components(mesh, peer);
        }
        gone
    }

    /// Sends the edges of an entity's sessions what their next homes are to know.
    pub(crate) fn send_keepsakes(&self, mesh: &Mesh, user: &mut User) {
        let changed: Vec<SessionId> = user.take_changed().collect();
        for id in changed {
            let Some(keepsake) = user.keepsake(id) else {
                continue;
            };
            if id.node == mesh.me() {
                if let Some(jid) = user.jid_of(id) {
                    mesh.tell_shadow(id, jid, &keepsake);
                }
            } else {
                let unit = Unit::Keep {
                    session: id.number,
                    keepsake: &keepsake,
                };
                mesh.tell(id.node, &unit);
            }
        }
    }

    /// A node is gone: so are its sessions.
    pub(super) fn end_sessions_of(self: &Arc<Self>, mesh: &Mesh, peer: u32) {
        mesh.counts.forget(peer);
        let mut lost = self.lost_with(mesh, peer);
        for foreign in mesh.proxies.those(|f| f.session.id.node == peer) {
            let (id, jid) = (foreign.session.id, foreign.session.jid.clone());
            let mut stanzas = lost.remove(&(id, jid.clone())).unwrap_or_default();
            stanzas.extend(self.forget_proxy(mesh, id));
            self.end_at_home(&jid, id, false, stanzas);
        }
        // Of sessions that have another home by now, or that another has replaced.
        for ((_, jid), stanzas) in lost {
            let shard = shard_of(jid.bare_str());
            let unit = Unit::End {
                session: 0,
                jid,
                is_confirmed: false,
                stanzas,
            };
            let unit = unit.pack_for(shard);
            if self
                .to_home(mesh, (shard, None), unit, Awaited::Nobody)
                .is_err()
            {
                self.metrics.refused.inc();
            }
        }
    }

    /// Whether a stanza of the server's own is answered by this stanza, which another node waits
    /// for.
    pub(crate) fn pass_answer(&self, stanza: &Stanza) -> bool {
        let Some(mesh) = self.mesh.as_deref() else {
            return false;
        };
        if stanza.kind != StanzaKind::Iq {
            return false;
        }
        let Some(asker) = stanza.id.as_deref().and_then(crate::requests::asker) else {
            return false;
        };
        asker != mesh.me()
            && mesh.tell(
                asker,
                &Unit::Answer {
                    stanza: stanza.clone(),
                },
            )
    }
}
