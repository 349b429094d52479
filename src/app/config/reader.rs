//! Reads TOML tables key by key, and reports every wrong one instead of stopping at the first.

use core::net::SocketAddr;
use std::collections::BTreeSet;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::violation::{Errors, Spot, join};
use crate::units::{DecimalError, REPRESENTABLE_MAX, parse_decimal};

/// One table. Every key that is asked for is known; [`Reader::finish`] reports the others.
pub(super) struct Reader<'a> {
    pub errors: &'a Errors<'a>,
    pub spot: Spot,
    table: &'a DeTable<'a>,
    known: BTreeSet<&'static str>,
    told: BTreeSet<&'static str>,
}

/// One value that is written in the file.
#[derive(Clone)]
pub(super) struct Field<'a> {
    pub errors: &'a Errors<'a>,
    pub spot: Spot,
    value: &'a DeValue<'a>,
}

/// An exact decimal as it was written, without a scale yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Decimal(String);

impl Decimal {
    /// The value as a count of `10^-scale`.
    pub fn at(&self, scale: u8) -> Result<i64, DecimalError> {
        parse_decimal(&self.0, scale)
    }

    /// Mantissa and decimal places, without trailing zeros.
    pub fn parts(&self) -> Result<(i64, u8), DecimalError> {
        let places = self.0.split_once('.').map_or(0, |(_, fraction)| fraction.trim_end_matches('0').len());
        let places = u8::try_from(places).map_err(|_| DecimalError::TooPrecise)?;
        Ok((parse_decimal(&self.0, places)?, places))
    }

    pub fn is_zero(&self) -> bool {
        self.0.bytes().all(|b| !b.is_ascii_digit() || b == b'0')
    }

    pub fn text(&self) -> &str {
        &self.0
    }
}

impl<'a> Reader<'a> {
    pub fn new(errors: &'a Errors<'a>, table: &'a DeTable<'a>, spot: Spot) -> Reader<'a> {
        Reader { errors, spot, table, known: BTreeSet::new(), told: BTreeSet::new() }
    }

    /// The value of `key`, if it is written.
    pub fn get(&mut self, key: &'static str) -> Option<Field<'a>> {
        self.known.insert(key);
        let value = self.table.get(key)?;
        Some(self.field(key, value))
    }

    /// The value of a `key` that does not belong here; the caller says why, so it is not reported as unknown.
    pub fn misplaced(&mut self, key: &'static str) -> Option<Field<'a>> {
        self.told.insert(key);
        let value = self.table.get(key)?;
        Some(self.field(key, value))
    }

    /// As [`Reader::get`]; a missing key is a violation.
    pub fn need(&mut self, key: &'static str, rule: &str) -> Option<Field<'a>> {
        let field = self.get(key);
        if field.is_none() {
            self.errors.missing(&self.spot, key, rule);
        }
        field
    }

    /// The table at `key`; `None` if there is none (or something else, which is a violation).
    pub fn table(&mut self, key: &'static str) -> Option<Reader<'a>> {
        self.get(key)?.table()
    }

    /// Every entry, in the order of the names: for tables whose keys are names.
    pub fn entries(&self) -> Vec<(&'a str, Field<'a>)> {
        let mut entries: Vec<(&str, Field<'_>)> =
            self.table.iter().map(|(key, value)| (&**key.get_ref(), self.field(key.get_ref(), value))).collect();
        entries.sort_by_key(|(name, _)| *name);
        entries
    }

    /// Where `key` itself is written.
    pub fn key_spot(&self, key: &str) -> Spot {
        let span = self.table.get_key_value(key).map_or(self.spot.span.clone(), |(k, _)| k.span());
        Spot { span, path: join(&self.spot.path, key) }
    }

    fn field(&self, key: &str, value: &'a Spanned<DeValue<'a>>) -> Field<'a> {
        let path = join(&self.spot.path, key);
        // A table written as [header] has the header's place; one that only its children imply has none.
        let mut span = value.span();
        if span.is_empty() {
            span = self.key_spot(key).span;
        }
        Field { errors: self.errors, spot: Spot { span, path }, value: value.get_ref() }
    }

    /// Reports every key that was not asked for.
    pub fn finish(self) {
        for key in self.table.keys() {
            let key = key.get_ref();
            if !self.known.contains(&**key) && !self.told.contains(&**key) {
                let known: Vec<&str> = self.known.iter().copied().collect();
                self.errors.at(&self.key_spot(key), format!("unknown key; known here: {}", known.join(", ")));
            }
        }
    }
}

impl<'a> Field<'a> {
    /// This value breaks `rule`.
    pub fn refuse(&self, rule: impl Into<String>) {
        self.errors.at(&self.spot, rule);
    }

    fn expected<T>(&self, what: &str) -> Option<T> {
        self.refuse(format!("must be {what}; this is of type {}", self.value.type_str()));
        None
    }

    /// A reader if this is a table, without complaint if it is not.
    pub fn as_table(&self) -> Option<Reader<'a>> {
        self.value.as_table().map(|table| Reader::new(self.errors, table, self.spot.clone()))
    }

    pub fn table(&self) -> Option<Reader<'a>> {
        self.as_table().or_else(|| self.expected("a table"))
    }

    /// The elements if this is an array, without complaint if it is not.
    pub fn as_array(&self) -> Option<Vec<Field<'a>>> {
        let element = |(i, value): (usize, &'a Spanned<DeValue<'a>>)| Field {
            errors: self.errors,
            spot: Spot { span: value.span(), path: format!("{}[{i}]", self.spot.path) },
            value: value.get_ref(),
        };
        Some(self.value.as_array()?.iter().enumerate().map(element).collect())
    }

    pub fn array(&self) -> Option<Vec<Field<'a>>> {
        self.as_array().or_else(|| self.expected("an array"))
    }

    /// The text if this is a string, without complaint if it is not.
    pub fn as_str(&self) -> Option<&'a str> {
        self.value.as_str()
    }

    pub fn string(&self) -> Option<&'a str> {
        self.as_str().or_else(|| self.expected("a string"))
    }

    pub fn boolean(&self) -> Option<bool> {
        self.value.as_bool().or_else(|| self.expected("true or false"))
    }

    /// An integer in `min..=max`.
    pub fn integer(&self, min: i64, max: i64) -> Option<i64> {
        let Some(integer) = self.value.as_integer() else { return self.expected("an integer") };
        let value = i64::from_str_radix(integer.as_str(), integer.radix()).ok();
        let value = value.filter(|v| (min..=max).contains(v));
        if value.is_none() {
            self.refuse(format!("must be from {min} to {max}"));
        }
        value
    }

    /// An exact decimal: a string or an integer. A float is refused, because other readers of the file
    /// would round it.
    pub fn decimal(&self) -> Option<Decimal> {
        let text = match self.value {
            DeValue::String(text) => text.clone().into_owned(),
            DeValue::Integer(integer) if integer.radix() == 10 => integer.as_str().to_owned(),
            DeValue::Float(float) => {
                self.refuse(format!("must be written in quotes to be exact: \"{}\"", float.as_str()));
                return None;
            }
            _ => return self.expected("a decimal number in quotes or an integer"),
        };
        // Forty places are beyond every scale: this looks at the form; scale 0 then at the size.
        for (scale, wrong) in [(40, DecimalError::Syntax), (0, DecimalError::TooLarge)] {
            if parse_decimal(&text, scale) == Err(wrong) {
                self.refuse(wrong.rule());
                return None;
            }
        }
        Some(Decimal(text))
    }

    /// An exact decimal, not negative, as a count of `10^-scale`.
    pub fn amount(&self, scale: u8) -> Option<i64> {
        let decimal = self.decimal()?;
        self.amount_of(&decimal, scale)
    }

    /// As [`Field::amount`], of a decimal that was read before.
    pub fn amount_of(&self, decimal: &Decimal, scale: u8) -> Option<i64> {
        match decimal.at(scale) {
            Ok(value) if value >= 0 => Some(value),
            Ok(_) => {
                self.refuse("must not be negative");
                None
            }
            Err(DecimalError::TooPrecise) => {
                self.refuse(format!("has more than the {scale} decimal places of its unit"));
                None
            }
            Err(error) => {
                self.refuse(error.rule());
                None
            }
        }
    }

    /// A span of time such as `"250ms"`, in nanoseconds, within `min..=max`.
    pub fn duration(&self, min: u64, max: u64) -> Option<u64> {
        let Some(text) = self.as_str() else { return self.expected("a time span such as \"250ms\"") };
        let Some(nanos) = parse_duration(text) else {
            self.refuse("must be a whole number and one of ns, us, ms, s, m, h, d, such as \"250ms\"");
            return None;
        };
        if !(min..=max).contains(&nanos) {
            self.refuse(format!("must be from {} to {}", format_duration(min), format_duration(max)));
            return None;
        }
        Some(nanos)
    }

    /// As [`Field::duration`]; the word `unlimited` is `None` inside.
    pub fn duration_or_unlimited(&self, min: u64, max: u64) -> Option<Option<u64>> {
        if self.as_str() == Some("unlimited") { Some(None) } else { self.duration(min, max).map(Some) }
    }

    /// Basis points: an integer, or a percentage with its sign (`"9.5%"`).
    pub fn basis_points(&self, max: i64) -> Option<i64> {
        let value = match self.as_str().and_then(|text| text.strip_suffix('%')) {
            Some(percent) => match parse_decimal(percent, 2) {
                Ok(value) => value,
                Err(error) => {
                    self.refuse(format!("a percentage {}", error.rule()));
                    return None;
                }
            },
            None => self.amount(0)?,
        };
        if !(0..=max).contains(&value) {
            self.refuse(format!("must be from 0 to {max} basis points"));
            return None;
        }
        Some(value)
    }

    /// One of `words`.
    pub fn word<T: Copy>(&self, words: &[(&'static str, T)]) -> Option<T> {
        let text = self.string()?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            let all: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            self.refuse(format!("must be one of: {}", all.join(", ")));
        }
        found
    }

    /// A list of strings.
    pub fn strings(&self) -> Option<Vec<(&'a str, Field<'a>)>> {
        Some(self.array()?.into_iter().filter_map(|field| Some((field.string()?, field))).collect())
    }

    pub fn socket(&self) -> Option<SocketAddr> {
        let address = self.string()?.parse().ok();
        if address.is_none() {
            self.refuse("must be an IP address and a port, such as 127.0.0.1:7401");
        }
        address
    }

    /// A BLAKE3 hash: 64 hexadecimal digits.
    pub fn hash(&self) -> Option<[u8; 32]> {
        let text = self.string()?;
        let hash = blake3::Hash::from_hex(text).ok().filter(|_| text.len() == 64);
        if hash.is_none() {
            self.refuse("must be 64 hexadecimal digits, as `haltline token` prints them");
        }
        hash.map(|h| *h.as_bytes())
    }
}

/// Checks a name: 1 to 64 of `A-Z a-z 0-9 . _ -`.
pub(super) fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b))
}

/// What [`is_name`] asks for.
pub(super) const NAME_RULE: &str = "a name has 1 to 64 characters out of A-Z a-z 0-9 . _ -";

const UNITS: [(&str, u64); 7] = [
    // "ms", "us" and "ns" end like "s", so they come first.
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
];

/// Nanoseconds of `"250ms"`.
pub(super) fn parse_duration(text: &str) -> Option<u64> {
    let (number, unit) = UNITS.iter().find_map(|(unit, nanos)| Some((text.strip_suffix(unit)?, *nanos)))?;
    let count = u64::try_from(parse_decimal(number, 0).ok()?).ok()?;
    count.checked_mul(unit).filter(|nanos| *nanos <= REPRESENTABLE_MAX as u64)
}

/// `nanos` in the largest unit that holds it exactly.
pub(super) fn format_duration(nanos: u64) -> String {
    let fits = |(_, unit): &&(&str, u64)| nanos.is_multiple_of(*unit);
    match UNITS.iter().rev().find(fits) {
        Some((name, unit)) if nanos > 0 => format!("{}{name}", nanos / unit),
        _ => format!("{nanos}ns"),
    }
}
