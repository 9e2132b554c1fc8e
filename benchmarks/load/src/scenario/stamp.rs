//! The mark in a payload that says which run sent it, and when it was meant to be sent.

use memchr::memmem::Finder;
use std::time::Instant;

const TAG: usize = 12;
const NUMBER: usize = 16;
/// Bytes of a mark.
pub const SIZE: usize = TAG + NUMBER;

/// Writes and finds marks. A tag of the run keeps messages of an earlier one out of the count.
pub struct Stamps {
    start: Instant,
    tag: [u8; TAG],
    finder: Finder<'static>,
}

impl Stamps {
    /// Marks of this process from now on.
    pub fn new() -> Self {
        let seed = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |d| {
                u64::try_from(d.as_nanos() & 0xffff_ffff_ffff).unwrap_or(0)
            });
        let mut tag = [0; TAG];
        hex(seed, &mut tag);
        Self {
            start: Instant::now(),
            finder: Finder::new(&tag).into_owned(),
            tag,
        }
    }

    /// Nanoseconds since the start.
    pub fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Appends a mark with this number.
    pub fn write(&self, number: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.tag);
        push_hex(number, out);
    }

    /// The number of the mark in a stanza, if it has one of this run.
    pub fn find(&self, stanza: &[u8]) -> Option<u64> {
        let at = self.finder.find(stanza)? + TAG;
        stanza
            .get(at..at + NUMBER)?
            .iter()
            .try_fold(0, |value, &digit| {
                let digit = match digit {
                    b'0'..=b'9' => digit - b'0',
                    b'a'..=b'f' => digit - b'a' + 10,
                    _ => return None,
                };
                Some(value << 4 | u64::from(digit))
            })
    }
}

fn hex(mut value: u64, out: &mut [u8]) {
    for digit in out.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(value & 15) as usize];
        value >>= 4;
    }
}

/// Appends sixteen digits.
pub fn push_hex(value: u64, out: &mut Vec<u8>) {
    let mut digits = [0; NUMBER];
    hex(value, &mut digits);
    out.extend_from_slice(&digits);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_found_again_and_a_foreign_one_is_not() {
        let stamps = Stamps::new();
        let mut out = b"<message><body>".to_vec();
        stamps.write(0x0123_4567_89ab_cdef, &mut out);
        out.extend_from_slice(b"xxx</body></message>");
        assert_eq!(stamps.find(&out), Some(0x0123_4567_89ab_cdef));
        assert_eq!(stamps.find(b"<message><body>0123</body></message>"), None);
    }
}
