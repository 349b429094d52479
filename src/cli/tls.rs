//! The client's side of TLS: whom to believe, and with which certificate to come.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

/// Where Debian and most others keep the authorities that everybody believes.
const SYSTEM_CA: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Files that say whom to believe, and who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// Authorities of the service's certificate, PEM; `None`: the system's.
    pub ca: Option<PathBuf>,
    /// Our own certificate and its key, PEM.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl Trust {
    /// What makes connections, and the name that the service's certificate has to bear at `authority` (`host:port`).
    pub fn connector(&self, authority: &str) -> Result<(TlsConnector, ServerName<'static>)> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(self.ca.as_deref().unwrap_or(Path::new(SYSTEM_CA)))? {
            // The system's list may hold what this library does not take; an own one may not.
            let added = roots.add(certificate);
            ensure!(self.ca.is_none() || added.is_ok(), "--ca holds something that is no authority: {added:?}");
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = certificates(certificate)?;
                let key = PrivateKeyDer::from_pem_file(key)
                    .with_context(|| format!("reading the key in {}", key.display()))?;
                builder.with_client_auth_cert(chain, key).context("--cert and --key do not fit each other")?
            }
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok((TlsConnector::from(Arc::new(config)), ServerName::try_from(host)?))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let list = read.with_context(|| format!("reading certificates in {}", path.display()))?;
    ensure!(!list.is_empty(), "there is no certificate in {}", path.display());
    Ok(list)
}
