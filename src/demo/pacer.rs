//! Wake-ups more exact than a timer wheel's millisecond: children are 675 µs apart and filled after 400 µs.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// What tasks wait by for time to pass.
pub struct Pacer {
    kind: Kind,
}

enum Kind {
    /// One thread that sleeps until the earliest deadline of all and wakes the task that it belongs to.
    Thread(Thread),
    /// Time that passes when nobody has anything left to do.
    #[cfg(test)]
    Stream(Arc<stream::Time>),
}

struct Thread {
    shared: Arc<Shared>,
    handle: Option<JoinHandle<()>>,
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
        Ok(Pacer { kind: Kind::Thread(Thread { shared, handle: Some(thread) }) })
    }

    /// A pacer by `time`.
    #[cfg(test)]
    pub fn by(time: Arc<stream::Time>) -> Pacer {
        Pacer { kind: Kind::Stream(time) }
    }

    /// Completes after `wait`, or earlier; the caller looks at the clock.
    ///
    /// A task that gives up waiting and asks again replaces its deadline.
    pub async fn until(&self, task: usize, wait: Duration) {
        let shared = match &self.kind {
            Kind::Thread(thread) => &thread.shared,
            #[cfg(test)]
            Kind::Stream(time) => return time.pass(wait).await,
        };
        {
            let deadline = Instant::now() + wait;
            let mut state = shared.lock();
            let earliest = state.deadlines.iter().flatten().min().copied();
            state.deadlines[task] = Some(deadline);
            // The thread sleeps until `earliest`: only an earlier deadline is news to it.
            if earliest.is_none_or(|e| deadline < e) {
                shared.changed.notify_one();
            }
        }
        shared.bells[task].notified().await;
    }

    /// Completes after `wait`, for who is no numbered task and needs no more than a timer's millisecond.
    pub async fn nap(&self, wait: Duration) {
        match &self.kind {
            Kind::Thread(_) => tokio::time::sleep(wait).await,
            #[cfg(test)]
            Kind::Stream(time) => time.pass(wait).await,
        }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.handle.take() {
            // It does nothing that could panic; and there is nobody left to tell.
            drop(thread.join());
        }
    }
}

/// Time for tests: it does not depend on the machine. As long as a task has something to do none passes; when all of them
/// wait it is at once as late as the first of them waits for.
#[cfg(test)]
pub mod stream {
    use std::collections::BTreeMap;
    use std::future::Future;
    use std::pin::{Pin, pin};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, Mutex};
    use std::task::{Context, Poll, Wake, Waker};
    use std::time::Duration;

    use crate::duty::Clock;
    use crate::units::{MonoNanos, Now, UnixNanos};

    /// See the module.
    #[derive(Default)]
    pub struct Time {
        state: Mutex<State>,
    }

    #[derive(Default)]
    struct State {
        now_ns: u64,
        /// Who waits for when; the second number tells those of one moment apart.
        waits: BTreeMap<(u64, u64), Waker>,
        last: u64,
    }

    impl Clock for Time {
        fn now(&self) -> Now {
            let now_ns = self.state.lock().unwrap().now_ns;
            // It has been running for a second: a window may reach back before the beginning.
            Now { mono: MonoNanos(1_000_000_000 + now_ns), unix: UnixNanos(1_000_000_000_000 + now_ns) }
        }
    }

    impl Time {
        /// Completes when `wait` has passed.
        pub fn pass(self: &Arc<Self>, wait: Duration) -> Pass {
            let mut state = self.state.lock().unwrap();
            state.last += 1;
            Pass { time: self.clone(), key: (state.now_ns + wait.as_nanos() as u64, state.last) }
        }

        /// Runs `task` to its end.
        pub fn run<T>(&self, task: impl Future<Output = T>) -> T {
            let mut task = pin!(task);
            let awake = Arc::new(Awake(AtomicBool::new(false)));
            let waker = Waker::from(awake.clone());
            loop {
                if let Poll::Ready(out) = task.as_mut().poll(&mut Context::from_waker(&waker)) {
                    return out;
                }
                while !awake.0.swap(false, Ordering::Relaxed) {
                    let mut state = self.state.lock().unwrap();
                    let (key, next) = state.waits.pop_first().expect("somebody waits for time to pass");
                    state.now_ns = state.now_ns.max(key.0);
                    drop(state);
                    next.wake();
                }
            }
        }
    }

    struct Awake(AtomicBool);

    impl Wake for Awake {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    /// See [`Time::pass`].
    pub struct Pass {
        time: Arc<Time>,
        key: (u64, u64),
    }

    impl Future for Pass {
        type Output = ();

        fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
            let mut state = self.time.state.lock().unwrap();
            if state.now_ns >= self.key.0 {
                return Poll::Ready(());
            }
            state.waits.insert(self.key, cx.waker().clone());
            Poll::Pending
        }
    }

    impl Drop for Pass {
        fn drop(&mut self) {
            self.time.state.lock().unwrap().waits.remove(&self.key);
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
    use futures_util::FutureExt;

    #[test]
    fn time_of_a_stream_passes_only_when_all_wait_and_then_to_the_first_of_them() {
        use crate::duty::Clock;
        let time = Arc::new(stream::Time::default());
        let begin = time.now().mono;
        let pacer = Pacer::by(time.clone());
        let seen = std::cell::RefCell::new(Vec::new());
        let wait = |task: usize, ms: u64| {
            let (pacer, seen, time) = (&pacer, &seen, &time);
            async move {
                pacer.until(task, Duration::from_millis(ms)).await;
                seen.borrow_mut().push((task, time.now().mono.since(begin) / 1_000_000));
            }
        };
        let (begun, long) = (Instant::now(), Duration::from_secs(3_600));
        time.run(async {
            // Who gives up is waited for no longer.
            tokio::select! {
                biased;
                () = pacer.nap(long) => {}
                () = pacer.nap(Duration::ZERO) => {}
            }
            tokio::join!(wait(0, 20_000), wait(1, 0), wait(2, 10_000), async { seen.borrow_mut().push((3, 0)) });
        });
        assert_eq!(*seen.borrow(), [(1, 0), (3, 0), (2, 10_000), (0, 20_000)]);
        assert!(begun.elapsed() < long);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn an_earlier_deadline_wakes_its_task_while_a_later_one_waits() {
        let pacer = Pacer::start(3).unwrap();
        let mut later = std::pin::pin!(pacer.until(0, Duration::from_secs(3_600)));
        assert_eq!(later.as_mut().now_or_never(), None);
        for (task, ms) in [(1, 20), (2, 5)] {
            let (begin, wait) = (Instant::now(), Duration::from_millis(ms));
            tokio::time::timeout(Duration::from_secs(600), pacer.until(task, wait)).await.unwrap();
            assert!(begin.elapsed() >= wait);
        }
        assert_eq!(later.now_or_never(), None);
    }
}
