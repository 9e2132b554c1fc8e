//! Reads of inboxes as statements. A person's conversations are hundreds, seldom thousands: they
//! are sorted here, since an index by their last message would change with every message.

use super::archive::archive_id;
use super::content::{Sides, unpack};
use super::query::{bad_column, list};
use super::{from_sql, localpart};
use antiphon_routing::archive::{
    BOX_BIN, BOX_INBOX, Flags, InboxEntry, InboxFilter, InboxPage, InboxSlice,
};
use antiphon_xmpp::Jid;
use rusqlite::{Connection, OptionalExtension, Row};

/// The box name that stands for every box.
const ALL: &str = "all";

/// A row of `conversation` that is in the inbox.
struct Entry {
    jid: String,
    conversation: i64,
    last_id: i64,
    unread: u32,
    read_id: i64,
    in_box: Option<Box<str>>,
    muted_until_ms: i64,
}

const COLUMNS: &str = "id, jid, last_id, unread, read_id, box, muted_until_ms";

impl Entry {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            conversation: row.get(0)?,
            jid: row.get(1)?,
            last_id: row.get(2)?,
            unread: row.get(3)?,
            read_id: row.get(4)?,
            in_box: row.get::<_, Option<String>>(5)?.map(Into::into),
            muted_until_ms: row.get(6)?,
        })
    }

    fn in_box(&self) -> &str {
        self.in_box.as_deref().unwrap_or(BOX_INBOX)
    }

    fn fits(&self, filter: &InboxFilter) -> bool {
        let last_ms = archive_id(self.last_id).ms();
        filter.start_ms.is_none_or(|start| last_ms >= start)
            && filter.end_ms.is_none_or(|end| last_ms <= end)
            && !(filter.is_unread_only && self.unread == 0)
            && match filter.in_box.as_deref() {
                None => self.in_box() != BOX_BIN,
                Some(ALL) => true,
                Some(name) => self.in_box() == name,
            }
    }
}

/// See [`antiphon_routing::store::Store::inbox_page`].
pub(super) fn page(
    db: &Connection,
    jid: &Jid,
    filter: &InboxFilter,
    slice: InboxSlice,
    limit: usize,
) -> rusqlite::Result<InboxPage> {
    let db = db.unchecked_transaction()?;
    let Some(owner) = owner(&db, jid)? else {
        return Ok(InboxPage {
            is_complete: true,
            ..InboxPage::default()
        });
    };
    let mut entries = list(
        &db,
        &format!("SELECT {COLUMNS} FROM conversation WHERE owner = ?1 AND last_id IS NOT NULL"),
        [owner],
        Entry::read,
    )?;
    entries.retain(|entry| entry.fits(filter));
    let mut page = InboxPage {
        // Conversations of one owner stay far below.
        count: entries.len() as u32,
        unread: entries.iter().map(|entry| u64::from(entry.unread)).sum(),
        active: entries.iter().filter(|entry| entry.unread > 0).count() as u32,
        ..InboxPage::default()
    };
    entries.sort_unstable_by_key(|entry| entry.last_id);
    if !slice.is_ascending {
        entries.reverse();
    }
    let precedes = |a: u64, b: u64| if slice.is_ascending { a < b } else { a > b };
    entries.retain(|entry| {
        let at = from_sql(entry.last_id);
        slice.after.is_none_or(|after| precedes(after.0, at))
            && slice.before.is_none_or(|before| precedes(at, before.0))
    });
    page.is_complete = entries.len() <= limit;
    let skipped = if slice.is_from_end {
        entries.len().saturating_sub(limit)
    } else {
        0
    };
    for entry in entries.into_iter().skip(skipped).take(limit) {
        page.entries.push(complete(&db, jid, owner, entry)?);
    }
    Ok(page)
}

/// See [`antiphon_routing::store::Store::inbox_entry`].
pub(super) fn entry(
    db: &Connection,
    jid: &Jid,
    peer: &Jid,
) -> rusqlite::Result<Option<InboxEntry>> {
    let db = db.unchecked_transaction()?;
    let Some(owner) = owner(&db, jid)? else {
        return Ok(None);
    };
    let entry = db
        .prepare_cached(&format!(
            "SELECT {COLUMNS} FROM conversation
             WHERE owner = ?1 AND jid = ?2 AND last_id IS NOT NULL"
        ))?
        .query_row((owner, peer.bare_str()), Entry::read)
        .optional()?;
    entry
        .map(|entry| complete(&db, jid, owner, entry))
        .transpose()
}

fn owner(db: &Connection, jid: &Jid) -> rusqlite::Result<Option<i64>> {
    db.prepare_cached("SELECT id FROM owner WHERE domain = ?1 AND localpart = ?2")?
        .query_row((jid.domain(), localpart(jid)), |row| row.get(0))
        .optional()
}

/// The entry with its last message.
fn complete(db: &Connection, jid: &Jid, owner: i64, entry: Entry) -> rusqlite::Result<InboxEntry> {
    let stanza: Option<Box<[u8]>> = db
        .prepare_cached(
            "SELECT a.flags, m.stanza FROM archive AS a
             JOIN message AS m ON m.key = COALESCE(a.content, a.uid, a.id)
             WHERE a.owner = ?1 AND a.id = ?2",
        )?
        .query_row((owner, entry.last_id), |row| {
            let is_out = Flags(row.get(0)?).has(Flags::OUT);
            let sides = Sides::new(jid.bare_str(), &entry.jid, is_out);
            unpack(row.get_ref(1)?.as_blob()?, sides).map_err(|error| bad_column(1, error))
        })
        .optional()?;
    let stanza = match stanza {
        Some(stanza) => stanza,
        None => db
            .prepare_cached("SELECT stanza FROM conversation WHERE id = ?1")?
            .query_row([entry.conversation], |row| row.get::<_, Option<Vec<u8>>>(0))?
            .unwrap_or_default()
            .into(),
    };
    Ok(InboxEntry {
        peer: Jid::parse(&entry.jid).map_err(|error| bad_column(1, error))?,
        last_id: archive_id(entry.last_id),
        unread: entry.unread,
        read_id: archive_id(entry.read_id),
        in_box: entry.in_box().into(),
        muted_until_ms: from_sql(entry.muted_until_ms),
        stanza,
    })
}
