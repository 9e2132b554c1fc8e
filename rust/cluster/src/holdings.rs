//! Which shards this process holds, and what becomes of a stanza that is meant for one of them.
//!
//! A shard comes in four steps: its former owner releases it (or is gone, as the map says), its
//! archives are taken up (late writes killed unless it was released), every node of the view has
//! reported its sessions, it is served. It goes in three: no further stanza is taken, what is under
//! way is flushed, the new owner is told.

use crate::id::{Epoch, Incarnation, Shard};
use crate::map::ShardMap;
use crate::planted::{Bug, Planted};
use std::collections::BTreeSet;
use std::sync::Arc;

/// What this process has to do with a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Hold {
    /// Nothing. `told`: as far as the release of that owner's time was said.
    Away { told: Epoch },
    /// It is coming.
    Coming(Coming),
    /// It is here.
    Serving { since: Epoch },
    /// It is going; still here are writes under way.
    Going { since: Epoch },
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Coming {
    since: Epoch,
    /// Who must release it.
    from: Option<Incarnation>,
    is_clean: bool,
    is_asked: bool,
    is_taken_up: bool,
    /// Who has not yet reported.
    waiting: BTreeSet<Incarnation>,
}

/// What the node has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Forget the entities of this shard at once, and never acknowledge what was theirs: a commit
    /// of a write that was made before counts for nothing, even if the shard comes back here (it
    /// may have landed below the delete of the new take-up). So a write knows its
    /// [`Verdict::Accept`]'s `since`.
    Drop {
        /// Which.
        shard: Shard,
    },
    /// Take nothing more for this shard, end what is under way (writes; deliveries to sockets on
    /// links that are up), then call [`Holdings::flushed`].
    Release {
        /// Which.
        shard: Shard,
    },
    /// Tell the new owner; the node adds the reading of its hybrid clock.
    Released {
        /// The new owner.
        to: Incarnation,
        /// Which.
        shard: Shard,
        /// Of which time of ownership.
        since: Epoch,
        /// No write of this process can land any more.
        is_clean: bool,
    },
    /// Make the archives of this shard ready, then call [`Holdings::taken_up`]. Not clean: read the
    /// newest id *and the mark of the last take-up* at QUORUM, begin above both and
    /// [`crate::HEAD_START_MS`] ahead of the clock, store that beginning as the mark, and kill
    /// everything in between. Without the mark a successor whose clock is behind could begin below
    /// the delete of one that died before it wrote, and lose its own rows to it.
    TakeUp {
        /// Which.
        shard: Shard,
        /// Of which time of ownership.
        since: Epoch,
        /// It was released.
        is_clean: bool,
    },
    /// Report this node's sessions of the shard, and what it knows as shadow, to the home.
    Report {
        /// The home, this process as well.
        to: Incarnation,
        /// Which.
        shard: Shard,
        /// Of which time of ownership.
        since: Epoch,
    },
    /// Everything is there: what was parked for this shard goes on, when the registries of all
    /// shards of this step are in place.
    Serve {
        /// Which.
        shard: Shard,
        /// Of which time of ownership.
        since: Epoch,
    },
}

/// What of a stanza in a frame is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Of the address it goes to.
    pub shard: Shard,
    /// Of the map that its sender went by.
    pub epoch: Epoch,
    /// Its sender, as the link's certificate and hello say.
    pub sender: Incarnation,
}

/// Why a stanza waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// The sender goes by a map that has not come here yet.
    Map,
    /// The shard is coming.
    Shard,
}

/// What becomes of a stanza.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is handled here, under this time of ownership.
    Accept {
        /// What the write of its record carries.
        since: Epoch,
    },
    /// It waits, bounded ([`crate::parking::Parking`]).
    Park(Wait),
    /// The shard changed owner since: the sender looks at a map of at least this epoch, and sends
    /// it again with what it holds for that shard, in order.
    Stale {
        /// Look at a map of at least this epoch.
        epoch: Epoch,
    },
    /// Another is home: as with [`Verdict::Stale`].
    Redirect {
        /// Look at a map of at least this epoch.
        epoch: Epoch,
    },
    /// Its sender is out of the view: dropped and counted.
    Refuse,
}

/// Counts for the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HoldingCounts {
    /// Shards released in order.
    pub released: u64,
    /// Shards taken up that were released.
    pub taken_clean: u64,
    /// Shards taken up from the dead.
    pub taken_unclean: u64,
    /// Shards dropped.
    pub dropped: u64,
}

/// All shards, as one process holds them.
#[derive(Debug)]
pub struct Holdings {
    me: Incarnation,
    map: Option<Arc<ShardMap>>,
    shards: Vec<Hold>,
    is_fenced: bool,
    counts: HoldingCounts,
    pub(crate) planted: Planted,
}

impl Holdings {
    /// Of a process that just joined.
    #[must_use]
    pub fn new(me: Incarnation, shards: Shard) -> Self {
        let away = Hold::Away { told: Epoch(0) };
        Self {
            me,
            map: None,
            shards: vec![away; usize::from(shards)],
            is_fenced: false,
            counts: HoldingCounts::default(),
            planted: Planted::default(),
        }
    }

    /// Of the same process, which has joined anew: it counts on.
    #[must_use]
    pub fn again(&self, me: Incarnation) -> Self {
        Self {
            counts: self.counts,
            // Not above what `Shard` holds: it was made of one.
            ..Self::new(me, self.shards.len() as Shard)
        }
    }

    /// The map in force here.
    #[must_use]
    pub fn map(&self) -> Option<&Arc<ShardMap>> {
        self.map.as_ref()
    }

    /// Its epoch; 0 without a map.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.map.as_ref().map_or(Epoch(0), |map| map.epoch)
    }

    /// Counts for the metrics.
    #[must_use]
    pub fn counts(&self) -> HoldingCounts {
        self.counts
    }

    /// How many shards are served.
    #[must_use]
    pub fn served(&self) -> usize {
        let is_served = |h: &&Hold| matches!(h, Hold::Serving { .. });
        self.shards.iter().filter(is_served).count()
    }

    /// Since when a shard is served; `None`: it is not. Only then may "offline" be decided.
    #[must_use]
    pub fn serving(&self, shard: Shard) -> Option<Epoch> {
        match self.shards.get(usize::from(shard)) {
            Some(Hold::Serving { since }) => Some(*since),
            _ => None,
        }
    }

    /// Whether writes of this process for a shard may still be under way: it is served, or going.
    #[must_use]
    pub fn may_finish(&self, shard: Shard) -> bool {
        let hold = self.shards.get(usize::from(shard));
        matches!(hold, Some(Hold::Serving { .. } | Hold::Going { .. }))
    }

    /// Under which time of ownership the writes of a shard that is served or going were made.
    #[must_use]
    pub fn since(&self, shard: Shard) -> Option<Epoch> {
        match self.shards.get(usize::from(shard)) {
            Some(Hold::Serving { since } | Hold::Going { since }) => Some(*since),
            _ => None,
        }
    }

    /// Since when a shard is held that goes: it is to be released. `None`: it does not.
    #[must_use]
    pub fn going(&self, shard: Shard) -> Option<Epoch> {
        match self.shards.get(usize::from(shard)) {
            Some(Hold::Going { since }) => Some(*since),
            _ => None,
        }
    }

    /// Whether this process has nothing to do with a shard: it neither comes, nor is here, nor goes.
    #[must_use]
    pub fn is_away(&self, shard: Shard) -> bool {
        let hold = self.shards.get(usize::from(shard));
        hold.is_none_or(|hold| matches!(hold, Hold::Away { .. }))
    }

    /// Shards that are coming, and shards that are going.
    #[must_use]
    pub fn moving(&self) -> (usize, usize) {
        let is_coming = |h: &&Hold| matches!(h, Hold::Coming(_));
        let is_going = |h: &&Hold| matches!(h, Hold::Going { .. });
        let count = |is: &dyn Fn(&&Hold) -> bool| self.shards.iter().filter(|h| is(h)).count();
        (count(&is_coming), count(&is_going))
    }

    /// Shards that are served while the map still names who releases them: what the planner is told.
    #[must_use]
    pub fn settled(&self) -> Vec<(Shard, Epoch)> {
        let Some(map) = &self.map else {
            return Vec::new();
        };
        let serving = (0..map.shards()).filter_map(|s| Some((s, self.serving(s)?)));
        serving
            .filter(|(s, since)| {
                let slot = map.slot(*s);
                slot.is_some_and(|slot| slot.from.is_some() && slot.since == *since)
            })
            .collect()
    }

    /// How a shard is held, for logs and people.
    #[must_use]
    pub fn describe(&self, shard: Shard) -> String {
        match self.shards.get(usize::from(shard)) {
            Some(hold) => format!("{hold:?} by map {}", self.epoch()),
            None => "no such shard".into(),
        }
    }

    /// A shard that is coming: who has not reported yet, for the log of one that takes long.
    #[must_use]
    pub fn missing(&self, shard: Shard) -> Vec<Incarnation> {
        match self.shards.get(usize::from(shard)) {
            Some(Hold::Coming(coming)) => coming.waiting.iter().copied().collect(),
            _ => Vec::new(),
        }
    }

    /// Acts on a published map. One that is not newer, or of another size, changes nothing.
    pub fn apply(&mut self, map: Arc<ShardMap>, out: &mut Vec<Effect>) {
        let is_newer = map.epoch > self.epoch();
        if self.is_fenced || !is_newer || usize::from(map.shards()) != self.shards.len() {
            return;
        }
        // A map without this process is not its to report by: nobody would know it.
        let before = self.map.replace(map.clone());
        let before = before.filter(|before| before.knows(self.me));
        for shard in 0..map.shards() {
            let known = before.as_ref().and_then(|b| b.slot(shard)).map(|s| s.since);
            self.shard_moved(&map, shard, out);
            let Some(slot) = map.slot(shard) else {
                continue;
            };
            if known != Some(slot.since) && map.knows(self.me) {
                out.push(Effect::Report {
                    to: map.incarnation(slot.owner),
                    shard,
                    since: slot.since,
                });
            }
        }
    }

    fn shard_moved(&mut self, map: &ShardMap, shard: Shard, out: &mut Vec<Effect>) {
        let Some(slot) = map.slot(shard) else {
            return;
        };
        let from = slot.from.map(|at| map.incarnation(at));
        let owner = map.incarnation(slot.owner);
        let at = usize::from(shard);
        if owner == self.me {
            match &mut self.shards[at] {
                Hold::Serving { since } if *since == slot.since => return,
                Hold::Coming(coming) if coming.since == slot.since => {
                    coming.waiting.retain(|node| map.knows(*node));
                    if coming.from.is_some() && from.is_none() {
                        // He who should have released it is gone.
                        coming.from = None;
                        coming.is_clean = false;
                    }
                    coming.is_clean &= slot.is_clean;
                }
                hold => {
                    if !matches!(hold, Hold::Away { .. }) {
                        self.counts.dropped += 1;
                        out.push(Effect::Drop { shard });
                    }
                    *hold = Hold::Coming(Coming {
                        since: slot.since,
                        from,
                        is_clean: slot.is_clean && from.is_some(),
                        is_asked: false,
                        is_taken_up: false,
                        waiting: map.nodes.iter().map(|n| n.incarnation).collect(),
                    });
                }
            }
            self.go_on(shard, out);
            return;
        }
        let must_release = from == Some(self.me);
        match &self.shards[at] {
            Hold::Going { .. } => {}
            Hold::Serving { since } if must_release => {
                self.shards[at] = Hold::Going { since: *since };
                out.push(Effect::Release { shard });
            }
            Hold::Away { told } if must_release && *told < slot.since => {
                self.shards[at] = Hold::Away { told: slot.since };
                let (to, since) = (owner, slot.since);
                out.push(Effect::Released {
                    to,
                    shard,
                    since,
                    is_clean: true,
                });
            }
            Hold::Away { .. } => {}
            Hold::Coming(_) | Hold::Serving { .. } => {
                self.counts.dropped += 1;
                out.push(Effect::Drop { shard });
                self.shards[at] = Hold::Away { told: Epoch(0) };
                if must_release {
                    // It never served; what came before it is unknown.
                    self.shards[at] = Hold::Away { told: slot.since };
                    let (to, since) = (owner, slot.since);
                    out.push(Effect::Released {
                        to,
                        shard,
                        since,
                        is_clean: false,
                    });
                }
            }
        }
    }

    /// What was under way for a shard that goes is ended.
    pub fn flushed(&mut self, shard: Shard, out: &mut Vec<Effect>) {
        let at = usize::from(shard);
        if !matches!(self.shards.get(at), Some(Hold::Going { .. })) {
            return;
        }
        let slot = self
            .map
            .as_ref()
            .and_then(|map| Some((map.slot(shard)?, map)));
        let Some((slot, map)) = slot else {
            return;
        };
        self.shards[at] = Hold::Away { told: slot.since };
        self.counts.released += 1;
        out.push(Effect::Released {
            to: map.incarnation(slot.owner),
            shard,
            since: slot.since,
            is_clean: true,
        });
    }

    /// The former owner has released a shard. Judge its frame by its epoch first.
    pub fn released(
        &mut self,
        (shard, since): (Shard, Epoch),
        by: Incarnation,
        is_clean: bool,
        out: &mut Vec<Effect>,
    ) {
        if let Some(Hold::Coming(coming)) = self.shards.get_mut(usize::from(shard))
            && coming.since == since
            && coming.from == Some(by)
        {
            coming.from = None;
            coming.is_clean &= is_clean;
            self.go_on(shard, out);
        }
    }

    /// The archives of a shard are ready.
    pub fn taken_up(&mut self, shard: Shard, since: Epoch, out: &mut Vec<Effect>) {
        if let Some(Hold::Coming(coming)) = self.shards.get_mut(usize::from(shard))
            && coming.since == since
            && coming.is_asked
        {
            coming.is_taken_up = true;
            self.go_on(shard, out);
        }
    }

    /// A node has reported its sessions of a shard. Judge its frame by its epoch first.
    pub fn reported(
        &mut self,
        (shard, since): (Shard, Epoch),
        by: Incarnation,
        out: &mut Vec<Effect>,
    ) {
        if let Some(Hold::Coming(coming)) = self.shards.get_mut(usize::from(shard))
            && coming.since == since
        {
            coming.waiting.remove(&by);
            self.go_on(shard, out);
        }
    }

    fn go_on(&mut self, shard: Shard, out: &mut Vec<Effect>) {
        let hold = &mut self.shards[usize::from(shard)];
        let Hold::Coming(coming) = hold else {
            return;
        };
        if coming.from.is_none() && !coming.is_asked {
            coming.is_asked = true;
            let (since, is_clean) = (coming.since, coming.is_clean);
            match is_clean {
                true => self.counts.taken_clean += 1,
                false => self.counts.taken_unclean += 1,
            }
            out.push(Effect::TakeUp {
                shard,
                since,
                is_clean,
            });
        }
        let is_reported = coming.waiting.is_empty() || self.planted.has(Bug::ServeUnreported);
        if coming.is_taken_up && is_reported {
            let since = coming.since;
            *hold = Hold::Serving { since };
            out.push(Effect::Serve { shard, since });
        }
    }

    /// This process is out: it holds nothing any more and never will.
    pub fn fence(&mut self, out: &mut Vec<Effect>) {
        self.is_fenced = true;
        for (shard, hold) in self.shards.iter_mut().enumerate() {
            if !matches!(hold, Hold::Away { .. }) {
                self.counts.dropped += 1;
                out.push(Effect::Drop {
                    shard: shard as Shard,
                });
            }
            *hold = Hold::Away { told: Epoch(0) };
        }
    }

    /// What becomes of a stanza.
    #[must_use]
    pub fn judge(&self, head: &Head) -> Verdict {
        if self.is_fenced {
            return Verdict::Refuse;
        }
        let Some(map) = &self.map else {
            return Verdict::Park(Wait::Map);
        };
        if let Some(verdict) = self.judge_sender(head.sender, head.epoch) {
            return verdict;
        }
        let Some(slot) = map.slot(head.shard) else {
            return Verdict::Refuse;
        };
        let epoch = map.epoch;
        if map.incarnation(slot.owner) != self.me {
            return Verdict::Redirect { epoch };
        }
        if head.epoch < slot.since && !self.planted.has(Bug::SkipEpoch) {
            return Verdict::Stale { epoch };
        }
        match self.shards.get(usize::from(head.shard)) {
            Some(Hold::Serving { since }) => Verdict::Accept { since: *since },
            _ => Verdict::Park(Wait::Shard),
        }
    }

    /// The part of [`Holdings::judge`] that does not depend on a shard: for releases, reports and
    /// deliveries to a session. `None`: it may be taken.
    #[must_use]
    pub fn judge_sender(&self, sender: Incarnation, epoch: Epoch) -> Option<Verdict> {
        let map = match &self.map {
            Some(map) if !self.is_fenced => map,
            _ => return Some(Verdict::Park(Wait::Map)),
        };
        if epoch > map.epoch {
            return Some(Verdict::Park(Wait::Map));
        }
        if !map.knows(sender) && !self.planted.has(Bug::SkipIncarnation) {
            return Some(Verdict::Refuse);
        }
        None
    }
}

#[cfg(test)]
mod tests;
