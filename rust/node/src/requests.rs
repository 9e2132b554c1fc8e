//! IQs that the server itself has sent and whose answers Python awaits.

use crate::bridge::Bridge;
use crate::value::Value;
use antiphon_xmpp::Jid;
use antiphon_xmpp::stanza::{Stanza, StanzaCondition, StanzaError};
use parking_lot::Mutex;
use std::collections::HashMap;

/// Requests that may be on their way.
const MAX: usize = 10_000;

/// The id of a request of the server's; with the node that waits for the answer, in a cluster.
pub(crate) fn id(incarnation: u32, random: &str) -> String {
    if incarnation == 0 {
        return format!("s{random}");
    }
    format!("s{incarnation:x}-{random}")
}

/// The node that an [`id`] names.
pub(crate) fn asker(id: &str) -> Option<u32> {
    let (node, _) = id.strip_prefix('s')?.split_once('-')?;
    u32::from_str_radix(node, 16).ok()
}

#[derive(Debug)]
struct Open {
    ticket: u64,
    to: Jid,
    due_ms: u64,
}

/// Open requests by their id.
#[derive(Debug, Default)]
pub struct Requests(Mutex<HashMap<String, Open>>);

impl Requests {
    /// Notes a request before it is sent. `false`: too many are open.
    pub fn open(&self, ticket: u64, stanza: &Stanza, due_ms: u64) -> bool {
        let (Some(id), Some(to)) = (&stanza.id, &stanza.to) else {
            return false;
        };
        let mut open = self.0.lock();
        if open.len() >= MAX {
            return false;
        }
        open.insert(
            id.to_string(),
            Open {
                ticket,
                to: to.clone(),
                due_ms,
            },
        );
        true
    }

    /// An IQ result or error to a served domain: Python's, if it comes from whom was asked.
    pub fn answer(&self, stanza: &Stanza, bridge: &Bridge) {
        let Some(id) = &stanza.id else { return };
        let mut open = self.0.lock();
        let is_answer = open
            .get(&**id)
            .is_some_and(|o| stanza.from.as_ref() == Some(&o.to));
        let found = if is_answer { open.remove(&**id) } else { None };
        drop(open);
        if let Some(found) = found {
            bridge.complete(found.ticket, Ok(Value::Stanza(stanza.clone())));
        }
    }

    /// Gives up on what was not answered in time.
    pub fn expire(&self, now_ms: u64, bridge: &Bridge) {
        let mut open = self.0.lock();
        let late: Vec<u64> = open
            .extract_if(|_, o| o.due_ms <= now_ms)
            .map(|(_, o)| o.ticket)
            .collect();
        drop(open);
        for ticket in late {
            bridge.complete(
                ticket,
                Err(StanzaError::new(StanzaCondition::RemoteServerTimeout)),
            );
        }
    }
}
