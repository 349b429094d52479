//! Exact numbers, clocks and bounded ids.
//!
//! Nothing here is a float. A price is an `i64` count of the instrument's price unit (`10^-px_scale`
//! of its currency), a quantity an `i64` count of its quantity unit (`10^-qty_scale`), a notional an
//! `i64` count of the firm's base unit (`10^-base_scale` of the base currency). Products are taken in
//! `i128` and checked. There is one rounding, in [`Conversion`]: **against the trader** (an exposure
//! up, a profit down).

use core::fmt;

/// The largest magnitude that any price, quantity or notional may have: 2^62 - 1.
///
/// The head-room to `i64::MAX` lets two in-range values be added without wrapping. A value beyond it
/// cannot be represented and is denied. It is also what "unlimited" compares as.
pub const REPRESENTABLE_MAX: i64 = (1 << 62) - 1;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(pub $inner);
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
    };
}

number!(
    /// A price in the instrument's price unit. May be negative where the instrument says so.
    Px(i64)
);
number!(
    /// A quantity in the instrument's quantity unit. Signed where it is a position (long positive).
    Qty(i64)
);
number!(
    /// A value in the firm's base unit.
    Notional(i64)
);
number!(
    /// Hundredths of a percent.
    Bps(u32)
);
number!(
    /// Nanoseconds of the host's monotonic clock. Only differences mean anything.
    MonoNanos(u64)
);
number!(
    /// Nanoseconds since the Unix epoch, UTC.
    UnixNanos(u64)
);
number!(
    /// Index of a session (one gateway instance's event stream) in the [`Universe`](crate::model::Universe).
    SessionId(u16)
);
number!(
    /// Index of an account.
    AccountId(u16)
);
number!(
    /// Index of a strategy.
    StrategyId(u16)
);
number!(
    /// Index of an instrument.
    InstrumentId(u32)
);
number!(
    /// Index of a currency.
    CurrencyId(u16)
);
number!(
    /// A client order id (FIX 11), unique within its session.
    ///
    /// A client that speaks binary uses numbers below 2^63. The edge gives a text id a number of its
    /// own with the top bit set ([`OrdId::TEXT`]), or, where the text is the canonical decimal form of
    /// a number below 2^63, that number. So two different ids are never the same `OrdId`.
    OrdId(u64)
);
number!(
    /// An execution id (FIX 17), unique within its session. Text is interned as for [`OrdId`].
    ExecId(u64)
);

impl OrdId {
    /// Set in ids that the edge made for a text; a client may not send it.
    pub const TEXT: u64 = 1 << 63;
    /// "No id": refused where an id is needed.
    pub const NONE: OrdId = OrdId(0);
}

impl SessionId {
    /// An id that no universe holds: what the edge writes for a name that it does not know.
    pub const UNKNOWN: SessionId = SessionId(u16::MAX);
}
impl AccountId {
    /// See [`SessionId::UNKNOWN`].
    pub const UNKNOWN: AccountId = AccountId(u16::MAX);
}
impl StrategyId {
    /// See [`SessionId::UNKNOWN`].
    pub const UNKNOWN: StrategyId = StrategyId(u16::MAX);
}
impl InstrumentId {
    /// See [`SessionId::UNKNOWN`].
    pub const UNKNOWN: InstrumentId = InstrumentId(u32::MAX);
}

impl MonoNanos {
    /// Nanoseconds from `earlier` to `self`, 0 if `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: MonoNanos) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// The two clock readings that one step of the engine works with.
///
/// They are read once, outside, and passed in; the engine itself never reads a clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Drives every window, age and time-out. Must not go back between steps; if it does, the engine
    /// uses the latest it has seen.
    pub mono: MonoNanos,
    /// Compared with an event's own time stamp (clock skew), and recorded. Drives nothing else.
    pub unix: UnixNanos,
}

/// Why a decimal text is not a number that we can hold exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecimalError {
    /// Empty, or something other than `[+-]digits[.digits]`.
    Syntax,
    /// More decimal places than the scale holds, and not all of the extra ones zero.
    TooPrecise,
    /// Larger than [`REPRESENTABLE_MAX`].
    TooLarge,
}

impl DecimalError {
    /// The rule that the text broke, for an error message.
    #[must_use]
    pub const fn rule(self) -> &'static str {
        match self {
            DecimalError::Syntax => "must be a decimal number such as 12 or 12.50",
            DecimalError::TooPrecise => "has more decimal places than its unit holds",
            DecimalError::TooLarge => "is too large to be represented",
        }
    }
}

/// Parses `text` as an exact count of `10^-scale`.
///
/// No exponent, no rounding: `"1.005"` at scale 2 is [`DecimalError::TooPrecise`]. Underscores may
/// group digits of the whole part, as in TOML.
///
/// # Errors
/// See [`DecimalError`].
pub fn parse_decimal(text: &str, scale: u8) -> Result<i64, DecimalError> {
    let bytes = text.as_bytes();
    let (negative, digits) = match bytes.first() {
        Some(b'-') => (true, &bytes[1..]),
        Some(b'+') => (false, &bytes[1..]),
        _ => (false, bytes),
    };
    let mut value: i64 = 0;
    let mut whole_digits = 0usize;
    let mut places: Option<u8> = None;
    let mut fraction_digits = 0usize;
    let mut last_was_digit = false;
    for &b in digits {
        match b {
            b'0'..=b'9' => {
                last_was_digit = true;
                let digit = i64::from(b - b'0');
                match &mut places {
                    None => whole_digits += 1,
                    Some(n) => {
                        fraction_digits += 1;
                        if *n == scale {
                            if digit != 0 {
                                return Err(DecimalError::TooPrecise);
                            }
                            continue;
                        }
                        *n += 1;
                    }
                }
                value = value
                    .checked_mul(10)
                    .and_then(|v| v.checked_add(digit))
                    .filter(|v| *v <= REPRESENTABLE_MAX)
                    .ok_or(DecimalError::TooLarge)?;
            }
            b'_' if last_was_digit && places.is_none() => last_was_digit = false,
            b'.' if places.is_none() && last_was_digit => {
                places = Some(0);
                last_was_digit = false;
            }
            _ => return Err(DecimalError::Syntax),
        }
    }
    if whole_digits == 0 || !last_was_digit || (places.is_some() && fraction_digits == 0) {
        return Err(DecimalError::Syntax);
    }
    for _ in places.unwrap_or(0)..scale {
        value = value.checked_mul(10).filter(|v| *v <= REPRESENTABLE_MAX).ok_or(DecimalError::TooLarge)?;
    }
    Ok(if negative { -value } else { value })
}

/// Shows `value`, a count of `10^-scale`, as an exact decimal without trailing zeros after the point.
#[must_use]
pub fn format_decimal(value: i64, scale: u8) -> String {
    let sign = if value < 0 { "-" } else { "" };
    let magnitude = value.unsigned_abs();
    if scale == 0 || scale > 19 {
        return format!("{sign}{magnitude}");
    }
    let unit = 10u128.pow(u32::from(scale));
    let whole = u128::from(magnitude) / unit;
    let fraction = u128::from(magnitude) % unit;
    let text = format!("{fraction:0width$}", width = usize::from(scale));
    let text = text.trim_end_matches('0');
    if text.is_empty() { format!("{sign}{whole}") } else { format!("{sign}{whole}.{text}") }
}

/// An exact positive ratio that turns price unit × quantity unit into base units.
///
/// `base = raw × num / den`, with `num / den` = multiplier × FX rate × `10^(base_scale - px_scale -
/// qty_scale)` in lowest terms, so that for most instruments `den` is 1 and there is no division.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conversion {
    num: u64,
    den: i128,
}

impl Conversion {
    /// What an unknown rate converts with: nothing. Every use of it yields `None`.
    pub const UNKNOWN: Conversion = Conversion { num: 0, den: 1 };

    /// Builds the ratio `multiplier × 10^-multiplier_scale × rate × 10^-rate_scale × 10^(base_scale -
    /// px_scale - qty_scale)`.
    ///
    /// Returns `None` if a factor is not positive or the ratio's terms do not fit (then nothing of
    /// that instrument can be valued, and every order that needs it is denied).
    #[must_use]
    pub fn new(
        multiplier: (i64, u8),
        rate: (i64, u8),
        px_scale: u8,
        qty_scale: u8,
        base_scale: u8,
    ) -> Option<Conversion> {
        let (m, r) = (u128::try_from(multiplier.0).ok()?, u128::try_from(rate.0).ok()?);
        if m == 0 || r == 0 {
            return None;
        }
        let mut num = m.checked_mul(r)?;
        let mut den = 1u128;
        let down = u32::from(multiplier.1) + u32::from(rate.1) + u32::from(px_scale) + u32::from(qty_scale);
        let up = u32::from(base_scale);
        if up >= down {
            num = num.checked_mul(10u128.checked_pow(up - down)?)?;
        } else {
            den = 10u128.checked_pow(down - up)?;
        }
        // `den` is a power of ten: only twos and fives can be common.
        for prime in [2, 5] {
            while num.is_multiple_of(prime) && den.is_multiple_of(prime) {
                num /= prime;
                den /= prime;
            }
        }
        Some(Conversion { num: u64::try_from(num).ok()?, den: i128::try_from(den).ok()? })
    }

    /// Whether this is [`Conversion::UNKNOWN`].
    #[must_use]
    pub const fn is_unknown(self) -> bool {
        self.num == 0
    }

    /// The value of `raw` (price unit × quantity unit), rounded towards plus infinity: for exposures.
    ///
    /// `None` if the rate is unknown or the value is beyond [`REPRESENTABLE_MAX`].
    #[inline]
    #[must_use]
    pub fn up(self, raw: i128) -> Option<i64> {
        let product = self.product(raw)?;
        if self.den == 1 {
            return representable(product);
        }
        let floor = product.div_euclid(self.den);
        representable(floor + i128::from(floor * self.den != product))
    }

    /// As [`Conversion::up`], rounded towards minus infinity: for profit and loss.
    #[inline]
    #[must_use]
    pub fn down(self, raw: i128) -> Option<i64> {
        let product = self.product(raw)?;
        if self.den == 1 {
            return representable(product);
        }
        representable(product.div_euclid(self.den))
    }

    /// The ratio, where it is a whole number that 64 bits hold and known.
    #[must_use]
    pub fn whole(self) -> Option<i64> {
        let known = self.den == 1 && !self.is_unknown();
        i64::try_from(self.num).ok().filter(|_| known)
    }

    #[inline]
    fn product(self, raw: i128) -> Option<i128> {
        if self.num == 0 {
            return None;
        }
        // Nearly every raw value fits 64 bits: one multiplication that cannot overflow.
        match (i64::try_from(raw), i64::try_from(self.num)) {
            (Ok(raw), Ok(num)) => Some(i128::from(raw) * i128::from(num)),
            _ => raw.checked_mul(i128::from(self.num)),
        }
    }
}

#[inline]
fn representable(value: i128) -> Option<i64> {
    let max = i128::from(REPRESENTABLE_MAX);
    if value >= -max && value <= max { Some(value as i64) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_exact_or_refused() {
        assert_eq!(parse_decimal("12.50", 2), Ok(1250));
        assert_eq!(parse_decimal("-0.00001234", 8), Ok(-1234));
        assert_eq!(parse_decimal("1_000", 0), Ok(1000));
        assert_eq!(parse_decimal("1.500", 1), Ok(15));
        assert_eq!(parse_decimal("1.05", 1), Err(DecimalError::TooPrecise));
        for bad in ["", "-", ".", ".5", "5.", "1e3", "1__0", "_1", "1_", "0x1", " 1", "1.2.3", "nan", "１"] {
            assert_eq!(parse_decimal(bad, 4), Err(DecimalError::Syntax), "{bad:?}");
        }
        assert_eq!(parse_decimal("4611686018427387903", 0), Ok(REPRESENTABLE_MAX));
        assert_eq!(parse_decimal("4611686018427387904", 0), Err(DecimalError::TooLarge));
        assert_eq!(parse_decimal("461168601842738790", 2), Err(DecimalError::TooLarge));
    }

    #[test]
    fn decimals_print_as_they_were_meant() {
        for (value, scale, text) in
            [(1250, 2, "12.5"), (-1234, 8, "-0.00001234"), (7, 0, "7"), (0, 4, "0"), (-100, 2, "-1")]
        {
            assert_eq!(format_decimal(value, scale), text);
        }
    }

    #[test]
    fn conversion_rounds_against_the_trader() {
        // 0.00001234 (scale 8) times one unit into cents: a hundredth of a cent and more, so one cent.
        let c = Conversion::new((1, 0), (1, 0), 8, 0, 2).unwrap();
        assert_eq!(c.up(1234), Some(1));
        assert_eq!(c.down(1234), Some(0));
        assert_eq!(c.up(-1234), Some(0));
        assert_eq!(c.down(-1234), Some(-1));
        assert_eq!(c.up(1_000_000), Some(1));
        assert_eq!(c.down(1_000_000), Some(1));
    }

    #[test]
    fn conversion_holds_real_products_and_refuses_the_rest() {
        // ES: 5,000.25 × 50 USD × 2,000 lots, in 1/10,000 USD.
        let es = Conversion::new((50, 0), (1, 0), 2, 0, 4).unwrap();
        assert_eq!(es.up(500_025 * 2_000), Some(500_025 * 2_000 * 50 * 100));
        // 21 million BTC in satoshi at 100,000.00 USD.
        let btc = Conversion::new((1, 0), (1, 0), 2, 8, 4).unwrap();
        assert_eq!(btc.up(10_000_000i128 * 2_100_000_000_000_000), Some(21_000_000 * 100_000 * 10_000));
        // A trillion tokens at 0.00001234.
        let token = Conversion::new((1, 0), (1, 0), 8, 0, 4).unwrap();
        assert_eq!(token.up(1234 * 1_000_000_000_000), Some(12_340_000 * 10_000));
        assert_eq!(token.up(i128::MAX / 2), None);
        assert_eq!(Conversion::UNKNOWN.up(1), None);
        assert_eq!(Conversion::new((0, 0), (1, 0), 0, 0, 0), None);
        assert_eq!(Conversion::new((1, 0), (-1, 0), 0, 0, 0), None);
    }
}
