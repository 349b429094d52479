//! Numbers, times and scopes as people read them, in the API, the latch file and the log alike.

use serde::{Deserialize, Serialize};

use crate::model::rule::Unit;
use crate::model::{Mode, Rule, Scope, Universe};
use crate::units::format_decimal;

/// The longest actor, reason or name that is kept; what is beyond it is cut off.
pub const TEXT_MAX: usize = 512;

/// A scope by the words that a person uses for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScopeName {
    /// `firm`, `account`, `strategy`, `pair`, `instrument` or `session`.
    pub kind: String,
    /// Its name; empty for the firm.
    #[serde(default)]
    pub name: String,
}

impl ScopeName {
    /// The words for `scope`.
    #[must_use]
    pub fn of(universe: &Universe, scope: Scope) -> ScopeName {
        ScopeName { kind: scope.kind().name().to_owned(), name: universe.scope_name(scope) }
    }

    /// The scope, if `universe` has it.
    #[must_use]
    pub fn find(&self, universe: &Universe) -> Option<Scope> {
        universe.scope_named(&self.kind, &self.name)
    }
}

impl core::fmt::Display for ScopeName {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        if self.name.is_empty() { f.write_str(&self.kind) } else { write!(f, "{} {}", self.kind, self.name) }
    }
}

/// The mode called `word` (see [`Mode::name`]).
#[must_use]
pub fn mode_named(word: &str) -> Option<Mode> {
    [Mode::Normal, Mode::ReduceOnly, Mode::Halted].into_iter().find(|mode| mode.name() == word)
}

/// A [`Mode`] as its word, for serde's `with`.
pub mod mode_word {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::model::Mode;

    /// Writes the word.
    ///
    /// # Errors
    /// The serializer's.
    pub fn serialize<S: Serializer>(mode: &Mode, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(mode.name())
    }

    /// Reads the word.
    ///
    /// # Errors
    /// Any other word.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Mode, D::Error> {
        let word = String::deserialize(from)?;
        super::mode_named(&word).ok_or_else(|| D::Error::custom("must be normal, reduce_only or halted"))
    }
}

/// A value of `rule` at `scope` as an exact decimal.
///
/// Quantities and prices have the scale of their instrument. Where the scope names no instrument (an
/// order quantity limit of a strategy, say) the number counts each instrument's own units and is shown as it
/// is; [`unit()`] tells the two apart.
#[must_use]
pub fn value(universe: &Universe, rule: Rule, scope: Scope, value: i64) -> String {
    let instrument = match scope {
        Scope::Instrument(i) | Scope::Pair(_, i) => universe.instruments.get(i.0 as usize),
        Scope::Firm | Scope::Account(_) | Scope::Strategy(_) | Scope::Session(_) => None,
    };
    let scale = match rule.unit() {
        Unit::Qty => instrument.map_or(0, |i| i.qty_scale),
        Unit::Px => instrument.map_or(0, |i| i.px_scale),
        Unit::Notional => universe.base_scale,
        Unit::Nanos => 9,
        Unit::Bps | Unit::Count | Unit::Seq | Unit::Mode | Unit::None => 0,
    };
    format_decimal(value, scale)
}

/// What [`value`] counts in: the base currency's name, `bps`, `seconds`, `count` …
#[must_use]
pub fn unit(universe: &Universe, rule: Rule, scope: Scope) -> String {
    let scaled = match scope {
        Scope::Instrument(_) | Scope::Pair(..) => true,
        Scope::Firm | Scope::Account(_) | Scope::Strategy(_) | Scope::Session(_) => false,
    };
    match rule.unit() {
        Unit::Qty if scaled => "qty",
        Unit::Qty => "qty_units",
        Unit::Px if scaled => "px",
        Unit::Px => "px_units",
        Unit::Notional => return universe.currencies.first().map_or_else(|| "base".into(), |c| c.name.clone()),
        Unit::Bps => "bps",
        Unit::Count => "count",
        Unit::Nanos => "seconds",
        Unit::Seq => "seq",
        Unit::Mode => "mode",
        Unit::None => "none",
    }
    .to_owned()
}

/// Nanoseconds since the Unix epoch as RFC 3339 in UTC, with nine decimal places.
#[must_use]
pub fn rfc3339(unix_ns: u64) -> String {
    let seconds = unix_ns / 1_000_000_000;
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days to a date by eras of 400 years that begin on 1 March, so that the leap day is the last of a year.
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:09}Z",
        second / 3_600,
        second / 60 % 60,
        second % 60,
        unix_ns % 1_000_000_000
    )
}

/// `text` without control characters, at most [`TEXT_MAX`] bytes: it ends up in logs, files and terminals.
#[must_use]
pub fn clean(text: &str) -> String {
    let mut clean = String::with_capacity(text.len().min(TEXT_MAX));
    for c in text.trim().chars() {
        let c = if c.is_control() { ' ' } else { c };
        if clean.len() + c.len_utf8() > TEXT_MAX {
            break;
        }
        clean.push(c);
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_print_as_the_calendar_has_them() {
        for (ns, text) in [
            (0, "1970-01-01T00:00:00.000000000Z"),
            (951_782_399_000_000_001, "2000-02-28T23:59:59.000000001Z"),
            (951_782_400_000_000_000, "2000-02-29T00:00:00.000000000Z"),
            (1_343_827_800_000_000_000, "2012-08-01T13:30:00.000000000Z"),
            (4_107_542_400_000_000_000, "2100-03-01T00:00:00.000000000Z"),
        ] {
            assert_eq!(rfc3339(ns), text);
        }
    }

    #[test]
    fn text_cannot_carry_control_characters_or_grow_without_bound() {
        assert_eq!(clean("  a\nb\u{1b}[31m "), "a b [31m");
        let long = clean(&"ä".repeat(1_000));
        assert!(long.len() <= TEXT_MAX && long.chars().all(|c| c == 'ä'));
    }
}
