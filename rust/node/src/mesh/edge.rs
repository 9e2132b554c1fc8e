//! The side of a session that holds its socket, when its entity lives on another node.

use super::unit::Unit;
use super::{Awaited, Mesh};
use crate::node::{Busy, Node};
use antiphon_net::gateway::Flow;
use antiphon_net::session::Session;
use antiphon_routing::SessionId;
use antiphon_routing::archive::ArchiveId;
use antiphon_routing::effect::Origin;
use antiphon_routing::home::{Home, Locator, shard_of};
use antiphon_xmpp::packed::Unpacker;
use antiphon_xmpp::stanza::{Stanza, StanzaCondition, StanzaError};
use antiphon_xmpp::stream::{StreamCondition, StreamError};
use antiphon_xmpp::{Jid, StanzaKind};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// How long a login waits for its home.
const BIND_S: u64 = 20;

/// What asks for an answer, and so is refused where nobody can say when it gets one. Presence, and
/// what answers something itself, waits: nobody would send it again.
fn asks(stanza: &Stanza) -> bool {
    match stanza.kind {
        StanzaKind::Presence => false,
        StanzaKind::Message => stanza.type_str() != "error",
        StanzaKind::Iq => matches!(stanza.type_str(), "get" | "set"),
    }
}

impl Mesh {
    /// Whether the home of a shard is cut off from here, and stays so until etcd is back.
    pub(super) fn is_cut_off(&self, shard: u16) -> bool {
        match self.homes.home(shard) {
            Home::Node(node) => self.links.is_cut_off(node),
            Home::Here | Home::Unknown => false,
        }
    }
}

impl Node {
    /// Hands a session's stanza to its home.
    pub(crate) fn forward(
        self: &Arc<Self>,
        mesh: &Mesh,
        shard: u16,
        session: &Arc<Session>,
        stanza: Stanza,
        seq: u64,
    ) -> Flow {
        if asks(&stanza) && mesh.is_cut_off(shard) {
            self.refuse_to(session, &stanza);
            session.handled(seq);
            return Flow::Go;
        }
        let bytes = stanza.size();
        session.expect(seq, 1);
        session.saving(bytes);
        let unit = Unit::Stanza {
            session: session.id.number,
            seq,
            stanza,
        };
        let awaited = Awaited::Session(Arc::clone(session), seq, bytes);
        if let Err(parcel) = self.to_home(mesh, (shard, None), unit.pack_for(shard), awaited) {
            self.settle(&parcel.awaited);
            self.parcel_refused(&parcel);
        }
        session.handled(seq);
        Flow::Go
    }

    pub(super) fn refuse_to(&self, session: &Arc<Session>, stanza: &Stanza) {
        if stanza.kind == StanzaKind::Presence {
            return;
        }
        if let Some(mut answer) = stanza.error(&Busy.into()) {
            answer.to = Some(session.jid.clone());
            // A session that is over needs no answer.
            let _ = session.deliver(answer, None, self.now());
        }
    }

    /// Hands a stanza to the home of its addressee; what is stored for it there counts to `origin`.
    ///
    /// # Errors
    /// Too much waits, or its home is cut off.
    pub(crate) fn route_away(
        self: &Arc<Self>,
        mesh: &Mesh,
        shard: u16,
        stanza: Stanza,
        origin: Option<Origin>,
    ) -> Result<(), Busy> {
        if asks(&stanza) && mesh.is_cut_off(shard) {
            return Err(Busy);
        }
        let origin = origin.filter(|o| o.seq > 0);
        if let Some(origin) = origin {
            self.expect_more(origin, 1);
        }
        let source = stanza.from.as_ref().map(|from| shard_of(from.bare_str()));
        let unit = Unit::Route { stanza };
        let awaited = origin.map_or(Awaited::Nobody, Awaited::Origin);
        self.to_home(mesh, (shard, source), unit.pack_for(shard), awaited)
            .map_err(|parcel| {
                self.settle(&parcel.awaited);
                Busy
            })
    }

    /// Binds a session at its home.
    pub(crate) async fn bind_elsewhere(
        self: &Arc<Self>,
        shard: u16,
        session: &Arc<Session>,
        is_temporary: bool,
    ) -> Result<(), StanzaError> {
        let Some(mesh) = self.mesh.clone() else {
            return Err(StanzaCondition::InternalServerError.into());
        };
        if mesh.is_cut_off(shard) {
            return Err(Busy.into());
        }
        let (answer, receiver) = oneshot::channel();
        let number = session.id.number;
        mesh.binds.lock().insert(number, answer);
        let unit = Unit::Bind {
            session: number,
            jid: session.jid.clone(),
            is_temporary,
            knows_new: true,
        };
        let sent = self.to_home(&mesh, (shard, None), unit.pack_for(shard), Awaited::Nobody);
        let bound = match sent {
            Ok(()) => timeout(Duration::from_secs(BIND_S), receiver).await,
            Err(_) => {
                mesh.binds.lock().remove(&number);
                return Err(Busy.into());
            }
        };
        mesh.binds.lock().remove(&number);
        match bound {
            Ok(Ok(None)) => Ok(()),
            Ok(Ok(Some(error))) => Err(error),
            // The home's answer may yet come: it is told that nobody is there.
            _ => {
                self.end_elsewhere(&mesh, shard, session, false, Vec::new());
                Err(Busy.into())
            }
        }
    }

    /// Tells a session's home that it is over.
    pub(crate) fn end_elsewhere(
        self: &Arc<Self>,
        mesh: &Mesh,
        shard: u16,
        session: &Session,
        is_confirmed: bool,
        stanzas: Vec<(u64, Stanza)>,
    ) {
        let unit = Unit::End {
            session: session.id.number,
            jid: session.jid.clone(),
            is_confirmed,
            stanzas,
        };
        if self
            .to_home(mesh, (shard, None), unit.pack_for(shard), Awaited::Nobody)
            .is_err()
        {
            self.metrics.refused.inc();
        }
    }

    /// Tells the home of an account what its client has of its offline messages.
    pub(crate) fn received_elsewhere(
        self: &Arc<Self>,
        mesh: &Mesh,
        shard: u16,
        owner: Jid,
        ids: Vec<u64>,
    ) {
        let unit = Unit::Received { owner, ids };
        // Not deleted means delivered once more, which is better than lost.
        let _ = self.to_home(mesh, (shard, None), unit.pack_for(shard), Awaited::Nobody);
    }

    /// What a session here gets from its home.
    pub(super) fn delivered_by_home(self: &Arc<Self>, mesh: &Mesh, number: u64, packed: &[u8]) {
        let id = SessionId {
            node: mesh.me(),
            number,
        };
        let now_ms = self.now();
        let mut lost: Vec<(u64, Stanza)> = Vec::new();
        let mut last = 0;
        let mut from = Unpacker::new(packed);
        while !from.is_empty() {
            let (Ok(offline), Ok(stanza)) = (from.number(), from.stanza()) else {
                break;
            };
            let offline = Some(offline).filter(|id| *id > 0);
            if stanza.uid > 0 && offline.is_none() {
                last = stanza.uid & ArchiveId::MAX.0;
            }
            if crate::history::is_result(&stanza)
                && let Some(session) = self.session(id)
            {
                session.note_part();
            }
            let before = self.deliver(id, stanza, offline, now_ms, None);
            if let Err((stanza, before)) = before {
                let before = before.into_iter().filter(crate::node::goes_on);
                lost.extend(before.map(|s| (s.at_ms, s.stanza)));
                if offline.is_none() && !crate::history::is_result(&stanza) {
                    lost.push((now_ms, stanza));
                }
            }
        }
        if last > 0 {
            self.sessions.note_last(number, last);
        }
        if !lost.is_empty() {
            self.give_back(mesh, number, lost);
        }
    }

    /// What a session that is over did not take goes back to the homes of whom it was for.
    pub(super) fn give_back(self: &Arc<Self>, mesh: &Mesh, number: u64, lost: Vec<(u64, Stanza)>) {
        let mut by_jid: HashMap<Jid, Vec<(u64, Stanza)>> = HashMap::new();
        for (at_ms, stanza) in lost {
            if let Some(to) = &stanza.to {
                by_jid.entry(to.clone()).or_default().push((at_ms, stanza));
            }
        }
        for (jid, stanzas) in by_jid {
            let shard = shard_of(jid.bare_str());
            let unit = Unit::End {
                session: number,
                jid,
                is_confirmed: false,
                stanzas,
            };
            if self
                .to_home(mesh, (shard, None), unit.pack_for(shard), Awaited::Nobody)
                .is_err()
            {
                self.metrics.refused.inc();
            }
        }
    }

    pub(super) fn closed_by_home(
        self: &Arc<Self>,
        mesh: &Mesh,
        number: u64,
        condition: StreamCondition,
        text: Option<&str>,
    ) {
        let id = SessionId {
            node: mesh.me(),
            number,
        };
        let error = StreamError::from(condition);
        let error = match text {
            Some(text) => error.with_text(text.to_owned()),
            None => error,
        };
        self.close_session(id, error);
    }
}

/// Guests who have logged in and not yet bound; more are forgotten, and their logins fail.
const GUESTS: usize = 10_000;

impl Node {
    /// An anonymous user has logged in: the account is made where it lives.
    pub(crate) fn expect_guest(self: &Arc<Self>, account: &Jid) {
        let Some((mesh, _)) = self.elsewhere(account.as_str()) else {
            self.make_temporary(account);
            return;
        };
        let mut guests = mesh.guests.lock();
        if guests.len() >= GUESTS {
            guests.clear();
        }
        guests.insert(account.clone());
    }

    /// Whether this account is one of those; asked once.
    pub(crate) fn is_awaited_guest(&self, account: &Jid) -> bool {
        let mesh = self.mesh.as_deref();
        mesh.is_some_and(|mesh| mesh.guests.lock().remove(account))
    }
}
