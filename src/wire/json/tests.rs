//! Messages of both sides: what is read, what is refused, what comes back as it went.

use proptest::prelude::*;

use super::*;
use crate::model::effect::Denial;
use crate::model::universe::{AccountSpec, CurrencySpec, InstrumentSpec, SessionSpec, StrategySpec};
use crate::model::{Rule, Scope, SessionKind, Why};
use crate::units::{CurrencyId, REPRESENTABLE_MAX};

pub(crate) fn universe() -> Universe {
    let instrument = |name: &str, px_scale, qty_scale| InstrumentSpec {
        name: name.to_owned(),
        currency: CurrencyId(0),
        px_scale,
        qty_scale,
        multiplier: (1, 0),
        negative_px: true,
        average_daily_volume: None,
        initial_reference: None,
    };
    let named = |name: &str| name.to_owned();
    Universe::new(
        4,
        vec![
            CurrencySpec { name: named("USD"), initial_rate: None },
            CurrencySpec { name: named("E\"U\\R"), initial_rate: None },
        ],
        vec![SessionSpec { name: named("g1"), kind: SessionKind::Ask, strategies: vec![] }],
        vec![AccountSpec { name: named("a") }, AccountSpec { name: named("ä") }],
        vec![
            StrategySpec { name: named("s0"), account: AccountId(0) },
            StrategySpec { name: named("s1"), account: AccountId(1) },
        ],
        vec![instrument("XYZ", 2, 0), instrument("TOKEN", 8, 8), instrument("ES", 0, 0)],
    )
}

/// Any event that a client may send, with the fields that its kind does not have at their defaults.
pub(crate) fn any_event() -> impl Strategy<Value = Event> {
    let numbers = (1..1u64 << 63, 0..1u64 << 63, 1..1u64 << 63, 1..1u64 << 63);
    let values = (1..=REPRESENTABLE_MAX, -REPRESENTABLE_MAX..=REPRESENTABLE_MAX);
    let choices = (0..18usize, 0..2u16, 0..3u32, any::<bool>(), 0..4u8);
    (numbers, values, choices).prop_map(|((seq, sent_at, id, ref_id), (qty, px), (kind, who, what, buy, of))| {
        // All but `withdrawn`, which no client sends.
        let kind = EventKind::ALL[kind + usize::from(kind >= 15)];
        let (must, may) = fields_of(kind);
        let has = |field: usize| (must | may) & 1 << field != 0;
        let mut event = Event::new(kind, SessionId(0), seq);
        event.sent_at = UnixNanos(sent_at);
        if has(STRATEGY) {
            event.strategy = StrategyId(who);
            event.account = AccountId(who);
        } else {
            event.strategy = StrategyId::UNKNOWN;
            event.account = AccountId::UNKNOWN;
        }
        event.instrument = match kind {
            EventKind::Fx => InstrumentId(what % 2),
            _ if has(INSTRUMENT) => InstrumentId(what),
            _ => InstrumentId::UNKNOWN,
        };
        if has(SIDE) && !buy {
            event.side = Side::Sell;
        }
        if has(ORD_TYPE) {
            event.ord_type = OrdType::from_u8(of + 1).unwrap();
        }
        if has(QTY) {
            event.qty = Qty(qty);
        }
        let market = event.ord_type == OrdType::Market && kind != EventKind::Replaced;
        if has(RATE) || (has(PX) && !market) {
            event.px = Px(px);
        }
        let (id_field, ref_field) = id_fields(kind);
        if has(id_field) {
            event.id = OrdId(id);
        }
        if has(ref_field) || has(DEADLINE) {
            event.ref_id = ref_id;
        }
        event
    })
}

fn read<'a>(text: &'a str, universe: &Universe) -> Result<Client<'a>, Box<Fault<'a>>> {
    decode(text, universe, SessionId(0))
}

fn problem(text: &str) -> Problem {
    read(text, &universe()).unwrap_err().problem
}

proptest! {
    #[test]
    fn every_event_survives_the_way_there(event in any_event()) {
        let universe = universe();
        let text = encode_event(&event, &universe);
        let draft = Draft { event, id: None, ref_id: None };
        prop_assert_eq!(read(&text, &universe), Ok(Client::Event(draft)), "{}", text);
    }

    #[test]
    fn no_text_makes_it_panic(text in "\\PC*") {
        prop_assert!(read(&text, &universe()).is_err());
        prop_assert!(Server::decode(&text).is_err());
    }

    #[test]
    fn no_damage_makes_it_panic(event in any_event(), at in any::<prop::sample::Index>(), with in "\\PC{0,3}") {
        let universe = universe();
        let mut text = encode_event(&event, &universe);
        let mut at = at.index(text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        text.insert_str(at, &with);
        let _ = read(&text, &universe);
        text.truncate(at);
        prop_assert!(read(&text, &universe).is_err());
    }

    #[test]
    fn no_value_makes_it_panic(field in 0..FIELDS.len(), value in prop::sample::select(vec![
        "null", "true", "[]", "[[1]]", "{\"a\":{}}", "-1", "1e400", "1.0", "18446744073709551615",
        "99999999999999999999999", "\"\"", "\"\\ud800\"", "\"\\u0000\"", "-9223372036854775808", "\"-0\"",
    ])) {
        for kind in EventKind::ALL {
            let text = format!("{{\"type\":\"{}\",\"seq\":1,\"{}\":{value}}}", kind.name(), FIELDS[field]);
            let _ = read(&text, &universe());
        }
    }
}

#[test]
fn floats_are_refused_and_told_to_be_strings() {
    for value in ["1.5", "1e3", "1.0"] {
        let text = format!(r#"{{"type":"mark","seq":1,"instrument":"XYZ","px":{value}}}"#);
        let p = problem(&text);
        assert_eq!(p.field, "px");
        assert!(p.rule.contains("string"), "{}", p.rule);
    }
    for (value, px) in [("\"12.34\"", 1234), ("12", 1200), ("-3", -300), ("\"-0.01\"", -1)] {
        let text = format!(r#"{{"type":"mark","seq":1,"instrument":"XYZ","px":{value}}}"#);
        let Ok(Client::Event(draft)) = read(&text, &universe()) else { panic!("{value}") };
        assert_eq!(draft.event.px, Px(px));
    }
}

#[test]
fn problem_names_field_value_and_rule() {
    let order = r#"{"type":"new","seq":1,"id":"a","strategy":"s0","instrument":"XYZ","side":"buy","ord_type":"limit","qty":"5","px":"1""#;
    for (more, field, value) in [
        (r#","px2":1"#, "message", "px2"),
        (r#","px":"2""#, "px", "px"),
        (r#","rate":"2""#, "rate", "2"),
        (r#","account":"nobody","parent":"""#, "parent", ""),
        (r#","sent_at":-1"#, "sent_at", "-1"),
    ] {
        let p = problem(&format!("{order}{more}}}"));
        assert_eq!((p.field, p.value.as_str()), (field, value));
        assert!(!p.rule.is_empty());
    }
    for (from, to, field) in [
        (r#""px":"1""#, r#""px":"1.001""#, "px"),
        (r#""qty":"5""#, r#""qty":"0""#, "qty"),
        (r#""qty":"5""#, r#""qty":"9999999999999999999""#, "qty"),
        (r#""side":"buy""#, r#""side":"BUY""#, "side"),
        (r#""ord_type":"limit""#, r#""ord_type":"market""#, "px"),
        (r#","px":"1""#, "", "px"),
        (r#""id":"a","#, "", "id"),
    ] {
        let text = format!("{}}}", order.replace(from, to));
        let fault = *read(&text, &universe()).unwrap_err();
        assert_eq!(fault.problem.field, field, "{to}");
        let event = fault.draft.unwrap().event;
        assert_eq!((event.kind, event.seq), (EventKind::New, 1), "the envelope can be read all the same");
    }
}

#[test]
fn accounts_default_to_the_strategys() {
    let text = r#"{"type":"cancel","seq":1,"id":"2","orig_id":1,"strategy":"s1"}"#;
    let Ok(Client::Event(draft)) = read(text, &universe()) else { panic!() };
    assert_eq!((draft.event.account, draft.event.id, draft.event.ref_id), (AccountId(1), OrdId(2), 1));
}

#[test]
fn denials_show_their_numbers_in_the_rules_unit() {
    let universe = universe();
    let shown = |rule, why| {
        let denial = Denial { rule, why, scope: Scope::Firm, observed: 12_345, limit: -100 };
        VerdictMessage::numbers(&denial, InstrumentId(0), &universe)
    };
    assert_eq!(shown(Rule::Collar, Why::Breach), ("px", "123.45".to_owned(), "-1".to_owned()));
    assert_eq!(shown(Rule::GrossExposure, Why::Breach), ("notional", "1.2345".to_owned(), "-0.01".to_owned()));
    assert_eq!(shown(Rule::OrderQty, Why::Breach), ("qty", "12345".to_owned(), "-100".to_owned()));
    assert_eq!(shown(Rule::Collar, Why::ReferenceStale).0, "nanos");
}

#[test]
fn published_schema_has_the_same_fields() {
    let schema: serde_json::Value =
        serde_json::from_str(include_str!("../../../config/events.schema.json")).expect("the schema is JSON");
    let defs = schema["$defs"].as_object().unwrap();
    for kind in EventKind::ALL {
        let Some(def) = defs.get(kind.name()) else {
            assert_eq!(kind, EventKind::Withdrawn, "only what clients cannot send is left out");
            continue;
        };
        let bits = |names: Vec<&str>| names.iter().map(|n| 1 << FIELDS.iter().position(|f| f == n).unwrap()).sum();
        let must: u32 = bits(def["required"].as_array().unwrap().iter().map(|v| v.as_str().unwrap()).collect());
        let all: u32 = bits(def["properties"].as_object().unwrap().keys().map(String::as_str).collect());
        let (expected_must, may) = fields_of(kind);
        assert_eq!((must, all), (expected_must, expected_must | may), "{}", kind.name());
        assert_eq!(def["additionalProperties"], false);
    }
}

#[test]
fn server_messages_survive_the_way_back() {
    let universe = universe();
    for message in [
        Server::names(&universe),
        Server::Applied { seq: 5 },
        Server::Resend { from: 1 },
        Server::Mode { page: 3, scopes: vec![] },
        Server::Cancel {
            id: "A-1".to_owned(),
            session: None,
            scope: ScopeName::of(Scope::Firm, &universe),
            attempt: 2,
        },
        Server::MassCancel { scope: ScopeName::of(Scope::Session(SessionId(0)), &universe) },
        Server::DisconnectRequest { scope: ScopeName::of(Scope::Firm, &universe) },
        Server::Error { seq: None, field: "px".to_owned(), value: "\"".to_owned(), rule: "r".to_owned() },
    ] {
        assert_eq!(Server::decode(&message.encode()), Ok(message));
    }
    assert!(Server::decode(r#"{"type":"applied","seq":1,"x":2}"#).is_err());
    let ours = SessionId(0);
    let hello = Hello { out: 3, run: 4, mass_cancel: true, ..Hello::default() };
    assert_eq!(decode(&hello::encode(&hello), &universe, ours), Ok(Client::Hello(hello)));
    assert_eq!(decode(&encode_mode_ack(9), &universe, ours), Ok(Client::ModeAck { page: 9 }));
}
