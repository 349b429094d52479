//! The control records of a journal, read back.

use std::path::Path;

use crate::journal::format::GroupKind;
use crate::journal::reader::{End, ReadError, Reader};
use crate::kill::audit::Entry;

/// A control record and where it lies.
#[derive(Clone, Debug)]
pub struct Found {
    /// The group that it is in.
    pub group: u64,
    /// The record.
    pub entry: Entry,
}

/// All control records of the journal in `dir`, in their order, and how the journal ends. What is not a record (a
/// later version's) is given as one whose action is `?` and whose detail is the line.
///
/// # Errors
/// If it cannot be read.
pub fn read_all(dir: &Path) -> Result<(Vec<Found>, End), ReadError> {
    let mut reader = Reader::open(dir)?;
    let mut found = Vec::new();
    while let Some(group) = reader.next_group()? {
        if group.header.kind != GroupKind::Audit {
            continue;
        }
        let text = String::from_utf8_lossy(&group.payload);
        found.extend(text.lines().map(|line| {
            let entry = serde_json::from_str(line).unwrap_or_else(|_| {
                let unknown = Entry::new("?", "?").detail(line).outcome("not known to this program");
                Entry { at: group.header.written, ..unknown }
            });
            Found { group: group.header.group, entry }
        }));
    }
    Ok((found, reader.end().cloned().unwrap_or(End::Nothing)))
}
