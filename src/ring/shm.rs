//! Memory as a run of 64-bit atomic words: on the heap, in a mapped file, or in a sealed memory file that two
//! processes share.
//!
//! Everything that is shared is made of these words and nothing else, so that no byte that another process
//! writes can be more than a wrong number: there is no reference, no length and no enum in shared memory
//! that safe code could be misled by.

use core::ops::{Deref, Range};
use core::ptr::NonNull;
use std::sync::Arc;

#[cfg(not(loom))]
use std::os::fd::{AsFd, OwnedFd};
#[cfg(not(loom))]
use std::path::Path;

use crate::ring::sync::{AtomicU64, Ordering};

/// What keeps words alive.
enum Region {
    Heap(Box<[AtomicU64]>),
    #[cfg(not(loom))]
    Mapped {
        start: NonNull<AtomicU64>,
        bytes: usize,
    },
}

// JUSTIFICATION: a raw pointer is not Send or Sync by itself.
// SAFETY: it is the address of a mapping of atomics that belongs to no thread, and is used to unmap it only.
unsafe impl Send for Region {}
// JUSTIFICATION: as above.
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Drop for Region {
    fn drop(&mut self) {
        match self {
            Region::Heap(_) => {}
            #[cfg(not(loom))]
            Region::Mapped { start, bytes } => {
                // JUSTIFICATION: there is no safe form of munmap.
                // SAFETY: the range was mapped by `map` and by nobody else, and every `Words` over it is gone: each holds
                // the region.
                let _ = unsafe { rustix::mm::munmap(start.as_ptr().cast(), *bytes) };
            }
        }
    }
}

/// Words that can be read and written, by any thread and by every process that has mapped them.
pub struct Words {
    start: NonNull<AtomicU64>,
    len: usize,
    keep: Arc<Region>,
}

// JUSTIFICATION: a raw pointer is not Send or Sync by itself.
// SAFETY: it points to atomics only, in memory that the shared `keep` holds and that never moves.
unsafe impl Send for Words {}
// JUSTIFICATION: as above.
// SAFETY: as above; all access is atomic.
unsafe impl Sync for Words {}

impl Clone for Words {
    fn clone(&self) -> Words {
        Words { start: self.start, len: self.len, keep: self.keep.clone() }
    }
}

impl core::fmt::Debug for Words {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Words({})", self.len)
    }
}

impl Deref for Words {
    type Target = [AtomicU64];
    #[inline(always)]
    fn deref(&self) -> &[AtomicU64] {
        // JUSTIFICATION: the words may lie in a mapping, which no safe type describes.
        // SAFETY: `start` and `len` describe initialised, aligned atomics within the region that `keep` holds.
        unsafe { core::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl Words {
    /// `len` zero words on the heap.
    #[must_use]
    pub fn heap(len: usize) -> Words {
        let words: Box<[AtomicU64]> = (0..len).map(|_| AtomicU64::new(0)).collect();
        let keep = Arc::new(Region::Heap(words));
        let start = match &*keep {
            // Not before the box has come to rest: to move it is to claim that nobody else points into it.
            Region::Heap(words) => NonNull::from(&**words).cast(),
            #[cfg(not(loom))]
            Region::Mapped { start, .. } => *start,
        };
        Words { start, len, keep }
    }

    /// The words of `range`.
    ///
    /// # Panics
    /// If it is not within these words.
    #[must_use]
    pub fn part(&self, range: Range<usize>) -> Words {
        let part = &self[range];
        Words { start: NonNull::from(part).cast(), len: part.len(), keep: self.keep.clone() }
    }
}

#[cfg(not(loom))]
impl Words {
    /// `len` zero words in a memory file of their own, whose size nobody can change any more: whoever gets the descriptor
    /// can write the words, and cannot take the memory away from under the other side.
    ///
    /// # Errors
    /// The system's.
    pub fn sealed(name: &str, len: usize) -> std::io::Result<(Words, OwnedFd)> {
        use rustix::fs::{MemfdFlags, SealFlags};
        let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&fd, (len * 8) as u64)?;
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let words = map(&fd, len, rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE)?;
        Ok((words, fd))
    }

    /// Maps the `len` words of a memory file that another process made.
    ///
    /// # Errors
    /// If it is not of that size, its size is not sealed, or it cannot be mapped.
    pub fn from_sealed(fd: impl AsFd, len: usize) -> std::io::Result<Words> {
        use rustix::fs::SealFlags;
        let seals = rustix::fs::fcntl_get_seals(&fd)?;
        if !seals.contains(SealFlags::SHRINK) {
            return Err(std::io::Error::other("the size of the shared memory is not sealed"));
        }
        check_size(&fd, len)?;
        map(&fd, len, rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE)
    }

    /// Maps the file at `path`, whose `len` words it has or, if there is no such file, gets: zero, with permissions `mode`.
    /// Says whether it was made now.
    ///
    /// # Errors
    /// If it has another size, or the system's.
    pub fn in_file(path: &Path, len: usize, mode: u32) -> std::io::Result<(Words, OwnedFd, bool)> {
        use rustix::fs::{Mode, OFlags};
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let prot = rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE;
        match rustix::fs::open(path, flags | OFlags::CREATE | OFlags::EXCL, Mode::from_raw_mode(mode)) {
            Ok(fd) => {
                // Blocks are taken now: a full disk would otherwise kill whoever writes a word.
                rustix::fs::fallocate(&fd, rustix::fs::FallocateFlags::empty(), 0, (len * 8) as u64)?;
                Ok((map(&fd, len, prot)?, fd, true))
            }
            Err(rustix::io::Errno::EXIST) => {
                let fd = rustix::fs::open(path, flags, Mode::empty())?;
                check_size(&fd, len)?;
                Ok((map(&fd, len, prot)?, fd, false))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Maps the whole of the existing file at `path`, to write.
    ///
    /// # Errors
    /// If there is none, it may not be written, or its size is no whole number of words.
    pub fn of_file(path: &Path) -> std::io::Result<Words> {
        use rustix::fs::{Mode, OFlags};
        let fd = rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())?;
        let len = size_in_words(&fd)?;
        map(&fd, len, rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE)
    }

    /// The low half of word `at`, for the kernel's wait and wake calls, which know 32 bits only.
    ///
    /// # Panics
    /// If there is no such word.
    #[must_use]
    pub fn half(&self, at: usize) -> &core::sync::atomic::AtomicU32 {
        let word = &self[at];
        // JUSTIFICATION: no safe way leads from an atomic to half of it.
        // SAFETY: the half lies within the word, is aligned, lives as long, and is atomic itself. The other half is used by nobody.
        unsafe { &*core::ptr::from_ref(word).cast::<core::sync::atomic::AtomicU32>() }
    }
}

/// Words that this process can only read: another one writes them.
#[derive(Clone, Debug)]
pub struct View(Words);

impl View {
    /// The word at `at`.
    ///
    /// # Panics
    /// If there is none.
    #[inline(always)]
    #[must_use]
    pub fn load(&self, at: usize, order: Ordering) -> u64 {
        self.0[at].load(order)
    }

    /// The word at `at`, if there is one.
    #[inline(always)]
    #[must_use]
    pub fn get(&self, at: usize, order: Ordering) -> Option<u64> {
        self.0.get(at).map(|word| word.load(order))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A look at words of this process's own.
    #[must_use]
    pub fn of(words: &Words) -> View {
        View(words.clone())
    }

    /// Maps the whole file behind `fd`, to read.
    ///
    /// # Errors
    /// If it cannot be mapped, or its size is no whole number of words.
    #[cfg(not(loom))]
    pub fn map(fd: impl AsFd) -> std::io::Result<View> {
        let len = size_in_words(&fd)?;
        Ok(View(map(&fd, len, rustix::mm::ProtFlags::READ)?))
    }
}

#[cfg(not(loom))]
fn size_in_words(fd: impl AsFd) -> std::io::Result<usize> {
    let bytes = rustix::fs::fstat(fd)?.st_size;
    match usize::try_from(bytes) {
        Ok(bytes) if bytes > 0 && bytes % 8 == 0 => Ok(bytes / 8),
        _ => Err(std::io::Error::other(format!("a shared file has {bytes} bytes, which is no whole number of words"))),
    }
}

#[cfg(not(loom))]
fn check_size(fd: impl AsFd, len: usize) -> std::io::Result<()> {
    let has = size_in_words(fd)?;
    if has == len {
        return Ok(());
    }
    Err(std::io::Error::other(format!("a shared file has {has} words instead of {len}")))
}

#[cfg(not(loom))]
fn map(fd: impl AsFd, len: usize, prot: rustix::mm::ProtFlags) -> std::io::Result<Words> {
    use rustix::mm::{Advice, MapFlags};
    let bytes = len * 8;
    // JUSTIFICATION: there is no safe form of mmap.
    // SAFETY: a new mapping, wherever the kernel finds room, so it overlaps nothing.
    let start =
        unsafe { rustix::mm::mmap(core::ptr::null_mut(), bytes, prot, MapFlags::SHARED | MapFlags::POPULATE, fd, 0)? };
    // A forked child would use the same slots and positions in the same rings: it does not get the memory at all.
    // JUSTIFICATION: there is no safe form of madvise.
    // SAFETY: the range is the mapping made above; DONTFORK changes nothing in this process.
    unsafe { rustix::mm::madvise(start, bytes, Advice::LinuxDontFork)? };
    let start = NonNull::new(start.cast::<AtomicU64>()).ok_or_else(|| std::io::Error::other("mapped at null"))?;
    Ok(Words { start, len, keep: Arc::new(Region::Mapped { start, bytes }) })
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn parts_show_the_same_words() {
        let words = Words::heap(8);
        let part = words.part(2..4);
        part[1].store(7, Ordering::Relaxed);
        assert_eq!(words[3].load(Ordering::Relaxed), 7);
        drop(words);
        assert_eq!(View::of(&part).load(1, Ordering::Relaxed), 7);
        assert_eq!(View::of(&part).get(2, Ordering::Relaxed), None);
    }

    #[cfg(not(miri))]
    mod mapped {
        use super::*;

        #[test]
        fn sealed_memory_is_shared_and_keeps_its_size() {
            let (ours, fd) = Words::sealed("test", 1024).unwrap();
            let theirs = Words::from_sealed(&fd, 1024).unwrap();
            theirs[1023].store(9, Ordering::Relaxed);
            assert_eq!(ours[1023].load(Ordering::Relaxed), 9);
            assert!(rustix::fs::ftruncate(&fd, 0).is_err(), "a peer could take the memory away");
            assert!(Words::from_sealed(&fd, 512).is_err());
            let plain = rustix::fs::memfd_create("plain", rustix::fs::MemfdFlags::ALLOW_SEALING).unwrap();
            rustix::fs::ftruncate(&plain, 64).unwrap();
            assert!(Words::from_sealed(&plain, 8).is_err());
        }

        #[test]
        fn a_file_is_made_once_and_then_found() {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("page");
            let (words, fd, made) = Words::in_file(&path, 512, 0o600).unwrap();
            assert!(made);
            words[3].store(5, Ordering::Relaxed);
            let view = View::map(&fd).unwrap();
            assert_eq!((view.load(3, Ordering::Relaxed), view.len()), (5, 512));
            let (again, _, made) = Words::in_file(&path, 512, 0o600).unwrap();
            assert!(!made && again[3].load(Ordering::Relaxed) == 5);
            assert!(Words::in_file(&path, 513, 0o600).is_err());
            assert_eq!(Words::of_file(&path).unwrap().len(), 512);
            assert!(Words::of_file(&dir.path().join("none")).is_err());
        }
    }
}
