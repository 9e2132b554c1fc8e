//! Whose work a unit is: the entity's, the socket's, or the node's.

use super::Mesh;
use super::counts::Brought;
use super::unit::{Known, Unit};
use crate::node::Node;
use antiphon_routing::SessionId;
use std::sync::Arc;

impl Node {
    /// Whether the unit is called done later.
    pub(super) fn take_unit(
        self: &Arc<Self>,
        mesh: &Mesh,
        brought: Brought,
        unit: Unit<'_>,
    ) -> bool {
        match unit {
            Unit::Stanza { .. }
            | Unit::Route { .. }
            | Unit::Leg { .. }
            | Unit::Bind { .. }
            | Unit::End { .. }
            | Unit::Received { .. } => return self.take_at_home(mesh, brought, unit),
            Unit::Deliver { .. }
            | Unit::Close { .. }
            | Unit::Bound { .. }
            | Unit::Keep { .. }
            | Unit::Ready { .. } => self.take_at_edge(mesh, unit),
            Unit::Resume { .. }
            | Unit::Move { .. }
            | Unit::Fetch { .. }
            | Unit::Asked { .. }
            | Unit::Fetched { .. }
            | Unit::Coming { .. }
            | Unit::Moved { .. }
            | Unit::State { .. }
            | Unit::Take { .. } => self.take_moving(mesh, brought.peer, unit),
            Unit::Answer { .. }
            | Unit::Component { .. }
            | Unit::ToComponent { .. }
            | Unit::Account { .. }
            | Unit::Shadow { .. }
            | Unit::ShadowEnd { .. } => self.take_word(mesh, brought.peer, unit),
            // All that was sent before it has been taken.
            Unit::Flush => {}
            // Of the other class.
            Unit::Report { .. } | Unit::Handed { .. } | Unit::Released { .. } => {}
        }
        false
    }

    /// What an entity that lives here is to do; whether that is called done later.
    fn take_at_home(self: &Arc<Self>, mesh: &Mesh, brought: Brought, unit: Unit<'_>) -> bool {
        let peer = brought.peer;
        match unit {
            Unit::Stanza {
                session,
                seq,
                stanza,
            } => return self.stanza_from_edge(mesh, brought, (session, seq), stanza),
            Unit::Route { stanza } => return self.routed_here(mesh, brought, stanza),
            Unit::Leg {
                session,
                seq,
                stanza,
            } => return self.leg_here(mesh, brought, (session, seq), stanza),
            Unit::Bind {
                session,
                jid,
                is_temporary,
                knows_new,
            } => self.bind_from_edge(mesh, id_at(peer, session), jid, (is_temporary, knows_new)),
            Unit::End {
                session,
                jid,
                is_confirmed,
                stanzas,
            } => self.ended_at_edge(mesh, id_at(peer, session), &jid, is_confirmed, stanzas),
            Unit::Received { owner, ids } => self.delete_offline_here(&owner, ids),
            _ => {}
        }
        false
    }

    /// What homes say of sessions whose sockets are here.
    fn take_at_edge(self: &Arc<Self>, mesh: &Mesh, unit: Unit<'_>) {
        match unit {
            Unit::Deliver { session, packed } => self.delivered_by_home(mesh, session, packed),
            Unit::Close {
                session,
                condition,
                text,
            } => self.closed_by_home(mesh, session, condition, text),
            Unit::Bound { session, refused } => {
                if refused.is_none() {
                    // More is said if it becomes more.
                    self.sessions.keep_new(session);
                }
                if let Some(answer) = mesh.binds.lock().remove(&session) {
                    // Whoever asked may have gone.
                    let _ = answer.send(refused);
                }
            }
            Unit::Keep { session, keepsake } => self.sessions.keep(session, keepsake.into()),
            Unit::Ready { shards } => self.lanes_ready(mesh, &shards),
            _ => {}
        }
    }

    /// What one node tells another of itself.
    fn take_word(self: &Arc<Self>, mesh: &Mesh, peer: u32, unit: Unit<'_>) {
        match unit {
            Unit::Answer { stanza } => self.requests.answer(&stanza, &self.bridge),
            Unit::Component { domain, is_up } => mesh.component_at(peer, domain, is_up),
            Unit::ToComponent { stanza } => self.to_component_here(stanza),
            Unit::Account { jid } => self.account_changed_elsewhere(&jid),
            Unit::Shadow {
                session,
                jid,
                keepsake,
            } => mesh.shadows.keep(Known {
                id: id_at(peer, session),
                jid,
                keepsake: keepsake.to_vec(),
                last: 0,
            }),
            Unit::ShadowEnd { session, jid } => mesh.shadows.ended(id_at(peer, session), &jid),
            _ => {}
        }
    }
}

/// A session by its number in the process that holds its socket.
fn id_at(node: u32, number: u64) -> SessionId {
    SessionId { node, number }
}
