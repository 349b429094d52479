//! Texts outside the sequence of events: lines of a gateway's log and reject texts, for the guard to look at.
//!
//! ```json
//! {"type":"text","text":"Power Peg disabled","source":"log"}
//! ```
//!
//! `source` is `log` (default) or `reject`. A text has no sequence and no answer: it must never hold up an order. It may be
//! sent in either subprotocol, at any time after `hello`.

use serde::Deserialize;

use crate::wire::Problem;

/// The longest text in bytes. What is beyond is refused: whoever cuts it knows best where.
pub const TEXT_BYTES_MAX: usize = 4_096;

/// A text as it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextMessage {
    /// `log` or `reject`.
    pub source: &'static str,
    /// The text.
    pub text: String,
}

#[derive(Deserialize)]
struct Kind<'a> {
    #[serde(rename = "type", borrow)]
    kind: std::borrow::Cow<'a, str>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    #[serde(rename = "type")]
    _kind: String,
    text: String,
    #[serde(default)]
    source: Option<String>,
}

/// The text in `message`; `None` if it is a message of another type, which is for [`super::json`].
#[must_use]
pub fn decode(message: &str) -> Option<Result<TextMessage, Problem>> {
    // Cheap, before every event: the word has to be there.
    if !message.contains("\"text\"") {
        return None;
    }
    let kind: Kind<'_> = serde_json::from_str(message).ok()?;
    if kind.kind != "text" {
        return None;
    }
    Some(read(message))
}

fn read(message: &str) -> Result<TextMessage, Problem> {
    let rule = "must have text, may have source, and nothing else";
    let raw: Raw = serde_json::from_str(message).map_err(|error| Problem::new("text", &error.to_string(), rule))?;
    let source = match raw.source.as_deref() {
        None | Some("log") => "log",
        Some("reject") => "reject",
        Some(other) => return Err(Problem::new("source", other, "must be log or reject")),
    };
    if raw.text.trim().is_empty() || raw.text.len() > TEXT_BYTES_MAX {
        return Err(Problem::new("text", &raw.text, "must have 1 to 4096 bytes"));
    }
    Ok(TextMessage { source, text: raw.text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_read_and_everything_else_left_to_others() {
        let text = |text: &str, source| Some(Ok(TextMessage { source, text: text.to_owned() }));
        assert_eq!(decode(r#"{"type":"text","text":"a \"b\""}"#), text("a \"b\"", "log"));
        assert_eq!(decode(r#"{ "source":"reject", "text":"x", "type" : "text" }"#), text("x", "reject"));
        for other in [r#"{"type":"new","id":"text"}"#, r#"{"type":"hello"}"#, "nonsense \"text\"", "", "[\"text\"]"] {
            assert_eq!(decode(other), None, "{other}");
        }
    }

    #[test]
    fn a_bad_text_names_what_is_wrong() {
        let long = format!(r#"{{"type":"text","text":"{}"}}"#, "x".repeat(TEXT_BYTES_MAX + 1));
        for (message, field) in [
            (r#"{"type":"text"}"#, "text"),
            (r#"{"type":"text","text":"  "}"#, "text"),
            (r#"{"type":"text","text":7}"#, "text"),
            (r#"{"type":"text","text":"a","seq":1}"#, "text"),
            (r#"{"type":"text","text":"a","source":"mail"}"#, "source"),
            (long.as_str(), "text"),
        ] {
            match decode(message) {
                Some(Err(problem)) => assert_eq!(problem.field, field, "{message}"),
                other => panic!("{message}: {other:?}"),
            }
        }
    }
}
