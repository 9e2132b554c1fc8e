//! The document that Python hands over: everything decided, checked there.

use antiphon_net::listener::{Kind, ListenerConfig, TlsMode};
use antiphon_routing::archive::ArchiveDefault;
use antiphon_routing::matching::{Declaration, Target};
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Everything a node needs to know. Field names are those of the JSON document.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// Unique in the cluster.
    pub node_name: String,
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// The least level that is logged, as in Python's `logging`.
    pub log_level: u8,
    /// Threads of the runtime; 0: as many as cores.
    pub worker_threads: usize,
    /// Served domains, the first being the default.
    pub hosts: Vec<Host>,
    /// Sockets.
    pub listeners: Vec<Listener>,
    /// Logins.
    pub auth: Auth,
    /// Storage engine.
    pub storage: Storage,
    /// External components.
    pub components: Vec<Component>,
    /// Bounds.
    pub limits: Limits,
    /// IQs that Python wants; the place is the handler's number.
    pub handlers: Vec<Handler>,
    /// What Rust does besides routing, for all domains.
    pub modules: Modules,
    /// The message archive and the inbox.
    #[serde(default)]
    pub archive: Archive,
    /// Where clients come first to resume a session of this node (XEP-0198 #enable).
    #[serde(default)]
    pub resume_location: Option<String>,
    /// The other nodes; none for a node that is alone.
    #[serde(default)]
    pub cluster: Option<Cluster>,
}

/// A node's place among others.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// Name of the cluster.
    pub name: String,
    /// Where this node stands.
    pub zone: Option<String>,
    /// `ip:port` that the others' links come to.
    pub listen: SocketAddr,
    /// `host:port` of the same, as the others are told.
    pub relay: String,
    /// `host:port` of the control calls.
    pub control: String,
    /// Version of the program.
    pub version: String,
    /// Where the cluster's keys are.
    pub etcd: Etcd,
    /// Certificates between nodes.
    pub tls: ClusterTls,
    /// What becomes of a node that, as all others, has lost etcd.
    pub etcd_loss: EtcdLoss,
    /// Where every write of an owner's rows is told.
    #[serde(default)]
    pub write_log: Option<PathBuf>,
}

/// `[cluster.etcd]` of the file.
#[derive(Clone, Deserialize)]
#[allow(
    missing_docs,
    reason = "documented once, in python/antiphon/config/schema.py"
)]
#[serde(deny_unknown_fields)]
pub struct Etcd {
    pub endpoints: Vec<String>,
    pub prefix: String,
    pub ca: Option<PathBuf>,
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
    pub user: Option<String>,
    pub password: Option<String>,
}

impl std::fmt::Debug for Etcd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Etcd")
            .field("endpoints", &self.endpoints)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

/// `[cluster.tls]` of the file: PEM.
#[derive(Debug, Clone, Deserialize)]
#[allow(
    missing_docs,
    reason = "documented once, in python/antiphon/config/schema.py"
)]
#[serde(deny_unknown_fields)]
pub struct ClusterTls {
    pub ca: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// See [`Cluster::etcd_loss`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EtcdLoss {
    /// Everything stays as it is.
    Freeze,
    /// It stops.
    Fence,
}

/// A served domain.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// Prepared domain.
    pub domain: String,
    /// PEM.
    pub certificate: Option<PathBuf>,
    /// PEM.
    pub key: Option<PathBuf>,
    /// Self-contained XML for the stream features after login.
    pub extra_features: String,
    /// In-band registration before login.
    pub registration: bool,
    /// What Rust does besides routing, where this domain differs.
    #[serde(default)]
    pub modules: Option<Modules>,
}

/// A socket.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// c2s, http or component.
    pub kind: ListenerKind,
    /// `ip:port`
    pub address: SocketAddr,
    /// TLS.
    pub tls: ListenerTls,
    /// HTTP path prefixes.
    #[serde(default)]
    pub paths: Vec<String>,
}

/// Kinds of listener.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ListenerKind {
    /// Client streams.
    C2s,
    /// HTTP and WebSocket.
    Http,
    /// External components.
    Component,
}

/// TLS of a listener.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ListenerTls {
    /// Within the stream.
    Starttls,
    /// At once.
    Direct,
    /// Never.
    None,
}

impl From<&Listener> for ListenerConfig {
    fn from(listener: &Listener) -> Self {
        Self {
            kind: match listener.kind {
                ListenerKind::C2s => Kind::C2s,
                ListenerKind::Http => Kind::Http,
                ListenerKind::Component => Kind::Component,
            },
            address: listener.address,
            tls: match listener.tls {
                ListenerTls::Starttls => TlsMode::Starttls,
                ListenerTls::Direct => TlsMode::Direct,
                ListenerTls::None => TlsMode::None,
            },
            paths: listener.paths.clone(),
        }
    }
}

/// Logins.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    /// SASL mechanisms in order of preference.
    pub mechanisms: Vec<String>,
    /// PBKDF2 rounds of new keys.
    pub scram_iterations: u32,
    /// Authority of client certificates.
    pub client_ca: Option<PathBuf>,
    /// Logins without TLS.
    pub allow_plaintext: bool,
}

/// Storage engine.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Storage {
    /// Which.
    pub backend: Backend,
    /// Where that one is.
    #[serde(default)]
    pub cassandra: Option<Cassandra>,
}

/// Storage engines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// A file.
    Sqlite,
    /// A cluster.
    Cassandra,
}

/// The cluster that everything is kept in.
#[derive(Clone, Deserialize)]
#[allow(
    missing_docs,
    reason = "documented once, in python/antiphon/config/schema.py"
)]
#[serde(deny_unknown_fields)]
pub struct Cassandra {
    pub contact_points: Vec<String>,
    pub keyspace: String,
    pub local_datacenter: Option<String>,
    pub user: Option<String>,
    pub password: Option<String>,
    pub ca: Option<PathBuf>,
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
    pub request_timeout_ms: u64,
    pub connect_seconds: u64,
    pub read_seconds: u64,
    pub write_seconds: u64,
}

impl std::fmt::Debug for Cassandra {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cassandra")
            .field("contact_points", &self.contact_points)
            .field("keyspace", &self.keyspace)
            .finish_non_exhaustive()
    }
}

/// An external component.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Component {
    /// Its domain.
    pub domain: String,
    /// Shared secret.
    pub secret: String,
}

/// An IQ that Python wants.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Handler {
    /// To whom it is addressed.
    pub target: HandlerTarget,
    /// Set, not get.
    pub is_set: bool,
    /// Namespace of the payload.
    pub ns: String,
    /// Name of the payload.
    pub name: String,
    /// Holds the session's later stanzas.
    pub ordered: bool,
}

/// Targets.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HandlerTarget {
    /// A served domain.
    Host,
    /// A bare JID.
    Account,
}

impl From<&Handler> for Declaration {
    fn from(handler: &Handler) -> Self {
        Self {
            target: match handler.target {
                HandlerTarget::Host => Target::Host,
                HandlerTarget::Account => Target::Account,
            },
            is_set: handler.is_set,
            ns: handler.ns.clone(),
            name: handler.name.clone(),
            is_ordered: handler.ordered,
        }
    }
}

/// What Rust does besides routing; `false` switches it off.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Modules {
    /// XEP-0160
    pub offline: bool,
    /// XEP-0280
    pub carbons: bool,
    /// XEP-0191
    pub blocking: bool,
    /// XEP-0352
    pub csi: bool,
    /// XEP-0198
    pub sm: bool,
    /// XEP-0199
    pub ping: bool,
    /// XEP-0115
    pub caps: bool,
    /// XEP-0313; needs [`Archive::enabled`], too
    #[serde(default)]
    pub mam: bool,
    /// Conversations with their unread messages; needs the archive and [`Archive::inbox`], too
    #[serde(default)]
    pub inbox: bool,
}

/// The message archive (XEP-0313) and the inbox. Names as in the configuration file's `[archive]`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[allow(
    missing_docs,
    reason = "documented once, in python/antiphon/config/schema.py"
)]
#[serde(deny_unknown_fields)]
pub struct Archive {
    pub enabled: bool,
    pub default: DefaultPreference,
    pub inbox: bool,
    pub retention_days: u32,
    pub messages_per_account: u64,
    #[serde(default)]
    pub bin_days: u32,
    pub page_max: usize,
}

impl Default for Archive {
    /// None.
    fn default() -> Self {
        Self {
            enabled: false,
            default: DefaultPreference::Always,
            inbox: false,
            retention_days: 0,
            messages_per_account: 0,
            bin_days: 0,
            page_max: 250,
        }
    }
}

/// What is archived for users who have set no preferences (XEP-0441).
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DefaultPreference {
    /// Everything.
    Always,
    /// What concerns contacts in the roster.
    Roster,
    /// Nothing.
    Never,
}

impl From<DefaultPreference> for ArchiveDefault {
    fn from(preference: DefaultPreference) -> Self {
        match preference {
            DefaultPreference::Always => Self::Always,
            DefaultPreference::Roster => Self::Roster,
            DefaultPreference::Never => Self::Never,
        }
    }
}

/// Bounds; 0: none. Names as in the configuration file's `[limits]`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[allow(
    missing_docs,
    reason = "documented once, in python/antiphon/config/schema.py"
)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    pub connections_per_address: u32,
    pub connections_before_login: usize,
    pub logins_per_worker: usize,
    pub stanza_bytes: usize,
    pub stanza_bytes_before_login: usize,
    pub stanza_depth: usize,
    pub stanza_elements: usize,
    pub stanza_attributes: usize,
    pub login_seconds: u64,
    pub idle_seconds: u64,
    pub auth_attempts: u32,
    pub auth_failures_per_minute: u32,
    pub sessions_per_user: usize,
    pub roster_items: usize,
    pub blocked_items: usize,
    pub offline_messages: u64,
    pub sm_queue_stanzas: usize,
    pub sm_resume_seconds: u32,
    pub stanzas_per_second: u64,
    pub burst_stanzas: u64,
    pub bytes_per_second: u64,
    pub burst_bytes: u64,
    pub outgoing_bytes: usize,
    pub registrations_per_hour: u32,
    pub http_body_bytes: usize,
}

/// 0 means no limit.
#[must_use]
pub fn or_unlimited(limit: usize) -> usize {
    if limit == 0 { usize::MAX } else { limit }
}
