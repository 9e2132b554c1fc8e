//! Archive and inbox: what waits for commits, and how pages reach a session.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod world;

use antiphon_net::gateway::{Ended, Gateway};
use antiphon_net::session::{Session, UNSAVED_BYTES};
use antiphon_node::calls::Operation;
use antiphon_node::history::{ArchiveQuery, InboxForm, InboxQuery, PageForm, PageQuery};
use antiphon_node::value::Value;
use antiphon_routing::archive::InboxChange;
use antiphon_routing::store::Store;
use antiphon_xmpp::stanza::StanzaCondition;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use world::*;

fn message(id: &str, body: &str) -> String {
    format!("<message to='juliet@a.example' id='{id}' type='chat'><body>{body}</body></message>")
}

async fn couple() -> (World, Arc<Session>, Arc<Session>) {
    let world = World::with(&["romeo", "juliet"], ARCHIVE).await;
    let romeo = world.online("romeo").await;
    world.resumable(&romeo);
    let juliet = world.online("juliet").await;
    (world, romeo, juliet)
}

// -- what waits for commits ---------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_handled_when_both_archives_have_it() {
    let (world, romeo, _juliet) = couple().await;
    world.gate.holds_writes.store(true, Ordering::SeqCst);
    world.send(&romeo, &message("1", "x"));
    until(|| world.gate.held.lock().len() == 2).await;
    assert_eq!(romeo.inbound(), Some((0, false)));
    world.gate.let_one();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(romeo.inbound(), Some((0, false)));
    world.gate.let_one();
    until(|| romeo.inbound() == Some((1, true))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_delivered_when_it_is_committed_and_nothing_overtakes_it() {
    let (world, romeo, juliet) = couple().await;
    read(&juliet);
    world.gate.holds_writes.store(true, Ordering::SeqCst);
    let began = Instant::now();
    world.send(&romeo, &message("1", "x"));
    world.send(
        &romeo,
        "<message to='juliet@a.example' id='2' type='chat'><x xmlns='urn:x'/></message>",
    );
    let early = read(&juliet);
    // The machine may have been asleep for longer than a store may be slow.
    if began.elapsed() < Duration::from_millis(40) {
        assert_eq!(early, "");
    }
    world.gate.open();
    let text = early + &expect(&juliet, "id='2'").await;
    let places = ["id='1'", "id='2'"].map(|id| text.find(id).unwrap());
    assert!(places.is_sorted(), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_store_holds_up_acknowledgements_and_no_deliveries() {
    let (world, romeo, juliet) = couple().await;
    world.gate.holds_writes.store(true, Ordering::SeqCst);
    for id in ["1", "2", "3"] {
        world.send(&romeo, &message(id, "x"));
        expect(&juliet, &format!("id='{id}'")).await;
    }
    assert_eq!(romeo.inbound(), Some((0, false)));
    world.gate.open();
    until(|| romeo.inbound() == Some((3, true))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sends_faster_than_the_store_saves_is_not_read() {
    let (world, romeo, juliet) = couple().await;
    world.gate.holds_writes.store(true, Ordering::SeqCst);
    let body = "x".repeat(UNSAVED_BYTES / 4);
    assert!(!romeo.is_saving());
    for id in 0..4 {
        world.send(&romeo, &message(&id.to_string(), &body));
    }
    assert!(romeo.is_saving());
    assert!(!juliet.is_saving());
    world.gate.open();
    until(|| !romeo.is_saving()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_the_store_refuses_comes_back() {
    let (world, romeo, _juliet) = couple().await;
    world.gate.fails_writes.store(true, Ordering::SeqCst);
    world.send(&romeo, &message("1", "x"));
    expect(&romeo, "type='error'").await;
    until(|| romeo.inbound() == Some((1, true))).await;
}

// -- pages --------------------------------------------------------------------------------------

fn page(session: &Session, page: PageQuery, query: ArchiveQuery) -> Operation {
    Operation::ArchivePage {
        owner: session.jid.bare(),
        session: session.id,
        query,
        page,
        form: PageForm {
            ns: "urn:xmpp:mam:2".into(),
            query_id: Some("q".into()),
            is_flipped: false,
            wants_count: true,
        },
    }
}

fn up_to(max: usize) -> PageQuery {
    PageQuery {
        max,
        ..PageQuery::default()
    }
}

/// Value of the first attribute of this name behind a text.
fn attr(text: &str, behind: &str, name: &str) -> String {
    let rest = &text[text.find(behind).unwrap()..];
    let rest = &rest[rest.find(&format!(" {name}='")).unwrap() + name.len() + 3..];
    rest[..rest.find('\'').unwrap()].to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_has_the_ids_that_came_with_the_messages() {
    let (world, romeo, juliet) = couple().await;
    world.send(&romeo, &message("1", "one"));
    let live = expect(&juliet, "id='1'").await;
    world.send(&romeo, &message("2", "two"));
    expect(&juliet, "id='2'").await;
    let place = attr(&live, "<stanza-id", "id");

    let answer = world.call(page(&juliet, up_to(10), ArchiveQuery::default()));
    let Value::ArchivePage {
        first,
        last,
        count,
        is_complete,
        ..
    } = answer.await.unwrap()
    else {
        panic!("no page")
    };
    assert_eq!(first.as_deref(), Some(&*place));
    assert_eq!((count, is_complete), (Some(2), true));
    let given = read(&juliet);
    assert_eq!(attr(&given, "<result", "id"), place);
    assert_eq!(attr(&given, "<result", "queryid"), "q");
    assert!(given.find("one").unwrap() < given.find("two").unwrap());

    // The next page is behind the first, and an unknown place is none.
    let behind = PageQuery {
        after: first,
        ..up_to(10)
    };
    let answer = world.call(page(&juliet, behind, ArchiveQuery::default()));
    assert!(matches!(answer.await, Ok(Value::ArchivePage { first, .. }) if first == last));
    let unknown = PageQuery {
        after: Some("x".into()),
        ..up_to(10)
    };
    let answer = world.call(page(&juliet, unknown, ArchiveQuery::default()));
    assert_eq!(
        answer.await.unwrap_err().condition,
        StanzaCondition::ItemNotFound
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_that_is_none_is_refused_with_its_reason() {
    let (world, _romeo, juliet) = couple().await;
    let query = ArchiveQuery {
        text: Some("   ".into()),
        ..ArchiveQuery::default()
    };
    let error = world
        .call(page(&juliet, up_to(10), query))
        .await
        .unwrap_err();
    assert_eq!(error.condition, StanzaCondition::BadRequest);
    assert!(error.text.unwrap().contains("no word"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_asked_for_is_not_kept_for_another_session() {
    let (world, romeo, juliet) = couple().await;
    world.send(&romeo, &message("1", "one"));
    expect(&juliet, "id='1'").await;
    world
        .call(page(&romeo, up_to(10), ArchiveQuery::default()))
        .await
        .unwrap();
    expect(&romeo, "<result").await;
    // Never confirmed: the presence and the result.
    world.gateway.ended(romeo, Ended::Closed(None));
    let owner = jid("romeo@a.example");
    assert_eq!(world.stats("sessions").await, 1);
    assert_eq!(world.gate.offline(&owner, 0, 10).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_nothing_gets_a_page_at_its_own_pace() {
    let (world, romeo, juliet) = couple().await;
    world.resumable(&juliet);
    read(&juliet);
    for id in 0..12 {
        world.send(&romeo, &message(&id.to_string(), "x"));
        expect(&juliet, &format!("id='{id}'")).await;
        juliet.acked(id + 1).unwrap();
    }
    let asking = world.call(page(&juliet, up_to(20), ArchiveQuery::default()));
    let reading = async {
        let mut count = 0;
        let mut acked = 12;
        while count < 12 {
            let new = read(&juliet).matches("<result").count() as u32;
            count += new;
            acked += new;
            assert!(new <= 5, "as many as may be unconfirmed");
            juliet.acked(acked).unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let (answer, ()) = tokio::join!(asking, reading);
    assert!(matches!(
        answer,
        Ok(Value::ArchivePage {
            is_complete: true,
            ..
        })
    ));
}

// -- the inbox ----------------------------------------------------------------------------------

fn entry(value: Value) -> (u32, String) {
    match value {
        Value::InboxEntry { unread, in_box, .. } => (unread, in_box),
        other => panic!("no entry: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_that_is_changed_is_told_to_all_sessions() {
    let (world, romeo, juliet) = couple().await;
    for id in ["1", "2"] {
        world.send(&romeo, &message(id, "x"));
        expect(&juliet, &format!("id='{id}'")).await;
    }
    let (owner, peer) = (jid("juliet@a.example"), jid("romeo@a.example"));
    let asked = Operation::InboxEntry {
        owner: owner.clone(),
        peer: peer.clone(),
    };
    assert_eq!(entry(world.call(asked).await.unwrap()), (2, "inbox".into()));
    let change = Operation::InboxSet {
        owner: owner.clone(),
        peer: peer.clone(),
        change: InboxChange {
            in_box: Some("archive".into()),
            is_read: Some(true),
            ..InboxChange::default()
        },
    };
    let changed = world.call(change).await.unwrap();
    assert_eq!(entry(changed), (0, "archive".into()));
    let notice = expect(&juliet, "#conversation").await;
    assert!(notice.contains("<box>archive</box>"), "{notice}");

    // The next message brings it back, which is told too.
    world.send(&romeo, &message("3", "x"));
    let notice = expect(&juliet, "<box>inbox</box>").await;
    assert!(notice.contains("<read>false</read>"), "{notice}");
    let nobody = Operation::InboxSet {
        owner,
        peer: jid("nobody@a.example"),
        change: InboxChange::default(),
    };
    assert_eq!(
        world.call(nobody).await.unwrap_err().condition,
        StanzaCondition::ItemNotFound
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inbox_comes_entry_by_entry_with_its_counts() {
    let (world, romeo, juliet) = couple().await;
    world.send(&romeo, &message("1", "x"));
    expect(&juliet, "id='1'").await;
    for (form, mark) in [
        (InboxForm::Esl, "unread='1' queryid='q'"),
        (InboxForm::Entries, "<entry"),
        (InboxForm::Messages, "urn:xmpp:mam:2"),
    ] {
        let asked = Operation::InboxPage {
            owner: juliet.jid.bare(),
            session: juliet.id,
            query_id: Some("q".into()),
            query: InboxQuery {
                max: 10,
                ..InboxQuery::default()
            },
            form,
        };
        let answer = world.call(asked).await.unwrap();
        let given = read(&juliet);
        assert!(given.contains(mark), "{given}");
        let counts = match answer {
            Value::InboxPage {
                count,
                unread,
                active,
                ..
            } => (count, unread, active),
            other => panic!("no page: {other:?}"),
        };
        assert_eq!(counts, (1, 1, 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_archive_there_is_nothing_to_ask() {
    let world = World::new(&["juliet"]).await;
    let juliet = world.online("juliet").await;
    let error = world.call(page(&juliet, up_to(1), ArchiveQuery::default()));
    assert_eq!(
        error.await.unwrap_err().condition,
        StanzaCondition::ServiceUnavailable
    );
}
