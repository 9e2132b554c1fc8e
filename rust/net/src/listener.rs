//! Accepting connections, within the limits.

use crate::addresses::{AddressGuard, Addresses};
use crate::admission::{Admission, LoginLimits, Turn, network};
use crate::client::{Bounds, Client, ClientLimits};
use crate::component::Component;
use crate::conn::{Conn, Shared};
use crate::gateway::{Count, Gateway, Peer};
use crate::http;
use crate::pace::Paces;
use crate::timers::Alarms;
use crate::tls::{Protocol, TlsHosts};
use crate::transport::Transport;
use antiphon_xmpp::stream::c2s::{self, Channel};
use antiphon_xmpp::stream::component::Config as ComponentConfig;
use antiphon_xmpp::stream::framing::{Framing, Outgoing};
use antiphon_xmpp::stream::{StreamCondition, StreamError};
use parking_lot::RwLock;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

/// Refused connections that are kept open until their peers have read why; the rest is reset.
const REFUSALS: usize = 64;
/// How long one is.
const REFUSAL: Duration = Duration::from_secs(1);

const TOO_MANY_OF_ADDRESS: (StreamCondition, &str) = (
    StreamCondition::PolicyViolation,
    "too many connections from this address, try again later",
);
/// RFC 6120 §4.9.3.17
const TOO_MANY_LOGINS: (StreamCondition, &str) = (
    StreamCondition::ResourceConstraint,
    "too many clients log in just now, try again later",
);

/// What a listener speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Client streams over TCP.
    C2s,
    /// HTTP: WebSocket streams, and requests for the ASGI application.
    Http,
    /// External components (XEP-0114).
    Component,
}

/// When TLS begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsMode {
    /// Within the stream.
    Starttls,
    /// At once (XEP-0368).
    Direct,
    /// Never.
    None,
}

/// One listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerConfig {
    /// What it speaks.
    pub kind: Kind,
    /// Where.
    pub address: SocketAddr,
    /// TLS.
    pub tls: TlsMode,
    /// HTTP path prefixes it serves.
    pub paths: Vec<String>,
}

/// Client streams where STARTTLS is offered, and where it is not.
#[derive(Debug, Clone)]
pub struct ClientConfigs {
    /// On TCP listeners with `tls = "starttls"`.
    pub starttls: Arc<c2s::Config>,
    /// Everywhere else.
    pub other: Arc<c2s::Config>,
}

/// Bounds of connections; 0 turns one off.
#[derive(Debug, Clone)]
pub struct NetLimits {
    /// Of one address, as [`network`] counts them.
    pub connections_per_address: u32,
    /// Rates and deadlines of clients.
    pub client: Arc<ClientLimits>,
    /// Bytes of an HTTP request's body.
    pub http_body_bytes: usize,
    /// Logins under way.
    pub logins: LoginLimits,
}

/// What listeners need; the replaceable parts change on reload, for later connections.
pub struct Net {
    /// The node.
    pub gateway: Arc<dyn Gateway>,
    /// Deadlines of all connections.
    pub alarms: Arc<Alarms>,
    /// Certificates.
    pub tls: RwLock<Arc<TlsHosts>>,
    /// Client streams.
    pub c2s: RwLock<ClientConfigs>,
    /// Component streams.
    pub components: RwLock<Arc<ComponentConfig>>,
    /// Bounds; set by [`Net::set_limits`].
    limits: RwLock<NetLimits>,
    /// Whose turn it is to log in.
    admission: Arc<Admission>,
    addresses: Arc<Addresses>,
    /// What accounts have left of their rates.
    paces: Arc<Paces>,
    /// Refused connections whose peers may still read why.
    refusals: Arc<Semaphore>,
    stopping: watch::Sender<bool>,
}

impl std::fmt::Debug for Net {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Net")
    }
}

impl Net {
    /// Ready to listen.
    pub fn new(
        gateway: Arc<dyn Gateway>,
        alarms: Arc<Alarms>,
        tls: TlsHosts,
        c2s: ClientConfigs,
        components: ComponentConfig,
        limits: NetLimits,
    ) -> Self {
        Self {
            gateway,
            alarms,
            tls: RwLock::new(Arc::new(tls)),
            c2s: RwLock::new(c2s),
            components: RwLock::new(Arc::new(components)),
            admission: Arc::new(Admission::new(limits.logins)),
            limits: RwLock::new(limits),
            addresses: Arc::default(),
            paces: Arc::default(),
            refusals: Arc::new(Semaphore::new(REFUSALS)),
            stopping: watch::Sender::new(false),
        }
    }

    /// Closes every listener; connections stay.
    pub fn stop_accepting(&self) {
        self.stopping.send_replace(true);
    }

    /// Other bounds, for later connections; those of logins at once.
    pub fn set_limits(&self, limits: NetLimits) {
        self.admission.set(limits.logins);
        *self.limits.write() = limits;
    }

    /// Bounds.
    #[must_use]
    pub fn limits(&self) -> NetLimits {
        self.limits.read().clone()
    }

    /// Logins under way.
    #[must_use]
    pub fn admission(&self) -> &Arc<Admission> {
        &self.admission
    }

    /// Lets the address in, unless it has or makes too many connections.
    fn admit(&self, ip: IpAddr) -> Option<Arc<AddressGuard>> {
        let limit = self.limits.read().connections_per_address;
        let guard = self.addresses.admit(ip, limit, self.gateway.now_ms())?;
        Some(Arc::new(guard))
    }

    /// What a connection shares with the rest.
    #[must_use]
    pub fn shared(&self) -> Shared {
        Shared {
            gateway: Arc::clone(&self.gateway),
            alarms: Arc::clone(&self.alarms),
            tls: self.tls.read().clone(),
        }
    }

    /// A client's stream on a connection whose TLS, if any, stands.
    #[must_use]
    pub fn client(&self, ip: IpAddr, framing: Framing, channel: Channel, starttls: bool) -> Client {
        let configs = self.c2s.read();
        let config = Arc::clone(if starttls {
            &configs.starttls
        } else {
            &configs.other
        });
        drop(configs);
        Client::new(
            Arc::clone(&self.gateway),
            config,
            Bounds {
                limits: Arc::clone(&self.limits.read().client),
                paces: Arc::clone(&self.paces),
            },
            Peer { ip: network(ip) },
            framing,
            channel,
        )
    }
}

/// Binds a listener and serves it until [`Net::stop_accepting`].
///
/// # Errors
/// The address cannot be bound.
pub async fn listen(net: Arc<Net>, config: ListenerConfig) -> io::Result<SocketAddr> {
    let socket = if config.address.is_ipv6() {
        tokio::net::TcpSocket::new_v6()
    } else {
        tokio::net::TcpSocket::new_v4()
    }?;
    socket.set_reuseaddr(true)?;
    // Stanzas are coalesced here already; Nagle's algorithm would only delay them. On Linux what a
    // listener accepts has its setting.
    socket.set_nodelay(true)?;
    socket.bind(config.address)?;
    let listener = socket.listen(4096)?;
    let address = listener.local_addr()?;
    tokio::spawn(accept_all(net, Arc::new(config), listener));
    Ok(address)
}

async fn accept_all(net: Arc<Net>, config: Arc<ListenerConfig>, listener: TcpListener) {
    let mut stopping = net.stopping.subscribe();
    loop {
        let accepted = tokio::select! {
            _ = stopping.wait_for(|stop| *stop) => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((io, peer)) => accept(&net, &config, io, peer),
            // Out of descriptors: the connections that end make room; trying at once would spin.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

fn accept(net: &Arc<Net>, config: &Arc<ListenerConfig>, io: TcpStream, peer: SocketAddr) {
    if !cfg!(target_os = "linux") {
        let _ = io.set_nodelay(true);
    }
    let Some(guard) = net.admit(peer.ip()) else {
        return refuse(net, config, io, TOO_MANY_OF_ADDRESS);
    };
    let turn = match config.kind {
        Kind::Http => Some(net.admission.visit()),
        Kind::C2s | Kind::Component => net.admission.enter(),
    };
    let Some(turn) = turn else {
        return refuse(net, config, io, TOO_MANY_LOGINS);
    };
    net.gateway.count(Count::Accepted);
    let (net, config) = (Arc::clone(net), Arc::clone(config));
    // Each its own task: one that could be any of them would be as large as the largest.
    match (config.kind, config.tls) {
        (Kind::Http, _) => {
            tokio::spawn(http::serve(net, config, io, peer, (guard, turn)));
        }
        (Kind::C2s, TlsMode::Direct) => {
            tokio::spawn(serve_direct(net, io, peer.ip(), (guard, turn)));
        }
        (Kind::C2s, mode) => {
            let starttls = mode == TlsMode::Starttls;
            let client = net.client(peer.ip(), Framing::Tcp, Channel::default(), starttls);
            let transport = Transport::plain(io);
            let conn = Conn::new(transport, None, client, net.shared());
            tokio::spawn(conn.guarded_by(guard).in_turn(turn));
        }
        (Kind::Component, _) => {
            let component = Component::new(Arc::clone(&net.gateway), net.components.read().clone());
            let transport = Transport::plain(io);
            let conn = Conn::new(transport, None, component, net.shared());
            tokio::spawn(conn.guarded_by(guard).in_turn(turn));
        }
    }
}

/// Says why, where a stream can be written without TLS.
fn refuse(
    net: &Arc<Net>,
    config: &ListenerConfig,
    io: TcpStream,
    (condition, text): (StreamCondition, &str),
) {
    net.gateway.count(Count::Refused);
    if config.kind != Kind::C2s || config.tls == TlsMode::Direct {
        return;
    }
    let configs = Arc::clone(&net.c2s.read().starttls);
    let mut stream = c2s::Stream::new(configs, Framing::Tcp, Channel::default());
    let error = StreamError::from(condition).with_text(text);
    let mut out = Outgoing::new(Framing::Tcp);
    stream.close(Some(error), &mut out);
    // The socket's buffer is empty, so this is written whole or the peer is gone.
    let _ = io.try_write(&out.bytes);
    let Ok(slot) = Arc::clone(&net.refusals).try_acquire_owned() else {
        return;
    };
    tokio::spawn(async move {
        // What the peer has sent already would make the system answer with a reset, and that takes
        // the error away before it is read.
        let _ = socket2::SockRef::from(&io).shutdown(std::net::Shutdown::Write);
        let _ = tokio::time::timeout(REFUSAL, discard(io)).await;
        drop(slot);
    });
}

/// Reads until the peer closes.
async fn discard(io: TcpStream) {
    let mut scratch = [0; 1024];
    while io.readable().await.is_ok() {
        match io.try_read(&mut scratch) {
            Ok(1..) => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Ok(0) | Err(_) => return,
        }
    }
}

/// Makes TLS stand, then hands over to a task that is no larger than the connection.
async fn serve_direct(
    net: Arc<Net>,
    io: TcpStream,
    ip: IpAddr,
    (guard, mut turn): (Arc<AddressGuard>, Turn),
) {
    let seconds = net.limits.read().client.login_seconds;
    let shared = net.shared();
    let Some(tls) = shared.tls.config(None, Protocol::Client) else {
        return;
    };
    let mut transport = Transport::plain(io);
    if transport.start_tls(tls).is_err() {
        return;
    }
    let mut early = Vec::new();
    let handshake = turn.gate(transport.handshake(&mut early));
    let limit = Duration::from_secs(if seconds == 0 { 3600 } else { seconds });
    let result = tokio::time::timeout(limit, handshake).await;
    if !matches!(result, Ok(Ok(()))) {
        net.gateway.count(Count::TlsFailed);
        net.gateway.count(Count::Ended);
        return;
    }
    let channel = transport
        .tls()
        .map(|tls| shared.tls.channel(tls, None))
        .unwrap_or_default();
    let client = net.client(ip, Framing::Tcp, channel, false);
    let mut conn = Conn::new(transport, None, client, shared);
    conn.feed(&early);
    tokio::spawn(conn.guarded_by(guard).in_turn(turn));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_small() {
        // With what tokio adds to a task it fits a block of 1,024 bytes.
        assert!(
            size_of::<Conn<Client>>() <= 896,
            "{}",
            size_of::<Conn<Client>>()
        );
    }
}
