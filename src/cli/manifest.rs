//! `manifest`: what a deployment pipeline does with the list of approved builds. Nothing here needs a service.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use clap::{Args, Subcommand};
use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
use haltline::app::attest::signature_path;
use haltline::app::measure::digest_of;
use haltline::guard::manifest::{Manifest, ManifestRefused, digest_of_hex, hex};
use haltline::guard::manifest_text::{Edit, ManifestText};
use serde_json::json;

use super::{Form, say};

/// Arguments of `manifest`.
#[derive(Args, Debug)]
pub struct ManifestArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Make a pair of keys: prints the public one, for `key` in [guard.attestation]
    Keygen(KeygenArgs),
    /// Make the next version: approve builds, expect instances, name flags
    Make(Box<MakeArgs>),
    /// Sign a manifest: writes FILE.sig beside it
    Sign(SignArgs),
    /// Check a manifest and its signature; exits with 1 if either is wrong
    Verify(VerifyArgs),
    /// Show what changes from one manifest to another; exits with 1 if anything does
    Diff(DiffArgs),
}

#[derive(Args, Debug)]
struct KeygenArgs {
    /// The file for the secret key, which must not exist; only its owner can read it
    secret: PathBuf,
}

#[derive(Args, Debug)]
struct MakeArgs {
    /// The version before; left out: version 1 is made
    #[arg(long, value_name = "FILE")]
    base: Option<PathBuf>,
    /// Where to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Which strategy
    #[arg(long)]
    strategy: String,
    /// Approve a build: its id and its executable, whose digest is taken. Without a file it is known by its word alone
    #[arg(long = "build", value_name = "ID[=FILE]")]
    builds: Vec<String>,
    /// How long these builds count as new
    #[arg(long, value_name = "HOURS")]
    ramp_hours: Option<u32>,
    /// Approve this build no more
    #[arg(long, value_name = "ID")]
    retire: Vec<String>,
    /// Expect this instance
    #[arg(long = "instance", value_name = "SESSION")]
    instances: Vec<String>,
    /// Expect this instance no more
    #[arg(long = "drop-instance", value_name = "SESSION")]
    drop_instances: Vec<String>,
    /// Allow this order path: gate or websocket
    #[arg(long = "path", value_name = "PATH")]
    paths: Vec<String>,
    /// A flag that these builds read, and what it means to them
    #[arg(long = "flag", value_name = "NAME=MEANING")]
    flags: Vec<String>,
    /// Days without use after which something has to be woken, for all strategies
    #[arg(long, value_name = "DAYS")]
    dormant_after_days: Option<u32>,
}

#[derive(Args, Debug)]
struct SignArgs {
    /// The manifest
    file: PathBuf,
    /// The secret key
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
}

#[derive(Args, Debug)]
struct VerifyArgs {
    /// The manifest; its signature is FILE.sig
    file: PathBuf,
    /// The public key: 64 hex digits, or a file that holds them
    #[arg(long)]
    key: String,
    /// The version that it must not be below
    #[arg(long, value_name = "VERSION")]
    not_below: Option<u64>,
    #[command(flatten)]
    form: Form,
}

#[derive(Args, Debug)]
struct DiffArgs {
    /// The one before
    old: PathBuf,
    /// The one after
    new: PathBuf,
    #[command(flatten)]
    form: Form,
}

/// See the module.
pub fn run(args: &ManifestArgs) -> Result<ExitCode> {
    match &args.command {
        Command::Keygen(args) => keygen(args),
        Command::Make(args) => make(args),
        Command::Sign(args) => sign(args),
        Command::Verify(args) => verify(args),
        Command::Diff(args) => diff(args),
    }
}

fn keygen(args: &KeygenArgs) -> Result<ExitCode> {
    let mut seed = [0u8; 32];
    getrandom::fill(&mut seed).map_err(|error| anyhow!("the system gave no randomness: {error}"))?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&args.secret)
        .with_context(|| format!("cannot make {}", args.secret.display()))?;
    file.write_all(format!("{}\n", hex(&seed)).as_bytes())?;
    file.sync_all()?;
    eprintln!("# key in [guard.attestation]; the secret one is in {}", args.secret.display());
    say(&format!("{}\n", hex(SigningKey::from_bytes(&seed).verifying_key().as_bytes())))?;
    Ok(ExitCode::SUCCESS)
}

fn make(args: &MakeArgs) -> Result<ExitCode> {
    let base = match &args.base {
        None => ManifestText::default(),
        Some(path) => ManifestText::parse(&read(path)?).map_err(|why| anyhow!("{}: {why}", path.display()))?,
    };
    let mut builds = Vec::new();
    for word in &args.builds {
        let (id, digest) = match word.split_once('=') {
            None => (word.clone(), None),
            Some((id, file)) => (id.to_owned(), Some(hex(&digest_of(Path::new(file)).map_err(|why| anyhow!(why))?))),
        };
        builds.push((id, digest));
    }
    let pair = |word: &String| match word.split_once('=') {
        Some((name, meaning)) => Ok((name.to_owned(), meaning.to_owned())),
        None => Err(anyhow!("--flag {word:?}: must be NAME=MEANING")),
    };
    let flags = args.flags.iter().map(pair).collect::<Result<Vec<_>>>()?;
    ensure!(flags.is_empty() || !builds.is_empty(), "--flag needs the --build that reads it");
    let edit = Edit {
        strategy: args.strategy.clone(),
        builds,
        ramp_hours: args.ramp_hours,
        retire: args.retire.clone(),
        instances: args.instances.clone(),
        drop_instances: args.drop_instances.clone(),
        paths: args.paths.clone(),
        flags,
        dormant_after_days: args.dormant_after_days,
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?.as_nanos();
    let next = base.edited(&edit, u64::try_from(now).context("the clock is beyond 2554")?);
    let text = next.write().map_err(|why| anyhow!(why))?;
    // Before it is written: a pipeline that goes on must not find a manifest that nobody would take.
    Manifest::parse(text.as_bytes()).map_err(|faults| anyhow!(faults.join("\n")))?;
    std::fs::write(&args.out, &text).with_context(|| format!("cannot write {}", args.out.display()))?;
    eprintln!("made version {} in {}; it has to be signed", next.version, args.out.display());
    Ok(ExitCode::SUCCESS)
}

fn sign(args: &SignArgs) -> Result<ExitCode> {
    let seed = digest_of_hex(read(&args.key)?.trim());
    let seed = seed.with_context(|| format!("{} holds no key: 64 hex digits", args.key.display()))?;
    let text = std::fs::read(&args.file).with_context(|| format!("cannot read {}", args.file.display()))?;
    if let Err(faults) = Manifest::parse(&text) {
        bail!("{} is not signed, it is not valid:\n{}", args.file.display(), faults.join("\n"));
    }
    let signature = SigningKey::from_bytes(&seed).sign(&text);
    let beside = signature_path(&args.file);
    std::fs::write(&beside, format!("{}\n", hex(&signature.to_bytes())))
        .with_context(|| format!("cannot write {}", beside.display()))?;
    eprintln!("signed: {}", beside.display());
    Ok(ExitCode::SUCCESS)
}

fn verify(args: &VerifyArgs) -> Result<ExitCode> {
    let key = match digest_of_hex(&args.key) {
        Some(key) => key,
        None => digest_of_hex(read(Path::new(&args.key))?.trim()).context("--key holds no key: 64 hex digits")?,
    };
    let key = VerifyingKey::from_bytes(&key).map_err(|_| anyhow!("--key is not a public key"))?;
    let text = std::fs::read(&args.file).with_context(|| format!("cannot read {}", args.file.display()))?;
    let signature = read(&signature_path(&args.file))?;
    let result = match (Manifest::open(&text, &signature, &key, None), args.not_below) {
        (Ok(manifest), Some(floor)) if manifest.version < floor => {
            Err(ManifestRefused::Older { version: manifest.version, floor })
        }
        (result, _) => result,
    };
    let faults = match &result {
        Ok(_) => Vec::new(),
        Err(ManifestRefused::Invalid(faults)) => faults.clone(),
        Err(refused) => vec![refused.to_string()],
    };
    let version = result.as_ref().ok().map(|manifest| manifest.version);
    if args.form.is_json() {
        let strategies = result
            .as_ref()
            .ok()
            .map(|manifest| manifest.strategies.iter().map(|strategy| strategy.name.clone()).collect::<Vec<_>>());
        let object = json!({
            "ok": faults.is_empty(), "version": version, "strategies": strategies, "faults": faults,
            "digest": result.as_ref().ok().map(|manifest| hex(&manifest.digest)),
        });
        say(&format!("{object:#}\n"))?;
    } else {
        let mut out = String::new();
        for fault in &faults {
            let _ = writeln!(out, "fault: {fault}");
        }
        match version {
            Some(version) => out.push_str(&format!("valid: version {version}\n")),
            None => out.push_str("NOT VALID\n"),
        }
        say(&out)?;
    }
    Ok(if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn diff(args: &DiffArgs) -> Result<ExitCode> {
    let open = |path: &Path| {
        let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        Manifest::parse(&text).map_err(|faults| anyhow!("{}: {}", path.display(), faults.join("\n")))
    };
    let (old, new) = (open(&args.old)?, open(&args.new)?);
    let found = old.differences(&new);
    if args.form.is_json() {
        let object = json!({ "from": old.version, "to": new.version, "differences": found });
        say(&format!("{object:#}\n"))?;
    } else {
        let lines: String = found.iter().map(|line| format!("{line}\n")).collect();
        say(&format!("version {} → {}\n{lines}", old.version, new.version))?;
    }
    Ok(if found.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}
