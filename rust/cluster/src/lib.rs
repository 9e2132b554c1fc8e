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
//! **Joining.** [`membership`] looks around before its agent begins, and again before it takes
//! shards: a node that its peers do not trust (or that does not trust them), or whose cluster,
//! version or clock is another, fails with one line that says what to do, and those who refuse it
//! log it, too. One that reaches none of the members in etcd waits until their leases have ended.
//!
//! **A death** is found by most of the view, without its lease: whoever was heard before, is heard
//! by nobody for [`id::Timing::fresh_ms`], and whose port has refused for
//! [`id::Timing::refused_ms`], has its lease revoked, and the next map leaves it out: 0.7 to 0.9 s
//! after kill -9 of one of three nodes on a machine with two busy processors. A machine that is
//! gone refuses nothing: then it is the end of the lease.
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
//! **Waiting at the sender.** Instead of parking a stanza a receiver can send it back as
//! [`relay::Outcome::NotYet`]: its sender keeps the lane closed ([`router::Router::not_yet`]) and
//! goes on, in order, when the receiver says that it serves the shard ([`router::Router::ready`])
//! or the next map names another home. So what waits for a shard is bounded where it comes from.
//! The receiver sends back whatever follows in that lane until it has said so, and says it again to
//! who does not send: the word may be lost. The node does this; the simulation parks.
//!
//! **What an entity sent on** goes with its shard: a home that gives one up waits until nothing of
//! it is with another home ([`router::Router::is_flying_from`]) and hands over what no home has
//! ([`router::Router::take_held`]), in order.
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
