//! Everything put together: configuration, clocks, threads, the async runtimes.

pub mod config;
mod journal;
mod logs;
mod reload;
pub mod replay;
pub mod service;
mod signals;

pub use service::{Running, StartOptions, init_state_dir, serve, start};
