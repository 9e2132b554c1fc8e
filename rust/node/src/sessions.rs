//! The sessions whose sockets are here, and those that can be resumed (XEP-0198).

use antiphon_net::session::Session;
use antiphon_routing::SessionId;
use antiphon_routing::user::NEW_KEEPSAKE;
use parking_lot::{Mutex, RwLock};
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

const LOCKS: usize = 64;
/// Ended sessions whose `h` is still known, for `<failed h=…/>`.
const REMEMBERED: usize = 10_000;

/// Names a resumable session.
pub type ResumeId = [u8; 16];

/// What lets a session be resumed.
#[derive(Debug, Clone)]
pub struct Resumable {
    /// Names it; on the wire as [`crate::gateway::hex`] writes it.
    pub id: ResumeId,
    /// Seconds it is kept for.
    pub seconds: u32,
}

#[derive(Debug)]
struct Entry {
    session: Arc<Session>,
    resumable: Option<Resumable>,
    /// When a session without connection ends, ms since 1970; 0 while it has one.
    ends_ms: u64,
    /// What the entity knows of it, for its next home; there while that is another node.
    keepsake: Option<Arc<[u8]>>,
    /// The last message that another node gave it, by its uid; 0: none.
    last: u64,
    /// The last offline message that it was given, by its id; 0: none.
    offline: u64,
}

/// By their numbers, which are of this process: no stranger chooses them.
type Numbered = hashbrown::HashMap<u64, Entry>;

/// All sessions of this process.
#[derive(Debug)]
pub struct Sessions {
    entries: Box<[RwLock<Numbered>]>,
    by_resume_id: Mutex<HashMap<ResumeId, u64>>,
    ended: Mutex<(HashMap<ResumeId, u32>, VecDeque<ResumeId>)>,
    next: AtomicU64,
    count: AtomicUsize,
}

impl Default for Sessions {
    fn default() -> Self {
        Self {
            entries: (0..LOCKS).map(|_| RwLock::default()).collect(),
            by_resume_id: Mutex::default(),
            ended: Mutex::default(),
            next: AtomicU64::new(1),
            count: AtomicUsize::new(0),
        }
    }
}

impl Sessions {
    fn slice(&self, number: u64) -> &RwLock<Numbered> {
        &self.entries[number as usize % LOCKS]
    }

    /// A number never used before.
    pub fn next_number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Enters a session.
    pub fn insert(&self, session: Arc<Session>) {
        let number = session.id.number;
        let entry = Entry {
            session,
            resumable: None,
            ends_ms: 0,
            keepsake: None,
            last: 0,
            offline: 0,
        };
        self.slice(number).write().insert(number, entry);
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    /// Finds one.
    #[must_use]
    pub fn get(&self, id: SessionId) -> Option<Arc<Session>> {
        self.slice(id.number)
            .read()
            .get(&id.number)
            .map(|e| Arc::clone(&e.session))
    }

    /// Notes what the entity of a session knows of it.
    pub fn keep(&self, number: u64, keepsake: Arc<[u8]>) {
        if let Some(entry) = self.slice(number).write().get_mut(&number) {
            entry.keepsake = Some(keepsake);
        }
    }

    /// Notes that the entity of a session knows no more of it than that it is bound.
    pub fn keep_new(&self, number: u64) {
        static NEW: LazyLock<Arc<[u8]>> = LazyLock::new(|| Arc::new(NEW_KEEPSAKE));
        self.keep(number, Arc::clone(&NEW));
    }

    /// Notes the last message that another node gave a session.
    pub fn note_last(&self, number: u64, uid: u64) {
        if let Some(entry) = self.slice(number).write().get_mut(&number) {
            entry.last = uid;
        }
    }

    /// What was last noted so; 0: nothing.
    #[must_use]
    pub fn last_of(&self, number: u64) -> u64 {
        let slice = self.slice(number).read();
        slice.get(&number).map_or(0, |entry| entry.last)
    }

    /// Notes the last offline message that a session was given.
    pub fn note_offline(&self, number: u64, id: u64) {
        if let Some(entry) = self.slice(number).write().get_mut(&number) {
            entry.offline = id.max(entry.offline);
        }
    }

    /// The highest that was noted so; 0: none.
    #[must_use]
    pub fn offline_of(&self, number: u64) -> u64 {
        let slice = self.slice(number).read();
        slice.get(&number).map_or(0, |entry| entry.offline)
    }

    /// Forgets it: its entity lives here.
    pub fn unkeep(&self, number: u64) {
        if let Some(entry) = self.slice(number).write().get_mut(&number) {
            entry.keepsake = None;
        }
    }

    /// What was last noted so.
    #[must_use]
    pub fn kept(&self, number: u64) -> Option<Arc<[u8]>> {
        self.slice(number).read().get(&number)?.keepsake.clone()
    }

    /// Makes a session resumable.
    pub fn enable(&self, id: SessionId, resumable: Resumable) {
        self.by_resume_id.lock().insert(resumable.id, id.number);
        if let Some(entry) = self.slice(id.number).write().get_mut(&id.number) {
            entry.resumable = Some(resumable);
        }
    }

    /// The session lost its connection: `true` if it now waits to be resumed.
    pub fn detached(&self, id: SessionId, now_ms: u64) -> bool {
        let mut slice = self.slice(id.number).write();
        let Some(entry) = slice.get_mut(&id.number) else {
            return false;
        };
        let Some(resumable) = &entry.resumable else {
            return false;
        };
        entry.ends_ms = now_ms + u64::from(resumable.seconds) * 1000;
        true
    }

    /// The session has a connection again.
    pub fn attached(&self, id: SessionId) {
        if let Some(entry) = self.slice(id.number).write().get_mut(&id.number) {
            entry.ends_ms = 0;
        }
    }

    /// What lets a session be resumed.
    #[must_use]
    pub fn resumable(&self, number: u64) -> Option<Resumable> {
        self.slice(number).read().get(&number)?.resumable.clone()
    }

    /// The session with this resumption id.
    #[must_use]
    pub fn by_resume_id(&self, id: ResumeId) -> Option<Arc<Session>> {
        let number = *self.by_resume_id.lock().get(&id)?;
        self.slice(number)
            .read()
            .get(&number)
            .map(|e| Arc::clone(&e.session))
    }

    /// What an ended session had handled, if that is still known.
    #[must_use]
    pub fn last_h(&self, id: ResumeId) -> Option<u32> {
        self.ended.lock().0.get(&id).copied()
    }

    /// Takes a session out; `false`: it was out already.
    pub fn remove(&self, session: &Session) -> bool {
        let number = session.id.number;
        let Some(entry) = self.slice(number).write().remove(&number) else {
            return false;
        };
        self.count.fetch_sub(1, Ordering::Relaxed);
        if let Some(resumable) = entry.resumable {
            self.by_resume_id.lock().remove(&resumable.id);
            if let Some((h, _)) = session.inbound() {
                self.remember(resumable.id, h);
            }
        }
        true
    }

    fn remember(&self, id: ResumeId, h: u32) {
        let mut ended = self.ended.lock();
        if ended.1.len() >= REMEMBERED
            && let Some(oldest) = ended.1.pop_front()
        {
            ended.0.remove(&oldest);
        }
        ended.0.insert(id, h);
        ended.1.push_back(id);
    }

    /// Sessions whose time to be resumed is over; `u64::MAX`: all without a connection.
    #[must_use]
    pub fn expired(&self, now_ms: u64) -> Vec<Arc<Session>> {
        let mut all = Vec::new();
        for slice in &self.entries {
            let slice = slice.read();
            // One that was resumed while its loss was being noted has a connection again.
            let is_expired =
                |e: &&Entry| e.ends_ms > 0 && e.ends_ms <= now_ms && !e.session.is_attached();
            let expired = slice.values().filter(is_expired);
            all.extend(expired.map(|e| Arc::clone(&e.session)));
        }
        all
    }

    /// All sessions.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Session>> {
        let mut all = Vec::new();
        for slice in &self.entries {
            all.extend(slice.read().values().map(|e| Arc::clone(&e.session)));
        }
        all
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
