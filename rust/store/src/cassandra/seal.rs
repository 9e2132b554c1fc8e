//! Makes segments of archives, with their filters, behind the messages.

use super::archives::Slot;
use super::engine::Engine;
use super::error::Failure;
use super::gate::Pass;
use super::reader::{Reader, Span, unpacked};
use super::segments::{Part, ends, join};
use super::servers::Row;
use super::{from_cql, to_cql};
use crate::sqlite::archive::is_searchable;
use crate::stanza::bodies;
use antiphon_text::BloomBuilder;
use antiphon_xmpp::Jid;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::time::Instant;

/// Messages without a segment that are worth making some of.
pub(super) const UNSEALED: u32 = 64;

/// Messages of a segment. Two words that are each in one message of thirty meet in one segment of
/// seven; of 64 messages each (measured) they do in three of four, and whole archives are read. The
/// filters are larger by a half.
const SEGMENT: u32 = 16;

/// Segments of a row. What a search costs the servers is rows more than bytes.
const PARTS: usize = 4;

/// Bytes of filters behind which a row ends, and a request; ten times what is usual.
const ROW_BYTES: usize = 32 * 1024;

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
        let (sealed, newest, time) = match slot.state.lock().await.as_ref() {
            Some(state) if state.unsealed >= UNSEALED => {
                (state.sealed_upto, state.newest, state.time)
            }
            _ => return Ok(()),
        };
        let reader = Reader::new(engine, deadline, &jid).await?;
        let last = ends(&reader, i64::MAX).await?;
        let after = to_cql(sealed).max(last.map_or(-1, |(_, last)| last));
        let mut segments = gather(&reader, after).await?;
        let unfinished = segments
            .pop_if(|last| !last.is_whole())
            .map_or(0, |last| last.count);
        let blocks = Block::of(&segments);
        let rows: Vec<Row<'_>> = blocks
            .iter()
            .map(|block| block.row(engine, owner))
            .collect();
        engine
            .servers
            .write(deadline, Pass::Of(owner, time), &rows)
            .await?;
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
    /// No more words fit the filters.
    is_full: bool,
    words: Vec<u8>,
    pairs: Vec<u8>,
}

impl Segment {
    fn is_whole(&self) -> bool {
        self.count >= SEGMENT || self.is_full
    }

    fn bytes(&self) -> usize {
        self.words.len() + self.pairs.len()
    }
}

/// Segments that follow one another, as one row keeps them.
struct Block {
    first: i64,
    last: i64,
    count: u32,
    words: Vec<u8>,
    pairs: Vec<u8>,
}

impl Block {
    /// All segments, some in each.
    fn of(mut segments: &[Segment]) -> Vec<Self> {
        let mut blocks = Vec::new();
        while let Some(first) = segments.first() {
            let (mut bytes, mut count) = (0, 0);
            while let Some(segment) = segments.get(count)
                && count < PARTS
                && bytes < ROW_BYTES
            {
                bytes += segment.bytes();
                count += 1;
            }
            let (now, later) = segments.split_at(count);
            blocks.push(Self::new(first.first, now));
            segments = later;
        }
        blocks
    }

    fn new(first: i64, segments: &[Segment]) -> Self {
        let parts: Vec<Part<'_>> = segments.iter().map(Part::from).collect();
        let (words, pairs) = join(first, &parts);
        Self {
            first,
            last: segments.last().map_or(first, |last| last.last),
            count: segments.iter().map(|segment| segment.count).sum(),
            words,
            pairs,
        }
    }

    fn row<'a>(&'a self, engine: &'a Engine, owner: &'a str) -> Row<'a> {
        let values = (
            owner,
            self.first,
            self.last,
            i32::try_from(self.count).unwrap_or(i32::MAX),
            self.words.as_slice(),
            self.pairs.as_slice(),
            engine.servers.clock.next(),
            engine.archives.ttl_s,
        );
        let bytes = owner.len() + self.words.len() + self.pairs.len();
        Row::new(&engine.servers.statements.seg_put, values, bytes)
    }
}

impl<'a> From<&'a Segment> for Part<'a> {
    fn from(segment: &'a Segment) -> Self {
        Self {
            last: segment.last,
            words: &segment.words,
            pairs: Some(&segment.pairs),
        }
    }
}

/// Messages on their way into segments.
#[derive(Default)]
struct Gathered {
    done: Vec<Segment>,
    builder: BloomBuilder,
    first: i64,
    last: i64,
    /// Of the segment that is not done.
    count: u32,
    /// Of all.
    messages: u32,
    bytes: usize,
}

impl Gathered {
    fn add(&mut self, id: i64, text: &str) {
        self.builder.add(text);
        if self.count == 0 {
            self.first = id;
        }
        self.last = id;
        self.count += 1;
        self.messages += 1;
        if self.count >= SEGMENT || self.builder.is_full() {
            self.end();
        }
    }

    fn end(&mut self) {
        if self.count == 0 {
            return;
        }
        let segment = Segment {
            first: self.first,
            last: self.last,
            count: std::mem::take(&mut self.count),
            is_full: self.builder.is_full(),
            words: self.builder.finish(),
            pairs: self.builder.finish_neighbours(),
        };
        self.builder.clear();
        self.bytes += segment.bytes();
        self.done.push(segment);
    }

    /// As much as is worth a request.
    fn is_enough(&self) -> bool {
        self.messages >= UNSEALED || self.bytes >= ROW_BYTES
    }
}

/// The next segments behind an id; the last of them need not be whole.
async fn gather(reader: &Reader, after: i64) -> Result<Vec<Segment>, Failure> {
    let mut gathered = Gathered::default();
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
            gathered.add(id, &bodies(&stanza));
            Ok(if gathered.is_enough() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        })
        .await?;
    gathered.end();
    Ok(gathered.done)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gathered(texts: impl Iterator<Item = String>) -> Vec<Segment> {
        let mut gathered = Gathered::default();
        for (id, text) in (1..).zip(texts) {
            gathered.add(id, &text);
        }
        gathered.end();
        gathered.done
    }

    #[test]
    fn a_row_has_four_segments_of_16_messages() {
        let segments = gathered((0..100).map(|n| format!("number {n}")));
        let last = segments.last().is_some_and(Segment::is_whole);
        assert!(segments.len() == 7 && !last);
        let blocks = Block::of(&segments);
        let ends: Vec<_> = blocks.iter().map(|b| (b.first, b.last, b.count)).collect();
        assert_eq!(ends, [(1, 64, 64), (65, 100, 36)]);
    }

    #[test]
    fn a_row_of_large_filters_ends_earlier() {
        let long = |n: usize| {
            let words: Vec<String> = (0..7000).map(|word| format!("{word:05}x{n}")).collect();
            words.join(" ")
        };
        let segments = gathered((0..16).map(long));
        assert!(segments.iter().all(|segment| segment.count < 16));
        let blocks = Block::of(&segments);
        assert!(blocks.len() > 1);
        assert!(blocks.iter().all(|block| block.words.len() < 256 * 1024));
        let count: u32 = blocks.iter().map(|block| block.count).sum();
        assert_eq!(count, 16);
    }
}
