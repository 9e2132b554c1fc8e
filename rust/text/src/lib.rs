//! Words of messages for full-text search in archives, without I/O.
//!
//! Both storage engines cut texts and queries with what is here, so they give the same answers:
//!
//! - [`Folded`]: a text without case, accents and compatibility forms, and its [`Token`]s;
//! - [`Query`]: what a user typed (XEP-0431 `fulltext`), and [`Query::matches`], which decides
//!   whether a text is an answer. It is the reference: an index only narrows what is asked;
//! - [`fts5`]: the terms of a document for SQLite's FTS5 and the query to it;
//! - [`bloom`]: filters over segments of an archive, for stores without a text index.
//!
//! # What matches
//!
//! All terms of a query must occur, in any order. A term is what stands between white space, or
//! `"in quotes"`; its words must follow one another, whatever punctuation is between them, so
//! `example.org` finds the address inside a URL. `word*` and `"two wor"*` match the beginning of
//! their last word. Nothing else is syntax: `AND`, `NOT`, `NEAR`, `-`, `^`, `:` and brackets are
//! text, as are quotes inside a word.
//!
//! Words are those of Unicode (UAX #29), cut further at punctuation within: `l'homme` is found by
//! `homme`, `3.14` is `3` and `14`. In scripts without spaces (Han, kana, hangul, Thai, Lao, Khmer,
//! Myanmar and others) each character is a token, so any part of a text finds it. Each emoji is a
//! token; skin tones and joiners are left out.
//!
//! # Limits
//!
//! Of a text the first [`MAX_TEXT_BYTES`] and [`MAX_TOKENS`] count, of a word the first
//! [`MAX_TOKEN_BYTES`]; the same in indexes, filters and [`Query::matches`].

pub mod bloom;
mod chars;
mod fold;
pub mod fts5;
pub mod query;
mod token;

pub use bloom::{Bloom, BloomBuilder};
pub use fold::{Folded, fold};
pub use query::{Query, QueryError};
pub use token::{Kind, Token, Tokens};

/// Changes whenever any text gives other tokens than before; what was indexed with another version
/// must be indexed again. A test holds the rules of every code point against this number.
pub const TOKENIZER_VERSION: u8 = 1;

/// How much of a text is looked at, in bytes of UTF-8.
pub const MAX_TEXT_BYTES: usize = 65_536;

/// How many tokens of a text are looked at.
pub const MAX_TOKENS: usize = 8_192;

/// How much of a word counts, in bytes of its folded form.
pub const MAX_TOKEN_BYTES: usize = 64;

/// The longest beginning of `text` of at most `max` bytes that ends between characters.
fn clip(text: &str, max: usize) -> &str {
    if text.len() <= max {
        return text;
    }
    let end = (0..=max).rev().find(|&at| text.is_char_boundary(at));
    &text[..end.unwrap_or(0)]
}
