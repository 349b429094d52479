//! `completions` and `man`: what a shell and a reader of manuals want to know.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{Cli, say};

/// Arguments of `completions`.
#[derive(Args, Debug)]
pub struct CompletionsArgs {
    /// For which shell
    shell: Shell,
}

/// Arguments of `man`.
#[derive(Args, Debug)]
pub struct ManArgs {
    /// Write a page for each command into this directory, instead of the first to the standard output
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Prints what makes the shell complete our arguments.
pub fn completions(args: &CompletionsArgs) -> Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "haltline", &mut script);
    say(&String::from_utf8_lossy(&script))?;
    Ok(ExitCode::SUCCESS)
}

/// Prints the manual, or writes all pages of it.
pub fn man(args: &ManArgs) -> Result<ExitCode> {
    match &args.dir {
        Some(dir) => {
            std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
            clap_mangen::generate_to(Cli::command(), dir).with_context(|| format!("writing to {}", dir.display()))?;
        }
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Cli::command()).render(&mut page)?;
            say(&String::from_utf8_lossy(&page))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shells_learn_every_command_and_each_has_a_page() {
        let commands: Vec<String> = Cli::command().get_subcommands().map(|c| c.get_name().to_owned()).collect();
        assert!(commands.len() > 10);
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "haltline", &mut script);
            let script = String::from_utf8(script).unwrap();
            for command in &commands {
                assert!(script.contains(command.as_str()), "{shell}: {command}");
            }
        }
        let dir = tempfile::tempdir().unwrap();
        man(&ManArgs { dir: Some(dir.path().join("man1")) }).unwrap();
        for command in &commands {
            let page = dir.path().join("man1").join(format!("haltline-{command}.1"));
            assert!(std::fs::read_to_string(&page).is_ok_and(|text| text.starts_with(".ie")), "{}", page.display());
        }
    }
}
