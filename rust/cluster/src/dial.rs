//! One HTTP/2 connection over a socket that is already open, as the generated stubs want it.
//!
//! No pool, no reconnection, no balancing: whoever dials knows whether a request was sent, and a
//! connection that broke is thrown away.

use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tonic::body::Body;

/// Ends the connection's task with the last handle.
struct Driver(AbortHandle);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A connection; clones share it.
#[derive(Clone)]
pub(crate) struct Connection {
    requests: SendRequest<Body>,
    driver: Arc<Driver>,
}

/// Bytes that HTTP/2 takes from a stream before the socket does: small, so that what waits does so
/// where it can still be put together into larger frames.
pub(crate) const SEND_BUFFER_BYTES: usize = 128 << 10;

/// What to ask of HTTP/2.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tuning {
    /// Bytes of answers that may be under way in a stream.
    pub(crate) window: u32,
    /// Ping that often when nothing else is heard.
    pub(crate) ping_every: Duration,
    /// Give up that long after a ping.
    pub(crate) ping_timeout: Duration,
}

impl Connection {
    /// Starts HTTP/2 on the client's side.
    pub(crate) async fn start<I>(io: I, tuning: Tuning) -> Result<Self, hyper::Error>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (requests, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(tuning.window)
            .initial_connection_window_size(tuning.window)
            .max_frame_size(1 << 17)
            .max_send_buf_size(SEND_BUFFER_BYTES)
            .keep_alive_interval(tuning.ping_every)
            .keep_alive_timeout(tuning.ping_timeout)
            .handshake(TokioIo::new(io))
            .await?;
        let driver = tokio::spawn(async move {
            // What went wrong shows in the requests.
            let _ = connection.await;
        });
        Ok(Self {
            requests,
            driver: Arc::new(Driver(driver.abort_handle())),
        })
    }

    /// Whether the connection has ended.
    pub(crate) fn is_closed(&self) -> bool {
        self.requests.is_closed() || self.driver.0.is_finished()
    }
}

impl tower_service::Service<tonic::codegen::http::Request<Body>> for Connection {
    type Response = tonic::codegen::http::Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.requests.poll_ready(cx)
    }

    fn call(&mut self, request: tonic::codegen::http::Request<Body>) -> Self::Future {
        let sent = self.requests.send_request(request);
        // The driver must live as long as the answer is awaited.
        let driver = Arc::clone(&self.driver);
        Box::pin(async move {
            let answer = sent.await;
            drop(driver);
            answer
        })
    }
}

/// Opens a socket to `host:port`, every address in turn.
///
/// # Errors
/// When none answers within `timeout`.
pub(crate) async fn tcp(address: &str, timeout: Duration) -> io::Result<TcpStream> {
    let socket = tokio::time::timeout(timeout, TcpStream::connect(address))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    socket.set_nodelay(true)?;
    Ok(socket)
}

/// An error and what lies below it, in one line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut below = error.source();
    while let Some(cause) = below {
        let text = cause.to_string();
        if !line.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        below = cause.source();
    }
    line
}
