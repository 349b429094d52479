//! Limits as they are written, and what they mean.

use super::*;

#[test]
fn amounts_are_turned_into_the_units_of_their_rule() {
    let loaded = loaded(&with(&[(
        "[limits.session.\"*\"]",
        "[limits.session.\"*\"]\nheartbeat_loss = \"5s\"\nclock_skew = { max = \"2ms\" }",
    )]));
    assert_eq!(limits_of(&loaded, "firm", "").of(Gauge::Gross), 1_000 * 10_000);
    assert_eq!(limits_of(&loaded, "account", "A").of(Gauge::NetLong), 125_000);
    let alpha = limits_of(&loaded, "strategy", "alpha");
    assert_eq!((alpha.collar, alpha.order_notional), (950, 1_000_000));
    assert_eq!((alpha.of(Gauge::LossVelocity), alpha.loss_window_ns), (100_000, 60_000_000_000));
    // Beta trades nothing but BTC, so its quantity is in satoshi.
    assert_eq!(limits_of(&loaded, "strategy", "beta").order_qty, 50_000_000);
    assert_eq!(limits_of(&loaded, "instrument", "SHARE").order_qty, 3);
    assert_eq!(limits_of(&loaded, "instrument", "BTC").order_qty, 300_000_000);
    let session = limits_of(&loaded, "session", "gw");
    assert_eq!((session.heartbeat_ns, session.clock_skew_ns), (5_000_000_000, 2_000_000));
    let share = &loaded.universe.instruments[loaded.universe.instrument("SHARE").unwrap().0 as usize];
    assert_eq!((share.initial_reference, share.average_daily_volume), (Some(Px(1025)), None));
    let eur = loaded.universe.currency("EUR").unwrap();
    assert_eq!(loaded.universe.currencies[usize::from(eur.0)].initial_rate, Some(Px(10_800_000_000)));
    assert_eq!(loaded.limits.fx_age(eur), 9_000_000_000);
    assert_eq!(loaded.limits.reference_age(InstrumentId(0)), 5_000_000_000);
}

#[test]
fn a_percentage_and_basis_points_mean_the_same() {
    let loaded = loaded(&with(&[("collar = 950", "collar = \"9.5%\"\norder_participation = \"0.01%\"")]));
    let alpha = limits_of(&loaded, "strategy", "alpha");
    assert_eq!((alpha.collar, alpha.order_participation), (950, 1));
}

#[test]
fn what_is_not_set_is_zero() {
    let loaded = loaded(SMALL);
    let firm = limits_of(&loaded, "firm", "");
    let mut expected = ScopeLimits::closed(ScopeKind::Firm);
    expected.max[Gauge::Gross as usize] = 10_000_000;
    assert_eq!(firm, expected);
    assert_eq!((firm.of(Gauge::NetLong), firm.order_qty, firm.collar), (0, 0, 0));
    assert!(firm.rates.iter().any(|rate| rate.of == RateOf::Orders && rate.count == 0));
    // A kind without any table is closed altogether.
    let text = with(&[("[limits.session.\"*\"]\norder_rate = { count = 300, per = \"1s\", action = \"halt\" }", "")]);
    let session = limits_of(&super::load("t", &text).unwrap(), "session", "gw");
    assert_eq!(session, ScopeLimits::closed(ScopeKind::Session));
}

#[test]
fn a_rate_that_is_set_takes_the_place_of_its_zero_and_of_no_other() {
    let session = limits_of(&loaded(SMALL), "session", "gw");
    let counts = |of| session.rates.iter().filter(|r| r.of == of).map(|r| r.count).collect::<Vec<_>>();
    assert_eq!(counts(RateOf::Orders), [300]);
    assert_eq!(counts(RateOf::Messages), [0]);
    let text = with(&[("{ count = 300, per = \"1s\", action = \"halt\" }", "\"unlimited\"")]);
    let session = limits_of(&loaded(&text), "session", "gw");
    assert!(session.rates.iter().all(|rate| rate.of != RateOf::Orders));
}

#[test]
fn others_unlimited_opens_what_no_table_names_and_nothing_else() {
    let text = with(&[("[limits.strategy.beta]", "[limits.strategy.beta]\nothers = \"unlimited\"\nnet_long = 0")]);
    let loaded = loaded(&text);
    let beta = limits_of(&loaded, "strategy", "beta");
    assert_eq!((beta.of(Gauge::Gross), beta.of(Gauge::Working), beta.of(Gauge::NetLong)), (UNLIMITED, UNLIMITED, 0));
    assert_eq!((beta.duplicate, beta.rates.len()), (None, 0));
    // What "*" names still holds.
    assert_eq!((beta.collar, beta.order_notional), (950, 1_000_000));
    let alpha = limits_of(&loaded, "strategy", "alpha");
    assert_eq!(alpha.of(Gauge::Working), 0);
}

#[test]
fn a_named_table_changes_only_what_it_states() {
    let text = with(&[
        (
            "order_notional = 100",
            "order_notional = { max = 100, action = \"halt\", warn = [10] }\nsides = \"no_short\"",
        ),
        ("[limits.strategy.beta]", "[limits.strategy.beta]\norder_notional = 7"),
    ]);
    let beta = limits_of(&loaded(&text), "strategy", "beta");
    let rule = Rule::OrderNotional as usize;
    assert_eq!((beta.order_notional, beta.action[rule]), (70_000, Action::Halt(Target::Own)));
    assert_eq!((beta.warn[rule], beta.sides), ([10, 0, 0, 0, 0], SideRule::LongOnly));
}

#[test]
fn what_is_mandatory_is_read_inherited_printed_and_noted_where_nothing_limits_it() {
    let text = with(&[
        ("[limits.firm]", "[limits.firm]\nmandatory = [\"collar\", \"fan_out\"]"),
        ("order_notional = 100", "order_notional = 100\nmandatory = [\"children\"]"),
        ("[limits.strategy.beta]", "[limits.strategy.beta]\nmandatory = []"),
    ]);
    let made = loaded(&text);
    let bits = |rules: &[Rule]| rules.iter().fold(0, |bits, rule| bits | 1u64 << *rule as u64);
    let of = |loaded: &Loaded, kind, name| limits_of(loaded, kind, name).demanded;
    for loaded in [&made, &loaded(&effective("t", &text).unwrap())] {
        assert_eq!(of(loaded, "firm", ""), bits(&[Rule::Collar, Rule::FanOut]));
        assert_eq!(of(loaded, "strategy", "alpha"), bits(&[Rule::Children]));
        assert_eq!(of(loaded, "strategy", "beta"), 0, "a list that is written is the list");
    }
    let noted = |loaded: &Loaded| {
        let of_strategy = |note: &&Note| note.text.contains("mandatory");
        loaded.notes.iter().filter(of_strategy).map(|n| format!("{}: {}", n.field, n.text)).collect::<Vec<_>>()
    };
    // Nothing is held to parents here, so what counts children cannot run.
    assert!(noted(&made).iter().any(|n| n.starts_with("strategies.alpha: children mandatory")), "{:?}", made.notes);
    assert!(!noted(&made).iter().any(|n| n.contains("collar")), "it is limited: {:?}", made.notes);
    assert_eq!(noted(&loaded(&with(&[]))), [""; 0]);
}

#[test]
fn the_most_specific_pair_table_counts() {
    let text = with(&[(
        "[limits.instrument.\"*\"]",
        "[limits.pair.\"*/SHARE\"]\nworking_orders = 8\n[limits.pair.\"alpha/*\"]\nworking_orders = 9\n\
         [limits.pair.\"beta/BTC\"]\norder_qty = 1\n[limits.pair.\"alpha/BTC\"]\norder_qty = 2\n\
         [limits.instrument.\"*\"]",
    )]);
    let loaded = loaded(&text);
    let working = |pair| limits_of(&loaded, "pair", pair).of(Gauge::Working);
    assert_eq!(working("beta/SHARE"), 8);
    assert_eq!(working("alpha/SHARE"), 9);
    assert_eq!(working("alpha/BTC"), 9);
    // A pair's own table starts from the one that would count without it, and changes the quantity.
    assert_eq!(working("beta/BTC"), 7);
    let qty = |pair| limits_of(&loaded, "pair", pair).order_qty;
    assert_eq!((qty("beta/BTC"), qty("alpha/BTC"), qty("alpha/SHARE")), (100_000_000, 200_000_000, 0));
    let note = loaded.notes.iter().find(|n| n.field == "limits.pair.\"alpha/*\"" && n.text.contains("*/SHARE"));
    assert!(note.is_some(), "{:?}", loaded.notes);
}

#[test]
fn one_quantity_for_all_pairs_is_counted_in_each_instruments_unit() {
    let text = with(&[
        ("working_orders = 7", "position_long = 5"),
        ("[limits.instrument.\"*\"]", "[limits.pair.\"alpha/*\"]\nposition_long = 6\n[limits.instrument.\"*\"]"),
    ]);
    let loaded = loaded(&text);
    let long = |pair| limits_of(&loaded, "pair", pair).of(Gauge::PositionLong);
    assert_eq!((long("beta/SHARE"), long("beta/BTC")), (5, 500_000_000));
    assert_eq!((long("alpha/SHARE"), long("alpha/BTC")), (6, 600_000_000));
}

#[test]
fn every_way_to_write_a_limit_is_understood() {
    let loaded = loaded(&with(&[
        (
            "{ count = 300, per = \"1s\", action = \"halt\" }",
            "[{ count = 5, per = \"1s\" }, \
             { count = 60, per = \"1m\", kind = \"gcra\", burst = 20, action = \"halt:strategy\" }]",
        ),
        (
            "order_notional = 100",
            "duplicate_order = { count = 1, window = \"2s\", action = \"reduce_only:account\" }\nsides = \"sell_only\"",
        ),
        (
            "[limits.session.\"*\"]",
            "[limits.session.\"*\"]\nstream_gap = { action = \"halt\" }\nclock_skew = \"unlimited\"",
        ),
    ]));
    let session = limits_of(&loaded, "session", "gw");
    let orders: Vec<RateLimit> = session.rates.iter().filter(|r| r.of == RateOf::Orders).copied().collect();
    let of = RateOf::Orders;
    assert_eq!(
        orders,
        [
            RateLimit { of, kind: RateKind::Sliding, count: 5, window_ns: 1_000_000_000, action: Action::Deny },
            RateLimit {
                of,
                kind: RateKind::Gcra { burst: 20 },
                count: 60,
                window_ns: 60_000_000_000,
                action: Action::Halt(Target::Strategy)
            },
        ]
    );
    assert_eq!(session.action[Rule::StreamGap as usize], Action::Halt(Target::Own));
    assert_eq!(session.clock_skew_ns, UNLIMITED);
    let alpha = limits_of(&loaded, "strategy", "alpha");
    assert_eq!(alpha.duplicate, Some(DuplicateLimit { count: 1, window_ns: 2_000_000_000 }));
    assert_eq!(alpha.action[Rule::DuplicateOrder as usize], Action::ReduceOnly(Target::Account));
    assert_eq!(alpha.sides, SideRule::SellOnly);
}

#[test]
fn sliding_rates_of_all_scopes_share_a_memory_bound() {
    let text = format!(
        "{}[limits.instrument.S0]\norder_qty = 1\n\
         [instrument_series]\nprefix = \"S\"\ncount = 700\npx_scale = 2\nqty_scale = 0\n",
        with(&[("order_qty = 3", "order_rate = { count = 100_000, per = \"1s\" }")])
    );
    let violations = load("test.toml", &text).unwrap_err();
    let found: Vec<_> = violations.list.iter().map(|v| (&*v.field, v.rule.contains("more than 512"))).collect();
    assert_eq!(found, [("limits.instrument.\"*\".order_rate", true)]);
}

/// A session that sends parents of every strategy.
const OMS: &str = "[sessions.oms]\nkind = \"orders\"\n";

fn with_oms(more: &str) -> String {
    let token = "token_hash = \"1111111111111111111111111111111111111111111111111111111111111111\"\n";
    format!("{OMS}{token}{more}\n{SMALL}")
}

#[test]
fn orders_are_held_to_parents_where_parents_are_sent_unless_it_says_otherwise() {
    let rules = |text: &str| {
        let loaded = loaded(text);
        ["alpha", "beta"].map(|name| loaded.limits.parents(loaded.universe.strategy(name).unwrap()))
    };
    assert_eq!(rules(SMALL), [ParentRule::Ignored; 2]);
    assert_eq!(rules(&with_oms("")), [ParentRule::Required; 2]);
    assert_eq!(rules(&with_oms("strategies = [\"beta\"]")), [ParentRule::Ignored, ParentRule::Required]);
    let checked = with_oms("").replace("[strategies.beta]", "[strategies.beta]\nparents = \"checked\"");
    assert_eq!(rules(&checked), [ParentRule::Required, ParentRule::Checked]);
    // Nobody could ever name a parent, so every order would be denied.
    let violations = super::load("t", &with(&[("[strategies.beta]", "[strategies.beta]\nparents = \"required\"")]));
    let told = violations.unwrap_err().to_string();
    assert!(told.contains("strategies.beta.parents") && told.contains("no session of kind"), "{told}");
}

#[test]
fn a_breach_of_what_a_parent_allows_halts_the_instance_unless_it_says_otherwise() {
    let alpha = |limit: &str| {
        let text = with_oms("").replace("[limits.strategy.\"*\"]", &format!("[limits.strategy.\"*\"]\n{limit}"));
        limits_of(&loaded(&text), "strategy", "alpha")
    };
    let session = Action::Halt(Target::Session);
    assert_eq!(alpha("").action[Rule::ParentQty as usize], session);
    assert_eq!(alpha("parent_qty = { action = \"deny\" }").action[Rule::ParentQty as usize], Action::Deny);
    let limits = alpha("parent_px = \"unlimited\"\nchildren = 7\nfan_out = { count = 3, per = \"2s\" }");
    assert_eq!(limits.parent_off, 1 << Rule::ParentPx as u64);
    assert_eq!((limits.children, limits.action[Rule::Children as usize]), (7, session));
    assert_eq!(limits.fan_out, Some(FanOutLimit { count: 3, window_ns: 2_000_000_000 }));
    for wrong in ["parent_qty = 5", "fan_out = 5", "fan_out = { count = 5 }", "children = -1"] {
        let text = with_oms("").replace("[limits.strategy.\"*\"]", &format!("[limits.strategy.\"*\"]\n{wrong}"));
        assert!(super::load("t", &text).is_err(), "{wrong}");
    }
}

#[test]
fn a_suspense_account_has_a_limit_of_zero_and_no_other_account_has_one() {
    let text = |more: &str| with(&[("[accounts.A]", &format!("[accounts.A]\n{more}"))]);
    assert_eq!(limits_of(&loaded(SMALL), "account", "A").suspense, UNLIMITED);
    let suspense = loaded(&text("suspense = true"));
    let account = suspense.universe.account("A").unwrap();
    assert!(suspense.limits.is_suspense(account));
    assert_eq!(limits_of(&suspense, "account", "A").suspense, 0);
    let limit = |text: String| {
        text.replace("[limits.account.\"*\"]", "[limits.account.A]\nsuspense = 5\n[limits.account.\"*\"]")
    };
    assert_eq!(limits_of(&loaded(&limit(text("suspense = true"))), "account", "A").suspense, 50_000);
    let told = super::load("t", &limit(SMALL.to_owned())).unwrap_err().to_string();
    assert!(told.contains("limits.account.A.suspense"), "{told}");
}
