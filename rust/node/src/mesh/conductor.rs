//! What happens when the map changes: one task carries it out, one step after another.
//!
//! [`Holdings`](antiphon_cluster::holdings::Holdings) decides. A shard that goes is served no
//! longer, what goes on with its entities ends ([`super::releases`]), and its next home gets what
//! this one knows: its sessions, and what its entities have sent on that no home has taken. A shard
//! that comes waits for that, or, where its former home is dead, for what every node reports of its
//! own sessions; then its entities are told of their sessions before anything else.

use super::shadows;
use super::taken::Taken;
use super::unit::{Known, Leg, Unit};
use super::{Awaited, Mesh};
use crate::node::Node;
use antiphon_cluster::HEAD_START_MS;
use antiphon_cluster::holdings::{Effect, Verdict};
use antiphon_cluster::id::{Epoch, Incarnation};
use antiphon_cluster::link::Class;
use antiphon_cluster::map::ShardMap;
use antiphon_cluster::rebuild::Rebuild;
use antiphon_cluster::relay::Outcome;
use antiphon_routing::archive::ArchiveId;
use antiphon_routing::effect::Origin;
use antiphon_routing::home::shard_of;
use antiphon_routing::user::note_handed;
use antiphon_xmpp::stream::StreamCondition;
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

/// Between two looks at what waits.
const TICK: Duration = Duration::from_millis(50);
/// Between two looks whether entities have been read.
const LOADING: Duration = Duration::from_millis(2);
/// Ticks for which it is remembered what a former home had begun.
const FORGET_TICKS: u32 = 6_000;
/// Bytes of a part of a hand-over, well below what a link takes.
const PART_BYTES: usize = 256 << 10;

/// What the conductor is told.
#[derive(Debug)]
pub enum Event {
    /// This life begins.
    Joined(u32),
    /// This map is in force.
    Map(Arc<ShardMap>),
    /// This life is over.
    Out,
    /// Part of a hand-over has come.
    Bulk {
        /// From whom.
        peer: u32,
        /// Its number on the link.
        number: u64,
        /// A unit.
        unit: Bytes,
    },
    /// Nothing goes on any more with shards that go.
    Flushed(Vec<Flushed>),
    /// Entities of some of these shards, which came at that epoch, know their sessions now.
    Loaded(Vec<(u16, Epoch)>),
}

/// A shard that has been flushed.
#[derive(Debug)]
pub struct Flushed {
    pub(super) shard: u16,
    /// No write of this process can land any more.
    pub(super) is_clean: bool,
    pub(super) sessions: Vec<Known>,
    pub(super) legs: Vec<Leg>,
    /// What was handed over to this home and is done.
    pub(super) ended: Vec<Origin>,
}

/// What the former home of a shard that comes has told so far.
#[derive(Debug, Default)]
struct Handed {
    since: u64,
    dirty: u64,
    died_ms: u64,
    sessions: Vec<Known>,
    legs: Vec<Leg>,
    ended: Vec<Origin>,
}

/// What the conductor alone knows.
#[derive(Default)]
pub(super) struct Knowledge {
    reports: HashMap<u16, (Epoch, Rebuild<Known>)>,
    /// Parts of reports, until the last has come.
    partial: HashMap<u32, Vec<Known>>,
    handed: HashMap<u16, Handed>,
    /// Of maps that have not come here yet.
    parked: Vec<(u32, u64, Bytes)>,
    /// What goes to the next homes, once they are told of the release.
    flushed: HashMap<u16, Flushed>,
}

impl Node {
    /// Carries out what the mesh is told, for the life of the node.
    pub async fn conduct(self: Arc<Self>, mut events: mpsc::UnboundedReceiver<Event>) {
        let Some(mesh) = self.mesh.clone() else {
            return;
        };
        let mut knowledge = Knowledge::default();
        let mut tick = tokio::time::interval(TICK);
        let mut ticks = 0u32;
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = events.recv() => match event {
                    Some(event) => self.happen(&mesh, &mut knowledge, event),
                    None => return,
                },
                _ = tick.tick() => {
                    ticks = ticks.wrapping_add(1);
                    self.look_again(&mesh);
                    if ticks.is_multiple_of(FORGET_TICKS) {
                        mesh.counts.forget_old();
                        mesh.shadows.forget_old();
                    }
                }
            }
        }
    }

    fn happen(self: &Arc<Self>, mesh: &Arc<Mesh>, knowledge: &mut Knowledge, event: Event) {
        match event {
            Event::Joined(me) => {
                mesh.homes.begin(me);
                // What was before is not known.
                mesh.taken.note_death(self.now());
                let mut holdings = mesh.holdings.write();
                *holdings = holdings.again(Incarnation(me));
            }
            Event::Map(map) => self.mapped(mesh, knowledge, &map),
            Event::Out => self.out(mesh, knowledge),
            Event::Loaded(shards) => self.loaded_shards(mesh, &shards),
            Event::Bulk { peer, number, unit } => {
                self.bulk(mesh, knowledge, (peer, number, unit));
            }
            Event::Flushed(all) => {
                let mut effects = Vec::new();
                for flushed in all {
                    let shard = flushed.shard;
                    knowledge.flushed.insert(shard, flushed);
                    mesh.holdings.write().flushed(shard, &mut effects);
                    if !matches!(effects.last(), Some(Effect::Released { shard: s, .. }) if *s == shard)
                    {
                        self.came_back(mesh, knowledge, shard);
                    }
                }
                self.carry_out(mesh, knowledge, effects);
            }
        }
    }

    /// A shard was taken back from a next home that is dead, before it could be released: what was
    /// written down of sessions there, nobody else knows.
    fn came_back(self: &Arc<Self>, mesh: &Mesh, knowledge: &mut Knowledge, shard: u16) {
        let Some(flushed) = knowledge.flushed.remove(&shard) else {
            return;
        };
        let is_lost =
            |known: &Known| known.id.node != mesh.me() && self.peer(mesh, known.id.node).is_none();
        let known = flushed.sessions.into_iter().filter(is_lost);
        if let Some((_, rebuild)) = knowledge.reports.get_mut(&shard) {
            rebuild.shadowed(known.map(|known| (known.id, known)));
        } else if mesh.holdings.read().serving(shard).is_some() {
            for known in known {
                self.take_up_session(mesh, known);
            }
        }
    }

    /// What could not go when it should have is tried again.
    fn look_again(self: &Arc<Self>, mesh: &Arc<Mesh>) {
        mesh.look_at_unsure();
        let clock = self.live.load().policy.clock.now();
        let epoch = mesh.map().map_or(0, |map| map.epoch().0);
        mesh.links.tell(clock, epoch);
        let retry: Vec<u16> = std::mem::take(&mut *mesh.retry.lock())
            .into_iter()
            .collect();
        self.lanes_ready(mesh, &retry);
        self.wake_proxies(mesh);
        // Their sender may have heard of it before it heard that it must wait.
        self.tell_waiting(mesh, |shard| mesh.homes.is_served(shard));
    }

    /// Whoever could not send to these shards may try again.
    fn tell_waiting(self: &Arc<Self>, mesh: &Mesh, is_meant: impl Fn(u16) -> bool) {
        for (peer, shards) in mesh.refusals.waiting(is_meant) {
            match peer == mesh.me() {
                true => self.lanes_ready(mesh, &shards),
                false => {
                    mesh.tell(peer, &Unit::Ready { shards });
                }
            }
        }
    }

    fn mapped(self: &Arc<Self>, mesh: &Arc<Mesh>, knowledge: &mut Knowledge, map: &Arc<ShardMap>) {
        if mesh
            .map()
            .is_some_and(|before| before.epoch() >= map.epoch())
        {
            return;
        }
        let clock = &self.live.load().policy.clock;
        // By age: those who stay keep theirs unless an older one is gone, and with it its ids.
        let older = map.nodes().iter().filter(|n| n.incarnation.0 < mesh.me());
        clock.take_lane(older.count() as u64);
        let gone = self.meet(mesh, map);
        if let Some(before) = mesh.map()
            && gone.iter().any(|peer| before.count(Incarnation(*peer)) > 0)
        {
            mesh.taken.note_death(self.now());
        }
        let shadows = shadows::changed(mesh.map().as_deref(), map, mesh.me());
        let mut effects = Vec::new();
        mesh.holdings.write().apply(Arc::clone(map), &mut effects);
        // Behind: what goes by the new map is judged by it.
        mesh.map.store(Some(Arc::clone(map)));
        mesh.homes.mapped(map);
        mesh.links.tell(clock.now(), map.epoch().0);
        for (_, rebuild) in knowledge.reports.values_mut() {
            rebuild.viewed(map);
        }
        self.carry_out(mesh, knowledge, effects);
        // Behind the reports.
        mesh.shadows.mapped(map, mesh.me());
        self.tell_shadows(mesh, &shadows);
        self.map_lanes(mesh);
        for peer in gone {
            self.peer_gone(mesh, knowledge, peer);
        }
        mesh.refusals
            .forget(|sender| !map.knows(Incarnation(sender)));
        for parked in std::mem::take(&mut knowledge.parked) {
            self.bulk(mesh, knowledge, parked);
        }
        self.tell_waiting(mesh, |_| true);
    }

    fn peer_gone(self: &Arc<Self>, mesh: &Mesh, knowledge: &mut Knowledge, peer: u32) {
        knowledge.partial.remove(&peer);
        mesh.epochs.write().remove(&peer);
        mesh.flushes.lock().retain(|(to, _), _| *to != peer);
        mesh.forget_components_of(peer);
        self.end_sessions_of(mesh, peer);
        self.nothing_comes_from(mesh, peer);
    }

    fn carry_out(
        self: &Arc<Self>,
        mesh: &Arc<Mesh>,
        knowledge: &mut Knowledge,
        mut effects: Vec<Effect>,
    ) {
        let mut released = Vec::new();
        let mut reports: BTreeMap<u32, Vec<(u16, Epoch)>> = BTreeMap::new();
        let mut served = Vec::new();
        while !effects.is_empty() {
            let mut further = Vec::new();
            for effect in effects.drain(..) {
                match effect {
                    Effect::Drop { shard } => self.drop_shard(mesh, knowledge, shard),
                    Effect::Release { shard } => {
                        mesh.homes.serve(shard, false);
                        released.push(shard);
                    }
                    Effect::Released {
                        to,
                        shard,
                        since,
                        is_clean,
                    } => self.released(mesh, knowledge, to, (shard, since), is_clean),
                    Effect::TakeUp {
                        shard,
                        since,
                        is_clean,
                    } => {
                        self.take_up(mesh, knowledge, (shard, since), is_clean);
                        mesh.holdings.write().taken_up(shard, since, &mut further);
                    }
                    Effect::Report { to, shard, since } => {
                        reports.entry(to.0).or_default().push((shard, since));
                    }
                    Effect::Serve { shard, since } => served.push((shard, since)),
                }
            }
            effects = further;
        }
        if !released.is_empty() {
            let (node, epoch) = (Arc::clone(self), mesh.holdings.read().epoch());
            self.runtime
                .spawn(async move { node.release_shards(released, epoch).await });
        }
        self.serve(mesh, knowledge, &served);
        for (to, shards) in reports {
            self.report(mesh, knowledge, to, shards);
        }
    }

    /// Tells the next home what this one knows, and that it is released.
    fn released(
        self: &Arc<Self>,
        mesh: &Mesh,
        knowledge: &mut Knowledge,
        to: Incarnation,
        (shard, since): (u16, Epoch),
        is_clean: bool,
    ) {
        let flushed = knowledge.flushed.remove(&shard);
        let is_clean = is_clean && flushed.as_ref().is_none_or(|f| f.is_clean);
        let Flushed {
            sessions,
            legs,
            ended,
            ..
        } = flushed.unwrap_or(Flushed {
            shard,
            is_clean,
            sessions: Vec::new(),
            legs: Vec::new(),
            ended: Vec::new(),
        });
        let there = sessions.iter().filter(|known| known.id.node == to.0);
        mesh.shadows.hand(shard, to.0, there.cloned());
        let mut parts = vec![Part::default()];
        let mut size = 0;
        for known in sessions {
            size += known.keepsake.len() + known.jid.as_str().len() + 16;
            part_of(&mut parts, &mut size).0.push(known);
        }
        for leg in &legs {
            size += leg.stanza.size() + 64;
            part_of(&mut parts, &mut size).1.push(leg.clone());
        }
        for origin in ended {
            size += 16;
            part_of(&mut parts, &mut size).2.push(origin);
        }
        for (sessions, legs, ended) in parts {
            if !sessions.is_empty() || !legs.is_empty() || !ended.is_empty() {
                let since = since.0;
                mesh.hand(
                    to.0,
                    &Unit::Handed {
                        shard,
                        since,
                        sessions,
                        legs,
                        ended,
                    },
                );
            }
        }
        let Taken { dirty, died_ms, .. } = mesh.taken.of(shard);
        let unit = Unit::Released {
            shard,
            since: since.0,
            is_clean,
            dirty,
            clock: self.live.load().policy.clock.now(),
            died_ms,
        };
        mesh.hand(to.0, &unit);
        mesh.taken.set(shard, Taken::default());
        self.follow_legs(mesh, shard, legs);
    }

    /// What sessions here sent and their former home sent on waits for the next home.
    fn follow_legs(self: &Arc<Self>, mesh: &Mesh, shard: u16, legs: Vec<Leg>) {
        for leg in legs {
            let origin = leg.origin;
            if origin.session.node != mesh.me() || origin.seq == 0 {
                continue;
            }
            let unit = Unit::Leg {
                session: origin.session.number,
                seq: origin.seq,
                stanza: leg.stanza,
            };
            let awaited = Awaited::Origin(origin);
            if let Err(parcel) = self.to_home(mesh, (shard, None), unit.pack_for(shard), awaited) {
                // The next home has it; it is only not heard of when it is done.
                self.settle(&parcel.awaited);
            }
        }
    }

    fn take_up(
        &self,
        mesh: &Mesh,
        knowledge: &Knowledge,
        (shard, since): (u16, Epoch),
        is_clean: bool,
    ) {
        let handed = knowledge.handed.get(&shard);
        let handed = handed.filter(|handed| handed.since == since.0);
        let (dirty, died_ms) = match is_clean {
            true => handed.map_or((0, 0), |handed| (handed.dirty, handed.died_ms)),
            false => (since.0, self.now()),
        };
        if !is_clean {
            // Above whatever a former home gave whose clock was ahead.
            let head = ArchiveId::first_of(self.now() + HEAD_START_MS);
            self.live.load().policy.clock.observe(head);
        }
        let taken = Taken {
            is_new: true,
            dirty,
            died_ms,
        };
        mesh.taken.set(shard, taken);
    }

    fn report(
        self: &Arc<Self>,
        mesh: &Arc<Mesh>,
        knowledge: &mut Knowledge,
        to: u32,
        shards: Vec<(u16, Epoch)>,
    ) {
        let is_its: HashSet<u16> = shards.iter().map(|(shard, _)| *shard).collect();
        let mut known = Vec::new();
        for session in self.sessions.all() {
            if session.is_closed() || !is_its.contains(&shard_of(session.jid.bare_str())) {
                continue;
            }
            // Without: not bound yet, and its request goes to the new home by itself.
            let number = session.id.number;
            if let Some(keepsake) = self.sessions.kept(number) {
                let mut keepsake = keepsake.to_vec();
                note_handed(&mut keepsake, self.sessions.offline_of(number));
                known.push(Known {
                    id: session.id,
                    jid: session.jid.clone(),
                    keepsake,
                    last: self.sessions.last_of(number),
                });
            }
        }
        known.extend(mesh.shadows.of(&is_its));
        if to == mesh.me() {
            return self.reported(mesh, knowledge, to, &shards, known);
        }
        let shards = shards.into_iter().map(|(shard, since)| (shard, since.0));
        let shards: Vec<(u16, u64)> = shards.collect();
        let mut part = Vec::new();
        let mut size = 0;
        for one in known {
            size += one.keepsake.len() + one.jid.as_str().len() + 16;
            part.push(one);
            if size >= PART_BYTES {
                let unit = Unit::Report {
                    shards: Vec::new(),
                    sessions: std::mem::take(&mut part),
                    is_last: false,
                };
                mesh.hand(to, &unit);
                size = 0;
            }
        }
        let unit = Unit::Report {
            shards,
            sessions: part,
            is_last: true,
        };
        mesh.hand(to, &unit);
    }

    fn reported(
        self: &Arc<Self>,
        mesh: &Arc<Mesh>,
        knowledge: &mut Knowledge,
        by: u32,
        shards: &[(u16, Epoch)],
        known: Vec<Known>,
    ) {
        let Some(map) = mesh.map() else {
            return;
        };
        let mut by_shard: HashMap<u16, Vec<Known>> = HashMap::new();
        for one in known {
            let shard = shard_of(one.jid.bare_str());
            by_shard.entry(shard).or_default().push(one);
        }
        let mut effects = Vec::new();
        for (shard, since) in shards {
            let fresh = || (*since, Rebuild::new(&map));
            let one = knowledge.reports.entry(*shard).or_insert_with(fresh);
            if one.0 < *since {
                *one = fresh();
            }
            if one.0 == *since {
                let its = by_shard.remove(shard).unwrap_or_default();
                let its = its.into_iter().map(|known| (known.id, known));
                let (own, shadowed): (Vec<_>, Vec<_>) = its.partition(|(id, _)| id.node == by);
                one.1.shadowed(shadowed);
                one.1.reported(Incarnation(by), own);
            }
            let mut holdings = mesh.holdings.write();
            holdings.reported((*shard, *since), Incarnation(by), &mut effects);
        }
        self.carry_out(mesh, knowledge, effects);
    }

    /// A part of a hand-over of another node.
    fn bulk(
        self: &Arc<Self>,
        mesh: &Arc<Mesh>,
        knowledge: &mut Knowledge,
        (peer, number, unit): (u32, u64, Bytes),
    ) {
        let epoch = Epoch(mesh.epochs.read().get(&peer).copied().unwrap_or(0));
        let verdict = mesh.holdings.read().judge_sender(Incarnation(peer), epoch);
        match verdict {
            Some(Verdict::Park(_)) => return knowledge.parked.push((peer, number, unit)),
            Some(_) => {
                mesh.refused
                    .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
            None => match Unit::unpack(&unit) {
                Ok(read) => self.read_bulk(mesh, knowledge, peer, read),
                Err(error) => self.log_unit(peer, &error.to_string()),
            },
        }
        mesh.links.done(peer, Class::Bulk, number, Outcome::Done);
    }

    fn read_bulk(
        self: &Arc<Self>,
        mesh: &Arc<Mesh>,
        knowledge: &mut Knowledge,
        peer: u32,
        unit: Unit<'_>,
    ) {
        match unit {
            Unit::Report {
                shards,
                mut sessions,
                is_last,
            } => {
                let part = knowledge.partial.entry(peer).or_default();
                part.append(&mut sessions);
                if is_last {
                    let all = knowledge.partial.remove(&peer).unwrap_or_default();
                    let shards = shards.into_iter().map(|(shard, e)| (shard, Epoch(e)));
                    let shards: Vec<(u16, Epoch)> = shards.collect();
                    self.reported(mesh, knowledge, peer, &shards, all);
                }
            }
            Unit::Handed {
                shard,
                since,
                sessions,
                legs,
                ended,
            } => {
                let handed = handed_of(knowledge, shard, since);
                handed.sessions.extend(sessions);
                handed.legs.extend(legs);
                handed.ended.extend(ended);
            }
            Unit::Released {
                shard,
                since,
                is_clean,
                dirty,
                clock,
                died_ms,
            } => {
                let handed = handed_of(knowledge, shard, since);
                (handed.dirty, handed.died_ms) = (dirty, died_ms);
                let own = handed.sessions.iter().filter(|k| k.id.node == mesh.me());
                let own: Vec<_> = own.map(|k| (k.id, k.jid.clone())).collect();
                if !own.is_empty() {
                    mesh.shadows.came_from(shard, peer, own);
                }
                self.live.load().policy.clock.observe(ArchiveId(clock));
                let mut effects = Vec::new();
                let time = (shard, Epoch(since));
                let mut holdings = mesh.holdings.write();
                holdings.released(time, Incarnation(peer), is_clean, &mut effects);
                drop(holdings);
                self.carry_out(mesh, knowledge, effects);
            }
            _ => {}
        }
    }

    /// Shards are complete: their entities learn of their sessions, then they are served.
    fn serve(
        self: &Arc<Self>,
        mesh: &Arc<Mesh>,
        knowledge: &mut Knowledge,
        shards: &[(u16, Epoch)],
    ) {
        for (shard, since) in shards {
            let handed = knowledge.handed.remove(shard);
            let handed = handed.filter(|handed| handed.since == since.0);
            let handed = handed.unwrap_or_default();
            let reports = knowledge.reports.remove(shard);
            let is_clean = mesh.taken.of(*shard).dirty != since.0;
            let mut sessions = handed.sessions;
            if let Some((_, rebuild)) = reports.filter(|(of, _)| of == since && !is_clean) {
                let known: HashSet<_> = sessions.iter().map(|known| known.id).collect();
                let rebuilt = rebuild.finish();
                // Who was lost with its node ends as soon as its entity knows of it.
                let rebuilt = rebuilt.sessions.into_iter().chain(rebuilt.lost);
                let rebuilt = rebuilt.map(|(_, known)| known);
                sessions.extend(rebuilt.filter(|k| !known.contains(&k.id)));
            }
            for known in sessions {
                self.take_up_session(mesh, known);
            }
            for origin in handed.ended {
                mesh.counts.note_ended(origin);
            }
            for leg in handed.legs {
                self.take_up_leg(mesh, *shard, leg);
            }
        }
        self.loaded_shards(mesh, shards);
    }

    /// Serves those of these shards whose entities all know their sessions, the rest when they do.
    fn loaded_shards(self: &Arc<Self>, mesh: &Arc<Mesh>, shards: &[(u16, Epoch)]) {
        let holdings = mesh.holdings.read();
        let is_current = |at: &&(u16, Epoch)| holdings.serving(at.0) == Some(at.1);
        let is_loaded = |at: &(u16, Epoch)| mesh.homes.is_quiet(at.0);
        let (ready, later): (Vec<_>, Vec<_>) = shards
            .iter()
            .filter(is_current)
            .copied()
            .partition(is_loaded);
        drop(holdings);
        let served: Vec<u16> = ready.iter().map(|(shard, _)| *shard).collect();
        for shard in &served {
            mesh.homes.serve(*shard, true);
        }
        if !served.is_empty() {
            self.lanes_ready(mesh, &served);
            self.tell_shadows(mesh, &served.iter().copied().collect());
            self.tell_waiting(mesh, |shard| served.contains(&shard));
            self.tell_former(mesh, &served);
            mesh.shadows.served(mesh.me(), &served);
        }
        if !later.is_empty() {
            let (node, mesh) = (Arc::clone(self), Arc::clone(mesh));
            self.runtime.spawn(async move {
                let is_loading = || later.iter().all(|at| !mesh.homes.is_quiet(at.0));
                while is_loading() {
                    // The end of a lost session is written down, which else waits for seconds.
                    node.store.flush();
                    tokio::time::sleep(LOADING).await;
                }
                mesh.happened(Event::Loaded(later));
            });
        }
    }

    fn drop_shard(self: &Arc<Self>, mesh: &Mesh, knowledge: &mut Knowledge, shard: u16) {
        let was_served = mesh.homes.is_served(shard) || !mesh.homes.is_quiet(shard);
        mesh.homes.serve(shard, false);
        knowledge.handed.remove(&shard);
        knowledge.reports.remove(&shard);
        knowledge.flushed.remove(&shard);
        if let Some(map) = mesh.map()
            && let Some(owner) = map.owner(shard)
        {
            // For the report: a next home died before it was told.
            let known = self.known_of_the_dead(mesh, &map, shard);
            mesh.shadows.hand(shard, owner.0, known);
        }
        let is_its = |bare: &str| shard_of(bare) == shard;
        let had_entities = self.forget_entities(is_its);
        if was_served || had_entities {
            self.end_homes_of(mesh, &is_its);
        }
        self.drop_legs(mesh, shard);
    }

    /// The streams of sessions whose home was dropped: what they sent and was not acknowledged, they
    /// send again.
    fn end_homes_of(self: &Arc<Self>, mesh: &Mesh, is_its: &dyn Fn(&str) -> bool) {
        for foreign in mesh.proxies.those(|f| is_its(f.session.jid.bare_str())) {
            let id = foreign.session.id;
            mesh.proxies.leave(id);
            self.finish_proxy(&foreign);
            self.close_at_edge(mesh, id, StreamCondition::Reset);
        }
        for session in self.sessions.all() {
            let is_home = self.sessions.kept(session.id.number).is_none();
            if is_home && is_its(session.jid.bare_str()) {
                self.close_session(session.id, StreamCondition::Reset.into());
            }
        }
    }

    /// This life is over: nothing of it is true any more.
    fn out(self: &Arc<Self>, mesh: &Arc<Mesh>, knowledge: &mut Knowledge) {
        // While they still have the names by which they are found.
        for session in self.sessions.all() {
            self.close_session(session.id, StreamCondition::Reset.into());
        }
        let mut effects = Vec::new();
        mesh.holdings.write().fence(&mut effects);
        mesh.homes.begin(0);
        mesh.map.store(None);
        mesh.forget_unsure();
        self.forget_entities(|_| true);
        for foreign in mesh.proxies.those(|_| true) {
            mesh.proxies.leave(foreign.session.id);
            self.finish_proxy(&foreign);
        }
        mesh.counts.clear();
        self.bridge.take_brought(|_, _| true);
        mesh.lanes.clear();
        for (_, peer) in mesh.peers.write().drain() {
            peer.leave();
        }
        mesh.epochs.write().clear();
        mesh.shadows.clear();
        mesh.given.clear();
        mesh.refusals.forget(|_| true);
        *knowledge = Knowledge::default();
    }
}

fn handed_of(knowledge: &mut Knowledge, shard: u16, since: u64) -> &mut Handed {
    let handed = knowledge.handed.entry(shard).or_default();
    if handed.since != since {
        *handed = Handed {
            since,
            ..Handed::default()
        };
    }
    handed
}

type Part = (Vec<Known>, Vec<Leg>, Vec<Origin>);

/// The part that the next piece goes into.
fn part_of<'a>(parts: &'a mut Vec<Part>, size: &mut usize) -> &'a mut Part {
    if *size >= PART_BYTES {
        *size = 0;
        parts.push(Part::default());
    }
    let last = parts.len() - 1;
    &mut parts[last]
}
