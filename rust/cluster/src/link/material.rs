//! The certificates of links, replaced while links run.

use crate::tls::{self, FileError, Files};
use arc_swap::ArcSwap;
use rustls::pki_types::CertificateDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ServerConfig};
use std::path::Path;
use std::sync::Arc;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// What both sides of a link show and believe.
pub(super) struct Sides {
    pub(super) client: Arc<ClientConfig>,
    pub(super) server: Arc<ServerConfig>,
}

/// Read anew by [`Material::reload`]; connections that stand keep what they began with.
pub(super) struct Material {
    files: Files,
    node: String,
    sides: ArcSwap<Sides>,
}

impl Material {
    pub(super) fn load(files: Files, node: &str) -> Result<Self, FileError> {
        let sides = read(&files, node)?;
        Ok(Self {
            files,
            node: node.to_owned(),
            sides: ArcSwap::from_pointee(sides),
        })
    }

    pub(super) fn sides(&self) -> Arc<Sides> {
        self.sides.load_full()
    }

    /// All or nothing: with an error everything stays as it was.
    pub(super) fn reload(&self) -> Result<(), FileError> {
        self.sides.store(Arc::new(read(&self.files, &self.node)?));
        Ok(())
    }
}

fn read(files: &Files, node: &str) -> Result<Sides, FileError> {
    let (Some(ca), Some(certificate), Some(key)) = (&files.ca, &files.certificate, &files.key)
    else {
        return Err(FileError::new(
            Path::new("cluster.tls"),
            "links between nodes need ca, certificate and key",
        ));
    };
    let chain = tls::certificates(certificate)?;
    let names = names(&chain[0]);
    if !bears(&names, node) {
        return Err(FileError::new(
            certificate,
            format!(
                "does not name this node: it bears {names:?}, and [node] name is {node:?}; give \
                 it a subjectAltName of type DNS with that name"
            ),
        ));
    }
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(tls::roots(ca)?), tls::provider())
            .build()
            .map_err(|e| FileError::new(ca, e))?;
    let mut server = ServerConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| FileError::new(ca, e))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, tls::key(key)?)
        .map_err(|e| FileError::new(certificate, e))?;
    server.alpn_protocols = vec![b"h2".to_vec()];
    // Connections are few and long: no tickets, so that a revoked certificate cannot be resumed.
    server.send_tls13_tickets = 0;
    Ok(Sides {
        client: Arc::new(tls::client(files, ca)?),
        server: Arc::new(server),
    })
}

/// The DNS names that a certificate bears.
pub(super) fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else {
        return Vec::new();
    };
    let Ok(Some(extension)) = parsed.subject_alternative_name() else {
        return Vec::new();
    };
    let names = extension.value.general_names.iter();
    names
        .filter_map(|name| match name {
            GeneralName::DNSName(dns) => Some((*dns).to_owned()),
            _ => None,
        })
        .collect()
}

/// Whether the node is one of these names; no wildcards, since a name is one node.
pub(super) fn bears(names: &[String], node: &str) -> bool {
    names.iter().any(|name| name.eq_ignore_ascii_case(node))
}
