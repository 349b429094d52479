//! New limits for a running service: by SIGHUP or over HTTP, all of them or none.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use crossbeam_channel::Sender;

use crate::app::config::{self, Loaded};
use crate::duty::Clock;
use crate::engine::Command;
use crate::limits::LimitTable;
use crate::metrics::ReloadState;
use crate::ring::bell::Bell;

/// Reads the configuration file again and hands the limits to the engine.
pub(super) struct Reloader {
    pub path: Option<PathBuf>,
    pub loaded: Mutex<Loaded>,
    pub limits: Arc<RwLock<Arc<LimitTable>>>,
    pub commands: Sender<Command>,
    pub bell: Arc<Bell>,
    pub state: Arc<ReloadState>,
    pub clock: Arc<dyn Clock>,
}

/// How long the engine may take to accept new limits before that is called a failure.
const HAND_OVER: Duration = Duration::from_secs(1);

impl Reloader {
    /// Loads the limits anew: the new generation, or every violation, with the old limits still in force.
    pub fn reload(&self, actor: &str, reason: &str) -> Result<u32, Vec<String>> {
        let result = self.try_reload();
        match &result {
            Ok(generation) => {
                self.state.succeeded(self.clock.now().unix.0);
                tracing::info!(event = "reload", actor, reason, generation, "new limits are in force");
            }
            Err(violations) => {
                self.state.failed();
                for violation in violations {
                    tracing::error!(event = "reload", actor, reason, "{violation}");
                }
                tracing::error!(event = "reload", actor, reason, "the old limits stay in force");
            }
        }
        result
    }

    fn try_reload(&self) -> Result<u32, Vec<String>> {
        let Some(path) = &self.path else {
            return Err(vec!["this service was not started from a file".to_owned()]);
        };
        // Before the file is read: who reads it later has the newer one, and is the later one to put it in force.
        // A panic while this was held left the old configuration in place.
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let text = config::read_text(path).map_err(|error| vec![error.to_string()])?;
        let file = path.display().to_string();
        let new = config::reload(&loaded, &file, &text).map_err(|found| {
            let line = |v: &config::Violation| {
                format!("{file}:{}:{}: {} = {}: {}", v.line, v.column, v.field, v.value, v.rule)
            };
            found.list.iter().map(line).collect::<Vec<_>>()
        })?;
        let table = Arc::new(new.limits.clone());
        // What the engine reads is computed here, not on its thread.
        let _ = table.hot();
        self.commands
            .send_timeout(Command::SetLimits(table.clone()), HAND_OVER)
            .map_err(|_| vec!["the engine takes no commands".to_owned()])?;
        self.bell.ring();
        let generation = table.generation;
        *self.limits.write().unwrap_or_else(PoisonError::into_inner) = table;
        *loaded = new;
        Ok(generation)
    }
}
