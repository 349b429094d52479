//! What a start makes of the journal that is there: the engine as it was, and the ring to go on with.
//!
//! ```text
//! newest snapshot ─▶ segments behind it ─▶ replay ─▶ cells of the ring that are in no segment ─▶ replay ─▶ engine, tip,
//!                                                                                       a new ring with those cells
//! ```
//!
//! A snapshot that is damaged, of another version, of another journal, or whose tail does not come to what the run came to, is
//! passed over for the one before it, and at last for the whole journal. Where that begins late, because segments were
//! removed, positions are not known.
//!
//! | the last run | found | positions |
//! |---|---|---|
//! | ended in an orderly way | its end is the journal's last group | exact |
//! | was killed | its ring, of this boot | exact |
//! | was killed | no ring, or one of another boot: power was lost (or the start had not come to making it) | up to the sync window is missing: not known |
//! | any | damage, missing cells, a replay that comes to something else | not known |
//!
//! Where positions are not known, what could be replayed is kept as the best that is known, and the caller starts halted.
//! A journal that cannot be followed to its end is set aside whole, and the part that can be goes on as the new one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use ed25519_dalek::VerifyingKey;
use thiserror::Error;

use crate::journal::disk::sync_parent;
use crate::journal::format::{SEGMENT_HEADER, Tip};
use crate::journal::reader::{Damage, End, ReadError, Reader, segment_path, segments};
use crate::journal::replay::{FilesReplayed, Make, ReplayError, Replayed, Replayer, Watch, replay_files, replay_rest};
use crate::journal::snapshot::{self, snapshot_path, snapshots};
use crate::ring::cells::{self, Cell, CellReader, CellWriter, Leftover};

/// Where a journal lives.
#[derive(Clone, Debug)]
pub struct Places {
    /// The directory of the segments.
    pub dir: PathBuf,
    /// The ring's file.
    pub ring: PathBuf,
    /// Whose journal it is.
    pub journal: [u8; 16],
    /// What its snapshots are signed with.
    pub key: VerifyingKey,
    /// The boot that this is.
    pub boot: [u8; 16],
}

/// What a start goes on with.
pub struct Recovered {
    /// The engine and what belongs to it; `None`: nothing was ever recorded.
    pub replayed: Option<Replayed>,
    /// Where the segments go on.
    pub tip: Tip,
    /// Cells behind `tip` that are in no segment.
    pub cells: Vec<Cell>,
    /// Why positions are not known; `None`: they are exact.
    pub unknown: Option<String>,
    /// The damage, and where the damaged journal was put.
    pub damage: Option<(Damage, PathBuf)>,
    /// What else is worth telling.
    pub notes: Vec<String>,
    /// The snapshot that the replay went on behind, if it did.
    pub snapshot: Option<snapshot::Header>,
}

/// Why a start cannot go on.
#[derive(Debug, Error)]
pub enum RecoverError {
    /// The files cannot be read or put aside.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A file or directory cannot be changed.
    #[error("cannot {doing} {path}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RecoverError {
    let path = path.to_owned();
    move |source| RecoverError::Io { doing, path, source }
}

/// Recovers from what is there. `killed`: the last run did not end in an orderly way. `unix` names what is set aside.
///
/// # Errors
/// See [`RecoverError`]. What is wrong *in* the journal is not an error: it is in [`Recovered::unknown`].
pub fn recover(
    places: &Places,
    make: &Make<'_>,
    killed: bool,
    unix: u64,
    watch: &mut dyn Watch,
) -> Result<Recovered, RecoverError> {
    fs::create_dir_all(&places.dir).map_err(io_error("make", &places.dir))?;
    let leftover = match Leftover::read(&places.ring) {
        Ok(leftover) => Ok(leftover),
        Err(error) => Err(format!("the ring {} cannot be read: {error}", places.ring.display())),
    };
    let mut notes = Vec::new();
    let (mut replayer, files, snapshot) = match replay_newest(places, make, watch, &mut notes) {
        Ok(replayed) => replayed,
        Err(ReplayError::Read(error)) => return Err(error.into()),
        Err(error) => {
            // Its files are whole, but this program does not come to what was, or what came before them is gone: nothing of
            // it can be relied on.
            let put = set_aside(&places.dir, &places.ring, unix)?;
            return Ok(Recovered {
                replayed: None,
                tip: Tip::BEGIN,
                cells: Vec::new(),
                unknown: Some(format!("the journal cannot be replayed ({error}) and was put to {}", put.display())),
                damage: None,
                notes,
                snapshot: None,
            });
        }
    };
    let FilesReplayed { end, reader, .. } = files;
    let mut tip = reader.tip();
    notes.extend_from_slice(reader.notes());
    let mut unknown = None;
    let mut damage = None;
    if let End::Damaged(found) = &end {
        unknown = Some(format!("the journal is damaged: {found}"));
        damage = Some(found.clone());
    }
    let begins_late =
        snapshot.is_none() && reader.segments_read().first().is_some_and(|info| info.header.first_group > 0);
    if begins_late {
        unknown.get_or_insert_with(|| "the first segments of the journal are missing".to_owned());
    }
    if let End::Torn { file, offset, what } = &end {
        notes.push(format!("{}: cut at byte {offset}: {what}", file.display()));
    }
    let mut behind = Vec::new();
    let has_ring = !matches!(leftover, Ok(None));
    match leftover {
        _ if unknown.is_some() => {}
        Err(why) => unknown = Some(why),
        Ok(Some(ring)) if ring.boot == places.boot && ring.owner == places.journal => {
            let have = tip.cell.checked_sub(ring.first).filter(|have| *have <= ring.cells.len() as u64);
            match have {
                Some(have) => behind = ring.cells[have as usize..].to_vec(),
                None if ring.first > tip.cell => {
                    let missing = ring.first - tip.cell;
                    unknown = Some(format!("{missing} records that were on disk are not in the journal any more"));
                }
                // The journal goes further than what was ever published: another one's ring.
                None => unknown = Some("the ring does not belong to the journal".to_owned()),
            }
        }
        Ok(found) => match (&end, killed, found.is_some()) {
            (End::Orderly, ..) | (End::Nothing, false, _) => {}
            (_, false, _) => unknown = Some("the journal's end is missing although its run ended".to_owned()),
            (_, true, true) => unknown = Some("the machine stopped without an orderly end".to_owned()),
            (_, true, false) => {
                unknown =
                    Some("the machine, or what holds the journal's ring, stopped without an orderly end".to_owned());
            }
        },
    }
    if unknown.is_some() && has_ring && damage.is_none() {
        // It is not used, and whoever looks into it may want it.
        let kept = places.dir.join(format!("ring.until-{unix}"));
        fs::copy(&places.ring, &kept).map_err(io_error("copy", &places.ring))?;
    }
    if !behind.is_empty()
        && let Err(error) = replayer.take(tip.cell, &behind, watch)
    {
        unknown = Some(format!("what the ring holds cannot be replayed: {error}"));
        behind.clear();
    }
    let damage = match damage {
        Some(found) => {
            let put = keep_the_part_before(places, &reader, unix)?;
            Some((found, put))
        }
        None => {
            tip.segment = segments(&places.dir)?.last().map_or(0, |(number, _)| *number);
            trim_last(&reader).map_err(io_error("trim", &places.dir))?;
            None
        }
    };
    Ok(Recovered { replayed: replayer.finish(), tip, cells: behind, unknown, damage, notes, snapshot })
}

/// Replays what lies behind the newest snapshot that it can go on from; without one, everything.
fn replay_newest<'a>(
    places: &Places,
    make: &'a Make<'a>,
    watch: &mut dyn Watch,
    notes: &mut Vec<String>,
) -> Result<(Replayer<'a>, FilesReplayed, Option<snapshot::Header>), ReplayError> {
    for (_, path) in snapshots(&places.dir)?.iter().rev() {
        let why = match snapshot::load(path, &places.key, make) {
            Ok((header, _)) if header.journal != places.journal => "it is of another journal".to_owned(),
            Ok((header, mut replayer)) => {
                let mut reader = Reader::open(&places.dir)?;
                reader.resume_at(header.tip);
                match replay_rest(reader, &mut replayer, watch, |_, _| ()) {
                    Ok(files) if files.reader.has_resumed() => return Ok((replayer, files, Some(header))),
                    Ok(FilesReplayed { end: End::Damaged(damage), .. }) => damage.what,
                    Ok(_) => "the journal does not go through the place where it was made".to_owned(),
                    Err(ReplayError::Read(error)) => return Err(error.into()),
                    Err(error) => error.to_string(),
                }
            }
            Err(fault) => fault.to_string(),
        };
        notes.push(format!("{}: passed over: {why}", path.display()));
    }
    let mut replayer = Replayer::new(make);
    let files = replay_files(&places.dir, &mut replayer, watch, |_, _| ())?;
    Ok((replayer, files, None))
}

/// Makes the ring to go on with: it holds the cells that are in no segment. The old one is replaced at once.
///
/// # Errors
/// What the file system said.
pub fn make_ring(
    places: &Places,
    recovered: &Recovered,
    cells_wanted: u64,
) -> Result<(CellWriter, CellReader), RecoverError> {
    let capacity = cells_wanted.max(recovered.cells.len() as u64 * 2).next_power_of_two();
    let new = places.ring.with_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error("remove", &new)(error)),
        _ => {}
    }
    let made = cells::create(&new, capacity, places.journal, places.boot, recovered.tip.cell);
    let (mut writer, reader) = made.map_err(io_error("make", &new))?;
    for cell in &recovered.cells {
        // There is twice the room.
        let put = writer.push(cell);
        debug_assert!(put);
    }
    writer.publish();
    fs::rename(&new, &places.ring).map_err(io_error("rename", &new))?;
    Ok((writer, reader))
}

/// Puts the whole journal in `dir` aside, with the file of its ring; a start without one follows. Returns where it went.
///
/// # Errors
/// What the file system said.
pub fn set_aside(dir: &Path, ring: &Path, unix: u64) -> Result<PathBuf, RecoverError> {
    let name = dir.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let put = dir.with_file_name(format!("{name}.until-{unix}"));
    fs::rename(dir, &put).map_err(io_error("rename", dir))?;
    if ring.exists() {
        let kept = put.join("ring");
        // The ring may be on another file system.
        fs::copy(ring, &kept).map_err(io_error("copy", ring))?;
        fs::remove_file(ring).map_err(io_error("remove", ring))?;
    }
    fs::create_dir_all(dir).map_err(io_error("make", dir))?;
    sync_parent(dir).map_err(io_error("sync", dir))?;
    Ok(put)
}

/// Puts a damaged journal aside, and makes a new one of its part before the damage.
fn keep_the_part_before(places: &Places, reader: &Reader, unix: u64) -> Result<PathBuf, RecoverError> {
    let put = set_aside(&places.dir, &places.ring, unix)?;
    keep_what_a_snapshot_needs(places, reader, &put)?;
    for info in reader.segments_read() {
        let from = put.join(info.path.file_name().unwrap_or_default());
        let to = segment_path(&places.dir, info.header.segment);
        if info.used <= SEGMENT_HEADER as u64 && info.header.first_group == reader.tip().group {
            continue;
        }
        let bytes = fs::read(&from).map_err(io_error("read", &from))?;
        let part = &bytes[..usize::try_from(info.used).unwrap_or(bytes.len()).min(bytes.len())];
        fs::write(&to, part).map_err(io_error("write", &to))?;
        fs::File::open(&to).and_then(|file| file.sync_all()).map_err(io_error("sync", &to))?;
    }
    sync_parent(&segment_path(&places.dir, 0)).map_err(io_error("sync", &places.dir))?;
    Ok(put)
}

/// Puts snapshots of the part before the damage, and the segments before those that were read, where they were.
fn keep_what_a_snapshot_needs(places: &Places, reader: &Reader, put: &Path) -> Result<(), RecoverError> {
    let first = reader.segments_read().first().map_or(u64::MAX, |info| info.header.segment);
    let before = segments(put)?.into_iter().filter(|(number, _)| *number < first);
    let usable = snapshots(put)?.into_iter().filter(|(_, path)| {
        snapshot::read(path, &places.key).is_ok_and(|(header, _)| header.tip.group <= reader.tip().group)
    });
    let files = before.map(|(number, path)| (path, segment_path(&places.dir, number)));
    for (from, to) in files.chain(usable.map(|(number, path)| (path, snapshot_path(&places.dir, number)))) {
        fs::copy(&from, &to).map_err(io_error("copy", &from))?;
        fs::File::open(&to).and_then(|file| file.sync_all()).map_err(io_error("sync", &to))?;
    }
    Ok(())
}

/// Gives back the room behind the last group of a segment whose run was killed, if nothing was ever written there.
fn trim_last(reader: &Reader) -> io::Result<()> {
    let Some(info) = reader.segments_read().last() else { return Ok(()) };
    if info.len > info.used {
        let bytes = fs::read(&info.path)?;
        let rest = bytes.get(info.used as usize..).unwrap_or_default();
        if rest.iter().all(|b| *b == 0) {
            fs::OpenOptions::new().write(true).open(&info.path)?.set_len(info.used)?;
        }
    }
    Ok(())
}
