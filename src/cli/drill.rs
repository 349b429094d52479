//! `drill`: rehearses the switch end to end, and says what that has proved.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;
use hyper::Method;
use serde_json::{Value, json};

use super::client::{Target, ask_one};
use super::{EXIT_FAILED, Form, ScopeArg, plain, say, scope};

/// Arguments of `drill`.
#[derive(Args, Debug)]
pub struct DrillArgs {
    /// What to halt for the rehearsal [default: the strategy that the configuration makes for it]
    #[arg(long, value_parser = scope, conflicts_with = "list")]
    scope: Option<ScopeArg>,
    /// Even if the scope is trading: it is halted for as long as the drill takes
    #[arg(long, conflicts_with = "list")]
    force: bool,
    /// Why: it is recorded
    #[arg(long, required_unless_present = "list")]
    reason: Option<String>,
    /// Show the last drills instead
    #[arg(long)]
    list: bool,
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    target: Target,
}

/// Rehearses or lists. Success is a drill that passed.
pub fn drill(args: &DrillArgs) -> Result<ExitCode> {
    if args.list {
        let answer = ask_one(&args.target, Method::GET, "/v1/drills", None)?;
        let list = answer["drills"].as_array().context("the answer has no drills")?;
        let mut text = list.iter().map(headline).collect::<Result<String>>()?;
        if list.is_empty() {
            text.push_str("no drill is known\n");
        }
        say(&if args.form.is_json() { format!("{answer:#}\n") } else { plain(&text) })?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut body = json!({ "reason": args.reason, "force": args.force });
    if let Some(scope) = &args.scope {
        body["scope"] = scope.to_json();
    }
    let answer = ask_one(&args.target, Method::POST, "/v1/drills", Some(&body))?;
    let text = report(&answer)?;
    say(&if args.form.is_json() { format!("{answer:#}\n") } else { plain(&text) })?;
    Ok(if answer["passed"] == true { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAILED) })
}

fn headline(drill: &Value) -> Result<String> {
    let passed = drill["passed"].as_bool().context("the answer is not a drill")?;
    let word = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let observed = &drill["observed"];
    let scope = format!("{} {}", word(&observed["scope"]["kind"]), word(&observed["scope"]["name"]));
    let how = if passed { "PASSED" } else { "NOT PASSED" };
    let (at, by) = (word(&drill["began_at"]), word(&observed["by"]));
    Ok(format!("{at} {how}: {} by {by}, receipt {}\n", scope.trim_end(), observed["receipt"]))
}

fn report(drill: &Value) -> Result<String> {
    let mut text = headline(drill)?;
    for (title, key) in [("failed", "failed"), ("proved", "proved"), ("NOT proved", "not_proved")] {
        for line in drill[key].as_array().into_iter().flatten() {
            writeln!(text, "  {title}: {}", line.as_str().unwrap_or("?"))?;
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drill_says_what_it_proved_and_what_not() {
        let drill = json!({
            "passed": false, "began_at": "t", "failed": [], "proved": ["the latch was on disk"],
            "not_proved": ["that a gate obeys: none was connected"],
            "observed": { "scope": { "kind": "strategy", "name": "drill" }, "by": "rita", "receipt": 7 },
        });
        let text = report(&drill).unwrap();
        assert!(text.starts_with("t NOT PASSED: strategy drill by rita, receipt 7\n"), "{text}");
        assert!(text.contains("  proved: the latch was on disk\n  NOT proved: that a gate obeys"), "{text}");
        assert!(report(&json!({})).is_err());
    }
}
