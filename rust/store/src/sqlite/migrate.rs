//! Numbered changes of the schema, each applied once, in order and whole.

use super::error::{OpenError, describe};
use rusqlite::{Connection, ErrorCode, TransactionBehavior};
use std::path::Path;

/// One file of `migrations/sqlite`.
pub(super) struct Migration {
    /// Counts from 1 without gaps.
    pub(super) version: u32,
    /// The file's name behind the number.
    pub(super) name: &'static str,
    /// Its statements.
    pub(super) sql: &'static str,
}

/// All of them. A file that was released is never changed again: a change is a new file.
pub(super) const MIGRATIONS: &[Migration] = &[
    Migration {
        version: 1,
        name: "accounts",
        sql: include_str!("../../migrations/sqlite/0001_accounts.sql"),
    },
    Migration {
        version: 2,
        name: "archive",
        sql: include_str!("../../migrations/sqlite/0002_archive.sql"),
    },
];

/// Marks a file as ours in its header (`Antp`), so that another program's is not touched.
const APPLICATION_ID: i64 = 0x416E_7470;

/// The schema's version, 0 for a new file; before anything is changed in it.
///
/// # Errors
/// [`OpenError::Foreign`], [`OpenError::Newer`], [`OpenError::Locked`] or [`OpenError::Engine`].
pub(super) fn check(db: &Connection, path: &Path) -> Result<u32, OpenError> {
    let at = |error: rusqlite::Error| open_error(&error, path);
    let id: i64 = db
        .pragma_query_value(None, "application_id", |row| row.get(0))
        .map_err(at)?;
    let tables: i64 = db
        .query_row("SELECT COUNT(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(at)?;
    if id != APPLICATION_ID && (id != 0 || tables != 0) {
        return Err(OpenError::Foreign {
            path: path.to_owned(),
        });
    }
    let found = version(db, tables != 0).map_err(at)?;
    let known = MIGRATIONS.len() as u32;
    if found > known {
        return Err(OpenError::Newer {
            path: path.to_owned(),
            found,
            known,
        });
    }
    Ok(found)
}

/// Brings the schema from what [`check`] found to this binary's version.
///
/// # Errors
/// [`OpenError::Locked`] or [`OpenError::Migration`]; the file is then as the last migration that
/// worked left it.
pub(super) fn migrate(
    db: &mut Connection,
    path: &Path,
    found: u32,
    now_ms: u64,
) -> Result<(), OpenError> {
    for migration in MIGRATIONS.iter().filter(|m| m.version > found) {
        apply(db, migration, now_ms).map_err(|error| match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy) => OpenError::Locked {
                path: path.to_owned(),
            },
            _ => OpenError::Migration {
                path: path.to_owned(),
                version: migration.version,
                reason: describe(&error),
            },
        })?;
    }
    Ok(())
}

/// The newest migration in the file; 0 for a new file.
fn version(db: &Connection, has_tables: bool) -> rusqlite::Result<u32> {
    if !has_tables {
        return Ok(0);
    }
    db.query_row(
        "SELECT COALESCE(MAX(version), 0) FROM schema_version",
        [],
        |row| row.get(0),
    )
}

/// Applies one in its own transaction, the record of it included.
fn apply(db: &mut Connection, migration: &Migration, now_ms: u64) -> rusqlite::Result<()> {
    let change = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if migration.version == 1 {
        change.pragma_update(None, "application_id", APPLICATION_ID)?;
        change.execute_batch(
            "CREATE TABLE schema_version (
                version INTEGER PRIMARY KEY,
                name TEXT NOT NULL,
                applied_ms INTEGER NOT NULL
            ) STRICT;",
        )?;
    }
    change.execute_batch(migration.sql)?;
    change.execute(
        "INSERT INTO schema_version (version, name, applied_ms) VALUES (?1, ?2, ?3)",
        (migration.version, migration.name, super::to_sql(now_ms)),
    )?;
    change.commit()
}

/// The operator's view of an error of SQLite.
pub(super) fn open_error(error: &rusqlite::Error, path: &Path) -> OpenError {
    let path = path.to_owned();
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => OpenError::Foreign { path },
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => OpenError::Locked { path },
        _ => OpenError::Engine {
            path,
            reason: describe(error),
        },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail")]
    use super::*;

    #[test]
    fn every_migration_file_is_applied_in_the_order_of_its_number() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations/sqlite");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        let known: Vec<String> = MIGRATIONS
            .iter()
            .map(|m| format!("{:04}_{}.sql", m.version, m.name))
            .collect();
        assert_eq!(files, known);
        assert!(
            MIGRATIONS
                .iter()
                .zip(1u32..)
                .all(|(m, number)| m.version == number)
        );
    }

    #[test]
    fn every_table_that_speaks_of_an_owner_goes_with_it() {
        let mut db = Connection::open_in_memory().unwrap();
        migrate(&mut db, Path::new("test"), 0, 0).unwrap();
        let mut tables = db
            .prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND sql LIKE '%owner INTEGER%'")
            .unwrap();
        let names: Vec<String> = tables
            .query_map([], |row| row.get(0))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        assert!(names.len() >= 6, "{names:?}");
        // These go in slices, as `purge` says.
        let in_slices = ["archive", "conversation", "purge"];
        for name in names
            .iter()
            .filter(|name| !in_slices.contains(&name.as_str()))
        {
            let cascades: i64 = db
                .query_row(
                    "SELECT COUNT(*) FROM pragma_foreign_key_list(?1)
                     WHERE \"table\" = 'owner' AND \"from\" = 'owner' AND on_delete = 'CASCADE'",
                    [name],
                    |row| row.get(0),
                )
                .unwrap();
            assert_eq!(cascades, 1, "{name} would keep rows of a deleted account");
        }
    }
}
