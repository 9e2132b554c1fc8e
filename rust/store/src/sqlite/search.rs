//! The index of all texts: SQLite's FTS5 in a file of its own, written behind the commits.
//!
//! A document is a message's text with the two addresses as tokens, so the intersection of an
//! owner (or a conversation) with the words is done inside the index. It does not say who archived
//! the message: whoever searches looks up his own archive for each document. So a message that two
//! archives have under one id is one document, and nothing changes in it when the second one comes
//! or goes.
//!
//! The file may be lost or behind at any time: what it lacks stands in `search_log` until the
//! index has it on the disk, and a missing or foreign file is made anew from the archive.

use super::archive::is_searchable;
use super::content::{Sides, unpack};
use super::error::OpenError;
use crate::stanza::bodies;
use antiphon_routing::archive::Flags;
use antiphon_text::{TOKENIZER_VERSION, fts5};
use futures_channel::oneshot;
use parking_lot::{Condvar, Mutex};
use rusqlite::{Connection, OpenFlags, OptionalExtension};
use std::collections::{HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use xxhash_rust::xxh3::xxh3_64;

/// The index's name in the data directory.
pub(super) const FILE: &str = "search.db";

/// Changes in one commit of the index; more would make a search that waits for them wait longer.
const BATCH: usize = 4000;

/// How long changes gather before they are written. Each commit of FTS5 is a segment to be merged
/// later, so fewer are cheaper; and both archives' copies of a message come together.
const GATHER: Duration = Duration::from_millis(250);

/// Bytes of stanzas that wait in memory for the index; what is beyond is read from the file.
const QUEUE_BYTES: usize = 16 * 1024 * 1024;

/// Rows of archives that are indexed at a time when the index is made anew.
const REBUILD: i64 = 2000;

/// How long the thread waits after an error of the index before it tries again.
const RETRY: Duration = Duration::from_secs(5);

/// Memory for the words of one commit, bytes.
const HASH_BYTES: i64 = 16 * 1024 * 1024;

/// Added to an address's token in notes to oneself, so that they can be asked for.
const SELF: u64 = 1 << 40;

/// What happens to a document.
#[derive(Debug, Clone)]
pub(super) enum IndexChange {
    /// It is indexed, in place of what it was.
    Add {
        /// Its number.
        document: i64,
        /// Where its stanza is.
        key: i64,
        /// Its addresses, see [`tokens`].
        tokens: [u64; 2],
        /// The stanza, while it is at hand.
        stanza: Option<Arc<[u8]>>,
    },
    /// It is gone.
    Remove {
        /// Its number.
        document: i64,
    },
}

/// Bytes of an entry of `search_log`.
const ENTRY: usize = 32;

impl IndexChange {
    fn bytes(&self) -> usize {
        let stanza = match self {
            Self::Add { stanza, .. } => stanza.as_ref().map_or(0, |stanza| stanza.len()),
            Self::Remove { .. } => 0,
        };
        size_of::<Self>() + stanza
    }

    /// The addresses of an added document.
    fn tokens(&self) -> impl Iterator<Item = u64> {
        let tokens = match self {
            Self::Add { tokens, .. } => Some(*tokens),
            Self::Remove { .. } => None,
        };
        tokens.into_iter().flatten()
    }

    fn write(&self, out: &mut Vec<u8>) {
        let words = match self {
            Self::Add {
                document,
                key,
                tokens,
                ..
            } => [
                document.cast_unsigned(),
                key.cast_unsigned(),
                tokens[0],
                tokens[1],
            ],
            Self::Remove { document } => [document.cast_unsigned(), 0, u64::MAX, u64::MAX],
        };
        for word in words {
            out.extend_from_slice(&word.to_le_bytes());
        }
    }

    fn read(entry: &[u8]) -> Self {
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&entry[at * 8..at * 8 + 8]);
            u64::from_le_bytes(word)
        };
        let document = word(0).cast_signed();
        if word(2) == u64::MAX {
            return Self::Remove { document };
        }
        Self::Add {
            document,
            key: word(1).cast_signed(),
            tokens: [word(2), word(3)],
            stanza: None,
        }
    }
}

/// The row of `search_log` for these changes.
pub(super) fn log_row(changes: &[IndexChange]) -> Vec<u8> {
    let mut out = Vec::with_capacity(changes.len() * ENTRY);
    for change in changes {
        change.write(&mut out);
    }
    out
}

/// Whether a row of `search_log` has a change of a document with this token.
pub(super) fn concerns(row: &[u8], token: u64) -> bool {
    row.chunks_exact(ENTRY)
        .any(|entry| match IndexChange::read(entry) {
            IndexChange::Add { tokens, .. } => tokens.contains(&token),
            IndexChange::Remove { .. } => false,
        })
}

/// The number that stands for a bare JID in documents. Two that share one are told apart later,
/// when the message is looked up in the archive.
pub(super) fn token(jid: &str) -> u64 {
    xxh3_64(jid.as_bytes()) & (SELF - 1)
}

/// The tokens of a message between these two.
pub(super) fn tokens(sender: &str, receiver: &str) -> [u64; 2] {
    let (sender, receiver) = (token(sender), token(receiver));
    if sender == receiver {
        [sender, sender | SELF]
    } else {
        [sender, receiver]
    }
}

/// Changes on their way into the index.
struct Batch {
    /// The first row of `search_log`.
    first: i64,
    /// The last row: the same if `changes` is there.
    last: i64,
    /// Those of one commit; `None`: they are to be read from the log.
    changes: Option<Vec<IndexChange>>,
    since: Instant,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Batch>,
    bytes: usize,
    /// Addresses in what is being written now.
    writing: HashSet<u64>,
    flushes: Vec<oneshot::Sender<()>>,
    is_closed: bool,
}

/// The changes that wait, between the writer, the index's thread and those who search.
#[derive(Default)]
pub(super) struct SearchQueue {
    state: Mutex<State>,
    ready: Condvar,
    /// The index has everything up to this row of `search_log` on the disk.
    indexed: AtomicI64,
    /// It is being made anew.
    is_rebuilding: AtomicBool,
    /// Errors since the start.
    errors: AtomicU64,
}

impl std::fmt::Debug for SearchQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SearchQueue").finish_non_exhaustive()
    }
}

/// How far the index is behind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Lag {
    /// Commits that it does not have yet.
    pub(super) commits: u64,
    /// The age of the oldest of them.
    pub(super) age: Duration,
    /// Whether it is being made anew.
    pub(super) is_rebuilding: bool,
    /// Errors since the start.
    pub(super) errors: u64,
}

impl SearchQueue {
    /// A commit's changes.
    pub(super) fn push(&self, seq: i64, changes: Vec<IndexChange>) {
        let bytes = changes.iter().map(IndexChange::bytes).sum::<usize>();
        let mut state = self.state.lock();
        // Behind what is to be read from the log, only the log is in order.
        let is_logged = state.waiting.back().is_some_and(|b| b.changes.is_none());
        let changes = (!is_logged && state.bytes + bytes <= QUEUE_BYTES).then_some(changes);
        match state.waiting.back_mut() {
            Some(back) if is_logged => back.last = seq,
            _ => {
                state.bytes += changes
                    .iter()
                    .flatten()
                    .map(IndexChange::bytes)
                    .sum::<usize>();
                state.waiting.push_back(Batch {
                    first: seq,
                    last: seq,
                    changes,
                    since: Instant::now(),
                });
            }
        }
        self.ready.notify_one();
    }

    /// The last row of `search_log` that is no longer needed.
    pub(super) fn indexed(&self) -> i64 {
        self.indexed.load(Ordering::Acquire)
    }

    /// Done when the index has what is waiting now about this address (its [`token`]), or as much
    /// as it takes at a time. Who writes and who searches are mostly different people: most need
    /// not wait.
    pub(super) fn flush(&self, token: u64) -> oneshot::Receiver<()> {
        let (done, receiver) = oneshot::channel();
        let mut state = self.state.lock();
        let is_waiting = state.waiting.iter().any(|batch| batch.concerns(token));
        let is_behind = is_waiting || state.writing.contains(&token);
        if !is_behind || state.is_closed {
            // Nobody can have dropped the receiver yet.
            let _ = done.send(());
        } else {
            state.flushes.push(done);
            self.ready.notify_one();
        }
        receiver
    }

    /// How far it is behind.
    pub(super) fn lag(&self) -> Lag {
        let state = self.state.lock();
        Lag {
            commits: state
                .waiting
                .iter()
                .map(|batch| (batch.last - batch.first).unsigned_abs() + 1)
                .sum(),
            age: state
                .waiting
                .front()
                .map_or(Duration::ZERO, |batch| batch.since.elapsed()),
            is_rebuilding: self.is_rebuilding.load(Ordering::Relaxed),
            errors: self.errors.load(Ordering::Relaxed),
        }
    }

    /// The thread ends after what it is doing; the rest stays in `search_log`.
    pub(super) fn close(&self) {
        self.state.lock().is_closed = true;
        self.ready.notify_all();
    }

    /// Waits until there is something to write and it has gathered; `None`: the end.
    fn take(&self, idle: Option<Duration>) -> Option<Taken> {
        let mut state = self.state.lock();
        loop {
            if state.is_closed {
                return None;
            }
            if state.waiting.is_empty() {
                // They came while what they wait for was being written: now it is.
                for flush in std::mem::take(&mut state.flushes) {
                    // Who does not wait any more is not told.
                    let _ = flush.send(());
                }
            }
            let is_due = !state.flushes.is_empty()
                || state.waiting.iter().map(Batch::len).sum::<usize>() >= BATCH;
            let age = state.waiting.front().map(|batch| batch.since.elapsed());
            match (age, idle) {
                (Some(age), _) if is_due || age >= GATHER => break,
                (Some(age), _) => {
                    self.ready.wait_for(&mut state, GATHER - age);
                }
                (None, Some(idle)) => {
                    if self.ready.wait_for(&mut state, idle).timed_out() {
                        break;
                    }
                }
                (None, None) => self.ready.wait(&mut state),
            }
        }
        let mut taken = Taken {
            batches: Vec::new(),
            flushes: std::mem::take(&mut state.flushes),
        };
        let mut changes = 0;
        state.writing.clear();
        while let Some(next) = state.waiting.front() {
            // What is to be read from the log goes alone: it may take several commits.
            let is_alone = next.changes.is_none() || changes + next.len() > BATCH;
            if changes > 0 && is_alone {
                break;
            }
            changes += next.len();
            let Some(next) = state.waiting.pop_front() else {
                break;
            };
            let held = next.changes.iter().flatten();
            state.bytes -= held.clone().map(IndexChange::bytes).sum::<usize>();
            state.writing.extend(held.flat_map(IndexChange::tokens));
            let is_logged = next.changes.is_none();
            taken.batches.push(next);
            if is_logged {
                break;
            }
        }
        Some(taken)
    }

    /// Nothing is being written now; what is above `done` goes back, to be read from the log.
    fn written(&self, batches: &[Batch], done: i64) {
        self.state.lock().writing.clear();
        let (Some(first), Some(last)) = (batches.first(), batches.last()) else {
            return;
        };
        if last.last > done {
            self.state.lock().waiting.push_front(Batch {
                first: first.first.max(done + 1),
                last: last.last,
                changes: None,
                since: first.since,
            });
        }
    }
}

impl Batch {
    /// Whether something of this address is, or may be, in it.
    fn concerns(&self, token: u64) -> bool {
        match &self.changes {
            Some(changes) => changes
                .iter()
                .any(|change| change.tokens().any(|other| other == token)),
            None => true,
        }
    }

    fn len(&self) -> usize {
        self.changes.as_ref().map_or(BATCH, Vec::len)
    }
}

struct Taken {
    batches: Vec<Batch>,
    flushes: Vec<oneshot::Sender<()>>,
}

/// The index's thread: its own connection to each file.
pub(super) struct Indexer {
    main: Connection,
    index: Connection,
    queue: Arc<SearchQueue>,
    /// The next row of an archive, while the index is made anew.
    rebuild: Option<(i64, i64)>,
}

/// Opens the index, making it anew if it is missing, foreign or of another tokenizer, and reads
/// what the log has for it. `main` only reads.
///
/// # Errors
/// As [`super::Sqlite::open`].
pub(super) fn open(
    path: &Path,
    main: Connection,
    queue: Arc<SearchQueue>,
    create: impl Fn(&Path) -> Result<(), OpenError>,
) -> Result<Indexer, OpenError> {
    let failed = |error: rusqlite::Error| super::migrate::open_error(&error, path);
    create(path)?;
    let index = match prepare(path) {
        Ok(index) => index,
        // It holds nothing that the archive does not have.
        Err(_) => {
            for end in ["", "-wal", "-shm"] {
                let mut name = path.as_os_str().to_owned();
                name.push(end);
                // What is not there need not go; what cannot go fails below.
                let _ = std::fs::remove_file(PathBuf::from(name));
            }
            create(path)?;
            prepare(path).map_err(failed)?
        }
    };
    let indexer = Indexer {
        rebuild: restore(&main, &index, &queue).map_err(failed)?,
        main,
        index,
        queue,
    };
    Ok(indexer)
}

fn prepare(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags)?;
    db.busy_timeout(Duration::from_secs(2))?;
    db.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()))?;
    // FULL: the log is cut behind what the index says that it has.
    db.pragma_update(None, "synchronous", "full")?;
    db.pragma_update(None, "cache_size", -8 * 1024)?;
    db.set_prepared_statement_cache_capacity(16);
    db.execute_batch(
        "BEGIN IMMEDIATE;
         CREATE VIRTUAL TABLE IF NOT EXISTS body USING fts5
             (text, content = '', contentless_delete = 1, detail = none, tokenize = 'ascii');
         CREATE TABLE IF NOT EXISTS state (name TEXT PRIMARY KEY, value INTEGER NOT NULL)
             STRICT, WITHOUT ROWID;
         COMMIT;",
    )?;
    db.execute(
        "INSERT INTO body (body, rank) VALUES ('hashsize', ?1)",
        [HASH_BYTES],
    )?;
    Ok(db)
}

/// Compares the index with the archive's file; where its remaking stands, if it is remade.
fn restore(
    main: &Connection,
    index: &Connection,
    queue: &SearchQueue,
) -> rusqlite::Result<Option<(i64, i64)>> {
    let value = |name: &str| -> rusqlite::Result<Option<i64>> {
        index
            .prepare_cached("SELECT value FROM state WHERE name = ?1")?
            .query_row([name], |row| row.get(0))
            .optional()
    };
    let archive: i64 = main
        .query_row(
            "SELECT next FROM counter WHERE name = 'search'",
            [],
            |row| row.get(0),
        )
        .optional()?
        .unwrap_or(0);
    let written: i64 =
        main.query_row("SELECT COALESCE(MAX(seq), 0) FROM search_log", [], |row| {
            row.get(0)
        })?;
    let version = i64::from(TOKENIZER_VERSION);
    let indexed = value("indexed")?.unwrap_or(0);
    let is_ours = value("archive")? == Some(archive)
        && value("tokenizer")? == Some(version)
        && indexed <= written;
    if !is_ours {
        let change = index.unchecked_transaction()?;
        change
            .execute_batch("INSERT INTO body (body) VALUES ('delete-all'); DELETE FROM state;")?;
        for (name, value) in [
            ("archive", archive),
            ("tokenizer", version),
            ("indexed", written),
            ("rebuild_owner", 0),
            ("rebuild_id", 0),
        ] {
            change.execute("INSERT INTO state VALUES (?1, ?2)", (name, value))?;
        }
        change.commit()?;
    }
    let indexed = value("indexed")?.unwrap_or(0);
    queue.indexed.store(indexed, Ordering::Release);
    if indexed < written {
        queue.state.lock().waiting.push_back(Batch {
            first: indexed + 1,
            last: written,
            changes: None,
            since: Instant::now(),
        });
    }
    let rebuild = value("rebuild_owner")?.zip(value("rebuild_id")?);
    queue
        .is_rebuilding
        .store(rebuild.is_some(), Ordering::Relaxed);
    Ok(rebuild)
}

impl Indexer {
    /// Writes what the queue brings until it is closed.
    pub(super) fn serve(mut self) {
        let mut is_failing = false;
        loop {
            let idle = match (is_failing, self.rebuild.is_some()) {
                (true, _) => Some(RETRY),
                (false, true) => Some(Duration::ZERO),
                (false, false) => None,
            };
            let Some(taken) = self.queue.take(idle) else {
                return;
            };
            let result = self.index(&taken.batches);
            is_failing = result.is_err();
            if is_failing {
                self.queue.errors.fetch_add(1, Ordering::Relaxed);
                if !self.index.is_autocommit() {
                    // The next BEGIN would meet what is open.
                    let _ = self.index.execute_batch("ROLLBACK");
                }
            }
            let done = self.queue.indexed();
            self.queue.written(&taken.batches, done);
            for flush in taken.flushes {
                // Who does not wait any more is not told.
                let _ = flush.send(());
            }
            if is_failing && self.is_closed_within(RETRY) {
                return;
            }
        }
    }

    /// Waits; whether the end came meanwhile.
    fn is_closed_within(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        let mut state = self.queue.state.lock();
        while !state.is_closed && Instant::now() < until {
            self.queue.ready.wait_until(&mut state, until);
            // A search that waits is answered from what there is.
            for flush in std::mem::take(&mut state.flushes) {
                let _ = flush.send(());
            }
        }
        state.is_closed
    }

    /// Writes batches, or of what is to be read from the log as much as one commit takes.
    fn index(&mut self, batches: &[Batch]) -> rusqlite::Result<()> {
        self.index.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        let mut done = None;
        for batch in batches {
            done = Some(match &batch.changes {
                Some(changes) => {
                    self.changes(changes)?;
                    batch.last
                }
                None => self.logged(batch)?,
            });
        }
        match done {
            Some(done) => self.set("indexed", done)?,
            None => self.rebuild_slice()?,
        }
        self.index.prepare_cached("COMMIT")?.execute([])?;
        if let Some(done) = done {
            self.queue.indexed.store(done, Ordering::Release);
        }
        Ok(())
    }

    /// Writes the first of what the log says between two rows; the last one that is done.
    fn logged(&self, batch: &Batch) -> rusqlite::Result<i64> {
        let mut statement = self.main.prepare_cached(
            "SELECT seq, entries FROM search_log WHERE seq BETWEEN ?1 AND ?2 ORDER BY seq",
        )?;
        let mut rows = statement.query((batch.first, batch.last))?;
        let mut count = 0;
        while let Some(row) = rows.next()? {
            let entries = row.get_ref(1)?.as_blob().unwrap_or_default();
            let changes: Vec<_> = entries.chunks_exact(ENTRY).map(IndexChange::read).collect();
            self.changes(&changes)?;
            count += changes.len();
            if count >= BATCH {
                return row.get(0);
            }
        }
        Ok(batch.last)
    }

    fn changes(&self, changes: &[IndexChange]) -> rusqlite::Result<()> {
        for change in changes {
            match change {
                IndexChange::Add {
                    document,
                    key,
                    tokens,
                    stanza,
                } => {
                    let text = match stanza {
                        Some(stanza) => bodies(stanza),
                        None => self.text(*key)?,
                    };
                    self.add(*document, *tokens, &text)?;
                }
                IndexChange::Remove { document } => self.remove(*document)?,
            }
        }
        Ok(())
    }

    /// The text under a key; empty if it has gone meanwhile.
    fn text(&self, key: i64) -> rusqlite::Result<String> {
        let stored: Option<Vec<u8>> = self
            .main
            .prepare_cached("SELECT stanza FROM message WHERE key = ?1")?
            .query_row([key], |row| row.get(0))
            .optional()?;
        // The addresses are not part of the text.
        let sides = Sides {
            sender: "a.invalid",
            receiver: "b.invalid",
        };
        let stanza = stored.and_then(|stored| unpack(&stored, sides).ok());
        Ok(stanza.map_or_else(String::new, |stanza| bodies(&stanza)))
    }

    fn add(&self, document: i64, tokens: [u64; 2], text: &str) -> rusqlite::Result<()> {
        self.index
            .prepare_cached("INSERT OR REPLACE INTO body (rowid, text) VALUES (?1, ?2)")?
            .execute((document, fts5::document(text, &tokens)))
            .map(drop)
    }

    fn remove(&self, document: i64) -> rusqlite::Result<()> {
        self.index
            .prepare_cached("DELETE FROM body WHERE rowid = ?1")?
            .execute([document])
            .map(drop)
    }

    fn set(&self, name: &str, value: i64) -> rusqlite::Result<()> {
        self.index
            .prepare_cached(
                "INSERT INTO state VALUES (?1, ?2) ON CONFLICT DO UPDATE SET value = ?2",
            )?
            .execute((name, value))
            .map(drop)
    }

    /// Indexes the next rows of the archives, in the order of owners.
    fn rebuild_slice(&mut self) -> rusqlite::Result<()> {
        let Some((owner, id)) = self.rebuild else {
            return Ok(());
        };
        let mut statement = self.main.prepare_cached(
            "SELECT a.owner, a.id, a.flags, COALESCE(a.content, a.uid, a.id), a.content,
                    o.localpart || '@' || o.domain, c.jid
             FROM archive AS a
             LEFT JOIN owner AS o ON o.id = a.owner
             LEFT JOIN conversation AS c ON c.id = a.conversation
             WHERE (a.owner, a.id) > (?1, ?2) ORDER BY a.owner, a.id LIMIT ?3",
        )?;
        let mut rows = statement.query((owner, id, REBUILD))?;
        let (mut count, mut last) = (0, (owner, id));
        while let Some(row) = rows.next()? {
            count += 1;
            last = (row.get(0)?, row.get(1)?);
            let flags = Flags(row.get(2)?);
            let address: Option<String> = row.get(5)?;
            let peer: Option<String> = row.get(6)?;
            let (Some(address), Some(peer)) = (address, peer) else {
                continue;
            };
            if is_searchable(flags) {
                let document = row.get::<_, Option<i64>>(4)?.unwrap_or(last.1);
                let text = self.text(row.get(3)?)?;
                self.add(document, tokens(&address, &peer), &text)?;
            }
        }
        drop(rows);
        drop(statement);
        if count == REBUILD {
            self.set("rebuild_owner", last.0)?;
            self.set("rebuild_id", last.1)?;
            self.rebuild = Some(last);
        } else {
            self.index
                .execute("DELETE FROM state WHERE name LIKE 'rebuild%'", [])?;
            self.rebuild = None;
            self.queue.is_rebuilding.store(false, Ordering::Relaxed);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(from: &str, to: &str) -> IndexChange {
        IndexChange::Add {
            document: -3,
            key: i64::MAX,
            tokens: tokens(from, to),
            stanza: None,
        }
    }

    #[test]
    fn changes_come_back_from_the_log_as_they_were() {
        let changes = [add("a@x", "a@x"), IndexChange::Remove { document: 1 << 60 }];
        let row = log_row(&changes);
        let back: Vec<_> = row.chunks_exact(ENTRY).map(IndexChange::read).collect();
        assert_eq!(format!("{back:?}"), format!("{changes:?}"));
        assert!(concerns(&row, token("a@x")) && !concerns(&row, token("b@x")));
    }

    #[test]
    fn who_asks_while_it_is_written_does_not_wait_for_the_next_change() {
        let queue = SearchQueue::default();
        queue.push(1, vec![add("a@x", "b@x")]);
        let mut first = queue.flush(token("a@x"));
        let taken = queue.take(None);
        let mut second = queue.flush(token("a@x"));
        assert_eq!(second.try_recv(), Ok(None));
        assert!(taken.is_some_and(|taken| {
            queue.written(&taken.batches, 1);
            taken.flushes.len() == 1
        }));
        assert!(first.try_recv().is_err());
        let idle = queue.take(Some(Duration::ZERO));
        assert!(idle.is_some_and(|taken| taken.batches.is_empty()));
        assert_eq!(second.try_recv(), Ok(Some(())));
    }

    #[test]
    fn only_who_is_concerned_waits_for_the_index() {
        let queue = SearchQueue::default();
        let is_done = |jid: &str| queue.flush(token(jid)).try_recv() == Ok(Some(()));
        assert!(is_done("a@x"));
        queue.push(1, vec![add("a@x", "b@x")]);
        assert!(is_done("c@x") && !is_done("a@x") && !is_done("b@x"));
        let taken = queue.take(None);
        assert!(taken.is_some_and(|taken| {
            assert!(is_done("c@x") && !is_done("b@x"));
            queue.written(&taken.batches, 1);
            true
        }));
        assert!(is_done("b@x"));
        // What is in the log alone may be anybody's.
        let all: Vec<_> = (0..=QUEUE_BYTES / size_of::<IndexChange>())
            .map(|_| add("a@x", "b@x"))
            .collect();
        queue.push(2, all);
        queue.push(3, vec![add("a@x", "b@x")]);
        assert!(!is_done("c@x"));
        assert_eq!(queue.lag().commits, 2);
    }
}
