//! JSON messages of subprotocol `haltline.v1.json`; the published schema is `config/events.schema.json`.
//!
//! One message is one JSON object in one text frame; its `"type"` says what it is. Unknown and repeated
//! fields are errors. Quantities, prices and rates are decimals in strings (`"12.34"`) or JSON integers,
//! read exactly at the instrument's scale; a JSON number with a fraction or an exponent is an error.
//! Ids are strings or JSON integers. Sequences count from 1 without gaps.
//!
//! # From the client
//!
//! | type | fields (besides `seq`, and `sent_at` where known) | optional |
//! |---|---|---|
//! | `new` | strategy instrument side ord_type id qty px (not for `market`) | account parent |
//! | `replace` | strategy instrument ord_type id orig_id qty px (not for `market`) | account side |
//! | `cancel` | id orig_id | account strategy instrument side |
//! | `ack` `canceled` `expired` `rejected` | id | account strategy instrument side |
//! | `replaced` | instrument id orig_id qty | px ord_type account strategy side |
//! | `cancel_rejected` | id orig_id | account strategy instrument side |
//! | `fill` | strategy instrument side id exec_id qty px | account |
//! | `bust` | exec_id exec_ref | account strategy instrument |
//! | `correct` | instrument exec_id exec_ref qty px | account strategy |
//! | `mark` | instrument px | |
//! | `fx` | currency rate | |
//! | `heartbeat` | | |
//! | `parent_new` | strategy instrument side id qty | account px deadline |
//! | `parent_replace` | instrument id qty | px deadline account strategy side |
//! | `parent_done` | id | account strategy instrument side |
//!
//! The last three come from sessions of kind `orders` only. `id` is the parent's, which a `new` names as `parent`: parent ids are
//! one namespace for all sessions. `px` is the worst price that a child may have (left out: any), `deadline` the last
//! moment for one, nanoseconds since the Unix epoch (left out: none).
//!
//! `account` left out is the strategy's. Without a sequence: `hello {out, run, …}` (see [`hello`]; both optional: the last
//! answer seen and of which run), first on every connection, and `mode_ack {page}`. With the present run a client
//! says that it acted on no answer after `out`: only then is an order that a halt withholds no longer counted.
//!
//! # From the server
//!
//! - `welcome {session, run, next_seq, out_from, out, resumed, page, limits}`: answers come from number
//!   `out_from` on; `resumed` is false if some in between are lost. Events are expected from `next_seq` on.
//! - `verdict {out, seq, id, kind, verdict, checks}` and, of a denial, `{rule, why, scope, observed, limit, unit}`.
//!   Numbered by `out`, kept for a reconnect. Acknowledges everything up to `seq`, unless `checks` is `"4"`: then
//!   something before it is missing, and it has to be sent again in its turn (a cancel is admitted even so).
//! - `applied {seq}`: everything up to `seq` was taken.
//! - `resend {from}`: please send again from `from` on.
//! - `mode {page, scopes}`: modes of scopes, to be confirmed by `mode_ack {page}`. Modes are state: a new
//!   connection gets all that are not normal, so they need no number.
//! - `cancel {id, scope, attempt}` (and `session`, if the order is another session's): haltline wants this order canceled, because
//!   `scope` is halted. The client sends a `cancel` for it, and in time what the venue says; no answer, and it is told again. The
//!   request does not count towards rates. What was told for a halt that is over by now need not be done.
//! - `mass_cancel {scope}`: the same for every order of the scope, told once to a client that takes it.
//! - `disconnect_request {scope}`: cancels stay unanswered. Cut the connection to the venue, so that it cancels what is left.
//! - `error {seq, field, value, rule}`: something could not be read. A request is denied besides (`malformed`);
//!   anything else has not been taken, and its `seq` is expected again.
//! - `names {…}`: only in `haltline.v1.bin`, the tables behind its indices.

mod server;
mod token;

use crate::model::{Event, EventKind, OrdType, Side, Universe};
use crate::units::{AccountId, InstrumentId, OrdId, Px, Qty, SessionId, StrategyId, UnixNanos, format_decimal};
use crate::wire::hello::{self, Hello};
pub use crate::wire::json::server::{InstrumentName, ScopeMode, ScopeName, Server, VerdictMessage, WireLimits};
use crate::wire::json::token::{Raw, Token};
use crate::wire::{Draft, Fault, Problem};

/// A message from a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Client<'a> {
    /// The first message of a connection.
    Hello(Hello),
    /// Confirms the modes of a `mode` message.
    ModeAck {
        /// Its `page`.
        page: u64,
    },
    /// A sequenced event.
    Event(Draft<'a>),
}

const FIELDS: [&str; 21] = [
    "type",
    "seq",
    "sent_at",
    "account",
    "strategy",
    "instrument",
    "side",
    "ord_type",
    "id",
    "orig_id",
    "exec_id",
    "exec_ref",
    "qty",
    "px",
    "parent",
    "currency",
    "rate",
    "out",
    "run",
    "page",
    "deadline",
];
const TYPE: usize = 0;
const SEQ: usize = 1;
const SENT_AT: usize = 2;
const ACCOUNT: usize = 3;
const STRATEGY: usize = 4;
const INSTRUMENT: usize = 5;
const SIDE: usize = 6;
const ORD_TYPE: usize = 7;
const ID: usize = 8;
const ORIG_ID: usize = 9;
const EXEC_ID: usize = 10;
const EXEC_REF: usize = 11;
const QTY: usize = 12;
const PX: usize = 13;
const PARENT: usize = 14;
const CURRENCY: usize = 15;
const RATE: usize = 16;
// `out` and `run` are of a `hello`: see `hello::decode`.
const PAGE: usize = 19;
const DEADLINE: usize = 20;

/// Bit set of fields.
const fn set(fields: &[usize]) -> u32 {
    let mut bits = 0;
    let mut i = 0;
    while i < fields.len() {
        bits |= 1 << fields[i];
        i += 1;
    }
    bits
}

/// The fields that `kind` must have, and those that it may have besides.
const fn fields_of(kind: EventKind) -> (u32, u32) {
    const ENVELOPE: u32 = set(&[TYPE, SEQ]);
    const SAID: u32 = set(&[SENT_AT]);
    const WHOSE: u32 = set(&[ACCOUNT, STRATEGY, INSTRUMENT, SIDE]);
    let (must, may) = match kind {
        EventKind::New => (set(&[STRATEGY, INSTRUMENT, SIDE, ORD_TYPE, ID, QTY]), set(&[ACCOUNT, PX, PARENT])),
        EventKind::Replace => (set(&[STRATEGY, INSTRUMENT, ORD_TYPE, ID, ORIG_ID, QTY]), set(&[ACCOUNT, SIDE, PX])),
        EventKind::Cancel | EventKind::CancelRejected => (set(&[ID, ORIG_ID]), WHOSE),
        EventKind::Ack | EventKind::Canceled | EventKind::Expired | EventKind::Rejected => (set(&[ID]), WHOSE),
        EventKind::Replaced => (set(&[INSTRUMENT, ID, ORIG_ID, QTY]), set(&[PX, ORD_TYPE, ACCOUNT, STRATEGY, SIDE])),
        EventKind::Fill => (set(&[STRATEGY, INSTRUMENT, SIDE, ID, EXEC_ID, QTY, PX]), set(&[ACCOUNT])),
        EventKind::Bust => (set(&[EXEC_ID, EXEC_REF]), set(&[ACCOUNT, STRATEGY, INSTRUMENT])),
        EventKind::Correct => (set(&[INSTRUMENT, EXEC_ID, EXEC_REF, QTY, PX]), set(&[ACCOUNT, STRATEGY])),
        EventKind::Mark => (set(&[INSTRUMENT, PX]), 0),
        EventKind::Fx => (set(&[CURRENCY, RATE]), 0),
        EventKind::Heartbeat | EventKind::Withdrawn => (0, 0),
        EventKind::ParentNew => (set(&[STRATEGY, INSTRUMENT, SIDE, ID, QTY]), set(&[ACCOUNT, PX, DEADLINE])),
        EventKind::ParentReplace => (set(&[INSTRUMENT, ID, QTY]), set(&[ACCOUNT, STRATEGY, SIDE, PX, DEADLINE])),
        EventKind::ParentDone => (set(&[ID]), WHOSE),
    };
    (must | ENVELOPE, may | SAID)
}

/// Reads one message of an authenticated `session`.
///
/// Names that are not known become `UNKNOWN` ids in requests and fills, and are faults elsewhere.
///
/// # Errors
/// [`Fault`], with what could be read if `type` and `seq` were among it.
pub fn decode<'a>(text: &'a str, universe: &Universe, session: SessionId) -> Result<Client<'a>, Box<Fault<'a>>> {
    let mut raw: Raw<'a> = match serde_json::from_str(text) {
        Ok(raw) => raw,
        Err(_) => {
            let problem = Problem::new("message", text, "must be one JSON object");
            return Err(Box::new(Fault { draft: None, problem }));
        }
    };
    let fail = |raw: Raw<'a>, draft| {
        let problem = raw.problem.unwrap_or_else(|| Problem::new("message", "", "cannot be read"));
        Err(Box::new(Fault { draft, problem }))
    };
    let kind = match &raw.tokens[TYPE] {
        Some(Token::Text(name)) => match &**name {
            "hello" => {
                return match hello::decode(text) {
                    Ok(hello) => Ok(Client::Hello(hello)),
                    Err(problem) => Err(Box::new(Fault { draft: None, problem })),
                };
            }
            "mode_ack" => {
                raw.check_fields(set(&[TYPE, PAGE]), 0);
                let page = raw.whole(PAGE, 0);
                return if raw.problem.is_some() { fail(raw, None) } else { Ok(Client::ModeAck { page }) };
            }
            name => EventKind::ALL.into_iter().find(|k| k.name() == name && *k != EventKind::Withdrawn),
        },
        _ => None,
    };
    let Some(kind) = kind else {
        raw.problem = None;
        raw.note_at(TYPE, "must be the type of a message that a client sends");
        return fail(raw, None);
    };
    // The envelope comes before what else may be wrong: without it nothing can be said to be denied.
    let body_problem = raw.problem.take();
    let seq = raw.whole(SEQ, 1);
    if seq == 0 {
        return fail(raw, None);
    }
    raw.problem = body_problem;
    let draft = event(&mut raw, universe, Event::new(kind, session, seq));
    if raw.problem.is_some() { fail(raw, Some(draft)) } else { Ok(Client::Event(draft)) }
}

/// Reads everything but the envelope.
fn event<'a>(raw: &mut Raw<'a>, universe: &Universe, mut event: Event) -> Draft<'a> {
    let kind = event.kind;
    let (must, may) = fields_of(kind);
    raw.check_fields(must, may);
    let lenient = kind.is_request() || kind == EventKind::Fill;
    event.sent_at = UnixNanos(raw.whole(SENT_AT, 0));
    event.strategy = raw.named(STRATEGY, StrategyId::UNKNOWN, lenient, |n| universe.strategy(n));
    event.account = if raw.present & 1 << ACCOUNT != 0 {
        raw.named(ACCOUNT, AccountId::UNKNOWN, lenient, |n| universe.account(n))
    } else {
        universe.strategies.get(usize::from(event.strategy.0)).map_or(AccountId::UNKNOWN, |s| s.account)
    };
    event.side = raw.word(SIDE, Side::Buy, &[Side::Buy, Side::Sell], Side::name, "must be buy or sell");
    const TYPES: [OrdType; 4] = [OrdType::Limit, OrdType::Market, OrdType::Stop, OrdType::StopLimit];
    let type_rule = "must be limit, market, stop or stop_limit";
    event.ord_type = raw.word(ORD_TYPE, OrdType::Limit, &TYPES, OrdType::name, type_rule);
    if kind == EventKind::Fx {
        event.instrument = raw
            .named(CURRENCY, InstrumentId::UNKNOWN, false, |n| Some(InstrumentId(u32::from(universe.currency(n)?.0))));
        event.px = Px(raw.decimal(RATE, Event::FX_SCALE));
    } else {
        event.instrument = raw.named(INSTRUMENT, InstrumentId::UNKNOWN, lenient, |n| universe.instrument(n));
        match universe.instruments.get(event.instrument.0 as usize) {
            Some(spec) => {
                event.qty = Qty(raw.decimal(QTY, spec.qty_scale));
                event.px = Px(raw.decimal(PX, spec.px_scale));
            }
            None => {
                event.qty = Qty(raw.some(QTY));
                event.px = Px(raw.some(PX));
            }
        }
    }
    if matches!(kind, EventKind::New | EventKind::Replace) {
        let priced = raw.present & 1 << PX != 0;
        if event.ord_type == OrdType::Market && priced {
            raw.note_at(PX, "does not belong to a market order");
        } else if event.ord_type != OrdType::Market && !priced {
            raw.note("px", "", "must be given unless ord_type is market");
        }
    }
    if matches!(kind, EventKind::ParentNew | EventKind::ParentReplace) && raw.present & 1 << PX == 0 {
        event.ord_type = OrdType::Market;
    }
    if raw.present & 1 << QTY != 0 && event.qty.0 <= 0 {
        raw.note_at(QTY, "must be more than 0");
    }
    let (id_field, ref_field) = id_fields(kind);
    let (id, id_text) = raw.id(id_field);
    let (ref_id, ref_text) = raw.id(ref_field);
    event.id = OrdId(id);
    event.ref_id = if kind.is_parent() { raw.whole(DEADLINE, 0) } else { ref_id };
    Draft { event, id: id_text, ref_id: ref_text }
}

/// Writes `event` (numeric ids, known names) as the message that [`decode`] reads it from: the client's side.
#[must_use]
pub fn encode_event(event: &Event, universe: &Universe) -> String {
    use std::fmt::Write;
    let kind = event.kind;
    let (must, may) = fields_of(kind);
    let has = |field: usize| (must | may) & 1 << field != 0;
    let spec = universe.instruments.get(event.instrument.0 as usize);
    // Writing to a string cannot fail.
    let mut text = String::with_capacity(256);
    let _ = write!(text, "{{\"type\":\"{}\",\"seq\":{}", kind.name(), event.seq);
    if event.sent_at.0 != 0 {
        let _ = write!(text, ",\"sent_at\":{}", event.sent_at.0);
    }
    let mut field = |field: usize, value: Option<&str>| {
        if has(field)
            && let Some(value) = value
        {
            let _ = write!(text, ",\"{}\":{}", FIELDS[field], serde_json::Value::from(value));
        }
    };
    field(STRATEGY, universe.strategies.get(usize::from(event.strategy.0)).map(|s| s.name.as_str()));
    field(ACCOUNT, universe.accounts.get(usize::from(event.account.0)).map(|a| a.name.as_str()));
    field(INSTRUMENT, spec.map(|i| i.name.as_str()));
    field(SIDE, Some(event.side.name()));
    field(ORD_TYPE, Some(event.ord_type.name()));
    let priced = match kind {
        EventKind::New | EventKind::Replace | EventKind::ParentNew | EventKind::ParentReplace => {
            event.ord_type != OrdType::Market
        }
        _ => true,
    };
    field(QTY, spec.map(|i| format_decimal(event.qty.0, i.qty_scale)).as_deref());
    field(PX, spec.filter(|_| priced).map(|i| format_decimal(event.px.0, i.px_scale)).as_deref());
    field(CURRENCY, universe.currencies.get(event.instrument.0 as usize).map(|c| c.name.as_str()));
    field(RATE, Some(&format_decimal(event.px.0, Event::FX_SCALE)));
    let (id_field, ref_field) = id_fields(kind);
    for (field, id) in [(id_field, event.id.0), (ref_field, event.ref_id)] {
        if id != 0 && has(field) {
            let _ = write!(text, ",\"{}\":\"{id}\"", FIELDS[field]);
        }
    }
    if has(DEADLINE) && event.ref_id != 0 {
        let _ = write!(text, ",\"deadline\":{}", event.ref_id);
    }
    text.push('}');
    text
}

/// What stands in an event's `id` and `ref_id`.
const fn id_fields(kind: EventKind) -> (usize, usize) {
    match kind {
        EventKind::Fill => (ID, EXEC_ID),
        EventKind::Bust | EventKind::Correct => (EXEC_REF, EXEC_ID),
        EventKind::New => (ID, PARENT),
        EventKind::Replace
        | EventKind::Cancel
        | EventKind::Ack
        | EventKind::Replaced
        | EventKind::Canceled
        | EventKind::Expired
        | EventKind::Rejected
        | EventKind::CancelRejected
        | EventKind::Mark
        | EventKind::Fx
        | EventKind::Heartbeat
        | EventKind::Withdrawn
        | EventKind::ParentNew
        | EventKind::ParentReplace
        | EventKind::ParentDone => (ID, ORIG_ID),
    }
}

/// The text of a `mode_ack`.
#[must_use]
pub fn encode_mode_ack(page: u64) -> String {
    format!("{{\"type\":\"mode_ack\",\"page\":{page}}}")
}

#[cfg(test)]
pub(crate) mod tests;
