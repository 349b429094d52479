//! A slow model of the engine, written from the contract in `haltline::risk` and sharing no code with it.
//!
//! Everything that can be is worked out anew for each decision: positions from the list of all bookings,
//! leaves from the list of all orders, exposures from those, windows from the list of all time stamps.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use haltline::engine::Command;
use haltline::engine::core::Sizing;
use haltline::limits::{Gauge, LimitTable, ParentRule, RateKind, RateLimit, RateOf, ScopeLimits, SideRule, UNLIMITED};
use haltline::model::rule::applies;
use haltline::model::{
    Action, AnomalyKind, Event, EventKind, Mode, OrdType, Rule, Scope, ScopeKind, SessionKind, Side, Target, Universe,
    Why,
};
use haltline::units::{AccountId, InstrumentId, Now, SessionId, StrategyId};

pub mod money;

use money::{Factors, MAX, Round, ceil_div, value};

/// Why an order was denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deny {
    pub rule: Rule,
    pub why: Why,
    pub scope: Scope,
    pub observed: i64,
    pub limit: i64,
}

/// What a step did, as far as it is compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// `Some(None)`: admitted.
    pub verdict: Option<Option<Deny>>,
    pub trips: Vec<(Scope, Mode, Rule)>,
    pub applied: Option<u64>,
    pub resend: Option<u64>,
    pub anomalies: Vec<AnomalyKind>,
}

#[derive(Clone, Copy, Debug)]
struct Breach {
    deny: Deny,
    action: Action,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Pending,
    Working,
    Done,
}

#[derive(Clone, Copy, Debug)]
struct Terms {
    id: u64,
    qty: i128,
    worst: i128,
    kind: OrdType,
}

/// A parent, as the order management side described it last.
#[derive(Clone, Debug)]
struct Parent {
    id: u64,
    session: SessionId,
    strategy: StrategyId,
    instrument: InstrumentId,
    side: Side,
    qty: i128,
    px: Option<i128>,
    deadline: u64,
    done: bool,
    children: i128,
    /// What its children filled, less what was taken back.
    filled: i128,
    /// The session of its first child.
    owner: Option<SessionId>,
}

#[derive(Clone, Debug)]
struct Order {
    /// The parent that it counts towards.
    parent: Option<usize>,
    session: SessionId,
    strategy: StrategyId,
    instrument: InstrumentId,
    side: Side,
    now: Terms,
    next: Option<Terms>,
    cum: i128,
    state: State,
    cancel_pending: bool,
    /// Its end has been noted.
    ended: bool,
}

impl Order {
    fn live(&self) -> bool {
        self.state != State::Done
    }
    fn leaves_of(&self, terms: &Terms) -> i128 {
        if self.live() { (terms.qty - self.cum).max(0) } else { 0 }
    }
    fn raw_of(&self, terms: &Terms) -> i128 {
        (self.leaves_of(terms) * terms.worst).max(0)
    }
    /// Leaves and raw value as they count: the worse of now and what a pending replace would make of it.
    fn counted(&self) -> (i128, i128) {
        let now = (self.leaves_of(&self.now), self.raw_of(&self.now));
        match &self.next {
            None => now,
            Some(next) => (now.0.max(self.leaves_of(next)), now.1.max(self.raw_of(next))),
        }
    }
    /// Done if nothing is left, now or after a pending replace.
    fn settle(&mut self) {
        if self.live() && self.counted().0 == 0 {
            self.state = State::Done;
        }
    }
}

/// One booking: a fill, or a fill taken back.
#[derive(Clone, Copy, Debug)]
struct Booking {
    pair: usize,
    signed: i128,
    px: i128,
    day_qty: i128,
}

#[derive(Clone, Copy, Debug)]
struct Exec {
    pair: usize,
    side: Side,
    qty: i64,
    px: i64,
    /// The order id that it was reported for.
    order_id: u64,
    day: u32,
    alive: bool,
}

/// A pair's sums and values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct PairSums {
    p: i128,
    lb: i128,
    ls: i128,
    raw_lb: i128,
    raw_ls: i128,
    cash: i128,
    day_qty: i128,
    values: Values,
    /// Why it has no value of its own at present.
    unvalued: Option<Why>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Values {
    net_long: i128,
    net_short: i128,
    gross: i128,
    pnl: i128,
}

#[derive(Clone, Debug)]
struct Session {
    expected: u64,
    in_gap: bool,
    /// `None`: it has not been heard yet, and is not judged for silence.
    last_event: Option<u64>,
    silent: bool,
}

/// The things that an event belongs to, as far as known.
#[derive(Clone, Copy, Debug)]
struct Parties {
    session: Option<SessionId>,
    strategy: Option<StrategyId>,
    account: Option<AccountId>,
    instrument: Option<InstrumentId>,
}

impl Parties {
    /// Every scope in check order.
    fn scopes(&self) -> Vec<Scope> {
        let mut list = vec![Scope::Firm];
        list.extend(self.account.map(Scope::Account));
        list.extend(self.strategy.map(Scope::Strategy));
        if let (Some(s), Some(i)) = (self.strategy, self.instrument) {
            list.push(Scope::Pair(s, i));
        }
        list.extend(self.instrument.map(Scope::Instrument));
        list.extend(self.session.map(Scope::Session));
        list
    }
}

/// A rate limit's past.
#[derive(Clone, Debug, Default)]
struct RatePast {
    stamps: Vec<u64>,
    /// Theoretical arrival time in ns.
    tat: i128,
}

/// A scope's profit as it went, since the day, the start or the last re-arm.
#[derive(Clone, Debug)]
struct PnlPast {
    high: i128,
    points: Vec<(u64, i128)>,
}

/// The model.
pub struct Oracle {
    uni: Arc<Universe>,
    lim: Arc<LimitTable>,
    sizing: Sizing,
    mono: u64,
    unix: u64,
    sessions: Vec<Session>,
    /// The journal is behind.
    behind: bool,
    modes: Vec<Mode>,
    orders: Vec<Order>,
    ids: HashMap<(SessionId, u64), usize>,
    /// Ids that are over, oldest first: only so many are remembered.
    over: Vec<(SessionId, u64)>,
    execs: HashMap<(SessionId, u64), Exec>,

    /// Their ids, oldest first.
    exec_order: Vec<(SessionId, u64)>,
    bookings: Vec<Booking>,
    /// Where today's bookings begin, and the cash that each pair began the day with.
    day_start: usize,
    day: u32,
    cash_start: Vec<i128>,
    last_values: Vec<Values>,
    marks: Vec<Option<(i64, u64)>>,
    fx: Vec<Option<(i64, u64)>>,
    new_orders: Vec<i128>,
    executions: Vec<i128>,
    parents: Vec<Parent>,
    /// When new orders went out, by scope.
    fan: Vec<Vec<u64>>,
    rates: HashMap<(usize, usize), RatePast>,
    recent: Vec<(u64, DuplicateKey)>,
    pnl: Vec<PnlPast>,
    /// Set when a sum went beyond what 126 bits hold: from there on the model says nothing.
    pub lost: bool,
}

type DuplicateKey = (StrategyId, InstrumentId, Side, OrdType, i64, i64);

const fn gauge_rules() -> [Gauge; Gauge::COUNT] {
    // In check order of their rules.
    [
        Gauge::PositionLong,
        Gauge::PositionShort,
        Gauge::DayQty,
        Gauge::Gross,
        Gauge::NetLong,
        Gauge::NetShort,
        Gauge::Working,
        Gauge::Orders,
        Gauge::Executions,
        Gauge::Loss,
        Gauge::Drawdown,
        Gauge::LossVelocity,
    ]
}

/// How severe a breach is; a mode that was found counts as what it is.
fn severity(breach: &Breach) -> Mode {
    if breach.deny.rule == Rule::Mode { Mode::from_u8(breach.deny.observed as u8) } else { breach.action.mode() }
}

fn clamp(value: i128) -> i64 {
    value.clamp(-MAX, MAX) as i64
}

fn age_limit(ns: u64) -> i64 {
    clamp(i128::from(ns))
}

impl Oracle {
    pub fn new(uni: Arc<Universe>, lim: Arc<LimitTable>, sizing: Sizing, now: Now) -> Oracle {
        let (slots, pairs) = (uni.scope_count(), uni.strategies.len() * uni.instruments.len());
        let t = now.mono.0;
        Oracle {
            mono: t,
            unix: now.unix.0,
            sessions: vec![Session { expected: 1, in_gap: false, last_event: None, silent: false }; uni.sessions.len()],
            behind: false,
            modes: vec![Mode::Normal; slots],
            orders: Vec::new(),
            ids: HashMap::new(),
            over: Vec::new(),
            execs: HashMap::new(),

            exec_order: Vec::new(),
            bookings: Vec::new(),
            day_start: 0,
            day: 0,
            cash_start: vec![0; pairs],
            last_values: vec![Values::default(); pairs],
            marks: uni.instruments.iter().map(|i| i.initial_reference.map(|px| (px.0, t))).collect(),
            fx: uni.currencies.iter().map(|c| c.initial_rate.map(|px| (px.0, t))).collect(),
            new_orders: vec![0; slots],
            executions: vec![0; slots],
            parents: Vec::new(),
            fan: vec![Vec::new(); slots],
            rates: HashMap::new(),
            recent: Vec::new(),
            pnl: vec![PnlPast { high: 0, points: vec![(t, 0)] }; slots],
            lost: false,
            uni,
            lim,
            sizing,
        }
    }

    // ------------------------------------------------------------------ inspection

    /// The mode of a scope.
    pub fn mode(&self, slot: usize) -> Mode {
        self.modes[slot]
    }

    /// Whether the loss velocity of a scope is limited, and so kept.
    pub fn velocity_kept(&self, slot: usize) -> bool {
        self.lim.at(slot).of(Gauge::LossVelocity) != UNLIMITED
    }

    /// The next sequence of a session.
    pub fn expected(&self, session: SessionId) -> u64 {
        self.sessions[usize::from(session.0)].expected
    }

    /// The gauges of a scope, in [`Gauge`]'s order, as they are published.
    pub fn gauges(&mut self, now: Now, slot: usize) -> [i64; Gauge::COUNT] {
        self.tick_clock(now);
        let sums = self.sums();
        let scope = self.uni.scope_at(slot).expect("a slot");
        let mut shown = [0; Gauge::COUNT];
        for gauge in Gauge::ALL {
            let kept = gauge != Gauge::LossVelocity || self.velocity_kept(slot);
            if applies(gauge.rule(), scope.kind()) && kept {
                let sum = self.gauge(&sums, scope, gauge);
                shown[gauge as usize] = i64::try_from(sum).unwrap_or(i64::MAX);
            }
        }
        shown
    }

    // ------------------------------------------------------------------ sums

    fn pair_of(&self, s: StrategyId, i: InstrumentId) -> usize {
        usize::from(s.0) * self.uni.instruments.len() + i.0 as usize
    }

    fn pair_parts(&self, pair: usize) -> (StrategyId, InstrumentId) {
        let n = self.uni.instruments.len();
        (StrategyId((pair / n) as u16), InstrumentId((pair % n) as u32))
    }

    fn account_of(&self, s: StrategyId) -> AccountId {
        self.uni.strategies[usize::from(s.0)].account
    }

    fn pair_in(&self, pair: usize, scope: Scope) -> bool {
        let (s, i) = self.pair_parts(pair);
        match scope {
            Scope::Firm => true,
            Scope::Account(a) => self.account_of(s) == a,
            Scope::Strategy(x) => x == s,
            Scope::Pair(x, y) => (x, y) == (s, i),
            Scope::Instrument(x) => x == i,
            Scope::Session(_) => false,
        }
    }

    /// Everything about every pair, from the lists.
    fn sums(&mut self) -> Vec<PairSums> {
        let mut sums = vec![PairSums::default(); self.cash_start.len()];
        for (pair, sum) in sums.iter_mut().enumerate() {
            sum.cash = self.cash_start[pair];
        }
        let mut lost = false;
        let mut add = |place: &mut i128, by: Option<i128>| match by.and_then(|by| place.checked_add(by)) {
            Some(sum) if sum.abs() < 1 << 125 => *place = sum,
            _ => lost = true,
        };
        for (n, b) in self.bookings.iter().enumerate() {
            let sum = &mut sums[b.pair];
            add(&mut sum.p, Some(b.signed));
            if n >= self.day_start {
                add(&mut sum.cash, b.signed.checked_mul(-b.px));
                add(&mut sum.day_qty, Some(b.day_qty));
            }
        }
        for order in self.orders.iter().filter(|o| o.live()) {
            let pair = self.pair_of(order.strategy, order.instrument);
            let sum = &mut sums[pair];
            let (leaves, raw) = order.counted();
            match order.side {
                Side::Buy => {
                    add(&mut sum.lb, Some(leaves));
                    add(&mut sum.raw_lb, Some(raw));
                }
                Side::Sell => {
                    add(&mut sum.ls, Some(leaves));
                    add(&mut sum.raw_ls, Some(raw));
                }
            }
            add(&mut sum.day_qty, Some(leaves));
        }
        for (pair, sum) in sums.iter_mut().enumerate() {
            lost |= sum.p.abs() > MAX || sum.lb > MAX || sum.ls > MAX || sum.day_qty > MAX;
            self.revalue(pair, sum);
        }
        self.lost |= lost;
        sums
    }

    /// Values a pair: its exposures and its profit, each as it was last where it cannot be said.
    fn revalue(&self, pair: usize, sum: &mut PairSums) {
        sum.values = self.last_values[pair];
        sum.unvalued = None;
        let (_, i) = self.pair_parts(pair);
        let Some(factors) = self.factors(i) else {
            sum.unvalued = Some(Why::FxMissing);
            return;
        };
        let reference = self.marks[i.0 as usize].map(|(px, _)| i128::from(px));
        let held = sum.p.checked_mul(reference.unwrap_or(0));
        let worth = |raw: Option<i128>, round| raw.and_then(|r| value(r, &factors, round)).map(i128::from);
        let long = worth(held.and_then(|h| sum.raw_lb.checked_add(h)), Round::Up);
        let short = worth(held.and_then(|h| sum.raw_ls.checked_sub(h)), Round::Up);
        match long.zip(short) {
            Some((net_long, net_short)) => {
                let gross = net_long.max(0) + net_short.max(0);
                sum.values = Values { net_long, net_short, gross, pnl: sum.values.pnl };
            }
            None => sum.unvalued = Some(Why::Unrepresentable),
        }
        // Without a reference nobody knows the profit: it stays what it was.
        if reference.is_some() {
            match worth(held.and_then(|h| sum.cash.checked_add(h)), Round::Down) {
                Some(pnl) => sum.values.pnl = pnl,
                None => sum.unvalued = Some(Why::Unrepresentable),
            }
        }
    }

    fn factors(&self, i: InstrumentId) -> Option<Factors> {
        let spec = &self.uni.instruments[i.0 as usize];
        let rate =
            if spec.currency.0 == 0 { (1, 0) } else { (self.fx[usize::from(spec.currency.0)]?.0, Event::FX_SCALE) };
        Some(Factors {
            multiplier: spec.multiplier,
            rate,
            px_scale: spec.px_scale,
            qty_scale: spec.qty_scale,
            base_scale: self.uni.base_scale,
        })
    }

    fn gauge(&self, sums: &[PairSums], scope: Scope, gauge: Gauge) -> i128 {
        let over = |part: fn(&PairSums) -> i128| -> i128 {
            sums.iter().enumerate().filter(|(pair, _)| self.pair_in(*pair, scope)).map(|(_, s)| part(s)).sum()
        };
        let slot = self.uni.slot(scope);
        match gauge {
            Gauge::Gross => over(|s| s.values.gross),
            Gauge::NetLong => over(|s| s.values.net_long),
            Gauge::NetShort => over(|s| s.values.net_short),
            Gauge::Working => {
                let of = |o: &&Order| {
                    o.live()
                        && match scope {
                            Scope::Session(x) => o.session == x,
                            _ => self.pair_in(self.pair_of(o.strategy, o.instrument), scope),
                        }
                };
                self.orders.iter().filter(of).count() as i128
            }
            Gauge::Orders => slot.map_or(0, |s| self.new_orders[s]),
            Gauge::Executions => slot.map_or(0, |s| self.executions[s]),
            Gauge::Loss => -over(|s| s.values.pnl),
            Gauge::Drawdown => slot.map_or(0, |s| (self.pnl[s].high - over(|s| s.values.pnl)).max(0)),
            Gauge::LossVelocity => slot.map_or(0, |s| self.loss_velocity(s, over(|s| s.values.pnl))),
            Gauge::PositionLong => over(|s| s.p + s.lb),
            Gauge::PositionShort => over(|s| s.ls - s.p),
            Gauge::DayQty => over(|s| s.day_qty),
        }
    }

    /// The fall from the largest profit that held at any moment of this slice or the 16 before it.
    fn loss_velocity(&self, slot: usize, pnl: i128) -> i128 {
        let slice = (self.lim.at(slot).loss_window_ns / 16).max(1);
        let from = (self.mono / slice).saturating_sub(16) * slice;
        let mut best = pnl;
        for (t, held) in self.pnl[slot].points.iter().rev() {
            best = best.max(*held);
            if *t < from {
                break;
            }
        }
        best - pnl
    }

    // ------------------------------------------------------------------ inputs

    fn reference_input(&self, i: InstrumentId) -> Option<(Why, i64, i64)> {
        let allowed = self.lim.reference_age(i);
        match self.marks[i.0 as usize] {
            None => Some((Why::ReferenceMissing, 0, age_limit(allowed))),
            Some((_, at)) if self.mono - at > allowed => {
                Some((Why::ReferenceStale, age_limit(self.mono - at), age_limit(allowed)))
            }
            Some(_) => None,
        }
    }

    fn fx_input(&self, i: InstrumentId) -> Option<(Why, i64, i64)> {
        let currency = self.uni.instruments[i.0 as usize].currency;
        if currency.0 == 0 {
            return None;
        }
        let allowed = self.lim.fx_age(currency);
        match self.fx[usize::from(currency.0)] {
            None => Some((Why::FxMissing, 0, age_limit(allowed))),
            Some((_, at)) if self.mono - at > allowed => {
                Some((Why::FxStale, age_limit(self.mono - at), age_limit(allowed)))
            }
            Some(_) => None,
        }
    }

    fn limits(&self, scope: Scope) -> &ScopeLimits {
        self.lim.scope(&self.uni, scope).expect("a known scope")
    }

    // ------------------------------------------------------------------ a step

    fn tick_clock(&mut self, now: Now) {
        self.mono = self.mono.max(now.mono.0);
        self.unix = now.unix.0;
    }

    /// Takes one event.
    pub fn step(&mut self, now: Now, e: &Event) -> Outcome {
        self.tick_clock(now);
        let mut out = Outcome::default();
        let index = usize::from(e.session.0);
        if index >= self.sessions.len() {
            return out;
        }
        let kind = self.uni.sessions[index].kind;
        let asks = kind == SessionKind::Ask && e.kind.is_request();
        let nobody = Parties { session: Some(e.session), strategy: None, account: None, instrument: None };
        // Haltline's own has no place in the stream.
        let own = e.kind == EventKind::Withdrawn && e.seq == 0;
        if !own {
            let expected = self.sessions[index].expected;
            if e.seq < expected {
                out.anomalies.push(AnomalyKind::DuplicateSeq);
                return out;
            }
            if e.seq > expected {
                out.resend = Some(expected);
                let deny = Deny {
                    rule: Rule::StreamGap,
                    why: Why::Breach,
                    scope: Scope::Session(e.session),
                    observed: e.seq as i64,
                    limit: expected as i64,
                };
                if asks {
                    // A cancel is never denied; it is booked when it is sent again.
                    out.verdict = Some((e.kind != EventKind::Cancel).then_some(deny));
                }
                if !self.sessions[index].in_gap {
                    self.sessions[index].in_gap = true;
                    out.anomalies.push(AnomalyKind::SeqGap);
                    let action = self.limits(Scope::Session(e.session)).action[Rule::StreamGap as usize];
                    self.latch(&Breach { deny, action }, &nobody, &mut out);
                }
                return out;
            }
            self.sessions[index].expected += 1;
            if self.sessions[index].in_gap {
                self.sessions[index].in_gap = false;
                out.anomalies.push(AnomalyKind::SeqGapClosed);
            }
        }
        let silence = self.sessions[index].last_event.map_or(0, |at| self.mono - at);
        if !own {
            // What haltline made itself is no sign of life.
            self.sessions[index].last_event = Some(self.mono);
            self.sessions[index].silent = false;
        }
        let skewed = self.skew(e);
        if skewed.is_some() && !e.kind.is_request() && !own {
            out.anomalies.push(AnomalyKind::ClockSkew);
        }

        let reference_kind = matches!(e.kind, EventKind::Mark | EventKind::Fx);
        let may = own
            || match kind {
                SessionKind::Reference => reference_kind || e.kind == EventKind::Heartbeat,
                SessionKind::Ask | SessionKind::Observe => !reference_kind && !e.kind.is_parent(),
                SessionKind::Orders => e.kind.is_parent() || e.kind == EventKind::Heartbeat,
            };
        if !may {
            let what = if reference_kind { AnomalyKind::BadReference } else { AnomalyKind::MalformedReport };
            out.anomalies.push(what);
        } else if e.flags & Event::MALFORMED != 0 && !e.kind.is_request() && !own {
            out.anomalies.push(if reference_kind { AnomalyKind::BadReference } else { AnomalyKind::MalformedReport });
        } else {
            match e.kind {
                EventKind::New => self.new_order(e, asks, silence, skewed, &mut out),
                EventKind::Replace => self.replace(e, asks, silence, skewed, &mut out),
                EventKind::Cancel => self.cancel(e, asks, &mut out),
                EventKind::Ack
                | EventKind::Replaced
                | EventKind::Canceled
                | EventKind::Expired
                | EventKind::Rejected
                | EventKind::CancelRejected
                | EventKind::Withdrawn => {
                    let before = self.all_gauges();
                    self.report(e, &mut out);
                    let parties = Parties { session: None, strategy: None, account: None, instrument: None };
                    self.judge_grown(&before, &parties, &mut out);
                }
                EventKind::Fill | EventKind::Bust | EventKind::Correct => self.execution(e, &mut out),
                EventKind::Mark => self.mark(e, &mut out),
                EventKind::Fx => self.fx_rate(e, &mut out),
                EventKind::Heartbeat => {}
                EventKind::ParentNew | EventKind::ParentReplace | EventKind::ParentDone => self.parent(e, &mut out),
            }
        }
        if !asks && !own {
            out.applied = Some(e.seq);
        }
        self.forget_orders();
        self.keep_values();
        out
    }

    /// The skew if it is beyond the session's bound.
    fn skew(&self, e: &Event) -> Option<(i64, i64)> {
        let bound = self.limits(Scope::Session(e.session)).clock_skew_ns;
        if bound == UNLIMITED {
            return None;
        }
        let skew = i128::from(e.sent_at.0) - i128::from(self.unix);
        (bound == 0 || e.sent_at.0 == 0 || skew.abs() > i128::from(bound)).then(|| (clamp(skew), bound))
    }

    /// Orders that ended are remembered, and the oldest of them forgotten when there are too many.
    fn forget_orders(&mut self) {
        for order in self.orders.iter_mut().filter(|o| !o.live() && !o.ended) {
            order.ended = true;
            self.over.extend(order.next.map(|next| (order.session, next.id)));
            self.over.push((order.session, order.now.id));
        }
        while self.over.len() > self.sizing.remembered_orders {
            let oldest = self.over.remove(0);
            self.ids.remove(&oldest);
        }
    }

    /// What holds at the end of an event becomes past: last values, high-water marks, profit over time.
    fn keep_values(&mut self) {
        let sums = self.sums();
        for (pair, sum) in sums.iter().enumerate() {
            self.last_values[pair] = sum.values;
        }
        for slot in 0..self.pnl.len() {
            let scope = self.uni.scope_at(slot).expect("a slot");
            let pnl = -self.gauge(&sums, scope, Gauge::Loss);
            // Not even part of a sum may be beyond: the engine takes it one pair after the other.
            let parts: [fn(&PairSums) -> i128; 7] = [
                |s| s.values.gross,
                |s| s.values.net_long,
                |s| s.values.net_short,
                |s| s.values.pnl,
                |s| s.p + s.lb,
                |s| s.ls - s.p,
                |s| s.day_qty,
            ];
            let quantities = matches!(scope, Scope::Instrument(_));
            for part in &parts[..if quantities { 7 } else { 4 }] {
                let inside = sums.iter().enumerate().filter(|(pair, _)| self.pair_in(*pair, scope));
                self.lost |= inside.map(|(_, s)| part(s).abs()).sum::<i128>() > MAX;
            }
            let past = &mut self.pnl[slot];
            past.high = past.high.max(pnl);
            if past.points.last().is_none_or(|(_, last)| *last != pnl) {
                past.points.push((self.mono, pnl));
            }
        }
    }

    // ------------------------------------------------------------------ requests

    fn deny_at(&self, rule: Rule, scope: Scope, observed: i128, limit: i128) -> Breach {
        self.deny_why(rule, Why::Breach, scope, clamp(observed), clamp(limit))
    }

    fn deny_why(&self, rule: Rule, why: Why, scope: Scope, observed: i64, limit: i64) -> Breach {
        let action = if applies(rule, scope.kind()) { self.limits(scope).action[rule as usize] } else { Action::Deny };
        Breach { deny: Deny { rule, why, scope, observed, limit }, action }
    }

    fn new_order(&mut self, e: &Event, asks: bool, silence: u64, skewed: Option<(i64, i64)>, out: &mut Outcome) {
        let session = Scope::Session(e.session);
        let flagged = e.flags & Event::MALFORMED != 0;
        let strategy = (!flagged && usize::from(e.strategy.0) < self.uni.strategies.len()).then_some(e.strategy);
        let instrument = (!flagged && (e.instrument.0 as usize) < self.uni.instruments.len()).then_some(e.instrument);
        let account_known = usize::from(e.account.0) < self.uni.accounts.len();
        let parties =
            Parties { session: Some(e.session), strategy, account: strategy.map(|s| self.account_of(s)), instrument };
        if flagged
            || !(1..=MAX).contains(&i128::from(e.qty.0))
            || e.id.0 == 0
            || self.bad_price(e.ord_type, e.px.0, instrument)
        {
            let breach = self.deny_at(Rule::Malformed, session, 0, 0);
            return self.refuse(asks, vec![breach], &parties, out);
        }
        let (Some(s), Some(i), true) = (strategy, instrument, account_known) else {
            let breach = self.deny_at(Rule::UnknownEntity, session, 0, 0);
            return self.refuse(asks, vec![breach], &parties, out);
        };
        let mut found = Vec::new();
        // An observed order is out: it is booked if there is a place for it.
        let no_place = self.order_table_full();
        if self.no_room() {
            found.push(self.deny_at(Rule::Capacity, session, 0, 0));
        }
        if self.behind {
            found.push(self.deny_at(Rule::Journal, Scope::Firm, 0, 0));
        }
        let duplicate_id = self.ids.contains_key(&(e.session, e.id.0));
        let pair = self.pair_of(s, i);
        let sums = self.sums();
        let present = sums[pair];
        let qty = i128::from(e.qty.0);
        let reduces = match e.side {
            Side::Buy => present.p < 0 && present.lb + qty <= -present.p,
            Side::Sell => present.p > 0 && present.ls + qty <= present.p,
        };
        self.judge_stream(e.session, silence, skewed, &mut found);
        self.judge_mode(&parties, reduces, &mut found);
        if duplicate_id {
            found.push(self.deny_at(Rule::DuplicateId, session, 0, 0));
        }
        self.judge_permission(e.session, e.account == self.account_of(s), s, i, &mut found);
        self.judge_side(s, i, e.side, qty, present.ls + qty, present.p, &mut found);
        let worst = self.worst_price(e.ord_type, e.px.0, i, &parties);
        self.judge_order(&parties, i, e.ord_type, e.px.0, qty, worst, &mut found);

        let parent =
            self.judge_parent(e.session, e.ref_id, (s, i, e.side), (e.ord_type, e.px.0), qty, worst, &mut found);
        self.judge_fan_out(&parties, &mut found);
        let key = self.duplicate_key(e);
        if let Some(limit) = self.limits(Scope::Strategy(s)).duplicate {
            let equal = self.recent.iter().filter(|(at, k)| *k == key && self.mono - at < limit.window_ns).count();
            if equal >= limit.count as usize {
                let observed = (equal + 1).min(limit.count as usize + 1);
                found.push(self.deny_at(
                    Rule::DuplicateOrder,
                    Scope::Strategy(s),
                    observed as i128,
                    i128::from(limit.count),
                ));
            }
        }

        let raw = worst.map(|w| (w * qty).max(0));
        let mut after = present;
        match e.side {
            Side::Buy => {
                after.lb += qty;
                after.raw_lb += raw.unwrap_or(0);
            }
            Side::Sell => {
                after.ls += qty;
                after.raw_ls += raw.unwrap_or(0);
            }
        }
        after.day_qty += qty;
        self.revalue(pair, &mut after);
        self.judge_gauges(&parties, pair, &sums, after, reduces, true, &mut found);
        self.judge_suspense(&parties, pair, &sums, after, reduces, &mut found);
        self.judge_rates(&parties, &[RateOf::Orders, RateOf::Messages], &mut found);
        let held = match self.lim.parents(s) {
            ParentRule::Ignored => false,
            ParentRule::Checked => e.ref_id != 0,
            ParentRule::Required => true,
        };
        self.judge_demands(&parties, held, false, reduces, &mut found, out);
        found.sort_by_key(|b| (b.deny.rule, b.deny.scope.kind()));
        if self.lim.is_suspense(self.account_of(s)) {
            out.anomalies.push(AnomalyKind::SuspenseActivity);
        }

        if asks && !found.is_empty() {
            return self.refuse(asks, found, &parties, out);
        }
        if no_place || duplicate_id {
            if !duplicate_id {
                out.anomalies.push(AnomalyKind::OrderTableFull);
            }
            return self.refuse(asks, found, &parties, out);
        }
        if !asks {
            self.observed_trips(&found, &parties, out);
        } else {
            out.verdict = Some(None);
        }
        let worst = worst.unwrap_or_else(|| i128::from(e.px.0).clamp(-MAX, MAX));
        self.ids.insert((e.session, e.id.0), self.orders.len());
        if let Some(parent) = parent {
            self.parents[parent].children += 1;
            self.parents[parent].owner.get_or_insert(e.session);
        }
        for scope in parties.scopes() {
            if applies(Rule::FanOut, scope.kind())
                && let Some(slot) = self.uni.slot(scope)
                && self.limits(scope).fan_out.is_some()
            {
                self.fan[slot].push(self.mono);
            }
        }
        self.orders.push(Order {
            parent,
            session: e.session,
            strategy: s,
            instrument: i,
            side: e.side,
            now: Terms { id: e.id.0, qty, worst, kind: e.ord_type },
            next: None,
            cum: 0,
            state: State::Pending,
            cancel_pending: false,
            ended: false,
        });
        if self.limits(Scope::Strategy(s)).duplicate.is_some() {
            self.recent.push((self.mono, key));
        }
        for scope in parties.scopes() {
            if let Some(slot) = self.uni.slot(scope) {
                self.new_orders[slot] += 1;
            }
        }
        self.consume_rates(&parties, &[RateOf::Orders, RateOf::Messages]);
    }

    fn replace(&mut self, e: &Event, asks: bool, silence: u64, skewed: Option<(i64, i64)>, out: &mut Outcome) {
        let session = Scope::Session(e.session);
        let nobody = Parties { session: Some(e.session), strategy: None, account: None, instrument: None };
        let flagged = e.flags & Event::MALFORMED != 0;
        let known = self.ids.get(&(e.session, e.ref_id)).copied().filter(|_| !flagged);
        let target = known.filter(|o| {
            let order = &self.orders[*o];
            let named = order.strategy == e.strategy && order.instrument == e.instrument;
            named && order.now.id == e.ref_id && order.live() && order.next.is_none() && !order.cancel_pending
        });
        let parties = target.map_or(nobody, |o| self.parties_of(&self.orders[o]));
        let malformed = flagged
            || !(1..=MAX).contains(&i128::from(e.qty.0))
            || e.id.0 == 0
            || self.bad_price(e.ord_type, e.px.0, parties.instrument)
            || target.is_some_and(|o| i128::from(e.qty.0) <= self.orders[o].cum);
        if malformed {
            let breach = self.deny_at(Rule::Malformed, session, 0, 0);
            return self.refuse(asks, vec![breach], &parties, out);
        }
        let Some(target) = target else {
            let breach = self.deny_at(Rule::UnknownOrder, session, 0, 0);
            return self.refuse(asks, vec![breach], &parties, out);
        };
        let order = self.orders[target].clone();
        let (s, i) = (order.strategy, order.instrument);
        let mut found = Vec::new();
        // An observed order is out: it is booked if there is a place for it.
        let no_place = self.order_table_full();
        if self.no_room() {
            found.push(self.deny_at(Rule::Capacity, session, 0, 0));
        }
        if self.behind {
            found.push(self.deny_at(Rule::Journal, Scope::Firm, 0, 0));
        }
        let duplicate_id = self.ids.contains_key(&(e.session, e.id.0));
        if duplicate_id {
            found.push(self.deny_at(Rule::DuplicateId, session, 0, 0));
        }
        let pair = self.pair_of(s, i);
        let sums = self.sums();
        let present = sums[pair];
        let qty = i128::from(e.qty.0);
        let worst = self.worst_price(e.ord_type, e.px.0, i, &parties);
        let terms = Terms { id: e.id.0, qty, worst: worst.unwrap_or(i128::from(e.px.0)), kind: e.ord_type };
        let (old_leaves, old_raw) = order.counted();
        let more = (order.leaves_of(&terms) - old_leaves).max(0);
        let more_raw = (order.raw_of(&terms) - old_raw).max(0);
        let grows_not = more == 0 && more_raw == 0;
        let may_reduce = grows_not
            || match order.side {
                Side::Buy => present.p < 0 && present.lb + more <= -present.p,
                Side::Sell => present.p > 0 && present.ls + more <= present.p,
            };
        self.judge_stream(e.session, silence, skewed, &mut found);
        self.judge_mode(&parties, may_reduce, &mut found);
        self.judge_permission(e.session, true, s, i, &mut found);
        let sells = if more > 0 { present.ls + more } else { present.p };
        self.judge_side(s, i, order.side, qty, sells, present.p, &mut found);
        self.judge_parent_of_replace(&order, (e.ord_type, e.px.0), more, worst, &mut found);
        self.judge_order(&parties, i, e.ord_type, e.px.0, qty, worst, &mut found);
        let mut after = present;
        match order.side {
            Side::Buy => {
                after.lb += more;
                after.raw_lb += more_raw;
            }
            Side::Sell => {
                after.ls += more;
                after.raw_ls += more_raw;
            }
        }
        after.day_qty += more;
        self.revalue(pair, &mut after);
        self.judge_gauges(&parties, pair, &sums, after, may_reduce, false, &mut found);
        self.judge_suspense(&parties, pair, &sums, after, may_reduce, &mut found);
        self.judge_rates(&parties, &[RateOf::Messages], &mut found);
        let held = self.lim.parents(s) != ParentRule::Ignored && order.parent.is_some();
        self.judge_demands(&parties, held, true, may_reduce, &mut found, out);
        found.sort_by_key(|b| (b.deny.rule, b.deny.scope.kind()));
        if (asks && !found.is_empty()) || duplicate_id || no_place {
            if !asks && !duplicate_id {
                out.anomalies.push(AnomalyKind::OrderTableFull);
            }
            return self.refuse(asks, found, &parties, out);
        }
        if asks {
            out.verdict = Some(None);
        } else {
            self.observed_trips(&found, &parties, out);
        }
        self.ids.insert((e.session, e.id.0), target);
        self.orders[target].next = Some(terms);
        self.consume_rates(&parties, &[RateOf::Messages]);
    }

    // ------------------------------------------------------------------ parents

    fn parent(&mut self, e: &Event, out: &mut Outcome) {
        let known = self.parents.iter().position(|p| p.id == e.id.0);
        let negative = self.uni.instruments.get(e.instrument.0 as usize).map(|i| i.negative_px);
        let price = match e.ord_type {
            OrdType::Limit => (i128::from(e.px.0).abs() <= MAX && (e.px.0 > 0 || negative == Some(true)))
                .then_some(Some(i128::from(e.px.0))),
            OrdType::Market => Some(None),
            OrdType::Stop | OrdType::StopLimit => None,
        };
        let terms = price.filter(|_| (1..=MAX).contains(&i128::from(e.qty.0)) && negative.is_some());
        let mine = known.filter(|p| self.parents[*p].session == e.session && !self.parents[*p].done);
        let list = &self.uni.sessions[usize::from(e.session.0)].strategies;
        match (e.kind, terms) {
            (EventKind::ParentNew, Some(px))
                if known.is_none()
                    && e.id.0 != 0
                    && usize::from(e.strategy.0) < self.uni.strategies.len()
                    && e.account == self.account_of(e.strategy)
                    && (list.is_empty() || list.contains(&e.strategy)) =>
            {
                self.parents.push(Parent {
                    id: e.id.0,
                    session: e.session,
                    strategy: e.strategy,
                    instrument: e.instrument,
                    side: e.side,
                    qty: i128::from(e.qty.0),
                    px,
                    deadline: e.ref_id,
                    done: false,
                    children: 0,
                    filled: 0,
                    owner: None,
                });
            }
            (EventKind::ParentReplace, Some(px))
                if mine.is_some_and(|p| self.parents[p].instrument == e.instrument) =>
            {
                let parent = &mut self.parents[mine.expect("just seen")];
                (parent.qty, parent.px, parent.deadline) = (i128::from(e.qty.0), px, e.ref_id);
            }
            (EventKind::ParentDone, _) if mine.is_some() => self.parents[mine.expect("just seen")].done = true,
            _ => out.anomalies.push(AnomalyKind::ParentRefused),
        }
    }

    /// What the children of a parent may still fill, pending replaces at their worse.
    fn leaves_of_parent(&self, parent: usize) -> i128 {
        self.orders.iter().filter(|o| o.parent == Some(parent)).map(|o| o.counted().0).sum()
    }

    fn parent_open(&self, parent: &Parent) -> bool {
        !parent.done && parent.filled < parent.qty
    }

    /// Judges a new order by its parent; returns the one that it counts towards.
    #[allow(clippy::too_many_arguments)]
    fn judge_parent(
        &self,
        session: SessionId,
        id: u64,
        (s, i, side): (StrategyId, InstrumentId, Side),
        price: (OrdType, i64),
        qty: i128,
        worst: Option<i128>,
        found: &mut Vec<Breach>,
    ) -> Option<usize> {
        let scope = Scope::Strategy(s);
        let rule = self.lim.parents(s);
        if rule == ParentRule::Ignored || (rule == ParentRule::Checked && id == 0) {
            return None;
        }
        let known = self.parents.iter().position(|p| p.id == id && id != 0);
        let Some(at) = known else {
            found.push(self.deny_at(Rule::ParentState, scope, i128::from(id != 0), 0));
            return None;
        };
        let parent = &self.parents[at];
        if (parent.strategy, parent.instrument, parent.side) != (s, i, side) {
            found.push(self.deny_at(Rule::ParentState, scope, 4, 0));
            return None;
        }
        self.judge_terms(at, price, qty, worst, found);
        let parties = Parties {
            session: Some(session),
            strategy: Some(s),
            account: Some(self.account_of(s)),
            instrument: Some(i),
        };
        for scope in parties.scopes() {
            let limit = self.limits(scope).children;
            if parent.children + 1 > i128::from(limit) {
                found.push(self.deny_at(Rule::Children, scope, parent.children + 1, i128::from(limit)));
            }
        }
        Some(at)
    }

    fn judge_parent_of_replace(
        &self,
        order: &Order,
        price: (OrdType, i64),
        more: i128,
        worst: Option<i128>,
        found: &mut Vec<Breach>,
    ) {
        if self.lim.parents(order.strategy) != ParentRule::Ignored
            && let Some(parent) = order.parent
        {
            self.judge_terms(parent, price, more, worst, found);
        }
    }

    /// State, quantity and price of a parent, for `more` than its children have.
    fn judge_terms(
        &self,
        at: usize,
        (kind, px): (OrdType, i64),
        more: i128,
        worst: Option<i128>,
        found: &mut Vec<Breach>,
    ) {
        let parent = &self.parents[at];
        let scope = Scope::Strategy(parent.strategy);
        if more > 0 {
            if parent.done {
                found.push(self.deny_at(Rule::ParentState, scope, 2, 0));
            } else if parent.deadline != 0 && self.unix > parent.deadline {
                found.push(self.deny_at(Rule::ParentState, scope, 3, 0));
            }
            let total = parent.filled + self.leaves_of_parent(at) + more;
            if total > parent.qty {
                found.push(self.deny_at(Rule::ParentQty, scope, total, parent.qty));
            }
        }
        let Some(limit) = parent.px else { return };
        let own = match kind {
            OrdType::Limit | OrdType::StopLimit => Some(i128::from(px)),
            OrdType::Market | OrdType::Stop => None,
        };
        let within = own.is_some_and(|px| match parent.side {
            Side::Buy => px <= limit,
            Side::Sell => px >= limit,
        });
        if !within {
            let shown = own.or(worst).unwrap_or(0);
            let observed = shown.clamp(i128::from(i64::MIN), MAX) as i64;
            found.push(self.deny_why(Rule::ParentPx, Why::Breach, scope, observed, clamp(limit)));
        }
    }

    fn judge_fan_out(&self, parties: &Parties, found: &mut Vec<Breach>) {
        for scope in parties.scopes() {
            if !applies(Rule::FanOut, scope.kind()) {
                continue;
            }
            let (Some(limit), Some(slot)) = (self.limits(scope).fan_out, self.uni.slot(scope)) else { continue };
            let part = limit.window_ns.div_ceil(7).max(1);
            let from = (self.mono / part).saturating_sub(7) * part;
            let orders = self.fan[slot].iter().filter(|at| **at >= from).count() as i128 + 1;
            let here = |p: &&Parent| match scope {
                Scope::Firm => true,
                Scope::Account(a) => self.account_of(p.strategy) == a,
                Scope::Strategy(s) => p.strategy == s,
                Scope::Session(s) => p.owner == Some(s),
                Scope::Pair(..) | Scope::Instrument(_) => false,
            };
            let open = self.parents.iter().filter(|p| self.parent_open(p)).filter(here).count();
            let most = i128::from(limit.count) * open.max(1) as i128;
            if orders > most {
                found.push(self.deny_at(Rule::FanOut, scope, orders, most));
            }
        }
    }

    /// After an execution of a child: whether the parent has more than it asked for.
    fn watch_parent(&mut self, at: Option<usize>, parties: &Parties, out: &mut Outcome) {
        let Some(parent) = at.map(|at| &self.parents[at]).filter(|p| p.filled > p.qty) else { return };
        out.anomalies.push(AnomalyKind::ParentOverfill);
        let (s, filled, qty) = (parent.strategy, parent.filled, parent.qty);
        if self.lim.parents(s) != ParentRule::Ignored {
            let breach = self.deny_at(Rule::ParentQty, Scope::Strategy(s), filled, qty);
            self.latch(&breach, parties, out);
        }
    }

    fn cancel(&mut self, e: &Event, asks: bool, out: &mut Outcome) {
        let known = self.ids.get(&(e.session, e.ref_id)).copied().filter(|_| e.flags & Event::MALFORMED == 0);
        let parties = match known {
            Some(order) => self.parties_of(&self.orders[order]),
            None => Parties { session: Some(e.session), strategy: None, account: None, instrument: None },
        };
        let mut found = Vec::new();
        self.judge_rates(&parties, &[RateOf::Messages, RateOf::Cancels], &mut found);
        for breach in &found {
            self.latch(breach, &parties, out);
        }
        self.consume_rates(&parties, &[RateOf::Messages, RateOf::Cancels]);
        if let Some(order) = known
            && self.orders[order].live()
        {
            self.orders[order].cancel_pending = true;
        }
        if asks {
            out.verdict = Some(None);
        }
    }

    fn parties_of(&self, order: &Order) -> Parties {
        Parties {
            session: Some(order.session),
            strategy: Some(order.strategy),
            account: Some(self.account_of(order.strategy)),
            instrument: Some(order.instrument),
        }
    }

    /// Denies, or, where the request was only observed, halts for it without booking it.
    fn refuse(&mut self, asks: bool, found: Vec<Breach>, parties: &Parties, out: &mut Outcome) {
        if !asks {
            return self.observed_trips(&found, parties, out);
        }
        let mut worst = found[0];
        for breach in &found[1..] {
            if severity(breach) > severity(&worst) {
                worst = *breach;
            }
        }
        out.verdict = Some(Some(worst.deny));
        for breach in &found {
            self.latch(breach, parties, out);
        }
        let mut over = Vec::new();
        self.judge_rates(parties, &[RateOf::Denials], &mut over);
        for breach in &over {
            self.latch(breach, parties, out);
        }
        self.consume_rates(parties, &[RateOf::Denials]);
    }

    fn observed_trips(&mut self, found: &[Breach], parties: &Parties, out: &mut Outcome) {
        if found.iter().any(|b| b.deny.rule == Rule::Mode) {
            out.anomalies.push(AnomalyKind::OrderWhileHalted);
        }
        for breach in found {
            let mut breach = *breach;
            if breach.action == Action::Deny {
                let own = Gauge::of(breach.deny.rule).is_some()
                    || matches!(breach.deny.rule, Rule::OrderRate | Rule::MessageRate | Rule::FanOut | Rule::Suspense);
                breach.action = Action::Halt(if own { Target::Own } else { Target::Session });
            }
            self.latch(&breach, parties, out);
        }
    }

    fn latch(&mut self, breach: &Breach, parties: &Parties, out: &mut Outcome) {
        let (mode, target) = match breach.action {
            Action::Deny => return,
            Action::ReduceOnly(target) => (Mode::ReduceOnly, target),
            Action::Halt(target) => (Mode::Halted, target),
        };
        let own = match breach.deny.scope {
            Scope::Pair(s, _) => Scope::Strategy(s),
            other => other,
        };
        let scope = match target {
            Target::Own => own,
            Target::Firm => Scope::Firm,
            Target::Account => parties.account.map_or(own, Scope::Account),
            Target::Strategy => parties.strategy.map_or(own, Scope::Strategy),
            Target::Instrument => parties.instrument.map_or(own, Scope::Instrument),
            Target::Session => parties.session.map_or(own, Scope::Session),
        };
        let slot = self.uni.slot(scope).expect("a known scope");
        if self.modes[slot] < mode {
            self.modes[slot] = mode;
            out.trips.push((scope, mode, breach.deny.rule));
        }
    }

    fn no_room(&self) -> bool {
        self.order_table_full() || !self.exec_room()
    }

    fn order_table_full(&self) -> bool {
        let live = self.orders.iter().filter(|o| o.live());
        let used: usize = live.map(|o| 1 + usize::from(o.next.is_some())).sum();
        used >= self.sizing.working_orders
    }

    /// Whether one more execution would be remembered: those of earlier days give way.
    fn exec_room(&self) -> bool {
        self.exec_order.len() < self.sizing.execs || self.execs[&self.exec_order[0]].day != self.day
    }

    fn remember_exec(&mut self, key: (SessionId, u64), exec: Exec, out: &mut Outcome) {
        if !self.exec_room() {
            out.anomalies.push(AnomalyKind::ExecTableFull);
            return;
        }
        if self.exec_order.len() == self.sizing.execs {
            let oldest = self.exec_order.remove(0);
            self.execs.remove(&oldest);
        }
        self.exec_order.push(key);
        self.execs.insert(key, exec);
    }

    fn bad_price(&self, kind: OrdType, px: i64, instrument: Option<InstrumentId>) -> bool {
        match kind {
            OrdType::Market => false,
            OrdType::Limit | OrdType::StopLimit | OrdType::Stop => {
                i128::from(px).abs() > MAX
                    || (px <= 0 && instrument.is_some_and(|i| !self.uni.instruments[i.0 as usize].negative_px))
            }
        }
    }

    fn duplicate_key(&self, e: &Event) -> DuplicateKey {
        let px = if e.ord_type == OrdType::Market { 0 } else { e.px.0 };
        (e.strategy, e.instrument, e.side, e.ord_type, e.qty.0, px)
    }

    /// `None` for a market or stop order without a reference.
    fn worst_price(&self, kind: OrdType, px: i64, i: InstrumentId, parties: &Parties) -> Option<i128> {
        let px = i128::from(px);
        match kind {
            OrdType::Limit | OrdType::StopLimit => Some(px),
            OrdType::Market | OrdType::Stop => {
                let m = i128::from(self.marks[i.0 as usize]?.0);
                let collar = parties.scopes().iter().map(|s| self.limits(*s).collar).min().unwrap_or(UNLIMITED);
                let market = if collar == UNLIMITED { m } else { m + ceil_div(m.abs() * i128::from(collar), 10_000) };
                let market = market.min(MAX);
                Some(if kind == OrdType::Stop { market.max(px) } else { market })
            }
        }
    }

    fn own_mode(&self, parties: &Parties) -> Mode {
        parties.scopes().iter().filter_map(|s| self.uni.slot(*s)).map(|slot| self.modes[slot]).max().unwrap_or_default()
    }

    // ------------------------------------------------------------------ the rules

    /// The first rule, at its first scope, that is demanded of such a request and that no scope of it has a limit for.
    fn judge_demands(
        &self,
        parties: &Parties,
        held: bool,
        replace: bool,
        reduces: bool,
        found: &mut Vec<Breach>,
        out: &mut Outcome,
    ) {
        let scopes = parties.scopes();
        let limited = |rule: Rule| match rule {
            Rule::ParentQty | Rule::ParentState | Rule::ParentPx => {
                let strategy = parties.strategy.map(|s| self.limits(Scope::Strategy(s)));
                held && strategy.is_some_and(|l| l.parent_off >> rule as u64 & 1 == 0)
            }
            Rule::Children => held && scopes.iter().any(|s| self.limits(*s).children != UNLIMITED),
            _ => scopes.iter().any(|s| has_limit(self.limits(*s), rule)),
        };
        for rule in Rule::ALL {
            let of_new = matches!(
                rule,
                Rule::DuplicateOrder
                    | Rule::Children
                    | Rule::FanOut
                    | Rule::WorkingOrders
                    | Rule::RepeatedOrders
                    | Rule::OrderRate
            );
            let of_growth = matches!(
                rule,
                Rule::PositionLong
                    | Rule::PositionShort
                    | Rule::DayParticipation
                    | Rule::GrossExposure
                    | Rule::NetLong
                    | Rule::NetShort
                    | Rule::DailyLoss
                    | Rule::Drawdown
                    | Rule::LossVelocity
                    | Rule::Suspense
            );
            if (replace && of_new) || (reduces && of_growth) || limited(rule) {
                continue;
            }
            if let Some(scope) = scopes.iter().find(|s| self.limits(**s).demanded >> rule as u64 & 1 == 1) {
                found.push(self.deny_at(Rule::Coverage, *scope, rule as i128, 0));
                return out.anomalies.push(AnomalyKind::CoverageGap);
            }
        }
    }

    fn judge_stream(&self, s: SessionId, silence: u64, skewed: Option<(i64, i64)>, found: &mut Vec<Breach>) {
        let session = Scope::Session(s);
        let bound = self.limits(session).heartbeat_ns;
        if bound != UNLIMITED && (bound == 0 || i128::from(silence) > i128::from(bound)) {
            found.push(self.deny_at(Rule::HeartbeatLoss, session, i128::from(silence), i128::from(bound)));
        }
        if let Some((skew, bound)) = skewed {
            found.push(self.deny_at(Rule::ClockSkew, session, i128::from(skew), i128::from(bound)));
        }
    }

    fn judge_mode(&self, parties: &Parties, reduces: bool, found: &mut Vec<Breach>) {
        let mode = self.own_mode(parties);
        let denied = match mode {
            Mode::Normal => false,
            Mode::ReduceOnly => !reduces,
            Mode::Halted => true,
        };
        if denied {
            let scope = parties
                .scopes()
                .into_iter()
                .find(|s| self.uni.slot(*s).is_some_and(|slot| self.modes[slot] == mode))
                .expect("a scope with that mode");
            found.push(self.deny_at(Rule::Mode, scope, mode as i128, 0));
        }
    }

    fn judge_permission(
        &self,
        session: SessionId,
        own_account: bool,
        s: StrategyId,
        i: InstrumentId,
        found: &mut Vec<Breach>,
    ) {
        let list = &self.uni.sessions[usize::from(session.0)].strategies;
        let lacks = if !list.is_empty() && !list.contains(&s) {
            Some(Scope::Session(session))
        } else if !own_account {
            Some(Scope::Strategy(s))
        } else if !self.lim.is_permitted(s, i) {
            Some(Scope::Pair(s, i))
        } else {
            None
        };
        if let Some(scope) = lacks {
            found.push(self.deny_at(Rule::Permission, scope, 0, 0));
        }
        if self.lim.is_restricted(i) {
            found.push(self.deny_at(Rule::Restricted, Scope::Instrument(i), 0, 0));
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn judge_side(
        &self,
        s: StrategyId,
        i: InstrumentId,
        side: Side,
        qty: i128,
        sells: i128,
        p: i128,
        found: &mut Vec<Breach>,
    ) {
        for scope in [Scope::Strategy(s), Scope::Pair(s, i), Scope::Instrument(i)] {
            match (self.limits(scope).sides, side) {
                (SideRule::LongOnly, Side::Sell) if sells > p => {
                    let observed = i64::try_from(sells).unwrap_or(i64::MAX);
                    found.push(self.deny_why(Rule::SidePermission, Why::Breach, scope, observed, clamp(p)));
                }
                (SideRule::BuyOnly, Side::Sell) | (SideRule::SellOnly, Side::Buy) => {
                    found.push(self.deny_at(Rule::SidePermission, scope, qty, 0));
                }
                (SideRule::Both | SideRule::LongOnly | SideRule::BuyOnly | SideRule::SellOnly, _) => {}
            }
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn judge_order(
        &self,
        parties: &Parties,
        i: InstrumentId,
        kind: OrdType,
        px: i64,
        qty: i128,
        worst: Option<i128>,
        found: &mut Vec<Breach>,
    ) {
        let scopes = parties.scopes();
        let at_market = matches!(kind, OrdType::Market | OrdType::Stop);
        for scope in &scopes {
            let limit = self.limits(*scope).order_qty;
            if qty > i128::from(limit) {
                found.push(self.deny_at(Rule::OrderQty, *scope, qty, i128::from(limit)));
            }
        }
        // Value of the order.
        let armed: Vec<Scope> =
            scopes.iter().copied().filter(|s| self.limits(*s).order_notional != UNLIMITED).collect();
        if let Some(first) = armed.first() {
            let reference = if at_market { self.reference_input(i) } else { None };
            let notional = worst.zip(self.factors(i)).map(|(w, f)| value((w * qty).max(0), &f, Round::Up));
            match (reference.or_else(|| self.fx_input(i)), notional) {
                (Some((why, observed, limit)), _) => {
                    found.push(self.deny_why(Rule::OrderNotional, why, *first, observed, limit));
                }
                (None, Some(Some(notional))) => {
                    for scope in armed {
                        let limit = self.limits(scope).order_notional;
                        if notional > limit {
                            found.push(self.deny_why(Rule::OrderNotional, Why::Breach, scope, notional, limit));
                        }
                    }
                }
                (None, Some(None) | None) => {
                    let limit = self.limits(*first).order_notional;
                    found.push(self.deny_why(Rule::OrderNotional, Why::Unrepresentable, *first, UNLIMITED, limit));
                }
            }
        }
        // Against the volume.
        let adv = self.uni.instruments[i.0 as usize].average_daily_volume;
        let mut missing = false;
        for scope in &scopes {
            let limit = self.limits(*scope).order_participation;
            if limit == UNLIMITED || missing {
                continue;
            }
            match adv {
                None => {
                    missing = true;
                    found.push(self.deny_why(Rule::OrderParticipation, Why::VolumeMissing, *scope, 0, 0));
                }
                Some(adv) => {
                    let bps = ceil_div(qty * 10_000, i128::from(adv.0));
                    if bps > i128::from(limit) {
                        found.push(self.deny_at(Rule::OrderParticipation, *scope, bps, i128::from(limit)));
                    }
                }
            }
        }
        // Collar.
        let armed: Vec<Scope> = scopes.iter().copied().filter(|s| self.limits(*s).collar != UNLIMITED).collect();
        match self.marks[i.0 as usize] {
            None if at_market || !armed.is_empty() => {
                let scope = armed.first().copied().unwrap_or(Scope::Instrument(i));
                let limit = age_limit(self.lim.reference_age(i));
                found.push(self.deny_why(Rule::Collar, Why::ReferenceMissing, scope, 0, limit));
            }
            None => {}
            Some((m, _)) => {
                let m = i128::from(m);
                if let (Some(first), Some((why, observed, limit))) = (armed.first(), self.reference_input(i)) {
                    found.push(self.deny_why(Rule::Collar, why, *first, observed, limit));
                } else if kind != OrdType::Market {
                    for scope in armed {
                        let k = i128::from(self.limits(scope).collar);
                        let distance = i128::from(px) - m;
                        if distance.abs() * 10_000 > k * m.abs() {
                            let reach = k * m.abs() / 10_000;
                            let bound = if distance > 0 { m + reach } else { m - reach };
                            found.push(self.deny_at(Rule::Collar, scope, i128::from(px), bound));
                        }
                    }
                }
            }
        }
    }

    /// The sums of scopes, with `pair` as it would be `after` the order.
    #[allow(clippy::too_many_arguments)]
    fn judge_gauges(
        &self,
        parties: &Parties,
        pair: usize,
        sums: &[PairSums],
        after: PairSums,
        reduces: bool,
        is_new: bool,
        found: &mut Vec<Breach>,
    ) {
        let (_, i) = self.pair_parts(pair);
        let mut then = sums.to_vec();
        then[pair] = after;
        for gauge in gauge_rules() {
            let rule = gauge.rule();
            let scopes: Vec<Scope> = parties.scopes().into_iter().filter(|s| applies(rule, s.kind())).collect();
            let armed: Vec<Scope> = scopes.iter().copied().filter(|s| self.limits(*s).of(gauge) != UNLIMITED).collect();
            let (exempt, needs_value, needs_volume) = match gauge {
                Gauge::PositionLong | Gauge::PositionShort => (reduces, false, false),
                Gauge::DayQty => (reduces, false, true),
                Gauge::Gross | Gauge::NetLong | Gauge::NetShort => (reduces, true, false),
                Gauge::Loss | Gauge::Drawdown | Gauge::LossVelocity => (reduces, true, false),
                Gauge::Working | Gauge::Orders => (!is_new, false, false),
                Gauge::Executions => (false, false, false),
            };
            if exempt {
                continue;
            }
            let adv = self.uni.instruments[i.0 as usize].average_daily_volume;
            if let Some(first) = armed.first() {
                let limit = self.limits(*first).of(gauge);
                let missing = if needs_value {
                    self.reference_input(i)
                        .or_else(|| self.fx_input(i))
                        .or_else(|| after.unvalued.map(|why| (why, UNLIMITED, limit)))
                } else if needs_volume && adv.is_none() {
                    Some((Why::VolumeMissing, 0, 0))
                } else {
                    None
                };
                if let Some((why, observed, limit)) = missing {
                    found.push(self.deny_why(rule, why, *first, observed, limit));
                    continue;
                }
            }
            // A sum that cannot be represented is denied even where it is not limited.
            let valued = self.reference_input(i).is_none()
                && self.fx_input(i).is_none()
                && after.unvalued.is_none()
                && sums[pair].unvalued.is_none();
            let everywhere = match gauge {
                Gauge::PositionLong | Gauge::PositionShort => true,
                Gauge::Gross | Gauge::NetLong | Gauge::NetShort => valued,
                Gauge::Working | Gauge::Orders | Gauge::DayQty => false,
                Gauge::Executions | Gauge::Loss | Gauge::Drawdown | Gauge::LossVelocity => false,
            };
            for scope in if everywhere { scopes } else { armed } {
                let limit = i128::from(self.limits(scope).of(gauge));
                let was = self.gauge(sums, scope, gauge);
                let mut is = self.gauge(&then, scope, gauge);
                let denied = match gauge {
                    Gauge::Orders => {
                        is += 1;
                        is > limit
                    }
                    Gauge::Working => {
                        is += 1;
                        is > limit
                    }
                    Gauge::Executions | Gauge::Loss | Gauge::Drawdown | Gauge::LossVelocity => is > limit || limit == 0,
                    Gauge::DayQty => {
                        let grown = is > was;
                        is = ceil_div(is * 10_000, i128::from(adv.map_or(1, |q| q.0)));
                        is > limit && grown
                    }
                    Gauge::Gross | Gauge::NetLong | Gauge::NetShort | Gauge::PositionLong | Gauge::PositionShort => {
                        is > limit && is > was
                    }
                };
                if denied {
                    let observed = match gauge {
                        Gauge::DayQty => clamp(is),
                        _ => i64::try_from(is).unwrap_or(i64::MAX),
                    };
                    found.push(self.deny_why(rule, Why::Breach, scope, observed, clamp(limit)));
                }
            }
        }
    }

    /// The second limit of a suspense account's gross exposure.
    #[allow(clippy::too_many_arguments)]
    fn judge_suspense(
        &self,
        parties: &Parties,
        pair: usize,
        sums: &[PairSums],
        after: PairSums,
        reduces: bool,
        found: &mut Vec<Breach>,
    ) {
        let (_, i) = self.pair_parts(pair);
        let Some(scope) = parties.account.map(Scope::Account) else { return };
        let limit = self.limits(scope).suspense;
        if limit == UNLIMITED || reduces {
            return;
        }
        let missing = self
            .reference_input(i)
            .or_else(|| self.fx_input(i))
            .or_else(|| after.unvalued.map(|why| (why, UNLIMITED, limit)));
        if let Some((why, observed, limit)) = missing {
            return found.push(self.deny_why(Rule::Suspense, why, scope, observed, limit));
        }
        let mut then = sums.to_vec();
        then[pair] = after;
        let (was, is) = (self.gauge(sums, scope, Gauge::Gross), self.gauge(&then, scope, Gauge::Gross));
        if is > i128::from(limit) && is > was {
            let observed = i64::try_from(is).unwrap_or(i64::MAX);
            found.push(self.deny_why(Rule::Suspense, Why::Breach, scope, observed, limit));
        }
    }

    // ------------------------------------------------------------------ rates

    /// The rate limits of these kinds at all scopes, with their place.
    fn rates_of(&self, parties: &Parties, kinds: &[RateOf]) -> Vec<(Scope, usize, RateLimit)> {
        let mut list = Vec::new();
        for scope in parties.scopes() {
            if scope.kind() == ScopeKind::Pair {
                continue;
            }
            for (index, limit) in self.limits(scope).rates.iter().enumerate() {
                if kinds.contains(&limit.of) {
                    list.push((scope, index, *limit));
                }
            }
        }
        list
    }

    /// Whether one more now is within the limit.
    fn conforms(&self, slot: usize, index: usize, limit: &RateLimit) -> bool {
        if limit.count == 0 {
            return false;
        }
        let empty = RatePast::default();
        let past = self.rates.get(&(slot, index)).unwrap_or(&empty);
        match limit.kind {
            RateKind::Sliding => {
                let used = past.stamps.iter().filter(|t| self.mono - **t < limit.window_ns).count();
                used < limit.count as usize
            }
            RateKind::Gcra { burst } => {
                let interval = ceil_div(i128::from(limit.window_ns), i128::from(limit.count));
                past.tat <= i128::from(self.mono) + i128::from(burst - 1) * interval
            }
        }
    }

    fn judge_rates(&self, parties: &Parties, kinds: &[RateOf], found: &mut Vec<Breach>) {
        for (scope, index, limit) in self.rates_of(parties, kinds) {
            let slot = self.uni.slot(scope).expect("no pair has rates");
            if !self.conforms(slot, index, &limit) {
                let most = match limit.kind {
                    RateKind::Sliding => limit.count,
                    RateKind::Gcra { .. } if limit.count == 0 => 0,
                    RateKind::Gcra { burst } => burst,
                };
                let deny = Deny {
                    rule: limit.of.rule(),
                    why: Why::Breach,
                    scope,
                    observed: i64::from(most) + 1,
                    limit: i64::from(most),
                };
                found.push(Breach { deny, action: limit.action });
            }
        }
    }

    fn consume_rates(&mut self, parties: &Parties, kinds: &[RateOf]) {
        for (scope, index, limit) in self.rates_of(parties, kinds) {
            let slot = self.uni.slot(scope).expect("no pair has rates");
            let past = self.rates.entry((slot, index)).or_default();
            past.stamps.push(self.mono);
            if limit.count > 0 {
                let interval = ceil_div(i128::from(limit.window_ns), i128::from(limit.count));
                past.tat = past.tat.max(i128::from(self.mono)) + interval;
            }
        }
    }

    // ------------------------------------------------------------------ reports

    /// The order whose pending replacement has this id.
    fn pending(&self, session: SessionId, id: u64) -> Option<usize> {
        let at = *self.ids.get(&(session, id))?;
        let order = &self.orders[at];
        (order.live() && order.next.is_some_and(|n| n.id == id)).then_some(at)
    }

    /// A replacement that will not come about: its id stays taken, by an order that is done.
    fn undo_replace(&mut self, at: usize) {
        let order = &mut self.orders[at];
        let Some(terms) = order.next.take() else { return };
        let ghost = Order { now: terms, next: None, state: State::Done, ended: true, ..order.clone() };
        order.settle();
        self.over.push((ghost.session, terms.id));
        self.ids.insert((ghost.session, terms.id), self.orders.len());
        self.orders.push(ghost);
    }

    fn report(&mut self, e: &Event, out: &mut Outcome) {
        if e.kind == EventKind::Replaced {
            return self.replaced(e, out);
        }
        let replacement = self.pending(e.session, e.id.0);
        if let Some(at) = replacement
            && matches!(e.kind, EventKind::CancelRejected | EventKind::Withdrawn)
        {
            return self.undo_replace(at);
        }
        let by = if e.kind == EventKind::CancelRejected { e.ref_id } else { e.id.0 };
        let Some(&at) = self.ids.get(&(e.session, by)) else {
            out.anomalies.push(AnomalyKind::UnknownOrder);
            return;
        };
        let is_pending = self.pending(e.session, by).is_some();
        let order = &mut self.orders[at];
        let fits = order.live() && !is_pending;
        match e.kind {
            EventKind::Ack if order.state == State::Pending && order.now.id == by => order.state = State::Working,
            EventKind::Canceled | EventKind::Expired | EventKind::Rejected if fits => {
                if e.kind == EventKind::Canceled && !order.cancel_pending {
                    out.anomalies.push(AnomalyKind::UnsolicitedCancel);
                }
                if e.kind == EventKind::Rejected && order.state == State::Working {
                    out.anomalies.push(AnomalyKind::StateMismatch);
                }
                order.state = State::Done;
            }
            EventKind::Withdrawn if fits && order.now.id == by && (e.seq == 0 || order.state == State::Pending) => {
                order.state = State::Done;
            }
            EventKind::CancelRejected if fits && order.cancel_pending => order.cancel_pending = false,
            _ => out.anomalies.push(AnomalyKind::StateMismatch),
        }
    }

    fn replaced(&mut self, e: &Event, out: &mut Outcome) {
        let qty = i128::from(e.qty.0);
        if !(1..=MAX).contains(&qty) || i128::from(e.px.0).abs() > MAX {
            out.anomalies.push(AnomalyKind::MalformedReport);
            return;
        }
        let worst = |terms: &Terms| match terms.kind {
            OrdType::Limit | OrdType::StopLimit => i128::from(e.px.0),
            OrdType::Market | OrdType::Stop => terms.worst,
        };
        if let Some(at) = self.pending(e.session, e.id.0) {
            let order = &mut self.orders[at];
            let terms = order.next.take().expect("it is pending");
            self.over.push((order.session, order.now.id));
            order.now = Terms { qty, worst: worst(&terms), ..terms };
            order.state = State::Working;
            order.settle();
            return;
        }
        let Some(&at) = self.ids.get(&(e.session, e.ref_id)) else {
            out.anomalies.push(AnomalyKind::UnknownOrder);
            return;
        };
        out.anomalies.push(AnomalyKind::StateMismatch);
        let order = &mut self.orders[at];
        if order.live() {
            order.now = Terms { qty, worst: worst(&order.now), ..order.now };
            order.settle();
        }
    }

    // ------------------------------------------------------------------ executions and marks

    fn execution(&mut self, e: &Event, out: &mut Outcome) {
        let numbers =
            e.kind == EventKind::Bust || ((1..=MAX).contains(&i128::from(e.qty.0)) && i128::from(e.px.0).abs() <= MAX);
        if !numbers || e.ref_id == 0 {
            out.anomalies.push(AnomalyKind::MalformedReport);
            return;
        }
        if self.execs.contains_key(&(e.session, e.ref_id)) {
            out.anomalies.push(AnomalyKind::DuplicateExec);
            return;
        }
        let before = self.all_gauges();
        let mut parties = Parties { session: Some(e.session), strategy: None, account: None, instrument: None };
        match e.kind {
            EventKind::Bust | EventKind::Correct => {
                let Some(old) = self.execs.get_mut(&(e.session, e.id.0)).filter(|x| x.alive) else {
                    out.anomalies.push(AnomalyKind::UnknownExec);
                    return;
                };
                old.alive = false;
                let old = *old;
                let signed = i128::from(old.side.sign()) * i128::from(old.qty);
                let today = if old.day == self.day { -i128::from(old.qty) } else { 0 };
                self.bookings.push(Booking { pair: old.pair, signed: -signed, px: i128::from(old.px), day_qty: today });
                let order = self.order_of(e.session, old.order_id, old.pair, old.side);
                if let Some(parent) = order.and_then(|at| self.orders[at].parent) {
                    self.parents[parent].filled -= i128::from(old.qty);
                }
                if let Some(at) = order
                    && self.orders[at].live()
                {
                    let order = &mut self.orders[at];
                    order.cum = (order.cum - i128::from(old.qty)).max(0);
                }
                let (s, i) = self.pair_parts(old.pair);
                parties.strategy = Some(s);
                parties.instrument = Some(i);
                parties.account = Some(self.account_of(s));
                if e.kind == EventKind::Correct {
                    self.book_fill(e, old.pair, old.side, old.order_id, &parties, out);
                } else {
                    self.remember_exec((e.session, e.ref_id), Exec { alive: false, day: self.day, ..old }, out);
                }
            }
            _ => {
                let order = self.ids.get(&(e.session, e.id.0)).copied();
                let (s, i, side) = match order {
                    Some(at) => (self.orders[at].strategy, self.orders[at].instrument, self.orders[at].side),
                    None => (e.strategy, e.instrument, e.side),
                };
                if usize::from(s.0) >= self.uni.strategies.len() || i.0 as usize >= self.uni.instruments.len() {
                    out.anomalies.push(AnomalyKind::UnbookableFill);
                    let mut breach = self.deny_at(Rule::UnknownEntity, Scope::Session(e.session), 0, 0);
                    breach.action = Action::Halt(Target::Session);
                    self.latch(&breach, &parties, out);
                    return;
                }
                parties.strategy = Some(s);
                parties.instrument = Some(i);
                parties.account = Some(self.account_of(s));
                self.book_fill(e, self.pair_of(s, i), side, e.id.0, &parties, out);
            }
        }
        self.judge_grown(&before, &parties, out);
    }

    /// The order with this id, unless it is another one than the execution was of.
    fn order_of(&self, session: SessionId, id: u64, pair: usize, side: Side) -> Option<usize> {
        let at = *self.ids.get(&(session, id))?;
        let order = &self.orders[at];
        (self.pair_of(order.strategy, order.instrument) == pair && order.side == side).then_some(at)
    }

    fn book_fill(&mut self, e: &Event, pair: usize, side: Side, order_id: u64, parties: &Parties, out: &mut Outcome) {
        let order = self.order_of(e.session, order_id, pair, side);
        let qty = i128::from(e.qty.0);
        self.bookings.push(Booking {
            pair,
            signed: i128::from(side.sign()) * qty,
            px: i128::from(e.px.0),
            day_qty: qty,
        });
        self.remember_exec(
            (e.session, e.ref_id),
            Exec { pair, side, qty: e.qty.0, px: e.px.0, order_id, day: self.day, alive: true },
            out,
        );
        let orphan = match order {
            None if e.kind == EventKind::Fill => Some(AnomalyKind::UnknownFill),
            None => None,
            Some(at) => {
                let order = &mut self.orders[at];
                let orphan = if !order.live() {
                    Some(AnomalyKind::LateFill)
                } else if qty > order.counted().0 {
                    Some(AnomalyKind::Overfill)
                } else {
                    None
                };
                order.cum += qty;
                order.settle();
                orphan
            }
        };
        if let Some(kind) = orphan {
            out.anomalies.push(kind);
            let mut over = Vec::new();
            self.judge_rates(parties, &[RateOf::Orphans], &mut over);
            for breach in &over {
                self.latch(breach, parties, out);
            }
            self.consume_rates(parties, &[RateOf::Orphans]);
        }
        if parties.account.is_some_and(|a| self.lim.is_suspense(a)) {
            out.anomalies.push(AnomalyKind::SuspenseActivity);
        }
        let parent = order.and_then(|at| self.orders[at].parent);
        if let Some(parent) = parent {
            self.parents[parent].filled += qty;
        }
        self.watch_parent(parent, parties, out);
        let (s, i) = self.pair_parts(pair);
        let touched = [
            Scope::Firm,
            Scope::Account(self.account_of(s)),
            Scope::Strategy(s),
            Scope::Instrument(i),
            Scope::Session(e.session),
        ];
        for slot in touched.into_iter().filter_map(|scope| self.uni.slot(scope)) {
            self.executions[slot] += 1;
        }
    }

    fn mark(&mut self, e: &Event, out: &mut Outcome) {
        let bad = match self.uni.instruments.get(e.instrument.0 as usize) {
            None => true,
            Some(spec) => i128::from(e.px.0).abs() > MAX || (e.px.0 <= 0 && !spec.negative_px),
        };
        if bad {
            out.anomalies.push(AnomalyKind::BadReference);
            return;
        }
        let before = self.all_gauges();
        self.marks[e.instrument.0 as usize] = Some((e.px.0, self.mono));
        let parties = Parties { session: None, strategy: None, account: None, instrument: None };
        self.judge_grown(&before, &parties, out);
    }

    fn fx_rate(&mut self, e: &Event, out: &mut Outcome) {
        let currency = e.instrument.0 as usize;
        if currency == 0 || currency >= self.fx.len() || e.px.0 <= 0 || i128::from(e.px.0) > MAX {
            out.anomalies.push(AnomalyKind::BadReference);
            return;
        }
        let before = self.all_gauges();
        self.fx[currency] = Some((e.px.0, self.mono));
        let parties = Parties { session: None, strategy: None, account: None, instrument: None };
        self.judge_grown(&before, &parties, out);
    }

    fn all_scopes(&self) -> Vec<Scope> {
        let mut list: Vec<Scope> = (0..self.uni.scope_count()).filter_map(|slot| self.uni.scope_at(slot)).collect();
        for pair in 0..self.cash_start.len() {
            let (s, i) = self.pair_parts(pair);
            list.push(Scope::Pair(s, i));
        }
        list.sort_by_key(|s| s.kind());
        list
    }

    /// Every armed gauge of every scope.
    fn all_gauges(&mut self) -> BTreeMap<(Rule, Scope), i128> {
        let sums = self.sums();
        let mut all = BTreeMap::new();
        for scope in self.all_scopes() {
            for gauge in gauge_rules() {
                if applies(gauge.rule(), scope.kind()) && self.limits(scope).of(gauge) != UNLIMITED {
                    all.insert((gauge.rule(), scope), self.gauge(&sums, scope, gauge));
                }
            }
            if self.limits(scope).suspense != UNLIMITED {
                all.insert((Rule::Suspense, scope), self.gauge(&sums, scope, Gauge::Gross));
            }
        }
        all
    }

    /// After an execution, a mark or a rate: what is exceeded and has grown trips, if its action latches.
    fn judge_grown(&mut self, before: &BTreeMap<(Rule, Scope), i128>, parties: &Parties, out: &mut Outcome) {
        // The high-water mark of the new profit is in force when its own fall is judged.
        self.keep_values();
        let after = self.all_gauges();
        for ((rule, scope), is) in after {
            let mut is = is;
            if is <= before[&(rule, scope)] {
                continue;
            }
            if rule == Rule::DayParticipation {
                let i = match scope {
                    Scope::Pair(_, i) | Scope::Instrument(i) => i,
                    Scope::Firm | Scope::Account(_) | Scope::Strategy(_) | Scope::Session(_) => continue,
                };
                let Some(adv) = self.uni.instruments[i.0 as usize].average_daily_volume else { continue };
                is = ceil_div(is * 10_000, i128::from(adv.0));
            }
            let limits = self.limits(scope);
            let limit = i128::from(Gauge::of(rule).map_or(limits.suspense, |gauge| limits.of(gauge)));
            if is > limit {
                let breach = self.deny_at(rule, scope, is, limit);
                // What a mark or a rate did names no order: the scope itself tells whose it is.
                let mut parties = *parties;
                match scope {
                    Scope::Pair(s, i) => {
                        parties.strategy = Some(s);
                        parties.account = Some(self.account_of(s));
                        parties.instrument = Some(i);
                    }
                    Scope::Strategy(s) => {
                        parties.strategy = Some(s);
                        parties.account = Some(self.account_of(s));
                    }
                    Scope::Firm | Scope::Account(_) | Scope::Instrument(_) | Scope::Session(_) => {}
                }
                self.latch(&breach, &parties, out);
            }
        }
    }

    // ------------------------------------------------------------------ commands and time

    /// Takes one command.
    pub fn command(&mut self, now: Now, command: &Command) -> Outcome {
        self.tick_clock(now);
        match command {
            Command::Mode { scope, mode, .. } => {
                if let Some(slot) = self.uni.slot(*scope) {
                    let lowered = *mode < self.modes[slot];
                    self.modes[slot] = *mode;
                    if lowered {
                        self.start_anew(slot, *scope);
                    }
                }
            }
            Command::SetLimits(limits) => {
                let armed = |t: &LimitTable, slot| t.at(slot).of(Gauge::LossVelocity) != UNLIMITED;
                for slot in 0..self.pnl.len() {
                    // A velocity that is newly limited looks back on nothing before.
                    if armed(limits, slot) && !armed(&self.lim, slot) {
                        let last = *self.pnl[slot].points.last().expect("there is one");
                        self.pnl[slot].points = vec![(self.mono, last.1)];
                    }
                }
                for slot in 0..self.fan.len() {
                    // Orders are counted while they are limited, in windows of one length.
                    let window = |t: &LimitTable| t.at(slot).fan_out.map_or(0, |limit| limit.window_ns);
                    if window(limits) != window(&self.lim) {
                        self.fan[slot].clear();
                    }
                }
                self.carry_rates_over(limits);
                self.lim = limits.clone();
            }
            Command::NewDay => self.new_day(),
            Command::Behind(behind) => self.behind = *behind,
        }
        self.keep_values();
        Outcome::default()
    }

    /// A rate limit goes on with what the one in its place has counted, if it counts the same in the same way.
    fn carry_rates_over(&mut self, limits: &LimitTable) {
        for slot in 0..self.modes.len() {
            let (old, new) = (&self.lim.at(slot).rates, &limits.at(slot).rates);
            for index in 0..old.len().max(new.len()) {
                let kept = match (old.get(index), new.get(index)) {
                    (Some(a), Some(b)) if a.of == b.of => match (a.kind, b.kind) {
                        (RateKind::Sliding, RateKind::Sliding) => Some(a.count.min(b.count) as usize),
                        (RateKind::Gcra { .. }, RateKind::Gcra { .. }) => Some(usize::MAX),
                        _ => None,
                    },
                    _ => None,
                };
                match kept {
                    None => drop(self.rates.remove(&(slot, index))),
                    Some(kept) => {
                        if let Some(past) = self.rates.get_mut(&(slot, index)) {
                            let first = past.stamps.len().saturating_sub(kept);
                            past.stamps.drain(..first);
                        }
                    }
                }
            }
        }
    }

    /// How much of each rate limit of a scope is used.
    pub fn rates_used(&self, slot: usize) -> Vec<i64> {
        let used = |(index, limit): (usize, &RateLimit)| -> i64 {
            let Some(past) = self.rates.get(&(slot, index)) else { return 0 };
            match limit.kind {
                RateKind::Sliding => {
                    let within = past.stamps.iter().filter(|t| self.mono - **t < limit.window_ns).count();
                    within.min(limit.count as usize) as i64
                }
                RateKind::Gcra { .. } => {
                    let interval = ceil_div(i128::from(limit.window_ns), i128::from(limit.count.max(1)));
                    ceil_div((past.tat - i128::from(self.mono)).max(0), interval) as i64
                }
            }
        };
        self.lim.at(slot).rates.iter().enumerate().map(used).collect()
    }

    /// The gauges of a pair, in [`Gauge`]'s order: those that are summed up from it.
    pub fn pair_gauges(&mut self, s: StrategyId, i: InstrumentId) -> [i64; Gauge::COUNT] {
        let sums = self.sums();
        let mut shown = [0; Gauge::COUNT];
        for gauge in Gauge::ALL {
            if applies(gauge.rule(), ScopeKind::Pair) || gauge == Gauge::Loss {
                shown[gauge as usize] = clamp(self.gauge(&sums, Scope::Pair(s, i), gauge));
            }
        }
        shown
    }

    fn start_anew(&mut self, slot: usize, scope: Scope) {
        self.new_orders[slot] = 0;
        self.executions[slot] = 0;
        self.fan[slot].clear();
        for (index, limit) in self.lim.at(slot).rates.iter().enumerate() {
            if matches!(limit.of, RateOf::Denials | RateOf::Orphans) {
                self.rates.remove(&(slot, index));
            }
        }
        let sums = self.sums();
        let pnl = -self.gauge(&sums, scope, Gauge::Loss);
        self.pnl[slot] = PnlPast { high: pnl, points: vec![(self.mono, pnl)] };
    }

    fn new_day(&mut self) {
        let sums = self.sums();
        for (pair, sum) in sums.iter().enumerate() {
            let (_, i) = self.pair_parts(pair);
            let cash = match self.marks[i.0 as usize] {
                None => Some(sum.cash),
                Some((m, _)) => sum.p.checked_mul(-i128::from(m)),
            };
            match cash {
                Some(cash) => self.cash_start[pair] = cash,
                None => self.lost = true,
            }
        }
        self.day_start = self.bookings.len();
        self.day += 1;
        let sums = self.sums();
        for slot in 0..self.pnl.len() {
            let scope = self.uni.scope_at(slot).expect("a slot");
            let pnl = -self.gauge(&sums, scope, Gauge::Loss);
            self.pnl[slot] = PnlPast { high: pnl, points: vec![(self.mono, pnl)] };
        }
    }

    /// Lets time pass.
    pub fn tick(&mut self, now: Now) -> Outcome {
        self.tick_clock(now);
        let mut out = Outcome::default();
        for index in 0..self.sessions.len() {
            let id = SessionId(index as u16);
            let scope = Scope::Session(id);
            let bound = self.limits(scope).heartbeat_ns;
            let Some(last) = self.sessions[index].last_event else { continue };
            let silence = self.mono - last;
            if bound != UNLIMITED && i128::from(silence) > i128::from(bound) && !self.sessions[index].silent {
                self.sessions[index].silent = true;
                out.anomalies.push(AnomalyKind::HeartbeatLoss);
                let breach = self.deny_at(Rule::HeartbeatLoss, scope, i128::from(silence), i128::from(bound));
                let parties = Parties { session: Some(id), strategy: None, account: None, instrument: None };
                self.latch(&breach, &parties, &mut out);
            }
        }
        out
    }
}

/// Whether `limits` has a number other than unlimited for `rule`; not for the rules about parents.
fn has_limit(limits: &ScopeLimits, rule: Rule) -> bool {
    match rule {
        Rule::OrderQty => limits.order_qty != UNLIMITED,
        Rule::OrderNotional => limits.order_notional != UNLIMITED,
        Rule::OrderParticipation => limits.order_participation != UNLIMITED,
        Rule::Collar => limits.collar != UNLIMITED,
        Rule::DuplicateOrder => limits.duplicate.is_some(),
        Rule::FanOut => limits.fan_out.is_some(),
        Rule::HeartbeatLoss => limits.heartbeat_ns != UNLIMITED,
        Rule::ClockSkew => limits.clock_skew_ns != UNLIMITED,
        Rule::Suspense => limits.suspense != UNLIMITED,
        Rule::OrderRate => limits.rates.iter().any(|r| r.of == RateOf::Orders),
        Rule::MessageRate => limits.rates.iter().any(|r| r.of == RateOf::Messages),
        _ => Gauge::of(rule).is_some_and(|gauge| limits.max[gauge as usize] != UNLIMITED),
    }
}
