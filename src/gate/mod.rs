//! The gateway's side: what an order gateway links to be stopped in nanoseconds. Built without the feature `service`: no
//! runtime, no thread of its own, one dependency.
//!
//! [`Gate::attach`] connects to haltline on the same host. Order threads then have two ways:
//!
//! - **observe**: a [`Checker`] per thread. [`Checker::admit`] looks at the halt page and the lease and gives a [`Pass`]; the order is
//!   sent while the pass is held, and reported afterwards ([`Asker::report`]).
//! - **ask**: the one [`Asker`] of the session puts the order into a lane, waits for the verdict, and gives the pass.
//!
//! # What a pass proves
//!
//! A kill is confirmed when no pass is held that was given before it: whoever gets one later has seen the page. So: send
//! while the pass lives, drop it right after the send returned. What the system's socket buffer holds by then
//! is on its way; nothing else is.
//!
//! # What closes a gate
//!
//! A mode of the firm, the order's account, strategy, instrument or session; a lease that has lapsed (haltline frozen, starved,
//! lagging or dead); a page out of service; a full or damaged lane; no verdict in time. All deny. Cancels need no pass: they
//! leave in every mode, and are reported.
//!
//! The C and C++ header `haltline.h` does the same over the same memory.

pub mod hello;
pub mod page;
pub mod region;

#[cfg(not(loom))]
mod client;
#[cfg(not(loom))]
pub use client::{Answered, Asker, AttachError, Checker, Denied, Gate, Pass, ReportError};

#[cfg(all(test, loom))]
mod models;
