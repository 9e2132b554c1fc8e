//! Scripted dialogues with a component's stream (XEP-0114).
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod stream_support;

use antiphon_xmpp::stream::component::{Action, Component, Config, Stream};
use antiphon_xmpp::stream::{Outgoing, StreamCondition, StreamError};
use proptest::prelude::*;
use std::sync::Arc;
use stream_support::{LIMITS, assert_order, jid};

const HEADER: &str = "<stream:stream xmlns='jabber:component:accept' \
    xmlns:stream='http://etherx.jabber.org/streams' to='plays.shakespeare.lit'>";

struct Peer {
    stream: Stream,
    out: Outgoing,
    admission: Result<(), StreamCondition>,
    ended: Option<Option<StreamError>>,
    log: String,
}

impl Peer {
    fn new() -> Self {
        let config = Config {
            components: vec![
                Component {
                    domain: jid("chat.shakespeare.lit"),
                    secret: "other".into(),
                },
                Component {
                    domain: jid("plays.shakespeare.lit"),
                    secret: "sekrit".into(),
                },
            ],
            domain: jid("shakespeare.lit"),
            limits_before_login: LIMITS,
            limits: LIMITS,
        };
        Self {
            stream: Stream::new(Arc::new(config)),
            out: Outgoing::default(),
            admission: Ok(()),
            ended: None,
            log: String::new(),
        }
    }

    fn open() -> Self {
        let mut peer = Self::new();
        peer.say(HEADER);
        let said = peer.say(&handshake());
        assert_eq!(
            said,
            "!Authenticated(Jid(plays.shakespeare.lit))<handshake/>"
        );
        assert_eq!(peer.stream.component(), Some(&jid("plays.shakespeare.lit")));
        peer
    }

    fn say(&mut self, text: &str) -> String {
        self.say_bytes(text.as_bytes())
    }

    fn say_bytes(&mut self, bytes: &[u8]) -> String {
        let before = self.log.len();
        self.stream.feed(bytes);
        let mut random = |bytes: &mut [u8]| bytes.fill(0x3b);
        while let Some(action) = self.stream.poll(&mut random, &mut self.out) {
            self.flush();
            self.log.push_str(&format!("!{action:?}"));
            match action {
                Action::Authenticated(_) => self.stream.admitted(self.admission, &mut self.out),
                Action::Close(error) => {
                    assert!(self.ended.is_none());
                    self.ended = Some(error);
                }
                Action::Stanza(_) | Action::Answer(_) => {}
            }
        }
        self.flush();
        self.log[before..].to_owned()
    }

    fn flush(&mut self) {
        self.log
            .push_str(std::str::from_utf8(&self.out.bytes).unwrap());
        self.out.clear();
    }

    #[track_caller]
    fn assert_error(&self, said: &str, condition: StreamCondition) {
        let ended = self.ended.clone().flatten().map(|error| error.condition);
        assert_eq!(ended, Some(condition), "{said}");
        let element = format!("<stream:error><{}", condition.name());
        assert_order(said, &[&element, "</stream:stream>", "!Close("]);
    }
}

fn handshake() -> String {
    // `printf 3b3b…3bsekrit | sha1sum` with 18 times 3b.
    "<handshake>7e8c19cb0501a2b6658d78c5c391a97211f7e710</handshake>".into()
}

#[test]
fn a_component_proves_itself_and_sends_for_its_domain() {
    let mut peer = Peer::new();
    assert_eq!(
        peer.say(HEADER),
        "<?xml version='1.0'?><stream:stream xmlns='jabber:component:accept' \
         xmlns:stream='http://etherx.jabber.org/streams' \
         id='3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b' from='plays.shakespeare.lit'>"
    );
    assert_order(&peer.say(&handshake()), &["!Authenticated", "<handshake/>"]);
    for from in [
        "plays.shakespeare.lit",
        "hamlet@plays.shakespeare.lit/stage",
    ] {
        let said = peer.say(&format!(
            "<message from='{from}' to='juliet@shakespeare.lit'><body>hi</body></message>"
        ));
        assert_order(&said, &["!Stanza(<message", from, "<body>hi</body>"]);
    }
    assert_eq!(peer.say("</stream:stream>"), "</stream:stream>!Close(None)");
}

#[test]
fn wrong_headers_get_a_header_and_the_error() {
    use StreamCondition as C;
    for (text, condition) in [
        (
            HEADER.replace("component:accept", "client"),
            C::InvalidNamespace,
        ),
        (HEADER.replace("plays.", "unknown."), C::HostUnknown),
        (
            HEADER.replace("to='plays.shakespeare.lit'", ""),
            C::HostUnknown,
        ),
        (HEADER.replace("etherx", "x"), C::InvalidNamespace),
        ("<!-- -->".into(), C::RestrictedXml),
    ] {
        let mut peer = Peer::new();
        let said = peer.say(&text);
        assert!(
            said.starts_with("<?xml version='1.0'?><stream:stream "),
            "{said}"
        );
        peer.assert_error(&said, condition);
    }
}

#[test]
fn a_wrong_secret_is_not_authorized() {
    for proof in ["", "x", "0000000000000000000000000000000000000000"] {
        let mut peer = Peer::new();
        peer.say(HEADER);
        let said = peer.say(&format!("<handshake>{proof}</handshake>"));
        peer.assert_error(&said, StreamCondition::NotAuthorized);
    }
}

#[test]
fn nothing_is_said_before_the_handshake() {
    for text in [
        "<message from='plays.shakespeare.lit' to='juliet@shakespeare.lit'/>",
        "<message from='@' to='juliet@shakespeare.lit'/>",
        "<foo/>",
    ] {
        let mut peer = Peer::new();
        peer.say(HEADER);
        let said = peer.say(text);
        peer.assert_error(&said, StreamCondition::NotAuthorized);
    }
}

#[test]
fn a_second_connection_can_be_refused() {
    let mut peer = Peer::new();
    peer.admission = Err(StreamCondition::Conflict);
    peer.say(HEADER);
    let said = peer.say(&handshake());
    peer.assert_error(&said, StreamCondition::Conflict);
}

#[test]
fn addresses_are_needed_and_checked() {
    use StreamCondition as C;
    for (attributes, condition) in [
        ("to='juliet@shakespeare.lit'", C::ImproperAddressing),
        ("from='plays.shakespeare.lit'", C::ImproperAddressing),
        (
            "from='@' to='juliet@shakespeare.lit'",
            C::ImproperAddressing,
        ),
        (
            "from='shakespeare.lit' to='juliet@shakespeare.lit'",
            C::InvalidFrom,
        ),
        (
            "from='a@sub.plays.shakespeare.lit' to='a@shakespeare.lit'",
            C::InvalidFrom,
        ),
        ("from='chat.shakespeare.lit' to='@'", C::InvalidFrom),
    ] {
        let mut peer = Peer::open();
        let said = peer.say(&format!("<message {attributes}/>"));
        peer.assert_error(&said, condition);
    }
}

#[test]
fn a_bad_to_and_a_bad_iq_are_answered() {
    let mut peer = Peer::open();
    let said = peer.say("<message id='m' from='a@plays.shakespeare.lit' to='@'/>");
    assert_order(&said, &["!Answer(<message", "<jid-malformed"]);
    let said = peer.say("<iq from='a@plays.shakespeare.lit' to='a@b.example' type='get'/>");
    assert_order(&said, &["!Answer(<iq", "<bad-request"]);
    let said = peer.say("<iq from='a@plays.shakespeare.lit' to='@' type='result' id='1'/>");
    assert_eq!(said, "");
    assert_eq!(peer.ended, None);
}

#[test]
fn unknown_elements_and_second_headers_end_the_stream() {
    for text in ["<foo/>", "<handshake/>", HEADER] {
        let mut peer = Peer::open();
        let said = peer.say(text);
        assert!(peer.ended.is_some(), "{text}: {said}");
    }
}

#[test]
fn the_driver_can_close() {
    let mut peer = Peer::new();
    peer.stream
        .close(Some(StreamCondition::SystemShutdown.into()), &mut peer.out);
    peer.flush();
    assert_order(
        &peer.log,
        &[
            " from='shakespeare.lit'>",
            "<system-shutdown",
            "</stream:stream>",
        ],
    );
    assert_eq!(peer.say(HEADER), "");
}

proptest! {
    #[test]
    fn any_split_gives_the_same(cuts in prop::collection::vec(0usize..600, 0..20)) {
        let script = format!(
            "{HEADER}{}<message from='plays.shakespeare.lit' to='a@b.example'><body>ü</body>\
             </message> <iq from='plays.shakespeare.lit' to='a@b.example' type='get'/></stream:stream>",
            handshake()
        );
        let mut whole = Peer::new();
        whole.say(&script);
        let mut parts = Peer::new();
        let mut cuts: Vec<_> = cuts.into_iter().filter(|cut| *cut < script.len()).collect();
        cuts.extend([0, script.len()]);
        cuts.sort_unstable();
        for pair in cuts.windows(2) {
            parts.say_bytes(&script.as_bytes()[pair[0]..pair[1]]);
        }
        prop_assert_eq!(parts.log, whole.log);
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut peer = Peer::new();
        peer.say_bytes(&bytes);
        let mut peer = Peer::open();
        peer.say_bytes(&bytes);
    }
}
