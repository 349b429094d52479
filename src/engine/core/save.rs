//! The engine's state as bytes: what a snapshot of the journal carries, and an engine made of it.
//!
//! What follows from the configuration (limits, profiles, sizes, names) is not in it: the caller keeps the configuration's
//! text, and makes the engine of the same one.

use std::sync::Arc;

use super::{Engine, FxRate, Reference, ScopeState, Sizing, Stream};
use crate::limits::LimitTable;
use crate::model::Universe;
use crate::model::save::{BadSave, In, Out, State, Value, restore_each, save_each, saved_state, saved_value};
use crate::units::Now;

saved_value!(Stream { expected, last_event, seen, gap, silent });
saved_state!(ScopeState { gauges, touched, velocity_until, mode, overflowed } derived {
    profile, first_meter, meters, parents, suspense
});
saved_state!(FxRate { rate, at, left } derived { instruments });
// The conversion is made of the rate again.
saved_state!(Reference { px, at, rate, left, next, known, queued } derived {
    most_age, volume, whole, currency, restricted, conversion
});

impl Engine {
    /// Writes the whole state, between two steps.
    pub fn save(&self, out: &mut Out<'_>) {
        let Engine {
            universe: _,
            table,
            hot: _,
            orders,
            execs,
            pairs,
            recent,
            rates,
            parents,
            fans,
            scopes,
            tracks,
            streams,
            references,
            fx,
            queue,
            queue_head,
            queue_len,
            rates_due,
            // Of the step that is over.
            touched: _,
            touched_pairs: _,
            step_number,
            latest,
            asked_ahead: _,
            oldest: _,
            accounts: _,
            strategy_base: _,
            instrument_base: _,
            session_base: _,
            working,
            behind,
            fill: _,
            cancels,
            #[cfg(test)]
                left_out: _,
        } = self;
        Value::save(&table.generation, out);
        orders.keep(out);
        execs.keep(out);
        pairs.keep(out);
        recent.keep(out);
        rates.keep(out);
        parents.keep(out);
        fans.keep(out);
        save_each(scopes, out);
        save_each(tracks, out);
        save_each(streams, out);
        save_each(references, out);
        save_each(fx, out);
        save_each(queue, out);
        for number in [queue_head, queue_len, rates_due] {
            Value::save(number, out);
        }
        Value::save(step_number, out);
        Value::save(latest, out);
        Value::save(working, out);
        Value::save(behind, out);
        State::keep(cancels, out);
    }

    /// An engine that goes on exactly where the saved one was. `universe`, `limits` and `sizing` are those that it had;
    /// `limits` with its generation.
    ///
    /// # Errors
    /// [`BadSave`] if the bytes are not the state of such an engine.
    pub fn load(
        universe: Arc<Universe>,
        limits: Arc<LimitTable>,
        sizing: Sizing,
        input: &mut In<'_>,
    ) -> Result<Engine, BadSave> {
        if u32::load(input)? != limits.generation {
            return Err(input.bad("it is of other limits"));
        }
        let mut engine = Engine::new(universe, limits, sizing, Now::default());
        engine.orders.restore(input)?;
        engine.execs.restore(input)?;
        engine.pairs.restore(input)?;
        engine.recent.restore(input)?;
        engine.rates.restore(input)?;
        engine.parents.restore(input)?;
        engine.fans.restore(input)?;
        restore_each(&mut engine.scopes, input)?;
        restore_each(&mut engine.tracks, input)?;
        restore_each(&mut engine.streams, input)?;
        restore_each(&mut engine.references, input)?;
        restore_each(&mut engine.fx, input)?;
        restore_each(&mut engine.queue, input)?;
        for number in [&mut engine.queue_head, &mut engine.queue_len, &mut engine.rates_due] {
            *number = usize::load(input)?;
        }
        engine.step_number = u64::load(input)?;
        engine.latest = Now::load(input)?;
        engine.working = u64::load(input)?;
        engine.behind = bool::load(input)?;
        engine.cancels.restore(input)?;
        for instrument in 0..engine.references.len() {
            engine.convert_at(instrument, engine.references[instrument].rate);
        }
        let table = engine.table.clone();
        for pair in engine.pairs.each_mut() {
            // The numbers of profiles mean something within one table only.
            if pair.generation == table.generation {
                pair.profile = table.pair_index(pair.strategy, pair.instrument);
            }
        }
        Ok(engine)
    }
}
