//! The thread of the membership: hands the agent what happens, carries out what it wants.

use super::calls::{Keys, carry_out};
use super::preflight::{Found, JoinError, look};
use super::view::{Place, now};
use super::{Command, Events, Options, Stage, Status};
use crate::agent::{Agent, Input, Output};
use crate::clock;
use crate::etcd::{Client, EtcdError, Update, Watch};
use crate::id::{Incarnation, Mono, NodeId};
use crate::link::{LinkEvent, Links, Target};
use crate::log::{Level, Log};
use crate::talk::{Alert, Answer, Call, OutReason};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::MissedTickBehavior;

/// Between two looks of the agent at the time.
const TICK: Duration = Duration::from_millis(50);
/// Ticks between two showings of the status.
const SHOWN_EVERY: u32 = 4;
/// Between two attempts to reach etcd before joining.
const RETRY: Duration = Duration::from_secs(1);
/// Words of links that wait; more are lost, which notes may be.
const HEARD_MAX: usize = 4096;
/// The same complaint is logged once in that time.
const SILENT_MS: u64 = 60_000;

pub(super) struct Parts {
    pub(super) options: Options,
    pub(super) client: Client,
    pub(super) links: Links,
    pub(super) place: Place,
    pub(super) events: Arc<dyn Events>,
    pub(super) stage: watch::Sender<Stage>,
    pub(super) status: Arc<Mutex<Status>>,
}

/// The body of the thread.
pub(super) fn run(parts: Parts, orders: mpsc::UnboundedReceiver<Command>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            let error = EtcdError::Config(format!("no runtime for the cluster: {error}"));
            parts.stage.send_replace(Stage::Failed(error.into()));
            return;
        }
    };
    runtime.block_on(membership(parts, orders));
    runtime.shutdown_timeout(Duration::from_millis(100));
}

async fn membership(parts: Parts, mut orders: mpsc::UnboundedReceiver<Command>) {
    let keys = Keys::new(&parts.options.prefix);
    let mut early = Vec::new();
    match before(&parts, &keys, &mut orders, &mut early).await {
        Ok(()) => {}
        Err(error) => {
            let fields = [("reason", error.to_string())];
            parts
                .options
                .log
                .log(Level::Error, "cluster not joined", &fields);
            parts.stage.send_replace(Stage::Failed(error));
            return;
        }
    }
    let (tell, heard) = mpsc::channel(HEARD_MAX);
    parts.links.observe(move |event| {
        // A full queue loses notes, which may be lost.
        let _ = tell.try_send(event);
    });
    let (answer, answers) = mpsc::unbounded_channel();
    let (verdict, verdicts) = mpsc::unbounded_channel();
    let mut driver = Driver {
        agent: Agent::new(parts.options.config.clone()),
        keys,
        calls: JoinSet::new(),
        answer,
        verdict,
        is_ready_due: false,
        looking: None,
        watch: None,
        listing: None,
        known: BTreeMap::new(),
        targets: Vec::new(),
        said: HashMap::new(),
        is_over: false,
        parts,
    };
    for command in early {
        driver.order(command);
    }
    driver.live(orders, heard, answers, verdicts).await;
}

/// Until the look around was good. Orders that come meanwhile wait.
async fn before(
    parts: &Parts,
    keys: &Keys,
    orders: &mut mpsc::UnboundedReceiver<Command>,
    early: &mut Vec<Command>,
) -> Result<(), JoinError> {
    let me = &parts.options.config.id;
    let mut waiting = Waiting::default();
    loop {
        let looked = tokio::select! {
            looked = look(&parts.client, keys, &parts.links, (me, None)) => looked?,
            order = orders.recv() => match order {
                Some(Command::Stop | Command::Leave) | None => return Err(JoinError::Stopped),
                Some(order) => {
                    early.push(order);
                    continue;
                }
            },
        };
        let Some((event, text)) = waiting.found(&looked) else {
            return Ok(());
        };
        if let Some(text) = text {
            let log = &parts.options.log;
            log.log(Level::Warning, event, &[("reason", text.clone())]);
            parts.stage.send_replace(Stage::Joining(Some(text)));
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Once more from inside, before it takes shards: nodes that started at the same time have not
/// seen each other from outside.
async fn again(
    (client, keys, links): (Client, Keys, Links),
    (me, life): (NodeId, Incarnation),
    log: Arc<dyn Log>,
) -> Result<(), JoinError> {
    let mut waiting = Waiting::default();
    loop {
        let looked = look(&client, &keys, &links, (&me, Some(life))).await?;
        let Some((event, text)) = waiting.found(&looked) else {
            return Ok(());
        };
        if let Some(text) = text {
            log.log(Level::Warning, event, &[("reason", text)]);
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// What a node waits for, said once.
#[derive(Default)]
struct Waiting(String);

impl Waiting {
    /// `None`: for nothing; else an event, with its text where that is new.
    fn found(&mut self, found: &Found) -> Option<(&'static str, Option<String>)> {
        let (event, text) = match found {
            Found::Way => return None,
            Found::Etcd(error) => ("cluster waits for etcd", error.to_string()),
            Found::Nobody(silent) => (
                "cluster waits for a member",
                format!(
                    "none of the members in etcd answers ({}): this node joins when one does, or \
                     when their leases have ended; are they alive, and is their cluster.relay \
                     address reachable from here?",
                    silent.join("; ")
                ),
            ),
        };
        if self.0 == text {
            return Some((event, None));
        }
        self.0.clone_from(&text);
        Some((event, Some(text)))
    }
}

type Answered = (u64, Result<Answer, EtcdError>);

struct Driver {
    parts: Parts,
    keys: Keys,
    agent: Agent,
    calls: JoinSet<()>,
    answer: mpsc::UnboundedSender<Answered>,
    verdict: mpsc::UnboundedSender<Result<(), JoinError>>,
    /// The node is ready for its share; this life has not begun, or has not looked around yet.
    is_ready_due: bool,
    looking: Option<AbortHandle>,
    watch: Option<Watch>,
    /// The call that the watch's first snapshot answers.
    listing: Option<u64>,
    /// Where peers of the map are, also when their record is absent for a while.
    known: BTreeMap<Incarnation, Target>,
    targets: Vec<Target>,
    /// When a complaint was last logged.
    said: HashMap<String, u64>,
    is_over: bool,
}

impl Driver {
    async fn live(
        mut self,
        mut orders: mpsc::UnboundedReceiver<Command>,
        mut heard: mpsc::Receiver<LinkEvent>,
        mut answers: mpsc::UnboundedReceiver<Answered>,
        mut verdicts: mpsc::UnboundedReceiver<Result<(), JoinError>>,
    ) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ticked = 0;
        while !self.is_over {
            tokio::select! {
                _ = ticks.tick() => {
                    let settled = self.parts.events.settled();
                    self.step(Input::Tick(&settled));
                    ticked = (ticked + 1) % SHOWN_EVERY;
                    if ticked == 0 {
                        self.show();
                    }
                }
                order = orders.recv() => self.order(order.unwrap_or(Command::Stop)),
                Some(event) = heard.recv() => self.link(event),
                Some((number, answer)) = answers.recv() => self.answered(number, answer),
                Some(verdict) = verdicts.recv() => self.looked(verdict),
                Some(update) = next(&mut self.watch) => self.watched(update),
                Some(_) = self.calls.join_next() => {}
            }
        }
        if let Some(looking) = self.looking.take() {
            looking.abort();
        }
        // What was said last: the lease given back, the word to the others.
        let goodbye = async {
            tokio::time::sleep(TICK * 2).await;
            while self.calls.join_next().await.is_some() {}
        };
        let patience = Duration::from_millis(self.parts.options.config.timing.call_ms);
        let _ = tokio::time::timeout(patience, goodbye).await;
        self.parts.links.view(&[]);
    }

    fn order(&mut self, command: Command) {
        match command {
            Command::Ready => {
                self.is_ready_due = true;
                self.look_again();
            }
            Command::Drain => self.step(Input::Drain),
            Command::Stay => self.step(Input::Stay),
            Command::Look(tell) => {
                // Whoever asked may have gone.
                let _ = tell.send(self.agent.outlook(now()));
            }
            Command::Leave => self.step(Input::Leave),
            Command::Stop => {
                self.over();
                self.is_over = true;
            }
        }
    }

    fn look_again(&mut self) {
        let me = self.agent.incarnation();
        if me == Incarnation(0) || !std::mem::take(&mut self.is_ready_due) {
            return;
        }
        let parts = &self.parts;
        let looking = again(
            (parts.client.clone(), self.keys.clone(), parts.links.clone()),
            (parts.options.config.id.clone(), me),
            Arc::clone(&parts.options.log),
        );
        let verdict = self.verdict.clone();
        self.looking = Some(self.calls.spawn(async move {
            // After the end nobody asks.
            let _ = verdict.send(looking.await);
        }));
    }

    fn looked(&mut self, verdict: Result<(), JoinError>) {
        match verdict {
            Ok(()) => self.step(Input::Ready),
            Err(error) => {
                self.log(
                    Level::Error,
                    "cluster not joined",
                    &[("reason", error.to_string())],
                );
                self.step(Input::Leave);
                self.parts.stage.send_replace(Stage::Failed(error));
            }
        }
    }

    fn link(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Note { from, note } => self.step(Input::Note(from, note)),
            LinkEvent::Port { peer, is_refused } => self.step(Input::Port(peer, is_refused)),
            LinkEvent::Up { .. } | LinkEvent::Down { .. } | LinkEvent::Refused { .. } => {}
        }
    }

    fn answered(&mut self, number: u64, answer: Result<Answer, EtcdError>) {
        let answer = match answer {
            Ok(answer) => Some(answer),
            Err(error) => {
                self.complain("etcd call failed", &error);
                None
            }
        };
        self.step(Input::Answer(number, answer));
    }

    fn watched(&mut self, update: Update) {
        match update {
            Update::Snapshot { kvs, .. } => {
                let listed = self.keys.listed(kvs);
                match self.listing.take() {
                    Some(number) => {
                        self.step(Input::Answer(number, Some(Answer::Listed(listed))));
                    }
                    None => self.step(Input::Relisted(listed)),
                }
            }
            Update::Changes(changes) => {
                for change in changes {
                    if let Some(change) = self.keys.change(change) {
                        self.step(Input::Change(change));
                    }
                }
            }
            Update::Broken(error) => self.complain("etcd watch broken", &error),
            Update::Restored => {
                if self.is_new("etcd watch restored".to_owned()) {
                    self.log(Level::Info, "etcd watch restored", &[]);
                }
            }
        }
    }

    /// One step of the agent, and all that comes of it.
    fn step(&mut self, input: Input<'_>) {
        let mut out = Vec::new();
        let at = now();
        let may_move = !matches!(input, Input::Tick(_) | Input::Note(..) | Input::Port(..));
        self.agent.step(at, input, &mut out);
        // First of all: whatever else follows, nothing is acknowledged on an old standing.
        self.parts.place.stand(self.agent.standing(at));
        self.look_for_cut_off(at);
        let may_move = may_move || out.iter().any(|o| matches!(o, Output::Map(_)));
        for output in out {
            self.carry_out(output);
        }
        if may_move {
            self.aim();
        }
    }

    /// Tells the message path and the operator which nodes nobody can take the place of.
    fn look_for_cut_off(&mut self, at: Mono) {
        let nodes = self.agent.cut_off(at);
        if !self.parts.place.cut_off(&nodes) {
            return;
        }
        let (level, event) = match nodes.is_empty() {
            true => (Level::Info, "nodes no longer cut off"),
            false => (Level::Warning, "nodes cut off"),
        };
        let name = |life: &Incarnation| match self.known.get(life) {
            Some(target) => target.node.to_string(),
            None => life.to_string(),
        };
        let names: Vec<String> = nodes.iter().map(name).collect();
        self.log(level, event, &[("nodes", names.join(", "))]);
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Call(number, Call::List) => {
                self.listing = Some(number);
                self.watch = Some(Watch::follow(&self.parts.client, self.keys.all()));
            }
            Output::Call(number, call) => self.call(number, call),
            Output::Note(to, note) => self.parts.links.note(to, &note),
            Output::Joined(me) => {
                self.parts.links.joined(me);
                self.parts.place.joined(me);
                self.parts.stage.send_replace(Stage::In(me));
                self.log(
                    Level::Info,
                    "cluster joined",
                    &[("incarnation", me.to_string())],
                );
                self.parts.events.joined(me);
                self.look_again();
            }
            Output::Map(map) => {
                let me = self.agent.incarnation();
                self.parts.place.mapped(me, &map);
                let telling = self.parts.links.telling();
                telling.epoch.store(map.epoch().0, Ordering::Relaxed);
                let fields = [
                    ("epoch", map.epoch().to_string()),
                    ("nodes", map.nodes().len().to_string()),
                    ("owned", map.count(me).to_string()),
                ];
                self.log(Level::Info, "cluster map", &fields);
                self.parts.events.map(&map);
            }
            Output::Out(reason) => {
                self.over();
                let level = match reason {
                    OutReason::Left => Level::Info,
                    _ => Level::Error,
                };
                self.log(level, "cluster left", &[("reason", format!("{reason:?}"))]);
                self.parts.events.out(reason);
                self.parts.stage.send_replace(Stage::Out(reason));
                self.is_over = true;
            }
            Output::Alert(alert) => self.alert(&alert),
        }
    }

    /// Before anything else at the end of this life.
    fn over(&mut self) {
        self.parts.place.out();
        self.parts.links.joined(Incarnation(0));
    }

    fn call(&mut self, number: u64, call: Call) {
        let client = self.parts.client.clone();
        let keys = self.keys.clone();
        let answer = self.answer.clone();
        let deadline = Duration::from_millis(self.parts.options.config.timing.call_ms);
        self.calls.spawn(async move {
            let done = tokio::time::timeout(deadline, carry_out(&client, &keys, call)).await;
            let done = done.unwrap_or_else(|_| {
                Err(EtcdError::Unknown {
                    endpoint: "every endpoint".to_owned(),
                    reason: format!("silent for {} ms", deadline.as_millis()),
                })
            });
            // After the end nobody asks.
            let _ = answer.send((number, done));
        });
    }

    /// Links with every member, and with who is of the map without a record for now.
    fn aim(&mut self) {
        if !self.agent.is_in() {
            return;
        }
        let me = self.agent.incarnation();
        let view = self.parts.place.view();
        let mut targets = BTreeMap::new();
        for member in self.agent.members().filter(|m| m.incarnation != me) {
            let target = Target {
                node: member.id.clone(),
                incarnation: member.incarnation,
                address: member.relay.clone(),
            };
            targets.insert(member.incarnation, target);
        }
        for node in view.map().iter().flat_map(|map| map.nodes()) {
            if let Some(known) = self.known.get(&node.incarnation) {
                targets
                    .entry(node.incarnation)
                    .or_insert_with(|| known.clone());
            }
        }
        if targets == self.known {
            return;
        }
        self.targets = targets.values().cloned().collect();
        self.known = targets;
        self.parts.links.view(&self.targets);
    }

    fn show(&mut self) {
        let at = now();
        let agent = &self.agent;
        let status = Status {
            me: agent.incarnation(),
            leader: agent.leader(),
            members: agent.members().cloned().collect(),
            links_up: agent.links_up(at),
            is_frozen: agent.is_frozen(at),
            lease_left_ms: agent.lease_left_ms(at),
            etcd: self.parts.client.metrics().figures(),
        };
        *self.parts.status.lock() = status;
    }

    fn log(&self, level: Level, event: &'static str, fields: crate::log::Fields<'_>) {
        self.parts.options.log.log(level, event, fields);
    }

    fn is_new(&mut self, what: String) -> bool {
        let at = clock::now_ms();
        self.said
            .retain(|_, said| at.saturating_sub(*said) < SILENT_MS);
        self.said.insert(what, at).is_none()
    }

    /// Something of etcd that leads to no decision.
    fn complain(&mut self, event: &'static str, error: &EtcdError) {
        let text = error.to_string();
        if !self.is_new(format!("{event} {:?}", std::mem::discriminant(error))) {
            return;
        }
        let level = match error.is_outage() {
            true => Level::Warning,
            false => Level::Error,
        };
        self.log(level, event, &[("reason", text)]);
    }

    fn alert(&mut self, alert: &Alert) {
        let (level, text) = describe(alert);
        if matches!(alert, Alert::EtcdGone | Alert::EtcdBack | Alert::Revoked(_))
            || self.is_new(text.clone())
        {
            self.log(level, "cluster alert", &[("reason", text.clone())]);
        }
        if matches!(alert, Alert::NameTaken) {
            self.parts.stage.send_replace(Stage::Joining(Some(text)));
        }
    }
}

async fn next(watch: &mut Option<Watch>) -> Option<Update> {
    match watch {
        Some(watch) => watch.next().await,
        None => std::future::pending().await,
    }
}

/// What an operator shall know and do.
fn describe(alert: &Alert) -> (Level, String) {
    match alert {
        Alert::BadMap(error) => (
            Level::Error,
            format!(
                "the map in etcd is not used, the one before stays in force: {error}; restore the \
                 key, or delete it while no node runs"
            ),
        ),
        Alert::OldMap(epoch) => (
            Level::Error,
            format!(
                "the map in etcd has epoch {epoch}, older than the one in force: was etcd restored \
                 from a backup, or is it another etcd?"
            ),
        ),
        Alert::BadMember(error) => (
            Level::Error,
            format!("a record of a node in etcd is not used: {error}; is it of a later version? Else delete it"),
        ),
        Alert::OtherProtocol(node, protocol) => (
            Level::Error,
            format!(
                "node {node} speaks version {protocol} of the protocol, which this one does not; \
                 upgrade one version at a time"
            ),
        ),
        Alert::BadLeader => (
            Level::Error,
            "the key of the leader in etcd does not read; delete it".to_owned(),
        ),
        Alert::NameTaken => (
            Level::Warning,
            "waiting for the lease of another process with this node's name to end".to_owned(),
        ),
        Alert::BadAnswer => (
            Level::Error,
            "etcd answered something else than was asked; check that cluster.etcd.endpoints are \
             etcd 3.5 or later and nothing in between"
                .to_owned(),
        ),
        Alert::EtcdGone => (
            Level::Warning,
            "etcd does not answer: nobody joins, leaves or takes over until it does; bring most of \
             its members back, and stop no node meanwhile"
                .to_owned(),
        ),
        Alert::EtcdBack => (Level::Info, "etcd answers again".to_owned()),
        Alert::Revoked(life) => (
            Level::Warning,
            format!("most nodes see life {life} dead: its lease is revoked"),
        ),
    }
}
