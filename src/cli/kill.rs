//! `kill`: from the shortest way to the longest, until one has raised the halt; and the truth about each.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use hyper::Method;
use serde_json::{Value, json};

use super::client::{Door, Failure, Target, ask};
use super::follow::{self, Followed};
use super::page::{self, Raised};
use super::{EXIT_FAILED, EXIT_NOT_REACHED, EXIT_REFUSED, EXIT_USAGE, Exit, Form, ScopeArg, plain, say, scope};

/// Arguments of `kill`.
#[derive(Args, Debug)]
pub struct KillArgs {
    /// What to halt: firm, account:NAME, strategy:NAME, instrument:NAME or session:NAME
    #[arg(long, default_value = "firm", value_parser = scope)]
    scope: ScopeArg,
    /// Why: it is recorded
    #[arg(long, default_value = "haltline kill")]
    reason: String,
    /// How long to wait at the local socket, in ms; over HTTP at least 2000
    #[arg(long, value_name = "MS", default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    timeout: u64,
    /// Raise the halt page itself, whether or not a service answers. Needs the configuration, with its section [gate],
    /// and the right to write the page's file; nothing is recorded
    #[arg(long, requires = "config")]
    direct: bool,
    /// Wait until no order works any more, for so many seconds; success is only then. Tells the progress
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "30", conflicts_with = "direct",
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    wait_flat: Option<u64>,
    /// As --wait-flat, for as long as it takes
    #[arg(long, conflicts_with_all = ["direct", "wait_flat"])]
    follow: bool,
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    target: Target,
}

/// A network may be slower than a socket of this machine.
const HTTP_PATIENCE: Duration = Duration::from_secs(2);
/// `--follow` ends by itself after a week.
const FOLLOW_MAX: Duration = Duration::from_secs(7 * 86_400);
/// The longest that the service may be asked to wait for confirmations.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// One way that was tried.
#[derive(Clone, Debug, PartialEq)]
struct Rung {
    /// `local_socket`, `http` or `halt_page`.
    by: &'static str,
    /// Where.
    at: String,
    /// What came of it.
    result: Came,
    took: Duration,
}

/// What came of one way.
#[derive(Clone, Debug, PartialEq)]
enum Came {
    /// A receipt.
    Receipt(Value),
    /// The page was raised, and nobody has said anything.
    Raised(Raised),
    /// Nothing, or not that.
    Failed(Failure),
    /// It could not be tried.
    NotTried(String),
}

/// All that was tried, in order; the last is the first that raised the halt, if any did.
#[derive(Debug)]
struct Report {
    scope: ScopeArg,
    rungs: Vec<Rung>,
    /// What was told wrongly or too little.
    lacking: Vec<String>,
    kill_file: Option<String>,
    /// What waiting for flat came to, if that was asked for.
    followed: Option<Followed>,
}

/// Where it all ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Confirmed,
    Raised,
    Refused,
    NotReached,
}

/// Presses the button. Success is a receipt that says "confirmed".
pub fn kill(args: &KillArgs) -> Result<ExitCode> {
    let ways = args.target.ways();
    let mut report = Report {
        scope: args.scope.clone(),
        rungs: Vec::new(),
        lacking: ways.lacking,
        kill_file: ways.kill_file.as_deref().map(Path::display).map(|path| path.to_string()),
        followed: None,
    };
    let timeout = Duration::from_millis(args.timeout);
    let local = ways.local.map(|door| (door, timeout));
    let http = ways.http.map(|door| (door, timeout.max(HTTP_PATIENCE)));
    for (door, patience) in local.into_iter().chain(http).filter(|_| !args.direct) {
        report.rungs.push(press(&door, args, patience));
        if let Some(receipt) = report.receipt() {
            let most = if args.follow { Some(FOLLOW_MAX) } else { args.wait_flat.map(Duration::from_secs) };
            if let (Some(most), Some(id)) = (most, receipt["id"].as_str()) {
                report.followed = Some(follow::until_flat(&door, id, most));
            }
            break;
        }
    }
    if let (Some(path), Some(config), None) = (&ways.page, &args.target.config, report.receipt()) {
        report.rungs.push(raise(path, config, args));
    } else if args.direct {
        report.lacking.push("there is no halt page but the service's own: no section [gate] was found".to_owned());
        return Err(Exit { code: EXIT_NOT_REACHED, text: report.lacking.join("\n") }.into());
    }
    if report.rungs.is_empty() {
        report.lacking.push("where is the service? Give --config FILE, --socket PATH or --token-file FILE".to_owned());
        return Err(Exit { code: EXIT_USAGE, text: report.lacking.join("\n") }.into());
    }
    say(&if args.form.is_json() { format!("{:#}\n", report.to_json()) } else { plain(&report.to_text()) })?;
    Ok(ExitCode::from(match (&report.followed, report.outcome()) {
        (Some(followed), Outcome::Confirmed) if !followed.is_flat => EXIT_FAILED,
        (_, outcome) => outcome.exit_code(),
    }))
}

fn raise(path: &Path, config: &Path, args: &KillArgs) -> Rung {
    let begin = Instant::now();
    let result = match page::raise(path, config, &args.scope) {
        Ok(raised) => Came::Raised(raised),
        Err(error) => Came::NotTried(format!("{error:#}")),
    };
    Rung { by: "halt_page", at: format!("halt page {}", path.display()), result, took: begin.elapsed() }
}

fn press(door: &Door, args: &KillArgs, patience: Duration) -> Rung {
    // Half of the time is for the confirmations, so that the answer that some are missing still comes in time.
    let wait = (patience / 2).min(WAIT_MAX);
    let body = json!({ "scope": args.scope.to_json(), "reason": args.reason, "wait_ms": wait.as_millis() as u64 });
    let begin = Instant::now();
    let answer = ask(door, Method::POST, "/v1/kill", Some(&body), patience);
    let result = match answer {
        Ok(Ok(receipt)) if receipt["status"].is_string() => Came::Receipt(receipt),
        Ok(Ok(_)) => Came::Failed(Failure::Unclear("the answer is not a receipt".to_owned())),
        Ok(Err(failure)) => Came::Failed(failure),
        Err(error) => Came::NotTried(format!("{error:#}")),
    };
    let by = match door {
        Door::Local(_) => "local_socket",
        Door::Http { .. } => "http",
    };
    Rung { by, at: door.to_string(), result, took: begin.elapsed() }
}

impl Outcome {
    fn word(self) -> &'static str {
        match self {
            Outcome::Confirmed => "confirmed",
            Outcome::Raised => "raised",
            Outcome::Refused => "refused",
            Outcome::NotReached => "not_reached",
        }
    }

    fn exit_code(self) -> u8 {
        match self {
            Outcome::Confirmed => 0,
            Outcome::Raised => EXIT_FAILED,
            Outcome::Refused => EXIT_REFUSED,
            Outcome::NotReached => EXIT_NOT_REACHED,
        }
    }
}

impl Report {
    fn receipt(&self) -> Option<&Value> {
        self.rungs.iter().find_map(|rung| match &rung.result {
            Came::Receipt(receipt) => Some(receipt),
            Came::Raised(_) | Came::Failed(_) | Came::NotTried(_) => None,
        })
    }

    fn raised(&self) -> Option<Raised> {
        self.rungs.iter().find_map(|rung| match rung.result {
            Came::Raised(raised) => Some(raised),
            Came::Receipt(_) | Came::Failed(_) | Came::NotTried(_) => None,
        })
    }

    fn outcome(&self) -> Outcome {
        let refused = |rung: &Rung| matches!(rung.result, Came::Failed(Failure::Refused(_)));
        match self.receipt() {
            Some(receipt) if receipt["status"] == "confirmed" => Outcome::Confirmed,
            Some(_) => Outcome::Raised,
            None if self.raised().is_some() => Outcome::Raised,
            None if self.rungs.iter().any(refused) => Outcome::Refused,
            None => Outcome::NotReached,
        }
    }

    /// What nobody has vouched for.
    fn unconfirmed(&self) -> Vec<String> {
        let mut list = Vec::new();
        match self.receipt() {
            Some(receipt) => {
                let missing = &receipt["missing"];
                if missing["latch"] != false {
                    let why = receipt["latch"]["error"].as_str().map(|error| format!(": {error}")).unwrap_or_default();
                    list.push(format!("the halt is not on disk yet, a restart could lose it{why}"));
                }
                let names = missing["session_names"].as_array().into_iter().flatten().filter_map(Value::as_str);
                let names: Vec<&str> = names.collect();
                let count = missing["sessions"].as_u64().unwrap_or(u64::MAX);
                if count > 0 {
                    let more = if count > names.len() as u64 { " and more" } else { "" };
                    list.push(format!("check by hand: no confirmation from session {}{more}", names.join(", ")));
                }
                if missing["gates"] != 0 {
                    let waits = |gate: &&Value| gate["confirmed_ns"].is_null();
                    let gates = receipt["gates"].as_array().into_iter().flatten().filter(waits).map(gate_name);
                    let gates = gates.collect::<Vec<_>>().join(", ");
                    list.push(format!("check by hand: no confirmation from gate {gates}"));
                }
            }
            None if let Some(raised) = self.raised() => {
                let was_asked = self.rungs.len() > 1;
                let why = if was_asked { "no answer from haltline" } else { "haltline was not asked" };
                list.push(format!("{why}: who and why is recorded nowhere"));
                list.push("an order that a gate had let through may still leave; later ones see the page".to_owned());
                if !raised.barrier {
                    list.push("no membarrier here: gates may take some microseconds to see the page".to_owned());
                }
                list.push("sessions over WebSocket are told when haltline looks again, if it runs".to_owned());
                list.push(
                    "the halt is in memory: a restart of haltline takes it over, one of the host loses it".to_owned(),
                );
            }
            None => {
                list.push(format!("nothing is known to be halted: check {} by hand", self.scope));
                if self.rungs.iter().any(|rung| matches!(rung.result, Came::Failed(Failure::NoAnswer(_)))) {
                    list.push("a service that did not answer may still take the kill when it runs again".to_owned());
                }
            }
        }
        list
    }

    /// What else there is to do.
    fn advice(&self) -> Vec<String> {
        if self.receipt().is_some() || self.raised().is_some() {
            return Vec::new();
        }
        let mut list = Vec::new();
        if let Some(path) = &self.kill_file {
            list.push(format!("touch {path}   # the service looks for this file; it also halts a service that starts"));
        }
        list.push("kill -USR1 PID   # PID of haltline serve: halts the firm".to_owned());
        list.push("stop the gateways themselves, or have the venue cut the sessions".to_owned());
        list
    }

    fn to_json(&self) -> Value {
        let rung = |rung: &Rung| {
            let (result, text) = match &rung.result {
                Came::Receipt(_) => ("receipt", ""),
                Came::Raised(_) => ("raised", ""),
                Came::Failed(failure) => {
                    let word = match failure {
                        Failure::NotReached(_) => "not_reached",
                        Failure::NoAnswer(_) => "no_answer",
                        Failure::Refused(_) => "refused",
                        Failure::Unclear(_) => "unclear",
                    };
                    (word, failure.text())
                }
                Came::NotTried(why) => ("not_tried", &**why),
            };
            json!({ "by": rung.by, "at": rung.at, "result": result, "text": text, "ms": rung.took.as_millis() as u64 })
        };
        json!({
            "outcome": self.outcome().word(),
            "tried": self.rungs.iter().map(rung).collect::<Vec<_>>(),
            "unconfirmed": self.unconfirmed(),
            "lacking": self.lacking,
            "receipt": self.receipt(),
            "flat": self.followed.as_ref().map(|followed| json!({
                "flat": followed.is_flat, "why": followed.why, "cancels": followed.flat,
            })),
            "page": self.raised().map(|raised| json!({
                "mode": raised.word.mode.name(), "epoch": raised.word.epoch, "barrier": raised.barrier,
                "lease_ns": raised.lease_ns,
            })),
        })
    }

    fn to_text(&self) -> String {
        let mut text = String::new();
        let mut line = |line: String| {
            text.push_str(&line);
            text.push('\n');
        };
        for lacking in &self.lacking {
            line(format!("note: {lacking}"));
        }
        for rung in &self.rungs {
            let ms = rung.took.as_millis();
            match &rung.result {
                Came::Receipt(_) => line(format!("{}: answered after {ms} ms", rung.at)),
                Came::Raised(_) => line(format!("{}: raised", rung.at)),
                Came::Failed(failure @ Failure::Refused(_)) => {
                    line(format!("{}: REFUSED: {}", rung.at, failure.text()));
                }
                Came::Failed(failure) => line(format!("{}: {}", rung.at, failure.text())),
                Came::NotTried(why) => line(format!("{}: not tried: {why}", rung.at)),
            }
        }
        match self.outcome() {
            Outcome::Confirmed => line(format!("{}: HALTED, confirmed", self.scope)),
            Outcome::Raised => line(format!("{}: raised, NOT CONFIRMED", self.scope)),
            Outcome::Refused => line(format!("{}: NOT HALTED by this: refused", self.scope)),
            Outcome::NotReached => line(format!("{}: NOT HALTED as far as is known: nothing was reached", self.scope)),
        }
        if let Some(receipt) = self.receipt() {
            receipt_lines(receipt, &mut line);
        }
        if let Some(raised) = self.raised() {
            let (mode, epoch) = (raised.word.mode.name(), raised.word.epoch);
            line(format!("  mode {mode}, epoch {epoch}: gates deny from their next look"));
            line(match raised.lease_ns {
                None => "  the lease has lapsed: gates let nothing through in any scope".to_owned(),
                Some(ns) => format!("  the lease holds for {} ms more: haltline ran a moment ago", ns / 1_000_000),
            });
        }
        for unconfirmed in self.unconfirmed() {
            line(format!("  ! {unconfirmed}"));
        }
        if let Some(followed) = &self.followed {
            line(format!("  {}", follow::progress(&followed.flat)));
            if let Some(why) = &followed.why {
                line(format!("  ! NOT FLAT: {why}"));
            }
        }
        let advice = self.advice();
        if !advice.is_empty() {
            line("what else halts:".to_owned());
        }
        for advice in advice {
            line(format!("  {advice}"));
        }
        text
    }
}

/// A span in ns as ms with two places.
fn ms(value: &Value) -> Option<String> {
    let ns = value.as_u64()?;
    Some(format!("{}.{:02} ms", ns / 1_000_000, ns / 10_000 % 100))
}

fn gate_name(gate: &Value) -> String {
    format!("{} (process {})", gate["session"].as_str().unwrap_or("?"), gate["pid"])
}

fn receipt_lines(receipt: &Value, line: &mut impl FnMut(String)) {
    let word = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    line(format!(
        "  mode {}, epoch {}, receipt {}, by {}",
        word(&receipt["mode"]),
        receipt["epoch"],
        word(&receipt["id"]),
        word(&receipt["actor"])
    ));
    let raised = ms(&receipt["raised_ns"]).unwrap_or_else(|| "?".to_owned());
    let latch = match ms(&receipt["latch"]["durable_ns"]) {
        Some(after) => format!("on disk after {after}"),
        None => format!("not on disk ({})", word(&receipt["latch"]["status"])),
    };
    line(format!("  page raised after {raised}, {latch}"));
    for gate in receipt["gates"].as_array().into_iter().flatten() {
        let after = ms(&gate["confirmed_ns"]).map(|after| format!(" after {after}")).unwrap_or_default();
        line(format!("  gate {}: {}{after}", gate_name(gate), word(&gate["status"]).replace('_', " ")));
    }
    let by_socket = |session: &&Value| session["status"] != "gate";
    for session in receipt["sessions"].as_array().into_iter().flatten().filter(by_socket) {
        let after = ms(&session["confirmed_ns"]).map(|after| format!(" after {after}")).unwrap_or_default();
        line(format!("  session {}: {}{after}", word(&session["name"]), word(&session["status"]).replace('_', " ")));
    }
    match receipt["working_orders"].as_i64() {
        Some(0) => {}
        Some(orders) => line(format!("  {orders} orders were working: haltline has them canceled, see --wait-flat")),
        None => line("  how many orders are working is not known".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use haltline::kill::page::ModeWord;
    use haltline::model::Mode;

    use super::*;

    fn report(results: Vec<Came>) -> Report {
        let rung = |result| Rung { by: "http", at: "http://x:1".into(), result, took: Duration::from_millis(3) };
        Report {
            scope: scope("strategy:alpha").unwrap(),
            rungs: results.into_iter().map(rung).collect(),
            lacking: vec![],
            kill_file: Some("/run/KILL".into()),
            followed: None,
        }
    }

    fn receipt(status: &str, latch: bool, sessions: &[&str]) -> Came {
        Came::Receipt(json!({
            "status": status, "mode": "halted", "epoch": 7, "id": "8", "actor": "local:root", "raised_ns": 72_568,
            "missing": { "latch": latch, "sessions": sessions.len(), "session_names": sessions, "gates": 0 },
            "gates": [{ "session": "gw2", "pid": 77, "status": "confirmed", "confirmed_ns": 12_000 }],
            "latch": { "status": "durable", "durable_ns": 2_070_000 }, "working_orders": 3,
            "sessions": [{ "name": "gw\u{1b}1", "status": "confirmed", "confirmed_ns": 691_878 }],
        }))
    }

    #[test]
    fn the_outcome_is_the_worst_that_is_true() {
        let no_answer = || Came::Failed(Failure::NoAnswer("late".into()));
        let refused = || Came::Failed(Failure::Refused("403".into()));
        let gone = || Came::Failed(Failure::NotReached("gone".into()));
        let word = ModeWord { mode: Mode::Halted, epoch: 7 };
        let raised = || Came::Raised(Raised { word, barrier: true, lease_ns: None });
        let cases = [
            (vec![receipt("confirmed", false, &[])], Outcome::Confirmed, 0),
            (vec![no_answer(), receipt("confirmed", false, &[])], Outcome::Confirmed, 0),
            (vec![receipt("unconfirmed", true, &[])], Outcome::Raised, 1),
            (vec![refused(), receipt("unconfirmed", false, &["gw-1"])], Outcome::Raised, 1),
            (vec![refused(), no_answer()], Outcome::Refused, 4),
            (vec![refused(), no_answer(), raised()], Outcome::Raised, 1),
            (vec![gone(), Came::NotTried("no token".into())], Outcome::NotReached, 5),
            (vec![Came::Failed(Failure::Unclear("odd".into()))], Outcome::NotReached, 5),
        ];
        for (results, outcome, code) in cases {
            let report = report(results);
            assert_eq!((report.outcome(), outcome.exit_code()), (outcome, code), "{report:?}");
            assert_eq!(report.to_json()["outcome"], outcome.word());
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let late = report(vec![receipt("unconfirmed", true, &["gw-1", "gw-2"])]);
        let text = late.unconfirmed().join("\n");
        assert!(text.contains("not on disk") && text.contains("gw-1, gw-2"), "{text}");
        assert_eq!(report(vec![receipt("confirmed", false, &[])]).unconfirmed(), Vec::<String>::new());
        // A receipt that says nothing of what is missing vouches for nothing.
        let odd = report(vec![Came::Receipt(json!({ "status": "unconfirmed" }))]);
        assert_eq!(odd.unconfirmed().len(), 3);
        let inside = json!({ "session": "gw2", "pid": 77, "status": "inside", "confirmed_ns": null });
        let mut gate = json!({ "status": "unconfirmed", "gates": [inside] });
        gate["missing"] = json!({ "latch": false, "sessions": 0, "session_names": [], "gates": 1 });
        let text = report(vec![Came::Receipt(gate)]).unconfirmed();
        assert_eq!(text, ["check by hand: no confirmation from gate gw2 (process 77)"]);
        let stuck = report(vec![Came::Failed(Failure::NoAnswer("connected, but no answer within 500 ms".into()))]);
        let text = stuck.to_text();
        for part in ["no answer within 500 ms", "NOT HALTED", "may still take the kill", "touch /run/KILL", "USR1"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn a_person_reads_what_was_reached_and_nothing_moves_the_cursor() {
        let text = plain(&report(vec![receipt("confirmed", false, &[])]).to_text());
        assert_eq!(
            text,
            "http://x:1: answered after 3 ms\nstrategy alpha: HALTED, confirmed\n  mode halted, epoch 7, receipt 8, by \
             local:root\n  page raised after 0.07 ms, on disk after 2.07 ms\n  gate gw2 (process 77): confirmed after 0.01 ms\n  session gw1: confirmed after 0.69 ms\n  \
             3 orders were working: haltline has them canceled, see --wait-flat\n"
        );
    }
}
