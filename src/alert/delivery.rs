//! Alerts to other machines: one thread per receiver, so that one that stalls keeps nothing from the others, and nobody who
//! raises an alert ever waits for any.
//!
//! | Receiver | Gets | When it was away |
//! |---|---|---|
//! | Alertmanager (`alertmanager`) | everything that is open, again and again until it is resolved | it is told the present state |
//! | webhook (`webhook`) | every change once, in order, signed | it gets what it missed, in order; the list is bounded |
//!
//! A receiver that cannot be reached is tried again after a while that doubles up to [`RETRY_MAX`]. That is a metric, and
//! an alert of its own: the others get it, and it is in the list.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use rustls::crypto::CryptoProvider;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};

use crate::duty::Clock;
use crate::kill::alerts::{Alerts, Raise};
use crate::kill::words::ScopeName;

/// The first wait after a failure.
const RETRY_MIN: Duration = Duration::from_millis(250);
/// The longest one.
pub const RETRY_MAX: Duration = Duration::from_secs(5);
/// How often a thread without news looks whether it is to end, or to say again what it said.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Bytes of an answer that are read: it only matters whether it was a success.
const ANSWER_MAX: u64 = 64 * 1024;

/// A receiver as the configuration names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiverOptions {
    /// What metrics and alerts call it.
    pub name: String,
    /// Where it is: `http://` or `https://`.
    pub url: String,
    /// What kind it is, and the file of its secret.
    pub kind: ReceiverKind,
    /// For https: certificates that are trusted, PEM.
    pub ca_file: PathBuf,
}

/// Kinds of receivers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReceiverKind {
    /// An Alertmanager, API v2; the file of a bearer token, if it wants one.
    Alertmanager {
        /// Holds the token.
        token_file: Option<PathBuf>,
    },
    /// A webhook; the file of the secret that its messages are signed with.
    Webhook {
        /// Holds the secret.
        secret_file: PathBuf,
    },
}

/// What all receivers share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryOptions {
    /// Which haltline this is: a label.
    pub instance: String,
    /// Where people look at alerts; `/v1/alerts/{id}` is put behind it.
    pub external_url: String,
    /// How often an Alertmanager is told what is still open.
    pub resend_every: Duration,
    /// The longest that one exchange may take.
    pub timeout: Duration,
    /// Who is told.
    pub receivers: Vec<ReceiverOptions>,
}

impl Default for DeliveryOptions {
    fn default() -> DeliveryOptions {
        DeliveryOptions {
            instance: "haltline".to_owned(),
            external_url: "http://127.0.0.1:7402".to_owned(),
            resend_every: Duration::from_secs(60),
            timeout: Duration::from_secs(3),
            receivers: Vec::new(),
        }
    }
}

/// How delivery to one receiver goes. Written by its thread.
#[derive(Debug, Default)]
pub struct ReceiverStatus {
    /// What it is called.
    pub name: String,
    /// Exchanges that succeeded.
    pub delivered: AtomicU64,
    /// Exchanges that failed.
    pub failed: AtomicU64,
    /// The last one failed.
    pub failing: AtomicBool,
    /// From the last change that was delivered to its delivery, ns.
    pub latency_ns: AtomicU64,
    /// Why the last one failed.
    pub error: Mutex<String>,
}

/// What an exchange came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// There was nothing to tell.
    Nothing,
    /// It was told; the newest change in it was at this time, Unix ns. There may be more.
    Told(Option<u64>),
}

/// A receiver, as its thread sees it.
pub trait Outlet: Send {
    /// Tells what there is to tell, or the next part of it.
    ///
    /// # Errors
    /// Why it could not, in words. It is tried again.
    fn tell(&mut self, alerts: &Alerts) -> Result<Done, String>;
}

/// What a delivery thread works with.
pub struct DeliveryParts {
    /// The alert centre.
    pub alerts: Arc<Alerts>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Shown by the metrics.
    pub status: Arc<ReceiverStatus>,
}

/// Loops until `stop`. What could not be told to a webhook is written down and told by the next run.
pub fn run(mut outlet: impl Outlet, parts: &DeliveryParts, woken: &Receiver<()>, stop: &AtomicBool) {
    let status = &parts.status;
    let scope = || ScopeName { kind: "receiver".to_owned(), name: status.name.clone() };
    let (mut wait, mut retry_at) = (RETRY_MIN, None::<Instant>);
    let mut reached = false;
    while !stop.load(Ordering::Acquire) {
        if retry_at.is_some_and(|at| Instant::now() < at) {
            // Woken by more alerts that cannot be told either: the wait goes on.
            let _ = woken.recv_timeout(RETRY_MIN);
            continue;
        }
        match outlet.tell(&parts.alerts) {
            Ok(done) => {
                // The first time, too: an earlier run may have said that it fails.
                let first = matches!(done, Done::Told(_)) && !core::mem::replace(&mut reached, true);
                let failed = status.failing.swap(false, Ordering::Relaxed);
                if failed {
                    tracing::warn!(event = "delivery", receiver = status.name, "alerts are delivered again");
                }
                if failed || first {
                    let at = parts.clock.now().unix.0;
                    parts.alerts.resolve(at, "delivery", "alert_delivery_failing", Some(&scope()));
                }
                (wait, retry_at) = (RETRY_MIN, None);
                if let Done::Told(newest) = done {
                    status.delivered.fetch_add(1, Ordering::Relaxed);
                    if let Some(at) = newest {
                        let latency = parts.clock.now().unix.0.saturating_sub(at);
                        status.latency_ns.store(latency, Ordering::Relaxed);
                    }
                } else {
                    let _ = woken.recv_timeout(LOOK_EVERY);
                }
            }
            Err(why) => {
                status.failed.fetch_add(1, Ordering::Relaxed);
                if !status.failing.swap(true, Ordering::Relaxed) {
                    tracing::error!(event = "delivery", receiver = status.name, "alerts cannot be delivered: {why}");
                }
                status.error.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&why);
                let text = format!("alerts do not reach {}: {why}", status.name);
                let at = parts.clock.now().unix.0;
                parts.alerts.raise(Raise::new(at, "delivery", "alert_delivery_failing", text).on(scope()));
                retry_at = Some(Instant::now() + wait);
                wait = (wait * 2).min(RETRY_MAX);
            }
        }
    }
}

/// One HTTP client for one receiver.
#[derive(Clone, Debug)]
pub struct Post {
    agent: ureq::Agent,
    url: String,
}

impl Post {
    /// A client that posts to `url`. Certificates are read now, if the address needs them.
    ///
    /// # Errors
    /// What is wrong with the certificates.
    pub fn new(url: String, ca_file: &std::path::Path, timeout: Duration) -> Result<Post, String> {
        let mut config = ureq::Agent::config_builder()
            .timeout_global(Some(timeout))
            // An answer to an alert is not somewhere else, and a proxy of the environment is not meant.
            .max_redirects(0)
            .proxy(None)
            .http_status_as_error(false)
            .user_agent(concat!("haltline/", env!("CARGO_PKG_VERSION")));
        if url.starts_with("https://") {
            let provider: Arc<CryptoProvider> = Arc::new(rustls::crypto::ring::default_provider());
            let tls = TlsConfig::builder()
                .provider(TlsProvider::Rustls)
                .unversioned_rustls_crypto_provider(provider)
                .root_certs(RootCerts::Specific(Arc::new(certificates(ca_file)?)));
            config = config.tls_config(tls.build());
        }
        Ok(Post { agent: config.build().new_agent(), url })
    }

    /// Posts `body` as JSON with these headers. Success is a status of 2xx.
    ///
    /// # Errors
    /// What went wrong, in words.
    pub fn post(&self, headers: &[(&str, &str)], body: &[u8]) -> Result<(), String> {
        let mut request = self.agent.post(&self.url).header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut answer = request.send(body).map_err(|error| error.to_string())?;
        let status = answer.status();
        // Read to its end, the connection can be used again.
        let text = answer.body_mut().with_config().limit(ANSWER_MAX).read_to_string().unwrap_or_default();
        if status.is_success() {
            return Ok(());
        }
        Err(format!("answered {}: {}", status.as_u16(), text.chars().take(200).collect::<String>().trim()))
    }
}

fn certificates(file: &std::path::Path) -> Result<Vec<Certificate<'static>>, String> {
    let pem = std::fs::read(file).map_err(|error| format!("{} cannot be read: {error}", file.display()))?;
    let found: Vec<_> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            Ok(_) | Err(_) => None,
        })
        .collect();
    if found.is_empty() {
        return Err(format!("{} has no certificate", file.display()));
    }
    Ok(found)
}

/// The content of the file of a secret, without the line's end.
///
/// # Errors
/// If it cannot be read, or is shorter than `shortest`.
pub fn secret(file: &std::path::Path, shortest: usize) -> Result<String, String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{} cannot be read: {error}", file.display()))?;
    let text = text.trim();
    if text.len() < shortest || text.chars().any(|c| c.is_control() || c == ' ') {
        return Err(format!("{} must hold one line of at least {shortest} characters", file.display()));
    }
    Ok(text.to_owned())
}
