//! `rearm`: the authorised way back. It never goes on by itself: who asks names the epoch that they have looked at.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;
use hyper::Method;
use serde_json::{Value, json};

use super::client::{Target, ask_one};
use super::{EXIT_FAILED, Form, ScopeArg, plain, say, scope};

/// Arguments of `rearm`.
#[derive(Args, Debug)]
pub struct RearmArgs {
    /// What is to trade again: firm, account:NAME, strategy:NAME, instrument:NAME or session:NAME
    #[arg(long, value_parser = scope, requires = "epoch", requires = "reason", conflicts_with_all = ["approve", "list"])]
    scope: Option<ScopeArg>,
    /// The epoch of the halt as `haltline state` shows it: if anything was pressed since, nothing is re-armed
    #[arg(long, requires = "scope")]
    epoch: Option<u64>,
    /// Agree to the request with this id, as the second person
    #[arg(long, value_name = "ID", requires = "reason", conflicts_with = "list")]
    approve: Option<u64>,
    /// Why: it is recorded
    #[arg(long, conflicts_with = "list")]
    reason: Option<String>,
    /// The id of the cause that was looked at, as `haltline state --json` shows it: where the configuration asks for it
    #[arg(long, value_name = "CAUSE", requires = "scope")]
    acknowledge: Option<String>,
    /// Show the requests that are remembered
    #[arg(long, required_unless_present_any = ["scope", "approve"])]
    list: bool,
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    target: Target,
}

/// Asks, agrees or lists. Success is a re-arm that is done, which means on disk.
pub fn rearm(args: &RearmArgs) -> Result<ExitCode> {
    let reason = &args.reason;
    let answer = match (&args.scope, args.approve) {
        (Some(scope), _) => {
            // Good once: whoever catches this request cannot send it again.
            let nonce = ask_one(&args.target, Method::GET, "/v1/rearm/nonce", None)?["nonce"].clone();
            let mut body = json!({ "scope": scope.to_json(), "epoch": args.epoch, "reason": reason, "nonce": nonce });
            if let Some(cause) = &args.acknowledge {
                body["acknowledge"] = cause.clone().into();
            }
            ask_one(&args.target, Method::POST, "/v1/rearm", Some(&body))?
        }
        (None, Some(id)) => {
            let body = json!({ "reason": reason });
            ask_one(&args.target, Method::POST, &format!("/v1/rearm/{id}/approve"), Some(&body))?
        }
        (None, None) => ask_one(&args.target, Method::GET, "/v1/rearm", None)?,
    };
    let list = match answer["rearms"].as_array() {
        Some(list) if args.list => list.clone(),
        Some(_) | None => vec![answer.clone()],
    };
    let text = list.iter().map(line).collect::<Result<String>>()?;
    say(&if args.form.is_json() { format!("{answer:#}\n") } else { plain(&text) })?;
    let done = args.list || answer["done"] == true;
    Ok(if done { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAILED) })
}

/// Where a re-arm is, in one line.
fn line(rearm: &Value) -> Result<String> {
    let word = |key: &str| rearm[key].as_str().unwrap_or("?");
    let (id, status) = (word("id"), rearm["status"].as_str().context("the answer is not a re-arm")?);
    let (kind, name) = (&rearm["scope"]["kind"], &rearm["scope"]["name"]);
    let scope = format!("{} {}", kind.as_str().unwrap_or("?"), name.as_str().unwrap_or_default());
    let asked = format!("{}, epoch {}, asked by {}", scope.trim_end(), rearm["epoch"], word("asked_by"));
    let now = match status {
        "done" => format!("RE-ARMED: {} agreed", word("agreed_by")),
        "lowered" => format!("re-armed by {}, not on disk yet: a restart would find it halted", word("agreed_by")),
        "pending" => format!(
            "still halted: another person has to agree within {} s: haltline rearm --approve {id} --reason …",
            rearm["expires_in_seconds"]
        ),
        "void" => "still halted: it was halted again, or re-armed by somebody else, before anybody agreed".to_owned(),
        "expired" => "still halted: nobody agreed in time".to_owned(),
        other => other.to_owned(),
    };
    Ok(format!("{id} ({asked}): {now}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rearm_says_where_it_is_and_what_it_takes() {
        let mut rearm = json!({
            "id": "9", "status": "pending", "scope": { "kind": "firm", "name": "" }, "epoch": 7, "asked_by": "rita",
            "expires_in_seconds": 600,
        });
        let text = line(&rearm).unwrap();
        assert!(text.starts_with("9 (firm, epoch 7, asked by rita): still halted"), "{text}");
        assert!(text.contains("--approve 9"), "{text}");
        rearm["status"] = json!("done");
        rearm["agreed_by"] = json!("ruth");
        assert!(line(&rearm).unwrap().ends_with("RE-ARMED: ruth agreed\n"));
        assert!(line(&json!({})).is_err());
    }
}
