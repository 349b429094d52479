//! What the service manager is told, by the protocol of sd_notify(3): datagrams to the socket that `NOTIFY_SOCKET` names.
//!
//! `READY=1` once the engine turns, `RELOADING=1` and `READY=1` around a reload, `STOPPING=1` at the orderly end. `WATCHDOG=1`
//! goes out only if the engine has made a round since the last one: a process that lives while its engine stands still is one
//! that the manager should end and start anew. Gates do not wait for that, their lease lapses long before.
//!
//! One thread says it all, so that nothing overtakes anything.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use rustix::time::{ClockId, clock_gettime};

use crate::app::service::spawn;
use crate::engine::published::Published;

/// How often the engine's first round is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// How often the engine is looked at if there is no watchdog to feed.
const STATUS_EVERY: Duration = Duration::from_secs(1);
/// Looks at the engine per watchdog period: one may be late without consequence.
const LOOKS: u32 = 4;

/// What the rest of the service says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// A reload begins.
    Reloading,
    /// It has ended, whatever came of it: the service serves.
    Reloaded,
    /// The orderly end begins.
    Stopping,
}

/// The way to the service manager.
pub(super) struct Manager {
    socket: UnixDatagram,
    address: SocketAddr,
    /// The period in which it wants to hear that all is well.
    watchdog: Option<Duration>,
}

/// The thread that tells it. Without a manager there is none, and what is told goes nowhere.
pub(super) struct Notifier {
    tell: Option<Sender<Told>>,
    thread: Option<JoinHandle<()>>,
}

impl Manager {
    /// The manager that started this process, if one did and wants to be told.
    ///
    /// # Errors
    /// If a variable of the environment is none that a manager would set, or there can be no socket.
    pub(super) fn of_environment() -> anyhow::Result<Option<Manager>> {
        let Some(name) = env::var_os("NOTIFY_SOCKET") else { return Ok(None) };
        let address = address(&name).with_context(|| {
            format!("NOTIFY_SOCKET = {name:?}: must be an absolute path, or @ and an abstract name")
        })?;
        let read = |variable| env::var_os(variable).map(|value| value.to_string_lossy().into_owned());
        let watchdog = period(read("WATCHDOG_USEC").as_deref(), read("WATCHDOG_PID").as_deref(), std::process::id())?;
        let socket = UnixDatagram::unbound().context("a socket for the service manager")?;
        // A manager that does not read must not hold anything up.
        socket.set_nonblocking(true)?;
        Ok(Some(Manager { socket, address, watchdog }))
    }

    fn say(&self, text: &str) {
        if let Err(error) = self.socket.send_to_addr(text.as_bytes(), &self.address) {
            tracing::warn!(event = "notify", %error, "the service manager was not told: {}", text.replace('\n', " "));
        }
    }

    fn run(&self, published: &Published, serving: &str, hear: &Receiver<Told>) {
        let every = self.watchdog.map_or(STATUS_EVERY, |period| period / LOOKS);
        let (mut seen, mut ready, mut stands) = (0, false, false);
        let mut next = Instant::now();
        loop {
            match hear.recv_deadline(next) {
                Ok(Told::Stopping) | Err(RecvTimeoutError::Disconnected) => return self.say("STOPPING=1"),
                // Before the first READY=1 there is nothing to take back.
                Ok(Told::Reloading) if ready => self.say(&format!("RELOADING=1\nMONOTONIC_USEC={}", monotonic_us())),
                Ok(Told::Reloaded) if ready => self.say("READY=1"),
                Ok(Told::Reloading | Told::Reloaded) => {}
                Err(RecvTimeoutError::Timeout) => {
                    let progress = published.progress.get();
                    let moved = progress != seen;
                    seen = progress;
                    if moved && !ready {
                        ready = true;
                        self.say(&format!("READY=1\nSTATUS={serving}"));
                    }
                    if moved && self.watchdog.is_some() {
                        self.say("WATCHDOG=1");
                    }
                    if ready && moved == stands {
                        stands = !moved;
                        let status = if stands { "the engine makes no progress" } else { serving };
                        self.say(&format!("STATUS={status}"));
                    }
                    next = Instant::now() + if ready { every } else { LOOK_EVERY };
                }
            }
        }
    }
}

impl Notifier {
    /// Tells `manager`, if there is one, as soon as the engine turns. `serving` is what it shows to people.
    ///
    /// # Errors
    /// If the thread cannot be made.
    pub(super) fn start(
        manager: Option<Manager>,
        published: Arc<Published>,
        serving: String,
    ) -> anyhow::Result<Notifier> {
        let Some(manager) = manager else { return Ok(Notifier { tell: None, thread: None }) };
        let (tell, hear) = crossbeam_channel::unbounded();
        let thread = spawn("notify", move || manager.run(&published, &serving, &hear))?;
        Ok(Notifier { tell: Some(tell), thread: Some(thread) })
    }

    /// Somebody else's way to tell.
    pub(super) fn teller(&self) -> impl Fn(Told) + Send + 'static {
        let tell = self.tell.clone();
        move |told| {
            if let Some(tell) = &tell {
                // The thread has ended: then so has the service.
                let _ = tell.send(told);
            }
        }
    }

    /// Says that the end begins, and returns when that has been said.
    pub(super) fn stopping(self) {
        self.teller()(Told::Stopping);
        if let Some(thread) = self.thread {
            let _ = thread.join();
        }
    }
}

fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes() {
        [b'@', rest @ ..] if !rest.is_empty() => SocketAddr::from_abstract_name(rest),
        [b'/', ..] => SocketAddr::from_pathname(name),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

/// The watchdog's period, if it is meant for the process `own`.
fn period(usec: Option<&str>, pid: Option<&str>, own: u32) -> anyhow::Result<Option<Duration>> {
    let Some(usec) = usec else { return Ok(None) };
    if pid.is_some_and(|pid| pid != own.to_string()) {
        return Ok(None);
    }
    let period = usec.parse().ok().filter(|usec: &u64| *usec > 0);
    let period = period.with_context(|| format!("WATCHDOG_USEC = {usec:?}: must be a positive number"))?;
    Ok(Some(Duration::from_micros(period)))
}

fn monotonic_us() -> i128 {
    let now = clock_gettime(ClockId::Monotonic);
    i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1_000
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kill::testing::universe_of;

    #[test]
    fn an_address_is_a_path_or_an_abstract_name() {
        assert_eq!(address(OsStr::new("/run/n")).unwrap().as_pathname(), Some("/run/n".as_ref()));
        assert_eq!(address(OsStr::new("@x/y")).unwrap().as_abstract_name(), Some(&b"x/y"[..]));
        for bad in ["", "@", "run/n", "vsock:2:1234"] {
            assert!(address(OsStr::new(bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_watchdog_of_another_process_is_not_fed_and_a_bad_period_is_refused() {
        let ms = Duration::from_millis;
        assert_eq!(period(Some("2000"), None, 7).unwrap(), Some(ms(2)));
        assert_eq!(period(Some("2000"), Some("7"), 7).unwrap(), Some(ms(2)));
        assert_eq!(period(Some("2000"), Some("8"), 7).unwrap(), None);
        assert_eq!(period(None, Some("7"), 7).unwrap(), None);
        for bad in ["0", "-1", "2s", ""] {
            let error = period(Some(bad), None, 7).unwrap_err().to_string();
            assert!(error.contains("WATCHDOG_USEC") && error.contains(bad), "{error}");
        }
    }

    /// A manager that reads, an engine that this test turns, and what connects them.
    fn world() -> (UnixDatagram, Arc<Published>, Notifier) {
        let ours = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(unique()).unwrap()).unwrap();
        ours.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        let socket = UnixDatagram::unbound().unwrap();
        let address = ours.local_addr().unwrap();
        let manager = Manager { socket, address, watchdog: Some(Duration::from_millis(4)) };
        let published = Arc::new(Published::new(&universe_of(1, 1)));
        let notifier = Notifier::start(Some(manager), published.clone(), "serving".to_owned()).unwrap();
        (ours, published, notifier)
    }

    fn unique() -> Vec<u8> {
        let name = format!("haltline-notify-{}-{:?}", std::process::id(), std::thread::current().id());
        name.into_bytes()
    }

    fn hear(manager: &UnixDatagram) -> String {
        let mut buffer = [0; 256];
        let length = manager.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    #[test]
    fn the_watchdog_is_fed_by_rounds_of_the_engine_and_by_nothing_else() {
        let (manager, published, notifier) = world();
        let tell = notifier.teller();
        // Not ready yet, so a reload is not to be heard of.
        tell(Told::Reloading);
        tell(Told::Reloaded);
        while !notifier.tell.as_ref().unwrap().is_empty() {
            std::thread::yield_now();
        }
        published.progress.add(1);
        assert_eq!(hear(&manager), "READY=1\nSTATUS=serving");
        assert_eq!(hear(&manager), "WATCHDOG=1");
        // One round feeds it once; then the engine is seen to stand still, and that is all.
        assert_eq!(hear(&manager), "STATUS=the engine makes no progress");
        tell(Told::Reloading);
        assert!(hear(&manager).starts_with("RELOADING=1\nMONOTONIC_USEC="));
        tell(Told::Reloaded);
        assert_eq!(hear(&manager), "READY=1");
        published.progress.add(1);
        assert_eq!(hear(&manager), "WATCHDOG=1");
        assert_eq!(hear(&manager), "STATUS=serving");
        assert_eq!(hear(&manager), "STATUS=the engine makes no progress");
        notifier.stopping();
        assert_eq!(hear(&manager), "STOPPING=1");
    }

    #[test]
    fn an_end_before_the_first_round_is_told_and_nobody_is_told_without_a_manager() {
        let (manager, _published, notifier) = world();
        notifier.stopping();
        assert_eq!(hear(&manager), "STOPPING=1");
        let published = Arc::new(Published::new(&universe_of(1, 1)));
        let nobody = Notifier::start(None, published, String::new()).unwrap();
        nobody.teller()(Told::Reloading);
        nobody.stopping();
    }
}
