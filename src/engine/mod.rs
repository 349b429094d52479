//! The single writer of risk state: [`core`] decides, [`agent`] loops.

pub mod agent;
pub mod command;
pub mod core;
pub mod published;

pub use command::Command;
