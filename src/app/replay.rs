//! `haltline replay` and `haltline limits suggest`: a journal run again, as it was and as other limits would have had it.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};

use crate::app::config::Loaded;
use crate::app::journal::make;
use crate::engine::Command;
use crate::engine::core::Engine;
use crate::engine::record::Progress;
use crate::journal::reader::{End, Reader, header_of, segments};
use crate::journal::replay::{Input, Replayer, Watch, replay_rest};
use crate::journal::snapshot::{self, Header, snapshots};
use crate::journal::tally::Tally;
use crate::journal::verify::key_of_first_segment;
use crate::model::save::{In, Out};
use crate::model::{Effect, Effects, Mode, Scope, Universe};
use crate::units::Now;

/// What a replay found.
pub struct Replay {
    /// The flow as it was.
    pub was: Tally,
    /// The same under other limits.
    pub would: Option<Tally>,
    /// Counts and digest of the flow as it was.
    pub progress: Progress,
    /// Hash of the state at the end.
    pub state: [u64; 2],
    /// Checks of the run that the replay came to.
    pub checks: u64,
    /// How the files end.
    pub end: End,
    /// Cells read.
    pub cells: u64,
    /// The snapshot that it begins behind, where the journal's beginning is gone.
    pub from: Option<Header>,
}

/// The journal in `dir`, which is a state directory or the journal's own.
#[must_use]
pub fn journal_dir(dir: &Path) -> PathBuf {
    let inner = dir.join("journal");
    if inner.is_dir() { inner } else { dir.to_owned() }
}

/// Replays the journal in `dir`, with `other` also under its limits. `progress` is told bytes done and bytes in all.
/// Where its first segments were removed, it begins behind the oldest snapshot that the rest goes on from.
///
/// # Errors
/// If there is no journal, it cannot be read, the replay comes to something else than the run, or `other` names other
/// accounts, strategies, instruments, sessions or currencies.
pub fn replay(dir: &Path, other: Option<&Loaded>, progress: impl FnMut(u64, u64)) -> anyhow::Result<Replay> {
    let dir = journal_dir(dir);
    let (mut replayer, reader, from) = begin(&dir)?;
    let mut watch = Both { was: None, other, would: None, names_differ: false };
    if let (Some(other), Some(engine)) = (other, replayer.engine()) {
        match same_names(&other.universe, engine.universe()) {
            true => watch.would = Some(WhatIf::after(other, &replayer)?),
            false => watch.names_differ = true,
        }
    }
    let files = replay_rest(reader, &mut replayer, &mut watch, progress)
        .with_context(|| format!("replaying the journal in {}", dir.display()))?;
    if watch.names_differ {
        bail!("the configuration has other accounts, strategies, instruments, sessions or currencies than the journal");
    }
    let (Some(replayed), Some(was)) = (replayer.finish(), watch.was) else {
        bail!("there is no run in {}", dir.display());
    };
    Ok(Replay {
        was,
        would: watch.would.map(|w| w.tally),
        state: replayed.engine.state_hash(),
        progress: replayed.progress,
        checks: replayed.checks,
        end: files.end,
        cells: files.cells,
        from,
    })
}

/// From the beginning; where that is gone, from the oldest snapshot that the rest goes on from.
fn begin(dir: &Path) -> anyhow::Result<(Replayer<'static>, Reader, Option<Header>)> {
    let reader = Reader::open(dir)?;
    let first = segments(dir)?.iter().find_map(|(_, path)| header_of(path));
    let Some(first) = first.filter(|first| first.first_group > 0) else {
        return Ok((Replayer::new(&make), reader, None));
    };
    let key = key_of_first_segment(dir).context("the first segment names no key")?;
    let mut faults = String::new();
    for (_, path) in snapshots(dir)? {
        let why = match snapshot::load(&path, &key, &make) {
            Ok((header, _)) if header.tip.group < first.first_group => "what follows on it is gone as well".to_owned(),
            Ok((header, replayer)) => {
                let mut reader = reader;
                reader.resume_at(header.tip);
                return Ok((replayer, reader, Some(header)));
            }
            Err(fault) => fault.to_string(),
        };
        faults.push_str(&format!("; {}: {why}", path.display()));
    }
    bail!(
        "the journal in {} begins with group {}, and no snapshot stands there{faults}",
        dir.display(),
        first.first_group
    );
}

/// Whether an id means the same in both, and a number of it too. Volumes and prices to begin with may differ.
#[must_use]
pub fn same_names(a: &Universe, b: &Universe) -> bool {
    let plain = |universe: &Universe| {
        let mut universe = universe.clone();
        for spec in &mut universe.instruments {
            (spec.average_daily_volume, spec.initial_reference) = (None, None);
        }
        universe.currencies.iter_mut().for_each(|spec| spec.initial_rate = None);
        universe
    };
    plain(a) == plain(b)
}

/// Tallies the flow as it was, and drives the other engine beside it.
struct Both<'a> {
    was: Option<Tally>,
    other: Option<&'a Loaded>,
    would: Option<WhatIf>,
    names_differ: bool,
}

impl Watch for Both<'_> {
    fn input(&mut self, cell: u64, now: Now, input: Input<'_>, effects: &[Effect], engine: &Engine) {
        let was = self.was.get_or_insert_with(|| Tally::new(engine.universe().clone(), engine.limits().clone()));
        was.set_limits(engine.limits());
        was.input(cell, now, input, effects, engine);
        if let (Some(other), None, false) = (self.other, &self.would, self.names_differ) {
            if same_names(&other.universe, engine.universe()) {
                self.would = Some(WhatIf::new(other, now));
            } else {
                self.names_differ = true;
            }
        }
        if let Some(would) = &mut self.would {
            would.input(cell, now, input, effects, engine);
        }
    }
}

/// The same inputs under other limits. What people did is done here too; what the limits of then did is not: their
/// trips are left out, and trips of these limits stay until somebody re-armed the scope.
struct WhatIf {
    engine: Engine,
    tally: Tally,
    effects: Effects,
    /// Scopes that are halted because a limit of then tripped.
    theirs: HashSet<Scope>,
}

impl WhatIf {
    fn new(other: &Loaded, now: Now) -> WhatIf {
        let table = Arc::new(other.limits.clone());
        WhatIf {
            engine: Engine::new(other.universe.clone(), table.clone(), other.engine.sizing, now),
            tally: Tally::new(other.universe.clone(), table),
            effects: Effects::new(),
            theirs: HashSet::new(),
        }
    }

    /// Goes on from the orders and positions that `replayer` has.
    fn after(other: &Loaded, replayer: &Replayer<'_>) -> anyhow::Result<WhatIf> {
        let (engine, sizing) = (replayer.engine().context("no run has begun")?, replayer.sizing());
        let mut state = Vec::new();
        let mut out = Out::new(&mut state);
        engine.save(&mut out);
        out.finish()?;
        let now = replayer.now();
        let mut would = WhatIf::new(other, now);
        let mut input = In::new(&state);
        would.engine = Engine::load(other.universe.clone(), engine.limits().clone(), sizing, &mut input)?;
        let table = would.tally.limits().clone();
        would.engine.command(now, Command::SetLimits(table), &mut would.effects);
        Ok(would)
    }
}

impl Watch for WhatIf {
    fn input(&mut self, cell: u64, now: Now, input: Input<'_>, effects: &[Effect], _: &Engine) {
        for effect in effects {
            if let Effect::Trip(trip) = effect {
                self.theirs.insert(trip.scope);
            }
        }
        self.effects.clear();
        match input {
            Input::Start(_) | Input::Limits(_) | Input::Behind(_) => return,
            Input::Event(event) => self.engine.step(now, event, &mut self.effects),
            Input::Tick => {
                self.engine.tick(now, &mut self.effects);
            }
            Input::Sweep => {
                self.engine.sweep_cancels(now, &mut self.effects);
            }
            Input::Mode(scope, mode, epoch) => {
                if mode > Mode::Normal && self.theirs.contains(&scope) {
                    return;
                }
                self.theirs.remove(&scope);
                self.engine.command(now, Command::Mode { scope, mode, epoch }, &mut self.effects);
            }
            Input::NewDay => self.engine.command(now, Command::NewDay, &mut self.effects),
        }
        self.tally.input(cell, now, input, self.effects.as_slice(), &self.engine);
    }
}
