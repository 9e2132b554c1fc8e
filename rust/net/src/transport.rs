//! One TCP connection, with TLS or without: bytes in through a scratch buffer that belongs to the
//! thread, bytes out from what the driver has written. An idle connection keeps no buffer.

use crate::spare;
use rustls::ServerConnection;
use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;

/// What one read takes at most.
const SCRATCH: usize = 64 * 1024;
/// Plaintext handed to TLS at once: keeps its own buffer below a few records.
const TLS_CHUNK: usize = 16 * 1024;

thread_local! {
    static CIPHER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
    static PLAIN: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// A socket and, once it stands, its TLS connection.
#[derive(Debug)]
pub struct Transport {
    io: TcpStream,
    tls: Option<Box<ServerConnection>>,
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

struct SocketWriter<'a>(&'a TcpStream);
impl Write for SocketWriter<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.try_write(buf)
    }
    fn write_vectored(&mut self, bufs: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(bufs)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
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

    /// A connection whose TLS was set up elsewhere, with bytes that came behind the handshake.
    #[must_use]
    pub fn with_tls(io: TcpStream, tls: Option<ServerConnection>) -> Self {
        Self {
            io,
            tls: tls.map(Box::new),
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
        let mut tls = ServerConnection::new(config).map_err(io::Error::other)?;
        tls.set_buffer_limit(Some(SCRATCH));
        self.tls = Some(Box::new(tls));
        Ok(())
    }

    /// The TLS connection.
    #[must_use]
    pub fn tls(&self) -> Option<&ServerConnection> {
        self.tls.as_deref()
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
        self.pending.len() - self.at
    }

    /// Whether everything queued has reached the socket.
    #[must_use]
    pub fn is_flushed(&self) -> bool {
        self.at == self.pending.len() && !self.tls.as_ref().is_some_and(|t| t.wants_write())
    }

    /// Reads once and hands plaintext to `sink`.
    ///
    /// # Errors
    /// Socket errors; `InvalidData` for a TLS error (an alert is queued then).
    pub fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        mut sink: impl FnMut(&[u8]),
    ) -> Poll<io::Result<ReadOutcome>> {
        let Some(tls) = &mut self.tls else {
            return PLAIN.with_borrow_mut(|buf| {
                let n = ready!(poll_socket(&mut self.io, cx, buf))?;
                sink(&buf[..n]);
                Poll::Ready(Ok(outcome(n)))
            });
        };
        CIPHER.with_borrow_mut(|buf| {
            let n = ready!(poll_socket(&mut self.io, cx, buf))?;
            read_tls(tls, &buf[..n], &mut sink)?;
            Poll::Ready(Ok(outcome(n)))
        })
    }

    /// Plaintext that TLS already holds (bytes that came with the handshake's last flight).
    ///
    /// # Errors
    /// As [`Transport::poll_read`].
    pub fn drain_plaintext(&mut self, mut sink: impl FnMut(&[u8])) -> io::Result<()> {
        match &mut self.tls {
            Some(tls) => deliver_plaintext(tls, &mut sink).map(|_| ()),
            None => Ok(()),
        }
    }

    /// Writes until everything queued is with the socket; the number counts the socket's bytes.
    ///
    /// # Errors
    /// Socket errors.
    pub fn poll_flush(
        &mut self,
        cx: &mut Context<'_>,
        written: &mut usize,
    ) -> Poll<io::Result<()>> {
        loop {
            if let Some(tls) = &mut self.tls {
                if !tls.wants_write() {
                    if self.at == self.pending.len() || tls.is_handshaking() {
                        break;
                    }
                    let end = self.pending.len().min(self.at + TLS_CHUNK);
                    self.at += tls.writer().write(&self.pending[self.at..end])?;
                }
                ready!(self.io.poll_write_ready(cx))?;
                match tls.write_tls(&mut SocketWriter(&self.io)) {
                    Ok(n) => *written += n,
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    Err(e) => return Poll::Ready(Err(e)),
                }
            } else {
                if self.at == self.pending.len() {
                    break;
                }
                ready!(self.io.poll_write_ready(cx))?;
                match self.io.try_write(&self.pending[self.at..]) {
                    Ok(n) => {
                        self.at += n;
                        *written += n;
                    }
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    Err(e) => return Poll::Ready(Err(e)),
                }
            }
        }
        if self.at == self.pending.len() {
            spare::give(std::mem::take(&mut self.pending));
            self.at = 0;
        }
        Poll::Ready(Ok(()))
    }

    /// Queues TLS's close_notify.
    pub fn close_notify(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
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

fn read_tls(
    tls: &mut ServerConnection,
    mut rest: &[u8],
    sink: &mut impl FnMut(&[u8]),
) -> io::Result<()> {
    while !rest.is_empty() {
        tls.read_tls(&mut rest)?;
        tls.process_new_packets()
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        if !tls.is_handshaking() {
            deliver_plaintext(tls, sink)?;
        }
    }
    Ok(())
}

/// Hands decrypted bytes on; `Ok(true)` once the peer sent close_notify.
fn deliver_plaintext(tls: &mut ServerConnection, sink: &mut impl FnMut(&[u8])) -> io::Result<bool> {
    PLAIN.with_borrow_mut(|buf| {
        loop {
            match tls.reader().read(buf) {
                Ok(0) => return Ok(true),
                Ok(n) => sink(&buf[..n]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                // The peer closed TCP without close_notify: the stream machine sees an end of file.
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(true),
                Err(e) => return Err(e),
            }
        }
    })
}
