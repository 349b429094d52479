//! The last way of `kill`: the halt page itself, the file that every gate of this host has mapped. It needs nobody to be
//! alive, and nobody vouches for what comes of it.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use haltline::app::config;
use haltline::duty::{Clock as _, SystemClock};
use haltline::kill::page::{HaltPage, ModeWord};
use haltline::kill::page_file::Shape;
use haltline::model::Mode;
use haltline::ring::barrier::heavy;

use super::ScopeArg;

/// What raising the page came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raised {
    /// The scope's word now.
    pub word: ModeWord,
    /// Whether every processor that runs a gate has passed a barrier since, so that each of its next looks sees the word.
    pub barrier: bool,
    /// How long gates go on without haltline from now on, in ns; `None`: the lease has lapsed, or none was ever kept, and they
    /// let nothing through anyway.
    pub lease_ns: Option<u64>,
}

/// Raises `scope` to halted on the page in the file at `page`. Where its word lies only the configuration in `config` can
/// tell; the firm's word is where it always is.
///
/// # Errors
/// If there is no such page, it may not be written, or it does not have the scope: then nothing was raised.
pub fn raise(page: &Path, config: &Path, scope: &ScopeArg) -> Result<Raised> {
    let (page, slot) = if scope.kind == "firm" {
        // Whatever the configuration has become since.
        (HaltPage::open(page, None)?, 0)
    } else {
        let loaded = match config::read(config) {
            Ok(loaded) => loaded,
            Err(_) => bail!("{} has violations, so only --scope firm can be found on the page", config.display()),
        };
        let universe = &loaded.universe;
        let slot = universe.scope_named(&scope.kind, &scope.name).and_then(|scope| universe.slot(scope));
        let slot = slot.with_context(|| format!("there is no {scope} in {}", config.display()))?;
        let page =
            HaltPage::open(page, Some(&Shape::of(universe))).context("only --scope firm can be found for sure")?;
        (page, slot)
    };
    let word = page.raise(slot, Mode::Halted);
    let barrier = heavy();
    // The lease is in time of CLOCK_MONOTONIC, as is the service's clock.
    let now = SystemClock::new().now().mono.0;
    let left = page.lease().saturating_sub(now);
    Ok(Raised { word, barrier, lease_ns: (left > 0).then_some(left) })
}
