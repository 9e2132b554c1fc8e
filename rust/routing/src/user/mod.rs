//! The user entity (RFC 6121): sessions, roster, presence, blocking, carbons and delivery of one
//! bare JID.

mod archive;
mod blocking;
mod call;
mod carbons;
mod delivery;
mod keeping;
mod moving;
mod offline;
mod presence;
mod roster;
mod subscription;

use crate::archive::{ArchiveDefault, ArchiveId, ArchivePrefs, HybridClock, InboxChange};
use crate::effect::{Effects, Origin};
use crate::session::SessionId;
use crate::store::{OfflineRecord, Request, RosterItem, UserRecord};
use antiphon_xmpp::stanza::{Stanza, StanzaError};
use antiphon_xmpp::stream::StreamCondition;
use antiphon_xmpp::{Element, Jid, StanzaCondition, StanzaKind};
use archive::Archive;
use blocking::BlockList;
pub use moving::{NEW_KEEPSAKE, Rebound, note_handed};
use offline::{Backlog, Reading};
use presence::Available;
use roster::Roster;
pub use roster::item_element;
use std::sync::Arc;
pub use subscription::is_subscription;

/// Limits and policies an entity obeys; shared by all. A limit of 0 is none.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Sessions of one account.
    pub sessions_per_user: usize,
    /// Items in one roster.
    pub roster_items: usize,
    /// JIDs in one block list.
    pub blocked_items: usize,
    /// Offline messages of one account.
    pub offline_messages: u64,
    /// Addresses that one session may have sent directed presence to and not taken back.
    pub directed_presence: usize,
    /// Stored subscription requests of one account.
    pub subscription_requests: usize,
    /// Served domains: an address elsewhere is remote.
    pub domains: Vec<String>,
    /// Gives the places in archives; one a node, the same after a reload.
    pub clock: Arc<HybridClock>,
    /// Makes the ids of archives unpredictable ([`ArchiveId::text`]); one for all nodes, for ever.
    pub archive_key: u64,
    /// Messages that the server archives for a user who has set no preferences (XEP-0441).
    pub archive_default: ArchiveDefault,
}

impl Default for Policy {
    /// The limits of the contract, without domains.
    fn default() -> Self {
        Self {
            sessions_per_user: 20,
            roster_items: 2000,
            blocked_items: 1000,
            offline_messages: 1000,
            directed_presence: 1000,
            subscription_requests: 1000,
            domains: Vec::new(),
            clock: Arc::default(),
            archive_key: 0,
            archive_default: ArchiveDefault::Always,
        }
    }
}

/// What is done for a user besides delivery; see [`User::switch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Switches {
    /// Messages are kept for who is away (XEP-0160); off, they are answered.
    pub is_offline_on: bool,
    /// Messages are copied to the user's other sessions (XEP-0280).
    pub is_carbons_on: bool,
    /// Users can block others (XEP-0191); off, nobody is blocked and a list can be neither read nor
    /// changed, but it is kept.
    pub is_blocking_on: bool,
    /// Messages are archived (XEP-0313).
    pub is_archive_on: bool,
    /// Conversations and their unread messages are kept; needs the archive.
    pub is_inbox_on: bool,
}

impl Default for Switches {
    /// All on but the archive and the inbox.
    fn default() -> Self {
        Self {
            is_archive_on: false,
            is_inbox_on: false,
            is_offline_on: true,
            is_carbons_on: true,
            is_blocking_on: true,
        }
    }
}

/// What a call of the node or of Python asks of an entity; executed in the entity's order.
#[derive(Debug, Clone)]
pub enum Call {
    /// The roster for a session that becomes interested. Answer: [`CallAnswer::Roster`] or
    /// [`CallAnswer::RosterUnchanged`].
    RosterGet {
        /// Who will get pushes; nobody when an administrator looks.
        session: Option<SessionId>,
        /// `ver` as the client sent it.
        ver: Option<String>,
    },
    /// A client's roster set. Errors: `not-allowed` for the user himself, `not-acceptable`,
    /// `bad-request` (RFC 6121 §2.3.3), `resource-constraint` when the roster is full.
    RosterSet {
        /// The `<item/>` checked for form; its subscription is not looked at.
        item: RosterItem,
    },
    /// A client's roster remove. `item-not-found` when there is no such item.
    RosterRemove {
        /// The contact.
        jid: Jid,
    },
    /// The block list for a session that will get pushes. Answer: [`CallAnswer::Jids`].
    BlockList {
        /// Who will get pushes.
        session: SessionId,
    },
    /// Block these. `bad-request` without any, `resource-constraint` when the list is full.
    Block {
        /// In any form of XEP-0191 #blockmatch.
        jids: Vec<Jid>,
    },
    /// Unblock these; empty: all.
    Unblock {
        /// As they were blocked.
        jids: Vec<Jid>,
    },
    /// Carbons of a session on or off.
    Carbons {
        /// Whose.
        session: SessionId,
        /// On.
        enabled: bool,
    },
    /// May this address see the user's presence (roster from/both, or the user himself)? Answer:
    /// [`CallAnswer::Flag`].
    MaySeePresence {
        /// Who wants to know.
        by: Jid,
    },
    /// Since when is the user away, and with which status? Answer: [`CallAnswer::Activity`].
    LastActivity,
    /// The sessions with their presence. Answer: [`CallAnswer::Sessions`].
    Sessions,
    /// Does the account exist? (An entity of a missing account answers no; it answers every other
    /// call but `MaySeePresence` and `Sessions` with `item-not-found`.)
    Exists,
    /// End all sessions (or one resource) with this stream condition. `item-not-found` when that
    /// resource is not there.
    Kick {
        /// Which; all without.
        resource: Option<String>,
        /// Why.
        condition: StreamCondition,
    },
    /// The archive's preferences (XEP-0441). Answer: [`CallAnswer::ArchivePrefs`].
    /// `service-unavailable` without an archive.
    ArchivePrefs,
    /// Sets them. `service-unavailable` without an archive, `resource-constraint` above
    /// [`crate::archive::ARCHIVE_PREFS_MAX`].
    ArchivePrefsSet {
        /// All of them; the lists in any order.
        prefs: ArchivePrefs,
    },
    /// A session was given all messages of the archive between these two: what waits of them as
    /// offline messages is not given again.
    ArchiveRead {
        /// From this one on.
        from: ArchiveId,
        /// Up to this one.
        upto: ArchiveId,
    },
    /// A session has asked its archive in a dialect that is older than stanza ids (`mam:tmp`,
    /// `mam:0`): from here on live messages name their place as those texts have it, too, until the
    /// entity goes.
    ArchiveOldDialect,
    /// Changes a conversation of the inbox. `service-unavailable` without an inbox.
    InboxSet {
        /// The conversation's bare JID.
        peer: Jid,
        /// What changes.
        change: InboxChange,
    },
    /// The account was removed: unsubscribe contacts, end sessions with `not-authorized`. The
    /// entity is one of a missing account from then on.
    Removed,
}

/// The answer to a [`Call`].
#[derive(Debug, Clone, PartialEq)]
pub enum CallAnswer {
    /// Done.
    Done,
    /// Yes or no.
    Flag(bool),
    /// The roster did not change since the client's version.
    RosterUnchanged,
    /// The whole roster.
    Roster {
        /// By address.
        items: Vec<RosterItem>,
        /// Its version.
        ver: String,
    },
    /// Addresses.
    Jids(Vec<Jid>),
    /// When the user was last here.
    Activity {
        /// Milliseconds since 1970 (0: never).
        at_ms: u64,
        /// Of the last unavailable presence.
        status: String,
        /// Whether a session is there now.
        is_online: bool,
    },
    /// Sessions, by time of binding.
    Sessions(Vec<SessionSummary>),
    /// Preferences of the archive, the server's default where the user has set none.
    ArchivePrefs(ArchivePrefs),
}

/// One session in [`CallAnswer::Sessions`].
#[derive(Debug, Clone, PartialEq)]
pub struct SessionSummary {
    /// Its id.
    pub session: SessionId,
    /// Its full JID.
    pub jid: Jid,
    /// Priority, `None` before initial presence.
    pub priority: Option<i8>,
    /// The last presence, as a tree.
    pub presence: Option<Element>,
    /// Whether carbons are on.
    pub has_carbons: bool,
}

/// What the entity knows of a session. Small: there may be a million.
#[derive(Debug)]
struct Session {
    id: SessionId,
    jid: Jid,
    /// There after initial presence, until unavailable presence.
    presence: Option<Box<Available>>,
    /// Who got directed presence and must get the unavailable one, by address.
    directed: Vec<Jid>,
    /// Since when carbons are on, ms since 1970; `u64::MAX`: off.
    carbons_since_ms: u64,
    /// There once offline messages were read for it.
    reading: Option<Box<Reading>>,
    /// Gets roster pushes.
    is_interested: bool,
    /// Gets block list pushes.
    wants_blocks: bool,
    /// What is known of it is new to the node that holds its socket.
    is_changed: bool,
    /// Another node has been told of it, see [`User::take_changed`].
    is_told: bool,
}

impl Session {
    /// Whether messages to the bare JID are for it: available with a priority of 0 or more.
    fn is_receiving(&self) -> bool {
        self.presence.as_ref().is_some_and(|p| p.priority >= 0)
    }

    fn has_carbons(&self) -> bool {
        self.carbons_since_ms != u64::MAX
    }

    /// Whether it is as it was when it was bound: its keepsake is [`NEW_KEEPSAKE`].
    fn is_new(&self) -> bool {
        let wants_nothing = !self.is_interested && !self.wants_blocks && !self.has_carbons();
        let has_nothing = self.directed.is_empty() && self.reading.is_none();
        wants_nothing && has_nothing && self.presence.is_none()
    }
}

/// One turn of the entity: what it may look at and where its effects go.
struct Turn<'a> {
    now_ms: u64,
    origin: Option<Origin>,
    policy: &'a Policy,
    fx: &'a mut Effects,
}

/// The entity. See the folder's files for its parts.
#[derive(Debug)]
pub struct User {
    jid: Jid,
    is_there: bool,
    /// By time of binding.
    sessions: Vec<Session>,
    roster: Roster,
    /// By address.
    requests: Vec<Request>,
    blocked: BlockList,
    switches: Switches,
    backlog: Backlog,
    archive: Option<Box<Archive>>,
    last_seen_ms: u64,
    last_status: Box<str>,
    /// Counts block list pushes, for their ids.
    pushes: u32,
    /// See [`User::take_changed`].
    has_changed: bool,
}

impl User {
    /// Takes up an entity; `None`: there is no such account (it then answers as RFC 6121 §8.5.1
    /// asks). Once the account has been made, the entity must be taken up anew. A record that could
    /// not be read is no missing account: as one, it would end its contacts' subscriptions.
    #[must_use]
    pub fn new(jid: Jid, record: Option<UserRecord>) -> Self {
        let is_there = record.is_some();
        let record = record.unwrap_or_default();
        let mut requests = record.requests;
        requests.sort_unstable_by(|a, b| a.from.as_str().cmp(b.from.as_str()));
        requests.dedup_by(|a, b| a.from == b.from);
        Self {
            jid: jid.bare(),
            is_there,
            sessions: Vec::new(),
            roster: Roster::new(record.roster, record.roster_version),
            requests,
            blocked: BlockList::new(record.blocked),
            switches: Switches::default(),
            backlog: Backlog::new(record.offline),
            archive: Archive::new(record.archive),
            last_seen_ms: record.last_seen_ms,
            last_status: record.last_status.into(),
            pushes: 0,
            has_changed: false,
        }
    }

    /// The bare JID.
    #[must_use]
    pub fn jid(&self) -> &Jid {
        &self.jid
    }

    /// Whether the account exists.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.is_there
    }

    /// Turns features on and off; all are on at first. A session that had carbons has none any more
    /// once they are off, and has to ask for them again.
    pub fn switch(&mut self, switches: Switches) {
        self.switches = switches;
        if !switches.is_carbons_on {
            for session in &mut self.sessions {
                session.carbons_since_ms = u64::MAX;
            }
        }
    }

    /// Whether nothing would be lost by forgetting it: no sessions, nothing pending.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Binds a session. A resource in use ends the older session with `conflict` (its id is in the
    /// effects' `Close`), which is as good as unbound from then on.
    ///
    /// # Errors
    /// `resource-constraint` above `sessions_per_user`; `item-not-found` when the account is gone.
    pub fn bind(
        &mut self,
        session: SessionId,
        jid: &Jid,
        p: &Policy,
        fx: &mut Effects,
    ) -> Result<(), StanzaError> {
        if !self.is_there {
            return Err(StanzaCondition::ItemNotFound.into());
        }
        let older = self.session_by_jid(jid).map(|at| self.sessions[at].id);
        let limit = p.sessions_per_user;
        if older.is_none() && limit != 0 && self.sessions.len() >= limit {
            let error = StanzaError::from(StanzaCondition::ResourceConstraint);
            return Err(error.with_text("too many sessions"));
        }
        if let Some(id) = older {
            fx.local.push(crate::Local::Close {
                session: id,
                condition: StreamCondition::Conflict,
            });
            // Time is of no matter here: held messages carry their own.
            let mut t = Turn {
                now_ms: 0,
                origin: None,
                policy: p,
                fx,
            };
            self.leave(id, &mut t);
        }
        self.sessions.reserve_exact(1);
        self.sessions.push(Session {
            id: session,
            jid: jid.clone(),
            presence: None,
            directed: Vec::new(),
            carbons_since_ms: u64::MAX,
            reading: None,
            is_interested: false,
            wants_blocks: false,
            is_changed: false,
            is_told: false,
        });
        Ok(())
    }

    /// A session ended for good (after the resumption time): unavailable presence to whom it
    /// concerns (RFC 6121 §4.5), last activity; its unacknowledged stanzas come back by
    /// [`User::undelivered`]. The deletion of the offline messages that its client has must have
    /// been handed to the store before.
    pub fn unbind(&mut self, session: SessionId, now_ms: u64, p: &Policy, fx: &mut Effects) {
        let mut t = Turn {
            now_ms,
            origin: None,
            policy: p,
            fx,
        };
        if !self.leave(session, &mut t) || !self.sessions.is_empty() {
            return;
        }
        self.sessions = Vec::new();
        if self.is_there {
            self.last_seen_ms = now_ms;
            let (owner, status) = (self.jid.clone(), self.last_status.to_string());
            t.fx.store(crate::store::Write::LastSeen {
                owner,
                at_ms: now_ms,
                status,
            });
        }
    }

    /// Takes a session out; whether it was there.
    fn leave(&mut self, session: SessionId, t: &mut Turn) -> bool {
        let Some(at) = self.index(session) else {
            return false;
        };
        if self.sessions[at].presence.is_some() {
            // XEP-0012 #offline: a stream that just ends says no status.
            self.last_status = Box::default();
        }
        self.become_unavailable(at, None, t);
        let gone = self.sessions.remove(at);
        if let Some(reading) = gone.reading {
            self.end_reading(*reading, t);
        }
        true
    }

    /// A stanza that one of the user's own sessions sent. `from` is its full JID. `to` may be
    /// absent, local or remote. Handles presence, outgoing blocking, the archive and carbons; what
    /// goes to others is in `fx.routes` (a message or IQ to the user's own bare JID too).
    ///
    /// `origin` names the session; where its stanzas are counted (`seq` above 0), what is written for
    /// them carries it.
    pub fn outgoing(
        &mut self,
        origin: Origin,
        stanza: Stanza,
        now_ms: u64,
        p: &Policy,
        fx: &mut Effects,
    ) {
        let Some(at) = self.index(origin.session) else {
            return;
        };
        let mut t = Turn {
            now_ms,
            origin: Some(origin).filter(|o| o.seq > 0 && stanza.kind != StanzaKind::Iq),
            policy: p,
            fx,
        };
        if stanza.to.as_ref().is_some_and(|to| self.is_blocked(to)) {
            self.bounce_to_session(at, &stanza, &blocking::blocked_by_you(), &mut t);
            return;
        }
        if stanza.kind == StanzaKind::Presence {
            self.presence_out(at, stanza, &mut t);
            return;
        }
        // RFC 6120 §10.3: without an address it is to the account itself.
        let mut stanza = match stanza.to {
            Some(_) => stanza,
            None => stanza.to(self.jid.clone()),
        };
        if stanza.kind == StanzaKind::Message {
            stanza = self.without_forged_ids(stanza);
            let place = self.archive_sent(origin.session, &mut stanza, &mut t);
            self.copy_sent(at, &stanza, place, &mut t);
        }
        t.fx.route(stanza);
    }

    /// A stanza to the user (bare or full JID), from anyone. IQs to the bare JID do not come here
    /// except results and errors: the node answers them after asking [`User::is_blocked`].
    ///
    /// `origin` goes into the write of an offline message, whose commit the sender's
    /// acknowledgement then waits for.
    pub fn incoming(
        &mut self,
        stanza: Stanza,
        origin: Option<Origin>,
        now_ms: u64,
        p: &Policy,
        fx: &mut Effects,
    ) {
        let mut t = Turn {
            now_ms,
            origin,
            policy: p,
            fx,
        };
        match stanza.kind {
            StanzaKind::Message => self.message_in(stanza, &mut t),
            StanzaKind::Presence => self.presence_in(stanza, &mut t),
            StanzaKind::Iq => self.iq_in(stanza, &mut t),
        }
    }

    /// Stanzas a session never confirmed, oldest first: delivered elsewhere or stored, as RFC 6121
    /// §8.5.3.2 and XEP-0198 #resumption ask; `at_ms` is when each was first delivered.
    ///
    /// Called after [`User::unbind`]. What was delivered with an `offline` id is not among them:
    /// it is still in the store and is read again for the next session.
    pub fn undelivered(
        &mut self,
        stanzas: Vec<(u64, Stanza)>,
        now_ms: u64,
        p: &Policy,
        fx: &mut Effects,
    ) {
        let mut t = Turn {
            now_ms,
            origin: None,
            policy: p,
            fx,
        };
        for (at_ms, stanza) in stanzas {
            self.redeliver(at_ms, stanza, &mut t);
        }
    }

    /// Offline messages read for a session after [`crate::effect::Local::ReadOffline`]: a page of
    /// any size from behind `after`, oldest first. An empty page is the end; a page with messages
    /// makes the entity ask for the next. A read that failed is handed over as an empty page.
    pub fn offline_loaded(
        &mut self,
        session: SessionId,
        records: Vec<OfflineRecord>,
        p: &Policy,
        fx: &mut Effects,
    ) {
        let mut t = Turn {
            now_ms: 0,
            origin: None,
            policy: p,
            fx,
        };
        self.take_page(session, records, &mut t);
    }

    /// Whether this address is blocked (XEP-0191 #blockmatch). Never the user's own addresses
    /// (the note at XEP-0191 #privacy) nor the server's.
    #[must_use]
    pub fn is_blocked(&self, by: &Jid) -> bool {
        self.has_blocked_any()
            && by.bare_str() != self.jid.as_str()
            && by.as_str() != self.jid.domain()
            && self.blocked.matches(by)
    }

    /// Whether there is a block list to look at.
    fn has_blocked_any(&self) -> bool {
        self.switches.is_blocking_on && !self.blocked.is_empty()
    }

    /// Whether this address may see the user's presence: the user himself, or a subscribed contact.
    #[must_use]
    pub fn may_see_presence(&self, by: &Jid) -> bool {
        self.is_there && !self.is_blocked(by) && self.sees_presence(by)
    }

    /// Executes a call.
    ///
    /// # Errors
    /// A stanza error for the asker, as the [`Call`] says.
    pub fn call(
        &mut self,
        call: Call,
        now_ms: u64,
        p: &Policy,
        fx: &mut Effects,
    ) -> Result<CallAnswer, StanzaError> {
        let mut t = Turn {
            now_ms,
            origin: None,
            policy: p,
            fx,
        };
        self.answer(call, &mut t)
    }

    fn index(&self, session: SessionId) -> Option<usize> {
        self.sessions.iter().position(|s| s.id == session)
    }

    fn session_by_jid(&self, jid: &Jid) -> Option<usize> {
        self.sessions.iter().position(|s| s.jid == *jid)
    }
}
