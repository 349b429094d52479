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

/// Whether anything is not normal, and the state in a few lines.
fn summary(state: &Value) -> Result<(bool, String)> {
    // An answer that cannot be understood must not look like "nothing is halted".
    let list = |key: &str| state[key].as_array().with_context(|| format!("the answer has no {key:?}"));
    let word = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let mut text = String::new();
    let mut tripped = state["mode"] != "normal";
    text.push_str(&format!("firm: {}\n", word(&state["mode"])));
    for key in ["halts", "orphans"] {
        for halt in list(key)? {
            tripped = true;
            let (kind, name) = (word(&halt["scope"]["kind"]), word(&halt["scope"]["name"]));
            let known = if key == "orphans" { " (not in the configuration)" } else { "" };
            let scope = if name.is_empty() { kind } else { format!("{kind} {name}") };
            text.push_str(&format!("{scope}: {} since epoch {}{known}\n", word(&halt["mode"]), halt["epoch"]));
            if halt["flat"]["residual"].as_u64().is_some_and(|left| left > 0) {
                text.push_str(&format!("    {}\n", follow::progress(&halt["flat"])));
            }
            for cause in halt["causes"].as_array().into_iter().flatten() {
                let (at, actor, reason) = (word(&cause["at"]), word(&cause["actor"]), word(&cause["reason"]));
                text.push_str(&format!("    {at} {actor}: {reason}\n"));
            }
        }
    }
    if state["stale"] == true {
        text.push_str("the engine makes no progress\n");
    }
    Ok((tripped, plain(&text)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_halt_anywhere_is_told_and_an_unknown_answer_is_no_all_clear() {
        let calm = json!({ "mode": "normal", "halts": [], "orphans": [], "stale": false });
        assert_eq!(summary(&calm).unwrap(), (false, "firm: normal\n".to_owned()));
        let mut halted = calm.clone();
        halted["halts"] = json!([{
            "scope": { "kind": "strategy", "name": "alpha" }, "mode": "halted", "epoch": 7,
            "causes": [{ "at": "t", "actor": "alice", "reason": "drill\u{1b}[2J" }],
            "flat": { "status": "canceling", "residual": 3, "orders_at_halt": 9, "by_state": { "instructed": 3 } },
        }]);
        let (tripped, text) = summary(&halted).unwrap();
        assert!(tripped);
        assert_eq!(
            text,
            "firm: normal\nstrategy alpha: halted since epoch 7\n    canceling: 3 of 9 orders work: 3 instructed\n    t alice: drill[2J\n"
        );
        let mut orphan = calm.clone();
        // The firm has no name, and none is shown.
        let mut firm = calm.clone();
        firm["mode"] = json!("halted");
        firm["halts"] =
            json!([{ "scope": { "kind": "firm", "name": "" }, "mode": "halted", "epoch": 8, "causes": [] }]);
        assert_eq!(summary(&firm).unwrap(), (true, "firm: halted\nfirm: halted since epoch 8\n".to_owned()));
        orphan["orphans"] = json!([{ "scope": { "kind": "strategy", "name": "gone" }, "mode": "halted", "epoch": 1 }]);
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
