//! What goes into the engine and what comes out: closed enums and fixed-size records, no I/O.

pub mod cancel;
pub mod claim;
pub mod effect;
pub mod event;
pub mod record;
pub mod rule;
#[cfg(feature = "service")]
pub mod save;
pub mod scope;
pub mod universe;

pub use claim::Claim;
pub use effect::{Anomaly, AnomalyKind, Effect, Effects, Trip, Verdict, Warn};
pub use event::{Event, EventKind, OrdType, Side};
pub use rule::{Action, Rule, Target, Why};
pub use scope::{Mode, Scope, ScopeKind};
pub use universe::{InstrumentSpec, SessionKind, SessionSpec, Universe};
