//! Texts without case, accents and compatibility forms.

use crate::chars::{self, Action};
use crate::token::Tokens;
use crate::{MAX_TEXT_BYTES, clip};
use smallvec::SmallVec;

/// Marks kept in a row before they are put without further sorting (UAX #15, stream-safe text).
const MAX_MARKS: usize = 30;

/// A text in the form in which it is compared. Folding it again changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folded(String);

impl Folded {
    /// Folds the first [`MAX_TEXT_BYTES`] of `text`: compatibility decomposition, full case
    /// folding, accents removed, every character that is no part of a token a space.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(fold(text))
    }

    /// The folded text; at most eleven times as long as the original.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its tokens, at most [`MAX_TOKENS`](crate::MAX_TOKENS).
    #[must_use]
    pub fn tokens(&self) -> Tokens<'_> {
        Tokens::new(&self.0)
    }
}

/// The folded form of `text` (see [`Folded`]).
#[must_use]
pub fn fold(text: &str) -> String {
    let text = clip(text, MAX_TEXT_BYTES);
    if text.is_ascii() {
        let folded = text.bytes().map(fold_ascii).collect();
        // Never fails: ASCII folds to ASCII.
        return String::from_utf8(folded).unwrap_or_default();
    }
    let mut folder = Folder {
        out: String::with_capacity(text.len() + 8),
        held: None,
        marks: SmallVec::new(),
    };
    for c in text.chars() {
        if c.is_ascii() {
            folder.put(char::from(fold_ascii(c as u8)));
        } else {
            folder.push(c);
        }
    }
    folder.flush();
    folder.out
}

const fn fold_ascii(byte: u8) -> u8 {
    let lower = byte.to_ascii_lowercase();
    if lower.is_ascii_alphanumeric() {
        lower
    } else {
        b' '
    }
}

struct Folder {
    out: String,
    /// The last character, if the next one may melt with it.
    held: Option<char>,
    /// Marks since the last character without combining class, sorted.
    marks: SmallVec<[(u8, char); 4]>,
}

impl Folder {
    fn push(&mut self, c: char) {
        match chars::action(c) {
            Action::Expand(at, len) => {
                for part in chars::expansion(c, at, len).chars() {
                    self.apply(chars::action(part));
                }
            }
            action => self.apply(action),
        }
    }

    fn apply(&mut self, action: Action) {
        match action {
            // What an expansion consists of never expands: a test goes through all.
            Action::Drop | Action::Expand(..) => {}
            Action::Put(c) => self.put(c),
            Action::First(c) => {
                self.flush();
                self.held = Some(c);
            }
            Action::Second(c) => self.melt(c),
            Action::Mark(c, class) => {
                if self.marks.len() == MAX_MARKS {
                    self.flush();
                }
                let at = self.marks.partition_point(|mark| mark.0 <= class);
                self.marks.insert(at, (class, c));
            }
        }
    }

    fn put(&mut self, c: char) {
        self.flush();
        self.out.push(c);
    }

    fn melt(&mut self, c: char) {
        let melted = match self.held {
            Some(held) if self.marks.is_empty() => chars::compose(held, c),
            _ => None,
        };
        if melted.is_some() {
            self.held = melted;
        } else if !chars::is_voicing(c) {
            self.put(c);
        }
    }

    fn flush(&mut self) {
        self.out.extend(self.held.take());
        self.out.extend(self.marks.drain(..).map(|mark| mark.1));
    }
}
