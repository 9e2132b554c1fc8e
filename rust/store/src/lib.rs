//! Storage engines behind the trait [`antiphon_routing::store::Store`].
//!
//! An engine accepts writes into a bounded queue, commits them in groups and answers reads from
//! what is committed; it never blocks its caller. [`sqlite`] is the embedded one.

pub mod sqlite;

pub use sqlite::{OpenError, Sqlite, SqliteConfig};
