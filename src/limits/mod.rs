//! The limit table: parsed, checked, immutable. What a person wrote, in the form the engine reads.

mod table;

pub use table::{
    DuplicateLimit, Gauge, LimitTable, MAX_RATES, RateKind, RateLimit, RateOf, ScopeLimits, SideRule, UNLIMITED,
    WarnLevels,
};
