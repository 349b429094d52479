//! All integration tests, in one binary.

mod alertmanager;
mod alerts;
mod c_client;
mod c_gate;
mod crash;
mod drill;
mod gate;
mod gate_damage;
mod gate_faults;
mod gate_race;
mod gateways;
mod local;
mod oracle;
mod oracle_test;
mod overlay;
mod power;
mod prometheus;
mod recovery;
mod replay;
mod scenarios;
mod service;
mod snapshot;
mod sre;
mod support;
mod tidy;
