//! Replay = live: the journal of a random stream, run again, has the same effects byte for byte and the same state.

use std::sync::Arc;

use haltline::engine::Command;
use haltline::engine::core::Engine;
use haltline::engine::durability::Durability;
use haltline::engine::published::Published;
use haltline::engine::record::{BlobKind, Progress, Recorder, cells_of, effect_words};
use haltline::journal::replay::{Input as Replayed, Made, Replayer, Watch};
use haltline::journal::run::RunStart;
use haltline::limits::LimitTable;
use haltline::model::{Effect, Effects, Event, EventKind};
use haltline::ring::cells::{self, Cell};
use haltline::units::{MonoNanos, Now, OrdId, SessionId, UnixNanos};

use crate::oracle_test::{Case, Input, Maker, Rng, START, UNIX};

/// Effects as bytes, step by step, and the state behind each.
#[derive(Default)]
struct Tape {
    bytes: Vec<u8>,
    states: Vec<[u64; 2]>,
    instructions: usize,
}

impl Tape {
    fn add(&mut self, effects: &[Effect], engine: &Engine) {
        self.bytes.extend_from_slice(&(effects.len() as u32).to_le_bytes());
        for effect in effects {
            let (words, count) = effect_words(effect);
            words[..count].iter().for_each(|word| self.bytes.extend_from_slice(&word.to_le_bytes()));
        }
        self.states.push(engine.state_hash());
    }
}

impl Watch for Tape {
    fn input(&mut self, _: u64, _: Now, input: Replayed<'_>, effects: &[Effect], engine: &Engine) {
        if !matches!(input, Replayed::Start(_)) {
            self.add(effects, engine);
        }
    }
}

/// Runs a case as the service does, recording it. Returns what it did, its cells and its tables by number.
fn live(case: &Case, rng: &mut Rng) -> (Tape, Vec<Cell>, Vec<Arc<LimitTable>>) {
    let dir = tempfile::tempdir().unwrap();
    let (writer, reader) = cells::create(&dir.path().join("ring"), 1 << 17, [0; 16], [0; 16], 0).unwrap();
    let slots = case.universe.scope_count();
    let mut recorder = Recorder::new(writer, Arc::new(Durability::default()), Progress::default(), slots);
    let start = Now { mono: MonoNanos(START), unix: UnixNanos(UNIX + START) };
    let mut engine = Engine::new(case.universe.clone(), case.table.clone(), case.sizing, start);
    let mut tables = vec![case.table.clone()];
    let run = RunStart { haltline: "test".into(), boot: String::new(), host_mono: 0, config: "0".into() };
    recorder.blob(start, BlobKind::Start, &run.encode());
    engine.begin_run(start);
    let published = Published::new(&case.universe);
    let (mut tape, mut effects) = (Tape::default(), Effects::new());
    for input in &case.inputs {
        effects.clear();
        match input {
            Input::Event(now, event, delta) => {
                // The next of its stream, or so far off.
                let mut event = *event;
                if usize::from(event.session.0) < case.universe.sessions.len() {
                    event.seq = engine.expected(event.session).saturating_add_signed(*delta);
                }
                recorder.event(*now, &event);
                engine.step(*now, &event, &mut effects);
            }
            Input::Command(now, command) => {
                let command = match command {
                    Command::Mode { scope, mode, epoch } => {
                        recorder.mode(*now, *scope, *mode, *epoch);
                        command.clone()
                    }
                    Command::SetLimits(table) => {
                        let mut table = (**table).clone();
                        table.generation = tables[0].generation.wrapping_add(tables.len() as u32);
                        let table = Arc::new(table);
                        recorder.blob(*now, BlobKind::Limits, tables.len().to_string().as_bytes());
                        tables.push(table.clone());
                        Command::SetLimits(table)
                    }
                    Command::NewDay => {
                        recorder.new_day(*now);
                        Command::NewDay
                    }
                    Command::Behind(behind) => {
                        recorder.behind(*now, *behind);
                        Command::Behind(*behind)
                    }
                };
                engine.command(*now, command, &mut effects);
            }
            Input::Tick(now) => {
                if !engine.tick(*now, &mut effects) {
                    assert_eq!(effects.as_slice(), [], "a tick that moved nothing");
                    continue;
                }
                recorder.tick(*now);
            }
        }
        recorder.publish(effects.as_slice());
        tape.add(effects.as_slice(), &engine);
        let now = match input {
            Input::Event(now, ..) | Input::Command(now, _) | Input::Tick(now) => *now,
        };
        if rng.one_in(50) {
            recorder.check(now, engine.state_hash());
        }
        // A session comes or goes, and halts have their orders canceled.
        if rng.one_in(10) {
            effects.clear();
            let session = SessionId(rng.below(case.universe.sessions.len() as u64) as u16);
            let event = Event { id: OrdId(rng.below(3)), ..Event::new(EventKind::Heartbeat, session, 0) };
            recorder.event(now, &event);
            engine.step(now, &event, &mut effects);
            recorder.publish(effects.as_slice());
            tape.add(effects.as_slice(), &engine);
        }
        effects.clear();
        if rng.one_in(2) && engine.sweep_cancels(now, &mut effects) {
            recorder.sweep(now);
            recorder.publish(effects.as_slice());
            tape.instructions += effects.as_slice().iter().filter(|e| matches!(e, Effect::Instruct(_))).count();
            tape.add(effects.as_slice(), &engine);
        } else {
            assert_eq!(effects.as_slice(), [], "a step that moved nothing");
        }
        // Somebody looks, at any time: that changes nothing.
        if rng.one_in(3) {
            engine.show_scope(now, rng.below(slots as u64) as usize, &published);
            engine.show_totals(&published);
        }
    }
    recorder.check(start, engine.state_hash());
    let mut cells = Vec::new();
    reader.read(0, reader.head(), &mut cells);
    (tape, cells, tables)
}

#[test]
fn a_replay_has_the_same_effects_byte_for_byte_and_the_same_state() {
    let cases = std::env::var("HALTLINE_CASES").map_or(150, |n| n.parse().unwrap());
    let (mut inputs, mut trips, mut instructions) = (0, 0, 0);
    for seed in 1..=cases {
        let case = Maker::case(seed);
        let mut rng = Rng(seed);
        let (live, cells, tables) = live(&case, &mut rng);
        let make = |text: &str| {
            let table: &LimitTable = &tables[text.parse::<usize>().unwrap()];
            Ok(Made { universe: case.universe.clone(), limits: table.clone(), sizing: case.sizing })
        };
        let mut replayer = Replayer::new(&make);
        let mut tape = Tape::default();
        // In parts of any size, as groups are.
        let (mut from, mut at) = (0, 0);
        while at < cells.len() {
            at += cells_of(&cells[at]).unwrap() as usize;
            if rng.one_in(40) || at == cells.len() {
                let taken = replayer.take(from as u64, &cells[from..at], &mut tape);
                taken.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
                from = at;
            }
        }
        assert_eq!(tape.states.len(), live.states.len(), "seed {seed}: inputs");
        let differs = tape.states.iter().zip(&live.states).position(|(a, b)| a != b);
        assert_eq!(differs, None, "seed {seed}: the state behind this input");
        assert!(tape.bytes == live.bytes, "seed {seed}: effects");
        assert!(replayer.finish().unwrap().checks > 0);
        inputs += tape.states.len();
        instructions += live.instructions;
        trips += usize::from(case.inputs.iter().any(|i| matches!(i, Input::Command(..))));
    }
    assert!(inputs > 100 && trips > 0 && instructions > 100, "{inputs} inputs, {instructions} instructions");
}

#[test]
fn a_replay_that_comes_to_something_else_says_where() {
    let case = (1..).map(Maker::case).find(|case| case.inputs.len() >= 300).unwrap();
    let (_, mut cells, tables) = live(&case, &mut Rng(1));
    let make = |text: &str| {
        let table: &LimitTable = &tables[text.parse::<usize>().unwrap()];
        Ok(Made { universe: case.universe.clone(), limits: table.clone(), sizing: case.sizing })
    };
    // One more event than was.
    let heartbeat = Event::new(EventKind::Heartbeat, SessionId(0), 1 << 40);
    let at = cells.iter().rposition(|cell| (1..=16).contains(&(cell[0] & 0xff))).unwrap();
    cells.insert(at, haltline::engine::record::event_cell(&heartbeat));
    let error = Replayer::new(&make).take(0, &cells, &mut Tape::default()).unwrap_err().to_string();
    assert!(error.contains("the replay comes to"), "{error}");
}
