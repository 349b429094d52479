//! The console: a web page for operators, part of the program and served by it.
//!
//! Plain ES modules without a build step: what is in this directory is what the browser runs. Everything but the page
//! itself lies under a path with a hash of all files, so a browser may keep it for ever, and never mixes two versions. The
//! page may run nothing and ask nobody but this server ([`POLICY`]). It needs no caller: there is nothing secret in
//! it, and what it shows it asks for with the operator's login.

use std::sync::LazyLock;

use axum::Router;
use axum::extract::Path;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::api::problem::Problem;

/// What the page may do: scripts, styles and requests of this server only, nothing inline, in no frame of anybody.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'";

/// Sent with the page and every file of it.
const HEADERS: [(HeaderName, &str); 6] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("permissions-policy"), "camera=(), geolocation=(), microphone=(), usb=()"),
];

/// Where the page says where its files are.
const PLACE: &str = "%BASE%";
const PAGE: &str = include_str!("index.html");

macro_rules! files {
    ($($name:literal)*) => { &[$(($name, include_bytes!($name))),*] };
}

/// Every file of the page, by its path below the version.
const FILES: &[(&str, &[u8])] = files! {
    "app.js" "client.js" "console.css" "dialog.js" "dom.js" "drills.js" "format.js" "fresh.js" "halts.js" "icon.svg" "kill.js" "limits.js"
    "login.js" "overrides.js" "plots.js" "receipt.js" "records.js" "rearm.js" "scopes.js" "sessions.js" "source.js" "store.js" "types.js"
    "vendor/uplot.css" "vendor/uplot.js" "vendor/uplot.LICENSE"
};

/// Sixteen hex digits that change when any byte of the page changes.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let mut hash = blake3::Hasher::new();
    hash.update(PAGE.as_bytes());
    for (name, bytes) in FILES {
        hash.update(name.as_bytes()).update(&bytes.len().to_le_bytes()).update(bytes);
    }
    hash.finalize().to_hex()[..16].to_owned()
});

static PAGE_HERE: LazyLock<String> = LazyLock::new(|| PAGE.replace(PLACE, &format!("/console/{}", *VERSION)));

/// `GET /` and everything under `/console/`.
pub(super) fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new().route("/", get(page)).route("/console/", get(page)).route("/console/{version}/{*file}", get(file))
}

/// The page is asked for anew each time; an unchanged one costs a 304.
async fn page(headers: HeaderMap) -> Response {
    let tag = format!("\"{}\"", *VERSION);
    let known = headers.get(header::IF_NONE_MATCH).and_then(|tags| tags.to_str().ok());
    let mut response = if known.is_some_and(|tags| tags.split(',').any(|t| t.trim().trim_start_matches("W/") == tag)) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        PAGE_HERE.as_str().into_response()
    };
    dress(&mut response, "text/html; charset=utf-8", "no-cache");
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

/// A file of this version. Those of another are gone: a page of it has to be loaded anew.
async fn file(Path((version, name)): Path<(String, String)>) -> Response {
    let found = FILES.iter().find(|(known, _)| *known == name).filter(|_| version == *VERSION);
    let Some((name, bytes)) = found else {
        let detail = "this version of the console has no such file; load the page anew";
        return Problem::new(StatusCode::NOT_FOUND, "not-found", "Not found", detail).into_response();
    };
    let mut response = (*bytes).into_response();
    dress(&mut response, kind(name), "public, max-age=31536000, immutable");
    response
}

fn kind(name: &str) -> &'static str {
    match name.rsplit('.').next() {
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "text/plain; charset=utf-8",
    }
}

fn dress(response: &mut Response, kind: &'static str, cache: &'static str) {
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(cache));
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use axum::http::Request;
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    async fn ask(path: &str, known: Option<&str>) -> (StatusCode, HeaderMap, String) {
        let mut request = Request::get(path);
        if let Some(tag) = known {
            request = request.header(header::IF_NONE_MATCH, tag);
        }
        let answer = router::<()>().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let (parts, body) = answer.into_parts();
        (parts.status, parts.headers, String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap())
    }

    fn text(name: &str) -> &'static str {
        let (_, bytes) = FILES.iter().find(|(known, _)| *known == name).unwrap();
        core::str::from_utf8(bytes).unwrap()
    }

    #[tokio::test]
    async fn the_page_names_only_files_that_are_served_and_each_is_served_for_ever() {
        let (status, headers, page) = ask("/", None).await;
        assert_eq!((status, headers[header::CACHE_CONTROL].to_str().unwrap()), (StatusCode::OK, "no-cache"));
        let named: Vec<&str> =
            page.split('"').filter(|word| word.starts_with("/console/")).map(|path| path.trim()).collect();
        assert!(named.len() >= 3, "{named:?}");
        for path in named {
            let (status, headers, body) = ask(path, None).await;
            assert_eq!(status, StatusCode::OK, "{path}");
            assert!(headers[header::CACHE_CONTROL].to_str().unwrap().contains("immutable"), "{path}");
            assert!(!body.is_empty(), "{path}");
        }
        assert_eq!(ask("/console/0000000000000000/app.js", None).await.0, StatusCode::NOT_FOUND);
        assert_eq!(ask(&format!("/console/{}/mod.rs", *VERSION), None).await.0, StatusCode::NOT_FOUND);
    }

    #[tokio::test]
    async fn an_unchanged_page_is_not_sent_again() {
        let (_, headers, _) = ask("/", None).await;
        let tag = headers[header::ETAG].to_str().unwrap();
        let (status, _, body) = ask("/", Some(tag)).await;
        assert_eq!((status, body.as_str()), (StatusCode::NOT_MODIFIED, ""));
        assert_eq!(ask("/", Some("\"another\"")).await.0, StatusCode::OK);
    }

    #[tokio::test]
    async fn page_and_files_may_run_and_ask_nothing_from_elsewhere() {
        for path in ["/".to_owned(), "/console/".to_owned(), format!("/console/{}/app.js", *VERSION)] {
            let (_, headers, _) = ask(&path, None).await;
            let policy = headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
            assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{path}: {policy}");
        }
        for (what, text) in FILES.iter().map(|(name, _)| (*name, text(name))).chain([("index.html", PAGE)]) {
            let ours = !what.starts_with("vendor/");
            assert!(!ours || !text.contains("://") || what.ends_with(".svg"), "{what} names another server");
        }
    }

    #[test]
    fn every_file_of_the_directory_and_every_import_is_in_the_table() {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/api/console");
        for sub in ["", "vendor/"] {
            for entry in std::fs::read_dir(dir.join(sub)).unwrap() {
                let name = format!("{sub}{}", entry.unwrap().file_name().to_str().unwrap());
                let known = FILES.iter().any(|(known, _)| *known == name);
                // The last one is for the type checker.
                let other = ["mod.rs", "index.html", "vendor", "vendor/uplot.d.ts"];
                assert!(known || other.contains(&name.as_str()), "{name} is not served");
            }
        }
        for (name, _) in FILES.iter().filter(|(name, _)| name.ends_with(".js") && !name.contains('/')) {
            for import in text(name).lines().filter(|line| line.starts_with("import ") || line.starts_with("} from ")) {
                let Some(path) = import.split('"').nth(1) else { continue };
                let path = path.strip_prefix("./").unwrap_or(path);
                assert!(FILES.iter().any(|(known, _)| *known == path), "{name} imports {path}");
            }
        }
    }
}
