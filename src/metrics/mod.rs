//! What Prometheus sees: rendered from what others publish, without a word to the engine's thread.
//!
//! Names are `haltline_<noun>_<unit>`, `_total` for counters, base units. What can grow with the configuration is
//! capped: the most used limits and the most severe modes are kept, and `haltline_series_dropped` says how many
//! were not.

mod collector;
pub mod usage;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use prometheus::{Encoder, Registry, TextEncoder};

use crate::duty::Clock;
use crate::engine::published::Published;
use crate::kill::switch::Switch;
use crate::limits::LimitTable;
use collector::HaltlineCollector;

/// The most `haltline_utilisation_ratio` series.
pub const UTILISATION_SERIES_MAX: usize = 1_000;
/// The most `haltline_mode` series.
pub const MODE_SERIES_MAX: usize = 2_000;
/// The most series that one [`Source`] may add.
pub const SOURCE_SERIES_MAX: usize = 256;

/// How the last reload of the limits went. Written by whoever reloads.
#[derive(Debug)]
pub struct ReloadState {
    successful: AtomicBool,
    succeeded_at: AtomicU64,
    succeeded: AtomicU64,
    failed: AtomicU64,
}

impl ReloadState {
    /// The limits were loaded at `unix_ns`, at start.
    #[must_use]
    pub const fn loaded(unix_ns: u64) -> ReloadState {
        ReloadState {
            successful: AtomicBool::new(true),
            succeeded_at: AtomicU64::new(unix_ns),
            succeeded: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }

    /// New limits came into force at `unix_ns`.
    pub fn succeeded(&self, unix_ns: u64) {
        self.successful.store(true, Ordering::Relaxed);
        self.succeeded_at.store(unix_ns, Ordering::Relaxed);
        self.succeeded.fetch_add(1, Ordering::Relaxed);
    }

    /// New limits were invalid; the old ones stay.
    pub fn failed(&self) {
        self.successful.store(false, Ordering::Relaxed);
        self.failed.fetch_add(1, Ordering::Relaxed);
    }
}

/// What a number means over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SampleKind {
    /// Only grows; its name ends with `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// A number that somebody else contributes.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The metric's whole name. Samples of one name follow each other and agree in `help` and `kind`.
    pub name: &'static str,
    /// One sentence.
    pub help: &'static str,
    /// What it means over time.
    pub kind: SampleKind,
    /// Label names and values. The source sees to it that there are few.
    pub labels: Vec<(&'static str, String)>,
    /// The value, in base units.
    pub value: f64,
}

/// Somebody with numbers of their own: a transport with its connections, say.
pub trait Source: Send + Sync {
    /// The numbers as they are now. At most [`SOURCE_SERIES_MAX`]; what is beyond is dropped and counted.
    fn samples(&self) -> Vec<Sample>;
}

/// Where the numbers come from.
pub struct MetricsParts {
    /// Engine totals, gauges and latencies.
    pub published: Arc<Published>,
    /// Modes, sessions, latch, kill stages.
    pub switch: Arc<Switch>,
    /// The limits in force.
    pub limits: Arc<RwLock<Arc<LimitTable>>>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// How the last reload went.
    pub reload: Arc<ReloadState>,
    /// Others with numbers of their own.
    pub sources: Vec<Arc<dyn Source>>,
}

/// Renders `/metrics`.
pub struct Metrics {
    registry: Registry,
}

impl Metrics {
    /// Nothing is read before [`Metrics::render`].
    ///
    /// # Errors
    /// If a metric's name or help is not one: a fault of the program's, found by its tests.
    pub fn new(parts: MetricsParts) -> Result<Metrics, prometheus::Error> {
        let registry = Registry::new();
        registry.register(Box::new(HaltlineCollector::new(parts)?))?;
        Ok(Metrics { registry })
    }

    /// The text for a scrape. Takes milliseconds: not for a thread that has something urgent to do.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = Vec::with_capacity(256 * 1024);
        match TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            Ok(()) => String::from_utf8_lossy(&text).into_owned(),
            Err(error) => {
                tracing::error!(%error, "metrics could not be rendered");
                String::new()
            }
        }
    }
}
