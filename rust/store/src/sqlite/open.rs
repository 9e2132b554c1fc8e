//! Opening: the directory, its lock, the file, the schema, the threads.

use super::checkpoint::Checkpoint;
use super::error::OpenError;
use super::migrate::{check, migrate, open_error};
use super::queue::WriteQueue;
use super::reader::ReadPool;
use super::search::{self, SearchQueue};
use super::writer::Writer;
use super::{Counters, Sqlite, SqliteConfig, Threads, to_sql};
use antiphon_routing::archive::ArchiveId;
use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags, OptionalExtension};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// The database's name in the data directory.
const FILE: &str = "antiphon.db";

/// The lock's name in the data directory. Its own file: a lock of ours on the database would meet
/// SQLite's own.
const LOCK_FILE: &str = "antiphon.lock";

/// How long a statement waits for a program beside us (a shell, a backup) that has the file.
const FOREIGN_LOCK: Duration = Duration::from_secs(2);

/// The log's file shrinks to this after a burst.
const LOG_BYTES: i64 = 64 * 1024 * 1024;

/// Cache of the writer, KiB (negative is SQLite's way to say so).
const WRITER_CACHE: i64 = -64 * 1024;

/// Cache of each reader, KiB.
const READER_CACHE: i64 = -8 * 1024;

/// Compiled statements each connection keeps: more than there are.
const STATEMENTS: usize = 128;

/// See [`Sqlite::open`].
pub(super) fn open(config: SqliteConfig, temporary: Option<PathBuf>) -> Result<Sqlite, OpenError> {
    let directory = &config.path;
    std::fs::create_dir_all(directory).map_err(|e| directory_error(directory, &e))?;
    let lock = lock(directory)?;
    let file = directory.join(FILE);
    create(directory, &file)?;
    let connection = writer_connection(&file, (config.clock)())?;
    let unclean = begin_run(&connection, (config.clock)()).map_err(|e| open_error(&e, &file))?;

    let queue = Arc::new(WriteQueue::new(config.queue, config.queue_bytes));
    let reads = Arc::new(ReadPool::new(config.queue));
    let counters = Arc::new(Counters::default());
    let search = Arc::new(SearchQueue::default());
    let checkpoint = Arc::new(Checkpoint::default());
    let mut readers = Vec::new();
    let started = (|| {
        let texts = directory.join(search::FILE);
        let archive = reader_connection(&file, None)?;
        let indexer = search::open(&texts, archive, Arc::clone(&search), |file| {
            create(directory, file)
        })?;
        for number in 0..config.readers.max(1) {
            let (db, pool) = (reader_connection(&file, Some(&texts))?, Arc::clone(&reads));
            readers.push(thread(format!("store-read-{number}"), move || {
                pool.serve(&db)
            })?);
        }
        let indexer = thread("store-search".to_owned(), move || indexer.serve())?;
        let (copies, log) = (copying_connection(&file)?, Arc::clone(&checkpoint));
        let copier = thread("store-copy".to_owned(), move || log.serve(&copies))?;
        let writer = Writer::new(
            connection,
            config.clock.clone(),
            Arc::clone(&counters),
            Arc::clone(&search),
            Arc::clone(&checkpoint),
            config.retention,
        );
        let (writes, pool) = (Arc::clone(&queue), Arc::clone(&reads));
        let writer = thread("store-write".to_owned(), move || {
            (writer.serve(&writes, &pool), lock)
        })?;
        Ok((writer, indexer, copier))
    })();
    let (writer, indexer, copier) = match started {
        Ok(threads) => threads,
        Err(error) => {
            // The threads that did start end by this.
            reads.close();
            search.close();
            checkpoint.close();
            return Err(error);
        }
    };
    Ok(Sqlite {
        queue,
        reads,
        counters,
        search,
        checkpoint,
        unclean,
        writer_thread: writer.thread().id(),
        threads: Mutex::new(Threads {
            writer: Some(writer),
            readers,
            indexer: Some(indexer),
            copier: Some(copier),
        }),
        temporary,
    })
}

/// A new, empty directory of this process.
pub(super) fn temporary_directory() -> Result<PathBuf, OpenError> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let base = std::env::temp_dir();
    loop {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = base.join(format!("antiphon-store-{}-{number}", std::process::id()));
        match std::fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            // An earlier process of the same number left it.
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(directory_error(&path, &e)),
        }
    }
}

/// Takes the directory for this process, or names who has it.
fn lock(directory: &Path) -> Result<File, OpenError> {
    let path = directory.join(LOCK_FILE);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|e| directory_error(&path, &e))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            let holder = match file
                .read_to_string(&mut text)
                .map(|_| text.trim().parse::<u32>())
            {
                Ok(Ok(number)) => format!("process {number}"),
                _ => "another process".to_owned(),
            };
            return Err(OpenError::InUse {
                path: directory.to_owned(),
                holder,
            });
        }
        Err(TryLockError::Error(e)) => return Err(directory_error(&path, &e)),
    }
    // For the message above only: the lock is the system's, whatever the file says.
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(|e| directory_error(&path, &e))?;
    Ok(file)
}

/// Makes the file if it is missing: readable by nobody else, since keys lie in it (SQLite gives
/// its log the same mode), and with its name on the disk.
fn create(directory: &Path, file: &Path) -> Result<(), OpenError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(file) {
        Ok(_) => File::open(directory)
            .and_then(|directory| directory.sync_all())
            .map_err(|e| directory_error(directory, &e)),
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(directory_error(file, &e)),
    }
}

/// The connection that writes; the schema is this binary's behind it.
fn writer_connection(file: &Path, now_ms: u64) -> Result<Connection, OpenError> {
    let at = |error: rusqlite::Error| open_error(&error, file);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut db = Connection::open_with_flags(file, flags).map_err(at)?;
    db.busy_timeout(FOREIGN_LOCK).map_err(at)?;
    let found = check(&db, file)?;
    let mode: String = db
        .pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))
        .map_err(at)?;
    if mode != "wal" {
        let reason = format!("the file system allows no write-ahead log (mode {mode})");
        return Err(OpenError::Engine {
            path: file.to_owned(),
            reason,
        });
    }
    // FULL: a commit returns when it is on the disk. NORMAL would lose the last ones in a power
    // cut, and what the server acknowledged is never lost.
    db.pragma_update(None, "synchronous", "full").map_err(at)?;
    db.pragma_update(None, "foreign_keys", true).map_err(at)?;
    db.pragma_update(None, "temp_store", "memory").map_err(at)?;
    db.pragma_update(None, "cache_size", WRITER_CACHE)
        .map_err(at)?;
    // `checkpoint.rs` does it.
    db.pragma_update_and_check(None, "wal_autocheckpoint", 0, |_| Ok(()))
        .map_err(at)?;
    db.pragma_update_and_check(None, "journal_size_limit", LOG_BYTES, |_| Ok(()))
        .map_err(at)?;
    db.set_prepared_statement_cache_capacity(STATEMENTS);
    migrate(&mut db, file, found, now_ms)?;
    Ok(db)
}

/// The connection that copies the write-ahead log into the file.
fn copying_connection(file: &Path) -> Result<Connection, OpenError> {
    let at = |error: rusqlite::Error| open_error(&error, file);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(file, flags).map_err(at)?;
    db.pragma_update(None, "synchronous", "full").map_err(at)?;
    db.pragma_update_and_check(None, "wal_autocheckpoint", 0, |_| Ok(()))
        .map_err(at)?;
    Ok(db)
}

/// How long after an unclean end the messages before it are told to their senders' entities.
const UNCLEAN_DAYS: u64 = 7;

/// Marks that a run begins. If the last one came to no end (lately): the newest message of it.
fn begin_run(db: &Connection, now_ms: u64) -> rusqlite::Result<Option<i64>> {
    let change = db.unchecked_transaction()?;
    let is_unclean = change
        .prepare("SELECT 1 FROM counter WHERE name = 'running'")?
        .exists([])?;
    if is_unclean {
        change.execute(
            "INSERT INTO counter (name, next)
             SELECT 'unclean', COALESCE(MAX(key), 0) FROM message WHERE true
             ON CONFLICT DO UPDATE SET next = excluded.next",
            [],
        )?;
    }
    let recent_ms = now_ms.saturating_sub(UNCLEAN_DAYS * 24 * 60 * 60 * 1000);
    let recent = to_sql(ArchiveId::first_of(recent_ms).0);
    let unclean = change
        .query_row(
            "SELECT next FROM counter WHERE name = 'unclean' AND next >= ?1",
            [recent],
            |row| row.get(0),
        )
        .optional()?;
    change.execute(
        "INSERT OR IGNORE INTO counter (name, next) VALUES ('running', 1)",
        [],
    )?;
    change.commit()?;
    Ok(unclean)
}

/// A connection that only reads, with the index of texts as the schema `search` if it is to search.
fn reader_connection(file: &Path, texts: Option<&Path>) -> Result<Connection, OpenError> {
    let at = |error: rusqlite::Error| open_error(&error, file);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(file, flags).map_err(at)?;
    db.busy_timeout(FOREIGN_LOCK).map_err(at)?;
    db.pragma_update(None, "temp_store", "memory").map_err(at)?;
    db.pragma_update(None, "cache_size", READER_CACHE)
        .map_err(at)?;
    if let Some(texts) = texts {
        // The name goes through SQL, which has texts only.
        let name = texts.to_str().ok_or_else(|| OpenError::Directory {
            path: texts.to_owned(),
            reason: "the name is not UTF-8".to_owned(),
        })?;
        db.execute("ATTACH DATABASE ?1 AS search", [name])
            .map_err(|error| open_error(&error, texts))?;
    }
    db.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(db)
}

fn thread<T: Send + 'static>(
    name: String,
    body: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, OpenError> {
    std::thread::Builder::new()
        .name(name)
        .spawn(body)
        .map_err(|e| OpenError::Thread {
            reason: e.to_string(),
        })
}

fn directory_error(path: &Path, error: &std::io::Error) -> OpenError {
    OpenError::Directory {
        path: path.to_owned(),
        reason: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail")]
    use super::*;

    #[test]
    fn the_writer_syncs_every_commit_and_keeps_foreign_keys() {
        let directory = temporary_directory().unwrap();
        let file = directory.join(FILE);
        create(&directory, &file).unwrap();
        let db = writer_connection(&file, 0).unwrap();
        for (pragma, expected) in [("synchronous", 2), ("foreign_keys", 1)] {
            let value: i64 = db
                .pragma_query_value(None, pragma, |row| row.get(0))
                .unwrap();
            assert_eq!(value, expected, "{pragma}");
        }
        let reader = reader_connection(&file, None).unwrap();
        assert!(reader.execute("DELETE FROM owner", []).is_err());
        drop((db, reader));
        std::fs::remove_dir_all(directory).unwrap();
    }
}
