//! HOT: no I/O, lock, allocation, logging, formatting, clock or syscall; every loop bounded.
//!
//! The quick way through the rules: nearly every order breaches nothing, and that can be seen with far
//! fewer instructions than it takes to tell what would be breached. [`Engine::admits_quickly`] answers
//! "certainly nothing" or "look closely"; the close look is [`judge`](super::judge), and it alone denies.

use crate::engine::core::Engine;
use crate::engine::judge::{Added, Request, likeness, participates_more};
use crate::limits::hot::armed;
use crate::limits::{Gauge, RateOf, SideRule, UNLIMITED};
use crate::model::{Event, Mode, OrdType};
use crate::risk::pairs::{Gauges, Pair, side_index};
use crate::units::{Now, REPRESENTABLE_MAX};

/// Far below any gauge: what is "added" to a gauge that the order does not raise, so that it cannot be over.
const SUNK: i64 = i64::MIN / 2;

/// Whether any gauge, lifted, is beyond its first threshold.
#[inline]
fn is_over(gauges: &Gauges, soft: &Gauges, lifted: &Gauges) -> bool {
    let mut over = false;
    for g in 0..Gauge::COUNT {
        over |= gauges[g].saturating_add(lifted[g]) > soft[g];
    }
    over
}

impl Engine {
    /// The new order of `event` and what it adds, if it certainly breaches nothing. `None`: look closely.
    #[inline]
    pub(super) fn admits_quickly(&self, now: Now, event: &Event, silence: u64) -> Option<(Request, Added)> {
        let strategy = self.universe.strategies.get(usize::from(event.strategy.0))?;
        let reference = self.references.get(event.instrument.0 as usize)?;
        let (qty, px) = (event.qty.0, event.px.0);
        let plain = event.flags == 0
            && !self.behind
            && event.id.0 != 0
            && event.account == strategy.account
            && matches!(event.ord_type, OrdType::Limit | OrdType::StopLimit)
            && (1..=REPRESENTABLE_MAX).contains(&qty)
            && (1..=REPRESENTABLE_MAX).contains(&px);
        let fx = &self.fx[usize::from(reference.currency.0)];
        if !plain || reference.left > 0 || reference.rate != fx.rate {
            return None;
        }
        let mut r = Request {
            session: event.session,
            account: event.account,
            strategy: event.strategy,
            instrument: event.instrument,
            replace: false,
            side: event.side,
            ord_type: event.ord_type,
            qty,
            px,
            worst_px: Some(px),
            added_qty: qty,
            added_raw: i128::from(qty) * i128::from(px),
            reduces: false,
        };
        let slots = self.slots(&r);
        let empty = Pair::empty(event.strategy, event.instrument);
        let (pair, pair_profile) = match self.pairs.find(event.strategy, event.instrument) {
            Some(slot) => {
                let pair = self.pairs.get(slot);
                if pair.generation != self.table.generation || pair.unvalued || pair.overflowed {
                    return None;
                }
                (pair, pair.profile)
            }
            None if self.pairs.has_spare() => (&empty, self.table.pair_index(event.strategy, event.instrument)),
            None => return None,
        };
        let t = &self.table;
        let hots = [
            self.hot(t.slot_index(slots[0])),
            self.hot(t.slot_index(slots[1])),
            self.hot(t.slot_index(slots[2])),
            self.hot(pair_profile),
            self.hot(t.slot_index(slots[4])),
            self.hot(t.slot_index(slots[5])),
        ];
        let states = [
            &self.scopes[slots[0]],
            &self.scopes[slots[1]],
            &self.scopes[slots[2]],
            &self.scopes[slots[4]],
            &self.scopes[slots[5]],
        ];

        // The session, modes, permissions, sides.
        let (session, spec) = (hots[5], &self.universe.sessions[usize::from(event.session.0)]);
        let silent = session.heartbeat_ns != UNLIMITED
            && (session.heartbeat_ns == 0 || i64::try_from(silence).map_or(true, |s| s > session.heartbeat_ns));
        let skewed = session.clock_skew_ns != UNLIMITED && self.skew_beyond(event, now).is_some();
        let held = states.iter().any(|s| s.mode != Mode::Normal || s.overflowed);
        let sided = hots.iter().any(|hot| hot.sides != SideRule::Both);
        let permitted = (spec.strategies.is_empty() || spec.strategies.contains(&event.strategy))
            && t.is_permitted(event.strategy, event.instrument)
            && !t.is_restricted(event.instrument);
        if silent || skewed || held || sided || !permitted {
            return None;
        }

        // The order itself, against the tightest of its scopes.
        let mut arms = 0;
        let (mut order_qty, mut notional, mut of_volume, mut collar) = (UNLIMITED, UNLIMITED, UNLIMITED, UNLIMITED);
        for hot in hots {
            arms |= hot.armed;
            order_qty = order_qty.min(hot.order_qty);
            notional = notional.min(hot.order_notional);
            of_volume = of_volume.min(hot.order_participation);
            collar = collar.min(hot.collar);
        }
        let fx_stale =
            reference.currency.0 != 0 && (fx.rate == 0 || now.mono.since(fx.at) > t.fx_age(reference.currency));
        let stale = !reference.known || now.mono.since(reference.at) > t.reference_age(event.instrument);
        let needs_reference = arms & (armed::COLLAR | armed::EXPOSURE | armed::LOSS) != 0;
        let needs_fx = arms & (armed::NOTIONAL | armed::EXPOSURE | armed::LOSS) != 0;
        if qty > order_qty || (needs_reference && stale) || (needs_fx && fx_stale) {
            return None;
        }
        if arms & armed::NOTIONAL != 0 && reference.conversion.up(r.added_raw)? > notional {
            return None;
        }
        if arms & (armed::PARTICIPATION | armed::DAY) != 0
            && (reference.volume <= 0 || participates_more(qty, reference.volume, of_volume))
        {
            return None;
        }
        if arms & armed::COLLAR != 0 {
            let distance = (i128::from(px) - i128::from(reference.px)).abs();
            if distance * 10_000 > i128::from(collar) * i128::from(reference.px).abs() {
                return None;
            }
        }

        // What it adds, at every scope.
        let side = side_index(event.side);
        let mut raw = pair.raw;
        raw[side] = raw[side].checked_add(r.added_raw)?;
        let value = pair.value(raw, if reference.known { reference.px } else { 0 }, reference.conversion)?;
        let before = pair.gauges();
        let mut added: Gauges = [0; Gauge::COUNT];
        added[Gauge::NetLong as usize] = value.net_long - pair.net_long;
        added[Gauge::NetShort as usize] = value.net_short - pair.net_short;
        added[Gauge::Gross as usize] = value.net_long.max(0) + value.net_short.max(0) - before[Gauge::Gross as usize];
        added[[Gauge::PositionLong, Gauge::PositionShort][side] as usize] = qty;
        added[Gauge::DayQty as usize] = qty;
        added[Gauge::Working as usize] = 1;
        added[Gauge::Orders as usize] = 1;
        let mut lifted = added;
        for lift in &mut lifted {
            *lift = if *lift > 0 { *lift } else { SUNK };
        }
        // Its limit is in basis points: judged apart.
        lifted[Gauge::DayQty as usize] = SUNK;
        // Levels deny by what they are.
        for gauge in [Gauge::Executions, Gauge::Loss, Gauge::Drawdown, Gauge::LossVelocity] {
            lifted[gauge as usize] = 0;
        }
        let over = is_over(&states[0].gauges, &hots[0].soft, &lifted)
            | is_over(&states[1].gauges, &hots[1].soft, &lifted)
            | is_over(&states[2].gauges, &hots[2].soft, &lifted)
            | is_over(&before, &hots[3].soft, &lifted)
            | is_over(&states[3].gauges, &hots[4].soft, &lifted)
            | is_over(&states[4].gauges, &hots[5].soft, &lifted);
        if over {
            return None;
        }
        if arms & armed::DAY != 0 {
            let day = Gauge::DayQty as usize;
            for (gauges, hot) in [(&before, hots[3]), (&states[3].gauges, hots[4])] {
                let limit = hot.day_participation;
                let after = gauges[day].saturating_add(qty);
                if limit != UNLIMITED && participates_more(after, reference.volume, limit) {
                    return None;
                }
            }
        }

        // Rates, duplicates, room.
        for slot in [slots[0], slots[1], slots[2], slots[4], slots[5]] {
            for meter in self.rates.range(slot) {
                let counts = matches!(self.rates.limit(meter).of, RateOf::Orders | RateOf::Messages);
                if counts && !self.rates.fits(meter, now.mono) {
                    return None;
                }
            }
        }
        if let Some(limit) = self.duplicate_limit(&r)
            && (!self.recent.has_room(now.mono, limit.window_ns)
                || self.recent.count(&likeness(&r), now.mono, limit.window_ns, limit.count) >= limit.count)
        {
            return None;
        }
        if !self.execs.has_room() || !self.orders.is_vacant(event.session, event.id) {
            return None;
        }
        r.reduces = pair.reduces(event.side, qty);
        Some((r, Added { gauges: added, valued: true }))
    }
}
