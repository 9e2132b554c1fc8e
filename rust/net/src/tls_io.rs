//! A connection with TLS as hyper wants it: a stream of plaintext.

use crate::spare;
use crate::transport::{ReadOutcome, Transport};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What one write takes at most.
const CHUNK: usize = 64 * 1024;

/// A connection whose handshake is done.
#[derive(Debug)]
pub(crate) struct TlsIo {
    transport: Transport,
    /// Decrypted; the reader had no room for what lies behind `at`.
    unread: Vec<u8>,
    at: usize,
    is_closed: bool,
}

impl TlsIo {
    /// `early` came behind the handshake.
    pub(crate) fn new(transport: Transport, early: Vec<u8>) -> Self {
        Self {
            transport,
            unread: early,
            at: 0,
            is_closed: false,
        }
    }

    /// The connection, and what was decrypted but not read.
    pub(crate) fn into_parts(mut self) -> (Transport, Vec<u8>) {
        self.unread.drain(..self.at);
        (self.transport, self.unread)
    }
}

impl AsyncRead for TlsIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while buf.remaining() > 0 && this.at == this.unread.len() {
            this.unread = Vec::new();
            this.at = 0;
            let before = buf.filled().len();
            let unread = &mut this.unread;
            let outcome = this.transport.poll_read(cx, |bytes| {
                let (now, later) = bytes.split_at(bytes.len().min(buf.remaining()));
                buf.put_slice(now);
                unread.extend_from_slice(later);
            });
            match ready!(outcome) {
                Ok(ReadOutcome::Eof) => return Poll::Ready(Ok(())),
                Ok(ReadOutcome::Bytes(_)) if buf.filled().len() > before => {
                    return Poll::Ready(Ok(()));
                }
                // Nothing for the reader, perhaps something that TLS has to answer.
                Ok(ReadOutcome::Bytes(_)) => {
                    if let Poll::Ready(Err(e)) = this.transport.poll_flush(cx, &mut 0) {
                        return Poll::Ready(Err(e));
                    }
                }
                Err(e) => {
                    // The alert, if the socket takes it at once.
                    let _ = this.transport.poll_flush(cx, &mut 0);
                    return Poll::Ready(Err(e));
                }
            }
        }
        let n = (this.unread.len() - this.at).min(buf.remaining());
        buf.put_slice(&this.unread[this.at..this.at + n]);
        this.at += n;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TlsIo {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.transport.backlog() > 0 {
            ready!(this.transport.poll_flush(cx, &mut 0))?;
        }
        let n = buf.len().min(CHUNK);
        let mut bytes = spare::take();
        bytes.extend_from_slice(&buf[..n]);
        this.transport.queue(bytes);
        match this.transport.poll_flush(cx, &mut 0) {
            Poll::Ready(Err(e)) => Poll::Ready(Err(e)),
            _ => Poll::Ready(Ok(n)),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().transport.poll_flush(cx, &mut 0)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.transport.poll_flush(cx, &mut 0))?;
        if !this.is_closed {
            this.is_closed = true;
            this.transport.close_notify();
            ready!(this.transport.poll_flush(cx, &mut 0))?;
        }
        this.transport.shutdown_write();
        Poll::Ready(Ok(()))
    }
}
