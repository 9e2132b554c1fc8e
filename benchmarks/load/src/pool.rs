//! All connections on one thread: readiness, TLS, framing, and one write per connection and turn.

use crate::Failure;
use crate::frame::{self, Frame};
use crate::options::{Options, Security};
use mio::net::TcpStream;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use rustls::ClientConnection;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A round of the loop waits at most so long.
pub const TICK: Duration = Duration::from_millis(100);

/// What happens on a connection.
pub enum Event<'a> {
    /// It stands: say something.
    Connected,
    /// A first-level element.
    Stanza(&'a [u8]),
    /// The server ended the stream.
    End,
    /// The connection is gone; its number is free again.
    Closed,
}

/// What a scenario does with events.
pub trait Handler {
    /// Something happened on connection `id`.
    ///
    /// # Errors
    /// Any failure ends the run.
    fn on(&mut self, pool: &mut Pool, id: usize, event: Event<'_>) -> Result<(), Failure>;

    /// The time set by [`Pool::set_timer`] has come.
    ///
    /// # Errors
    /// Any failure ends the run.
    fn on_timer(&mut self, _pool: &mut Pool) -> Result<(), Failure> {
        Ok(())
    }
}

/// One connection that had this number: a handler may drop it and open another at once.
#[derive(Clone, Copy)]
struct Key {
    id: usize,
    serial: usize,
}

struct Link {
    serial: usize,
    socket: TcpStream,
    tls: Option<Box<ClientConnection>>,
    is_connected: bool,
    is_open: bool,
    is_dirty: bool,
    /// Bytes of an unfinished element.
    rest: Vec<u8>,
    /// Said and not yet written (with TLS: not yet encrypted).
    out: Vec<u8>,
}

/// The connections by number.
pub struct Pool {
    poll: Poll,
    timer: OwnedFd,
    links: Vec<Option<Link>>,
    dirty: Vec<usize>,
    scratch: Vec<u8>,
    clear: Vec<u8>,
    tls: Arc<rustls::ClientConfig>,
    name: ServerName<'static>,
    addresses: Vec<SocketAddr>,
    is_direct: bool,
    opened: usize,
}

const TIMER: Token = Token(usize::MAX);
const SCRATCH: usize = 64 * 1024;
/// An element larger than this is a fault of the server.
const MAX_REST: usize = 1 << 20;
/// Connections from one source address: a login storm would run out of ports by TIME-WAIT.
const PER_SOURCE: usize = 500;

impl Pool {
    /// An empty pool for one server, or for all nodes of one.
    ///
    /// # Errors
    /// [`Failure::Io`] if the system gives no epoll or timer.
    pub fn new(options: &Options) -> Result<Self, Failure> {
        let poll = Poll::new()?;
        let timer = timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
        )
        .map_err(std::io::Error::from)?;
        poll.registry()
            .register(&mut SourceFd(&timer.as_raw_fd()), TIMER, Interest::READABLE)?;
        let name = ServerName::try_from(options.domain.clone())
            .map_err(|_| Failure::Usage("--domain is not a name".to_owned()))?;
        Ok(Self {
            poll,
            timer,
            links: Vec::new(),
            dirty: Vec::new(),
            scratch: vec![0; SCRATCH],
            clear: vec![0; SCRATCH],
            tls: Arc::new(trusting()?),
            name,
            addresses: options.addresses.clone(),
            is_direct: options.tls == Security::Direct,
            opened: 0,
        })
    }

    /// Connects as number `id`, which must be free, to the address of its turn.
    ///
    /// # Errors
    /// [`Failure::Io`] if the system refuses a socket.
    pub fn open(&mut self, id: usize) -> Result<(), Failure> {
        let address = self.addresses[id % self.addresses.len()];
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        if address.is_ipv4() {
            let source = u8::try_from(2 + (self.opened / PER_SOURCE) % 250).unwrap_or(2);
            socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 1, source), 0)).into())?;
        }
        self.opened += 1;
        match socket.connect(&address.into()) {
            Err(error)
                if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) =>
            {
                return Err(error.into());
            }
            _ => {}
        }
        let mut socket = TcpStream::from_std(socket.into());
        self.poll.registry().register(
            &mut socket,
            Token(id),
            Interest::READABLE | Interest::WRITABLE,
        )?;
        let tls = self.is_direct.then(|| self.new_tls()).transpose()?;
        if id >= self.links.len() {
            self.links.resize_with(id + 1, || None);
        }
        self.links[id] = Some(Link {
            serial: self.opened,
            socket,
            tls,
            is_connected: false,
            is_open: false,
            is_dirty: false,
            rest: Vec::new(),
            out: Vec::new(),
        });
        Ok(())
    }

    fn new_tls(&self) -> Result<Box<ClientConnection>, Failure> {
        let mut tls = ClientConnection::new(Arc::clone(&self.tls), self.name.clone())
            .map_err(|e| Failure::Tls(e.to_string()))?;
        tls.set_buffer_limit(None);
        Ok(Box::new(tls))
    }

    /// Begins TLS on an open connection.
    ///
    /// # Errors
    /// [`Failure::Tls`] if the library refuses.
    pub fn start_tls(&mut self, id: usize) -> Result<(), Failure> {
        let tls = self.new_tls()?;
        if let Some(link) = self.link(id) {
            link.tls = Some(tls);
            link.is_open = false;
        }
        Ok(())
    }

    /// The server begins its stream anew (RFC 6120 §4.3.3).
    pub fn restart(&mut self, id: usize) {
        if let Some(link) = self.link(id) {
            link.is_open = false;
        }
    }

    /// Where to append what connection `id` says; written at the end of the turn. None if the
    /// connection is gone.
    pub fn say(&mut self, id: usize) -> Option<&mut Vec<u8>> {
        let link = self.links.get_mut(id)?.as_mut()?;
        if !link.is_dirty {
            link.is_dirty = true;
            self.dirty.push(id);
        }
        Some(&mut link.out)
    }

    /// Drops a connection without another word.
    pub fn cut(&mut self, id: usize) {
        if let Some(slot) = self.links.get_mut(id) {
            *slot = None;
        }
    }

    /// Calls [`Handler::on_timer`] once after this time, to the microsecond (epoll only knows
    /// milliseconds); `None`: never.
    ///
    /// # Errors
    /// [`Failure::Io`] from the system.
    pub fn set_timer(&mut self, after: Option<Duration>) -> Result<(), Failure> {
        // All zero would disarm it.
        let after = after.map_or(Duration::ZERO, |d| d.max(Duration::from_nanos(1)));
        let zero = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let value = Timespec {
            tv_sec: i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: after.subsec_nanos().into(),
        };
        let spec = Itimerspec {
            it_interval: zero,
            it_value: value,
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &spec)
            .map_err(std::io::Error::from)?;
        Ok(())
    }

    /// Waits for events, at most so long, lets the handler answer them, and writes what was said.
    ///
    /// # Errors
    /// What the handler returns, or [`Failure::Io`] from the system.
    pub fn turn<H: Handler>(
        &mut self,
        events: &mut Events,
        handler: &mut H,
        wait: Duration,
    ) -> Result<(), Failure> {
        self.flush(handler)?;
        match self.poll.poll(events, Some(wait)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            other => other?,
        }
        for event in events.iter() {
            if event.token() == TIMER {
                let mut expirations = [0; 8];
                let _ = rustix::io::read(&self.timer, &mut expirations);
                handler.on_timer(self)?;
                continue;
            }
            let id = event.token().0;
            let Some(serial) = self.link(id).map(|link| link.serial) else {
                continue;
            };
            let key = Key { id, serial };
            if event.is_writable() {
                self.on_writable(key, handler)?;
            }
            if event.is_readable() || event.is_read_closed() || event.is_error() {
                let is_last = event.is_read_closed() || event.is_error();
                self.on_readable(key, is_last, handler)?;
            }
        }
        self.flush(handler)
    }

    /// Turns for this time.
    ///
    /// # Errors
    /// As [`Pool::turn`].
    pub fn run_for<H: Handler>(
        &mut self,
        events: &mut Events,
        handler: &mut H,
        time: Duration,
    ) -> Result<(), Failure> {
        self.run_until(events, handler, time, |_| false).map(drop)
    }

    /// Turns until it is done, at most for this time; whether it is.
    ///
    /// # Errors
    /// As [`Pool::turn`].
    pub fn run_until<H: Handler>(
        &mut self,
        events: &mut Events,
        handler: &mut H,
        time: Duration,
        is_done: impl Fn(&H) -> bool,
    ) -> Result<bool, Failure> {
        let end = Instant::now() + time;
        loop {
            if is_done(handler) {
                return Ok(true);
            }
            let Some(left) = end.checked_duration_since(Instant::now()) else {
                return Ok(false);
            };
            self.turn(events, handler, left.min(TICK))?;
        }
    }

    fn link(&mut self, id: usize) -> Option<&mut Link> {
        self.links.get_mut(id)?.as_mut()
    }

    fn on_writable<H: Handler>(&mut self, key: Key, handler: &mut H) -> Result<(), Failure> {
        let Some(link) = self.at(key) else {
            return Ok(());
        };
        let has_rest = !link.out.is_empty() || link.tls.as_ref().is_some_and(|t| t.wants_write());
        if link.is_connected {
            if has_rest {
                self.say(key.id);
            }
            return Ok(());
        }
        if link.socket.take_error()?.is_some() || link.socket.peer_addr().is_err() {
            return self.closed(key, handler);
        }
        link.is_connected = true;
        handler.on(self, key.id, Event::Connected)
    }

    fn at(&mut self, key: Key) -> Option<&mut Link> {
        self.link(key.id).filter(|link| link.serial == key.serial)
    }

    fn closed<H: Handler>(&mut self, key: Key, handler: &mut H) -> Result<(), Failure> {
        if self.at(key).is_none() {
            return Ok(());
        }
        self.cut(key.id);
        handler.on(self, key.id, Event::Closed)
    }

    /// Edge-triggered: reads until the socket is empty, which a short read says too.
    fn on_readable<H: Handler>(
        &mut self,
        key: Key,
        is_last: bool,
        handler: &mut H,
    ) -> Result<(), Failure> {
        let mut scratch = std::mem::take(&mut self.scratch);
        let result = loop {
            let Some(link) = self.at(key) else {
                break Ok(());
            };
            match link.socket.read(&mut scratch) {
                Ok(0) => break self.closed(key, handler),
                Ok(size) => {
                    let done = self.received(key, &scratch[..size], handler);
                    if done.is_err() || (size < scratch.len() && !is_last) {
                        break done;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => break self.closed(key, handler),
            }
        };
        self.scratch = scratch;
        result
    }

    fn received<H: Handler>(
        &mut self,
        key: Key,
        bytes: &[u8],
        handler: &mut H,
    ) -> Result<(), Failure> {
        if self.at(key).is_none_or(|link| link.tls.is_none()) {
            return self.framed(key, bytes, handler);
        }
        let mut clear = std::mem::take(&mut self.clear);
        let mut rest = bytes;
        let mut result = Ok(());
        while !rest.is_empty() && result.is_ok() {
            let Some(tls) = self.at(key).and_then(|link| link.tls.as_mut()) else {
                break;
            };
            tls.read_tls(&mut rest)?;
            let state = tls
                .process_new_packets()
                .map_err(|e| Failure::Tls(e.to_string()))?;
            let (mut wanted, is_closing) =
                (state.plaintext_bytes_to_read(), state.peer_has_closed());
            if tls.wants_write() {
                self.say(key.id);
            }
            while wanted > 0 && result.is_ok() {
                let Some(tls) = self.at(key).and_then(|link| link.tls.as_mut()) else {
                    break;
                };
                let size = tls.reader().read(&mut clear)?;
                wanted = wanted.saturating_sub(size);
                result = self.framed(key, &clear[..size], handler);
            }
            if is_closing && result.is_ok() {
                result = self.closed(key, handler);
            }
        }
        self.clear = clear;
        result
    }

    fn framed<H: Handler>(
        &mut self,
        key: Key,
        bytes: &[u8],
        handler: &mut H,
    ) -> Result<(), Failure> {
        let Some(link) = self.at(key) else {
            return Ok(());
        };
        let mut kept = std::mem::take(&mut link.rest);
        let all = if kept.is_empty() {
            bytes
        } else {
            kept.extend_from_slice(bytes);
            &kept
        };
        let mut at = 0;
        loop {
            let Some(link) = self.at(key) else {
                return Ok(());
            };
            match frame::next(&all[at..], link.is_open) {
                Frame::More => break,
                Frame::Skip(size) => at += size,
                Frame::Header(size) => {
                    link.is_open = true;
                    at += size;
                }
                Frame::End(size) => {
                    at += size;
                    handler.on(self, key.id, Event::End)?;
                }
                Frame::Stanza(size) => {
                    let stanza = &all[at..at + size];
                    at += size;
                    handler.on(self, key.id, Event::Stanza(stanza))?;
                }
            }
        }
        let rest = &all[at..];
        if rest.len() > MAX_REST {
            return Err(Failure::Stream("an element above 1 MiB".to_owned()));
        }
        if !rest.is_empty() {
            let rest = rest.to_vec();
            if let Some(link) = self.at(key) {
                link.rest = rest;
            }
        }
        Ok(())
    }

    fn flush<H: Handler>(&mut self, handler: &mut H) -> Result<(), Failure> {
        while let Some(id) = self.dirty.pop() {
            let Some(link) = self.link(id) else {
                continue;
            };
            link.is_dirty = false;
            let key = Key {
                id,
                serial: link.serial,
            };
            if link.is_connected && link.write().is_err() {
                self.closed(key, handler)?;
            }
        }
        Ok(())
    }
}

impl Link {
    /// Writes what the socket takes; the rest goes when it is writable again.
    fn write(&mut self) -> std::io::Result<()> {
        let Some(tls) = &mut self.tls else {
            let mut written = 0;
            while written < self.out.len() {
                match self.socket.write(&self.out[written..]) {
                    Ok(size) => written += size,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            self.out.drain(..written);
            return Ok(());
        };
        if !self.out.is_empty() {
            tls.writer().write_all(&self.out)?;
            self.out.clear();
        }
        while tls.wants_write() {
            match tls.write_tls(&mut self.socket) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// TLS that believes every certificate: the peer is on loopback, and checking would cost only the
/// generator. No resumption: every handshake is a full one. No version but 1.3: a server that knows
/// less is not compared.
fn trusting() -> Result<rustls::ClientConfig, Failure> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let schemes = provider
        .signature_verification_algorithms
        .supported_schemes();
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| Failure::Tls(e.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(believer::Believer(schemes)))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![b"xmpp-client".to_vec()];
    Ok(config)
}

mod believer {
    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    use rustls::{DigitallySignedStruct, Error, SignatureScheme};

    #[derive(Debug)]
    pub struct Believer(pub Vec<SignatureScheme>);

    impl ServerCertVerifier for Believer {
        fn verify_server_cert(
            &self,
            _end_entity: &CertificateDer<'_>,
            _intermediates: &[CertificateDer<'_>],
            _server_name: &ServerName<'_>,
            _ocsp_response: &[u8],
            _now: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _message: &[u8],
            _cert: &CertificateDer<'_>,
            _dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _message: &[u8],
            _cert: &CertificateDer<'_>,
            _dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.clone()
        }
    }
}
