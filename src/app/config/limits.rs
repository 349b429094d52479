//! The section `[limits]`: what is written per table, how tables inherit, and the engine's table made of it.
//!
//! A table named `"*"` speaks for every scope of its kind; a named one starts from it and changes what it
//! states, field by field (so an action stays when only the number is changed). A pair starts from
//! `strategy/*` if that is written, else from `*/instrument`, else from `*`. What no table states is zero,
//! unless one of them says `others = "unlimited"`.
//!
//! Quantities are written in natural units (shares, contracts, coins) and mean a count of each
//! instrument's own unit, so instruments of unlike `qty_scale` get profiles of their own from one table.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::Note;
use super::file::{ANY_AGE, FileText, InstrumentText, SHORTEST_NS, WEEK_NS};
use super::reader::{Decimal, Field, Reader};
use super::violation::{Errors, Spot, join};
use crate::limits::demand::{gaps, is_demandable, rules_of};
use crate::limits::{
    DuplicateLimit, FanOutLimit, Gauge, LimitTable, MAX_RATES, RateKind, RateLimit, RateOf, ScopeLimits, SideRule,
    UNLIMITED, WarnLevels,
};
use crate::model::rule::{Unit, applies, default_action, is_numberless};
use crate::model::{Action, Rule, Scope, ScopeKind, SessionKind, Target, Universe};
use crate::units::{AccountId, DecimalError, InstrumentId, StrategyId};

/// The largest `count` of a sliding rate: it costs 8 bytes each.
const MAX_SLIDING: i64 = 100_000;
/// What all sliding rates of all scopes together may cost.
const MAX_SLIDING_BYTES: u64 = 512 << 20;
/// The largest `count` of a GCRA rate.
const MAX_GCRA: i64 = 1_000_000_000;
/// The largest burst of a GCRA rate.
const MAX_BURST: i64 = 100_000;
/// The largest `count` of a fan-out.
const MAX_FAN_OUT: i64 = 1_000_000;
/// The widest collar or participation: a hundred times the reference.
const MAX_BPS: i64 = 1_000_000;
/// The most pairs that one wildcard may be split into because of unlike quantity scales.
const MAX_SPLIT: usize = 1 << 20;

/// A number that a limit is set to.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Bound {
    Unlimited,
    /// In the rule's own unit; for the collar in basis points.
    Exact(i64),
    /// A quantity in natural units.
    Qty(Decimal),
    Rates(Vec<RateLimit>),
    Duplicate(DuplicateLimit),
    FanOut(FanOutLimit),
}

/// What the tables say about one rule; `None`: nothing.
#[derive(Clone, Debug, Default)]
pub(super) struct Stated {
    pub spot: Spot,
    pub bound: Option<Bound>,
    pub window_ns: Option<u64>,
    pub action: Option<Action>,
    pub warn: Option<WarnLevels>,
}

/// One table of limits, or several merged.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    pub spot: Spot,
    pub others_unlimited: bool,
    pub sides: Option<SideRule>,
    /// A bit per rule that is demanded, and where that is written.
    pub mandatory: Option<(u64, Spot)>,
    pub rules: BTreeMap<Rule, Stated>,
}

impl Table {
    /// `self`, changed by what `child` states.
    fn changed_by(&self, child: &Table) -> Table {
        let mut merged = self.clone();
        merged.spot = child.spot.clone();
        merged.others_unlimited |= child.others_unlimited;
        merged.sides = child.sides.or(self.sides);
        merged.mandatory = child.mandatory.clone().or_else(|| self.mandatory.clone());
        for (&rule, stated) in &child.rules {
            let Some(into) = merged.rules.get_mut(&rule) else {
                merged.rules.insert(rule, stated.clone());
                continue;
            };
            if stated.bound.is_some() {
                into.spot = stated.spot.clone();
                into.bound = stated.bound.clone();
            }
            if stated.bound.is_none() && is_numberless(rule) {
                // An action arms again what the table before had written out as unlimited.
                into.bound = None;
            }
            into.window_ns = stated.window_ns.or(into.window_ns);
            into.action = stated.action.or(into.action);
            into.warn = stated.warn.or(into.warn);
        }
        merged
    }

    /// Rules of `kind` that are zero because nothing is said about them.
    pub fn left_at_zero(&self, kind: ScopeKind) -> Vec<&'static str> {
        let unset = |rule: &Rule| {
            // A suspense limit is zero only where there is a suspense account, and an action is no number.
            let has_zero = !is_numberless(*rule) && *rule != Rule::Suspense && applies(*rule, kind);
            !self.others_unlimited && has_zero && !self.rules.contains_key(rule)
        };
        Rule::ALL.into_iter().filter(unset).map(Rule::name).collect()
    }
}

/// The tables of one kind, merged: every one is complete.
#[derive(Clone, Debug, Default)]
pub(super) struct KindTables {
    /// The table that speaks for all; the firm's only one.
    pub all: Table,
    /// Whether it is written.
    pub all_written: bool,
    /// `strategy/*` and `*/instrument` are among those of pairs.
    pub named: BTreeMap<String, Table>,
}

/// The section `[limits]`.
#[derive(Clone, Debug, Default)]
pub(super) struct LimitText {
    pub kinds: [KindTables; ScopeKind::ALL.len()],
}

impl LimitText {
    /// Reads and merges all tables.
    pub fn read(root: &mut Reader<'_>, file: &FileText) -> LimitText {
        let Some(section) = root.table("limits") else { return LimitText::default() };
        LimitText::read_from(root.errors, section, file)
    }

    /// As [`LimitText::read`], from `section`, which is written in the same way.
    pub fn read_from(errors: &Errors<'_>, mut section: Reader<'_>, file: &FileText) -> LimitText {
        let mut text = LimitText::default();
        let names = Names {
            accounts: file.accounts.iter().map(|x| &*x.name).collect(),
            strategies: file.strategies.iter().map(|x| &*x.name).collect(),
            instruments: file.instruments.iter().map(|x| &*x.name).collect(),
            sessions: file.sessions.iter().map(|x| &*x.name).collect(),
        };
        for kind in ScopeKind::ALL {
            let Some(mut of_kind) = section.table(kind.name()) else { continue };
            let tables = &mut text.kinds[kind as usize];
            if kind == ScopeKind::Firm {
                tables.all = read_table(&mut of_kind, kind, file.base_scale);
                tables.all_written = true;
                of_kind.finish();
                continue;
            }
            let mut raw = BTreeMap::new();
            for (name, field) in of_kind.entries() {
                let Some(mut table) = field.table() else { continue };
                let spot = of_kind.key_spot(name);
                check_name(errors, &spot, kind, name, &names);
                let read = read_table(&mut table, kind, file.base_scale);
                table.finish();
                raw.insert(name.to_owned(), read);
            }
            if let Some(all) = raw.remove("*") {
                tables.all = all;
                tables.all_written = true;
            }
            for (name, table) in &raw {
                let parent = match name.split_once('/') {
                    Some((strategy, instrument)) if kind == ScopeKind::Pair => {
                        let of_strategy = raw.get(&format!("{strategy}/*"));
                        let of_instrument = raw.get(&format!("*/{instrument}"));
                        let parent =
                            if instrument == "*" || strategy == "*" { None } else { of_strategy.or(of_instrument) };
                        parent.map_or_else(|| tables.all.clone(), |parent| tables.all.changed_by(parent))
                    }
                    _ => tables.all.clone(),
                };
                tables.named.insert(name.clone(), parent.changed_by(table));
            }
        }
        section.finish();
        for kind in ScopeKind::ALL {
            let tables = &text.kinds[kind as usize];
            for table in std::iter::once(&tables.all).chain(tables.named.values()) {
                check_table(errors, table);
            }
        }
        text
    }

    /// Makes the engine's table. What does not fit an instrument's scale is reported.
    pub fn build(&self, errors: &Errors<'_>, file: &FileText, universe: &Universe) -> LimitTable {
        let mut table = LimitTable::closed(universe);
        Builder { errors, file, universe, cache: HashMap::new() }.build(self, &mut table);
        for (i, instrument) in file.instruments.iter().enumerate() {
            let id = InstrumentId(i as u32);
            table.restrict(id, instrument.restricted);
            table.set_reference_age(id, instrument.reference_max_age_ns);
        }
        for (a, account) in file.accounts.iter().enumerate() {
            table.suspend(AccountId(a as u16), account.suspense);
        }
        for (s, strategy) in file.strategies.iter().enumerate() {
            table.hold_to_parents(StrategyId(s as u16), file.parents_of(strategy));
            let list = strategy.instruments.as_ref();
            let list = list.map(|list| list.iter().filter_map(|(name, _)| universe.instrument(name)).collect());
            table.permit(StrategyId(s as u16), list);
        }
        for currency in &file.currencies {
            if let Some(id) = universe.currency(&currency.name) {
                table.set_fx_age(id, currency.max_age_ns);
            }
        }
        self.check_memory(errors, universe, &table);
        table
    }

    /// Sliding rates keep a time stamp per count, at every scope.
    fn check_memory(&self, errors: &Errors<'_>, universe: &Universe, table: &LimitTable) {
        let mut per_kind = [0u64; ScopeKind::ALL.len()];
        for slot in 0..universe.scope_count() {
            let Some(scope) = universe.scope_at(slot) else { continue };
            per_kind[scope.kind() as usize] += sliding_counts(&table.at(slot).rates) * 8;
        }
        let total: u64 = per_kind.iter().sum();
        if total <= MAX_SLIDING_BYTES {
            return;
        }
        // Told at the table that costs most per scope, of the kind that costs most.
        let kind = ScopeKind::ALL.into_iter().max_by_key(|kind| per_kind[*kind as usize]).unwrap_or(ScopeKind::Firm);
        let tables = &self.kinds[kind as usize];
        let cost = |stated: &&Stated| match &stated.bound {
            Some(Bound::Rates(rates)) => sliding_counts(rates),
            _ => 0,
        };
        let stated = std::iter::once(&tables.all).chain(tables.named.values()).flat_map(|t| t.rules.values());
        if let Some(stated) = stated.max_by_key(cost) {
            let (total, max) = (total >> 20, MAX_SLIDING_BYTES >> 20);
            errors.at(
                &stated.spot,
                format!("the sliding rates of all scopes take {total} MiB, more than {max}: use kind = \"gcra\""),
            );
        }
    }

    /// Things that are allowed and still worth a look.
    pub fn notes(&self, file: &FileText, notes: &mut Vec<Note>) {
        let mut push = |field: String, text: String| notes.push(Note { field, text });
        let count = |kind| match kind {
            ScopeKind::Firm => 1,
            ScopeKind::Account => file.accounts.len(),
            ScopeKind::Strategy => file.strategies.len(),
            ScopeKind::Pair => file.strategies.len() * file.instruments.len(),
            ScopeKind::Instrument => file.instruments.len(),
            ScopeKind::Session => file.sessions.len(),
        };
        for kind in ScopeKind::ALL {
            let tables = &self.kinds[kind as usize];
            let path = join("limits", kind.name());
            if count(kind) == 0 {
                continue;
            }
            let zero = tables.all.left_at_zero(kind);
            if !tables.all_written && tables.named.is_empty() {
                push(path.clone(), "not written, so every limit is zero and every order is denied".into());
                continue;
            }
            if !zero.is_empty() && (tables.all_written || kind == ScopeKind::Firm) {
                push(tables.all.spot.path.clone(), format!("not set, so zero: {}", zero.join(", ")));
            }
            for table in tables.named.values() {
                let own = table.left_at_zero(kind);
                if !own.is_empty() && (own != zero || !tables.all_written) {
                    push(table.spot.path.clone(), format!("not set, so zero: {}", own.join(", ")));
                }
            }
        }
        let pairs = &self.kinds[ScopeKind::Pair as usize].named;
        let of_instruments: Vec<&str> = pairs.keys().filter_map(|name| name.strip_prefix("*/")).collect();
        for (name, table) in pairs {
            let Some(strategy) = name.strip_suffix("/*") else { continue };
            let spec = file.strategies.iter().find(|s| s.name == strategy);
            let trades = |instrument: &str| {
                let list = spec.and_then(|s| s.instruments.as_ref());
                list.is_none_or(|list| list.iter().any(|(name, _)| name == instrument))
            };
            let hides = |i: &&&str| trades(i) && !pairs.contains_key(&format!("{strategy}/{i}"));
            let hidden: Vec<String> = of_instruments.iter().filter(hides).map(|i| format!("*/{i}")).collect();
            if !hidden.is_empty() {
                let text = format!("goes before {}, which say nothing about its strategy then", hidden.join(", "));
                push(table.spot.path.clone(), text);
            }
        }
        let armed = |rule: Rule| {
            let arms = |table: &Table| {
                table.rules.get(&rule).is_none_or(|stated| stated.bound != Some(Bound::Unlimited))
                    && (table.rules.contains_key(&rule) || !table.others_unlimited)
            };
            ScopeKind::ALL.into_iter().filter(|kind| applies(rule, *kind) && count(*kind) > 0).any(|kind| {
                let tables = &self.kinds[kind as usize];
                arms(&tables.all) || tables.named.values().any(arms)
            })
        };
        if !armed(Rule::Collar) {
            let text = "unlimited everywhere: market orders are valued at the reference price itself";
            push("limits.*.collar".into(), text.into());
        } else if !file.sessions.iter().any(|s| s.kind == SessionKind::Reference) {
            let text = "a collar is set and no session has kind \"reference\": prices go stale, then orders are denied";
            push("sessions".into(), text.into());
        }
        if armed(Rule::OrderParticipation) || armed(Rule::DayParticipation) {
            let without = |i: &&InstrumentText| i.average_daily_volume.is_none();
            let missing = file.instruments.iter().filter(without).count();
            if missing > 0 {
                let text =
                    format!("{missing} without average_daily_volume, so participation limits deny every order in them");
                push("instruments".into(), text);
            }
        }
        let stale = file.instruments.iter().filter(|i| i.reference_max_age_ns == ANY_AGE).count();
        if stale > 0 {
            let text = format!("{stale} with reference_max_age = \"unlimited\": a price of any age is believed");
            push("instruments".into(), text);
        }
    }
}

/// What is mandatory and nowhere limited denies every order that it concerns: allowed, and worth a look before the open.
pub(super) fn coverage_notes(universe: &Universe, table: &LimitTable, notes: &mut Vec<Note>) {
    let mut per_strategy: BTreeMap<(StrategyId, u64), (InstrumentId, usize)> = BTreeMap::new();
    for gap in gaps(universe, table) {
        per_strategy.entry((gap.strategy, gap.rules)).or_insert((gap.instrument, 0)).1 += 1;
    }
    for ((strategy, rules), (first, count)) in per_strategy {
        let strategy = &universe.strategies[usize::from(strategy.0)].name;
        let names: Vec<&str> = rules_of(rules).map(Rule::name).collect();
        let (names, first) = (names.join(", "), &universe.instruments[first.0 as usize].name);
        let others = if count > 1 { format!(" and {} more", count - 1) } else { String::new() };
        let text = format!(
            "{names} mandatory, and no limit but perhaps a session's is set in {first}{others}: orders are denied"
        );
        notes.push(Note { field: join("strategies", strategy), text });
    }
}

fn sliding_counts(rates: &[RateLimit]) -> u64 {
    let one = |rate: &RateLimit| match rate.kind {
        RateKind::Sliding => u64::from(rate.count),
        RateKind::Gcra { .. } => 0,
    };
    rates.iter().map(one).sum()
}

/// What a table can be named after.
struct Names<'a> {
    accounts: HashSet<&'a str>,
    strategies: HashSet<&'a str>,
    instruments: HashSet<&'a str>,
    sessions: HashSet<&'a str>,
}

/// A named table speaks about something that exists.
fn check_name(errors: &Errors<'_>, spot: &Spot, kind: ScopeKind, name: &str, names: &Names<'_>) {
    if name == "*" {
        return;
    }
    let known = match kind {
        ScopeKind::Firm => true,
        ScopeKind::Account => names.accounts.contains(name),
        ScopeKind::Strategy => names.strategies.contains(name),
        ScopeKind::Instrument => names.instruments.contains(name),
        ScopeKind::Session => names.sessions.contains(name),
        ScopeKind::Pair => {
            let Some((s, i)) = name.split_once('/') else {
                errors.at(spot, "a pair is written \"strategy/instrument\", \"strategy/*\", \"*/instrument\" or \"*\"");
                return;
            };
            if s == "*" && i == "*" {
                errors.at(spot, "all pairs are written \"*\"");
                return;
            }
            (s == "*" || names.strategies.contains(s)) && (i == "*" || names.instruments.contains(i))
        }
    };
    if !known {
        errors.at(spot, format!("no such {}", kind.name()));
    }
}

fn read_table(table: &mut Reader<'_>, kind: ScopeKind, base_scale: Option<u8>) -> Table {
    let mut out = Table { spot: table.spot.clone(), ..Table::default() };
    out.others_unlimited = table.get("others").and_then(|f| f.word(&[("unlimited", true)])).unwrap_or(false);
    for rule in Rule::ALL {
        let possible = ScopeKind::ALL.into_iter().any(|kind| applies(rule, kind));
        if applies(rule, kind) {
            if let Some(field) = table.get(rule.name()) {
                out.rules.insert(rule, read_limit(&field, rule, kind, base_scale));
            }
        } else if possible && let Some(field) = table.misplaced(rule.name()) {
            let at: Vec<&str> =
                ScopeKind::ALL.into_iter().filter(|kind| applies(rule, *kind)).map(ScopeKind::name).collect();
            field.refuse(format!("cannot be limited per {}; possible at: {}", kind.name(), at.join(", ")));
        }
    }
    if matches!(kind, ScopeKind::Strategy | ScopeKind::Pair | ScopeKind::Instrument) {
        let words = [
            ("both", SideRule::Both),
            ("long_only", SideRule::LongOnly),
            ("no_short", SideRule::LongOnly),
            ("buy_only", SideRule::BuyOnly),
            ("sell_only", SideRule::SellOnly),
        ];
        out.sides = table.get("sides").and_then(|f| f.word(&words));
    } else if let Some(field) = table.misplaced("sides") {
        field.refuse(format!("cannot be limited per {}; possible at: strategy, pair, instrument", kind.name()));
    }
    out.mandatory = table.get("mandatory").and_then(|f| Some((read_mandatory(&f)?, f.spot.clone())));
    out
}

/// Names of rules, as bits.
fn read_mandatory(field: &Field<'_>) -> Option<u64> {
    let possible = || Rule::ALL.into_iter().filter(|rule| is_demandable(*rule)).map(Rule::name).collect::<Vec<_>>();
    let mut bits = 0;
    for (name, field) in field.strings()? {
        match Rule::ALL.into_iter().find(|rule| rule.name() == name) {
            Some(rule) if is_demandable(rule) => {
                if bits & 1 << rule as u64 != 0 {
                    field.refuse("is listed twice");
                }
                bits |= 1 << rule as u64;
            }
            Some(_) => field.refuse(format!("always runs, or judges no order; possible: {}", possible().join(", "))),
            None => field.refuse(format!("is no rule; possible: {}", possible().join(", "))),
        }
    }
    Some(bits)
}

fn rate_of(rule: Rule) -> Option<RateOf> {
    [RateOf::Orders, RateOf::Messages, RateOf::Cancels, RateOf::Denials, RateOf::Orphans]
        .into_iter()
        .find(|of| of.rule() == rule)
}

fn read_limit(field: &Field<'_>, rule: Rule, kind: ScopeKind, base_scale: Option<u8>) -> Stated {
    let mut stated = Stated { spot: field.spot.clone(), ..Stated::default() };
    // What is written about a limit is never silently zero: a number that is refused stops the start, and
    // stands here as unlimited only so that it is not reported a second time as missing.
    let refused = Some(Bound::Unlimited);
    if field.as_str() == Some("unlimited") && rule != Rule::StreamGap {
        stated.bound = Some(Bound::Unlimited);
        return stated;
    }
    if let Some(of) = rate_of(rule) {
        read_rates(field, of, kind, &mut stated);
        return stated;
    }
    if rule == Rule::FanOut {
        let Some(mut table) = field.table() else {
            stated.bound = refused;
            return stated;
        };
        let count = table.need("count", "how many orders pass in a window for each open parent");
        let count = count.and_then(|f| f.integer(0, MAX_FAN_OUT));
        let per = table.need("per", "the window, such as \"1s\"").and_then(|f| f.duration(SHORTEST_NS, WEEK_NS));
        stated.bound = match (count, per) {
            (Some(count), Some(window_ns)) => Some(Bound::FanOut(FanOutLimit { count: count as u32, window_ns })),
            _ => refused,
        };
        read_action_and_warn(&mut table, rule, kind, &mut stated);
        table.finish();
        return stated;
    }
    if rule == Rule::DuplicateOrder {
        let Some(mut table) = field.table() else {
            stated.bound = refused;
            return stated;
        };
        let count = table.need("count", "how many equal orders pass in a window");
        let count = count.map(|f| f.integer(0, i64::from(DuplicateLimit::MAX_COUNT)));
        let window = table.need("window", "how long an order is remembered");
        let window = window.map(|f| f.duration(SHORTEST_NS, WEEK_NS));
        stated.bound = match (count.flatten(), window.flatten()) {
            (Some(count), Some(window_ns)) => Some(Bound::Duplicate(DuplicateLimit { count: count as u32, window_ns })),
            _ => refused,
        };
        read_action_and_warn(&mut table, rule, kind, &mut stated);
        table.finish();
        return stated;
    }
    match field.as_table() {
        None if is_numberless(rule) => {
            field.refuse("has no number: write { action = \"...\" }");
        }
        None => stated.bound = read_bound(field, rule, base_scale).or(refused),
        Some(mut table) => {
            if !is_numberless(rule)
                && let Some(max) = table.get("max")
            {
                let unlimited = max.as_str() == Some("unlimited");
                let bound = if unlimited { None } else { read_bound(&max, rule, base_scale) };
                stated.bound = bound.or(refused);
                stated.spot.span = max.spot.span;
            }
            if rule == Rule::LossVelocity {
                stated.window_ns = table.get("window").and_then(|f| f.duration(SHORTEST_NS, WEEK_NS));
            }
            read_action_and_warn(&mut table, rule, kind, &mut stated);
            table.finish();
        }
    }
    stated
}

fn read_bound(field: &Field<'_>, rule: Rule, base_scale: Option<u8>) -> Option<Bound> {
    if rule == Rule::Collar {
        return field.basis_points(MAX_BPS).map(Bound::Exact);
    }
    match rule.unit() {
        Unit::Qty => {
            let decimal = field.decimal()?;
            if decimal.text().starts_with('-') {
                field.refuse("must not be negative");
                return None;
            }
            Some(Bound::Qty(decimal))
        }
        Unit::Notional => field.amount(base_scale?).map(Bound::Exact),
        Unit::Bps => field.basis_points(MAX_BPS).map(Bound::Exact),
        Unit::Count => field.amount(0).map(Bound::Exact),
        Unit::Nanos => field.duration(SHORTEST_NS, WEEK_NS).map(|ns| Bound::Exact(ns as i64)),
        // No rule that can be limited is counted in these.
        Unit::Px | Unit::Seq | Unit::Mode | Unit::None => None,
    }
}

fn read_rates(field: &Field<'_>, of: RateOf, kind: ScopeKind, stated: &mut Stated) {
    let fields = field.as_array().unwrap_or_else(|| vec![field.clone()]);
    if fields.is_empty() {
        field.refuse("has no window: write \"unlimited\" if that is meant");
    }
    let mut rates = Vec::new();
    for field in &fields {
        let Some(mut table) = field.table() else { continue };
        let mut one = Stated::default();
        read_action_and_warn(&mut table, of.rule(), kind, &mut one);
        if one.warn.is_some() && stated.warn.is_some() && one.warn != stated.warn {
            field.refuse("the windows of one rule share their warning levels");
        }
        stated.warn = stated.warn.or(one.warn);
        let gcra = table.get("kind").and_then(|f| f.word(&[("sliding", false), ("gcra", true)]));
        let burst = table.get("burst");
        let gcra = gcra.unwrap_or(false);
        let count = table.need("count", "how many per window");
        let count = count.and_then(|f| if gcra { f.integer(1, MAX_GCRA) } else { f.integer(0, MAX_SLIDING) });
        let per = table.need("per", "the window, such as \"1s\"").and_then(|f| f.duration(SHORTEST_NS, WEEK_NS));
        let kind = match (gcra, burst) {
            (false, None) => Some(RateKind::Sliding),
            (false, Some(burst)) => {
                burst.refuse("means something only with kind = \"gcra\"");
                None
            }
            (true, None) => {
                table.errors.missing(&table.spot, "burst", "a gcra rate says how many may come at once");
                None
            }
            (true, Some(burst)) => burst.integer(1, MAX_BURST).map(|n| RateKind::Gcra { burst: n as u32 }),
        };
        table.finish();
        let (Some(count), Some(window_ns), Some(kind)) = (count, per, kind) else { continue };
        if let RateKind::Gcra { burst } = kind {
            // The engine works with the time that one takes, in nanoseconds, and with that of a burst.
            if window_ns < count as u64 {
                field.refuse("is faster than one per nanosecond");
            } else if (window_ns / count as u64).saturating_mul(u64::from(burst)) > WEEK_NS {
                field.refuse("takes more than 7d to make up for a burst");
            }
        }
        let action = one.action.unwrap_or(default_action(of.rule()));
        rates.push(RateLimit { of, kind, count: count as u32, window_ns, action });
    }
    // Never empty unless something was refused above.
    stated.bound = Some(Bound::Rates(rates));
}

fn read_action_and_warn(table: &mut Reader<'_>, rule: Rule, kind: ScopeKind, stated: &mut Stated) {
    stated.action = table.get("action").and_then(|f| read_action(&f, rule, kind));
    let Some(field) = table.get("warn") else { return };
    let Some(levels) = field.array() else { return };
    let mut warn: WarnLevels = [0; 5];
    if levels.len() > warn.len() {
        field.refuse("has more than 5 levels");
        return;
    }
    let mut before = 0;
    for (place, level) in warn.iter_mut().zip(&levels) {
        let Some(percent) = level.integer(1, 99) else { return };
        if percent <= before {
            level.refuse("the levels must ascend");
            return;
        }
        before = percent;
        *place = percent as u8;
    }
    stated.warn = Some(warn);
}

const TARGETS: [Target; 6] =
    [Target::Own, Target::Firm, Target::Account, Target::Strategy, Target::Instrument, Target::Session];

/// How an action is written.
pub(super) fn action_word(action: Action) -> String {
    let (word, target) = match action {
        Action::Deny => return "deny".into(),
        Action::ReduceOnly(target) => ("reduce_only", target),
        Action::Halt(target) => ("halt", target),
    };
    if target == Target::Own { word.into() } else { format!("{word}:{}", target.name()) }
}

fn read_action(field: &Field<'_>, rule: Rule, kind: ScopeKind) -> Option<Action> {
    let text = field.string()?;
    let (word, target) = text.split_once(':').map_or((text, None), |(word, target)| (word, Some(target)));
    let target = match target {
        None => Some(Target::Own),
        Some(name) => TARGETS.into_iter().find(|t| t.name() == name),
    };
    let action = match (word, target) {
        ("deny", Some(Target::Own)) if !text.contains(':') => Action::Deny,
        ("reduce_only", Some(target)) => Action::ReduceOnly(target),
        ("halt", Some(target)) => Action::Halt(target),
        _ => {
            field.refuse(
                "must be deny, reduce_only or halt, the last two optionally with a scope: halt:firm, :account, \
                 :strategy, :instrument, :session",
            );
            return None;
        }
    };
    // These are judged without an order at hand, so the target must follow from the scope itself.
    let judged_alone = matches!(
        rule,
        Rule::HeartbeatLoss | Rule::ClockSkew | Rule::StreamGap | Rule::DailyLoss | Rule::Drawdown | Rule::LossVelocity
    );
    let follows = |target| match target {
        Target::Own | Target::Firm => true,
        Target::Account => matches!(kind, ScopeKind::Account | ScopeKind::Strategy),
        Target::Strategy => kind == ScopeKind::Strategy,
        Target::Instrument => kind == ScopeKind::Instrument,
        Target::Session => kind == ScopeKind::Session,
    };
    if let Action::Halt(target) | Action::ReduceOnly(target) = action
        && judged_alone
        && !follows(target)
    {
        field.refuse(format!("no {} belongs to this {} when the rule fires", target.name(), kind.name()));
        return None;
    }
    Some(action)
}

/// What only shows when the tables are merged.
fn check_table(errors: &Errors<'_>, table: &Table) {
    let mut rates = 0;
    for (&rule, stated) in &table.rules {
        match &stated.bound {
            None if !is_numberless(rule) => {
                errors.missing(&stated.spot, "max", "the number is needed here or in the table this one starts from");
            }
            Some(Bound::Rates(list)) => rates += list.len(),
            Some(Bound::Exact(n)) if rule == Rule::LossVelocity && *n > 0 && stated.window_ns.is_none() => {
                errors.missing(&stated.spot, "window", "how far back a loss is measured, such as \"60s\"");
            }
            _ => {}
        }
    }
    if rates > MAX_RATES {
        errors.at(&table.spot, format!("{rates} rate windows: at most {MAX_RATES}"));
    }
}

/// The quantity unit that a scope's orders have.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum QtyUnit {
    Scale(u8),
    /// Instruments of unlike scales.
    Mixed,
    /// An instrument's scale was refused.
    Unknown,
}

struct Builder<'a> {
    errors: &'a Errors<'a>,
    file: &'a FileText,
    universe: &'a Universe,
    /// Resolved tables, by the place of the table in the text and the quantity unit.
    cache: HashMap<(usize, ScopeKind, QtyUnit), ScopeLimits>,
}

impl Builder<'_> {
    fn build(&mut self, text: &LimitText, table: &mut LimitTable) {
        let everything = self.unit_of_all();
        // Shared profiles first: the others are copies of them.
        let main = self.main_scale();
        for kind in ScopeKind::ALL {
            let tables = &text.kinds[kind as usize];
            let unit = match kind {
                ScopeKind::Pair | ScopeKind::Instrument => main,
                ScopeKind::Firm | ScopeKind::Account | ScopeKind::Strategy | ScopeKind::Session => everything,
            };
            // Nobody may have exactly this, so what is wrong with it is not told here but below.
            *table.edit_all(kind) = resolve(&tables.all, kind, |decimal, _| self.quantity(decimal, unit).unwrap_or(0));
        }
        for slot in 0..self.universe.scope_count() {
            let Some(scope) = self.universe.scope_at(slot) else { continue };
            let kind = scope.kind();
            let tables = &text.kinds[kind as usize];
            let own = if tables.named.is_empty() { None } else { tables.named.get(&self.universe.scope_name(scope)) };
            let unit = match scope {
                Scope::Instrument(i) => self.unit_of(i),
                Scope::Strategy(s) => self.unit_of_strategy(s, everything),
                Scope::Firm | Scope::Account(_) | Scope::Session(_) | Scope::Pair(..) => everything,
            };
            let mut resolved = self.resolve(own.unwrap_or(&tables.all), kind, unit);
            if let Scope::Account(account) = scope {
                self.limit_suspense(account, own.unwrap_or(&tables.all), own.is_some(), &mut resolved);
            }
            if resolved != *table.at(slot) {
                *table.edit(self.universe, scope) = resolved;
            }
        }
        self.build_pairs(&text.kinds[ScopeKind::Pair as usize], main, table);
    }

    /// Only a suspense account has a limit of what may be booked to it as one: none, if nothing is written.
    fn limit_suspense(&self, account: AccountId, table: &Table, is_own: bool, limits: &mut ScopeLimits) {
        let stated = table.rules.get(&Rule::Suspense);
        let text = self.file.accounts.get(usize::from(account.0));
        if text.is_some_and(|text| text.suspense) {
            if stated.is_none() && !table.others_unlimited {
                limits.suspense = 0;
            }
            return;
        }
        limits.suspense = UNLIMITED;
        // A table for all accounts may state it; one for this account means something else than it says.
        if let Some(stated) = stated.filter(|stated| is_own && stated.spot.path.starts_with(&table.spot.path)) {
            self.errors.at(&stated.spot, "is for suspense accounts: write suspense = true at the account");
        }
    }

    fn build_pairs(&mut self, tables: &KindTables, main: QtyUnit, table: &mut LimitTable) {
        // "*/instrument", written or because the instrument's scale is not the main one.
        for i in 0..self.universe.instruments.len() {
            let id = InstrumentId(i as u32);
            let own =
                if tables.named.is_empty() { None } else { tables.named.get(&format!("*/{}", self.instrument(id))) };
            let resolved = self.resolve(own.unwrap_or(&tables.all), ScopeKind::Pair, self.unit_of(id));
            if own.is_some() || resolved != *table.edit_all(ScopeKind::Pair) {
                *table.edit_pairs_of_instrument(id) = resolved;
            }
        }
        // "strategy/*", split up where a scale is not the main one. It goes before "*/instrument", so a
        // split pair is set even where it comes out like that one.
        let mut split = 0;
        for (name, own) in &tables.named {
            let Some((strategy, "*")) = name.split_once('/') else { continue };
            let Some(s) = self.universe.strategy(strategy) else { continue };
            let shared = resolve(own, ScopeKind::Pair, |decimal, _| self.quantity(decimal, main).unwrap_or(0));
            *table.edit_pairs_of_strategy(s) = shared.clone();
            let traded = self.traded_by(s);
            let units: HashSet<QtyUnit> = traded.iter().map(|id| self.unit_of(*id)).collect();
            let own_profile: HashMap<QtyUnit, ScopeLimits> = units
                .into_iter()
                .map(|unit| (unit, self.resolve(own, ScopeKind::Pair, unit)))
                .filter(|(_, resolved)| *resolved != shared)
                .collect();
            if own_profile.is_empty() {
                continue;
            }
            for id in traded {
                let Some(resolved) = own_profile.get(&self.unit_of(id)) else { continue };
                split += 1;
                if split > MAX_SPLIT {
                    self.errors.at(
                        &own.spot,
                        format!("more than {MAX_SPLIT} pairs of unlike qty_scale: state quantities per instrument"),
                    );
                    return;
                }
                *table.edit(self.universe, Scope::Pair(s, id)) = resolved.clone();
            }
        }
        for (name, own) in &tables.named {
            let Some((strategy, instrument)) = name.split_once('/') else { continue };
            if let (Some(s), Some(i)) = (self.universe.strategy(strategy), self.universe.instrument(instrument)) {
                let unit = self.unit_of(i);
                let resolved = self.resolve(own, ScopeKind::Pair, unit);
                *table.edit(self.universe, Scope::Pair(s, i)) = resolved;
            }
        }
    }

    fn instrument(&self, id: InstrumentId) -> &str {
        &self.universe.instruments[id.0 as usize].name
    }

    fn traded_by(&self, strategy: StrategyId) -> Vec<InstrumentId> {
        match &self.file.strategies[usize::from(strategy.0)].instruments {
            None => (0..self.universe.instruments.len()).map(|i| InstrumentId(i as u32)).collect(),
            Some(list) => list.iter().filter_map(|(name, _)| self.universe.instrument(name)).collect(),
        }
    }

    fn unit_of(&self, id: InstrumentId) -> QtyUnit {
        self.file.instruments[id.0 as usize].qty_scale.map_or(QtyUnit::Unknown, QtyUnit::Scale)
    }

    fn unit_of_all(&self) -> QtyUnit {
        common_unit((0..self.universe.instruments.len()).map(|i| self.unit_of(InstrumentId(i as u32))))
    }

    fn unit_of_strategy(&self, strategy: StrategyId, everything: QtyUnit) -> QtyUnit {
        let Some(list) = &self.file.strategies[usize::from(strategy.0)].instruments else { return everything };
        let unit = |name: &str| self.universe.instrument(name).map_or(QtyUnit::Unknown, |id| self.unit_of(id));
        common_unit(list.iter().map(|(name, _)| unit(name)))
    }

    /// The scale that most instruments have: what shared profiles are in.
    fn main_scale(&self) -> QtyUnit {
        let mut counts: BTreeMap<u8, usize> = BTreeMap::new();
        for scale in self.file.instruments.iter().filter_map(|i| i.qty_scale) {
            *counts.entry(scale).or_default() += 1;
        }
        let most = counts.into_iter().max_by_key(|(scale, count)| (*count, core::cmp::Reverse(*scale)));
        most.map_or(QtyUnit::Scale(0), |(scale, _)| QtyUnit::Scale(scale))
    }

    /// The limits that `text` means at a scope whose quantities have `unit`.
    fn resolve(&mut self, text: &Table, kind: ScopeKind, unit: QtyUnit) -> ScopeLimits {
        let key = (core::ptr::from_ref(text) as usize, kind, unit);
        if let Some(known) = self.cache.get(&key) {
            return known.clone();
        }
        let limits = resolve(text, kind, |decimal, spot| {
            self.quantity(decimal, unit).unwrap_or_else(|rule| {
                self.errors.at(spot, rule);
                0
            })
        });
        self.cache.insert(key, limits.clone());
        limits
    }

    /// A quantity in natural units as a count of `unit`, or what is wrong with it.
    fn quantity(&self, decimal: &Decimal, unit: QtyUnit) -> Result<i64, String> {
        let scale = match unit {
            QtyUnit::Scale(scale) => scale,
            QtyUnit::Unknown => return Ok(0),
            QtyUnit::Mixed if decimal.is_zero() => return Ok(0),
            QtyUnit::Mixed => {
                let rule = "the instruments here have unlike qty_scale, so one quantity cannot speak for all: state it \
                            per instrument or pair";
                return Err(rule.into());
            }
        };
        decimal.at(scale).map_err(|error| {
            let example = self.file.instruments.iter().find(|i| i.qty_scale == Some(scale)).map_or("", |i| &i.name);
            match error {
                DecimalError::TooPrecise => format!("is not a whole number of {example}'s unit (qty_scale = {scale})"),
                DecimalError::TooLarge => format!("is too large in {example}'s unit (qty_scale = {scale})"),
                DecimalError::Syntax => error.rule().to_owned(),
            }
        })
    }
}

/// The limits that `text` means, with `quantity` to turn natural units into the scope's.
fn resolve(text: &Table, kind: ScopeKind, quantity: impl Fn(&Decimal, &Spot) -> i64) -> ScopeLimits {
    let mut limits = if text.others_unlimited { ScopeLimits::unlimited() } else { ScopeLimits::closed(kind) };
    limits.sides = text.sides.unwrap_or_default();
    limits.demanded = text.mandatory.as_ref().map_or(0, |(bits, _)| *bits);
    for (&rule, stated) in &text.rules {
        if let Some(action) = stated.action {
            limits.action[rule as usize] = action;
        }
        if let Some(warn) = stated.warn {
            limits.warn[rule as usize] = warn;
        }
        if let Some(window) = stated.window_ns {
            limits.loss_window_ns = window;
        }
        match &stated.bound {
            None => {}
            Some(Bound::Unlimited) => set(&mut limits, rule, UNLIMITED),
            Some(Bound::Exact(n)) => set(&mut limits, rule, *n),
            Some(Bound::Qty(decimal)) => set(&mut limits, rule, quantity(decimal, &stated.spot)),
            Some(Bound::Rates(rates)) => {
                limits.rates.retain(|rate| rate.of.rule() != rule);
                limits.rates.extend_from_slice(rates);
            }
            Some(Bound::Duplicate(duplicate)) => limits.duplicate = Some(*duplicate),
            Some(Bound::FanOut(fan_out)) => limits.fan_out = Some(*fan_out),
        }
    }
    limits
}

fn common_unit(mut units: impl Iterator<Item = QtyUnit>) -> QtyUnit {
    // Without an instrument no order has a quantity, and any scale will do.
    let Some(first) = units.next() else { return QtyUnit::Scale(0) };
    units.fold(first, |common, unit| match (common, unit) {
        (QtyUnit::Unknown, _) | (_, QtyUnit::Unknown) => QtyUnit::Unknown,
        (a, b) if a == b => a,
        _ => QtyUnit::Mixed,
    })
}

fn set(limits: &mut ScopeLimits, rule: Rule, value: i64) {
    if let Some(gauge) = Gauge::of(rule) {
        limits.max[gauge as usize] = value;
        return;
    }
    match rule {
        Rule::OrderQty => limits.order_qty = value,
        Rule::OrderNotional => limits.order_notional = value,
        Rule::OrderParticipation => limits.order_participation = value,
        Rule::Collar => limits.collar = value,
        Rule::HeartbeatLoss => limits.heartbeat_ns = value,
        Rule::ClockSkew => limits.clock_skew_ns = value,
        Rule::Children => limits.children = value,
        Rule::Suspense => limits.suspense = value,
        Rule::ParentQty | Rule::ParentState | Rule::ParentPx => limits.parent_off |= 1 << rule as u64,
        // Only the word "unlimited" comes here for these.
        Rule::DuplicateOrder => limits.duplicate = None,
        Rule::FanOut => limits.fan_out = None,
        Rule::OrderRate | Rule::MessageRate | Rule::CancelRate | Rule::Denials | Rule::OrphanFills => {
            limits.rates.retain(|rate| rate.of.rule() != rule);
        }
        _ => {}
    }
}
