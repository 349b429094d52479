//! Logins with a cookie, and roles that count for some scopes only, over real HTTP.

use std::io::{Read as _, Write as _};

use serde_json::{Value, json};

use super::tests::{ALPHA, Answer, Setup, World, alpha};
use crate::model::{Mode, Scope};

/// The cookie that an answer sets, as a browser sends it back.
fn cookie(answer: &Answer) -> String {
    let set = answer.head.lines().find_map(|line| line.strip_prefix("set-cookie: ")).expect("no cookie");
    set.split(';').next().unwrap().to_owned()
}

fn log_in(world: &World, token: &str) -> Answer {
    let headers = format!("content-type: application/json\r\norigin: http://{}\r\n", world.addr);
    world.send("POST", "/v1/login", &headers, &json!({ "token": token }).to_string())
}

#[test]
fn login_gives_a_cookie_that_no_script_reads_and_that_asks_as_its_owner() {
    let world = World::new(Setup::default());
    let answer = log_in(&world, "token-of-olga");
    assert_eq!(answer.status, 200, "{}", answer.text);
    let me = answer.json();
    assert_eq!((&me["name"], &me["role"], &me["way"]), (&json!("olga"), &json!("operator"), &json!("login")));
    let set = answer.head.lines().find(|line| line.starts_with("set-cookie: ")).unwrap();
    assert!(set.contains(&format!("haltline_{}=", world.addr.port())), "{set}");
    for part in ["; httponly", "; samesite=strict", "; path=/", "; max-age=43200"] {
        assert!(set.contains(part), "{part}: {set}");
    }
    assert!(!set.contains("secure"), "without TLS the browser would not send it back");
    assert!(!answer.text.contains("token-of") && answer.head.contains("cache-control: no-store"));

    let cookie = cookie(&answer);
    let with = |more: &str| format!("cookie: other=1; {cookie}\r\ncontent-type: application/json\r\n{more}");
    assert_eq!(world.send("GET", "/v1/me", &with(""), "").json()["name"], "olga");
    let kill = json!({ "scope": alpha(), "reason": "x" }).to_string();
    world.send("POST", "/v1/kill", &with(""), &kill).problem(403, "header-missing");
    world
        .send("POST", "/v1/kill", &with("x-haltline: 1\r\norigin: http://evil.example\r\n"), &kill)
        .problem(403, "cross-site");
    world
        .send("POST", "/v1/kill", &with("x-haltline: 1\r\nsec-fetch-site: same-site\r\n"), &kill)
        .problem(403, "cross-site");
    assert_eq!(world.mode(ALPHA), Mode::Normal);
    let answer = world.send("POST", "/v1/kill", &with("x-haltline: 1\r\n"), &kill);
    assert_eq!((answer.status, &answer.json()["actor"]), (200, &json!("olga")), "{}", answer.text);
    // A role is a role, whichever way its owner came.
    let rearm = json!({ "scope": alpha(), "epoch": answer.json()["epoch"], "reason": "x" }).to_string();
    world.send("POST", "/v1/rearm", &with("x-haltline: 1\r\n"), &rearm).problem(403, "forbidden");
    // A token that is sent along counts before the cookie.
    world.send("GET", "/v1/me", &with("authorization: Bearer wrong\r\n"), "").problem(401, "unauthorized");

    world.send("POST", "/v1/logout", &with(""), "").problem(403, "header-missing");
    let out = world.send("POST", "/v1/logout", &with("x-haltline: 1\r\n"), "");
    assert!(out.status == 200 && out.head.contains("max-age=0"), "{}", out.head);
    world.send("GET", "/v1/me", &with(""), "").problem(401, "unauthorized");
}

#[test]
fn wrong_token_logs_nobody_in_and_counts_as_a_failure() {
    let world = World::new(Setup::default());
    let seen: Vec<u16> = (0..7).map(|_| log_in(&world, "wrong").status).collect();
    assert_eq!(seen, [401, 401, 401, 401, 401, 429, 429]);
    assert_eq!(log_in(&world, "token-of-olga").status, 200, "a correct one is taken all the same");
    let headers = "content-type: application/json\r\norigin: http://evil.example\r\n";
    let body = json!({ "token": "token-of-olga" }).to_string();
    world.send("POST", "/v1/login", headers, &body).problem(403, "cross-site");
    let headers = "content-type: application/json\r\n";
    for (bad, field) in [(json!({}), "token"), (json!({ "token": 5 }), "token"), (json!({ "token": "x", "a": 1 }), "a")]
    {
        let problem = world.send("POST", "/v1/login", headers, &bad.to_string()).problem(422, "invalid-field");
        assert_eq!(problem["field"], field);
    }
    world.send("POST", "/v1/logout", "authorization: Bearer token-of-olga\r\n", "").problem(409, "no-login");
    assert_eq!(world.get("token-of-olga", "/v1/me").json()["way"], "token");
}

#[test]
fn stream_of_a_login_ends_with_it() {
    let world = World::new(Setup::default());
    let cookie = cookie(&log_in(&world, "token-of-vera"));
    let mut stream = world.connect();
    let head = format!("GET /v1/stream HTTP/1.0\r\nhost: x\r\ncookie: {cookie}\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut status = [0; 12];
    stream.read_exact(&mut status).unwrap();
    assert_eq!(&status, b"HTTP/1.0 200");
    let headers = format!("cookie: {cookie}\r\nx-haltline: 1\r\n");
    assert_eq!(world.send("POST", "/v1/logout", &headers, "").status, 200);
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    let end = rest.rsplit("event: ").next().unwrap();
    assert!(end.starts_with("bye\n") && end.contains("login"), "{end}");
}

#[test]
fn role_for_some_scopes_halts_and_rearms_those_and_no_others() {
    let world = World::new(Setup::default());
    let beta = json!({ "kind": "strategy", "name": "beta" });
    let kill = |token: &str, scope: &Value| world.post(token, "/v1/kill", json!({ "scope": scope, "reason": "x" }));
    let refused = kill("token-of-oscar", &beta).problem(403, "other-scope");
    assert_eq!(refused["scopes"], json!(["strategy alpha"]));
    kill("token-of-oscar", &json!({ "kind": "firm" })).problem(403, "other-scope");
    assert_eq!((world.mode(Scope::Firm), world.mode(ALPHA)), (Mode::Normal, Mode::Normal));
    let receipt = kill("token-of-oscar", &alpha());
    assert_eq!((receipt.status, world.mode(ALPHA)), (200, Mode::Halted));
    let other = kill("token-of-olga", &beta).json();

    let rearm = |scope: &Value, epoch: &Value| {
        world.post("token-of-ravi", "/v1/rearm", json!({ "scope": scope, "epoch": epoch, "reason": "checked" }))
    };
    rearm(&beta, &other["epoch"]).problem(403, "other-scope");
    world.rearmed(&rearm(&alpha(), &receipt.json()["epoch"]));
    assert_eq!(world.mode(ALPHA), Mode::Normal);

    // Nor can they be the second person for what is not theirs.
    let firm = json!({ "kind": "firm" });
    let epoch = kill("token-of-olga", &firm).json()["epoch"].clone();
    let asked = world.post("token-of-rita", "/v1/rearm", json!({ "scope": firm, "epoch": epoch, "reason": "ok" }));
    let path = format!("/v1/rearm/{}/approve", asked.json()["id"].as_str().unwrap());
    world.post("token-of-ravi", &path, json!({ "reason": "ok" })).problem(403, "other-scope");
    assert_eq!(world.mode(Scope::Firm), Mode::Halted);
    world.rearmed(&world.post("token-of-sven", &path, json!({ "reason": "ok" })));
    // The file of limits is of the whole firm; everybody may look at everything.
    world.post("token-of-ravi", "/v1/limits/reload", json!({ "reason": "good" })).problem(403, "other-scope");
    assert_eq!(world.get("token-of-oscar", "/v1/state").status, 200);
    assert_eq!(world.get("token-of-oscar", "/v1/me").json()["scopes"], json!([alpha()]));
}
