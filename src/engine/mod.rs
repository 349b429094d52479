//! The single writer of risk state: [`core`] decides, [`agent`] loops.

pub mod agent;
mod book;
pub mod command;
pub mod core;
mod judge;
pub mod published;

pub use command::Command;
