//! The XML reader: whatever bytes come, nothing panics, splits make no difference, and what is
//! forwarded reads back as the same tree.
//!
//! The input is a byte that chooses framing and split, then the stream.
#![no_main]

use antiphon_xmpp::xml::{Event, Limits, Reader, XmlError, parse_element};
use antiphon_xmpp::{Element, Stanza};
use libfuzzer_sys::fuzz_target;

const LIMITS: Limits = Limits {
    stanza_bytes: 4096,
    depth: 16,
    elements: 64,
    attributes: 16,
};
const HEADER: &[u8] = b"<stream:stream xmlns='jabber:client' \
    xmlns:stream='http://etherx.jabber.org/streams' xmlns:h='urn:h'>";

fn read<'a>(
    mut reader: Reader,
    pieces: impl Iterator<Item = &'a [u8]>,
) -> (Vec<Event>, Option<XmlError>) {
    let mut events = Vec::new();
    for piece in pieces {
        reader.feed(piece);
        loop {
            match reader.next() {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(error) => return (events, Some(error)),
            }
        }
        assert!(reader.buffered() <= LIMITS.stanza_bytes + 3);
    }
    (events, None)
}

/// Trees read from a stream can be written and read again.
fn check_tree(tree: &Element) {
    assert!(tree.has_valid_names());
    let text = tree.to_string();
    assert_eq!(parse_element(&text, "", WIDE).as_ref(), Ok(tree), "{text}");
}

/// Written anew, an element may need more declarations than before.
const WIDE: Limits = Limits {
    stanza_bytes: 1 << 24,
    depth: 64,
    elements: 256,
    attributes: 64,
};

fn check_stanza(stanza: &Stanza) {
    let back = Stanza::from_bytes(&stanza.to_bytes()).expect("what we write we read");
    assert_eq!(&back, stanza);
    let tree = stanza.element();
    check_tree(&tree);
    let children: Vec<_> = tree.elements().cloned().collect();
    let parsed = stanza.payload.children.iter().map(|c| stanza.parse(c));
    assert!(parsed.eq(children.into_iter().map(Some)));
    let again = Stanza::from_element(&tree).expect("a stanza's tree is a stanza");
    assert_eq!(again.element(), tree);
}

fuzz_target!(|input: &[u8]| {
    let Some((&choice, bytes)) = input.split_first() else {
        return;
    };
    let events = if choice & 1 == 1 {
        read(Reader::websocket(LIMITS), bytes.split(|b| *b == 0xFF)).0
    } else {
        let joined = [if choice & 2 == 2 { HEADER } else { b"" }, bytes].concat();
        let size = usize::from(choice >> 2) + 1;
        let whole = read(Reader::tcp(LIMITS), [&joined[..]].into_iter());
        assert_eq!(whole, read(Reader::tcp(LIMITS), joined.chunks(size)));
        whole.0
    };
    for event in &events {
        match event {
            Event::Stanza(stanza) | Event::Malformed(stanza, _) => check_stanza(stanza),
            Event::Element(element) => check_tree(element),
            Event::Open(_) | Event::Close => {}
        }
    }
});
