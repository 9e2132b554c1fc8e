//! Requests that Python answers at homes away from the sockets, in several nodes of one process.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "world/cluster.rs"]
mod cluster;
mod world;

use antiphon_net::gateway::{Ended, Gateway};
use antiphon_node::bridge::Event;
use antiphon_routing::SessionId;
use cluster::{Client, Cluster, bodies};
use std::sync::Arc;
use std::time::Duration;
use world::{expect, read, stanza, until};

const TO_HOST: &str = "<iq type='get' id='q' to='a.example'><q xmlns='urn:test'/></iq>";

fn to_account(user: usize) -> String {
    format!("<iq type='get' id='q' to='u{user}@a.example'><a xmlns='urn:test'/></iq>")
}

/// What Python is asked at a node: ticket and session.
async fn asked(cluster: &Cluster, node: u32) -> (u64, Option<SessionId>) {
    let mut found = None;
    until(|| {
        for event in cluster.bridges[&node].drain(100) {
            if let Event::Iq {
                ticket, session, ..
            } = event
            {
                assert!(found.is_none(), "asked twice");
                found = Some((ticket, session));
            }
        }
        found.is_some()
    })
    .await;
    found.unwrap()
}

/// One answer comes, and then none.
async fn answered_once(client: &Client) {
    let text = expect(&client.session, "id='q'").await;
    assert_eq!(text.matches("id='q'").count(), 1, "{text}");
    assert!(text.contains("type='result'"), "{text}");
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(read(&client.session), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ordered_request_holds_back_what_comes_behind_it_at_the_home_too() {
    let cluster = Cluster::new(30).await;
    let user = cluster.user_of(1);
    let client = cluster.online(user, 2, "r").await;
    client.send(TO_HOST);
    client.message(user, "behind");
    let (ticket, session) = asked(&cluster, 1).await;
    assert_eq!(session, Some(client.session.id));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(read(&client.session), "");
    cluster.node(1).reply(ticket, None);
    let text = expect(&client.session, "behind").await;
    let places = ["id='q'", "behind"].map(|t| text.find(t).unwrap());
    assert!(places.is_sorted(), "{text}");
    assert!(client.settled().await);
}

/// Nothing is on its way, and nobody waits for anything.
async fn nothing_is_left(cluster: &Cluster) {
    until(|| {
        let nodes = cluster.wires.nodes.lock();
        let mut readings = nodes.values().filter_map(|node| node.mesh_readings());
        readings.all(|r| r.brought == 0 && r.sent == 0)
    })
    .await;
}

/// The home 1 of whom a request is about dies or lets go of its shards while Python answers: the
/// next home is asked.
async fn next_home_is_asked(
    cluster: &mut Cluster,
    client: &Client,
    (request, about): (&str, usize),
    is_death: bool,
) {
    client.send(request);
    let (old, _) = asked(cluster, 1).await;
    let first = cluster.node(1);
    if is_death {
        cluster.kill(1).await;
    }
    cluster.take_shards(1);
    cluster.settle().await;
    let next = cluster.home_of(about);
    let (ticket, _) = asked(cluster, next).await;
    // What the old one says by now goes nowhere.
    first.reply(old, None);
    cluster.node(next).reply(ticket, None);
    answered_once(client).await;
    client.message(client.user, "behind");
    let text = expect(&client.session, "behind").await;
    assert_eq!(bodies(&text), ["behind"]);
    nothing_is_left(cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_home_goes_or_dies_is_answered_by_the_next() {
    for is_death in [false, true] {
        let mut cluster = Cluster::new(30).await;
        let user = cluster.user_of(1);
        let client = cluster.online(user, 2, "r").await;
        next_home_is_asked(&mut cluster, &client, (TO_HOST, user), is_death).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn so_is_one_of_a_session_without_stream_management() {
    for is_death in [false, true] {
        let mut cluster = Cluster::new(30).await;
        let user = cluster.user_of(1);
        let client = cluster.bind(user, 3, "r").await;
        client.send("<presence/>");
        expect(&client.session, "<presence").await;
        next_home_is_asked(&mut cluster, &client, (TO_HOST, user), is_death).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn so_is_one_about_an_account_elsewhere() {
    for (home, is_death) in [(2, false), (2, true), (1, false)] {
        let mut cluster = Cluster::new(30).await;
        let about = cluster.user_of(1);
        let asks = (0..30).filter(|u| *u != about);
        let asks = asks.rev().find(|u| cluster.home_of(*u) == home).unwrap();
        let client = cluster.online(asks, 3, "r").await;
        let request = to_account(about);
        next_home_is_asked(&mut cluster, &client, (&request, about), is_death).await;
    }
}

/// The next home would give it the first part twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_its_home_has_answered_in_part_is_refused() {
    let mut cluster = Cluster::new(30).await;
    let user = cluster.user_of(1);
    let client = cluster.online(user, 2, "r").await;
    client.send(TO_HOST);
    asked(&cluster, 1).await;
    let part = format!(
        "<message from='u{user}@a.example' to='{}'><result xmlns='urn:xmpp:mam:2'/></message>",
        client.session.jid
    );
    cluster.node(1).send(stanza(&part));
    expect(&client.session, "<result").await;
    cluster.kill(1).await;
    cluster.take_shards(1);
    cluster.settle().await;
    let text = expect(&client.session, "id='q'").await;
    assert!(text.contains("type='wait'"), "{text}");
    client.message(user, "behind");
    expect(&client.session, "behind").await;
    let next = &cluster.bridges[&cluster.home_of(user)];
    let is_request = |event: &Event| matches!(event, Event::Iq { .. });
    assert!(!next.drain(100).iter().any(is_request));
    nothing_is_left(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_of_a_session_that_goes_meanwhile_leaves_nothing_behind() {
    let cluster = Cluster::new(30).await;
    let user = cluster.user_of(1);
    let client = cluster.online(user, 2, "r").await;
    client.send(TO_HOST);
    let (ticket, _) = asked(&cluster, 1).await;
    client
        .gateway
        .ended(Arc::clone(&client.session), Ended::Closed(None));
    cluster.node(1).reply(ticket, None);
    nothing_is_left(&cluster).await;
}
