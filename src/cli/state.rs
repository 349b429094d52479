//! `state`: what is halted, since when and why.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;
use hyper::Method;
use serde_json::Value;

use super::client::{Target, ask_one};
use super::follow;
use super::{EXIT_FAILED, EXIT_TRIPPED, Form, plain, say};

/// Arguments of `state`.
#[derive(Args, Debug)]
pub struct StateArgs {
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    target: Target,
}

/// Shows what is halted.
pub fn state(args: &StateArgs) -> Result<ExitCode> {
    let state = ask_one(&args.target, Method::GET, "/v1/state", None)?;
    let (tripped, text) = summary(&state)?;
    say(&if args.form.is_json() { format!("{state:#}\n") } else { text })?;
    Ok(ExitCode::from(exit_code(tripped, &state)))
}

/// What an engine that stands still shows is old, whatever it shows: that comes before a halt, which is in force anyway.
fn exit_code(tripped: bool, state: &Value) -> u8 {
    match (state["stale"] == false, tripped) {
        (false, _) => EXIT_FAILED,
        (true, true) => EXIT_TRIPPED,
        (true, false) => 0,
    }
}

/// Whether anything is not normal, and the state in a table: a row for the firm, and one for each scope that is not normal.
fn summary(state: &Value) -> Result<(bool, String)> {
    // An answer that cannot be understood must not look like "nothing is halted".
    let list = |key: &str| state[key].as_array().with_context(|| format!("the answer has no {key:?}"));
    let word = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let mut tripped = state["mode"] != "normal";
    let mut rows = vec![["SCOPE", "MODE", "EPOCH", "CANCELS", "SINCE", "WHO: WHY"].map(str::to_owned)];
    let firm = |halt: &Value| halt["scope"]["kind"] == "firm";
    if !list("halts")?.iter().any(firm) {
        let none = || "-".to_owned();
        rows.push(["firm".to_owned(), word(&state["mode"]), none(), none(), none(), String::new()]);
    }
    for key in ["halts", "orphans"] {
        for halt in list(key)? {
            tripped = true;
            let (kind, name) = (word(&halt["scope"]["kind"]), word(&halt["scope"]["name"]));
            let known = if key == "orphans" { " (not in the configuration)" } else { "" };
            let scope = if name.is_empty() { kind } else { format!("{kind} {name}") } + known;
            let cancels = halt["flat"]["status"].as_str().unwrap_or("-").replace('_', " ");
            let mut row =
                [scope, word(&halt["mode"]), halt["epoch"].to_string(), cancels, "?".to_owned(), String::new()];
            let causes = halt["causes"].as_array().map(Vec::as_slice).unwrap_or_default();
            for cause in causes {
                row[4] = word(&cause["at"]);
                row[5] = format!("{}: {}", word(&cause["actor"]), word(&cause["reason"]));
                // Further causes stand below the first.
                rows.push(std::mem::take(&mut row));
            }
            if causes.is_empty() {
                rows.push(row);
            }
            if halt["flat"]["residual"].as_u64().is_some_and(|left| left > 0) {
                let mut more = <[String; 6]>::default();
                more[5] = follow::progress(&halt["flat"]);
                rows.push(more);
            }
        }
    }
    let mut text = table(&rows);
    if state["stale"] == true {
        text.push_str("the engine makes no progress\n");
    }
    Ok((tripped, plain(&text)))
}

/// Columns as wide as what is in them; the last one as it is.
fn table(rows: &[[String; 6]]) -> String {
    let wide: [usize; 5] = std::array::from_fn(|at| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0));
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, wide) in row.iter().zip(wide) {
            line.push_str(&format!("{cell:wide$}  "));
        }
        line.push_str(&row[5]);
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_halt_anywhere_is_told_and_an_unknown_answer_is_no_all_clear() {
        let calm = json!({ "mode": "normal", "halts": [], "orphans": [], "stale": false });
        let (tripped, text) = summary(&calm).unwrap();
        assert!(!tripped);
        assert_eq!(text, "SCOPE  MODE    EPOCH  CANCELS  SINCE  WHO: WHY\nfirm   normal  -      -        -\n");
        let mut halted = calm.clone();
        halted["halts"] = json!([{
            "scope": { "kind": "strategy", "name": "alpha" }, "mode": "halted", "epoch": 7,
            "causes": [{ "at": "t1", "actor": "alice", "reason": "drill\u{1b}[2J" },
                { "at": "t2", "actor": "engine", "reason": "order_rate" }],
            "flat": { "status": "canceling", "residual": 3, "orders_at_halt": 9, "by_state": { "instructed": 3 } },
        }]);
        let (tripped, text) = summary(&halted).unwrap();
        assert!(tripped);
        let row = |n: usize| text.lines().nth(n).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(row(1), "firm normal - - -");
        assert_eq!(row(2), "strategy alpha halted 7 canceling t1 alice: drill[2J");
        assert_eq!(row(3), "t2 engine: order_rate");
        assert_eq!(row(4), "canceling: 3 of 9 orders work: 3 instructed");
        let starts = |n: usize, word: &str| text.lines().nth(n).unwrap().find(word).unwrap();
        assert_eq!([starts(0, "SINCE"), starts(2, "t1"), starts(3, "t2")], [starts(0, "SINCE"); 3], "{text}");
        // The firm has no name, and one row.
        let mut firm = calm.clone();
        firm["mode"] = json!("halted");
        firm["halts"] =
            json!([{ "scope": { "kind": "firm", "name": "" }, "mode": "halted", "epoch": 8, "causes": [] }]);
        let (tripped, text) = summary(&firm).unwrap();
        assert!(tripped && text.lines().count() == 2, "{text}");
        assert!(text.lines().nth(1).unwrap().starts_with("firm   halted  8 "), "{text}");
        let mut orphan = calm.clone();
        orphan["orphans"] = json!([{ "scope": { "kind": "strategy", "name": "gone" }, "mode": "halted", "epoch": 1 }]);
        assert!(summary(&orphan).unwrap().1.contains("strategy gone (not in the configuration)  halted"));
        assert!(summary(&orphan).unwrap().0);
        assert!(summary(&json!({ "mode": "normal" })).is_err());
        assert!(summary(&json!({ "halts": [], "orphans": [] })).unwrap().0);
    }

    #[test]
    fn an_engine_that_stands_still_is_a_failure_and_a_halt_is_not() {
        let (turns, stands) = (json!({ "stale": false }), json!({ "stale": true }));
        assert_eq!([exit_code(false, &turns), exit_code(true, &turns)], [0, EXIT_TRIPPED]);
        assert_eq!([exit_code(false, &stands), exit_code(true, &stands)], [EXIT_FAILED; 2]);
        // Nor is an answer that does not say.
        assert_eq!(exit_code(false, &json!({})), EXIT_FAILED);
    }
}
