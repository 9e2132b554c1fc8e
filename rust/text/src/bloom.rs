//! Filters over segments of an archive: which of them can hold an answer at all?
//!
//! A store without a text index keeps one filter for each run of messages of an owner (256 is a
//! good number), reads the filters, and then the texts of those segments that [`Query::may_match`]
//! lets through. A filter has the words of a segment, their beginnings of three and of five
//! characters, and in scripts without spaces single characters and pairs. It never misses what it
//! was given; it lets through one in a hundred of what it was not.
//!
//! A retracted text stays in the filter, which costs a look at the segment at worst. A corrected
//! text belongs into the filter of the segment where it is kept.

use crate::TOKENIZER_VERSION;
use crate::fold::Folded;
use crate::query::{Atom, Query};
use crate::token::Kind;
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

/// Collects the elements of a segment's texts.
#[derive(Clone, Debug, Default)]
pub struct BloomBuilder {
    elements: HashSet<u64, BuildHasherDefault<Identity>>,
    is_open: bool,
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
        let mut before = None;
        for token in text.tokens() {
            let dense = (token.kind == Kind::Dense).then_some(token.text);
            match dense {
                None => {
                    self.insert(word(token.text));
                    if token.kind == Kind::Word {
                        for len in BEGINNINGS {
                            if let Some(element) = beginning(token.text, len) {
                                self.insert(element);
                            }
                        }
                    }
                }
                Some(one) => {
                    self.insert(single(one));
                    if let Some(before) = before {
                        self.insert(pair(before, one));
                    }
                }
            }
            before = dense;
        }
    }

    fn insert(&mut self, element: u64) {
        if self.elements.len() < MAX_ELEMENTS {
            self.elements.insert(element);
        } else if !self.elements.contains(&element) {
            self.is_open = true;
        }
    }

    /// Different elements so far.
    #[must_use]
    pub fn elements(&self) -> usize {
        self.elements.len()
    }

    /// Whether one more text may be too many ([`MAX_ELEMENTS`]) for the filter to tell anything:
    /// the segment should end here.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.elements.len() >= MAX_ELEMENTS / 2
    }

    /// Forgets everything; keeps the memory for the next segment.
    pub fn clear(&mut self) {
        self.elements.clear();
        self.is_open = false;
    }

    /// The filter, to be stored: about 1.2 bytes for each different element.
    #[must_use]
    pub fn finish(&self) -> Vec<u8> {
        if self.is_open {
            return vec![FORMAT, TOKENIZER_VERSION, 0];
        }
        let size = (self.elements.len() * BITS_PER_100).div_ceil(800);
        let mut bytes = vec![0; HEADER_BYTES + size];
        bytes[..HEADER_BYTES].copy_from_slice(&[FORMAT, TOKENIZER_VERSION, HASHES]);
        let bits = &mut bytes[HEADER_BYTES..];
        let count = bits.len() as u64 * 8;
        for &element in &self.elements {
            for place in places(element, count, HASHES) {
                bits[place / 8] |= 1 << (place % 8);
            }
        }
        bytes
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
                (None, None) => probes.push(single(&atom.text)),
            }
        }
    }
    probes.sort_unstable();
    probes.dedup();
    probes
}

/// For a word itself, or the longest beginning that a filter has; nothing for shorter ones.
fn probe(atom: &Atom) -> Option<u64> {
    if !atom.is_prefix {
        return Some(word(&atom.text));
    }
    BEGINNINGS
        .iter()
        .rev()
        .find_map(|&len| beginning(&atom.text, len))
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
        builder.clear();
        assert!(!may_match("absent", &builder.finish()));
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
