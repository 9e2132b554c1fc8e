//! How one endpoint is reached: address, TLS, HTTP/2.

use super::error::EtcdError;
use crate::dial::{self, Connection, Tuning};
use crate::tls::{self, Files};
use arc_swap::ArcSwap;
use rustls::pki_types::ServerName;
use std::sync::Arc;
use std::time::Duration;
use tokio_rustls::TlsConnector;
use tonic::codegen::http::Uri;

/// How etcd is reached and who we are there.
#[derive(Clone)]
pub struct Options {
    /// `host:port`, with or without `http://` or `https://`. Without: TLS where `tls.ca` is given.
    pub endpoints: Vec<String>,
    /// Certificates; the default: none.
    pub tls: Files,
    /// Where etcd asks for a user.
    pub user: Option<String>,
    /// Its password.
    pub password: Option<String>,
    /// Each call must be answered in that time by the endpoint asked.
    pub call_timeout: Duration,
    /// An endpoint must take a connection in that time.
    pub connect_timeout: Duration,
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("endpoints", &self.endpoints)
            .field("tls", &self.tls)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            endpoints: vec!["127.0.0.1:2379".to_owned()],
            tls: Files::default(),
            user: None,
            password: None,
            call_timeout: Duration::from_secs(2),
            connect_timeout: Duration::from_secs(1),
        }
    }
}

/// etcd sends a GOAWAY to who pings more often than every 5 s (measured at 2 s: `too_many_pings`),
/// so 5.5 s is the least. A hung etcd is found by the deadlines of calls, not by this.
const PING_EVERY: Duration = Duration::from_millis(5500);
const PING_TIMEOUT: Duration = Duration::from_secs(4);

pub(super) struct Endpoint {
    /// As the operator wrote it.
    pub(super) name: String,
    /// What requests name.
    pub(super) origin: Uri,
    /// `host:port` of the socket.
    address: String,
    tls: Option<Secure>,
}

struct Secure {
    connector: ArcSwap<rustls::ClientConfig>,
    name: ServerName<'static>,
}

/// The certificates as they are on disk now; `None`: no TLS.
pub(super) fn config(options: &Options) -> Result<Option<Arc<rustls::ClientConfig>>, EtcdError> {
    match &options.tls.ca {
        Some(ca) => {
            let config = tls::client(&options.tls, ca);
            let config = config.map_err(|e| EtcdError::Config(e.to_string()))?;
            Ok(Some(Arc::new(config)))
        }
        None if options.tls.certificate.is_some() => Err(EtcdError::Config(
            "cluster.etcd.certificate needs cluster.etcd.ca beside it".to_owned(),
        )),
        None => Ok(None),
    }
}

impl Endpoint {
    pub(super) fn parse_all(options: &Options) -> Result<Vec<Self>, EtcdError> {
        if options.endpoints.is_empty() {
            return Err(EtcdError::Config(
                "cluster.etcd.endpoints is empty".to_owned(),
            ));
        }
        let config = config(options)?;
        let each = options.endpoints.iter();
        each.map(|text| Self::parse(text, config.as_ref()))
            .collect()
    }

    fn parse(text: &str, config: Option<&Arc<rustls::ClientConfig>>) -> Result<Self, EtcdError> {
        let wrong = |why: &str| {
            EtcdError::Config(format!(
                "cluster.etcd.endpoints: {text:?} {why}; write \"host:2379\" or \
                 \"https://host:2379\""
            ))
        };
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme @ ("http" | "https"), rest)) => (scheme, rest),
            Some(_) => return Err(wrong("has an unknown scheme")),
            None if config.is_some() => ("https", text),
            None => ("http", text),
        };
        let address = rest.trim_end_matches('/');
        let origin: Uri = format!("{scheme}://{address}/")
            .parse()
            .map_err(|_| wrong("is no address"))?;
        let host = origin.host().unwrap_or_default();
        if host.is_empty() || origin.port_u16().is_none() || origin.path() != "/" {
            return Err(wrong("is no address with a port"));
        }
        let tls = match (scheme, config) {
            ("https", Some(config)) => {
                let bare = host.trim_start_matches('[').trim_end_matches(']');
                let name =
                    ServerName::try_from(bare.to_owned()).map_err(|_| wrong("names no host"))?;
                Some(Secure {
                    connector: ArcSwap::new(Arc::clone(config)),
                    name,
                })
            }
            ("https", None) => return Err(wrong("needs cluster.etcd.ca")),
            _ => None,
        };
        Ok(Self {
            name: address.to_owned(),
            origin,
            address: address.to_owned(),
            tls,
        })
    }

    /// Connections from now on show these certificates.
    pub(super) fn renew(&self, config: &Arc<rustls::ClientConfig>) {
        if let Some(tls) = &self.tls {
            tls.connector.store(Arc::clone(config));
        }
    }

    /// A new connection. A failure here means that nothing was asked of anybody.
    pub(super) async fn connect(&self, timeout: Duration) -> Result<Connection, EtcdError> {
        let unreachable =
            |reason: String| EtcdError::Unreachable(format!("{}: {reason}", self.name));
        let tuning = Tuning {
            window: 4 << 20,
            ping_every: PING_EVERY,
            ping_timeout: PING_TIMEOUT,
        };
        let attempt = async {
            let socket = dial::tcp(&self.address, timeout)
                .await
                .map_err(|e| unreachable(e.to_string()))?;
            let started = match &self.tls {
                None => Connection::start(socket, tuning).await,
                Some(tls) => {
                    let connector = TlsConnector::from(tls.connector.load_full());
                    let secure = connector.connect(tls.name.clone(), socket).await;
                    let secure = secure.map_err(|e| unreachable(format!("TLS: {e}")))?;
                    Connection::start(secure, tuning).await
                }
            };
            started.map_err(|e| unreachable(dial::chain(&e)))
        };
        tokio::time::timeout(timeout * 2, attempt)
            .await
            .unwrap_or_else(|_| Err(unreachable("no TLS within the time allowed".to_owned())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Endpoint, EtcdError> {
        Endpoint::parse(text, None)
    }

    #[test]
    fn endpoints_are_hosts_with_ports() {
        for good in [
            "a:2379",
            "http://a:2379",
            "http://127.0.0.1:1/",
            "[::1]:2379",
        ] {
            assert!(parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "a",
            "ftp://a:1",
            "http://a",
            "a:2379/path",
            "a b:1",
            "https://a:1",
        ] {
            let error = parse(bad).err().map(|e| e.to_string());
            assert!(error.is_some_and(|e| e.contains("endpoints")), "{bad}");
        }
    }
}
