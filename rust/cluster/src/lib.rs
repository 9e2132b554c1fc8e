//! Who owns which shard. A node alone owns them all.

pub mod clock;
mod dial;
pub mod etcd;
pub mod link;
pub mod local;
pub mod log;
pub mod member;
pub mod tls;
mod wire;

pub use local::Local;
