//! Errors as RFC 9457 problem details.

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};

/// One error, with what a person or a program needs to put it right.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    status: StatusCode,
    /// The last part of the `type` URN; stable, for programs.
    kind: &'static str,
    title: &'static str,
    detail: String,
    more: Map<String, Value>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    /// A problem of `kind`.
    #[must_use]
    pub fn new(status: StatusCode, kind: &'static str, title: &'static str, detail: impl Into<String>) -> Problem {
        Problem { status, kind, title, detail: detail.into(), more: Map::new(), headers: Vec::new() }
    }

    /// `field` had `value`, and the rule is `rule`.
    #[must_use]
    pub fn field(field: &str, value: &Value, rule: &str) -> Problem {
        // A value as long as a body helps nobody.
        let value = match value {
            Value::String(text) if text.len() > 256 => Value::String(text.chars().take(64).collect::<String>() + "…"),
            Value::Array(_) | Value::Object(_) => Value::String("(not a single value)".to_owned()),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
        };
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid-field", "Invalid field", format!("{field}: {rule}"))
            .with("field", field)
            .with("value", value)
            .with("rule", rule)
    }

    /// Adds a member.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Problem {
        self.more.insert(name.to_owned(), value.into());
        self
    }

    /// Adds a header to the response.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: &'static str) -> Problem {
        self.headers.push((name, HeaderValue::from_static(value)));
        self
    }

    /// What is wrong, in a sentence.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// The status.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        self.status
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        // The members of the standard come last, so that none of ours can take their place.
        let mut body = self.more;
        body.insert("type".into(), format!("urn:haltline:problem:{}", self.kind).into());
        body.insert("title".into(), self.title.into());
        body.insert("status".into(), self.status.as_u16().into());
        body.insert("detail".into(), self.detail.into());
        let mut response = (self.status, Value::Object(body).to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.extend(self.headers);
        response
    }
}
