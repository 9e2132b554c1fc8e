//! Scripted dialogues with the client stream (RFC 6120, RFC 7395).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod stream_support;

use antiphon_xmpp::sasl::Mechanism;
use antiphon_xmpp::stream::c2s::{Channel, Config, HostConfig};
use antiphon_xmpp::stream::{Framing, StreamCondition, StreamError};
use antiphon_xmpp::{StanzaCondition, StanzaError};
use std::sync::Arc;
use stream_support::*;

const TLS_NS: &str = "urn:ietf:params:xml:ns:xmpp-tls";
const STARTTLS: &str = "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>";

fn header(attributes: &str) -> String {
    format!(
        "<stream:stream {attributes} xmlns='jabber:client' \
         xmlns:stream='http://etherx.jabber.org/streams'>"
    )
}

fn auth(mechanism: &str, content: &str) -> String {
    format!(
        "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='{mechanism}'>{content}</auth>"
    )
}

fn sasl_failure(condition: &str) -> String {
    format!("<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><{condition}/></failure>")
}

fn failed(condition: &str) -> String {
    format!(
        "<failed xmlns='urn:xmpp:sm:3'>\
         <{condition} xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></failed>"
    )
}

fn with_host(change: impl FnOnce(&mut antiphon_xmpp::stream::c2s::HostConfig)) -> Config {
    let mut host = host("im.example.com");
    change(&mut host);
    Config {
        hosts: vec![Arc::new(host)],
        ..config()
    }
}

// --- headers -----------------------------------------------------------------------------------

#[test]
fn the_whole_way_from_plain_tcp_to_a_session() {
    // RFC 6120 §9.1.
    let mut peer = Peer::tcp();
    let said = peer.say(&header(
        "from='juliet@im.example.com' to='im.example.com' version='1.0' xml:lang='en'",
    ));
    assert_order(
        &said,
        &[
            "<?xml version='1.0'?><stream:stream xmlns='jabber:client' \
             xmlns:stream='http://etherx.jabber.org/streams' id='",
            "from='im.example.com' to='juliet@im.example.com' version='1.0' xml:lang='en'>",
            "<stream:features><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/>\
             </starttls></stream:features>",
        ],
    );
    let said = peer.say(STARTTLS);
    assert_order(
        &said,
        &[
            "<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>",
            "!StartTls(Jid(im.example.com))",
        ],
    );
    let said = peer.say(HEADER);
    assert!(!said.contains(TLS_NS), "{said}");
    assert_order(
        &said,
        &[
            "<stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>\
             <mechanism>SCRAM-SHA-256</mechanism><mechanism>PLAIN</mechanism>\
             <mechanism>ANONYMOUS</mechanism></mechanisms>",
            "<limits xmlns='urn:xmpp:stream-limits:0'><max-bytes>10000</max-bytes>\
             <idle-seconds>1800</idle-seconds></limits></stream:features>",
        ],
    );
    let said = peer.say(PLAIN);
    assert_order(
        &said,
        &[
            "!Auth(",
            "<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>",
            "!Authenticated(Jid(juliet@im.example.com), Plain)",
        ],
    );
    let said = peer.say(HEADER);
    assert_order(
        &said,
        &[
            "<stream:features><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><required/></bind>",
            "<session xmlns='urn:ietf:params:xml:ns:xmpp-session'><optional/></session>",
            "<sm xmlns='urn:xmpp:sm:3'/>",
            "<csi xmlns='urn:xmpp:csi:0'/>",
            "<ver xmlns='urn:xmpp:features:rosterver'/>",
            "<sub xmlns='urn:xmpp:features:pre-approval'/>",
            "<max-bytes>20000</max-bytes>",
            "<c xmlns='http://jabber.org/protocol/caps' ver='x'/></stream:features>",
        ],
    );
    let said = peer.say(BIND);
    assert_order(
        &said,
        &[
            "!Bind { account: Jid(juliet@im.example.com), resource: Some(\"balcony\") }",
            "<iq",
            "<bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><jid>juliet@im.example.com/balcony\
             </jid></bind></iq>",
        ],
    );
    let said =
        peer.say("<message to='romeo@example.net'><body>Art thou not Romeo?</body></message>");
    assert_order(
        &said,
        &["!Stanza(<message", ME, "<body>Art thou not Romeo?</body>"],
    );
    assert_eq!(peer.say("</stream:stream>"), "</stream:stream>!Close(None)");
    assert_eq!(peer.ended, Some(None));
}

#[test]
fn every_header_has_another_unguessable_id() {
    let mut peer = Peer::direct_tls();
    let id = |said: &str| {
        let rest = said.split_once(" id='").unwrap().1;
        rest.split_once('\'').unwrap().0.to_owned()
    };
    let first = id(&peer.say(HEADER));
    peer.say(PLAIN);
    let second = id(&peer.say(HEADER));
    assert_ne!(first, second);
    // 18 random bytes.
    assert_eq!(first.len(), 24);
}

#[test]
fn wrong_headers_are_answered_with_a_header_and_the_error_of_the_rfc() {
    use StreamCondition as C;
    let client = "xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'";
    let stream = |attributes: &str| format!("<stream:stream {attributes} {client}>");
    for (text, condition) in [
        (
            stream("to='unknown.example.com' version='1.0'"),
            C::HostUnknown,
        ),
        (
            stream("to='juliet@im.example.com' version='1.0'"),
            C::HostUnknown,
        ),
        (stream("to='@' version='1.0'"), C::HostUnknown),
        (stream("version='1.0'"), C::HostUnknown),
        (stream("to='im.example.com'"), C::UnsupportedVersion),
        (
            stream("to='im.example.com' version='0.9'"),
            C::UnsupportedVersion,
        ),
        (
            stream("to='im.example.com' version='one'"),
            C::UnsupportedVersion,
        ),
        (
            stream("to='im.example.com' version='1.0' from='@@'"),
            C::InvalidFrom,
        ),
        (
            "<stream:stream to='im.example.com' version='1.0' xmlns='jabber:server' \
             xmlns:stream='http://etherx.jabber.org/streams'>"
                .into(),
            C::InvalidNamespace,
        ),
        (
            // RFC 6120 §4.9.3.10
            "<stream:stream to='im.example.com' version='1.0' xmlns='jabber:client' \
             xmlns:stream='http://wrong.namespace.example.org/'>"
                .into(),
            C::InvalidNamespace,
        ),
        (
            // RFC 6120 §4.9.3.2
            "<foobar:stream to='im.example.com' version='1.0' xmlns='jabber:client' \
             xmlns:foobar='http://etherx.jabber.org/streams'>"
                .into(),
            C::BadNamespacePrefix,
        ),
        ("<!DOCTYPE foo><a/>".into(), C::RestrictedXml),
        ("<stream:stream to='<'>".into(), C::NotWellFormed),
    ] {
        let mut peer = Peer::tcp();
        let said = peer.say(&text);
        assert_stream_error(&peer, &said, condition);
        assert_order(
            &said,
            &[
                "<?xml version='1.0'?><stream:stream ",
                " id='",
                " from='im.example.com'",
                "<stream:error>",
            ],
        );
        assert_eq!(peer.say("<presence/>"), "");
    }
}

#[test]
fn an_unsupported_version_is_told_without_a_version_only_where_there_was_none() {
    // RFC 6120 §4.7.5 rule 4.
    let said = Peer::tcp().say(&header("to='im.example.com'"));
    assert!(!said.contains(" version='1.0' xml:lang"), "{said}");
    let said = Peer::tcp().say(&header("to='im.example.com' version='0.9'"));
    assert!(said.contains(" version='1.0' xml:lang"), "{said}");
}

#[test]
fn a_later_version_is_answered_with_ours() {
    // RFC 6120 §4.7.5 rule 2.
    let mut peer = Peer::tcp();
    let said = peer.say(&header("to='im.example.com' version='1.13'"));
    assert_order(&said, &[" version='1.0'", "<stream:features>"]);
}

#[test]
fn the_domain_is_compared_in_prepared_form() {
    let mut peer = Peer::tcp();
    let said = peer.say(&header("to='IM.Example.COM' version='1.0'"));
    assert_order(&said, &[" from='im.example.com'", "<stream:features>"]);
}

#[test]
fn sni_stands_in_for_a_missing_to() {
    let channel = Channel {
        sni: Some("other.example.com".into()),
        ..tls()
    };
    let mut peer = Peer::new(config(), Framing::Tcp, channel);
    let said = peer.say(&header("version='1.0'"));
    assert_order(&said, &[" from='other.example.com'", "<stream:features>"]);
}

#[test]
fn a_second_header_and_text_between_stanzas_are_refused() {
    for text in [HEADER, "hello"] {
        let mut peer = Peer::session();
        peer.say(text);
        assert!(peer.condition().is_some());
    }
}

#[test]
fn whitespace_between_stanzas_is_a_keepalive() {
    let mut peer = Peer::session();
    assert_eq!(peer.say(" \n\n"), "");
    assert_eq!(peer.stream.buffered(), 0);
    assert_order(&peer.say("<presence/>"), &["!Stanza(<presence"]);
}

#[test]
fn the_language_of_the_stream_goes_to_its_stanzas() {
    // RFC 6120 §4.7.4.
    let mut peer = Peer::direct_tls();
    peer.say(HEADER);
    peer.say(PLAIN);
    peer.say(&header("to='im.example.com' version='1.0' xml:lang='de'"));
    peer.say(BIND);
    assert_order(&peer.say("<message/>"), &["!Stanza(", "xml:lang='de'"]);
    assert_order(
        &peer.say("<message xml:lang='fr'/>"),
        &["!Stanza(", "xml:lang='fr'"],
    );
}

// --- STARTTLS ----------------------------------------------------------------------------------

#[test]
fn what_came_in_clear_behind_starttls_is_thrown_away() {
    // RFC 6120 §5.4.3.3.
    let mut peer = Peer::tcp();
    peer.say(HEADER);
    let said = peer.say(&format!("{STARTTLS}{HEADER}{PLAIN}"));
    assert!(said.ends_with("!StartTls(Jid(im.example.com))"), "{said}");
    assert_eq!(peer.stream.buffered(), 0);
    let said = peer.say(HEADER);
    assert_order(&said, &["<stream:features>", "<mechanisms"]);
}

#[test]
fn bytes_fed_before_tls_stands_are_thrown_away() {
    let mut peer = Peer::tcp();
    peer.say(HEADER);
    peer.stream.feed(STARTTLS.as_bytes());
    let mut random = |bytes: &mut [u8]| bytes.fill(1);
    assert!(peer.stream.poll(&mut random, &mut peer.out).is_some());
    peer.out.clear();
    peer.stream.feed(HEADER.as_bytes());
    assert!(peer.stream.poll(&mut random, &mut peer.out).is_none());
    assert_eq!(peer.stream.buffered(), 0);
    peer.stream.tls_started(tls());
    assert!(peer.stream.poll(&mut random, &mut peer.out).is_none());
    assert!(peer.out.is_empty());
}

#[test]
fn starttls_where_it_is_not_offered_fails_and_closes() {
    // RFC 6120 §5.4.2.2; XEP-0368: not inside direct TLS.
    let plain = Config {
        starttls: false,
        allow_plaintext: true,
        ..config()
    };
    for mut peer in [
        Peer::direct_tls(),
        Peer::new(plain, Framing::Tcp, Channel::default()),
    ] {
        let said = peer.say(HEADER);
        assert!(!said.contains(TLS_NS), "{said}");
        let said = peer.say(STARTTLS);
        assert_order(
            &said,
            &[
                "<failure xmlns='urn:ietf:params:xml:ns:xmpp-tls'/></stream:stream>",
                "!Close(",
            ],
        );
    }
}

#[test]
fn without_required_tls_login_is_offered_beside_starttls() {
    let config = Config {
        allow_plaintext: true,
        ..config()
    };
    let mut peer = Peer::new(config, Framing::Tcp, Channel::default());
    let said = peer.say(HEADER);
    assert_order(
        &said,
        &[
            "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>",
            "<mechanism>SCRAM-SHA-256</mechanism>",
        ],
    );
    assert_order(&peer.say(PLAIN), &["!Authenticated"]);
}

#[test]
fn a_stream_closed_while_tls_fails_says_nothing() {
    let mut peer = Peer::tcp();
    peer.say(HEADER);
    peer.stream.feed(STARTTLS.as_bytes());
    let mut random = |bytes: &mut [u8]| bytes.fill(1);
    assert!(peer.stream.poll(&mut random, &mut peer.out).is_some());
    peer.out.clear();
    assert_eq!(
        peer.close(Some(StreamCondition::PolicyViolation.into())),
        ""
    );
    assert!(peer.stream.is_over());
}

// --- SASL --------------------------------------------------------------------------------------

#[test]
fn channel_bindings_are_announced_with_plus_mechanisms() {
    // XEP-0440, example 1.
    let channel = Channel {
        exporter: Some(vec![1; 32].into()),
        server_end_point: Some(vec![2; 32].into()),
        ..tls()
    };
    let mut peer = Peer::new(config(), Framing::Tcp, channel);
    let said = peer.say(HEADER);
    assert_order(
        &said,
        &[
            "<sasl-channel-binding xmlns='urn:xmpp:sasl-cb:0'>",
            "<channel-binding type='tls-exporter'/>",
            "<channel-binding type='tls-server-end-point'/></sasl-channel-binding>",
            "<mechanisms",
            "<mechanism>SCRAM-SHA-256-PLUS</mechanism>",
        ],
    );
}

#[test]
fn failures_are_those_of_the_rfc() {
    // RFC 6120 §6.5.
    for (text, condition) in [
        (auth("PLAIN", "AGp1bGlldAB3cm9uZw=="), "not-authorized"),
        (auth("PLAIN", "AGp1bGlldAB3cm9uZw"), "incorrect-encoding"),
        (auth("PLAIN", " AGp1bGlldAB3cm9uZw=="), "incorrect-encoding"),
        (auth("PLAIN", "!!!"), "incorrect-encoding"),
        // Padding bits that are not zero (§6.3.5).
        (auth("PLAIN", "AGp1bGlldAB3cm9uZx=="), "incorrect-encoding"),
        (auth("PLAIN", "="), "malformed-request"),
        (auth("X-UNKNOWN", ""), "invalid-mechanism"),
        (auth("EXTERNAL", "="), "invalid-mechanism"),
        (auth("SCRAM-SHA-256-PLUS", "="), "invalid-mechanism"),
        (
            "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>".into(),
            "invalid-mechanism",
        ),
        (
            "<abort xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>".into(),
            "aborted",
        ),
        (
            "<response xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>".into(),
            "malformed-request",
        ),
    ] {
        let mut peer = Peer::direct_tls();
        peer.say(HEADER);
        let said = peer.say(&text);
        assert!(said.ends_with(&sasl_failure(condition)), "{text}: {said}");
        // The stream lives.
        assert_order(&peer.say(PLAIN), &["<success"]);
    }
}

#[test]
fn login_before_required_tls_is_refused() {
    // RFC 6120 §6.5.4.
    let mut peer = Peer::tcp();
    peer.say(HEADER);
    assert_eq!(peer.say(PLAIN), sasl_failure("encryption-required"));
}

#[test]
fn too_many_attempts_end_the_stream() {
    // RFC 6120 §6.4.5.
    let mut peer = Peer::direct_tls();
    peer.say(HEADER);
    let wrong = auth("PLAIN", "AGp1bGlldAB3cm9uZw==");
    peer.say(&wrong);
    peer.say(&wrong);
    let said = peer.say(&wrong);
    assert_order(&said, &[&sasl_failure("not-authorized"), "<stream:error>"]);
    assert_stream_error(&peer, &said, StreamCondition::PolicyViolation);
}

#[test]
fn who_goes_on_while_logins_are_not_possible_loses_the_stream_and_nothing_else() {
    let mut peer = Peer::direct_tls();
    peer.say(HEADER);
    // "\0juliet\0outage"
    let unlucky = auth("PLAIN", "AGp1bGlldABvdXRhZ2U=");
    for _ in 0..2 {
        assert_order(
            &peer.say(&unlucky),
            &[&sasl_failure("temporary-auth-failure")],
        );
    }
    let said = peer.say(&unlucky);
    assert_stream_error(&peer, &said, StreamCondition::PolicyViolation);
    assert_eq!(
        peer.stream.failed_logins(),
        0,
        "not held against the address"
    );
}

#[test]
fn handshakes_begun_anew_count_as_attempts() {
    // RFC 6120 §6.4.2.
    let mut peer = Peer::direct_tls();
    peer.say(HEADER);
    let begin = auth("PLAIN", "");
    assert_order(&peer.say(&begin), &["<challenge"]);
    peer.say(&begin);
    peer.say(&begin);
    let said = peer.say(&begin);
    assert_stream_error(&peer, &said, StreamCondition::PolicyViolation);
}

#[test]
fn plain_may_send_its_message_as_a_response() {
    let mut peer = Peer::direct_tls();
    peer.say(HEADER);
    assert_eq!(
        peer.say(&auth("PLAIN", "")),
        "<challenge xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>"
    );
    let said = peer.say(
        "<response xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>AGp1bGlldAByMG0zMG15cjBtMzA=</response>",
    );
    assert_order(&said, &["<success", "!Authenticated"]);
}

#[test]
fn an_aborted_handshake_can_be_followed_by_another() {
    // RFC 6120 §6.4.4.
    let mut peer = Peer::direct_tls();
    peer.say(HEADER);
    peer.say(&auth("SCRAM-SHA-256", "biwsbj1qdWxpZXQscj1hYmNkZWZnaA=="));
    assert_eq!(
        peer.say("<abort xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>"),
        sasl_failure("aborted")
    );
    assert_order(&peer.say(PLAIN), &["<success"]);
}

#[test]
fn scram_for_an_unknown_account_is_challenged_and_fails_at_the_end() {
    let mut peer = Peer::direct_tls();
    peer.say(HEADER);
    // n,,n=juliet,r=abcdefgh
    let said = peer.say(&auth("SCRAM-SHA-256", "biwsbj1qdWxpZXQscj1hYmNkZWZnaA=="));
    assert_order(
        &said,
        &[
            "!Auth(",
            "<challenge xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>",
        ],
    );
    assert!(
        peer.say("<response xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>Yz1iaXdzLHI9eA==</response>")
            .starts_with("<failure")
    );
}

#[test]
fn white_space_may_precede_the_header_behind_login() {
    let mut peer = Peer::direct_tls();
    peer.say(HEADER);
    peer.say(&format!("{PLAIN} "));
    peer.say("\n");
    assert_order(
        &peer.say(&format!(" \n{HEADER}")),
        &["<stream:features><bind"],
    );
}

#[test]
fn a_second_login_is_refused() {
    for mut peer in [Peer::logged_in(), Peer::session()] {
        let said = peer.say(PLAIN);
        assert_stream_error(&peer, &said, StreamCondition::NotAuthorized);
    }
}

#[test]
fn stanzas_before_login_end_the_stream() {
    // RFC 6120 §4.9.3.12.
    for text in [
        "<message to='romeo@example.net'><body>Wherefore art thou?</body></message>",
        "<presence/>",
        "<presence to='@'/>",
        BIND,
        "<iq type='get' id='1'><query xmlns='jabber:iq:register'/></iq>",
        "<inactive xmlns='urn:xmpp:csi:0'/>",
    ] {
        let mut peer = Peer::direct_tls();
        peer.say(HEADER);
        let said = peer.say(text);
        assert_stream_error(&peer, &said, StreamCondition::NotAuthorized);
        assert!(!said.contains("!Stanza"));
    }
}

#[test]
fn the_from_of_the_header_must_be_the_account() {
    // RFC 6120 §6.4.6.
    let romeo = header("from='romeo@im.example.com' to='im.example.com' version='1.0'");
    let mut peer = Peer::direct_tls();
    peer.say(&romeo);
    let said = peer.say(PLAIN);
    assert_stream_error(&peer, &said, StreamCondition::InvalidFrom);
    assert!(!said.contains("<success"));
    // And behind login.
    let mut peer = Peer::direct_tls();
    peer.say(HEADER);
    peer.say(PLAIN);
    let said = peer.say(&romeo);
    assert_stream_error(&peer, &said, StreamCondition::InvalidFrom);
}

#[test]
fn an_account_cannot_move_to_another_domain() {
    // CVE-2018-10847.
    let mut peer = Peer::direct_tls();
    peer.say(HEADER);
    peer.say(PLAIN);
    let said = peer.say(&header("to='other.example.com' version='1.0'"));
    assert_stream_error(&peer, &said, StreamCondition::NotAuthorized);
    let mut peer = Peer::direct_tls();
    peer.say(HEADER);
    peer.say(PLAIN);
    let said = peer.say(&header("to='unknown.example.com' version='1.0'"));
    assert_stream_error(&peer, &said, StreamCondition::HostUnknown);
}

#[test]
fn an_anonymous_client_gets_an_account() {
    let mut peer = Peer::direct_tls();
    peer.say(&header(
        "from='who@im.example.com' to='im.example.com' version='1.0'",
    ));
    let said = peer.say(&auth("ANONYMOUS", ""));
    assert_order(
        &said,
        &[
            "<success",
            "!Authenticated(Jid(",
            "@im.example.com), Anonymous)",
        ],
    );
}

#[test]
fn external_is_offered_to_a_verified_certificate() {
    let channel = Channel {
        client_jids: vec!["juliet@im.example.com".into()],
        ..tls()
    };
    let mut peer = Peer::new(config(), Framing::Tcp, channel);
    assert_order(&peer.say(HEADER), &["<mechanism>EXTERNAL</mechanism>"]);
    let said = peer.say(&auth("EXTERNAL", "="));
    assert_order(
        &said,
        &[
            "!Auth(",
            "<success",
            "!Authenticated(Jid(juliet@im.example.com)",
        ],
    );
}

// --- registration ------------------------------------------------------------------------------

#[test]
fn accounts_can_be_made_before_login_where_the_host_says_so() {
    // XEP-0077 #usecases-register and #streamfeature.
    let mut peer = Peer::new(with_host(|h| h.registration = true), Framing::Tcp, tls());
    let said = peer.say(HEADER);
    assert_order(
        &said,
        &[
            "<register xmlns='http://jabber.org/features/iq-register'/>",
            "<mechanisms",
        ],
    );
    let said = peer.say("<iq type='get' id='reg1'><query xmlns='jabber:iq:register'/></iq>");
    assert_order(
        &said,
        &["!Register(<iq", "im.example.com", "<iq", "reg1", "result"],
    );
    // A request that the stream can judge is answered by it.
    let said = peer.say("<iq type='get'><query xmlns='jabber:iq:register'/></iq>");
    assert_order(&said, &["<bad-request"]);
    assert!(!said.contains("!Register"));
    // Only for us, only requests, only registration.
    let said = peer.say(
        "<iq type='get' id='1' to='other.example.com'><query xmlns='jabber:iq:register'/></iq>",
    );
    assert_stream_error(&peer, &said, StreamCondition::NotAuthorized);
}

#[test]
fn no_account_is_made_without_tls() {
    let mut peer = Peer::new(
        with_host(|h| h.registration = true),
        Framing::Tcp,
        Channel::default(),
    );
    assert!(!peer.say(HEADER).contains("iq-register"));
    let said = peer.say("<iq type='get' id='1'><query xmlns='jabber:iq:register'/></iq>");
    assert_stream_error(&peer, &said, StreamCondition::NotAuthorized);
}

// --- binding -----------------------------------------------------------------------------------

#[test]
fn the_server_chooses_a_resource_where_none_is_asked_for() {
    // RFC 6120 §7.6.1.
    for bind in [
        "<bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/>",
        "<bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource/></bind>",
    ] {
        let mut peer = Peer::logged_in();
        let said = peer.say(&format!("<iq id='tn281v37' type='set'>{bind}</iq>"));
        assert_order(
            &said,
            &[
                "resource: None",
                "tn281v37",
                "<jid>juliet@im.example.com/server</jid>",
            ],
        );
    }
}

#[test]
fn only_binding_comes_first() {
    // RFC 6120 §7.1.
    for text in [
        "<presence/>",
        "<message to='romeo@example.net'/>",
        "<message to='@'/>",
        "<iq id='1' type='get'><query xmlns='jabber:iq:roster'/></iq>",
        "<iq id='1' type='get'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>",
    ] {
        let mut peer = Peer::logged_in();
        let said = peer.say(text);
        assert_stream_error(&peer, &said, StreamCondition::NotAuthorized);
    }
}

#[test]
fn a_refused_bind_can_be_tried_again_ten_times() {
    // RFC 6120 §7.7.2 and §7.7.3.
    let mut peer = Peer::logged_in();
    let bad = BIND.replace("balcony", "\u{200e}&#x7f;");
    let said = peer.say(&bad);
    assert_order(&said, &["wy2xa82b4", "<bad-request"]);
    peer.bind_error = Some(StanzaError::new(StanzaCondition::ResourceConstraint));
    let said = peer.say(BIND);
    assert_order(&said, &["!Bind", "wy2xa82b4", "<resource-constraint"]);
    for _ in 0..7 {
        peer.say(BIND);
    }
    assert_eq!(peer.ended, None);
    let said = peer.say(BIND);
    assert_stream_error(&peer, &said, StreamCondition::PolicyViolation);
}

#[test]
fn a_second_bind_is_not_allowed() {
    let mut peer = Peer::session();
    let said = peer.say(BIND);
    assert_order(&said, &["!Answer(Some(<iq", "<not-allowed"]);
    assert_eq!(peer.stream.session(), Some(&jid(ME)));
}

#[test]
fn the_session_of_rfc_3921_is_granted_and_means_nothing() {
    let mut peer = Peer::session();
    let said = peer
        .say("<iq type='set' id='s1'><session xmlns='urn:ietf:params:xml:ns:xmpp-session'/></iq>");
    assert_order(&said, &["!Answer(Some(<iq", "s1"]);
    assert!(said.contains("result"), "{said}");
}

// --- stanzas -----------------------------------------------------------------------------------

#[test]
fn the_from_of_stanzas_is_ours_to_write() {
    // RFC 6120 §8.1.2.1.
    let mut peer = Peer::session();
    for from in [
        "",
        "from='juliet@im.example.com'",
        "from='Juliet@im.example.com/balcony'",
    ] {
        let said = peer.say(&format!("<message {from} to='romeo@example.net'/>"));
        assert_order(
            &said,
            &["!Stanza(<message", "from='juliet@im.example.com/balcony'"],
        );
    }
}

#[test]
fn another_from_ends_the_stream() {
    // RFC 6120 §4.9.3.9.
    for from in [
        "romeo@example.org",
        "romeo@im.example.com",
        "juliet@im.example.com/chamber",
        "im.example.com",
        "@",
    ] {
        let mut peer = Peer::session();
        let said = peer.say(&format!(
            "<message from='{from}' to='juliet@im.example.com'/>"
        ));
        assert_stream_error(&peer, &said, StreamCondition::InvalidFrom);
    }
}

#[test]
fn a_bad_to_is_answered_and_the_stream_lives() {
    // RFC 6120 §8.3.3.8.
    let mut peer = Peer::session();
    let said = peer.say("<message id='m1' to='@x'><body/></message>");
    assert_order(&said, &["!Answer(Some(<message", "<jid-malformed"]);
    assert!(said.contains("m1"));
    assert_eq!(
        peer.say("<iq type='result' id='1' to='@x'/>"),
        "!Answer(None)"
    );
    assert_eq!(peer.say("<message type='error' to='@x'/>"), "!Answer(None)");
    assert_eq!(peer.ended, None);
}

#[test]
fn what_the_stream_can_judge_is_answered_without_routing() {
    // RFC 6120 §8.2.3.
    let mut peer = Peer::session();
    for text in [
        "<iq type='get'><ping xmlns='urn:xmpp:ping'/></iq>",
        "<iq type='get' id='1'/>",
        "<iq type='set' id='1'><a xmlns='a'/><b xmlns='b'/></iq>",
        "<iq type='subscribe' id='1'><ping xmlns='urn:xmpp:ping'/></iq>",
        "<iq id='1'><ping xmlns='urn:xmpp:ping'/></iq>",
        "<presence type='available'/>",
    ] {
        let said = peer.say(text);
        assert_order(&said, &["!Answer(Some(<", "<bad-request"]);
    }
    assert_eq!(
        peer.say("<iq type='result' id='1'><a xmlns='a'/><b xmlns='b'/></iq>"),
        "!Answer(None)"
    );
    assert_order(&peer.say("<message type='letter'/>"), &["!Stanza("]);
}

#[test]
fn an_unknown_first_level_element_ends_the_stream() {
    // RFC 6120 §4.9.3.24.
    for text in [
        "<pubsub xmlns='jabber:client'><publish node='princely_musings'/></pubsub>",
        "<foo xmlns='urn:example'/>",
        "<message xmlns='jabber:server'/>",
        "<foo xmlns='urn:xmpp:sm:3'/>",
        "<foo xmlns='urn:xmpp:csi:0'/>",
        "<foo xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>",
    ] {
        let mut peer = Peer::session();
        let said = peer.say(text);
        assert_stream_error(&peer, &said, StreamCondition::UnsupportedStanzaType);
    }
}

#[test]
fn xml_that_is_refused_ends_the_stream() {
    use StreamCondition as C;
    let large = format!("<message><body>{}</body></message>", "x".repeat(30_000));
    for (text, condition) in [
        // RFC 6120 §4.9.3.13
        (
            "<message><foo:body>What is this foo?</foo:body></message>",
            C::NotWellFormed,
        ),
        ("<message><body>No closing tag!</message>", C::NotWellFormed),
        ("<message><!-- comment --></message>", C::RestrictedXml),
        ("<message><?pi?></message>", C::RestrictedXml),
        ("<message>&foo;</message>", C::RestrictedXml),
        (large.as_str(), C::PolicyViolation),
    ] {
        let mut peer = Peer::session();
        let said = peer.say(text);
        assert_stream_error(&peer, &said, condition);
    }
}

#[test]
fn the_limit_is_lower_before_login() {
    let mut peer = Peer::direct_tls();
    peer.say(HEADER);
    let said = peer.say(&auth("PLAIN", &"A".repeat(12_000)));
    assert_stream_error(&peer, &said, StreamCondition::PolicyViolation);
    let mut peer = Peer::session();
    let said = peer.say(&format!(
        "<message><body>{}</body></message>",
        "x".repeat(12_000)
    ));
    assert!(said.starts_with("!Stanza("));
}

// --- stream management and client state --------------------------------------------------------

#[test]
fn stream_management_is_enabled_once_behind_binding() {
    // XEP-0198 #enable, examples 3, 5, 6, 8 and 9.
    let mut peer = Peer::logged_in();
    let enable = "<enable xmlns='urn:xmpp:sm:3' resume='true' max='60'/>";
    assert_eq!(peer.say(enable), failed("unexpected-request"));
    peer.say(BIND);
    let said = peer.say(enable);
    assert_order(
        &said,
        &[
            "!SmEnable { resume: true, max: Some(60) }",
            "<enabled",
            "some-long-sm-id",
        ],
    );
    assert_eq!(peer.say(enable), failed("unexpected-request"));
    assert_eq!(peer.say("<r xmlns='urn:xmpp:sm:3'/>"), "!SmRequest");
    assert_eq!(
        peer.say("<a xmlns='urn:xmpp:sm:3' h='4294967295'/>"),
        "!SmAck(4294967295)"
    );
    assert_eq!(peer.ended, None);
}

#[test]
fn an_acknowledgement_without_a_count_ends_the_stream() {
    for h in ["", "h='-1'", "h='4294967296'", "h='x'"] {
        let mut peer = Peer::logged_in();
        peer.say(BIND);
        peer.say("<enable xmlns='urn:xmpp:sm:3'/>");
        let said = peer.say(&format!("<a xmlns='urn:xmpp:sm:3' {h}/>"));
        assert_order(&said, &["<invalid-xml", "</stream:stream>"]);
    }
}

#[test]
fn stream_management_before_login_is_refused() {
    let mut peer = Peer::direct_tls();
    peer.say(HEADER);
    for text in [
        "<enable xmlns='urn:xmpp:sm:3'/>",
        "<resume xmlns='urn:xmpp:sm:3' previd='known' h='0'/>",
        "<r xmlns='urn:xmpp:sm:3'/>",
        "<a xmlns='urn:xmpp:sm:3' h='0'/>",
    ] {
        assert_eq!(peer.say(text), failed("unexpected-request"));
    }
}

#[test]
fn wrong_and_refused_requests_to_enable_can_be_repeated() {
    let mut peer = Peer::session();
    for text in [
        "<enable xmlns='urn:xmpp:sm:3' resume='yes'/>",
        "<enable xmlns='urn:xmpp:sm:3' max='0'/>",
        "<enable xmlns='urn:xmpp:sm:3' max='-3'/>",
    ] {
        assert_eq!(peer.say(text), failed("bad-request"));
    }
    peer.sm_error = Some(StanzaCondition::ResourceConstraint);
    assert_order(
        &peer.say("<enable xmlns='urn:xmpp:sm:3'/>"),
        &[
            "!SmEnable { resume: false, max: None }",
            &failed("resource-constraint"),
        ],
    );
    peer.sm_error = None;
    assert_order(
        &peer.say("<enable xmlns='urn:xmpp:sm:3' resume='1' max='99999999999999'/>"),
        &[
            "!SmEnable { resume: true, max: Some(4294967295) }",
            "<enabled",
        ],
    );
}

#[test]
fn resumption_that_is_turned_off_is_not_granted() {
    let config = Config {
        sm_resume_seconds: 0,
        ..config()
    };
    let mut peer = Peer::new(config, Framing::Tcp, tls());
    for text in [HEADER, PLAIN, HEADER] {
        peer.say(text);
    }
    assert_eq!(
        peer.say("<resume xmlns='urn:xmpp:sm:3' previd='known' h='0'/>"),
        failed("feature-not-implemented")
    );
    peer.say(BIND);
    assert_order(
        &peer.say("<enable xmlns='urn:xmpp:sm:3' resume='true'/>"),
        &["!SmEnable { resume: false,"],
    );
}

/// A stream whose domain has stream management and client states turned off.
fn bare_host() -> Peer {
    let host = HostConfig {
        is_sm_on: false,
        is_csi_on: false,
        ..host("im.example.com")
    };
    let config = Config {
        hosts: vec![Arc::new(host)],
        ..config()
    };
    Peer::new(config, Framing::Tcp, tls())
}

#[test]
fn stream_management_that_is_off_is_neither_offered_nor_granted() {
    let mut peer = bare_host();
    peer.say(HEADER);
    peer.say(PLAIN);
    let features = peer.say(HEADER);
    assert!(features.contains("<bind"), "{features}");
    assert!(!features.contains("urn:xmpp:sm:3"), "{features}");
    for text in [
        "<resume xmlns='urn:xmpp:sm:3' previd='known' h='0'/>",
        "<enable xmlns='urn:xmpp:sm:3'/>",
    ] {
        assert_eq!(peer.say(text), failed("feature-not-implemented"), "{text}");
    }
    peer.say(BIND);
    assert_eq!(
        peer.say("<enable xmlns='urn:xmpp:sm:3' resume='true'/>"),
        failed("feature-not-implemented")
    );
    for text in [
        "<r xmlns='urn:xmpp:sm:3'/>",
        "<a xmlns='urn:xmpp:sm:3' h='0'/>",
    ] {
        assert_eq!(peer.say(text), failed("unexpected-request"), "{text}");
    }
    assert_order(&peer.say("<message/>"), &["!Stanza(<message"]);
}

#[test]
fn client_states_that_are_off_are_neither_offered_nor_heard() {
    let mut peer = bare_host();
    peer.say(HEADER);
    peer.say(PLAIN);
    assert!(!peer.say(HEADER).contains("urn:xmpp:csi:0"));
    peer.say(BIND);
    assert_eq!(peer.say("<inactive xmlns='urn:xmpp:csi:0'/>"), "");
    assert_order(&peer.say("<message/>"), &["!Stanza(<message"]);
}

#[test]
fn a_session_is_resumed_instead_of_bound() {
    // XEP-0198 #resumption, examples 12 and 13.
    let mut peer = Peer::logged_in();
    let said = peer.say("<resume xmlns='urn:xmpp:sm:3' h='7' previd='known'/><message/>");
    assert_order(
        &said,
        &[
            "!SmResume { account: Jid(juliet@im.example.com), previd: \"known\", h: 7 }",
            "<resumed xmlns='urn:xmpp:sm:3' h='5' previd='known'/>",
            "!Stanza(<message",
            "from='juliet@im.example.com/old'",
        ],
    );
    assert_eq!(peer.say("<r xmlns='urn:xmpp:sm:3'/>"), "!SmRequest");
    assert_order(&peer.say(BIND), &["<not-allowed"]);
    assert_eq!(
        peer.say("<resume xmlns='urn:xmpp:sm:3' h='7' previd='known'/>"),
        failed("unexpected-request")
    );
}

#[test]
fn a_failed_resumption_leaves_binding_open() {
    // XEP-0198 #resumption, example 14.
    let mut peer = Peer::logged_in();
    let said = peer.say("<resume xmlns='urn:xmpp:sm:3' h='7' previd='unknown'/>");
    assert_order(&said, &["<failed", "h='3'", "<item-not-found"]);
    let said = peer.say("<resume xmlns='urn:xmpp:sm:3' h='7' previd='foreign'/>");
    assert_order(&said, &["<failed", "<item-not-found"]);
    for text in [
        "<resume xmlns='urn:xmpp:sm:3' h='7'/>",
        "<resume xmlns='urn:xmpp:sm:3' previd='known'/>",
        "<resume xmlns='urn:xmpp:sm:3' h='x' previd='known'/>",
    ] {
        assert_eq!(peer.say(text), failed("bad-request"));
    }
    assert_order(
        &peer.say(BIND),
        &["<jid>juliet@im.example.com/balcony</jid>"],
    );
}

#[test]
fn ids_of_sessions_cannot_be_tried_for_ever() {
    let mut peer = Peer::logged_in();
    for _ in 0..9 {
        peer.say("<resume xmlns='urn:xmpp:sm:3' h='7' previd='guess'/>");
    }
    assert_eq!(peer.ended, None);
    let said = peer.say("<resume xmlns='urn:xmpp:sm:3' h='7' previd='guess'/>");
    assert_stream_error(&peer, &said, StreamCondition::PolicyViolation);
}

#[test]
fn client_state_is_for_sessions() {
    // XEP-0352 #protocol.
    let mut peer = Peer::logged_in();
    assert_eq!(peer.say("<inactive xmlns='urn:xmpp:csi:0'/>"), "");
    peer.say(BIND);
    assert_eq!(
        peer.say("<inactive xmlns='urn:xmpp:csi:0'/>"),
        "!Csi(false)"
    );
    assert_eq!(peer.say("<active xmlns='urn:xmpp:csi:0'/>"), "!Csi(true)");
}

// --- closing -----------------------------------------------------------------------------------

#[test]
fn every_stream_error_can_be_sent_by_the_driver() {
    for condition in StreamCondition::ALL {
        let mut peer = Peer::session();
        let said = peer.close(Some((*condition).into()));
        assert_order(
            &said,
            &["<stream:error><", condition.name(), "</stream:stream>"],
        );
        assert_eq!(peer.say("<presence/>"), "");
        assert_eq!(peer.close(None), "");
        assert_eq!(peer.ended, None);
    }
}

#[test]
fn a_stream_closed_before_its_header_still_gets_one() {
    // RFC 6120 §4.9.1.2.
    let mut peer = Peer::tcp();
    peer.run();
    let said = peer.close(Some(StreamError::from(StreamCondition::ConnectionTimeout)));
    assert_order(
        &said,
        &[
            "<stream:stream ",
            " id='",
            " from='im.example.com'",
            "<connection-timeout",
            "</stream:stream>",
        ],
    );
    // Without a single poll there is no id to be had.
    let said = Peer::tcp().close(Some(StreamCondition::SystemShutdown.into()));
    assert_order(&said, &[" id='0'", "<system-shutdown"]);
}

#[test]
fn what_the_client_sent_before_it_saw_our_footer_still_counts() {
    // RFC 6120 §4.4.
    let mut peer = Peer::session();
    peer.say("<enable xmlns='urn:xmpp:sm:3'/>");
    assert_eq!(peer.close(None), "</stream:stream>");
    assert_order(&peer.say("<message/>"), &["!Stanza("]);
    assert_eq!(peer.say("<a xmlns='urn:xmpp:sm:3' h='0'/>"), "!SmAck(0)");
    assert_order(&peer.say("<iq/>"), &["!Answer("]);
    assert_eq!(peer.say("</stream:stream>"), "!Close(None)");
}

#[test]
fn an_answer_that_comes_too_late_is_void() {
    let mut peer = Peer::logged_in();
    peer.stream.feed(BIND.as_bytes());
    let mut random = |bytes: &mut [u8]| bytes.fill(1);
    assert!(peer.stream.poll(&mut random, &mut peer.out).is_some());
    peer.close(Some(StreamCondition::SystemShutdown.into()));
    peer.stream.bound(Ok(jid(ME)), &mut peer.out);
    assert!(peer.out.is_empty());
    assert_eq!(peer.stream.session(), None);
}

#[test]
fn nothing_overtakes_an_owed_answer() {
    let mut peer = Peer::logged_in();
    peer.stream.feed(format!("{BIND}<presence/>").as_bytes());
    let mut random = |bytes: &mut [u8]| bytes.fill(1);
    assert!(peer.stream.poll(&mut random, &mut peer.out).is_some());
    assert!(peer.stream.poll(&mut random, &mut peer.out).is_none());
    assert_eq!(peer.stream.buffered(), "<presence/>".len());
    peer.stream.bound(Ok(jid(ME)), &mut peer.out);
    assert!(peer.stream.poll(&mut random, &mut peer.out).is_some());
}

#[test]
fn the_peers_own_stream_error_is_answered_with_our_footer() {
    let mut peer = Peer::session();
    let said = peer.say(
        "<stream:error><conflict xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>",
    );
    assert_eq!(said, "</stream:stream>!Close(None)");
}

// --- WebSocket ---------------------------------------------------------------------------------

const WS_SASL: &str = "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>\
    AGp1bGlldAByMG0zMG15cjBtMzA=</auth>";

fn websocket() -> Peer {
    Peer::new(config(), Framing::WebSocket, tls())
}

fn client(stanza: &str) -> String {
    stanza.replacen(' ', " xmlns='jabber:client' ", 1)
}

#[test]
fn a_session_over_websocket_has_a_message_per_element() {
    // RFC 7395 §3.3 and §3.4.
    let mut peer = websocket();
    let said = peer.say(OPEN);
    let messages: Vec<_> = said.lines().collect();
    assert_eq!(messages.len(), 2, "{said}");
    assert_order(
        messages[0],
        &[
            "<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' id='",
            " from='im.example.com'",
            "/>",
        ],
    );
    assert_order(
        messages[1],
        &[
            "<stream:features xmlns:stream='http://etherx.jabber.org/streams'>",
            "<mechanisms",
        ],
    );
    assert!(!said.contains(TLS_NS) && !said.contains("PLUS"), "{said}");
    assert_order(&peer.say(WS_SASL), &["<success"]);
    assert_order(&peer.say(OPEN), &["<open", "\n<stream:features", "<bind"]);
    let said = peer.say(&client(BIND));
    assert_order(&said, &["!Bind", "<iq xmlns='jabber:client'", "<jid>"]);
    let said =
        peer.say("<message xmlns='jabber:client' to='romeo@example.net'><body>x</body></message>");
    assert_order(&said, &["!Stanza(<message", "<body>x</body>"]);
    assert_eq!(
        peer.say("<close xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>"),
        "<close xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>!Close(None)"
    );
}

#[test]
fn errors_over_websocket_are_messages_too() {
    // RFC 7395 §3.4.
    let mut peer = websocket();
    let said = peer.say(&OPEN.replace("im.example.com", "unknown.example.com"));
    assert_stream_error(&peer, &said, StreamCondition::HostUnknown);
    let lines: Vec<_> = said.lines().collect();
    assert!(lines[0].starts_with("<open "));
    assert!(lines[1].starts_with("<stream:error xmlns:stream="));
    assert!(lines[2].starts_with("<close "));
}

#[test]
fn starttls_over_websocket_fails() {
    let mut peer = websocket();
    peer.say(OPEN);
    assert_order(
        &peer.say(STARTTLS),
        &[
            "<failure xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>",
            "<close",
        ],
    );
}

#[test]
fn elements_out_of_place_over_websocket_end_the_stream() {
    for (before, text) in [
        (vec![], "<presence xmlns='jabber:client'/>"),
        (vec![], WS_SASL),
        (vec![OPEN], OPEN),
        (vec![OPEN], "<presence/>"),
        (vec![OPEN], "hello"),
        (
            vec![OPEN],
            "<presence xmlns='jabber:client'/><presence xmlns='jabber:client'/>",
        ),
        (vec![], HEADER),
    ] {
        let mut peer = websocket();
        for message in before {
            peer.say(message);
        }
        let said = peer.say(text);
        assert!(peer.condition().is_some(), "{text}: {said}");
    }
}

#[test]
fn mechanisms_of_a_host_are_its_own() {
    let mut peer = Peer::new(
        with_host(|h| h.mechanisms = vec![Mechanism::Plain]),
        Framing::Tcp,
        tls(),
    );
    let said = peer.say(HEADER);
    assert_order(
        &said,
        &[
            "<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>PLAIN</mechanism></mechanisms>",
        ],
    );
    assert_eq!(
        peer.say(&auth("SCRAM-SHA-256", "")),
        sasl_failure("invalid-mechanism")
    );
}
