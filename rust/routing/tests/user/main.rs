//! The user entity, seen from outside: stanzas and calls in, effects out.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that panics has failed"
)]

mod archive;
mod blocking;
mod calls;
mod carbons;
mod delivery;
mod moving;
mod offline;
mod presence;
mod properties;
mod roster;
mod subscriptions;
mod support;
