//! Values as nodes of a cluster hand them to each other: lengths and bytes, no XML to parse again.
//!
//! The other side is a node of this cluster, so what it says is believed; but it may be of another
//! version, so what cannot be read is an error and never a panic. Numbers are LEB128.

use crate::jid::Jid;
use crate::ns;
use crate::stanza::{ChildRef, Payload, Stanza, StanzaKind};
use crate::xml::{known_name, known_namespace};
use smallvec::SmallVec;
use std::sync::Arc;

/// What cannot be read: bytes are missing, or say something that this version does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a value of another node cannot be read")]
pub struct Unreadable;

/// Appends a number.
pub fn put_number(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Appends bytes behind their length.
pub fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    put_number(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// Reads values in the order in which they were put.
#[derive(Debug, Clone)]
pub struct Unpacker<'a>(&'a [u8]);

impl<'a> Unpacker<'a> {
    /// From the first byte.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }
    /// Whether all has been read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// What has not been read.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.0
    }
    /// A byte.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub fn byte(&mut self) -> Result<u8, Unreadable> {
        let (first, rest) = self.0.split_first().ok_or(Unreadable)?;
        self.0 = rest;
        Ok(*first)
    }
    /// A number.
    ///
    /// # Errors
    /// [`Unreadable`], above 64 bits too.
    pub fn number(&mut self) -> Result<u64, Unreadable> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let part = u64::from(byte & 0x7f);
            if shift == 63 && part > 1 {
                return Err(Unreadable);
            }
            number |= part << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Unreadable)
    }
    /// A number of another width.
    ///
    /// # Errors
    /// [`Unreadable`], also when it does not fit.
    pub fn small<T: TryFrom<u64>>(&mut self) -> Result<T, Unreadable> {
        T::try_from(self.number()?).map_err(|_| Unreadable)
    }
    /// Bytes.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub fn bytes(&mut self) -> Result<&'a [u8], Unreadable> {
        let len: usize = self.small()?;
        let (bytes, rest) = self.0.split_at_checked(len).ok_or(Unreadable)?;
        self.0 = rest;
        Ok(bytes)
    }
    /// A text.
    ///
    /// # Errors
    /// [`Unreadable`], also when it is no UTF-8.
    pub fn text(&mut self) -> Result<&'a str, Unreadable> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Unreadable)
    }
    /// An address, as its node had prepared it.
    ///
    /// # Errors
    /// [`Unreadable`], also when it can be none.
    pub fn jid(&mut self) -> Result<Jid, Unreadable> {
        Jid::prepared(self.text()?).map_err(|_| Unreadable)
    }
    /// What [`Stanza::pack`] put.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub fn stanza(&mut self) -> Result<Stanza, Unreadable> {
        Stanza::unpack(self)
    }
}

const FROM: u8 = 1;
const TO: u8 = 1 << 1;
const TYPE: u8 = 1 << 2;
const ID: u8 = 1 << 3;
const LANG: u8 = 1 << 4;
const EXTRA: u8 = 1 << 5;
const UID: u8 = 1 << 6;
const CONTENT: u8 = 1 << 7;

/// Stands for `jabber:client`, the namespace of nearly every child: no namespace is this text.
const CLIENT: &str = "*";

impl Stanza {
    /// Room enough for what [`Stanza::pack`] appends.
    #[must_use]
    pub fn packed_size(&self) -> usize {
        // Lengths take 3 bytes at most up to 2 MiB, names of children and their places the rest.
        let len = |text: Option<&str>| text.map_or(0, |text| text.len() + 3);
        let children = self.payload.children.iter();
        let children: usize = children.map(|c| c.ns.len() + c.name.len() + 20).sum();
        32 + len(self.from.as_ref().map(Jid::as_str))
            + len(self.to.as_ref().map(Jid::as_str))
            + len(self.type_.as_deref())
            + len(self.id.as_deref())
            + len(self.lang.as_deref())
            + len(Some(&self.extra))
            + self.payload.content.len()
            + children
    }

    /// Appends everything of the stanza, `uid` included.
    pub fn pack(&self, out: &mut Vec<u8>) {
        let texts = [
            (FROM, self.from.as_ref().map(Jid::as_str)),
            (TO, self.to.as_ref().map(Jid::as_str)),
            (TYPE, self.type_.as_deref()),
            (ID, self.id.as_deref()),
            (LANG, self.lang.as_deref()),
            (EXTRA, Some(&*self.extra).filter(|e| !e.is_empty())),
        ];
        let mut parts = texts
            .iter()
            .filter(|(_, text)| text.is_some())
            .fold(0, |parts, (part, _)| parts | part);
        if self.uid > 0 {
            parts |= UID;
        }
        let payload = &self.payload;
        if !payload.content.is_empty() {
            parts |= CONTENT;
        }
        out.reserve(self.packed_size());
        out.push(self.kind as u8);
        out.push(parts);
        for text in texts.iter().filter_map(|(_, text)| *text) {
            put_bytes(text.as_bytes(), out);
        }
        if self.uid > 0 {
            put_number(self.uid, out);
        }
        if payload.content.is_empty() {
            return;
        }
        put_bytes(&payload.content, out);
        put_number(payload.children.len() as u64, out);
        for child in &payload.children {
            let ns = if child.ns == ns::CLIENT {
                CLIENT
            } else {
                &child.ns
            };
            put_bytes(ns.as_bytes(), out);
            put_bytes(child.name.as_bytes(), out);
            put_number(u64::from(child.span.start), out);
            put_number(u64::from(child.span.end), out);
        }
    }

    fn unpack(from: &mut Unpacker<'_>) -> Result<Self, Unreadable> {
        let kind = match from.byte()? {
            0 => StanzaKind::Message,
            1 => StanzaKind::Presence,
            2 => StanzaKind::Iq,
            _ => return Err(Unreadable),
        };
        let parts = from.byte()?;
        let has = |part| parts & part != 0;
        let mut stanza = Self::new(kind);
        if has(FROM) {
            stanza.from = Some(from.jid()?);
        }
        if has(TO) {
            stanza.to = Some(from.jid()?);
        }
        if has(TYPE) {
            stanza.type_ = Some(from.text()?.into());
        }
        if has(ID) {
            stanza.id = Some(from.text()?.into());
        }
        if has(LANG) {
            stanza.lang = Some(from.text()?.into());
        }
        if has(EXTRA) {
            stanza.extra = from.text()?.into();
        }
        if has(UID) {
            stanza.uid = from.number()?;
        }
        if has(CONTENT) {
            stanza.payload = Arc::new(payload(from)?);
        }
        Ok(stanza)
    }
}

fn payload(from: &mut Unpacker<'_>) -> Result<Payload, Unreadable> {
    // Shown as text later on, so it must be one.
    let content = from.text()?;
    let count: usize = from.small()?;
    let mut children = SmallVec::new();
    for _ in 0..count {
        let ns = match from.text()? {
            CLIENT => known_namespace(ns::CLIENT),
            other => known_namespace(other),
        };
        let name = known_name(from.text()?);
        let span = from.small()?..from.small()?;
        // At a border of characters, or it would be cut there.
        content
            .get(span.start as usize..span.end as usize)
            .ok_or(Unreadable)?;
        children.push(ChildRef { ns, name, span });
    }
    Ok(Payload {
        content: content.as_bytes().into(),
        children,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xml::Element;

    fn message() -> Stanza {
        let element = Element::new(ns::CLIENT, "body").with_text("häi <&>");
        let other = Element::new("urn:example:never-seen", "thing").with_attr("a", "1");
        Stanza::new(StanzaKind::Message)
            .from(Jid::parse("juliet@example.org/balcony").unwrap())
            .to(Jid::parse("romeo@example.net").unwrap())
            .with_type("chat")
            .with_id("x'1")
            .with_child(&element)
            .with_child(&other)
    }

    #[test]
    fn a_stanza_comes_out_as_it_went_in() {
        let mut with_all = message();
        with_all.uid = u64::MAX;
        with_all.lang = Some("de".into());
        with_all.extra = " xmlns:p='urn:p'".into();
        let empty = Stanza::new(StanzaKind::Iq);
        let presence = Stanza::new(StanzaKind::Presence).with_type("unavailable");
        for stanza in [message(), with_all, empty, presence] {
            let mut out = Vec::new();
            stanza.pack(&mut out);
            let mut unpacker = Unpacker::new(&out);
            assert_eq!(unpacker.stanza(), Ok(stanza));
            assert!(unpacker.is_empty());
        }
    }

    #[test]
    fn what_is_cut_off_or_changed_is_no_panic() {
        let mut whole = Vec::new();
        message().pack(&mut whole);
        for len in 0..whole.len() {
            assert_eq!(Unpacker::new(&whole[..len]).stanza(), Err(Unreadable));
        }
        for at in 0..whole.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut changed = whole.clone();
                changed[at] = value;
                if let Ok(stanza) = Unpacker::new(&changed).stanza() {
                    // Whatever came out can be looked at.
                    let _ = format!("{stanza:?}");
                    for child in &stanza.payload.children {
                        let _ = stanza.parse(child);
                    }
                }
            }
        }
    }

    #[test]
    fn numbers_of_every_width_come_out() {
        for number in [0, 1, 127, 128, 1 << 20, u64::from(u32::MAX), u64::MAX] {
            let mut out = Vec::new();
            put_number(number, &mut out);
            assert_eq!(Unpacker::new(&out).number(), Ok(number));
        }
        assert_eq!(Unpacker::new(&[0xff; 10]).number(), Err(Unreadable));
        assert_eq!(Unpacker::new(&[0x80; 11]).number(), Err(Unreadable));
        assert_eq!(Unpacker::new(&[0x80, 2]).small::<u8>(), Err(Unreadable));
    }
}
