//! The OpenAPI document and its page. The paths come from the router itself, so that none can be missing.

use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Router, http::StatusCode};
use utoipa::OpenApi;
use utoipa::openapi::path::{HttpMethod, Operation};
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{ContentBuilder, OpenApi as Document, Ref, ResponseBuilder};
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
            application/problem+json (RFC 9457). A body is application/json; a field that is not known is an error.",
        license(name = "MIT OR Apache-2.0"),
    ),
    components(schemas(schema::Problem))
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

fn refusals(path: &str, method: &HttpMethod, operation: &mut Operation) {
    let open = OPEN.contains(&path);
    let mut possible = vec![(503, "Too busy, or too many connections: come back later.")];
    if !open || path == "/v1/login" {
        possible.extend([
            (400, "The body is not JSON, or broke off."),
            (401, "It is not known who asks."),
            (403, "The role, or its scopes, do not allow it; or another site asked."),
            (422, "A field has a value that it cannot have."),
            (429, "Too many wrong tokens; a correct one is still taken."),
        ]);
    }
    if path.contains('{') {
        possible.push((404, "There is none with this id."));
    }
    if !matches!(method, HttpMethod::Get) {
        possible.extend([
            (408, "The body did not arrive in time."),
            (409, "It does not fit the state that things are in."),
            (413, "The body is too large."),
            (415, "The body is not application/json."),
        ]);
    }
    for (status, description) in possible {
        let problem = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
        let response = ResponseBuilder::new().description(description).content("application/problem+json", problem);
        operation.responses.responses.entry(status.to_string()).or_insert_with(|| response.build().into());
    }
    if !open {
        let none: [&str; 0] = [];
        let schemes = ["token", "login"].map(|scheme| SecurityRequirement::new(scheme, none));
        operation.security = Some(schemes.into());
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
