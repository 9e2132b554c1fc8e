//! The way of stanzas to their homes, in order, whatever the map does meanwhile.
//!
//! A stanza stays here until its home has called it done. When its shard moves, what is under way
//! is settled first: each stanza is called done, sent back, or its receiver is out of the view.
//! Then what came back is sent to the new home, in its old order, and behind it what came in the
//! meantime. So two stanzas for one shard never change places, and none is lost with a node.
//!
//! A home that gives a shard away does not wait for what that shard's users sent (two homes that
//! exchange shards would wait for each other): it takes their stanzas out ([`Router::take_from`])
//! and sends them back to the nodes of the sockets, which still have their copies; what no socket
//! sent goes along with the release. The next home knows by uid and origin-id what it has already.

use crate::id::{Epoch, Incarnation, Shard};
use crate::map::ShardMap;
use crate::planted::{Bug, Planted};
use smallvec::SmallVec;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Names a stanza in a [`Router`]; later ones are greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

impl Ticket {
    fn new(number: u64, shard: Shard) -> Self {
        Self(number << Shard::BITS | u64::from(shard))
    }

    /// The shard it is for.
    #[must_use]
    pub fn shard(self) -> Shard {
        self.0 as Shard
    }
}

/// Send this stanza to this home.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Send<M> {
    /// The home; this process as well.
    pub to: Incarnation,
    /// Its shard.
    pub shard: Shard,
    /// The epoch to send it under.
    pub epoch: Epoch,
    /// Grows when what came back is sent again. A receiver that has sent one back sends all of that
    /// generation and of older ones back, or what was sent behind it would overtake it.
    pub generation: u32,
    /// By what it is called done.
    pub ticket: Ticket,
    /// The stanza.
    pub stanza: M,
}

/// Too much is under way: the stanza is answered with `resource-constraint`, type wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too much is under way")]
pub struct RouterFull;

#[derive(Debug)]
struct Flight<M> {
    ticket: Ticket,
    to: Incarnation,
    epoch: Epoch,
    is_back: bool,
    bytes: usize,
    /// The shard of its sender.
    source: Option<Shard>,
    stanza: M,
}

#[derive(Debug)]
struct Lane<M> {
    /// Sent, in order.
    flights: VecDeque<Flight<M>>,
    /// Not sent yet; `to` and `epoch` say nothing.
    held: VecDeque<Flight<M>>,
    is_settling: bool,
    /// Nothing is sent by a map before this one.
    needs: Epoch,
    /// This home has said that it cannot take the shard's stanzas yet.
    not_yet: Option<Incarnation>,
    generation: u32,
}

impl<M> Default for Lane<M> {
    fn default() -> Self {
        Self {
            flights: VecDeque::new(),
            held: VecDeque::new(),
            is_settling: false,
            needs: Epoch(0),
            not_yet: None,
            generation: 0,
        }
    }
}

/// Counts for the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RouterCounts {
    /// Sent a first time.
    pub sent: u64,
    /// Sent again, to another home.
    pub again: u64,
    /// Refused for want of room.
    pub refused: u64,
}

/// Closed lanes that are kept, and how long they may have been.
const SPARE: usize = 8;
const SPARE_FLIGHTS: usize = 32;

/// All stanzas under way from one node (or one of its shards of memory).
#[derive(Debug)]
pub struct Router<M> {
    lanes: BTreeMap<Shard, Lane<M>>,
    /// Lanes that were closed, for their memory.
    spare: Vec<Lane<M>>,
    /// How many are under way.
    len: usize,
    /// By the shard of their senders, in order.
    sources: BTreeMap<Shard, SmallVec<[Ticket; 4]>>,
    last: u64,
    /// Of all lanes, so that it never goes back when one ends and begins anew.
    generation: u32,
    bytes: usize,
    bytes_max: usize,
    counts: RouterCounts,
    pub(crate) planted: Planted,
}

impl<M: Clone> Router<M> {
    /// Keeps at most so many bytes; what a session may bring is the caller's matter.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self {
            lanes: BTreeMap::new(),
            spare: Vec::new(),
            len: 0,
            sources: BTreeMap::new(),
            last: 0,
            generation: 0,
            bytes: 0,
            bytes_max,
            counts: RouterCounts::default(),
            planted: Planted::default(),
        }
    }

    /// Counts for the metrics.
    #[must_use]
    pub fn counts(&self) -> RouterCounts {
        self.counts
    }

    /// Bytes under way.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Stanzas under way.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is under way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Takes out, in order, all that entities of this shard sent: it goes to another home.
    pub fn take_from(
        &mut self,
        map: Option<&ShardMap>,
        source: Shard,
        out: &mut Vec<Send<M>>,
    ) -> Vec<M> {
        let tickets = self.sources.remove(&source).unwrap_or_default();
        // All of it, before any lane goes on: else it would send what is taken out next.
        let take = |ticket| self.remove(ticket);
        let taken: Vec<(Shard, M)> = tickets.into_iter().filter_map(take).collect();
        let shards: BTreeSet<Shard> = taken.iter().map(|(shard, _)| *shard).collect();
        for shard in shards {
            self.settle(map, shard, out);
        }
        taken.into_iter().map(|(_, stanza)| stanza).collect()
    }

    /// Sends a stanza to its home, or holds it until that is settled.
    ///
    /// # Errors
    /// [`RouterFull`]; it is not kept then.
    pub fn route(
        &mut self,
        map: Option<&ShardMap>,
        (shard, source): (Shard, Option<Shard>),
        bytes: usize,
        stanza: M,
        out: &mut Vec<Send<M>>,
    ) -> Result<Ticket, RouterFull> {
        if self.bytes + bytes > self.bytes_max {
            self.counts.refused += 1;
            return Err(RouterFull);
        }
        self.bytes += bytes;
        self.last += 1;
        self.len += 1;
        let ticket = Ticket::new(self.last, shard);
        if let Some(source) = source {
            self.sources.entry(source).or_default().push(ticket);
        }
        let (generation, spare) = (self.generation, &mut self.spare);
        let lane = self.lanes.entry(shard).or_insert_with(|| {
            let mut lane = spare.pop().unwrap_or_default();
            lane.generation = generation;
            lane
        });
        let flight = Flight {
            ticket,
            to: Incarnation(0),
            epoch: Epoch(0),
            is_back: false,
            bytes,
            source,
            stanza,
        };
        lane.held.push_back(flight);
        if !lane.is_settling && lane.not_yet.is_none() {
            self.counts.sent += send_held(lane, map, shard, out);
        }
        Ok(ticket)
    }

    /// The home has called it done (or refused it for good): the copy is freed and given back.
    pub fn done(
        &mut self,
        map: Option<&ShardMap>,
        ticket: Ticket,
        out: &mut Vec<Send<M>>,
    ) -> Option<M> {
        let (shard, stanza) = self.remove(ticket)?;
        self.settle(map, shard, out);
        Some(stanza)
    }

    fn remove(&mut self, ticket: Ticket) -> Option<(Shard, M)> {
        let shard = ticket.shard();
        let lane = self.lanes.get_mut(&shard)?;
        let is_it = |f: &Flight<M>| f.ticket == ticket;
        let flight = match lane.flights.iter().position(is_it) {
            Some(at) => lane.flights.remove(at)?,
            None => {
                let at = lane.held.iter().position(is_it)?;
                lane.held.remove(at)?
            }
        };
        self.len -= 1;
        self.bytes -= flight.bytes;
        if let Some(source) = flight.source
            && let Some(tickets) = self.sources.get_mut(&source)
        {
            // Nearly always one of the first.
            if let Some(at) = tickets.iter().position(|other| *other == ticket) {
                tickets.remove(at);
            }
            if tickets.is_empty() {
                self.sources.remove(&source);
            }
        }
        Some((shard, flight.stanza))
    }

    /// The receiver sent it back: a map of at least this epoch says where it belongs.
    pub fn returned(
        &mut self,
        map: Option<&ShardMap>,
        ticket: Ticket,
        needs: Epoch,
        out: &mut Vec<Send<M>>,
    ) {
        let shard = ticket.shard();
        if let Some(lane) = self.lanes.get_mut(&shard)
            && let Some(flight) = lane.flights.iter_mut().find(|f| f.ticket == ticket)
        {
            flight.is_back = true;
            lane.is_settling = true;
            lane.needs = lane.needs.max(needs);
        }
        self.settle(map, shard, out);
    }

    /// The receiver sent it back since it cannot take it yet: nothing goes there until
    /// [`Router::ready`], or until the map names another home.
    pub fn not_yet(&mut self, map: Option<&ShardMap>, ticket: Ticket, out: &mut Vec<Send<M>>) {
        let shard = ticket.shard();
        if let Some(lane) = self.lanes.get_mut(&shard)
            && let Some(flight) = lane.flights.iter_mut().find(|f| f.ticket == ticket)
        {
            lane.not_yet = Some(flight.to);
        }
        self.returned(map, ticket, Epoch(0), out);
    }

    /// The home of a shard says that it takes its stanzas from now on.
    pub fn ready(&mut self, map: Option<&ShardMap>, shard: Shard, out: &mut Vec<Send<M>>) {
        if let Some(lane) = self.lanes.get_mut(&shard) {
            lane.not_yet = None;
        }
        self.settle(map, shard, out);
    }

    /// Takes out, in order, what entities of this shard sent and no home has: it goes along with
    /// the shard.
    pub fn take_held(&mut self, source: Shard) -> Vec<M> {
        let tickets: Vec<Ticket> = self
            .sources
            .get(&source)
            .into_iter()
            .flatten()
            .copied()
            .collect();
        let is_held = |ticket: &Ticket| !self.is_flying(*ticket);
        let held: Vec<Ticket> = tickets.into_iter().filter(is_held).collect();
        let taken: Vec<(Shard, M)> = held.into_iter().filter_map(|t| self.remove(t)).collect();
        for (shard, _) in &taken {
            self.close(*shard);
        }
        taken.into_iter().map(|(_, stanza)| stanza).collect()
    }

    /// Whether a home has something that entities of this shard sent, and has not said yet what
    /// became of it.
    #[must_use]
    pub fn is_flying_from(&self, source: Shard) -> bool {
        let tickets = self.sources.get(&source).into_iter().flatten();
        tickets.into_iter().any(|ticket| self.is_flying(*ticket))
    }

    /// Whether stanzas for this shard are under way or wait.
    #[must_use]
    pub fn has(&self, shard: Shard) -> bool {
        self.lanes.contains_key(&shard)
    }

    /// The shards that stanzas are under way to or wait for.
    #[must_use]
    pub fn shards(&self) -> Vec<Shard> {
        self.lanes.keys().copied().collect()
    }

    fn is_flying(&self, ticket: Ticket) -> bool {
        let lane = self.lanes.get(&ticket.shard());
        let mut flights = lane.into_iter().flat_map(|lane| &lane.flights);
        flights.any(|f| f.ticket == ticket && !f.is_back)
    }

    /// A map came into force.
    pub fn mapped(&mut self, map: &ShardMap, out: &mut Vec<Send<M>>) {
        let shards: Vec<Shard> = self.lanes.keys().copied().collect();
        for shard in shards {
            let (Some(lane), Some(slot)) = (self.lanes.get_mut(&shard), map.slot(shard)) else {
                continue;
            };
            lane.not_yet = lane.not_yet.filter(|home| map.owner(shard) == Some(*home));
            for flight in &mut lane.flights {
                flight.is_back |= !map.knows(flight.to);
                // It changed owner behind this stanza's epoch.
                lane.is_settling |= flight.is_back || flight.epoch < slot.since;
            }
            self.settle(Some(map), shard, out);
        }
    }

    /// Closes a lane that has nothing; whether it had.
    fn close(&mut self, shard: Shard) -> bool {
        let is_empty = |lane: &Lane<M>| lane.flights.is_empty() && lane.held.is_empty();
        if !self.lanes.get(&shard).is_some_and(is_empty) {
            return false;
        }
        if let Some(lane) = self.lanes.remove(&shard)
            && self.spare.len() < SPARE
            && lane.flights.capacity() + lane.held.capacity() <= SPARE_FLIGHTS
        {
            let (flights, held) = (lane.flights, lane.held);
            self.spare.push(Lane {
                flights,
                held,
                ..Lane::default()
            });
        }
        true
    }

    /// If all that was sent is done or back, sends what is back and what is held.
    fn settle(&mut self, map: Option<&ShardMap>, shard: Shard, out: &mut Vec<Send<M>>) {
        if self.close(shard) {
            return;
        }
        let Some(lane) = self.lanes.get_mut(&shard) else {
            return;
        };
        // The common case first: it goes on as it is.
        if !lane.is_settling && lane.held.is_empty() && lane.not_yet.is_none() {
            return;
        }
        let is_settled = lane.flights.iter().all(|f| f.is_back)
            || (self.planted.has(Bug::SkipSettling) && lane.is_settling);
        let has_map = map.is_some_and(|map| map.epoch >= lane.needs);
        if !is_settled || !has_map || lane.not_yet.is_some() {
            return;
        }
        let (back, flying): (VecDeque<_>, VecDeque<_>) =
            lane.flights.drain(..).partition(|f| f.is_back);
        lane.flights = flying;
        self.counts.again += back.len() as u64;
        for flight in back.into_iter().rev() {
            lane.held.push_front(flight);
        }
        lane.is_settling = false;
        self.generation = self.generation.wrapping_add(1);
        lane.generation = self.generation;
        self.counts.sent += send_held(lane, map, shard, out);
    }
}

/// Sends what is held, in order; how many of them go a first time.
fn send_held<M: Clone>(
    lane: &mut Lane<M>,
    map: Option<&ShardMap>,
    shard: Shard,
    out: &mut Vec<Send<M>>,
) -> u64 {
    let Some((map, to)) = map.and_then(|map| Some((map, map.owner(shard)?))) else {
        return 0;
    };
    let mut first = 0;
    while let Some(mut flight) = lane.held.pop_front() {
        first += u64::from(!flight.is_back);
        flight.to = to;
        flight.epoch = map.epoch;
        flight.is_back = false;
        out.push(Send {
            to,
            shard,
            epoch: map.epoch,
            generation: lane.generation,
            ticket: flight.ticket,
            stanza: flight.stanza.clone(),
        });
        lane.flights.push_back(flight);
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::NodeId;
    use crate::map::{MapNode, Slot};

    fn map(epoch: u64, nodes: &[u32], owner: u32, since: u64) -> ShardMap {
        let slot = Slot {
            owner: nodes.iter().position(|n| *n == owner).unwrap() as u16,
            from: None,
            shadow: None,
            since: Epoch(since),
            is_clean: false,
        };
        let nodes = nodes.iter().map(|n| MapNode {
            id: NodeId::new(&format!("n{n}")).unwrap(),
            incarnation: Incarnation(*n),
            zone: None,
            is_draining: false,
        });
        ShardMap::new(Epoch(epoch), Incarnation(1), nodes.collect(), vec![slot]).unwrap()
    }

    fn route(router: &mut Router<u32>, map: &ShardMap, stanza: u32) -> (Ticket, Vec<(u32, u32)>) {
        let mut out = Vec::new();
        let ticket = router
            .route(Some(map), (0, Some(0)), 1, stanza, &mut out)
            .unwrap();
        (ticket, sent(out))
    }

    fn sent(out: Vec<Send<u32>>) -> Vec<(u32, u32)> {
        out.into_iter().map(|s| (s.to.0, s.stanza)).collect()
    }

    #[test]
    fn what_came_back_goes_before_what_came_since() {
        let mut router = Router::new(100);
        let (one, two) = (map(1, &[1, 2], 1, 1), map(2, &[1, 2], 2, 2));
        let (a, _) = route(&mut router, &one, 10);
        let (b, _) = route(&mut router, &one, 11);
        let mut out = Vec::new();
        router.mapped(&two, &mut out);
        assert!(sent(out).is_empty());
        // The old home still has two of them.
        assert!(route(&mut router, &two, 12).1.is_empty());
        let mut out = Vec::new();
        assert_eq!(router.done(Some(&two), a, &mut out), Some(10));
        router.returned(Some(&two), b, Epoch(2), &mut out);
        assert_eq!(sent(out), [(2, 11), (2, 12)]);
        assert_eq!(
            router.counts(),
            RouterCounts {
                sent: 3,
                again: 1,
                refused: 0
            }
        );
        // Its senders go to another home.
        let mut out = Vec::new();
        assert_eq!(router.take_from(Some(&two), 0, &mut out), [11, 12]);
        assert!(router.is_empty() && out.is_empty());
    }

    #[test]
    fn a_stanza_that_came_back_waits_for_the_map_that_says_where_it_belongs() {
        let mut router = Router::new(100);
        let one = map(1, &[1, 2], 1, 1);
        let (a, _) = route(&mut router, &one, 10);
        let mut out = Vec::new();
        router.returned(Some(&one), a, Epoch(3), &mut out);
        router.mapped(&map(2, &[1, 2], 1, 1), &mut out);
        assert!(sent(out.clone()).is_empty());
        router.mapped(&map(3, &[1, 2], 2, 3), &mut out);
        assert_eq!(sent(out), [(2, 10)]);
    }

    #[test]
    fn what_the_home_cannot_take_yet_waits_for_its_word_or_another_home() {
        let mut router = Router::new(100);
        let one = map(1, &[1, 2], 1, 1);
        let (a, _) = route(&mut router, &one, 10);
        let (b, _) = route(&mut router, &one, 11);
        let mut out = Vec::new();
        router.not_yet(Some(&one), a, &mut out);
        assert!(router.is_flying_from(0));
        router.not_yet(Some(&one), b, &mut out);
        assert!(!router.is_flying_from(0) && out.is_empty());
        assert!(route(&mut router, &one, 12).1.is_empty());
        // A map that leaves the shard where it is changes nothing.
        router.mapped(&map(2, &[1, 2], 1, 1), &mut out);
        assert!(out.is_empty());
        router.ready(Some(&one), 0, &mut out);
        assert_eq!(sent(out), [(1, 10), (1, 11), (1, 12)]);
        let mut out = Vec::new();
        router.not_yet(Some(&one), a, &mut out);
        router.done(Some(&one), b, &mut out);
        let c = Ticket::new(3, 0);
        router.not_yet(Some(&one), c, &mut out);
        router.mapped(&map(3, &[1, 2], 2, 3), &mut out);
        assert_eq!(sent(out), [(2, 10), (2, 12)]);
    }

    #[test]
    fn what_no_home_has_goes_along_with_its_senders() {
        let mut router = Router::new(100);
        let one = map(1, &[1, 2], 1, 1);
        let (a, _) = route(&mut router, &one, 10);
        let (b, _) = route(&mut router, &one, 11);
        router.not_yet(Some(&one), b, &mut Vec::new());
        route(&mut router, &one, 12);
        assert_eq!(router.take_held(0), [11, 12]);
        assert!(router.is_flying_from(0) && router.has(0));
        assert_eq!(router.done(Some(&one), a, &mut Vec::new()), Some(10));
        assert!(router.is_empty() && !router.is_flying_from(0));
    }

    #[test]
    fn what_a_dead_node_never_called_done_is_routed_again() {
        let mut router = Router::new(100);
        let one = map(1, &[1, 2], 1, 1);
        let (a, _) = route(&mut router, &one, 10);
        route(&mut router, &one, 11);
        let mut out = Vec::new();
        router.mapped(&map(2, &[2], 2, 2), &mut out);
        assert_eq!(sent(out), [(2, 10), (2, 11)]);
        assert_eq!(router.done(None, a, &mut Vec::new()), Some(10));
        assert_eq!(router.done(None, a, &mut Vec::new()), None);
    }

    #[test]
    fn what_is_taken_out_is_not_sent_by_the_way() {
        let mut router = Router::new(100);
        let (one, two) = (map(1, &[1, 2], 1, 1), map(2, &[1, 2], 2, 2));
        route(&mut router, &one, 10);
        router.mapped(&two, &mut Vec::new());
        // Held, until the old home has said what became of the first.
        route(&mut router, &two, 11);
        let mut out = Vec::new();
        router
            .route(Some(&two), (0, Some(5)), 1, 12, &mut out)
            .unwrap();
        assert_eq!(router.take_from(Some(&two), 0, &mut out), [10, 11]);
        assert_eq!(sent(out), [(2, 12)]);
    }

    #[test]
    fn a_join_elsewhere_holds_nothing_up() {
        let mut router = Router::new(100);
        route(&mut router, &map(1, &[1, 2], 1, 1), 10);
        let two = map(2, &[1, 2, 3], 1, 1);
        router.mapped(&two, &mut Vec::new());
        assert_eq!(route(&mut router, &two, 11).1, [(1, 11)]);
    }

    #[test]
    fn what_is_under_way_is_bounded() {
        let mut router = Router::new(2);
        let one = map(1, &[1], 1, 1);
        let (a, _) = route(&mut router, &one, 1);
        route(&mut router, &one, 2);
        let full = router.route(Some(&one), (0, None), 1, 3, &mut Vec::new());
        assert_eq!(full, Err(RouterFull));
        router.done(Some(&one), a, &mut Vec::new());
        assert_eq!((router.bytes(), router.len()), (1, 1));
        // Without a map everything is held.
        let mut router = Router::new(9);
        let mut out = Vec::new();
        router.route(None, (0, None), 1, 3, &mut out).unwrap();
        assert_eq!(out, []);
        router.mapped(&one, &mut out);
        assert_eq!(sent(out), [(1, 3)]);
    }
}
