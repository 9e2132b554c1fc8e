//! Who owns which shard. A node alone owns them all.

pub mod local;

pub use local::Local;
