//! Full-text search in archives.

use super::archive::{JULIET, ROMEO, all, at, keep, message, numbers, pair, purge, tell};
use super::*;
use antiphon_routing::archive::{
    ArchiveFilter, ArchiveId, ArchivePage, ArchiveRecord, Edit, Flags, Reference,
};
use std::time::Instant;

/// A page of a search, when the index has everything.
fn search_page(
    store: &dyn Store,
    owner: &Jid,
    filter: &ArchiveFilter,
    is_from_end: bool,
    limit: usize,
) -> ArchivePage {
    let begin = Instant::now();
    loop {
        let page = wait(store.archive_page(owner, filter.clone(), is_from_end, limit)).unwrap();
        if !page.is_unstable {
            return page;
        }
        assert!(begin.elapsed() < PATIENCE, "the index stays behind");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn text(text: &str) -> ArchiveFilter {
    ArchiveFilter {
        text: Some(text.to_owned()),
        ..ArchiveFilter::default()
    }
}

/// Waits until the index has everything that was written before.
pub fn settle(store: &dyn Store, owner: &Jid) {
    search(store, owner, "anything");
}

/// Which messages a search finds, when the index has everything.
pub fn search(store: &dyn Store, owner: &Jid, words: &str) -> Vec<u64> {
    numbers(&search_page(store, owner, &text(words), false, 1000))
}

const TEXTS: &[&str] = &[
    "The invoice of March is here",
    "Shall we march to the station?",
    "Grüße aus der Straße, café",
    "新しい手机を買った",
    "https://example.org/path?q=1 and e-mail",
    "to be or not to be",
    "INVOICE 2024 & <more>",
    "",
];

pub fn all_terms_must_occur<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let owners = pair(&*store);
    for (n, text) in TEXTS.iter().enumerate() {
        tell(&*store, "romeo@a.example/1", JULIET, n as u64, text);
    }
    let check = |store: &dyn Store| {
        for owner in &owners {
            for (words, expected) in [
                ("invoice", vec![0, 6]),
                ("INVOICE march", vec![0]),
                ("march", vec![0, 1]),
                ("absent", vec![]),
                ("invoice absent", vec![]),
                ("grusse strasse", vec![2]),
                ("CAFE", vec![2]),
                ("手机", vec![3]),
                ("example.org", vec![4]),
                ("\"or not to be\"", vec![5]),
                ("\"not or\"", vec![]),
                ("inv*", vec![0, 6]),
                ("\"the sta\"*", vec![1]),
                ("2024 more", vec![6]),
                ("message", vec![]),
                ("juliet", vec![]),
            ] {
                assert_eq!(search(store, owner, words), expected, "{words}");
            }
        }
    };
    check(&*store);
    store.close();
    check(&*place.open(ROOM));
}

pub fn only_the_own_archive_is_searched<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let [romeo, juliet] = pair(&*store);
    let tybalt = create(&*store, "tybalt@a.example");
    tell(&*store, ROMEO, JULIET, 1, "rose");
    tell(&*store, JULIET, "tybalt@a.example", 2, "rose");
    // He had it archived, she had not.
    let record = message(&romeo, ROMEO, JULIET, 3, "rose");
    put(&*store, keep(&romeo, record)).unwrap();
    assert_eq!(search(&*store, &romeo, "rose"), [1, 3]);
    assert_eq!(search(&*store, &juliet, "rose"), [1, 2]);
    assert_eq!(search(&*store, &tybalt, "rose"), [2]);
    assert_eq!(search(&*store, &jid("nobody@a.example"), "rose"), [0; 0]);
}

pub fn a_search_has_the_other_filters_too<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let [romeo, _] = pair(&*store);
    for n in 0..40 {
        let from = match n % 4 {
            0 => "juliet@a.example/1",
            1 => "juliet@a.example/2",
            2 => "x@b.example",
            _ => "romeo@a.example/1",
        };
        let words = if n % 8 < 4 { "common rose" } else { "common" };
        tell(&*store, from, ROMEO, n, words);
    }
    let find = |filter: ArchiveFilter| numbers(&search_page(&*store, &romeo, &filter, false, 1000));
    let with = |address: &str, words: &str| ArchiveFilter {
        with: Some(jid(address)),
        ..text(words)
    };
    let only = |wanted: &dyn Fn(u64) -> bool| (0..40).filter(|n| wanted(*n)).collect::<Vec<_>>();
    assert_eq!(find(text("rose")), only(&|n| n % 8 < 4));
    assert_eq!(find(with(JULIET, "rose")), only(&|n| n % 8 < 2));
    assert_eq!(
        find(with("juliet@a.example/2", "rose")),
        only(&|n| n % 8 == 1)
    );
    assert_eq!(find(with("x@b.example", "common")), only(&|n| n % 4 == 2));
    assert_eq!(find(with(ROMEO, "common")), only(&|n| n % 4 == 3));
    assert_eq!(find(with("nobody@b.example", "common")), [0; 0]);
    let cut = ArchiveFilter {
        after: Some(at(8)),
        before: Some(at(17)),
        ..with(JULIET, "rose")
    };
    assert_eq!(find(cut), [9, 16]);
    let ids = ArchiveFilter {
        ids: Some(vec![at(0), at(4), at(8)]),
        ..text("rose")
    };
    assert_eq!(find(ids), [0, 8]);
    for is_from_end in [false, true] {
        let mut seen = Vec::new();
        let mut filter = text("rose");
        loop {
            let page = search_page(&*store, &romeo, &filter, is_from_end, 3);
            if is_from_end {
                filter.before = page.messages.first().map(|m| m.id);
                seen.splice(0..0, numbers(&page));
            } else {
                filter.after = page.messages.last().map(|m| m.id);
                seen.extend(numbers(&page));
            }
            if page.is_complete {
                break;
            }
        }
        assert_eq!(seen, only(&|n| n % 8 < 4));
    }
}

pub fn what_was_edited_or_purged_is_not_found<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let [romeo, juliet] = pair(&*store);
    for n in 0..10 {
        tell(&*store, ROMEO, JULIET, n, "secret");
    }
    assert_eq!(search(&*store, &romeo, "secret").len(), 10);
    let edit = |owner: &Jid, peer: &Jid, n, edit| Write::ArchiveEdit {
        owner: owner.clone(),
        peer: peer.clone(),
        is_out: owner.bare_str() == ROMEO,
        target: Reference::Id(at(n)),
        edit,
    };
    let retract = Edit::Retract { at_ms: 1, id: None };
    put(&*store, edit(&romeo, &juliet, 3, retract.clone())).unwrap();
    put(&*store, edit(&romeo, &juliet, 4, Edit::Supersede)).unwrap();
    assert_eq!(search(&*store, &romeo, "secret"), [0, 1, 2, 5, 6, 7, 8, 9]);
    assert_eq!(search(&*store, &juliet, "secret").len(), 10);
    put(&*store, edit(&juliet, &romeo, 3, retract)).unwrap();
    put(&*store, edit(&juliet, &romeo, 4, Edit::Supersede)).unwrap();
    assert_eq!(search(&*store, &juliet, "secret"), [0, 1, 2, 5, 6, 7, 8, 9]);
    put(&*store, purge(&romeo, None, at(7))).unwrap();
    assert_eq!(search(&*store, &romeo, "secret"), [7, 8, 9]);
    assert_eq!(search(&*store, &juliet, "secret").len(), 8);
    put(&*store, purge(&juliet, Some(ROMEO), ArchiveId::MAX)).unwrap();
    assert_eq!(search(&*store, &juliet, "secret"), [0; 0]);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(search(&*store, &romeo, "secret"), [7, 8, 9]);
    put(&*store, Write::AccountDelete { jid: romeo }).unwrap();
    let romeo = create(&*store, ROMEO);
    assert_eq!(search(&*store, &romeo, "secret"), [0; 0]);
}

pub fn only_searchable_messages_are_found<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let [romeo, juliet] = pair(&*store);
    for owner in [&romeo, &juliet] {
        let record = message(owner, ROMEO, JULIET, 1, "fallback text");
        let flags = Flags(record.flags.0 & !Flags::SEARCHABLE.0);
        put(&*store, keep(owner, ArchiveRecord { flags, ..record })).unwrap();
        assert_eq!(search(&*store, owner, "fallback"), [0; 0]);
        assert_eq!(all(&*store, owner), [1]);
    }
}

pub fn messages_with_ids_of_their_own_are_found_in_order<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let [romeo, juliet] = pair(&*store);
    for n in 0..30 {
        let record = message(&romeo, ROMEO, JULIET, n * 2, "word");
        put(&*store, keep(&romeo, record)).unwrap();
        // She has every second one later, and every third one in another form.
        let body = if n % 3 == 0 { "word too" } else { "word" };
        let record = ArchiveRecord {
            id: at(n * 2 + n % 2),
            ..message(&juliet, ROMEO, JULIET, n * 2, body)
        };
        put(&*store, keep(&juliet, record)).unwrap();
    }
    let hers: Vec<u64> = (0..30).map(|n| n * 2 + n % 2).collect();
    assert_eq!(search(&*store, &juliet, "word"), hers);
    let too: Vec<u64> = (0..30).step_by(3).map(|n| n * 2 + n % 2).collect();
    assert_eq!(search(&*store, &juliet, "too"), too);
    assert_eq!(search(&*store, &romeo, "too"), [0; 0]);
    assert_eq!(search(&*store, &romeo, "word").len(), 30);
    let last = search_page(&*store, &juliet, &text("word"), true, 4);
    assert_eq!(numbers(&last), hers[26..]);
}

pub fn beginnings_of_words_are_found_among_many_messages<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let [romeo, _] = pair(&*store);
    for n in 0..900 {
        // One beginning in all, one in a few far apart.
        let body = if n % 300 == 7 { "unicorn word" } else { "word" };
        queue(
            &*store,
            keep(&romeo, message(&romeo, JULIET, ROMEO, n, body)),
        );
    }
    assert_eq!(search(&*store, &romeo, "uni*"), [7, 307, 607]);
    assert_eq!(search(&*store, &romeo, "uni* wo*"), [7, 307, 607]);
    assert_eq!(search(&*store, &romeo, "wor*").len(), 900);
    for is_from_end in [false, true] {
        let mut seen = Vec::new();
        let mut filter = text("uni*");
        loop {
            let page = search_page(&*store, &romeo, &filter, is_from_end, 1);
            if is_from_end {
                filter.before = page.messages.first().map(|m| m.id);
            } else {
                filter.after = page.messages.last().map(|m| m.id);
            }
            seen.extend(numbers(&page));
            if page.is_complete {
                break;
            }
        }
        seen.sort_unstable();
        assert_eq!(seen, [7, 307, 607]);
    }
}

pub fn phrases_of_common_words_are_found_among_many_messages<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let [romeo, juliet] = pair(&*store);
    for n in 0..900 {
        let body = match n % 300 {
            7 => "over the lazy 手机, quick brown fox",
            // The same words in each, never beside one another like that.
            _ => "fox quick the lazy brown 手 over 机",
        };
        queue(
            &*store,
            keep(&romeo, message(&romeo, JULIET, ROMEO, n, body)),
        );
    }
    let few = [
        "\"quick brown\"",
        "\"over the lazy\" \"brown fox\"",
        "\"QUICK bro\"*",
        "\"quick br\"*",
        "\"lazy 手机 quick\"",
        "手机",
    ];
    for words in few {
        assert_eq!(search(&*store, &romeo, words), [7, 307, 607], "{words}");
    }
    assert_eq!(search(&*store, &romeo, "\"brown quick\""), [0; 0]);
    assert_eq!(search(&*store, &romeo, "\"the lazy\"").len(), 900);
    assert_eq!(search(&*store, &romeo, "\"quick th\"*").len(), 897);
    let edit = |n, edit| Write::ArchiveEdit {
        owner: romeo.clone(),
        peer: juliet.clone(),
        is_out: false,
        target: Reference::Id(at(n)),
        edit,
    };
    let retract = Edit::Retract { at_ms: 1, id: None };
    put(&*store, edit(307, retract)).unwrap();
    put(&*store, edit(607, Edit::Supersede)).unwrap();
    for words in few {
        assert_eq!(search(&*store, &romeo, words), [7], "{words}");
    }
}

pub fn hostile_searches_are_only_text<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let [romeo, _] = pair(&*store);
    for (n, text) in NASTY.iter().enumerate() {
        let text = text.replace(['\0', '\u{10ffff}'], " ");
        tell(&*store, JULIET, ROMEO, n as u64, &text);
    }
    let more = [
        "NEAR(a b)",
        "body : x",
        "^x",
        "a OR b",
        "x* y*",
        "-x",
        "(",
        "\"",
        "§1",
        "rowid",
        "{a b}: c",
        "* *",
        "+",
        "'''",
        "a*b*",
        "AND",
        "NOT NOT",
        "\"a\" *",
        "column1:x",
    ];
    for words in NASTY.iter().chain(&more) {
        let page = wait(store.archive_page(&romeo, text(words), false, 10));
        assert!(page.is_ok(), "{words}: {page:?}");
    }
    assert_eq!(search(&*store, &romeo, "drop table owner"), [0]);
}
