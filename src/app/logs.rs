//! Logging: never from the hot path, never in anybody's way.

use std::io::IsTerminal as _;

use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::EnvFilter;

/// Sends logs to the standard error, as text to a terminal and as JSON otherwise. A writer of its own takes them;
/// when it cannot keep up, lines are dropped. `RUST_LOG` chooses what is logged, `info` by default.
///
/// Keep the guard: what is still waiting is written when it is dropped.
pub fn init() -> WorkerGuard {
    let (writer, guard) = tracing_appender::non_blocking(std::io::stderr());
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    // A second subscriber (two services in one process) is no failure: the first one has the logs.
    let _ = if std::io::stderr().is_terminal() {
        builder.try_init()
    } else {
        builder.json().flatten_event(true).try_init()
    };
    guard
}
