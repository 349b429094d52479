//! Alerts on their way to people: kept over restarts ([`store`]), escalated when nobody answers ([`keeper`]), delivered to other
//! machines ([`delivery`]). What an alert is and what becomes of it: [`crate::kill::alerts`].

pub mod alertmanager;
pub mod delivery;
pub mod keeper;
pub mod report;
pub mod store;
pub mod webhook;
