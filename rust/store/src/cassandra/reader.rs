//! Reads of archives.

use super::archives::{HeadRow, STEP, bucket_of, buckets, read_flags};
use super::engine::Engine;
use super::error::Failure;
use super::taken::{Dead, dead, is_dead};
use super::{from_cql, to_cql};
use crate::sqlite::archive::is_searchable;
use crate::sqlite::content::{Packer, Sides, unpack};
use crate::stanza::{bodies, is_with};
use antiphon_routing::archive::{
    ArchiveEnds, ArchiveFilter, ArchiveId, ArchivePage, ArchivedMessage, Collection, Flags,
};
use antiphon_routing::store::PAGE_MAX;
use antiphon_text::Query;
use antiphon_xmpp::Jid;
use scylla::response::query_result::QueryRowsResult;
use std::cell::RefCell;
use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use tokio::time::Instant;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// Ids in one request.
const FETCH: usize = 256;

thread_local! {
    static PACKER: RefCell<Packer> = RefCell::new(Packer::default());
}

/// The stored form of a stanza.
pub(super) fn packed(stanza: &[u8], owner: &str, peer: &str, flags: Flags) -> Vec<u8> {
    let sides = Sides::new(owner, peer, flags.has(Flags::OUT));
    PACKER.with_borrow_mut(|packer| packer.pack(stanza, sides))
}

/// The stanza behind its stored form.
///
/// # Errors
/// What is stored is damaged.
pub(super) fn unpacked(
    stored: &[u8],
    owner: &str,
    peer: &str,
    flags: Flags,
) -> Result<Box<[u8]>, Failure> {
    let sides = Sides::new(owner, peer, flags.has(Flags::OUT));
    unpack(stored, sides).map_err(Failure::answer)
}

/// The columns `id, peer, flags, stanza`.
type ContentRow<'a> = (i64, Option<&'a str>, Option<i16>, Option<&'a [u8]>);

/// A part of an archive: both ends are left out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub(super) after: i64,
    pub(super) before: i64,
}

/// A filter, prepared.
pub(super) struct Plan {
    pub(super) span: Span,
    /// Only with this bare JID.
    pub(super) peer: Option<String>,
    /// Only with exactly this full JID.
    full: Option<Jid>,
    pub(super) query: Option<Query>,
    without_groupchat: bool,
}

impl Plan {
    /// `None`: nothing can fit.
    pub(super) fn new(filter: &ArchiveFilter) -> Option<Self> {
        let query = match filter.text.as_deref().map(Query::parse) {
            Some(Ok(query)) => Some(query),
            // The caller has said no to it already.
            Some(Err(_)) => return None,
            None => None,
        };
        let with = filter.with.as_ref();
        Some(Self {
            span: Span {
                after: filter.after.map_or(-1, |id| to_cql(id.0)),
                before: filter.before.map_or(i64::MAX, |id| to_cql(id.0)),
            },
            peer: with.map(|with| with.bare_str().to_owned()),
            full: with.filter(|with| with.resource().is_some()).cloned(),
            query,
            without_groupchat: filter.without_groupchat,
        })
    }

    /// The message, if it fits.
    fn message(
        &self,
        owner: &Jid,
        (id, peer, flags, stored): ContentRow<'_>,
    ) -> Result<Option<ArchivedMessage>, Failure> {
        let (flags, _) = read_flags(flags);
        // Without: a row that was changed when it had gone.
        let (Some(peer), Some(stored)) = (peer, stored) else {
            return Ok(None);
        };
        if id <= self.span.after
            || id >= self.span.before
            || self.peer.as_deref().is_some_and(|wanted| wanted != peer)
            || (self.without_groupchat && flags.has(Flags::GROUPCHAT))
            || (self.query.is_some() && !is_searchable(flags))
        {
            return Ok(None);
        }
        let stanza = unpacked(stored, owner.bare_str(), peer, flags)?;
        if let Some(full) = &self.full
            && !is_with(&stanza, owner, flags, full)
        {
            return Ok(None);
        }
        if let Some(query) = &self.query
            && !query.matches(&bodies(&stanza))
        {
            return Ok(None);
        }
        Ok(Some(ArchivedMessage {
            id: ArchiveId(from_cql(id)),
            flags,
            stanza,
        }))
    }
}

/// One archive.
#[derive(Clone)]
pub(super) struct Reader {
    pub(super) engine: Arc<Engine>,
    pub(super) deadline: Instant,
    pub(super) jid: Jid,
    /// Its months, ascending.
    buckets: Arc<[i32]>,
    /// Its parts that are dead, where they are known.
    dead: Option<Arc<[Dead]>>,
}

impl Reader {
    pub(super) async fn new(
        engine: &Arc<Engine>,
        deadline: Instant,
        jid: &Jid,
    ) -> Result<Self, Failure> {
        let slot = engine.archives.slot(jid.bare_str());
        // While a write goes on the index of months is read; what it adds is not asked for yet.
        let known = match slot.state.try_lock() {
            Ok(state) => state
                .as_ref()
                .map(|state| (state.buckets.clone(), Arc::from(state.dead.as_slice()))),
            Err(_) => None,
        };
        let (buckets, dead) = match known {
            Some((buckets, dead)) => (buckets, Some(dead)),
            None => {
                let buckets = buckets(&engine.servers, deadline, jid.bare_str());
                (buckets.await?, None)
            }
        };
        Ok(Self {
            engine: Arc::clone(engine),
            deadline,
            jid: jid.bare(),
            buckets: buckets.into(),
            dead,
        })
    }

    /// The parts that are dead: rows of conversations may still name what was there.
    async fn dead(&self) -> Result<Arc<[Dead]>, Failure> {
        if let Some(dead) = &self.dead {
            return Ok(Arc::clone(dead));
        }
        let servers = &self.engine.servers;
        Ok(dead(servers, self.deadline, self.owner()).await?.into())
    }

    pub(super) fn owner(&self) -> &str {
        self.jid.bare_str()
    }

    /// The months that a span touches, in the order of the query.
    fn months(&self, span: Span, is_from_end: bool) -> Vec<i32> {
        let (first, last) = (
            bucket_of(from_cql(span.after)),
            bucket_of(from_cql(span.before)),
        );
        let touched = self.buckets.iter().copied();
        let mut months: Vec<i32> = touched.filter(|b| (first..=last).contains(b)).collect();
        if is_from_end {
            months.reverse();
        }
        months
    }

    /// Hands the rows of a span to `take`, in the order of the query, `step` at a time.
    pub(super) async fn rows(
        &self,
        span: Span,
        is_from_end: bool,
        step: i32,
        mut take: impl FnMut(ContentRow<'_>) -> Result<ControlFlow<()>, Failure>,
    ) -> Result<(), Failure> {
        let statements = &self.engine.servers.statements;
        let statement = if is_from_end {
            &statements.archive_down
        } else {
            &statements.archive_up
        };
        for month in self.months(span, is_from_end) {
            let (mut rest, mut step) = (span, step);
            loop {
                let values = (self.owner(), month, rest.after, rest.before, step);
                let (mut count, mut is_over) = (0, false);
                let read = self
                    .engine
                    .servers
                    .pages(self.deadline, statement, values, |rows| {
                        for row in rows.rows::<ContentRow<'_>>().map_err(Failure::answer)? {
                            let row = row.map_err(Failure::answer)?;
                            count += 1;
                            if is_from_end {
                                rest.before = row.0;
                            } else {
                                rest.after = row.0;
                            }
                            if take(row)?.is_break() {
                                is_over = true;
                                return Ok(ControlFlow::Break(()));
                            }
                        }
                        Ok(ControlFlow::Continue(()))
                    });
                read.await?;
                if is_over {
                    return Ok(());
                }
                if count < step {
                    break;
                }
                step = (step * 2).min(STEP);
            }
        }
        Ok(())
    }

    /// The same without contents.
    async fn heads(
        &self,
        span: Span,
        is_from_end: bool,
        step: i32,
        mut take: impl FnMut(HeadRow<'_>) -> ControlFlow<()>,
    ) -> Result<(), Failure> {
        let statements = &self.engine.servers.statements;
        let statement = if is_from_end {
            &statements.archive_heads_down
        } else {
            &statements.archive_heads_up
        };
        for month in self.months(span, is_from_end) {
            let values = (self.owner(), month, span.after, span.before, step);
            let mut is_over = false;
            let read = self
                .engine
                .servers
                .pages(self.deadline, statement, values, |rows| {
                    for row in rows.rows::<HeadRow<'_>>().map_err(Failure::answer)? {
                        if take(row.map_err(Failure::answer)?).is_break() {
                            is_over = true;
                            return Ok(ControlFlow::Break(()));
                        }
                    }
                    Ok(ControlFlow::Continue(()))
                });
            read.await?;
            if is_over {
                break;
            }
        }
        Ok(())
    }

    /// The newest message above which there are `most`; `None`: there are no more than those.
    pub(super) async fn beyond(&self, most: u64) -> Result<Option<i64>, Failure> {
        let all = Span {
            after: -1,
            before: i64::MAX,
        };
        let (mut left, mut found) = (most, None);
        self.heads(all, true, i32::MAX, |row| {
            if left == 0 {
                found = Some(row.0);
                return ControlFlow::Break(());
            }
            left -= 1;
            ControlFlow::Continue(())
        })
        .await?;
        Ok(found)
    }

    /// The ids of a conversation in a span, in the order of the query, at most `limit`.
    pub(super) async fn of_peer(
        &self,
        peer: &str,
        span: Span,
        is_from_end: bool,
        limit: usize,
    ) -> Result<Vec<u64>, Failure> {
        let statements = &self.engine.servers.statements;
        let statement = if is_from_end {
            &statements.peer_down
        } else {
            &statements.peer_up
        };
        let mut ids = Vec::new();
        for month in self.months(span, is_from_end) {
            let rest = i32::try_from(limit - ids.len()).unwrap_or(i32::MAX);
            let values = (self.owner(), month, peer, span.after, span.before, rest);
            let read = self
                .engine
                .servers
                .pages(self.deadline, statement, values, |rows| {
                    let rows = rows.rows::<(i64, Option<i16>, Option<i64>)>();
                    for row in rows.map_err(Failure::answer)? {
                        ids.push(from_cql(row.map_err(Failure::answer)?.0));
                    }
                    Ok(ControlFlow::Continue(()))
                });
            read.await?;
            if ids.len() >= limit {
                break;
            }
        }
        Ok(ids)
    }

    /// The messages with these ids, in no order; those that are not there are left out.
    pub(super) async fn fetch(&self, ids: &[u64]) -> Result<Vec<ArchivedMessage>, Failure> {
        let all = Plan {
            span: Span {
                after: -1,
                before: i64::MAX,
            },
            peer: None,
            full: None,
            query: None,
            without_groupchat: false,
        };
        self.fetch_fitting(&all, ids).await
    }

    /// Those of them that fit.
    pub(super) async fn fetch_fitting(
        &self,
        plan: &Plan,
        ids: &[u64],
    ) -> Result<Vec<ArchivedMessage>, Failure> {
        let mut ids: Vec<u64> = ids.to_vec();
        ids.sort_unstable();
        ids.dedup();
        let mut found = Vec::with_capacity(ids.len());
        let statement = &self.engine.servers.statements.archive_at;
        for month in ids.chunk_by(|a, b| bucket_of(*a) == bucket_of(*b)) {
            let bucket = bucket_of(month[0]);
            if self.buckets.binary_search(&bucket).is_err() {
                continue;
            }
            for some in month.chunks(FETCH) {
                let some: Vec<i64> = some.iter().map(|id| to_cql(*id)).collect();
                let values = (self.owner(), bucket, some);
                let servers = &self.engine.servers;
                servers
                    .pages(self.deadline, statement, values, |rows| {
                        for row in rows.rows::<ContentRow<'_>>().map_err(Failure::answer)? {
                            let row = row.map_err(Failure::answer)?;
                            found.extend(plan.message(&self.jid, row)?);
                        }
                        Ok(ControlFlow::Continue(()))
                    })
                    .await?;
            }
        }
        Ok(found)
    }

    /// What fits of a span, in the order of the query, at most `limit`.
    pub(super) async fn span(
        &self,
        plan: &Plan,
        span: Span,
        is_from_end: bool,
        limit: usize,
    ) -> Result<Vec<ArchivedMessage>, Failure> {
        let span = Span {
            after: span.after.max(plan.span.after),
            before: span.before.min(plan.span.before),
        };
        match &plan.peer {
            Some(peer) => {
                self.span_of_peer(plan, peer, span, is_from_end, limit)
                    .await
            }
            None => {
                let mut found = Vec::new();
                // Of a search most do not fit.
                let step = if plan.query.is_some() {
                    STEP as usize
                } else {
                    limit
                };
                let step = i32::try_from(step).unwrap_or(STEP).clamp(1, STEP + 1);
                self.rows(span, is_from_end, step, |row| {
                    found.extend(plan.message(&self.jid, row)?);
                    Ok(if found.len() < limit {
                        ControlFlow::Continue(())
                    } else {
                        ControlFlow::Break(())
                    })
                })
                .await?;
                Ok(found)
            }
        }
    }

    async fn span_of_peer(
        &self,
        plan: &Plan,
        peer: &str,
        mut span: Span,
        is_from_end: bool,
        limit: usize,
    ) -> Result<Vec<ArchivedMessage>, Failure> {
        let is_narrow = plan.full.is_some() || plan.query.is_some();
        let step = if is_narrow { FETCH.max(limit) } else { limit };
        let mut found = Vec::new();
        loop {
            let ids = self.of_peer(peer, span, is_from_end, step).await?;
            let Some(last) = ids.last() else {
                return Ok(found);
            };
            if is_from_end {
                span.before = to_cql(*last);
            } else {
                span.after = to_cql(*last);
            }
            let mut some = self.fetch_fitting(plan, &ids).await?;
            sort(&mut some, is_from_end);
            found.append(&mut some);
            if found.len() >= limit || ids.len() < step {
                found.truncate(limit);
                return Ok(found);
            }
        }
    }
}

/// Puts messages in the order of a query.
pub(super) fn sort(messages: &mut [ArchivedMessage], is_from_end: bool) {
    messages.sort_unstable_by_key(|message| message.id);
    if is_from_end {
        messages.reverse();
    }
}

/// See [`antiphon_routing::store::Store::archive_page`].
pub(super) async fn page(
    reader: &Reader,
    filter: &ArchiveFilter,
    is_from_end: bool,
    limit: usize,
) -> Result<ArchivePage, Failure> {
    let Some(plan) = Plan::new(filter) else {
        return Ok(ArchivePage {
            is_complete: true,
            ..ArchivePage::default()
        });
    };
    let mut messages = match (&filter.ids, &plan.query) {
        (Some(ids), _) => {
            let ids: Vec<u64> = ids.iter().map(|id| id.0).collect();
            let mut found = reader.fetch_fitting(&plan, &ids).await?;
            sort(&mut found, is_from_end);
            found
        }
        (None, Some(_)) => super::search::find(reader, plan, is_from_end, limit + 1).await?,
        (None, None) => {
            reader
                .span(&plan, plan.span, is_from_end, limit + 1)
                .await?
        }
    };
    let is_complete = messages.len() <= limit;
    messages.truncate(limit);
    if is_from_end {
        messages.reverse();
    }
    Ok(ArchivePage {
        messages,
        is_complete,
        is_unstable: false,
    })
}

/// See [`antiphon_routing::store::Store::archive_count`]. Reads the rows of conversations, which are
/// a tenth of those of contents.
pub(super) async fn count(
    reader: &Reader,
    filter: &ArchiveFilter,
    most: u64,
) -> Result<Option<u64>, Failure> {
    let Some(plan) = Plan::new(filter) else {
        return Ok(Some(0));
    };
    if plan.query.is_some() || plan.full.is_some() || filter.ids.is_some() {
        // Only by reading contents: what one page holds.
        let limit = usize::try_from(most).unwrap_or(PAGE_MAX).min(PAGE_MAX);
        let page = page(reader, filter, false, limit.max(1)).await?;
        let count = page.messages.len() as u64;
        return Ok((page.is_complete && count <= most).then_some(count));
    }
    let statements = &reader.engine.servers.statements;
    let dead = reader.dead().await?;
    let mut count = 0;
    let mut take = |rows: &QueryRowsResult| {
        for row in rows.rows::<(i64, Option<i16>)>().map_err(Failure::answer)? {
            let (id, flags) = row.map_err(Failure::answer)?;
            let is_in = id > plan.span.after && id < plan.span.before;
            let is_hidden = plan.without_groupchat && read_flags(flags).0.has(Flags::GROUPCHAT);
            count += u64::from(is_in && !is_hidden && !is_dead(&dead, from_cql(id)));
        }
        Ok(if count > most {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        })
    };
    for month in reader.months(plan.span, true) {
        let (servers, deadline) = (&reader.engine.servers, reader.deadline);
        match &plan.peer {
            Some(peer) => {
                let values = (reader.owner(), month, peer.as_str());
                let read = servers.pages(deadline, &statements.peer_ids, values, &mut take);
                read.await?;
            }
            None => {
                let values = (reader.owner(), month);
                let read = servers.pages(deadline, &statements.month_ids, values, &mut take);
                read.await?;
            }
        }
    }
    Ok((count <= most).then_some(count))
}

/// See [`antiphon_routing::store::Store::archive_known`].
pub(super) async fn known(reader: &Reader, ids: Vec<ArchiveId>) -> Result<Vec<ArchiveId>, Failure> {
    let wanted: Vec<u64> = ids.iter().map(|id| id.0).collect();
    let found = reader.fetch(&wanted).await?;
    let there: HashSet<ArchiveId> = found.into_iter().map(|message| message.id).collect();
    Ok(ids.into_iter().filter(|id| there.contains(id)).collect())
}

/// See [`antiphon_routing::store::Store::archive_ends`].
pub(super) async fn ends(reader: &Reader) -> Result<Option<ArchiveEnds>, Failure> {
    let all = Span {
        after: -1,
        before: i64::MAX,
    };
    let mut found = [None, None];
    for (found, is_from_end) in found.iter_mut().zip([false, true]) {
        reader
            .heads(all, is_from_end, 1, |row| {
                *found = Some(ArchiveId(from_cql(row.0)));
                ControlFlow::Break(())
            })
            .await?;
    }
    let [first, last] = found;
    Ok(first
        .zip(last)
        .map(|(first, last)| ArchiveEnds { first, last }))
}

/// The UTC day of an id.
fn day_of(id: i64) -> u64 {
    ArchiveId(from_cql(id)).ms() / DAY_MS
}

/// The first message of each conversation on each day, out of messages in their order.
#[derive(Default)]
struct Days {
    /// Only above it.
    after: i64,
    limit: usize,
    day: u64,
    /// Conversations of the day.
    seen: HashSet<String>,
    firsts: Vec<(String, i64)>,
}

impl Days {
    fn take(&mut self, id: i64, peer: &str) -> ControlFlow<()> {
        if day_of(id) != self.day {
            self.day = day_of(id);
            self.seen.clear();
        }
        if !self.seen.contains(peer) {
            self.seen.insert(peer.to_owned());
            if id > self.after {
                self.firsts.push((peer.to_owned(), id));
            }
        }
        if self.firsts.len() == self.limit {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }
}

/// See [`antiphon_routing::store::Store::archive_collections`].
pub(super) async fn collections(
    reader: &Reader,
    filter: &ArchiveFilter,
    limit: usize,
) -> Result<Vec<Collection>, Failure> {
    let Some(plan) = Plan::new(filter) else {
        return Ok(Vec::new());
    };
    // From the beginning of the day, whose first message may lie before what is asked for.
    let after = plan.span.after;
    let begin = to_cql(ArchiveId::first_of(day_of(after) * DAY_MS).0) - 1;
    let whole = Plan {
        span: Span {
            after: begin.min(after),
            ..plan.span
        },
        ..plan
    };
    let mut days = Days {
        after,
        limit,
        ..Days::default()
    };
    if whole.full.is_some() {
        reader
            .rows(whole.span, false, STEP, |row| {
                let (id, peer) = (row.0, row.1.unwrap_or_default());
                let fits = whole.message(&reader.jid, row)?.is_some();
                Ok(if fits {
                    days.take(id, peer)
                } else {
                    ControlFlow::Continue(())
                })
            })
            .await?;
    } else {
        let wanted = whole.peer.as_deref();
        reader
            .heads(whole.span, false, i32::MAX, |row| {
                let is_hidden =
                    whole.without_groupchat && read_flags(row.2).0.has(Flags::GROUPCHAT);
                match row.1 {
                    Some(peer) if !is_hidden && wanted.is_none_or(|wanted| wanted == peer) => {
                        days.take(row.0, peer)
                    }
                    _ => ControlFlow::Continue(()),
                }
            })
            .await?;
    }
    days.firsts
        .into_iter()
        .map(|(peer, first)| {
            Ok(Collection {
                peer: Jid::parse(&peer).map_err(Failure::answer)?,
                first: ArchiveId(from_cql(first)),
            })
        })
        .collect()
}
