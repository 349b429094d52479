//! The command line. Exit codes: 0 done; 1 it failed; 2 it was called wrongly; 78 the configuration is
//! invalid; 3 (`state` only) something is halted or reduce-only.

mod audit;
mod check;
mod client;
mod page;
mod replay;
mod suggest;
mod token;

use std::io::{ErrorKind, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use haltline::app;
use haltline::app::config::ConfigError;
use haltline::demo::{self, DemoArgs};

/// `EX_CONFIG` of sysexits.
const EXIT_CONFIG: u8 = 78;
/// `state`: not everything is normal.
const EXIT_TRIPPED: u8 = 3;

/// Real-time trading risk monitor with a kill switch
#[derive(Parser, Debug)]
#[command(name = "haltline", version, arg_required_else_help = true)]
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
    /// Halt a scope of a running service and print the receipt
    Kill(client::KillArgs),
    /// List who did what, from the journal; `audit verify` checks the journal itself
    Audit(audit::AuditArgs),
    /// Propose limits from observed flow
    Limits(suggest::LimitsArgs),
    /// Run a journal again: checks that it comes to the same, shows what limits did and how close they came
    Replay(replay::ReplayArgs),
    /// Show the state of a running service; exits with 3 if anything is halted or reduce-only
    State(client::StateArgs),
}

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
        Command::Audit(args) => audit::run(&args),
        Command::Limits(args) => suggest::run(&args),
        Command::Replay(args) => replay::run(&args),
        Command::Kill(args) => client::kill(&args),
        Command::State(args) => client::state(&args),
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
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
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
