//! The node in its cluster: links, membership and the mesh put together.

use crate::bridge::Bridge;
use crate::config::{Cluster as Options, EtcdLoss};
use crate::live::ConfigError;
use crate::mesh::{Event, Homes, Mesh};
use crate::node::{DEBUG, ERROR, INFO, Node};
use antiphon_cluster::agent::{Config, EtcdLoss as Loss, Outlook};
use antiphon_cluster::clock::wall_ms;
use antiphon_cluster::id::{Epoch, Incarnation, NodeId, Shard, Timing, Zone};
use antiphon_cluster::link::{Class, Links, Options as LinkOptions, Receiver, SendError, Taken};
use antiphon_cluster::log::{Fields, Level, Log};
use antiphon_cluster::map::ShardMap;
use antiphon_cluster::member::PROTOCOL;
use antiphon_cluster::membership::{
    Events, Membership, Options as MembershipOptions, Place, Stage, Status,
};
use antiphon_cluster::planner::Policy;
use antiphon_cluster::relay::Outcome;
use antiphon_cluster::talk::OutReason;
use antiphon_cluster::tls::Files;
use antiphon_cluster::{etcd, link};
use antiphon_routing::archive::ArchiveId;
use antiphon_routing::home::{SHARDS, shard_of};
use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

/// Bytes that wait for a peer before what may wait stays where it is.
const QUEUE_BYTES: usize = 8 << 20;
/// Bytes that a peer may have sent and this node not taken on, each class.
const WINDOW_BYTES: u64 = 4 << 20;
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(10);
/// Between the end of a life and the next.
const REJOIN: Duration = Duration::from_secs(1);
/// Between a refused attempt to come in again and the next.
const REFUSED: Duration = Duration::from_secs(10);
/// How long what sessions leave behind may take to reach their homes.
const LEAVE: Duration = Duration::from_secs(5);

/// Events of the cluster, as records of the node.
struct Records(Arc<Bridge>);

impl Log for Records {
    fn log(&self, level: Level, event: &'static str, fields: Fields<'_>) {
        /// Python's `logging.WARNING`.
        const WARNING: u8 = 30;
        let level = match level {
            Level::Debug => DEBUG,
            Level::Info => INFO,
            Level::Warning => WARNING,
            Level::Error => ERROR,
        };
        self.0.log(level, event, fields.to_vec());
    }
}

/// The links, as the mesh sees them; there from the start of the node on.
#[derive(Default)]
struct Ways(OnceLock<Links>, Place);

impl crate::mesh::Links for Ways {
    fn send(&self, peer: u32, class: Class, unit: Bytes) -> Result<u64, SendError> {
        let links = self.0.get().ok_or(SendError::Unknown)?;
        links.send_reserved(Incarnation(peer), class, unit)
    }

    fn send_soon(&self, peer: u32, class: Class, unit: Bytes) -> Result<u64, SendError> {
        let links = self.0.get().ok_or(SendError::Unknown)?;
        links.send_soon(Incarnation(peer), class, unit)
    }

    fn has_room(&self, peer: u32) -> bool {
        let links = self.0.get();
        links.is_none_or(|links| links.has_room(Incarnation(peer), Class::Stanza))
    }

    fn is_up(&self, peer: u32) -> bool {
        let links = self.0.get();
        links.is_some_and(|links| links.is_up(Incarnation(peer), Class::Stanza))
    }

    fn is_cut_off(&self, peer: u32) -> bool {
        self.1.is_cut_off(Incarnation(peer))
    }

    fn done(&self, peer: u32, class: Class, number: u64, outcome: Outcome) {
        if let Some(links) = self.0.get() {
            links.done(Incarnation(peer), class, number, outcome);
        }
    }

    fn tell(&self, clock: u64, epoch: u64) {
        if let Some(links) = self.0.get() {
            links.telling().clock.store(clock, Ordering::Release);
            links.telling().epoch.store(epoch, Ordering::Release);
        }
    }
}

/// The node, as links see it. Weak, since the node holds the links.
#[derive(Default)]
struct Ear(OnceLock<Weak<Node>>);

impl Ear {
    fn node(&self) -> Option<Arc<Node>> {
        self.0.get()?.upgrade()
    }
}

impl Receiver for Ear {
    fn receive(&self, from: Incarnation, class: Class, number: u64, unit: Bytes) -> Taken {
        match self.node() {
            Some(node) => node.unit_received(from.0, class, number, &unit),
            None => Taken::Settled(Outcome::NotYet),
        }
    }

    fn settled(&self, to: Incarnation, class: Class, outcomes: &[(u64, Outcome)]) {
        if let (Some(node), Class::Stanza) = (self.node(), class) {
            node.units_settled(to.0, outcomes);
        }
    }

    fn observed(&self, from: Incarnation, clock: u64, epoch: Epoch) {
        if let Some(node) = self.node() {
            let clock = ArchiveId(clock & ArchiveId::MAX.0);
            node.live.load().policy.clock.observe(clock);
            if let Some(mesh) = node.mesh.as_deref() {
                mesh.observed(from.0, epoch.0);
            }
        }
    }
}

/// What the membership tells.
struct Told {
    mesh: Arc<Mesh>,
    /// This life is over, and not since it was told to leave.
    out: mpsc::UnboundedSender<()>,
}

impl Events for Told {
    fn joined(&self, me: Incarnation) {
        self.mesh.happened(Event::Joined(me.0));
    }

    fn map(&self, map: &Arc<ShardMap>) {
        self.mesh.happened(Event::Map(Arc::clone(map)));
    }

    fn out(&self, reason: OutReason) {
        self.mesh.happened(Event::Out);
        if reason != OutReason::Left {
            // After the end nobody listens.
            let _ = self.out.send(());
        }
    }

    fn settled(&self) -> Vec<(Shard, Epoch)> {
        self.mesh.settled()
    }
}

/// What a node needs of its cluster before it is made.
pub(crate) struct Parts {
    options: Options,
    node_id: NodeId,
    ways: Arc<Ways>,
    place: Place,
    pub homes: Arc<Homes>,
    pub mesh: Arc<Mesh>,
    events: mpsc::UnboundedReceiver<Event>,
}

impl Parts {
    /// From the configuration.
    ///
    /// # Errors
    /// [`ConfigError::Cluster`].
    pub fn new(node_name: &str, options: Options) -> Result<Self, ConfigError> {
        let node_id = NodeId::new(node_name)
            .map_err(|e| ConfigError::Cluster(format!("node.name {node_name:?}: {e}")))?;
        let place = Place::default();
        let ways = Arc::new(Ways(OnceLock::new(), place.clone()));
        let homes = Arc::new(Homes::new(0));
        let links: Arc<dyn crate::mesh::Links> = ways.clone();
        let (mesh, events) = Mesh::new(links, Arc::clone(&homes), Some(place.clone()));
        Ok(Self {
            options,
            node_id,
            ways,
            place,
            homes,
            mesh: Arc::new(mesh),
            events,
        })
    }

    /// Where every write of an owner's rows is told.
    pub fn write_log(&self) -> Option<&Path> {
        self.options.write_log.as_deref()
    }
}

/// A node's running membership.
pub(crate) struct Cluster {
    node_id: NodeId,
    options: Options,
    links: Links,
    place: Place,
    mesh: Arc<Mesh>,
    membership: Mutex<Option<Membership>>,
    told: Arc<Told>,
    log: Arc<dyn Log>,
    is_leaving: AtomicBool,
}

impl Cluster {
    /// Begins to join: [`Cluster::status`] tells how far that is. Until it is in, nobody binds.
    ///
    /// # Errors
    /// [`ConfigError::Cluster`] with what to do.
    pub fn join(
        parts: Parts,
        node: &Arc<Node>,
        runtime: &Handle,
    ) -> Result<Arc<Self>, ConfigError> {
        let Parts {
            options,
            node_id,
            ways,
            place,
            mesh,
            events,
            ..
        } = parts;
        let log: Arc<dyn Log> = Arc::new(Records(Arc::clone(&node.bridge)));
        let ear = Arc::new(Ear::default());
        // Set once, here.
        let _ = ear.0.set(Arc::downgrade(node));
        let links = Links::new(link_options(&node_id, &options, &log), ear, runtime.clone())
            .map_err(|e| ConfigError::Cluster(format!("cluster.tls: {e}")))?;
        let _ = ways.0.set(links.clone());
        let listener = runtime.block_on(TcpListener::bind(options.listen));
        let listener = listener.map_err(|error| ConfigError::Listen {
            address: options.listen,
            reason: error.to_string(),
        })?;
        links.listen(listener);
        runtime.spawn(Arc::clone(node).conduct(events));
        let (out, mut outs) = mpsc::unbounded_channel();
        let told = Arc::new(Told {
            mesh: Arc::clone(&mesh),
            out,
        });
        let cluster = Arc::new(Self {
            node_id,
            options,
            links,
            place,
            mesh,
            membership: Mutex::new(None),
            told,
            log,
            is_leaving: AtomicBool::new(false),
        });
        cluster.start()?;
        let again = Arc::downgrade(&cluster);
        runtime.spawn(async move {
            while outs.recv().await.is_some() {
                let mut pause = REJOIN;
                loop {
                    tokio::time::sleep(pause).await;
                    let Some(cluster) = again.upgrade() else {
                        return;
                    };
                    // The end of the old one is waited for.
                    let rejoined = tokio::task::spawn_blocking(move || cluster.rejoin()).await;
                    let Ok(Some(mut stage)) = rejoined else {
                        break;
                    };
                    let is_known = |stage: &Stage| !matches!(stage, Stage::Joining(_));
                    let stage = stage.wait_for(is_known).await.map(|stage| stage.clone());
                    if !matches!(stage, Ok(Stage::Failed(_))) {
                        break;
                    }
                    // Its clock was off, or its name still in use: either may pass.
                    pause = REFUSED;
                }
            }
        });
        Ok(cluster)
    }

    fn start(&self) -> Result<(), ConfigError> {
        let options = membership_options(&self.node_id, &self.options, &self.log)?;
        let events: Arc<dyn Events> = self.told.clone();
        let membership = Membership::start(options, self.links.clone(), self.place.clone(), events)
            .map_err(|e| ConfigError::Cluster(e.to_string()))?;
        membership.ready();
        *self.membership.lock() = Some(membership);
        Ok(())
    }

    /// Begins a new life; how far it is. `None`: there is none, or it is tried again by itself.
    fn rejoin(&self) -> Option<watch::Receiver<Stage>> {
        if self.is_leaving.load(Ordering::Acquire) {
            return None;
        }
        let old = self.membership.lock().take();
        drop(old);
        if let Err(error) = self.start() {
            let fields = [("reason", error.to_string())];
            self.log.log(Level::Error, "cluster not joined", &fields);
            // Tried again.
            let _ = self.told.out.send(());
            return None;
        }
        self.membership.lock().as_ref().map(Membership::stage)
    }

    fn stage(&self) -> Option<Stage> {
        let membership = self.membership.lock();
        membership.as_ref().map(|m| m.stage().borrow().clone())
    }

    /// Begins to give all shards away, for good. Who ends the node has waited for the others to have
    /// them: waiting here again would hold back the ends of its streams.
    pub fn end(&self) {
        self.is_leaving.store(true, Ordering::Release);
        self.begin_drain();
    }

    /// Begins to give all shards away; nobody binds here any more.
    pub fn begin_drain(&self) {
        self.mesh.close_doors();
        if let Some(membership) = &*self.membership.lock() {
            membership.drain();
        }
    }

    /// Takes back [`Cluster::begin_drain`]. Whether it could: not once this node ends.
    pub fn cancel_drain(&self) -> bool {
        if self.is_leaving.load(Ordering::Acquire) {
            return false;
        }
        if let Some(membership) = &*self.membership.lock() {
            membership.stay();
        }
        self.mesh.open_doors();
        true
    }

    /// Has the planner plan anew, where this node plans: what there is to move. Blocks for a moment.
    pub fn outlook(&self) -> Option<Outlook> {
        self.membership.lock().as_ref()?.outlook()
    }

    /// Waits for what ended sessions left for their homes, then leaves. Blocks.
    pub fn leave(&self) {
        self.is_leaving.store(true, Ordering::Release);
        let deadline = Instant::now() + LEAVE;
        while self.mesh.readings().sent > 0 && Instant::now() < deadline {
            std::thread::sleep(PAUSE);
        }
        let membership = self.membership.lock().take();
        if let Some(membership) = &membership {
            membership.leave();
            let stage = membership.stage();
            while matches!(&*stage.borrow(), Stage::In(_)) && Instant::now() < deadline {
                std::thread::sleep(PAUSE);
            }
        }
        drop(membership);
        self.links.close();
    }

    /// Reads all certificates anew.
    ///
    /// # Errors
    /// [`ConfigError::Cluster`] names the file; the old ones stay in force.
    pub fn reload(&self) -> Result<(), ConfigError> {
        let wrong = |e: String| ConfigError::Cluster(e);
        self.links
            .reload()
            .map_err(|e| wrong(format!("cluster.tls: {e}")))?;
        match &*self.membership.lock() {
            Some(membership) => membership.reload().map_err(|e| wrong(e.to_string())),
            None => Ok(()),
        }
    }

    /// The name of the node that is home to an address.
    pub fn home(&self, jid: &antiphon_xmpp::Jid) -> Option<String> {
        let map = self.mesh.map()?;
        let owner = map.owner(shard_of(jid.bare_str()))?;
        map.node(owner).map(|node| node.id().to_string())
    }

    /// All that is known, as a document for people and metrics.
    pub fn status(&self, sessions: usize) -> Value {
        let membership = self.membership.lock();
        let status = membership.as_ref().map(Membership::status);
        drop(membership);
        let status = status.unwrap_or_default();
        let readings = self.mesh.readings();
        let (coming, going) = self.mesh.moving();
        let map = self.mesh.map();
        let name = |life: Incarnation| {
            let node = map.as_ref().and_then(|map| map.node(life));
            let member = status.members.iter().find(|m| m.incarnation == life);
            let id = node.map(|n| n.id().to_string());
            id.or_else(|| member.map(|m| m.id.to_string()))
        };
        let by_node: serde_json::Map<String, Value> = map
            .iter()
            .flat_map(|map| map.nodes().iter().map(|n| (n, map.count(n.incarnation()))))
            .map(|(node, count)| (node.id().to_string(), json!(count)))
            .collect();
        let [released, clean, unclean, dropped] = readings.moves;
        json!({
            "node": self.node_id.to_string(),
            "incarnation": status.me.0,
            "stage": stage_name(self.stage()),
            "leader": status.leader.and_then(name),
            // Of this map, whose shares follow: another may come into force meanwhile.
            "epoch": map.as_ref().map_or(0, |map| map.epoch().0),
            "is_frozen": status.is_frozen,
            "lease_left_ms": status.lease_left_ms,
            "links_up": status.links_up,
            "members": members(&status),
            "shards": {
                "all": SHARDS,
                "served": readings.served,
                "coming": coming,
                "going": going,
                "by_node": by_node,
            },
            "sessions": sessions,
            "proxies": readings.proxies,
            "peers": self.peers(),
            "handovers": {
                "released": released,
                "taken_clean": clean,
                "taken_unclean": unclean,
                "dropped": dropped,
            },
            "tunnels": self.links.tunnels(),
            "refused_frames": readings.refused + self.links.refused(),
            "deduplicated": readings.known,
            "etcd": {
                "endpoint": self.options.etcd.endpoints.join(","),
                "calls": status.etcd.calls,
                "writes": status.etcd.writes,
                "failures": status.etcd.failures,
                "last_contact_ms": status.etcd.contact_age_ms,
            },
        })
    }

    fn peers(&self) -> Vec<Value> {
        let counts = |c: antiphon_cluster::relay::RelayCounts| {
            json!({
                "frames": c.frames,
                "stanzas": c.stanzas,
                "bytes": c.bytes,
                "again": c.again,
            })
        };
        let stats = self.links.stats();
        let peers = stats.iter().map(|s| {
            json!({
                "node": s.node.to_string(),
                "incarnation": s.incarnation.0,
                "class": match s.class { Class::Stanza => "stanza", Class::Bulk => "bulk" },
                "is_up": s.is_up,
                "via": s.via.as_ref().map(ToString::to_string),
                "is_heard": s.is_heard,
                "connects": s.connects,
                "resets": s.resets,
                "queued_bytes": s.queued_bytes,
                "pending": s.pending,
                "sent": counts(s.sent),
                "received": counts(s.received),
            })
        });
        peers.collect()
    }
}

fn stage_name(stage: Option<Stage>) -> String {
    match stage {
        Some(Stage::Joining(Some(why))) => format!("joining: {why}"),
        Some(Stage::Joining(None)) => "joining".into(),
        Some(Stage::In(_)) => "in".into(),
        Some(Stage::Failed(why)) => format!("failed: {why}"),
        Some(Stage::Out(why)) => format!("out: {why:?}"),
        None => "out".into(),
    }
}

fn members(status: &Status) -> Vec<Value> {
    let one = |m: &antiphon_cluster::member::Member| {
        json!({
            "id": m.id.to_string(),
            "incarnation": m.incarnation.0,
            "zone": m.zone.as_ref().map(ToString::to_string),
            "version": m.version,
            "state": m.state,
            "relay": m.relay,
            "control": m.control,
        })
    };
    status.members.iter().map(one).collect()
}

fn link_options(node_id: &NodeId, options: &Options, log: &Arc<dyn Log>) -> LinkOptions {
    link::Options {
        cluster: options.name.clone(),
        node: node_id.clone(),
        version: options.version.clone(),
        tls: Files {
            ca: Some(options.tls.ca.clone()),
            certificate: Some(options.tls.certificate.clone()),
            key: Some(options.tls.key.clone()),
        },
        queue_bytes_max: QUEUE_BYTES,
        window_bytes: WINDOW_BYTES,
        tunnels_max: link::TUNNELS_MAX,
        timing: Timing::default(),
        protocol: PROTOCOL,
        wall_ms,
        log: Arc::clone(log),
    }
}

fn membership_options(
    node_id: &NodeId,
    options: &Options,
    log: &Arc<dyn Log>,
) -> Result<MembershipOptions, ConfigError> {
    let zone = options.zone.as_deref().map(Zone::new).transpose();
    let zone = zone.map_err(|e| ConfigError::Cluster(format!("node.zone: {e}")))?;
    let config = Config {
        id: node_id.clone(),
        zone,
        version: options.version.clone(),
        relay: options.relay.clone(),
        control: options.control.clone(),
        timing: Timing::default(),
        policy: Policy::default(),
        etcd_loss: match options.etcd_loss {
            EtcdLoss::Freeze => Loss::Freeze,
            EtcdLoss::Fence => Loss::Fence,
        },
        shards: SHARDS,
    };
    Ok(MembershipOptions {
        config,
        etcd: etcd::Options {
            endpoints: options.etcd.endpoints.clone(),
            tls: Files {
                ca: options.etcd.ca.clone(),
                certificate: options.etcd.certificate.clone(),
                key: options.etcd.key.clone(),
            },
            user: options.etcd.user.clone(),
            password: options.etcd.password.clone(),
            ..etcd::Options::default()
        },
        prefix: options.etcd.prefix.clone(),
        log: Arc::clone(log),
    })
}
