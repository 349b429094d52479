//! `limits lint`: what is wrong with the limits of a configuration, as far as a journal's flow tells.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;
use haltline::app::config;
use haltline::journal::tally::{Tally, limit_of};
use haltline::kill::words::{ScopeName, rfc3339};
use haltline::limits::{Gauge, LimitTable, UNLIMITED};
use haltline::model::{Rule, Scope, Universe};
use haltline::units::InstrumentId;
use serde_json::{Value, json};

use super::replay::{number, scope_text, with_progress};
use super::suggest::RULES;
use super::{EXIT_FAILED, say};

/// Arguments of `limits lint`.
#[derive(Args, Debug)]
pub struct LintArgs {
    /// The configuration
    config: PathBuf,
    /// The state directory whose journal has the flow, or the journal in it
    #[arg(long, value_name = "DIR")]
    journal: PathBuf,
    /// A limit of more than so many times the observed peak is called loose
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(2..))]
    times: u16,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// What can be wrong with a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum What {
    /// It would have halted the flow, or something of it.
    Tripped,
    /// It would have denied orders.
    Denied,
    /// An order of more than a day's volume would pass.
    Volume,
    /// It allows many times what was ever seen.
    Loose,
    /// Another limit is always reached before.
    Unreachable,
}

impl What {
    pub(super) fn name(self) -> &'static str {
        match self {
            What::Tripped => "tripped",
            What::Denied => "denied",
            What::Volume => "volume",
            What::Loose => "loose",
            What::Unreachable => "unreachable",
        }
    }
}

/// Something that is wrong with a limit.
#[derive(Debug)]
pub(super) struct Finding {
    pub scope: Scope,
    pub rule: Rule,
    pub what: What,
    pub text: String,
}

/// See the module. Exits with 1 if there is anything to be told.
pub(super) fn run(args: &LintArgs) -> Result<ExitCode> {
    let other = config::read(&args.config)?;
    let replay = with_progress(&args.journal, Some(&other))?;
    let would = replay.would.as_ref().context("there is no flow in the journal")?;
    let mut findings = of_peaks(&replay.was, &other.limits, i64::from(args.times));
    // What the limits would really have done says more than a peak beyond one of them.
    findings.retain(|finding| finding.what != What::Tripped);
    findings.extend(of_what_would_have_been(would));
    findings.extend(of_volumes(&other.universe, &replay.was, &other.limits));
    findings.sort_by_key(|f| (f.what, f.scope, f.rule));
    let text = match args.json {
        true => format!("{:#}\n", to_json(replay.was.universe(), &findings)),
        false => to_text(replay.was.universe(), &findings),
    };
    say(&text)?;
    Ok(if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAILED) })
}

/// Limits beside the peaks of the flow, and beside each other.
pub(super) fn of_peaks(tally: &Tally, limits: &LimitTable, times: i64) -> Vec<Finding> {
    let universe = tally.universe();
    let mut findings = Vec::new();
    for (scope, rule, peak) in tally.peaks() {
        let Some(limit) = finite(limits, universe, scope, rule) else { continue };
        let mut add = |what, text| findings.push(Finding { scope, rule, what, text });
        let show = |n| number(universe, rule, scope, n);
        if peak.observed > limit {
            add(What::Tripped, format!("would have been breached: peak {} of {}", show(peak.observed), show(limit)));
        } else if peak.observed > 0 && limit > peak.observed.saturating_mul(times) {
            let times = limit / peak.observed;
            add(What::Loose, format!("{times} times the observed peak: {} of {}", show(peak.observed), show(limit)));
        }
        if let Some((other, other_rule, most)) = reached_before(limits, universe, scope, rule, limit) {
            let by = format!("{} of {}", other_rule.name(), scope_text(universe, other));
            let most = number(universe, other_rule, other, most);
            add(What::Unreachable, format!("nothing can reach {}: {by} ends at {most}", show(limit)));
        }
    }
    findings
}

fn finite(limits: &LimitTable, universe: &Universe, scope: Scope, rule: Rule) -> Option<i64> {
    let limit = limit_of(limits.scope(universe, scope)?, rule)?;
    (limit < UNLIMITED && RULES.contains(&rule)).then_some(limit)
}

/// The scopes that everything of `scope` counts in as well.
fn around(universe: &Universe, scope: Scope) -> Vec<Scope> {
    let of_strategy = |s: haltline::units::StrategyId| {
        let account = universe.strategies.get(usize::from(s.0)).map(|spec| Scope::Account(spec.account));
        account.into_iter().chain([Scope::Firm])
    };
    match scope {
        Scope::Firm => Vec::new(),
        Scope::Account(_) | Scope::Instrument(_) | Scope::Session(_) => vec![Scope::Firm],
        Scope::Strategy(strategy) => of_strategy(strategy).collect(),
        Scope::Pair(strategy, instrument) => {
            let own = [Scope::Strategy(strategy), Scope::Instrument(instrument)];
            own.into_iter().chain(of_strategy(strategy)).collect()
        }
    }
}

/// Another limit that whatever comes to `limit` has passed before, and what it allows.
fn reached_before(
    limits: &LimitTable,
    universe: &Universe,
    scope: Scope,
    rule: Rule,
    limit: i64,
) -> Option<(Scope, Rule, i64)> {
    // What only adds up, and what looks at one order: a scope around this one has at least as much.
    let adds = matches!(
        rule,
        Rule::GrossExposure | Rule::WorkingOrders | Rule::OrderRate | Rule::OrderNotional | Rule::OrderParticipation
    );
    let of_one_instrument = rule == Rule::OrderQty && matches!(scope, Scope::Pair(..));
    let tighter = around(universe, scope).into_iter().filter(|around| match around {
        Scope::Instrument(_) => adds || of_one_instrument,
        Scope::Firm | Scope::Account(_) | Scope::Strategy(_) | Scope::Pair(..) | Scope::Session(_) => adds,
    });
    let tighter = tighter.filter_map(|around| Some((around, rule, finite(limits, universe, around, rule)?)));
    let own = |rule| finite(limits, universe, scope, rule);
    // One order adds its whole value to the gross exposure, and takes a position at most from one end to the other.
    let beside = match rule {
        Rule::OrderNotional => own(Rule::GrossExposure).map(|most| (scope, Rule::GrossExposure, most)),
        Rule::OrderQty => match (own(Rule::PositionLong), own(Rule::PositionShort)) {
            (Some(long), Some(short)) => Some((scope, Rule::PositionLong, long.saturating_add(short))),
            _ => None,
        },
        _ => None,
    };
    tighter.chain(beside).filter(|(_, _, most)| *most < limit).min_by_key(|(_, _, most)| *most)
}

/// Trips and denials of a replay under the limits.
fn of_what_would_have_been(would: &Tally) -> Vec<Finding> {
    let universe = would.universe();
    let mut trips: BTreeMap<(Scope, Rule), (usize, String)> = BTreeMap::new();
    for seen in &would.trips {
        let cause = &seen.trip.cause;
        let entry = trips.entry((cause.scope, cause.rule)).or_insert_with(|| {
            let show = |n| number(universe, cause.rule, cause.scope, n);
            let (scope, mode) = (scope_text(universe, seen.trip.scope), seen.trip.mode.name());
            let (observed, limit) = (show(cause.observed), show(cause.limit));
            (0, format!("{scope} {mode} at {}: {observed} of {limit}", rfc3339(seen.at.0)))
        });
        entry.0 += 1;
    }
    let trips = trips.into_iter().map(|((scope, rule), (count, first))| {
        let text = format!("would have tripped {count} time(s), first: {first}");
        Finding { scope, rule, what: What::Tripped, text }
    });
    let denied = Rule::ALL.into_iter().filter(|rule| RULES.contains(rule) && would.denied[*rule as usize] > 0);
    let denied = denied.map(|rule| {
        let text = format!("would have denied {} order(s)", would.denied[rule as usize]);
        Finding { scope: Scope::Firm, rule, what: What::Denied, text }
    });
    trips.chain(denied).collect()
}

/// Instruments of which more than a day's volume could be ordered at once.
fn of_volumes(universe: &Universe, tally: &Tally, limits: &LimitTable) -> Vec<Finding> {
    let mut pairs: BTreeMap<u32, Vec<Scope>> = BTreeMap::new();
    for (scope, rule, _) in tally.peaks() {
        if let (Scope::Pair(_, instrument), Rule::OrderQty) = (scope, rule) {
            pairs.entry(instrument.0).or_default().push(scope);
        }
    }
    let mut findings = Vec::new();
    for (i, spec) in universe.instruments.iter().enumerate() {
        let Some(volume) = spec.average_daily_volume.filter(|volume| volume.0 > 0) else { continue };
        let own = Scope::Instrument(InstrumentId(i as u32));
        // Who traded it shows which scopes an order passes; the one that lets the most through counts.
        let ways = pairs.get(&(i as u32)).cloned().unwrap_or_else(|| vec![own]);
        let passes = ways.into_iter().map(|way| {
            let mut scopes = around(universe, way);
            scopes.push(way);
            let limits = scopes.into_iter().map(|scope| {
                let of = |rule| finite(limits, universe, scope, rule);
                let share = of(Rule::OrderParticipation)
                    .map(|bps| (i128::from(volume.0) * i128::from(bps) / 10_000).min(i64::MAX.into()) as i64);
                (of(Rule::OrderQty).into_iter().chain(share).min().unwrap_or(UNLIMITED), scope)
            });
            limits.min_by_key(|(most, _)| *most).unwrap_or((UNLIMITED, own))
        });
        let Some((most, scope)) = passes.max_by_key(|(most, _)| *most).filter(|(most, _)| *most > volume.0) else {
            continue;
        };
        let show = |n| number(universe, Rule::OrderQty, own, n);
        let name = scope_text(universe, own);
        let text = match most >= UNLIMITED {
            true => format!("an order of any quantity of {name} passes: {} trade a day", show(volume.0)),
            false => format!("an order for {} of {name} passes: {} trade a day", show(most), show(volume.0)),
        };
        findings.push(Finding { scope, rule: Rule::OrderQty, what: What::Volume, text });
    }
    // The same for what may be held of one instrument.
    for (scope, rule, _) in tally.peaks() {
        let (Scope::Instrument(instrument), Some(Gauge::PositionLong | Gauge::PositionShort)) =
            (scope, Gauge::of(rule))
        else {
            continue;
        };
        let volume = universe.instruments.get(instrument.0 as usize).and_then(|spec| spec.average_daily_volume);
        if let (Some(volume), Some(limit)) = (volume, finite(limits, universe, scope, rule))
            && limit > volume.0
        {
            let show = |n| number(universe, rule, scope, n);
            let text = format!("more than a day's volume: {} of {}", show(limit), show(volume.0));
            findings.push(Finding { scope, rule, what: What::Volume, text });
        }
    }
    findings
}

/// Findings of one kind and rule that are printed; JSON has all of them.
const SHOWN: usize = 20;

fn to_text(universe: &Universe, findings: &[Finding]) -> String {
    if findings.is_empty() {
        return "nothing is wrong with these limits, as far as this flow tells\n".to_owned();
    }
    let mut out = String::new();
    let mut counts: BTreeMap<(What, Rule), usize> = BTreeMap::new();
    for f in findings {
        let count = counts.entry((f.what, f.rule)).or_default();
        *count += 1;
        if *count <= SHOWN {
            // Writing to a string cannot fail.
            let _ = writeln!(out, "{}: {} {}: {}", f.what.name(), scope_text(universe, f.scope), f.rule.name(), f.text);
        }
    }
    for ((what, rule), count) in counts.into_iter().filter(|(_, count)| *count > SHOWN) {
        let _ = writeln!(out, "{}: {} more of {}", what.name(), count - SHOWN, rule.name());
    }
    out
}

pub(super) fn to_json(universe: &Universe, findings: &[Finding]) -> Value {
    let rows: Vec<Value> = findings
        .iter()
        .map(|f| {
            let scope = ScopeName::of(universe, f.scope);
            json!({ "scope": scope, "rule": f.rule.name(), "finding": f.what.name(), "text": f.text })
        })
        .collect();
    json!({ "findings": rows })
}
