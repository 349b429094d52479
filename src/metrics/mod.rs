//! What Prometheus sees.

pub mod usage;
