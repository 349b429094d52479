//! Named steps of the threads that write to disk, at which a test can have the process killed.
//!
//! `HALTLINE_ABORT_AT=NAME` or `NAME:N` aborts at the first or N-th time that the step is reached: no destructor
//! runs and nothing is flushed, as with SIGKILL. Only where debug assertions are on: a release build has nothing of it.

/// The steps, for whoever goes through all of them.
pub const STEPS: [&str; 18] = [
    "segment made",
    "segment header written",
    "group written",
    "group synced",
    "ring released",
    "checkpoint written",
    "segment closed",
    "run ended",
    "latch written",
    "latch renamed",
    "latch synced",
    "snapshot begun",
    "snapshot written",
    "snapshot synced",
    "snapshot renamed",
    "snapshot accepted",
    "removal recorded",
    "segment removed",
];

/// This step was reached.
#[cfg(debug_assertions)]
pub fn reached(step: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static ASKED: OnceLock<Option<(String, AtomicU64)>> = OnceLock::new();
    let asked = ASKED.get_or_init(|| {
        let asked = std::env::var("HALTLINE_ABORT_AT").ok()?;
        let (name, times) = asked.rsplit_once(':').unwrap_or((&asked, "1"));
        Some((name.to_owned(), AtomicU64::new(times.parse().unwrap_or(1))))
    });
    debug_assert!(STEPS.contains(&step), "{step} is not in the list");
    if let Some((name, left)) = asked
        && name == step
        && left.fetch_sub(1, Ordering::Relaxed) == 1
    {
        std::process::abort();
    }
}

/// This step was reached.
#[cfg(not(debug_assertions))]
#[inline]
pub fn reached(_: &str) {}
