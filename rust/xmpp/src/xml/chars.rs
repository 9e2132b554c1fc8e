//! Characters and names of XML 1.0, and UTF-8 that arrives in pieces.

use super::XmlError;
use super::names::{NAME_MORE, NAME_START};

const START: u8 = 1;
const MORE: u8 = 2;
const SPACE: u8 = 4;

/// What each ASCII byte may be; the colon is none of these, it separates a prefix.
const CLASS: [u8; 128] = {
    let mut class = [0; 128];
    let mut byte = 0;
    while byte < 128 {
        class[byte] = match byte as u8 {
            b'a'..=b'z' | b'A'..=b'Z' | b'_' => START | MORE,
            b'0'..=b'9' | b'-' | b'.' => MORE,
            b' ' | b'\t' | b'\n' | b'\r' => SPACE,
            _ => 0,
        };
        byte += 1;
    }
    class
};

/// The longest name we read, and the longest prefix: no protocol comes near it, and a name is kept
/// beside every element of a tree (an own limit, within RFC 6120 §13.12).
pub(super) const MAX_NAME_BYTES: usize = 1024;

/// Whether `byte` matches `S` of XML 1.0 §2.3.
pub(super) fn is_space(byte: u8) -> bool {
    CLASS
        .get(usize::from(byte))
        .is_some_and(|class| class & SPACE != 0)
}

/// Bytes of white space at the start of `bytes`.
pub(super) fn space_len(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .position(|b| !is_space(*b))
        .unwrap_or(bytes.len())
}

/// The largest character boundary of `text` that is not behind `at`.
pub(super) fn floor(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// Whether `c` matches `Char` of XML 1.0 §2.2.
pub fn is_char(c: char) -> bool {
    match c {
        '\t' | '\n' | '\r' => true,
        c if c < ' ' => false,
        '\u{FFFE}' | '\u{FFFF}' => false,
        _ => true,
    }
}

fn listed(table: &[(u16, u16)], c: char) -> bool {
    let Ok(code) = u16::try_from(u32::from(c)) else {
        return false;
    };
    let after = table.partition_point(|(first, _)| *first <= code);
    after > 0 && code <= table[after - 1].1
}

/// Where the `NCName` that starts at `from` ends; `None` when none starts there.
pub(super) fn ncname_end(text: &str, from: usize) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut at = from;
    let mut wanted = START;
    while let Some(&byte) = bytes.get(at) {
        if byte < 0x80 {
            if CLASS[usize::from(byte)] & wanted == 0 {
                break;
            }
            at += 1;
        } else {
            let c = text.get(at..)?.chars().next()?;
            if !listed(NAME_START, c) && (wanted == START || !listed(NAME_MORE, c)) {
                break;
            }
            at += c.len_utf8();
        }
        wanted = MORE;
    }
    (at > from).then_some(at)
}

/// Whether `text` is an `NCName` (Namespaces in XML §3) in every edition of XML 1.0.
#[must_use]
pub fn is_ncname(text: &str) -> bool {
    ncname_end(text, 0) == Some(text.len())
}

/// The first byte of a character that XML forbids.
pub(super) fn forbidden(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    // Without a branch in the loop this is vectorised. 0xEF starts U+FFFE and U+FFFF.
    let suspect = bytes.iter().fold(false, |any, &b| {
        any | (((b < 0x20) & (b != b'\t') & (b != b'\n') & (b != b'\r')) | (b == 0xEF))
    });
    if suspect {
        text.char_indices()
            .find(|(_, c)| !is_char(*c))
            .map(|(at, _)| at)
    } else {
        None
    }
}

/// The longest prefix of `bytes` that is UTF-8 and XML characters, and what follows it: the start
/// of a character whose rest has not arrived (at most 3 bytes), or an error.
///
/// Improper UTF-8 is `unsupported-encoding`, not `not-well-formed`: RFC 6120 §4.9.3.22 names
/// "violating the rules of the UTF-8 encoding" as its second cause. A character that is proper
/// UTF-8 but no XML `Char` violates well-formedness (§4.9.3.13).
pub(super) fn check(bytes: &[u8]) -> (&str, Result<&[u8], XmlError>) {
    let (text, rest) = match std::str::from_utf8(bytes) {
        Ok(text) => (text, Ok(&bytes[bytes.len()..])),
        Err(error) => {
            let (good, rest) = bytes.split_at(error.valid_up_to());
            let text = std::str::from_utf8(good).unwrap_or_default();
            (
                text,
                if error.error_len().is_none() {
                    Ok(rest)
                } else {
                    Err(XmlError::Encoding)
                },
            )
        }
    };
    match forbidden(text) {
        Some(at) => (&text[..at], Err(XmlError::NotWellFormed)),
        None => (text, rest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_xml_characters_pass() {
        for (text, good) in [
            ("a\tb\r\n\u{7F}\u{85}\u{FFFD}\u{10FFFF}\u{FF0C}", true),
            ("\0", false),
            ("\u{B}", false),
            ("\u{1F}", false),
            ("\u{FFFE}", false),
            ("\u{FFFF}", false),
        ] {
            assert_eq!(forbidden(text).is_none(), good, "{text:?}");
            assert_eq!(
                forbidden(&format!("{}{text}", "x".repeat(40))).is_none(),
                good,
                "{text:?}"
            );
        }
    }

    #[test]
    fn names_follow_the_strictest_edition() {
        for good in [
            "a", "_", "stream", "a-b.c9", "é", "名前", "a\u{B7}", "a\u{300}",
        ] {
            assert!(is_ncname(good), "{good}");
        }
        for bad in [
            "",
            "1a",
            "-a",
            ".a",
            "a:b",
            ":a",
            "a b",
            "a\u{D7}",
            "\u{B7}",
            "\u{300}",
            "\u{10000}",
            "a\u{F7}",
        ] {
            assert!(!is_ncname(bad), "{bad}");
        }
    }

    #[test]
    fn name_tables_are_sorted_and_lie_within_the_fifth_edition() {
        let fifth = |c: u16| {
            matches!(c, 0xB7 | 0xC0..=0xD6 | 0xD8..=0xF6 | 0xF8..=0x37D | 0x37F..=0x1FFF | 0x200C..=0x200D
                | 0x203F..=0x2040 | 0x2070..=0x218F | 0x2C00..=0x2FEF | 0x3001..=0xD7FF | 0xF900..=0xFDCF
                | 0xFDF0..=0xFFFD)
        };
        for table in [NAME_START, NAME_MORE] {
            assert!(table.windows(2).all(|pair| pair[0].1 < pair[1].0));
            assert!(
                table
                    .iter()
                    .all(|(first, last)| first <= last && (*first..=*last).all(fifth))
            );
        }
    }

    #[test]
    fn utf8_is_checked_in_pieces() {
        assert_eq!(check("aé".as_bytes()), ("aé", Ok(&b""[..])));
        assert_eq!(check(b"a\xC3"), ("a", Ok(&b"\xC3"[..])));
        assert_eq!(check(b"a\xF0\x9F\x98"), ("a", Ok(&b"\xF0\x9F\x98"[..])));
        for bad in [
            &b"a\xC0\x80"[..],
            b"a\xED\xA0\x80",
            b"a\x80",
            b"a\xFF\xFE",
            b"a\xF5\x80",
            b"a\xE0\x80",
        ] {
            assert_eq!(check(bad), ("a", Err(XmlError::Encoding)), "{bad:?}");
        }
        assert_eq!(check(b"a\x01\xFF"), ("a", Err(XmlError::NotWellFormed)));
    }
}
