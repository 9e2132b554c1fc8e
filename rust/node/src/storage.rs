//! The storage engine that the configuration names.

use crate::bridge::Bridge;
use crate::config::{Backend, Cassandra as Options, NodeConfig};
use crate::live::ConfigError;
use crate::node::{ERROR, INFO};
use crate::saving::UNSAVED_BYTES;
use antiphon_routing::store::Store;
use antiphon_store::cassandra::{CassandraEvent, CassandraTls, Watcher};
use antiphon_store::sqlite::Retention;
use antiphon_store::{Cassandra, CassandraConfig, Sqlite, SqliteConfig};
use std::sync::Arc;
use std::time::Duration;

/// Writes that an engine lets wait: more than [`UNSAVED_BYTES`] of small ones, so that
/// clients are slowed down before anything is refused.
const QUEUE_WRITES: usize = 512 * 1024;
/// Their bytes: what is read already when no more is read comes on top.
const QUEUE_BYTES: usize = UNSAVED_BYTES + 128 * 1024 * 1024;

/// What is read of an engine when metrics are asked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct StoreReadings {
    /// Writes that wait.
    pub queued: u64,
    /// How long the oldest text waits to be found, seconds.
    pub search_lag: f64,
}

/// An engine.
pub(crate) struct Opened {
    pub store: Arc<dyn Store>,
    /// The engine, where others write to the same servers: it is to be told what is whose.
    pub shared: Option<Arc<Cassandra>>,
    pub readings: Box<dyn Fn() -> StoreReadings + Send + Sync>,
}

/// Opens it; blocks until it is ready.
///
/// # Errors
/// [`ConfigError`]
pub(crate) fn open(config: &NodeConfig, bridge: &Arc<Bridge>) -> Result<Opened, ConfigError> {
    match config.storage.backend {
        Backend::Sqlite => {
            let store = Arc::new(Sqlite::open(sqlite(config))?);
            let read = Arc::clone(&store);
            let readings = move || {
                let stats = read.stats();
                StoreReadings {
                    queued: stats.queued,
                    search_lag: stats.search_lag_us as f64 / 1e6,
                }
            };
            Ok(Opened {
                store,
                shared: None,
                readings: Box::new(readings),
            })
        }
        Backend::Cassandra => {
            let options = config
                .storage
                .cassandra
                .as_ref()
                .ok_or_else(|| ConfigError::Document("storage.cassandra is missing".into()))?;
            let store = Arc::new(Cassandra::open(cassandra(config, options, bridge))?);
            let read = Arc::clone(&store);
            let readings = move || StoreReadings {
                queued: read.stats().queued,
                // A search reads what its index does not have yet: every text is found at once.
                search_lag: 0.0,
            };
            Ok(Opened {
                shared: Some(Arc::clone(&store)),
                store,
                readings: Box::new(readings),
            })
        }
    }
}

fn sqlite(config: &NodeConfig) -> SqliteConfig {
    let archive = &config.archive;
    SqliteConfig {
        queue: QUEUE_WRITES,
        queue_bytes: QUEUE_BYTES,
        retention: Retention {
            days: Some(archive.retention_days).filter(|days| *days > 0),
            messages: Some(archive.messages_per_account).filter(|most| *most > 0),
            bin_days: Some(archive.bin_days).filter(|days| *days > 0),
        },
        ..SqliteConfig::new(&config.data_dir)
    }
}

fn cassandra(config: &NodeConfig, options: &Options, bridge: &Arc<Bridge>) -> CassandraConfig {
    let days = u64::from(config.archive.retention_days);
    let tls = options.ca.clone().map(|ca| CassandraTls {
        ca,
        identity: options.certificate.clone().zip(options.key.clone()),
    });
    CassandraConfig {
        queue: QUEUE_WRITES,
        queue_bytes: QUEUE_BYTES,
        local_datacenter: options.local_datacenter.clone(),
        login: options.user.clone().zip(options.password.clone()),
        tls,
        request_timeout: Duration::from_millis(options.request_timeout_ms),
        connect_wait: Duration::from_secs(options.connect_seconds),
        read_wait: Duration::from_secs(options.read_seconds),
        write_wait: Duration::from_secs(options.write_seconds),
        retention: (days > 0).then(|| Duration::from_secs(days * 24 * 3600)),
        most_messages: Some(config.archive.messages_per_account).filter(|most| *most > 0),
        watcher: watcher(Arc::clone(bridge)),
        ..CassandraConfig::new(options.contact_points.clone(), &options.keyspace)
    }
}

/// An outage is one record when it begins and one when it ends.
fn watcher(bridge: Arc<Bridge>) -> Watcher {
    const REMEDY: &str = "check that Cassandra runs and can be reached; writes wait, and go on by \
                          themselves";
    Arc::new(move |event| match event {
        CassandraEvent::Down { reason } => {
            let fields = vec![("reason", reason), ("remedy", REMEDY.to_owned())];
            bridge.log(ERROR, "cassandra does not answer", fields);
        }
        CassandraEvent::Stuck { reason } => {
            let remedy = "check that enough replicas of every partition are up (nodetool status)";
            let fields = vec![("reason", reason), ("remedy", remedy.to_owned())];
            bridge.log(ERROR, "cassandra answers only some requests", fields);
        }
        CassandraEvent::Up { after } => {
            let seconds = format!("{:.1}", after.as_secs_f64());
            bridge.log(INFO, "cassandra answers again", vec![("after_s", seconds)]);
        }
    })
}
