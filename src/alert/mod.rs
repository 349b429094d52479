//! Alerts on their way to people: kept over restarts ([`store`]), escalated when nobody answers ([`keeper`]). What an alert
//! is and what becomes of it: [`crate::kill::alerts`].

pub mod keeper;
pub mod report;
pub mod store;
