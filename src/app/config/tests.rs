//! What the configuration takes, what it refuses, and what it says then.

use proptest::prelude::*;

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

/// One change of a text: at a byte (rounded to a character), so many bytes away, and a piece put in.
fn edit() -> impl Strategy<Value = (prop::sample::Index, usize, usize)> {
    (any::<prop::sample::Index>(), 0usize..12, 0usize..PIECES.len())
}

const PIECES: &[&str] = &[
    "",
    "",
    "0",
    "-1",
    "9",
    "99999999999999999999",
    "1e9",
    "\"",
    "'",
    "[",
    "]",
    "{",
    "}",
    "=",
    ",",
    ".",
    "\n",
    "#",
    "*",
    "/",
    "\"*\"",
    "\"unlimited\"",
    "\"halt:session\"",
    "true",
    "1.5",
    "nan",
    "\"0.5\"",
    "\"7d\"",
    "\"1ns\"",
    "inf",
    "ü",
    "\u{0}",
    "\r\n",
    "[limits.pair.\"alpha/*\"]\nposition_long = 1\n",
    "[instrument_series]\nprefix = \"Q\"\ncount = 40\n",
    "others = \"unlimited\"\n",
    "qty_scale = 12\n",
    "multiplier = \"0.000000000001\"\n",
    "max = ",
    "warn = [1, 2]",
    "0x1F",
    "1979-05-27",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_change_of_the_example_makes_it_panic(
        edits in prop::collection::vec(edit(), 0..5),
        lines in prop::collection::vec(any::<(prop::sample::Index, prop::sample::Index)>(), 0..3),
    ) {
        let mut rows: Vec<&str> = EXAMPLE.lines().filter(|l| !l.trim_start().starts_with('#')).collect();
        for (a, b) in &lines {
            let (a, b) = (a.index(rows.len()), b.index(rows.len()));
            let row = rows.remove(a);
            rows.insert(b.min(rows.len()), row);
        }
        let mut text = rows.join("\n");
        for (at, away, piece) in edits {
            let boundary = |text: &str, mut at: usize| {
                while !text.is_char_boundary(at) {
                    at -= 1;
                }
                at
            };
            let from = boundary(&text, at.index(text.len() + 1));
            let to = boundary(&text, (from + away).min(text.len())).max(from);
            text.replace_range(from..to, PIECES[piece]);
        }
        match load("t.toml", &text) {
            Ok(before) => {
                let printed = effective("t.toml", &text).unwrap();
                let after = load("p.toml", &printed).unwrap_or_else(|violations| panic!("{violations}"));
                assert_same(&before, &after);
                let again = reload(&before, "t.toml", &text).unwrap();
                prop_assert_eq!(again.limits.generation, 2);
            }
            Err(violations) => {
                prop_assert!(!violations.list.is_empty());
                let lines = text.matches('\n').count() + 1;
                prop_assert!(violations.list.iter().all(|v| v.line <= lines && v.line > 0 && !v.rule.is_empty()));
                prop_assert!(violations.to_string().len() > 20);
                prop_assert!(violations.to_json().is_array());
            }
        }
    }
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
