//! `preflight`: whether this fleet may open, on one page.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;
use hyper::Method;
use serde_json::Value;

use super::client::{Target, ask_one};
use super::{EXIT_TRIPPED, Form, plain, say};

/// Arguments of `preflight`.
#[derive(Args, Debug)]
pub struct PreflightArgs {
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    target: Target,
}

/// Shows the page.
pub fn preflight(args: &PreflightArgs) -> Result<ExitCode> {
    let page = ask_one(&args.target, Method::GET, "/v1/preflight", None)?;
    let (may_open, text) = summary(&page)?;
    say(&if args.form.is_json() { format!("{page:#}\n") } else { text })?;
    Ok(if may_open { ExitCode::SUCCESS } else { ExitCode::from(EXIT_TRIPPED) })
}

/// Whether the fleet may open, and the page in lines.
fn summary(page: &Value) -> Result<(bool, String)> {
    let checks = page["checks"].as_array().context("the answer has no \"checks\"")?;
    let mut text = String::new();
    let mut failed = checks.is_empty();
    for check in checks {
        let mark = match check["outcome"].as_str() {
            Some("pass") => "ok   ",
            Some("note") => "note ",
            // What is not understood is no all-clear.
            Some(_) | None => {
                failed = true;
                "FAIL "
            }
        };
        let word = |key: &str| check[key].as_str().unwrap_or("?");
        text.push_str(&format!("{mark} {:12} {}\n", word("name"), word("text")));
    }
    let may_open = page["may_open"] == true && !failed;
    text.push_str(if may_open { "this fleet may open\n" } else { "THIS FLEET MAY NOT OPEN\n" });
    Ok((may_open, plain(&text)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_page_that_is_not_understood_opens_nothing() {
        let check = |outcome: &str| json!({ "name": "builds", "outcome": outcome, "text": "x" });
        let opens = |page: &Value| summary(page).unwrap().0;
        assert!(opens(&json!({ "may_open": true, "checks": [check("pass"), check("note")] })));
        assert!(!opens(&json!({ "may_open": true, "checks": [check("pass"), check("fail")] })));
        assert!(!opens(&json!({ "may_open": false, "checks": [check("pass")] })));
        assert!(!opens(&json!({ "may_open": true, "checks": [check("excellent")] })));
        assert!(!opens(&json!({ "may_open": true, "checks": [] })));
        assert!(summary(&json!({ "may_open": true })).is_err());
        let (_, text) = summary(&json!({ "may_open": false, "checks": [check("fail")] })).unwrap();
        assert_eq!(text, "FAIL  builds       x\nTHIS FLEET MAY NOT OPEN\n");
    }
}
