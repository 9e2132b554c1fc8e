//! Certificates of links and of etcd's clients, read from PEM files.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where certificates lie. All PEM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files {
    /// Whom to believe.
    pub ca: Option<PathBuf>,
    /// Our certificate, then those between it and the root.
    pub certificate: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
}

/// A file that cannot be used, as one line for the operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct FileError {
    /// Which.
    pub path: String,
    /// What is wrong.
    pub reason: String,
}

impl FileError {
    pub(crate) fn new(path: &Path, reason: impl ToString) -> Self {
        Self {
            path: path.display().to_string(),
            reason: reason.to_string(),
        }
    }
}

pub(crate) fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

pub(crate) fn roots(path: &Path) -> Result<RootCertStore, FileError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(path)? {
        store
            .add(certificate)
            .map_err(|e| FileError::new(path, e))?;
    }
    Ok(store)
}

/// At least one.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path)
        .map_err(|e| FileError::new(path, e))?
        .collect();
    let found = found.map_err(|e| FileError::new(path, e))?;
    if found.is_empty() {
        return Err(FileError::new(path, "holds no certificate"));
    }
    Ok(found)
}

pub(crate) fn key(path: &Path) -> Result<PrivateKeyDer<'static>, FileError> {
    PrivateKeyDer::from_pem_file(path).map_err(|e| FileError::new(path, e))
}

/// A client's side: believes `ca`, shows the certificate where there is one.
pub(crate) fn client(files: &Files, ca: &Path) -> Result<ClientConfig, FileError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| FileError::new(ca, e))?
        .with_root_certificates(roots(ca)?);
    let mut config = match (&files.certificate, &files.key) {
        (Some(certificate), Some(path)) => builder
            .with_client_auth_cert(certificates(certificate)?, key(path)?)
            .map_err(|e| FileError::new(certificate, e))?,
        (None, None) => builder.with_no_client_auth(),
        (Some(only), None) | (None, Some(only)) => {
            return Err(FileError::new(
                only,
                "a certificate and its key belong together",
            ));
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}
