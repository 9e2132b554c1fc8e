//! Who owns which shard, and how nodes agree on it. A node alone owns them all ([`Local`]).
//!
//! Two halves. The pure one decides and has no socket, clock or thread: time and messages come in,
//! what is to be done comes out. The other carries it out: [`etcd`], [`link`], [`membership`].
//!
//! | pure | what it decides |
//! | --- | --- |
//! | [`id`], [`member`], [`map`], [`codec`] | names and times; what stands in etcd; garbage is an error and leads to no decision |
//! | [`planner`] | who shall own what, and the next step there |
//! | [`fence`] | whether this process may still accept and acknowledge: [`fence::Standing`], `Copy`, for every thread |
//! | [`agent`] | joining, lease, view, freeze or end, the planner's work; says what to call and tell ([`talk`]) |
//! | [`holdings`], [`parking`] | how shards come and go; what becomes of each stanza |
//! | [`rebuild`] | the session registry of a shard that comes; what only its shadow knows |
//! | [`router`] | the way of a stanza to its home, in order, until it is called done |
//! | [`relay`] | one stream: numbers, room, words, sending again |
//! | `sim` | all of it together under faults (feature `simulation`, and in tests) |
//!
//! # How a node uses it
//!
//! **etcd.** The driver calls [`agent::Agent::step`] with ticks (50 ms), answers and changes, and
//! carries out [`agent::Output::Call`]: each [`talk::Call`] is one request or transaction, with the
//! deadline [`id::Timing::call_ms`]. After each step it publishes [`agent::Agent::standing`].
//!
//! **Maps.** [`agent::Output::Map`] goes to [`holdings::Holdings::apply`], then to
//! [`router::Router::mapped`]; the [`holdings::Effect`]s of a step are carried out, all of them,
//! before anything parked is judged again.
//!
//! **A stanza.** Its socket's node routes it ([`router::Router::route`]) and writes the
//! [`router::Send`] to the stream of class [`relay::Class::Stanza`]. The receiver judges each
//! ([`holdings::Holdings::judge`]): taken (if [`fence::Standing::may_accept`], with the id made from
//! that same time), parked, or sent back. When its write has committed,
//! [`fence::Standing::acknowledge`] says whether `done` may be said, and only then it is delivered
//! or counted offline. What waits is looked at again after each step of the agent. A write knows
//! the `since` of its acceptance: a commit of another time of ownership counts for nothing.
//!
//! **Deliveries** to a session carry the archive id; the node of the socket leaves out what is not
//! above the last one, since two homes may have sent over links of different speed.
//!
//! **Streams** of a peer are forgotten when a map no longer has a life that the map before had;
//! those of one in neither are kept, it is about to join.
//!
//! # The simulation
//!
//! `cargo run --release -p antiphon-cluster --features simulation --example simulate -- --seeds
//! 1000`: each seed is a history of 125 s with kills, stops, cuts, losses of etcd, joins, drains,
//! late writes and garbage. A seed that fails is printed; `--seed N --seeds 1 --trace` shows it,
//! `--bug NAME` plants a mistake of [`planted::Bug`].

pub mod agent;
pub mod clock;
pub mod codec;
mod dial;
pub mod etcd;
pub mod fence;
pub mod holdings;
pub mod id;
pub mod link;
pub mod local;
pub mod log;
pub mod map;
pub mod member;
pub mod membership;
pub mod parking;
pub mod planner;
pub mod planted;
pub mod rebuild;
pub mod relay;
pub mod router;
#[cfg(any(test, feature = "simulation"))]
pub mod sim;
pub mod talk;
pub mod tls;
mod wire;

pub use local::Local;

/// How far above its own clock and everything it has read the ids of an owner begin that took up
/// what was not released, ms: a former owner whose clock is [`id::SKEW_MAX_MS`] ahead, and who
/// accepted on the word of a keepalive as old, gave no higher ones.
pub const HEAD_START_MS: u64 = 2 * id::SKEW_MAX_MS;
