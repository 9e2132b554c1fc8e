//! Inboxes: conversations in memory, their rows, and what changes them.

use super::archive::Turn;
use super::archives::{InboxRow, State, bucket_of, read_flags};
use super::engine::Engine;
use super::error::Failure;
use super::queue::GROUP_BYTES;
use super::reader::{Reader, packed, unpacked};
use super::servers::{Row, Servers};
use super::taken::is_dead;
use super::{from_cql, to_cql};
use antiphon_routing::archive::{
    ArchiveId, BOX_ARCHIVE, BOX_BIN, BOX_INBOX, Flags, InboxChange, InboxEffect, InboxEntry,
    InboxFilter, InboxPage, InboxSlice, REFERENCE_REACH, Reference,
};
use antiphon_xmpp::Jid;
use scylla::response::query_result::QueryRowsResult;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::time::Instant;

/// Rows of one batch.
const ROWS: usize = 100;

/// The box name that stands for every box.
const ALL: &str = "all";

/// One conversation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Entry {
    /// 0: there was an entry and it was deleted.
    pub(super) last_id: u64,
    pub(super) unread: u32,
    pub(super) read_id: u64,
    /// `None`: the inbox.
    pub(super) in_box: Option<Box<str>>,
    pub(super) muted_until_ms: u64,
    /// All messages up to here are counted.
    pub(super) counted_upto: u64,
    /// The row has the last message itself if this is `last_id`.
    pub(super) kept_id: u64,
    /// The row is behind.
    pub(super) is_behind: bool,
    /// A message and its id that the row is to have: messages go by age, conversations do not.
    pub(super) last: Option<(u64, Arc<[u8]>)>,
}

impl Entry {
    pub(super) fn read(row: &InboxRow<'_>) -> Self {
        Self {
            last_id: from_cql(row.1.unwrap_or(0)),
            unread: u32::try_from(row.2.unwrap_or(0)).unwrap_or(0),
            read_id: from_cql(row.3.unwrap_or(0)),
            in_box: row.4.filter(|name| !name.is_empty()).map(Into::into),
            muted_until_ms: from_cql(row.5.unwrap_or(0)),
            counted_upto: from_cql(row.6.unwrap_or(0)),
            kept_id: from_cql(row.7.unwrap_or(0)),
            is_behind: false,
            last: None,
        }
    }

    fn in_box(&self) -> &str {
        self.in_box.as_deref().unwrap_or(BOX_INBOX)
    }

    fn fits(&self, filter: &InboxFilter) -> bool {
        let last_ms = ArchiveId(self.last_id).ms();
        self.last_id > 0
            && filter.start_ms.is_none_or(|start| last_ms >= start)
            && filter.end_ms.is_none_or(|end| last_ms <= end)
            && !(filter.is_unread_only && self.unread == 0)
            && match filter.in_box.as_deref() {
                None => self.in_box() != BOX_BIN,
                Some(ALL) => true,
                Some(name) => self.in_box() == name,
            }
    }

    fn message(&mut self, id: u64, effect: InboxEffect) {
        self.last_id = id;
        self.counted_upto = id;
        self.is_behind = true;
        if self.in_box.as_deref() == Some(BOX_ARCHIVE) {
            self.in_box = None;
        }
        if effect == InboxEffect::Sent {
            self.unread = 0;
            self.read_id = id;
        } else {
            self.unread = self.unread.saturating_add(1);
        }
    }
}

impl State {
    /// What a message does to its conversation.
    pub(super) fn apply(&mut self, peer: &str, id: u64, effect: InboxEffect) {
        if effect == InboxEffect::None {
            return;
        }
        match self.entries.get_mut(peer) {
            Some(entry) => entry.message(id, effect),
            None => {
                let mut entry = Entry::default();
                entry.message(id, effect);
                self.entries.insert(peer.into(), entry);
            }
        }
    }

    /// The last message of a conversation is to be in its row, too.
    pub(super) fn remember_last(&mut self, peer: &str, id: u64, stanza: &Arc<[u8]>) {
        if let Some(entry) = self.entries.get_mut(peer)
            && entry.last_id == id
        {
            entry.last = Some((id, Arc::clone(stanza)));
        }
    }

    /// Whether the conversation's row knew of a message before the process died.
    pub(super) fn is_counted(&self, peer: &str, id: u64) -> bool {
        let entry = self.entries.get(peer);
        entry.is_some_and(|entry| entry.counted_upto >= id)
    }
}

/// Writes the rows that are behind, and up to where all of them know everything.
///
/// # Errors
/// The servers are away; the rows stay behind.
pub(super) async fn flush(
    servers: &Servers,
    deadline: Instant,
    owner: &str,
    state: &mut State,
) -> Result<(), Failure> {
    let pass = state.pass(owner);
    let mut rows: Vec<Row<'_>> = Vec::new();
    for (peer, entry) in state.entries.iter().filter(|(_, entry)| entry.is_behind) {
        let values = (
            owner,
            &**peer,
            to_cql(entry.last_id),
            i32::try_from(entry.unread).unwrap_or(i32::MAX),
            to_cql(entry.read_id),
            entry.in_box.as_deref().unwrap_or_default(),
            to_cql(entry.muted_until_ms),
            to_cql(entry.counted_upto),
            servers.clock.next(),
        );
        let bytes = owner.len() + peer.len() + 64;
        rows.push(Row::new(&servers.statements.inbox_put, values, bytes));
        if let Some((id, stanza)) = &entry.last {
            rows.push(keep_row(servers, owner, (peer, *id), stanza));
        }
    }
    let values = (
        servers.clock.next(),
        to_cql(state.newest),
        i32::try_from(state.unsealed).unwrap_or(i32::MAX),
        to_cql(state.sealed_upto),
        owner,
    );
    // The last one: without it, all is counted again.
    rows.push(Row::new(
        &servers.statements.inbox_flushed,
        values,
        owner.len(),
    ));
    let mut rest = rows.as_slice();
    while !rest.is_empty() {
        let (batch, later) = rest.split_at(fitting_rows(rest));
        servers.write(deadline, pass, batch).await?;
        rest = later;
    }
    drop(rows);
    for entry in state.entries.values_mut().filter(|entry| entry.is_behind) {
        entry.is_behind = false;
        if let Some((id, _)) = entry.last.take() {
            entry.kept_id = id;
        }
    }
    Ok(())
}

/// How many of these rows make one batch: at least one.
fn fitting_rows(rows: &[Row<'_>]) -> usize {
    let mut bytes = 0;
    let fitting = rows.iter().take(ROWS).take_while(|row| {
        bytes += row.bytes;
        bytes <= GROUP_BYTES
    });
    fitting.count().max(1)
}

/// A conversation's row gets this message.
pub(super) fn keep_row<'a>(
    servers: &'a Servers,
    owner: &str,
    (peer, id): (&str, u64),
    stanza: &[u8],
) -> Row<'a> {
    let kept = packed(stanza, owner, peer, Flags::OUT);
    let bytes = kept.len() + owner.len() + peer.len();
    let values = (servers.clock.next(), to_cql(id), kept, owner, peer);
    Row::new(&servers.statements.inbox_keep, values, bytes)
}

impl Turn<'_> {
    /// Writes the inbox's rows now.
    pub(super) async fn flush(&mut self) -> Result<(), Failure> {
        let servers = &self.engine.servers;
        flush(servers, self.deadline, self.owner, self.state).await?;
        self.slot.behind_ms.store(0, Ordering::Release);
        Ok(())
    }

    /// See [`antiphon_routing::store::Write::InboxRead`].
    pub(super) async fn inbox_read(&mut self, peer: &Jid, upto: Reference) -> Result<(), Failure> {
        let peer = peer.bare_str();
        let Some(entry) = self.state.entries.get(peer).filter(|e| e.last_id > 0) else {
            return Ok(());
        };
        let (read_id, unread) = (entry.read_id, entry.unread);
        let Some((upto, rest)) = self.referred(peer, upto, None).await? else {
            return Ok(());
        };
        // The rest is counted only if the mark moves: nobody counts twice by asking twice.
        if upto < read_id || (upto == read_id && unread == 0) {
            return Ok(());
        }
        if let Some(entry) = self.state.entries.get_mut(peer) {
            (entry.read_id, entry.unread, entry.is_behind) = (upto, rest, true);
        }
        self.flush().await
    }

    /// The message that a reference names, and how many above it count as unread.
    pub(super) async fn referred(
        &self,
        peer: &str,
        target: Reference,
        is_out: Option<bool>,
    ) -> Result<Option<(u64, u32)>, Failure> {
        let (floor, mut reach) = match target {
            Reference::Id(id) => (to_cql(id.0) - 1, usize::MAX),
            Reference::Mid(_) => (0, REFERENCE_REACH),
        };
        let first = bucket_of(from_cql(floor));
        let servers = &self.engine.servers;
        let (mut found, mut rest) = (None, 0u32);
        for bucket in self.state.buckets.iter().rev().filter(|b| **b >= first) {
            let mut before = i64::MAX;
            // Nearly always it is one of the newest.
            let mut limit = 32;
            loop {
                let values = (self.owner, *bucket, peer, floor, before, limit);
                let mut count = 0;
                let statement = &servers.statements.peer_down;
                let read = servers.pages(self.deadline, statement, values, |rows| {
                    let rows = rows.rows::<(i64, Option<i16>, Option<i64>)>();
                    for row in rows.map_err(Failure::answer)? {
                        let (id, flags, mid) = row.map_err(Failure::answer)?;
                        count += 1;
                        before = id;
                        if is_dead(&self.state.dead, from_cql(id)) {
                            continue;
                        }
                        let (flags, _) = read_flags(flags);
                        let is_meant = match target {
                            Reference::Id(wanted) => wanted.0 == from_cql(id),
                            Reference::Mid(wanted) => {
                                mid.is_some_and(|mid| mid.cast_unsigned() == wanted)
                            }
                        };
                        let is_side = is_out.is_none_or(|out| out == flags.has(Flags::OUT));
                        if is_meant && is_side {
                            found = Some(from_cql(id));
                            return Ok(ControlFlow::Break(()));
                        }
                        let counts = flags.has(Flags::COUNTS) && !flags.has(Flags::OUT);
                        rest = rest.saturating_add(u32::from(counts));
                        reach -= 1;
                        if reach == 0 {
                            return Ok(ControlFlow::Break(()));
                        }
                    }
                    Ok(ControlFlow::Continue(()))
                });
                read.await?;
                if found.is_some() || reach == 0 {
                    return Ok(found.map(|id| (id, rest)));
                }
                if count < limit {
                    break;
                }
                limit = super::archives::STEP;
            }
        }
        Ok(None)
    }

    /// See [`antiphon_routing::store::Write::InboxSet`].
    pub(super) async fn inbox_set(
        &mut self,
        peer: &Jid,
        change: &InboxChange,
    ) -> Result<(), Failure> {
        let entry = self.state.entries.get_mut(peer.bare_str());
        let Some(entry) = entry.filter(|entry| entry.last_id > 0) else {
            return Ok(());
        };
        let before = entry.clone();
        if let Some(name) = &change.in_box {
            entry.in_box = (**name != *BOX_INBOX).then(|| name.clone());
        }
        if let Some(until) = change.muted_until_ms {
            entry.muted_until_ms = until;
        }
        match change.is_read {
            Some(true) => (entry.unread, entry.read_id) = (0, entry.last_id),
            Some(false) => entry.unread = entry.unread.max(1),
            None => {}
        }
        if *entry == before {
            return Ok(());
        }
        entry.is_behind = true;
        self.flush().await
    }

    /// See [`antiphon_routing::store::Write::InboxEmptyBin`].
    pub(super) async fn inbox_empty_bin(&mut self, before_ms: u64) -> Result<(), Failure> {
        let before = ArchiveId::first_of(before_ms).0;
        let mut is_changed = false;
        for entry in self.state.entries.values_mut() {
            let is_in_bin = entry.in_box.as_deref() == Some(BOX_BIN);
            if entry.last_id == 0 || !is_in_bin || entry.last_id >= before {
                continue;
            }
            // The row stays: what was unread in it stays uncounted if the conversation begins again.
            *entry = Entry {
                read_id: entry.read_id.max(entry.last_id),
                counted_upto: entry.counted_upto,
                is_behind: true,
                ..Entry::default()
            };
            is_changed = true;
        }
        if is_changed {
            self.flush().await?;
        }
        Ok(())
    }
}

/// See [`antiphon_routing::store::Store::inbox_page`].
pub(super) async fn page(
    engine: &Arc<Engine>,
    deadline: Instant,
    owner: &Jid,
    filter: &InboxFilter,
    slice: InboxSlice,
) -> Result<InboxPage, Failure> {
    let mut entries = fitting(engine, deadline, owner, |_, entry| entry.fits(filter)).await?;
    let mut page = InboxPage {
        // Conversations of one owner stay far below.
        count: entries.len() as u32,
        unread: entries.iter().map(|(_, e)| u64::from(e.unread)).sum(),
        active: entries.iter().filter(|(_, e)| e.unread > 0).count() as u32,
        ..InboxPage::default()
    };
    entries.sort_unstable_by_key(|(_, entry)| entry.last_id);
    if !slice.is_ascending {
        entries.reverse();
    }
    let precedes = |a: u64, b: u64| if slice.is_ascending { a < b } else { a > b };
    entries.retain(|(_, entry)| {
        slice
            .after
            .is_none_or(|after| precedes(after.0, entry.last_id))
            && slice
                .before
                .is_none_or(|before| precedes(entry.last_id, before.0))
    });
    let limit = slice.limit.min(antiphon_routing::store::PAGE_MAX);
    page.is_complete = entries.len() <= limit;
    if slice.is_from_end {
        entries.drain(..entries.len().saturating_sub(limit));
    }
    entries.truncate(limit);
    page.entries = complete(engine, deadline, owner, entries).await?;
    Ok(page)
}

/// See [`antiphon_routing::store::Store::inbox_entry`].
pub(super) async fn entry(
    engine: &Arc<Engine>,
    deadline: Instant,
    owner: &Jid,
    peer: &Jid,
) -> Result<Option<InboxEntry>, Failure> {
    let peer = peer.bare_str();
    let wanted = |name: &str, entry: &Entry| name == peer && entry.last_id > 0;
    let entries = fitting(engine, deadline, owner, wanted).await?;
    let mut complete = complete(engine, deadline, owner, entries).await?;
    Ok(complete.pop())
}

async fn fitting(
    engine: &Arc<Engine>,
    deadline: Instant,
    owner: &Jid,
    fits: impl Fn(&str, &Entry) -> bool,
) -> Result<Vec<(Box<str>, Entry)>, Failure> {
    let slot = engine.archives.slot(owner.bare_str());
    let mut state = slot.state.lock().await;
    let state = engine
        .loaded(deadline, owner.bare_str(), &mut state)
        .await?;
    let fitting = state.entries.iter().filter(|(peer, e)| fits(peer, e));
    Ok(fitting.map(|(p, e)| (p.clone(), e.clone())).collect())
}

/// The entries with their last messages.
async fn complete(
    engine: &Arc<Engine>,
    deadline: Instant,
    owner: &Jid,
    entries: Vec<(Box<str>, Entry)>,
) -> Result<Vec<InboxEntry>, Failure> {
    let is_aging = engine.archives.ttl_s != 0;
    let archived = entries
        .iter()
        .filter(|(_, e)| is_aging || e.kept_id != e.last_id);
    let ids: Vec<u64> = archived.map(|(_, e)| e.last_id).collect();
    let mut stanzas: HashMap<u64, Box<[u8]>> = HashMap::new();
    if !ids.is_empty() {
        let reader = Reader::new(engine, deadline, owner).await?;
        for message in reader.fetch(&ids).await? {
            stanzas.insert(message.id.0, message.stanza);
        }
    }
    for (_, entry) in &entries {
        if let Some((id, stanza)) = &entry.last {
            stanzas.entry(*id).or_insert_with(|| (**stanza).into());
        }
    }
    let gone = entries
        .iter()
        .filter(|(_, e)| !stanzas.contains_key(&e.last_id));
    let mut kept = match gone.count() {
        0 => HashMap::new(),
        1 if entries.len() == 1 => kept(engine, deadline, owner, Some(&entries[0].0)).await?,
        _ => kept(engine, deadline, owner, None).await?,
    };
    let mut complete = Vec::with_capacity(entries.len());
    for (peer, entry) in entries {
        let stanza = stanzas.remove(&entry.last_id).or_else(|| {
            let (id, stanza) = kept.remove(&peer)?;
            (id == entry.last_id).then_some(stanza)
        });
        let stanza = stanza.unwrap_or_default();
        complete.push(InboxEntry {
            peer: Jid::parse(&peer).map_err(Failure::answer)?,
            last_id: ArchiveId(entry.last_id),
            unread: entry.unread,
            read_id: ArchiveId(entry.read_id),
            in_box: entry.in_box().into(),
            muted_until_ms: entry.muted_until_ms,
            stanza,
        });
    }
    Ok(complete)
}

/// The messages that conversations' own rows have, with their ids; of one, or of all.
async fn kept(
    engine: &Engine,
    deadline: Instant,
    owner: &Jid,
    peer: Option<&str>,
) -> Result<HashMap<Box<str>, (u64, Box<[u8]>)>, Failure> {
    let servers = &engine.servers;
    let mut found = HashMap::new();
    let take = |rows: &QueryRowsResult| {
        type Kept<'r> = (Option<&'r str>, Option<i64>, Option<&'r [u8]>);
        for row in rows.rows::<Kept<'_>>().map_err(Failure::answer)? {
            if let (Some(peer), Some(id), Some(stored)) = row.map_err(Failure::answer)? {
                let stanza = unpacked(stored, owner.bare_str(), peer, Flags::OUT)?;
                found.insert(peer.into(), (from_cql(id), stanza));
            }
        }
        Ok(ControlFlow::Continue(()))
    };
    let owner = owner.bare_str();
    let statements = &servers.statements;
    match peer {
        Some(peer) => {
            let statement = &statements.inbox_kept;
            servers
                .pages(deadline, statement, (owner, peer), take)
                .await?;
        }
        None => {
            let statement = &statements.inbox_kept_all;
            servers.pages(deadline, statement, (owner,), take).await?;
        }
    }
    Ok(found)
}
