//! The embedded engine: one SQLite file, one writer with group commit, a few readers.
//!
//! All writes go through one thread. A commit starts when the last one ends, with all that has
//! gathered meanwhile, so the disk's own pace sets the size of a group and no timer delays anybody.
//! Reads run on connections of their own, which in WAL mode neither wait for the writer nor hold
//! it up.

mod apply;
pub(crate) mod archive;
mod archive_query;
mod checkpoint;
pub(crate) mod content;
mod edit;
mod error;
mod inbox;
mod inbox_query;
mod migrate;
mod open;
mod purge;
mod query;
mod queue;
mod reader;
mod search;
mod writer;

pub use error::OpenError;
pub use purge::Retention;

use antiphon_routing::archive::{
    ArchiveEnds, ArchiveFilter, ArchiveId, ArchivePage, Collection, InboxEntry, InboxFilter,
    InboxPage, InboxSlice,
};
use antiphon_routing::store::{
    AccountSummary, Done, MapKind, OfflineRecord, PAGE_MAX, Store, StoreFuture, UserRecord, Write,
};
use antiphon_xmpp::Jid;
use antiphon_xmpp::sasl::Credentials;
use checkpoint::Checkpoint;
use parking_lot::Mutex;
use queue::WriteQueue;
use reader::{ReadPool, Watermark};
use rusqlite::Connection;
use search::SearchQueue;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{JoinHandle, ThreadId};
use std::time::{SystemTime, UNIX_EPOCH};

/// A clock: milliseconds since 1970.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// What an engine needs to know.
#[derive(Clone)]
pub struct SqliteConfig {
    /// The data directory; made if it is missing. The files in it are `antiphon.db` and the index
    /// of texts, `search.db`, which is made anew when it is missing.
    pub path: PathBuf,
    /// Writes that may wait for the writer, and reads that may wait for a reader; above: `Busy`.
    pub queue: usize,
    /// Memory of the writes that may wait, bytes; above: `Busy`. One larger write passes when
    /// nothing else waits.
    pub queue_bytes: usize,
    /// Threads that read, each with its own connection; at least 1.
    pub readers: usize,
    /// What archives keep.
    pub retention: Retention,
    /// When accounts are created and how old messages are.
    pub clock: Clock,
}

impl SqliteConfig {
    /// The defaults of a node for this data directory, with the system's clock.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            queue: 16_384,
            queue_bytes: 64 * 1024 * 1024,
            readers: 2,
            retention: Retention::default(),
            clock: Arc::new(system_ms),
        }
    }
}

impl std::fmt::Debug for SqliteConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqliteConfig")
            .field("path", &self.path)
            .field("queue", &self.queue)
            .field("queue_bytes", &self.queue_bytes)
            .field("readers", &self.readers)
            .field("retention", &self.retention)
            .finish_non_exhaustive()
    }
}

/// The system's clock.
pub(crate) fn system_clock() -> Clock {
    Arc::new(system_ms)
}

/// Milliseconds since 1970; 0 before.
fn system_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Counters since the start, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Writes that wait for the writer now.
    pub queued: u64,
    /// Their memory, bytes.
    pub queued_bytes: u64,
    /// Groups committed.
    pub commits: u64,
    /// Writes committed.
    pub committed: u64,
    /// Writes refused by what is stored (`NoAccount`, `Exists`, `Full`).
    pub refused: u64,
    /// Writes that the engine failed (`Engine`, and `Busy` while another program holds the file).
    pub failed: u64,
    /// Time spent in groups, from their first statement to the end of their commit, µs.
    pub commit_us: u64,
    /// Commits that the index of texts does not have yet.
    pub search_behind: u64,
    /// The age of the oldest of them, µs.
    pub search_lag_us: u64,
    /// Whether the index is being made anew.
    pub is_search_rebuilding: bool,
    /// Errors of the index, and of work in the background; both try again.
    pub background_errors: u64,
}

/// The counters behind [`Stats`], moved by the writer.
#[derive(Debug, Default)]
struct Counters {
    commits: AtomicU64,
    committed: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
    commit_us: AtomicU64,
    failed_slices: AtomicU64,
}

/// The running threads. Taken apart by the first `close`.
#[derive(Debug, Default)]
struct Threads {
    /// Ends with its connection and the directory's lock: the directory is ours until the last
    /// commit, whoever waits for it. The system drops the lock when the process dies.
    writer: Option<JoinHandle<(Connection, File)>>,
    readers: Vec<JoinHandle<()>>,
    indexer: Option<JoinHandle<()>>,
    copier: Option<JoinHandle<()>>,
}

/// The embedded storage engine. Dropping it closes it.
#[derive(Debug)]
pub struct Sqlite {
    queue: Arc<WriteQueue>,
    reads: Arc<ReadPool>,
    counters: Arc<Counters>,
    search: Arc<SearchQueue>,
    checkpoint: Arc<Checkpoint>,
    /// See [`archive_query::state`].
    unclean: Option<i64>,
    threads: Mutex<Threads>,
    writer_thread: ThreadId,
    /// Removed on drop.
    temporary: Option<PathBuf>,
}

impl Sqlite {
    /// Opens the store of a data directory, making or migrating it as needed. One process, one
    /// engine a directory: a second one is refused.
    ///
    /// Blocks until the store is ready (with a large file and a new migration: a while).
    ///
    /// # Errors
    /// [`OpenError`]: one line for the operator, with the file and what to do.
    pub fn open(config: SqliteConfig) -> Result<Self, OpenError> {
        open::open(config, None)
    }

    /// A store in a fresh directory of the system's temporary folder, removed on drop: for tests.
    /// It is the same in all else, down to syncing every commit.
    ///
    /// # Errors
    /// As [`Sqlite::open`].
    pub fn open_temporary() -> Result<Self, OpenError> {
        let path = open::temporary_directory()?;
        open::open(SqliteConfig::new(&path), Some(path))
    }

    /// What happened since the start.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let (queued, queued_bytes) = self.queue.waiting();
        let c = &self.counters;
        let lag = self.search.lag();
        Stats {
            queued,
            queued_bytes,
            commits: c.commits.load(Ordering::Relaxed),
            committed: c.committed.load(Ordering::Relaxed),
            refused: c.refused.load(Ordering::Relaxed),
            failed: c.failed.load(Ordering::Relaxed),
            commit_us: c.commit_us.load(Ordering::Relaxed),
            search_behind: lag.commits,
            search_lag_us: u64::try_from(lag.age.as_micros()).unwrap_or(u64::MAX),
            is_search_rebuilding: lag.is_rebuilding,
            background_errors: lag.errors + c.failed_slices.load(Ordering::Relaxed),
        }
    }

    /// Runs a query behind all writes about one owner.
    fn read<T: Send + 'static>(
        &self,
        owner: &Jid,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> StoreFuture<T> {
        self.reads.run(self.queue.last_about(owner), query)
    }
}

impl Store for Sqlite {
    fn write(&self, write: Write, done: Done) {
        self.queue.push(write, done);
    }

    fn user(&self, jid: &Jid) -> StoreFuture<Option<UserRecord>> {
        let (account, unclean) = (jid.clone(), self.unclean);
        self.read(jid, move |db| query::user(db, &account, unclean))
    }

    fn user_of_dead(&self, jid: &Jid) -> StoreFuture<Option<UserRecord>> {
        let account = jid.clone();
        self.read(jid, move |db| query::user(db, &account, Some(i64::MAX)))
    }

    fn credentials(&self, jid: &Jid) -> StoreFuture<Option<Credentials>> {
        let account = jid.clone();
        self.read(jid, move |db| query::credentials(db, &account))
    }

    fn accounts(
        &self,
        domain: &str,
        after: Option<&str>,
        limit: usize,
    ) -> StoreFuture<Vec<AccountSummary>> {
        let (domain, after) = (domain.to_owned(), after.unwrap_or_default().to_owned());
        let limit = limit.clamp(1, PAGE_MAX);
        let behind: Watermark = self.queue.last();
        self.reads.run(behind, move |db| {
            query::accounts(db, &domain, &after, limit)
        })
    }

    fn account_count(&self, domain: &str) -> StoreFuture<u64> {
        let domain = domain.to_owned();
        self.reads.run(self.queue.last(), move |db| {
            query::account_count(db, &domain)
        })
    }

    fn offline(&self, owner: &Jid, after: u64, limit: usize) -> StoreFuture<Vec<OfflineRecord>> {
        let account = owner.clone();
        let limit = limit.clamp(1, PAGE_MAX);
        self.read(owner, move |db| query::offline(db, &account, after, limit))
    }

    fn map_get(&self, owner: &Jid, kind: MapKind, key: &str) -> StoreFuture<Option<Box<[u8]>>> {
        let (account, key) = (owner.clone(), key.to_owned());
        self.read(owner, move |db| query::map_get(db, &account, kind, &key))
    }

    fn map_keys(&self, owner: &Jid, kind: MapKind, prefix: &str) -> StoreFuture<Vec<String>> {
        let (account, prefix) = (owner.clone(), prefix.to_owned());
        self.read(owner, move |db| {
            query::map_keys(db, &account, kind, &prefix)
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
        let is_search = filter.text.is_some();
        let query =
            move |db: &Connection| archive_query::page(db, &account, &filter, is_from_end, limit);
        if !is_search {
            return self.read(owner, query);
        }
        // First the owner's writes, then the index, which is told of them by their commit.
        let token = search::token(owner.bare_str());
        let committed = self.read(owner, |_| Ok(()));
        let (reads, search) = (Arc::clone(&self.reads), Arc::clone(&self.search));
        Box::pin(async move {
            committed.await?;
            // Without an answer the index is closing; the page says what it lacks.
            let _ = search.flush(token).await;
            reads.run(0, query).await
        })
    }

    fn archive_count(
        &self,
        owner: &Jid,
        filter: ArchiveFilter,
        most: u64,
    ) -> StoreFuture<Option<u64>> {
        let account = owner.clone();
        self.read(owner, move |db| {
            archive_query::count(db, &account, &filter, most)
        })
    }

    fn archive_known(&self, owner: &Jid, ids: Vec<ArchiveId>) -> StoreFuture<Vec<ArchiveId>> {
        let account = owner.clone();
        self.read(owner, move |db| archive_query::known(db, &account, ids))
    }

    fn archive_ends(&self, owner: &Jid) -> StoreFuture<Option<ArchiveEnds>> {
        let account = owner.clone();
        self.read(owner, move |db| archive_query::ends(db, &account))
    }

    fn archive_collections(
        &self,
        owner: &Jid,
        filter: ArchiveFilter,
        limit: usize,
    ) -> StoreFuture<Vec<Collection>> {
        let account = owner.clone();
        let limit = limit.clamp(1, PAGE_MAX);
        self.read(owner, move |db| {
            archive_query::collections(db, &account, &filter, limit)
        })
    }

    fn inbox_page(
        &self,
        owner: &Jid,
        filter: InboxFilter,
        slice: InboxSlice,
    ) -> StoreFuture<InboxPage> {
        let account = owner.clone();
        let limit = slice.limit.min(PAGE_MAX);
        self.read(owner, move |db| {
            inbox_query::page(db, &account, &filter, slice, limit)
        })
    }

    fn inbox_entry(&self, owner: &Jid, peer: &Jid) -> StoreFuture<Option<InboxEntry>> {
        let (account, peer) = (owner.clone(), peer.clone());
        self.read(owner, move |db| inbox_query::entry(db, &account, &peer))
    }

    fn close(&self) {
        self.queue.close();
        self.reads.close();
        // A `Done` that drops the last handle runs in the writer, which cannot wait for itself:
        // the threads then end on their own.
        if std::thread::current().id() == self.writer_thread {
            self.search.close();
            self.checkpoint.close();
            return;
        }
        let mut threads = self.threads.lock();
        // The writer's connection outlives the readers, so that its end, the last, folds the
        // write-ahead log into the file; then the lock goes.
        let ended = threads.writer.take().and_then(|writer| writer.join().ok());
        for reader in threads.readers.drain(..) {
            // A reader that panicked has nothing left to wait for.
            let _ = reader.join();
        }
        // After those who may wait for it. What it has not written it finds in its log.
        self.search.close();
        if let Some(indexer) = threads.indexer.take() {
            let _ = indexer.join();
        }
        self.checkpoint.close();
        if let Some(copier) = threads.copier.take() {
            let _ = copier.join();
        }
        drop(ended);
    }
}

impl Drop for Sqlite {
    fn drop(&mut self) {
        self.close();
        if let Some(path) = &self.temporary {
            // What cannot be removed is the system's to clean up.
            let _ = std::fs::remove_dir_all(path);
        }
    }
}

/// Converts for SQLite, whose integers are signed; what does not fit becomes the largest.
fn to_sql(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Converts from SQLite; what was never written (a negative number) becomes 0.
fn from_sql(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

/// The localpart in the column, where a domain's row has an empty one.
fn localpart(jid: &Jid) -> &str {
    jid.local().unwrap_or_default()
}

/// How the kinds of the generic map are written.
fn kind_number(kind: MapKind) -> i64 {
    match kind {
        MapKind::Private => 1,
        MapKind::Vcard => 2,
        MapKind::Feature => 3,
    }
}
