//! HTTP: WebSocket streams (RFC 7395) are served here, any other request goes to the ASGI
//! application as one bounded event.

use crate::addresses::AddressGuard;
use crate::admission::Turn;
use crate::conn::Conn;
use crate::gateway::{Count, HttpRequest, HttpResponse};
use crate::listener::{ListenerConfig, Net, TlsMode};
use crate::tls::Protocol;
use crate::tls_io::TlsIo;
use crate::transport::Transport;
use crate::ws;
use antiphon_xmpp::stream::c2s::Channel;
use antiphon_xmpp::stream::framing::Framing;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// From one request to the next, and for the whole head of a request.
const HEAD_SECONDS: u64 = 15;
/// For the body of a request.
const BODY_SECONDS: u64 = 30;
/// For the TLS handshake.
const HANDSHAKE_SECONDS: u64 = 15;
/// Bytes of a request's head.
const HEAD_BYTES: usize = 16 * 1024;

trait HttpIo: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// The connection, and what was read of it and not given out.
    fn into_transport(self) -> (Transport, Vec<u8>);
}

impl HttpIo for TcpStream {
    fn into_transport(self) -> (Transport, Vec<u8>) {
        (Transport::plain(self), Vec::new())
    }
}

impl HttpIo for TlsIo {
    fn into_transport(self) -> (Transport, Vec<u8>) {
        self.into_parts()
    }
}

#[derive(Clone)]
struct Site {
    net: Arc<Net>,
    config: Arc<ListenerConfig>,
    peer: SocketAddr,
    channel: Arc<Channel>,
    /// Shared with the WebSocket connection that this one may become.
    guard: Arc<AddressGuard>,
}

/// Serves one HTTP connection until it closes or becomes a WebSocket.
pub(crate) async fn serve(
    net: Arc<Net>,
    config: Arc<ListenerConfig>,
    io: TcpStream,
    peer: SocketAddr,
    (guard, turn): (Arc<AddressGuard>, Turn),
) {
    let site = Site {
        net,
        config,
        peer,
        channel: Arc::default(),
        guard,
    };
    let gateway = Arc::clone(&site.net.gateway);
    if site.config.tls == TlsMode::Direct {
        serve_tls(site, io, turn).await;
    } else {
        drop(turn);
        serve_io(site, io).await;
    }
    gateway.count(Count::Ended);
}

async fn serve_tls(mut site: Site, io: TcpStream, mut turn: Turn) {
    let hosts = site.net.tls.read().clone();
    let Some(config) = hosts.config(None, Protocol::Http) else {
        return;
    };
    let mut transport = Transport::plain(io);
    if transport.start_tls(config).is_err() {
        return;
    }
    let mut early = Vec::new();
    let accepting = turn.gate(transport.handshake(&mut early));
    let accepted = tokio::time::timeout(Duration::from_secs(HANDSHAKE_SECONDS), accepting).await;
    drop(turn);
    let Some(tls) = transport.tls().filter(|_| matches!(accepted, Ok(Ok(())))) else {
        site.net.gateway.count(Count::TlsFailed);
        return;
    };
    // A browser cannot see TLS, so no channel binding is offered (XEP-0440 #rules).
    site.channel = Arc::new(Channel {
        exporter: None,
        server_end_point: None,
        ..hosts.channel(tls, None)
    });
    serve_io(site, TlsIo::new(transport, early)).await;
}

async fn serve_io<I: HttpIo>(site: Site, io: I) {
    let service = service_fn(move |request| {
        let site = site.clone();
        async move { Ok::<_, Infallible>(answer::<I>(site, request).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(HEAD_SECONDS))
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades()
        .await;
    // Broken connections and bad requests were answered as far as possible.
    let _ = served;
}

async fn answer<I: HttpIo>(site: Site, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    if !site.config.paths.iter().any(|prefix| serves(prefix, path)) {
        return plain(StatusCode::NOT_FOUND, "not found\n");
    }
    if path == "/ws" {
        return upgrade::<I>(site, request);
    }
    forward(&site, request).await
}

/// Whether a configured path covers this one: itself and what lies below it.
fn serves(prefix: &str, path: &str) -> bool {
    path.strip_prefix(prefix.trim_end_matches('/'))
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

fn has_token(headers: &HeaderMap, name: header::HeaderName, token: &str) -> bool {
    let values = headers
        .get_all(name)
        .into_iter()
        .filter_map(|v| v.to_str().ok());
    values
        .flat_map(|v| v.split(','))
        .any(|t| t.trim().eq_ignore_ascii_case(token))
}

fn upgrade<I: HttpIo>(site: Site, mut request: Request<Incoming>) -> Response<Full<Bytes>> {
    let headers = request.headers();
    let is_websocket = request.method() == Method::GET
        && has_token(headers, header::CONNECTION, "upgrade")
        && has_token(headers, header::UPGRADE, "websocket");
    if !is_websocket {
        return plain(
            StatusCode::UPGRADE_REQUIRED,
            "this address speaks XMPP over WebSocket (RFC 7395)\n",
        );
    }
    if !has_token(headers, header::SEC_WEBSOCKET_VERSION, "13") {
        let mut response = plain(StatusCode::UPGRADE_REQUIRED, "unknown WebSocket version\n");
        response.headers_mut().insert(
            header::SEC_WEBSOCKET_VERSION,
            HeaderValue::from_static("13"),
        );
        return response;
    }
    if !has_token(headers, header::SEC_WEBSOCKET_PROTOCOL, "xmpp") {
        return plain(
            StatusCode::BAD_REQUEST,
            "the WebSocket subprotocol must be xmpp\n",
        );
    }
    let Some(accept) = headers.get(header::SEC_WEBSOCKET_KEY).and_then(accept_key) else {
        return plain(StatusCode::BAD_REQUEST, "Sec-WebSocket-Key is missing\n");
    };
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        if let Ok(upgraded) = upgraded.await
            && let Ok(parts) = upgraded.downcast::<TokioIo<I>>()
        {
            let (transport, unread) = parts.io.into_inner().into_transport();
            websocket(&site, transport, &[&parts.read_buf[..], &unread].concat());
        }
    });
    let mut response = plain(StatusCode::SWITCHING_PROTOCOLS, "");
    let headers = response.headers_mut();
    headers.clear();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(
        header::SEC_WEBSOCKET_PROTOCOL,
        HeaderValue::from_static("xmpp"),
    );
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    response
}

/// RFC 6455 §4.2.2, item 5.4.
fn accept_key(key: &HeaderValue) -> Option<HeaderValue> {
    let decoded = STANDARD
        .decode(key.as_bytes())
        .ok()
        .filter(|raw| raw.len() == 16);
    decoded?;
    let mut digest = ring::digest::Context::new(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY);
    digest.update(key.as_bytes());
    digest.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    HeaderValue::from_str(&STANDARD.encode(digest.finish())).ok()
}

/// Hands over to a task that is no larger than the connection.
fn websocket(site: &Site, transport: Transport, early: &[u8]) {
    let net = &site.net;
    let Some(turn) = net.admission().enter() else {
        net.gateway.count(Count::Refused);
        return;
    };
    let max_message = net.c2s.read().other.limits.stanza_bytes;
    let client = net.client(
        site.peer.ip(),
        Framing::WebSocket,
        (*site.channel).clone(),
        false,
    );
    let mut conn = Conn::new(
        transport,
        Some(ws::Decoder::new(max_message)),
        client,
        net.shared(),
    );
    conn.feed(early);
    tokio::spawn(conn.guarded_by(Arc::clone(&site.guard)).in_turn(turn));
}

async fn forward(site: &Site, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let limit = site.net.limits().http_body_bytes;
    let reading = Limited::new(body, limit).collect();
    let body = match tokio::time::timeout(Duration::from_secs(BODY_SECONDS), reading).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(e)) if e.is::<http_body_util::LengthLimitError>() => {
            return plain(StatusCode::PAYLOAD_TOO_LARGE, "the request is too large\n");
        }
        Ok(Err(_)) => return plain(StatusCode::BAD_REQUEST, "the request is broken\n"),
        Err(_) => return plain(StatusCode::REQUEST_TIMEOUT, "the request came too slowly\n"),
    };
    let headers = head.headers.iter();
    let headers =
        headers.filter_map(|(k, v)| Some((k.as_str().to_owned(), v.to_str().ok()?.to_owned())));
    let request = HttpRequest {
        method: head.method.as_str().to_owned(),
        path: head.uri.path().to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        headers: headers.collect(),
        body,
        peer: site.peer,
        is_secure: site.channel.secure,
    };
    respond(site.net.gateway.http(request).await)
}

fn respond(answer: HttpResponse) -> Response<Full<Bytes>> {
    let mut builder = Response::builder().status(answer.status);
    for (name, value) in &answer.headers {
        builder = builder.header(name, value);
    }
    let broken = || {
        plain(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the application's answer is broken\n",
        )
    };
    builder
        .body(Full::new(answer.body))
        .unwrap_or_else(|_| broken())
}
