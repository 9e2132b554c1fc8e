//! Corrections that follow each other: in the archive, in searches and in the inbox.

use super::archive::{JULIET, ROMEO, all, at, keep, message, page, pair, stanza};
use super::search::search;
use super::{Place, ROOM, jid, put, wait};
use antiphon_routing::archive::{
    ArchiveFilter, ArchiveRecord, Edit, Flags, InboxEffect, Reference,
};
use antiphon_routing::archive::{InboxEntry, id_hash};
use antiphon_routing::store::{Store, Write};
use antiphon_xmpp::{Jid, Stanza, ns};

/// What Juliet writes to Romeo, in his archive.
fn receive(store: &dyn Store, romeo: &Jid, n: u64, body: &str) {
    let record = message(romeo, JULIET, ROMEO, n, body);
    put(store, keep(romeo, record)).unwrap();
}

/// A message `n` of hers that corrects the one with `id`, as routing writes it.
fn correct(store: &dyn Store, romeo: &Jid, n: u64, id: &str, body: &str) {
    let xml = String::from_utf8(stanza(JULIET, ROMEO, n, body)).unwrap();
    let replace = format!("<replace xmlns='{}' id='{id}'/></message>", ns::CORRECT);
    let record = ArchiveRecord {
        flags: Flags::SEARCHABLE,
        stanza: xml.replace("</message>", &replace).into_bytes().into(),
        inbox: InboxEffect::None,
        ..message(romeo, JULIET, ROMEO, n, body)
    };
    put(store, keep(romeo, record)).unwrap();
    change(store, romeo, id, Edit::Supersede);
}

fn change(store: &dyn Store, romeo: &Jid, id: &str, edit: Edit) {
    let edit = Write::ArchiveEdit {
        owner: romeo.clone(),
        peer: jid(JULIET),
        is_out: false,
        target: Reference::Mid(id_hash(id)),
        edit,
    };
    put(store, edit).unwrap();
}

fn entry(store: &dyn Store, romeo: &Jid) -> (InboxEntry, String) {
    let entry = wait(store.inbox_entry(romeo, &jid(JULIET)))
        .unwrap()
        .unwrap();
    let text = body(&entry.stanza);
    (entry, text)
}

fn body(stanza: &[u8]) -> String {
    let stanza = Stanza::from_bytes(stanza).unwrap();
    stanza
        .child(ns::CLIENT, "body")
        .map_or_else(String::new, |b| b.text())
}

pub fn the_inbox_shows_what_was_corrected_and_counts_it_once<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let [romeo, _] = pair(&*store);
    receive(&*store, &romeo, 1, "first");
    receive(&*store, &romeo, 2, "secnod");
    for (n, text) in [(3, "sceond"), (4, "second")] {
        correct(&*store, &romeo, n, "m2", text);
        let (found, shown) = entry(&*store, &romeo);
        assert_eq!((found.unread, found.last_id), (2, at(n)));
        assert_eq!(shown, text);
    }
    // Of what is not the last any more, the inbox shows nothing.
    correct(&*store, &romeo, 5, "m1", "the first");
    let (found, shown) = entry(&*store, &romeo);
    assert_eq!((found.unread, found.last_id, &*shown), (2, at(4), "second"));
    receive(&*store, &romeo, 6, "third");
    correct(&*store, &romeo, 7, "m2", "the second");
    let (found, shown) = entry(&*store, &romeo);
    assert_eq!((found.unread, found.last_id, &*shown), (3, at(6), "third"));
    // A correction may be corrected by its own id, too, and read by it.
    correct(&*store, &romeo, 8, "m6", "thrid");
    correct(&*store, &romeo, 9, "m8", "the third");
    assert_eq!(entry(&*store, &romeo).1, "the third");
    let read = Write::InboxRead {
        owner: romeo.clone(),
        peer: jid(JULIET),
        upto: Reference::Mid(id_hash("m9")),
    };
    put(&*store, read).unwrap();
    assert_eq!(entry(&*store, &romeo).0.unread, 0);
    store.close();
    let store = place.open(ROOM);
    let (found, shown) = entry(&*store, &romeo);
    assert_eq!((found.unread, &*shown), (0, "the third"));
}

pub fn only_the_newest_correction_is_found_and_a_retraction_takes_all<P: Place>() {
    let place = P::new();
    let store = place.open(ROOM);
    let [romeo, _] = pair(&*store);
    receive(&*store, &romeo, 1, "needle one");
    correct(&*store, &romeo, 2, "m1", "needle two");
    receive(&*store, &romeo, 3, "between");
    correct(&*store, &romeo, 4, "m1", "needle three");
    assert_eq!(search(&*store, &romeo, "needle"), [4]);
    assert_eq!(all(&*store, &romeo), [1, 2, 3, 4]);
    let retraction = || Edit::Retract {
        at_ms: 1_700_000_100_000,
        id: Some("r1".into()),
    };
    for _ in 0..2 {
        change(&*store, &romeo, "m1", retraction());
        assert_eq!(search(&*store, &romeo, "needle"), [0; 0]);
        let found = page(&*store, &romeo, &ArchiveFilter::default()).messages;
        let texts: Vec<String> = found.iter().map(|m| body(&m.stanza)).collect();
        assert_eq!(texts, ["", "", "between", ""]);
        let retracted = found.iter().map(|m| m.flags.has(Flags::RETRACTED));
        assert_eq!(retracted.collect::<Vec<_>>(), [true, true, false, true]);
    }
}
