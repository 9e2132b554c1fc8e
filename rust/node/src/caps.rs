//! Entity capabilities (XEP-0115) that Python knows already, so that a presence crosses only when
//! it brings new ones.

use crate::node::Node;
use antiphon_xmpp::ns;
use antiphon_xmpp::stanza::Stanza;
use parking_lot::Mutex;
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

/// Hashes remembered; the oldest is forgotten and asked about again.
const MAX: usize = 20_000;
/// Longest hash name and value looked at.
const MAX_LENGTH: usize = 256;

/// Known (hash function, value) pairs.
#[derive(Debug, Default)]
pub struct KnownCaps(Mutex<(HashSet<Box<str>>, VecDeque<Box<str>>)>);

impl KnownCaps {
    fn key(hash: &str, ver: &str) -> Box<str> {
        format!("{hash} {ver}").into()
    }

    /// Whether these are new, and known from now on.
    pub fn learn(&self, hash: &str, ver: &str) -> bool {
        let key = Self::key(hash, ver);
        let mut known = self.0.lock();
        if !known.0.insert(key.clone()) {
            return false;
        }
        known.1.push_back(key);
        if known.1.len() > MAX
            && let Some(oldest) = known.1.pop_front()
        {
            known.0.remove(&oldest);
        }
        true
    }

    /// Ask again next time.
    pub fn forget(&self, hash: &str, ver: &str) {
        self.0.lock().0.remove(&Self::key(hash, ver));
    }
}

impl Node {
    /// Hands a presence with unknown capabilities to Python.
    pub(crate) fn look_at_caps(self: &Arc<Self>, stanza: &Stanza) {
        if stanza.to.is_some() || stanza.type_.is_some() || !self.live.load().config.modules.caps {
            return;
        }
        let Some(caps) = stanza.child(ns::CAPS, "c") else { return };
        let (Some(hash), Some(ver)) = (caps.attr("hash"), caps.attr("ver")) else { return };
        if hash.len() + ver.len() > MAX_LENGTH || !self.caps.learn(hash, ver) {
            return;
        }
        if !self.bridge.caps(stanza.clone()) {
            self.caps.forget(hash, ver);
        }
    }
}
