//! The OpenAPI document against the router and against real answers.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::schema;
use super::tests::{Setup, World, alpha};

fn document(world: &World) -> Value {
    let answer = world.send("GET", "/v1/openapi.json", "", "");
    assert!(answer.status == 200 && answer.head.contains("content-type: application/json"), "{}", answer.head);
    answer.json()
}

/// Paths that a source file gives to a router by hand, past the document.
fn undocumented() -> Vec<String> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/api");
    let mut found = Vec::new();
    let mut todo = vec![dir];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                todo.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("tests_openapi.rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                found.extend(
                    text.split(".route(\"").skip(1).filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())),
                );
            }
        }
    }
    found
}

#[test]
fn every_endpoint_is_in_the_document_and_the_other_way_round() {
    let world = World::new(Setup::default());
    let document = document(&world);
    assert!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.1")));
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.len() > 25, "{}", paths.len());
    // What is served by hand is a page, not an interface.
    for path in undocumented() {
        let page = path == "/" || path.starts_with("/console") || paths.contains_key(&path);
        assert!(page, "{path} is served, and not in the document: use routes! and #[utoipa::path]");
    }
    for (path, item) in paths {
        for (method, operation) in item.as_object().unwrap() {
            let real = path.replace("{id}", "1").replace("{kind}", "strategy").replace("{name}", "alpha");
            let answer = world.send(&method.to_uppercase(), &real, "", "");
            let there = answer.status != 405 && !answer.text.contains("there is nothing at this path");
            assert!(there, "{method} {path} is in the document, and not served: {}", answer.text);
            assert!(!operation["tags"].as_array().unwrap().is_empty(), "{method} {path}");
            let open = operation["security"].is_null();
            assert_eq!(open, [200, 415, 503].contains(&answer.status), "{method} {path}: {}", answer.status);
            for (status, response) in operation["responses"].as_object().unwrap() {
                assert!(response["description"].as_str().is_some_and(|d| !d.is_empty()), "{method} {path} {status}");
            }
        }
    }
}

#[test]
fn answers_have_the_form_that_the_document_gives_them() {
    fn is<T: DeserializeOwned>(answer: Value) {
        let text = answer.to_string();
        serde_json::from_value::<T>(answer).unwrap_or_else(|error| panic!("{error}: {text}"));
    }
    let world = World::new(Setup::default());
    let get = |path: &str| world.get("token-of-rita", path).json();
    let receipt = world.post("token-of-olga", "/v1/kill", json!({ "scope": alpha(), "reason": "x" })).json();
    let rearm = json!({ "scope": alpha(), "epoch": receipt["epoch"], "reason": "x" });
    is::<schema::Receipt>(receipt);
    is::<schema::State>(get("/v1/state"));
    is::<schema::Kills>(get("/v1/kills"));
    is::<schema::RearmState>(world.post("token-of-rita", "/v1/rearm", rearm).json());
    is::<schema::Rearms>(get("/v1/rearm"));
    is::<schema::Limits>(get("/v1/limits?all=true"));
    is::<schema::Strategies>(get("/v1/strategies"));
    is::<schema::Incidents>(get("/v1/incidents"));
    is::<schema::Alerts>(get("/v1/alerts"));
    is::<schema::Me>(get("/v1/me"));
    is::<schema::Generation>(world.post("token-of-rita", "/v1/limits/reload", json!({ "reason": "good" })).json());
    is::<schema::Problem>(world.get("wrong", "/v1/state").json());
    for body in
        [json!({ "scope": alpha() }), json!({ "scope": { "kind": "firm" }, "mode": "reduce_only", "wait_ms": 0 })]
    {
        is::<schema::Kill>(body);
    }
    assert!(serde_json::from_value::<schema::Kill>(json!({ "scope": alpha(), "x": 1 })).is_err());
}

#[test]
fn reference_page_is_served_from_here_and_fetches_nothing_from_elsewhere() {
    let world = World::new(Setup::default());
    let page = world.send("GET", "/docs/", "", "");
    assert_eq!(page.status, 200, "{}", page.head);
    assert!(page.head.contains("content-security-policy: default-src 'none'"), "{}", page.head);
    let elsewhere = |text: &str| text.contains("src=\"http") || text.contains("href=\"http") || text.contains("//cdn");
    assert!(page.text.contains("swagger-ui") && !elsewhere(&page.text), "{}", page.text);
    let config = world.send("GET", "/docs/swagger-initializer.js", "", "");
    assert!(config.text.contains("/v1/openapi.json") && config.text.contains("\"none\""), "{}", config.text);
}
