//! The manifest: which builds of which strategy may run where, and which flags they may read with which meaning. Signed, versioned,
//! checked as a whole.
//!
//! ```toml
//! version = 7                          # never goes back
//! dormant_after_days = 30              # left out: nothing becomes dormant
//!
//! [strategies.alpha]
//! instances = ["gw-1", "gw-2"]         # sessions that are expected
//! paths = ["gate"]                     # and "websocket"
//! claim_suffices = false               # whether one that cannot be measured is believed
//! mixed_builds = false                 # whether instances may differ
//! [[strategies.alpha.builds]]
//! id = "router 2.4.1"
//! digest = "9f86…"                     # SHA-256 of the executable; left out: known by its word alone
//! approved_at = 2026-11-20T18:00:00Z
//! ramp_hours = 48                      # how long it counts as new
//! config_hashes = ["0a1b…"]            # left out: any
//! [[strategies.alpha.flags]]
//! name = "rlp"
//! meaning = "retail liquidity program"
//! builds = ["router 2.4.1"]            # those that may read it
//! values = ["on", "off"]               # left out: any
//! [strategies.alpha.exercised]         # last use; haltline keeps its own beside it, the later one counts
//! "flag:rlp" = 2026-11-19T20:00:00Z
//! ```
//!
//! The signature is Ed25519 over the bytes of the file, 128 hex digits in a file beside it.

use core::fmt;
use std::collections::{BTreeMap, BTreeSet};

use ed25519_dalek::{Signature, VerifyingKey};
use sha2::{Digest as _, Sha256};

use crate::guard::door::Way;
use crate::guard::manifest_text::{ManifestText, StrategyText, unix_ns};
use crate::model::Claim;
use crate::model::claim::is_flag_name;

/// A part of a strategy that is exercised, or falls asleep.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The strategy itself: `strategy`.
    Strategy,
    /// A build: `build:ID`.
    Build(String),
    /// An order path: `path:gate`.
    Path(Way),
    /// A flag that is set: `flag:NAME`.
    Flag(String),
}

impl Part {
    /// The part that `text` names.
    #[must_use]
    pub fn parse(text: &str) -> Option<Part> {
        match text.split_once(':') {
            None => (text == "strategy").then_some(Part::Strategy),
            Some(("build", id)) if !id.is_empty() => Some(Part::Build(id.to_owned())),
            Some(("path", way)) => Way::from_name(way).map(Part::Path),
            Some(("flag", name)) if is_flag_name(name) => Some(Part::Flag(name.to_owned())),
            Some(_) => None,
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Part::Strategy => f.write_str("strategy"),
            Part::Build(id) => write!(f, "build:{id}"),
            Part::Path(way) => write!(f, "path:{}", way.name()),
            Part::Flag(name) => write!(f, "flag:{name}"),
        }
    }
}

/// An approved build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Build {
    /// What it calls itself.
    pub id: String,
    /// SHA-256 of its executable.
    pub digest: Option<[u8; 32]>,
    /// Unix ns.
    pub approved_at: u64,
    /// How long after that it counts as new, ns.
    pub ramp_ns: u64,
    /// Empty: any.
    pub config_hashes: Vec<String>,
}

/// A flag with one meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flag {
    /// Its name.
    pub name: String,
    /// What it means to `builds`.
    pub meaning: String,
    /// Ids of builds.
    pub builds: Vec<String>,
    /// Empty: any.
    pub values: Vec<String>,
}

/// A strategy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Strategy {
    /// Its name.
    pub name: String,
    /// Names of sessions.
    pub instances: Vec<String>,
    /// Order paths.
    pub paths: Vec<Way>,
    /// Whether an instance that cannot be measured is believed.
    pub claim_suffices: bool,
    /// Whether its instances may run different builds at the same time.
    pub mixed_builds: bool,
    /// Approved builds, in the order of the file; never empty.
    pub builds: Vec<Build>,
    /// Flags.
    pub flags: Vec<Flag>,
    /// Last use by the manifest's word, Unix ns.
    pub exercised: BTreeMap<Part, u64>,
}

impl Strategy {
    /// The build called `id`.
    #[must_use]
    pub fn build(&self, id: &str) -> Option<&Build> {
        self.builds.iter().find(|build| build.id == id)
    }

    /// When the newest of its builds was approved, Unix ns.
    #[must_use]
    pub fn newest_approval(&self) -> u64 {
        self.builds.iter().map(|build| build.approved_at).max().unwrap_or(0)
    }

    /// What can fall asleep: the strategy, its paths, its flags.
    pub fn sleepers(&self) -> impl Iterator<Item = Part> + '_ {
        let flags: BTreeSet<&str> = self.flags.iter().map(|flag| &*flag.name).collect();
        let flags = flags.into_iter().map(|name| Part::Flag(name.to_owned()));
        std::iter::once(Part::Strategy).chain(self.paths.iter().copied().map(Part::Path)).chain(flags)
    }
}

/// A manifest without violations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Counts up with every change.
    pub version: u64,
    /// How long without use until something is dormant, ns; `None`: never.
    pub dormant_after_ns: Option<u64>,
    /// In the order of their names.
    pub strategies: Vec<Strategy>,
    /// SHA-256 of the text.
    pub digest: [u8; 32],
}

/// Why a manifest is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ManifestRefused {
    /// It is not what the key signed.
    Signature(&'static str),
    /// There was a later one.
    Older {
        /// Its version.
        version: u64,
        /// The version of the one that was in force, or had been.
        floor: u64,
    },
    /// It has another text than the one of the same version that was taken before.
    SameVersion(u64),
    /// It is wrong, in all these places.
    Invalid(Vec<String>),
}

impl fmt::Display for ManifestRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ManifestRefused::Signature(why) => write!(f, "its signature {why}"),
            ManifestRefused::Older { version, floor } => {
                write!(f, "version = {version}: must not go back behind {floor}, which was taken before")
            }
            ManifestRefused::SameVersion(version) => {
                write!(f, "version = {version}: was taken before with another text; a change needs a new version")
            }
            ManifestRefused::Invalid(faults) => f.write_str(&faults.join("; ")),
        }
    }
}

/// SHA-256 in hex, as `sha256sum` prints it.
#[must_use]
pub fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The 32 bytes of 64 digits out of 0-9 a-f.
#[must_use]
pub fn digest_of_hex(text: &str) -> Option<[u8; 32]> {
    let bytes = bytes_of_hex(text)?;
    bytes.try_into().ok()
}

fn bytes_of_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) || !digits.iter().all(|d| d.is_ascii_digit() || (b'a'..=b'f').contains(d)) {
        return None;
    }
    let digit = |d: u8| if d.is_ascii_digit() { d - b'0' } else { d - b'a' + 10 };
    Some(digits.chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect())
}

/// Whether `signature`, 128 hex digits, is `key`'s over `text`.
///
/// # Errors
/// What is wrong with it.
pub fn verify(text: &[u8], signature: &str, key: &VerifyingKey) -> Result<(), ManifestRefused> {
    let bytes = bytes_of_hex(signature.trim()).and_then(|bytes| <[u8; 64]>::try_from(bytes).ok());
    let Some(bytes) = bytes else {
        return Err(ManifestRefused::Signature("must be 128 digits out of 0-9 a-f"));
    };
    let good = key.verify_strict(text, &Signature::from_bytes(&bytes));
    good.map_err(|_| ManifestRefused::Signature("is not the key's over this text"))
}

const HOUR_NS: u64 = 3_600_000_000_000;
const DAY_NS: u64 = 24 * HOUR_NS;

impl Manifest {
    /// Takes `text` if `signature` is `key`'s over it and its version is not below that of `before`, the version and digest of the
    /// latest that was ever taken.
    ///
    /// # Errors
    /// [`ManifestRefused`]. The signature comes first: nothing else is read of what nobody signed.
    pub fn open(
        text: &[u8],
        signature: &str,
        key: &VerifyingKey,
        before: Option<(u64, [u8; 32])>,
    ) -> Result<Manifest, ManifestRefused> {
        verify(text, signature, key)?;
        let manifest = Manifest::parse(text).map_err(ManifestRefused::Invalid)?;
        match before {
            Some((floor, _)) if manifest.version < floor => {
                Err(ManifestRefused::Older { version: manifest.version, floor })
            }
            Some((floor, digest)) if manifest.version == floor && manifest.digest != digest => {
                Err(ManifestRefused::SameVersion(floor))
            }
            Some(_) | None => Ok(manifest),
        }
    }

    /// Reads and checks `text`, whoever wrote it.
    ///
    /// # Errors
    /// Every violation, each with its place, its value and the rule.
    pub fn parse(text: &[u8]) -> Result<Manifest, Vec<String>> {
        let digest = Sha256::digest(text).into();
        let text = core::str::from_utf8(text).map_err(|_| vec!["it is not UTF-8".to_owned()])?;
        let parsed = ManifestText::parse(text).map_err(|why| vec![why])?;
        Manifest::of_text(&parsed, digest)
    }

    /// Checks what was parsed; `digest` is that of its text.
    ///
    /// # Errors
    /// Every violation.
    pub fn of_text(text: &ManifestText, digest: [u8; 32]) -> Result<Manifest, Vec<String>> {
        let mut faults = Faults::default();
        if text.version == 0 {
            faults.add("version", "0", "must be 1 or more");
        }
        let days = text.dormant_after_days;
        if let Some(days) = days
            && !(1..=3_650).contains(&days)
        {
            faults.add("dormant_after_days", days, "must be from 1 to 3650");
        }
        if text.strategies.is_empty() {
            faults.add("strategies", "", "must name a strategy at least");
        }
        let strategies: Vec<Strategy> =
            text.strategies.iter().map(|(name, strategy)| read_strategy(name, strategy, &mut faults)).collect();
        check_across(&strategies, &mut faults);
        if faults.0.is_empty() {
            let dormant_after_ns = days.map(|days| u64::from(days) * DAY_NS);
            Ok(Manifest { version: text.version, dormant_after_ns, strategies, digest })
        } else {
            Err(faults.0)
        }
    }

    /// The strategy called `name`.
    #[must_use]
    pub fn strategy(&self, name: &str) -> Option<&Strategy> {
        self.strategies.iter().find(|strategy| strategy.name == name)
    }

    /// What differs in `new`, one sentence per difference. Empty: nothing but the version or the layout of the text.
    #[must_use]
    pub fn differences(&self, new: &Manifest) -> Vec<String> {
        let mut found = Vec::new();
        if self.dormant_after_ns != new.dormant_after_ns {
            let days = |ns: Option<u64>| ns.map_or_else(|| "never".to_owned(), |ns| format!("{} days", ns / DAY_NS));
            let (old, new) = (days(self.dormant_after_ns), days(new.dormant_after_ns));
            found.push(format!("dormant after: {old} → {new}"));
        }
        for old in self.strategies.iter().filter(|old| new.strategy(&old.name).is_none()) {
            found.push(format!("strategy {}: removed", old.name));
        }
        for now in &new.strategies {
            match self.strategy(&now.name) {
                None => found.push(format!("strategy {}: added", now.name)),
                Some(old) => strategy_differences(old, now, &mut found),
            }
        }
        found
    }
}

fn strategy_differences(old: &Strategy, new: &Strategy, found: &mut Vec<String>) {
    let name = &new.name;
    let mut sets = |what: &str, old: BTreeSet<String>, new: BTreeSet<String>| {
        found.extend(old.difference(&new).map(|gone| format!("strategy {name}: {what} {gone} removed")));
        found.extend(new.difference(&old).map(|come| format!("strategy {name}: {what} {come} added")));
    };
    let set = |list: &[String]| list.iter().cloned().collect::<BTreeSet<_>>();
    sets("instance", set(&old.instances), set(&new.instances));
    let ways = |s: &Strategy| s.paths.iter().map(|way| way.name().to_owned()).collect();
    sets("path", ways(old), ways(new));
    let build = |b: &Build| {
        let digest = b.digest.map_or_else(|| "by its word alone".to_owned(), |d| hex(&d));
        let configs = if b.config_hashes.is_empty() { "any".to_owned() } else { b.config_hashes.join(" ") };
        format!("{} ({digest}, new for {} h, configurations: {configs})", b.id, b.ramp_ns / HOUR_NS)
    };
    let builds = |s: &Strategy| s.builds.iter().map(build).collect();
    sets("build", builds(old), builds(new));
    let flags = |s: &Strategy| {
        let one = |f: &Flag, id: &String| format!("{} = {:?} {:?} for build {id}", f.name, f.meaning, f.values);
        s.flags.iter().flat_map(|f| f.builds.iter().map(move |id| one(f, id))).collect()
    };
    sets("flag", flags(old), flags(new));
    for (what, old, new) in [
        ("claim_suffices", old.claim_suffices, new.claim_suffices),
        ("mixed_builds", old.mixed_builds, new.mixed_builds),
    ] {
        if old != new {
            found.push(format!("strategy {name}: {what} {old} → {new}"));
        }
    }
    if old.exercised != new.exercised {
        found.push(format!("strategy {name}: times of last use"));
    }
}

#[derive(Default)]
struct Faults(Vec<String>);

impl Faults {
    fn add(&mut self, place: impl fmt::Display, value: impl fmt::Display, rule: &str) {
        self.0.push(format!("{place} = {value}: {rule}"));
    }
}

const NAME_RULE: &str = "a name has 1 to 64 characters out of A-Z a-z 0-9 . _ -";
const TIME_RULE: &str = "must be a moment in UTC, such as 2026-11-20T18:00:00Z";
const HASH_RULE: &str = "must be 8 to 64 digits out of 0-9 a-f";

fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b))
}

fn read_strategy(name: &str, text: &StrategyText, faults: &mut Faults) -> Strategy {
    let place = format!("strategies.{name}");
    if !is_name(name) {
        faults.add(&place, name, NAME_RULE);
    }
    if text.instances.is_empty() {
        faults.add(format!("{place}.instances"), "[]", "must name an instance at least");
    }
    for (at, instance) in text.instances.iter().enumerate() {
        if !is_name(instance) {
            faults.add(format!("{place}.instances[{at}]"), instance, NAME_RULE);
        }
        if text.instances[..at].contains(instance) {
            faults.add(format!("{place}.instances[{at}]"), instance, "is named twice");
        }
    }
    let mut paths = Vec::new();
    for (at, word) in text.paths.iter().enumerate() {
        match Way::from_name(word) {
            Some(way) if !paths.contains(&way) => paths.push(way),
            Some(_) => faults.add(format!("{place}.paths[{at}]"), word, "is named twice"),
            None => faults.add(format!("{place}.paths[{at}]"), word, "must be gate or websocket"),
        }
    }
    if text.paths.is_empty() {
        faults.add(format!("{place}.paths"), "[]", "must name gate, websocket or both");
    }
    let builds = read_builds(&place, text, faults);
    let flags = read_flags(&place, text, faults);
    let mut exercised = BTreeMap::new();
    for (word, at) in &text.exercised {
        let spot = format!("{place}.exercised.{word:?}");
        let known = Part::parse(word).filter(|part| match part {
            Part::Strategy => true,
            Part::Build(id) => text.builds.iter().any(|build| build.id == *id),
            Part::Path(way) => paths.contains(way),
            Part::Flag(name) => text.flags.iter().any(|flag| flag.name == *name),
        });
        match (known, unix_ns(at)) {
            (Some(part), Some(at)) => {
                exercised.insert(part, at);
            }
            (None, _) => faults.add(&spot, at, "must be strategy, or a build:ID, path:WAY or flag:NAME that is listed"),
            (_, None) => faults.add(&spot, at, TIME_RULE),
        }
    }
    let (claim_suffices, mixed_builds) = (text.claim_suffices, text.mixed_builds);
    let instances = text.instances.clone();
    Strategy { name: name.to_owned(), instances, paths, claim_suffices, mixed_builds, builds, flags, exercised }
}

fn read_builds(place: &str, text: &StrategyText, faults: &mut Faults) -> Vec<Build> {
    let mut builds: Vec<Build> = Vec::new();
    if text.builds.is_empty() {
        faults.add(format!("{place}.builds"), "[]", "must name an approved build at least");
    }
    for (at, build) in text.builds.iter().enumerate() {
        let spot = format!("{place}.builds[{at}]");
        if let Err(bad) = Claim::default().set_build(&build.id) {
            faults.add(format!("{spot}.id"), &build.id, bad.rule);
        }
        if builds.iter().any(|other| other.id == build.id) {
            faults.add(format!("{spot}.id"), &build.id, "is listed twice");
        }
        let digest = build.digest.as_deref().and_then(|text| {
            let digest = digest_of_hex(text);
            if digest.is_none() {
                faults.add(format!("{spot}.digest"), text, "must be a SHA-256, 64 digits out of 0-9 a-f");
            }
            digest
        });
        if digest.is_some() && builds.iter().any(|other| other.digest == digest) {
            faults.add(format!("{spot}.digest"), build.digest.as_deref().unwrap_or(""), "is listed for two builds");
        }
        let approved_at = unix_ns(&build.approved_at).unwrap_or_else(|| {
            faults.add(format!("{spot}.approved_at"), build.approved_at, TIME_RULE);
            0
        });
        let hours = build.ramp_hours.unwrap_or(0);
        if hours > 8_760 {
            faults.add(format!("{spot}.ramp_hours"), hours, "must be from 0 to 8760");
        }
        for (n, hash) in build.config_hashes.iter().enumerate() {
            if Claim::default().set_config_hash(hash).is_err() {
                faults.add(format!("{spot}.config_hashes[{n}]"), hash, HASH_RULE);
            }
        }
        let config_hashes = build.config_hashes.clone();
        let ramp_ns = u64::from(hours) * HOUR_NS;
        builds.push(Build { id: build.id.clone(), digest, approved_at, ramp_ns, config_hashes });
    }
    builds
}

fn read_flags(place: &str, text: &StrategyText, faults: &mut Faults) -> Vec<Flag> {
    let mut flags: Vec<Flag> = Vec::new();
    for (at, flag) in text.flags.iter().enumerate() {
        let spot = format!("{place}.flags[{at}]");
        if !is_flag_name(&flag.name) {
            faults.add(format!("{spot}.name"), &flag.name, "must be 1 to 63 characters out of A-Z a-z 0-9 . _ -");
        }
        if flag.meaning.trim().is_empty() || flag.meaning.chars().any(char::is_control) {
            faults.add(format!("{spot}.meaning"), &flag.meaning, "must say what the flag does, in one line");
        }
        if flag.builds.is_empty() {
            faults.add(format!("{spot}.builds"), "[]", "must name a build that may read it at least");
        }
        for (n, id) in flag.builds.iter().enumerate() {
            let spot = format!("{spot}.builds[{n}]");
            if !text.builds.iter().any(|build| build.id == *id) {
                faults.add(&spot, id, "must be the id of a build of the strategy");
            }
            let twice = flags.iter().any(|other| other.name == flag.name && other.builds.contains(id));
            if twice || flag.builds[..n].contains(id) {
                faults.add(&spot, id, "reads this flag by an earlier entry already: one flag, one meaning");
            }
        }
        for (n, value) in flag.values.iter().enumerate() {
            if value.len() > Claim::TEXT_MAX || value.chars().any(char::is_control) {
                faults.add(format!("{spot}.values[{n}]"), value, "must be at most 63 bytes without control characters");
            }
        }
        flags.push(Flag {
            name: flag.name.clone(),
            meaning: flag.meaning.clone(),
            builds: flag.builds.clone(),
            values: flag.values.clone(),
        });
    }
    flags
}

/// A build's id stands for one executable, and to one build a flag has one meaning, whichever strategy lists it.
fn check_across(strategies: &[Strategy], faults: &mut Faults) {
    let mut digests: BTreeMap<&str, (&str, Option<[u8; 32]>)> = BTreeMap::new();
    let mut ids: BTreeMap<[u8; 32], (&str, &str)> = BTreeMap::new();
    let mut meanings: BTreeMap<(&str, &str), (&str, &str)> = BTreeMap::new();
    for strategy in strategies {
        for build in &strategy.builds {
            let place = format!("strategies.{}.builds", strategy.name);
            let (other, digest) = *digests.entry(&build.id).or_insert((&strategy.name, build.digest));
            if digest != build.digest {
                faults.add(&place, &build.id, &format!("has another digest in strategies.{other}"));
            }
            if let Some(digest) = build.digest {
                let (other, id) = *ids.entry(digest).or_insert((&strategy.name, &build.id));
                if id != build.id && other != strategy.name {
                    faults.add(&place, &build.id, &format!("has the digest of {id} in strategies.{other}"));
                }
            }
        }
        for flag in &strategy.flags {
            for id in &flag.builds {
                let known = meanings.entry((&flag.name, id)).or_insert((&strategy.name, &flag.meaning));
                if known.1 != flag.meaning && known.0 != strategy.name {
                    let place = format!("strategies.{}.flags", strategy.name);
                    let rule = format!("means something else to build {id} in strategies.{}", known.0);
                    faults.add(place, &flag.name, &rule);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer as _, SigningKey};

    use super::*;

    const GOOD: &str = r#"
version = 7
dormant_after_days = 30
[strategies.alpha]
instances = ["gw-1", "gw-2"]
paths = ["gate"]
exercised = { strategy = 2026-11-19T20:00:00Z, "flag:rlp" = 2026-11-18T20:00:00Z }
[[strategies.alpha.builds]]
id = "router 2.4.1"
digest = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
approved_at = 2026-11-20T18:00:00Z
ramp_hours = 48
[[strategies.alpha.flags]]
name = "rlp"
meaning = "retail liquidity program"
builds = ["router 2.4.1"]
values = ["on", "off"]
"#;

    fn signed(text: &str, key: &SigningKey) -> String {
        hex(&key.sign(text.as_bytes()).to_bytes())
    }

    #[test]
    fn only_what_the_key_signed_is_read_and_no_version_comes_back() {
        let key = SigningKey::from_bytes(&[7; 32]);
        let public = key.verifying_key();
        let open = |text: &str, sig: &str, before| Manifest::open(text.as_bytes(), sig, &public, before);
        let manifest = open(GOOD, &signed(GOOD, &key), None).unwrap();
        assert_eq!((manifest.version, manifest.strategies.len()), (7, 1));
        assert_eq!(manifest.strategies[0].exercised[&Part::Flag("rlp".into())], 1_795_032_000_000_000_000);
        let before = Some((7, manifest.digest));
        assert!(open(GOOD, &signed(GOOD, &key), before).is_ok(), "the same again");

        let changed = GOOD.replace("gw-2", "gw-3");
        let wrong = |result: Result<Manifest, ManifestRefused>| matches!(result, Err(ManifestRefused::Signature(_)));
        assert!(wrong(open(&changed, &signed(GOOD, &key), None)));
        assert!(wrong(open(GOOD, &signed(GOOD, &SigningKey::from_bytes(&[8; 32])), None)));
        for sig in ["", "00", &signed(GOOD, &key)[1..], &signed(GOOD, &key).to_uppercase()] {
            assert!(wrong(open(GOOD, sig, None)), "{sig:?}");
        }
        // Not even looked at: what is wrong with it nobody is told by the manifest itself.
        assert!(wrong(open("version = 0", "00", None)));

        assert_eq!(open(&changed, &signed(&changed, &key), before), Err(ManifestRefused::SameVersion(7)));
        let older = GOOD.replace("version = 7", "version = 6");
        let refused = ManifestRefused::Older { version: 6, floor: 7 };
        assert_eq!(open(&older, &signed(&older, &key), before), Err(refused));
    }

    #[test]
    fn every_byte_counts_for_the_signature() {
        let key = SigningKey::from_bytes(&[7; 32]);
        let signature = signed(GOOD, &key);
        for at in 0..GOOD.len() {
            let mut bytes = GOOD.as_bytes().to_vec();
            bytes[at] ^= 1;
            assert!(verify(&bytes, &signature, &key.verifying_key()).is_err(), "byte {at}");
        }
    }

    #[test]
    fn all_that_is_wrong_is_said_at_once_with_place_value_and_rule() {
        let text = r#"
version = 0
dormant_after_days = 0
[strategies."a b"]
instances = ["gw 1", "gw-1", "gw-1"]
paths = ["gate", "carrier pigeon", "gate"]
exercised = { "flag:none" = 2026-11-19T20:00:00Z, "path:gate" = 2026-11-19 }
[[strategies."a b".builds]]
id = ""
digest = "9F86"
approved_at = 2026-11-20T18:00:00+02:00
ramp_hours = 9000
config_hashes = ["x"]
[[strategies."a b".builds]]
id = ""
approved_at = 2026-11-20T18:00:00Z
[[strategies."a b".flags]]
name = "a flag"
meaning = " "
builds = ["nobody"]
"#;
        let faults = Manifest::parse(text.as_bytes()).unwrap_err();
        for expected in [
            "version = 0: must be 1",
            "dormant_after_days = 0: must",
            "strategies.a b = a b: a name",
            "instances[0] = gw 1: a name",
            "instances[2] = gw-1: is named twice",
            "paths[1] = carrier pigeon: must be gate",
            "paths[2] = gate: is named twice",
            "exercised.\"flag:none\" = 2026-11-19T20:00:00Z: must be strategy",
            "exercised.\"path:gate\" = 2026-11-19: must be a moment",
            "builds[0].id = : must be 1 to 63",
            "builds[0].digest = 9F86: must be a SHA-256",
            "builds[0].approved_at = 2026-11-20T18:00:00+02:00: must be a moment",
            "builds[0].ramp_hours = 9000: must",
            "builds[0].config_hashes[0] = x: must",
            "builds[1].id = : is listed twice",
            "flags[0].name = a flag: must",
            "flags[0].meaning =  : must say",
            "flags[0].builds[0] = nobody: must be the id",
        ] {
            assert!(faults.iter().any(|fault| fault.contains(expected)), "{expected} is not in {faults:#?}");
        }
    }

    #[test]
    fn an_id_is_one_executable_and_to_one_build_a_flag_means_one_thing() {
        let two = |second: &str| {
            let text = format!("{GOOD}\n{}", second.replace("NAME", "beta"));
            Manifest::parse(text.as_bytes()).map_err(|faults| faults.join("; "))
        };
        let other = GOOD.split_once("[strategies.alpha]").unwrap().1.replace("strategies.alpha", "strategies.NAME");
        let beta = format!("[strategies.NAME]{other}");
        assert!(two(&beta).is_ok());
        assert!(two(&beta.replace("9f86", "0000")).unwrap_err().contains("has another digest in strategies.alpha"));
        let renamed = beta.replace("router 2.4.1", "router 9");
        assert!(two(&renamed).unwrap_err().contains("has the digest of router 2.4.1 in strategies.alpha"));
        let meaning = beta.replace("retail liquidity program", "power peg");
        assert!(two(&meaning).unwrap_err().contains("means something else to build router 2.4.1"));
        let twice = GOOD.to_owned()
            + "[[strategies.alpha.flags]]\nname = \"rlp\"\nmeaning = \"power peg\"\nbuilds = [\"router 2.4.1\"]\n";
        assert!(Manifest::parse(twice.as_bytes()).unwrap_err()[0].contains("one flag, one meaning"));
    }

    #[test]
    fn a_difference_is_told_and_a_layout_is_none() {
        let old = Manifest::parse(GOOD.as_bytes()).unwrap();
        let of = |text: &str| old.differences(&Manifest::parse(text.as_bytes()).unwrap());
        assert_eq!(of(&GOOD.replace("version = 7", "# new\nversion = 8")), [""; 0]);
        assert_eq!(
            of(&GOOD.replace("\"gw-2\"", "\"gw-3\"")),
            ["strategy alpha: instance gw-2 removed", "strategy alpha: instance gw-3 added"]
        );
        let digest = of(&GOOD.replace("9f86", "0000"));
        assert!(digest[0].contains("9f86") && digest[1].contains("0000"), "{digest:?}");
        let meaning = of(&GOOD.replace("retail liquidity program", "power peg"));
        assert!(meaning[0].contains("retail") && meaning[1].contains("power peg"), "{meaning:?}");
        assert_eq!(of(&GOOD.replace("days = 30", "days = 31")), ["dormant after: 30 days → 31 days"]);
        assert_eq!(of(&GOOD.replace("strategies.alpha", "strategies.beta")).len(), 2);
    }
}
