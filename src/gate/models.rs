//! Models of the halt page against gates, for the model checker: see `ring::models`, which has the slots and lanes alone.

use std::sync::Arc;

use loom::thread;

use crate::gate::page::PageView;
use crate::kill::page::{HaltPage, ModeWord, layout};
use crate::model::scope::{Mode, Scope};
use crate::ring::barrier::{Fencing, heavy};
use crate::ring::models::{Wire, is_quiet, three_threads};
use crate::ring::shm::Words;
use crate::ring::slots::{SLOT_WORDS, Slot};
use crate::ring::sync::Ordering;
use crate::units::{InstrumentId, SessionId, StrategyId};

/// The firm, and one account, strategy, instrument and session.
const SCOPES: usize = 5;
const FIRM: usize = 0;
const STRATEGY: usize = 2;
const LATE: &str = "an order left after the acknowledgement";

/// A page for one account, strategy, instrument and session, and one slot.
struct World {
    page: Arc<HaltPage>,
    words: Words,
    slots: Words,
    wire: Arc<Wire>,
}

impl World {
    fn new() -> World {
        // Without what fills it up to a whole page of the system: a model pays for every word.
        let words = Words::heap(layout::AT_WORDS + SCOPES + 1);
        for (at, value) in [
            (0, layout::MAGIC),
            (layout::AT_VERSION, layout::VERSION | (layout::AT_WORDS as u64) << 32),
            (layout::AT_ACCOUNTS, 1 | 1 << 32),
            (layout::AT_INSTRUMENTS, 1 | 1 << 32),
            (layout::AT_STATE, layout::IN_SERVICE),
            (layout::AT_EPOCH, 1),
        ] {
            words[at].store(value, Ordering::Relaxed);
        }
        let page = Arc::new(HaltPage::modelled(&words, SCOPES));
        World { page, words, slots: Words::heap(SLOT_WORDS), wire: Wire::new() }
    }

    fn view(&self) -> PageView {
        PageView::new(self.page.view(), SessionId(0)).unwrap()
    }

    fn slot(&self, fencing: Fencing) -> Slot {
        Slot::claim(&self.slots, 1, fencing).unwrap()
    }

    /// What a kill does after the raise. Returns whether it was acknowledged.
    fn confirm(&self) -> bool {
        let _ = heavy();
        let quiet = is_quiet(&self.slots);
        if quiet {
            self.wire.acknowledge();
        }
        quiet
    }

    /// A thread that tries to send one order.
    fn gate(&self, fencing: Fencing) -> thread::JoinHandle<()> {
        let (view, mut slot, wire) = (self.view(), self.slot(fencing), self.wire.clone());
        thread::spawn(move || {
            slot.enter();
            if is_open(&view) {
                assert!(!wire.send(), "{LATE}");
            }
            slot.exit();
        })
    }

    /// How many words are not normal.
    fn not_normal(&self) -> u64 {
        (0..self.page.len()).filter(|&slot| self.page.get(slot).mode != Mode::Normal).count() as u64
    }

    fn raised(&self) -> u64 {
        self.words[layout::AT_RAISED].load(Ordering::SeqCst)
    }
}

fn is_open(view: &PageView) -> bool {
    view.check_modes(StrategyId(0), InstrumentId(0), false).is_ok()
}

fn kill_against_a_gate(fencing: Fencing) {
    let world = World::new();
    let gate = world.gate(fencing);
    world.page.raise(FIRM, Mode::Halted);
    world.confirm();
    gate.join().unwrap();
}

#[test]
fn no_order_leaves_after_a_kill_was_acknowledged() {
    loom::model(|| kill_against_a_gate(Fencing::Fence));
}

#[test]
#[should_panic(expected = "an order left after the acknowledgement")]
fn a_gate_without_a_fence_is_caught() {
    loom::model(|| kill_against_a_gate(Fencing::Membarrier));
}

#[test]
fn a_kill_of_a_halted_scope_holds_against_its_rearm() {
    three_threads(|| {
        let world = World::new();
        let first = world.page.raise(FIRM, Mode::Halted);
        let gate = world.gate(Fencing::Fence);
        let page = world.page.clone();
        let rearm = thread::spawn(move || page.lower(FIRM, first.epoch).is_ok());
        world.page.raise(FIRM, Mode::Halted);
        world.confirm();
        assert!(!is_open(&world.view()), "the kill was undone");
        gate.join().unwrap();
        rearm.join().unwrap();
        assert_eq!((world.page.get(FIRM).mode, world.raised()), (Mode::Halted, 1));
    });
}

/// Two kills of one scope at once, each raising by `raise`. Whichever is through: the gates are closed.
fn two_kills(raise: fn(&World, &HaltPage)) {
    let world = Arc::new(World::new());
    let other = world.clone();
    let kill = move |world: &World| {
        raise(world, &world.page);
        let _ = heavy();
        assert!(!is_open(&world.view()), "a gate is open after a kill");
    };
    let there = thread::spawn(move || kill(&other));
    kill(&world);
    there.join().unwrap();
    assert_eq!(world.raised(), 1);
}

#[test]
fn either_of_two_kills_of_one_scope_closes_the_gates() {
    loom::model(|| {
        two_kills(|_, page| {
            page.raise(FIRM, Mode::Halted);
        });
    });
}

/// Swaps the word first and counts it afterwards, if it was this one that raised it.
fn raise_and_count_afterwards(world: &World, page: &HaltPage) {
    let epoch = world.words[layout::AT_EPOCH].fetch_add(1, Ordering::SeqCst);
    let new = ModeWord { mode: Mode::Halted, epoch }.pack();
    let old = world.words[layout::AT_WORDS + FIRM].swap(new, Ordering::SeqCst);
    if ModeWord::unpack(old).mode == Mode::Normal {
        world.words[layout::AT_RAISED].fetch_add(1, Ordering::SeqCst);
    }
    assert_eq!(page.get(FIRM).mode, Mode::Halted);
}

#[test]
#[should_panic(expected = "a gate is open after a kill")]
fn counting_the_raised_after_the_word_is_caught() {
    loom::model(|| two_kills(raise_and_count_afterwards));
}

#[test]
fn the_raised_are_counted_exactly_once_all_is_quiet() {
    three_threads(|| {
        let world = World::new();
        let first = world.page.raise(STRATEGY, Mode::ReduceOnly);
        let (a, b) = (world.page.clone(), world.page.clone());
        let rearm = thread::spawn(move || a.lower(STRATEGY, first.epoch).is_ok());
        let kill = thread::spawn(move || b.raise(STRATEGY, Mode::Halted));
        world.page.raise(FIRM, Mode::Halted);
        assert!(world.raised() >= 1, "the firm is halted and not counted");
        rearm.join().unwrap();
        kill.join().unwrap();
        assert_eq!((world.raised(), world.not_normal()), (2, 2));
    });
}

#[test]
fn raises_at_once_have_epochs_of_their_own_and_none_lowers() {
    loom::model(|| {
        let world = World::new();
        let page = world.page.clone();
        let there = thread::spawn(move || page.raise(FIRM, Mode::ReduceOnly));
        let here = world.page.raise(FIRM, Mode::Halted);
        let there = there.join().unwrap();
        assert_ne!(here.epoch, there.epoch, "a re-arm of one would undo the other");
        assert_eq!(world.page.get(FIRM).mode, Mode::Halted);
        assert_eq!(world.page.get(FIRM).epoch, here.epoch.max(there.epoch));
        assert_eq!(world.raised(), 1);
    });
}

#[test]
fn an_order_submitted_before_a_kill_does_not_leave_after_its_rearm() {
    loom::model(|| {
        let world = World::new();
        let (view, mut slot, wire) = (world.view(), world.slot(Fencing::Fence), world.wire.clone());
        // Epoch 1 is the kill's, 2 the re-arm's: who finds 3 next has submitted behind both.
        let gate = thread::spawn(move || {
            let epoch = view.epoch();
            slot.enter();
            let open = is_open(&view) && view.check_unchanged(epoch, StrategyId(0), InstrumentId(0)).is_ok();
            if open {
                let acknowledged = wire.send();
                assert!(!acknowledged || epoch > 2, "{LATE}");
            }
            slot.exit();
        });
        let word = world.page.raise(FIRM, Mode::Halted);
        if world.confirm() {
            world.page.lower(FIRM, word.epoch).unwrap();
        }
        gate.join().unwrap();
    });
}

/// Whether a lease that is renewed while a kill is pressed leaves the kill in force.
fn lease_against_kill(renew: impl FnOnce(&World) + Send + 'static, kill: fn(&World), is_killed: fn(&World) -> bool) {
    let world = Arc::new(World::new());
    let engine = world.clone();
    let renewing = thread::spawn(move || renew(&engine));
    kill(&world);
    assert!(is_killed(&world), "a renewal has undone the kill");
    renewing.join().unwrap();
    assert!(is_killed(&world), "a renewal has undone the kill");
}

#[test]
fn a_renewal_of_the_lease_undoes_no_kill() {
    loom::model(|| {
        lease_against_kill(
            |world| {
                world.page.renew_lease(100);
                world.page.renew_lease(50);
                assert_eq!(world.page.lease(), 100, "a lease was shortened");
            },
            |world| {
                world.page.raise(FIRM, Mode::Halted);
            },
            |world| !is_open(&world.view()),
        );
    });
}

#[test]
fn a_gate_that_sees_a_lease_sees_no_later_one_than_was_given() {
    loom::model(|| {
        let world = World::new();
        let view = world.view();
        let gate = thread::spawn(move || {
            let first = view.check_lease(50).is_ok();
            // Time goes on; so does the lease, and never back.
            assert!(!first || view.check_lease(50).is_ok());
            assert!(view.check_lease(200).is_err());
        });
        world.page.renew_lease(100);
        world.page.renew_lease(200);
        gate.join().unwrap();
    });
}

const KILL_BIT: u64 = 1 << 63;

#[test]
#[should_panic(expected = "a renewal has undone the kill")]
fn a_lease_in_the_word_of_the_kill_is_caught() {
    loom::model(|| {
        lease_against_kill(
            |world| {
                let word = &world.words[layout::AT_LEASE];
                let kill = word.load(Ordering::SeqCst) & KILL_BIT;
                word.store(kill | 100, Ordering::SeqCst);
            },
            |world| {
                world.words[layout::AT_LEASE].fetch_or(KILL_BIT, Ordering::SeqCst);
            },
            |world| world.words[layout::AT_LEASE].load(Ordering::SeqCst) & KILL_BIT != 0,
        );
    });
}

#[test]
fn a_count_that_changed_shows_the_word_behind_it() {
    loom::model(|| {
        let world = World::new();
        let view = world.view();
        let watcher = thread::spawn(move || {
            if view.changes() > 0 {
                assert_eq!(view.word(Scope::Firm).mode, Mode::Halted);
            }
        });
        world.page.raise(FIRM, Mode::Halted);
        watcher.join().unwrap();
    });
}
