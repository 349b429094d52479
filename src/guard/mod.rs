//! The guard: what looks at a deployment and at the shape of a flow rather than at one order. No I/O: what it finds it
//! returns, and the layers above act on it.

pub mod attest;
pub mod door;
pub mod manifest;
pub mod manifest_text;
pub mod memory;
pub mod overrides;
pub mod peers;
pub mod preflight;
pub mod quiet;
pub mod ramp;
pub mod shares;
pub mod signatures;
pub mod template;
pub mod watch;

#[cfg(test)]
mod attest_tests;
