//! What survives: the durable latch, and the loop that keeps record of what the engine reports.

pub mod control;
pub mod latch;
