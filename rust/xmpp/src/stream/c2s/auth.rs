//! SASL on the stream (RFC 6120 §6), and what is allowed before login.

use super::{Action, Channel, Io, Owed, Phase, Stream};
use crate::ns;
use crate::sasl::{Answer, Exchange, ExchangeContext, Failure, Mechanism, Step};
use crate::stanza::{Stanza, StanzaKind};
use crate::stream::check::{self, Verdict};
use crate::stream::error::{StreamCondition, StreamError};
use crate::stream::framing::{Framing, Outgoing};
use crate::xml::Element;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// In-band registration (XEP-0077).
const REGISTER: &str = "jabber:iq:register";

/// One handshake.
#[derive(Debug)]
pub(super) struct Login {
    mechanism: Mechanism,
    exchange: Exchange,
    /// What the exchange wants next, when it has just been answered.
    pub(super) step: Option<Step>,
}

impl Login {
    pub(super) fn answer(&mut self, answer: Answer) {
        self.step = Some(self.exchange.answer(answer));
    }
}

/// The bytes of an element's text. RFC 6120 §6.3.5 rule 2: strict base 64, padding bits zero; a
/// single `=` is the empty message (§6.4.2).
fn decode(text: &str) -> Result<Vec<u8>, Failure> {
    match text {
        "=" => Ok(Vec::new()),
        text => STANDARD
            .decode(text)
            .map_err(|_| Failure::IncorrectEncoding),
    }
}

fn write(name: &str, data: Option<&[u8]>, out: &mut Outgoing) {
    let mut element = Element::new(ns::SASL, name.to_owned());
    if let Some(data) = data.filter(|data| !data.is_empty()) {
        element = element.with_text(STANDARD.encode(data));
    }
    out.write_element(&element);
}

impl Stream {
    pub(super) fn on_sasl(&mut self, element: &Element, io: &mut Io<'_>) -> Option<Action> {
        if self.account.is_some() {
            // No second login: RFC 6120 §4.9.3.12, "not authorized to perform an action related
            // to stream negotiation".
            return self.fail(StreamCondition::NotAuthorized, io.out);
        }
        match &*element.name {
            "auth" => self.on_auth(element, io),
            "response" => self.on_response(element, io),
            "abort" => self.sasl_failure(Failure::Aborted, io.out),
            _ => self.fail(StreamCondition::UnsupportedStanzaType, io.out),
        }
    }

    fn on_auth(&mut self, element: &Element, io: &mut Io<'_>) -> Option<Action> {
        // A new request replaces the handshake in progress (RFC 6120 §6.4.2), which has cost us as
        // much as a failed one.
        if self.login.take().is_some() && self.is_last_attempt() {
            return self.too_many_attempts(io.out);
        }
        match self.choose(element) {
            Ok((mechanism, initial)) => {
                let ctx = self.exchange_context()?;
                let (exchange, step) =
                    Exchange::start(mechanism, initial.as_deref(), &ctx, io.random);
                self.login = Some(Box::new(Login {
                    mechanism,
                    exchange,
                    step: None,
                }));
                self.on_step(step, io)
            }
            Err(failure) => self.sasl_failure(failure, io.out),
        }
    }

    /// The mechanism and the initial response of `<auth/>`.
    fn choose(&self, element: &Element) -> Result<(Mechanism, Option<Vec<u8>>), Failure> {
        if !self.is_secure && !self.config.allow_plaintext {
            return Err(Failure::EncryptionRequired);
        }
        let mechanism = element
            .attr("mechanism")
            .and_then(Mechanism::parse)
            .filter(|mechanism| self.offered().contains(mechanism))
            .ok_or(Failure::InvalidMechanism)?;
        let text = element.text();
        let initial = if text.is_empty() {
            None
        } else {
            Some(decode(&text)?)
        };
        Ok((mechanism, initial))
    }

    fn exchange_context(&self) -> Option<ExchangeContext> {
        Some(ExchangeContext {
            host: self.host.as_ref()?.domain.clone(),
            channel: self.channel.as_deref().cloned().unwrap_or_default(),
            plus_offered: self.offered().iter().any(|mechanism| mechanism.is_plus()),
            dummy_secret: self.config.dummy_secret.clone(),
            dummy_iterations: self.config.dummy_iterations,
        })
    }

    fn on_response(&mut self, element: &Element, io: &mut Io<'_>) -> Option<Action> {
        let Some(login) = &mut self.login else {
            return self.sasl_failure(Failure::MalformedRequest, io.out);
        };
        let step = match decode(&element.text()) {
            Ok(message) => login.exchange.response(&message, io.random),
            Err(failure) => Step::Failure(failure),
        };
        self.on_step(step, io)
    }

    pub(super) fn on_step(&mut self, step: Step, io: &mut Io<'_>) -> Option<Action> {
        match step {
            Step::Challenge(data) => {
                write("challenge", Some(&data), io.out);
                None
            }
            Step::Ask(query) => {
                self.owed = Some(Owed::Auth);
                Some(Action::Auth(query))
            }
            Step::Success { account, data } => {
                let login = self.login.take()?;
                self.is_anonymous = login.mechanism == Mechanism::Anonymous;
                if !self.is_claim_of(&account) {
                    return self.fail(StreamCondition::InvalidFrom, io.out);
                }
                match data.as_deref() {
                    // RFC 6120 §6.4.6: data of zero length is a single equals sign.
                    Some([]) => io
                        .out
                        .write_element(&Element::new(ns::SASL, "success").with_text("=")),
                    data => write("success", data, io.out),
                }
                self.account = Some(account.clone());
                self.restart_after_login();
                Some(Action::Authenticated(account, login.mechanism))
            }
            Step::Failure(failure) => self.sasl_failure(failure, io.out),
        }
    }

    /// RFC 6120 §6.4.6: the old stream is replaced. What the client sent early belongs to the new.
    fn restart_after_login(&mut self) {
        self.reader.restart(true);
        self.is_skipping_space = self.framing == Framing::Tcp && self.reader.buffered() == 0;
        self.reader.set_limits(self.config.limits);
        self.phase = Phase::Header;
        self.is_header_sent = false;
        // The bindings and names have served; a session lives long.
        if let Some(channel) = &mut self.channel {
            **channel = Channel {
                secure: channel.secure,
                sni: channel.sni.take(),
                ..Channel::default()
            };
        }
    }

    fn sasl_failure(&mut self, failure: Failure, out: &mut Outgoing) -> Option<Action> {
        self.login = None;
        out.write_element(
            &Element::new(ns::SASL, "failure").with_child(Element::new(ns::SASL, failure.name())),
        );
        let is_last = if failure == Failure::TemporaryAuthFailure {
            self.is_last_deferral()
        } else {
            self.is_last_attempt()
        };
        if is_last {
            return self.too_many_attempts(out);
        }
        None
    }

    /// Counts a failed attempt; true if it was the last one allowed.
    fn is_last_attempt(&mut self) -> bool {
        self.failed_logins = self.failed_logins.saturating_add(1);
        self.config.auth_attempts != 0 && self.failed_logins >= self.config.auth_attempts
    }

    /// Counts an attempt that could not be judged. An outage of ours, or of an address that must wait,
    /// is no failure of the client's; but who goes on asking shall pay for a connection each time.
    fn is_last_deferral(&mut self) -> bool {
        self.deferred_logins = self.deferred_logins.saturating_add(1);
        self.config.auth_attempts != 0 && self.deferred_logins >= self.config.auth_attempts
    }

    /// RFC 6120 §6.4.5.
    fn too_many_attempts(&mut self, out: &mut Outgoing) -> Option<Action> {
        let error = StreamError::from(StreamCondition::PolicyViolation)
            .with_text("too many failed authentication attempts");
        self.fail(error, out)
    }

    /// Only registration may happen before login (XEP-0077 #usecases-register).
    pub(super) fn on_stanza_before_login(
        &mut self,
        mut stanza: Stanza,
        out: &mut Outgoing,
    ) -> Option<Action> {
        let domain = self.host.as_ref().map(|host| host.domain.clone());
        let is_for_us = stanza.to.is_none() || stanza.to == domain;
        let is_registration = stanza.kind == StanzaKind::Iq
            && matches!(stanza.type_str(), "get" | "set")
            && stanza.has_ns(REGISTER);
        if !(is_registration && is_for_us && self.is_registration_offered()) {
            return self.fail(StreamCondition::NotAuthorized, out);
        }
        stanza.from = None;
        stanza.to = domain;
        match check::check(&stanza) {
            Verdict::Pass => {
                self.owed = Some(Owed::Register);
                Some(Action::Register(stanza))
            }
            verdict => {
                if let Some(answer) = check::answer(&stanza, &verdict) {
                    out.write_stanza(&answer);
                }
                None
            }
        }
    }
}
