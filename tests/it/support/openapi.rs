//! The OpenAPI document as a service serves it, and whether an answer is what it says.
//!
//! Stricter than the document has to be read: a member that it does not name is a complaint, so that nothing is shown that no
//! client can know of.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpStream;
use std::sync::OnceLock;

use serde_json::Value;

use super::{exchange, token, unchunk};

/// An answer as it came.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    /// In small letters.
    pub head: String,
    pub body: String,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or(Value::Null)
    }

    /// Without its parameters.
    fn content_type(&self) -> &str {
        let line = self.head.lines().find_map(|line| line.strip_prefix("content-type: "));
        line.and_then(|line| line.split(';').next()).unwrap_or_default().trim()
    }
}

/// Events of a stream that are read before it is left.
const EVENTS: usize = 3;

/// One exchange with the service at `http`; of a stream only the first events. `who`: whose token is sent, if any.
pub fn send(http: &str, who: Option<&str>, method: &str, path: &str, headers: &str, body: Option<&Value>) -> Reply {
    let body = body.map(Value::to_string).unwrap_or_default();
    let bearer = who.map(|who| format!("Authorization: Bearer {}\r\n", token(who))).unwrap_or_default();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {http}\r\n{bearer}Content-Type: application/json\r\nContent-Length: {}\r\n\
         {headers}Connection: close\r\n\r\n{body}",
        body.len()
    );
    let answer = exchange(|| TcpStream::connect(http), &request, read_answer);
    let (head, text) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{method} {path}: {answer:?}"));
    let head = format!("{}\r\n\r\n", head.to_ascii_lowercase());
    let text = if head.contains("transfer-encoding: chunked") && !head.contains("content-type: text/event-stream") {
        unchunk(text)
    } else {
        text.to_owned()
    };
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Reply { status, head, body: text }
}

/// All of an answer, as it comes; of a stream its first events, without the sizes of chunks.
fn read_answer(stream: TcpStream) -> std::io::Result<String> {
    let mut reader = BufReader::new(stream);
    let mut all = String::new();
    while !all.ends_with("\r\n\r\n") {
        if reader.read_line(&mut all)? == 0 {
            return Ok(all);
        }
    }
    if !all.to_ascii_lowercase().contains("content-type: text/event-stream") {
        return reader.read_to_string(&mut all).map(|_| all);
    }
    let mut text = String::new();
    while text.matches("\nevent: ").count() < EVENTS || !text.ends_with("\n\n") {
        let mut line = String::new();
        assert!(reader.read_line(&mut line)? > 0, "the stream ended: {text}");
        // Sizes of chunks, which are hexadecimal numbers alone on their line.
        let size = line.trim_end().bytes().all(|b| b.is_ascii_hexdigit()) && line.ends_with("\r\n");
        text += if size || line == "\r\n" { "" } else { &line };
    }
    Ok(all + &text)
}

/// The document.
pub struct Document(Value);

impl Document {
    /// The document of the service at `http`. It does not change: one is kept for all services of this program.
    pub fn of(http: &str) -> &'static Document {
        static KEPT: OnceLock<Document> = OnceLock::new();
        KEPT.get_or_init(|| {
            let reply = send(http, None, "GET", "/v1/openapi.json", "", None);
            assert_eq!((reply.status, reply.content_type()), (200, "application/json"));
            Document(reply.json())
        })
    }

    /// Method, in capitals, and path of every operation.
    pub fn operations(&self) -> BTreeSet<(String, String)> {
        let paths = self.0["paths"].as_object().unwrap();
        let of = |(path, item): (&String, &Value)| -> Vec<(String, String)> {
            item.as_object().unwrap().keys().map(|method| (method.to_uppercase(), path.clone())).collect()
        };
        paths.iter().flat_map(of).collect()
    }

    /// The path of the document that `path` is one of. One without parameters comes first.
    pub fn template(&self, method: &str, path: &str) -> Option<&str> {
        let path = path.split('?').next().unwrap();
        let fits = |template: &str| {
            let (mut one, mut other) = (template.split('/'), path.split('/'));
            loop {
                match (one.next(), other.next()) {
                    (None, None) => return true,
                    (Some(a), Some(b)) if a == b || (a.starts_with('{') && !b.is_empty()) => {}
                    _ => return false,
                }
            }
        };
        let paths = self.0["paths"].as_object().unwrap();
        let has = |item: &Value| item[method.to_lowercase()].is_object();
        let mut found: Vec<&str> =
            paths.iter().filter(|(template, item)| has(item) && fits(template)).map(|(t, _)| t.as_str()).collect();
        found.sort_by_key(|template| template.matches('{').count());
        found.first().copied()
    }

    /// What of an answer is not as the document says.
    pub fn complaints(&self, method: &str, template: &str, reply: &Reply) -> Vec<String> {
        let operation = &self.0["paths"][template][method.to_lowercase()];
        let response = &operation["responses"][reply.status.to_string()];
        if response.is_null() {
            return vec![format!("{method} {template} answered {}, which the document does not know", reply.status)];
        }
        let Some(content) = response["content"].as_object() else {
            return vec![format!("{method} {template} {} has no content in the document", reply.status)];
        };
        let Some(media) = content.get(reply.content_type()) else {
            return vec![format!("{method} {template} {}: content type {}", reply.status, reply.content_type())];
        };
        let mut out = Vec::new();
        if reply.content_type() == "text/event-stream" {
            self.check_events(&reply.body, &mut out);
        } else if reply.content_type().ends_with("json") {
            self.check(&media["schema"], &reply.json(), "", &mut out);
        }
        out.iter().map(|complaint| format!("{method} {template} {}: {complaint}", reply.status)).collect()
    }

    fn check_events(&self, text: &str, out: &mut Vec<String>) {
        let mut seen = 0;
        for event in text.split("\n\n") {
            let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
            let (Some(name), Some(data)) = (field("event: "), field("data: ")) else { continue };
            let schema = match name {
                "state" => "StreamState",
                "delta" => "StreamDelta",
                "cut" | "bye" => "StreamEnd",
                other => panic!("an event {other:?}"),
            };
            seen += 1;
            let data: Value = serde_json::from_str(data).unwrap();
            self.check(&self.0["components"]["schemas"][schema], &data, name, out);
        }
        assert!(seen >= EVENTS, "{text}");
    }

    /// Adds what `value`, at `at`, has that `schema` does not allow.
    pub fn check(&self, schema: &Value, value: &Value, at: &str, out: &mut Vec<String>) {
        let Some(schema) = schema.as_object() else {
            return out.push(format!("{at}: there is no schema"));
        };
        for keyword in schema.keys() {
            // One that is not looked at would be a hole that nobody sees.
            let known = [
                "$ref",
                "type",
                "enum",
                "properties",
                "required",
                "additionalProperties",
                "propertyNames",
                "items",
                "oneOf",
                "minimum",
                "maximum",
                "minLength",
                "format",
                "description",
                "title",
                "const",
            ];
            assert!(known.contains(&keyword.as_str()), "{at}: this test does not know the keyword {keyword}");
        }
        if let Some(name) = schema.get("$ref") {
            let name = name.as_str().unwrap().strip_prefix("#/components/schemas/").unwrap();
            let target = &self.0["components"]["schemas"][name];
            if name == "Problem" {
                // Its other members are different ones for each kind.
                let mut value = value.clone();
                if let (Some(object), Some(properties)) = (value.as_object_mut(), target["properties"].as_object()) {
                    object.retain(|member, _| properties.contains_key(member));
                }
                return self.check(target, &value, at, out);
            }
            return self.check(target, value, at, out);
        }
        if let Some(several) = schema.get("oneOf") {
            let several = several.as_array().unwrap();
            let each: Vec<Vec<String>> = several
                .iter()
                .map(|one| {
                    let mut out = Vec::new();
                    self.check(one, value, at, &mut out);
                    out
                })
                .collect();
            return match each.iter().filter(|complaints| complaints.is_empty()).count() {
                1 => {}
                0 => out.extend(each.into_iter().min_by_key(Vec::len).unwrap()),
                n => out.push(format!("{at}: {value} is {n} of several")),
            };
        }
        let is = |one: &Value| match one.as_str().unwrap() {
            "null" => value.is_null(),
            "boolean" => value.is_boolean(),
            "integer" => value.is_i64() || value.is_u64(),
            "number" => value.is_number(),
            "string" => value.is_string(),
            "array" => value.is_array(),
            "object" => value.is_object(),
            other => panic!("type {other}"),
        };
        let fits = match schema.get("type") {
            None => true,
            Some(Value::Array(several)) => several.iter().any(is),
            Some(one) => is(one),
        };
        if !fits {
            return out.push(format!("{at}: {value} is not {}", schema["type"]));
        }
        if schema.get("enum").is_some_and(|list| !list.as_array().unwrap().contains(value))
            || schema.get("const").is_some_and(|one| one != value)
        {
            out.push(format!("{at}: {value} is none of {}", schema.get("enum").or(schema.get("const")).unwrap()));
        }
        if let Some(number) = value.as_f64() {
            let least = schema.get("minimum").and_then(Value::as_f64);
            let most = schema.get("maximum").and_then(Value::as_f64);
            if least.is_some_and(|least| number < least) || most.is_some_and(|most| number > most) {
                out.push(format!("{at}: {value} is out of range"));
            }
        }
        if let (Some(items), Some(list)) = (schema.get("items"), value.as_array()) {
            for (n, item) in list.iter().enumerate() {
                self.check(items, item, &format!("{at}[{n}]"), out);
            }
        }
        let Some(object) = value.as_object() else { return };
        let properties = schema.get("properties").and_then(Value::as_object);
        for name in schema.get("required").and_then(Value::as_array).into_iter().flatten() {
            if !object.contains_key(name.as_str().unwrap()) {
                out.push(format!("{at}: {name} is missing"));
            }
        }
        for (name, member) in object {
            let at = format!("{at}.{name}");
            match (properties.and_then(|p| p.get(name)), schema.get("additionalProperties")) {
                (Some(schema), _) => self.check(schema, member, &at, out),
                (None, Some(schema @ Value::Object(_))) => self.check(schema, member, &at, out),
                // An object of which nothing is said may have anything.
                (None, None) if properties.is_none() => {}
                (None, _) => out.push(format!("{at} is not in the document")),
            }
        }
    }
}
