//! A ring of 64-byte cells in a mapped file: one thread writes, one reads, and the file outlives both.
//!
//! ```text
//!    0  magic "HLTRING1"        32  owner [u8; 16]: whose ring it is
//!    8  version u64 = 1         48  boot [u8; 16]: the boot that it was made in
//!   16  capacity u64, cells    128  head u64: cells before it were written
//!                              192  tail u64: cells before it are no longer needed
//! 4096  cells, 64 bytes each; cell number `n` lies at `n % capacity`
//! ```
//!
//! Numbers are little-endian; cell numbers count on and never wrap. The memory belongs to the file, so what was
//! published is there after the process was killed, however it was killed; only the machine's end loses it.
//!
//! # Synchronization
//!
//! The writer alone writes `head` and the cells from `head` on; the reader alone writes `tail`. A cell is written
//! before `head` passes it (release) and read after `head` was seen to have passed it (acquire); it is written again
//! only after `tail` was seen to have passed it. Both ends are unique values, so there is one thread at each.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

/// Eight little-endian words.
pub type Cell = [u64; 8];

/// Bytes of a cell.
pub const CELL_BYTES: usize = size_of::<Cell>();

const MAGIC: u64 = u64::from_le_bytes(*b"HLTRING1");
const VERSION: u64 = 1;
const HEADER: usize = 4096;
const HEAD: usize = 128;
const TAIL: usize = 192;

const _: () = assert!(cfg!(target_endian = "little"), "cells are mapped as they are");

struct Map {
    base: NonNull<u8>,
    bytes: usize,
    capacity: u64,
}

// JUSTIFICATION: a raw pointer makes the type neither Send nor Sync.
// SAFETY: the mapping is valid from any thread until it is dropped; who touches what and when is said under
// "Synchronization" in the module's text.
unsafe impl Send for Map {}
// JUSTIFICATION: see above.
// SAFETY: see above.
unsafe impl Sync for Map {}

impl Map {
    fn head(&self) -> &AtomicU64 {
        self.word(HEAD)
    }

    fn tail(&self) -> &AtomicU64 {
        self.word(TAIL)
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        debug_assert!(at + 8 <= HEADER && at.is_multiple_of(8));
        // JUSTIFICATION: memory that comes from mmap has no safe typed form.
        // SAFETY: in bounds of the mapping and aligned (the base is page-aligned); touched only as an atomic.
        unsafe { AtomicU64::from_ptr(self.base.as_ptr().add(at).cast()) }
    }

    fn place(&self, number: u64) -> *mut Cell {
        let index = (number % self.capacity) as usize;
        self.base.as_ptr().wrapping_add(HEADER + index * CELL_BYTES).cast()
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // JUSTIFICATION: there is no safe form of munmap.
        // SAFETY: the range is the mapping that `create` made; nobody holds a reference into it any more, both ends
        // being gone.
        let unmapped = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.bytes) };
        // It can only fail for a range that is no mapping.
        debug_assert!(unmapped.is_ok());
    }
}

/// The writing end.
pub struct CellWriter {
    map: Arc<Map>,
    /// The next cell to be written; `head` in the file follows at [`CellWriter::publish`].
    next: u64,
    /// `tail` as last seen.
    tail: u64,
}

/// The reading end.
pub struct CellReader {
    map: Arc<Map>,
}

/// Makes a new ring of `capacity` cells at `path`, for cell numbers from `first` on. All its memory is taken now.
///
/// # Errors
/// If there is a file already, or the file system has no room, or `capacity` is 0.
pub fn create(
    path: &Path,
    capacity: u64,
    owner: [u8; 16],
    boot: [u8; 16],
    first: u64,
) -> io::Result<(CellWriter, CellReader)> {
    let bytes = usize::try_from(capacity)
        .ok()
        .filter(|cells| *cells > 0)
        .and_then(|cells| cells.checked_mul(CELL_BYTES)?.checked_add(HEADER))
        .ok_or(io::ErrorKind::InvalidInput)?;
    // NOFOLLOW and a mode of our own: the directory may be one that others can write to.
    let nofollow = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
    let file =
        OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).custom_flags(nofollow).open(path)?;
    // Taken for good: a write into a mapped file without room behind it would be a SIGBUS.
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes as u64)?;
    let mut header = [0u8; HEADER];
    for (at, word) in [(8, VERSION), (16, capacity), (HEAD, first), (TAIL, first)] {
        header[at..at + 8].copy_from_slice(&word.to_le_bytes());
    }
    header[32..48].copy_from_slice(&owner);
    header[48..64].copy_from_slice(&boot);
    file.write_all_at(&header, 0)?;
    // The magic last: without it the file is not a ring.
    file.write_all_at(&MAGIC.to_le_bytes(), 0)?;
    let map = Arc::new(map_file(&file, bytes, capacity)?);
    Ok((CellWriter { map: map.clone(), next: first, tail: first }, CellReader { map }))
}

fn map_file(file: &File, bytes: usize, capacity: u64) -> io::Result<Map> {
    use rustix::mm::{MapFlags, ProtFlags};
    // JUSTIFICATION: there is no safe form of mmap.
    // SAFETY: a new mapping at an address of the kernel's choice, of a file that is ours alone (made just now, mode
    // 0600) and as long as the mapping.
    let base = unsafe {
        rustix::mm::mmap(
            core::ptr::null_mut(),
            bytes,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::SHARED | MapFlags::POPULATE,
            file,
            0,
        )
    }?;
    let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
    Ok(Map { base, bytes, capacity })
}

impl CellWriter {
    /// How many cells can be written now. At least so many: the reader may have made more room.
    #[inline]
    pub fn room(&mut self) -> u64 {
        let capacity = self.map.capacity;
        if self.next - self.tail > capacity / 2 {
            // SYNC tail: pairs with the release in `CellReader::release`; the reader is through with those cells.
            self.tail = self.map.tail().load(Ordering::Acquire);
        }
        capacity - (self.next - self.tail)
    }

    /// How many cells the ring holds.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.map.capacity
    }

    /// The number of the next cell.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.next
    }

    /// The first cell that the reader still needs.
    #[must_use]
    pub fn tail(&self) -> u64 {
        self.map.tail().load(Ordering::Acquire)
    }

    /// Writes one cell; nobody sees it before [`CellWriter::publish`]. `false`: there is no room, nothing is written.
    #[inline]
    pub fn push(&mut self, cell: &Cell) -> bool {
        if self.room() == 0 {
            return false;
        }
        // JUSTIFICATION: a cell of the mapping cannot be borrowed, the other end shares it.
        // SAFETY: `place` is in bounds and aligned. The cell is not between tail and head, so the reader does not touch
        // it, and we are the only writer.
        unsafe { self.map.place(self.next).write(*cell) };
        self.next += 1;
        true
    }

    /// Lets the reader, and whoever finds the file, see everything that was pushed.
    #[inline]
    pub fn publish(&mut self) {
        // SYNC head: pairs with the acquire in `CellReader::head`; the cells are written before it passes them.
        self.map.head().store(self.next, Ordering::Release);
    }
}

impl CellReader {
    /// Cells before this number can be read.
    #[must_use]
    pub fn head(&self) -> u64 {
        // SYNC head: see `CellWriter::publish`.
        self.map.head().load(Ordering::Acquire)
    }

    /// Cells before this number were released.
    #[must_use]
    pub fn tail(&self) -> u64 {
        self.map.tail().load(Ordering::Relaxed)
    }

    /// The cell with this number; `None` if it was released or is not published.
    #[must_use]
    pub fn get(&self, number: u64) -> Option<Cell> {
        if number < self.tail() || number >= self.head() {
            return None;
        }
        // JUSTIFICATION: see `CellWriter::push`.
        // SAFETY: in bounds and aligned; between tail and head, so the writer does not touch it until this end releases
        // it, which takes `&mut self`.
        Some(unsafe { self.map.place(number).read() })
    }

    /// Appends the cells from `from` to before `to` to `out`. What is not between tail and head is left out.
    pub fn read(&self, from: u64, to: u64, out: &mut Vec<Cell>) {
        let (from, to) = (from.max(self.tail()), to.min(self.head()));
        for number in from..to {
            // JUSTIFICATION: see `CellWriter::push`.
            // SAFETY: as in `get`.
            out.push(unsafe { self.map.place(number).read() });
        }
    }

    /// Gives the cells before `to` back to the writer.
    pub fn release(&mut self, to: u64) {
        debug_assert!((self.tail()..=self.head()).contains(&to));
        // SYNC tail: see `CellWriter::room`.
        self.map.tail().store(to, Ordering::Release);
    }
}

/// What a ring's file holds, read after its process has ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Leftover {
    /// Whose ring it was.
    pub owner: [u8; 16],
    /// The boot that it was made in.
    pub boot: [u8; 16],
    /// The number of the first cell in `cells`.
    pub first: u64,
    /// What was published and not released.
    pub cells: Vec<Cell>,
}

impl Leftover {
    /// Reads the ring at `path`; `None` if there is none.
    ///
    /// # Errors
    /// If the file cannot be read, belongs to somebody else, or is not a ring.
    pub fn read(path: &Path) -> io::Result<Option<Leftover>> {
        let nofollow = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
        let file = match OpenOptions::new().read(true).custom_flags(nofollow).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let invalid = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
        let meta = file.metadata()?;
        if !meta.is_file() || meta.uid() != rustix::process::geteuid().as_raw() || meta.mode() & 0o077 != 0 {
            return Err(invalid("the ring's file is not one that only this user can write"));
        }
        let mut header = [0u8; HEADER];
        file.read_exact_at(&mut header, 0)?;
        let word = |at: usize| u64::from_le_bytes(core::array::from_fn(|i| header[at + i]));
        let id = |at: usize| core::array::from_fn(|i| header[at + i]);
        let (capacity, head, tail) = (word(16), word(HEAD), word(TAIL));
        if word(0) != MAGIC || word(8) != VERSION {
            return Err(invalid("the ring's file is not a ring of this version"));
        }
        let bytes = capacity.checked_mul(CELL_BYTES as u64).and_then(|b| b.checked_add(HEADER as u64));
        if capacity == 0 || bytes != Some(meta.len()) || tail > head || head - tail > capacity {
            return Err(invalid("the ring's header does not fit its file"));
        }
        let mut cells = Vec::with_capacity((head - tail) as usize);
        let mut bytes = [0u8; CELL_BYTES];
        for number in tail..head {
            file.read_exact_at(&mut bytes, HEADER as u64 + number % capacity * CELL_BYTES as u64)?;
            cells.push(from_bytes(&bytes));
        }
        Ok(Some(Leftover { owner: id(32), boot: id(48), first: tail, cells }))
    }
}

/// The cell in `bytes`.
#[must_use]
pub fn from_bytes(bytes: &[u8; CELL_BYTES]) -> Cell {
    core::array::from_fn(|w| u64::from_le_bytes(core::array::from_fn(|b| bytes[w * 8 + b])))
}

/// The bytes of `cell`.
#[must_use]
pub fn to_bytes(cell: &Cell) -> [u8; CELL_BYTES] {
    let mut bytes = [0u8; CELL_BYTES];
    for (word, place) in cell.iter().zip(bytes.chunks_exact_mut(8)) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(capacity: u64, first: u64) -> (tempfile::TempDir, std::path::PathBuf, CellWriter, CellReader) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ring");
        let (writer, reader) = create(&path, capacity, [1; 16], [2; 16], first).unwrap();
        (dir, path, writer, reader)
    }

    #[test]
    fn cells_arrive_once_and_in_order_between_two_threads() {
        const COUNT: u64 = 300_000;
        let (_dir, _path, mut writer, mut reader) = ring(64, 5);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut n = 0;
                while n < COUNT {
                    if writer.push(&[n; 8]) {
                        n += 1;
                        if n % 3 == 0 {
                            writer.publish();
                        }
                    } else {
                        writer.publish();
                        std::thread::yield_now();
                    }
                }
                writer.publish();
            });
            let (mut next, mut cells) = (5, Vec::new());
            while next < COUNT + 5 {
                cells.clear();
                let head = reader.head();
                reader.read(next, head, &mut cells);
                for cell in &cells {
                    assert_eq!(*cell, [next - 5; 8]);
                    next += 1;
                }
                reader.release(next);
                if cells.is_empty() {
                    std::thread::yield_now();
                }
            }
        });
    }

    #[test]
    fn a_full_ring_says_so_and_overwrites_nothing() {
        let (_dir, _path, mut writer, mut reader) = ring(8, 0);
        for n in 0..8 {
            assert!(writer.push(&[n; 8]));
        }
        assert!(!writer.push(&[9; 8]));
        writer.publish();
        assert_eq!(reader.get(0), Some([0; 8]));
        reader.release(1);
        assert_eq!(reader.get(0), None);
        assert!(writer.push(&[8; 8]));
        assert!(!writer.push(&[9; 8]));
        assert_eq!(reader.get(8), None, "not published yet");
    }

    #[test]
    fn what_was_published_is_in_the_file_and_what_was_not_is_not() {
        let (_dir, path, mut writer, mut reader) = ring(4, 100);
        for n in 0..3u64 {
            writer.push(&[n; 8]);
        }
        writer.publish();
        reader.release(101);
        writer.push(&[3; 8]);
        let left = Leftover::read(&path).unwrap().unwrap();
        assert_eq!((left.owner, left.boot, left.first), ([1; 16], [2; 16], 101));
        assert_eq!(left.cells, vec![[1; 8], [2; 8]]);
        assert!(create(&path, 4, [0; 16], [0; 16], 0).is_err(), "never over another ring");
    }

    #[test]
    fn a_file_that_is_no_ring_or_that_others_can_write_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let (dir, path, writer, reader) = ring(4, 0);
        drop((writer, reader));
        assert_eq!(Leftover::read(&dir.path().join("none")).unwrap(), None);
        let good = std::fs::read(&path).unwrap();
        for (at, what) in [(0, "magic"), (8, "version"), (16, "capacity"), (HEAD + 3, "head"), (TAIL, "tail")] {
            let mut bad = good.clone();
            bad[at] ^= 0x41;
            std::fs::write(&path, bad).unwrap();
            assert!(Leftover::read(&path).is_err(), "{what}");
        }
        std::fs::write(&path, &good).unwrap();
        assert!(Leftover::read(&path).is_ok());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
        assert!(Leftover::read(&path).is_err());
    }
}
