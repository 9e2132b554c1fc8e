//! The store with what a login needs in memory: credentials are read once, last activity is written
//! behind.
//!
//! One process owns a store, so whatever changes an account passes through here. All else goes on
//! to the engine as it is.

use antiphon_routing::archive::ArchiveId;
use antiphon_routing::store::{
    AccountSummary, Done, MapKind, OfflineRecord, Store, StoreFuture, UserRecord, Write,
};
use antiphon_xmpp::Jid;
use antiphon_xmpp::sasl::Credentials;
use parking_lot::Mutex;
use ring::hmac;
use std::collections::HashMap;
use std::sync::Arc;

/// Accounts in one generation of known credentials; there are two.
const GENERATION: usize = 4_096;
/// A generation's life: who has not logged in during one or two of them is read again.
const GENERATION_MS: u64 = 5 * 60 * 1_000;
/// Owners whose last activity waits, at most.
const WAITING: usize = 4_096;
/// Bytes of the status texts that wait, at most (one larger text passes alone).
const WAITING_BYTES: usize = 1024 * 1024;

#[derive(Debug)]
struct Known {
    credentials: Credentials,
    /// Of the last right password (see [`Cached::prove`]).
    proof: Option<hmac::Tag>,
}

/// Credentials by account, the longest unused forgotten in bulk.
#[derive(Debug, Default)]
struct Recent {
    young: HashMap<Jid, Known>,
    old: HashMap<Jid, Known>,
    /// Counts changes of accounts: what was read before one is not kept after it.
    changes: u64,
    turned_ms: u64,
}

impl Recent {
    fn find(&mut self, account: &Jid) -> Option<&mut Known> {
        if let Some(known) = self.old.remove(account) {
            self.keep(account.clone(), known);
        }
        self.young.get_mut(account)
    }

    fn keep(&mut self, account: Jid, known: Known) {
        if self.young.len() >= GENERATION {
            self.turn();
        }
        self.young.insert(account, known);
    }

    fn turn(&mut self) {
        self.old = std::mem::take(&mut self.young);
    }

    fn forget(&mut self, account: &Jid) {
        self.changes += 1;
        self.young.remove(account);
        self.old.remove(account);
    }
}

struct Seen {
    at_ms: u64,
    status: String,
    done: Done,
}

/// Last activity that waits to be written: only an owner's latest is of any use.
#[derive(Default)]
struct Waiting {
    by_owner: HashMap<Jid, Seen>,
    bytes: usize,
    is_closed: bool,
}

impl Waiting {
    /// Takes one out; the one that replaces it, or the end of the account, makes it void.
    fn void(&mut self, owner: &Jid) -> Option<Done> {
        let seen = self.by_owner.remove(owner)?;
        self.bytes -= seen.status.len();
        Some(seen.done)
    }
}

/// The engine and what is kept before it.
///
/// Two differences to the contract of [`Store`]: a [`Write::LastSeen`] is committed, and its `done`
/// called, only after [`Cached::tick`], so a crash loses the last activity of the last seconds; and
/// one that a later one replaces is done without being written. Reads see it in any case.
///
/// Whoever measures may tell an account that has logged in lately from others, since those are
/// read from the disk.
pub struct Cached {
    engine: Arc<dyn Store>,
    recent: Arc<Mutex<Recent>>,
    waiting: Mutex<Waiting>,
    proof_key: hmac::Key,
}

impl Cached {
    /// Around an engine. The key for proofs must be random and never leave the process.
    #[must_use]
    pub fn new(engine: Arc<dyn Store>, proof_key: &[u8; 32]) -> Self {
        Self {
            engine,
            recent: Arc::default(),
            waiting: Mutex::default(),
            proof_key: hmac::Key::new(hmac::HMAC_SHA256, proof_key),
        }
    }

    /// Another process has changed this account.
    pub fn forget(&self, account: &Jid) {
        self.recent.lock().forget(account);
    }

    /// Writes what waits and forgets who has not logged in for long; every few seconds.
    pub fn tick(&self, now_ms: u64) {
        self.flush();
        let mut recent = self.recent.lock();
        if recent.turned_ms + GENERATION_MS <= now_ms {
            recent.turned_ms = now_ms;
            recent.turn();
        }
    }

    /// Hands what waits to the engine, which commits it as one group. Under the lock, so that what
    /// no longer waits is always queued there, ahead of any read. At once where somebody waits for it.
    pub(crate) fn flush(&self) {
        let mut waiting = self.waiting.lock();
        waiting.bytes = 0;
        for (owner, seen) in std::mem::take(&mut waiting.by_owner) {
            let write = Write::LastSeen {
                owner,
                at_ms: seen.at_ms,
                status: seen.status,
            };
            self.engine.write(write, seen.done);
        }
    }

    fn write_behind(&self, owner: Jid, at_ms: u64, status: String, done: Done) {
        let mut waiting = self.waiting.lock();
        if waiting.is_closed {
            drop(waiting);
            let write = Write::LastSeen {
                owner,
                at_ms,
                status,
            };
            return self.engine.write(write, done);
        }
        let void = waiting.void(&owner);
        waiting.bytes += status.len();
        let seen = Seen {
            at_ms,
            status,
            done,
        };
        waiting.by_owner.insert(owner, seen);
        let is_full = waiting.by_owner.len() >= WAITING || waiting.bytes >= WAITING_BYTES;
        drop(waiting);
        if let Some(void) = void {
            void(Ok(()));
        }
        if is_full {
            self.flush();
        }
    }

    /// Remembers that this is the account's password, so that the slow hash need not be run at the
    /// next login with it: as an HMAC with a key of this process.
    pub fn prove(&self, account: &Jid, credentials: &Credentials, password: &str) {
        let claim = claim(account, credentials, password);
        let proof = hmac::sign(&self.proof_key, &claim);
        if let Some(known) = self.recent.lock().find(account)
            && known.credentials == *credentials
        {
            known.proof = Some(proof);
        }
    }

    /// Whether [`Cached::prove`] was called with just that.
    #[must_use]
    pub fn is_proven(&self, account: &Jid, credentials: &Credentials, password: &str) -> bool {
        let proof = self.recent.lock().find(account).and_then(|k| k.proof);
        proof.is_some_and(|proof| {
            let claim = claim(account, credentials, password);
            hmac::verify(&self.proof_key, &claim, proof.as_ref()).is_ok()
        })
    }
}

/// What a proof proves: this password for these keys of this account.
fn claim(account: &Jid, credentials: &Credentials, password: &str) -> Vec<u8> {
    let mut claim = Vec::with_capacity(512);
    let mut add = |part: &[u8]| {
        claim.extend_from_slice(&(part.len() as u64).to_be_bytes());
        claim.extend_from_slice(part);
    };
    add(account.as_str().as_bytes());
    add(password.as_bytes());
    for keys in &credentials.keys {
        add(&keys.iterations.to_be_bytes());
        add(&keys.salt);
        add(&keys.stored_key);
    }
    claim
}

impl Cached {
    /// The record with the last activity that is not written yet.
    fn with_seen(
        &self,
        jid: &Jid,
        reading: StoreFuture<Option<UserRecord>>,
    ) -> StoreFuture<Option<UserRecord>> {
        let waiting = self.waiting.lock();
        let seen = waiting.by_owner.get(jid);
        let seen = seen.map(|seen| (seen.at_ms, seen.status.clone()));
        drop(waiting);
        let Some((at_ms, status)) = seen else {
            return reading;
        };
        Box::pin(async move {
            let mut record = reading.await?;
            if let Some(record) = &mut record {
                (record.last_seen_ms, record.last_status) = (at_ms, status);
            }
            Ok(record)
        })
    }
}

impl Store for Cached {
    fn write(&self, write: Write, done: Done) {
        let account = match write {
            Write::LastSeen {
                owner,
                at_ms,
                status,
            } => return self.write_behind(owner, at_ms, status, done),
            Write::AccountCreate { ref jid, .. }
            | Write::AccountUpdate { ref jid, .. }
            | Write::AccountPut { ref jid, .. }
            | Write::AccountDelete { ref jid } => jid.bare(),
            _ => return self.engine.write(write, done),
        };
        let is_other = matches!(
            write,
            Write::AccountCreate { .. } | Write::AccountDelete { .. }
        );
        let mut waiting = self.waiting.lock();
        // It must not be taken for that of a later account of this name.
        let void = is_other.then(|| waiting.void(&account)).flatten();
        self.engine.write(write, done);
        drop(waiting);
        // After the write is queued: a read that began earlier is not kept, a later one sees it.
        self.recent.lock().forget(&account);
        if let Some(void) = void {
            void(Ok(()));
        }
    }

    fn user(&self, jid: &Jid) -> StoreFuture<Option<UserRecord>> {
        self.with_seen(jid, self.engine.user(jid))
    }

    fn user_of_dead(&self, jid: &Jid) -> StoreFuture<Option<UserRecord>> {
        self.with_seen(jid, self.engine.user_of_dead(jid))
    }

    fn take_up(&self, jid: &Jid, epoch: u64, from: ArchiveId) -> StoreFuture<Option<UserRecord>> {
        self.with_seen(jid, self.engine.take_up(jid, epoch, from))
    }

    fn credentials(&self, jid: &Jid) -> StoreFuture<Option<Credentials>> {
        let mut recent = self.recent.lock();
        if let Some(known) = recent.find(jid) {
            let credentials = known.credentials.clone();
            return Box::pin(std::future::ready(Ok(Some(credentials))));
        }
        let changes = recent.changes;
        drop(recent);
        let reading = self.engine.credentials(jid);
        let (recent, account) = (Arc::clone(&self.recent), jid.bare());
        Box::pin(async move {
            let found = reading.await?;
            // Names without account are not kept: there is no end to them.
            if let Some(credentials) = &found {
                let mut recent = recent.lock();
                if recent.changes == changes && recent.find(&account).is_none() {
                    let known = Known {
                        credentials: credentials.clone(),
                        proof: None,
                    };
                    recent.keep(account, known);
                }
            }
            Ok(found)
        })
    }

    fn accounts(
        &self,
        domain: &str,
        after: Option<&str>,
        limit: usize,
    ) -> StoreFuture<Vec<AccountSummary>> {
        self.engine.accounts(domain, after, limit)
    }

    fn account_count(&self, domain: &str) -> StoreFuture<u64> {
        self.engine.account_count(domain)
    }

    fn offline(&self, owner: &Jid, after: u64, limit: usize) -> StoreFuture<Vec<OfflineRecord>> {
        self.engine.offline(owner, after, limit)
    }

    fn map_get(&self, owner: &Jid, kind: MapKind, key: &str) -> StoreFuture<Option<Box<[u8]>>> {
        self.engine.map_get(owner, kind, key)
    }

    fn map_keys(&self, owner: &Jid, kind: MapKind, prefix: &str) -> StoreFuture<Vec<String>> {
        self.engine.map_keys(owner, kind, prefix)
    }

    antiphon_routing::forward_archive!(engine);

    fn close(&self) {
        self.waiting.lock().is_closed = true;
        self.flush();
        self.engine.close();
    }
}

#[cfg(test)]
mod tests;
