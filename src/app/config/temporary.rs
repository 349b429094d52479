//! What changes limits for a while, and the way back from a halt: `[overrides]`, `[limits_api]`, `[rearm]`, `[drill]`, `[ramp]`; and the
//! overlays that a running service appends to the text that the journal keeps.

use core::fmt::Write as _;
use core::time::Duration;

use super::file::{FileText, WEEK_NS};
use super::limits::LimitText;
use super::reader::{Field, Reader, format_duration, is_name};
use super::violation::{Errors, Spot};
use crate::kill::words::ScopeName;
use crate::limits::overlay::{Change, Overlay, WHOLE_BPS};
use crate::limits::{LimitTable, UNLIMITED};
use crate::model::rule::applies;
use crate::model::{Rule, SessionKind, Universe};

const HOUR_NS: u64 = 3_600_000_000_000;
const SECOND_NS: u64 = 1_000_000_000;

/// Section `[overrides]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overrides {
    /// The longest that one may last.
    pub longest: Duration,
}

impl Default for Overrides {
    fn default() -> Self {
        Overrides { longest: Duration::from_nanos(4 * HOUR_NS) }
    }
}

/// Section `[limits_api]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitsApi {
    /// Whether `PUT /v1/limits` writes the configuration file that the service was started from.
    pub write: bool,
}

/// Section `[rearm]`: what a re-arm takes besides the persons of `[auth]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rearm {
    /// The cause has to be named: the request says which one was looked at.
    pub acknowledge: bool,
    /// The request carries a number that is good once, from `GET /v1/rearm/nonce`.
    pub nonce: bool,
    /// How long after the last raise nothing is re-armed.
    pub cool_off: Duration,
    /// The kill switch has to have been rehearsed this recently.
    pub drill_within: Option<Duration>,
    /// What the scope may use at first.
    pub probation: Option<Probation>,
}

/// Reduced limits for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probation {
    /// In basis points of what is configured.
    pub fraction_bps: u16,
    /// Without a breach for so long ends it.
    pub clean_for: Duration,
}

/// Section `[drill]`: the session that rehearses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drill {
    /// A session of kind `ask` that nobody else uses; haltline itself connects as it.
    pub session: String,
    /// The strategy that its orders name; it is the scope that is halted where nothing else is said.
    pub strategy: String,
    /// The instrument that its orders name.
    pub instrument: String,
}

/// Section `[ramp]`: what a newly approved build may use until it has been clean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ramp {
    /// Ascending, in basis points of what is configured.
    pub steps_bps: Vec<u16>,
    /// Without a breach for so long, at each step.
    pub clean_for: Duration,
    /// And so many orders admitted, at each step.
    pub clean_volume: u64,
}

/// Everything of this file, as it is written.
#[derive(Default)]
pub(super) struct TemporaryText {
    pub overrides: Overrides,
    pub limits_api: LimitsApi,
    pub rearm: Rearm,
    drill_within_spot: Option<Spot>,
    pub drill: Option<Drill>,
    drill_spots: [Spot; 3],
    pub ramp: Option<Ramp>,
}

impl TemporaryText {
    /// Reads the sections.
    pub fn read(root: &mut Reader<'_>) -> TemporaryText {
        let mut text = TemporaryText::default();
        if let Some(mut table) = root.table("overrides") {
            if let Some(ns) = table.get("longest").and_then(|f| f.duration(SECOND_NS, WEEK_NS)) {
                text.overrides.longest = Duration::from_nanos(ns);
            }
            table.finish();
        }
        if let Some(mut table) = root.table("limits_api") {
            text.limits_api.write = table.get("write").and_then(|f| f.boolean()).unwrap_or(false);
            table.finish();
        }
        if let Some(table) = root.table("rearm") {
            text.rearm = read_rearm(table, &mut text.drill_within_spot);
        }
        if let Some(mut table) = root.table("drill") {
            let mut spots: [Spot; 3] = Default::default();
            let mut name = |at: usize, key, rule: &str| {
                let field = table.need(key, rule)?;
                spots[at] = field.spot.clone();
                let text = field.string()?;
                if !is_name(text) {
                    field.refuse(super::reader::NAME_RULE);
                    return None;
                }
                Some(text.to_owned())
            };
            let session = name(0, "session", "the session that rehearses");
            let strategy = name(1, "strategy", "the strategy that its orders name");
            let instrument = name(2, "instrument", "the instrument that its orders name");
            table.finish();
            if let (Some(session), Some(strategy), Some(instrument)) = (session, strategy, instrument) {
                text.drill = Some(Drill { session, strategy, instrument });
                text.drill_spots = spots;
            }
        }
        if let Some(table) = root.table("ramp") {
            text.ramp = read_ramp(table);
        }
        text
    }

    /// What only shows when all sections are read.
    pub fn check(&self, errors: &Errors<'_>, file: &FileText) {
        let Some(drill) = &self.drill else {
            if let Some(spot) = &self.drill_within_spot {
                errors.at(spot, "needs [drill]: without a session to rehearse with nothing could ever be re-armed");
            }
            return;
        };
        let [session_spot, strategy_spot, instrument_spot] = &self.drill_spots;
        match file.sessions.iter().find(|s| s.name == drill.session) {
            None => errors.at(session_spot, format!("no such session; [sessions.{}] would declare it", drill.session)),
            Some(s) if s.kind != SessionKind::Ask => errors.at(session_spot, "must be a session of kind \"ask\""),
            Some(s) if !s.strategies.is_empty() && !s.strategies.iter().any(|(name, _)| *name == drill.strategy) => {
                errors.at(strategy_spot, format!("is not among the strategies of [sessions.{}]", drill.session));
            }
            Some(_) => {}
        }
        match file.strategies.iter().find(|s| s.name == drill.strategy) {
            None => {
                errors.at(strategy_spot, format!("no such strategy; [strategies.{}] would declare it", drill.strategy));
            }
            Some(s) => {
                let listed = s.instruments.as_ref();
                if listed.is_some_and(|list| !list.iter().any(|(name, _)| *name == drill.instrument)) {
                    errors.at(instrument_spot, format!("is not among those of [strategies.{}]", drill.strategy));
                }
            }
        }
        if !file.instruments.iter().any(|i| i.name == drill.instrument) {
            let rule = format!("no such instrument; [instruments.{}] would declare it", drill.instrument);
            errors.at(instrument_spot, rule);
        }
    }

    /// Writes the sections with every default.
    pub fn write(&self, out: &mut String) -> core::fmt::Result {
        let span = |d: Duration| format_duration(d.as_nanos() as u64);
        writeln!(out, "\n[overrides]\nlongest = \"{}\"", span(self.overrides.longest))?;
        writeln!(out, "\n[limits_api]\nwrite = {}", self.limits_api.write)?;
        let rearm = &self.rearm;
        writeln!(out, "\n[rearm]\nacknowledge = {}\nnonce = {}", rearm.acknowledge, rearm.nonce)?;
        writeln!(out, "cool_off = \"{}\"", span(rearm.cool_off))?;
        if let Some(within) = rearm.drill_within {
            writeln!(out, "drill_within = \"{}\"", span(within))?;
        }
        if let Some(p) = rearm.probation {
            writeln!(out, "probation = {{ fraction = {}, for = \"{}\" }}", p.fraction_bps, span(p.clean_for))?;
        }
        if let Some(drill) = &self.drill {
            writeln!(out, "\n[drill]\nsession = \"{}\"\nstrategy = \"{}\"", drill.session, drill.strategy)?;
            writeln!(out, "instrument = \"{}\"", drill.instrument)?;
        }
        if let Some(ramp) = &self.ramp {
            writeln!(out, "\n[ramp]\nsteps = {:?}\nclean_for = \"{}\"", ramp.steps_bps, span(ramp.clean_for))?;
            writeln!(out, "clean_volume = {}", ramp.clean_volume)?;
        }
        Ok(())
    }
}

/// A part that is more than nothing and not more than the whole.
fn read_fraction(field: &Field<'_>) -> Option<u16> {
    let bps = field.basis_points(i64::from(WHOLE_BPS))?;
    if bps == 0 {
        field.refuse("must be more than nothing: what shall not trade is halted");
        return None;
    }
    Some(bps as u16)
}

fn read_rearm(mut table: Reader<'_>, drill_within_spot: &mut Option<Spot>) -> Rearm {
    let mut rearm = Rearm::default();
    rearm.acknowledge = table.get("acknowledge").and_then(|f| f.boolean()).unwrap_or(rearm.acknowledge);
    rearm.nonce = table.get("nonce").and_then(|f| f.boolean()).unwrap_or(rearm.nonce);
    if let Some(ns) = table.get("cool_off").and_then(|f| f.duration(0, 24 * HOUR_NS)) {
        rearm.cool_off = Duration::from_nanos(ns);
    }
    let within = table.get("drill_within").and_then(|f| {
        *drill_within_spot = Some(f.spot.clone());
        f.duration(60 * SECOND_NS, 52 * WEEK_NS)
    });
    rearm.drill_within = within.map(Duration::from_nanos);
    rearm.probation = table.get("probation").and_then(|f| {
        let mut inner = f.table()?;
        let fraction = inner.need("fraction", "such as \"25%\"").and_then(|f| read_fraction(&f));
        let clean_for = inner.need("for", "such as \"10m\"").and_then(|f| f.duration(SECOND_NS, WEEK_NS));
        inner.finish();
        Some(Probation { fraction_bps: fraction?, clean_for: Duration::from_nanos(clean_for?) })
    });
    table.finish();
    rearm
}

fn read_ramp(mut table: Reader<'_>) -> Option<Ramp> {
    let steps_bps = table.need("steps", "such as [\"10%\", \"25%\", \"50%\"]").and_then(|f| {
        let fields = f.array()?;
        if fields.is_empty() || fields.len() > 16 {
            f.refuse("must have 1 to 16 steps");
        }
        let steps: Vec<u16> = fields.iter().filter_map(read_fraction).collect();
        if steps.len() == fields.len() && !steps.is_sorted_by(|a, b| a < b) {
            f.refuse("must ascend");
        }
        Some(steps)
    });
    let clean_for = table.need("clean_for", "how long without a breach, such as \"30m\"");
    let clean_for = clean_for.and_then(|f| f.duration(SECOND_NS, 4 * WEEK_NS));
    let clean_volume = table.get("clean_volume").and_then(|f| f.integer(0, 1 << 40)).unwrap_or(0);
    table.finish();
    let (steps_bps, clean_for) = (steps_bps?, Duration::from_nanos(clean_for?));
    Some(Ramp { steps_bps, clean_for, clean_volume: clean_volume as u64 })
}

/// An overlay, and when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timed {
    /// What it does.
    pub overlay: Overlay,
    /// Unix ns; 0: when somebody or something ends it.
    pub until: u64,
}

/// The most overlays that one text may have.
pub const OVERLAYS_MAX: usize = 128;
/// The most bytes that [`with_overlays`] adds for one.
pub const OVERLAY_BYTES: usize = 320;

/// `text` with `overlays` appended, in the form that [`super::load_in_effect`] reads. Without any it is `text` itself.
#[must_use]
pub fn with_overlays(text: &str, universe: &Universe, overlays: &[Timed]) -> String {
    let mut out = text.to_owned();
    if overlays.is_empty() {
        return out;
    }
    out.push_str("\n\n# In effect over what stands above; written by haltline, and no part of the file.\n");
    for Timed { overlay, until } in overlays {
        let ScopeName { kind, name } = ScopeName::of(universe, overlay.scope);
        let what = match overlay.change {
            Change::Set { rule, window_ns: None, value } => format!("set = \"{}\"\nvalue = {value}", rule.name()),
            Change::Set { rule, window_ns: Some(window), value } => {
                format!("set = \"{}\"\nwindow = {window}\nvalue = {value}", rule.name())
            }
            Change::Fraction(bps) => format!("fraction = {bps}"),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(out, "[[overlays]]\nid = {}\nkind = \"{kind}\"\nname = \"{name}\"", overlay.id);
        let _ = writeln!(out, "{what}\nuntil = {until}");
    }
    out
}

/// An overlay as it stands in a text.
pub(super) struct OverlayText {
    spot: Spot,
    id: u64,
    scope: ScopeName,
    change: Change,
    until: u64,
}

/// Reads `[[overlays]]`. `allowed`: this is a text that a service wrote, not a file that a person did.
pub(super) fn read_overlays(root: &mut Reader<'_>, allowed: bool) -> Vec<OverlayText> {
    let Some(field) = root.get("overlays") else { return Vec::new() };
    if !allowed {
        field.refuse("is what a running service writes into its journal: see `haltline limits override`");
        return Vec::new();
    }
    let fields = field.array().unwrap_or_default();
    if fields.len() > OVERLAYS_MAX {
        field.refuse(format!("has more than {OVERLAYS_MAX} entries"));
        return Vec::new();
    }
    fields.iter().filter_map(read_overlay).collect()
}

fn read_overlay(field: &Field<'_>) -> Option<OverlayText> {
    let mut table = field.table()?;
    let id = table.need("id", "its number").and_then(|f| f.integer(0, i64::MAX));
    let kind = table.need("kind", "a kind of scope").and_then(|f| f.string());
    let name = table.get("name").and_then(|f| f.string()).unwrap_or_default();
    let until = table.get("until").and_then(|f| f.integer(0, i64::MAX)).unwrap_or(0) as u64;
    let fraction = table.get("fraction");
    let set = table.get("set");
    let window = table.get("window").and_then(|f| f.integer(1, i64::MAX));
    let value = table.get("value").and_then(|f| f.integer(0, UNLIMITED));
    table.finish();
    let change = match (set, fraction) {
        (Some(set), None) => {
            let rule = Rule::from_name(set.string()?);
            let Some(rule) = rule else {
                set.refuse("is no rule");
                return None;
            };
            let Some(value) = value else {
                field.refuse("sets a rule to no value");
                return None;
            };
            Change::Set { rule, window_ns: window.map(|w| w as u64), value }
        }
        (None, Some(fraction)) => Change::Fraction(fraction.integer(0, i64::from(WHOLE_BPS))? as u16),
        (Some(_), Some(_)) | (None, None) => {
            field.refuse("must have either set or fraction");
            return None;
        }
    };
    let scope = ScopeName { kind: kind?.to_owned(), name: name.to_owned() };
    Some(OverlayText { spot: field.spot.clone(), id: id? as u64, scope, change, until })
}

/// Overlays with scopes of `universe`; one that has none there is a violation.
pub(super) fn bind(errors: &Errors<'_>, universe: &Universe, list: &[OverlayText]) -> Vec<Timed> {
    let bind = |o: &OverlayText| {
        let Some(scope) = o.scope.find(universe) else {
            errors.at(&o.spot, format!("there is no {}", o.scope));
            return None;
        };
        if let Change::Set { rule, .. } = o.change
            && !applies(rule, scope.kind())
        {
            errors.at(&o.spot, format!("{} cannot be limited per {}", rule.name(), scope.kind().name()));
            return None;
        }
        Some(Timed { overlay: Overlay { id: o.id, scope, change: o.change }, until: o.until })
    };
    list.iter().filter_map(bind).collect()
}

/// The section `[ceilings]`, written like `[limits]`: what an override may reach at most. What it does not name has none.
pub(super) fn read_ceilings(root: &mut Reader<'_>, file: &FileText) -> Option<LimitText> {
    let mut text = LimitText::read_from(root.errors, root.table("ceilings")?, file);
    for table in text.kinds.iter().flat_map(|tables| std::iter::once(&tables.all).chain(tables.named.values())) {
        if let Some((_, spot)) = &table.mandatory {
            root.errors.at(spot, "a ceiling demands nothing: write it in [limits]");
        }
    }
    for tables in &mut text.kinds {
        tables.all.others_unlimited = true;
        tables.named.values_mut().for_each(|table| table.others_unlimited = true);
    }
    Some(text)
}

/// The table of `[ceilings]`.
pub(super) fn build_ceilings(
    text: Option<&LimitText>,
    errors: &Errors<'_>,
    file: &FileText,
    universe: &Universe,
) -> Option<LimitTable> {
    text.map(|text| text.build(errors, file, universe))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::config::{effective, load, load_in_effect, reload};
    use crate::limits::Gauge;
    use crate::limits::overlay::in_effect;
    use crate::model::Scope;
    use crate::units::{InstrumentId, SessionId, StrategyId};

    const BASE: &str = r#"
[service]
state_dir = "state"
[auth]
tokens_at_runtime = true
[accounts.A]
[strategies.alpha]
account = "A"
instruments = ["SHARE"]
[strategies.drill]
account = "A"
[instruments.SHARE]
px_scale = 2
qty_scale = 0
[sessions.gw]
kind = "ask"
[sessions.drill]
kind = "ask"
strategies = ["drill"]
[limits.firm]
gross_exposure = 1_000
[limits.strategy."*"]
order_rate = { count = 10, per = "1s" }
[limits.session."*"]
order_qty = 9
"#;

    const SECTIONS: &str = r#"
[overrides]
longest = "2h"
[limits_api]
write = true
[rearm]
acknowledge = true
nonce = true
cool_off = "1m"
drill_within = "1d"
probation = { fraction = "12.5%", for = "10m" }
[drill]
session = "drill"
strategy = "drill"
instrument = "SHARE"
[ramp]
steps = ["10%", 2500, "50%"]
clean_for = "30m"
clean_volume = 100
[ceilings.firm]
gross_exposure = 2_000
"#;

    #[test]
    fn every_key_is_read_printed_and_means_the_same_again() {
        let loaded = load("c", &format!("{BASE}{SECTIONS}")).unwrap();
        assert_eq!(loaded.overrides.longest, Duration::from_secs(7_200));
        assert!(loaded.limits_api.write && loaded.rearm.acknowledge && loaded.rearm.nonce);
        let probation = loaded.rearm.probation.unwrap();
        assert_eq!((probation.fraction_bps, probation.clean_for), (1_250, Duration::from_secs(600)));
        assert_eq!(loaded.ramp.as_ref().unwrap().steps_bps, [1_000, 2_500, 5_000]);
        let ceilings = loaded.ceilings.as_ref().unwrap();
        assert_eq!(ceilings.at(0).of(Gauge::Gross), 20_000_000);
        assert_eq!(ceilings.at(0).of(Gauge::NetLong), UNLIMITED, "what is not named has no ceiling");
        let printed = effective("c", &format!("{BASE}{SECTIONS}")).unwrap();
        let again = load("printed", &printed).unwrap_or_else(|found| panic!("{}", found.render(false)));
        assert_eq!((&again.rearm, &again.drill, &again.ramp), (&loaded.rearm, &loaded.drill, &loaded.ramp));
        assert_eq!((again.overrides, again.limits_api), (loaded.overrides, loaded.limits_api));
        assert_eq!(again.ceilings.unwrap().at(0), ceilings.at(0));
    }

    #[test]
    fn what_cannot_be_is_refused_where_it_stands() {
        for (from, to, field) in [
            ("longest = \"2h\"", "longest = \"0s\"", "overrides.longest"),
            ("fraction = \"12.5%\"", "fraction = 0", "rearm.probation.fraction"),
            ("fraction = \"12.5%\"", "fraction = \"101%\"", "rearm.probation.fraction"),
            ("2500, \"50%\"", "2500, \"5%\"", "ramp.steps"),
            ("[\"10%\", 2500, \"50%\"]", "[]", "ramp.steps"),
            ("session = \"drill\"", "session = \"none\"", "drill.session"),
            ("session = \"drill\"", "session = \"gw\"\nmore = 1", "drill.more"),
            ("strategy = \"drill\"", "strategy = \"alpha\"", "drill.strategy"),
            ("instrument = \"SHARE\"", "instrument = \"none\"", "drill.instrument"),
            ("gross_exposure = 2_000", "gross = 2_000", "ceilings.firm.gross"),
            ("[drill]\nsession = \"drill\"\nstrategy = \"drill\"\ninstrument = \"SHARE\"", "", "rearm.drill_within"),
        ] {
            let text = format!("{BASE}{SECTIONS}").replace(from, to);
            let found = load("c", &text).expect_err(to);
            assert!(found.list.iter().any(|v| v.field == field), "{to}: {:?}", found.list);
        }
    }

    #[test]
    fn the_session_that_rehearses_needs_no_token_of_its_own() {
        let hash = format!("token_hash = \"{}\"", "ab".repeat(32));
        let text = format!("{BASE}{SECTIONS}").replace("tokens_at_runtime = true", "");
        let with = text.replace("[sessions.gw]", &format!("[sessions.gw]\n{hash}"));
        assert!(load("c", &with).is_ok());
        let found = load("c", &text).unwrap_err();
        assert_eq!(found.list.iter().map(|v| &*v.field).collect::<Vec<_>>(), ["sessions.gw.token_hash"]);
    }

    #[test]
    fn overlays_in_a_text_are_what_was_put_there_and_only_a_service_may() {
        let loaded = load("c", BASE).unwrap();
        let set = |id, scope, rule, window_ns, value| Timed {
            overlay: Overlay { id, scope, change: Change::Set { rule, window_ns, value } },
            until: 1_800_000_000_000_000_000 + id,
        };
        let pair = Scope::Pair(StrategyId(0), InstrumentId(0));
        let list = [
            set(1, Scope::Firm, Rule::GrossExposure, None, 7),
            set(2, Scope::Strategy(StrategyId(0)), Rule::OrderRate, Some(1_000_000_000), 3),
            set(3, pair, Rule::OrderQty, None, UNLIMITED - 1),
            Timed {
                overlay: Overlay { id: 4, scope: Scope::Session(SessionId(1)), change: Change::Fraction(1_250) },
                until: 0,
            },
        ];
        let text = with_overlays(BASE, &loaded.universe, &list);
        assert!(text.len() <= BASE.len() + list.len() * OVERLAY_BYTES);
        assert_eq!(with_overlays(BASE, &loaded.universe, &[]), BASE);
        let again = load_in_effect("journal", &text).unwrap_or_else(|found| panic!("{}", found.render(false)));
        assert_eq!(again.overlays, list);
        let overlays = list.map(|timed| timed.overlay);
        let expected = in_effect(&loaded.limits, &loaded.universe, &overlays);
        for slot in 0..loaded.universe.scope_count() {
            assert_eq!(again.limits.at(slot), expected.at(slot), "{slot}");
        }
        assert_eq!(again.limits.pair(StrategyId(0), InstrumentId(0)).order_qty, UNLIMITED - 1);
        // A file may not have them, also not on a reload.
        for found in [load("c", &text).unwrap_err(), reload(&loaded, "c", &text).unwrap_err()] {
            assert_eq!(found.list[0].field, "overlays");
        }
        let gone = text.replace("name = \"alpha/SHARE\"", "name = \"alpha/GONE\"");
        assert!(load_in_effect("journal", &gone).is_err(), "it would be another table than was");
    }
}
