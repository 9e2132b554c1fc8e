//! The engine for clusters: Apache Cassandra 4.1 or 5.0.
//!
//! Writes of one owner make a lane: one batch of it is on its way at a time, and the next one has
//! all that has gathered meanwhile, so the servers' own pace sets the size of a batch. All that
//! concerns an owner has one partition key, so a batch is one mutation, whole or not at all. Lanes
//! go on independently: what one owner's replicas do holds up nobody else. Archives have a
//! partition for each month; what a message does to the inbox is kept in memory and written behind
//! it (`archives.rs`).
//!
//! Every write brings a timestamp from a clock that never goes back, so a request whose outcome is
//! unknown is repeated as it was until it succeeds or has waited too long; only accounts are made
//! and removed by lightweight transactions.
//!
//! Tasks of an own small runtime do all of it; no caller ever waits for the network.

mod account;
mod archive;
mod archives;
mod clock;
mod commit;
mod connect;
mod edit;
mod engine;
mod error;
mod gate;
mod group;
mod health;
mod inbox;
mod keeper;
mod owners;
mod packs;
mod plan;
mod purge;
mod query;
mod queue;
mod reader;
mod schema;
mod seal;
mod search;
mod segments;
mod servers;
mod statements;
mod taken;
mod tell;

pub use error::OpenError as CassandraOpenError;
pub use gate::{Gate, Leave, Witness};
pub use health::{Event as CassandraEvent, Watcher};
pub use schema::{MIGRATIONS, Migration, SCOPE, VERSION_TABLE};

use crate::sqlite::Clock;
use antiphon_routing::archive::{
    ArchiveEnds, ArchiveFilter, ArchiveId, ArchivePage, Collection, InboxEntry, InboxFilter,
    InboxPage, InboxSlice,
};
use antiphon_routing::store::{
    AccountSummary, Done, MapKind, OfflineRecord, PAGE_MAX, Store, StoreFuture, UserRecord, Write,
};
use antiphon_xmpp::Jid;
use antiphon_xmpp::sasl::Credentials;
use archives::Archives;
use engine::{Counted, Counters, Engine};
use error::OpenError;
use owners::Owners;
use parking_lot::Mutex;
use queue::{Bounds, Lanes};
use reader::Reader;
use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::Duration;
use taken::Former;
use tell::Message;
use tokio::runtime::Runtime;
use tokio::time::Instant;

/// Buckets of a domain's account index; part of the schema.
const BUCKETS: i16 = 64;

/// How long the end of the engine waits for servers that are away.
const CLOSE: Duration = Duration::from_secs(10);

/// TLS to the servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CassandraTls {
    /// PEM file with the authorities of the servers' certificates.
    pub ca: PathBuf,
    /// PEM files with our certificate and its key, where the servers ask for one.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// What the engine needs to know.
#[derive(Clone)]
pub struct CassandraConfig {
    /// `host:port` or `host` (9042) of some nodes; the others are found through them.
    pub contact_points: Vec<String>,
    /// The keyspace, made by `antiphon migrate`.
    pub keyspace: String,
    /// The data centre to use; `None`: the nearest is not known, all are one.
    pub local_datacenter: Option<String>,
    /// User and password.
    pub login: Option<(String, String)>,
    /// TLS; `None`: plain TCP.
    pub tls: Option<CassandraTls>,
    /// How long one request may take before it is given up and repeated.
    pub request_timeout: Duration,
    /// How long [`Cassandra::open`] waits for an answer.
    pub connect_wait: Duration,
    /// How long a write is repeated while the servers are away; then it fails with `Busy`.
    pub write_wait: Duration,
    /// The same of reads.
    pub read_wait: Duration,
    /// Writes that may wait, and as many reads; above: `Busy`.
    pub queue: usize,
    /// Memory of the writes that may wait, bytes; above: `Busy`. One larger write passes when
    /// nothing else waits.
    pub queue_bytes: usize,
    /// Requests on their way at a time.
    pub in_flight: usize,
    /// Connections to each node.
    pub connections_per_node: usize,
    /// Threads of the runtime.
    pub threads: usize,
    /// How long archived messages are kept; `None`: for ever.
    pub retention: Option<Duration>,
    /// How many of each owner; the oldest go some time after there are more. `None`: all.
    pub most_messages: Option<u64>,
    /// When accounts are created.
    pub clock: Clock,
    /// Told of outages.
    pub watcher: Watcher,
}

impl CassandraConfig {
    /// The defaults of a node, with the system's clock and nobody told of outages.
    #[must_use]
    pub fn new(contact_points: Vec<String>, keyspace: impl Into<String>) -> Self {
        Self {
            contact_points,
            keyspace: keyspace.into(),
            local_datacenter: None,
            login: None,
            tls: None,
            request_timeout: Duration::from_secs(2),
            connect_wait: Duration::from_secs(15),
            write_wait: Duration::from_secs(120),
            read_wait: Duration::from_secs(5),
            queue: 16_384,
            queue_bytes: 64 * 1024 * 1024,
            in_flight: 256,
            connections_per_node: 1,
            threads: 2,
            retention: None,
            most_messages: None,
            clock: crate::sqlite::system_clock(),
            watcher: Arc::new(drop),
        }
    }
}

impl std::fmt::Debug for CassandraConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CassandraConfig")
            .field("contact_points", &self.contact_points)
            .field("keyspace", &self.keyspace)
            .field("local_datacenter", &self.local_datacenter)
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}

/// Counters since the start, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CassandraStats {
    /// Writes that wait or are being committed now.
    pub queued: u64,
    /// Their memory, bytes.
    pub queued_bytes: u64,
    /// Turns of lanes.
    pub groups: u64,
    /// Batches and single rows that the servers took.
    pub batches: u64,
    /// Writes committed.
    pub committed: u64,
    /// Writes refused by what is stored (`NoAccount`, `Exists`, `Full`).
    pub refused: u64,
    /// Writes that the engine failed (`Engine`, or `Busy` because the servers stayed away).
    pub failed: u64,
    /// Attempts of requests that failed in a way that passes.
    pub retries: u64,
    /// An outage goes on.
    pub is_down: bool,
}

/// What runs; taken apart by the first `close`.
#[derive(Debug)]
struct Running {
    runtime: Runtime,
    teller: JoinHandle<()>,
}

/// The storage engine for clusters. Dropping it closes it.
#[derive(Debug)]
pub struct Cassandra {
    engine: Arc<Engine>,
    running: Mutex<Option<Running>>,
    teller: std::thread::ThreadId,
}

impl Cassandra {
    /// Connects to a cluster whose schema `antiphon migrate` made.
    ///
    /// Blocks until the store is ready or cannot be, at most about `connect_wait`. Must not be
    /// called from a task of a tokio runtime.
    ///
    /// # Errors
    /// [`CassandraOpenError`]: one line for the operator that says what to do.
    pub fn open(config: CassandraConfig) -> Result<Self, OpenError> {
        let thread_error = |error: std::io::Error| OpenError::Thread {
            reason: error.to_string(),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(config.threads.max(1))
            .thread_name("store")
            .enable_all()
            .build()
            .map_err(thread_error)?;
        // In a task, not in `block_on`: what the driver starts then runs where it will stay.
        let connecting = {
            let config = config.clone();
            runtime.spawn(async move { connect::connect(&config).await })
        };
        let servers = match runtime.block_on(connecting) {
            Ok(connected) => connected?,
            Err(error) => return Err(OpenError::request(error)),
        };
        let (tell, messages) = channel();
        let bounds = Arc::new(Bounds::new(config.queue, config.queue_bytes));
        let teller = std::thread::Builder::new()
            .name("store-tell".to_owned())
            .spawn(move || tell::serve(&messages))
            .map_err(thread_error)?;
        let engine = Arc::new(Engine {
            servers,
            lanes: Lanes::new(),
            bounds,
            owners: Owners::default(),
            account_changes: Arc::default(),
            counted: Counted::default(),
            counters: Counters::default(),
            archives: Archives::new(run(), config.retention, config.most_messages),
            tell,
            runtime: runtime.handle().clone(),
            clock: config.clock,
            write_wait: config.write_wait,
            read_wait: config.read_wait,
        });
        runtime.spawn(keeper::keep(Arc::downgrade(&engine)));
        Ok(Self {
            engine,
            teller: teller.thread().id(),
            running: Mutex::new(Some(Running { runtime, teller })),
        })
    }

    /// Has every write ask, behind its timestamps and before it is sent, whether its owner is still
    /// this process's. The first gate stays; without one all are.
    ///
    /// A write that waits longer than its time, or is refused, fails with
    /// [`StoreError::Busy`](antiphon_routing::store::StoreError::Busy), and what is in memory of an
    /// owner that is another's is forgotten. Changes of accounts, and of domains, do not ask.
    pub fn set_gate(&self, gate: Gate) {
        self.engine.servers.gate.set(gate);
    }

    /// Has somebody told of every write of an owner's rows, in the time at which the gate let it.
    pub fn set_witness(&self, witness: Witness) {
        self.engine.servers.gate.set_witness(witness);
    }

    fn record(&self, jid: &Jid, former: Former) -> StoreFuture<Option<UserRecord>> {
        let account = jid.clone();
        self.engine.read(jid, async move |engine, deadline| {
            let changes = engine.owners.changes();
            let mut found = query::user(&engine.servers, deadline, &account).await?;
            if let (true, Former::Died { epoch, .. }) = (found.is_some(), former)
                && taken::begin(&engine.servers, deadline, account.bare_str(), epoch).await?
            {
                found = query::user(&engine.servers, deadline, &account).await?;
            }
            if let Some(record) = &mut found {
                engine.owners.read(account.bare_str(), changes);
                let (archive, orphans) =
                    engine.take_up(deadline, account.bare_str(), former).await?;
                record.archive = archive;
                record.offline = record.offline.saturating_sub(orphans);
            }
            Ok(found)
        })
    }

    /// What happened since the start.
    #[must_use]
    pub fn stats(&self) -> CassandraStats {
        let (queued, queued_bytes) = self.engine.bounds.waiting();
        let c = &self.engine.counters;
        let health = &self.engine.servers.health;
        CassandraStats {
            queued,
            queued_bytes,
            groups: c.groups.load(Ordering::Relaxed),
            batches: c.batches.load(Ordering::Relaxed),
            committed: c.committed.load(Ordering::Relaxed),
            refused: c.refused.load(Ordering::Relaxed),
            failed: c.failed.load(Ordering::Relaxed),
            retries: health.retries(),
            is_down: health.is_down(),
        }
    }
}

impl Store for Cassandra {
    fn write(&self, write: Write, done: Done) {
        self.engine.write(write, done);
    }

    fn user(&self, jid: &Jid) -> StoreFuture<Option<UserRecord>> {
        self.record(jid, Former::Ended)
    }

    fn user_of_dead(&self, jid: &Jid) -> StoreFuture<Option<UserRecord>> {
        self.record(jid, Former::Unknown)
    }

    fn take_up(&self, jid: &Jid, epoch: u64, from: ArchiveId) -> StoreFuture<Option<UserRecord>> {
        self.record(jid, Former::Died { epoch, from })
    }

    fn credentials(&self, jid: &Jid) -> StoreFuture<Option<Credentials>> {
        let account = jid.clone();
        self.engine.read(jid, async move |engine, deadline| {
            query::credentials(&engine.servers, deadline, account.bare_str()).await
        })
    }

    fn accounts(
        &self,
        domain: &str,
        after: Option<&str>,
        limit: usize,
    ) -> StoreFuture<Vec<AccountSummary>> {
        let (domain, after) = (domain.to_owned(), after.unwrap_or_default().to_owned());
        let limit = limit.clamp(1, PAGE_MAX);
        self.engine.read_accounts(async move |engine, deadline| {
            query::accounts(&engine, deadline, &domain, &after, limit).await
        })
    }

    fn account_count(&self, domain: &str) -> StoreFuture<u64> {
        let domain = domain.to_owned();
        self.engine
            .read_accounts(move |engine, deadline| engine.count(deadline, domain))
    }

    fn offline(&self, owner: &Jid, after: u64, limit: usize) -> StoreFuture<Vec<OfflineRecord>> {
        let account = owner.clone();
        let limit = limit.clamp(1, PAGE_MAX);
        self.engine.read(owner, async move |engine, deadline| {
            query::offline(&engine.servers, deadline, account.bare_str(), after, limit).await
        })
    }

    fn map_get(&self, owner: &Jid, kind: MapKind, key: &str) -> StoreFuture<Option<Box<[u8]>>> {
        let (account, key) = (owner.clone(), key.to_owned());
        self.engine.read(owner, async move |engine, deadline| {
            query::map_get(&engine.servers, deadline, account.bare_str(), kind, &key).await
        })
    }

    fn map_claim(
        &self,
        domain: &Jid,
        kind: MapKind,
        key: &str,
        value: Box<[u8]>,
    ) -> Option<StoreFuture<()>> {
        let (domain, key) = (domain.clone(), key.to_owned());
        let claiming = self
            .engine
            .read(&domain.clone(), async move |engine, deadline| {
                let owner = domain.bare_str();
                query::map_claim(&engine.servers, deadline, (owner, kind, &key), &value).await
            });
        Some(claiming)
    }

    fn map_keys(&self, owner: &Jid, kind: MapKind, prefix: &str) -> StoreFuture<Vec<String>> {
        let (account, prefix) = (owner.clone(), prefix.to_owned());
        self.engine.read(owner, async move |engine, deadline| {
            query::map_keys(&engine.servers, deadline, account.bare_str(), kind, &prefix).await
        })
    }

    fn archive_page(
        &self,
        owner: &Jid,
        filter: ArchiveFilter,
        is_from_end: bool,
        limit: usize,
    ) -> StoreFuture<ArchivePage> {
        let account = owner.clone();
        let limit = limit.clamp(1, PAGE_MAX);
        self.engine.read(owner, async move |engine, deadline| {
            let reader = Reader::new(&engine, deadline, &account).await?;
            reader::page(&reader, &filter, is_from_end, limit).await
        })
    }

    fn archive_count(
        &self,
        owner: &Jid,
        filter: ArchiveFilter,
        most: u64,
    ) -> StoreFuture<Option<u64>> {
        let account = owner.clone();
        self.engine.read(owner, async move |engine, deadline| {
            let reader = Reader::new(&engine, deadline, &account).await?;
            reader::count(&reader, &filter, most).await
        })
    }

    fn archive_known(&self, owner: &Jid, ids: Vec<ArchiveId>) -> StoreFuture<Vec<ArchiveId>> {
        let account = owner.clone();
        self.engine.read(owner, async move |engine, deadline| {
            let reader = Reader::new(&engine, deadline, &account).await?;
            reader::known(&reader, ids).await
        })
    }

    fn archive_ends(&self, owner: &Jid) -> StoreFuture<Option<ArchiveEnds>> {
        let account = owner.clone();
        self.engine.read(owner, async move |engine, deadline| {
            let reader = Reader::new(&engine, deadline, &account).await?;
            reader::ends(&reader).await
        })
    }

    fn archive_collections(
        &self,
        owner: &Jid,
        filter: ArchiveFilter,
        limit: usize,
    ) -> StoreFuture<Vec<Collection>> {
        let account = owner.clone();
        let limit = limit.clamp(1, PAGE_MAX);
        self.engine.read(owner, async move |engine, deadline| {
            let reader = Reader::new(&engine, deadline, &account).await?;
            reader::collections(&reader, &filter, limit).await
        })
    }

    fn inbox_page(
        &self,
        owner: &Jid,
        filter: InboxFilter,
        slice: InboxSlice,
    ) -> StoreFuture<InboxPage> {
        let account = owner.clone();
        self.engine.read(owner, async move |engine, deadline| {
            inbox::page(&engine, deadline, &account, &filter, slice).await
        })
    }

    fn inbox_entry(&self, owner: &Jid, peer: &Jid) -> StoreFuture<Option<InboxEntry>> {
        let (account, peer) = (owner.clone(), peer.clone());
        self.engine.read(owner, async move |engine, deadline| {
            inbox::entry(&engine, deadline, &account, &peer).await
        })
    }

    fn close(&self) {
        self.engine.bounds.close();
        self.engine.servers.close_by(Instant::now() + CLOSE);
        if std::thread::current().id() == self.teller {
            // A `Done` that drops the last handle runs in the thread that everything waits for;
            // what was accepted is then committed behind its back.
            let (engine, running) = (Arc::clone(&self.engine), self.running.lock().take());
            if let Some(running) = running {
                // Without a thread, the runtime ends with what it has not done.
                let _ = std::thread::Builder::new()
                    .name("store-close".to_owned())
                    .spawn(move || end(&engine, running));
            }
            return;
        }
        self.engine.bounds.wait_idle();
        let mut running = self.running.lock();
        if let Some(running) = running.take() {
            end(&self.engine, running);
        }
    }
}

/// Names this run of a process.
fn run() -> uuid::Uuid {
    let random = RandomState::new();
    uuid::Uuid::from_u64_pair(random.hash_one(0), random.hash_one(1))
}

/// Waits for what was accepted and ends the threads.
fn end(engine: &Arc<Engine>, running: Running) {
    engine.bounds.wait_idle();
    let (finished, finish) = channel();
    let task = keeper::finish(Arc::clone(engine), Instant::now() + CLOSE);
    running.runtime.spawn(async move {
        // What fails is counted again by the next process. Nobody waits for longer than that.
        let _ = finished.send(task.await.is_ok());
    });
    let _ = finish.recv();
    // Fails when the thread has ended by itself.
    let _ = engine.tell.send(Message::End);
    let _ = running.teller.join();
    // Not by dropping it: that would block, which a runtime's thread must not.
    running.runtime.shutdown_background();
}

impl Drop for Cassandra {
    fn drop(&mut self) {
        self.close();
    }
}

/// Converts for Cassandra, whose integers are signed; what does not fit becomes the largest.
fn to_cql(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Converts from Cassandra; what was never written (a negative number) becomes 0.
fn from_cql(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

/// Where the index has a localpart.
fn bucket(local: &str) -> i16 {
    // The remainder fits.
    (xxhash_rust::xxh3::xxh3_64(local.as_bytes()) % BUCKETS as u64) as i16
}

/// How the kinds of the generic map are written.
fn kind_number(kind: MapKind) -> i8 {
    match kind {
        MapKind::Private => 1,
        MapKind::Vcard => 2,
        MapKind::Feature => 3,
    }
}
