//! Presence subscriptions (RFC 6121 §3): the state machine of Appendix A and what follows from a
//! step.

use super::{Turn, User};
use crate::store::{Request, Subscription, Write};
use antiphon_xmpp::{Jid, Stanza, StanzaCondition, StanzaError, StanzaKind};

/// Largest request that is kept with its payload, bytes: requests stay in memory.
const REQUEST_BYTES: usize = 4096;

/// The four kinds of presence that change a subscription; the number is the column in the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Subscribe,
    Unsubscribe,
    Subscribed,
    Unsubscribed,
}

impl Verb {
    /// The verb of a presence `type`.
    pub fn of(type_: &str) -> Option<Self> {
        match type_ {
            "subscribe" => Some(Self::Subscribe),
            "unsubscribe" => Some(Self::Unsubscribe),
            "subscribed" => Some(Self::Subscribed),
            "unsubscribed" => Some(Self::Unsubscribed),
            _ => None,
        }
    }

    /// The presence `type`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Subscribe => "subscribe",
            Self::Unsubscribe => "unsubscribe",
            Self::Subscribed => "subscribed",
            Self::Unsubscribed => "unsubscribed",
        }
    }
}

/// Whether a stanza changes subscriptions, or asks for it (RFC 6121 §3).
#[must_use]
pub fn is_subscription(stanza: &Stanza) -> bool {
    stanza.kind == StanzaKind::Presence && Verb::of(stanza.type_str()).is_some()
}

/// RFC 6121 Appendix A.1: the nine states; the number is the row in the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    None,
    NonePo,
    NonePi,
    NonePoPi,
    To,
    ToPi,
    From,
    FromPo,
    Both,
}

impl State {
    /// The state of a contact. What the RFC has no name for (a pending request beside the
    /// subscription it asks for, from imported data) counts as the subscription.
    pub fn of(subscription: Subscription, has_request: bool) -> Self {
        let Subscription {
            to,
            from,
            pending_out,
            ..
        } = subscription;
        match (to, from, pending_out, has_request) {
            (true, true, _, _) => Self::Both,
            (true, false, _, true) => Self::ToPi,
            (true, false, _, false) => Self::To,
            (false, true, true, _) => Self::FromPo,
            (false, true, false, _) => Self::From,
            (false, false, true, true) => Self::NonePoPi,
            (false, false, true, false) => Self::NonePo,
            (false, false, false, true) => Self::NonePi,
            (false, false, false, false) => Self::None,
        }
    }

    /// The part that the roster shows; `approved` is no part of the state.
    pub fn subscription(self, approved: bool) -> Subscription {
        Subscription {
            to: matches!(self, Self::To | Self::ToPi | Self::Both),
            from: matches!(self, Self::From | Self::FromPo | Self::Both),
            pending_out: matches!(self, Self::NonePo | Self::NonePoPi | Self::FromPo),
            approved,
        }
    }

    /// Whether the contact waits for an answer.
    pub fn has_request(self) -> bool {
        matches!(self, Self::NonePi | Self::NonePoPi | Self::ToPi)
    }
}

/// What a table says about one stanza in one state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Pass it on (route out, deliver in); the state becomes this one.
    Pass(State),
    /// Do not pass it on, nothing changes.
    Stop,
    /// Answer `subscribed` on the user's behalf, nothing changes.
    Reply,
}

use State::{Both, From, FromPo, None as No, NonePi, NonePo, NonePoPi, To, ToPi};
use Step::{Pass, Reply, Stop};

/// RFC 6121 Appendix A.2: what the user sends. Columns as in [`Verb`].
pub(super) const OUTBOUND: [[Step; 4]; 9] = [
    /* None         */ [Pass(NonePo), Pass(No), Stop, Stop],
    /* None+PO      */ [Pass(NonePo), Pass(No), Stop, Stop],
    /* None+PI      */ [Pass(NonePoPi), Pass(NonePi), Pass(From), Pass(No)],
    /* None+PO+PI   */ [Pass(NonePoPi), Pass(NonePi), Pass(FromPo), Pass(NonePo)],
    /* To           */ [Pass(To), Pass(No), Stop, Stop],
    /* To+PI        */ [Pass(ToPi), Pass(NonePi), Pass(Both), Pass(To)],
    /* From         */ [Pass(FromPo), Pass(From), Stop, Pass(No)],
    /* From+PO      */ [Pass(FromPo), Pass(From), Stop, Pass(NonePo)],
    /* Both         */ [Pass(Both), Pass(From), Stop, Pass(To)],
];

/// RFC 6121 Appendix A.3: what comes from the contact. Columns as in [`Verb`].
pub(super) const INBOUND: [[Step; 4]; 9] = [
    /* None         */ [Pass(NonePi), Stop, Stop, Stop],
    /* None+PO      */ [Pass(NonePoPi), Stop, Pass(To), Pass(No)],
    /* None+PI      */ [Stop, Pass(No), Stop, Stop],
    /* None+PO+PI   */ [Stop, Pass(NonePo), Pass(ToPi), Pass(NonePi)],
    /* To           */ [Pass(ToPi), Stop, Stop, Pass(No)],
    /* To+PI        */ [Stop, Pass(To), Stop, Pass(NonePi)],
    /* From         */ [Reply, Pass(No), Stop, Stop],
    /* From+PO      */ [Reply, Pass(NonePo), Pass(Both), Pass(From)],
    /* Both         */ [Reply, Pass(To), Stop, Pass(From)],
];

impl User {
    /// Where this contact (bare JID) stands.
    pub(super) fn state_of(&self, contact: &Jid) -> State {
        let subscription = self
            .roster
            .get(contact)
            .map(|c| c.subscription)
            .unwrap_or_default();
        State::of(subscription, self.request_index(contact).is_ok())
    }

    pub(super) fn request_index(&self, contact: &Jid) -> Result<usize, usize> {
        self.requests
            .binary_search_by(|r| r.from.as_str().cmp(contact.bare_str()))
    }

    /// A subscription stanza of one of the user's sessions (RFC 6121 §3.1.2, §3.2.2, §3.3.2,
    /// §3.4.2); not blocked, `to` is set.
    pub(super) fn subscription_out(&mut self, at: usize, verb: Verb, stanza: Stanza, t: &mut Turn) {
        let Some(contact) = stanza.to.as_ref().map(Jid::bare) else {
            return;
        };
        if contact == self.jid {
            // A user always sees himself (RFC 6121 §4.2.2): nothing to ask for, nothing to end.
            return;
        }
        let state = self.state_of(&contact);
        let approved = self
            .roster
            .get(&contact)
            .is_some_and(|c| c.subscription.approved);
        let (next, passes, approves) = match OUTBOUND[state as usize][verb as usize] {
            Pass(next) => (next, true, approved && verb != Verb::Unsubscribed),
            // RFC 6121 §3.4.2: without a request it is a pre-approval, or the end of one. One who
            // is subscribed already needs none.
            Stop | Reply => {
                let approves = approved || !state.subscription(false).from;
                (state, false, approves && verb == Verb::Subscribed)
            }
        };
        let needs_item = next.subscription(approves) != Subscription::default();
        if needs_item && self.roster.get(&contact).is_none() && self.roster.is_full(t.policy) {
            self.bounce_to_session(at, &stanza, &super::roster::full(), t);
            return;
        }
        let loses_presence = state.subscription(false).from && !next.subscription(false).from;
        let wins_presence = !state.subscription(false).from && next.subscription(false).from;
        if loses_presence {
            // RFC 6121 §3.2.2: while the contact is still subscribed.
            self.send_unavailable(&contact, t);
        }
        if passes {
            t.fx.route(stanza.from(self.jid.clone()).to(contact.clone()));
        }
        self.enter(&contact, next, approves, t);
        if wins_presence {
            // RFC 6121 §3.1.5.
            self.send_presence(&contact, t);
        }
    }

    /// A subscription stanza from a contact (RFC 6121 §3.1.3, §3.1.6, §3.2.3, §3.3.3, §3.4.2);
    /// not blocked. Whatever resources were named, it concerns the bare JIDs.
    pub(super) fn subscription_in(&mut self, verb: Verb, stanza: Stanza, t: &mut Turn) {
        let Some(contact) = stanza.from.as_ref().map(Jid::bare) else {
            return;
        };
        if contact == self.jid {
            return;
        }
        let state = self.state_of(&contact);
        let approved = self
            .roster
            .get(&contact)
            .is_some_and(|c| c.subscription.approved);
        let stanza = stanza.from(contact.clone()).to(self.jid.clone());
        match INBOUND[state as usize][verb as usize] {
            Stop => {}
            // A contact that asks again has lost its state: presence heals that.
            Reply => self.approve(&contact, t),
            Pass(_) if verb == Verb::Subscribe && approved => {
                // RFC 6121 §3.4.2: not delivered; the roster shows it.
                let next = match state {
                    NonePo => FromPo,
                    To => Both,
                    _ => From,
                };
                self.enter(&contact, next, true, t);
                self.approve(&contact, t);
            }
            Pass(_) if verb == Verb::Subscribe => self.take_request(contact, stanza, t),
            Pass(next) => {
                // RFC 6121 §3.1.6: the notice comes before the push, and to those who follow the
                // roster.
                for session in self.sessions.iter().filter(|s| s.is_interested) {
                    t.fx.deliver(session.id, stanza.clone());
                }
                let loses_presence =
                    state.subscription(false).from && !next.subscription(false).from;
                self.enter(&contact, next, approved, t);
                if loses_presence {
                    self.send_unavailable(&contact, t);
                }
            }
        }
    }

    /// Answers a request on the user's behalf and shows the contact the user's presence.
    fn approve(&self, contact: &Jid, t: &mut Turn) {
        t.fx.route(self.notice(Verb::Subscribed, contact));
        self.send_presence(contact, t);
    }

    /// Keeps a request until it is answered (RFC 6121 §3.1.3, rule 4) and shows it to who is there.
    /// Above the limit it is dropped: an answer would tell a flooder that the account exists.
    fn take_request(&mut self, contact: Jid, stanza: Stanza, t: &mut Turn) {
        let limit = t.policy.subscription_requests;
        let Err(place) = self.request_index(&contact) else {
            return;
        };
        if limit != 0 && self.requests.len() >= limit {
            return;
        }
        let mut bytes = stanza.to_bytes();
        if bytes.len() > REQUEST_BYTES {
            bytes = stanza.clone().retain(|_| false).to_bytes();
        }
        let request = Request {
            from: contact,
            stanza: bytes.into(),
        };
        self.requests.insert(place, request.clone());
        let owner = self.jid.clone();
        t.fx.store_for(t.origin, Write::RequestPut { owner, request });
        for session in self.sessions.iter().filter(|s| s.presence.is_some()) {
            t.fx.deliver(session.id, stanza.clone());
        }
    }

    /// Brings a contact into a state: request, roster item, write and push, each only if it
    /// changes.
    fn enter(&mut self, contact: &Jid, next: State, approved: bool, t: &mut Turn) {
        if !next.has_request() {
            self.drop_request(contact, t);
        }
        let subscription = next.subscription(approved);
        if self.roster.set_subscription(contact, subscription) {
            self.save_and_push(contact, t);
        }
    }

    /// Forgets a stored request, if there is one.
    pub(super) fn drop_request(&mut self, contact: &Jid, t: &mut Turn) {
        if let Ok(place) = self.request_index(contact) {
            let from = self.requests.remove(place).from;
            let owner = self.jid.clone();
            t.fx.store_for(t.origin, Write::RequestDelete { owner, from });
        }
    }

    /// Tells a contact that both subscriptions are over (RFC 6121 §2.5.2): what the server sends
    /// by itself when the item or the account goes. A blocked contact is told nothing (XEP-0191
    /// #block); its next probe after the block heals it.
    pub(super) fn part_from(&self, contact: &Jid, t: &mut Turn) {
        if self.is_blocked(contact) {
            return;
        }
        let state = self.state_of(contact);
        let Subscription {
            to,
            from,
            pending_out,
            ..
        } = state.subscription(false);
        if to || pending_out {
            t.fx.route(self.notice(Verb::Unsubscribe, contact));
        }
        if from {
            self.send_unavailable(contact, t);
        }
        if from || state.has_request() {
            t.fx.route(self.notice(Verb::Unsubscribed, contact));
        }
    }

    /// A subscription stanza that the server sends in the user's name.
    pub(super) fn notice(&self, verb: Verb, contact: &Jid) -> Stanza {
        Stanza::new(StanzaKind::Presence)
            .from(self.jid.clone())
            .to(contact.clone())
            .with_type(verb.name())
    }

    /// The stored requests, for a session that has just become available (RFC 6121 §3.1.3).
    pub(super) fn deliver_requests(&self, at: usize, t: &mut Turn) {
        let session = &self.sessions[at];
        for request in self.requests.iter().filter(|r| !self.is_blocked(&r.from)) {
            // A request that cannot be read any more is still a request.
            let stanza = Stanza::from_bytes(&request.stanza).unwrap_or_else(|_| {
                Stanza::new(StanzaKind::Presence)
                    .from(request.from.clone())
                    .with_type("subscribe")
            });
            t.fx.deliver(session.id, stanza.to(self.jid.clone()));
        }
    }

    /// Answers one of the user's own sessions with an error.
    pub(super) fn bounce_to_session(
        &self,
        at: usize,
        stanza: &Stanza,
        error: &StanzaError,
        t: &mut Turn,
    ) {
        let session = &self.sessions[at];
        let mut addressed = stanza.clone().from(session.jid.clone());
        if addressed.to.is_none() {
            addressed.to = Some(self.jid.clone());
        }
        if let Some(answer) = addressed.error(error) {
            t.fx.deliver(session.id, answer);
        }
    }
}

/// Answers the sender of a stanza with an error, if it may be answered.
pub(super) fn bounce(stanza: &Stanza, condition: StanzaCondition, t: &mut Turn) {
    if stanza.from.is_none() {
        return;
    }
    if let Some(answer) = stanza.error(&condition.into()) {
        t.fx.route(answer);
    }
}
