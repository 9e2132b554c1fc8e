//! This node in the cluster: what of [`crate::agent`] needs etcd, links and the time.
//!
//! The agent decides; here its calls are sent to etcd and its notes over the links, on a thread of
//! their own with their own runtime, so that neither a busy runtime of the node nor the planner's
//! work delays a keepalive. What the message path needs is in [`Place`], read without a lock: the
//! home of a shard ([`antiphon_routing::home::Locator`]), and whether this process may still
//! acknowledge.
//!
//! The node's part: make [`Links`] and let them listen, [`Membership::start`], feed every map that
//! [`Events::map`] gives to its holdings and router, say [`Membership::ready`] when it can serve.
//! SIGTERM is [`Membership::drain`], then [`Membership::leave`] when its holdings are empty. After
//! [`Events::out`] this life is over; a new one begins with another `start` over the same links,
//! once this one was dropped.

mod calls;
mod driver;
mod preflight;
mod view;

use crate::agent::{Config, Outlook};
use crate::etcd::{Client, EtcdError, Figures};
use crate::id::{Epoch, Incarnation, Shard};
use crate::link::Links;
use crate::log::Log;
use crate::map::ShardMap;
use crate::member::Member;
use crate::talk::OutReason;
use parking_lot::Mutex;
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::sync::{mpsc, watch};

pub use preflight::JoinError;
pub use view::{Place, View, now};

/// What a membership needs to know.
pub struct Options {
    /// The node.
    pub config: Config,
    /// etcd. Its times for calls and connections are set here, from `config.timing`.
    pub etcd: crate::etcd::Options,
    /// Where the cluster's keys are (`cluster.etcd.prefix`).
    pub prefix: String,
    /// Events for the operator.
    pub log: Arc<dyn Log>,
}

/// The node, as the membership sees it. Called on the cluster's thread; must not block.
pub trait Events: Send + Sync + 'static {
    /// This life begins.
    fn joined(&self, me: Incarnation);

    /// This map is in force; [`Place`] shows it already.
    fn map(&self, map: &Arc<ShardMap>);

    /// This life is over: drop everything, close every stream, acknowledge nothing. [`Place`] says
    /// so already.
    fn out(&self, reason: OutReason);

    /// [`crate::holdings::Holdings::settled`]. Asked every 50 ms.
    fn settled(&self) -> Vec<(Shard, Epoch)>;
}

/// Where this process is in its way through the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// On its way in; with what it waits for, for people.
    Joining(Option<String>),
    /// In, with this life.
    In(Incarnation),
    /// It never came in.
    Failed(JoinError),
    /// It was in, and is not any more.
    Out(OutReason),
}

/// What is known now, for `antiphon cluster status` and the metrics.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// This life; 0: not in.
    pub me: Incarnation,
    /// Who plans.
    pub leader: Option<Incarnation>,
    /// Every member whose record reads.
    pub members: Vec<Member>,
    /// Peers of the view that answer.
    pub links_up: usize,
    /// It goes by the word of the others, without etcd.
    pub is_frozen: bool,
    /// Milliseconds of the lease that are left.
    pub lease_left_ms: u64,
    /// The client of etcd.
    pub etcd: Figures,
}

enum Command {
    Ready,
    Drain,
    Stay,
    Look(std::sync::mpsc::Sender<Option<Outlook>>),
    Leave,
    Stop,
}

/// A running membership. Dropping it stops the thread without a word to anybody (for that there is
/// [`Membership::leave`]) and waits for its end, two seconds at most: not on a runtime's thread.
pub struct Membership {
    commands: mpsc::UnboundedSender<Command>,
    stage: watch::Receiver<Stage>,
    status: Arc<Mutex<Status>>,
    client: Client,
    thread: Option<JoinHandle<()>>,
}

impl Membership {
    /// Starts joining. `place` is what the message path looks at; `links` must listen already.
    ///
    /// # Errors
    /// [`JoinError::Etcd`] where the configuration cannot be used.
    pub fn start(
        mut options: Options,
        links: Links,
        place: Place,
        events: Arc<dyn Events>,
    ) -> Result<Self, JoinError> {
        let timing = options.config.timing;
        if let Err(error) = timing.check() {
            return Err(EtcdError::Config(error.to_string()).into());
        }
        // Two endpoints can be asked within one call of the agent.
        let half = std::time::Duration::from_millis(timing.call_ms / 2);
        (options.etcd.call_timeout, options.etcd.connect_timeout) = (half, half / 2);
        let client = Client::new(options.etcd.clone())?;
        let (tell, stage) = watch::channel(Stage::Joining(None));
        let (commands, orders) = mpsc::unbounded_channel();
        let status = Arc::new(Mutex::new(Status::default()));
        let parts = driver::Parts {
            options,
            client: client.clone(),
            links,
            place,
            events,
            stage: tell,
            status: Arc::clone(&status),
        };
        let thread = std::thread::Builder::new()
            .name("cluster".to_owned())
            .spawn(move || driver::run(parts, orders))
            .map_err(|e| EtcdError::Config(format!("no thread for the cluster: {e}")))?;
        Ok(Self {
            commands,
            stage,
            status,
            client,
            thread: Some(thread),
        })
    }

    /// Where it is; changes wake who waits.
    #[must_use]
    pub fn stage(&self) -> watch::Receiver<Stage> {
        self.stage.clone()
    }

    /// Waits until it is in.
    ///
    /// # Errors
    /// Why it will not be.
    pub async fn joined(&self) -> Result<Incarnation, JoinError> {
        let mut stage = self.stage.clone();
        loop {
            match &*stage.borrow_and_update() {
                Stage::In(me) => return Ok(*me),
                Stage::Failed(error) => return Err(error.clone()),
                Stage::Out(_) => return Err(JoinError::Stopped),
                Stage::Joining(_) => {}
            }
            if stage.changed().await.is_err() {
                return Err(JoinError::Stopped);
            }
        }
    }

    /// The node is ready for its share of shards.
    pub fn ready(&self) {
        // Nobody listens after the end.
        let _ = self.commands.send(Command::Ready);
    }

    /// It shall give its shards away; the maps tell how far that is.
    pub fn drain(&self) {
        let _ = self.commands.send(Command::Drain);
    }

    /// It shall keep them after all, and gets its share again.
    pub fn stay(&self) {
        let _ = self.commands.send(Command::Stay);
    }

    /// Has the planner plan anew; what there is to do. `None`: this node does not plan, or does not
    /// answer for a second. Blocks.
    #[must_use]
    pub fn outlook(&self) -> Option<Outlook> {
        let (tell, told) = std::sync::mpsc::channel();
        let _ = self.commands.send(Command::Look(tell));
        told.recv_timeout(std::time::Duration::from_secs(1)).ok()?
    }

    /// It holds none any more, or shall wait no longer: its lease is given back.
    pub fn leave(&self) {
        let _ = self.commands.send(Command::Leave);
    }

    /// Reads the certificates for etcd anew (those of links: [`Links::reload`]).
    ///
    /// # Errors
    /// [`EtcdError::Config`] names the file; then the old ones stay in force.
    pub fn reload(&self) -> Result<(), EtcdError> {
        self.client.reload()
    }

    /// What is known now.
    #[must_use]
    pub fn status(&self) -> Status {
        self.status.lock().clone()
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::Stop);
        if let Some(thread) = self.thread.take() {
            // It ends within the deadline of a call.
            let _ = thread.join();
        }
    }
}
