//! A client's stream: whatever bytes come, in whatever portions, nothing panics, portions make no
//! difference, nothing follows the end, and no stanza passes without the address of its session.
//!
//! The input is a byte that chooses framing, channel and how far the stream has come already, a
//! byte for the size of the portions, then what the client sends. On WebSocket 0xFF, which no
//! UTF-8 has, ends a message.
#![no_main]

use antiphon_xmpp::sasl::{Answer, Mechanism, Query, ScramHash};
use antiphon_xmpp::stream::c2s::{Action, Channel, Config, HostConfig, Stream};
use antiphon_xmpp::stream::sm::{SmEnabled, SmFailed};
use antiphon_xmpp::stream::{Framing, Outgoing};
use antiphon_xmpp::xml::Limits;
use antiphon_xmpp::{Jid, StanzaCondition};
use libfuzzer_sys::fuzz_target;
use std::fmt::Write;
use std::sync::Arc;

const LIMITS: Limits = Limits {
    stanza_bytes: 4096,
    depth: 16,
    elements: 64,
    attributes: 32,
};

const TCP: [&str; 4] = [
    "<stream:stream to='example.com' version='1.0' xmlns='jabber:client' \
     xmlns:stream='http://etherx.jabber.org/streams'>",
    "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AGEAYg==</auth>",
    "<stream:stream to='example.com' version='1.0' xmlns='jabber:client' \
     xmlns:stream='http://etherx.jabber.org/streams'>",
    "<iq xmlns='jabber:client' id='b' type='set'>\
     <bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>",
];

const OPEN: &str =
    "<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='example.com' version='1.0'/>";

fn config(flags: u8) -> Config {
    let host = HostConfig {
        domain: Jid::parse("example.com").expect("valid"),
        mechanisms: vec![
            Mechanism::Scram {
                hash: ScramHash::Sha256,
                plus: true,
            },
            Mechanism::Plain,
            Mechanism::Anonymous,
        ],
        extra_features: Vec::new(),
        registration: flags & 16 != 0,
        is_sm_on: flags & 64 == 0,
        is_csi_on: flags & 64 == 0,
    };
    Config {
        hosts: vec![Arc::new(host)],
        limits_before_login: LIMITS,
        limits: LIMITS,
        auth_attempts: 3,
        allow_plaintext: flags & 32 != 0,
        starttls: true,
        sm_resume_seconds: 60,
        idle_seconds: 0,
        dummy_secret: Arc::from([7; 32].as_slice()),
        dummy_iterations: 4096,
    }
}

fn channel(secure: bool) -> Channel {
    Channel {
        secure,
        exporter: secure.then(|| [1; 32].into()),
        ..Channel::default()
    }
}

struct Driver {
    stream: Stream,
    out: Outgoing,
    drawn: u8,
    log: String,
    ended: bool,
}

impl Driver {
    fn new(flags: u8) -> Self {
        let framing = if flags & 4 == 0 {
            Framing::Tcp
        } else {
            Framing::WebSocket
        };
        let mut driver = Self {
            stream: Stream::new(Arc::new(config(flags)), framing, channel(flags & 8 != 0)),
            out: Outgoing::default(),
            drawn: 0,
            log: String::new(),
            ended: false,
        };
        for (index, element) in TCP.iter().enumerate().take(usize::from(flags & 3) * 4 / 3) {
            let is_open = index % 2 == 0 && framing == Framing::WebSocket;
            driver.feed(if is_open { OPEN } else { element }.as_bytes());
        }
        driver
    }

    fn feed(&mut self, bytes: &[u8]) {
        self.stream.feed(bytes);
        loop {
            let drawn = &mut self.drawn;
            let mut random = |bytes: &mut [u8]| {
                *drawn = drawn.wrapping_add(1);
                bytes.fill(*drawn);
            };
            let Some(action) = self.stream.poll(&mut random, &mut self.out) else {
                break;
            };
            self.flush();
            assert!(!self.ended, "something follows the end");
            write!(self.log, "!{action:?}").expect("a string takes all");
            self.carry_out(action);
        }
        self.flush();
    }

    fn flush(&mut self) {
        assert!(self.out.is_empty() || !self.ended, "bytes follow the end");
        let text = std::str::from_utf8(&self.out.bytes).expect("what we write is UTF-8");
        self.log.push_str(text);
        self.out.clear();
    }

    fn carry_out(&mut self, action: Action) {
        let Self { stream, out, .. } = self;
        match action {
            Action::StartTls(_) => stream.tls_started(channel(true)),
            Action::Auth(Query::Keys(_)) => stream.auth_answer(Answer::Keys(None)),
            Action::Auth(_) => stream.auth_answer(Answer::Verdict(Ok(()))),
            Action::Bind { account, resource } => {
                let jid = account.with_resource(resource.as_deref().unwrap_or("r"));
                stream.bound(Ok(jid.expect("a prepared resource")), out);
            }
            Action::Register(iq) => {
                assert!(stream.account().is_none());
                stream.answer_iq(&iq.result(), out);
            }
            Action::SmEnable { resume, max } => {
                let enabled = SmEnabled {
                    id: Some("id".to_owned()),
                    max,
                    resume,
                    location: None,
                };
                stream.sm_enabled(Ok(enabled), out);
            }
            Action::SmResume {
                previd, account, ..
            } => {
                let jid = account.with_resource("old").expect("valid");
                let failed = SmFailed::from(StanzaCondition::ItemNotFound);
                let result = if previd == "id" {
                    Ok((jid, 0))
                } else {
                    Err(failed)
                };
                stream.sm_resumed(result, out);
            }
            Action::Stanza(stanza) => {
                assert!(stanza.from.is_some());
                assert_eq!(stanza.from.as_ref(), stream.session());
            }
            Action::Close(_) => self.ended = true,
            Action::Authenticated(..)
            | Action::Answer(_)
            | Action::SmAck(_)
            | Action::SmRequest
            | Action::Csi(_) => {}
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let [flags, size, bytes @ ..] = input else {
        return;
    };
    let mut whole = Driver::new(*flags);
    if flags & 4 != 0 {
        for message in bytes.split(|byte| *byte == 0xff) {
            whole.feed(message);
        }
        return;
    }
    whole.feed(bytes);
    // What is thrown away behind `<starttls/>` depends on when it came, and has to.
    if whole.log.contains("!StartTls") {
        return;
    }
    let mut parts = Driver::new(*flags);
    for part in bytes.chunks(usize::from(*size).max(1)) {
        parts.feed(part);
    }
    assert_eq!(whole.log, parts.log);
});
