//! The only module with `unsafe`: what is shared between threads and processes, and hints to the processor.

#[cfg(feature = "service")]
#[allow(unsafe_code)]
pub mod cells;
#[cfg(feature = "service")]
#[allow(unsafe_code)]
pub mod huge;
#[allow(unsafe_code)]
pub mod prefetch;
