//! Stanzas and trees: what is written reads back the same, and the operations on stanzas.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    reason = "also outside of the test functions themselves"
)]

use antiphon_xmpp::stanza::ErrorType;
use antiphon_xmpp::xml::writer::write_element;
use antiphon_xmpp::xml::{Attr, Limits, Node, parse_element};
use antiphon_xmpp::{Element, Jid, Stanza, StanzaCondition, StanzaError, StanzaKind, ns};
use proptest::prelude::*;
use std::sync::Arc;

const LIMITS: Limits = Limits {
    stanza_bytes: 1 << 20,
    depth: 64,
    elements: 10_000,
    attributes: 64,
};

fn jid(text: &str) -> Jid {
    Jid::parse(text).unwrap()
}

fn message() -> Stanza {
    Stanza::from_bytes(
        b"<message xmlns='jabber:client' from='a@b/c' to='d@e' type='chat' id='1' xml:lang='en'>\
          <body>hi</body> <x xmlns='urn:x'/><y xmlns='urn:y'>t</y></message>",
    )
    .unwrap()
}

fn content(stanza: &Stanza) -> String {
    String::from_utf8_lossy(&stanza.payload.content).into_owned()
}

fn written(stanza: &Stanza, xmlns: Option<&str>) -> String {
    let mut out = Vec::new();
    stanza.write(xmlns, &mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn a_stanza_is_written_with_and_without_its_namespace() {
    let stanza = Stanza::new(StanzaKind::Presence)
        .to(jid("a@b"))
        .with_id("x'<");
    assert_eq!(
        written(&stanza, None),
        "<presence to='a@b' id='x&apos;&lt;'/>"
    );
    assert_eq!(
        written(&stanza, Some(ns::SERVER)),
        "<presence xmlns='jabber:server' to='a@b' id='x&apos;&lt;'/>"
    );
    let all = "<message from='a@b/c' to='d@e' id='1' type='chat' xml:lang='en'>\
               <body>hi</body> <x xmlns='urn:x'/><y xmlns='urn:y'>t</y></message>";
    assert_eq!(written(&message(), None), all);
    assert_eq!(format!("{:?}", message()), all);
    assert_eq!(Stanza::from_bytes(&message().to_bytes()), Ok(message()));
}

#[test]
fn children_are_added_found_and_removed() {
    let child = Element::new("urn:z", "z").with_attr("a", "1");
    let more = message()
        .with_child(&child)
        .with_child(&Element::new(ns::CLIENT, "thread"));
    assert!(content(&more).ends_with("</y><z xmlns='urn:z' a='1'/><thread/>"));
    assert_eq!(more.child("urn:z", "z"), Some(child));
    assert!(more.has(ns::CLIENT, "thread") && more.has_ns("urn:z") && !more.has("urn:z", "thread"));
    assert_eq!(more.first_child().unwrap().text(), "hi");
    let less = more.retain(|c| !matches!(&*c.ns, "urn:x" | "urn:z"));
    assert_eq!(
        content(&less),
        "<body>hi</body> <y xmlns='urn:y'>t</y><thread/>"
    );
    assert_eq!(less.child("urn:y", "y").unwrap().text(), "t");
    assert!(less.child(ns::CLIENT, "thread").is_some() && less.child("urn:x", "x").is_none());
    let same = less.clone().retain(|_| true);
    assert!(
        Arc::ptr_eq(&same.payload, &less.payload),
        "nothing removed, nothing copied"
    );
}

#[test]
fn a_tree_becomes_a_stanza_and_back() {
    let tree = message().element();
    assert!(tree.is(ns::CLIENT, "message") && tree.lang() == Some("en"));
    assert_eq!(Stanza::from_element(&tree), Ok(message()));
    let server = Element::new(ns::SERVER, "iq")
        .with_attr("type", "get")
        .with_attr_ns("urn:q", "k", "v")
        .with_child(Element::new(ns::SERVER, "x").with_child(Element::new("urn:y", "y")));
    let stanza = Stanza::from_element(&server).unwrap();
    assert_eq!(content(&stanza), "<x><y xmlns='urn:y'/></x>");
    assert_eq!(&*stanza.extra, " xmlns:ns0='urn:q' ns0:k='v'");
    assert!(stanza.has(ns::CLIENT, "x"));
    for (bad, condition) in [
        (Element::new(ns::CLIENT, "foo"), StanzaCondition::BadRequest),
        (
            Element::new("urn:x", "message"),
            StanzaCondition::BadRequest,
        ),
        (
            Element::new(ns::CLIENT, "iq").with_child(Element::new("", "a b")),
            StanzaCondition::BadRequest,
        ),
        (
            Element::new(ns::CLIENT, "iq").with_attr("to", "@"),
            StanzaCondition::JidMalformed,
        ),
    ] {
        assert_eq!(Stanza::from_element(&bad), Err(condition.into()));
    }
    for bad in [
        &b"<foo/>"[..],
        b"<message xmlns='jabber:client'>",
        b"\xFF",
        b"<message/>",
    ] {
        assert_eq!(
            Stanza::from_bytes(bad),
            Err(StanzaCondition::BadRequest.into())
        );
    }
}

#[test]
fn results_and_errors_go_back_to_the_sender() {
    let iq = Stanza::new(StanzaKind::Iq)
        .from(jid("a@b/c"))
        .to(jid("d@e"))
        .with_type("get")
        .with_id("7");
    assert_eq!(
        written(&iq.result(), None),
        "<iq from='d@e' to='a@b/c' id='7' type='result'/>"
    );
    let error = StanzaError::new(StanzaCondition::NotAllowed)
        .with_text("no")
        .with_app(Element::new("urn:app", "why"));
    let answer = iq
        .clone()
        .with_child(&Element::new("urn:q", "q"))
        .error(&error)
        .unwrap();
    assert_eq!(
        written(&answer, None),
        "<iq from='d@e' to='a@b/c' id='7' type='error'><q xmlns='urn:q'/><error type='cancel'>\
         <not-allowed xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/>\
         <text xmlns='urn:ietf:params:xml:ns:xmpp-stanzas' xml:lang='en'>no</text><why xmlns='urn:app'/></error></iq>"
    );
    assert_eq!(
        StanzaError::from_element(&answer.child(ns::CLIENT, "error").unwrap()),
        error
    );
    assert_eq!(answer.error(&error), None);
    assert_eq!(iq.with_type("result").error(&error), None);
    assert_eq!(
        Stanza::new(StanzaKind::Message)
            .with_type("error")
            .error(&error),
        None
    );
}

#[test]
fn an_error_repeats_small_payloads_of_messages_and_iqs_only() {
    let error = StanzaError::new(StanzaCondition::ServiceUnavailable).with_type(ErrorType::Wait);
    let answer = message().error(&error).unwrap();
    assert_eq!(answer.payload.children.len(), 4);
    let presence = Stanza {
        kind: StanzaKind::Presence,
        type_: None,
        ..message()
    };
    assert_eq!(presence.error(&error).unwrap().payload.children.len(), 1);
    let big = message().with_child(&Element::new("urn:x", "x").with_text("x".repeat(5000)));
    assert_eq!(big.error(&error).unwrap().payload.children.len(), 1);
    let forged = message().with_child(&StanzaError::new(StanzaCondition::Gone).element());
    let answer = forged.error(&error).unwrap();
    assert_eq!(
        answer
            .payload
            .children
            .iter()
            .filter(|c| c.name == "error")
            .count(),
        1
    );
    assert_eq!(
        answer.child(ns::CLIENT, "error").unwrap().attr("type"),
        Some("wait")
    );
}

#[test]
fn every_condition_and_type_has_one_name() {
    for condition in StanzaCondition::ALL {
        assert_eq!(
            StanzaCondition::from_name(condition.name()),
            Some(*condition)
        );
        let read = StanzaError::from_element(&StanzaError::new(*condition).element());
        assert_eq!(read, StanzaError::new(*condition));
    }
    assert_eq!(ErrorType::from_name("foo"), None);
}

#[test]
fn what_xml_cannot_hold_is_replaced() {
    let element = Element::new("", "a")
        .with_attr("b", "\u{0}\u{FFFF}é\t\n\r'\"")
        .with_text("\u{1B}\u{FFFE}😀\r\n");
    let text = element.to_string();
    assert_eq!(
        text,
        "<a b='\u{FFFD}\u{FFFD}é&#9;&#10;&#13;&apos;\"'>\u{FFFD}\u{FFFD}😀&#13;\n</a>"
    );
    assert!(parse_element(&text, "", LIMITS).is_ok());
}

#[test]
fn elements_are_changed_in_place() {
    let mut element = Element::new("urn:a", "a")
        .with_child(Element::new("urn:b", "b"))
        .with_text("t");
    element.set_attr("x", "1");
    element.set_attr("x", "2");
    element.set_attr_ns(ns::XML, "lang", "en");
    element.child_mut("urn:b", "b").unwrap().set_text("in");
    assert!(element.has_child("urn:b", "b") && element.lang() == Some("en"));
    assert_eq!(
        element.first_element().map(Element::text).as_deref(),
        Some("in")
    );
    assert_eq!(
        element.remove("urn:b", "b").map(|b| b.text()).as_deref(),
        Some("in")
    );
    assert_eq!(
        (
            element.remove("urn:b", "b"),
            element.remove_attr("x").as_deref()
        ),
        (None, Some("2"))
    );
    element.push("u");
    assert_eq!((&element).into_iter().count(), 2);
    assert_eq!(element.text(), "tu");
}

fn text() -> impl Strategy<Value = String> {
    let c = prop_oneof![
        4 => any::<char>().prop_filter("an XML character", |c| *c >= ' ' && !matches!(*c, '\u{FFFE}' | '\u{FFFF}')),
        3 => prop::sample::select(vec!['<', '&', '>', ']', '\'', '"', '\n', '\r', '\t', 'a', ' ']),
    ];
    proptest::collection::vec(c, 1..8).prop_map(String::from_iter)
}

fn attrs() -> impl Strategy<Value = Vec<Attr>> {
    let ns = prop::sample::select(vec!["", "", "urn:p", "urn:q&r", ns::XML, ns::CLIENT]);
    let attr = (
        ns,
        prop::sample::select(vec!["a", "b", "é", "lang"]),
        text(),
    );
    proptest::collection::vec(attr, 0..4).prop_map(|list| {
        let mut all: Vec<Attr> = Vec::new();
        for (ns, name, value) in list {
            if !all.iter().any(|a| a.ns == ns && a.name == name) {
                all.push(Attr {
                    ns: ns.into(),
                    name: name.into(),
                    value,
                });
            }
        }
        all
    })
}

fn tree() -> impl Strategy<Value = Element> {
    let named = || {
        let ns = prop::sample::select(vec![
            "",
            ns::CLIENT,
            ns::SERVER,
            "urn:x",
            "urn:y&z",
            ns::XML,
        ]);
        (
            ns,
            prop::sample::select(vec!["a", "body", "x-1", "名"]),
            attrs(),
        )
    };
    let leaf = named().prop_map(|(ns, name, attrs)| Element {
        attrs,
        ..Element::new(ns, name)
    });
    leaf.prop_recursive(4, 24, 4, move |inner| {
        let child =
            prop_oneof![2 => inner.prop_map(Node::Element), 1 => text().prop_map(Node::Text)];
        (named(), proptest::collection::vec(child, 0..4)).prop_map(|((ns, name, attrs), list)| {
            let mut element = Element {
                attrs,
                ..Element::new(ns, name)
            };
            for child in list {
                match (element.children.last_mut(), child) {
                    (Some(Node::Text(before)), Node::Text(more)) => before.push_str(&more),
                    (_, child) => element.children.push(child),
                }
            }
            element
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn a_written_tree_reads_back_the_same(tree in tree(), default in prop::sample::select(vec!["", ns::CLIENT, "urn:x"])) {
        let mut out = Vec::new();
        write_element(&tree, default, &mut out);
        let text = String::from_utf8(out).unwrap();
        prop_assert_eq!(parse_element(&text, default, LIMITS), Ok(tree), "{}", text);
    }

    #[test]
    fn a_stanza_with_any_children_survives_the_store(children in proptest::collection::vec(tree(), 0..3)) {
        let mut stanza = Stanza::new(StanzaKind::Message).with_id("1");
        for child in &children {
            stanza = stanza.with_child(child);
        }
        let back = Stanza::from_bytes(&stanza.to_bytes()).unwrap();
        let trees = back.element().elements().cloned().collect::<Vec<_>>();
        prop_assert_eq!(&trees, &children);
        prop_assert_eq!(back.element(), stanza.element());
        for (reference, child) in back.payload.children.iter().zip(&children) {
            prop_assert_eq!(back.parse(reference), Some(child.clone()));
        }
    }
}
