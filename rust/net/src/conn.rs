//! Drives one connection: bytes from the socket into a stream, bytes of the stream to the socket.
//!
//! One future per connection and nothing beside it: no timer, no channel, no buffer while idle.

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

/// How long a peer may take to close after we did.
const LINGER_MS: u64 = 3_000;

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
    /// Takes what is to be written.
    fn take_out(&mut self) -> Outgoing;
    /// Everything taken has reached the socket.
    fn flushed(&mut self);
    /// TLS stands.
    fn tls_started(&mut self, channel: Channel);
    /// Whether more bytes are welcome.
    fn wants_read(&self) -> bool;
    /// The connection broke or the peer closed it.
    fn lost(&mut self);
    /// When to poll again at the latest, ms since 1970.
    fn due_ms(&self) -> u64;
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
    /// The TLS handshake after STARTTLS for this domain.
    Handshake(String),
    /// Everything is written; waiting for the peer to close until then.
    Linger(u64),
    Done,
}

/// One connection. A future that ends with it.
pub struct Conn<D> {
    transport: Transport,
    ws: Option<ws::Decoder>,
    driver: D,
    shared: Shared,
    alarm: AlarmHandle,
    phase: Phase,
    is_ws_closed: bool,
}

impl<D: Driver> Conn<D> {
    /// A connection whose driver is ready for bytes; `ws` where they are WebSocket frames.
    pub fn new(transport: Transport, ws: Option<ws::Decoder>, driver: D, shared: Shared) -> Self {
        let alarm = shared.alarms.register();
        Self {
            transport,
            ws,
            driver,
            shared,
            alarm,
            phase: Phase::Open,
            is_ws_closed: false,
        }
    }

    /// Bytes that came before the connection was made into this.
    pub fn feed(&mut self, bytes: &[u8]) {
        feed(&mut self.ws, &mut self.driver, bytes);
    }

    fn poll_inner(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let now_ms = self.shared.gateway.now_ms();
            let step = match &self.phase {
                Phase::Open => self.pump(cx, now_ms),
                Phase::Handshake(_) if self.driver.due_ms() <= now_ms => return self.end_lost(),
                Phase::Handshake(_) => Step::Idle,
                Phase::Linger(until) if *until <= now_ms => return self.end(),
                Phase::Linger(_) => Step::Idle,
                Phase::Done => return Poll::Ready(()),
            };
            let is_flushed = match self.flush(cx) {
                Ok(is_flushed) => is_flushed,
                Err(_) => return self.end_lost(),
            };
            match step {
                Step::StartTls(domain) if is_flushed => {
                    if self.start_tls(domain).is_err() {
                        return self.end_lost();
                    }
                }
                Step::Close if is_flushed => self.say_goodbye(now_ms),
                Step::StartTls(_) | Step::Close => {
                    self.set_alarm(now_ms, cx);
                    return Poll::Pending;
                }
                Step::Idle => {}
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

    /// Lets the stream go on and queues what it writes.
    fn pump(&mut self, cx: &mut Context<'_>, now_ms: u64) -> Step {
        if let Some(ws) = &mut self.ws
            && let Err(code) = unframe(ws, &mut self.driver, &mut self.transport)
        {
            self.transport.queue(ws::close_frame(code));
            self.is_ws_closed = true;
            self.driver.lost();
            return Step::Close;
        }
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
        if matches!(step, Step::Close) && self.ws.is_some() && !self.is_ws_closed {
            self.is_ws_closed = true;
            self.transport.queue(ws::close_frame(1000));
        }
        step
    }

    fn flush(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let mut written = 0;
        let result = self.transport.poll_flush(cx, &mut written);
        if written > 0 {
            self.shared.gateway.count(Count::BytesOut(written));
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

    fn say_goodbye(&mut self, now_ms: u64) {
        if matches!(self.phase, Phase::Open) {
            self.transport.close_notify();
            self.phase = Phase::Linger(now_ms + LINGER_MS);
        }
    }

    /// Reads once. `Ready(false)`: the connection is over.
    fn read(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let is_lingering = matches!(self.phase, Phase::Linger(_));
        if is_lingering && self.transport.is_flushed() {
            self.transport.shutdown_write();
        }
        if matches!(self.phase, Phase::Open) && !self.driver.wants_read() {
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
            Phase::Linger(until) => *until,
            _ => self.driver.due_ms(),
        };
        if due != u64::MAX {
            self.alarm.alarm.set(due.max(now_ms + 1), cx.waker());
        }
    }

    fn end_lost(&mut self) -> Poll<()> {
        if !matches!(self.phase, Phase::Linger(_)) {
            self.driver.lost();
        }
        self.end()
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
        match catch_unwind(AssertUnwindSafe(|| this.poll_inner(cx))) {
            Ok(poll) => poll,
            Err(_) => {
                // Only this connection's state can be broken: entities are behind their own locks.
                this.shared.gateway.count(Count::Panicked);
                this.driver.abort();
                let out = this.driver.take_out();
                let bytes = if this.ws.is_some() {
                    ws::frames(&out)
                } else {
                    out.bytes
                };
                this.transport.queue(bytes);
                let _ = this.transport.poll_flush(cx, &mut 0);
                Poll::Ready(())
            }
        }
    }
}

impl<D> Drop for Conn<D> {
    fn drop(&mut self) {
        self.shared.gateway.count(Count::Ended);
    }
}

fn feed<D: Driver>(ws: &mut Option<ws::Decoder>, driver: &mut D, bytes: &[u8]) {
    match ws {
        None => driver.feed(bytes),
        Some(ws) => ws.feed(bytes),
    }
}

/// Feeds the driver message by message, one at a time so that it can refuse the next.
fn unframe<D: Driver>(
    ws: &mut ws::Decoder,
    driver: &mut D,
    transport: &mut Transport,
) -> Result<(), u16> {
    while driver.wants_read() {
        match ws.next_event().map_err(|e| e.0)? {
            None => break,
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
    Ok(())
}
