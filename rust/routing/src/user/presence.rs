//! Presence (RFC 6121 §4): broadcast, probes, directed presence.

use super::subscription::{Verb, bounce};
use super::{Turn, User};
use crate::archive::ArchiveId;
use antiphon_xmpp::stanza::Payload;
use antiphon_xmpp::{Jid, Stanza, StanzaCondition, StanzaError, StanzaKind, ns};
use std::sync::Arc;

/// A presence older than this is stamped when a probe is answered with it (RFC 6121 §4.3.2).
const STAMP_AFTER_MS: u64 = 60_000;
/// Longest status kept for XEP-0012, bytes.
const STATUS_BYTES: usize = 1024;

/// The presence of an available session: what is its own in the stanza, since there are many.
#[derive(Debug)]
pub(super) struct Available {
    pub id: Option<Arc<str>>,
    pub lang: Option<Arc<str>>,
    pub extra: Arc<str>,
    pub payload: Arc<Payload>,
    pub priority: i8,
    /// When it was sent, ms since 1970.
    pub at_ms: u64,
    /// Since when the priority has been 0 or more without a break; `u64::MAX`: it is not.
    pub receiving_since_ms: u64,
    /// The newest message in the archive at that time: all that came behind it was for this session
    /// too.
    pub receiving_behind: ArchiveId,
    /// Whether the payload carries its delay stamp.
    pub is_stamped: bool,
}

impl Available {
    /// The presence as it was broadcast, without `to`.
    pub fn stanza(&self, from: &Jid) -> Stanza {
        Stanza {
            id: self.id.clone(),
            lang: self.lang.clone(),
            extra: Arc::clone(&self.extra),
            payload: Arc::clone(&self.payload),
            ..Stanza::new(StanzaKind::Presence).from(from.clone())
        }
    }

    /// Says when it was sent, if that is a while ago (RFC 6121 §4.3.2).
    fn stamp(&mut self, from: &Jid, now_ms: u64) {
        if self.is_stamped || now_ms.saturating_sub(self.at_ms) < STAMP_AFTER_MS {
            return;
        }
        let delay = super::offline::delay(from.as_str(), self.at_ms);
        self.payload = self.stanza(from).with_child(&delay).payload;
        self.is_stamped = true;
    }
}

/// The kinds of presence stanza that are not about subscriptions.
enum Kind {
    Available,
    Unavailable,
    Probe,
    Error,
    Subscription(Verb),
    Unknown,
}

impl Kind {
    fn of(stanza: &Stanza) -> Self {
        match stanza.type_.as_deref() {
            None => Self::Available,
            Some("unavailable") => Self::Unavailable,
            Some("probe") => Self::Probe,
            Some("error") => Self::Error,
            Some(other) => Verb::of(other).map_or(Self::Unknown, Self::Subscription),
        }
    }
}

/// RFC 6121 §4.7.2.3: an integer from -128 to 127, 0 by default.
fn priority(stanza: &Stanza) -> Result<i8, StanzaError> {
    if !stanza.has(ns::CLIENT, "priority") {
        return Ok(0);
    }
    let text = stanza
        .child(ns::CLIENT, "priority")
        .map(|e| e.text())
        .unwrap_or_default();
    text.trim().parse().map_err(|_| {
        StanzaError::from(StanzaCondition::BadRequest)
            .with_text("the priority is no integer from -128 to 127")
    })
}

fn unavailable() -> Stanza {
    Stanza::new(StanzaKind::Presence).with_type("unavailable")
}

impl User {
    /// Presence that one of the user's sessions sends; `to` is not blocked.
    pub(super) fn presence_out(&mut self, at: usize, stanza: Stanza, t: &mut Turn) {
        let has_to = stanza.to.is_some();
        match Kind::of(&stanza) {
            Kind::Available if has_to => self.directed_out(at, stanza, t),
            Kind::Available => self.become_available(at, stanza, t),
            Kind::Unavailable if has_to => {
                let session = &mut self.sessions[at];
                session.directed.retain(|d| Some(d) != stanza.to.as_ref());
                self.note_change(at);
                t.fx.route(stanza);
            }
            Kind::Unavailable => {
                if self.sessions[at].presence.is_some() {
                    self.last_status = status(&stanza);
                }
                self.become_unavailable(at, Some(stanza), t);
            }
            // RFC 6121 §4.3: a client has no need to send probes, but it may not be forbidden.
            Kind::Probe | Kind::Error if has_to => t.fx.route(stanza),
            Kind::Probe | Kind::Error => {}
            Kind::Subscription(verb) if has_to => self.subscription_out(at, verb, stanza, t),
            // To oneself: nothing to ask for.
            Kind::Subscription(_) => {}
            Kind::Unknown => {
                // RFC 6121 §4.7.1.
                self.bounce_to_session(at, &stanza, &StanzaCondition::BadRequest.into(), t);
            }
        }
    }

    /// Presence to the user.
    pub(super) fn presence_in(&mut self, stanza: Stanza, t: &mut Turn) {
        let Some(from) = stanza.from.clone() else {
            return;
        };
        let kind = Kind::of(&stanza);
        if !self.is_there {
            // RFC 6121 §8.5.1 asks for silence, §4.3.2 lets a probe be answered as if the account
            // did not share its presence: the two look alike, so nothing leaks.
            if matches!(kind, Kind::Probe) {
                t.fx.route(self.notice(Verb::Unsubscribed, &from.bare()));
            }
            return;
        }
        if self.is_blocked(&from) {
            return;
        }
        match kind {
            Kind::Available | Kind::Unavailable | Kind::Error => self.presence_deliver(stanza, t),
            Kind::Probe => self.probe_in(&from, t),
            Kind::Subscription(verb) => {
                // RFC 6121 §8.5.3.2.2: only a request may name a resource that is not there.
                let is_lost = stanza
                    .to
                    .as_ref()
                    .is_some_and(|to| !to.is_bare() && self.session_by_jid(to).is_none());
                if verb == Verb::Subscribe || !is_lost {
                    self.subscription_in(verb, stanza, t);
                }
            }
            Kind::Unknown => bounce(&stanza, StanzaCondition::BadRequest, t),
        }
    }

    /// RFC 6121 §8.5.2.1.2 and §8.5.3.1: to the bare JID for all available sessions, to a full JID
    /// for that one, available or not (rooms answer directed presence).
    fn presence_deliver(&self, stanza: Stanza, t: &mut Turn) {
        let full = stanza.to.as_ref().filter(|to| !to.is_bare());
        if let Some(to) = full {
            if let Some(at) = self.session_by_jid(to) {
                t.fx.deliver(self.sessions[at].id, stanza);
            }
            return;
        }
        for session in self.sessions.iter().filter(|s| s.presence.is_some()) {
            t.fx.deliver(session.id, stanza.clone());
        }
    }

    /// RFC 6121 §4.2 and §4.4: initial and later presence.
    fn become_available(&mut self, at: usize, mut stanza: Stanza, t: &mut Turn) {
        let priority = match priority(&stanza) {
            Ok(priority) => priority,
            Err(error) => return self.bounce_to_session(at, &stanza, &error, t),
        };
        let newest = self.newest();
        let session = &mut self.sessions[at];
        stanza.from = Some(session.jid.clone());
        let is_initial = session.presence.is_none();
        let before = session.presence.as_ref();
        let before = before.map(|p| (p.receiving_since_ms, p.receiving_behind));
        let (receiving_since_ms, receiving_behind) = match before {
            _ if priority < 0 => (u64::MAX, newest),
            None | Some((u64::MAX, _)) => (t.now_ms, newest),
            Some(since) => since,
        };
        session.presence = Some(Box::new(Available {
            id: stanza.id.clone(),
            lang: stanza.lang.clone(),
            extra: Arc::clone(&stanza.extra),
            payload: Arc::clone(&stanza.payload),
            priority,
            at_ms: t.now_ms,
            receiving_since_ms,
            receiving_behind,
            is_stamped: false,
        }));
        self.note_change(at);
        self.broadcast(&stanza, t);
        if is_initial {
            self.greet(at, t);
        }
        if priority >= 0 {
            self.read_offline(at, t);
        } else {
            self.pause_reading(at, t);
        }
    }

    /// What a session gets and asks for once it is available (RFC 6121 §4.2.2, §4.3.1, §3.1.3).
    fn greet(&self, at: usize, t: &mut Turn) {
        let newcomer = &self.sessions[at];
        for session in self.sessions.iter().filter(|s| s.id != newcomer.id) {
            if let Some(presence) = &session.presence {
                let stanza = presence.stanza(&session.jid).to(newcomer.jid.clone());
                t.fx.deliver(newcomer.id, stanza);
            }
        }
        self.deliver_requests(at, t);
        let probe = Stanza::new(StanzaKind::Presence)
            .with_type("probe")
            .from(newcomer.jid.clone());
        for contact in self.roster.iter().filter(|c| c.subscription.to) {
            if !self.is_blocked(&contact.jid) {
                t.fx.route(probe.clone().to(contact.jid.clone()));
            }
        }
    }

    /// To all who are subscribed and to the user's own available sessions.
    fn broadcast(&self, stanza: &Stanza, t: &mut Turn) {
        for contact in self.roster.iter().filter(|c| c.subscription.from) {
            if !self.is_blocked(&contact.jid) {
                t.fx.route(stanza.clone().to(contact.jid.clone()));
            }
        }
        for session in self.sessions.iter().filter(|s| s.presence.is_some()) {
            t.fx.deliver(session.id, stanza.clone().to(session.jid.clone()));
        }
    }

    /// RFC 6121 §4.5: the session's own unavailable presence, or one made for it when its stream
    /// ended. Also to those who know it by directed presence only (§4.6.3).
    pub(super) fn become_unavailable(&mut self, at: usize, sent: Option<Stanza>, t: &mut Turn) {
        let is_explicit = sent.is_some();
        let session = &mut self.sessions[at];
        let (id, jid) = (session.id, session.jid.clone());
        let was_available = session.presence.take().is_some();
        let directed = std::mem::take(&mut session.directed);
        self.note_change(at);
        if is_explicit {
            self.pause_reading(at, t);
        }
        if !was_available && directed.is_empty() {
            return;
        }
        let mut stanza = sent.unwrap_or_else(unavailable).from(jid.clone());
        stanza.to = None;
        if was_available {
            self.broadcast(&stanza, t);
            if is_explicit {
                // RFC 6121 §4.5.2: also to the one that sent it.
                t.fx.deliver(id, stanza.clone().to(jid));
            }
        }
        for target in directed {
            let is_told = was_available && self.sees_presence(&target);
            if !is_told && !self.is_blocked(&target) {
                t.fx.route(stanza.clone().to(target));
            }
        }
    }

    /// RFC 6121 §4.6: remembered until it is taken back, unless the broadcast reaches the same
    /// one.
    fn directed_out(&mut self, at: usize, stanza: Stanza, t: &mut Turn) {
        let Some(to) = stanza.to.clone() else { return };
        let is_told = self.sessions[at].presence.is_some() && self.sees_presence(&to);
        if !is_told {
            let session = &mut self.sessions[at];
            let limit = t.policy.directed_presence;
            let place = session
                .directed
                .binary_search_by(|d| d.as_str().cmp(to.as_str()));
            if let Err(place) = place {
                if limit != 0 && session.directed.len() >= limit {
                    let error = StanzaError::from(StanzaCondition::ResourceConstraint)
                        .with_text("directed presence to too many addresses");
                    self.bounce_to_session(at, &stanza, &error, t);
                    return;
                }
                session.directed.insert(place, to);
                self.note_change(at);
            }
        }
        t.fx.route(stanza);
    }

    /// Whether a broadcast reaches this address, or it is the user's own.
    pub(super) fn sees_presence(&self, other: &Jid) -> bool {
        other.bare_str() == self.jid.as_str()
            || self.roster.get(other).is_some_and(|c| c.subscription.from)
    }

    /// RFC 6121 §4.3.2. Those who are not subscribed get what a probe to a missing account gets,
    /// unless a session has shown itself to them.
    fn probe_in(&mut self, from: &Jid, t: &mut Turn) {
        let may_see = self.sees_presence(from);
        let mut is_answered = false;
        let now_ms = t.now_ms;
        for session in &mut self.sessions {
            let is_shown = may_see || session.directed.iter().any(|d| d == from);
            let Some(presence) = session.presence.as_mut().filter(|_| is_shown) else {
                continue;
            };
            presence.stamp(&session.jid, now_ms);
            is_answered = true;
            t.fx.route(presence.stanza(&session.jid).to(from.clone()));
        }
        if is_answered {
            return;
        }
        if may_see {
            t.fx.route(unavailable().from(self.jid.clone()).to(from.clone()));
        } else {
            t.fx.route(self.notice(Verb::Unsubscribed, &from.bare()));
        }
    }

    /// The presence of every available session, to one who may now see it.
    pub(super) fn send_presence(&self, to: &Jid, t: &mut Turn) {
        for session in &self.sessions {
            if let Some(presence) = &session.presence {
                t.fx.route(presence.stanza(&session.jid).to(to.clone()));
            }
        }
    }

    /// Unavailable presence of every available session, to one who may no longer see it.
    pub(super) fn send_unavailable(&self, to: &Jid, t: &mut Turn) {
        for session in self.sessions.iter().filter(|s| s.presence.is_some()) {
            t.fx.route(unavailable().from(session.jid.clone()).to(to.clone()));
        }
    }
}

/// The status text of a presence, cut to what is kept.
fn status(stanza: &Stanza) -> Box<str> {
    let mut text = stanza
        .child(ns::CLIENT, "status")
        .map(|e| e.text())
        .unwrap_or_default();
    if text.len() > STATUS_BYTES {
        let end = (0..=STATUS_BYTES)
            .rev()
            .find(|i| text.is_char_boundary(*i))
            .unwrap_or(0);
        text.truncate(end);
    }
    text.into()
}
