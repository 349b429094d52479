//! `sessions`: who is connected with which build, who has heard of the halts, and what stands against whom.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;
use hyper::Method;
use serde_json::{Value, json};

use super::client::{Target, ask_one};
use super::{EXIT_FAILED, EXIT_TRIPPED, Form, plain, say};

/// Arguments of `sessions`.
#[derive(Args, Debug)]
pub struct SessionsArgs {
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    target: Target,
}

/// Lists sessions. One that has not confirmed the halts as they are ends with a code of its own.
pub fn sessions(args: &SessionsArgs) -> Result<ExitCode> {
    let state = ask_one(&args.target, Method::GET, "/v1/state", None)?;
    let fleet = ask_one(&args.target, Method::GET, "/v1/sessions", None)?;
    let (waits, text) = table(&state, &fleet)?;
    let (list, builds) = (&state["sessions"], &fleet["sessions"]);
    let shown = json!({ "at": state["at"], "stale": state["stale"], "sessions": list, "builds": builds });
    say(&if args.form.is_json() { format!("{shown:#}\n") } else { text })?;
    Ok(ExitCode::from(match (state["stale"] == false, waits) {
        (false, _) => EXIT_FAILED,
        (true, true) => EXIT_TRIPPED,
        (true, false) => 0,
    }))
}

/// Whether a connected session has not confirmed, and all of them in a table.
fn table(state: &Value, fleet: &Value) -> Result<(bool, String)> {
    let builds = fleet["sessions"].as_array().context("the answer about builds has no \"sessions\"")?;
    let build_of = |name: &Value| builds.iter().find(|row| row["name"] == *name);
    let list = state["sessions"].as_array().context("the answer has no \"sessions\"")?;
    let wide = list.iter().filter_map(|s| s["name"].as_str()).map(str::len).max().unwrap_or(0).max(7);
    let mut text = format!(
        "{:wide$}  {:9}  {:12}  {:>12}  {:11}  {:11}  build\n",
        "SESSION", "KIND", "CONNECTION", "LAST SEQ", "HALTS", "VERDICT"
    );
    let mut waits = false;
    for session in list {
        let word = |key: &str| session[key].as_str().unwrap_or("?");
        let connected = session["connected"] == true;
        let halts = match (connected, session["confirmed"] == true, session["told"] == true) {
            (false, _, _) => "-",
            (true, true, _) => "confirmed",
            (true, false, true) => "told",
            (true, false, false) => "unconfirmed",
        };
        waits |= connected && session["confirmed"] != true;
        let connection = if connected { "connected" } else { "-" };
        let row = build_of(&session["name"]).context("the answer about builds does not have every session")?;
        let verdict = row["verdict"].as_str().unwrap_or("?");
        // What it is by measurement, else what it says it is.
        let build = row["build"].as_str().or(row["build_claimed"].as_str()).unwrap_or("-");
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{:wide$}  {:9}  {connection:12}  {:>12}  {halts:11}  {verdict:11}  {build}",
            word("name"),
            word("kind"),
            session["last_seq"].as_u64().map_or_else(|| "?".to_owned(), |seq| seq.to_string()),
        );
    }
    for row in builds.iter().filter(|row| row["verdict"] == "quarantined") {
        let name = row["name"].as_str().unwrap_or("?");
        for reason in row["reasons"].as_array().into_iter().flatten() {
            let _ = writeln!(text, "{name} is quarantined: {}", reason.as_str().unwrap_or("?"));
        }
        let to_approve = &row["to_approve"];
        for change in to_approve["changes"].as_array().into_iter().flatten() {
            let _ = writeln!(text, "  to approve: {}", change.as_str().unwrap_or("?"));
        }
        if let Some(tag) = to_approve["tag"].as_str() {
            let _ = writeln!(text, "  haltline approve {name} --tag {tag} --reason …, then haltline rearm");
        }
    }
    if state["stale"] == true {
        text.push_str("the engine makes no progress\n");
    }
    Ok((waits, plain(&text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(name: &str, connected: bool, told: bool, confirmed: bool) -> Value {
        json!({ "name": name, "kind": "ask", "connected": connected, "last_seq": 7, "told": told, "confirmed": confirmed })
    }

    #[test]
    fn a_session_that_has_not_confirmed_is_told_from_one_that_is_not_there() {
        let state = |list: Vec<Value>| json!({ "stale": false, "sessions": list });
        let absent = |name: &str| json!({ "name": name, "verdict": "absent" });
        let fleet = json!({ "sessions": [absent("gw-1"), absent("gw-2")] });
        let both = state(vec![session("gw-1", true, true, true), session("gw-2", false, false, false)]);
        let (waits, text) = table(&both, &fleet).unwrap();
        assert!(!waits && text.lines().nth(1).unwrap().contains("confirmed"), "{text}");
        assert!(!text.lines().nth(2).unwrap().contains("confirmed"), "{text}");
        let (waits, text) = table(&state(vec![session("gw-1", true, true, false)]), &fleet).unwrap();
        assert!(waits && text.lines().nth(1).unwrap().contains(" told "), "{text}");
        assert!(table(&json!({}), &fleet).is_err(), "what cannot be understood is not an empty list");
        assert!(table(&both, &json!({ "sessions": [] })).is_err());
    }

    #[test]
    fn what_stands_against_an_instance_is_told_and_how_it_is_approved() {
        let state = json!({ "stale": false, "sessions": [session("gw-1", true, true, true), session("gw-2", true, true, true)] });
        let row = |name: &str, verdict: &str, approve: Value| json!({ "name": name, "verdict": verdict, "build": "r2", "reasons": ["it changed"], "to_approve": approve });
        let fleet = json!({ "sessions": [
            row("gw-1", "quarantined", json!({ "tag": "07", "changes": ["build r1 → r2", "flag x 1 → 2"] })),
            row("gw-2", "quarantined", Value::Null),
        ] });
        let (_, text) = table(&state, &fleet).unwrap();
        let told = "gw-1 is quarantined: it changed\n  to approve: build r1 → r2\n  to approve: flag x 1 → 2\n  \
                    haltline approve gw-1 --tag 07 --reason";
        assert!(text.contains(told), "{text}");
        assert!(text.contains("gw-2 is quarantined: it changed\n") && !text.contains("approve gw-2"), "{text}");
    }
}
