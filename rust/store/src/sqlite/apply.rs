//! One write as statements.
//!
//! A write decides whether it refuses before it changes anything, so a refusal leaves nothing to
//! undo and its group goes on. Any error of SQLite undoes the whole group, which the writer then
//! tries one by one; savepoints would cost every write for the sake of the rare failing one.

use super::archive::Memory;
use super::error::to_store_error;
use super::{kind_number, localpart, to_sql};
use antiphon_routing::archive::ArchiveId;
use antiphon_routing::store::{
    MAP_KEY_BYTES, MAP_KEYS_PER_ACCOUNT, MAP_KEYS_PER_DOMAIN, MAP_VALUE_BYTES, Request, RosterItem,
    StoreError, Subscription, Write,
};
use antiphon_xmpp::Jid;
use antiphon_xmpp::sasl::{Credentials, ScramHash};
use rusqlite::{CachedStatement, Connection, OptionalExtension, Params};
use std::collections::HashMap;

/// Owners whose number is remembered. Looking one up costs about as much as the insert it is for.
const OWNERS: usize = 8192;

/// Offline ids reserved by one change of the counter. What is left of a block when the process
/// ends is lost, which costs nothing: there are 2^63.
const ID_BLOCK: i64 = 65_536;

/// Why a write was not done.
pub(super) enum Failure {
    /// By its meaning; nothing was changed.
    Refused(StoreError),
    /// By the engine; the transaction must be rolled back.
    Broken(StoreError),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Broken(to_store_error(&error))
    }
}

/// What the writer remembers between writes.
#[derive(Debug, Default)]
pub(super) struct State {
    owners: HashMap<Box<str>, i64>,
    next_id: i64,
    /// The first id that is not reserved.
    end_id: i64,
    /// Of archives.
    pub(super) archive: Memory,
}

impl State {
    /// What the transaction brought is gone: what was learned from it may be wrong.
    pub(super) fn rolled_back(&mut self) {
        self.owners.clear();
        self.end_id = self.next_id;
        self.archive.rolled_back();
    }
}

/// Applies a write inside the open transaction.
///
/// # Errors
/// See [`Failure`].
pub(super) fn apply(
    db: &Connection,
    state: &mut State,
    clock: &dyn Fn() -> u64,
    write: &Write,
) -> Result<(), Failure> {
    let mut change = Change { db, state };
    match write {
        Write::AccountCreate { jid, credentials } => match change.find(jid)? {
            Some(_) => Err(Failure::Refused(StoreError::Exists)),
            None => change.account_insert(jid, credentials, clock()),
        },
        Write::AccountUpdate { jid, credentials } => {
            let owner = change.account(jid)?;
            change.account_update(owner, credentials)
        }
        Write::AccountPut { jid, credentials } => match change.find(jid)? {
            Some(owner) => change.account_update(owner, credentials),
            None => change.account_insert(jid, credentials, clock()),
        },
        Write::AccountDelete { jid } => change.account_delete(jid),
        Write::RosterPut {
            owner,
            version,
            item,
        } => change.roster_put(owner, *version, item),
        Write::RosterRemove {
            owner,
            version,
            jid,
        } => change.roster_remove(owner, *version, jid),
        Write::RequestPut { owner, request } => change.request_put(owner, request),
        Write::RequestDelete { owner, from } => change.request_delete(owner, from),
        Write::OfflineAppend {
            owner,
            at_ms,
            stanza,
        } => change.offline_append(owner, *at_ms, stanza),
        Write::OfflineDelete { owner, ids } => change.offline_delete(owner, ids),
        Write::BlockAdd { owner, jids } => change.block(owner, jids, true),
        Write::BlockRemove { owner, jids } => change.block(owner, jids, false),
        Write::LastSeen {
            owner,
            at_ms,
            status,
        } => change.last_seen(owner, *at_ms, status),
        Write::MapPut {
            owner,
            kind,
            key,
            value,
        } => change.map_put(owner, (kind_number(*kind), key), value, clock),
        _ => change.archive_write(write),
    }
}

/// The open transaction and what is remembered between writes.
pub(super) struct Change<'a> {
    pub(super) db: &'a Connection,
    pub(super) state: &'a mut State,
}

impl<'a> Change<'a> {
    /// Writes of archives and inboxes; the others are `apply`'s.
    fn archive_write(&mut self, write: &Write) -> Result<(), Failure> {
        match write {
            Write::Archive { owner, record } => self.archive(owner, record),
            Write::ArchiveEdit {
                owner,
                peer,
                is_out,
                target,
                edit,
            } => self.archive_edit(owner, (peer, *is_out), *target, edit),
            Write::ArchivePurge {
                owner,
                peer,
                before,
            } => self.archive_purge(owner, peer.as_ref(), *before),
            Write::ArchivePrefs { owner, prefs } => self.archive_prefs(owner, prefs),
            Write::OfflineSeen { owner, from, upto } => self.offline_seen(owner, *from, *upto),
            Write::InboxRead { owner, peer, upto } => self.inbox_read(owner, peer, *upto),
            Write::InboxSet {
                owner,
                peer,
                change,
            } => self.inbox_set(owner, peer, change),
            Write::InboxEmptyBin { owner, before_ms } => self.inbox_empty_bin(owner, *before_ms),
            _ => Ok(()),
        }
    }

    pub(super) fn statement(&self, sql: &str) -> rusqlite::Result<CachedStatement<'a>> {
        self.db.prepare_cached(sql)
    }

    pub(super) fn run(&self, sql: &str, parameters: impl Params) -> Result<(), Failure> {
        self.statement(sql)?.execute(parameters)?;
        Ok(())
    }

    /// The number of an account or of a domain that owns something.
    pub(super) fn find(&mut self, jid: &Jid) -> rusqlite::Result<Option<i64>> {
        if let Some(owner) = self.state.owners.get(jid.bare_str()) {
            return Ok(Some(*owner));
        }
        let owner: Option<i64> = self
            .statement("SELECT id FROM owner WHERE domain = ?1 AND localpart = ?2")?
            .query_row((jid.domain(), localpart(jid)), |row| row.get(0))
            .optional()?;
        if let Some(owner) = owner {
            self.remember(jid, owner);
        }
        Ok(owner)
    }

    fn remember(&mut self, jid: &Jid, owner: i64) {
        if self.state.owners.len() >= OWNERS {
            self.state.owners.clear();
        }
        self.state.owners.insert(jid.bare_str().into(), owner);
    }

    /// The number of an account.
    pub(super) fn account(&mut self, jid: &Jid) -> Result<i64, Failure> {
        if jid.local().is_none() {
            return Err(Failure::Refused(StoreError::NoAccount));
        }
        self.find(jid)?
            .ok_or(Failure::Refused(StoreError::NoAccount))
    }

    fn insert_owner(&mut self, jid: &Jid, is_enabled: bool, now_ms: u64) -> Result<i64, Failure> {
        self.run(
            "INSERT INTO owner (domain, localpart, is_enabled, created_ms) VALUES (?1, ?2, ?3, ?4)",
            (jid.domain(), localpart(jid), is_enabled, to_sql(now_ms)),
        )?;
        let owner = self.db.last_insert_rowid();
        self.remember(jid, owner);
        Ok(owner)
    }

    fn account_insert(
        &mut self,
        jid: &Jid,
        credentials: &Credentials,
        now_ms: u64,
    ) -> Result<(), Failure> {
        // A domain is no account: its row would be listed nowhere.
        if jid.local().is_none() {
            return Err(Failure::Refused(StoreError::NoAccount));
        }
        let owner = self.insert_owner(jid, credentials.is_enabled, now_ms)?;
        self.keys_insert(owner, credentials)
    }

    fn account_update(&self, owner: i64, credentials: &Credentials) -> Result<(), Failure> {
        self.run(
            "UPDATE owner SET is_enabled = ?2 WHERE id = ?1",
            (owner, credentials.is_enabled),
        )?;
        self.run("DELETE FROM scram_key WHERE owner = ?1", [owner])?;
        self.keys_insert(owner, credentials)
    }

    fn keys_insert(&self, owner: i64, credentials: &Credentials) -> Result<(), Failure> {
        for keys in &credentials.keys {
            // At most one set a hash: of two, the later one counts.
            self.run(
                "INSERT OR REPLACE INTO scram_key
                 (owner, hash, iterations, salt, stored_key, server_key)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                (
                    owner,
                    hash_name(keys.hash),
                    keys.iterations,
                    &keys.salt[..],
                    &keys.stored_key[..],
                    &keys.server_key[..],
                ),
            )?;
        }
        Ok(())
    }

    /// All that names the owner goes by the cascades of its tables.
    fn account_delete(&mut self, jid: &Jid) -> Result<(), Failure> {
        let owner = self.account(jid)?;
        self.state.owners.remove(jid.bare_str());
        self.archive_delete(owner)?;
        self.run("DELETE FROM owner WHERE id = ?1", [owner])
    }

    fn roster_put(&mut self, owner: &Jid, version: u64, item: &RosterItem) -> Result<(), Failure> {
        let owner = self.account(owner)?;
        // A list of texts has a JSON form whatever they hold.
        let groups = serde_json::to_string(&item.groups)
            .map_err(|error| Failure::Broken(StoreError::Engine(error.to_string())))?;
        self.run(
            "INSERT INTO roster (owner, jid, name, group_names, state) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT DO UPDATE SET
             name = excluded.name, group_names = excluded.group_names, state = excluded.state",
            (
                owner,
                item.jid.as_str(),
                &*item.name,
                groups,
                state_bits(item.subscription),
            ),
        )?;
        self.roster_version(owner, version)
    }

    fn roster_remove(&mut self, owner: &Jid, version: u64, jid: &Jid) -> Result<(), Failure> {
        let owner = self.account(owner)?;
        self.run(
            "DELETE FROM roster WHERE owner = ?1 AND jid = ?2",
            (owner, jid.as_str()),
        )?;
        self.roster_version(owner, version)
    }

    fn roster_version(&self, owner: i64, version: u64) -> Result<(), Failure> {
        self.run(
            "UPDATE owner SET roster_version = ?2 WHERE id = ?1",
            (owner, to_sql(version)),
        )
    }

    fn request_put(&mut self, owner: &Jid, request: &Request) -> Result<(), Failure> {
        let owner = self.account(owner)?;
        self.run(
            "INSERT INTO request (owner, jid, stanza) VALUES (?1, ?2, ?3)
             ON CONFLICT DO UPDATE SET stanza = excluded.stanza",
            (owner, request.from.as_str(), &request.stanza[..]),
        )
    }

    fn request_delete(&mut self, owner: &Jid, from: &Jid) -> Result<(), Failure> {
        let owner = self.account(owner)?;
        self.run(
            "DELETE FROM request WHERE owner = ?1 AND jid = ?2",
            (owner, from.as_str()),
        )
    }

    fn last_seen(&mut self, owner: &Jid, at_ms: u64, status: &str) -> Result<(), Failure> {
        let owner = self.account(owner)?;
        self.run(
            "UPDATE owner SET last_seen_ms = ?2, last_status = ?3 WHERE id = ?1",
            (owner, to_sql(at_ms), status),
        )
    }

    fn offline_append(&mut self, owner: &Jid, at_ms: u64, stanza: &[u8]) -> Result<(), Failure> {
        let owner = self.account(owner)?;
        let id = self.next_id()?;
        self.run(
            "INSERT INTO offline (id, owner, at_ms, stanza) VALUES (?1, ?2, ?3, ?4)",
            (id, owner, to_sql(at_ms), stanza),
        )
    }

    /// An offline message that the archive has.
    pub(super) fn offline_reference(
        &mut self,
        owner: i64,
        at_ms: u64,
        archived: i64,
    ) -> Result<(), Failure> {
        let id = self.next_id()?;
        self.run(
            "INSERT INTO offline (id, owner, at_ms, stanza, archived) VALUES (?1, ?2, ?3, x'', ?4)",
            (id, owner, to_sql(at_ms), archived),
        )
    }

    fn offline_seen(
        &mut self,
        owner: &Jid,
        from: ArchiveId,
        upto: ArchiveId,
    ) -> Result<(), Failure> {
        let owner = self.account(owner)?;
        self.run(
            "DELETE FROM offline WHERE owner = ?1 AND archived BETWEEN ?2 AND ?3",
            (owner, to_sql(from.0), to_sql(upto.0)),
        )
    }

    /// The next id; grows over all owners. A block is reserved in the transaction that uses its
    /// first id, so after a crash no id of it can come again.
    pub(super) fn next_id(&mut self) -> Result<i64, Failure> {
        if self.state.next_id == self.state.end_id {
            let stored: i64 = self
                .statement("SELECT next FROM counter WHERE name = 'offline'")?
                .query_row([], |row| row.get(0))?;
            // Above `stored` after a rollback took back the reservation.
            let start = stored.max(self.state.next_id);
            let end = start + ID_BLOCK;
            self.run("UPDATE counter SET next = ?1 WHERE name = 'offline'", [end])?;
            self.state.next_id = start;
            self.state.end_id = end;
        }
        let id = self.state.next_id;
        self.state.next_id += 1;
        Ok(id)
    }

    fn offline_delete(&mut self, owner: &Jid, ids: &[u64]) -> Result<(), Failure> {
        let owner = self.account(owner)?;
        let mut delete = self.statement("DELETE FROM offline WHERE id = ?1 AND owner = ?2")?;
        // A number that does not fit was never an id.
        for id in ids.iter().filter_map(|id| i64::try_from(*id).ok()) {
            delete.execute((id, owner))?;
        }
        Ok(())
    }

    fn block(&mut self, owner: &Jid, jids: &[Jid], is_blocked: bool) -> Result<(), Failure> {
        let owner = self.account(owner)?;
        if !is_blocked && jids.is_empty() {
            return self.run("DELETE FROM blocked WHERE owner = ?1", [owner]);
        }
        let mut change = self.statement(if is_blocked {
            "INSERT OR IGNORE INTO blocked (owner, jid) VALUES (?1, ?2)"
        } else {
            "DELETE FROM blocked WHERE owner = ?1 AND jid = ?2"
        })?;
        for jid in jids {
            change.execute((owner, jid.as_str()))?;
        }
        Ok(())
    }

    fn map_put(
        &mut self,
        jid: &Jid,
        (kind, key): (i64, &str),
        value: &[u8],
        clock: &dyn Fn() -> u64,
    ) -> Result<(), Failure> {
        let owner = if jid.local().is_some() {
            Some(self.account(jid)?)
        } else {
            self.find(jid)?
        };
        if value.is_empty() {
            // A domain without a row has nothing to remove.
            let Some(owner) = owner else { return Ok(()) };
            return self.run(
                "DELETE FROM map WHERE owner = ?1 AND kind = ?2 AND key = ?3",
                (owner, kind, key),
            );
        }
        if key.len() > MAP_KEY_BYTES {
            return Err(Failure::Refused(StoreError::Full(
                "a key of the map is too long",
            )));
        }
        if value.len() > MAP_VALUE_BYTES {
            return Err(Failure::Refused(StoreError::Full(
                "a value of the map is too large",
            )));
        }
        let owner = match owner {
            Some(owner) => owner,
            None => self.insert_owner(jid, false, clock())?,
        };
        let replaced = self
            .statement("UPDATE map SET value = ?4 WHERE owner = ?1 AND kind = ?2 AND key = ?3")?
            .execute((owner, kind, key, value))?;
        if replaced > 0 {
            return Ok(());
        }
        let max = if jid.local().is_some() {
            MAP_KEYS_PER_ACCOUNT
        } else {
            MAP_KEYS_PER_DOMAIN
        };
        let keys: i64 = self
            .statement("SELECT COUNT(*) FROM map WHERE owner = ?1 AND kind = ?2")?
            .query_row((owner, kind), |row| row.get(0))?;
        if keys >= max as i64 {
            return Err(Failure::Refused(StoreError::Full(
                "too many keys in the map",
            )));
        }
        self.run(
            "INSERT INTO map (owner, kind, key, value) VALUES (?1, ?2, ?3, ?4)",
            (owner, kind, key, value),
        )
    }
}

/// How the column names a hash.
pub(super) fn hash_name(hash: ScramHash) -> &'static str {
    match hash {
        ScramHash::Sha1 => "SHA-1",
        ScramHash::Sha256 => "SHA-256",
        ScramHash::Sha512 => "SHA-512",
    }
}

/// How the column writes a subscription.
fn state_bits(subscription: Subscription) -> i64 {
    i64::from(subscription.to)
        | i64::from(subscription.from) << 1
        | i64::from(subscription.pending_out) << 2
        | i64::from(subscription.approved) << 3
}

/// What [`state_bits`] wrote.
pub(super) fn subscription(bits: i64) -> Subscription {
    Subscription {
        to: bits & 1 != 0,
        from: bits & 2 != 0,
        pending_out: bits & 4 != 0,
        approved: bits & 8 != 0,
    }
}
