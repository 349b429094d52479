//! `check-config` and `print-config`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use haltline::app::config::{self, ConfigError};
use serde_json::json;

use super::{EXIT_CONFIG, say};

/// Arguments of `check-config`.
#[derive(Args, Debug)]
pub struct CheckArgs {
    /// The configuration file
    file: PathBuf,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// Arguments of `print-config`.
#[derive(Args, Debug)]
pub struct PrintArgs {
    /// The configuration file
    file: PathBuf,
}

/// Checks a file. With `--json` violations go to the standard output too, since that is the answer.
pub fn check(args: &CheckArgs) -> Result<ExitCode> {
    let loaded = match config::read(&args.file) {
        Ok(loaded) => loaded,
        Err(ConfigError::Invalid(violations)) if args.json => {
            say(&format!("{:#}\n", json!({ "ok": false, "violations": violations.to_json(), "notes": [] })))?;
            return Ok(ExitCode::from(EXIT_CONFIG));
        }
        Err(error) => return Err(error.into()),
    };
    let universe = &loaded.universe;
    if args.json {
        let note = |n: &config::Note| json!({ "field": n.field, "text": n.text });
        let notes: Vec<_> = loaded.notes.iter().map(note).collect();
        let hash = blake3::Hash::from_bytes(loaded.hash).to_hex().to_string();
        say(&format!("{:#}\n", json!({ "ok": true, "violations": [], "notes": notes, "hash": hash })))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut text: String = loaded.notes.iter().map(|note| format!("note: {}: {}\n", note.field, note.text)).collect();
    text.push_str(&format!(
        "{}: ok: {} accounts, {} strategies, {} instruments, {} sessions\n",
        args.file.display(),
        universe.accounts.len(),
        universe.strategies.len(),
        universe.instruments.len(),
        universe.sessions.len(),
    ));
    say(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints the effective values.
pub fn print(args: &PrintArgs) -> Result<ExitCode> {
    let text = config::read_text(&args.file)?;
    let effective = config::effective(&args.file.display().to_string(), &text).map_err(ConfigError::Invalid)?;
    say(&effective)?;
    Ok(ExitCode::SUCCESS)
}
