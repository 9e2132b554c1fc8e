//! Storage engines behind the trait [`antiphon_routing::store::Store`].
//!
//! An engine accepts writes into a bounded queue, commits them in groups and answers reads from
//! what is committed; it never blocks its caller. [`sqlite`] is the embedded one, [`cassandra`] the
//! one for clusters.

pub mod cassandra;
pub mod sqlite;
mod stanza;

pub use cassandra::{Cassandra, CassandraConfig};
pub use sqlite::{OpenError, Sqlite, SqliteConfig};
