//! What survives a restart, and what is told of it: the durable latch, the journal and what is made of it, and the
//! record of what the engine reports.
//!
//! ```text
//! engine ──ring of cells──▶ writer ──groups──▶ segments ──▶ reader ──▶ verify, replay, audit, recovery
//!                             ▲                       │
//!            api, control ────┘ control records       └─▶ compactor ─▶ snapshots ─▶ recovery, replay
//! ```

pub mod at_trip;
pub mod audit;
pub mod compact;
pub mod control;
pub mod disk;
pub mod format;
pub mod incident;
pub mod key;
pub mod latch;
pub mod reader;
pub mod recover;
pub mod replay;
mod report;
pub mod run;
pub mod snapshot;
pub mod step;
pub mod tally;
#[cfg(test)]
mod tests;
pub mod verify;
pub mod writer;
