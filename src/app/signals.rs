//! What the process does when it is told something by a signal.

use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// SIGTERM or SIGINT: an orderly end.
    End,
    /// SIGHUP: load the limits anew.
    Reload,
    /// SIGUSR1: halt the firm.
    Kill,
}

/// The signals, heard from the moment this exists: one that comes before [`Signals::listen`] waits for it. Without it a
/// SIGUSR1 would end the process instead of halting the firm.
pub(super) struct Signals {
    runtime: Runtime,
    term: Signal,
    int: Signal,
    hup: Signal,
    usr1: Signal,
    /// SIGXFSZ would end the process; heard, it leaves the write with an error, which the latch deals with.
    _xfsz: Signal,
}

impl Signals {
    /// Hears from now on. To be made before anything that a signal could ask for.
    ///
    /// # Errors
    /// If the signals cannot be heard.
    pub(super) fn hear() -> std::io::Result<Signals> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let entered = runtime.enter();
        let (term, int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let (hup, usr1) = (signal(SignalKind::hangup())?, signal(SignalKind::user_defined1())?);
        let xfsz = signal(SignalKind::from_raw(25))?;
        drop(entered);
        Ok(Signals { runtime, term, int, hup, usr1, _xfsz: xfsz })
    }

    /// Calls `act` for every signal until it returns false. Blocks.
    pub(super) fn listen(mut self, mut act: impl FnMut(Asked) -> bool) {
        self.runtime.block_on(async {
            loop {
                let asked = tokio::select! {
                    biased;
                    _ = self.usr1.recv() => Asked::Kill,
                    _ = self.term.recv() => Asked::End,
                    _ = self.int.recv() => Asked::End,
                    _ = self.hup.recv() => Asked::Reload,
                };
                if !act(asked) {
                    return;
                }
            }
        });
    }
}
