//! The user entity, seen from outside: stanzas and calls in, effects out.

mod blocking;
mod calls;
mod carbons;
mod delivery;
mod offline;
mod presence;
mod properties;
mod roster;
mod subscriptions;
mod support;
