//! `sessions`: who is connected, and who has heard of the halts.

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
    let (waits, text) = table(&state)?;
    let shown = json!({ "at": state["at"], "stale": state["stale"], "sessions": state["sessions"] });
    say(&if args.form.is_json() { format!("{shown:#}\n") } else { text })?;
    Ok(ExitCode::from(match (state["stale"] == false, waits) {
        (false, _) => EXIT_FAILED,
        (true, true) => EXIT_TRIPPED,
        (true, false) => 0,
    }))
}

/// Whether a connected session has not confirmed, and all of them in a table.
fn table(state: &Value) -> Result<(bool, String)> {
    let list = state["sessions"].as_array().context("the answer has no \"sessions\"")?;
    let wide = list.iter().filter_map(|s| s["name"].as_str()).map(str::len).max().unwrap_or(0).max(7);
    let mut text = format!("{:wide$}  {:9}  {:12}  {:>12}  halts\n", "SESSION", "KIND", "CONNECTION", "LAST SEQ");
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
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{:wide$}  {:9}  {connection:12}  {:>12}  {halts}",
            word("name"),
            word("kind"),
            session["last_seq"].as_u64().map_or_else(|| "?".to_owned(), |seq| seq.to_string()),
        );
    }
    if state["stale"] == true {
        text.push_str("the engine makes no progress\n");
    }
    Ok((waits, plain(&text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_that_has_not_confirmed_is_told_from_one_that_is_not_there() {
        let session = |name: &str, connected: bool, told: bool, confirmed: bool| {
            json!({ "name": name, "kind": "ask", "connected": connected, "last_seq": 7, "told": told,
                "confirmed": confirmed })
        };
        let state = |list: Vec<Value>| json!({ "stale": false, "sessions": list });
        let (waits, text) =
            table(&state(vec![session("gw-1", true, true, true), session("gw-2", false, false, false)])).unwrap();
        assert!(!waits && text.lines().nth(1).unwrap().ends_with("confirmed"), "{text}");
        assert!(text.lines().nth(2).unwrap().ends_with('-'), "{text}");
        let (waits, text) = table(&state(vec![session("gw-1", true, true, false)])).unwrap();
        assert!(waits && text.lines().nth(1).unwrap().ends_with("told"), "{text}");
        assert!(table(&json!({})).is_err(), "what cannot be understood is not an empty list");
    }
}
