//! `limits suggest`: limits that the observed flow would bear, and what is wrong with those that there are.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use haltline::app::config;
use haltline::app::replay::same_names;
use haltline::journal::tally::Tally;
use haltline::kill::words::{ScopeName, unit};
use haltline::model::rule::{Unit, applies};
use haltline::model::{Rule, Scope, ScopeKind};
use haltline::units::REPRESENTABLE_MAX;
use serde_json::{Value, json};

use super::limits_show::{self, ShowArgs};
use super::lint::{self, Finding, LintArgs};
use super::overrides::{self, OverrideArgs, OverridesArgs, ProbationArgs, WhatIfArgs};
use super::replay::{number, scope_text, with_progress};
use super::say;

/// Arguments of `limits`.
#[derive(Args, Debug)]
pub struct LimitsArgs {
    #[command(subcommand)]
    command: LimitsCommand,
}

#[derive(Subcommand, Debug)]
enum LimitsCommand {
    /// Propose limits from a journal's flow, and tell what is wrong with those of a configuration
    Suggest(SuggestArgs),
    /// Tell what is wrong with the limits of a configuration, by a journal's flow; exits with 1 if anything is
    ///
    /// Replays the flow under them: limits that would have tripped or denied, that allow many times what was seen or more than
    /// a day's volume, and those that nothing can reach because another one always comes first.
    Lint(LintArgs),
    /// Show limits and how much of each is used, the most used first
    Show(ShowArgs),
    /// Give one limit another number for a while
    ///
    /// Raising one takes what re-arming its scope takes: two people, where that is configured.
    Override(OverrideArgs),
    /// Show the overrides, agree to one, or take one back
    Overrides(OverridesArgs),
    /// Show what a change of limits would do, without doing it
    WhatIf(WhatIfArgs),
    /// Show which scopes may use a fraction of their limits only, or give one all of them again
    Probation(ProbationArgs),
}

#[derive(Args, Debug)]
struct SuggestArgs {
    /// The state directory, or the journal in it
    dir: PathBuf,
    /// The limits to look at; by default those that the journal ends with
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What is proposed: so many times the peak
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=1000))]
    multiple: u16,
    /// A limit of more than so many times the peak is called loose
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(2..))]
    loose: u16,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// Rules with a number that a flow shows a peak of. The others depend on more than the flow.
pub(super) const RULES: [Rule; 14] = [
    Rule::OrderQty,
    Rule::OrderNotional,
    Rule::OrderParticipation,
    Rule::PositionLong,
    Rule::PositionShort,
    Rule::DayParticipation,
    Rule::GrossExposure,
    Rule::NetLong,
    Rule::NetShort,
    Rule::WorkingOrders,
    Rule::OrderRate,
    Rule::DailyLoss,
    Rule::Drawdown,
    Rule::LossVelocity,
];

/// See the module.
pub fn run(args: &LimitsArgs) -> Result<ExitCode> {
    match &args.command {
        LimitsCommand::Suggest(args) => suggest(args),
        LimitsCommand::Lint(args) => lint::run(args),
        LimitsCommand::Show(args) => limits_show::show(args),
        LimitsCommand::Override(args) => overrides::ask(args),
        LimitsCommand::Overrides(args) => overrides::overrides(args),
        LimitsCommand::WhatIf(args) => overrides::what_if(args),
        LimitsCommand::Probation(args) => overrides::probation(args),
    }
}

fn suggest(args: &SuggestArgs) -> Result<ExitCode> {
    let other = args.config.as_deref().map(config::read).transpose()?;
    let replay = with_progress(&args.dir, None)?;
    let tally = &replay.was;
    let limits = match &other {
        Some(other) if !same_names(&other.universe, tally.universe()) => {
            bail!(
                "the configuration has other accounts, strategies, instruments, sessions or currencies than the journal"
            )
        }
        Some(other) => Arc::new(other.limits.clone()),
        None => tally.limits().clone(),
    };
    let mut findings = lint::of_peaks(tally, &limits, i64::from(args.loose));
    findings.sort_by_key(|f| (f.scope, f.rule, f.what));
    let proposals = propose(tally, i64::from(args.multiple));
    let text = match args.json {
        true => format!("{:#}\n", to_json(tally, &proposals, &findings)),
        false => to_text(tally, &proposals, &findings, args.multiple),
    };
    say(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// A proposal: the busiest scope of the kind, its peak, and the limit.
struct Proposal {
    scope: Scope,
    peak: i64,
    limit: i64,
}

/// By kind and rule, in the order of both.
fn propose(tally: &Tally, multiple: i64) -> BTreeMap<(ScopeKind, Rule), Proposal> {
    let mut proposals: BTreeMap<(ScopeKind, Rule), Proposal> = BTreeMap::new();
    for (scope, rule, peak) in tally.peaks() {
        let kind = scope.kind();
        // Quantities of different instruments have different units: there each stands for itself.
        let mixed = rule.unit() == Unit::Qty && !matches!(kind, ScopeKind::Instrument | ScopeKind::Pair);
        if !RULES.contains(&rule) || !applies(rule, kind) || peak.observed <= 0 || mixed {
            continue;
        }
        let limit = round_up(peak.observed.saturating_mul(multiple)).min(REPRESENTABLE_MAX);
        let proposal = Proposal { scope, peak: peak.observed, limit };
        let best = proposals.entry((kind, rule)).or_insert(Proposal { ..proposal });
        if (proposal.peak, core::cmp::Reverse(proposal.scope)) > (best.peak, core::cmp::Reverse(best.scope)) {
            *best = proposal;
        }
    }
    proposals
}

/// Up to two digits that are not zero.
fn round_up(n: i64) -> i64 {
    let mut step = 1i64;
    while n / step >= 100 {
        step *= 10;
    }
    n.checked_add(step - 1).map_or(n, |n| n / step * step)
}

fn to_text(
    tally: &Tally,
    proposals: &BTreeMap<(ScopeKind, Rule), Proposal>,
    findings: &[Finding],
    multiple: u16,
) -> String {
    let universe = tally.universe();
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ =
        writeln!(out, "# {multiple} times the peak of the busiest scope of each kind; a quantity is its instrument's");
    let mut last = None;
    for ((kind, rule), p) in proposals {
        if last != Some(*kind) {
            let _ = match kind {
                ScopeKind::Firm => writeln!(out, "[limits.firm]"),
                _ => writeln!(out, "[limits.{}.\"*\"]", kind.name()),
            };
            last = Some(*kind);
        }
        let (limit, peak) = (number(universe, *rule, p.scope, p.limit), number(universe, *rule, p.scope, p.peak));
        let scope = scope_text(universe, p.scope);
        let sizes = [500, 990, 999].map(|mille| tally.order_qty(p.scope, mille));
        let sizes = match (rule, sizes) {
            (Rule::OrderQty, [Some(half), Some(most), Some(nearly)]) => {
                let show = |n| number(universe, *rule, p.scope, n);
                format!(", p50 {}, p99 {}, p99.9 {}", show(half), show(most), show(nearly))
            }
            _ => String::new(),
        };
        let _ = match rule {
            Rule::OrderRate => {
                writeln!(out, "order_rate = {{ count = {limit}, per = \"1s\" }}  # {scope}: peak {peak}")
            }
            // Its window is not in the flow.
            Rule::LossVelocity => writeln!(out, "# loss_velocity: {scope} fell by {peak} within its window"),
            _ => writeln!(out, "{} = {{ max = \"{limit}\" }}  # {scope}: peak {peak}{sizes}", rule.name()),
        };
    }
    if findings.is_empty() {
        let _ = writeln!(out, "# nothing is wrong with the limits that there are, as far as this flow tells");
    }
    for f in findings {
        let _ = writeln!(out, "# {} {}: {}: {}", scope_text(universe, f.scope), f.rule.name(), f.what.name(), f.text);
    }
    out
}

fn to_json(tally: &Tally, proposals: &BTreeMap<(ScopeKind, Rule), Proposal>, findings: &[Finding]) -> Value {
    let universe = tally.universe();
    let proposals: Vec<Value> = proposals
        .iter()
        .map(|((kind, rule), p)| {
            json!({
                "kind": kind.name(), "rule": rule.name(), "busiest": ScopeName::of(universe, p.scope),
                "peak": number(universe, *rule, p.scope, p.peak), "limit": number(universe, *rule, p.scope, p.limit),
                "unit": unit(universe, *rule, p.scope),
            })
        })
        .collect();
    json!({ "proposals": proposals, "findings": lint::to_json(universe, findings)["findings"] })
}

#[cfg(test)]
mod tests {
    use super::round_up;

    #[test]
    fn proposals_are_round_and_never_below() {
        for (n, rounded) in [(0, 0), (7, 7), (99, 99), (100, 100), (101, 110), (12_345, 13_000), (i64::MAX, i64::MAX)] {
            assert_eq!(round_up(n), rounded);
        }
    }
}
