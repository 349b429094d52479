//! HOT: no I/O, lock, allocation, logging, formatting, clock or syscall, and no panic on any bytes.
//!
//! Events and verdicts as the eight words of a [lane](crate::ring::lane), the same for Rust, C and C++.
//!
//! ```text
//! event      0  kind u8 | side u8 | ord_type u8 | flags u8 | check u16 | account u16
//!            8  strategy u16 | check u16 | instrument u32
//!           16  position u64         the lane's stamp; with the stream's base it makes the sequence
//!           24  sent_at u64          sender's clock, ns since the Unix epoch; 0: not said
//!           32  id u64 | 40 ref_id u64 | 48 qty i64 | 56 px i64      as in `Event`
//!
//! verdict    0  kind u8 | denied u8 | rule u8 | why u8 | check u16 | scope kind u8 | 0 u8
//!            8  scope's strategy u16 | check u16 | scope's index u32
//!           16  position u64
//!           24  seq u64              of the request
//!           32  id u64 | 40 observed i64 | 48 limit i64 | 56 checks u64
//!
//! instruction, between verdicts
//!            0  kind u8 (32 cancel, 33 mass cancel, 34 disconnect) | attempt u8 | 0 u16 | check u16 | scope kind u8 | 0 u8
//!            8  scope's strategy u16 | check u16 | scope's index u32
//!           16  position u64
//!           32  id u64 | 40 session that the order is of u64       of a cancel; else 0
//! ```
//!
//! Numbers are little-endian, as is every machine that this runs on. Account, kinds, rules and reasons have the numbers of their
//! enums, which never change meaning. A pair's index is the instrument's, with the strategy beside it.

use crate::model::cancel::{Instruct, Instruction};
use crate::model::effect::Denial;
use crate::model::event::{Event, EventKind, OrdType, Side};
use crate::model::rule::{Rule, Why};
use crate::model::scope::{Scope, ScopeKind};
use crate::units::{AccountId, InstrumentId, OrdId, Px, Qty, SessionId, StrategyId, UnixNanos};

/// A field of a record that says nothing that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadField {
    /// Which.
    pub field: &'static str,
    /// What it holds.
    pub value: u64,
}

const fn byte(word: u64, at: u32) -> u8 {
    (word >> (8 * at)) as u8
}

const fn short(word: u64, at: u32) -> u16 {
    (word >> (8 * at)) as u16
}

impl Event {
    /// The words of this event; its session is the lane's, its sequence the position's.
    #[must_use]
    pub const fn to_record(&self) -> [u64; 8] {
        [
            self.kind as u64
                | (self.side as u64) << 8
                | (self.ord_type as u64) << 16
                | (self.flags as u64) << 24
                | (self.account.0 as u64) << 48,
            self.strategy.0 as u64 | (self.instrument.0 as u64) << 32,
            0,
            self.sent_at.0,
            self.id.0,
            self.ref_id,
            self.qty.0 as u64,
            self.px.0 as u64,
        ]
    }

    /// The event of `record`, which came in on `session`'s lane and is number `seq` of its stream.
    ///
    /// A side or order type that does not exist makes it [`Event::MALFORMED`]: the event keeps its place in the stream.
    ///
    /// # Errors
    /// If the kind does not exist, or a flag is set that no sender may set: nothing can be made of such a record.
    pub fn from_record(record: &[u64; 8], session: SessionId, seq: u64) -> Result<Event, BadField> {
        let w = record;
        let Some(kind) = EventKind::from_u8(byte(w[0], 0)) else {
            return Err(BadField { field: "kind", value: byte(w[0], 0).into() });
        };
        let mut flags = byte(w[0], 3);
        if flags & !Event::MALFORMED != 0 {
            return Err(BadField { field: "flags", value: flags.into() });
        }
        let (side, ord_type) = (Side::from_u8(byte(w[0], 1)), OrdType::from_u8(byte(w[0], 2)));
        if side.is_none() || ord_type.is_none() {
            flags |= Event::MALFORMED;
        }
        Ok(Event {
            kind,
            side: side.unwrap_or_default(),
            ord_type: ord_type.unwrap_or_default(),
            flags,
            session,
            account: AccountId(short(w[0], 6)),
            strategy: StrategyId(short(w[1], 0)),
            reserved: 0,
            instrument: InstrumentId((w[1] >> 32) as u32),
            seq,
            sent_at: UnixNanos(w[3]),
            id: OrdId(w[4]),
            ref_id: w[5],
            qty: Qty(w[6] as i64),
            px: Px(w[7] as i64),
        })
    }
}

/// A verdict as it goes through a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerdictRecord {
    /// The request's sequence.
    pub seq: u64,
    /// Its id.
    pub id: OrdId,
    /// Which request.
    pub kind: EventKind,
    /// `None`: admitted.
    pub denial: Option<Denial>,
    /// One bit per [`Rule`]: the checks that ran.
    pub checks: u64,
}

/// The check that stands for those of what adds risk: it is looked at for every order that does not reduce, and for no other.
pub const RISK_CHECK: u64 = 1 << Rule::PositionLong as u64;

impl VerdictRecord {
    /// Whether haltline found the order to reduce. Only such an order may pass in reduce-only, whatever the mode was when it
    /// was decided.
    #[inline]
    #[must_use]
    pub const fn reduces(&self) -> bool {
        self.checks & RISK_CHECK == 0
    }

    /// Its words.
    #[must_use]
    pub fn to_record(&self) -> [u64; 8] {
        let head = u64::from(self.kind as u8);
        let Some(denial) = self.denial else {
            return [head, 0, 0, self.seq, self.id.0, 0, 0, self.checks];
        };
        let (scope_kind, scope) = scope_words(denial.scope);
        [
            head | 1 << 8 | u64::from(denial.rule as u8) << 16 | u64::from(denial.why as u8) << 24 | scope_kind,
            scope,
            0,
            self.seq,
            self.id.0,
            denial.observed as u64,
            denial.limit as u64,
            self.checks,
        ]
    }

    /// The verdict of `record`.
    ///
    /// # Errors
    /// If a field says nothing that exists: the reader takes it as a denial.
    pub fn from_record(record: &[u64; 8]) -> Result<VerdictRecord, BadField> {
        let w = record;
        let bad = |field, value: u8| BadField { field, value: value.into() };
        let kind = EventKind::from_u8(byte(w[0], 0)).ok_or(bad("kind", byte(w[0], 0)))?;
        let denial = match byte(w[0], 1) {
            0 => None,
            1 => {
                let rule = Rule::ALL.get(usize::from(byte(w[0], 2))).copied().ok_or(bad("rule", byte(w[0], 2)))?;
                let why = Why::ALL.get(usize::from(byte(w[0], 3))).copied().ok_or(bad("why", byte(w[0], 3)))?;
                let scope = scope_of(w)?;
                Some(Denial { rule, why, scope, observed: w[5] as i64, limit: w[6] as i64 })
            }
            n => return Err(bad("denied", n)),
        };
        Ok(VerdictRecord { seq: w[3], id: OrdId(w[4]), kind, denial, checks: w[7] })
    }
}

/// The kind of a scope where it stands in word 0, and word 1.
fn scope_words(scope: Scope) -> (u64, u64) {
    let (strategy, index) = match scope {
        Scope::Firm => (0, 0),
        Scope::Account(a) => (0, u64::from(a.0)),
        Scope::Strategy(s) => (0, u64::from(s.0)),
        Scope::Pair(s, i) => (u64::from(s.0), u64::from(i.0)),
        Scope::Instrument(i) => (0, u64::from(i.0)),
        Scope::Session(s) => (0, u64::from(s.0)),
    };
    (u64::from(scope.kind() as u8) << 48, strategy | index << 32)
}

fn scope_of(w: &[u64; 8]) -> Result<Scope, BadField> {
    let (strategy, index) = (StrategyId(short(w[1], 0)), (w[1] >> 32) as u32);
    Ok(match byte(w[0], 6) {
        n if n == ScopeKind::Firm as u8 => Scope::Firm,
        n if n == ScopeKind::Account as u8 => Scope::Account(AccountId(index as u16)),
        n if n == ScopeKind::Strategy as u8 => Scope::Strategy(StrategyId(index as u16)),
        n if n == ScopeKind::Pair as u8 => Scope::Pair(strategy, InstrumentId(index)),
        n if n == ScopeKind::Instrument as u8 => Scope::Instrument(InstrumentId(index)),
        n if n == ScopeKind::Session as u8 => Scope::Session(SessionId(index as u16)),
        n => return Err(BadField { field: "scope", value: n.into() }),
    })
}

const CANCEL: u8 = 32;
const MASS_CANCEL: u8 = 33;
const DISCONNECT: u8 = 34;

impl Instruction {
    /// Its words; who is told is the lane's.
    #[must_use]
    pub fn to_record(&self) -> [u64; 8] {
        let (scope_kind, scope) = scope_words(self.scope);
        let (kind, attempt, id, of) = match self.what {
            Instruct::Cancel { of, id, attempt } => (CANCEL, attempt, id.0, u64::from(of.0)),
            Instruct::MassCancel => (MASS_CANCEL, 0, 0, 0),
            Instruct::Disconnect => (DISCONNECT, 0, 0, 0),
        };
        [u64::from(kind) | u64::from(attempt) << 8 | scope_kind, scope, 0, 0, id, of, 0, 0]
    }

    /// Whether `record` is an instruction and not a verdict.
    #[must_use]
    pub const fn is_record(record: &[u64; 8]) -> bool {
        Instruction::is_kind(byte(record[0], 0))
    }

    /// Whether a record whose first byte is `kind` is an instruction.
    #[must_use]
    pub const fn is_kind(kind: u8) -> bool {
        matches!(kind, CANCEL..=DISCONNECT)
    }

    /// The instruction of `record`, which came on `to`'s lane.
    ///
    /// # Errors
    /// If a field says nothing that exists.
    pub fn from_record(record: &[u64; 8], to: SessionId) -> Result<Instruction, BadField> {
        let w = record;
        let what = match byte(w[0], 0) {
            CANCEL => Instruct::Cancel { of: SessionId(w[5] as u16), id: OrdId(w[4]), attempt: byte(w[0], 1) },
            MASS_CANCEL => Instruct::MassCancel,
            DISCONNECT => Instruct::Disconnect,
            n => return Err(BadField { field: "kind", value: n.into() }),
        };
        Ok(Instruction { to, scope: scope_of(w)?, what })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_keep_every_field() {
        for kind in EventKind::ALL {
            let event = Event {
                kind,
                side: Side::Sell,
                ord_type: OrdType::StopLimit,
                flags: 0,
                session: SessionId(3),
                account: AccountId(0xABCD),
                strategy: StrategyId(0x1234),
                reserved: 0,
                instrument: InstrumentId(0xDEAD_BEEF),
                seq: 99,
                sent_at: UnixNanos(u64::MAX),
                id: OrdId(1 << 63),
                ref_id: 7,
                qty: Qty(-5),
                px: Px(i64::MIN),
            };
            assert_eq!(Event::from_record(&event.to_record(), SessionId(3), 99), Ok(event));
        }
    }

    #[test]
    fn verdicts_keep_every_field() {
        let scopes = [
            Scope::Firm,
            Scope::Account(AccountId(5)),
            Scope::Strategy(StrategyId(6)),
            Scope::Pair(StrategyId(7), InstrumentId(1 << 20)),
            Scope::Instrument(InstrumentId(9)),
            Scope::Session(SessionId(10)),
        ];
        let verdict = |denial| VerdictRecord { seq: 4, id: OrdId(5), kind: EventKind::Replace, denial, checks: !0 };
        let admitted = verdict(None);
        assert_eq!(VerdictRecord::from_record(&admitted.to_record()), Ok(admitted));
        for scope in scopes {
            for rule in Rule::ALL {
                for why in Why::ALL {
                    let denied = verdict(Some(Denial { rule, why, scope, observed: i64::MIN, limit: -1 }));
                    assert_eq!(VerdictRecord::from_record(&denied.to_record()), Ok(denied));
                }
            }
        }
    }

    #[test]
    fn instructions_keep_every_field_and_are_no_verdicts() {
        let to = SessionId(9);
        for scope in [Scope::Firm, Scope::Instrument(InstrumentId(1 << 20)), Scope::Session(SessionId(4))] {
            for what in [
                Instruct::Cancel { of: SessionId(8), id: OrdId(1 << 62), attempt: 255 },
                Instruct::MassCancel,
                Instruct::Disconnect,
            ] {
                let instruction = Instruction { to, scope, what };
                let record = instruction.to_record();
                assert!(Instruction::is_record(&record));
                assert_eq!(Instruction::from_record(&record, to), Ok(instruction));
                assert!(VerdictRecord::from_record(&record).is_err());
            }
        }
        let verdict = VerdictRecord { seq: 1, id: OrdId(1), kind: EventKind::New, denial: None, checks: 0 };
        assert!(!Instruction::is_record(&verdict.to_record()));
    }

    #[test]
    fn records_of_nothing_are_refused_by_field() {
        let fill = Event::new(EventKind::Fill, SessionId(0), 1).to_record();
        let with = |word: usize, at: u32, value: u64| {
            let mut record = fill;
            record[word] = record[word] & !(0xFF << (8 * at)) | value << (8 * at);
            Event::from_record(&record, SessionId(0), 1)
        };
        assert_eq!(with(0, 0, 0), Err(BadField { field: "kind", value: 0 }));
        assert_eq!(with(0, 0, 200), Err(BadField { field: "kind", value: 200 }));
        assert_eq!(with(0, 3, 0x82), Err(BadField { field: "flags", value: 0x82 }));
        assert_eq!(with(0, 1, 9).unwrap().flags, Event::MALFORMED);
        assert_eq!(with(0, 2, 0).unwrap().flags, Event::MALFORMED);
        let verdict = |record: [u64; 8]| VerdictRecord::from_record(&record).unwrap_err().field;
        assert_eq!(verdict([1 | 2 << 8, 0, 0, 0, 0, 0, 0, 0]), "denied");
        assert_eq!(verdict([1 | 1 << 8 | 255 << 16, 0, 0, 0, 0, 0, 0, 0]), "rule");
        assert_eq!(verdict([1 | 1 << 8 | 255 << 24, 0, 0, 0, 0, 0, 0, 0]), "why");
        assert_eq!(verdict([1 | 1 << 8 | 9 << 48, 0, 0, 0, 0, 0, 0, 0]), "scope");
        assert_eq!(verdict([99, 0, 0, 0, 0, 0, 0, 0]), "kind");
    }
}
