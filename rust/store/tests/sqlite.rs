//! The contract over the SQLite engine, and what is its own: the file, its lock, its versions.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may fail"
)]

mod contract;
#[cfg(unix)]
mod crash;

use antiphon_routing::archive::{Edit, InboxChange, Reference};
use antiphon_routing::store::{Store, StoreError, Write};
use antiphon_store::sqlite::{OpenError, Retention, Sqlite, SqliteConfig};
use antiphon_xmpp::Jid;
use contract::archive::{JULIET, ROMEO, at, keep, message, pair, purge, stanza, tell};
use contract::{Place, Stalled, create, credentials, jid, put, record, wait};
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// A directory that goes with the test.
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Directory {
    fn config(&self) -> SqliteConfig {
        SqliteConfig {
            clock: Arc::new(|| 1_700_000_000_123),
            ..SqliteConfig::new(&self.0)
        }
    }

    fn file(&self) -> PathBuf {
        self.0.join("antiphon.db")
    }

    /// The one line that opening ends with.
    fn refusal(&self) -> (OpenError, String) {
        let error = Sqlite::open(self.config()).expect_err("refused");
        let line = error.to_string();
        assert!(
            !line.contains('\n') && line.contains(self.0.to_str().unwrap()),
            "{line}"
        );
        (error, line)
    }
}

impl Place for Directory {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("antiphon-contract-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&path);
        Self(path)
    }

    fn open(&self, queue: usize) -> Arc<dyn Store> {
        Arc::new(
            Sqlite::open(SqliteConfig {
                queue,
                ..self.config()
            })
            .expect("opened"),
        )
    }

    fn now_ms(&self) -> u64 {
        1_700_000_000_123
    }
}

contract_suite!(Directory);

fn open(directory: &Directory) -> Sqlite {
    Sqlite::open(directory.config()).expect("opened")
}

#[test]
fn a_missing_directory_is_made() {
    let directory = Directory::new();
    let nested = directory.0.join("a/b");
    Sqlite::open(SqliteConfig::new(&nested)).unwrap().close();
    assert!(nested.join("antiphon.db").is_file());
}

#[cfg(unix)]
#[test]
fn nobody_else_can_read_the_file() {
    use std::os::unix::fs::PermissionsExt;
    let directory = Directory::new();
    let store = open(&directory);
    create(&store, "romeo@montague.example");
    for name in ["antiphon.db", "antiphon.db-wal"] {
        let mode = directory
            .0
            .join(name)
            .metadata()
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[test]
fn a_second_engine_on_the_directory_is_refused() {
    let directory = Directory::new();
    let first = open(&directory);
    let (error, line) = directory.refusal();
    assert!(matches!(error, OpenError::InUse { .. }));
    assert!(
        line.contains(&format!("process {}", std::process::id())),
        "{line}"
    );
    first.close();
    open(&directory).close();
}

#[test]
fn a_file_that_another_program_has_locked_is_refused() {
    let directory = Directory::new();
    open(&directory).close();
    let shell = Connection::open(directory.file()).unwrap();
    shell
        .execute_batch("PRAGMA locking_mode=EXCLUSIVE; BEGIN EXCLUSIVE; DELETE FROM map")
        .unwrap();
    let (error, line) = directory.refusal();
    assert!(matches!(error, OpenError::Locked { .. }), "{line}");
    drop(shell);
    open(&directory).close();
}

#[test]
fn a_file_of_a_newer_version_is_refused_and_left_alone() {
    let directory = Directory::new();
    open(&directory).close();
    let shell = Connection::open(directory.file()).unwrap();
    shell
        .execute("INSERT INTO schema_version VALUES (4711, 'future', 0)", [])
        .unwrap();
    drop(shell);
    let (error, line) = directory.refusal();
    assert!(matches!(error, OpenError::Newer { found: 4711, .. }));
    assert!(
        line.contains("4711") && line.contains("newer antiphon"),
        "{line}"
    );
}

#[test]
fn a_file_that_is_not_ours_is_refused_and_left_alone() {
    let foreign = |content: &dyn Fn(&Path)| {
        let directory = Directory::new();
        std::fs::create_dir_all(&directory.0).unwrap();
        content(&directory.file());
        let before = std::fs::read(directory.file()).unwrap();
        let (error, line) = directory.refusal();
        assert!(matches!(error, OpenError::Foreign { .. }), "{line}");
        before == std::fs::read(directory.file()).unwrap()
    };
    assert!(foreign(&|file| std::fs::write(
        file,
        "not a database ".repeat(1000)
    )
    .unwrap()));
    let other = |file: &Path| {
        Connection::open(file)
            .unwrap()
            .execute_batch("CREATE TABLE t (x)")
            .unwrap();
    };
    assert!(foreign(&other));
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let directory = Directory::new();
    std::fs::write(&directory.0, "a file").unwrap();
    let (error, line) = directory.refusal();
    assert!(matches!(error, OpenError::Directory { .. }));
    assert!(line.contains("data_dir"), "{line}");
    std::fs::remove_file(&directory.0).unwrap();
}

#[test]
fn a_closed_store_is_one_whole_file() {
    let directory = Directory::new();
    let store = open(&directory);
    let romeo = create(&store, "romeo@montague.example");
    store.close();
    assert!(!directory.0.join("antiphon.db-wal").exists());
    let shell = Connection::open(directory.file()).unwrap();
    let mode: String = shell
        .pragma_query_value(None, "journal_mode", |row| row.get(0))
        .unwrap();
    assert_eq!(mode, "wal");
    let check: String = shell
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(check, "ok");
    drop(shell);
    assert!(wait(open(&directory).user(&romeo)).unwrap().is_some());
}

/// Waits until a query of the file gives a number.
fn until(directory: &Directory, sql: &str, expected: i64) {
    let shell = Connection::open(directory.file()).unwrap();
    let begin = std::time::Instant::now();
    loop {
        let found: i64 = shell.query_row(sql, [], |row| row.get(0)).unwrap();
        if found == expected {
            return;
        }
        assert!(begin.elapsed() < contract::PATIENCE, "{sql}: {found}");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// Documents of the index that have a word or belong to somebody.
fn documents(directory: &Directory) -> i64 {
    let shell = Connection::open(directory.0.join("search.db")).unwrap();
    shell
        .query_row("SELECT COUNT(*) FROM body_docsize", [], |row| row.get(0))
        .unwrap()
}

#[test]
fn deletion_leaves_no_row_in_any_table() {
    let directory = Directory::new();
    let store = open(&directory);
    let romeo = create(&store, "romeo@montague.example");
    let stanza: Box<[u8]> = b"x".as_slice().into();
    put(
        &store,
        Write::OfflineAppend {
            owner: romeo.clone(),
            at_ms: 1,
            stanza,
        },
    )
    .unwrap();
    put(
        &store,
        Write::BlockAdd {
            owner: romeo.clone(),
            jids: vec![jid("a.example")],
        },
    )
    .unwrap();
    for n in 0..700 {
        let mut record = message(&romeo, "x@a.example", romeo.as_str(), n, "text");
        record.offline_at_ms = Some(1);
        contract::queue(&store, keep(&romeo, record));
    }
    put(&store, Write::AccountDelete { jid: romeo.clone() }).unwrap();
    until(&directory, "SELECT COUNT(*) FROM purge", 0);
    // Those who search afterwards wait until the index has all.
    let juliet = create(&store, "juliet@capulet.example");
    contract::search::settle(&store, &juliet);
    assert_eq!(documents(&directory), 0);
    put(&store, Write::AccountDelete { jid: juliet }).unwrap();
    store.close();
    let shell = Connection::open(directory.file()).unwrap();
    for table in [
        "owner",
        "scram_key",
        "roster",
        "request",
        "blocked",
        "offline",
        "map",
        "conversation",
        "message",
        "archive",
        "thread",
        "archive_owner",
        "purge",
    ] {
        let sql = format!("SELECT COUNT(*) FROM {table}");
        let rows: i64 = shell.query_row(&sql, [], |row| row.get(0)).unwrap();
        assert_eq!(rows, 0, "{table}");
    }
}

#[test]
fn a_content_goes_when_the_last_archive_has_dropped_it() {
    let directory = Directory::new();
    let store = open(&directory);
    let [romeo, juliet] = pair(&store);
    for n in 0..600 {
        tell(&store, ROMEO, JULIET, n, "text");
    }
    until(&directory, "SELECT COUNT(*) FROM message", 600);
    put(&store, purge(&romeo, None, at(500))).unwrap();
    until(&directory, "SELECT COUNT(*) FROM archive", 700);
    until(&directory, "SELECT COUNT(*) FROM message", 600);
    put(&store, purge(&juliet, Some(ROMEO), at(300))).unwrap();
    until(&directory, "SELECT COUNT(*) FROM message", 300);
    until(&directory, "SELECT COUNT(*) FROM thread", 400);
    contract::search::settle(&store, &romeo);
    assert_eq!(documents(&directory), 300);
    assert_eq!(contract::archive::all(&store, &juliet).len(), 300);
    // An offline message waits on, whatever its recipient keeps.
    let mut record = message(&romeo, JULIET, ROMEO, 700, "waits");
    record.offline_at_ms = Some(1);
    put(&store, keep(&romeo, record)).unwrap();
    put(&store, purge(&romeo, None, at(800))).unwrap();
    until(&directory, "SELECT COUNT(*) FROM purge", 0);
    let waiting = wait(store.offline(&romeo, 0, 10)).unwrap();
    assert_eq!(*waiting[0].stanza, *stanza(JULIET, ROMEO, 700, "waits"));
    store.close();
}

#[test]
fn archives_keep_as_much_as_they_may() {
    let directory = Directory::new();
    // The messages are seconds apart, the clock stands at the first one's day and a bit.
    let config = |days, messages| SqliteConfig {
        retention: Retention {
            days,
            messages,
            bin_days: None,
        },
        clock: Arc::new(|| at(24 * 60 * 60 + 400).ms()),
        ..directory.config()
    };
    let store = open(&directory);
    let [romeo, juliet] = pair(&store);
    for n in 0..1000 {
        tell(&store, ROMEO, JULIET, n, "x");
    }
    let dust = create(&store, "dust@a.example");
    for n in 0..10 {
        tell(&store, "x@b.example", "dust@a.example", 990 + n, "x");
    }
    store.close();
    let store = Sqlite::open(config(Some(1), None)).unwrap();
    until(&directory, "SELECT COUNT(*) FROM archive", 1210);
    assert_eq!(
        contract::archive::all(&store, &romeo),
        (400..1000).collect::<Vec<_>>()
    );
    store.close();
    let store = Sqlite::open(config(None, Some(100))).unwrap();
    until(&directory, "SELECT COUNT(*) FROM archive", 210);
    assert_eq!(
        contract::archive::all(&store, &juliet),
        (900..1000).collect::<Vec<_>>()
    );
    assert_eq!(contract::archive::all(&store, &dust).len(), 10);
    until(&directory, "SELECT COUNT(*) FROM message", 110);
}

#[test]
fn the_bin_is_emptied_in_time() {
    let directory = Directory::new();
    let store = open(&directory);
    let [romeo, _] = pair(&store);
    for n in 0..6 {
        tell(&store, &format!("p{n}@b.example"), ROMEO, n * 100, "x");
    }
    for n in 0..5 {
        put(&store, into_bin(&romeo, &format!("p{n}@b.example"))).unwrap();
    }
    store.close();
    let config = SqliteConfig {
        retention: Retention {
            days: None,
            messages: None,
            bin_days: Some(1),
        },
        clock: Arc::new(|| at(24 * 60 * 60 + 250).ms()),
        ..directory.config()
    };
    let store = Sqlite::open(config).unwrap();
    let binned = "SELECT COUNT(*) FROM conversation WHERE box = 'bin'";
    until(&directory, binned, 2);
    let entries = "SELECT COUNT(*) FROM conversation WHERE last_id IS NOT NULL";
    until(&directory, entries, 3);
    assert_eq!(contract::archive::all(&store, &romeo).len(), 6);
    // What comes later begins the conversation again.
    tell(&store, "p0@b.example", ROMEO, 700, "x");
    until(&directory, entries, 4);
    until(&directory, binned, 2);
}

fn into_bin(owner: &Jid, peer: &str) -> Write {
    Write::InboxSet {
        owner: owner.clone(),
        peer: jid(peer),
        change: InboxChange {
            in_box: Some("bin".into()),
            ..InboxChange::default()
        },
    }
}

#[test]
fn a_lost_or_foreign_index_is_made_anew() {
    let directory = Directory::new();
    let texts = directory.0.join("search.db");
    let store = open(&directory);
    let [romeo, juliet] = pair(&store);
    for n in 0..50 {
        tell(&store, ROMEO, JULIET, n, "needle");
    }
    let edit = Write::ArchiveEdit {
        owner: romeo.clone(),
        peer: juliet.clone(),
        is_out: true,
        target: Reference::Id(at(7)),
        edit: Edit::Supersede,
    };
    put(&store, edit).unwrap();
    store.close();
    let spoil: [&dyn Fn(); 4] = [
        &|| std::fs::remove_file(&texts).unwrap(),
        &|| std::fs::write(&texts, "no database ".repeat(500)).unwrap(),
        &|| {
            let shell = Connection::open(&texts).unwrap();
            let sql = "UPDATE state SET value = value + 1 WHERE name = 'tokenizer'";
            shell.execute(sql, []).unwrap();
        },
        &|| {
            // It is ahead of a main file that came out of a backup.
            let shell = Connection::open(&texts).unwrap();
            let sql = "UPDATE state SET value = value + 1000 WHERE name = 'indexed'";
            shell.execute(sql, []).unwrap();
        },
    ];
    for spoil in spoil {
        spoil();
        let store = open(&directory);
        contract::search::settle(&store, &romeo);
        assert_eq!(documents(&directory), 50);
        assert_eq!(contract::search::search(&store, &romeo, "needle").len(), 49);
        assert_eq!(
            contract::search::search(&store, &juliet, "needle").len(),
            50
        );
        assert!(!store.stats().is_search_rebuilding);
        store.close();
    }
}

#[test]
fn the_index_takes_up_what_a_killed_one_left_in_its_log() {
    let directory = Directory::new();
    let store = open(&directory);
    let [romeo, _] = pair(&store);
    for n in 0..30 {
        tell(&store, ROMEO, JULIET, n, "needle");
    }
    contract::search::settle(&store, &romeo);
    // Closed at once: the changes of the last commits are in the log alone.
    for n in 30..50 {
        tell(&store, ROMEO, JULIET, n, "needle");
    }
    store.close();
    let store = open(&directory);
    assert_eq!(contract::search::search(&store, &romeo, "needle").len(), 50);
    assert_eq!(store.stats().search_behind, 0);
    // The log is cut with one of the next commits.
    tell(&store, ROMEO, JULIET, 50, "needle");
    until(&directory, "SELECT COUNT(*) <= 2 FROM search_log", 1);
    assert_eq!(store.stats().background_errors, 0);
}

#[test]
fn the_queue_is_bounded_by_memory_too() {
    let directory = Directory::new();
    let config = SqliteConfig {
        queue_bytes: 10_000,
        ..directory.config()
    };
    let store = Sqlite::open(config).unwrap();
    let romeo = create(&store, "romeo@montague.example");
    let append = |length: usize| Write::OfflineAppend {
        owner: romeo.clone(),
        at_ms: 1,
        stanza: vec![1; length].into(),
    };
    let stalled = Stalled::new(&store, append(1));
    let (told, tell) = std::sync::mpsc::channel();
    // Alone in the queue, even what is larger than the bound passes.
    store.write(append(20_000), contract::tell_into(&told));
    assert!(tell.try_recv().is_err());
    assert_eq!(store.stats().queued, 1);
    assert!(store.stats().queued_bytes >= 20_000);
    store.write(append(1), contract::tell_into(&told));
    assert_eq!(tell.try_recv(), Ok(Err(StoreError::Busy)));
    drop(stalled);
    assert_eq!(tell.recv_timeout(contract::PATIENCE).unwrap(), Ok(()));
    assert_eq!(record(&store, &romeo).offline, 2);
}

#[test]
fn writes_that_gather_share_a_commit() {
    let directory = Directory::new();
    let store = open(&directory);
    let romeo = create(&store, "romeo@montague.example");
    let append = || Write::OfflineAppend {
        owner: romeo.clone(),
        at_ms: 1,
        stanza: b"x".as_slice().into(),
    };
    let stalled = Stalled::new(&store, append());
    let before = store.stats();
    for _ in 0..100 {
        contract::queue(&store, append());
    }
    drop(stalled);
    assert_eq!(record(&store, &romeo).offline, 101);
    let after = store.stats();
    assert_eq!(after.commits - before.commits, 1);
    assert_eq!(after.committed - before.committed, 100);
    put(
        &store,
        Write::AccountDelete {
            jid: jid("nobody@a.example"),
        },
    )
    .unwrap_err();
    assert_eq!((store.stats().refused, store.stats().failed), (1, 0));
}

#[test]
fn a_foreign_lock_is_busy_and_passes() {
    let directory = Directory::new();
    let store = open(&directory);
    let romeo = create(&store, "romeo@montague.example");
    let seen = |at_ms| Write::LastSeen {
        owner: romeo.clone(),
        at_ms,
        status: String::new(),
    };
    let shell = Connection::open(directory.file()).unwrap();
    shell.execute_batch("BEGIN IMMEDIATE").unwrap();
    // All that wait fail together, and not each after its own wait for the lock.
    let (told, tell) = std::sync::mpsc::channel();
    for _ in 0..20 {
        store.write(seen(1), contract::tell_into(&told));
    }
    for _ in 0..20 {
        let outcome = tell.recv_timeout(std::time::Duration::from_secs(10));
        assert_eq!(outcome, Ok(Err(StoreError::Busy)));
    }
    // Reads go on.
    assert_eq!(record(&store, &romeo).last_seen_ms, 0);
    shell.execute_batch("ROLLBACK").unwrap();
    put(&store, seen(2)).unwrap();
    assert_eq!(record(&store, &romeo).last_seen_ms, 2);
    assert_eq!(store.stats().failed, 20);
}

#[test]
fn one_write_that_the_engine_fails_fails_alone() {
    let directory = Directory::new();
    let store = open(&directory);
    let romeo = create(&store, "romeo@montague.example");
    // Stands for any fault that one write alone meets.
    let shell = Connection::open(directory.file()).unwrap();
    shell
        .execute_batch(
            "CREATE TRIGGER fault BEFORE INSERT ON offline WHEN NEW.at_ms = 13
             BEGIN SELECT RAISE(ROLLBACK, 'the fault of the test'); END",
        )
        .unwrap();
    let append = |at_ms| Write::OfflineAppend {
        owner: romeo.clone(),
        at_ms,
        stanza: b"x".as_slice().into(),
    };
    let stalled = Stalled::new(&store, append(1));
    let (told, tell) = std::sync::mpsc::channel();
    let new = jid("tybalt@montague.example");
    for at_ms in 2..30 {
        store.write(append(at_ms), contract::tell_into(&told));
        if at_ms == 5 {
            let account = Write::AccountCreate {
                jid: new.clone(),
                credentials: credentials(1),
            };
            contract::queue(&store, account);
        }
    }
    drop(stalled);
    for at_ms in 2..30 {
        let outcome = tell.recv_timeout(contract::PATIENCE).unwrap();
        if at_ms == 13 {
            let Err(StoreError::Engine(text)) = outcome else {
                panic!("{outcome:?}")
            };
            assert!(text.contains("the fault of the test"), "{text}");
        } else {
            assert_eq!(outcome, Ok(()), "{at_ms}");
        }
    }
    let stored = wait(store.offline(&romeo, 0, 100)).unwrap();
    let times: Vec<u64> = stored.iter().map(|record| record.at_ms).collect();
    assert!(times.into_iter().eq((1..30).filter(|at_ms| *at_ms != 13)));
    assert!(stored.windows(2).all(|pair| pair[0].id < pair[1].id));
    assert!(wait(store.user(&new)).unwrap().is_some());
}

#[test]
fn a_temporary_store_goes_with_its_handle() {
    let store = Sqlite::open_temporary().unwrap();
    let romeo = create(&store, "romeo@montague.example");
    assert!(wait(store.user(&romeo)).unwrap().is_some());
}

#[test]
fn an_entry_that_is_no_address_is_named_and_not_skipped() {
    let directory = Directory::new();
    let store = open(&directory);
    let romeo = create(&store, "romeo@montague.example");
    let shell = Connection::open(directory.file()).unwrap();
    shell
        .execute("INSERT INTO blocked SELECT id, '@@' FROM owner", [])
        .unwrap();
    assert!(matches!(
        wait(store.user(&romeo)),
        Err(StoreError::Engine(_))
    ));
    assert!(wait(store.credentials(&romeo)).unwrap().is_some());
}
