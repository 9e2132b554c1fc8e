//! The storage engine that the configuration names.

use crate::bridge::Bridge;
use crate::config::{Backend, Cassandra as Options, NodeConfig};
use crate::live::ConfigError;
use crate::node::{ERROR, INFO};
use antiphon_routing::store::Store;
use antiphon_store::cassandra::{CassandraEvent, CassandraTls, Watcher};
use antiphon_store::{Cassandra, CassandraConfig, Sqlite, SqliteConfig};
use std::sync::Arc;
use std::time::Duration;

/// Opens it; blocks until it is ready.
///
/// # Errors
/// [`ConfigError`]
pub(crate) fn open(
    config: &NodeConfig,
    bridge: &Arc<Bridge>,
) -> Result<Arc<dyn Store>, ConfigError> {
    match config.storage.backend {
        Backend::Sqlite => {
            let store = Sqlite::open(SqliteConfig::new(&config.data_dir))?;
            Ok(Arc::new(store))
        }
        Backend::Cassandra => {
            let options = config
                .storage
                .cassandra
                .as_ref()
                .ok_or_else(|| ConfigError::Document("storage.cassandra is missing".into()))?;
            let store = Cassandra::open(cassandra(options, bridge))?;
            Ok(Arc::new(store))
        }
    }
}

fn cassandra(options: &Options, bridge: &Arc<Bridge>) -> CassandraConfig {
    let tls = options.ca.clone().map(|ca| CassandraTls {
        ca,
        identity: options.certificate.clone().zip(options.key.clone()),
    });
    CassandraConfig {
        local_datacenter: options.local_datacenter.clone(),
        login: options.user.clone().zip(options.password.clone()),
        tls,
        request_timeout: Duration::from_millis(options.request_timeout_ms),
        connect_wait: Duration::from_secs(options.connect_seconds),
        read_wait: Duration::from_secs(options.read_seconds),
        write_wait: Duration::from_secs(options.write_seconds),
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
