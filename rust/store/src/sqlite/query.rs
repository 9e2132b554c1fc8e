//! Reads as statements. Each sees one state of the file, also where it needs several statements.

use super::apply::{hash_name, subscription};
use super::archive_query;
use super::content::{Sides, unpack};
use super::{from_sql, kind_number, localpart, to_sql};
use antiphon_routing::archive::{ArchiveId, Flags};
use antiphon_routing::store::{
    AccountSummary, MapKind, OfflineRecord, PAGE_MAX, Request, RosterItem, UserRecord,
};
use antiphon_xmpp::Jid;
use antiphon_xmpp::sasl::{Credentials, ScramHash, ScramKeys};
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Params, Row};

/// See [`antiphon_routing::store::Store::user`].
/// `unclean`: see [`super::archive_query::state`].
pub(super) fn user(
    db: &Connection,
    jid: &Jid,
    unclean: Option<i64>,
) -> rusqlite::Result<Option<UserRecord>> {
    // Most accounts have no lists, and then one statement has seen all of one state.
    match head(db, jid)? {
        None => return Ok(None),
        Some(Head {
            record,
            has_lists: false,
            ..
        }) => return Ok(Some(record)),
        Some(_) => {}
    }
    let db = db.unchecked_transaction()?;
    let Some(Head {
        owner, mut record, ..
    }) = head(&db, jid)?
    else {
        return Ok(None);
    };
    record.roster = list(
        &db,
        "SELECT jid, name, group_names, state FROM roster WHERE owner = ?1 ORDER BY jid",
        [owner],
        roster_item,
    )?;
    record.requests = list(
        &db,
        "SELECT jid, stanza FROM request WHERE owner = ?1 ORDER BY jid",
        [owner],
        |row| {
            Ok(Request {
                from: address(row, 0)?,
                stanza: bytes(row, 1)?,
            })
        },
    )?;
    record.blocked = list(
        &db,
        "SELECT jid FROM blocked WHERE owner = ?1 ORDER BY jid",
        [owner],
        |row| address(row, 0),
    )?;
    record.archive = archive_query::state(&db, owner, unclean)?;
    Ok(Some(record))
}

/// A user's record without its lists.
struct Head {
    owner: i64,
    record: UserRecord,
    has_lists: bool,
}

fn head(db: &Connection, jid: &Jid) -> rusqlite::Result<Option<Head>> {
    db.prepare_cached(
        "SELECT id, roster_version, last_seen_ms, last_status,
                (SELECT COUNT(*) FROM offline WHERE owner = o.id),
                EXISTS (SELECT 1 FROM roster WHERE owner = o.id)
                OR EXISTS (SELECT 1 FROM request WHERE owner = o.id)
                OR EXISTS (SELECT 1 FROM blocked WHERE owner = o.id)
                OR EXISTS (SELECT 1 FROM archive WHERE owner = o.id)
                OR EXISTS (SELECT 1 FROM archive_owner WHERE owner = o.id)
                OR EXISTS (SELECT 1 FROM conversation WHERE owner = o.id)
         FROM owner AS o
         WHERE domain = ?1 AND localpart = ?2 AND localpart <> ''",
    )?
    .query_row((jid.domain(), localpart(jid)), |row| {
        Ok(Head {
            owner: row.get(0)?,
            record: UserRecord {
                roster_version: from_sql(row.get(1)?),
                last_seen_ms: from_sql(row.get(2)?),
                last_status: row.get(3)?,
                offline: row.get(4).map(from_sql)?,
                ..UserRecord::default()
            },
            has_lists: row.get(5)?,
        })
    })
    .optional()
}

/// See [`antiphon_routing::store::Store::credentials`].
pub(super) fn credentials(db: &Connection, jid: &Jid) -> rusqlite::Result<Option<Credentials>> {
    let db = db.unchecked_transaction()?;
    let found: Option<(i64, bool)> = db
        .prepare_cached(
            "SELECT id, is_enabled FROM owner
             WHERE domain = ?1 AND localpart = ?2 AND localpart <> ''",
        )?
        .query_row((jid.domain(), localpart(jid)), |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .optional()?;
    let Some((owner, is_enabled)) = found else {
        return Ok(None);
    };
    let mut keys = list(
        &db,
        "SELECT hash, iterations, salt, stored_key, server_key FROM scram_key WHERE owner = ?1",
        [owner],
        |row| {
            Ok(ScramKeys {
                hash: hash(row, 0)?,
                iterations: row.get(1)?,
                salt: bytes(row, 2)?,
                stored_key: bytes(row, 3)?,
                server_key: bytes(row, 4)?,
            })
        },
    )?;
    keys.sort_by_key(|keys| match keys.hash {
        ScramHash::Sha512 => 0,
        ScramHash::Sha256 => 1,
        ScramHash::Sha1 => 2,
    });
    Ok(Some(Credentials { keys, is_enabled }))
}

/// See [`antiphon_routing::store::Store::accounts`]. An empty `after` is before every localpart.
pub(super) fn accounts(
    db: &Connection,
    domain: &str,
    after: &str,
    limit: usize,
) -> rusqlite::Result<Vec<AccountSummary>> {
    list(
        db,
        "SELECT localpart || '@' || domain, is_enabled, created_ms FROM owner
         WHERE domain = ?1 AND localpart > ?2 ORDER BY localpart LIMIT ?3",
        (domain, after, limit as i64),
        |row| {
            Ok(AccountSummary {
                jid: address(row, 0)?,
                is_enabled: row.get(1)?,
                created_ms: from_sql(row.get(2)?),
            })
        },
    )
}

/// See [`antiphon_routing::store::Store::account_count`].
pub(super) fn account_count(db: &Connection, domain: &str) -> rusqlite::Result<u64> {
    db.prepare_cached("SELECT COUNT(*) FROM owner WHERE domain = ?1 AND localpart > ''")?
        .query_row([domain], |row| row.get(0).map(from_sql))
}

/// See [`antiphon_routing::store::Store::offline`].
pub(super) fn offline(
    db: &Connection,
    jid: &Jid,
    after: u64,
    limit: usize,
) -> rusqlite::Result<Vec<OfflineRecord>> {
    list(
        db,
        "SELECT f.id, f.at_ms, f.stanza, m.stanza, a.flags, c.jid, a.id FROM offline AS f
         LEFT JOIN archive AS a ON a.owner = f.owner AND a.id = f.archived
         LEFT JOIN message AS m ON m.key = COALESCE(a.content, a.uid, a.id)
         LEFT JOIN conversation AS c ON c.id = a.conversation
         WHERE f.owner = (SELECT id FROM owner WHERE domain = ?1 AND localpart = ?2) AND f.id > ?3
         ORDER BY f.id LIMIT ?4",
        (jid.domain(), localpart(jid), to_sql(after), limit as i64),
        |row| {
            let stanza = match row.get_ref(3)?.as_blob_or_null()? {
                None => bytes(row, 2)?,
                Some(stored) => {
                    let is_out = Flags(row.get(4)?).has(Flags::OUT);
                    let sides = Sides::new(jid.bare_str(), text(row, 5)?, is_out);
                    unpack(stored, sides).map_err(|error| bad_column(3, error))?
                }
            };
            Ok(OfflineRecord {
                id: from_sql(row.get(0)?),
                at_ms: from_sql(row.get(1)?),
                archived: row
                    .get::<_, Option<i64>>(6)?
                    .map(|id| ArchiveId(from_sql(id))),
                stanza,
            })
        },
    )
}

/// See [`antiphon_routing::store::Store::map_get`].
pub(super) fn map_get(
    db: &Connection,
    jid: &Jid,
    kind: MapKind,
    key: &str,
) -> rusqlite::Result<Option<Box<[u8]>>> {
    db.prepare_cached(
        "SELECT value FROM map
         WHERE owner = (SELECT id FROM owner WHERE domain = ?1 AND localpart = ?2)
         AND kind = ?3 AND key = ?4",
    )?
    .query_row(
        (jid.domain(), localpart(jid), kind_number(kind), key),
        |row| bytes(row, 0),
    )
    .optional()
}

/// See [`antiphon_routing::store::Store::map_keys`].
pub(super) fn map_keys(
    db: &Connection,
    jid: &Jid,
    kind: MapKind,
    prefix: &str,
) -> rusqlite::Result<Vec<String>> {
    let mut statement = db.prepare_cached(
        "SELECT key FROM map
         WHERE owner = (SELECT id FROM owner WHERE domain = ?1 AND localpart = ?2)
         AND kind = ?3 AND key >= ?4 ORDER BY key",
    )?;
    let mut rows = statement.query((jid.domain(), localpart(jid), kind_number(kind), prefix))?;
    let mut keys = Vec::new();
    // What begins with the prefix stands together, so the first that does not ends it; LIKE and
    // substr() would have wildcards and stop at a NUL.
    while let Some(row) = rows.next()? {
        let key: String = row.get(0)?;
        if !key.starts_with(prefix) || keys.len() == PAGE_MAX {
            break;
        }
        keys.push(key);
    }
    Ok(keys)
}

/// The rows of a cached statement.
pub(super) fn list<T>(
    db: &Connection,
    sql: &str,
    parameters: impl Params,
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    db.prepare_cached(sql)?
        .query_map(parameters, read)?
        .collect()
}

fn roster_item(row: &Row<'_>) -> rusqlite::Result<RosterItem> {
    Ok(RosterItem {
        jid: address(row, 0)?,
        name: text(row, 1)?.into(),
        groups: serde_json::from_str(text(row, 2)?).map_err(|error| bad_column(2, error))?,
        subscription: subscription(row.get(3)?),
    })
}

/// An address that an earlier version took for valid may be none for this one; then the operator
/// must learn of it, rather than a contact vanish silently.
fn address(row: &Row<'_>, column: usize) -> rusqlite::Result<Jid> {
    Jid::parse(text(row, column)?).map_err(|error| bad_column(column, error))
}

fn hash(row: &Row<'_>, column: usize) -> rusqlite::Result<ScramHash> {
    let name = text(row, column)?;
    [ScramHash::Sha512, ScramHash::Sha256, ScramHash::Sha1]
        .into_iter()
        .find(|hash| hash_name(*hash) == name)
        .ok_or_else(|| bad_column(column, format!("unknown hash {name}")))
}

fn text<'a>(row: &'a Row<'_>, column: usize) -> rusqlite::Result<&'a str> {
    row.get_ref(column)?
        .as_str()
        .map_err(|error| bad_column(column, error))
}

fn bytes(row: &Row<'_>, column: usize) -> rusqlite::Result<Box<[u8]>> {
    row.get_ref(column)?
        .as_blob()
        .map(Box::from)
        .map_err(|error| bad_column(column, error))
}

pub(super) fn bad_column(
    column: usize,
    error: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, error.into())
}
