//! Whose a stanza is: a served domain's, an account's, a component's, or somebody's elsewhere.

#![allow(
    clippy::result_large_err,
    reason = "what is refused is given back, and boxing it would cost every stanza"
)]

use crate::live::Live;
use crate::mesh::counts::Brought;
use crate::node::{Busy, Node, Routes};
use crate::saving::Feeding;
use antiphon_net::gateway::Flow;
use antiphon_net::session::Session;
use antiphon_routing::archive::{DOUBTFUL, RESENT};
use antiphon_routing::effect::{Effects, Local, Origin};
use antiphon_routing::matching::Target;
use antiphon_routing::store::StoreError;
use antiphon_routing::user::{User, is_subscription};
use antiphon_xmpp::stanza::{Stanza, StanzaCondition, StanzaError, StanzaKind};
use antiphon_xmpp::{Jid, ns};
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Room for stanzas that a thread keeps for the next that it routes.
const MAX_ROUTES: usize = 256;

thread_local! {
    /// Empty; every stanza of a client needs one.
    static ROUTES: Cell<Routes> = const { Cell::new(Routes::new()) };
}

/// To whom a stanza goes.
enum Addressee {
    Host,
    Account,
    Component(Arc<Session>),
    Elsewhere,
}

/// Whether this answers a request, or reports an error: never answered itself.
fn is_request(stanza: &Stanza) -> bool {
    stanza.kind == StanzaKind::Iq && matches!(stanza.type_str(), "get" | "set")
}

/// How far a stanza of a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Handled {
    /// Routed; what is stored for it counts by itself.
    Done,
    /// Python answers it; who brought it is told then.
    Asked,
}

impl Node {
    fn addressee(&self, to: &Jid) -> Addressee {
        if self.live.load().is_host(to.domain()) {
            return if to.local().is_none() {
                Addressee::Host
            } else {
                Addressee::Account
            };
        }
        match self.components.read().get(to.domain()) {
            Some(session) => Addressee::Component(Arc::clone(session)),
            None => Addressee::Elsewhere,
        }
    }

    /// A stanza from a bound session here.
    pub(crate) fn from_session(
        self: &Arc<Self>,
        session: &Arc<Session>,
        stanza: Stanza,
        seq: u64,
    ) -> Flow {
        self.metrics.received(stanza.kind);
        if let Some((mesh, shard)) = self.elsewhere(session.jid.bare_str()) {
            return self.forward(mesh, shard, session, stanza, seq);
        }
        let _feeding = Feeding::by(session);
        let handled = match self.enter(session.jid.bare_str()) {
            Ok(_guard) => self.handle(session, stanza, seq, None),
            Err(Busy) => Err(stanza),
        };
        match (handled, self.mesh.as_deref()) {
            (Ok(_), _) => Flow::Go,
            // Its entity has just moved.
            (Err(stanza), Some(mesh)) if !session.is_closed() => {
                let shard = antiphon_routing::home::shard_of(session.jid.bare_str());
                self.forward(mesh, shard, session, stanza, seq)
            }
            (Err(_), _) => Flow::Go,
        }
    }

    /// A stanza from a bound session whose entity lives here. `brought`, if the session has its socket
    /// elsewhere, is counted from the moment at which the entity takes it, or until Python answers:
    /// should this node die meanwhile, the next home is asked.
    ///
    /// # Errors
    /// Gives it back: the entity is not here any more, or does not know the session.
    pub(crate) fn handle(
        self: &Arc<Self>,
        session: &Arc<Session>,
        stanza: Stanza,
        seq: u64,
        brought: Option<Brought>,
    ) -> Result<Handled, Stanza> {
        if stanza.kind == StanzaKind::Iq
            && let Some(handled) = self.iq_from_session(session, &stanza, brought)
        {
            session.handled(seq);
            return Ok(handled);
        }
        if stanza.kind == StanzaKind::Presence {
            self.look_at_caps(&stanza);
        }
        // Number 0 where nothing is counted: then it only says whose stanza it is.
        let sender = Origin {
            session: session.id,
            seq,
        };
        let origin = Some(sender);
        let mut routes = ROUTES.take();
        let mut slot = Some(stanza);
        // The entity of a bound session is in memory, where it lives.
        self.with_live_user(&session.jid, &mut routes, |user, fx| {
            if let Some(mut stanza) = slot.take_if(|_| user.has_session(session.id)) {
                if self.is_doubtful(session.jid.bare_str()) {
                    stanza.uid |= DOUBTFUL;
                }
                if let (Some(mesh), Some(brought), true) = (&self.mesh, brought, seq > 0) {
                    mesh.counts.open(sender, brought);
                }
                user.outgoing(sender, stanza, self.now(), &self.live.load().policy, fx);
                self.expect(origin, fx);
            }
        });
        if let Some(stanza) = slot {
            ROUTES.set(routes);
            return Err(stanza);
        }
        while let Some(stanza) = routes.pop_front() {
            // The stanza itself and no answer or notice that it caused.
            let from = stanza.from.as_ref().map(Jid::as_str);
            let is_own = match stanza.kind {
                // It goes out in the name of the account (RFC 6121 §3.1.2) and is stored there.
                StanzaKind::Presence => {
                    is_subscription(&stanza) && from == Some(session.jid.bare_str())
                }
                _ => from == Some(session.jid.as_str()),
            };
            self.route_one(stanza, origin.filter(|_| is_own), &mut routes);
        }
        if routes.capacity() <= MAX_ROUTES {
            ROUTES.set(routes);
        }
        // Routed; what it was stored for counts by itself.
        session.handled(seq);
        Ok(Handled::Done)
    }

    /// IQs of a session to the server and to its own account. `None`: to somebody else.
    fn iq_from_session(
        self: &Arc<Self>,
        session: &Arc<Session>,
        stanza: &Stanza,
        brought: Option<Brought>,
    ) -> Option<Handled> {
        let is_own = stanza
            .to
            .as_ref()
            .is_none_or(|to| to.is_bare() && to.as_str() == session.jid.bare_str());
        let target = if is_own {
            Target::Account
        } else {
            let to = stanza.to.as_ref()?;
            if to.local().is_some() || !self.live.load().is_host(to.domain()) {
                return None;
            }
            Target::Host
        };
        if !is_request(stanza) {
            self.answer_of_client(stanza);
            return Some(Handled::Done);
        }
        let mut stanza = stanza.clone();
        if is_own && stanza.to.is_none() {
            // Python sees whom it is for; the answer still comes without a sender (RFC 6120 §8.1.2).
            stanza.to = Some(session.jid.bare());
        }
        Some(self.serve_iq(stanza, target, Some(session), brought))
    }

    /// Answers an IQ get or set on behalf of the server or an account.
    fn serve_iq(
        self: &Arc<Self>,
        stanza: Stanza,
        target: Target,
        session: Option<&Arc<Session>>,
        brought: Option<Brought>,
    ) -> Handled {
        let live = self.live.load();
        let is_set = stanza.type_str() == "set";
        let found = stanza.payload.children.first().and_then(|child| {
            if !is_set
                && &*child.ns == ns::PING
                && &*child.name == "ping"
                && answers_pings(&live, &stanza)
            {
                return Some(Ok(()));
            }
            live.matches
                .find(target, is_set, &child.ns, &child.name)
                .map(Err)
        });
        match found {
            Some(Ok(())) => self.answer_to(session, stanza.result()),
            Some(Err((handler, is_ordered))) => {
                if let Some(session) = session.filter(|_| is_ordered) {
                    // Before Python can answer and release.
                    session.hold();
                }
                let origin = match (&self.mesh, brought) {
                    (Some(mesh), Some(brought)) => Some(mesh.counts.open_unnamed(brought)),
                    _ => None,
                };
                self.ask(stanza, session.map(Arc::clone), origin, handler);
                return Handled::Asked;
            }
            None => self.bounce_to(
                session,
                &stanza,
                &StanzaCondition::ServiceUnavailable.into(),
            ),
        }
        Handled::Done
    }

    fn answer_to(self: &Arc<Self>, session: Option<&Arc<Session>>, answer: Stanza) {
        match session {
            Some(session) => {
                // A session that is over needs no answer.
                let _ = session.deliver(answer, None, self.now());
            }
            None => {
                self.route(answer, None);
            }
        }
    }

    fn bounce_to(
        self: &Arc<Self>,
        session: Option<&Arc<Session>>,
        stanza: &Stanza,
        error: &StanzaError,
    ) {
        if let Some(answer) = stanza.error(error) {
            self.answer_to(session, answer);
        }
    }

    /// Routes a stanza and all that follows from it.
    pub(crate) fn route(self: &Arc<Self>, stanza: Stanza, origin: Option<Origin>) {
        let mut routes = Routes::new();
        self.route_one(stanza, origin, &mut routes);
        self.route_all(routes);
    }

    /// Routes a stanza whose account lives here by now, past what else waits for its shard.
    pub(crate) fn route_here(self: &Arc<Self>, stanza: Stanza, origin: Option<Origin>) {
        let Some(to) = stanza.to.clone() else {
            return;
        };
        let mut routes = Routes::new();
        self.to_account_here(stanza, &to, origin, &mut routes);
        self.route_all(routes);
    }

    pub(crate) fn route_all(self: &Arc<Self>, mut routes: Routes) {
        while let Some(stanza) = routes.pop_front() {
            self.route_one(stanza, None, &mut routes);
        }
    }

    /// Routes one stanza; what follows from it joins `routes`. Whatever is stored for the stanza of
    /// `origin` counts to it.
    fn route_one(self: &Arc<Self>, stanza: Stanza, origin: Option<Origin>, routes: &mut Routes) {
        let Some(to) = stanza.to.clone() else {
            return;
        };
        match self.addressee(&to) {
            Addressee::Host => self.to_host(stanza, &to),
            Addressee::Account => self.to_account(stanza, &to, origin, routes),
            Addressee::Component(session) => {
                if session.deliver(stanza.clone(), None, self.now()).is_err() {
                    routes.extend(stanza.error(&StanzaCondition::ServiceUnavailable.into()));
                }
            }
            Addressee::Elsewhere if self.to_component_elsewhere(&stanza) => {}
            Addressee::Elsewhere => {
                // RFC 6120 §10.4: there is no way to another server from here.
                let condition = if self.is_component(to.domain()) {
                    StanzaCondition::ServiceUnavailable
                } else {
                    StanzaCondition::RemoteServerNotFound
                };
                if stanza.kind != StanzaKind::Presence || stanza.type_.is_none() {
                    routes.extend(
                        stanza
                            .error(&condition.into())
                            .filter(|_| stanza.kind != StanzaKind::Presence),
                    );
                }
            }
        }
    }

    /// An answer to a request of the server's: for the node that sent it.
    fn answer_of_client(&self, stanza: &Stanza) {
        if !self.pass_answer(stanza) {
            self.requests.answer(stanza, &self.bridge);
        }
    }

    fn is_component(&self, domain: &str) -> bool {
        self.live
            .load()
            .config
            .components
            .iter()
            .any(|c| c.domain == domain)
    }

    /// A stanza to a served domain that comes from no session here, or is no IQ.
    fn to_host(self: &Arc<Self>, stanza: Stanza, to: &Jid) {
        match stanza.kind {
            StanzaKind::Iq if is_request(&stanza) && to.is_bare() => {
                self.serve_iq(stanza, Target::Host, None, None);
            }
            StanzaKind::Iq if is_request(&stanza) => {
                self.bounce_to(None, &stanza, &StanzaCondition::ServiceUnavailable.into());
            }
            StanzaKind::Iq => self.answer_of_client(&stanza),
            StanzaKind::Message => {
                self.bounce_to(None, &stanza, &StanzaCondition::ServiceUnavailable.into())
            }
            // RFC 6121 §4.6: the server itself has no presence and no subscriptions.
            StanzaKind::Presence => {}
        }
    }

    fn to_account(
        self: &Arc<Self>,
        stanza: Stanza,
        to: &Jid,
        origin: Option<Origin>,
        routes: &mut Routes,
    ) {
        self.note_known(&stanza);
        if self.elsewhere(to.bare_str()).is_none()
            && let Ok(_guard) = self.enter(to.bare_str())
        {
            return self.to_account_here(stanza, to, origin, routes);
        }
        let Some(mesh) = self.mesh.as_deref() else {
            return;
        };
        let shard = antiphon_routing::home::shard_of(to.bare_str());
        let copy = stanza.clone();
        if self.route_away(mesh, shard, stanza, origin).is_err() {
            routes.extend(copy.error(&Busy.into()));
        }
    }

    /// Counts a message that its sender's entity, which lives here, had sent on before.
    fn note_known(&self, stanza: &Stanza) {
        let from = stanza.from.as_ref();
        if stanza.uid & RESENT != 0
            && let Some(mesh) = self.mesh.as_deref()
            && from.is_some_and(|from| self.elsewhere(from.bare_str()).is_none())
        {
            mesh.known.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// As [`Node::to_account`], to one that lives here.
    fn to_account_here(
        self: &Arc<Self>,
        stanza: Stanza,
        to: &Jid,
        origin: Option<Origin>,
        routes: &mut Routes,
    ) {
        if is_request(&stanza) && to.is_bare() {
            return self.iq_to_account(stanza, to, origin, routes);
        }
        let counted = origin.filter(|o| o.seq > 0);
        let mut slot = Some(stanza);
        self.with_live_user(to, routes, |user, fx| {
            if let Some(stanza) = slot.take() {
                user.incoming(stanza, counted, self.now(), &self.live.load().policy, fx);
                self.expect(counted, fx);
            }
        });
        if let Some(stanza) = slot {
            self.to_account_later(stanza, to, origin, routes);
        }
    }

    /// The entity must be read first; until then the stanza of `origin` is not handled.
    fn to_account_later(
        self: &Arc<Self>,
        stanza: Stanza,
        to: &Jid,
        origin: Option<Origin>,
        routes: &mut Routes,
    ) {
        let copy = stanza.clone();
        let sender = origin.map(|o| o.session);
        let origin = origin.filter(|o| o.seq > 0);
        if let Some(origin) = origin {
            self.expect_more(origin, 1);
        }
        let job = move |node: &Arc<Self>,
                        user: Result<&mut User, &StoreError>,
                        fx: &mut Effects| {
            match user {
                Ok(user) => user.incoming(stanza, origin, node.now(), &node.live.load().policy, fx),
                Err(_) => fx.routes.extend(stanza.error(&Busy.into())),
            }
            node.expect(origin, fx);
            node.entity_read(origin);
        };
        if self.with_user_holding(to, sender, job, routes).is_err() {
            if let Some((mesh, shard)) = self.elsewhere(to.bare_str())
                && self.route_away(mesh, shard, copy.clone(), origin).is_ok()
            {
                return self.entity_read(origin);
            }
            self.entity_read(origin);
            routes.extend(copy.error(&Busy.into()));
        }
    }

    /// The entity that a stanza waited for has been read.
    fn entity_read(&self, origin: Option<Origin>) {
        if let Some(origin) = origin {
            self.handled_one(origin);
        }
    }

    /// An IQ get or set to a bare JID, from somebody else: the server answers, the same whether the
    /// account refuses or does not exist (RFC 6120 §13.11), for which reason Python is asked about
    /// accounts that do not exist too.
    fn iq_to_account(
        self: &Arc<Self>,
        stanza: Stanza,
        to: &Jid,
        origin: Option<Origin>,
        routes: &mut Routes,
    ) {
        let copy = stanza.clone();
        // What another node brought is done when it is answered.
        let counted = origin.filter(|o| o.seq > 0 && o.session.node != self.locator.incarnation());
        if let Some(origin) = counted {
            self.expect_more(origin, 1);
        }
        let job =
            move |node: &Arc<Self>, user: Result<&mut User, &StoreError>, fx: &mut Effects| {
                let mut is_seen = false;
                let is_served = user.is_ok_and(|user| {
                    let Some(from) = &stanza.from else {
                        return false;
                    };
                    is_seen = user.may_see_presence(from);
                    !user.is_blocked(from)
                });
                let child = stanza.payload.children.first();
                let is_set = stanza.type_str() == "set";
                let live = node.live.load();
                let is_ping =
                    child.is_some_and(|c| !is_set && &*c.ns == ns::PING && &*c.name == "ping");
                let found =
                    child.and_then(|c| live.matches.find(Target::Account, is_set, &c.ns, &c.name));
                match found {
                    // To a stranger the account looks like one that does not exist.
                    _ if is_served && is_ping && is_seen && answers_pings(&live, &stanza) => {
                        fx.routes.push(stanza.result())
                    }
                    Some((handler, _)) if is_served => {
                        return fx.local.push(Local::Ask {
                            handler,
                            stanza,
                            session: None,
                            origin: counted,
                        });
                    }
                    _ => fx
                        .routes
                        .extend(stanza.error(&StanzaCondition::ServiceUnavailable.into())),
                }
                node.entity_read(counted);
            };
        let sender = origin.map(|o| o.session);
        if self.with_user_holding(to, sender, job, routes).is_err() {
            self.entity_read(counted);
            routes.extend(copy.error(&Busy.into()));
        }
    }
}

/// Whether pings are on for the domain that this IQ is for (XEP-0199).
fn answers_pings(live: &Live, iq: &Stanza) -> bool {
    iq.to
        .as_ref()
        .is_some_and(|to| live.modules(to.domain()).ping)
}
