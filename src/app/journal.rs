//! The journal of a run: what a start recovers from it, and the thread that writes it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::Context as _;
use crossbeam_channel::Sender;

use crate::app::config::{self, Loaded};
use crate::app::desk_opening::Opening;
use crate::duty::{Clock, ContinuedClock};
use crate::engine::agent::Begin;
use crate::engine::core::Engine;
use crate::engine::durability::Durability;
use crate::engine::record::{Name, Progress, Recorder};
use crate::journal::at_trip::ReplayParts;
use crate::journal::compact::{Compaction, CompactorOptions, CompactorParts, run_compactor};
use crate::journal::disk::SystemDisk;
use crate::journal::key;
use crate::journal::recover::{Places, Recovered, make_ring, recover, set_aside};
use crate::journal::replay::{Input, Made, Replayed, Watch};
use crate::journal::run::RunStart;
use crate::journal::writer::{NotEnded, Writer, WriterOptions, WriterParts, hex};
use crate::kill::audit::Audit;
use crate::kill::words::{self, ScopeName};
use crate::limits::LimitTable;
use crate::model::{Effect, Mode, Trip, Universe};
use crate::ring::bell::Bell;
use crate::units::{MonoNanos, Now, SessionId};

/// Control records that may wait for the journal's thread.
const AUDIT: usize = 65_536;

/// What the rest of a start needs of the journal.
pub(super) struct Prepared {
    pub engine: Engine,
    pub clock: Arc<dyn Clock>,
    /// Why positions are not known; `None`: they are exact.
    pub unknown: Option<String>,
    /// Modes that the engine had latched, and the trips that did it, by slot.
    pub latched: Vec<(usize, Mode, Option<String>)>,
    pub next_seq: Vec<u64>,
    pub names: Vec<Name>,
    /// The limits in force.
    pub limits: LimitTable,
    /// `None`: there is no journal.
    pub parts: Option<Parts>,
}

/// What makes the journal of this run.
pub(super) struct Parts {
    pub recorder: Recorder,
    pub begin: Begin,
    pub durability: Arc<Durability>,
    pub audit: Sender<String>,
    ring: PathBuf,
    writer: WriterParts,
    compactor: Option<CompactorOptions>,
}

/// The thread that writes.
pub(super) struct Running {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<(), NotEnded>>,
    ring: PathBuf,
    stop_compactor: Arc<AtomicBool>,
    compactor: Option<JoinHandle<()>>,
}

/// Makes a configuration of the text that a journal keeps.
pub(super) fn make(text: &str) -> Result<Made, String> {
    let loaded =
        config::load_in_effect("the journal's configuration", text).map_err(|violations| violations.to_string())?;
    Ok(Made { universe: loaded.universe, limits: loaded.limits, sizing: loaded.engine.sizing })
}

/// Remembers the last trip of every scope.
#[derive(Default)]
struct Trips {
    last: Vec<Option<Trip>>,
}

impl Watch for Trips {
    fn begin(&mut self, _: Option<&Engine>) {
        self.last.clear();
    }

    fn input(&mut self, _: u64, _: Now, _: Input<'_>, effects: &[Effect], engine: &Engine) {
        for effect in effects {
            if let Effect::Trip(trip) = effect
                && let Some(slot) = engine.universe().slot(trip.scope)
            {
                self.last.resize(engine.universe().scope_count(), None);
                self.last[slot] = Some(*trip);
            }
        }
    }
}

/// Recovers what there is, and prepares the journal of this run. `killed`: the last run did not end in an orderly way;
/// `events_taken`: there may be positions from before.
pub(super) fn prepare(
    loaded: &Loaded,
    clock: Arc<dyn Clock>,
    bell: &Arc<Bell>,
    killed: bool,
    events_taken: bool,
    opening: &mut Opening,
) -> anyhow::Result<Prepared> {
    let now = clock.now();
    let fresh =
        |table: LimitTable, now: Now| Engine::new(loaded.universe.clone(), Arc::new(table), loaded.engine.sizing, now);
    if !loaded.journal.enabled {
        let dir = loaded.service.state_dir.join("journal");
        if dir.exists() {
            // What happens from now on is not in it: it must not be taken for the whole story later.
            let put = set_aside(&dir, &dir.join("ring"), now.unix.0)?;
            tracing::warn!(
                event = "recovery",
                "there is no journal any more; that of before was put to {}",
                put.display()
            );
        }
        let lost = "positions and working orders are unknown after a restart without a journal";
        let (table, _) = opening.settle(loaded, None, now);
        return Ok(Prepared {
            engine: fresh(table.clone(), now),
            limits: table,
            clock,
            unknown: (killed || events_taken).then(|| lost.to_owned()),
            latched: Vec::new(),
            next_seq: Vec::new(),
            names: Vec::new(),
            parts: None,
        });
    }
    let state = &loaded.service.state_dir;
    let key = match key::load(state).context("the journal's key")? {
        Some(key) => key,
        None => {
            tracing::warn!(event = "journal", "made a key for the journal: the state directory had none");
            key::make(state).context("the journal's key")?
        }
    };
    let journal = journal_id(&key);
    let places = Places {
        dir: state.join("journal"),
        ring: loaded.journal.ring_dir.join(format!("haltline-{}.ring", hex(&journal))),
        journal,
        key: key.verifying_key(),
        boot: boot(),
    };
    let mut trips = Trips::default();
    let mut recovered = recover(&places, &make, killed, now.unix.0, &mut trips)?;
    for note in &recovered.notes {
        tracing::warn!(event = "recovery", "{note}");
    }
    if let Some((damage, put)) = &recovered.damage {
        tracing::error!(event = "recovery", "{damage}; the whole journal was put to {}", put.display());
    }
    let same = |r: &Replayed| *r.universe == *loaded.universe && r.sizing == loaded.engine.sizing;
    if let Some(replayed) = recovered.replayed.take_if(|replayed| !same(replayed)) {
        let put = set_aside(&places.dir, &places.ring, now.unix.0)?;
        let why = format!(
            "names or table sizes of the configuration changed: the journal of before was put to {}",
            put.display()
        );
        tracing::warn!(event = "recovery", "{why}");
        if replayed.progress.events > 0 {
            recovered.unknown.get_or_insert(why);
        }
        recovered.tip = crate::journal::format::Tip::BEGIN;
        recovered.cells.clear();
        recovered.snapshot = None;
    } else if recovered.replayed.is_none() && events_taken {
        let lost = "positions and working orders are unknown: events were taken before there was a journal";
        recovered.unknown.get_or_insert(lost.to_owned());
    }
    go_on(loaded, clock, bell, key, places, recovered, &trips, fresh, opening)
}

#[expect(clippy::too_many_arguments, reason = "one step of a start, taken out for its length")]
fn go_on(
    loaded: &Loaded,
    clock: Arc<dyn Clock>,
    bell: &Arc<Bell>,
    key: ed25519_dalek::SigningKey,
    places: Places,
    recovered: Recovered,
    trips: &Trips,
    fresh: impl FnOnce(LimitTable, Now) -> Engine,
    opening: &mut Opening,
) -> anyhow::Result<Prepared> {
    let options = &loaded.journal;
    let scopes = loaded.universe.scope_count();
    let text_max = loaded.text.len() + config::OVERLAYS_MAX * config::OVERLAY_BYTES;
    let least = 4 * Recorder::reserve(scopes) + 4 * Recorder::blob_cells(text_max);
    let (ring_writer, ring_reader) = make_ring(&places, &recovered, options.ring_cells.max(least))?;
    let Recovered { replayed, tip, unknown, snapshot, .. } = recovered;

    let clock = match &replayed {
        Some(r) => Arc::new(ContinuedClock::new(clock.clone(), resume_at(r, &clock))) as Arc<dyn Clock>,
        None => clock,
    };
    let now = clock.now();
    let host_mono = host_mono();
    let (mut table, text) = opening.settle(loaded, replayed.as_ref().map(|r| &*r.text), now);
    let mut limits = None;
    let (mut latched, mut next_seq, mut names) = (Vec::new(), Vec::new(), Vec::new());
    let (engine, progress) = match replayed {
        None => (fresh(table.clone(), now), Progress::default()),
        Some(r) => {
            table.generation = r.generation;
            if r.text != *text {
                table.generation = r.generation.wrapping_add(1);
                let _ = table.hot();
                limits = Some(Arc::new(table.clone()));
            }
            for slot in 0..scopes {
                let Some(scope) = loaded.universe.scope_at(slot) else { continue };
                let mode = r.engine.mode(scope).unwrap_or_default();
                if mode > Mode::Normal {
                    let trip = trips.last.get(slot).copied().flatten();
                    latched.push((slot, mode, trip.map(|trip| trip_text(&loaded.universe, &trip))));
                }
            }
            next_seq = (0..loaded.universe.sessions.len()).map(|s| r.engine.expected(SessionId(s as u16))).collect();
            names = r.names;
            let events = r.progress.events;
            let from_snapshot = snapshot.map_or(0, |header| header.events);
            tracing::info!(event = "recovery", events, from_snapshot, checks = r.checks, "the journal was replayed");
            (r.engine, r.progress)
        }
    };
    let start = RunStart {
        haltline: env!("CARGO_PKG_VERSION").to_owned(),
        boot: hex(&places.boot),
        host_mono,
        config: text.to_string(),
    };
    let durability = Arc::new(Durability::default());
    durability.capacity.set(ring_writer.capacity());
    let (audit, take_audit) = crossbeam_channel::bounded(AUDIT);
    let recorder = Recorder::new(ring_writer, durability.clone(), progress, scopes);
    let synced: Box<dyn Fn() + Send> = match options.durable_before_verdict {
        true => {
            let bell = bell.clone();
            Box::new(move || bell.ring())
        }
        false => Box::new(|| ()),
    };
    let compactor = options.snapshot_segments.map(|segments| CompactorOptions { segments, keep: options.keep });
    let writer = WriterParts {
        dir: places.dir,
        disk: Box::new(SystemDisk),
        ring: ring_reader,
        audit: take_audit,
        durability: durability.clone(),
        clock: clock.clone(),
        key,
        journal: places.journal,
        tip,
        synced,
        heads: options.heads.clone(),
        options: WriterOptions {
            sync_window: options.sync_window,
            segment_bytes: options.segment_bytes,
            sync_at_once: options.durable_before_verdict,
        },
    };
    let begin = Begin { now, start: start.encode(), limits };
    let parts = Parts { recorder, begin, durability, audit, ring: places.ring, writer, compactor };
    Ok(Prepared { engine, clock, unknown, latched, next_seq, names, limits: table, parts: Some(parts) })
}

/// What the monotonic clock of the run that is continued would show now.
fn resume_at(r: &Replayed, clock: &Arc<dyn Clock>) -> MonoNanos {
    let since_last = if r.start.boot == hex(&boot()) {
        // The same boot: the host's own monotonic clock went on.
        let since_start = host_mono().saturating_sub(r.start.host_mono);
        since_start.saturating_sub(r.now.mono.since(r.start_at.mono))
    } else {
        clock.now().unix.0.saturating_sub(r.now.unix.0)
    };
    MonoNanos(r.now.mono.0.saturating_add(since_last))
}

fn trip_text(universe: &Universe, trip: &Trip) -> String {
    let at = &trip.cause;
    format!(
        "{} of {}: observed {} of {} {}",
        at.rule.name(),
        ScopeName::of(universe, at.scope),
        words::value(universe, at.rule, at.scope, at.observed),
        words::value(universe, at.rule, at.scope, at.limit),
        words::unit(universe, at.rule, at.scope),
    )
}

/// Whose journal it is, by its key.
fn journal_id(key: &ed25519_dalek::SigningKey) -> [u8; 16] {
    let hash = blake3::hash(key.verifying_key().as_bytes());
    core::array::from_fn(|i| hash.as_bytes()[i])
}

/// The boot that this is; zeros where the system does not say, which is then every boot's.
fn boot() -> [u8; 16] {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let hash = blake3::hash(text.trim().as_bytes());
    core::array::from_fn(|i| hash.as_bytes()[i])
}

/// The host's monotonic clock, the one that [`std::time::Instant`] reads.
fn host_mono() -> u64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

/// Makes the key of a new state directory.
pub(super) fn init(state: &Path) -> anyhow::Result<()> {
    key::make(state).map(drop).with_context(|| format!("cannot make the journal's key in {}", state.display()))
}

/// What the journal's threads are made of.
pub(super) struct ThreadParts {
    ring: PathBuf,
    writer: WriterParts,
    compactor: Option<CompactorOptions>,
    /// What the compactor shows.
    pub compaction: Arc<Compaction>,
}

impl ThreadParts {
    /// What others replay the journal with.
    pub fn replay(&self) -> ReplayParts {
        ReplayParts { make: Arc::new(make), key: self.writer.key.verifying_key() }
    }
}

/// Starts the journal's threads.
pub(super) fn spawn(parts: ThreadParts, audit: &Arc<Audit>) -> anyhow::Result<Running> {
    let stop = Arc::new(AtomicBool::new(false));
    let ThreadParts { ring, writer, compactor, compaction } = parts;
    let compactor = compactor.map(|options| CompactorParts {
        dir: writer.dir.clone(),
        disk: Box::new(SystemDisk),
        key: writer.key.clone(),
        journal: writer.journal,
        make: Arc::new(make),
        audit: audit.clone(),
        clock: writer.clock.clone(),
        durability: writer.durability.clone(),
        shown: compaction,
        options,
    });
    let thread = {
        let stop = stop.clone();
        super::service::spawn("journal", move || Writer::new(writer).run(&stop))?
    };
    let stop_compactor = Arc::new(AtomicBool::new(false));
    let compactor = match compactor {
        None => None,
        Some(parts) => {
            let stop = stop_compactor.clone();
            Some(super::service::spawn("compactor", move || run_compactor(parts, &stop))?)
        }
    };
    Ok(Running { stop, thread, ring, stop_compactor, compactor })
}

impl Parts {
    /// What the engine takes, and what the journal's threads are made of.
    pub fn split(self) -> (Recorder, Begin, ThreadParts) {
        let Parts { recorder, begin, durability: _, audit: _, ring, writer, compactor } = self;
        (recorder, begin, ThreadParts { ring, writer, compactor, compaction: Arc::default() })
    }
}

impl Running {
    /// Ends the compactor: it makes no records any more.
    pub fn end_compactor(&mut self) -> anyhow::Result<()> {
        self.stop_compactor.store(true, Ordering::Release);
        let Some(compactor) = self.compactor.take() else { return Ok(()) };
        compactor.thread().unpark();
        compactor.join().map_err(|_| anyhow::anyhow!("the compactor thread panicked"))
    }

    /// Writes what is left and the end of the run. Nothing is recorded any more.
    pub fn end(self) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::Release);
        self.thread.thread().unpark();
        self.thread.join().map_err(|_| anyhow::anyhow!("the journal thread panicked"))??;
        // Everything in it is in the segments. If it stays, the next start finds that out.
        drop(std::fs::remove_file(&self.ring));
        Ok(())
    }
}
