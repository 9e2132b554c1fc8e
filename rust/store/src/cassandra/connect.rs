//! The way to the servers: addresses, login, TLS, policies.

use super::error::{OpenError, one_line};
use super::health::Health;
use super::schema;
use super::servers::Servers;
use super::statements::Statements;
use super::{CassandraConfig, CassandraTls};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use scylla::client::PoolSize;
use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::{Session, TlsContext};
use scylla::client::session_builder::SessionBuilder;
use scylla::errors::{ConnectionPoolError, MetadataError, NewSessionError};
use scylla::policies::load_balancing::DefaultPolicy;
use scylla::policies::retry::DefaultRetryPolicy;
use scylla::policies::speculative_execution::SimpleSpeculativeExecutionPolicy;
use scylla::statement::{Consistency, SerialConsistency};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How long a node may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// An idempotent request that took this long is given to another replica too: a frozen coordinator
/// would hold it until its time-out.
const SPECULATE: Duration = Duration::from_millis(150);

/// A connection without traffic is tried this often, and given up as much later.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// Port of a contact point that names none.
const PORT: u16 = 9042;

/// Connects, looks at the schema and prepares all statements.
///
/// # Errors
/// [`OpenError`]
pub(super) async fn connect(config: &CassandraConfig) -> Result<Servers, OpenError> {
    let session = session(config).await?;
    check_datacenter(config, &session)?;
    schema::check(&session, &config.keyspace).await?;
    session
        .use_keyspace(&config.keyspace, true)
        .await
        .map_err(OpenError::request)?;
    let statements = Statements::prepare(&session).await?;
    let health = Health::new(Arc::clone(&config.watcher));
    Ok(Servers::new(session, statements, health, config.in_flight))
}

async fn session(config: &CassandraConfig) -> Result<Session, OpenError> {
    check_keyspace(&config.keyspace)?;
    let points = points(&config.contact_points)?;
    let tls = config.tls.as_ref().map(tls_context).transpose()?;
    let mut builder = SessionBuilder::new()
        .known_nodes(&points)
        .default_execution_profile_handle(profile(config).into_handle())
        .pool_size(PoolSize::PerHost(
            NonZeroUsize::new(config.connections_per_node).unwrap_or(NonZeroUsize::MIN),
        ))
        .connection_timeout(CONNECT)
        .keepalive_interval(KEEPALIVE)
        .keepalive_timeout(KEEPALIVE)
        .tcp_nodelay(true)
        // Replicas by token come from the ring and the keyspaces; tables are not needed.
        .fetch_schema_metadata(true)
        .keyspaces_to_fetch([config.keyspace.as_str()])
        .disallow_shard_aware_port(true)
        .tls_context(tls);
    if let Some((user, password)) = &config.login {
        builder = builder.user(user, password);
    }
    let connected = tokio::time::timeout(config.connect_wait, builder.build()).await;
    match connected {
        Ok(Ok(session)) => Ok(session),
        Ok(Err(error)) => Err(refusal(config, &error)),
        Err(_) => Err(OpenError::Unreachable {
            points: config.contact_points.join(", "),
            reason: format!("no answer within {} s", config.connect_wait.as_secs()),
        }),
    }
}

fn profile(config: &CassandraConfig) -> ExecutionProfile {
    let mut policy = DefaultPolicy::builder().token_aware(true);
    if let Some(name) = &config.local_datacenter {
        policy = policy.prefer_datacenter(name.clone());
    }
    let speculation = SimpleSpeculativeExecutionPolicy {
        max_retry_count: 1,
        retry_interval: SPECULATE,
    };
    ExecutionProfile::builder()
        .consistency(Consistency::LocalQuorum)
        .serial_consistency(Some(SerialConsistency::LocalSerial))
        .request_timeout(Some(config.request_timeout))
        .load_balancing_policy(policy.build())
        .retry_policy(Arc::new(DefaultRetryPolicy::new()))
        .speculative_execution_policy(Some(Arc::new(speculation)))
        .build()
}

/// Contact points with a port each.
fn points(configured: &[String]) -> Result<Vec<String>, OpenError> {
    let wrong = |reason: String| OpenError::Config {
        key: "contact_points",
        reason,
    };
    if configured.is_empty() {
        return Err(wrong("names no server".into()));
    }
    let with_port = |point: &String| {
        let (host, port) = match point.rsplit_once(':') {
            // An IPv6 address in brackets, or a name, with a port.
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, port),
            // An IPv6 address alone.
            Some(_) => return Ok(format!("[{point}]:{PORT}")),
            None => return Ok(format!("{point}:{PORT}")),
        };
        match port.parse::<u16>() {
            Ok(1..) if !host.is_empty() => Ok(point.clone()),
            _ => Err(wrong(format!("{point:?} is not host:port"))),
        }
    };
    configured.iter().map(with_port).collect()
}

/// A name that needs no care in any statement; Cassandra allows no others (at most 48 bytes).
fn check_keyspace(name: &str) -> Result<(), OpenError> {
    let is_fine = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if (1..=48).contains(&name.len()) && name.chars().all(is_fine) {
        return Ok(());
    }
    Err(OpenError::Config {
        key: "keyspace",
        reason: format!("{name:?} is not a name of at most 48 letters, digits and _"),
    })
}

fn check_datacenter(config: &CassandraConfig, session: &Session) -> Result<(), OpenError> {
    let Some(name) = &config.local_datacenter else {
        return Ok(());
    };
    let state = session.get_cluster_state();
    let mut found: Vec<&str> = state
        .get_nodes_info()
        .iter()
        .filter_map(|node| node.datacenter.as_deref())
        .collect();
    if found.contains(&name.as_str()) {
        return Ok(());
    }
    found.sort_unstable();
    found.dedup();
    Err(OpenError::Datacenter {
        name: name.clone(),
        found: found.join(", "),
    })
}

/// Why there is no session.
fn refusal(config: &CassandraConfig, error: &NewSessionError) -> OpenError {
    let points = config.contact_points.join(", ");
    let reason = match error {
        NewSessionError::MetadataError(MetadataError::ConnectionPoolError(
            ConnectionPoolError::Broken {
                last_connection_error,
            },
        )) => one_line(last_connection_error),
        other => one_line(other),
    };
    let is_login = ["uthentication", "credentials", "Bad credentials"]
        .iter()
        .any(|word| reason.contains(word));
    if is_login {
        OpenError::Login { points, reason }
    } else {
        OpenError::Unreachable { points, reason }
    }
}

/// TLS as configured: the server's certificate must come from `ca` and name the address that we
/// connect to.
fn tls_context(tls: &CassandraTls) -> Result<TlsContext, OpenError> {
    let at = |key: &'static str, path: &Path, reason: String| OpenError::File {
        key,
        path: path.to_owned(),
        reason,
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates("ca", &tls.ca)? {
        roots
            .add(certificate)
            .map_err(|error| at("ca", &tls.ca, error.to_string()))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| at("ca", &tls.ca, error.to_string()))?
        .with_root_certificates(roots);
    let config = match &tls.identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = certificates("certificate", certificate)?;
            let private = PrivateKeyDer::from_pem_file(key)
                .map_err(|error| at("key", key, error.to_string()))?;
            builder
                .with_client_auth_cert(chain, private)
                .map_err(|error| at("certificate", certificate, error.to_string()))?
        }
    };
    Ok(TlsContext::Rustls023(Arc::new(config)))
}

fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, OpenError> {
    let at = |reason: String| OpenError::File {
        key,
        path: path.to_owned(),
        reason,
    };
    let found = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| at(error.to_string()))?;
    if found.is_empty() {
        return Err(at("no certificate in it".into()));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail")]
    use super::*;

    #[test]
    fn a_contact_point_without_a_port_gets_one() {
        let given = [
            "db",
            "db:9142",
            "10.0.0.1",
            "::1",
            "[::1]:9142",
            "10.0.0.1:1",
        ];
        let expected = [
            "db:9042",
            "db:9142",
            "10.0.0.1:9042",
            "[::1]:9042",
            "[::1]:9142",
            "10.0.0.1:1",
        ];
        assert_eq!(points(&given.map(str::to_owned)).unwrap(), expected);
        for wrong in ["db:", "db:0", ":9042", "db:70000", "db:x"] {
            assert!(points(&[wrong.to_owned()]).is_err(), "{wrong}");
        }
        assert!(points(&[]).is_err());
    }

    #[test]
    fn a_keyspace_is_a_plain_name() {
        check_keyspace("antiphon_2").unwrap();
        for wrong in ["", "a b", "a\"b", "ä", &"a".repeat(49)] {
            assert!(check_keyspace(wrong).is_err(), "{wrong}");
        }
    }
}
