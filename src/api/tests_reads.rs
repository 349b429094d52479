//! Strategies, incidents and the audit over real HTTP.

use std::sync::{Arc, Mutex};

use serde_json::json;

use super::tests::{ALPHA, Setup, World, alpha};
use super::{AuditPage, AuditQuery, Files};
use crate::kill::audit::Entry;
use crate::kill::switch::Stop;
use crate::kill::testing::universe_of;
use crate::kill::words::ScopeName;
use crate::limits::{Gauge, LimitTable};
use crate::model::Scope;

#[test]
fn strategies_show_their_limits_and_what_is_in_force_page_by_page() {
    let world = World::new(Setup { universe: universe_of(5, 2), ..Setup::default() });
    let mut table = LimitTable::unlimited(world.switch.universe());
    table.edit(world.switch.universe(), ALPHA).max[Gauge::Working as usize] = 50;
    *world.limits.write().unwrap() = Arc::new(table);
    let list = world.get("token-of-vera", "/v1/strategies").json();
    let rows = list["strategies"].as_array().unwrap();
    assert_eq!((rows.len(), &list["next"]), (5, &json!(null)));
    assert_eq!(
        (&rows[0]["name"], &rows[0]["account"], &rows[0]["mode"]),
        (&json!("alpha"), &json!("main"), &json!("normal"))
    );
    let limits = rows[0]["limits"].as_array().unwrap();
    assert_eq!((limits.len(), &limits[0]["rule"], &limits[0]["limit"]), (1, &json!("working_orders"), &json!("50")));
    assert_eq!(rows[1]["limits"], json!([]));

    world.switch.press(Scope::Firm, Stop::Halted, "olga", "x", world.clock.now()).unwrap();
    let page = world.get("token-of-vera", "/v1/strategies?rows=2").json();
    assert_eq!(page["strategies"].as_array().unwrap().len(), 2);
    assert_eq!(
        (&page["strategies"][0]["mode"], &page["strategies"][0]["in_force"]),
        (&json!("normal"), &json!("halted"))
    );
    let rest = world.get("token-of-vera", &format!("/v1/strategies?from={}", page["next"])).json();
    assert_eq!(rest["strategies"].as_array().unwrap().len(), 3);
    let one = world.get("token-of-vera", "/v1/strategies?name=s3").json();
    assert_eq!((one["strategies"].as_array().unwrap().len(), &one["strategies"][0]["name"]), (1, &json!("s3")));
    let problem = world.get("token-of-vera", "/v1/strategies?name=gamma").problem(422, "invalid-field");
    assert_eq!(problem["value"], "gamma");
}

#[test]
fn incidents_are_listed_newest_first_and_nothing_else_is_read() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("incidents");
    let files = || Files { incidents: Some(dir.clone()), audit: None };
    let world = World::new(Setup { files: files(), ..Setup::default() });
    assert_eq!(world.get("token-of-vera", "/v1/incidents").json()["incidents"], json!([]), "nothing has happened yet");
    for n in 1..=3 {
        let id = format!("2026-01-0{n}T00-00-00-kill-firm");
        std::fs::create_dir_all(dir.join(&id)).unwrap();
        let report = json!({ "id": id, "at": format!("2026-01-0{n}"), "what": "kill", "scope": { "kind": "firm" },
            "cause": { "actor": "olga" }, "events": [1, 2, 3] });
        std::fs::write(dir.join(&id).join("incident.json"), report.to_string()).unwrap();
    }
    // One that is still being written, and what is not ours.
    std::fs::create_dir_all(dir.join("2026-01-04T00-00-00-kill-firm")).unwrap();
    std::fs::write(tmp.path().join("incident.json"), "{\"secret\":1}").unwrap();
    let list = world.get("token-of-vera", "/v1/incidents").json();
    let ids: Vec<&str> =
        list["incidents"].as_array().unwrap().iter().map(|i| &i["id"].as_str().unwrap()[..10]).collect();
    assert_eq!(ids, ["2026-01-03", "2026-01-02", "2026-01-01"]);
    assert!(list["incidents"][0]["events"].is_null() && list["incidents"][0]["cause"]["actor"] == "olga", "{list}");
    let page = world.get("token-of-vera", "/v1/incidents?count=2").json();
    let rest = format!("/v1/incidents?count=2&before={}", page["next"].as_str().unwrap());
    assert_eq!(world.get("token-of-vera", &rest).json()["incidents"].as_array().unwrap().len(), 1);

    let whole = world.get("token-of-vera", "/v1/incidents/2026-01-02T00-00-00-kill-firm").json();
    assert_eq!(whole["events"], json!([1, 2, 3]));
    for none in ["2026-01-04T00-00-00-kill-firm", "..", "%2e%2e", "x", "a%2F..%2F..", ".", "a%00b"] {
        world.get("token-of-vera", &format!("/v1/incidents/{none}")).problem(404, "not-found");
    }
    world.get("token-of-vera", "/v1/incidents?count=501").problem(422, "invalid-field");
}

#[test]
fn audit_is_for_the_risk_role_and_passes_every_filter_on() {
    let asked: Arc<Mutex<Vec<AuditQuery>>> = Arc::default();
    let log = asked.clone();
    let audit = move |query: &AuditQuery| {
        log.lock().unwrap().push(query.clone());
        let entry = Entry { at: 1_000_000_000, ..Entry::new("olga", "kill") };
        Ok(AuditPage { entries: vec![(7, entry)], next: Some(7), note: None })
    };
    let files = Files { incidents: None, audit: Some(Box::new(audit)) };
    let world = World::new(Setup { files, ..Setup::default() });
    world.get("token-of-olga", "/v1/audit").problem(403, "forbidden");
    assert!(asked.lock().unwrap().is_empty());
    let answer = world.get("token-of-rita", "/v1/audit").json();
    assert_eq!((&answer["entries"][0]["actor"], &answer["entries"][0]["group"]), (&json!("olga"), &json!(7)));
    assert_eq!((&answer["entries"][0]["at"], &answer["next"]), (&json!("1970-01-01T00:00:01.000000000Z"), &json!(7)));
    let path = "/v1/audit?actor=olga&action=kill&scope=strategy:alpha&since=2026-01-01&until=2026-01-02T10:00:00Z\
                &refused=true&count=5&before=9";
    assert_eq!(world.get("token-of-rita", path).status, 200);
    let expected = AuditQuery {
        actor: Some("olga".into()),
        action: Some("kill".into()),
        scope: Some(ScopeName { kind: "strategy".into(), name: "alpha".into() }),
        since: Some("2026-01-01".into()),
        until: Some("2026-01-02T10:00:00".into()),
        refused: true,
        count: 5,
        before: Some(9),
    };
    assert_eq!(asked.lock().unwrap().last(), Some(&expected));
    for (bad, field) in [
        ("scope=galaxy:x", "scope"),
        ("scope=firm:x", "scope"),
        ("scope=strategy", "scope"),
        ("since=yesterday", "since"),
        ("until=2026-1-1", "until"),
        ("refused=maybe", "refused"),
        ("count=many", "count"),
        ("before=-1", "before"),
        ("x=1", "x"),
    ] {
        let problem = world.get("token-of-rita", &format!("/v1/audit?{bad}")).problem(422, "invalid-field");
        assert_eq!(problem["field"], field, "{bad}");
    }
    let none = World::new(Setup::default());
    none.get("token-of-rita", "/v1/audit").problem(404, "not-found");
}

#[test]
fn filters_of_the_audit_hold_by_themselves() {
    let entry = Entry { at: 1_767_225_600_000_000_000, ..Entry::new("olga", "kill").refused("x") };
    let entry = entry.on(serde_json::from_value(alpha()).unwrap());
    let passes = |query: AuditQuery| query.passes(&entry);
    let some = |text: &str| Some(text.to_owned());
    assert!(passes(AuditQuery::default()));
    assert!(passes(AuditQuery { actor: some("olga"), refused: true, ..AuditQuery::default() }));
    assert!(!passes(AuditQuery { actor: some("rita"), ..AuditQuery::default() }));
    assert!(!passes(AuditQuery { action: some("rearm"), ..AuditQuery::default() }));
    assert!(passes(AuditQuery { scope: entry.scope.clone(), ..AuditQuery::default() }));
    let firm = ScopeName { kind: "firm".into(), name: String::new() };
    assert!(!passes(AuditQuery { scope: Some(firm), ..AuditQuery::default() }));
    // The very second that is named is in `since` and not in `until`.
    assert!(passes(AuditQuery { since: some("2026-01-01T00:00:00"), ..AuditQuery::default() }));
    assert!(!passes(AuditQuery { until: some("2026-01-01T00:00:00"), ..AuditQuery::default() }));
    assert!(!passes(AuditQuery { since: some("2026-01-01T00:00:01"), ..AuditQuery::default() }));
    let allowed = Entry { outcome: "done".into(), ..entry.clone() };
    assert!(!AuditQuery { refused: true, ..AuditQuery::default() }.passes(&allowed));
}
