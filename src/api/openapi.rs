//! The OpenAPI document and its page. The paths come from the router itself, so that none can be missing.

use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Router, http::StatusCode};
use utoipa::OpenApi;
use utoipa::openapi::path::{HttpMethod, Operation, Parameter};
use utoipa::openapi::schema::SchemaType;
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{ContentBuilder, Object, OpenApi as Document, Ref, RefOr, ResponseBuilder, Schema, Type};
use utoipa_swagger_ui::{Config, SwaggerUi};

use crate::api::schema;

/// Where the document is.
pub(super) const DOCUMENT: &str = "/v1/openapi.json";
/// Where the page is.
const PAGE: &str = "/docs";

/// What there is to say that no handler knows.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "haltline",
        description = "Halt order flow, see what is halted and why, and bring it back deliberately. Every error is \
            application/problem+json (RFC 9457). A body is application/json; a field that is not known is an error. With a \
            cookie or a certificate alone, what changes anything needs the header X-Haltline, with any value.",
        license(name = "MIT OR Apache-2.0"),
    ),
    // Of the stream's events the interface language has no form of its own.
    components(schemas(schema::Problem, schema::StreamState, schema::StreamDelta, schema::StreamEnd, schema::ScopeKind))
)]
pub(super) struct Frame;

/// Endpoints that anybody may ask, without saying who it is.
const OPEN: [&str; 5] = ["/livez", "/readyz", "/metrics", "/v1/login", DOCUMENT];

/// Adds what holds for every endpoint: how callers are known, and what is refused.
pub(super) fn complete(mut document: Document) -> Document {
    let components = document.components.get_or_insert_default();
    let mut scheme = |name: &str, scheme| components.add_security_scheme(name, scheme);
    scheme("token", SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build()));
    let cookie = ApiKeyValue::with_description("haltline_7402", "Of POST /v1/login; its name ends with the port.");
    scheme("login", SecurityScheme::ApiKey(ApiKey::Cookie(cookie)));
    let description = Some("Of an authority that the configuration names.".to_owned());
    scheme("certificate", SecurityScheme::MutualTls { description, deprecated: None, extensions: None });
    for (path, item) in &mut document.paths.paths {
        let operations = [
            (HttpMethod::Get, &mut item.get),
            (HttpMethod::Post, &mut item.post),
            (HttpMethod::Put, &mut item.put),
            (HttpMethod::Delete, &mut item.delete),
            (HttpMethod::Patch, &mut item.patch),
        ];
        for (method, operation) in operations {
            if let Some(operation) = operation {
                refusals(path, &method, operation);
            }
        }
    }
    document
}

/// Adds what may be answered besides what the endpoint says itself, and whom it is for.
fn refusals(path: &str, method: &HttpMethod, operation: &mut Operation) {
    let open = OPEN.contains(&path);
    // Where who asks may matter.
    let asks_who = !open || ["/v1/login", "/metrics"].contains(&path);
    let mut possible = vec![(503, "Too busy, or too many connections: come back later.")];
    if asks_who {
        possible.extend([
            (401, "It is not known who asks."),
            (403, "The role, or its scopes, do not allow it; or another site asked."),
            (429, "Too many wrong tokens, from here or of this kind; a correct one is still taken."),
        ]);
    }
    if asks_who && path != "/metrics" {
        possible.extend([
            (400, "The query or the body cannot be read."),
            (422, "A field has a value that it cannot have, or is none of this request."),
        ]);
    }
    if path.contains('{') {
        possible.push((404, "There is none with this name or id."));
    }
    if !matches!(method, HttpMethod::Get) && path != "/v1/kill" {
        possible.push((409, "It does not fit the state that things are in."));
    }
    if operation.request_body.is_some() {
        possible.extend([
            (408, "The body did not arrive in time."),
            (413, "The body is too large."),
            (415, "The body is not application/json."),
        ]);
    }
    let responses = &mut operation.responses.responses;
    for (status, description) in possible {
        let response = || ResponseBuilder::new().description(description).build().into();
        responses.entry(status.to_string()).or_insert_with(response);
    }
    for (status, response) in responses {
        if let RefOr::T(response) = response
            && status.as_str() >= "400"
            && response.content.is_empty()
        {
            let problem = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
            response.content.insert("application/problem+json".to_owned(), RefOr::T(problem));
        }
    }
    for parameter in operation.parameters.iter_mut().flatten() {
        if let RefOr::T(Parameter { schema: Some(schema), .. }) = parameter {
            never_null(schema);
        }
    }
    if !open {
        let none: [&str; 0] = [];
        let schemes = ["token", "login", "certificate"].map(|scheme| SecurityRequirement::new(scheme, none));
        operation.security = Some(schemes.into());
    }
}

/// A parameter that need not be sent is left out: there is no way to send `null`.
fn never_null(schema: &mut RefOr<Schema>) {
    match schema {
        RefOr::T(Schema::Object(Object { schema_type: SchemaType::Array(types), .. })) => {
            types.retain(|one| *one != Type::Null);
        }
        // One of null and something that has a name.
        RefOr::T(Schema::OneOf(several)) => {
            if let Some(named) = several.items.iter().find(|one| matches!(one, RefOr::Ref(_))) {
                *schema = named.clone();
            }
        }
        RefOr::T(_) | RefOr::Ref(_) => {}
    }
}

/// The document, and the page that shows it. Neither tells anything about this service; neither fetches anything from
/// elsewhere.
pub(super) fn routes(document: &Document) -> Router {
    // Made once: it does not change.
    let (status, text) = match document.to_json() {
        Ok(text) => (StatusCode::OK, text),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    };
    let json = HeaderValue::from_static("application/json");
    let document = get(async move || (status, [(header::CONTENT_TYPE, json.clone())], text.clone()).into_response());
    let page = Router::from(SwaggerUi::new(PAGE).config(Config::from(DOCUMENT).validator_url("none")));
    Router::new().route(DOCUMENT, document).merge(page.layer(map_response(guarded)))
}

/// Scripts and styles of our own, and requests to this server: nothing else.
async fn guarded(mut response: Response) -> Response {
    let headers = response.headers_mut();
    let policy = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
                  connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    for (name, value) in
        [("content-security-policy", policy), ("x-content-type-options", "nosniff"), ("referrer-policy", "no-referrer")]
    {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    response
}
