//! The deterministic simulation: processes made of this crate's parts, an etcd, archives, wires and
//! clients, under faults of all kinds, on a virtual clock. One seed is one history; a seed that
//! fails is printed and can be run again, with a trace.
//!
//! What must never be, by the names of the invariants: a message acknowledged and not in both
//! archives (K1 lost), twice in one (K1 doubled), behind a later one of its pair (K4), a user who
//! is online taken for offline (K4), ids that go back (K5), an acknowledgement of one owner for what
//! landed when another had the shard already (P2), an epoch that goes back; and in the end, when
//! everything is healed, a shard without its owner or a client without an answer.

mod env;
mod etcd;
mod faults;
mod process;
mod store;
#[cfg(test)]
mod tests;

use crate::agent::{Agent, Config, EtcdLoss};
use crate::id::{Incarnation, NodeId, Timing};
use crate::map::ShardMap;
use crate::planner::Policy;
use crate::planted::{Bug, Planted};
use crate::talk::{Answer, Call, Change};
use env::{Env, Life};
use etcd::{Etcd, Status};
use process::{Msg, Pid, Process};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use store::{Origin, Row, User};

const SHARDS: u16 = 8;
/// Nothing fails any more behind this time, ms.
const HEALED_MS: u64 = 60_000;
/// Clients write until then.
const WRITTEN_MS: u64 = 75_000;
const END_MS: u64 = 125_000;
const TICK_MS: u64 = 100;

/// One history.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Which.
    pub seed: u64,
    /// A mistake that is to be found.
    pub bug: Option<Bug>,
    /// Keeps a trace.
    pub is_tracing: bool,
}

/// What must never be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at {at_ms} ms: {what}")]
pub struct Failure {
    /// When.
    pub at_ms: u64,
    /// What.
    pub what: String,
}

/// What happened in a history without a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// Records acknowledged by homes.
    pub acknowledged: u64,
    /// Messages acknowledged to clients.
    pub messages: u64,
    /// Decisions "offline".
    pub offline: u64,
    /// Late writes that landed dead.
    pub dead: u64,
    /// The last epoch.
    pub epoch: u64,
    /// Lives of processes.
    pub lives: u64,
    /// Writes of etcd.
    pub etcd_writes: u64,
}

/// How a history went.
#[derive(Debug)]
pub struct Outcome {
    /// What happened, or what must never be.
    pub result: Result<Summary, Failure>,
    /// With [`Options::is_tracing`].
    pub trace: Vec<String>,
}

/// What a client hears.
#[derive(Debug, Clone, Copy)]
enum ToClient {
    Bound,
    Acked(Origin),
    Failed(Origin),
    Message(Origin),
    Closed,
}

#[derive(Debug)]
enum Event {
    Tick(Pid),
    To(Pid, Msg),
    Wire {
        from: Pid,
        to: Pid,
        msg: Msg,
    },
    Call {
        pid: Pid,
        number: u64,
        call: Call,
    },
    Answer {
        pid: Pid,
        number: u64,
        answer: Answer,
        upto: usize,
    },
    Watch(Pid),
    EtcdTick,
    Land {
        pid: Pid,
        user: User,
        row: Row,
    },
    Client(User, u64, ToClient),
    Act(User),
    Restart(Pid),
    Fault,
    Heal(faults::Fault),
}

#[derive(Debug, Default)]
struct Client {
    connection: Option<(Pid, u64)>,
    is_bound: bool,
    since: u64,
    outstanding: VecDeque<Origin>,
    acked: Vec<Origin>,
    failed: BTreeSet<Origin>,
    numbers: BTreeMap<User, u32>,
    seen: BTreeMap<User, u32>,
}

struct World {
    env: Env,
    etcd: Etcd,
    log: Vec<Change>,
    seen: BTreeMap<Pid, usize>,
    stalled: Vec<(Pid, u64, Call)>,
    processes: Vec<Option<Process>>,
    inboxes: BTreeMap<Pid, Vec<Msg>>,
    clients: BTreeMap<User, Client>,
    bug: Planted,
    loss: EtcdLoss,
    timing: Timing,
    epoch: u64,
    connections: u64,
    is_garbling: bool,
    family: Family,
    /// How long the last fault was to last.
    lasted: u64,
    faults: BTreeSet<faults::Fault>,
}

/// What goes wrong in a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    /// Everything.
    All,
    /// etcd alone: then nobody may notice (E1, E3).
    EtcdAlone,
    /// Two nodes, of which one loses everything or is stopped.
    Few,
    /// Nodes whose ports refuse all others and who reach etcd, with slow watches.
    Refused,
    /// Nodes that come and go, with slow watches.
    Moving,
}

impl Family {
    fn of(seed: u64) -> Self {
        match seed % 8 {
            7 => Self::EtcdAlone,
            6 => Self::Few,
            5 => Self::Refused,
            4 => Self::Moving,
            _ => Self::All,
        }
    }
}

/// Runs one history.
#[must_use]
pub fn run(options: &Options) -> Outcome {
    let mut world = World::new(options);
    while let Some(event) = world.env.pop() {
        if world.env.now > END_MS || world.env.failure.is_some() {
            break;
        }
        world.event(event);
    }
    if world.env.failure.is_none() {
        world.end();
    }
    let summary = Summary {
        acknowledged: world.env.acknowledged,
        messages: world.clients.values().map(|c| c.acked.len() as u64).sum(),
        offline: world.env.offline,
        dead: world.env.store.dead,
        epoch: world.epoch,
        lives: world.processes.len() as u64,
        etcd_writes: world.etcd.writes,
    };
    Outcome {
        result: world.env.failure.take().map_or(Ok(summary), Err),
        trace: world.env.trace.into(),
    }
}

impl World {
    fn new(options: &Options) -> Self {
        let mut env = Env::new(options.seed, options.is_tracing);
        env.is_etcd_alone = Family::of(options.seed) == Family::EtcdAlone;
        let family = Family::of(options.seed);
        let nodes = match family {
            Family::Few => 2,
            Family::Refused => env.rng.range(3, 5),
            _ => env.rng.range(2, 5),
        };
        let loss = match (family, env.rng.one_in(2)) {
            (Family::EtcdAlone, _) => EtcdLoss::Freeze,
            (Family::Few, _) | (_, true) => EtcdLoss::Fence,
            (_, false) => EtcdLoss::Freeze,
        };
        let timing = Timing {
            ping_ms: 250,
            fresh_ms: 800,
            refused_ms: 400,
            ..Timing::default()
        };
        let mut world = Self {
            env,
            etcd: Etcd::new(),
            log: Vec::new(),
            seen: BTreeMap::new(),
            stalled: Vec::new(),
            processes: Vec::new(),
            inboxes: BTreeMap::new(),
            clients: BTreeMap::new(),
            bug: Planted::new(options.bug),
            loss,
            timing,
            epoch: 0,
            connections: 0,
            is_garbling: false,
            family,
            lasted: 0,
            faults: BTreeSet::new(),
        };
        for node in 0..nodes {
            world.start(&format!("n{node}"));
        }
        for user in 0..SHARDS {
            world.clients.insert(user, Client::default());
            world.env.at(2_000 + u64::from(user), Event::Act(user));
        }
        world.env.at(100, Event::EtcdTick);
        world.env.at(12_000, Event::Fault);
        world
    }

    fn start(&mut self, name: &str) {
        let pid = self.processes.len();
        let config = Config {
            // Names of the simulation are names.
            id: NodeId::new(name).unwrap_or_else(|_| unreachable!()),
            zone: None,
            version: "0".into(),
            relay: String::new(),
            control: String::new(),
            timing: self.timing,
            policy: Policy::default(),
            etcd_loss: self.loss,
            shards: SHARDS,
        };
        let agent = Agent::new(config).planted(self.bug);
        let process = Process::new(pid, name.into(), agent, &mut self.env, self.bug);
        self.processes.push(Some(process));
        self.env.lives.insert(pid, Life::Running);
        let delay = self.env.rng.range(1, TICK_MS);
        self.env.at(delay, Event::Tick(pid));
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Tick(pid) => {
                let is_over = self.processes[pid].as_ref().is_none_or(|p| p.is_out);
                if self.env.life(pid) == Life::Dead || is_over {
                    return;
                }
                // One tick is enough for a process that was stopped.
                if self.env.life(pid) == Life::Running {
                    self.to(pid, Msg::Tick);
                    if let Some(mut process) = self.processes[pid].take() {
                        process.again(&mut self.env);
                        self.processes[pid] = Some(process);
                    }
                }
                self.env.at(TICK_MS, Event::Tick(pid));
            }
            Event::To(pid, msg) => self.to(pid, msg),
            Event::Wire { from, to, msg } => {
                if self.env.cut(from, to).is_none() {
                    self.to(to, msg);
                }
            }
            Event::Call { pid, number, call } => self.call(pid, number, call),
            Event::Answer {
                pid,
                number,
                answer,
                upto,
            } => self.answer(pid, number, answer, upto),
            Event::Watch(pid) => self.watch(pid),
            Event::EtcdTick => {
                self.etcd.expire(self.env.now);
                self.published();
                self.env.at(100, Event::EtcdTick);
            }
            Event::Land { pid, user, row } => {
                let landed = self.env.store.land(self.env.now, user, row);
                let is_dead = self.env.store.landed(user, row.origin).is_none();
                self.env
                    .note(|| format!("({pid}) lands for {user} {row:?}, dead: {is_dead}"));
                if let Err(what) = landed {
                    self.env.fail(what);
                }
                self.to(pid, Msg::Committed(user, row));
            }
            Event::Client(user, number, what) => self.client(user, number, what),
            Event::Act(user) => self.act(user),
            Event::Restart(pid) => {
                let name = self.processes[pid].take().map(|p| p.name);
                self.env.lives.insert(pid, Life::Dead);
                if let Some(name) = name {
                    self.start(&name);
                }
            }
            Event::Fault => self.fault(),
            Event::Heal(fault) => self.heal(fault),
        }
    }

    fn to(&mut self, pid: Pid, msg: Msg) {
        match self.env.life(pid) {
            Life::Dead => {}
            Life::Paused => self.inboxes.entry(pid).or_default().push(msg),
            Life::Running => {
                if let Some(mut process) = self.processes[pid].take() {
                    process.handle(&mut self.env, msg);
                    self.processes[pid] = Some(process);
                }
            }
        }
    }

    // --- etcd ----------------------------------------------------------------------------------

    fn call(&mut self, pid: Pid, number: u64, call: Call) {
        if self.env.etcd_cuts.contains(&pid) || (self.env.is_lossy && self.env.rng.one_in(12)) {
            return;
        }
        match self.etcd.status {
            // Refused at once.
            Status::Down => self.to(pid, Msg::Answer(number, None)),
            Status::Stalled => self.stalled.push((pid, number, call)),
            Status::Up => self.carry_out(pid, number, call),
        }
    }

    fn carry_out(&mut self, pid: Pid, number: u64, call: Call) {
        self.etcd.expire(self.env.now);
        self.published();
        let upto = self.log.len();
        let answer = self.etcd.apply(self.env.now, call);
        self.published();
        let delay = self.env.rng.range(1, 8);
        let event = Event::Answer {
            pid,
            number,
            answer,
            upto,
        };
        self.env.at(delay, event);
    }

    /// What changed goes to the watchers; an epoch must never go back.
    fn published(&mut self) {
        let changes = std::mem::take(&mut self.etcd.changes);
        if changes.is_empty() {
            return;
        }
        for change in &changes {
            if let Change::Map(Some(stored)) = change {
                match ShardMap::read(&stored.value, SHARDS) {
                    Ok(map) if map.epoch().0 > self.epoch => self.epoch = map.epoch().0,
                    Ok(map) => self.env.fail(format!("epoch {} goes back", map.epoch())),
                    Err(error) => self.env.fail(format!("a bad map was published: {error}")),
                }
            }
        }
        self.log.extend(changes);
        for pid in 0..self.processes.len() {
            if self.processes[pid].is_some() {
                // Now and then a watch is slow while calls are not.
                let often = match self.family {
                    Family::Refused | Family::Moving => 2,
                    _ => 6,
                };
                let delay = match self.env.rng.one_in(often) {
                    true => self.env.rng.range(200, 2_500),
                    false => self.env.rng.range(1, 30),
                };
                self.env.at(delay, Event::Watch(pid));
            }
        }
    }

    fn answer(&mut self, pid: Pid, number: u64, answer: Answer, upto: usize) {
        if self.env.etcd_cuts.contains(&pid) || self.etcd.status != Status::Up {
            return;
        }
        if let Answer::Listed(mut listed) = answer {
            // The watch goes on from there.
            self.seen.insert(pid, upto);
            if self.is_garbling
                && let Some(map) = &mut listed.map
            {
                map.value.truncate(20);
            }
            self.to(pid, Msg::Answer(number, Some(Answer::Listed(listed))));
            self.watch(pid);
        } else {
            self.to(pid, Msg::Answer(number, Some(answer)));
        }
    }

    fn watch(&mut self, pid: Pid) {
        let Some(seen) = self.seen.get(&pid).copied() else {
            return;
        };
        if self.env.life(pid) == Life::Dead || seen >= self.log.len() {
            return;
        }
        if self.env.etcd_cuts.contains(&pid) || self.etcd.status != Status::Up {
            self.env.at(150, Event::Watch(pid));
            return;
        }
        self.seen.insert(pid, self.log.len());
        for at in seen..self.log.len() {
            let mut change = self.log[at].clone();
            if self.is_garbling && self.env.rng.one_in(3) {
                match &mut change {
                    Change::Map(Some(stored))
                    | Change::Node(_, Some(stored))
                    | Change::Leader(Some(stored)) => stored.value.reverse(),
                    _ => {}
                }
            }
            self.to(pid, Msg::Change(change));
        }
    }

    // --- clients -------------------------------------------------------------------------------

    fn act(&mut self, user: User) {
        let delay = self.env.rng.range(60, 700);
        self.env.at(delay, Event::Act(user));
        let now = self.env.now;
        let Some(client) = self.clients.get_mut(&user) else {
            return;
        };
        match client.connection {
            None => self.dial(user),
            Some((pid, number)) => {
                let is_waiting = !client.is_bound || !client.outstanding.is_empty();
                let is_bored = now < HEALED_MS && self.env.rng.one_in(150);
                if (is_waiting && now > client.since + 7_000) || is_bored {
                    // It gives up on this node.
                    client.connection = None;
                    if self
                        .env
                        .online
                        .get(&user)
                        .is_some_and(|t| t.session.number == number)
                    {
                        self.env.online.remove(&user);
                    }
                    self.env.at(2, Event::To(pid, Msg::Close(number)));
                } else if client.is_bound && now < WRITTEN_MS && client.outstanding.len() < 4 {
                    let peer = (user + 1 + (self.env.rng.next() % 3) as u16) % SHARDS;
                    let n = client.numbers.entry(peer).or_default();
                    *n += 1;
                    let origin = (user, peer, *n);
                    if client.outstanding.is_empty() {
                        client.since = now;
                    }
                    client.outstanding.push_back(origin);
                    self.env.at(2, Event::To(pid, Msg::Stanza(number, origin)));
                }
            }
        }
    }

    fn dial(&mut self, user: User) {
        let ready: Vec<Pid> = (0..self.processes.len())
            .filter(|pid| self.env.life(*pid) == Life::Running)
            .filter(|pid| self.processes[*pid].as_ref().is_some_and(Process::is_ready))
            .collect();
        if ready.is_empty() {
            return;
        }
        let pid = ready[self.env.rng.next() as usize % ready.len()];
        self.connections += 1;
        let number = self.connections;
        let now = self.env.now;
        if let Some(client) = self.clients.get_mut(&user) {
            client.connection = Some((pid, number));
            client.is_bound = false;
            client.since = now;
            client.seen.clear();
        }
        self.env.at(2, Event::To(pid, Msg::Open(user, number)));
    }

    fn client(&mut self, user: User, number: u64, what: ToClient) {
        let now = self.env.now;
        let Some(client) = self.clients.get_mut(&user) else {
            return;
        };
        let Some((pid, _)) = client.connection.filter(|(_, n)| *n == number) else {
            return;
        };
        match what {
            ToClient::Bound => {
                client.is_bound = true;
                client.since = now;
                for origin in client.outstanding.clone() {
                    self.env.at(2, Event::To(pid, Msg::Stanza(number, origin)));
                }
            }
            ToClient::Acked(origin) => {
                client.since = now;
                let before = client.outstanding.len();
                client.outstanding.retain(|o| *o != origin);
                if client.outstanding.len() < before && !client.failed.contains(&origin) {
                    client.acked.push(origin);
                }
            }
            ToClient::Failed(origin) => {
                client.failed.insert(origin);
                client.outstanding.retain(|o| *o != origin);
            }
            ToClient::Message(origin) => {
                let last = client.seen.entry(origin.0).or_default();
                if origin.2 <= *last {
                    let text = format!("K4 {user} gets {origin:?} behind {last}");
                    self.env.fail(text);
                } else {
                    *last = origin.2;
                }
            }
            ToClient::Closed => client.connection = None,
        }
    }

    // --- the end -------------------------------------------------------------------------------

    /// Everything healed long ago.
    fn end(&mut self) {
        let map = self.etcd.map().map(|m| ShardMap::read(&m.value, SHARDS));
        let Some(Ok(map)) = map else {
            self.env.fail("there is no map in the end".into());
            return;
        };
        for shard in 0..SHARDS {
            let serving: Vec<Incarnation> = self
                .processes
                .iter()
                .flatten()
                .filter(|p| !p.is_out && self.env.life(p.pid) != Life::Dead)
                .filter(|p| {
                    p.holdings
                        .as_ref()
                        .is_some_and(|h| h.serving(shard).is_some())
                })
                .map(|p| p.agent.incarnation())
                .collect();
            if map.owner(shard) != serving.first().copied() || serving.len() != 1 {
                let owner = map.owner(shard);
                let holder = |p: &&Process| Some(p.agent.incarnation()) == owner && !p.is_out;
                let hold = self.processes.iter().flatten().find(holder);
                let hold = hold
                    .and_then(|p| p.holdings.as_ref())
                    .map(|h| h.describe(shard));
                let text = format!(
                    "in the end {shard} of {owner:?} is served by {serving:?}, epoch {}: {hold:?}",
                    map.epoch()
                );
                self.env.fail(text);
                return;
            }
        }
        for (user, client) in &self.clients {
            if !client.outstanding.is_empty() {
                let text = format!("in the end {user} waits for {:?}", client.outstanding);
                self.env.fail(text);
                return;
            }
            for origin in &client.acked {
                for owner in [origin.0, origin.1] {
                    if self.env.store.landed(owner, *origin).is_none() {
                        let text = format!("K1 lost: {origin:?} is not in the archive of {owner}");
                        self.env.fail(text);
                        return;
                    }
                }
            }
        }
    }
}
