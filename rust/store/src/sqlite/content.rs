//! How a stanza lies in the file: without the two addresses that its archives know anyway, and
//! compressed with a dictionary of what chat messages have in common.
//!
//! The first byte tells the form: [`AS_IS`], [`BARE`] or [`PACKED`]. Measured on messages of 100
//! bytes of text as clients write them (`bench_archive`): 300 bytes become about 115, at 4 µs of
//! CPU to write and 1 µs to read.

use std::cell::RefCell;
use std::io;
use std::sync::LazyLock;
use zstd::bulk::{Compressor, Decompressor};
use zstd::dict::{DecoderDictionary, EncoderDictionary};

/// The stanza, unchanged.
const AS_IS: u8 = 0;
/// The two addresses replaced.
const BARE: u8 = 1;
/// The same, compressed with [`DICTIONARY`]: a frame of zstd without its magic number.
const PACKED: u8 = 2;

/// Made by `examples/train_dictionary.rs`. Never changed: another one is another form.
const DICTIONARY: &[u8] = include_bytes!("../../dictionary/stanza-1.zdict");

/// How hard to try: above 3 nothing is gained on texts this short.
const LEVEL: i32 = 3;

/// What every frame of zstd begins with (RFC 8878 §3.1.1).
const MAGIC: [u8; 4] = 0xFD2F_B528_u32.to_le_bytes();

/// Largest stanza that is read back: far above any limit, so that a damaged length harms nobody.
const MAX_BYTES: u64 = 256 * 1024 * 1024;

/// What every stored message begins with.
const ROOT: &[u8] = b"<message xmlns='jabber:client'";

/// Stand for the bare JIDs of the one who sent it and the one who received it. Neither can occur
/// in XML.
const SENDER: u8 = 1;
const RECEIVER: u8 = 2;

static ENCODER: LazyLock<EncoderDictionary<'static>> =
    LazyLock::new(|| EncoderDictionary::copy(DICTIONARY, LEVEL));
static DECODER: LazyLock<DecoderDictionary<'static>> =
    LazyLock::new(|| DecoderDictionary::copy(DICTIONARY));

thread_local! {
    static UNPACK: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// The two sides of a conversation, as bare JIDs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Sides<'a> {
    /// Who sent the message.
    pub(crate) sender: &'a str,
    /// Who received it.
    pub(crate) receiver: &'a str,
}

impl<'a> Sides<'a> {
    /// Of a message in `owner`'s archive.
    pub(crate) fn new(owner: &'a str, peer: &'a str, is_out: bool) -> Self {
        let (sender, receiver) = if is_out { (owner, peer) } else { (peer, owner) };
        Self { sender, receiver }
    }
}

/// Writes stanzas in their stored form.
pub(crate) struct Packer {
    compressor: Option<Compressor<'static>>,
}

impl std::fmt::Debug for Packer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Packer")
    }
}

impl Default for Packer {
    fn default() -> Self {
        // Fails for want of memory only; stanzas are then stored as they are.
        let compressor = Compressor::with_prepared_dictionary(&ENCODER).ok();
        let compressor = compressor.and_then(|mut compressor| {
            compressor.include_dictid(false).ok()?;
            compressor.include_checksum(false).ok()?;
            Some(compressor)
        });
        Self { compressor }
    }
}

impl Packer {
    /// The stored form.
    pub(crate) fn pack(&mut self, stanza: &[u8], sides: Sides<'_>) -> Vec<u8> {
        let Some(bare) = strip(stanza, sides) else {
            return with_form(AS_IS, stanza);
        };
        let packed = self
            .compressor
            .as_mut()
            .and_then(|compressor| compressor.compress(&bare).ok());
        match packed
            .as_deref()
            .and_then(|frame| frame.strip_prefix(&MAGIC))
        {
            Some(frame) if frame.len() < bare.len() => with_form(PACKED, frame),
            _ => with_form(BARE, &bare),
        }
    }
}

fn with_form(form: u8, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + content.len());
    out.push(form);
    out.extend_from_slice(content);
    out
}

/// The stanza behind its stored form.
///
/// # Errors
/// For what [`Packer::pack`] did not write.
pub(crate) fn unpack(stored: &[u8], sides: Sides<'_>) -> io::Result<Box<[u8]>> {
    match stored.split_first() {
        Some((&AS_IS, stanza)) => Ok(stanza.into()),
        Some((&BARE, bare)) => Ok(dress(bare, sides)),
        Some((&PACKED, frame)) => Ok(dress(&inflate(frame)?, sides)),
        _ => Err(invalid("unknown form of a stanza")),
    }
}

fn inflate(frame: &[u8]) -> io::Result<Vec<u8>> {
    let mut whole = Vec::with_capacity(MAGIC.len() + frame.len());
    whole.extend_from_slice(&MAGIC);
    whole.extend_from_slice(frame);
    let length = zstd::zstd_safe::get_frame_content_size(&whole)
        .ok()
        .flatten()
        .filter(|length| *length <= MAX_BYTES)
        .ok_or_else(|| invalid("a stanza without a length"))?;
    UNPACK.with_borrow_mut(|unpack| {
        let unpack = match unpack {
            Some(unpack) => unpack,
            None => unpack.insert(Decompressor::with_prepared_dictionary(&DECODER)?),
        };
        // Below the limit above, which a usize holds.
        unpack.decompress(&whole, length as usize)
    })
}

fn invalid(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// The stanza with marks for the sides; `None` if there is nothing to replace, or a mark is in it.
fn strip(stanza: &[u8], sides: Sides<'_>) -> Option<Vec<u8>> {
    let mut rest = stanza.strip_prefix(ROOT)?;
    if stanza.iter().any(|b| matches!(*b, SENDER | RECEIVER)) {
        return None;
    }
    let mut out = Vec::with_capacity(stanza.len());
    out.extend_from_slice(ROOT);
    for (name, bare, mark) in [
        (&b" from='"[..], sides.sender, SENDER),
        (&b" to='"[..], sides.receiver, RECEIVER),
    ] {
        let Some(value) = rest.strip_prefix(name) else {
            continue;
        };
        let end = value.iter().position(|b| *b == b'\'')?;
        out.extend_from_slice(name);
        let (value, after) = value.split_at(end);
        match value.strip_prefix(bare.as_bytes()) {
            Some(resource) if resource.is_empty() || resource.starts_with(b"/") => {
                out.push(mark);
                out.extend_from_slice(resource);
            }
            _ => out.extend_from_slice(value),
        }
        out.push(b'\'');
        rest = after.get(1..)?;
    }
    out.extend_from_slice(rest);
    Some(out)
}

/// Puts the addresses back.
fn dress(bare: &[u8], sides: Sides<'_>) -> Box<[u8]> {
    let more = sides.sender.len() + sides.receiver.len();
    let mut out = Vec::with_capacity(bare.len() + more);
    let mut rest = bare;
    while let Some(at) = rest.iter().position(|b| matches!(*b, SENDER | RECEIVER)) {
        out.extend_from_slice(&rest[..at]);
        let side = if rest[at] == SENDER {
            sides.sender
        } else {
            sides.receiver
        };
        out.extend_from_slice(side.as_bytes());
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    out.into_boxed_slice()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail")]
    use super::*;

    const SIDES: Sides<'static> = Sides {
        sender: "ana@acme.example",
        receiver: "bo@acme.example",
    };

    fn packed(stanza: &[u8]) -> Vec<u8> {
        let stored = Packer::default().pack(stanza, SIDES);
        assert_eq!(*unpack(&stored, SIDES).unwrap(), *stanza);
        stored
    }

    #[test]
    fn a_message_becomes_small_and_comes_back_as_it_was() {
        let message = "<message xmlns='jabber:client' from='ana@acme.example/phone' \
             to='bo@acme.example' id='6ba7b810-9dad-11d1-80b4-00c04fd430c8' type='chat' \
             xml:lang='en'><body>Shall we meet at the station at six, or is that too early for \
             you and the others?</body><request xmlns='urn:xmpp:receipts'/></message>";
        let stored = packed(message.as_bytes());
        assert!(stored.len() < 130, "{}", stored.len());
        let other = Sides {
            sender: "cy@acme.example",
            ..SIDES
        };
        let stanza = unpack(&stored, other).unwrap();
        assert!(
            stanza
                .windows(28)
                .any(|w| w == b" from='cy@acme.example/phone")
        );
    }

    #[test]
    fn any_bytes_come_back_as_they_were() {
        let every: Vec<u8> = (0..=255).collect();
        for bytes in [&b""[..], b"x", b"<message", ROOT, &every] {
            packed(bytes);
        }
        for text in [
            " from='ana@acme.example' to='bo@acme.example/x'/>",
            " from='ana@acme.examples' to='bo@acme'/>",
            " to='bo@acme.example'><body>from='ana@acme.example'</body></message>",
            " from='ana@acme.example",
            " type='chat' from='ana@acme.example'/>",
            " from='ana@acme.example/\u{1}'/>",
        ] {
            packed(&[ROOT, text.as_bytes()].concat());
        }
        packed(&[ROOT, &vec![b'x'; 1_000_000]].concat());
    }

    #[test]
    fn what_is_damaged_is_an_error() {
        for stored in [
            &b""[..],
            b"\x07x",
            b"\x02",
            b"\x02\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        ] {
            assert!(unpack(stored, SIDES).is_err());
        }
    }
}
