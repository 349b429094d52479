//! The command line. Its exit codes are in [`EXIT_CODES`].

mod alerts;
mod audit;
mod check;
mod client;
mod drill;
mod events;
mod follow;
mod html;
mod kill;
mod limits_show;
mod lint;
mod manifest;
mod overrides;
mod page;
mod preflight;
mod rearm;
mod replay;
mod sessions;
mod shell;
mod state;
mod suggest;
mod tls;
mod token;
mod top;
mod wake;

use std::fmt;
use std::io::{ErrorKind, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use haltline::app;
use haltline::app::config::ConfigError;
use haltline::demo::{self, DemoArgs};

/// It failed, or is not done yet.
const EXIT_FAILED: u8 = 1;
/// It was called wrongly; clap uses the same.
const EXIT_USAGE: u8 = 2;
/// `state`: not everything is normal. `alerts`: a critical one is not acknowledged.
const EXIT_TRIPPED: u8 = 3;
/// The service said no.
const EXIT_REFUSED: u8 = 4;
/// No service answered.
const EXIT_NOT_REACHED: u8 = 5;
/// `EX_CONFIG` of sysexits.
const EXIT_CONFIG: u8 = 78;

/// What the exit codes mean, for `--help`.
const EXIT_CODES: &str = "Exit codes:
   0  done; kill: confirmed; state: everything is normal; preflight: the fleet may open
   1  failed; kill: raised, but not confirmed, or not flat where that was waited for; rearm: not done yet;
      drill: not passed; limits lint: something is wrong; manifest verify: it is not valid; manifest diff: they differ;
      state: the engine makes no progress
   2  called wrongly
   3  state: something is halted or reduce-only; sessions: one has not confirmed that;
      alerts: a critical one is not acknowledged; preflight: the fleet may not open
   4  refused by the service
   5  no service was reached, or it did not answer
  78  the configuration is invalid";

/// Real-time trading risk monitor with a kill switch
#[derive(Parser, Debug)]
#[command(name = "haltline", version, arg_required_else_help = true, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run the service
    Serve(ServeArgs),
    /// Stream the Knight morning of 1 August 2012 to the service and watch what stops it
    Demo(DemoArgs),
    /// Make the state directory that the service needs; refuses one that exists
    Init(InitArgs),
    /// Report everything that is wrong with a configuration file
    CheckConfig(check::CheckArgs),
    /// Print a configuration with every default written out
    PrintConfig(check::PrintArgs),
    /// Make a token: prints it once, and (on the standard error) the line for the configuration with its hash
    Token(token::TokenArgs),
    /// Halt a scope, by the first way that works, and say what was reached
    ///
    /// Tries the local socket, then HTTP, then the halt page itself, each as far as it is told of them. It says for each
    /// what came of it, what is confirmed and what is not.
    #[command(after_help = EXIT_CODES)]
    Kill(kill::KillArgs),
    /// Ask for a scope to trade again, or agree to what another person asked for
    ///
    /// With --token-file over HTTP as its owner, else over the local socket as the user who runs this.
    #[command(after_help = EXIT_CODES)]
    Rearm(rearm::RearmArgs),
    /// Rehearse the switch end to end on a scope that is made for it, and file the evidence
    ///
    /// Halts the scope, waits for every gate and session, sends an order through the real path to see it denied, and takes
    /// the halt back unless somebody has halted the scope in earnest meanwhile.
    #[command(after_help = EXIT_CODES)]
    Drill(drill::DrillArgs),
    /// Show what is halted, since when and why
    ///
    /// With --token-file over HTTP as its owner, else over the local socket as the user who runs this.
    #[command(visible_alias = "status", after_help = EXIT_CODES)]
    State(state::StateArgs),
    /// List alerts that are not over, or acknowledge one
    ///
    /// With --token-file over HTTP as its owner, else over the local socket as the user who runs this.
    #[command(after_help = EXIT_CODES)]
    Alerts(alerts::AlertsArgs),
    /// List sessions: who is connected, and who has confirmed the halts
    #[command(after_help = EXIT_CODES)]
    Sessions(sessions::SessionsArgs),
    /// Show the live state in this terminal, until q is pressed
    ///
    /// The worst scopes come first. What cannot be vouched for, because nothing was heard for two seconds or the engine
    /// stands still, is not shown as normal.
    #[command(after_help = EXIT_CODES)]
    Top(top::TopArgs),
    /// Say on one page whether this fleet may open: builds, flags, limits, halts, clocks, disk, alerts
    ///
    /// With --token-file over HTTP as its owner, else over the local socket as the user who runs this.
    #[command(after_help = EXIT_CODES)]
    Preflight(preflight::PreflightArgs),
    /// Make, sign, verify and compare manifests of approved builds, and make the keys for it
    #[command(after_help = EXIT_CODES)]
    Manifest(manifest::ManifestArgs),
    /// Wake a strategy, order path or flag that was not used for too long
    #[command(after_help = EXIT_CODES)]
    Wake(wake::WakeArgs),
    /// Approve what an instance runs now although it changed during an incident
    #[command(after_help = EXIT_CODES)]
    Approve(wake::ApproveArgs),
    /// List who did what, from the journal; `audit verify` checks the journal itself
    Audit(audit::AuditArgs),
    /// Change limits for a while, ask what a change would do, propose limits from observed flow, or lint those there are
    Limits(suggest::LimitsArgs),
    /// Run a journal again: checks that it comes to the same, shows what limits did and how close they came
    Replay(replay::ReplayArgs),
    /// Print what makes a shell complete these arguments
    Completions(shell::CompletionsArgs),
    /// Print the manual page, or write one for each command
    Man(shell::ManArgs),
}

/// How an answer is printed.
#[derive(Args, Debug)]
#[group(multiple = false)]
struct Form {
    /// Print JSON [default: unless the output is a terminal]
    #[arg(long)]
    json: bool,
    /// Print text for people [default: on a terminal]
    #[arg(long)]
    text: bool,
}

impl Form {
    fn is_json(&self) -> bool {
        self.json || (!self.text && !std::io::stdout().is_terminal())
    }
}

/// A scope as it is written on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ScopeArg {
    kind: String,
    name: String,
}

impl ScopeArg {
    /// As the interface wants it.
    fn to_json(&self) -> serde_json::Value {
        serde_json::json!({ "kind": self.kind, "name": self.name })
    }
}

impl fmt::Display for ScopeArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.is_empty() { f.write_str(&self.kind) } else { write!(f, "{} {}", self.kind, self.name) }
    }
}

fn scope(text: &str) -> Result<ScopeArg, String> {
    let (kind, name) = text.split_once(':').unwrap_or((text, ""));
    let known = match kind {
        "firm" => name.is_empty(),
        "account" | "strategy" | "instrument" | "session" => !name.is_empty(),
        _ => false,
    };
    if !known {
        return Err("must be firm, account:NAME, strategy:NAME, instrument:NAME or session:NAME".to_owned());
    }
    Ok(ScopeArg { kind: kind.to_owned(), name: name.to_owned() })
}

/// Names and reasons come from outside: nothing in them may move the cursor.
fn plain(text: &str) -> String {
    text.chars().filter(|c| *c == '\n' || !c.is_control()).collect()
}

/// An end with a code of its own.
#[derive(Debug)]
struct Exit {
    code: u8,
    text: String,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Exit {}

#[derive(Args, Debug)]
struct ServeArgs {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct InitArgs {
    /// The directory to make
    dir: Option<PathBuf>,
    /// Make the `state_dir` of this configuration
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Parses the arguments and runs the command.
pub fn main() -> ExitCode {
    run(Cli::parse())
}

fn run(cli: Cli) -> ExitCode {
    let result = match cli.command {
        Command::Serve(args) => app::serve(&args.config),
        Command::Demo(args) => demo::run(&args),
        Command::Init(args) => init(args.dir.as_deref(), args.config.as_deref()),
        Command::CheckConfig(args) => check::check(&args),
        Command::PrintConfig(args) => check::print(&args),
        Command::Token(args) => token::token(&args),
        Command::Kill(args) => kill::kill(&args),
        Command::Rearm(args) => rearm::rearm(&args),
        Command::Drill(args) => drill::drill(&args),
        Command::State(args) => state::state(&args),
        Command::Alerts(args) => alerts::alerts(&args),
        Command::Preflight(args) => preflight::preflight(&args),
        Command::Manifest(args) => manifest::run(&args),
        Command::Wake(args) => wake::wake(&args),
        Command::Approve(args) => wake::approve(&args),
        Command::Audit(args) => audit::run(&args),
        Command::Limits(args) => suggest::run(&args),
        Command::Replay(args) => replay::run(&args),
        Command::Sessions(args) => sessions::sessions(&args),
        Command::Top(args) => top::top(&args),
        Command::Completions(args) => shell::completions(&args),
        Command::Man(args) => shell::man(&args),
    };
    result.unwrap_or_else(|error| fail(&error))
}

fn init(dir: Option<&Path>, config: Option<&Path>) -> anyhow::Result<ExitCode> {
    let dir = match (dir, config) {
        (Some(dir), _) => dir.to_owned(),
        (None, Some(file)) => app::config::read(file)?.service.state_dir,
        (None, None) => anyhow::bail!("neither a directory nor a configuration was given"),
    };
    app::init_state_dir(&dir)?;
    eprintln!("made {}", dir.display());
    Ok(ExitCode::SUCCESS)
}

/// Writes an answer to the standard output. A reader that has gone away (`| head`) is no failure.
fn say(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Tells what went wrong; an invalid configuration has a code of its own.
fn fail(error: &anyhow::Error) -> ExitCode {
    match error.downcast_ref::<ConfigError>() {
        Some(ConfigError::Invalid(violations)) => {
            eprint!("{}", violations.render(std::io::stderr().is_terminal()));
            eprintln!("{}: {} violation(s)", violations.file, violations.list.len());
            ExitCode::from(EXIT_CONFIG)
        }
        Some(ConfigError::Read { .. }) => {
            eprintln!("error: {error:#}");
            ExitCode::from(EXIT_CONFIG)
        }
        None => {
            eprintln!("error: {}", plain(&format!("{error:#}")));
            ExitCode::from(error.downcast_ref::<Exit>().map_or(EXIT_FAILED, |exit| exit.code))
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_scope_is_a_kind_and_a_name() {
        let scope_of = |kind: &str, name: &str| Ok(ScopeArg { kind: kind.into(), name: name.into() });
        assert_eq!(scope("firm"), scope_of("firm", ""));
        assert_eq!(scope("strategy:alpha"), scope_of("strategy", "alpha"));
        for bad in ["", "firm:x", "strategy", "strategy:", "pair:a/b", "alpha"] {
            assert!(scope(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_invalid_configuration_has_its_own_exit_code() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.toml");
        std::fs::write(&file, "x = 1\n").unwrap();
        let of = |args: &[&str]| run(Cli::try_parse_from([&["haltline"], args].concat()).unwrap());
        let path = file.to_str().unwrap();
        for args in [&["check-config", path][..], &["check-config", path, "--json"], &["print-config", path]] {
            assert_eq!(of(args), ExitCode::from(EXIT_CONFIG), "{args:?}");
        }
        let none = dir.path().join("none.toml");
        assert_eq!(of(&["init", "--config", none.to_str().unwrap()]), ExitCode::from(EXIT_CONFIG));
        // A token file that is not there is a failure like any other.
        assert_eq!(of(&["state", "--token-file", none.to_str().unwrap()]), ExitCode::FAILURE);
        let good = concat!(env!("CARGO_MANIFEST_DIR"), "/config/haltline.toml");
        assert_eq!(of(&["check-config", good]), ExitCode::SUCCESS);
        assert_eq!(of(&["print-config", good]), ExitCode::SUCCESS);
    }
}
