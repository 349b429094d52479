//! Reads a journal: group after group, every byte checked, and says exactly where it ends and why.
//!
//! Two ends are told apart. A *torn tail* is what a crash leaves: behind the last whole group there is nothing that was
//! ever whole. *Damage* is everything else: a group that is wrong while whole ones follow it, groups that are missing,
//! a chain that does not fit.

use core::fmt;
use std::collections::VecDeque;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use crate::journal::format::{
    Chain, Checkpoint, GroupFault, GroupHeader, GroupKind, HeaderFault, SEGMENT_HEADER, SegmentHeader, Tip, check_group,
};
use crate::ring::cells::{CELL_BYTES, Cell, from_bytes};

/// One group as it was read.
#[derive(Debug)]
pub struct Group {
    /// Its header.
    pub header: GroupHeader,
    /// Where it lies.
    pub offset: u64,
    /// Its payload, without the zeros behind.
    pub payload: Vec<u8>,
}

impl Group {
    /// The cells of its payload.
    pub fn cells(&self) -> impl ExactSizeIterator<Item = Cell> + '_ {
        let (cells, _) = self.payload.as_chunks::<CELL_BYTES>();
        cells.iter().map(from_bytes)
    }
}

/// Something that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub file: PathBuf,
    /// The first byte of what is wrong.
    pub offset: u64,
    /// The group that is wrong or missing.
    pub group: u64,
    /// The record (by the number of its cell) that is wrong, or the first one that is missing.
    pub cell: u64,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Damage { file, offset, group, cell, what } = self;
        write!(f, "{}, byte {offset}, group {group}, record {cell}: {what}", file.display())
    }
}

/// How a journal ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// There is none.
    Nothing,
    /// By an orderly end of its run.
    Orderly,
    /// Behind a whole group, without an orderly end: the process was killed, or runs.
    Open,
    /// Behind a whole group come bytes that are none: a write was under way.
    Torn {
        /// The file.
        file: PathBuf,
        /// Where the bytes begin.
        offset: u64,
        /// What is wrong with them.
        what: String,
    },
    /// It goes on, but cannot be followed.
    Damaged(Damage),
}

/// Why a journal cannot be read at all.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {path}")]
pub struct ReadError {
    /// The file or directory.
    pub path: PathBuf,
    /// What the file system said.
    pub source: io::Error,
}

/// A segment that was read, for whoever lists them.
#[derive(Clone, Debug)]
pub struct SegmentInfo {
    /// Where.
    pub path: PathBuf,
    /// Its header.
    pub header: SegmentHeader,
    /// Bytes up to the end of its last whole group.
    pub used: u64,
    /// Bytes of the file.
    pub len: u64,
}

/// See the module.
pub struct Reader {
    segments: VecDeque<(u64, PathBuf)>,
    open: Option<OpenSegment>,
    tip: Tip,
    journal: Option<[u8; 16]>,
    /// The chain behind the last group.
    behind: Chain,
    /// Cells before this number are not wanted.
    from: u64,
    last_kind: Option<GroupKind>,
    end: Option<End>,
    read: Vec<SegmentInfo>,
    notes: Vec<String>,
    /// Where a snapshot stands that the reading goes on behind, and whether that place was come by.
    resumed: Option<(Tip, bool)>,
}

struct OpenSegment {
    path: PathBuf,
    bytes: Vec<u8>,
    at: usize,
    header: SegmentHeader,
    /// The group that the next segment begins with: from there on this one was given up.
    until: Option<u64>,
}

/// The segments in `dir`, by number.
///
/// # Errors
/// If the directory cannot be read.
pub fn segments(dir: &Path) -> Result<Vec<(u64, PathBuf)>, ReadError> {
    let fail = |source| ReadError { path: dir.to_owned(), source };
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        let number = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".seg")?.parse().ok());
        found.extend(number.map(|number: u64| (number, path)));
    }
    found.sort();
    Ok(found)
}

/// The name of a segment's file.
#[must_use]
pub fn segment_path(dir: &Path, segment: u64) -> PathBuf {
    dir.join(format!("{segment:08}.seg"))
}

impl Reader {
    /// A reader of the journal in `dir`.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn open(dir: &Path) -> Result<Reader, ReadError> {
        Ok(Reader {
            segments: segments(dir)?.into(),
            open: None,
            tip: Tip::BEGIN,
            journal: None,
            behind: Tip::BEGIN.chain,
            from: 0,
            last_kind: None,
            end: None,
            read: Vec::new(),
            notes: Vec::new(),
            resumed: None,
        })
    }

    /// Goes on behind `tip`, which a snapshot stands for: its segments may be gone. If what is there does not go through
    /// that place, with that chain, it is [`End::Damaged`], and [`Reader::has_resumed`] says no.
    pub fn resume_at(&mut self, tip: Tip) {
        self.segments.retain(|(number, _)| *number >= tip.segment);
        self.from = tip.cell;
        let behind = self.segments.iter().filter(|(number, _)| *number > tip.segment);
        let next = behind.filter_map(|(_, path)| header_of(path)).next();
        let follows = next.is_some_and(|next| (next.first_group, next.before) == (tip.group, tip.chain));
        if follows {
            // The segment that the snapshot ends with need not be read again.
            self.segments.retain(|(number, _)| *number > tip.segment);
            self.tip = tip;
            self.behind = tip.chain;
        }
        self.resumed = Some((tip, follows));
    }

    /// Bytes of the segments that were not begun yet.
    #[must_use]
    pub fn bytes_to_read(&self) -> u64 {
        self.segments.iter().filter_map(|(_, path)| fs::metadata(path).ok()).map(|meta| meta.len()).sum()
    }

    /// Whether the place of [`Reader::resume_at`] was come by; true if there is none.
    #[must_use]
    pub fn has_resumed(&self) -> bool {
        self.resumed.is_none_or(|(_, come_by)| come_by)
    }

    /// Leaves out what lies before `tip`, which a snapshot stands for: its segments may be gone.
    pub fn skip_to(&mut self, tip: Tip) {
        while self.segments.front().is_some_and(|(number, _)| *number < tip.segment) {
            self.segments.pop_front();
        }
        self.from = tip.cell;
    }

    /// Leaves out every segment but this one. What lies around it is neither read nor checked.
    pub fn only(&mut self, segment: u64) {
        self.segments.retain(|(number, _)| *number == segment);
    }

    /// Behind the last group that was read.
    #[must_use]
    pub fn tip(&self) -> Tip {
        Tip { chain: self.behind, ..self.tip }
    }

    /// Whose journal it is; `None` before the first segment.
    #[must_use]
    pub fn journal(&self) -> Option<[u8; 16]> {
        self.journal
    }

    /// How it ends, once [`Reader::next_group`] has returned `None`.
    #[must_use]
    pub fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// The segments read so far, the present one included.
    #[must_use]
    pub fn segments_read(&self) -> &[SegmentInfo] {
        &self.read
    }

    /// What is not part of the journal although it lies in it: writes that were torn or given up, and done again.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The next group, without cells that [`Reader::skip_to`] leaves out. `None`: see [`Reader::end`].
    ///
    /// # Errors
    /// If a file cannot be read. What is wrong in one is not an error here, but an [`End`].
    pub fn next_group(&mut self) -> Result<Option<Group>, ReadError> {
        loop {
            if self.end.is_some() {
                return Ok(None);
            }
            let Some(open) = &mut self.open else {
                if !self.open_next(None)? {
                    let end = match (self.last_kind, self.read.is_empty()) {
                        (_, true) => End::Nothing,
                        (Some(GroupKind::End), _) => End::Orderly,
                        _ => End::Open,
                    };
                    self.end.get_or_insert(end);
                    self.end_before_the_snapshot();
                }
                continue;
            };
            let offset = open.at as u64;
            let given_up = open.until.is_some_and(|until| self.tip.group >= until);
            let stop = match take_group(open, &self.tip) {
                Ok(_) if given_up => Stop::at(open, "its end was given up and written again".to_owned()),
                Ok((header, payload)) => {
                    open.at += header.len();
                    if let Some(info) = self.read.last_mut() {
                        info.used = open.at as u64;
                    }
                    self.tip.group = header.group + 1;
                    self.tip.chain = header.chain;
                    if header.kind == GroupKind::Cells {
                        self.tip.cell = header.first + u64::from(header.cells);
                    }
                    self.last_kind = Some(header.kind);
                    self.behind = header.chain;
                    if let Some((resumed, false)) = self.resumed
                        && self.tip.group >= resumed.group
                    {
                        if (self.tip.group, self.behind) != (resumed.group, resumed.chain) {
                            let what = "it is not the journal that the snapshot was made of".to_owned();
                            let file = open.path.clone();
                            self.damaged(file, offset, what);
                            return Ok(None);
                        }
                        self.resumed = Some((resumed, true));
                    }
                    return Ok(Some(self.wanted(Group { header, offset, payload })));
                }
                Err(stop) => stop,
            };
            // Whether the segment's end is in order only shows by what comes next.
            let open = self.open.take();
            let Some(open) = open else { continue };
            self.open_next(Some((open, stop)))?;
            self.end_before_the_snapshot();
        }
    }

    /// What ends before the place that it should go on behind is not whole.
    fn end_before_the_snapshot(&mut self) {
        if let (Some(end), Some((resumed, false))) = (&self.end, self.resumed)
            && !matches!(end, End::Damaged(_))
        {
            let file = self.read.last().map_or_else(PathBuf::new, |info| info.path.clone());
            let missing = resumed.group.saturating_sub(self.tip.group);
            self.damaged(file, 0, format!("it ends {missing} group(s) before its snapshot"));
        }
    }

    fn wanted(&self, mut group: Group) -> Group {
        if group.header.kind == GroupKind::Cells {
            let unwanted = self.from.saturating_sub(group.header.first).min(u64::from(group.header.cells));
            group.payload.drain(..unwanted as usize * CELL_BYTES);
            group.header.first += unwanted;
            group.header.cells -= unwanted as u32;
        }
        group
    }

    /// Opens the next segment that there is. `before`: the one that has just ended, and how. `false`: there is none.
    fn open_next(&mut self, before: Option<(OpenSegment, Stop)>) -> Result<bool, ReadError> {
        let mut unread = None;
        while let Some((number, path)) = self.segments.pop_front() {
            let bytes = fs::read(&path).map_err(|source| ReadError { path: path.clone(), source })?;
            let header = match SegmentHeader::decode(&bytes) {
                Ok(header) => header,
                // Made, and never written: its first write failed, or the machine stopped before.
                Err(HeaderFault::Empty) => continue,
                Err(fault @ HeaderFault::Version(_)) => {
                    self.damaged(path, 8, header_fault(fault));
                    return Ok(false);
                }
                // The same, in the middle of the write. If groups were in it, the next segment does not follow.
                Err(fault @ (HeaderFault::Short | HeaderFault::Damaged(_))) => {
                    let what = header_fault(fault);
                    let whole = (0..bytes.len()).step_by(64).any(|at| GroupHeader::decode(&bytes[at..]).is_ok());
                    let stop = Stop { empty: false, offset: 0, cell: 0, what };
                    if whole {
                        let what = format!("{}; whole groups follow", stop.what);
                        self.damage_at(path, &stop, what);
                        return Ok(false);
                    }
                    unread.get_or_insert((path, stop));
                    continue;
                }
            };
            if header.segment != number || self.journal.is_some_and(|journal| journal != header.journal) {
                self.damaged(path, 16, "it is another segment than its name says, or of another journal".to_owned());
                return Ok(false);
            }
            let first = self.journal.is_none() && self.resumed.is_none_or(|(_, come_by)| !come_by);
            if first && header.first_group > 0 && unread.is_none() {
                // What lies before the first segment that there is cannot be checked here.
                self.tip.group = header.first_group;
                self.behind = header.before;
            }
            let fits = (header.first_group, header.before) == (self.tip.group, self.behind);
            if !fits {
                let ended = before.map(|(ended, stop)| (ended.path, stop));
                match unread.or(ended) {
                    Some((ended, stop)) if header.first_group > self.tip.group => {
                        let missing = header.first_group - self.tip.group;
                        let what = format!("{}; {missing} group(s) are missing before {}", stop.what, path.display());
                        self.damage_at(ended, &stop, what);
                    }
                    _ => self.damaged(path, 64, "its chain does not follow on the groups before it".to_owned()),
                }
                return Ok(false);
            }
            self.tip =
                Tip { segment: number, group: header.first_group, cell: header.first_cell, chain: header.chain() };
            if let Some((ended, stop)) = &before
                && !stop.empty
            {
                let rest = ended.bytes.len() - ended.at;
                let file = ended.path.display();
                self.notes.push(format!("{file}: {rest} bytes from byte {} on do not count: {}", ended.at, stop.what));
            }
            self.journal = Some(header.journal);
            self.read.push(SegmentInfo {
                path: path.clone(),
                header,
                used: SEGMENT_HEADER as u64,
                len: bytes.len() as u64,
            });
            let until = self.next_first_group();
            self.open = Some(OpenSegment { path, bytes, at: SEGMENT_HEADER, header, until });
            return Ok(true);
        }
        if let Some((ended, stop)) = before {
            if stop.empty {
                self.end = Some(if self.last_kind == Some(GroupKind::End) { End::Orderly } else { End::Open });
            } else if goes_on(&ended, &self.tip) {
                let what = format!("{}; whole groups follow", stop.what);
                self.damage_at(ended.path, &stop, what);
            } else if self.last_kind == Some(GroupKind::End) {
                self.damage_at(ended.path, &stop, format!("{}, behind the end of the run", stop.what));
            } else {
                self.end = Some(End::Torn { file: ended.path, offset: ended.at as u64, what: stop.what });
            }
        }
        if let Some((file, stop)) = unread
            && !matches!(self.end, Some(End::Damaged(_) | End::Torn { .. }))
        {
            self.end = Some(End::Torn { file, offset: 0, what: stop.what });
        }
        Ok(false)
    }

    /// The group that the next segment begins with, if there is one that can be read.
    fn next_first_group(&self) -> Option<u64> {
        self.segments.iter().find_map(|(_, path)| header_of(path).map(|header| header.first_group))
    }

    fn damaged(&mut self, file: PathBuf, offset: u64, what: String) {
        let Tip { group, cell, .. } = self.tip;
        self.end = Some(End::Damaged(Damage { file, offset, group, cell, what }));
    }

    fn damage_at(&mut self, file: PathBuf, stop: &Stop, what: String) {
        let cell = self.tip.cell + stop.cell;
        self.end = Some(End::Damaged(Damage { file, offset: stop.offset, group: self.tip.group, cell, what }));
    }
}

/// The header of the segment at `path`; `None` if it cannot be read or is none.
#[must_use]
pub fn header_of(path: &Path) -> Option<SegmentHeader> {
    let mut bytes = [0; SEGMENT_HEADER];
    fs::File::open(path).and_then(|mut file| file.read_exact(&mut bytes)).ok()?;
    SegmentHeader::decode(&bytes).ok()
}

/// Where and why a segment's groups end.
struct Stop {
    /// Nothing but zeros from here on, or the end of the file.
    empty: bool,
    offset: u64,
    /// Cells of the group that are before the wrong one.
    cell: u64,
    what: String,
}

impl Stop {
    fn at(open: &OpenSegment, what: String) -> Stop {
        Stop { empty: false, offset: open.at as u64, cell: 0, what }
    }
}

fn take_group(open: &OpenSegment, tip: &Tip) -> Result<(GroupHeader, Vec<u8>), Stop> {
    let rest = &open.bytes[open.at.min(open.bytes.len())..];
    let stop = |what: String| Stop::at(open, what);
    let header = match GroupHeader::decode(rest) {
        Ok(header) => header,
        Err(HeaderFault::Empty) => {
            return Err(match rest.iter().position(|b| *b != 0) {
                None => Stop { empty: true, offset: open.at as u64, cell: 0, what: "nothing was written".to_owned() },
                Some(at) => {
                    let offset = (open.at + at) as u64;
                    Stop { empty: false, offset, cell: 0, what: "bytes behind the last group".to_owned() }
                }
            });
        }
        Err(fault) => return Err(stop(header_fault(fault))),
    };
    if header.segment != open.header.segment || header.group != tip.group || header.first != tip.cell {
        return Err(stop(format!("group {} of segment {} does not belong here", header.group, header.segment)));
    }
    match check_group(&tip.chain, &header, rest) {
        Ok(payload) => Ok((header, payload.to_vec())),
        Err(GroupFault::Short) => Err(stop("the file ends within the group".to_owned())),
        Err(GroupFault::Chain) => Err(stop("the group does not fit the chain".to_owned())),
        Err(GroupFault::Cell(cell)) => {
            let at = crate::journal::format::GROUP_HEADER + cell * CELL_BYTES;
            let what = format!("the check sum of record {} of its group does not fit", cell + 1);
            Err(Stop { empty: false, offset: (open.at + at) as u64, cell: cell as u64, what })
        }
    }
}

/// Whether anything behind the end of the groups is a header of a later one.
fn goes_on(ended: &OpenSegment, tip: &Tip) -> bool {
    let mut at = ended.at + 64;
    while let Some(rest) = ended.bytes.get(at..).filter(|rest| !rest.is_empty()) {
        if let Ok(header) = GroupHeader::decode(rest)
            && header.group > tip.group
            && header.segment == ended.header.segment
        {
            return true;
        }
        at += 64;
    }
    false
}

fn header_fault(fault: HeaderFault) -> String {
    match fault {
        HeaderFault::Empty => "nothing was written".to_owned(),
        HeaderFault::Short => "the file ends within a header".to_owned(),
        HeaderFault::Damaged(why) => why.to_owned(),
        HeaderFault::Version(version) => format!("version {version} of the format is not known to this program"),
    }
}

/// The checkpoint that a group is, if it is one.
#[must_use]
pub fn checkpoint_of(group: &Group) -> Option<Checkpoint> {
    match group.header.kind {
        GroupKind::Checkpoint | GroupKind::End => Checkpoint::decode(&group.payload),
        GroupKind::Cells | GroupKind::Audit => None,
    }
}
