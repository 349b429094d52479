//! Binary messages of subprotocol `haltline.v1.bin`.
//!
//! A binary frame holds one or more records of 64 bytes, little-endian. Text frames hold what has no record,
//! in the form of [`json`](crate::wire::json): from the client `hello` and `mode_ack`, from the server
//! `welcome`, `names` (the tables behind the indices, at every connect), `mode` and `error`.
//!
//! From the client: events, laid out as [`Event`], with ids below 2^63, `flags` and `reserved` 0, `session` 0.
//! `side` and `ord_type` are 1 or more where the kind has them, and may be 0 elsewhere. An index that is
//! unknown is taken as in JSON: denied in a request, passed on in a fill, a fault elsewhere.
//!
//! From the server:
//! ```text
//!  0  tag u8 (1 verdict, 2 applied, 3 resend) | kind u8 | verdict u8 (1 admit, 2 deny) | rule u8
//!  4  why u8 | scope_kind u8 | scope_strategy u16   strategy of a pair, else 0
//!  8  scope_index u32 (a pair's: its instrument; the firm: 0) | reserved u32
//! 16  out u64         number of the answer (verdict)
//! 24  seq u64         the request's; applied: the last taken; resend: the first wanted
//! 32  id u64          the request's
//! 40  observed i64    in the rule's unit, see `Rule::unit`
//! 48  limit i64
//! 56  checks u64      one bit per rule; 4 alone: behind a gap, acknowledges nothing, has to be sent again
//! ```
//! What an answer does not use is 0.

use crate::model::effect::Denial;
use crate::model::{Event, EventKind, OrdType, Rule, Scope, Side, Universe, Why};
use crate::units::{AccountId, InstrumentId, OrdId, Px, Qty, REPRESENTABLE_MAX, SessionId, StrategyId, UnixNanos};
use crate::wire::{Draft, Fault, Problem};

/// The size of every record.
pub const RECORD: usize = 64;

/// A record.
pub type Record = [u8; RECORD];

/// A record from the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Answer to a request.
    Verdict {
        /// Number of the answer.
        out: u64,
        /// The request's sequence.
        seq: u64,
        /// The request's id.
        id: u64,
        /// Which request.
        kind: EventKind,
        /// `None`: admitted.
        denial: Option<Denial>,
        /// One bit per rule.
        checks: u64,
    },
    /// Everything up to `seq` was taken.
    Applied {
        /// The last contiguous sequence taken.
        seq: u64,
    },
    /// Please send again.
    Resend {
        /// From this sequence on.
        from: u64,
    },
}

fn u16_at(r: &Record, at: usize) -> u16 {
    u16::from_le_bytes([r[at], r[at + 1]])
}
fn u32_at(r: &Record, at: usize) -> u32 {
    u32::from_le_bytes([r[at], r[at + 1], r[at + 2], r[at + 3]])
}
fn u64_at(r: &Record, at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&r[at..at + 8]);
    u64::from_le_bytes(bytes)
}
fn put<const N: usize>(r: &mut Record, at: usize, bytes: [u8; N]) {
    r[at..at + N].copy_from_slice(&bytes);
}

/// The records of a frame.
///
/// # Errors
/// If the length is 0 or no multiple of 64.
pub fn records(frame: &[u8]) -> Result<&[Record], Problem> {
    match frame.as_chunks::<RECORD>() {
        (records, []) if !records.is_empty() => Ok(records),
        _ => Err(Problem::new("message", &frame.len().to_string(), "must be one or more records of 64 bytes")),
    }
}

/// Reads one event of an authenticated `session`.
///
/// # Errors
/// [`Fault`], with what could be read if kind and sequence were among it.
pub fn decode_event(r: &Record, universe: &Universe, session: SessionId) -> Result<Event, Box<Fault<'static>>> {
    let envelope = |problem| Box::new(Fault { draft: None, problem });
    let kind = match EventKind::from_u8(r[0]) {
        Some(kind) if kind != EventKind::Withdrawn => kind,
        _ => return Err(envelope(Problem::new("kind", &r[0].to_string(), "must be the number of a client's event"))),
    };
    let seq = u64_at(r, 16);
    if seq == 0 || seq >= OrdId::TEXT {
        return Err(envelope(Problem::new("seq", &seq.to_string(), "must be an integer from 1 to 2^63 - 1")));
    }
    let mut event = Event::new(kind, session, seq);
    let mut problem: Option<Problem> = None;
    let mut note = |field, value: i128, rule| {
        if problem.is_none() {
            problem = Some(Problem::new(field, &value.to_string(), rule));
        }
    };
    let has_side = matches!(kind, EventKind::New | EventKind::Fill | EventKind::ParentNew);
    match Side::from_u8(r[1]) {
        Some(side) => event.side = side,
        None if r[1] == 0 && !has_side => {}
        None => note("side", r[1].into(), "must be 1 (buy) or 2 (sell)"),
    }
    let of_parent = matches!(kind, EventKind::ParentNew | EventKind::ParentReplace);
    let has_type = matches!(kind, EventKind::New | EventKind::Replace) || of_parent;
    match OrdType::from_u8(r[2]) {
        Some(OrdType::Stop | OrdType::StopLimit) if of_parent => {
            note("ord_type", r[2].into(), "must be 1 (px is its limit) or 2 (it has none)");
        }
        Some(ord_type) => event.ord_type = ord_type,
        None if r[2] == 0 && !has_type => {}
        None => note("ord_type", r[2].into(), "must be 1 to 4"),
    }
    if r[3] != 0 {
        note("flags", r[3].into(), "must be 0");
    }
    if u16_at(r, 4) != 0 {
        note("session", u16_at(r, 4).into(), "must be 0: the connection says it");
    }
    if u16_at(r, 10) != 0 {
        note("reserved", u16_at(r, 10).into(), "must be 0");
    }
    // Reports other than fills may leave the names out, as in JSON; 0 is then the first of each.
    let lenient = kind.is_request() || kind == EventKind::Fill;
    event.account = AccountId(u16_at(r, 6));
    if usize::from(event.account.0) >= universe.accounts.len() {
        if !lenient {
            note("account", event.account.0.into(), "must be an index of a known account");
        }
        event.account = AccountId::UNKNOWN;
    }
    event.strategy = StrategyId(u16_at(r, 8));
    if usize::from(event.strategy.0) >= universe.strategies.len() {
        if !lenient {
            note("strategy", event.strategy.0.into(), "must be an index of a known strategy");
        }
        event.strategy = StrategyId::UNKNOWN;
    }
    event.instrument = InstrumentId(u32_at(r, 12));
    let known = if kind == EventKind::Fx { universe.currencies.len() } else { universe.instruments.len() };
    if event.instrument.0 as usize >= known {
        if !lenient {
            note("instrument", event.instrument.0.into(), "must be an index of a known instrument or currency");
        }
        event.instrument = InstrumentId::UNKNOWN;
    }
    event.sent_at = UnixNanos(u64_at(r, 24));
    let (id, ref_id) = (u64_at(r, 32), u64_at(r, 40));
    if id >= OrdId::TEXT {
        note("id", id.into(), "must be below 2^63");
    } else {
        event.id = OrdId(id);
    }
    if ref_id >= OrdId::TEXT {
        note("ref_id", ref_id.into(), "must be below 2^63");
    } else {
        event.ref_id = ref_id;
    }
    let exec = matches!(kind, EventKind::Fill | EventKind::Bust | EventKind::Correct);
    if id == 0 && !matches!(kind, EventKind::Mark | EventKind::Fx | EventKind::Heartbeat) {
        note("id", 0, "must not be 0");
    }
    if ref_id == 0 && (exec || matches!(kind, EventKind::Replace | EventKind::Replaced)) {
        note("ref_id", 0, "must not be 0");
    }
    let (qty, px) = (u64_at(r, 48) as i64, u64_at(r, 56) as i64);
    if qty.unsigned_abs() > REPRESENTABLE_MAX as u64 {
        note("qty", qty.into(), "is too large to be represented");
    } else {
        event.qty = Qty(qty);
    }
    if px.unsigned_abs() > REPRESENTABLE_MAX as u64 {
        note("px", px.into(), "is too large to be represented");
    } else {
        event.px = Px(px);
    }
    let has_qty = match kind {
        EventKind::New
        | EventKind::Replace
        | EventKind::Replaced
        | EventKind::Fill
        | EventKind::Correct
        | EventKind::ParentNew
        | EventKind::ParentReplace => true,
        EventKind::Cancel
        | EventKind::Ack
        | EventKind::Canceled
        | EventKind::Expired
        | EventKind::Rejected
        | EventKind::CancelRejected
        | EventKind::Bust
        | EventKind::Mark
        | EventKind::Fx
        | EventKind::Heartbeat
        | EventKind::ParentDone
        | EventKind::Withdrawn => false,
    };
    if has_qty && qty <= 0 {
        note("qty", qty.into(), "must be more than 0");
    }
    match problem {
        None => Ok(event),
        Some(problem) => Err(Box::new(Fault { draft: Some(Draft { event, id: None, ref_id: None }), problem })),
    }
}

/// Writes `event` as the record that [`decode_event`] reads it from: the client's side. Session and flags are left out.
#[must_use]
pub fn encode_event(event: &Event) -> Record {
    let mut r = [0; RECORD];
    r[0] = event.kind as u8;
    r[1] = event.side as u8;
    r[2] = event.ord_type as u8;
    put(&mut r, 6, event.account.0.to_le_bytes());
    put(&mut r, 8, event.strategy.0.to_le_bytes());
    put(&mut r, 12, event.instrument.0.to_le_bytes());
    put(&mut r, 16, event.seq.to_le_bytes());
    put(&mut r, 24, event.sent_at.0.to_le_bytes());
    put(&mut r, 32, event.id.0.to_le_bytes());
    put(&mut r, 40, event.ref_id.to_le_bytes());
    put(&mut r, 48, event.qty.0.to_le_bytes());
    put(&mut r, 56, event.px.0.to_le_bytes());
    r
}

/// Writes an answer.
#[must_use]
pub fn encode_answer(answer: &Answer) -> Record {
    let mut r = [0; RECORD];
    match answer {
        Answer::Verdict { out, seq, id, kind, denial, checks } => {
            r[0] = 1;
            r[1] = *kind as u8;
            r[2] = if denial.is_none() { 1 } else { 2 };
            put(&mut r, 16, out.to_le_bytes());
            put(&mut r, 24, seq.to_le_bytes());
            put(&mut r, 32, id.to_le_bytes());
            put(&mut r, 56, checks.to_le_bytes());
            if let Some(d) = denial {
                r[3] = d.rule as u8;
                r[4] = d.why as u8;
                r[5] = d.scope.kind() as u8;
                let (strategy, index) = match d.scope {
                    Scope::Firm => (0, 0),
                    Scope::Account(a) => (0, u32::from(a.0)),
                    Scope::Strategy(s) => (0, u32::from(s.0)),
                    Scope::Pair(s, i) => (s.0, i.0),
                    Scope::Instrument(i) => (0, i.0),
                    Scope::Session(s) => (0, u32::from(s.0)),
                };
                put(&mut r, 6, strategy.to_le_bytes());
                put(&mut r, 8, index.to_le_bytes());
                put(&mut r, 40, d.observed.to_le_bytes());
                put(&mut r, 48, d.limit.to_le_bytes());
            }
        }
        Answer::Applied { seq } => {
            r[0] = 2;
            put(&mut r, 24, seq.to_le_bytes());
        }
        Answer::Resend { from } => {
            r[0] = 3;
            put(&mut r, 24, from.to_le_bytes());
        }
    }
    r
}

/// Reads an answer: the client's side.
///
/// # Errors
/// [`Problem`] names the field that is not what it should be.
pub fn decode_answer(r: &Record) -> Result<Answer, Problem> {
    let bad = |field, value: u64, rule| Problem::new(field, &value.to_string(), rule);
    let seq = u64_at(r, 24);
    match r[0] {
        1 => {}
        2 => return Ok(Answer::Applied { seq }),
        3 => return Ok(Answer::Resend { from: seq }),
        tag => return Err(bad("tag", tag.into(), "must be 1, 2 or 3")),
    }
    let kind = EventKind::from_u8(r[1])
        .filter(|k| k.is_request())
        .ok_or_else(|| bad("kind", r[1].into(), "must be a request's"))?;
    let denial = match r[2] {
        1 => None,
        2 => {
            let rule = Rule::from_u8(r[3]).ok_or_else(|| bad("rule", r[3].into(), "must be a rule's number"))?;
            const WHYS: [Why; 7] = [
                Why::Breach,
                Why::ReferenceMissing,
                Why::ReferenceStale,
                Why::FxMissing,
                Why::FxStale,
                Why::VolumeMissing,
                Why::Unrepresentable,
            ];
            let why = *WHYS.get(usize::from(r[4])).ok_or_else(|| bad("why", r[4].into(), "must be 0 to 6"))?;
            let index = u32_at(r, 8);
            let small = || u16::try_from(index).map_err(|_| bad("scope_index", index.into(), "must be below 65536"));
            let scope = match r[5] {
                0 => Scope::Firm,
                1 => Scope::Account(AccountId(small()?)),
                2 => Scope::Strategy(StrategyId(small()?)),
                3 => Scope::Pair(StrategyId(u16_at(r, 6)), InstrumentId(index)),
                4 => Scope::Instrument(InstrumentId(index)),
                5 => Scope::Session(SessionId(small()?)),
                n => return Err(bad("scope_kind", n.into(), "must be 0 to 5")),
            };
            Some(Denial { rule, why, scope, observed: u64_at(r, 40) as i64, limit: u64_at(r, 48) as i64 })
        }
        n => return Err(bad("verdict", n.into(), "must be 1 or 2")),
    };
    Ok(Answer::Verdict { out: u64_at(r, 16), seq, id: u64_at(r, 32), kind, denial, checks: u64_at(r, 56) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::json::tests::{any_event, universe};

    fn any_denial() -> impl Strategy<Value = Option<Denial>> {
        let scope = prop_oneof![
            Just(Scope::Firm),
            any::<u16>().prop_map(|a| Scope::Account(AccountId(a))),
            any::<u16>().prop_map(|s| Scope::Strategy(StrategyId(s))),
            any::<(u16, u32)>().prop_map(|(s, i)| Scope::Pair(StrategyId(s), InstrumentId(i))),
            any::<u32>().prop_map(|i| Scope::Instrument(InstrumentId(i))),
            any::<u16>().prop_map(|s| Scope::Session(SessionId(s))),
        ];
        let why = prop::sample::select(vec![Why::Breach, Why::FxStale, Why::Unrepresentable]);
        let denial =
            (0..Rule::COUNT, why, scope, any::<i64>(), any::<i64>()).prop_map(|(rule, why, scope, observed, limit)| {
                Denial { rule: Rule::ALL[rule], why, scope, observed, limit }
            });
        prop::option::of(denial)
    }

    proptest! {
        #[test]
        fn every_event_survives_the_way_there(mut event in any_event()) {
            // A record always has an index; what the kind leaves out is 0.
            if event.strategy == StrategyId::UNKNOWN {
                event.strategy = StrategyId(0);
                event.account = AccountId(0);
            }
            if event.instrument == InstrumentId::UNKNOWN {
                event.instrument = InstrumentId(0);
            }
            prop_assert_eq!(decode_event(&encode_event(&event), &universe(), SessionId(0)), Ok(event));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let universe = universe();
            match records(&bytes) {
                Ok(list) => {
                    prop_assert_eq!(list.len() * RECORD, bytes.len());
                    for record in list {
                        let _ = decode_event(record, &universe, SessionId(0));
                        let _ = decode_answer(record);
                    }
                }
                Err(_) => prop_assert!(bytes.is_empty() || bytes.len() % RECORD != 0),
            }
        }

        #[test]
        fn damaged_record_is_a_fault_or_an_event_within_bounds(event in any_event(), at in 0..RECORD, with: u8) {
            let mut record = encode_event(&event);
            record[at] = with;
            if let Ok(event) = decode_event(&record, &universe(), SessionId(7)) {
                prop_assert_eq!((event.session, event.flags, event.reserved), (SessionId(7), 0, 0));
                prop_assert!(event.id.0 < OrdId::TEXT && event.ref_id < OrdId::TEXT && event.seq > 0);
                prop_assert!(event.kind != EventKind::Withdrawn);
                prop_assert!(event.qty.0.unsigned_abs() <= REPRESENTABLE_MAX as u64);
            }
        }

        #[test]
        fn every_answer_survives_the_way_back(
            numbers: (u64, u64, u64, u64), kind in 1..=3u8, denial in any_denial(),
        ) {
            let (out, seq, id, checks) = numbers;
            let kind = EventKind::from_u8(kind).unwrap();
            let verdict = Answer::Verdict { out, seq, id, kind, denial, checks };
            for answer in [verdict, Answer::Applied { seq }, Answer::Resend { from: seq }] {
                prop_assert_eq!(decode_answer(&encode_answer(&answer)), Ok(answer));
            }
        }
    }

    #[test]
    fn record_lies_in_memory_as_documented() {
        let mut event = Event::new(EventKind::Fill, SessionId(0), 0x0102_0304_0506_0708);
        event.side = Side::Sell;
        event.strategy = StrategyId(1);
        event.instrument = InstrumentId(2);
        event.id = OrdId(9);
        event.px = Px(-1);
        let r = encode_event(&event);
        assert_eq!(&r[..3], &[10, 2, 1]);
        assert_eq!(&r[8..10], &[1, 0]);
        assert_eq!(&r[12..16], &[2, 0, 0, 0]);
        assert_eq!(&r[16..24], &[8, 7, 6, 5, 4, 3, 2, 1]);
        assert_eq!((r[32], &r[56..]), (9, &[0xff; 8][..]));
    }

    #[test]
    fn tags_flags_and_reserved_bytes_are_checked() {
        let mut event = Event::new(EventKind::New, SessionId(0), 1);
        event.id = OrdId(1);
        event.qty = Qty(1);
        let good = encode_event(&event);
        let check = |at: usize, with: u8| {
            let mut record = good;
            record[at] = with;
            decode_event(&record, &universe(), SessionId(0)).map_err(|f| (f.problem.field, f.draft.is_some()))
        };
        assert_eq!(check(0, 1), Ok(event));
        for (at, with, field, readable) in [
            (0, 0, "kind", false),
            (0, 16, "kind", false),
            (0, 20, "kind", false),
            (16, 0, "seq", false),
            (1, 0, "side", true),
            (1, 3, "side", true),
            (2, 5, "ord_type", true),
            (3, 1, "flags", true),
            (4, 1, "session", true),
            (10, 1, "reserved", true),
            (39, 0x80, "id", true),
            (47, 0x80, "ref_id", true),
            (55, 0x80, "qty", true),
            (63, 0x80, "px", true),
        ] {
            assert_eq!(check(at, with), Err((field, readable)), "byte {at} = {with}");
        }
        assert_eq!(check(8, 9).unwrap().strategy, StrategyId::UNKNOWN);
        assert_eq!(check(12, 9).unwrap().instrument, InstrumentId::UNKNOWN);
    }
}
