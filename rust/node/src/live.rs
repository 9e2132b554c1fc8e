//! What a reload replaces: the configuration compiled for use.

use crate::config::{Host, Modules, NodeConfig, or_unlimited};
use antiphon_net::admission::LoginLimits;
use antiphon_net::client::ClientLimits;
use antiphon_net::listener::{ClientConfigs, NetLimits};
use antiphon_net::session::QueueLimits;
use antiphon_net::tls::{CertificateFiles, TlsError, TlsHosts};
use antiphon_routing::matching::{Declaration, MatchTable};
use antiphon_routing::user::{Policy, Switches};
use antiphon_xmpp::Jid;
use antiphon_xmpp::sasl::{Mechanism, ScramHash};
use antiphon_xmpp::stream::c2s::{self, HostConfig};
use antiphon_xmpp::stream::{component, sm};
use antiphon_xmpp::xml::Limits;
use std::num::NonZero;
use std::sync::Arc;
use std::thread::available_parallelism;

/// Seconds a silent client has to answer a ping, at most: no longer than it may be silent.
const PING_TIMEOUT_SECONDS: u64 = 60;
/// Addresses that one session may owe unavailable presence.
const DIRECTED_PRESENCE: usize = 1_000;
/// Stored subscription requests of one account.
const SUBSCRIPTION_REQUESTS: usize = 1_000;
/// Stanzas held back for an inactive client (XEP-0352).
const HELD_STANZAS: usize = 500;

/// Elements in a first-level element before login; a registration form has some ten (XEP-0077).
const ELEMENTS_BEFORE_LOGIN: usize = 256;

/// Bytes read beyond the largest stanza before a client that is held up is no longer read.
const READ_AHEAD: usize = 64 * 1024;

/// A configuration that the node cannot use, as one line for the operator.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The document itself.
    #[error("{0}")]
    Document(String),
    /// A certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The store.
    #[error(transparent)]
    Store(#[from] antiphon_store::OpenError),
    /// The store, where it is a cluster.
    #[error(transparent)]
    Cassandra(#[from] antiphon_store::cassandra::CassandraOpenError),
    /// A socket.
    #[error("cannot listen on {address}: {reason}")]
    Listen {
        /// `ip:port`
        address: std::net::SocketAddr,
        /// Why, and what to do.
        reason: String,
    },
    /// The cluster, and what to do.
    #[error("cluster: {0}")]
    Cluster(String),
    /// The machine.
    #[error("cannot start: {0}")]
    System(#[from] std::io::Error),
}

/// The configuration in use.
#[derive(Debug)]
pub struct Live {
    /// As handed over.
    pub config: NodeConfig,
    /// For entities.
    pub policy: Policy,
    /// What Python wants.
    pub matches: MatchTable,
    /// Bounds of a session's queues.
    pub queue: QueueLimits,
}

impl Live {
    /// Compiles a configuration.
    ///
    /// # Errors
    /// [`ConfigError::Document`].
    pub fn new(config: NodeConfig) -> Result<Self, ConfigError> {
        if config.hosts.is_empty() {
            return Err(ConfigError::Document("no domain is configured".into()));
        }
        let limits = &config.limits;
        let policy = Policy {
            sessions_per_user: limits.sessions_per_user,
            roster_items: limits.roster_items,
            blocked_items: limits.blocked_items,
            offline_messages: limits.offline_messages,
            directed_presence: DIRECTED_PRESENCE,
            subscription_requests: SUBSCRIPTION_REQUESTS,
            domains: config.hosts.iter().map(|h| h.domain.clone()).collect(),
            archive_default: config.archive.default.into(),
            ..Policy::default()
        };
        let declarations: Vec<Declaration> =
            config.handlers.iter().map(Declaration::from).collect();
        let queue = QueueLimits {
            outgoing_bytes: or_unlimited(limits.outgoing_bytes),
            unacked: sm::QueueLimits {
                stanzas: or_unlimited(limits.sm_queue_stanzas),
                bytes: or_unlimited(limits.outgoing_bytes),
            },
            held_stanzas: HELD_STANZAS,
        };
        Ok(Self {
            policy,
            matches: MatchTable::new(&declarations),
            queue,
            config,
        })
    }

    /// Threads of the runtime: as told, or one for each core.
    #[must_use]
    pub fn workers(&self) -> usize {
        match self.config.worker_threads {
            0 => available_parallelism().map_or(1, NonZero::get),
            told => told,
        }
    }

    /// Whether this is a served domain.
    #[must_use]
    pub fn is_host(&self, domain: &str) -> bool {
        self.policy.domains.iter().any(|d| d == domain)
    }

    /// What Rust does besides routing for a domain.
    #[must_use]
    pub fn modules(&self, domain: &str) -> Modules {
        let host = self.config.hosts.iter().find(|h| h.domain == domain);
        host.map_or(self.config.modules, |host| self.modules_of(host))
    }

    fn modules_of(&self, host: &Host) -> Modules {
        host.modules.unwrap_or(self.config.modules)
    }

    /// What is done for the users of a domain.
    #[must_use]
    pub fn switches(&self, domain: &str) -> Switches {
        let modules = self.modules(domain);
        let archive = &self.config.archive;
        let is_archive_on = archive.enabled && modules.mam;
        Switches {
            is_offline_on: modules.offline,
            is_carbons_on: modules.carbons,
            is_blocking_on: modules.blocking,
            is_archive_on,
            is_inbox_on: is_archive_on && archive.inbox && modules.inbox,
        }
    }

    /// As [`Live::switches`]; of a temporary user nothing is kept.
    #[must_use]
    pub fn switches_of(&self, domain: &str, is_temporary: bool) -> Switches {
        let switches = self.switches(domain);
        Switches {
            is_archive_on: switches.is_archive_on && !is_temporary,
            is_inbox_on: switches.is_inbox_on && !is_temporary,
            ..switches
        }
    }

    /// Certificates.
    ///
    /// # Errors
    /// [`ConfigError::Tls`].
    pub fn tls(&self) -> Result<TlsHosts, ConfigError> {
        let files = self.config.hosts.iter().filter_map(|host| {
            Some(CertificateFiles {
                domain: host.domain.clone(),
                certificate: host.certificate.clone()?,
                key: host.key.clone()?,
            })
        });
        Ok(TlsHosts::load(
            &files.collect::<Vec<_>>(),
            self.config.auth.client_ca.as_deref(),
        )?)
    }

    /// Client streams.
    ///
    /// # Errors
    /// A domain or a mechanism that there is not.
    pub fn client_streams(&self, dummy_secret: &Arc<[u8]>) -> Result<ClientConfigs, ConfigError> {
        let build = |starttls| -> Result<Arc<c2s::Config>, ConfigError> {
            Ok(Arc::new(c2s::Config {
                hosts: self.hosts()?,
                limits_before_login: self.xml_limits_before_login(),
                limits: self.xml_limits(self.config.limits.stanza_bytes),
                auth_attempts: self.config.limits.auth_attempts,
                allow_plaintext: self.config.auth.allow_plaintext,
                starttls,
                sm_resume_seconds: self.config.limits.sm_resume_seconds,
                idle_seconds: u32::try_from(self.config.limits.idle_seconds).unwrap_or(0),
                dummy_secret: Arc::clone(dummy_secret),
                dummy_iterations: self.config.auth.scram_iterations,
            }))
        };
        Ok(ClientConfigs {
            starttls: build(true)?,
            other: build(false)?,
        })
    }

    fn hosts(&self) -> Result<Vec<Arc<HostConfig>>, ConfigError> {
        let mechanisms = self.config.auth.mechanisms.iter().map(|name| {
            Mechanism::parse(name)
                .ok_or_else(|| ConfigError::Document(format!("unknown SASL mechanism {name:?}")))
        });
        let mechanisms = mechanisms.collect::<Result<Vec<_>, _>>()?;
        let hosts = self.config.hosts.iter().map(|host| {
            Ok(Arc::new(HostConfig {
                domain: parse_domain(&host.domain)?,
                mechanisms: mechanisms.clone(),
                extra_features: host.extra_features.clone().into_bytes(),
                registration: host.registration,
                is_sm_on: self.modules_of(host).sm,
                is_csi_on: self.modules_of(host).csi,
            }))
        });
        hosts.collect()
    }

    /// Component streams.
    ///
    /// # Errors
    /// A domain that is none.
    pub fn component_streams(&self) -> Result<component::Config, ConfigError> {
        let components = self.config.components.iter().map(|c| {
            Ok(component::Component {
                domain: parse_domain(&c.domain)?,
                secret: c.secret.as_str().into(),
            })
        });
        Ok(component::Config {
            components: components.collect::<Result<_, ConfigError>>()?,
            domain: parse_domain(&self.config.hosts[0].domain)?,
            limits_before_login: self.xml_limits_before_login(),
            limits: self.xml_limits(self.config.limits.stanza_bytes),
        })
    }

    /// Bounds of connections.
    #[must_use]
    pub fn net_limits(&self) -> NetLimits {
        let limits = &self.config.limits;
        NetLimits {
            connections_per_address: limits.connections_per_address,
            client: Arc::new(ClientLimits {
                login_seconds: limits.login_seconds,
                stanzas_per_second: limits.stanzas_per_second,
                burst_stanzas: limits.burst_stanzas,
                bytes_per_second: limits.bytes_per_second,
                burst_bytes: limits.burst_bytes,
                ping_seconds: if self.config.modules.ping {
                    limits.idle_seconds
                } else {
                    0
                },
                ping_timeout_seconds: PING_TIMEOUT_SECONDS.min(limits.idle_seconds.max(1)),
                read_ahead: or_unlimited(limits.stanza_bytes).saturating_add(READ_AHEAD),
            }),
            http_body_bytes: or_unlimited(limits.http_body_bytes),
            logins: LoginLimits {
                at_once: limits.logins_per_worker.saturating_mul(self.workers()),
                connections: limits.connections_before_login,
            },
        }
    }

    /// The hashes that new keys are made for: those of the mechanisms on offer, SHA-256 at least.
    #[must_use]
    pub fn hashes(&self) -> Vec<ScramHash> {
        let offered = |hash| {
            self.config
                .auth
                .mechanisms
                .iter()
                .filter_map(|m| Mechanism::parse(m))
                .any(|m| matches!(m, Mechanism::Scram { hash: offered, .. } if offered == hash))
        };
        let wanted = ScramHash::ALL
            .into_iter()
            .filter(|h| *h == ScramHash::Sha256 || offered(*h));
        wanted.collect()
    }

    /// Bytes alone would let a stranger hold fifty times as much: an empty element takes four of
    /// them and some 200 as a tree (CVE-2026-43507 was of that kind).
    fn xml_limits_before_login(&self) -> Limits {
        let limits = self.xml_limits(self.config.limits.stanza_bytes_before_login);
        Limits {
            elements: limits.elements.min(ELEMENTS_BEFORE_LOGIN),
            ..limits
        }
    }

    fn xml_limits(&self, bytes: usize) -> Limits {
        let limits = &self.config.limits;
        Limits {
            stanza_bytes: or_unlimited(bytes),
            depth: or_unlimited(limits.stanza_depth),
            elements: or_unlimited(limits.stanza_elements),
            attributes: or_unlimited(limits.stanza_attributes),
        }
    }
}

fn parse_domain(domain: &str) -> Result<Jid, ConfigError> {
    let jid = Jid::parse(domain).ok().filter(Jid::is_domain);
    jid.ok_or_else(|| ConfigError::Document(format!("{domain:?} is not a domain")))
}
