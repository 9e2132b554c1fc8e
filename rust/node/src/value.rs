//! Values that cross to Python as the result of a call.

use antiphon_routing::archive::ArchivePrefs;
use antiphon_xmpp::{Element, Jid, Stanza};

/// A message of `archive.rows`.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Its id, as clients see it.
    pub id: String,
    /// When it was archived, ms since 1970.
    pub at_ms: u64,
    /// The owner sent it.
    pub is_out: bool,
    /// The message.
    pub stanza: Stanza,
}

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
    /// `archive.page`: ids of the oldest and the newest message of the page.
    ArchivePage {
        /// `None`: the page is empty.
        first: Option<String>,
        /// `None`: the page is empty.
        last: Option<String>,
        /// Of all that the query finds.
        count: Option<u64>,
        /// Nothing lies beyond the page.
        is_complete: bool,
        /// Not about to change by itself.
        is_stable: bool,
    },
    /// `archive.rows`.
    Rows {
        /// Oldest first.
        rows: Vec<Row>,
        /// Nothing lies beyond them.
        is_complete: bool,
    },
    /// `archive.ends`: ids and times (ms since 1970) of the first and the last message.
    Ends((String, u64), (String, u64)),
    /// `archive.prefs_get` and `archive.prefs_set`.
    Prefs(ArchivePrefs),
    /// `archive.collections`: conversation, id and time of its first message of a day.
    Collections(Vec<(Jid, String, u64)>),
    /// `inbox.page`: positions of the first and the last entry of the page, in its order.
    InboxPage {
        /// `None`: the page is empty.
        first: Option<String>,
        /// `None`: the page is empty.
        last: Option<String>,
        /// Conversations that the filter finds.
        count: u32,
        /// Unread messages in them.
        unread: u64,
        /// Those with something unread.
        active: u32,
        /// Nothing lies beyond the page.
        is_complete: bool,
    },
    /// `inbox.entry` and `inbox.set`.
    InboxEntry {
        /// The conversation.
        peer: Jid,
        /// Its last message.
        last_id: String,
        /// When that came, ms since 1970.
        at_ms: u64,
        /// Unread messages.
        unread: u32,
        /// Its box.
        in_box: String,
        /// ms since 1970; 0: not muted.
        muted_until_ms: u64,
        /// Its last message.
        message: Option<Element>,
    },
}
