//! `replay`: a journal run again, as it was and as other limits would have had it.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;
use haltline::app::config;
use haltline::app::replay::{Replay, replay};
use haltline::journal::reader::End;
use haltline::journal::snapshot::Header;
use haltline::journal::tally::{Headroom, Tally};
use haltline::kill::words::{self, ScopeName, rfc3339};
use haltline::limits::UNLIMITED;
use haltline::model::{EventKind, Rule, Scope, Universe};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::say;

/// Arguments of `replay`.
#[derive(Args, Debug)]
pub struct ReplayArgs {
    /// The state directory, or the journal in it
    dir: PathBuf,
    /// What these limits would have done to the flow
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
    /// Write a page with plots that needs no other file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// How many limits and trips to list
    #[arg(long, default_value_t = 20)]
    rows: usize,
}

/// Runs it with a progress bar where somebody looks.
pub(super) fn with_progress(dir: &Path, other: Option<&config::Loaded>) -> Result<Replay> {
    let bar = if std::io::stderr().is_terminal() { ProgressBar::new(0) } else { ProgressBar::hidden() };
    let style = "{wide_bar} {bytes}/{total_bytes} {bytes_per_sec}, {eta} left";
    bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
    let done = replay(dir, other, |taken, total| {
        bar.set_length(total.max(taken));
        bar.set_position(taken);
    });
    bar.finish_and_clear();
    done
}

/// See the module.
pub fn run(args: &ReplayArgs) -> Result<ExitCode> {
    let other = args.config.as_deref().map(config::read).transpose()?;
    let begin = std::time::Instant::now();
    let replay = with_progress(&args.dir, other.as_ref())?;
    let seconds = begin.elapsed().as_secs_f64();
    if let Some(path) = &args.html {
        let page = super::html::page(&replay, args.rows);
        std::fs::write(path, page).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let text = match args.json {
        true => format!("{:#}\n", to_json(&replay, args.rows)),
        false => to_text(&replay, args.rows, seconds),
    };
    say(&text)?;
    // What was read is reported; that there is more which cannot be followed is a failure.
    Ok(if matches!(replay.end, End::Damaged(_)) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

pub(super) fn end_text(end: &End) -> String {
    match end {
        End::Nothing => "there is no journal".to_owned(),
        End::Orderly => "ended in an orderly way".to_owned(),
        End::Open => "not ended: killed, or still running".to_owned(),
        End::Torn { file, offset, what } => format!("torn at {}, byte {offset}: {what}", file.display()),
        End::Damaged(damage) => format!("DAMAGED: {damage}"),
    }
}

fn from_text(header: &Header) -> String {
    format!("the snapshot of {} (record {}, {} events)", rfc3339(header.made), header.tip.cell, header.events)
}

pub(super) fn scope_text(universe: &Universe, scope: Scope) -> String {
    ScopeName::of(universe, scope).to_string()
}

pub(super) fn number(universe: &Universe, rule: Rule, scope: Scope, value: i64) -> String {
    if value >= UNLIMITED { "unlimited".to_owned() } else { words::value(universe, rule, scope, value) }
}

fn hash(words: [u64; 2]) -> String {
    format!("{:016x}{:016x}", words[0], words[1])
}

fn to_text(replay: &Replay, rows: usize, seconds: f64) -> String {
    let mut out = String::new();
    let (was, events) = (&replay.was, replay.progress.events);
    let span = |t: &Tally| {
        let first = t.first.map_or(0, |now| now.unix.0);
        format!("{} to {}", rfc3339(first), rfc3339(t.last.unix.0))
    };
    // Writing to a string cannot fail.
    let _ = writeln!(out, "journal        {}", end_text(&replay.end));
    if let Some(from) = &replay.from {
        let _ = writeln!(out, "begins         behind {}: what was before was removed", from_text(from));
    }
    let _ = writeln!(out, "flow           {}", span(was));
    let _ = writeln!(out, "events         {events} ({:.0} a second replayed)", events as f64 / seconds.max(1e-9));
    let _ =
        writeln!(out, "effects        {}, digest {}", replay.progress.effects, hash(replay.progress.digest.value()));
    let _ = writeln!(out, "state          {}, {} checks of the run fit", hash(replay.state), replay.checks);
    let _ = writeln!(out, "\nas it was");
    tally_text(&mut out, was, rows);
    if let Some(would) = &replay.would {
        let _ = writeln!(out, "\nunder the other limits");
        tally_text(&mut out, would, rows);
    }
    out
}

fn tally_text(out: &mut String, tally: &Tally, rows: usize) {
    let universe = tally.universe();
    let denied: u64 = tally.denied.iter().sum();
    let _ = writeln!(out, "  admitted {}, denied {denied}, trips {}", tally.admitted, tally.trips_total);
    for rule in Rule::ALL.into_iter().filter(|rule| tally.denied[*rule as usize] > 0) {
        let _ = writeln!(out, "  denied by {:22} {:>12}", rule.name(), tally.denied[rule as usize]);
    }
    for seen in tally.trips.iter().take(rows) {
        let (trip, at) = (&seen.trip, rfc3339(seen.at.0));
        let cause = &trip.cause;
        let observed = number(universe, cause.rule, cause.scope, cause.observed);
        let limit = number(universe, cause.rule, cause.scope, cause.limit);
        let scope = scope_text(universe, trip.scope);
        let (mode, rule) = (trip.mode.name(), cause.rule.name());
        let _ = writeln!(out, "  trip {at}  {scope} {mode}: {rule} {observed} > {limit} (record {})", seen.cell);
    }
    let headroom: Vec<Headroom> = tally.headroom().into_iter().filter(|h| h.limit < UNLIMITED).collect();
    if headroom.is_empty() {
        return;
    }
    let _ = writeln!(out, "  {:32} {:22} {:>16} {:>16} {:>8}", "tightest limits", "", "peak", "limit", "used");
    for h in headroom.iter().take(rows) {
        let (scope, rule) = (scope_text(universe, h.scope), h.rule.name());
        let peak = number(universe, h.rule, h.scope, h.peak.observed);
        let limit = number(universe, h.rule, h.scope, h.limit);
        let percent = h.percent().unwrap_or(0.0);
        let _ = writeln!(out, "  {scope:32} {rule:22} {peak:>16} {limit:>16} {percent:>7.1}%");
    }
}

/// The whole result as one object; lists have at most `rows` entries, their totals are told.
pub(super) fn to_json(replay: &Replay, rows: usize) -> Value {
    json!({
        "end": end_text(&replay.end),
        "begins_behind": replay.from.as_ref().map(from_text),
        "events": replay.progress.events,
        "effects": replay.progress.effects,
        "digest": hash(replay.progress.digest.value()),
        "state": hash(replay.state),
        "checks": replay.checks,
        "was": tally_json(&replay.was, rows),
        "would": replay.would.as_ref().map(|would| tally_json(would, rows)),
    })
}

fn tally_json(tally: &Tally, rows: usize) -> Value {
    let universe = tally.universe();
    let by_rule = |counts: &[u64]| -> Value {
        let pairs = Rule::ALL.iter().zip(counts).filter(|(_, n)| **n > 0);
        Value::Object(pairs.map(|(rule, n)| (rule.name().to_owned(), (*n).into())).collect())
    };
    let events: serde_json::Map<String, Value> = EventKind::ALL
        .iter()
        .zip(&tally.events)
        .filter(|(_, n)| **n > 0)
        .map(|(kind, n)| (kind.name().to_owned(), (*n).into()))
        .collect();
    let trips: Vec<Value> = tally
        .trips
        .iter()
        .take(rows)
        .map(|seen| {
            let cause = &seen.trip.cause;
            json!({
                "at": rfc3339(seen.at.0), "record": seen.cell,
                "scope": ScopeName::of(universe, seen.trip.scope), "mode": seen.trip.mode.name(),
                "rule": cause.rule.name(), "why": cause.why.name(),
                "limit_at": ScopeName::of(universe, cause.scope),
                "observed": number(universe, cause.rule, cause.scope, cause.observed),
                "limit": number(universe, cause.rule, cause.scope, cause.limit),
                "unit": words::unit(universe, cause.rule, cause.scope),
                "session": scope_text(universe, Scope::Session(seen.trip.session)), "seq": seen.trip.seq,
            })
        })
        .collect();
    let headroom: Vec<Value> = tally
        .headroom()
        .iter()
        .take(rows)
        .map(|h| {
            json!({
                "scope": ScopeName::of(universe, h.scope), "rule": h.rule.name(),
                "peak": number(universe, h.rule, h.scope, h.peak.observed),
                "limit": number(universe, h.rule, h.scope, h.limit),
                "unit": words::unit(universe, h.rule, h.scope),
                "percent": h.percent().map(|p| (p * 100.0).round() / 100.0),
                "at": rfc3339(h.peak.at.0), "record": h.peak.cell,
            })
        })
        .collect();
    let near: Vec<Value> = tally
        .warnings
        .iter()
        .take(rows)
        .map(|((scope, rule), (percent, times))| {
            let scope = ScopeName::of(universe, *scope);
            json!({ "scope": scope, "rule": rule.name(), "percent": percent, "times": times })
        })
        .collect();
    json!({
        "from": rfc3339(tally.first.map_or(0, |now| now.unix.0)), "to": rfc3339(tally.last.unix.0),
        "events": events, "admitted": tally.admitted, "denied": by_rule(&tally.denied),
        "trips_total": tally.trips_total, "trips": trips, "near_misses": near, "headroom": headroom,
    })
}
