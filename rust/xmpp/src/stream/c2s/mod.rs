//! The server side of a client's stream (RFC 6120, RFC 7395).

mod auth;
mod bound;
mod negotiate;

use super::error::{StreamCondition, StreamError};
use super::framing::{Framing, Outgoing};
use super::sm::{SmEnabled, SmFailed};
use crate::jid::Jid;
use crate::ns;
use crate::stanza::{Stanza, StanzaCondition, StanzaError};
use crate::xml::{Element, Event, Limits, Reader};
use std::fmt;
use std::sync::Arc;

/// What a served domain offers; shared by its streams and replaced on reload.
#[derive(Debug, Clone)]
pub struct HostConfig {
    /// The prepared domain.
    pub domain: Jid,
    /// SASL mechanisms in the server's order of preference, as configured: `-PLUS` ones are offered
    /// only where a channel binding exists, PLAIN only on a secure channel or with `allow_plaintext`.
    pub mechanisms: Vec<crate::sasl::Mechanism>,
    /// Further stream features after login, serialised and self-contained (entity capabilities of
    /// the server and the like).
    pub extra_features: Vec<u8>,
    /// Whether accounts may be made in-band: announces `http://jabber.org/features/iq-register`
    /// and lets IQs in `jabber:iq:register` through before login (XEP-0077).
    pub registration: bool,
    /// Whether stream management is offered (XEP-0198).
    pub is_sm_on: bool,
    /// Whether client state indication is offered (XEP-0352).
    pub is_csi_on: bool,
}

/// What the listener and the limits say about a stream.
pub struct Config {
    /// Served domains. The first speaks for the server where the client names none or a wrong one.
    pub hosts: Vec<Arc<HostConfig>>,
    /// Before login.
    pub limits_before_login: Limits,
    /// After login.
    pub limits: Limits,
    /// SASL attempts a stream (RFC 6120 §6.4.5); 0: no limit.
    pub auth_attempts: u32,
    /// Whether login is allowed without TLS.
    pub allow_plaintext: bool,
    /// Whether STARTTLS is offered on this listener; direct TLS and WebSocket never do.
    pub starttls: bool,
    /// Seconds a session can be resumed; 0 turns resumption off.
    pub sm_resume_seconds: u32,
    /// XEP-0478 `idle-seconds`, 0 leaves it out.
    pub idle_seconds: u32,
    /// Secret from which SCRAM makes up keys for accounts that do not exist; see
    /// [`crate::sasl::ExchangeContext`].
    pub dummy_secret: Arc<[u8]>,
    /// Iterations that such accounts seem to have.
    pub dummy_iterations: u32,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the secret.
        f.debug_struct("Config")
            .field("hosts", &self.hosts)
            .field("starttls", &self.starttls)
            .field("allow_plaintext", &self.allow_plaintext)
            .finish_non_exhaustive()
    }
}

/// What the driver knows of the secure channel.
#[derive(Debug, Clone, Default)]
pub struct Channel {
    /// Whether there is TLS below (or a proxy that says so).
    pub secure: bool,
    /// `tls-exporter` keying material (RFC 9266), for TLS 1.3 or 1.2 with extended master secret.
    pub exporter: Option<Box<[u8]>>,
    /// Hash of our certificate for `tls-server-end-point` (RFC 5929 §4).
    pub server_end_point: Option<Box<[u8]>>,
    /// JIDs of the client certificate (id-on-xmppAddr) once it verified; enables EXTERNAL.
    pub client_jids: Vec<String>,
    /// The server name that TLS asked for (SNI), if any.
    pub sni: Option<String>,
}

/// What the stream asks of its driver. Those marked *owes* stop the stream until answered.
#[derive(Debug)]
pub enum Action {
    /// Start TLS for this domain after flushing `out`; *owes* [`Stream::tls_started`]. Bytes that
    /// were buffered behind `<starttls/>` are already thrown away.
    StartTls(Jid),
    /// Fetch what a SASL exchange needs; *owes* [`Stream::auth_answer`].
    Auth(crate::sasl::Query),
    /// The client has proved to be this account (bare JID; for ANONYMOUS a fresh one).
    Authenticated(Jid, crate::sasl::Mechanism),
    /// Bind a resource; *owes* [`Stream::bound`].
    Bind {
        /// The account.
        account: Jid,
        /// What the client asked for, prepared; `None`: the server chooses.
        resource: Option<String>,
    },
    /// A stanza of the bound session, `from` set to the full JID (a wrong one has been refused).
    Stanza(Stanza),
    /// A stanza of the bound session that the stream has judged by itself: it counts as received
    /// and handled (XEP-0198). What it is answered with, if anything, goes out like any other
    /// stanza to this session, so that it is counted and queued as such.
    Answer(Option<Stanza>),
    /// An IQ in `jabber:iq:register` before login, `to` the domain; *owes* [`Stream::answer_iq`].
    Register(Stanza),
    /// `<enable/>`: *owes* [`Stream::sm_enabled`].
    SmEnable {
        /// The client wants to be able to resume.
        resume: bool,
        /// The longest time it asks for, in seconds.
        max: Option<u32>,
    },
    /// `<resume/>`: *owes* [`Stream::sm_resumed`].
    SmResume {
        /// The account that authenticated.
        account: Jid,
        /// The id of the session to resume.
        previd: String,
        /// What the client has handled.
        h: u32,
    },
    /// `<a h=''/>` of the peer.
    SmAck(u32),
    /// `<r/>` of the peer: the driver writes `<a/>`.
    SmRequest,
    /// `<active/>` (true) or `<inactive/>`.
    Csi(bool),
    /// The stream is over; the driver flushes `out`, then closes. `None`: closed by the peer in order.
    Close(Option<StreamError>),
}

/// An answer that the driver owes. The stream reads nothing while there is one.
#[derive(Debug)]
enum Owed {
    Tls,
    Auth,
    Bind(Box<Stanza>),
    Register,
    SmEnable,
    SmResume(String),
}

/// Where the stream stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Waits for a header: at the start, after TLS, after SASL.
    Header,
    /// Features are sent, nobody is logged in.
    Login,
    /// Logged in, no resource bound.
    Bind,
    /// A session.
    Bound,
    /// Over; nothing is read or written any more.
    Over,
}

/// How often a client may fail to bind or resume on one stream (RFC 6120 §7.7.3: at least 5, no
/// more than 10).
const BIND_ATTEMPTS: u32 = 10;

/// Bytes of randomness in a stream id (RFC 6120 §4.7.3).
const ID_BYTES: usize = 18;

/// One client stream, header to close.
///
/// Timeouts are the driver's: it closes with the error that fits. It should poll once before it
/// feeds, so that even a stream closed before the client's first byte has a random id.
#[derive(Debug)]
pub struct Stream {
    config: Arc<Config>,
    framing: Framing,
    is_secure: bool,
    /// Until a session begins: that lives long and needs none of it.
    channel: Option<Box<Channel>>,
    reader: Reader,
    phase: Phase,
    owed: Option<Owed>,
    /// Chosen by the header's `to`.
    host: Option<Arc<HostConfig>>,
    /// `from` of the last header, bare.
    claimed: Option<Jid>,
    login: Option<Box<auth::Login>>,
    failed_logins: u32,
    /// Answered with `temporary-auth-failure`.
    deferred_logins: u32,
    failed_binds: u32,
    account: Option<Jid>,
    /// The account was made up by us (ANONYMOUS): the client cannot have known it.
    is_anonymous: bool,
    session: Option<Jid>,
    is_sm_on: bool,
    /// Id of the next header; empty until drawn.
    next_id: String,
    is_header_sent: bool,
    /// Behind login, up to the new header: white space was a keepalive of the old stream, not the
    /// start of a document, where no XML declaration could follow it.
    is_skipping_space: bool,
    /// We have sent our footer and wait for the peer's (RFC 6120 §4.4).
    is_closing: bool,
    /// The last action, when it is due.
    end: Option<Option<StreamError>>,
}

/// What [`Stream::poll`] was called with.
struct Io<'a> {
    random: &'a mut dyn FnMut(&mut [u8]),
    out: &'a mut Outgoing,
}

impl Stream {
    /// A stream that waits for the client's header.
    #[must_use]
    pub fn new(config: Arc<Config>, framing: Framing, channel: Channel) -> Self {
        let reader = match framing {
            Framing::Tcp | Framing::Relay => Reader::tcp(config.limits_before_login),
            Framing::WebSocket => Reader::websocket(config.limits_before_login),
        };
        Self {
            config,
            framing,
            is_secure: channel.secure,
            channel: Some(Box::new(channel)),
            reader,
            phase: Phase::Header,
            owed: None,
            host: None,
            claimed: None,
            login: None,
            failed_logins: 0,
            deferred_logins: 0,
            failed_binds: 0,
            account: None,
            is_anonymous: false,
            session: None,
            is_sm_on: false,
            next_id: String::new(),
            is_header_sent: false,
            is_skipping_space: false,
            is_closing: false,
            end: None,
        }
    }

    /// Adds bytes (TCP) or one WebSocket message.
    ///
    /// Between [`Action::StartTls`] and [`Stream::tls_started`] they are thrown away: they came
    /// without protection behind `<starttls/>` (RFC 6120 §5.4.3.3).
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.phase == Phase::Over || matches!(self.owed, Some(Owed::Tls)) {
            return;
        }
        let bytes = if self.is_skipping_space {
            bytes.trim_ascii_start()
        } else {
            bytes
        };
        self.is_skipping_space &= bytes.is_empty();
        self.reader.feed(bytes);
    }

    /// The next thing to do, `None` if more bytes or an owed answer are needed. What must be
    /// written goes to `out`, which takes on the stream's framing. `random` fills a slice from a
    /// cryptographic generator.
    pub fn poll(
        &mut self,
        random: &mut dyn FnMut(&mut [u8]),
        out: &mut Outgoing,
    ) -> Option<Action> {
        if self.is_closing {
            // After our footer nothing may follow, and yet what the client still sends counts.
            let mut unsent = Outgoing::new(self.framing);
            return self.run(&mut Io {
                random,
                out: &mut unsent,
            });
        }
        out.set_framing(self.framing);
        if self.next_id.is_empty() && self.phase == Phase::Header {
            self.next_id = stream_id(random);
        }
        self.run(&mut Io { random, out })
    }

    fn run(&mut self, io: &mut Io<'_>) -> Option<Action> {
        loop {
            if self.phase == Phase::Over {
                return self.end.take().map(Action::Close);
            }
            if self.owed.is_some() {
                return None;
            }
            let step = self.login.as_mut().and_then(|login| login.step.take());
            let action = match step {
                Some(step) => self.on_step(step, io),
                None => match self.reader.next() {
                    Ok(Some(event)) => self.on_event(event, io),
                    Ok(None) => return None,
                    Err(error) => self.fail(error, io.out),
                },
            };
            if action.is_some() {
                return action;
            }
        }
    }

    fn on_event(&mut self, event: Event, io: &mut Io<'_>) -> Option<Action> {
        match (event, self.phase) {
            (Event::Stanza(stanza), Phase::Bound) => self.on_stanza(stanza, io.out),
            (Event::Malformed(stanza, which), Phase::Bound) => {
                self.on_malformed(stanza, which, io.out)
            }
            (Event::Open(header), Phase::Header) => self.on_header(header, io.out),
            (Event::Open(_), _) => self.fail(StreamCondition::BadFormat, io.out),
            (Event::Close, _) => self.on_close(io.out),
            (Event::Element(element), Phase::Login | Phase::Bind | Phase::Bound) => {
                self.on_element(&element, io)
            }
            (Event::Stanza(stanza), Phase::Login) => self.on_stanza_before_login(stanza, io.out),
            (Event::Stanza(stanza), Phase::Bind) => self.on_bind(stanza, io.out),
            // RFC 6120 §4.9.3.12; on WebSocket also what comes before `<open/>`.
            (Event::Stanza(_) | Event::Malformed(..) | Event::Element(_), _) => {
                self.fail(StreamCondition::NotAuthorized, io.out)
            }
        }
    }

    fn on_element(&mut self, element: &Element, io: &mut Io<'_>) -> Option<Action> {
        match &*element.ns {
            ns::SM => self.on_sm(element, io.out),
            ns::CSI => self.on_csi(element, io.out),
            ns::SASL => self.on_sasl(element, io),
            ns::TLS => self.on_tls(element, io.out),
            // RFC 6120 §4.9.1.1: the receiver of an error closes too.
            ns::STREAM if element.name == "error" => self.on_close(io.out),
            _ => self.fail(StreamCondition::UnsupportedStanzaType, io.out),
        }
    }

    /// The peer has closed: our footer, unless it went first (RFC 6120 §4.4).
    fn on_close(&mut self, out: &mut Outgoing) -> Option<Action> {
        if self.is_header_sent || self.framing == Framing::WebSocket {
            self.write_footer(out);
        }
        self.finish(Some(None));
        None
    }

    /// Ends the stream with an error of the peer's or ours. Always `None`: the action comes from
    /// the loop.
    fn fail(&mut self, error: impl Into<StreamError>, out: &mut Outgoing) -> Option<Action> {
        let error = error.into();
        if !self.is_header_sent {
            self.write_header(out);
        }
        error.write(out);
        self.write_footer(out);
        self.finish(Some(Some(error)));
        None
    }

    fn finish(&mut self, end: Option<Option<StreamError>>) {
        self.phase = Phase::Over;
        self.owed = None;
        self.login = None;
        self.reader.restart(false);
        self.end = end;
    }

    /// Takes what the driver owed, if it is what it answers; otherwise the answer is void, because
    /// the stream has ended meanwhile.
    fn settle(&mut self, is_answered: impl FnOnce(&Owed) -> bool) -> Option<Owed> {
        let owed = self.owed.take_if(|owed| is_answered(owed))?;
        (!self.is_closing).then_some(owed)
    }

    /// Logins that failed on this stream so far.
    #[must_use]
    pub fn failed_logins(&self) -> u32 {
        self.failed_logins
    }

    /// TLS stands after [`Action::StartTls`].
    pub fn tls_started(&mut self, channel: Channel) {
        if self.settle(|owed| matches!(owed, Owed::Tls)).is_some() {
            self.is_secure = channel.secure;
            self.channel = Some(Box::new(channel));
        }
    }

    /// Answers [`Action::Auth`].
    pub fn auth_answer(&mut self, answer: crate::sasl::Answer) {
        if self.settle(|owed| matches!(owed, Owed::Auth)).is_some()
            && let Some(login) = &mut self.login
        {
            login.answer(answer);
        }
    }

    /// Answers [`Action::Bind`]: the full JID, or why not, which lets the client try again.
    pub fn bound(&mut self, result: Result<Jid, StanzaError>, out: &mut Outgoing) {
        if let Some(Owed::Bind(iq)) = self.settle(|owed| matches!(owed, Owed::Bind(_))) {
            out.set_framing(self.framing);
            self.on_bound(&iq, result, out);
        }
    }

    /// Answers [`Action::Register`].
    pub fn answer_iq(&mut self, iq: &Stanza, out: &mut Outgoing) {
        if self.settle(|owed| matches!(owed, Owed::Register)).is_some() {
            out.set_framing(self.framing);
            out.write_stanza(iq);
        }
    }

    /// Answers [`Action::SmEnable`]. Stanzas are counted from here on, both ways.
    pub fn sm_enabled(&mut self, result: Result<SmEnabled, StanzaCondition>, out: &mut Outgoing) {
        if self.settle(|owed| matches!(owed, Owed::SmEnable)).is_some() {
            out.set_framing(self.framing);
            self.on_sm_enabled(result, out);
        }
    }

    /// Answers [`Action::SmResume`]: the full JID of the resumed session and how many of the
    /// client's stanzas it has handled. On failure the client may bind a resource.
    pub fn sm_resumed(&mut self, result: Result<(Jid, u32), SmFailed>, out: &mut Outgoing) {
        if let Some(Owed::SmResume(previd)) = self.settle(|owed| matches!(owed, Owed::SmResume(_)))
        {
            out.set_framing(self.framing);
            self.on_sm_resumed(result, &previd, out);
        }
    }

    /// Ends the stream from our side: header if none was sent, error, footer (RFC 6120 §4.9.1).
    ///
    /// With an error the stream is over and `poll` gives nothing more. Without one a bound
    /// session's `poll` still gives what the client had sent, up to its own footer, which ends in
    /// [`Action::Close`] (RFC 6120 §4.4); the driver waits for it for a moment.
    pub fn close(&mut self, error: Option<StreamError>, out: &mut Outgoing) {
        if self.phase == Phase::Over || self.is_closing {
            return;
        }
        if matches!(self.owed, Some(Owed::Tls)) {
            // Where TLS failed there is no stream to say it on (RFC 6120 §5.4.3.2).
            self.finish(None);
            return;
        }
        out.set_framing(self.framing);
        if !self.is_header_sent {
            self.write_header(out);
        }
        if let Some(error) = &error {
            error.write(out);
        }
        self.write_footer(out);
        if error.is_none() && self.phase == Phase::Bound {
            self.is_closing = true;
        } else {
            self.finish(None);
        }
    }

    /// Bytes fed and not yet consumed: the driver stops reading its socket while this is large.
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.reader.buffered()
    }

    /// The full JID, once a resource is bound or a session resumed.
    #[must_use]
    pub fn session(&self) -> Option<&Jid> {
        self.session.as_ref()
    }

    /// The account, once it is proved.
    #[must_use]
    pub fn account(&self) -> Option<&Jid> {
        self.account.as_ref()
    }

    /// Whether the stream has ended; after [`Action::Close`] nothing comes any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }
}

fn stream_id(random: &mut dyn FnMut(&mut [u8])) -> String {
    use base64::Engine;
    let mut bytes = [0; ID_BYTES];
    random(&mut bytes);
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}
