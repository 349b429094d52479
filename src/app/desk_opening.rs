//! What a start makes of the overlays of the run before: the limits that it begins with.
//!
//! | `overlays.json` | taken up |
//! |---|---|
//! | whole | what has time left, under the configuration as it is now |
//! | not there, and the journal ends without overlays | nothing: there were none |
//! | not there although the journal ends with some, or damaged | of the journal's those that tighten, until their time; nothing that loosens |

use std::path::PathBuf;
use std::sync::Arc;

use crate::app::config::{self, Loaded, Timed, with_overlays};
use crate::app::desk_file::{self, Found};
use crate::guard::overrides::{Book, Override, OverridePolicy, Place, View};
use crate::guard::ramp::{After, Begin, Probations, Steps};
use crate::kill::words::ScopeName;
use crate::limits::LimitTable;
use crate::limits::overlay::{Change, Overlay, in_effect, number};
use crate::units::Now;

/// What a start begins with.
pub(super) struct Opening {
    pub(super) path: PathBuf,
    found: Found,
    pub(super) book: Book,
    pub(super) probations: Probations,
    /// What people should know: overlays that were dropped or kept.
    pub(super) notes: Vec<String>,
}

impl Opening {
    /// Reads what the run before left.
    pub fn read(loaded: &Loaded) -> Opening {
        let path = desk_file::path(&loaded.service.state_dir);
        let found = desk_file::read(&path);
        let book = Book::new(policy(loaded), 1);
        Opening { path, found, book, probations: Probations::default(), notes: Vec::new() }
    }

    /// Decides what is in force from `now` on, where the journal ends with `last`. Returns the limits in effect and the text
    /// that they are made of.
    pub fn settle(&mut self, loaded: &Loaded, last: Option<&str>, now: Now) -> (LimitTable, Arc<str>) {
        let last = last.and_then(|text| config::load_in_effect("the journal's configuration", text).ok());
        let of_journal = last.map(|loaded| loaded.overlays).unwrap_or_default();
        let over = match std::mem::replace(&mut self.found, Found::Nothing) {
            Found::Whole(saved) => {
                self.book = Book::new(policy(loaded), saved.next_id.max(1));
                self.probations.restore(saved.probation);
                self.book.restore(saved.overrides, now)
            }
            Found::Nothing if of_journal.is_empty() => Vec::new(),
            Found::Nothing => self.lost("is missing", loaded, &of_journal, now),
            Found::Damaged(why) => self.lost(&format!("is damaged ({why})"), loaded, &of_journal, now),
        };
        let view = View {
            universe: &loaded.universe,
            configured: &loaded.limits,
            in_effect: &loaded.limits,
            ceilings: loaded.ceilings.as_ref(),
            epoch: 0,
        };
        let gone = self.book.reconcile(view);
        for one in over.iter().chain(&gone) {
            self.notes.push(format!("override {} of {} at {} is over: {:?}", one.id, one.rule, one.scope, one.state));
        }
        in_force(loaded, &self.book, &self.probations)
    }

    /// Keeps of the journal's overlays what tightens. Who asked for it is in the audit.
    fn lost(&mut self, how: &str, loaded: &Loaded, of_journal: &[Timed], now: Now) -> Vec<Override> {
        self.notes.push(format!(
            "{} {how}: of the journal's {} overlays those that tighten are kept, nothing that loosens",
            self.path.display(),
            of_journal.len()
        ));
        let ids = of_journal.iter().map(|timed| timed.overlay.id + 1);
        self.book = Book::new(policy(loaded), ids.chain([now.unix.0 / 1_000_000_000]).max().unwrap_or(1));
        let mut kept = Vec::new();
        for Timed { overlay: Overlay { id, scope, change }, until } in of_journal {
            let Some(limits) = loaded.limits.scope(&loaded.universe, *scope) else { continue };
            let name = ScopeName::of(&loaded.universe, *scope);
            match *change {
                Change::Fraction(bps) => {
                    let steps = Steps { bps: vec![bps], clean_ns: u64::MAX, clean_volume: u64::MAX };
                    let begin = Begin { by: "haltline", now, counts: None };
                    self.probations.begin(*id, name, After::Lost, steps, begin);
                }
                Change::Set { rule, window_ns, value } => {
                    let place = Place { scope: *scope, rule, window_ns };
                    match number(limits, rule, window_ns) {
                        Some(configured) if value <= configured => {
                            kept.push(Override::kept(*id, &loaded.universe, place, value, configured, *until, now));
                        }
                        Some(_) | None => {}
                    }
                }
            }
        }
        self.book.restore(kept, now)
    }
}

/// The limits of a configuration with what is over them, and the text that says both.
pub(super) fn in_force(loaded: &Loaded, book: &Book, probations: &Probations) -> (LimitTable, Arc<str>) {
    let timed: Vec<Timed> = book
        .overlays(&loaded.universe)
        .into_iter()
        .map(|(overlay, until)| Timed { overlay, until })
        .chain(probations.overlays(&loaded.universe).into_iter().map(|overlay| Timed { overlay, until: 0 }))
        .collect();
    let overlays: Vec<Overlay> = timed.iter().map(|timed| timed.overlay).collect();
    let table = in_effect(&loaded.limits, &loaded.universe, &overlays);
    (table, with_overlays(&loaded.text, &loaded.universe, &timed).into())
}

fn policy(loaded: &Loaded) -> OverridePolicy {
    let ns = |d: std::time::Duration| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
    OverridePolicy {
        longest_ns: ns(loaded.overrides.longest),
        two_people: loaded.auth.two_people(),
        expiry_ns: ns(loaded.auth.rearm_expiry),
    }
}
