//! HOT: no I/O, lock, allocation, logging, formatting, clock or syscall; every loop bounded.
//!
//! The quick way through the rules: nearly every order breaches nothing and reaches no warning, and that can be seen
//! with far fewer instructions than it takes to tell what would be breached. [`Engine::surely_admits`] answers
//! "certainly nothing" or "look closely"; the close look is [`judge`](super::judge), and it alone denies and warns.
//! What is certain is booked by plain sums: every gauge was just seen to stay below a threshold that can be represented.

use crate::engine::core::{Engine, ScopeState, counts_new};
use crate::engine::coverage;
use crate::engine::judge::{likeness_of, participates_more};
use crate::limits::hot::armed;
use crate::limits::{Gauge, HotProfile, SideRule, UNLIMITED};
use crate::model::{Effects, Event, Mode, OrdType};
use crate::risk::duplicates::Look;
use crate::risk::index::Vacancy;
use crate::risk::orders::{NONE, Order, OrderState};
use crate::risk::pairs::{Pair, side_index};
use crate::units::{Now, REPRESENTABLE_MAX};

/// An order that certainly breaches nothing, and what there is to book.
#[derive(Debug)]
pub(super) struct Sure {
    /// Firm, account, strategy, instrument, session.
    slots: [usize; 5],
    /// Its pair, if it was ever used.
    pair: Option<u32>,
    place: Vacancy,
    /// The parent that it counts towards.
    parent: Option<u32>,
    /// What the duplicate log knows of it; `None`: no limit, so that it is not logged.
    look: Option<Look>,
    added: Added,
    /// A bit per rule that was looked at.
    pub checks: u64,
}

/// What an order adds to its scopes, besides one order. Nothing is negative.
#[derive(Clone, Copy, Debug)]
struct Added {
    /// The gauges of its side.
    net_at: usize,
    position_at: usize,
    qty: i64,
    raw: i128,
    net: i64,
    gross: i64,
}

const GROSS: usize = Gauge::Gross as usize;
const WORKING: usize = Gauge::Working as usize;
const ORDERS: usize = Gauge::Orders as usize;
const DAY: usize = Gauge::DayQty as usize;

/// Whether the order takes what it counts at every scope beyond a threshold, or too many executions stand against it.
#[inline]
fn counts_over(state: &ScopeState, hot: &HotProfile) -> bool {
    let executions = Gauge::Executions as usize;
    let (now, soft) = (&state.gauges, &hot.soft);
    (now[WORKING] + 1 > soft[WORKING]) | (now[ORDERS] + 1 > soft[ORDERS]) | (now[executions] > soft[executions])
}

/// The same for what is valued. No sum leaves 64 bits: a gauge and what is added are each below 2^62.
#[inline]
fn money_over(state: &ScopeState, hot: &HotProfile, added: &Added) -> bool {
    let (now, soft) = (&state.gauges, &hot.soft);
    let mut over = (now[GROSS] + added.gross > soft[GROSS]) | (now[added.net_at] + added.net > soft[added.net_at]);
    for level in [Gauge::Loss, Gauge::Drawdown, Gauge::LossVelocity] {
        over |= now[level as usize] > soft[level as usize];
    }
    over
}

impl Engine {
    /// Whether the new order of `event` certainly breaches nothing and warns of nothing but perhaps a rate. `None`: look
    /// closely.
    #[inline]
    pub(super) fn surely_admits(&self, now: Now, event: &Event, silence: u64) -> Option<Sure> {
        let account = *self.accounts.get(usize::from(event.strategy.0))?;
        let reference = self.references.get(event.instrument.0 as usize)?;
        let (qty, px) = (event.qty.0, event.px.0);
        let plain = event.flags == 0
            && !self.behind
            && event.id.0 != 0
            && event.account == account
            && matches!(event.ord_type, OrdType::Limit | OrdType::StopLimit)
            && (1..=REPRESENTABLE_MAX).contains(&qty)
            && (1..=REPRESENTABLE_MAX).contains(&px);
        let fx = &self.fx[usize::from(reference.currency.0)];
        if !plain || reference.left > 0 || reference.rate != fx.rate || reference.restricted {
            return None;
        }
        let slots = [
            0,
            1 + usize::from(account.0),
            self.strategy_base + usize::from(event.strategy.0),
            self.instrument_base + event.instrument.0 as usize,
            self.session_base + usize::from(event.session.0),
        ];
        let unused = Pair::empty(event.strategy, event.instrument);
        let found = self.pairs.find(event.strategy, event.instrument);
        let (pair, pair_profile) = match found {
            Some(slot) => {
                let pair = self.pairs.get(slot);
                if pair.generation != self.table.generation || pair.unvalued || pair.overflowed {
                    return None;
                }
                (pair, pair.profile)
            }
            None if self.pairs.has_spare() => (&unused, self.table.pair_index(event.strategy, event.instrument)),
            None => return None,
        };
        let [firm, of_account, strategy, instrument, session] = slots.map(|slot| &self.scopes[slot]);
        let states = [firm, of_account, strategy, instrument, session];
        let [firm_hot, account_hot, strategy_hot, instrument_hot, session_hot] =
            states.map(|state| self.hot(state.profile));
        let pair_hot = self.hot(pair_profile);

        // The session, modes, permissions, sides.
        let silent = session_hot.heartbeat_ns != UNLIMITED
            && (session_hot.heartbeat_ns == 0 || i64::try_from(silence).map_or(true, |s| s > session_hot.heartbeat_ns));
        let skewed = session_hot.clock_skew_ns != UNLIMITED && self.skew_beyond(event, now).is_some();
        let mut held = false;
        for state in states {
            held |= (state.mode != Mode::Normal) | state.overflowed;
        }
        let listed = &self.universe.sessions[usize::from(event.session.0)].strategies;
        let permitted = (listed.is_empty() || listed.contains(&event.strategy))
            && self.table.is_permitted(event.strategy, event.instrument);
        if silent || skewed || held || !permitted {
            return None;
        }

        // The order itself, against the tightest of its scopes.
        let mut checks = coverage::ENTITY | coverage::STREAM | coverage::MODE | coverage::PERMISSION;
        let (mut arms, mut sided, mut limited, mut demanded) = (0, false, 0, 0);
        let (mut order_qty, mut notional, mut of_volume, mut collar) = (UNLIMITED, UNLIMITED, UNLIMITED, UNLIMITED);
        let mut children = UNLIMITED;
        for hot in [firm_hot, account_hot, strategy_hot, pair_hot, instrument_hot, session_hot] {
            arms |= hot.armed;
            limited |= hot.mandatory;
            demanded |= hot.demanded;
            sided |= hot.sides != SideRule::Both;
            order_qty = order_qty.min(hot.order_qty);
            notional = notional.min(hot.order_notional);
            of_volume = of_volume.min(hot.order_participation);
            collar = collar.min(hot.collar);
            children = children.min(hot.children);
        }
        checks |= coverage::QTY;
        let needs_reference = arms & (armed::COLLAR | armed::EXPOSURE | armed::LOSS) != 0;
        let needs_fx = arms & (armed::NOTIONAL | armed::EXPOSURE | armed::LOSS) != 0;
        if sided || qty > order_qty || of_account.suspense || arms & armed::PARENT_OFF != 0 {
            return None;
        }
        let parent = self.surely_covered(now, event, strategy.parents, children)?;
        if !self.surely_fans_within(now.mono, arms, [slots[0], slots[1], slots[2], slots[4]]) {
            return None;
        }
        if needs_reference && (!reference.known || now.mono.since(reference.at) > reference.most_age) {
            return None;
        }
        if needs_fx && self.fx_state(reference.currency, now.mono).is_some() {
            return None;
        }
        checks |= coverage::PARENT | coverage::CHILDREN | coverage::FAN_OUT;
        let raw = i128::from(qty) * i128::from(px);
        if arms & armed::NOTIONAL != 0 && reference.up(raw)? > notional {
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

        checks |= coverage::NOTIONAL | coverage::PARTICIPATION | coverage::COLLAR;

        // What it adds. The pair is valued at the present reference, so that the other side stays as it is.
        let side = side_index(event.side);
        let total = pair.raw[side].checked_add(raw)?;
        let net = pair.value_of(event.side, total, reference.valued_at(), |raw| reference.up(raw))?;
        let net_before = pair.net[side];
        let leaves = pair.leaves[side] + qty;
        let position = event.side.sign() * pair.position + leaves;
        let added = Added {
            net_at: [Gauge::NetLong, Gauge::NetShort][side] as usize,
            position_at: [Gauge::PositionLong, Gauge::PositionShort][side] as usize,
            qty,
            raw,
            net: net - net_before,
            gross: net.max(0) - net_before.max(0),
        };
        let fits = (0..=REPRESENTABLE_MAX).contains(&added.net) && leaves <= REPRESENTABLE_MAX;
        if !fits {
            return None;
        }

        // The gauges of every scope.
        let (now_at, soft) = (&instrument.gauges, &instrument_hot.soft);
        let mut over = counts_over(firm, firm_hot)
            | counts_over(of_account, account_hot)
            | counts_over(strategy, strategy_hot)
            | counts_over(instrument, instrument_hot)
            | counts_over(session, session_hot)
            | money_over(firm, firm_hot, &added)
            | money_over(of_account, account_hot, &added)
            | money_over(strategy, strategy_hot, &added)
            | money_over(instrument, instrument_hot, &added)
            | (now_at[added.position_at] + qty > soft[added.position_at])
            | (now_at[DAY] + qty > REPRESENTABLE_MAX);
        let gross = pair.net[0].max(0) + pair.net[1].max(0) + added.gross;
        over |= (gross > pair_hot.soft[GROSS])
            | (net > pair_hot.soft[added.net_at])
            | (position > pair_hot.soft[added.position_at])
            | (i64::from(pair.working) >= pair_hot.soft[WORKING]);
        if over {
            return None;
        }
        if arms & armed::DAY != 0 {
            let of_pair = pair.traded.saturating_add(pair.leaves[0]).saturating_add(pair.leaves[1]);
            for (before, hot) in [(of_pair, pair_hot), (now_at[DAY], instrument_hot)] {
                let limit = hot.day_participation;
                if limit != UNLIMITED && participates_more(before.saturating_add(qty), reference.volume, limit) {
                    return None;
                }
            }
        }

        checks |= coverage::COUNTS | coverage::RISK;

        // Rates, duplicates, room.
        for state in states {
            for meter in state.meters() {
                if counts_new(self.rates.of(meter)) && !self.rates.fits(meter, now.mono) {
                    return None;
                }
            }
        }
        checks |= coverage::RATES;
        let look = match self.table.profile(strategy.profile).duplicate {
            Some(limit) => {
                let what = likeness_of(event);
                let look = self.recent.look(&what);
                let free = self.recent.has_room(now.mono, limit.window_ns)
                    && self.recent.count(&what, look, now.mono, limit.window_ns, limit.count) < limit.count;
                if !free {
                    return None;
                }
                Some(look)
            }
            None => None,
        };
        checks |= coverage::DUPLICATE;
        if !self.execs.has_room() {
            return None;
        }
        let place = self.orders.vacancy(event.session, event.id)?;
        let reduces = pair.reduces(event.side, qty);
        let held = coverage::is_held(strategy.parents, event.parent_id() != 0, false);
        if !held {
            checks &= !(coverage::PARENT | coverage::CHILDREN);
        }
        let checks = self.done(checks) & coverage::applicable(false, reduces);
        // Where a rule about parents is off the order was looked at closely.
        let asked = coverage::Asked { limited, demanded, held, off: 0, replace: false, reduces };
        if asked.left_out(checks) | asked.without_limit() != 0 {
            return None;
        }
        Some(Sure { slots, pair: found, place, parent, look, added, checks })
    }

    /// Books the order of `event`, which was just found to be sure.
    #[inline]
    pub(super) fn book_sure(&mut self, now: Now, event: &Event, sure: &Sure, out: &mut Effects) {
        let found = sure.pair.or_else(|| {
            let made = self.pairs.find_or_make(event.strategy, event.instrument)?;
            self.stamp_profile(made);
            Some(made)
        });
        // There was room for it a moment ago.
        let Some(pair) = found else { return };
        let added = &sure.added;
        let side = side_index(event.side);
        let p = self.pairs.get_mut(pair);
        p.leaves[side] += added.qty;
        p.raw[side] += added.raw;
        p.net[side] += added.net;
        p.working += 1;
        let order = Order {
            id: event.id,
            order_qty: event.qty.0,
            cum_qty: 0,
            worst_px: event.px.0,
            parent: sure.parent.map_or(0, |_| event.parent_id()),
            pair,
            link: NONE,
            session: event.session,
            state: OrderState::PendingNew,
            side: event.side,
            ord_type: event.ord_type,
            instrument: event.instrument,
            strategy: event.strategy,
            pending_cancel: false,
        };
        self.orders.insert_at(sure.place, order);
        self.working += 1;
        for (i, &slot) in sure.slots.iter().enumerate() {
            let gauges = &mut self.scopes[slot].gauges;
            gauges[WORKING] += 1;
            gauges[ORDERS] += 1;
            if i < 4 {
                gauges[GROSS] += added.gross;
                gauges[added.net_at] += added.net;
            }
            if i == 3 {
                gauges[added.position_at] += added.qty;
                gauges[DAY] += added.qty;
            }
        }
        for &slot in &sure.slots {
            for meter in self.scopes[slot].meters() {
                if counts_new(self.rates.of(meter)) && self.rates.record(meter, now.mono) {
                    self.warn_rate(now.mono, slot, meter, out);
                }
            }
        }
        if let Some(parent) = sure.parent {
            self.add_child(parent, event.session, added.qty);
        }
        let [firm, account, strategy, _, session] = sure.slots;
        self.count_out(now.mono, [firm, account, strategy, session]);
        if let Some(look) = sure.look {
            self.recent.record(likeness_of(event), look, now.mono);
        }
    }
}
