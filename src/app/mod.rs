//! Everything put together: configuration, clocks, threads, the async runtime.

pub mod config;
