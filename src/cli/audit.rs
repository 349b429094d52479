//! `audit`: who did what, and whether the journal is as it was written.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use haltline::app::replay::journal_dir;
use haltline::journal::audit::{Found, read_all};
use haltline::journal::key::{from_hex, load_public};
use haltline::journal::reader::{End, header_of, segments};
use haltline::journal::verify::verify;
use haltline::journal::writer::{Head, hex};
use haltline::kill::words::rfc3339;
use serde_json::json;

use super::replay::end_text;
use super::say;

/// Arguments of `audit`.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct AuditArgs {
    #[command(subcommand)]
    command: Option<AuditCommand>,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Subcommand, Debug)]
enum AuditCommand {
    /// Find any byte of the journal that was changed, removed or reordered; exits with 1 if there is one
    Verify(VerifyArgs),
}

#[derive(Args, Debug)]
struct ListArgs {
    /// The state directory, or the journal in it
    dir: Option<PathBuf>,
    /// Only what this one did
    #[arg(long)]
    actor: Option<String>,
    /// Only this: kill, confirmed, rearm, approve, ack, limits, auth, trip, start, stop
    #[arg(long)]
    action: Option<String>,
    /// Only on this scope: firm, or KIND:NAME
    #[arg(long)]
    scope: Option<String>,
    /// Only from this time on, such as 2026-11-22T08:00 (UTC; a beginning of it will do)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only before this time
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Only what was refused
    #[arg(long)]
    refused: bool,
    /// How to print it
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum Format {
    /// A line for people
    Text,
    /// JSON Lines
    Jsonl,
    /// Comma-separated values with a header
    Csv,
}

#[derive(Args, Debug)]
struct VerifyArgs {
    /// The state directory, or the journal in it
    dir: PathBuf,
    /// The public key that must have signed it; by default journal.pub beside the journal
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// A head noted earlier (64 hex digits): shows whether anything was cut off behind it
    #[arg(long, value_name = "HEX")]
    head: Option<String>,
    /// A file of heads, as the journal's second place has them: the last one of this journal is taken
    #[arg(long, value_name = "FILE", conflicts_with = "head")]
    heads: Option<PathBuf>,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// See the module.
pub fn run(args: &AuditArgs) -> Result<ExitCode> {
    match &args.command {
        Some(AuditCommand::Verify(args)) => run_verify(args),
        None => list(&args.list),
    }
}

fn list(args: &ListArgs) -> Result<ExitCode> {
    let Some(dir) = &args.dir else { bail!("which journal? Give its state directory") };
    let dir = &journal_dir(dir);
    let (found, end) = read_all(dir)?;
    if let Some(first) = segments(dir)?.first().and_then(|(_, path)| header_of(path)).filter(|h| h.first_group > 0) {
        eprintln!("what was recorded before {} is not there any more", rfc3339(first.made));
    }
    let mut out = String::new();
    if matches!(args.format, Format::Csv) {
        out.push_str("at,group,actor,from,action,scope,reason,outcome,detail\n");
    }
    for found in found.iter().filter(|found| passes(args, found)) {
        print(&mut out, args.format, found);
    }
    say(&out)?;
    match end {
        End::Orderly | End::Open => Ok(ExitCode::SUCCESS),
        End::Nothing => bail!("there is no journal in {}", dir.display()),
        // What a crash left: everything whole was listed.
        End::Torn { .. } => {
            eprintln!("the journal is {}", end_text(&end));
            Ok(ExitCode::SUCCESS)
        }
        End::Damaged(damage) => bail!("the journal is damaged, what follows is not listed: {damage}"),
    }
}

fn scope_word(found: &Found) -> String {
    found.entry.scope.as_ref().map_or_else(String::new, |scope| match scope.name.as_str() {
        "" => scope.kind.clone(),
        name => format!("{}:{name}", scope.kind),
    })
}

fn passes(args: &ListArgs, found: &Found) -> bool {
    let entry = &found.entry;
    // Times of one form and zone compare as text.
    let at = rfc3339(entry.at);
    args.actor.as_ref().is_none_or(|actor| *actor == entry.actor)
        && args.action.as_ref().is_none_or(|action| *action == entry.action)
        && args.scope.as_ref().is_none_or(|scope| *scope == scope_word(found))
        && args.since.as_deref().is_none_or(|since| *at >= *since)
        && args.until.as_deref().is_none_or(|until| *at < *until)
        && (!args.refused || entry.outcome.starts_with("refused"))
}

fn print(out: &mut String, format: Format, found: &Found) {
    let (entry, at) = (&found.entry, rfc3339(found.entry.at));
    // Writing to a string cannot fail.
    match format {
        Format::Text => {
            let _ = write!(out, "{at}  {:9} {:10} {:16}", entry.action, entry.actor, scope_word(found));
            let _ = write!(out, " {}", entry.outcome);
            for (what, text) in [("", &entry.detail), ("reason: ", &entry.reason), ("from ", &entry.from)] {
                if !text.is_empty() {
                    let _ = write!(out, "; {what}{}", printable(text));
                }
            }
            out.push('\n');
        }
        Format::Jsonl => {
            let line = json!({ "time": at, "group": found.group, "entry": entry });
            let _ = writeln!(out, "{line}");
        }
        Format::Csv => {
            let (group, scope) = (found.group.to_string(), scope_word(found));
            let cells = [
                &at,
                &group,
                &entry.actor,
                &entry.from,
                &entry.action,
                &scope,
                &entry.reason,
                &entry.outcome,
                &entry.detail,
            ];
            let cells: Vec<String> = cells.into_iter().map(|cell| csv(cell)).collect();
            let _ = writeln!(out, "{}", cells.join(","));
        }
    }
}

/// Without characters that a terminal would act on.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// A cell that a spreadsheet takes as text: quoted, and no formula.
fn csv(text: &str) -> String {
    let text = printable(text);
    let safe = if text.starts_with(['=', '+', '-', '@']) { format!("'{text}") } else { text };
    if safe.contains([',', '"']) { format!("\"{}\"", safe.replace('"', "\"\"")) } else { safe }
}

fn run_verify(args: &VerifyArgs) -> Result<ExitCode> {
    let dir = journal_dir(&args.dir);
    let beside = dir.parent().unwrap_or(Path::new(".")).join("journal.pub");
    let key = match &args.key {
        Some(path) => Some(load_public(path).with_context(|| format!("the key {}", path.display()))?),
        None if beside.exists() => Some(load_public(&beside).with_context(|| format!("the key {}", beside.display()))?),
        None => None,
    };
    let head = match (&args.head, &args.heads) {
        (Some(text), _) => Some(from_hex(text).context("--head must be 64 hex digits")?),
        (None, Some(path)) => Some(last_head(path, &dir, key.as_ref())?),
        (None, None) => None,
    };
    let report = verify(&dir, key.as_ref(), head.as_ref())?;
    let (good, tip) = (report.is_intact(), hex(&report.tip.chain));
    if args.json {
        let object = json!({
            "ok": good, "faults": report.faults, "notes": report.notes, "segments": report.segments,
            "groups": report.groups, "cells": report.cells, "checkpoints": report.checkpoints,
            "snapshots": report.snapshots, "unsigned_groups": report.unsigned, "head": tip, "end": end_text(&report.end), "key": key.is_some(),
        });
        say(&format!("{object:#}\n"))?;
    } else {
        let mut out = String::new();
        let _ = writeln!(
            out,
            "{}: {} segments, {} groups, {} cells, {} checkpoints signed, {} snapshots{}",
            if good { "intact" } else { "NOT INTACT" },
            report.segments,
            report.groups,
            report.cells,
            report.checkpoints,
            report.snapshots,
            if key.is_some() { "" } else { " (by a key that was not given: shows accidents only)" }
        );
        let _ = writeln!(out, "{}; {} groups behind the last signature", end_text(&report.end), report.unsigned);
        let _ = writeln!(out, "head {tip}");
        report.faults.iter().for_each(|fault| out.push_str(&format!("fault: {fault}\n")));
        report.notes.iter().for_each(|note| out.push_str(&format!("note: {note}\n")));
        say(&out)?;
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The last head in the file at `path` that is of the journal of `key` (of any, without a key).
fn last_head(path: &Path, dir: &Path, key: Option<&ed25519_dalek::VerifyingKey>) -> Result<[u8; 32]> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let id = key.map(|key| hex(&blake3::hash(key.as_bytes()).as_bytes()[..16]));
    let of_it = |head: &Head| id.as_ref().is_none_or(|id| *id == head.journal);
    let heads = text.lines().rev().filter_map(|line| serde_json::from_str::<Head>(line).ok());
    let head = heads.filter(of_it).find_map(|head| from_hex(&head.head));
    head.with_context(|| format!("{} has no head of the journal in {}", path.display(), dir.display()))
}
