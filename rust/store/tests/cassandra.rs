//! The contract over the Cassandra engine, and what is its own.
//!
//! Needs a real server: `PYTHONPATH=tests .venv/bin/python -m support.cassandra exec --volatile --
//! cargo test -p antiphon-store --test cassandra`, which sets `ANTIPHON_TEST_CASSANDRA`; without the variable every test passes without having tested anything. Each
//! test has a keyspace of its own, which goes with it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may fail"
)]

#[allow(dead_code, reason = "other engines' own tests use the rest")]
mod cassandra_own;
#[allow(dead_code, reason = "some of it is for the other engine")]
mod contract;

use antiphon_routing::store::{Store, Write};
use antiphon_store::cassandra::{
    Cassandra, CassandraConfig, CassandraOpenError, MIGRATIONS, SCOPE, VERSION_TABLE,
};
use contract::{Place, create, jid, put, record, wait};
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::runtime::Runtime;

/// Where the server is, or one of them; `None`: nothing is tested.
fn server() -> Option<String> {
    let points = std::env::var("ANTIPHON_TEST_CASSANDRA").ok()?;
    points.split(',').next().map(str::to_owned)
}

/// The tests' own way to the server, beside the engine's.
fn shell() -> &'static (Runtime, Session) {
    static SHELL: OnceLock<(Runtime, Session)> = OnceLock::new();
    SHELL.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let connecting = SessionBuilder::new().known_node(server().unwrap());
        let session = runtime.block_on(connecting.build()).expect("a server");
        (runtime, session)
    })
}

fn cql(statement: &str) -> scylla::response::query_result::QueryResult {
    let (runtime, session) = shell();
    let mut statement = scylla::statement::Statement::new(statement);
    statement.set_request_timeout(Some(std::time::Duration::from_secs(30)));
    runtime
        .block_on(session.query_unpaged(statement, ()))
        .expect("a statement of the test")
}

/// A keyspace that goes with the test.
struct Keyspace(String);

impl Drop for Keyspace {
    fn drop(&mut self) {
        let name = &self.0;
        let (runtime, session) = shell();
        let _ = runtime.block_on(session.query_unpaged(format!("DROP KEYSPACE {name}"), ()));
    }
}

impl Keyspace {
    fn empty() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("contract_{}_{number}", std::process::id());
        cql(&format!("DROP KEYSPACE IF EXISTS {name}"));
        cql(&format!(
            "CREATE KEYSPACE {name} WITH replication = \
             {{'class': 'NetworkTopologyStrategy', 'replication_factor': 1}}"
        ));
        Self(name)
    }

    fn config(&self) -> CassandraConfig {
        CassandraConfig {
            clock: Arc::new(|| 1_700_000_000_123),
            ..CassandraConfig::new(vec![server().unwrap()], &self.0)
        }
    }

    fn cql(&self, statement: &str) -> scylla::response::query_result::QueryResult {
        cql(&statement.replace("KS.", &format!("{}.", self.0)))
    }

    /// As `antiphon migrate` does.
    fn migrate(&self) {
        let table = |statement: &str| {
            let prefixes = ["CREATE TABLE IF NOT EXISTS ", "ALTER TABLE "];
            let known = |prefix: &&str| statement.starts_with(*prefix);
            let prefix = prefixes.into_iter().find(known).expect("only tables");
            let rest = &statement[prefix.len()..];
            cql(&format!("{prefix}{}.{rest}", self.0));
        };
        table(VERSION_TABLE);
        for migration in MIGRATIONS {
            migration.statements().for_each(|s| table(&s));
            let (version, name, readers) = (migration.version, migration.name, migration.readers());
            self.cql(&format!(
                "INSERT INTO KS.schema_version (scope, version, name, readers, applied_ms) \
                 VALUES ('{SCOPE}', {version}, '{name}', {readers}, 0)"
            ));
        }
    }
}

impl Place for Keyspace {
    fn is_there(_part: &str) -> bool {
        server().is_some()
    }

    fn new() -> Self {
        let keyspace = Self::empty();
        keyspace.migrate();
        keyspace
    }

    fn open(&self, queue: usize) -> Arc<dyn Store> {
        let config = CassandraConfig {
            queue,
            ..self.config()
        };
        Arc::new(Cassandra::open(config).expect("opened"))
    }

    fn now_ms(&self) -> u64 {
        1_700_000_000_123
    }
}

contract_suite!(Keyspace);

fn refusal(config: CassandraConfig) -> (CassandraOpenError, String) {
    let error = Cassandra::open(config).expect_err("refused");
    let line = error.to_string();
    assert!(!line.contains('\n'), "{line}");
    (error, line)
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let config = CassandraConfig {
        connect_wait: Duration::from_secs(3),
        ..CassandraConfig::new(vec!["127.0.0.1:1".into()], "antiphon")
    };
    let (error, line) = refusal(config);
    assert!(
        matches!(error, CassandraOpenError::Unreachable { .. }),
        "{line}"
    );
    assert!(
        line.contains("127.0.0.1:1") && line.contains("contact_points"),
        "{line}"
    );
}

#[test]
fn a_missing_or_old_or_new_schema_is_refused_with_what_to_do() {
    if server().is_none() {
        return;
    }
    let keyspace = Keyspace::empty();
    let behind = |config: CassandraConfig| {
        let (error, line) = refusal(config);
        assert!(matches!(error, CassandraOpenError::Schema { .. }), "{line}");
        assert!(line.contains("antiphon migrate"), "{line}");
    };
    behind(CassandraConfig::new(
        vec![server().unwrap()],
        "no_such_keyspace",
    ));
    behind(keyspace.config());
    keyspace.migrate();
    let newer = |version: u32, readers: u32| {
        keyspace.cql(&format!(
            "INSERT INTO KS.schema_version (scope, version, name, readers, applied_ms) \
             VALUES ('{SCOPE}', {version}, 'future', {readers}, 0)"
        ));
    };
    // One that this version can work with, and one that it cannot.
    newer(4711, 1);
    Cassandra::open(keyspace.config()).unwrap().close();
    newer(4712, 4712);
    let (_, line) = refusal(keyspace.config());
    assert!(
        line.contains("4712") && line.contains("newer antiphon"),
        "{line}"
    );
}

#[test]
fn a_data_centre_that_is_not_there_is_named() {
    if server().is_none() {
        return;
    }
    let keyspace = Keyspace::empty();
    let config = CassandraConfig {
        local_datacenter: Some("atlantis".into()),
        ..keyspace.config()
    };
    let (error, line) = refusal(config);
    assert!(
        matches!(error, CassandraOpenError::Datacenter { .. }),
        "{line}"
    );
    assert!(line.contains("atlantis"), "{line}");
}

fn rows(keyspace: &Keyspace, statement: &str) -> usize {
    let answer = keyspace.cql(statement).into_rows_result().unwrap();
    answer.rows_num()
}

#[test]
fn what_a_death_left_half_done_is_no_account_and_can_be_made() {
    if server().is_none() {
        return;
    }
    let keyspace = Keyspace::new();
    let store = keyspace.open(100);
    create(&*store, "romeo@a.example");
    // Dead before the account was made: only the index has it.
    keyspace.cql(
        "INSERT INTO KS.account_index (domain, bucket, localpart) VALUES ('a.example', 3, 'ghost')",
    );
    let listed = wait(store.accounts("a.example", None, 10)).unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(wait(store.account_count("a.example")).unwrap(), 1);
    // Dead before the index learnt of it.
    keyspace.cql("DELETE created_ms, is_enabled FROM KS.account_index WHERE domain = 'a.example' AND bucket = 3 AND localpart = 'ghost'");
    create(&*store, "ghost@a.example");
    let listed = wait(store.accounts("a.example", None, 10)).unwrap();
    let names: Vec<_> = listed.iter().map(|a| a.jid.as_str()).collect();
    assert!(names.contains(&"romeo@a.example") && names.contains(&"ghost@a.example"));
    assert_eq!(wait(store.account_count("a.example")).unwrap(), 2);
}

#[test]
fn deletion_leaves_no_row_in_any_table() {
    if server().is_none() {
        return;
    }
    let keyspace = Keyspace::new();
    let store = keyspace.open(100);
    let romeo = create(&*store, "romeo@a.example");
    let jids = vec![jid("a.example")];
    let (owner, stanza) = (romeo.clone(), b"x".as_slice().into());
    put(&*store, Write::BlockAdd { owner, jids }).unwrap();
    let (owner, at_ms) = (romeo.clone(), 1);
    put(
        &*store,
        Write::OfflineAppend {
            owner,
            at_ms,
            stanza,
        },
    )
    .unwrap();
    let message = contract::archive::message(&romeo, "x@b.example", romeo.as_str(), 1, "x");
    put(&*store, contract::archive::keep(&romeo, message)).unwrap();
    let (owner, before) = (romeo.clone(), contract::archive::at(0));
    let purge = Write::ArchivePurge {
        owner,
        peer: None,
        before,
    };
    put(&*store, purge).unwrap();
    put(&*store, Write::AccountDelete { jid: romeo }).unwrap();
    for table in [
        "entity",
        "account_index",
        "offline",
        "entity_map",
        "archive",
        "archive_peer",
        "archive_bucket",
        "inbox",
        "fts_seg",
    ] {
        assert_eq!(
            rows(&keyspace, &format!("SELECT * FROM KS.{table}")),
            0,
            "{table}"
        );
    }
}

#[test]
fn a_timestamp_of_a_faster_clock_is_not_undercut() {
    if server().is_none() {
        return;
    }
    let keyspace = Keyspace::new();
    let store = keyspace.open(100);
    let romeo = create(&*store, "romeo@a.example");
    // Another node, half a second ahead, was here before.
    let ahead = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_micros()
        + 30_000_000;
    keyspace.cql(&format!(
        "UPDATE KS.entity USING TIMESTAMP {ahead} SET last_seen_ms = 1, last_status = 'ahead' \
         WHERE owner = 'romeo@a.example' AND kind = 1 AND key = ''"
    ));
    assert_eq!(record(&*store, &romeo).last_status, "ahead");
    let (owner, status) = (romeo.clone(), "behind".to_owned());
    put(
        &*store,
        Write::LastSeen {
            owner,
            at_ms: 2,
            status,
        },
    )
    .unwrap();
    assert_eq!(record(&*store, &romeo).last_status, "behind");
}

#[test]
fn offline_messages_are_deleted_as_a_range() {
    if server().is_none() {
        return;
    }
    let keyspace = Keyspace::new();
    let store = keyspace.open(10_000);
    let romeo = create(&*store, "romeo@a.example");
    for n in 0..300u32 {
        let (owner, stanza) = (romeo.clone(), n.to_be_bytes().into());
        contract::queue(
            &*store,
            Write::OfflineAppend {
                owner,
                at_ms: 1,
                stanza,
            },
        );
    }
    let all = wait(store.offline(&romeo, 0, 1000)).unwrap();
    let ids: Vec<u64> = all.iter().take(200).map(|record| record.id).collect();
    let (owner, before) = (romeo.clone(), ids.len());
    put(&*store, Write::OfflineDelete { owner, ids }).unwrap();
    assert_eq!(wait(store.offline(&romeo, 0, 1000)).unwrap(), all[before..]);
    // Holes too.
    let ids = vec![all[200].id, all[202].id, all[299].id, 1, u64::MAX];
    let owner = romeo.clone();
    put(&*store, Write::OfflineDelete { owner, ids }).unwrap();
    let left = wait(store.offline(&romeo, 0, 1000)).unwrap();
    assert_eq!(left.len(), 97);
    assert_eq!(left[0], all[201]);
    assert_eq!(left[1], all[203]);
}
