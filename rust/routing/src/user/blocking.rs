//! The blocking command (XEP-0191).

use super::{CallAnswer, Turn, User};
use crate::session::SessionId;
use crate::store::Write;
use antiphon_xmpp::{
    Element, ErrorType, Jid, Stanza, StanzaCondition, StanzaError, StanzaKind, ns,
};
use std::cmp::Ordering;

/// Blocked addresses, sorted.
#[derive(Debug, Default)]
pub(super) struct BlockList {
    jids: Vec<Jid>,
}

impl BlockList {
    pub fn new(mut jids: Vec<Jid>) -> Self {
        jids.sort_unstable();
        jids.dedup();
        jids.shrink_to_fit();
        Self { jids }
    }

    pub fn is_empty(&self) -> bool {
        self.jids.is_empty()
    }

    /// XEP-0191 #blockmatch: full JID, bare JID, domain with resource, domain.
    pub fn matches(&self, jid: &Jid) -> bool {
        if self.has(jid.as_str()) || self.has(jid.bare_str()) || self.has(jid.domain()) {
            return true;
        }
        let (Some(_), Some(resource)) = (jid.local(), jid.resource()) else {
            return false;
        };
        let (domain, slash, resource) = (jid.domain().bytes(), "/".bytes(), resource.bytes());
        let wanted = domain.chain(slash).chain(resource);
        let order = |b: &Jid| -> Ordering { b.as_str().bytes().cmp(wanted.clone()) };
        self.jids.binary_search_by(order).is_ok()
    }

    fn has(&self, text: &str) -> bool {
        self.jids.binary_search_by(|b| b.as_str().cmp(text)).is_ok()
    }

    /// Adds; whether it was new.
    fn add(&mut self, jid: &Jid) -> bool {
        match self.jids.binary_search(jid) {
            Ok(_) => false,
            Err(place) => {
                self.jids.insert(place, jid.clone());
                true
            }
        }
    }

    /// Takes out; whether it was there.
    fn remove(&mut self, jid: &Jid) -> bool {
        self.jids
            .binary_search(jid)
            .map(|place| self.jids.remove(place))
            .is_ok()
    }
}

/// What a session gets that sends to an address it has blocked (XEP-0191 #block).
pub(super) fn blocked_by_you() -> StanzaError {
    StanzaError::from(StanzaCondition::NotAcceptable)
        .with_type(ErrorType::Cancel)
        .with_app(Element::new(ns::BLOCKING_ERRORS, "blocked"))
}

impl User {
    /// The list, for a session that gets pushes from now on (XEP-0191 #blocklist).
    pub(super) fn block_list(&mut self, session: SessionId) -> Result<CallAnswer, StanzaError> {
        let at = self.index(session).ok_or(StanzaCondition::ItemNotFound)?;
        self.sessions[at].wants_blocks = true;
        self.note_change(at);
        Ok(CallAnswer::Jids(self.blocked.jids.clone()))
    }

    /// XEP-0191 #block: polite, the subscriptions stay.
    pub(super) fn block(
        &mut self,
        jids: Vec<Jid>,
        t: &mut Turn,
    ) -> Result<CallAnswer, StanzaError> {
        if jids.is_empty() {
            return Err(StanzaCondition::BadRequest.into());
        }
        let mut added = jids.clone();
        added.sort_unstable();
        added.dedup();
        added.retain(|j| !self.blocked.has(j.as_str()));
        let limit = t.policy.blocked_items;
        if limit != 0 && self.blocked.jids.len() + added.len() > limit {
            let error = StanzaError::from(StanzaCondition::ResourceConstraint);
            return Err(error.with_text("the block list is full"));
        }
        if !added.is_empty() {
            let seen = self.seen_contacts();
            let watched = self.watching_resources(&added);
            for jid in &added {
                self.blocked.add(jid);
            }
            self.hide(&seen, &watched, t);
            t.fx.store(Write::BlockAdd {
                owner: self.jid.clone(),
                jids: added,
            });
        }
        self.push_blocks("block", &jids, t);
        Ok(CallAnswer::Done)
    }

    /// XEP-0191 #unblock and #unblockall (no address).
    pub(super) fn unblock(
        &mut self,
        jids: Vec<Jid>,
        t: &mut Turn,
    ) -> Result<CallAnswer, StanzaError> {
        let before: Vec<Jid> = self.hidden_contacts();
        let removed: Vec<Jid> = if jids.is_empty() {
            std::mem::take(&mut self.blocked.jids)
        } else {
            jids.iter()
                .filter(|j| self.blocked.remove(j))
                .cloned()
                .collect()
        };
        if !removed.is_empty() {
            // An empty list in the write says all.
            let jids = if jids.is_empty() {
                Vec::new()
            } else {
                removed.clone()
            };
            t.fx.store(Write::BlockRemove {
                owner: self.jid.clone(),
                jids,
            });
            for contact in before.iter().filter(|c| !self.is_blocked(c)) {
                self.meet_again(contact, t);
            }
            for jid in removed
                .iter()
                .filter(|j| j.local().is_some() && !j.is_bare())
            {
                if !self.is_blocked(jid) && self.sees_presence(jid) {
                    self.send_presence(jid, t);
                }
            }
        }
        self.push_blocks("unblock", &jids, t);
        Ok(CallAnswer::Done)
    }

    /// Contacts that see the user's presence and are not blocked.
    fn seen_contacts(&self) -> Vec<Jid> {
        let contacts = self.roster.iter().filter(|c| c.subscription.from);
        contacts
            .map(|c| c.jid.clone())
            .filter(|c| !self.is_blocked(c))
            .collect()
    }

    /// Contacts with a subscription either way that are blocked.
    fn hidden_contacts(&self) -> Vec<Jid> {
        let contacts = self
            .roster
            .iter()
            .filter(|c| c.subscription.from || c.subscription.to);
        contacts
            .map(|c| c.jid.clone())
            .filter(|c| self.is_blocked(c))
            .collect()
    }

    /// Full JIDs of contacts, soon to be blocked alone, that see the user's presence.
    fn watching_resources(&self, added: &[Jid]) -> Vec<Jid> {
        let full = added.iter().filter(|j| j.local().is_some() && !j.is_bare());
        full.filter(|j| !self.is_blocked(j))
            .filter(|j| j.bare_str() != self.jid.as_str() && self.sees_presence(j))
            .cloned()
            .collect()
    }

    /// The user goes away for those who have just been blocked, also for those who know a session
    /// by directed presence.
    fn hide(&mut self, seen: &[Jid], watched: &[Jid], t: &mut Turn) {
        for contact in seen.iter().filter(|c| self.is_blocked(c)) {
            self.send_unavailable(contact, t);
        }
        for resource in watched.iter().filter(|r| !self.is_blocked(&r.bare())) {
            self.send_unavailable(resource, t);
        }
        for at in 0..self.sessions.len() {
            let targets = std::mem::take(&mut self.sessions[at].directed);
            let (gone, kept) = targets.into_iter().partition(|d| self.is_blocked(d));
            self.sessions[at].directed = kept;
            let gone: Vec<Jid> = gone;
            for target in gone {
                let from = self.sessions[at].jid.clone();
                let presence = Stanza::new(StanzaKind::Presence).with_type("unavailable");
                t.fx.route(presence.from(from).to(target));
            }
        }
    }

    /// Presence both ways with a contact that is no longer blocked: the user's is shown, and the
    /// contact's, which was not let in, is asked for.
    fn meet_again(&self, contact: &Jid, t: &mut Turn) {
        let Some(subscription) = self.roster.get(contact).map(|c| c.subscription) else {
            return;
        };
        if subscription.from {
            self.send_presence(contact, t);
        }
        if subscription.to && self.sessions.iter().any(|s| s.presence.is_some()) {
            let probe = Stanza::new(StanzaKind::Presence).with_type("probe");
            t.fx.route(probe.from(self.jid.clone()).to(contact.clone()));
        }
    }

    /// To the sessions that have asked for the list; serialised once.
    fn push_blocks(&mut self, name: &'static str, jids: &[Jid], t: &mut Turn) {
        if !self.sessions.iter().any(|s| s.wants_blocks) {
            return;
        }
        self.pushes = self.pushes.wrapping_add(1);
        let list = jids
            .iter()
            .fold(Element::new(ns::BLOCKING, name), |list, jid| {
                list.with_child(Element::new(ns::BLOCKING, "item").with_attr("jid", jid.as_str()))
            });
        let push = Stanza::new(StanzaKind::Iq)
            .from(self.jid.clone())
            .with_type("set")
            .with_id(&format!("{name}-{}", self.pushes))
            .with_child(&list);
        for session in self.sessions.iter().filter(|s| s.wants_blocks) {
            t.fx.deliver(session.id, push.clone().to(session.jid.clone()));
        }
    }
}
