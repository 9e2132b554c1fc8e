//! The ways to a node: straight to its port, or where that is cut, over a third node.

use super::Shared;
use super::serve::{Refusal, SILENCE, Why};
use crate::clock;
use crate::dial::{self, Connection, Tuning};
use crate::id::NodeId;
use rustls::pki_types::ServerName;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// For the socket: long enough for a second SYN, which goes after one second (RFC 6298 §2).
const CONNECTING: Duration = Duration::from_millis(1500);
/// For TLS behind it.
const SECURING: Duration = Duration::from_secs(3);
/// A node whose port could not be reached for so long is asked for over others, ms.
const CUT_MS: u64 = 1_500;
/// The same for one whose port opens and says nothing, ms. Most likely its process is stopped, and
/// that is over with its lease; what is left then is a way that swallows large packets.
const MUTE_MS: u64 = 15_000;
/// Between two rounds of asking others in vain, ms.
const ROUND_MS: u64 = 2_000;

/// Why a connection is no more.
pub(super) enum End {
    /// Nobody listens there.
    Port,
    /// Its port could not be reached.
    Cut(String),
    /// Its port opened, and nothing came of it.
    Mute(String),
    /// One side said no.
    Refused(Refusal),
    /// It stood, and broke.
    Broken(String),
    /// It stood, and there is a better one.
    Turned(Way),
}

impl End {
    /// For people.
    pub(super) fn reason(&self) -> String {
        match self {
            Self::Port => "nobody listens there".to_owned(),
            Self::Cut(reason) | Self::Mute(reason) | Self::Broken(reason) => reason.clone(),
            Self::Refused(refusal) => refusal.to_string(),
            Self::Turned(way) => match &way.via {
                Some(third) => format!("no answer, and no way to its port but over {third}"),
                None => "its port can be reached again".to_owned(),
            },
        }
    }
}

/// A connection to a node: TLS is done, its certificate bears the name.
pub(super) struct Way {
    pub(super) connection: Connection,
    /// Over whom, if not straight.
    pub(super) via: Option<NodeId>,
}

/// How attempts at a node went, since its link last stood.
#[derive(Default)]
pub(super) struct Trouble {
    since_ms: Option<u64>,
    not_before_ms: u64,
    /// Rounds of asking others.
    pub(super) rounds: usize,
}

impl Trouble {
    /// Whether others are to be asked for a way, after an attempt that began and ended so.
    pub(super) fn is_due(&mut self, began_ms: u64, end: &End) -> bool {
        let patience_ms = match end {
            End::Cut(_) => CUT_MS,
            End::Mute(_) => MUTE_MS,
            // It, or somebody, is there.
            End::Port | End::Refused(_) | End::Broken(_) | End::Turned(_) => {
                self.since_ms = None;
                return false;
            }
        };
        let now = clock::now_ms();
        let since = *self.since_ms.get_or_insert(began_ms);
        now.saturating_sub(since) >= patience_ms && now >= self.not_before_ms
    }

    /// Nobody had a way.
    pub(super) fn in_vain(&mut self) {
        self.rounds += 1;
        self.not_before_ms = clock::now_ms() + ROUND_MS;
    }
}

/// A connection to the node's port, whose certificate bears its name.
pub(super) async fn straight(
    shared: &Shared,
    node: &NodeId,
    address: &str,
) -> Result<Connection, End> {
    // A name that no certificate can bear is said even where nobody listens.
    server_name(node)?;
    let socket = socket(address).await?;
    secure(shared, node, socket).await
}

/// An open socket to `host:port`.
pub(super) async fn socket(address: &str) -> Result<TcpStream, End> {
    let opened = dial::tcp(address, CONNECTING).await;
    opened.map_err(|error| match error.kind() {
        ErrorKind::ConnectionRefused => End::Port,
        _ => End::Cut(error.to_string()),
    })
}

fn server_name(node: &NodeId) -> Result<ServerName<'static>, End> {
    ServerName::try_from(node.to_string()).map_err(|_| {
        let text = format!("{node} cannot be the name in a certificate: use letters and digits");
        End::Refused(Refusal::new(Why::Certificate, text))
    })
}

/// TLS and HTTP/2 with the node over a stream of bytes, whoever carries them.
pub(super) async fn secure<I>(shared: &Shared, node: &NodeId, io: I) -> Result<Connection, End>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let name = server_name(node)?;
    let connector = TlsConnector::from(Arc::clone(&shared.material.sides().client));
    let secured = async {
        let mut secure = connector.connect(name, io).await?;
        // In TLS 1.3 this side is done before the other has looked at its certificate (RFC 8446
        // §4.4.2.4). Whoever accepts it begins with the settings of HTTP/2 (RFC 9113 §3.4), and
        // nothing is sent before, or a reset could overtake the alert that says why not.
        let accepted = secure.fill_buf().await?;
        match accepted.is_empty() {
            true => Err(io::Error::from(ErrorKind::UnexpectedEof)),
            false => Ok(secure),
        }
    };
    let secure = match tokio::time::timeout(SECURING, secured).await {
        Err(_) => return Err(End::Mute("no TLS in time".to_owned())),
        Ok(Ok(secure)) => secure,
        // The kind that rustls gives what it refuses itself or is told by an alert.
        Ok(Err(error)) if error.kind() == ErrorKind::InvalidData => {
            let text = format!("TLS: {error}");
            return Err(End::Refused(Refusal::new(Why::Certificate, text)));
        }
        Ok(Err(error)) => return Err(End::Mute(format!("TLS: {error}"))),
    };
    let tuning = Tuning {
        window: 1 << 20,
        ping_every: Duration::from_secs(10),
        ping_timeout: SILENCE,
    };
    let started = Connection::start(secure, tuning).await;
    started.map_err(|error| End::Mute(dial::chain(&error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_are_asked_when_a_port_was_out_of_reach_for_a_while() {
        let long_ago = clock::now_ms().saturating_sub(CUT_MS);
        let cut = End::Cut("no way".to_owned());
        let mute = End::Mute("no TLS".to_owned());
        let mut trouble = Trouble::default();
        assert!(!trouble.is_due(clock::now_ms(), &cut));
        let mut trouble = Trouble::default();
        assert!(trouble.is_due(long_ago, &cut));
        assert!(!trouble.is_due(long_ago, &mute), "it may be stopped");
        trouble.in_vain();
        assert!(!trouble.is_due(long_ago, &cut), "not at once again");
    }

    #[test]
    fn nobody_is_asked_for_a_way_to_a_port_that_refuses() {
        let long_ago = clock::now_ms().saturating_sub(10 * MUTE_MS);
        let mut trouble = Trouble::default();
        assert!(!trouble.is_due(long_ago, &End::Port));
        assert!(trouble.is_due(long_ago, &End::Cut(String::new())));
        assert!(!trouble.is_due(long_ago, &End::Port));
        // It begins anew.
        assert!(!trouble.is_due(clock::now_ms(), &End::Cut(String::new())));
    }
}
