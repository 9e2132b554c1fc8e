//! What a user searches for, and whether a text is an answer.

use crate::bloom::{Bloom, neighbour_probes, probes};
use crate::fold::Folded;
use crate::token::{Kind, Token};
use smallvec::SmallVec;
use std::ops::Range;

/// Longest query, in bytes of UTF-8.
pub const MAX_QUERY_BYTES: usize = 1_024;

/// Most tokens that a query may have; one bit each in a machine word.
pub const MAX_QUERY_TOKENS: usize = 64;

/// Fewest characters before `*`.
pub const MIN_PREFIX_CHARS: usize = 2;

/// Why a text is no query. The caller answers `bad-request`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// Nothing in it can be searched for. A caller that takes an empty field for no filter looks at
    /// the field first.
    #[error("the search text has no word")]
    Empty,
    /// Longer than [`MAX_QUERY_BYTES`].
    #[error("the search text is longer than {MAX_QUERY_BYTES} bytes")]
    TooLong,
    /// More than [`MAX_QUERY_TOKENS`].
    #[error("the search text has more than {MAX_QUERY_TOKENS} words")]
    TooManyTerms,
    /// Fewer than [`MIN_PREFIX_CHARS`] before `*`.
    #[error("the beginning of a word needs {MIN_PREFIX_CHARS} characters or more")]
    PrefixTooShort,
}

/// One token to be met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Atom {
    pub(crate) text: Box<str>,
    pub(crate) kind: Kind,
    /// Whether a word that begins with `text` is met too; only for the last word of a term.
    pub(crate) is_prefix: bool,
}

impl Atom {
    fn is_met_by(&self, token: &Token<'_>) -> bool {
        if self.is_prefix {
            token.kind == Kind::Word && token.text.starts_with(&*self.text)
        } else {
            *self.text == *token.text
        }
    }
}

/// A search: terms that must all occur, each a sequence of tokens (see the crate's page).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// The tokens of all terms, one term after another.
    atoms: Vec<Atom>,
    /// Bit n is set if atom n begins a term.
    first: u64,
    /// Bit n is set if atom n ends a term.
    last: u64,
    /// What a filter over a segment must contain.
    probes: Vec<u64>,
    /// The same of the filter of neighbours.
    neighbours: Vec<u64>,
}

impl Query {
    /// Reads what a user typed.
    ///
    /// # Errors
    /// See [`QueryError`]; no syntax is wrong: what cannot be read as such is plain text.
    pub fn parse(text: &str) -> Result<Self, QueryError> {
        if text.len() > MAX_QUERY_BYTES {
            return Err(QueryError::TooLong);
        }
        let mut query = Self {
            atoms: Vec::new(),
            first: 0,
            last: 0,
            probes: Vec::new(),
            neighbours: Vec::new(),
        };
        let mut rest = text.trim_start();
        while !rest.is_empty() {
            let after = match quoted(rest) {
                Some((phrase, is_prefix, after)) => {
                    query.add(phrase, is_prefix)?;
                    after
                }
                None => {
                    let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
                    query.add(&rest[..end], false)?;
                    &rest[end..]
                }
            };
            rest = after.trim_start();
        }
        if query.atoms.is_empty() {
            return Err(QueryError::Empty);
        }
        query.probes = probes(&query);
        query.neighbours = neighbour_probes(&query);
        Ok(query)
    }

    /// Adds the tokens of `text` as one term, unless it has none or is there already.
    fn add(&mut self, text: &str, is_prefix: bool) -> Result<(), QueryError> {
        let (text, has_star) = match text.strip_suffix('*') {
            Some(before) => (before, true),
            None => (text, false),
        };
        let folded = Folded::new(text);
        let mut term: SmallVec<[Atom; 8]> = SmallVec::new();
        for token in folded.tokens() {
            if term.len() == MAX_QUERY_TOKENS {
                return Err(QueryError::TooManyTerms);
            }
            term.push(Atom {
                text: token.text.into(),
                kind: token.kind,
                is_prefix: false,
            });
        }
        let Some(end) = term.last_mut() else {
            return Ok(());
        };
        // A star after a space or a sign is text; after a character that is a token of its own it
        // adds nothing.
        let is_prefix = (is_prefix || has_star) && !folded.as_str().ends_with(' ');
        if is_prefix && end.kind == Kind::Word {
            if end.text.chars().count() < MIN_PREFIX_CHARS {
                return Err(QueryError::PrefixTooShort);
            }
            end.is_prefix = true;
        }
        if self.terms().any(|known| known == term.as_slice()) {
            return Ok(());
        }
        let start = self.atoms.len();
        if start + term.len() > MAX_QUERY_TOKENS {
            return Err(QueryError::TooManyTerms);
        }
        self.atoms.extend(term);
        self.first |= 1 << start;
        self.last |= 1 << (self.atoms.len() - 1);
        Ok(())
    }

    /// Whether `text` has all terms. This decides; indexes only narrow what is asked.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        self.matches_folded(&Folded::new(text))
    }

    /// The same for a text that is folded already, to ask several questions of one text.
    #[must_use]
    pub fn matches_folded(&self, text: &Folded) -> bool {
        // Bit n of `state`: atoms from the beginning of n's term up to n were met by the tokens that
        // end here (the "shift-and" method, all terms at once).
        let mut state = 0_u64;
        let mut missing = self.last;
        for token in text.tokens() {
            let met = self
                .atoms
                .iter()
                .rev()
                .fold(0, |met, atom| met << 1 | u64::from(atom.is_met_by(&token)));
            state = (state << 1 | self.first) & met;
            missing &= !state;
            if missing == 0 {
                return true;
            }
        }
        false
    }

    /// Whether a text of the segment that `filter` was made of can match. `false` is certain;
    /// `true` has to be followed by [`Query::matches`] on the texts.
    #[must_use]
    pub fn may_match(&self, filter: &Bloom<'_>) -> bool {
        self.probes.iter().all(|&hash| filter.may_contain(hash))
    }

    /// Whether a filter of neighbours can tell anything ([`Query::may_follow`]).
    #[must_use]
    pub const fn has_neighbours(&self) -> bool {
        !self.neighbours.is_empty()
    }

    /// Whether the words of each phrase may follow one another in a text of the segment that
    /// `neighbours` was made of ([`BloomBuilder::finish_neighbours`](crate::BloomBuilder)). `false`
    /// is certain.
    #[must_use]
    pub fn may_follow(&self, neighbours: &Bloom<'_>) -> bool {
        self.neighbours
            .iter()
            .all(|&hash| neighbours.may_contain(hash))
    }

    /// Each term's atoms.
    pub(crate) fn terms(&self) -> impl Iterator<Item = &[Atom]> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let range: Range<usize> = at..at + self.term_len(at)?;
            at = range.end;
            self.atoms.get(range)
        })
    }

    /// How many atoms the term has that begins at `at`.
    const fn term_len(&self, at: usize) -> Option<usize> {
        if at >= self.atoms.len() {
            return None;
        }
        Some((self.last >> at).trailing_zeros() as usize + 1)
    }
}

/// The phrase in quotes with which `text` begins, whether a star follows, and the rest.
///
/// Typographic quotes count, since telephones type them; a quote followed by a letter does not end
/// a phrase (Hebrew abbreviations have one inside). Without an end there is no phrase.
fn quoted(text: &str) -> Option<(&str, bool, &str)> {
    let phrase = text.strip_prefix(is_quote)?;
    let (end, quote) = phrase.char_indices().find(|&(at, c)| {
        let next = phrase[at + c.len_utf8()..].chars().next();
        is_quote(c) && !next.is_some_and(char::is_alphanumeric)
    })?;
    let rest = &phrase[end + quote.len_utf8()..];
    let after = rest.strip_prefix('*');
    Some((&phrase[..end], after.is_some(), after.unwrap_or(rest)))
}

const fn is_quote(c: char) -> bool {
    matches!(c, '"' | '“' | '”' | '„' | '‟' | '«' | '»' | '\u{ff02}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        let query = Query::parse(text).unwrap();
        let join = |atom: &Atom| format!("{}{}", atom.text, if atom.is_prefix { "*" } else { "" });
        let term = |atoms: &[Atom]| atoms.iter().map(join).collect::<Vec<_>>().join("+");
        query.terms().map(term).collect()
    }

    #[test]
    fn terms_are_words_phrases_and_beginnings() {
        for (text, terms) in [
            ("invoice March", "invoice march"),
            ("\"New York\" trip", "new+york trip"),
            ("inv* \"two wor*\" \"tw wo\"*", "inv* two+wor* tw+wo*"),
            ("“smart quotes” „unten oben“", "smart+quotes unten+oben"),
            ("e-mail https://example.org/a", "e+mail https+example+org+a"),
            ("a AND b OR NOT c NEAR(d, 2)", "a and b or not c near+d 2"),
            ("-minus ^first col:umn {x} + y", "minus first col+umn x y"),
            ("\"lone quote", "lone quote"),
            ("5\" pipe 6\"", "5 pipe 6"),
            ("צה\"ל חז\"ל", "צה+ל חז+ל"),
            ("c++* **bold** a*b", "c bold a+b"),
            ("same SAME sáme", "same"),
            ("手机* 👍*", "手+机 👍"),
            ("\"\" x \"?\"", "x"),
        ] {
            assert_eq!(words(text).join(" "), terms, "{text}");
        }
    }

    #[test]
    fn what_is_no_query_says_why() {
        for (text, error) in [
            ("", QueryError::Empty),
            (" \t", QueryError::Empty),
            ("\"\" -- *", QueryError::Empty),
            ("a*", QueryError::PrefixTooShort),
            ("good b*", QueryError::PrefixTooShort),
            ("\"one t\"*", QueryError::PrefixTooShort),
        ] {
            assert_eq!(Query::parse(text), Err(error), "{text}");
        }
        let long = "x".repeat(MAX_QUERY_BYTES + 1);
        assert_eq!(Query::parse(&long), Err(QueryError::TooLong));
        let many: Vec<String> = (0..=MAX_QUERY_TOKENS).map(|n| n.to_string()).collect();
        assert_eq!(Query::parse(&many.join(" ")), Err(QueryError::TooManyTerms));
        assert_eq!(Query::parse(&many.join("-")), Err(QueryError::TooManyTerms));
        assert!(Query::parse(&many[1..].join("-")).is_ok());
    }

    #[test]
    fn all_terms_must_occur_in_any_order() {
        let query = Query::parse("march invoice").unwrap();
        assert!(query.matches("The invoice of March"));
        assert!(!query.matches("The invoices of March"));
        assert!(!query.matches("march"));
    }

    #[test]
    fn the_words_of_a_phrase_follow_one_another() {
        let query = Query::parse("\"to be or not to be\"").unwrap();
        assert!(query.matches("Ah, to be or to be or not, to be!"));
        assert!(!query.matches("to be or not be to"));
        let query = Query::parse("\"b c\" \"a b\"").unwrap();
        assert!(query.matches("a b c"));
        assert!(!query.matches("a b x c"));
    }

    #[test]
    fn a_phrase_of_as_many_tokens_as_allowed_is_met() {
        let text: Vec<String> = (0..MAX_QUERY_TOKENS).map(|n| n.to_string()).collect();
        let query = Query::parse(&format!("\"{}\"", text.join(" "))).unwrap();
        assert!(query.matches(&format!("0 1 {} 7", text.join(", "))));
        assert!(!query.matches(&text[1..].join(" ")));
    }
}
