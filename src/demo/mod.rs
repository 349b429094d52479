//! `haltline demo`: the real service on loopback, the Knight morning streamed to it, and what stopped it.
//!
//! [`knight`] makes the orders, [`gateway`] sends and fills them without doing I/O itself, [`live`] drives
//! gateways over WebSocket connections and watches what they see, [`alone`] asks for each control when it
//! would have fired by itself.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use self::alone::{Alone, Cast, Fired, Outcome, Trial};
use self::live::{Live, LiveResult, scope_text};
use self::show::{Ink, Screen, at, count, usd};
use crate::duty::Clock;
use crate::limits::LimitTable;
use crate::model::{Mode, Rule, Universe};

pub mod alone;
pub mod gateway;
pub mod knight;
mod link;
pub mod live;
pub mod orders;
mod pacer;
mod show;
mod start;

/// Options of `haltline demo`.
#[derive(Args, Clone, Debug)]
pub struct DemoArgs {
    /// End after the table: with 0 if the flow was stopped, with 1 if it was not
    #[arg(long)]
    pub exit: bool,
    /// Which limits the service has: those of config/demo.toml, or none at all
    #[arg(long, value_enum, default_value_t = Controls::Config)]
    pub controls: Controls,
    /// Runs the scenario, and the service's clock with it, so many times as fast
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub speed: u32,
    /// Another seed is another morning: prices, parents and the healthy flow
    #[arg(long, default_value_t = 70_694)]
    pub seed: u64,
    /// Print nothing but one JSON object, as the last line
    #[arg(long)]
    pub json: bool,
}

/// Which limits the demo's service has.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Controls {
    /// Those of config/demo.toml.
    Config,
    /// Every limit is written out as unlimited: the disaster runs.
    None,
}

/// Gives the bearer token of a session, by its name.
pub type SessionToken = dyn Fn(&str) -> anyhow::Result<String>;

/// The running service, as the demo needs it.
pub struct ServiceHandle {
    /// Where the gateways connect: `ws://127.0.0.1:…`.
    pub ws_url: String,
    /// Where people ask: `http://127.0.0.1:…`, without a slash at the end.
    pub http_url: String,
    /// The tokens of the sessions.
    pub session_token: Box<SessionToken>,
    /// A bearer token with the operator's role, made for this run.
    pub operator_token: String,
    /// All names.
    pub universe: Arc<Universe>,
    /// The limits in force.
    pub limits: Arc<LimitTable>,
    /// The service's clock, which runs [`DemoArgs::speed`] times as fast.
    pub clock: Arc<dyn Clock>,
    /// Ends the service in an orderly way.
    pub shutdown: Box<dyn FnOnce() -> anyhow::Result<()>>,
}

/// Runs the demo.
///
/// # Errors
/// If the service cannot be started or reached, or the configuration lacks a name of the scenario.
pub fn run(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    let screen = Screen::new(args.json);
    screen.line(&headline(args));
    let service = start::service(args).context("starting the service")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    let summary = local.block_on(&runtime, morning(args, &screen, &service));
    // The streams end before the service does.
    drop(local);
    drop(runtime);
    let ended = (service.shutdown)().context("ending the service");
    let summary = summary?;
    ended?;
    screen.object(&summary.json(args).to_string());
    Ok(if args.exit && !summary.live.stopped { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn headline(args: &DemoArgs) -> String {
    let controls = match args.controls {
        Controls::Config => "the limits of config/demo.toml",
        Controls::None => "no limits at all",
    };
    let speed = if args.speed == 1 { String::new() } else { format!(", {} times as fast", args.speed) };
    format!("The morning of 1 August 2012 at Knight Capital, with {controls}{speed} (seed {})\n", args.seed)
}

/// Everything that the demo found out.
struct Summary {
    live: LiveResult,
    alone: Vec<Alone>,
}

async fn morning(args: &DemoArgs, screen: &Screen, service: &ServiceHandle) -> anyhow::Result<Summary> {
    let cast = Cast::default();
    let mut live =
        Live::open(service, screen, &cast, args.seed, args.speed, async |name| link::connect(service, name).await)
            .await?;
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    let observed = async {
        match args.controls {
            Controls::Config => {
                live.observe_halt().await;
                live.ask_state().await?;
            }
            Controls::None => {
                live.observe_disaster(args.exit).await;
            }
        }
        anyhow::Ok(live.result())
    };
    let observed = tokio::select! {
        result = observed => Some(result?),
        _ = &mut interrupt => None,
    };
    let Some(result) = observed else {
        return Ok(Summary { live: live.result(), alone: Vec::new() });
    };
    let (p50, p99, p999) = (micros(result.ask_ns[0]), micros(result.ask_ns[1]), micros(result.ask_ns[2]));
    let asks = count(result.asks);
    screen.line(&format!(
        "\n  ask round trip of {asks} asks at the gateways: p50 {p50} us, p99 {p99} us, p99.9 {p999} us"
    ));

    // The gateways keep streaming while the controls are tried one by one.
    let trial = Trial { universe: service.universe.clone(), limits: service.limits.clone(), cast, seed: args.seed };
    screen.start_bar(0, "each control alone");
    let bar = screen.bar();
    let (tell, told) = tokio::sync::oneshot::channel();
    // A thread that nobody joins: an interrupt ends the process without waiting for it.
    std::thread::Builder::new()
        .name("demo-alone".to_owned())
        .spawn(move || {
            let alone = trial.run_all(|known, of| {
                bar.set_length(of);
                bar.set_position(known);
            });
            // Nobody listens any more if the demo was interrupted.
            drop(tell.send(alone));
        })
        .context("starting a thread")?;
    if args.exit {
        live.end();
    }
    let told = tokio::select! {
        told = live.show_until(told) => Some(told.context("running each control alone")??),
        _ = &mut interrupt => None,
    };
    screen.end_bar();
    let Some(alone) = told else {
        return Ok(Summary { live: result, alone: Vec::new() });
    };
    let summary = Summary { live: result, alone };
    summary.show(screen, service);
    if !args.exit {
        invite(screen, service);
        // Ctrl-C is the way out; if it cannot be heard, the default action ends the process.
        live.serve(interrupt).await?.context("waiting for Ctrl-C")?;
    }
    Ok(summary)
}

/// Says how to press the switch, and waits for nobody.
fn invite(screen: &Screen, service: &ServiceHandle) {
    let (http, token) = (&service.http_url, &service.operator_token);
    let authorized = format!("curl -H 'Authorization: Bearer {token}'");
    let body = r#"-H 'Content-Type: application/json' -d '{"scope":{"kind":"firm"},"reason":"drill"}'"#;
    screen.line(&format!("\nServing at {http} and {} until Ctrl-C. Press the switch, or look:\n", service.ws_url));
    screen.line(&format!("  {authorized} {body} {http}/v1/kill"));
    screen.line(&format!("  {authorized} {http}/v1/state"));
    screen.line(&format!("  curl {http}/metrics\n"));
}

fn micros(ns: u64) -> String {
    format!("{:.1}", ns as f64 / 1_000.0)
}

impl Summary {
    fn show(&self, screen: &Screen, service: &ServiceHandle) {
        let universe = &service.universe;
        if !self.alone.is_empty() {
            screen.line("\nEach control alone, everything else unlimited, the same morning:\n");
            let mut rows: Vec<(u64, [String; 8])> =
                self.alone.iter().filter_map(|a| Some((a.fired?.at_ns, self.row(a, &a.fired?, universe)))).collect();
            rows.sort_by_key(|(at_ns, _)| *at_ns);
            let rows: Vec<[String; 8]> = rows.into_iter().map(|(_, row)| row).collect();
            screen.table(
                ["control", "scope", "fires at", "order", "executions out", "gross out", "what it does then", "live"],
                [false, false, true, true, true, true, false, false],
                &rows,
            );
            screen.line("");
            for line in self.never() {
                screen.line(&format!("  {line}"));
            }
        }
        screen.line("\nWhat happened, and what happened here:\n");
        let live = &self.live;
        let stopped_after = match live.halt_after_ns {
            Some(ns) if live.stopped => at(ns).replace("t+", ""),
            Some(_) => "halted, but not stopped".to_owned(),
            None => "not stopped".to_owned(),
        };
        let by = live.first.as_ref().map_or("-".to_owned(), |f| f.text.clone());
        screen.table(
            ["", "stopped after", "executions", "gross position", "by"],
            [false, true, true, true, false],
            &[
                [
                    "Knight, 1 August 2012".to_owned(),
                    "45 minutes".to_owned(),
                    count(knight::CHILDREN),
                    usd(knight::REAL_GROSS_USD * 100),
                    "no control".to_owned(),
                ],
                ["this run".to_owned(), stopped_after, count(live.executions_out), usd(live.gross_cents), by],
            ],
        );
        let lost = usd(knight::REAL_LOSS_USD * 100);
        screen
            .line(&format!("\n  Knight lost over {lost} (SEC Release 34-70694). What this run's position would have"));
        screen.line("  cost to unwind is not estimated: that depends on a market that is not simulated here.");
        let verdict = if live.stopped { screen.ink(Ink::Good, "STOPPED") } else { screen.ink(Ink::Bad, "NOT STOPPED") };
        screen.line(&format!("\n{verdict}"));
    }

    fn fired_live(&self, alone: &Alone) -> bool {
        self.live.fired.iter().any(|f| f.control == alone.control)
    }

    fn row(&self, alone: &Alone, fired: &Fired, universe: &Universe) -> [String; 8] {
        [
            alone.control.rule.name().to_owned(),
            alone.control.scope.name().to_owned(),
            at(fired.at_ns),
            format!("#{}", count(fired.order)),
            count(fired.executions_out),
            usd(fired.gross_cents),
            effect(alone, universe),
            if self.fired_live(alone) { "fired" } else { "-" }.to_owned(),
        ]
    }

    /// What did not fire by itself all morning: one line per rule.
    fn never(&self) -> Vec<String> {
        let mut lines: Vec<(Rule, String)> = Vec::new();
        for alone in self.alone.iter().filter(|a| a.fired.is_none()) {
            let scope = alone.control.scope.name();
            let live = if self.fired_live(alone) { " (fired live, after another)" } else { "" };
            match lines.last_mut().filter(|(rule, _)| *rule == alone.control.rule) {
                Some((_, line)) => *line += &format!(", {scope}{live}"),
                None => {
                    let line = format!("never by itself: {} at {scope}{live}", alone.control.rule.name());
                    lines.push((alone.control.rule, line));
                }
            }
        }
        lines.into_iter().map(|(_, line)| line).collect()
    }

    fn json(&self, args: &DemoArgs) -> Value {
        let live = &self.live;
        let controls = self.alone.iter().map(|a| {
            let fired = a.fired;
            json!({
                "rule": a.control.rule.name(),
                "scope": a.control.scope.name(),
                "fired": fired.is_some(),
                "at_ms": fired.map(|f| millis(f.at_ns)),
                "order": fired.map(|f| f.order),
                "executions_out": fired.map(|f| f.executions_out),
                "gross_usd_out": fired.map(|f| dollars(f.gross_cents)),
                "net_usd_out": fired.map(|f| dollars(f.net_cents)),
                "stops_the_flow": matches!(a.outcome, Outcome::Stopped { .. }),
                "fired_live": self.fired_live(a),
            })
        });
        json!({
            "stopped": live.stopped,
            "halt_after_ms": live.halt_after_ns.map(millis),
            "executions_out": live.executions_out,
            "gross_usd_out": dollars(live.gross_cents),
            "first_control": live.first.as_ref().map(|f| f.control.rule.name()),
            "controls": controls.collect::<Vec<_>>(),
            "ask_latency_us": {
                "p50": live.ask_ns[0] as f64 / 1_000.0,
                "p99": live.ask_ns[1] as f64 / 1_000.0,
                "p999": live.ask_ns[2] as f64 / 1_000.0,
            },
            "seed": args.seed,
            "speed": args.speed,
        })
    }
}

fn millis(ns: u64) -> f64 {
    (ns / 1_000) as f64 / 1_000.0
}

fn dollars(cents: i64) -> f64 {
    cents as f64 / 100.0
}

/// What became of the flow, in words.
fn effect(alone: &Alone, universe: &Universe) -> String {
    let mut text = match alone.outcome {
        Outcome::Never => "never fires".to_owned(),
        Outcome::Stopped { latched, last_ns, executions } => {
            let how = match latched {
                Some((Mode::Halted, scope)) => format!("halts {}", scope_text(universe, scope)),
                Some((Mode::ReduceOnly, scope)) => format!("reduce-only for {}", scope_text(universe, scope)),
                Some((Mode::Normal, _)) | None => "denies every order".to_owned(),
            };
            let later = alone.fired.is_some_and(|f| last_ns > f.at_ns + 1_000_000_000);
            if later { format!("{how}: stopped at {}, {} out", at(last_ns), count(executions)) } else { how }
        }
        Outcome::GoesOn { executions_per_s } => {
            format!("denies, but {} executions/s go on", count(executions_per_s))
        }
    };
    if alone.healthy_denied {
        text += ", healthy ones too";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::alone::Control;
    use super::live::LiveFired;
    use super::*;
    use crate::model::effect::Denial;
    use crate::model::{Scope, ScopeKind, Why};
    use crate::units::SessionId;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        demo: DemoArgs,
    }

    fn args(words: &[&str]) -> Result<DemoArgs, clap::Error> {
        Cli::try_parse_from([&["demo"], words].concat()).map(|cli| cli.demo)
    }

    fn summary() -> Summary {
        let control = Control { rule: Rule::OrderRate, scope: ScopeKind::Session };
        let scope = Scope::Session(SessionId(7));
        let denial = Denial { rule: Rule::OrderRate, why: Why::Breach, scope, observed: 301, limit: 300 };
        let fired = Fired {
            denial,
            at_ns: 202_500_000,
            order: 301,
            executions_out: 300,
            gross_cents: 52_238_855,
            net_cents: -1_250,
        };
        let outcome = Outcome::Stopped { latched: Some((Mode::Halted, scope)), last_ns: 202_225_000, executions: 300 };
        let never = Control { rule: Rule::Collar, scope: ScopeKind::Strategy };
        Summary {
            live: LiveResult {
                stopped: true,
                halt_after_ns: Some(203_400_000),
                executions_out: 300,
                gross_cents: 52_238_855,
                first: Some(LiveFired { control, text: String::new(), at_ns: 203_800_000, order: 301 }),
                fired: vec![LiveFired { control, text: String::new(), at_ns: 203_800_000, order: 301 }],
                ask_ns: [100_000, 250_000, 1_000_000],
                asks: 9_000,
            },
            alone: vec![
                Alone { control, fired: Some(fired), outcome, healthy_denied: false },
                Alone { control: never, fired: None, outcome: Outcome::Never, healthy_denied: false },
            ],
        }
    }

    #[test]
    fn options_are_what_the_readme_says() {
        let plain = args(&[]).unwrap();
        assert_eq!((plain.exit, plain.json, plain.speed, plain.seed), (false, false, 1, 70_694));
        assert_eq!(plain.controls, Controls::Config);
        assert_eq!(args(&["--controls", "none"]).unwrap().controls, Controls::None);
        assert!(args(&["--speed", "0"]).is_err() && args(&["--controls", "some"]).is_err());
    }

    #[test]
    fn the_object_has_every_promised_key() {
        let json = summary().json(&args(&["--speed", "2"]).unwrap());
        let expected = json!({
            "stopped": true,
            "halt_after_ms": 203.4,
            "executions_out": 300,
            "gross_usd_out": 522_388.55,
            "first_control": "order_rate",
            "controls": [
                {
                    "rule": "order_rate", "scope": "session", "fired": true, "at_ms": 202.5, "order": 301,
                    "executions_out": 300, "gross_usd_out": 522_388.55, "net_usd_out": -12.5,
                    "stops_the_flow": true, "fired_live": true,
                },
                {
                    "rule": "collar", "scope": "strategy", "fired": false, "at_ms": null, "order": null,
                    "executions_out": null, "gross_usd_out": null, "net_usd_out": null,
                    "stops_the_flow": false, "fired_live": false,
                },
            ],
            "ask_latency_us": { "p50": 100.0, "p99": 250.0, "p999": 1000.0 },
            "seed": 70_694,
            "speed": 2,
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn a_row_says_when_where_and_what_then() {
        let (summary, universe) = (summary(), gateway::tests::universe());
        let row = summary.row(&summary.alone[0], &summary.alone[0].fired.unwrap(), &universe);
        assert_eq!(row.join("|"), "order_rate|session|t+0.202s|#301|300|$522k|halts session smars-8|fired");
        assert_eq!(summary.never(), ["never by itself: collar at strategy"]);
        let mut slow = summary.alone[0];
        slow.outcome = Outcome::GoesOn { executions_per_s: 1_300 };
        slow.healthy_denied = true;
        assert_eq!(effect(&slow, &universe), "denies, but 1,300 executions/s go on, healthy ones too");
    }
}
