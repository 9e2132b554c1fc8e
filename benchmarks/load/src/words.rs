//! Texts: words by Zipf's law, the same in every run.

use crate::Failure;
use std::fs;

/// A longer list would not be one of words.
const MAX_BYTES: u64 = 16 << 20;

/// A list of words, the commonest first, and the dice that draw them.
pub struct Words {
    words: Vec<String>,
    state: u64,
}

impl Words {
    /// Reads a file with one word a line.
    ///
    /// # Errors
    /// [`Failure::Usage`] for a file without words, or whose words XML would have to escape;
    /// [`Failure::Io`] from the system.
    pub fn read(path: &str) -> Result<Self, Failure> {
        if fs::metadata(path)?.len() > MAX_BYTES {
            return Err(Failure::Usage(format!("{path}: more than {MAX_BYTES} B")));
        }
        Self::new(fs::read_to_string(path)?.lines().map(str::to_owned))
    }

    fn new(words: impl Iterator<Item = String>) -> Result<Self, Failure> {
        let words: Vec<String> = words.collect();
        let is_word = |word: &String| {
            !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b >= 0x80)
        };
        if words.is_empty() || !words.iter().all(is_word) {
            return Err(Failure::Usage("--words: one word a line".to_owned()));
        }
        Ok(Self { words, state: 1 })
    }

    /// How many words there are.
    pub const fn len(&self) -> usize {
        self.words.len()
    }

    /// The word of this rank, counted from the commonest; beyond the last: the last.
    pub fn at(&self, rank: usize) -> &str {
        &self.words[rank.min(self.words.len() - 1)]
    }

    /// Appends words until there are at least `bytes`.
    pub fn text(&mut self, bytes: usize, out: &mut Vec<u8>) {
        let begin = out.len();
        while out.len() < begin + bytes {
            if out.len() > begin {
                out.push(b' ');
            }
            let rank = self.rank();
            out.extend_from_slice(self.words[rank].as_bytes());
        }
    }

    /// A rank by Zipf's law: as likely below 10 as between 10 and 100.
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a list of words is far shorter than 2^52, and no power of it is negative"
    )]
    fn rank(&mut self) -> usize {
        // xorshift64*
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        let unit =
            (self.state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 / (1_u64 << 53) as f64;
        let rank = (self.words.len() as f64).powf(unit) as usize;
        rank.saturating_sub(1).min(self.words.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_has_its_size_and_common_words_are_common() {
        let list = (0..1000).map(|n| format!("w{n}"));
        let mut words = Words::new(list).unwrap();
        let mut out = b"<body>".to_vec();
        words.text(5000, &mut out);
        assert!((5006..5012).contains(&out.len()));
        let text = String::from_utf8(out).unwrap();
        let first = text.split(' ').filter(|word| *word == "w0").count();
        let late = text.split(' ').filter(|word| *word == "w900").count();
        assert!(first > 20 * late.max(1), "{first} {late}");
        assert_eq!(
            (words.len(), words.at(5), words.at(9999)),
            (1000, "w5", "w999")
        );
    }

    #[test]
    fn lists_that_are_none_are_refused() {
        for list in [&[][..], &["a", ""], &["<"], &["two words"]] {
            assert!(Words::new(list.iter().map(|&word| word.to_owned())).is_err());
        }
    }
}
