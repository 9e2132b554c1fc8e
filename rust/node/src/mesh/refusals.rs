//! Units that were sent back: nothing that was sent behind one may overtake it.

use antiphon_cluster::relay::Outcome;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};

/// How often somebody is told that he may send again who does not.
const CALLS: u8 = 5;

#[derive(Debug)]
struct Refusal {
    generation: u32,
    /// Its sender waits to be told when it may send again, so many times more.
    calls: u8,
}

/// By sender and shard: the last generation that was sent back. One that was not sent again (its
/// sender has gone another way) stays until its sender is gone, a few bytes for each shard.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    by_sender: Mutex<HashMap<(u32, u16), Refusal>>,
    count: AtomicUsize,
}

impl Refusals {
    /// Whether a unit must be sent back because one before it was.
    pub fn has(&self, sender: u32, (shard, generation): (u16, u32)) -> bool {
        if self.count.load(Ordering::Acquire) == 0 {
            return false;
        }
        let mut refusals = self.by_sender.lock();
        let Some(refusal) = refusals.get(&(sender, shard)) else {
            return false;
        };
        if refusal.generation >= generation {
            return true;
        }
        refusals.remove(&(sender, shard));
        self.count.store(refusals.len(), Ordering::Release);
        false
    }

    /// Notes that a unit is sent back.
    pub fn note(&self, sender: u32, (shard, generation): (u16, u32), outcome: Outcome) {
        let mut refusals = self.by_sender.lock();
        let refusal = refusals.entry((sender, shard)).or_insert(Refusal {
            generation,
            calls: 0,
        });
        refusal.generation = generation.max(refusal.generation);
        if outcome == Outcome::NotYet {
            refusal.calls = CALLS;
        }
        self.count.store(refusals.len(), Ordering::Release);
    }

    /// Whom to tell that he may send again, of the shards that are meant.
    pub fn waiting(&self, is_meant: impl Fn(u16) -> bool) -> BTreeMap<u32, Vec<u16>> {
        let mut by_peer: BTreeMap<u32, Vec<u16>> = BTreeMap::new();
        if self.count.load(Ordering::Acquire) == 0 {
            return by_peer;
        }
        for ((sender, shard), refusal) in self.by_sender.lock().iter_mut() {
            if refusal.calls > 0 && is_meant(*shard) {
                refusal.calls -= 1;
                by_peer.entry(*sender).or_default().push(*shard);
            }
        }
        by_peer
    }

    /// A node is gone.
    pub fn forget(&self, is_gone: impl Fn(u32) -> bool) {
        let mut refusals = self.by_sender.lock();
        refusals.retain(|(sender, _), _| !is_gone(*sender));
        self.count.store(refusals.len(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_behind_a_refused_unit_is_refused_until_it_is_sent_again() {
        let refusals = Refusals::default();
        assert!(!refusals.has(1, (7, 3)));
        refusals.note(1, (7, 3), Outcome::NotYet);
        assert!(refusals.has(1, (7, 3)) && !refusals.has(2, (7, 3)) && !refusals.has(1, (8, 3)));
        assert_eq!(refusals.waiting(|_| true), BTreeMap::from([(1, vec![7])]));
        assert!(!refusals.has(1, (7, 4)));
        assert!(!refusals.has(1, (7, 3)));
        assert!(refusals.waiting(|_| true).is_empty());
        refusals.note(1, (7, 4), Outcome::NotYet);
        refusals.forget(|sender| sender == 1);
        assert!(!refusals.has(1, (7, 4)));
    }
}
