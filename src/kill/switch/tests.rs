//! Presses, re-arms, drills and causes, at a switch whose page, latch and clock the test holds.

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::kill::gates::AttachedGate;
use crate::kill::rearm::{RearmRefused, RearmRules, RearmState};
use crate::kill::switch::records::CAUSES_KEPT;
use crate::kill::switch::seen::CAUSE_WITHIN_NS;
use crate::kill::testing::{self, TestClock, switch, universe};
use crate::model::cancel::CancelView;
use crate::model::effect::Denial;
use crate::model::{Rule, Why};
use crate::ring::barrier::Fencing;
use crate::ring::shm::Words;
use crate::ring::slots::{SLOT_WORDS, Slot};
use crate::units::StrategyId;

const ALPHA: Scope = Scope::Strategy(StrategyId(0));

fn mode(switch: &Switch, scope: Scope) -> Mode {
    switch.page().get(switch.universe().slot(scope).unwrap()).mode
}

#[test]
fn receipt_is_confirmed_only_with_latch_and_every_connected_session() {
    let clock = TestClock::new();
    let (switch, _jobs) = switch(clock.clone());
    let gw1 = switch.board().cell(0).unwrap();
    gw1.set_connected(true);
    // A price source has no orders to stop.
    switch.board().cell(2).unwrap().set_connected(true);
    let receipt = switch.press(ALPHA, Stop::Halted, "olga", "drill", clock.now()).unwrap();
    assert_eq!(mode(&switch, ALPHA), Mode::Halted);
    assert_eq!(receipt.sessions.len(), 2);
    assert_eq!(receipt.missing().sessions, 1);
    assert!(receipt.missing().latch);
    assert_eq!(receipt.working_orders, Some(switch.universe().slot(ALPHA).unwrap() as i64 + 10));

    switch.latch_written(&Snapshot { changes: receipt.changes - 1, ..switch.snapshot() }, clock.now());
    assert!(switch.receipt(receipt.id).unwrap().missing().latch, "an earlier state is on disk, not this one");
    switch.latch_written(&switch.snapshot(), clock.now());
    assert!(!switch.receipt(receipt.id).unwrap().is_confirmed());
    gw1.set_told(receipt.changes, clock.now().mono.0);
    gw1.set_confirmed(receipt.changes - 1, clock.now().mono.0);
    assert_eq!(switch.receipt(receipt.id).unwrap().missing().sessions, 1);
    gw1.set_confirmed(receipt.changes, clock.now().mono.0);
    let grown = switch.receipt(receipt.id).unwrap();
    assert!(grown.is_confirmed());
    assert!(grown.sessions[0].confirmed_ns > grown.sessions[0].told_ns);
    assert_eq!(grown.sessions[1].confirmed_ns, None);
    let tally = switch.tally();
    assert_eq!(tally.confirmed.counts.iter().sum::<u64>(), 1, "measured once");
    assert_eq!(tally.durable.counts.iter().sum::<u64>(), 1);
}

#[test]
fn halt_that_is_on_disk_without_its_cause_is_not_durable_and_one_write_has_both() {
    let clock = TestClock::new();
    let world: Arc<OnceLock<(Switch, Receiver<()>)>> = Arc::default();
    let looked: Arc<OnceLock<(Snapshot, bool)>> = Arc::default();
    // Working orders are asked for when everybody is woken and before the cause is recorded.
    let (found, of) = (looked.clone(), world.clone());
    let look = move |_| {
        let (switch, jobs) = of.get()?;
        let _ = found.set((switch.snapshot(), jobs.is_empty()));
        None
    };
    let (switch, jobs) = world.get_or_init(|| testing::switch_with(clock.clone(), Box::new(look)));
    let receipt = switch.press(ALPHA, Stop::Halted, "olga", "it runs away", clock.now()).unwrap();
    let (early, not_asked) = looked.get().unwrap();
    assert!(early.entries[0].mode == Mode::Halted && early.entries[0].causes.is_empty());
    // Had the writer been asked before, there would be two writes.
    assert_eq!((*not_asked, jobs.len()), (true, 1), "it is asked for once, when both are there");

    // It may look by itself, or for somebody else.
    switch.latch_written(early, clock.now());
    assert!(switch.is_durable(), "the page is");
    assert!(switch.receipt(receipt.id).unwrap().missing().latch, "nobody would find out why");
    let both = switch.snapshot();
    assert_eq!(both.entries[0].causes[0].reason, "it runs away");
    switch.latch_written(&both, clock.now());
    assert!(!switch.receipt(receipt.id).unwrap().missing().latch);
}

/// The counter of the page is read before its words and the causes after them: a press in between is among the causes only.
#[test]
fn halt_that_is_not_on_disk_is_not_durable_although_its_cause_was_counted() {
    let clock = TestClock::new();
    let (switch, _jobs) = switch(clock.clone());
    let before = switch.snapshot();
    let receipt = switch.press(ALPHA, Stop::Halted, "olga", "it runs away", clock.now()).unwrap();
    let torn = Snapshot { causes: switch.snapshot().causes, ..before };
    assert!(torn.entries.is_empty());
    switch.latch_written(&torn, clock.now());
    assert!(!switch.is_durable());
    assert!(switch.receipt(receipt.id).unwrap().missing().latch, "the halt would be lost");
    switch.latch_written(&switch.snapshot(), clock.now());
    assert!(!switch.receipt(receipt.id).unwrap().missing().latch);
}

#[test]
fn session_that_drops_before_it_confirmed_stays_missing() {
    let clock = TestClock::new();
    let (switch, _jobs) = switch(clock.clone());
    switch.board().cell(0).unwrap().set_connected(true);
    let receipt = switch.press(Scope::Firm, Stop::Halted, "olga", "", clock.now()).unwrap();
    assert_eq!(receipt.reason, "none given");
    switch.board().cell(0).unwrap().set_connected(false);
    switch.latch_written(&switch.snapshot(), clock.now());
    assert_eq!(switch.receipt(receipt.id).unwrap().missing().sessions, 1);
}

#[test]
fn press_is_taken_in_every_state_and_never_lowers() {
    let clock = TestClock::new();
    let (switch, jobs) = switch(clock.clone());
    let first = switch.press(ALPHA, Stop::Halted, "olga", "a", clock.now()).unwrap();
    let second = switch.press(ALPHA, Stop::ReduceOnly, "olga", "b", clock.now()).unwrap();
    assert_eq!(second.word.mode, Mode::Halted);
    assert!(second.id > first.id && second.word.epoch > first.word.epoch);
    assert_eq!(jobs.len(), 1, "requests for the latch merge");
    assert!(
        switch
            .press(Scope::Pair(StrategyId(0), crate::units::InstrumentId(0)), Stop::Halted, "o", "", clock.now())
            .is_err()
    );
    assert!(switch.press(Scope::Strategy(StrategyId(99)), Stop::Halted, "o", "", clock.now()).is_err());
    for n in 0..10 {
        switch.press(ALPHA, Stop::Halted, "olga", &n.to_string(), clock.now()).unwrap();
    }
    let causes = &switch.halts()[0].causes;
    assert_eq!(causes.len(), CAUSES_KEPT);
    assert_eq!((causes[0].reason.as_str(), causes[CAUSES_KEPT - 1].reason.as_str()), ("a", "9"));
}

#[test]
fn a_machines_cause_pushes_out_no_persons_and_restored_ones_are_cut() {
    let clock = TestClock::new();
    let (switch, _jobs) = switch(clock.clone());
    let press = |actor: &str, reason: &str| {
        switch.press(ALPHA, Stop::Halted, actor, reason, clock.now()).unwrap();
        let causes = switch.halts()[0].causes.clone();
        causes.into_iter().map(|cause| format!("{} {}", cause.actor, cause.reason)).collect::<Vec<_>>()
    };
    press("guard", "1");
    press("olga", "2");
    press("preflight", "3");
    assert_eq!(press("olaf", "4"), ["guard 1", "olga 2", "preflight 3", "olaf 4"]);
    assert_eq!(press("engine", "5"), ["guard 1", "olga 2", "olaf 4", "engine 5"]);
    assert_eq!(press("signal", "6"), ["guard 1", "olga 2", "olaf 4", "signal 6"]);
    assert_eq!(press("engine", "7"), ["guard 1", "olga 2", "olaf 4", "signal 6", "engine 7"], "the latest is there");
    assert_eq!(press("alerts", "8"), ["guard 1", "olga 2", "olaf 4", "signal 6", "alerts 8"]);
    assert_eq!(press("olga", "9"), ["guard 1", "olga 2", "olaf 4", "olga 9"]);
    let slot = switch.universe().slot(ALPHA).unwrap();
    let one = switch.halts()[0].causes[1].clone();
    switch.lock().causes.insert(slot, vec![one; 20]);
    assert_eq!(press("olaf", "10").len(), CAUSES_KEPT);
}

#[test]
fn firm_needs_two_people_and_a_kill_in_between_voids_the_request() {
    let clock = TestClock::new();
    let (switch, _jobs) = switch(clock.clone());
    let press = || switch.press(Scope::Firm, Stop::Halted, "olga", "x", clock.now()).unwrap();
    let epoch = press().word.epoch;
    assert_eq!(switch.ask_rearm(Scope::Firm, epoch, "rita", " ", clock.now()), Err(RearmRefused::NoReason));
    assert!(matches!(
        switch.ask_rearm(Scope::Firm, epoch - 1, "rita", "ok", clock.now()),
        Err(RearmRefused::Superseded(_))
    ));
    let asked = switch.ask_rearm(Scope::Firm, epoch, "rita", "checked", clock.now()).unwrap();
    assert_eq!(asked.state, RearmState::Pending);
    assert_eq!(switch.ask_rearm(Scope::Firm, epoch, "rita", "again", clock.now()).unwrap().id, asked.id);
    assert_eq!(switch.agree_rearm(asked.id, "rita", "me too", clock.now()), Err(RearmRefused::SamePerson));
    assert_eq!(mode(&switch, Scope::Firm), Mode::Halted);

    let epoch = press().word.epoch;
    assert_eq!(
        switch.agree_rearm(asked.id, "sven", "ok", clock.now()),
        Err(RearmRefused::NotPending(RearmState::Void))
    );
    let asked = switch.ask_rearm(Scope::Firm, epoch, "rita", "checked", clock.now()).unwrap();
    let done = switch.agree_rearm(asked.id, "sven", "ok", clock.now()).unwrap();
    assert_eq!(mode(&switch, Scope::Firm), Mode::Normal);
    let RearmState::Lowered { durable: None, .. } = done.state else { panic!("{:?}", done.state) };
    switch.latch_written(&switch.snapshot(), clock.now());
    let RearmState::Lowered { durable: Some(_), .. } = switch.rearm(asked.id, clock.now()).unwrap().state else {
        panic!("not durable")
    };
    assert!(switch.halts().is_empty());
    press();
    assert_eq!(
        switch.agree_rearm(asked.id, "sven", "once more", clock.now()).unwrap_err(),
        RearmRefused::NotPending(switch.rearm(asked.id, clock.now()).unwrap().state),
        "an approval cannot be replayed"
    );
    assert_eq!(mode(&switch, Scope::Firm), Mode::Halted);
}

#[test]
fn request_that_nobody_agrees_to_expires() {
    let clock = TestClock::new();
    let (switch, _jobs) = switch(clock.clone());
    let epoch = switch.press(Scope::Firm, Stop::Halted, "olga", "x", clock.now()).unwrap().word.epoch;
    let asked = switch.ask_rearm(Scope::Firm, epoch, "rita", "checked", clock.now()).unwrap();
    clock.advance(switch.policy().expiry_ns);
    assert_eq!(
        switch.agree_rearm(asked.id, "sven", "ok", clock.now()),
        Err(RearmRefused::NotPending(RearmState::Expired))
    );
    assert_eq!(mode(&switch, Scope::Firm), Mode::Halted);
}

const HOUR: u64 = 3_600_000_000_000;
const MINUTE: u64 = 60_000_000_000;

/// A switch whose strategy alpha is halted since before the start because of `causes`, if there are any.
fn with_rules(clock: &Arc<TestClock>, rules: RearmRules, causes: Vec<Cause>) -> Switch {
    let universe = Arc::new(universe());
    let page = Arc::new(HaltPage::new(universe.scope_count(), 1));
    let slot = universe.slot(ALPHA).unwrap();
    if !causes.is_empty() {
        page.raise(slot, Mode::Halted);
    }
    let (switch, _) = Switch::new(SwitchParts {
        page,
        board: Arc::new(SessionBoard::new(universe.sessions.len())),
        gates: Arc::default(),
        universe,
        clock: clock.clone(),
        wakers: vec![],
        working: Box::new(|_| None),
        policy: RearmPolicy { rules, ..RearmPolicy::default() },
        causes: if causes.is_empty() { vec![] } else { vec![(slot, causes)] },
        orphans: vec![],
    });
    switch
}

#[test]
fn a_halt_that_a_clock_ahead_has_stamped_cools_off_for_its_time_and_no_longer() {
    let rules = RearmRules { cool_off_ns: MINUTE, ..RearmRules::default() };
    let clock = TestClock::new();
    // What is left of the time, or that it is over.
    let left = |switch: &Switch| {
        let epoch = switch.halts()[0].word.epoch;
        switch.would_lower(ALPHA, epoch, false, clock.now())
    };
    let one_minute = |switch: &Switch| {
        assert!(matches!(left(switch), Err(RearmRefused::CoolOff(ns)) if ns > MINUTE - 1_000 && ns <= MINUTE));
        clock.advance(MINUTE - 1_000);
        assert!(matches!(left(switch), Err(RearmRefused::CoolOff(_))));
        clock.advance(1_000);
        assert_eq!(left(switch), Ok(true));
    };
    let running = with_rules(&clock, rules, vec![]);
    clock.put_ahead(HOUR);
    running.press(ALPHA, Stop::Halted, "olga", "x", clock.now()).unwrap();
    let cause = running.halts()[0].causes[0].clone();
    clock.put_ahead(0);
    one_minute(&running);
    // The same halt, found by a later run: it is noticed at the start.
    clock.put_ahead(0);
    one_minute(&with_rules(&clock, rules, vec![cause.clone()]));
    // One that was in the past when it was found counts from when it was.
    clock.put_ahead(HOUR);
    assert_eq!(left(&with_rules(&clock, rules, vec![cause])), Ok(true));
    // A clock that is put forward makes no halt older.
    clock.put_ahead(0);
    running.press(ALPHA, Stop::Halted, "olga", "x", clock.now()).unwrap();
    clock.put_ahead(HOUR);
    one_minute(&running);
}

#[test]
fn a_drill_that_a_clock_ahead_has_stamped_neither_counts_for_longer_nor_keeps_later_ones_out() {
    let rules = RearmRules { drill_within_ns: Some(MINUTE), ..RearmRules::default() };
    let clock = TestClock::new();
    let switch = with_rules(&clock, rules, vec![]);
    switch.press(ALPHA, Stop::Halted, "olga", "x", clock.now()).unwrap();
    let may = |switch: &Switch| switch.would_lower(ALPHA, switch.halts()[0].word.epoch, false, clock.now()).is_ok();
    clock.put_ahead(HOUR);
    switch.rehearsed(clock.now());
    clock.put_ahead(0);
    let (at, ago) = switch.last_drill(clock.now()).unwrap();
    assert!(at <= clock.now().unix.0 && ago < 1_000, "it was just now, whatever its stamp says");
    assert!(may(&switch));
    clock.advance(MINUTE);
    assert!(!may(&switch), "it was a minute ago");
    clock.put_ahead(HOUR);
    assert!(!may(&switch), "and is not made later by a clock");
    clock.put_ahead(0);
    switch.rehearsed(clock.now());
    assert!(may(&switch));
    // As a later run finds them: what is in the future says nothing, the latest of the others counts.
    let next = with_rules(&clock, rules, vec![]);
    next.press(ALPHA, Stop::Halted, "olga", "x", clock.now()).unwrap();
    let now = clock.now();
    assert!(!next.rehearsed_before(now.unix.0 + 1, now) && next.last_drill(now).is_none() && !may(&next));
    assert!(next.rehearsed_before(now.unix.0 - HOUR, now) && !may(&next));
    assert!(next.rehearsed_before(now.unix.0 - 1_000, now) && may(&next));
    assert!(next.rehearsed_before(now.unix.0 - 2 * HOUR, now));
    assert_eq!(next.last_drill(now), Some((now.unix.0 - 1_000, 1_000)));
}

#[test]
fn kill_is_never_lost_to_a_rearm_at_the_same_time() {
    let clock: Arc<dyn Clock> = TestClock::new();
    let (switch, jobs) = switch(clock.clone());
    let rounds = 100_000;
    let slot = switch.universe().slot(ALPHA).unwrap();
    // The epoch that may be lowered; 0: the end. A press's own epoch is not shown before it was checked.
    let shown = AtomicU64::new(switch.page().raise(slot, Mode::Halted).epoch);
    // How often the re-arm came before the next press, and how often behind it.
    let (lowered, late) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let rearm = scope.spawn(|| {
            loop {
                match shown.load(Ordering::SeqCst) {
                    0 => return,
                    epoch => match switch.ask_rearm(ALPHA, epoch, "rita", "ok", clock.now()) {
                        Ok(_) => lowered.fetch_add(1, Ordering::SeqCst),
                        Err(RearmRefused::Superseded(_)) => late.fetch_add(1, Ordering::SeqCst),
                        Err(_) => 0,
                    },
                };
            }
        });
        let round = |round: u64| {
            if round.is_multiple_of(16) {
                std::thread::yield_now();
            }
            let receipt = switch.press(ALPHA, Stop::Halted, "olga", "x", clock.now()).unwrap();
            let word = switch.page().get(slot);
            let halts = switch.halts();
            let caused = halts.first().is_some_and(|h| h.causes.iter().any(|c| c.epoch == word.epoch));
            shown.store(word.epoch, Ordering::SeqCst);
            word.mode == Mode::Halted && word.epoch == receipt.word.epoch && caused
        };
        // Until the two have met both ways, however long one of them stands still.
        let have_met = || lowered.load(Ordering::SeqCst) > 0 && late.load(Ordering::SeqCst) > 0;
        let lost = (0..).take_while(|n| *n < rounds || !have_met()).find(|n| !round(*n));
        shown.store(0, Ordering::SeqCst);
        rearm.join().unwrap();
        assert_eq!(lost, None, "in this round the kill or its cause was lost");
    });
    drop(jobs);
    switch.press(ALPHA, Stop::Halted, "olga", "without a latch writer", clock.now()).unwrap();
}

#[test]
fn snapshot_holds_every_halt_and_those_of_scopes_that_are_gone() {
    let clock = TestClock::new();
    let universe = Arc::new(universe());
    let gone = LatchEntry {
        scope: ScopeName { kind: "strategy".into(), name: "retired".into() },
        mode: Mode::Halted,
        epoch: 1,
        causes: vec![],
    };
    let (switch, _jobs) = Switch::new(SwitchParts {
        page: Arc::new(HaltPage::new(universe.scope_count(), 5)),
        gates: Arc::default(),
        board: Arc::new(SessionBoard::new(3)),
        universe,
        clock: clock.clone(),
        wakers: vec![],
        working: Box::new(|_| None),
        policy: RearmPolicy { two_people: [false; 6], expiry_ns: 1, ..RearmPolicy::default() },
        causes: vec![],
        orphans: vec![gone.clone()],
    });
    let receipt = switch.press(Scope::Firm, Stop::ReduceOnly, "olga", "x", clock.now()).unwrap();
    let snapshot = switch.snapshot();
    assert_eq!(snapshot.changes, receipt.changes);
    assert!(snapshot.next_epoch > receipt.word.epoch);
    assert_eq!(snapshot.entries.len(), 2);
    assert_eq!((snapshot.entries[0].mode, snapshot.entries[1].clone()), (Mode::ReduceOnly, gone));
    switch.ask_rearm(Scope::Firm, receipt.word.epoch, "rita", "retired for good", clock.now()).unwrap();
    assert!(switch.snapshot().entries.is_empty());
}

#[test]
fn thread_that_holds_the_lock_can_ask_whether_the_page_is_durable() {
    let (switch, _jobs) = switch(TestClock::new());
    switch.latch_written(&switch.snapshot(), Now::default());
    assert!(switch.is_known_durable());
    let held = switch.lock();
    assert!(!switch.is_known_durable());
    drop(held);
    switch.page().raise(0, Mode::Halted);
    assert!(!switch.is_known_durable());
}

#[test]
fn trip_that_was_rearmed_before_its_notice_came_leaves_no_cause() {
    let clock = TestClock::new();
    let (switch, jobs) = switch(clock.clone());
    let cause = Denial { rule: Rule::OrderRate, why: Why::Breach, scope: ALPHA, observed: 11, limit: 10 };
    let trip = Trip { scope: ALPHA, mode: Mode::Halted, cause, session: SessionId(0), seq: 3 };
    switch.record_trip(&trip, clock.now());
    assert!(switch.halts().is_empty());
    let slot = switch.universe().slot(ALPHA).unwrap();
    switch.page().raise(slot, Mode::Halted);
    switch.record_trip(&trip, clock.now());
    assert_eq!(switch.halts()[0].causes[0].actor, "engine");
    assert_eq!(jobs.len(), 1);
}
#[test]
fn a_trip_has_a_receipt_that_waits_for_gates_and_the_latch() {
    let clock = TestClock::new();
    let (switch, _jobs) = switch(clock.clone());
    let slots = Words::heap(2 * SLOT_WORDS);
    let mut inside = Slot::claim(&slots, 1, Fencing::Fence).unwrap();
    let gate = AttachedGate::new(SessionId(0), 1, 1, String::new(), false, slots);
    switch.gates().add(Arc::new(gate));
    inside.enter();
    switch.page().raise(switch.universe().slot(ALPHA).unwrap(), Mode::Halted);
    let cause = Denial { rule: Rule::OrderRate, why: Why::Breach, scope: ALPHA, observed: 11, limit: 10 };
    let trip = Trip { scope: ALPHA, mode: Mode::Halted, cause, session: SessionId(0), seq: 3 };
    switch.record_trip(&trip, clock.now());
    let press = switch.press(Scope::Firm, Stop::Halted, "olga", "too", clock.now()).unwrap();
    let all = switch.receipts(10);
    assert_eq!(all.iter().map(|r| &*r.actor).collect::<Vec<_>>(), ["olga", "engine"]);
    assert_eq!(all.iter().map(|r| r.missing().gates).collect::<Vec<_>>(), [1, 1]);
    switch.latch_written(&switch.snapshot(), clock.now());
    assert_eq!(switch.gates_unconfirmed(), 1, "one gate that two receipts wait for");
    inside.exit();
    assert_eq!(switch.gates_unconfirmed(), 0);
    for id in [press.id, all[1].id] {
        let receipt = switch.receipt(id).unwrap();
        assert_eq!((receipt.missing().gates, receipt.missing().latch), (0, false));
    }
}

#[test]
fn of_two_presses_the_later_one_knows_that_it_was_not_the_first() {
    let clock = TestClock::new();
    let (switch, _jobs) = switch(clock.clone());
    let press = |actor: &str| switch.press_for_drill(ALPHA, actor, "again", clock.now()).unwrap().1;
    assert_eq!((press("olaf"), press("drill")), (Mode::Normal, Mode::Halted));
}

#[test]
fn what_trades_after_a_rearm_is_no_remainder_of_the_kill_before_it() {
    let clock = TestClock::new();
    let (switch, _jobs) = switch(clock.clone());
    let mut receipt = switch.press(ALPHA, Stop::Halted, "olaf", "runaway", clock.now()).unwrap();
    let epoch = receipt.word.epoch;
    let halted = CancelView { on: true, epoch, working: 3, ..CancelView::default() };
    receipt.look_at_cancels(Some(halted));
    for working in [9, 0] {
        receipt.look_at_cancels(Some(CancelView { on: false, working, ..halted }));
        assert_eq!(receipt.cancels, Some(CancelView { on: false, ..halted }), "{working} work now");
    }
}

#[test]
fn what_another_process_raises_wakes_everybody_at_once_and_gets_a_cause_if_none_comes() {
    let clock = TestClock::new();
    let woken = Arc::new(AtomicU64::new(0));
    let universe = Arc::new(universe());
    let count = woken.clone();
    let (switch, jobs) = Switch::new(SwitchParts {
        page: Arc::new(HaltPage::new(universe.scope_count(), 1)),
        board: Arc::new(SessionBoard::new(universe.sessions.len())),
        gates: Arc::default(),
        universe,
        clock: clock.clone(),
        wakers: vec![Box::new(move || _ = count.fetch_add(1, Ordering::SeqCst))],
        working: Box::new(|_| None),
        policy: RearmPolicy::default(),
        causes: vec![],
        orphans: vec![],
    });
    // Our own press has a cause of its own.
    switch.press(Scope::Firm, Stop::Halted, "olga", "x", clock.now()).unwrap();
    let look_after = |ns| {
        clock.advance(ns);
        switch.look().0
    };
    assert_eq!((look_after(0), look_after(CAUSE_WITHIN_NS)), (vec![], vec![]));
    assert_eq!((woken.swap(0, Ordering::SeqCst), switch.halts()[0].causes.len()), (1, 1));
    while jobs.try_recv().is_ok() {}

    let word = switch.page().raise(switch.universe().slot(ALPHA).unwrap(), Mode::Halted);
    assert_eq!(look_after(0), []);
    assert_eq!(
        (woken.swap(0, Ordering::SeqCst), jobs.try_recv()),
        (1, Ok(())),
        "sessions and latch are not kept waiting"
    );
    assert_eq!(look_after(CAUSE_WITHIN_NS / 2), [], "a cause may still come");
    assert_eq!(woken.load(Ordering::SeqCst), 0);
    assert_eq!(look_after(CAUSE_WITHIN_NS / 2), [ALPHA]);
    let halts = switch.halts();
    let cause = &halts.iter().find(|h| h.scope == ALPHA).unwrap().causes[0];
    assert_eq!((&*cause.actor, cause.epoch, cause.mode), ("halt page", word.epoch, Mode::Halted));
    woken.store(0, Ordering::SeqCst);
    assert_eq!((look_after(CAUSE_WITHIN_NS), woken.load(Ordering::SeqCst)), (vec![], 0), "once");
    // Also where the scope was halted already: a new epoch, which a re-arm has to name.
    switch.page().raise(0, Mode::Halted);
    assert_eq!((look_after(0), look_after(CAUSE_WITHIN_NS)), (vec![], vec![Scope::Firm]));
}
