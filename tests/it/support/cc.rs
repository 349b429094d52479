//! Programs in C and C++ over `haltline.h`, compiled by the system's compilers as a gateway would compile them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// What a source is compiled as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Language {
    C,
    Cpp,
}

impl Language {
    pub const BOTH: [Language; 2] = [Language::C, Language::Cpp];

    fn command(self) -> Command {
        let (variable, default, arguments) = match self {
            Language::C => ("CC", "cc", ["-std=c11", "-x", "c"]),
            Language::Cpp => ("CXX", "c++", ["-std=c++17", "-x", "c++"]),
        };
        let mut command = Command::new(std::env::var(variable).unwrap_or_else(|_| default.into()));
        command.args(arguments);
        command
    }
}

/// Every warning that a careful gateway's build may have on is an error.
const FLAGS: [&str; 9] =
    ["-O2", "-g", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wsign-conversion", "-Wshadow", "-Werror"];

/// Compiles `source`, a path from the top, once per run of the tests, and returns the program. Fails loudly if there is no
/// compiler: `tests/run` installs them.
pub fn build(source: &str, language: Language) -> PathBuf {
    static BUILT: Mutex<Option<HashMap<(String, Language), PathBuf>>> = Mutex::new(None);
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    let built = built.get_or_insert_with(HashMap::new);
    built.entry((source.to_owned(), language)).or_insert_with(|| compile(source, language)).clone()
}

fn compile(source: &str, language: Language) -> PathBuf {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("c");
    std::fs::create_dir_all(&dir).unwrap();
    let name = source.replace(['/', '.'], "_");
    let program = dir.join(format!("{name}_{language:?}"));
    let mut command = language.command();
    command
        .args(FLAGS)
        .arg("-I")
        .arg(top.join("src/gate"))
        .arg(top.join(source))
        .args(["-x", "none", "-pthread", "-o"]);
    // Another run of the tests may be executing the old one: it is replaced, not written over.
    let new = dir.join(format!("{name}_{language:?}.{}", std::process::id()));
    command.arg(&new);
    let out = command.output().unwrap_or_else(|error| {
        panic!("no compiler for {language:?} ({error}): install gcc and g++, as tests/run does")
    });
    assert!(out.status.success(), "{source} as {language:?}:\n{}", String::from_utf8_lossy(&out.stderr));
    std::fs::rename(&new, &program).unwrap();
    program
}
