//! What the message path sees of the cluster: who is home to a shard, and whether this process may
//! still act. Read by every thread without a lock, replaced as a whole.

use crate::clock;
use crate::fence::{Acknowledge, Standing};
use crate::id::{Epoch, Incarnation, Mono};
use crate::map::ShardMap;
use antiphon_routing::home::{Home, Locator, SHARDS};
use arc_swap::{ArcSwap, ArcSwapOption};
use std::sync::Arc;
use tokio::sync::watch;

/// The published map as this process sees it.
#[derive(Debug, Clone)]
pub struct View {
    me: Incarnation,
    map: Option<Arc<ShardMap>>,
    homes: Box<[Home]>,
}

impl View {
    fn unknown(me: Incarnation) -> Self {
        Self {
            me,
            map: None,
            homes: vec![Home::Unknown; usize::from(SHARDS)].into(),
        }
    }

    fn of(me: Incarnation, map: Arc<ShardMap>) -> Self {
        let home = |shard| match map.owner(shard) {
            Some(owner) if owner == me => Home::Here,
            Some(owner) => Home::Node(owner.0),
            None => Home::Unknown,
        };
        Self {
            me,
            homes: (0..SHARDS).map(home).collect(),
            map: Some(map),
        }
    }

    /// This life; 0: not in the cluster.
    #[must_use]
    pub fn me(&self) -> Incarnation {
        self.me
    }

    /// The map in force; `None` before the first and after the end.
    #[must_use]
    pub fn map(&self) -> Option<&Arc<ShardMap>> {
        self.map.as_ref()
    }

    /// Its epoch; 0 without one.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.map.as_ref().map_or(Epoch(0), |map| map.epoch())
    }

    /// Who is home to a shard.
    #[must_use]
    pub fn home(&self, shard: u16) -> Home {
        let home = self.homes.get(usize::from(shard));
        home.copied().unwrap_or(Home::Unknown)
    }
}

/// Shared by the message path; cheap to clone.
#[derive(Debug, Clone)]
pub struct Place(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    view: ArcSwap<View>,
    standing: ArcSwap<Standing>,
    changed: watch::Sender<Standing>,
    /// See [`Place::is_cut_off`].
    cut_off: ArcSwapOption<Vec<Incarnation>>,
}

impl Default for Place {
    fn default() -> Self {
        Self(Arc::new(Inner {
            view: ArcSwap::from_pointee(View::unknown(Incarnation(0))),
            standing: ArcSwap::default(),
            changed: watch::Sender::default(),
            cut_off: ArcSwapOption::empty(),
        }))
    }
}

impl Place {
    /// The view in force.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        self.0.view.load_full()
    }

    /// What this process may do. Its times are compared with the time of asking, so a process that
    /// was stopped finds them passed.
    #[must_use]
    pub fn standing(&self) -> Standing {
        **self.0.standing.load()
    }

    /// The check between commit and acknowledgement.
    #[must_use]
    pub fn acknowledge(&self, committed: Mono) -> Acknowledge {
        self.standing().acknowledge(committed, now())
    }

    /// Whether a stanza may be taken on now.
    #[must_use]
    pub fn may_accept(&self) -> bool {
        self.standing().may_accept(now())
    }

    /// Whether its lease has passed, and it may only go on by the word of the others.
    #[must_use]
    pub fn is_past_lease(&self) -> bool {
        self.standing().leased_until <= now()
    }

    /// Wakes when the standing changes: for what waits for the next keepalive.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Standing> {
        self.0.changed.subscribe()
    }

    pub(super) fn stand(&self, standing: Standing) {
        if **self.0.standing.load() != standing {
            self.0.standing.store(Arc::new(standing));
            self.0.changed.send_replace(standing);
        }
    }

    /// Whether a node cannot be reached and, since etcd is gone, nobody can take its place: what is
    /// for it would wait for nobody knows how long.
    #[must_use]
    pub fn is_cut_off(&self, node: Incarnation) -> bool {
        let cut_off = self.0.cut_off.load();
        cut_off.as_ref().is_some_and(|all| all.contains(&node))
    }

    /// These are, from now on. Whether that is new.
    pub(super) fn cut_off(&self, nodes: &[Incarnation]) -> bool {
        let before = self.0.cut_off.load();
        if before.as_ref().map_or(&[][..], |all| all) == nodes {
            return false;
        }
        let nodes = (!nodes.is_empty()).then(|| Arc::new(nodes.to_vec()));
        self.0.cut_off.store(nodes);
        true
    }

    pub(super) fn joined(&self, me: Incarnation) {
        self.0.view.store(Arc::new(View::unknown(me)));
    }

    pub(super) fn mapped(&self, me: Incarnation, map: &Arc<ShardMap>) {
        self.0.view.store(Arc::new(View::of(me, Arc::clone(map))));
    }

    /// Nothing is owned any more.
    pub(super) fn out(&self) {
        self.stand(Standing::default());
        self.cut_off(&[]);
        self.joined(Incarnation(0));
    }
}

impl Locator for Place {
    fn home(&self, shard: u16) -> Home {
        self.0.view.load().home(shard)
    }

    fn incarnation(&self) -> u32 {
        self.0.view.load().me.0
    }
}

/// The time of deadlines.
#[must_use]
pub fn now() -> Mono {
    Mono(clock::now_ms())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::NodeId;
    use crate::map::{MapNode, Slot};

    #[test]
    fn the_home_of_a_shard_is_what_the_map_says_and_nobody_after_the_end() {
        let node = |life: u32| MapNode {
            id: NodeId::new(&format!("n{life}")).unwrap(),
            incarnation: Incarnation(life),
            zone: None,
            is_draining: false,
        };
        let slots = (0..SHARDS).map(|shard| Slot {
            owner: shard % 2,
            from: None,
            shadow: None,
            since: Epoch(1),
            is_clean: true,
        });
        let map = ShardMap::new(
            Epoch(1),
            Incarnation(3),
            vec![node(3), node(5)],
            slots.collect(),
        );
        let map = Arc::new(map.unwrap());
        let place = Place::default();
        assert_eq!((place.home(0), place.incarnation()), (Home::Unknown, 0));
        place.joined(Incarnation(3));
        place.mapped(Incarnation(3), &map);
        assert_eq!(place.home(0), Home::Here);
        assert_eq!(place.home(4095), Home::Node(5));
        assert_eq!(place.home(4096), Home::Unknown);
        assert_eq!(place.incarnation(), 3);
        place.out();
        assert_eq!((place.home(0), place.incarnation()), (Home::Unknown, 0));
        assert_eq!(place.acknowledge(now()), Acknowledge::Barred);
    }
}
