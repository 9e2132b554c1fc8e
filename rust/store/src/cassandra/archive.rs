//! Writes of archives and inboxes: one turn of an owner's lane.
//!
//! The two rows of a message have one partition key, so a batch of them is one mutation. An offline
//! reference is written before its message: one that refers to nothing is passed over, while a
//! message nobody delivers would be lost.

use super::archives::{Archives, Found, Slot, State, bucket_of, flags_column};
use super::commit::Outcome;
use super::engine::Engine;
use super::error::Failure;
use super::gate::{Leave, Pass};
use super::inbox::flush;
use super::owners::Known;
use super::queue::{Accepted, GROUP_BYTES, GROUP_WRITES};
use super::servers::Row;
use super::taken::{self, Former};
use super::{plan, to_cql};
use antiphon_routing::archive::{ArchiveRecord, ArchiveState};
use antiphon_routing::store::{StoreError, Write};
use scylla::value::MaybeUnset;
use std::sync::atomic::Ordering;
use tokio::time::Instant;

/// Whether a write concerns an archive or an inbox.
pub(super) fn is_archive(write: &Write) -> bool {
    matches!(
        write,
        Write::Archive { .. }
            | Write::ArchiveEdit { .. }
            | Write::ArchivePurge { .. }
            | Write::ArchivePrefs { .. }
            | Write::OfflineSeen { .. }
            | Write::InboxRead { .. }
            | Write::InboxSet { .. }
            | Write::InboxEmptyBin { .. }
    )
}

/// A message that is about to be written.
struct Pending<'a> {
    /// Of the outcomes.
    place: usize,
    record: &'a ArchiveRecord,
    bucket: i32,
    /// Of both rows.
    bytes: usize,
}

/// The state of an owner while somebody changes it.
pub(super) struct Turn<'a> {
    pub(super) engine: &'a Engine,
    pub(super) deadline: Instant,
    pub(super) owner: &'a str,
    pub(super) pass: Pass<'a>,
    pub(super) slot: &'a Slot,
    pub(super) state: &'a mut State,
    pending: Vec<Pending<'a>>,
    /// Two for each of them.
    rows: Vec<Row<'a>>,
    offline: Vec<Row<'a>>,
    /// One of them lies below the newest: a replay would not find it.
    is_late: bool,
}

impl Engine {
    /// The state of an owner, read if it is not in memory.
    ///
    /// # Errors
    /// The servers are away.
    pub(super) async fn loaded<'s>(
        &self,
        deadline: Instant,
        owner: &str,
        state: &'s mut Option<State>,
    ) -> Result<&'s mut State, Failure> {
        if state.is_none() {
            let loaded = self.load(deadline, owner, false).await?;
            let slot = self.archives.slot(owner);
            self.note(&slot, &loaded);
            return Ok(state.insert(loaded));
        }
        Ok(state.get_or_insert_default())
    }

    /// The same, as it is stored, and since when: asked before, so that what is read is not older.
    async fn load(
        &self,
        deadline: Instant,
        owner: &str,
        is_of_dead: bool,
    ) -> Result<State, Failure> {
        let time = self.servers.gate.time(owner);
        let load = self
            .archives
            .load(&self.servers, deadline, owner, is_of_dead);
        let mut state = load.await?;
        state.time = time;
        Ok(state)
    }

    /// What the entity must know of its archive, as it is stored: another process may have written
    /// there since this one did. And how many offline messages went with what is dead.
    ///
    /// # Errors
    /// The servers are away.
    pub(super) async fn take_up(
        &self,
        deadline: Instant,
        owner: &str,
        from: Former,
    ) -> Result<(ArchiveState, u64), Failure> {
        let slot = self.archives.slot(owner);
        let mut guard = slot.state.lock().await;
        if let Some(state) = guard.as_mut()
            && slot.behind_ms.load(Ordering::Acquire) != 0
            && self.servers.gate.leave(state.pass(owner)) != Leave::No
        {
            flush(&self.servers, deadline, owner, state).await?;
        }
        slot.forget();
        *guard = None;
        let orphans = match from {
            Former::Died { epoch, from } => {
                taken::bury(self, deadline, owner, (epoch, from)).await?
            }
            Former::Ended | Former::Unknown => 0,
        };
        let loaded = self.load(deadline, owner, from != Former::Ended).await?;
        self.note(&slot, &loaded);
        Ok((guard.insert(loaded).archive()?, orphans))
    }

    /// What the keeper must know.
    fn note(&self, slot: &Slot, state: &State) {
        slot.unsealed
            .store(u64::from(state.unsealed), Ordering::Relaxed);
        let is_behind = state.entries.values().any(|entry| entry.is_behind);
        if is_behind && slot.behind_ms.load(Ordering::Acquire) == 0 {
            let now = self.archives.now_ms();
            slot.behind_ms.store(now, Ordering::Release);
        }
    }

    /// Carries out writes about an archive and an inbox, in their order; one outcome each.
    pub(super) async fn commit_archive(
        &self,
        writes: &[Accepted],
        known: &mut Known,
        outcomes: &mut Vec<Outcome>,
    ) {
        // Never empty.
        let deadline = writes[0].since + self.write_wait;
        let jid = writes[0].write.owner();
        let pass = writes[0].pass();
        let begin = outcomes.len();
        let exists = plan::exists(&self.servers, deadline, known, jid).await;
        let refusal = match exists {
            Ok(true) => None,
            Ok(false) => Some(StoreError::NoAccount),
            Err(failure) => Some(failure.into()),
        };
        if let Some(error) = refusal {
            outcomes.extend(writes.iter().map(|_| Err(error.clone())));
            return;
        }
        outcomes.resize(begin + writes.len(), Ok(()));
        let slot = self.archives.slot(jid.bare_str());
        let mut guard = slot.state.lock().await;
        let is_of_then = |state: &State| matches!(pass, Pass::Of(_, time) if state.time != time);
        if guard.as_ref().is_some_and(is_of_then) {
            // Others may have written meanwhile.
            slot.forget();
            *guard = None;
        }
        let state = match self.loaded(deadline, jid.bare_str(), &mut guard).await {
            Ok(state) => state,
            Err(failure) => {
                let error = StoreError::from(failure);
                outcomes[begin..].fill(Err(error));
                return;
            }
        };
        let mut turn = Turn {
            engine: self,
            deadline,
            owner: jid.bare_str(),
            pass,
            slot: &slot,
            state,
            pending: Vec::with_capacity(writes.len()),
            rows: Vec::with_capacity(2 * writes.len()),
            offline: Vec::new(),
            is_late: false,
        };
        turn.serve(writes, begin, outcomes).await;
        self.note(&slot, turn.state);
        drop(turn);
        if outcomes[begin..].iter().any(super::commit::is_fault) {
            // What is stored is unknown; it is read again.
            *guard = None;
            slot.behind_ms.store(0, Ordering::Release);
        }
    }
}

impl<'a> Turn<'a> {
    async fn serve(&mut self, writes: &'a [Accepted], begin: usize, outcomes: &mut [Outcome]) {
        for (queued, place) in writes.iter().zip(begin..) {
            let done = match &queued.write {
                Write::Archive { record, .. } => self.plan(place, record).await,
                other => {
                    if !self.commit(outcomes).await {
                        outcomes[place..].fill(Err(StoreError::Busy));
                        return;
                    }
                    self.change(other).await.map_err(StoreError::from)
                }
            };
            if done == Err(StoreError::Busy) {
                // Their order would be lost if the later ones went on.
                self.commit(outcomes).await;
                outcomes[place..].fill(Err(StoreError::Busy));
                return;
            }
            if done.is_err() {
                outcomes[place] = done;
            }
        }
        self.commit(outcomes).await;
    }

    /// Everything but a message.
    async fn change(&mut self, write: &Write) -> Result<(), Failure> {
        match write {
            Write::ArchiveEdit {
                peer,
                is_out,
                target,
                edit,
                ..
            } => self.edit(peer, *is_out, *target, edit).await,
            Write::ArchivePurge { peer, before, .. } => self.purge(peer.as_ref(), *before).await,
            Write::ArchivePrefs { prefs, .. } => {
                let prefs = crate::sqlite::archive::prefs_column(prefs);
                let values = (self.now(), prefs.as_str(), self.owner);
                let row = Row::new(&self.servers().statements.inbox_prefs, values, prefs.len());
                self.servers()
                    .write(self.deadline, self.pass, &[row])
                    .await?;
                self.state.set_prefs(prefs);
                Ok(())
            }
            Write::OfflineSeen { from, upto, .. } => self.offline_seen(*from, *upto).await,
            Write::InboxRead { peer, upto, .. } => self.inbox_read(peer, *upto).await,
            Write::InboxSet { peer, change, .. } => self.inbox_set(peer, change).await,
            Write::InboxEmptyBin { before_ms, .. } => self.inbox_empty_bin(*before_ms).await,
            // `is_archive` lets no other through.
            _ => Ok(()),
        }
    }

    pub(super) fn servers(&self) -> &'a super::servers::Servers {
        &self.engine.servers
    }

    fn archives(&self) -> &'a Archives {
        &self.engine.archives
    }

    pub(super) fn now(&self) -> i64 {
        self.servers().clock.next()
    }

    /// See [`Write::Archive`].
    async fn plan(&mut self, place: usize, record: &'a ArchiveRecord) -> Result<(), StoreError> {
        let id = record.id.0;
        let uid = if record.uid.0 == 0 { id } else { record.uid.0 };
        let found = match self.state.find(id, uid) {
            Some(found) => found,
            None => {
                self.state
                    .look(self.servers(), self.deadline, self.owner, (id, uid))
                    .await?
            }
        };
        match found {
            Found::Same => return Ok(()),
            Found::Other => return Err(StoreError::Exists),
            Found::Nothing => {}
        }
        let bucket = bucket_of(id);
        let rows = self.rows_of(record, bucket, uid);
        let statements = &self.servers().statements;
        if let Some(at_ms) = record.offline_at_ms {
            let number = self.now();
            let values = (self.owner, number, to_cql(at_ms), to_cql(id), number);
            self.offline.push(Row::new(
                &statements.offline_refer,
                values,
                self.owner.len(),
            ));
        }
        self.is_late |= id < self.state.newest;
        self.state.archived(id, uid, record.flags);
        self.pending.push(Pending {
            place,
            record,
            bucket,
            bytes: rows.iter().map(|row| row.bytes).sum(),
        });
        self.rows.extend(rows);
        Ok(())
    }

    /// A message in the archive, and in its conversation.
    fn rows_of(&self, record: &'a ArchiveRecord, bucket: i32, uid: u64) -> [Row<'a>; 2] {
        let id = record.id.0;
        let peer = record.peer.bare_str();
        let flags = flags_column(record.flags, record.inbox);
        let stanza = self.archives().packs.packed(self.owner, record);
        let bytes = self.owner.len() + peer.len() + stanza.len();
        let (now, ttl) = (self.now(), self.archives().ttl_s);
        let statements = &self.servers().statements;
        let values = (
            self.owner,
            bucket,
            to_cql(id),
            peer,
            flags,
            set_unless(uid == id, to_cql(uid)),
            set_unless(record.dup == 0, record.dup.cast_signed()),
            stanza,
            now,
            ttl,
        );
        let message = Row::new(&statements.archive_put, values, bytes);
        let values = (
            self.owner,
            bucket,
            peer,
            to_cql(id),
            flags,
            set_unless(record.mid == 0, record.mid.cast_signed()),
            now,
            ttl,
        );
        let by_peer = Row::new(&statements.peer_put, values, self.owner.len() + peer.len());
        [message, by_peer]
    }

    /// Writes what is pending; `false`: the servers are away.
    async fn commit(&mut self, outcomes: &mut [Outcome]) -> bool {
        let pending = std::mem::take(&mut self.pending);
        let rows = std::mem::take(&mut self.rows);
        let offline = std::mem::take(&mut self.offline);
        if pending.is_empty() {
            return true;
        }
        if let Err(failure) = self.prepare(&pending, &offline).await {
            let error = StoreError::from(failure);
            for one in &pending {
                outcomes[one.place] = Err(error.clone());
            }
            return error != StoreError::Busy;
        }
        let mut begin = 0;
        let mut most = GROUP_WRITES / 2;
        while begin < pending.len() {
            let end = begin + fitting(&pending[begin..], most);
            let batch = &rows[2 * begin..2 * end];
            let ids = pending[begin..end].iter().map(|one| one.record.id.0);
            self.servers().gate.plans(self.pass, ids);
            match self.servers().write(self.deadline, self.pass, batch).await {
                Ok(()) => {
                    self.engine.counters.batches.fetch_add(1, Ordering::Relaxed);
                    self.written(&pending[begin..end]);
                    begin = end;
                }
                Err(Failure::TooLarge | Failure::Engine(_)) if end > begin + 1 => {
                    most = (end - begin) / 2;
                }
                Err(Failure::Away) => {
                    for one in &pending[begin..] {
                        outcomes[one.place] = Err(StoreError::Busy);
                    }
                    return false;
                }
                Err(failure) => {
                    outcomes[pending[begin].place] = Err(failure.into());
                    begin = end;
                }
            }
        }
        !std::mem::take(&mut self.is_late) || self.flush().await.is_ok()
    }

    /// What must be there before the messages.
    async fn prepare(
        &mut self,
        pending: &[Pending<'_>],
        offline: &[Row<'_>],
    ) -> Result<(), Failure> {
        let servers = self.servers();
        let mut buckets: Vec<i32> = pending.iter().map(|one| one.bucket).collect();
        buckets.sort_unstable();
        buckets.dedup();
        buckets.retain(|bucket| self.state.buckets.binary_search(bucket).is_err());
        let prelude = self
            .state
            .prelude(servers, self.archives(), self.owner, &buckets);
        servers.write(self.deadline, self.pass, &prelude).await?;
        self.state.is_marked = true;
        self.state.buckets.extend(buckets);
        self.state.buckets.sort_unstable();
        servers.write(self.deadline, self.pass, offline).await
    }

    fn written(&mut self, batch: &[Pending<'_>]) {
        for one in batch {
            let record = one.record;
            self.state
                .apply(record.peer.bare_str(), record.id.0, record.inbox);
            if self.archives().ttl_s != 0 {
                self.state
                    .remember_last(record.peer.bare_str(), record.id.0, &record.stanza);
            }
        }
        self.slot
            .grown
            .fetch_add(batch.len() as u64, Ordering::Relaxed);
        if self.slot.behind_ms.load(Ordering::Acquire) == 0 {
            let now = self.archives().now_ms();
            self.slot.behind_ms.store(now, Ordering::Release);
        }
    }
}

/// A value, or nothing at all: a null would be written as a deletion.
fn set_unless(is_unset: bool, value: i64) -> MaybeUnset<i64> {
    if is_unset {
        MaybeUnset::Unset
    } else {
        MaybeUnset::Set(value)
    }
}

/// How many of these messages make one batch: of one month, at least one.
fn fitting(pending: &[Pending<'_>], most: usize) -> usize {
    let (mut count, mut bytes) = (0, 0);
    for one in pending.iter().take(most.max(1)) {
        bytes += one.bytes;
        if count > 0 && (bytes > GROUP_BYTES || one.bucket != pending[0].bucket) {
            break;
        }
        count += 1;
    }
    count.max(1)
}

/// Writes the rows of an owner's inbox that are behind, when nobody else does. What is another's by
/// now is forgotten: whoever has it counts again.
///
/// # Errors
/// The servers are away.
pub(super) async fn flush_behind(
    engine: &Engine,
    deadline: Instant,
    owner: &str,
    slot: &Slot,
) -> Result<(), Failure> {
    let mut guard = slot.state.lock().await;
    let Some(state) = guard.as_mut() else {
        slot.behind_ms.store(0, Ordering::Release);
        return Ok(());
    };
    match engine.servers.gate.leave(state.pass(owner)) {
        Leave::Yes(_) | Leave::Doubted(_) if slot.behind_ms.load(Ordering::Acquire) != 0 => {
            flush(&engine.servers, deadline, owner, state).await?;
        }
        Leave::Yes(_) | Leave::Doubted(_) => {}
        Leave::Wait(_) => return Err(Failure::Away),
        Leave::No => {
            slot.forget();
            slot.grown.store(0, Ordering::Relaxed);
            *guard = None;
        }
    }
    slot.behind_ms.store(0, Ordering::Release);
    Ok(())
}
