//! The cache over the real engine.

use super::*;
use antiphon_routing::store::StoreError;
use antiphon_store::Sqlite;
use antiphon_xmpp::sasl::{ScramHash, ScramKeys};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// The engine, with its reads of credentials counted.
struct Counted {
    engine: Arc<Sqlite>,
    reads: AtomicUsize,
}

impl Store for Counted {
    fn write(&self, write: Write, done: Done) {
        self.engine.write(write, done);
    }
    fn user(&self, jid: &Jid) -> StoreFuture<Option<UserRecord>> {
        self.engine.user(jid)
    }
    fn credentials(&self, jid: &Jid) -> StoreFuture<Option<Credentials>> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.engine.credentials(jid)
    }
    fn accounts(
        &self,
        domain: &str,
        after: Option<&str>,
        limit: usize,
    ) -> StoreFuture<Vec<AccountSummary>> {
        self.engine.accounts(domain, after, limit)
    }
    fn account_count(&self, domain: &str) -> StoreFuture<u64> {
        self.engine.account_count(domain)
    }
    fn offline(&self, owner: &Jid, after: u64, limit: usize) -> StoreFuture<Vec<OfflineRecord>> {
        self.engine.offline(owner, after, limit)
    }
    fn map_get(&self, owner: &Jid, kind: MapKind, key: &str) -> StoreFuture<Option<Box<[u8]>>> {
        self.engine.map_get(owner, kind, key)
    }
    fn map_keys(&self, owner: &Jid, kind: MapKind, prefix: &str) -> StoreFuture<Vec<String>> {
        self.engine.map_keys(owner, kind, prefix)
    }
    antiphon_routing::forward_archive!(engine);

    fn close(&self) {
        self.engine.close();
    }
}

fn store() -> (Cached, Arc<Counted>) {
    let engine = Arc::new(Counted {
        engine: Arc::new(Sqlite::open_temporary().unwrap()),
        reads: AtomicUsize::new(0),
    });
    (Cached::new(Arc::clone(&engine) as _, &[7; 32]), engine)
}

fn wait<T>(mut future: StoreFuture<T>) -> T {
    let mut cx = Context::from_waker(Waker::noop());
    loop {
        match future.as_mut().poll(&mut cx) {
            Poll::Ready(result) => return result.unwrap(),
            Poll::Pending => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

fn put(store: &Cached, write: Write) -> mpsc::Receiver<Result<(), StoreError>> {
    let (done, receiver) = mpsc::channel();
    store.write(write, Box::new(move |result| done.send(result).unwrap()));
    receiver
}

fn commit(store: &Cached, write: Write) {
    put(store, write).recv().unwrap().unwrap();
}

fn romeo() -> Jid {
    Jid::parse("romeo@example.org").unwrap()
}

fn credentials(password: &str) -> Credentials {
    Credentials {
        keys: vec![ScramKeys::derive(
            ScramHash::Sha256,
            password,
            b"0123456789abcdef",
            2,
        )],
        is_enabled: true,
    }
}

fn with_romeo() -> (Cached, Arc<Counted>) {
    let (store, engine) = store();
    let create = Write::AccountCreate {
        jid: romeo(),
        credentials: credentials("old"),
    };
    commit(&store, create);
    (store, engine)
}

fn seen(at_ms: u64) -> Write {
    Write::LastSeen {
        owner: romeo(),
        at_ms,
        status: "gone".into(),
    }
}

fn stored_seen(engine: &Counted) -> u64 {
    wait(engine.user(&romeo())).unwrap().last_seen_ms
}

#[test]
fn credentials_are_read_once() {
    let (store, engine) = with_romeo();
    for _ in 0..3 {
        let found = wait(store.credentials(&romeo()));
        assert_eq!(found, Some(credentials("old")));
    }
    assert_eq!(engine.reads.load(Ordering::Relaxed), 1);
}

#[test]
fn a_change_of_password_is_seen_at_once() {
    let (store, _) = with_romeo();
    wait(store.credentials(&romeo()));
    // Not awaited: the next login may come before the commit.
    let _committed = put(
        &store,
        Write::AccountUpdate {
            jid: romeo(),
            credentials: credentials("new"),
        },
    );
    let found = wait(store.credentials(&romeo()));
    assert_eq!(found, Some(credentials("new")));
}

#[test]
fn what_was_read_before_a_change_is_not_kept() {
    let (store, _) = with_romeo();
    let early = store.credentials(&romeo());
    commit(
        &store,
        Write::AccountPut {
            jid: romeo(),
            credentials: credentials("new"),
        },
    );
    wait(early);
    let found = wait(store.credentials(&romeo()));
    assert_eq!(found, Some(credentials("new")));
}

#[test]
fn a_disabled_and_a_deleted_account_are_seen_at_once() {
    let (store, _) = with_romeo();
    wait(store.credentials(&romeo()));
    let disabled = Credentials {
        is_enabled: false,
        ..credentials("old")
    };
    commit(
        &store,
        Write::AccountUpdate {
            jid: romeo(),
            credentials: disabled.clone(),
        },
    );
    assert_eq!(wait(store.credentials(&romeo())), Some(disabled));
    commit(&store, Write::AccountDelete { jid: romeo() });
    assert_eq!(wait(store.credentials(&romeo())), None);
}

#[test]
fn a_proof_holds_for_its_password_until_the_account_changes() {
    let (store, _) = with_romeo();
    let old = wait(store.credentials(&romeo())).unwrap();
    assert!(!store.is_proven(&romeo(), &old, "old"));
    store.prove(&romeo(), &old, "old");
    assert!(store.is_proven(&romeo(), &old, "old"));
    assert!(!store.is_proven(&romeo(), &old, "old "));
    assert!(!store.is_proven(&romeo(), &credentials("new"), "old"));
    commit(
        &store,
        Write::AccountUpdate {
            jid: romeo(),
            credentials: credentials("new"),
        },
    );
    let new = wait(store.credentials(&romeo())).unwrap();
    assert!(!store.is_proven(&romeo(), &new, "old"));
    // One that was worked out meanwhile comes too late.
    store.prove(&romeo(), &old, "old");
    assert!(!store.is_proven(&romeo(), &old, "old"));
}

#[test]
fn no_number_of_accounts_makes_the_known_ones_grow_without_bound() {
    let mut recent = Recent::default();
    let first = Jid::parse("first@example.org").unwrap();
    let known = || Known {
        credentials: Credentials {
            keys: Vec::new(),
            is_enabled: true,
        },
        proof: None,
    };
    recent.keep(first.clone(), known());
    for n in 0..3 * GENERATION {
        recent.keep(Jid::parse(&format!("u{n}@example.org")).unwrap(), known());
        if n < GENERATION {
            // In use, so it stays.
            assert!(recent.find(&first).is_some());
        }
    }
    assert!(recent.find(&first).is_none());
    assert!(recent.young.len() + recent.old.len() <= 2 * GENERATION);
}

#[test]
fn who_has_not_logged_in_for_long_is_read_again() {
    let (store, engine) = with_romeo();
    wait(store.credentials(&romeo()));
    store.tick(GENERATION_MS);
    store.tick(2 * GENERATION_MS);
    wait(store.credentials(&romeo()));
    assert_eq!(engine.reads.load(Ordering::Relaxed), 2);
}

#[test]
fn the_latest_last_activity_is_seen_at_once_and_written_by_the_tick() {
    let (store, engine) = with_romeo();
    let first = put(&store, seen(1));
    let second = put(&store, seen(2));
    first.recv().unwrap().unwrap();
    assert!(second.try_recv().is_err());
    let record = wait(store.user(&romeo())).unwrap();
    assert_eq!((record.last_seen_ms, &*record.last_status), (2, "gone"));
    assert_eq!(stored_seen(&engine), 0);
    store.tick(0);
    second.recv().unwrap().unwrap();
    assert_eq!(stored_seen(&engine), 2);
    assert_eq!(wait(store.user(&romeo())).unwrap().last_seen_ms, 2);
    assert_eq!(store.waiting.lock().bytes, 0);
}

#[test]
fn last_activity_of_a_deleted_account_is_not_that_of_the_next_one() {
    let (store, engine) = with_romeo();
    let void = put(&store, seen(1));
    commit(&store, Write::AccountDelete { jid: romeo() });
    void.recv().unwrap().unwrap();
    let create = Write::AccountCreate {
        jid: romeo(),
        credentials: credentials("new"),
    };
    commit(&store, create);
    store.tick(0);
    assert_eq!(stored_seen(&engine), 0);
}

#[test]
fn what_waits_is_bounded() {
    let (store, engine) = with_romeo();
    let large = Write::LastSeen {
        owner: romeo(),
        at_ms: 5,
        status: "x".repeat(WAITING_BYTES),
    };
    commit(&store, large);
    assert_eq!(stored_seen(&engine), 5);
}

#[test]
fn closing_writes_what_waits() {
    let (store, _) = with_romeo();
    let last = put(&store, seen(9));
    store.close();
    last.recv().unwrap().unwrap();
    let late = put(&store, seen(10));
    assert_eq!(late.recv().unwrap(), Err(StoreError::Closed));
}
