//! What is known of owners without asking: that the account exists, which keys its map has.
//!
//! The home of an entity is its one writer, so what was read once stays true while it writes here.
//! After a move to another node and back it may not; hence nothing is believed for long.

use antiphon_routing::store::MapKind;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

/// Owners that are known at a time.
const OWNERS: usize = 16_384;

/// Keys of maps that are known at a time, 8 bytes and some each.
const KEYS: usize = 500_000;

/// How long.
const BELIEVED: Duration = Duration::from_secs(60);

/// What is known of one owner.
#[derive(Debug)]
pub(super) struct Known {
    since: Instant,
    /// There is an account.
    pub(super) exists: bool,
    /// Hashes of the keys in each kind of the map. Two keys with one hash make the count one too
    /// low, and nothing else.
    pub(super) keys: [Option<HashSet<u64>>; 3],
}

impl Default for Known {
    fn default() -> Self {
        Self {
            since: Instant::now(),
            exists: false,
            keys: [None, None, None],
        }
    }
}

impl Known {
    /// The hashes of a kind's keys.
    pub(super) fn keys(&mut self, kind: MapKind) -> &mut Option<HashSet<u64>> {
        &mut self.keys[match kind {
            MapKind::Private => 0,
            MapKind::Vcard => 1,
            MapKind::Feature => 2,
        }]
    }

    fn weight(&self) -> usize {
        self.keys.iter().flatten().map(HashSet::len).sum()
    }
}

#[derive(Debug, Default)]
struct State {
    known: HashMap<Box<str>, Known>,
    keys: usize,
    /// Counts what makes earlier reads void.
    changes: u64,
}

/// The known owners.
#[derive(Debug, Default)]
pub(super) struct Owners {
    state: Mutex<State>,
}

impl Owners {
    /// Takes out what is known of an owner; the lane that has it is the only one that writes there.
    pub(super) fn take(&self, owner: &str) -> Known {
        let mut state = self.state.lock();
        let Some(known) = state.known.remove(owner) else {
            return Known::default();
        };
        state.keys -= known.weight();
        if known.since.elapsed() > BELIEVED {
            return Known::default();
        }
        known
    }

    /// Puts it back.
    pub(super) fn put(&self, owner: &str, known: Known) {
        let mut state = self.state.lock();
        let weight = known.weight();
        if state.known.len() >= OWNERS || state.keys + weight > KEYS {
            state.known.clear();
            state.keys = 0;
        }
        if weight > KEYS {
            return;
        }
        state.keys += weight;
        if let Some(old) = state.known.insert(owner.into(), known) {
            state.keys -= old.weight();
        }
    }

    /// The state of what is known; for [`Owners::read`].
    pub(super) fn changes(&self) -> u64 {
        self.state.lock().changes
    }

    /// An account went.
    pub(super) fn deleted(&self) {
        self.state.lock().changes += 1;
    }

    /// A read found an account; it began when [`Owners::changes`] were so many.
    pub(super) fn read(&self, owner: &str, changes: u64) {
        let mut state = self.state.lock();
        if state.changes != changes {
            return;
        }
        if let Some(known) = state.known.get_mut(owner) {
            known.exists = true;
            return;
        }
        drop(state);
        let known = Known {
            exists: true,
            ..Known::default()
        };
        self.put(owner, known);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_read_found_before_a_deletion_is_not_believed() {
        let owners = Owners::default();
        let changes = owners.changes();
        owners.deleted();
        owners.read("a@b.example", changes);
        assert!(!owners.take("a@b.example").exists);
        owners.read("a@b.example", owners.changes());
        assert!(owners.take("a@b.example").exists);
        assert!(!owners.take("a@b.example").exists, "taken");
    }

    #[test]
    fn the_keys_known_are_bounded() {
        let owners = Owners::default();
        for n in 0..5u64 {
            let mut known = Known::default();
            *known.keys(MapKind::Feature) = Some((0..200_000).map(|k| k + n).collect());
            owners.put(&format!("d{n}.example"), known);
            assert!(owners.state.lock().keys <= KEYS);
        }
        assert!(owners.take("d4.example").keys(MapKind::Feature).is_some());
    }
}
