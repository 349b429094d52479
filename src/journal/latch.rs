//! The durable latch: what a halt survives a restart by.
//!
//! ```text
//! state directory
//! ├── lock           held (flock) by the one daemon that uses the directory
//! ├── latch          what is halted; replaced as a whole
//! ├── latch.damaged  a latch that could not be read, kept for whoever looks into it
//! ├── running        there from start to orderly shutdown: found at start, the last run did not end orderly
//! └── events_taken   there since the first event was ever taken: positions were built up that nothing here knows
//!
//! latch: "haltline-latch 1 " ‖ BLAKE3 of the rest, 64 lower-case hex digits ‖ "\n" ‖ JSON
//! ```
//!
//! A write goes to a new file, which is synced, renamed over `latch`, and the directory synced. A sync that failed
//! is never tried again on the same descriptor (the kernel may have dropped the pages and call them clean): the
//! next try begins with another file. So at any moment `latch` is a whole one: the last that was reported
//! durable, or a later one.
//!
//! Whatever cannot be understood is taken as "everything is halted".

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::Receiver;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::duty::Clock;
use crate::journal::step::reached;
use crate::kill::page::{HaltPage, ModeWord};
use crate::kill::switch::{Cause, LatchEntry, Snapshot, Switch};
use crate::model::{Mode, Scope, Universe};
use crate::units::Now;

const MAGIC: &str = "haltline-latch";
const VERSION: &str = "1";
/// No latch is larger: a million scopes would fit. A larger file is damaged, and is not read.
const SIZE_MAX: u64 = 1 << 30;
/// Epochs begin at a multiple of this after a restart, so that none is used twice even if the last run could not
/// write down how far it had counted.
const EPOCH_STEP: u64 = 1_000_000;

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body<Entries> {
    next_epoch: u64,
    entries: Entries,
}

/// Why a state directory cannot be used. The service does not start.
#[derive(Debug, Error)]
pub enum StateDirError {
    /// It is not there, or not a directory.
    #[error("state directory {0} does not exist; `haltline init` makes a new one")]
    Missing(PathBuf),
    /// Only an empty directory is made a state directory.
    #[error("{0} is not empty: a new state directory is never made over an old one")]
    NotEmpty(PathBuf),
    /// Another daemon has it.
    #[error("state directory {0} is in use by another haltline")]
    InUse(PathBuf),
    /// The file system said no.
    #[error("cannot {doing} {path}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateDirError {
    let path = path.to_owned();
    move |source| StateDirError::Io { doing, path, source }
}

/// What the latch file was like at start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Whole.
    Intact {
        /// Beyond every epoch in `entries`.
        next_epoch: u64,
        /// What was halted.
        entries: Vec<LatchEntry>,
    },
    /// There is none.
    Missing,
    /// Of a version that this program does not know.
    WrongVersion(String),
    /// Not what was written.
    Damaged(String),
    /// The file system did not give it.
    Unreadable(String),
}

impl Found {
    /// The page and causes to start with. Whatever is wrong with the latch halts the firm.
    #[must_use]
    pub fn restore(&self, universe: &Universe, now: Now) -> Restored {
        let (next_epoch, entries, mut faults) = match self {
            Found::Intact { next_epoch, entries } => (next_epoch.saturating_add(EPOCH_STEP), entries.clone(), vec![]),
            // How far the epochs were counted is not known: one per microsecond since 1970 were not used up.
            Found::Missing => (now.unix.0 / 1_000, vec![], vec!["the latch file is missing".to_owned()]),
            Found::WrongVersion(version) => {
                (now.unix.0 / 1_000, vec![], vec![format!("the latch file has the unknown version {version}")])
            }
            Found::Damaged(why) => (now.unix.0 / 1_000, vec![], vec![format!("the latch file is damaged: {why}")]),
            Found::Unreadable(why) => {
                (now.unix.0 / 1_000, vec![], vec![format!("the latch file cannot be read: {why}")])
            }
        };
        let mut page = HaltPage::new(universe.scope_count(), (next_epoch / EPOCH_STEP).max(1) * EPOCH_STEP);
        let mut causes: Vec<(usize, Vec<Cause>)> = Vec::new();
        let mut orphans = Vec::new();
        for entry in entries {
            match entry.scope.find(universe).and_then(|scope| universe.slot(scope)) {
                Some(slot) => {
                    page.restore(slot, ModeWord { mode: entry.mode, epoch: entry.epoch });
                    causes.push((slot, entry.causes));
                }
                None => {
                    faults.push(format!("the latch halts {}, which the configuration does not have", entry.scope));
                    orphans.push(entry);
                }
            }
        }
        if !faults.is_empty()
            && let Some(firm) = universe.slot(Scope::Firm)
        {
            let word = page.raise(firm, Mode::Halted);
            let why = faults.iter().map(|fault| Cause {
                mode: Mode::Halted,
                epoch: word.epoch,
                at: now.unix.0,
                actor: "haltline".to_owned(),
                reason: fault.clone(),
                trip: None,
            });
            match causes.iter_mut().find(|(slot, _)| *slot == firm) {
                Some((_, list)) => list.extend(why.take(1)),
                None => causes.push((firm, why.take(4).collect())),
            }
        }
        Restored { page, causes, orphans, faults }
    }
}

/// How the previous run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PreviousRun {
    /// It took events, or an earlier one did: there may be positions and working orders.
    pub took_events: bool,
    /// It did not end by an orderly shutdown.
    pub unclean: bool,
}

impl PreviousRun {
    /// Whether there may be positions and working orders that this run knows nothing of.
    #[must_use]
    pub const fn positions_unknown(self) -> bool {
        self.took_events || self.unclean
    }
}

/// The halt page as the latch wants it at start.
#[derive(Debug)]
pub struct Restored {
    /// With all latched words, and the firm halted if anything was wrong with the latch.
    pub page: HaltPage,
    /// Why, by slot.
    pub causes: Vec<(usize, Vec<Cause>)>,
    /// Halts of scopes that the configuration no longer has. They stay in the latch until the firm is re-armed.
    pub orphans: Vec<LatchEntry>,
    /// What was wrong with the latch, one sentence each; empty if nothing was.
    pub faults: Vec<String>,
}

/// The state directory, locked.
#[derive(Debug)]
pub struct LatchStore {
    dir: PathBuf,
    /// Holds the lock as long as it is open.
    _lock: File,
    found: Found,
    previous: PreviousRun,
    attempts: u64,
}

impl LatchStore {
    /// Makes `dir` a new state directory with an empty latch. The only thing that ever makes one.
    ///
    /// # Errors
    /// See [`StateDirError`]; in particular [`StateDirError::NotEmpty`] if there is anything in `dir`.
    pub fn init(dir: &Path) -> Result<(), StateDirError> {
        // Who can write here can undo a halt: nobody else may.
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io_error("make", dir))?;
        if fs::read_dir(dir).map_err(io_error("read", dir))?.next().is_some() {
            return Err(StateDirError::NotEmpty(dir.to_owned()));
        }
        let lock = take_lock(dir)?;
        let none = PreviousRun { took_events: false, unclean: false };
        let mut store =
            LatchStore { dir: dir.to_owned(), _lock: lock, found: Found::Missing, previous: none, attempts: 0 };
        store
            .write(&Snapshot { changes: 0, causes: 0, next_epoch: 1, entries: Vec::new() })
            .map_err(io_error("write", dir))?;
        if let Some(parent) = dir.parent().filter(|p| !p.as_os_str().is_empty()) {
            sync_dir(parent).map_err(io_error("sync", parent))?;
        }
        Ok(())
    }

    /// Tells whether there is a state directory at `dir`.
    ///
    /// # Errors
    /// [`StateDirError::Missing`] if there is none.
    pub fn check(dir: &Path) -> Result<(), StateDirError> {
        if dir.is_dir() { Ok(()) } else { Err(StateDirError::Missing(dir.to_owned())) }
    }

    /// Locks `dir`, reads the latch and marks the run as begun.
    ///
    /// What is wrong with the latch file itself is not an error here but in [`LatchStore::found`]: then the service
    /// starts, halted.
    ///
    /// # Errors
    /// See [`StateDirError`].
    pub fn open(dir: &Path) -> Result<LatchStore, StateDirError> {
        LatchStore::check(dir)?;
        let lock = take_lock(dir)?;
        for leftover in leftovers(dir).map_err(io_error("read", dir))? {
            fs::remove_file(&leftover).map_err(io_error("remove", &leftover))?;
        }
        let found = read(&dir.join("latch"));
        let running = dir.join("running");
        let previous = PreviousRun {
            // Not being able to tell counts as "yes".
            took_events: dir.join("events_taken").try_exists().unwrap_or(true),
            unclean: running.try_exists().unwrap_or(true),
        };
        mark(dir, "running").map_err(io_error("write", &running))?;
        Ok(LatchStore { dir: dir.to_owned(), _lock: lock, found, previous, attempts: 0 })
    }

    /// What the latch file was like at start.
    #[must_use]
    pub fn found(&self) -> &Found {
        &self.found
    }

    /// How the previous run ended.
    #[must_use]
    pub fn previous_run(&self) -> PreviousRun {
        self.previous
    }

    /// The flag that events were taken, to be set by another thread.
    #[must_use]
    pub fn events_taken(&self) -> EventsTaken {
        EventsTaken { dir: self.dir.clone(), set: AtomicBool::new(self.previous.took_events) }
    }

    /// The page and causes to start with, see [`Found::restore`].
    #[must_use]
    pub fn restore(&self, universe: &Universe, now: Now) -> Restored {
        self.found.restore(universe, now)
    }

    /// Puts `snapshot` on disk. When this returns `Ok`, it survives a power loss.
    ///
    /// # Errors
    /// What the file system said. Then the latch is the last durable one, or already this one.
    pub fn write(&mut self, snapshot: &Snapshot) -> io::Result<()> {
        let body = Body { next_epoch: snapshot.next_epoch, entries: snapshot.entries.as_slice() };
        let mut json = serde_json::to_string_pretty(&body)?;
        json.push('\n');
        let text = format!("{MAGIC} {VERSION} {}\n{json}", blake3::hash(json.as_bytes()).to_hex());
        let path = self.dir.join("latch");
        match self.found {
            Found::Damaged(_) | Found::WrongVersion(_) => {
                // If we die between the two renames the latch is missing, and that halts as well.
                fs::rename(&path, self.dir.join("latch.damaged"))?;
                self.found = Found::Missing;
            }
            Found::Intact { .. } | Found::Missing | Found::Unreadable(_) => {}
        }
        self.attempts += 1;
        let new = self.dir.join(format!("latch.new-{}", self.attempts));
        let written = (|| {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
            file.write_all(text.as_bytes())?;
            file.sync_data()?;
            reached("latch written");
            fs::rename(&new, &path)?;
            reached("latch renamed");
            Ok(())
        })();
        if let Err(error) = written {
            // Of no use to anybody; if it cannot be removed the next start does it.
            let _ = fs::remove_file(&new);
            return Err(error);
        }
        sync_dir(&self.dir)?;
        reached("latch synced");
        Ok(())
    }

    /// Ends the run in an orderly way: the next start does not find it unclean. Call only when all else is on disk:
    /// [`Switch::is_durable`], and [`run_control`](crate::journal::control::run_control) ended without an error.
    ///
    /// # Errors
    /// What the file system said: the next start finds the run unclean.
    pub fn close(self) -> io::Result<()> {
        fs::remove_file(self.dir.join("running"))?;
        sync_dir(&self.dir)
    }
}

/// The durable flag that events were taken: after a restart positions are unknown.
#[derive(Debug)]
pub struct EventsTaken {
    dir: PathBuf,
    set: AtomicBool,
}

impl EventsTaken {
    /// Sets the flag; costs one load once it is set.
    ///
    /// # Errors
    /// What the file system said. The flag is not set; try again.
    pub fn note(&self) -> io::Result<()> {
        if self.set.load(Ordering::Acquire) {
            return Ok(());
        }
        mark(&self.dir, "events_taken")?;
        self.set.store(true, Ordering::Release);
        Ok(())
    }
}

fn take_lock(dir: &Path) -> Result<File, StateDirError> {
    let path = dir.join("lock");
    let file =
        OpenOptions::new().write(true).create(true).truncate(false).open(&path).map_err(io_error("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StateDirError::InUse(dir.to_owned())),
        Err(TryLockError::Error(error)) => Err(io_error("lock", &path)(error)),
    }
}

fn leftovers(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(b"latch.new-") {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn mark(dir: &Path, name: &str) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(dir.join(name))?;
    file.sync_all()?;
    sync_dir(dir)
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn read(path: &Path) -> Found {
    match fs::metadata(path) {
        Ok(meta) if meta.len() > SIZE_MAX => return Found::Damaged(format!("it has {} bytes", meta.len())),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Found::Missing,
        Err(error) => return Found::Unreadable(error.to_string()),
    }
    match fs::read(path) {
        Ok(bytes) => parse(&bytes),
        Err(error) => Found::Unreadable(error.to_string()),
    }
}

fn parse(bytes: &[u8]) -> Found {
    let damaged = |why: &str| Found::Damaged(why.to_owned());
    let Some(end) = bytes.iter().position(|&b| b == b'\n') else { return damaged("it has no header line") };
    let (header, json) = (&bytes[..end], &bytes[end + 1..]);
    let Ok(header) = core::str::from_utf8(header) else { return damaged("its header is not text") };
    let mut words = header.split(' ');
    let (magic, version, sum) = (words.next(), words.next(), words.next());
    let (Some(MAGIC), Some(version), Some(sum), None) = (magic, version, sum, words.next()) else {
        return damaged("its header is not that of a latch");
    };
    if version != VERSION {
        // Not damaged by all we know, but nothing that we could read.
        return Found::WrongVersion(version.chars().take(16).filter(|c| c.is_ascii_graphic()).collect());
    }
    if *sum != *blake3::hash(json).to_hex() {
        return damaged("its check sum does not fit");
    }
    match serde_json::from_slice::<Body<Vec<LatchEntry>>>(json) {
        Ok(body) => Found::Intact { next_epoch: body.next_epoch, entries: body.entries },
        Err(error) => Found::Damaged(format!("its check sum fits, but its content does not: {error}")),
    }
}

/// The longest wait between two tries after a failure.
const RETRY_MAX: Duration = Duration::from_secs(1);
/// The shortest, and how often the writer looks at the page without being woken.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The latch's writer: a thread's loop. Writes at start, then whenever the switch asks or the page has changed, until
/// `stop`; at last once more. Gives the store back for [`LatchStore::close`].
///
/// A failure is reported to the switch and tried again, with growing pauses, which a new request cuts short.
/// What was raised is raised whatever happens here.
pub fn run_latch(
    mut store: LatchStore,
    switch: &Switch,
    jobs: &Receiver<()>,
    clock: &Arc<dyn Clock>,
    stop: &AtomicBool,
) -> LatchStore {
    let mut pause = LOOK_EVERY;
    let mut asked = true;
    loop {
        let stopping = stop.load(Ordering::Acquire);
        if asked || stopping || !switch.is_durable() || switch.latch().error.is_some() {
            let snapshot = switch.snapshot();
            match store.write(&snapshot) {
                Ok(()) => {
                    switch.latch_written(&snapshot, clock.now());
                    pause = LOOK_EVERY;
                }
                Err(error) => {
                    tracing::error!(%error, "latch write failed");
                    switch.latch_failed(error.to_string());
                    pause = (pause * 2).min(RETRY_MAX);
                }
            }
        }
        if stopping {
            return store;
        }
        asked = jobs.recv_timeout(pause).is_ok();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::kill::board::SessionBoard;
    use crate::kill::rearm::RearmPolicy;
    use crate::kill::switch::{Stop, SwitchParts, TripCause};
    use crate::kill::testing::TestClock;
    use crate::kill::testing::universe;
    use crate::kill::words::ScopeName;
    use crate::units::{MonoNanos, UnixNanos};

    fn now() -> Now {
        Now { mono: MonoNanos(5_000_000_000), unix: UnixNanos(1_800_000_000_000_000_000) }
    }

    fn entry(kind: &str, name: &str, mode: Mode, epoch: u64) -> LatchEntry {
        let cause = Cause {
            mode,
            epoch,
            at: 1,
            actor: "alice".into(),
            reason: "drill".into(),
            trip: Some(TripCause {
                rule: "order_rate".into(),
                why: "breach".into(),
                at: ScopeName { kind: kind.into(), name: name.into() },
                observed: "11".into(),
                limit: "10".into(),
                unit: "count".into(),
                session: "gw-1".into(),
                seq: 7,
            }),
        };
        LatchEntry { scope: ScopeName { kind: kind.into(), name: name.into() }, mode, epoch, causes: vec![cause] }
    }

    fn halted_snapshot() -> Snapshot {
        let entries = vec![entry("strategy", "alpha", Mode::Halted, 3), entry("session", "gw-1", Mode::ReduceOnly, 4)];
        Snapshot { changes: 2, causes: 2, next_epoch: 5, entries }
    }

    /// A state directory whose latch holds [`halted_snapshot`], and its bytes.
    fn written() -> (tempfile::TempDir, PathBuf, Vec<u8>) {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("state");
        LatchStore::init(&dir).unwrap();
        let mut store = LatchStore::open(&dir).unwrap();
        store.write(&halted_snapshot()).unwrap();
        store.close().unwrap();
        let bytes = fs::read(dir.join("latch")).unwrap();
        (tmp, dir, bytes)
    }

    fn mode_of(restored: &Restored, universe: &Universe, kind: &str, name: &str) -> Mode {
        let scope = universe.scope_named(kind, name).unwrap();
        restored.page.get(universe.slot(scope).unwrap()).mode
    }

    #[test]
    fn what_was_written_is_restored_in_later_epochs() {
        let (_tmp, dir, _) = written();
        let universe = universe();
        let store = LatchStore::open(&dir).unwrap();
        let restored = store.restore(&universe, now());
        assert_eq!(restored.faults, Vec::<String>::new());
        assert_eq!(mode_of(&restored, &universe, "strategy", "alpha"), Mode::Halted);
        assert_eq!(mode_of(&restored, &universe, "session", "gw-1"), Mode::ReduceOnly);
        assert_eq!(mode_of(&restored, &universe, "firm", ""), Mode::Normal);
        assert_eq!(restored.causes.len(), 2);
        assert!(restored.page.next_epoch() > halted_snapshot().next_epoch);
    }

    #[test]
    fn init_makes_an_empty_latch_once_and_never_over_anything() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("state");
        LatchStore::init(&dir).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&dir), mode(&dir.join("latch"))), (0o700, 0o600));
        assert!(matches!(LatchStore::init(&dir), Err(StateDirError::NotEmpty(_))));
        let store = LatchStore::open(&dir).unwrap();
        assert_eq!(*store.found(), Found::Intact { next_epoch: 1, entries: vec![] });
        assert!(!store.previous_run().positions_unknown());
    }

    #[test]
    fn a_directory_that_is_not_there_is_not_made_by_accident() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("state");
        assert!(matches!(LatchStore::open(&dir), Err(StateDirError::Missing(_))));
        assert!(!dir.exists());
    }

    #[test]
    fn two_daemons_cannot_share_a_directory() {
        let (_tmp, dir, _) = written();
        let first = LatchStore::open(&dir).unwrap();
        assert!(matches!(LatchStore::open(&dir), Err(StateDirError::InUse(_))));
        drop(first);
        LatchStore::open(&dir).unwrap();
    }

    #[test]
    fn missing_latch_starts_halted_and_says_so() {
        let (_tmp, dir, _) = written();
        fs::remove_file(dir.join("latch")).unwrap();
        let universe = universe();
        let restored = LatchStore::open(&dir).unwrap().restore(&universe, now());
        assert_eq!(mode_of(&restored, &universe, "firm", ""), Mode::Halted);
        assert_eq!(restored.causes[0].1[0].reason, "the latch file is missing");
        assert!(restored.page.next_epoch() > 1_000_000_000_000_000);
    }

    #[test]
    fn latch_cut_at_any_byte_starts_halted() {
        let (tmp, _dir, bytes) = written();
        let universe = universe();
        let cut_off = tmp.path().join("latch");
        for cut in 0..bytes.len() {
            fs::write(&cut_off, &bytes[..cut]).unwrap();
            let found = read(&cut_off);
            assert!(matches!(found, Found::Damaged(_)), "cut at {cut}: {found:?}");
            let restored = found.restore(&universe, now());
            assert_eq!(mode_of(&restored, &universe, "firm", ""), Mode::Halted, "cut at {cut}");
        }
    }

    #[test]
    fn latch_with_any_bit_flipped_starts_halted() {
        let (_tmp, _dir, bytes) = written();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                assert!(!matches!(parse(&flipped), Found::Intact { .. }), "bit {bit} of byte {at}");
            }
        }
        assert!(matches!(parse(&bytes), Found::Intact { .. }));
    }

    #[test]
    fn latch_of_another_version_starts_halted_and_is_kept() {
        let (_tmp, dir, bytes) = written();
        let text = String::from_utf8(bytes).unwrap().replacen("haltline-latch 1 ", "haltline-latch 2 ", 1);
        fs::write(dir.join("latch"), &text).unwrap();
        let universe = universe();
        let mut store = LatchStore::open(&dir).unwrap();
        assert_eq!(*store.found(), Found::WrongVersion("2".into()));
        let restored = store.restore(&universe, now());
        assert_eq!(mode_of(&restored, &universe, "firm", ""), Mode::Halted);
        store.write(&halted_snapshot()).unwrap();
        assert_eq!(fs::read_to_string(dir.join("latch.damaged")).unwrap(), text);
        drop(store);
        assert!(matches!(LatchStore::open(&dir).unwrap().found(), Found::Intact { .. }));
    }

    #[test]
    fn halt_of_a_scope_that_is_gone_halts_the_firm_and_is_carried_on() {
        let (_tmp, dir, _) = written();
        let universe = universe();
        let mut store = LatchStore::open(&dir).unwrap();
        let gone = entry("strategy", "retired", Mode::Halted, 9);
        store.write(&Snapshot { changes: 1, causes: 1, next_epoch: 10, entries: vec![gone.clone()] }).unwrap();
        drop(store);
        let restored = LatchStore::open(&dir).unwrap().restore(&universe, now());
        assert_eq!(mode_of(&restored, &universe, "firm", ""), Mode::Halted);
        assert_eq!(restored.orphans, vec![gone]);
        assert!(restored.causes[0].1[0].reason.contains("strategy retired"));
    }

    #[test]
    fn crash_before_the_rename_leaves_the_old_latch_and_no_litter() {
        let (_tmp, dir, bytes) = written();
        for cut in [0, 10, bytes.len()] {
            fs::write(dir.join("latch.new-1"), &bytes[..cut]).unwrap();
            let mut store = LatchStore::open(&dir).unwrap();
            assert!(matches!(store.found(), Found::Intact { entries, .. } if entries.len() == 2));
            assert!(!dir.join("latch.new-1").exists());
            store.write(&halted_snapshot()).unwrap();
        }
    }

    #[test]
    fn write_that_fails_leaves_the_durable_latch_alone() {
        let (_tmp, dir, bytes) = written();
        let mut store = LatchStore::open(&dir).unwrap();
        // The name that the next write wants is taken.
        fs::create_dir(dir.join("latch.new-1")).unwrap();
        let empty = Snapshot { changes: 9, causes: 0, next_epoch: 9, entries: vec![] };
        assert!(store.write(&empty).is_err());
        assert_eq!(fs::read(dir.join("latch")).unwrap(), bytes);
        // The next try begins with another file.
        store.write(&empty).unwrap();
        assert_ne!(fs::read(dir.join("latch")).unwrap(), bytes);
    }

    #[test]
    fn unclean_end_and_events_taken_are_remembered() {
        let (_tmp, dir, _) = written();
        let store = LatchStore::open(&dir).unwrap();
        assert_eq!(store.previous_run(), PreviousRun { took_events: false, unclean: false });
        drop(store);
        let store = LatchStore::open(&dir).unwrap();
        assert_eq!(store.previous_run(), PreviousRun { took_events: false, unclean: true });
        store.events_taken().note().unwrap();
        store.close().unwrap();
        let store = LatchStore::open(&dir).unwrap();
        assert_eq!(store.previous_run(), PreviousRun { took_events: true, unclean: false });
        assert!(store.previous_run().positions_unknown());
    }

    /// One run: a switch over what the directory restored, and its latch.
    fn start(dir: &Path, clock: &Arc<TestClock>) -> (Switch, Receiver<()>, LatchStore) {
        let universe = Arc::new(universe());
        let store = LatchStore::open(dir).unwrap();
        let restored = store.restore(&universe, clock.now());
        let (switch, jobs) = Switch::new(SwitchParts {
            page: Arc::new(restored.page),
            board: Arc::new(SessionBoard::new(universe.sessions.len())),
            gates: Arc::default(),
            universe,
            clock: clock.clone(),
            wakers: vec![],
            working: Box::new(|_| None),
            policy: RearmPolicy { two_people: [false; 6], expiry_ns: 1, ..RearmPolicy::default() },
            causes: restored.causes,
            orphans: restored.orphans,
        });
        (switch, jobs, store)
    }

    #[test]
    fn halt_survives_a_crash_with_its_cause_and_needs_its_own_epoch_to_go() {
        let (_tmp, dir, _) = written();
        let clock = TestClock::new();
        let (switch, jobs, store) = start(&dir, &clock);
        let firm = switch.press(Scope::Firm, Stop::Halted, "olga", "runaway", clock.now()).unwrap();
        let dynamic: Arc<dyn Clock> = clock.clone();
        // The writer is told to stop at once: what was raised before still has to be on disk.
        let store = run_latch(store, &switch, &jobs, &dynamic, &AtomicBool::new(true));
        assert!(switch.receipt(firm.id).unwrap().is_confirmed());
        drop(store);
        let (switch, _jobs, store) = start(&dir, &clock);
        assert!(store.previous_run().unclean);
        let halt = &switch.halts()[0];
        assert_eq!((halt.scope, halt.word, halt.causes[0].reason.as_str()), (Scope::Firm, firm.word, "runaway"));
        let later = switch.press(Scope::Firm, Stop::Halted, "olga", "again", clock.now()).unwrap();
        assert!(later.word.epoch > firm.word.epoch + EPOCH_STEP / 2 && later.id > firm.id);
        assert!(switch.ask_rearm(Scope::Firm, firm.word.epoch, "rita", "old epoch", clock.now()).is_err());
    }

    #[test]
    fn trip_whose_notice_was_lost_is_latched_all_the_same() {
        let (_tmp, dir, _) = written();
        let clock = TestClock::new();
        let (switch, jobs, store) = start(&dir, &clock);
        let dynamic: Arc<dyn Clock> = clock.clone();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| run_latch(store, &switch, &jobs, &dynamic, &stop));
            // The engine raises the page and nobody is told.
            switch.page().raise(0, Mode::Halted);
            let begun = std::time::Instant::now();
            while !switch.is_durable() && begun.elapsed() < Duration::from_secs(120) {
                std::thread::yield_now();
            }
            let durable = switch.is_durable();
            stop.store(true, Ordering::Release);
            drop(writer.join().unwrap());
            assert!(durable, "the writer never looked at the page by itself");
        });
        let (switch, ..) = start(&dir, &clock);
        assert_eq!(switch.page().get(0).mode, Mode::Halted);
        assert!(switch.halts()[0].causes.is_empty());
    }

    #[test]
    fn no_halt_that_was_durable_is_missing_after_a_crash() {
        // The seed is printed with a failure; the steps are drawn from it.
        for seed in 1..=40u64 {
            let tmp = tempfile::tempdir().unwrap();
            let dir = tmp.path().join("state");
            LatchStore::init(&dir).unwrap();
            let clock = TestClock::new();
            let mut random = seed;
            let mut draw = |n: u64| {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (random >> 33) % n
            };
            let (mut switch, mut _jobs, mut store) = start(&dir, &clock);
            // Per slot: the epoch of the last halt that was reported durable and not lowered since.
            let mut durable: Vec<Option<u64>> = vec![None; switch.page().len()];
            for step in 0..200 {
                let slot = draw(durable.len() as u64) as usize;
                let scope = switch.universe().scope_at(slot).unwrap();
                match draw(10) {
                    0..=3 => {
                        switch.press(scope, Stop::Halted, "olga", "x", clock.now()).unwrap();
                    }
                    4 => {
                        let epoch = switch.page().get(slot).epoch;
                        if switch.ask_rearm(scope, epoch, "rita", "ok", clock.now()).is_ok() {
                            durable[slot] = None;
                        }
                    }
                    5..=6 => {
                        let snapshot = switch.snapshot();
                        store.write(&snapshot).unwrap();
                        switch.latch_written(&snapshot, clock.now());
                        for entry in snapshot.entries {
                            let scope = entry.scope.find(switch.universe()).unwrap();
                            durable[switch.universe().slot(scope).unwrap()] = Some(entry.epoch);
                        }
                    }
                    7..=8 => {
                        // The new file cannot be made: a write that fails.
                        let taken = dir.join(format!("latch.new-{}", store.attempts + 1));
                        fs::create_dir(&taken).unwrap();
                        assert!(store.write(&switch.snapshot()).is_err());
                        fs::remove_dir(&taken).unwrap();
                    }
                    _ => {
                        drop(store);
                        fs::write(dir.join("latch.new-9"), b"half a la").unwrap();
                        (switch, _jobs, store) = start(&dir, &clock);
                        for (slot, epoch) in durable.iter().enumerate() {
                            let word = switch.page().get(slot);
                            if let Some(epoch) = epoch {
                                assert!(
                                    word.mode == Mode::Halted && word.epoch >= *epoch,
                                    "seed {seed} step {step}: slot {slot} was durable at {epoch}, is {word:?}"
                                );
                            }
                        }
                        // What the restart found is what is durable now.
                        for (slot, epoch) in durable.iter_mut().enumerate() {
                            let word = switch.page().get(slot);
                            *epoch = (word.mode == Mode::Halted).then_some(word.epoch);
                        }
                    }
                }
            }
        }
    }
}
