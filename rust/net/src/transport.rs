//! One TCP connection, with TLS or without: bytes in through a scratch buffer that belongs to the
//! thread, bytes out from what the driver has written. An idle connection keeps no buffer.

use rustls::ServerConnection;
use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
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
}

/// What a read found.
#[derive(Debug, PartialEq, Eq)]
pub enum ReadOutcome {
    /// Bytes were handed on (perhaps none: a TLS handshake moved). The numbers count the socket's.
    Bytes(usize),
    /// The peer is done sending.
    Eof,
}

struct SocketReader<'a>(&'a TcpStream);
impl Read for SocketReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buf)
    }
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
        loop {
            ready!(self.io.poll_read_ready(cx))?;
            let result = match &mut self.tls {
                None => PLAIN.with_borrow_mut(|buf| {
                    let n = self.io.try_read(buf)?;
                    sink(&buf[..n]);
                    Ok(if n == 0 {
                        ReadOutcome::Eof
                    } else {
                        ReadOutcome::Bytes(n)
                    })
                }),
                Some(tls) => read_tls(&self.io, tls, &mut sink),
            };
            match result {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                other => return Poll::Ready(other),
            }
        }
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
            self.pending = Vec::new();
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
    pub fn shutdown_write(&self) {
        // A peer that is gone already makes this fail; there is nothing left to do then.
        let _ = socket2::SockRef::from(&self.io).shutdown(std::net::Shutdown::Write);
    }
}

fn read_tls(
    io: &TcpStream,
    tls: &mut ServerConnection,
    sink: &mut impl FnMut(&[u8]),
) -> io::Result<ReadOutcome> {
    let n = CIPHER.with_borrow_mut(|buf| {
        let n = SocketReader(io).read(buf)?;
        let mut rest = &buf[..n];
        while !rest.is_empty() {
            tls.read_tls(&mut rest)?;
            tls.process_new_packets()
                .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
            if !tls.is_handshaking() {
                deliver_plaintext(tls, sink)?;
            }
        }
        Ok::<usize, io::Error>(n)
    })?;
    Ok(if n == 0 {
        ReadOutcome::Eof
    } else {
        ReadOutcome::Bytes(n)
    })
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
