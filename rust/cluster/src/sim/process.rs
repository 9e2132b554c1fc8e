//! One process of the simulation: the parts of this crate put together as the node will do it.

use super::env::{Env, Truth};
use super::store::{Origin, Row, User};
use super::{Event, ToClient};
use crate::agent::{Agent, Input, Output};
use crate::fence::Acknowledge;
use crate::holdings::{Effect, Head, Holdings, Verdict};
use crate::id::{Epoch, Incarnation, Mono, Shard};
use crate::map::ShardMap;
use crate::parking::{Parking, ParkingLimits};
use crate::planted::{Bug, Planted};
use crate::rebuild::Rebuild;
use crate::relay::{Frame, Inbound, Outbound, Outcome, Words};
use crate::router::{Router, Send, Ticket};
use crate::talk::{Answer, Change, Note};
use antiphon_routing::SessionId;
use antiphon_routing::archive::{ArchiveId, HybridClock};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

mod home;

/// A process; a node that starts again is another.
pub(super) type Pid = usize;

const STANZA: u8 = 0;
const BULK: u8 = 1;
const WINDOW: u64 = 12;

/// What goes over streams and routers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Packet {
    /// From the socket to the sender's home.
    Up(Origin),
    /// From the sender's home to the recipient's.
    On(Origin),
    /// To the recipient's socket.
    Deliver(u64, Origin, ArchiveId),
    Bind(User, SessionId),
    End(User, SessionId),
    /// All sessions of some shards.
    Report(Vec<(Shard, Epoch)>, Vec<(User, SessionId)>),
    /// With the clock of who released.
    Released(Shard, Epoch, bool, ArchiveId),
}

/// A packet with the epoch it was sent under.
pub(super) type Sent = (Epoch, Packet);

/// What reaches a process.
#[derive(Debug, Clone)]
pub(super) enum Msg {
    Tick,
    Answer(u64, Option<Answer>),
    Change(Change),
    Note(Incarnation, Note),
    Port(Incarnation, bool),
    /// A peer connects.
    Hello(Incarnation, u8),
    Connected(Incarnation, u8, Words),
    Broken(Incarnation, u8),
    Frame(Incarnation, u8, Frame<Sent>),
    Words(Incarnation, u8, Words),
    /// The writer may send the next row of an archive.
    Flush(User),
    Committed(User, Row),
    /// The archives of a shard were read.
    Read(Shard, Epoch, bool),
    TakenUp(Shard, Epoch),
    Open(User, u64),
    Stanza(u64, Origin),
    Close(u64),
    Drain,
    Leave,
}

/// Who waits for an outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reply {
    Link(Incarnation, u64),
    Here(Ticket),
}

#[derive(Debug)]
struct Entry {
    id: ArchiveId,
    committed: Option<Mono>,
    /// The recipient's home has called it done; always, in the recipient's archive.
    is_on: bool,
    is_routed: bool,
    is_new: bool,
    replies: Vec<Reply>,
}

#[derive(Debug)]
struct Session {
    user: User,
    /// What the client sent, in order, with whether it is handled.
    sent: VecDeque<(Origin, bool)>,
    /// The last message that it was given: archives only grow, so what is not above it came late.
    last: ArchiveId,
}

#[derive(Debug, Default)]
struct Writer {
    queue: VecDeque<Row>,
    is_busy: bool,
}

#[derive(Debug)]
struct Out {
    outbound: Outbound<Sent>,
    tickets: BTreeMap<u64, Ticket>,
    /// Deliveries under way, by the shard of their home.
    delivers: BTreeMap<u64, Shard>,
    is_connected: bool,
    next_try: u64,
}

impl Out {
    fn new() -> Self {
        Self {
            outbound: Outbound::new(4000),
            tickets: BTreeMap::new(),
            delivers: BTreeMap::new(),
            is_connected: false,
            next_try: 0,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) pid: Pid,
    pub(super) name: String,
    pub(super) agent: Agent,
    pub(super) holdings: Option<Holdings>,
    pub(super) is_out: bool,
    offset: u64,
    rate: u64,
    skew: i64,
    clock: HybridClock,
    router: Router<Packet>,
    outs: BTreeMap<(Incarnation, u8), Out>,
    inns: BTreeMap<(Incarnation, u8), Inbound>,
    parking: Parking<(Head, Packet, Reply)>,
    bulk: Vec<(Incarnation, Sent)>,
    archives: BTreeMap<User, BTreeMap<Origin, Entry>>,
    registry: BTreeMap<User, BTreeSet<SessionId>>,
    rebuilds: BTreeMap<Shard, (Epoch, Rebuild<()>)>,
    sessions: BTreeMap<u64, Session>,
    writers: BTreeMap<User, Writer>,
    waiting: BTreeSet<(User, Origin)>,
    flushing: BTreeSet<Shard>,
    sends: Vec<Send<Packet>>,
    local: VecDeque<(Head, Packet, Ticket)>,
    planted: Planted,
}

impl Process {
    pub(super) fn new(pid: Pid, name: String, agent: Agent, env: &mut Env, bug: Planted) -> Self {
        let limits = ParkingLimits {
            shard_bytes: 4000,
            bytes: 20_000,
        };
        let mut router = Router::new(4000);
        router.planted = bug;
        Self {
            pid,
            name,
            agent,
            holdings: None,
            is_out: false,
            offset: env.rng.range(0, 1_000_000),
            rate: env.rng.range(985, 1015),
            skew: env.rng.range(0, 480) as i64 - 240,
            clock: HybridClock::default(),
            router,
            outs: BTreeMap::new(),
            inns: BTreeMap::new(),
            parking: Parking::new(limits),
            bulk: Vec::new(),
            archives: BTreeMap::new(),
            registry: BTreeMap::new(),
            rebuilds: BTreeMap::new(),
            sessions: BTreeMap::new(),
            writers: BTreeMap::new(),
            waiting: BTreeSet::new(),
            flushing: BTreeSet::new(),
            sends: Vec::new(),
            local: VecDeque::new(),
            planted: bug,
        }
    }

    fn me(&self) -> Incarnation {
        self.agent.incarnation()
    }

    fn mono(&self, env: &Env) -> Mono {
        Mono(self.offset + env.now * self.rate / 1000)
    }

    fn wall(&self, env: &Env) -> u64 {
        (1_000_000 + env.now).saturating_add_signed(self.skew)
    }

    fn map(&self) -> Option<Arc<ShardMap>> {
        self.holdings.as_ref().and_then(|h| h.map().cloned())
    }

    fn epoch(&self) -> Epoch {
        self.holdings.as_ref().map_or(Epoch(0), Holdings::epoch)
    }

    pub(super) fn is_ready(&self) -> bool {
        !self.is_out && self.agent.is_in() && self.map().is_some_and(|m| m.knows(self.me()))
    }

    pub(super) fn handle(&mut self, env: &mut Env, msg: Msg) {
        if self.is_out {
            return;
        }
        let settled = self.holdings.as_ref().map_or(Vec::new(), Holdings::settled);
        match msg {
            Msg::Tick => {
                self.step(env, Input::Tick(&settled));
                self.connect(env);
            }
            Msg::Answer(number, answer) => self.step(env, Input::Answer(number, answer)),
            Msg::Change(change) => self.step(env, Input::Change(change)),
            Msg::Note(from, note) => self.step(env, Input::Note(from, note)),
            Msg::Port(peer, is_refused) => self.step(env, Input::Port(peer, is_refused)),
            Msg::Drain => self.step(env, Input::Drain),
            Msg::Leave => self.step(env, Input::Leave),
            Msg::Hello(peer, wire) => self.hello(env, peer, wire),
            Msg::Connected(peer, wire, words) => {
                self.step(env, Input::Port(peer, false));
                if let Some(out) = self.outs.get_mut(&(peer, wire)) {
                    out.is_connected = true;
                    let said = out.outbound.connected(&words);
                    self.said(env, (peer, wire), said);
                }
            }
            Msg::Broken(peer, wire) => self.broken(peer, wire),
            Msg::Frame(peer, wire, frame) => self.frame(env, peer, wire, frame),
            Msg::Words(peer, wire, words) => {
                if let Some(out) = self.outs.get_mut(&(peer, wire)) {
                    let said = out.outbound.heard(&words);
                    self.said(env, (peer, wire), said);
                }
            }
            Msg::Flush(user) => self.flush(env, user),
            Msg::Committed(user, row) => self.committed(env, user, row),
            Msg::Read(shard, since, is_clean) => self.read(env, (shard, since), is_clean),
            Msg::TakenUp(shard, since) => {
                let mut effects = Vec::new();
                if let Some(holdings) = &mut self.holdings {
                    holdings.taken_up(shard, since, &mut effects);
                }
                self.effects(env, effects);
            }
            Msg::Open(user, number) => self.open(env, user, number),
            Msg::Stanza(number, origin) => self.stanza(env, number, origin),
            Msg::Close(number) => self.close(env, number),
        }
        self.work(env);
        self.pump(env);
    }

    fn step(&mut self, env: &mut Env, input: Input<'_>) {
        if self.is_out {
            return;
        }
        let mut out = Vec::new();
        let now = self.mono(env);
        self.agent.step(now, input, &mut out);
        for output in out {
            match output {
                Output::Call(number, call) => {
                    let pid = self.pid;
                    let delay = env.rng.range(1, 5);
                    env.at(delay, Event::Call { pid, number, call });
                }
                Output::Note(to, note) => {
                    if let Some(to) = env.pids.get(&to).copied() {
                        let msg = Msg::Note(self.me(), note);
                        env.datagram(self.pid, to, msg);
                    }
                }
                Output::Joined(me) => {
                    env.note(|| format!("{} is {me} ({})", self.name, self.pid));
                    env.pids.insert(me, self.pid);
                    let mut holdings = Holdings::new(me, super::SHARDS);
                    holdings.planted = self.planted;
                    self.holdings = Some(holdings);
                    self.step(env, Input::Ready);
                }
                Output::Map(map) => self.mapped(env, map),
                Output::Out(reason) => {
                    env.note(|| format!("{} {} is out: {reason:?}", self.name, self.me()));
                    if env.is_etcd_alone {
                        let me = self.me();
                        env.fail(format!("E1 {me} is out, and nothing but etcd failed"));
                    }
                    self.is_out = true;
                    for (number, session) in std::mem::take(&mut self.sessions) {
                        let user = session.user;
                        env.at(1, Event::Client(user, number, ToClient::Closed));
                        end(env, user, number);
                    }
                    env.at(300, Event::Restart(self.pid));
                    return;
                }
                Output::Alert(alert) => env.note(|| format!("{} {alert:?}", self.name)),
            }
        }
    }

    fn mapped(&mut self, env: &mut Env, map: Arc<ShardMap>) {
        env.note(|| format!("{} map {}", self.me(), map.epoch()));
        let mut effects = Vec::new();
        let before = self.map();
        if let Some(holdings) = &mut self.holdings {
            holdings.apply(map.clone(), &mut effects);
        }
        // Who is in neither map may be about to join: his streams stay.
        let was_in = |peer: Incarnation| before.as_ref().is_some_and(|b| b.knows(peer));
        self.outs
            .retain(|(peer, _), _| map.knows(*peer) || !was_in(*peer));
        self.inns
            .retain(|(peer, _), _| map.knows(*peer) || !was_in(*peer));
        for (_, rebuild) in self.rebuilds.values_mut() {
            rebuild.viewed(&map);
        }
        for sessions in self.registry.values_mut() {
            sessions.retain(|s| map.knows(Incarnation(s.node)));
        }
        self.router.mapped(&map, &mut self.sends);
        self.effects(env, effects);
        let bulk = std::mem::take(&mut self.bulk);
        for (from, sent) in bulk {
            self.bulk(env, from, sent);
        }
        self.judge_again(env);
    }

    fn effects(&mut self, env: &mut Env, effects: Vec<Effect>) {
        let mut reports: BTreeMap<Incarnation, Vec<(Shard, Epoch)>> = BTreeMap::new();
        let is_serving = effects.iter().any(|e| matches!(e, Effect::Serve { .. }));
        for effect in effects {
            match effect {
                Effect::Drop { shard } => self.drop_shard(env, shard, true),
                Effect::Release { shard } => {
                    self.flushing.insert(shard);
                    self.flushed(env);
                }
                Effect::Released {
                    to,
                    shard,
                    since,
                    is_clean,
                } => {
                    let now = self.clock.next(self.wall(env));
                    let packet = Packet::Released(shard, since, is_clean, now);
                    self.send_bulk(env, to, packet);
                }
                Effect::TakeUp {
                    shard,
                    since,
                    is_clean,
                } => {
                    let pid = self.pid;
                    let delay = env.rng.range(2, 60);
                    let msg = Msg::Read(shard, since, is_clean);
                    env.at(delay, Event::To(pid, msg));
                }
                Effect::Report { to, shard, since } => {
                    reports.entry(to).or_default().push((shard, since));
                }
                Effect::Serve { shard, since } => self.serve(env, shard, since),
            }
        }
        for (to, shards) in reports {
            let is_its = |s: &&(u64, &Session)| shards.iter().any(|(shard, _)| *shard == s.1.user);
            let all: Vec<(u64, &Session)> = self.sessions.iter().map(|(n, s)| (*n, s)).collect();
            let node = self.me().0;
            let sessions = all
                .iter()
                .filter(is_its)
                .map(|(number, s)| {
                    (
                        s.user,
                        SessionId {
                            node,
                            number: *number,
                        },
                    )
                })
                .collect();
            self.send_bulk(env, to, Packet::Report(shards, sessions));
        }
        // Not before every registry is in place.
        if is_serving {
            self.judge_again(env);
        }
    }

    fn serve(&mut self, env: &mut Env, shard: Shard, since: Epoch) {
        env.note(|| format!("{} serves {shard} since {since}", self.me()));
        let sessions = self.registry.entry(shard).or_default();
        sessions.clear();
        if let Some((at, rebuild)) = self.rebuilds.remove(&shard)
            && at == since
        {
            let known = rebuild.finish().sessions;
            sessions.extend(known.into_iter().map(|(session, ())| session));
        }
        if let Some(map) = self.map() {
            let sessions = self.registry.entry(shard).or_default();
            sessions.retain(|s| map.knows(Incarnation(s.node)));
        }
    }

    fn drop_shard(&mut self, env: &mut Env, shard: Shard, is_telling: bool) {
        let epoch = self.epoch();
        let entries = self.archives.remove(&shard).unwrap_or_default();
        self.waiting.retain(|(user, _)| *user != shard);
        self.registry.remove(&shard);
        self.flushing.remove(&shard);
        if is_telling {
            for reply in entries.into_values().flat_map(|e| e.replies) {
                self.reply(env, reply, Outcome::Returned(epoch));
            }
            let map = self.map();
            self.router
                .take_from(map.as_deref(), shard, &mut self.sends);
        }
    }

    /// Shards that go and have nothing under way any more.
    fn flushed(&mut self, env: &mut Env) {
        let is_idle = |w: &Writer| w.queue.is_empty() && !w.is_busy;
        let is_delivering = |shard: Shard| {
            let mut ups = self.outs.values().filter(|out| out.is_connected);
            ups.any(|out| out.delivers.values().any(|s| *s == shard))
        };
        let is_hasty = self.planted.has(Bug::ReleaseUnflushed);
        let ready: Vec<Shard> = self
            .flushing
            .iter()
            .copied()
            .filter(|shard| {
                let is_written = self.writers.get(shard).is_none_or(is_idle);
                is_hasty || (is_written && !is_delivering(*shard))
            })
            .collect();
        for shard in ready {
            self.acknowledge(env);
            self.drop_shard(env, shard, true);
            let mut effects = Vec::new();
            if let Some(holdings) = &mut self.holdings {
                holdings.flushed(shard, &mut effects);
            }
            self.effects(env, effects);
        }
    }

    // --- streams -------------------------------------------------------------------------------

    fn connect(&mut self, env: &mut Env) {
        let Some(map) = self.map() else {
            return;
        };
        for node in map.nodes() {
            let peer = node.incarnation;
            let Some(to) = env.pids.get(&peer).copied().filter(|_| peer != self.me()) else {
                continue;
            };
            for wire in [STANZA, BULK] {
                let out = self.outs.entry((peer, wire)).or_insert_with(Out::new);
                if out.is_connected || env.now < out.next_try {
                    continue;
                }
                let cut = env.cut(self.pid, to);
                let is_dead = env.life(to) == super::env::Life::Dead;
                let is_refused =
                    cut == Some(super::env::Cut::Refused) || (cut.is_none() && is_dead);
                out.next_try = env.now + if cut.is_some() || is_dead { 100 } else { 700 };
                if is_refused {
                    env.at(2, Event::To(self.pid, Msg::Port(peer, true)));
                } else if cut.is_none() {
                    let msg = Msg::Hello(self.agent.incarnation(), wire);
                    env.stream(self.pid, to, wire, msg);
                }
            }
        }
    }

    fn hello(&mut self, env: &mut Env, peer: Incarnation, wire: u8) {
        let Some(to) = env.pids.get(&peer).copied() else {
            return;
        };
        if self.me() == Incarnation(0) {
            return;
        }
        env.connection += 1;
        let planted = self.planted;
        let inbound = self.inns.entry((peer, wire)).or_insert_with(|| {
            let mut inbound = Inbound::new(WINDOW);
            inbound.planted = planted;
            inbound
        });
        let words = inbound.connected(env.connection);
        let msg = Msg::Connected(self.me(), wire, words);
        env.stream(self.pid, to, 2 + wire, msg);
    }

    fn broken(&mut self, peer: Incarnation, wire: u8) {
        if let Some(out) = self.outs.get_mut(&(peer, wire)) {
            out.is_connected = false;
            out.outbound.disconnected();
        }
    }

    fn said(
        &mut self,
        env: &mut Env,
        (peer, wire): (Incarnation, u8),
        said: Result<Vec<(u64, Outcome)>, crate::relay::Breach>,
    ) {
        let said = match said {
            Ok(said) => said,
            Err(crate::relay::Breach::Gap) => return self.broken(peer, wire),
            Err(breach) => {
                let text = format!("relay: {breach:?} of {peer} by {} on {wire}", self.me());
                env.fail(text);
                return;
            }
        };
        for (number, outcome) in said {
            let out = self.outs.get_mut(&(peer, wire));
            let ticket = out.and_then(|out| {
                out.delivers.remove(&number);
                out.tickets.remove(&number)
            });
            if let Some(ticket) = ticket {
                self.outcome(env, ticket, outcome);
            }
        }
    }

    fn frame(&mut self, env: &mut Env, peer: Incarnation, wire: u8, frame: Frame<Sent>) {
        let Some(inbound) = self.inns.get_mut(&(peer, wire)) else {
            return;
        };
        match inbound.receive(frame) {
            Ok(new) => {
                for (number, bytes, sent) in new {
                    if let Some(inbound) = self.inns.get_mut(&(peer, wire)) {
                        inbound.take(bytes);
                    }
                    if wire == BULK {
                        if let Some(inbound) = self.inns.get_mut(&(peer, wire)) {
                            inbound.outcome(number, Outcome::Done);
                        }
                        self.bulk(env, peer, sent);
                    } else {
                        self.take_in(env, peer, number, sent);
                    }
                }
            }
            Err(breach) => {
                if breach != crate::relay::Breach::Gap {
                    let text = format!("relay: {breach:?} of {peer} by {} on {wire}", self.me());
                    env.fail(text);
                }
                if let Some(to) = env.pids.get(&peer).copied() {
                    env.at(3, Event::To(to, Msg::Broken(self.me(), wire)));
                }
            }
        }
    }

    fn take_in(&mut self, env: &mut Env, sender: Incarnation, number: u64, sent: Sent) {
        let (epoch, packet) = sent;
        let reply = Reply::Link(sender, number);
        if let Packet::Deliver(session, origin, id) = packet {
            self.give(env, session, origin, id);
            self.reply(env, reply, Outcome::Done);
            return;
        }
        let head = Head {
            shard: shard_of(&packet),
            epoch,
            sender,
        };
        self.judge(env, head, packet, reply);
    }

    fn bulk(&mut self, env: &mut Env, from: Incarnation, sent: Sent) {
        let Some(holdings) = &mut self.holdings else {
            return;
        };
        match holdings.judge_sender(from, sent.0) {
            Some(Verdict::Park(_)) => {
                self.bulk.push((from, sent));
                return;
            }
            Some(_) => return,
            None => {}
        }
        let mut effects = Vec::new();
        match sent.1 {
            Packet::Report(shards, sessions) => {
                env.note(|| {
                    let me = self.agent.incarnation();
                    format!("{me} hears of {from}: {shards:?} {sessions:?}")
                });
                let Some(map) = holdings.map().cloned() else {
                    return;
                };
                for (shard, since) in shards {
                    let fresh = || (since, Rebuild::new(&map));
                    let one = self.rebuilds.entry(shard).or_insert_with(fresh);
                    if one.0 < since {
                        *one = fresh();
                    }
                    if one.0 == since {
                        let its = sessions.iter().filter(|(user, _)| *user == shard);
                        one.1.reported(from, its.map(|(_, session)| (*session, ())));
                    }
                    holdings.reported((shard, since), from, &mut effects);
                }
            }
            Packet::Released(shard, since, is_clean, clock) => {
                self.clock.observe(clock);
                holdings.released((shard, since), from, is_clean, &mut effects);
            }
            _ => {}
        }
        self.effects(env, effects);
    }

    fn send_bulk(&mut self, env: &mut Env, to: Incarnation, packet: Packet) {
        let sent = (self.epoch(), packet);
        if to == self.me() {
            self.bulk(env, to, sent);
        } else {
            let out = self.outs.entry((to, BULK)).or_insert_with(Out::new);
            out.outbound.push_reserved(1, sent);
        }
    }

    fn pump(&mut self, env: &mut Env) {
        if self.is_out {
            return;
        }
        let me = self.me();
        for ((peer, wire), out) in &mut self.outs {
            let Some(to) = env.pids.get(peer).copied() else {
                continue;
            };
            while let Some(frame) = out.outbound.frame(4) {
                env.stream(self.pid, to, *wire, Msg::Frame(me, *wire, frame));
            }
        }
        for ((peer, wire), inn) in &mut self.inns {
            let Some(to) = env.pids.get(peer).copied() else {
                continue;
            };
            while let Some(words) = inn.words(4) {
                env.stream(self.pid, to, 2 + *wire, Msg::Words(me, *wire, words));
            }
        }
    }

    /// Carries out what the router wants sent, until nothing is left.
    fn work(&mut self, env: &mut Env) {
        loop {
            let sends = std::mem::take(&mut self.sends);
            if sends.is_empty() && self.local.is_empty() {
                break;
            }
            for send in sends {
                if send.to == self.me() {
                    let head = Head {
                        shard: send.shard,
                        epoch: send.epoch,
                        sender: send.to,
                    };
                    self.local.push_back((head, send.stanza, send.ticket));
                    continue;
                }
                let out = self.outs.entry((send.to, STANZA)).or_insert_with(Out::new);
                let number = out.outbound.push_reserved(1, (send.epoch, send.stanza));
                out.tickets.insert(number, send.ticket);
            }
            while let Some((head, packet, ticket)) = self.local.pop_front() {
                self.judge(env, head, packet, Reply::Here(ticket));
            }
        }
    }

    fn reply(&mut self, env: &mut Env, reply: Reply, outcome: Outcome) {
        match reply {
            Reply::Link(peer, number) => {
                if let Some(inbound) = self.inns.get_mut(&(peer, STANZA)) {
                    inbound.outcome(number, outcome);
                }
            }
            Reply::Here(ticket) => self.outcome(env, ticket, outcome),
        }
    }
}

fn end(env: &mut Env, user: User, number: u64) {
    let is_it = |truth: &Truth| truth.session.number == number;
    if env.online.get(&user).is_some_and(is_it) {
        env.online.remove(&user);
    }
}

fn shard_of(packet: &Packet) -> Shard {
    match packet {
        Packet::Up(origin) => origin.0,
        Packet::On(origin) => origin.1,
        Packet::Bind(user, _) | Packet::End(user, _) => *user,
        _ => 0,
    }
}
