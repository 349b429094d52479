//! The guard: what looks at a deployment and at the shape of a flow rather than at one order. No I/O: what it finds it
//! returns, and the layers above act on it.

pub mod overrides;
pub mod peers;
pub mod ramp;
pub mod signatures;
pub mod template;
pub mod watch;
