//! A counter of the node under load, read from its metrics (`GET /metrics`).

use crate::Failure;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const NAME: &str = "antiphon_crossings_total";
/// A page larger than this is cut off.
const MAX_PAGE: u64 = 4 << 20;
const PATIENCE: Duration = Duration::from_secs(5);

/// How often the node has entered Python since it started.
///
/// # Errors
/// [`Failure::Io`] from the connection, [`Failure::Stalled`] if the page lacks the counter.
pub fn crossings(address: SocketAddr) -> Result<u64, Failure> {
    let mut socket = TcpStream::connect_timeout(&address, PATIENCE)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes())?;
    let mut page = Vec::new();
    socket.take(MAX_PAGE).read_to_end(&mut page)?;
    value(&String::from_utf8_lossy(&page))
        .ok_or_else(|| Failure::Stalled(format!("{address} does not tell {NAME}")))
}

/// What it grew between two readings. The second request is itself one.
pub const fn since(before: u64, after: u64) -> u64 {
    after.saturating_sub(before + 1)
}

fn value(page: &str) -> Option<u64> {
    page.lines().find_map(|line| {
        line.strip_prefix(NAME)?
            .strip_prefix(' ')?
            .trim()
            .parse()
            .ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn the_counter_is_found_on_the_page_and_its_own_request_is_left_out() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut request = [0; 256];
            let size = socket.read(&mut request).unwrap();
            let page = format!("HTTP/1.1 200 OK\r\n\r\n# HELP {NAME} x\n{NAME} 42\nb 1\n");
            socket.write_all(page.as_bytes()).unwrap();
            request[..size].starts_with(b"GET /metrics ")
        });
        assert_eq!(crossings(address).unwrap(), 42);
        assert!(server.join().unwrap());
        assert_eq!(since(42, 43), 0);
        assert_eq!(since(42, 50), 7);
        assert_eq!(value("antiphon_crossings_total_more 1"), None);
    }
}
