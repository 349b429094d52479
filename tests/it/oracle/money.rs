//! Exact values the long way: no reduction of the ratio, digits in a vector where 128 bits are too few.

/// The largest magnitude that a price, quantity or value may have.
pub const MAX: i128 = (1 << 62) - 1;

/// Contract multiplier and FX rate with their decimal places, and the scales of both sides.
#[derive(Clone, Copy, Debug)]
pub struct Factors {
    pub multiplier: (i64, u8),
    pub rate: (i64, u8),
    pub px_scale: u8,
    pub qty_scale: u8,
    pub base_scale: u8,
}

/// Which way to round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    /// Towards plus infinity.
    Up,
    /// Towards minus infinity.
    Down,
}

/// `raw` (price unit × quantity unit) in base units; `None` if it is beyond [`MAX`].
pub fn value(raw: i128, f: &Factors, round: Round) -> Option<i64> {
    let down = u32::from(f.multiplier.1) + u32::from(f.rate.1) + u32::from(f.px_scale) + u32::from(f.qty_scale);
    let up = u32::from(f.base_scale);
    let (m, r) = (u128::try_from(f.multiplier.0).ok()?, u128::try_from(f.rate.0).ok()?);
    let (whole, rest) = match short(raw.unsigned_abs(), m, r, up, down) {
        Some(result) => result,
        None => long(raw.unsigned_abs(), m, r, up, down)?,
    };
    let away = rest && ((raw > 0) == (round == Round::Up));
    let magnitude = i128::try_from(whole).ok()? + i128::from(away);
    let signed = if raw < 0 { -magnitude } else { magnitude };
    if signed.abs() > MAX { None } else { Some(signed as i64) }
}

/// Quotient and whether something is left, in 128 bits; `None` if those are too few.
fn short(raw: u128, m: u128, r: u128, up: u32, down: u32) -> Option<(u128, bool)> {
    let product = raw.checked_mul(m)?.checked_mul(r)?.checked_mul(10u128.pow(up))?;
    let divisor = 10u128.checked_pow(down)?;
    Some((product / divisor, product % divisor != 0))
}

/// The same with as many digits as it takes.
fn long(raw: u128, m: u128, r: u128, up: u32, down: u32) -> Option<(u128, bool)> {
    let mut digits = vec![1u32];
    for factor in [raw, m, r, 10u128.pow(up)] {
        digits = multiply(&digits, factor);
    }
    let mut rest = false;
    for _ in 0..down {
        let mut carry = 0u64;
        for digit in digits.iter_mut().rev() {
            let present = carry << 32 | u64::from(*digit);
            *digit = (present / 10) as u32;
            carry = present % 10;
        }
        rest |= carry != 0;
    }
    let mut whole = 0u128;
    for (place, digit) in digits.iter().enumerate() {
        if *digit != 0 {
            if place >= 4 {
                return None;
            }
            whole |= u128::from(*digit) << (32 * place);
        }
    }
    Some((whole, rest))
}

fn multiply(digits: &[u32], factor: u128) -> Vec<u32> {
    let mut product = vec![0u32; digits.len() + 5];
    for part in 0..4 {
        let by = u64::from((factor >> (32 * part)) as u32);
        let mut carry = 0u64;
        for (place, digit) in digits.iter().enumerate() {
            let sum = u64::from(*digit) * by + u64::from(product[place + part]) + carry;
            product[place + part] = sum as u32;
            carry = sum >> 32;
        }
        let mut place = digits.len() + part;
        while carry != 0 {
            let sum = u64::from(product[place]) + carry;
            product[place] = sum as u32;
            carry = sum >> 32;
            place += 1;
        }
    }
    product
}

/// `a / b` rounded towards plus infinity, for `b > 0`.
pub fn ceil_div(a: i128, b: i128) -> i128 {
    let quotient = a / b;
    if a % b != 0 && a > 0 { quotient + 1 } else { quotient }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Factors = Factors { multiplier: (1, 0), rate: (1, 0), px_scale: 2, qty_scale: 0, base_scale: 0 };

    #[test]
    fn rounding_is_towards_the_side_asked_for() {
        assert_eq!(value(150, &PLAIN, Round::Up), Some(2));
        assert_eq!(value(150, &PLAIN, Round::Down), Some(1));
        assert_eq!(value(-150, &PLAIN, Round::Up), Some(-1));
        assert_eq!(value(-150, &PLAIN, Round::Down), Some(-2));
        assert_eq!(value(200, &PLAIN, Round::Up), Some(2));
        assert_eq!(value(0, &PLAIN, Round::Down), Some(0));
    }

    #[test]
    fn the_long_way_agrees_with_the_short_one() {
        for raw in [0u128, 1, 7, 999, 1_000_000_007, u128::from(u64::MAX), 1 << 80] {
            for (m, r, up, down) in [(1, 1, 0, 0), (5, 12_345_678_901, 4, 14), (1_000_003, 9_999_999_999, 2, 30)] {
                if let Some(expected) = short(raw, m, r, up, down) {
                    assert_eq!(long(raw, m, r, up, down), Some(expected), "{raw} {m} {r} {up} {down}");
                }
            }
        }
    }

    #[test]
    fn a_product_of_200_bits_is_still_exact() {
        let f = Factors { multiplier: (1 << 40, 0), rate: (1 << 40, 10), px_scale: 12, qty_scale: 12, base_scale: 0 };
        // 2^90 × 2^80 / 10^34 = 149,657,767,662,684,458.5; a million times that is beyond the largest.
        assert_eq!(value(1 << 110, &f, Round::Up), None);
        assert_eq!(value(1 << 90, &f, Round::Down), Some(149_657_767_662_684_458));
        assert_eq!(value(1 << 90, &f, Round::Up), Some(149_657_767_662_684_459));
    }
}
