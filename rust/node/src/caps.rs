//! Entity capabilities (XEP-0115) that Python knows already, so that a presence crosses only when
//! it brings new ones.

use crate::node::Node;
use antiphon_xmpp::{Jid, Stanza, ns};
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Hashes remembered; the oldest is forgotten and asked about again.
const MAX: usize = 20_000;
/// Longest hash name and value looked at.
const MAX_LENGTH: usize = 256;

/// Milliseconds after which capabilities that Python could not confirm are asked about again, of
/// whoever announces them then.
const RETRY_MS: u64 = 60_000;

/// (hash function, value) pairs: until when not to ask; `u64::MAX` once confirmed.
#[derive(Debug, Default)]
struct Table {
    until: HashMap<Box<str>, u64>,
    order: VecDeque<Box<str>>,
}

/// Capabilities that need not be asked about now.
#[derive(Debug, Default)]
pub struct KnownCaps(Mutex<Table>);

impl KnownCaps {
    fn key(hash: &str, ver: &str) -> Box<str> {
        format!("{hash} {ver}").into()
    }

    fn note(&self, hash: &str, ver: &str, until_ms: u64) {
        let key = Self::key(hash, ver);
        let mut table = self.0.lock();
        if table.until.insert(key.clone(), until_ms).is_some() {
            return;
        }
        table.order.push_back(key);
        if table.order.len() > MAX
            && let Some(oldest) = table.order.pop_front()
        {
            table.until.remove(&oldest);
        }
    }

    /// These are confirmed.
    pub fn learn(&self, hash: &str, ver: &str) {
        self.note(hash, ver, u64::MAX);
    }

    /// Whether to ask about these now; not again for a while then.
    pub fn is_new(&self, hash: &str, ver: &str, now_ms: u64) -> bool {
        let known = self.0.lock().until.get(&*Self::key(hash, ver)).copied();
        if known.is_some_and(|until| until > now_ms) {
            return false;
        }
        self.note(hash, ver, now_ms + RETRY_MS);
        true
    }
}

impl Node {
    /// Hands a presence with unknown capabilities to Python.
    pub(crate) fn look_at_caps(self: &Arc<Self>, stanza: &Stanza) {
        if stanza.to.is_some() || stanza.type_.is_some() {
            return;
        }
        let Some(caps) = stanza.child(ns::CAPS, "c") else {
            return;
        };
        let domain = stanza.from.as_ref().map_or("", Jid::domain);
        if !self.live.load().modules(domain).caps {
            return;
        }
        let (Some(hash), Some(ver)) = (caps.attr("hash"), caps.attr("ver")) else {
            return;
        };
        if hash.len() + ver.len() <= MAX_LENGTH && self.caps.is_new(hash, ver, self.now()) {
            // Dropped when Python is busy: a later presence brings them again.
            let _ = self.bridge.caps(stanza.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_asked_about_until_they_are_confirmed() {
        let known = KnownCaps::default();
        assert!(known.is_new("sha-1", "x", 0));
        assert!(!known.is_new("sha-1", "x", RETRY_MS - 1));
        assert!(known.is_new("sha-1", "x", RETRY_MS));
        known.learn("sha-1", "x");
        assert!(!known.is_new("sha-1", "x", 10 * RETRY_MS));
        assert!(known.is_new("sha-256", "x", 0));
    }

    #[test]
    fn the_oldest_is_forgotten_first() {
        let known = KnownCaps::default();
        for i in 0..=MAX {
            known.learn("sha-1", &i.to_string());
        }
        assert!(known.is_new("sha-1", "0", 0));
        assert!(!known.is_new("sha-1", &MAX.to_string(), 0));
    }
}
