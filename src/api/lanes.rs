//! What takes long, beside the thread that takes kills.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::{StatusCode, header};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::api::ApiParts;
use crate::api::problem::Problem;
use crate::api::routes::Api;

/// Large answers of one lane made at once.
const AT_ONCE: usize = 1;
/// How long one waits for its turn.
const TURN_MAX: Duration = Duration::from_secs(5);

/// What takes long is made in lanes that do not wait for each other.
#[derive(Clone, Copy)]
pub(super) enum Lane {
    /// State, limits, lists.
    Views,
    /// Metrics.
    Scrapes,
    /// Reloads.
    Reloads,
    /// Overrides and other changes of limits.
    Limits,
    /// Drills.
    Drills,
    /// What is read from disk: incidents, the audit.
    Files,
}

/// The lanes of a door. Of each caller one request at a time stands in a lane, the others wait for that one: somebody who asks
/// for as much as they can is to the others one who asks once.
#[derive(Default)]
pub(super) struct Lanes([OneLane; 6]);

struct OneLane {
    /// [`TURN_MAX`].
    turn_max: Duration,
    all: Arc<Semaphore>,
    /// By name. As many as there are in the configuration at most.
    callers: Mutex<HashMap<String, Arc<Semaphore>>>,
}

impl Default for OneLane {
    fn default() -> OneLane {
        OneLane { turn_max: TURN_MAX, all: Arc::new(Semaphore::new(AT_ONCE)), callers: Mutex::default() }
    }
}

/// A turn; over when dropped.
type Turn = (OwnedSemaphorePermit, OwnedSemaphorePermit);

impl OneLane {
    /// Waits for `who`'s turn. `None`: it did not come in time.
    async fn turn(&self, who: &str) -> Option<Turn> {
        let own = {
            let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
            match callers.get(who) {
                Some(own) => own.clone(),
                None => callers.entry(who.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(1))).clone(),
            }
        };
        let turn = async { Some((own.acquire_owned().await.ok()?, self.all.clone().acquire_owned().await.ok()?)) };
        tokio::time::timeout(self.turn_max, turn).await.ok()?
    }
}

impl Api {
    /// Makes a large answer for `who` beside the thread that takes kills. Few at once; who waits too long is told to come back.
    pub(super) async fn beside<T: Send + 'static>(
        self: &Arc<Self>,
        lane: Lane,
        who: &str,
        make: impl FnOnce(&ApiParts) -> T + Send + 'static,
    ) -> Result<T, Problem> {
        let busy = |detail| {
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", "Busy", detail).header(header::RETRY_AFTER, "1")
        };
        let Some(turn) = self.lanes.0[lane as usize].turn(who).await else {
            return Err(busy("too many large answers are being made"));
        };
        let api = self.clone();
        let made = tokio::task::spawn_blocking(move || {
            let made = make(&api.parts);
            drop(turn);
            made
        });
        made.await.map_err(|_| busy("the answer could not be made"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_asks_for_much_is_to_the_others_one_who_asks_once() {
        let lane = OneLane { turn_max: Duration::from_secs(3_600), ..OneLane::default() };
        let first = lane.turn("vera").await.unwrap();
        // A crowd of one, and then somebody else: all wait, in this order.
        let order = Mutex::new(Vec::new());
        let ask = async |who: &'static str| {
            let turn = lane.turn(who).await;
            order.lock().unwrap().push(who);
            drop(turn);
        };
        let crowd = futures_util::future::join_all((0..20).map(|_| ask("vera")));
        let release = async {
            tokio::task::yield_now().await;
            drop(first);
        };
        tokio::join!(crowd, ask("rita"), release);
        let order = order.into_inner().unwrap();
        assert_eq!(order.len(), 21);
        assert!(order.iter().position(|who| *who == "rita").unwrap() <= 1, "{order:?}");
    }
}
