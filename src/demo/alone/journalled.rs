//! The morning journalled and replayed: the same effects and the same state, from the beginning and behind a snapshot.
//!
//! `HALTLINE_KNIGHT_SECONDS` says how much of it: 2,700 are all 45 minutes, with every execution of the old code.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::*;
use crate::engine::durability::Durability;
use crate::engine::record::{BlobKind, Check, Progress, Recorder};
use crate::journal::compact::{CompactorOptions, CompactorParts, compact};
use crate::journal::disk::SystemDisk;
use crate::journal::format::Tip;
use crate::journal::recover::{Places, Recovered, recover};
use crate::journal::replay::{Blind, Made};
use crate::journal::run::RunStart;
use crate::journal::writer::{Writer, WriterOptions, WriterParts};
use crate::kill::audit::Audit;
use crate::kill::testing::TestClock;
use crate::ring::cells;

/// Records what the morning does to its engine.
pub(super) struct Tape {
    recorder: Recorder,
    writer: Writer,
    durability: Arc<Durability>,
    steps: u64,
}

fn key() -> ed25519_dalek::SigningKey {
    ed25519_dalek::SigningKey::from_bytes(&[5; 32])
}

impl Tape {
    fn new(dir: &Path, scopes: usize) -> Tape {
        let (write, read) = cells::create(&dir.join("ring"), 1 << 16, [5; 16], [0; 16], 0).unwrap();
        let durability = Arc::new(Durability::default());
        let (_, audit) = crossbeam_channel::bounded(1);
        std::fs::create_dir(dir.join("journal")).unwrap();
        let writer = Writer::new(WriterParts {
            dir: dir.join("journal"),
            disk: Box::new(SystemDisk),
            ring: read,
            audit,
            durability: durability.clone(),
            clock: TestClock::new(),
            key: key(),
            journal: [5; 16],
            tip: Tip::BEGIN,
            synced: Box::new(|| ()),
            heads: None,
            options: WriterOptions { segment_bytes: 1 << 20, ..WriterOptions::default() },
        });
        let mut recorder = Recorder::new(write, durability.clone(), Progress::default(), scopes);
        let start = RunStart { haltline: "test".into(), boot: String::new(), host_mono: 0, config: "knight".into() };
        recorder.blob(BEGIN, BlobKind::Start, &start.encode());
        recorder.publish(&[]);
        Tape { recorder, writer, durability, steps: 0 }
    }

    pub(super) fn event(&mut self, now: Now, event: &Event) {
        self.recorder.event(now, event);
    }

    pub(super) fn tick(&mut self, now: Now) {
        self.recorder.tick(now);
    }

    pub(super) fn done(&mut self, now: Now, effects: &Effects, engine: &Engine) {
        self.recorder.publish(effects.as_slice());
        self.steps += 1;
        if self.recorder.check_is_due(now) {
            self.recorder.check(now, engine.state_hash());
        }
        if self.steps.is_multiple_of(4_096) {
            self.writer.round();
        }
    }
}

#[test]
fn the_morning_is_replayed_to_the_same_effects_and_the_same_state() {
    let seconds = std::env::var("HALTLINE_KNIGHT_SECONDS").map_or(20, |seconds| seconds.parse().unwrap());
    let trial = tests::demo();
    let dir = tempfile::tempdir().unwrap();
    // Nothing is armed: nothing stops it.
    let mut morning = trial.morning(&[]).unwrap();
    morning.tape = Some(Tape::new(dir.path(), trial.universe.scope_count()));
    morning.engine.begin_run(BEGIN);
    assert_eq!(morning.first_to_fire(seconds * 1_000_000_000), None);
    let Morning { engine, tape, .. } = morning;
    let Tape { mut recorder, writer, durability, .. } = tape.unwrap();
    recorder.check(OPEN, engine.state_hash());
    writer.run(&AtomicBool::new(true)).unwrap();

    let table = isolated(&trial.universe, &trial.limits, &[]);
    let sizing = SIZING;
    let universe = trial.universe.clone();
    let make = Arc::new(move |_: &str| Ok(Made { universe: universe.clone(), limits: table.clone(), sizing }));
    let places = Places {
        dir: dir.path().join("journal"),
        ring: dir.path().join("no ring"),
        journal: [5; 16],
        key: key().verifying_key(),
        boot: [0; 16],
    };
    let state = |engine: &Engine| {
        let mut hasher = blake3::Hasher::new();
        let mut out = crate::model::save::Out::new(&mut hasher);
        engine.save(&mut out);
        out.finish().unwrap();
        hasher.finalize()
    };
    let look = |recovered: Recovered| {
        assert_eq!(recovered.unknown, None, "{:?}", recovered.notes);
        let replayed = recovered.replayed.unwrap();
        assert!(replayed.checks > 0);
        let check: Check = replayed.progress.check(replayed.engine.state_hash());
        (check, state(&replayed.engine), recovered.snapshot.is_some())
    };
    let begin = std::time::Instant::now();
    let (check, whole, _) = look(recover(&places, &*make, false, 1, &mut Blind).unwrap());
    let from_beginning = begin.elapsed();
    assert_eq!(whole, state(&engine), "everything is as it was live");
    let mut parts = CompactorParts {
        dir: places.dir.clone(),
        disk: Box::new(SystemDisk),
        key: key(),
        journal: [5; 16],
        make: make.clone(),
        audit: Arc::new(Audit::new(None, TestClock::new())),
        clock: TestClock::new(),
        durability,
        shown: Arc::default(),
        options: CompactorOptions { segments: 1, keep: None },
    };
    compact(&mut parts, &AtomicBool::new(false)).unwrap();
    let begin = std::time::Instant::now();
    let behind = look(recover(&places, &*make, false, 1, &mut Blind).unwrap());
    assert_eq!(behind, (check, whole, true));
    eprintln!(
        "{} events, {} effects: recovered in {from_beginning:?}, behind the snapshot in {:?}",
        check.events,
        check.effects,
        begin.elapsed()
    );
}
