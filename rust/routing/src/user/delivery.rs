//! Delivery of messages and IQs to the user (RFC 6121 §8.5).

use super::offline::Kept;
use super::subscription::bounce;
use super::{Session, Turn, User};
use antiphon_xmpp::{Jid, Stanza, StanzaCondition, StanzaKind, ns};

/// RFC 6121 §5.2.2; what is unknown counts as normal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MessageType {
    Normal,
    Chat,
    Groupchat,
    Headline,
    Error,
}

impl MessageType {
    pub fn of(stanza: &Stanza) -> Self {
        match stanza.type_str() {
            "chat" => Self::Chat,
            "groupchat" => Self::Groupchat,
            "headline" => Self::Headline,
            "error" => Self::Error,
            _ => Self::Normal,
        }
    }
}

impl User {
    /// A message to the user.
    pub(super) fn message_in(&mut self, stanza: Stanza, t: &mut Turn) {
        if self.is_message_blocked(&stanza) {
            // XEP-0191 #block. What a missing account and a full offline store answer, too.
            bounce(&stanza, StanzaCondition::ServiceUnavailable, t);
            return;
        }
        let type_ = MessageType::of(&stanza);
        let stanza = self.without_forged_ids(self.without_forged_delay(stanza));
        let full = stanza.to.as_ref().filter(|to| !to.is_bare());
        let Some(to) = full else {
            return self.message_to_account(type_, stanza, t);
        };
        if let Some(at) = self.session_by_jid(to) {
            let id = self.sessions[at].id;
            let stanza = self.archive_received(stanza, None, t);
            self.copy_received(&stanza, |s| s.id == id, t);
            self.hand(at, stanza, t.now_ms, t);
            return;
        }
        // RFC 6121 §8.5.3.2.1: chat is as to the bare JID; the rest was meant for one client.
        match type_ {
            MessageType::Chat => self.message_to_account(type_, stanza, t),
            MessageType::Normal | MessageType::Groupchat => {
                bounce(&stanza, StanzaCondition::ServiceUnavailable, t);
            }
            MessageType::Headline | MessageType::Error => {}
        }
    }

    /// RFC 6121 §8.5.2: chat, normal and headline to every session with a priority of 0 or more.
    fn message_to_account(&mut self, type_: MessageType, stanza: Stanza, t: &mut Turn) {
        match type_ {
            MessageType::Error => return,
            MessageType::Groupchat => {
                bounce(&stanza, StanzaCondition::ServiceUnavailable, t);
                return;
            }
            MessageType::Normal | MessageType::Chat | MessageType::Headline => {}
        }
        let mut left = self.sessions.iter().filter(|s| s.is_receiving()).count();
        if left == 0 {
            self.message_to_nobody(type_, stanza, t);
            return;
        }
        let stanza = self.archive_received(stanza, None, t);
        self.copy_received(&stanza, Session::is_receiving, t);
        let mut stanza = Some(stanza);
        for at in 0..self.sessions.len() {
            if !self.sessions[at].is_receiving() {
                continue;
            }
            left -= 1;
            // The last one takes the stanza itself: one session, the common case, needs no clone.
            let copy = if left == 0 {
                stanza.take()
            } else {
                stanza.clone()
            };
            if let Some(copy) = copy {
                self.hand(at, copy, t.now_ms, t);
            }
        }
    }

    /// No session takes it: it waits, in the archive or as an offline message; carbons go to those
    /// that want no messages (RFC 6121 §8.5.2.2).
    fn message_to_nobody(&mut self, type_: MessageType, stanza: Stanza, t: &mut Turn) {
        if type_ == MessageType::Headline {
            return;
        }
        if let Some(known) = self.left_behind(&stanza, t) {
            let stanza = self.identified(stanza, known.id, t);
            if !known.has_waited {
                self.wait_again(&stanza, known.id, t);
            }
            self.copy_received(&stanza, |_| false, t);
        } else if self.is_archived_in(&stanza, t) {
            let waits = self.wait(&stanza, t).then_some(t.now_ms);
            let stanza = self.archive_received(stanza, waits, t);
            self.copy_received(&stanza, |_| false, t);
        } else if self.keep(&stanza, t.now_ms, t) != Kept::Bounced {
            self.copy_received(&stanza, |_| false, t);
        }
    }

    /// An IQ to a full JID, or an answer to the bare one (RFC 6121 §8.5.3).
    pub(super) fn iq_in(&mut self, stanza: Stanza, t: &mut Turn) {
        let is_blocked = stanza
            .from
            .as_ref()
            .is_some_and(|from| self.is_blocked(from));
        let at = match &stanza.to {
            Some(to) if !is_blocked => self.session_by_jid(to),
            _ => None,
        };
        match at {
            Some(at) => t.fx.deliver(self.sessions[at].id, stanza),
            // Results and errors end here: nothing answers them.
            None => bounce(&stanza, StanzaCondition::ServiceUnavailable, t),
        }
    }

    /// A stanza that its session did not confirm, or that waited for one that went away. `at_ms`
    /// is when the entity first took it.
    pub(super) fn redeliver(&mut self, at_ms: u64, stanza: Stanza, t: &mut Turn) {
        match stanza.kind {
            // The next presence says more; requests are stored anyway.
            StanzaKind::Presence => return,
            StanzaKind::Iq => {
                // Pushes are ours: nobody waits for their answer.
                if stanza.from.as_ref().is_some_and(|from| *from != self.jid) {
                    bounce(&stanza, StanzaCondition::ServiceUnavailable, t);
                }
                return;
            }
            StanzaKind::Message => {}
        }
        let type_ = MessageType::of(&stanza);
        let is_for_people = matches!(type_, MessageType::Chat | MessageType::Normal);
        if !is_for_people || self.is_own_copy(&stanza) {
            // Copies: the original is on its way. Rooms learn from the unavailable presence.
            return;
        }
        if self.is_message_blocked(&stanza) {
            bounce(&stanza, StanzaCondition::ServiceUnavailable, t);
            return;
        }
        let (targets, is_received) = self.heirs(at_ms, &stanza);
        if targets.is_empty() {
            if !is_received {
                self.keep(&stanza, at_ms, t);
            }
            return;
        }
        let stanza = self.stamped(stanza, at_ms);
        for at in targets {
            self.hand(at, stanza.clone(), at_ms, t);
        }
    }

    /// Which sessions an unconfirmed message goes to, and whether another one has received it
    /// already: as one of several that a message to the bare JID went to, or as a carbon copy.
    /// No record is kept of single messages: a session that has been there since before the
    /// message counts.
    fn heirs(&self, at_ms: u64, stanza: &Stanza) -> (Vec<usize>, bool) {
        let full = stanza.to.as_ref().filter(|to| !to.is_bare());
        if let Some(at) = full.and_then(|to| self.session_by_jid(to)) {
            // The same resource has come back.
            return (vec![at], false);
        }
        let was_copied = full.is_some() && self.is_copied_in(stanza);
        let mut targets = Vec::new();
        let mut is_received = false;
        for (at, session) in self.sessions.iter().enumerate() {
            let since_ms = session
                .presence
                .as_ref()
                .map_or(u64::MAX, |p| p.receiving_since_ms);
            let has_it = match full {
                Some(_) => was_copied && session.carbons_since_ms <= at_ms,
                None => since_ms <= at_ms,
            };
            if has_it {
                is_received = true;
            } else if session.is_receiving() {
                targets.push(at);
            }
        }
        (targets, is_received)
    }

    /// Whether a message is from a blocked address, or is an invitation by one that a room passes
    /// on (XEP-0045 #invite-mediated).
    fn is_message_blocked(&self, stanza: &Stanza) -> bool {
        if !self.has_blocked_any() {
            return false;
        }
        if stanza
            .from
            .as_ref()
            .is_some_and(|from| self.is_blocked(from))
        {
            return true;
        }
        if !stanza.has(ns::MUC_USER, "x") {
            return false;
        }
        let inviter = stanza.child(ns::MUC_USER, "x").and_then(|x| {
            let from = x.child(ns::MUC_USER, "invite")?.attr("from")?;
            Jid::parse(from).ok()
        });
        inviter.is_some_and(|inviter| self.is_blocked(&inviter))
    }
}
