//! `alerts`: what is open, and the answer of whoever looks at it.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;
use hyper::Method;
use serde_json::{Value, json};

use super::client::{Target, ask_one};
use super::{EXIT_TRIPPED, Form, plain, say};

/// Arguments of `alerts`.
#[derive(Args, Debug)]
pub struct AlertsArgs {
    /// Acknowledge the alert with this id: you look at it
    #[arg(long, value_name = "ID", requires = "reason", conflicts_with = "all")]
    ack: Option<u64>,
    /// What you know of it: it is recorded
    #[arg(long, requires = "ack")]
    reason: Option<String>,
    /// List alerts that are over, too
    #[arg(long)]
    all: bool,
    /// At least this bad
    #[arg(long, value_parser = ["info", "warning", "critical"], conflicts_with = "ack")]
    severity: Option<String>,
    /// The most alerts to list
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    count: u32,
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    target: Target,
}

/// Lists alerts, or acknowledges one. A list with a critical alert that nobody has acknowledged ends with a code of its own.
pub fn alerts(args: &AlertsArgs) -> Result<ExitCode> {
    let answer = match args.ack {
        Some(id) => {
            let body = json!({ "reason": args.reason });
            ask_one(&args.target, Method::POST, &format!("/v1/alerts/{id}/ack"), Some(&body))?
        }
        None => {
            let mut path = format!("/v1/alerts?open={}&count={}", !args.all, args.count);
            if let Some(severity) = &args.severity {
                path += &format!("&severity={severity}");
            }
            ask_one(&args.target, Method::GET, &path, None)?
        }
    };
    let text = match args.ack {
        Some(_) => line(&answer),
        None => table(&answer)?,
    };
    say(&if args.form.is_json() { format!("{answer:#}\n") } else { plain(&text) })?;
    let waits = answer["unacknowledged_critical"].as_u64().unwrap_or(0) > 0;
    Ok(if waits { ExitCode::from(EXIT_TRIPPED) } else { ExitCode::SUCCESS })
}

fn table(answer: &Value) -> Result<String> {
    let list = answer["alerts"].as_array().context("the answer has no alerts")?;
    let mut text: String = list.iter().map(line).collect();
    if list.is_empty() {
        text += "no alerts\n";
    }
    match answer["unacknowledged_critical"].as_u64().unwrap_or(0) {
        0 => {}
        n => writeln!(text, "{n} critical without an answer: haltline alerts --ack ID --reason …")?,
    }
    if !answer["next"].is_null() {
        text += "there are more: --count\n";
    }
    Ok(text)
}

/// An alert in two lines: what it is, and what happened.
fn line(alert: &Value) -> String {
    let word = |key: &str| alert[key].as_str().unwrap_or("?").to_owned();
    let (kind, name) = (&alert["scope"]["kind"], &alert["scope"]["name"]);
    let scope = match (kind.as_str(), name.as_str()) {
        (Some(kind), Some(name)) => format!(" {}", format!("{kind} {name}").trim_end()),
        _ => String::new(),
    };
    let answered = match (alert["acknowledged"]["by"].as_str(), alert["acknowledged"]["reason"].as_str()) {
        (Some(by), Some(reason)) => format!(" by {by}: {reason}"),
        _ => format!(", owner {}", word("owner")),
    };
    format!(
        "{:>6}  {:<8} {:<12} {} {}{scope}, {} times since {}{answered}\n        {}\n",
        word("id"),
        word("severity"),
        word("state"),
        word("kind"),
        word("name"),
        alert["count"],
        word("at"),
        word("text"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alert_says_what_where_how_often_and_who_has_it() {
        let mut alert = json!({
            "id": "7", "severity": "critical", "state": "firing", "kind": "signature", "name": "power_peg",
            "scope": { "kind": "session", "name": "gw-8" }, "count": 97, "at": "2012-08-01T12:01:00Z",
            "owner": "desk", "acknowledged": null, "text": "Power Peg disabled",
        });
        let text = line(&alert);
        for part in ["7  critical firing", "session gw-8, 97 times", "owner desk", "\n        Power Peg disabled\n"] {
            assert!(text.contains(part), "{part:?} not in {text:?}");
        }
        alert["acknowledged"] = json!({ "by": "alice", "reason": "looking" });
        assert!(line(&alert).contains("by alice: looking"));
        let answer = json!({ "alerts": [alert], "unacknowledged_critical": 2, "next": 7 });
        let text = table(&answer).unwrap();
        assert!(text.contains("2 critical without an answer") && text.contains("--count"), "{text}");
        assert_eq!(table(&json!({ "alerts": [] })).unwrap(), "no alerts\n");
        assert!(table(&json!({})).is_err());
    }
}
