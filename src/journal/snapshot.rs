//! Snapshots: what the journal up to a place comes to, so that a start need not replay it. Made by the
//! [compactor](crate::journal::compact), read by [recovery](crate::journal::recover) and by `haltline replay`.
//!
//! ```text
//! journal/00000007.snap   behind the last group of segment 7
//!
//! header, 512 bytes
//!   0  magic "HLSNAP01"
//!   8  version u32 = 1 | version of the state's layout u32
//!  16  journal [u8; 16]
//!  32  segment u64 | next group u64 | next cell u64      where it stands
//!  56  chain behind it [u8; 32]
//!  88  made at u64, Unix ns
//!  96  events so far u64 | effects so far u64
//! 112  working orders u64
//! 120  generation of the limits u64
//! 128  BLAKE3 of the configuration in force [u8; 32]
//! 160  bytes of the body u64
//! 168  BLAKE3 of the body [u8; 32]
//! 200  zero
//! 432  Ed25519 signature of "haltline snapshot 1" ‖ 0..432 [u8; 64]
//! 496  CRC32C of 0..496 | zero
//! 512  body: see `Replayer::save`
//! ```
//!
//! A file gets its name once it is whole and on disk. One that is cut, changed, signed by another key or of another
//! version is passed over.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use thiserror::Error;

use crate::journal::disk::{Disk, SegmentFile};
use crate::journal::format::{Chain, Tip};
use crate::journal::reader::ReadError;
use crate::journal::replay::{Make, ReplayError, Replayer};
use crate::journal::step::reached;
use crate::model::save::{BadSave, In, Out};

/// The version of the files that this program writes and reads.
pub const VERSION: u32 = 1;
/// The version of what [`Engine::save`](crate::engine::core::Engine::save) writes. Raise it with every field that is
/// added, removed or moved: an older snapshot then is passed over, and the journal replayed from further back.
pub const STATE_VERSION: u32 = 1;
/// Bytes of the header.
pub const HEADER: usize = 512;

const MAGIC: [u8; 8] = *b"HLSNAP01";
const SIGNED: &[u8] = b"haltline snapshot 1";
const SIGNATURE: usize = 432;
const SUM: usize = 496;

/// What a snapshot says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whose journal it is of.
    pub journal: [u8; 16],
    /// Behind the last group that it covers.
    pub tip: Tip,
    /// When it was made, Unix ns.
    pub made: u64,
    /// Events and effects since the journal began.
    pub events: u64,
    /// See `events`.
    pub effects: u64,
    /// Orders pending or working.
    pub working: u64,
    /// Generation of the limits in force.
    pub generation: u32,
    /// BLAKE3 of the configuration whose limits are in force.
    pub config: Chain,
    /// Bytes of the body.
    pub bytes: u64,
    /// BLAKE3 of the body.
    pub hash: Chain,
}

/// Why a file is not used as a snapshot.
#[derive(Debug, Error)]
pub enum SnapshotFault {
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    /// It is not as it was written, or not of here.
    #[error("{0}")]
    Bad(&'static str),
    /// Of a version that this program does not read.
    #[error("it is of version {0}.{1}, and this program reads {VERSION}.{STATE_VERSION}")]
    Version(u32, u32),
    /// Its body is not the state that it should be.
    #[error("its state cannot be restored: {0}")]
    State(#[from] BadSave),
    /// Its configuration cannot be used.
    #[error(transparent)]
    Replay(#[from] Box<ReplayError>),
}

impl Header {
    /// Its bytes, signed.
    #[must_use]
    pub fn encode(&self, key: &SigningKey) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        let mut at = 0;
        let mut put = |part: &[u8]| {
            bytes[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        };
        put(&MAGIC);
        put(&VERSION.to_le_bytes());
        put(&STATE_VERSION.to_le_bytes());
        put(&self.journal);
        for word in [self.tip.segment, self.tip.group, self.tip.cell] {
            put(&word.to_le_bytes());
        }
        put(&self.tip.chain);
        for word in [self.made, self.events, self.effects, self.working, u64::from(self.generation)] {
            put(&word.to_le_bytes());
        }
        put(&self.config);
        put(&self.bytes.to_le_bytes());
        put(&self.hash);
        let signature = key.sign(&[SIGNED, &bytes[..SIGNATURE]].concat());
        bytes[SIGNATURE..SUM].copy_from_slice(&signature.to_bytes());
        let sum = crc32c::crc32c(&bytes[..SUM]);
        bytes[SUM..SUM + 4].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// The header at the beginning of `bytes`, signed by `key`.
    ///
    /// # Errors
    /// [`SnapshotFault`].
    pub fn decode(bytes: &[u8], key: &VerifyingKey) -> Result<Header, SnapshotFault> {
        let Some(bytes) = bytes.get(..HEADER) else { return Err(SnapshotFault::Bad("it ends within its header")) };
        let word = |at: usize| u64::from_le_bytes(core::array::from_fn(|i| bytes[at + i]));
        let half = |at: usize| u32::from_le_bytes(core::array::from_fn(|i| bytes[at + i]));
        let chain = |at: usize| -> Chain { core::array::from_fn(|i| bytes[at + i]) };
        if bytes[..8] != MAGIC {
            return Err(SnapshotFault::Bad("it does not begin like a snapshot"));
        }
        if half(SUM) != crc32c::crc32c(&bytes[..SUM]) || bytes[SUM + 4..].iter().any(|b| *b != 0) {
            return Err(SnapshotFault::Bad("the check sum of its header does not fit"));
        }
        if (half(8), half(12)) != (VERSION, STATE_VERSION) {
            return Err(SnapshotFault::Version(half(8), half(12)));
        }
        let signature = Signature::from_bytes(&core::array::from_fn(|i| bytes[SIGNATURE + i]));
        if key.verify_strict(&[SIGNED, &bytes[..SIGNATURE]].concat(), &signature).is_err() {
            return Err(SnapshotFault::Bad("its signature is not of the key"));
        }
        Ok(Header {
            journal: core::array::from_fn(|i| bytes[16 + i]),
            tip: Tip { segment: word(32), group: word(40), cell: word(48), chain: chain(56) },
            made: word(88),
            events: word(96),
            effects: word(104),
            working: word(112),
            generation: u32::try_from(word(120)).map_err(|_| SnapshotFault::Bad("its generation is impossible"))?,
            config: chain(128),
            bytes: word(160),
            hash: chain(168),
        })
    }
}

/// The name of the snapshot behind `segment`.
#[must_use]
pub fn snapshot_path(dir: &Path, segment: u64) -> PathBuf {
    dir.join(format!("{segment:08}.snap"))
}

/// The snapshots in `dir` by segment, oldest first, whatever is in them.
///
/// # Errors
/// If the directory cannot be read.
pub fn snapshots(dir: &Path) -> Result<Vec<(u64, PathBuf)>, ReadError> {
    let fail = |source| ReadError { path: dir.to_owned(), source };
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        let number = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".snap")?.parse().ok());
        found.extend(number.map(|number: u64| (number, path)));
    }
    found.sort();
    Ok(found)
}

/// Reads and checks a snapshot: every byte of it. Returns its header, and the file with the body behind [`HEADER`].
///
/// # Errors
/// [`SnapshotFault`].
pub fn read(path: &Path, key: &VerifyingKey) -> Result<(Header, Vec<u8>), SnapshotFault> {
    let bytes = fs::read(path)?;
    let header = Header::decode(&bytes, key)?;
    let body = &bytes[HEADER..];
    if body.len() as u64 != header.bytes {
        return Err(SnapshotFault::Bad("it has not the length that it says"));
    }
    if *blake3::hash(body).as_bytes() != header.hash {
        return Err(SnapshotFault::Bad("its hash does not fit"));
    }
    Ok((header, bytes))
}

/// A replay that goes on behind the snapshot at `path`.
///
/// # Errors
/// [`SnapshotFault`].
pub fn load<'a>(path: &Path, key: &VerifyingKey, make: &'a Make<'a>) -> Result<(Header, Replayer<'a>), SnapshotFault> {
    let (header, bytes) = read(path, key)?;
    let mut input = In::new(&bytes[HEADER..]);
    let replayer = Replayer::load(make, &mut input)?;
    input.end()?;
    Ok((header, replayer))
}

/// What a snapshot is made of besides the replay.
pub struct Place<'a> {
    /// The journal's directory.
    pub dir: &'a Path,
    /// Whose journal.
    pub journal: [u8; 16],
    /// Behind the last group that was replayed.
    pub tip: Tip,
    /// What signs it.
    pub key: &'a SigningKey,
    /// When, Unix ns.
    pub made: u64,
}

/// Writes what `replayer` has come to as the snapshot of `place`: whole and on disk, or not there under its name. Whoever
/// relies on it reads it back first. Returns its header and path.
///
/// # Errors
/// What the file system said.
pub fn write(disk: &mut dyn Disk, replayer: &Replayer<'_>, place: &Place<'_>) -> io::Result<(Header, PathBuf)> {
    let path = snapshot_path(place.dir, place.tip.segment);
    let new = path.with_extension("new");
    match disk.remove(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = disk.create(&new, HEADER as u64)?;
    reached("snapshot begun");
    let mut sink = Body { file: &mut *file, at: HEADER as u64, hasher: blake3::Hasher::new() };
    let mut out = Out::new(&mut sink);
    replayer.save(&mut out);
    let bytes = out.finish()?;
    let hash = *sink.hasher.finalize().as_bytes();
    let progress = replayer.progress();
    let header = Header {
        journal: place.journal,
        tip: place.tip,
        made: place.made,
        events: progress.events,
        effects: progress.effects,
        working: replayer.working(),
        generation: replayer.generation(),
        config: *blake3::hash(replayer.text().as_bytes()).as_bytes(),
        bytes,
        hash,
    };
    file.write_all_at(&header.encode(place.key), 0)?;
    reached("snapshot written");
    file.sync()?;
    drop(file);
    reached("snapshot synced");
    disk.rename(&new, &path)?;
    reached("snapshot renamed");
    Ok((header, path))
}

/// Writes on behind what was written, and hashes it.
struct Body<'a> {
    file: &'a mut dyn SegmentFile,
    at: u64,
    hasher: blake3::Hasher,
}

impl io::Write for Body<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_all_at(bytes, self.at)?;
        self.hasher.update(bytes);
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
