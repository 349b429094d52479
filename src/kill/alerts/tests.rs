//! What becomes of alerts, step by step and by the second.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::units::{MonoNanos, UnixNanos};

const SECOND: u64 = 1_000_000_000;
/// A day on which nothing special happened, Unix ns.
const DAY: u64 = 1_800_000_000 * SECOND;

fn at(second: u64) -> u64 {
    DAY + second * SECOND
}

fn now(second: u64) -> Now {
    Now { mono: MonoNanos(7 * SECOND + second * SECOND), unix: UnixNanos(at(second)) }
}

fn scope(name: &str) -> ScopeName {
    ScopeName { kind: "session".into(), name: name.into() }
}

fn policy() -> Policy {
    Policy {
        escalate_after: Some(Duration::from_secs(300)),
        escalation: vec!["head".into(), "cro".into()],
        escalate_to: LastResort::Halt,
        ..Policy::default()
    }
}

fn critical(second: u64, name: &str) -> Raise {
    Raise::new(at(second), "signature", name, format!("text at {second}")).on(scope("gw-8")).critical()
}

fn told(alerts: &Alerts) -> Vec<(&'static str, u64)> {
    alerts.changes_after(0, 10_000).iter().map(|change| (change.what.name(), change.alert.number)).collect()
}

#[test]
fn what_repeats_is_one_alert_with_a_count_and_is_told_once() {
    let alerts = Alerts::new(policy());
    for n in 0..97 {
        alerts.raise(critical(n, "power_peg"));
    }
    let listed = alerts.newest(100);
    assert_eq!(listed.len(), 1);
    let alert = &listed[0];
    assert_eq!((alert.count, alert.at, alert.last_at), (97, at(0), at(96)));
    assert_eq!((alert.first_text.as_str(), alert.text.as_str()), ("text at 0", "text at 96"));
    assert_eq!(alert.runbook, "config/runbook.md#haltlinenewsignature");
    // Another scope is another alert.
    alerts.raise(critical(97, "power_peg").on(scope("gw-1")));
    assert_eq!(told(&alerts), [("fired", 1), ("fired", 2)]);
}

#[test]
fn an_unanswered_critical_goes_to_the_next_owners_and_then_halts_its_scope_once() {
    let alerts = Alerts::new(policy());
    alerts.raise(critical(0, "power_peg"));
    let mut halted = Vec::new();
    let mut owners = Vec::new();
    for second in 0..3_600 {
        let halts = alerts.tick(now(second));
        halted.extend(halts.into_iter().map(|halt| (second, halt.scope)));
        let alert = alerts.get(1).unwrap();
        if owners.last().is_none_or(|(_, owner)| *owner != alert.owner) {
            owners.push((second, alert.owner.clone()));
        }
    }
    assert_eq!(owners, [(0, "risk".into()), (300, "head".into()), (600, "cro".into())]);
    assert_eq!(halted, [(900, Some(scope("gw-8")))]);
    let alert = alerts.get(1).unwrap();
    assert_eq!((alert.state, alert.escalations), (State::Escalated, 3));
    assert_eq!(told(&alerts), [("fired", 1), ("escalated", 1), ("escalated", 1), ("escalated", 1)]);
}

#[test]
fn without_anybody_next_an_escalation_is_told_once_more_and_halts_nothing() {
    let alerts = Alerts::new(Policy { escalate_after: Some(Duration::from_secs(60)), ..Policy::default() });
    alerts.raise(critical(0, "power_peg"));
    for second in 0..600 {
        assert!(alerts.tick(now(second)).is_empty());
    }
    assert_eq!(told(&alerts), [("fired", 1), ("escalated", 1)]);
}

#[test]
fn who_acknowledges_stops_the_escalation_and_it_is_resolved_when_it_was_quiet() {
    let alerts = Alerts::new(policy());
    alerts.raise(critical(0, "power_peg"));
    let _ = alerts.tick(now(0));
    assert_eq!(alerts.acknowledge(2, "alice", "looking", at(1)), Err(AckRefused::Unknown));
    assert_eq!(alerts.acknowledge(1, "alice", " \n", at(1)), Err(AckRefused::NoReason));
    let alert = alerts.acknowledge(1, "alice", "looking", at(10)).unwrap();
    assert_eq!((alert.state, alert.acknowledged.unwrap().by.as_str()), (State::Acknowledged, "alice"));
    assert_eq!(alerts.acknowledge(1, "bob", "me too", at(11)), Err(AckRefused::Already("alice".into())));
    // It goes on: counted, not told again, and not over.
    for second in 11..1_000 {
        alerts.raise(critical(second, "power_peg"));
        assert!(alerts.tick(now(second)).is_empty());
    }
    assert_eq!(alerts.get(1).unwrap().state, State::Acknowledged);
    for second in 1_000..1_700 {
        let _ = alerts.tick(now(second));
    }
    let alert = alerts.get(1).unwrap();
    assert_eq!((alert.state, alert.resolved_at), (State::Resolved, Some(at(1_599))));
    assert_eq!(alerts.acknowledge(1, "bob", "late", at(1_700)), Err(AckRefused::Resolved));
    assert_eq!(told(&alerts), [("fired", 1), ("acknowledged", 1), ("resolved", 1)]);
    // The next one is another alert.
    alerts.raise(critical(2_000, "power_peg"));
    assert_eq!(alerts.newest(1)[0].number, 2);
}

#[test]
fn a_critical_that_nobody_answers_is_never_resolved_by_silence_or_by_its_cause_going_away() {
    let alerts = Alerts::new(Policy { escalate_after: None, ..Policy::default() });
    alerts.raise(critical(0, "power_peg"));
    alerts.raise(Raise::new(at(0), "delivery", "alert_delivery_failing", "no route"));
    alerts.resolve(at(1), "signature", "power_peg", Some(&scope("gw-8")));
    alerts.resolve(at(1), "delivery", "alert_delivery_failing", None);
    for second in 0..100 {
        let _ = alerts.tick(now(second * 3_600));
    }
    assert_eq!(alerts.get(1).unwrap().state, State::Firing);
    assert_eq!(alerts.get(2).unwrap().resolved_at, Some(at(1)));
}

#[test]
fn a_new_trip_fires_again_although_somebody_looked_at_the_last_one() {
    let alerts = Alerts::new(policy());
    alerts.push(at(0), "trip", "order_rate", "first".into());
    alerts.acknowledge(1, "alice", "seen", at(1)).unwrap();
    alerts.push(at(2), "trip", "order_rate", "second".into());
    let alert = alerts.get(1).unwrap();
    assert_eq!((alert.state, alert.severity, alert.count), (State::Firing, Severity::Critical, 2));
    assert!(alert.acknowledged.is_none());
    assert_eq!(told(&alerts), [("fired", 1), ("acknowledged", 1), ("fired", 1)]);
}

#[test]
fn another_trip_is_told_and_does_not_put_off_the_escalation_of_the_first() {
    let alerts = Alerts::new(policy());
    alerts.push(at(0), "trip", "order_rate", "first".into());
    let _ = alerts.tick(now(0));
    let _ = alerts.tick(now(299));
    alerts.push(at(299), "trip", "order_rate", "second".into());
    let _ = alerts.tick(now(300));
    assert_eq!(told(&alerts), [("fired", 1), ("fired", 1), ("escalated", 1)]);
    assert_eq!(alerts.get(1).unwrap().owner, "head");
}

#[test]
fn a_storm_is_a_handful_and_one_summary_that_counts_all_of_it() {
    let alerts = Alerts::new(Policy { flood_burst: 5, ..policy() });
    for n in 0..400u64 {
        alerts.raise(Raise::new(at(n / 100), "anomaly", &format!("odd_{n}"), "odd"));
        alerts.raise(critical(n / 100, &format!("bad_{n}")));
    }
    let sent: Vec<_> = alerts.changes_after(0, 1_000);
    assert_eq!(sent.iter().filter(|change| change.alert.kind == "anomaly").count(), 5);
    assert_eq!(sent.iter().filter(|change| change.alert.kind == "signature").count(), 5);
    // The summary is told when it begins and when it becomes critical.
    assert_eq!(sent.iter().filter(|change| change.alert.kind == "flood").count(), 2);
    let summary = alerts.list(&Filter { kind: Some("flood".into()), ..Filter::default() }, 10);
    assert_eq!((summary.len(), summary[0].count, summary[0].severity), (1, 790, Severity::Critical));
    assert!(summary[0].text.contains("790 alerts, 395 of them critical"), "{}", summary[0].text);
    // Every one is listed, and blocks.
    assert_eq!(alerts.blocking().len(), 401);
    assert_eq!(alerts.standing().tally.summed_up, 790);
    // Who acknowledges the summary acknowledges what it stands for, and nothing that was sent by itself.
    alerts.acknowledge(summary[0].number, "alice", "a storm", at(5)).unwrap();
    assert_eq!(alerts.blocking().len(), 5);
}

#[test]
fn a_critical_in_a_storm_that_was_acknowledged_is_told_again() {
    let alerts = Alerts::new(Policy { flood_burst: 1, flood_per: Duration::from_secs(100), ..policy() });
    alerts.raise(critical(0, "a"));
    alerts.raise(critical(0, "b"));
    let summary = alerts.newest(1)[0].clone();
    assert_eq!(summary.name, "alert_storm");
    alerts.acknowledge(summary.number, "alice", "a storm", at(1)).unwrap();
    let tells = |second, name: &str| -> Vec<String> {
        let before = alerts.last_seq();
        alerts.raise(critical(second, name));
        alerts.changes_after(before, 10).into_iter().map(|change| change.alert.name).collect()
    };
    // Right after it was acknowledged it is counted; it is not over.
    assert!(tells(2, "c").is_empty());
    assert_eq!(tells(101, "d"), ["d"]);
    assert_eq!(tells(101, "e"), ["alert_storm"]);
    assert_eq!(alerts.get(summary.number).unwrap().count, 3);
}

#[test]
fn the_list_is_bounded_and_what_waits_for_a_person_stays() {
    let alerts = Alerts::new(policy());
    alerts.raise(critical(0, "the_first"));
    for n in 0..KEPT as u64 * 2 {
        alerts.raise(Raise::new(at(n), "anomaly", &format!("odd_{n}"), "odd"));
    }
    assert_eq!(alerts.newest(usize::MAX).len(), KEPT);
    assert_eq!(alerts.get(1).unwrap().name, "the_first");
    // Full of critical ones: what finds no room is counted.
    for n in 0..KEPT as u64 * 2 {
        alerts.raise(critical(n, &format!("bad_{n}")));
    }
    assert_eq!(alerts.newest(usize::MAX).len(), KEPT);
    assert!(alerts.standing().tally.overflowed > KEPT as u64);
    let summary = alerts.list(&Filter { kind: Some("flood".into()), ..Filter::default() }, 1);
    assert!(summary[0].count > KEPT as u64, "{}", summary[0].text);
}

#[test]
fn a_restart_keeps_what_is_open_who_answered_and_what_was_not_told() {
    let alerts = Alerts::new(policy());
    assert_eq!(alerts.receiver("hook"), 0);
    alerts.raise(critical(0, "power_peg"));
    alerts.raise(critical(0, "other"));
    alerts.acknowledge(2, "alice", "looking", at(1)).unwrap();
    alerts.was_told("hook", 1);
    let _ = alerts.tick(now(0));
    let _ = alerts.tick(now(200));
    let saved = serde_json::to_string(&alerts.saved(at(200))).unwrap();

    let next = Alerts::new(policy());
    next.restore(serde_json::from_str(&saved).unwrap(), at(20_000));
    assert_eq!(next.get(2).unwrap().acknowledged.unwrap().by, "alice");
    assert_eq!(next.receiver("hook"), 1);
    assert_eq!(next.changes_after(1, 10).iter().map(|c| c.seq).collect::<Vec<_>>(), [2, 3]);
    // It was away for hours: the next owner is told now, the halt comes only after everybody could have answered.
    let _ = next.tick(now(20_000));
    assert_eq!(next.get(1).unwrap().owner, "head");
    let _ = next.tick(now(20_001));
    assert_eq!(next.get(1).unwrap().owner, "head");
    // Repeats still find their alert, new ones get new numbers.
    next.raise(critical(20_002, "power_peg"));
    assert_eq!(next.get(1).unwrap().count, 2);
    assert_eq!(next.raise(critical(20_002, "third")), Some(3));
}

#[test]
fn a_receiver_that_was_removed_keeps_nothing_waiting_and_a_new_one_begins_now() {
    let alerts = Alerts::new(policy());
    let _ = alerts.receiver("old");
    alerts.raise(critical(0, "a"));
    assert_eq!(alerts.receiver("new"), 1);
    assert_eq!(alerts.saved(at(0)).changes.len(), 1);
    alerts.keep_receivers(&["new".to_owned()]);
    assert!(alerts.saved(at(0)).changes.is_empty());
}

#[test]
fn whoever_delivers_is_woken_by_changes_and_not_by_counts() {
    let alerts = Alerts::new(policy());
    let woken = Arc::new(AtomicU64::new(0));
    let count = woken.clone();
    alerts.on_change(Box::new(move || {
        count.fetch_add(1, Ordering::Relaxed);
    }));
    for n in 0..10 {
        alerts.raise(critical(n, "power_peg"));
    }
    assert!(alerts.again(at(11), "signature", "power_peg", Some(&scope("gw-8")), 5));
    assert_eq!((woken.load(Ordering::Relaxed), alerts.get(1).unwrap().count), (1, 15));
    alerts.acknowledge(1, "alice", "looking", at(12)).unwrap();
    assert_eq!(woken.load(Ordering::Relaxed), 2);
}

#[test]
fn the_configuration_decides_severity_and_owner() {
    let owner = OwnerOf { name: Some("order_rate".into()), scope: None, owner: "desk".into() };
    let severities = vec![("order_rate".to_owned(), Severity::Info)];
    let alerts = Alerts::new(Policy { owners: vec![owner], severities, blocks_open: false, ..policy() });
    alerts.push(at(0), "trip", "order_rate", "tripped".into());
    let alert = alerts.get(1).unwrap();
    assert_eq!((alert.severity, alert.owner.as_str()), (Severity::Info, "desk"));
    // A finding names an owner of its own; what is configured counts more.
    alerts.raise(critical(0, "power_peg").owner("desk of gw-8"));
    assert_eq!(alerts.get(2).unwrap().owner, "desk of gw-8");
    assert!(alerts.blocking().is_empty());
}

#[test]
fn a_scope_is_held_until_its_critical_alerts_are_answered() {
    let alerts = Alerts::new(Policy { holds_rearm: true, ..policy() });
    alerts.raise(critical(0, "power_peg"));
    assert_eq!(alerts.holding(&scope("gw-8")), Some(1));
    assert_eq!(alerts.holding(&scope("gw-1")), None);
    alerts.acknowledge(1, "alice", "looking", at(1)).unwrap();
    assert_eq!(alerts.holding(&scope("gw-8")), None);
}

#[test]
fn lists_are_filtered_and_paged() {
    let alerts = Alerts::new(policy());
    for n in 0..5 {
        alerts.raise(critical(n, &format!("bad_{n}")));
        alerts.raise(Raise::new(at(n), "warn", &format!("odd_{n}"), "odd"));
    }
    alerts.acknowledge(1, "alice", "looking", at(9)).unwrap();
    let numbers =
        |filter: Filter, count| -> Vec<u64> { alerts.list(&filter, count).iter().map(|a| a.number).collect() };
    assert_eq!(numbers(Filter { severity: Some(Severity::Critical), ..Filter::default() }, 2), [9, 7]);
    let page = Filter { severity: Some(Severity::Critical), before: Some(7), ..Filter::default() };
    assert_eq!(numbers(page, 10), [5, 3, 1]);
    assert_eq!(numbers(Filter { state: Some(State::Acknowledged), ..Filter::default() }, 10), [1]);
    assert_eq!(numbers(Filter { name: Some("odd_3".into()), ..Filter::default() }, 10), [8]);
    assert!(numbers(Filter { owner: Some("nobody".into()), ..Filter::default() }, 10).is_empty());
}
