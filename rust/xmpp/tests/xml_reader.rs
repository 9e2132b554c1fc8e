//! The reader from outside: events, errors, limits, and that splits do not matter.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    reason = "also outside of the test functions themselves"
)]

use antiphon_xmpp::ns;
use antiphon_xmpp::xml::{Address, Event, Limits, Reader, XmlError, parse_element};
use antiphon_xmpp::{Element, Stanza};
use proptest::prelude::*;

const LIMITS: Limits = Limits {
    stanza_bytes: 10_000,
    depth: 20,
    elements: 200,
    attributes: 20,
};
const HEADER: &str = "<?xml version='1.0'?><stream:stream xmlns='jabber:client' \
     xmlns:stream='http://etherx.jabber.org/streams' to='example.org' version='1.0' xml:lang='en'>";

type Outcome = (Vec<Event>, Option<XmlError>);

fn drain(reader: &mut Reader, events: &mut Vec<Event>) -> Option<XmlError> {
    loop {
        match reader.next() {
            Ok(Some(event)) => events.push(event),
            Ok(None) => return None,
            Err(error) => return Some(error),
        }
    }
}

fn read_pieces<'a>(mut reader: Reader, pieces: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
    let mut events = Vec::new();
    for piece in pieces {
        reader.feed(piece);
        if let Some(error) = drain(&mut reader, &mut events) {
            assert_eq!(reader.buffered(), 0, "a dead reader holds nothing");
            return (events, Some(error));
        }
    }
    (events, None)
}

/// What a document gives, fed whole and byte by byte alike.
fn read(document: impl AsRef<[u8]>) -> Outcome {
    let document = document.as_ref();
    let whole = read_pieces(Reader::tcp(LIMITS), [document]);
    let bytes = read_pieces(Reader::tcp(LIMITS), document.chunks(1));
    assert_eq!(whole, bytes, "{:?}", String::from_utf8_lossy(document));
    whole
}

/// What follows the header of a client's stream gives.
fn body(rest: impl AsRef<[u8]>) -> Outcome {
    let (mut events, error) = read([HEADER.as_bytes(), rest.as_ref()].concat());
    assert!(matches!(events.remove(0), Event::Open(_)));
    (events, error)
}

fn one(rest: &str) -> Stanza {
    match body(rest) {
        (events, None) => match &events[..] {
            [Event::Stanza(stanza)] => stanza.clone(),
            other => panic!("{rest}: {other:?}"),
        },
        other => panic!("{rest}: {other:?}"),
    }
}

fn frame(message: &str) -> Result<Option<Event>, XmlError> {
    let mut reader = Reader::websocket(LIMITS);
    reader.feed(message.as_bytes());
    reader.next()
}

#[test]
fn a_stream_gives_header_stanzas_elements_and_close() {
    let (events, error) = read(format!(
        "{HEADER} <message to='a@b' from='c@d/e' type='chat' id='1'><body>hi</body>\
         <active xmlns='http://jabber.org/protocol/chatstates'/></message>\n\
         <r xmlns='urn:xmpp:sm:3'/></stream:stream >trailing"
    ));
    assert_eq!(error, None);
    let Event::Open(header) = &events[0] else {
        panic!("{events:?}")
    };
    assert_eq!(header.content_ns, ns::CLIENT);
    assert_eq!(header.to.as_deref(), Some("example.org"));
    assert_eq!(header.version.as_deref(), Some("1.0"));
    assert_eq!(header.lang.as_deref(), Some("en"));
    let Event::Stanza(message) = &events[1] else {
        panic!("{events:?}")
    };
    assert_eq!(message.to.as_ref().map(|j| j.as_str()), Some("a@b"));
    assert_eq!(message.from.as_ref().map(|j| j.as_str()), Some("c@d/e"));
    assert_eq!(
        (message.type_str(), message.id.as_deref()),
        ("chat", Some("1"))
    );
    assert_eq!(
        message.lang.as_deref(),
        Some("en"),
        "inherited from the stream"
    );
    assert!(message.has(ns::CLIENT, "body") && message.has_ns(ns::CHAT_STATES));
    assert_eq!(message.child(ns::CLIENT, "body").unwrap().text(), "hi");
    assert!(matches!(&events[2], Event::Element(r) if r.is(ns::SM, "r")));
    assert_eq!(events[3..], [Event::Close]);
}

#[test]
fn what_is_not_well_formed_ends_the_stream() {
    for bad in [
        "<message><body></message>",
        "<message></presence>",
        "<message></message x>",
        "<message></ message>",
        "<1a/>",
        "<a:b/>",
        "<a:b:c xmlns:a='u'/>",
        "<message a:b=''/>",
        "<message a='1' a='2'/>",
        "<message a='1'b='2'/>",
        "<message a=1/>",
        "<message a/>",
        "<message a='<'/>",
        "<message a='&#1;'/>",
        "<message>&#0;</message>",
        "<message>&#xFFFE;</message>",
        "<message>&lt</message>",
        "<message>a & b</message>",
        "<message>]]></message>",
        "<message>\u{1}</message>",
        "<message>\u{FFFF}</message>",
        "<message xmlns:p=''/>",
        "<message xmlns:xml='urn:x'/>",
        "<message xmlns:p='http://www.w3.org/XML/1998/namespace'/>",
        "<message xmlns='http://www.w3.org/XML/1998/namespace'/>",
        "<message xmlns='http://www.w3.org/2000/xmlns/'/>",
        "<message xmlns:xmlns='urn:x'/>",
        "<xmlns:message/>",
        "<message xmlns:p='u' xmlns:q='u' p:a='' q:a=''/>",
        "<message xmlns:p='a b'/>",
        "<message xmlns:p='a}b'/>",
        "<message><![cdata[]]></message>",
        "</stream:streams>",
        "</streams:stream>",
        "<message><p:a xmlns:p='u'/><p:a/></message>",
        "<\u{10000}/>",
        "< message/>",
        "<>",
        "</>",
    ] {
        assert_eq!(body(bad), (vec![], Some(XmlError::NotWellFormed)), "{bad}");
    }
}

#[test]
fn restricted_xml_is_named_as_such() {
    for bad in [
        "<!-- x -->",
        "<message><!-- x --></message>",
        "<message><?pi ?></message>",
        "<?xml version='1.0'?>",
        "<!DOCTYPE a>",
        "<message>&nbsp;</message>",
        "<message a='&foo;'/>",
    ] {
        assert_eq!(body(bad), (vec![], Some(XmlError::Restricted)), "{bad}");
    }
    let doctype = "<!DOCTYPE a [<!ENTITY a 'b'>]><stream:stream/>";
    assert_eq!(read(doctype), (vec![], Some(XmlError::Restricted)));
    assert_eq!(
        read(format!("<?pi?>{HEADER}")),
        (vec![], Some(XmlError::Restricted))
    );
    assert_eq!(
        read(format!(" {HEADER}")),
        (vec![], Some(XmlError::Restricted))
    );
}

#[test]
fn only_utf8_is_read() {
    let utf16: Vec<u8> = "\u{FEFF}<stream"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    assert_eq!(read(utf16), (vec![], Some(XmlError::Encoding)));
    let other = "<?xml version='1.0' encoding='ISO-8859-1'?>";
    assert_eq!(read(other), (vec![], Some(XmlError::Encoding)));
    for bad in [
        &b"<message>\xFF"[..],
        b"<message>\xC0\x80",
        b"<message>\xED\xA0\x80",
        b"<message a='\xC3'/>",
    ] {
        assert_eq!(body(bad), (vec![], Some(XmlError::Encoding)), "{bad:?}");
    }
    assert!(matches!(read(format!("\u{FEFF}{HEADER}")), (events, None) if events.len() == 1));
}

#[test]
fn text_between_first_level_elements_is_bad_format_and_white_space_is_swallowed() {
    for bad in ["x", "&#32;", "<![CDATA[ ]]>", "<message/>x"] {
        assert_eq!(body(bad).1, Some(XmlError::BadFormat), "{bad}");
    }
    let mut reader = Reader::tcp(LIMITS);
    reader.feed(HEADER.as_bytes());
    assert!(reader.next().unwrap().is_some());
    for _ in 0..10_000 {
        reader.feed(b" \r\n\t");
        assert_eq!(reader.next(), Ok(None));
        assert_eq!(reader.buffered(), 0);
    }
}

#[test]
fn headers_are_judged_by_namespace_and_prefix() {
    let streams = "http://etherx.jabber.org/streams";
    for (header, expected) in [
        (
            format!("<foobar:stream xmlns='jabber:client' xmlns:foobar='{streams}'>"),
            Some(XmlError::BadPrefix),
        ),
        (
            format!("<stream xmlns='jabber:client' xmlns:stream='{streams}'>"),
            Some(XmlError::BadPrefix),
        ),
        (
            "<stream:stream xmlns='jabber:client' xmlns:stream='urn:x'>".into(),
            Some(XmlError::InvalidNamespace),
        ),
        (
            "<stream xmlns='jabber:client'>".into(),
            Some(XmlError::InvalidNamespace),
        ),
        ("<stream>".into(), Some(XmlError::InvalidNamespace)),
        ("<html>".into(), Some(XmlError::BadFormat)),
        (
            format!("<stream:features xmlns:stream='{streams}'>"),
            Some(XmlError::BadFormat),
        ),
        (
            "<stream:stream xmlns='jabber:client'>".into(),
            Some(XmlError::NotWellFormed),
        ),
        ("GET / HTTP/1.1\r\n".into(), Some(XmlError::NotWellFormed)),
        ("</stream:stream>".into(), Some(XmlError::NotWellFormed)),
        ("<![CDATA[x]]>".into(), Some(XmlError::BadFormat)),
        (format!("<stream xmlns='{streams}'>"), None),
        (
            format!("\u{FEFF}<?xml version='1.0'?>\n<stream:stream xmlns:stream='{streams}'>"),
            None,
        ),
    ] {
        let (events, error) = read(&header);
        assert_eq!(error, expected, "{header}");
        assert_eq!(events.len(), usize::from(expected.is_none()), "{header}");
    }
}

#[test]
fn the_header_reports_its_default_namespace() {
    for (default, reported) in [
        ("", ""),
        ("xmlns='jabber:server'", ns::SERVER),
        ("xmlns='urn:x'", "urn:x"),
    ] {
        let header = format!(
            "<stream:stream {default} xmlns:stream='{}' id='x' from='y'>",
            ns::STREAM
        );
        let (events, _) = read(header);
        let Event::Open(header) = &events[0] else {
            panic!("{events:?}")
        };
        assert_eq!(header.content_ns, reported);
        assert_eq!(
            (header.id.as_deref(), header.from.as_deref()),
            (Some("x"), Some("y"))
        );
    }
}

#[test]
fn an_empty_header_opens_and_closes() {
    let header = format!("<stream:stream xmlns:stream='{}'/>", ns::STREAM);
    let (events, error) = read(header);
    assert!(matches!(&events[..], [Event::Open(_), Event::Close]) && error.is_none());
}

#[test]
fn a_second_header_is_refused_where_it_starts() {
    assert_eq!(body(&HEADER[21..]), (vec![], Some(XmlError::BadFormat)));
}

#[test]
fn limits_hold_while_bytes_arrive() {
    let long = "x".repeat(10_000);
    let deep = "<a>".repeat(30);
    let many = format!("<message>{}", "<a/>".repeat(250));
    let attributes: String = (0..30).map(|n| format!(" a{n}=''")).collect();
    for (bad, name) in [
        (format!("<message>{long}"), "stanza size"),
        (format!("<message a='{long}"), "stanza size"),
        (format!("<{long}"), "stanza size"),
        (format!("<message><![CDATA[{long}"), "stanza size"),
        (
            format!("</stream:stream{}", " ".repeat(10_000)),
            "stanza size",
        ),
        (format!("<message>{deep}"), "depth"),
        (many, "elements"),
        (format!("<message><{}/>", &long[..1025]), "name"),
        (format!("<message{attributes}>"), "attributes"),
    ] {
        assert_eq!(body(&bad), (vec![], Some(XmlError::Limit(name))), "{name}");
        // The same as one WebSocket message.
        let mut reader = Reader::websocket(LIMITS);
        reader.feed(bad.replacen('>', " xmlns='jabber:client'>", 1).as_bytes());
        if name == "stanza size" && !bad.starts_with("</") {
            assert_eq!(reader.next(), Err(XmlError::Limit(name)), "{name}");
        }
    }
    let header = format!("<stream:stream a='{long}");
    assert_eq!(read(header), (vec![], Some(XmlError::Limit("stanza size"))));
}

#[test]
fn the_size_limit_counts_from_the_first_angle_bracket_to_the_last() {
    let exact = |len: usize| {
        format!(
            "  <message>{}</message>",
            "é".repeat((len - 19) / 2) + if len.is_multiple_of(2) { "x" } else { "" }
        )
    };
    assert_eq!(body(exact(10_000)).1, None);
    assert_eq!(body(exact(9_999)).1, None);
    assert_eq!(body(exact(10_001)).1, Some(XmlError::Limit("stanza size")));
    assert_eq!(body(exact(10_002)).1, Some(XmlError::Limit("stanza size")));
    let two = format!("{}{}", exact(10_000), exact(10_000));
    assert!(matches!(body(two), (events, None) if events.len() == 2));
}

#[test]
fn what_is_kept_of_an_unfinished_element_stays_in_proportion() {
    let limits = Limits {
        stanza_bytes: 200_000,
        elements: 25_000,
        ..LIMITS
    };
    let read = |text: String| {
        let mut reader = Reader::tcp(limits);
        reader.feed(HEADER.as_bytes());
        reader.next().unwrap();
        reader.feed(text.as_bytes());
        reader.next()
    };
    let over = Err(XmlError::Limit("elements"));
    for (root, most) in [("message", 1_000), ("x xmlns='urn:x'", 255)] {
        assert_eq!(read(format!("<{root}>{}", "<a/>".repeat(most))), Ok(None));
        assert_eq!(read(format!("<{root}>{}", "<a/>".repeat(most + 1))), over);
    }
    let unbounded = Limits {
        elements: usize::MAX,
        ..limits
    };
    let mut reader = Reader::tcp(unbounded);
    reader.feed(format!("{HEADER}<message>{}", "<a/>".repeat(5_000)).as_bytes());
    reader.next().unwrap();
    assert_eq!(reader.next(), Ok(None));
    // deeper elements are bytes
    let deep = format!("<message><x>{}", "<a/>".repeat(24_998));
    assert_eq!(read(deep.clone()), Ok(None));
    let whole = format!("{deep}</x></message>");
    assert!(matches!(read(whole), Ok(Some(Event::Stanza(_)))));
}

#[test]
fn namespaces_cannot_be_used_to_amplify() {
    let limits = Limits {
        stanza_bytes: 200_000,
        depth: 1000,
        elements: 100_000,
        attributes: 1000,
    };
    let fresh = || {
        let mut reader = Reader::tcp(limits);
        reader.feed(HEADER.as_bytes());
        reader.next().unwrap();
        reader
    };
    let uri = format!("urn:{}", "x".repeat(60_000));
    for root in ["message", "message xmlns='urn:other'"] {
        let many = format!("<{root} xmlns:a='{uri}'>{}", "<a:b/>".repeat(20_000));
        let mut reader = fresh();
        reader.feed(many.as_bytes());
        assert_eq!(reader.next(), Err(XmlError::Limit("namespaces")));
    }
    let declarations: String = (0..300)
        .map(|n| format!("<a xmlns:p{n}='urn:{n}'>"))
        .collect();
    let mut reader = fresh();
    reader.feed(format!("<message>{declarations}").as_bytes());
    assert_eq!(reader.next(), Err(XmlError::Limit("namespaces")));
}

#[test]
fn memory_is_given_back_between_elements() {
    let mut reader = Reader::tcp(LIMITS);
    reader.feed(HEADER.as_bytes());
    assert!(reader.next().unwrap().is_some());
    reader.feed("<message/>".repeat(1000).as_bytes());
    reader.feed(b"<message><bo");
    for _ in 0..1000 {
        assert!(reader.next().unwrap().is_some());
    }
    assert_eq!(reader.next(), Ok(None));
    assert_eq!(reader.buffered(), 12);
    reader.feed(b"dy/></message>");
    assert!(matches!(reader.next(), Ok(Some(Event::Stanza(_)))));
    assert_eq!(reader.next(), Ok(None));
    assert_eq!(reader.buffered(), 0);
}

#[test]
fn a_restart_forgets_the_stream_and_what_was_unread() {
    let mut reader = Reader::tcp(LIMITS);
    reader.feed(format!("{HEADER}<starttls xmlns='{}'/><message/>", ns::TLS).as_bytes());
    assert!(matches!(reader.next(), Ok(Some(Event::Open(_)))));
    assert!(matches!(reader.next(), Ok(Some(Event::Element(_)))));
    reader.restart(false);
    assert_eq!(reader.buffered(), 0);
    assert_eq!(reader.next(), Ok(None));
    reader.feed(format!("{HEADER}<message/>\n {HEADER}<iq/>").as_bytes());
    assert!(matches!(reader.next(), Ok(Some(Event::Open(_)))));
    assert!(matches!(reader.next(), Ok(Some(Event::Stanza(_)))));
    reader.restart(true);
    assert!(matches!(reader.next(), Ok(Some(Event::Open(_)))));
    assert!(matches!(reader.next(), Ok(Some(Event::Stanza(_)))));
}

#[test]
fn addresses_that_do_not_parse_are_reported_with_the_stanza() {
    for (stanza, which) in [
        ("<iq to='@b' from='a@b' id='1' type='get'/>", Address::To),
        ("<iq to='a@b' from='/x' id='1' type='get'/>", Address::From),
        ("<iq to='' from='a@b/' id='1' type='get'/>", Address::From),
        ("<iq from='a@b/' to='' id='1' type='get'/>", Address::From),
    ] {
        let (events, error) = body(format!("{stanza}<message/>"));
        assert_eq!((error, events.len()), (None, 2), "{stanza}");
        let Event::Malformed(iq, bad) = &events[0] else {
            panic!("{events:?}")
        };
        assert_eq!((*bad, iq.id.as_deref()), (which, Some("1")), "{stanza}");
        let addresses = [(Address::From, &iq.from), (Address::To, &iq.to)];
        assert!(
            addresses.iter().all(|(a, jid)| a != bad || jid.is_none()),
            "{stanza}"
        );
    }
}

#[test]
fn stanzas_are_those_of_the_content_namespace() {
    for other in [
        "<message xmlns='jabber:server'/>",
        "<message xmlns=''/>",
        "<foo/>",
        "<stream:error/>",
        "<x:message xmlns:x='urn:x'/>",
    ] {
        assert!(matches!(&body(other).0[..], [Event::Element(_)]), "{other}");
    }
    for stanza in [
        "<presence/>",
        "<iq xmlns='jabber:client'/>",
        "<c:iq xmlns:c='jabber:client'/>",
    ] {
        assert!(
            matches!(&body(stanza).0[..], [Event::Stanza(_)]),
            "{stanza}"
        );
    }
    let header = HEADER.replace(ns::CLIENT, ns::SERVER);
    let (events, _) = read(format!(
        "{header}<message><body/></message><message xmlns='jabber:client'/>"
    ));
    assert!(matches!(&events[1], Event::Stanza(m) if m.has(ns::CLIENT, "body")));
    assert!(matches!(&events[2], Event::Element(_)));
}

#[test]
fn content_is_portable_whatever_it_was_declared_with() {
    for (header, stanza, content) in [
        (
            "",
            "<message><body>a</body> <x xmlns='urn:x'><y/></x></message>",
            "<body>a</body> <x xmlns='urn:x'><y/></x>",
        ),
        (
            "",
            "<message xmlns='jabber:client'><body/></message>",
            "<body/>",
        ),
        (
            "",
            "<message><body xmlns='jabber:client'>&lt;</body></message>",
            "<body>&lt;</body>",
        ),
        (
            "",
            "<c:message xmlns:c='jabber:client'><c:body c:a='1'/></c:message>",
            "<body xmlns:ns0='jabber:client' ns0:a='1'/>",
        ),
        (
            "",
            "<message xmlns:c='jabber:client'><c:body>a</c:body></message>",
            "<body>a</body>",
        ),
        (
            "",
            "<message><forwarded xmlns='urn:xmpp:forward:0'><message xmlns='jabber:client'/></forwarded></message>",
            "<forwarded xmlns='urn:xmpp:forward:0'><message xmlns='jabber:client'/></forwarded>",
        ),
        ("xmlns:h='urn:h'", "<message><h:x/></message>", "<h:x/>"),
    ] {
        let header = HEADER.replace(" to=", &format!(" {header} to="));
        let (events, error) = read(format!("{header}{stanza}"));
        let [_, Event::Stanza(read)] = &events[..] else {
            panic!("{stanza}: {events:?} {error:?}")
        };
        assert_eq!(
            String::from_utf8_lossy(&read.payload.content),
            content,
            "{stanza}"
        );
        let around = header.replace("<?xml version='1.0'?>", "") + stanza + "</stream:stream>";
        let original = parse_element(&around, "", LIMITS).unwrap();
        let original = original.elements().next().unwrap();
        let mut copy = read.element();
        copy.attrs.clear();
        assert_eq!(&copy, original, "{stanza}");
    }
}

#[test]
fn declarations_and_attributes_that_content_needs_go_along() {
    let stanza = one(
        "<message a='&lt;' xmlns:p='urn:p' xmlns:q='urn:q' xmlns:r='urn:r' q:b='2'><p:x/></message>",
    );
    assert_eq!(
        &*stanza.extra,
        " xmlns:p='urn:p' xmlns:q='urn:q' a='&lt;' q:b='2'"
    );
    assert_eq!(stanza.first_child().unwrap(), Element::new("urn:p", "x"));
    assert_eq!(&*stanza.payload.children[0].ns, "urn:p");
    let back = Stanza::from_bytes(&stanza.to_bytes()).unwrap();
    assert_eq!(back, stanza);
    assert_eq!(
        &*one("<message><stream:x/></message>").extra,
        format!(" xmlns:stream='{}'", ns::STREAM)
    );
    assert_eq!(
        &*one("<c:iq xmlns:c='jabber:client' xmlns:p='urn:p' p:a=''/>").extra,
        " xmlns:p='urn:p' p:a=''"
    );
}

#[test]
fn values_are_normalised_and_references_resolved() {
    let stanza = one(
        "<message id='a\n&#10;&amp;\u{e9}' xml:lang='de'><body>a\r\nb&#13;<![CDATA[<&]]>]]&gt;</body></message>",
    );
    assert_eq!(stanza.id.as_deref(), Some("a \n&é"));
    assert_eq!(stanza.lang.as_deref(), Some("de"));
    assert_eq!(stanza.first_child().unwrap().text(), "a\nb\r<&]]>");
}

#[test]
fn websocket_messages_hold_one_element_each() {
    let open = "<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='example.org' version='1.0' xml:lang='de'/>";
    let mut reader = Reader::websocket(LIMITS);
    for message in [
        open,
        "<message xmlns='jabber:client'><body/></message>",
        "<message/>",
        "<stream:features xmlns:stream='http://etherx.jabber.org/streams'/>",
        "<close xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>",
        "<message/>",
    ] {
        reader.feed(message.as_bytes());
    }
    let Ok(Some(Event::Open(header))) = reader.next() else {
        panic!()
    };
    assert_eq!(
        (&*header.content_ns, header.to.as_deref()),
        (ns::CLIENT, Some("example.org"))
    );
    assert!(matches!(reader.next(), Ok(Some(Event::Stanza(m))) if m.lang.as_deref() == Some("de")));
    assert!(matches!(reader.next(), Ok(Some(Event::Element(m))) if m.is("", "message")));
    assert!(matches!(reader.next(), Ok(Some(Event::Element(m))) if m.is(ns::STREAM, "features")));
    assert_eq!(reader.next(), Ok(Some(Event::Close)));
    assert_eq!(reader.next(), Ok(None));
    assert_eq!(reader.buffered(), 0);
}

#[test]
fn websocket_messages_of_other_shape_are_refused() {
    for (message, error) in [
        ("", XmlError::BadFormat),
        (" <message xmlns='jabber:client'/>", XmlError::BadFormat),
        (
            "<?xml version='1.0'?><message xmlns='jabber:client'/>",
            XmlError::BadFormat,
        ),
        (
            "<message xmlns='jabber:client'/><message xmlns='jabber:client'/>",
            XmlError::BadFormat,
        ),
        ("<message xmlns='jabber:client'>", XmlError::NotWellFormed),
        ("<message xmlns='jabber:client'", XmlError::NotWellFormed),
        ("</message>", XmlError::NotWellFormed),
        ("<", XmlError::NotWellFormed),
        ("x", XmlError::BadFormat),
        ("<!-- x --><a/>", XmlError::Restricted),
    ] {
        assert_eq!(frame(message), Err(error), "{message}");
    }
    let mut reader = Reader::websocket(LIMITS);
    reader.feed(b"<a>\xC3");
    assert_eq!(reader.next(), Err(XmlError::Encoding));
}

#[test]
fn single_elements_are_parsed_with_a_default_namespace_around() {
    let element = parse_element(" <a xmlns:p='urn:p'><p:b/>x</a>\n", "urn:d", LIMITS).unwrap();
    assert_eq!(
        element,
        Element::new("urn:d", "a")
            .with_child(Element::new("urn:p", "b"))
            .with_text("x")
    );
    for bad in [
        "",
        "x",
        "<a>",
        "<a/><b/>",
        "<a/>x",
        "</a>",
        "<a>\u{1}</a>",
        "<a",
        "<?xml version='1.0'?><a/>",
    ] {
        assert!(parse_element(bad, "", LIMITS).is_err(), "{bad}");
    }
    let long = format!("<a>{}</a>", "x".repeat(10_000));
    assert_eq!(
        parse_element(&long, "", LIMITS),
        Err(XmlError::Limit("stanza size"))
    );
}

fn document() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just("<message to='a@b'>"),
        Just("</message>"),
        Just("<body>"),
        Just("</body>"),
        Just("hi & é"),
        Just("]]>"),
        Just("<x xmlns='urn:x' y='&lt;>'/>"),
        Just("<![CDATA[ <a> ]]>"),
        Just("&amp;"),
        Just(" \r\n"),
        Just("😀"),
        Just("<p:a xmlns:p='urn:p'>"),
        Just("</p:a>"),
        Just("<iq/>"),
        Just("</stream:stream>"),
        Just("<!--"),
        Just("<a b='\u{FFFE}'/>"),
        Just("<r xmlns='urn:xmpp:sm:3'/>"),
        Just("<iq from='@'/>"),
        Just("<"),
        Just("'"),
    ];
    let bytes = proptest::collection::vec(piece, 0..12).prop_map(|p| p.concat().into_bytes());
    (
        bytes,
        proptest::option::weighted(0.2, (any::<prop::sample::Index>(), any::<u8>())),
    )
        .prop_map(|(mut bytes, hit)| {
            if let (Some((at, byte)), false) = (hit, bytes.is_empty()) {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            [HEADER.as_bytes(), &bytes].concat()
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn any_split_gives_the_same_events(document in document(), cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..6)) {
        let whole = read_pieces(Reader::tcp(LIMITS), [&document[..]]);
        let mut cuts: Vec<usize> = cuts.iter().map(|c| c.index(document.len())).chain([0, document.len()]).collect();
        cuts.sort_unstable();
        let pieces = cuts.windows(2).map(|w| &document[w[0]..w[1]]);
        prop_assert_eq!(&whole, &read_pieces(Reader::tcp(LIMITS), pieces));
        prop_assert_eq!(&whole, &read_pieces(Reader::tcp(LIMITS), document.chunks(1)));
    }

    #[test]
    fn arbitrary_bytes_never_panic(document in proptest::collection::vec(any::<u8>(), 0..200)) {
        read(&document);
        body(&document);
    }
}
