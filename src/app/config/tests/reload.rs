//! What a reload takes, and what needs a restart.

use super::*;

#[test]
fn reload_takes_limits_restrictions_permissions_and_ages() {
    let old = loaded(SMALL);
    let text = with(&[
        ("gross_exposure = 1_000", "gross_exposure = 2_000"),
        ("reference = \"10.25\"", "reference = \"10.25\"\nrestricted = true\nreference_max_age = \"1s\""),
        ("account = \"A\"", "account = \"A\"\ninstruments = [\"SHARE\"]"),
        ("\"9s\"", "\"8s\""),
    ]);
    let new = reload(&old, "t", &text).unwrap_or_else(|violations| panic!("{violations}"));
    assert_eq!((old.limits.generation, new.limits.generation), (1, 2));
    assert_same(&new, &loaded(&text));
    let share = new.universe.instrument("SHARE").unwrap();
    assert!(new.limits.is_restricted(share) && !old.limits.is_restricted(share));
    assert_eq!(limits_of(&new, "firm", "").of(Gauge::Gross), 20_000_000);
    assert_eq!(reload(&new, "t", SMALL).unwrap().limits.generation, 3);
}

#[test]
fn reload_refuses_every_change_that_needs_a_restart() {
    let old = loaded(SMALL);
    let cases: &[(&str, &str, &str)] = &[
        ("state_dir = \"state\"", "state_dir = \"other\"", "service"),
        ("state_dir", "base_scale = 5\nstate_dir", "service"),
        ("idle = \"nap\"", "idle = \"spin\"", "engine"),
        ("127.0.0.1:7401", "127.0.0.1:7500", "ingest"),
        ("[ingest]", "[http]\nlisten = \"127.0.0.1:1\"\n[ingest]", "http"),
        ("[ingest]", "[local]\nkill_file = \"KILL\"\n[ingest]", "local"),
        ("[ingest]", "[gate]\n[ingest]", "gate"),
        ("\"10m\"", "\"11m\"", "auth"),
        ("1.08", "1.09", "currencies.EUR"),
        ("[accounts.A]", "[accounts.B]\n[accounts.A]", "accounts.B"),
        ("[strategies.alpha]", "[strategies.gamma]\naccount = \"A\"\n[strategies.alpha]", "strategies.gamma"),
        ("px_scale = 2", "px_scale = 3", "instruments.SHARE"),
        ("\"10.25\"", "\"10.26\"", "instruments.SHARE"),
        ("kind = \"ask\"", "kind = \"observe\"", "sessions.gw"),
        ("[\"alpha\"]", "[\"beta\"]", "sessions.gw"),
        ("bbbb", "cccc", "sessions.gw"),
    ];
    for (from, to, field) in cases {
        let violations = reload(&old, "t", &with(&[(from, to)])).expect_err(to);
        let fields: Vec<_> = violations.list.iter().map(|v| (&*v.field, v.rule.contains("restart"))).collect();
        assert_eq!(fields, [(*field, true)], "{from:?} -> {to:?}");
    }
    // What was there before and is not.
    let grown = loaded(&with(&[("[accounts.A]", "[accounts.B]\n[accounts.A]")]));
    let violations = reload(&grown, "t", SMALL).unwrap_err();
    assert_eq!(violations.list.iter().map(|v| &*v.field).collect::<Vec<_>>(), ["accounts.B"]);
}

#[test]
fn reload_reports_faults_of_the_new_text_and_leaves_the_old_alone() {
    let old = loaded(SMALL);
    let violations = reload(&old, "t", &with(&[("1_000", "-1")])).unwrap_err();
    assert_eq!(violations.list[0].field, "limits.firm.gross_exposure");
    assert_eq!(limits_of(&old, "firm", "").of(Gauge::Gross), 10_000_000);
}
