//! What holds for any bytes in any portions (RFC 6120 §4.2: a stream has no frames).
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod stream_support;

use antiphon_xmpp::stream::Framing;
use antiphon_xmpp::stream::c2s::Channel;
use proptest::prelude::*;
use stream_support::*;

/// First-level elements of all kinds, good and bad.
const ELEMENTS: &[&str] = &[
    HEADER,
    PLAIN,
    BIND,
    "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='SCRAM-SHA-256'>biwsbj1qdWxpZXQscj1hYmNkZWZnaA==</auth>",
    "<response xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>",
    "<abort xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>",
    "<message to='romeo@example.net'><body>Hör &amp; schweig &#x1F600; 🎭</body></message>",
    "<message from='juliet@im.example.com' to='@'/>",
    "<message from='romeo@im.example.com'/>",
    "<presence/>",
    "<presence type='available'/>",
    "<iq type='get' id='1'><ping xmlns='urn:xmpp:ping'/></iq>",
    "<iq type='set' id='2'><session xmlns='urn:ietf:params:xml:ns:xmpp-session'/></iq>",
    "<iq/>",
    "<enable xmlns='urn:xmpp:sm:3' resume='true'/>",
    "<resume xmlns='urn:xmpp:sm:3' previd='known' h='1'/>",
    "<resume xmlns='urn:xmpp:sm:3' previd='unknown' h='1'/>",
    "<r xmlns='urn:xmpp:sm:3'/>",
    "<a xmlns='urn:xmpp:sm:3' h='1'/>",
    "<inactive xmlns='urn:xmpp:csi:0'/>",
    "<active xmlns='urn:xmpp:csi:0'/>",
    " \n ",
    "<foo/>",
    "<![CDATA[x]]>",
    "<a:b/>",
    "<!-- -->",
    "</stream:stream>",
];

const LOGIN: &[&str] = &[HEADER, PLAIN, HEADER, BIND];

fn run(parts: impl IntoIterator<Item = Vec<u8>>) -> Vec<String> {
    let mut peer = Peer::direct_tls();
    for part in parts {
        peer.say_bytes(&part);
    }
    // Pieces of output without an action between them belong together.
    let mut log: Vec<String> = Vec::new();
    for entry in peer.log {
        match log.last_mut() {
            Some(last) if !last.starts_with('!') && !entry.starts_with('!') => {
                last.push_str(&entry)
            }
            _ => log.push(entry),
        }
    }
    log
}

fn script() -> impl Strategy<Value = Vec<u8>> {
    let tail = prop::collection::vec(prop::sample::select(ELEMENTS), 0..8);
    (0..=LOGIN.len(), tail).prop_map(|(count, tail)| {
        let mut parts = LOGIN[..count].to_vec();
        parts.extend(tail);
        parts.concat().into_bytes()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn any_split_of_the_same_bytes_gives_the_same(script in script(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..30)) {
        let mut at: Vec<_> = cuts.iter().map(|cut| cut.index(script.len() + 1)).collect();
        at.extend([0, script.len()]);
        at.sort_unstable();
        let parts = at.windows(2).map(|pair| script[pair[0]..pair[1]].to_vec());
        prop_assert_eq!(run(parts), run([script.clone()]));
    }

    #[test]
    fn no_bytes_panic_anywhere(bytes in prop::collection::vec(any::<u8>(), 0..300), at in 0..=LOGIN.len()) {
        let mut parts: Vec<Vec<u8>> = LOGIN[..at].iter().map(|part| part.as_bytes().to_vec()).collect();
        parts.push(bytes);
        run(parts);
    }

    #[test]
    fn no_mutation_of_a_script_panics(script in script(), changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut script = script;
        for (at, byte) in changes {
            if !script.is_empty() {
                let at = at.index(script.len());
                script[at] = byte;
            }
        }
        let whole = run([script.clone()]);
        prop_assert_eq!(run(script.iter().map(|byte| vec![*byte])), whole);
    }

    #[test]
    fn no_websocket_messages_panic(messages in prop::collection::vec(prop_oneof![
        prop::sample::select(ELEMENTS).prop_map(|text| text.replacen('>', " xmlns='jabber:client'>", 1)),
        prop::sample::select(ELEMENTS).prop_map(str::to_owned),
        Just(OPEN.to_owned()),
        ".{0,40}",
    ], 0..10)) {
        let mut peer = Peer::new(config(), Framing::WebSocket, tls());
        for message in messages {
            peer.say(&message);
        }
    }
}

#[test]
fn a_byte_at_a_time_gives_a_session() {
    let script = LOGIN.concat();
    let log = run(script.bytes().map(|byte| vec![byte])).concat();
    assert_order(
        &log,
        &[
            "!Authenticated",
            "!Bind",
            "<jid>juliet@im.example.com/balcony</jid>",
        ],
    );
}

#[test]
fn white_space_around_the_login_splits_like_anything_else() {
    let script = [HEADER, PLAIN, " \n ", HEADER, " ", BIND].concat();
    let whole = run([script.clone().into_bytes()]);
    assert!(whole.concat().contains("<jid>"));
    assert_eq!(run(script.bytes().map(|byte| vec![byte])), whole);
}

#[test]
fn nothing_is_kept_of_a_stream_that_is_over() {
    let mut peer = Peer::new(config(), Framing::Tcp, Channel::default());
    peer.say("<foo>");
    assert!(peer.stream.is_over());
    peer.stream.feed(&[b'x'; 1000]);
    assert_eq!(peer.stream.buffered(), 0);
}

#[test]
fn an_endless_element_is_cut_off_at_the_limit() {
    let mut peer = Peer::session();
    peer.say("<message><body>");
    for _ in 0..1000 {
        peer.say(&"x".repeat(100));
        assert!(peer.stream.buffered() <= 20_100);
    }
    assert_eq!(
        peer.condition(),
        Some(antiphon_xmpp::stream::StreamCondition::PolicyViolation)
    );
}
