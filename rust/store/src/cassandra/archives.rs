//! What is in memory of archives and inboxes: a cache over what is stored, which can be dropped at
//! any time.
//!
//! The home of an entity is its one writer. A message is committed as two rows of one partition;
//! what it does to its conversation is written later, once for many messages. A row of the inbox
//! says up to which message it knows, and the partition up to which all rows do: what was archived
//! above that is counted again when the owner is taken up, so the death of a process loses nothing.

use super::error::Failure;
use super::gate::Pass;
use super::inbox::Entry;
use super::packs::Packs;
use super::servers::{Row, Servers};
use super::taken::{Dead, dead_value};
use super::{from_cql, to_cql};
use antiphon_routing::archive::{
    ArchiveId, ArchiveState, BOX_ARCHIVE, Flags, InboxEffect, RECENT_MAX, Recent, id_hash,
};
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;
use uuid::Uuid;

/// Owners that are in memory at a time; a little more between two rounds of the keeper.
const OWNERS: usize = 16_384;

/// Newest messages of each by which one that comes twice is known without asking.
const RING: usize = 64;

/// Rows that one request reads when it looks for something.
pub(super) const STEP: i32 = 1_000;

/// After an unclean end, messages of this long before it may come again.
const RECENT_MS: u64 = 24 * 60 * 60 * 1000;

/// Where more than [`RECENT_MAX`] came in the last minute, those of the last minute are read, and
/// at most so many: what is sent again was sent shortly before.
const RECENT_BUSY_MS: u64 = 60 * 1000;
const RECENT_BUSY_MAX: usize = 1000;

/// Where the effect on the inbox lies in the column `flags`.
const EFFECT_SHIFT: u16 = 12;

/// The columns `id, peer, flags, uid, dup`.
pub(super) type HeadRow<'a> = (i64, Option<&'a str>, Option<i16>, Option<i64>, Option<i64>);

/// One owner.
#[derive(Debug, Default)]
pub(super) struct Slot {
    /// Held by who writes or reads the state, over requests to the servers too: writes of the
    /// inbox's rows never overtake one another. `None`: not read yet, or in doubt.
    pub(super) state: tokio::sync::Mutex<Option<State>>,
    /// Since when rows of the inbox are behind, ms of [`Archives::now_ms`]; 0: they are not.
    pub(super) behind_ms: AtomicU64,
    /// Messages that no segment of the search has.
    pub(super) unsealed: AtomicU64,
    /// Messages that came since the archive's size was looked at, and when that was.
    pub(super) grown: AtomicU64,
    pub(super) trimmed_ms: AtomicU64,
    used_ms: AtomicU64,
}

impl Slot {
    /// Nothing of the owner is to be done any more.
    pub(super) fn forget(&self) {
        self.behind_ms.store(0, Ordering::Release);
        self.unsealed.store(0, Ordering::Relaxed);
    }
}

/// What is known of one owner.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Months with messages, ascending.
    pub(super) buckets: Vec<i32>,
    /// The row of this process is in place.
    pub(super) is_marked: bool,
    /// In which time of the owner it was read.
    pub(super) time: u64,
    /// No id above it was given.
    pub(super) newest: u64,
    /// Ascending.
    pub(super) dead: Vec<Dead>,
    /// The newest messages, id and uid; every one above `ring_floor` is among them.
    ring: VecDeque<(u64, u64)>,
    ring_floor: u64,
    pub(super) entries: HashMap<Box<str>, Entry>,
    pub(super) unsealed: u32,
    pub(super) sealed_upto: u64,
    prefs: Option<String>,
    recent: Vec<Recent>,
}

/// What is known of a place that a message wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// The message is there.
    Same,
    /// Another one is there.
    Other,
    Nothing,
}

/// All owners that are in memory.
#[derive(Debug)]
pub(super) struct Archives {
    slots: Mutex<HashMap<Box<str>, Arc<Slot>>>,
    begin: Instant,
    /// Names this process in the table `run`.
    pub(super) run: Uuid,
    /// Other processes, and whether they ended in order.
    runs: Mutex<HashMap<Uuid, bool>>,
    /// How long messages are kept, seconds; 0: for ever.
    pub(super) ttl_s: i32,
    /// How many messages of each owner are kept.
    pub(super) most: Option<u64>,
    pub(super) packs: Packs,
}

impl Archives {
    pub(super) fn new(run: Uuid, retention: Option<Duration>, most: Option<u64>) -> Self {
        // Twenty years are the servers' limit.
        const MAX_S: u64 = 20 * 365 * 24 * 60 * 60;
        let seconds = retention.map_or(0, |keep| keep.as_secs().clamp(1, MAX_S));
        Self {
            slots: Mutex::default(),
            begin: Instant::now(),
            run,
            runs: Mutex::default(),
            ttl_s: i32::try_from(seconds).unwrap_or(i32::MAX),
            most,
            packs: Packs::new(),
        }
    }

    /// How long the index of months is kept: longer than any message of a month.
    pub(super) fn bucket_ttl_s(&self) -> i32 {
        const MONTH_S: i32 = 32 * 24 * 60 * 60;
        if self.ttl_s == 0 {
            0
        } else {
            self.ttl_s.saturating_add(MONTH_S)
        }
    }

    /// Milliseconds since the start; never 0.
    pub(super) fn now_ms(&self) -> u64 {
        self.begin.elapsed().as_millis() as u64 + 1
    }

    /// The place of an owner.
    pub(super) fn slot(&self, owner: &str) -> Arc<Slot> {
        let now = self.now_ms();
        let mut slots = self.slots.lock();
        let slot = match slots.get(owner) {
            Some(slot) => Arc::clone(slot),
            None => Arc::clone(slots.entry(owner.into()).or_default()),
        };
        slot.used_ms.store(now, Ordering::Relaxed);
        slot
    }

    /// Whether an archive may have outgrown its bound: by an eighth, or by less an hour ago.
    pub(super) fn is_grown(&self, slot: &Slot) -> bool {
        const HOUR_MS: u64 = 60 * 60 * 1000;
        let grown = slot.grown.load(Ordering::Relaxed);
        self.most.is_some_and(|most| {
            let looked = slot.trimmed_ms.load(Ordering::Relaxed);
            grown >= (most / 8).max(1) || (grown > 0 && looked + HOUR_MS <= self.now_ms())
        })
    }

    /// The owners of whom something is to be done.
    pub(super) fn due(&self, is_due: impl Fn(&Slot) -> bool) -> Vec<(Box<str>, Arc<Slot>)> {
        let slots = self.slots.lock();
        let due = slots.iter().filter(|(_, slot)| is_due(slot));
        due.map(|(owner, slot)| (owner.clone(), Arc::clone(slot)))
            .collect()
    }

    /// The owners that were not used for longest, where there are too many.
    pub(super) fn spare(&self) -> Vec<(Box<str>, Arc<Slot>)> {
        let slots = self.slots.lock();
        if slots.len() <= OWNERS {
            return Vec::new();
        }
        let count = slots.len() - OWNERS * 7 / 8;
        let mut by_use: Vec<(u64, &Box<str>, &Arc<Slot>)> = slots
            .iter()
            .map(|(owner, slot)| (slot.used_ms.load(Ordering::Relaxed), owner, slot))
            .collect();
        by_use.select_nth_unstable_by_key(count - 1, |(used, ..)| *used);
        by_use
            .into_iter()
            .take(count)
            .map(|(_, owner, slot)| (owner.clone(), Arc::clone(slot)))
            .collect()
    }

    /// Takes an owner out of memory, unless somebody uses it or its rows are behind.
    pub(super) fn drop_clean(&self, owner: &str, slot: Arc<Slot>) {
        drop(slot);
        let mut slots = self.slots.lock();
        let is_idle = slots.get(owner).is_some_and(|slot| {
            Arc::strong_count(slot) == 1 && slot.behind_ms.load(Ordering::Acquire) == 0
        });
        if is_idle {
            slots.remove(owner);
        }
    }

    /// Whether a process ended in order.
    async fn has_closed(
        &self,
        servers: &Servers,
        deadline: Instant,
        run: Uuid,
    ) -> Result<bool, Failure> {
        if run == self.run {
            return Ok(true);
        }
        if let Some(closed) = self.runs.lock().get(&run) {
            return Ok(*closed);
        }
        let rows = servers
            .rows(deadline, &servers.statements.run_closed, (run,))
            .await?;
        let row: Option<(Option<i64>,)> = rows.maybe_first_row().map_err(Failure::answer)?;
        let is_closed = row.and_then(|row| row.0).is_some();
        // One that runs now may close later.
        if is_closed {
            self.runs.lock().insert(run, true);
        }
        Ok(is_closed)
    }

    /// Reads what is stored of an owner.
    pub(super) async fn load(
        &self,
        servers: &Servers,
        deadline: Instant,
        owner: &str,
        is_of_dead: bool,
    ) -> Result<State, Failure> {
        let mut state = State::default();
        let mut run = None;
        let mut flushed = 0;
        let inbox = servers.pages(deadline, &servers.statements.inbox_all, (owner,), |rows| {
            for row in rows.rows::<InboxRow<'_>>().map_err(Failure::answer)? {
                let row = row.map_err(Failure::answer)?;
                for written in [row.13, row.14].into_iter().flatten() {
                    servers.clock.observe(written);
                }
                flushed = from_cql(row.8.unwrap_or(0));
                state.unsealed = u32::try_from(row.9.unwrap_or(0)).unwrap_or(0);
                state.sealed_upto = from_cql(row.10.unwrap_or(0));
                if state.prefs.is_none() {
                    state.prefs = row.11.map(str::to_owned);
                }
                run = row.12;
                if state.dead.is_empty()
                    && let Some(dead) = &row.15
                {
                    state.dead = dead_value(dead);
                }
                if let Some(peer) = row.0 {
                    let is_told = row.1.is_some();
                    if is_told {
                        state.entries.insert(peer.into(), Entry::read(&row));
                    }
                }
            }
            Ok(ControlFlow::Continue(()))
        });
        let buckets = buckets(servers, deadline, owner);
        let (_, buckets) = tokio::try_join!(inbox, buckets)?;
        state.buckets = buckets;
        state.is_marked = run == Some(self.run);
        state.newest = flushed;
        state.ring_floor = flushed;
        if !state.buckets.is_empty() {
            state.replay(servers, deadline, owner, flushed).await?;
        }
        let is_remembered = match run {
            _ if is_of_dead => true,
            Some(run) => !self.has_closed(servers, deadline, run).await?,
            None => false,
        };
        if is_remembered {
            state.remember(servers, deadline, owner).await?;
        }
        if let Some((_, upto)) = state.dead.last() {
            state.newest = state.newest.max(*upto);
        }
        Ok(state)
    }
}

/// The columns of the statement `inbox_all`.
pub(super) type InboxRow<'a> = (
    Option<&'a str>,
    Option<i64>,
    Option<i32>,
    Option<i64>,
    Option<&'a str>,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    Option<i32>,
    Option<i64>,
    Option<&'a str>,
    Option<Uuid>,
    Option<i64>,
    Option<i64>,
    Option<Vec<i64>>,
);

/// The months of an archive, ascending.
pub(super) async fn buckets(
    servers: &Servers,
    deadline: Instant,
    owner: &str,
) -> Result<Vec<i32>, Failure> {
    let mut buckets = Vec::new();
    servers
        .pages(deadline, &servers.statements.buckets, (owner,), |rows| {
            for row in rows.rows::<(i32,)>().map_err(Failure::answer)? {
                buckets.push(row.map_err(Failure::answer)?.0);
            }
            Ok(ControlFlow::Continue(()))
        })
        .await?;
    Ok(buckets)
}

impl State {
    /// What the entity must know.
    pub(super) fn archive(&self) -> Result<ArchiveState, Failure> {
        let prefs = self.prefs.as_deref();
        let prefs = prefs.map(crate::sqlite::archive::prefs_value).transpose();
        let filed = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.last_id > 0 && entry.in_box.as_deref() == Some(BOX_ARCHIVE));
        let mut filed: Vec<u64> = filed.map(|(peer, _)| id_hash(peer)).collect();
        filed.sort_unstable();
        Ok(ArchiveState {
            newest: ArchiveId(self.newest),
            prefs: prefs.map_err(Failure::answer)?,
            recent: self.recent.clone(),
            filed,
        })
    }

    /// What its rows are written with.
    pub(super) fn pass<'a>(&self, owner: &'a str) -> Pass<'a> {
        Pass::Of(owner, self.time)
    }

    pub(super) fn set_prefs(&mut self, prefs: String) {
        self.prefs = Some(prefs);
    }

    /// Counts again what was archived behind the last write of the inbox.
    async fn replay(
        &mut self,
        servers: &Servers,
        deadline: Instant,
        owner: &str,
        flushed: u64,
    ) -> Result<(), Failure> {
        let first = bucket_of(flushed);
        let late: Vec<i32> = self
            .buckets
            .iter()
            .copied()
            .filter(|b| *b >= first)
            .collect();
        for bucket in late {
            let values = (owner, bucket, to_cql(flushed), i64::MAX, i32::MAX);
            let statement = &servers.statements.archive_heads_up;
            servers
                .pages(deadline, statement, values, |rows| {
                    for row in rows.rows::<HeadRow<'_>>().map_err(Failure::answer)? {
                        let (id, peer, flags, uid, _) = row.map_err(Failure::answer)?;
                        let (flags, effect) = read_flags(flags);
                        let id = from_cql(id);
                        self.archived(id, uid.map_or(id, from_cql), flags);
                        let peer = peer.unwrap_or_default();
                        if !self.is_counted(peer, id) {
                            self.apply(peer, id, effect);
                        }
                    }
                    Ok(ControlFlow::Continue(()))
                })
                .await?;
        }
        Ok(())
    }

    /// Reads the newest messages: their senders may not know that they are here.
    async fn remember(
        &mut self,
        servers: &Servers,
        deadline: Instant,
        owner: &str,
    ) -> Result<(), Failure> {
        let day = ArchiveId::first_of(RECENT_MS).0;
        let after = self.newest.saturating_sub(day);
        let first = bucket_of(after);
        let months: Vec<i32> = self.buckets.clone();
        for bucket in months.into_iter().rev().filter(|b| *b >= first) {
            let mut below = i64::MAX;
            loop {
                let missing = self.missing();
                let before = self.recent.len();
                if missing == 0 {
                    break;
                }
                let limit = i32::try_from(missing).unwrap_or(i32::MAX);
                let values = (owner, bucket, to_cql(after), below, limit);
                self.heads_down(servers, deadline, values).await?;
                if self.recent.len() < before + missing {
                    // The month has no more.
                    break;
                }
                below = self.recent.last().map_or(below, |last| to_cql(last.id.0));
            }
        }
        self.recent.reverse();
        // Those that the ring has not are found in the archive itself.
        let ring = self.recent.iter().rev().take(RECENT_MAX).rev();
        self.ring = ring.map(|recent| (recent.id.0, recent.uid.0)).collect();
        if let Some((oldest, _)) = self.ring.front() {
            // The oldest itself is in the ring.
            self.ring_floor = oldest - 1;
        }
        Ok(())
    }

    /// How many of the newest messages are to be read, when these were, newest first.
    fn missing(&self) -> usize {
        let read = self.recent.len();
        let is_busy = self.recent.last().is_some_and(|last| {
            last.id.ms().saturating_add(RECENT_BUSY_MS) > ArchiveId(self.newest).ms()
        });
        match RECENT_MAX.checked_sub(read) {
            Some(missing) if missing > 0 => missing,
            _ if is_busy => RECENT_BUSY_MAX.saturating_sub(read),
            _ => 0,
        }
    }

    async fn heads_down(
        &mut self,
        servers: &Servers,
        deadline: Instant,
        values: (&str, i32, i64, i64, i32),
    ) -> Result<(), Failure> {
        let recent = &mut self.recent;
        let statement = &servers.statements.archive_heads_down;
        servers
            .pages(deadline, statement, values, |rows| {
                for row in rows.rows::<HeadRow<'_>>().map_err(Failure::answer)? {
                    let (id, _, flags, uid, dup) = row.map_err(Failure::answer)?;
                    let id = from_cql(id);
                    let flags = read_flags(flags).0;
                    recent.push(Recent {
                        id: ArchiveId(id),
                        uid: ArchiveId(uid.map_or(id, from_cql)),
                        // Without, it is known by its uid alone.
                        dup: dup.map_or(0, i64::cast_unsigned),
                        is_out: flags.has(Flags::OUT),
                        has_waited: flags.has(Flags::WAITED),
                    });
                }
                Ok(ControlFlow::Continue(()))
            })
            .await
    }

    /// A message is in the archive.
    pub(super) fn archived(&mut self, id: u64, uid: u64, flags: Flags) {
        self.newest = self.newest.max(id);
        self.ring.push_back((id, uid));
        if self.ring.len() > RING
            && let Some((gone, _)) = self.ring.pop_front()
        {
            self.ring_floor = self.ring_floor.max(gone);
        }
        if flags.has(Flags::SEARCHABLE) {
            self.unsealed = self.unsealed.saturating_add(1);
        }
    }

    /// What is known without asking; `None`: must be asked.
    pub(super) fn find(&self, id: u64, uid: u64) -> Option<Found> {
        // An id is never below its uid, so above the newest id nothing is.
        if uid > self.newest {
            return Some(Found::Nothing);
        }
        if self.ring.iter().any(|known| known.1 == uid) {
            return Some(Found::Same);
        }
        if self.ring.iter().any(|known| known.0 == id) {
            return Some(Found::Other);
        }
        (uid > self.ring_floor).then_some(Found::Nothing)
    }

    /// Looks in the archive itself.
    pub(super) async fn look(
        &self,
        servers: &Servers,
        deadline: Instant,
        owner: &str,
        (id, uid): (u64, u64),
    ) -> Result<Found, Failure> {
        let mut found = Found::Nothing;
        let mut rest = STEP;
        let first = bucket_of(uid);
        for bucket in self.buckets.iter().filter(|b| **b >= first) {
            let values = (owner, *bucket, to_cql(uid) - 1, i64::MAX, rest);
            let statement = &servers.statements.archive_heads_up;
            servers
                .pages(deadline, statement, values, |rows| {
                    for row in rows.rows::<HeadRow<'_>>().map_err(Failure::answer)? {
                        let row = row.map_err(Failure::answer)?;
                        rest -= 1;
                        let there = from_cql(row.0);
                        if row.3.map_or(there, from_cql) == uid {
                            found = Found::Same;
                            return Ok(ControlFlow::Break(()));
                        }
                        if there == id {
                            found = Found::Other;
                        }
                    }
                    Ok(ControlFlow::Continue(()))
                })
                .await?;
            if found == Found::Same || rest <= 0 {
                break;
            }
        }
        Ok(found)
    }

    /// The rows that must be there before the first message of a month, or of this process.
    pub(super) fn prelude<'a>(
        &self,
        servers: &'a Servers,
        archives: &Archives,
        owner: &'a str,
        buckets: &[i32],
    ) -> Vec<Row<'a>> {
        let mut rows = Vec::new();
        for bucket in buckets {
            let values = (
                owner,
                *bucket,
                servers.clock.next(),
                archives.bucket_ttl_s(),
            );
            rows.push(Row::new(
                &servers.statements.bucket_put,
                values,
                owner.len(),
            ));
        }
        if !self.is_marked {
            let values = (servers.clock.next(), archives.run, owner);
            rows.push(Row::new(&servers.statements.inbox_run, values, owner.len()));
        }
        rows
    }
}

/// The month of an id: year * 12 + month from 0.
pub(super) fn bucket_of(id: u64) -> i32 {
    // Civil from days (see `stamp` in stanza.rs).
    let days = ArchiveId(id).ms() / 86_400_000 + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let of_era_years = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * of_era_years + of_era_years / 4 - of_era_years / 100);
    let march_month = (5 * of_year + 2) / 153;
    let months = (of_era_years + era * 400) * 12 + march_month + 2;
    i32::try_from(months).unwrap_or(i32::MAX)
}

/// The column `flags` of a message.
pub(super) fn flags_column(flags: Flags, effect: InboxEffect) -> i16 {
    let effect: u16 = match effect {
        InboxEffect::None => 0,
        InboxEffect::Sent => 1,
        InboxEffect::Received => 2,
    };
    ((flags.0 & FLAGS) | effect << EFFECT_SHIFT).cast_signed()
}

/// The bits of [`Flags`] in the column.
const FLAGS: u16 = (1 << EFFECT_SHIFT) - 1;

/// Reads what [`flags_column`] wrote.
pub(super) fn read_flags(column: Option<i16>) -> (Flags, InboxEffect) {
    let bits = column.unwrap_or(0).cast_unsigned();
    let effect = match bits >> EFFECT_SHIFT {
        1 => InboxEffect::Sent,
        2 => InboxEffect::Received,
        _ => InboxEffect::None,
    };
    (Flags(bits & FLAGS), effect)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_has_one_bucket() {
        let at = |ms: u64| bucket_of(ArchiveId::first_of(ms).0);
        assert_eq!(at(0), 1970 * 12);
        assert_eq!(at(951_782_399_999), 2000 * 12 + 1);
        assert_eq!(at(951_868_800_000), 2000 * 12 + 2);
        assert_eq!(at(1_767_225_599_999), 2025 * 12 + 11);
        assert_eq!(at(1_767_225_600_000), 2026 * 12);
        assert!(bucket_of(u64::MAX) > at(1_767_225_600_000));
    }

    #[test]
    fn flags_and_effect_come_back() {
        let flags = Flags::OUT.and(Flags::SUPERSEDED);
        for effect in [InboxEffect::None, InboxEffect::Sent, InboxEffect::Received] {
            let column = flags_column(flags, effect);
            assert_eq!(read_flags(Some(column)), (flags, effect));
        }
    }

    #[test]
    fn what_the_ring_has_is_known_without_asking() {
        let mut state = State::default();
        for id in 1..=200 {
            state.archived(id * 10, id * 10 - 1, Flags::default());
        }
        assert_eq!(state.find(3000, 2001), Some(Found::Nothing));
        assert_eq!(state.find(3000, 1999), Some(Found::Same));
        assert_eq!(state.find(2000, 1998), Some(Found::Other));
        assert_eq!(state.find(3000, 1995), Some(Found::Nothing));
        assert_eq!(state.find(3000, 9), None);
    }
}
