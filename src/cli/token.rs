//! `token`: the only moment at which a token is seen.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, ValueEnum};

use super::say;

/// Arguments of `token`.
#[derive(Args, Debug)]
pub struct TokenArgs {
    /// Whose token it is
    #[arg(long, value_parser = name)]
    name: String,
    /// What it allows
    #[arg(long, value_enum)]
    role: TokenRole,
}

/// What a token is for.
#[derive(ValueEnum, Clone, Copy, Debug)]
enum TokenRole {
    /// A person who looks
    Viewer,
    /// A person who may kill
    Operator,
    /// A person who may re-arm
    Risk,
    /// A gateway instance or a price source
    Session,
}

fn name(text: &str) -> Result<String, String> {
    let good = text.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b));
    if good && (1..=64).contains(&text.len()) {
        Ok(text.to_owned())
    } else {
        Err("a name has 1 to 64 characters out of A-Z a-z 0-9 . _ -".to_owned())
    }
}

/// Prints a new token of 256 random bits, and what the configuration keeps of it.
pub fn token(args: &TokenArgs) -> Result<ExitCode> {
    let mut bytes = [0u8; 32];
    getrandom::fill(&mut bytes).map_err(|e| anyhow::anyhow!("the system gave no randomness: {e}"))?;
    let token: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    // The hash is of the text, as it stands in an Authorization header.
    let hash = blake3::hash(token.as_bytes()).to_hex();
    let role = match args.role {
        TokenRole::Viewer => Some("viewer"),
        TokenRole::Operator => Some("operator"),
        TokenRole::Risk => Some("risk"),
        TokenRole::Session => None,
    };
    // Only the token goes to the standard output, so that `> alice.token` makes a file for --token-file.
    eprintln!("# the token of {}: shown this once, kept nowhere", args.name);
    say(&format!("{token}\n"))?;
    match role {
        Some(role) => {
            eprintln!("# for tokens in [auth]");
            eprintln!("{{ name = \"{}\", role = \"{role}\", hash = \"{hash}\" }},", args.name);
        }
        None => {
            eprintln!("# for [sessions.{}]", args.name);
            eprintln!("token_hash = \"{hash}\"");
        }
    }
    Ok(ExitCode::SUCCESS)
}
