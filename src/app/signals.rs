//! What the process does when it is told something by a signal.

use tokio::signal::unix::{SignalKind, signal};

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

/// Calls `act` for every signal until it returns false. Blocks.
///
/// # Errors
/// If the signals cannot be heard.
pub(super) fn listen(mut act: impl FnMut(Asked) -> bool) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let mut term = signal(SignalKind::terminate())?;
        let mut int = signal(SignalKind::interrupt())?;
        let mut hup = signal(SignalKind::hangup())?;
        let mut usr1 = signal(SignalKind::user_defined1())?;
        // SIGXFSZ would end the process; heard, it leaves the write with an error, which the latch deals with.
        let _xfsz = signal(SignalKind::from_raw(25))?;
        loop {
            let asked = tokio::select! {
                _ = usr1.recv() => Asked::Kill,
                _ = term.recv() => Asked::End,
                _ = int.recv() => Asked::End,
                _ = hup.recv() => Asked::Reload,
            };
            if !act(asked) {
                return Ok(());
            }
        }
    })
}
