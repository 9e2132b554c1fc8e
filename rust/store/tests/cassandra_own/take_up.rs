//! Archives whose home died, and writes of one that had lost its shards.

use super::{eventually, kill, unread};
use crate::contract::archive::{JULIET, ROMEO, all, at, keep, message, numbers, page, pair};
use crate::contract::{Place, ROOM, put, record, wait};
use crate::{Keyspace, rows, server};
use antiphon_routing::archive::{ArchiveFilter, ArchiveId, ArchiveRecord, Edit, Reference};
use antiphon_routing::store::{Store, StoreError, UserRecord, Write};
use antiphon_store::cassandra::{Cassandra, Leave};
use antiphon_xmpp::Jid;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The months of `at(0)` and of what is 60 days later.
const NOVEMBER: i32 = 2023 * 12 + 10;
const JANUARY: i32 = 2024 * 12;
const DAY_S: u64 = 24 * 60 * 60;

fn now_us() -> u128 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("a clock").as_micros()
}

fn queued(store: &dyn Store, write: Write) -> Receiver<Result<(), StoreError>> {
    let (told, tell) = channel();
    let done = move |outcome| told.send(outcome).expect("a test that waits");
    store.write(write, Box::new(done));
    tell
}

fn died(store: &dyn Store, owner: &Jid, epoch: u64, from: ArchiveId) -> UserRecord {
    let record = wait(store.take_up(owner, epoch, from)).expect("taken up");
    record.expect("an account")
}

/// The column `stanza` of a message, as a literal.
fn packed(keyspace: &Keyspace, n: u64) -> String {
    let found = keyspace.cql(&format!(
        "SELECT stanza FROM KS.archive WHERE owner = '{ROMEO}' AND bucket = {NOVEMBER} \
         AND id = {}",
        at(n).0
    ));
    let found = found.into_rows_result().expect("rows");
    let (stanza,): (Vec<u8>,) = found.first_row().expect("a row");
    let digits: Vec<String> = stanza.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("0x{}", digits.concat())
}

/// A message of Juliet to Romeo that a home had on its way, lands.
fn lands(keyspace: &Keyspace, bucket: i32, n: u64, stanza: &str, written_us: u128) {
    let (id, flags) = (at(n).0, 2 << 12 | 0b110);
    let using = format!("USING TIMESTAMP {written_us}");
    keyspace.cql(&format!(
        "INSERT INTO KS.archive (owner, bucket, id, peer, flags, stanza) \
         VALUES ('{ROMEO}', {bucket}, {id}, '{JULIET}', {flags}, {stanza}) {using}"
    ));
    keyspace.cql(&format!(
        "INSERT INTO KS.archive_peer (owner, bucket, peer, id, flags, mid) \
         VALUES ('{ROMEO}', {bucket}, '{JULIET}', {id}, {flags}, {n}) {using}"
    ));
    keyspace.cql(&format!(
        "INSERT INTO KS.archive_bucket (owner, bucket) VALUES ('{ROMEO}', {bucket}) {using}"
    ));
}

/// What is found, in each way there is to ask: numbers of messages.
fn every_way(store: &dyn Store, owner: &Jid, peer: &Jid) -> Vec<u64> {
    let found = all(store, owner);
    let with = ArchiveFilter {
        with: Some(peer.clone()),
        ..ArchiveFilter::default()
    };
    assert_eq!(numbers(&page(store, owner, &with)), found, "with");
    let mut last = wait(store.archive_page(owner, with.clone(), true, 3)).unwrap();
    last.messages.truncate(3);
    assert_eq!(numbers(&last), found[found.len().saturating_sub(3)..]);
    let text = ArchiveFilter {
        text: Some("word".into()),
        ..ArchiveFilter::default()
    };
    assert_eq!(numbers(&page(store, owner, &text)), found, "search");
    for filter in [ArchiveFilter::default(), with, text] {
        let count = wait(store.archive_count(owner, filter.clone(), 1000)).unwrap();
        assert_eq!(count, Some(found.len() as u64), "{filter:?}");
    }
    let ends = wait(store.archive_ends(owner)).unwrap().expect("ends");
    assert_eq!(ends.last, at(found[found.len() - 1]));
    let known = wait(store.archive_known(owner, (0..200).map(at).collect())).unwrap();
    assert_eq!(known.len(), found.iter().filter(|n| **n < 200).count());
    found
}

#[test]
fn a_late_write_of_a_dead_home_is_dead_in_every_view() {
    if server().is_none() {
        return;
    }
    let keyspace = Keyspace::new();
    let store = keyspace.open(ROOM);
    let [romeo, juliet] = pair(&*store);
    let tell = |store: &dyn Store, n: u64| {
        put(
            store,
            keep(&romeo, message(&romeo, JULIET, ROMEO, n, "word")),
        )
        .unwrap();
    };
    (1..=20).for_each(|n| tell(&*store, n));
    let stanza = packed(&keyspace, 20);
    let before = now_us();
    kill(store);
    let store = keyspace.open(ROOM);
    let taken = died(&*store, &romeo, 7, at(100));
    assert!(taken.archive.newest >= at(100));
    for n in [21, 22, 99] {
        lands(&keyspace, NOVEMBER, n, &stanza, before);
    }
    keyspace.cql(&format!(
        "INSERT INTO KS.offline (owner, id, at_ms, stanza) VALUES ('{ROMEO}', {before}, 1, 0x00) \
         USING TIMESTAMP {before}"
    ));
    let expected: Vec<u64> = (1..=20).collect();
    assert_eq!(every_way(&*store, &romeo, &juliet), expected);
    assert_eq!(unread(&*store, &romeo, &juliet), Some(20));
    assert_eq!(wait(store.offline(&romeo, 0, 10)).unwrap(), []);
    let count = |table: &str| rows(&keyspace, &format!("SELECT * FROM KS.{table}"));
    assert_eq!((count("archive"), count("archive_peer")), (20, 23));
    let (owner, peer) = (romeo.clone(), juliet.clone());
    let upto = Reference::Id(at(10));
    put(&*store, Write::InboxRead { owner, peer, upto }).unwrap();
    assert_eq!(unread(&*store, &romeo, &juliet), Some(10));
    // What is dead is not changed into something either.
    let edit = Write::ArchiveEdit {
        owner: romeo.clone(),
        peer: juliet.clone(),
        is_out: false,
        target: Reference::Id(at(21)),
        edit: Edit::Retract { at_ms: 1, id: None },
    };
    put(&*store, edit).unwrap();
    assert_eq!(count("archive"), 20);
    tell(&*store, 101);
    kill(store);
    let store = keyspace.open(ROOM);
    assert_eq!(record(&*store, &romeo).archive.newest, at(101));
    assert_eq!(unread(&*store, &romeo, &juliet), Some(11));
    let expected: Vec<u64> = (1..=20).chain([101]).collect();
    assert_eq!(every_way(&*store, &romeo, &juliet), expected);
}

#[test]
fn an_archive_is_taken_up_once_for_each_death() {
    if server().is_none() {
        return;
    }
    let keyspace = Keyspace::new();
    let store = keyspace.open(ROOM);
    let [romeo, juliet] = pair(&*store);
    put(
        &*store,
        keep(&romeo, message(&romeo, JULIET, ROMEO, 1, "word")),
    )
    .unwrap();
    let stanza = packed(&keyspace, 1);
    let before = now_us();
    kill(store);
    let store = keyspace.open(ROOM);
    died(&*store, &romeo, 7, at(100));
    put(
        &*store,
        keep(&romeo, message(&romeo, JULIET, ROMEO, 101, "word")),
    )
    .unwrap();
    lands(&keyspace, NOVEMBER, 150, &stanza, before);
    for _ in 0..2 {
        let again = died(&*store, &romeo, 7, at(200));
        assert_eq!(again.archive.newest, at(150));
        assert_eq!(every_way(&*store, &romeo, &juliet), [1, 101, 150]);
    }
    // Another death. What was there when the archive was taken up stays.
    let next = died(&*store, &romeo, 8, at(200));
    assert_eq!(next.archive.newest, at(200));
    lands(&keyspace, NOVEMBER, 180, &stanza, before);
    assert_eq!(every_way(&*store, &romeo, &juliet), [1, 101, 150]);
}

#[test]
fn a_home_that_died_before_it_wrote_lets_nobody_begin_below_its_beginning() {
    if server().is_none() {
        return;
    }
    let keyspace = Keyspace::new();
    let store = keyspace.open(ROOM);
    let [romeo, juliet] = pair(&*store);
    put(
        &*store,
        keep(&romeo, message(&romeo, JULIET, ROMEO, 1, "word")),
    )
    .unwrap();
    let stanza = packed(&keyspace, 1);
    let before = now_us();
    kill(store);
    let first = keyspace.open(ROOM);
    died(&*first, &romeo, 7, at(100));
    kill(first);
    // Its clock is behind.
    let second = keyspace.open(ROOM);
    let newest = died(&*second, &romeo, 8, at(60)).archive.newest;
    assert_eq!(newest, ArchiveId(at(100).0 + 1));
    assert_eq!(record(&*second, &romeo).archive.newest, newest);
    lands(&keyspace, NOVEMBER, 90, &stanza, before);
    put(
        &*second,
        keep(&romeo, message(&romeo, JULIET, ROMEO, 101, "word")),
    )
    .unwrap();
    assert_eq!(every_way(&*second, &romeo, &juliet), [1, 101]);
}

#[test]
fn what_lands_months_before_an_archive_is_taken_up_is_dead() {
    if server().is_none() {
        return;
    }
    let keyspace = Keyspace::new();
    let store = keyspace.open(ROOM);
    let [romeo, juliet] = pair(&*store);
    put(
        &*store,
        keep(&romeo, message(&romeo, JULIET, ROMEO, 1, "word")),
    )
    .unwrap();
    let stanza = packed(&keyspace, 1);
    let before = now_us();
    kill(store);
    let store = keyspace.open(ROOM);
    let january = 60 * DAY_S;
    died(&*store, &romeo, 7, at(january));
    for (bucket, n) in [
        (NOVEMBER, 2),
        (NOVEMBER + 1, 30 * DAY_S),
        (JANUARY, january - 1),
    ] {
        lands(&keyspace, bucket, n, &stanza, before);
    }
    let later = message(&romeo, JULIET, ROMEO, january + 1, "word");
    put(&*store, keep(&romeo, later)).unwrap();
    assert_eq!(every_way(&*store, &romeo, &juliet), [1, january + 1]);
    kill(store);
    let store = keyspace.open(ROOM);
    assert_eq!(every_way(&*store, &romeo, &juliet), [1, january + 1]);
    assert_eq!(rows(&keyspace, "SELECT * FROM KS.archive_bucket"), 2);
}

#[test]
fn an_offline_message_that_refers_to_what_is_dead_goes() {
    if server().is_none() {
        return;
    }
    let keyspace = Keyspace::new();
    let store = keyspace.open(ROOM);
    let [romeo, _] = pair(&*store);
    let waits = ArchiveRecord {
        offline_at_ms: Some(5),
        ..message(&romeo, JULIET, ROMEO, 1, "word")
    };
    put(&*store, keep(&romeo, waits)).unwrap();
    // The reference landed before its home died, its message did not.
    let before = now_us();
    keyspace.cql(&format!(
        "INSERT INTO KS.offline (owner, id, at_ms, archived) VALUES ('{ROMEO}', {before}, 1, {}) \
         USING TIMESTAMP {before}",
        at(2).0
    ));
    kill(store);
    let store = keyspace.open(ROOM);
    assert_eq!(record(&*store, &romeo).offline, 2);
    assert_eq!(died(&*store, &romeo, 7, at(100)).offline, 1);
    assert_eq!(record(&*store, &romeo).offline, 1);
    let next = ArchiveRecord {
        offline_at_ms: Some(5),
        ..message(&romeo, JULIET, ROMEO, 101, "word")
    };
    put(&*store, keep(&romeo, next)).unwrap();
    let archived = wait(store.offline(&romeo, 0, 10)).unwrap();
    let archived: Vec<_> = archived.iter().map(|record| record.archived).collect();
    assert_eq!(archived, [Some(at(1)), Some(at(101))]);
}

#[test]
fn a_segment_that_lands_across_others_shows_no_message_twice() {
    const COUNT: u64 = 150;
    if server().is_none() {
        return;
    }
    let keyspace = Keyspace::new();
    let store = keyspace.open(ROOM);
    let [romeo, _] = pair(&*store);
    for n in 0..COUNT {
        let body = if n % 7 == 3 { "word rare" } else { "word" };
        put(
            &*store,
            keep(&romeo, message(&romeo, JULIET, ROMEO, n, body)),
        )
        .unwrap();
    }
    eventually("segments", || {
        rows(&keyspace, "SELECT first_id FROM KS.fts_seg") == 2
    });
    let hex = |bytes: Vec<u8>| {
        let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("0x{}", digits.concat())
    };
    // Made by another who knew of one message less: it begins and ends one later.
    let second = 1000 << 12;
    let found = keyspace.cql("SELECT first_id, last_id, words, pairs FROM KS.fts_seg");
    let found = found.into_rows_result().expect("rows");
    for row in found
        .rows::<(i64, i64, Vec<u8>, Vec<u8>)>()
        .expect("segments")
    {
        let (first, last, words, pairs) = row.expect("a segment");
        keyspace.cql(&format!(
            "INSERT INTO KS.fts_seg (owner, first_id, last_id, n, words, pairs) \
             VALUES ('{ROMEO}', {}, {}, 64, {}, {})",
            first + second,
            last + second,
            hex(words),
            hex(pairs)
        ));
    }
    for (text, step) in [("word", 1), ("rare", 7)] {
        let expected: Vec<u64> = (0..COUNT).filter(|n| step == 1 || n % 7 == 3).collect();
        for is_from_end in [false, true] {
            let mut seen = Vec::new();
            let mut filter = ArchiveFilter {
                text: Some(text.into()),
                ..ArchiveFilter::default()
            };
            loop {
                let page = wait(store.archive_page(&romeo, filter.clone(), is_from_end, 9));
                let page = page.expect("a page");
                let mut found = numbers(&page);
                if is_from_end {
                    filter.before = page.messages.first().map(|m| m.id);
                    found.append(&mut seen);
                    seen = found;
                } else {
                    filter.after = page.messages.last().map(|m| m.id);
                    seen.append(&mut found);
                }
                if page.is_complete {
                    break;
                }
            }
            assert_eq!(seen, expected, "{text} {is_from_end}");
        }
    }
}

#[test]
fn one_whose_former_home_may_have_died_brings_his_newest_messages() {
    if server().is_none() {
        return;
    }
    let keyspace = Keyspace::new();
    let store = keyspace.open(ROOM);
    let [romeo, _] = pair(&*store);
    for n in 1..=3 {
        put(
            &*store,
            keep(&romeo, message(&romeo, ROMEO, JULIET, n, "x")),
        )
        .unwrap();
    }
    store.close();
    let store = keyspace.open(ROOM);
    assert_eq!(record(&*store, &romeo).archive.recent, []);
    let dead = wait(store.user_of_dead(&romeo)).unwrap().expect("romeo");
    let ids: Vec<ArchiveId> = dead.archive.recent.iter().map(|recent| recent.id).collect();
    assert_eq!(ids, [at(1), at(2), at(3)]);
    let taken = died(&*store, &romeo, 3, at(50));
    assert_eq!(taken.archive.recent, dead.archive.recent);
}

/// A store, and what its gate says.
fn gated(keyspace: &Keyspace) -> (Arc<Cassandra>, Arc<Mutex<Leave>>) {
    let store = Cassandra::open(keyspace.config()).expect("opened");
    let leave = Arc::new(Mutex::new(Leave::Yes(1)));
    let says = Arc::clone(&leave);
    store.set_gate(Arc::new(move |_| *says.lock()));
    (Arc::new(store), leave)
}

#[test]
fn a_process_that_lost_its_shards_writes_nothing_of_what_waits() {
    if server().is_none() {
        return;
    }
    let keyspace = Keyspace::new();
    let (store, leave) = gated(&keyspace);
    let [romeo, _] = pair(&*store);
    let tell = |n| keep(&romeo, message(&romeo, JULIET, ROMEO, n, "word"));
    let seen = |at_ms| Write::LastSeen {
        owner: romeo.clone(),
        at_ms,
        status: "here".into(),
    };
    put(&*store, tell(1)).unwrap();
    *leave.lock() = Leave::No;
    assert_eq!(put(&*store, tell(2)), Err(StoreError::Busy));
    assert_eq!(put(&*store, seen(1)), Err(StoreError::Busy));
    // What was accepted waits until it is known, and then goes.
    *leave.lock() = Leave::Wait(1);
    let waits = [queued(&*store, tell(3)), queued(&*store, seen(2))];
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(rows(&keyspace, "SELECT id FROM KS.archive"), 1);
    *leave.lock() = Leave::Yes(1);
    for outcome in waits {
        assert_eq!(outcome.recv().unwrap(), Ok(()));
    }
    // Or it is known that the shards were others' meanwhile, even if they are ours again.
    for then in [Leave::No, Leave::Yes(2)] {
        *leave.lock() = Leave::Wait(1);
        let waits = [queued(&*store, tell(4)), queued(&*store, seen(3))];
        std::thread::sleep(Duration::from_millis(100));
        *leave.lock() = then;
        for outcome in waits {
            assert_eq!(outcome.recv().unwrap(), Err(StoreError::Busy));
        }
    }
    assert_eq!(all(&*store, &romeo), [1, 3]);
    assert_eq!(record(&*store, &romeo).last_seen_ms, 2);
    put(&*store, tell(5)).unwrap();
    assert_eq!(all(&*store, &romeo), [1, 3, 5]);
}

/// In a network that is cut in two each part may have a home of the same owner.
#[test]
fn a_home_in_doubt_commits_nothing_that_the_next_one_may_not_have_found() {
    if server().is_none() {
        return;
    }
    let keyspace = Keyspace::new();
    let (former, leave) = gated(&keyspace);
    let [romeo, juliet] = pair(&*former);
    let tell = |owner: &Jid, n| keep(owner, message(owner, JULIET, ROMEO, n, "word"));
    // What it took up itself is no sign of another.
    died(&*former, &romeo, 1, at(1));
    *leave.lock() = Leave::Doubted(1);
    put(&*former, tell(&romeo, 10)).unwrap();
    put(&*former, tell(&juliet, 10)).unwrap();
    let next = keyspace.open(ROOM);
    died(&*next, &romeo, 3, at(20));
    assert_eq!(put(&*former, tell(&romeo, 11)), Err(StoreError::Overtaken));
    let seen = Write::LastSeen {
        owner: romeo.clone(),
        at_ms: 1,
        status: "here".into(),
    };
    assert_eq!(put(&*former, seen), Err(StoreError::Overtaken));
    assert_eq!(all(&*next, &romeo), [10]);
    // Nobody has looked at her yet: all that is committed is found.
    put(&*former, tell(&juliet, 11)).unwrap();
    died(&*next, &juliet, 3, at(20));
    assert_eq!(all(&*next, &juliet), [10, 11]);
    // With a lease it does not ask.
    *leave.lock() = Leave::Yes(1);
    put(&*former, tell(&romeo, 12)).unwrap();
}

#[test]
fn what_a_former_home_has_in_memory_is_not_written_over_the_next_ones() {
    if server().is_none() {
        return;
    }
    let keyspace = Keyspace::new();
    let (former, leave) = gated(&keyspace);
    let [romeo, juliet] = pair(&*former);
    for n in 1..=5 {
        put(
            &*former,
            keep(&romeo, message(&romeo, JULIET, ROMEO, n, "x")),
        )
        .unwrap();
    }
    *leave.lock() = Leave::No;
    let next = keyspace.open(ROOM);
    record(&*next, &romeo);
    let (owner, peer) = (romeo.clone(), juliet.clone());
    let upto = Reference::Id(at(5));
    put(&*next, Write::InboxRead { owner, peer, upto }).unwrap();
    assert_eq!(unread(&*next, &romeo, &juliet), Some(0));
    former.close();
    kill(next);
    let last = keyspace.open(ROOM);
    assert_eq!(unread(&*last, &romeo, &juliet), Some(0));
    // Back again, it knows what happened meanwhile.
    let (former, leave) = gated(&keyspace);
    record(&*former, &romeo);
    put(
        &*former,
        keep(&romeo, message(&romeo, JULIET, ROMEO, 6, "x")),
    )
    .unwrap();
    *leave.lock() = Leave::No;
    let (owner, peer) = (romeo.clone(), juliet.clone());
    record(&*last, &romeo);
    let upto = Reference::Id(at(6));
    put(&*last, Write::InboxRead { owner, peer, upto }).unwrap();
    *leave.lock() = Leave::Yes(2);
    assert_eq!(record(&*former, &romeo).archive.newest, at(6));
    assert_eq!(unread(&*former, &romeo, &juliet), Some(0));
}
