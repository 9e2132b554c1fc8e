//! A driver for scripted dialogues: answers what the stream asks, logs actions and bytes in order.
#![allow(dead_code, reason = "every test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "tests")]

use antiphon_xmpp::sasl::{Answer, Credentials, Failure, Mechanism, Query, ScramHash};
use antiphon_xmpp::stream::c2s::{Action, Channel, Config, HostConfig, Stream};
use antiphon_xmpp::stream::sm::{SmEnabled, SmFailed};
use antiphon_xmpp::stream::{Framing, Outgoing, StreamCondition, StreamError};
use antiphon_xmpp::xml::Limits;
use antiphon_xmpp::{Jid, StanzaCondition, StanzaError};
use std::sync::Arc;

pub const LIMITS: Limits = Limits {
    stanza_bytes: 10_000,
    depth: 64,
    elements: 1000,
    attributes: 100,
};

pub const SCRAM: Mechanism = Mechanism::Scram {
    hash: ScramHash::Sha256,
    plus: false,
};
pub const SCRAM_PLUS: Mechanism = Mechanism::Scram {
    hash: ScramHash::Sha256,
    plus: true,
};

pub fn jid(text: &str) -> Jid {
    Jid::parse(text).unwrap()
}

pub fn host(domain: &str) -> HostConfig {
    HostConfig {
        domain: jid(domain),
        mechanisms: vec![
            Mechanism::External,
            SCRAM_PLUS,
            SCRAM,
            Mechanism::Plain,
            Mechanism::Anonymous,
        ],
        extra_features: b"<c xmlns='http://jabber.org/protocol/caps' ver='x'/>".to_vec(),
        registration: false,
        is_sm_on: true,
        is_csi_on: true,
    }
}

/// TCP with STARTTLS for two domains.
pub fn config() -> Config {
    Config {
        hosts: vec![
            Arc::new(host("im.example.com")),
            Arc::new(host("other.example.com")),
        ],
        limits_before_login: LIMITS,
        limits: Limits {
            stanza_bytes: 20_000,
            ..LIMITS
        },
        auth_attempts: 3,
        allow_plaintext: false,
        starttls: true,
        sm_resume_seconds: 600,
        idle_seconds: 1800,
        dummy_secret: Arc::from(b"a secret of more than 16 bytes".as_slice()),
        dummy_iterations: 4096,
    }
}

pub fn tls() -> Channel {
    Channel {
        secure: true,
        ..Channel::default()
    }
}

pub const HEADER: &str = "<?xml version='1.0'?><stream:stream to='im.example.com' version='1.0' \
    xml:lang='en' xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>";
pub const OPEN: &str =
    "<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='im.example.com' version='1.0'/>";
/// PLAIN as juliet with the password `r0m30myr0m30` (RFC 6120 §6.4.2).
pub const PLAIN: &str = "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>\
    AGp1bGlldAByMG0zMG15cjBtMzA=</auth>";
pub const BIND: &str = "<iq id='wy2xa82b4' type='set'>\
    <bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>balcony</resource></bind></iq>";
pub const ME: &str = "juliet@im.example.com/balcony";

/// A stream and the world around it.
pub struct Peer {
    pub stream: Stream,
    pub out: Outgoing,
    /// What [`Action::Bind`] is answered with, if not the full JID.
    pub bind_error: Option<StanzaError>,
    pub sm_error: Option<StanzaCondition>,
    /// The channel after STARTTLS.
    pub tls: Channel,
    /// Actions (`!` in front) and written bytes, in order.
    pub log: Vec<String>,
    pub ended: Option<Option<StreamError>>,
    drawn: u8,
}

impl Peer {
    pub fn new(config: Config, framing: Framing, channel: Channel) -> Self {
        Self {
            stream: Stream::new(Arc::new(config), framing, channel),
            out: Outgoing::default(),
            bind_error: None,
            sm_error: None,
            tls: tls(),
            log: Vec::new(),
            ended: None,
            drawn: 0,
        }
    }

    /// Over TCP without TLS so far.
    pub fn tcp() -> Self {
        Self::new(config(), Framing::Tcp, Channel::default())
    }

    /// Over direct TLS.
    pub fn direct_tls() -> Self {
        Self::new(config(), Framing::Tcp, tls())
    }

    /// Over direct TLS, logged in, nothing bound.
    pub fn logged_in() -> Self {
        let mut peer = Self::direct_tls();
        peer.say(HEADER);
        peer.say(PLAIN);
        peer.say(HEADER);
        peer
    }

    /// A session.
    pub fn session() -> Self {
        let mut peer = Self::logged_in();
        peer.say(BIND);
        assert_eq!(peer.stream.session(), Some(&jid(ME)));
        peer.log.clear();
        peer
    }

    /// Feeds, runs, and returns what was logged for it, as one text.
    pub fn say(&mut self, text: &str) -> String {
        self.say_bytes(text.as_bytes())
    }

    pub fn say_bytes(&mut self, bytes: &[u8]) -> String {
        let before = self.log.len();
        self.stream.feed(bytes);
        self.run();
        self.log[before..].concat()
    }

    pub fn run(&mut self) {
        while let Some(action) = self.poll() {
            self.flush();
            self.log.push(format!("!{action:?}"));
            self.answer(action);
        }
        self.flush();
    }

    fn poll(&mut self) -> Option<Action> {
        let drawn = &mut self.drawn;
        let mut random = |bytes: &mut [u8]| {
            *drawn = drawn.wrapping_add(1);
            bytes.fill(*drawn);
        };
        self.stream.poll(&mut random, &mut self.out)
    }

    pub fn flush(&mut self) {
        if !self.out.is_empty() {
            let messages: Vec<_> = self
                .out
                .messages()
                .map(|m| String::from_utf8(m.to_vec()).unwrap())
                .collect();
            self.log.push(messages.join("\n"));
            self.out.clear();
        }
    }

    fn answer(&mut self, action: Action) {
        match action {
            Action::StartTls(_) => self.stream.tls_started(self.tls.clone()),
            Action::Auth(query) => self.stream.auth_answer(match query {
                Query::Keys(_) => Answer::Keys(None::<Credentials>),
                Query::Password { password, .. } if password == "outage" => Answer::Unavailable,
                Query::Password { password, .. } => {
                    Answer::Verdict(if password == "r0m30myr0m30" {
                        Ok(())
                    } else {
                        Err(Failure::NotAuthorized)
                    })
                }
                Query::Account(_) => Answer::Verdict(Ok(())),
            }),
            Action::Bind { account, resource } => {
                let full = account.with_resource(resource.as_deref().unwrap_or("server"));
                let result = self.bind_error.clone().map_or(Ok(full.unwrap()), Err);
                self.stream.bound(result, &mut self.out);
            }
            Action::Register(iq) => {
                let answer = iq.result();
                self.stream.answer_iq(&answer, &mut self.out);
            }
            Action::SmEnable { resume, max } => {
                let enabled = SmEnabled {
                    id: resume.then(|| "some-long-sm-id".into()),
                    max,
                    resume,
                    location: None,
                };
                let result = self.sm_error.map_or(Ok(enabled), Err);
                self.stream.sm_enabled(result, &mut self.out);
            }
            Action::SmResume {
                account, previd, ..
            } => {
                let result = match previd.as_str() {
                    "known" => Ok((account.with_resource("old").unwrap(), 5)),
                    "foreign" => Ok((jid("romeo@im.example.com/old"), 5)),
                    _ => Err(SmFailed {
                        condition: StanzaCondition::ItemNotFound,
                        h: Some(3),
                    }),
                };
                self.stream.sm_resumed(result, &mut self.out);
            }
            Action::Close(error) => {
                assert!(self.ended.is_none(), "closed twice");
                self.ended = Some(error);
            }
            Action::Authenticated(..)
            | Action::Stanza(_)
            | Action::Answer(_)
            | Action::SmAck(_)
            | Action::SmRequest
            | Action::Csi(_) => {}
        }
    }

    pub fn close(&mut self, error: Option<StreamError>) -> String {
        let before = self.log.len();
        self.stream.close(error, &mut self.out);
        self.flush();
        self.log[before..].concat()
    }

    /// The condition of the stream error that ended the stream.
    pub fn condition(&self) -> Option<StreamCondition> {
        self.ended
            .as_ref()
            .and_then(|end| end.as_ref().map(|error| error.condition))
    }
}

/// Asserts that `text` has these parts, in this order.
#[track_caller]
pub fn assert_order(text: &str, parts: &[&str]) {
    let mut rest = text;
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => panic!("{part:?} is missing or out of order in\n{text}"),
        }
    }
}

/// Asserts that the stream ended with this error, said it and closed.
#[track_caller]
pub fn assert_stream_error(peer: &Peer, said: &str, condition: StreamCondition) {
    assert_eq!(peer.condition(), Some(condition), "{said}");
    let close = if said.contains("urn:ietf:params:xml:ns:xmpp-framing") {
        "<close xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>"
    } else {
        "</stream:stream>"
    };
    let element = format!(
        "<{} xmlns='urn:ietf:params:xml:ns:xmpp-streams'",
        condition.name()
    );
    assert_order(
        said,
        &[
            "<stream:error",
            &element,
            "</stream:error>",
            close,
            "!Close",
        ],
    );
    assert!(peer.stream.is_over());
}
