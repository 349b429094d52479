//! `limits show`: limits and how much of each is used, the most used first.

use std::cmp::Ordering;
use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;
use hyper::Method;
use serde_json::{Value, json};

use super::client::{Target, ask_one};
use super::{EXIT_FAILED, Form, plain, say};

/// Arguments of `limits show`.
#[derive(Args, Debug)]
pub struct ShowArgs {
    /// Only these scopes: a kind (strategy), or a kind and a name (strategy:alpha)
    #[arg(value_parser = scopes)]
    scopes: Option<Scopes>,
    /// Unlimited ones too
    #[arg(long)]
    all: bool,
    /// Show so many at most
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    target: Target,
}

#[derive(Clone, Debug)]
struct Scopes {
    kind: String,
    name: Option<String>,
}

fn scopes(text: &str) -> Result<Scopes, String> {
    let (kind, name) = text.split_once(':').map_or((text, None), |(kind, name)| (kind, Some(name.to_owned())));
    if !["firm", "account", "strategy", "pair", "instrument", "session"].contains(&kind) {
        return Err("must be firm, account, strategy, pair, instrument or session, or one of them and :NAME".to_owned());
    }
    Ok(Scopes { kind: kind.to_owned(), name })
}

/// What a query takes as it is; everything else is escaped.
fn escaped(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, b| {
        if b.is_ascii_alphanumeric() || b"-_.~".contains(&b) {
            out.push(char::from(b));
        } else {
            let _ = write!(out, "%{b:02X}");
        }
        out
    })
}

/// Shows limits. A stale engine is a failure: what is in use is old.
pub fn show(args: &ShowArgs) -> Result<ExitCode> {
    let mut path = format!("/v1/limits?rows=5000&all={}", args.all);
    if let Some(scopes) = &args.scopes {
        path += &format!("&kind={}", scopes.kind);
        if let Some(name) = &scopes.name {
            path += &format!("&name={}", escaped(name));
        }
    }
    let (mut rows, mut stale, mut from): (Vec<Value>, bool, Option<u64>) = (Vec::new(), false, None);
    loop {
        let page = from.map_or_else(|| path.clone(), |from| format!("{path}&from={from}"));
        let answer = ask_one(&args.target, Method::GET, &page, None)?;
        rows.extend(answer["limits"].as_array().context("the answer has no \"limits\"")?.iter().cloned());
        stale |= answer["stale"] != false;
        from = answer["next"].as_u64();
        if from.is_none() {
            break;
        }
    }
    sort(&mut rows);
    let left_out = rows.len().saturating_sub(args.count as usize);
    rows.truncate(args.count as usize);
    let text = if args.form.is_json() {
        format!("{:#}\n", json!({ "stale": stale, "limits": rows, "left_out": left_out }))
    } else {
        table(&rows, stale, left_out)
    };
    say(&text)?;
    Ok(ExitCode::from(if stale { EXIT_FAILED } else { 0 }))
}

/// The most used first; what is judged order by order, and so has no use, last.
fn sort(rows: &mut [Value]) {
    let used = |row: &Value| row["utilisation_percent"].as_f64().unwrap_or(-1.0);
    rows.sort_by(|a, b| used(b).partial_cmp(&used(a)).unwrap_or(Ordering::Equal));
}

fn table(rows: &[Value], stale: bool, left_out: usize) -> String {
    let scope = |row: &Value| {
        let (kind, name) = (row["scope"]["kind"].as_str().unwrap_or("?"), row["scope"]["name"].as_str().unwrap_or(""));
        if name.is_empty() { kind.to_owned() } else { format!("{kind}:{name}") }
    };
    let wide = rows.iter().map(|row| scope(row).len()).max().unwrap_or(0).max(5);
    let mut text = format!(
        "{:wide$}  {:20}  {:>7}  {:>16}  {:>16}  {:8}  on breach\n",
        "SCOPE", "RULE", "USED", "OBSERVED", "LIMIT", "UNIT"
    );
    for row in rows {
        let word = |key: &str| row[key].as_str().unwrap_or("-");
        let used = row["utilisation_percent"].as_f64().map_or_else(|| "-".to_owned(), |p| format!("{p:.1}%"));
        let action = row["action"]["do"].as_str().unwrap_or("?");
        let target = row["action"]["scope"].as_str().map(|scope| format!(" {scope}")).unwrap_or_default();
        let _ = writeln!(
            text,
            "{:wide$}  {:20}  {used:>7}  {:>16}  {:>16}  {:8}  {action}{target}",
            scope(row),
            word("rule"),
            word("observed"),
            word("limit"),
            word("unit")
        );
    }
    if left_out > 0 {
        let _ = writeln!(text, "{left_out} more: --count shows them");
    }
    if stale {
        text.push_str("the engine makes no progress: what is in use is old\n");
    }
    plain(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_used_limit_comes_first_and_what_has_no_use_last() {
        let row = |rule: &str, used: Option<f64>| {
            json!({ "scope": { "kind": "strategy", "name": "alpha" }, "rule": rule, "limit": "10", "observed": "1",
                "unit": "USD", "utilisation_percent": used, "action": { "do": "halt", "scope": "firm" } })
        };
        let mut rows = vec![row("collar", None), row("order_rate", Some(5.0)), row("gross_exposure", Some(97.25))];
        sort(&mut rows);
        let text = table(&rows, true, 3);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].contains("gross_exposure") && lines[1].contains("97.2%"), "{text}");
        assert!(lines[1].ends_with("halt firm") && lines[3].contains("collar"), "{text}");
        assert!(text.contains("3 more") && text.contains("no progress"), "{text}");
    }

    #[test]
    fn scopes_are_a_kind_or_a_kind_and_a_name_and_cannot_break_out_of_the_query() {
        assert!(scopes("strategy").unwrap().name.is_none());
        assert_eq!(scopes("strategy:a").unwrap().name.as_deref(), Some("a"));
        assert!(scopes("alpha").is_err());
        assert_eq!(escaped("a&b=c d/é"), "a%26b%3Dc%20d%2F%C3%A9");
    }
}
