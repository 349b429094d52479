//! Bytes to model and back, for every transport: pure functions without I/O, clock or state.
//!
//! Two WebSocket subprotocols say the same things: [`json`] (`haltline.v1.json`, text ids and names) and
//! [`bin`](mod@bin) (`haltline.v1.bin`, 64-byte records for events and answers, text frames in the JSON form for
//! the rest). What a client may send ends up as a [`Draft`]: an [`Event`] plus the ids that were text.
//! Nothing here panics on any input; what cannot be taken is a [`Fault`] that names field, value and rule.

use std::borrow::Cow;

use crate::model::Event;
use crate::units::OrdId;

pub mod bin;
pub mod hello;
pub mod json;
pub mod text;

/// The largest WebSocket message that a client may send, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// The longest text id, in bytes.
pub const ID_BYTES_MAX: usize = 64;

/// A WebSocket subprotocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// [`json`].
    Json,
    /// [`bin`](mod@bin).
    Bin,
}

impl Protocol {
    /// What it is called in `Sec-WebSocket-Protocol`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Protocol::Json => "haltline.v1.json",
            Protocol::Bin => "haltline.v1.bin",
        }
    }
    /// The protocol called `name`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Protocol> {
        [Protocol::Json, Protocol::Bin].into_iter().find(|p| p.name() == name)
    }
}

/// What is wrong with an input: the field, the value as far as it can be shown, the rule that it broke.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The field; `message` if it is none in particular.
    pub field: &'static str,
    /// The value, shortened to 64 characters; empty if there is none.
    pub value: String,
    /// The rule.
    pub rule: &'static str,
}

impl Problem {
    /// A problem with `field`. The value is shortened.
    #[must_use]
    pub fn new(field: &'static str, value: &str, rule: &'static str) -> Problem {
        Problem { field, value: value.chars().take(64).collect(), rule }
    }
}

/// An event as received: ids that were text are not numbers yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft<'a> {
    /// The event. Where `id` or `ref_id` is a text, the number in here is 0.
    pub event: Event,
    /// The text that `event.id` is to stand for.
    pub id: Option<Cow<'a, str>>,
    /// The text that `event.ref_id` is to stand for.
    pub ref_id: Option<Cow<'a, str>>,
}

/// An input that cannot be taken as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault<'a> {
    /// What could be read, if kind and sequence were among it. What could not is zero or `UNKNOWN`.
    pub draft: Option<Draft<'a>>,
    /// The first thing that is wrong.
    pub problem: Problem,
}

/// An id as a client writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WireId<'a> {
    /// The canonical decimal form of a number from 1 to 2^63 - 1: stands for itself.
    Number(u64),
    /// Anything else; the edge gives it a number.
    Text(Cow<'a, str>),
}

impl<'a> WireId<'a> {
    /// Takes `text` as an id.
    ///
    /// # Errors
    /// The rule that it broke: 1 to 64 printable ASCII characters.
    pub fn parse(text: Cow<'a, str>) -> Result<WireId<'a>, &'static str> {
        let bytes = text.as_bytes();
        if bytes.is_empty() || bytes.len() > ID_BYTES_MAX || !bytes.iter().all(|b| (0x20..0x7f).contains(b)) {
            return Err("must be 1 to 64 printable ASCII characters");
        }
        // Canonical: no sign, no leading zero. "007" and "7" are different ids, so "007" stays a text.
        if bytes[0].is_ascii_digit()
            && bytes[0] != b'0'
            && bytes.iter().all(u8::is_ascii_digit)
            && let Ok(number) = text.parse::<u64>()
            && number < OrdId::TEXT
        {
            return Ok(WireId::Number(number));
        }
        Ok(WireId::Text(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_canonical_decimal_of_a_small_number_is_a_number() {
        let parse = |text: &'static str| WireId::parse(Cow::Borrowed(text));
        assert_eq!(parse("7"), Ok(WireId::Number(7)));
        assert_eq!(parse("9223372036854775807"), Ok(WireId::Number(OrdId::TEXT - 1)));
        for text in ["0", "007", "+7", "7 ", "9223372036854775808", "99999999999999999999", "A-1"] {
            assert_eq!(parse(text), Ok(WireId::Text(Cow::Borrowed(text))), "{text}");
        }
        for text in ["", "ä", "a\nb"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
        assert!(WireId::parse(Cow::Owned("x".repeat(65))).is_err());
    }
}
