//! Texts that need no allocation because nearly every stream carries them.

use super::element::Text;
use crate::ns;
use std::sync::LazyLock;

/// What Rust matches, then what is frequent in payloads that only pass through.
const NAMESPACES: &[&str] = &[
    "",
    ns::CLIENT,
    ns::SERVER,
    ns::COMPONENT_ACCEPT,
    ns::STREAM,
    ns::STREAM_ERRORS,
    ns::STANZA_ERRORS,
    ns::TLS,
    ns::SASL,
    ns::BIND,
    ns::SESSION,
    ns::FRAMING,
    ns::XML,
    ns::ROSTER,
    ns::ROSTERVER,
    ns::PRE_APPROVAL,
    ns::SM,
    ns::CSI,
    ns::STREAM_LIMITS,
    ns::SASL_CB,
    ns::CARBONS,
    ns::FORWARD,
    ns::DELAY,
    ns::HINTS,
    ns::BLOCKING,
    ns::BLOCKING_ERRORS,
    ns::PING,
    ns::CHAT_STATES,
    ns::RECEIPTS,
    ns::MARKERS,
    ns::SID,
    ns::MUC_USER,
    ns::CONFERENCE,
    ns::JINGLE_MESSAGE,
    ns::DISCO_INFO,
    ns::DISCO_ITEMS,
    ns::CAPS,
    ns::LAST,
    ns::PUBSUB_EVENT,
    "http://jabber.org/protocol/muc",
    "http://jabber.org/protocol/pubsub",
    "http://jabber.org/protocol/pubsub#owner",
    "jabber:x:data",
    "http://jabber.org/protocol/rsm",
    "jabber:iq:private",
    "vcard-temp",
    "vcard-temp:x:update",
    "jabber:iq:version",
    "urn:xmpp:time",
    "http://jabber.org/protocol/commands",
    "jabber:iq:register",
    "urn:xmpp:message-correct:0",
    "jabber:x:oob",
    "http://jabber.org/protocol/xhtml-im",
    "http://jabber.org/protocol/nick",
    "urn:xmpp:mam:2",
    "urn:xmpp:reactions:0",
    "urn:xmpp:reply:0",
    "urn:xmpp:fallback:0",
    "urn:xmpp:eme:0",
    "eu.siacs.conversations.axolotl",
    "urn:xmpp:omemo:2",
];

const NAMES: &[&str] = &[
    "a",
    "active",
    "answer",
    "auth",
    "bind",
    "block",
    "blocklist",
    "body",
    "c",
    "close",
    "command",
    "composing",
    "conflict",
    "content",
    "data",
    "delay",
    "description",
    "device",
    "displayed",
    "enable",
    "enabled",
    "encrypted",
    "encryption",
    "error",
    "event",
    "failed",
    "fallback",
    "feature",
    "field",
    "forwarded",
    "from",
    "gone",
    "group",
    "h",
    "html",
    "id",
    "identity",
    "inactive",
    "iq",
    "item",
    "items",
    "jid",
    "key",
    "lang",
    "list",
    "markable",
    "max",
    "mechanism",
    "message",
    "name",
    "nick",
    "no-copy",
    "no-permanent-store",
    "no-store",
    "node",
    "open",
    "option",
    "origin-id",
    "paused",
    "payload",
    "ping",
    "presence",
    "previd",
    "priority",
    "private",
    "propose",
    "proceed",
    "publish",
    "pubsub",
    "query",
    "r",
    "reaction",
    "reactions",
    "reason",
    "received",
    "replace",
    "reply",
    "request",
    "resource",
    "response",
    "result",
    "resume",
    "sent",
    "session",
    "set",
    "show",
    "stanza-id",
    "starttls",
    "status",
    "storage",
    "store",
    "stream",
    "subject",
    "subscribe",
    "subscription",
    "text",
    "thread",
    "to",
    "type",
    "unblock",
    "unsubscribe",
    "url",
    "value",
    "vCard",
    "var",
    "ver",
    "version",
    "x",
];

/// Texts by their length, each with its index; empty buckets where there is none.
struct Table(Vec<Vec<(u16, &'static str)>>);

impl Table {
    fn new(texts: &[&'static str]) -> Self {
        let longest = texts.iter().map(|t| t.len()).max().unwrap_or(0);
        let mut buckets = vec![Vec::new(); longest + 1];
        for (index, text) in (0..).zip(texts) {
            buckets[text.len()].push((index, *text));
        }
        Self(buckets)
    }
    fn find(&self, text: &str) -> Option<(u16, &'static str)> {
        let bucket = self.0.get(text.len())?;
        bucket.iter().find(|(_, known)| *known == text).copied()
    }
}

static NAMESPACE_TABLE: LazyLock<Table> = LazyLock::new(|| Table::new(NAMESPACES));
static NAME_TABLE: LazyLock<Table> = LazyLock::new(|| Table::new(NAMES));

/// A namespace that we know, in two bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Known(u16);

impl Known {
    /// Finds a namespace.
    pub fn find(uri: &str) -> Option<Self> {
        NAMESPACE_TABLE.find(uri).map(|(index, _)| Self(index))
    }
    /// The constant.
    pub fn name(self) -> &'static str {
        NAMESPACES[usize::from(self.0)]
    }
}

/// A namespace, borrowed where we know it.
pub(crate) fn namespace(uri: &str) -> Text {
    match NAMESPACE_TABLE.find(uri) {
        Some((_, known)) => Text::Borrowed(known),
        None => Text::Owned(uri.to_owned()),
    }
}

/// A local name, borrowed where it is a frequent one.
pub(crate) fn name(local: &str) -> Text {
    match NAME_TABLE.find(local) {
        Some((_, known)) => Text::Borrowed(known),
        None => Text::Owned(local.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_texts_are_borrowed_and_others_copied() {
        assert!(matches!(namespace(ns::CLIENT), Text::Borrowed(ns::CLIENT)));
        assert!(matches!(name("body"), Text::Borrowed("body")));
        assert!(matches!(namespace("urn:example:unknown"), Text::Owned(_)));
        assert!(matches!(name("n".repeat(400).as_str()), Text::Owned(_)));
    }
}
