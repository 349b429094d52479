//! Power loss: a disk that keeps what was synced, and of everything else any part, in any order, torn by sectors. At
//! every step of the disk the power goes; what a start then recovers is at least what was said to be durable, and
//! exactly the state of some number of inputs.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use haltline::journal::disk::{Disk, SegmentFile, SystemDisk};
use haltline::journal::recover::{Places, recover};
use haltline::journal::replay::Blind;
use haltline::journal::verify::verify;
use haltline::model::Effects;

use crate::crash::{Run, World};
use crate::oracle_test::Rng;
use crate::snapshot::saved;

/// What happened, in its order over all threads.
#[derive(Clone, Debug)]
enum Step {
    Create(PathBuf, usize, u64),
    Write(usize, u64, Vec<u8>),
    Sync(usize),
    Trim(usize, u64),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf),
    SyncNames,
    /// The run said that cells before this one are durable.
    Told(u64),
}

/// Works as the system's, and writes down what it did.
#[derive(Clone, Default)]
struct Recorded(Arc<Mutex<(Vec<Step>, usize)>>);

impl Recorded {
    fn add(&self, step: Step) {
        self.0.lock().unwrap().0.push(step);
    }
}

struct RecordedFile {
    number: usize,
    log: Recorded,
    file: Box<dyn SegmentFile>,
}

impl Disk for Recorded {
    fn create(&mut self, path: &Path, bytes: u64) -> io::Result<Box<dyn SegmentFile>> {
        let number = {
            let mut log = self.0.lock().unwrap();
            log.1 += 1;
            let number = log.1;
            log.0.push(Step::Create(path.to_owned(), number, bytes));
            number
        };
        let file = SystemDisk.create(path, bytes)?;
        Ok(Box::new(RecordedFile { number, log: self.clone(), file }))
    }

    fn remove(&mut self, path: &Path) -> io::Result<()> {
        SystemDisk.remove(path)?;
        self.add(Step::Remove(path.to_owned()));
        Ok(())
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.add(Step::Rename(from.to_owned(), to.to_owned()));
        SystemDisk.rename(from, to)
    }

    fn sync_names(&mut self, dir: &Path) -> io::Result<()> {
        SystemDisk.sync_names(dir)?;
        self.add(Step::SyncNames);
        Ok(())
    }
}

impl SegmentFile for RecordedFile {
    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.log.add(Step::Write(self.number, offset, bytes.to_vec()));
        self.file.write_all_at(bytes, offset)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync()?;
        self.log.add(Step::Sync(self.number));
        Ok(())
    }

    fn trim(&mut self, bytes: u64) -> io::Result<()> {
        self.log.add(Step::Trim(self.number, bytes));
        self.file.trim(bytes)
    }
}

/// A file on the disk, and what was asked of it since it was last synced.
#[derive(Default)]
struct OnDisk {
    durable: Vec<u8>,
    asked: Vec<Asked>,
}

enum Asked {
    Write(u64, Vec<u8>),
    Trim(u64),
}

impl OnDisk {
    fn apply(&mut self, asked: &Asked, mut kept: impl FnMut() -> bool) {
        match asked {
            Asked::Write(offset, bytes) => {
                for (i, sector) in bytes.chunks(SECTOR).enumerate() {
                    if kept() {
                        let at = *offset as usize + i * SECTOR;
                        let end = at + sector.len();
                        self.durable.resize(self.durable.len().max(end), 0);
                        self.durable[at..end].copy_from_slice(sector);
                    }
                }
            }
            Asked::Trim(bytes) => {
                if kept() {
                    self.durable.resize(*bytes as usize, 0);
                }
            }
        }
    }
}

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

/// The disk behind the first `steps`, with a chance of `keep` in 4 for every sector and name that was not synced. Returns
/// the cells that were said to be durable.
fn lose_power(log: &[Step], steps: usize, keep: u64, rng: &mut Rng, dir: &Path) -> u64 {
    let mut files: BTreeMap<usize, OnDisk> = BTreeMap::new();
    let mut names: BTreeMap<PathBuf, usize> = BTreeMap::new();
    let mut removed: Vec<(PathBuf, usize)> = Vec::new();
    let mut told = 0;
    for (n, step) in log[..steps].iter().enumerate() {
        // The last one may have been under way.
        let done = n + 1 < steps || rng.below(2) == 0;
        match step {
            Step::Create(path, number, bytes) => {
                files.insert(*number, OnDisk { durable: vec![0; *bytes as usize], asked: Vec::new() });
                if done {
                    names.insert(path.clone(), *number);
                }
            }
            Step::Write(number, offset, bytes) => {
                files.get_mut(number).unwrap().asked.push(Asked::Write(*offset, bytes.clone()));
            }
            Step::Trim(number, bytes) => files.get_mut(number).unwrap().asked.push(Asked::Trim(*bytes)),
            Step::Sync(number) => {
                let file = files.get_mut(number).unwrap();
                for asked in std::mem::take(&mut file.asked) {
                    file.apply(&asked, || true);
                }
            }
            Step::Remove(path) => removed.extend(names.remove(path).map(|number| (path.clone(), number))),
            Step::SyncNames => removed.clear(),
            Step::Rename(from, to) => {
                if done && let Some(number) = names.remove(from) {
                    names.insert(to.clone(), number);
                }
            }
            Step::Told(cell) => told = told.max(*cell),
        }
    }
    // A name whose removal was not synced may come back, unless something else has it now.
    for (path, number) in removed {
        if rng.below(4) < keep {
            names.entry(path).or_insert(number);
        }
    }
    for (path, number) in names {
        let mut file = files.remove(&number).unwrap();
        for asked in std::mem::take(&mut file.asked) {
            file.apply(&asked, || rng.below(4) < keep);
        }
        std::fs::write(dir.join(path.file_name().unwrap()), &file.durable).unwrap();
    }
    told
}

/// Runs the stream over a disk that writes down its steps.
fn run(world: &World, inputs: u64) -> Vec<Step> {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let places = World::places(dir.path());
    let disk = Recorded::default();
    let recovered = recover(&places, &|text| world.make(text), false, 1, &mut Blind).unwrap();
    let mut run = Run::begin(world, &places, recovered, || Box::new(disk.clone()), Some(Duration::ZERO));
    let mut effects = Effects::new();
    for n in 1..=inputs {
        run.take(&mut effects);
        let synced = run.durability.synced();
        disk.add(Step::Told(synced));
        // The compactor gets its turns: one to make a snapshot, the next to record a removal, the third to do it.
        if n.is_multiple_of(400) {
            run.until_another_snapshot();
        }
    }
    // Not an orderly end: the steps of one would be the same as of any other.
    run.until_quiet();
    let synced = run.durability.synced();
    disk.add(Step::Told(synced));
    let log = disk.0.lock().unwrap().0.clone();
    run.end();
    log
}

#[test]
fn a_power_loss_at_any_step_of_the_disk_loses_nothing_that_was_said_to_be_durable() {
    let seeds: u64 = std::env::var("HALTLINE_POWER").map_or(2, |seeds| seeds.parse().unwrap());
    let (mut losses, mut from_snapshot, mut removed) = (0, 0, 0);
    for seed in 1..=seeds {
        let world = World::new(seed + 70);
        let inputs = 2_500;
        let log = run(&world, inputs);
        // The beginning of the run is one of them.
        let states = world.states(inputs + 1);
        let mut rng = Rng(seed);
        let places_to_stop: Vec<usize> =
            (1..=log.len()).filter(|n| !matches!(log[n - 1], Step::Told(_)) || *n == log.len()).collect();
        removed +=
            log.iter().filter(|step| matches!(step, Step::Remove(path) if path.ends_with("00000001.seg"))).count();
        for (n, stop) in places_to_stop.into_iter().enumerate() {
            // Nothing of what was not synced, all of it, and anything between.
            let keep = [0, 1, 2, 3, 4][n % 5];
            let dir = tempfile::tempdir_in("/dev/shm").unwrap();
            let places = Places { boot: [2; 16], ..World::places(dir.path()) };
            std::fs::create_dir(&places.dir).unwrap();
            let told = lose_power(&log, stop, keep, &mut rng, &places.dir);
            let why = format!("seed {seed}, {:?}, step {stop} of {}, keep {keep}", log[stop - 1], log.len());
            let recovered = recover(&places, &|text| world.make(text), true, 1, &mut Blind);
            let recovered = recovered.unwrap_or_else(|error| panic!("{why}: {error}"));
            assert!(recovered.unknown.is_some(), "{why}: a start after a power loss is halted");
            let behind = recovered.tip.cell;
            assert!(behind >= told, "{why}: {behind} of {told} cells; {:?} {:?}", recovered.unknown, recovered.notes);
            from_snapshot += u64::from(recovered.snapshot.is_some());
            losses += 1;
            if let Some(replayed) = &recovered.replayed {
                let inputs = replayed.engine.inputs();
                let state = *blake3::hash(&saved(&replayed.engine)).as_bytes();
                assert!(state == states[inputs as usize], "{why}: the state is that of {inputs} inputs");
            } else {
                assert_eq!(told, 0, "{why}: {:?}", recovered.unknown);
            }
            // And it goes on from there.
            if n % 10 == 0 {
                let mut run = Run::begin(&world, &places, recovered, || Box::new(SystemDisk), None);
                let mut effects = Effects::new();
                (0..60).for_each(|_| run.take(&mut effects));
                run.end();
                let report = verify(&places.dir, Some(&World::key().verifying_key()), None).unwrap();
                assert!(report.is_intact(), "{why}: {:?}", report.faults);
            }
        }
    }
    let counts = format!("{losses} losses, {from_snapshot} behind a snapshot, {removed} first segments removed");
    eprintln!("{counts}");
    assert!(losses > 100 && from_snapshot > 20 && removed > 0, "{counts}");
}

#[test]
fn a_disk_that_forgets_a_sync_is_found_out() {
    // What the test above would say of a program that calls durable what is not.
    let world = World::new(71);
    let log = run(&world, 800);
    let lying: Vec<Step> = log.into_iter().filter(|step| !matches!(step, Step::Sync(_))).collect();
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let places = Places { boot: [2; 16], ..World::places(dir.path()) };
    std::fs::create_dir(&places.dir).unwrap();
    let told = lose_power(&lying, lying.len(), 0, &mut Rng(1), &places.dir);
    let recovered = recover(&places, &|text| world.make(text), true, 1, &mut Blind).unwrap();
    assert!(told > 0 && recovered.tip.cell < told, "{} of {told}", recovered.tip.cell);
}
