//! The orders and the exposure of a scope as they were at a trip or a kill: the journal replayed up to it, by an engine
//! of the incident thread's own. The live engine is asked for nothing.

use std::path::Path;

use ed25519_dalek::VerifyingKey;
use serde_json::{Value, json};

use crate::engine::core::Engine;
use crate::engine::record::NameOf;
use crate::journal::compact::MakeOfText;
use crate::journal::format::GroupKind;
use crate::journal::reader::Reader;
use crate::journal::replay::{Input, Replayer, Watch};
use crate::journal::snapshot::{self, snapshots};
use crate::kill::words::{self, ScopeName};
use crate::limits::Gauge;
use crate::model::rule::applies;
use crate::model::{Effect, Mode, Rule, Scope, Trip, Universe};
use crate::risk::orders::{Order, OrderState};
use crate::units::{Now, UnixNanos, format_decimal};

/// The input behind which the state is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The one that tripped, not later than this.
    Trip(Trip, UnixNanos),
    /// The one by which the engine learned of a mode at this epoch.
    Mode(Scope, u64),
}

/// What a replay needs besides the directory.
#[derive(Clone)]
pub struct ReplayParts {
    /// Makes a configuration of its text.
    pub make: MakeOfText,
    /// What snapshots are signed with.
    pub key: VerifyingKey,
}

/// Orders that are listed; all are counted.
const LISTED: usize = 500;
/// The most that is replayed for a report: beyond it, it says that it was too much.
const BYTES_MAX: u64 = 2 << 30;

/// What was working in a scope, and its gauges.
pub struct AtTrip {
    /// The record of the input.
    cell: u64,
    /// Orders that were live.
    count: usize,
    /// The first of them, by the place that they have in the engine.
    orders: Vec<(Order, Option<String>)>,
    /// Gauges of the scope and of the firm.
    gauges: [Option<[i64; Gauge::COUNT]>; 2],
}

/// The states behind `moments`, in their order; `None` where the journal has no such input.
///
/// # Errors
/// Why the journal could not be replayed, for people.
pub fn states_at(dir: &Path, parts: &ReplayParts, moments: &[(Moment, Scope)]) -> Result<Vec<Option<AtTrip>>, String> {
    let mut last = (0..moments.len()).map(|_| None).collect();
    let newest_first = snapshots(dir).map_err(|error| error.to_string())?.into_iter().rev();
    for path in newest_first.map(|(_, path)| Some(path)).chain([None]) {
        let mut reader = Reader::open(dir).map_err(|error| error.to_string())?;
        let replayer = match &path {
            None => Replayer::new(&*parts.make),
            Some(path) => match snapshot::load(path, &parts.key, &*parts.make) {
                Ok((header, replayer)) => {
                    reader.resume_at(header.tip);
                    replayer
                }
                Err(_) => continue,
            },
        };
        let bytes = reader.bytes_to_read();
        if bytes > BYTES_MAX {
            return Err(format!("{bytes} bytes of journal would have to be replayed"));
        }
        match replay(reader, replayer, moments) {
            // A snapshot may have been made behind the moment: the one before it is not.
            Ok(found) if found.iter().all(Option::is_some) || path.is_none() => return Ok(found),
            Ok(found) => last = found,
            Err(_) if path.is_some() => {}
            Err(why) => return Err(why),
        }
    }
    Ok(last)
}

fn replay(
    mut reader: Reader,
    mut replayer: Replayer<'_>,
    moments: &[(Moment, Scope)],
) -> Result<Vec<Option<AtTrip>>, String> {
    let mut look = Look { moments, found: moments.iter().map(|_| None).collect() };
    let (mut cells, mut done) = (Vec::new(), 0);
    while let Some(group) = reader.next_group().map_err(|error| error.to_string())? {
        if group.header.kind != GroupKind::Cells {
            continue;
        }
        cells.clear();
        cells.extend(group.cells());
        let taken = replayer.take(group.header.first, &cells, &mut look);
        taken.map_err(|error| error.to_string())?;
        // The texts are still known: an order that ended since is remembered.
        for at in look.found.iter_mut().flatten().filter(|at| at.cell >= group.header.first) {
            for (order, text) in &mut at.orders {
                let name = replayer.name(order.session, NameOf::Order, order.id.0);
                *text = name.map(|name| name.text().to_owned());
            }
        }
        done += look.found.iter().flatten().filter(|at| at.cell >= group.header.first).count();
        if done >= moments.len() {
            break;
        }
    }
    Ok(look.found)
}

struct Look<'a> {
    moments: &'a [(Moment, Scope)],
    found: Vec<Option<AtTrip>>,
}

impl Watch for Look<'_> {
    fn input(&mut self, cell: u64, now: Now, input: Input<'_>, effects: &[Effect], engine: &Engine) {
        for ((moment, scope), found) in self.moments.iter().zip(&mut self.found) {
            let is_it = match (moment, &input) {
                (Moment::Mode(scope, epoch), Input::Mode(of, mode, at)) => {
                    (scope, epoch) == (of, at) && *mode > Mode::Normal
                }
                (Moment::Trip(trip, at), _) => now.unix <= *at && effects.contains(&Effect::Trip(*trip)),
                (Moment::Mode(..), _) => false,
            };
            if is_it && found.is_none() {
                *found = Some(AtTrip::of(cell, *scope, engine));
            }
        }
    }
}

impl AtTrip {
    fn of(cell: u64, scope: Scope, engine: &Engine) -> AtTrip {
        let (mut count, mut orders) = (0, Vec::new());
        for order in engine.live_orders().filter(|order| concerns(engine.universe(), scope, order)) {
            count += 1;
            if orders.len() < LISTED {
                orders.push((*order, None));
            }
        }
        AtTrip { cell, count, orders, gauges: [engine.gauges(scope), engine.gauges(Scope::Firm)] }
    }

    /// Puts it into a report.
    pub fn tell(&self, universe: &Universe, scope: Scope, body: &mut Value) {
        let [own, firm] = self.gauges;
        body["exposure"] = json!({
            "as_of": format!("record {}", self.cell),
            "scope": gauges(universe, scope, own), "firm": gauges(universe, Scope::Firm, firm),
        });
        let orders: Vec<Value> = self.orders.iter().map(|(order, text)| order_value(universe, order, text)).collect();
        body["working_orders"] =
            json!({ "as_of": format!("record {}", self.cell), "count": self.count, "orders": orders });
    }
}

fn concerns(universe: &Universe, scope: Scope, order: &Order) -> bool {
    let account = || universe.strategies.get(usize::from(order.strategy.0)).map(|spec| spec.account);
    match scope {
        Scope::Firm => true,
        Scope::Account(of) => account() == Some(of),
        Scope::Strategy(strategy) => order.strategy == strategy,
        Scope::Pair(strategy, instrument) => order.strategy == strategy && order.instrument == instrument,
        Scope::Instrument(instrument) => order.instrument == instrument,
        Scope::Session(session) => order.session == session,
    }
}

/// The gauges that are kept at a scope, by rule; day quantities are not told as the share that they are limited by.
pub fn gauges(universe: &Universe, scope: Scope, gauges: Option<[i64; Gauge::COUNT]>) -> Value {
    let Some(gauges) = gauges else { return Value::Null };
    let kept = Gauge::ALL.into_iter().filter(|g| applies(g.rule(), scope.kind()) && *g != Gauge::DayQty);
    let values = kept.map(|g| {
        let value = words::value(universe, g.rule(), scope, gauges[g as usize]);
        (g.rule().name().to_owned(), value.into())
    });
    Value::Object(values.collect())
}

fn order_value(universe: &Universe, order: &Order, text: &Option<String>) -> Value {
    let name = |scope| ScopeName::of(universe, scope).name;
    let instrument = Scope::Instrument(order.instrument);
    let qty = |qty| words::value(universe, Rule::OrderQty, instrument, qty);
    let px_scale = universe.instruments.get(order.instrument.0 as usize).map_or(0, |spec| spec.px_scale);
    let state = match order.state {
        OrderState::PendingNew => "pending",
        OrderState::Working => "working",
        OrderState::Replacement => "replacement",
        OrderState::Free | OrderState::Done | OrderState::Replaced => "done",
    };
    json!({
        "id": text.clone().unwrap_or_else(|| order.id.0.to_string()), "session": name(Scope::Session(order.session)),
        "strategy": name(Scope::Strategy(order.strategy)), "instrument": name(instrument), "side": order.side.name(),
        "qty": qty(order.order_qty), "filled": qty(order.cum_qty), "leaves": qty(order.leaves()),
        "worst_px": format_decimal(order.worst_px, px_scale), "state": state, "cancel_pending": order.pending_cancel,
    })
}
