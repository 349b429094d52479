//! The whole morning: each control fires on its link alone and in its order, and nothing fires if nothing is wrong.
//!
//! `HALTLINE_MORNING_SECONDS` says for how long the healthy instances trade.

use super::*;
use crate::demo::morning::guard::GuardControl;
use crate::demo::morning::story::{DEPLOYMENT, FIRST_MAIL, START, StoryNs, clock_text};
use crate::kill::alerts::Severity;

const SECOND: StoryNs = 1_000_000_000;

/// What the demo runs with, but that the rollback comes soon: nothing is different in between.
fn demo() -> Trial {
    let demo = tests::demo();
    Trial { plot: Plot { rollback: 70 * SECOND, ..demo.plot }, ..demo }
}

fn guard(control: GuardControl) -> GuardAlone {
    let alone = demo().guard_alone(control).unwrap();
    assert_eq!(alone.control, Some(control));
    assert_eq!(alone.admitted_after_halt, 0, "{alone:?}");
    assert!(alone.fired.is_some(), "{alone:?}");
    println!("{}: {} {:?}", control.name(), alone.fired.unwrap().clock(), alone.text);
    alone
}

fn limit(rule: Rule, scope: ScopeKind) -> Moment {
    let control = Control { rule, scope };
    let alone = demo().morning(&[control]).unwrap().watch(control);
    let fired = alone.fired.unwrap_or_else(|| panic!("{} does not fire", rule.name()));
    assert!(matches!(alone.outcome, Outcome::Stopped { .. }), "{alone:?}");
    let moment = Moment::from(&fired);
    println!("{}: {} {moment:?}", rule.name(), moment.clock());
    moment
}

/// The sessions that were halted, by name.
fn halted(alone: &GuardAlone) -> Vec<String> {
    let universe = demo().universe;
    alone.halted.iter().map(|(_, scope)| universe.scope_name(*scope)).collect()
}

#[test]
fn each_control_over_the_deployment_fires_at_its_hello_and_no_order_gets_out() {
    let servers: Vec<String> = (1..=8).map(|n| format!("smars-{n}")).collect();
    let eighth = ["smars-8".to_owned()];
    let seen =
        [GuardControl::Manifest, GuardControl::Minority, GuardControl::Meanings, GuardControl::Dormant].map(guard);
    for alone in &seen {
        assert_eq!(alone.outcome, Outcome::Stopped { latched: latched(alone), last_ns: 0, executions: 0 }, "{alone:?}");
        assert_eq!((alone.fired.unwrap().order, alone.fired.unwrap().executions_out), (0, 0));
    }
    let [manifest, minority, meanings, dormant] = &seen;
    let missed = "27 Jul 20:12:00";
    assert_eq!([manifest, minority, meanings].map(|a| a.fired.unwrap().clock()), [missed; 3]);
    assert_eq!((halted(manifest), halted(minority)), (eighth.to_vec(), eighth.to_vec()));
    assert!(manifest.text.contains("no approved build"), "{}", manifest.text);
    assert!(minority.text.contains("7 of 8 instances of strategy"), "{}", minority.text);
    assert!(!manifest.healthy_denied && !minority.healthy_denied);
    // Which meaning is right nobody here can know, nor who may wake what slept since 2003: all wait for a person.
    assert_eq!(halted(meanings), servers);
    assert!(meanings.text.contains("has two live meanings"), "{}", meanings.text);
    assert_eq!(halted(dormant), servers);
    assert!(dormant.text.contains("is dormant, last used 2003-12-31"), "{}", dormant.text);
    assert!((START..START + 8 * SECOND).contains(&dormant.fired.unwrap().at));
    assert!(meanings.healthy_denied && dormant.healthy_denied);
}

fn latched(alone: &GuardAlone) -> Option<(Mode, Scope)> {
    alone.halted.first().map(|(_, scope)| (Mode::Halted, *scope))
}

#[test]
fn the_first_mail_is_an_alert_with_an_owner_and_without_an_answer_the_eighth_is_halted_before_the_open() {
    let mails = guard(GuardControl::Signatures);
    assert_eq!(mails.fired.unwrap().at, FIRST_MAIL);
    assert!(mails.text.starts_with("alert to trading-desk: never seen before, 1 times now: SMARS"), "{}", mails.text);
    assert_eq!(halted(&mails), ["smars-8"]);
    // Time is looked at once a second.
    assert_eq!(clock_text(mails.halted[0].0), "08:30:59");
    assert!(matches!(mails.outcome, Outcome::Stopped { executions: 0, .. }) && !mails.healthy_denied);
}

#[test]
fn among_its_peers_the_eighth_is_halted_within_seconds_and_alone() {
    let peers = guard(GuardControl::Peers);
    let fired = peers.fired.unwrap();
    assert!((2 * SECOND..=4 * SECOND).contains(&fired.at), "{fired:?}");
    assert_eq!(halted(&peers), ["smars-8"]);
    assert!(peers.text.contains("7 peers have"), "{}", peers.text);
    let Outcome::Stopped { executions, .. } = peers.outcome else { panic!("{peers:?}") };
    assert!(executions - fired.executions_out <= 1 && !peers.healthy_denied, "{peers:?}");
}

#[test]
fn a_new_build_that_runs_away_is_halted_within_a_fraction_of_what_would_let_it_pass_all_day() {
    let ramp = guard(GuardControl::Ramp);
    let fired = ramp.fired.unwrap();
    // A tenth of 2,000 a second; the healthy ones, which are as new, stay below it.
    assert_eq!((fired.order, fired.at), (201, 200 * 675_000));
    assert_eq!((halted(&ramp), ramp.healthy_denied), (vec!["smars-8".to_owned()], false));
    assert!(matches!(ramp.outcome, Outcome::Stopped { executions: 200, .. }), "{ramp:?}");
    let mut whole = demo().ramp(false).unwrap();
    assert_eq!(whole.first_to_fire(10_000_000_000), None, "its rate is even: what ten seconds allow the day does");
    assert!(whole.gateways[whole.bad()].tally().executions > 14_000);
}

#[test]
fn a_path_without_what_is_mandatory_is_denied_at_its_first_order_and_the_others_trade() {
    let trial = demo();
    let alone = trial.uncovered().unwrap().unwrap();
    let fired = alone.fired.unwrap();
    assert_eq!((alone.control.rule, alone.control.scope), (Rule::Coverage, ScopeKind::Firm));
    assert_eq!((fired.at_ns, fired.order, fired.executions_out), (0, 1, 0));
    assert_eq!(fired.denial.observed, Rule::Collar as i64, "the first of what it lacks");
    assert_eq!(alone.outcome, Outcome::Stopped { latched: None, last_ns: 0, executions: 0 });
    assert!(!alone.healthy_denied);
    // Where nothing is mandatory the same path goes on.
    let mut limits = (*trial.limits).clone();
    for scope in ScopeKind::ALL.into_iter().flat_map(|kind| scopes(&trial.universe, kind)) {
        if limits.scope(&trial.universe, scope).is_some_and(|limits| limits.demanded != 0) {
            limits.edit(&trial.universe, scope).demanded = 0;
        }
    }
    assert_eq!(Trial { limits: Arc::new(limits), ..trial }.uncovered().unwrap(), None);
}

#[test]
fn a_person_a_minute_after_the_first_alert_stops_the_eighth_and_most_of_it_never_gets_out() {
    let press = guard(GuardControl::Press);
    let fired = press.fired.unwrap();
    assert!((61 * SECOND..=63 * SECOND).contains(&fired.at), "{fired:?}");
    assert_eq!((halted(&press), press.healthy_denied), (vec!["smars-8".to_owned()], false));
    assert!(press.text.starts_with("a person, 60 s after: "), "{}", press.text);
    let Outcome::Stopped { executions, .. } = press.outcome else { panic!("{press:?}") };
    assert!(executions - fired.executions_out <= 1 && executions < 100_000, "{press:?}");
}

#[test]
fn what_is_heard_too_late_halts_its_instance_although_nothing_is_wrong_with_an_order_of_it() {
    let trial = demo();
    let late = trial.late().unwrap();
    let fired = late.fired.unwrap();
    assert_eq!(late.control.rule, Rule::ClockSkew);
    // Earlier nothing could be so old; by then the line has carried no more than it can.
    assert!((250_000_000..1_000_000_000).contains(&fired.at_ns) && fired.executions_out < 1_000, "{fired:?}");
    assert!(fired.denial.observed < -250_000_000 && fired.denial.observed > -252_000_000, "{fired:?}");
    let bad = Scope::Session(trial.universe.session("smars-8").unwrap());
    let Outcome::Stopped { latched, executions, .. } = late.outcome else { panic!("{late:?}") };
    assert_eq!(latched, Some((Mode::Halted, bad)));
    assert!(executions - fired.executions_out <= 1 && !late.healthy_denied, "{late:?}");
}

#[test]
fn the_parents_are_known_before_the_open_and_in_the_order_of_the_morning() {
    let mut morning = demo().guarded(&[], &[GuardControl::Peers]).unwrap();
    morning.before_the_open();
    assert_eq!((morning.told, morning.parent_due()), (crate::demo::knight::PARENTS, None));
    assert_eq!(morning.gateways[morning.bad()].tally().attempts, 0);
    // Alone, without a guard beside it, they come at the same times.
    let mut alone = demo().morning(&[]).unwrap();
    assert_eq!(alone.parent_due().map(clock_text), Some("08:01:10".to_owned()));
    assert_eq!(alone.first_to_fire(1), None);
    assert_eq!(alone.engine.state_hash(), {
        morning.first_to_fire(1);
        morning.engine.state_hash()
    });
}

#[test]
fn the_rollback_is_quarantined_at_each_of_the_seven_before_an_order_and_without_an_incident_is_none() {
    let interlock = guard(GuardControl::Interlock);
    let rollback = demo().plot.rollback;
    let fired = interlock.fired.unwrap();
    assert!((rollback..rollback + SECOND).contains(&fired.at), "{fired:?}");
    assert_eq!(halted(&interlock), (1..=7).map(|n| format!("smars-{n}")).collect::<Vec<_>>());
    assert!(
        interlock.text.contains("build rlp-2012") && interlock.text.contains("→ powerpeg-2003"),
        "{}",
        interlock.text
    );
    assert!(interlock.text.contains("session smars-8 is halted since 09:30:10"), "{}", interlock.text);
    // Nobody has halted anything when the morning is as it should have been: a change is a change.
    let quiet = Trial { plot: Plot::healthy(1), ..demo() };
    let mut morning = quiet.guarded(&[], &[GuardControl::Interlock]).unwrap();
    morning.before_the_open();
    assert_eq!(morning.guard.unwrap().fired, None);
}

#[test]
fn the_controls_fire_in_the_order_of_the_events_that_they_answer() {
    let at = |control| guard(control).fired.unwrap().at;
    let order = [
        ("manifest", at(GuardControl::Manifest)),
        ("dormant_flag", at(GuardControl::Dormant)),
        ("signatures", at(GuardControl::Signatures)),
        ("the open", 0),
        ("coverage", demo().uncovered().unwrap().unwrap().fired.unwrap().at_ns.cast_signed()),
        ("ramp", at(GuardControl::Ramp)),
        ("parent_qty", limit(Rule::ParentQty, ScopeKind::Strategy).at),
        ("parent_state", limit(Rule::ParentState, ScopeKind::Strategy).at),
        ("order_rate", limit(Rule::OrderRate, ScopeKind::Session).at),
        ("clock_skew", demo().late().unwrap().fired.unwrap().at_ns.cast_signed()),
        ("suspense", limit(Rule::Suspense, ScopeKind::Account).at),
        ("fan_out", limit(Rule::FanOut, ScopeKind::Session).at),
        ("peers", at(GuardControl::Peers)),
        ("children", limit(Rule::Children, ScopeKind::Strategy).at),
        ("gross_exposure", limit(Rule::GrossExposure, ScopeKind::Strategy).at),
        ("press", at(GuardControl::Press)),
        ("interlock", at(GuardControl::Interlock)),
    ];
    assert!(order.iter().map(|(_, at)| at).is_sorted(), "{order:#?}");
    assert!(DEPLOYMENT < order[0].1);
}

#[test]
fn all_together_end_it_on_27_july_before_the_first_order() {
    let together = demo().together().unwrap();
    assert_eq!(together.fired.unwrap().clock(), "27 Jul 20:12:00");
    assert_eq!(together.halted[0].1, Scope::Session(demo().universe.session("smars-8").unwrap()));
    assert!(matches!(together.outcome, Outcome::Stopped { executions: 0, .. }), "{together:?}");
    assert_eq!(together.admitted_after_halt, 0);
}

#[test]
fn orders_that_ask_nobody_are_known_by_their_executions_and_not_stopped_by_that() {
    let around = demo().around().unwrap().unwrap();
    let fired = around.fired.unwrap();
    assert_eq!((around.control.rule, fired.executions_out), (Rule::OrphanFills, 11), "the eleventh in a second");
    assert!(matches!(around.outcome, Outcome::GoesOn { executions_per_s: 1_480..=1_482 }), "{around:?}");
}

#[test]
fn every_order_is_held_against_the_collar_also_the_first_ones_after_the_open() {
    let mut morning = demo().morning(&armed(&demo().universe, &demo().limits)).unwrap();
    morning.first_to_fire(MORNING_NS);
    assert!(morning.covered.orders > 100);
    assert_eq!(morning.covered.without_collar, 0);
}

#[test]
fn a_morning_as_it_should_have_been_has_no_finding_of_any_control() {
    let seconds = std::env::var("HALTLINE_MORNING_SECONDS").map_or(120, |seconds| seconds.parse().unwrap());
    let demo = tests::demo();
    let trial = Trial { plot: Plot::healthy(demo.seed), ..demo };
    let mut morning = trial.guarded(&trial.everything(), &GuardControl::HALTING).unwrap();
    // The eighth is there and runs the new code; it has nothing to send.
    morning.gateways.pop();
    let end_ns = seconds * 1_000_000_000;
    for (index, gateway) in morning.gateways.iter_mut().enumerate() {
        *gateway = Gateway::healthy_until(gateway.route().clone(), trial.seed, index, end_ns);
    }
    morning.before_the_open();
    assert_eq!(morning.first_to_fire(end_ns), None);
    let guarded = morning.guard.as_ref().unwrap();
    assert_eq!(guarded.guard.said(), None);
    let alerts = guarded.guard.alerts().newest(10);
    assert!(alerts.iter().all(|alert| alert.severity == Severity::Info), "{alerts:?}");
    assert!(!morning.healthy_denied && morning.latched.is_none());
    for healthy in &morning.gateways {
        assert!(healthy.tally().admitted > 20 * seconds && healthy.tally().denied == 0);
    }
}
