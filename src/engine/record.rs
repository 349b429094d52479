//! HOT: no I/O, lock, allocation, logging, formatting, clock or syscall; every loop bounded.
//!
//! What the engine writes down of its inputs: the cells of the journal, and [`Recorder`], which puts them into the
//! ring *before* the effects of the step that they describe leave the engine.
//!
//! # Cells
//!
//! ```text
//! word 0, low byte    the other bytes of word 0      words 1 …
//!  1 … 19  event      the event as it lies in memory, 64 bytes (see `Event`)
//! 0x81  time          –                              mono, unix: the reading that the inputs behind it are taken at
//! 0x82  tick          –                              mono, unix: time alone moved something; a reading as well
//! 0x83  mode          1 scope kind, 2 mode           scope ids (a | b << 32), epoch
//! 0x84  new day       –                              –
//! 0x85  behind        1: 1 begins, 0 ends            –
//! 0x86  check         –                              state hash (2 words), events, effects
//! 0x87  blob          1 kind                         length in bytes; its bytes in the cells behind, zero-filled
//! 0x89  sweep         –                              mono, unix: a step of the cancels after a halt; a reading as well
//! 0x88  name          1 which, 2 length, 4-5 session number, text[0..48]; text[48..64] in a second cell if longer
//! ```
//!
//! A record is one such cell with the cells that belong to it. Everything that can change a decision is one, in the
//! order in which the engine used it; a tick that moved nothing is none.

use std::sync::Arc;

use crate::engine::durability::Durability;
use crate::model::cancel::{Instruct, Instruction};
use crate::model::effect::Denial;
use crate::model::save::{BadSave, In, Out, Value, saved_enum, saved_value};
use crate::model::{Effect, Event, EventKind, Mode, OrdType, Scope, Side};
use crate::ring::cells::{CELL_BYTES, Cell, CellWriter};
use crate::units::{AccountId, InstrumentId, MonoNanos, Now, OrdId, Px, Qty, SessionId, StrategyId, UnixNanos};

/// First byte of the cell of the last kind of event.
const LAST_EVENT: u64 = EventKind::ALL.len() as u64;

/// First byte of cells that are not events.
mod tag {
    pub const TIME: u64 = 0x81;
    pub const TICK: u64 = 0x82;
    pub const MODE: u64 = 0x83;
    pub const NEW_DAY: u64 = 0x84;
    pub const BEHIND: u64 = 0x85;
    pub const CHECK: u64 = 0x86;
    pub const BLOB: u64 = 0x87;
    pub const NAME: u64 = 0x88;
    pub const SWEEP: u64 = 0x89;
}

/// What the bytes of a blob are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum BlobKind {
    /// A run begins; JSON, see [`journal::run`](crate::journal::run).
    Start = 1,
    /// The text of a configuration whose limits are in force from here on.
    Limits = 2,
}

impl BlobKind {
    fn from_u8(n: u8) -> Option<BlobKind> {
        match n {
            1 => Some(BlobKind::Start),
            2 => Some(BlobKind::Limits),
            _ => None,
        }
    }
}

/// What kind of id a text stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum NameOf {
    /// A client order id.
    Order = 0,
    /// An execution id.
    Exec = 1,
}

/// A text id that the edge gave a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name {
    /// The session in which it means something.
    pub session: SessionId,
    /// Of what.
    pub of: NameOf,
    /// Its number.
    pub number: u64,
    len: u8,
    bytes: [u8; Name::BYTES_MAX],
}

impl Name {
    /// The longest text.
    pub const BYTES_MAX: usize = 64;
    /// The most cells of one.
    pub const CELLS_MAX: u64 = 2;
    const IN_FIRST: usize = 48;

    /// The name `text`; `None` if it is too long.
    #[must_use]
    pub fn new(session: SessionId, of: NameOf, number: u64, text: &str) -> Option<Name> {
        let mut bytes = [0; Name::BYTES_MAX];
        bytes.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
        Some(Name { session, of, number, len: text.len() as u8, bytes })
    }

    /// The text.
    #[must_use]
    pub fn text(&self) -> &str {
        core::str::from_utf8(self.bytes.get(..usize::from(self.len)).unwrap_or(&[])).unwrap_or("")
    }

    fn word(&self, at: usize) -> u64 {
        u64::from_le_bytes(core::array::from_fn(|i| self.bytes[at + i]))
    }
}

saved_enum!(NameOf { Order = 0, Exec = 1 });
saved_value!(Name { session, of, number, len, bytes });

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// The reading that the inputs behind it are taken at.
    Time(Now),
    /// An event was stepped.
    Event(Event),
    /// Time alone moved something.
    Tick(Now),
    /// [`Command::Mode`](crate::engine::Command::Mode).
    Mode {
        /// Which scope.
        scope: Scope,
        /// Its mode now.
        mode: Mode,
        /// The epoch at which it got it.
        epoch: u64,
    },
    /// [`Command::NewDay`](crate::engine::Command::NewDay).
    NewDay,
    /// [`Command::Behind`](crate::engine::Command::Behind).
    Behind(bool),
    /// What replaying everything before it must lead to.
    Check(Check),
    /// The round of cancels took a step that moved something.
    Sweep(Now),
    /// Bytes.
    Blob(BlobKind, &'a [u8]),
    /// A text id got a number.
    Name(Name),
}

/// Why cells are not a record. The cells carry a check sum, so this is a version that we do not know, or our own bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotARecord {
    /// Word 0 of the first cell.
    pub word: u64,
}

/// What a replay is compared with: see [`Digest`] and [`Engine::state_hash`](crate::engine::core::Engine::state_hash).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Check {
    /// Of all effects so far, and of the state.
    pub hash: [u64; 2],
    /// Events so far.
    pub events: u64,
    /// Effects so far.
    pub effects: u64,
}

/// How many cells the record that begins with `first` has.
///
/// # Errors
/// [`NotARecord`] if none begins so.
pub fn cells_of(first: &Cell) -> Result<u64, NotARecord> {
    let behind = |bytes: u64| bytes.div_ceil(CELL_BYTES as u64);
    match first[0] & 0xff {
        1..=LAST_EVENT | tag::TIME..=tag::CHECK | tag::SWEEP => Ok(1),
        tag::BLOB if first[1] <= BLOB_BYTES_MAX => Ok(1 + behind(first[1])),
        tag::NAME => Ok(1 + u64::from(first[0] >> 16 & 0xff > Name::IN_FIRST as u64)),
        _ => Err(NotARecord { word: first[0] }),
    }
}

/// No blob is longer: a configuration of a million lines would fit.
pub const BLOB_BYTES_MAX: u64 = 1 << 28;

/// The record in `cells`, which are as many as [`cells_of`] said; `bytes` is where a blob's are put.
///
/// # Errors
/// [`NotARecord`].
pub fn decode<'a>(cells: &[Cell], bytes: &'a mut Vec<u8>) -> Result<Record<'a>, NotARecord> {
    let Some(first) = cells.first() else { return Err(NotARecord { word: 0 }) };
    let bad = NotARecord { word: first[0] };
    let byte = |n: u64| (first[0] >> (8 * n)) as u8;
    let now = Now { mono: MonoNanos(first[1]), unix: UnixNanos(first[2]) };
    match first[0] & 0xff {
        1..=LAST_EVENT => event_of(first).map(Record::Event).ok_or(bad),
        tag::TIME => Ok(Record::Time(now)),
        tag::TICK => Ok(Record::Tick(now)),
        tag::SWEEP => Ok(Record::Sweep(now)),
        tag::MODE => {
            let scope = scope_of(byte(1), first[1]).ok_or(bad)?;
            if byte(2) > Mode::Halted as u8 {
                return Err(bad);
            }
            Ok(Record::Mode { scope, mode: Mode::from_u8(byte(2)), epoch: first[2] })
        }
        tag::NEW_DAY => Ok(Record::NewDay),
        tag::BEHIND => Ok(Record::Behind(byte(1) != 0)),
        tag::CHECK => Ok(Record::Check(Check { hash: [first[1], first[2]], events: first[3], effects: first[4] })),
        tag::BLOB => {
            let kind = BlobKind::from_u8(byte(1)).ok_or(bad)?;
            let len = usize::try_from(first[1]).map_err(|_| bad)?;
            bytes.clear();
            for word in cells[1..].iter().flatten() {
                bytes.extend_from_slice(&word.to_le_bytes());
            }
            Ok(Record::Blob(kind, bytes.get(..len).ok_or(bad)?))
        }
        tag::NAME => {
            let of = match byte(1) {
                0 => NameOf::Order,
                1 => NameOf::Exec,
                _ => return Err(bad),
            };
            let mut text = [0u8; Name::BYTES_MAX];
            let words = first[2..].iter().chain(cells.get(1).map_or(&[][..], |second| &second[..2]));
            for (word, place) in words.zip(text.chunks_exact_mut(8)) {
                place.copy_from_slice(&word.to_le_bytes());
            }
            let session = SessionId((first[0] >> 32) as u16);
            let name = Name { session, of, number: first[1], len: byte(2), bytes: text };
            (usize::from(name.len) <= Name::BYTES_MAX).then_some(Record::Name(name)).ok_or(bad)
        }
        _ => Err(bad),
    }
}

/// The cell of an event.
#[inline]
#[must_use]
pub fn event_cell(e: &Event) -> Cell {
    [
        e.kind as u64
            | (e.side as u64) << 8
            | (e.ord_type as u64) << 16
            | u64::from(e.flags) << 24
            | u64::from(e.session.0) << 32
            | u64::from(e.account.0) << 48,
        u64::from(e.strategy.0) | u64::from(e.reserved) << 16 | u64::from(e.instrument.0) << 32,
        e.seq,
        e.sent_at.0,
        e.id.0,
        e.ref_id,
        e.qty.0 as u64,
        e.px.0 as u64,
    ]
}

#[inline]
fn event_of(cell: &Cell) -> Option<Event> {
    let w = cell[0];
    Some(Event {
        kind: EventKind::from_u8(w as u8)?,
        side: Side::from_u8((w >> 8) as u8)?,
        ord_type: OrdType::from_u8((w >> 16) as u8)?,
        flags: (w >> 24) as u8,
        session: SessionId((w >> 32) as u16),
        account: AccountId((w >> 48) as u16),
        strategy: StrategyId(cell[1] as u16),
        reserved: (cell[1] >> 16) as u16,
        instrument: InstrumentId((cell[1] >> 32) as u32),
        seq: cell[2],
        sent_at: UnixNanos(cell[3]),
        id: OrdId(cell[4]),
        ref_id: cell[5],
        qty: Qty(cell[6] as i64),
        px: Px(cell[7] as i64),
    })
}

/// Kind and ids of a scope, as words.
fn scope_words(scope: Scope) -> (u64, u64) {
    let ids = match scope {
        Scope::Firm => 0,
        Scope::Account(a) => u64::from(a.0),
        Scope::Strategy(s) => u64::from(s.0),
        Scope::Pair(s, i) => u64::from(s.0) | u64::from(i.0) << 32,
        Scope::Instrument(i) => u64::from(i.0),
        Scope::Session(s) => u64::from(s.0),
    };
    (scope.kind() as u64, ids)
}

fn scope_of(kind: u8, ids: u64) -> Option<Scope> {
    let (low, high) = (ids as u32, (ids >> 32) as u32);
    let small = u16::try_from(low).ok();
    match kind {
        0 => Some(Scope::Firm),
        1 => Some(Scope::Account(AccountId(small?))),
        2 => Some(Scope::Strategy(StrategyId(small?))),
        3 => Some(Scope::Pair(StrategyId(small?), InstrumentId(high))),
        4 => Some(Scope::Instrument(InstrumentId(low))),
        5 => Some(Scope::Session(SessionId(small?))),
        _ => None,
    }
}

/// An effect as words: the same effect has the same words on every machine. Returns how many of them count.
#[inline]
#[must_use]
pub fn effect_words(effect: &Effect) -> ([u64; 8], usize) {
    let denial_words = |at: &Denial| {
        let (kind, ids) = scope_words(at.scope);
        (at.rule as u64 | (at.why as u64) << 8 | kind << 16, ids, at.observed as u64, at.limit as u64)
    };
    match effect {
        Effect::Verdict(v) => {
            let head = 1 | (v.kind as u64) << 8 | u64::from(v.session.0) << 16;
            match &v.denial {
                None => ([head, v.seq, v.id.0, v.checks, 0, 0, 0, 0], 4),
                Some(denial) => {
                    let (what, ids, observed, limit) = denial_words(denial);
                    ([head | (what | 1 << 31) << 32, v.seq, v.id.0, v.checks, ids, observed, limit, 0], 7)
                }
            }
        }
        Effect::Applied { session, seq } => ([2 | u64::from(session.0) << 16, *seq, 0, 0, 0, 0, 0, 0], 2),
        Effect::Resend { session, from } => ([3 | u64::from(session.0) << 16, *from, 0, 0, 0, 0, 0, 0], 2),
        Effect::Trip(trip) => {
            let (kind, ids) = scope_words(trip.scope);
            let (what, at, observed, limit) = denial_words(&trip.cause);
            let head = 4 | (trip.mode as u64) << 8 | u64::from(trip.session.0) << 16 | kind << 32 | what << 40;
            ([head, ids, at, observed, limit, trip.seq, 0, 0], 6)
        }
        Effect::Warn(warn) => {
            let (what, ids, observed, limit) = denial_words(&warn.at);
            ([5 | u64::from(warn.percent) << 8 | what << 32, ids, observed, limit, 0, 0, 0, 0], 4)
        }
        Effect::Anomaly(a) => {
            let head = 6 | (a.kind as u64) << 8 | u64::from(a.session.0) << 16;
            ([head, a.seq, a.id, a.detail as u64, 0, 0, 0, 0], 4)
        }
        Effect::Instruct(Instruction { to, scope, what }) => {
            let (kind, ids) = scope_words(*scope);
            let head = 9 | u64::from(to.0) << 16 | kind << 32;
            match what {
                Instruct::Cancel { of, id, attempt } => {
                    ([head | 1 << 8 | u64::from(*attempt) << 40 | u64::from(of.0) << 48, ids, id.0, 0, 0, 0, 0, 0], 3)
                }
                Instruct::MassCancel => ([head | 2 << 8, ids, 0, 0, 0, 0, 0, 0], 2),
                Instruct::Disconnect => ([head | 3 << 8, ids, 0, 0, 0, 0, 0, 0], 2),
            }
        }
        Effect::OrderForgotten { session, id } => ([7 | u64::from(session.0) << 16, id.0, 0, 0, 0, 0, 0, 0], 2),
        Effect::ExecForgotten { session, id } => ([8 | u64::from(session.0) << 16, id.0, 0, 0, 0, 0, 0, 0], 2),
    }
}

/// A running digest: not against forgery (the journal's chain is), but no difference between two replays passes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest([u64; 2]);

impl Default for Digest {
    fn default() -> Self {
        Digest([0x243F_6A88_85A3_08D3, 0x1319_8A2E_0370_7344])
    }
}

impl Digest {
    /// Takes one word in.
    #[inline]
    pub fn word(&mut self, word: u64) {
        // Multiplied in full, and folded: every bit of the word reaches both halves.
        let wide = u128::from(self.0[0] ^ word) * u128::from(0x9E37_79B9_7F4A_7C15u64);
        let (low, high) = (wide as u64, (wide >> 64) as u64);
        self.0[1] = self.0[1].rotate_left(23) ^ high;
        self.0[0] = low ^ self.0[1];
    }

    /// Takes effects in.
    #[inline]
    pub fn effects(&mut self, effects: &[Effect]) {
        for effect in effects {
            let (words, count) = effect_words(effect);
            for word in &words[..count] {
                self.word(*word);
            }
        }
    }

    /// The value.
    #[must_use]
    pub const fn value(self) -> [u64; 2] {
        self.0
    }
}

impl Value for Digest {
    fn save(&self, out: &mut Out<'_>) {
        let Digest(halves) = self;
        halves.save(out);
    }

    fn load(input: &mut In<'_>) -> Result<Digest, BadSave> {
        Value::load(input).map(Digest)
    }
}

/// What has been counted and digested since the journal began; the same live and in a replay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Of all effects.
    pub digest: Digest,
    /// Events stepped.
    pub events: u64,
    /// Effects.
    pub effects: u64,
}

saved_value!(Progress { digest, events, effects });

impl Progress {
    /// Takes the effects of one step in.
    #[inline]
    pub fn add(&mut self, effects: &[Effect]) {
        self.digest.effects(effects);
        self.effects += effects.len() as u64;
    }

    /// The check that belongs here, with the engine's own hash.
    #[must_use]
    pub fn check(&self, state: [u64; 2]) -> Check {
        let mut digest = self.digest;
        digest.word(state[0]);
        digest.word(state[1]);
        Check { hash: digest.value(), events: self.events, effects: self.effects }
    }
}

/// The engine's end of the journal.
pub struct Recorder {
    ring: CellWriter,
    durability: Arc<Durability>,
    /// What was last written as the time; `None` before the first.
    told: Option<Now>,
    progress: Progress,
    last_check: MonoNanos,
    /// [`Progress::events`] and `effects` at the last check.
    checked: Progress,
    /// Cells kept free for what is not an event.
    reserve: u64,
}

/// How often a check is recorded while anything is.
const CHECK_NS: u64 = 1_000_000_000;
/// The most cells of one event with the reading before it and its two names.
const CELLS_PER_EVENT: u64 = 2 + 2 * Name::CELLS_MAX;

impl Recorder {
    /// A recorder that writes on where `progress` is the journal's. `scopes` bounds how many modes one round can bring.
    #[must_use]
    pub fn new(ring: CellWriter, durability: Arc<Durability>, progress: Progress, scopes: usize) -> Recorder {
        let reserve = Recorder::reserve(scopes);
        Recorder { ring, durability, told: None, progress, last_check: MonoNanos(0), checked: progress, reserve }
    }

    /// Cells that are kept free for what is not an event, with so many scopes. A ring holds at least four times as many.
    #[must_use]
    pub const fn reserve(scopes: usize) -> u64 {
        2 * scopes as u64 + 1024
    }

    /// How many events can be recorded now, the reserve left alone.
    #[inline]
    pub fn events_fit(&mut self) -> usize {
        (self.ring.room().saturating_sub(self.reserve) / CELLS_PER_EVENT) as usize
    }

    /// Whether `cells` cells and a reading fit, half the reserve left alone (a halt page that changed fits in that).
    #[inline]
    pub fn fits(&mut self, cells: u64) -> bool {
        self.ring.room() > self.reserve / 2 + cells + 1
    }

    /// Whether every mode of the page fits.
    #[inline]
    pub fn page_fits(&mut self) -> bool {
        self.ring.room() > self.reserve - 512
    }

    /// The cells of a blob of so many bytes.
    #[must_use]
    pub const fn blob_cells(bytes: usize) -> u64 {
        1 + (bytes as u64).div_ceil(CELL_BYTES as u64)
    }

    #[inline]
    fn put(&mut self, cell: &Cell) {
        let put = self.ring.push(cell);
        // Whoever records has asked for the room.
        debug_assert!(put);
        if !put {
            self.durability.lost.add(1);
        }
    }

    /// The reading that what is recorded next is taken at.
    #[inline]
    pub fn time(&mut self, now: Now) {
        if self.told != Some(now) {
            self.told = Some(now);
            self.put(&[tag::TIME, now.mono.0, now.unix.0, 0, 0, 0, 0, 0]);
        }
    }

    /// An event that is about to be stepped, or was just.
    #[inline]
    pub fn event(&mut self, now: Now, event: &Event) {
        self.time(now);
        self.progress.events += 1;
        self.put(&event_cell(event));
    }

    /// A mode that reached the engine.
    pub fn mode(&mut self, now: Now, scope: Scope, mode: Mode, epoch: u64) {
        self.time(now);
        let (kind, ids) = scope_words(scope);
        self.put(&[tag::MODE | kind << 8 | (mode as u64) << 16, ids, epoch, 0, 0, 0, 0, 0]);
    }

    /// A tick that moved something.
    pub fn tick(&mut self, now: Now) {
        self.told = Some(now);
        self.put(&[tag::TICK, now.mono.0, now.unix.0, 0, 0, 0, 0, 0]);
    }

    /// A step of the round of cancels that moved something.
    pub fn sweep(&mut self, now: Now) {
        self.told = Some(now);
        self.put(&[tag::SWEEP, now.mono.0, now.unix.0, 0, 0, 0, 0, 0]);
    }

    /// A new day.
    pub fn new_day(&mut self, now: Now) {
        self.time(now);
        self.put(&[tag::NEW_DAY, 0, 0, 0, 0, 0, 0, 0]);
    }

    /// The journal falls behind, or no longer.
    pub fn behind(&mut self, now: Now, behind: bool) {
        self.time(now);
        self.put(&[tag::BEHIND | u64::from(behind) << 8, 0, 0, 0, 0, 0, 0, 0]);
    }

    /// A text got a number.
    pub fn name(&mut self, name: &Name) {
        let head = tag::NAME | (name.of as u64) << 8 | u64::from(name.len) << 16 | u64::from(name.session.0) << 32;
        let mut cell = [head, name.number, 0, 0, 0, 0, 0, 0];
        for (i, word) in cell[2..].iter_mut().enumerate() {
            *word = name.word(i * 8);
        }
        self.put(&cell);
        if usize::from(name.len) > Name::IN_FIRST {
            let (a, b) = (name.word(Name::IN_FIRST), name.word(Name::IN_FIRST + 8));
            self.put(&[a, b, 0, 0, 0, 0, 0, 0]);
        }
    }

    /// Bytes: the caller has asked whether they fit.
    pub fn blob(&mut self, now: Now, kind: BlobKind, bytes: &[u8]) {
        self.time(now);
        self.put(&[tag::BLOB | (kind as u64) << 8, bytes.len() as u64, 0, 0, 0, 0, 0, 0]);
        for chunk in bytes.chunks(CELL_BYTES) {
            let mut whole = [0u8; CELL_BYTES];
            whole[..chunk.len()].copy_from_slice(chunk);
            self.put(&crate::ring::cells::from_bytes(&whole));
        }
    }

    /// Takes the effects of what was recorded last into the digest, and lets everything recorded be seen. From here on
    /// the effects may leave.
    #[inline]
    pub fn publish(&mut self, effects: &[Effect]) {
        self.progress.add(effects);
        self.ring.publish();
    }

    /// Whether it is time for a check.
    #[must_use]
    pub fn check_is_due(&self, now: Now) -> bool {
        self.progress != self.checked && now.mono.since(self.last_check) >= CHECK_NS
    }

    /// Records a check with the engine's hash.
    pub fn check(&mut self, now: Now, state: [u64; 2]) {
        self.last_check = now.mono;
        self.checked = self.progress;
        let check = self.progress.check(state);
        self.put(&[tag::CHECK, check.hash[0], check.hash[1], check.events, check.effects, 0, 0, 0]);
        self.ring.publish();
    }

    /// The number of the next cell: what was recorded so far lies before it.
    #[inline]
    #[must_use]
    pub fn position(&self) -> u64 {
        self.ring.next()
    }

    /// Cells in the ring that are not on disk.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.ring.next() - self.ring.tail()
    }

    /// Whether what lies before `position` survives a power loss.
    #[inline]
    #[must_use]
    pub fn is_durable(&self, position: u64) -> bool {
        self.durability.synced() >= position
    }

    /// What the writer says of itself.
    #[must_use]
    pub fn durability(&self) -> &Durability {
        &self.durability
    }
}
