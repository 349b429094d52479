//! `limits override`, `overrides`, `what-if`, `probation`: limits for a while, by a person and with a reason.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;
use hyper::Method;
use serde_json::{Value, json};

use super::client::{Target, ask_one};
use super::{EXIT_FAILED, Form, ScopeArg, plain, say, scope};

/// Which limit.
#[derive(Args, Debug)]
struct PlaceArgs {
    /// At which scope: firm, account:NAME, strategy:NAME, pair:STRATEGY/INSTRUMENT, instrument:NAME or session:NAME
    #[arg(long, value_parser = any_scope)]
    scope: ScopeArg,
    /// Which rule, such as gross_exposure
    #[arg(long)]
    rule: String,
    /// Of a rate: which of its windows, such as 1s
    #[arg(long, value_parser = span)]
    window: Option<u64>,
    /// The number, in the unit that `haltline limits overrides` and GET /v1/limits show
    #[arg(long)]
    limit: String,
}

impl PlaceArgs {
    fn to_json(&self) -> Value {
        let mut body = json!({ "scope": self.scope.to_json(), "rule": self.rule, "limit": self.limit });
        if let Some(window) = self.window {
            body["window_ns"] = window.into();
        }
        body
    }
}

/// Arguments of `limits override`.
#[derive(Args, Debug)]
pub struct OverrideArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// For how long, such as 30m or 2h; it ends by itself
    #[arg(long = "for", value_name = "SPAN", value_parser = span)]
    lasts: u64,
    /// Why: it is recorded
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    target: Target,
}

/// Arguments of `limits overrides`.
#[derive(Args, Debug)]
pub struct OverridesArgs {
    /// Agree to this one, as the second person
    #[arg(long, value_name = "ID", requires = "reason", conflicts_with = "end")]
    approve: Option<u64>,
    /// Take this one back
    #[arg(long, value_name = "ID", requires = "reason")]
    end: Option<u64>,
    /// Why: it is recorded
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    target: Target,
}

/// Arguments of `limits what-if`.
#[derive(Args, Debug)]
pub struct WhatIfArgs {
    #[command(flatten)]
    place: Option<PlaceArgs>,
    /// Another configuration, all of it
    #[arg(long, value_name = "FILE", conflicts_with = "PlaceArgs", required_unless_present = "scope")]
    file: Option<PathBuf>,
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    target: Target,
}

/// Arguments of `limits probation`.
#[derive(Args, Debug)]
pub struct ProbationArgs {
    /// Give this scope all of its limits again
    #[arg(long, value_name = "SCOPE", value_parser = scope, requires = "reason")]
    promote: Option<ScopeArg>,
    /// Why: it is recorded
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    target: Target,
}

fn any_scope(text: &str) -> Result<ScopeArg, String> {
    match text.strip_prefix("pair:") {
        Some(name) if name.contains('/') => Ok(ScopeArg { kind: "pair".to_owned(), name: name.to_owned() }),
        Some(_) => Err("a pair is written pair:STRATEGY/INSTRUMENT".to_owned()),
        None => scope(text),
    }
}

/// Nanoseconds of `30m`.
fn span(text: &str) -> Result<u64, String> {
    haltline::app::config::parse_span(text).ok_or_else(|| "must be such as 500ms, 30s, 10m, 2h or 1d".to_owned())
}

/// Asks for an override. Success is one that is in force.
pub fn ask(args: &OverrideArgs) -> Result<ExitCode> {
    let now = ask_one(&args.target, Method::GET, "/v1/overrides", None)?;
    let mut body = args.place.to_json();
    body["for_seconds"] = args.lasts.div_ceil(1_000_000_000).into();
    body["reason"] = args.reason.clone().into();
    body["etag"] = now["etag"].clone();
    let answer = ask_one(&args.target, Method::POST, "/v1/overrides", Some(&body))?;
    show(&args.form, &answer, &line(&answer)?)?;
    Ok(if answer["status"] == "active" { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAILED) })
}

/// Lists overrides, agrees to one, or takes one back.
pub fn overrides(args: &OverridesArgs) -> Result<ExitCode> {
    let body = json!({ "reason": args.reason });
    let (answer, done) = match (args.approve, args.end) {
        (Some(id), _) => {
            let path = format!("/v1/overrides/{id}/approve");
            (ask_one(&args.target, Method::POST, &path, Some(&body))?, true)
        }
        (None, Some(id)) => {
            let answer = ask_one(&args.target, Method::DELETE, &format!("/v1/overrides/{id}"), Some(&body))?;
            let over = answer["status"] == "ended";
            (answer, over)
        }
        (None, None) => (ask_one(&args.target, Method::GET, "/v1/overrides", None)?, true),
    };
    let text = match answer["overrides"].as_array() {
        Some(list) if list.is_empty() => "no overrides: the limits are as configured\n".to_owned(),
        Some(list) => list.iter().map(line).collect::<Result<String>>()?,
        None => line(&answer)?,
    };
    show(&args.form, &answer, &text)?;
    Ok(if done { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAILED) })
}

/// Shows what a change would do.
pub fn what_if(args: &WhatIfArgs) -> Result<ExitCode> {
    let body = match (&args.place, &args.file) {
        (Some(place), _) => json!({ "changes": [place.to_json()] }),
        (None, Some(file)) => {
            let text = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
            json!({ "text": text })
        }
        (None, None) => anyhow::bail!("neither a limit nor a file was given"),
    };
    let answer = ask_one(&args.target, Method::POST, "/v1/limits/what-if", Some(&body))?;
    let rows = answer["changes"].as_array().context("the answer has no changes")?;
    let mut text = String::new();
    for row in rows {
        let word = |key: &str| row[key].as_str().unwrap_or("?").to_owned();
        let in_use = match (row["observed"].as_str(), row["would_be_percent"].as_f64()) {
            (Some(observed), Some(percent)) => format!("; {observed} in use, {percent}% of it"),
            (Some(observed), None) => format!("; {observed} in use"),
            (None, _) => String::new(),
        };
        let above = if row["above"] == true { ": ABOVE IT NOW" } else { "" };
        writeln!(
            text,
            "{} {}: {} → {} {}{in_use}{above}",
            scope_text(&row["scope"]),
            word("rule"),
            word("now"),
            word("would_be"),
            word("unit")
        )?;
    }
    if rows.is_empty() {
        text.push_str("nothing would change\n");
    }
    show(&args.form, &answer, &text)?;
    Ok(ExitCode::SUCCESS)
}

/// Shows who is on probation, or promotes a scope.
pub fn probation(args: &ProbationArgs) -> Result<ExitCode> {
    let (answer, key) = match &args.promote {
        None => (ask_one(&args.target, Method::GET, "/v1/probation", None)?, "probation"),
        Some(scope) => {
            let place =
                if scope.name.is_empty() { scope.kind.clone() } else { format!("{}/{}", scope.kind, scope.name) };
            let body = json!({ "reason": args.reason });
            let path = format!("/v1/probation/{place}/promote");
            (ask_one(&args.target, Method::POST, &path, Some(&body))?, "promoted")
        }
    };
    let rows = answer[key].as_array().with_context(|| format!("the answer has no {key:?}"))?;
    let mut text = String::new();
    for row in rows {
        let (scope, after) = (scope_text(&row["scope"]), row["after"].as_str().unwrap_or("?"));
        if key == "promoted" {
            writeln!(text, "{scope}: all of its limits again")?;
            continue;
        }
        writeln!(
            text,
            "{scope}: {}% of its limits, step {} of {}, after {after}; clean for {} of {} s, {} of {} orders",
            row["fraction_percent"],
            row["step"],
            row["steps"],
            row["clean_seconds"],
            row["clean_seconds_needed"],
            row["clean_orders"],
            row["clean_orders_needed"]
        )?;
    }
    if rows.is_empty() {
        text.push_str("nobody is on probation\n");
    }
    show(&args.form, &answer, &text)?;
    Ok(ExitCode::SUCCESS)
}

fn show(form: &Form, answer: &Value, text: &str) -> Result<()> {
    say(&if form.is_json() { format!("{answer:#}\n") } else { plain(text) })
}

fn scope_text(scope: &Value) -> String {
    let word = |key: &str| scope[key].as_str().unwrap_or("?");
    format!("{} {}", word("kind"), word("name")).trim_end().to_owned()
}

/// An override in one line.
fn line(one: &Value) -> Result<String> {
    let word = |key: &str| one[key].as_str().unwrap_or("-");
    let status = one["status"].as_str().context("the answer is not an override")?;
    let (id, scope) = (word("id"), scope_text(&one["scope"]));
    let what =
        format!("{scope} {}: {} instead of {} {}", word("rule"), word("limit"), word("configured"), word("unit"));
    let standing = match (status, one["removal"]["by"].as_str()) {
        ("active", Some(by)) => {
            format!("in force; {by} wants it back: haltline limits overrides --approve {id} --reason …")
        }
        ("active", None) => format!("in force for {} s more, until {}", one["seconds_left"], word("until")),
        ("pending", _) => format!(
            "not in force: another person has to agree within {} s: haltline limits overrides --approve {id} --reason …",
            one["seconds_left"]
        ),
        (_, _) => format!("over: {}", word("ended")),
    };
    Ok(format!("{id} {what} (by {}: {}): {standing}\n", word("by"), word("reason")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_override_says_what_it_changes_and_where_it_is() {
        let mut one = json!({
            "id": "3", "status": "pending", "scope": { "kind": "strategy", "name": "alpha" }, "rule": "order_qty",
            "limit": "20", "configured": "10", "unit": "qty_units", "by": "rita", "reason": "a block",
            "seconds_left": 600,
        });
        let text = line(&one).unwrap();
        assert!(
            text.starts_with("3 strategy alpha order_qty: 20 instead of 10 qty_units (by rita: a block)"),
            "{text}"
        );
        assert!(text.contains("not in force") && text.contains("--approve 3"), "{text}");
        one["status"] = json!("active");
        assert!(line(&one).unwrap().contains("in force for 600 s more"));
        one["status"] = json!("ended");
        one["ended"] = json!("expired");
        assert!(line(&one).unwrap().ends_with("over: expired\n"));
        assert!(line(&json!({})).is_err());
    }

    #[test]
    fn a_pair_has_a_strategy_and_an_instrument() {
        assert_eq!(any_scope("pair:a/b").unwrap().name, "a/b");
        assert!(any_scope("pair:a").is_err() && any_scope("nothing:a").is_err());
        assert_eq!(any_scope("strategy:a").unwrap().kind, "strategy");
        assert_eq!(span("2h"), Ok(7_200_000_000_000));
        assert!(span("2 hours").is_err());
    }
}
