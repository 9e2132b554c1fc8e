//! The node as its sockets see it.

use crate::node::{Busy, DEBUG, Node};
use crate::sessions::{Resumable, ResumeId};
use antiphon_net::gateway::{
    Count, Enabled, Ended, Flow, Gateway, HttpRequest, HttpResponse, Later, Peer, ResumeFailed,
};
use antiphon_net::session::Session;
use antiphon_routing::SessionId;
use antiphon_routing::effect::Effects;
use antiphon_routing::home::shard_of;
use antiphon_routing::matching::Target;
use antiphon_routing::store::{Store, StoreError, Write};
use antiphon_routing::user::User;
use antiphon_xmpp::Jid;
use antiphon_xmpp::sasl::{Answer, Mechanism, Query};
use antiphon_xmpp::stanza::{Stanza, StanzaCondition, StanzaError};
use antiphon_xmpp::stream::{Framing, StreamCondition, StreamError};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::oneshot;

/// How long a resumption waits for what the old stream brought to be committed.
const SETTLE_MS: u64 = 10_000;
/// Bytes of randomness in a resumption id and in a resource that the server makes up.
const ID_BYTES: usize = 16;

/// The gateway: an `Arc` of the node.
pub struct NodeGateway(pub Arc<Node>);

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            // Writing to a string does not fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// What [`hex`] wrote of a resumption id; `None`: not one of ours.
fn resume_id(text: &str) -> Option<ResumeId> {
    let number = u128::from_str_radix(text, 16).ok()?;
    (text.len() == 2 * ID_BYTES).then(|| number.to_be_bytes())
}

impl Node {
    fn random_bytes(&self) -> [u8; ID_BYTES] {
        let mut bytes = [0; ID_BYTES];
        self.fill_random(&mut bytes);
        bytes
    }

    pub(crate) fn random_id(&self) -> String {
        hex(&self.random_bytes())
    }

    fn session_id(&self) -> SessionId {
        SessionId {
            node: self.locator.incarnation(),
            number: self.sessions.next_number(),
        }
    }

    async fn bind(
        self: Arc<Self>,
        account: Jid,
        resource: Option<String>,
        framing: Framing,
    ) -> Result<Arc<Session>, StanzaError> {
        if self.mesh.as_deref().is_some_and(|m| !m.takes_sessions()) {
            return Err(Busy.into());
        }
        let resource = resource.unwrap_or_else(|| self.random_id());
        let jid = account
            .with_resource(&resource)
            .map_err(|_| StanzaCondition::BadRequest)?;
        let session = Arc::new(Session::new(
            self.session_id(),
            jid,
            framing,
            self.live.load().queue,
        ));
        self.sessions.insert(Arc::clone(&session));
        let guard = Abandoned::new(&self, &session);
        let away = || self.elsewhere(account.as_str()).map(|(_, shard)| shard);
        let mut shard = away();
        let mut result = Err(Busy.into());
        if shard.is_none() {
            result = self.bind_here(&account, &session).await;
            // Its entity has just moved, or this node is not sure of its place for a moment: the
            // lane waits for the end of either.
            if result == Err(Busy.into()) && self.mesh.is_some() {
                shard = Some(shard_of(account.as_str()));
            }
        }
        if let Some(shard) = shard {
            let is_temporary = self.is_awaited_guest(&account);
            result = self.bind_elsewhere(shard, &session, is_temporary).await;
        }
        guard.disarm();
        match result {
            Ok(()) => {
                self.log_session("session bound", &session, String::new);
                Ok(session)
            }
            Err(error) => {
                self.sessions.remove(&session);
                Err(error)
            }
        }
    }

    async fn bind_here(
        self: &Arc<Self>,
        account: &Jid,
        session: &Arc<Session>,
    ) -> Result<(), StanzaError> {
        let (answer, receiver) = oneshot::channel();
        let (id, full) = (session.id, session.jid.clone());
        let job =
            move |node: &Arc<Self>, user: Result<&mut User, &StoreError>, fx: &mut Effects| {
                let result = match user {
                    Ok(user) => user.bind(id, &full, &node.live.load().policy, fx),
                    Err(error) => Err(crate::node::store_error(error)),
                };
                // The connection may have gone meanwhile: the guard ends the session then.
                let _ = answer.send(result);
            };
        self.on_user(account, job)?;
        receiver
            .await
            .unwrap_or(Err(StanzaCondition::InternalServerError.into()))
    }

    async fn resume(
        self: Arc<Self>,
        account: Jid,
        previd: String,
        h: u32,
    ) -> Result<(Arc<Session>, u32), ResumeFailed> {
        let id = resume_id(&previd);
        let mut h_then = id.and_then(|id| self.sessions.last_h(id));
        let mut session = id.and_then(|id| self.sessions.by_resume_id(id));
        if session
            .as_ref()
            .is_some_and(|s| s.jid.bare_str() != account.as_str())
        {
            // Somebody else's: as if there were none.
            return Err(ResumeFailed::Failed {
                condition: StanzaCondition::ItemNotFound,
                h: None,
            });
        }
        let mut claim = session.as_deref().and_then(|s| self.claim(s));
        if let Some(id) = id.filter(|_| claim.is_none()) {
            match self.resume_from_elsewhere(&account, id).await {
                Ok(found) => {
                    claim = self.claim(&found);
                    session = Some(found);
                }
                Err(h) => h_then = h.or(h_then),
            }
        }
        let not_found = || ResumeFailed::Failed {
            condition: StanzaCondition::ItemNotFound,
            h: h_then,
        };
        let (Some(session), Some(claim)) = (session, claim) else {
            return Err(not_found());
        };
        self.sessions.attached(session.id);
        let guard = Abandoned::new(&self, &session);
        let Some(handled) = self.settled(&session).await else {
            guard.disarm();
            self.end_session(&session);
            return Err(not_found());
        };
        guard.disarm();
        if !session.is_claimed(claim) {
            // Of two that resume at once the later one has it.
            return Err(not_found());
        }
        match session.acked(h) {
            Ok(ids) => {
                self.delete_offline(&session.jid, ids);
                self.metrics.resumed.inc();
                self.log_session("session resumed", &session, String::new);
                Ok((session, handled))
            }
            Err(ahead) => {
                self.end_session(&session);
                Err(ResumeFailed::AckAhead(ahead))
            }
        }
    }

    /// Waits until all that a session brought is handled, and is stored where it has to be; how
    /// much that is. `None`: it takes too long.
    pub(crate) async fn settled(&self, session: &Session) -> Option<u32> {
        let deadline = self.now() + SETTLE_MS;
        loop {
            match session.inbound() {
                Some((handled, true)) => return Some(handled),
                Some(_) if self.now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(5)).await
                }
                _ => return None,
            }
        }
    }

    /// The life of sessions is logged at debug level only: a busy node would write little else.
    fn log_session(&self, event: &'static str, session: &Session, reason: impl FnOnce() -> String) {
        if self.bridge.logs(DEBUG) {
            let fields = vec![("jid", session.jid.to_string()), ("reason", reason())];
            self.bridge.log(DEBUG, event, fields);
        }
    }

    pub(crate) fn delete_offline(self: &Arc<Self>, account: &Jid, ids: Vec<u64>) {
        if ids.is_empty() {
            return;
        }
        if let Some((mesh, shard)) = self.elsewhere(account.bare_str()) {
            self.received_elsewhere(mesh, shard, account.bare(), ids);
        } else {
            self.delete_offline_here(account, ids);
        }
    }

    pub(crate) fn delete_offline_here(&self, account: &Jid, ids: Vec<u64>) {
        let write = Write::OfflineDelete {
            owner: account.bare(),
            ids,
        };
        let guard = self.keep_shard(account.bare_str());
        // Not deleted means delivered once more, which is better than lost.
        self.store.write(write, Box::new(move |_| drop(guard)));
    }

    /// A session has no connection any more.
    pub(crate) fn lost(self: &Arc<Self>, session: &Arc<Session>) {
        let is_kept = !self.stopping() && self.sessions.detached(session.id, self.now());
        if !is_kept || session.is_closed() {
            self.end_session(session);
        }
    }
}

/// Gives a session that a connection is about to carry the end of a lost one, should the connection
/// be gone before.
pub(crate) struct Abandoned(Option<(Arc<Node>, Arc<Session>)>);

impl Abandoned {
    pub fn new(node: &Arc<Node>, session: &Arc<Session>) -> Self {
        Self(Some((Arc::clone(node), Arc::clone(session))))
    }

    pub fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for Abandoned {
    fn drop(&mut self) {
        if let Some((node, session)) = self.0.take() {
            node.lost(&session);
        }
    }
}

impl Gateway for NodeGateway {
    fn auth(&self, query: Query, _peer: Peer) -> Later<Answer> {
        Box::pin(Arc::clone(&self.0).answer_query(query))
    }

    fn may_authenticate(&self, peer: Peer) -> bool {
        let limit = self.0.live.load().config.limits.auth_failures_per_minute;
        !self.0.failures.is_over(peer.ip, limit, self.0.now())
    }

    fn auth_failed(&self, peer: Peer) {
        self.0.metrics.auth_failures.inc();
        self.0.failures.count(peer.ip, self.0.now());
    }

    fn authenticated(&self, account: &Jid, mechanism: Mechanism) {
        self.0.metrics.login(mechanism.name());
        if mechanism == Mechanism::Anonymous {
            self.0.expect_guest(account);
        }
    }

    fn bind(
        &self,
        account: Jid,
        resource: Option<String>,
        framing: Framing,
    ) -> Later<Result<Arc<Session>, StanzaError>> {
        Box::pin(Arc::clone(&self.0).bind(account, resource, framing))
    }

    fn stanza(&self, session: &Arc<Session>, stanza: Stanza, seq: u64) -> Flow {
        self.0.from_session(session, stanza, seq)
    }

    fn register(&self, iq: Stanza, peer: Peer) -> Later<Stanza> {
        let node = Arc::clone(&self.0);
        Box::pin(async move {
            let is_set = iq.type_str() == "set";
            let child = iq.payload.children.first();
            let live = node.live.load_full();
            let found = child.and_then(|c| live.matches.find(Target::Host, is_set, &c.ns, &c.name));
            let answer = match found {
                Some((handler, _)) => node
                    .bridge
                    .register(iq.clone(), peer.ip, handler, node.now())
                    .await
                    .ok(),
                None => None,
            };
            let refusal = || iq.error(&StanzaCondition::ServiceUnavailable.into());
            answer.or_else(refusal).unwrap_or_else(|| iq.result())
        })
    }

    fn sm_enable(&self, session: &Arc<Session>, resume: bool, max: Option<u32>) -> Enabled {
        let live = self.0.live.load();
        let limit = live.config.limits.sm_resume_seconds;
        let seconds = max.unwrap_or(limit).min(limit);
        if !resume || seconds == 0 {
            return Enabled {
                resume: None,
                location: None,
            };
        }
        let id = self.0.random_bytes();
        self.0
            .sessions
            .enable(session.id, Resumable { id, seconds });
        Enabled {
            resume: Some((hex(&id), seconds)),
            location: live.config.resume_location.clone(),
        }
    }

    fn sm_resume(
        &self,
        account: Jid,
        previd: String,
        h: u32,
    ) -> Later<Result<(Arc<Session>, u32), ResumeFailed>> {
        Box::pin(Arc::clone(&self.0).resume(account, previd, h))
    }

    fn ended(&self, session: Arc<Session>, how: Ended) {
        match how {
            Ended::Closed(error) => {
                let is_in_order = error.is_none();
                let reason = || error.map_or("closed", |e| e.condition.name()).to_owned();
                self.0.log_session("session closed", &session, reason);
                self.0.end_session_in_order(&session, is_in_order);
            }
            Ended::Lost => {
                self.0.log_session("connection lost", &session, String::new);
                self.0.lost(&session);
            }
        }
    }

    fn offline_received(&self, account: &Jid, ids: Vec<u64>) {
        self.0.delete_offline(account, ids);
    }

    fn http(&self, request: HttpRequest) -> Later<HttpResponse> {
        let receiver = self.0.bridge.http(request, self.0.now());
        Box::pin(async move {
            receiver.await.unwrap_or_else(|_| HttpResponse {
                status: 503,
                headers: vec![("content-type".into(), "text/plain; charset=utf-8".into())],
                body: bytes::Bytes::from_static(b"the server is busy, try again\n"),
            })
        })
    }

    fn component_up(&self, domain: &Jid) -> Result<Arc<Session>, StreamError> {
        let mut components = self.0.components.write();
        let is_elsewhere = self
            .0
            .mesh
            .as_deref()
            .is_some_and(|m| m.has_component(domain));
        if is_elsewhere || components.contains_key(domain.as_str()) {
            // XEP-0114 leaves it to the server; one connection is one order.
            return Err(StreamError::from(StreamCondition::Conflict)
                .with_text("this component is connected already"));
        }
        let session = Arc::new(Session::new(
            self.0.session_id(),
            domain.clone(),
            Framing::Tcp,
            self.0.live.load().queue,
        ));
        components.insert(domain.as_str().to_owned(), Arc::clone(&session));
        drop(components);
        self.0.tell_component(domain, true);
        self.0.bridge.log(
            crate::node::INFO,
            "component connected",
            vec![("domain", domain.to_string())],
        );
        Ok(session)
    }

    fn component_stanza(&self, session: &Arc<Session>, stanza: Stanza) {
        self.0.metrics.received(stanza.kind);
        let _feeding = crate::saving::Feeding::by(session);
        self.0.route(stanza, None);
    }

    fn component_down(&self, session: &Arc<Session>) {
        let mut components = self.0.components.write();
        if components
            .get(session.jid.as_str())
            .is_some_and(|current| current.id == session.id)
        {
            components.remove(session.jid.as_str());
        }
        drop(components);
        self.0.tell_component(&session.jid, false);
        session.finish(self.0.now());
        self.0.bridge.log(
            crate::node::INFO,
            "component gone",
            vec![("domain", session.jid.to_string())],
        );
    }

    fn is_stopping(&self) -> bool {
        self.0.is_stopping.load(Ordering::Acquire)
    }

    fn now_ms(&self) -> u64 {
        self.0.now()
    }

    fn random(&self, out: &mut [u8]) {
        self.0.fill_random(out);
    }

    fn count(&self, what: Count) {
        let metrics = &self.0.metrics;
        match what {
            Count::Accepted => {
                metrics.accepted.inc();
            }
            Count::Refused => {
                metrics.refused_connections.inc();
            }
            Count::Ended => {}
            Count::BytesIn(n) => {
                metrics.bytes_in.inc_by(n as u64);
            }
            Count::BytesOut(n) => {
                metrics.bytes_out.inc_by(n as u64);
            }
            Count::TlsFailed => {
                metrics.tls_failures.inc();
            }
            Count::Panicked => {
                metrics.panics.inc();
                self.0
                    .bridge
                    .log(crate::node::ERROR, "connection panicked", Vec::new());
            }
            Count::StreamError(condition) => {
                metrics.stream_error(condition);
                if self.0.bridge.logs(DEBUG) {
                    let fields = vec![("reason", condition.to_owned())];
                    self.0.bridge.log(DEBUG, "stream ended", fields);
                }
            }
            Count::Throttled => {
                metrics.throttled.inc();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resumption_id_is_read_as_it_was_written() {
        let id = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 255];
        assert_eq!(resume_id(&hex(&id)), Some(id));
        for other in [
            "",
            "0",
            "x",
            &"g".repeat(32),
            &"0".repeat(33),
            &"\u{e9}".repeat(16),
        ] {
            assert_eq!(resume_id(other), None);
        }
    }
}
