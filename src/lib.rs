//! haltline: a real-time trading risk monitor with a kill switch.

pub mod units;

#[cfg(feature = "service")]
pub mod api;
#[cfg(feature = "service")]
pub mod app;
#[cfg(feature = "service")]
pub mod demo;
#[cfg(feature = "service")]
pub mod duty;
#[cfg(feature = "service")]
pub mod engine;
#[cfg(feature = "service")]
pub mod ingest;
#[cfg(feature = "service")]
pub mod journal;
pub mod kill;
pub mod limits;
#[cfg(feature = "service")]
pub mod metrics;
pub mod model;
pub mod ring;
#[cfg(feature = "service")]
pub mod risk;
#[cfg(feature = "service")]
pub mod wire;
