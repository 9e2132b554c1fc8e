//! The side of a link that dials: it sends units and hears what became of them.

use super::pack;
use super::peer::{Outbox, Pause, Peer, wake};
use super::serve::{GREETING, Refusal, SILENCE, Why, bye};
use super::tunnel;
use super::way::{self, End, Trouble, Way};
use super::{Class, FRAME_BYTES, LinkEvent, Shared, UNIT_BYTES_MAX, UNIT_PATIENCE};
use crate::clock;
use crate::dial::{self, Connection};
use crate::id::{Epoch, Incarnation, NodeId, SKEW_MAX_MS};
use crate::log::Level;
use crate::member::speaks_with;
use crate::wire::v1;
use crate::wire::v1::relay_client::RelayClient;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::MissedTickBehavior;
use tokio_stream::Stream;
use tonic::Streaming;
use tonic::codegen::http::Uri;

/// Pauses between attempts; the last one goes on.
const PAUSES_MS: [u64; 6] = [10, 50, 100, 100, 250, 500];
/// Behind a refusal that most likely passes.
const PASSING_PAUSE: Duration = Duration::from_millis(200);
/// Behind one that seldom does.
const REFUSED_PAUSE: Duration = Duration::from_secs(2);
/// To see that a connection lives, and to say what waited for company.
const PING_EVERY: Duration = Duration::from_millis(500);
/// A link that has said nothing for so long is looked at: two pongs are missing, ms.
const DOUBT_MS: u64 = 1_200;
/// How often a link that stands straight is asked whether it is silent.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// Behind a look that found its port open, or nobody with another way.
const LOOK_PAUSE: Duration = Duration::from_secs(2);
/// How often one that goes over a third node tries the peer's port.
const STRAIGHT_EVERY: Duration = Duration::from_secs(3);

/// What a probe found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// Who answers.
    pub node: String,
    /// In which life; 0: it has not joined.
    pub incarnation: Incarnation,
    /// How far its clock is ahead of ours at least (negative: behind), ms, the way taken off.
    pub skew_ms: i64,
    /// Its program.
    pub version: String,
}

pub(super) fn start(shared: &Arc<Shared>, peer: &Arc<Peer>) {
    for outbox in &peer.outboxes {
        let link = Link {
            shared: Arc::clone(shared),
            peer: Arc::clone(peer),
            outbox: Arc::clone(outbox),
        };
        shared.runtime.spawn(link.keep());
    }
}

/// Asks who listens there and what time it is; with `verdict` it is told why this node goes away.
pub(super) async fn probe(
    shared: &Shared,
    (node, address): (&NodeId, &str),
    verdict: Option<&Refusal>,
    timeout: Duration,
) -> Result<Probe, Refusal> {
    let asked = async {
        let opened = way::straight(shared, node, address).await;
        let connection = opened.map_err(|end| match end {
            End::Refused(refusal) => refusal,
            other => Refusal::new(Why::Silent, other.reason()),
        })?;
        let hello = v1::Hello {
            bye: verdict.map(bye),
            ..hello(shared, node, Incarnation(0))
        };
        let sent = clock::now_ms();
        let answer = client(connection).probe(hello).await;
        let welcome = answer
            .map_err(|status| Refusal::new(Why::Silent, status.message().to_owned()))?
            .into_inner();
        if !welcome.refused.is_empty() {
            return Err(Refusal::told(welcome.reason, &welcome.refused));
        }
        Ok(Probe {
            skew_ms: skew(shared, &welcome, sent),
            node: welcome.node,
            incarnation: Incarnation(welcome.incarnation),
            version: welcome.version,
        })
    };
    let silent = || Refusal::new(Why::Silent, "no answer in time");
    tokio::time::timeout(timeout, asked)
        .await
        .unwrap_or_else(|_| Err(silent()))
}

/// How far the answerer's clock is ahead at least, whatever the way took.
fn skew(shared: &Shared, welcome: &v1::Welcome, sent_ms: u64) -> i64 {
    let way = clock::now_ms().saturating_sub(sent_ms) as i64;
    // It read its clock between our sending (now - way) and now.
    let now = shared.wall_ms() as i64;
    let theirs = welcome.clock_ms as i64;
    if theirs > now {
        theirs - now
    } else {
        (theirs - (now - way)).min(0)
    }
}

pub(super) fn client(connection: Connection) -> RelayClient<Connection> {
    RelayClient::with_origin(connection, Uri::from_static("https://antiphon/"))
        .max_decoding_message_size(UNIT_BYTES_MAX * 2)
}

pub(super) fn hello(shared: &Shared, node: &NodeId, life: Incarnation) -> v1::Hello {
    let own = &shared.options;
    v1::Hello {
        cluster: own.cluster.clone(),
        protocol: u32::from(own.protocol),
        node: own.node.to_string(),
        incarnation: shared.incarnation().0,
        clock_ms: shared.wall_ms(),
        version: own.version.clone(),
        expects: node.to_string(),
        expects_incarnation: life.0,
        bye: None,
    }
}

/// What the peer says on a connection, its welcome, and when the hello was sent, ms since boot.
type Greeted = (Streaming<v1::ToSender>, v1::Welcome, u64);

/// One class of links to one life of a node.
struct Link {
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    outbox: Arc<Outbox>,
}

impl Link {
    /// Dials until the peer leaves the view.
    async fn keep(self) {
        let mut failures = 0;
        let mut trouble = Trouble::default();
        let mut next = None;
        while !self.peer.is_closed() {
            let end = tokio::select! {
                () = self.peer.until_closed() => return self.broken("the peer left the view"),
                end = self.once(next.take(), &mut trouble) => end,
            };
            let mut pause = Duration::from_millis(PAUSES_MS[failures.min(PAUSES_MS.len() - 1)]);
            failures += 1;
            let is_up = self.outbox.is_up.load(Ordering::Relaxed);
            let is_soft = matches!(&end, End::Turned(way) if way.via.is_none());
            if is_up && !is_soft {
                self.broken(&end.reason());
                (failures, trouble) = (1, Trouble::default());
            }
            match end {
                End::Port => {
                    self.port(true);
                    // Two of these make the evidence that it is gone.
                    let half = self.shared.options.timing.refused_ms / 2;
                    pause = pause.min(Duration::from_millis(half));
                }
                End::Cut(reason) | End::Mute(reason) => {
                    let fields = [("peer", self.peer.node.to_string()), ("reason", reason)];
                    self.shared.log(Level::Debug, "link not opened", &fields);
                }
                End::Refused(refusal) => {
                    let address = self.peer.address.lock().clone();
                    self.shared
                        .refuse(self.peer.node.as_str(), &address, &refusal);
                    pause = match refusal.is_passing() {
                        true => PASSING_PAUSE,
                        false => REFUSED_PAUSE,
                    };
                }
                End::Broken(_) => {}
                End::Turned(way) => {
                    next = Some(way);
                    continue;
                }
            }
            tokio::select! {
                () = self.peer.until_closed() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    fn port(&self, is_refused: bool) {
        if self.outbox.class == Class::Stanza {
            self.shared.tell(LinkEvent::Port {
                peer: self.peer.incarnation,
                is_refused,
            });
        }
    }

    fn broken(&self, reason: &str) {
        let mut state = self.outbox.state.lock();
        state.relay.disconnected();
        state.generation += 1;
        drop(state);
        if self.outbox.is_up.swap(false, Ordering::Relaxed) {
            self.outbox.resets.fetch_add(1, Ordering::Relaxed);
            self.shared.down(&self.peer, self.outbox.class, reason);
        }
    }

    fn address(&self) -> String {
        self.peer.address.lock().clone()
    }

    /// Opens a connection: straight, or where the port has been out of reach for a while, over a
    /// third node.
    async fn reach(&self, trouble: &mut Trouble) -> Result<Way, End> {
        let began_ms = clock::now_ms();
        let end = match self.straight().await {
            Ok(way) => return Ok(way),
            Err(end) => end,
        };
        if !trouble.is_due(began_ms, &end) {
            return Err(end);
        }
        let found = tunnel::over(&self.shared, &self.peer, trouble.rounds).await;
        found.inspect_err(|_| trouble.in_vain())
    }

    async fn straight(&self) -> Result<Way, End> {
        let connection = way::straight(&self.shared, &self.peer.node, &self.address()).await?;
        self.port(false);
        Ok(Way {
            connection,
            via: None,
        })
    }

    /// Returns when there is a better way than the one that the link goes: over a third node when it
    /// is silent and the peer's port cannot be reached, and straight as soon as that works again.
    async fn turn(&self, is_straight: bool) -> Way {
        let mut round = 0;
        loop {
            if !is_straight {
                tokio::time::sleep(STRAIGHT_EVERY).await;
                if let Ok(way) = self.straight().await {
                    return way;
                }
                continue;
            }
            tokio::time::sleep(LOOK_EVERY).await;
            if self.outbox.silent_ms() < DOUBT_MS {
                continue;
            }
            // Where the port opens, the process may be stopped or slow: no way leads to it then. One
            // that refuses is found by dialling it, when the link has broken.
            if let Err(End::Cut(_)) = way::socket(&self.address()).await {
                let found = tunnel::over(&self.shared, &self.peer, round).await;
                round += 1;
                let is_silent = self.outbox.silent_ms() >= DOUBT_MS;
                if let (Ok(way), true) = (found, is_silent) {
                    return way;
                }
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }

    /// One connection from its opening to its end; `opened` is there already.
    async fn once(&self, opened: Option<Way>, trouble: &mut Trouble) -> End {
        let opened = match opened {
            Some(way) => Ok(way),
            None => self.reach(trouble).await,
        };
        let Way { connection, via } = match opened {
            Ok(way) => way,
            Err(end) => return end,
        };
        let (words, welcome, sent) = match self.greet(connection).await {
            Ok(greeted) => greeted,
            Err(end) => return end,
        };
        if let Err(refusal) = self.judge(&welcome, sent) {
            // The words of a peer that refuses us need no answer.
            if welcome.refused.is_empty() {
                self.say_bye(&refusal).await;
            }
            return End::Refused(refusal);
        }
        if let Err(refusal) = self.stand(&welcome, &via) {
            self.say_bye(&refusal).await;
            return End::Refused(refusal);
        }
        *trouble = Trouble::default();
        self.listen(words, via.is_none()).await
    }

    /// Says hello, and hears the answer and when the hello was sent.
    async fn greet(&self, connection: Connection) -> Result<Greeted, End> {
        let generation = {
            let mut state = self.outbox.state.lock();
            // What was sent on a connection before and not received goes again on this one.
            state.relay.disconnected();
            state.generation += 1;
            (state.ping, state.bye) = (None, None);
            state.is_armed = false;
            // Old news.
            state.notes.clear();
            state.generation
        };
        let sent = clock::now_ms();
        let frames = FrameStream {
            shared: Arc::clone(&self.shared),
            outbox: Arc::clone(&self.outbox),
            generation,
            hello: Some(hello(&self.shared, &self.peer.node, self.peer.incarnation)),
            pause: Pause::default(),
        };
        let mut client = client(connection);
        let greeted = async {
            let answer = match self.outbox.class {
                Class::Stanza => client.stanzas(frames).await,
                Class::Bulk => client.bulk(frames).await,
            };
            let mut words = answer.map_err(|s| End::Mute(status_text(&s)))?.into_inner();
            let first = words.message().await;
            let first = first.map_err(|s| End::Mute(status_text(&s)))?;
            match first.and_then(|m| m.kind) {
                Some(v1::to_sender::Kind::Welcome(welcome)) => Ok((words, welcome)),
                _ => Err(End::Mute("no welcome".to_owned())),
            }
        };
        match tokio::time::timeout(GREETING, greeted).await {
            Ok(Ok((words, welcome))) => Ok((words, welcome, sent)),
            Ok(Err(end)) => Err(end),
            Err(_) => Err(End::Mute("no welcome in time".to_owned())),
        }
    }

    fn judge(&self, welcome: &v1::Welcome, sent_ms: u64) -> Result<(), Refusal> {
        if !welcome.refused.is_empty() {
            return Err(Refusal::told(welcome.reason, &welcome.refused));
        }
        let own = &self.shared.options;
        if welcome.cluster != own.cluster {
            let text = format!(
                "it is of cluster {:?}, this is {:?}",
                welcome.cluster, own.cluster
            );
            return Err(Refusal::new(Why::Cluster, text));
        }
        let theirs = u16::try_from(welcome.protocol).unwrap_or(u16::MAX);
        if !speaks_with(theirs, own.protocol) {
            let text = format!(
                "it ({}) speaks version {theirs} of the protocol, this one ({}) {}",
                welcome.version, own.version, own.protocol
            );
            return Err(Refusal::new(Why::Protocol, text));
        }
        let life = Incarnation(welcome.incarnation);
        if welcome.node != self.peer.node.as_str() || life != self.peer.incarnation {
            let text = format!("node {:?} in its life {life} answers there", welcome.node);
            return Err(Refusal::new(Why::Target, text));
        }
        let skew = skew(&self.shared, welcome, sent_ms);
        if skew.unsigned_abs() > SKEW_MAX_MS {
            let text = format!(
                "the clock of node {} is {} ms {} that of node {}; {SKEW_MAX_MS} ms are allowed",
                self.peer.node,
                skew.unsigned_abs(),
                if skew > 0 { "ahead of" } else { "behind" },
                own.node
            );
            return Err(Refusal::new(Why::Clock, text));
        }
        Ok(())
    }

    /// Tells the peer why it is refused; it may be gone already.
    async fn say_bye(&self, refusal: &Refusal) {
        let waker = {
            let mut state = self.outbox.state.lock();
            state.bye = Some(bye(refusal));
            state.alarm.take()
        };
        wake(waker);
        // Until the socket has taken it; nothing depends on it.
        tokio::time::sleep(Duration::from_millis(50)).await;
        self.broken("refused");
    }

    fn stand(&self, welcome: &v1::Welcome, via: &Option<NodeId>) -> Result<(), Refusal> {
        let none = v1::Words::default();
        let message = welcome.words.as_ref().unwrap_or(&none);
        let breach = |e: &dyn std::error::Error| Refusal::new(Why::Breach, e.to_string());
        let words = pack::unwords(message).map_err(|e| breach(&e))?;
        let outcomes = {
            let mut state = self.outbox.state.lock();
            let outcomes = state.relay.connected(&words).map_err(|e| breach(&e))?;
            state.framed = words.received;
            state.is_due = true;
            let waker = state.alarm.take();
            drop(state);
            wake(waker);
            outcomes
        };
        let (peer, class) = (self.peer.incarnation, self.outbox.class);
        self.outbox.heard();
        let before = std::mem::replace(&mut *self.outbox.via.lock(), via.clone());
        self.outbox.is_up.store(true, Ordering::Relaxed);
        self.outbox.connects.fetch_add(1, Ordering::Relaxed);
        let fields = [
            ("peer", self.peer.node.to_string()),
            ("incarnation", peer.to_string()),
            ("class", format!("{class:?}").to_lowercase()),
            ("version", welcome.version.chars().take(64).collect()),
        ];
        self.shared.log(Level::Info, "link up", &fields);
        self.tell_way(before, via);
        self.shared.tell(LinkEvent::Up { peer, class });
        let receiver = &self.shared.receiver;
        receiver.observed(peer, message.clock, Epoch(message.epoch));
        if !outcomes.is_empty() {
            receiver.settled(peer, class, &outcomes);
        }
        Ok(())
    }

    /// For the operator, once for each change.
    fn tell_way(&self, before: Option<NodeId>, via: &Option<NodeId>) {
        let (event, third) = match (before, via) {
            (before, Some(third)) if before.as_ref() != Some(third) => {
                ("link opened over a third node", third.clone())
            }
            (Some(third), None) => ("link is direct again", third),
            _ => return,
        };
        let fields = [
            ("peer", self.peer.node.to_string()),
            ("class", format!("{:?}", self.outbox.class).to_lowercase()),
            ("via", third.to_string()),
        ];
        self.shared.log(Level::Info, event, &fields);
    }

    async fn listen(&self, mut words: Streaming<v1::ToSender>, is_straight: bool) -> End {
        let mut pings = tokio::time::interval(PING_EVERY);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let turn = self.turn(is_straight);
        tokio::pin!(turn);
        loop {
            let message = tokio::select! {
                message = words.message() => message,
                way = &mut turn => return End::Turned(way),
                _ = pings.tick() => {
                    let silent_ms = self.outbox.silent_ms();
                    // Not while we ourselves were stopped: then there are answers to be read.
                    if silent_ms > SILENCE.as_millis() as u64 + PING_EVERY.as_millis() as u64 * 2
                        && !self.peek(&mut words).await
                    {
                        return End::Broken(format!("silent for {silent_ms} ms"));
                    }
                    self.ping();
                    continue;
                }
            };
            self.outbox.heard();
            match message {
                Ok(Some(message)) => {
                    if let Err(refusal) = self.hear(message) {
                        self.broken(&refusal.text);
                        return End::Refused(refusal);
                    }
                }
                Ok(None) => return End::Broken("closed by the peer".to_owned()),
                Err(status) => return End::Broken(status_text(&status)),
            }
        }
    }

    /// Whether something is there to be heard at once.
    async fn peek(&self, words: &mut Streaming<v1::ToSender>) -> bool {
        let soon = tokio::time::timeout(Duration::from_millis(100), words.message()).await;
        match soon {
            Ok(Ok(Some(message))) => self.hear(message).is_ok(),
            _ => false,
        }
    }

    fn ping(&self) {
        let mut state = self.outbox.state.lock();
        state.ping = Some(clock::now_ms());
        state.is_due = true;
        let waker = state.alarm.take();
        drop(state);
        wake(waker);
    }

    fn hear(&self, message: v1::ToSender) -> Result<(), Refusal> {
        let (peer, class) = (self.peer.incarnation, self.outbox.class);
        match message.kind {
            Some(v1::to_sender::Kind::Words(message)) => {
                let breach = |e: &dyn std::error::Error| Refusal::new(Why::Breach, e.to_string());
                let words = pack::unwords(&message).map_err(|e| breach(&e))?;
                let receiver = &self.shared.receiver;
                receiver.observed(peer, message.clock, Epoch(message.epoch));
                let outcomes = {
                    let mut state = self.outbox.state.lock();
                    let outcomes = state.relay.heard(&words).map_err(|e| breach(&e))?;
                    // There may be room now for what waits.
                    let waits = state.queued > state.framed;
                    let waker = waits.then(|| state.alarm.take()).flatten();
                    drop(state);
                    wake(waker);
                    outcomes
                };
                if !outcomes.is_empty() {
                    receiver.settled(peer, class, &outcomes);
                }
                Ok(())
            }
            Some(v1::to_sender::Kind::Bye(bye)) => Err(Refusal::told(bye.reason, &bye.text)),
            _ => Ok(()),
        }
    }
}

pub(super) fn status_text(status: &tonic::Status) -> String {
    match std::error::Error::source(status) {
        Some(source) => format!("{}: {}", status.message(), dial::chain(source)),
        None => status.message().to_owned(),
    }
}

/// What goes out, made when the socket takes it: so a frame holds all that has queued meanwhile.
struct FrameStream {
    shared: Arc<Shared>,
    outbox: Arc<Outbox>,
    generation: u64,
    hello: Option<v1::Hello>,
    pause: Pause,
}

impl Stream for FrameStream {
    type Item = v1::ToReceiver;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        use v1::to_receiver::Kind;
        let say = |kind| Poll::Ready(Some(v1::ToReceiver { kind: Some(kind) }));
        if let Some(hello) = self.hello.take() {
            return say(Kind::Hello(hello));
        }
        let this = &mut *self;
        let mut state = this.outbox.state.lock();
        if state.generation != this.generation {
            return Poll::Ready(None);
        }
        if let Some(bye) = state.bye.take() {
            return say(Kind::Bye(bye));
        }
        if let Some(sent_ms) = state.ping.take() {
            return say(Kind::Ping(v1::Ping { sent_ms }));
        }
        if let Some(note) = state.notes.pop_front() {
            return say(Kind::Note(note));
        }
        let has_units = state.queued > state.framed;
        if has_units && !state.is_urgent && !state.is_armed {
            this.pause.arm(UNIT_PATIENCE);
            state.is_armed = true;
        }
        // What has found no room on the link waits for the peer's words instead.
        let is_time = state.is_urgent || this.pause.is_over(cx);
        if (has_units && is_time) || state.is_due {
            state.is_due = false;
            if let Some(frame) = state.relay.frame(FRAME_BYTES) {
                let last = frame.first + frame.stanzas.len() as u64 - 1;
                state.framed = state.framed.max(last);
                if state.framed >= state.queued {
                    (state.is_urgent, state.is_armed) = (false, false);
                } else {
                    state.is_urgent = true;
                }
                drop(state);
                this.pause.went();
                let telling = &this.shared.telling;
                let epoch = telling.epoch.load(Ordering::Relaxed);
                let clock = telling.clock.load(Ordering::Relaxed);
                return say(Kind::Frame(pack::frame(frame, epoch, clock)));
            }
        }
        state.alarm.set(cx.waker());
        Poll::Pending
    }
}
