//! The server side of a client's stream (RFC 6120, RFC 7395).

use super::error::StreamError;
use super::framing::{Framing, Outgoing};
use crate::jid::Jid;
use crate::stanza::{Stanza, StanzaError};
use crate::xml::Limits;
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
}

/// What the listener and the limits say about a stream.
#[derive(Debug)]
pub struct Config {
    /// Served domains.
    pub hosts: Vec<Arc<HostConfig>>,
    /// Before login.
    pub limits_before_login: Limits,
    /// After login.
    pub limits: Limits,
    /// SASL attempts a stream (RFC 6120 §6.4.5).
    pub auth_attempts: u32,
    /// Whether login is allowed without TLS.
    pub allow_plaintext: bool,
    /// Whether STARTTLS is offered on this listener; direct TLS and WebSocket never do.
    pub starttls: bool,
    /// Seconds a session can be resumed; 0 turns resumption off.
    pub sm_resume_seconds: u32,
    /// XEP-0478 `idle-seconds`, 0 leaves it out.
    pub idle_seconds: u32,
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

/// One client stream, header to close.
#[derive(Debug)]
pub struct Stream {
    _config: Arc<Config>,
}

impl Stream {
    /// A stream that waits for the client's header. `stream_ids` yields unguessable ids.
    #[must_use]
    pub fn new(_config: Arc<Config>, _framing: Framing, _channel: Channel) -> Self {
        todo!()
    }
    /// Adds bytes (TCP) or one WebSocket message.
    pub fn feed(&mut self, _bytes: &[u8]) {
        todo!()
    }
    /// The next thing to do, `None` if more bytes or an owed answer are needed. What must be
    /// written goes to `out`.
    pub fn poll(&mut self, _random: &mut dyn FnMut(&mut [u8]), _out: &mut Outgoing) -> Option<Action> {
        todo!()
    }
    /// TLS stands after [`Action::StartTls`].
    pub fn tls_started(&mut self, _channel: Channel) {
        todo!()
    }
    /// Answers [`Action::Auth`].
    pub fn auth_answer(&mut self, _answer: crate::sasl::Answer) {
        todo!()
    }
    /// Answers [`Action::Bind`].
    pub fn bound(&mut self, _result: Result<Jid, StanzaError>, _out: &mut Outgoing) {
        todo!()
    }
    /// Answers [`Action::Register`].
    pub fn answer_iq(&mut self, _iq: &Stanza, _out: &mut Outgoing) {
        todo!()
    }
    /// Ends the stream from our side: header if none was sent, error, footer (RFC 6120 §4.9.1).
    pub fn close(&mut self, _error: Option<StreamError>, _out: &mut Outgoing) {
        todo!()
    }
    /// Bytes fed and not yet consumed: the driver stops reading its socket while this is large.
    #[must_use]
    pub fn buffered(&self) -> usize {
        todo!()
    }
}
