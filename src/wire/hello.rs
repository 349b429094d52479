//! The first message of a connection: where the client's memory is, and what it says of itself.
//!
//! ```text
//! {"type":"hello","out":3,"run":17,"mass_cancel":1,"build":"router 2.4.1","config_hash":"9f86d081","flags":{"rlp":"on"},"host":"tor-7"}
//! ```
//!
//! `mass_cancel` is 1 if the client takes the message of that name, else 0 or left out.
//! Everything but `type` may be left out. A field that is not known, or given twice, is a fault: a flag that is
//! misspelt must not look like one that is not set.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value};

use crate::model::Claim;
use crate::model::claim::BadClaim;
use crate::wire::Problem;

/// What a client remembers of an earlier connection, and what it says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// The last answer that it saw; 0: none.
    pub out: u64,
    /// The run of the server that numbered it; 0: not said.
    pub run: u64,
    /// Whether it can cancel every order of a scope when it is told once.
    pub mass_cancel: bool,
    /// What it says of itself.
    pub claim: Claim,
}

/// The fields of a `hello`.
const FIELDS: [&str; 8] = ["type", "out", "run", "mass_cancel", "build", "config_hash", "flags", "host"];

/// A JSON object in the order in which it was written, names that come twice included.
struct Pairs<'a>(Vec<(Cow<'a, str>, Value)>);

impl<'de> Deserialize<'de> for Pairs<'de> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Pairs<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut a: A) -> Result<Pairs<'de>, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = a.next_entry::<Cow<'de, str>, Value>()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        d.deserialize_map(V)
    }
}

/// Reads a message whose type is `hello`.
///
/// # Errors
/// The first thing that is wrong.
pub fn decode(text: &str) -> Result<Hello, Problem> {
    let Ok(Pairs(pairs)) = serde_json::from_str::<Pairs<'_>>(text) else {
        return Err(Problem::new("message", text, "must be one JSON object"));
    };
    let mut hello = Hello::default();
    let mut seen = [false; FIELDS.len()];
    for (name, value) in &pairs {
        let Some(at) = FIELDS.iter().position(|field| field == name) else {
            return Err(Problem::new("message", name, "has a field that does not exist"));
        };
        if std::mem::replace(&mut seen[at], true) {
            return Err(Problem::new(FIELDS[at], name, "must not be given twice"));
        }
        match FIELDS[at] {
            "out" => hello.out = whole("out", value)?,
            "run" => hello.run = whole("run", value)?,
            "mass_cancel" => {
                hello.mass_cancel = match value.as_u64() {
                    Some(0) => false,
                    Some(1) => true,
                    _ => return Err(Problem::new("mass_cancel", &shown(value), "must be 0 or 1")),
                };
            }
            "build" => claimed(string("build", value)?, |text| hello.claim.set_build(text))?,
            "config_hash" => claimed(string("config_hash", value)?, |text| hello.claim.set_config_hash(text))?,
            "host" => claimed(string("host", value)?, |text| hello.claim.set_host(text))?,
            "flags" => {
                let rule = "must be an object whose values are strings";
                // Parsed once more, for names that come twice: the last of them would win.
                let written = serde_json::from_str::<Flags<'_>>(text);
                let Ok(Flags(Some(Pairs(flags)))) = written else {
                    return Err(Problem::new("flags", &value.to_string(), rule));
                };
                for (flag, value) in &flags {
                    let Some(value) = value.as_str() else {
                        return Err(Problem::new("flags", flag, rule));
                    };
                    claimed(flag, |flag| hello.claim.add_flag(flag, value))?;
                }
            }
            // The type is known.
            _ => {}
        }
    }
    Ok(hello)
}

/// The flags of a message, nothing else.
struct Flags<'a>(Option<Pairs<'a>>);

impl<'de> Deserialize<'de> for Flags<'de> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Flags<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut a: A) -> Result<Flags<'de>, A::Error> {
                let mut flags = None;
                while let Some(name) = a.next_key::<Cow<'de, str>>()? {
                    if name == "flags" {
                        flags = Some(a.next_value::<Pairs<'de>>()?);
                    } else {
                        a.next_value::<serde::de::IgnoredAny>()?;
                    }
                }
                Ok(Flags(flags))
            }
        }
        d.deserialize_map(V)
    }
}

fn whole(field: &'static str, value: &Value) -> Result<u64, Problem> {
    let number = value.as_u64().filter(|n| *n < 1 << 63);
    number.ok_or_else(|| Problem::new(field, &shown(value), "must be an integer from 0 to 2^63 - 1"))
}

fn string<'v>(field: &'static str, value: &'v Value) -> Result<&'v str, Problem> {
    value.as_str().ok_or_else(|| Problem::new(field, &shown(value), "must be a string"))
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn claimed(text: &str, set: impl FnOnce(&str) -> Result<(), BadClaim>) -> Result<(), Problem> {
    set(text).map_err(|BadClaim { field, rule }| Problem::new(field, text, rule))
}

/// The text of a `hello`.
#[must_use]
pub fn encode(hello: &Hello) -> String {
    let mut map = Map::new();
    map.insert("type".into(), "hello".into());
    map.insert("out".into(), hello.out.into());
    map.insert("run".into(), hello.run.into());
    if hello.mass_cancel {
        map.insert("mass_cancel".into(), 1.into());
    }
    let claim = &hello.claim;
    for (name, text) in [("build", claim.build()), ("config_hash", claim.config_hash()), ("host", claim.host())] {
        if let Some(text) = text {
            map.insert(name.into(), text.into());
        }
    }
    if !claim.flags().is_empty() {
        let flags = claim.flags().iter().map(|(name, value)| (name.clone(), Value::from(value.as_str())));
        map.insert("flags".into(), Value::Object(flags.collect()));
    }
    Value::Object(map).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_says_of_itself_survives_the_way() {
        let mut claim = Claim::of_build("router 2.4.1").unwrap();
        claim.set_config_hash("9f86d081").unwrap();
        claim.set_host("tor-7").unwrap();
        claim.add_flag("rlp", "on").unwrap();
        for hello in [Hello { out: 3, run: 4, mass_cancel: true, claim }, Hello::default()] {
            assert_eq!(decode(&encode(&hello)), Ok(hello));
        }
        assert_eq!(decode("{\"type\":\"hello\"}"), Ok(Hello::default()));
    }

    #[test]
    fn what_is_wrong_with_a_hello_is_named() {
        let field = |text: &str| {
            let Problem { field, value, rule } = decode(text).unwrap_err();
            (field, value, rule)
        };
        for (text, expected, value) in [
            (r#"{"type":"hello","out":-1}"#, "out", "-1"),
            (r#"{"type":"hello","run":"5"}"#, "run", "5"),
            (r#"{"type":"hello","mass_cancel":2}"#, "mass_cancel", "2"),
            (r#"{"type":"hello","build":""}"#, "build", ""),
            (r#"{"type":"hello","host":7}"#, "host", "7"),
            (r#"{"type":"hello","config_hash":"xyz"}"#, "config_hash", "xyz"),
            (r#"{"type":"hello","flags":["rlp"]}"#, "flags", r#"["rlp"]"#),
            (r#"{"type":"hello","flags":{"rlp":true}}"#, "flags", "rlp"),
            (r#"{"type":"hello","flags":{"rlp":"on","rlp":"off"}}"#, "flags", "rlp"),
            (r#"{"type":"hello","build":"a","build":"b"}"#, "build", "build"),
            (r#"{"type":"hello","flag":{"rlp":"on"}}"#, "message", "flag"),
        ] {
            let (field, shown, _) = field(text);
            assert_eq!((field, &*shown), (expected, value), "{text}");
        }
    }
}
