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

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::model::effect::Denial;
use crate::model::rule::Unit;
use crate::model::{Event, EventKind, OrdType, Scope, Side, Universe, Why};
use crate::units::{
    AccountId, DecimalError, InstrumentId, OrdId, Px, Qty, SessionId, StrategyId, UnixNanos, format_decimal,
    parse_decimal,
};
use crate::wire::hello::{self, Hello};
use crate::wire::{Draft, Fault, Problem, WireId};

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

/// A value as it stands in the message: what it should have been is the field's to say, so that a value of
/// the wrong type leaves the rest of the message readable.
#[derive(Clone, Debug, PartialEq)]
enum Token<'a> {
    Text(Cow<'a, str>),
    Int(i128),
    /// Anything else, in words.
    Other(&'static str),
}

impl Token<'_> {
    fn show(&self) -> Cow<'_, str> {
        match self {
            Token::Text(text) => Cow::Borrowed(text),
            Token::Int(n) => Cow::Owned(n.to_string()),
            Token::Other(what) => Cow::Borrowed(what),
        }
    }
}

impl<'de> Deserialize<'de> for Token<'de> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Token<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON value")
            }
            fn visit_borrowed_str<E>(self, v: &'de str) -> Result<Token<'de>, E> {
                Ok(Token::Text(Cow::Borrowed(v)))
            }
            fn visit_str<E>(self, v: &str) -> Result<Token<'de>, E> {
                Ok(Token::Text(Cow::Owned(v.to_owned())))
            }
            fn visit_u64<E>(self, v: u64) -> Result<Token<'de>, E> {
                Ok(Token::Int(i128::from(v)))
            }
            fn visit_i64<E>(self, v: i64) -> Result<Token<'de>, E> {
                Ok(Token::Int(i128::from(v)))
            }
            fn visit_f64<E>(self, _: f64) -> Result<Token<'de>, E> {
                Ok(Token::Other("a JSON number that is not a 64-bit integer"))
            }
            fn visit_bool<E>(self, v: bool) -> Result<Token<'de>, E> {
                Ok(Token::Other(if v { "true" } else { "false" }))
            }
            fn visit_unit<E>(self) -> Result<Token<'de>, E> {
                Ok(Token::Other("null"))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut a: A) -> Result<Token<'de>, A::Error> {
                while a.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Token::Other("a list"))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut a: A) -> Result<Token<'de>, A::Error> {
                while a.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Token::Other("an object"))
            }
        }
        d.deserialize_any(V)
    }
}

/// A message taken apart, nothing believed yet.
struct Raw<'a> {
    tokens: [Option<Token<'a>>; FIELDS.len()],
    present: u32,
    problem: Option<Problem>,
}

impl<'de> Deserialize<'de> for Raw<'de> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Raw<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut a: A) -> Result<Raw<'de>, A::Error> {
                let mut raw = Raw { tokens: [const { None }; FIELDS.len()], present: 0, problem: None };
                while let Some(key) = a.next_key::<Token<'de>>()? {
                    let name = key.show();
                    match FIELDS.iter().position(|f| *f == name) {
                        Some(i) => {
                            if raw.present & 1 << i != 0 {
                                raw.note(FIELDS[i], &name, "must not be given twice");
                            }
                            raw.present |= 1 << i;
                            raw.tokens[i] = Some(a.next_value()?);
                        }
                        None => {
                            raw.note("message", &name, "has a field that does not exist");
                            a.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                Ok(raw)
            }
        }
        d.deserialize_map(V)
    }
}

impl<'a> Raw<'a> {
    /// Notes a problem; the first one stays.
    fn note(&mut self, field: &'static str, value: &str, rule: &'static str) {
        if self.problem.is_none() {
            self.problem = Some(Problem::new(field, value, rule));
        }
    }

    fn note_at(&mut self, field: usize, rule: &'static str) {
        let value = self.tokens[field].as_ref().map_or(Cow::Borrowed(""), Token::show).into_owned();
        self.note(FIELDS[field], &value, rule);
    }

    /// A whole number from `least` to 2^63 - 1; 0 and a note if it is something else or not there.
    fn whole(&mut self, field: usize, least: u64) -> u64 {
        match &self.tokens[field] {
            Some(Token::Int(n)) if *n >= i128::from(least) && *n < 1 << 63 => *n as u64,
            None if least == 0 => 0,
            _ => {
                let rule = if least == 0 {
                    "must be an integer from 0 to 2^63 - 1"
                } else {
                    "must be an integer from 1 to 2^63 - 1"
                };
                self.note_at(field, rule);
                0
            }
        }
    }

    fn decimal(&mut self, field: usize, scale: u8) -> i64 {
        let parsed = match &self.tokens[field] {
            None => return 0,
            Some(Token::Text(text)) => parse_decimal(text, scale),
            Some(Token::Int(n)) => {
                let mut buffer = [0u8; 40];
                parse_decimal(integer_text(*n, &mut buffer), scale)
            }
            Some(Token::Other(_)) => {
                self.note_at(field, "must be a decimal in a string such as \"12.5\", or an integer");
                return 0;
            }
        };
        parsed.unwrap_or_else(|e| {
            self.note_at(field, e.rule());
            0
        })
    }

    /// A quantity or price whose instrument is not known has no unit. Such an event is refused or halts its
    /// session for the name alone; what is passed on is 1, so that the name is what it is refused for.
    fn some(&mut self, field: usize) -> i64 {
        match &self.tokens[field] {
            Some(Token::Text(text)) => match parse_decimal(text, 18) {
                Ok(_) | Err(DecimalError::TooPrecise | DecimalError::TooLarge) => 1,
                Err(e @ DecimalError::Syntax) => {
                    self.note_at(field, e.rule());
                    0
                }
            },
            Some(Token::Int(_)) => 1,
            Some(Token::Other(_)) => self.decimal(field, 0),
            None => 0,
        }
    }

    /// The id in `field`: its number, or 0 and the text.
    fn id(&mut self, field: usize) -> (u64, Option<Cow<'a, str>>) {
        match &self.tokens[field] {
            None => (0, None),
            Some(Token::Int(n)) if *n > 0 && *n < 1 << 63 => (*n as u64, None),
            Some(Token::Text(text)) => match WireId::parse(text.clone()) {
                Ok(WireId::Number(n)) => (n, None),
                Ok(WireId::Text(text)) => (0, Some(text)),
                Err(rule) => {
                    self.note_at(field, rule);
                    (0, None)
                }
            },
            Some(_) => {
                self.note_at(field, "must be a string, or an integer from 1 to 2^63 - 1");
                (0, None)
            }
        }
    }

    /// The thing called what `field` says. Not known: `unknown`, and a note unless `lenient`.
    fn named<I: Copy>(&mut self, field: usize, unknown: I, lenient: bool, find: impl Fn(&str) -> Option<I>) -> I {
        match &self.tokens[field] {
            Some(Token::Text(text)) => match find(text) {
                Some(id) => id,
                None => {
                    if !lenient {
                        self.note_at(field, "must be a name that the configuration knows");
                    }
                    unknown
                }
            },
            None => unknown,
            Some(_) => {
                self.note_at(field, "must be a string");
                unknown
            }
        }
    }

    fn word<W: Copy>(
        &mut self,
        field: usize,
        default: W,
        words: &[W],
        name: fn(W) -> &'static str,
        rule: &'static str,
    ) -> W {
        match &self.tokens[field] {
            None => default,
            Some(Token::Text(text)) => match words.iter().find(|w| name(**w) == text) {
                Some(word) => *word,
                None => {
                    self.note_at(field, rule);
                    default
                }
            },
            Some(_) => {
                self.note_at(field, rule);
                default
            }
        }
    }

    fn check_fields(&mut self, must: u32, may: u32) {
        for (i, name) in FIELDS.iter().enumerate() {
            if must & 1 << i != 0 && self.present & 1 << i == 0 {
                self.note(name, "", "must be given in a message of this type");
            }
            if (must | may) & 1 << i == 0 && self.present & 1 << i != 0 {
                self.note_at(i, "does not belong into a message of this type");
            }
        }
    }
}

/// `n` in decimal, without allocation.
fn integer_text(n: i128, buffer: &mut [u8; 40]) -> &str {
    let mut rest = n.unsigned_abs();
    let mut at = buffer.len();
    loop {
        at -= 1;
        buffer[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if n < 0 {
        at -= 1;
        buffer[at] = b'-';
    }
    std::str::from_utf8(&buffer[at..]).unwrap_or("")
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

/// A scope on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScopeName {
    /// `firm`, `account`, `strategy`, `pair`, `instrument` or `session`.
    pub kind: String,
    /// Its name, see [`Universe::scope_name`].
    pub name: String,
}

impl ScopeName {
    /// The scope's kind and name.
    #[must_use]
    pub fn of(scope: Scope, universe: &Universe) -> ScopeName {
        ScopeName { kind: scope.kind().name().to_owned(), name: universe.scope_name(scope) }
    }
}

/// The mode of one scope.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScopeMode {
    /// `firm`, `account`, `strategy`, `instrument` or `session`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// `normal`, `reduce_only` or `halted`.
    pub mode: String,
    /// Since when, on the halt page's counter.
    pub epoch: u64,
}

/// Bounds that a client should know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WireLimits {
    /// The largest message that a client may send.
    pub message_bytes_max: usize,
    /// How many answers are kept for a reconnect.
    pub answers_kept: usize,
    /// A connection that says nothing (not even a pong) for this long is closed.
    pub idle_ms: u64,
}

/// An answer to a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerdictMessage {
    /// Number of the answer in its session, from 1, per run of the server.
    pub out: u64,
    /// The request's sequence.
    pub seq: u64,
    /// The request's id; empty if it had none that could be read.
    pub id: String,
    /// `new`, `replace` or `cancel`.
    pub kind: String,
    /// `admit` or `deny`.
    pub verdict: String,
    /// One bit per rule that was checked, in hexadecimal.
    pub checks: String,
    /// Of a denial: the rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Of a denial: what was wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Of a denial: where the limit stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<ScopeName>,
    /// Of a denial: what was observed, a decimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed: Option<String>,
    /// Of a denial: what would have been allowed, a decimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<String>,
    /// Of a denial: what both are counted in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
}

impl VerdictMessage {
    /// Adds the denial. `instrument` is the order's: quantities and prices are shown in its units.
    #[must_use]
    pub fn denied(mut self, denial: &Denial, instrument: InstrumentId, universe: &Universe) -> VerdictMessage {
        let (unit, observed, limit) = VerdictMessage::numbers(denial, instrument, universe);
        self.verdict = "deny".to_owned();
        self.rule = Some(denial.rule.name().to_owned());
        self.why = Some(denial.why.name().to_owned());
        self.scope = Some(ScopeName::of(denial.scope, universe));
        self.observed = Some(observed);
        self.limit = Some(limit);
        self.unit = Some(unit.to_owned());
        self
    }

    /// The unit of a denial's numbers, what was observed and what would have been allowed.
    #[must_use]
    pub fn numbers(denial: &Denial, instrument: InstrumentId, universe: &Universe) -> (&'static str, String, String) {
        let spec = universe.instruments.get(instrument.0 as usize);
        // Missing and stale inputs are told by their age, whatever the rule counts in.
        let (unit, scale) = match denial.why {
            Why::Breach | Why::Unrepresentable => match denial.rule.unit() {
                Unit::Qty => ("qty", spec.map_or(0, |i| i.qty_scale)),
                Unit::Px => ("px", spec.map_or(0, |i| i.px_scale)),
                Unit::Notional => ("notional", universe.base_scale),
                Unit::Bps => ("bps", 0),
                Unit::Count => ("count", 0),
                Unit::Nanos => ("nanos", 0),
                Unit::Seq => ("seq", 0),
                Unit::Mode => ("mode", 0),
                Unit::None => ("none", 0),
            },
            Why::ReferenceMissing | Why::ReferenceStale | Why::FxMissing | Why::FxStale | Why::VolumeMissing => {
                ("nanos", 0)
            }
        };
        (unit, format_decimal(denial.observed, scale), format_decimal(denial.limit, scale))
    }
}

/// A message from the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Server {
    /// The answer to `hello`.
    Welcome {
        /// The session's name.
        session: String,
        /// This run of the server: answers of another run have other numbers.
        run: u64,
        /// The next event expected.
        next_seq: u64,
        /// Answers follow from this number on.
        out_from: u64,
        /// The last answer given so far.
        out: u64,
        /// Whether every answer after the one named in `hello` follows.
        resumed: bool,
        /// The halt page's state; the `mode` message that follows tells it.
        page: u64,
        /// Bounds.
        limits: WireLimits,
    },
    /// See [`VerdictMessage`].
    Verdict(VerdictMessage),
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
    /// Modes that changed, or at connect all that are not normal.
    Mode {
        /// The halt page's state that this completes.
        page: u64,
        /// The scopes.
        scopes: Vec<ScopeMode>,
    },
    /// Wanted: a cancel of this order, because a scope of it is halted.
    Cancel {
        /// The order's id as the client wrote it.
        id: String,
        /// The session that the order is of, if it is not this one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        session: Option<String>,
        /// The halted scope.
        scope: ScopeName,
        /// Which attempt this is, from 1.
        attempt: u8,
    },
    /// Wanted: a cancel of every order of this session in a scope that is halted.
    MassCancel {
        /// The halted scope.
        scope: ScopeName,
    },
    /// Wanted: that the venue cancels what is left, because the connection to it is cut.
    DisconnectRequest {
        /// The halted scope.
        scope: ScopeName,
    },
    /// A message could not be read.
    Error {
        /// Its sequence, if that could be read.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seq: Option<u64>,
        /// The field.
        field: String,
        /// Its value, shortened.
        value: String,
        /// The rule that it broke.
        rule: String,
    },
    /// The tables behind the indices of `haltline.v1.bin`: position is index.
    Names {
        /// Accounts.
        accounts: Vec<String>,
        /// Strategies.
        strategies: Vec<String>,
        /// Instruments.
        instruments: Vec<InstrumentName>,
        /// Currencies.
        currencies: Vec<String>,
        /// Sessions.
        sessions: Vec<String>,
        /// Rules.
        rules: Vec<String>,
    },
}

/// An instrument in [`Server::Names`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstrumentName {
    /// Its name.
    pub name: String,
    /// Decimal places of a price.
    pub px_scale: u8,
    /// Decimal places of a quantity.
    pub qty_scale: u8,
}

impl Server {
    /// The tables of `universe`.
    #[must_use]
    pub fn names(universe: &Universe) -> Server {
        Server::Names {
            accounts: universe.accounts.iter().map(|a| a.name.clone()).collect(),
            strategies: universe.strategies.iter().map(|s| s.name.clone()).collect(),
            instruments: universe
                .instruments
                .iter()
                .map(|i| InstrumentName { name: i.name.clone(), px_scale: i.px_scale, qty_scale: i.qty_scale })
                .collect(),
            currencies: universe.currencies.iter().map(|c| c.name.clone()).collect(),
            sessions: universe.sessions.iter().map(|s| s.name.clone()).collect(),
            rules: crate::model::Rule::ALL.iter().map(|r| r.name().to_owned()).collect(),
        }
    }

    /// The message as JSON text.
    #[must_use]
    pub fn encode(&self) -> String {
        // Strings, integers and lists: nothing in here can fail to be written.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads a message of the server's: the client's side.
    ///
    /// # Errors
    /// What serde says of it.
    pub fn decode(text: &str) -> Result<Server, String> {
        serde_json::from_str(text).map_err(|e| e.to_string())
    }
}

/// The text of a `mode_ack`.
#[must_use]
pub fn encode_mode_ack(page: u64) -> String {
    format!("{{\"type\":\"mode_ack\",\"page\":{page}}}")
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::universe::{AccountSpec, CurrencySpec, InstrumentSpec, SessionSpec, StrategySpec};
    use crate::model::{Rule, SessionKind};
    use crate::units::{CurrencyId, REPRESENTABLE_MAX};

    pub(crate) fn universe() -> Universe {
        let instrument = |name: &str, px_scale, qty_scale| InstrumentSpec {
            name: name.to_owned(),
            currency: CurrencyId(0),
            px_scale,
            qty_scale,
            multiplier: (1, 0),
            negative_px: true,
            average_daily_volume: None,
            initial_reference: None,
        };
        let named = |name: &str| name.to_owned();
        Universe::new(
            4,
            vec![
                CurrencySpec { name: named("USD"), initial_rate: None },
                CurrencySpec { name: named("E\"U\\R"), initial_rate: None },
            ],
            vec![SessionSpec { name: named("g1"), kind: SessionKind::Ask, strategies: vec![] }],
            vec![AccountSpec { name: named("a") }, AccountSpec { name: named("ä") }],
            vec![
                StrategySpec { name: named("s0"), account: AccountId(0) },
                StrategySpec { name: named("s1"), account: AccountId(1) },
            ],
            vec![instrument("XYZ", 2, 0), instrument("TOKEN", 8, 8), instrument("ES", 0, 0)],
        )
    }

    /// Any event that a client may send, with the fields that its kind does not have at their defaults.
    pub(crate) fn any_event() -> impl Strategy<Value = Event> {
        let numbers = (1..1u64 << 63, 0..1u64 << 63, 1..1u64 << 63, 1..1u64 << 63);
        let values = (1..=REPRESENTABLE_MAX, -REPRESENTABLE_MAX..=REPRESENTABLE_MAX);
        let choices = (0..18usize, 0..2u16, 0..3u32, any::<bool>(), 0..4u8);
        (numbers, values, choices).prop_map(|((seq, sent_at, id, ref_id), (qty, px), (kind, who, what, buy, of))| {
            // All but `withdrawn`, which no client sends.
            let kind = EventKind::ALL[kind + usize::from(kind >= 15)];
            let (must, may) = fields_of(kind);
            let has = |field: usize| (must | may) & 1 << field != 0;
            let mut event = Event::new(kind, SessionId(0), seq);
            event.sent_at = UnixNanos(sent_at);
            if has(STRATEGY) {
                event.strategy = StrategyId(who);
                event.account = AccountId(who);
            } else {
                event.strategy = StrategyId::UNKNOWN;
                event.account = AccountId::UNKNOWN;
            }
            event.instrument = match kind {
                EventKind::Fx => InstrumentId(what % 2),
                _ if has(INSTRUMENT) => InstrumentId(what),
                _ => InstrumentId::UNKNOWN,
            };
            if has(SIDE) && !buy {
                event.side = Side::Sell;
            }
            if has(ORD_TYPE) {
                event.ord_type = OrdType::from_u8(of + 1).unwrap();
            }
            if has(QTY) {
                event.qty = Qty(qty);
            }
            let market = event.ord_type == OrdType::Market && kind != EventKind::Replaced;
            if has(RATE) || (has(PX) && !market) {
                event.px = Px(px);
            }
            let (id_field, ref_field) = id_fields(kind);
            if has(id_field) {
                event.id = OrdId(id);
            }
            if has(ref_field) || has(DEADLINE) {
                event.ref_id = ref_id;
            }
            event
        })
    }

    fn read<'a>(text: &'a str, universe: &Universe) -> Result<Client<'a>, Box<Fault<'a>>> {
        decode(text, universe, SessionId(0))
    }

    fn problem(text: &str) -> Problem {
        read(text, &universe()).unwrap_err().problem
    }

    proptest! {
        #[test]
        fn every_event_survives_the_way_there(event in any_event()) {
            let universe = universe();
            let text = encode_event(&event, &universe);
            let draft = Draft { event, id: None, ref_id: None };
            prop_assert_eq!(read(&text, &universe), Ok(Client::Event(draft)), "{}", text);
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC*") {
            prop_assert!(read(&text, &universe()).is_err());
            prop_assert!(Server::decode(&text).is_err());
        }

        #[test]
        fn no_damage_makes_it_panic(event in any_event(), at in any::<prop::sample::Index>(), with in "\\PC{0,3}") {
            let universe = universe();
            let mut text = encode_event(&event, &universe);
            let mut at = at.index(text.len());
            while !text.is_char_boundary(at) {
                at -= 1;
            }
            text.insert_str(at, &with);
            let _ = read(&text, &universe);
            text.truncate(at);
            prop_assert!(read(&text, &universe).is_err());
        }

        #[test]
        fn no_value_makes_it_panic(field in 0..FIELDS.len(), value in prop::sample::select(vec![
            "null", "true", "[]", "[[1]]", "{\"a\":{}}", "-1", "1e400", "1.0", "18446744073709551615",
            "99999999999999999999999", "\"\"", "\"\\ud800\"", "\"\\u0000\"", "-9223372036854775808", "\"-0\"",
        ])) {
            for kind in EventKind::ALL {
                let text = format!("{{\"type\":\"{}\",\"seq\":1,\"{}\":{value}}}", kind.name(), FIELDS[field]);
                let _ = read(&text, &universe());
            }
        }
    }

    #[test]
    fn floats_are_refused_and_told_to_be_strings() {
        for value in ["1.5", "1e3", "1.0"] {
            let text = format!(r#"{{"type":"mark","seq":1,"instrument":"XYZ","px":{value}}}"#);
            let p = problem(&text);
            assert_eq!(p.field, "px");
            assert!(p.rule.contains("string"), "{}", p.rule);
        }
        for (value, px) in [("\"12.34\"", 1234), ("12", 1200), ("-3", -300), ("\"-0.01\"", -1)] {
            let text = format!(r#"{{"type":"mark","seq":1,"instrument":"XYZ","px":{value}}}"#);
            let Ok(Client::Event(draft)) = read(&text, &universe()) else { panic!("{value}") };
            assert_eq!(draft.event.px, Px(px));
        }
    }

    #[test]
    fn problem_names_field_value_and_rule() {
        let order = r#"{"type":"new","seq":1,"id":"a","strategy":"s0","instrument":"XYZ","side":"buy","ord_type":"limit","qty":"5","px":"1""#;
        for (more, field, value) in [
            (r#","px2":1"#, "message", "px2"),
            (r#","px":"2""#, "px", "px"),
            (r#","rate":"2""#, "rate", "2"),
            (r#","account":"nobody","parent":"""#, "parent", ""),
            (r#","sent_at":-1"#, "sent_at", "-1"),
        ] {
            let p = problem(&format!("{order}{more}}}"));
            assert_eq!((p.field, p.value.as_str()), (field, value));
            assert!(!p.rule.is_empty());
        }
        for (from, to, field) in [
            (r#""px":"1""#, r#""px":"1.001""#, "px"),
            (r#""qty":"5""#, r#""qty":"0""#, "qty"),
            (r#""qty":"5""#, r#""qty":"9999999999999999999""#, "qty"),
            (r#""side":"buy""#, r#""side":"BUY""#, "side"),
            (r#""ord_type":"limit""#, r#""ord_type":"market""#, "px"),
            (r#","px":"1""#, "", "px"),
            (r#""id":"a","#, "", "id"),
        ] {
            let text = format!("{}}}", order.replace(from, to));
            let fault = *read(&text, &universe()).unwrap_err();
            assert_eq!(fault.problem.field, field, "{to}");
            let event = fault.draft.unwrap().event;
            assert_eq!((event.kind, event.seq), (EventKind::New, 1), "the envelope can be read all the same");
        }
    }

    #[test]
    fn accounts_default_to_the_strategys() {
        let text = r#"{"type":"cancel","seq":1,"id":"2","orig_id":1,"strategy":"s1"}"#;
        let Ok(Client::Event(draft)) = read(text, &universe()) else { panic!() };
        assert_eq!((draft.event.account, draft.event.id, draft.event.ref_id), (AccountId(1), OrdId(2), 1));
    }

    #[test]
    fn denials_show_their_numbers_in_the_rules_unit() {
        let universe = universe();
        let shown = |rule, why| {
            let denial = Denial { rule, why, scope: Scope::Firm, observed: 12_345, limit: -100 };
            VerdictMessage::numbers(&denial, InstrumentId(0), &universe)
        };
        assert_eq!(shown(Rule::Collar, Why::Breach), ("px", "123.45".to_owned(), "-1".to_owned()));
        assert_eq!(shown(Rule::GrossExposure, Why::Breach), ("notional", "1.2345".to_owned(), "-0.01".to_owned()));
        assert_eq!(shown(Rule::OrderQty, Why::Breach), ("qty", "12345".to_owned(), "-100".to_owned()));
        assert_eq!(shown(Rule::Collar, Why::ReferenceStale).0, "nanos");
    }

    #[test]
    fn published_schema_has_the_same_fields() {
        let schema: serde_json::Value =
            serde_json::from_str(include_str!("../../config/events.schema.json")).expect("the schema is JSON");
        let defs = schema["$defs"].as_object().unwrap();
        for kind in EventKind::ALL {
            let Some(def) = defs.get(kind.name()) else {
                assert_eq!(kind, EventKind::Withdrawn, "only what clients cannot send is left out");
                continue;
            };
            let bits = |names: Vec<&str>| names.iter().map(|n| 1 << FIELDS.iter().position(|f| f == n).unwrap()).sum();
            let must: u32 = bits(def["required"].as_array().unwrap().iter().map(|v| v.as_str().unwrap()).collect());
            let all: u32 = bits(def["properties"].as_object().unwrap().keys().map(String::as_str).collect());
            let (expected_must, may) = fields_of(kind);
            assert_eq!((must, all), (expected_must, expected_must | may), "{}", kind.name());
            assert_eq!(def["additionalProperties"], false);
        }
    }

    #[test]
    fn server_messages_survive_the_way_back() {
        let universe = universe();
        for message in [
            Server::names(&universe),
            Server::Applied { seq: 5 },
            Server::Resend { from: 1 },
            Server::Mode { page: 3, scopes: vec![] },
            Server::Cancel {
                id: "A-1".to_owned(),
                session: None,
                scope: ScopeName::of(Scope::Firm, &universe),
                attempt: 2,
            },
            Server::MassCancel { scope: ScopeName::of(Scope::Session(SessionId(0)), &universe) },
            Server::DisconnectRequest { scope: ScopeName::of(Scope::Firm, &universe) },
            Server::Error { seq: None, field: "px".to_owned(), value: "\"".to_owned(), rule: "r".to_owned() },
        ] {
            assert_eq!(Server::decode(&message.encode()), Ok(message));
        }
        assert!(Server::decode(r#"{"type":"applied","seq":1,"x":2}"#).is_err());
        let ours = SessionId(0);
        let hello = Hello { out: 3, run: 4, mass_cancel: true, ..Hello::default() };
        assert_eq!(decode(&hello::encode(&hello), &universe, ours), Ok(Client::Hello(hello)));
        assert_eq!(decode(&encode_mode_ack(9), &universe, ours), Ok(Client::ModeAck { page: 9 }));
    }
}
