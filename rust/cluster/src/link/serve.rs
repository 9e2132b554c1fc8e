//! The side of a link that is dialled: it takes units and says words about them.

use super::material::{bears, names};
use super::note;
use super::pack::{self, OUTCOMES_MAX};
use super::peer::{Inbox, Pause, Peer, wake};
use super::tunnel;
use super::{Class, LinkEvent, Shared, Taken, UNIT_BYTES_MAX, WORD_PATIENCE};
use crate::dial::SEND_BUFFER_BYTES;
use crate::id::{Epoch, Incarnation, NodeId, SKEW_MAX_MS};
use crate::log::Level;
use crate::member::speaks_with;
use crate::wire::v1;
use crate::wire::v1::relay_server::{Relay, RelayServer};
use bytes::Bytes;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

/// For TLS, and for the hello behind it.
pub(super) const GREETING: Duration = Duration::from_secs(5);
/// A peer that says nothing for so long is dialled, or waited for, anew.
pub(super) const SILENCE: Duration = Duration::from_secs(5);
/// Handshakes at a time.
const GREETINGS_MAX: usize = 256;
/// A hello that looks this much older than the allowed skew is refused at once. What lies between
/// could be the way here; the dialler measures that and says so.
const DOUBT_MS: u64 = 2_000;

/// Why a link is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Another cluster.
    Cluster,
    /// Versions that are no neighbours.
    Protocol,
    /// TLS failed, or the certificate does not bear the node's name.
    Certificate,
    /// Clocks too far apart.
    Clock,
    /// Another node answers, or another life of it.
    Target,
    /// A later life of the dialling node is known, or it left the view.
    Stale,
    /// It broke the rules of the stream.
    Breach,
    /// No answer at all.
    Silent,
}

/// Why a link is refused, in one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Refusal {
    /// For programs.
    pub reason: Why,
    /// For people.
    pub text: String,
}

impl Refusal {
    pub(super) fn new(reason: Why, text: impl Into<String>) -> Self {
        Self {
            reason,
            text: text.into(),
        }
    }

    /// Whether it most likely passes by itself: somebody joins, or has not yet seen who did.
    pub(super) fn is_passing(&self) -> bool {
        matches!(self.reason, Why::Target | Why::Stale)
    }

    pub(super) fn code(&self) -> v1::Reason {
        match self.reason {
            Why::Cluster => v1::Reason::Cluster,
            Why::Protocol => v1::Reason::Protocol,
            Why::Certificate => v1::Reason::Certificate,
            Why::Clock => v1::Reason::Clock,
            Why::Target => v1::Reason::Target,
            Why::Stale => v1::Reason::Stale,
            Why::Breach => v1::Reason::Breach,
            Why::Silent => v1::Reason::None,
        }
    }

    /// What a peer said; reasons of later versions count as a breach of something.
    pub(super) fn told(code: i32, text: &str) -> Self {
        let reason = match v1::Reason::try_from(code) {
            Ok(v1::Reason::Cluster) => Why::Cluster,
            Ok(v1::Reason::Protocol) => Why::Protocol,
            Ok(v1::Reason::Certificate) => Why::Certificate,
            Ok(v1::Reason::Clock) => Why::Clock,
            Ok(v1::Reason::Target) => Why::Target,
            Ok(v1::Reason::Stale) => Why::Stale,
            _ => Why::Breach,
        };
        // A peer's text goes to our log: one line, not too long.
        let text: String = text.chars().filter(|c| !c.is_control()).take(300).collect();
        Self::new(reason, format!("the peer refuses: {text}"))
    }
}

/// Takes connections until it is aborted.
pub(super) async fn run(shared: Arc<Shared>, listener: TcpListener) {
    let greetings = Arc::new(Semaphore::new(GREETINGS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&greetings).acquire_owned().await else {
            return;
        };
        let (socket, address) = match listener.accept().await {
            Ok(taken) => taken,
            Err(error) => {
                // Out of descriptors, most likely: it passes.
                let fields = [("reason", error.to_string())];
                shared.log(Level::Error, "link accept failed", &fields);
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            }
        };
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let address = address.to_string();
            let greeted = tokio::time::timeout(GREETING, greet(&shared, socket)).await;
            drop(permit);
            let refusal = match greeted {
                Ok(Ok((secure, names))) => return serve(shared, secure, names, address).await,
                Ok(Err(refusal)) => refusal,
                Err(_) => Refusal::new(Why::Silent, "no TLS within 5 s"),
            };
            // Silent openings are probes of a port, from load balancers and such.
            if refusal.reason != Why::Silent {
                shared.refuse("?", &address, &refusal);
            }
        });
    }
}

type Secure = tokio_rustls::server::TlsStream<TcpStream>;

async fn greet(shared: &Shared, socket: TcpStream) -> Result<(Secure, Vec<String>), Refusal> {
    let _ = socket.set_nodelay(true);
    let acceptor = TlsAcceptor::from(Arc::clone(&shared.material.sides().server));
    let secure = acceptor.accept(socket).await.map_err(|error| {
        let is_quiet = error.kind() == std::io::ErrorKind::UnexpectedEof;
        let why = if is_quiet {
            Why::Silent
        } else {
            Why::Certificate
        };
        Refusal::new(why, format!("TLS: {error}"))
    })?;
    let certificates = secure.get_ref().1.peer_certificates();
    let names = certificates.and_then(|chain| chain.first()).map(names);
    Ok((secure, names.unwrap_or_default()))
}

async fn serve(shared: Arc<Shared>, secure: Secure, names: Vec<String>, address: String) {
    let service = RelayServer::new(Door {
        shared,
        names: names.into(),
        address: address.into(),
    })
    .max_decoding_message_size(UNIT_BYTES_MAX * 2);
    let served = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(1 << 20)
        .max_frame_size(1 << 17)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .max_concurrent_streams(8)
        .keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(SILENCE)
        .serve_connection(TokioIo::new(secure), TowerToHyperService::new(service));
    // How it ended shows in the streams.
    let _ = served.await;
}

/// One connection, whose certificate bears these names.
pub(super) struct Door {
    pub(super) shared: Arc<Shared>,
    names: Arc<[String]>,
    pub(super) address: Arc<str>,
}

type Answers = Pin<Box<dyn Stream<Item = Result<v1::ToSender, Status>> + Send>>;

#[tonic::async_trait]
impl Relay for Door {
    type StanzasStream = Answers;
    type BulkStream = Answers;
    type TunnelStream = tunnel::Pieces;

    async fn stanzas(
        &self,
        request: Request<Streaming<v1::ToReceiver>>,
    ) -> Result<Response<Answers>, Status> {
        self.open(Class::Stanza, request.into_inner()).await
    }

    async fn bulk(
        &self,
        request: Request<Streaming<v1::ToReceiver>>,
    ) -> Result<Response<Answers>, Status> {
        self.open(Class::Bulk, request.into_inner()).await
    }

    async fn probe(&self, request: Request<v1::Hello>) -> Result<Response<v1::Welcome>, Status> {
        let hello = request.into_inner();
        let judged = self.judge_peer(&hello).err();
        // It measures the way, so what it finds of the clocks is its word.
        let told = hello.bye.map(|bye| Refusal::told(bye.reason, &bye.text));
        if let Some(refusal) = judged.as_ref().or(told.as_ref()) {
            self.shared.refuse(&hello.node, &self.address, refusal);
        }
        Ok(Response::new(self.welcome(judged.as_ref(), None)))
    }

    async fn tunnel(
        &self,
        request: Request<Streaming<v1::TunnelPiece>>,
    ) -> Result<Response<tunnel::Pieces>, Status> {
        let pieces = tunnel::serve(self, request.into_inner()).await?;
        Ok(Response::new(pieces))
    }
}

impl Door {
    /// Whoever it is: one of ours, by certificate, cluster and version.
    pub(super) fn judge_peer(&self, hello: &v1::Hello) -> Result<(), Refusal> {
        let own = &self.shared.options;
        if !bears(&self.names, &hello.node) {
            let text = format!(
                "the certificate bears {:?} and the hello says {:?}",
                self.names, hello.node
            );
            return Err(Refusal::new(Why::Certificate, text));
        }
        if hello.cluster != own.cluster {
            let text = format!(
                "node {:?} is of cluster {:?}, this is {:?}",
                hello.node, hello.cluster, own.cluster
            );
            return Err(Refusal::new(Why::Cluster, text));
        }
        let theirs = u16::try_from(hello.protocol).unwrap_or(u16::MAX);
        if !speaks_with(theirs, own.protocol) {
            let text = format!(
                "node {:?} ({}) speaks version {} of the protocol, this one ({}) {}",
                hello.node, hello.version, hello.protocol, own.version, own.protocol
            );
            return Err(Refusal::new(Why::Protocol, text));
        }
        Ok(())
    }

    fn judge(&self, hello: &v1::Hello) -> Result<(NodeId, Incarnation), Refusal> {
        self.judge_peer(hello)?;
        let own = &self.shared.options;
        let life = self.shared.incarnation();
        if hello.expects != own.node.as_str()
            || life == Incarnation(0)
            || hello.expects_incarnation != life.0
        {
            let text = format!(
                "node {:?} means {:?} in its life {}, this is {:?} in its life {life}",
                hello.node,
                hello.expects,
                hello.expects_incarnation,
                own.node.as_str()
            );
            return Err(Refusal::new(Why::Target, text));
        }
        let now = self.shared.wall_ms();
        let is_ahead = hello.clock_ms > now + SKEW_MAX_MS;
        if is_ahead || now > hello.clock_ms + SKEW_MAX_MS + DOUBT_MS {
            let text = format!(
                "the clock of node {:?} is {} ms {} this one's; {SKEW_MAX_MS} ms are allowed",
                hello.node,
                now.abs_diff(hello.clock_ms),
                if is_ahead { "ahead of" } else { "behind" }
            );
            return Err(Refusal::new(Why::Clock, text));
        }
        let node = NodeId::new(&hello.node)
            .map_err(|error| Refusal::new(Why::Certificate, error.to_string()))?;
        match hello.incarnation {
            0 => Err(Refusal::new(Why::Stale, "it has not joined")),
            life => Ok((node, Incarnation(life))),
        }
    }

    fn welcome(&self, refusal: Option<&Refusal>, words: Option<v1::Words>) -> v1::Welcome {
        let own = &self.shared.options;
        v1::Welcome {
            refused: refusal.map(|r| r.text.clone()).unwrap_or_default(),
            reason: refusal.map_or(v1::Reason::None, Refusal::code) as i32,
            cluster: own.cluster.clone(),
            protocol: u32::from(own.protocol),
            node: own.node.to_string(),
            incarnation: self.shared.incarnation().0,
            clock_ms: self.shared.wall_ms(),
            version: own.version.clone(),
            words,
        }
    }

    async fn open(
        &self,
        class: Class,
        mut incoming: Streaming<v1::ToReceiver>,
    ) -> Result<Response<Answers>, Status> {
        let first = tokio::time::timeout(GREETING, incoming.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no hello"))??;
        let Some(v1::to_receiver::Kind::Hello(hello)) = first.and_then(|m| m.kind) else {
            return Err(Status::invalid_argument("the first message is no hello"));
        };
        let judged = self.judge(&hello).and_then(|(node, life)| {
            let caller = self.shared.caller(&node, life);
            caller.ok_or_else(|| {
                let text = format!("life {life} of node {node} is over, or its name is another's");
                Refusal::new(Why::Stale, text)
            })
        });
        let peer = match judged {
            Ok(peer) => peer,
            Err(refusal) => {
                self.shared.refuse(&hello.node, &self.address, &refusal);
                let welcome = self.welcome(Some(&refusal), None);
                let only = tokio_stream::once(Ok(answer(v1::to_sender::Kind::Welcome(welcome))));
                return Ok(Response::new(Box::pin(only)));
            }
        };
        let inbox = Arc::clone(peer.inbox(class));
        let (generation, words) = {
            let mut state = inbox.state.lock();
            state.generation += 1;
            let number = self.shared.connection.fetch_add(1, Ordering::Relaxed) + 1;
            // Whatever the connection before still has to say is part of the first words.
            let words = state.relay.connected(number);
            (state.is_due, state.pong) = (true, None);
            state.is_armed = false;
            let before = state.alarm.take();
            let generation = state.generation;
            drop(state);
            wake(before);
            (generation, words)
        };
        inbox.is_up.store(true, Ordering::Relaxed);
        let telling = &self.shared.telling;
        let words = pack::words(
            &words,
            telling.epoch.load(Ordering::Relaxed),
            telling.clock.load(Ordering::Relaxed),
        );
        let welcome = self.welcome(None, Some(words));
        let reader = Reader {
            shared: Arc::clone(&self.shared),
            peer,
            inbox: Arc::clone(&inbox),
            generation,
            address: Arc::clone(&self.address),
        };
        tokio::spawn(reader.run(incoming));
        Ok(Response::new(Box::pin(WordsStream {
            shared: Arc::clone(&self.shared),
            inbox,
            generation,
            welcome: Some(welcome),
            pause: Pause::default(),
        })))
    }
}

fn answer(kind: v1::to_sender::Kind) -> v1::ToSender {
    v1::ToSender { kind: Some(kind) }
}

/// Hands units over.
struct Reader {
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    inbox: Arc<Inbox>,
    generation: u64,
    address: Arc<str>,
}

impl Reader {
    async fn run(self, mut incoming: Streaming<v1::ToReceiver>) {
        let refusal = loop {
            let heard = tokio::time::timeout(SILENCE, incoming.message()).await;
            let Ok(Ok(Some(message))) = heard else {
                break None;
            };
            match self.take(message) {
                Ok(true) => {}
                Ok(false) => break None,
                Err(refusal) => break Some(refusal),
            }
        };
        let mut state = self.inbox.state.lock();
        let is_ours = state.generation == self.generation;
        if is_ours {
            self.inbox.is_up.store(false, Ordering::Relaxed);
            state.generation += 1;
            state.bye = refusal.as_ref().map(bye);
        }
        let waker = state.alarm.take();
        drop(state);
        wake(waker);
        if let Some(refusal) = refusal {
            self.shared
                .refuse(self.peer.node.as_str(), &self.address, &refusal);
        }
    }

    /// Whether there may be more.
    fn take(&self, message: v1::ToReceiver) -> Result<bool, Refusal> {
        match message.kind {
            Some(v1::to_receiver::Kind::Frame(frame)) => self.frame(frame),
            Some(v1::to_receiver::Kind::Ping(ping)) => Ok(self.ping(&ping)),
            Some(v1::to_receiver::Kind::Bye(bye)) => Err(Refusal::told(bye.reason, &bye.text)),
            Some(v1::to_receiver::Kind::Note(message)) => {
                // One of a later version says nothing to this one.
                if let Some(note) = note::of_wire(message) {
                    let from = self.peer.incarnation;
                    self.shared.tell(LinkEvent::Note { from, note });
                }
                Ok(true)
            }
            // A second hello, or what a later version says.
            Some(v1::to_receiver::Kind::Hello(_)) | None => Ok(true),
        }
    }

    fn frame(&self, frame: v1::Frame) -> Result<bool, Refusal> {
        let from = self.peer.incarnation;
        let class = self.inbox.class;
        let receiver = &self.shared.receiver;
        receiver.observed(from, frame.clock, Epoch(frame.epoch));
        let frame = pack::unframe(frame).map_err(|e| Refusal::new(Why::Breach, e.to_string()))?;
        let _delivering = self.inbox.delivering.lock();
        let new: Vec<(u64, usize, Bytes)> = {
            let mut state = self.inbox.state.lock();
            if state.generation != self.generation {
                return Ok(false);
            }
            let received = state.relay.receive(frame);
            let new = received.map_err(|e| Refusal::new(Why::Breach, e.to_string()))?;
            for (number, bytes, _) in &new {
                state.held.insert(*number, *bytes);
                state.unsaid += *bytes as u64;
            }
            new
        };
        let taken: Vec<(u64, Taken)> = new
            .into_iter()
            .map(|(number, _, unit)| (number, receiver.receive(from, class, number, unit)))
            .collect();
        let mut state = self.inbox.state.lock();
        for (number, taken) in taken {
            if taken != Taken::Held
                && let Some(bytes) = state.held.remove(&number)
            {
                state.relay.take(bytes);
            }
            match taken {
                Taken::Settled(outcome) => {
                    state.relay.outcome(number, outcome);
                    state.is_due = true;
                }
                Taken::Quiet(outcome) => {
                    state.relay.outcome(number, outcome);
                    state.is_soon = true;
                }
                Taken::Later | Taken::Held => {}
            }
        }
        state.is_due |= state.unsaid >= self.shared.options.window_bytes / 8;
        // For what may wait the stream is woken once, to look at the clock.
        let is_news = state.is_due || (state.is_soon && !state.is_armed);
        let waker = is_news.then(|| state.alarm.take()).flatten();
        drop(state);
        wake(waker);
        Ok(true)
    }

    /// The answer goes out with whatever words there are.
    fn ping(&self, ping: &v1::Ping) -> bool {
        let pong = v1::Pong {
            sent_ms: ping.sent_ms,
        };
        let mut state = self.inbox.state.lock();
        if state.generation != self.generation {
            return false;
        }
        state.pong = Some(pong);
        state.is_due = true;
        let waker = state.alarm.take();
        drop(state);
        wake(waker);
        true
    }
}

pub(super) fn bye(refusal: &Refusal) -> v1::Bye {
    v1::Bye {
        reason: refusal.code() as i32,
        text: refusal.text.clone(),
    }
}

/// What goes back, made when the socket takes it.
struct WordsStream {
    shared: Arc<Shared>,
    inbox: Arc<Inbox>,
    generation: u64,
    welcome: Option<v1::Welcome>,
    pause: Pause,
}

impl Stream for WordsStream {
    type Item = Result<v1::ToSender, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        use v1::to_sender::Kind;
        let say = |kind| Poll::Ready(Some(Ok(answer(kind))));
        if let Some(welcome) = self.welcome.take() {
            return say(Kind::Welcome(welcome));
        }
        let this = &mut *self;
        let mut state = this.inbox.state.lock();
        if state.generation != this.generation {
            return match state.bye.take() {
                Some(bye) => say(Kind::Bye(bye)),
                None => Poll::Ready(None),
            };
        }
        if let Some(pong) = state.pong.take() {
            return say(Kind::Pong(pong));
        }
        if state.is_soon && !state.is_due {
            if !state.is_armed {
                this.pause.arm(WORD_PATIENCE);
                state.is_armed = true;
            }
            state.is_due = this.pause.is_over(cx);
        }
        if state.is_due {
            (state.is_soon, state.is_armed) = (false, false);
            if let Some(words) = state.relay.words(OUTCOMES_MAX) {
                state.unsaid = 0;
                drop(state);
                this.pause.went();
                let telling = &this.shared.telling;
                let epoch = telling.epoch.load(Ordering::Relaxed);
                let clock = telling.clock.load(Ordering::Relaxed);
                return say(Kind::Words(pack::words(&words, epoch, clock)));
            }
            state.is_due = false;
        }
        state.alarm.set(cx.waker());
        Poll::Pending
    }
}

impl Shared {
    /// For the log and the members: a link of ours broke.
    pub(super) fn down(&self, peer: &Peer, class: Class, reason: &str) {
        let fields = [
            ("peer", peer.node.to_string()),
            ("incarnation", peer.incarnation.to_string()),
            ("class", format!("{class:?}").to_lowercase()),
            ("reason", reason.to_owned()),
        ];
        self.log(Level::Info, "link down", &fields);
        self.tell(LinkEvent::Down {
            peer: peer.incarnation,
            class,
            reason: reason.to_owned(),
        });
    }
}
