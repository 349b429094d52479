//! Everything put together: configuration, clocks, threads, the async runtimes.

mod alerting;
pub mod attest;
pub mod config;
mod day;
mod desk;
mod desk_file;
mod desk_opening;
mod drill;
mod guard;
mod journal;
mod killfile;
mod logs;
pub mod measure;
mod notify;
mod preflight;
pub mod replay;
pub mod service;
mod signals;
mod socket;

pub use service::{Running, StartOptions, init_state_dir, serve, start};
