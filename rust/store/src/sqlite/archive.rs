//! Writes of archives as statements.
//!
//! A message that both sides archive is stored once, under its uid, as long as both have it in the
//! same form. Who else has it is no count in the file, which each second copy would have to
//! change: it is the other side of the conversation or nobody, so it is asked when a copy goes.

use super::apply::{Change, Failure};
use super::content::{Packer, Sides, unpack};
use super::from_sql;
use super::search::{IndexChange, tokens};
use super::to_sql;
use antiphon_routing::archive::{
    ArchiveDefault, ArchiveId, ArchivePrefs, ArchiveRecord, Flags, REFERENCE_REACH, Reference,
};
use antiphon_routing::store::StoreError;
use antiphon_xmpp::Jid;
use rusqlite::{OptionalExtension, Row};
use std::collections::HashMap;
use std::sync::Arc;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Entries in each map of what the writer remembers; one that is full begins anew.
const REMEMBERED: usize = 16_384;

/// What the writer remembers of archives between writes.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// By owner: no id above it was given.
    newest: HashMap<i64, i64>,
    /// By owner and the hash of the bare JID, which is compared.
    conversations: HashMap<(i64, u64), (Box<str>, i64)>,
    /// Shared contents that were written lately, by key.
    contents: HashMap<i64, Content>,
    /// No key of a content is above this one.
    top: Option<i64>,
    packer: Packer,
    /// What the search index must learn of the open transaction.
    pub(super) changes: Vec<IndexChange>,
    /// Something may wait in `purge`.
    pub(super) has_purges: bool,
}

/// A content as the writer remembers it.
#[derive(Debug, Clone, Copy)]
struct Content {
    /// Of the stanza and both sides.
    hash: u64,
    /// Its document is in the index, or on its way there.
    is_indexed: bool,
}

impl Memory {
    /// What the transaction brought is gone; what is remembered may come from it.
    pub(super) fn rolled_back(&mut self) {
        *self = Self {
            packer: std::mem::take(&mut self.packer),
            has_purges: true,
            ..Self::default()
        };
    }

    /// Conversations of this owner may be gone.
    pub(super) fn forget_conversations(&mut self, owner: i64) {
        self.conversations.retain(|(of, _), _| *of != owner);
    }

    /// The owner is gone.
    pub(super) fn forget_owner(&mut self, owner: i64) {
        self.newest.remove(&owner);
        self.forget_conversations(owner);
    }
}

/// Makes room in a map of what is remembered.
fn bounded<K, V>(map: &mut HashMap<K, V>) -> &mut HashMap<K, V> {
    if map.len() >= REMEMBERED {
        map.clear();
    }
    map
}

/// One message of one archive, without its stanza.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// Its id.
    pub(super) id: i64,
    /// The conversation's number.
    pub(super) conversation: i64,
    /// What it is.
    pub(super) flags: Flags,
    /// Its uid, which may be the id.
    pub(super) uid: i64,
    /// Where its stanza is, if nobody shares it.
    pub(super) content: Option<i64>,
}

/// The columns of [`Place::read`].
pub(super) const PLACE: &str = "a.id, a.conversation, a.flags, a.uid, a.content";

impl Place {
    /// Reads the columns [`PLACE`].
    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let id = row.get(0)?;
        Ok(Self {
            id,
            conversation: row.get(1)?,
            flags: Flags(row.get(2)?),
            uid: row.get::<_, Option<i64>>(3)?.unwrap_or(id),
            content: row.get(4)?,
        })
    }

    /// Where its stanza is.
    pub(super) fn key(&self) -> i64 {
        self.content.unwrap_or(self.uid)
    }

    /// The document of the search index that has its text; another archive with the message under
    /// the same id shares it.
    pub(super) fn document(&self) -> i64 {
        self.content.unwrap_or(self.id)
    }
}

/// Whether a search may find a message with these flags.
pub(crate) fn is_searchable(flags: Flags) -> bool {
    flags.has(Flags::SEARCHABLE) && !flags.has(Flags::RETRACTED) && !flags.has(Flags::SUPERSEDED)
}

/// A hash of an `id` as the column `mid` has it: 47 bits, which SQLite stores in six bytes.
pub(super) fn mid_column(mid: u64) -> Option<i64> {
    // 47 bits fit.
    (mid != 0).then(|| ((mid & ((1 << 47) - 1)) as i64).max(1))
}

impl Change<'_> {
    /// See [`antiphon_routing::store::Write::Archive`].
    pub(super) fn archive(&mut self, jid: &Jid, record: &ArchiveRecord) -> Result<(), Failure> {
        let owner = self.account(jid)?;
        let id = to_sql(record.id.0);
        let uid = match record.uid {
            ArchiveId(0) => id,
            ArchiveId(uid) => to_sql(uid),
        };
        // An id is never below its uid, so above the newest id nothing needs to be looked for.
        let newest = self.newest(owner)?;
        if uid <= newest && self.has_uid(owner, uid)? {
            return Ok(());
        }
        if id <= newest && self.has_id(owner, id)? {
            return Err(Failure::Refused(StoreError::Exists));
        }
        let conversation = self.conversation(owner, record.peer.bare_str())?;
        let is_out = record.flags.has(Flags::OUT);
        let sides = Sides::new(jid.bare_str(), record.peer.bare_str(), is_out);
        let (content, is_indexed) = self.content(uid, &record.stanza, sides)?;
        self.run(
            "INSERT INTO archive (owner, id, conversation, flags, uid, content, dup)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            (
                owner,
                id,
                conversation,
                record.flags.0,
                (uid != id).then_some(uid),
                content,
                (record.dup != 0).then_some(record.dup.cast_signed()),
            ),
        )?;
        self.run(
            "INSERT INTO thread (conversation, id, flags, mid) VALUES (?1, ?2, ?3, ?4)",
            (conversation, id, record.flags.0, mid_column(record.mid)),
        )?;
        bounded(&mut self.state.archive.newest).insert(owner, newest.max(id));
        self.inbox_message(conversation, id, record.inbox)?;
        if let Some(at_ms) = record.offline_at_ms {
            self.offline_reference(owner, at_ms, id)?;
        }
        let place = Place {
            id,
            conversation,
            flags: record.flags,
            uid,
            content,
        };
        if is_searchable(record.flags) && !(is_indexed && place.document() == place.key()) {
            self.index(&place, &record.stanza, sides);
        }
        Ok(())
    }

    fn index(&mut self, place: &Place, stanza: &Arc<[u8]>, sides: Sides<'_>) {
        let memory = &mut self.state.archive;
        memory.changes.push(IndexChange::Add {
            document: place.document(),
            key: place.key(),
            tokens: tokens(sides.sender, sides.receiver),
            stanza: Some(Arc::clone(stanza)),
        });
        if place.content.is_none()
            && place.uid == place.id
            && let Some(content) = memory.contents.get_mut(&place.uid)
        {
            content.is_indexed = true;
        }
    }

    /// No id above it is in this archive, or was.
    pub(super) fn newest(&mut self, owner: i64) -> Result<i64, Failure> {
        if let Some(newest) = self.state.archive.newest.get(&owner) {
            return Ok(*newest);
        }
        let newest: i64 = self
            .statement(
                "SELECT MAX(COALESCE((SELECT MAX(id) FROM archive WHERE owner = ?1), 0),
                            COALESCE((SELECT newest FROM archive_owner WHERE owner = ?1), 0))",
            )?
            .query_row([owner], |row| row.get(0))?;
        bounded(&mut self.state.archive.newest).insert(owner, newest);
        Ok(newest)
    }

    fn has_id(&self, owner: i64, id: i64) -> rusqlite::Result<bool> {
        self.statement("SELECT 1 FROM archive WHERE owner = ?1 AND id = ?2")?
            .exists((owner, id))
    }

    fn has_uid(&self, owner: i64, uid: i64) -> rusqlite::Result<bool> {
        self.statement(
            "SELECT 1 FROM archive WHERE owner = ?1 AND id = ?2 AND uid IS NULL
             UNION ALL
             SELECT 1 FROM archive WHERE owner = ?1 AND uid = ?2 AND uid IS NOT NULL",
        )?
        .exists((owner, uid))
    }

    /// The number of a conversation; `None`: there is none.
    pub(super) fn find_conversation(
        &mut self,
        owner: i64,
        peer: &str,
    ) -> rusqlite::Result<Option<i64>> {
        let place = (owner, xxh3_64(peer.as_bytes()));
        if let Some((jid, number)) = self.state.archive.conversations.get(&place)
            && **jid == *peer
        {
            return Ok(Some(*number));
        }
        let number: Option<i64> = self
            .statement("SELECT id FROM conversation WHERE owner = ?1 AND jid = ?2")?
            .query_row((owner, peer), |row| row.get(0))
            .optional()?;
        if let Some(number) = number {
            bounded(&mut self.state.archive.conversations).insert(place, (peer.into(), number));
        }
        Ok(number)
    }

    /// The number of a conversation, which is made if it is not there.
    fn conversation(&mut self, owner: i64, peer: &str) -> Result<i64, Failure> {
        if let Some(number) = self.find_conversation(owner, peer)? {
            return Ok(number);
        }
        self.run(
            "INSERT INTO conversation (owner, jid) VALUES (?1, ?2)",
            (owner, peer),
        )?;
        let number = self.db.last_insert_rowid();
        let place = (owner, xxh3_64(peer.as_bytes()));
        bounded(&mut self.state.archive.conversations).insert(place, (peer.into(), number));
        Ok(number)
    }

    /// Stores a stanza under its uid, or shares the one that is there. Where that is another one
    /// it gets a key of its own, which is returned; and whether the shared one is indexed.
    fn content(
        &mut self,
        uid: i64,
        stanza: &[u8],
        sides: Sides<'_>,
    ) -> Result<(Option<i64>, bool), Failure> {
        let seed = xxh3_64_with_seed(sides.receiver.as_bytes(), xxh3_64(sides.sender.as_bytes()));
        let hash = xxh3_64_with_seed(stanza, seed);
        let is_same = match self.state.archive.contents.get(&uid) {
            Some(known) if known.hash == hash => return Ok((None, known.is_indexed)),
            Some(_) => Some(false),
            None => self.stored_is(uid, stanza, sides)?,
        };
        if is_same == Some(false) {
            let key = -self.next_id()?;
            self.put_content(key, stanza, sides)?;
            return Ok((Some(key), false));
        }
        if is_same.is_none() {
            self.put_content(uid, stanza, sides)?;
        }
        let content = Content {
            hash,
            is_indexed: false,
        };
        bounded(&mut self.state.archive.contents).insert(uid, content);
        Ok((None, false))
    }

    /// Whether what lies under a key is this stanza; `None`: nothing.
    fn stored_is(
        &mut self,
        key: i64,
        stanza: &[u8],
        sides: Sides<'_>,
    ) -> Result<Option<bool>, Failure> {
        let top = match self.state.archive.top {
            Some(top) => top,
            None => {
                let top: Option<i64> = self
                    .statement("SELECT MAX(key) FROM message")?
                    .query_row([], |row| row.get(0))?;
                *self.state.archive.top.insert(top.unwrap_or(0))
            }
        };
        if key > top {
            return Ok(None);
        }
        let stored: Option<Vec<u8>> = self
            .statement("SELECT stanza FROM message WHERE key = ?1")?
            .query_row([key], |row| row.get(0))
            .optional()?;
        Ok(stored.map(|stored| unpack(&stored, sides).is_ok_and(|there| *there == *stanza)))
    }

    pub(super) fn put_content(
        &mut self,
        key: i64,
        stanza: &[u8],
        sides: Sides<'_>,
    ) -> Result<(), Failure> {
        let stored = self.state.archive.packer.pack(stanza, sides);
        self.run(
            "INSERT INTO message (key, stanza) VALUES (?1, ?2)",
            (key, stored),
        )?;
        if let Some(top) = &mut self.state.archive.top {
            *top = key.max(*top);
        }
        Ok(())
    }

    /// The stanza under a key; empty if it is not there.
    pub(super) fn stanza(&self, key: i64, sides: Sides<'_>) -> Result<Box<[u8]>, Failure> {
        let stored: Option<Vec<u8>> = self
            .statement("SELECT stanza FROM message WHERE key = ?1")?
            .query_row([key], |row| row.get(0))
            .optional()?;
        let Some(stored) = stored else {
            return Ok(Box::default());
        };
        unpack(&stored, sides)
            .map_err(|error| Failure::Broken(StoreError::Engine(error.to_string())))
    }

    /// The id of the message that a reference names; only one sent or received, if that is asked.
    pub(super) fn referred(
        &self,
        owner: i64,
        conversation: i64,
        target: Reference,
        is_out: Option<bool>,
    ) -> Result<Option<i64>, Failure> {
        let above = self.purged(owner, conversation)?;
        let is_out = is_out.map(i64::from);
        let found = match target {
            Reference::Id(id) => self
                .statement(
                    "SELECT id FROM thread WHERE conversation = ?1 AND id = ?2 AND id >= ?3
                     AND (?4 IS NULL OR flags & 1 = ?4)",
                )?
                .query_row((conversation, to_sql(id.0), above, is_out), |row| {
                    row.get(0)
                })
                .optional()?,
            Reference::Mid(mid) => self
                .statement(
                    "SELECT id FROM (SELECT id, flags, mid FROM thread
                                     WHERE conversation = ?1 AND id >= ?3
                                     ORDER BY id DESC LIMIT ?5)
                     WHERE mid = ?2 AND (?4 IS NULL OR flags & 1 = ?4) LIMIT 1",
                )?
                .query_row(
                    (
                        conversation,
                        mid_column(mid),
                        above,
                        is_out,
                        REFERENCE_REACH as i64,
                    ),
                    |row| row.get(0),
                )
                .optional()?,
        };
        Ok(found)
    }

    /// Everything of this conversation below this id is deleted, though it may still lie there.
    pub(super) fn purged(&self, owner: i64, conversation: i64) -> rusqlite::Result<i64> {
        self.statement(
            "SELECT COALESCE(MAX(before), 0) FROM purge
             WHERE owner = ?1 AND conversation IN (0, ?2)",
        )?
        .query_row((owner, conversation), |row| row.get(0))
    }

    /// A message leaves an archive, or changes its content: takes what no other archive needs from
    /// the contents and from the index.
    pub(super) fn release(&mut self, owner: i64, place: &Place, peer: &str) -> Result<(), Failure> {
        self.unindex(owner, place, peer)?;
        let is_shared = match self.partner(owner, place, peer)? {
            Some(partner) => self.has_shared(partner, place.key())?,
            None => false,
        };
        if !is_shared {
            self.run("DELETE FROM message WHERE key = ?1", [place.key()])?;
            self.state.archive.contents.remove(&place.key());
        }
        Ok(())
    }

    /// A message is to be found no more in this archive.
    pub(super) fn unindex(&mut self, owner: i64, place: &Place, peer: &str) -> Result<(), Failure> {
        if !is_searchable(place.flags) {
            return Ok(());
        }
        if place.document() == place.key()
            && let Some(partner) = self.partner(owner, place, peer)?
        {
            let flags: Option<u16> = self
                .statement(
                    "SELECT flags FROM archive
                         WHERE owner = ?1 AND id = ?2 AND uid IS NULL AND content IS NULL",
                )?
                .query_row((partner, place.id), |row| row.get(0))
                .optional()?;
            if flags.is_some_and(|flags| is_searchable(Flags(flags))) {
                return Ok(());
            }
        }
        let memory = &mut self.state.archive;
        if let Some(content) = memory.contents.get_mut(&place.key()) {
            content.is_indexed = false;
        }
        memory.changes.push(IndexChange::Remove {
            document: place.document(),
        });
        Ok(())
    }

    /// The only other archive that may share a message's content.
    fn partner(&mut self, owner: i64, place: &Place, peer: &str) -> rusqlite::Result<Option<i64>> {
        if place.content.is_some() {
            return Ok(None);
        }
        let Ok(peer) = Jid::parse(peer) else {
            return Ok(None);
        };
        Ok(self.find(&peer)?.filter(|partner| *partner != owner))
    }

    fn has_shared(&self, owner: i64, key: i64) -> rusqlite::Result<bool> {
        self.statement(
            "SELECT 1 FROM archive
             WHERE owner = ?1 AND id = ?2 AND uid IS NULL AND content IS NULL
             UNION ALL
             SELECT 1 FROM archive
             WHERE owner = ?1 AND uid = ?2 AND uid IS NOT NULL AND content IS NULL",
        )?
        .exists((owner, key))
    }

    /// See [`antiphon_routing::store::Write::ArchivePrefs`].
    pub(super) fn archive_prefs(&mut self, jid: &Jid, prefs: &ArchivePrefs) -> Result<(), Failure> {
        let owner = self.account(jid)?;
        self.run(
            "INSERT INTO archive_owner (owner, prefs) VALUES (?1, ?2)
             ON CONFLICT DO UPDATE SET prefs = excluded.prefs",
            (owner, prefs_column(prefs)),
        )
    }

    /// See [`antiphon_routing::store::Write::ArchivePurge`]. From here on nobody sees them; they
    /// go later, in slices.
    pub(super) fn archive_purge(
        &mut self,
        jid: &Jid,
        peer: Option<&Jid>,
        before: ArchiveId,
    ) -> Result<(), Failure> {
        let owner = self.account(jid)?;
        let conversation = match peer {
            None => 0,
            Some(peer) => match self.find_conversation(owner, peer.bare_str())? {
                Some(conversation) => conversation,
                None => return Ok(()),
            },
        };
        self.mark_purge(owner, conversation, to_sql(before.0))
    }

    /// Marks what is below an id (and there now) as deleted.
    pub(super) fn mark_purge(
        &mut self,
        owner: i64,
        conversation: i64,
        before: i64,
    ) -> Result<(), Failure> {
        let newest = self.newest(owner)?;
        self.run(
            "INSERT INTO archive_owner (owner, newest) VALUES (?1, ?2)
             ON CONFLICT DO UPDATE SET newest = MAX(newest, excluded.newest)",
            (owner, newest),
        )?;
        self.run(
            "INSERT INTO purge (owner, conversation, before) VALUES (?1, ?2, ?3)
             ON CONFLICT DO UPDATE SET before = MAX(before, excluded.before)",
            (owner, conversation, before.min(newest.saturating_add(1))),
        )?;
        self.state.archive.has_purges = true;
        Ok(())
    }

    /// The archive of an account that is being deleted.
    pub(super) fn archive_delete(&mut self, owner: i64) -> Result<(), Failure> {
        self.run(
            "INSERT INTO purge (owner, conversation, before)
             SELECT ?1, 0, ?2 WHERE EXISTS (SELECT 1 FROM conversation WHERE owner = ?1)
             ON CONFLICT DO UPDATE SET before = excluded.before",
            (owner, i64::MAX),
        )?;
        self.state.archive.forget_owner(owner);
        self.state.archive.has_purges = true;
        Ok(())
    }
}

pub(crate) fn prefs_column(prefs: &ArchivePrefs) -> String {
    let texts =
        |jids: &[Jid]| -> Vec<String> { jids.iter().map(|jid| jid.as_str().to_owned()).collect() };
    serde_json::json!({
        "default": default_name(prefs.default),
        "always": texts(&prefs.always),
        "never": texts(&prefs.never),
    })
    .to_string()
}

/// Reads what `prefs_column` wrote.
///
/// # Errors
/// A sentence for the log.
pub(crate) fn prefs_value(text: &str) -> Result<ArchivePrefs, String> {
    let value: serde_json::Value = serde_json::from_str(text).map_err(|e| e.to_string())?;
    let jids = |name: &str| -> Result<Vec<Jid>, String> {
        let texts = value[name].as_array().ok_or("a list is missing")?;
        let parse = |text: &serde_json::Value| {
            let text = text.as_str().ok_or("an address is no text")?;
            Jid::parse(text).map_err(|e| format!("{text}: {e}"))
        };
        texts.iter().map(parse).collect()
    };
    let default = [
        ArchiveDefault::Always,
        ArchiveDefault::Never,
        ArchiveDefault::Roster,
    ]
    .into_iter()
    .find(|default| value["default"] == default_name(*default))
    .ok_or("the default is unknown")?;
    Ok(ArchivePrefs {
        default,
        always: jids("always")?,
        never: jids("never")?,
    })
}

fn default_name(default: ArchiveDefault) -> &'static str {
    match default {
        ArchiveDefault::Always => "always",
        ArchiveDefault::Never => "never",
        ArchiveDefault::Roster => "roster",
    }
}

/// An id out of its column.
pub(super) fn archive_id(column: i64) -> ArchiveId {
    ArchiveId(from_sql(column))
}
