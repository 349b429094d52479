//! `overlays.json` in the state directory: the overrides in force and the scopes on probation, for the next start.
//!
//! ```text
//! <BLAKE3 of the rest, 64 hexadecimal digits>\n{"version":1,"next_id":…,"overrides":[…],"probation":[…]}\n
//! ```
//!
//! Written to a new file, synced, renamed over the old one, and the directory synced. Without it, or where it is damaged,
//! nothing that loosens a limit is taken up again; what tightens one is found in the journal (see `desk_opening`).

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::guard::overrides::Override;
use crate::guard::ramp::Probation;
use crate::journal::disk::sync_parent;

/// The largest file that is read.
const MAX: u64 = 4 << 20;

/// What the file says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Saved {
    version: u32,
    /// Above every number that was given.
    pub next_id: u64,
    /// In force.
    pub overrides: Vec<Override>,
    /// On probation.
    pub probation: Vec<Probation>,
}

impl Saved {
    pub fn new(next_id: u64, overrides: Vec<Override>, probation: Vec<Probation>) -> Saved {
        Saved { version: 1, next_id, overrides, probation }
    }
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// There is no file: there were never overlays, or it was lost.
    Nothing,
    /// As it was written.
    Whole(Saved),
    /// Something else, and what.
    Damaged(String),
}

pub(super) fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("overlays.json")
}

/// Reads the file at `path`.
pub(super) fn read(path: &Path) -> Found {
    let bytes = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Found::Nothing,
        Err(error) => return Found::Damaged(error.to_string()),
        Ok(meta) if meta.len() > MAX => return Found::Damaged(format!("it has {} bytes", meta.len())),
        Ok(_) => match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => return Found::Damaged(error.to_string()),
        },
    };
    let Some((sum, rest)) = bytes.split_once('\n') else { return Found::Damaged("it is cut".to_owned()) };
    if sum != blake3::hash(rest.as_bytes()).to_hex().as_str() {
        return Found::Damaged("its sum does not fit".to_owned());
    }
    match serde_json::from_str::<Saved>(rest) {
        Ok(saved) if saved.version == 1 => Found::Whole(saved),
        Ok(saved) => Found::Damaged(format!("its version is {}", saved.version)),
        Err(error) => Found::Damaged(error.to_string()),
    }
}

/// Writes the file at `path`. When this returns it survives a loss of power.
///
/// # Errors
/// What the file system said; the old file is still there.
pub(super) fn write(path: &Path, saved: &Saved) -> io::Result<()> {
    let rest = serde_json::to_string(saved)? + "\n";
    let text = format!("{}\n{rest}", blake3::hash(rest.as_bytes()).to_hex());
    replace(path, text.as_bytes(), 0o600)
}

/// Puts `bytes` at `path`, all of them or none.
///
/// # Errors
/// What the file system said; what was at `path` is still there.
pub(super) fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    let write = || {
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        sync_parent(path)
    };
    let written = write();
    if written.is_err() {
        // A name that is used again next time; what it holds is no overlay of anybody's.
        drop(fs::remove_file(&new));
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_nothing_else_is_taken_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = path(dir.path());
        assert_eq!(read(&path), Found::Nothing);
        let saved = Saved::new(7, vec![], vec![]);
        write(&path, &saved).unwrap();
        assert_eq!(read(&path), Found::Whole(saved.clone()));
        let good = fs::read(&path).unwrap();
        for cut in 0..good.len() - 1 {
            fs::write(&path, &good[..cut]).unwrap();
            assert!(matches!(read(&path), Found::Damaged(_)), "cut at {cut}");
        }
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x04;
            fs::write(&path, &bad).unwrap();
            assert!(matches!(read(&path), Found::Damaged(_)), "byte {at}");
        }
        write(&path, &saved).unwrap();
        assert_eq!(read(&path), Found::Whole(saved));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no litter");
    }

    #[test]
    fn a_write_that_fails_leaves_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = path(dir.path());
        write(&path, &Saved::new(7, vec![], vec![])).unwrap();
        fs::create_dir(dir.path().join("overlays.json.new")).unwrap();
        assert!(write(&path, &Saved::new(8, vec![], vec![])).is_err());
        assert_eq!(read(&path), Found::Whole(Saved::new(7, vec![], vec![])));
    }
}
