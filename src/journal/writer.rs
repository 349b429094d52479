//! The journal's thread: takes cells from the engine's ring and makes them durable.
//!
//! ```text
//! look at the ring ─▶ a group ─▶ written ─▶ … ─▶ synced (at most `sync_window` after the first write) ─▶ ring released
//!                                   │ failed             │ failed
//!                                   └────▶ a new segment, from the first group that is not known to be durable
//! ```
//!
//! The ring is released only behind a sync. So whatever a failed write or sync may have lost is still there, and goes
//! into the next segment; a sync is never tried again on the same file. While nothing can be written the ring fills,
//! the engine denies new flow after its grace, and takes nothing more once the ring is full.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use ed25519_dalek::SigningKey;

use crate::duty::Clock;
use crate::engine::durability::Durability;
use crate::engine::record::{Check, Record, cells_of, decode};
use crate::journal::disk::{Disk, SegmentFile};
use crate::journal::format::{
    CHECKPOINT_BYTES, Checkpoint, GroupKind, SEGMENT_HEADER, SegmentHeader, Tip, cells_to_bytes, encode_group,
    group_len,
};
use crate::journal::reader::segment_path;
use crate::journal::step::reached;
use crate::ring::cells::{CELL_BYTES, Cell, CellReader};

/// Sizes and times of the writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriterOptions {
    /// How long what was written may wait for its sync: what a power loss can take, besides the sync's own time.
    pub sync_window: Duration,
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// Sync whenever anything was written: verdicts wait for it.
    pub sync_at_once: bool,
}

impl Default for WriterOptions {
    fn default() -> Self {
        WriterOptions { sync_window: Duration::from_millis(5), segment_bytes: 64 << 20, sync_at_once: false }
    }
}

/// What the writer is made of.
pub struct WriterParts {
    /// Where segments lie.
    pub dir: PathBuf,
    /// The disk.
    pub disk: Box<dyn Disk>,
    /// From the engine.
    pub ring: CellReader,
    /// Control records, a JSON object each.
    pub audit: Receiver<String>,
    /// How it is doing.
    pub durability: Arc<Durability>,
    /// Time stamps.
    pub clock: Arc<dyn Clock>,
    /// What signs the checkpoints.
    pub key: SigningKey,
    /// Whose journal it is.
    pub journal: [u8; 16],
    /// Where it goes on.
    pub tip: Tip,
    /// Called after a sync: verdicts may be waiting for it.
    pub synced: Box<dyn Fn() + Send>,
    /// A second place for heads: a line is appended at every checkpoint.
    pub heads: Option<PathBuf>,
    /// Sizes and times.
    pub options: WriterOptions,
}

/// The most payload cells of a group, unless one record alone has more.
const GROUP_CELLS: usize = 4096;
/// How long between checkpoints while anything is written.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);
/// How many groups between checkpoints at most.
const CHECKPOINT_GROUPS: u64 = 1000;
/// The pauses between tries when nothing can be written.
const RETRY: [Duration; 2] = [Duration::from_millis(10), Duration::from_secs(1)];
/// How long the end of a run is tried for on a disk that fails.
const END_WITHIN: Duration = Duration::from_secs(2);

struct Segment {
    file: Box<dyn SegmentFile>,
    path: PathBuf,
    used: u64,
    /// Up to where it is synced.
    durable: u64,
    room: u64,
}

/// The writer. See the module.
pub struct Writer {
    parts: WriterParts,
    segment: Option<Segment>,
    /// Behind everything written, and behind everything synced. Their segment is the present one or an older one.
    written: Tip,
    durable: Tip,
    /// The number of the last segment that was tried.
    last_segment: u64,
    /// Control records that are not synced: they go into the next segment if this one fails.
    audit: Vec<String>,
    /// How many of them are written.
    audit_written: usize,
    first_unsynced: Option<Instant>,
    last_checkpoint: Instant,
    checkpointed: Tip,
    check: Check,
    /// The last write or sync failed.
    failing: bool,
    pause: Duration,
    retry_at: Option<Instant>,
    cells: Vec<Cell>,
    payload: Vec<u8>,
    out: Vec<u8>,
}

/// Why the end of a run could not be written.
#[derive(Debug, thiserror::Error)]
#[error("the journal could not be ended: {0}")]
pub struct NotEnded(String);

impl Writer {
    /// A writer that has done nothing yet.
    #[must_use]
    pub fn new(parts: WriterParts) -> Writer {
        parts.durability.set_synced(parts.tip.cell);
        Writer {
            segment: None,
            written: parts.tip,
            durable: parts.tip,
            last_segment: parts.tip.segment,
            audit: Vec::new(),
            audit_written: 0,
            first_unsynced: None,
            last_checkpoint: Instant::now(),
            checkpointed: parts.tip,
            check: Check::default(),
            failing: false,
            pause: RETRY[0],
            retry_at: None,
            cells: Vec::new(),
            payload: Vec::new(),
            out: Vec::new(),
            parts,
        }
    }

    /// Loops until `stop` is set, then writes what is left and the end of the run. Sleeps between looks.
    ///
    /// # Errors
    /// If the rest could not be written: the run must then not be ended as an orderly one.
    pub fn run(mut self, stop: &AtomicBool) -> Result<(), NotEnded> {
        let look = (self.parts.options.sync_window / 5).clamp(Duration::from_micros(100), Duration::from_millis(1));
        while !stop.load(Ordering::Acquire) {
            if !self.round() {
                std::thread::park_timeout(look);
            }
        }
        // Nothing more comes that one sync could be made for as well: on a disk that works the first try ends the run, whatever
        // else the machine does.
        self.parts.options.sync_at_once = true;
        let begin = Instant::now();
        loop {
            self.retry_at = None;
            while self.round() {}
            let ended = self.is_idle() && self.end();
            if ended {
                return Ok(());
            }
            if begin.elapsed() > END_WITHIN {
                let error = self.parts.durability.state().error;
                return Err(NotEnded(error.unwrap_or_else(|| "the disk is too slow".to_owned())));
            }
            std::thread::park_timeout(look);
        }
    }

    fn is_idle(&self) -> bool {
        self.written == self.durable && self.audit.is_empty() && self.parts.ring.head() == self.durable.cell
    }

    /// One look: writes what is there, and syncs if it is time. Returns whether it wrote.
    pub fn round(&mut self) -> bool {
        if self.retry_at.is_some_and(|at| Instant::now() < at) {
            return false;
        }
        let wrote = match self.write_what_is_there() {
            Ok(wrote) => wrote,
            Err(error) => return self.fail(&error),
        };
        if wrote {
            self.first_unsynced.get_or_insert_with(Instant::now);
        }
        let Some(first) = self.first_unsynced else {
            // What was synced last is signed as well, even if nothing more comes.
            let unsigned = self.written.group > self.checkpointed.group;
            // Nothing to write, and not known whether it could be: one more checkpoint shows.
            if self.failing && !wrote {
                if let Err(error) = self.write_checkpoint(GroupKind::Checkpoint).and_then(|()| self.sync()) {
                    return self.fail(&error);
                }
                return wrote;
            }
            if unsigned
                && self.last_checkpoint.elapsed() >= CHECKPOINT_EVERY
                && let Err(error) = self.checkpoint_if_due().and_then(|()| self.sync())
            {
                return self.fail(&error);
            }
            return wrote;
        };
        // A part of the window is kept for the look that comes late.
        let due = self.parts.options.sync_at_once || first.elapsed() >= self.parts.options.sync_window / 2;
        if due && let Err(error) = self.checkpoint_if_due().and_then(|()| self.sync()) {
            return self.fail(&error);
        }
        wrote
    }

    fn write_what_is_there(&mut self) -> std::io::Result<bool> {
        let mut wrote = false;
        while let Ok(line) = self.parts.audit.try_recv() {
            self.audit.push(line);
        }
        if self.audit_written < self.audit.len() {
            let mut payload = std::mem::take(&mut self.payload);
            payload.clear();
            for line in &self.audit[self.audit_written..] {
                payload.extend_from_slice(line.as_bytes());
                payload.push(b'\n');
            }
            let result = self.write_group(GroupKind::Audit, &payload);
            self.payload = payload;
            result?;
            self.audit_written = self.audit.len();
            wrote = true;
        }
        // Up to what is there now: a sync must not wait for as long as more is coming.
        let head = self.parts.ring.head();
        while self.written.cell < head {
            self.take_records(head);
            let mut payload = std::mem::take(&mut self.payload);
            payload.clear();
            cells_to_bytes(&self.cells, &mut payload);
            let result = self.write_group(GroupKind::Cells, &payload);
            self.payload = payload;
            result?;
            wrote = true;
        }
        Ok(wrote)
    }

    /// Takes whole records from the ring, up to `head` and to about [`GROUP_CELLS`].
    fn take_records(&mut self, head: u64) {
        let from = self.written.cell;
        self.cells.clear();
        self.parts.ring.read(from, head.min(from + GROUP_CELLS as u64), &mut self.cells);
        let mut whole = 0;
        let mut unused = Vec::new();
        while let Some(first) = self.cells.get(whole) {
            // The engine wrote it: a cell that is no record is our own bug, and is kept for whoever looks into it.
            let count = cells_of(first).unwrap_or(1) as usize;
            if whole + count > self.cells.len() {
                if whole == 0 {
                    let have = self.cells.len() as u64;
                    self.parts.ring.read(from + have, from + count as u64, &mut self.cells);
                    whole = count;
                }
                break;
            }
            if count == 1
                && let Ok(Record::Check(check)) = decode(&self.cells[whole..=whole], &mut unused)
            {
                self.check = check;
            }
            whole += count;
        }
        self.cells.truncate(whole);
    }

    fn write_group(&mut self, kind: GroupKind, payload: &[u8]) -> std::io::Result<()> {
        let len = group_len(payload.len().div_ceil(CELL_BYTES)) as u64;
        let spare = group_len(CHECKPOINT_BYTES / CELL_BYTES) as u64;
        let closing = matches!(kind, GroupKind::Checkpoint | GroupKind::End);
        let fits = |s: &Segment| s.used + len + if closing { 0 } else { spare } <= s.room;
        if let Some(segment) = self.segment.as_ref().filter(|s| !fits(s)) {
            // The place that is kept for a checkpoint may have been taken by one that was due since.
            if segment.used + spare <= segment.room {
                self.write_checkpoint(GroupKind::Checkpoint)?;
            }
            self.sync()?;
            self.close_segment()?;
        }
        if self.segment.is_none() {
            self.begin_segment(len + spare)?;
        }
        let now = self.parts.clock.now().unix.0;
        let mut tip = self.written;
        self.out.clear();
        encode_group(&mut tip, kind, payload, now, &mut self.out);
        let Some(segment) = &mut self.segment else { return Ok(()) };
        segment.file.write_all_at(&self.out, segment.used)?;
        reached("group written");
        segment.used += self.out.len() as u64;
        self.written = tip;
        let shown = &self.parts.durability;
        shown.groups.add(1);
        shown.bytes.add(self.out.len() as u64);
        shown.written.set(tip.cell);
        Ok(())
    }

    fn begin_segment(&mut self, needed: u64) -> std::io::Result<()> {
        self.last_segment += 1;
        let path = segment_path(&self.parts.dir, self.last_segment);
        let room = self.parts.options.segment_bytes.max(needed + SEGMENT_HEADER as u64);
        let mut file = self.parts.disk.create(&path, room)?;
        reached("segment made");
        let header = SegmentHeader {
            segment: self.last_segment,
            first_group: self.written.group,
            first_cell: self.written.cell,
            made: self.parts.clock.now().unix.0,
            journal: self.parts.journal,
            before: self.written.chain,
            key: self.parts.key.verifying_key().to_bytes(),
        };
        file.write_all_at(&header.encode(), 0)?;
        reached("segment header written");
        self.written.segment = self.last_segment;
        self.written.chain = header.chain();
        self.segment = Some(Segment { file, path, used: SEGMENT_HEADER as u64, durable: 0, room });
        self.parts.durability.segments.add(1);
        Ok(())
    }

    fn close_segment(&mut self) -> std::io::Result<()> {
        if let Some(mut segment) = self.segment.take() {
            segment.file.trim(segment.used)?;
            reached("segment closed");
        }
        Ok(())
    }

    fn checkpoint_if_due(&mut self) -> std::io::Result<()> {
        let groups = self.written.group - self.checkpointed.group;
        let due = groups >= CHECKPOINT_GROUPS || self.last_checkpoint.elapsed() >= CHECKPOINT_EVERY;
        if due && groups > 0 { self.write_checkpoint(GroupKind::Checkpoint) } else { Ok(()) }
    }

    fn write_checkpoint(&mut self, kind: GroupKind) -> std::io::Result<()> {
        // What is signed is the place that the checkpoint itself gets.
        let len = group_len(CHECKPOINT_BYTES / CELL_BYTES) as u64;
        if self.segment.as_ref().is_some_and(|s| s.used + len > s.room) {
            self.sync()?;
            self.close_segment()?;
        }
        if self.segment.is_none() {
            self.begin_segment(len)?;
        }
        let at = self.parts.clock.now().unix.0;
        let Tip { group, cell, chain, .. } = self.written;
        let checkpoint = Checkpoint { chain, group, cell, at, check: self.check };
        let payload = checkpoint.encode(&self.parts.journal, &self.parts.key);
        self.write_group(kind, &payload)?;
        reached("checkpoint written");
        self.parts.durability.checkpoints.add(1);
        self.last_checkpoint = Instant::now();
        self.checkpointed = self.written;
        Ok(())
    }

    fn sync(&mut self) -> std::io::Result<()> {
        self.first_unsynced = None;
        let Some(segment) = &mut self.segment else { return Ok(()) };
        let begin = Instant::now();
        segment.file.sync()?;
        reached("group synced");
        segment.durable = segment.used;
        let shown = &self.parts.durability;
        shown.sync_latency.record(begin.elapsed().as_nanos() as u64);
        shown.syncs.add(1);
        self.durable = self.written;
        self.audit.drain(..self.audit_written);
        self.audit_written = 0;
        shown.set_synced(self.durable.cell);
        self.parts.ring.release(self.durable.cell);
        reached("ring released");
        if self.failing {
            self.failing = false;
            shown.recovered();
            tracing::warn!(event = "journal", segment = self.last_segment, "the journal is written again");
        }
        self.pause = RETRY[0];
        self.retry_at = None;
        (self.parts.synced)();
        if self.checkpointed == self.durable {
            self.tell_head();
        }
        Ok(())
    }

    /// The end of an orderly run.
    fn end(&mut self) -> bool {
        let ended =
            self.write_checkpoint(GroupKind::End).and_then(|()| self.sync()).and_then(|()| self.close_segment());
        reached("run ended");
        match ended {
            Ok(()) => true,
            Err(error) => self.fail(&error),
        }
    }

    /// Leaves the segment for good. Always `false`: nothing was written.
    fn fail(&mut self, error: &std::io::Error) -> bool {
        let at = match self.segment.take() {
            Some(mut segment) => {
                // What is not durable in it is written again elsewhere, and its room may be what is missing. It is not
                // needed that this works.
                match segment.durable {
                    0 => drop(self.parts.disk.remove(&segment.path)),
                    durable => drop(segment.file.trim(durable)),
                }
                segment.path
            }
            None => segment_path(&self.parts.dir, self.last_segment),
        };
        let shown = &self.parts.durability;
        let first = !self.failing;
        self.failing = true;
        shown.failed(self.parts.clock.now().unix.0, &format!("{}: {error}", at.display()));
        shown.failures.add(1);
        if first {
            tracing::error!(event = "journal", file = %at.display(), %error, "the journal cannot be written");
        }
        self.written = self.durable;
        if self.checkpointed.group > self.durable.group {
            self.checkpointed = self.durable;
        }
        self.audit_written = 0;
        self.first_unsynced = None;
        self.retry_at = Some(Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(RETRY[1]);
        false
    }

    fn tell_head(&self) {
        let Some(path) = &self.parts.heads else { return };
        if let Err(error) = append_head(path, &self.parts.journal, &self.durable, self.parts.clock.now().unix.0) {
            tracing::warn!(event = "journal", file = %path.display(), %error, "a head could not be written");
        }
    }
}

/// One line of a file of heads.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub struct Head {
    /// Whose.
    pub journal: String,
    /// The number of the next group.
    pub group: u64,
    /// The number of the next cell.
    pub cell: u64,
    /// When, Unix ns.
    pub at: u64,
    /// The chain, 64 hex digits: what `haltline audit verify --head` takes.
    pub head: String,
}

fn append_head(path: &Path, journal: &[u8; 16], tip: &Tip, at: u64) -> std::io::Result<()> {
    use std::io::Write as _;
    let head = Head { journal: hex(journal), group: tip.group, cell: tip.cell, at, head: hex(&tip.chain) };
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
    file.write_all(format!("{}\n", serde_json::to_string(&head)?).as_bytes())
}

/// Lower-case hex digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::disk::SystemDisk;
    use crate::journal::reader::segments;
    use crate::journal::tests::{bench, key};
    use crate::journal::verify::verify;

    #[test]
    fn a_checkpoint_that_finds_no_room_begins_the_next_segment() {
        let options = WriterOptions { sync_at_once: true, segment_bytes: 3072, ..WriterOptions::default() };
        let mut bench = bench(Box::new(SystemDisk), options, 1 << 12);
        for n in 0..40 {
            // As many of them in a row as come due, and something between.
            bench.writer.write_checkpoint(GroupKind::Checkpoint).unwrap();
            bench.writer.sync().unwrap();
            if n % 3 == 0 {
                bench.audit.send(format!("line {n}")).unwrap();
                bench.writer.round();
            }
        }
        bench.writer.run(&AtomicBool::new(true)).unwrap();
        assert!(segments(bench.dir.path()).unwrap().len() > 4);
        let report = verify(bench.dir.path(), Some(&key().verifying_key()), None).unwrap();
        assert!(report.is_intact() && report.checkpoints > 40, "{report:?}");
    }

    #[test]
    fn the_end_of_a_run_waits_for_no_window() {
        // A window that nobody waits for: the disk is not too slow because there is one.
        let options = WriterOptions { sync_window: Duration::from_secs(3_600), ..WriterOptions::default() };
        let bench = bench(Box::new(SystemDisk), options, 64);
        bench.audit.send("line".to_owned()).unwrap();
        bench.writer.run(&AtomicBool::new(true)).unwrap();
        let report = verify(bench.dir.path(), Some(&key().verifying_key()), None).unwrap();
        assert!(report.is_intact() && report.unsigned == 0, "{report:?}");
    }
}
