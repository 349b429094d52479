//! Small files of the state directory that are written whole: the alerts that are not over (`alerts.json`), what the guard has
//! learned (`guard.json`).
//!
//! ```text
//! haltline-state 1 <BLAKE3 of what follows, hexadecimal>
//! { … }                                                   kill::alerts::Saved, guard::watch::SavedWatch
//! ```
//!
//! A new file is written beside it, synced, and renamed over it: after a crash there is the old one or the new one.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

const MAGIC: &str = "haltline-state 1 ";
/// More than all alerts and all changes can take.
const SIZE_MAX: u64 = 256 << 20;

/// What was found at start.
#[derive(Debug)]
pub enum Found<T> {
    /// There is none yet.
    None,
    /// As it was written.
    Intact(Box<T>),
    /// It is not what was written: why, in words. It was put aside.
    Damaged(String),
}

/// The file of alerts in the state directory `dir`.
#[must_use]
pub fn path(dir: &Path) -> PathBuf {
    dir.join("alerts.json")
}

/// The file of what the guard has learned.
#[must_use]
pub fn guard_path(dir: &Path) -> PathBuf {
    dir.join("guard.json")
}

/// Reads a file. A damaged one is renamed to end with `.damaged`, for a person to look at.
#[must_use]
pub fn load<T: DeserializeOwned>(path: &Path) -> Found<T> {
    match read(path) {
        Ok(None) => Found::None,
        Ok(Some(saved)) => Found::Intact(Box::new(saved)),
        Err(why) => {
            let aside = path.with_extension("damaged");
            let moved = fs::rename(path, &aside);
            Found::Damaged(match moved {
                Ok(()) => format!("{} {why}; it is now {}", path.display(), aside.display()),
                Err(error) => format!("{} {why}, and cannot be put aside: {error}", path.display()),
            })
        }
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, String> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("cannot be read: {error}")),
        Ok(meta) if meta.len() > SIZE_MAX => return Err(format!("has {} bytes, more than {SIZE_MAX}", meta.len())),
        Ok(_) => {}
    }
    let text = fs::read_to_string(path).map_err(|error| format!("cannot be read: {error}"))?;
    let (head, body) = text.split_once('\n').ok_or("has no first line")?;
    let hash = head.strip_prefix(MAGIC).ok_or("is not a file of state of this version")?;
    if blake3::hash(body.as_bytes()).to_hex().as_str() != hash {
        return Err("does not match its hash".to_owned());
    }
    serde_json::from_str(body).map(Some).map_err(|error| format!("does not say what it should: {error}"))
}

/// Writes a file, and returns when it is on disk.
///
/// # Errors
/// The system's; the file is then as it was.
pub fn save(path: &Path, saved: &impl Serialize) -> io::Result<()> {
    let body = serde_json::to_string(saved)?;
    let text = format!("{MAGIC}{}\n{body}", blake3::hash(body.as_bytes()).to_hex());
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kill::alerts::{Alerts, Raise, Saved};

    fn saved() -> Saved {
        let alerts = Alerts::default();
        alerts.raise(Raise::new(1, "signature", "power_peg", "a \"text\"\nwith lines").critical());
        alerts.raise(Raise::new(2, "warn", "order_rate", "äöü"));
        alerts.saved(3)
    }

    #[test]
    fn what_was_saved_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let file = path(dir.path());
        assert!(matches!(load::<Saved>(&file), Found::None));
        save(&file, &Saved::default()).unwrap();
        save(&file, &saved()).unwrap();
        let Found::Intact(found) = load::<Saved>(&file) else { panic!("not intact") };
        assert_eq!(*found, saved());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_was_cut_or_changed_anywhere_is_put_aside_and_said_so() {
        let dir = tempfile::tempdir().unwrap();
        let file = path(dir.path());
        save(&file, &saved()).unwrap();
        let whole = fs::read(&file).unwrap();
        let mut broken: Vec<Vec<u8>> = (0..whole.len()).map(|cut| whole[..cut].to_vec()).collect();
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            broken.push(flipped);
        }
        for bytes in broken {
            fs::write(&file, &bytes).unwrap();
            match load::<Saved>(&file) {
                Found::Damaged(why) => assert!(why.contains("it is now"), "{why}"),
                other => panic!("{other:?} from {:?}", String::from_utf8_lossy(&bytes)),
            }
            assert!(!file.exists() && fs::read(file.with_extension("damaged")).unwrap() == bytes);
        }
    }
}
