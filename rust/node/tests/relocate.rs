//! Sessions that are resumed on another node than the one that held them (XEP-0198 #resumption).

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "world/cluster.rs"]
mod cluster;
mod world;

use antiphon_net::gateway::{Ended, Gateway, ResumeFailed};
use antiphon_net::session::Session;
use antiphon_node::gateway::NodeGateway;
use antiphon_node::node::Node;
use antiphon_xmpp::stream::{Framing, Outgoing};
use cluster::{Client, Cluster, bodies, same};
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};
use world::{expect, jid, read, until};

/// A client's connection: what it wrote down of its stream.
struct Resumed {
    session: Arc<Session>,
    generation: u64,
    h: u32,
}

impl Resumed {
    fn read(&self) -> String {
        let taken = self.session.take(self.generation, Waker::noop());
        String::from_utf8(taken.out.bytes).unwrap()
    }

    async fn expect(&self, text: &str) -> String {
        let mut all = String::new();
        until(|| {
            all += &self.read();
            all.contains(text)
        })
        .await;
        all
    }
}

/// Available, with stream management and resumption; the id.
async fn resumable(cluster: &Cluster, user: usize, edge: u32, resource: &str) -> (Client, String) {
    let client = cluster.bind(user, edge, resource).await;
    let id = enable(&client);
    client.send("<presence/>");
    (client, id)
}

/// Reads on until that has come.
async fn read_to(client: &Client, all: &mut String, text: &str) {
    until(|| {
        *all += &read(&client.session);
        all.contains(text)
    })
    .await;
}

fn enable(client: &Client) -> String {
    let enabled = client.gateway.sm_enable(&client.session, true, None);
    client.session.enable_sm(Outgoing::new(Framing::Tcp));
    enabled.resume.unwrap().0
}

async fn resume(
    cluster: &Cluster,
    user: usize,
    node: u32,
    id: &str,
    h: u32,
) -> Result<Resumed, ResumeFailed> {
    resume_at(cluster.node(node), user, id, h).await
}

async fn resume_at(
    node: Arc<Node>,
    user: usize,
    id: &str,
    h: u32,
) -> Result<Resumed, ResumeFailed> {
    let gateway = NodeGateway(node);
    let account = jid(&format!("u{user}@a.example"));
    let (session, h) = gateway.sm_resume(account, id.to_owned(), h).await?;
    let generation = session.attach(Framing::Tcp, Outgoing::new(Framing::Tcp));
    Ok(Resumed {
        session,
        generation,
        h,
    })
}

fn is_not_found(result: Result<Resumed, ResumeFailed>) -> bool {
    matches!(
        result.err().unwrap(),
        ResumeFailed::Failed { condition, .. } if condition.name() == "item-not-found"
    )
}

/// How many stanzas there are in what a client read.
fn stanzas(text: &str) -> u32 {
    let starts = ["<message", "<presence", "<iq"];
    starts.iter().map(|s| text.matches(s).count() as u32).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_resumed_on_any_node_wherever_its_home_is() {
    let cluster = Cluster::new(30).await;
    for home in 1..=3 {
        let user = cluster.user_of(home);
        let watcher = cluster.online(user, home % 3 + 1, "watcher").await;
        let friend = (0..30).find(|u| *u != user).unwrap();
        let sender = cluster.online(friend, 1, "s").await;
        for edge in 1..=3 {
            for to in 1..=3 {
                let what = format!("home {home}, edge {edge}, to {to}");
                let (client, id) = resumable(&cluster, user, edge, "r").await;
                expect(&watcher.session, "/r'").await;
                let mut all = String::new();
                read_to(&client, &mut all, "/watcher'").await;
                read_to(&client, &mut all, "/r'").await;
                sender.message(user, "confirmed");
                read_to(&client, &mut all, "<body>confirmed").await;
                let seen = stanzas(&all);
                client.message(friend, "from me");
                sender.message(user, "unconfirmed");
                read_to(&client, &mut all, "<body>unconfirmed").await;
                expect(&watcher.session, "unconfirmed").await;
                if edge != to {
                    client
                        .gateway
                        .ended(Arc::clone(&client.session), Ended::Lost);
                }
                sender.message(user, "meanwhile");
                let resumed = resume(&cluster, user, to, &id, seen).await;
                let resumed = resumed.unwrap_or_else(|e| panic!("{what}: {e:?}"));
                assert_eq!(resumed.h, 2, "{what}");
                sender.message(user, "after");
                let text = resumed.expect("after").await;
                let expected = ["unconfirmed", "meanwhile", "after"].map(str::to_owned);
                same(&bodies(&text), &expected, &what);
                // Its name is there, and nobody saw anything.
                let text = expect(&watcher.session, "after").await;
                assert!(!text.contains("<presence"), "{what}: {text}");
                assert_eq!(resumed.session.jid, client.session.jid);
                // It goes on in both directions.
                let gateway = NodeGateway(cluster.node(to));
                let again = Client {
                    gateway,
                    session: Arc::clone(&resumed.session),
                    edge: to,
                    user,
                };
                again.message(friend, "later");
                again.acked().await;
                assert_eq!(cluster.archive(friend).await.last().unwrap(), "later");
                again
                    .gateway
                    .ended(Arc::clone(&again.session), Ended::Closed(None));
                expect(&watcher.session, "unavailable").await;
                assert!(is_not_found(resume(&cluster, user, edge, &id, 0).await));
            }
        }
    }
}

/// As the socket of a session that went away: what it is told last.
fn farewell(client: &Client) -> Option<String> {
    let generation = antiphon_net::session::FIRST_GENERATION;
    let taken = client.session.take(generation, Waker::noop());
    let name = |e: antiphon_xmpp::stream::StreamError| e.condition.name().to_owned();
    taken
        .is_replaced
        .then(|| taken.close.map(name).unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_under_way_while_a_session_moves_arrive_once_and_in_order() {
    let cluster = Arc::new(Cluster::new(30).await);
    let count = 1200;
    let mut all = Vec::new();
    for (pair, home) in [1, 2, 3, 1, 2, 3].into_iter().enumerate() {
        let user = (0..30).filter(|u| cluster.home_of(*u) == home);
        let user = user.skip(pair / 3).step_by(2).next().unwrap();
        let from = 29 - pair;
        let cluster = Arc::clone(&cluster);
        all.push(tokio::spawn(async move {
            let (client, id) = resumable(&cluster, user, pair as u32 % 3 + 1, "r").await;
            let sender = Arc::new(cluster.online(from, (pair as u32 + 1) % 3 + 1, "s").await);
            let sending = Arc::clone(&sender);
            let sends = tokio::spawn(async move {
                for i in 0..count {
                    sending.message(user, &format!("p{pair}n{i}"));
                    if i % 8 == 0 {
                        tokio::time::sleep(Duration::from_millis(4)).await;
                    }
                }
            });
            let mut seen = String::new();
            read_to(&client, &mut seen, "<body>").await;
            let (mut h, mut found) = (stanzas(&seen), bodies(&seen));
            // The client is lost again and again, some of what it read unconfirmed.
            for round in 0..12 {
                let node = (pair as u32 + round) % 3 + 1;
                let resumed = resume(&cluster, user, node, &id, h).await;
                let resumed = resumed.unwrap_or_else(|e| panic!("p{pair} round {round}: {e:?}"));
                let mut text = String::new();
                until(|| {
                    text += &resumed.read();
                    bodies(&text).len() > 20 || found.len() + bodies(&text).len() >= count
                })
                .await;
                h += stanzas(&text);
                found.extend(bodies(&text));
                if round == 11 {
                    let mut text = String::new();
                    until(|| {
                        text += &resumed.read();
                        found.len() + bodies(&text).len() >= count
                    })
                    .await;
                    found.extend(bodies(&text));
                }
            }
            sends.await.unwrap();
            sender.acked().await;
            let expected: Vec<String> = (0..count).map(|i| format!("p{pair}n{i}")).collect();
            same(&found, &expected, &format!("pair {pair}"));
            same(&cluster.archive(user).await, &expected, "archive");
        }));
    }
    for one in all {
        one.await.unwrap();
    }
}

/// As above, while shards move and the store is slow.
#[tokio::test(flavor = "multi_thread")]
async fn messages_under_way_while_sessions_and_shards_move_arrive_once_and_in_order() {
    let mut cluster = Cluster::new(30).await;
    let count = 600;
    let mut all = Vec::new();
    for (pair, home) in [1, 2, 3, 1, 2, 3].into_iter().enumerate() {
        let user = (0..30).filter(|u| cluster.home_of(*u) == home);
        let user = user.skip(pair / 3).step_by(2).next().unwrap();
        let from = 29 - pair;
        let (client, id) = resumable(&cluster, user, pair as u32 % 3 + 1, "r").await;
        let sender = Arc::new(cluster.online(from, (pair as u32 + 1) % 3 + 1, "s").await);
        let wires = Arc::clone(&cluster.wires);
        all.push((
            user,
            from,
            tokio::spawn(async move {
                let sending = Arc::clone(&sender);
                let sends = tokio::spawn(async move {
                    for i in 0..count {
                        sending.message(user, &format!("p{pair}n{i}"));
                        if i % 4 == 0 {
                            tokio::time::sleep(Duration::from_millis(10)).await;
                        }
                    }
                });
                let mut seen = String::new();
                read_to(&client, &mut seen, "<body>").await;
                let (mut h, mut found) = (stanzas(&seen), bodies(&seen));
                for round in 0..12 {
                    let node = Arc::clone(&wires.nodes.lock()[&((pair as u32 + round) % 3 + 1)]);
                    let resumed = resume_at(node, user, &id, h).await;
                    let resumed =
                        resumed.unwrap_or_else(|e| panic!("p{pair} round {round}: {e:?}"));
                    let mut text = String::new();
                    until(|| {
                        text += &resumed.read();
                        let got = found.len() + bodies(&text).len();
                        got >= count || round < 11 && bodies(&text).len() > 20
                    })
                    .await;
                    h += stanzas(&text);
                    found.extend(bodies(&text));
                }
                sends.await.unwrap();
                sender.acked().await;
                let expected: Vec<String> = (0..count).map(|i| format!("p{pair}n{i}")).collect();
                same(&found, &expected, &format!("pair {pair}"));
                expected
            }),
        ));
    }
    cluster.move_about_slowly().await;
    cluster.settle().await;
    for (user, from, one) in all {
        let expected = one.await.unwrap();
        same(&cluster.archive(user).await, &expected, "archive");
        same(&cluster.archive(from).await, &expected, "sender's archive");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_goes_down_gives_its_sessions_away() {
    let mut cluster = Cluster::new(30).await;
    let mut clients = Vec::new();
    for user in 0..20 {
        clients.push(resumable(&cluster, user, 2, "r").await);
    }
    let sender = cluster.online(25, 1, "s").await;
    let watcher = cluster.online(clients[0].0.user, 3, "watcher").await;
    for (client, _) in &clients {
        sender.message(client.user, "before");
    }
    let mut counts = Vec::new();
    for (client, _) in &clients {
        let mut all = String::new();
        read_to(client, &mut all, "<body>before").await;
        counts.push(stanzas(&all));
    }
    expect(&watcher.session, "before").await;
    cluster.take_shards(2);
    cluster.settle().await;
    let until_then = std::time::Instant::now() + Duration::from_secs(20);
    let node = cluster.node(2);
    assert_eq!(node.give_all_away(until_then).await, 20);
    for (client, _) in &clients {
        assert_eq!(farewell(client).as_deref(), Some("system-shutdown"));
        sender.message(client.user, "while away");
    }
    drop(node);
    cluster.kill(2).await;
    cluster.settle().await;
    for ((client, id), h) in clients.iter().zip(counts) {
        let node = if client.user % 2 == 0 { 1 } else { 3 };
        let resumed = resume(&cluster, client.user, node, id, h).await.unwrap();
        let text = resumed.expect("while away").await;
        assert_eq!(bodies(&text), ["while away"]);
    }
    let text = expect(&watcher.session, "while away").await;
    assert!(!text.contains("<presence"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_resumed_is_not_found_anywhere() {
    let cluster = Cluster::new(30).await;
    let user = cluster.user_of(1);
    let other = cluster.user_of(2);
    let (client, id) = resumable(&cluster, user, 2, "r").await;
    // Nobody has it; it is somebody else's; it is no id.
    assert!(is_not_found(
        resume(&cluster, user, 3, &"0".repeat(32), 0).await
    ));
    assert!(is_not_found(resume(&cluster, other, 3, &id, 0).await));
    assert!(is_not_found(resume(&cluster, other, 2, &id, 0).await));
    assert!(is_not_found(resume(&cluster, user, 3, "x", 0).await));
    assert_eq!(farewell(&client), None);
    // More than it was sent: the session is over, as on one node.
    let ahead = resume(&cluster, user, 3, &id, 100).await.err().unwrap();
    assert!(matches!(ahead, ResumeFailed::AckAhead(_)), "{ahead:?}");
    assert_eq!(farewell(&client).as_deref(), Some(""));
    assert!(is_not_found(resume(&cluster, user, 1, &id, 0).await));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_resume_at_once_one_has_the_session() {
    let cluster = Arc::new(Cluster::new(30).await);
    for home in 1..=3 {
        let user = cluster.user_of(home);
        let (client, id) = resumable(&cluster, user, 1, "r").await;
        let mut all = String::new();
        read_to(&client, &mut all, "<presence").await;
        let h = stanzas(&all);
        let attempts: Vec<_> = (0..6)
            .map(|n| {
                let (cluster, id) = (Arc::clone(&cluster), id.clone());
                tokio::spawn(async move { resume(&cluster, user, n % 3 + 1, &id, h).await })
            })
            .collect();
        let mut resumed = Vec::new();
        for attempt in attempts {
            resumed.extend(attempt.await.unwrap());
        }
        let sender = cluster.online(29, 3, "s").await;
        sender.message(user, "to one");
        let mut got = 0;
        until(|| {
            let texts = resumed.iter().map(Resumed::read);
            got += texts.filter(|t| t.contains("to one")).count();
            got > 0
        })
        .await;
        assert_eq!(got, 1);
        // And it can be had again.
        let last = resume(&cluster, user, 2, &id, h).await.unwrap();
        assert!(last.expect("to one").await.contains("to one"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_faster_than_its_node_gives_away_finds_its_session() {
    let mut cluster = Cluster::new(30).await;
    let mut clients = Vec::new();
    for user in 0..20 {
        clients.push(resumable(&cluster, user, 2, "r").await);
    }
    for (client, _) in &clients {
        expect(&client.session, "<presence").await;
    }
    cluster.take_shards(2);
    cluster.settle().await;
    let cluster = Arc::new(cluster);
    let node = cluster.node(2);
    let then = std::time::Instant::now() + Duration::from_secs(20);
    let giving = tokio::spawn(async move { node.give_all_away(then).await });
    let mut resuming = Vec::new();
    for (client, id) in &clients {
        let (cluster, user, id) = (Arc::clone(&cluster), client.user, id.clone());
        resuming.push(tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(3 * user as u64)).await;
            let resumed = resume(&cluster, user, user as u32 % 2 * 2 + 1, &id, 0).await;
            resumed.unwrap_or_else(|e| panic!("u{user}: {e:?}"))
        }));
    }
    giving.await.unwrap();
    let sender = cluster.online(29, 3, "s").await;
    for (one, (client, _)) in resuming.into_iter().zip(&clients) {
        let resumed = one.await.unwrap();
        sender.message(client.user, "hello");
        let text = resumed.expect("hello").await;
        assert_eq!(bodies(&text), ["hello"]);
        // It never confirmed its own presence.
        assert!(text.contains("<presence"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_whose_node_is_dead_is_not_found_and_its_address_is_free() {
    let mut cluster = Cluster::new(30).await;
    let user = cluster.user_of(1);
    let (_client, id) = resumable(&cluster, user, 2, "r").await;
    let watcher = cluster.bind(user, 3, "watcher").await;
    watcher.send("<presence/>");
    expect(&watcher.session, "/r'").await;
    cluster.kill(2).await;
    assert!(is_not_found(resume(&cluster, user, 3, &id, 0).await));
    cluster.take_shards(2);
    cluster.settle().await;
    assert!(is_not_found(resume(&cluster, user, 3, &id, 0).await));
    expect(&watcher.session, "unavailable").await;
    // The address is free, and messages go on.
    let again = cluster.online(user, 3, "r").await;
    let sender = cluster.online(29, 3, "s").await;
    sender.message(user, "hello");
    expect(&again.session, "hello").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_of_a_node_that_nobody_can_replace_is_not_waited_for() {
    let cluster = Cluster::new(30).await;
    let user = cluster.user_of(2);
    let (_client, id) = resumable(&cluster, user, 2, "r").await;
    cluster.kill(2).await;
    cluster.wires.cut_off.lock().insert(2);
    let begun = Instant::now();
    let resumed = resume(&cluster, user, 1, &id, 0).await;
    assert!(matches!(resumed, Err(ResumeFailed::Failed { .. })));
    assert!(begun.elapsed() < Duration::from_secs(5));
}
