//! What connections ask of the node. Implemented by `antiphon-node`; nothing here decides.

use crate::session::Session;
use antiphon_xmpp::Jid;
use antiphon_xmpp::sasl::{Answer, Query};
use antiphon_xmpp::stanza::{Stanza, StanzaCondition, StanzaError};
use antiphon_xmpp::stream::sm::AckAhead;
use antiphon_xmpp::stream::{Framing, StreamError};
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

/// A boxed answer that comes later.
pub type Later<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Whether the session's next stanza may be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// Yes.
    Go,
    /// Not before [`Session::release`] (RFC 6120 §10.1).
    Hold,
}

/// What became of `<enable/>` (XEP-0198 #enable).
#[derive(Debug)]
pub struct Enabled {
    /// Resumption id and how long it is good for, seconds.
    pub resume: Option<(String, u32)>,
    /// Where to come first for it.
    pub location: Option<String>,
}

/// Why a stream could not be resumed (XEP-0198 #resumption).
#[derive(Debug)]
pub enum ResumeFailed {
    /// `<failed/>`; the client may bind instead.
    Failed {
        /// `item-not-found` and the like.
        condition: StanzaCondition,
        /// What the server had handled of the old stream, if it still knows.
        h: Option<u32>,
    },
    /// The client confirms more than it was sent: a stream error.
    AckAhead(AckAhead),
}

/// Why a client's session lost its connection.
#[derive(Debug)]
pub enum Ended {
    /// The client closed its stream, or we did with an error: the session is over.
    Closed(Option<StreamError>),
    /// The connection broke: the session may be resumed.
    Lost,
}

/// An HTTP request that Rust does not answer itself.
#[derive(Debug)]
pub struct HttpRequest {
    /// Method.
    pub method: String,
    /// Path, still percent-encoded.
    pub path: String,
    /// Query without `?`.
    pub query: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// Whole body, bounded by the listener.
    pub body: bytes::Bytes,
    /// Who asks.
    pub peer: SocketAddr,
    /// Whether the connection is TLS.
    pub is_secure: bool,
}

/// Its answer.
#[derive(Debug)]
pub struct HttpResponse {
    /// Status code.
    pub status: u16,
    /// Headers.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: bytes::Bytes,
}

/// A login attempt's or request's origin, for throttling.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    /// Remote address.
    pub ip: IpAddr,
}

/// The node, as its sockets see it. Methods return at once.
pub trait Gateway: Send + Sync + 'static {
    /// Answers what a SASL exchange needs.
    fn auth(&self, query: Query, peer: Peer) -> Later<Answer>;
    /// Whether this address may try to log in now (`auth_failures_per_minute`).
    fn may_authenticate(&self, peer: Peer) -> bool;
    /// A login failed.
    fn auth_failed(&self, peer: Peer);
    /// A login succeeded.
    fn authenticated(&self, account: &Jid, mechanism: antiphon_xmpp::sasl::Mechanism);
    /// Binds a resource: makes the session and enters it at its entity.
    fn bind(
        &self,
        account: Jid,
        resource: Option<String>,
        framing: Framing,
    ) -> Later<Result<Arc<Session>, StanzaError>>;
    /// A stanza of a bound session; `seq` is its number in the stream, 0 without stream management.
    fn stanza(&self, session: &Arc<Session>, stanza: Stanza, seq: u64) -> Flow;
    /// An in-band registration request before login.
    fn register(&self, iq: Stanza, peer: Peer) -> Later<Stanza>;
    /// Turns stream management on for a session.
    fn sm_enable(&self, session: &Arc<Session>, resume: bool, max: Option<u32>) -> Enabled;
    /// Finds a session to resume, takes it from its old connection, and applies the client's `h`.
    /// On success the session awaits [`Session::attach`].
    fn sm_resume(
        &self,
        account: Jid,
        previd: String,
        h: u32,
    ) -> Later<Result<(Arc<Session>, u32), ResumeFailed>>;
    /// The session's connection is gone.
    fn ended(&self, session: Arc<Session>, how: Ended);
    /// Offline messages the client has received for good.
    fn offline_received(&self, account: &Jid, ids: Vec<u64>);
    /// An HTTP request for the ASGI application.
    fn http(&self, request: HttpRequest) -> Later<HttpResponse>;
    /// A component authenticated for this domain.
    ///
    /// # Errors
    /// `conflict` when another connection serves it.
    fn component_up(&self, domain: &Jid) -> Result<Arc<Session>, StreamError>;
    /// A stanza from a component.
    fn component_stanza(&self, session: &Arc<Session>, stanza: Stanza);
    /// A component's connection is gone.
    fn component_down(&self, session: &Arc<Session>);
    /// Whether the node is going down: every stream is ended with `system-shutdown`.
    fn is_stopping(&self) -> bool;
    /// Milliseconds since 1970.
    fn now_ms(&self) -> u64;
    /// Fills with random bytes.
    fn random(&self, out: &mut [u8]);
    /// Counts something; cheap.
    fn count(&self, what: Count);
}

/// What connections count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// A connection was accepted.
    Accepted,
    /// A connection was refused by a limit.
    Refused,
    /// A connection ended.
    Ended,
    /// Bytes read from sockets.
    BytesIn(usize),
    /// Bytes written to sockets.
    BytesOut(usize),
    /// A TLS handshake failed.
    TlsFailed,
    /// A connection's task panicked.
    Panicked,
    /// A stream was ended by us with this condition.
    StreamError(&'static str),
    /// A client was slowed down by its rate limit.
    Throttled,
}
