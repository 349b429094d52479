//! All integration tests, in one binary.

mod c_client;
mod c_gate;
mod gate;
mod gateways;
mod oracle;
mod oracle_test;
mod prometheus;
mod scenarios;
mod service;
mod support;
mod tidy;
