//! What is refused, and how it is said: field, line, value and rule.

use super::*;

/// (replace this, by this, and this field on the line with that text breaks a rule with these words)
type Case = (&'static str, &'static str, &'static str, &'static str, &'static str);

/// 108 bytes: one too many.
const LONG_SOCKET: &str = concat!(
    "[local]\nsocket = \"",
    "/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    "xxxxxxxxxxxxxxxxxx",
    "\"\n[ingest]"
);
/// With the socket's default name in it 108 bytes.
const LONG_STATE_DIR: &str = concat!(
    "\"",
    "/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    "xxxxx",
    "\""
);
const TWICE: &str = concat!(
    "[local]\noperators = [{ uid = 7, name = \"a\", role = \"viewer\" },\n",
    "  { uid = 7, name = \"b\", role = \"risk\" }]\n[ingest]"
);

const CASES: &[Case] = &[
    // Form.
    ("idle = \"nap\"", "idle = \"nap", "", "idle = \"nap", "invalid basic string"),
    ("[accounts.A]", "[accounts.A]\n[accounts.A]", "", "[accounts.A]\n[strategies", "duplicate key"),
    ("idle = \"nap\"", "idel = \"nap\"", "engine.idel", "idel", "unknown key; known here: execs, idle,"),
    ("[engine]", "[motor]", "motor", "[motor]", "unknown key"),
    ("idle = \"nap\"", "idle = 7", "engine.idle", "idle", "must be a string; this is of type integer"),
    ("idle = \"nap\"", "idle = \"sleep\"", "engine.idle", "idle", "must be one of: nap, yield, spin"),
    ("idle = \"nap\"", "idle = \"spin\"\nnap = \"1ms\"", "engine.nap", "nap =", "only with idle = \"nap\""),
    ("idle = \"nap\"", "prefault = 1", "engine.prefault", "prefault", "must be true or false"),
    ("idle = \"nap\"", "execs = 0", "engine.execs", "execs", "must be from 1 to"),
    ("idle = \"nap\"", "nap = \"1 s\"", "engine.nap", "nap =", "must be a whole number and one of"),
    ("idle = \"nap\"", "nap = \"1h\"", "engine.nap", "nap =", "must be from 0ns to 10ms"),
    ("idle = \"nap\"", "nap = 5", "engine.nap", "nap =", "must be a time span"),
    // Service.
    ("state_dir = \"state\"", "", "service.state_dir", "[service]", "directory of latch and journal"),
    ("state_dir = \"state\"", "state_dir = \"\"", "service.state_dir", "state_dir", "must not be empty"),
    ("state_dir", "base_scale = 9\nstate_dir", "service.base_scale", "base_scale", "must be from 0 to 8"),
    ("state_dir", "base_currency = \"EUR\"\nstate_dir", "currencies.EUR", "[currencies.EUR]", "is the base currency"),
    // Listeners.
    ("127.0.0.1:7401", "0.0.0.0:7401", "ingest.listen", "0.0.0.0", "allow_remote = true"),
    ("127.0.0.1:7401", "localhost", "ingest.listen", "localhost", "must be an IP address and a port"),
    ("[ingest]", "[http]\nlisten = \"[::]:1\"\n[ingest]", "http.listen", "[::]:1", "allow_remote = true"),
    ("[ingest]", "[ingest]\nmax_connections = 0", "ingest.max_connections", "max_connections", "must be from 1"),
    ("[ingest]", "[gate]\ndir = \"here\"\n[ingest]", "gate.dir", "here", "must be an absolute path"),
    ("[ingest]", "[gate]\nsocket_mode = \"0777\"\n[ingest]", "gate.socket_mode", "0777", "must be"),
    ("[ingest]", "[gate]\nlease = \"1us\"\n[ingest]", "gate.lease", "1us", "must be from 1ms"),
    ("[ingest]", "[gate]\nlag = \"2s\"\n[ingest]", "gate.lag", "2s", "must not be longer than the lease"),
    ("[ingest]", "[gate]\nevents = 1000\n[ingest]", "gate.events", "1000", "must be a power of two"),
    ("[ingest]", "[gate]\nslots = 0\n[ingest]", "gate.slots", "slots", "must be from 1"),
    ("[ingest]", "[ingest]\nallowed_origins = [\"*\"]", "ingest.allowed_origins[0]", "allowed", "must be an origin"),
    // The local socket.
    ("[ingest]", "[local]\nsocket = \"\"\n[ingest]", "local.socket", "socket = ", "must be the path of a file"),
    ("[ingest]", "[local]\nkill_file = \"a\\u0000\"\n[ingest]", "local.kill_file", "kill_file", "must be the path"),
    ("[ingest]", LONG_SOCKET, "local.socket", "socket = ", "has 108 bytes: the path of a socket has at most 107"),
    ("\"state\"", LONG_STATE_DIR, "local.socket", "[service]", "has 108 bytes: the path of a socket has at most 107"),
    ("[ingest]", "[local]\ngroup = \"a b\"\n[ingest]", "local.group", "group", "name of a group, or its number"),
    (
        "[ingest]",
        "[local]\ngroup = \"trading\"\n[ingest]",
        "local.group",
        "group",
        "cannot reach a socket in state_dir",
    ),
    (
        "[ingest]",
        "[local]\nkill_file = \"state/control.sock\"\n[ingest]",
        "local.kill_file",
        "kill_file",
        "is the socket",
    ),
    (
        "[ingest]",
        "[local]\nsockets = \"x\"\n[ingest]",
        "local.sockets",
        "sockets",
        "known here: group, kill_file, operators",
    ),
    (
        "[ingest]",
        "[[local.operators]]\nname = \"a\"\nrole = \"risk\"\n[ingest]",
        "local.operators[0].uid",
        "[[local.operators",
        "which user",
    ),
    (
        "[ingest]",
        "[local]\noperators = [{ uid = -1, name = \"a\", role = \"risk\" }]\n[ingest]",
        "local.operators[0].uid",
        "uid",
        "from 0 to",
    ),
    (
        "[ingest]",
        "[local]\noperators = [{ uid = 65534, name = \"a\", role = \"risk\" }]\n[ingest]",
        "local.operators[0].uid",
        "uid",
        "could be anybody",
    ),
    ("[ingest]", TWICE, "local.operators[1].uid", "uid = 7, name = \"b", "is listed twice"),
    (
        "[ingest]",
        "[local]\noperators = [{ uid = 1, name = \"a b\", role = \"risk\" }]\n[ingest]",
        "local.operators[0].name",
        "uid",
        "a name has",
    ),
    (
        "[ingest]",
        "[local]\noperators = [{ uid = 1, name = \"a\", role = \"god\" }]\n[ingest]",
        "local.operators[0].role",
        "uid",
        "must be one of",
    ),
    // Persons.
    ("role = \"risk\"", "role = \"god\"", "auth.tokens[0].role", "god", "must be one of: viewer, operator, risk"),
    ("role = \"risk\", ", "", "auth.tokens[0].role", "alice", "viewer, operator or risk"),
    ("name = \"alice\"", "name = \"alice b\"", "auth.tokens[0].name", "alice b", "a name has 1 to 64"),
    ("aaaaaaaaaaaaaaaa", "", "auth.tokens[0].hash", "alice", "must be 64 hexadecimal digits"),
    (
        "rearm_expiry",
        "two_person_rearm = [\"pair\"]\nrearm_expiry",
        "auth.two_person_rearm[0]",
        "[\"pair\"]",
        "must be one of: firm, account",
    ),
    (
        "role = \"risk\", ",
        "role = \"risk\", scopes = [\"galaxy:x\"], ",
        "auth.tokens[0].scopes[0]",
        "galaxy",
        "must be firm, account:NAME",
    ),
    (
        "role = \"risk\", ",
        "role = \"risk\", scopes = [\"firm\", \"strategy:gamma\"], ",
        "auth.tokens[0].scopes[1]",
        "gamma",
        "[strategies.gamma] would declare it",
    ),
    ("role = \"risk\", ", "role = \"risk\", scopes = [], ", "auth.tokens[0].scopes", "alice", "lists no scope"),
    ("\"10m\"", "\"10m\"\nlogin_lifetime = \"1s\"", "auth.login_lifetime", "login_lifetime", "must be from 1m to 7d"),
    (
        "[ingest]",
        "[http]\nallow_remote = true\nlisten = \"10.0.0.1:1\"\n[ingest]",
        "http.listen",
        "10.0.0.1",
        "insecure = true",
    ),
    ("[ingest]", "[http.tls]\nkey = \"k\"\n[ingest]", "http.tls.certificate", "http.tls", "the server's certificate"),
    (
        "\"10m\"",
        "\"10m\"\ncertificates = [{ name = \"alice\", role = \"risk\" }]",
        "auth.certificates[0]",
        "certificates",
        "needs either subject",
    ),
    (
        "\"10m\"",
        "\"10m\"\ncertificates = [{ san = \"a\", name = \"alice\", role = \"risk\" }]",
        "auth.certificates",
        "[auth]",
        "http.tls.client_ca has to say",
    ),
    ("[ingest]", "[http]\nstream_every = \"1ms\"\n[ingest]", "http.stream_every", "1ms", "must be from 100ms to 1s"),
    ("\"10m\"", "\"2d\"", "auth.rearm_expiry", "\"2d\"", "must be from 1s to 1d"),
    // Names and what they refer to.
    ("[accounts.A]", "[accounts.\"A/B\"]\n[accounts.A]", "accounts.\"A/B\"", "A/B", "a name has 1 to 64"),
    ("account = \"A\"", "account = \"Z\"", "strategies.alpha.account", "\"Z\"", "no such account"),
    ("account = \"A\"", "", "strategies.alpha.account", "[strategies.alpha]", "trades for one account"),
    ("[\"BTC\"]", "[\"BTX\"]", "strategies.beta.instruments[0]", "BTX", "no such instrument"),
    ("[\"BTC\"]", "[\"BTC\", \"BTC\"]", "strategies.beta.instruments[1]", "BTC\", \"", "is listed twice"),
    ("currency = \"EUR\"", "currency = \"CHF\"", "instruments.BTC.currency", "CHF", "no such currency"),
    ("[\"alpha\"]", "[\"gamma\"]", "sessions.gw.strategies[0]", "gamma", "no such strategy"),
    ("[\"alpha\"]", "[]", "sessions.gw.strategies", "strategies = []", "lists no strategy"),
    ("kind = \"ask\"", "kind = \"reference\"", "sessions.gw.strategies", "[\"alpha\"]", "trades no strategy"),
    ("kind = \"ask\"", "kind = \"tell\"", "sessions.gw.kind", "tell", "must be one of: ask, observe, reference"),
    ("token_hash", "# token_hash", "sessions.gw.token_hash", "[sessions.gw]", "a session needs one"),
    ("token_hash = \"b", "token_hash = \"x", "sessions.gw.token_hash", "\"xbb", "must be 64 hexadecimal digits"),
    (
        "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "sessions.gw",
        "[sessions.gw]",
        "gw has the same token as alice",
    ),
    // Cancels after a halt.
    ("[ingest]", "[cancel]\nattempts = 0\n[ingest]", "cancel.attempts", "attempts = 0", "must be from 1 to 100"),
    ("[ingest]", "[cancel]\nrepeat_after = \"8d\"\n[ingest]", "cancel.repeat_after", "8d", "must be from 1ms to 7d"),
    ("[ingest]", "[cancel]\nflatten = true\n[ingest]", "cancel.flatten", "flatten", "unknown key"),
    ("kind = \"ask\"", "kind = \"ask\"\ncancel_via = \"gw\"", "sessions.gw.cancel_via", "gw", "means something only"),
    (
        "kind = \"ask\"",
        "kind = \"ask\"\ncancel_on_disconnect = true\ncancel_via = \"gw\"",
        "sessions.gw.cancel_via",
        "cancel_via",
        "must be another session",
    ),
    (
        "kind = \"ask\"",
        "kind = \"ask\"\ncancel_on_disconnect = true\ncancel_via = \"nobody\"",
        "sessions.gw.cancel_via",
        "nobody",
        "no such session",
    ),
    // Instruments and currencies.
    ("px_scale = 2", "px_scale = 13", "instruments.SHARE.px_scale", "13", "must be from 0 to 12"),
    ("qty_scale = 0", "", "instruments.SHARE.qty_scale", "[instruments.SHARE]", "decimal places are needed"),
    ("\"10.25\"", "\"10.255\"", "instruments.SHARE.reference", "10.255", "more decimal places than px_scale = 2"),
    ("\"10.25\"", "10.25", "instruments.SHARE.reference", "10.25", "must be written in quotes to be exact: \"10.25\""),
    ("\"10.25\"", "\"1e3\"", "instruments.SHARE.reference", "1e3", "must be a decimal number"),
    ("\"10.25\"", "\"-1\"", "instruments.SHARE.reference", "\"-1\"", "must be positive"),
    ("reference =", "multiplier = \"0\" #", "instruments.SHARE.multiplier", "multiplier", "must be positive"),
    (
        "reference =",
        "average_daily_volume = \"1.5\" #",
        "instruments.SHARE.average_daily_volume",
        "volume",
        "more than the 0 decimal places",
    ),
    (
        "qty_scale = 8",
        "qty_scale = 8\nmultiplier = \"7000000001\"",
        "instruments.BTC",
        "[instruments.BTC]",
        "base units",
    ),
    ("rate = \"1.08\"", "rate = \"0\"", "currencies.EUR.rate", "\"0\"", "must be positive"),
    ("rate = \"1.08\"", "rate = \"1.00000000001\"", "currencies.EUR.rate", "1.0000", "more than the 10 decimal places"),
    ("max_age = \"9s\"", "max_age = \"8d\"", "currencies.EUR.max_age", "8d", "must be from 1us to 7d"),
    (
        "[instruments.SHARE]",
        "[instrument_series]\nprefix = \"X\"\ncount = 0\npx_scale = 0\nqty_scale = 0\n[instruments.SHARE]",
        "instrument_series.count",
        "count = 0",
        "must be from 1 to",
    ),
    (
        "[instruments.SHARE]",
        "[instrument_series]\nprefix = \"BTC\"\ncount = 2\npx_scale = 0\nqty_scale = 0\n[instruments.BTC1]\n\
         px_scale = 0\nqty_scale = 0\n[instruments.SHARE]",
        "instrument_series",
        "[instrument_series]",
        "declared already",
    ),
    // Limits: where and what.
    ("[limits.strategy.beta]", "[limits.strategy.nobody]", "limits.strategy.nobody", "nobody", "no such strategy"),
    ("[limits.pair.\"*\"]", "[limits.pair.alpha]", "limits.pair.alpha", "pair.alpha", "a pair is written"),
    ("[limits.pair.\"*\"]", "[limits.pair.\"*/*\"]", "limits.pair.\"*/*\"", "*/*", "all pairs are written \"*\""),
    ("[limits.pair.\"*\"]", "[limits.pair.\"alpha/Y\"]", "limits.pair.\"alpha/Y\"", "alpha/Y", "no such pair"),
    ("[limits.firm]", "[limits.desk.\"*\"]\n[limits.firm]", "limits.desk", "[limits.desk", "unknown key"),
    ("[limits.firm]", "[limits.firm]\nposition_long = 1", "limits.firm.position_long", "position_long", "per firm"),
    (
        "[limits.firm]",
        "[limits.firm]\nsides = \"both\"",
        "limits.firm.sides",
        "sides",
        "per firm; possible at: strategy",
    ),
    ("[limits.firm]", "[limits.firm]\nmode = 1", "limits.firm.mode", "mode = 1", "unknown key"),
    (
        "[limits.firm]",
        "[limits.firm]\nmandatory = [\"colar\"]",
        "limits.firm.mandatory[0]",
        "colar",
        "is no rule; possible: heartbeat_loss",
    ),
    (
        "[limits.firm]",
        "[limits.firm]\nmandatory = [\"collar\", \"collar\"]",
        "limits.firm.mandatory[1]",
        "mandatory",
        "is listed twice",
    ),
    (
        "[limits.firm]",
        "[limits.firm]\nmandatory = [\"restricted\"]",
        "limits.firm.mandatory[0]",
        "restricted",
        "always runs, or judges no order",
    ),
    (
        "[limits.firm]",
        "[ceilings.firm]\nmandatory = [\"collar\"]\n[limits.firm]",
        "ceilings.firm.mandatory",
        "mandatory",
        "a ceiling demands nothing",
    ),
    ("[limits.firm]", "[limits.firm]\nothers = \"zero\"", "limits.firm.others", "others", "must be one of: unlimited"),
    ("gross_exposure = 1_000", "gross_exposure = -1", "limits.firm.gross_exposure", "= -1", "must not be negative"),
    (
        "gross_exposure = 1_000",
        "gross_exposure = true",
        "limits.firm.gross_exposure",
        "true",
        "must be a decimal number",
    ),
    ("1_000", "\"0.00001\"", "limits.firm.gross_exposure", "0.00001", "more than the 4 decimal places"),
    ("1_000", "5_000_000_000_000_000_000", "limits.firm.gross_exposure", "5_000_", "too large"),
    ("1_000", "{ action = \"halt\" }", "limits.firm.gross_exposure.max", "gross", "the number is needed"),
    ("1_000", "{ max = 1, per = \"1s\" }", "limits.firm.gross_exposure.per", "gross", "unknown key"),
    (
        "1_000",
        "{ max = 1, action = \"stop\" }",
        "limits.firm.gross_exposure.action",
        "stop",
        "must be deny, reduce_only",
    ),
    ("1_000", "{ max = 1, action = \"deny:firm\" }", "limits.firm.gross_exposure.action", "deny:", "must be deny"),
    ("1_000", "{ max = 1, warn = [50, 50] }", "limits.firm.gross_exposure.warn[1]", "warn", "must ascend"),
    ("1_000", "{ max = 1, warn = [100] }", "limits.firm.gross_exposure.warn[0]", "warn", "must be from 1 to 99"),
    ("1_000", "{ max = 1, warn = [1,2,3,4,5,6] }", "limits.firm.gross_exposure.warn", "warn", "more than 5 levels"),
    ("collar = 950", "collar = \"9.555%\"", "limits.strategy.\"*\".collar", "9.555", "more decimal places"),
    ("collar = 950", "collar = 1_000_001", "limits.strategy.\"*\".collar", "collar", "must be from 0 to 1000000"),
    (
        "{ max = 10, window = \"60s\" }",
        "10",
        "limits.strategy.\"*\".loss_velocity.window",
        "velocity = 10",
        "how far back",
    ),
    (
        "window = \"60s\" }",
        "window = \"60s\", action = \"halt:session\" }",
        "limits.strategy.\"*\".loss_velocity.action",
        "velocity",
        "no session belongs to this strategy",
    ),
    // Quantities and scales.
    ("order_notional = 100", "order_qty = 5", "limits.strategy.\"*\".order_qty", "order_qty = 5", "unlike qty_scale"),
    ("[limits.firm]", "[limits.firm]\norder_qty = 5", "limits.firm.order_qty", "order_qty = 5", "unlike qty_scale"),
    (
        "order_qty = 3",
        "order_qty = \"0.5\"",
        "limits.instrument.\"*\".order_qty",
        "= \"0.5\"\n[limits.sess",
        "SHARE's unit",
    ),
    ("order_qty = \"0.5\"", "order_qty = \"0.000000001\"", "limits.strategy.beta.order_qty", "0.0000", "BTC's unit"),
    (
        "order_qty = 3",
        "order_qty = 50_000_000_000",
        "limits.instrument.\"*\".order_qty",
        "50_000",
        "too large in BTC's unit",
    ),
    ("working_orders = 7", "position_long = \"0.5\"", "limits.pair.\"*\".position_long", "_long", "SHARE's unit"),
    // Rates.
    ("count = 300", "count = 100_001", "limits.session.\"*\".order_rate.count", "100_001", "must be from 0 to 100000"),
    ("count = 300", "count = -1", "limits.session.\"*\".order_rate.count", "-1", "must be from 0"),
    ("count = 300, ", "", "limits.session.\"*\".order_rate.count", "order_rate", "how many per window"),
    ("per = \"1s\", ", "", "limits.session.\"*\".order_rate.per", "order_rate", "the window"),
    ("\"1s\"", "\"999ns\"", "limits.session.\"*\".order_rate.per", "999ns", "must be from 1us to 7d"),
    ("count = 300", "count = 300, burst = 2", "limits.session.\"*\".order_rate.burst", "burst", "only with kind"),
    ("count = 300", "count = 300, kind = \"gcra\"", "limits.session.\"*\".order_rate.burst", "gcra", "come at once"),
    (
        "count = 300, per = \"1s\"",
        "count = 0, per = \"1s\", kind = \"gcra\", burst = 1",
        "limits.session.\"*\".order_rate.count",
        "gcra",
        "must be from 1",
    ),
    (
        "count = 300, per = \"1s\"",
        "count = 2000, per = \"1us\", kind = \"gcra\", burst = 1",
        "limits.session.\"*\".order_rate",
        "gcra",
        "faster than one per nanosecond",
    ),
    (
        "count = 300, per = \"1s\"",
        "count = 1, per = \"7d\", kind = \"gcra\", burst = 2",
        "limits.session.\"*\".order_rate",
        "gcra",
        "more than 7d to make up for a burst",
    ),
    (
        "{ count = 300, per = \"1s\", action = \"halt\" }",
        "[]",
        "limits.session.\"*\".order_rate",
        "[]",
        "has no window",
    ),
    (
        "{ count = 300, per = \"1s\", action = \"halt\" }",
        "9",
        "limits.session.\"*\".order_rate",
        "= 9",
        "must be a table",
    ),
    (
        "{ count = 300, per = \"1s\", action = \"halt\" }",
        "[{count=1,per=\"1s\",warn=[1]},{count=1,per=\"2s\",warn=[2]}]",
        "limits.session.\"*\".order_rate[1]",
        "order_rate",
        "share their warning levels",
    ),
    (
        "{ count = 300, per = \"1s\", action = \"halt\" }",
        "[{count=1,per=\"1s\"},{count=1,per=\"2s\"},{count=1,per=\"3s\"},{count=1,per=\"4s\"},{count=1,per=\"5s\"},\
         {count=1,per=\"6s\"},{count=1,per=\"7s\"},{count=1,per=\"8s\"},{count=1,per=\"9s\"}]",
        "limits.session.\"*\"",
        "[limits.session",
        "9 rate windows: at most 8",
    ),
    // Other limits of sessions and strategies.
    (
        "[limits.session.\"*\"]",
        "[limits.session.\"*\"]\nstream_gap = 1",
        "limits.session.\"*\".stream_gap",
        "gap",
        "has no number",
    ),
    (
        "[limits.session.\"*\"]",
        "[limits.session.\"*\"]\nstream_gap = { action = \"halt:strategy\" }",
        "limits.session.\"*\".stream_gap.action",
        "gap",
        "no strategy belongs to this session",
    ),
    (
        "[limits.session.\"*\"]",
        "[limits.session.\"*\"]\nheartbeat_loss = 5",
        "limits.session.\"*\".heartbeat_loss",
        "loss = 5",
        "must be a time span",
    ),
    (
        "order_notional = 100",
        "duplicate_order = { count = 17, window = \"1s\" }",
        "limits.strategy.\"*\".duplicate_order.count",
        "17",
        "must be from 0 to 16",
    ),
    (
        "order_notional = 100",
        "duplicate_order = { count = 1 }",
        "limits.strategy.\"*\".duplicate_order.window",
        "count = 1 }",
        "how long an order is remembered",
    ),
    (
        "order_notional = 100",
        "duplicate_order = 4",
        "limits.strategy.\"*\".duplicate_order",
        "order = 4",
        "must be a table",
    ),
];

#[test]
fn every_kind_of_violation_names_its_field_line_and_rule() {
    for (from, to, field, on_line, rule) in CASES {
        let text = with(&[(from, to)]);
        let line =
            text[..text.rfind(on_line).unwrap_or_else(|| panic!("{on_line:?} after {to:?}"))].matches('\n').count() + 1;
        let Err(violations) = load("test.toml", &text) else { panic!("{from:?} -> {to:?} is not refused") };
        let list: Vec<_> = violations.list.iter().map(|v| (v.line, &*v.field, &*v.rule)).collect();
        assert!(
            list.len() == 1 && list[0].0 == line && list[0].1 == *field && list[0].2.contains(rule),
            "{from:?} -> {to:?}\nexpected line {line} {field} {rule:?}\nfound {list:?}"
        );
    }
}

#[test]
fn all_violations_are_reported_at_once_in_the_order_of_the_text() {
    let text = with(&[
        ("idle = \"nap\"", "idel = \"nap\""),
        ("127.0.0.1", "1.2.3.4"),
        ("account = \"A\"", "account = \"Z\""),
        ("qty_scale = 0", "qty_scale = \"0\""),
        ("gross_exposure = 1_000", "gross_exposure = \"x\"\nnet_long = \"y\""),
        ("count = 300", "count = -300"),
    ]);
    let violations = load("test.toml", &text).unwrap_err();
    let fields: Vec<_> = violations.list.iter().map(|v| &*v.field).collect();
    assert_eq!(
        fields,
        [
            "engine.idel",
            "ingest.listen",
            "strategies.alpha.account",
            "instruments.SHARE.qty_scale",
            "limits.firm.gross_exposure",
            "limits.firm.net_long",
            "limits.session.\"*\".order_rate.count",
        ]
    );
    let first = &violations.list[1];
    assert_eq!((first.line, first.column, &*first.value), (7, 10, "\"1.2.3.4:7401\""));
}

#[test]
fn several_faults_of_form_are_reported_together() {
    let violations = load("test.toml", "a = \nb = [1,\n[c]\nd = \"x\n").unwrap_err();
    assert!(violations.list.len() >= 2, "{violations}");
    assert!(violations.list.iter().all(|v| v.field.is_empty()));
}

#[test]
fn a_violation_is_shown_with_its_line_and_a_caret_and_as_json() {
    let violations = load("dir/test.toml", &with(&[("\"10.25\"", "\"ten\"")])).unwrap_err();
    let text = violations.to_string();
    let line = SMALL.lines().position(|l| l.starts_with("reference")).unwrap() + 1;
    assert!(text.contains(&format!("--> dir/test.toml:{line}:13")), "{text}");
    assert!(text.contains("reference = \"ten\"\n") && text.contains("^^^^^\n"), "{text}");
    assert!(text.contains("error: instruments.SHARE.reference = \"ten\": must be a decimal number"), "{text}");
    let json = violations.to_json();
    assert_eq!(
        json[0],
        serde_json::json!({
            "file": "dir/test.toml", "line": line, "column": 13, "field": "instruments.SHARE.reference",
            "value": "\"ten\"", "rule": "must be a decimal number such as 12 or 12.50",
        })
    );
}
