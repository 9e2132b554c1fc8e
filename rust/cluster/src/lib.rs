//! Who owns which shard. A node alone owns them all.

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
pub mod talk;
pub mod tls;
mod wire;

pub use local::Local;

/// How far above its own clock and everything it has read the ids of an owner begin that took up
/// what was not released, ms: a former owner whose clock is [`id::SKEW_MAX_MS`] ahead, and who
/// accepted on the word of a keepalive as old, gave no higher ones.
pub const HEAD_START_MS: u64 = 2 * id::SKEW_MAX_MS;
