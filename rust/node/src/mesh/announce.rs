//! What every node tells every other: which components are connected to it, which accounts have
//! changed.

use super::Mesh;
use super::unit::Unit;
use crate::node::Node;
use antiphon_xmpp::Jid;
use antiphon_xmpp::stanza::{Stanza, StanzaCondition};
use std::sync::Arc;

/// Components of other nodes that are remembered.
const COMPONENTS: usize = 10_000;

impl Mesh {
    pub(super) fn component_at(&self, peer: u32, domain: Jid, is_up: bool) {
        let mut components = self.components.write();
        if is_up && components.len() < COMPONENTS {
            components.insert(domain, peer);
        } else if components.get(&domain) == Some(&peer) {
            components.remove(&domain);
        }
    }

    pub(super) fn forget_components_of(&self, peer: u32) {
        self.components.write().retain(|_, at| *at != peer);
    }

    /// Whether another node has this component.
    pub(crate) fn has_component(&self, domain: &Jid) -> bool {
        self.components.read().contains_key(domain)
    }
}

impl Node {
    /// Tells a new peer of the components here.
    pub(super) fn tell_components(&self, mesh: &Mesh, peer: u32) {
        let components: Vec<Jid> = {
            let components = self.components.read();
            components.values().map(|c| c.jid.clone()).collect()
        };
        for domain in components {
            mesh.tell(
                peer,
                &Unit::Component {
                    domain,
                    is_up: true,
                },
            );
        }
    }

    /// Tells everybody that a component came or went.
    pub(crate) fn tell_component(&self, domain: &Jid, is_up: bool) {
        if let Some(mesh) = self.mesh.as_deref() {
            let domain = domain.clone();
            mesh.tell_all(&Unit::Component { domain, is_up });
        }
    }

    /// Sends a stanza to a component of another node. `false`: no node has it.
    pub(crate) fn to_component_elsewhere(&self, stanza: &Stanza) -> bool {
        let (Some(mesh), Some(to)) = (self.mesh.as_deref(), &stanza.to) else {
            return false;
        };
        let components = mesh.components.read();
        let peer = components.iter().find(|(d, _)| d.as_str() == to.domain());
        let Some(peer) = peer.map(|(_, peer)| *peer) else {
            return false;
        };
        drop(components);
        let stanza = stanza.clone();
        mesh.tell(peer, &Unit::ToComponent { stanza })
    }

    pub(super) fn to_component_here(self: &Arc<Self>, stanza: Stanza) {
        let Some(to) = stanza.to.as_ref().map(|to| to.domain().to_owned()) else {
            return;
        };
        let session = self.components.read().get(&to).cloned();
        let is_taken = session.is_some_and(|s| s.deliver(stanza.clone(), None, self.now()).is_ok());
        if !is_taken && let Some(error) = stanza.error(&StanzaCondition::ServiceUnavailable.into())
        {
            self.route(error, None);
        }
    }

    pub(super) fn account_changed_elsewhere(&self, account: &Jid) {
        self.store.forget(account);
        let hash = crate::shard::hash(account.as_str());
        self.shards.lock(hash).renew(hash, account.as_str());
    }

    /// Tells everybody that an account was made, changed or deleted here.
    pub(crate) fn tell_account(&self, jid: &Jid) {
        if let Some(mesh) = self.mesh.as_deref() {
            mesh.tell_all(&Unit::Account { jid: jid.bare() });
        }
    }
}
