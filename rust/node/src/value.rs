//! Values that cross to Python as the result of a call.

use antiphon_xmpp::{Element, Jid, Stanza};

/// A result.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Nothing.
    None,
    /// A flag.
    Bool(bool),
    /// A number.
    Int(u64),
    /// Bytes.
    Bytes(Vec<u8>),
    /// Texts.
    Texts(Vec<String>),
    /// Addresses.
    Jids(Vec<Jid>),
    /// An element.
    Element(Element),
    /// The answer to a request that Python sent.
    Stanza(Stanza),
    /// `activity.last`: ms since 1970, status, online now.
    Activity(u64, String, bool),
    /// `sessions.list`: full JID, priority, presence, carbons.
    Sessions(Vec<(Jid, Option<i8>, Option<Element>, bool)>),
    /// `account.list`: JID, enabled, created (ms since 1970).
    Accounts(Vec<(Jid, bool, u64)>),
    /// `node.stats`.
    Stats(Vec<(&'static str, u64)>),
}
