//! Homes that were about to go to a node that dies: contacts hear of every session that was lost with
//! it, once, and who is served again where he was stays.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "world/cluster.rs"]
mod cluster;
mod world;

use antiphon_routing::home::shard_of;
use cluster::Cluster;
use std::sync::atomic::Ordering;
use std::time::Duration;
use world::{expect, jid, read, until};

/// A session at node 2, its home at node 1, is lost with its node; a contact of node 3 looks on.
async fn told_once(then: impl AsyncFnOnce(&mut Cluster, usize)) {
    let mut cluster = Cluster::new(30).await;
    let (user, other) = (cluster.user_of(1), cluster.user_of(3));
    let lost = cluster.online(user, 2, "lost").await;
    let contact = cluster.online(other, 3, "contact").await;
    contact.send(&format!(
        "<presence type='subscribe' to='u{user}@a.example'/>"
    ));
    expect(&lost.session, "'subscribe'").await;
    lost.send(&format!(
        "<presence type='subscribed' to='u{other}@a.example'/>"
    ));
    expect(&contact.session, "/lost'").await;
    for client in [&lost, &contact] {
        client.acked().await;
    }
    then(&mut cluster, user).await;
    let mut text = expect(&contact.session, "'unavailable'").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    text += &read(&contact.session);
    assert_eq!(text.matches("'unavailable'").count(), 1, "{text}");
    assert!(text.contains("/lost'"), "{text}");
}

/// The homes of node 1 go to node 2.
fn go(cluster: &mut Cluster) {
    let homes = cluster.homes.iter_mut();
    homes.filter(|home| **home == 1).for_each(|home| *home = 2);
    cluster.publish();
}

/// Node 2 is gone, and the shards that it had or should have are another's.
async fn die(cluster: &mut Cluster, next: u32) {
    cluster.kill(2).await;
    let homes = cluster.homes.iter_mut();
    homes
        .filter(|home| **home == 2)
        .for_each(|home| *home = next);
    cluster.settle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_home_that_moves_to_a_node_that_dies_before_it_serves_contacts_are_told() {
    for next in [1, 3] {
        told_once(async |cluster, user| {
            cluster.doors[&2].mutes_users.store(true, Ordering::SeqCst);
            go(cluster);
            let shard = shard_of(&format!("u{user}@a.example"));
            until(|| !cluster.serves(1, shard)).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
            assert!(!cluster.serves(2, shard));
            die(cluster, next).await;
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_home_that_is_still_going_to_a_node_that_dies_contacts_are_told() {
    for next in [1, 3] {
        told_once(async |cluster, user| {
            // Its last write takes long.
            let own = cluster.online(user, 3, "own").await;
            let door = cluster.doors[&1].clone();
            *door.holds.lock() = Some(jid(&format!("u{user}@a.example")));
            own.message(user, "slow");
            until(|| !door.held.lock().is_empty()).await;
            go(cluster);
            tokio::time::sleep(Duration::from_millis(100)).await;
            cluster.wires.frozen.lock().insert(2);
            cluster.kill(2).await;
            let homes = cluster.homes.iter_mut();
            homes
                .filter(|home| **home == 2)
                .for_each(|home| *home = next);
            cluster.publish();
            tokio::time::sleep(Duration::from_millis(100)).await;
            door.let_go();
            cluster.settle().await;
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_is_served_again_does_not_go_when_another_is_ready_to() {
    let mut cluster = Cluster::new(30).await;
    let slow = cluster.user_of(1);
    let fast = (slow + 1..30).find(|u| cluster.home_of(*u) == 1).unwrap();
    let other = cluster.user_of(3);
    let own = cluster.online(slow, 3, "own").await;
    let door = cluster.doors[&1].clone();
    *door.holds.lock() = Some(jid(&format!("u{slow}@a.example")));
    own.message(slow, "slow");
    until(|| !door.held.lock().is_empty()).await;
    go(&mut cluster);
    tokio::time::sleep(Duration::from_millis(100)).await;
    cluster.kill(2).await;
    let homes = cluster.homes.iter_mut();
    homes.filter(|home| **home == 2).for_each(|home| *home = 1);
    cluster.publish();
    let shard = shard_of(&format!("u{fast}@a.example"));
    until(|| cluster.serves(1, shard)).await;
    let client = cluster.online(fast, 3, "new").await;
    let sender = cluster.online(other, 3, "sender").await;
    door.let_go();
    cluster.settle().await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    sender.message(fast, "hello");
    expect(&client.session, "hello").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_home_that_waits_for_a_node_that_dies_contacts_are_told() {
    for next in [1, 3] {
        told_once(async |cluster, user| {
            cluster.wires.frozen.lock().insert(2);
            go(cluster);
            let shard = shard_of(&format!("u{user}@a.example"));
            until(|| !cluster.serves(1, shard)).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            die(cluster, next).await;
        })
        .await;
    }
}
