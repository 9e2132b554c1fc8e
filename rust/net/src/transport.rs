//! One TCP connection, with TLS or without: bytes in through a scratch buffer that belongs to the
//! thread, bytes out from what the driver has written. An idle connection keeps no buffer.

use crate::spare;
use crate::tls::{SEALING, TlsConnection, UNFINISHED};
use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;

/// What one read takes at most.
const SCRATCH: usize = 64 * 1024;
/// Plaintext that becomes records for one write: four full ones.
const TLS_CHUNK: usize = 64 * 1024;

thread_local! {
    /// A record that came in part goes before what is read.
    static INPUT: RefCell<Box<[u8]>> =
        RefCell::new(vec![0; UNFINISHED + SCRATCH].into_boxed_slice());
    static RECORDS: RefCell<Box<[u8]>> =
        RefCell::new(vec![0; TLS_CHUNK + SEALING].into_boxed_slice());
}

/// A socket and, once it stands, its TLS connection.
#[derive(Debug)]
pub struct Transport {
    io: TcpStream,
    tls: Option<Box<TlsConnection>>,
    /// Written by the driver, not yet by the socket.
    pending: Vec<u8>,
    at: usize,
    /// Our direction of the TCP connection has ended.
    is_shut: bool,
}

/// What a read found.
#[derive(Debug, PartialEq, Eq)]
pub enum ReadOutcome {
    /// Bytes were handed on (perhaps none: a TLS handshake moved). The numbers count the socket's.
    Bytes(usize),
    /// The peer is done sending.
    Eof,
}

impl Transport {
    /// A connection without TLS so far.
    #[must_use]
    pub fn plain(io: TcpStream) -> Self {
        Self {
            io,
            tls: None,
            pending: Vec::new(),
            at: 0,
            is_shut: false,
        }
    }

    /// Begins TLS as the server; the handshake moves with the next reads.
    ///
    /// # Errors
    /// A configuration that rustls refuses.
    pub fn start_tls(&mut self, config: Arc<rustls::ServerConfig>) -> io::Result<()> {
        self.tls = Some(Box::new(TlsConnection::new(config)?));
        Ok(())
    }

    /// Waits until TLS stands. `early` gets what came behind the handshake.
    ///
    /// # Errors
    /// Socket errors, an end of the connection among them; `InvalidData` for a TLS error.
    pub async fn handshake(&mut self, early: &mut Vec<u8>) -> io::Result<()> {
        poll_fn(|cx| {
            loop {
                let mut written = 0;
                if let Poll::Ready(Err(e)) = self.poll_flush(cx, &mut written) {
                    return Poll::Ready(Err(e));
                }
                if !self.is_handshaking() {
                    return Poll::Ready(Ok(()));
                }
                match ready!(self.poll_read(cx, |bytes| early.extend_from_slice(bytes))) {
                    Ok(ReadOutcome::Bytes(_)) => {}
                    Ok(ReadOutcome::Eof) => {
                        return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                    }
                    Err(e) => {
                        // Sends the alert.
                        let _ = self.poll_flush(cx, &mut written);
                        return Poll::Ready(Err(e));
                    }
                }
            }
        })
        .await
    }

    /// Whether TLS stands, or is about to.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// The TLS connection.
    pub fn tls(&mut self) -> Option<&mut TlsConnection> {
        self.tls.as_deref_mut()
    }

    /// Whether the TLS handshake still runs.
    #[must_use]
    pub fn is_handshaking(&self) -> bool {
        self.tls.as_ref().is_some_and(|t| t.is_handshaking())
    }

    /// Queues bytes for the socket.
    pub fn queue(&mut self, bytes: Vec<u8>) {
        if self.at == self.pending.len() {
            self.pending = bytes;
            self.at = 0;
            return;
        }
        if self.at > self.pending.len() / 2 {
            // A peer that is always behind must not keep what it has long read.
            self.pending.drain(..self.at);
            self.at = 0;
        }
        self.pending.extend_from_slice(&bytes);
    }

    /// Bytes queued that the socket (or TLS before it) has not taken.
    #[must_use]
    pub fn backlog(&self) -> usize {
        let unsent = self.tls.as_ref().map_or(0, |tls| tls.unsent().len());
        self.pending.len() - self.at + unsent
    }

    /// Whether everything queued has reached the socket.
    #[must_use]
    pub fn is_flushed(&self) -> bool {
        self.backlog() == 0
    }

    /// Reads once and hands plaintext to `sink`. What a TLS peer sends behind its close_notify is
    /// not read.
    ///
    /// # Errors
    /// Socket errors; `InvalidData` for a TLS error (an alert is queued then).
    pub fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        mut sink: impl FnMut(&[u8]),
    ) -> Poll<io::Result<ReadOutcome>> {
        INPUT.with_borrow_mut(|buf| {
            let Some(tls) = &mut self.tls else {
                let n = ready!(poll_socket(&mut self.io, cx, &mut buf[..SCRATCH]))?;
                sink(&buf[..n]);
                return Poll::Ready(Ok(outcome(n)));
            };
            if tls.is_peer_done() {
                return Poll::Ready(Ok(ReadOutcome::Eof));
            }
            let start = tls.unfinished();
            let fresh = &mut buf[start..start + SCRATCH];
            let n = ready!(poll_socket(&mut self.io, cx, fresh))?;
            if n > 0 {
                tls.receive(&mut buf[..start + n], &mut sink)?;
            }
            Poll::Ready(Ok(outcome(n)))
        })
    }

    /// Writes until everything queued is with the socket; the number counts the socket's bytes.
    ///
    /// # Errors
    /// Socket errors; what TLS cannot encrypt any more.
    pub fn poll_flush(
        &mut self,
        cx: &mut Context<'_>,
        written: &mut usize,
    ) -> Poll<io::Result<()>> {
        if self.tls.is_some() {
            ready!(self.poll_flush_records(cx, written))?;
        } else {
            while self.at < self.pending.len() {
                ready!(self.io.poll_write_ready(cx))?;
                let n = try_write(&self.io, &self.pending[self.at..])?;
                self.at += n;
                *written += n;
            }
        }
        if self.at == self.pending.len() {
            spare::give(std::mem::take(&mut self.pending));
            self.at = 0;
        }
        Poll::Ready(Ok(()))
    }

    /// As [`Transport::poll_flush`] through TLS. During the handshake what was queued waits.
    fn poll_flush_records(
        &mut self,
        cx: &mut Context<'_>,
        written: &mut usize,
    ) -> Poll<io::Result<()>> {
        let Some(tls) = &mut self.tls else {
            return Poll::Ready(Ok(()));
        };
        loop {
            if !tls.unsent().is_empty() {
                ready!(self.io.poll_write_ready(cx))?;
                let n = try_write(&self.io, tls.unsent())?;
                tls.took(n);
                *written += n;
                continue;
            }
            if self.at == self.pending.len() || tls.is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            // Encrypted once there is room for it.
            ready!(self.io.poll_write_ready(cx))?;
            let end = self.pending.len().min(self.at + TLS_CHUNK);
            let text = &self.pending[self.at..end];
            let n = RECORDS.with_borrow_mut(|records| {
                let made = tls.seal(text, records)?;
                let n = try_write(&self.io, &records[..made])?;
                tls.keep(&records[n..made]);
                io::Result::Ok(n)
            })?;
            self.at = end;
            *written += n;
        }
    }

    /// Queues TLS's close_notify.
    pub fn close_notify(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.close_notify();
        }
    }

    /// Ends our direction of the TCP connection.
    pub fn shutdown_write(&mut self) {
        if self.is_shut {
            return;
        }
        self.is_shut = true;
        // A peer that is gone already makes this fail; there is nothing left to do then.
        let _ = socket2::SockRef::from(&self.io).shutdown(std::net::Shutdown::Write);
    }
}

/// Reads once. The runtime takes a read that does not fill the buffer as the end of what is there,
/// which saves the system call that would say so.
fn poll_socket(
    io: &mut TcpStream,
    cx: &mut Context<'_>,
    buf: &mut [u8],
) -> Poll<io::Result<usize>> {
    let mut buf = ReadBuf::new(buf);
    ready!(Pin::new(io).poll_read(cx, &mut buf))?;
    Poll::Ready(Ok(buf.filled().len()))
}

fn outcome(n: usize) -> ReadOutcome {
    if n == 0 {
        ReadOutcome::Eof
    } else {
        ReadOutcome::Bytes(n)
    }
}

/// How much the socket took: nothing, perhaps.
fn try_write(io: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    match io.try_write(bytes) {
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(0),
        result => result,
    }
}
