//! The end of shards that go: what is under way for them ends, what is known of them is written
//! down.

use super::conductor::{Event, Flushed};
use super::counts::{Brought, Counts};
use super::proxies::{Foreign, last_of};
use super::unit::{Known, Leg, Unit};
use super::{Awaited, Mesh};
use crate::node::Node;
use antiphon_cluster::id::Epoch;
use antiphon_cluster::link::Class;
use antiphon_cluster::relay::Outcome;
use antiphon_routing::SessionId;
use antiphon_routing::effect::Origin;
use antiphon_routing::home::shard_of;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout_at};

/// How long what is under way may take before shards are given away without it.
const FLUSH: Duration = Duration::from_secs(10);
/// How long the node of a socket may take to take what it is sent.
const LINK: Duration = Duration::from_secs(3);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(2);

impl Node {
    /// Ends what is under way for shards that are not served any more, and tells the conductor.
    pub(super) async fn release_shards(self: Arc<Self>, shards: Vec<u16>, epoch: Epoch) {
        let Some(mesh) = self.mesh.clone() else {
            return;
        };
        let deadline = Instant::now() + FLUSH;
        let going: HashMap<u16, Epoch> = {
            let holdings = mesh.holdings.read();
            let since = |shard: &u16| Some((*shard, holdings.going(*shard)?));
            shards.iter().filter_map(since).collect()
        };
        // One whose next home died may be served here again by the time another is quiet.
        let goes = |shard: &u16| {
            let since = mesh.holdings.read().going(*shard);
            since.is_some() && since == going.get(shard).copied()
        };
        let is_quiet = |shard: &u16| mesh.homes.is_quiet(*shard);
        let is_ready = || shards.iter().all(|s| is_quiet(s) || !goes(s));
        while !is_ready() && Instant::now() < deadline {
            self.store.flush();
            sleep(PAUSE).await;
        }
        let shards: Vec<u16> = shards.iter().filter(|s| goes(s)).copied().collect();
        let is_clean = shards.iter().all(is_quiet);
        let lost: HashSet<u16> = shards.iter().copied().collect();
        let is_lost = |bare: &str| lost.contains(&shard_of(bare));
        let mut sessions = self.write_down(&mesh, is_lost);
        self.forget_entities(is_lost);
        let proxies = mesh.proxies.those(|f| is_lost(f.session.jid.bare_str()));
        let ids: HashSet<SessionId> = proxies.iter().map(|f| f.session.id).collect();
        for foreign in &proxies {
            self.return_all(&mesh, foreign.end_inbox(), epoch);
        }
        // Before their sessions end: nobody would hear what is answered then.
        let asked = self.bridge.take_brought(|origin, owner| {
            ids.contains(&origin.session) || Counts::is_unnamed(origin) && is_lost(owner)
        });
        for origin in asked {
            self.return_all(&mesh, mesh.counts.take_one(origin), epoch);
        }
        self.give_last(&mesh, &proxies).await;
        let still: Vec<u16> = shards.iter().filter(|s| goes(s)).copied().collect();
        let mut legs = self.legs_of(&mesh, &still, deadline).await;
        // The next home has what became of these. The rest ends here, and is called done then: what is
        // stored for recipients who stay. Begun again, they would get it twice.
        let handed: HashSet<Origin> = legs.values().flatten().map(|leg| leg.origin).collect();
        let is_brought_on = |origin| !is_clean || handed.contains(&origin);
        let is_meant = |origin: Origin| ids.contains(&origin.session) && is_brought_on(origin);
        self.return_all(&mesh, mesh.counts.take(is_meant), epoch);
        let mut ended = self.ended_of(&mesh, &sessions, &handed, deadline).await;
        let flushed = shards.into_iter().map(|shard| Flushed {
            shard,
            is_clean,
            sessions: sessions.remove(&shard).unwrap_or_default(),
            legs: legs.remove(&shard).unwrap_or_default(),
            ended: ended.remove(&shard).unwrap_or_default(),
        });
        mesh.happened(Event::Flushed(flushed.collect()));
    }

    /// Has their senders bring units to the next home.
    pub(super) fn return_all(
        &self,
        mesh: &Mesh,
        brought: impl IntoIterator<Item = Brought>,
        epoch: Epoch,
    ) {
        for Brought { peer, number } in brought {
            let outcome = Outcome::Returned(epoch);
            mesh.links.done(peer, Class::Stanza, number, outcome);
        }
    }

    /// What the entities of these shards know of their sessions.
    fn write_down(&self, mesh: &Mesh, is_lost: impl Fn(&str) -> bool) -> HashMap<u16, Vec<Known>> {
        let mut all: HashMap<u16, Vec<Known>> = HashMap::new();
        for mut slice in self.shards.each() {
            for (user, _) in slice
                .users()
                .filter(|(user, _)| is_lost(user.jid().as_str()))
            {
                for (id, jid, kept, keepsake) in user.hand_over() {
                    if id.node == mesh.me() {
                        // For the home after the next, should that die.
                        self.sessions.keep(id.number, kept.into());
                    }
                    let known = Known {
                        id,
                        jid,
                        keepsake,
                        last: 0,
                    };
                    all.entry(shard_of(user.jid().as_str()))
                        .or_default()
                        .push(known);
                }
            }
        }
        all
    }

    /// Sends the edges all that their sessions still have here, and waits until they have it.
    async fn give_last(self: &Arc<Self>, mesh: &Mesh, proxies: &[Arc<Foreign>]) {
        let mut peers = HashSet::new();
        for foreign in proxies {
            let id = foreign.session.id;
            peers.insert(id.node);
            mesh.proxies.leave(id);
            // What was taken out of it before is sent before this.
            let _outbox = foreign.outbox.lock();
            for unit in last_of(&foreign.session, None) {
                // A node that is gone needs it no more.
                let _ = mesh.give(&foreign.session, unit);
            }
        }
        self.flush(mesh, peers).await;
    }

    /// Waits until these nodes have taken all that they were sent, or are gone, or for [`LINK`].
    pub(super) async fn flush(&self, mesh: &Mesh, peers: HashSet<u32>) {
        let deadline = Instant::now() + LINK;
        let mut waiting = Vec::new();
        for peer in peers {
            let mut flushes = mesh.flushes.lock();
            if let Ok(number) = mesh.links.send(peer, Class::Stanza, Unit::Flush.pack()) {
                let (told, is_told) = oneshot::channel();
                flushes.insert((peer, number), told);
                waiting.push(is_told);
            }
        }
        for is_told in waiting {
            // A node that does not answer is gone, or will drop what is late.
            let _ = timeout_at(deadline, is_told).await;
        }
    }

    /// What the entities of these shards sent on and no home has taken, once every home has said
    /// what it has.
    async fn legs_of(
        &self,
        mesh: &Mesh,
        shards: &[u16],
        deadline: Instant,
    ) -> HashMap<u16, Vec<Leg>> {
        let mut legs: HashMap<u16, Vec<Leg>> = HashMap::new();
        for shard in shards {
            let mut parcels = Vec::new();
            while !self.take_legs(mesh, *shard, &mut parcels) && Instant::now() < deadline {
                sleep(PAUSE).await;
            }
            for parcel in parcels {
                let origin = match &parcel.awaited {
                    Awaited::Origin(origin) => *origin,
                    Awaited::Session(..) | Awaited::Nobody => Origin {
                        session: SessionId { node: 0, number: 0 },
                        seq: 0,
                    },
                };
                if let Ok(Unit::Route { stanza }) = Unit::unpack(&parcel.unit) {
                    let leg = Leg { origin, stanza };
                    legs.entry(*shard).or_default().push(leg);
                }
            }
        }
        legs
    }

    /// What was handed over to this home by another and is done: whoever sent it may not have been
    /// told, and brings it to the next one. What is still being stored here is waited for.
    async fn ended_of(
        &self,
        mesh: &Mesh,
        sessions: &HashMap<u16, Vec<Known>>,
        handed: &HashSet<Origin>,
        deadline: Instant,
    ) -> HashMap<u16, Vec<Origin>> {
        let of_shard = |(shard, all): (&u16, &Vec<Known>)| {
            let shard = *shard;
            all.iter().map(move |known| (known.id, shard)).collect()
        };
        let shards: Vec<Vec<(SessionId, u16)>> = sessions.iter().map(of_shard).collect();
        let shards: HashMap<SessionId, u16> = shards.into_iter().flatten().collect();
        let is_its = |origin: Origin| shards.contains_key(&origin.session);
        let is_here = |origin: Origin| is_its(origin) && !handed.contains(&origin);
        while mesh.counts.is_untold(is_here) && Instant::now() < deadline {
            sleep(PAUSE).await;
        }
        let mut ended: HashMap<u16, Vec<Origin>> = HashMap::new();
        for origin in mesh.counts.ended(|id| shards.contains_key(&id)) {
            if let Some(shard) = shards.get(&origin.session).filter(|_| is_here(origin)) {
                ended.entry(*shard).or_default().push(origin);
            }
        }
        ended
    }

    /// Forgets entities; whether there were any with sessions.
    pub(super) fn forget_entities(&self, is_lost: impl Fn(&str) -> bool) -> bool {
        let mut had_sessions = false;
        for mut slice in self.shards.each() {
            let mut users = slice.users();
            had_sessions |= users.any(|(u, _)| is_lost(u.jid().as_str()) && !u.is_idle());
            drop(users);
            slice.forget(&is_lost);
        }
        had_sessions
    }
}
