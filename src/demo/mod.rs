//! `haltline demo`.
pub mod alone;
pub mod gateway;
pub mod knight;
