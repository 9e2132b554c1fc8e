//! A component's connection (XEP-0114).

use crate::conn::{BACKLOG, Driver, Step};
use crate::gateway::{Count, Gateway};
use crate::session::{FIRST_GENERATION, Session, append};
use antiphon_xmpp::Jid;
use antiphon_xmpp::stream::c2s::Channel;
use antiphon_xmpp::stream::component::{Action, Config, Stream};
use antiphon_xmpp::stream::framing::{Framing, Outgoing};
use antiphon_xmpp::stream::{StreamCondition, StreamError};
use std::sync::Arc;
use std::task::Context;

/// For the handshake of a component.
const LOGIN_MS: u64 = 30_000;
/// Bytes read ahead of a component that is held up.
const READ_AHEAD: usize = 256 * 1024;

/// One component's stream and its place in the router.
pub struct Component {
    gateway: Arc<dyn Gateway>,
    stream: Stream,
    out: Outgoing,
    session: Option<Arc<Session>>,
    started_ms: u64,
    /// Written and not yet taken by the socket.
    backlog: usize,
    is_over: bool,
}

impl Component {
    /// A connection that waits for the component's header.
    pub fn new(gateway: Arc<dyn Gateway>, config: Arc<Config>) -> Self {
        let started_ms = gateway.now_ms();
        Self {
            stream: Stream::new(config),
            gateway,
            out: Outgoing::new(Framing::Tcp),
            session: None,
            started_ms,
            backlog: 0,
            is_over: false,
        }
    }

    /// Whether nothing more may be read of the component now.
    fn is_blocked(&self) -> bool {
        match &self.session {
            None => self.backlog >= BACKLOG,
            Some(session) => session.is_saving() || (self.backlog > 0 && session.is_behind()),
        }
    }

    fn admit(&mut self, domain: &Jid) {
        match self.gateway.component_up(domain) {
            Ok(session) => {
                let mut out = Outgoing::new(Framing::Tcp);
                self.stream.admitted(Ok(()), &mut out);
                session.prepend(out);
                self.session = Some(session);
            }
            Err(error) => self.stream.admitted(Err(error.condition), &mut self.out),
        }
    }

    fn act(&mut self, action: Action, now_ms: u64) {
        match (action, &self.session) {
            (Action::Authenticated(domain), _) => self.admit(&domain),
            (Action::Stanza(stanza), Some(session)) => {
                self.gateway.component_stanza(session, stanza)
            }
            (Action::Answer(stanza), Some(session)) => {
                // A full queue ends the session, and then there is nobody to answer.
                let _ = session.deliver(stanza, None, now_ms);
            }
            (Action::Stanza(_) | Action::Answer(_), None) => {}
            (Action::Close(_), _) => self.end(),
        }
    }

    fn look_at_session(&mut self, cx: &Context<'_>) {
        let Some(session) = &self.session else { return };
        let taken = if self.backlog > 0 {
            session.look(FIRST_GENERATION, cx.waker())
        } else {
            session.take(FIRST_GENERATION, cx.waker())
        };
        append(&mut self.out, taken.out);
        if let Some(error) = taken.close {
            self.fail(error);
        }
    }

    fn fail(&mut self, error: StreamError) {
        self.gateway
            .count(Count::StreamError(error.condition.name()));
        self.stream.close(Some(error), &mut self.out);
        self.end();
    }

    fn end(&mut self) {
        self.is_over = true;
        if let Some(session) = self.session.take() {
            append(
                &mut self.out,
                session.take(FIRST_GENERATION, std::task::Waker::noop()).out,
            );
            self.gateway.component_down(&session);
        }
    }
}

impl Driver for Component {
    fn feed(&mut self, bytes: &[u8]) {
        self.stream.feed(bytes);
    }

    fn poll(&mut self, cx: &mut Context<'_>, now_ms: u64) -> Step {
        let gateway = Arc::clone(&self.gateway);
        let mut random = |buf: &mut [u8]| gateway.random(buf);
        while !self.is_over && !self.is_blocked() {
            let mut out = Outgoing::new(Framing::Tcp);
            let action = self.stream.poll(&mut random, &mut out);
            match &self.session {
                Some(session) if !out.is_empty() => session.write(out),
                _ => append(&mut self.out, out),
            }
            match action {
                Some(action) => self.act(action, now_ms),
                None => break,
            }
        }
        if !self.is_over && self.gateway.is_stopping() {
            self.fail(StreamCondition::SystemShutdown.into());
        }
        if !self.is_over && self.session.is_none() && now_ms >= self.started_ms + LOGIN_MS {
            self.fail(StreamCondition::ConnectionTimeout.into());
        }
        if !self.is_over {
            self.look_at_session(cx);
        }
        if self.is_over {
            Step::Close
        } else {
            Step::Idle
        }
    }

    fn backlog(&mut self, bytes: usize) {
        self.backlog = bytes;
        if let Some(session) = &self.session {
            session.set_unsent(bytes);
        }
    }

    fn take_out(&mut self) -> Outgoing {
        std::mem::replace(&mut self.out, Outgoing::new(Framing::Tcp))
    }

    fn flushed(&mut self) {}

    fn tls_started(&mut self, _channel: Channel) {}

    fn is_logged_in(&self) -> bool {
        self.session.is_some()
    }

    fn wants_read(&self) -> bool {
        !self.is_over && self.stream.buffered() < READ_AHEAD
    }

    fn lost(&mut self) {
        if !self.is_over {
            self.end();
        }
    }

    fn due_ms(&self) -> u64 {
        if self.session.is_none() {
            self.started_ms + LOGIN_MS
        } else {
            u64::MAX
        }
    }

    fn abort(&mut self) {
        self.fail(StreamCondition::InternalServerError.into());
    }
}

impl Drop for Component {
    /// However the connection's task ends, its domain becomes free.
    fn drop(&mut self) {
        self.lost();
    }
}
