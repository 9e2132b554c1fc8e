//! Several nodes in one process over one store: links are queues with delays, and a test cuts them.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses a part of it"
)]

use crate::world::{ARCHIVE, CONFIG, expect, jid, stanza, until};
use antiphon_cluster::id::{Epoch, Incarnation, NodeId};
use antiphon_cluster::link::{Class, SendError, Taken};
use antiphon_cluster::map::{MapNode, ShardMap, Slot};
use antiphon_cluster::relay::Outcome;
use antiphon_net::gateway::{Flow, Gateway};
use antiphon_net::session::Session;
use antiphon_node::bridge::Bridge;
use antiphon_node::gateway::NodeGateway;
use antiphon_node::live::Live;
use antiphon_node::mesh::{Event, Homes, Links, Mesh};
use antiphon_node::node::Node;
use antiphon_routing::archive::ArchiveFilter;
use antiphon_routing::home::{SHARDS, shard_of};
use antiphon_routing::store::{
    AccountSummary, Done, MapKind, OfflineRecord, Store, StoreError, StoreFuture, UserRecord, Write,
};
use antiphon_store::Sqlite;
use antiphon_xmpp::Jid;
use antiphon_xmpp::sasl::{Credentials, ScramHash};
use antiphon_xmpp::stream::{Framing, Outgoing};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;

/// What may wait on one link.
pub const WINDOW: usize = 500;

pub enum Carried {
    Unit(Class, u64, Bytes),
    Outcome(u64, Outcome),
    /// The epoch of the sender's map.
    Epoch(u64),
}

/// By sender, receiver and class.
pub type Way = (u32, u32, Class);

#[derive(Default)]
pub struct Wires {
    pub nodes: Mutex<HashMap<u32, Arc<Node>>>,
    pub meshes: Mutex<HashMap<u32, Arc<Mesh>>>,
    pub queues: Mutex<HashMap<Way, mpsc::UnboundedSender<Carried>>>,
    pub next: AtomicU64,
    /// What nobody reaches, and nobody takes the place of.
    pub cut_off: Mutex<HashSet<u32>>,
    /// Who takes nothing for a while.
    pub frozen: Mutex<HashSet<u32>>,
    /// Units on their way.
    pub waiting: Mutex<HashMap<(u32, u32), usize>>,
}

impl Wires {
    pub fn carry(self: &Arc<Self>, way: Way, what: Carried) -> bool {
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

    pub async fn run(self: Arc<Self>, way: Way, mut receiver: mpsc::UnboundedReceiver<Carried>) {
        let (from, to, _) = way;
        let mut random = u64::from(from) * 7919 + u64::from(to);
        while let Some(what) = receiver.recv().await {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            if (random >> 33).is_multiple_of(8) {
                tokio::time::sleep(Duration::from_micros(random >> 53)).await;
            }
            while self.frozen.lock().contains(&to) {
                tokio::time::sleep(Duration::from_millis(2)).await;
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
                    let taken = node.unit_received(from, class, number, &unit);
                    if let Taken::Settled(outcome) | Taken::Quiet(outcome) = taken {
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

pub struct Wire {
    pub me: u32,
    pub wires: Arc<Wires>,
    pub epoch: AtomicU64,
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

    fn is_cut_off(&self, peer: u32) -> bool {
        self.wires.cut_off.lock().contains(&peer)
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
pub struct Door {
    pub inner: Arc<Sqlite>,
    pub is_dead: AtomicBool,
    /// What is written is never called done.
    pub is_mute: AtomicBool,
    /// Reads of offline messages from behind this one on get no answer.
    pub offline_mute_at: AtomicU64,
    /// Reads of accounts get no answer.
    pub mutes_users: AtomicBool,
    /// Reads of offline messages fail.
    pub fails_offline: AtomicBool,
    pub on_the_way: Arc<AtomicU64>,
    /// Writes of this account wait.
    pub holds: Mutex<Option<Jid>>,
    pub held: Mutex<Vec<(Write, Done)>>,
    /// Each account's writes take up to so long, ms.
    pub slow_ms: AtomicU64,
    pub queues: Mutex<HashMap<Jid, mpsc::UnboundedSender<(Write, Done)>>>,
}

impl Door {
    /// Writes in order, each after a while, all of an account that wait at once.
    async fn late(inner: Arc<Sqlite>, ms: u64, mut queue: mpsc::UnboundedReceiver<(Write, Done)>) {
        let mut random = ms;
        while let Some(first) = queue.recv().await {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(std::ptr::from_ref(&first) as u64 | 1);
            tokio::time::sleep(Duration::from_millis((random >> 33) % ms)).await;
            let mut all = vec![first];
            while let Ok(next) = queue.try_recv() {
                all.push(next);
            }
            for (write, done) in all {
                inner.write(write, done);
            }
        }
    }

    /// Lets all go that waits.
    pub fn let_go(&self) {
        *self.holds.lock() = None;
        for (write, done) in std::mem::take(&mut *self.held.lock()) {
            self.write(write, done);
        }
    }

    /// What was handed over before is written, nothing after.
    pub async fn shut(&self) {
        self.is_dead.store(true, Ordering::SeqCst);
        until(|| self.on_the_way.load(Ordering::SeqCst) == 0).await;
    }
}

impl Store for Door {
    fn write(&self, write: Write, done: Done) {
        if self.holds.lock().as_ref() == Some(write.owner()) {
            return self.held.lock().push((write, done));
        }
        self.on_the_way.fetch_add(1, Ordering::SeqCst);
        if self.is_dead.load(Ordering::SeqCst) {
            self.on_the_way.fetch_sub(1, Ordering::SeqCst);
            return;
        }
        let count = Arc::clone(&self.on_the_way);
        let is_mute = self.is_mute.load(Ordering::SeqCst);
        let done = move |result| {
            count.fetch_sub(1, Ordering::SeqCst);
            if !is_mute {
                done(result);
            }
        };
        let done: Done = Box::new(done);
        let slow_ms = self.slow_ms.load(Ordering::SeqCst);
        if slow_ms == 0 {
            return self.inner.write(write, done);
        }
        let mut queues = self.queues.lock();
        let queue = queues.entry(write.owner().clone()).or_insert_with(|| {
            let (sender, receiver) = mpsc::unbounded_channel();
            tokio::spawn(Self::late(Arc::clone(&self.inner), slow_ms, receiver));
            sender
        });
        assert!(queue.send((write, done)).is_ok());
    }
    fn user(&self, jid: &Jid) -> StoreFuture<Option<UserRecord>> {
        if self.mutes_users.load(Ordering::SeqCst) {
            return Box::pin(std::future::pending());
        }
        self.inner.user(jid)
    }
    fn user_of_dead(&self, jid: &Jid) -> StoreFuture<Option<UserRecord>> {
        if self.mutes_users.load(Ordering::SeqCst) {
            return Box::pin(std::future::pending());
        }
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
        if after >= self.offline_mute_at.load(Ordering::SeqCst) {
            return Box::pin(std::future::pending());
        }
        if self.fails_offline.load(Ordering::SeqCst) {
            return Box::pin(async { Err(StoreError::Busy) });
        }
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

pub struct Cluster {
    pub doors: HashMap<u32, Arc<Door>>,
    pub wires: Arc<Wires>,
    pub store: Arc<Sqlite>,
    pub bridges: HashMap<u32, Arc<Bridge>>,
    pub epoch: u64,
    /// Where the shards shall be.
    pub homes: Vec<u32>,
    /// Where they are, since when, and who had them before.
    pub slots: Vec<(u32, u64, Option<u32>)>,
    /// Shards whose home died before another had released them.
    pub unclean: HashSet<u16>,
}

pub fn member(wires: &Arc<Wires>, store: &Arc<Door>, me: u32) -> Arc<Bridge> {
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
    pub async fn new(accounts: usize) -> Self {
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
            is_mute: AtomicBool::new(false),
            offline_mute_at: AtomicU64::new(u64::MAX),
            mutes_users: AtomicBool::new(false),
            fails_offline: AtomicBool::new(false),
            on_the_way: Arc::default(),
            holds: Mutex::default(),
            held: Mutex::default(),
            slow_ms: AtomicU64::new(0),
            queues: Mutex::default(),
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
            unclean: HashSet::new(),
        };
        cluster.settle().await;
        cluster
    }

    pub fn node(&self, incarnation: u32) -> Arc<Node> {
        Arc::clone(&self.wires.nodes.lock()[&incarnation])
    }

    pub fn serves(&self, node: u32, shard: u16) -> bool {
        let meshes = self.wires.meshes.lock();
        meshes[&node].serves(shard)
    }

    /// As a planner: what shall be elsewhere and is served goes there, released by who has it.
    pub fn publish(&mut self) {
        self.epoch += 1;
        let mut nodes: Vec<u32> = self.wires.nodes.lock().keys().copied().collect();
        nodes.sort_unstable();
        let is_alive = |node: &u32| nodes.contains(node);
        for shard in 0..SHARDS {
            let (owner, since, from) = self.slots[usize::from(shard)];
            let target = self.homes[usize::from(shard)];
            let is_served = is_alive(&owner) && self.serves(owner, shard);
            let from = from.filter(is_alive).filter(|_| !is_served);
            if is_served {
                self.unclean.remove(&shard);
            }
            let slot = if !is_alive(&owner) {
                self.unclean.insert(shard);
                (target, self.epoch, from.filter(|from| *from != target))
            } else if owner != target && is_served {
                (target, self.epoch, Some(owner))
            } else {
                (owner, since, from)
            };
            self.slots[usize::from(shard)] = slot;
        }
        let place = |node: u32| nodes.iter().position(|n| *n == node).unwrap() as u16;
        let slots = self
            .slots
            .iter()
            .zip(0..)
            .map(|((owner, since, from), shard)| Slot {
                owner: place(*owner),
                from: from.map(place),
                shadow: nodes.iter().find(|n| *n != owner).map(|n| place(*n)),
                since: Epoch(*since),
                is_clean: from.is_some() && !self.unclean.contains(&shard),
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
    pub async fn settle(&mut self) {
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
        let mut all = self.slots.iter().zip(0..);
        let (owner, shard) = all
            .find_map(|((owner, ..), shard)| {
                (!self.serves(*owner, shard)).then_some((*owner, shard))
            })
            .unwrap();
        let how = self.wires.meshes.lock()[&owner].describe(shard);
        panic!("the shards do not come to rest, {shard} at node {owner}: {how}");
    }

    /// Half of the shards move to the next node, twelve times, over stores that take their time.
    pub async fn move_about_slowly(&mut self) {
        for door in self.doors.values() {
            door.slow_ms.store(60, Ordering::SeqCst);
        }
        for round in 0..12 {
            for (shard, home) in self.homes.iter_mut().enumerate() {
                if (shard + round) % 2 == 0 {
                    *home = *home % 3 + 1;
                }
            }
            self.publish();
            tokio::time::sleep(Duration::from_millis(120)).await;
        }
    }

    /// Every shard of `from` goes to the others.
    pub fn take_shards(&mut self, from: u32) {
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
    pub async fn kill(&self, incarnation: u32) {
        self.wires.nodes.lock().remove(&incarnation);
        self.wires.frozen.lock().remove(&incarnation);
        self.doors[&incarnation].shut().await;
    }

    pub fn home_of(&self, user: usize) -> u32 {
        self.homes[usize::from(shard_of(&format!("u{user}@a.example")))]
    }

    /// A user whose home is this node.
    pub fn user_of(&self, incarnation: u32) -> usize {
        (0..30).find(|u| self.home_of(*u) == incarnation).unwrap()
    }

    pub async fn bind(&self, user: usize, edge: u32, resource: &str) -> Client {
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
    pub async fn online(&self, user: usize, edge: u32, resource: &str) -> Client {
        let client = self.bind(user, edge, resource).await;
        client.session.enable_sm(Outgoing::new(Framing::Tcp));
        client.send("<presence/>");
        expect(&client.session, "<presence").await;
        client
    }

    /// The bodies in an archive, oldest first.
    pub async fn archive(&self, user: usize) -> Vec<String> {
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

pub struct Client {
    pub gateway: NodeGateway,
    pub session: Arc<Session>,
    pub edge: u32,
    pub user: usize,
}

impl Client {
    pub fn send(&self, xml: &str) -> Flow {
        let seq = self.session.received();
        let mut stanza = stanza(xml);
        stanza.from = Some(self.session.jid.clone());
        self.gateway.stanza(&self.session, stanza, seq)
    }

    /// Under an id of its own, as any client gives: one that comes twice is the same message.
    pub fn message(&self, to: usize, body: &str) {
        static IDS: AtomicU64 = AtomicU64::new(0);
        let id = IDS.fetch_add(1, Ordering::Relaxed);
        self.send(&format!(
            "<message to='u{to}@a.example' type='chat' id='m{id}'><body>{body}</body></message>"
        ));
    }

    /// Whether everything is handled in the end.
    pub async fn settled(&self) -> bool {
        for _ in 0..1000 {
            if self.session.inbound().is_some_and(|(_, all)| all) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        false
    }

    pub async fn acked(&self) {
        until(|| self.session.inbound().is_some_and(|(_, all)| all)).await;
    }
}

/// Where two lists begin to differ.
pub fn same(found: &[String], expected: &[String], what: &str) {
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

pub fn bodies(text: &str) -> Vec<String> {
    let parts = text.split("<body>").skip(1);
    parts
        .map(|p| p.split("</body>").next().unwrap().to_owned())
        .collect()
}
