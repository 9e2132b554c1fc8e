//! A way over a third node: bytes in both directions, below the TLS of the two at its ends.
//!
//! Whoever cannot reach a peer's port asks, on a connection of its own, a node with which it has a
//! link and which has one with that peer. The third node opens a socket to the address that it knows
//! of the peer and copies. It sees nothing of what it carries, and can forge nothing: certificates,
//! the hello, numbers and acknowledgements are those of the two ends. It connects to members of its
//! own view alone, so it is no open proxy, and only straight, so there is one node in between at
//! most.
//!
//! Nothing is kept but a few pieces: the flow control of HTTP/2 and of the socket holds back whoever
//! sends faster than the other end reads. The connection is the tunnel's own, so that a slow one
//! holds up no link.

use super::Shared;
use super::dial::{client, hello, status_text};
use super::peer::Peer;
use super::serve::{Door, GREETING};
use super::way::{self, End, Way};
use crate::clock;
use crate::dial::Connection;
use crate::id::Incarnation;
use crate::log::Level;
use crate::wire::v1;
use crate::wire::v1::relay_client::RelayClient;
use crate::wire::v1::tunnel_piece::Kind;
use bytes::{BufMut, BytesMut};
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Status, Streaming};
use xxhash_rust::xxh3::xxh3_64;

/// Most bytes of a piece.
const PIECE_BYTES: usize = 32 << 10;
/// Pieces that wait for HTTP/2.
const PIECES: usize = 4;
/// A tunnel through which nothing has gone for so long ends: links ping twice a second.
const IDLE: Duration = Duration::from_secs(30);
/// Nodes that are asked in a round.
const ASKED_MAX: usize = 4;
/// A node that was not heard for longer is no way to others, ms: its link may be cut, too.
pub(super) const NEAR_MS: u64 = 1_500;

/// A way to a peer over a node that has one.
///
/// # Errors
/// What went wrong last: never [`End::Port`], since nothing that a third node says is evidence of
/// a death.
pub(super) async fn over(shared: &Arc<Shared>, peer: &Peer, round: usize) -> Result<Way, End> {
    let mut last = End::Cut("no third node has a way".to_owned());
    for third in thirds(shared, peer, round) {
        match through(shared, peer, &third).await {
            Ok(connection) => {
                return Ok(Way {
                    connection,
                    via: Some(third.node.clone()),
                });
            }
            Err(end) => {
                let fields = [
                    ("peer", peer.node.to_string()),
                    ("via", third.node.to_string()),
                    ("reason", end.reason()),
                ];
                shared.log(Level::Debug, "no way over a third node", &fields);
                last = end;
            }
        }
    }
    Err(last)
}

/// Whom to ask: for each pair of nodes in another order, so that not all go over one, and where
/// there are many, others in the next round.
fn thirds(shared: &Shared, peer: &Peer, round: usize) -> Vec<Arc<Peer>> {
    let own = shared.incarnation();
    let rank = |third: &Arc<Peer>| {
        let lives = [own, peer.incarnation, third.incarnation];
        xxh3_64(&lives.map(|life| life.0.to_be_bytes()).concat())
    };
    let peers = shared.peers.load();
    let near = peers
        .values()
        .filter(|third| third.incarnation != peer.incarnation && third.is_near(NEAR_MS));
    let mut near: Vec<Arc<Peer>> = near.map(Arc::clone).collect();
    near.sort_unstable_by_key(rank);
    let begin = (round * ASKED_MAX) % near.len().max(1);
    near.rotate_left(begin);
    near.truncate(ASKED_MAX);
    near
}

async fn through(shared: &Arc<Shared>, peer: &Peer, third: &Arc<Peer>) -> Result<Connection, End> {
    let asked = tokio::time::timeout(GREETING, ask(shared, peer, third)).await;
    // Whatever it is, it is not the peer who said it.
    let asked = asked.unwrap_or_else(|_| Err("no answer in time".to_owned()));
    let (client, tell, heard) =
        asked.map_err(|reason| End::Cut(format!("{}: {reason}", third.node)))?;
    let (near, far) = tokio::io::duplex(PIECE_BYTES);
    shared.runtime.spawn(async move {
        // How it ended shows at the other end of the pipe.
        let _ = carry(far, heard, tell, IDLE).await;
        drop(client);
    });
    way::secure(shared, &peer.node, near).await
}

type Asked = (
    RelayClient<Connection>,
    mpsc::Sender<v1::TunnelPiece>,
    Streaming<v1::TunnelPiece>,
);

async fn ask(shared: &Shared, peer: &Peer, third: &Peer) -> Result<Asked, String> {
    let address = third.address.lock().clone();
    let connection = way::straight(shared, &third.node, &address).await;
    let mut client = client(connection.map_err(|end| end.reason())?);
    let (tell, pieces) = mpsc::channel(PIECES);
    let to = Kind::To(v1::TunnelTo {
        hello: Some(hello(shared, &third.node, third.incarnation)),
        node: peer.node.to_string(),
        incarnation: peer.incarnation.0,
    });
    let gone = |_| "the connection ended".to_owned();
    tell.send(piece(to)).await.map_err(gone)?;
    let answer = client.tunnel(ReceiverStream::new(pieces)).await;
    let mut heard = answer.map_err(|s| status_text(&s))?.into_inner();
    let first = heard.message().await.map_err(|s| status_text(&s))?;
    match first.and_then(|m| m.kind) {
        Some(Kind::Answer(answer)) if answer.refused.is_empty() => Ok((client, tell, heard)),
        // Another's text goes to our log: one line, not too long.
        Some(Kind::Answer(answer)) => {
            let line = answer.refused.chars().filter(|c| !c.is_control());
            Err(line.take(300).collect())
        }
        _ => Err("no answer".to_owned()),
    }
}

fn piece(kind: Kind) -> v1::TunnelPiece {
    v1::TunnelPiece { kind: Some(kind) }
}

/// What it takes to be a way for somebody.
struct Dug {
    socket: TcpStream,
    caller: Arc<Peer>,
    target: Arc<Peer>,
    permit: OwnedSemaphorePermit,
}

pub(super) type Pieces =
    std::pin::Pin<Box<dyn Stream<Item = Result<v1::TunnelPiece, Status>> + Send>>;

/// Serves one caller.
pub(super) async fn serve(
    door: &Door,
    mut incoming: Streaming<v1::TunnelPiece>,
) -> Result<Pieces, Status> {
    let first = tokio::time::timeout(GREETING, incoming.message()).await;
    let first = first.map_err(|_| Status::deadline_exceeded("no target"))??;
    let Some(Kind::To(to)) = first.and_then(|m| m.kind) else {
        return Err(Status::invalid_argument("the first piece names no target"));
    };
    let shared = Arc::clone(&door.shared);
    let fields = |more: &str| {
        let caller = to.hello.as_ref().map(|h| h.node.clone());
        let short = |name: &str| name.chars().filter(|c| !c.is_control()).take(64).collect();
        let caller: String = caller.as_deref().map(short).unwrap_or_default();
        [
            ("peer", caller),
            ("to", short(&to.node)),
            ("reason", more.to_owned()),
        ]
    };
    let dug = match dig(door, &to).await {
        Ok(dug) => dug,
        Err(refused) => {
            shared.log(Level::Debug, "tunnel refused", &fields(&refused));
            let answer = piece(Kind::Answer(v1::TunnelAnswer { refused }));
            return Ok(Box::pin(tokio_stream::once(Ok(answer))));
        }
    };
    let fields = fields("its own way there is cut");
    shared.log(Level::Debug, "tunnel opened", &fields);
    let (tell, pieces) = mpsc::channel(PIECES);
    let answer = piece(Kind::Answer(v1::TunnelAnswer::default()));
    // There is room for the first.
    let _ = tell.try_send(answer);
    tokio::spawn(async move {
        let ended = tokio::select! {
            ended = carry(dug.socket, incoming, tell, IDLE) => ended,
            () = dug.caller.until_closed() => Err(left(&dug.caller)),
            () = dug.target.until_closed() => Err(left(&dug.target)),
        };
        drop(dug.permit);
        let mut fields = fields;
        fields[2].1 = ended.err().map_or_else(String::new, |e| e.to_string());
        shared.log(Level::Debug, "tunnel ended", &fields);
    });
    Ok(Box::pin(ReceiverStream::new(pieces).map(Ok)))
}

fn left(peer: &Peer) -> io::Error {
    io::Error::other(format!("{} left the view", peer.node))
}

async fn dig(door: &Door, to: &v1::TunnelTo) -> Result<Dug, String> {
    let shared = &door.shared;
    let hello = to.hello.as_ref().ok_or("no hello")?;
    door.judge_peer(hello).map_err(|refusal| {
        shared.refuse(&hello.node, &door.address, &refusal);
        refusal.text
    })?;
    let own = &shared.options.node;
    if hello.expects != own.as_str() || hello.expects_incarnation != shared.incarnation().0 {
        return Err(format!(
            "this is {own} in its life {}",
            shared.incarnation()
        ));
    }
    let member = |name: &str, life: u32| {
        let peers = shared.peers.load();
        let known = peers
            .get(&Incarnation(life))
            .filter(|peer| peer.node.as_str() == name && peer.is_dialled.load(Ordering::Relaxed));
        known
            .map(Arc::clone)
            .ok_or_else(|| "it is not in the view here".to_owned())
    };
    let caller = member(&hello.node, hello.incarnation)?;
    let target = member(&to.node, to.incarnation)?;
    if !target.is_near(NEAR_MS) {
        return Err("no link with it from here".to_owned());
    }
    let permit = Arc::clone(&shared.tunnels).try_acquire_owned();
    let permit = permit.map_err(|_| "too many tunnels go over this node".to_owned())?;
    let address = target.address.lock().clone();
    let socket = way::socket(&address).await;
    let socket = socket.map_err(|end| format!("from here: {}", end.reason()))?;
    Ok(Dug {
        socket,
        caller,
        target,
        permit,
    })
}

/// Copies between a stream of bytes and one of pieces until both directions have ended, one broke,
/// or nothing went for so long.
async fn carry<I, S>(
    io: I,
    mut heard: S,
    tell: mpsc::Sender<v1::TunnelPiece>,
    idle: Duration,
) -> io::Result<()>
where
    I: AsyncRead + AsyncWrite + Unpin,
    S: Stream<Item = Result<v1::TunnelPiece, Status>> + Unpin,
{
    let (mut from, mut into) = tokio::io::split(io);
    let moved_ms = AtomicU64::new(clock::now_ms());
    let moved = || moved_ms.store(clock::now_ms(), Ordering::Relaxed);
    let gone = |_| io::Error::from(ErrorKind::BrokenPipe);
    let there = async {
        let mut bytes = BytesMut::new();
        loop {
            bytes.reserve(PIECE_BYTES);
            let mut room = (&mut bytes).limit(PIECE_BYTES);
            if from.read_buf(&mut room).await? == 0 {
                return tell.send(piece(Kind::End(true))).await.map_err(gone);
            }
            let some = piece(Kind::Bytes(bytes.split().freeze()));
            tell.send(some).await.map_err(gone)?;
            moved();
        }
    };
    let back = async {
        loop {
            let next = heard.next().await.transpose();
            match next.map_err(io::Error::other)?.and_then(|p| p.kind) {
                Some(Kind::Bytes(bytes)) => into.write_all(&bytes).await?,
                Some(Kind::End(_)) => return into.shutdown().await,
                // The stream ended before its end, or holds what has no place here.
                _ => return Err(io::Error::from(ErrorKind::UnexpectedEof)),
            }
            moved();
        }
    };
    let watch = async {
        loop {
            tokio::time::sleep(idle / 4).await;
            let at = moved_ms.load(Ordering::Relaxed);
            if clock::now_ms().saturating_sub(at) > idle.as_millis() as u64 {
                return io::Error::from(ErrorKind::TimedOut);
            }
        }
    };
    tokio::select! {
        both = async { tokio::try_join!(there, back) } => both.map(|_| ()),
        error = watch => Err(error),
    }
}

#[cfg(test)]
mod tests;
