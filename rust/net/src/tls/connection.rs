//! The server's side of one TLS connection without buffers of its own: records are decrypted where
//! the thread has read them, and encrypted where it writes them from. What outlasts a call is a
//! record that has come in part, and what the socket did not take; an idle connection has neither.

use super::greeting::Greeting;
use crate::spare;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus};
use rustls::{CommonState, ServerConfig};
use std::io;
use std::sync::Arc;

/// Bytes that can wait for the rest of a record, or of a handshake message in several records: the
/// limit that rustls has for its own buffers.
pub(crate) const UNFINISHED: usize = 0xffff;
/// What encryption may add to [`TlsConnection::seal`]'s text: 16 KiB of text grow by at most 29
/// bytes, and a key update or tickets may go before.
pub(crate) const SEALING: usize = 8 * 1024;
/// Room for close_notify and a key update before it.
const CLOSING: usize = 256;

/// A TLS connection that somebody else reads and writes the socket for.
pub struct TlsConnection {
    tls: UnbufferedServerConnection,
    /// Came, but is not whole.
    incoming: Vec<u8>,
    /// Encrypted, but not with the socket from `sent` on.
    outgoing: Vec<u8>,
    sent: usize,
    /// Until the one who answers has taken it.
    greeting: Option<Box<Greeting>>,
    /// A fatal error: nothing is decrypted or encrypted any more.
    is_broken: bool,
    /// The peer's close_notify has come: what follows is ignored (RFC 8446 §6.1).
    is_peer_done: bool,
}

impl std::fmt::Debug for TlsConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsConnection")
            .field("incoming", &self.incoming.len())
            .field("outgoing", &self.unsent().len())
            .finish_non_exhaustive()
    }
}

impl TlsConnection {
    /// A handshake that the peer begins.
    ///
    /// # Errors
    /// A configuration that rustls refuses.
    pub fn new(config: Arc<ServerConfig>) -> io::Result<Self> {
        Ok(Self {
            tls: UnbufferedServerConnection::new(config).map_err(io::Error::other)?,
            incoming: Vec::new(),
            outgoing: Vec::new(),
            sent: 0,
            greeting: Some(Box::default()),
            is_broken: false,
            is_peer_done: false,
        })
    }

    /// Version, cipher suite, certificates.
    #[must_use]
    pub fn state(&self) -> &CommonState {
        &self.tls
    }

    /// Whether the handshake still runs.
    #[must_use]
    pub fn is_handshaking(&self) -> bool {
        self.tls.is_handshaking()
    }

    /// Whether the peer has said that nothing more comes.
    #[must_use]
    pub fn is_peer_done(&self) -> bool {
        self.is_peer_done
    }

    /// What the handshake told, once.
    pub(crate) fn take_greeting(&mut self) -> Greeting {
        self.greeting.take().map(|g| *g).unwrap_or_default()
    }

    /// Bytes that wait for the rest of their record.
    #[must_use]
    pub fn unfinished(&self) -> usize {
        self.incoming.len()
    }

    /// Takes what the socket gave and hands plaintext to `sink`. `buf` begins with room for
    /// [`TlsConnection::unfinished`] bytes, and its content is lost.
    ///
    /// # Errors
    /// `InvalidData`: the peer's mistake, or its alert. Ours is among the unsent bytes then.
    pub fn receive(&mut self, buf: &mut [u8], sink: &mut impl FnMut(&[u8])) -> io::Result<()> {
        if self.is_broken || self.is_peer_done {
            return Ok(());
        }
        buf[..self.incoming.len()].copy_from_slice(&self.incoming);
        self.incoming.clear();
        let used = self.advance(buf, sink)?;
        let rest = &buf[used..];
        if rest.is_empty() {
            self.incoming = Vec::new();
        } else if rest.len() > UNFINISHED {
            self.is_broken = true;
            let error = "a handshake message that is too long";
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        } else {
            self.incoming.extend_from_slice(rest);
        }
        Ok(())
    }

    /// Goes through every whole record; how many bytes were used.
    fn advance(&mut self, buf: &mut [u8], sink: &mut impl FnMut(&[u8])) -> io::Result<usize> {
        let mut at = 0;
        loop {
            let records = &mut buf[at..];
            let tls = &mut self.tls;
            let UnbufferedStatus { mut discard, state } = match &mut self.greeting {
                Some(greeting) => greeting.hear(|| tls.process_tls_records(records)),
                None => tls.process_tls_records(records),
            };
            let mut is_done = false;
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(Ok(record)) = traffic.next_record() {
                        discard += record.discard;
                        sink(record.payload);
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    encode(&mut data, &mut self.outgoing);
                }
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => {
                    self.is_peer_done = true;
                    return Ok(buf.len());
                }
                Ok(_) => is_done = true,
                Err(e) => {
                    at += discard;
                    self.fail(&mut buf[at..]);
                    return Err(io::Error::new(io::ErrorKind::InvalidData, e));
                }
            }
            at += discard;
            if is_done {
                return Ok(at);
            }
        }
    }

    /// Gets the alert out. rustls wants to see the bytes that it failed on again, and looks at them
    /// only when there is nothing to send.
    fn fail(&mut self, rest: &mut [u8]) {
        self.is_broken = true;
        self.incoming = Vec::new();
        while self.tls.wants_write() {
            let status = self.tls.process_tls_records(rest);
            let Ok(ConnectionState::EncodeTlsData(mut data)) = status.state else {
                return;
            };
            encode(&mut data, &mut self.outgoing);
        }
    }

    /// Encrypts; how many bytes `records` holds then. It has room for the text and
    /// [`SEALING`] bytes more. To be called when nothing is unsent.
    ///
    /// # Errors
    /// The connection cannot be written to: it is broken, closed or has used up its keys.
    pub fn seal(&mut self, text: &[u8], records: &mut [u8]) -> io::Result<usize> {
        let mut made = 0;
        while !self.is_broken {
            let UnbufferedStatus { discard, state } =
                self.tls.process_tls_records(&mut self.incoming);
            match state {
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    let sealed = traffic.encrypt(text, &mut records[made..]);
                    self.incoming.drain(..discard);
                    return Ok(made + sealed.map_err(io::Error::other)?);
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    made += data
                        .encode(&mut records[made..])
                        .map_err(io::Error::other)?;
                }
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => self.is_peer_done = true,
                Ok(_) | Err(_) => self.is_broken = true,
            }
            self.incoming.drain(..discard);
        }
        Err(io::ErrorKind::BrokenPipe.into())
    }

    /// Queues close_notify. During the handshake there is nothing to close.
    pub fn close_notify(&mut self) {
        while !self.is_broken {
            let UnbufferedStatus { discard, state } =
                self.tls.process_tls_records(&mut self.incoming);
            let mut is_done = false;
            match state {
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    let mut alert = [0; CLOSING];
                    if let Ok(n) = traffic.queue_close_notify(&mut alert) {
                        self.outgoing.extend_from_slice(&alert[..n]);
                    }
                    is_done = true;
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    encode(&mut data, &mut self.outgoing);
                }
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => self.is_peer_done = true,
                Ok(_) | Err(_) => is_done = true,
            }
            self.incoming.drain(..discard);
            if is_done {
                return;
            }
        }
    }

    /// Records that the socket has not taken.
    #[must_use]
    pub fn unsent(&self) -> &[u8] {
        &self.outgoing[self.sent..]
    }

    /// The socket has taken so many of the unsent bytes.
    pub fn took(&mut self, bytes: usize) {
        self.sent += bytes;
        if self.sent >= self.outgoing.len() {
            spare::give(std::mem::take(&mut self.outgoing));
            self.sent = 0;
        }
    }

    /// Keeps what the socket did not take of records that were just sealed.
    pub fn keep(&mut self, records: &[u8]) {
        if records.is_empty() {
            return;
        }
        if self.outgoing.capacity() == 0 {
            self.outgoing = spare::take();
        }
        self.outgoing.extend_from_slice(records);
    }
}

fn encode(data: &mut EncodeTlsData<'_, ServerConnectionData>, out: &mut Vec<u8>) {
    let start = out.len();
    if let Err(EncodeError::InsufficientSize(wanted)) = data.encode(&mut []) {
        out.resize(start + wanted.required_size, 0);
        if data.encode(&mut out[start..]).is_err() {
            out.truncate(start);
        }
    }
}

#[cfg(test)]
mod tests;
