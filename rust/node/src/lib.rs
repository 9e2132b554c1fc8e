//! One node: sockets, entities, store and the queue to Python put together.

pub mod accounts;
pub mod bridge;
mod cached;
pub mod calls;
pub mod caps;
mod cluster;
pub mod config;
pub mod core;
mod entities;
pub mod gateway;
pub mod history;
pub mod live;
pub mod mesh;
pub mod metrics;
pub mod node;
mod offline;
pub mod requests;
pub mod route;
mod saving;
pub mod sessions;
pub mod shard;
mod storage;
mod trim;
pub mod value;
mod witness;

pub use crate::core::Core;
pub use live::ConfigError;
