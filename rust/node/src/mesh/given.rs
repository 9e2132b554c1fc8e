//! What was sent to the nodes of sockets and not yet taken there: should such a node die, it goes
//! another way.

use super::Mesh;
use crate::node::{Node, goes_on};
use antiphon_cluster::link::{Class, SendError};
use antiphon_net::session::{Sent, Session};
use antiphon_routing::SessionId;
use antiphon_xmpp::Jid;
use antiphon_xmpp::packed::Unpacker;
use antiphon_xmpp::stanza::Stanza;
use bytes::Bytes;
use hashbrown::HashMap;
use parking_lot::Mutex;
use std::sync::Arc;

/// One unit.
#[derive(Debug)]
struct One {
    session: SessionId,
    jid: Jid,
    unit: Bytes,
}

/// By node and number of the unit. What a link takes bounds it.
#[derive(Debug, Default)]
pub(super) struct Given(Mutex<HashMap<(u32, u64), One>>);

impl Given {
    /// It was taken. `false`: it is none of these.
    pub fn taken(&self, peer: u32, number: u64) -> bool {
        self.0.lock().remove(&(peer, number)).is_some()
    }

    /// What a node that is gone never took, in order, by session.
    fn lost_with(&self, peer: u32) -> HashMap<(SessionId, Jid), Vec<Bytes>> {
        let mut lost: Vec<((u32, u64), One)> = {
            let mut given = self.0.lock();
            given.extract_if(|(to, _), _| *to == peer).collect()
        };
        lost.sort_unstable_by_key(|((_, number), _)| *number);
        let mut by_session: HashMap<(SessionId, Jid), Vec<Bytes>> = HashMap::new();
        for (_, one) in lost {
            let key = (one.session, one.jid);
            by_session.entry(key).or_default().push(one.unit);
        }
        by_session
    }

    pub fn clear(&self) {
        self.0.lock().clear();
    }
}

impl Mesh {
    /// Sends a session's edge what it gets.
    pub(super) fn give(&self, session: &Session, unit: Bytes) -> Result<(), SendError> {
        let peer = session.id.node;
        // Locked first: it may be taken before the number is noted.
        let mut given = self.given.0.lock();
        let number = self.links.send(peer, Class::Stanza, unit.clone())?;
        let one = One {
            session: session.id,
            jid: session.jid.clone(),
            unit,
        };
        given.insert((peer, number), one);
        Ok(())
    }
}

impl Node {
    /// What a node that is gone never took, by session.
    pub(super) fn lost_with(
        self: &Arc<Self>,
        mesh: &Mesh,
        peer: u32,
    ) -> HashMap<(SessionId, Jid), Vec<(u64, Stanza)>> {
        let now_ms = self.now();
        let read = |units: Vec<Bytes>| -> Vec<(u64, Stanza)> {
            let all = units.iter().flat_map(|unit| stanzas_of(unit, now_ms));
            all.filter(goes_on).map(|s| (s.at_ms, s.stanza)).collect()
        };
        let lost = mesh.given.lost_with(peer);
        lost.into_iter()
            .map(|(key, units)| (key, read(units)))
            .collect()
    }
}

fn stanzas_of(unit: &[u8], at_ms: u64) -> Vec<Sent> {
    let mut all = Vec::new();
    let Ok(super::unit::Unit::Deliver { packed, .. }) = super::unit::Unit::unpack(unit) else {
        return all;
    };
    let mut from = Unpacker::new(packed);
    while let (Ok(offline), Ok(stanza)) = (from.number(), from.stanza()) {
        let offline = Some(offline).filter(|id| *id > 0);
        all.push(Sent {
            stanza,
            at_ms,
            offline,
        });
    }
    all
}
