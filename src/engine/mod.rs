//! The single writer of risk state: [`core`] decides, [`record`] writes its inputs down, [`agent`] loops.

pub mod agent;
mod book;
pub mod cancel_board;
pub mod cancels;
pub mod command;
mod conserve;
pub mod core;
mod coverage;
pub mod durability;
mod judge;
pub mod lanes;
pub mod published;
mod quick;
pub mod record;

pub use command::{Command, Instruction};
