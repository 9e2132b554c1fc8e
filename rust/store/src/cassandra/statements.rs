//! Every statement, prepared once.

use super::error::OpenError;
use scylla::client::session::Session;
use scylla::statement::prepared::PreparedStatement;
use scylla::statement::{Consistency, SerialConsistency};

/// Rows of one answer at most.
const PAGE_ROWS: i32 = 2_000;

/// What a statement is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// With the timestamp it brings, it may be repeated and reordered.
    Write,
    /// May be repeated.
    Read,
    /// A lightweight transaction: repeating it needs thought.
    Condition,
    /// Sees what an unfinished lightweight transaction left.
    SerialRead,
}

macro_rules! statements {
    ($($(#[$doc:meta])* $name:ident: $kind:ident = $cql:expr;)*) => {
        /// The prepared statements, by purpose. Values come in the order of the question marks.
        #[derive(Debug)]
        pub(super) struct Statements {
            $($(#[$doc])* pub(super) $name: PreparedStatement,)*
        }

        impl Statements {
            /// Prepares all of them, in the session's keyspace.
            ///
            /// # Errors
            /// [`OpenError::Request`]: the schema is not what it should be.
            pub(super) async fn prepare(session: &Session) -> Result<Self, OpenError> {
                Ok(Self { $($name: prepare(session, Kind::$kind, $cql).await?,)* })
            }
        }
    };
}

async fn prepare(session: &Session, kind: Kind, cql: &str) -> Result<PreparedStatement, OpenError> {
    let mut statement = session.prepare(cql).await.map_err(OpenError::request)?;
    statement.set_is_idempotent(kind != Kind::Condition);
    statement.set_consistency(match kind {
        Kind::SerialRead => Consistency::LocalSerial,
        Kind::Write | Kind::Read | Kind::Condition => Consistency::LocalQuorum,
    });
    statement.set_serial_consistency(Some(SerialConsistency::LocalSerial));
    statement.set_page_size(PAGE_ROWS);
    // The schema changes under a running node only by adding columns that it does not ask for.
    statement.set_use_cached_result_metadata(true);
    Ok(statement)
}

statements! {
    /// Creation (`creation`, 0 rows or `None`: no account).
    account_creation: Read =
        "SELECT creation FROM entity WHERE owner = ? AND kind = 0 AND key = ''";
    /// The same behind every lightweight transaction that began before.
    account_serial: SerialRead =
        "SELECT creation, created_ms, is_enabled FROM entity \
         WHERE owner = ? AND kind = 0 AND key = ''";
    account_credentials: Read =
        "SELECT creation, is_enabled, scram FROM entity \
         WHERE owner = ? AND kind = 0 AND key = ''";
    account_create: Condition =
        "UPDATE entity SET creation = ?, created_ms = ?, is_enabled = ?, scram = ? \
         WHERE owner = ? AND kind = 0 AND key = '' IF creation = null";
    account_update: Condition =
        "UPDATE entity SET is_enabled = ?, scram = ? \
         WHERE owner = ? AND kind = 0 AND key = '' IF creation = ?";
    account_delete: Condition =
        "DELETE FROM entity WHERE owner = ? AND kind = 0 AND key = '' IF creation = ?";

    index_mark: Write =
        "INSERT INTO account_index (domain, bucket, localpart) VALUES (?, ?, ?) USING TIMESTAMP ?";
    index_put: Write =
        "INSERT INTO account_index (domain, bucket, localpart, created_ms, is_enabled) \
         VALUES (?, ?, ?, ?, ?) USING TIMESTAMP ?";
    index_doubt: Write =
        "DELETE created_ms, is_enabled FROM account_index USING TIMESTAMP ? \
         WHERE domain = ? AND bucket = ? AND localpart = ?";
    index_delete: Write =
        "DELETE FROM account_index USING TIMESTAMP ? \
         WHERE domain = ? AND bucket = ? AND localpart = ?";
    index_page: Read =
        "SELECT localpart, created_ms, is_enabled FROM account_index \
         WHERE domain = ? AND bucket = ? AND localpart > ? LIMIT ?";

    purge_entity: Write = "DELETE FROM entity USING TIMESTAMP ? WHERE owner = ? AND kind > 0";
    purge_offline: Write = "DELETE FROM offline USING TIMESTAMP ? WHERE owner = ?";
    purge_map: Write = "DELETE FROM entity_map USING TIMESTAMP ? WHERE owner = ?";

    /// All rows of an entity that a user's record is made of.
    user: Read =
        "SELECT kind, key, creation, roster_version, last_seen_ms, last_status, name, \
         group_names, state, stanza, WRITETIME(state), WRITETIME(roster_version), \
         WRITETIME(last_seen_ms) FROM entity WHERE owner = ?";
    state_version: Write =
        "UPDATE entity USING TIMESTAMP ? SET roster_version = ? \
         WHERE owner = ? AND kind = 1 AND key = ''";
    state_seen: Write =
        "UPDATE entity USING TIMESTAMP ? SET last_seen_ms = ?, last_status = ? \
         WHERE owner = ? AND kind = 1 AND key = ''";
    roster_put: Write =
        "INSERT INTO entity (owner, kind, key, name, group_names, state) \
         VALUES (?, 2, ?, ?, ?, ?) USING TIMESTAMP ?";
    request_put: Write =
        "INSERT INTO entity (owner, kind, key, state, stanza) \
         VALUES (?, 3, ?, 0, ?) USING TIMESTAMP ?";
    block_put: Write =
        "INSERT INTO entity (owner, kind, key, state) VALUES (?, 4, ?, 0) USING TIMESTAMP ?";
    item_delete: Write =
        "DELETE FROM entity USING TIMESTAMP ? WHERE owner = ? AND kind = ? AND key = ?";
    items_delete: Write =
        "DELETE FROM entity USING TIMESTAMP ? WHERE owner = ? AND kind = ?";

    offline_put: Write =
        "INSERT INTO offline (owner, id, at_ms, stanza) VALUES (?, ?, ?, ?) USING TIMESTAMP ?";
    offline_refer: Write =
        "INSERT INTO offline (owner, id, at_ms, archived) VALUES (?, ?, ?, ?) USING TIMESTAMP ?";
    offline_keep: Write =
        "UPDATE offline USING TIMESTAMP ? SET stanza = ? WHERE owner = ? AND id = ?";
    offline_archived: Read = "SELECT id, archived, WRITETIME(stanza) FROM offline WHERE owner = ?";
    offline_page: Read =
        "SELECT id, at_ms, stanza, archived FROM offline WHERE owner = ? AND id > ? LIMIT ?";
    offline_ids: Read = "SELECT id FROM offline WHERE owner = ?";
    offline_first_ids: Read = "SELECT id FROM offline WHERE owner = ? LIMIT ?";
    offline_delete: Write =
        "DELETE FROM offline USING TIMESTAMP ? WHERE owner = ? AND id = ?";
    offline_bury: Write =
        "DELETE FROM offline USING TIMESTAMP ? WHERE owner = ? AND id > ? AND id <= ?";
    offline_delete_upto: Write =
        "DELETE FROM offline USING TIMESTAMP ? WHERE owner = ? AND id <= ?";

    map_put: Write =
        "INSERT INTO entity_map (owner, kind, key, value) VALUES (?, ?, ?, ?) USING TIMESTAMP ?";
    map_delete: Write =
        "DELETE FROM entity_map USING TIMESTAMP ? WHERE owner = ? AND kind = ? AND key = ?";
    map_get: Read =
        "SELECT value FROM entity_map WHERE owner = ? AND kind = ? AND key = ?";
    map_claim: Condition =
        "INSERT INTO entity_map (owner, kind, key, value) VALUES (?, ?, ?, ?) IF NOT EXISTS";
    map_keys: Read = "SELECT key FROM entity_map WHERE owner = ? AND kind = ? AND key >= ?";

    /// The last value is the time to live, seconds; 0: for ever.
    archive_put: Write =
        "INSERT INTO archive (owner, bucket, id, peer, flags, uid, dup, stanza) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ? AND TTL ?";
    archive_edit: Write =
        "UPDATE archive USING TIMESTAMP ? AND TTL ? SET flags = ?, stanza = ? \
         WHERE owner = ? AND bucket = ? AND id = ?";
    archive_delete: Write =
        "DELETE FROM archive USING TIMESTAMP ? WHERE owner = ? AND bucket = ? AND id = ?";
    archive_delete_below: Write =
        "DELETE FROM archive USING TIMESTAMP ? WHERE owner = ? AND bucket = ? AND id < ?";
    archive_drop: Write = "DELETE FROM archive USING TIMESTAMP ? WHERE owner = ? AND bucket = ?";
    archive_up: Read =
        "SELECT id, peer, flags, stanza FROM archive \
         WHERE owner = ? AND bucket = ? AND id > ? AND id < ? ORDER BY id ASC LIMIT ?";
    archive_down: Read =
        "SELECT id, peer, flags, stanza FROM archive \
         WHERE owner = ? AND bucket = ? AND id > ? AND id < ? LIMIT ?";
    archive_heads_up: Read =
        "SELECT id, peer, flags, uid, dup FROM archive \
         WHERE owner = ? AND bucket = ? AND id > ? AND id < ? ORDER BY id ASC LIMIT ?";
    archive_heads_down: Read =
        "SELECT id, peer, flags, uid, dup FROM archive \
         WHERE owner = ? AND bucket = ? AND id > ? AND id < ? LIMIT ?";
    /// Of a month.
    archive_newest: Read =
        "SELECT id, WRITETIME(flags) FROM archive WHERE owner = ? AND bucket = ? LIMIT 1";
    archive_bury: Write =
        "DELETE FROM archive USING TIMESTAMP ? \
         WHERE owner = ? AND bucket = ? AND id > ? AND id <= ?";
    archive_at: Read =
        "SELECT id, peer, flags, stanza FROM archive \
         WHERE owner = ? AND bucket = ? AND id IN ?";
    archive_life: Read =
        "SELECT peer, flags, stanza, TTL(stanza), WRITETIME(stanza) FROM archive \
         WHERE owner = ? AND bucket = ? AND id = ?";

    peer_put: Write =
        "INSERT INTO archive_peer (owner, bucket, peer, id, flags, mid) \
         VALUES (?, ?, ?, ?, ?, ?) USING TIMESTAMP ? AND TTL ?";
    peer_edit: Write =
        "UPDATE archive_peer USING TIMESTAMP ? AND TTL ? SET flags = ? \
         WHERE owner = ? AND bucket = ? AND peer = ? AND id = ?";
    peer_delete: Write =
        "DELETE FROM archive_peer USING TIMESTAMP ? \
         WHERE owner = ? AND bucket = ? AND peer = ? AND id = ?";
    peer_delete_below: Write =
        "DELETE FROM archive_peer USING TIMESTAMP ? \
         WHERE owner = ? AND bucket = ? AND peer = ? AND id < ?";
    peer_drop: Write =
        "DELETE FROM archive_peer USING TIMESTAMP ? WHERE owner = ? AND bucket = ?";
    peer_up: Read =
        "SELECT id, flags, mid FROM archive_peer \
         WHERE owner = ? AND bucket = ? AND peer = ? AND id > ? AND id < ? \
         ORDER BY peer DESC, id ASC LIMIT ?";
    peer_down: Read =
        "SELECT id, flags, mid FROM archive_peer \
         WHERE owner = ? AND bucket = ? AND peer = ? AND id > ? AND id < ? LIMIT ?";
    peer_ids: Read =
        "SELECT id, flags FROM archive_peer WHERE owner = ? AND bucket = ? AND peer = ?";
    month_peers: Read = "SELECT peer, id FROM archive_peer WHERE owner = ? AND bucket = ?";
    month_ids: Read = "SELECT id, flags FROM archive_peer WHERE owner = ? AND bucket = ?";

    bucket_put: Write =
        "INSERT INTO archive_bucket (owner, bucket) VALUES (?, ?) USING TIMESTAMP ? AND TTL ?";
    bucket_delete: Write =
        "DELETE FROM archive_bucket USING TIMESTAMP ? WHERE owner = ? AND bucket = ?";
    buckets_bury: Write =
        "DELETE FROM archive_bucket USING TIMESTAMP ? \
         WHERE owner = ? AND bucket > ? AND bucket < ?";
    buckets_drop: Write = "DELETE FROM archive_bucket USING TIMESTAMP ? WHERE owner = ?";
    buckets: Read = "SELECT bucket FROM archive_bucket WHERE owner = ?";

    inbox_all: Read =
        "SELECT peer, last_id, unread, read_id, box, muted_until_ms, counted_upto, kept_id, \
         flushed_upto, unsealed, sealed_upto, prefs, run, \
         WRITETIME(last_id), WRITETIME(flushed_upto), dead FROM inbox WHERE owner = ?";
    inbox_taken: Read =
        "SELECT taken_epoch, dead, flushed_upto, WRITETIME(flushed_upto), WRITETIME(dead) FROM inbox \
         WHERE owner = ? LIMIT 1";
    inbox_dead_put: Write = "UPDATE inbox USING TIMESTAMP ? SET dead = ? WHERE owner = ?";
    inbox_taken_put: Write = "UPDATE inbox USING TIMESTAMP ? SET taken_epoch = ? WHERE owner = ?";
    inbox_kept: Read = "SELECT peer, kept_id, kept FROM inbox WHERE owner = ? AND peer = ?";
    inbox_kept_all: Read = "SELECT peer, kept_id, kept FROM inbox WHERE owner = ?";
    inbox_put: Write =
        "INSERT INTO inbox (owner, peer, last_id, unread, read_id, box, muted_until_ms, \
         counted_upto) VALUES (?, ?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ?";
    inbox_keep: Write =
        "UPDATE inbox USING TIMESTAMP ? SET kept_id = ?, kept = ? WHERE owner = ? AND peer = ?";
    inbox_flushed: Write =
        "UPDATE inbox USING TIMESTAMP ? SET flushed_upto = ?, unsealed = ?, sealed_upto = ? \
         WHERE owner = ?";
    inbox_prefs: Write = "UPDATE inbox USING TIMESTAMP ? SET prefs = ? WHERE owner = ?";
    inbox_run: Write = "UPDATE inbox USING TIMESTAMP ? SET run = ? WHERE owner = ?";
    inbox_drop: Write = "DELETE FROM inbox USING TIMESTAMP ? WHERE owner = ?";

    run_closed: Read = "SELECT closed_ms FROM run WHERE id = ?";
    run_close: Write = "INSERT INTO run (id, closed_ms) VALUES (?, ?) USING TIMESTAMP ?";

    seg_put: Write =
        "INSERT INTO fts_seg (owner, first_id, last_id, n, words, pairs) \
         VALUES (?, ?, ?, ?, ?, ?) USING TIMESTAMP ? AND TTL ?";
    seg_ends: Read =
        "SELECT first_id, last_id FROM fts_seg WHERE owner = ? AND first_id < ? LIMIT ?";
    seg_down: Read =
        "SELECT first_id, last_id, bloom, words FROM fts_seg \
         WHERE owner = ? AND first_id > ? AND first_id < ? LIMIT ?";
    seg_up: Read =
        "SELECT first_id, last_id, bloom, words FROM fts_seg \
         WHERE owner = ? AND first_id > ? AND first_id < ? ORDER BY first_id ASC LIMIT ?";
    seg_pairs_down: Read =
        "SELECT first_id, last_id, bloom, words, pairs FROM fts_seg \
         WHERE owner = ? AND first_id > ? AND first_id < ? LIMIT ?";
    seg_pairs_up: Read =
        "SELECT first_id, last_id, bloom, words, pairs FROM fts_seg \
         WHERE owner = ? AND first_id > ? AND first_id < ? ORDER BY first_id ASC LIMIT ?";
    seg_delete_below: Write =
        "DELETE FROM fts_seg USING TIMESTAMP ? WHERE owner = ? AND first_id < ?";
    seg_drop: Write = "DELETE FROM fts_seg USING TIMESTAMP ? WHERE owner = ?";
}
