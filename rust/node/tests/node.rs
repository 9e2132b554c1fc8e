//! A node on a temporary store, its sessions without sockets.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod world;

use antiphon_net::gateway::{Ended, Gateway, ResumeFailed};
use antiphon_net::session::FIRST_GENERATION;
use antiphon_node::bridge::Event;
use antiphon_node::calls::Operation;
use antiphon_xmpp::stanza::StanzaCondition;
use antiphon_xmpp::stream::{Framing, Outgoing};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;
use std::time::Duration;
use world::*;

// -- whose a stanza is --------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn a_stanza_goes_to_the_host_an_account_a_component_or_nowhere() {
    let world = World::new(&["romeo", "juliet"]).await;
    let romeo = world.online("romeo").await;
    let juliet = world.online("juliet").await;
    world.send(
        &romeo,
        "<iq type='get' id='1' to='a.example'><ping xmlns='urn:xmpp:ping'/></iq>",
    );
    expect(&romeo, "id='1' type='result'").await;
    world.send(
        &romeo,
        "<iq type='get' id='2' to='a.example'><x xmlns='urn:x'/></iq>",
    );
    expect(&romeo, "service-unavailable").await;
    world.send(
        &romeo,
        "<message to='juliet@a.example' id='3' type='chat'><body>x</body></message>",
    );
    expect(&juliet, "id='3'").await;
    world.send(
        &romeo,
        "<message to='x@c.example' id='4'><body>x</body></message>",
    );
    expect(&romeo, "service-unavailable").await;
    let component = world.gateway.component_up(&jid("c.example")).unwrap();
    let twice = world.gateway.component_up(&jid("c.example"));
    assert_eq!(twice.unwrap_err().condition.name(), "conflict");
    world.send(
        &romeo,
        "<message to='x@c.example' id='5'><body>x</body></message>",
    );
    expect(&component, "id='5'").await;
    world.gateway.component_stanza(
        &component,
        stanza(
            "<message from='x@c.example' to='romeo@a.example/r' id='6'><body>x</body></message>",
        ),
    );
    expect(&romeo, "id='6'").await;
    world.gateway.component_down(&component);
    world.send(
        &romeo,
        "<message to='x@c.example' id='7'><body>x</body></message>",
    );
    expect(&romeo, "service-unavailable").await;
    world.send(
        &romeo,
        "<message to='x@elsewhere.example' id='8'><body>x</body></message>",
    );
    expect(&romeo, "remote-server-not-found").await;
    world.send(
        &romeo,
        "<message to='nobody@a.example' id='9'><body>x</body></message>",
    );
    expect(&romeo, "service-unavailable").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ordered_request_holds_its_session_until_python_answers() {
    let world = World::new(&["romeo"]).await;
    let romeo = world.online("romeo").await;
    world.send(
        &romeo,
        "<iq type='get' id='1' to='a.example'><q xmlns='urn:test'/></iq>",
    );
    assert!(romeo.is_held());
    let mut ticket = None;
    until(|| {
        for event in world.bridge.drain(10) {
            if let Event::Iq { ticket: found, .. } = event {
                ticket = Some(found);
            }
        }
        ticket.is_some()
    })
    .await;
    world.node.reply(ticket.unwrap(), None);
    assert!(!romeo.is_held());
    assert!(read(&romeo).contains("type='result'"));
}

// -- what is acknowledged is committed ------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn a_message_for_somebody_offline_is_handled_when_it_is_committed() {
    let world = World::new(&["romeo", "juliet"]).await;
    let romeo = world.bind("romeo").await;
    world.resumable(&romeo);
    world.gate.holds_writes.store(true, Ordering::SeqCst);
    let text = "<message to='juliet@a.example' id='1' type='chat'><body>x</body></message>";
    world.send(&romeo, text);
    world.send(
        &romeo,
        "<iq type='get' id='2' to='a.example'><ping xmlns='urn:xmpp:ping'/></iq>",
    );
    until(|| !world.gate.held.lock().is_empty()).await;
    assert_eq!(romeo.inbound(), Some((0, false)));
    world.gate.open();
    until(|| romeo.inbound() == Some((2, true))).await;
    let juliet = world.online("juliet").await;
    expect(&juliet, "id='1'").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_is_handled_and_shown_when_both_rosters_are_committed() {
    let world = World::new(&["romeo", "juliet"]).await;
    let (romeo, juliet) = (world.bind("romeo").await, world.online("juliet").await);
    world.resumable(&romeo);
    let asked = Operation::RosterGet {
        owner: jid("romeo@a.example"),
        session: Some(romeo.id),
        ver: None,
    };
    world.call(asked).await.unwrap();
    world.gate.holds_writes.store(true, Ordering::SeqCst);
    world.send(&romeo, "<presence to='juliet@a.example' type='subscribe'/>");
    expect(&juliet, "subscribe").await;
    // Romeo's roster and juliet's request.
    until(|| world.gate.held.lock().len() == 2).await;
    assert_eq!(romeo.inbound(), Some((0, false)));
    assert_eq!(read(&romeo), "");
    world.gate.let_one();
    let push = expect(&romeo, "ask='subscribe'").await;
    assert!(push.contains("jabber:iq:roster"), "{push}");
    assert_eq!(romeo.inbound(), Some((0, false)));
    world.gate.open();
    until(|| romeo.inbound() == Some((1, true))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_fails_is_told_to_the_sender() {
    let world = World::new(&["romeo", "juliet"]).await;
    let romeo = world.bind("romeo").await;
    world.resumable(&romeo);
    world.gate.fails_writes.store(true, Ordering::SeqCst);
    let text = "<message to='juliet@a.example' id='1' type='chat'><body>x</body></message>";
    world.send(&romeo, text);
    let answer = expect(&romeo, "type='error'").await;
    assert!(answer.contains("id='1'"), "{answer}");
    until(|| romeo.inbound() == Some((1, true))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_fails_is_told_to_the_sender() {
    let world = World::new(&["romeo", "juliet"]).await;
    let romeo = world.bind("romeo").await;
    world.resumable(&romeo);
    world.gate.fails_reads.store(true, Ordering::SeqCst);
    for to in ["juliet@a.example", "juliet@a.example/r"] {
        let text = format!("<message to='{to}' id='1' type='chat'><body>x</body></message>");
        world.send(&romeo, &text);
        expect(&romeo, "resource-constraint").await;
    }
    until(|| romeo.inbound() == Some((2, true))).await;
    let binding = world
        .gateway
        .bind(jid("juliet@a.example"), None, Framing::Tcp);
    assert_eq!(
        binding.await.unwrap_err().condition,
        StanzaCondition::InternalServerError
    );
    assert_eq!(world.stats("sessions").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_that_wait_for_one_entity_are_told_so() {
    let world = World::new(&["romeo", "juliet"]).await;
    let romeo = world.bind("romeo").await;
    world.gate.holds_reads.store(true, Ordering::SeqCst);
    for i in 0..1_005 {
        let to = "juliet@a.example/none";
        world.send(
            &romeo,
            &format!("<message to='{to}' id='m{i}'><subject/></message>"),
        );
    }
    let refused = expect(&romeo, "id='m1004'").await;
    assert!(refused.contains("resource-constraint"), "{refused}");
    assert!(!refused.contains("id='m999'"));
    world.gate.open();
    let text = "<iq type='get' id='2' to='juliet@a.example/r'><x xmlns='urn:x'/></iq>";
    world.send(&romeo, text);
    expect(&romeo, "id='2'").await;
}

// -- sessions that come and go ---------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_goes_while_it_binds_leaves_no_session() {
    let world = World::new(&["juliet"]).await;
    world.gate.holds_reads.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        let binding = world
            .gateway
            .bind(jid("juliet@a.example"), Some("r".into()), Framing::Tcp);
        let waited = tokio::time::timeout(Duration::from_millis(20), binding).await;
        assert!(waited.is_err(), "the entity is not there yet");
    }
    assert_eq!(world.stats("sessions").await, 0);
    world.gate.open();
    // All the places are free, and nobody else has the resource.
    for resource in ["1", "2", "3", "4", "5"] {
        let binding =
            world
                .gateway
                .bind(jid("juliet@a.example"), Some(resource.into()), Framing::Tcp);
        binding.await.unwrap();
    }
    assert_eq!(world.stats("sessions").await, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_session_waits_and_what_it_gets_is_written_again() {
    let world = World::new(&["romeo", "juliet"]).await;
    let romeo = world.online("romeo").await;
    let juliet = world.online("juliet").await;
    let id = world.resumable(&juliet);
    let say = |i: u32| {
        let text = format!("<message to='juliet@a.example/r' id='m{i}'><body>x</body></message>");
        world.send(&romeo, &text);
    };
    say(1);
    expect(&juliet, "id='m1'").await;
    assert!(juliet.leave(FIRST_GENERATION, 0));
    world.gateway.ended(Arc::clone(&juliet), Ended::Lost);
    say(2);
    let resuming = world
        .gateway
        .sm_resume(jid("juliet@a.example"), id.clone(), 0);
    let (same, h) = resuming.await.unwrap();
    assert!(Arc::ptr_eq(&same, &juliet));
    assert_eq!(h, 0);
    let generation = same.attach(Framing::Tcp, Outgoing::new(Framing::Tcp));
    let bytes = same.take(generation, Waker::noop()).out.bytes;
    let text = String::from_utf8(bytes).unwrap();
    assert!(text.find("id='m1'").unwrap() < text.find("id='m2'").unwrap());
    let stranger = world.gateway.sm_resume(jid("romeo@a.example"), id, 0);
    assert!(matches!(
        stranger.await,
        Err(ResumeFailed::Failed { h: None, .. })
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_resumptions_at_once_one_wins() {
    let world = World::new(&["romeo"]).await;
    let romeo = world.online("romeo").await;
    let id = world.resumable(&romeo);
    let seq = romeo.received(); // something is in hand, so both must wait
    let resume = || {
        world
            .gateway
            .sm_resume(jid("romeo@a.example"), id.clone(), 0)
    };
    let first = tokio::spawn(resume());
    tokio::time::sleep(Duration::from_millis(30)).await;
    let second = tokio::spawn(resume());
    tokio::time::sleep(Duration::from_millis(30)).await;
    romeo.handled(seq);
    assert!(matches!(
        first.await.unwrap(),
        Err(ResumeFailed::Failed { .. })
    ));
    let (session, h) = second.await.unwrap().unwrap();
    assert_eq!(h, 1);
    session.attach(Framing::Tcp, Outgoing::new(Framing::Tcp));
    assert_eq!(world.stats("sessions").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_goes_while_it_resumes_leaves_the_session_to_others() {
    let world = World::new(&["romeo"]).await;
    let romeo = world.online("romeo").await;
    let id = world.resumable(&romeo);
    let seq = romeo.received();
    let resume = || {
        world
            .gateway
            .sm_resume(jid("romeo@a.example"), id.clone(), 0)
    };
    let waited = tokio::time::timeout(Duration::from_millis(20), resume()).await;
    assert!(waited.is_err(), "something is in hand");
    romeo.handled(seq);
    let (_, h) = resume().await.unwrap();
    assert_eq!(h, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loss_that_is_noticed_after_the_resumption_changes_nothing() {
    let world = World::new(&["romeo"]).await;
    let romeo = world.online("romeo").await;
    let id = world.resumable(&romeo);
    let (session, _) = world
        .gateway
        .sm_resume(jid("romeo@a.example"), id, 0)
        .await
        .unwrap();
    session.attach(Framing::Tcp, Outgoing::new(Framing::Tcp));
    assert!(!session.leave(FIRST_GENERATION, 0), "the old connection");
    world.gateway.ended(Arc::clone(&session), Ended::Lost);
    assert!(session.is_attached());
    assert_eq!(world.stats("sessions").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_sends_what_it_held_another_way_in_order() {
    let world = World::new(&["romeo", "juliet"]).await;
    let romeo = world.online("romeo").await;
    let juliet = world.online("juliet").await;
    world.resumable(&juliet);
    for i in 1..=6 {
        let text = format!("<message to='juliet@a.example' id='m{i}' type='chat'>");
        world.send(&romeo, &(text + "<body>x</body></message>"));
    }
    until(|| juliet.is_closed()).await;
    // Five are kept (offline_messages), the sixth comes back.
    expect(&romeo, "id='m6'").await;
    let again = world.online("juliet").await;
    let mut all = String::new();
    until(|| {
        all += &read(&again);
        all.contains("id='m5'")
    })
    .await;
    let places: Vec<_> = (1..=5)
        .map(|i| all.find(&format!("id='m{i}'")).unwrap())
        .collect();
    assert!(places.is_sorted(), "{all}");
}

// -- entities in memory ------------------------------------------------------------------------------

#[tokio::test]
async fn entities_without_sessions_are_forgotten_and_their_number_is_bounded() {
    use antiphon_node::shard::{Shards, Slot, Touch, hash};
    use antiphon_routing::user::User;
    let shards = Shards::default();
    let mut all = shards.each().map(|s| s.len()).sum::<usize>();
    assert_eq!(all, 0);
    for i in 0..200_000u32 {
        let name = jid(&format!("u{i}@a.example"));
        let hash = hash(name.as_str());
        let touch = Touch {
            at_s: u64::from(i),
            is_temporary: false,
        };
        let user = Box::new(User::new(name, None));
        shards.lock(hash).insert(hash, Slot::Live(user, touch));
    }
    all = shards.each().map(|s| s.len()).sum();
    assert!(all <= 256 * 256, "{all}");
    for mut shard in shards.each() {
        shard.evict(u64::MAX);
        assert!(shard.is_empty());
    }
}

#[tokio::test]
async fn entities_of_nobody_give_way_to_others_and_are_forgotten_sooner() {
    use antiphon_node::shard::{Shard, Slot, Touch, hash};
    use antiphon_routing::user::User;
    let mut shard = Shard::default();
    let mut enter = |name: String, exists: bool| {
        let name = jid(&format!("{name}@a.example"));
        let touch = Touch {
            at_s: 1_000,
            is_temporary: false,
        };
        let hash = hash(name.as_str());
        let user = Box::new(User::new(name, exists.then(Default::default)));
        shard.insert(hash, Slot::Live(user, touch));
    };
    (0..60).for_each(|i| enter(format!("nobody{i}"), false));
    (0..100).for_each(|i| enter(format!("u{i}"), true));
    shard.evict(0);
    assert_eq!(
        shard.len(),
        128,
        "all that exist, and as many of the others as find room"
    );
    shard.evict(950);
    assert_eq!(shard.len(), 128);
    shard.evict(951);
    assert_eq!(shard.len(), 100);
}

const TO_NOBODY: &str = "<message to='nobody@a.example' id='n'><body>x</body></message>";

fn making_nobody() -> Operation {
    Operation::AccountCreate {
        jid: jid("nobody@a.example"),
        password: "pw".into(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_writes_to_nobody_again_reads_nothing_until_the_account_is_made() {
    let world = World::new(&["romeo"]).await;
    let romeo = world.online("romeo").await;
    let read_before = world.gate.answers.load(Ordering::SeqCst);
    for _ in 0..10 {
        world.send(&romeo, TO_NOBODY);
        expect(&romeo, "service-unavailable").await;
    }
    assert_eq!(world.gate.answers.load(Ordering::SeqCst), read_before + 1);
    world.call(making_nobody()).await.unwrap();
    let nobody = world.online("nobody").await;
    world.send(&romeo, TO_NOBODY);
    expect(&nobody, "id='n'").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_is_made_while_it_is_looked_for_is_found() {
    let world = World::new(&["romeo"]).await;
    let romeo = world.online("romeo").await;
    let read_before = world.gate.answers.load(Ordering::SeqCst);
    world.gate.holds_answers.store(true, Ordering::SeqCst);
    world.send(&romeo, TO_NOBODY);
    until(|| world.gate.answers.load(Ordering::SeqCst) > read_before).await;
    world.call(making_nobody()).await.unwrap();
    world.gate.holds_answers.store(false, Ordering::SeqCst);
    let nobody = world.online("nobody").await;
    expect(&nobody, "id='n'").await;
    assert!(!read(&romeo).contains("service-unavailable"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_is_removed_is_nobody_and_may_be_made_again() {
    let world = World::new(&["romeo"]).await;
    let romeo = world.online("romeo").await;
    for _ in 0..3 {
        world.call(making_nobody()).await.unwrap();
        let nobody = world.online("nobody").await;
        world.send(&romeo, TO_NOBODY);
        expect(&nobody, "id='n'").await;
        let jid = jid("nobody@a.example");
        world.call(Operation::AccountDelete { jid }).await.unwrap();
        world.gateway.ended(nobody, Ended::Lost);
        world.send(&romeo, TO_NOBODY);
        expect(&romeo, "service-unavailable").await;
    }
}
