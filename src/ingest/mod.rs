//! Transports: what comes in from gateways and goes back to them.

pub mod client;
pub mod intern;
pub mod ws;

#[cfg(test)]
mod tests;
