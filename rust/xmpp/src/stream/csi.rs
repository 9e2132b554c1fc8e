//! Client state indication (XEP-0352): what may wait while nobody looks.
//!
//! The rules are those of `requirements.md` §4.2: presence waits, only the last of each full JID;
//! publish-subscribe events wait; messages with nothing but a chat state are dropped; all else is
//! important and takes what waits along, so that no order between two stanzas ever changes.

use crate::jid::Jid;
use crate::ns;
use crate::stanza::{Stanza, StanzaKind};
use std::collections::{BTreeMap, HashMap};

/// What an inactive client needs of a stanza.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Now.
    Important,
    /// Later, and only if no newer presence of the same full JID comes.
    Presence,
    /// Later.
    Event,
    /// Never: it would be stale.
    Drop,
}

/// Judges a stanza that is about to be written to an inactive client.
#[must_use]
pub fn classify(stanza: &Stanza) -> Class {
    match stanza.kind {
        StanzaKind::Iq => Class::Important,
        StanzaKind::Presence => classify_presence(stanza),
        StanzaKind::Message => classify_message(stanza),
    }
}

fn classify_presence(stanza: &Stanza) -> Class {
    let is_availability = matches!(stanza.type_.as_deref(), None | Some("unavailable"));
    if !is_availability || stanza.from.is_none() {
        // Subscription requests and errors want the user or the client.
        return Class::Important;
    }
    // Status codes in a room tell the client about itself: joined (110), kicked (307), banned
    // (301) and the like (XEP-0045 #registrar-statuscodes).
    let is_own_room_presence = stanza
        .child(ns::MUC_USER, "x")
        .is_some_and(|x| x.child(ns::MUC_USER, "status").is_some());
    if is_own_room_presence {
        Class::Important
    } else {
        Class::Presence
    }
}

fn classify_message(stanza: &Stanza) -> Class {
    if stanza.type_str() == "error" {
        return Class::Important;
    }
    let children = &stanza.payload.children;
    if stanza.has_ns(ns::PUBSUB_EVENT) && !stanza.has(ns::CLIENT, "body") {
        return Class::Event;
    }
    // XEP-0085 #protocol lets a thread go along with a bare chat state; hints and ids are added by
    // clients and servers on the way.
    let is_idle_talk = stanza.has_ns(ns::CHAT_STATES)
        && children.iter().all(|child| match &*child.ns {
            ns::CHAT_STATES | ns::HINTS | ns::SID => true,
            ns::CLIENT => &*child.name == "thread",
            _ => false,
        });
    if is_idle_talk {
        Class::Drop
    } else {
        // Bodies, also in rooms, where a mention cannot be told from other talk without the
        // occupant's nick; encrypted payloads; invitations; calls (XEP-0353); receipts.
        Class::Important
    }
}

/// What became of a stanza offered to [`Held::offer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// It and all that waited were passed to `send`.
    Sent,
    /// It waits.
    Held,
    /// It is forgotten.
    Dropped,
}

/// Stanzas that wait for an inactive client, in the order in which they came.
#[derive(Debug, Default)]
pub struct Held {
    next: u64,
    waiting: BTreeMap<u64, Stanza>,
    presence: HashMap<Jid, u64>,
    bytes: usize,
    max_stanzas: usize,
    max_bytes: usize,
}

impl Held {
    /// An empty buffer; beyond `max_stanzas` or `max_bytes` (of [`Stanza::size`]) it gives up
    /// waiting and sends. Allocates nothing.
    #[must_use]
    pub fn new(max_stanzas: usize, max_bytes: usize) -> Self {
        Self {
            max_stanzas,
            max_bytes,
            ..Self::default()
        }
    }

    /// Takes a stanza for an inactive client and calls `send` with what must be written now, in
    /// order.
    pub fn offer(&mut self, stanza: Stanza, send: &mut impl FnMut(Stanza)) -> Offer {
        match classify(&stanza) {
            Class::Drop => Offer::Dropped,
            Class::Important => {
                self.flush(send);
                send(stanza);
                Offer::Sent
            }
            class @ (Class::Presence | Class::Event) => {
                self.hold(stanza, class == Class::Presence);
                if self.waiting.len() > self.max_stanzas || self.bytes > self.max_bytes {
                    self.flush(send);
                    return Offer::Sent;
                }
                Offer::Held
            }
        }
    }

    fn hold(&mut self, stanza: Stanza, is_presence: bool) {
        let number = self.next;
        self.next += 1;
        if let Some(from) = stanza.from.as_ref().filter(|_| is_presence)
            && let Some(older) = self.presence.insert(from.clone(), number)
            && let Some(older) = self.waiting.remove(&older)
        {
            self.bytes -= older.size();
        }
        self.bytes += stanza.size();
        self.waiting.insert(number, stanza);
    }

    /// Sends all that waits: the client is active, or is asked for an acknowledgement.
    pub fn flush(&mut self, send: &mut impl FnMut(Stanza)) {
        self.bytes = 0;
        self.presence = HashMap::new();
        for (_, stanza) in std::mem::take(&mut self.waiting) {
            send(stanza);
        }
    }

    /// Stanzas that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Bytes that wait, by [`Stanza::size`].
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xml::Element;

    fn jid(text: &str) -> Jid {
        Jid::parse(text).unwrap()
    }

    fn presence(from: &str, id: &str) -> Stanza {
        Stanza::new(StanzaKind::Presence)
            .from(jid(from))
            .with_id(id)
    }

    fn message(children: &[(&'static str, &'static str)]) -> Stanza {
        let message = Stanza::new(StanzaKind::Message)
            .from(jid("romeo@montague.example/orchard"))
            .with_type("chat");
        children.iter().fold(message, |message, (ns, name)| {
            message.with_child(&Element::new(*ns, *name))
        })
    }

    fn offer_all(held: &mut Held, stanzas: Vec<Stanza>) -> Vec<String> {
        let mut sent = Vec::new();
        for stanza in stanzas {
            held.offer(stanza, &mut |s| {
                sent.push(s.id.as_deref().unwrap_or("-").to_owned());
            });
        }
        sent
    }

    #[test]
    fn classes_follow_the_requirements() {
        let body = (ns::CLIENT, "body");
        let composing = (ns::CHAT_STATES, "composing");
        let event = (ns::PUBSUB_EVENT, "event");
        for (children, class) in [
            (vec![body], Class::Important),
            (vec![body, composing], Class::Important),
            (vec![composing], Class::Drop),
            (vec![composing, (ns::CLIENT, "thread")], Class::Drop),
            (vec![composing, (ns::HINTS, "no-store")], Class::Drop),
            (
                vec![composing, (ns::RECEIPTS, "received")],
                Class::Important,
            ),
            (vec![(ns::JINGLE_MESSAGE, "propose")], Class::Important),
            (vec![(ns::CONFERENCE, "x")], Class::Important),
            (vec![event], Class::Event),
            (vec![event, body], Class::Important),
            (vec![(ns::CLIENT, "subject")], Class::Important),
            (vec![], Class::Important),
        ] {
            assert_eq!(classify(&message(&children)), class, "{children:?}");
        }
        let error = message(&[composing]).with_type("error");
        assert_eq!(classify(&error), Class::Important);
        assert_eq!(classify(&Stanza::new(StanzaKind::Iq)), Class::Important);
        let presence = presence("a@b.example/c", "1");
        assert_eq!(classify(&presence), Class::Presence);
        assert_eq!(
            classify(&presence.clone().with_type("unavailable")),
            Class::Presence
        );
        assert_eq!(
            classify(&presence.clone().with_type("subscribe")),
            Class::Important
        );
        let x = Element::new(ns::MUC_USER, "x");
        assert_eq!(classify(&presence.clone().with_child(&x)), Class::Presence);
        let own = x.with_child(Element::new(ns::MUC_USER, "status").with_attr("code", "110"));
        assert_eq!(classify(&presence.with_child(&own)), Class::Important);
    }

    #[test]
    fn only_the_last_presence_of_each_full_jid_waits() {
        let mut held = Held::new(100, 1 << 20);
        let sent = offer_all(
            &mut held,
            vec![
                presence("a@x.example/1", "a1"),
                presence("b@x.example/1", "b1"),
                presence("a@x.example/1", "a2"),
                presence("a@x.example/2", "other"),
            ],
        );
        assert!(sent.is_empty());
        assert_eq!(held.len(), 3);
        let mut flushed = Vec::new();
        held.flush(&mut |s| flushed.push(s.id.as_deref().unwrap_or("").to_owned()));
        assert_eq!(flushed, ["b1", "a2", "other"]);
        assert!(held.is_empty());
        assert_eq!(held.bytes(), 0);
    }

    #[test]
    fn an_important_stanza_takes_what_waits_along_in_order() {
        let mut held = Held::new(100, 1 << 20);
        let sent = offer_all(
            &mut held,
            vec![
                presence("a@x.example/1", "first"),
                message(&[(ns::PUBSUB_EVENT, "event")]).with_id("second"),
                message(&[(ns::CHAT_STATES, "paused")]).with_id("never"),
                message(&[(ns::CLIENT, "body")]).with_id("third"),
                presence("a@x.example/1", "later"),
            ],
        );
        assert_eq!(sent, ["first", "second", "third"]);
        assert_eq!(held.len(), 1);
    }

    #[test]
    fn a_full_buffer_sends() {
        let mut held = Held::new(3, 1 << 20);
        let stanzas = (0..5)
            .map(|n| presence(&format!("a@x.example/{n}"), &n.to_string()))
            .collect();
        assert_eq!(offer_all(&mut held, stanzas), ["0", "1", "2", "3"]);
        assert_eq!(held.len(), 1);
        let mut held = Held::new(3, 10);
        assert_eq!(
            offer_all(&mut held, vec![presence("a@x.example/1", "big")]),
            ["big"]
        );
    }

    #[test]
    fn updates_of_one_contact_never_fill_the_buffer() {
        let mut held = Held::new(2, 1 << 20);
        let stanzas = (0..1000)
            .map(|n| presence("a@x.example/1", &n.to_string()))
            .collect();
        assert!(offer_all(&mut held, stanzas).is_empty());
        assert_eq!(held.len(), 1);
    }
}
