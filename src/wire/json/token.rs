//! Values as they stand in a message, read without floats, and the first thing that is wrong with them.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::units::{DecimalError, parse_decimal};
use crate::wire::json::FIELDS;
use crate::wire::{Problem, WireId};

/// A value as it stands in the message: what it should have been is the field's to say, so that a value of
/// the wrong type leaves the rest of the message readable.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token<'a> {
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
pub(super) struct Raw<'a> {
    pub(super) tokens: [Option<Token<'a>>; FIELDS.len()],
    pub(super) present: u32,
    pub(super) problem: Option<Problem>,
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
    pub(super) fn note(&mut self, field: &'static str, value: &str, rule: &'static str) {
        if self.problem.is_none() {
            self.problem = Some(Problem::new(field, value, rule));
        }
    }

    pub(super) fn note_at(&mut self, field: usize, rule: &'static str) {
        let value = self.tokens[field].as_ref().map_or(Cow::Borrowed(""), Token::show).into_owned();
        self.note(FIELDS[field], &value, rule);
    }

    /// A whole number from `least` to 2^63 - 1; 0 and a note if it is something else or not there.
    pub(super) fn whole(&mut self, field: usize, least: u64) -> u64 {
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

    pub(super) fn decimal(&mut self, field: usize, scale: u8) -> i64 {
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
    pub(super) fn some(&mut self, field: usize) -> i64 {
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
    pub(super) fn id(&mut self, field: usize) -> (u64, Option<Cow<'a, str>>) {
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
    pub(super) fn named<I: Copy>(
        &mut self,
        field: usize,
        unknown: I,
        lenient: bool,
        find: impl Fn(&str) -> Option<I>,
    ) -> I {
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

    pub(super) fn word<W: Copy>(
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

    pub(super) fn check_fields(&mut self, must: u32, may: u32) {
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
