//! Tokens of a folded text.

use crate::chars::{Class, class};
use crate::{MAX_TOKEN_BYTES, MAX_TOKENS, clip};

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A word or number, cut after [`MAX_TOKEN_BYTES`].
    Word,
    /// A character of a script that does not separate words.
    Dense,
    /// An emoji, a flag or another picture.
    Symbol,
}

/// One token; its position is its number in the sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token<'a> {
    /// The folded characters.
    pub text: &'a str,
    /// What they are.
    pub kind: Kind,
}

/// The tokens of a [`Folded`](crate::Folded) text in order.
#[derive(Clone, Debug)]
pub struct Tokens<'a> {
    rest: &'a str,
    left: usize,
}

impl<'a> Tokens<'a> {
    pub(crate) const fn new(folded: &'a str) -> Self {
        Self {
            rest: folded,
            left: MAX_TOKENS,
        }
    }

    /// Bytes of the word at the beginning of the rest.
    fn word_len(&self) -> usize {
        let bytes = self.rest.as_bytes();
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            if byte == b' ' {
                break;
            }
            if byte.is_ascii() {
                at += 1;
                continue;
            }
            match self.rest[at..].chars().next() {
                Some(c) if class(c) == Class::Word => at += c.len_utf8(),
                _ => break,
            }
        }
        at
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        if self.left == 0 {
            return None;
        }
        self.rest = self.rest.trim_start_matches(' ');
        let first = self.rest.chars().next()?;
        self.left -= 1;
        let (kind, len) = match class(first) {
            Class::Dense => (Kind::Dense, first.len_utf8()),
            Class::Symbol => (Kind::Symbol, first.len_utf8()),
            Class::Flag => {
                let mate = self.rest[first.len_utf8()..].chars().next();
                let mate = mate.filter(|&c| class(c) == Class::Flag);
                (
                    Kind::Symbol,
                    first.len_utf8() + mate.map_or(0, char::len_utf8),
                )
            }
            // No other space than ' ' is in a folded text.
            Class::Word | Class::Space => (Kind::Word, self.word_len().max(first.len_utf8())),
        };
        let (text, rest) = self.rest.split_at(len);
        self.rest = rest;
        let text = clip(text, MAX_TOKEN_BYTES);
        Some(Token { text, kind })
    }
}
