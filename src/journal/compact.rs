//! The compactor: a thread beside the engine that turns closed segments into snapshots, and takes away what nobody
//! needs any more.
//!
//! ```text
//! newest snapshot ─▶ an engine of its own ─▶ closed segments behind it, with every check that the run wrote
//!        ▲                                          │ all fit
//!        └────── accepted ◀── read back, the same ◀─┴─▶ NNNNNNNN.snap
//!
//! too old, and before the last two snapshots ─▶ record "removal" in the journal ─▶ read back by a later round ─▶ removed
//! ```
//!
//! It takes nothing from the live engine and shares nothing with it but the files, so the engine never waits for it.
//! What it costs: a core for about as long as a start would replay those segments, and, while it works, the memory of
//! a second engine of the same tables: only what is in use of them is touched, so about as much as the live engine
//! holds. In between it holds nothing.
//!
//! A segment is removed only when its removal stands in the journal, in a group that was read back: so
//! `haltline audit verify` can tell what was taken away by configuration from what somebody cut off.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ed25519_dalek::SigningKey;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::duty::Clock;
use crate::engine::durability::Durability;
use crate::engine::published::Counter;
use crate::journal::disk::Disk;
use crate::journal::format::{GroupKind, Tip};
use crate::journal::reader::{End, ReadError, Reader, header_of, segments};
use crate::journal::replay::{Blind, Made, Make, ReplayError, Replayer};
use crate::journal::snapshot::{self, Header, Place, SnapshotFault, snapshots};
use crate::journal::step::reached;
use crate::journal::writer::hex;
use crate::kill::audit::{Audit, Entry};
use crate::model::save::Out;

/// How often a snapshot is made, and how long segments are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompactorOptions {
    /// A snapshot after so many closed segments; at least 1.
    pub segments: u64,
    /// How long a segment is kept after it was closed; `None`: for ever.
    pub keep: Option<Duration>,
}

/// Makes a configuration of its text, on the compactor's thread.
pub type MakeOfText = Arc<dyn Fn(&str) -> Result<Made, String> + Send + Sync>;

/// What the compactor is made of.
pub struct CompactorParts {
    /// Where segments and snapshots lie.
    pub dir: PathBuf,
    /// The disk.
    pub disk: Box<dyn Disk>,
    /// What signs snapshots.
    pub key: SigningKey,
    /// Whose journal it is.
    pub journal: [u8; 16],
    /// Makes a configuration of its text.
    pub make: MakeOfText,
    /// Where snapshots and removals are recorded.
    pub audit: Arc<Audit>,
    /// Time stamps.
    pub clock: Arc<dyn Clock>,
    /// Tells when a segment was begun.
    pub durability: Arc<Durability>,
    /// What is shown of it.
    pub shown: Arc<Compaction>,
    /// How often, how long.
    pub options: CompactorOptions,
}

/// What the compactor shows of itself. Written by its thread.
#[derive(Debug, Default)]
pub struct Compaction {
    /// Snapshots made and accepted.
    pub snapshots: Counter,
    /// Rounds that failed.
    pub failures: Counter,
    /// Segments removed.
    pub removed: Counter,
    /// When the newest snapshot was made, Unix ns; 0: there is none.
    pub newest: Counter,
    /// Its bytes.
    pub bytes: Counter,
    /// How long the last round took, ns.
    pub took_ns: Counter,
}

/// Why no snapshot was made.
#[derive(Debug, Error)]
pub enum CompactError {
    /// A file cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The closed segments cannot be followed to their end.
    #[error("the closed segments cannot be followed: {0}")]
    Journal(String),
    /// The replay comes to something else than the run did.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// The snapshot cannot be written.
    #[error("the snapshot cannot be written: {0}")]
    Write(#[source] io::Error),
    /// What was written is not what was to be written.
    #[error("the snapshot was not accepted: {0}")]
    NotAccepted(String),
    /// A file cannot be removed.
    #[error("{} cannot be removed: {source}", path.display())]
    Remove {
        /// Which.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
}

/// The `detail` of a record that segments are to be removed, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removal {
    /// The last segment that goes.
    pub segment: u64,
    /// The number of the first group that stays.
    pub group: u64,
    /// The chain before it, hex: what the first segment that stays begins from.
    pub head: String,
}

impl Removal {
    /// The action of its record.
    pub const ACTION: &'static str = "removal";

    /// The removals in the lines of a group of control records.
    pub fn all_in(lines: &str) -> impl Iterator<Item = Removal> + '_ {
        let entries = lines.lines().filter_map(|line| serde_json::from_str::<Entry>(line).ok());
        let entries = entries.filter(|entry| entry.action == Removal::ACTION && entry.actor == ACTOR);
        entries.filter_map(|entry| serde_json::from_str(&entry.detail).ok())
    }
}

/// Who removes and snapshots.
const ACTOR: &str = "haltline";
/// How long between looks whether a segment was closed.
const LOOK: Duration = Duration::from_millis(50);

/// The thread's loop: until `stop`. A round that is under way ends at the next group.
pub fn run_compactor(mut parts: CompactorParts, stop: &AtomicBool) {
    let mut seen = None;
    while !stop.load(Ordering::Acquire) {
        let begun = parts.durability.segments.get();
        if seen != Some(begun) {
            seen = Some(begun);
            if let Err(error) = compact(&mut parts, stop) {
                parts.shown.failures.add(1);
                tracing::error!(event = "snapshot", %error, "no snapshot was made");
            }
        }
        std::thread::park_timeout(LOOK);
    }
}

/// One round: a snapshot if enough segments were closed, and removals.
///
/// # Errors
/// See [`CompactError`]. What there was before is still there.
pub fn compact(parts: &mut CompactorParts, stop: &AtomicBool) -> Result<(), CompactError> {
    let begin = Instant::now();
    let all = segments(&parts.dir)?;
    let last = last_begun(&all);
    let closed = all.iter().filter(|(number, _)| last.is_some_and(|last| *number < last)).count() as u64;
    if closed < parts.options.segments {
        return Ok(());
    }
    let key = parts.key.verifying_key();
    let make = parts.make.clone();
    let make: &Make<'_> = &*make;
    let mut base = None;
    for (_, path) in snapshots(&parts.dir)?.iter().rev() {
        match snapshot::load(path, &key, make) {
            Ok((header, replayer)) if header.journal == parts.journal => {
                base = Some((header, replayer));
                break;
            }
            Ok(_) => tracing::warn!(event = "snapshot", "{}: of another journal: passed over", path.display()),
            Err(fault) => tracing::warn!(event = "snapshot", "{}: {fault}: passed over", path.display()),
        }
    }
    let from = base.as_ref().map_or(0, |(header, _)| header.tip.segment);
    let new = all.iter().filter(|(number, _)| *number > from && last.is_some_and(|last| *number < last)).count();
    if (new as u64) < parts.options.segments {
        return Ok(());
    }
    let (tip, mut replayer) = match base {
        Some((header, replayer)) => (Some(header.tip), replayer),
        None => (None, Replayer::new(make)),
    };
    let Some(read) = read_closed(&parts.dir, tip, last, &mut replayer, stop)? else { return Ok(()) };
    if !replayer.has_begun() {
        return Ok(());
    }
    let header = make_snapshot(parts, replayer, read.tip, begin)?;
    tidy_up(parts, &header, &read.removals)
}

/// The number of the last segment whose header was written: those before it are closed.
fn last_begun(all: &[(u64, PathBuf)]) -> Option<u64> {
    all.iter().rev().find(|(_, path)| header_of(path).is_some()).map(|(number, _)| *number)
}

struct Closed {
    tip: Tip,
    removals: Vec<Removal>,
}

/// Replays what lies between `from` and the segment that is being written. `None`: told to stop, or there is nothing.
fn read_closed(
    dir: &Path,
    from: Option<Tip>,
    open: Option<u64>,
    replayer: &mut Replayer<'_>,
    stop: &AtomicBool,
) -> Result<Option<Closed>, CompactError> {
    let mut reader = Reader::open(dir)?;
    if let Some(tip) = from {
        reader.resume_at(tip);
    }
    let (mut tip, mut removals, mut cells) = (None, Vec::new(), Vec::new());
    while let Some(group) = reader.next_group()? {
        if stop.load(Ordering::Acquire) {
            return Ok(None);
        }
        if Some(group.header.segment) == open {
            break;
        }
        match group.header.kind {
            GroupKind::Cells => {
                cells.clear();
                cells.extend(group.cells());
                replayer.take(group.header.first, &cells, &mut Blind)?;
            }
            GroupKind::Audit => removals.extend(Removal::all_in(&String::from_utf8_lossy(&group.payload))),
            GroupKind::Checkpoint | GroupKind::End => {}
        }
        tip = Some(reader.tip());
    }
    if let Some(End::Damaged(damage)) = reader.end() {
        return Err(CompactError::Journal(damage.to_string()));
    }
    Ok(tip.filter(|_| reader.has_resumed()).map(|tip| Closed { tip, removals }))
}

/// Writes the snapshot, reads it back, and keeps it only if that is the same state again.
fn make_snapshot(
    parts: &mut CompactorParts,
    replayer: Replayer<'_>,
    tip: Tip,
    begin: Instant,
) -> Result<Header, CompactError> {
    let made = parts.clock.now().unix.0;
    let place = Place { dir: &parts.dir, journal: parts.journal, tip, key: &parts.key, made };
    let (header, path) = snapshot::write(&mut *parts.disk, &replayer, &place).map_err(CompactError::Write)?;
    // One engine at a time is enough.
    drop(replayer);
    if let Err(why) = read_back(&path, parts, &header) {
        drop(parts.disk.remove(&path));
        return Err(CompactError::NotAccepted(why));
    }
    reached("snapshot accepted");
    let shown = &parts.shown;
    shown.snapshots.add(1);
    shown.newest.set(made);
    shown.bytes.set(header.bytes + snapshot::HEADER as u64);
    shown.took_ns.set(begin.elapsed().as_nanos() as u64);
    let Header { tip, events, working, bytes, .. } = header;
    let (segment, hash, millis) = (tip.segment, hex(&header.hash), begin.elapsed().as_millis() as u64);
    tracing::info!(event = "snapshot", segment, events, working, bytes, millis, "a snapshot was made");
    let detail = format!(
        "segment {segment}, group {}, record {}, {working} working orders, {bytes} bytes, BLAKE3 {hash}",
        tip.group, tip.cell
    );
    parts.audit.record(Entry::new(ACTOR, "snapshot").detail(detail));
    Ok(header)
}

fn read_back(path: &Path, parts: &CompactorParts, header: &Header) -> Result<(), String> {
    let fault = |fault: SnapshotFault| fault.to_string();
    let (read, replayer) = snapshot::load(path, &parts.key.verifying_key(), &*parts.make).map_err(fault)?;
    let mut hasher = blake3::Hasher::new();
    let mut out = Out::new(&mut hasher);
    replayer.save(&mut out);
    out.finish().map_err(|error| error.to_string())?;
    let same = read == *header && *hasher.finalize().as_bytes() == header.hash;
    if same { Ok(()) } else { Err("what was read back is another state".to_owned()) }
}

/// Takes away snapshots behind the newest two and segments whose removal is in the journal, and records what may go next.
fn tidy_up(parts: &mut CompactorParts, newest: &Header, removals: &[Removal]) -> Result<(), CompactError> {
    let key = parts.key.verifying_key();
    // Recovery has two to choose from; what lies before the older of them is not needed for it.
    let mut older = None;
    for (number, path) in snapshots(&parts.dir)?.into_iter().rev() {
        if number >= newest.tip.segment {
            continue;
        }
        match older {
            None => older = snapshot::read(&path, &key).ok().map(|(header, _)| header),
            Some(_) => remove(parts, &path)?,
        }
    }
    let (Some(older), Some(keep)) = (older, parts.options.keep) else { return Ok(()) };
    let all = segments(&parts.dir)?;
    let recorded = removals.iter().map(|removal| removal.segment).max().unwrap_or(0);
    for (number, path) in &all {
        if *number <= recorded && *number < older.tip.segment {
            remove(parts, path)?;
            parts.shown.removed.add(1);
            reached("segment removed");
        }
    }
    let now = parts.clock.now().unix.0;
    let keep = u64::try_from(keep.as_nanos()).unwrap_or(u64::MAX);
    let mut wanted: Option<Removal> = None;
    for pair in all.windows(2) {
        let [(number, _), (_, next)] = pair else { continue };
        let Some(next) = header_of(next) else { break };
        if *number >= older.tip.segment || next.made.saturating_add(keep) > now {
            break;
        }
        wanted = Some(Removal { segment: *number, group: next.first_group, head: hex(&next.before) });
    }
    if let Some(removal) = wanted.filter(|removal| removal.segment > recorded) {
        // Numbers and text have a JSON form.
        let detail = serde_json::to_string(&removal).unwrap_or_default();
        let reason = "segments are kept for as long as `[journal] keep` says";
        parts.audit.record(Entry::new(ACTOR, Removal::ACTION).because(reason).detail(detail));
        reached("removal recorded");
    }
    Ok(())
}

fn remove(parts: &mut CompactorParts, path: &Path) -> Result<(), CompactError> {
    let failed = |source| CompactError::Remove { path: path.to_owned(), source };
    // In order and each for good: after a power loss no older one is left without the next.
    parts.disk.remove(path).and_then(|()| parts.disk.sync_names(&parts.dir)).map_err(failed)
}
