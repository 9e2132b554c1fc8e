//! Several nodes in one process over one store: links are queues with delays, and a test cuts them.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod world;

use antiphon_cluster::id::{Epoch, Incarnation, NodeId};
use antiphon_cluster::link::{Class, SendError, Taken};
use antiphon_cluster::map::{MapNode, ShardMap, Slot};
use antiphon_cluster::relay::Outcome;
use antiphon_net::gateway::{Ended, Flow, Gateway};
use antiphon_net::session::{FIRST_GENERATION, Session};
use antiphon_node::bridge::Bridge;
use antiphon_node::gateway::NodeGateway;
use antiphon_node::live::Live;
use antiphon_node::mesh::{Event, Homes, Links, Mesh};
use antiphon_node::node::Node;
use antiphon_routing::archive::{ArchiveFilter, ArchiveId};
use antiphon_routing::home::{SHARDS, shard_of};
use antiphon_routing::store::{
    AccountSummary, Done, MapKind, OfflineRecord, Store, StoreFuture, UserRecord, Write,
};
use antiphon_store::Sqlite;
use antiphon_xmpp::Jid;
use antiphon_xmpp::sasl::{Credentials, ScramHash};
use antiphon_xmpp::stream::{Framing, Outgoing};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use world::{ARCHIVE, CONFIG, expect, jid, read, stanza, until};

/// What may wait on one link.
const WINDOW: usize = 500;

enum Carried {
    Unit(Class, u64, Bytes),
    Outcome(u64, Outcome),
    /// The epoch of the sender's map.
    Epoch(u64),
}

/// By sender, receiver and class.
type Way = (u32, u32, Class);

#[derive(Default)]
struct Wires {
    nodes: Mutex<HashMap<u32, Arc<Node>>>,
    meshes: Mutex<HashMap<u32, Arc<Mesh>>>,
    queues: Mutex<HashMap<Way, mpsc::UnboundedSender<Carried>>>,
    next: AtomicU64,
    /// Units on their way.
    waiting: Mutex<HashMap<(u32, u32), usize>>,
}

impl Wires {
    fn carry(self: &Arc<Self>, way: Way, what: Carried) -> bool {
        let (from, to, _) = way;
        if !self.nodes.lock().contains_key(&to) || !self.nodes.lock().contains_key(&from) {
            return false;
        }
        let mut queues = self.queues.lock();
        let queue = queues.entry(way).or_insert_with(|| {
            let (sender, receiver) = mpsc::unbounded_channel();
            tokio::spawn(Arc::clone(self).run(way, receiver));
            sender
        });
        queue.send(what).is_ok()
    }

    async fn run(self: Arc<Self>, way: Way, mut receiver: mpsc::UnboundedReceiver<Carried>) {
        let (from, to, _) = way;
        let mut random = u64::from(from) * 7919 + u64::from(to);
        while let Some(what) = receiver.recv().await {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            if (random >> 33).is_multiple_of(8) {
                tokio::time::sleep(Duration::from_micros(random >> 53)).await;
            }
            let nodes = self.nodes.lock();
            // A node that was killed neither gets nor sends anything.
            let is_alive = nodes.contains_key(&from);
            let node = nodes.get(&to).filter(|_| is_alive).cloned();
            drop(nodes);
            let Some(node) = node else { continue };
            match what {
                Carried::Unit(class, number, unit) => {
                    *self.waiting.lock().entry((from, to)).or_default() -= 1;
                    if let Taken::Settled(outcome) = node.unit_received(from, class, number, &unit)
                    {
                        self.carry((to, from, Class::Stanza), Carried::Outcome(number, outcome));
                    }
                }
                Carried::Outcome(number, outcome) => {
                    node.units_settled(from, &[(number, outcome)]);
                }
                Carried::Epoch(epoch) => self.meshes.lock()[&to].observed(from, epoch),
            }
        }
    }
}

struct Wire {
    me: u32,
    wires: Arc<Wires>,
    epoch: AtomicU64,
}

impl Links for Wire {
    fn send(&self, peer: u32, class: Class, unit: Bytes) -> Result<u64, SendError> {
        let way = (self.me, peer, class);
        let number = self.wires.next.fetch_add(1, Ordering::Relaxed);
        self.wires
            .carry(way, Carried::Epoch(self.epoch.load(Ordering::SeqCst)));
        *self
            .wires
            .waiting
            .lock()
            .entry((self.me, peer))
            .or_default() += 1;
        if self.wires.carry(way, Carried::Unit(class, number, unit)) {
            Ok(number)
        } else {
            Err(SendError::Unknown)
        }
    }

    fn has_room(&self, peer: u32) -> bool {
        let waiting = self.wires.waiting.lock();
        waiting.get(&(self.me, peer)).is_none_or(|n| *n < WINDOW)
    }

    fn done(&self, peer: u32, class: Class, number: u64, outcome: Outcome) {
        let _ = class;
        self.wires.carry(
            (self.me, peer, Class::Stanza),
            Carried::Outcome(number, outcome),
        );
    }

    fn tell(&self, _clock: u64, epoch: u64) {
        self.epoch.store(epoch, Ordering::SeqCst);
    }
}

/// A node's way to the store, which ends with it.
struct Door {
    inner: Arc<Sqlite>,
    is_dead: AtomicBool,
    on_the_way: Arc<AtomicU64>,
}

impl Door {
    /// What was handed over before is written, nothing after.
    async fn shut(&self) {
        self.is_dead.store(true, Ordering::SeqCst);
        until(|| self.on_the_way.load(Ordering::SeqCst) == 0).await;
    }
}

impl Store for Door {
    fn write(&self, write: Write, done: Done) {
        self.on_the_way.fetch_add(1, Ordering::SeqCst);
        if self.is_dead.load(Ordering::SeqCst) {
            self.on_the_way.fetch_sub(1, Ordering::SeqCst);
            return;
        }
        let count = Arc::clone(&self.on_the_way);
        let done = move |result| {
            count.fetch_sub(1, Ordering::SeqCst);
            done(result);
        };
        self.inner.write(write, Box::new(done));
    }
    fn user(&self, jid: &Jid) -> StoreFuture<Option<UserRecord>> {
        self.inner.user(jid)
    }
    fn user_of_dead(&self, jid: &Jid) -> StoreFuture<Option<UserRecord>> {
        self.inner.user_of_dead(jid)
    }
    fn credentials(&self, jid: &Jid) -> StoreFuture<Option<Credentials>> {
        self.inner.credentials(jid)
    }
    fn accounts(
        &self,
        domain: &str,
        after: Option<&str>,
        limit: usize,
    ) -> StoreFuture<Vec<AccountSummary>> {
        self.inner.accounts(domain, after, limit)
    }
    fn account_count(&self, domain: &str) -> StoreFuture<u64> {
        self.inner.account_count(domain)
    }
    fn offline(&self, owner: &Jid, after: u64, limit: usize) -> StoreFuture<Vec<OfflineRecord>> {
        self.inner.offline(owner, after, limit)
    }
    fn map_get(&self, owner: &Jid, kind: MapKind, key: &str) -> StoreFuture<Option<Box<[u8]>>> {
        self.inner.map_get(owner, kind, key)
    }
    fn map_keys(&self, owner: &Jid, kind: MapKind, prefix: &str) -> StoreFuture<Vec<String>> {
        self.inner.map_keys(owner, kind, prefix)
    }
    antiphon_routing::forward_archive!(inner);

    fn close(&self) {}
}

struct Cluster {
    doors: HashMap<u32, Arc<Door>>,
    wires: Arc<Wires>,
    store: Arc<Sqlite>,
    bridges: HashMap<u32, Arc<Bridge>>,
    epoch: u64,
    /// Where the shards shall be.
    homes: Vec<u32>,
    /// Where they are, since when, and who had them before.
    slots: Vec<(u32, u64, Option<u32>)>,
}

fn member(wires: &Arc<Wires>, store: &Arc<Door>, me: u32) -> Arc<Bridge> {
    let bridge = Arc::new(Bridge::new().unwrap());
    let config = CONFIG
        .replace("MODULES", ARCHIVE)
        .replace("\"sm_queue_stanzas\": 5", "\"sm_queue_stanzas\": 100000")
        .replace("\"offline_messages\": 5", "\"offline_messages\": 0");
    let live = Live::new(serde_json::from_str(&config).unwrap()).unwrap();
    let store: Arc<dyn Store> = store.clone();
    let homes = Arc::new(Homes::new(me));
    let links = Arc::new(Wire {
        me,
        wires: Arc::clone(wires),
        epoch: AtomicU64::new(0),
    });
    let node = Node::new(
        live,
        store,
        [0; 32],
        homes.clone(),
        Arc::clone(&bridge),
        tokio::runtime::Handle::current(),
    );
    let (mesh, events) = Mesh::new(links, homes, None);
    let mesh = Arc::new(mesh);
    let node = Arc::new(node.joined(Arc::clone(&mesh)));
    node.watch_store();
    tokio::spawn(Arc::clone(&node).conduct(events));
    wires.meshes.lock().insert(me, mesh);
    wires.nodes.lock().insert(me, Arc::clone(&node));
    bridge
}

impl Cluster {
    async fn new(accounts: usize) -> Self {
        let store = Arc::new(Sqlite::open_temporary().unwrap());
        let mut random = |out: &mut [u8]| out.fill(1);
        let keys = Credentials::derive("pw", 1, &[ScramHash::Sha256], &mut random).unwrap();
        for i in 0..accounts {
            let write = Write::AccountCreate {
                jid: jid(&format!("u{i}@a.example")),
                credentials: keys.clone(),
            };
            let (done, committed) = tokio::sync::oneshot::channel();
            store.write(write, Box::new(|r| done.send(r).unwrap()));
            committed.await.unwrap().unwrap();
        }
        let wires = Arc::new(Wires::default());
        let door = || Door {
            inner: Arc::clone(&store),
            is_dead: AtomicBool::new(false),
            on_the_way: Arc::default(),
        };
        let doors: HashMap<u32, Arc<Door>> = (1..=3).map(|me| (me, Arc::new(door()))).collect();
        let bridges = (1..=3)
            .map(|me| (me, member(&wires, &doors[&me], me)))
            .collect();
        let mut cluster = Self {
            doors,
            wires,
            store,
            bridges,
            epoch: 0,
            homes: (0..SHARDS).map(|s| u32::from(s) % 3 + 1).collect(),
            slots: vec![(0, 0, None); usize::from(SHARDS)],
        };
        cluster.settle().await;
        cluster
    }

    fn node(&self, incarnation: u32) -> Arc<Node> {
        Arc::clone(&self.wires.nodes.lock()[&incarnation])
    }

    fn serves(&self, node: u32, shard: u16) -> bool {
        let meshes = self.wires.meshes.lock();
        meshes[&node].serves(shard)
    }

    /// As a planner: what shall be elsewhere and is served goes there, released by who has it.
    fn publish(&mut self) {
        self.epoch += 1;
        let mut nodes: Vec<u32> = self.wires.nodes.lock().keys().copied().collect();
        nodes.sort_unstable();
        let is_alive = |node: &u32| nodes.contains(node);
        for shard in 0..SHARDS {
            let (owner, since, from) = self.slots[usize::from(shard)];
            let target = self.homes[usize::from(shard)];
            let is_served = is_alive(&owner) && self.serves(owner, shard);
            let from = from.filter(is_alive).filter(|_| !is_served);
            let slot = if !is_alive(&owner) {
                (target, self.epoch, None)
            } else if owner != target && is_served {
                (target, self.epoch, Some(owner))
            } else {
                (owner, since, from)
            };
            self.slots[usize::from(shard)] = slot;
        }
        let place = |node: u32| nodes.iter().position(|n| *n == node).unwrap() as u16;
        let slots = self.slots.iter().map(|(owner, since, from)| Slot {
            owner: place(*owner),
            from: from.map(place),
            shadow: None,
            since: Epoch(*since),
            is_clean: from.is_some(),
        });
        let members = nodes.iter().map(|n| MapNode {
            id: NodeId::new(&format!("n{n}")).unwrap(),
            incarnation: Incarnation(*n),
            zone: None,
            is_draining: false,
        });
        let map = ShardMap::new(
            Epoch(self.epoch),
            Incarnation(nodes[0]),
            members.collect(),
            slots.collect(),
        );
        let map = Arc::new(map.unwrap());
        for node in nodes {
            let mesh = Arc::clone(&self.wires.meshes.lock()[&node]);
            mesh.happened(Event::Map(Arc::clone(&map)));
        }
    }

    /// Publishes until every shard is served where it shall be.
    async fn settle(&mut self) {
        for _ in 0..200 {
            self.publish();
            for _ in 0..50 {
                let mut all = self.slots.iter().zip(0..);
                if all.all(|((owner, ..), shard)| self.serves(*owner, shard)) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(4)).await;
            }
            let mut all = self.slots.iter().zip(&self.homes).zip(0..);
            if all.all(|(((owner, ..), home), shard)| owner == home && self.serves(*owner, shard)) {
                return;
            }
        }
        panic!("the shards do not come to rest");
    }

    /// Every shard of `from` goes to the others.
    fn take_shards(&mut self, from: u32) {
        let others: Vec<u32> = (1..=3)
            .filter(|n| *n != from && self.wires.nodes.lock().contains_key(n))
            .collect();
        for (shard, home) in self.homes.iter_mut().enumerate() {
            if *home == from {
                *home = others[shard % others.len()];
            }
        }
    }

    /// As kill -9.
    async fn kill(&self, incarnation: u32) {
        self.wires.nodes.lock().remove(&incarnation);
        self.doors[&incarnation].shut().await;
    }

    fn home_of(&self, user: usize) -> u32 {
        self.homes[usize::from(shard_of(&format!("u{user}@a.example")))]
    }

    /// A user whose home is this node.
    fn user_of(&self, incarnation: u32) -> usize {
        (0..30).find(|u| self.home_of(*u) == incarnation).unwrap()
    }

    async fn bind(&self, user: usize, edge: u32, resource: &str) -> Client {
        let node = self.node(edge);
        let gateway = NodeGateway(node);
        let account = jid(&format!("u{user}@a.example"));
        let session = gateway.bind(account, Some(resource.into()), Framing::Tcp);
        let session = session.await.unwrap();
        Client {
            gateway,
            session,
            edge,
            user,
        }
    }

    /// With stream management, available.
    async fn online(&self, user: usize, edge: u32, resource: &str) -> Client {
        let client = self.bind(user, edge, resource).await;
        client.session.enable_sm(Outgoing::new(Framing::Tcp));
        client.send("<presence/>");
        expect(&client.session, "<presence").await;
        client
    }

    /// The bodies in an archive, oldest first.
    async fn archive(&self, user: usize) -> Vec<String> {
        let owner = jid(&format!("u{user}@a.example"));
        let mut bodies = Vec::new();
        let mut filter = ArchiveFilter::default();
        loop {
            let page = self.store.archive_page(&owner, filter.clone(), false, 250);
            let page = page.await.unwrap();
            for message in &page.messages {
                let text = String::from_utf8_lossy(&message.stanza).into_owned();
                let body = text.split("<body>").nth(1).unwrap_or_default();
                bodies.push(body.split("</body>").next().unwrap_or_default().to_owned());
            }
            let Some(last) = page.messages.last() else {
                break;
            };
            filter.after = Some(last.id);
            if page.is_complete {
                break;
            }
        }
        bodies
    }
}

struct Client {
    gateway: NodeGateway,
    session: Arc<Session>,
    edge: u32,
    user: usize,
}

impl Client {
    fn send(&self, xml: &str) -> Flow {
        let seq = self.session.received();
        let mut stanza = stanza(xml);
        stanza.from = Some(self.session.jid.clone());
        self.gateway.stanza(&self.session, stanza, seq)
    }

    fn message(&self, to: usize, body: &str) {
        self.send(&format!(
            "<message to='u{to}@a.example' type='chat' id='{body}'><body>{body}</body></message>"
        ));
    }

    /// Whether everything is handled in the end.
    async fn settled(&self) -> bool {
        for _ in 0..1000 {
            if self.session.inbound().is_some_and(|(_, all)| all) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        false
    }

    async fn acked(&self) {
        until(|| self.session.inbound().is_some_and(|(_, all)| all)).await;
    }
}

/// Where two lists begin to differ.
fn same(found: &[String], expected: &[String], what: &str) {
    if found == expected {
        return;
    }
    let at = found
        .iter()
        .zip(expected)
        .take_while(|(a, b)| a == b)
        .count();
    let part = |all: &[String]| {
        all.iter()
            .skip(at.saturating_sub(2))
            .take(12)
            .cloned()
            .collect::<Vec<_>>()
    };
    panic!(
        "{what}: {} for {}, at {at}: {:?} for {:?}",
        found.len(),
        expected.len(),
        part(found),
        part(expected)
    );
}

fn bodies(text: &str) -> Vec<String> {
    let parts = text.split("<body>").skip(1);
    parts
        .map(|p| p.split("</body>").next().unwrap().to_owned())
        .collect()
}

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
                    assert_eq!(bodies(&text), [body.clone()]);
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

#[tokio::test(flavor = "multi_thread")]
async fn an_ordered_request_holds_back_what_comes_behind_it_at_the_home_too() {
    let cluster = Cluster::new(30).await;
    let user = cluster.user_of(1);
    let client = cluster.online(user, 2, "r").await;
    client.send("<iq type='get' id='q' to='a.example'><q xmlns='urn:test'/></iq>");
    client.message(user, "behind");
    let home = cluster.node(1);
    let bridge = &cluster.bridges[&1];
    let mut ticket = None;
    until(|| {
        for event in bridge.drain(100) {
            if let antiphon_node::bridge::Event::Iq {
                ticket: found,
                session,
                ..
            } = event
            {
                assert_eq!(session, Some(client.session.id));
                ticket = Some(found);
            }
        }
        ticket.is_some()
    })
    .await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(read(&client.session), "");
    home.reply(ticket.unwrap(), None);
    let text = expect(&client.session, "behind").await;
    let places = ["id='q'", "behind"].map(|t| text.find(t).unwrap());
    assert!(places.is_sorted(), "{text}");
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
