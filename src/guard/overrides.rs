//! Overrides: one limit has another number for a while, because somebody said so. Who, why, until when, and who agreed; time
//! is an argument, nothing is read or written here.
//!
//! ```text
//!        raises, where two people are needed            time is over │ taken back │ replaced │ the file changed
//!  ask ─────────────────────────────────────▶ pending ─┐                                 ▲
//!   │                                          │   │   └─ another person agrees ─▶ active ┴▶ ended
//!   └── lowers, or one person suffices ────────┼───┼────────────────────────────────▲
//!                                              │   └─ halted or re-armed in between ─▶ void
//!                                              └─ nobody agreed in time ─▶ lapsed
//! ```
//!
//! Raising needs what re-arming the scope needs. A change raises if it is above what is in force now or above what the
//! configuration says: prolonging a raise is one, and so is taking back an override that lowers. The end of its time needs
//! nobody. What a restart finds goes on only as far as it is known to be right ([`Book::restore`]).

use core::fmt;
use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::kill::words::{self, ScopeName};
use crate::limits::overlay::{Change, Overlay, number, rate_of, windows};
use crate::limits::{DuplicateLimit, LimitTable, UNLIMITED};
use crate::model::rule::{Unit, applies};
use crate::model::{Rule, Scope, ScopeKind, Universe};
use crate::units::{MonoNanos, Now, parse_decimal};

/// The most overrides that are active or wait at once.
pub const OVERRIDES_MAX: usize = 64;
/// Overrides that are over and still shown.
const ENDED_KEPT: usize = 64;
/// The widest collar or participation, as in the configuration.
const BPS_MAX: i64 = 1_000_000;
/// The largest count of a rate, as in the configuration.
const RATE_MAX: i64 = 100_000;
/// The longest silence or skew, as in the configuration: a week.
const SPAN_MAX: i64 = 7 * 86_400_000_000_000;

/// What overrides take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverridePolicy {
    /// The longest that one may last, in ns.
    pub longest_ns: u64,
    /// Where raising needs a second person, by [`ScopeKind`]; a pair is as its strategy.
    pub two_people: [bool; ScopeKind::ALL.len()],
    /// How long a request waits for the second person, in ns.
    pub expiry_ns: u64,
}

/// Which limit is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// At which scope.
    pub scope: Scope,
    /// Which rule.
    pub rule: Rule,
    /// Of a rate: which of its windows, in ns.
    pub window_ns: Option<u64>,
}

/// What somebody asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Which limit.
    pub place: Place,
    /// Its number, in the rule's unit.
    pub value: i64,
    /// For how long, in ns.
    pub for_ns: u64,
    /// Who.
    pub actor: String,
    /// Why.
    pub reason: String,
}

/// What the limits are when something is asked.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// All names.
    pub universe: &'a Universe,
    /// As configured.
    pub configured: &'a LimitTable,
    /// As in force.
    pub in_effect: &'a LimitTable,
    /// What overrides may reach at most.
    pub ceilings: Option<&'a LimitTable>,
    /// The latest epoch of a halt or re-arm that concerns the scope.
    pub epoch: u64,
}

/// How an override ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// Its time was over.
    Expired,
    /// Somebody took it back.
    Removed,
    /// Another one of the same limit took its place.
    Replaced,
    /// The file has another number there now, so what it was raised from is gone.
    FileChanged,
    /// It is above a ceiling, or its scope or rule is gone.
    NoLongerPossible,
    /// Nobody agreed in time.
    Lapsed,
    /// The scope was halted or re-armed before anybody agreed.
    Void,
}

impl Ended {
    /// In a word.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Ended::Expired => "expired",
            Ended::Removed => "removed",
            Ended::Replaced => "replaced",
            Ended::FileChanged => "file_changed",
            Ended::NoLongerPossible => "no_longer_possible",
            Ended::Lapsed => "lapsed",
            Ended::Void => "void",
        }
    }
}

/// Where an override is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Waits for a second person.
    Pending,
    /// In force.
    Active,
    /// Over.
    Ended(Ended),
}

/// Somebody wants an override taken back that lowers, and another person has to agree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removal {
    /// Who.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// Until when a second person may agree.
    pub expires: MonoNanos,
    /// See [`View::epoch`].
    pub epoch: u64,
}

/// One override.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Override {
    /// Never used twice.
    pub id: u64,
    /// At which scope.
    pub scope: ScopeName,
    /// Which rule.
    pub rule: String,
    /// Of a rate: which window, in ns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window_ns: Option<u64>,
    /// Its number, in the rule's unit.
    pub value: i64,
    /// What was configured when it was asked for.
    pub configured: i64,
    /// Whether it is above what was configured or in force when it was asked for.
    pub raises: bool,
    /// Who asked.
    pub by: String,
    /// Why.
    pub reason: String,
    /// When, Unix ns.
    pub asked: u64,
    /// For how long, in ns.
    pub for_ns: u64,
    /// The second person, where there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agreed_by: Option<String>,
    /// What that one said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agreed_reason: Option<String>,
    /// Since when it is in force, Unix ns; 0: not yet.
    pub since: u64,
    /// Until when, Unix ns; 0: not in force yet.
    pub until: u64,
    /// Where it is.
    pub state: State,
    /// The end, or a pending one's, by the monotonic clock: a wall clock that is put back prolongs nothing.
    #[serde(skip)]
    deadline: MonoNanos,
    /// See [`View::epoch`]; of a pending one.
    #[serde(skip)]
    epoch: u64,
    /// Somebody wants it taken back, and waits for another person.
    #[serde(skip)]
    pub removal: Option<Removal>,
}

impl Override {
    /// One whose record was lost, and of which only this is known. For [`Book::restore`].
    #[must_use]
    pub fn kept(
        id: u64,
        universe: &Universe,
        place: Place,
        value: i64,
        configured: i64,
        until: u64,
        now: Now,
    ) -> Override {
        Override {
            id,
            scope: ScopeName::of(universe, place.scope),
            rule: place.rule.name().to_owned(),
            window_ns: place.window_ns,
            value,
            configured,
            raises: false,
            by: "haltline".to_owned(),
            reason: "kept from the journal: the record of overrides was lost".to_owned(),
            asked: now.unix.0,
            for_ns: until.saturating_sub(now.unix.0),
            agreed_by: None,
            agreed_reason: None,
            since: now.unix.0,
            until,
            state: State::Active,
            deadline: now.mono,
            epoch: 0,
            removal: None,
        }
    }

    /// The limit that it is about, if the configuration has it.
    #[must_use]
    pub fn place(&self, universe: &Universe) -> Option<Place> {
        let scope = self.scope.find(universe)?;
        Some(Place { scope, rule: Rule::from_name(&self.rule)?, window_ns: self.window_ns })
    }

    /// Whether it is in force.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.state == State::Active
    }

    /// What is left of its time, or of the time to agree, in ns.
    #[must_use]
    pub fn left_ns(&self, now: Now) -> u64 {
        self.deadline.since(now.mono)
    }

    /// Whether taking it back would raise the limit.
    #[must_use]
    pub fn lowers(&self, configured: i64) -> bool {
        self.value < configured
    }
}

/// Why something was refused. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// No reason was given.
    NoReason,
    /// There is no such limit: the rule has no number at this scope.
    NoSuchLimit,
    /// It is a rate with these windows, in ns, and none of them was named.
    WhichWindow(Vec<u64>),
    /// The number is beyond what the rule can have.
    OutOfRange {
        /// The least.
        min: i64,
        /// The most.
        max: i64,
    },
    /// Longer than an override may last, in ns.
    TooLong(u64),
    /// Above the ceiling.
    AboveCeiling(i64),
    /// Too many are active or wait.
    TooMany,
    /// No override with this number.
    Unknown,
    /// It does not wait for anybody.
    NotPending,
    /// It is not in force.
    NotActive,
    /// The second person must be another one.
    SamePerson,
    /// The scope was halted or re-armed since it was asked for.
    Void,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::NoReason => f.write_str("a change of limits needs a reason"),
            Refused::NoSuchLimit => f.write_str("the rule has no number at this scope"),
            Refused::WhichWindow(all) => write!(f, "needs the window of the rate, in ns: one of {all:?}"),
            Refused::OutOfRange { min, max } => write!(f, "must be from {min} to {max}, in the rule's smallest unit"),
            Refused::TooLong(longest) => write!(f, "must not last longer than {} s", longest / 1_000_000_000),
            Refused::AboveCeiling(ceiling) => write!(f, "the ceiling is {ceiling}, in the rule's smallest unit"),
            Refused::TooMany => write!(f, "at most {OVERRIDES_MAX} overrides at once"),
            Refused::Unknown => f.write_str("no override with this number is remembered"),
            Refused::NotPending => f.write_str("it does not wait for anybody"),
            Refused::NotActive => f.write_str("it is not in force"),
            Refused::SamePerson => f.write_str("the second person must be another one than the first"),
            Refused::Void => f.write_str("the scope was halted or re-armed since it was asked for"),
        }
    }
}

/// The number of `rule` at `scope` in what a person writes, in the unit that [`words::value`] shows; a span of time in
/// seconds.
///
/// # Errors
/// What is wrong with the text.
pub fn parse_value(universe: &Universe, place: &Place, text: &str) -> Result<i64, String> {
    let instrument = match place.scope {
        Scope::Instrument(i) | Scope::Pair(_, i) => universe.instruments.get(i.0 as usize),
        Scope::Firm | Scope::Account(_) | Scope::Strategy(_) | Scope::Session(_) => None,
    };
    let scale = match place.rule.unit() {
        Unit::Qty => instrument.map_or(0, |i| i.qty_scale),
        Unit::Px => instrument.map_or(0, |i| i.px_scale),
        Unit::Notional => universe.base_scale,
        Unit::Nanos => 9,
        Unit::Bps | Unit::Count | Unit::Seq | Unit::Mode | Unit::None => 0,
    };
    parse_decimal(text, scale).map_err(|error| error.rule().to_owned())
}

fn range(rule: Rule) -> (i64, i64) {
    if rate_of(rule).is_some() {
        return (0, RATE_MAX);
    }
    match (rule, rule.unit()) {
        (Rule::DuplicateOrder, _) => (0, i64::from(DuplicateLimit::MAX_COUNT)),
        (_, Unit::Bps) => (0, BPS_MAX),
        (_, Unit::Nanos) => (1_000, SPAN_MAX),
        (_, Unit::Qty | Unit::Px | Unit::Notional | Unit::Count | Unit::Seq | Unit::Mode | Unit::None) => {
            (0, UNLIMITED - 1)
        }
    }
}

/// All overrides: those in force, those that wait, and the last that are over.
#[derive(Clone, Debug)]
pub struct Book {
    policy: OverridePolicy,
    next_id: u64,
    list: VecDeque<Override>,
}

impl Book {
    /// None yet. `next_id` is above every number that was ever given.
    #[must_use]
    pub fn new(policy: OverridePolicy, next_id: u64) -> Book {
        Book { policy, next_id, list: VecDeque::new() }
    }

    /// The number that the next one gets.
    #[must_use]
    pub fn next_id(&self) -> u64 {
        self.next_id
    }

    /// Takes a number, for something else that must not share one with an override.
    pub fn take_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id - 1
    }

    /// All that are remembered, newest first.
    pub fn iter(&self) -> impl Iterator<Item = &Override> {
        self.list.iter().rev()
    }

    /// Those in force.
    pub fn active(&self) -> impl Iterator<Item = &Override> {
        self.list.iter().filter(|o| o.is_active())
    }

    /// The one with this number.
    #[must_use]
    pub fn get(&self, id: u64) -> Option<&Override> {
        self.list.iter().find(|o| o.id == id)
    }

    /// What is over the configuration's limits, and until when (Unix ns).
    #[must_use]
    pub fn overlays(&self, universe: &Universe) -> Vec<(Overlay, u64)> {
        let overlay = |o: &Override| {
            let Place { scope, rule, window_ns } = o.place(universe)?;
            let change = Change::Set { rule, window_ns, value: o.value };
            Some((Overlay { id: o.id, scope, change }, o.until))
        };
        self.active().filter_map(overlay).collect()
    }

    fn needs_two(&self, scope: Scope) -> bool {
        let kind = match scope.kind() {
            ScopeKind::Pair => ScopeKind::Strategy,
            kind => kind,
        };
        self.policy.two_people[kind as usize]
    }

    /// Asks for an override. Where one person suffices it is in force at once.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn ask(&mut self, ask: &Ask, view: View<'_>, now: Now) -> Result<Override, Refused> {
        let (actor, reason) = (words::clean(&ask.actor), words::clean(&ask.reason));
        if reason.is_empty() {
            return Err(Refused::NoReason);
        }
        let Place { scope, rule, window_ns } = ask.place;
        let limits = view.configured.scope(view.universe, scope).ok_or(Refused::NoSuchLimit)?;
        if !applies(rule, scope.kind()) {
            return Err(Refused::NoSuchLimit);
        }
        let Some(configured) = number(limits, rule, window_ns) else {
            let all: Vec<u64> = windows(limits, rule).collect();
            return Err(if all.is_empty() { Refused::NoSuchLimit } else { Refused::WhichWindow(all) });
        };
        let (min, max) = range(rule);
        if !(min..=max).contains(&ask.value) {
            return Err(Refused::OutOfRange { min, max });
        }
        if ask.for_ns == 0 || ask.for_ns > self.policy.longest_ns {
            return Err(Refused::TooLong(self.policy.longest_ns));
        }
        if let Some(ceiling) = ceiling(view, ask.place).filter(|ceiling| ask.value > *ceiling) {
            return Err(Refused::AboveCeiling(ceiling));
        }
        let live = |o: &&Override| !matches!(o.state, State::Ended(_));
        if self.list.iter().filter(live).count() >= OVERRIDES_MAX {
            return Err(Refused::TooMany);
        }
        let in_force = self.at(view.universe, ask.place).map_or(configured, |o| o.value);
        let raises = ask.value > configured || ask.value > in_force;
        let mut new = Override {
            id: self.take_id(),
            scope: ScopeName::of(view.universe, scope),
            rule: rule.name().to_owned(),
            window_ns,
            value: ask.value,
            configured,
            raises,
            by: actor,
            reason,
            asked: now.unix.0,
            for_ns: ask.for_ns,
            agreed_by: None,
            agreed_reason: None,
            since: 0,
            until: 0,
            state: State::Pending,
            deadline: MonoNanos(now.mono.0.saturating_add(self.policy.expiry_ns)),
            epoch: view.epoch,
            removal: None,
        };
        if raises && self.needs_two(scope) {
            self.push(new.clone());
            return Ok(new);
        }
        self.begin(&mut new, now);
        self.push(new.clone());
        Ok(new)
    }

    /// The override of a limit that is in force.
    fn at(&self, universe: &Universe, place: Place) -> Option<&Override> {
        self.active().find(|o| o.place(universe) == Some(place))
    }

    /// Puts `new` in force; another one of the same limit ends.
    fn begin(&mut self, new: &mut Override, now: Now) {
        for old in self.list.iter_mut().filter(|o| o.id != new.id && o.is_active()) {
            if (&old.scope, &old.rule, old.window_ns) == (&new.scope, &new.rule, new.window_ns) {
                old.state = State::Ended(Ended::Replaced);
                old.removal = None;
            }
        }
        new.state = State::Active;
        new.since = now.unix.0;
        new.until = now.unix.0.saturating_add(new.for_ns);
        new.deadline = MonoNanos(now.mono.0.saturating_add(new.for_ns));
    }

    fn push(&mut self, new: Override) {
        self.list.push_back(new);
        self.forget();
    }

    /// Drops the oldest that are over, beyond those that are kept.
    fn forget(&mut self) {
        let over = |o: &Override| matches!(o.state, State::Ended(_));
        while self.list.iter().filter(|o| over(o)).count() > ENDED_KEPT {
            match self.list.iter().position(over) {
                Some(oldest) => drop(self.list.remove(oldest)),
                None => return,
            }
        }
    }

    /// A second person agrees: to an override that waits, or to one being taken back.
    ///
    /// # Errors
    /// See [`Refused`]. A request that turns out to be void is so from then on.
    pub fn agree(&mut self, id: u64, actor: &str, reason: &str, view: View<'_>, now: Now) -> Result<Override, Refused> {
        let (actor, reason) = (words::clean(actor), words::clean(reason));
        if reason.is_empty() {
            return Err(Refused::NoReason);
        }
        self.expire(now);
        let at = self.list.iter().position(|o| o.id == id).ok_or(Refused::Unknown)?;
        let mut one = self.list[at].clone();
        match (&one.state, one.removal.clone()) {
            (State::Pending, _) if one.by == actor => return Err(Refused::SamePerson),
            (State::Pending, _) if one.epoch != view.epoch => {
                self.list[at].state = State::Ended(Ended::Void);
                return Err(Refused::Void);
            }
            (State::Pending, _) => {
                // The ceiling may have come down in the meantime.
                let place = one.place(view.universe).ok_or(Refused::NoSuchLimit)?;
                if let Some(ceiling) = ceiling(view, place).filter(|ceiling| one.value > *ceiling) {
                    return Err(Refused::AboveCeiling(ceiling));
                }
                one.agreed_by = Some(actor);
                one.agreed_reason = Some(reason);
                self.begin(&mut one, now);
            }
            (State::Active, Some(removal)) if removal.actor == actor => return Err(Refused::SamePerson),
            (State::Active, Some(removal)) if removal.epoch != view.epoch => {
                self.list[at].removal = None;
                return Err(Refused::Void);
            }
            (State::Active, Some(_)) => {
                one.state = State::Ended(Ended::Removed);
                one.removal = None;
            }
            (State::Active | State::Ended(_), _) => return Err(Refused::NotPending),
        }
        self.list[at] = one.clone();
        self.forget();
        Ok(one)
    }

    /// Takes an override back. One that lowers its limit stays until another person agrees, where raising needs two.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn remove(
        &mut self,
        id: u64,
        actor: &str,
        reason: &str,
        view: View<'_>,
        now: Now,
    ) -> Result<Override, Refused> {
        let (actor, reason) = (words::clean(actor), words::clean(reason));
        if reason.is_empty() {
            return Err(Refused::NoReason);
        }
        self.expire(now);
        let at = self.list.iter().position(|o| o.id == id).ok_or(Refused::Unknown)?;
        let one = &self.list[at];
        let lowers = one.place(view.universe).is_some_and(|place| {
            let limits = view.configured.scope(view.universe, place.scope);
            let configured = limits.and_then(|limits| number(limits, place.rule, place.window_ns));
            configured.is_some_and(|configured| one.lowers(configured))
        });
        let two = one.scope.find(view.universe).is_none_or(|scope| self.needs_two(scope));
        let expires = MonoNanos(now.mono.0.saturating_add(self.policy.expiry_ns));
        let one = &mut self.list[at];
        match one.state {
            State::Active if lowers && two => {
                one.removal = Some(Removal { actor, reason, expires, epoch: view.epoch });
            }
            // A request that is taken back has changed nothing.
            State::Active | State::Pending => one.state = State::Ended(Ended::Removed),
            State::Ended(_) => return Err(Refused::NotActive),
        }
        let one = one.clone();
        self.forget();
        Ok(one)
    }

    /// Ends what is over by now; returns it. Requests to take one back that nobody agreed to are dropped.
    pub fn expire(&mut self, now: Now) -> Vec<Override> {
        let mut over = Vec::new();
        for one in &mut self.list {
            let ended = match one.state {
                State::Pending if now.mono >= one.deadline => Ended::Lapsed,
                // Either clock: the wall clock may have been put back, the monotonic one may have slept.
                State::Active if now.mono >= one.deadline || now.unix.0 >= one.until => Ended::Expired,
                State::Pending | State::Active | State::Ended(_) => {
                    if one.removal.as_ref().is_some_and(|removal| now.mono >= removal.expires) {
                        one.removal = None;
                    }
                    continue;
                }
            };
            one.state = State::Ended(ended);
            one.removal = None;
            over.push(one.clone());
        }
        self.forget();
        over
    }

    /// Ends what the configuration as it is now leaves no room for; returns it. A raise of a limit whose number in the file
    /// has changed since ends: nobody has agreed to that much above the new one. One that lowers stays.
    pub fn reconcile(&mut self, view: View<'_>) -> Vec<Override> {
        let mut over = Vec::new();
        for one in self.list.iter_mut().filter(|o| !matches!(o.state, State::Ended(_))) {
            let place = one.place(view.universe);
            let configured = place.and_then(|place| {
                let limits = view.configured.scope(view.universe, place.scope)?;
                number(limits, place.rule, place.window_ns)
            });
            let too_high = place.and_then(|place| ceiling(view, place)).is_some_and(|ceiling| one.value > ceiling);
            let ended = match configured {
                None => Ended::NoLongerPossible,
                Some(_) if too_high => Ended::NoLongerPossible,
                Some(configured) if configured != one.configured && one.value > configured => Ended::FileChanged,
                Some(_) => continue,
            };
            one.state = State::Ended(ended);
            one.removal = None;
            over.push(one.clone());
        }
        self.forget();
        over
    }

    /// Takes up what was in force at the end of another run. What is over by now ends; of a clock that is behind the time
    /// at which an override began nothing can be concluded, so one that raises ends, and one that lowers has its whole time
    /// again. Call [`Book::reconcile`] afterwards.
    pub fn restore(&mut self, list: Vec<Override>, now: Now) -> Vec<Override> {
        let mut over = Vec::new();
        for mut one in list.into_iter().take(OVERRIDES_MAX) {
            self.next_id = self.next_id.max(one.id.saturating_add(1));
            let for_ns = one.for_ns.min(self.policy.longest_ns);
            let left = match now.unix.0 < one.since {
                true if one.value > one.configured => 0,
                true => for_ns,
                false => one.until.saturating_sub(now.unix.0).min(for_ns),
            };
            one.deadline = MonoNanos(now.mono.0.saturating_add(left));
            one.until = now.unix.0.saturating_add(left);
            one.state = State::Active;
            if left == 0 {
                one.state = State::Ended(Ended::Expired);
                over.push(one.clone());
            }
            self.list.push_back(one);
        }
        self.forget();
        over
    }
}

/// The ceiling of a limit, if it has one.
fn ceiling(view: View<'_>, place: Place) -> Option<i64> {
    let limits = view.ceilings?.scope(view.universe, place.scope)?;
    number(limits, place.rule, place.window_ns).filter(|ceiling| *ceiling < UNLIMITED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kill::testing::universe;
    use crate::limits::{Gauge, RateKind, RateLimit, RateOf};
    use crate::model::Action;
    use crate::units::{StrategyId, UnixNanos};

    const ALPHA: Scope = Scope::Strategy(StrategyId(0));
    const MINUTE: u64 = 60_000_000_000;
    const UNIX: u64 = 1_800_000_000_000_000_000;

    fn at(ns: u64) -> Now {
        Now { mono: MonoNanos(ns), unix: UnixNanos(UNIX + ns) }
    }

    struct World {
        universe: Universe,
        configured: LimitTable,
        ceilings: Option<LimitTable>,
        epoch: u64,
        book: Book,
    }

    impl World {
        fn new(two: bool) -> World {
            let universe = universe();
            let mut configured = LimitTable::unlimited(&universe);
            let alpha = configured.edit(&universe, ALPHA);
            alpha.max[Gauge::Gross as usize] = 100;
            let (of, kind, action) = (RateOf::Orders, RateKind::Sliding, Action::Deny);
            alpha.rates.push(RateLimit { of, kind, count: 10, window_ns: 1_000, action });
            let mut two_people = [false; ScopeKind::ALL.len()];
            two_people[ScopeKind::Strategy as usize] = two;
            let policy = OverridePolicy { longest_ns: 60 * MINUTE, two_people, expiry_ns: 10 * MINUTE };
            World { universe, configured, ceilings: None, epoch: 7, book: Book::new(policy, 1) }
        }

        fn with<T>(&mut self, call: impl FnOnce(&mut Book, View<'_>) -> T) -> T {
            let overlays: Vec<Overlay> = self.book.overlays(&self.universe).into_iter().map(|(o, _)| o).collect();
            let in_effect = crate::limits::overlay::in_effect(&self.configured, &self.universe, &overlays);
            let (universe, configured, ceilings) = (&self.universe, &self.configured, self.ceilings.as_ref());
            call(&mut self.book, View { universe, configured, in_effect: &in_effect, ceilings, epoch: self.epoch })
        }

        fn ask(&mut self, value: i64, minutes: u64, actor: &str, now: u64) -> Result<Override, Refused> {
            let place = Place { scope: ALPHA, rule: Rule::GrossExposure, window_ns: None };
            let ask = Ask { place, value, for_ns: minutes * MINUTE, actor: actor.into(), reason: "why".into() };
            self.with(|book, view| book.ask(&ask, view, at(now)))
        }

        fn agree(&mut self, id: u64, actor: &str, now: u64) -> Result<Override, Refused> {
            self.with(|book, view| book.agree(id, actor, "seen", view, at(now)))
        }

        fn remove(&mut self, id: u64, actor: &str, now: u64) -> Result<Override, Refused> {
            self.with(|book, view| book.remove(id, actor, "over", view, at(now)))
        }

        fn gross(&mut self) -> i64 {
            let universe = universe();
            self.with(|_, view| view.in_effect.scope(&universe, ALPHA).unwrap().of(Gauge::Gross))
        }
    }

    #[test]
    fn a_raise_takes_two_and_a_cut_takes_one() {
        let mut w = World::new(true);
        let asked = w.ask(200, 5, "rita", 0).unwrap();
        assert_eq!((asked.state.clone(), w.gross()), (State::Pending, 100));
        assert_eq!(w.agree(asked.id, "rita", 1), Err(Refused::SamePerson));
        assert!(w.agree(asked.id, "ruth", 2).unwrap().is_active());
        assert_eq!(w.gross(), 200);
        // Less than now, and still more than what is configured: it would prolong the raise.
        assert_eq!(w.ask(150, 60, "rita", 3).unwrap().state, State::Pending);
        // Less than both: at once, in the place of the raise.
        assert!(w.ask(50, 5, "rita", 4).unwrap().is_active());
        assert_eq!(w.gross(), 50);
        assert_eq!(w.book.get(asked.id).unwrap().state, State::Ended(Ended::Replaced));
    }

    #[test]
    fn taking_a_cut_back_is_a_raise_and_taking_a_raise_back_is_not() {
        let mut w = World::new(true);
        let cut = w.ask(50, 5, "rita", 0).unwrap().id;
        let one = w.remove(cut, "rita", 1).unwrap();
        assert!(one.is_active() && one.removal.is_some());
        assert_eq!(w.agree(cut, "rita", 2), Err(Refused::SamePerson));
        assert_eq!(w.gross(), 50);
        assert!(!w.agree(cut, "ruth", 3).unwrap().is_active());
        assert_eq!(w.gross(), 100);
        let raise = w.ask(200, 5, "rita", 4).unwrap().id;
        w.agree(raise, "ruth", 5).unwrap();
        assert_eq!(w.remove(raise, "rita", 6).unwrap().state, State::Ended(Ended::Removed));
        assert_eq!(w.gross(), 100);
        assert_eq!(w.remove(raise, "rita", 7), Err(Refused::NotActive));
    }

    #[test]
    fn it_ends_by_itself_by_either_clock() {
        let mut w = World::new(false);
        w.ask(200, 5, "rita", 0).unwrap();
        assert!(w.book.expire(at(5 * MINUTE - 1)).is_empty());
        assert_eq!(w.book.expire(at(5 * MINUTE)).len(), 1);
        assert_eq!(w.gross(), 100);
        w.ask(200, 5, "rita", 6 * MINUTE).unwrap();
        // A wall clock that is put back prolongs nothing; one that is put ahead (a host that slept) ends it.
        let late = |mono, unix| Now { mono: MonoNanos(mono), unix: UnixNanos(unix) };
        let mut other = w.book.clone();
        assert_eq!(w.book.expire(late(11 * MINUTE, UNIX)).len(), 1);
        assert_eq!(other.expire(late(6 * MINUTE + 1, UNIX + 11 * MINUTE)).len(), 1);
    }

    #[test]
    fn a_request_lapses_and_is_void_after_a_halt() {
        let mut w = World::new(true);
        let first = w.ask(200, 5, "rita", 0).unwrap().id;
        assert_eq!(w.agree(first, "ruth", 10 * MINUTE), Err(Refused::NotPending));
        assert_eq!(w.book.get(first).unwrap().state, State::Ended(Ended::Lapsed));
        let second = w.ask(200, 5, "rita", 0).unwrap().id;
        w.epoch = 8;
        assert_eq!(w.agree(second, "ruth", 1), Err(Refused::Void));
        assert_eq!(w.agree(second, "ruth", 2), Err(Refused::NotPending));
        assert_eq!(w.gross(), 100);
    }

    #[test]
    fn what_cannot_be_is_refused_with_what_could() {
        let mut w = World::new(false);
        let mut ceilings = LimitTable::unlimited(&w.universe);
        ceilings.edit(&w.universe, ALPHA).max[Gauge::Gross as usize] = 300;
        w.ceilings = Some(ceilings);
        assert_eq!(w.ask(301, 5, "rita", 0), Err(Refused::AboveCeiling(300)));
        assert_eq!(w.ask(300, 61, "rita", 0), Err(Refused::TooLong(60 * MINUTE)));
        assert_eq!(w.ask(300, 0, "rita", 0), Err(Refused::TooLong(60 * MINUTE)));
        assert_eq!(w.ask(-1, 5, "rita", 0), Err(Refused::OutOfRange { min: 0, max: UNLIMITED - 1 }));
        assert_eq!(w.ask(UNLIMITED, 5, "rita", 0), Err(Refused::OutOfRange { min: 0, max: UNLIMITED - 1 }));
        let mut ask = |rule, window_ns, reason: &str| {
            let place = Place { scope: ALPHA, rule, window_ns };
            let ask = Ask { place, value: 1, for_ns: MINUTE, actor: "rita".into(), reason: reason.into() };
            w.with(|book, view| book.ask(&ask, view, at(0)))
        };
        assert_eq!(ask(Rule::OrderRate, None, "why"), Err(Refused::WhichWindow(vec![1_000])));
        assert_eq!(ask(Rule::MessageRate, None, "why"), Err(Refused::NoSuchLimit));
        assert_eq!(ask(Rule::HeartbeatLoss, None, "why"), Err(Refused::NoSuchLimit));
        assert_eq!(ask(Rule::OrderRate, Some(1_000), " "), Err(Refused::NoReason));
        assert!(ask(Rule::OrderRate, Some(1_000), "why").is_ok());
    }

    #[test]
    fn a_file_that_changes_under_a_raise_ends_it_and_leaves_a_cut() {
        let mut w = World::new(false);
        let raise = w.ask(200, 5, "rita", 0).unwrap().id;
        assert!(w.with(|book, view| book.reconcile(view)).is_empty(), "nothing has changed");
        w.configured.edit(&universe(), ALPHA).max[Gauge::Gross as usize] = 60;
        assert_eq!(w.with(|book, view| book.reconcile(view)).len(), 1);
        assert_eq!(w.book.get(raise).unwrap().state, State::Ended(Ended::FileChanged));
        w.ask(30, 5, "rita", 0).unwrap();
        w.configured.edit(&universe(), ALPHA).max[Gauge::Gross as usize] = 50;
        assert!(w.with(|book, view| book.reconcile(view)).is_empty());
        assert_eq!(w.gross(), 30);
    }

    #[test]
    fn a_restart_goes_on_with_what_is_left_and_ends_what_is_over() {
        let mut w = World::new(false);
        w.ask(200, 5, "rita", 0).unwrap();
        let saved: Vec<Override> = w.book.active().cloned().collect();
        let text = serde_json::to_string(&saved).unwrap();
        let saved: Vec<Override> = serde_json::from_str(&text).unwrap();
        let restart = |saved: Vec<Override>, unix: u64| {
            let mut book = Book::new(w.book.policy, 1);
            let now = Now { mono: MonoNanos(3), unix: UnixNanos(unix) };
            let over = book.restore(saved, now).len();
            let left = book.active().next().map(|o| o.left_ns(now));
            (over, left, book.next_id() > saved_id(&book))
        };
        assert_eq!(restart(saved.clone(), UNIX + 2 * MINUTE), (0, Some(3 * MINUTE), true));
        assert_eq!(restart(saved.clone(), UNIX + 5 * MINUTE), (1, None, true));
        // A clock that was put back: it is not known how long it was.
        assert_eq!(restart(saved.clone(), UNIX - 1), (1, None, true));
        let mut cut = saved;
        cut[0].value = 50;
        assert_eq!(restart(cut, UNIX - 1), (0, Some(5 * MINUTE), true));
    }

    fn saved_id(book: &Book) -> u64 {
        book.iter().map(|o| o.id).max().unwrap()
    }

    #[test]
    fn the_list_is_bounded() {
        let mut w = World::new(false);
        for n in 0..3 * OVERRIDES_MAX as i64 {
            w.ask(n, 5, "rita", 0).unwrap();
        }
        assert_eq!(w.book.active().count(), 1, "each took the place of the one before");
        assert!(w.book.iter().count() <= ENDED_KEPT + 1);
        let mut w = World::new(true);
        for _ in 0..OVERRIDES_MAX {
            w.ask(500, 5, "rita", 0).unwrap();
        }
        assert_eq!(w.ask(500, 5, "rita", 0), Err(Refused::TooMany));
    }
}
