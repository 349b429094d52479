//! Transports: what comes in from gateways and goes back to them.

pub mod client;
pub mod gates;
pub mod intern;
mod report;
pub mod tokens;
pub mod ws;

#[cfg(test)]
mod tests;
