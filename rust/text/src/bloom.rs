//! Filters over segments of an archive: which of them can hold an answer at all?
//!
//! A store without a text index keeps one filter for each run of messages of an owner (256 is a
//! good number), reads the filters, and then the texts of those segments that [`Query::may_match`]
//! lets through. A filter has the words of a segment, their beginnings of three and of five
//! characters, and in scripts without spaces single characters and pairs. It never misses what it
//! was given; it lets through one in a hundred of what it was not.
//!
//! The words of a phrase may all be common where the phrase is rare. A second filter beside the first
//! ([`BloomBuilder::finish_neighbours`]) has each word with the first three characters of the next
//! one, so that it serves phrases whose last word is only begun, too. Only a search for a phrase
//! needs to read it ([`Query::has_neighbours`]).
//!
//! A retracted text stays in the filter, which costs a look at the segment at worst. A corrected
//! text belongs into the filter of the segment where it is kept.

use crate::TOKENIZER_VERSION;
use crate::fold::Folded;
use crate::query::{Atom, Query};
use crate::token::{Kind, Token};
use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// First byte of a stored filter.
const FORMAT: u8 = 1;
/// Format, version of the tokenizer, number of hashes.
const HEADER_BYTES: usize = 3;
/// Hashes of an element: with [`BITS_PER_100`] one false answer in a hundred.
const HASHES: u8 = 7;
/// Bits for a hundred elements.
const BITS_PER_100: usize = 960;

/// Most elements of one filter. With more it lets everything through; see
/// [`BloomBuilder::is_full`].
pub const MAX_ELEMENTS: usize = 65_536;

/// Longest stored filter.
pub const MAX_BLOOM_BYTES: usize = HEADER_BYTES + (MAX_ELEMENTS * BITS_PER_100).div_ceil(800);

/// Beginnings of words that a filter has, in characters.
const BEGINNINGS: [usize; 2] = [3, 5];

/// Characters of a word that count beside the word before it: with all of them, phrases whose last
/// word is only begun would need elements of their own.
const NEXT: usize = BEGINNINGS[0];

/// What an element is, as seed of its hash, so that kinds do not meet.
#[derive(Clone, Copy)]
enum Element {
    Word = 1,
    Beginning = 2,
    One = 3,
    Pair = 4,
}

/// Why bytes are no filter. A caller may go on as if the filter let everything through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BloomError {
    /// Shorter than its header, or longer than [`MAX_BLOOM_BYTES`].
    #[error("a filter of {0} bytes")]
    Length(usize),
    /// Written by a version to come, or damaged.
    #[error("a filter of format {0}")]
    Format(u8),
}

/// A stored filter.
#[derive(Clone, Copy, Debug)]
pub struct Bloom<'a> {
    bits: &'a [u8],
    hashes: u8,
    /// Whether it tells nothing: too many elements, or the tokens of another version.
    is_open: bool,
}

impl<'a> Bloom<'a> {
    /// Reads what [`BloomBuilder::finish`] wrote; copies nothing.
    ///
    /// A filter made with another [`TOKENIZER_VERSION`] lets everything through.
    ///
    /// # Errors
    /// [`BloomError`] for bytes that are no filter.
    pub const fn decode(bytes: &'a [u8]) -> Result<Self, BloomError> {
        if bytes.len() > MAX_BLOOM_BYTES {
            return Err(BloomError::Length(bytes.len()));
        }
        let [format, version, hashes, bits @ ..] = bytes else {
            return Err(BloomError::Length(bytes.len()));
        };
        if *format != FORMAT {
            return Err(BloomError::Format(*format));
        }
        Ok(Self {
            bits,
            hashes: *hashes,
            is_open: *version != TOKENIZER_VERSION || *hashes == 0,
        })
    }

    /// Whether the filter was made with another version of the tokenizer or gave up: it lets
    /// everything through, and a caller may want to make it anew.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.is_open
    }

    pub(crate) fn may_contain(&self, hash: u64) -> bool {
        if self.is_open {
            return true;
        }
        let count = self.bits.len() as u64 * 8;
        count > 0
            && places(hash, count, self.hashes)
                .all(|place| self.bits[place / 8] & (1 << (place % 8)) != 0)
    }
}

/// The bits of one element among `count`.
fn places(hash: u64, count: u64, hashes: u8) -> impl Iterator<Item = usize> {
    // Kirsch and Mitzenmacher, "Less Hashing, Same Performance": two hashes stand for all. The high
    // bits choose, so multiplying takes the place of a division.
    let step = hash.rotate_left(32).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..u64::from(hashes)).map(move |n| {
        let mixed = hash.wrapping_add(step.wrapping_mul(n));
        ((u128::from(mixed) * u128::from(count)) >> 64) as usize
    })
}

/// Elements of one filter.
#[derive(Clone, Debug, Default)]
struct Elements {
    hashes: HashSet<u64, BuildHasherDefault<Identity>>,
    is_open: bool,
}

impl Elements {
    fn insert(&mut self, element: u64) {
        if self.hashes.len() < MAX_ELEMENTS {
            self.hashes.insert(element);
        } else if !self.hashes.contains(&element) {
            self.is_open = true;
        }
    }

    fn is_full(&self) -> bool {
        self.hashes.len() >= MAX_ELEMENTS / 2
    }

    fn clear(&mut self) {
        self.hashes.clear();
        self.is_open = false;
    }

    fn finish(&self) -> Vec<u8> {
        if self.is_open {
            return vec![FORMAT, TOKENIZER_VERSION, 0];
        }
        let size = (self.hashes.len() * BITS_PER_100).div_ceil(800);
        let mut bytes = vec![0; HEADER_BYTES + size];
        bytes[..HEADER_BYTES].copy_from_slice(&[FORMAT, TOKENIZER_VERSION, HASHES]);
        let bits = &mut bytes[HEADER_BYTES..];
        let count = bits.len() as u64 * 8;
        for &element in &self.hashes {
            for place in places(element, count, HASHES) {
                bits[place / 8] |= 1 << (place % 8);
            }
        }
        bytes
    }
}

/// Collects the elements of a segment's texts.
#[derive(Clone, Debug, Default)]
pub struct BloomBuilder {
    words: Elements,
    neighbours: Elements,
}

impl BloomBuilder {
    /// An empty segment.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a text.
    pub fn add(&mut self, text: &str) {
        self.add_folded(&Folded::new(text));
    }

    /// Adds a text that is folded already.
    pub fn add_folded(&mut self, text: &Folded) {
        let mut before: Option<(Token<'_>, u64)> = None;
        for token in text.tokens() {
            let (whole, start) = self.add_token(&token);
            match &before {
                Some((before, _)) if are_dense(before.kind, token.kind) => {
                    self.words.insert(pair(before.text, token.text));
                }
                Some((_, before)) => self.neighbours.insert(neighbours(*before, start)),
                None => {}
            }
            before = Some((token, whole));
        }
    }

    /// Adds what a token is without its neighbours; its hashes as the first and the second of two.
    fn add_token(&mut self, token: &Token<'_>) -> (u64, u64) {
        let whole = whole(token.text, token.kind);
        self.words.insert(whole);
        let mut start = whole;
        if token.kind == Kind::Word {
            for len in BEGINNINGS {
                let Some(element) = beginning(token.text, len) else {
                    break;
                };
                self.words.insert(element);
                if len == NEXT {
                    start = element;
                }
            }
        }
        (whole, start)
    }

    /// Different elements of the first filter so far.
    #[must_use]
    pub fn elements(&self) -> usize {
        self.words.hashes.len()
    }

    /// Whether one more text may be too many ([`MAX_ELEMENTS`]) for a filter to tell anything: the
    /// segment should end here.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.words.is_full() || self.neighbours.is_full()
    }

    /// Forgets everything; keeps the memory for the next segment.
    pub fn clear(&mut self) {
        self.words.clear();
        self.neighbours.clear();
    }

    /// The filter of words, to be stored: about 1.2 bytes for each different element.
    #[must_use]
    pub fn finish(&self) -> Vec<u8> {
        self.words.finish()
    }

    /// The filter of words beside one another, to be stored with the other one; as large for each
    /// element, of which there are half as many.
    #[must_use]
    pub fn finish_neighbours(&self) -> Vec<u8> {
        self.neighbours.finish()
    }
}

/// What must be in the filter of a segment that has an answer to `query`.
pub(crate) fn probes(query: &Query) -> Vec<u64> {
    let mut probes = Vec::new();
    for term in query.terms() {
        for (at, atom) in term.iter().enumerate() {
            if atom.kind != Kind::Dense {
                probes.extend(probe(atom));
                continue;
            }
            let is_dense = |one: &&Atom| one.kind == Kind::Dense;
            let before = at
                .checked_sub(1)
                .and_then(|at| term.get(at))
                .filter(is_dense);
            match (before, term.get(at + 1).filter(is_dense)) {
                (Some(before), _) => probes.push(pair(&before.text, &atom.text)),
                (None, Some(_)) => {}
                (None, None) => probes.push(whole(&atom.text, atom.kind)),
            }
        }
    }
    sorted(probes)
}

/// The same for the filter of neighbours.
pub(crate) fn neighbour_probes(query: &Query) -> Vec<u64> {
    let pairs = query.terms().flat_map(|term| term.windows(2));
    let probes = pairs.filter_map(|pair| match pair {
        [one, two] if !are_dense(one.kind, two.kind) => {
            Some(neighbours(whole(&one.text, one.kind), start(two)?))
        }
        _ => None,
    });
    sorted(probes.collect())
}

fn sorted(mut probes: Vec<u64>) -> Vec<u64> {
    probes.sort_unstable();
    probes.dedup();
    probes
}

/// For a word itself, or the longest beginning that a filter has; nothing for shorter ones.
fn probe(atom: &Atom) -> Option<u64> {
    if !atom.is_prefix {
        return Some(whole(&atom.text, atom.kind));
    }
    BEGINNINGS
        .iter()
        .rev()
        .find_map(|&len| beginning(&atom.text, len))
}

/// An atom as the second of two; `None`: too little of it is known.
fn start(atom: &Atom) -> Option<u64> {
    let beginning = (atom.kind == Kind::Word)
        .then(|| beginning(&atom.text, NEXT))
        .flatten();
    beginning.or_else(|| (!atom.is_prefix).then(|| whole(&atom.text, atom.kind)))
}

/// Whether the filter of words has the pair.
const fn are_dense(one: Kind, two: Kind) -> bool {
    matches!((one, two), (Kind::Dense, Kind::Dense))
}

/// A token itself.
fn whole(text: &str, kind: Kind) -> u64 {
    if matches!(kind, Kind::Dense) {
        single(text)
    } else {
        word(text)
    }
}

/// The first of two and the beginning of the second, out of their hashes.
fn neighbours(one: u64, two: u64) -> u64 {
    xxh3_64_with_seed(&two.to_le_bytes(), one)
}

fn word(text: &str) -> u64 {
    xxh3_64_with_seed(text.as_bytes(), Element::Word as u64)
}

fn beginning(text: &str, len: usize) -> Option<u64> {
    let (at, last) = text.char_indices().nth(len - 1)?;
    let bytes = &text.as_bytes()[..at + last.len_utf8()];
    Some(xxh3_64_with_seed(
        bytes,
        Element::Beginning as u64 + ((len as u64) << 8),
    ))
}

fn single(one: &str) -> u64 {
    xxh3_64_with_seed(one.as_bytes(), Element::One as u64)
}

fn pair(one: &str, two: &str) -> u64 {
    // Neighbours need not be adjacent bytes: there may be a space or a comma between them.
    let mut bytes = [0; 8];
    let both = one.bytes().chain(two.bytes());
    bytes.iter_mut().zip(both).for_each(|(to, from)| *to = from);
    xxh3_64_with_seed(&bytes, Element::Pair as u64)
}

/// The elements are hashes already.
#[derive(Clone, Copy, Debug, Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64_with_seed(bytes, self.0);
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn may_match(query: &str, filter: &[u8]) -> bool {
        let filter = Bloom::decode(filter).unwrap();
        Query::parse(query).unwrap().may_match(&filter)
    }

    #[test]
    fn one_in_a_hundred_is_let_through_wrongly() {
        let mut builder = BloomBuilder::new();
        for n in 0..5_000 {
            builder.add(&format!("w{n}"));
        }
        let bytes = builder.finish();
        let filter = Bloom::decode(&bytes).unwrap();
        let wrong = (0..100_000)
            .filter(|n| filter.may_contain(word(&format!("x{n}"))))
            .count();
        assert!((500..1_500).contains(&wrong), "{wrong} of 100,000");
        assert!(bytes.len() <= builder.elements() * 12 / 10 + 4);
    }

    #[test]
    fn words_beginnings_pairs_and_phrases_are_found() {
        let mut builder = BloomBuilder::new();
        builder.add("The invoices of March, 新しい手机");
        let filter = builder.finish();
        for text in [
            "march INVOICES",
            "invo*",
            "invoic*",
            "in*",
            "手",
            "い手机",
            "\"of march\"",
        ] {
            assert!(may_match(text, &filter), "{text}");
        }
        for text in [
            "april",
            "invoice",
            "april*",
            "inv",
            "int*",
            "invok*",
            "机手",
            "新手",
            "march april",
        ] {
            assert!(!may_match(text, &filter), "{text}");
        }
    }

    #[test]
    fn words_that_stand_apart_are_no_phrase() {
        let mut builder = BloomBuilder::new();
        builder.add("The invoices of March, 新しい手机 are in a mail of Ms. O\'Neill 👍 to you");
        builder.add("Later");
        let filter = builder.finish_neighbours();
        let filter = Bloom::decode(&filter).unwrap();
        for (text, has_pairs, may_follow) in [
            ("\"invoices of march\"", true, true),
            ("\"INVOICES of\" \"the invoices\"", true, true),
            ("\"of mar*\"", true, true),
            ("\"in a ma*\"", true, true),
            ("\"of ma*\"", false, true),
            ("\"march 新し\"", true, true),
            ("\"机 are\"", true, true),
            ("o'neill", true, true),
            ("\"neill 👍 to\"", true, true),
            ("\"march invoices\"", true, false),
            ("\"of invoices\"", true, false),
            ("\"of inv*\"", true, false),
            ("\"in mail\"", true, false),
            ("\"march し\"", true, false),
            ("\"you later\"", true, false),
            // Dense ones are the other filter's; single words are no neighbours.
            ("新手", false, true),
            ("invoices march absent", false, true),
        ] {
            let query = Query::parse(text).unwrap();
            assert_eq!(query.has_neighbours(), has_pairs, "{text}");
            assert_eq!(query.may_follow(&filter), may_follow, "{text}");
        }
    }

    #[test]
    fn an_empty_segment_has_no_answers() {
        let filter = BloomBuilder::new().finish();
        assert_eq!(filter.len(), HEADER_BYTES);
        assert!(!may_match("x", &filter));
    }

    #[test]
    fn a_filter_of_another_tokenizer_lets_everything_through() {
        let mut filter = BloomBuilder::new().finish();
        filter[1] = TOKENIZER_VERSION + 1;
        assert!(Bloom::decode(&filter).unwrap().is_open());
        assert!(may_match("x", &filter));
    }

    #[test]
    fn too_many_elements_let_everything_through_and_stay_small() {
        let mut builder = BloomBuilder::new();
        for n in 0..20 {
            let words: Vec<String> = (0..8_000).map(|word| format!("{n}x{word}")).collect();
            builder.add(&words.join(" "));
        }
        let filter = builder.finish();
        assert!(builder.is_full());
        assert_eq!(filter.len(), HEADER_BYTES);
        assert!(may_match("absent", &filter));
        let pairs = builder.finish_neighbours();
        assert_eq!(pairs.len(), HEADER_BYTES);
        let query = Query::parse("\"never there\"").unwrap();
        assert!(query.may_follow(&Bloom::decode(&pairs).unwrap()));
        builder.clear();
        assert!(!may_match("absent", &builder.finish()));
        let pairs = builder.finish_neighbours();
        assert!(!query.may_follow(&Bloom::decode(&pairs).unwrap()));
    }

    #[test]
    fn bytes_that_are_no_filter_are_an_error() {
        assert_eq!(Bloom::decode(&[1, 1]).unwrap_err(), BloomError::Length(2));
        assert_eq!(
            Bloom::decode(&[9, 1, 7, 0]).unwrap_err(),
            BloomError::Format(9)
        );
        let long = vec![1; MAX_BLOOM_BYTES + 1];
        assert_eq!(
            Bloom::decode(&long).unwrap_err(),
            BloomError::Length(long.len())
        );
    }
}
