//! The journal's files: segments of groups of 64-byte cells. Pure: bytes in, bytes out.
//!
//! ```text
//! journal/00000001.seg   a segment: header, then groups; behind the last one zeros or the end of the file
//!
//! segment header, 256 bytes                        group header, 128 bytes
//!   0  magic "HLTSEG01"                              0  magic "HLGR"
//!   8  version u32 = 1 | header bytes u32            4  version u16 = 1 | kind u16, see [`GroupKind`]
//!  16  segment u64                                   8  segment u64
//!  24  number of its first group u64                16  group u64
//!  32  number of its first cell u64                 24  number of its first cell u64 (or of the next one)
//!  40  made at u64, Unix ns                         32  payload cells u32 | payload bytes u32
//!  48  journal [u8; 16]                             40  written at u64, Unix ns
//!  64  chain before it [u8; 32]                     48  zero
//!  96  public key [u8; 32]                          64  chain [u8; 32]
//! 128  zero                                         96  zero
//! 248  CRC32C of 0..248 | zero                     120  CRC32C of 0..120 | zero
//!                                                  128  payload: cells of 64 bytes
//!                                                       CRC32C of each cell u32 …, zeros up to 64 bytes
//! ```
//!
//! Numbers are little-endian. Groups count from 0 over all segments, cells as in the ring. A record is one to a few
//! cells (see [`record`](crate::engine::record)) and never crosses a group. Each cell has a check sum of its own, so
//! that damage can be told by record; the chain makes any change, removal or reordering of bytes show:
//!
//! ```text
//! chain of a group   = BLAKE3(chain before ‖ its header's bytes 0..64 ‖ payload ‖ CRCs with their zeros)
//! chain of a segment = BLAKE3(chain before ‖ its header's bytes 0..248), which its first group begins from
//! ```
//!
//! After a write or sync that failed, the writer goes to a new segment and begins it at the first group that is not
//! known to be on disk: its header's group number and chain say so, and what the failed segment has from there on
//! does not count. The same happens when a torn group was cut at a start. Nothing is ever overwritten.

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};

use crate::engine::record::Check;
use crate::ring::cells::{CELL_BYTES, Cell, to_bytes};

/// Bytes of a segment's header.
pub const SEGMENT_HEADER: usize = 256;
/// Bytes of a group's header.
pub const GROUP_HEADER: usize = 128;
/// The version that this program writes, and the only one that it reads.
pub const VERSION: u32 = 1;
/// No group has more payload cells. A configuration of 256 MiB fits.
pub const GROUP_CELLS_MAX: u32 = 1 << 23;

const SEGMENT_MAGIC: [u8; 8] = *b"HLTSEG01";
const GROUP_MAGIC: [u8; 4] = *b"HLGR";
const SIGNED: &[u8] = b"haltline journal checkpoint 1";

/// A link of the chain.
pub type Chain = [u8; 32];

/// What a group holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum GroupKind {
    /// Records of the engine, as they were in the ring.
    Cells = 1,
    /// Control records: JSON Lines.
    Audit = 2,
    /// A signed [`Checkpoint`].
    Checkpoint = 3,
    /// A signed [`Checkpoint`], and the orderly end of a run.
    End = 4,
}

impl GroupKind {
    fn from_u16(n: u16) -> Option<GroupKind> {
        match n {
            1 => Some(GroupKind::Cells),
            2 => Some(GroupKind::Audit),
            3 => Some(GroupKind::Checkpoint),
            4 => Some(GroupKind::End),
            _ => None,
        }
    }
}

/// Where the journal has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tip {
    /// The segment that was written last; 0 before the first.
    pub segment: u64,
    /// The number of the next group.
    pub group: u64,
    /// The number of the next cell.
    pub cell: u64,
    /// The chain so far.
    pub chain: Chain,
}

impl Tip {
    /// Before anything was written.
    pub const BEGIN: Tip = Tip { segment: 0, group: 0, cell: 0, chain: [0; 32] };
}

/// The header of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Its number, from 1.
    pub segment: u64,
    /// The number of its first group.
    pub first_group: u64,
    /// The number of its first cell.
    pub first_cell: u64,
    /// When it was made, Unix ns.
    pub made: u64,
    /// Whose it is: random, made with the journal.
    pub journal: [u8; 16],
    /// The chain before it.
    pub before: Chain,
    /// What its checkpoints are signed with.
    pub key: [u8; 32],
}

/// The header of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupHeader {
    /// What it holds.
    pub kind: GroupKind,
    /// The segment that it was written to.
    pub segment: u64,
    /// Its number.
    pub group: u64,
    /// The number of its first cell; for other kinds than `Cells` of the next one.
    pub first: u64,
    /// Cells of payload.
    pub cells: u32,
    /// Bytes of payload that mean something.
    pub bytes: u32,
    /// When it was written, Unix ns.
    pub written: u64,
    /// The chain with it.
    pub chain: Chain,
}

/// Why bytes are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderFault {
    /// Nothing but zeros: nothing was written here.
    Empty,
    /// The file ends before it does.
    Short,
    /// Not what was written.
    Damaged(&'static str),
    /// Of a version that this program does not know.
    Version(u32),
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(core::array::from_fn(|i| bytes[at + i]))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(core::array::from_fn(|i| bytes[at + i]))
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    core::array::from_fn(|i| bytes[at + i])
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|b| *b == 0)
}

impl SegmentHeader {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; SEGMENT_HEADER] {
        let mut bytes = [0; SEGMENT_HEADER];
        put(&mut bytes, 0, &SEGMENT_MAGIC);
        put(&mut bytes, 8, &VERSION.to_le_bytes());
        put(&mut bytes, 12, &(SEGMENT_HEADER as u32).to_le_bytes());
        put(&mut bytes, 16, &self.segment.to_le_bytes());
        put(&mut bytes, 24, &self.first_group.to_le_bytes());
        put(&mut bytes, 32, &self.first_cell.to_le_bytes());
        put(&mut bytes, 40, &self.made.to_le_bytes());
        put(&mut bytes, 48, &self.journal);
        put(&mut bytes, 64, &self.before);
        put(&mut bytes, 96, &self.key);
        let sum = crc32c::crc32c(&bytes[..248]);
        put(&mut bytes, 248, &sum.to_le_bytes());
        bytes
    }

    /// The header at the beginning of `bytes`.
    ///
    /// # Errors
    /// See [`HeaderFault`].
    pub fn decode(bytes: &[u8]) -> Result<SegmentHeader, HeaderFault> {
        let Some(bytes) = bytes.get(..SEGMENT_HEADER) else {
            return Err(if is_zero(bytes) { HeaderFault::Empty } else { HeaderFault::Short });
        };
        if is_zero(bytes) {
            return Err(HeaderFault::Empty);
        }
        if bytes[..8] != SEGMENT_MAGIC {
            return Err(HeaderFault::Damaged("it does not begin like a segment"));
        }
        if u32_at(bytes, 248) != crc32c::crc32c(&bytes[..248]) {
            return Err(HeaderFault::Damaged("the check sum of its header does not fit"));
        }
        if u32_at(bytes, 8) != VERSION || u32_at(bytes, 12) != SEGMENT_HEADER as u32 {
            return Err(HeaderFault::Version(u32_at(bytes, 8)));
        }
        if !is_zero(&bytes[128..248]) || !is_zero(&bytes[252..]) {
            return Err(HeaderFault::Damaged("its header has bytes where there are none"));
        }
        Ok(SegmentHeader {
            segment: u64_at(bytes, 16),
            first_group: u64_at(bytes, 24),
            first_cell: u64_at(bytes, 32),
            made: u64_at(bytes, 40),
            journal: array_at(bytes, 48),
            before: array_at(bytes, 64),
            key: array_at(bytes, 96),
        })
    }

    /// The chain that its first group begins from.
    #[must_use]
    pub fn chain(&self) -> Chain {
        *blake3::Hasher::new().update(&self.before).update(&self.encode()[..248]).finalize().as_bytes()
    }
}

impl GroupHeader {
    /// The group's length with header and check sums.
    #[must_use]
    pub fn len(&self) -> usize {
        group_len(self.cells as usize)
    }

    /// Never: a group has a header.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        false
    }

    fn encode(&self) -> [u8; GROUP_HEADER] {
        let mut bytes = [0; GROUP_HEADER];
        put(&mut bytes, 0, &GROUP_MAGIC);
        put(&mut bytes, 4, &(VERSION as u16).to_le_bytes());
        put(&mut bytes, 6, &(self.kind as u16).to_le_bytes());
        put(&mut bytes, 8, &self.segment.to_le_bytes());
        put(&mut bytes, 16, &self.group.to_le_bytes());
        put(&mut bytes, 24, &self.first.to_le_bytes());
        put(&mut bytes, 32, &self.cells.to_le_bytes());
        put(&mut bytes, 36, &self.bytes.to_le_bytes());
        put(&mut bytes, 40, &self.written.to_le_bytes());
        put(&mut bytes, 64, &self.chain);
        let sum = crc32c::crc32c(&bytes[..120]);
        put(&mut bytes, 120, &sum.to_le_bytes());
        bytes
    }

    /// The header at the beginning of `bytes`. Its payload may still be wrong.
    ///
    /// # Errors
    /// See [`HeaderFault`].
    pub fn decode(bytes: &[u8]) -> Result<GroupHeader, HeaderFault> {
        let Some(bytes) = bytes.get(..GROUP_HEADER) else {
            return Err(if is_zero(bytes) { HeaderFault::Empty } else { HeaderFault::Short });
        };
        if is_zero(bytes) {
            return Err(HeaderFault::Empty);
        }
        if bytes[..4] != GROUP_MAGIC {
            return Err(HeaderFault::Damaged("no group begins here"));
        }
        if u32_at(bytes, 120) != crc32c::crc32c(&bytes[..120]) {
            return Err(HeaderFault::Damaged("the check sum of the group's header does not fit"));
        }
        let (version, kind) =
            (u32::from(bytes[4]) | u32::from(bytes[5]) << 8, u16::from_le_bytes([bytes[6], bytes[7]]));
        if version != VERSION {
            return Err(HeaderFault::Version(version));
        }
        if !is_zero(&bytes[48..64]) || !is_zero(&bytes[96..120]) || !is_zero(&bytes[124..]) {
            return Err(HeaderFault::Damaged("the group's header has bytes where there are none"));
        }
        let header = GroupHeader {
            kind: GroupKind::from_u16(kind).ok_or(HeaderFault::Damaged("the group's kind is unknown"))?,
            segment: u64_at(bytes, 8),
            group: u64_at(bytes, 16),
            first: u64_at(bytes, 24),
            cells: u32_at(bytes, 32),
            bytes: u32_at(bytes, 36),
            written: u64_at(bytes, 40),
            chain: array_at(bytes, 64),
        };
        let room = u64::from(header.cells) * CELL_BYTES as u64;
        let fits = header.cells <= GROUP_CELLS_MAX && u64::from(header.bytes) <= room;
        if fits { Ok(header) } else { Err(HeaderFault::Damaged("the group's length is impossible")) }
    }
}

/// The bytes of a group of so many cells.
#[must_use]
pub fn group_len(cells: usize) -> usize {
    GROUP_HEADER + cells * CELL_BYTES + (cells * 4).next_multiple_of(64)
}

/// Appends a group to `out` and moves `tip` behind it.
pub fn encode_group(tip: &mut Tip, kind: GroupKind, payload: &[u8], written: u64, out: &mut Vec<u8>) {
    let cells = payload.len().div_ceil(CELL_BYTES);
    let mut header = GroupHeader {
        kind,
        segment: tip.segment,
        group: tip.group,
        first: tip.cell,
        cells: cells as u32,
        bytes: payload.len() as u32,
        written,
        chain: [0; 32],
    };
    let begin = out.len();
    out.resize(begin + GROUP_HEADER, 0);
    out.extend_from_slice(payload);
    out.resize(begin + GROUP_HEADER + cells * CELL_BYTES, 0);
    for cell in 0..cells {
        let at = begin + GROUP_HEADER + cell * CELL_BYTES;
        let sum = crc32c::crc32c(&out[at..at + CELL_BYTES]);
        out.extend_from_slice(&sum.to_le_bytes());
    }
    out.resize(begin + header.len(), 0);
    header.chain = link(&tip.chain, &header, &out[begin + GROUP_HEADER..]);
    out[begin..begin + GROUP_HEADER].copy_from_slice(&header.encode());
    tip.chain = header.chain;
    tip.group += 1;
    if kind == GroupKind::Cells {
        tip.cell += cells as u64;
    }
}

/// Appends the cells of the ring as bytes.
pub fn cells_to_bytes(cells: &[Cell], out: &mut Vec<u8>) {
    for cell in cells {
        out.extend_from_slice(&to_bytes(cell));
    }
}

/// The chain with a group; `rest` is everything behind its header.
fn link(before: &Chain, header: &GroupHeader, rest: &[u8]) -> Chain {
    let bytes = GroupHeader { chain: [0; 32], ..*header }.encode();
    *blake3::Hasher::new().update(before).update(&bytes[..64]).update(rest).finalize().as_bytes()
}

/// What is wrong with a group whose header is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupFault {
    /// The file ends before it does.
    Short,
    /// The check sum of this cell of its payload does not fit.
    Cell(usize),
    /// Everything fits but the chain: it does not follow on what lies before it.
    Chain,
}

/// Checks a group, `bytes` from its header on, that follows on `before`. Returns its payload.
///
/// # Errors
/// See [`GroupFault`].
pub fn check_group<'a>(before: &Chain, header: &GroupHeader, bytes: &'a [u8]) -> Result<&'a [u8], GroupFault> {
    let rest = bytes.get(GROUP_HEADER..header.len()).ok_or(GroupFault::Short)?;
    if link(before, header, rest) == header.chain {
        return Ok(&rest[..header.bytes as usize]);
    }
    // Which record it is matters only now.
    let cells = header.cells as usize;
    let (payload, sums) = rest.split_at(cells * CELL_BYTES);
    let bad = (0..cells).find(|c| crc32c::crc32c(&payload[c * CELL_BYTES..][..CELL_BYTES]) != u32_at(sums, c * 4));
    Err(bad.map_or(GroupFault::Chain, GroupFault::Cell))
}

/// What is signed: how far the journal has come, and what a replay has to come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The chain before it.
    pub chain: Chain,
    /// Its group's number.
    pub group: u64,
    /// The number of the next cell.
    pub cell: u64,
    /// When, Unix ns.
    pub at: u64,
    /// The engine's last check before it.
    pub check: Check,
}

/// Bytes of a checkpoint's payload.
pub const CHECKPOINT_BYTES: usize = 192;

impl Checkpoint {
    /// Its payload, signed.
    #[must_use]
    pub fn encode(&self, journal: &[u8; 16], key: &SigningKey) -> [u8; CHECKPOINT_BYTES] {
        let mut bytes = [0; CHECKPOINT_BYTES];
        put(&mut bytes, 0, &self.chain);
        let words = [self.group, self.cell, self.at, self.check.hash[0], self.check.hash[1]];
        for (i, word) in words.into_iter().chain([self.check.events, self.check.effects]).enumerate() {
            put(&mut bytes, 32 + i * 8, &word.to_le_bytes());
        }
        let signature = key.sign(&Checkpoint::signed(journal, &bytes[..128]));
        put(&mut bytes, 128, &signature.to_bytes());
        bytes
    }

    fn signed(journal: &[u8; 16], bytes: &[u8]) -> Vec<u8> {
        [SIGNED, journal, bytes].concat()
    }

    /// The checkpoint in `payload`; `None` if it has another length.
    #[must_use]
    pub fn decode(payload: &[u8]) -> Option<Checkpoint> {
        let bytes: &[u8; CHECKPOINT_BYTES] = payload.try_into().ok()?;
        let word = |n: usize| u64_at(bytes, 32 + n * 8);
        let check = Check { hash: [word(3), word(4)], events: word(5), effects: word(6) };
        Some(Checkpoint { chain: array_at(bytes, 0), group: word(0), cell: word(1), at: word(2), check })
    }

    /// Whether `payload` is signed by `key` for this journal.
    #[must_use]
    pub fn is_signed(payload: &[u8], journal: &[u8; 16], key: &VerifyingKey) -> bool {
        let Ok(bytes) = <&[u8; CHECKPOINT_BYTES]>::try_from(payload) else { return false };
        let signature = Signature::from_bytes(&array_at(bytes, 128));
        key.verify_strict(&Checkpoint::signed(journal, &bytes[..128]), &signature).is_ok()
    }
}
