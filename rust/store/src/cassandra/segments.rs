//! Segments of archives: how a row keeps several of them, and which of them a search must read.
//!
//! `words` is a byte that is 1, then for each segment: what its last id has above the row's first
//! (8 bytes), the length of its filter (4 bytes), the filter. `pairs` is the same byte, then for
//! each segment length and filter. Numbers have the high byte first. In a row without `words` all is
//! one segment, whose filter is `bloom`. What is damaged lets everything through.

use super::error::Failure;
use super::reader::{Plan, Reader, Span};
use antiphon_text::{Bloom, Query};
use scylla::response::query_result::QueryRowsResult;
use std::ops::ControlFlow;

/// First byte of both columns.
const FORM: u8 = 1;

/// Rows of the first request, and of a later one at most: two to three kilobytes each.
const FIRST_ROWS: i32 = 16;
const MOST_ROWS: i32 = 512;

/// The columns `first_id, last_id, bloom, words`, and `pairs` where they were asked for.
type FilterRow<'a> = (
    i64,
    Option<i64>,
    Option<&'a [u8]>,
    Option<&'a [u8]>,
    Option<&'a [u8]>,
);

/// Its columns `bloom`, `words` and `pairs`.
type Filters<'a> = (Option<&'a [u8]>, Option<&'a [u8]>, Option<&'a [u8]>);

/// One segment of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part<'a> {
    /// Its last id; its first is above the last of the one before it.
    pub(super) last: i64,
    /// Its filter of words.
    pub(super) words: &'a [u8],
    /// Its filter of neighbours, where there is one.
    pub(super) pairs: Option<&'a [u8]>,
}

impl Part<'_> {
    fn may_match(&self, query: &Query) -> bool {
        if let Ok(words) = Bloom::decode(self.words)
            && !query.may_match(&words)
        {
            return false;
        }
        match self.pairs.map(Bloom::decode) {
            Some(Ok(pairs)) => query.may_follow(&pairs),
            _ => true,
        }
    }
}

/// The columns `words` and `pairs` of a row that begins with this id.
pub(super) fn join(first: i64, parts: &[Part<'_>]) -> (Vec<u8>, Vec<u8>) {
    let (mut words, mut pairs) = (vec![FORM], vec![FORM]);
    for part in parts {
        words.extend(part.last.wrapping_sub(first).to_be_bytes());
        push(&mut words, part.words);
        push(&mut pairs, part.pairs.unwrap_or_default());
    }
    (words, pairs)
}

fn push(column: &mut Vec<u8>, filter: &[u8]) {
    // A filter has less than a hundred kilobytes (MAX_BLOOM_BYTES).
    let length = u32::try_from(filter.len()).unwrap_or(u32::MAX);
    column.extend(length.to_be_bytes());
    column.extend(filter);
}

/// What [`join`] made, one after the other; ends where something is damaged.
struct Parts<'a> {
    first: i64,
    words: &'a [u8],
    pairs: Option<&'a [u8]>,
}

impl<'a> Parts<'a> {
    /// `None`: of another form.
    fn new(first: i64, words: &'a [u8], pairs: Option<&'a [u8]>) -> Option<Self> {
        let words = words.strip_prefix(&[FORM])?;
        let pairs = pairs.and_then(|pairs| pairs.strip_prefix(&[FORM]));
        Some(Self {
            first,
            words,
            pairs,
        })
    }
}

impl<'a> Iterator for Parts<'a> {
    type Item = Part<'a>;

    fn next(&mut self) -> Option<Part<'a>> {
        let (above, rest) = self.words.split_first_chunk()?;
        let (words, rest) = pull(rest)?;
        self.words = rest;
        let pairs = self.pairs.and_then(pull);
        self.pairs = pairs.map(|(_, rest)| rest);
        Some(Part {
            last: self.first.checked_add(i64::from_be_bytes(*above))?,
            words,
            pairs: pairs.map(|(pairs, _)| pairs),
        })
    }
}

/// What [`push`] added, and what follows it.
fn pull(column: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = column.split_first_chunk()?;
    rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)
}

/// A segment that may have answers, and its place among all that were looked at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    pub(super) place: u32,
    pub(super) span: Span,
}

/// The segments of one search, row after row.
pub(super) struct Segments<'a> {
    reader: &'a Reader,
    plan: &'a Plan,
    is_from_end: bool,
    /// Not read yet: rows that begin in here.
    rest: Span,
    step: i32,
    /// How many segments were looked at.
    place: u32,
    is_over: bool,
}

impl<'a> Segments<'a> {
    /// Those that begin in `rest`.
    pub(super) fn new(reader: &'a Reader, plan: &'a Plan, is_from_end: bool, rest: Span) -> Self {
        Self {
            reader,
            plan,
            is_from_end,
            rest,
            step: FIRST_ROWS,
            place: 0,
            is_over: rest.after >= rest.before,
        }
    }

    /// The next candidates, in the order of the query; `None`: there are no more segments.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<Candidate>>, Failure> {
        if self.is_over {
            return Ok(None);
        }
        let (reader, rest, step) = (self.reader, self.rest, self.step);
        let is_phrase = self.plan.query.as_ref().is_some_and(Query::has_neighbours);
        let statements = &reader.engine.servers.statements;
        let statement = match (is_phrase, self.is_from_end) {
            (false, false) => &statements.seg_up,
            (false, true) => &statements.seg_down,
            (true, false) => &statements.seg_pairs_up,
            (true, true) => &statements.seg_pairs_down,
        };
        let values = (reader.owner(), rest.after, rest.before, step);
        let (mut count, mut candidates) = (0, Vec::new());
        reader
            .engine
            .servers
            .pages(reader.deadline, statement, values, |rows| {
                count += self.take(rows, is_phrase, &mut candidates)?;
                Ok(ControlFlow::Continue(()))
            })
            .await?;
        self.is_over |= count < step;
        self.step = (step * 4).min(MOST_ROWS);
        Ok(Some(candidates))
    }

    /// Adds what may match of these rows; how many they are.
    fn take(
        &mut self,
        rows: &QueryRowsResult,
        is_phrase: bool,
        candidates: &mut Vec<Candidate>,
    ) -> Result<i32, Failure> {
        let mut count = 0;
        if is_phrase {
            for row in rows.rows::<FilterRow<'_>>().map_err(Failure::answer)? {
                self.look(row.map_err(Failure::answer)?, candidates);
                count += 1;
            }
        } else {
            let rows = rows.rows::<(i64, Option<i64>, Option<&[u8]>, Option<&[u8]>)>();
            for row in rows.map_err(Failure::answer)? {
                let (first, last, bloom, words) = row.map_err(Failure::answer)?;
                self.look((first, last, bloom, words, None), candidates);
                count += 1;
            }
        }
        Ok(count)
    }

    fn look(&mut self, row: FilterRow<'_>, candidates: &mut Vec<Candidate>) {
        let (first, last, bloom, words, pairs) = row;
        if self.is_from_end {
            self.rest.before = first;
        } else {
            self.rest.after = first;
        }
        let last = last.unwrap_or(i64::MAX - 1);
        let wanted = self.plan.span;
        if last <= wanted.after {
            // Older ones lie still further away.
            self.is_over |= self.is_from_end;
            return;
        }
        let mut spans = spans(
            self.plan.query.as_ref(),
            (first, last),
            (bloom, words, pairs),
        );
        if self.is_from_end {
            spans.reverse();
        }
        for (span, may_match) in spans {
            self.place += 1;
            // Of a span the ends are left out.
            let has_wanted = span.before - 1 > wanted.after && span.after + 1 < wanted.before;
            if may_match && has_wanted {
                let place = self.place;
                candidates.push(Candidate { place, span });
            }
        }
    }
}

/// The segments of a row, ascending, and whether each may have an answer.
fn spans(
    query: Option<&Query>,
    (first, last): (i64, i64),
    (bloom, words, pairs): Filters<'_>,
) -> Vec<(Span, bool)> {
    let may_match = |part: &Part<'_>| query.is_none_or(|query| part.may_match(query));
    let mut spans = Vec::new();
    let mut after = first - 1;
    let parts = words.and_then(|words| Parts::new(first, words, pairs));
    for part in parts.into_iter().flatten() {
        // A row that was written again has the end of the later one.
        let end = part.last.min(last);
        if end <= after {
            break;
        }
        let before = end + 1;
        spans.push((Span { after, before }, may_match(&part)));
        after = end;
    }
    if after < last {
        let rest = Part {
            last,
            words: match words {
                None => bloom.unwrap_or_default(),
                // What is left of a damaged row.
                Some(_) => &[],
            },
            pairs: None,
        };
        let before = last.saturating_add(1);
        spans.push((Span { after, before }, may_match(&rest)));
    }
    spans
}

/// Begin and end of the last row that begins below an id.
pub(super) async fn ends(reader: &Reader, before: i64) -> Result<Option<(i64, i64)>, Failure> {
    let servers = &reader.engine.servers;
    let values = (reader.owner(), before, 1);
    let statement = &servers.statements.seg_ends;
    let rows = servers.rows(reader.deadline, statement, values).await?;
    let row: Option<(i64, Option<i64>)> = rows.maybe_first_row().map_err(Failure::answer)?;
    Ok(row.and_then(|(first, last)| Some((first, last?))))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail")]
    use super::*;
    use antiphon_text::BloomBuilder;

    fn filters(text: &str) -> (Vec<u8>, Vec<u8>) {
        let mut builder = BloomBuilder::new();
        builder.add(text);
        (builder.finish(), builder.finish_neighbours())
    }

    /// A row from 10 to 40 of three segments.
    fn row() -> (Vec<u8>, Vec<u8>) {
        let texts = ["a pair of words", "words of a pair", "other words"].map(filters);
        let parts: Vec<Part<'_>> = [20, 30, 40]
            .into_iter()
            .zip(&texts)
            .map(|(last, (words, pairs))| Part {
                last,
                words,
                pairs: Some(pairs),
            })
            .collect();
        join(10, &parts)
    }

    /// The spans that may have an answer.
    fn found(query: &str, columns: Filters<'_>) -> Vec<(i64, i64)> {
        let query = Query::parse(query).unwrap();
        let spans = spans(Some(&query), (10, 40), columns);
        let mut after = 9;
        for (span, _) in &spans {
            assert_eq!(span.after, after);
            after = span.before - 1;
        }
        assert_eq!(after, 40, "all of the row is somewhere");
        let found = spans.into_iter().filter(|(_, may_match)| *may_match);
        found.map(|(span, _)| (span.after, span.before)).collect()
    }

    #[test]
    fn a_row_tells_which_of_its_segments_may_have_an_answer() {
        let (words, pairs) = row();
        for (query, expected) in [
            ("pair", vec![(9, 21), (20, 31)]),
            ("\"a pair\"", vec![(9, 21), (20, 31)]),
            ("\"pair of\"", vec![(9, 21)]),
            ("\"words of a pair\"", vec![(20, 31)]),
            ("words", vec![(9, 21), (20, 31), (30, 41)]),
            ("\"other pair\"", vec![]),
            ("absent", vec![]),
        ] {
            assert_eq!(
                found(query, (None, Some(&words), Some(&pairs))),
                expected,
                "{query}"
            );
        }
    }

    #[test]
    fn without_filters_of_neighbours_the_words_decide() {
        let (words, _) = row();
        let columns = (None, Some(words.as_slice()), None);
        assert_eq!(found("\"pair of\"", columns), [(9, 21), (20, 31)]);
        assert_eq!(found("\"pair other\"", columns), []);
    }

    #[test]
    fn a_row_of_before_is_one_segment() {
        let (bloom, _) = filters("a pair of words");
        let columns = (Some(bloom.as_slice()), None, None);
        assert_eq!(found("\"words pair\"", columns), [(9, 41)]);
        assert_eq!(found("absent", columns), []);
        assert_eq!(found("absent", (None, None, None)), [(9, 41)]);
    }

    #[test]
    fn what_is_damaged_lets_everything_through() {
        let (words, pairs) = row();
        let other = [&[9], &words[1..]].concat();
        assert_eq!(
            found("absent", (None, Some(&other), Some(&pairs))),
            [(9, 41)]
        );
        for length in 1..words.len() {
            let last = found("absent", (None, Some(&words[..length]), Some(&pairs)));
            assert!(last.len() == 1 && last[0].1 == 41, "{length}: {last:?}");
        }
        for length in 0..pairs.len() {
            let columns = (None, Some(words.as_slice()), Some(&pairs[..length]));
            assert!(found("\"pair of\"", columns).contains(&(9, 21)));
            assert_eq!(found("absent", columns), []);
        }
    }

    #[test]
    fn a_row_that_was_written_again_ends_where_the_later_one_does() {
        let (words, pairs) = row();
        let query = Query::parse("pair").unwrap();
        for (last, expected) in [(25, vec![(9, 21), (20, 26)]), (18, vec![(9, 19)])] {
            let columns = (None, Some(words.as_slice()), Some(pairs.as_slice()));
            let spans = spans(Some(&query), (10, last), columns);
            let ends: Vec<_> = spans.iter().map(|(s, _)| (s.after, s.before)).collect();
            assert_eq!(ends, expected);
        }
    }
}
