//! The disk as the journal uses it: small enough for a test to stand in for it and fail.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// Where segments and snapshots are made.
pub trait Disk: Send {
    /// Makes a new file at `path` with room for `bytes`, and makes its name durable.
    ///
    /// # Errors
    /// What the file system said. There may be a file then; its name is not used again.
    fn create(&mut self, path: &Path, bytes: u64) -> io::Result<Box<dyn SegmentFile>>;

    /// Takes away a file that was given up before anything in it was durable.
    ///
    /// # Errors
    /// What the file system said. If it stays, readers pass it over.
    fn remove(&mut self, path: &Path) -> io::Result<()>;

    /// Gives `from` the name `to`, in place of what has it, and makes that durable.
    ///
    /// # Errors
    /// What the file system said. Which of them there is under `to` is not known.
    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()>;

    /// Makes what was removed from `dir` durable.
    ///
    /// # Errors
    /// What the file system said.
    fn sync_names(&mut self, dir: &Path) -> io::Result<()>;
}

/// A segment or a snapshot that is being written.
pub trait SegmentFile: Send {
    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// What the file system said. How much was written is not known.
    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes everything written durable.
    ///
    /// # Errors
    /// What the file system said. The file is not to be used any more: the kernel may call pages clean that it lost.
    fn sync(&mut self) -> io::Result<()>;

    /// Gives back the room behind `bytes`, which will not be needed.
    ///
    /// # Errors
    /// What the file system said.
    fn trim(&mut self, bytes: u64) -> io::Result<()>;
}

/// The real one.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemDisk;

impl Disk for SystemDisk {
    fn create(&mut self, path: &Path, bytes: u64) -> io::Result<Box<dyn SegmentFile>> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        let made = SystemDisk::prepare(file, path, bytes);
        if made.is_err() {
            // One per try on a full disk would be many.
            drop(std::fs::remove_file(path));
        }
        made
    }

    fn remove(&mut self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)?;
        sync_parent(to)
    }

    fn sync_names(&mut self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }
}

impl SystemDisk {
    fn prepare(file: File, path: &Path, bytes: u64) -> io::Result<Box<dyn SegmentFile>> {
        match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes) {
            // A file system that cannot preallocate: a full disk then shows at a write instead of here.
            Err(rustix::io::Errno::OPNOTSUPP) => {}
            other => other?,
        }
        file.sync_all()?;
        sync_parent(path)?;
        Ok(Box::new(SystemFile(file)))
    }
}

/// Makes the name of `path` durable.
///
/// # Errors
/// What the file system said.
pub fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => File::open(parent)?.sync_all(),
        None => File::open(".")?.sync_all(),
    }
}

struct SystemFile(File);

impl SegmentFile for SystemFile {
    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn trim(&mut self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }
}
