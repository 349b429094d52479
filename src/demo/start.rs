//! Starts the service for the demo: `config/demo.toml`, a state directory of its own, tokens made for this run.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use ed25519_dalek::{Signer as _, SigningKey};

use super::morning::guard::{GuardControl, GuardSettings, ManifestStep, manifest_text};
use super::{Controls, DemoArgs, ServiceHandle};
use crate::api::auth::{hash_token, new_token};
use crate::api::{Principal, Role, Scopes};
use crate::app::attest::signature_path;
use crate::app::config::{self, Attestation, ConfigError, Loaded, SignedFile};
use crate::app::service::{StartOptions, init_state_dir, start};
use crate::duty::{Clock, SystemClock};
use crate::guard::manifest::hex;
use crate::limits::LimitTable;
use crate::model::Universe;

/// The file is part of the program, so that the demo runs from anywhere.
const CONFIG: &str = include_str!("../../config/demo.toml");

/// A directory that is removed with everything in it when this is dropped.
struct TempDir(PathBuf);

impl TempDir {
    /// A directory of this process, not made yet: the service's own way of making one does that.
    fn unused() -> anyhow::Result<TempDir> {
        let (name, _) = token()?;
        Ok(TempDir(std::env::temp_dir().join(format!("haltline-demo-{}", &name[..16]))))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // What is left behind is a few kilobytes in the system's place for such things.
        drop(std::fs::remove_dir_all(&self.0));
    }
}

fn token() -> anyhow::Result<(String, [u8; 32])> {
    let (token, _) = new_token().map_err(|error| anyhow::anyhow!("the system gave no randomness: {error}"))?;
    let hash = hash_token(&token);
    Ok((token, hash))
}

/// A manifest that a key made for this run has signed, in `dir`: the new build on all of `instances`, whatever strategy they
/// trade. Builds are known by their word, since all gateways of the demo are one executable.
fn attestation(dir: &Path, universe: &Universe, instances: &[String]) -> anyhow::Result<Attestation> {
    let strategies: Vec<String> = universe.strategies.iter().map(|s| s.name.clone()).collect();
    let controls = [GuardControl::Manifest, GuardControl::Minority, GuardControl::Meanings];
    let step = ManifestStep { deployed: true, digests: false };
    let text = manifest_text(instances, &strategies, &controls, &step);
    let (_, secret) = token()?;
    let key = SigningKey::from_bytes(&secret);
    let path = dir.join("manifest.toml");
    std::fs::write(&path, &text)?;
    std::fs::write(signature_path(&path), hex(&key.sign(text.as_bytes()).to_bytes()))?;
    Ok(Attestation { manifest: Some(SignedFile { path, key: key.verifying_key().to_bytes() }) })
}

/// What the service is configured with.
fn configured(controls: Controls) -> anyhow::Result<Loaded> {
    let mut loaded = config::load("config/demo.toml", CONFIG).map_err(ConfigError::Invalid)?;
    match controls {
        Controls::Config => {}
        Controls::None => {
            loaded.limits = LimitTable::unlimited(&loaded.universe);
            // The eight are peers, and the one that runs away would be halted for it.
            loaded.watch.peers.halts = false;
            // A journal is replayed with the limits that its configuration says.
            loaded.journal.enabled = false;
        }
    }
    Ok(loaded)
}

/// Starts the service in this process. `attested`: what these instances run is held against a manifest.
///
/// # Errors
/// If the state directory or an address cannot be had, or a thread not be made.
pub(super) fn service(args: &DemoArgs, attested: Option<&[String]>) -> anyhow::Result<ServiceHandle> {
    let mut loaded = configured(args.controls)?;
    let limits = Arc::new(loaded.limits.clone());
    let guard = GuardSettings { policy: loaded.alerts.policy.clone(), watch: loaded.watch.clone() };
    let dir = TempDir::unused()?;
    init_state_dir(dir.path())?;
    loaded.service.state_dir = dir.path().to_owned();
    if let Some(instances) = attested {
        let made = attestation(dir.path(), &loaded.universe, instances).context("writing the manifest")?;
        loaded.guard.attestation = Some(made);
    }

    let mut tokens = HashMap::new();
    let mut session_hashes = HashMap::new();
    for session in &loaded.universe.sessions {
        let (token, hash) = token()?;
        tokens.insert(session.name.clone(), token);
        session_hashes.insert(session.name.clone(), hash);
    }
    let (operator_token, token_hash) = token()?;
    let operator = Principal { name: "demo".to_owned(), role: Role::Operator, scopes: Scopes::EVERYTHING, token_hash };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::faster(args.speed));
    let running = start(
        loaded,
        StartOptions {
            path: None,
            clock: Some(clock.clone()),
            session_hashes,
            principals: vec![operator],
            any_port: true,
        },
    )?;
    Ok(ServiceHandle {
        ws_url: format!("ws://{}", running.ws_addr),
        http_url: format!("http://{}", running.http_addr),
        session_token: Box::new(move |session| {
            tokens.get(session).cloned().with_context(|| format!("session {session:?} has no token"))
        }),
        operator_token,
        universe: running.universe.clone(),
        limits,
        guard,
        clock,
        shutdown: Box::new(move || {
            let ended = running.stop();
            drop(dir);
            ended
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::alone::armed;

    #[test]
    fn without_controls_nothing_halts_anybody_by_itself() {
        let with = configured(Controls::Config).unwrap();
        assert!(with.watch.peers.halts && !armed(&with.universe, &with.limits).is_empty());
        let without = configured(Controls::None).unwrap();
        assert!(!without.watch.peers.halts && armed(&without.universe, &without.limits).is_empty());
    }
}
