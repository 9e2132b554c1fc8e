//! Full-text search: segments of an archive, each with a filter that tells which words may be in
//! it. A search reads the filters, then only those segments that may have an answer; what lies above
//! the last segment is read whole. The text itself decides.

use super::archives::Slot;
use super::engine::Engine;
use super::error::Failure;
use super::reader::{Plan, Reader, Span, sort, unpacked};
use super::servers::Row;
use super::{from_cql, to_cql};
use crate::sqlite::archive::is_searchable;
use crate::stanza::bodies;
use antiphon_routing::archive::ArchivedMessage;
use antiphon_text::{Bloom, BloomBuilder};
use antiphon_xmpp::Jid;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Messages without a segment that are worth making some of.
pub(super) const UNSEALED: u32 = 64;

/// Messages of a segment. Two words that are each in one message of thirty meet in one segment of
/// seven; of 64 messages each (measured) they do in three of four, and whole archives are read. The
/// filters are larger by a half.
const SEGMENT: u32 = 16;

/// Filters of the first request, and of a later one at most: half a kilobyte each.
const FIRST_FILTERS: i32 = 64;
const MOST_FILTERS: i32 = 2048;

/// A conversation of at most so many messages is read without the filters, and so many of them
/// first.
const CONVERSATION: usize = 512;
const FIRST_IDS: usize = 64;

/// Segments that are read at a time, first and at most.
const FIRST_WAVE: usize = 4;
const WAVE: usize = 64;

/// Segments that one request reads at most, and between two of which it may read what has no answer:
/// a request costs as much as some twenty rows.
const RUN: usize = 16;
const GAP: u32 = 2;

/// A segment that may have answers, and its place among all that were looked at.
#[derive(Clone, Copy)]
struct Candidate {
    place: u32,
    span: Span,
}

/// The segments of one search, filter after filter.
struct Segments<'a> {
    reader: &'a Reader,
    plan: &'a Plan,
    is_from_end: bool,
    /// Not read yet: segments that begin in here.
    rest: Span,
    step: i32,
    /// How many were looked at.
    place: u32,
    is_over: bool,
}

impl Segments<'_> {
    /// The next candidates, in the order of the query; `None`: there are no more segments.
    async fn next(&mut self) -> Result<Option<Vec<Candidate>>, Failure> {
        if self.is_over {
            return Ok(None);
        }
        let servers = &self.reader.engine.servers;
        let statement = if self.is_from_end {
            &servers.statements.seg_down
        } else {
            &servers.statements.seg_up
        };
        let values = (
            self.reader.owner(),
            self.rest.after,
            self.rest.before,
            self.step,
        );
        let (mut count, mut candidates) = (0, Vec::new());
        let (plan, is_from_end) = (self.plan, self.is_from_end);
        let (rest, is_over, place) = (&mut self.rest, &mut self.is_over, &mut self.place);
        let deadline = self.reader.deadline;
        servers
            .pages(deadline, statement, values, |rows| {
                let rows = rows.rows::<(i64, Option<i64>, Option<&[u8]>)>();
                for row in rows.map_err(Failure::answer)? {
                    let (first, last, filter) = row.map_err(Failure::answer)?;
                    count += 1;
                    *place += 1;
                    if is_from_end {
                        rest.before = first;
                    } else {
                        rest.after = first;
                    }
                    let last = last.unwrap_or(i64::MAX - 1);
                    if last <= plan.span.after {
                        // Older ones lie still further away.
                        *is_over |= is_from_end;
                        continue;
                    }
                    if may_match(plan, filter.unwrap_or_default()) {
                        let span = Span {
                            after: first - 1,
                            before: last.saturating_add(1),
                        };
                        let place = *place;
                        candidates.push(Candidate { place, span });
                    }
                }
                Ok(ControlFlow::Continue(()))
            })
            .await?;
        self.is_over |= count < self.step;
        self.step = (self.step * 4).min(MOST_FILTERS);
        Ok(Some(candidates))
    }
}

/// A filter that cannot be read lets everything through.
fn may_match(plan: &Plan, filter: &[u8]) -> bool {
    match (&plan.query, Bloom::decode(filter)) {
        (Some(query), Ok(filter)) => query.may_match(&filter),
        _ => true,
    }
}

/// The messages that a search finds, in the order of the query, at most `limit`.
pub(super) async fn find(
    reader: &Reader,
    plan: Plan,
    is_from_end: bool,
    limit: usize,
) -> Result<Vec<ArchivedMessage>, Failure> {
    if let Some(peer) = &plan.peer
        && let Some(ids) = conversation(reader, &plan, peer, is_from_end).await?
    {
        return find_among(reader, &plan, &ids, is_from_end, limit).await;
    }
    let plan = Arc::new(plan);
    let newest = ends(reader, i64::MAX).await?;
    let tail = Span {
        after: newest.map_or(-1, |(_, last)| last),
        before: i64::MAX,
    };
    let mut found = Vec::new();
    if is_from_end {
        found = reader.span(&plan, tail, true, limit).await?;
    }
    let mut rest = Span {
        after: -1,
        before: plan.span.before,
    };
    if !is_from_end && plan.span.after >= 0 {
        // The segment that the beginning lies in.
        if let Some((first, _)) = ends(reader, plan.span.after.saturating_add(1)).await? {
            rest.after = first - 1;
        }
    }
    let mut segments = Segments {
        reader,
        plan: &plan,
        is_from_end,
        rest,
        step: FIRST_FILTERS,
        place: 0,
        is_over: newest.is_none(),
    };
    // A word that is everywhere is in the first ones.
    let mut wave = FIRST_WAVE;
    while found.len() < limit
        && let Some(candidates) = segments.next().await?
    {
        let mut rest = candidates.as_slice();
        while found.len() < limit && !rest.is_empty() {
            let (now, later) = rest.split_at(wave.min(rest.len()));
            let mut some = read(reader, &plan, &runs(now), is_from_end, limit).await?;
            found.append(&mut some);
            rest = later;
            wave = (wave * 2).min(WAVE);
        }
    }
    if !is_from_end && found.len() < limit {
        let mut last = reader.span(&plan, tail, false, limit - found.len()).await?;
        found.append(&mut last);
    }
    found.truncate(limit);
    Ok(found)
}

/// The ids of a conversation, in the order of the query; `None`: too many.
async fn conversation(
    reader: &Reader,
    plan: &Plan,
    peer: &str,
    is_from_end: bool,
) -> Result<Option<Vec<u64>>, Failure> {
    let ids = reader
        .of_peer(peer, plan.span, is_from_end, CONVERSATION + 1)
        .await?;
    Ok((ids.len() <= CONVERSATION).then_some(ids))
}

/// Looks through these messages, in their order.
async fn find_among(
    reader: &Reader,
    plan: &Plan,
    ids: &[u64],
    is_from_end: bool,
    limit: usize,
) -> Result<Vec<ArchivedMessage>, Failure> {
    let mut found = Vec::new();
    let (mut rest, mut step) = (ids, FIRST_IDS);
    while found.len() < limit && !rest.is_empty() {
        let (now, later) = rest.split_at(step.min(rest.len()));
        let mut some = reader.fetch_fitting(plan, now).await?;
        sort(&mut some, is_from_end);
        found.append(&mut some);
        (rest, step) = (later, (step * 2).min(CONVERSATION));
    }
    found.truncate(limit);
    Ok(found)
}

/// Begin and end of the last segment that begins below an id.
async fn ends(reader: &Reader, before: i64) -> Result<Option<(i64, i64)>, Failure> {
    let servers = &reader.engine.servers;
    let values = (reader.owner(), before, 1);
    let statement = &servers.statements.seg_ends;
    let rows = servers.rows(reader.deadline, statement, values).await?;
    let row: Option<(i64, Option<i64>)> = rows.maybe_first_row().map_err(Failure::answer)?;
    Ok(row.and_then(|(first, last)| Some((first, last?))))
}

/// What is read at once: candidates that are near one another, in their order.
fn runs(candidates: &[Candidate]) -> Vec<Span> {
    let mut runs: Vec<(Span, u32, usize)> = Vec::new();
    for candidate in candidates {
        let (span, place) = (candidate.span, candidate.place);
        match runs.last_mut() {
            Some((run, last, count)) if place - *last <= GAP && *count < RUN => {
                run.after = run.after.min(span.after);
                run.before = run.before.max(span.before);
                (*last, *count) = (place, *count + 1);
            }
            _ => runs.push((span, place, 1)),
        }
    }
    runs.into_iter().map(|(run, ..)| run).collect()
}

/// What the spans have, all of them at a time.
async fn read(
    reader: &Reader,
    plan: &Arc<Plan>,
    candidates: &[Span],
    is_from_end: bool,
    limit: usize,
) -> Result<Vec<ArchivedMessage>, Failure> {
    if let [one] = candidates {
        return reader.span(plan, *one, is_from_end, limit).await;
    }
    let mut reads = JoinSet::new();
    for candidate in candidates.iter().copied() {
        let (reader, plan) = (reader.clone(), Arc::clone(plan));
        reads.spawn(async move { reader.span(&plan, candidate, is_from_end, limit).await });
    }
    let mut found = Vec::new();
    while let Some(read) = reads.join_next().await {
        found.append(&mut read.map_err(Failure::answer)??);
    }
    sort(&mut found, is_from_end);
    Ok(found)
}

/// Makes segments of the messages that have none, as long as there are enough of them.
///
/// # Errors
/// The servers are away.
pub(super) async fn seal(
    engine: &Arc<Engine>,
    deadline: Instant,
    owner: &str,
    slot: &Slot,
) -> Result<(), Failure> {
    let jid = Jid::parse(owner).map_err(Failure::answer)?;
    loop {
        let (sealed, newest) = match slot.state.lock().await.as_ref() {
            Some(state) if state.unsealed >= UNSEALED => (state.sealed_upto, state.newest),
            _ => return Ok(()),
        };
        let reader = Reader::new(engine, deadline, &jid).await?;
        let last = ends(&reader, i64::MAX).await?;
        let after = to_cql(sealed).max(last.map_or(-1, |(_, last)| last));
        let mut segments = gather(&reader, after).await?;
        let unfinished = segments
            .pop_if(|last| !last.is_whole())
            .map_or(0, |last| last.count);
        let rows: Vec<Row<'_>> = segments
            .iter()
            .map(|segment| segment.row(engine, owner))
            .collect();
        engine.servers.write(deadline, &rows).await?;
        let mut guard = slot.state.lock().await;
        let Some(state) = guard.as_mut() else {
            return Ok(());
        };
        if let Some(last) = segments.last() {
            let count: u32 = segments.iter().map(|segment| segment.count).sum();
            state.sealed_upto = state.sealed_upto.max(from_cql(last.last));
            state.unsealed = state.unsealed.saturating_sub(count);
        } else if state.newest == newest {
            // Some were retracted or purged.
            state.unsealed = unfinished;
        }
        slot.unsealed
            .store(u64::from(state.unsealed), Ordering::Relaxed);
        if slot.behind_ms.load(Ordering::Acquire) == 0 {
            let now = engine.archives.now_ms();
            slot.behind_ms.store(now, Ordering::Release);
        }
        if segments.is_empty() {
            return Ok(());
        }
    }
}

/// What a segment will be.
struct Segment {
    first: i64,
    last: i64,
    count: u32,
    /// No more words fit the filter.
    is_full: bool,
    filter: Vec<u8>,
}

impl Segment {
    fn is_whole(&self) -> bool {
        self.count >= SEGMENT || self.is_full
    }

    fn row<'a>(&'a self, engine: &'a Engine, owner: &'a str) -> Row<'a> {
        let values = (
            owner,
            self.first,
            self.last,
            i32::try_from(self.count).unwrap_or(i32::MAX),
            self.filter.as_slice(),
            engine.servers.clock.next(),
            engine.archives.ttl_s,
        );
        let bytes = owner.len() + self.filter.len();
        Row::new(&engine.servers.statements.seg_put, values, bytes)
    }
}

/// The next segments behind an id, about as many messages as are worth a request; the last of them
/// need not be whole.
async fn gather(reader: &Reader, after: i64) -> Result<Vec<Segment>, Failure> {
    let mut segments: Vec<Segment> = Vec::new();
    let mut builder = BloomBuilder::new();
    let (mut first, mut last, mut count, mut total) = (0, 0, 0, 0);
    let span = Span {
        after,
        before: i64::MAX,
    };
    // A few more than searchable ones: chat markers are kept too.
    let step = UNSEALED.cast_signed() + 32;
    reader
        .rows(span, false, step, |(id, peer, flags, stored)| {
            let (flags, _) = super::archives::read_flags(flags);
            let (Some(peer), Some(stored)) = (peer, stored) else {
                return Ok(ControlFlow::Continue(()));
            };
            if !is_searchable(flags) {
                return Ok(ControlFlow::Continue(()));
            }
            let stanza = unpacked(stored, reader.owner(), peer, flags)?;
            builder.add(&bodies(&stanza));
            if count == 0 {
                first = id;
            }
            (last, count, total) = (id, count + 1, total + 1);
            if count >= SEGMENT || builder.is_full() {
                let builder = std::mem::take(&mut builder);
                segments.push(Segment {
                    first,
                    last,
                    count: std::mem::take(&mut count),
                    is_full: builder.is_full(),
                    filter: builder.finish(),
                });
            }
            Ok(if total >= UNSEALED {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        })
        .await?;
    if count > 0 {
        segments.push(Segment {
            first,
            last,
            count,
            is_full: false,
            filter: builder.finish(),
        });
    }
    Ok(segments)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_near_one_another_are_read_at_once() {
        let candidate = |place: u32| Candidate {
            place,
            span: Span {
                after: 1000 - i64::from(place) * 10,
                before: 1010 - i64::from(place) * 10,
            },
        };
        let ends = |places: &[u32]| -> Vec<(i64, i64)> {
            let candidates: Vec<Candidate> = places.iter().copied().map(candidate).collect();
            let runs = runs(&candidates);
            runs.iter().map(|run| (run.after, run.before)).collect()
        };
        assert_eq!(ends(&[]), []);
        assert_eq!(ends(&[3, 4, 6, 9]), [(940, 980), (910, 920)]);
        let all: Vec<u32> = (1..=20).collect();
        assert_eq!(ends(&all), [(840, 1000), (800, 840)]);
    }
}
