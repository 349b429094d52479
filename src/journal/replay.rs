//! Runs a journal through an engine of its own: the same inputs in the same order at the same times, so the same
//! effects and the same state, on any machine. Recovery, `haltline replay` and what is made of a journal use it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use thiserror::Error;

use crate::engine::Command;
use crate::engine::core::{Engine, Sizing};
use crate::engine::record::{BlobKind, Check, Name, NameOf, NotARecord, Progress, Record, cells_of, decode};
use crate::journal::format::GroupKind;
use crate::journal::reader::{End, Group, ReadError, Reader};
use crate::journal::run::RunStart;
use crate::journal::snapshot::SnapshotFault;
use crate::limits::LimitTable;
use crate::model::save::{In, Out, Value};
use crate::model::{Effect, Effects, Event, EventKind, Mode, Scope, Universe};
use crate::ring::cells::Cell;
use crate::units::{ExecId, Now, OrdId, SessionId};

/// What a configuration's text is made into.
pub struct Made {
    /// All names.
    pub universe: Arc<Universe>,
    /// The limits; their generation is set by the replay.
    pub limits: LimitTable,
    /// How large the engine's tables are.
    pub sizing: Sizing,
}

/// Makes a configuration of its text; the error is for people.
pub type Make<'a> = dyn Fn(&str) -> Result<Made, String> + 'a;

/// One input as it was replayed.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// A run began.
    Start(&'a RunStart),
    /// An event was stepped.
    Event(&'a Event),
    /// Time alone moved something.
    Tick,
    /// The round of cancels took a step.
    Sweep,
    /// A mode reached the engine.
    Mode(Scope, Mode, u64),
    /// New limits, the text they were made of.
    Limits(&'a str),
    /// A new day began.
    NewDay,
    /// The journal fell behind, or no longer.
    Behind(bool),
}

/// Sees every input with its effects.
pub trait Watch {
    /// What was seen before does not count: the replay begins, with this engine if a snapshot has one.
    fn begin(&mut self, _: Option<&Engine>) {}

    /// `cell` is the number of the record's first cell; `engine` is as it was behind the input.
    fn input(&mut self, cell: u64, now: Now, input: Input<'_>, effects: &[Effect], engine: &Engine);
}

/// Watches nothing.
pub struct Blind;

impl Watch for Blind {
    fn input(&mut self, _: u64, _: Now, _: Input<'_>, _: &[Effect], _: &Engine) {}
}

/// Why a journal cannot be replayed, or its replay is not what was.
#[derive(Debug, Error)]
pub enum ReplayError {
    /// Cells that are no record.
    #[error("record {cell} is none that this program knows (word {word:016x})")]
    NotARecord {
        /// The number of its first cell.
        cell: u64,
        /// Its first word.
        word: u64,
    },
    /// An input before the first run began.
    #[error("record {0}: no run has begun before it")]
    NoStart(u64),
    /// A configuration that cannot be made.
    #[error("record {cell}: the configuration in it cannot be loaded: {why}")]
    Config {
        /// The number of its first cell.
        cell: u64,
        /// Why.
        why: String,
    },
    /// The replay came to something else than the run: it was made by another version, or we have a bug.
    #[error("record {cell}: the replay comes to {found:?} where the run came to {expected:?}")]
    Differs {
        /// The check's cell.
        cell: u64,
        /// What the run wrote down.
        expected: Check,
        /// What the replay has.
        found: Check,
    },
    /// The files cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Events stepped together, so that their memory is asked for ahead.
const BATCH: usize = 1024;

/// See the module.
pub struct Replayer<'a> {
    make: &'a Make<'a>,
    engine: Option<Engine>,
    universe: Option<Arc<Universe>>,
    sizing: Sizing,
    text: String,
    generation: u32,
    start: Option<RunStart>,
    start_at: Now,
    now: Now,
    progress: Progress,
    names: HashMap<(SessionId, NameOf, u64), Name>,
    effects: Effects,
    batch: Vec<(u64, Now, Event)>,
    checks: u64,
    /// Whether a check that does not fit ends the replay: not if the limits are other ones than were.
    checked: bool,
    bytes: Vec<u8>,
}

impl<'a> Replayer<'a> {
    /// A replay from the beginning of a journal.
    #[must_use]
    pub fn new(make: &'a Make<'a>) -> Replayer<'a> {
        Replayer {
            make,
            engine: None,
            universe: None,
            sizing: Sizing::default(),
            text: String::new(),
            generation: 0,
            start: None,
            start_at: Now::default(),
            now: Now::default(),
            progress: Progress::default(),
            names: HashMap::new(),
            effects: Effects::new(),
            batch: Vec::with_capacity(BATCH),
            checks: 0,
            checked: true,
            bytes: Vec::new(),
        }
    }

    /// Whether a run has begun: there is an engine.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.engine.is_some()
    }

    /// What was counted and digested so far.
    #[must_use]
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Orders that are pending or working.
    #[must_use]
    pub fn working(&self) -> u64 {
        self.engine.as_ref().map_or(0, Engine::working_orders)
    }

    /// The generation of the limits in force.
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// The configuration whose limits are in force.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// How large the engine's tables are.
    #[must_use]
    pub fn sizing(&self) -> Sizing {
        self.sizing
    }

    /// The last reading.
    #[must_use]
    pub fn now(&self) -> Now {
        self.now
    }

    /// The engine, if a run has begun.
    #[must_use]
    pub fn engine(&self) -> Option<&Engine> {
        self.engine.as_ref()
    }

    /// The text that `number` stands for, if it was given one and is not forgotten.
    #[must_use]
    pub fn name(&self, session: SessionId, of: NameOf, number: u64) -> Option<&Name> {
        self.names.get(&(session, of, number))
    }

    /// Writes everything that a replay from here on depends on. A run has begun, and whole records were taken.
    pub fn save(&self, out: &mut Out<'_>) {
        let Replayer {
            make: _,
            engine,
            // Made of the text again.
            universe: _,
            sizing: _,
            text,
            generation,
            start,
            start_at,
            now,
            progress,
            names,
            effects: _,
            // Empty between calls of `take`.
            batch: _,
            checks,
            checked: _,
            bytes: _,
        } = self;
        text.save(out);
        generation.save(out);
        let run = start.as_ref().map_or_else(Vec::new, RunStart::encode);
        run.len().save(out);
        out.bytes(&run);
        start_at.save(out);
        now.save(out);
        progress.save(out);
        checks.save(out);
        let mut all: Vec<&Name> = names.values().collect();
        all.sort_by_key(|name| (name.session, name.of as u8, name.number));
        all.len().save(out);
        all.iter().for_each(|name| name.save(out));
        if let Some(engine) = engine {
            engine.save(out);
        }
    }

    /// A replay that goes on where the saved one was.
    ///
    /// # Errors
    /// [`SnapshotFault::State`] if the bytes are not what [`Replayer::save`] wrote, [`SnapshotFault::Replay`] if the
    /// configuration in them cannot be made.
    pub fn load(make: &'a Make<'a>, input: &mut In<'_>) -> Result<Replayer<'a>, SnapshotFault> {
        let mut replayer = Replayer::new(make);
        replayer.text = String::load(input)?;
        replayer.generation = u32::load(input)?;
        let run = usize::load(input)?;
        let start = RunStart::decode(input.bytes(run)?).map_err(|_| input.bad("the begin of its run is none"))?;
        replayer.start = Some(start);
        replayer.start_at = Now::load(input)?;
        replayer.now = Now::load(input)?;
        replayer.progress = Progress::load(input)?;
        replayer.checks = u64::load(input)?;
        for _ in 0..usize::load(input)? {
            let name = Name::load(input)?;
            replayer.names.insert((name.session, name.of, name.number), name);
        }
        let config = |why| Box::new(ReplayError::Config { cell: 0, why });
        let mut made = make(&replayer.text).map_err(config)?;
        made.limits.generation = replayer.generation;
        let engine = Engine::load(made.universe.clone(), Arc::new(made.limits), made.sizing, input)?;
        replayer.universe = Some(made.universe);
        replayer.sizing = made.sizing;
        replayer.engine = Some(engine);
        Ok(replayer)
    }

    /// Checks in the journal are passed over: the replay is meant to come to something else.
    pub fn without_checks(&mut self) {
        self.checked = false;
    }

    /// Takes whole records, the first of which begins with cell `first`.
    ///
    /// # Errors
    /// See [`ReplayError`]; the replay is over then.
    pub fn take(&mut self, first: u64, cells: &[Cell], watch: &mut dyn Watch) -> Result<(), ReplayError> {
        let mut at = 0;
        while at < cells.len() {
            let cell = first + at as u64;
            let bad = |NotARecord { word }| ReplayError::NotARecord { cell, word };
            let count = cells_of(&cells[at]).map_err(bad)? as usize;
            let Some(own) = cells.get(at..at + count) else {
                return Err(ReplayError::NotARecord { cell, word: cells[at][0] });
            };
            at += count;
            let mut bytes = core::mem::take(&mut self.bytes);
            let record = decode(own, &mut bytes).map_err(bad)?;
            match record {
                Record::Event(event) => {
                    self.batch.push((cell, self.now, event));
                    if self.batch.len() == BATCH {
                        self.flush(watch)?;
                    }
                }
                Record::Time(now) => self.now = now,
                Record::Name(name) => {
                    self.names.insert((name.session, name.of, name.number), name);
                }
                other => {
                    self.flush(watch)?;
                    self.other(cell, other, watch)?;
                }
            }
            self.bytes = bytes;
        }
        self.flush(watch)
    }

    fn flush(&mut self, watch: &mut dyn Watch) -> Result<(), ReplayError> {
        let Some((first, ..)) = self.batch.first() else { return Ok(()) };
        let Some(engine) = &mut self.engine else { return Err(ReplayError::NoStart(*first)) };
        let Replayer { effects, progress, names, batch, .. } = self;
        engine.step_batch(
            batch,
            |(_, _, event)| event,
            |engine, (cell, now, event)| {
                effects.clear();
                engine.step(*now, event, effects);
                progress.events += 1;
                progress.add(effects.as_slice());
                if !names.is_empty() {
                    forget(names, engine, effects.as_slice());
                }
                watch.input(*cell, *now, Input::Event(event), effects.as_slice(), engine);
            },
        );
        self.batch.clear();
        Ok(())
    }

    fn other(&mut self, cell: u64, record: Record<'_>, watch: &mut dyn Watch) -> Result<(), ReplayError> {
        let (command, input) = match record {
            Record::Blob(BlobKind::Start, bytes) => {
                let config = |why| ReplayError::Config { cell, why };
                let start = RunStart::decode(bytes).map_err(config)?;
                self.begin(cell, &start, watch)?;
                self.start = Some(start);
                self.start_at = self.now;
                return Ok(());
            }
            Record::Check(expected) => {
                let Some(engine) = &self.engine else { return Err(ReplayError::NoStart(cell)) };
                let found = self.progress.check(engine.state_hash());
                self.checks += 1;
                if self.checked && found != expected {
                    return Err(ReplayError::Differs { cell, expected, found });
                }
                return Ok(());
            }
            Record::Tick(now) => {
                self.now = now;
                let Some(engine) = &mut self.engine else { return Err(ReplayError::NoStart(cell)) };
                self.effects.clear();
                engine.tick(now, &mut self.effects);
                self.progress.add(self.effects.as_slice());
                watch.input(cell, now, Input::Tick, self.effects.as_slice(), engine);
                return Ok(());
            }
            Record::Sweep(now) => {
                self.now = now;
                let Some(engine) = &mut self.engine else { return Err(ReplayError::NoStart(cell)) };
                self.effects.clear();
                engine.sweep_cancels(now, &mut self.effects);
                self.progress.add(self.effects.as_slice());
                watch.input(cell, now, Input::Sweep, self.effects.as_slice(), engine);
                return Ok(());
            }
            Record::Blob(BlobKind::Limits, bytes) => {
                let text = core::str::from_utf8(bytes).unwrap_or_default();
                return self.limits(cell, text, Input::Limits(text), watch);
            }
            Record::Mode { scope, mode, epoch } => {
                (Command::Mode { scope, mode, epoch }, Input::Mode(scope, mode, epoch))
            }
            Record::NewDay => (Command::NewDay, Input::NewDay),
            Record::Behind(behind) => (Command::Behind(behind), Input::Behind(behind)),
            // Taken where they are read.
            Record::Event(_) | Record::Time(_) | Record::Name(_) => return Ok(()),
        };
        self.command(cell, command, input, watch)
    }

    fn command(
        &mut self,
        cell: u64,
        command: Command,
        input: Input<'_>,
        watch: &mut dyn Watch,
    ) -> Result<(), ReplayError> {
        let Some(engine) = &mut self.engine else { return Err(ReplayError::NoStart(cell)) };
        self.effects.clear();
        engine.command(self.now, command, &mut self.effects);
        self.progress.add(self.effects.as_slice());
        watch.input(cell, self.now, input, self.effects.as_slice(), engine);
        Ok(())
    }

    fn begin(&mut self, cell: u64, start: &RunStart, watch: &mut dyn Watch) -> Result<(), ReplayError> {
        if let Some(engine) = &mut self.engine {
            engine.begin_run(self.now);
        }
        if self.engine.is_some() && start.config != self.text {
            return self.limits(cell, &start.config, Input::Start(start), watch);
        }
        if self.engine.is_none() {
            let made = (self.make)(&start.config).map_err(|why| ReplayError::Config { cell, why })?;
            self.generation = made.limits.generation;
            self.universe = Some(made.universe.clone());
            self.sizing = made.sizing;
            self.text.clone_from(&start.config);
            let mut engine = Engine::new(made.universe, Arc::new(made.limits), made.sizing, self.now);
            engine.begin_run(self.now);
            self.engine = Some(engine);
        }
        if let Some(engine) = &self.engine {
            watch.input(cell, self.now, Input::Start(start), &[], engine);
        }
        Ok(())
    }

    fn limits(&mut self, cell: u64, text: &str, input: Input<'_>, watch: &mut dyn Watch) -> Result<(), ReplayError> {
        let config = |why| ReplayError::Config { cell, why };
        let made = (self.make)(text).map_err(config)?;
        if self.universe.as_ref() != Some(&made.universe) {
            return Err(config("it has other names than the one before it".to_owned()));
        }
        self.generation = self.generation.wrapping_add(1);
        let mut table = made.limits;
        table.generation = self.generation;
        text.clone_into(&mut self.text);
        self.command(cell, Command::SetLimits(Arc::new(table)), input, watch)
    }

    /// Where it has come to: the engine, and what belongs to it. `None` if no run has begun.
    #[must_use]
    pub fn finish(self) -> Option<Replayed> {
        let engine = self.engine?;
        let mut names: Vec<Name> = self.names.into_values().collect();
        names.retain(|name| remembered(&engine, name));
        names.sort_by_key(|name| (name.session, name.of as u8, name.number));
        Some(Replayed {
            universe: self.universe?,
            sizing: self.sizing,
            text: self.text,
            generation: self.generation,
            start: self.start?,
            start_at: self.start_at,
            now: self.now,
            progress: self.progress,
            checks: self.checks,
            names,
            engine,
        })
    }
}

/// What a replay has come to.
pub struct Replayed {
    /// The engine.
    pub engine: Engine,
    /// All names.
    pub universe: Arc<Universe>,
    /// How large the engine's tables are.
    pub sizing: Sizing,
    /// The configuration whose limits are in force.
    pub text: String,
    /// Their generation.
    pub generation: u32,
    /// How the last run began.
    pub start: RunStart,
    /// When.
    pub start_at: Now,
    /// The last reading.
    pub now: Now,
    /// What was counted and digested.
    pub progress: Progress,
    /// Checks that fitted.
    pub checks: u64,
    /// Text ids that the engine remembers.
    pub names: Vec<Name>,
}

fn remembered(engine: &Engine, name: &Name) -> bool {
    match name.of {
        NameOf::Order => engine.remembers_order(name.session, OrdId(name.number)),
        NameOf::Exec => engine.remembers_exec(name.session, ExecId(name.number)),
    }
}

/// Drops the texts that nobody needs any more, so that a long journal does not keep all of them.
fn forget(names: &mut HashMap<(SessionId, NameOf, u64), Name>, engine: &Engine, effects: &[Effect]) {
    for effect in effects {
        match effect {
            Effect::OrderForgotten { session, id } => {
                names.remove(&(*session, NameOf::Order, id.0));
            }
            Effect::ExecForgotten { session, id } => {
                names.remove(&(*session, NameOf::Exec, id.0));
            }
            Effect::Verdict(v) => {
                let over = v.denial.is_some() || v.kind == EventKind::Cancel;
                if over && !engine.remembers_order(v.session, v.id) {
                    names.remove(&(v.session, NameOf::Order, v.id.0));
                }
            }
            Effect::Applied { .. }
            | Effect::Resend { .. }
            | Effect::Trip(_)
            | Effect::Warn(_)
            | Effect::Anomaly(_)
            | Effect::Instruct(_) => {}
        }
    }
}

/// How a replay of files ended.
pub struct FilesReplayed {
    /// The files' end.
    pub end: End,
    /// The reader, behind the last group.
    pub reader: Reader,
    /// Cells that were taken.
    pub cells: u64,
}

/// Replays the files in `dir`. `progress` is told how many bytes of how many were taken.
///
/// # Errors
/// See [`ReplayError`].
pub fn replay_files(
    dir: &Path,
    replayer: &mut Replayer<'_>,
    watch: &mut dyn Watch,
    progress: impl FnMut(u64, u64),
) -> Result<FilesReplayed, ReplayError> {
    replay_rest(Reader::open(dir)?, replayer, watch, progress)
}

/// Cells that are read together, so that many events are stepped in one batch however small their groups are.
const READ_TOGETHER: usize = 8 * BATCH;
/// How many such parts are read ahead.
const READ_AHEAD: usize = 4;

/// Cells of groups that follow each other.
#[derive(Default)]
struct Part {
    /// The number of the first of them.
    first: Option<u64>,
    cells: Vec<Cell>,
    /// How long all groups are in the files.
    bytes: u64,
}

impl Part {
    fn add(&mut self, group: &Group) {
        self.bytes += group.header.len() as u64;
        if group.header.kind == GroupKind::Cells {
            self.first.get_or_insert(group.header.first);
            self.cells.extend(group.cells());
        }
    }

    fn emptied(mut self) -> Part {
        self.cells.clear();
        Part { first: None, cells: self.cells, bytes: 0 }
    }
}

/// Replays what `reader` has still to read.
///
/// # Errors
/// See [`ReplayError`].
pub fn replay_rest(
    mut reader: Reader,
    replayer: &mut Replayer<'_>,
    watch: &mut dyn Watch,
    mut progress: impl FnMut(u64, u64),
) -> Result<FilesReplayed, ReplayError> {
    watch.begin(replayer.engine());
    let total = reader.bytes_to_read();
    let (to, from) = crossbeam_channel::bounded::<Part>(READ_AHEAD);
    // What was taken is filled again: each is large enough to cost more in pages than in cells.
    let (give_back, used) = crossbeam_channel::bounded::<Part>(READ_AHEAD);
    let (count, reader) = std::thread::scope(|scope| {
        // Reading and hashing take as long as stepping: a thread of their own does them ahead.
        let ahead = scope.spawn(move || {
            let mut part = Part::default();
            while let Some(group) = reader.next_group()? {
                part.add(&group);
                if part.cells.len() < READ_TOGETHER {
                    continue;
                }
                let next = used.try_recv().map(Part::emptied).unwrap_or_default();
                // An error is the taker's: what it stopped at is said there.
                if to.send(core::mem::replace(&mut part, next)).is_err() {
                    break;
                }
            }
            let _ = to.send(part);
            Ok::<Reader, ReadError>(reader)
        });
        let (mut taken, mut count) = (0, 0);
        for part in from {
            taken += part.bytes;
            count += part.cells.len() as u64;
            replayer.take(part.first.unwrap_or(0), &part.cells, watch)?;
            progress(taken, total.max(taken));
            let _ = give_back.try_send(part);
        }
        let reader = match ahead.join() {
            Ok(reader) => reader?,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        Ok::<_, ReplayError>((count, reader))
    })?;
    let end = reader.end().cloned().unwrap_or(End::Nothing);
    Ok(FilesReplayed { end, reader, cells: count })
}
