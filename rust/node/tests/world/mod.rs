//! A node on a temporary store whose doors a test can close, and sessions without sockets.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses a part of it"
)]

use antiphon_net::gateway::{Flow, Gateway as _};
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
use antiphon_xmpp::stanza::{Stanza, StanzaError};
use antiphon_xmpp::stream::{Framing, Outgoing};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Waker;
use std::time::Duration;
use tokio::sync::Notify;

/// A store whose doors a test can close.
pub struct Gate {
    pub inner: Sqlite,
    pub holds_writes: AtomicBool,
    pub held: Mutex<Vec<(Write, Done)>>,
    pub fails_writes: AtomicBool,
    pub fails_reads: AtomicBool,
    pub holds_reads: AtomicBool,
    pub opened: Arc<Notify>,
    /// Entities that were read are not given out while it is closed.
    pub holds_answers: Arc<AtomicBool>,
    /// How many were read.
    pub answers: Arc<AtomicUsize>,
}

impl Gate {
    pub fn open(&self) {
        self.holds_writes.store(false, Ordering::SeqCst);
        self.holds_reads.store(false, Ordering::SeqCst);
        for (write, done) in std::mem::take(&mut *self.held.lock()) {
            self.inner.write(write, done);
        }
        self.opened.notify_waiters();
    }
}

impl Gate {
    /// Lets the oldest write that is held go.
    pub fn let_one(&self) {
        let (write, done) = self.held.lock().remove(0);
        self.inner.write(write, done);
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
            let (holds, answers) = (Arc::clone(&self.holds_answers), Arc::clone(&self.answers));
            return Box::pin(async move {
                let record = reading.await;
                answers.fetch_add(1, Ordering::SeqCst);
                while holds.load(Ordering::SeqCst) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                record
            });
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

pub struct World {
    pub node: Arc<Node>,
    pub gateway: NodeGateway,
    pub gate: Arc<Gate>,
    pub bridge: Arc<Bridge>,
}

pub fn jid(text: &str) -> Jid {
    Jid::parse(text).unwrap()
}

/// A stanza from its text; the content namespace is added.
pub fn stanza(xml: &str) -> Stanza {
    let end = xml.find([' ', '/', '>']).unwrap();
    let xml = format!("{} xmlns='jabber:client'{}", &xml[..end], &xml[end..]);
    Stanza::from_bytes(xml.as_bytes()).unwrap()
}

pub const CONFIG: &str = r#"{
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
    "ordered": true}, {"target": "account", "is_set": false, "ns": "urn:test", "name": "a",
    "ordered": false}],
  "modules": MODULES,
  "archive": {"enabled": true, "default": "always", "inbox": true, "retention_days": 0,
    "messages_per_account": 0, "page_max": 250}
}"#;
pub const MODULES: &str = r#"{"offline": true, "carbons": true, "blocking": true, "csi": true,
  "sm": true, "ping": true, "caps": true}"#;
/// With archives and inboxes.
pub const ARCHIVE: &str = r#"{"offline": true, "carbons": true, "blocking": true, "csi": true,
  "sm": true, "ping": true, "caps": true, "mam": true, "inbox": true}"#;

impl World {
    pub async fn new(accounts: &[&str]) -> Self {
        Self::with(accounts, MODULES).await
    }

    pub async fn with(accounts: &[&str], modules: &str) -> Self {
        let gate = Arc::new(Gate {
            inner: Sqlite::open_temporary().unwrap(),
            holds_writes: AtomicBool::new(false),
            held: Mutex::default(),
            fails_writes: AtomicBool::new(false),
            fails_reads: AtomicBool::new(false),
            holds_reads: AtomicBool::new(false),
            opened: Arc::default(),
            holds_answers: Arc::default(),
            answers: Arc::default(),
        });
        let config = CONFIG.replace("MODULES", modules);
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

    pub async fn bind(&self, name: &str) -> Arc<Session> {
        let account = jid(&format!("{name}@a.example"));
        let binding = self.gateway.bind(account, Some("r".into()), Framing::Tcp);
        binding.await.unwrap()
    }

    /// Bound and available.
    pub async fn online(&self, name: &str) -> Arc<Session> {
        let session = self.bind(name).await;
        self.send(&session, "<presence/>");
        until(|| read(&session).contains("<presence")).await;
        session
    }

    /// With stream management and resumption; the id.
    pub fn resumable(&self, session: &Arc<Session>) -> String {
        let enabled = self.gateway.sm_enable(session, true, None);
        session.enable_sm(Outgoing::new(Framing::Tcp));
        enabled.resume.unwrap().0
    }

    /// As its connection would: stamped, counted.
    pub fn send(&self, session: &Arc<Session>, xml: &str) -> Flow {
        let seq = session.received();
        let mut stanza = stanza(xml);
        stanza.from = Some(session.jid.clone());
        self.gateway.stanza(session, stanza, seq)
    }

    /// An operation and its answer.
    pub async fn call(&self, operation: Operation) -> Result<Value, StanzaError> {
        const TICKET: u64 = 77;
        self.node.call(TICKET, operation);
        let mut found = None;
        until(|| {
            for event in self.bridge.drain(100) {
                match event {
                    Event::Result(TICKET, value) => found = Some(Ok(value)),
                    Event::Failed(TICKET, error) => found = Some(Err(error)),
                    _ => {}
                }
            }
            found.is_some()
        })
        .await;
        found.unwrap()
    }

    pub async fn stats(&self, name: &str) -> u64 {
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
pub fn read(session: &Session) -> String {
    String::from_utf8(session.take(FIRST_GENERATION, Waker::noop()).out.bytes).unwrap()
}

pub async fn until(mut test: impl FnMut() -> bool) {
    for _ in 0..4000 {
        if test() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it never holds");
}

/// Collects until that has come.
pub async fn expect(session: &Session, text: &str) -> String {
    let mut all = String::new();
    until(|| {
        all += &read(session);
        all.contains(text)
    })
    .await;
    all
}
