//! The only module with `unsafe`: what is shared between threads and processes, and hints to the processor.

#[allow(unsafe_code)]
pub mod prefetch;
