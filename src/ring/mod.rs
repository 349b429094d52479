//! The only module with `unsafe`: what is shared between threads and processes, and hints to the processor.
//!
//! [`shm`] is memory as atomic words, on the heap or mapped; everything else here is safe code over such words.

pub mod barrier;
pub mod bell;
#[cfg(feature = "service")]
#[allow(unsafe_code)]
pub mod cells;
#[cfg(feature = "service")]
#[allow(unsafe_code)]
pub mod huge;
pub mod lane;
#[allow(unsafe_code)]
pub mod prefetch;
#[allow(unsafe_code)]
pub mod shm;
pub mod slots;
pub mod sync;

#[cfg(all(test, loom))]
pub(crate) mod models;
