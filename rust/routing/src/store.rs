//! What a storage engine does. Implemented by `antiphon-store`; one contract suite runs over all.
//!
//! Writes are values, accepted in order and committed in groups; reads are futures.

use crate::archive::{
    ArchiveEnds, ArchiveFilter, ArchiveId, ArchivePage, ArchivePrefs, ArchiveRecord, ArchiveState,
    Collection, Edit, InboxChange, InboxEntry, InboxFilter, InboxPage, InboxSlice, Reference,
};
use antiphon_xmpp::Jid;
use antiphon_xmpp::sasl::Credentials;
use std::future::Future;
use std::pin::Pin;

/// A pending read.
pub type StoreFuture<T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send>>;

/// Called once, from a thread of the engine, when a write has committed or failed. Must not block.
pub type Done = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// Why the store did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The queue is full or the engine is away; try again (`resource-constraint`, type wait).
    #[error("the store is busy")]
    Busy,
    /// A limit of what may be stored is reached.
    #[error("the store is full: {0}")]
    Full(&'static str),
    /// There is no such account.
    #[error("no such account")]
    NoAccount,
    /// The account exists already.
    #[error("the account exists")]
    Exists,
    /// It may not be found by another home, which took the owner up in a part of the network that
    /// still sees etcd: it must not be acknowledged, nor called lost.
    #[error("its owner was taken up where etcd is still seen")]
    Overtaken,
    /// The engine failed; the text is for the log.
    #[error("storage engine: {0}")]
    Engine(String),
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
}

/// RFC 6121 §2.1.2.5: the two halves of a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Subscription {
    /// The user sees the contact's presence.
    pub to: bool,
    /// The contact sees the user's presence.
    pub from: bool,
    /// The user has asked (`ask='subscribe'`).
    pub pending_out: bool,
    /// Pre-approved by the user (`approved='true'`).
    pub approved: bool,
}

/// One roster item. Pending-in requests are kept apart ([`Request`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RosterItem {
    /// The contact.
    pub jid: Jid,
    /// `name`, empty for none.
    pub name: Box<str>,
    /// Groups, sorted, without duplicates.
    pub groups: Box<[Box<str>]>,
    /// State.
    pub subscription: Subscription,
}

/// A stored subscription request (RFC 6121 §3.1.3), at most one a contact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Who asks.
    pub from: Jid,
    /// The stanza as [`antiphon_xmpp::Stanza::to_bytes`] wrote it.
    pub stanza: Box<[u8]>,
}

/// All that a user entity needs to live in memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserRecord {
    /// Items.
    pub roster: Vec<RosterItem>,
    /// Roster version: counts changes.
    pub roster_version: u64,
    /// The roster's removals and changes by version are not kept; a client with another version
    /// gets the whole roster.
    pub requests: Vec<Request>,
    /// Block list (XEP-0191).
    pub blocked: Vec<Jid>,
    /// How many offline messages wait.
    pub offline: u64,
    /// When the last session ended, ms since 1970, 0 for never.
    pub last_seen_ms: u64,
    /// Status text of the last unavailable presence.
    pub last_status: String,
    /// The archive; as good as empty where nothing was archived.
    pub archive: ArchiveState,
}

/// An offline message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfflineRecord {
    /// Grows by arrival within one owner; never used twice.
    pub id: u64,
    /// Arrival, ms since 1970.
    pub at_ms: u64,
    /// Its place in the archive, where it is in there: what it is delivered with (XEP-0359).
    pub archived: Option<ArchiveId>,
    /// As [`antiphon_xmpp::Stanza::to_bytes`] wrote it, the delay stamp not yet added.
    pub stanza: Box<[u8]>,
}

/// Kinds of the generic map (owner, kind, key) → value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MapKind {
    /// XEP-0049, key: `{namespace}name`.
    Private,
    /// XEP-0054, key: "".
    Vcard,
    /// Anything a Python feature keeps for itself, key: `feature:key`.
    Feature,
}

/// Keys that one account may have in one kind of the generic map: what one answer of
/// [`Store::map_keys`] can list.
pub const MAP_KEYS_PER_ACCOUNT: usize = 1000;

/// Keys that a served domain may have in one kind of the generic map (what Python features keep
/// for the whole domain).
pub const MAP_KEYS_PER_DOMAIN: usize = 100_000;

/// Longest key of the generic map, bytes.
pub const MAP_KEY_BYTES: usize = 4096;

/// Longest value of the generic map, bytes: above the largest stanza anyone would allow.
pub const MAP_VALUE_BYTES: usize = 4 * 1024 * 1024;

/// Most entries one listing returns ([`Store::accounts`], [`Store::offline`],
/// [`Store::map_keys`]).
pub const PAGE_MAX: usize = 1000;

/// One change. Writes of one owner commit in the order in which they were given.
///
/// An owner is an account, named by its bare JID (a resourcepart is ignored). Whatever concerns an
/// owner without an account fails with [`StoreError::NoAccount`] and leaves nothing behind; only
/// [`Write::MapPut`] also takes a domain, which needs no account. Accounts that an outside back
/// end authenticates are put here without keys when they first log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// A new account; fails with [`StoreError::Exists`].
    AccountCreate {
        /// The account.
        jid: Jid,
        /// Its keys and state.
        credentials: Credentials,
    },
    /// New keys or state of an account; fails with [`StoreError::NoAccount`].
    AccountUpdate {
        /// The account.
        jid: Jid,
        /// Replaces all keys, and the state.
        credentials: Credentials,
    },
    /// Create or update (bulk import).
    AccountPut {
        /// The account.
        jid: Jid,
        /// Replaces all keys, and the state.
        credentials: Credentials,
    },
    /// Removes the account and everything of it; fails with [`StoreError::NoAccount`].
    AccountDelete {
        /// The account.
        jid: Jid,
    },
    /// Adds or replaces a roster item.
    RosterPut {
        /// Whose roster.
        owner: Jid,
        /// The roster's version after this change.
        version: u64,
        /// The item, named by its `jid`.
        item: RosterItem,
    },
    /// Removes a roster item; one that is not there is no error.
    RosterRemove {
        /// Whose roster.
        owner: Jid,
        /// The roster's version after this change.
        version: u64,
        /// The contact.
        jid: Jid,
    },
    /// Stores a subscription request; replaces an earlier one of the same contact.
    RequestPut {
        /// Who is asked.
        owner: Jid,
        /// Who asks, and how.
        request: Request,
    },
    /// Forgets a subscription request; one that is not there is no error.
    RequestDelete {
        /// Who was asked.
        owner: Jid,
        /// Who asked.
        from: Jid,
    },
    /// Stores a message for later. The engine gives it its id.
    OfflineAppend {
        /// The recipient.
        owner: Jid,
        /// Arrival, ms since 1970.
        at_ms: u64,
        /// As [`antiphon_xmpp::Stanza::to_bytes`] wrote it.
        stanza: Box<[u8]>,
    },
    /// Deletes offline messages with these ids; an id that is not there is no error.
    OfflineDelete {
        /// The recipient; ids of another's messages are left alone.
        owner: Jid,
        /// Which.
        ids: Vec<u64>,
    },
    /// Adds to the block list; an address that is there already is no error.
    BlockAdd {
        /// Whose list.
        owner: Jid,
        /// In any form of XEP-0191 #blockmatch.
        jids: Vec<Jid>,
    },
    /// Takes from the block list; empty: all.
    BlockRemove {
        /// Whose list.
        owner: Jid,
        /// Which.
        jids: Vec<Jid>,
    },
    /// When the last session ended.
    LastSeen {
        /// Whose.
        owner: Jid,
        /// ms since 1970.
        at_ms: u64,
        /// Status text of the last unavailable presence, empty for none.
        status: String,
    },
    /// Sets a value of the generic map; `value` empty: removes it. [`StoreError::Full`] above
    /// [`MAP_KEYS_PER_ACCOUNT`], [`MAP_KEYS_PER_DOMAIN`], [`MAP_KEY_BYTES`] or
    /// [`MAP_VALUE_BYTES`].
    MapPut {
        /// An account, or a served domain.
        owner: Jid,
        /// Which map.
        kind: MapKind,
        /// The key within owner and kind.
        key: String,
        /// The value, as it is.
        value: Box<[u8]>,
    },
    /// Archives a message, with what it does to the inbox and to the offline messages. One with a
    /// `uid` that this archive has already changes nothing and is no error.
    Archive {
        /// Whose archive.
        owner: Jid,
        /// The message.
        record: Box<ArchiveRecord>,
    },
    /// Changes a message of one conversation; one that is not there, or is not the sender's own, is
    /// no error.
    ArchiveEdit {
        /// Whose archive.
        owner: Jid,
        /// The conversation's bare JID.
        peer: Jid,
        /// Only a message that the owner sent, or only one that he received.
        is_out: bool,
        /// Which message.
        target: Reference,
        /// What happens to it.
        edit: Edit,
    },
    /// Deletes messages below an id ([`ArchiveId::MAX`]: all) with what is found by them; the inbox
    /// keeps its entries.
    ArchivePurge {
        /// Whose archive.
        owner: Jid,
        /// Only one conversation.
        peer: Option<Jid>,
        /// From this id on they stay.
        before: ArchiveId,
    },
    /// The owner has read these messages in his archive: what waits of them as offline messages is
    /// forgotten.
    OfflineSeen {
        /// Whose.
        owner: Jid,
        /// From this message on.
        from: ArchiveId,
        /// Up to this one, itself included.
        upto: ArchiveId,
    },
    /// Sets the owner's preferences (XEP-0441).
    ArchivePrefs {
        /// Whose archive.
        owner: Jid,
        /// All of them.
        prefs: ArchivePrefs,
    },
    /// A conversation was read up to a message (XEP-0333 `displayed`): what was received above it
    /// stays unread. A message that is not found, or lies below what was read, changes nothing.
    InboxRead {
        /// Whose inbox.
        owner: Jid,
        /// The conversation's bare JID.
        peer: Jid,
        /// Up to which message.
        upto: Reference,
    },
    /// Changes a conversation; one that is not there is no error.
    InboxSet {
        /// Whose inbox.
        owner: Jid,
        /// The conversation's bare JID.
        peer: Jid,
        /// What changes.
        change: InboxChange,
    },
    /// Deletes the conversations in the bin whose last message is older than this.
    InboxEmptyBin {
        /// Whose inbox.
        owner: Jid,
        /// ms since 1970; `u64::MAX`: all.
        before_ms: u64,
    },
}

impl Write {
    /// Whose change it is.
    #[must_use]
    pub fn owner(&self) -> &Jid {
        match self {
            Self::AccountCreate { jid, .. }
            | Self::AccountUpdate { jid, .. }
            | Self::AccountPut { jid, .. }
            | Self::AccountDelete { jid } => jid,
            Self::RosterPut { owner, .. }
            | Self::RosterRemove { owner, .. }
            | Self::RequestPut { owner, .. }
            | Self::RequestDelete { owner, .. }
            | Self::OfflineAppend { owner, .. }
            | Self::OfflineDelete { owner, .. }
            | Self::BlockAdd { owner, .. }
            | Self::BlockRemove { owner, .. }
            | Self::LastSeen { owner, .. }
            | Self::MapPut { owner, .. }
            | Self::Archive { owner, .. }
            | Self::ArchiveEdit { owner, .. }
            | Self::ArchivePurge { owner, .. }
            | Self::ArchivePrefs { owner, .. }
            | Self::OfflineSeen { owner, .. }
            | Self::InboxRead { owner, .. }
            | Self::InboxSet { owner, .. }
            | Self::InboxEmptyBin { owner, .. } => owner,
        }
    }

    /// About how many bytes of memory it holds while it waits; never 0.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        let content = match self {
            Self::AccountCreate { credentials, .. }
            | Self::AccountUpdate { credentials, .. }
            | Self::AccountPut { credentials, .. } => credentials
                .keys
                .iter()
                .map(|k| 64 + k.salt.len() + k.stored_key.len() + k.server_key.len())
                .sum(),
            Self::RosterPut { item, .. } => {
                let groups: usize = item.groups.iter().map(|g| 16 + g.len()).sum();
                item.jid.as_str().len() + item.name.len() + groups
            }
            Self::RequestPut { request, .. } => request.from.as_str().len() + request.stanza.len(),
            Self::OfflineAppend { stanza, .. } => stanza.len(),
            Self::OfflineDelete { ids, .. } => size_of::<u64>() * ids.len(),
            Self::BlockAdd { jids, .. } | Self::BlockRemove { jids, .. } => {
                jids.iter().map(|j| 24 + j.as_str().len()).sum()
            }
            Self::LastSeen { status, .. } => status.len(),
            Self::MapPut { key, value, .. } => key.len() + value.len(),
            Self::Archive { record, .. } => size_of::<ArchiveRecord>() + record.stanza.len(),
            Self::ArchivePrefs { prefs, .. } => {
                let jids = prefs.always.iter().chain(&prefs.never);
                jids.map(|j| 24 + j.as_str().len()).sum()
            }
            Self::AccountDelete { .. }
            | Self::RosterRemove { .. }
            | Self::RequestDelete { .. }
            | Self::ArchiveEdit { .. }
            | Self::ArchivePurge { .. }
            | Self::OfflineSeen { .. }
            | Self::InboxRead { .. }
            | Self::InboxSet { .. }
            | Self::InboxEmptyBin { .. } => 0,
        };
        size_of::<Self>() + content
    }
}

/// An account in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountSummary {
    /// Bare JID.
    pub jid: Jid,
    /// Whether it may log in.
    pub is_enabled: bool,
    /// ms since 1970.
    pub created_ms: u64,
}

/// A storage engine. All methods may be called from any thread and return at once.
///
/// A read sees every write about the same owner (for a domain: about any of its accounts) that was
/// queued before it, committed or not yet: it waits for their commit. Its future may be dropped.
/// Both directions are bounded: above the bound they fail with [`StoreError::Busy`] at once.
pub trait Store: Send + Sync + 'static {
    /// Queues a write. `done` is called once: after the commit, from a thread of the engine and, for
    /// one owner, in the order of the calls; at once and from the caller's thread with `Busy` when
    /// the bounded queue is full, with `Closed` behind [`Store::close`].
    fn write(&self, write: Write, done: Done);
    /// The record of a user; `None`: no such account. Roster, requests and block list are sorted
    /// by address.
    fn user(&self, jid: &Jid) -> StoreFuture<Option<UserRecord>>;
    /// As [`Store::user`], of one whose former home may have died: with the newest messages of the
    /// archive, so that what is sent again is known.
    fn user_of_dead(&self, jid: &Jid) -> StoreFuture<Option<UserRecord>> {
        self.user(jid)
    }
    /// As [`Store::user_of_dead`], of one whose shard came here from a node that died at this epoch
    /// of the cluster's map, unless its archive was taken up since: whatever that node had on its way
    /// to the archive and that lands later, or has not been seen here, lands dead. Ids from `from`
    /// on are this node's.
    fn take_up(&self, jid: &Jid, epoch: u64, from: ArchiveId) -> StoreFuture<Option<UserRecord>> {
        let _ = (epoch, from);
        self.user_of_dead(jid)
    }
    /// What authenticates an account; `None`: no such account. Keys come strongest hash first.
    fn credentials(&self, jid: &Jid) -> StoreFuture<Option<Credentials>>;
    /// Accounts of a domain, by localpart (order of bytes), behind `after`, at most `limit`
    /// (1..=[`PAGE_MAX`], anything else is moved into that range).
    fn accounts(
        &self,
        domain: &str,
        after: Option<&str>,
        limit: usize,
    ) -> StoreFuture<Vec<AccountSummary>>;
    /// How many accounts a domain has.
    fn account_count(&self, domain: &str) -> StoreFuture<u64>;
    /// Offline messages with an id above `after`, oldest first, at most `limit`
    /// (1..=[`PAGE_MAX`], anything else is moved into that range).
    fn offline(&self, owner: &Jid, after: u64, limit: usize) -> StoreFuture<Vec<OfflineRecord>>;
    /// A value of the generic map.
    fn map_get(&self, owner: &Jid, kind: MapKind, key: &str) -> StoreFuture<Option<Box<[u8]>>>;
    /// Keys of the generic map with this prefix, sorted, at most [`PAGE_MAX`].
    fn map_keys(&self, owner: &Jid, kind: MapKind, prefix: &str) -> StoreFuture<Vec<String>>;
    /// Puts a value of a domain's map where there is none yet: of several processes that do so at
    /// once all read the same afterwards. `None`: one process has this store, and
    /// [`Write::MapPut`] does it.
    fn map_claim(
        &self,
        domain: &Jid,
        kind: MapKind,
        key: &str,
        value: Box<[u8]>,
    ) -> Option<StoreFuture<()>> {
        let _ = (domain, kind, key, value);
        None
    }
    /// A page of an archive: at most `limit` (1..=[`PAGE_MAX`]) of what the filter finds, from the
    /// old end or the new.
    fn archive_page(
        &self,
        owner: &Jid,
        filter: ArchiveFilter,
        is_from_end: bool,
        limit: usize,
    ) -> StoreFuture<ArchivePage>;
    /// How many messages the filter finds, where that is cheap to tell: `None` above `most`, or
    /// where the engine would have to count by reading.
    fn archive_count(
        &self,
        owner: &Jid,
        filter: ArchiveFilter,
        most: u64,
    ) -> StoreFuture<Option<u64>>;
    /// Which of these ids there are (at most [`PAGE_MAX`]), in their order.
    fn archive_known(&self, owner: &Jid, ids: Vec<ArchiveId>) -> StoreFuture<Vec<ArchiveId>>;
    /// The first and the last message; `None`: the archive is empty.
    fn archive_ends(&self, owner: &Jid) -> StoreFuture<Option<ArchiveEnds>>;
    /// Conversations by UTC day (XEP-0136), by their first message of the day, oldest first, above
    /// `filter.after` and below `filter.before`, of `filter.with` alone if it is there; at most
    /// `limit` (1..=[`PAGE_MAX`]).
    fn archive_collections(
        &self,
        owner: &Jid,
        filter: ArchiveFilter,
        limit: usize,
    ) -> StoreFuture<Vec<Collection>>;
    /// Conversations, and the counts of all that the filter finds; at most [`PAGE_MAX`].
    fn inbox_page(
        &self,
        owner: &Jid,
        filter: InboxFilter,
        slice: InboxSlice,
    ) -> StoreFuture<InboxPage>;
    /// One conversation.
    fn inbox_entry(&self, owner: &Jid, peer: &Jid) -> StoreFuture<Option<InboxEntry>>;
    /// Commits what is queued, answers the reads that wait, and stops; later calls fail with
    /// `Closed`. Blocks until all of it is done. A second call does nothing.
    fn close(&self);
}

/// Inside an `impl Store`: the reads of archive and inbox, handed on to the store in a field.
#[macro_export]
macro_rules! forward_archive {
    ($field:ident) => {
        fn archive_page(
            &self,
            owner: &antiphon_xmpp::Jid,
            filter: $crate::archive::ArchiveFilter,
            is_from_end: bool,
            limit: usize,
        ) -> $crate::store::StoreFuture<$crate::archive::ArchivePage> {
            self.$field.archive_page(owner, filter, is_from_end, limit)
        }
        fn archive_count(
            &self,
            owner: &antiphon_xmpp::Jid,
            filter: $crate::archive::ArchiveFilter,
            most: u64,
        ) -> $crate::store::StoreFuture<Option<u64>> {
            self.$field.archive_count(owner, filter, most)
        }
        fn archive_known(
            &self,
            owner: &antiphon_xmpp::Jid,
            ids: Vec<$crate::archive::ArchiveId>,
        ) -> $crate::store::StoreFuture<Vec<$crate::archive::ArchiveId>> {
            self.$field.archive_known(owner, ids)
        }
        fn archive_ends(
            &self,
            owner: &antiphon_xmpp::Jid,
        ) -> $crate::store::StoreFuture<Option<$crate::archive::ArchiveEnds>> {
            self.$field.archive_ends(owner)
        }
        fn archive_collections(
            &self,
            owner: &antiphon_xmpp::Jid,
            filter: $crate::archive::ArchiveFilter,
            limit: usize,
        ) -> $crate::store::StoreFuture<Vec<$crate::archive::Collection>> {
            self.$field.archive_collections(owner, filter, limit)
        }
        fn inbox_page(
            &self,
            owner: &antiphon_xmpp::Jid,
            filter: $crate::archive::InboxFilter,
            slice: $crate::archive::InboxSlice,
        ) -> $crate::store::StoreFuture<$crate::archive::InboxPage> {
            self.$field.inbox_page(owner, filter, slice)
        }
        fn inbox_entry(
            &self,
            owner: &antiphon_xmpp::Jid,
            peer: &antiphon_xmpp::Jid,
        ) -> $crate::store::StoreFuture<Option<$crate::archive::InboxEntry>> {
            self.$field.inbox_entry(owner, peer)
        }
    };
}
