//! Snapshots: an engine made of its saved state goes on exactly as the one that was saved.

use haltline::engine::Command;
use haltline::engine::core::Engine;
use haltline::engine::record::effect_words;
use haltline::journal::disk::SystemDisk;
use haltline::journal::recover::recover;
use haltline::journal::replay::Blind;
use haltline::journal::snapshot::{self, HEADER, snapshots};
use haltline::model::save::{In, Out};
use haltline::model::{Effect, Effects};
use haltline::units::{MonoNanos, Now, UnixNanos};

use crate::crash::{Run, World};
use crate::oracle_test::{Case, Input, Maker, Rng, START, UNIX};

pub fn saved(engine: &Engine) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut out = Out::new(&mut bytes);
    engine.save(&mut out);
    out.finish().unwrap();
    bytes
}

/// An engine of the saved bytes, and the check that nothing is left of them.
fn loaded(case: &Case, engine: &Engine, bytes: &[u8]) -> Engine {
    let mut input = In::new(bytes);
    let made = Engine::load(case.universe.clone(), engine.limits().clone(), case.sizing, &mut input).unwrap();
    input.end().unwrap();
    made
}

fn words(effects: &[Effect]) -> Vec<u64> {
    effects.iter().map(effect_words).flat_map(|(words, count)| words.into_iter().take(count)).collect()
}

fn take(engine: &mut Engine, input: &Input, effects: &mut Effects) {
    effects.clear();
    match input {
        Input::Event(now, event, delta) => {
            let mut event = *event;
            event.seq = engine.expected(event.session).saturating_add_signed(*delta);
            engine.step(*now, &event, effects);
        }
        Input::Command(now, command) => engine.command(*now, command.clone(), effects),
        Input::Tick(now) => {
            engine.tick(*now, effects);
        }
    }
}

#[test]
fn an_engine_made_of_its_saved_state_goes_on_exactly_as_the_one_that_was_saved() {
    let cases = std::env::var("HALTLINE_CASES").map_or(150, |n| n.parse().unwrap());
    let (mut saves, mut reloads) = (0, 0);
    for seed in 1..=cases {
        let case = Maker::case(seed);
        let mut rng = Rng(seed);
        let start = Now { mono: MonoNanos(START), unix: UnixNanos(UNIX + START) };
        let mut engine = Engine::new(case.universe.clone(), case.table.clone(), case.sizing, start);
        let mut other: Option<Engine> = None;
        let (mut effects, mut others) = (Effects::new(), Effects::new());
        for (n, input) in case.inputs.iter().enumerate() {
            if rng.one_in(20) {
                let bytes = saved(&engine);
                let made = loaded(&case, &engine, &bytes);
                // Nothing is forgotten and nothing invented; the one that goes on may itself have been loaded.
                assert!(saved(&made) == bytes, "seed {seed}, input {n}: saved again");
                other = Some(made);
                saves += 1;
            }
            take(&mut engine, input, &mut effects);
            if let Some(other) = &mut other {
                take(other, input, &mut others);
                assert_eq!(words(effects.as_slice()), words(others.as_slice()), "seed {seed}, input {n}");
                assert_eq!(engine.state_hash(), other.state_hash(), "seed {seed}, input {n}");
            }
            reloads += usize::from(matches!(input, Input::Command(_, Command::SetLimits(_))));
        }
        if let Some(other) = &other {
            assert!(saved(&engine) == saved(other), "seed {seed}: everything, at the end");
        }
    }
    assert!(saves > 100 && reloads > 0, "{saves} saves, {reloads} reloads");
}

#[test]
fn saved_state_of_another_engine_or_cut_anywhere_is_refused() {
    let case = Maker::case(3);
    let start = Now { mono: MonoNanos(START), unix: UnixNanos(UNIX + START) };
    let mut engine = Engine::new(case.universe.clone(), case.table.clone(), case.sizing, start);
    let mut effects = Effects::new();
    case.inputs.iter().for_each(|input| take(&mut engine, input, &mut effects));
    let bytes = saved(&engine);
    let load = |bytes: &[u8], universe| {
        let mut input = In::new(bytes);
        let made = Engine::load(universe, engine.limits().clone(), case.sizing, &mut input);
        made.and_then(|made| input.end().map(|()| made)).map(drop)
    };
    assert_eq!(load(&bytes, case.universe.clone()), Ok(()));
    for length in (0..bytes.len()).step_by(bytes.len() / 500 + 1) {
        assert!(load(&bytes[..length], case.universe.clone()).is_err(), "{length} of {}", bytes.len());
    }
    let mut table = (*case.table).clone();
    table.generation = engine.limits().generation.wrapping_add(1);
    let other = Engine::load(case.universe.clone(), std::sync::Arc::new(table), case.sizing, &mut In::new(&bytes));
    assert!(other.err().unwrap().to_string().contains("other limits"));
}

#[test]
fn a_snapshot_cut_at_any_byte_or_changed_anywhere_is_passed_over_and_the_start_comes_to_the_same() {
    let world = World::new(81);
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let places = World::places(dir.path());
    let start = || recover(&places, &|text| world.make(text), false, 1, &mut Blind).unwrap();
    let mut run = Run::begin(&world, &places, start(), || Box::new(SystemDisk), None);
    let mut effects = Effects::new();
    for n in 1..=1_500u32 {
        run.take(&mut effects);
        if n.is_multiple_of(400) {
            run.until_another_snapshot();
        }
    }
    run.end();
    let newest = start();
    let expected = saved(&newest.replayed.unwrap().engine);
    let made = newest.snapshot.unwrap().tip.segment;
    let files = snapshots(&places.dir).unwrap();
    let [.., (before, second), (last, path)] = &files[..] else { panic!("{} snapshots", files.len()) };
    assert_eq!(*last, made);
    let bytes = std::fs::read(path).unwrap();
    let key = World::key().verifying_key();

    // The file by itself: every length, and every byte of its header and many of its body.
    let alone = dir.path().join("alone.snap");
    std::fs::write(&alone, &bytes).unwrap();
    assert!(snapshot::read(&alone, &key).is_ok());
    let file = std::fs::OpenOptions::new().write(true).open(&alone).unwrap();
    for length in (0..bytes.len()).rev() {
        file.set_len(length as u64).unwrap();
        assert!(snapshot::read(&alone, &key).is_err(), "cut to {length} of {} bytes", bytes.len());
    }
    let mut rng = Rng(81);
    let body: Vec<usize> = (0..1_000).map(|_| HEADER + rng.below((bytes.len() - HEADER) as u64) as usize).collect();
    for at in (0..HEADER).chain(body) {
        let mut changed = bytes.clone();
        changed[at] ^= 1 << rng.below(8);
        std::fs::write(&alone, changed).unwrap();
        assert!(snapshot::read(&alone, &key).is_err(), "byte {at} of {} changed", bytes.len());
    }

    // A start with it: behind the one before, and without any from the beginning.
    let lengths = [0, 1, HEADER - 1, HEADER, HEADER + 1, bytes.len() - 1];
    let random: Vec<usize> = (0..20).map(|_| rng.below(bytes.len() as u64) as usize).collect();
    for length in lengths.into_iter().chain(random) {
        std::fs::write(path, &bytes[..length]).unwrap();
        let recovered = start();
        assert_eq!(recovered.unknown, None, "cut to {length}: {:?}", recovered.notes);
        assert!(recovered.notes.iter().any(|note| note.contains("passed over")), "{:?}", recovered.notes);
        assert_eq!(recovered.snapshot.map(|header| header.tip.segment), Some(*before), "cut to {length}");
        assert!(saved(&recovered.replayed.unwrap().engine) == expected, "cut to {length}: the state");
    }
    for path in files.iter().map(|(_, path)| path).filter(|path| *path != second) {
        std::fs::write(path, &bytes[..HEADER]).unwrap();
    }
    std::fs::remove_file(second).unwrap();
    let recovered = start();
    assert_eq!((recovered.unknown, recovered.snapshot), (None, None));
    assert!(saved(&recovered.replayed.unwrap().engine) == expected, "from the beginning");
}
