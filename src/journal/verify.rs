//! Checks a journal offline: every byte against the chain, every checkpoint against its signature, every snapshot
//! against both, and, with a head that was kept elsewhere, that nothing was cut off behind it.
//!
//! A journal whose first segments are gone is intact only if the rest says that they were removed by configuration: with
//! a record that names the chain which the first segment goes on from.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use ed25519_dalek::VerifyingKey;

use crate::journal::compact::Removal;
use crate::journal::format::{Chain, Checkpoint, GroupKind, Tip};
use crate::journal::reader::{End, ReadError, Reader, checkpoint_of, header_of, segments};
use crate::journal::snapshot::{self, snapshots};
use crate::journal::writer::hex;

/// What was found.
#[derive(Clone, Debug)]
pub struct Report {
    /// Whose journal it is; `None` if there is none.
    pub journal: Option<[u8; 16]>,
    /// The keys that its segments name.
    pub keys: BTreeSet<[u8; 32]>,
    /// Segments, groups, cells, control-record groups and checkpoints read.
    pub segments: usize,
    /// Groups read.
    pub groups: u64,
    /// Cells of engine records read.
    pub cells: u64,
    /// Checkpoints whose signature and content fit.
    pub checkpoints: u64,
    /// Snapshots that are whole, signed, and of a place in this journal.
    pub snapshots: usize,
    /// How it ends.
    pub end: End,
    /// Behind the last whole group.
    pub tip: Tip,
    /// Groups behind the last signed checkpoint: covered by the chain, and not signed yet.
    pub unsigned: u64,
    /// Everything that is wrong, one sentence each.
    pub faults: Vec<String>,
    /// What is no fault and worth knowing.
    pub notes: Vec<String>,
}

impl Report {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        self.faults.is_empty()
    }
}

/// Checks the journal in `dir`. `key`: whose signatures are trusted; without it those of the key that the segments name
/// (which shows accidents, and not who wrote it). `head`: a chain value noted earlier, which has to be in it.
///
/// # Errors
/// If it cannot be read.
pub fn verify(dir: &Path, key: Option<&VerifyingKey>, head: Option<&Chain>) -> Result<Report, ReadError> {
    let mut reader = Reader::open(dir)?;
    let mut report = Report {
        journal: None,
        keys: BTreeSet::new(),
        segments: 0,
        groups: 0,
        cells: 0,
        checkpoints: 0,
        snapshots: 0,
        end: End::Nothing,
        tip: Tip::BEGIN,
        unsigned: 0,
        faults: Vec::new(),
        notes: Vec::new(),
    };
    let mut removals: Vec<Removal> = Vec::new();
    // The chain before every group that a snapshot stands at, as far as it was come by.
    let stands: BTreeMap<PathBuf, Result<snapshot::Header, String>> =
        snapshots(dir)?.into_iter().map(|(_, path)| (path.clone(), header_of_snapshot(&path, dir, key))).collect();
    let mut chains: BTreeMap<u64, Option<Chain>> =
        stands.values().flatten().map(|header| (header.tip.group, None)).collect();
    let mut before = Tip::BEGIN.chain;
    let mut head_seen = head.is_none_or(|head| *head == Tip::BEGIN.chain);
    while let Some(group) = reader.next_group()? {
        report.groups += 1;
        report.cells += group.cells().len() as u64 * u64::from(group.header.kind == GroupKind::Cells);
        report.unsigned += 1;
        head_seen |= head == Some(&group.header.chain);
        if group.header.kind == GroupKind::Audit {
            removals.extend(Removal::all_in(&String::from_utf8_lossy(&group.payload)));
        }
        if let Some(chain) = chains.get_mut(&(group.header.group + 1)) {
            *chain = Some(group.header.chain);
        }
        if let Some(checkpoint) = checkpoint_of(&group) {
            let segment = reader.segments_read().last().map(|info| info.header);
            let fault = segment.and_then(|segment| {
                let named = VerifyingKey::from_bytes(&segment.key).ok();
                let signed =
                    key.or(named.as_ref()).is_some_and(|k| Checkpoint::is_signed(&group.payload, &segment.journal, k));
                // The first group of a segment follows on the segment's own link.
                let follows = if group.header.group == segment.first_group { segment.chain() } else { before };
                let fits = checkpoint.chain == follows
                    && checkpoint.group == group.header.group
                    && checkpoint.cell == group.header.first;
                match (signed, fits) {
                    (true, true) => None,
                    (false, _) => Some("its signature is not of the key"),
                    (true, false) => Some("it is signed, but of another place"),
                }
            });
            match fault {
                None => {
                    report.checkpoints += 1;
                    report.unsigned = 0;
                }
                Some(why) => report.faults.push(format!("checkpoint in group {}: {why}", group.header.group)),
            }
        }
        before = group.header.chain;
    }
    report.journal = reader.journal();
    report.segments = reader.segments_read().len();
    report.keys = reader.segments_read().iter().map(|info| info.header.key).collect();
    report.tip = reader.tip();
    report.notes = reader.notes().to_vec();
    report.end = reader.end().cloned().unwrap_or(End::Nothing);
    match &report.end {
        End::Nothing => report.faults.push(format!("there is no journal in {}", dir.display())),
        End::Orderly | End::Open => {}
        End::Torn { file, offset, what } => report.faults.push(format!(
            "{}, byte {offset}: {what}: the last write was cut off, or what was there was changed",
            file.display()
        )),
        End::Damaged(damage) => report.faults.push(damage.to_string()),
    }
    if let Some(first) = reader.segments_read().first().map(|info| info.header).filter(|h| h.first_group > 0) {
        head_seen |= head == Some(&first.before);
        if let Some(chain) = chains.get_mut(&first.first_group) {
            chain.get_or_insert(first.before);
        }
        // A removal that was cut short has left later segments than it was to: those are followed, and lead to its head.
        let stands = |removal: &Removal| {
            let mut headers = reader.segments_read().iter().map(|info| info.header);
            headers.any(|h| h.first_group == removal.group && hex(&h.before) == removal.head)
        };
        let recorded = removals.iter().any(stands);
        if recorded {
            report.notes.push(format!(
                "it begins with group {}: what was before was removed by configuration, and the journal says so",
                first.first_group
            ));
        } else {
            report.faults.push(format!(
                "it begins with group {} in segment {}: what was before is missing, and no record says that it was removed",
                first.first_group, first.segment
            ));
        }
    }
    for (path, header) in &stands {
        let fault = match header {
            Err(fault) => fault.as_str(),
            Ok(header) => match chains.get(&header.tip.group).copied().flatten() {
                Some(chain) if chain == header.tip.chain => {
                    report.snapshots += 1;
                    continue;
                }
                Some(_) => "it was not made of this journal",
                None => "the journal does not go through the place where it was made",
            },
        };
        report.faults.push(format!("{}: {fault}", path.display()));
    }
    if !head_seen {
        report.faults.push("the head that was given is not in it: it was cut off before, or is another journal".into());
    }
    if report.segments > 1 && report.keys.len() > 1 {
        report.notes.push(format!("its segments name {} keys", report.keys.len()));
    }
    Ok(report)
}

/// What a snapshot says of itself, checked to its last byte. Without a key that of the first segment will do.
fn header_of_snapshot(path: &Path, dir: &Path, key: Option<&VerifyingKey>) -> Result<snapshot::Header, String> {
    let named = || key_of_first_segment(dir).ok_or_else(|| "no segment names a key".to_owned());
    let key = key.copied().map_or_else(named, Ok)?;
    snapshot::read(path, &key).map(|(header, _)| header).map_err(|fault| fault.to_string())
}

/// The key that the first segment in `dir` names.
#[must_use]
pub fn key_of_first_segment(dir: &Path) -> Option<VerifyingKey> {
    let all = segments(dir).ok()?;
    let header = all.iter().find_map(|(_, path)| header_of(path))?;
    VerifyingKey::from_bytes(&header.key).ok()
}
