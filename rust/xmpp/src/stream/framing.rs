//! How stanzas stand on the wire: bare on TCP, one element a message on WebSocket.

use crate::ns;
use crate::stanza::Stanza;
use crate::xml::Element;
use crate::xml::writer::write_element;

/// The two framings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Framing {
    /// One XML document; stanzas inherit the header's default namespace.
    #[default]
    Tcp,
    /// RFC 7395: every element declares its own namespace and is one WebSocket message. What a
    /// stream writes for WebSocket is a sequence of messages, split by [`Outgoing::messages`].
    WebSocket,
    /// Packed, for the node that holds the session's socket ([`crate::packed`]); nothing but
    /// stanzas is written so.
    Relay,
}

impl Framing {
    /// The default namespace in force where a first-level element is written: the header's on
    /// TCP, none on WebSocket.
    #[must_use]
    pub fn default_ns(self) -> &'static str {
        match self {
            Self::Tcp | Self::Relay => ns::CLIENT,
            Self::WebSocket => "",
        }
    }
}

/// Bytes ready for one connection, and where WebSocket messages end in them.
///
/// Append-only; whoever owns it takes the bytes and calls [`Outgoing::clear`]. Budgets keep it far
/// below 4 GiB, the reach of `ends`.
#[derive(Debug, Default)]
pub struct Outgoing {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// For WebSocket: the end offset of each message in `bytes`; empty on TCP.
    pub ends: Vec<u32>,
    framing: Framing,
}

impl Outgoing {
    /// An empty buffer for this framing; allocates nothing.
    #[must_use]
    pub fn new(framing: Framing) -> Self {
        Self {
            bytes: Vec::new(),
            ends: Vec::new(),
            framing,
        }
    }

    /// The framing of what is appended from now on.
    #[must_use]
    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// Takes on a stream's framing. Must not change while there are bytes.
    pub fn set_framing(&mut self, framing: Framing) {
        debug_assert!(self.bytes.is_empty() || self.framing == framing);
        self.framing = framing;
    }

    /// Appends a stanza.
    pub fn write_stanza(&mut self, stanza: &Stanza) {
        match self.framing {
            Framing::Tcp => stanza.write(None, &mut self.bytes),
            Framing::WebSocket => self.message(|bytes| stanza.write(Some(ns::CLIENT), bytes)),
            Framing::Relay => stanza.pack(&mut self.bytes),
        }
    }

    /// Appends any other first-level element. Not for those in the streams namespace, which need
    /// the `stream` prefix.
    pub fn write_element(&mut self, element: &Element) {
        let default_ns = self.framing.default_ns();
        self.message(|bytes| write_element(element, default_ns, bytes));
    }

    /// Appends one serialised first-level element that declares its own namespace.
    pub fn raw(&mut self, element: &[u8]) {
        self.message(|bytes| bytes.extend_from_slice(element));
    }

    /// Appends one first-level element (or header, or footer) that `write` serialises.
    pub fn message(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.bytes);
        if self.framing == Framing::WebSocket {
            // Cannot saturate: see the type's documentation.
            self.ends
                .push(u32::try_from(self.bytes.len()).unwrap_or(u32::MAX));
        }
    }

    /// What must be sent, in order: each item one WebSocket message; on TCP at most one item.
    pub fn messages(&self) -> impl Iterator<Item = &[u8]> {
        let whole = (self.framing == Framing::Tcp && !self.bytes.is_empty())
            .then_some(self.bytes.as_slice());
        let mut start = 0;
        let parts = self.ends.iter().filter_map(move |end| {
            let end = *end as usize;
            let part = self.bytes.get(start..end);
            start = end;
            part
        });
        whole.into_iter().chain(parts)
    }

    /// Whether there is nothing to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Bytes to send.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Forgets what was sent and keeps the allocation.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stanza::StanzaKind;

    #[test]
    fn on_tcp_everything_is_one_run_of_bytes() {
        let mut out = Outgoing::new(Framing::Tcp);
        assert_eq!(out.messages().count(), 0);
        out.raw(b"<a/>");
        out.write_stanza(&Stanza::new(StanzaKind::Presence));
        assert_eq!(
            out.messages().collect::<Vec<_>>(),
            [b"<a/><presence/>".as_slice()]
        );
        out.clear();
        assert!(out.is_empty());
    }

    #[test]
    fn on_websocket_each_element_is_a_message_with_its_own_namespace() {
        let mut out = Outgoing::new(Framing::WebSocket);
        out.write_stanza(&Stanza::new(StanzaKind::Presence));
        out.write_element(&Element::new(ns::SM, "r"));
        let messages: Vec<_> = out.messages().map(String::from_utf8_lossy).collect();
        assert_eq!(
            messages,
            [
                "<presence xmlns='jabber:client'/>",
                "<r xmlns='urn:xmpp:sm:3'/>"
            ]
        );
        assert_eq!(out.len(), out.messages().map(<[u8]>::len).sum::<usize>());
    }
}
