//! Every route of the HTTP interface, whom it is for and where: as many times as there are roles, against the real service. What
//! is not in the table below, or not in the document, fails.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::openapi::{Document, Reply, send};
use crate::support::{Daemon, LIMITS, config, haltline, token};

/// Who has at least which role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Least {
    Nobody,
    Viewer,
    Operator,
    Risk,
}

use Least::{Nobody, Operator, Risk, Viewer};

/// Where a role has to count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// Nowhere: it is looked at, or is the caller's own.
    Anywhere,
    /// For the whole firm.
    Firm,
    /// For what the request names.
    Named,
}

use At::{Anywhere, Firm, Named};

/// A route: what it is asked, and what is answered if that is allowed. Words in capitals stand for what is theirs who have a
/// role for some scopes only, or for what is not.
type Route = (&'static str, &'static str, &'static str, Least, At, u16);

/// In the order in which they are allowed: later ones find what earlier ones left.
const ROUTES: [Route; 48] = [
    ("GET", "/livez", "", Nobody, Anywhere, 200),
    ("GET", "/readyz", "", Nobody, Anywhere, 200),
    ("GET", "/metrics", "", Nobody, Anywhere, 200),
    ("POST", "/v1/login", r#"{"token":"TOKEN"}"#, Nobody, Anywhere, 200),
    ("GET", "/v1/me", "", Viewer, Anywhere, 200),
    // Who came with a token has no login to end.
    ("POST", "/v1/logout", "", Viewer, Anywhere, 409),
    ("GET", "/v1/state", "", Viewer, Anywhere, 200),
    ("GET", "/v1/stream", "", Viewer, Anywhere, 200),
    ("GET", "/v1/strategies", "", Viewer, Anywhere, 200),
    ("GET", "/v1/limits", "", Viewer, Anywhere, 200),
    ("GET", "/v1/kill/preview?kind=strategy&name=STRATEGY", "", Viewer, Anywhere, 200),
    ("GET", "/v1/kills", "", Viewer, Anywhere, 200),
    ("GET", "/v1/kills/RECEIPT", "", Viewer, Anywhere, 200),
    ("GET", "/v1/rearm", "", Viewer, Anywhere, 200),
    ("GET", "/v1/rearm/REARM", "", Viewer, Anywhere, 200),
    ("GET", "/v1/incidents", "", Viewer, Anywhere, 200),
    ("GET", "/v1/incidents/INCIDENT", "", Viewer, Anywhere, 200),
    ("GET", "/v1/alerts", "", Viewer, Anywhere, 200),
    ("GET", "/v1/alerts/ALERT", "", Viewer, Anywhere, 200),
    ("GET", "/v1/overrides", "", Viewer, Anywhere, 200),
    ("GET", "/v1/probation", "", Viewer, Anywhere, 200),
    ("GET", "/v1/drills", "", Viewer, Anywhere, 200),
    ("GET", "/v1/drills/DRILL", "", Viewer, Anywhere, 200),
    ("GET", "/v1/sessions", "", Viewer, Anywhere, 200),
    ("GET", "/v1/manifest", "", Viewer, Anywhere, 200),
    ("GET", "/v1/preflight", "", Viewer, Anywhere, 200),
    ("GET", "/v1/signatures", "", Viewer, Anywhere, 200),
    ("GET", "/v1/peers", "", Viewer, Anywhere, 200),
    (
        "POST",
        "/v1/limits/what-if",
        r#"{"changes":[{"scope":{"kind":"strategy","name":"STRATEGY"},"rule":"order_qty","limit":"5"}]}"#,
        Viewer,
        Anywhere,
        200,
    ),
    ("GET", "/v1/audit", "", Risk, Anywhere, 200),
    ("GET", "/v1/rearm/nonce", "", Risk, Anywhere, 200),
    ("GET", "/v1/limits/file", "", Risk, Firm, 200),
    ("POST", "/v1/limits/reload", r#"{"reason":"r"}"#, Risk, Firm, 200),
    ("PUT", "/v1/limits", r#"{"text":"FILE","reason":"r"}"#, Risk, Firm, 200),
    // There is no manifest here, and the firm is not on probation.
    ("POST", "/v1/manifest/reload", r#"{"reason":"r"}"#, Risk, Firm, 409),
    ("POST", "/v1/probation/firm/promote", r#"{"reason":"r"}"#, Risk, Firm, 404),
    ("POST", "/v1/alerts/ALERT/ack", r#"{"reason":"r"}"#, Operator, Named, 200),
    (
        "POST",
        "/v1/overrides",
        r#"{"scope":{"kind":"strategy","name":"STRATEGY"},"rule":"order_qty","limit":"7","for_seconds":3600,"reason":"r"}"#,
        Risk,
        Named,
        201,
    ),
    ("POST", "/v1/overrides/OVERRIDE/approve", r#"{"reason":"r"}"#, Risk, Named, 200),
    ("DELETE", "/v1/overrides/OVERRIDE", r#"{"reason":"r"}"#, Risk, Named, 200),
    (
        "POST",
        "/v1/rearm",
        r#"{"scope":{"kind":"session","name":"SESSION"},"epoch":EPOCH,"reason":"r","wait_ms":5000}"#,
        Risk,
        Named,
        200,
    ),
    ("POST", "/v1/rearm/REARM/approve", r#"{"reason":"r","wait_ms":5000}"#, Risk, Named, 200),
    ("POST", "/v1/probation/strategy/STRATEGY/promote", r#"{"reason":"r"}"#, Risk, Named, 200),
    (
        "POST",
        "/v1/drills",
        r#"{"scope":{"kind":"strategy","name":"STRATEGY"},"force":true,"reason":"r"}"#,
        Risk,
        Named,
        200,
    ),
    ("POST", "/v1/kill", r#"{"scope":{"kind":"strategy","name":"STRATEGY"},"reason":"r"}"#, Operator, Named, 200),
    // Nothing is attested here.
    ("POST", "/v1/sessions/SESSION/approve", r#"{"tag":"t","reason":"r"}"#, Risk, Named, 409),
    ("POST", "/v1/wake", r#"{"strategy":"STRATEGY","reason":"r"}"#, Risk, Named, 409),
    // Its re-arm put it on probation as well; the document has the scope's kind as a parameter.
    ("POST", "/v1/probation/session/SESSION/promote", r#"{"reason":"r"}"#, Risk, Named, 200),
];

const MORE: &str = r#"
[limits_api]
write = true
[rearm]
probation = { fraction = "25%", for = "1h" }
[drill]
session = "drill"
strategy = "drill"
instrument = "ACME"
[sessions.gw-2]
kind = "ask"
token_hash = "GW2"
[sessions.drill]
kind = "ask"
[strategies.drill]
account = "main"
"#;

/// A service where everything there is a route for exists, theirs and others'.
struct Desk {
    daemon: Daemon,
    /// What a word stands for: theirs, and another one.
    words: Vec<(&'static str, String, String)>,
}

impl Desk {
    fn open() -> Desk {
        let dir = tempfile::tempdir().unwrap();
        let hash = |name: &str| blake3::hash(token(name).as_bytes()).to_hex().to_string();
        let some = "scopes = [\"strategy:alpha\", \"session:gw-1\"]";
        let both = [("oscar", "operator"), ("ravi", "risk")]
            .map(|(name, role)| {
                format!("  {{ name = \"{name}\", role = \"{role}\", {some}, hash = \"{}\" }},\n", hash(name))
            })
            .concat();
        let text = config(&dir.path().join("state"), &(MORE.replace("GW2", &hash("gw-2")) + LIMITS))
            .replace("tokens = [\n", &format!("tokens = [\n{both}"))
            .replace("two_person_rearm = [\"firm\"]", "two_person_rearm = [\"firm\", \"strategy\"]");
        std::fs::write(dir.path().join("haltline.toml"), text).unwrap();
        let made = haltline(&["init", "--config", "haltline.toml"]).current_dir(dir.path()).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let mut desk = Desk { daemon: Daemon::run(dir), words: Vec::new() };
        desk.fill();
        desk
    }

    fn fill(&mut self) {
        let daemon = &self.daemon;
        let mut words = vec![
            ("STRATEGY", "alpha".to_owned(), "beta".to_owned()),
            ("SESSION", "gw-1".to_owned(), "gw-2".to_owned()),
            ("TOKEN", token("vera"), token("vera")),
        ];
        let post = |who: &str, path: &str, body: Value| -> Value {
            let (status, answer) = daemon.ask(who, "POST", path, Some(&body));
            assert!((200..300).contains(&status), "{path}: {answer}");
            answer
        };
        let id = |answer: &Value| answer["id"].as_str().unwrap().to_owned();
        let scope = |kind: &str, name: &str| json!({ "kind": kind, "name": name });
        let drill = id(&post("rita", "/v1/drills", json!({ "reason": "before the open" })));
        words.push(("DRILL", drill.clone(), drill));

        let [own, other] = ["gw-1", "gw-2"].map(|name| daemon.kill("session", name, "odd")["epoch"].to_string());
        words.push(("EPOCH", own, other));
        let mut last = String::new();
        let [own, other] = ["alpha", "beta"].map(|name| {
            let receipt = daemon.kill("strategy", name, "odd");
            last = id(&receipt);
            let body = json!({ "scope": scope("strategy", name), "epoch": receipt["epoch"], "reason": "looked at" });
            id(&post("rita", "/v1/rearm", body))
        });
        words.push(("REARM", own, other));
        words.push(("RECEIPT", last.clone(), last));

        // Afterwards: a halt makes void what was asked before it.
        let etag = daemon.get("vera", "/v1/overrides")["etag"].clone();
        let [own, other] = ["alpha", "beta"].map(|name| {
            let body = json!({ "scope": scope("strategy", name), "rule": "order_qty", "limit": "2000",
                "for_seconds": 3600, "reason": "a large client", "etag": etag });
            id(&post("rita", "/v1/overrides", body))
        });
        words.push(("OVERRIDE", own, other));

        let alert = |name: &str| daemon.get("vera", &format!("/v1/alerts?scope_kind=strategy&scope_name={name}"));
        let [own, other] = ["alpha", "beta"].map(|name| {
            daemon.until("the kill is an alert", |_| alert(name)["alerts"][0].is_object());
            id(&alert(name)["alerts"][0])
        });
        words.push(("ALERT", own, other));
        let incidents = |daemon: &Daemon| daemon.get("vera", "/v1/incidents")["incidents"].clone();
        daemon.until("there is a report", |d| incidents(d)[0].is_object());
        let incident = id(&incidents(daemon)[0]);
        words.push(("INCIDENT", incident.clone(), incident));
        self.words = words;
    }

    fn said(&self, text: &str, own: bool) -> String {
        self.words
            .iter()
            .fold(text.to_owned(), |text, (word, theirs, other)| text.replace(word, if own { theirs } else { other }))
    }

    fn send(&self, who: Option<&str>, &(method, path, body, ..): &Route, own: bool) -> Reply {
        let path = self.said(path, own);
        let mut headers = String::new();
        let body = (!body.is_empty()).then(|| {
            let mut body: Value = serde_json::from_str(&self.said(body, own)).unwrap();
            if method == "PUT" && who == Some("rita") {
                let (tag, text) = self.limits();
                headers = format!("If-Match: {tag}\r\n");
                body["text"] = text.into();
            }
            body
        });
        let reply = send(&self.daemon.http, who, method, &path, &headers, body.as_ref());
        let document = Document::of(&self.daemon.http);
        let template = document.template(method, &path).unwrap_or_else(|| panic!("{method} {path} is in no document"));
        assert_eq!(document.complaints(method, template, &reply), [""; 0], "{}", reply.body);
        reply
    }

    /// The file of limits as it stands, and its tag.
    fn limits(&self) -> (String, String) {
        let file = send(&self.daemon.http, Some("rita"), "GET", "/v1/limits/file", "", None);
        let tag = file.head.lines().find_map(|line| line.strip_prefix("etag: ")).expect("no tag");
        (tag.to_owned(), file.body)
    }
}

#[test]
fn every_route_is_for_the_roles_and_scopes_that_it_is_for_and_answers_as_its_document_says() {
    let desk = Desk::open();
    let document = Document::of(&desk.daemon.http);
    let listed: BTreeSet<(String, String)> = ROUTES
        .iter()
        .map(|(method, path, ..)| {
            let path = desk.said(path, true);
            let template = document.template(method, &path);
            ((*method).to_owned(), template.unwrap_or_else(|| panic!("{method} {path}")).to_owned())
        })
        .collect();
    let operations = document.operations();
    assert_eq!(listed, operations, "routes of the table, and of the document");

    let refused = |reply: &Reply, status: u16, kind: &str, what: &str| {
        let seen = (reply.status, reply.json()["type"].clone());
        assert_eq!(seen, (status, format!("urn:haltline:problem:{kind}").into()), "{what}: {}", reply.body);
    };
    for route in &ROUTES {
        let &(method, path, _, least, at, _) = route;
        let what = |who: &str| format!("{method} {path} as {who}");
        if least > Nobody {
            for own in [true, false] {
                refused(&desk.send(None, route, own), 401, "unauthorized", &what("nobody"));
                for (who, has) in [("vera", Viewer), ("oscar", Operator), ("olaf", Operator)] {
                    if has < least {
                        refused(&desk.send(Some(who), route, own), 403, "forbidden", &what(who));
                    }
                }
            }
        }
        // With the role, and for other scopes.
        for (who, has) in [("oscar", Operator), ("ravi", Risk)] {
            let elsewhere = match at {
                Anywhere => false,
                Firm | Named => has >= least,
            };
            if elsewhere {
                refused(&desk.send(Some(who), route, false), 403, "other-scope", &what(who));
            }
            if elsewhere && at == Firm {
                refused(&desk.send(Some(who), route, true), 403, "other-scope", &what(who));
            }
        }
    }
    // Nothing of it did anything: all that is theirs is still there to be decided on.
    for route in &ROUTES {
        let &(method, path, _, least, at, status) = route;
        let who = match (least, at) {
            (Nobody, _) => None,
            (Viewer, _) => Some("vera"),
            (_, Firm) => Some("rita"),
            (Operator, _) => Some("oscar"),
            (Risk, _) => Some("ravi"),
        };
        let reply = desk.send(who, route, true);
        assert_eq!(reply.status, status, "{method} {path} as {who:?}: {}", reply.body);
    }
}

#[test]
fn what_no_route_takes_is_refused_by_its_path_or_its_method() {
    let daemon = Daemon::start(LIMITS);
    let document = Document::of(&daemon.http);
    let operations = document.operations();
    assert!(operations.len() > 40, "{}", operations.len());
    for (_, path) in &operations {
        let real = path.replace("{kind}", "strategy").replace("{name}", "alpha").replace("{id}", "1");
        for method in ["GET", "POST", "PUT", "DELETE", "PATCH"] {
            let reply = send(&daemon.http, Some("rita"), method, &real, "", None);
            let there = operations.contains(&(method.to_owned(), path.clone()));
            assert_eq!(reply.status != 405, there, "{method} {real}: {}", reply.body);
            if !there {
                assert_eq!(reply.json()["type"], "urn:haltline:problem:method-not-allowed");
                assert!(reply.head.contains("\r\nallow: "), "{}", reply.head);
            }
        }
        let reply = send(&daemon.http, Some("rita"), "GET", &format!("{real}/x/y/z"), "", None);
        assert_eq!((reply.status, &reply.json()["type"]), (404, &json!("urn:haltline:problem:not-found")));
    }
}
