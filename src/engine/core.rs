//! HOT: no I/O, lock, allocation, logging, formatting, clock or syscall; every loop bounded.
//!
//! The core: all risk state and the one function that moves it, [`Engine::step`]. The contract is in
//! [`crate::risk`]; `judge` decides, `book` changes.

mod save;

use std::sync::Arc;

use crate::engine::cancels::{Cancels, link};
use crate::engine::command::Command;
use crate::engine::judge::{Judgement, Targets, likeness_of, participates_more};
use crate::engine::published::{Published, ScopeView};
use crate::engine::record::Digest;
use crate::limits::hot::{armed, threshold};
use crate::limits::{Gauge, HotProfile, LimitTable, MAX_RATES, ParentRule, RateOf, ScopeLimits, UNLIMITED};
use crate::model::effect::Denial;
use crate::model::{
    Action, Anomaly, AnomalyKind, Effect, Effects, Event, EventKind, Mode, Rule, Scope, SessionKind, Target, Trip,
    Universe, Verdict, Warn, Why,
};
use crate::ring::huge::Populated;
use crate::ring::prefetch::{lines, lines_at};
use crate::risk::REVALUE_PER_STEP;
use crate::risk::duplicates::DuplicateLog;
use crate::risk::execs::ExecTable;
use crate::risk::fan::Fans;
use crate::risk::losses::LossTrack;
use crate::risk::orders::{NONE, Order, OrderTable};
use crate::risk::pairs::{Gauges, Pair, PairTable};
use crate::risk::parents::ParentTable;
use crate::risk::rate::Rates;
use crate::units::{
    AccountId, Conversion, CurrencyId, InstrumentId, MonoNanos, Now, REPRESENTABLE_MAX, SessionId, StrategyId,
    UnixNanos,
};

/// How large the engine's tables are. All memory is taken at start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizing {
    /// Orders pending or working at once, pending replacements included.
    pub working_orders: usize,
    /// Done orders that are remembered, for late fills and id reuse.
    pub remembered_orders: usize,
    /// Exec ids of a day that are remembered, for duplicates and busts.
    pub execs: usize,
    /// Pairs (strategy × instrument) that can be traded in a run.
    pub pairs: usize,
    /// Recent orders that the duplicate rule can look back on.
    pub recent_orders: usize,
    /// Parents at once, with those that are over and remembered.
    pub parents: usize,
}

impl Default for Sizing {
    fn default() -> Self {
        Sizing {
            working_orders: 1 << 20,
            remembered_orders: 1 << 18,
            execs: 1 << 22,
            pairs: 1 << 20,
            recent_orders: 1 << 18,
            parents: 1 << 18,
        }
    }
}

/// One scope's running state.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(super) struct ScopeState {
    pub gauges: Gauges,
    /// Number of the last step that touched it.
    pub touched: u64,
    /// Until when the loss velocity stays what it is while the profit does.
    pub velocity_until: MonoNanos,
    /// Where its limits and its rate meters are: copied from the table, so that an order finds them beside the gauges.
    pub profile: u32,
    pub first_meter: u32,
    /// Up to the last meter that a new order counts at.
    pub meters: u8,
    pub mode: Mode,
    /// A sum went beyond what can be represented.
    pub overflowed: bool,
    /// A strategy's: whether its orders are held against parents. Copied from the table.
    pub parents: ParentRule,
    /// An account's: nothing should be booked to it. Copied from the table.
    pub suspense: bool,
}

const _: () = assert!(size_of::<ScopeState>() == 128);

impl ScopeState {
    /// Its rate meters as far as one may count new orders: see [`counts_new`].
    #[inline]
    pub fn meters(&self) -> core::ops::Range<usize> {
        let first = self.first_meter as usize;
        first..first + usize::from(self.meters)
    }
}

/// One session's stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stream {
    pub expected: u64,
    pub last_event: MonoNanos,
    pub seen: bool,
    pub gap: bool,
    pub silent: bool,
}

/// What an instrument is valued by. Its first cache line is all that nearly every order needs.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(super) struct Reference {
    pub px: i64,
    pub at: MonoNanos,
    /// The age in ns up to which it is fresh, and whether the instrument is on the restricted list: copied from the table.
    pub most_age: u64,
    /// Average daily volume; 0: none.
    pub volume: i64,
    /// The rate that `conversion` was made with.
    pub rate: i64,
    /// The conversion where it is a whole number that fits; 0 where it is not.
    whole: i64,
    /// How many pairs are to be revalued, and the next.
    pub left: u32,
    pub next: u32,
    pub currency: CurrencyId,
    pub known: bool,
    /// In the queue of instruments whose pairs are to be revalued.
    pub queued: bool,
    pub restricted: bool,
    conversion: Conversion,
}

const _: () = assert!(core::mem::offset_of!(Reference, restricted) < 64);

impl Reference {
    /// The price that positions are valued at: 0 while there is none.
    #[inline]
    pub fn valued_at(&self) -> i64 {
        if self.known { self.px } else { 0 }
    }

    fn convert_by(&mut self, conversion: Conversion) {
        self.conversion = conversion;
        self.whole = conversion.whole().unwrap_or(0);
    }

    /// See [`Conversion::up`].
    #[inline]
    pub fn up(&self, raw: i128) -> Option<i64> {
        match self.whole_value(raw) {
            Some(value) => representable(value),
            None => self.conversion.up(raw),
        }
    }

    /// See [`Conversion::down`].
    #[inline]
    pub fn down(&self, raw: i128) -> Option<i64> {
        match self.whole_value(raw) {
            Some(value) => representable(value),
            None => self.conversion.down(raw),
        }
    }

    /// The value of `raw` where nothing has to be rounded and 64 bits hold everything.
    #[inline]
    fn whole_value(&self, raw: i128) -> Option<i64> {
        let small = i64::try_from(raw).ok().filter(|_| self.whole != 0)?;
        small.checked_mul(self.whole)
    }
}

#[inline]
fn representable(value: i64) -> Option<i64> {
    (value.unsigned_abs() <= REPRESENTABLE_MAX as u64).then_some(value)
}

/// What a currency is worth.
#[derive(Clone, Debug)]
pub(super) struct FxRate {
    /// 0: not known.
    pub rate: i64,
    pub at: MonoNanos,
    /// The instruments priced in it, and how many of them have not heard of the rate yet.
    pub instruments: Vec<u32>,
    pub left: usize,
}

/// A scope or pair as it was before the present step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Touched {
    pub place: u32,
    pub before: Gauges,
}

/// The core. See the module.
pub struct Engine {
    pub(super) universe: Arc<Universe>,
    pub(super) table: Arc<LimitTable>,
    /// The hot parts of `table`, by profile.
    pub(super) hot: Box<[HotProfile]>,
    pub(super) orders: OrderTable,
    pub(super) execs: ExecTable,
    pub(super) pairs: PairTable,
    pub(super) recent: DuplicateLog,
    pub(super) rates: Rates,
    pub(super) parents: ParentTable,
    pub(super) fans: Fans,
    pub(super) scopes: Vec<ScopeState>,
    pub(super) tracks: Vec<LossTrack>,
    pub(super) streams: Vec<Stream>,
    pub(super) references: Vec<Reference>,
    pub(super) fx: Vec<FxRate>,
    /// Instruments with pairs to be revalued: a ring.
    queue: Vec<u32>,
    queue_head: usize,
    queue_len: usize,
    /// Instruments that have not heard of their currency's rate yet: the sum of all `left`.
    rates_due: usize,
    touched: Vec<Touched>,
    pub(super) touched_pairs: Vec<Touched>,
    pub(super) step_number: u64,
    latest: Now,
    /// A batch asks for the memory of its events ahead of their turn.
    asked_ahead: bool,
    /// Where the order that will be forgotten next was, when those after it were last asked for.
    oldest: Option<usize>,
    /// The account of each strategy.
    pub(super) accounts: Box<[AccountId]>,
    pub(super) strategy_base: usize,
    pub(super) instrument_base: usize,
    pub(super) session_base: usize,
    pub(super) working: u64,
    /// The journal is further behind than it may be.
    pub(super) behind: bool,
    /// Whom the fill of the present step concerns.
    pub(super) fill: Option<Targets>,
    pub(super) cancels: Cancels,
    /// Checks that are not made, a bit per rule.
    #[cfg(test)]
    pub(super) left_out: u64,
}

/// Instruments that learn of a new rate per step.
const RATES_PER_STEP: usize = 16;
/// How many events ahead each stage of a batch asks for memory.
const AHEAD: usize = 10;
/// How many turns ahead the slot of what will be forgotten is asked for, then the order, then its place in the index.
const FORGET_AHEAD: [usize; 3] = [48, 16, 6];
/// Pairs revalued per tick.
const REVALUE_PER_TICK: usize = 256;
/// Scopes and sessions that go into the state's hash.
const HASHED: usize = 64;
/// Room for every scope and pair that one step can touch.
const TOUCHED: usize = 5 * (REVALUE_PER_TICK + 8);

impl Engine {
    /// An engine without orders or positions, every scope `Normal`. Reference prices and rates that the universe
    /// knows count as received `now`.
    #[must_use]
    pub fn new(universe: Arc<Universe>, limits: Arc<LimitTable>, sizing: Sizing, now: Now) -> Engine {
        let scopes = universe.scope_count();
        let _ = limits.hot();
        let rates = Rates::new(&limits, scopes);
        let mut fx: Vec<FxRate> = universe
            .currencies
            .iter()
            .enumerate()
            .map(|(i, c)| FxRate {
                rate: if i == 0 { 10i64.pow(u32::from(Event::FX_SCALE)) } else { c.initial_rate.map_or(0, |r| r.0) },
                at: now.mono,
                instruments: Vec::new(),
                left: 0,
            })
            .collect();
        for (i, spec) in universe.instruments.iter().enumerate() {
            fx[usize::from(spec.currency.0)].instruments.push(i as u32);
        }
        let state = ScopeState {
            gauges: [0; Gauge::COUNT],
            touched: 0,
            velocity_until: MonoNanos(0),
            profile: 0,
            first_meter: 0,
            meters: 0,
            mode: Mode::Normal,
            overflowed: false,
            parents: ParentRule::Ignored,
            suspense: false,
        };
        let tracks = (0..scopes).map(|slot| LossTrack::begin(now.mono, limits.at(slot).loss_window_ns, 0)).collect();
        let mut engine = Engine {
            orders: OrderTable::new(sizing.working_orders, sizing.remembered_orders),
            execs: ExecTable::new(sizing.execs),
            pairs: PairTable::new(universe.strategies.len(), universe.instruments.len(), sizing.pairs),
            recent: DuplicateLog::new(sizing.recent_orders),
            parents: ParentTable::new(sizing.parents),
            fans: Fans::new(&universe, &limits),
            rates,
            scopes: vec![state; scopes],
            tracks,
            streams: vec![
                Stream { expected: 1, last_event: now.mono, seen: false, gap: false, silent: false };
                universe.sessions.len()
            ],
            references: universe
                .instruments
                .iter()
                .map(|spec| Reference {
                    px: spec.initial_reference.map_or(0, |px| px.0),
                    at: now.mono,
                    most_age: 0,
                    volume: spec.average_daily_volume.map_or(0, |v| v.0),
                    rate: -1,
                    whole: 0,
                    left: 0,
                    next: NONE,
                    currency: spec.currency,
                    known: spec.initial_reference.is_some(),
                    queued: false,
                    restricted: false,
                    conversion: Conversion::UNKNOWN,
                })
                .collect(),
            fx,
            queue: vec![0; universe.instruments.len().max(1)],
            queue_head: 0,
            queue_len: 0,
            rates_due: 0,
            touched: Vec::with_capacity(TOUCHED),
            touched_pairs: Vec::with_capacity(TOUCHED),
            step_number: 0,
            latest: now,
            asked_ahead: false,
            oldest: None,
            accounts: universe.strategies.iter().map(|s| s.account).collect(),
            strategy_base: 1 + universe.accounts.len(),
            instrument_base: 1 + universe.accounts.len() + universe.strategies.len(),
            session_base: 1 + universe.accounts.len() + universe.strategies.len() + universe.instruments.len(),
            working: 0,
            behind: false,
            fill: None,
            cancels: Cancels::new(
                sizing.working_orders + sizing.remembered_orders,
                scopes,
                universe.sessions.len(),
                now.mono,
            ),
            #[cfg(test)]
            left_out: 0,
            hot: limits.hot().into(),
            table: limits,
            universe,
        };
        for instrument in 0..engine.references.len() {
            engine.learn_rate(instrument);
        }
        engine.copy_limits();
        engine
    }

    /// Copies what scopes and instruments keep of the limit table.
    fn copy_limits(&mut self) {
        for (slot, state) in self.scopes.iter_mut().enumerate() {
            let meters = self.rates.range(slot);
            state.profile = self.table.slot_index(slot);
            state.first_meter = meters.start as u32;
            let of_new = meters.clone().rev().find(|&meter| counts_new(self.rates.of(meter)));
            state.meters = of_new.map_or(0, |last| last + 1 - meters.start) as u8;
        }
        for (i, reference) in self.references.iter_mut().enumerate() {
            reference.most_age = self.table.reference_age(InstrumentId(i as u32));
            reference.restricted = self.table.is_restricted(InstrumentId(i as u32));
        }
        for (strategy, state) in self.scopes[self.strategy_base..self.instrument_base].iter_mut().enumerate() {
            state.parents = self.table.parents(StrategyId(strategy as u16));
        }
        for (account, state) in self.scopes[1..self.strategy_base].iter_mut().enumerate() {
            state.suspense = self.table.is_suspense(AccountId(account as u16));
        }
    }

    /// Takes one event. `out` must be clear; it holds everything that followed.
    pub fn step(&mut self, now: Now, event: &Event, out: &mut Effects) {
        let now = self.begin(now);
        let Some(stream) = self.streams.get(usize::from(event.session.0)).copied() else { return };
        // One that haltline itself made has no place in the stream.
        if event.seq == 0 && matches!(event.kind, EventKind::Withdrawn | EventKind::Heartbeat) {
            self.cancels.kind = event.kind;
            match event.kind {
                EventKind::Withdrawn => self.withdraw(event, out),
                _ => self.take_link(now, event),
            }
            self.end(Some(event), out);
            return;
        }
        if event.seq != stream.expected {
            self.out_of_sequence(event, stream, out);
            self.end(Some(event), out);
            return;
        }
        if !self.asked_ahead {
            // What does not wait for anything else is asked for at once.
            self.warm_indices(event);
            if event.kind == EventKind::New {
                lines(self.recent.home(&likeness_of(event)));
                lines(self.recent.to_log(AHEAD as u64));
            }
        }
        let silence = if stream.seen { now.mono.since(stream.last_event) } else { 0 };
        let cell = &mut self.streams[usize::from(event.session.0)];
        *cell = Stream {
            expected: stream.expected.saturating_add(1),
            last_event: now.mono,
            seen: true,
            gap: false,
            silent: false,
        };
        if stream.gap {
            let expected = stream.expected.saturating_add(1);
            anomaly(out, AnomalyKind::SeqGapClosed, event, 0, expected as i64);
        }
        let answered = self.take(now, event, silence, out);
        if !answered {
            out.push(Effect::Applied { session: event.session, seq: event.seq });
        }
        self.end(Some(event), out);
        self.warm_forgotten();
    }

    /// Has the kernel give the memory of all tables now: otherwise each part of them is given when it is first used, within
    /// a step, which takes up to some milliseconds. Call it before the first step, and again after a snapshot was loaded.
    ///
    /// # Errors
    ///
    /// There is not that much memory, or the kernel does not know the request. The engine works as it is.
    pub fn prefault(&self) -> Populated {
        let orders = self.orders.prefault()? + self.recent.prefault()? + self.parents.prefault()?;
        Ok(orders + self.execs.prefault()? + self.pairs.prefault()? + self.rates.prefault()?)
    }

    /// Steps through `batch`, asking for each event's memory a few events ahead of its turn: first the indices, then
    /// the order, then its pair. `step` must call [`Engine::step`] with the event that it is given.
    pub fn step_batch<T>(&mut self, batch: &[T], event: impl Fn(&T) -> &Event, mut step: impl FnMut(&mut Engine, &T)) {
        self.asked_ahead = true;
        for i in 0..batch.len() + 3 * AHEAD {
            if let Some(item) = batch.get(i + AHEAD) {
                lines(event(item));
            }
            if let Some(item) = batch.get(i) {
                self.warm_indices(event(item));
            }
            if let Some(item) = i.checked_sub(AHEAD).and_then(|i| batch.get(i)) {
                self.warm_order(event(item));
            }
            if let Some(item) = i.checked_sub(2 * AHEAD).and_then(|i| batch.get(i)) {
                self.warm_pair(event(item));
            }
            if let Some(item) = i.checked_sub(3 * AHEAD).and_then(|i| batch.get(i)) {
                step(self, item);
            }
        }
        self.asked_ahead = false;
    }

    /// An end forgets the oldest remembered order: asks for those whose turn comes. Called after each step, so that none
    /// is left out.
    #[inline]
    fn warm_forgotten(&mut self) {
        let present = self.orders.oldest();
        if present == self.oldest {
            return;
        }
        self.oldest = present;
        if let Some(slot) = self.orders.slot_to_forget(FORGET_AHEAD[0]) {
            lines(slot);
        }
        if let Some(order) = self.orders.to_forget(FORGET_AHEAD[1]) {
            lines(order);
        }
        if let Some(order) = self.orders.to_forget(FORGET_AHEAD[2]) {
            lines(self.orders.home(order.session, order.id));
        }
    }

    #[inline]
    fn warm_indices(&self, event: &Event) {
        lines(self.orders.home(event.session, event.id));
        match event.kind {
            EventKind::New => {
                if let Some(home) = self.pairs.home(event.strategy, event.instrument) {
                    lines(home);
                }
                self.warm_scopes(event.strategy, event.instrument);
                if event.ref_id != 0 {
                    lines(self.parents.home(event.parent_id()));
                }
            }
            EventKind::Fill => lines(self.execs.home(event.session, event.exec_id())),
            EventKind::Replace | EventKind::Replaced | EventKind::Cancel | EventKind::CancelRejected => {
                lines(self.orders.home(event.session, event.orig_id()));
            }
            _ => {}
        }
    }

    /// The places of a strategy and an instrument among the scopes, if they are known.
    #[inline]
    fn dense(&self, strategy: StrategyId, instrument: InstrumentId) -> [usize; 2] {
        [self.strategy_base + usize::from(strategy.0), self.instrument_base + instrument.0 as usize]
    }

    /// Asks for what an order of this strategy and instrument is judged and booked by.
    #[inline]
    fn warm_scopes(&self, strategy: StrategyId, instrument: InstrumentId) {
        for slot in self.dense(strategy, instrument) {
            if let Some(state) = self.scopes.get(slot) {
                lines(state);
            }
        }
        if let Some(reference) = self.references.get(instrument.0 as usize) {
            // Its first line: see there.
            lines(&reference.px);
        }
    }

    /// The meters of a new order's strategy and instrument: the other scopes are few, and their meters at hand.
    #[inline]
    fn each_meter(&self, event: &Event, warm: impl Fn(usize)) {
        for slot in self.dense(event.strategy, event.instrument) {
            for meter in self.scopes.get(slot).map_or(0..0, ScopeState::meters) {
                warm(meter);
            }
        }
    }

    #[inline]
    fn warm_order(&self, event: &Event) {
        match event.kind {
            EventKind::New => {
                match self.pairs.find(event.strategy, event.instrument) {
                    Some(pair) => lines(self.pairs.get(pair)),
                    None => lines_at(self.pairs.to_make(AHEAD)),
                }
                if let Some(order) = self.orders.next_free() {
                    lines(order);
                }
                lines(self.recent.home(&likeness_of(event)));
                self.each_meter(event, |meter| self.rates.warm(meter));
                if event.ref_id != 0
                    && let Some(slot) = self.parents.likely(event.parent_id())
                {
                    lines(self.parents.get(slot));
                }
            }
            _ => {
                if let Some(slot) = self.orders.likely(event.session, event.id) {
                    lines(self.orders.get(slot));
                }
            }
        }
    }

    #[inline]
    fn warm_pair(&self, event: &Event) {
        if event.kind == EventKind::New {
            self.each_meter(event, |meter| self.rates.warm_times(meter));
            return;
        }
        if let Some(slot) = self.orders.likely(event.session, event.id) {
            let order = self.orders.get(slot);
            if order.parent != 0 && event.kind != EventKind::Ack {
                lines(self.parents.home(order.parent));
            }
            if event.kind == EventKind::Fill {
                for slot in self.dense(order.strategy, order.instrument) {
                    if let Some(track) = self.tracks.get(slot) {
                        lines(track.front());
                    }
                }
            }
            if event.kind != EventKind::Ack && (order.pair as usize) < self.pairs.len() {
                lines(self.pairs.get(order.pair));
                self.warm_scopes(order.strategy, order.instrument);
            }
        }
    }

    /// Takes one event that is next in its stream. Returns whether it got a verdict.
    fn take(&mut self, now: Now, event: &Event, silence: u64, out: &mut Effects) -> bool {
        self.cancels.kind = event.kind;
        let kind = self.universe.sessions[usize::from(event.session.0)].kind;
        let reference = kind == SessionKind::Reference;
        let orders = kind == SessionKind::Orders;
        match event.kind {
            EventKind::New | EventKind::Replace | EventKind::Cancel if !kind.trades() => {
                anomaly(out, AnomalyKind::MalformedReport, event, event.id.0, 0);
                false
            }
            EventKind::New => self.take_new(now, event, silence, kind == SessionKind::Ask, out),
            EventKind::Replace => self.take_replace(now, event, silence, kind == SessionKind::Ask, out),
            EventKind::Cancel => {
                self.take_cancel(now, event, out);
                if kind == SessionKind::Ask {
                    let checks = 1 << Rule::MessageRate as u64 | 1 << Rule::CancelRate as u64;
                    out.push(Effect::Verdict(verdict(event, None, checks)));
                }
                kind == SessionKind::Ask
            }
            _ => {
                if let Some(skew) = self.skew_beyond(event, now) {
                    anomaly(out, AnomalyKind::ClockSkew, event, event.id.0, skew);
                }
                let malformed = event.flags & Event::MALFORMED != 0;
                match event.kind {
                    EventKind::Mark | EventKind::Fx if !reference || malformed => {
                        anomaly(out, AnomalyKind::BadReference, event, 0, event.px.0);
                    }
                    EventKind::Mark => self.take_mark(now, event, out),
                    EventKind::Fx => self.take_fx(now, event, out),
                    EventKind::Heartbeat if event.id.0 == link::MASS => self.take_mass(event.session),
                    EventKind::Heartbeat | EventKind::New | EventKind::Replace | EventKind::Cancel => {}
                    // Only the order management side speaks of parents, and of nothing else.
                    _ if reference || malformed || orders != event.kind.is_parent() => {
                        anomaly(out, AnomalyKind::MalformedReport, event, event.id.0, 0);
                    }
                    EventKind::ParentNew => self.take_parent(event, out),
                    EventKind::ParentReplace => self.take_parent_replace(event, out),
                    EventKind::ParentDone => self.take_parent_done(event, out),
                    EventKind::Withdrawn => self.withdraw(event, out),
                    EventKind::Ack => self.take_ack(event, out),
                    EventKind::Replaced => self.take_replaced(event, out),
                    EventKind::Canceled | EventKind::Expired | EventKind::Rejected => self.take_end(event, out),
                    EventKind::CancelRejected => self.take_cancel_rejected(event, out),
                    EventKind::Fill => self.take_fill(now, event, out),
                    EventKind::Bust => self.take_bust(event, out),
                    EventKind::Correct => self.take_correct(now, event, out),
                }
                false
            }
        }
    }

    /// An event that is not the next of its stream: nothing is taken from it.
    fn out_of_sequence(&mut self, event: &Event, stream: Stream, out: &mut Effects) {
        if event.seq < stream.expected {
            anomaly(out, AnomalyKind::DuplicateSeq, event, event.id.0, stream.expected as i64);
            return;
        }
        let session = usize::from(event.session.0);
        let scope = Scope::Session(event.session);
        let cause = Denial {
            rule: Rule::StreamGap,
            why: Why::Breach,
            scope,
            observed: clip(event.seq),
            limit: clip(stream.expected),
        };
        if !stream.gap {
            self.streams[session].gap = true;
            anomaly(out, AnomalyKind::SeqGap, event, event.id.0, clip(stream.expected));
            let action = self.limits_of(scope).action[Rule::StreamGap as usize];
            self.act(action, cause, &self.targets_of(scope), Some(event), out);
        }
        out.push(Effect::Resend { session: event.session, from: stream.expected });
        let asks = self.universe.sessions[session].kind == SessionKind::Ask;
        if asks && event.kind.is_request() {
            // A cancel may go out; it is booked when it is sent again in its turn.
            let denial = (event.kind != EventKind::Cancel).then_some(cause);
            out.push(Effect::Verdict(verdict(event, denial, Verdict::GAP_CHECKS)));
        }
    }

    /// Takes one command.
    pub fn command(&mut self, now: Now, command: Command, out: &mut Effects) {
        let now = self.begin(now);
        match command {
            Command::Mode { scope, mode, epoch } => {
                if let Some(slot) = self.universe.slot(scope) {
                    let before = self.scopes[slot].mode;
                    self.scopes[slot].mode = mode;
                    if mode < before {
                        self.start_anew(slot, now);
                    }
                    self.take_halt(slot, mode, epoch, now.mono);
                }
            }
            Command::SetLimits(table) => self.set_limits(table, now),
            Command::NewDay => self.new_day(now),
            Command::Behind(behind) => self.behind = behind,
        }
        self.end(None, out);
    }

    /// Lets time pass: silent sessions, revaluations that are still due. Call it about every millisecond. Returns
    /// whether anything came of it: if not, leaving it out would have been the same.
    pub fn tick(&mut self, now: Now, out: &mut Effects) -> bool {
        let now = self.begin(now);
        let mut moved = self.queue_len > 0 || self.fx.iter().any(|f| f.left > 0);
        for session in 0..self.streams.len() {
            let stream = self.streams[session];
            if !stream.seen || stream.silent {
                continue;
            }
            let scope = Scope::Session(SessionId(session as u16));
            let limits = self.limits_of(scope);
            let silence = now.mono.since(stream.last_event);
            if limits.heartbeat_ns == UNLIMITED || clip(silence) <= limits.heartbeat_ns {
                continue;
            }
            let (action, limit) = (limits.action[Rule::HeartbeatLoss as usize], limits.heartbeat_ns);
            self.streams[session].silent = true;
            moved = true;
            let cause = Denial { rule: Rule::HeartbeatLoss, why: Why::Breach, scope, observed: clip(silence), limit };
            let event = Event::new(EventKind::Heartbeat, SessionId(session as u16), 0);
            anomaly(out, AnomalyKind::HeartbeatLoss, &event, 0, clip(silence));
            self.act(action, cause, &self.targets_of(scope), Some(&event), out);
        }
        self.sweep(REVALUE_PER_TICK);
        self.end(None, out);
        moved
    }

    /// A digest of the state that takes the same short time whatever its size: totals, streams, and the gauges of the
    /// firm and the scopes behind it. Two engines that took the same inputs have the same.
    #[must_use]
    pub fn state_hash(&self) -> [u64; 2] {
        let mut digest = Digest::default();
        let totals = [self.working, self.orders.remembered() as u64, self.execs.len() as u64, self.pairs.len() as u64];
        totals.into_iter().for_each(|n| digest.word(n));
        let parents = self.parents.totals();
        let totals = [self.parents.len() as u64, parents.open, parents.children, parents.filled, parents.leaves];
        totals.into_iter().for_each(|n| digest.word(n));
        digest.word(u64::from(self.table.generation));
        for state in self.scopes.iter().take(HASHED) {
            digest.word(state.mode as u64 | u64::from(state.overflowed) << 8);
            for (gauge, value) in state.gauges.iter().enumerate() {
                // Falls with time, and is brought up to date whenever somebody looks.
                if gauge != Gauge::LossVelocity as usize {
                    digest.word(*value as u64);
                }
            }
        }
        self.cancels.digest().into_iter().for_each(|n| digest.word(n));
        for stream in self.streams.iter().take(HASHED) {
            digest.word(stream.expected << 3 | u64::from(stream.seen) | u64::from(stream.gap) << 1);
        }
        digest.value()
    }

    /// All names.
    #[must_use]
    pub fn universe(&self) -> &Arc<Universe> {
        &self.universe
    }

    /// The limits in force.
    #[must_use]
    pub fn limits(&self) -> &Arc<LimitTable> {
        &self.table
    }

    /// Every order that is pending or working. Not for the live engine: it looks at all that there ever were.
    pub fn live_orders(&self) -> impl Iterator<Item = &Order> {
        self.orders.each_live()
    }

    /// Orders that are pending or working.
    #[must_use]
    pub fn working_orders(&self) -> u64 {
        self.working
    }

    /// Inputs taken since the journal began: a replay comes to the same number.
    #[must_use]
    pub fn inputs(&self) -> u64 {
        self.step_number
    }

    /// Whether the core was told that the journal is behind.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.behind
    }

    /// The sequence that the session's next event has to have; 1 for an unknown one.
    #[must_use]
    pub fn expected(&self, session: SessionId) -> u64 {
        self.streams.get(usize::from(session.0)).map_or(1, |stream| stream.expected)
    }

    /// What a new order at this price and quantity is worth in base units; `None` if that cannot be told.
    #[must_use]
    pub fn order_value(&self, event: &Event) -> Option<i64> {
        let reference = self.references.get(event.instrument.0 as usize)?;
        let px = match event.ord_type {
            crate::model::OrdType::Limit | crate::model::OrdType::StopLimit => event.px.0,
            crate::model::OrdType::Market | crate::model::OrdType::Stop => reference.px.max(event.px.0),
        };
        reference.conversion.up(i128::from(event.qty.0) * i128::from(px))
    }

    /// Whether the engine remembers this order id: it is live, or was and is not forgotten.
    #[must_use]
    pub fn remembers_order(&self, session: SessionId, id: crate::units::OrdId) -> bool {
        self.orders.find(session, id).is_some()
    }

    /// Whether the engine remembers this execution.
    #[must_use]
    pub fn remembers_exec(&self, session: SessionId, id: crate::units::ExecId) -> bool {
        self.execs.find(session, id).is_some()
    }

    /// The mode of `scope` as the engine has it; `None` for a pair or an unknown scope.
    #[must_use]
    pub fn mode(&self, scope: Scope) -> Option<Mode> {
        self.universe.slot(scope).map(|slot| self.scopes[slot].mode)
    }

    /// Position of a pair in quantity units.
    #[must_use]
    pub fn position(&self, strategy: crate::units::StrategyId, instrument: InstrumentId) -> i64 {
        self.pairs.find(strategy, instrument).map_or(0, |slot| self.pairs.get(slot).position)
    }

    /// The gauges of `scope` now; `None` if it is not known.
    #[must_use]
    pub fn gauges(&self, scope: Scope) -> Option<Gauges> {
        match scope {
            Scope::Pair(s, i) => self.pairs.find(s, i).map(|slot| self.pairs.get(slot).gauges()),
            _ => self.universe.slot(scope).map(|slot| self.scopes[slot].gauges),
        }
    }

    /// Shows the totals.
    pub fn show_totals(&self, published: &Published) {
        published.working_orders.set(self.working);
        published.remembered_orders.set(self.orders.remembered() as u64);
        published.remembered_execs.set(self.execs.len() as u64);
        published.pairs.set(self.pairs.len() as u64);
        published.parents.set(self.parents.len() as u64);
        published.parents_open.set(self.parents.totals().open);
        published.revaluations_pending.set(self.queue_len as u64);
        published.limits_generation.set(u64::from(self.table.generation));
        self.show_cancel_totals(&published.cancels);
    }

    /// Shows the scope at `slot`.
    pub fn show_scope(&mut self, now: Now, slot: usize, published: &Published) {
        self.refresh_velocity(slot, now.mono);
        let state = &self.scopes[slot];
        let mut view = ScopeView { gauges: state.gauges, rates: [0; MAX_RATES], mode: state.mode };
        for (used, meter) in view.rates.iter_mut().zip(self.rates.range(slot)) {
            *used = self.rates.view(meter, now.mono).used;
        }
        published.show(slot, &view);
        self.show_cancels(slot, now.mono, &published.cancels);
    }

    // --- one step's frame -------------------------------------------------------------------------

    /// The latest time that the core was given.
    pub(super) fn latest_mono(&self) -> MonoNanos {
        self.latest.mono
    }

    pub(super) fn begin(&mut self, now: Now) -> Now {
        self.latest = Now { mono: self.latest.mono.max(now.mono), unix: now.unix };
        self.step_number += 1;
        self.touched.clear();
        self.touched_pairs.clear();
        self.fill = None;
        self.latest
    }

    /// Revalues what is due and judges every scope that something other than an admitted order moved.
    pub(super) fn end(&mut self, event: Option<&Event>, out: &mut Effects) {
        if self.queue_len > 0 || self.rates_due > 0 {
            self.sweep(REVALUE_PER_STEP);
        }
        for i in 0..self.touched.len() {
            let touched = &self.touched[i];
            let (slot, pnl) = (touched.place as usize, -touched.before[Gauge::Loss as usize]);
            self.settle_losses(slot, pnl);
            let state = &self.scopes[slot];
            let volume = slot.checked_sub(self.instrument_base).and_then(|i| self.references.get(i)).map(|r| r.volume);
            if may_reach(&state.gauges, self.hot(state.profile), volume) {
                self.watch_scope(i, event, out);
            }
        }
        for i in 0..self.touched_pairs.len() {
            let pair = self.pairs.get(self.touched_pairs[i].place);
            let volume = self.references[pair.instrument.0 as usize].volume;
            if may_reach(&pair.gauges(), self.hot(self.profile_of(pair)), Some(volume)) {
                self.watch_pair(i, event, out);
            }
        }
        if out.dropped() > 0 {
            self.report_drops(event, out);
        }
    }

    #[cold]
    fn watch_scope(&mut self, i: usize, event: Option<&Event>, out: &mut Effects) {
        let Touched { place, before } = self.touched[i];
        let slot = place as usize;
        if let Some(scope) = self.universe.scope_at(slot) {
            let after = self.scopes[slot].gauges;
            self.watch(scope, self.scopes[slot].profile, (&before, &after), event, out);
        }
    }

    #[cold]
    fn watch_pair(&mut self, i: usize, event: Option<&Event>, out: &mut Effects) {
        let Touched { place, before } = self.touched_pairs[i];
        let pair = self.pairs.get(place);
        let (scope, after) = (Scope::Pair(pair.strategy, pair.instrument), pair.gauges());
        self.watch(scope, self.profile_of(pair), (&before, &after), event, out);
    }

    /// The profile of a pair's limits.
    #[inline]
    pub(super) fn profile_of(&self, pair: &Pair) -> u32 {
        if pair.generation == self.table.generation {
            pair.profile
        } else {
            self.table.pair_index(pair.strategy, pair.instrument)
        }
    }

    #[cold]
    fn report_drops(&self, event: Option<&Event>, out: &mut Effects) {
        let (session, seq) = event.map_or((SessionId::UNKNOWN, 0), |e| (e.session, e.seq));
        let kind = AnomalyKind::EffectsDropped;
        out.push_last(Effect::Anomaly(Anomaly { kind, session, seq, id: 0, detail: i64::from(out.dropped()) }));
    }

    /// Remembers how the scope at `slot` was before this step changed it.
    #[inline]
    pub(super) fn touch(&mut self, slot: usize) {
        if self.scopes[slot].touched != self.step_number {
            // What time alone has changed is not this step's doing.
            self.refresh_velocity(slot, self.latest.mono);
            let state = &mut self.scopes[slot];
            state.touched = self.step_number;
            self.touched.push(Touched { place: slot as u32, before: state.gauges });
        }
    }

    /// The same for a pair.
    pub(super) fn touch_pair(&mut self, pair: u32) {
        if !self.touched_pairs.iter().any(|t| t.place == pair) {
            self.touched_pairs.push(Touched { place: pair, before: self.pairs.get(pair).gauges() });
        }
    }

    /// Takes the profit of a scope that this step touched, and so brought up to the present time.
    #[inline]
    fn settle_losses(&mut self, slot: usize, pnl_before: i64) {
        let state = &mut self.scopes[slot];
        let pnl = -state.gauges[Gauge::Loss as usize];
        if pnl == pnl_before {
            return;
        }
        let track = &mut self.tracks[slot];
        if self.hot[state.profile as usize].armed & armed::LOSS_VELOCITY != 0 {
            track.set(pnl);
            state.gauges[Gauge::LossVelocity as usize] = track.velocity(pnl);
        }
        track.high = track.high.max(pnl);
        state.gauges[Gauge::Drawdown as usize] = track.high.saturating_sub(pnl);
    }

    /// Lets the loss velocity of a scope fall with time.
    #[inline]
    pub(super) fn refresh_velocity(&mut self, slot: usize, now: MonoNanos) {
        let state = &self.scopes[slot];
        if now < state.velocity_until || self.hot(state.profile).armed & armed::LOSS_VELOCITY == 0 {
            return;
        }
        let window = self.table.at(slot).loss_window_ns;
        let state = &mut self.scopes[slot];
        let pnl = -state.gauges[Gauge::Loss as usize];
        self.tracks[slot].advance(now, window, pnl);
        state.velocity_until = self.tracks[slot].slice_end(window);
        state.gauges[Gauge::LossVelocity as usize] = self.tracks[slot].velocity(pnl);
    }

    fn start_anew(&mut self, slot: usize, now: Now) {
        let window = self.table.at(slot).loss_window_ns;
        let gauges = &mut self.scopes[slot].gauges;
        let pnl = -gauges[Gauge::Loss as usize];
        for gauge in [Gauge::Orders, Gauge::Executions, Gauge::Drawdown, Gauge::LossVelocity] {
            gauges[gauge as usize] = 0;
        }
        self.tracks[slot] = LossTrack::begin(now.mono, window, pnl);
        self.scopes[slot].velocity_until = MonoNanos(0);
        for meter in self.rates.range(slot) {
            if matches!(self.rates.of(meter), RateOf::Denials | RateOf::Orphans) {
                self.rates.restart(meter);
            }
        }
        self.fans.restart(slot);
    }

    // --- limits, days, prices ---------------------------------------------------------------------

    fn set_limits(&mut self, table: Arc<LimitTable>, now: Now) {
        let _ = table.hot();
        self.rates = self.rates.carried_over(&table, self.scopes.len());
        self.fans.set_limits(&table);
        for slot in 0..self.scopes.len() {
            let window = table.at(slot).loss_window_ns;
            let armed = |t: &LimitTable| t.hot()[t.slot_index(slot) as usize].armed & armed::LOSS_VELOCITY != 0;
            if !armed(&table) {
                self.scopes[slot].gauges[Gauge::LossVelocity as usize] = 0;
            }
            // A velocity that is new looks back on nothing before.
            if armed(&table) && (window != self.table.at(slot).loss_window_ns || !armed(&self.table)) {
                let pnl = -self.scopes[slot].gauges[Gauge::Loss as usize];
                let mut track = LossTrack::begin(now.mono, window, pnl);
                track.high = self.tracks[slot].high;
                self.tracks[slot] = track;
                self.scopes[slot].velocity_until = MonoNanos(0);
            }
        }
        self.hot = table.hot().into();
        self.table = table;
        self.copy_limits();
        self.cancel_policy_changed(now.mono);
    }

    /// A new day. Walks every pair: for the pause between two days.
    fn new_day(&mut self, now: Now) {
        // Every pair is revalued below, so that nothing is due any more.
        for instrument in 0..self.references.len() {
            self.learn_rate(instrument);
            let reference = &mut self.references[instrument];
            (reference.queued, reference.next, reference.left) = (false, NONE, 0);
        }
        self.queue_len = 0;
        self.fx.iter_mut().for_each(|fx| fx.left = 0);
        self.rates_due = 0;
        for pair in 0..self.pairs.len() as u32 {
            let reference = self.references[self.pairs.get(pair).instrument.0 as usize];
            self.update_pair(pair, false, |p| {
                p.traded = 0;
                if reference.known {
                    p.cash = -(i128::from(p.position) * i128::from(reference.px));
                }
            });
        }
        self.execs.new_day();
        for slot in 0..self.scopes.len() {
            let pnl = -self.scopes[slot].gauges[Gauge::Loss as usize];
            self.tracks[slot] = LossTrack::begin(now.mono, self.table.at(slot).loss_window_ns, pnl);
            self.scopes[slot].gauges[Gauge::Drawdown as usize] = 0;
            self.scopes[slot].gauges[Gauge::LossVelocity as usize] = 0;
        }
    }

    fn take_mark(&mut self, now: Now, event: &Event, out: &mut Effects) {
        let instrument = event.instrument.0 as usize;
        let fits = self.universe.instruments.get(instrument).is_some_and(|spec| {
            event.px.0.unsigned_abs() <= REPRESENTABLE_MAX as u64 && (event.px.0 > 0 || spec.negative_px)
        });
        if !fits {
            return anomaly(out, AnomalyKind::BadReference, event, u64::from(event.instrument.0), event.px.0);
        }
        let reference = &mut self.references[instrument];
        let moved = !reference.known || reference.px != event.px.0;
        reference.px = event.px.0;
        reference.at = now.mono;
        reference.known = true;
        if moved {
            self.enqueue(instrument);
        }
    }

    fn take_fx(&mut self, now: Now, event: &Event, out: &mut Effects) {
        let currency = event.instrument.0 as usize;
        if currency == 0 || event.px.0 <= 0 || event.px.0 > REPRESENTABLE_MAX || currency >= self.fx.len() {
            return anomaly(out, AnomalyKind::BadReference, event, u64::from(event.instrument.0), event.px.0);
        }
        let fx = &mut self.fx[currency];
        fx.at = now.mono;
        if fx.rate != event.px.0 {
            fx.rate = event.px.0;
            self.rates_due = self.rates_due - fx.left + fx.instruments.len();
            fx.left = fx.instruments.len();
        }
    }

    /// Makes the instrument's conversion from the present rate. Returns whether it changed.
    pub(super) fn learn_rate(&mut self, instrument: usize) -> bool {
        let rate = self.fx[usize::from(self.references[instrument].currency.0)].rate;
        if self.references[instrument].rate == rate {
            return false;
        }
        self.convert_at(instrument, rate);
        true
    }

    fn convert_at(&mut self, instrument: usize, rate: i64) {
        let spec = &self.universe.instruments[instrument];
        let reference = &mut self.references[instrument];
        reference.rate = rate;
        let scales = (spec.px_scale, spec.qty_scale, self.universe.base_scale);
        let conversion = Conversion::new(spec.multiplier, (rate, Event::FX_SCALE), scales.0, scales.1, scales.2);
        reference.convert_by(conversion.unwrap_or(Conversion::UNKNOWN));
    }

    pub(super) fn enqueue(&mut self, instrument: usize) {
        let (first, count) = self.pairs.of_instrument(instrument);
        let reference = &mut self.references[instrument];
        if count == 0 {
            return;
        }
        // A sweep under way goes on from where it is and round to the beginning.
        reference.left = count;
        if reference.next == NONE {
            reference.next = first;
        }
        if !reference.queued {
            reference.queued = true;
            let at = (self.queue_head + self.queue_len) % self.queue.len();
            self.queue[at] = instrument as u32;
            self.queue_len += 1;
        }
    }

    /// Revalues up to `budget` pairs.
    fn sweep(&mut self, budget: usize) {
        for currency in 1..self.fx.len() {
            let left = self.fx[currency].left;
            for n in 0..left.min(RATES_PER_STEP) {
                let instrument = self.fx[currency].instruments[left - 1 - n] as usize;
                self.fx[currency].left -= 1;
                self.rates_due -= 1;
                if self.learn_rate(instrument) {
                    self.enqueue(instrument);
                }
            }
        }
        let mut done = 0;
        while self.queue_len > 0 && done < budget {
            let instrument = self.queue[self.queue_head] as usize;
            let reference = self.references[instrument];
            if reference.left == 0 {
                self.references[instrument].queued = false;
                self.references[instrument].next = NONE;
                self.queue_head = (self.queue_head + 1) % self.queue.len();
                self.queue_len -= 1;
                continue;
            }
            let pair = reference.next;
            let following = self.pairs.get(pair).next;
            let next = if following == NONE { self.pairs.of_instrument(instrument).0 } else { following };
            self.references[instrument].next = next;
            self.references[instrument].left -= 1;
            self.update_pair(pair, true, |_| ());
            done += 1;
        }
        // An instrument that is through leaves the queue at once, so that "queued" means "due".
        while self.queue_len > 0 && self.references[self.queue[self.queue_head] as usize].left == 0 {
            let instrument = self.queue[self.queue_head] as usize;
            self.references[instrument].queued = false;
            self.references[instrument].next = NONE;
            self.queue_head = (self.queue_head + 1) % self.queue.len();
            self.queue_len -= 1;
        }
    }

    // --- limits of a scope, actions, trips --------------------------------------------------------

    /// The limits at a scope that is known.
    pub(super) fn limits_of(&self, scope: Scope) -> &ScopeLimits {
        match scope {
            Scope::Pair(s, i) => self.table.pair(s, i),
            _ => self.table.at(self.universe.slot(scope).unwrap_or(0)),
        }
    }

    pub(super) fn hot(&self, profile: u32) -> &HotProfile {
        &self.hot[profile as usize]
    }

    /// What `scope` itself says about the others.
    pub(super) fn targets_of(&self, scope: Scope) -> Targets {
        let of_strategy = |s: crate::units::StrategyId| {
            let account = self.universe.strategies.get(usize::from(s.0)).map(|spec| spec.account);
            Targets { account, strategy: account.map(|_| s), ..Targets::default() }
        };
        match scope {
            Scope::Firm => Targets::default(),
            Scope::Account(account) => Targets { account: Some(account), ..Targets::default() },
            Scope::Strategy(s) => of_strategy(s),
            Scope::Pair(s, i) => Targets { instrument: Some(i), ..of_strategy(s) },
            Scope::Instrument(i) => Targets { instrument: Some(i), ..Targets::default() },
            Scope::Session(session) => Targets { session: Some(session), ..Targets::default() },
        }
    }

    /// The latching part of one breach outside a judgement.
    pub(super) fn act(
        &mut self,
        action: Action,
        cause: Denial,
        targets: &Targets,
        event: Option<&Event>,
        out: &mut Effects,
    ) {
        if action.mode() > Mode::Normal {
            let scope = resolve(target_of(action), cause.scope, targets);
            self.trip(scope, action.mode(), cause, event, out);
        }
    }

    /// Carries every latching action of a judgement out.
    pub(super) fn carry_out(&mut self, j: &Judgement, event: Option<&Event>, out: &mut Effects) {
        for (scope, mode, cause) in j.trips() {
            self.trip(scope, mode, cause, event, out);
        }
    }

    fn trip(&mut self, scope: Scope, mode: Mode, cause: Denial, event: Option<&Event>, out: &mut Effects) {
        let Some(slot) = self.universe.slot(scope) else { return };
        if self.scopes[slot].mode < mode {
            self.scopes[slot].mode = mode;
            let (session, seq) = event.map_or((SessionId::UNKNOWN, 0), |e| (e.session, e.seq));
            out.push(Effect::Trip(Trip { scope, mode, cause, session, seq }));
        }
    }

    /// Warns if the change from `before` to `after` reached a warning level of `limit`.
    pub(super) fn warn(
        &self,
        rule: Rule,
        scope: Scope,
        (before, after): (i64, i64),
        limit: i64,
        limits: &ScopeLimits,
        out: &mut Effects,
    ) {
        if limit == UNLIMITED || limit <= 0 {
            return;
        }
        let mut reached = 0;
        for percent in limits.warn[rule as usize] {
            let level = threshold(limit, percent);
            if percent > 0 && before < level && after >= level {
                reached = percent;
            }
        }
        if reached > 0 {
            let at = Denial { rule, why: Why::Breach, scope, observed: after, limit };
            out.push(Effect::Warn(Warn { at, percent: reached }));
        }
    }

    /// The event's clock skew in ns if it is beyond the session's bound.
    pub(super) fn skew_beyond(&self, event: &Event, now: Now) -> Option<i64> {
        let limits = self.table.at(self.session_base + usize::from(event.session.0));
        if limits.clock_skew_ns == UNLIMITED {
            return None;
        }
        let UnixNanos(sent) = event.sent_at;
        let skew = i128::from(sent) - i128::from(now.unix.0);
        let skew = skew.clamp(-i128::from(REPRESENTABLE_MAX), i128::from(REPRESENTABLE_MAX)) as i64;
        (limits.clock_skew_ns == 0 || sent == 0 || skew.abs() > limits.clock_skew_ns).then_some(skew)
    }

    /// How old the reference of `instrument` is, and whether that is too old.
    pub(super) fn reference_state(&self, instrument: InstrumentId, now: MonoNanos) -> Option<(Why, i64, i64)> {
        let reference = &self.references[instrument.0 as usize];
        let most = self.table.reference_age(instrument);
        if !reference.known {
            return Some((Why::ReferenceMissing, 0, clip(most)));
        }
        let age = now.since(reference.at);
        (age > most).then_some((Why::ReferenceStale, clip(age), clip(most)))
    }

    /// The same for the rate of the instrument's currency.
    pub(super) fn fx_state(&self, currency: CurrencyId, now: MonoNanos) -> Option<(Why, i64, i64)> {
        if currency.0 == 0 {
            return None;
        }
        let fx = &self.fx[usize::from(currency.0)];
        let most = self.table.fx_age(currency);
        if fx.rate == 0 {
            return Some((Why::FxMissing, 0, clip(most)));
        }
        let age = now.since(fx.at);
        (age > most).then_some((Why::FxStale, clip(age), clip(most)))
    }
}

/// Whether a new order counts at a meter of this kind.
#[inline]
pub(super) const fn counts_new(of: RateOf) -> bool {
    matches!(of, RateOf::Orders | RateOf::Messages)
}

/// Whether any gauge is beyond its first threshold; `volume`: what a day's quantity is compared with.
#[inline]
fn may_reach(gauges: &Gauges, hot: &HotProfile, volume: Option<i64>) -> bool {
    let day = Gauge::DayQty as usize;
    let beyond = gauges[..day].iter().zip(&hot.soft).fold(false, |any, (gauge, soft)| any | (gauge > soft));
    let of_day = |volume| participates_more(gauges[day], volume, hot.soft[day]);
    beyond || (hot.armed & armed::DAY != 0 && volume.is_some_and(of_day))
}

/// Adds an anomaly.
pub(super) fn anomaly(out: &mut Effects, kind: AnomalyKind, event: &Event, id: u64, detail: i64) {
    out.push(Effect::Anomaly(Anomaly { kind, session: event.session, seq: event.seq, id, detail }));
}

/// The verdict on `event`.
pub(super) fn verdict(event: &Event, denial: Option<Denial>, checks: u64) -> Verdict {
    Verdict { session: event.session, seq: event.seq, id: event.id, kind: event.kind, denial, checks }
}

/// A `u64` as an observed value.
pub(super) fn clip(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX).min(REPRESENTABLE_MAX)
}

/// The target that an action names.
pub(super) const fn target_of(action: Action) -> Target {
    match action {
        Action::Deny => Target::Own,
        Action::ReduceOnly(target) | Action::Halt(target) => target,
    }
}

/// The scope that `target` means for a breach at `own`.
pub(super) fn resolve(target: Target, own: Scope, targets: &Targets) -> Scope {
    let own = match own {
        Scope::Pair(strategy, _) => Scope::Strategy(strategy),
        other => other,
    };
    match target {
        Target::Firm => Scope::Firm,
        Target::Own => own,
        Target::Account => targets.account.map_or(own, Scope::Account),
        Target::Strategy => targets.strategy.map_or(own, Scope::Strategy),
        Target::Instrument => targets.instrument.map_or(own, Scope::Instrument),
        Target::Session => targets.session.map_or(own, Scope::Session),
    }
}

#[cfg(test)]
mod tests;
