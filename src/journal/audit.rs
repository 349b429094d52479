//! The control records of a journal, read back.

use std::path::Path;
use std::time::Instant;

use crate::journal::format::GroupKind;
use crate::journal::reader::{End, Group, ReadError, Reader, segments};
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
        found.extend(records(&group));
    }
    Ok((found, reader.end().cloned().unwrap_or(End::Nothing)))
}

/// The control records in `group`.
fn records(group: &Group) -> Vec<Found> {
    let text = String::from_utf8_lossy(&group.payload);
    let found = text.lines().map(|line| {
        let entry = serde_json::from_str(line).unwrap_or_else(|_| {
            let unknown = Entry::new("?", "?").detail(line).outcome("not known to this program");
            Entry { at: group.header.written, ..unknown }
        });
        Found { group: group.header.group, entry }
    });
    found.collect()
}

/// The newest control records.
#[derive(Clone, Debug, Default)]
pub struct Newest {
    /// The newest first.
    pub found: Vec<Found>,
    /// The number of a group before which there may be more; `None`: there is none.
    pub next: Option<u64>,
    /// What could not be read, in words.
    pub note: Option<String>,
}

/// The newest `count` control records of the journal in `dir` that are `wanted`, from groups before `before`; groups are not
/// split. Segments are read from the last one back, at least one of them with such groups, and no further one after `until`.
///
/// # Errors
/// If a file cannot be read. Damage in one is a note.
pub fn newest(
    dir: &Path,
    count: usize,
    before: Option<u64>,
    until: Instant,
    wanted: impl Fn(&Entry) -> bool,
) -> Result<Newest, ReadError> {
    let mut newest = Newest::default();
    let before = before.unwrap_or(u64::MAX);
    let mut all = segments(dir)?;
    while let Some((number, path)) = all.pop() {
        let mut reader = Reader::open(dir)?;
        reader.only(number);
        let (mut found, mut first) = (Vec::new(), None);
        while let Some(group) = reader.next_group()? {
            first.get_or_insert(group.header.group);
            if group.header.group >= before {
                break;
            }
            if group.header.kind == GroupKind::Audit {
                found.extend(records(&group).into_iter().filter(|found| wanted(&found.entry)));
            }
        }
        if let Some(End::Damaged(damage)) = reader.end() {
            newest.note = Some(format!("{}: {damage}", path.display()));
        }
        if first.is_none_or(|first| first >= before) {
            continue;
        }
        newest.found.extend(found.into_iter().rev());
        if newest.found.len() > count {
            // The rest of the last group that still has a place stays with it.
            let last = count.checked_sub(1).and_then(|at| newest.found.get(at)).map(|found| found.group);
            let end = newest.found.iter().rposition(|found| Some(found.group) == last).map_or(0, |at| at + 1);
            newest.next = last.filter(|_| end < newest.found.len() || !all.is_empty());
            newest.found.truncate(end);
            return Ok(newest);
        }
        if newest.found.len() == count || (Instant::now() >= until && !all.is_empty()) {
            newest.next = first.filter(|_| !all.is_empty());
            return Ok(newest);
        }
    }
    Ok(newest)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::journal::disk::SystemDisk;
    use crate::journal::tests::bench;
    use crate::journal::writer::WriterOptions;

    #[test]
    fn newest_records_come_first_over_many_segments_and_none_is_missing_between_pages() {
        let options = WriterOptions { sync_at_once: true, segment_bytes: 3072, ..WriterOptions::default() };
        let mut bench = bench(Box::new(SystemDisk), options, 64);
        for n in 0..100u64 {
            // Two of a group now and then.
            for part in 0..=u64::from(n % 5 == 0) {
                let entry = Entry { at: n * 10 + part, ..Entry::new("olga", "kill") };
                bench.audit.send(serde_json::to_string(&entry).unwrap()).unwrap();
            }
            bench.writer.round();
        }
        let dir = bench.dir.path();
        assert!(segments(dir).unwrap().len() > 3);
        let late = Instant::now() + Duration::from_secs(3_600);
        let times = |newest: &Newest| newest.found.iter().map(|found| found.entry.at).collect::<Vec<_>>();
        let all = newest(dir, 1_000, None, late, |_| true).unwrap();
        assert_eq!((all.found.len(), all.next), (120, None));
        assert!(times(&all).is_sorted_by(|a, b| a > b));
        assert_eq!(times(&newest(dir, 1, None, late, |_| true).unwrap()), [990]);
        assert!(newest(dir, 0, None, late, |_| true).unwrap().found.is_empty());
        // Late from the beginning: a segment at a time, and still everything in the end.
        for (count, until) in [(7, late), (1_000, Instant::now())] {
            let (mut pages, mut before, mut asked) = (Vec::new(), None, 0);
            loop {
                let page = newest(dir, count, before, until, |_| true).unwrap();
                pages.extend(times(&page));
                before = page.next;
                asked += 1;
                if before.is_none() {
                    break;
                }
            }
            assert!(asked > 3);
            assert_eq!(pages, times(&all));
        }
        let some = newest(dir, 3, None, late, |entry| entry.at % 50 == 0).unwrap();
        assert_eq!(times(&some), [950, 900, 850]);
    }
}
