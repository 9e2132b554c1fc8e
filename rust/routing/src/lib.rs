//! Entities and the rules of routing, without I/O.
//!
//! An *entity* is all that concerns one bare JID, handled one stanza after another under one lock.
//! A transition is synchronous: it changes the entity and appends its [`Effects`], which the node
//! carries out. This crate also defines the traits that the storage engines and the cluster
//! implement.

pub mod archive;
pub mod effect;
pub mod home;
pub mod matching;
pub mod session;
pub mod shaper;
pub mod store;
pub mod user;

pub use effect::{Effects, Local};
pub use session::SessionId;
