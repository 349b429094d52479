//! The part of the limits that every order is compared with, precomputed.

use crate::limits::table::{Gauge, ScopeLimits, SideRule, UNLIMITED};
use crate::model::rule::Rule;

/// What a profile arms: which inputs an order under it needs.
pub mod armed {
    /// A collar.
    pub const COLLAR: u32 = 1;
    /// Gross or net exposure.
    pub const EXPOSURE: u32 = 2;
    /// Daily loss, drawdown or loss velocity.
    pub const LOSS: u32 = 4;
    /// Loss velocity.
    pub const LOSS_VELOCITY: u32 = 8;
    /// Order notional.
    pub const NOTIONAL: u32 = 16;
    /// Order participation.
    pub const PARTICIPATION: u32 = 32;
    /// Day participation.
    pub const DAY: u32 = 64;
    /// Fan-out.
    pub const FAN_OUT: u32 = 128;
    /// Not every rule about parents is.
    pub const PARENT_OFF: u32 = 256;
}

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct HotProfile {
    /// A gauge above this is looked at more closely: its first warning level or its limit.
    pub soft: [i64; Gauge::COUNT],
    /// Quantity of one order.
    pub order_qty: i64,
    /// Value of one order.
    pub order_notional: i64,
    /// Participation of one order in bps.
    pub order_participation: i64,
    /// Collar in bps.
    pub collar: i64,
    /// Limit of [`Gauge::DayQty`] in bps.
    pub day_participation: i64,
    /// Longest silence in ns.
    pub heartbeat_ns: i64,
    /// Largest clock skew in ns.
    pub clock_skew_ns: i64,
    /// Children of one parent.
    pub children: i64,
    /// A bit per rule that an order has to be judged by because the profile limits it.
    pub mandatory: u64,
    /// See [`ScopeLimits::demanded`].
    pub demanded: u64,
    /// See [`armed`].
    pub armed: u32,
    /// Sides.
    pub sides: SideRule,
}

/// The value at which a limit of `limit` is `percent` used, rounded up.
#[must_use]
pub fn threshold(limit: i64, percent: u8) -> i64 {
    if (0..1 << 56).contains(&limit) {
        return (limit as u64 * u64::from(percent)).div_ceil(100) as i64;
    }
    ((i128::from(limit) * i128::from(percent) + 99) / 100) as i64
}

impl HotProfile {
    /// The hot part of `limits`.
    #[must_use]
    pub fn of(limits: &ScopeLimits) -> HotProfile {
        let mut soft = [UNLIMITED; Gauge::COUNT];
        let mut bits = 0;
        for gauge in Gauge::ALL {
            let limit = limits.of(gauge);
            let warn = limits.warn[gauge.rule() as usize][0];
            soft[gauge as usize] = match limit {
                UNLIMITED => UNLIMITED,
                // Of a level gauge (one that no order moves) a limit of zero is always breached.
                0 if is_level(gauge) => i64::MIN,
                _ if limit > 0 && warn > 0 => (threshold(limit, warn) - 1).min(limit),
                _ => limit,
            }
            .min(UNLIMITED);
            if limit != UNLIMITED {
                bits |= match gauge {
                    Gauge::Gross | Gauge::NetLong | Gauge::NetShort => armed::EXPOSURE,
                    Gauge::Loss | Gauge::Drawdown => armed::LOSS,
                    Gauge::LossVelocity => armed::LOSS | armed::LOSS_VELOCITY,
                    Gauge::DayQty => armed::DAY,
                    Gauge::Working | Gauge::Orders | Gauge::Executions | Gauge::PositionLong | Gauge::PositionShort => {
                        0
                    }
                };
            }
        }
        for (value, bit) in [
            (limits.collar, armed::COLLAR),
            (limits.order_notional, armed::NOTIONAL),
            (limits.order_participation, armed::PARTICIPATION),
        ] {
            if value != UNLIMITED {
                bits |= bit;
            }
        }
        // A second limit of the same gauge: whichever comes first is where to look closely.
        let warn = limits.warn[Rule::Suspense as usize][0];
        let suspense = match limits.suspense {
            limit if limit > 0 && limit != UNLIMITED && warn > 0 => (threshold(limit, warn) - 1).min(limit),
            limit => limit,
        };
        let gross = &mut soft[Gauge::Gross as usize];
        *gross = (*gross).min(suspense);
        if limits.suspense != UNLIMITED {
            bits |= armed::EXPOSURE;
        }
        if limits.fan_out.is_some() {
            bits |= armed::FAN_OUT;
        }
        if limits.parent_off != 0 {
            bits |= armed::PARENT_OFF;
        }
        HotProfile {
            soft,
            order_qty: limits.order_qty,
            order_notional: limits.order_notional,
            order_participation: limits.order_participation,
            collar: limits.collar,
            day_participation: limits.of(Gauge::DayQty),
            heartbeat_ns: limits.heartbeat_ns,
            clock_skew_ns: limits.clock_skew_ns,
            children: limits.children,
            mandatory: Rule::ALL
                .into_iter()
                .filter(|rule| judges_orders(*rule) && limits_rule(limits, *rule))
                .fold(0, |bits, rule| bits | 1 << rule as u64),
            demanded: limits.demanded,
            armed: bits,
            sides: limits.sides,
        }
    }
}

/// Whether an order is judged by `rule` where it is limited: the others count what is no new flow.
#[must_use]
pub const fn judges_orders(rule: Rule) -> bool {
    !matches!(rule, Rule::CancelRate | Rule::Denials | Rule::OrphanFills)
}

/// Whether `gauge` is one that denies by its level alone, not by what an order adds.
#[must_use]
pub const fn is_level(gauge: Gauge) -> bool {
    matches!(gauge, Gauge::Executions | Gauge::Loss | Gauge::Drawdown | Gauge::LossVelocity)
}

/// Whether `limits` limits `rule` (a number other than unlimited stands there).
#[must_use]
pub fn limits_rule(limits: &ScopeLimits, rule: Rule) -> bool {
    if let Some(gauge) = Gauge::of(rule) {
        return limits.of(gauge) != UNLIMITED;
    }
    match rule {
        Rule::OrderQty => limits.order_qty != UNLIMITED,
        Rule::OrderNotional => limits.order_notional != UNLIMITED,
        Rule::OrderParticipation => limits.order_participation != UNLIMITED,
        Rule::Collar => limits.collar != UNLIMITED,
        Rule::DuplicateOrder => limits.duplicate.is_some(),
        Rule::HeartbeatLoss => limits.heartbeat_ns != UNLIMITED,
        Rule::ClockSkew => limits.clock_skew_ns != UNLIMITED,
        Rule::Children => limits.children != UNLIMITED,
        Rule::FanOut => limits.fan_out.is_some(),
        Rule::Suspense => limits.suspense != UNLIMITED,
        Rule::OrderRate | Rule::MessageRate | Rule::CancelRate | Rule::Denials | Rule::OrphanFills => {
            limits.rates.iter().any(|r| r.of.rule() == rule)
        }
        _ => false,
    }
}
