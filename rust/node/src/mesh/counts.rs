//! Stanzas that other nodes brought and wait to hear about: how much of each is still to be done.

use antiphon_routing::SessionId;
use antiphon_routing::effect::Origin;
use hashbrown::HashMap;
use parking_lot::Mutex;
use smallvec::{SmallVec, smallvec};
use std::sync::atomic::{AtomicU64, Ordering};

/// The `node` of a session id that names no session but a unit of a link: incarnations are small
/// numbers and far below.
const LINK: u32 = u32::MAX;

/// A unit of a link, of which its sender is told when it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Brought {
    /// By which node.
    pub peer: u32,
    /// Its number on that node's link.
    pub number: u64,
}

/// Nearly always one.
type Waiting = SmallVec<[Brought; 1]>;

#[derive(Debug)]
struct Count {
    /// Who waits: nobody for what was handed over, until it is brought again.
    brought: Waiting,
    left: u32,
    /// A former home has handed it over: who brings it must not begin it again.
    is_handed: bool,
    /// It was so when this was last looked at.
    is_old: bool,
}

/// What becomes of a stanza that is brought again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Joined {
    /// It was never begun here.
    New,
    /// It is under way; its sender is told when it is done.
    Waits,
    /// It is done.
    Done,
}

/// The table. It holds what links have brought and not yet been told of, which their windows bound.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    open: Mutex<HashMap<Origin, Count>>,
    next: AtomicU64,
}

impl Counts {
    /// Opens a count of one thing for a stanza of a session elsewhere.
    pub fn open(&self, origin: Origin, brought: Brought) {
        let count = Count {
            brought: smallvec![brought],
            left: 1,
            is_handed: false,
            is_old: false,
        };
        self.open.lock().insert(origin, count);
    }

    /// Whether this is of [`Counts::open_unnamed`].
    pub fn is_unnamed(origin: Origin) -> bool {
        origin.session.node == LINK
    }

    /// As [`Counts::open`] for a unit that belongs to no session here; what counts goes by the
    /// name that this gives back.
    pub fn open_unnamed(&self, brought: Brought) -> Origin {
        let origin = Origin {
            session: SessionId {
                node: LINK,
                number: self.next.fetch_add(1, Ordering::Relaxed),
            },
            seq: 1,
        };
        self.open(origin, brought);
        origin
    }

    /// One more thing of a stanza whose former home handed it over; its sender comes with the
    /// stanza itself.
    pub fn open_handed(&self, origin: Origin) {
        let mut open = self.open.lock();
        let count = open.entry(origin).or_insert_with(|| Count {
            brought: Waiting::new(),
            left: 0,
            is_handed: true,
            is_old: false,
        });
        count.left += 1;
    }

    /// Remembers a stanza that a former home of its sender has brought to its end, and that was handed
    /// over to that one.
    pub fn note_ended(&self, origin: Origin) {
        self.open_handed(origin);
        self.handled(origin);
    }

    /// The stanzas of these sessions that were handed over and are done.
    pub fn ended(&self, is_meant: impl Fn(SessionId) -> bool) -> Vec<Origin> {
        let open = self.open.lock();
        let is_ended = |(origin, count): &(&Origin, &Count)| {
            count.is_handed && count.left == 0 && is_meant(origin.session)
        };
        open.iter().filter(is_ended).map(|(o, _)| *o).collect()
    }

    /// Whether one of those that are meant was handed over, is not done, and has not been brought
    /// again: then its sender cannot be told.
    pub fn is_untold(&self, is_meant: impl Fn(Origin) -> bool) -> bool {
        let open = self.open.lock();
        let is_untold =
            |count: &Count| count.is_handed && count.left > 0 && count.brought.is_empty();
        open.iter()
            .any(|(origin, count)| is_untold(count) && is_meant(*origin))
    }

    /// Looks whether a stanza was handed over by a former home of its sender.
    pub fn join(&self, origin: Origin, brought: Brought) -> Joined {
        let mut open = self.open.lock();
        let Some(count) = open.get_mut(&origin).filter(|c| c.is_handed) else {
            return Joined::New;
        };
        if count.left == 0 {
            return Joined::Done;
        }
        count.brought.push(brought);
        Joined::Waits
    }

    /// As [`Counts::join`] for a session here, which counts by itself.
    pub fn was_begun(&self, origin: Origin) -> bool {
        self.open.lock().get(&origin).is_some_and(|c| c.is_handed)
    }

    /// So many more things must be done.
    pub fn expect(&self, origin: Origin, more: u32) {
        if let Some(count) = self.open.lock().get_mut(&origin) {
            count.left = count.left.saturating_add(more);
        }
    }

    /// One of them is done; who waited, if that was the last.
    pub fn handled(&self, origin: Origin) -> Waiting {
        let mut open = self.open.lock();
        let Some(count) = open.get_mut(&origin) else {
            return Waiting::new();
        };
        count.left = count.left.saturating_sub(1);
        if count.left > 0 {
            return Waiting::new();
        }
        if count.is_handed {
            // It is remembered, since each of its parts may be brought again.
            return std::mem::take(&mut count.brought);
        }
        open.remove(&origin)
            .map_or_else(Waiting::new, |c| c.brought)
    }

    /// Whether something of it is still to be done.
    pub fn is_open(&self, origin: Origin) -> bool {
        self.open.lock().contains_key(&origin)
    }

    /// Takes out one, for who waits to bring it elsewhere.
    pub fn take_one(&self, origin: Origin) -> Waiting {
        let taken = self.open.lock().remove(&origin);
        taken.map_or_else(Waiting::new, |count| count.brought)
    }

    /// Takes out what sessions brought that is meant, for their senders to bring it elsewhere.
    pub fn take(&self, is_meant: impl Fn(Origin) -> bool) -> Vec<Brought> {
        let mut open = self.open.lock();
        let is_its =
            |origin: &Origin, _: &mut Count| !Self::is_unnamed(*origin) && is_meant(*origin);
        let taken = open.extract_if(is_its);
        taken.flat_map(|(_, count)| count.brought).collect()
    }

    /// Forgets what a node brought that is gone.
    pub fn forget(&self, peer: u32) {
        self.open.lock().retain(|origin, count| {
            count.brought.retain(|brought| brought.peer != peer);
            // Nobody will bring it again.
            !(count.is_handed && count.left == 0 && origin.session.node == peer)
        });
    }

    /// Forgets what was handed over and done at the last look: by now it was brought again.
    pub fn forget_old(&self) {
        self.open.lock().retain(|_, count| {
            let is_done = count.is_handed && count.left == 0;
            !(is_done && std::mem::replace(&mut count.is_old, is_done))
        });
    }

    /// Forgets everything.
    pub fn clear(&self) {
        self.open.lock().clear();
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        self.open.lock().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_done_when_its_last_thing_is() {
        let counts = Counts::default();
        let brought = Brought { peer: 3, number: 9 };
        let origin = counts.open_unnamed(brought);
        let other = counts.open_unnamed(Brought { peer: 4, number: 9 });
        assert_ne!(origin, other);
        counts.expect(origin, 2);
        assert!(counts.handled(origin).is_empty());
        assert!(counts.handled(origin).is_empty());
        assert_eq!(counts.handled(origin).to_vec(), [brought]);
        assert!(counts.handled(origin).is_empty());
        counts.forget(4);
        assert!(counts.handled(other).is_empty());
        assert_eq!(counts.len(), 0);
    }

    #[test]
    fn what_a_former_home_handed_over_is_told_to_who_brings_it_again() {
        let counts = Counts::default();
        let session = SessionId { node: 3, number: 7 };
        let origin = Origin { session, seq: 2 };
        counts.open_handed(origin);
        counts.open_handed(origin);
        let brought = Brought { peer: 3, number: 1 };
        assert_eq!(counts.join(origin, brought), Joined::Waits);
        assert!(counts.handled(origin).is_empty());
        assert_eq!(counts.handled(origin).to_vec(), [brought]);
        assert_eq!(counts.join(origin, brought), Joined::Done);
        assert!(counts.was_begun(origin));
        counts.forget_old();
        counts.forget_old();
        assert_eq!(counts.join(origin, brought), Joined::New);
        counts.open_handed(origin);
        assert!(counts.handled(origin).is_empty());
        counts.forget(3);
        assert_eq!(counts.join(origin, brought), Joined::New);
        counts.open(origin, brought);
        assert_eq!(counts.take(|of| of == origin), [brought]);
        assert!(!counts.is_open(origin));
    }
}
