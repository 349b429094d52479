//! `haltline demo`: the real service on loopback, the Knight morning streamed to it, and what stopped it.
//!
//! [`knight`] makes the orders, [`gateway`] sends and fills them without doing I/O itself, [`live`] drives
//! gateways over WebSocket connections and watches what they see, [`alone`] asks for each control when it
//! would have fired by itself, [`morning`] is what happened before the orders and beside them, and the tables.

use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use self::alone::{Cast, Control, Found, Trial};
use self::live::{Live, LiveResult, Pace};
use self::morning::guard::{GuardSettings, claim};
use self::morning::story::{Build, OLD_FLAG, Plot};
use self::morning::table;
use self::show::{Ink, Screen, at, count, usd};
use crate::duty::Clock;
use crate::limits::LimitTable;
use crate::model::{Claim, Universe};

pub mod alone;
pub mod gateway;
pub mod knight;
mod link;
pub mod live;
pub mod morning;
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
    /// How the guard is configured.
    pub guard: GuardSettings,
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
    let hello = match args.controls {
        Controls::Config => Some(at_the_hello(args, &screen)?),
        Controls::None => None,
    };
    let service = start::service(args, None).context("starting the service")?;
    let universe = service.universe.clone();
    let kept_out = hello.as_ref().is_none_or(|hello| hello.stopped);
    let summary = on_a_runtime(service, async |service| morning(args, &screen, service, hello).await)?;
    screen.object(&summary.json(args, &universe).to_string());
    Ok(if args.exit && !(summary.live.stopped && kept_out) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Runs `part` with `service`, and ends that.
fn on_a_runtime<T>(
    service: ServiceHandle,
    part: impl AsyncFnOnce(&ServiceHandle) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    let result = local.block_on(&runtime, part(&service));
    // The streams end before the service does.
    drop(local);
    drop(runtime);
    let ended = (service.shutdown)().context("ending the service");
    let result = result?;
    ended?;
    Ok(result)
}

/// How long the instances are watched that were held against a manifest, scenario time.
const HELLO_NS: u64 = 2_000_000_000;

/// The open with attestation on: what each instance says of itself when it connects, the real service holds against a signed
/// manifest. The one that missed the deployment says what it runs, and sends nothing.
fn at_the_hello(args: &DemoArgs, screen: &Screen) -> anyhow::Result<LiveResult> {
    screen.line("Live, each instance held against a signed manifest when it says hello:\n");
    let cast = Cast::default();
    let instances = cast.sessions();
    let service = start::service(args, Some(&instances)).context("starting the service with a manifest")?;
    let claims = instances.iter().map(|name| {
        let build = if *name == cast.bad { Build::Old } else { Build::New };
        Ok((name.clone(), claim(build, OLD_FLAG, true)?))
    });
    let claims = claims.collect::<anyhow::Result<HashMap<String, Claim>>>()?;
    let result = on_a_runtime(service, async |service| {
        let connect = async |name: &str| {
            let claim = claims.get(name).cloned().unwrap_or_default();
            link::connect(service, name, claim).await
        };
        let mut live =
            Live::open(service, screen, &cast, args.seed, Pace::of_host(args.speed, &cast)?, connect).await?;
        let result = live.observe_for(HELLO_NS).await;
        live.end();
        Ok(result)
    })?;
    screen.line("\nLive again, as if nobody had looked at what they run: the limits alone.\n");
    Ok(result)
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
    /// The open with attestation on; `None`: nothing was attested.
    hello: Option<LiveResult>,
    /// `None`: it was interrupted before that was known.
    found: Option<Found>,
}

async fn morning(
    args: &DemoArgs,
    screen: &Screen,
    service: &ServiceHandle,
    hello: Option<LiveResult>,
) -> anyhow::Result<Summary> {
    let cast = Cast::default();
    let pace = Pace::of_host(args.speed, &cast)?;
    let mut live = Live::open(service, screen, &cast, args.seed, pace, async |name| {
        link::connect(service, name, Claim::default()).await
    })
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
        return Ok(Summary { live: live.result(), hello, found: None });
    };
    let (p50, p99, p999) = (micros(result.ask_ns[0]), micros(result.ask_ns[1]), micros(result.ask_ns[2]));
    let asks = count(result.asks);
    screen.line(&format!(
        "\n  ask round trip of {asks} asks at the gateways: p50 {p50} us, p99 {p99} us, p99.9 {p999} us"
    ));

    // The gateways keep streaming while the controls are tried one by one.
    let trial = Trial {
        universe: service.universe.clone(),
        limits: service.limits.clone(),
        cast,
        seed: args.seed,
        plot: Plot::knight(args.seed),
        settings: service.guard.clone(),
    };
    screen.start_bar(0, "each control alone");
    let bar = screen.bar();
    let (tell, told) = tokio::sync::oneshot::channel();
    // A thread that nobody joins: an interrupt ends the process without waiting for it.
    std::thread::Builder::new()
        .name("demo-alone".to_owned())
        .spawn(move || {
            let found = trial.run_all(|known, of| {
                bar.set_length(of);
                bar.set_position(known);
            });
            // Nobody listens any more if the demo was interrupted.
            drop(tell.send(found));
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
    let Some(found) = told else {
        return Ok(Summary { live: result, hello, found: None });
    };
    let summary = Summary { live: result, hello, found: Some(found) };
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
        if let Some(found) = &self.found {
            table::show(found, universe, &|control| self.fired_live(control), screen);
        }
        screen.line("\nWhat happened, and what happened here:\n");
        let live = &self.live;
        let stopped_after = match live.halt_after_ns {
            Some(ns) if live.stopped => at(ns).replace("t+", ""),
            Some(_) => "halted, but not stopped".to_owned(),
            None => "not stopped".to_owned(),
        };
        let by = live.first.as_ref().map_or("-".to_owned(), |f| f.text.clone());
        let knight = [
            "Knight, 1 August 2012".to_owned(),
            "45 minutes".to_owned(),
            count(knight::CHILDREN),
            usd(knight::REAL_GROSS_USD * 100),
            "no control".to_owned(),
        ];
        let hello = self.hello.as_ref().map(|hello| {
            let stopped = if hello.stopped { "at the hello" } else { "not stopped" };
            let (executions, gross) = (count(hello.executions_out), usd(hello.gross_cents));
            ["this run, with a manifest".to_owned(), stopped.to_owned(), executions, gross, "attestation".to_owned()]
        });
        let limits = if hello.is_some() { "this run, limits alone" } else { "this run" };
        let run = [limits.to_owned(), stopped_after, count(live.executions_out), usd(live.gross_cents), by];
        screen.table(
            ["", "stopped after", "executions", "gross position", "by"],
            [false, true, true, true, false],
            &[knight].into_iter().chain(hello).chain([run]).collect::<Vec<_>>(),
        );
        let lost = usd(knight::REAL_LOSS_USD * 100);
        screen
            .line(&format!("\n  Knight lost over {lost} (SEC Release 34-70694). What this run's position would have"));
        screen.line("  cost to unwind is not estimated: that depends on a market that is not simulated here.");
        let verdict = if live.stopped { screen.ink(Ink::Good, "STOPPED") } else { screen.ink(Ink::Bad, "NOT STOPPED") };
        screen.line(&format!("\n{verdict}"));
    }

    fn fired_live(&self, control: Control) -> bool {
        self.live.fired.iter().any(|f| f.control == control)
    }

    fn json(&self, args: &DemoArgs, universe: &Universe) -> Value {
        let live = &self.live;
        let found = self.found.as_ref();
        let found = found.map(|found| table::found_json(found, universe, &|control| self.fired_live(control)));
        let live = json!({
            "stopped": live.stopped,
            "halt_after_ms": live.halt_after_ns.map(millis),
            "executions_out": live.executions_out,
            "gross_usd_out": dollars(live.gross_cents),
            "attested": self.hello.as_ref().map(|hello| {
                json!({ "kept_out": hello.stopped, "executions_out": hello.executions_out })
            }),
            "first_control": live.first.as_ref().map(|f| f.control.rule.name()),
            "ask_latency_us": {
                "p50": live.ask_ns[0] as f64 / 1_000.0,
                "p99": live.ask_ns[1] as f64 / 1_000.0,
                "p999": live.ask_ns[2] as f64 / 1_000.0,
            },
            "seed": args.seed,
            "speed": args.speed,
        });
        found.map_or(live.clone(), |found| table::with(live, found))
    }
}

fn millis(ns: u64) -> f64 {
    (ns / 1_000) as f64 / 1_000.0
}

fn dollars(cents: i64) -> f64 {
    cents as f64 / 100.0
}

#[cfg(test)]
mod tests {
    use super::alone::{Alone, Covered, Fired, GuardAlone, Moment, Outcome};
    use super::live::LiveFired;
    use super::morning::guard::GuardControl;
    use super::morning::story::DEPLOYMENT;
    use super::*;
    use crate::model::effect::Denial;
    use crate::model::{Mode, Rule, Scope, ScopeKind, Why};
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
        let stands = Outcome::Stopped { latched: Some((Mode::Halted, scope)), last_ns: 0, executions: 0 };
        let minority = GuardAlone {
            control: Some(GuardControl::Minority),
            fired: Some(Moment { at: DEPLOYMENT, ..Moment::default() }),
            text: "session smars-8: it is of the minority".to_owned(),
            halted: vec![(DEPLOYMENT, scope)],
            outcome: stands,
            admitted_after_halt: 0,
            healthy_denied: false,
        };
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
            hello: None,
            found: Some(Found {
                limits: vec![
                    Alone { control, fired: Some(fired), outcome, healthy_denied: false },
                    Alone { control: never, fired: None, outcome: Outcome::Never, healthy_denied: false },
                ],
                guard: vec![minority.clone()],
                together: minority,
                uncovered: None,
                around: None,
                late: Alone {
                    control: Control { rule: Rule::ClockSkew, scope: ScopeKind::Session },
                    fired: None,
                    outcome: Outcome::Never,
                    healthy_denied: false,
                },
                covered: Covered { orders: 4_000_000, without_collar: 0 },
            }),
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
        let mut json = summary().json(&args(&["--speed", "2"]).unwrap(), &gateway::tests::universe());
        let minority = json!({
            "control": "fleet_minority", "link": 4, "fired": true, "at": "27 Jul 20:00:00", "at_ms": -394_200_000.0,
            "order": 0, "executions_out": 0, "gross_usd_out": 0.0, "net_usd_out": 0.0,
            "text": "session smars-8: it is of the minority",
            "halted": [{ "at": "27 Jul 20:00:00", "scope": "session smars-8" }],
            "stops_the_flow": true, "admitted_after_halt": 0,
        });
        let chain = json.as_object_mut().unwrap().remove("chain").unwrap();
        let expected = json!({
            "stopped": true,
            "halt_after_ms": 203.4,
            "executions_out": 300,
            "gross_usd_out": 522_388.55,
            "attested": null,
            "first_control": "order_rate",
            "controls": [
                {
                    "rule": "order_rate", "scope": "session", "link": 9, "fired": true, "at": "09:30:00.202",
                    "at_ms": 202.5, "order": 301, "executions_out": 300, "gross_usd_out": 522_388.55,
                    "net_usd_out": -12.5, "stops_the_flow": true, "fired_live": true,
                },
                {
                    "rule": "collar", "scope": "strategy", "link": 6, "fired": false, "at": null, "at_ms": null,
                    "order": null, "executions_out": null, "gross_usd_out": null, "net_usd_out": null,
                    "stops_the_flow": false, "fired_live": false,
                },
            ],
            "coverage": [],
            "late": [{
                "rule": "clock_skew", "scope": "session", "link": 12, "fired": false, "at": null, "at_ms": null,
                "order": null, "executions_out": null, "gross_usd_out": null, "net_usd_out": null,
                "stops_the_flow": false, "fired_live": false,
            }],
            "guard": [minority],
            "together": minority,
            "collar": { "orders": 4_000_000, "not_looked_at": 0 },
            "ask_latency_us": { "p50": 100.0, "p99": 250.0, "p999": 1000.0 },
            "seed": 70_694,
            "speed": 2,
        });
        assert_eq!(json, expected);
        let links: Vec<&Value> = chain.as_array().unwrap().iter().filter(|link| link["fired"] == true).collect();
        assert_eq!((chain.as_array().unwrap().len(), links.len()), (14, 2), "what fires never is told as well");
        assert_eq!((&links[0]["link"], &links[0]["control"]), (&json!(4), &json!("fleet_minority")));
    }

    #[test]
    fn a_row_says_when_where_and_what_then() {
        let (summary, universe) = (summary(), gateway::tests::universe());
        let found = summary.found.as_ref().unwrap();
        let rows = table::rows(found, &universe, &|control| summary.fired_live(control));
        let shown: Vec<String> = rows.iter().map(|row| table::cells(row).join("|")).collect();
        assert_eq!(
            shown,
            [
                "4|fleet_minority|hello|27 Jul 20:00:00|-|0|$0|halts session smars-8|-",
                "9|order_rate|session|09:30:00.202|#301|300|$522k|halts session smars-8|fired",
            ]
        );
        let never = table::never(found, &|_| false);
        assert_eq!(never[0], "never by itself: collar at strategy");
        assert!(never[1].contains("collar") && never[1].contains("4,000,000 orders"), "{never:?}");
        let mut slow = found.limits[0];
        slow.outcome = Outcome::GoesOn { executions_per_s: 1_300 };
        slow.healthy_denied = true;
        assert_eq!(table::effect(&slow, &universe), "denies, but 1,300 executions/s go on, healthy ones too");
        let mut mails = GuardAlone { control: Some(GuardControl::Signatures), ..found.guard[0].clone() };
        mails.halted[0].0 += 1_800_000_000_000;
        let told = "an alert; if nobody answers, halts session smars-8 at 27 Jul 20:30:00";
        assert_eq!(table::guard_effect(&mails, &universe), told);
        assert_eq!(table::shortened(&"é".repeat(200)), format!("{} …", "é".repeat(140)));
    }
}
