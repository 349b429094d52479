//! HOT: no I/O, lock, allocation, logging, formatting, clock or syscall; every loop bounded.
//!
//! Booking: requests that were let through or observed, and what the venue reports.

use crate::engine::core::{Engine, anomaly, verdict};
use crate::engine::coverage;
use crate::engine::judge::{Added, Judgement, Request, Targets, likeness, malformed};
use crate::limits::{Gauge, RateOf};
use crate::model::effect::Denial;
use crate::model::{Action, AnomalyKind, Effect, Effects, Event, EventKind, OrdType, Rule, Scope, Side, Target, Why};
use crate::risk::execs::{Exec, Inserted};
use crate::risk::orders::{NONE, Order, OrderState};
use crate::risk::pairs::{Gauges, Pair, side_index};
use crate::units::{InstrumentId, Now, OrdId, REPRESENTABLE_MAX, SessionId, StrategyId};

/// Gauges kept by firm, account and strategy, moved by pairs.
const MONEY: [Gauge; 5] = [Gauge::Gross, Gauge::NetLong, Gauge::NetShort, Gauge::Working, Gauge::Loss];
/// Those that the instrument keeps besides.
const QUANTITY: [Gauge; 3] = [Gauge::PositionLong, Gauge::PositionShort, Gauge::DayQty];

/// What a request moves: at the instrument; at firm, account and strategy the first five of these; at the session.
const ADDED_AT_INSTRUMENT: [Gauge; 8] = [
    Gauge::Gross,
    Gauge::NetLong,
    Gauge::NetShort,
    Gauge::Working,
    Gauge::Orders,
    Gauge::PositionLong,
    Gauge::PositionShort,
    Gauge::DayQty,
];
const ADDED_AT_SESSION: [Gauge; 2] = [Gauge::Working, Gauge::Orders];

/// Whether a gauge that was added to is beyond its first threshold.
#[inline]
fn reached(after: &Gauges, added: &Gauges, soft: &Gauges) -> bool {
    let mut any = false;
    for g in 0..Gauge::DayQty as usize {
        any |= (after[g] > soft[g]) & (added[g] > 0);
    }
    any
}

impl Engine {
    /// Warns of what a request that is let through has reached.
    #[cold]
    fn warn_added(&self, scope: Scope, profile: u32, after: &Gauges, added: &Gauges, out: &mut Effects) {
        let limits = self.table.profile(profile);
        for gauge in ADDED_AT_INSTRUMENT {
            let g = gauge as usize;
            if after[g] > self.hot(profile).soft[g] && added[g] > 0 && gauge != Gauge::DayQty {
                let before = after[g].saturating_sub(added[g]);
                self.warn(gauge.rule(), scope, (before, after[g]), limits.max[g], limits, out);
            }
        }
    }

    /// Changes a pair, revalues it, and moves its scopes along. `report`: the scopes are judged at the end of the step.
    pub(super) fn update_pair(&mut self, slot: u32, report: bool, change: impl FnOnce(&mut Pair)) {
        let pair = self.pairs.get(slot);
        let (strategy, instrument) = (pair.strategy, pair.instrument);
        let account = self.accounts[usize::from(strategy.0)];
        let places = [
            0,
            1 + usize::from(account.0),
            self.strategy_base + usize::from(strategy.0),
            self.instrument_base + instrument.0 as usize,
        ];
        if report {
            for place in places {
                self.touch(place);
            }
            self.touch_pair(slot);
        }
        let reference = &self.references[instrument.0 as usize];
        let pair = self.pairs.get_mut(slot);
        let before = pair.gauges();
        change(pair);
        let px = reference.valued_at();
        let value = pair.value(pair.raw, px, |raw| reference.up(raw));
        let pnl = if reference.known {
            let held = i128::from(pair.position) * i128::from(px);
            pair.cash.checked_add(held).and_then(|raw| reference.down(raw))
        } else {
            Some(pair.pnl)
        };
        pair.unvalued = value.is_none() || pnl.is_none();
        // What has no value keeps its last one: of before the step, for the first half of an execution was never true.
        let begin = if pair.unvalued { self.touched_pairs.iter().find(|t| t.place == slot) } else { None };
        match (value, begin) {
            (Some(value), _) => pair.net = value,
            (None, Some(begin)) => {
                pair.net[0] = begin.before[Gauge::NetLong as usize];
                pair.net[1] = begin.before[Gauge::NetShort as usize];
            }
            (None, None) => {}
        }
        match (pnl, begin) {
            (Some(pnl), _) => pair.pnl = pnl,
            (None, Some(begin)) => pair.pnl = -begin.before[Gauge::Loss as usize],
            (None, None) => {}
        }
        let after = pair.gauges();
        for place in places {
            let state = &mut self.scopes[place];
            for gauge in MONEY {
                let g = gauge as usize;
                state.gauges[g] = Pair::add_bounded(state.gauges[g], after[g] - before[g], &mut state.overflowed);
            }
        }
        let state = &mut self.scopes[places[3]];
        for gauge in QUANTITY {
            let g = gauge as usize;
            state.gauges[g] = Pair::add_bounded(state.gauges[g], after[g] - before[g], &mut state.overflowed);
        }
    }

    // --- requests ---------------------------------------------------------------------------------

    pub(super) fn take_new(&mut self, now: Now, event: &Event, silence: u64, asks: bool, out: &mut Effects) -> bool {
        if let Some(sure) = self.surely_admits(now, event, silence) {
            self.book_sure(now, event, &sure, out);
            if asks {
                out.push(Effect::Verdict(verdict(event, None, sure.checks)));
            }
            return asks;
        }
        self.take_unsure(now, event, silence, asks, out)
    }

    /// A new order that has to be looked at closely.
    #[cold]
    fn take_unsure(&mut self, now: Now, event: &Event, silence: u64, asks: bool, out: &mut Effects) -> bool {
        let known = usize::from(event.strategy.0) < self.universe.strategies.len()
            && (event.instrument.0 as usize) < self.universe.instruments.len()
            && usize::from(event.account.0) < self.universe.accounts.len();
        let spec = self.universe.instruments.get(event.instrument.0 as usize);
        let targets = self.known_targets(event);
        let mut j = Judgement::new(!asks, targets);
        if let Some(cause) = malformed(event, spec.map(|s| s.negative_px)) {
            j.breach(cause, Action::Deny);
        }
        if !known && event.flags & Event::MALFORMED == 0 {
            j.breach(session_cause(Rule::UnknownEntity, event), Action::Deny);
        }
        if j.denial().is_some() {
            j.checks = coverage::ENTITY;
            let scopes = self.known_scopes(event);
            self.conclude(now, event, asks, &j, &scopes, &targets, out);
            if asks {
                out.push(Effect::Verdict(verdict(event, j.denial(), j.checks)));
            }
            return asks;
        }
        let account = self.universe.strategies[usize::from(event.strategy.0)].account;
        let mut r = Request {
            session: event.session,
            account,
            strategy: event.strategy,
            instrument: event.instrument,
            parent: event.parent_id(),
            replace: false,
            side: event.side,
            ord_type: event.ord_type,
            qty: event.qty.0,
            px: event.px.0,
            worst_px: None,
            added_qty: event.qty.0,
            added_raw: 0,
            reduces: false,
        };
        self.make_current(&r, now);
        r.worst_px = self.worst_price(&r);
        r.added_raw = raw_of(event.qty.0, r.worst_px.unwrap_or(event.px.0));
        if let Some(slot) = self.pairs.find(r.strategy, r.instrument) {
            r.reduces = self.pairs.get(slot).reduces(r.side, r.qty);
        }
        let mut j = Judgement::new(!asks, r.targets());
        j.checks = coverage::ENTITY;
        let added = self.judge(now, event, silence, &r, &mut j);
        let denied = asks && j.denial().is_some();
        let scopes = r.scopes();
        let targets = r.targets();
        self.watch_suspense(1 + usize::from(account.0), event, out);
        self.watch_coverage(&j, event, out);
        self.conclude(now, event, asks, &j, &scopes, &targets, out);
        if !denied && self.orders.find(r.session, event.id).is_none() {
            self.book_new(now, event, &r, &added, out);
        }
        if asks {
            out.push(Effect::Verdict(verdict(event, j.denial(), j.checks)));
        }
        asks
    }

    /// Trips and denial counts.
    #[allow(clippy::too_many_arguments)]
    fn conclude(
        &mut self,
        now: Now,
        event: &Event,
        asks: bool,
        j: &Judgement,
        scopes: &[Scope],
        targets: &Targets,
        out: &mut Effects,
    ) {
        if j.denial().is_none() {
            return;
        }
        self.carry_out(j, Some(event), out);
        if asks {
            self.count_denial(now.mono, event, scopes, targets, out);
        } else if let Some(mode) = j.mode {
            anomaly(out, AnomalyKind::OrderWhileHalted, event, event.id.0, mode);
        }
    }

    /// Books a new order that is let through, or is out already.
    fn book_new(&mut self, now: Now, event: &Event, r: &Request, added: &Added, out: &mut Effects) {
        let Some(pair) = self.pairs.find_or_make(r.strategy, r.instrument) else {
            return anomaly(out, AnomalyKind::OrderTableFull, event, event.id.0, r.qty);
        };
        self.stamp_profile(pair);
        let parent = self.parent_of(r);
        let order = Order {
            id: event.id,
            order_qty: r.qty,
            cum_qty: 0,
            worst_px: r.worst_px.unwrap_or(r.px),
            parent: parent.map_or(0, |_| r.parent),
            pair,
            link: NONE,
            session: r.session,
            state: OrderState::PendingNew,
            side: r.side,
            ord_type: r.ord_type,
            instrument: r.instrument,
            strategy: r.strategy,
            pending_cancel: false,
        };
        let Ok(slot) = self.orders.insert(order) else {
            return anomaly(out, AnomalyKind::OrderTableFull, event, event.id.0, r.qty);
        };
        self.working += 1;
        self.order_is_new(slot);
        self.book_request(now, r, added, pair, out);
        if let Some(parent) = parent {
            self.add_child(parent, r.session, r.qty);
        }
        let [firm, account, strategy, _, _, session] = self.slots(r);
        self.count_out(now.mono, [firm, account, strategy, session]);
        if self.duplicate_limit(r).is_some() {
            let what = likeness(r);
            self.recent.record(what, self.recent.look(&what), now.mono);
        }
    }

    /// Gauges, rates and warnings of a request that is let through: what was judged is what is added.
    fn book_request(&mut self, now: Now, r: &Request, added: &Added, pair: u32, out: &mut Effects) {
        let slots = self.slots(r);
        let scopes = r.scopes();
        let side = side_index(r.side);
        let add = &added.gauges;
        let p = self.pairs.get_mut(pair);
        p.leaves[side] = Pair::add_bounded(p.leaves[side], r.added_qty, &mut p.overflowed);
        match p.raw[side].checked_add(r.added_raw) {
            Some(raw) => p.raw[side] = raw,
            None => p.overflowed = true,
        }
        p.net[0] += add[Gauge::NetLong as usize];
        p.net[1] += add[Gauge::NetShort as usize];
        p.working += u32::from(!r.replace);
        p.unvalued |= !added.valued;
        let (after, profile) = (p.gauges(), p.profile);
        if reached(&after, add, &self.hot[profile as usize].soft) {
            self.warn_added(scopes[3], profile, &after, add, out);
        }
        for i in [0, 1, 2, 4, 5] {
            let moved: &[Gauge] = match i {
                4 => &ADDED_AT_INSTRUMENT,
                5 => &ADDED_AT_SESSION,
                _ => &ADDED_AT_INSTRUMENT[..5],
            };
            let profile = self.table.slot_index(slots[i]);
            let state = &mut self.scopes[slots[i]];
            for &gauge in moved {
                let g = gauge as usize;
                state.gauges[g] = Pair::add_bounded(state.gauges[g], add[g], &mut state.overflowed);
            }
            if reached(&state.gauges, add, &self.hot[profile as usize].soft) {
                let after = state.gauges;
                self.warn_added(scopes[i], profile, &after, add, out);
            }
        }
        for i in [0, 1, 2, 4, 5] {
            for meter in self.rates.range(slots[i]) {
                let counts = match self.rates.limit(meter).of {
                    RateOf::Orders => !r.replace,
                    RateOf::Messages => true,
                    RateOf::Cancels | RateOf::Denials | RateOf::Orphans => false,
                };
                if counts && self.rates.record(meter, now.mono) {
                    self.warn_rate(now.mono, slots[i], meter, out);
                }
            }
        }
    }

    pub(super) fn take_replace(
        &mut self,
        now: Now,
        event: &Event,
        silence: u64,
        asks: bool,
        out: &mut Effects,
    ) -> bool {
        let base = self.orders.find(event.session, event.orig_id()).filter(|&slot| {
            let order = self.orders.get(slot);
            let pair = self.pairs.get(order.pair);
            // A transport stops an admission by the names in the request: they have to be the order's.
            let named = pair.strategy == event.strategy && pair.instrument == event.instrument;
            named && order.is_live() && order.link == NONE && !order.pending_cancel
        });
        let targets = match base {
            Some(slot) if event.flags & Event::MALFORMED == 0 => self.order_targets(slot),
            _ => Targets { session: Some(event.session), ..Targets::default() },
        };
        let mut j = Judgement::new(!asks, targets);
        let negative_px = base.map(|slot| {
            let instrument = self.pairs.get(self.orders.get(slot).pair).instrument;
            self.universe.instruments[instrument.0 as usize].negative_px
        });
        if let Some(cause) = malformed(event, negative_px) {
            j.breach(cause, Action::Deny);
        }
        if event.flags & Event::MALFORMED == 0 {
            match base {
                None => j.breach(session_cause(Rule::UnknownOrder, event), Action::Deny),
                Some(slot) if event.qty.0 <= self.orders.get(slot).cum_qty => {
                    let limit = self.orders.get(slot).cum_qty;
                    let cause = session_cause(Rule::Malformed, event);
                    j.breach(Denial { observed: event.qty.0, limit, ..cause }, Action::Deny);
                }
                Some(_) => {}
            }
        }
        let Some(base) = base.filter(|_| j.denial().is_none()) else {
            j.checks = coverage::ENTITY;
            let scopes = match base {
                Some(slot) if event.flags & Event::MALFORMED == 0 => self.order_scopes(slot),
                _ => unknown_scopes(event),
            };
            self.conclude(now, event, asks, &j, &scopes, &targets, out);
            if asks {
                out.push(Effect::Verdict(verdict(event, j.denial(), j.checks)));
            }
            return asks;
        };
        let order = *self.orders.get(base);
        let pair = *self.pairs.get(order.pair);
        let mut r = Request {
            session: event.session,
            account: self.universe.strategies[usize::from(pair.strategy.0)].account,
            strategy: pair.strategy,
            instrument: pair.instrument,
            parent: order.parent,
            replace: true,
            side: order.side,
            ord_type: event.ord_type,
            qty: event.qty.0,
            px: event.px.0,
            worst_px: None,
            added_qty: 0,
            added_raw: 0,
            reduces: false,
        };
        self.make_current(&r, now);
        r.worst_px = self.worst_price(&r);
        let leaves = event.qty.0 - order.cum_qty;
        let raw = raw_of(leaves, r.worst_px.unwrap_or(event.px.0));
        r.added_qty = (leaves - order.leaves()).max(0);
        r.added_raw = (raw - order.raw()).max(0);
        r.reduces = (r.added_qty == 0 && r.added_raw == 0) || self.pairs.get(order.pair).reduces(r.side, r.added_qty);
        let mut j = Judgement::new(!asks, r.targets());
        j.checks = coverage::ENTITY;
        let added = self.judge(now, event, silence, &r, &mut j);
        let denied = asks && j.denial().is_some();
        let (scopes, targets) = (r.scopes(), r.targets());
        self.watch_coverage(&j, event, out);
        self.conclude(now, event, asks, &j, &scopes, &targets, out);
        if !denied && self.orders.find(r.session, event.id).is_none() {
            let replacement = Order {
                id: event.id,
                order_qty: r.qty,
                worst_px: r.worst_px.unwrap_or(r.px),
                link: base,
                state: OrderState::Replacement,
                ord_type: r.ord_type,
                pending_cancel: false,
                ..order
            };
            match self.orders.insert(replacement) {
                Ok(slot) => {
                    self.orders.get_mut(base).link = slot;
                    self.stamp_profile(order.pair);
                    self.book_request(now, &r, &added, order.pair, out);
                    self.move_child(order.parent, r.added_qty, 0);
                }
                Err(_) => anomaly(out, AnomalyKind::OrderTableFull, event, event.id.0, r.qty),
            }
        }
        if asks {
            out.push(Effect::Verdict(verdict(event, j.denial(), j.checks)));
        }
        asks
    }

    pub(super) fn take_cancel(&mut self, now: Now, event: &Event, out: &mut Effects) {
        let mut scopes = unknown_scopes(event);
        let mut targets = Targets { session: Some(event.session), ..Targets::default() };
        let named =
            if event.flags & Event::MALFORMED == 0 { self.current(event.session, event.orig_id()) } else { None };
        if let Some(slot) = named {
            let order = self.orders.get(slot);
            targets = self.order_targets(slot);
            scopes = self.order_scopes(slot);
            if order.is_live() {
                self.orders.get_mut(slot).pending_cancel = true;
                // What haltline asked for is not the strategy's doing.
                if self.takes_instructed_request(slot) {
                    return;
                }
            }
        }
        let counts = |of| matches!(of, RateOf::Messages | RateOf::Cancels);
        for scope in scopes {
            if let Some(slot) = self.universe.slot(scope) {
                self.count_rate(now.mono, event, slot, scope, counts, &targets, out);
            }
        }
    }

    // --- reports ----------------------------------------------------------------------------------

    pub(super) fn take_ack(&mut self, event: &Event, out: &mut Effects) {
        match self.orders.find(event.session, event.id) {
            None => anomaly(out, AnomalyKind::UnknownOrder, event, event.id.0, 0),
            Some(slot) if self.orders.get(slot).state == OrderState::PendingNew => {
                self.orders.get_mut(slot).state = OrderState::Working;
            }
            Some(_) => anomaly(out, AnomalyKind::StateMismatch, event, event.id.0, 0),
        }
    }

    pub(super) fn take_replaced(&mut self, event: &Event, out: &mut Effects) {
        if !(1..=REPRESENTABLE_MAX).contains(&event.qty.0) || event.px.0.unsigned_abs() > REPRESENTABLE_MAX as u64 {
            return anomaly(out, AnomalyKind::MalformedReport, event, event.id.0, event.qty.0);
        }
        let named = self.orders.find(event.session, event.id);
        let replacement = named.filter(|&slot| self.orders.get(slot).state == OrderState::Replacement);
        let worst = |order: &Order| match order.ord_type {
            OrdType::Limit | OrdType::StopLimit => event.px.0,
            OrdType::Market | OrdType::Stop => order.worst_px,
        };
        let Some(slot) = replacement else {
            let Some(base) = self.current(event.session, event.orig_id()) else {
                return anomaly(out, AnomalyKind::UnknownOrder, event, event.ref_id, 0);
            };
            anomaly(out, AnomalyKind::StateMismatch, event, event.id.0, 0);
            if self.orders.get(base).is_live() {
                self.change_order(base, true, |orders| {
                    let order = orders.get_mut(base);
                    order.worst_px = worst(order);
                    order.order_qty = event.qty.0;
                });
                self.finish_if_filled(base, out);
            }
            return;
        };
        let base = self.orders.get(slot).link;
        let before = self.contribution(base);
        let Order { cum_qty, pending_cancel, .. } = *self.orders.get(base);
        let order = self.orders.get_mut(slot);
        let (worst_px, order_qty, state) = (worst(order), event.qty.0, OrderState::Working);
        *order = Order { worst_px, order_qty, cum_qty, pending_cancel, state, link: NONE, ..*order };
        self.order_is_over(base);
        let forgotten = self.orders.finish(base, OrderState::Replaced, slot);
        self.forget(forgotten, out);
        self.order_is_new(slot);
        let after = self.contribution(slot);
        self.shift(slot, before, after, true);
        self.finish_if_filled(slot, out);
    }

    pub(super) fn take_end(&mut self, event: &Event, out: &mut Effects) {
        let Some(slot) = self.orders.find_current(event.session, event.id) else {
            return anomaly(out, AnomalyKind::UnknownOrder, event, event.id.0, 0);
        };
        let order = *self.orders.get(slot);
        if !order.is_live() {
            return anomaly(out, AnomalyKind::StateMismatch, event, event.id.0, 0);
        }
        if event.kind == EventKind::Canceled && !order.pending_cancel && !self.is_instructed(slot) {
            anomaly(out, AnomalyKind::UnsolicitedCancel, event, event.id.0, order.leaves());
        }
        if event.kind == EventKind::Rejected && order.state == OrderState::Working {
            anomaly(out, AnomalyKind::StateMismatch, event, event.id.0, 0);
        }
        self.finish_order(slot, out);
    }

    pub(super) fn withdraw(&mut self, event: &Event, out: &mut Effects) {
        match self.orders.find(event.session, event.id) {
            Some(slot) if self.orders.get(slot).state == OrderState::Replacement => self.undo_replace(slot, out),
            // A gateway can take back what it has not sent. What the venue has acknowledged was sent.
            Some(slot) if event.seq != 0 && self.orders.get(slot).state == OrderState::Working => {
                anomaly(out, AnomalyKind::StateMismatch, event, event.id.0, 0);
            }
            Some(slot) if self.orders.get(slot).is_live() => self.finish_order(slot, out),
            Some(_) => anomaly(out, AnomalyKind::StateMismatch, event, event.id.0, 0),
            None => anomaly(out, AnomalyKind::UnknownOrder, event, event.id.0, 0),
        }
    }

    pub(super) fn take_cancel_rejected(&mut self, event: &Event, out: &mut Effects) {
        if let Some(slot) = self.orders.find(event.session, event.id)
            && self.orders.get(slot).state == OrderState::Replacement
        {
            return self.undo_replace(slot, out);
        }
        match self.orders.find_current(event.session, event.orig_id()) {
            None => anomaly(out, AnomalyKind::UnknownOrder, event, event.ref_id, 0),
            Some(slot)
                if self.orders.get(slot).is_live()
                    && (self.orders.get(slot).pending_cancel || self.is_instructed(slot)) =>
            {
                self.orders.get_mut(slot).pending_cancel = false;
                self.cancel_is_refused(slot);
            }
            Some(_) => anomaly(out, AnomalyKind::StateMismatch, event, event.ref_id, 0),
        }
    }

    fn undo_replace(&mut self, slot: u32, out: &mut Effects) {
        let base = self.orders.get(slot).link;
        self.change_order(base, true, |orders| orders.get_mut(base).link = NONE);
        let forgotten = self.orders.finish(slot, OrderState::Done, NONE);
        self.forget(forgotten, out);
        self.finish_if_filled(base, out);
    }

    pub(super) fn take_fill(&mut self, now: Now, event: &Event, out: &mut Effects) {
        if event.exec_id().0 == 0 || !tradable(event) {
            return anomaly(out, AnomalyKind::MalformedReport, event, event.ref_id, event.qty.0);
        }
        if self.execs.find(event.session, event.exec_id()).is_some() {
            return anomaly(out, AnomalyKind::DuplicateExec, event, event.ref_id, event.qty.0);
        }
        let order = self.current(event.session, event.id);
        let (pair, side) = match order {
            Some(slot) => (self.orders.get(slot).pair, self.orders.get(slot).side),
            None => match self.pair_of(event.strategy, event.instrument) {
                Some(pair) => {
                    anomaly(out, AnomalyKind::UnknownFill, event, event.id.0, event.qty.0);
                    (pair, event.side)
                }
                None => {
                    anomaly(out, AnomalyKind::UnbookableFill, event, event.id.0, event.qty.0);
                    let cause = session_cause(Rule::UnknownEntity, event);
                    return self.act(Action::Halt(Target::Own), cause, &Targets::default(), Some(event), out);
                }
            },
        };
        self.book_fill(now, event, order, pair, side, event.id, out);
    }

    /// Books an execution of `event`'s quantity and price.
    #[allow(clippy::too_many_arguments)]
    fn book_fill(
        &mut self,
        now: Now,
        event: &Event,
        order: Option<u32>,
        pair: u32,
        side: Side,
        order_id: OrdId,
        out: &mut Effects,
    ) {
        let (qty, px) = (event.qty.0, event.px.0);
        self.remember_exec(event, order_id, pair, side, false, out);
        let (strategy, instrument) = (self.pairs.get(pair).strategy, self.pairs.get(pair).instrument);
        let account = self.accounts[usize::from(strategy.0)];
        let targets = Targets {
            account: Some(account),
            strategy: Some(strategy),
            instrument: Some(instrument),
            session: Some(event.session),
        };
        self.fill = Some(targets);
        for place in [
            0,
            1 + usize::from(account.0),
            self.strategy_base + usize::from(strategy.0),
            self.instrument_base + instrument.0 as usize,
            self.session_base + usize::from(event.session.0),
        ] {
            self.touch(place);
            let state = &mut self.scopes[place];
            let g = Gauge::Executions as usize;
            state.gauges[g] = Pair::add_bounded(state.gauges[g], 1, &mut state.overflowed);
        }
        self.watch_suspense(1 + usize::from(account.0), event, out);
        let mut shift = Shift::default();
        // A correction corrects what was counted already.
        let mut orphan = order.is_none() && event.kind == EventKind::Fill;
        let parent = order.map_or(0, |slot| self.orders.get(slot).parent);
        if let Some(slot) = order {
            if self.orders.get(slot).is_live() {
                let before = self.contribution(slot);
                if qty > before.0 {
                    orphan = true;
                    anomaly(out, AnomalyKind::Overfill, event, event.id.0, qty - before.0);
                }
                let order = self.orders.get_mut(slot);
                order.cum_qty = order.cum_qty.saturating_add(qty);
                let (link, cum_qty) = (order.link, order.cum_qty);
                if link != NONE {
                    self.orders.get_mut(link).cum_qty = cum_qty;
                }
                shift =
                    Shift { side: Some(self.orders.get(slot).side), before, after: self.contribution(slot), ended: 0 };
                if shift.after.0 == 0 {
                    shift.ended = 1;
                    self.end_order(slot, out);
                }
            } else {
                orphan = true;
                anomaly(out, AnomalyKind::LateFill, event, event.id.0, qty);
            }
        }
        if orphan {
            self.count_orphan(now.mono, event, &targets, out);
        }
        self.move_child(parent, shift.after.0 - shift.before.0, qty);
        self.watch_parent(parent, event, &targets, out);
        self.update_pair(pair, true, |p| {
            shift.apply(p);
            trade(p, side, qty, px, qty);
        });
        if self.pairs.get(pair).overflowed {
            anomaly(out, AnomalyKind::Unrepresentable, event, event.id.0, qty);
        }
    }

    fn remember_exec(&mut self, event: &Event, order: OrdId, pair: u32, side: Side, busted: bool, out: &mut Effects) {
        let exec = Exec {
            id: event.exec_id(),
            order,
            qty: event.qty.0,
            px: event.px.0,
            pair,
            day: 0,
            session: event.session,
            side,
            busted,
        };
        match self.execs.insert(exec) {
            Inserted::Remembered => {}
            Inserted::Replacing(session, id) => {
                if id.0 & OrdId::TEXT != 0 {
                    out.push(Effect::ExecForgotten { session, id });
                }
            }
            Inserted::NotRemembered => {
                anomaly(out, AnomalyKind::ExecTableFull, event, event.ref_id, event.qty.0);
                if event.ref_id & OrdId::TEXT != 0 {
                    out.push(Effect::ExecForgotten { session: event.session, id: event.exec_id() });
                }
            }
        }
    }

    pub(super) fn take_bust(&mut self, event: &Event, out: &mut Effects) {
        if let Some(slot) = self.bustable(event, out) {
            let exec = *self.execs.get(slot);
            self.take_back(slot);
            self.remember_exec(event, exec.order, exec.pair, exec.side, true, out);
        }
    }

    pub(super) fn take_correct(&mut self, now: Now, event: &Event, out: &mut Effects) {
        if !tradable(event) {
            return anomaly(out, AnomalyKind::MalformedReport, event, event.ref_id, event.qty.0);
        }
        if let Some(slot) = self.bustable(event, out) {
            let exec = *self.execs.get(slot);
            self.take_back(slot);
            let order = self.order_of(&exec);
            self.book_fill(now, event, order, exec.pair, exec.side, exec.order, out);
        }
    }

    /// The execution that `event` takes back, if it may.
    fn bustable(&self, event: &Event, out: &mut Effects) -> Option<u32> {
        if event.exec_id().0 == 0 {
            anomaly(out, AnomalyKind::MalformedReport, event, event.ref_id, event.qty.0);
            return None;
        }
        if self.execs.find(event.session, event.exec_id()).is_some() {
            anomaly(out, AnomalyKind::DuplicateExec, event, event.ref_id, event.qty.0);
            return None;
        }
        let known = self.execs.find(event.session, event.exec_ref()).filter(|&slot| !self.execs.get(slot).busted);
        if known.is_none() {
            anomaly(out, AnomalyKind::UnknownExec, event, event.id.0, event.qty.0);
        }
        known
    }

    fn take_back(&mut self, slot: u32) {
        let exec = *self.execs.get(slot);
        let traded = if self.execs.is_of_today(slot) { -exec.qty } else { 0 };
        self.execs.bust(slot);
        let pair = self.pairs.get(exec.pair);
        let scope = Scope::Pair(pair.strategy, pair.instrument);
        self.fill = Some(Targets { session: Some(exec.session), ..self.targets_of(scope) });
        let mut shift = Shift::default();
        let order = self.order_of(&exec);
        let parent = order.map_or(0, |slot| self.orders.get(slot).parent);
        if let Some(order) = order
            && self.orders.get(order).is_live()
        {
            let before = self.contribution(order);
            let o = self.orders.get_mut(order);
            o.cum_qty = (o.cum_qty - exec.qty).max(0);
            let (link, cum_qty) = (o.link, o.cum_qty);
            if link != NONE {
                self.orders.get_mut(link).cum_qty = cum_qty;
            }
            shift = Shift { side: Some(exec.side), before, after: self.contribution(order), ended: 0 };
        }
        self.move_child(parent, shift.after.0 - shift.before.0, -exec.qty);
        self.update_pair(exec.pair, true, |p| {
            shift.apply(p);
            trade(p, exec.side, -exec.qty, exec.px, traded);
        });
    }

    /// The order that `exec` was of, if it is still known. Its id may be another order's by now: that of an order
    /// that came after a fill nobody knew, or of one that was forgotten in the meantime.
    fn order_of(&self, exec: &Exec) -> Option<u32> {
        self.current(exec.session, exec.order).filter(|&slot| {
            let order = self.orders.get(slot);
            order.pair == exec.pair && order.side == exec.side
        })
    }

    // --- orders ------------------------------------------------------------------------------------

    /// The order that `id` stands for now: the successor of a replaced one, the order of a pending replacement.
    fn current(&self, session: SessionId, id: OrdId) -> Option<u32> {
        let slot = self.orders.find_current(session, id)?;
        let order = self.orders.get(slot);
        Some(if order.state == OrderState::Replacement { order.link } else { slot })
    }

    /// What a live order adds to its pair: the worse of it and its pending replacement.
    fn contribution(&self, slot: u32) -> (i64, i128) {
        let order = self.orders.get(slot);
        let (mut qty, mut raw) = (order.leaves(), order.raw());
        if order.is_live() && order.link != NONE {
            let replacement = self.orders.get(order.link);
            qty = qty.max(replacement.leaves());
            raw = raw.max(replacement.raw());
        }
        (qty, raw)
    }

    fn change_order(&mut self, slot: u32, report: bool, change: impl FnOnce(&mut crate::risk::orders::OrderTable)) {
        let before = self.contribution(slot);
        change(&mut self.orders);
        let after = self.contribution(slot);
        self.shift(slot, before, after, report);
    }

    /// Moves the pair of the order in `slot` from one contribution to another.
    fn shift(&mut self, slot: u32, before: (i64, i128), after: (i64, i128), report: bool) {
        if before != after {
            let order = *self.orders.get(slot);
            let shift = Shift { side: Some(order.side), before, after, ended: 0 };
            self.move_child(order.parent, after.0 - before.0, 0);
            self.update_pair(order.pair, report, |p| shift.apply(p));
        }
    }

    fn finish_if_filled(&mut self, slot: u32, out: &mut Effects) {
        if self.orders.get(slot).is_live() && self.contribution(slot).0 == 0 {
            self.finish_order(slot, out);
        }
    }

    /// Ends a live order and the replacement that may be pending for it. What that takes away cannot breach anything.
    fn finish_order(&mut self, slot: u32, out: &mut Effects) {
        let before = self.contribution(slot);
        let order = *self.orders.get(slot);
        self.end_order(slot, out);
        self.move_child(order.parent, -before.0, 0);
        let shift = Shift { side: Some(order.side), before, after: (0, 0), ended: 1 };
        if self.release(order.pair, order.side, &shift) {
            return;
        }
        // It may let the pair be valued again, and its profit jump.
        self.update_pair(order.pair, true, |p| shift.apply(p));
    }

    /// Takes an order that is over off a pair that is valued at the present reference, and off its scopes: the other side
    /// and the profit stay as they are. Returns whether that is so; nothing is done if not.
    fn release(&mut self, slot: u32, side: Side, shift: &Shift) -> bool {
        let pair = self.pairs.get_mut(slot);
        let reference = &self.references[pair.instrument.0 as usize];
        if reference.left > 0 || pair.unvalued {
            return false;
        }
        let mut after = *pair;
        shift.apply(&mut after);
        let at = side_index(side);
        let value = after.value_of(side, after.raw[at], reference.valued_at(), |raw| reference.up(raw));
        let Some(net) = value else { return false };
        let net_before = core::mem::replace(&mut after.net[at], net);
        let net_at = [Gauge::NetLong, Gauge::NetShort][at] as usize;
        let gross = net.max(0) - net_before.max(0);
        let qty = after.leaves[at] - pair.leaves[at];
        let day = after.gauges()[Gauge::DayQty as usize] - pair.gauges()[Gauge::DayQty as usize];
        let working = i64::from(after.working) - i64::from(pair.working);
        let (strategy, instrument) = (pair.strategy, pair.instrument);
        *pair = after;
        let places = [
            0,
            1 + usize::from(self.accounts[usize::from(strategy.0)].0),
            self.strategy_base + usize::from(strategy.0),
            self.instrument_base + instrument.0 as usize,
        ];
        for place in places {
            let state = &mut self.scopes[place];
            for (g, change) in
                [(Gauge::Gross as usize, gross), (net_at, net - net_before), (Gauge::Working as usize, working)]
            {
                state.gauges[g] = Pair::add_bounded(state.gauges[g], change, &mut state.overflowed);
            }
        }
        let position = [Gauge::PositionLong, Gauge::PositionShort][at] as usize;
        let state = &mut self.scopes[places[3]];
        for (g, change) in [(position, qty), (Gauge::DayQty as usize, day)] {
            state.gauges[g] = Pair::add_bounded(state.gauges[g], change, &mut state.overflowed);
        }
        true
    }

    /// The order's own part of its end; the caller takes its contribution off its pair.
    fn end_order(&mut self, slot: u32, out: &mut Effects) {
        let order = *self.orders.get(slot);
        if order.link != NONE {
            let forgotten = self.orders.finish(order.link, OrderState::Done, NONE);
            self.forget(forgotten, out);
        }
        self.order_is_over(slot);
        let session = self.session_base + usize::from(order.session.0);
        self.scopes[session].gauges[Gauge::Working as usize] -= 1;
        self.working -= 1;
        let forgotten = self.orders.finish(slot, OrderState::Done, NONE);
        self.forget(forgotten, out);
    }

    fn forget(&mut self, forgotten: Option<(SessionId, OrdId)>, out: &mut Effects) {
        if let Some((session, id)) = forgotten
            && id.0 & OrdId::TEXT != 0
        {
            out.push(Effect::OrderForgotten { session, id });
        }
    }

    // --- pairs and scopes ----------------------------------------------------------------------------

    fn pair_of(&mut self, strategy: StrategyId, instrument: InstrumentId) -> Option<u32> {
        let known = usize::from(strategy.0) < self.universe.strategies.len()
            && (instrument.0 as usize) < self.universe.instruments.len();
        let slot = if known { self.pairs.find_or_make(strategy, instrument) } else { None }?;
        self.stamp_profile(slot);
        Some(slot)
    }

    pub(super) fn stamp_profile(&mut self, slot: u32) {
        let generation = self.table.generation;
        let pair = self.pairs.get_mut(slot);
        if pair.generation != generation {
            pair.profile = self.table.pair_index(pair.strategy, pair.instrument);
            pair.generation = generation;
        }
    }

    /// Brings everything that `r` is judged by up to date.
    fn make_current(&mut self, r: &Request, now: Now) {
        let instrument = r.instrument.0 as usize;
        let learned = self.learn_rate(instrument);
        if learned {
            self.enqueue(instrument);
        }
        let due = learned || self.references[instrument].left > 0;
        if let Some(slot) = self.pairs.find(r.strategy, r.instrument) {
            self.stamp_profile(slot);
            if due {
                self.update_pair(slot, true, |_| ());
            }
        }
        let slots = self.slots(r);
        for i in [0, 1, 2, 4] {
            if self.hot(self.table.slot_index(slots[i])).armed & crate::limits::hot::armed::LOSS_VELOCITY != 0 {
                self.refresh_velocity(slots[i], now.mono);
            }
        }
    }

    fn order_targets(&self, slot: u32) -> Targets {
        let order = self.orders.get(slot);
        let pair = self.pairs.get(order.pair);
        Targets { session: Some(order.session), ..self.targets_of(Scope::Pair(pair.strategy, pair.instrument)) }
    }

    /// What is known of a request that is not understood.
    fn known_targets(&self, event: &Event) -> Targets {
        let session = Some(event.session);
        if event.flags & Event::MALFORMED != 0 {
            return Targets { session, ..Targets::default() };
        }
        let known = (event.instrument.0 as usize) < self.universe.instruments.len();
        let instrument = known.then_some(event.instrument);
        Targets { session, instrument, ..self.targets_of(Scope::Strategy(event.strategy)) }
    }

    fn order_scopes(&self, slot: u32) -> [Scope; 6] {
        let order = self.orders.get(slot);
        let pair = self.pairs.get(order.pair);
        let account = self.universe.strategies[usize::from(pair.strategy.0)].account;
        [
            Scope::Firm,
            Scope::Account(account),
            Scope::Strategy(pair.strategy),
            Scope::Pair(pair.strategy, pair.instrument),
            Scope::Instrument(pair.instrument),
            Scope::Session(order.session),
        ]
    }

    /// The scopes of a request of which not everything is known. A scope that is not known counts nothing.
    fn known_scopes(&self, event: &Event) -> [Scope; 6] {
        if event.flags & Event::MALFORMED != 0 {
            return unknown_scopes(event);
        }
        let account = self.universe.strategies.get(usize::from(event.strategy.0)).map(|s| s.account);
        let nothing = Scope::Pair(StrategyId::UNKNOWN, InstrumentId::UNKNOWN);
        [
            Scope::Firm,
            account.map_or(nothing, Scope::Account),
            Scope::Strategy(event.strategy),
            nothing,
            Scope::Instrument(event.instrument),
            Scope::Session(event.session),
        ]
    }
}

/// Firm and session, for a request of which nothing else is known.
fn unknown_scopes(event: &Event) -> [Scope; 6] {
    let nothing = Scope::Pair(StrategyId::UNKNOWN, InstrumentId::UNKNOWN);
    [Scope::Firm, nothing, nothing, nothing, nothing, Scope::Session(event.session)]
}

fn session_cause(rule: Rule, event: &Event) -> Denial {
    Denial { rule, why: Why::Breach, scope: Scope::Session(event.session), observed: 0, limit: 0 }
}

/// A change of what one order adds to its pair.
#[derive(Clone, Copy, Debug, Default)]
struct Shift {
    /// `None`: nothing changes.
    side: Option<Side>,
    before: (i64, i128),
    after: (i64, i128),
    /// Orders that are over.
    ended: u32,
}

impl Shift {
    fn apply(&self, p: &mut Pair) {
        let Some(side) = self.side.map(side_index) else { return };
        p.leaves[side] = Pair::add_bounded(p.leaves[side], self.after.0 - self.before.0, &mut p.overflowed).max(0);
        match p.raw[side].checked_add(self.after.1 - self.before.1) {
            Some(raw) => p.raw[side] = raw.max(0),
            None => p.overflowed = true,
        }
        p.working = p.working.saturating_sub(self.ended);
    }
}

/// Moves position and cash by an execution, or back by the same with a negative quantity.
fn trade(p: &mut Pair, side: Side, qty: i64, px: i64, traded: i64) {
    let signed = side.sign() * qty;
    p.position = Pair::add_bounded(p.position, signed, &mut p.overflowed);
    match p.cash.checked_sub(i128::from(signed) * i128::from(px)) {
        Some(cash) => p.cash = cash,
        None => p.overflowed = true,
    }
    p.traded = Pair::add_bounded(p.traded, traded, &mut p.overflowed).max(0);
}

fn raw_of(qty: i64, px: i64) -> i128 {
    (i128::from(qty) * i128::from(px)).max(0)
}

fn tradable(event: &Event) -> bool {
    (1..=REPRESENTABLE_MAX).contains(&event.qty.0) && event.px.0.unsigned_abs() <= REPRESENTABLE_MAX as u64
}
