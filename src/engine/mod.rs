//! The single writer of risk state: [`core`] decides, [`agent`] loops.

pub mod agent;
mod book;
pub mod command;
pub mod core;
mod judge;
pub mod lanes;
pub mod published;
mod quick;

pub use command::Command;
