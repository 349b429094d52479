//! HOT: a hash index from ids to slots of a slab: open addressing, linear probing, no tombstones.
//!
//! An entry is 8 bytes: 32 bits of hash, 32 bits of slot + 1. The hash's top bits are the home
//! position, the rest tells most strangers apart without a look at the slab. Removal shifts the
//! followers back, so that no search is longer than it has to be.

use crate::model::save::saved_state;
use crate::ring::huge::{Populated, advise_slice, populate_slice};

/// The longest run that a search follows; an insertion that would need a longer one is refused.
const MAX_PROBE: usize = 1024;

/// The table has no room for this entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// A place for an entry that is not in the index.
#[derive(Clone, Copy, Debug)]
pub struct Vacancy {
    hash: u32,
    at: usize,
}

/// See the module.
#[derive(Debug)]
pub struct IdIndex {
    entries: Box<[u64]>,
    shift: u32,
    mask: usize,
}

saved_state!(IdIndex { entries } derived { shift, mask });

/// 32 well-mixed bits of two words.
#[inline]
#[must_use]
pub fn hash(a: u64, b: u64) -> u32 {
    const K: u64 = 0x9E37_79B9_7F4A_7C15;
    const L: u64 = 0xD1B5_4A32_D192_ED03;
    let x = a ^ b.wrapping_mul(L).rotate_left(23);
    let product = u128::from(x ^ L) * u128::from(K);
    let folded = (product >> 64) as u64 ^ product as u64;
    (folded.wrapping_mul(K) >> 32) as u32
}

impl IdIndex {
    /// An index for `capacity` entries, at most half full.
    #[must_use]
    pub fn new(capacity: usize) -> IdIndex {
        let size = (capacity.max(8) * 2).next_power_of_two();
        assert!(size <= 1 << 31, "an index holds at most 2^30 entries");
        let entries = vec![0; size].into_boxed_slice();
        advise_slice(&entries);
        IdIndex { entries, shift: 32 - size.trailing_zeros(), mask: size - 1 }
    }

    /// Takes the memory of the whole index now. See [`populate_slice`].
    ///
    /// # Errors
    ///
    /// As [`populate_slice`].
    pub fn prefault(&self) -> Populated {
        populate_slice(&self.entries)
    }

    #[inline]
    const fn home(&self, hash: u32) -> usize {
        (hash >> self.shift) as usize
    }

    #[inline]
    const fn entry(hash: u32, slot: u32) -> u64 {
        (hash as u64) << 32 | (slot as u64 + 1)
    }

    /// Where the processor will look first for `hash`.
    #[inline]
    #[must_use]
    pub fn home_entry(&self, hash: u32) -> &u64 {
        &self.entries[self.home(hash) & self.mask]
    }

    /// The slot of an entry with `hash` that `is_it` confirms.
    #[inline]
    #[must_use]
    pub fn find(&self, hash: u32, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let home = self.home(hash);
        for at in home..home + MAX_PROBE {
            let entry = self.entries[at & self.mask];
            if entry == 0 {
                return None;
            }
            if (entry >> 32) as u32 == hash && is_it(entry as u32 - 1) {
                return Some(entry as u32 - 1);
            }
        }
        None
    }

    /// The slot of the first entry with `hash`, unconfirmed: a guess to be prefetched.
    #[inline]
    #[must_use]
    pub fn likely(&self, hash: u32) -> Option<u32> {
        self.find(hash, |_| true)
    }

    /// The place for an entry with `hash`, if there is none yet that `is_it` confirms, and room for one.
    #[inline]
    #[must_use]
    pub fn vacancy(&self, hash: u32, mut is_it: impl FnMut(u32) -> bool) -> Option<Vacancy> {
        let home = self.home(hash);
        for at in home..home + MAX_PROBE {
            let at = at & self.mask;
            let entry = self.entries[at];
            if entry == 0 {
                return Some(Vacancy { hash, at });
            }
            if (entry >> 32) as u32 == hash && is_it(entry as u32 - 1) {
                return None;
            }
        }
        None
    }

    /// Adds an entry where [`IdIndex::vacancy`] found a place. Nothing was added or removed since.
    #[inline]
    pub fn fill(&mut self, vacancy: Vacancy, slot: u32) {
        debug_assert!(self.entries[vacancy.at] == 0);
        self.entries[vacancy.at] = IdIndex::entry(vacancy.hash, slot);
    }

    /// Whether `insert` of `hash` would find a place.
    #[must_use]
    pub fn has_room(&self, hash: u32) -> bool {
        let home = self.home(hash);
        (0..MAX_PROBE).any(|i| self.entries[(home + i) & self.mask] == 0)
    }

    /// Adds an entry. The caller knows that it is not there yet.
    ///
    /// # Errors
    /// [`Full`] if it would lie too far from its home.
    pub fn insert(&mut self, hash: u32, slot: u32) -> Result<(), Full> {
        let home = self.home(hash);
        for at in home..home + MAX_PROBE {
            let entry = &mut self.entries[at & self.mask];
            if *entry == 0 {
                *entry = IdIndex::entry(hash, slot);
                return Ok(());
            }
        }
        Err(Full)
    }

    /// Lets the entry (`hash`, `old`) point to `new`. Returns whether it was there.
    pub fn repoint(&mut self, hash: u32, old: u32, new: u32) -> bool {
        let home = self.home(hash);
        for at in home..home + MAX_PROBE {
            let entry = &mut self.entries[at & self.mask];
            if *entry == 0 {
                return false;
            }
            if *entry == IdIndex::entry(hash, old) {
                *entry = IdIndex::entry(hash, new);
                return true;
            }
        }
        false
    }

    /// Removes the entry (`hash`, `slot`). Returns whether it was there.
    pub fn remove(&mut self, hash: u32, slot: u32) -> bool {
        let mut hole = self.home(hash) & self.mask;
        let wanted = IdIndex::entry(hash, slot);
        for probe in 0.. {
            let entry = self.entries[hole];
            if entry == 0 || probe == MAX_PROBE {
                return false;
            }
            if entry == wanted {
                break;
            }
            hole = (hole + 1) & self.mask;
        }
        let mut at = hole;
        // At most half of the entries are in use, so an empty one ends this.
        loop {
            at = (at + 1) & self.mask;
            let entry = self.entries[at];
            if entry == 0 {
                break;
            }
            let home = self.home((entry >> 32) as u32) & self.mask;
            // The follower may move back unless its home lies after the hole.
            if (at.wrapping_sub(home) & self.mask) >= (at.wrapping_sub(hole) & self.mask) {
                self.entries[hole] = entry;
                hole = at;
            }
        }
        self.entries[hole] = 0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn agrees_with_a_map_under_churn() {
        let mut index = IdIndex::new(64);
        let mut map: HashMap<u64, u32> = HashMap::new();
        let mut keys = [0u64; 64];
        let mut x = 7u64;
        for _ in 0..200_000 {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            let key = x % 97;
            // Few hash values, so that long runs form.
            let h = hash(key, 0) & 0xF000_0000;
            match map.get(&key) {
                Some(&slot) => {
                    assert_eq!(index.find(h, |s| keys[s as usize] == key), Some(slot));
                    assert!(index.remove(h, slot));
                    map.remove(&key);
                }
                None => {
                    assert_eq!(index.find(h, |s| keys[s as usize] == key), None);
                    if let Some(slot) = (0..64).find(|s| !map.values().any(|v| v == s)) {
                        keys[slot as usize] = key;
                        index.insert(h, slot).unwrap();
                        map.insert(key, slot);
                    }
                }
            }
        }
    }
}
