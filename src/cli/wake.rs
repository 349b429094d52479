//! `wake` and `approve`: what a person decides about a fleet. Neither lifts a halt: that is `rearm`'s.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;
use hyper::Method;
use serde_json::{Value, json};

use super::client::{Target, ask_one};
use super::{Form, plain, say};

/// Arguments of `wake`.
#[derive(Args, Debug)]
pub struct WakeArgs {
    /// The strategy
    strategy: String,
    /// Only this part of it: strategy, path:gate, path:websocket or flag:NAME [default: all that sleeps]
    #[arg(long)]
    part: Option<String>,
    /// Why: it is recorded
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    target: Target,
}

/// Arguments of `approve`.
#[derive(Args, Debug)]
pub struct ApproveArgs {
    /// The session of the instance
    session: String,
    /// What was looked at: the tag that `haltline sessions` shows with it. Anything else is not approved
    #[arg(long)]
    tag: String,
    /// Why: it is recorded
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    target: Target,
}

/// Wakes what sleeps.
pub fn wake(args: &WakeArgs) -> Result<ExitCode> {
    let body = json!({ "strategy": args.strategy, "part": args.part, "reason": args.reason });
    let answer = ask_one(&args.target, Method::POST, "/v1/wake", Some(&body))?;
    tell(&args.form, &answer, "woken", &args.strategy)
}

/// Approves a change.
pub fn approve(args: &ApproveArgs) -> Result<ExitCode> {
    let path = format!("/v1/sessions/{}/approve", args.session);
    let body = json!({ "tag": args.tag, "reason": args.reason });
    let answer = ask_one(&args.target, Method::POST, &path, Some(&body))?;
    tell(&args.form, &answer, "approved", &args.session)
}

fn tell(form: &Form, answer: &Value, what: &str, whose: &str) -> Result<ExitCode> {
    let done = answer[what].as_str().with_context(|| format!("the answer does not say what was {what}"))?;
    let text = format!("{what}: {done} of {whose}; what is halted because of it is to be re-armed\n");
    say(&if form.is_json() { format!("{answer:#}\n") } else { plain(&text) })?;
    Ok(ExitCode::SUCCESS)
}
