//! HOT: positions, leaves and their value per strategy × instrument.

use crate::limits::Gauge;
use crate::model::Side;
use crate::model::save::{saved_state, saved_value};
use crate::ring::huge::{Populated, advise, advise_slice, populate, populate_slice};
use crate::risk::orders::NONE;
use crate::units::{InstrumentId, REPRESENTABLE_MAX, StrategyId};

/// One strategy in one instrument: 128 bytes, two cache lines.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Pair {
    /// Filled position, long positive.
    pub position: i64,
    /// Leaves of all orders by side: buy, sell. A pending replace counts with the larger quantity.
    pub leaves: [i64; 2],
    /// Quantity filled today.
    pub traded: i64,
    /// Σ leaves × worst price by side.
    pub raw: [i128; 2],
    /// Σ −sign × quantity × price of the day's fills (and of the position at the day's begin).
    pub cash: i128,
    /// As last valued, by side: net value if every buy were filled; net value, turned round, if every sell were.
    pub net: [i64; 2],
    /// Profit since the day began.
    pub pnl: i64,
    /// Pending and working orders.
    pub working: u32,
    /// Profile of its limits.
    pub profile: u32,
    /// Generation of the limits that `profile` belongs to.
    pub generation: u32,
    /// Next pair of the same instrument.
    pub next: u32,
    /// Its strategy.
    pub strategy: StrategyId,
    /// It could not be valued when it last changed: see [`crate::risk`].
    pub unvalued: bool,
    /// A sum of it went beyond what can be represented.
    pub overflowed: bool,
    /// Its instrument.
    pub instrument: InstrumentId,
}

const _: () = assert!(size_of::<Pair>() == 128);

/// The gauges of a pair, in the order of [`Gauge`].
pub type Gauges = [i64; Gauge::COUNT];

/// Index of a side in per-side arrays.
#[inline]
#[must_use]
pub const fn side_index(side: Side) -> usize {
    match side {
        Side::Buy => 0,
        Side::Sell => 1,
    }
}

impl Pair {
    /// A pair without position and orders.
    #[must_use]
    pub const fn empty(strategy: StrategyId, instrument: InstrumentId) -> Pair {
        Pair {
            position: 0,
            leaves: [0; 2],
            raw: [0; 2],
            cash: 0,
            net: [0; 2],
            pnl: 0,
            traded: 0,
            working: 0,
            profile: 0,
            generation: 0,
            next: NONE,
            strategy,
            unvalued: false,
            overflowed: false,
            instrument,
        }
    }

    /// Its gauges as last valued.
    #[inline]
    #[must_use]
    pub fn gauges(&self) -> Gauges {
        let mut g = [0; Gauge::COUNT];
        g[Gauge::Gross as usize] = self.net[0].max(0) + self.net[1].max(0);
        g[Gauge::NetLong as usize] = self.net[0];
        g[Gauge::NetShort as usize] = self.net[1];
        g[Gauge::Working as usize] = i64::from(self.working);
        g[Gauge::Loss as usize] = -self.pnl;
        g[Gauge::PositionLong as usize] = self.position + self.leaves[0];
        g[Gauge::PositionShort as usize] = self.leaves[1] - self.position;
        g[Gauge::DayQty as usize] = self.traded.saturating_add(self.leaves[0]).saturating_add(self.leaves[1]);
        g
    }

    /// Its net values by side at `reference`, were its raw leaves `raw`; `up` converts. `None`: cannot be represented or
    /// converted.
    #[inline]
    #[must_use]
    pub fn value(&self, raw: [i128; 2], reference: i64, up: impl Fn(i128) -> Option<i64>) -> Option<[i64; 2]> {
        let held = i128::from(self.position) * i128::from(reference);
        Some([up(raw[0].checked_add(held)?)?, up(raw[1].checked_sub(held)?)?])
    }

    /// The same for one side.
    #[inline]
    #[must_use]
    pub fn value_of(&self, side: Side, raw: i128, reference: i64, up: impl Fn(i128) -> Option<i64>) -> Option<i64> {
        let held = i128::from(side.sign() * self.position) * i128::from(reference);
        up(raw.checked_add(held)?)
    }

    /// Whether an order of `qty` reduces the position whatever else is filled, without crossing zero.
    #[inline]
    #[must_use]
    pub fn reduces(&self, side: Side, qty: i64) -> bool {
        let open = match side {
            Side::Buy => -self.position,
            Side::Sell => self.position,
        };
        open > 0 && self.leaves[side_index(side)].saturating_add(qty) <= open
    }

    /// Adds to a sum that must stay within ±[`REPRESENTABLE_MAX`]; marks the pair if it does not.
    pub fn add_bounded(value: i64, change: i64, overflowed: &mut bool) -> i64 {
        match value.checked_add(change) {
            Some(sum) if sum.abs() <= REPRESENTABLE_MAX => sum,
            _ => {
                *overflowed = true;
                if change > 0 { REPRESENTABLE_MAX } else { -REPRESENTABLE_MAX }
            }
        }
    }
}

/// All pairs that were ever used, reached by a dense index of strategy × instrument.
#[derive(Debug)]
pub struct PairTable {
    index: Box<[u32]>,
    instruments: usize,
    slab: Vec<Pair>,
    capacity: usize,
    /// First pair of each instrument.
    first: Box<[u32]>,
    count: Box<[u32]>,
}

// Profiles are numbers within one table of limits: whoever loads a pair looks its own up.
saved_value!(Pair {
    position, leaves, traded, raw, cash, net, pnl, working, generation, next, strategy, unvalued, overflowed, instrument
} derived { profile = 0 });
saved_state!(PairTable { index, slab, first, count } derived { instruments, capacity });

impl PairTable {
    /// A table for `capacity` pairs of `strategies` × `instruments`.
    #[must_use]
    pub fn new(strategies: usize, instruments: usize, capacity: usize) -> PairTable {
        let capacity = capacity.min(strategies * instruments);
        // Zero is "none": zeroed memory costs nothing until it is used.
        let index = vec![0; strategies * instruments].into_boxed_slice();
        let slab = Vec::with_capacity(capacity);
        advise_slice(&index);
        advise(&slab);
        PairTable {
            index,
            instruments,
            slab,
            capacity,
            first: vec![NONE; instruments].into_boxed_slice(),
            count: vec![0; instruments].into_boxed_slice(),
        }
    }

    /// Takes the memory of the whole table now. See [`populate`].
    ///
    /// # Errors
    ///
    /// As [`populate`].
    pub fn prefault(&self) -> Populated {
        Ok(populate_slice(&self.index)? + populate(&self.slab)?)
    }

    /// The place of a pair in the index: to be prefetched.
    #[inline]
    #[must_use]
    pub fn home(&self, strategy: StrategyId, instrument: InstrumentId) -> Option<&u32> {
        self.index.get(usize::from(strategy.0) * self.instruments + instrument.0 as usize)
    }

    /// The pair's slot, if it was ever used.
    #[inline]
    #[must_use]
    pub fn find(&self, strategy: StrategyId, instrument: InstrumentId) -> Option<u32> {
        match self.home(strategy, instrument) {
            Some(&place) if place > 0 => Some(place - 1),
            _ => None,
        }
    }

    /// Whether there is room for one more pair.
    #[inline]
    #[must_use]
    pub fn has_spare(&self) -> bool {
        self.slab.len() < self.capacity
    }

    /// Whether the pair is there or there is room for it.
    #[must_use]
    pub fn has_room(&self, strategy: StrategyId, instrument: InstrumentId) -> bool {
        self.slab.len() < self.capacity || self.find(strategy, instrument).is_some()
    }

    /// The place of the pair that will be made after `ahead` others: to be prefetched, for there is nothing yet, and perhaps
    /// no such place.
    #[inline]
    #[must_use]
    pub fn to_make(&self, ahead: usize) -> *const Pair {
        self.slab.as_ptr().wrapping_add(self.slab.len() + ahead)
    }

    /// The pair's slot, made if need be; `None` if there is no room. Both ids are known ones.
    pub fn find_or_make(&mut self, strategy: StrategyId, instrument: InstrumentId) -> Option<u32> {
        if let Some(slot) = self.find(strategy, instrument) {
            return Some(slot);
        }
        if self.slab.len() >= self.capacity {
            return None;
        }
        let slot = self.slab.len() as u32;
        let at = instrument.0 as usize;
        self.slab.push(Pair { next: self.first[at], ..Pair::empty(strategy, instrument) });
        self.first[at] = slot;
        self.count[at] += 1;
        self.index[usize::from(strategy.0) * self.instruments + at] = slot + 1;
        Some(slot)
    }

    /// The pair in `slot`.
    #[inline]
    #[must_use]
    pub fn get(&self, slot: u32) -> &Pair {
        &self.slab[slot as usize]
    }

    /// The pair in `slot`, to be changed.
    #[inline]
    pub fn get_mut(&mut self, slot: u32) -> &mut Pair {
        &mut self.slab[slot as usize]
    }

    /// Every pair, to be changed.
    pub fn each_mut(&mut self) -> impl Iterator<Item = &mut Pair> {
        self.slab.iter_mut()
    }

    /// The first pair of an instrument and how many it has.
    #[must_use]
    pub fn of_instrument(&self, instrument: usize) -> (u32, u32) {
        (self.first[instrument], self.count[instrument])
    }

    /// How many pairs are in use.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slab.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slab.is_empty()
    }
}
