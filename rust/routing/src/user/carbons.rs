//! Message carbons (XEP-0280).

use super::delivery::MessageType;
use super::{Session, Turn, User};
use crate::archive::ArchiveId;
use antiphon_xmpp::stanza::{ChildRef, Payload};
use antiphon_xmpp::{Stanza, StanzaKind, ns};

/// Whether the message went out of this account or came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Sent,
    Received,
}

/// XEP-0280 #recommended-rules, all of them: `urn:xmpp:carbons:rules:0` may be announced.
fn is_eligible(stanza: &Stanza, direction: Direction) -> bool {
    let type_ = MessageType::of(stanza);
    if type_ == MessageType::Groupchat || stanza.has(ns::CARBONS, "private") {
        return false;
    }
    // XEP-0334 #no-copy: only for full JIDs; hints in errors are those of the original.
    let is_to_full = stanza.to.as_ref().is_some_and(|to| !to.is_bare());
    if is_to_full && type_ != MessageType::Error && stanza.has(ns::HINTS, "no-copy") {
        return false;
    }
    let is_muc = stanza.has(ns::MUC_USER, "x");
    if is_muc && direction == Direction::Received {
        if is_mediated_invitation(stanza) {
            return true;
        }
        // The room sends its private messages to every joined client by itself.
        if stanza.from.as_ref().is_some_and(|from| !from.is_bare()) {
            return false;
        }
    }
    let is_im = stanza.has_ns(ns::RECEIPTS)
        || stanza.has_ns(ns::CHAT_STATES)
        || stanza.has_ns(ns::MARKERS)
        || stanza.has(ns::CONFERENCE, "x");
    match type_ {
        MessageType::Chat => true,
        // What an error answers is not remembered: the payload it repeats has to tell.
        MessageType::Normal | MessageType::Error => {
            is_im || stanza.has(ns::CLIENT, "body") || is_muc && is_muc_sent(stanza, direction)
        }
        MessageType::Headline => is_im,
        MessageType::Groupchat => false,
    }
}

/// A private message to an occupant (a full JID), or an invitation through a room.
fn is_muc_sent(stanza: &Stanza, direction: Direction) -> bool {
    direction == Direction::Sent
        && (stanza.to.as_ref().is_some_and(|to| !to.is_bare()) || is_mediated_invitation(stanza))
}

/// XEP-0045 #invite-mediated.
fn is_mediated_invitation(stanza: &Stanza) -> bool {
    let x = stanza.child(ns::MUC_USER, "x");
    x.is_some_and(|x| x.child(ns::MUC_USER, "invite").is_some())
}

/// The payload of a copy: the message as it is, byte for byte (XEP-0297 #format).
fn wrap(stanza: &Stanza, name: &'static str) -> Payload {
    let mut content = Vec::with_capacity(stanza.size() + 256);
    for (element, ns) in [(name, ns::CARBONS), ("forwarded", ns::FORWARD)] {
        content.extend_from_slice(format!("<{element} xmlns='{ns}'>").as_bytes());
    }
    stanza.write(Some(ns::CLIENT), &mut content);
    content.extend_from_slice(format!("</forwarded></{name}>").as_bytes());
    // Limits keep stanzas far below 4 GiB.
    let end = u32::try_from(content.len()).unwrap_or(u32::MAX);
    let child = ChildRef {
        ns: ns::CARBONS.into(),
        name: name.into(),
        span: 0..end,
    };
    Payload {
        content: content.into(),
        children: [child].into_iter().collect(),
    }
}

impl User {
    /// XEP-0280 #inbound: copies for the enabled sessions that do not get the message itself.
    pub(super) fn copy_received(
        &mut self,
        stanza: &Stanza,
        gets_it: impl Fn(&Session) -> bool,
        t: &mut Turn,
    ) {
        // The sender may be a session of the same account: it knows what it sent.
        let is_sender = |s: &Session| stanza.from.as_ref() == Some(&s.jid);
        let wants = |s: &Session| s.has_carbons() && !gets_it(s) && !is_sender(s);
        self.copy(stanza, (Direction::Received, None), wants, t);
    }

    /// XEP-0280 #outbound: copies for the enabled sessions other than the sender. A message to
    /// oneself comes back in and is copied then, so that no session sees it twice.
    /// `place`: where the message is in the archive, which the copies say (XEP-0313 #archives_id).
    pub(super) fn copy_sent(
        &mut self,
        sender: usize,
        stanza: &Stanza,
        place: Option<ArchiveId>,
        t: &mut Turn,
    ) {
        if stanza
            .to
            .as_ref()
            .is_none_or(|to| to.bare_str() == self.jid.as_str())
        {
            return;
        }
        let sender = self.sessions[sender].id;
        self.copy(
            stanza,
            (Direction::Sent, place),
            |s| s.has_carbons() && s.id != sender,
            t,
        );
    }

    /// Serialises the wrapper once; the sessions' copies differ in `to`. Costs a look at the
    /// sessions where no one wants any.
    fn copy(
        &mut self,
        stanza: &Stanza,
        (direction, place): (Direction, Option<ArchiveId>),
        wants: impl Fn(&Session) -> bool,
        t: &mut Turn,
    ) {
        if !self.sessions.iter().any(&wants) || !is_eligible(stanza, direction) {
            return;
        }
        let name = match direction {
            Direction::Sent => "sent",
            Direction::Received => "received",
        };
        let mut wrapper = Stanza::new(StanzaKind::Message).from(self.jid.clone());
        wrapper.type_ = stanza.type_.clone();
        wrapper.payload = match place {
            None => wrap(stanza, name),
            Some(id) => wrap(&self.identified(stanza.clone(), id, t), name),
        }
        .into();
        for at in 0..self.sessions.len() {
            if wants(&self.sessions[at]) {
                let copy = wrapper.clone().to(self.sessions[at].jid.clone());
                self.hand(at, copy, t.now_ms, t);
            }
        }
    }

    /// Whether an incoming message would be copied.
    pub(super) fn is_copied_in(&self, stanza: &Stanza) -> bool {
        is_eligible(stanza, Direction::Received)
    }

    /// Whether this is a copy that the server made: only those are from the bare JID.
    pub(super) fn is_own_copy(&self, stanza: &Stanza) -> bool {
        stanza.from.as_ref() == Some(&self.jid) && stanza.has_ns(ns::CARBONS)
    }
}
