//! Wake-ups more exact than a timer wheel's millisecond: children are 675 µs apart and filled after 400 µs.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::sync::Notify;

/// One thread that sleeps until the earliest deadline of all and wakes the task that it belongs to.
pub struct Pacer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    bells: Vec<Notify>,
}

struct State {
    /// The next deadline of each task.
    deadlines: Vec<Option<Instant>>,
    stop: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is a list of times, whole at any moment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pacer {
    /// A pacer for `tasks` tasks, numbered from 0.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn start(tasks: usize) -> std::io::Result<Pacer> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State { deadlines: vec![None; tasks], stop: false }),
            changed: Condvar::new(),
            bells: (0..tasks).map(|_| Notify::new()).collect(),
        });
        let thread = std::thread::Builder::new().name("demo-pacer".to_owned()).spawn({
            let shared = shared.clone();
            move || shared.run()
        })?;
        Ok(Pacer { shared, thread: Some(thread) })
    }

    /// Completes at `deadline`, or earlier; the caller looks at the clock. `None`: never by itself.
    ///
    /// A task that gives up waiting and asks again replaces its deadline.
    pub async fn until(&self, task: usize, deadline: Option<Instant>) {
        {
            let mut state = self.shared.lock();
            let earliest = state.deadlines.iter().flatten().min().copied();
            state.deadlines[task] = deadline;
            // The thread sleeps until `earliest`: only an earlier deadline is news to it.
            if deadline.is_some_and(|d| earliest.is_none_or(|e| d < e)) {
                self.shared.changed.notify_one();
            }
        }
        self.shared.bells[task].notified().await;
    }
}

impl Drop for Pacer {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // It does nothing that could panic; and there is nobody left to tell.
            drop(thread.join());
        }
    }
}

impl Shared {
    fn run(&self) {
        let mut state = self.lock();
        while !state.stop {
            let now = Instant::now();
            for (deadline, bell) in state.deadlines.iter_mut().zip(&self.bells) {
                if deadline.is_some_and(|d| d <= now) {
                    *deadline = None;
                    bell.notify_one();
                }
            }
            state = match state.deadlines.iter().flatten().min() {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(next) => {
                    let nap = next.saturating_duration_since(Instant::now());
                    self.changed.wait_timeout(state, nap).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(flavor = "current_thread")]
    async fn tasks_wake_in_the_order_of_their_deadlines() {
        let pacer = Pacer::start(3).unwrap();
        let base = Instant::now() + Duration::from_millis(5);
        let order = std::cell::RefCell::new(Vec::new());
        let wait = |task: usize, ms: u64| {
            let (pacer, order) = (&pacer, &order);
            async move {
                let deadline = base + Duration::from_millis(ms);
                while Instant::now() < deadline {
                    pacer.until(task, Some(deadline)).await;
                }
                order.borrow_mut().push(task);
            }
        };
        tokio::join!(wait(0, 20), wait(1, 0), wait(2, 10));
        assert_eq!(*order.borrow(), [1, 2, 0]);
    }
}
