//! Full-text search: segments of an archive, each with filters that tell which words may be in it
//! (`segments.rs`). A search reads the filters, then only those segments that may have an answer;
//! what lies above the last segment is read whole. The text itself decides.

use super::error::Failure;
use super::reader::{Plan, Reader, Span, sort};
use super::segments::{Candidate, Segments, ends};
use antiphon_routing::archive::{ArchiveId, ArchivedMessage};
use std::collections::HashSet;
use std::sync::Arc;
use tokio::task::JoinSet;

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
    let mut found = Found::default();
    if is_from_end {
        found.add(reader.span(&plan, tail, true, limit).await?);
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
    // Rows that are made from now on have messages of the tail.
    rest.before = newest.map_or(rest.after, |(first, _)| rest.before.min(first + 1));
    let mut segments = Segments::new(reader, &plan, is_from_end, rest);
    // A word that is everywhere is in the first ones.
    let mut wave = FIRST_WAVE;
    while found.messages.len() < limit
        && let Some(candidates) = segments.next().await?
    {
        let mut rest = candidates.as_slice();
        while found.messages.len() < limit && !rest.is_empty() {
            let (now, later) = rest.split_at(wave.min(rest.len()));
            found.add(read(reader, &plan, &runs(now), is_from_end, limit).await?);
            rest = later;
            wave = (wave * 2).min(WAVE);
        }
    }
    if !is_from_end && found.messages.len() < limit {
        found.add(reader.span(&plan, tail, false, limit).await?);
    }
    found.messages.truncate(limit);
    Ok(found.messages)
}

/// What was found, each message once: of a home that died a segment may land that overlaps those
/// that the next one made.
#[derive(Default)]
struct Found {
    messages: Vec<ArchivedMessage>,
    ids: HashSet<ArchiveId>,
}

impl Found {
    fn add(&mut self, mut some: Vec<ArchivedMessage>) {
        some.retain(|message| self.ids.insert(message.id));
        self.messages.append(&mut some);
    }
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
