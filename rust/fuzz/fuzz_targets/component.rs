//! A component's stream (XEP-0114): whatever bytes come, in whatever portions, nothing panics,
//! portions make no difference, nothing follows the end, nobody is admitted without the secret, and
//! no stanza passes that is not of the component's domain.
//!
//! The input is a byte that chooses how far the stream has come already and whether the domain is
//! taken, a byte for the size of the portions, then what the component sends. 0xFE, which no UTF-8
//! has, stands for the proof.
#![no_main]

use antiphon_xmpp::Jid;
use antiphon_xmpp::stream::component::{Action, Component, Config, Stream};
use antiphon_xmpp::stream::{Outgoing, StreamCondition};
use antiphon_xmpp::xml::Limits;
use libfuzzer_sys::fuzz_target;
use ring::digest;
use std::fmt::Write;
use std::sync::Arc;

const LIMITS: Limits = Limits {
    stanza_bytes: 4096,
    depth: 16,
    elements: 64,
    attributes: 32,
};
const SECRET: &str = "sekrit";
const HEADER: &[u8] = b"<stream:stream to='bot.example.com' \
    xmlns='jabber:component:accept' xmlns:stream='http://etherx.jabber.org/streams'>";

/// SHA-1 over the stream id and the secret, in lower-case hex (XEP-0114 example 3); every id here
/// is drawn from nines.
fn proof() -> String {
    let text = format!("{}{SECRET}", "09".repeat(18));
    let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
    hash.as_ref().iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("a string takes all");
        hex
    })
}

fn config() -> Config {
    let component = |domain: &str, secret: &str| Component {
        domain: Jid::parse(domain).expect("valid"),
        secret: Arc::from(secret),
    };
    Config {
        components: vec![
            component("other.example.com", "another"),
            component("bot.example.com", SECRET),
        ],
        domain: Jid::parse("example.com").expect("valid"),
        limits_before_login: Limits {
            stanza_bytes: 512,
            ..LIMITS
        },
        limits: LIMITS,
    }
}

struct Driver {
    stream: Stream,
    out: Outgoing,
    log: String,
    is_taken: bool,
    is_over: bool,
}

impl Driver {
    fn new(flags: u8) -> Self {
        let mut driver = Self {
            stream: Stream::new(Arc::new(config())),
            out: Outgoing::default(),
            log: String::new(),
            is_taken: flags & 4 != 0,
            is_over: false,
        };
        if flags & 3 != 0 {
            driver.feed(HEADER);
        }
        if flags & 2 != 0 {
            driver.feed(format!("<handshake>{}</handshake>", proof()).as_bytes());
            assert_eq!(driver.stream.component().is_some(), !driver.is_taken);
        }
        driver
    }

    fn feed(&mut self, bytes: &[u8]) {
        self.stream.feed(bytes);
        let mut random = |bytes: &mut [u8]| bytes.fill(9);
        while let Some(action) = self.stream.poll(&mut random, &mut self.out) {
            self.flush();
            assert!(!self.is_over, "something follows the end");
            write!(self.log, "!{action:?}").expect("a string takes all");
            self.carry_out(action);
        }
        self.flush();
    }

    fn flush(&mut self) {
        assert!(self.out.is_empty() || !self.is_over, "bytes follow the end");
        let text = std::str::from_utf8(&self.out.bytes).expect("what we write is UTF-8");
        self.log.push_str(text);
        self.out.clear();
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Authenticated(domain) => {
                assert_eq!(
                    domain.as_str(),
                    "bot.example.com",
                    "the other secret is unknown"
                );
                assert!(self.stream.component().is_none());
                let result = if self.is_taken {
                    Err(StreamCondition::Conflict)
                } else {
                    Ok(())
                };
                self.stream.admitted(result, &mut self.out);
            }
            Action::Stanza(stanza) => {
                assert!(stanza.to.is_some());
                let from = stanza.from.as_ref().map(Jid::domain);
                assert_eq!(from, self.stream.component().map(Jid::domain));
                assert!(from.is_some());
            }
            Action::Answer(_) => assert!(self.stream.component().is_some()),
            Action::Close(_) => self.is_over = true,
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let [flags, size, script @ ..] = input else {
        return;
    };
    let mut bytes = Vec::new();
    let proof = proof();
    for &byte in script {
        match byte {
            0xfe => bytes.extend_from_slice(proof.as_bytes()),
            _ => bytes.push(byte),
        }
    }
    let mut whole = Driver::new(*flags);
    whole.feed(&bytes);
    let mut parts = Driver::new(*flags);
    for part in bytes.chunks(usize::from(*size).max(1)) {
        parts.feed(part);
    }
    assert_eq!(whole.log, parts.log);
});
