//! TLS for served domains (RFC 7590, RFC 9325, XEP-0368): certificates by name, channel bindings,
//! client certificates.

mod connection;
mod greeting;

pub use connection::TlsConnection;
pub(crate) use connection::{SEALING, UNFINISHED};

use antiphon_xmpp::stream::c2s::Channel;
use ring::digest;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A certificate problem, as one line for the operator.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct TlsError {
    /// Which file.
    pub path: String,
    /// What is wrong and what to do.
    pub reason: String,
}

impl TlsError {
    fn new(path: &Path, reason: impl Into<String>) -> Self {
        Self {
            path: path.display().to_string(),
            reason: reason.into(),
        }
    }
}

/// Where a domain's certificate lies.
#[derive(Debug, Clone)]
pub struct CertificateFiles {
    /// The served domain.
    pub domain: String,
    /// PEM, the domain's certificate first.
    pub certificate: PathBuf,
    /// PEM.
    pub key: PathBuf,
}

/// What a listener speaks above TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// `xmpp-client` (XEP-0368 #table-1); a client without ALPN is welcome.
    Client,
    /// `http/1.1`
    Http,
}

/// The TLS side of all served domains; replaced as a whole on reload, so that running streams keep
/// what they started with.
#[derive(Debug)]
pub struct TlsHosts {
    configs: HashMap<(String, Protocol), Arc<ServerConfig>>,
    end_points: HashMap<String, Box<[u8]>>,
    default_domain: String,
}

#[derive(Debug)]
struct ByName {
    names: Arc<HashMap<String, Arc<CertifiedKey>>>,
    fallback: Arc<CertifiedKey>,
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        greeting::tell_name(hello.server_name());
        let named = hello
            .server_name()
            .and_then(|name| self.names.get(&name.to_ascii_lowercase()));
        Some(Arc::clone(named.unwrap_or(&self.fallback)))
    }
}

impl TlsHosts {
    /// Loads every certificate.
    ///
    /// # Errors
    /// [`TlsError`] names the file.
    pub fn load(files: &[CertificateFiles], client_ca: Option<&Path>) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut names = HashMap::new();
        let mut end_points = HashMap::new();
        for host in files {
            let key = load_key(host, &provider)?;
            end_points.insert(
                host.domain.clone(),
                end_point_hash(&key, &host.certificate)?,
            );
            names.insert(host.domain.clone(), Arc::new(key));
        }
        let names = Arc::new(names);
        let roots = client_ca.map(load_roots).transpose()?;
        let mut configs = HashMap::new();
        for (domain, key) in names.iter() {
            for protocol in [Protocol::Client, Protocol::Http] {
                let resolver = ByName {
                    names: Arc::clone(&names),
                    fallback: Arc::clone(key),
                };
                let roots = roots.clone().filter(|_| protocol == Protocol::Client);
                let config =
                    server_config(&provider, resolver, protocol, roots).map_err(|reason| {
                        TlsError::new(client_ca.unwrap_or(Path::new("tls")), reason)
                    })?;
                configs.insert((domain.clone(), protocol), Arc::new(config));
            }
        }
        let default_domain = files.first().map(|h| h.domain.clone()).unwrap_or_default();
        Ok(Self {
            configs,
            end_points,
            default_domain,
        })
    }

    /// The configuration whose fallback is this domain's certificate.
    #[must_use]
    pub fn config(&self, domain: Option<&str>, protocol: Protocol) -> Option<Arc<ServerConfig>> {
        let wanted = domain.unwrap_or(&self.default_domain).to_owned();
        let found = self.configs.get(&(wanted, protocol));
        found
            .or_else(|| self.configs.get(&(self.default_domain.clone(), protocol)))
            .cloned()
    }

    /// What a stream may know of an established connection, which forgets what only the handshake
    /// told. `domain` is the one that STARTTLS was asked for, the fallback where there is no SNI.
    #[must_use]
    pub fn channel(&self, tls: &mut TlsConnection, domain: Option<&str>) -> Channel {
        let greeting = tls.take_greeting();
        let sni = greeting.sni;
        let shown = sni.as_deref().filter(|n| self.end_points.contains_key(*n));
        let shown = shown.or(domain).unwrap_or(&self.default_domain);
        Channel {
            secure: true,
            // RFC 9266 §2 wants the extended master secret under TLS 1.2, which rustls does not
            // report.
            exporter: greeting
                .exporter
                .map(|material| Box::from(material.as_slice())),
            server_end_point: self.end_points.get(shown).cloned(),
            client_jids: tls
                .state()
                .peer_certificates()
                .and_then(|c| c.first())
                .map(xmpp_addresses)
                .unwrap_or_default(),
            sni,
        }
    }
}

fn server_config(
    provider: &Arc<rustls::crypto::CryptoProvider>,
    resolver: ByName,
    protocol: Protocol,
    roots: Option<RootCertStore>,
) -> Result<ServerConfig, String> {
    let builder = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|e| e.to_string())?;
    let builder = match roots {
        None => builder.with_no_client_auth(),
        Some(roots) => {
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
                    .allow_unauthenticated()
                    .build()
                    .map_err(|e| e.to_string())?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = match protocol {
        Protocol::Client => vec![b"xmpp-client".to_vec()],
        Protocol::Http => vec![b"http/1.1".to_vec()],
    };
    if protocol == Protocol::Client {
        config.key_log = Arc::new(greeting::ExporterOnly);
    }
    config.send_tls13_tickets = 1;
    config.max_early_data_size = 0;
    Ok(config)
}

fn load_key(
    host: &CertificateFiles,
    provider: &rustls::crypto::CryptoProvider,
) -> Result<CertifiedKey, TlsError> {
    let path = &host.certificate;
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|e| TlsError::new(path, format!("cannot read the certificate: {e}")))?;
    if chain.is_empty() {
        return Err(TlsError::new(
            path,
            "holds no certificate (expected a PEM file)",
        ));
    }
    let key = PrivateKeyDer::from_pem_file(&host.key)
        .map_err(|e| TlsError::new(&host.key, format!("cannot read the private key: {e}")))?;
    let signer = provider
        .key_provider
        .load_private_key(key)
        .map_err(|e| TlsError::new(&host.key, format!("cannot use the private key: {e}")))?;
    let certified = CertifiedKey::new(chain, signer);
    match certified.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {
            Ok(certified)
        }
        Err(_) => Err(TlsError::new(
            path,
            format!("does not belong to the key in {}", host.key.display()),
        )),
    }
}

fn load_roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    let certs = CertificateDer::pem_file_iter(path)
        .map_err(|e| TlsError::new(path, format!("cannot read it: {e}")))?;
    for cert in certs {
        let cert = cert.map_err(|e| TlsError::new(path, format!("is no PEM file: {e}")))?;
        roots
            .add(cert)
            .map_err(|e| TlsError::new(path, format!("holds an unusable certificate: {e}")))?;
    }
    Ok(roots)
}

/// `tls-server-end-point` (RFC 5929 §4.1): the certificate hashed with its signature's hash, where
/// MD5 and SHA-1 become SHA-256.
fn end_point_hash(key: &CertifiedKey, path: &Path) -> Result<Box<[u8]>, TlsError> {
    let der = key
        .end_entity_cert()
        .map_err(|e| TlsError::new(path, e.to_string()))?;
    let (_, cert) = x509_parser::parse_x509_certificate(der)
        .map_err(|e| TlsError::new(path, format!("is no X.509 certificate: {e}")))?;
    let algorithm = match cert.signature_algorithm.algorithm.to_id_string().as_str() {
        "1.2.840.10045.4.3.3" | "1.2.840.113549.1.1.12" => &digest::SHA384,
        "1.2.840.10045.4.3.4" | "1.2.840.113549.1.1.13" | "1.3.101.112" => &digest::SHA512,
        _ => &digest::SHA256,
    };
    Ok(digest::digest(algorithm, der).as_ref().into())
}

/// The JIDs of a client certificate: SubjectAltName otherName id-on-xmppAddr (RFC 6120 §13.7.1.4).
fn xmpp_addresses(der: &CertificateDer<'_>) -> Vec<String> {
    use x509_parser::extensions::GeneralName;
    let Ok((_, cert)) = x509_parser::parse_x509_certificate(der) else {
        return Vec::new();
    };
    let Ok(Some(names)) = cert.subject_alternative_name() else {
        return Vec::new();
    };
    let addresses = names
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::OtherName(oid, value) if oid.to_id_string() == "1.3.6.1.5.5.7.8.5" => {
                utf8_string(value)
            }
            _ => None,
        });
    addresses.take(16).collect()
}

/// The text of `[0] EXPLICIT UTF8String` (also when a parser has taken the outer tag off).
fn utf8_string(der: &[u8]) -> Option<String> {
    let (tag, rest) = der.split_first()?;
    // A JID takes up to 3,071 bytes, so lengths have up to two octets of their own.
    let (len, rest) = match rest {
        [len @ ..=0x7f, rest @ ..] => (usize::from(*len), rest),
        [0x81, len, rest @ ..] => (usize::from(*len), rest),
        [0x82, high, low, rest @ ..] => (usize::from(u16::from_be_bytes([*high, *low])), rest),
        _ => return None,
    };
    let body = rest.get(..len)?;
    match tag {
        0xa0 => utf8_string(body),
        0x0c => String::from_utf8(body.to_vec()).ok(),
        _ => None,
    }
}

/// A new self-signed P-256 certificate and key for these domains, PEM, valid for ten years.
///
/// # Errors
/// A domain that no certificate can name.
pub fn self_signed(domains: &[String]) -> Result<(String, String), String> {
    let mut params = rcgen::CertificateParams::new(domains.to_vec()).map_err(|e| e.to_string())?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    if let Some(first) = domains.first() {
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, first.clone());
    }
    let now = std::time::SystemTime::now();
    let day = std::time::Duration::from_secs(86_400);
    params.not_before = (now - day).into();
    params.not_after = (now + day * 3650).into();
    // Clients that import it as their own authority need it to be one.
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    params.extended_key_usages = vec![
        rcgen::ExtendedKeyUsagePurpose::ServerAuth,
        rcgen::ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let key = rcgen::KeyPair::generate().map_err(|e| e.to_string())?;
    let cert = params.self_signed(&key).map_err(|e| e.to_string())?;
    Ok((cert.pem(), key.serialize_pem()))
}

/// DNS names of the first certificate of a PEM text, and its end in seconds since 1970.
///
/// # Errors
/// When there is none.
pub fn certificate_names(pem: &str) -> Result<(Vec<String>, i64), String> {
    use x509_parser::extensions::GeneralName;
    let der = CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|e| format!("no certificate: {e}"))?;
    let (_, cert) = x509_parser::parse_x509_certificate(&der)
        .map_err(|e| format!("no X.509 certificate: {e}"))?;
    let names = match cert.subject_alternative_name() {
        Ok(Some(names)) => names
            .value
            .general_names
            .iter()
            .filter_map(|n| {
                if let GeneralName::DNSName(d) = n {
                    Some((*d).to_owned())
                } else {
                    None
                }
            })
            .collect(),
        _ => Vec::new(),
    };
    Ok((names, cert.validity().not_after.timestamp()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn der(tag: u8, length: &[u8], body: &[u8]) -> Vec<u8> {
        [&[tag], length, body].concat()
    }

    #[test]
    fn addresses_of_any_length_are_read_with_and_without_the_outer_tag() {
        for (len, octets) in [
            (5, &[5][..]),
            (127, &[127]),
            (128, &[0x81, 128]),
            (255, &[0x81, 255]),
            (3071, &[0x82, 0x0b, 0xff]),
        ] {
            let text = "j".repeat(len);
            let inner = der(0x0c, octets, text.as_bytes());
            assert_eq!(utf8_string(&inner).as_deref(), Some(&*text), "{len}");
            let size = u16::try_from(inner.len()).unwrap().to_be_bytes();
            let outer = der(0xa0, &[0x82, size[0], size[1]], &inner);
            assert_eq!(utf8_string(&outer).as_deref(), Some(&*text), "{len}");
        }
    }

    #[test]
    fn what_is_no_text_is_not_read() {
        for bytes in [
            &b""[..],
            &[0x0c],
            &[0x0c, 0x80],
            &[0x0c, 2, b'a'],
            &[0x0c, 0x83, 0, 0, 1, b'a'],
            &[0x0c, 1, 0xff],
            &[0x16, 1, b'a'],
            &[0xa0, 3, 0x0c, 2, b'a'],
        ] {
            assert_eq!(utf8_string(bytes), None, "{bytes:02x?}");
        }
    }
}
