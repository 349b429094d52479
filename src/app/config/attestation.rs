//! Section `[guard.attestation]`: what instances may run; and whether the preflight is required.

use std::path::PathBuf;

use core::fmt::Write as _;
use core::time::Duration;

use ed25519_dalek::VerifyingKey;

use super::print::quoted;
use super::reader::{Field, Reader};

/// Section `[guard]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    /// Section `[guard.attestation]`; without it any build may come.
    pub attestation: Option<Attestation>,
    /// The firm is halted at this time of every day, after midnight UTC, until it is re-armed with a preflight that passes;
    /// `None`: no preflight is required.
    pub preflight_at: Option<Duration>,
}

/// Section `[guard.attestation]`: what instances run. Without a manifest only changes during an incident are looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attestation {
    /// The manifest, and the key that has to have signed it.
    pub manifest: Option<SignedFile>,
}

/// A file with its signature beside it, in a file of the same name and `.sig`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedFile {
    /// Relative to the directory that the process starts in.
    pub path: PathBuf,
    /// An Ed25519 public key.
    pub key: [u8; 32],
}

/// Reads `preflight_required` and `preflight_at` out of `[guard]`.
pub(super) fn read_preflight(guard: &mut Reader<'_>) -> Option<Duration> {
    let required = guard.get("preflight_required").and_then(|f| f.boolean()).unwrap_or(false);
    let Some(field) = guard.get("preflight_at") else { return required.then_some(Duration::ZERO) };
    if !required {
        field.refuse("is of no use without preflight_required = true");
    }
    let at = time_of_day(field.string()?);
    if at.is_none() {
        field.refuse("must be a time of the day in UTC, \"00:00\" to \"23:59\"");
    }
    at.filter(|_| required)
}

fn time_of_day(text: &str) -> Option<Duration> {
    let (hours, minutes) = text.split_once(':')?;
    let digits = |part: &str| (part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit())).then(|| part.parse().ok());
    let (hours, minutes): (u64, u64) = (digits(hours)??, digits(minutes)??);
    (hours < 24 && minutes < 60).then(|| Duration::from_secs(hours * 3_600 + minutes * 60))
}

/// Reads the section out of `[guard]`.
pub(super) fn read_attestation(guard: &mut Reader<'_>) -> Option<Attestation> {
    guard.table("attestation").map(read)
}

fn read(mut table: Reader<'_>) -> Attestation {
    let (path, key) = (table.get("manifest"), table.get("key"));
    let read = match (&path, &key) {
        (Some(path), Some(key)) => read_path(path).zip(read_key(key)),
        (Some(path), None) => {
            path.refuse("needs a key: the public key that `haltline manifest keygen` prints");
            None
        }
        (None, Some(key)) => {
            key.refuse("is of no use without a manifest");
            None
        }
        (None, None) => None,
    };
    table.finish();
    Attestation { manifest: read.map(|(path, key)| SignedFile { path, key }) }
}

fn read_path(field: &Field<'_>) -> Option<PathBuf> {
    let text = field.string()?;
    if text.is_empty() || text.contains('\0') {
        field.refuse("must be the path of a file");
        return None;
    }
    Some(PathBuf::from(text))
}

fn read_key(field: &Field<'_>) -> Option<[u8; 32]> {
    let text = field.string()?;
    let bytes = crate::guard::manifest::digest_of_hex(text);
    let key = bytes.filter(|bytes| VerifyingKey::from_bytes(bytes).is_ok_and(|key| !key.is_weak()));
    if key.is_none() {
        field.refuse("must be an Ed25519 public key, 64 digits out of 0-9 a-f");
    }
    key
}

/// See [`super::effective`].
pub(super) fn write_guard(out: &mut String, guard: &Guard) -> core::fmt::Result {
    writeln!(out, "\n[guard]\npreflight_required = {}", guard.preflight_at.is_some())?;
    if let Some(at) = guard.preflight_at {
        let minutes = at.as_secs() / 60;
        writeln!(out, "preflight_at = \"{:02}:{:02}\"", minutes / 60, minutes % 60)?;
    }
    let Some(attestation) = &guard.attestation else { return Ok(()) };
    writeln!(out, "\n[guard.attestation]")?;
    if let Some(manifest) = &attestation.manifest {
        writeln!(out, "manifest = {}", quoted(&manifest.path.to_string_lossy()))?;
        writeln!(out, "key = \"{}\"", crate::guard::manifest::hex(&manifest.key))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{effective, load};

    const KEY: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";

    fn text(guard: &str) -> String {
        format!("[service]\nstate_dir = \"state\"\nbase_currency = \"USD\"\n{guard}")
    }

    #[test]
    fn attestation_is_a_manifest_and_its_key_or_the_interlock_alone() {
        let loaded =
            load("f", &text(&format!("[guard.attestation]\nmanifest = \"m.toml\"\nkey = \"{KEY}\"\n"))).unwrap();
        let manifest = loaded.guard.attestation.as_ref().unwrap().manifest.as_ref().unwrap();
        assert_eq!(manifest.path.to_str(), Some("m.toml"));
        let shown = effective("f", &loaded.text).unwrap();
        assert_eq!(load("f", &shown).unwrap().guard, loaded.guard, "{shown}");
        let alone = load("f", &text("[guard.attestation]\n")).unwrap();
        assert_eq!(alone.guard.attestation.unwrap().manifest, None);
        assert_eq!(load("f", &text("")).unwrap().guard.attestation, None);
    }

    #[test]
    fn a_preflight_that_is_required_has_a_time_of_the_day() {
        let at = |guard: &str| {
            let loaded = load("f", &text(&format!("[guard]\n{guard}\n[guard.attestation]\n"))).unwrap();
            let shown = effective("f", &loaded.text).unwrap();
            assert_eq!(load("f", &shown).unwrap().guard, loaded.guard, "{shown}");
            loaded.guard.preflight_at.map(|at| at.as_secs())
        };
        assert_eq!(at(""), None);
        assert_eq!(at("preflight_required = false"), None);
        assert_eq!(at("preflight_required = true"), Some(0));
        assert_eq!(at("preflight_required = true\npreflight_at = \"13:05\""), Some(13 * 3_600 + 300));
        for wrong in [
            "preflight_at = \"13:05\"",
            "preflight_required = true\npreflight_at = \"24:00\"",
            "preflight_required = true\npreflight_at = \"7:60\"",
            "preflight_required = true\npreflight_at = \"+7:00\"",
            "preflight_required = true\npreflight_at = 7",
        ] {
            let found = load("f", &text(&format!("[guard]\n{wrong}\n"))).unwrap_err();
            assert_eq!((found.list.len(), &*found.list[0].field), (1, "guard.preflight_at"), "{found:?}");
        }
    }

    #[test]
    fn half_of_an_attestation_and_keys_that_are_none_are_refused() {
        for (guard, field) in [
            ("manifest = \"m.toml\"".to_owned(), "guard.attestation.manifest"),
            (format!("key = \"{KEY}\""), "guard.attestation.key"),
            (format!("manifest = \"\"\nkey = \"{KEY}\""), "guard.attestation.manifest"),
            ("manifest = \"m\"\nkey = \"00\"".to_owned(), "guard.attestation.key"),
            // A point of small order: its signatures say nothing.
            (format!("manifest = \"m\"\nkey = \"{}\"", "0".repeat(64)), "guard.attestation.key"),
            (format!("manifest = \"m\"\nkey = \"{KEY}\"\nkeys = 1"), "guard.attestation.keys"),
        ] {
            let found = load("f", &text(&format!("[guard.attestation]\n{guard}\n"))).unwrap_err();
            assert_eq!(found.list[0].field, field, "{found:?}");
        }
    }
}
