//! A small process that journals, snapshots and removes, killed at any moment and at every named step, and started
//! again: nothing that was decided is lost, and the state is exactly that of the inputs that were taken.
//!
//! The process is this test binary itself, called with [`CHILD`] set: an engine that takes the inputs of a random
//! stream, the recorder, the writer's thread and the compactor's, without sockets. How many cycles there are says
//! `HALTLINE_CYCLES`.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command as Process, ExitStatus};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ed25519_dalek::SigningKey;
use haltline::duty::{Clock, SystemClock};
use haltline::engine::Command;
use haltline::engine::core::Engine;
use haltline::engine::durability::Durability;
use haltline::engine::record::{BlobKind, Progress, Recorder};
use haltline::journal::compact::{Compaction, CompactorOptions, CompactorParts, run_compactor};
use haltline::journal::disk::{Disk, SystemDisk};
use haltline::journal::recover::{Places, Recovered, make_ring, recover};
use haltline::journal::replay::{Blind, Made};
use haltline::journal::run::RunStart;
use haltline::journal::snapshot::snapshots;
use haltline::journal::step::STEPS;
use haltline::journal::verify::verify;
use haltline::journal::writer::{Writer, WriterOptions, WriterParts};
use haltline::kill::audit::Audit;
use haltline::limits::LimitTable;
use haltline::model::Effects;
use haltline::units::{MonoNanos, Now, UnixNanos};

use crate::oracle_test::{Case, Input, Maker, Rng, START, UNIX};
use crate::snapshot::saved;
use crate::support::PATIENCE;

/// Names the directory of the process that is killed, the stream's seed, how many inputs it takes, and after how many
/// microseconds it kills itself (0: it does not).
const CHILD: &str = "HALTLINE_CRASH";

/// The random stream over and over, as one that never ends. A run's beginning takes the place of one input.
pub struct World {
    pub case: Case,
    /// Which inputs were beginnings of runs.
    runs: Mutex<BTreeSet<u64>>,
}

impl World {
    pub fn new(seed: u64) -> World {
        // Of any length, but not trivial.
        let case = (seed * 1_000..).map(Maker::case).find(|case| case.inputs.len() >= 300).unwrap();
        World { case, runs: Mutex::default() }
    }

    fn input(&self, number: u64) -> &Input {
        &self.case.inputs[(number - 1) as usize % self.case.inputs.len()]
    }

    fn start() -> Now {
        Now { mono: MonoNanos(START), unix: UnixNanos(UNIX + START) }
    }

    /// A configuration's text is the number of the input that brought it; 0: the one that there was at the start.
    pub fn make(&self, text: &str) -> Result<Made, String> {
        let number: u64 = text.parse().map_err(|_| format!("no number: {text}"))?;
        let limits: LimitTable = match (number, number.checked_sub(1).map(|_| self.input(number))) {
            (0, _) => (*self.case.table).clone(),
            (_, Some(Input::Command(_, Command::SetLimits(table)))) => (**table).clone(),
            _ => return Err(format!("input {number} brings no limits")),
        };
        Ok(Made { universe: self.case.universe.clone(), limits, sizing: self.case.sizing })
    }

    pub fn engine(&self) -> Engine {
        Engine::new(self.case.universe.clone(), self.case.table.clone(), self.case.sizing, World::start())
    }

    /// Begins a run, as the engine's agent does.
    fn begin_run(&self, engine: &mut Engine) {
        self.runs.lock().unwrap().insert(engine.inputs() + 1);
        engine.begin_run(World::start());
    }

    /// The next input of an engine that was never saved: that of the stream, or a run's beginning.
    fn follow(&self, engine: &mut Engine, generation: &mut u32, effects: &mut Effects) {
        if self.runs.lock().unwrap().contains(&(engine.inputs() + 1)) {
            engine.begin_run(World::start());
        } else {
            self.take(engine, generation, effects, None);
        }
    }

    /// Takes the next input, and records it if there is a recorder.
    pub fn take(
        &self,
        engine: &mut Engine,
        generation: &mut u32,
        effects: &mut Effects,
        mut recorder: Option<&mut Recorder>,
    ) -> Option<String> {
        let number = engine.inputs() + 1;
        let mut text = None;
        effects.clear();
        match self.input(number) {
            Input::Event(now, event, delta) => {
                let mut event = *event;
                if usize::from(event.session.0) < self.case.universe.sessions.len() {
                    event.seq = engine.expected(event.session).saturating_add_signed(*delta);
                }
                if let Some(recorder) = &mut recorder {
                    recorder.event(*now, &event);
                }
                engine.step(*now, &event, effects);
            }
            Input::Command(now, command) => {
                let command = match command {
                    Command::SetLimits(table) => {
                        *generation = generation.wrapping_add(1);
                        let mut table = (**table).clone();
                        table.generation = *generation;
                        text = Some(number.to_string());
                        Command::SetLimits(Arc::new(table))
                    }
                    other => other.clone(),
                };
                if let Some(recorder) = &mut recorder {
                    match &command {
                        Command::Mode { scope, mode, epoch } => recorder.mode(*now, *scope, *mode, *epoch),
                        Command::SetLimits(_) => recorder.blob(*now, BlobKind::Limits, number.to_string().as_bytes()),
                        Command::NewDay => recorder.new_day(*now),
                        Command::Behind(behind) => recorder.behind(*now, *behind),
                    }
                }
                engine.command(*now, command, effects);
            }
            Input::Tick(now) => {
                if let Some(recorder) = &mut recorder {
                    recorder.tick(*now);
                }
                engine.tick(*now, effects);
            }
        }
        if let Some(recorder) = recorder {
            recorder.publish(effects.as_slice());
            if number.is_multiple_of(40) {
                recorder.check(World::start(), engine.state_hash());
            }
        }
        text
    }

    /// The state behind so many inputs, of an engine that was never saved.
    pub fn state_behind(&self, inputs: u64) -> Vec<u8> {
        let (mut engine, mut generation) = (self.engine(), self.case.table.generation);
        let mut effects = Effects::new();
        while engine.inputs() < inputs {
            self.follow(&mut engine, &mut generation, &mut effects);
        }
        saved(&engine)
    }

    /// Hashes of the states behind 0 to so many inputs.
    pub fn states(&self, inputs: u64) -> Vec<[u8; 32]> {
        let (mut engine, mut generation) = (self.engine(), self.case.table.generation);
        let mut effects = Effects::new();
        let hash = |engine: &Engine| *blake3::hash(&saved(engine)).as_bytes();
        let mut states = vec![hash(&engine)];
        for _ in 0..inputs {
            self.follow(&mut engine, &mut generation, &mut effects);
            states.push(hash(&engine));
        }
        states
    }

    pub fn key() -> SigningKey {
        SigningKey::from_bytes(&[7; 32])
    }

    pub fn places(dir: &Path) -> Places {
        Places {
            dir: dir.join("journal"),
            ring: dir.join("ring"),
            journal: [3; 16],
            key: World::key().verifying_key(),
            boot: [1; 16],
        }
    }
}

/// A run over a directory: what a start recovered, and the threads beside the engine.
pub struct Run<'a> {
    pub world: &'a World,
    pub engine: Engine,
    generation: u32,
    recorder: Recorder,
    writer: std::thread::JoinHandle<Result<(), haltline::journal::writer::NotEnded>>,
    compactor: std::thread::JoinHandle<()>,
    stop: [Arc<AtomicBool>; 2],
    pub shown: Arc<Compaction>,
    pub durability: Arc<Durability>,
    ring: std::path::PathBuf,
}

impl<'a> Run<'a> {
    /// Goes on with what was recovered.
    pub fn begin(
        world: &'a World,
        places: &Places,
        recovered: Recovered,
        disk: impl Fn() -> Box<dyn Disk>,
        keep: Option<Duration>,
    ) -> Run<'a> {
        let (ring, cells) = make_ring(places, &recovered, 1 << 14).unwrap();
        let (mut engine, progress, generation, text) = match recovered.replayed {
            Some(replayed) => (replayed.engine, replayed.progress, replayed.generation, replayed.text),
            None => (world.engine(), Progress::default(), world.case.table.generation, "0".to_owned()),
        };
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let durability = Arc::new(Durability::default());
        let (records, taken) = crossbeam_channel::bounded(1_000);
        let stop: [Arc<AtomicBool>; 2] = Default::default();
        let writer = WriterParts {
            dir: places.dir.clone(),
            disk: disk(),
            ring: cells,
            audit: taken,
            durability: durability.clone(),
            clock: clock.clone(),
            key: World::key(),
            journal: places.journal,
            tip: recovered.tip,
            synced: Box::new(|| ()),
            heads: None,
            options: WriterOptions {
                sync_window: Duration::from_micros(500),
                segment_bytes: 16_384,
                sync_at_once: false,
            },
        };
        let shown = Arc::new(Compaction::default());
        let made = World::new_like(world);
        let compactor = CompactorParts {
            dir: places.dir.clone(),
            disk: disk(),
            key: World::key(),
            journal: places.journal,
            make: Arc::new(move |text| made.make(text)),
            audit: Arc::new(Audit::new(Some(records), clock.clone())),
            clock,
            durability: durability.clone(),
            shown: shown.clone(),
            options: CompactorOptions { segments: 1, keep },
        };
        let mut recorder = Recorder::new(ring, durability.clone(), progress, world.case.universe.scope_count());
        let run = RunStart { haltline: "test".into(), boot: String::new(), host_mono: 0, config: text };
        recorder.blob(World::start(), BlobKind::Start, &run.encode());
        world.begin_run(&mut engine);
        recorder.publish(&[]);
        let hear = [stop[0].clone(), stop[1].clone()];
        let [hear_writer, hear_compactor] = hear;
        Run {
            world,
            engine,
            generation,
            recorder,
            writer: std::thread::spawn(move || Writer::new(writer).run(&hear_writer)),
            compactor: std::thread::spawn(move || run_compactor(compactor, &hear_compactor)),
            stop,
            shown,
            durability,
            ring: places.ring.clone(),
        }
    }

    /// Takes one input. What it did may be told to anybody from here on.
    pub fn take(&mut self, effects: &mut Effects) {
        // Back-pressure, as the engine's agent has it.
        while self.recorder.events_fit() < 2 {
            std::thread::yield_now();
        }
        self.world.take(&mut self.engine, &mut self.generation, effects, Some(&mut self.recorder));
    }

    /// Waits for the next snapshot, for a while from when everything is on disk: it may have been made just before this looked, and
    /// nothing be due.
    pub fn until_another_snapshot(&self) {
        let (begin, before) = (std::time::Instant::now(), self.shown.snapshots.get());
        let mut written = None;
        while self.shown.snapshots.get() == before {
            if self.recorder.waiting() == 0 {
                let written = written.get_or_insert_with(std::time::Instant::now);
                if written.elapsed() > Duration::from_secs(5) {
                    return;
                }
            }
            assert!(begin.elapsed() < PATIENCE, "it is never written");
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }

    /// Waits until everything is on disk and the compactor has looked at it.
    pub fn until_quiet(&self) {
        let begin = std::time::Instant::now();
        while self.recorder.waiting() > 0 || self.shown.snapshots.get() == 0 {
            assert!(begin.elapsed() < PATIENCE, "it is never written, or no snapshot is made");
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }

    /// The orderly end.
    pub fn end(self) {
        self.stop[1].store(true, Ordering::Release);
        self.compactor.thread().unpark();
        self.compactor.join().unwrap();
        self.stop[0].store(true, Ordering::Release);
        self.writer.thread().unpark();
        self.writer.join().unwrap().unwrap();
        std::fs::remove_file(self.ring).unwrap();
    }
}

impl World {
    fn new_like(world: &World) -> World {
        let Case { universe, table, sizing, inputs } = &world.case;
        let case = Case { universe: universe.clone(), table: table.clone(), sizing: *sizing, inputs: inputs.clone() };
        World { case, runs: Mutex::default() }
    }
}

/// Reads which inputs were beginnings of runs, and notes that the next one is: before it is recorded, so one behind what was
/// recovered was not.
fn known_runs(path: &Path, inputs: u64, world: &World) {
    let bytes = std::fs::read(path).unwrap_or_default();
    let known = bytes.chunks(8).map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap()));
    let mut runs: BTreeSet<u64> = known.filter(|run| *run <= inputs).collect();
    let next = inputs + 1;
    let bytes: Vec<u8> = runs.iter().chain([&next]).flat_map(|run| run.to_le_bytes()).collect();
    let new = path.with_extension("new");
    std::fs::write(&new, bytes).unwrap();
    std::fs::rename(new, path).unwrap();
    world.runs.lock().unwrap().append(&mut runs);
}

/// The process that is killed. Without [`CHILD`] there is nothing to do.
#[test]
fn the_process_that_is_killed() {
    let Ok(asked) = std::env::var(CHILD) else { return };
    let mut asked = asked.split('|');
    let dir = asked.next().unwrap();
    let [seed, count, after]: [u64; 3] = core::array::from_fn(|_| asked.next().unwrap().parse().unwrap());
    let dir = Path::new(dir);
    let world = World::new(seed);
    let places = World::places(dir);
    let running = dir.join("running");
    let recovered = recover(&places, &|text| world.make(text), running.exists(), 1, &mut Blind).unwrap();
    assert_eq!(recovered.unknown, None, "a killed process loses nothing; notes: {:?}", recovered.notes);
    assert!(recovered.notes.iter().all(|note| !note.contains("passed over")), "{:?}", recovered.notes);
    let acked = std::fs::read(dir.join("acked")).map_or(0, |bytes| u64::from_le_bytes(bytes.try_into().unwrap()));
    let from_snapshot = recovered.snapshot.is_some();
    let inputs = recovered.replayed.as_ref().map_or(0, |replayed| replayed.engine.inputs());
    known_runs(&dir.join("runs"), inputs, &world);
    let mut run = Run::begin(&world, &places, recovered, || Box::new(SystemDisk), Some(Duration::ZERO));
    std::fs::write(&running, "").unwrap();
    let inputs = run.engine.inputs();
    assert!(inputs >= acked, "{inputs} of {acked} inputs whose effects may have left");
    assert!(saved(&run.engine) == world.state_behind(inputs), "the state is that of {inputs} inputs");
    let told = format!("{inputs} {from_snapshot}\n");
    std::fs::write(dir.join("recovered"), told).unwrap();
    let taken = Arc::new(AtomicU64::new(0));
    if after > 0 {
        let (taken, shown) = (taken.clone(), run.shown.clone());
        std::thread::spawn(move || {
            // By what it has done, and for every second one after it has made a snapshot: in a time that is given it would do next
            // to nothing on a busy machine.
            while taken.load(Ordering::Relaxed) < after || (after.is_multiple_of(2) && shown.snapshots.get() == 0) {
                std::thread::yield_now();
            }
            // And at any moment of what it is at then.
            std::thread::sleep(Duration::from_micros(after % 1_000));
            let own = rustix::process::getpid();
            rustix::process::kill_process(own, rustix::process::Signal::KILL).unwrap();
        });
    }
    let file = std::fs::OpenOptions::new().write(true).create(true).truncate(false).open(dir.join("acked")).unwrap();
    let mut effects = Effects::new();
    for n in 1..=count {
        run.take(&mut effects);
        taken.store(n, Ordering::Relaxed);
        std::os::unix::fs::FileExt::write_all_at(&file, &run.engine.inputs().to_le_bytes(), 0).unwrap();
        // If it is to be killed at a step of the compactor, that gets its turns.
        if after == 0 && n.is_multiple_of(500) {
            run.until_another_snapshot();
        }
    }
    run.end();
    std::fs::remove_file(running).unwrap();
}

/// Runs the process over `dir`.
fn child(dir: &Path, seed: u64, count: u64, after: u64, abort_at: Option<&str>) -> ExitStatus {
    let mut process = Process::new(std::env::current_exe().unwrap());
    process.args(["crash::the_process_that_is_killed", "--exact", "--test-threads=1"]);
    process.env(CHILD, format!("{}|{seed}|{count}|{after}", dir.display()));
    process.env_remove("HALTLINE_ABORT_AT");
    if let Some(step) = abort_at {
        process.env("HALTLINE_ABORT_AT", step);
    }
    let output = process.output().unwrap();
    let status = output.status;
    // An abort that nobody asked for is a failure of the process itself.
    let asked = match status.signal() {
        Some(9) => after > 0,
        Some(6) => abort_at.is_some(),
        _ => status.success(),
    };
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(asked, "seed {seed}, abort at {abort_at:?}: {status}\n{}\n{}", text[0], text[1]);
    status
}

/// Whether the last start went on behind a snapshot.
fn from_snapshot(dir: &Path) -> bool {
    std::fs::read_to_string(dir.join("recovered")).unwrap().contains("true")
}

fn is_intact(dir: &Path) -> Vec<String> {
    let report = verify(&dir.join("journal"), Some(&World::key().verifying_key()), None).unwrap();
    assert!(report.is_intact(), "{:?}", report.faults);
    report.notes
}

#[test]
fn a_process_killed_at_any_moment_loses_nothing_and_comes_to_exactly_the_same_state() {
    let cycles: u64 = std::env::var("HALTLINE_CYCLES").map_or(150, |cycles| cycles.parse().unwrap());
    let (mut killed, mut behind_snapshots, mut removals) = (0, 0, 0);
    for seed in 1..=cycles.div_ceil(15) {
        let mut rng = Rng(seed);
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        for _ in 0..15 {
            // Of a million inputs.
            let after = 1 + rng.below(3_000);
            killed += u64::from(child(dir.path(), seed, 1_000_000, after, None).signal().is_some());
            behind_snapshots += u64::from(from_snapshot(dir.path()));
        }
        // What the kills left is a journal like any other: everything in it can be verified once it goes on.
        assert!(child(dir.path(), seed, 50, 0, None).success());
        removals += u64::from(is_intact(dir.path()).iter().any(|note| note.contains("removed by configuration")));
    }
    let counts =
        format!("{killed} killed, {behind_snapshots} behind a snapshot, {removals} without their first segments");
    eprintln!("{counts}");
    assert!(killed >= cycles && behind_snapshots > cycles / 3 && removals > 0, "{counts}");
}

#[test]
fn a_process_killed_at_every_step_of_writing_loses_nothing() {
    let steps: Vec<&str> = STEPS.into_iter().filter(|step| !step.starts_with("latch ")).collect();
    let mut missed = Vec::new();
    for (seed, step) in (1..).zip(steps) {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        // Old enough for every step: snapshots, a removal that is recorded, one that is due.
        assert!(child(dir.path(), seed, 3_000, 0, None).success());
        for time in [1, 2, 3] {
            let status = child(dir.path(), seed, 3_000, 0, Some(&format!("{step}:{time}")));
            if status.success() {
                missed.push(format!("{step}:{time}"));
            }
        }
        assert!(child(dir.path(), seed, 500, 0, None).success());
        is_intact(dir.path());
        assert!(!snapshots(&dir.path().join("journal")).unwrap().is_empty());
    }
    let once = missed.iter().filter(|missed| missed.ends_with(":1")).collect::<Vec<_>>();
    assert!(once.is_empty(), "never come by: {once:?}");
}
