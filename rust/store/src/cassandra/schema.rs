//! The schema this binary knows: the same files that `antiphon migrate` applies.

use super::error::OpenError;
use scylla::client::session::Session;
use scylla::errors::{DbError, ExecutionError, RequestAttemptError};

/// One file of `python/antiphon/storage/cassandra`.
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    /// Counts from 1 without gaps.
    pub version: u32,
    /// The file's name behind the number.
    pub name: &'static str,
    /// Its text.
    pub cql: &'static str,
}

/// All of them. A file that was released is never changed again: a change is a new file.
pub const MIGRATIONS: &[Migration] = &[
    Migration {
        version: 1,
        name: "accounts",
        cql: include_str!("../../../../python/antiphon/storage/cassandra/0001_accounts.cql"),
    },
    Migration {
        version: 2,
        name: "archives",
        cql: include_str!("../../../../python/antiphon/storage/cassandra/0002_archives.cql"),
    },
    Migration {
        version: 3,
        name: "phrases",
        cql: include_str!("../../../../python/antiphon/storage/cassandra/0003_phrases.cql"),
    },
    Migration {
        version: 4,
        name: "take_up",
        cql: include_str!("../../../../python/antiphon/storage/cassandra/0004_take_up.cql"),
    },
];

/// Where the applied migrations are recorded; `readers` is the lowest version whose nodes can work
/// with the schema.
pub const VERSION_TABLE: &str = "CREATE TABLE IF NOT EXISTS schema_version (\
     scope text, version int, name text, readers int, applied_ms bigint, \
     PRIMARY KEY ((scope), version))";

/// The partition of [`VERSION_TABLE`] that there is.
pub const SCOPE: &str = "antiphon";

impl Migration {
    /// Its statements, without comments and semicolons. Each does no harm a second time.
    pub fn statements(&self) -> impl Iterator<Item = String> {
        let lines = self.cql.lines().filter(|line| !line.starts_with("--"));
        let text = lines.collect::<Vec<_>>().join("\n");
        let statements: Vec<String> = text
            .split(";\n")
            .map(|statement| statement.trim().trim_end_matches(';').to_owned())
            .filter(|statement| !statement.is_empty())
            .collect();
        statements.into_iter()
    }

    /// The lowest version whose nodes can work with the schema behind this migration.
    #[must_use]
    pub fn readers(&self) -> u32 {
        let line = self
            .cql
            .lines()
            .find_map(|line| line.strip_prefix("-- readers:"));
        line.and_then(|number| number.trim().parse().ok())
            .unwrap_or(self.version)
    }
}

/// Whether this binary can work with the schema in the keyspace.
///
/// # Errors
/// [`OpenError::Schema`] or [`OpenError::Request`].
pub(super) async fn check(session: &Session, keyspace: &str) -> Result<(), OpenError> {
    let known = MIGRATIONS.len() as u32;
    let query =
        format!("SELECT version, readers FROM \"{keyspace}\".schema_version WHERE scope = ?");
    let behind = |found: u32| OpenError::Schema {
        keyspace: keyspace.to_owned(),
        reason: format!("has schema version {found} and this antiphon needs {known}"),
        remedy: "run `antiphon migrate`",
    };
    let rows = match session.query_unpaged(query, (SCOPE,)).await {
        Ok(result) => result.into_rows_result().map_err(OpenError::request)?,
        // No such keyspace, or no such table in it.
        Err(ExecutionError::LastAttemptError(RequestAttemptError::DbError(
            DbError::Invalid,
            _,
        )))
        | Err(ExecutionError::PrepareError(_)) => return Err(behind(0)),
        Err(error) => return Err(OpenError::request(error)),
    };
    let (mut found, mut readers) = (0, 0);
    for row in rows.rows::<(i32, i32)>().map_err(OpenError::request)? {
        let (version, least) = row.map_err(OpenError::request)?;
        found = found.max(u32::try_from(version).unwrap_or(0));
        readers = readers.max(u32::try_from(least).unwrap_or(0));
    }
    if found < known {
        return Err(behind(found));
    }
    if readers > known {
        return Err(OpenError::Schema {
            keyspace: keyspace.to_owned(),
            reason: format!(
                "has schema version {found}, which needs an antiphon that knows {readers}; \
                 this one knows {known}"
            ),
            remedy: "start the newer antiphon",
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail")]
    use super::*;
    use std::path::Path;

    #[test]
    fn every_migration_file_is_known_in_the_order_of_its_number() {
        let folder =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../python/antiphon/storage/cassandra");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.ends_with(".cql"))
            .collect();
        files.sort();
        let known: Vec<String> = MIGRATIONS
            .iter()
            .map(|m| format!("{:04}_{}.cql", m.version, m.name))
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
    fn statements_stand_alone_and_may_run_twice() {
        for migration in MIGRATIONS {
            assert!(migration.readers() <= migration.version);
            for statement in migration.statements() {
                assert!(
                    !statement.contains(';') && !statement.contains("--"),
                    "{statement}"
                );
                assert!(statement.contains("IF NOT EXISTS"), "{statement}");
            }
        }
    }
}
