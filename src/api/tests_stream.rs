//! The stream over real HTTP: what a page is told, and what happens to one that does not listen.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

use super::ApiOptions;
use super::tests::{ALPHA, Answer, LONG, Setup, World, alpha, patient};
use crate::engine::published::ScopeView;
use crate::kill::switch::Stop;
use crate::kill::testing::universe_of;
use crate::limits::{Gauge, LimitTable, MAX_RATES};
use crate::model::{Mode, Scope};
use crate::units::StrategyId;

/// A client of the stream. HTTP/1.0, so that the body is what is on the wire.
struct Events(BufReader<TcpStream>);

impl Events {
    fn open(world: &World, token: &str) -> Events {
        let mut stream = world.connect();
        let head = format!("GET /v1/stream HTTP/1.0\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut events = Events(BufReader::new(stream));
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(events.0.read_line(&mut head).unwrap() > 0, "{head}");
        }
        let head = head.to_ascii_lowercase();
        assert!(head.starts_with("http/1.0 200") && head.contains("content-type: text/event-stream"), "{head}");
        events
    }

    /// The next event: its name, its id, its data.
    fn next(&mut self) -> (String, Option<u64>, Value) {
        let (mut name, mut id, mut data) = (String::new(), None, Value::Null);
        loop {
            let mut line = String::new();
            assert!(self.0.read_line(&mut line).unwrap() > 0, "the stream ended");
            match line.trim_end().split_once(": ") {
                Some(("event", value)) => name = value.to_owned(),
                Some(("id", value)) => id = value.parse().ok(),
                Some(("data", value)) => data = serde_json::from_str(value).unwrap(),
                Some(("retry", _)) => {}
                Some(other) => panic!("{other:?}"),
                None if name.is_empty() => {}
                None => return (name, id, data),
            }
        }
    }

    fn first(&mut self) -> Value {
        let (name, id, data) = self.next();
        assert_eq!((name.as_str(), id), ("state", data["seq"].as_u64()));
        data
    }

    /// Deltas up to the one that `is` it; none is missing.
    fn until(&mut self, after: &Value, is: impl Fn(&Value) -> bool) -> Value {
        let mut last = after["seq"].as_u64().unwrap();
        loop {
            let (name, id, data) = self.next();
            assert_eq!((name.as_str(), id), ("delta", Some(last + 1)));
            last += 1;
            if is(&data) {
                return data;
            }
        }
    }
}

fn rows<'a>(data: &'a Value, key: &str) -> &'a [Value] {
    data[key].as_array().map_or(&[], Vec::as_slice)
}

fn quick() -> ApiOptions {
    ApiOptions { stream_every: Duration::from_millis(1), ..patient() }
}

#[test]
fn stream_begins_with_everything_and_goes_on_with_what_changed() {
    let world = World::new(Setup::default());
    let mut events = Events::open(&world, "token-of-vera");
    let first = events.first();
    let names: Vec<&str> = rows(&first, "scopes").iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names.iter().filter(|n| ["", "main", "alpha", "beta"].contains(n)).count(), 4, "{names:?}");
    assert!(!names.contains(&"ES"), "an instrument that nobody uses is not listed: {names:?}");
    assert_eq!(rows(&first, "sessions").len(), 3);
    for part in ["mode", "halts", "totals", "latch", "journal", "alerts", "flow", "limits_generation"] {
        assert!(!first["state"][part].is_null(), "{part}: {first}");
    }

    world.post("token-of-olga", "/v1/kill", json!({ "scope": alpha(), "reason": "x" }));
    let mut delta = events.until(&first, |delta| rows(delta, "scopes").iter().any(|row| row["name"] == "alpha"));
    let row = &rows(&delta, "scopes")[0];
    assert_eq!((&row["mode"], &row["in_force"]), (&json!("halted"), &json!("halted")));
    assert!(row["epoch"].as_u64() > Some(0));
    assert_eq!(rows(&delta, "scopes").len(), 1, "nothing else changed: {delta}");
    assert!(delta["set"]["journal"].is_null() && delta["set"]["alerts"].is_null(), "{delta}");
    // The halt is listed in the same event or, if its cause was recorded later, in one soon after.
    if delta["set"]["halts"].is_null() {
        delta = events.until(&delta, |delta| delta["set"]["halts"][0]["scope"] == alpha());
    }

    world.switch.board().cell(0).unwrap().set_connected(true);
    let told = events.until(&delta, |delta| !rows(delta, "sessions").is_empty());
    assert_eq!(rows(&told, "sessions").len(), 1);
    assert_eq!(rows(&told, "sessions")[0]["name"], "gw-1");
}

#[test]
fn halt_of_the_firm_shows_at_what_it_is_in_force_for() {
    let world = World::new(Setup::default());
    let mut events = Events::open(&world, "token-of-vera");
    let first = events.first();
    world.switch.press(Scope::Firm, Stop::ReduceOnly, "olga", "x", world.clock.now()).unwrap();
    let delta = events.until(&first, |delta| rows(delta, "scopes").iter().any(|row| row["name"] == "alpha"));
    let row = rows(&delta, "scopes").iter().find(|row| row["name"] == "alpha").unwrap();
    assert_eq!((&row["mode"], &row["in_force"]), (&json!("normal"), &json!("reduce_only")));
}

#[test]
fn stream_says_that_the_engine_stands_still_and_goes_on_saying_it() {
    let world = World::new(Setup { engine: false, ..Setup::default() });
    let mut events = Events::open(&world, "token-of-vera");
    let first = events.first();
    assert_eq!((&first["engine"]["stale"], &first["engine"]["last_round_age_ns"]), (&json!(true), &Value::Null));
    // A round so late that it is not old before it is looked at, however long that takes; then the last one is one of now.
    world.published.last_round.set(world.clock.now().mono.0 + LONG.as_nanos() as u64);
    let moved = events.until(&first, |delta| delta["engine"]["stale"] == false);
    world.published.last_round.set(world.clock.now().mono.0);
    let still = events.until(&moved, |delta| delta["engine"]["stale"] == true);
    assert!(still["engine"]["last_round_age_ns"].as_u64() > Some(1_000_000_000), "{still}");
    // With nothing to tell there is an event all the same.
    events.until(&still, |delta| delta["set"].is_null());
}

#[test]
fn one_strategy_of_a_thousand_that_changes_is_all_that_is_sent() {
    let world = World::new(Setup { universe: universe_of(1_000, 2), engine: false, ..Setup::default() });
    let universe = world.switch.universe();
    let mut table = LimitTable::unlimited(universe);
    for n in 0..1_000 {
        table.edit(universe, Scope::Strategy(StrategyId(n))).max[Gauge::Working as usize] = 50;
    }
    *world.limits.write().unwrap() = std::sync::Arc::new(table);
    let mut events = Events::open(&world, "token-of-vera");
    let first = events.first();
    assert!(rows(&first, "scopes").len() > 1_000);
    let slot = universe.slot(Scope::Strategy(StrategyId(700))).unwrap();
    let mut view = ScopeView { gauges: [0; Gauge::COUNT], rates: [0; MAX_RATES], mode: Mode::Normal };
    view.gauges[Gauge::Working as usize] = 45;
    world.published.show(slot, &view);
    let delta = events.until(&first, |delta| !rows(delta, "scopes").is_empty());
    assert_eq!(rows(&delta, "scopes").len(), 1);
    let row = &rows(&delta, "scopes")[0];
    assert_eq!((&row["name"], &row["working"], &row["warned"]), (&json!("s700"), &json!(45), &json!(90)));
    assert_eq!(
        (&row["worst"]["rule"], &row["worst"]["percent"], &row["worst"]["limit"]),
        (&json!("working_orders"), &json!(90.0), &json!("50"))
    );
    assert!(delta.to_string().len() < 1_000, "{delta}");

    // An instrument is listed while it is used, and taken away after.
    let es = universe.slot(universe.scope_named("instrument", "ES").unwrap()).unwrap();
    world.published.show(es, &view);
    let listed = events.until(&delta, |delta| rows(delta, "scopes").iter().any(|row| row["name"] == "ES"));
    view.gauges = [0; Gauge::COUNT];
    world.published.show(es, &view);
    let gone = events.until(&listed, |delta| !rows(delta, "gone").is_empty());
    assert_eq!(gone["gone"], json!([{ "kind": "instrument", "name": "ES" }]));
}

#[test]
fn streams_have_places_of_their_own_and_a_caller_has_eight() {
    let world = World::new(Setup { options: ApiOptions { streams: 9, ..quick() }, ..Setup::default() });
    let mut open: Vec<Events> = (0..8).map(|_| Events::open(&world, "token-of-vera")).collect();
    world.get("token-of-vera", "/v1/stream").problem(503, "too-many-streams");
    open.push(Events::open(&world, "token-of-olga"));
    world.get("token-of-rita", "/v1/stream").problem(503, "too-many-streams");
    assert_eq!(world.get("token-of-rita", "/v1/state").status, 200);
    drop(open);
    world.until("the places are free", || {
        let mut stream = world.connect();
        let head = "GET /v1/stream HTTP/1.0\r\nhost: x\r\nauthorization: Bearer token-of-vera\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        let mut status = [0; 12];
        stream.read_exact(&mut status).unwrap();
        &status == b"HTTP/1.0 200"
    });
    world.get("nobody", "/v1/stream").problem(401, "unauthorized");
}

/// A world in which each event of the stream can be made to have hundreds of kilobytes: no socket holds many of them.
struct Loud {
    world: World,
    working: i64,
}

impl Loud {
    fn new(options: ApiOptions) -> Loud {
        let setup = Setup { universe: universe_of(1_000, 2), engine: false, options, ..Setup::default() };
        Loud { world: World::new(setup), working: 0 }
    }

    /// Every strategy changes; returns the event that says so.
    fn change(&mut self, healthy: &mut Events, last: &Value) -> Value {
        self.working += 1;
        let mut view = ScopeView { gauges: [0; Gauge::COUNT], rates: [0; MAX_RATES], mode: Mode::Normal };
        view.gauges[Gauge::Working as usize] = self.working;
        let universe = self.world.switch.universe();
        for n in 0..1_000 {
            self.world.published.show(universe.slot(Scope::Strategy(StrategyId(n))).unwrap(), &view);
        }
        let (name, working) = (universe.scope_name(Scope::Strategy(StrategyId(999))), json!(self.working));
        let is_last = |row: &Value| row["name"] == *name && row["working"] == working;
        healthy.until(last, |delta| rows(delta, "scopes").iter().any(is_last))
    }
}

#[test]
fn client_that_does_not_read_is_cut_off_and_its_place_is_free_again() {
    let options = ApiOptions { stream_patience: Duration::from_millis(50), streams: 2, ..quick() };
    let mut loud = Loud::new(options);
    let mut silent = Events::open(&loud.world, "token-of-vera");
    let mut healthy = Events::open(&loud.world, "token-of-olga");
    let mut last = healthy.first();
    for _ in 0..100 {
        last = loud.change(&mut healthy, &last);
    }
    let mut rest = Vec::new();
    // The end comes from the server: a read that gave up by itself would be an error of another kind.
    match silent.0.read_to_end(&mut rest) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
    assert!(rest.len() < 40 << 20, "what is kept for a client is bounded");
    // The one that reads has lost nothing.
    loud.change(&mut healthy, &last);
    let world = &loud.world;
    world.until("the place is free", || {
        let mut stream = world.connect();
        let head = "GET /v1/stream HTTP/1.0\r\nhost: x\r\nauthorization: Bearer token-of-vera\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        let mut status = [0; 12];
        stream.read_exact(&mut status).unwrap();
        &status == b"HTTP/1.0 200"
    });
}

#[test]
fn client_that_reads_too_slowly_is_told() {
    let mut loud = Loud::new(quick());
    let mut slow = Events::open(&loud.world, "token-of-vera");
    let mut healthy = Events::open(&loud.world, "token-of-olga");
    let mut last = healthy.first();
    for _ in 0..100 {
        last = loud.change(&mut healthy, &last);
    }
    let mut rest = String::new();
    slow.0.read_to_string(&mut rest).unwrap();
    let end = rest.rsplit("event: ").next().unwrap();
    assert!(end.starts_with("cut\n") && end.contains("\"missed\":"), "{end}");
}

#[test]
fn stop_ends_streams_at_once_and_says_so() {
    let world = World::new(Setup { options: ApiOptions { drain: LONG, ..patient() }, ..Setup::default() });
    let mut events = Events::open(&world, "token-of-vera");
    events.first();
    world.stop_api.send(true).unwrap();
    let mut rest = String::new();
    events.0.read_to_string(&mut rest).unwrap();
    assert!(rest.rsplit("event: ").next().unwrap().starts_with("bye\n"), "{rest}");
}

#[test]
fn flood_of_connections_takes_neither_the_stream_nor_the_kill_away() {
    let options = ApiOptions { connections: 3, reserved: 2, ..quick() };
    let world = World::new(Setup { options, ..Setup::default() });
    let mut events = Events::open(&world, "token-of-vera");
    let first = events.first();
    let flood: Vec<TcpStream> = (0..40).map(|_| world.connect()).collect();
    let kill = world.post("token-of-olga", "/v1/kill", json!({ "scope": alpha(), "wait_ms": 0 }));
    assert_eq!(kill.status, 200, "{}", kill.text);
    assert_eq!(world.mode(ALPHA), Mode::Halted);
    events.until(&first, |delta| rows(delta, "scopes").iter().any(|row| row["mode"] == "halted"));
    drop(flood);
}

#[test]
fn stream_takes_no_parameters() {
    let world = World::new(Setup::default());
    let answer: Answer = world.get("token-of-vera", "/v1/stream?x=1");
    answer.problem(422, "invalid-field");
}
