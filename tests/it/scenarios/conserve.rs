//! Parents and their children, orphans, suspense accounts.

use haltline::limits::{FanOutLimit, ParentRule};

use super::*;

/// A parent of strategy 0 to buy ACME, without a limit price.
fn parent(id: u64, qty: i64) -> Event {
    let mut e = Event::new(EventKind::ParentNew, OMS, 0);
    (e.id, e.qty, e.ord_type) = (OrdId(id), Qty(qty), OrdType::Market);
    e
}

fn done(id: u64) -> Event {
    Event { id: OrdId(id), ..Event::new(EventKind::ParentDone, OMS, 0) }
}

fn parent_replace(id: u64, qty: i64) -> Event {
    Event { kind: EventKind::ParentReplace, ..parent(id, qty) }
}

/// A buy that names a parent.
fn child(id: u64, of: u64, qty: i64) -> Event {
    Event { ref_id: of, ..buy(id, qty) }
}

fn require(w: &mut World) {
    w.limit(|t, _| t.hold_to_parents(S0, ParentRule::Required));
}

/// The same, and a breach denies without a halt: to look at one after the other.
fn require_softly(w: &mut World) {
    require(w);
    w.limit(|t, u| {
        let limits = t.edit(u, STRATEGY);
        limits.action = [Action::Deny; Rule::COUNT];
    });
}

fn session() -> Scope {
    Scope::Session(GW)
}

scenarios! {
    child_beyond_its_parent_is_denied_and_halts_its_instance(w) {
        require(w);
        w.send(parent(7, 100));
        w.admitted(child(1, 7, 60));
        let deny = w.denied(child(2, 7, 41), Rule::ParentQty);
        assert_eq!((deny.observed, deny.limit, deny.scope), (101, 100, STRATEGY));
        assert_eq!(w.mode(session()), Mode::Halted);
        assert_eq!(w.mode(Scope::Session(GW2)), Mode::Normal, "the others go on");
        w.admitted(Event { session: GW2, ..child(1, 7, 40) });
    }

    what_children_fill_and_what_they_still_may_is_the_parents(w) {
        require_softly(w);
        w.send(parent(7, 100));
        w.admitted(child(1, 7, 60));
        w.fill(1, 50, 1_000);
        w.denied(child(2, 7, 41), Rule::ParentQty);
        w.send(report(EventKind::Canceled, 1));
        w.denied(child(3, 7, 51), Rule::ParentQty);
        w.admitted(child(4, 7, 50));
        w.fill(4, 50, 1_000);
        assert_eq!(w.denied(child(5, 7, 1), Rule::ParentQty).observed, 101);
    }

    denied_child_takes_nothing_of_its_parent(w) {
        require_softly(w);
        w.limit(|t, u| t.edit(u, STRATEGY).order_qty = 50);
        w.send(parent(7, 100));
        w.denied(child(1, 7, 60), Rule::OrderQty);
        w.admitted(child(2, 7, 50));
        w.admitted(child(3, 7, 50));
    }

    replace_may_not_take_more_than_the_parent_has(w) {
        require_softly(w);
        w.send(parent(7, 100));
        w.admitted(child(1, 7, 60));
        w.send(report(EventKind::Ack, 1));
        assert_eq!(w.denied(replace(1, 2, 101, 1_000), Rule::ParentQty).observed, 101);
        w.admitted(replace(1, 3, 90, 1_000));
        w.denied(child(4, 7, 11), Rule::ParentQty);
        // Refused by the venue: what it would have taken is free again.
        w.send(Event { ref_id: 1, ..report(EventKind::CancelRejected, 3) });
        w.admitted(child(5, 7, 40));
    }

    replace_that_takes_less_passes_when_the_parent_is_over(w) {
        require_softly(w);
        w.send(parent(7, 100));
        w.admitted(child(1, 7, 60));
        w.send(report(EventKind::Ack, 1));
        w.send(done(7));
        w.denied(replace(1, 2, 61, 1_000), Rule::ParentState);
        w.admitted(replace(1, 3, 59, 1_000));
    }

    child_of_no_parent_that_takes_children_is_denied(w) {
        require_softly(w);
        w.send(parent(7, 100));
        w.send(parent(8, 100));
        w.send(done(8));
        w.send(Event { ref_id: w.now.unix.0, ..parent(9, 100) });
        assert_eq!(w.denied(buy(1, 1), Rule::ParentState).observed, 0, "it names none");
        assert_eq!(w.denied(child(2, 99, 1), Rule::ParentState).observed, 1, "nobody knows it");
        assert_eq!(w.denied(child(3, 8, 1), Rule::ParentState).observed, 2, "it is over");
        w.admitted(child(4, 9, 1));
        w.wait(1);
        assert_eq!(w.denied(child(5, 9, 1), Rule::ParentState).observed, 3, "past its deadline");
        let sells = Event { side: Side::Sell, ..child(6, 7, 1) };
        assert_eq!(w.denied(sells, Rule::ParentState).observed, 4, "it buys");
        let other = Event { instrument: ES, ..child(7, 7, 1) };
        assert_eq!(w.denied(other, Rule::ParentState).observed, 4, "it is for another instrument");
    }

    child_after_its_parent_is_done_halts_its_instance(w) {
        require(w);
        w.send(parent(7, 100));
        w.admitted(child(1, 7, 10));
        w.send(done(7));
        w.denied(child(2, 7, 10), Rule::ParentState);
        assert_eq!(w.mode(session()), Mode::Halted);
    }

    checked_strategy_may_trade_without_parents_and_not_with_wrong_ones(w) {
        w.limit(|t, _| t.hold_to_parents(S0, ParentRule::Checked));
        w.admitted(buy(1, 10));
        w.denied(child(2, 7, 10), Rule::ParentState);
    }

    strategy_that_is_not_held_to_parents_may_name_any(w) {
        w.admitted(child(1, 7, 10));
    }

    child_may_not_be_priced_beyond_its_parent(w) {
        require_softly(w);
        w.mark(ACME, 1_000);
        let priced = |e: Event, px| Event { ord_type: OrdType::Limit, px: Px(px), ..e };
        w.send(priced(parent(7, 100), 1_000));
        w.send(priced(Event { side: Side::Sell, ..parent(8, 100) }, 1_000));
        w.admitted(priced(child(1, 7, 1), 1_000));
        let deny = w.denied(priced(child(2, 7, 1), 1_001), Rule::ParentPx);
        assert_eq!((deny.observed, deny.limit), (1_001, 1_000));
        let sell = |id, px| priced(Event { side: Side::Sell, ..child(id, 8, 1) }, px);
        w.admitted(sell(3, 1_000));
        w.denied(sell(4, 999), Rule::ParentPx);
        w.denied(Event { ord_type: OrdType::Market, px: Px(0), ..child(5, 7, 1) }, Rule::ParentPx);
        // A parent without a limit lets its children have any price.
        w.send(priced(parent_replace(7, 100), 1_001));
        w.admitted(priced(child(6, 7, 1), 1_001));
        w.send(parent_replace(7, 100));
        w.admitted(Event { ord_type: OrdType::Market, px: Px(0), ..child(7, 7, 1) });
    }

    replace_may_not_leave_the_parents_price(w) {
        require_softly(w);
        w.send(Event { ord_type: OrdType::Limit, px: Px(1_000), ..parent(7, 100) });
        w.admitted(child(1, 7, 10));
        w.send(report(EventKind::Ack, 1));
        w.denied(replace(1, 2, 10, 1_001), Rule::ParentPx);
    }

    children_of_one_parent_are_counted_whoever_sends_them(w) {
        require(w);
        w.limit(|t, u| t.edit(u, STRATEGY).children = 2);
        w.send(parent(7, 100));
        w.send(parent(8, 100));
        w.admitted(child(1, 7, 1));
        w.send(report(EventKind::Canceled, 1));
        w.admitted(Event { session: GW2, ..child(1, 7, 1) });
        w.admitted(child(2, 8, 1));
        let deny = w.denied(child(3, 7, 1), Rule::Children);
        assert_eq!((deny.observed, deny.limit), (3, 2));
        assert_eq!(w.mode(session()), Mode::Halted);
    }

    parent_may_be_replaced_by_its_own_session_until_it_is_done(w) {
        require_softly(w);
        w.send(parent(7, 10));
        w.admitted(child(1, 7, 10));
        let stranger = w.send(Event { session: OMS2, ..parent_replace(7, 100) });
        assert_eq!(stranger.anomalies, [AnomalyKind::ParentRefused]);
        w.denied(child(2, 7, 1), Rule::ParentQty);
        w.send(parent_replace(7, 30));
        w.admitted(child(3, 7, 10));
        w.send(done(7));
        for late in [parent_replace(7, 100), done(7), parent(7, 100)] {
            assert_eq!(w.send(late).anomalies, [AnomalyKind::ParentRefused]);
        }
        w.denied(child(4, 7, 1), Rule::ParentState);
    }

    parent_that_makes_no_sense_is_refused(w) {
        require_softly(w);
        let good = parent(7, 10);
        for bad in [
            Event { id: OrdId(0), ..good },
            Event { qty: Qty(0), ..good },
            Event { ord_type: OrdType::Stop, px: Px(1), ..good },
            Event { ord_type: OrdType::Limit, px: Px(0), ..good },
            Event { strategy: StrategyId(9), ..good },
            Event { account: AccountId(1), ..good },
            Event { instrument: InstrumentId(99), ..good },
            Event { session: OMS2, ..good },
        ] {
            assert_eq!(w.send(bad).anomalies, [AnomalyKind::ParentRefused], "{bad:?}");
        }
        w.denied(child(1, 7, 1), Rule::ParentState);
        assert!(w.send(Event { session: OMS2, strategy: S1, ..good }).anomalies.is_empty());
    }

    order_management_does_not_trade_and_gateways_send_no_parents(w) {
        let out = w.send(Event { session: OMS, ..buy(1, 1) });
        assert_eq!((out.verdict, out.anomalies), (None, vec![AnomalyKind::MalformedReport]));
        for session in [GW, DROP, REF] {
            let out = w.send(Event { session, ..parent(7, 1) });
            assert_eq!(out.anomalies, [AnomalyKind::MalformedReport]);
        }
        assert_eq!(w.gauge(Scope::Firm, Gauge::Working), 0);
        assert!(w.send(Event::new(EventKind::Heartbeat, OMS, 0)).anomalies.is_empty());
    }

    late_fill_of_a_done_parents_child_is_booked(w) {
        require(w);
        w.send(parent(7, 100));
        w.admitted(child(1, 7, 60));
        w.send(done(7));
        let out = w.fill(1, 60, 1_000);
        assert_eq!((out.trips, out.anomalies), (vec![], vec![]));
        assert_eq!(w.position(ACME), 60);
    }

    fill_beyond_the_parent_is_booked_and_halts_the_instance(w) {
        require(w);
        w.send(parent(7, 60));
        w.admitted(child(1, 7, 60));
        let out = w.fill(1, 61, 1_000);
        assert_eq!(out.anomalies, [AnomalyKind::Overfill, AnomalyKind::ParentOverfill]);
        assert_eq!(out.trips, [(session(), Mode::Halted, Rule::ParentQty)]);
        assert_eq!(w.position(ACME), 61);
    }

    bust_gives_back_what_it_takes_from_the_parent(w) {
        require_softly(w);
        w.send(parent(7, 60));
        w.admitted(child(1, 7, 60));
        w.fill(1, 60, 1_000);
        w.denied(child(2, 7, 10), Rule::ParentQty);
        let mut bust = report(EventKind::Bust, w.execs);
        bust.ref_id = 99;
        w.send(bust);
        w.admitted(child(3, 7, 10));
    }

    observed_child_is_booked_to_its_parent_and_halts_its_session_for_a_breach(w) {
        require(w);
        w.send(parent(7, 100));
        let seen = |id, qty| Event { session: DROP, ..child(id, 7, qty) };
        assert!(w.send(seen(1, 100)).trips.is_empty());
        let out = w.send(seen(2, 1));
        assert_eq!(out.trips, [(Scope::Session(DROP), Mode::Halted, Rule::ParentQty)]);
        assert_eq!(w.denied(child(1, 7, 1), Rule::ParentQty).observed, 102);
    }

    orders_out_are_held_against_parents_in(w) {
        require(w);
        w.limit(|t, u| {
            t.edit(u, session()).fan_out = Some(FanOutLimit { count: 2, window_ns: 7 * SECOND });
        });
        for id in [7, 8] {
            w.send(parent(id, 1_000));
        }
        w.admitted(child(1, 7, 1));
        w.admitted(child(2, 7, 1));
        // The first child of the second parent makes it this instance's only when it is out.
        let deny = w.denied(child(3, 8, 1), Rule::FanOut);
        assert_eq!((deny.observed, deny.limit, deny.scope), (3, 2, session()));
        assert_eq!(w.mode(session()), Mode::Halted);
        w.set_mode(session(), Mode::Normal);
        w.admitted(child(4, 8, 1));
        for id in 5..8 {
            w.admitted(child(id, 8, 1));
        }
        w.denied(child(8, 8, 1), Rule::FanOut);
        w.set_mode(session(), Mode::Normal);
        w.send(done(8));
        w.admitted(child(9, 7, 1));
        w.admitted(child(10, 7, 1));
        w.denied(child(11, 7, 1), Rule::FanOut);
        w.set_mode(session(), Mode::Normal);
        w.wait(8 * SECOND);
        w.admitted(child(12, 7, 1));
    }

    fills_of_no_order_count_and_halt_at_the_limit(w) {
        w.mark(ACME, 1_000);
        let halt = Action::Halt(Target::Session);
        w.rate(STRATEGY, RateLimit { action: halt, ..sliding(RateOf::Orphans, 2, SECOND) });
        w.admitted(buy(1, 10));
        assert!(w.fill(1, 10, 1_000).trips.is_empty());
        let late = w.fill(1, 1, 1_000);
        assert_eq!((late.trips, late.anomalies), (vec![], vec![AnomalyKind::LateFill]));
        w.admitted(buy(2, 10));
        let over = w.fill(2, 11, 1_000);
        assert_eq!((over.trips, over.anomalies), (vec![], vec![AnomalyKind::Overfill]));
        let unknown = w.fill(77, 5, 1_000);
        assert_eq!(unknown.trips, [(session(), Mode::Halted, Rule::OrphanFills)]);
        assert_eq!(w.position(ACME), 27, "all of them are booked");
    }

    suspense_account_has_a_hard_limit(w) {
        w.mark(ACME, 1_000);
        w.limit(|t, u| {
            t.suspend(AccountId(1), true);
            t.edit(u, Scope::Account(AccountId(1))).suspense = 5_000;
        });
        let order = |id, qty| Event { strategy: S2, account: AccountId(1), ..buy(id, qty) };
        let out = w.send(order(1, 5));
        assert_eq!((out.verdict, out.anomalies), (Some(None), vec![AnomalyKind::SuspenseActivity]));
        let stray = Event { strategy: S2, ..fill(77, 1, 2, 1_000) };
        let out = w.send(stray);
        assert_eq!(out.trips, [(session(), Mode::Halted, Rule::Suspense)]);
        assert_eq!(out.anomalies, [AnomalyKind::UnknownFill, AnomalyKind::SuspenseActivity]);
        w.set_mode(session(), Mode::Normal);
        let deny = w.denied(order(2, 1), Rule::Suspense);
        assert_eq!((deny.observed, deny.limit), (8_000, 5_000));
    }
}
