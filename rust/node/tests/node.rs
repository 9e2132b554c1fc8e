//! A node on a temporary store, its sessions without sockets.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use antiphon_net::gateway::{Ended, Flow, Gateway, ResumeFailed};
use antiphon_net::session::{FIRST_GENERATION, Session};
use antiphon_node::bridge::{Bridge, Event};
use antiphon_node::calls::Operation;
use antiphon_node::gateway::NodeGateway;
use antiphon_node::live::Live;
use antiphon_node::node::Node;
use antiphon_node::value::Value;
use antiphon_routing::store::{
    AccountSummary, Done, MapKind, OfflineRecord, Store, StoreError, StoreFuture, UserRecord, Write,
};
use antiphon_store::Sqlite;
use antiphon_xmpp::Jid;
use antiphon_xmpp::sasl::{Credentials, ScramHash};
use antiphon_xmpp::stanza::{Stanza, StanzaCondition};
use antiphon_xmpp::stream::{Framing, Outgoing};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;
use std::time::Duration;
use tokio::sync::Notify;

/// A store whose doors a test can close.
struct Gate {
    inner: Sqlite,
    holds_writes: AtomicBool,
    held: Mutex<Vec<(Write, Done)>>,
    fails_writes: AtomicBool,
    fails_reads: AtomicBool,
    holds_reads: AtomicBool,
    opened: Arc<Notify>,
}

impl Gate {
    fn open(&self) {
        self.holds_writes.store(false, Ordering::SeqCst);
        self.holds_reads.store(false, Ordering::SeqCst);
        for (write, done) in std::mem::take(&mut *self.held.lock()) {
            self.inner.write(write, done);
        }
        self.opened.notify_waiters();
    }
}

impl Store for Gate {
    fn write(&self, write: Write, done: Done) {
        if self.fails_writes.load(Ordering::SeqCst) {
            done(Err(StoreError::Busy));
        } else if self.holds_writes.load(Ordering::SeqCst) {
            self.held.lock().push((write, done));
        } else {
            self.inner.write(write, done);
        }
    }
    fn user(&self, jid: &Jid) -> StoreFuture<Option<UserRecord>> {
        if self.fails_reads.load(Ordering::SeqCst) {
            return Box::pin(async { Err(StoreError::Engine("a test".into())) });
        }
        let reading = self.inner.user(jid);
        if !self.holds_reads.load(Ordering::SeqCst) {
            return reading;
        }
        let opened = Arc::clone(&self.opened);
        Box::pin(async move {
            opened.notified().await;
            reading.await
        })
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

    fn close(&self) {
        self.inner.close();
    }
}

struct World {
    node: Arc<Node>,
    gateway: NodeGateway,
    gate: Arc<Gate>,
    bridge: Arc<Bridge>,
}

fn jid(text: &str) -> Jid {
    Jid::parse(text).unwrap()
}

/// A stanza from its text; the content namespace is added.
fn stanza(xml: &str) -> Stanza {
    let end = xml.find([' ', '/', '>']).unwrap();
    let xml = format!("{} xmlns='jabber:client'{}", &xml[..end], &xml[end..]);
    Stanza::from_bytes(xml.as_bytes()).unwrap()
}

const CONFIG: &str = r#"{
  "node_name": "test", "data_dir": "unused", "worker_threads": 1, "log_level": 30,
  "hosts": [{"domain": "a.example", "certificate": null, "key": null, "extra_features": "",
    "registration": false, "modules": MODULES}],
  "listeners": [], "storage": {"backend": "sqlite"},
  "auth": {"mechanisms": ["PLAIN"], "scram_iterations": 4096, "client_ca": null,
    "allow_plaintext": true},
  "components": [{"domain": "c.example", "secret": "s"}],
  "limits": {"connections_per_address": 0, "connections_before_login": 0,
    "logins_per_worker": 2, "stanza_bytes": 0, "stanza_bytes_before_login": 0,
    "stanza_depth": 0, "stanza_elements": 0, "stanza_attributes": 0, "login_seconds": 0,
    "idle_seconds": 0, "auth_attempts": 0, "auth_failures_per_minute": 3, "sessions_per_user": 5,
    "roster_items": 0, "blocked_items": 0, "offline_messages": 5, "sm_queue_stanzas": 5,
    "sm_resume_seconds": 60, "stanzas_per_second": 0, "burst_stanzas": 0, "bytes_per_second": 0,
    "burst_bytes": 0, "outgoing_bytes": 0, "registrations_per_hour": 0, "http_body_bytes": 0},
  "handlers": [{"target": "host", "is_set": false, "ns": "urn:test", "name": "q",
    "ordered": true}],
  "modules": MODULES
}"#;
const MODULES: &str = r#"{"offline": true, "carbons": true, "blocking": true, "csi": true,
  "sm": true, "ping": true, "caps": true}"#;

impl World {
    async fn new(accounts: &[&str]) -> Self {
        let gate = Arc::new(Gate {
            inner: Sqlite::open_temporary().unwrap(),
            holds_writes: AtomicBool::new(false),
            held: Mutex::default(),
            fails_writes: AtomicBool::new(false),
            fails_reads: AtomicBool::new(false),
            holds_reads: AtomicBool::new(false),
            opened: Arc::default(),
        });
        let config = CONFIG.replace("MODULES", MODULES);
        let live = Live::new(serde_json::from_str(&config).unwrap()).unwrap();
        let store: Arc<dyn Store> = gate.clone();
        let bridge = Arc::new(Bridge::new().unwrap());
        let node = Arc::new(Node::new(
            live,
            store,
            [0; 32],
            Arc::new(antiphon_cluster::Local),
            Arc::clone(&bridge),
            tokio::runtime::Handle::current(),
        ));
        node.watch_store();
        let world = Self {
            gateway: NodeGateway(Arc::clone(&node)),
            node,
            gate,
            bridge,
        };
        let mut random = |out: &mut [u8]| out.fill(1);
        let keys = Credentials::derive("pw", 1, &[ScramHash::Sha256], &mut random).unwrap();
        for name in accounts {
            let write = Write::AccountCreate {
                jid: jid(&format!("{name}@a.example")),
                credentials: keys.clone(),
            };
            let (done, committed) = tokio::sync::oneshot::channel();
            world.gate.write(write, Box::new(|r| done.send(r).unwrap()));
            committed.await.unwrap().unwrap();
        }
        world
    }

    async fn bind(&self, name: &str) -> Arc<Session> {
        let account = jid(&format!("{name}@a.example"));
        let binding = self.gateway.bind(account, Some("r".into()), Framing::Tcp);
        binding.await.unwrap()
    }

    /// Bound and available.
    async fn online(&self, name: &str) -> Arc<Session> {
        let session = self.bind(name).await;
        self.send(&session, "<presence/>");
        until(|| read(&session).contains("<presence")).await;
        session
    }

    /// With stream management and resumption; the id.
    fn resumable(&self, session: &Arc<Session>) -> String {
        let enabled = self.gateway.sm_enable(session, true, None);
        session.enable_sm(Outgoing::new(Framing::Tcp));
        enabled.resume.unwrap().0
    }

    /// As its connection would: stamped, counted.
    fn send(&self, session: &Arc<Session>, xml: &str) -> Flow {
        let seq = session.received();
        let mut stanza = stanza(xml);
        stanza.from = Some(session.jid.clone());
        self.gateway.stanza(session, stanza, seq)
    }

    async fn stats(&self, name: &str) -> u64 {
        self.node.call(1, Operation::Stats {});
        let mut found = None;
        until(|| {
            for event in self.bridge.drain(100) {
                if let Event::Result(1, Value::Stats(stats)) = event {
                    found = stats.iter().find(|(n, _)| *n == name).map(|(_, v)| *v);
                }
            }
            found.is_some()
        })
        .await;
        found.unwrap()
    }
}

/// What was put on the session's queue since the last look.
fn read(session: &Session) -> String {
    String::from_utf8(session.take(FIRST_GENERATION, Waker::noop()).out.bytes).unwrap()
}

async fn until(mut test: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if test() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it never holds");
}

/// Collects until that has come.
async fn expect(session: &Session, text: &str) -> String {
    let mut all = String::new();
    until(|| {
        all += &read(session);
        all.contains(text)
    })
    .await;
    all
}

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
