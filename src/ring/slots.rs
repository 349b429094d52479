//! HOT: no I/O, lock, allocation, logging, formatting, clock or syscall.
//!
//! Gate slots: who is on the way from a check to a send, and the grace period that waits for them.
//!
//! Each order thread of a gateway has a slot, 128 bytes of its own. Its state is a counter that is odd while the
//! thread is inside. A kill raises the page, passes the heavy half of the [barrier](crate::ring::barrier), and looks
//! at every slot once: one that is even is outside, and will see the page at its next entry. One that is odd holds
//! up the confirmation until its state is another: then it has left, and entered again, if at all, after the raise.
//! This is the read side and the grace period of read-copy-update (McKenney, "Is Parallel Programming Hard", §9.5).
//!
//! A gateway can write its slots as it likes. What it can spoil is the confirmation of its own: never the page, never
//! another's.

use crate::ring::barrier::{Fencing, light};
use crate::ring::shm::Words;
use crate::ring::sync::Ordering;

/// Words of one slot: two cache lines, because processors fetch them in pairs.
pub const SLOT_WORDS: usize = 16;
/// The word that counts entries and exits.
pub const STATE: usize = 0;
/// The word that says whose the slot is: `process << 32 | thread`; 0: nobody's.
pub const OWNER: usize = 1;

/// The state of a slot that had `state` and is outside now. A gateway can have written any number.
#[inline(always)]
#[must_use]
pub const fn outside(state: u64) -> u64 {
    state.wrapping_add(1) & !1
}

/// The gate's end of a slot. One thread at a time.
#[derive(Debug)]
pub struct Slot {
    words: Words,
    state: u64,
    fencing: Fencing,
}

impl Slot {
    /// Takes a free slot among `slots` for `owner`, which is not 0; `None` if all are taken.
    #[must_use]
    pub fn claim(slots: &Words, owner: u64, fencing: Fencing) -> Option<Slot> {
        for at in 0..slots.len() / SLOT_WORDS {
            let words = slots.part(at * SLOT_WORDS..(at + 1) * SLOT_WORDS);
            if words[OWNER].compare_exchange(0, owner, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                // Whoever had it before may have left it odd: it goes on from the next even number.
                let state = outside(words[STATE].load(Ordering::Relaxed));
                words[STATE].store(state, Ordering::Release);
                return Some(Slot { words, state, fencing });
            }
        }
        None
    }

    /// Goes inside. What is read from the page after this is what a kill that finds this slot outside has raised.
    #[inline(always)]
    pub fn enter(&mut self) {
        self.state = self.state.wrapping_add(1) | 1;
        self.words[STATE].store(self.state, Ordering::Relaxed);
        light(self.fencing);
    }

    /// Leaves: what was sent inside has been handed to the system.
    #[inline(always)]
    pub fn exit(&mut self) {
        self.state = outside(self.state);
        // SYNC slot: pairs with the load in `Grace`; what was done inside is done.
        self.words[STATE].store(self.state, Ordering::Release);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.words[STATE].store(outside(self.state), Ordering::Release);
        self.words[OWNER].store(0, Ordering::Release);
    }
}

/// One slot that was inside when a grace period began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Which slot.
    pub slot: u16,
    /// Its state then.
    pub state: u64,
    /// Whose it was then.
    pub owner: u64,
}

/// Looks at every slot. Call after the page was raised and [`heavy`](crate::ring::barrier::heavy) passed. What `held` is
/// called with holds the confirmation up.
pub fn begin_grace(slots: &Words, mut held: impl FnMut(Held)) {
    for at in 0..slots.len() / SLOT_WORDS {
        let state = slots[at * SLOT_WORDS + STATE].load(Ordering::Acquire);
        if state % 2 == 1 {
            let owner = slots[at * SLOT_WORDS + OWNER].load(Ordering::Relaxed);
            held(Held { slot: at as u16, state, owner });
        }
    }
}

/// Whether `held` is still where it was.
#[must_use]
pub fn is_held(slots: &Words, held: Held) -> bool {
    // SYNC slot: pairs with the store in `exit`.
    slots.get(usize::from(held.slot) * SLOT_WORDS + STATE).is_some_and(|s| s.load(Ordering::Acquire) == held.state)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::ring::barrier::heavy;

    #[test]
    fn only_who_is_inside_holds_a_grace_period_up() {
        let slots = Words::heap(4 * SLOT_WORDS);
        let mut a = Slot::claim(&slots, 1, Fencing::Fence).unwrap();
        let mut b = Slot::claim(&slots, 2, Fencing::Fence).unwrap();
        b.enter();
        let mut held = Vec::new();
        begin_grace(&slots, |h| held.push(h));
        assert_eq!(held.len(), 1);
        assert_eq!((held[0].slot, held[0].owner), (1, 2));
        a.enter();
        assert!(is_held(&slots, held[0]));
        b.exit();
        assert!(!is_held(&slots, held[0]));
        b.enter();
        assert!(!is_held(&slots, held[0]), "it has entered anew, and has seen the page");
        a.exit();
    }

    #[test]
    fn a_slot_with_the_last_number_of_all_is_taken_and_given_back() {
        let slots = Words::heap(SLOT_WORDS);
        slots[STATE].store(u64::MAX, Ordering::Relaxed);
        let mut slot = Slot::claim(&slots, 1, Fencing::Fence).unwrap();
        assert_eq!(slots[STATE].load(Ordering::Relaxed), 0);
        slot.enter();
        assert_eq!(slots[STATE].load(Ordering::Relaxed), 1);
        drop(slot);
        assert_eq!(slots[STATE].load(Ordering::Relaxed), 2);
    }

    #[test]
    fn slots_are_given_once_and_again_after_they_came_back() {
        let slots = Words::heap(2 * SLOT_WORDS);
        let a = Slot::claim(&slots, 1, Fencing::Fence).unwrap();
        let mut b = Slot::claim(&slots, 1, Fencing::Fence).unwrap();
        assert!(Slot::claim(&slots, 1, Fencing::Fence).is_none());
        b.enter();
        drop(b);
        let mut held = 0;
        begin_grace(&slots, |_| held += 1);
        assert_eq!(held, 0, "a slot that was given back is outside");
        drop(a);
        assert!(Slot::claim(&slots, 3, Fencing::Fence).is_some());
    }
    #[test]
    fn no_order_of_any_thread_leaves_after_the_acknowledgement() {
        let rounds = if cfg!(miri) { 10 } else { 5_000 };
        let (slots, words) = (Words::heap(2 * SLOT_WORDS), Words::heap(2));
        // Word 0: the kills so far. Word 1: the kills acknowledged.
        let (killed, acknowledged) = (&words[0], &words[1]);
        std::thread::scope(|scope| {
            for owner in 1..=2 {
                let mut slot = Slot::claim(&slots, owner, Fencing::Fence).unwrap();
                scope.spawn(move || {
                    while killed.load(Ordering::Relaxed) < rounds {
                        slot.enter();
                        let seen = killed.load(Ordering::Acquire);
                        // The send: it reads what is newest.
                        let over = acknowledged.fetch_add(0, Ordering::Relaxed);
                        slot.exit();
                        assert!(over <= seen, "under kill {seen} an order left, and kill {over} was acknowledged");
                    }
                });
            }
            for kill in 1..=rounds {
                killed.store(kill, Ordering::Release);
                let _ = heavy();
                let mut held = Vec::new();
                begin_grace(&slots, |h| held.push(h));
                while held.iter().any(|h| is_held(&slots, *h)) {
                    std::thread::yield_now();
                }
                acknowledged.fetch_max(kill, Ordering::Relaxed);
            }
        });
    }
}
