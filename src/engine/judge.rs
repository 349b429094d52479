//! HOT: no I/O, lock, allocation, logging, formatting, clock or syscall; every loop bounded.
//!
//! Judging: every limit is looked at, nothing is changed. The contract is in [`crate::risk`].

use crate::engine::core::{Engine, clip, resolve, target_of};
use crate::engine::coverage;
use crate::limits::hot::{armed, limits_rule};
use crate::limits::{Gauge, RateOf, ScopeLimits, SideRule, UNLIMITED};
use crate::model::effect::Denial;
use crate::model::{Action, Effects, Event, Mode, OrdType, Rule, Scope, ScopeKind, Side, Why};
use crate::risk::duplicates::Likeness;
use crate::risk::pairs::{Gauges, Pair, side_index};
use crate::units::{AccountId, InstrumentId, MonoNanos, Now, REPRESENTABLE_MAX, SessionId, StrategyId};

/// The scopes that an action can be aimed at, as far as they are known. One that is not known is the limit's own scope.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Targets {
    pub account: Option<AccountId>,
    pub strategy: Option<StrategyId>,
    pub instrument: Option<InstrumentId>,
    pub session: Option<SessionId>,
}

impl Targets {
    /// Whether `scope` is one of them, or the firm.
    pub fn include(&self, scope: Scope) -> bool {
        match scope {
            Scope::Firm => true,
            Scope::Account(a) => self.account == Some(a),
            Scope::Strategy(s) => self.strategy == Some(s),
            Scope::Pair(s, i) => self.strategy == Some(s) && self.instrument == Some(i),
            Scope::Instrument(i) => self.instrument == Some(i),
            Scope::Session(s) => self.session == Some(s),
        }
    }
}

/// All breaches found by one look, reduced to what is done about them.
#[derive(Debug)]
pub(super) struct Judgement {
    /// There is nothing to deny: the order is out already.
    observed: bool,
    targets: Targets,
    worst: Option<(Mode, Denial)>,
    /// The mode that let nothing, or only reductions, pass.
    pub mode: Option<i64>,
    /// The most severe latch per scope kind, with its cause.
    latches: [Option<(Scope, Mode, Denial)>; ScopeKind::ALL.len()],
    /// Bits of the rules that were looked at.
    pub checks: u64,
    /// Bits of those that had to be, and were not.
    pub missing: u64,
}

impl Judgement {
    pub fn new(observed: bool, targets: Targets) -> Judgement {
        let latches = [None; ScopeKind::ALL.len()];
        Judgement { observed, targets, worst: None, mode: None, latches, checks: 0, missing: 0 }
    }

    /// For what is only reported: nothing is denied, and a plain denial does nothing.
    pub fn reported(targets: Targets) -> Judgement {
        Judgement::new(false, targets)
    }

    /// Notes a breach.
    pub fn breach(&mut self, cause: Denial, action: Action) {
        if cause.rule == Rule::Mode {
            self.mode = Some(cause.observed);
        }
        let rank = |mode: Mode, d: &Denial| (mode, core::cmp::Reverse(d.rule), core::cmp::Reverse(d.scope.kind()));
        // A scope that is halted already is as severe as anything that could halt it.
        let severity = match (cause.rule, cause.observed) {
            (Rule::Mode, found) => Mode::from_u8(found as u8),
            _ => action.mode(),
        };
        if self.worst.is_none_or(|(mode, d)| rank(severity, &cause) > rank(mode, &d)) {
            self.worst = Some((severity, cause));
        }
        let (mode, scope) = if action.mode() > Mode::Normal {
            (action.mode(), resolve(target_of(action), cause.scope, &self.targets))
        } else if self.observed {
            // What is denied before limits are looked at is the session's doing, and so is what went past a check.
            let of_parent = matches!(cause.rule, Rule::ParentQty | Rule::ParentState | Rule::ParentPx | Rule::Children);
            let unchecked = matches!(cause.rule, Rule::Journal | Rule::Coverage);
            let is_its_doing = cause.rule <= Rule::DuplicateOrder || unchecked || of_parent;
            let session = self.targets.session.filter(|_| is_its_doing);
            let own = session.map_or(cause.scope, Scope::Session);
            (Mode::Halted, resolve(crate::model::Target::Own, own, &self.targets))
        } else {
            return;
        };
        let latch = &mut self.latches[scope.kind() as usize];
        if latch.is_none_or(|(s, m, d)| s != scope || rank(mode, &cause) > rank(m, &d)) {
            *latch = Some((scope, mode, cause));
        }
    }

    /// The breach that a verdict names.
    pub fn denial(&self) -> Option<Denial> {
        self.worst.map(|(_, denial)| denial)
    }

    /// The latches, worst first.
    pub fn trips(&self) -> impl Iterator<Item = (Scope, Mode, Denial)> + '_ {
        let of = |wanted: Mode| self.latches.iter().flatten().copied().filter(move |(_, mode, _)| *mode == wanted);
        of(Mode::Halted).chain(of(Mode::ReduceOnly))
    }
}

/// An order, or the change of one, as the rules see it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub session: SessionId,
    pub account: AccountId,
    pub strategy: StrategyId,
    pub instrument: InstrumentId,
    /// The id of the parent that it names; 0: none.
    pub parent: u64,
    pub replace: bool,
    pub side: Side,
    pub ord_type: OrdType,
    /// Total quantity.
    pub qty: i64,
    pub px: i64,
    /// The price it is valued at; `None`: there is no reference to know it by.
    pub worst_px: Option<i64>,
    /// What it adds to the leaves and their raw value.
    pub added_qty: i64,
    pub added_raw: i128,
    /// See the contract.
    pub reduces: bool,
}

/// What an order adds to the gauges of its scopes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Added {
    pub gauges: Gauges,
    /// It could be valued.
    pub valued: bool,
}

/// The gauges that an order moves, and the first that only instruments and pairs keep.
const MOVED: [Gauge; 7] = [
    Gauge::PositionLong,
    Gauge::PositionShort,
    Gauge::Gross,
    Gauge::NetLong,
    Gauge::NetShort,
    Gauge::Working,
    Gauge::Orders,
];

impl Request {
    pub const fn targets(&self) -> Targets {
        Targets {
            account: Some(self.account),
            strategy: Some(self.strategy),
            instrument: Some(self.instrument),
            session: Some(self.session),
        }
    }

    pub const fn scopes(&self) -> [Scope; 6] {
        [
            Scope::Firm,
            Scope::Account(self.account),
            Scope::Strategy(self.strategy),
            Scope::Pair(self.strategy, self.instrument),
            Scope::Instrument(self.instrument),
            Scope::Session(self.session),
        ]
    }
}

impl Engine {
    /// The dense places of an order's scopes; the pair's is not used.
    #[inline]
    pub(super) fn slots(&self, r: &Request) -> [usize; 6] {
        [
            0,
            1 + usize::from(r.account.0),
            self.strategy_base + usize::from(r.strategy.0),
            usize::MAX,
            self.instrument_base + r.instrument.0 as usize,
            self.session_base + usize::from(r.session.0),
        ]
    }

    #[inline]
    fn profiles(&self, r: &Request, slots: &[usize; 6], pair: Option<&Pair>) -> [u32; 6] {
        let of_pair = match pair {
            Some(p) if p.generation == self.table.generation => p.profile,
            _ => self.table.pair_index(r.strategy, r.instrument),
        };
        let t = &self.table;
        [
            t.slot_index(slots[0]),
            t.slot_index(slots[1]),
            t.slot_index(slots[2]),
            of_pair,
            t.slot_index(slots[4]),
            t.slot_index(slots[5]),
        ]
    }

    /// The price that an order is valued at.
    pub(super) fn worst_price(&self, r: &Request) -> Option<i64> {
        let market = || {
            let reference = &self.references[r.instrument.0 as usize];
            if !reference.known {
                return None;
            }
            let pair = self.pairs.find(r.strategy, r.instrument).map(|slot| self.pairs.get(slot));
            let profiles = self.profiles(r, &self.slots(r), pair);
            let collar = profiles.iter().map(|&p| self.hot(p).collar).min().unwrap_or(UNLIMITED);
            if collar == UNLIMITED {
                return Some(reference.px);
            }
            let margin = (i128::from(reference.px).abs() * i128::from(collar) + 9_999) / 10_000;
            let worst = i128::from(reference.px) + margin;
            Some(worst.min(i128::from(REPRESENTABLE_MAX)) as i64)
        };
        match r.ord_type {
            OrdType::Limit | OrdType::StopLimit => Some(r.px),
            OrdType::Market => market(),
            OrdType::Stop => market().map(|worst| worst.max(r.px)),
        }
    }

    /// Judges `r` by every rule that can be judged without changing anything. Returns what it would add.
    pub(super) fn judge(&self, now: Now, event: &Event, silence: u64, r: &Request, j: &mut Judgement) -> Added {
        let slots = self.slots(r);
        let slot = self.pairs.find(r.strategy, r.instrument);
        let empty = Pair::empty(r.strategy, r.instrument);
        let pair = slot.map_or(&empty, |slot| self.pairs.get(slot));
        let profiles = self.profiles(r, &slots, slot.map(|_| pair));
        let arms = profiles.iter().fold(0, |bits, &p| bits | self.hot(p).armed);

        self.judge_session(now, event, silence, r, j);
        self.judge_mode(r, &slots, j);
        self.judge_permission(event, r, pair, &profiles, j);
        self.judge_order(now.mono, r, arms, &profiles, j);
        self.judge_parent(now.unix, r, &slots, &profiles, j);
        if !r.replace {
            self.judge_duplicate(now.mono, r, j);
            self.judge_fan_out(now.mono, r, &slots, &profiles, j);
        }
        let added = self.judge_gauges(now.mono, r, pair, arms, &slots, &profiles, j);
        self.judge_rates(now.mono, r, &slots, j);
        self.judge_coverage(r, &slots, &profiles, j);
        added
    }

    fn judge_session(&self, now: Now, event: &Event, silence: u64, r: &Request, j: &mut Judgement) {
        if self.leaves_out(coverage::STREAM) {
            return;
        }
        j.checks |= coverage::STREAM;
        let scope = Scope::Session(r.session);
        let limits = self.table.at(self.session_base + usize::from(r.session.0));
        let room = self.orders.has_room(r.session, event.id)
            && self.pairs.has_room(r.strategy, r.instrument)
            && self.execs.has_room()
            && self.has_duplicate_room(now.mono, r);
        if !room {
            let cause = Denial { rule: Rule::Capacity, why: Why::Breach, scope, observed: 0, limit: 0 };
            j.breach(cause, Action::Deny);
        }
        if self.behind {
            let cause = Denial { rule: Rule::Journal, why: Why::Breach, scope: Scope::Firm, observed: 0, limit: 0 };
            j.breach(cause, Action::Deny);
        }
        if limits.heartbeat_ns != UNLIMITED && (limits.heartbeat_ns == 0 || clip(silence) > limits.heartbeat_ns) {
            let cause = Denial {
                rule: Rule::HeartbeatLoss,
                why: Why::Breach,
                scope,
                observed: clip(silence),
                limit: limits.heartbeat_ns,
            };
            j.breach(cause, limits.action[Rule::HeartbeatLoss as usize]);
        }
        if let Some(skew) = self.skew_beyond(event, now) {
            let cause =
                Denial { rule: Rule::ClockSkew, why: Why::Breach, scope, observed: skew, limit: limits.clock_skew_ns };
            j.breach(cause, limits.action[Rule::ClockSkew as usize]);
        }
    }

    fn has_duplicate_room(&self, now: MonoNanos, r: &Request) -> bool {
        match self.duplicate_limit(r) {
            Some(limit) if !r.replace => self.recent.has_room(now, limit.window_ns),
            _ => true,
        }
    }

    pub(super) fn duplicate_limit(&self, r: &Request) -> Option<crate::limits::DuplicateLimit> {
        self.table.at(self.strategy_base + usize::from(r.strategy.0)).duplicate
    }

    fn judge_mode(&self, r: &Request, slots: &[usize; 6], j: &mut Judgement) {
        if self.leaves_out(coverage::MODE) {
            return;
        }
        j.checks |= coverage::MODE;
        let mut mode = Mode::Normal;
        let mut at = 0;
        for i in [0, 1, 2, 4, 5] {
            if self.scopes[slots[i]].mode > mode {
                mode = self.scopes[slots[i]].mode;
                at = i;
            }
        }
        if mode == Mode::Halted || (mode == Mode::ReduceOnly && !r.reduces) {
            let cause =
                Denial { rule: Rule::Mode, why: Why::Breach, scope: r.scopes()[at], observed: mode as i64, limit: 0 };
            j.breach(cause, Action::Deny);
        }
    }

    fn judge_permission(&self, event: &Event, r: &Request, pair: &Pair, profiles: &[u32; 6], j: &mut Judgement) {
        if self.leaves_out(coverage::PERMISSION) {
            return;
        }
        j.checks |= coverage::PERMISSION;
        let mut deny = |rule, scope, observed, limit| {
            j.breach(Denial { rule, why: Why::Breach, scope, observed, limit }, Action::Deny);
        };
        if self.orders.find(r.session, event.id).is_some() {
            deny(Rule::DuplicateId, Scope::Session(r.session), 0, 0);
        }
        let list = &self.universe.sessions[usize::from(r.session.0)].strategies;
        if !list.is_empty() && !list.contains(&r.strategy) {
            deny(Rule::Permission, Scope::Session(r.session), 0, 0);
        } else if !r.replace && event.account != r.account {
            deny(Rule::Permission, Scope::Strategy(r.strategy), 0, 0);
        } else if !self.table.is_permitted(r.strategy, r.instrument) {
            deny(Rule::Permission, Scope::Pair(r.strategy, r.instrument), 0, 0);
        }
        if self.table.is_restricted(r.instrument) {
            deny(Rule::Restricted, Scope::Instrument(r.instrument), 0, 0);
        }
        let scopes = r.scopes();
        let sold = pair.leaves[1].saturating_add(r.added_qty);
        let long_only = r.side == Side::Sell && sold > pair.position && (!r.replace || r.added_qty > 0);
        for (i, &p) in profiles.iter().enumerate() {
            match (self.hot(p).sides, r.side) {
                (SideRule::LongOnly, Side::Sell) if long_only => {
                    deny(Rule::SidePermission, scopes[i], sold, pair.position);
                }
                (SideRule::BuyOnly, Side::Sell) | (SideRule::SellOnly, Side::Buy) => {
                    deny(Rule::SidePermission, scopes[i], r.qty, 0);
                }
                _ => {}
            }
        }
    }

    /// Quantity, value, participation and price of the order itself.
    fn judge_order(&self, now: MonoNanos, r: &Request, arms: u32, profiles: &[u32; 6], j: &mut Judgement) {
        let scopes = r.scopes();
        let spec = &self.universe.instruments[r.instrument.0 as usize];
        j.checks |= self.done(coverage::QTY | coverage::NOTIONAL | coverage::PARTICIPATION | coverage::COLLAR);
        if !self.leaves_out(coverage::QTY) {
            for (i, &p) in profiles.iter().enumerate() {
                let limit = self.hot(p).order_qty;
                if r.qty > limit {
                    self.breach_at(Rule::OrderQty, Why::Breach, scopes[i], p, r.qty, limit, j);
                }
            }
        }
        let reference = self.reference_state(r.instrument, now);
        let fx = self.fx_state(spec.currency, now);
        if arms & armed::NOTIONAL != 0 && !self.leaves_out(coverage::NOTIONAL) {
            let priced = matches!(r.ord_type, OrdType::Limit | OrdType::StopLimit);
            let missing = if priced { None } else { reference };
            match (missing.or(fx), r.worst_px) {
                (Some(state), _) => self.input_missing(Rule::OrderNotional, state, profiles, &scopes, j),
                (None, None) => {}
                (None, Some(worst)) => {
                    let raw = (i128::from(r.qty) * i128::from(worst)).max(0);
                    match self.references[r.instrument.0 as usize].up(raw) {
                        Some(value) => {
                            for (i, &p) in profiles.iter().enumerate() {
                                let limit = self.hot(p).order_notional;
                                if limit != UNLIMITED && value > limit {
                                    self.breach_at(Rule::OrderNotional, Why::Breach, scopes[i], p, value, limit, j);
                                }
                            }
                        }
                        None => self.unrepresentable(Rule::OrderNotional, profiles, &scopes, j),
                    }
                }
            }
        }
        if arms & armed::PARTICIPATION != 0 && !self.leaves_out(coverage::PARTICIPATION) {
            match spec.average_daily_volume {
                Some(adv) if adv.0 > 0 => {
                    for (i, &p) in profiles.iter().enumerate() {
                        let limit = self.hot(p).order_participation;
                        if limit != UNLIMITED && participates_more(r.qty, adv.0, limit) {
                            let bps = participation(r.qty, adv.0);
                            self.breach_at(Rule::OrderParticipation, Why::Breach, scopes[i], p, bps, limit, j);
                        }
                    }
                }
                _ => {
                    let state = (Why::VolumeMissing, 0, 0);
                    self.input_missing(Rule::OrderParticipation, state, profiles, &scopes, j);
                }
            }
        }
        if arms & armed::COLLAR != 0 && !self.leaves_out(coverage::COLLAR) {
            if let Some(state) = reference {
                self.input_missing(Rule::Collar, state, profiles, &scopes, j);
            } else if r.ord_type != OrdType::Market {
                let m = i128::from(self.references[r.instrument.0 as usize].px);
                let distance = i128::from(r.px) - m;
                for (i, &p) in profiles.iter().enumerate() {
                    let collar = self.hot(p).collar;
                    if collar != UNLIMITED && distance.abs() * 10_000 > i128::from(collar) * m.abs() {
                        let allowed = i128::from(collar) * m.abs() / 10_000;
                        let bound = if distance > 0 { m + allowed } else { m - allowed };
                        let most = i128::from(REPRESENTABLE_MAX);
                        let bound = bound.clamp(-most, most) as i64;
                        self.breach_at(Rule::Collar, Why::Breach, scopes[i], p, r.px, bound, j);
                    }
                }
            }
        } else if r.worst_px.is_none() {
            // Nothing to value it by, whatever is armed.
            let most = clip(self.table.reference_age(r.instrument));
            let scope = Scope::Instrument(r.instrument);
            let why = Why::ReferenceMissing;
            j.breach(Denial { rule: Rule::Collar, why, scope, observed: 0, limit: most }, Action::Deny);
        }
    }

    fn judge_duplicate(&self, now: MonoNanos, r: &Request, j: &mut Judgement) {
        if self.leaves_out(coverage::DUPLICATE) {
            return;
        }
        j.checks |= coverage::DUPLICATE;
        let Some(limit) = self.duplicate_limit(r) else { return };
        let what = likeness(r);
        let found = self.recent.count(&what, self.recent.look(&what), now, limit.window_ns, limit.count);
        if found >= limit.count {
            let scope = Scope::Strategy(r.strategy);
            let cause = Denial {
                rule: Rule::DuplicateOrder,
                why: Why::Breach,
                scope,
                observed: i64::from(found) + 1,
                limit: i64::from(limit.count),
            };
            j.breach(cause, self.limits_of(scope).action[Rule::DuplicateOrder as usize]);
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn judge_gauges(
        &self,
        now: MonoNanos,
        r: &Request,
        pair: &Pair,
        arms: u32,
        slots: &[usize; 6],
        profiles: &[u32; 6],
        j: &mut Judgement,
    ) -> Added {
        j.checks |= self.done(coverage::COUNTS | coverage::RISK) & coverage::applicable(r.replace, r.reduces);
        let scopes = r.scopes();
        let spec = &self.universe.instruments[r.instrument.0 as usize];
        let reference = &self.references[r.instrument.0 as usize];
        let mut added: Gauges = [0; Gauge::COUNT];
        let side = side_index(r.side);
        let mut raw = pair.raw;
        let value = match raw[side].checked_add(r.added_raw) {
            Some(sum) => {
                raw[side] = sum;
                pair.value(raw, reference.valued_at(), |raw| reference.up(raw))
            }
            None => None,
        };
        let before = pair.gauges();
        if let Some(v) = value {
            added[Gauge::NetLong as usize] = v[0] - pair.net[0];
            added[Gauge::NetShort as usize] = v[1] - pair.net[1];
            added[Gauge::Gross as usize] = v[0].max(0) + v[1].max(0) - before[Gauge::Gross as usize];
        }
        let position = [Gauge::PositionLong, Gauge::PositionShort][side];
        added[position as usize] = r.added_qty;
        added[Gauge::DayQty as usize] = r.added_qty;
        if !r.replace {
            added[Gauge::Working as usize] = 1;
            added[Gauge::Orders as usize] = 1;
        }

        let exposed = !r.reduces && !self.leaves_out(coverage::RISK);
        let missing = self.reference_state(r.instrument, now).or(self.fx_state(spec.currency, now));
        if exposed && arms & (armed::EXPOSURE | armed::LOSS) != 0 {
            let lost = value.is_none() || pair.unvalued;
            for (bit, rules) in [
                (armed::EXPOSURE, &[Rule::GrossExposure, Rule::NetLong, Rule::NetShort, Rule::Suspense][..]),
                (armed::LOSS, &[Rule::DailyLoss, Rule::Drawdown, Rule::LossVelocity][..]),
            ] {
                if arms & bit == 0 {
                    continue;
                }
                for &rule in rules {
                    match missing {
                        Some(state) => self.input_missing(rule, state, profiles, &scopes, j),
                        None if lost => {
                            self.unrepresentable(rule, profiles, &scopes, j);
                        }
                        None => {}
                    }
                }
            }
        }
        let valued = exposed && value.is_some() && !pair.unvalued && missing.is_none();

        for (i, &p) in profiles.iter().enumerate() {
            let hot = self.hot(p);
            let now_at: &Gauges = if i == 3 { &before } else { &self.scopes[slots[i]].gauges };
            for gauge in MOVED {
                let g = gauge as usize;
                let after = now_at[g].saturating_add(added[g]);
                if after > hot.soft[g] && added[g] > 0 {
                    let counted = matches!(gauge, Gauge::Working | Gauge::Orders) && !self.leaves_out(coverage::COUNTS);
                    let quantity = matches!(gauge, Gauge::PositionLong | Gauge::PositionShort);
                    let limit = self.table.profile(p).max[g];
                    if after > limit && (counted || (quantity && exposed) || valued) {
                        self.breach_at(gauge.rule(), Why::Breach, scopes[i], p, after, limit, j);
                    }
                    let suspense = self.table.profile(p).suspense;
                    if gauge == Gauge::Gross && valued && suspense != UNLIMITED && after > suspense {
                        self.breach_at(Rule::Suspense, Why::Breach, scopes[i], p, after, suspense, j);
                    }
                }
            }
            // The levels: what an order does not move but is judged by.
            let executions = now_at[Gauge::Executions as usize];
            if executions > hot.soft[Gauge::Executions as usize] {
                self.judge_level(Gauge::Executions, executions, scopes[i], p, j);
            }
            if valued && hot.armed & armed::LOSS != 0 && i != 3 {
                for gauge in [Gauge::Loss, Gauge::Drawdown, Gauge::LossVelocity] {
                    let level = now_at[gauge as usize];
                    if level > hot.soft[gauge as usize] {
                        self.judge_level(gauge, level, scopes[i], p, j);
                    }
                }
            }
            let overflowed = if i == 3 { pair.overflowed } else { self.scopes[slots[i]].overflowed };
            if overflowed && exposed {
                let cause = Denial {
                    rule: Rule::GrossExposure,
                    why: Why::Unrepresentable,
                    scope: scopes[i],
                    observed: REPRESENTABLE_MAX,
                    limit: REPRESENTABLE_MAX,
                };
                j.breach(cause, Action::Deny);
            }
        }
        if arms & armed::DAY != 0 && exposed {
            self.judge_day(r, &before, &added, slots, profiles, j);
        }
        Added { gauges: added, valued: value.is_some() }
    }

    fn judge_level(&self, gauge: Gauge, level: i64, scope: Scope, profile: u32, j: &mut Judgement) {
        let limit = self.table.profile(profile).of(gauge);
        if limit != UNLIMITED && (level > limit || limit == 0) {
            self.breach_at(gauge.rule(), Why::Breach, scope, profile, level, limit, j);
        }
    }

    fn judge_day(
        &self,
        r: &Request,
        pair: &Gauges,
        added: &Gauges,
        slots: &[usize; 6],
        profiles: &[u32; 6],
        j: &mut Judgement,
    ) {
        let scopes = r.scopes();
        let g = Gauge::DayQty as usize;
        let spec = &self.universe.instruments[r.instrument.0 as usize];
        let Some(adv) = spec.average_daily_volume.filter(|adv| adv.0 > 0) else {
            return self.input_missing(Rule::DayParticipation, (Why::VolumeMissing, 0, 0), profiles, &scopes, j);
        };
        for i in [3, 4] {
            let limit = self.table.profile(profiles[i]).max[g];
            let held = if i == 3 { pair[g] } else { self.scopes[slots[i]].gauges[g] };
            let qty = held.saturating_add(added[g]);
            if limit != UNLIMITED && added[g] > 0 && participates_more(qty, adv.0, limit) {
                let after = participation(qty, adv.0);
                self.breach_at(Rule::DayParticipation, Why::Breach, scopes[i], profiles[i], after, limit, j);
            }
        }
    }

    fn judge_rates(&self, now: MonoNanos, r: &Request, slots: &[usize; 6], j: &mut Judgement) {
        if self.leaves_out(coverage::RATES) {
            return;
        }
        j.checks |= coverage::RATES & coverage::applicable(r.replace, r.reduces);
        let scopes = r.scopes();
        for i in [0, 1, 2, 4, 5] {
            for meter in self.rates.range(slots[i]) {
                let limit = self.rates.limit(meter);
                let counts = match limit.of {
                    RateOf::Orders => !r.replace,
                    RateOf::Messages => true,
                    RateOf::Cancels | RateOf::Denials | RateOf::Orphans => false,
                };
                if counts && !self.rates.fits(meter, now) {
                    j.breach(rate_cause(limit, scopes[i]), limit.action);
                }
            }
        }
    }

    // --- what happened after the event -------------------------------------------------------------

    /// Warns and trips where the gauges of a scope grew by something that cannot be denied.
    pub(super) fn watch(
        &mut self,
        scope: Scope,
        profile: u32,
        (before, after): (&Gauges, &Gauges),
        event: Option<&Event>,
        out: &mut Effects,
    ) {
        let targets = match self.fill {
            Some(fill) if fill.include(scope) => fill,
            _ => self.targets_of(scope),
        };
        let mut j: Option<Judgement> = None;
        let hot = self.hot(profile);
        for gauge in Gauge::ALL {
            let g = gauge as usize;
            if after[g] <= before[g] || (after[g] <= hot.soft[g] && gauge != Gauge::DayQty) {
                continue;
            }
            if !crate::model::rule::applies(gauge.rule(), scope.kind()) {
                continue;
            }
            let (was, is) = if gauge == Gauge::DayQty {
                let (Scope::Instrument(i) | Scope::Pair(_, i)) = scope else { continue };
                if hot.armed & armed::DAY == 0 {
                    continue;
                }
                let Some(adv) = self.universe.instruments[i.0 as usize].average_daily_volume else { continue };
                if !participates_more(after[g], adv.0, hot.soft[g]) {
                    continue;
                }
                (participation(before[g], adv.0), participation(after[g], adv.0))
            } else {
                (before[g], after[g])
            };
            if is <= hot.soft[g] {
                continue;
            }
            let limits = self.table.profile(profile);
            let limit = limits.max[g];
            self.warn(gauge.rule(), scope, (was, is), limit, limits, out);
            if limit != UNLIMITED && is > limit {
                let j = j.get_or_insert_with(|| Judgement::reported(targets));
                self.breach_at(gauge.rule(), Why::Breach, scope, profile, is, limit, j);
            }
            if gauge == Gauge::Gross && limits.suspense != UNLIMITED {
                self.warn(Rule::Suspense, scope, (was, is), limits.suspense, limits, out);
                if is > limits.suspense {
                    let j = j.get_or_insert_with(|| Judgement::reported(targets));
                    self.breach_at(Rule::Suspense, Why::Breach, scope, profile, is, limits.suspense, j);
                }
            }
        }
        if let Some(j) = j {
            self.carry_out(&j, event, out);
        }
    }

    // --- breaches -------------------------------------------------------------------------------

    #[cold]
    #[allow(clippy::too_many_arguments)]
    pub(super) fn breach_at(
        &self,
        rule: Rule,
        why: Why,
        scope: Scope,
        profile: u32,
        observed: i64,
        limit: i64,
        j: &mut Judgement,
    ) {
        let action = self.table.profile(profile).action[rule as usize];
        j.breach(Denial { rule, why, scope, observed, limit }, action);
    }

    /// The first scope that arms `rule` denies for want of an input.
    #[cold]
    fn input_missing(
        &self,
        rule: Rule,
        (why, observed, limit): (Why, i64, i64),
        profiles: &[u32; 6],
        scopes: &[Scope; 6],
        j: &mut Judgement,
    ) {
        if let Some(i) = self.first_arming(rule, profiles) {
            self.breach_at(rule, why, scopes[i], profiles[i], observed, limit, j);
        }
    }

    #[cold]
    fn unrepresentable(&self, rule: Rule, profiles: &[u32; 6], scopes: &[Scope; 6], j: &mut Judgement) {
        if let Some(i) = self.first_arming(rule, profiles) {
            let limits = self.table.profile(profiles[i]);
            let limit = match rule {
                Rule::Suspense => limits.suspense,
                _ => Gauge::of(rule).map_or(limits.order_notional, |g| limits.of(g)),
            };
            self.breach_at(rule, Why::Unrepresentable, scopes[i], profiles[i], REPRESENTABLE_MAX, limit, j);
        }
    }

    fn first_arming(&self, rule: Rule, profiles: &[u32; 6]) -> Option<usize> {
        let arms = |limits: &ScopeLimits, kind| crate::model::rule::applies(rule, kind) && limits_rule(limits, rule);
        (0..6).find(|&i| arms(self.table.profile(profiles[i]), ScopeKind::ALL[i]))
    }

    /// Counts a denial at the scopes given, and carries out what that escalates to.
    pub(super) fn count_denial(
        &mut self,
        now: MonoNanos,
        event: &Event,
        scopes: &[Scope],
        targets: &Targets,
        out: &mut Effects,
    ) {
        for &scope in scopes {
            let Some(slot) = self.universe.slot(scope) else { continue };
            self.count_rate(now, event, slot, scope, |of| of == RateOf::Denials, targets, out);
        }
    }

    /// Warns if the one that `meter` of the scope at `slot` just counted reached a warning level.
    #[cold]
    pub(super) fn warn_rate(&self, now: MonoNanos, slot: usize, meter: usize, out: &mut Effects) {
        let Some(scope) = self.universe.scope_at(slot) else { return };
        let view = self.rates.view(meter, now);
        let change = (view.used - 1, view.used);
        self.warn(view.limit.of.rule(), scope, change, view.most, self.table.at(slot), out);
    }

    /// Counts one at every meter of a scope that `counts`, whether it fits or not; what does not fit warns and latches.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn count_rate(
        &mut self,
        now: MonoNanos,
        event: &Event,
        slot: usize,
        scope: Scope,
        counts: impl Fn(RateOf) -> bool,
        targets: &Targets,
        out: &mut Effects,
    ) {
        for meter in self.rates.range(slot) {
            let limit = *self.rates.limit(meter);
            if !counts(limit.of) {
                continue;
            }
            let fits = self.rates.fits(meter, now);
            let look = self.rates.record(meter, now);
            let cause = rate_cause(&limit, scope);
            if !fits {
                out.push(crate::model::Effect::Warn(crate::model::Warn { at: cause, percent: 100 }));
                self.act(limit.action, cause, targets, Some(event), out);
            } else if look {
                self.warn_rate(now, slot, meter, out);
            }
        }
    }
}

/// What a full rate limit is a breach of.
fn rate_cause(limit: &crate::limits::RateLimit, scope: Scope) -> Denial {
    let most = match limit.kind {
        crate::limits::RateKind::Sliding => i64::from(limit.count),
        crate::limits::RateKind::Gcra { .. } if limit.count == 0 => 0,
        crate::limits::RateKind::Gcra { burst } => i64::from(burst),
    };
    Denial { rule: limit.of.rule(), why: Why::Breach, scope, observed: most + 1, limit: most }
}

/// What makes `r` like another order. A market order has no price of its own.
pub(super) fn likeness(r: &Request) -> Likeness {
    Likeness {
        strategy: r.strategy.0,
        ord_type: r.ord_type,
        side: r.side,
        instrument: r.instrument.0,
        qty: r.qty,
        px: if r.ord_type == OrdType::Market { 0 } else { r.px },
    }
}

/// The same, before anything is known about the event.
pub(super) fn likeness_of(event: &Event) -> Likeness {
    Likeness {
        strategy: event.strategy.0,
        ord_type: event.ord_type,
        side: event.side,
        instrument: event.instrument.0,
        qty: event.qty.0,
        px: if event.ord_type == OrdType::Market { 0 } else { event.px.0 },
    }
}

/// Whether `qty` is more than `limit` basis points of `volume`.
#[inline]
pub(super) fn participates_more(qty: i64, volume: i64, limit: i64) -> bool {
    i128::from(qty) * 10_000 > i128::from(limit) * i128::from(volume)
}

/// `qty` in basis points of `volume`, rounded up.
fn participation(qty: i64, volume: i64) -> i64 {
    if volume <= 0 {
        return REPRESENTABLE_MAX;
    }
    let bps = (i128::from(qty.max(0)) * 10_000 + i128::from(volume) - 1) / i128::from(volume);
    bps.min(i128::from(REPRESENTABLE_MAX)) as i64
}

/// Whether a request's own fields are in range, and the denial if not. `px` is judged by its sign too if `spec` is known.
pub(super) fn malformed(event: &Event, negative_px: Option<bool>) -> Option<Denial> {
    let cause = |observed, limit| {
        Some(Denial { rule: Rule::Malformed, why: Why::Breach, scope: Scope::Session(event.session), observed, limit })
    };
    if event.flags & Event::MALFORMED != 0 || event.id.0 == 0 {
        return cause(0, 0);
    }
    if !(1..=REPRESENTABLE_MAX).contains(&event.qty.0) {
        return cause(event.qty.0, REPRESENTABLE_MAX);
    }
    let px = event.px.0;
    match event.ord_type {
        OrdType::Market => None,
        OrdType::Limit | OrdType::Stop | OrdType::StopLimit => {
            let positive = negative_px != Some(false) || px > 0;
            if px.unsigned_abs() <= REPRESENTABLE_MAX as u64 && positive { None } else { cause(px, REPRESENTABLE_MAX) }
        }
    }
}
