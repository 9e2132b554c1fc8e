//! What a transition wants done.

use crate::session::SessionId;
use crate::store::Write;
use antiphon_xmpp::Jid;
use antiphon_xmpp::stanza::Stanza;
use antiphon_xmpp::stream::StreamCondition;

/// Names the incoming stanza for whose sender a commit matters: when every write that carries it
/// has committed, the stanza counts as handled (XEP-0198 `h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The session whose stanza it is.
    pub session: SessionId,
    /// Its number in that session's stream, from 1.
    pub seq: u64,
}

/// Effects that must be carried out while the entity's lock is held, so that their order is the
/// entity's order: all of them are pushes onto queues.
#[derive(Debug)]
pub enum Local {
    /// Put a stanza on a session's outgoing queue.
    Deliver {
        /// To whom.
        session: SessionId,
        /// What, with its final `to`.
        stanza: Stanza,
        /// The offline record it came from, deleted once the client has it. Not given back to
        /// [`crate::user::User::undelivered`]: until then it is in the store.
        offline: Option<u64>,
    },
    /// Hand a write to the store.
    Store {
        /// What.
        write: Write,
        /// Whose stanza waits for the commit.
        origin: Option<Origin>,
        /// The message that is lost if the store refuses: its sender gets an error then, instead of
        /// silence.
        refused: Option<Box<Stanza>>,
    },
    /// Read a page of offline messages and hand it to [`crate::user::User::offline_loaded`], an
    /// empty one too. The entity asks for the next page by itself, so the node may wait with a read
    /// until the session's queue has room.
    ReadOffline {
        /// Whose.
        owner: Jid,
        /// For which session.
        session: SessionId,
        /// Ids above this one; 0: from the first.
        after: u64,
    },
    /// A message brought a conversation back into the inbox: its owner's sessions are told, once
    /// that is stored.
    InboxMoved {
        /// Whose.
        owner: Jid,
        /// The conversation.
        peer: Jid,
    },
    /// End a session's stream.
    Close {
        /// Whose.
        session: SessionId,
        /// Why.
        condition: StreamCondition,
    },
    /// Let Python answer an IQ that a match-table entry wants.
    Ask {
        /// Index of the matched declaration.
        handler: u32,
        /// The request, addresses final.
        stanza: Stanza,
        /// The asking session if local (for `ordered` entries).
        session: Option<SessionId>,
        /// What counts as handled only once this is answered.
        origin: Option<Origin>,
    },
}

/// What a transition wants done; reused, so that the common case allocates nothing.
#[derive(Debug, Default)]
pub struct Effects {
    /// Under the lock, in order.
    pub local: Vec<Local>,
    /// After the lock: stanzas to route onwards, each to the entity of its `to`, in order.
    pub routes: Vec<Stanza>,
}

impl Effects {
    /// Delivers to a session.
    pub fn deliver(&mut self, session: SessionId, stanza: Stanza) {
        self.local.push(Local::Deliver {
            session,
            stanza,
            offline: None,
        });
    }
    /// Routes onwards.
    pub fn route(&mut self, stanza: Stanza) {
        self.routes.push(stanza);
    }
    /// Writes, with nobody waiting.
    pub fn store(&mut self, write: Write) {
        self.store_for(None, write);
    }
    /// Writes; the stanza of `origin` is not handled before.
    pub fn store_for(&mut self, origin: Option<Origin>, write: Write) {
        self.local.push(Local::Store {
            write,
            origin,
            refused: None,
        });
    }
    /// Forgets all, keeps the room for the next turn.
    pub fn clear(&mut self) {
        self.local.clear();
        self.routes.clear();
    }
    /// Whether nothing is wanted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.local.is_empty() && self.routes.is_empty()
    }
}
