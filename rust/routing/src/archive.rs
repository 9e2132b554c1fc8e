//! What the archive (XEP-0313) and the inbox keep of a message: names, records and queries that
//! the user entity and every storage engine share.

use antiphon_xmpp::Jid;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Bits of an [`ArchiveId`] that count within one millisecond.
const COUNT_BITS: u32 = 12;

/// The place of an entry in one archive: milliseconds since 1970 above a count of 12 bits. Strictly
/// increases within an archive and is never used twice there; 0 is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ArchiveId(pub u64);

impl ArchiveId {
    /// Above every id.
    pub const MAX: Self = Self(u64::MAX >> 4);

    /// The lowest id of a millisecond.
    #[must_use]
    pub fn first_of(at_ms: u64) -> Self {
        Self(at_ms.min(Self::MAX.ms()) << COUNT_BITS)
    }

    /// The highest id of a millisecond.
    #[must_use]
    pub fn last_of(at_ms: u64) -> Self {
        Self(Self::first_of(at_ms).0 | ((1 << COUNT_BITS) - 1))
    }

    /// When it was given, ms since 1970.
    #[must_use]
    pub fn ms(self) -> u64 {
        self.0 >> COUNT_BITS
    }

    /// As clients see it (XEP-0359): a UUID of version 7 (RFC 9562 §5.7) whose last part is a hash
    /// of this id and the archive's owner under a key of the server. So it cannot be predicted
    /// (XEP-0313 #archives), and an id of another archive is not taken for one of this.
    #[must_use]
    pub fn text(self, owner: &Jid, key: u64) -> String {
        let (ms, count) = (self.ms(), self.0 & ((1 << COUNT_BITS) - 1));
        let tail = self.tail(owner, key);
        format!(
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            ms >> 16,
            ms & 0xffff,
            0x7000 | count,
            tail >> 48,
            tail & 0xffff_ffff_ffff
        )
    }

    /// Reads [`ArchiveId::text`] of this owner's archive, in either case; `None` for anything else.
    #[must_use]
    pub fn parse(text: &str, owner: &Jid, key: u64) -> Option<Self> {
        let is_dashed = text.len() == 36
            && text
                .bytes()
                .enumerate()
                .all(|(at, b)| (b == b'-') == matches!(at, 8 | 13 | 18 | 23));
        if !is_dashed {
            return None;
        }
        let digits: String = text.chars().filter(|c| *c != '-').collect();
        if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let value = u128::from_str_radix(&digits, 16).ok()?;
        let (high, tail) = ((value >> 64) as u64, value as u64);
        let id = Self((high >> 16) << COUNT_BITS | (high & 0xfff));
        let is_ours = high & 0xf000 == 0x7000 && tail == id.tail(owner, key);
        is_ours.then_some(id)
    }

    /// The variant bits of RFC 9562 and 62 bits of a hash.
    fn tail(self, owner: &Jid, key: u64) -> u64 {
        let owner = xxh3_64_with_seed(owner.bare_str().as_bytes(), key);
        let hash = xxh3_64_with_seed(&self.0.to_le_bytes(), owner);
        (hash >> 2) | (0b10 << 62)
    }
}

/// Set in [`antiphon_xmpp::Stanza::uid`] beside the uid of a message that its sender's archive has
/// already: it is being sent again, and the recipient's archive may have it too.
pub const RESENT: u64 = 1 << 63;

/// Set there as well where the sender's home has just taken its shard up from one that died: that
/// one may have passed the message on, and not have archived it.
pub const DOUBTFUL: u64 = 1 << 62;

/// How many nodes can give ids at once without giving one twice. What is left of the 4,096 of a
/// millisecond is enough for 64,000 messages a second of each.
const LANES: u64 = 64;

/// Gives [`ArchiveId`]s that never go back, whatever the clock of the system does. One a node.
#[derive(Debug, Default)]
pub struct HybridClock {
    last: AtomicU64,
    /// Of a node in a cluster: its lane and one. An id also names a message in the archive of whom
    /// it is for ([`ArchiveRecord::uid`]), so no two nodes may give the same.
    lane: AtomicU64,
}

impl HybridClock {
    /// The next id: of this millisecond, or behind the last one given or seen.
    pub fn next(&self, now_ms: u64) -> ArchiveId {
        let now = ArchiveId::first_of(now_ms).0;
        let lane = self.lane.load(Ordering::Acquire);
        let after = |last: u64| {
            let least = now.max(last + 1);
            match lane {
                0 => least,
                lane => least + (lane - 1 + LANES - least % LANES) % LANES,
            }
        };
        let step = |last: u64| Some(after(last));
        // The closure always gives a value; both arms say the same.
        match self
            .last
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, step)
        {
            Ok(last) | Err(last) => ArchiveId(after(last)),
        }
    }

    /// Whether this is one node among others.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.lane.load(Ordering::Acquire) > 0
    }

    /// The last id given or seen.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.last.load(Ordering::Acquire)
    }

    /// From now on the ids are those of one node among others, which all have another number.
    pub fn take_lane(&self, number: u64) {
        self.lane.store(number % LANES + 1, Ordering::Release);
    }

    /// Never runs behind this one from now on.
    pub fn observe(&self, id: ArchiveId) {
        self.last.fetch_max(id.0, Ordering::AcqRel);
    }
}

/// What is known of an archived message without reading it; bits, stored as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(pub u16);

impl Flags {
    /// The owner sent it.
    pub const OUT: Self = Self(1);
    /// It counts as unread for the owner until it is read (inbox).
    pub const COUNTS: Self = Self(1 << 1);
    /// Its body may be searched: there is one, and it is no stand-in for something encrypted.
    pub const SEARCHABLE: Self = Self(1 << 2);
    /// Of type groupchat.
    pub const GROUPCHAT: Self = Self(1 << 3);
    /// Replaced by a tombstone (XEP-0424 #tombstones).
    pub const RETRACTED: Self = Self(1 << 4);
    /// A later message corrects it (XEP-0308): it is found by the correction's text.
    pub const SUPERSEDED: Self = Self(1 << 5);
    /// It was stored to wait as an offline message as well. Rows of versions before this bit do not
    /// say so.
    pub const WAITED: Self = Self(1 << 6);

    /// Both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all bits of `other` are set.
    #[must_use]
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// What an archived message does to its conversation in the inbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum InboxEffect {
    /// Nothing: no entry, no count.
    #[default]
    None,
    /// The owner wrote: the entry's last message, nothing unread.
    Sent,
    /// Somebody wrote: the entry's last message, one more unread.
    Received,
}

/// One message in one archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveRecord {
    /// Its place.
    pub id: ArchiveId,
    /// Given by the sender's home and the same in the recipient's archive; `id` unless somebody
    /// else's message came in between, or it was sent again.
    pub uid: ArchiveId,
    /// The conversation: the bare JID of the other side (the owner's own for a note to himself).
    pub peer: Jid,
    /// What it is.
    pub flags: Flags,
    /// [`id_hash`] of the message's own `id`, 0 without: what markers, corrections and retractions
    /// name.
    pub mid: u64,
    /// By which a message that is sent again is known: see [`crate::user`]. 0: by nothing.
    pub dup: u64,
    /// The stanza as delivered ([`antiphon_xmpp::Stanza::to_bytes`]), without the owner's own
    /// `<stanza-id/>`.
    pub stanza: Arc<[u8]>,
    /// Its conversation.
    pub inbox: InboxEffect,
    /// No session took it: it also waits as an offline message, that came at this time (ms since
    /// 1970). [`crate::store::Store::offline`] gives it with an id of its own and this content.
    pub offline_at_ms: Option<u64>,
}

/// Hash of an `id` attribute; never 0.
#[must_use]
pub fn id_hash(id: &str) -> u64 {
    xxh3_64(id.as_bytes()).max(1)
}

/// A stored message, as a query finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchivedMessage {
    /// Its place.
    pub id: ArchiveId,
    /// What it is.
    pub flags: Flags,
    /// As [`antiphon_xmpp::Stanza::to_bytes`] wrote it.
    pub stanza: Box<[u8]>,
}

/// Which messages of an archive; all conditions hold together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ArchiveFilter {
    /// Only with this address: bare, any of its resources; full, exactly it (XEP-0313 #filter-jid).
    /// The owner's own bare JID: only messages to himself.
    pub with: Option<Jid>,
    /// Only above this id.
    pub after: Option<ArchiveId>,
    /// Only below this id.
    pub before: Option<ArchiveId>,
    /// Only these (XEP-0313 #query-by-ids); ids that are not there are left out. At most
    /// [`crate::store::PAGE_MAX`].
    pub ids: Option<Vec<ArchiveId>>,
    /// Only searchable messages whose body this search text finds, as `antiphon_text::Query` reads
    /// it. The caller has checked that it is a query.
    pub text: Option<String>,
    /// Leave groupchat messages out.
    pub without_groupchat: bool,
}

/// A page of an archive.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ArchivePage {
    /// Oldest first, from whichever end they were taken.
    pub messages: Vec<ArchivedMessage>,
    /// Nothing that fits lies beyond the page in the direction of the query.
    pub is_complete: bool,
    /// What was asked for may change by itself: the index is behind (`stable='false'`).
    pub is_unstable: bool,
}

/// First and last message of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArchiveEnds {
    /// The oldest.
    pub first: ArchiveId,
    /// The newest.
    pub last: ArchiveId,
}

/// What is said of one conversation on one UTC day: a collection of XEP-0136.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collection {
    /// The conversation.
    pub peer: Jid,
    /// Its first message of that day.
    pub first: ArchiveId,
}

/// A message of the same conversation, as another message names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reference {
    /// By the hash of its own `id`: the newest that has it, looked for backwards within the last
    /// [`REFERENCE_REACH`] messages of the conversation.
    Mid(u64),
    /// By its place.
    Id(ArchiveId),
}

/// How many messages of a conversation are looked through for a [`Reference::Mid`].
pub const REFERENCE_REACH: usize = 10_000;

/// What happens to a message that is there already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// A tombstone takes its place (XEP-0424 #tombstones), and it is found no more. `id` is the
    /// retraction's own, `at_ms` its time.
    Retract {
        /// ms since 1970.
        at_ms: u64,
        /// `id` of the retracting message.
        id: Option<Arc<str>>,
    },
    /// A correction came (XEP-0308): it is kept, and found no more.
    Supersede,
}

/// Who archives by default, and the exceptions (XEP-0441).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchivePrefs {
    /// For whom neither list says anything.
    pub default: ArchiveDefault,
    /// Always, sorted: bare for all resources, full for one.
    pub always: Vec<Jid>,
    /// Never, sorted; wins over `always` when both say something equally exact.
    pub never: Vec<Jid>,
}

/// Addresses in both lists of [`ArchivePrefs`] together.
pub const ARCHIVE_PREFS_MAX: usize = 1000;

/// `default` of XEP-0441.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArchiveDefault {
    /// Everything.
    Always,
    /// Nothing.
    Never,
    /// What concerns contacts in the roster.
    Roster,
}

/// One of the newest messages of an archive: by it a message that is sent again is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recent {
    /// Its place.
    pub id: ArchiveId,
    /// As in [`ArchiveRecord::uid`].
    pub uid: ArchiveId,
    /// As in [`ArchiveRecord::dup`].
    pub dup: u64,
    /// Whether the owner sent it.
    pub is_out: bool,
    /// Whether it was stored to wait as an offline message, too ([`Flags::WAITED`]).
    pub has_waited: bool,
}

/// How many [`Recent`] messages an engine reads after an unclean end, at least; where nodes can die
/// alone, more of those of the last minute.
pub const RECENT_MAX: usize = 200;

/// What an entity must know of its archive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ArchiveState {
    /// The newest id in it; 0: none.
    pub newest: ArchiveId,
    /// Its owner's preferences; `None`: the server's default.
    pub prefs: Option<ArchivePrefs>,
    /// The newest messages, oldest first; empty unless the last process that had this archive may
    /// have died with acknowledgements unsent.
    pub recent: Vec<Recent>,
    /// [`id_hash`] of the bare JIDs of conversations that are in the box `archive`, sorted.
    pub filed: Vec<u64>,
}

/// The box of a conversation where nobody said otherwise.
pub const BOX_INBOX: &str = "inbox";
/// Put away; a new message brings it back to [`BOX_INBOX`].
pub const BOX_ARCHIVE: &str = "archive";
/// Deleted; a new message leaves it there.
pub const BOX_BIN: &str = "bin";

/// One conversation of an inbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboxEntry {
    /// The other side's bare JID.
    pub peer: Jid,
    /// Its last message.
    pub last_id: ArchiveId,
    /// Received messages above the last one read.
    pub unread: u32,
    /// Nothing up to here is unread.
    pub read_id: ArchiveId,
    /// The box.
    pub in_box: Box<str>,
    /// Muted until, ms since 1970; 0: not. One that has passed is given as it is.
    pub muted_until_ms: u64,
    /// The last message, as [`antiphon_xmpp::Stanza::to_bytes`] wrote it.
    pub stanza: Box<[u8]>,
}

/// A place in an inbox: entries are ordered by `last_id`, which no two share.
pub type InboxPosition = ArchiveId;

/// Which conversations; all conditions hold together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InboxFilter {
    /// Last message not before, ms since 1970.
    pub start_ms: Option<u64>,
    /// Last message not after.
    pub end_ms: Option<u64>,
    /// Only with something unread.
    pub is_unread_only: bool,
    /// Only in this box; `None`: in any but [`BOX_BIN`]; `all`: in any.
    pub in_box: Option<String>,
}

/// A slice of an inbox.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InboxPage {
    /// In the order asked for.
    pub entries: Vec<InboxEntry>,
    /// Conversations that the filter finds, on any page.
    pub count: u32,
    /// Unread messages in them.
    pub unread: u64,
    /// Those of them with something unread.
    pub active: u32,
    /// Nothing that fits lies beyond the slice in the direction of the query.
    pub is_complete: bool,
}

/// Which slice of what a filter finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InboxSlice {
    /// Oldest first; newest first without.
    pub is_ascending: bool,
    /// Entries that come behind this one in the order asked for.
    pub after: Option<InboxPosition>,
    /// Entries that come before this one in the order asked for.
    pub before: Option<InboxPosition>,
    /// Taken from the end of what is left, not from its beginning (RSM's `<before/>`).
    pub is_from_end: bool,
    /// At most so many; 0: only the counts.
    pub limit: usize,
}

/// A change of one conversation by its owner. What is `None` stays.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InboxChange {
    /// Into this box.
    pub in_box: Option<Box<str>>,
    /// Muted until, ms since 1970; 0: not.
    pub muted_until_ms: Option<u64>,
    /// `true`: nothing unread. `false`: one unread where there was none.
    pub is_read: Option<bool>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jid(text: &str) -> Jid {
        Jid::parse(text).expect("a JID")
    }

    #[test]
    fn an_id_reads_back_only_in_its_own_archive() {
        let ana = jid("ana@acme.example");
        let id = ArchiveId::last_of(1_767_225_600_123);
        let text = id.text(&ana, 7);
        assert_eq!(text.len(), 36);
        assert_eq!(&text[14..15], "7");
        assert_eq!(ArchiveId::parse(&text, &ana, 7), Some(id));
        assert_eq!(ArchiveId::parse(&text.to_uppercase(), &ana, 7), Some(id));
        assert_eq!(ArchiveId::parse(&text, &jid("bo@acme.example"), 7), None);
        assert_eq!(ArchiveId::parse(&text, &ana, 8), None);
        for wrong in [
            "",
            "1",
            &text[1..],
            &text.replace('-', "0"),
            "é".repeat(18).as_str(),
        ] {
            assert_eq!(ArchiveId::parse(wrong, &ana, 7), None, "{wrong}");
        }
    }

    #[test]
    fn ids_sort_as_their_texts_do() {
        let ana = jid("ana@acme.example");
        let ids = [
            ArchiveId(1),
            ArchiveId::first_of(5),
            ArchiveId::last_of(5),
            ArchiveId::MAX,
        ];
        assert!(
            ids.windows(2)
                .all(|p| p[0].text(&ana, 7) < p[1].text(&ana, 7))
        );
    }

    #[test]
    fn the_clock_never_goes_back() {
        let clock = HybridClock::default();
        let first = clock.next(1000);
        assert_eq!(first, ArchiveId::first_of(1000));
        assert!(clock.next(900) > first);
        clock.observe(ArchiveId::last_of(2000));
        assert!(clock.next(1500).ms() == 2001);
    }
}
