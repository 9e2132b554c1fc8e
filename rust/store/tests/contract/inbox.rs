//! Inboxes.

use super::archive::{JULIET, ROMEO, at, keep, message, page, pair, purge, stanza, tell};
use super::*;
use antiphon_routing::archive::{
    ArchiveFilter, ArchiveId, ArchiveRecord, InboxChange, InboxEffect, InboxEntry, InboxFilter,
    InboxPage, InboxSlice, Reference, id_hash,
};

const WHOLE: InboxSlice = InboxSlice {
    is_ascending: false,
    after: None,
    before: None,
    is_from_end: false,
    limit: 1000,
};

pub fn list(store: &dyn Store, owner: &Jid) -> InboxPage {
    wait(store.inbox_page(owner, InboxFilter::default(), WHOLE)).expect("an inbox")
}

fn entry(store: &dyn Store, owner: &Jid, peer: &str) -> InboxEntry {
    wait(store.inbox_entry(owner, &jid(peer)))
        .expect("answered")
        .expect("an entry")
}

fn unread(store: &dyn Store, owner: &Jid, peer: &str) -> u32 {
    entry(store, owner, peer).unread
}

fn set(owner: &Jid, peer: &str, change: InboxChange) -> Write {
    Write::InboxSet {
        owner: owner.clone(),
        peer: jid(peer),
        change,
    }
}

fn into_box(owner: &Jid, peer: &str, name: &str) -> Write {
    let change = InboxChange {
        in_box: Some(name.into()),
        ..InboxChange::default()
    };
    set(owner, peer, change)
}

fn displayed(owner: &Jid, peer: &str, upto: Reference) -> Write {
    Write::InboxRead {
        owner: owner.clone(),
        peer: jid(peer),
        upto,
    }
}

fn mid(n: u64) -> Reference {
    Reference::Mid(id_hash(&format!("m{n}")))
}

pub fn messages_make_entries_and_count<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let [romeo, juliet] = pair(&*store);
    assert_eq!(list(&*store, &romeo).count, 0);
    for n in 1..4 {
        tell(&*store, "juliet@a.example/1", ROMEO, n, "x");
    }
    let found = entry(&*store, &romeo, JULIET);
    assert_eq!(found.peer, juliet);
    assert_eq!((found.unread, found.last_id), (3, at(3)));
    assert_eq!(found.read_id, ArchiveId(0));
    assert_eq!((&*found.in_box, found.muted_until_ms), ("inbox", 0));
    assert_eq!(*found.stanza, *stanza("juliet@a.example/1", ROMEO, 3, "x"));
    assert_eq!(unread(&*store, &juliet, ROMEO), 0);
    tell(&*store, ROMEO, JULIET, 4, "answer");
    assert_eq!(unread(&*store, &romeo, JULIET), 0);
    assert_eq!(unread(&*store, &juliet, ROMEO), 1);
    tell(&*store, JULIET, ROMEO, 5, "x");
    assert_eq!(unread(&*store, &romeo, JULIET), 1);
    assert_eq!(entry(&*store, &romeo, JULIET).read_id, at(4));
    assert_eq!(
        wait(store.inbox_entry(&romeo, &jid("x@b.example"))).unwrap(),
        None
    );
    store.close();
    let store = place.open(ROOM);
    assert_eq!(unread(&*store, &romeo, JULIET), 1);
}

pub fn a_message_may_leave_the_inbox_alone<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let [romeo, juliet] = pair(&*store);
    let silent = |n| ArchiveRecord {
        inbox: InboxEffect::None,
        ..message(&romeo, JULIET, ROMEO, n, "x")
    };
    put(&*store, keep(&romeo, silent(1))).unwrap();
    assert_eq!(wait(store.inbox_entry(&romeo, &juliet)).unwrap(), None);
    tell(&*store, JULIET, ROMEO, 2, "x");
    put(&*store, keep(&romeo, silent(3))).unwrap();
    let found = entry(&*store, &romeo, JULIET);
    assert_eq!((found.unread, found.last_id), (1, at(2)));
}

pub fn a_marker_in_the_middle_leaves_the_exact_rest<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let [romeo, juliet] = pair(&*store);
    for n in 1..=10 {
        tell(&*store, JULIET, ROMEO, n, "x");
        tell(&*store, "x@b.example", ROMEO, n + 100, "x");
    }
    let read = |upto| put(&*store, displayed(&romeo, JULIET, upto)).unwrap();
    read(mid(4));
    assert_eq!(unread(&*store, &romeo, JULIET), 6);
    assert_eq!(entry(&*store, &romeo, JULIET).read_id, at(4));
    // Older ones, unknown ones and those of others change nothing.
    for upto in [mid(2), mid(4), mid(77), mid(103), Reference::Id(at(105))] {
        read(upto);
        assert_eq!(unread(&*store, &romeo, JULIET), 6);
    }
    tell(&*store, JULIET, ROMEO, 201, "x");
    assert_eq!(unread(&*store, &romeo, JULIET), 7);
    read(Reference::Id(at(9)));
    assert_eq!(unread(&*store, &romeo, JULIET), 2);
    assert_eq!(entry(&*store, &romeo, JULIET).last_id, at(201));
    read(mid(201));
    assert_eq!(unread(&*store, &romeo, JULIET), 0);
    assert_eq!(unread(&*store, &romeo, "x@b.example"), 10);
    // What was answered was read.
    tell(&*store, JULIET, ROMEO, 202, "x");
    tell(&*store, ROMEO, JULIET, 203, "x");
    tell(&*store, JULIET, ROMEO, 204, "x");
    read(mid(202));
    assert_eq!(unread(&*store, &romeo, JULIET), 1);
    assert_eq!(unread(&*store, &juliet, ROMEO), 0);
}

pub fn an_owner_changes_his_entries<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let [romeo, _] = pair(&*store);
    for n in 1..4 {
        tell(&*store, JULIET, ROMEO, n, "x");
    }
    let change = |change| put(&*store, set(&romeo, JULIET, change)).unwrap();
    let is_read = |is_read| InboxChange {
        is_read: Some(is_read),
        ..InboxChange::default()
    };
    change(is_read(false));
    assert_eq!(unread(&*store, &romeo, JULIET), 3);
    change(is_read(true));
    assert_eq!(unread(&*store, &romeo, JULIET), 0);
    assert_eq!(entry(&*store, &romeo, JULIET).read_id, at(3));
    change(is_read(false));
    assert_eq!(unread(&*store, &romeo, JULIET), 1);
    put(&*store, displayed(&romeo, JULIET, mid(2))).unwrap();
    assert_eq!(unread(&*store, &romeo, JULIET), 1);
    put(&*store, displayed(&romeo, JULIET, mid(3))).unwrap();
    assert_eq!(unread(&*store, &romeo, JULIET), 0);
    change(InboxChange {
        muted_until_ms: Some(1_800_000_000_123),
        in_box: Some("work".into()),
        is_read: Some(false),
    });
    let found = entry(&*store, &romeo, JULIET);
    assert_eq!(found.muted_until_ms, 1_800_000_000_123);
    assert_eq!((&*found.in_box, found.unread), ("work", 1));
    change(InboxChange::default());
    assert_eq!(entry(&*store, &romeo, JULIET), found);
    change(InboxChange {
        muted_until_ms: Some(0),
        ..InboxChange::default()
    });
    assert_eq!(entry(&*store, &romeo, JULIET).muted_until_ms, 0);
    // One that is not there.
    put(&*store, into_box(&romeo, "x@b.example", "archive")).unwrap();
    assert_eq!(
        wait(store.inbox_entry(&romeo, &jid("x@b.example"))).unwrap(),
        None
    );
}

pub fn a_message_brings_an_entry_out_of_the_archive_alone<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let romeo = create(&*store, ROMEO);
    let peers = ["archive", "bin", "work", "inbox"];
    let peer = |name: &str| format!("{name}@b.example");
    for (n, name) in peers.iter().enumerate() {
        tell(&*store, &peer(name), ROMEO, n as u64, "x");
        put(&*store, into_box(&romeo, &peer(name), name)).unwrap();
    }
    let filed = || record(&*store, &romeo).archive.filed;
    assert_eq!(filed(), [id_hash(&peer("archive"))]);
    for (n, name) in peers.iter().enumerate() {
        assert_eq!(*entry(&*store, &romeo, &peer(name)).in_box, **name);
        tell(&*store, &peer(name), ROMEO, 10 + n as u64, "x");
        let expected = if *name == "archive" { "inbox" } else { name };
        assert_eq!(*entry(&*store, &romeo, &peer(name)).in_box, *expected);
    }
    assert_eq!(filed(), [0; 0]);
    // So does one of the owner's.
    put(&*store, into_box(&romeo, &peer("inbox"), "archive")).unwrap();
    assert_eq!(filed(), [id_hash(&peer("inbox"))]);
    tell(&*store, ROMEO, &peer("inbox"), 20, "x");
    assert_eq!(filed(), [0; 0]);
    assert_eq!(*entry(&*store, &romeo, &peer("inbox")).in_box, *"inbox");
}

pub fn the_bin_is_emptied_by_age<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let [romeo, _] = pair(&*store);
    let peer = |n: u64| format!("p{n}@b.example");
    for n in 0..6 {
        tell(&*store, &peer(n), ROMEO, n, "x");
        if n < 5 {
            put(&*store, into_box(&romeo, &peer(n), "bin")).unwrap();
        }
    }
    let empty = |before_ms| Write::InboxEmptyBin {
        owner: romeo.clone(),
        before_ms,
    };
    let bin = || {
        let filter = InboxFilter {
            in_box: Some("bin".into()),
            ..InboxFilter::default()
        };
        wait(store.inbox_page(&romeo, filter, WHOLE)).unwrap().count
    };
    put(&*store, empty(at(2).ms())).unwrap();
    assert_eq!(bin(), 3);
    assert_eq!(
        wait(store.inbox_entry(&romeo, &jid(&peer(0)))).unwrap(),
        None
    );
    put(&*store, empty(u64::MAX)).unwrap();
    assert_eq!((bin(), list(&*store, &romeo).count), (0, 1));
    // The messages are there still, and a new one begins a new entry.
    let whole = page(&*store, &romeo, &ArchiveFilter::default());
    assert_eq!(whole.messages.len(), 6);
    tell(&*store, &peer(0), ROMEO, 10, "x");
    let found = entry(&*store, &romeo, &peer(0));
    assert_eq!((found.unread, &*found.in_box), (1, "inbox"));
}

pub fn an_inbox_is_filtered_and_counted<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let romeo = create(&*store, ROMEO);
    for n in 0..8 {
        let peer = format!("p{n}@b.example");
        for extra in 0..=n {
            tell(&*store, &peer, ROMEO, n * 10 + extra, "x");
        }
        if n % 2 == 0 {
            put(&*store, displayed(&romeo, &peer, mid(n * 10 + n))).unwrap();
        }
    }
    put(&*store, into_box(&romeo, "p6@b.example", "bin")).unwrap();
    put(&*store, into_box(&romeo, "p7@b.example", "archive")).unwrap();
    let find = |filter: &InboxFilter| {
        let page = wait(store.inbox_page(&romeo, filter.clone(), WHOLE)).unwrap();
        assert!(page.is_complete && page.entries.len() == page.count as usize);
        let local = |e: &InboxEntry| e.peer.local().unwrap_or_default()[1..].parse().unwrap();
        let entries: Vec<u64> = page.entries.iter().map(local).collect();
        (entries, page.unread, page.active)
    };
    let filter = InboxFilter::default();
    assert_eq!(find(&filter), (vec![7, 5, 4, 3, 2, 1, 0], 8 + 6 + 4 + 2, 4));
    let boxed = |name: &str| InboxFilter {
        in_box: Some(name.into()),
        ..InboxFilter::default()
    };
    assert_eq!(find(&boxed("inbox")).0, [5, 4, 3, 2, 1, 0]);
    assert_eq!(find(&boxed("archive")), (vec![7], 8, 1));
    assert_eq!(find(&boxed("bin")), (vec![6], 0, 0));
    assert_eq!(find(&boxed("all")).0.len(), 8);
    assert_eq!(find(&boxed("'; --")).0, [0; 0]);
    let unread = InboxFilter {
        is_unread_only: true,
        ..boxed("all")
    };
    assert_eq!(find(&unread), (vec![7, 5, 3, 1], 20, 4));
    let timed = InboxFilter {
        start_ms: Some(at(22).ms()),
        end_ms: Some(at(55).ms()),
        ..InboxFilter::default()
    };
    assert_eq!(find(&timed).0, [5, 4, 3, 2]);
}

pub fn an_inbox_is_read_in_slices<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let romeo = create(&*store, ROMEO);
    for n in 0..23 {
        tell(&*store, &format!("p{n}@b.example"), ROMEO, n, "x");
    }
    for is_ascending in [false, true] {
        for is_from_end in [false, true] {
            let mut slice = InboxSlice {
                is_ascending,
                is_from_end,
                limit: 5,
                ..WHOLE
            };
            let mut seen: Vec<ArchiveId> = Vec::new();
            loop {
                let filter = InboxFilter::default();
                let page = wait(store.inbox_page(&romeo, filter, slice)).unwrap();
                assert_eq!((page.count, page.unread, page.active), (23, 23, 23));
                let ids: Vec<ArchiveId> = page.entries.iter().map(|e| e.last_id).collect();
                if is_from_end {
                    slice.before = ids.first().copied();
                    seen.splice(0..0, ids);
                } else {
                    slice.after = ids.last().copied();
                    seen.extend(ids);
                }
                if page.is_complete {
                    break;
                }
            }
            let mut expected: Vec<ArchiveId> = (0..23).map(at).collect();
            if !is_ascending {
                expected.reverse();
            }
            assert_eq!(seen, expected);
        }
    }
    let none = InboxSlice { limit: 0, ..WHOLE };
    let page = wait(store.inbox_page(&romeo, InboxFilter::default(), none)).unwrap();
    assert_eq!((page.entries.len(), page.count), (0, 23));
    assert!(!page.is_complete);
}

pub fn an_entry_outlives_its_messages<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let [romeo, _] = pair(&*store);
    for n in 1..4 {
        tell(&*store, "juliet@a.example/1", ROMEO, n, "x");
    }
    put(&*store, purge(&romeo, None, ArchiveId::MAX)).unwrap();
    let check = |store: &dyn Store| {
        let found = entry(store, &romeo, JULIET);
        assert_eq!((found.unread, found.last_id), (3, at(3)));
        assert_eq!(*found.stanza, *stanza("juliet@a.example/1", ROMEO, 3, "x"));
    };
    check(&*store);
    std::thread::sleep(Duration::from_millis(200));
    check(&*store);
    store.close();
    let store = place.open(ROOM);
    check(&*store);
    tell(&*store, JULIET, ROMEO, 5, "new");
    let found = entry(&*store, &romeo, JULIET);
    assert_eq!(*found.stanza, *stanza(JULIET, ROMEO, 5, "new"));
}
