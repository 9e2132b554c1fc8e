//! Archives.

use super::*;
use antiphon_routing::archive::{
    ArchiveDefault, ArchiveEnds, ArchiveFilter, ArchiveId, ArchivePage, ArchivePrefs,
    ArchiveRecord, ArchiveState, Edit, Flags, InboxEffect, Reference, id_hash,
};
use antiphon_xmpp::{Stanza, ns};

/// The id of the second `n`.
pub fn at(n: u64) -> ArchiveId {
    ArchiveId::first_of(1_700_000_000_000 + n * 1000)
}

/// A chat message whose `id` is `m` and the number.
pub fn stanza(from: &str, to: &str, n: u64, body: &str) -> Vec<u8> {
    let body = body.replace('&', "&amp;").replace('<', "&lt;");
    format!(
        "<message xmlns='jabber:client' from='{from}' to='{to}' id='m{n}' type='chat'>\
         <body>{body}</body></message>"
    )
    .into_bytes()
}

/// The record of message `n` in the archive of one of its sides.
pub fn message(owner: &Jid, from: &str, to: &str, n: u64, body: &str) -> ArchiveRecord {
    let is_out = jid(from).bare_str() == owner.bare_str();
    let (peer, flags, inbox) = if is_out {
        (to, Flags::OUT, InboxEffect::Sent)
    } else {
        (from, Flags::COUNTS, InboxEffect::Received)
    };
    ArchiveRecord {
        id: at(n),
        uid: at(n),
        peer: jid(peer).bare(),
        flags: flags.and(Flags::SEARCHABLE),
        mid: id_hash(&format!("m{n}")),
        dup: if is_out { n + 1 } else { 0 },
        stanza: stanza(from, to, n, body).into(),
        inbox,
        offline_at_ms: None,
    }
}

pub fn keep(owner: &Jid, record: ArchiveRecord) -> Write {
    Write::Archive {
        owner: owner.clone(),
        record: Box::new(record),
    }
}

/// Message `n` into the archives of those of both sides who have an account.
pub fn tell(store: &dyn Store, from: &str, to: &str, n: u64, body: &str) {
    for owner in [from, to] {
        let owner = jid(owner).bare();
        let record = message(&owner, from, to, n, body);
        match put(store, keep(&owner, record)) {
            Ok(()) | Err(StoreError::NoAccount) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

pub fn page(store: &dyn Store, owner: &Jid, filter: &ArchiveFilter) -> ArchivePage {
    wait(store.archive_page(owner, filter.clone(), false, 1000)).expect("a page")
}

/// Which messages are on a page, by their numbers.
pub fn numbers(page: &ArchivePage) -> Vec<u64> {
    page.messages
        .iter()
        .map(|message| (message.id.ms() - at(0).ms()) / 1000)
        .collect()
}

/// All of an archive, by numbers.
pub fn all(store: &dyn Store, owner: &Jid) -> Vec<u64> {
    numbers(&page(store, owner, &ArchiveFilter::default()))
}

pub const ROMEO: &str = "romeo@a.example";
pub const JULIET: &str = "juliet@a.example";

pub fn pair(store: &dyn Store) -> [Jid; 2] {
    [ROMEO, JULIET].map(|owner| create(store, owner))
}

fn read(stanza: &[u8]) -> Stanza {
    Stanza::from_bytes(stanza).expect("a stanza")
}

pub fn a_message_is_in_both_archives<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let owners = pair(&*store);
    tell(&*store, "romeo@a.example/1", "juliet@a.example", 1, "O & o");
    for owner in &owners {
        let page = page(&*store, owner, &ArchiveFilter::default());
        assert!(page.is_complete && !page.is_unstable);
        assert_eq!(page.messages.len(), 1);
        let found = &page.messages[0];
        assert_eq!(found.id, at(1));
        assert_eq!(found.flags.has(Flags::OUT), owner.bare_str() == ROMEO);
        let expected = stanza("romeo@a.example/1", "juliet@a.example", 1, "O & o");
        assert_eq!(*found.stanza, *expected);
    }
    store.close();
    let store = place.open(ROOM);
    assert!(owners.iter().all(|owner| all(&*store, owner) == [1]));
}

pub fn any_stanza_comes_back_as_it_was<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let [romeo, juliet] = pair(&*store);
    let mut stanzas: Vec<Vec<u8>> = vec![b"".to_vec(), b"no stanza".to_vec(), vec![0, 1, 2, 255]];
    stanzas.extend(NASTY.iter().map(|text| text.as_bytes().to_vec()));
    stanzas.push(stanza("romeo@a.example/\u{202e}", "else@b.example", 1, "x"));
    stanzas.push(stanza("else@b.example", "x.example", 1, "romeo@a.example"));
    stanzas.push(vec![b'<'; 300_000]);
    for (n, stanza) in stanzas.iter().enumerate() {
        for (owner, peer, flags) in [
            (&romeo, &juliet, Flags::OUT),
            (&juliet, &romeo, Flags::default()),
        ] {
            let record = ArchiveRecord {
                peer: peer.clone(),
                flags,
                stanza: stanza.as_slice().into(),
                ..message(owner, ROMEO, JULIET, n as u64, "")
            };
            put(&*store, keep(owner, record)).unwrap();
        }
    }
    for owner in [&romeo, &juliet] {
        let page = page(&*store, owner, &ArchiveFilter::default());
        let found: Vec<&[u8]> = page.messages.iter().map(|m| &*m.stanza).collect();
        assert_eq!(found, stanzas);
    }
}

pub fn a_uid_that_is_there_already_changes_nothing<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let [romeo, juliet] = pair(&*store);
    tell(&*store, JULIET, ROMEO, 1, "first");
    let again = |id: u64| ArchiveRecord {
        uid: at(1),
        offline_at_ms: Some(5),
        ..message(&romeo, JULIET, ROMEO, id, "again")
    };
    put(&*store, keep(&romeo, again(1))).unwrap();
    put(&*store, keep(&romeo, again(7))).unwrap();
    assert_eq!(all(&*store, &romeo), [1]);
    let entry = wait(store.inbox_entry(&romeo, &juliet)).unwrap().unwrap();
    assert_eq!(entry.unread, 1);
    assert_eq!(record(&*store, &romeo).offline, 0);
    // The same of one whose id is not its uid.
    let other = ArchiveRecord {
        uid: at(2),
        ..message(&romeo, JULIET, ROMEO, 3, "third")
    };
    for _ in 0..2 {
        put(&*store, keep(&romeo, other.clone())).unwrap();
        let later = ArchiveRecord {
            id: at(9),
            ..other.clone()
        };
        put(&*store, keep(&romeo, later)).unwrap();
    }
    assert_eq!(all(&*store, &romeo), [1, 3]);
    store.close();
    let store = place.open(ROOM);
    put(&*store, keep(&romeo, other)).unwrap();
    assert_eq!(all(&*store, &romeo), [1, 3]);
}

pub fn an_id_need_not_be_the_uid<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let [romeo, juliet] = pair(&*store);
    put(
        &*store,
        keep(&romeo, message(&romeo, ROMEO, JULIET, 1, "one")),
    )
    .unwrap();
    let record = ArchiveRecord {
        id: at(5),
        ..message(&juliet, ROMEO, JULIET, 1, "one")
    };
    put(&*store, keep(&juliet, record)).unwrap();
    assert_eq!(all(&*store, &romeo), [1]);
    assert_eq!(all(&*store, &juliet), [5]);
    let found = page(&*store, &juliet, &ArchiveFilter::default());
    assert_eq!(*found.messages[0].stanza, *stanza(ROMEO, JULIET, 1, "one"));
    // Strangers may use the same numbers.
    let tybalt = create(&*store, "tybalt@a.example");
    let record = message(&tybalt, "x@b.example", "tybalt@a.example", 1, "other");
    put(&*store, keep(&tybalt, record)).unwrap();
    let found = page(&*store, &tybalt, &ArchiveFilter::default());
    assert!(read(&found.messages[0].stanza).from == Some(jid("x@b.example")));
    assert_eq!(all(&*store, &romeo), [1]);
}

pub fn pages_meet_without_gap_or_overlap<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let [romeo, _] = pair(&*store);
    for n in 0..60 {
        tell(&*store, ROMEO, JULIET, n, "x");
    }
    for is_from_end in [false, true] {
        let mut seen: Vec<u64> = Vec::new();
        let mut filter = ArchiveFilter::default();
        for step in 0.. {
            let page = wait(store.archive_page(&romeo, filter.clone(), is_from_end, 7)).unwrap();
            assert!(page.messages.windows(2).all(|pair| pair[0].id < pair[1].id));
            let found = numbers(&page);
            if is_from_end {
                filter.before = page.messages.first().map(|m| m.id);
                seen.splice(0..0, found);
            } else {
                filter.after = page.messages.last().map(|m| m.id);
                seen.extend(found);
            }
            if page.is_complete {
                break;
            }
            assert_eq!(page.messages.len(), 7);
            // What comes meanwhile is behind all.
            let n = 60 + step + if is_from_end { 100 } else { 0 };
            tell(&*store, ROMEO, JULIET, n, "new");
        }
        if is_from_end {
            let before: Vec<u64> = (0..60).collect();
            assert_eq!(seen[..60], before);
        } else {
            assert!(seen.len() > 60 && seen.iter().copied().eq(0..seen.len() as u64));
        }
    }
}

pub fn a_page_is_cut_by_ids_on_both_sides<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let [romeo, _] = pair(&*store);
    for n in 0..10 {
        tell(&*store, ROMEO, JULIET, n, "x");
    }
    let find = |after: Option<u64>, before: Option<u64>, is_from_end, limit| {
        let filter = ArchiveFilter {
            after: after.map(at),
            before: before.map(at),
            ..ArchiveFilter::default()
        };
        let page = wait(store.archive_page(&romeo, filter, is_from_end, limit)).unwrap();
        (numbers(&page), page.is_complete)
    };
    assert_eq!(find(Some(2), Some(7), false, 10), (vec![3, 4, 5, 6], true));
    assert_eq!(find(Some(2), Some(7), true, 10), (vec![3, 4, 5, 6], true));
    assert_eq!(find(Some(2), Some(7), false, 4), (vec![3, 4, 5, 6], true));
    assert_eq!(find(Some(2), Some(7), false, 2), (vec![3, 4], false));
    assert_eq!(find(Some(2), Some(7), true, 2), (vec![5, 6], false));
    assert_eq!(find(Some(9), None, false, 2), (vec![], true));
    assert_eq!(find(None, Some(0), true, 2), (vec![], true));
    assert_eq!(find(Some(5), Some(5), true, 2), (vec![], true));
    assert_eq!(find(None, None, true, 0).0, [9]);
    assert_eq!(find(None, None, false, usize::MAX).0.len(), 10);
    let far = ArchiveFilter {
        after: Some(ArchiveId(u64::MAX)),
        ..ArchiveFilter::default()
    };
    assert!(page(&*store, &romeo, &far).messages.is_empty());
}

pub fn messages_are_found_by_the_other_side<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let [romeo, _] = pair(&*store);
    let talk = [
        ("romeo@a.example/1", "juliet@a.example"),
        ("juliet@a.example/2", "romeo@a.example/1"),
        ("juliet@a.example/3", "romeo@a.example"),
        ("romeo@a.example/1", "juliet@a.example/2"),
        ("romeo@a.example/1", "romeo@a.example"),
        ("x@b.example", "romeo@a.example"),
        ("b.example", "romeo@a.example"),
    ];
    for (n, (from, to)) in talk.iter().enumerate() {
        tell(&*store, from, to, n as u64, "x");
    }
    let with = |address: &str, limit, is_from_end| {
        let filter = ArchiveFilter {
            with: Some(jid(address)),
            ..ArchiveFilter::default()
        };
        let page = wait(store.archive_page(&romeo, filter, is_from_end, limit)).unwrap();
        (numbers(&page), page.is_complete)
    };
    for (address, expected) in [
        ("juliet@a.example", vec![0, 1, 2, 3]),
        ("juliet@a.example/2", vec![1, 3]),
        ("juliet@a.example/3", vec![2]),
        ("juliet@a.example/9", vec![]),
        ("romeo@a.example", vec![4]),
        ("romeo@a.example/1", vec![4]),
        ("x@b.example", vec![5]),
        ("b.example", vec![6]),
        ("nobody@b.example", vec![]),
    ] {
        assert_eq!(
            with(address, 100, false),
            (expected.clone(), true),
            "{address}"
        );
        assert_eq!(with(address, 100, true), (expected, true), "{address}");
    }
    assert_eq!(with("juliet@a.example/2", 1, false), (vec![1], false));
    assert_eq!(with("juliet@a.example/2", 1, true), (vec![3], false));
    assert_eq!(with("juliet@a.example", 2, true), (vec![2, 3], false));
}

pub fn messages_are_found_by_their_ids<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let [romeo, juliet] = pair(&*store);
    for n in 0..10 {
        tell(&*store, ROMEO, JULIET, n, "x");
    }
    tell(&*store, "x@b.example", ROMEO, 10, "x");
    let ids = vec![at(10), at(3), at(3), at(1), at(77), ArchiveId(u64::MAX)];
    let filter = ArchiveFilter {
        ids: Some(ids.clone()),
        ..ArchiveFilter::default()
    };
    assert_eq!(numbers(&page(&*store, &romeo, &filter)), [1, 3, 10]);
    assert_eq!(numbers(&page(&*store, &juliet, &filter)), [1, 3]);
    let some = ArchiveFilter {
        with: Some(juliet.clone()),
        after: Some(at(1)),
        ..filter.clone()
    };
    assert_eq!(numbers(&page(&*store, &romeo, &some)), [3]);
    let last = wait(store.archive_page(&romeo, filter, true, 1)).unwrap();
    assert_eq!((numbers(&last), last.is_complete), (vec![10], false));
    let none = ArchiveFilter {
        ids: Some(vec![]),
        ..ArchiveFilter::default()
    };
    assert!(page(&*store, &romeo, &none).messages.is_empty());
    let known = wait(store.archive_known(&romeo, ids)).unwrap();
    assert_eq!(known, [at(10), at(3), at(3), at(1)]);
    assert_eq!(
        wait(store.archive_known(&juliet, vec![at(10)])).unwrap(),
        []
    );
}

pub fn groupchat_can_be_left_out<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let [romeo, _] = pair(&*store);
    tell(&*store, JULIET, ROMEO, 1, "x");
    let room = message(&romeo, "room@b.example/nick", ROMEO, 2, "x");
    let room = ArchiveRecord {
        flags: room.flags.and(Flags::GROUPCHAT),
        ..room
    };
    put(&*store, keep(&romeo, room)).unwrap();
    let filter = ArchiveFilter {
        without_groupchat: true,
        ..ArchiveFilter::default()
    };
    assert_eq!(numbers(&page(&*store, &romeo, &filter)), [1]);
    assert_eq!(all(&*store, &romeo), [1, 2]);
    let count = wait(store.archive_count(&romeo, filter, 100)).unwrap();
    assert!(matches!(count, Some(1) | None));
}

pub fn counts_are_exact_or_not_told<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let [romeo, juliet] = pair(&*store);
    let count = |owner: &Jid, filter: &ArchiveFilter, most| {
        wait(store.archive_count(owner, filter.clone(), most)).unwrap()
    };
    let whole = ArchiveFilter::default();
    assert!(matches!(count(&romeo, &whole, 10), Some(0) | None));
    for n in 0..20 {
        tell(&*store, ROMEO, JULIET, n, "x");
    }
    tell(&*store, "x@b.example", ROMEO, 20, "x");
    let with = ArchiveFilter {
        with: Some(juliet),
        after: Some(at(4)),
        ..whole.clone()
    };
    for (filter, exact) in [(&whole, 21), (&with, 15)] {
        for most in [exact - 1, exact, exact + 1] {
            let told = count(&romeo, filter, most);
            assert!(
                told.is_none() || (told == Some(exact) && most >= exact),
                "{told:?}"
            );
        }
    }
}

pub fn the_ends_of_an_archive_are_told<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let [romeo, juliet] = pair(&*store);
    assert_eq!(wait(store.archive_ends(&romeo)).unwrap(), None);
    for n in 3..9 {
        tell(&*store, ROMEO, JULIET, n, "x");
    }
    let ends = ArchiveEnds {
        first: at(3),
        last: at(8),
    };
    assert_eq!(wait(store.archive_ends(&juliet)).unwrap(), Some(ends));
    assert_eq!(record(&*store, &romeo).archive.newest, at(8));
    let nobody = jid("nobody@a.example");
    assert_eq!(wait(store.archive_ends(&nobody)).unwrap(), None);
    assert_eq!(all(&*store, &nobody), [0; 0]);
}

pub fn collections_are_conversations_by_day<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let [romeo, juliet] = pair(&*store);
    // 1,700,000,000 is 80,000 s into its day; the next begins 6,400 s later.
    let day = |n: u64| 6_400 + n * 86_400;
    let times = [0, 10, day(0), day(0) + 5, day(1) - 1, day(3)];
    for (n, time) in times.iter().enumerate() {
        tell(&*store, ROMEO, JULIET, *time, "x");
        if n % 2 == 1 {
            tell(&*store, "x@b.example", ROMEO, time + 1, "x");
        }
    }
    let list = |filter: ArchiveFilter, limit| -> Vec<(String, u64)> {
        wait(store.archive_collections(&romeo, filter, limit))
            .unwrap()
            .into_iter()
            .map(|c| {
                (
                    c.peer.as_str().to_owned(),
                    (c.first.ms() - at(0).ms()) / 1000,
                )
            })
            .collect()
    };
    let (juliets, others) = (JULIET.to_owned(), "x@b.example".to_owned());
    let expected = [
        (juliets.clone(), 0),
        (others.clone(), 11),
        (juliets.clone(), day(0)),
        (others.clone(), day(0) + 6),
        (juliets.clone(), day(3)),
        (others, day(3) + 1),
    ];
    assert_eq!(list(ArchiveFilter::default(), 100), expected);
    assert_eq!(list(ArchiveFilter::default(), 2), expected[..2]);
    let mut filter = ArchiveFilter {
        after: Some(at(11)),
        ..ArchiveFilter::default()
    };
    assert_eq!(list(filter.clone(), 100), expected[2..]);
    filter.before = Some(at(day(1)));
    assert_eq!(list(filter.clone(), 100), expected[2..4]);
    filter.with = Some(juliet);
    assert_eq!(list(filter, 100), expected[2..3]);
}

fn edit(owner: &Jid, peer: &str, is_out: bool, target: Reference, edit: Edit) -> Write {
    Write::ArchiveEdit {
        owner: owner.clone(),
        peer: jid(peer),
        is_out,
        target,
        edit,
    }
}

fn retraction() -> Edit {
    Edit::Retract {
        at_ms: 1_700_000_100_000,
        id: Some("r1".into()),
    }
}

pub fn a_retracted_message_becomes_a_tombstone<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let [romeo, juliet] = pair(&*store);
    for n in 1..4 {
        tell(&*store, "romeo@a.example/1", JULIET, n, "secret");
    }
    let by_mid = Reference::Mid(id_hash("m2"));
    put(&*store, edit(&juliet, ROMEO, false, by_mid, retraction())).unwrap();
    for _ in 0..2 {
        let by_id = Reference::Id(at(2));
        put(&*store, edit(&romeo, JULIET, true, by_id, retraction())).unwrap();
    }
    for owner in [&romeo, &juliet] {
        let page = page(&*store, owner, &ArchiveFilter::default());
        assert_eq!(numbers(&page), [1, 2, 3]);
        let found = &page.messages[1];
        assert!(found.flags.has(Flags::RETRACTED));
        let tombstone = read(&found.stanza);
        assert!(!tombstone.has(ns::CLIENT, "body"));
        assert_eq!(tombstone.id.as_deref(), Some("m2"));
        assert_eq!(tombstone.from, Some(jid("romeo@a.example/1")));
        let retracted = tombstone.child(ns::RETRACT, "retracted").unwrap();
        assert_eq!(retracted.attr("id"), Some("r1"));
        assert_eq!(retracted.attr("stamp"), Some("2023-11-14T22:15:00Z"));
        assert!(read(&page.messages[2].stanza).has(ns::CLIENT, "body"));
    }
}

pub fn only_a_message_of_the_right_side_is_edited<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let [romeo, _] = pair(&*store);
    tell(&*store, ROMEO, JULIET, 1, "mine");
    tell(&*store, JULIET, ROMEO, 2, "hers");
    let mid = |n: u64| Reference::Mid(id_hash(&format!("m{n}")));
    for write in [
        edit(&romeo, JULIET, false, mid(1), retraction()),
        edit(&romeo, JULIET, true, mid(2), retraction()),
        edit(&romeo, JULIET, true, Reference::Id(at(2)), retraction()),
        edit(&romeo, "x@b.example", true, mid(1), retraction()),
        edit(&romeo, JULIET, true, mid(9), retraction()),
        edit(&romeo, JULIET, true, Reference::Id(at(9)), Edit::Supersede),
    ] {
        put(&*store, write).unwrap();
    }
    let page_ = page(&*store, &romeo, &ArchiveFilter::default());
    let edited = Flags::RETRACTED.and(Flags::SUPERSEDED);
    assert!(page_.messages.iter().all(|m| m.flags.0 & edited.0 == 0));
    put(&*store, edit(&romeo, JULIET, true, mid(1), Edit::Supersede)).unwrap();
    let page_ = page(&*store, &romeo, &ArchiveFilter::default());
    assert!(page_.messages[0].flags.has(Flags::SUPERSEDED));
    assert!(read(&page_.messages[0].stanza).has(ns::CLIENT, "body"));
}

pub fn the_newest_of_equal_message_ids_is_meant<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let [romeo, _] = pair(&*store);
    for n in 1..4 {
        let record = ArchiveRecord {
            mid: 42,
            ..message(&romeo, JULIET, ROMEO, n, "x")
        };
        put(&*store, keep(&romeo, record)).unwrap();
    }
    let write = edit(&romeo, JULIET, false, Reference::Mid(42), retraction());
    put(&*store, write).unwrap();
    let page = page(&*store, &romeo, &ArchiveFilter::default());
    let retracted = page.messages.iter().map(|m| m.flags.has(Flags::RETRACTED));
    assert_eq!(retracted.collect::<Vec<_>>(), [false, false, true]);
}

pub fn purge(owner: &Jid, peer: Option<&str>, before: ArchiveId) -> Write {
    Write::ArchivePurge {
        owner: owner.clone(),
        peer: peer.map(jid),
        before,
    }
}

pub fn a_purge_takes_what_is_older<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let [romeo, juliet] = pair(&*store);
    for n in 0..600 {
        let from = if n % 2 == 0 { JULIET } else { "x@b.example" };
        queue(&*store, keep(&romeo, message(&romeo, from, ROMEO, n, "x")));
        if n % 2 == 0 {
            queue(
                &*store,
                keep(&juliet, message(&juliet, from, ROMEO, n, "x")),
            );
        }
    }
    let expect = |store: &dyn Store, wanted: &dyn Fn(u64) -> bool| {
        let expected: Vec<u64> = (0..600).filter(|n| wanted(*n)).collect();
        assert_eq!(all(store, &romeo), expected);
        let with = ArchiveFilter {
            with: Some(jid(JULIET)),
            ..ArchiveFilter::default()
        };
        let hers: Vec<u64> = expected.iter().copied().filter(|n| n % 2 == 0).collect();
        assert_eq!(numbers(&page(store, &romeo, &with)), hers);
        let ends = wait(store.archive_ends(&romeo)).unwrap();
        assert_eq!(
            ends.map(|ends| ends.first),
            expected.first().map(|n| at(*n))
        );
        let known = wait(store.archive_known(&romeo, vec![at(100), at(101), at(599)])).unwrap();
        let wanted: Vec<_> = [100, 101, 599].into_iter().filter(|n| wanted(*n)).collect();
        assert_eq!(known, wanted.into_iter().map(at).collect::<Vec<_>>());
    };
    put(&*store, purge(&romeo, None, at(50))).unwrap();
    expect(&*store, &|n| n >= 50);
    put(&*store, purge(&romeo, Some("x@b.example"), at(300))).unwrap();
    expect(&*store, &|n| n >= 300 || (n >= 50 && n % 2 == 0));
    put(
        &*store,
        purge(&romeo, Some("nobody@b.example"), ArchiveId::MAX),
    )
    .unwrap();
    store.close();
    let store = place.open(ROOM);
    expect(&*store, &|n| n >= 300 || (n >= 50 && n % 2 == 0));
    put(&*store, purge(&romeo, None, ArchiveId::MAX)).unwrap();
    expect(&*store, &|_| false);
    // The other side keeps its own, and what comes later stays.
    assert_eq!(all(&*store, &juliet).len(), 300);
    assert_eq!(record(&*store, &romeo).archive.newest, at(599));
    tell(&*store, JULIET, ROMEO, 700, "new");
    assert_eq!(all(&*store, &romeo), [700]);
    assert_eq!(all(&*store, &juliet).len(), 301);
}

pub fn preferences_come_back<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let [romeo, juliet] = pair(&*store);
    assert_eq!(record(&*store, &romeo).archive, ArchiveState::default());
    let mut prefs = ArchivePrefs {
        default: ArchiveDefault::Roster,
        always: vec![jid("a.example"), jid("juliet@a.example/'\"<x")],
        never: vec![jid("tybalt@a.example")],
    };
    for default in [
        ArchiveDefault::Always,
        ArchiveDefault::Never,
        ArchiveDefault::Roster,
    ] {
        prefs.default = default;
        let write = Write::ArchivePrefs {
            owner: romeo.clone(),
            prefs: prefs.clone(),
        };
        put(&*store, write).unwrap();
        assert_eq!(record(&*store, &romeo).archive.prefs, Some(prefs.clone()));
    }
    assert_eq!(record(&*store, &juliet).archive.prefs, None);
    store.close();
    let store = place.open(ROOM);
    assert_eq!(record(&*store, &romeo).archive.prefs, Some(prefs));
}

pub fn a_clean_end_leaves_nothing_recent<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let [romeo, _] = pair(&*store);
    tell(&*store, ROMEO, JULIET, 1, "x");
    assert_eq!(record(&*store, &romeo).archive.recent, []);
    store.close();
    let store = place.open(ROOM);
    assert_eq!(record(&*store, &romeo).archive.recent, []);
}

pub fn an_offline_message_may_lie_in_the_archive<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let [romeo, _] = pair(&*store);
    put(
        &*store,
        Write::OfflineAppend {
            owner: romeo.clone(),
            at_ms: 1,
            stanza: b"first".as_slice().into(),
        },
    )
    .unwrap();
    for n in 1..5 {
        let record = ArchiveRecord {
            offline_at_ms: Some(n),
            ..message(&romeo, JULIET, ROMEO, n, "waits")
        };
        put(&*store, keep(&romeo, record)).unwrap();
    }
    assert_eq!(record(&*store, &romeo).offline, 5);
    let waiting = wait(store.offline(&romeo, 0, 100)).unwrap();
    assert_eq!(*waiting[0].stanza, *b"first");
    for (n, offline) in waiting.iter().enumerate().skip(1) {
        assert_eq!(offline.at_ms, n as u64);
        let expected = stanza(JULIET, ROMEO, n as u64, "waits");
        assert_eq!(*offline.stanza, *expected);
    }
    assert!(waiting.windows(2).all(|pair| pair[0].id < pair[1].id));
    // Taking it leaves the archive as it is.
    let delete = Write::OfflineDelete {
        owner: romeo.clone(),
        ids: vec![waiting[1].id],
    };
    put(&*store, delete).unwrap();
    assert_eq!(record(&*store, &romeo).offline, 4);
    assert_eq!(all(&*store, &romeo), [1, 2, 3, 4]);
    // What was read in the archive waits no more; what is not in it does.
    let seen = Write::OfflineSeen {
        owner: romeo.clone(),
        from: at(0),
        upto: at(3),
    };
    put(&*store, seen).unwrap();
    let waiting = wait(store.offline(&romeo, 0, 100)).unwrap();
    let times: Vec<u64> = waiting.iter().map(|offline| offline.at_ms).collect();
    assert_eq!(times, [1, 4]);
}

pub fn without_an_account_nothing_is_archived<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let nobody = jid("nobody@a.example");
    let record = message(&nobody, ROMEO, "nobody@a.example", 1, "x");
    let writes = [
        keep(&nobody, record),
        purge(&nobody, None, ArchiveId::MAX),
        edit(&nobody, ROMEO, true, Reference::Id(at(1)), Edit::Supersede),
        Write::InboxEmptyBin {
            owner: nobody.clone(),
            before_ms: 0,
        },
    ];
    for write in writes {
        assert_eq!(put(&*store, write), Err(StoreError::NoAccount));
    }
    let nobody = create(&*store, "nobody@a.example");
    assert_eq!(all(&*store, &nobody), [0; 0]);
}

pub fn a_deleted_account_leaves_no_archive<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let [romeo, juliet] = pair(&*store);
    for n in 0..400 {
        for owner in [&romeo, &juliet] {
            let record = ArchiveRecord {
                offline_at_ms: (n == 7).then_some(1),
                ..message(owner, ROMEO, JULIET, n, "x")
            };
            queue(&*store, keep(owner, record));
        }
    }
    put(&*store, Write::AccountDelete { jid: romeo.clone() }).unwrap();
    let again = create(&*store, ROMEO);
    assert_eq!(all(&*store, &again), [0; 0]);
    assert_eq!(wait(store.inbox_entry(&again, &juliet)).unwrap(), None);
    assert_eq!(record(&*store, &again).archive, ArchiveState::default());
    assert_eq!(record(&*store, &again).offline, 0);
    tell(&*store, ROMEO, JULIET, 500, "new");
    assert_eq!(all(&*store, &again), [500]);
    assert_eq!(all(&*store, &juliet).len(), 401);
    let found = page(&*store, &juliet, &ArchiveFilter::default());
    assert!(found.messages.iter().all(|m| m.stanza.len() > 100));
}

pub fn concurrent_senders_lose_nothing_and_keep_their_order<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let romeo = create(&*store, ROMEO);
    let clock = std::sync::atomic::AtomicU64::new(0);
    let gate = Mutex::new(());
    std::thread::scope(|scope| {
        for sender in 0..20 {
            let (store, romeo, clock, gate) = (&store, &romeo, &clock, &gate);
            scope.spawn(move || {
                for n in 0..50 {
                    // As the entity does it: the id and its place in the order are one step.
                    let _turn = gate.lock().unwrap();
                    let id = clock.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let from = format!("s{sender}@b.example");
                    let record = message(romeo, &from, ROMEO, id, &n.to_string());
                    queue(&**store, keep(romeo, record));
                }
            });
        }
    });
    let whole = wait(store.archive_page(&romeo, ArchiveFilter::default(), false, 1000)).unwrap();
    assert!(whole.is_complete && numbers(&whole).into_iter().eq(0..1000));
    let inbox = super::inbox::list(&*store, &romeo);
    assert_eq!((inbox.count, inbox.unread, inbox.active), (20, 1000, 20));
    assert!(inbox.entries.iter().all(|entry| entry.unread == 50));
    let with = ArchiveFilter {
        with: Some(jid("s3@b.example")),
        ..ArchiveFilter::default()
    };
    let texts: Vec<String> = page(&*store, &romeo, &with)
        .messages
        .iter()
        .map(|m| read(&m.stanza).child(ns::CLIENT, "body").unwrap().text())
        .collect();
    assert!(texts.into_iter().eq((0..50).map(|n| n.to_string())));
}
