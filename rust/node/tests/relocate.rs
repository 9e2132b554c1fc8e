//! Sessions that are resumed on another node than the one that held them (XEP-0198 #resumption).

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "world/cluster.rs"]
mod cluster;
mod world;

use antiphon_net::gateway::{Ended, Gateway, ResumeFailed};
use antiphon_net::session::Session;
use antiphon_node::gateway::NodeGateway;
use antiphon_xmpp::stream::{Framing, Outgoing};
use cluster::{Client, Cluster, bodies, same};
use std::sync::Arc;
use std::task::Waker;
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
    let gateway = NodeGateway(cluster.node(node));
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
