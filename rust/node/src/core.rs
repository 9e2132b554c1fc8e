//! The runtime and its life: start, reload, drain, stop.

use crate::bridge::Bridge;
use crate::cluster::{Cluster, Parts};
use crate::config::NodeConfig;
use crate::gateway::NodeGateway;
use crate::live::{ConfigError, Live};
use crate::metrics::Readings;
use crate::node::{ERROR, INFO, Node};
use crate::storage::{Opened, StoreReadings};
use crate::trim::{Trim, Trimmer};
use crate::{history, storage};
use antiphon_cluster::agent::Outlook;
use antiphon_net::admission::{Admission, LoginReadings};
use antiphon_net::gateway::Gateway;
use antiphon_net::listener::{ListenerConfig, Net, listen};
use antiphon_net::timers::Alarms;
use antiphon_routing::home::Locator;
use antiphon_routing::store::Store;
use antiphon_store::cassandra::Leave;
use antiphon_xmpp::stream::StreamCondition;
use parking_lot::Mutex;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};

/// How often deadlines are looked at.
const TICK: Duration = Duration::from_millis(500);
/// How long a node that leaves its cluster lets its writes be committed, at least.
const COMMITTED: Duration = Duration::from_secs(2);
/// Entities without sessions are forgotten this long after their last use.
const IDLE_ENTITY_S: u64 = 60;
/// Ticks between two looks at idle entities.
const EVICT_TICKS: u64 = 20;
/// Logins that wait at once and are worth a line in the log.
const CROWD: usize = 100;
/// Ticks between two groups of what is written behind.
const FLUSH_TICKS: u64 = 4;

struct Running {
    runtime: Runtime,
    node: Arc<Node>,
    net: Arc<Net>,
    alarms: Arc<Alarms>,
    dummy_secret: Arc<[u8]>,
    listeners: Vec<(ListenerConfig, SocketAddr)>,
    cluster: Option<Arc<Cluster>>,
    store_readings: Box<dyn Fn() -> StoreReadings + Send + Sync>,
}

/// One node with everything it runs on. Dropping it stops it hard.
pub struct Core {
    config: Mutex<Option<NodeConfig>>,
    bridge: Arc<Bridge>,
    running: Mutex<Option<Running>>,
    trimmer: Arc<Trimmer>,
}

impl Core {
    /// Reads the configuration; starts nothing.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn new(json: &str) -> Result<Self, ConfigError> {
        Ok(Self {
            config: Mutex::new(Some(parse(json)?)),
            bridge: Arc::new(Bridge::new()?),
            running: Mutex::new(None),
            trimmer: Arc::new(Trimmer::new(|| {})),
        })
    }

    /// As it is, with a function that gives back to the system what the calling thread's allocator
    /// keeps; called after storms of connections, on the runtime's threads.
    #[must_use]
    pub fn trimmed_by(mut self, trim: fn()) -> Self {
        self.trimmer = Arc::new(Trimmer::new(trim));
        self
    }

    /// The queue to Python.
    #[must_use]
    pub fn bridge(&self) -> &Arc<Bridge> {
        &self.bridge
    }

    /// The node, while it runs.
    #[must_use]
    pub fn node(&self) -> Option<Arc<Node>> {
        self.running.lock().as_ref().map(|r| Arc::clone(&r.node))
    }

    /// Opens the store, starts the threads, binds the listeners.
    ///
    /// # Errors
    /// [`ConfigError`]; nothing runs then.
    pub fn start(&self) -> Result<(), ConfigError> {
        let config = self.config.lock().take();
        let config =
            config.ok_or_else(|| ConfigError::Document("the node was started already".into()))?;
        let live = Live::new(config)?;
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(live.workers());
        let trimmer = Arc::clone(&self.trimmer);
        builder.on_thread_park(move || trimmer.follow());
        let runtime = builder.thread_name("antiphon").enable_all().build()?;
        let running = self.start_on(runtime, live)?;
        *self.running.lock() = Some(running);
        Ok(())
    }

    fn start_on(&self, runtime: Runtime, mut live: Live) -> Result<Running, ConfigError> {
        let dummy_secret: Arc<[u8]> = Arc::new(random_key()?);
        self.bridge.set_log_level(live.config.log_level);
        let tls = live.tls()?;
        let streams = live.client_streams(&dummy_secret)?;
        let components = live.component_streams()?;
        let limits = live.net_limits();
        let listeners: Vec<ListenerConfig> = live
            .config
            .listeners
            .iter()
            .map(ListenerConfig::from)
            .collect();
        let Opened {
            store,
            shared,
            readings,
        } = storage::open(&live.config, &self.bridge)?;
        live.policy.archive_key = runtime.block_on(history::archive_key(&store, &live))?;
        let parts = match live.config.cluster.clone() {
            Some(options) => Some(Parts::new(&live.config.node_name, options)?),
            None => None,
        };
        let locator: Arc<dyn Locator> = match &parts {
            Some(parts) => parts.homes.clone(),
            None => Arc::new(antiphon_cluster::Local),
        };
        let handle = runtime.handle().clone();
        let mut node = Node::new(
            live,
            Arc::clone(&store),
            random_key()?,
            locator,
            Arc::clone(&self.bridge),
            handle.clone(),
        );
        if let Some(parts) = &parts {
            node = node.joined(Arc::clone(&parts.mesh));
        }
        if let (Some(parts), Some(shared)) = (&parts, shared) {
            let mesh = Arc::downgrade(&parts.mesh);
            if let Some(path) = parts.write_log() {
                shared.set_witness(crate::witness::into(path, mesh.clone())?);
            }
            let ask = move |owner: &str| mesh.upgrade().map_or(Leave::No, |m| m.may_write(owner));
            shared.set_gate(Arc::new(ask));
        }
        let node = Arc::new(node);
        node.watch_store();
        let cluster = match parts.map(|parts| Cluster::join(parts, &node, &handle)) {
            Some(Ok(cluster)) => Some(cluster),
            Some(Err(error)) => {
                store.close();
                return Err(error);
            }
            None => None,
        };
        let gateway: Arc<dyn Gateway> = Arc::new(NodeGateway(Arc::clone(&node)));
        let alarms = Arc::new(Alarms::default());
        let net = Arc::new(Net::new(
            gateway,
            Arc::clone(&alarms),
            tls,
            streams,
            components,
            limits,
        ));
        let mut bound = Vec::new();
        for listener in listeners {
            let result = runtime.block_on(listen(Arc::clone(&net), listener.clone()));
            match result {
                Ok(address) => bound.push((listener, address)),
                Err(error) => {
                    store.close();
                    return Err(ConfigError::Listen {
                        address: listener.address,
                        reason: listen_advice(&error),
                    });
                }
            }
        }
        let admission = Arc::clone(net.admission());
        let alarms_of_tick = Arc::clone(&alarms);
        runtime.spawn(trim_emptied(Arc::clone(&node), Arc::clone(&self.trimmer)));
        runtime.spawn(tick(
            Arc::clone(&node),
            alarms_of_tick,
            admission,
            Arc::clone(&self.trimmer),
        ));
        Ok(Running {
            runtime,
            node,
            net,
            alarms,
            dummy_secret,
            listeners: bound,
            cluster,
            store_readings: readings,
        })
    }

    /// Certificates, limits, domains and handlers from a new configuration. Listeners, data
    /// directory, threads and storage stay as they are.
    ///
    /// # Errors
    /// [`ConfigError`]; nothing has changed then.
    pub fn reload(&self, json: &str) -> Result<(), ConfigError> {
        let guard = self.running.lock();
        let Some(running) = guard.as_ref() else {
            return Ok(());
        };
        let live = Live::new(parse(json)?)?;
        let tls = live.tls()?;
        let streams = live.client_streams(&running.dummy_secret)?;
        let components = live.component_streams()?;
        *running.net.tls.write() = Arc::new(tls);
        *running.net.c2s.write() = streams;
        *running.net.components.write() = Arc::new(components);
        running.net.set_limits(live.net_limits());
        self.bridge.set_log_level(live.config.log_level);
        running.node.apply(live);
        match &running.cluster {
            Some(cluster) => cluster.reload(),
            None => Ok(()),
        }
    }

    /// What is known of the cluster, as a JSON document; `null` for a node that is alone.
    #[must_use]
    pub fn cluster_status(&self) -> String {
        let found = self.running.lock().as_ref().and_then(|running| {
            let cluster = Arc::clone(running.cluster.as_ref()?);
            Some((cluster, running.node.sessions.len()))
        });
        match found {
            Some((cluster, sessions)) => cluster.status(sessions).to_string(),
            None => "null".to_owned(),
        }
    }

    /// The name of the node that is home to an address. `None`: this one is alone, or it is not
    /// known now, or this is no address.
    #[must_use]
    pub fn cluster_home(&self, jid: &str) -> Option<String> {
        let jid = antiphon_xmpp::Jid::parse(jid).ok()?;
        let guard = self.running.lock();
        guard.as_ref()?.cluster.as_ref()?.home(&jid)
    }

    fn cluster(&self) -> Option<Arc<Cluster>> {
        self.running.lock().as_ref()?.cluster.clone()
    }

    /// Begins to give all shards to other nodes. Nothing happens where there is no cluster.
    pub fn cluster_drain(&self) {
        if let Some(cluster) = self.cluster() {
            cluster.begin_drain();
        }
    }

    /// Takes that back. `false`: this node ends, or there is no cluster.
    pub fn cluster_stay(&self) -> bool {
        self.cluster().is_some_and(|cluster| cluster.cancel_drain())
    }

    /// Has the planner plan anew, where this node plans; what there is to move. Blocks for a moment.
    pub fn cluster_outlook(&self) -> Option<Outlook> {
        self.cluster()?.outlook()
    }

    /// Closes the listeners.
    pub fn stop_accepting(&self) {
        if let Some(running) = self.running.lock().as_ref() {
            running.net.stop_accepting();
        }
    }

    /// Sessions that can be resumed go to other nodes: their clients find them there.
    fn give_sessions_away(&self, deadline: Duration) {
        if let Some(node) = self.node() {
            let until = Instant::now() + deadline;
            node.runtime.block_on(node.give_all_away(until));
        }
    }

    /// Ends every stream with `system-shutdown`, keeps what was not confirmed, commits everything,
    /// joins every thread. In a cluster, sessions that can be resumed go to other nodes before.
    /// Blocks.
    pub fn stop(&self, deadline: Duration) {
        self.stop_accepting();
        if let Some(cluster) = self.cluster() {
            cluster.end();
            self.give_sessions_away(deadline);
        }
        let Some(running) = self.running.lock().take() else {
            return;
        };
        let until = Instant::now() + deadline;
        running.node.is_stopping.store(true, Ordering::Release);
        let shutdown = StreamCondition::SystemShutdown;
        for session in running.node.sessions.all() {
            running.node.close_session(session.id, shutdown.into());
        }
        let is_done = || running.alarms.is_empty() && running.node.sessions.is_empty();
        loop {
            // Again and again: a connection may have looked just before and slept since.
            running.alarms.sweep(u64::MAX);
            if is_done() || Instant::now() >= until {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        // Connections that did not end in time: their sessions end without them.
        for session in running.node.sessions.all() {
            running.node.end_session(&session);
        }
        self.bridge.close();
        for answered in running.node.bridge.expire(u64::MAX) {
            running.node.answered(answered);
        }
        if let Some(cluster) = &running.cluster {
            // Once out, this node may write no more.
            running.node.store.tick(running.node.now());
            let until = until.max(Instant::now() + COMMITTED);
            while (running.store_readings)().queued > 0 && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(10));
            }
            cluster.leave();
        }
        running.node.store.close();
        running.runtime.shutdown_timeout(Duration::from_secs(5));
    }

    /// Kind and address of every listener, as bound.
    #[must_use]
    pub fn addresses(&self) -> Vec<(&'static str, String)> {
        use antiphon_net::listener::Kind;
        let guard = self.running.lock();
        let listeners = guard
            .iter()
            .flat_map(|r| &r.listeners)
            .map(|(config, address)| {
                let kind = match config.kind {
                    Kind::C2s => "c2s",
                    Kind::Http => "http",
                    Kind::Component => "component",
                };
                (kind, address.to_string())
            });
        listeners.collect()
    }

    /// Prometheus text.
    #[must_use]
    pub fn metrics(&self) -> String {
        let guard = self.running.lock();
        let Some(running) = guard.as_ref() else {
            return String::new();
        };
        let node = &running.node;
        node.metrics.text(Readings {
            sessions: node.sessions.len(),
            connections: running.alarms.len(),
            logins: running.net.admission().readings(),
            entities: node.shards.each().map(|shard| shard.len()).sum(),
            crossings: self.bridge.crossings(),
            queue: self.bridge.depth(),
            lost_logs: self.bridge.lost_logs(),
            unsaved_bytes: node.unsaved_bytes(),
            store: (running.store_readings)(),
        })
    }
}

/// A secret of this process.
fn random_key() -> std::io::Result<[u8; 32]> {
    let mut secret = [0u8; 32];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut secret)
        .map_err(|_| std::io::Error::other("the system has no randomness"))?;
    Ok(secret)
}

fn parse(json: &str) -> Result<NodeConfig, ConfigError> {
    serde_json::from_str(json)
        .map_err(|error| ConfigError::Document(format!("core configuration: {error}")))
}

fn listen_advice(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            "another program has this port; stop it or choose another address".into()
        }
        std::io::ErrorKind::PermissionDenied => {
            "ports below 1024 need the right to bind them".into()
        }
        std::io::ErrorKind::AddrNotAvailable => "this machine has no such address".into(),
        _ => error.to_string(),
    }
}

/// Says once when logins begin to wait for each other in numbers, and once when none does any more.
fn tell_of_logins(node: &Node, logins: &LoginReadings, is_crowded: bool) -> bool {
    let fields = || {
        vec![
            ("waiting", logins.waiting.to_string()),
            ("connections", logins.connections.to_string()),
        ]
    };
    if !is_crowded && logins.waiting >= CROWD {
        node.bridge
            .log(INFO, "logins wait for their turn", fields());
        return true;
    }
    if is_crowded && logins.waiting == 0 {
        node.bridge.log(INFO, "logins no longer wait", fields());
        return false;
    }
    is_crowded
}

/// Lets every worker give memory back: those that sleep are woken, the rest follow when they next
/// sleep.
fn trim(node: &Node, trimmer: &Arc<Trimmer>) {
    trimmer.ask();
    for _ in 0..node.runtime.metrics().num_workers() {
        let trimmer = Arc::clone(trimmer);
        node.runtime.spawn(async move { trimmer.follow() });
    }
}

/// Gives back soon what queues held that were thrown away; ticks look again later.
async fn trim_emptied(node: Arc<Node>, trimmer: Arc<Trimmer>) {
    loop {
        node.emptied.notified().await;
        tokio::time::sleep(trimmer.pause()).await;
        trim(&node, &trimmer);
    }
}

/// Looks at every deadline of the node.
async fn tick(
    node: Arc<Node>,
    alarms: Arc<Alarms>,
    admission: Arc<Admission>,
    trimmer: Arc<Trimmer>,
) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut ticks = 0u64;
    let mut storms = Trim::default();
    let mut is_crowded = false;
    loop {
        interval.tick().await;
        ticks += 1;
        let now_ms = node.now();
        alarms.sweep(now_ms);
        for session in node.sessions.expired(now_ms) {
            node.end_session(&session);
        }
        is_crowded = tell_of_logins(&node, &admission.readings(), is_crowded);
        let late = node.bridge.expire(now_ms);
        if !late.is_empty() {
            node.bridge.log(
                ERROR,
                "handlers did not answer in time",
                vec![("requests", late.len().to_string())],
            );
        }
        for answered in late {
            node.answered(answered);
        }
        node.requests.expire(now_ms, &node.bridge);
        if ticks.is_multiple_of(FLUSH_TICKS) {
            node.store.tick(now_ms);
        }
        if storms.tick(
            node.metrics.accepted.get(),
            alarms.len() as u64,
            node.metrics.overflows.get(),
        ) {
            trim(&node, &trimmer);
        }
        if ticks.is_multiple_of(EVICT_TICKS) {
            let before_s = (now_ms / 1000).saturating_sub(IDLE_ENTITY_S);
            for mut shard in node.shards.each() {
                shard.evict(before_s);
            }
        }
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        if let Some(running) = self.running.lock().take() {
            running.node.store.close();
            running.runtime.shutdown_background();
        }
    }
}
