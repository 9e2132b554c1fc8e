//! Drives one connection: bytes from the socket into a stream, bytes of the stream to the socket.
//!
//! One future per connection and nothing beside it: no timer, no channel, no buffer while idle.

use crate::addresses::AddressGuard;
use crate::admission::Turn;
use crate::gateway::{Count, Gateway};
use crate::timers::{AlarmHandle, Alarms};
use crate::tls::{Protocol, TlsHosts};
use crate::transport::{ReadOutcome, Transport};
use crate::ws;
use antiphon_xmpp::stream::c2s::Channel;
use antiphon_xmpp::stream::framing::Outgoing;
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// How long a peer may take to close after we did, and before that to take our last bytes.
const LINGER_MS: u64 = 3_000;
/// Bytes that the socket has not taken above which nothing is added on the peer's behalf.
pub(crate) const BACKLOG: usize = 64 * 1024;

/// What a stream wants of its connection.
#[derive(Debug)]
pub enum Step {
    /// Bytes or an answer; its waker is registered for the latter.
    Idle,
    /// TLS for this domain, once everything is written.
    StartTls(String),
    /// The end, once everything is written.
    Close,
}

/// A stream machine with its place in the node.
pub trait Driver: Send {
    /// Adds decrypted bytes, or one WebSocket message.
    fn feed(&mut self, bytes: &[u8]);
    /// Goes on as far as it can.
    fn poll(&mut self, cx: &mut Context<'_>, now_ms: u64) -> Step;
    /// How much of what was taken has not reached the socket; told before each poll.
    fn backlog(&mut self, bytes: usize);
    /// Takes what is to be written.
    fn take_out(&mut self) -> Outgoing;
    /// Everything taken has reached the socket.
    fn flushed(&mut self);
    /// TLS stands.
    fn tls_started(&mut self, channel: Channel);
    /// Whether the peer has proved who it is and has its session: it waits for no turns any more.
    fn is_logged_in(&self) -> bool;
    /// Whether more bytes are welcome.
    fn wants_read(&self) -> bool;
    /// The connection broke or the peer closed it.
    fn lost(&mut self);
    /// When to poll again at the latest, ms since 1970.
    fn due_ms(&self) -> u64;
    /// Whether the peer has ended its stream in order, so that nothing more comes of it.
    fn is_peer_done(&self) -> bool {
        false
    }
    /// A panic happened: end the stream with `internal-server-error`.
    fn abort(&mut self);
}

/// What connections share.
#[derive(Clone)]
pub struct Shared {
    /// The node.
    pub gateway: Arc<dyn Gateway>,
    /// Deadlines.
    pub alarms: Arc<Alarms>,
    /// Certificates as they were when the connection came.
    pub tls: Arc<TlsHosts>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shared")
    }
}

#[derive(Debug)]
enum Phase {
    Open,
    /// `<proceed/>` is being written; then TLS for this domain.
    Proceed(String),
    /// The TLS handshake after STARTTLS for this domain.
    Handshake(String),
    /// The stream is over; what it wrote last must reach the socket until then.
    Closing(u64),
    /// Everything is written; waiting for the peer to close until then.
    Linger(u64),
    Done,
}

/// One connection. A future that ends with it.
pub struct Conn<D> {
    transport: Transport,
    ws: Option<Box<ws::Decoder>>,
    driver: D,
    shared: Shared,
    alarm: AlarmHandle,
    phase: Phase,
    is_ws_closed: bool,
    /// The decoder holds frames that the driver does not take yet.
    has_frames: bool,
    /// What the driver was last told of its backlog.
    backlog: usize,
    /// The driver was polled while it had a backlog, so it may have kept something back.
    is_behind: bool,
    /// Until the login is done.
    turn: Option<Box<Turn>>,
    _guard: Option<Arc<AddressGuard>>,
}

impl<D: Driver> Conn<D> {
    /// A connection whose driver is ready for bytes; `ws` where they are WebSocket frames.
    pub fn new(transport: Transport, ws: Option<ws::Decoder>, driver: D, shared: Shared) -> Self {
        let alarm = shared.alarms.register();
        Self {
            transport,
            ws: ws.map(Box::new),
            driver,
            shared,
            alarm,
            phase: Phase::Open,
            is_ws_closed: false,
            has_frames: false,
            backlog: 0,
            is_behind: false,
            turn: None,
            _guard: None,
        }
    }

    /// As it is; its address counts as connected while it lives.
    #[must_use]
    pub fn guarded_by(mut self, guard: Arc<AddressGuard>) -> Self {
        self._guard = Some(guard);
        self
    }

    /// As it is; until the login is done it goes on only when it has its turn.
    #[must_use]
    pub fn in_turn(mut self, turn: Turn) -> Self {
        self.turn = Some(Box::new(turn));
        self
    }

    /// Bytes that came before the connection was made into this.
    pub fn feed(&mut self, bytes: &[u8]) {
        feed(&mut self.ws, &mut self.driver, bytes);
    }

    fn poll_inner(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let now_ms = self.shared.gateway.now_ms();
            match &self.phase {
                Phase::Open => self.pump(cx, now_ms),
                Phase::Proceed(_) | Phase::Handshake(_) if self.is_overdue(now_ms) => {
                    return self.end_lost();
                }
                Phase::Closing(until) | Phase::Linger(until) if *until <= now_ms => {
                    return self.end();
                }
                Phase::Done => return Poll::Ready(()),
                _ => {}
            }
            match self.flush(cx) {
                Ok(true) => match &self.phase {
                    Phase::Proceed(domain) => {
                        let domain = domain.clone();
                        if self.start_tls(domain).is_err() {
                            return self.end_lost();
                        }
                    }
                    Phase::Closing(_) => {
                        if self.is_peer_done() {
                            // RFC 6120 §4.4: both streams are over, so this side closes.
                            return self.end();
                        }
                        self.transport.close_notify();
                        self.phase = Phase::Linger(now_ms + LINGER_MS);
                        continue;
                    }
                    // It may write on.
                    Phase::Open if self.is_behind => continue,
                    _ => {}
                },
                Ok(false) if matches!(self.phase, Phase::Proceed(_) | Phase::Closing(_)) => {
                    self.set_alarm(now_ms, cx);
                    return Poll::Pending;
                }
                Ok(false) => {}
                Err(_) => return self.end_lost(),
            }
            match self.read(cx) {
                Poll::Ready(true) => {}
                Poll::Ready(false) => return self.end_lost(),
                Poll::Pending => {
                    self.set_alarm(now_ms, cx);
                    return Poll::Pending;
                }
            }
        }
    }

    /// Nothing can come that closing the socket would answer with a reset.
    fn is_peer_done(&self) -> bool {
        self.ws.is_none() && !self.transport.is_tls() && self.driver.is_peer_done()
    }

    /// No longer worth the wait for its TLS handshake.
    fn is_overdue(&self, now_ms: u64) -> bool {
        self.driver.due_ms() <= now_ms || self.shared.gateway.is_stopping()
    }

    /// Lets the stream go on and queues what it writes.
    fn pump(&mut self, cx: &mut Context<'_>, now_ms: u64) {
        loop {
            self.has_frames = false;
            if let Some(ws) = &mut self.ws {
                match unframe(ws, &mut self.driver, &mut self.transport) {
                    Ok(has_more) => self.has_frames = has_more,
                    Err(code) => {
                        self.transport.queue(ws::close_frame(code));
                        self.is_ws_closed = true;
                        self.driver.lost();
                        self.phase = Phase::Closing(now_ms + LINGER_MS);
                        return;
                    }
                }
            }
            self.is_behind = self.backlog > 0;
            let step = self.driver.poll(cx, now_ms);
            let out = self.driver.take_out();
            if !out.bytes.is_empty() {
                let bytes = if self.ws.is_some() {
                    ws::frames(&out)
                } else {
                    out.bytes
                };
                self.transport.queue(bytes);
            }
            match step {
                // A rate limit has just let go: what was kept back will not be announced again.
                Step::Idle if self.has_frames && self.takes_frames() => {}
                Step::Idle => return,
                Step::StartTls(domain) => {
                    self.phase = Phase::Proceed(domain);
                    return;
                }
                Step::Close => {
                    self.close(now_ms);
                    return;
                }
            }
        }
    }

    fn takes_frames(&self) -> bool {
        self.driver.wants_read() && self.transport.backlog() < BACKLOG
    }

    /// The stream is over and has written its end.
    fn close(&mut self, now_ms: u64) {
        if self.ws.is_some() && !self.is_ws_closed {
            self.is_ws_closed = true;
            self.transport.queue(ws::close_frame(1000));
        }
        self.phase = Phase::Closing(now_ms + LINGER_MS);
    }

    fn flush(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let mut written = 0;
        let result = self.transport.poll_flush(cx, &mut written);
        if written > 0 {
            self.shared.gateway.count(Count::BytesOut(written));
        }
        let backlog = self.transport.backlog();
        if backlog != self.backlog {
            self.backlog = backlog;
            self.driver.backlog(backlog);
        }
        match result {
            Poll::Ready(Ok(())) => {
                self.driver.flushed();
                Ok(true)
            }
            Poll::Ready(Err(e)) => Err(e),
            Poll::Pending => Ok(false),
        }
    }

    fn start_tls(&mut self, domain: String) -> io::Result<()> {
        let config = self.shared.tls.config(Some(&domain), Protocol::Client);
        self.transport
            .start_tls(config.ok_or(io::ErrorKind::NotFound)?)?;
        self.phase = Phase::Handshake(domain);
        Ok(())
    }

    /// Reads once. `Ready(false)`: the connection is over.
    fn read(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let is_lingering = matches!(self.phase, Phase::Linger(_));
        if is_lingering && self.transport.is_flushed() {
            self.transport.shutdown_write();
        }
        let is_full = self.has_frames || !self.driver.wants_read();
        if matches!(self.phase, Phase::Open) && is_full {
            return Poll::Pending;
        }
        let was_handshaking = matches!(self.phase, Phase::Handshake(_));
        let mut early = Vec::new();
        let (ws, driver) = (&mut self.ws, &mut self.driver);
        let outcome = self.transport.poll_read(cx, |bytes| {
            if was_handshaking {
                early.extend_from_slice(bytes);
            } else if !is_lingering {
                feed(ws, driver, bytes);
            }
        });
        match outcome {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(ReadOutcome::Eof)) => Poll::Ready(false),
            Poll::Ready(Ok(ReadOutcome::Bytes(n))) => {
                self.shared.gateway.count(Count::BytesIn(n));
                self.finish_handshake(&early);
                Poll::Ready(true)
            }
            Poll::Ready(Err(e)) => {
                if e.kind() == io::ErrorKind::InvalidData {
                    self.shared.gateway.count(Count::TlsFailed);
                    // The alert, if the socket takes it at once.
                    let _ = self.transport.poll_flush(cx, &mut 0);
                }
                Poll::Ready(false)
            }
        }
    }

    fn finish_handshake(&mut self, early: &[u8]) {
        if let Phase::Handshake(domain) = &self.phase
            && !self.transport.is_handshaking()
        {
            if let Some(tls) = self.transport.tls() {
                let channel = self.shared.tls.channel(tls, Some(domain));
                self.driver.tls_started(channel);
            }
            self.phase = Phase::Open;
            self.driver.feed(early);
        }
    }

    fn set_alarm(&self, now_ms: u64, cx: &Context<'_>) {
        let due = match &self.phase {
            Phase::Closing(until) | Phase::Linger(until) => *until,
            _ => self.driver.due_ms(),
        };
        // Also without a deadline: a node that stops wakes everybody.
        self.alarm.alarm.set(due.max(now_ms + 1), cx.waker());
    }

    fn end_lost(&mut self) -> Poll<()> {
        if !matches!(self.phase, Phase::Closing(_) | Phase::Linger(_)) {
            self.driver.lost();
        }
        self.end()
    }

    /// Ends the stream with `internal-server-error`. Only this connection's state can be broken:
    /// entities are behind their own locks.
    fn after_panic(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.shared.gateway.count(Count::Panicked);
        if matches!(self.phase, Phase::Closing(_) | Phase::Linger(_)) {
            return self.end();
        }
        let driver = &mut self.driver;
        let last = catch_unwind(AssertUnwindSafe(|| {
            driver.abort();
            driver.take_out()
        }));
        let Ok(out) = last else { return self.end() };
        let is_ws = self.ws.is_some();
        let bytes = if is_ws { ws::frames(&out) } else { out.bytes };
        self.transport.queue(bytes);
        self.close(self.shared.gateway.now_ms());
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Whether it has to wait for its turn. One whose time is over needs none to say so.
    fn waits_for_turn(&mut self, cx: &Context<'_>) -> bool {
        let Some(turn) = &mut self.turn else {
            return false;
        };
        if turn.poll(cx).is_ready() {
            return false;
        }
        let now_ms = self.shared.gateway.now_ms();
        let is_waiting = !self.is_overdue(now_ms);
        if is_waiting {
            self.set_alarm(now_ms, cx);
        }
        is_waiting
    }

    fn end_turn(&mut self) {
        if self.driver.is_logged_in() {
            self.turn = None;
        } else if let Some(turn) = &mut self.turn {
            turn.done();
        }
    }

    fn end(&mut self) -> Poll<()> {
        self.phase = Phase::Done;
        Poll::Ready(())
    }
}

impl<D: Driver + Unpin> Future for Conn<D> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if this.turn.is_some() && this.waits_for_turn(cx) {
            return Poll::Pending;
        }
        let polled = match catch_unwind(AssertUnwindSafe(|| this.poll_inner(cx))) {
            Ok(poll) => poll,
            Err(_) => this.after_panic(cx),
        };
        if this.turn.is_some() {
            this.end_turn();
        }
        polled
    }
}

impl<D> Drop for Conn<D> {
    fn drop(&mut self) {
        self.shared.gateway.count(Count::Ended);
    }
}

fn feed<D: Driver>(ws: &mut Option<Box<ws::Decoder>>, driver: &mut D, bytes: &[u8]) {
    match ws {
        None => driver.feed(bytes),
        Some(ws) => ws.feed(bytes),
    }
}

/// Feeds the driver message by message, one at a time so that it can refuse the next. `true`: it
/// does, and there may be more.
fn unframe<D: Driver>(
    ws: &mut ws::Decoder,
    driver: &mut D,
    transport: &mut Transport,
) -> Result<bool, u16> {
    while driver.wants_read() && transport.backlog() < BACKLOG {
        match ws.next_event().map_err(|e| e.0)? {
            None => return Ok(false),
            Some(ws::WsEvent::Text(message)) => driver.feed(&message),
            Some(ws::WsEvent::Ping(payload)) => {
                let mut pong = Vec::new();
                ws::write_frame(10, &payload, &mut pong);
                transport.queue(pong);
            }
            Some(ws::WsEvent::Pong) => {}
            Some(ws::WsEvent::Close(_)) => return Err(1000),
        }
    }
    Ok(ws.buffered() > 0)
}
