//! Archives in Cassandra: what the contract cannot see.

mod take_up;

use crate::contract::archive::{JULIET, ROMEO, all, at, keep, message, numbers, page, pair};
use crate::contract::{Place, ROOM, jid, put, queue, record, wait};
use crate::{Keyspace, rows, server};
use antiphon_routing::archive::{
    ArchiveEnds, ArchiveFilter, ArchiveId, ArchiveRecord, Edit, Flags, Recent, Reference, id_hash,
};
use antiphon_routing::store::{Store, Write};
use antiphon_store::cassandra::{Cassandra, CassandraConfig};
use antiphon_xmpp::Jid;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A message somewhere in these 14 months.
const MONTHS: u64 = 14;
const MONTH_S: u64 = 30 * 24 * 60 * 60;

fn unread(store: &dyn Store, owner: &Jid, peer: &Jid) -> Option<u32> {
    let entry = wait(store.inbox_entry(owner, peer)).unwrap();
    entry.map(|entry| entry.unread)
}

/// An engine whose process died: it writes nothing more of what it has in memory while the test
/// goes on.
fn kill(store: Arc<dyn Store>) {
    std::mem::forget(store);
}

fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < Duration::from_secs(30), "{what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_death_loses_neither_counts_nor_what_was_sent() {
    if server().is_none() {
        return;
    }
    let keyspace = Keyspace::new();
    let store = keyspace.open(ROOM);
    let [romeo, juliet] = pair(&*store);
    for n in 1..=20 {
        let (from, to) = if n == 10 {
            (ROMEO, JULIET)
        } else {
            (JULIET, ROMEO)
        };
        let mut message = message(&romeo, from, to, n, "x");
        if n == 10 {
            message.flags = message.flags.and(Flags::WAITED);
        }
        put(&*store, keep(&romeo, message)).unwrap();
        if n == 5 || n == 15 {
            let upto = Reference::Mid(id_hash(&format!("m{}", n - 1)));
            let (owner, peer) = (romeo.clone(), juliet.clone());
            put(&*store, Write::InboxRead { owner, peer, upto }).unwrap();
        }
    }
    assert_eq!(unread(&*store, &romeo, &juliet), Some(6));
    kill(store);
    let store = keyspace.open(ROOM);
    let archive = record(&*store, &romeo).archive;
    assert_eq!(archive.newest, at(20));
    let sent = Recent {
        id: at(10),
        uid: at(10),
        dup: 11,
        is_out: true,
        has_waited: true,
    };
    // What has no ids is known by its uid alone.
    let by_ids = archive.recent.iter().filter(|recent| recent.dup != 0);
    assert_eq!(by_ids.copied().collect::<Vec<_>>(), [sent]);
    assert_eq!(archive.recent.len(), 20);
    assert_eq!(unread(&*store, &romeo, &juliet), Some(6));
    // What comes again changes nothing, wherever its place would be now.
    for n in [10, 20] {
        let again = ArchiveRecord {
            id: at(30 + n),
            ..message(&romeo, JULIET, ROMEO, n, "x")
        };
        put(&*store, keep(&romeo, again)).unwrap();
    }
    assert_eq!(all(&*store, &romeo).len(), 20);
    put(
        &*store,
        keep(&romeo, message(&romeo, JULIET, ROMEO, 50, "x")),
    )
    .unwrap();
    kill(store);
    let store = keyspace.open(ROOM);
    assert_eq!(unread(&*store, &romeo, &juliet), Some(7));
    put(
        &*store,
        keep(&romeo, message(&romeo, JULIET, ROMEO, 51, "x")),
    )
    .unwrap();
    store.close();
    let store = keyspace.open(ROOM);
    assert_eq!(record(&*store, &romeo).archive.recent, []);
    assert_eq!(unread(&*store, &romeo, &juliet), Some(8));
}

#[test]
fn after_a_death_a_busy_archive_is_known_for_the_last_minute() {
    if server().is_none() {
        return;
    }
    let keyspace = Keyspace::new();
    let store = keyspace.open(ROOM);
    let [romeo, _] = pair(&*store);
    let mut last = None;
    // Two a second, then ten.
    for n in 0..700 {
        let ms = if n < 300 { n * 500 } else { 120_000 + n * 100 };
        let id = ArchiveId::first_of(at(1).ms() + ms);
        let record = ArchiveRecord {
            id,
            uid: id,
            ..message(&romeo, JULIET, ROMEO, n, "x")
        };
        let (done, committed) = std::sync::mpsc::channel();
        store.write(
            keep(&romeo, record),
            Box::new(move |result| done.send(result).unwrap()),
        );
        last = Some(committed);
    }
    last.unwrap().recv().unwrap().unwrap();
    let quiet = wait(store.user_of_dead(&romeo)).unwrap().unwrap().archive;
    assert_eq!(quiet.recent.len(), 700);
    assert!(quiet.recent.is_sorted_by_key(|recent| recent.id));
    // One that the engine does not remember is found in the archive.
    let first = quiet.recent[0];
    let again = ArchiveRecord {
        id: ArchiveId(quiet.newest.0 + 1),
        uid: first.uid,
        ..message(&romeo, JULIET, ROMEO, 0, "x")
    };
    put(&*store, keep(&romeo, again)).unwrap();
    let later = ArchiveId::first_of(quiet.newest.ms() + 50_000);
    let record = ArchiveRecord {
        id: later,
        uid: later,
        ..message(&romeo, JULIET, ROMEO, 700, "x")
    };
    put(&*store, keep(&romeo, record)).unwrap();
    // Of the last minute there are fewer than are always read.
    let archive = wait(store.user_of_dead(&romeo)).unwrap().unwrap().archive;
    assert_eq!(archive.recent.len(), 200);
    assert_eq!(all(&*store, &romeo).len(), 701);
}

#[test]
fn an_archive_goes_on_over_the_months() {
    if server().is_none() {
        return;
    }
    let keyspace = Keyspace::new();
    let store = keyspace.open(ROOM);
    let [romeo, juliet] = pair(&*store);
    let number = |month: u64, n: u64| month * MONTH_S + n;
    let mut expected = Vec::new();
    for month in 0..MONTHS {
        for n in 0..6 {
            // One of the conversations is silent in most months.
            let from = if n == 3 && month % 5 == 0 {
                JULIET
            } else {
                "x@b.example"
            };
            let n = number(month, n);
            let body = format!("month {month}");
            queue(
                &*store,
                keep(&romeo, message(&romeo, from, ROMEO, n, &body)),
            );
            expected.push(n);
        }
    }
    assert_eq!(all(&*store, &romeo), expected);
    for is_from_end in [false, true] {
        let mut filter = ArchiveFilter::default();
        let mut seen = Vec::new();
        loop {
            let page = wait(store.archive_page(&romeo, filter.clone(), is_from_end, 7)).unwrap();
            let mut found = numbers(&page);
            if is_from_end {
                filter.before = page.messages.first().map(|m| m.id);
                found.reverse();
            } else {
                filter.after = page.messages.last().map(|m| m.id);
            }
            seen.extend(found);
            if page.is_complete {
                break;
            }
        }
        seen.sort_unstable();
        assert_eq!(seen, expected);
    }
    let with = ArchiveFilter {
        with: Some(juliet.clone()),
        ..ArchiveFilter::default()
    };
    let hers = [0, 5, 10].map(|month| number(month, 3));
    assert_eq!(numbers(&page(&*store, &romeo, &with)), hers);
    let last = wait(store.archive_page(&romeo, with.clone(), true, 2)).unwrap();
    assert_eq!(
        (numbers(&last), last.is_complete),
        (hers[1..].to_vec(), false)
    );
    let search = ArchiveFilter {
        text: Some("\"month 9\"".into()),
        ..ArchiveFilter::default()
    };
    assert_eq!(page(&*store, &romeo, &search).messages.len(), 6);
    // A mark in the third month of all.
    let (owner, peer) = (romeo.clone(), juliet.clone());
    let upto = Reference::Id(at(hers[0]));
    put(&*store, Write::InboxRead { owner, peer, upto }).unwrap();
    assert_eq!(unread(&*store, &romeo, &juliet), Some(2));
    let owner = romeo.clone();
    let before = at(number(7, 2));
    let purge = Write::ArchivePurge {
        owner,
        peer: None,
        before,
    };
    put(&*store, purge).unwrap();
    expected.retain(|n| *n >= number(7, 2));
    assert_eq!(all(&*store, &romeo), expected);
    assert_eq!(numbers(&page(&*store, &romeo, &with)), hers[2..]);
    let ends = ArchiveEnds {
        first: at(expected[0]),
        last: at(number(MONTHS - 1, 5)),
    };
    assert_eq!(wait(store.archive_ends(&romeo)).unwrap(), Some(ends));
    let left = rows(&keyspace, "SELECT * FROM KS.archive_bucket");
    assert!(left as u64 <= MONTHS - 6, "{left} months");
}

#[test]
fn a_search_reads_the_segments_that_may_have_an_answer() {
    const COUNT: u64 = 1100;
    if server().is_none() {
        return;
    }
    let keyspace = Keyspace::new();
    let store = keyspace.open(ROOM);
    let [romeo, juliet] = pair(&*store);
    for n in 0..COUNT {
        let from = if n % 3 == 0 { JULIET } else { "x@b.example" };
        let rare = if n % 400 == 9 { "unicorn" } else { "" };
        let body = format!("common {rare} number{n}");
        queue(
            &*store,
            keep(&romeo, message(&romeo, from, ROMEO, n, &body)),
        );
    }
    let many = jid("x@b.example");
    let search = |words: &str, with: Option<&Jid>, is_from_end, limit| {
        let filter = ArchiveFilter {
            text: Some(words.into()),
            with: with.cloned(),
            ..ArchiveFilter::default()
        };
        let page = wait(store.archive_page(&romeo, filter, is_from_end, limit)).unwrap();
        (numbers(&page), page.is_complete)
    };
    let check = || {
        for is_from_end in [false, true] {
            let found = search("unicorn", None, is_from_end, 10);
            assert_eq!(found, (vec![9, 409, 809], true));
            let found = search("unicorn", Some(&juliet), is_from_end, 10);
            assert_eq!(found, (vec![9], true));
            // More than are read one by one.
            let found = search("unicorn", Some(&many), is_from_end, 10);
            assert_eq!(found, (vec![409, 809], true));
            assert_eq!(search("absent", None, is_from_end, 10), (vec![], true));
            assert_eq!(search("number777 common", None, is_from_end, 10).0, [777]);
            assert_eq!(search("numb*", None, is_from_end, 1000).0.len(), 1000);
        }
        assert_eq!(search("common", None, false, 3), (vec![0, 1, 2], false));
        let last = vec![COUNT - 3, COUNT - 2, COUNT - 1];
        assert_eq!(search("common", None, true, 3), (last, false));
    };
    let segments = || rows(&keyspace, "SELECT first_id FROM KS.fts_seg");
    // Of 64 messages each. No message is found twice while they are made.
    eventually("segments", || {
        check();
        segments() == 17
    });
    check();
    let cut = ArchiveFilter {
        text: Some("unicorn".into()),
        after: Some(at(9)),
        before: Some(at(809)),
        ..ArchiveFilter::default()
    };
    assert_eq!(numbers(&page(&*store, &romeo, &cut)), [409]);
    // What changes is found as it is now.
    let (owner, before) = (romeo.clone(), at(600));
    let purge = Write::ArchivePurge {
        owner,
        peer: None,
        before,
    };
    put(&*store, purge).unwrap();
    assert_eq!(search("unicorn", None, false, 10), (vec![809], true));
    assert_eq!(segments(), 8);
    let edit = Write::ArchiveEdit {
        owner: romeo.clone(),
        peer: jid("x@b.example"),
        is_out: false,
        target: Reference::Id(at(809)),
        edit: Edit::Supersede,
    };
    put(&*store, edit).unwrap();
    assert_eq!(search("unicorn", None, false, 10), (vec![], true));
    store.close();
    // The next process goes on where this one stopped.
    let store = keyspace.open(ROOM);
    for n in COUNT..COUNT + 200 {
        queue(
            &*store,
            keep(&romeo, message(&romeo, JULIET, ROMEO, n, "later")),
        );
    }
    eventually("more", || segments() == 11);
    let filter = ArchiveFilter {
        text: Some("later".into()),
        ..ArchiveFilter::default()
    };
    assert_eq!(page(&*store, &romeo, &filter).messages.len(), 200);
}

#[test]
fn rows_of_the_version_before_are_searched_for_phrases() {
    const COUNT: u64 = 256;
    if server().is_none() {
        return;
    }
    let keyspace = Keyspace::new();
    let store = keyspace.open(ROOM);
    let [romeo, _] = pair(&*store);
    for n in 0..COUNT {
        let body = if n % 60 == 10 {
            "two words"
        } else {
            "words, two"
        };
        queue(
            &*store,
            keep(&romeo, message(&romeo, JULIET, ROMEO, n, body)),
        );
    }
    let segments = || rows(&keyspace, "SELECT first_id FROM KS.fts_seg");
    eventually("segments", || segments() == 4);
    let check = |what: &str| {
        for (words, expected) in [
            ("\"two words\"", vec![10, 70, 130, 190, 250]),
            ("\"two wo\"*", vec![10, 70, 130, 190, 250]),
            ("\"words absent\"", vec![]),
        ] {
            for is_from_end in [false, true] {
                let filter = ArchiveFilter {
                    text: Some(words.into()),
                    ..ArchiveFilter::default()
                };
                let page = wait(store.archive_page(&romeo, filter, is_from_end, 10)).unwrap();
                assert_eq!(numbers(&page), expected, "{what}: {words}");
            }
        }
    };
    check("all of them new");
    let row = |n| format!("WHERE owner = '{ROMEO}' AND first_id = {}", at(n).0);
    keyspace.cql(&format!("DELETE pairs FROM KS.fts_seg {}", row(0)));
    check("one without pairs");
    // One filter, as it was: here one that lets everything through, and none.
    let open = format!(
        "UPDATE KS.fts_seg SET bloom = 0x010100, words = null, pairs = null {}",
        row(64)
    );
    keyspace.cql(&open);
    keyspace.cql(&format!("DELETE words, pairs FROM KS.fts_seg {}", row(192)));
    check("old ones among them");
    let column = |column: &str| {
        let found = keyspace.cql(&format!("SELECT {column} FROM KS.fts_seg"));
        let found = found.into_rows_result().unwrap();
        let found = found.rows::<(Option<Vec<u8>>,)>().unwrap();
        found
            .filter(|row| row.as_ref().unwrap().0.is_some())
            .count()
    };
    assert_eq!(
        (column("bloom"), column("words"), column("pairs")),
        (1, 2, 1)
    );
}

#[test]
fn what_is_older_than_the_operator_keeps_goes_by_itself() {
    if server().is_none() {
        return;
    }
    let keyspace = Keyspace::new();
    let config = CassandraConfig {
        retention: Some(Duration::from_secs(6)),
        ..keyspace.config()
    };
    let store = Cassandra::open(config.clone()).unwrap();
    let [romeo, juliet] = pair(&store);
    for n in 1..4 {
        put(&store, keep(&romeo, message(&romeo, JULIET, ROMEO, n, "x"))).unwrap();
    }
    assert_eq!(all(&store, &romeo), [1, 2, 3]);
    std::thread::sleep(Duration::from_secs(1));
    let retract = |n| Write::ArchiveEdit {
        owner: romeo.clone(),
        peer: juliet.clone(),
        is_out: false,
        target: Reference::Id(at(n)),
        edit: Edit::Retract { at_ms: 1, id: None },
    };
    put(&store, retract(2)).unwrap();
    let found = page(&store, &romeo, &ArchiveFilter::default());
    assert!(found.messages[1].flags.has(Flags::RETRACTED));
    // The tombstone goes when its message would have gone, and an edit of what has gone makes none.
    eventually("gone", || all(&store, &romeo).is_empty());
    put(&store, retract(3)).unwrap();
    assert!(all(&store, &romeo).is_empty());
    assert_eq!(rows(&keyspace, "SELECT id FROM KS.archive"), 0);
    assert_eq!(wait(store.archive_ends(&romeo)).unwrap(), None);
    assert_eq!(record(&store, &romeo).archive.newest, ArchiveId(at(3).0));
    // The conversation stays, with its last message; what was retracted does not.
    let shown = |store: &Cassandra| {
        let entry = wait(store.inbox_entry(&romeo, &juliet)).unwrap().unwrap();
        String::from_utf8(entry.stanza.into()).unwrap()
    };
    assert!(
        shown(&store).contains("<body>x</body>"),
        "{}",
        shown(&store)
    );
    let last = message(&romeo, JULIET, ROMEO, 4, "secret");
    put(&store, keep(&romeo, last)).unwrap();
    store.close();
    let store = Cassandra::open(config).unwrap();
    assert!(shown(&store).contains("secret"), "{}", shown(&store));
    put(&store, retract(4)).unwrap();
    eventually("all gone", || all(&store, &romeo).is_empty());
    assert!(!shown(&store).contains("secret"), "{}", shown(&store));
}

#[test]
fn what_is_more_than_the_operator_keeps_goes_before_long() {
    if server().is_none() {
        return;
    }
    let keyspace = Keyspace::new();
    let config = CassandraConfig {
        most_messages: Some(40),
        ..keyspace.config()
    };
    let store = Cassandra::open(config).unwrap();
    let [romeo, juliet] = pair(&store);
    for n in 1..=100 {
        put(&store, keep(&romeo, message(&romeo, JULIET, ROMEO, n, "x"))).unwrap();
    }
    let newest: Vec<u64> = (61..=100).collect();
    eventually("fewer", || all(&store, &romeo) == newest);
    assert_eq!(unread(&store, &romeo, &juliet), Some(100));
    // A few more are let be for a while.
    for n in 101..105 {
        put(&store, keep(&romeo, message(&romeo, JULIET, ROMEO, n, "x"))).unwrap();
    }
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(all(&store, &romeo).len(), 44);
    put(
        &store,
        keep(&romeo, message(&romeo, JULIET, ROMEO, 105, "x")),
    )
    .unwrap();
    eventually("fewer again", || {
        all(&store, &romeo) == (66..=105).collect::<Vec<u64>>()
    });
}
