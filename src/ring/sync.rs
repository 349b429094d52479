//! The atomics of everything that is shared: the processor's, or those of the model checker (`--cfg loom`).

#[cfg(not(loom))]
pub use core::sync::atomic::{AtomicU64, Ordering, fence};
#[cfg(loom)]
pub use loom::sync::atomic::{AtomicU64, Ordering, fence};
