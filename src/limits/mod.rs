//! The limit table: parsed, checked, immutable. What a person wrote, in the form the engine reads.

mod cancel;
pub mod compare;
pub mod demand;
pub mod hot;
pub mod overlay;
mod table;

pub use cancel::{CancelPolicy, SessionCancel};
pub use hot::HotProfile;
pub use table::{
    DuplicateLimit, FanOutLimit, Gauge, LimitTable, MAX_RATES, ParentRule, RateKind, RateLimit, RateOf, ScopeLimits,
    SideRule, UNLIMITED, WarnLevels,
};
