//! The files of the journal: written by the writer, torn, cut, flipped and failed, and read again.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crossbeam_channel::Sender;
use ed25519_dalek::SigningKey;
use proptest::prelude::*;

use crate::engine::durability::Durability;
use crate::engine::record::{BlobKind, Name, NameOf, Progress, Record, Recorder, cells_of, decode};
use crate::journal::disk::{Disk, SegmentFile, SystemDisk};
use crate::journal::format::{Chain, GroupKind, Tip};
use crate::journal::reader::{End, Reader, segments};
use crate::journal::verify::verify;
use crate::journal::writer::{Writer, WriterOptions, WriterParts};
use crate::kill::testing::TestClock;
use crate::model::{Event, EventKind, Mode, Scope};
use crate::ring::cells::{self, Cell};
use crate::units::{MonoNanos, Now, OrdId, SessionId, StrategyId, UnixNanos};

/// A ring, a recorder and a writer over a directory.
pub(super) struct Bench {
    pub dir: tempfile::TempDir,
    pub recorder: Recorder,
    pub writer: Writer,
    pub audit: Sender<String>,
    pub durability: Arc<Durability>,
}

pub(super) fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

pub(super) fn bench(disk: Box<dyn Disk>, options: WriterOptions, cells: u64) -> Bench {
    bench_at(tempfile::tempdir().unwrap(), Tip::BEGIN, disk, options, cells)
}

fn bench_at(dir: tempfile::TempDir, tip: Tip, disk: Box<dyn Disk>, options: WriterOptions, cells: u64) -> Bench {
    let ring = dir.path().join(format!("ring-{}", fs::read_dir(dir.path()).unwrap().count()));
    let (write, read) = cells::create(&ring, cells, [3; 16], [0; 16], tip.cell).unwrap();
    let durability = Arc::new(Durability::default());
    let (audit, taken) = crossbeam_channel::unbounded();
    let writer = Writer::new(WriterParts {
        dir: dir.path().to_owned(),
        disk,
        ring: read,
        audit: taken,
        durability: durability.clone(),
        clock: TestClock::new(),
        key: key(),
        journal: [3; 16],
        tip,
        synced: Box::new(|| ()),
        heads: Some(dir.path().join("heads")),
        options,
    });
    let recorder = Recorder::new(write, durability.clone(), Progress::default(), 4);
    Bench { dir, recorder, writer, audit, durability }
}

fn at_once() -> WriterOptions {
    WriterOptions { sync_at_once: true, segment_bytes: 3072, ..WriterOptions::default() }
}

fn now(ns: u64) -> Now {
    Now { mono: MonoNanos(ns), unix: UnixNanos(ns + 5) }
}

fn event(seq: u64) -> Event {
    let mut event = Event::new(EventKind::New, SessionId(1), seq);
    event.id = OrdId(seq * 3);
    event
}

impl Bench {
    fn record(&mut self, step: &Step) {
        let r = &mut self.recorder;
        match step {
            Step::Event(n) => r.event(now(*n), &event(*n)),
            Step::Mode(n) => r.mode(now(*n), Scope::Strategy(StrategyId(2)), Mode::Halted, *n),
            Step::Blob(bytes) => r.blob(now(1), BlobKind::Limits, bytes),
            Step::Name(text) => r.name(&Name::new(SessionId(1), NameOf::Exec, 9, text).unwrap()),
            Step::Audit(text) => self.audit.send(text.clone()).unwrap(),
            Step::Write => {
                r.publish(&[]);
                self.writer.round();
            }
        }
    }

    /// Writes the rest and the end of the run.
    fn finish(mut self) -> (tempfile::TempDir, Arc<Durability>) {
        self.recorder.publish(&[]);
        self.writer.run(&std::sync::atomic::AtomicBool::new(true)).unwrap();
        (self.dir, self.durability)
    }
}

#[derive(Clone, Debug)]
enum Step {
    Event(u64),
    Mode(u64),
    Blob(Vec<u8>),
    Name(String),
    Audit(String),
    Write,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..1000u64).prop_map(Step::Event),
        1 => (1..1000u64).prop_map(Step::Mode),
        1 => prop::collection::vec(any::<u8>(), 0..400).prop_map(Step::Blob),
        1 => "[ -~]{1,64}".prop_map(Step::Name),
        1 => "[a-z]{1,90}".prop_map(Step::Audit),
        3 => Just(Step::Write),
    ]
}

/// Everything that a journal holds: cells with their numbers, and lines.
#[derive(Debug, Default, PartialEq)]
struct Content {
    cells: Vec<(u64, Cell)>,
    lines: String,
}

fn read(dir: &Path) -> (Content, End) {
    let mut reader = Reader::open(dir).unwrap();
    let mut content = Content::default();
    while let Some(group) = reader.next_group().unwrap() {
        match group.header.kind {
            GroupKind::Cells => {
                let first = group.header.first;
                content.cells.extend(group.cells().enumerate().map(|(i, cell)| (first + i as u64, cell)));
            }
            GroupKind::Audit => content.lines += core::str::from_utf8(&group.payload).unwrap(),
            GroupKind::Checkpoint | GroupKind::End => {}
        }
    }
    (content, reader.end().unwrap().clone())
}

/// A small journal of some segments, ended in an orderly way; its directory.
fn small() -> tempfile::TempDir {
    let mut bench = bench(Box::new(SystemDisk), at_once(), 1 << 16);
    for n in 1..=30 {
        bench.record(&Step::Event(n));
        if n % 7 == 0 {
            bench.record(&Step::Write);
        }
        if n % 10 == 0 {
            bench.record(&Step::Audit(format!("line {n}")));
            bench.record(&Step::Blob(vec![n as u8; 150]));
        }
    }
    bench.finish().0
}

#[test]
fn what_was_recorded_is_read_in_its_order() {
    let dir = small();
    let (content, end) = read(dir.path());
    assert_eq!(end, End::Orderly);
    assert!(segments(dir.path()).unwrap().len() > 1, "more than one segment");
    assert!(content.cells.iter().enumerate().all(|(i, (number, _))| i as u64 == *number));
    assert_eq!(content.lines, "line 10\nline 20\nline 30\n");
    let cells: Vec<Cell> = content.cells.iter().map(|(_, cell)| *cell).collect();
    let (mut at, mut bytes, mut events, mut blobs) = (0, Vec::new(), 0, 0);
    while at < cells.len() {
        let count = cells_of(&cells[at]).unwrap() as usize;
        match decode(&cells[at..at + count], &mut bytes).unwrap() {
            Record::Event(e) => {
                events += 1;
                assert_eq!(e, event(events));
            }
            Record::Time(t) => assert_eq!(t.unix.0, t.mono.0 + 5),
            Record::Blob(BlobKind::Limits, blob) => {
                blobs += 1;
                assert_eq!(blob, vec![blobs * 10; 150]);
            }
            other => panic!("{other:?}"),
        }
        at += count;
    }
    assert_eq!((events, blobs), (30, 3));
    let report = verify(dir.path(), Some(&key().verifying_key()), None).unwrap();
    assert!(report.is_intact(), "{:?}", report.faults);
    assert!(report.checkpoints >= 2 && report.unsigned == 0, "{report:?}");
}

#[test]
fn any_byte_that_is_flipped_is_found() {
    let dir = small();
    let whole = read(dir.path()).0;
    for (_, path) in segments(dir.path()).unwrap() {
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            fs::write(&path, &bad).unwrap();
            let report = verify(dir.path(), Some(&key().verifying_key()), None).unwrap();
            assert!(!report.is_intact(), "byte {at} of {}", path.display());
            // What is read nevertheless is a part of what was written, from its beginning.
            if at % 7 == 0 {
                let (content, _) = read(dir.path());
                assert!(whole.cells.starts_with(&content.cells), "byte {at} of {}", path.display());
            }
        }
        fs::write(&path, &good).unwrap();
    }
}

#[test]
fn a_flip_in_the_middle_is_damage_and_says_where() {
    let dir = small();
    let (_, path) = segments(dir.path()).unwrap().remove(0);
    let mut bytes = fs::read(&path).unwrap();
    // The second cell of the first group.
    let at = 256 + 128 + 64 + 10;
    bytes[at] ^= 4;
    fs::write(&path, &bytes).unwrap();
    match read(dir.path()).1 {
        End::Damaged(damage) => {
            assert_eq!((&damage.file, damage.offset, damage.cell), (&path, at as u64 - 10, 1), "{damage}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_journal_cut_at_any_byte_keeps_every_whole_group_before() {
    let dir = small();
    let (whole, _) = read(dir.path());
    let all = segments(dir.path()).unwrap();
    let (_, last) = all.last().unwrap();
    let good = fs::read(last).unwrap();
    let mut most = 0;
    for len in 0..good.len() {
        fs::write(last, &good[..len]).unwrap();
        let (content, end) = read(dir.path());
        assert!(whole.cells.starts_with(&content.cells));
        assert!(content.cells.len() >= most, "a longer file never holds less: {len}");
        most = content.cells.len();
        assert!(!matches!(end, End::Orderly | End::Damaged(_)), "{len}: {end:?}");
    }
    assert_eq!(most, whole.cells.len());
    // In a segment that is followed by another, a cut is damage.
    fs::write(last, &good).unwrap();
    let (_, first) = &all[0];
    let good = fs::read(first).unwrap();
    for len in (1..good.len()).step_by(13) {
        fs::write(first, &good[..len]).unwrap();
        assert!(matches!(read(dir.path()).1, End::Damaged(_)), "{len}");
    }
}

#[test]
fn segments_that_are_missing_swapped_or_foreign_are_found() {
    let dir = small();
    let all: Vec<PathBuf> = segments(dir.path()).unwrap().into_iter().map(|(_, path)| path).collect();
    assert!(all.len() >= 3);
    let texts: Vec<Vec<u8>> = all.iter().map(|path| fs::read(path).unwrap()).collect();
    fs::remove_file(&all[1]).unwrap();
    assert!(matches!(read(dir.path()).1, End::Damaged(_)), "one is missing");
    fs::write(&all[1], &texts[2]).unwrap();
    fs::write(&all[2], &texts[1]).unwrap();
    assert!(matches!(read(dir.path()).1, End::Damaged(_)), "two are swapped");
    fs::write(&all[1], &texts[1]).unwrap();
    fs::write(&all[2], &texts[2]).unwrap();
    assert_eq!(read(dir.path()).1, End::Orderly);
    let other = SigningKey::from_bytes(&[8; 32]).verifying_key();
    assert!(!verify(dir.path(), Some(&other), None).unwrap().is_intact(), "signed by somebody else");
}

#[test]
fn a_journal_that_was_cut_at_a_group_shows_by_an_earlier_head() {
    let dir = small();
    let head: Chain = verify(dir.path(), None, None).unwrap().tip.chain;
    let heads = fs::read_to_string(dir.path().join("heads")).unwrap();
    assert!(heads.lines().last().unwrap().contains(&super::writer::hex(&head)), "{heads}");
    assert!(verify(dir.path(), None, Some(&head)).unwrap().is_intact());
    let (_, last) = segments(dir.path()).unwrap().pop().unwrap();
    fs::remove_file(last).unwrap();
    let without = verify(dir.path(), None, None).unwrap();
    assert!(without.is_intact(), "without a head it cannot be told: {:?}", without.faults);
    let with = verify(dir.path(), None, Some(&head)).unwrap();
    assert!(with.faults.iter().any(|fault| fault.contains("cut off")), "{:?}", with.faults);
}

/// What a disk does at its n-th call.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    Refuse,
    /// Takes so many bytes of a write, and fails.
    Short(usize),
    /// A sync that fails, and loses what was written since the last one.
    Lose,
}

/// A disk that fails as told, call by call.
#[derive(Clone, Default)]
struct FaultyDisk(Arc<Mutex<VecDeque<Fault>>>);

impl FaultyDisk {
    fn next(&self) -> Fault {
        self.0.lock().unwrap().pop_front().unwrap_or(Fault::None)
    }
}

#[test]
fn a_disk_that_works_again_is_written_again_in_a_while() {
    let disk =
        FaultyDisk(Arc::new(Mutex::new([Fault::None, Fault::None, Fault::None, Fault::None, Fault::Lose].into())));
    let mut bench = bench(Box::new(disk), at_once(), 1 << 12);
    bench.record(&Step::Event(1));
    bench.record(&Step::Write);
    bench.record(&Step::Event(2));
    bench.record(&Step::Write);
    while bench.durability.state().failed_since.is_none() {
        bench.record(&Step::Audit("more".into()));
        bench.record(&Step::Write);
    }
    let begin = std::time::Instant::now();
    while bench.durability.state().failed_since.is_some() {
        assert!(begin.elapsed().as_secs() < 120, "it never tries again");
        bench.writer.round();
    }
    assert_eq!(read(bench.dir.path()).0.cells.len(), 4);
}

struct FaultyFile {
    disk: FaultyDisk,
    path: PathBuf,
    synced: Vec<u8>,
    present: Vec<u8>,
    gone: bool,
}

impl FaultyFile {
    fn store(&self) {
        fs::write(&self.path, &self.present).unwrap();
    }
}

impl Disk for FaultyDisk {
    fn create(&mut self, path: &Path, _: u64) -> io::Result<Box<dyn SegmentFile>> {
        match self.next() {
            Fault::None => {}
            Fault::Short(_) | Fault::Lose => {
                fs::write(path, [0; 100]).unwrap();
                return Err(io::Error::other("made, and not durable"));
            }
            Fault::Refuse => return Err(io::ErrorKind::StorageFull.into()),
        }
        assert!(!path.exists(), "a name is used once");
        let (disk, path) = (self.clone(), path.to_owned());
        let file = FaultyFile { disk, path, synced: vec![], present: vec![], gone: false };
        file.store();
        Ok(Box::new(file))
    }

    fn remove(&mut self, path: &Path) -> io::Result<()> {
        // A file that cannot be taken away stays, and nothing depends on it.
        if self.next() == Fault::None { fs::remove_file(path) } else { Err(io::ErrorKind::PermissionDenied.into()) }
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_names(&mut self, _: &Path) -> io::Result<()> {
        Ok(())
    }
}

impl SegmentFile for FaultyFile {
    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        assert!(!self.gone, "a file that failed is not used again");
        assert_eq!(offset, self.present.len() as u64);
        let fault = self.disk.next();
        let taken = match fault {
            Fault::None => bytes.len(),
            Fault::Short(n) => n.min(bytes.len() - 1),
            Fault::Refuse | Fault::Lose => 0,
        };
        self.present.extend_from_slice(&bytes[..taken]);
        self.store();
        self.gone = fault != Fault::None;
        if self.gone { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn sync(&mut self) -> io::Result<()> {
        assert!(!self.gone, "a sync that failed is not tried again");
        if self.disk.next() != Fault::None {
            self.gone = true;
            self.present = self.synced.clone();
            self.store();
            return Err(io::Error::other("the disk lost it"));
        }
        self.synced = self.present.clone();
        Ok(())
    }

    fn trim(&mut self, bytes: u64) -> io::Result<()> {
        // Never more than is there, nor into what is durable.
        assert!((self.synced.len() as u64..=self.present.len() as u64).contains(&bytes));
        self.present.truncate(bytes as usize);
        self.store();
        Ok(())
    }
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        12 => Just(Fault::None),
        1 => Just(Fault::Refuse),
        1 => (0..600usize).prop_map(Fault::Short),
        1 => Just(Fault::Lose),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_disk_that_fails_at_random_loses_and_repeats_nothing(
        steps in prop::collection::vec(step(), 1..120),
        faults in prop::collection::vec(fault(), 0..80),
    ) {
        let disk = FaultyDisk(Arc::new(Mutex::new(faults.into())));
        let mut faulty = bench(Box::new(disk.clone()), at_once(), 1 << 16);
        let mut sound = bench(Box::new(FaultyDisk::default()), at_once(), 1 << 16);
        for step in &steps {
            faulty.record(step);
            sound.record(step);
            // What is said to be durable is: at any moment.
            if matches!(step, Step::Write) {
                let (content, end) = read(faulty.dir.path());
                prop_assert!(!matches!(end, End::Damaged(_)), "{:?}", end);
                let durable = faulty.durability.synced();
                prop_assert!(content.cells.len() as u64 >= durable, "{} of {durable}", content.cells.len());
            }
        }
        disk.0.lock().unwrap().clear();
        let (faulty, state) = faulty.finish();
        let (sound, _) = sound.finish();
        let (a, end) = read(faulty.path());
        prop_assert_eq!(end, End::Orderly);
        prop_assert_eq!(a, read(sound.path()).0);
        prop_assert!(state.state().failed_since.is_none());
        let report = verify(faulty.path(), Some(&key().verifying_key()), None).unwrap();
        prop_assert!(report.is_intact(), "{:?}", report.faults);
    }

    #[test]
    fn a_torn_journal_goes_on_where_it_was_cut(
        steps in prop::collection::vec(step(), 1..60),
        more in prop::collection::vec(step(), 1..60),
        cut in 0..2_000usize,
    ) {
        // Killed at some point, with the last segment cut anywhere.
        let mut bench = bench(Box::new(FaultyDisk::default()), at_once(), 1 << 16);
        steps.iter().for_each(|step| bench.record(step));
        bench.record(&Step::Write);
        let dir = bench.dir;
        if let Some((_, last)) = segments(dir.path()).unwrap().pop() {
            let bytes = fs::read(&last).unwrap();
            fs::write(&last, &bytes[..bytes.len().saturating_sub(cut)]).unwrap();
        }
        let mut reader = Reader::open(dir.path()).unwrap();
        while reader.next_group().unwrap().is_some() {}
        prop_assert!(!matches!(reader.end(), Some(End::Damaged(_))), "{:?}", reader.end());
        let last = segments(dir.path()).unwrap().last().map_or(0, |(number, _)| *number);
        let tip = Tip { segment: last, ..reader.tip() };
        let (before, _) = read(dir.path());
        // A start writes on behind it.
        let mut again = bench_at(dir, tip, Box::new(FaultyDisk::default()), at_once(), 1 << 16);
        more.iter().for_each(|step| again.record(step));
        let (dir, _) = again.finish();
        let (after, end) = read(dir.path());
        prop_assert_eq!(end, End::Orderly);
        prop_assert!(after.cells.starts_with(&before.cells));
        prop_assert!(after.cells.iter().enumerate().all(|(i, (number, _))| i as u64 == *number));
        let report = verify(dir.path(), Some(&key().verifying_key()), None).unwrap();
        prop_assert!(report.is_intact(), "{:?}", report.faults);
    }
}
