//! Several nodes in one process over one store.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "world/cluster.rs"]
mod cluster;
mod world;

use antiphon_cluster::id::Epoch;
use antiphon_cluster::link::{Class, Taken};
use antiphon_cluster::relay::Outcome;
use antiphon_net::gateway::{Ended, Gateway};
use antiphon_net::session::FIRST_GENERATION;
use antiphon_routing::archive::{ArchiveFilter, ArchiveId};
use antiphon_routing::home::shard_of;
use antiphon_routing::store::Store;
use antiphon_xmpp::stanza::ErrorType;
use antiphon_xmpp::stream::Framing;
use cluster::{Cluster, bodies, same};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use world::{expect, jid, read, stanza, until};

#[tokio::test(flavor = "multi_thread")]
async fn messages_find_their_way_whatever_the_homes_and_edges() {
    let cluster = Cluster::new(30).await;
    let mut sent = 0;
    for sender_home in 1..=3 {
        for sender_edge in 1..=3 {
            let from = cluster.user_of(sender_home);
            let sender = cluster.online(from, sender_edge, "s").await;
            for receiver_home in 1..=3 {
                for receiver_edge in 1..=3 {
                    // Another one of that home.
                    let to = (0..30)
                        .rev()
                        .find(|u| cluster.home_of(*u) == receiver_home)
                        .unwrap();
                    let receiver = cluster.bind(to, receiver_edge, "r").await;
                    receiver.send("<presence/>");
                    expect(&receiver.session, "<presence").await;
                    let body = format!("m{sent}");
                    sender.message(to, &body);
                    let text = expect(&receiver.session, &body).await;
                    assert_eq!(bodies(&text), std::slice::from_ref(&body));
                    sender.acked().await;
                    assert_eq!(cluster.archive(to).await.last(), Some(&body));
                    assert_eq!(cluster.archive(from).await.last(), Some(&body));
                    sent += 1;
                    receiver
                        .gateway
                        .ended(Arc::clone(&receiver.session), Ended::Closed(None));
                }
            }
            sender
                .gateway
                .ended(Arc::clone(&sender.session), Ended::Closed(None));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_says_that_no_map_names_waits_for_one_that_does() {
    const ROUTE: u8 = 2;
    const STRANGER: u32 = 99;
    let cluster = Cluster::new(30).await;
    let to = cluster.user_of(1);
    let receiver = cluster.online(to, 1, "r").await;
    let [low, high] = shard_of(&format!("u{to}@a.example")).to_le_bytes();
    let mut unit = vec![ROUTE, low, high, 0, 0, 0, 0];
    let forged =
        format!("<message from='x@a.example/y' to='u{to}@a.example'><body>no</body></message>");
    stanza(&forged).pack(&mut unit);
    let node = cluster.node(1);
    let before = node.mesh_readings().unwrap();
    let taken = node.unit_received(STRANGER, Class::Stanza, 1, &unit.clone().into());
    let needs = Outcome::Returned(Epoch(before.epoch + 1));
    assert_eq!(taken, Taken::Settled(needs));
    // Nor does what was sent behind it overtake it.
    assert_eq!(
        node.unit_received(STRANGER, Class::Stanza, 2, &unit.into()),
        Taken::Settled(needs)
    );
    assert_eq!(node.mesh_readings().unwrap().refused, before.refused + 2);
    assert!(!read(&receiver.session).contains("no</body>"));
    assert!(cluster.archive(to).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_resources_on_two_nodes_are_as_on_one() {
    let cluster = Cluster::new(30).await;
    let user = cluster.user_of(1);
    let first = cluster.online(user, 2, "one").await;
    let second = cluster.online(user, 3, "two").await;
    // Each sees the other.
    expect(&first.session, "/two").await;
    let sender = cluster.online(cluster.user_of(2), 1, "s").await;
    sender.message(user, "to both");
    expect(&first.session, "to both").await;
    expect(&second.session, "to both").await;
    // The same address from a third node: the older one is told.
    let third = cluster.online(user, 1, "one").await;
    until(|| {
        let taken = first
            .session
            .take(FIRST_GENERATION, std::task::Waker::noop());
        taken
            .close
            .is_some_and(|e| e.condition.name() == "conflict")
    })
    .await;
    first.gateway.ended(
        Arc::clone(&first.session),
        Ended::Closed(Some(
            antiphon_xmpp::stream::StreamCondition::Conflict.into(),
        )),
    );
    sender.message(user, "again");
    expect(&third.session, "again").await;
    expect(&second.session, "again").await;
    assert!(!read(&first.session).contains("again"));
    // One that ends is seen by the other.
    third
        .gateway
        .ended(Arc::clone(&third.session), Ended::Closed(None));
    expect(&second.session, "unavailable").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_lost_session_never_confirmed_waits_for_the_next() {
    let cluster = Cluster::new(30).await;
    let user = cluster.user_of(1);
    let receiver = cluster.online(user, 2, "r").await;
    let sender = cluster.online(cluster.user_of(3), 3, "s").await;
    sender.message(user, "first");
    expect(&receiver.session, "first").await;
    receiver
        .gateway
        .ended(Arc::clone(&receiver.session), Ended::Lost);
    sender.message(user, "second");
    sender.acked().await;
    let again = cluster.bind(user, 3, "q").await;
    again.send("<presence/>");
    let text = expect(&again.session, "second").await;
    assert_eq!(bodies(&text), ["first", "second"]);
}

/// Pairs that talk while `trouble` happens; nothing may be lost, doubled or out of order.
async fn under(trouble: impl AsyncFnOnce(&mut Cluster), alive: &[u32]) {
    let is_death = alive.len() < 3;
    let mut cluster = Cluster::new(30).await;
    let count = 400;
    let mut clients = Vec::new();
    for user in 0..30 {
        let edge = alive[user % alive.len()];
        clients.push(cluster.online(user, edge, "r").await);
    }
    let clients = Arc::new(clients);
    let senders: Vec<_> = (0..15)
        .map(|pair| {
            let clients = Arc::clone(&clients);
            tokio::spawn(async move {
                let (from, to) = (&clients[2 * pair], &clients[2 * pair + 1]);
                for i in 0..count {
                    from.message(to.user, &format!("p{pair}n{i}"));
                    if i % 8 == 0 {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    // What a socket would do.
                    for _ in 0..3 {
                        if !from.session.is_saving() {
                            break;
                        }
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                }
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(60)).await;
    trouble(&mut cluster).await;
    for sender in senders {
        sender.await.unwrap();
    }
    for _ in 0..400 {
        let mut all = cluster.slots.iter().zip(0..);
        if all.all(|((owner, ..), shard)| cluster.serves(*owner, shard)) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for ((owner, ..), shard) in cluster
        .slots
        .iter()
        .zip(0..)
        .filter(|((o, ..), s)| !cluster.serves(*o, *s))
        .take(5)
    {
        for (node, mesh) in cluster.wires.meshes.lock().iter() {
            eprintln!("{shard} of {owner} at {node}: {}", mesh.describe(shard));
        }
    }
    for pair in 0..15 {
        let (from, to) = (&clients[2 * pair], &clients[2 * pair + 1]);
        if !from.settled().await {
            let nodes = cluster.wires.nodes.lock();
            let readings = nodes.iter().map(|(n, node)| (*n, node.mesh_readings()));
            panic!(
                "p{pair} from u{} at {} to u{}: {:?}, {:?}",
                from.user,
                from.edge,
                to.user,
                from.session.inbound(),
                readings.collect::<Vec<_>>()
            );
        }
        let expected: Vec<String> = (0..count).map(|i| format!("p{pair}n{i}")).collect();
        same(
            &cluster.archive(from.user).await,
            &expected,
            "sender's archive",
        );
        same(
            &cluster.archive(to.user).await,
            &expected,
            "receiver's archive",
        );
        let mut seen: Vec<String> = Vec::new();
        until(|| {
            for body in bodies(&read(&to.session)) {
                // What is sent again after a death comes under its old id.
                if !is_death || !seen.contains(&body) {
                    seen.push(body);
                }
            }
            seen.len() >= expected.len()
        })
        .await;
        same(&seen, &expected, &format!("seen at node {}", to.edge));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_that_move_under_load_lose_double_and_reorder_nothing() {
    under(
        async |cluster| {
            for round in 0..6 {
                for home in &mut cluster.homes {
                    *home = *home % 3 + 1;
                }
                cluster.publish();
                tokio::time::sleep(Duration::from_millis(20 + 10 * round)).await;
            }
        },
        &[1, 2, 3],
    )
    .await;
}

/// As above, over a store whose writes take long and end in another order.
#[tokio::test(flavor = "multi_thread")]
async fn shards_that_move_while_the_store_is_slow_lose_double_and_reorder_nothing() {
    under(
        async |cluster| {
            cluster.move_about_slowly().await;
        },
        &[1, 2, 3],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_home_that_is_killed_loses_and_reorders_nothing() {
    under(
        async |cluster| {
            cluster.kill(2).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
            cluster.take_shards(2);
            cluster.settle().await;
        },
        &[1, 3],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_known_at_its_new_home_as_it_was() {
    let mut cluster = Cluster::new(30).await;
    let user = cluster.user_of(1);
    let client = cluster.online(user, 2, "r").await;
    let watcher = cluster.online(user, 3, "w").await;
    expect(&client.session, "/w").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    read(&watcher.session);
    cluster.take_shards(1);
    cluster.settle().await;
    let other = (0..30).find(|u| *u != user).unwrap();
    let sender = cluster.online(other, 1, "s").await;
    sender.message(user, "hello");
    expect(&client.session, "hello").await;
    // Nobody was told of anything.
    let text = expect(&watcher.session, "hello").await;
    assert!(!text.contains("<presence"), "{text}");
    // And the presence that it had is known.
    let third = cluster.bind(user, 1, "x").await;
    third.send("<presence/>");
    let mut text = String::new();
    until(|| {
        text += &read(&third.session);
        text.contains("/r'") && text.contains("/w'")
    })
    .await;
}

/// Its home says nothing of it that its edge does not know by itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_has_only_been_bound_is_known_at_its_next_homes() {
    let mut cluster = Cluster::new(30).await;
    let user = cluster.user_of(1);
    let edges = [1, 2, 3];
    let mut clients = Vec::new();
    for edge in edges {
        clients.push(cluster.bind(user, edge, &format!("r{edge}")).await);
    }
    // One home hands it over, the next dies.
    cluster.take_shards(1);
    cluster.settle().await;
    let second = cluster.home_of(user);
    cluster.kill(second).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    cluster.take_shards(second);
    cluster.settle().await;
    for (edge, client) in edges.iter().zip(&clients).filter(|(e, _)| **e != second) {
        client.send("<presence/>");
        expect(&client.session, &format!("/r{edge}'")).await;
        client.message(user, &format!("from {edge}"));
        expect(&client.session, &format!("from {edge}")).await;
        assert!(!client.session.is_closed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_a_node_that_is_killed_are_over() {
    let mut cluster = Cluster::new(30).await;
    let user = cluster.user_of(1);
    let lost = cluster.online(user, 2, "lost").await;
    let other = cluster.online(user, 3, "other").await;
    read(&other.session);
    cluster.kill(2).await;
    cluster.take_shards(2);
    cluster.settle().await;
    let text = expect(&other.session, "unavailable").await;
    assert!(text.contains("/lost"), "{text}");
    assert!(!lost.session.is_closed());
    // The address is free again.
    let _again = cluster.online(user, 1, "lost").await;
}

/// Infrastructure E2: a node dies while etcd is gone.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_lives_on_a_node_that_nobody_can_replace_is_told_to_wait() {
    let mut cluster = Cluster::new(30).await;
    let (lost, kept) = (cluster.user_of(2), cluster.user_of(1));
    let at_lost_home = cluster.online(lost, 1, "l").await;
    let client = cluster.online(kept, 3, "k").await;
    cluster.kill(2).await;
    // Until it is known that nobody takes over, everything waits.
    client.message(lost, "early");
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(read(&client.session), "");
    cluster.wires.cut_off.lock().insert(2);
    client.message(lost, "late");
    let text = expect(&client.session, "</message>").await;
    assert!(
        text.contains("type='wait'") || text.contains("type=\"wait\""),
        "{text}"
    );
    assert!(!text.contains("early"), "{text}");
    at_lost_home.send("<iq type='get' id='q'><query xmlns='jabber:iq:roster'/></iq>");
    at_lost_home.send("<presence><status>here</status></presence>");
    at_lost_home.message(kept, "from nowhere");
    let text = expect(&at_lost_home.session, "</message>").await;
    assert_eq!(text.matches("resource-constraint").count(), 2, "{text}");
    let account = jid(&format!("u{lost}@a.example"));
    let again = client.gateway.bind(account, None, Framing::Tcp).await;
    assert_eq!(again.err().map(|e| e.type_), Some(ErrorType::Wait));
    // Others notice nothing.
    client.message(kept, "to myself");
    expect(&client.session, "to myself").await;
    // etcd is back: what waited goes on, and nothing of what was refused.
    cluster.wires.cut_off.lock().clear();
    cluster.take_shards(2);
    cluster.settle().await;
    let text = expect(&at_lost_home.session, "early").await;
    assert!(!text.contains("late"), "{text}");
    client.acked().await;
    at_lost_home.acked().await;
    assert_eq!(cluster.archive(lost).await, ["early"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn places_in_an_archive_never_go_back_when_it_moves() {
    let mut cluster = Cluster::new(30).await;
    let user = cluster.user_of(1);
    let client = cluster.online(user, 2, "r").await;
    let owner = jid(&format!("u{user}@a.example"));
    let mut newest = ArchiveId(0);
    for round in 0..6 {
        client.message(user, &format!("r{round}"));
        client.acked().await;
        let page = cluster
            .store
            .archive_page(&owner, ArchiveFilter::default(), true, 1);
        let page = page.await.unwrap();
        let id = page.messages.last().unwrap().id;
        assert!(
            id > newest,
            "round {round}: {id:?} after {newest:?}, {:?}",
            cluster.archive(user).await
        );
        newest = id;
        for home in &mut cluster.homes {
            *home = *home % 3 + 1;
        }
        cluster.settle().await;
    }
}

/// Its sender's shard goes while its recipient's stays, and the store is slow with the latter.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_not_begun_again_while_its_former_home_stores_it_for_its_recipient() {
    for next in [2, 3] {
        let mut cluster = Cluster::new(30).await;
        let mut users = (0..30).filter(|u| cluster.home_of(*u) == 1);
        let (from, to) = (users.next().unwrap(), users.next().unwrap());
        let shard = |user: usize| usize::from(shard_of(&format!("u{user}@a.example")));
        assert_ne!(shard(from), shard(to));
        let receiver = cluster.online(to, 3, "r").await;
        let sender = cluster.online(from, 2, "s").await;
        let door = Arc::clone(&cluster.doors[&1]);
        *door.holds.lock() = Some(jid(&format!("u{to}@a.example")));
        sender.message(to, "once");
        let mut text = expect(&receiver.session, "once").await;
        cluster.homes[shard(from)] = next;
        cluster.settle().await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        // It is not stored yet.
        assert!(!sender.session.inbound().unwrap().1);
        door.let_go();
        sender.message(to, "last");
        sender.acked().await;
        text += &expect(&receiver.session, "last").await;
        assert_eq!(bodies(&text), ["once", "last"], "to {next}");
        assert_eq!(cluster.archive(to).await, ["once", "last"]);
        assert_eq!(cluster.archive(from).await, ["once", "last"]);
    }
}

const TWICE: &str = "<message to='uTO@a.example' type='chat' id='once'><body>once</body>\
     <origin-id xmlns='urn:xmpp:sid:0' id='once'/></message>";

/// A home has passed a message on and dies before it has archived it; `then` happens, and its
/// client sends it again, on a stream of that node.
async fn sent_again(then: impl AsyncFnOnce(&mut Cluster), edge: u32) -> (Cluster, usize, String) {
    let mut cluster = Cluster::new(30).await;
    let (from, to) = (cluster.user_of(1), cluster.user_of(2));
    let receiver = cluster.online(to, 3, "r").await;
    let sender = cluster.online(from, 1, "s").await;
    let text = TWICE.replace("TO", &to.to_string());
    cluster.doors[&1].is_dead.store(true, Ordering::SeqCst);
    sender.send(&text);
    expect(&receiver.session, "once").await;
    cluster.kill(1).await;
    cluster.take_shards(1);
    cluster.settle().await;
    then(&mut cluster).await;
    let again = cluster.online(from, edge, "s").await;
    again.send(&text);
    again.acked().await;
    assert_eq!(cluster.archive(from).await, ["once"]);
    assert_eq!(cluster.archive(to).await, ["once"]);
    (cluster, from, text)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_home_passed_on_is_known_when_its_client_sends_it_again() {
    let (cluster, from, text) = sent_again(async |_| {}, 3).await;
    // And again, from a stream that was lost as well.
    let third = cluster.online(from, 2, "t").await;
    third.send(&text);
    third.acked().await;
    let to = cluster.user_of(2);
    assert_eq!(cluster.archive(to).await, ["once"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_home_passed_on_is_known_when_its_shards_have_moved_on() {
    let turn = async |cluster: &mut Cluster| {
        for home in &mut cluster.homes {
            *home = 5 - *home;
        }
        cluster.settle().await;
    };
    sent_again(turn, 3).await;
    // Only those of the dead home: a home that has just joined gets its share.
    let aside = async |cluster: &mut Cluster| {
        cluster.homes.fill(2);
        cluster.settle().await;
    };
    sent_again(aside, 2).await;
}

/// A home has archived a message, and died before it said so: its recipient, with a session on that
/// node if he `was_there`, has never seen it.
async fn waits_for_the_next(was_there: bool) {
    let mut cluster = Cluster::new(30).await;
    let (from, to) = (cluster.user_of(2), cluster.user_of(1));
    let _lost = match was_there {
        true => Some(cluster.online(to, 1, "r").await),
        false => None,
    };
    let sender = cluster.online(from, 2, "s").await;
    cluster.doors[&1].is_mute.store(true, Ordering::SeqCst);
    sender.message(to, "first");
    while cluster.archive(to).await.is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    cluster.kill(1).await;
    cluster.take_shards(1);
    cluster.settle().await;
    sender.message(to, "second");
    sender.acked().await;
    let again = cluster.bind(to, 3, "r").await;
    again.send("<presence/>");
    let text = expect(&again.session, "second").await;
    assert_eq!(bodies(&text), ["first", "second"]);
    assert_eq!(cluster.archive(to).await, ["first", "second"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_home_stored_and_nobody_saw_waits_for_the_next_session_in_its_place() {
    waits_for_the_next(true).await;
}

/// The home's mark that it waits has reached the store.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_home_stored_to_wait_waits_once() {
    waits_for_the_next(false).await;
}

/// A user who was away for so many messages, and whose home dies or goes once he is back, while the
/// reads of what waits from behind `mute_at` on have no answer, and one message more has come.
async fn reads_on(count: usize, mute_at: u64, then: impl AsyncFnOnce(&mut Cluster)) {
    let mut cluster = Cluster::new(30).await;
    let (from, to) = (cluster.user_of(3), cluster.user_of(1));
    let sender = cluster.online(from, 3, "s").await;
    let mut expected: Vec<String> = (0..count).map(|n| format!("m{n}")).collect();
    for body in &expected {
        sender.message(to, body);
    }
    sender.acked().await;
    cluster.doors[&1]
        .offline_mute_at
        .store(mute_at, Ordering::SeqCst);
    let receiver = cluster.bind(to, 3, "r").await;
    let queue = antiphon_xmpp::stream::Outgoing::new(Framing::Tcp);
    receiver.session.enable_sm(queue);
    receiver.send("<presence/>");
    let mut text = expect(&receiver.session, "<presence").await;
    sender.message(to, "archived");
    sender.acked().await;
    sender.send(&format!(
        "<message to='u{to}@a.example' type='chat'><body>passing</body>\
         <no-store xmlns='urn:xmpp:hints'/></message>"
    ));
    tokio::time::sleep(Duration::from_millis(100)).await;
    let alive = cluster.wires.nodes.lock().len();
    then(&mut cluster).await;
    let is_death = cluster.wires.nodes.lock().len() < alive;
    sender.message(to, "last");
    text += &expect(&receiver.session, "last").await;
    expected.push("archived".into());
    if !is_death {
        expected.push("passing".into());
    }
    expected.push("last".into());
    same(&bodies(&text), &expected, "seen");
    // And nothing comes again, also when the client asks once more.
    receiver.send("<presence><status>here</status></presence>");
    let text = expect(&receiver.session, "here").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(bodies(&(text + &read(&receiver.session))).len(), 0);
}

async fn die(cluster: &mut Cluster) {
    cluster.kill(1).await;
    cluster.take_shards(1);
    cluster.settle().await;
}

async fn go(cluster: &mut Cluster) {
    cluster.take_shards(1);
    cluster.settle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn offline_messages_that_a_dead_home_was_reading_come_before_the_rest() {
    reads_on(3, 0, die).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn offline_messages_are_read_on_behind_those_that_a_dead_home_gave() {
    reads_on(150, 1, die).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn offline_messages_that_a_home_was_reading_are_read_on_where_its_shard_goes() {
    reads_on(3, 0, go).await;
    reads_on(150, 1, go).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_home_that_was_handed_a_reading_dies_with_it() {
    // The first lives long enough to hand over.
    let twice = async |cluster: &mut Cluster| {
        cluster.doors[&2].offline_mute_at.store(1, Ordering::SeqCst);
        let homes = cluster.homes.iter_mut();
        homes.filter(|home| **home == 1).for_each(|home| *home = 2);
        cluster.settle().await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        cluster.kill(2).await;
        cluster.doors[&1]
            .offline_mute_at
            .store(u64::MAX, Ordering::SeqCst);
        cluster.take_shards(2);
        cluster.settle().await;
    };
    reads_on(150, 1, twice).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_of_offline_messages_that_fails_is_no_end_of_them() {
    let cluster = Cluster::new(30).await;
    let (from, to) = (cluster.user_of(2), cluster.user_of(1));
    let sender = cluster.online(from, 2, "s").await;
    sender.message(to, "first");
    sender.acked().await;
    let door = &cluster.doors[&1];
    door.fails_offline.store(true, Ordering::SeqCst);
    let receiver = cluster.online(to, 3, "r").await;
    sender.message(to, "second");
    sender.acked().await;
    tokio::time::sleep(Duration::from_millis(250)).await;
    assert!(bodies(&read(&receiver.session)).is_empty());
    // Meanwhile it is served.
    receiver.send("<iq type='get' id='p' to='a.example'><ping xmlns='urn:xmpp:ping'/></iq>");
    expect(&receiver.session, "id='p'").await;
    door.fails_offline.store(false, Ordering::SeqCst);
    let text = expect(&receiver.session, "second").await;
    assert_eq!(bodies(&text), ["first", "second"]);
}
