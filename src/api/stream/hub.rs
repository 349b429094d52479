//! Who looks at the stream, and the task that makes events for all of them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, broadcast, mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior};

use super::model::Model;
use crate::api::ApiParts;

/// Events that are kept for clients that are behind: three seconds at the shortest interval.
const BACKLOG: usize = 32;
/// Streams that one caller may have.
const PER_CALLER: usize = 8;

/// One event, ready to be written.
#[derive(Clone)]
pub(super) struct Frame {
    pub(super) seq: u64,
    pub(super) bytes: Bytes,
}

/// How far one client is.
pub(super) struct Client {
    /// The last event that its connection has taken.
    pub(super) taken: AtomicU64,
    hangup: Arc<Notify>,
}

/// What a client gets: the state at one moment, and every event after it.
pub(super) struct Joined {
    pub(super) first: Bytes,
    pub(super) frames: broadcast::Receiver<Frame>,
    pub(super) client: Arc<Client>,
    _place: Option<StreamPlace>,
}

/// A place among the streams; free again when dropped.
pub(super) struct StreamPlace {
    caller: String,
    callers: Arc<Callers>,
    _permit: OwnedSemaphorePermit,
}

#[derive(Default)]
struct Callers(Mutex<HashMap<String, usize>>);

impl Callers {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        let mut callers = self.callers.lock();
        if let Some(count) = callers.get_mut(&self.caller) {
            *count -= 1;
            if *count == 0 {
                callers.remove(&self.caller);
            }
        }
    }
}

type Join = (Arc<Notify>, oneshot::Sender<Joined>);

/// The streams of one door.
pub(in crate::api) struct Hub {
    places: Arc<Semaphore>,
    callers: Arc<Callers>,
    joins: mpsc::Sender<Join>,
}

impl Hub {
    /// Starts the task that makes events; it ends with `stop`, and with it every stream. Within a runtime.
    pub(in crate::api) fn start(parts: Arc<ApiParts>, stop: watch::Receiver<bool>) -> Hub {
        let streams = parts.options.streams;
        let (joins, hear) = mpsc::channel(streams.max(1));
        tokio::spawn(make(parts, hear, stop));
        Hub { places: Arc::new(Semaphore::new(streams)), callers: Arc::default(), joins }
    }

    /// A stream for `caller`, whose connection ends by `hangup`. Waits for the next event at most.
    pub(super) async fn join(&self, caller: &str, hangup: Arc<Notify>) -> Result<Joined, &'static str> {
        let place = self.place(caller)?;
        let gone = "haltline stops";
        let (tell, told) = oneshot::channel();
        self.joins.send((hangup, tell)).await.map_err(|_| gone)?;
        let joined = told.await.map_err(|_| gone)?;
        Ok(Joined { _place: Some(place), ..joined })
    }

    fn place(&self, caller: &str) -> Result<StreamPlace, &'static str> {
        let mut callers = self.callers.lock();
        if callers.get(caller).is_some_and(|count| *count >= PER_CALLER) {
            return Err("one caller may have eight streams at once");
        }
        let full = "as many streams are open as the configuration allows";
        let permit = self.places.clone().try_acquire_owned().map_err(|_| full)?;
        *callers.entry(caller.to_owned()).or_default() += 1;
        let (caller, callers) = (caller.to_owned(), self.callers.clone());
        Ok(StreamPlace { caller, callers, _permit: permit })
    }
}

/// Makes events as long as somebody looks, and waits for somebody otherwise.
async fn make(parts: Arc<ApiParts>, mut joins: mpsc::Receiver<Join>, mut stop: watch::Receiver<bool>) {
    let patience = parts.options.stream_patience;
    let (frames, _) = broadcast::channel::<Frame>(BACKLOG);
    let mut clients: Vec<(Arc<Client>, Option<Instant>)> = Vec::new();
    let mut model = Box::<Model>::default();
    let mut ticks = tokio::time::interval(parts.options.stream_every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let mut joining: Vec<Join> = Vec::new();
        if clients.is_empty() {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                join = joins.recv() => match join {
                    Some(join) => joining.push(join),
                    None => return,
                },
            }
        } else {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                _ = ticks.tick() => {}
            }
        }
        while let Ok(join) = joins.try_recv() {
            joining.push(join);
        }
        let (parts, somebody_new) = (parts.clone(), !joining.is_empty());
        let made = tokio::task::spawn_blocking(move || {
            let delta = model.tick(&parts);
            let first = somebody_new.then(|| model.first());
            (model, delta, first)
        });
        // It does not panic; if it did, every stream would end.
        let Ok((same, delta, first)) = made.await else { return };
        model = same;
        let seq = model.seq();
        if let Some(bytes) = delta {
            // Nobody is there to take it: no loss.
            let _ = frames.send(Frame { seq, bytes });
        }
        for (hangup, tell) in joining {
            let client = Arc::new(Client { taken: AtomicU64::new(seq), hangup });
            let first = first.clone().unwrap_or_default();
            let joined = Joined { first, frames: frames.subscribe(), client: client.clone(), _place: None };
            if tell.send(joined).is_ok() {
                clients.push((client, None));
            }
        }
        clients.retain_mut(|(client, behind)| stays(client, behind, seq, patience));
    }
}

/// Whether a client is still there. One that takes nothing for too long is hung up on: it cannot even be told.
fn stays(client: &Arc<Client>, behind: &mut Option<Instant>, seq: u64, patience: Duration) -> bool {
    if Arc::strong_count(client) == 1 {
        return false;
    }
    if seq.saturating_sub(client.taken.load(Ordering::Relaxed)) <= BACKLOG as u64 {
        *behind = None;
        return true;
    }
    let cut = behind.get_or_insert_with(Instant::now).elapsed() >= patience;
    if cut {
        tracing::warn!(event = "stream_cut", "a client of the stream read nothing for too long and was cut off");
        client.hangup.notify_one();
    }
    !cut
}
