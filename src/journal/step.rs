//! Named steps of a halt and of the threads that write to disk, at which a test can have the process killed, or one thread wait.
//!
//! `HALTLINE_ABORT_AT=NAME` or `NAME:N` aborts at the first or N-th time that the step is reached: no destructor
//! runs and nothing is flushed, as with SIGKILL. `HALTLINE_HOLD_IN=DIR` has whoever reaches a step wait there for as long as
//! DIR has a file of its name, so that a test can put what others do in between. Only where debug assertions are on: a release
//! build has nothing of it.

/// The page is raised for a press or a trip and everybody woken; its cause is not recorded yet.
pub const HALT_RAISED: &str = "halt raised";

/// The steps of writing, for whoever goes through all of them.
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
    use std::path::PathBuf;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    static HELD: OnceLock<Option<PathBuf>> = OnceLock::new();
    static ASKED: OnceLock<Option<(String, AtomicU64)>> = OnceLock::new();
    let asked = ASKED.get_or_init(|| {
        let asked = std::env::var("HALTLINE_ABORT_AT").ok()?;
        let (name, times) = asked.rsplit_once(':').unwrap_or((&asked, "1"));
        Some((name.to_owned(), AtomicU64::new(times.parse().unwrap_or(1))))
    });
    debug_assert!(step == HALT_RAISED || STEPS.contains(&step), "{step} is not in the list");
    if let Some(dir) = HELD.get_or_init(|| std::env::var_os("HALTLINE_HOLD_IN").map(PathBuf::from)) {
        while dir.join(step).exists() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
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
