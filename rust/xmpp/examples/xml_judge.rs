//! What the reader makes of documents, for the differential test against expat
//! (`tests/differential/test_xml_expat.py`).
//!
//! Standard input: documents, each a 32-bit big-endian length and bytes. Standard output: for each
//! document two fields of the same shape. The first is `+` or the name of the error, and the trees
//! of what was read before; the second is what would be sent on for each stanza.

use antiphon_xmpp::Element;
use antiphon_xmpp::xml::{Event, Limits, Node, Reader};
use std::io::{self, Read, Write};

const LIMITS: Limits = Limits {
    stanza_bytes: 1 << 20,
    depth: 1000,
    elements: 100_000,
    attributes: 1000,
};

/// The tree with separators that no document can hold.
fn canonical(element: &Element, out: &mut String) {
    out.extend(["\u{1}", &element.ns, "\u{2}", &element.name]);
    let mut attrs: Vec<_> = element.attrs.iter().collect();
    attrs.sort_by(|a, b| (&a.ns, &a.name).cmp(&(&b.ns, &b.name)));
    for attr in attrs {
        out.extend(["\u{3}", &attr.ns, "\u{2}", &attr.name, "\u{2}", &attr.value]);
    }
    for child in &element.children {
        match child {
            Node::Element(child) => canonical(child, out),
            Node::Text(text) => out.extend(["\u{4}", text]),
        }
    }
    out.push('\u{5}');
}

fn judge(document: &[u8]) -> (String, Vec<u8>) {
    let (mut trees, mut sent) = (String::new(), Vec::new());
    let mut reader = Reader::tcp(LIMITS);
    // The split is part of the test: it must not matter.
    let middle = document.len() / 3;
    let mut pieces = [&document[..middle], &document[middle..]].into_iter();
    let verdict = loop {
        match reader.next() {
            Ok(Some(Event::Stanza(stanza) | Event::Malformed(stanza, _))) => {
                canonical(&stanza.element(), &mut trees);
                stanza.write(None, &mut sent);
            }
            Ok(Some(Event::Element(element))) => canonical(&element, &mut trees),
            Ok(Some(Event::Open(_))) => {}
            Ok(Some(Event::Close)) => break "+".to_owned(),
            Ok(None) => match pieces.next() {
                Some(piece) => reader.feed(piece),
                None => break "Unfinished".to_owned(),
            },
            Err(error) => break format!("{error:?}"),
        }
    };
    (verdict + &trees, sent)
}

fn main() -> io::Result<()> {
    let mut input = Vec::new();
    io::stdin().lock().read_to_end(&mut input)?;
    let mut rest = &input[..];
    let mut out = io::BufWriter::new(io::stdout().lock());
    while let Some((len, after)) = rest.split_first_chunk::<4>() {
        let (document, after) = after.split_at(u32::from_be_bytes(*len) as usize);
        rest = after;
        let (verdict, sent) = judge(document);
        for field in [verdict.as_bytes(), &sent] {
            out.write_all(&(field.len() as u32).to_be_bytes())?;
            out.write_all(field)?;
        }
    }
    out.flush()
}
