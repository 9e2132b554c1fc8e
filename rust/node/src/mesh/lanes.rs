//! What is on its way to homes: by shard in order, kept until it is called done.
//!
//! [`antiphon_cluster::router`] decides; here are its locks, the links, and what goes to a home that
//! is this node. A shard that is served here and has no lane goes by none: that is the way of a
//! message between users who live here.

use super::unit::{Unit, head_of, of_generation};
use super::{Awaited, Mesh};
use crate::node::Node;
use antiphon_cluster::id::Incarnation;
use antiphon_cluster::map::ShardMap;
use antiphon_cluster::relay::Outcome;
use antiphon_cluster::router::{Send, Ticket};
use antiphon_routing::home::SHARDS;
use antiphon_xmpp::StanzaKind;
use bytes::Bytes;
use hashbrown::HashMap;
use parking_lot::{Mutex, MutexGuard};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Locks; a power of two.
const LOCKS: usize = 64;
/// Bytes that one lock's lanes keep; beyond that units are refused. What sessions here send is
/// bounded for each of them besides.
const BYTES: usize = 4 << 20;

/// A unit on its way to a home.
#[derive(Debug)]
pub(super) struct Parcel {
    pub unit: Bytes,
    pub awaited: Awaited,
    /// One more than [`Session::parts`] when it was sent last; 0: it was not.
    parts: AtomicU64,
}

impl Parcel {
    /// Whether the client has a part of the answer since this was sent: another home would give it
    /// that again.
    fn is_part_answered(&self) -> bool {
        let Awaited::Session(session, ..) = &self.awaited else {
            return false;
        };
        let parts = u64::from(session.parts()) + 1;
        let before = self.parts.swap(parts, Ordering::AcqRel);
        before > 0
            && before != parts
            && matches!(Unit::unpack(&self.unit), Ok(Unit::Stanza { stanza, .. })
                if stanza.kind == StanzaKind::Iq)
    }
}

type Router = antiphon_cluster::router::Router<Arc<Parcel>>;
type Sends = Vec<Send<Arc<Parcel>>>;
type Parcels = Vec<Arc<Parcel>>;

/// The lanes of one lock.
#[derive(Debug)]
pub(super) struct Slice {
    router: Router,
    /// For this node, in order.
    here: VecDeque<(Ticket, u32, Arc<Parcel>)>,
    /// The first of those is being handled.
    is_busy: bool,
}

/// All lanes.
#[derive(Debug)]
pub(super) struct Lanes {
    slices: Box<[Mutex<Slice>]>,
    /// Whether a shard has a lane.
    open: Box<[AtomicBool]>,
    /// By node and number of the unit.
    sent: Mutex<HashMap<(u32, u64), (u16, Ticket)>>,
}

impl Default for Lanes {
    fn default() -> Self {
        let slice = || Slice {
            router: Router::new(BYTES),
            here: VecDeque::new(),
            is_busy: false,
        };
        Self {
            slices: (0..LOCKS).map(|_| Mutex::new(slice())).collect(),
            open: (0..SHARDS).map(|_| AtomicBool::new(false)).collect(),
            sent: Mutex::default(),
        }
    }
}

impl Lanes {
    fn slice(&self, shard: u16) -> MutexGuard<'_, Slice> {
        self.slices[usize::from(shard) & (LOCKS - 1)].lock()
    }

    /// Whether something is on its way to a shard: then what follows goes behind it.
    pub fn is_open(&self, shard: u16) -> bool {
        let open = self.open.get(usize::from(shard));
        open.is_some_and(|open| open.load(Ordering::Acquire))
    }

    fn note(&self, slice: &Slice, shard: u16) {
        if let Some(open) = self.open.get(usize::from(shard)) {
            open.store(slice.router.has(shard), Ordering::Release);
        }
    }

    fn note_all(&self, slice: &Slice, shards: &[u16]) {
        for shard in shards {
            self.note(slice, *shard);
        }
    }

    /// How many units are on their way.
    pub fn len(&self) -> usize {
        self.slices.iter().map(|s| s.lock().router.len()).sum()
    }

    /// Forgets everything, as when this node is out.
    pub fn clear(&self) {
        for slice in &self.slices {
            let mut slice = slice.lock();
            slice.router = Router::new(BYTES);
            slice.here.clear();
        }
        self.sent.lock().clear();
        for open in &self.open {
            open.store(false, Ordering::Release);
        }
    }
}

impl Mesh {
    /// Sends what the router wants sent; its slice is locked. What is refused instead.
    #[must_use]
    fn perform(&self, slice: &mut Slice, map: Option<&ShardMap>, mut sends: Sends) -> Parcels {
        let mut refused = Parcels::new();
        while !sends.is_empty() {
            let mut failed = Vec::new();
            let mut over = Vec::new();
            for send in sends.drain(..) {
                if send.stanza.is_part_answered() {
                    over.push(send.ticket);
                    continue;
                }
                if send.to.0 == self.me() {
                    let here = (send.ticket, send.generation, send.stanza);
                    slice.here.push_back(here);
                    continue;
                }
                // Locked first: it may be done before the number is noted.
                let mut sent = self.lanes.sent.lock();
                let unit = of_generation(&send.stanza.unit, send.generation);
                match self.send_unit(send.to.0, unit) {
                    Ok(number) => {
                        sent.insert((send.to.0, number), (send.shard, send.ticket));
                    }
                    Err(_) => failed.push((send.shard, send.ticket)),
                }
            }
            for (shard, ticket) in failed {
                // The link is not there yet, or any more: looked at again with the next tick.
                slice.router.not_yet(map, ticket, &mut sends);
                self.retry.lock().insert(shard);
            }
            for ticket in over {
                refused.extend(slice.router.done(map, ticket, &mut sends));
            }
        }
        refused
    }
}

impl Node {
    /// Sends a unit to the home of its shard, now or when that can take it. `source`: the shard of
    /// the entity that sends it on, where one does.
    ///
    /// # Errors
    /// It comes back: too much is on its way.
    pub(super) fn to_home(
        self: &Arc<Self>,
        mesh: &Mesh,
        (shard, source): (u16, Option<u16>),
        unit: Bytes,
        awaited: Awaited,
    ) -> Result<(), Parcel> {
        let size = unit.len();
        let parts = AtomicU64::new(0);
        let parcel = Arc::new(Parcel {
            unit,
            awaited,
            parts,
        });
        let map = mesh.map.load();
        let map = map.as_deref();
        let mut sends = Vec::new();
        let mut slice = mesh.lanes.slice(shard);
        let copy = Arc::clone(&parcel);
        let place = (shard, source);
        let routed = slice.router.route(map, place, size, copy, &mut sends);
        let refused = mesh.perform(&mut slice, map, sends);
        mesh.lanes.note(&slice, shard);
        let is_here = !slice.here.is_empty();
        drop(slice);
        self.parcels_refused(refused);
        if is_here {
            self.work_here(mesh, shard);
        }
        match (routed, Arc::try_unwrap(parcel)) {
            (Err(_), Ok(parcel)) => Err(parcel),
            _ => Ok(()),
        }
    }

    /// Handles what goes to homes here, one after another, so that what comes meanwhile goes behind
    /// the rest.
    fn work_here(self: &Arc<Self>, mesh: &Mesh, shard: u16) {
        loop {
            let mut slice = mesh.lanes.slice(shard);
            if slice.is_busy {
                return;
            }
            let Some((ticket, generation, parcel)) = slice.here.pop_front() else {
                return;
            };
            slice.is_busy = true;
            drop(slice);
            let place = head_of(&parcel.unit).map_or(shard, |(shard, _)| shard);
            let outcome = self.parcel_here(mesh, (place, generation), &parcel);
            self.outcome_of(mesh, place, ticket, outcome);
            mesh.lanes.slice(shard).is_busy = false;
        }
    }

    fn parcel_here(self: &Arc<Self>, mesh: &Mesh, head: (u16, u32), parcel: &Parcel) -> Outcome {
        match mesh.judge(mesh.me(), head) {
            Ok(_guard) => {
                self.own_unit_here(mesh, &parcel.unit, &parcel.awaited);
                Outcome::Done
            }
            Err(outcome) => outcome,
        }
    }

    /// What became of units of ours.
    pub fn units_settled(self: &Arc<Self>, peer: u32, outcomes: &[(u64, Outcome)]) {
        let Some(mesh) = self.mesh.as_deref() else {
            return;
        };
        for (number, outcome) in outcomes {
            let sent = mesh.lanes.sent.lock().remove(&(peer, *number));
            match sent {
                Some((shard, ticket)) => {
                    if self.outcome_of(mesh, shard, ticket, *outcome) {
                        self.work_here(mesh, shard);
                    }
                }
                None if mesh.given.taken(peer, *number) => {}
                None => mesh.flushed(peer, *number),
            }
        }
    }

    /// Whether something waits to be handled here.
    fn outcome_of(
        self: &Arc<Self>,
        mesh: &Mesh,
        shard: u16,
        ticket: Ticket,
        outcome: Outcome,
    ) -> bool {
        let map = mesh.map.load();
        let map = map.as_deref();
        let mut sends = Vec::new();
        let mut slice = mesh.lanes.slice(shard);
        let done = match outcome {
            Outcome::Done | Outcome::Refused => slice.router.done(map, ticket, &mut sends),
            Outcome::Returned(epoch) => {
                slice.router.returned(map, ticket, epoch, &mut sends);
                None
            }
            Outcome::NotYet => {
                slice.router.not_yet(map, ticket, &mut sends);
                None
            }
        };
        let refused = mesh.perform(&mut slice, map, sends);
        mesh.lanes.note(&slice, shard);
        let is_here = !slice.here.is_empty();
        drop(slice);
        self.parcels_refused(refused);
        if let Some(parcel) = done {
            if outcome == Outcome::Refused {
                self.parcel_refused(&parcel);
            }
            self.settle(&parcel.awaited);
        }
        is_here
    }

    /// Tells its sender that a unit goes nowhere.
    pub(super) fn parcel_refused(self: &Arc<Self>, parcel: &Parcel) {
        match Unit::unpack(&parcel.unit) {
            Ok(Unit::Stanza { stanza, .. }) => {
                if let Awaited::Session(session, ..) = &parcel.awaited {
                    self.refuse_to(session, &stanza);
                }
            }
            Ok(Unit::Route { stanza }) => {
                if let Some(error) = stanza.error(&crate::node::Busy.into()) {
                    self.route(error, None);
                }
            }
            _ => {}
        }
    }

    fn parcels_refused(self: &Arc<Self>, parcels: Parcels) {
        for parcel in parcels {
            self.parcel_refused(&parcel);
            self.settle(&parcel.awaited);
        }
    }

    /// A map came into force.
    pub(super) fn map_lanes(self: &Arc<Self>, mesh: &Mesh) {
        let Some(map) = mesh.map() else {
            return;
        };
        mesh.lanes
            .sent
            .lock()
            .retain(|(peer, _), _| map.knows(Incarnation(*peer)));
        for at in 0..LOCKS {
            let mut sends = Vec::new();
            let mut slice = mesh.lanes.slices[at].lock();
            let shards = slice.router.shards();
            slice.router.mapped(&map, &mut sends);
            let refused = mesh.perform(&mut slice, Some(&map), sends);
            mesh.lanes.note_all(&slice, &shards);
            let is_here = !slice.here.is_empty();
            drop(slice);
            self.parcels_refused(refused);
            if is_here {
                self.work_here(mesh, at as u16);
            }
        }
    }

    /// Homes say that they take stanzas for these shards.
    pub(super) fn lanes_ready(self: &Arc<Self>, mesh: &Mesh, shards: &[u16]) {
        let map = mesh.map();
        for shard in shards {
            let mut sends = Vec::new();
            let mut slice = mesh.lanes.slice(*shard);
            slice.router.ready(map.as_deref(), *shard, &mut sends);
            let refused = mesh.perform(&mut slice, map.as_deref(), sends);
            mesh.lanes.note(&slice, *shard);
            let is_here = !slice.here.is_empty();
            drop(slice);
            self.parcels_refused(refused);
            if is_here {
                self.work_here(mesh, *shard);
            }
        }
    }

    /// Takes out, in order, what entities of a shard sent on and no home has taken. Whether that is
    /// all: not while a home has something and has not said what became of it.
    pub(super) fn take_legs(&self, mesh: &Mesh, source: u16, legs: &mut Vec<Arc<Parcel>>) -> bool {
        let mut is_all = true;
        for slice in &mesh.lanes.slices {
            let mut slice = slice.lock();
            if slice.router.is_flying_from(source) {
                is_all = false;
                continue;
            }
            let shards = slice.router.shards();
            legs.extend(slice.router.take_held(source));
            mesh.lanes.note_all(&slice, &shards);
        }
        is_all
    }

    /// What entities of a dropped shard had sent on: nobody waits for it any more.
    pub(super) fn drop_legs(self: &Arc<Self>, mesh: &Mesh, source: u16) {
        let map = mesh.map();
        for slice in &mesh.lanes.slices {
            let mut slice = slice.lock();
            let mut sends = Vec::new();
            let shards = slice.router.shards();
            slice.router.take_from(map.as_deref(), source, &mut sends);
            let refused = mesh.perform(&mut slice, map.as_deref(), sends);
            mesh.lanes.note_all(&slice, &shards);
            drop(slice);
            self.parcels_refused(refused);
        }
    }
}
