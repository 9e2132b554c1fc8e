//! External components (XEP-0114), accept side.

use super::check::{self, Verdict};
use super::error::{StreamCondition, StreamError};
use super::framing::{Framing, Outgoing};
use crate::jid::Jid;
use crate::ns;
use crate::stanza::{Stanza, StanzaCondition, StanzaError};
use crate::xml::reader::Address;
use crate::xml::writer::escape_attr;
use crate::xml::{Element, Event, Limits, Reader, StreamHeader};
use ring::{digest, hmac};
use std::fmt;
use std::sync::Arc;

/// Bytes of randomness in a stream id: the handshake is a hash over it.
const ID_BYTES: usize = 18;

/// A component that may connect.
#[derive(Clone)]
pub struct Component {
    /// Its domain.
    pub domain: Jid,
    /// The secret it shares with the server.
    pub secret: Arc<str>,
}

impl fmt::Debug for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Component({})", self.domain)
    }
}

/// What the listener says about a component's stream.
#[derive(Debug)]
pub struct Config {
    /// Who may connect.
    pub components: Vec<Component>,
    /// The server's own domain, which answers where the component's is unknown.
    pub domain: Jid,
    /// Before the handshake.
    pub limits_before_login: Limits,
    /// After it.
    pub limits: Limits,
}

/// What the stream asks of its driver.
#[derive(Debug)]
pub enum Action {
    /// The component has proved itself; *owes* [`Stream::admitted`], which is where a second
    /// connection for the same domain meets `conflict`.
    Authenticated(Jid),
    /// A stanza of the component: `from` is at its domain, `to` is there.
    Stanza(Stanza),
    /// The answer to a stanza that the stream has judged by itself, to be sent to the component.
    Answer(Stanza),
    /// The stream is over; the driver flushes `out`, then closes. `None`: closed by the peer in order.
    Close(Option<StreamError>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Header,
    Handshake,
    /// The driver owes whether the component is admitted.
    Admission,
    Open,
    Over,
}

/// One component's stream, header to close. Timeouts are the driver's.
#[derive(Debug)]
pub struct Stream {
    config: Arc<Config>,
    reader: Reader,
    phase: Phase,
    component: Option<Component>,
    /// Id of the header, sent or about to be.
    id: String,
    is_header_sent: bool,
    end: Option<Option<StreamError>>,
}

impl Stream {
    /// A stream that waits for the component's header.
    #[must_use]
    pub fn new(config: Arc<Config>) -> Self {
        Self {
            reader: Reader::tcp(config.limits_before_login),
            config,
            phase: Phase::Header,
            component: None,
            id: String::new(),
            is_header_sent: false,
            end: None,
        }
    }

    /// Adds bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.phase != Phase::Over {
            self.reader.feed(bytes);
        }
    }

    /// The next thing to do, `None` if more bytes or an owed answer are needed. What must be
    /// written goes to `out`. `random` fills a slice from a cryptographic generator.
    pub fn poll(
        &mut self,
        random: &mut dyn FnMut(&mut [u8]),
        out: &mut Outgoing,
    ) -> Option<Action> {
        if self.id.is_empty() {
            let mut bytes = [0; ID_BYTES];
            random(&mut bytes);
            self.id = hex(&bytes);
        }
        out.set_framing(Framing::Tcp);
        loop {
            match self.phase {
                Phase::Over => return self.end.take().map(Action::Close),
                Phase::Admission => return None,
                Phase::Header | Phase::Handshake | Phase::Open => {}
            }
            let action = match self.reader.next() {
                Ok(Some(event)) => self.on_event(event, out),
                Ok(None) => return None,
                Err(error) => self.fail(error, out),
            };
            if action.is_some() {
                return action;
            }
        }
    }

    fn on_event(&mut self, event: Event, out: &mut Outgoing) -> Option<Action> {
        match (event, self.phase) {
            (Event::Stanza(stanza), Phase::Open) => self.on_stanza(stanza, out),
            (Event::Malformed(stanza, which), Phase::Open) => {
                self.on_malformed(&stanza, which, out)
            }
            (Event::Open(header), Phase::Header) => self.on_header(&header, out),
            (Event::Open(_), _) => self.fail(StreamCondition::BadFormat, out),
            (Event::Close, _) => self.on_close(out),
            (Event::Element(element), Phase::Handshake)
                if element.is(ns::COMPONENT_ACCEPT, "handshake") =>
            {
                self.on_handshake(&element, out)
            }
            (Event::Element(element), _) if element.is(ns::STREAM, "error") => self.on_close(out),
            (Event::Element(_), Phase::Open) => {
                self.fail(StreamCondition::UnsupportedStanzaType, out)
            }
            (Event::Element(_) | Event::Stanza(_) | Event::Malformed(..), _) => {
                self.fail(StreamCondition::NotAuthorized, out)
            }
        }
    }

    fn on_header(&mut self, header: &StreamHeader, out: &mut Outgoing) -> Option<Action> {
        let asked = header.to.as_deref().and_then(|to| Jid::parse(to).ok());
        self.component = self
            .config
            .components
            .iter()
            .find(|component| Some(&component.domain) == asked.as_ref())
            .cloned();
        self.write_header(out);
        // No version and no features: the protocol is older than both (XEP-0114 example 2).
        if header.content_ns != ns::COMPONENT_ACCEPT {
            return self.fail(StreamCondition::InvalidNamespace, out);
        }
        if self.component.is_none() {
            return self.fail(StreamCondition::HostUnknown, out);
        }
        self.phase = Phase::Handshake;
        None
    }

    fn on_handshake(&mut self, element: &Element, out: &mut Outgoing) -> Option<Action> {
        let component = self.component.clone()?;
        if !is_proof(&self.id, &component.secret, element.text().trim()) {
            return self.fail(StreamCondition::NotAuthorized, out);
        }
        self.phase = Phase::Admission;
        Some(Action::Authenticated(component.domain))
    }

    /// Answers [`Action::Authenticated`]: the component is routed to from now on, or why not.
    pub fn admitted(&mut self, result: Result<(), StreamCondition>, out: &mut Outgoing) {
        if self.phase != Phase::Admission {
            return;
        }
        match result {
            Ok(()) => {
                out.raw(b"<handshake/>");
                self.reader.set_limits(self.config.limits);
                self.phase = Phase::Open;
            }
            Err(condition) => {
                self.fail(condition, out);
            }
        }
    }

    /// Both addresses are needed, and `from` is at the component's domain (XEP-0114 #flow).
    fn on_stanza(&mut self, stanza: Stanza, out: &mut Outgoing) -> Option<Action> {
        let (Some(from), Some(_)) = (&stanza.from, &stanza.to) else {
            return self.fail(StreamCondition::ImproperAddressing, out);
        };
        if !self.is_at_component(from) {
            return self.fail(StreamCondition::InvalidFrom, out);
        }
        match check::check(&stanza) {
            Verdict::Pass => Some(Action::Stanza(stanza)),
            verdict => check::answer(&stanza, &verdict).map(Action::Answer),
        }
    }

    /// A bad `to` comes from some user behind the component and is answered there; a bad `from` is
    /// the component's own fault (RFC 6120 §4.9.3.7).
    fn on_malformed(
        &mut self,
        stanza: &Stanza,
        which: Address,
        out: &mut Outgoing,
    ) -> Option<Action> {
        let Some(from) = stanza.from.as_ref().filter(|_| which == Address::To) else {
            return self.fail(StreamCondition::ImproperAddressing, out);
        };
        if !self.is_at_component(from) {
            return self.fail(StreamCondition::InvalidFrom, out);
        }
        let error = StanzaError::new(StanzaCondition::JidMalformed);
        let mut answer = stanza.error(&error)?;
        answer.from = Some(self.config.domain.clone());
        Some(Action::Answer(answer))
    }

    fn is_at_component(&self, jid: &Jid) -> bool {
        self.component
            .as_ref()
            .is_some_and(|component| jid.domain() == component.domain.domain())
    }

    fn on_close(&mut self, out: &mut Outgoing) -> Option<Action> {
        self.write_footer(out);
        self.finish(Some(None));
        None
    }

    fn fail(&mut self, error: impl Into<StreamError>, out: &mut Outgoing) -> Option<Action> {
        let error = error.into();
        self.write_header(out);
        error.write(out);
        self.write_footer(out);
        self.finish(Some(Some(error)));
        None
    }

    fn finish(&mut self, end: Option<Option<StreamError>>) {
        self.phase = Phase::Over;
        self.reader.restart(false);
        self.end = end;
    }

    /// Ends the stream from our side: header if none was sent, error, footer. `poll` gives nothing
    /// more.
    pub fn close(&mut self, error: Option<StreamError>, out: &mut Outgoing) {
        if self.phase == Phase::Over {
            return;
        }
        out.set_framing(Framing::Tcp);
        self.write_header(out);
        if let Some(error) = &error {
            error.write(out);
        }
        self.write_footer(out);
        self.finish(None);
    }

    fn write_header(&mut self, out: &mut Outgoing) {
        if self.is_header_sent {
            return;
        }
        self.is_header_sent = true;
        let component = self.component.as_ref();
        let from = component.map_or(&self.config.domain, |component| &component.domain);
        out.message(|bytes| {
            bytes.extend_from_slice(
                b"<?xml version='1.0'?><stream:stream xmlns='jabber:component:accept' \
                  xmlns:stream='http://etherx.jabber.org/streams' id='",
            );
            // Only a driver that closes before it ever polled finds no id drawn.
            let id = if self.id.is_empty() { "0" } else { &self.id };
            bytes.extend_from_slice(id.as_bytes());
            bytes.extend_from_slice(b"' from='");
            escape_attr(from.as_str(), bytes);
            bytes.extend_from_slice(b"'>");
        });
    }

    fn write_footer(&self, out: &mut Outgoing) {
        if self.is_header_sent {
            out.raw(b"</stream:stream>");
        }
    }

    /// Bytes fed and not yet consumed: the driver stops reading its socket while this is large.
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.reader.buffered()
    }

    /// The component's domain, once the driver has admitted it.
    #[must_use]
    pub fn component(&self) -> Option<&Jid> {
        let component = self.component.as_ref()?;
        (self.phase == Phase::Open).then_some(&component.domain)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
        }
        text
    })
}

/// The handshake of XEP-0114 example 3: SHA-1 over stream id and secret, as lowercase hex.
fn proof(id: &str, secret: &str) -> String {
    let hash = digest::digest(
        &digest::SHA1_FOR_LEGACY_USE_ONLY,
        format!("{id}{secret}").as_bytes(),
    );
    hex(hash.as_ref())
}

/// Compares in a time that does not depend on where the proofs differ: not the proofs but their
/// authentication codes under a key that the other side cannot choose.
fn is_proof(id: &str, secret: &str, given: &str) -> bool {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let tag = hmac::sign(&key, given.as_bytes());
    hmac::verify(&key, proof(id, secret).as_bytes(), tag.as_ref()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proof_is_sha1_over_id_and_secret_in_lowercase_hex() {
        // Computed with `printf 3BF96D32sekrit | sha1sum`.
        assert_eq!(
            proof("3BF96D32", "sekrit"),
            "5547269269506c23b408f2b69c0f74efdd03b4fb"
        );
        assert!(is_proof("3BF96D32", "sekrit", &proof("3BF96D32", "sekrit")));
        assert!(!is_proof(
            "3BF96D32",
            "sekrit",
            &proof("3BF96D33", "sekrit")
        ));
        assert!(!is_proof("3BF96D32", "sekrit", ""));
    }
}
