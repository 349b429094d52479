//! Models of what is shared, for the model checker: it runs every interleaving, and gives every load every value that the
//! memory model allows.
//!
//! Each protocol is checked as it is, and then with one thing broken that has to be found: a model that cannot fail
//! shows nothing. What lies on the halt page is modelled in `gate`, where page and slots meet.
//!
//! Not modelled is `membarrier(2)`, which the checker does not know. A gate without a fence stands here for a broken one;
//! that the system call makes up for the fence is shown across processes by the race test.

use std::sync::Arc;
use std::time::Duration;

use loom::thread;

use crate::ring::barrier::{Fencing, heavy};
use crate::ring::bell::{BELL_WORDS, Bell};
use crate::ring::lane::{RECORD_WORDS, Reader, Record, STAMP, Writer, check_of, with_check};
use crate::ring::shm::Words;
use crate::ring::slots::{SLOT_WORDS, Slot, begin_grace, is_held};
use crate::ring::sync::{AtomicU64, Ordering, fence};

/// Checks every interleaving of a model with three threads that preempts a thread at most four times;
/// `LOOM_MAX_PREEMPTIONS=99` checks all. Models with two threads are checked without a bound.
pub(crate) fn three_threads(model: impl Fn() + Send + Sync + 'static) {
    let mut checker = loom::model::Builder::new();
    checker.preemption_bound.get_or_insert(4);
    checker.check(model);
}

/// Whether an order left after the kill was acknowledged: the wire has one order of events for everybody.
pub(crate) struct Wire(AtomicU64);

impl Wire {
    pub(crate) fn new() -> Arc<Wire> {
        Arc::new(Wire(AtomicU64::new(0)))
    }

    /// Sends an order. Returns whether the kill had been acknowledged.
    pub(crate) fn send(&self) -> bool {
        self.0.fetch_add(2, Ordering::Relaxed) & 1 == 1
    }

    /// Acknowledges the kill.
    pub(crate) fn acknowledge(&self) {
        self.0.fetch_or(1, Ordering::Relaxed);
    }
}

/// Whether whoever was inside has left, looked at once: a kill that finds somebody there still would look again, which
/// would be the same as having looked later.
pub(crate) fn is_quiet(slots: &Words) -> bool {
    let mut held = Vec::new();
    begin_grace(slots, |h| held.push(h));
    held.into_iter().all(|held| !is_held(slots, held))
}

/// What a kill does, so that it can be done wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kill {
    AsItIs,
    WithoutFence,
    AcknowledgedBeforeGrace,
}

/// `gates` threads that each try to send `orders` orders, against one kill.
fn gates_against_kill(gates: u64, orders: usize, fencing: Fencing, how: Kill) {
    let killed = Words::heap(1);
    let slots = Words::heap(gates as usize * SLOT_WORDS);
    // One wire per gate: their orders need no order among each other, and the checker tries none.
    let wires: Vec<_> = (0..gates).map(|_| Wire::new()).collect();
    let threads: Vec<_> = (1..=gates)
        .zip(&wires)
        .map(|(owner, wire)| {
            let (killed, wire) = (killed.clone(), wire.clone());
            let mut slot = Slot::claim(&slots, owner, fencing).unwrap();
            thread::spawn(move || {
                for _ in 0..orders {
                    slot.enter();
                    if killed[0].load(Ordering::Acquire) == 0 {
                        assert!(!wire.send(), "an order left after the acknowledgement");
                    }
                    slot.exit();
                }
            })
        })
        .collect();
    killed[0].store(1, Ordering::Release);
    if how != Kill::WithoutFence {
        let _ = heavy();
    }
    if how == Kill::AcknowledgedBeforeGrace || is_quiet(&slots) {
        wires.iter().for_each(|wire| wire.acknowledge());
    }
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn no_order_leaves_after_the_acknowledgement() {
    loom::model(|| gates_against_kill(1, 2, Fencing::Fence, Kill::AsItIs));
}

#[test]
fn no_order_of_two_gates_leaves_after_the_acknowledgement() {
    three_threads(|| gates_against_kill(2, 1, Fencing::Fence, Kill::AsItIs));
}

#[test]
#[should_panic(expected = "an order left after the acknowledgement")]
fn a_gate_without_a_fence_is_caught() {
    loom::model(|| gates_against_kill(1, 1, Fencing::Membarrier, Kill::AsItIs));
}

#[test]
#[should_panic(expected = "an order left after the acknowledgement")]
fn a_kill_without_a_fence_is_caught() {
    loom::model(|| gates_against_kill(1, 1, Fencing::Fence, Kill::WithoutFence));
}

#[test]
#[should_panic(expected = "an order left after the acknowledgement")]
fn an_acknowledgement_before_the_grace_period_is_caught() {
    loom::model(|| gates_against_kill(1, 1, Fencing::Fence, Kill::AcknowledgedBeforeGrace));
}

#[test]
fn a_slot_that_changes_hands_is_one_threads_at_a_time_and_holds_a_kill_up() {
    three_threads(|| {
        let killed = Words::heap(1);
        let slots = Words::heap(SLOT_WORDS);
        let wire = Wire::new();
        let inside = Arc::new(AtomicU64::new(0));
        let threads = [1, 2].map(|owner| {
            let (killed, slots, wire, inside) = (killed.clone(), slots.clone(), wire.clone(), inside.clone());
            thread::spawn(move || {
                let Some(mut slot) = Slot::claim(&slots, owner, Fencing::Fence) else { return };
                assert_eq!(inside.fetch_add(1, Ordering::Relaxed), 0, "two threads have one slot");
                slot.enter();
                if killed[0].load(Ordering::Acquire) == 0 {
                    assert!(!wire.send(), "an order left after the acknowledgement");
                }
                slot.exit();
                inside.fetch_sub(1, Ordering::Relaxed);
            })
        });
        killed[0].store(1, Ordering::Release);
        let _ = heavy();
        if is_quiet(&slots) {
            wire.acknowledge();
        }
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

fn record(n: u64) -> Record {
    [n, 0, 0, n * 3, n * 5, n * 7, n * 11, !n]
}

fn is_record(got: &Record, n: u64) -> bool {
    got[STAMP] == n && got[3..] == record(n)[3..]
}

fn pop(reader: &mut Reader) -> Record {
    loop {
        match reader.pop().expect("an honest writer's record is damaged") {
            Some(record) => return record,
            None => thread::yield_now(),
        }
    }
}

fn push(writer: &mut Writer, n: u64) {
    while writer.push(record(n)).expect("an honest reader's cursor is damaged").is_none() {
        thread::yield_now();
    }
}

/// `count` records through `places` places: the lane fills and wraps.
fn writer_against_reader(places: usize, count: u64) {
    let (places, cursor) = (Words::heap(places * RECORD_WORDS), Words::heap(1));
    let mut writer = Writer::resume(places.clone(), cursor.clone()).unwrap();
    let mut reader = Reader::resume(places, cursor);
    let writing = thread::spawn(move || (1..=count).for_each(|n| push(&mut writer, n)));
    for n in 1..=count {
        assert!(is_record(&pop(&mut reader), n), "torn, lost or repeated");
    }
    assert_eq!(reader.pop(), Ok(None));
    writing.join().unwrap();
}

#[test]
fn a_lane_of_one_place_wraps_and_tears_nothing() {
    loom::model(|| writer_against_reader(1, 3));
}

#[test]
fn a_lane_of_two_places_wraps_and_tears_nothing() {
    loom::model(|| writer_against_reader(2, 3));
}

#[test]
fn a_writer_that_restarts_goes_on_where_it_stopped() {
    loom::model(|| {
        let (places, cursor) = (Words::heap(2 * RECORD_WORDS), Words::heap(1));
        let mut reader = Reader::resume(places.clone(), cursor.clone());
        let writing = thread::spawn(move || {
            for n in 1..=3 {
                let mut writer = Writer::resume(places.clone(), cursor.clone()).unwrap();
                assert_eq!(writer.position(), n);
                push(&mut writer, n);
            }
        });
        for n in 1..=3 {
            assert!(is_record(&pop(&mut reader), n), "torn, lost or repeated");
        }
        writing.join().unwrap();
    });
}

#[test]
fn a_reader_that_restarts_loses_nothing() {
    loom::model(|| {
        let (places, cursor) = (Words::heap(RECORD_WORDS), Words::heap(1));
        let mut writer = Writer::resume(places.clone(), cursor.clone()).unwrap();
        let writing = thread::spawn(move || (1..=2).for_each(|n| push(&mut writer, n)));
        for n in 1..=2 {
            // It dies after it took the record, before it said so; the next one gets it again.
            let mut dying = Reader::resume(places.clone(), cursor.clone());
            while dying.take().unwrap().is_none() {
                thread::yield_now();
            }
            let mut reader = Reader::resume(places.clone(), cursor.clone());
            assert!(is_record(&reader.pop().unwrap().unwrap(), n), "torn or lost");
        }
        writing.join().unwrap();
    });
}

/// `Writer::push`, by hand, with the stamp stored by `stamp`.
fn push_by_hand(places: &Words, n: u64, stamp: Ordering) {
    let mut all = record(n);
    all[STAMP] = n;
    let all = with_check(all, check_of(&all));
    for i in (0..RECORD_WORDS).filter(|i| *i != STAMP) {
        places[i].store(all[i], Ordering::Relaxed);
    }
    places[STAMP].store(n, stamp);
}

/// The first record, with its stamp stored by `stamp`.
fn stamped(stamp: Ordering) {
    let (places, cursor) = (Words::heap(RECORD_WORDS), Words::heap(1));
    let mut reader = Reader::resume(places.clone(), cursor);
    let writing = thread::spawn(move || push_by_hand(&places, 1, stamp));
    assert!(is_record(&pop(&mut reader), 1));
    writing.join().unwrap();
}

#[test]
fn a_stamp_makes_its_record_visible() {
    loom::model(|| stamped(Ordering::Release));
}

#[test]
#[should_panic(expected = "an honest writer's record is damaged")]
fn a_relaxed_stamp_is_caught() {
    loom::model(|| stamped(Ordering::Relaxed));
}

/// Two records through one place, read by hand: the cursor is released before or after the copy.
fn released(before_the_copy: bool) {
    let (places, cursor) = (Words::heap(RECORD_WORDS), Words::heap(1));
    let mut writer = Writer::resume(places.clone(), cursor.clone()).unwrap();
    let writing = thread::spawn(move || (1..=2).for_each(|n| push(&mut writer, n)));
    while places[STAMP].load(Ordering::Acquire) != 1 {
        thread::yield_now();
    }
    if before_the_copy {
        cursor[0].store(1, Ordering::Release);
    }
    let copy: Vec<u64> = places.iter().map(|word| word.load(Ordering::Relaxed)).collect();
    if !before_the_copy {
        cursor[0].store(1, Ordering::Release);
    }
    assert_eq!(copy[3..], record(1)[3..], "the writer wrote over what was being read");
    writing.join().unwrap();
}

#[test]
fn a_cursor_released_after_the_copy_keeps_the_writer_away() {
    loom::model(|| released(false));
}

#[test]
#[should_panic(expected = "the writer wrote over what was being read")]
fn a_cursor_released_before_the_copy_is_caught() {
    loom::model(|| released(true));
}

/// A sleeper that waits for work in the kernel for good, against who brings some and rings by `ring`. A wake-up that is
/// lost leaves the sleeper spinning in the model of the kernel's wait, which the checker ends with a panic.
fn sleeper_against(ring: impl FnOnce(&Bell, &Words) + Send + 'static) {
    let words = Words::heap(BELL_WORDS);
    let bell = Bell::over(words.clone());
    let work = Arc::new(AtomicU64::new(0));
    let brought = work.clone();
    let ringing = thread::spawn(move || {
        brought.store(1, Ordering::Release);
        ring(&Bell::over(words.clone()), &words);
    });
    while work.load(Ordering::Acquire) == 0 {
        bell.nap(Duration::MAX, || work.load(Ordering::Acquire) != 0);
    }
    ringing.join().unwrap();
}

#[test]
fn no_work_is_slept_over() {
    loom::model(|| sleeper_against(|bell, _| bell.ring()));
}

#[test]
#[should_panic]
fn a_bell_without_a_fence_is_caught() {
    loom::model(|| {
        sleeper_against(|_, words| {
            if words[crate::ring::bell::ASLEEP].load(Ordering::Relaxed) != 0 {
                words[crate::ring::bell::COUNT].fetch_add(1, Ordering::SeqCst);
            }
        });
    });
}

#[test]
fn fences_order_a_store_before_a_load_on_both_sides() {
    // What all of the above stands on, and what the checker would not find without explicit fences.
    loom::model(|| {
        let words = Words::heap(2);
        let other = words.clone();
        let there = thread::spawn(move || {
            other[0].store(1, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            other[1].load(Ordering::Relaxed)
        });
        words[1].store(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let here = words[0].load(Ordering::Relaxed);
        assert!(here == 1 || there.join().unwrap() == 1, "each missed the other");
    });
}
