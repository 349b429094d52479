//! TLS at the network door: certificates that can be exchanged while it is open, and whom a client's certificate names.
//!
//! A handshake takes a place like any other connection, and has the time that a request's head has. Connections that
//! are open when certificates are exchanged go on with the old ones. Nothing is resumed over an exchange: what a client is
//! known by is judged by the authorities that are in force.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate, X509Name};

use crate::metrics::{Sample, SampleKind, Source};

/// Where the server's certificate lies, and the authorities of its clients. All of them PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate, followed by those between it and its authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Authorities whose certificates are taken from clients; `None`: clients are not asked for any.
    pub client_ca: Option<PathBuf>,
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file could not be read, or holds something else.
    #[error("{what} {} is of no use: {why}", path.display())]
    File {
        /// What it should be.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The files do not fit each other.
    #[error("certificate and key do not make a server")]
    Server(#[source] rustls::Error),
}

/// The names that a client's certificate bears.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificateNames {
    /// The subject, as RFC 4514 writes it but in the certificate's order: `CN=alice,O=Desk`.
    pub subject: String,
    /// Alternative names: host names, mail addresses, URIs.
    pub alternative: Vec<String>,
}

/// The server's side of TLS. Threads may share it.
pub struct Tls {
    files: TlsFiles,
    config: RwLock<Arc<ServerConfig>>,
    /// When the certificate ends, Unix seconds.
    expires: AtomicU64,
    failed: AtomicU64,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub fn load(files: TlsFiles) -> Result<Tls, TlsError> {
        let (config, expires) = load(&files)?;
        let (config, expires) = (RwLock::new(Arc::new(config)), AtomicU64::new(expires));
        Ok(Tls { files, config, expires, failed: AtomicU64::new(0) })
    }

    /// Reads the files again: for connections from now on. Blocks.
    ///
    /// # Errors
    /// See [`TlsError`]; what was there before stays.
    pub fn reload(&self) -> Result<(), TlsError> {
        let (config, expires) = load(&self.files)?;
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
        self.expires.store(expires, Ordering::Relaxed);
        Ok(())
    }

    /// The handshake, and the names that the client's certificate bears if it sent one.
    pub(super) async fn accept<S>(&self, stream: S) -> io::Result<(TlsStream<S>, Option<CertificateNames>)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let config = self.config.read().unwrap_or_else(PoisonError::into_inner).clone();
        let stream = TlsAcceptor::from(config).accept(stream).await.inspect_err(|_| {
            self.failed.fetch_add(1, Ordering::Relaxed);
        })?;
        let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let names = certificate.and_then(|certificate| names(certificate));
        Ok((stream, names))
    }
}

impl Source for Tls {
    fn samples(&self) -> Vec<Sample> {
        let sample = |name, help, kind, value: &AtomicU64| {
            let value = value.load(Ordering::Relaxed) as f64;
            Sample { name, help, kind, labels: vec![], value }
        };
        vec![
            sample(
                "haltline_tls_certificate_expiry_timestamp_seconds",
                "When the certificate of the HTTP listener ends, Unix time.",
                SampleKind::Gauge,
                &self.expires,
            ),
            sample(
                "haltline_tls_handshake_failures_total",
                "TLS handshakes that came to nothing.",
                SampleKind::Counter,
                &self.failed,
            ),
        ]
    }
}

/// The one provider of cryptography: with two in a process, a default would be a panic.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn load(files: &TlsFiles) -> Result<(ServerConfig, u64), TlsError> {
    let chain = certificates("the certificate", &files.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|e| unusable("the key", &files.key, &e))?;
    let expires = chain.first().and_then(|first| expiry(first)).unwrap_or(0);
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Server)?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let what = "the authorities of clients";
            let mut roots = RootCertStore::empty();
            for certificate in certificates(what, path)? {
                roots.add(certificate).map_err(|e| unusable(what, path, &e))?;
            }
            // Who has a token needs no certificate; one that is sent has to be in order.
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
            let verifier = verifier.allow_unauthenticated().build().map_err(|e| unusable(what, path, &e))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(TlsError::Server)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok((config, expires))
}

fn unusable(what: &'static str, path: &Path, why: &dyn core::fmt::Display) -> TlsError {
    TlsError::File { what, path: path.to_owned(), why: why.to_string() }
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let list = read.map_err(|e| unusable(what, path, &e))?;
    if list.is_empty() { Err(unusable(what, path, &"there is no certificate in it")) } else { Ok(list) }
}

fn expiry(der: &[u8]) -> Option<u64> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    u64::try_from(certificate.validity().not_after.timestamp()).ok()
}

/// The names in a certificate; `None` if it cannot be understood, and then it names nobody.
fn names(der: &[u8]) -> Option<CertificateNames> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let alternative = certificate.subject_alternative_name().ok()?.map(|extension| {
        let text = |name: &GeneralName<'_>| match name {
            GeneralName::RFC822Name(text) | GeneralName::DNSName(text) | GeneralName::URI(text) => {
                Some((*text).to_owned())
            }
            _ => None,
        };
        extension.value.general_names.iter().filter_map(text).collect()
    });
    Some(CertificateNames { subject: subject(certificate.subject())?, alternative: alternative.unwrap_or_default() })
}

fn subject(name: &X509Name<'_>) -> Option<String> {
    let mut parts = Vec::new();
    for rdn in name.iter_rdn() {
        let mut attributes = Vec::new();
        for attribute in rdn.iter() {
            let oid = attribute.attr_type();
            let kind = x509_parser::objects::oid2abbrev(oid, x509_parser::objects::oid_registry());
            let kind = kind.map_or_else(|_| oid.to_id_string(), str::to_owned);
            attributes.push(format!("{kind}={}", escaped(attribute.as_str().ok()?)));
        }
        parts.push(attributes.join("+"));
    }
    Some(parts.join(","))
}

/// A value cannot look like the beginning of another attribute.
fn escaped(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for c in value.chars() {
        if matches!(c, ',' | '+' | '=' | '"' | '\\' | '<' | '>' | ';' | '#') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    #[test]
    fn a_certificate_bears_the_names_that_are_in_it_and_a_value_cannot_pose_as_two() {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["desk.example".to_owned()]).unwrap();
        params.distinguished_name.remove(DnType::CommonName);
        params.distinguished_name.push(DnType::CommonName, "alice,O=Risk");
        params.distinguished_name.push(DnType::OrganizationName, "Desk");
        params.subject_alt_names.push(SanType::Rfc822Name("alice@desk.example".try_into().unwrap()));
        let certificate = params.self_signed(&key).unwrap();
        let names = names(certificate.der()).unwrap();
        assert_eq!(names.subject, "CN=alice\\,O\\=Risk,O=Desk");
        assert_eq!(names.alternative, ["desk.example", "alice@desk.example"]);
        assert!(super::names(b"nonsense").is_none());
    }

    #[test]
    fn files_that_do_not_fit_are_told_and_change_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let certificate = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
        std::fs::write(path("c"), certificate.pem()).unwrap();
        std::fs::write(path("k"), key.serialize_pem()).unwrap();
        let files = TlsFiles { certificate: path("c"), key: path("k"), client_ca: None };
        let tls = Tls::load(files.clone()).unwrap();
        let before = tls.config.read().unwrap().clone();
        assert!(tls.samples()[0].value > 1e9);
        std::fs::write(path("k"), other.serialize_pem()).unwrap();
        assert!(matches!(tls.reload(), Err(TlsError::Server(_))));
        std::fs::write(path("c"), "nothing").unwrap();
        assert!(tls.reload().unwrap_err().to_string().contains("the certificate"));
        std::fs::remove_file(path("k")).unwrap();
        std::fs::write(path("c"), certificate.pem()).unwrap();
        assert!(tls.reload().unwrap_err().to_string().contains("the key"));
        assert!(Arc::ptr_eq(&before, &tls.config.read().unwrap()), "the old one stays");
        let clients = TlsFiles { client_ca: Some(path("none")), ..files };
        std::fs::write(path("k"), key.serialize_pem()).unwrap();
        assert!(Tls::load(clients).is_err_and(|e| e.to_string().contains("authorities")));
        tls.reload().unwrap();
    }
}
