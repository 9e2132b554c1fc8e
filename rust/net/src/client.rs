//! A client's connection: carries out what its stream asks for (RFC 6120, XEP-0198, XEP-0352).

use crate::conn::{BACKLOG, Driver, Step};
use crate::gateway::{Count, Ended, Flow, Gateway, Later, Peer, ResumeFailed};
use crate::pace::{Pace, Paces};
use crate::session::{FIRST_GENERATION, Session, append};
use antiphon_xmpp::sasl::{Answer, Query};
use antiphon_xmpp::stanza::{Stanza, StanzaError, StanzaKind};
use antiphon_xmpp::stream::c2s::{Action, Channel, Config, Stream};
use antiphon_xmpp::stream::framing::{Framing, Outgoing};
use antiphon_xmpp::stream::sm::{SmEnabled, SmFailed};
use antiphon_xmpp::stream::{StreamCondition, StreamError};
use antiphon_xmpp::{Element, Jid, ns};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::time::{Duration, Sleep, sleep};

/// What a request before login counts as: it is work for Python, and anybody's.
const REGISTRATION_STANZAS: u64 = 10;

/// Rates and deadlines of client connections; 0 turns one off.
#[derive(Debug, Clone, Copy)]
pub struct ClientLimits {
    /// From connecting to binding or resuming.
    pub login_seconds: u64,
    /// Stanzas, after login.
    pub stanzas_per_second: u64,
    /// Stanzas at once beyond that.
    pub burst_stanzas: u64,
    /// Bytes.
    pub bytes_per_second: u64,
    /// Bytes at once beyond that.
    pub burst_bytes: u64,
    /// Silence after which the server pings (XEP-0199 #s2c).
    pub ping_seconds: u64,
    /// Silence after that ping which ends the connection.
    pub ping_timeout_seconds: u64,
    /// Bytes buffered before the socket is no longer read.
    pub read_ahead: usize,
}

/// What a client is held to, and what its account has left of it from other connections.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// Rates and deadlines.
    pub limits: Arc<ClientLimits>,
    /// By account.
    pub paces: Arc<Paces>,
}

enum Reply {
    Auth(Answer),
    Bound(Result<Arc<Session>, StanzaError>),
    Resumed(Result<(Arc<Session>, u32), ResumeFailed>),
    Registered(Stanza),
}

/// One client connection's stream and session.
pub struct Client {
    gateway: Arc<dyn Gateway>,
    bounds: Bounds,
    peer: Peer,
    framing: Framing,
    stream: Stream,
    /// Written before there is a session, and after it is gone.
    out: Outgoing,
    session: Option<(Arc<Session>, u64)>,
    later: Option<Later<Reply>>,
    pace: Pace,
    throttle: Option<Pin<Box<Sleep>>>,
    offline: Vec<u64>,
    started_ms: u64,
    last_read_ms: u64,
    /// When the unanswered ping was sent, 0 for none.
    pinged_ms: u64,
    fed: usize,
    /// Written and not yet taken by the socket.
    backlog: usize,
    is_over: bool,
    is_peer_done: bool,
    ping_count: u32,
    failures: u32,
}

impl Client {
    /// A connection that waits for the client's stream header.
    pub fn new(
        gateway: Arc<dyn Gateway>,
        config: Arc<Config>,
        bounds: Bounds,
        peer: Peer,
        framing: Framing,
        channel: Channel,
    ) -> Self {
        let now_ms = gateway.now_ms();
        let pace = Pace::new(&bounds.limits, now_ms);
        Self {
            stream: Stream::new(config, framing, channel),
            gateway,
            bounds,
            peer,
            framing,
            out: Outgoing::new(framing),
            session: None,
            later: None,
            pace,
            throttle: None,
            offline: Vec::new(),
            started_ms: now_ms,
            last_read_ms: now_ms,
            pinged_ms: 0,
            fed: 0,
            backlog: 0,
            is_over: false,
            is_peer_done: false,
            ping_count: 0,
            failures: 0,
        }
    }

    fn run(&mut self, cx: &mut Context<'_>, now_ms: u64) -> Option<Step> {
        let gateway = Arc::clone(&self.gateway);
        let mut random = |buf: &mut [u8]| gateway.random(buf);
        loop {
            if self.is_over || !self.poll_later(cx, now_ms) || !self.poll_throttle(cx, now_ms) {
                return None;
            }
            if self.is_blocked() {
                return None;
            }
            let mut out = Outgoing::new(self.framing);
            let action = self.stream.poll(&mut random, &mut out);
            let is_end = matches!(action, Some(Action::Close(_)));
            if !is_end {
                self.write(std::mem::replace(&mut out, Outgoing::new(self.framing)));
            }
            self.count_failures();
            let step = self.act(action?, now_ms);
            // Behind all that the session still had: nothing follows the end of a stream
            // (RFC 6120 §4.4, RFC 7395 §3.6).
            append(&mut self.out, out);
            if step.is_some() {
                return step;
            }
        }
    }

    /// Whether nothing more may be read of the client now.
    fn is_blocked(&self) -> bool {
        match &self.session {
            None => self.backlog >= BACKLOG,
            Some((session, _)) => {
                session.is_held()
                    || session.is_saving()
                    || (self.backlog > 0 && session.is_behind())
            }
        }
    }

    /// In order with the session's stanzas, where there is one.
    fn write(&mut self, out: Outgoing) {
        if out.bytes.is_empty() {
            return;
        }
        match &self.session {
            Some((session, _)) => session.write(out),
            None => append(&mut self.out, out),
        }
    }

    fn act(&mut self, action: Action, now_ms: u64) -> Option<Step> {
        match action {
            Action::StartTls(domain) => return Some(Step::StartTls(domain.as_str().to_owned())),
            Action::Auth(query) => self.authenticate(query),
            Action::Authenticated(account, mechanism) => {
                self.gateway.authenticated(&account, mechanism)
            }
            Action::Bind { account, resource } => {
                let bound = self.gateway.bind(account, resource, self.framing);
                self.later = Some(Box::pin(async { Reply::Bound(bound.await) }));
            }
            Action::Stanza(stanza) => self.stanza(stanza, now_ms),
            Action::Answer(stanza) => self.answered(stanza, now_ms),
            Action::Register(iq) => {
                let wait = self.pace.stanzas(REGISTRATION_STANZAS, now_ms);
                self.slow_down(wait, now_ms);
                let answer = self.gateway.register(iq, self.peer);
                self.later = Some(Box::pin(async { Reply::Registered(answer.await) }));
            }
            Action::SmEnable { resume, max } => self.sm_enable(resume, max),
            Action::SmResume { account, previd, h } => {
                let resumed = self.gateway.sm_resume(account, previd, h);
                self.later = Some(Box::pin(async { Reply::Resumed(resumed.await) }));
            }
            Action::SmAck(h) => self.sm_ack(h),
            Action::SmRequest => {
                if let Some((session, _)) = &self.session {
                    session.answer_ack_request();
                }
            }
            Action::Csi(is_active) => {
                if let Some((session, _)) = &self.session {
                    session.set_active(is_active, now_ms);
                }
            }
            Action::Close(error) => {
                self.is_peer_done = error.is_none();
                self.end(Ended::Closed(error));
                return Some(Step::Close);
            }
        }
        None
    }

    fn authenticate(&mut self, query: Query) {
        if !self.gateway.may_authenticate(self.peer) {
            self.stream.auth_answer(Answer::Unavailable);
            return;
        }
        let answer = self.gateway.auth(query, self.peer);
        self.later = Some(Box::pin(async { Reply::Auth(answer.await) }));
    }

    fn stanza(&mut self, stanza: Stanza, now_ms: u64) {
        let Some((session, generation)) = &self.session else {
            return;
        };
        let Some(seq) = session.received_by(*generation) else {
            // Resumed elsewhere: not counted there, so the client sends it again.
            return;
        };
        if self.gateway.stanza(session, stanza, seq) == Flow::Hold {
            session.hold();
        }
        let wait = self.pace.stanzas(1, now_ms);
        self.slow_down(wait, now_ms);
    }

    /// The stream has judged a stanza by itself.
    fn answered(&mut self, answer: Option<Stanza>, now_ms: u64) {
        let Some((session, generation)) = &self.session else {
            return;
        };
        let Some(seq) = session.received_by(*generation) else {
            return;
        };
        session.handled(seq);
        if let Some(answer) = answer {
            // A full queue ends the session; there is nobody else to tell.
            let _ = session.deliver(answer, None, now_ms);
        }
    }

    /// Failed logins count against the address.
    fn count_failures(&mut self) {
        while self.failures < self.stream.failed_logins() {
            self.failures += 1;
            self.gateway.auth_failed(self.peer);
        }
    }

    fn sm_enable(&mut self, resume: bool, max: Option<u32>) {
        let Some((session, _)) = &self.session else {
            return;
        };
        let enabled = self.gateway.sm_enable(session, resume, max);
        let mut out = Outgoing::new(self.framing);
        let (id, max) = enabled.resume.unzip();
        let enabled = SmEnabled {
            resume: id.is_some(),
            id,
            max,
            location: enabled.location,
        };
        self.stream.sm_enabled(Ok(enabled), &mut out);
        session.enable_sm(out);
    }

    fn sm_ack(&mut self, h: u32) {
        let Some((session, _)) = &self.session else {
            return;
        };
        match session.acked(h) {
            Ok(ids) if ids.is_empty() => {}
            Ok(ids) => self.gateway.offline_received(&session.jid, ids),
            Err(ahead) => self.fail(ahead.stream_error()),
        }
    }

    fn poll_later(&mut self, cx: &mut Context<'_>, now_ms: u64) -> bool {
        let Some(later) = &mut self.later else {
            return true;
        };
        let Poll::Ready(reply) = later.as_mut().poll(cx) else {
            return false;
        };
        self.later = None;
        let mut out = Outgoing::new(self.framing);
        match reply {
            Reply::Auth(answer) => self.stream.auth_answer(answer),
            Reply::Registered(iq) => self.stream.answer_iq(&iq, &mut out),
            Reply::Bound(Err(error)) => self.stream.bound(Err(error), &mut out),
            Reply::Bound(Ok(session)) => {
                self.stream.bound(Ok(session.jid.clone()), &mut out);
                session.prepend(std::mem::replace(&mut out, Outgoing::new(self.framing)));
                self.carry(session, FIRST_GENERATION, now_ms);
            }
            Reply::Resumed(Ok((session, h))) => {
                self.stream
                    .sm_resumed(Ok((session.jid.clone(), h)), &mut out);
                let generation = session.attach(
                    self.framing,
                    std::mem::replace(&mut out, Outgoing::new(self.framing)),
                );
                self.carry(session, generation, now_ms);
            }
            Reply::Resumed(Err(ResumeFailed::Failed { condition, h })) => {
                self.stream
                    .sm_resumed(Err(SmFailed { condition, h }), &mut out);
            }
            Reply::Resumed(Err(ResumeFailed::AckAhead(ahead))) => self.fail(ahead.stream_error()),
        }
        self.write(out);
        true
    }

    /// The connection carries this session from now on, at its account's pace.
    fn carry(&mut self, session: Arc<Session>, generation: u64, now_ms: u64) {
        let (paces, pace) = (&self.bounds.paces, &mut self.pace);
        paces.go_on(&session.jid, pace, now_ms);
        let owed_ms = pace.stanzas(0, now_ms).max(pace.bytes(0, now_ms));
        self.session = Some((session, generation));
        self.slow_down(owed_ms, now_ms);
    }

    /// Whoever logs in to this account next has no more than this connection has left.
    fn keep_pace(&self, session: &Session, now_ms: u64) {
        self.bounds.paces.keep(&session.jid, &self.pace, now_ms);
    }

    fn slow_down(&mut self, wait_ms: u64, now_ms: u64) {
        if wait_ms > 0 {
            self.gateway.count(Count::Throttled);
            if let Some((session, _)) = &self.session {
                // It may stay for as long as it likes.
                self.keep_pace(session, now_ms);
            }
            self.throttle = Some(Box::pin(sleep(Duration::from_millis(wait_ms))));
        }
    }

    fn poll_throttle(&mut self, cx: &mut Context<'_>, now_ms: u64) -> bool {
        if self.fed > 0 {
            let fed = std::mem::take(&mut self.fed);
            let wait = self.pace.bytes(fed as u64, now_ms);
            self.slow_down(wait, now_ms);
        }
        match &mut self.throttle {
            None => true,
            Some(sleep) => match sleep.as_mut().poll(cx) {
                Poll::Pending => false,
                Poll::Ready(()) => {
                    self.throttle = None;
                    true
                }
            },
        }
    }

    /// Ends the stream from our side.
    fn fail(&mut self, error: StreamError) {
        self.gateway
            .count(Count::StreamError(error.condition.name()));
        // First, so that nothing that the session still has comes behind the end of the stream.
        self.end(Ended::Closed(Some(error.clone())));
        self.stream.close(Some(error), &mut self.out);
    }

    fn end(&mut self, how: Ended) {
        if let Ended::Closed(_) = how {
            self.collect();
        }
        self.is_over = true;
        self.later = None;
        if let Some((session, generation)) = self.session.take() {
            session.release();
            let now_ms = self.gateway.now_ms();
            self.keep_pace(&session, now_ms);
            // A session that was resumed elsewhere meanwhile goes on there.
            if session.leave(generation, now_ms) {
                self.gateway.ended(session, how);
            }
        }
    }

    /// Takes what the session has for this connection, without looking at its wishes.
    fn collect(&mut self) {
        if let Some((session, generation)) = &self.session {
            let taken = session.take(*generation, std::task::Waker::noop());
            append(&mut self.out, taken.out);
            self.offline.extend(taken.offline);
        }
    }

    fn look_at_session(&mut self, cx: &Context<'_>) {
        let Some((session, generation)) = &self.session else {
            return;
        };
        // What the socket does not take yet stays in the session, where it is bounded.
        let taken = if self.backlog > 0 {
            session.look(*generation, cx.waker())
        } else {
            session.take(*generation, cx.waker())
        };
        append(&mut self.out, taken.out);
        self.offline.extend(taken.offline);
        if taken.is_replaced {
            self.keep_pace(session, self.gateway.now_ms());
            self.session = None;
            self.is_over = true;
            let error = taken.close.unwrap_or_else(|| {
                StreamError::from(StreamCondition::Conflict)
                    .with_text("the session was resumed elsewhere")
            });
            self.stream.close(Some(error), &mut self.out);
        } else if let Some(error) = taken.close {
            self.fail(error);
        }
    }

    fn check_deadlines(&mut self, now_ms: u64) {
        let limits = &*self.bounds.limits;
        if self.gateway.is_stopping() {
            self.fail(StreamCondition::SystemShutdown.into());
            return;
        }
        if self.session.is_none() {
            if limits.login_seconds > 0 && now_ms >= self.started_ms + limits.login_seconds * 1000 {
                let error = StreamError::from(StreamCondition::ConnectionTimeout)
                    .with_text("login took too long");
                self.fail(error);
            }
            return;
        }
        if limits.ping_seconds == 0 {
            return;
        }
        let is_saving = self.session.as_ref().is_some_and(|(s, _)| s.is_saving());
        if self.throttle.is_some() || is_saving {
            // The silence is ours.
            self.last_read_ms = now_ms;
            self.pinged_ms = 0;
        }
        if self.pinged_ms > 0 {
            if now_ms >= self.pinged_ms + limits.ping_timeout_seconds * 1000 {
                // Dead, not closed: the session may be resumed.
                self.collect();
                let error = StreamError::from(StreamCondition::ConnectionTimeout);
                self.stream.close(Some(error), &mut self.out);
                self.end(Ended::Lost);
            }
        } else if now_ms >= self.last_read_ms + limits.ping_seconds * 1000 {
            self.ping(now_ms);
        }
    }

    fn ping(&mut self, now_ms: u64) {
        let Some((session, _)) = &self.session else {
            return;
        };
        let Ok(host) = Jid::parse(session.jid.domain()) else {
            return;
        };
        self.ping_count += 1;
        let ping = Stanza::new(StanzaKind::Iq)
            .with_type("get")
            .with_id(&format!("ping-{}-{}", session.id.number, self.ping_count))
            .from(host)
            .to(session.jid.clone())
            .with_child(&Element::new(ns::PING, "ping"));
        self.pinged_ms = now_ms;
        let _ = session.deliver(ping, None, now_ms);
    }
}

impl Driver for Client {
    fn feed(&mut self, bytes: &[u8]) {
        self.fed += bytes.len();
        self.stream.feed(bytes);
    }

    fn poll(&mut self, cx: &mut Context<'_>, now_ms: u64) -> Step {
        if self.is_over {
            return Step::Close;
        }
        if self.fed > 0 {
            self.last_read_ms = now_ms;
            self.pinged_ms = 0;
        }
        let step = self.run(cx, now_ms);
        if !self.is_over {
            self.check_deadlines(now_ms);
        }
        if !self.is_over {
            self.look_at_session(cx);
        }
        if self.is_over {
            Step::Close
        } else {
            step.unwrap_or(Step::Idle)
        }
    }

    fn backlog(&mut self, bytes: usize) {
        self.backlog = bytes;
        if let Some((session, _)) = &self.session {
            session.set_unsent(bytes);
        }
    }

    fn take_out(&mut self) -> Outgoing {
        std::mem::replace(&mut self.out, Outgoing::new(self.framing))
    }

    fn flushed(&mut self) {
        if !self.offline.is_empty() {
            let ids = std::mem::take(&mut self.offline);
            if let Some((session, _)) = &self.session {
                self.gateway.offline_received(&session.jid, ids);
            }
        }
    }

    fn tls_started(&mut self, channel: Channel) {
        self.stream.tls_started(channel);
    }

    fn is_logged_in(&self) -> bool {
        self.session.is_some()
    }

    fn wants_read(&self) -> bool {
        !self.is_over
            && self.throttle.is_none()
            && self.stream.buffered() < self.bounds.limits.read_ahead
    }

    fn lost(&mut self) {
        if !self.is_over {
            self.end(Ended::Lost);
        }
    }

    fn due_ms(&self) -> u64 {
        let limits = &*self.bounds.limits;
        match (&self.session, self.pinged_ms) {
            (None, _) if limits.login_seconds > 0 => self.started_ms + limits.login_seconds * 1000,
            (Some(_), 0) if limits.ping_seconds > 0 => {
                self.last_read_ms + limits.ping_seconds * 1000
            }
            (Some(_), pinged) if limits.ping_seconds > 0 => {
                pinged + limits.ping_timeout_seconds * 1000
            }
            _ => u64::MAX,
        }
    }

    fn is_peer_done(&self) -> bool {
        self.is_peer_done
    }

    fn abort(&mut self) {
        let error = StreamError::from(StreamCondition::InternalServerError);
        self.out = Outgoing::new(self.framing);
        self.stream.close(Some(error), &mut self.out);
        self.end(Ended::Lost);
    }
}

impl Drop for Client {
    /// However the connection's task ends, its session does not stay behind.
    fn drop(&mut self) {
        self.lost();
    }
}
