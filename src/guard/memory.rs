//! What the guard remembers of a fleet over a restart: the latest manifest that was taken, what each instance ran last, when each
//! part of a strategy was last used.
//!
//! ```text
//! haltline fleet 1 BLAKE3-OF-THE-REST\n
//! JSON
//! ```
//!
//! What is damaged is not guessed at: without this memory a change in the middle of an incident cannot be seen.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// The manifest with the highest version that was ever taken.
    pub manifest: Option<Taken>,
    /// By the names of sessions.
    pub instances: BTreeMap<String, Known>,
    /// By strategy and part: when it was last used, Unix ns.
    pub exercised: BTreeMap<String, BTreeMap<String, u64>>,
    /// By session and build: when it first came with it, Unix ns.
    pub first_seen: BTreeMap<String, BTreeMap<String, u64>>,
    /// By the names of scopes: what the latest quarantine of each was for, see [`Finding::causes`](super::attest::Finding::causes).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub quarantined: BTreeMap<String, BTreeSet<String>>,
    /// Why what was remembered before is lost: until a person has approved them, instances that are not in here are not
    /// known rather than new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<String>,
}

/// A manifest that was taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Taken {
    /// Its version.
    pub version: u64,
    /// SHA-256 of its text, in hex.
    pub digest: String,
}

/// What an instance ran when nothing stood against it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    /// What it was.
    pub identity: Identity,
    /// When it was first that, Unix ns.
    pub at: u64,
}

/// What an instance is, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// The id of its build: the manifest's for what was measured, else what it calls itself.
    pub build: Option<String>,
    /// SHA-256 of its executable in hex, if it was measured.
    pub digest: Option<String>,
    /// The hash of its configuration by its word.
    pub config_hash: Option<String>,
    /// Its flags by its word.
    pub flags: BTreeMap<String, String>,
}

impl Identity {
    /// Names the step of `instance` from `before` (`None`: not known) to this, by sixteen digits: another build, digest, configuration
    /// or flag on either side has another one.
    #[must_use]
    pub fn tag(&self, instance: &str, before: Option<&Identity>) -> String {
        blake3::hash(format!("{:?}", (instance, before, self)).as_bytes()).to_hex()[..16].to_owned()
    }

    fn build_in_words(&self) -> String {
        let said = self.build.as_deref().unwrap_or("not said");
        match &self.digest {
            Some(digest) => format!("{said} ({}…)", &digest[..digest.len().min(12)]),
            None => said.to_owned(),
        }
    }

    /// All of it, in words.
    #[must_use]
    pub fn in_words(&self) -> Vec<String> {
        let build = format!("build {}", self.build_in_words());
        let configuration = self.config_hash.iter().map(|hash| format!("configuration {hash}"));
        let flags = self.flags.iter().map(|(name, value)| format!("flag {name} {value}"));
        core::iter::once(build).chain(configuration).chain(flags).collect()
    }

    /// What has changed on the way to `now`, in words. Empty: nothing.
    #[must_use]
    pub fn changes(&self, now: &Identity) -> Vec<String> {
        let mut changes = Vec::new();
        let said = |text: &Option<String>| text.clone().unwrap_or_else(|| "not said".to_owned());
        // One executable may be two builds: that of an interpreter is the same whatever it reads. A name that is new, or left out,
        // says nothing about the same executable.
        let renamed = match (&self.build, &now.build) {
            (Some(before), Some(after)) => before != after,
            (None, _) | (_, None) => false,
        };
        let same = match (&self.digest, &now.digest) {
            (Some(before), Some(after)) => before == after && !renamed,
            (None, _) | (_, None) => self.build == now.build,
        };
        if !same {
            changes.push(format!("build {} → {}", self.build_in_words(), now.build_in_words()));
        }
        if self.config_hash != now.config_hash {
            changes.push(format!("configuration {} → {}", said(&self.config_hash), said(&now.config_hash)));
        }
        for name in self.flags.keys().chain(now.flags.keys().filter(|name| !self.flags.contains_key(*name))) {
            let (before, after) = (self.flags.get(name).cloned(), now.flags.get(name).cloned());
            if before != after {
                changes.push(format!("flag {name} {} → {}", said(&before), said(&after)));
            }
        }
        changes
    }
}

const HEAD: &str = "haltline fleet 1 ";

impl Memory {
    /// As a file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        // Maps of strings and numbers have a JSON form.
        let body = serde_json::to_string_pretty(self).unwrap_or_default();
        format!("{HEAD}{}\n{body}", blake3::hash(body.as_bytes()).to_hex()).into_bytes()
    }

    /// From a file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Memory, String> {
        let text = core::str::from_utf8(bytes).map_err(|_| "it is not text".to_owned())?;
        let (head, body) = text.split_once('\n').ok_or("it has no first line")?;
        let hash = head.strip_prefix(HEAD).ok_or("its first line is not that of such a file")?;
        if hash != blake3::hash(body.as_bytes()).to_hex().as_str() {
            return Err("its content is not what was written".to_owned());
        }
        serde_json::from_str(body).map_err(|error| error.to_string())
    }

    /// `part` of `strategy` was used at `now` (Unix ns). Never goes back.
    pub fn exercise(&mut self, strategy: &str, part: &str, now: u64) {
        let parts = match self.exercised.get_mut(strategy) {
            Some(parts) => parts,
            None => self.exercised.entry(strategy.to_owned()).or_default(),
        };
        match parts.get_mut(part) {
            Some(at) => *at = now.max(*at),
            None => {
                parts.insert(part.to_owned(), now);
            }
        }
    }

    /// When `part` of `strategy` was last used.
    #[must_use]
    pub fn last_exercised(&self, strategy: &str, part: &str) -> Option<u64> {
        self.exercised.get(strategy)?.get(part).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> Memory {
        let mut memory = Memory { manifest: Some(Taken { version: 7, digest: "ab".into() }), ..Memory::default() };
        let flags = BTreeMap::from([("rlp".to_owned(), "on".to_owned())]);
        let identity = Identity { build: Some("r1".into()), digest: Some("cd".repeat(32)), config_hash: None, flags };
        memory.instances.insert("gw-1".into(), Known { identity, at: 5 });
        memory.exercise("alpha", "strategy", 9);
        memory.exercise("alpha", "strategy", 8);
        memory.quarantined.insert("session gw-1".into(), BTreeSet::from(["its build".to_owned()]));
        memory
    }

    #[test]
    fn a_memory_survives_the_file_and_a_damaged_one_is_known() {
        let memory = memory();
        assert_eq!(memory.last_exercised("alpha", "strategy"), Some(9), "time does not go back");
        let bytes = memory.encode();
        assert_eq!(Memory::decode(&bytes), Ok(memory));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x04;
            assert!(Memory::decode(&damaged).is_err(), "byte {at}");
            assert!(Memory::decode(&bytes[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn every_change_of_an_instance_is_named() {
        let one = memory().instances["gw-1"].identity.clone();
        assert_eq!(one.changes(&one), [""; 0]);
        let mut two = one.clone();
        two.build = None;
        assert_eq!(one.changes(&two), [""; 0], "the same executable, which does not say its name");
        two.build = Some("renamed".into());
        assert_eq!(one.changes(&two), ["build r1 (cdcdcdcdcdcd…) → renamed (cdcdcdcdcdcd…)"], "a script, say");
        two.digest = Some("ef".repeat(32));
        two.flags = BTreeMap::from([("rlp".to_owned(), "off".to_owned()), ("new".to_owned(), "1".to_owned())]);
        two.config_hash = Some("0123abcd".into());
        assert_eq!(
            one.changes(&two),
            [
                "build r1 (cdcdcdcdcdcd…) → renamed (efefefefefef…)",
                "configuration not said → 0123abcd",
                "flag rlp on → off",
                "flag new not said → 1",
            ]
        );
        two.digest = None;
        assert_eq!(one.changes(&two)[0], "build r1 (cdcdcdcdcdcd…) → renamed");
    }
}
