//! The key that signs the journal's checkpoints: `journal.key` in the state directory, 64 hex digits, and the public one
//! beside it, to be kept where the journal is verified.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use ed25519_dalek::{SigningKey, VerifyingKey};

use crate::journal::disk::sync_parent;
use crate::journal::writer::hex;

/// The file of the secret key.
pub const SECRET: &str = "journal.key";
/// The file of the public key.
pub const PUBLIC: &str = "journal.pub";

/// Makes a new pair of keys in `dir`.
///
/// # Errors
/// If there is one already, or it cannot be written, or the system gives no randomness.
pub fn make(dir: &Path) -> io::Result<SigningKey> {
    let mut seed = [0u8; 32];
    getrandom::fill(&mut seed).map_err(|error| io::Error::other(error.to_string()))?;
    let key = SigningKey::from_bytes(&seed);
    let write = |name: &str, mode: u32, bytes: &[u8]| {
        let path = dir.join(name);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path)?;
        file.write_all(format!("{}\n", hex(bytes)).as_bytes())?;
        file.sync_all()?;
        sync_parent(&path)
    };
    write(PUBLIC, 0o644, key.verifying_key().as_bytes())?;
    write(SECRET, 0o600, &seed)?;
    Ok(key)
}

/// The key in `dir`; `None` if there is none.
///
/// # Errors
/// If it cannot be read, or is not a key.
pub fn load(dir: &Path) -> io::Result<Option<SigningKey>> {
    match std::fs::read_to_string(dir.join(SECRET)) {
        Ok(text) => Ok(Some(SigningKey::from_bytes(&parse(&text)?))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The public key in the file at `path`.
///
/// # Errors
/// If it cannot be read, or is not a key.
pub fn load_public(path: &Path) -> io::Result<VerifyingKey> {
    let bytes = parse(&std::fs::read_to_string(path)?)?;
    VerifyingKey::from_bytes(&bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not a public key"))
}

fn parse(text: &str) -> io::Result<[u8; 32]> {
    from_hex(text.trim()).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a key has 64 hex digits"))
}

/// The 32 bytes that 64 hex digits stand for.
#[must_use]
pub fn from_hex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut bytes = [0u8; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        let digit = |d: u8| char::from(d).to_digit(16);
        *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
    }
    Some(bytes)
}
