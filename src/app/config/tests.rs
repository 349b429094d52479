//! What the configuration takes, what it refuses, and what it says then.

mod edits;
mod limits;
mod reload;
mod violations;

use super::*;
use crate::limits::{
    DuplicateLimit, FanOutLimit, Gauge, ParentRule, RateKind, RateLimit, RateOf, ScopeLimits, SideRule, UNLIMITED,
};
use crate::model::{Action, Rule, Scope, SessionKind, Target};
use crate::units::{InstrumentId, Qty};

const EXAMPLE: &str = include_str!("../../../config/haltline.toml");
const DEMO: &str = include_str!("../../../config/demo.toml");

/// Small and without violations; the cases below change a piece of it.
const SMALL: &str = r#"
[service]
state_dir = "state"
[engine]
idle = "nap"
[ingest]
listen = "127.0.0.1:7401"
[auth]
tokens = [
  { name = "alice", role = "risk", hash = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" },
]
rearm_expiry = "10m"
[currencies.EUR]
rate = "1.08"
max_age = "9s"
[accounts.A]
[strategies.alpha]
account = "A"
[strategies.beta]
account = "A"
instruments = ["BTC"]
[instruments.SHARE]
px_scale = 2
qty_scale = 0
reference = "10.25"
[instruments.BTC]
currency = "EUR"
px_scale = 2
qty_scale = 8
[sessions.gw]
kind = "ask"
strategies = ["alpha"]
token_hash = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
[limits.firm]
gross_exposure = 1_000
[limits.account."*"]
net_long = "12.5"
[limits.strategy."*"]
order_notional = 100
collar = 950
loss_velocity = { max = 10, window = "60s" }
[limits.strategy.beta]
order_qty = "0.5"
[limits.pair."*"]
working_orders = 7
[limits.instrument."*"]
order_qty = 3
[limits.session."*"]
order_rate = { count = 300, per = "1s", action = "halt" }
"#;

fn with(changes: &[(&str, &str)]) -> String {
    let mut text = SMALL.to_owned();
    for (from, to) in changes {
        assert!(text.contains(from), "the text has no {from:?}");
        text = text.replacen(from, to, 1);
    }
    text
}

fn loaded(text: &str) -> Loaded {
    load("test.toml", text).unwrap_or_else(|violations| panic!("{violations}"))
}

fn limits_of(loaded: &Loaded, kind: &str, name: &str) -> ScopeLimits {
    let scope = loaded.universe.scope_named(kind, name).unwrap();
    loaded.limits.scope(&loaded.universe, scope).unwrap().clone()
}

fn assert_same(a: &Loaded, b: &Loaded) {
    let universe = &a.universe;
    for slot in 0..universe.scope_count() {
        assert_eq!(universe.scope_at(slot), b.universe.scope_at(slot));
        assert_eq!(a.limits.at(slot), b.limits.at(slot), "{:?}", universe.scope_at(slot));
    }
    for s in 0..universe.strategies.len() {
        for i in 0..universe.instruments.len() {
            let (s, i) = (StrategyId(s as u16), InstrumentId(i as u32));
            assert_eq!(a.limits.pair(s, i), b.limits.pair(s, i), "{}", universe.scope_name(Scope::Pair(s, i)));
            assert_eq!(a.limits.is_permitted(s, i), b.limits.is_permitted(s, i));
            assert_eq!(a.limits.is_restricted(i), b.limits.is_restricted(i));
            assert_eq!(a.limits.reference_age(i), b.limits.reference_age(i));
        }
    }
    assert_eq!((&a.universe.instruments, &a.universe.currencies), (&b.universe.instruments, &b.universe.currencies));
    assert_eq!((&a.universe.sessions, &a.universe.strategies), (&b.universe.sessions, &b.universe.strategies));
    assert_eq!((&a.service, &a.engine, &a.ingest, &a.http), (&b.service, &b.engine, &b.ingest, &b.http));
    assert_eq!(a.control_socket(), b.control_socket());
    assert_eq!(Local { socket: None, ..a.local.clone() }, Local { socket: None, ..b.local.clone() });
    assert_eq!(a.gate, b.gate);
    assert_eq!((&a.auth, &a.session_tokens), (&b.auth, &b.session_tokens));
}

#[test]
fn the_example_and_the_demo_load_without_a_note() {
    for (name, text) in [("haltline.toml", EXAMPLE), ("demo.toml", DEMO)] {
        let loaded = load(name, text).unwrap_or_else(|violations| panic!("{violations}"));
        assert_eq!(loaded.notes, [], "{name}");
    }
}

#[test]
fn the_example_shows_every_limit() {
    let (_, limits) = EXAMPLE.split_once("\n[limits.firm]").unwrap();
    for rule in Rule::ALL {
        let possible = ScopeKind::ALL.into_iter().any(|kind| crate::model::rule::applies(rule, kind));
        let shown = limits.lines().any(|line| line.starts_with(rule.name()));
        assert_eq!(shown, possible, "{}", rule.name());
    }
}

#[test]
fn the_demo_has_eight_routers_a_price_source_and_154_symbols() {
    let demo = loaded(DEMO);
    let universe = &demo.universe;
    assert_eq!((universe.instruments.len(), universe.sessions.len()), (154, 10));
    assert!(universe.instrument("S000").is_some() && universe.instrument("S153").is_some());
    for n in 1..=8 {
        let session = universe.session(&format!("smars-{n}")).unwrap();
        let spec = &universe.sessions[usize::from(session.0)];
        let strategy = &universe.strategies[usize::from(spec.strategies[0].0)];
        let account = &universe.accounts[usize::from(strategy.account.0)].name;
        assert_eq!(spec.kind, SessionKind::Ask);
        assert_eq!(account, if n == 8 { "33" } else { "customers" });
    }
    let prices = universe.session("market-data").unwrap();
    assert_eq!(universe.sessions[usize::from(prices.0)].kind, SessionKind::Reference);
    let orders = universe.session("oms").unwrap();
    assert_eq!(universe.sessions[usize::from(orders.0)].kind, SessionKind::Orders);
    let [rlp, smars] = ["rlp", "smars"].map(|name| demo.limits.parents(universe.strategy(name).unwrap()));
    assert_eq!((rlp, smars), (ParentRule::Ignored, ParentRule::Required));
    assert_eq!(limits_of(&demo, "account", "33").suspense, 2_000_000 * 10_000);
    assert_eq!(limits_of(&demo, "account", "customers").suspense, UNLIMITED);
    assert!(demo.session_tokens.iter().all(Option::is_none));
    let session = limits_of(&demo, "session", "smars-8");
    let halt = Action::Halt(Target::Own);
    let rate =
        RateLimit { of: RateOf::Orders, kind: RateKind::Sliding, count: 300, window_ns: 1_000_000_000, action: halt };
    assert!(session.rates.contains(&rate));
    let firm = limits_of(&demo, "firm", "");
    assert_eq!(firm.of(Gauge::Gross), 50_000_000 * 10_000);
    assert_eq!(firm.action[Rule::GrossExposure as usize], halt);
    assert_eq!(limits_of(&demo, "strategy", "smars").collar, 950);
}

#[test]
fn more_than_the_universe_holds_is_refused_before_it_is_made() {
    let series = "[instrument_series]\nprefix = \"S\"\ncount = 1048576\npx_scale = 2\nqty_scale = 0\n";
    let fields =
        |text: &str| -> Vec<String> { load("t", text).unwrap_err().list.iter().map(|v| v.field.clone()).collect() };
    assert_eq!(fields(&format!("{SMALL}{series}")), ["instrument_series"]);
    let mut text = format!("{SMALL}{}", series.replace("1048576", "1000000"));
    for n in 0..300 {
        text.push_str(&format!("[strategies.s{n}]\naccount = \"A\"\n"));
    }
    assert_eq!(fields(&text), ["strategies"]);
}

#[test]
fn instruments_take_what_they_do_not_say_from_the_defaults() {
    let text = with(&[
        (
            "[instruments.SHARE]\npx_scale = 2",
            "[instrument_defaults]\npx_scale = 3\nqty_scale = 1\nmultiplier = \"50\"\naverage_daily_volume = \"1.5\"\n\
             reference_max_age = \"unlimited\"\n[instruments.SHARE]\nrestricted = true",
        ),
        ("qty_scale = 0", ""),
    ]);
    let loaded = loaded(&text);
    let id = loaded.universe.instrument("SHARE").unwrap();
    let share = &loaded.universe.instruments[id.0 as usize];
    assert_eq!((share.px_scale, share.qty_scale, share.multiplier), (3, 1, (50, 0)));
    assert_eq!((share.average_daily_volume, share.initial_reference), (Some(Qty(15)), Some(Px(10_250))));
    assert_eq!((loaded.limits.reference_age(id), loaded.limits.is_restricted(id)), (u64::MAX, true));
    let btc = &loaded.universe.instruments[loaded.universe.instrument("BTC").unwrap().0 as usize];
    assert_eq!((btc.px_scale, btc.qty_scale), (2, 8));
}

#[test]
fn notes_tell_what_is_left_at_zero() {
    let loaded = loaded(SMALL);
    let note = loaded.notes.iter().find(|n| n.field == "limits.firm").unwrap();
    assert!(note.text.starts_with("not set, so zero: order_qty, order_notional,"), "{}", note.text);
    assert!(!note.text.contains("gross_exposure"), "{}", note.text);
    assert!(loaded.notes.iter().any(|n| n.text.contains("one person has the role risk")));
}

#[test]
fn what_is_said_of_many_places_is_one_note() {
    let mut text = SMALL.to_owned();
    for n in 0..5 {
        text.push_str(&format!("[strategies.s{n}]\naccount = \"A\"\n[limits.strategy.s{n}]\nnet_long = 1\n"));
    }
    let fields: Vec<_> =
        loaded(&text).notes.into_iter().map(|n| n.field).filter(|f| f.starts_with("limits.strategy.s")).collect();
    assert_eq!(fields, ["limits.strategy.s0 and 4 more"]);
}

#[test]
fn the_effective_configuration_means_the_same() {
    for text in [EXAMPLE, DEMO, SMALL] {
        let before = loaded(text);
        let printed = effective("t", text).unwrap();
        let after = load("printed.toml", &printed).unwrap_or_else(|violations| panic!("{violations}"));
        assert_same(&before, &after);
        assert_eq!(effective("t", &printed).unwrap(), printed);
    }
}

#[test]
fn the_local_socket_is_in_the_state_directory_unless_said_otherwise() {
    assert_eq!(loaded(SMALL).control_socket(), Path::new("state/control.sock"));
    let text = with(&[(
        "[ingest]",
        "[local]\nsocket = \"/run/h/s\"\ngroup = \"1001\"\nkill_file = \"/run/h/KILL\"\n\
         [[local.operators]]\nuid = 1001\nname = \"alice\"\nrole = \"risk\"\n[ingest]",
    )]);
    let local = loaded(&text).local;
    assert_eq!(local.group, Some(Group::Gid(1001)));
    assert_eq!(
        local.operators,
        [LocalOperator { uid: 1001, name: "alice".into(), role: Role::Risk, scopes: Scopes::EVERYTHING }]
    );
    let printed = loaded(&effective("t", &text).unwrap());
    assert_eq!(printed.local, local);
    // Alice with a token and Alice at this machine are one person, and the firm takes two.
    assert!(loaded(&text).notes.iter().any(|note| note.text.contains("cannot be re-armed")));
    let two = loaded(&text.replace("name = \"alice\"\nrole", "name = \"bob\"\nrole"));
    assert!(!two.notes.iter().any(|note| note.text.contains("cannot be re-armed")));
}

#[test]
fn doors_are_found_in_a_file_whose_limits_are_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.toml");
    let doors_of = |text: &str| {
        std::fs::write(&file, text).unwrap();
        doors(&file)
    };
    let wrong = with(&[("gross_exposure = 1_000", "gross_exposure = -1"), ("[accounts.A]", "[acounts.A]")]);
    assert!(load("t", &wrong).is_err());
    let found = doors_of(&wrong).unwrap();
    assert_eq!(found.socket.as_deref(), Some(Path::new("state/control.sock")));
    assert_eq!((found.http, found.kill_file), (Some(Http::default().listen), None));
    let all = "[local]\nsocket = \"s\"\nkill_file = \"K\"\n[http]\nlisten = \"127.0.0.1:9\"";
    let found = doors_of(all).unwrap();
    assert_eq!((found.socket, found.kill_file), (Some("s".into()), Some("K".into())));
    assert_eq!(found.http, Some("127.0.0.1:9".parse().unwrap()));
    assert_eq!((found.page, doors_of("[http]\nlisten = 5").unwrap().socket), (None, None));
    let found = doors_of("[gate]\ndir = \"/dev/shm/h\"").unwrap();
    assert_eq!(found.page.as_deref(), Some(Path::new("/dev/shm/h/page")));
    let service = loaded(&with(&[("[ingest]", "[gate]\n[ingest]")]));
    let page = Gate::page(&service.gate.unwrap().dir(&service.service.state_dir));
    assert_eq!(doors_of(&with(&[("[ingest]", "[gate]\n[ingest]")])).unwrap().page, Some(page));
    assert!(doors_of("[http").unwrap_err().contains("is not TOML"));
    assert!(doors(&dir.path().join("none")).unwrap_err().contains("cannot read"));
}

#[test]
fn tokens_may_be_missing_only_where_they_come_at_run_time() {
    let text = with(&[("[auth]", "[auth]\ntokens_at_runtime = true"), ("token_hash", "# token_hash")]);
    assert_eq!(loaded(&text).session_tokens, [None]);
}

#[test]
fn an_unreadable_file_is_told_apart_from_a_wrong_one() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(read(&dir.path().join("none.toml")), Err(ConfigError::Read { .. })));
    let file = dir.path().join("wrong.toml");
    std::fs::write(&file, "x = 1").unwrap();
    match read(&file) {
        Err(ConfigError::Invalid(violations)) => assert!(violations.file.ends_with("wrong.toml")),
        other => panic!("{other:?}"),
    }
}
