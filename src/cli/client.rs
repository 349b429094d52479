//! `kill` and `state`: one HTTP request to a running service.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};

use super::{EXIT_TRIPPED, say};

/// Where the service is and who asks.
#[derive(Args, Debug)]
pub struct Target {
    /// The service's HTTP address
    #[arg(long, default_value = "http://127.0.0.1:7402", env = "HALTLINE_URL")]
    url: String,
    /// A file that holds the token and nothing else
    #[arg(long, value_name = "FILE", env = "HALTLINE_TOKEN_FILE")]
    token_file: PathBuf,
}

/// Arguments of `kill`.
#[derive(Args, Debug)]
pub struct KillArgs {
    /// What to halt: firm, account:NAME, strategy:NAME, instrument:NAME or session:NAME
    #[arg(long, default_value = "firm", value_parser = scope)]
    scope: Scope,
    /// Why: it is recorded
    #[arg(long, default_value = "haltline kill")]
    reason: String,
    #[command(flatten)]
    target: Target,
}

/// Arguments of `state`.
#[derive(Args, Debug)]
pub struct StateArgs {
    /// Print the whole answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Scope {
    kind: String,
    name: String,
}

fn scope(text: &str) -> Result<Scope, String> {
    let (kind, name) = text.split_once(':').unwrap_or((text, ""));
    let known = match kind {
        "firm" => name.is_empty(),
        "account" | "strategy" | "instrument" | "session" => !name.is_empty(),
        _ => false,
    };
    if !known {
        return Err("must be firm, account:NAME, strategy:NAME, instrument:NAME or session:NAME".to_owned());
    }
    Ok(Scope { kind: kind.to_owned(), name: name.to_owned() })
}

/// How long to wait for the whole answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The largest answer that is read.
const ANSWER_MAX: usize = 64 << 20;

/// Presses the button and prints the receipt. Success is a receipt that says "confirmed".
pub fn kill(args: &KillArgs) -> Result<ExitCode> {
    let scope = json!({ "kind": args.scope.kind, "name": args.scope.name });
    let body = json!({ "scope": scope, "reason": args.reason });
    let receipt = ask(&args.target, Method::POST, "/v1/kill", Some(&body))?;
    say(&format!("{receipt:#}\n"))?;
    if receipt["status"] == "confirmed" {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("the kill is not confirmed: see \"missing\" in the receipt");
    Ok(ExitCode::FAILURE)
}

/// Shows what is halted.
pub fn state(args: &StateArgs) -> Result<ExitCode> {
    let state = ask(&args.target, Method::GET, "/v1/state", None)?;
    let (tripped, text) = summary(&state)?;
    say(&if args.json { format!("{state:#}\n") } else { text })?;
    Ok(if tripped { ExitCode::from(EXIT_TRIPPED) } else { ExitCode::SUCCESS })
}

/// Whether anything is not normal, and the state in a few lines.
fn summary(state: &Value) -> Result<(bool, String)> {
    // An answer that cannot be understood must not look like "nothing is halted".
    let list = |key: &str| state[key].as_array().with_context(|| format!("the answer has no {key:?}"));
    let word = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let mut text = String::new();
    let mut tripped = state["mode"] != "normal";
    text.push_str(&format!("firm: {}\n", word(&state["mode"])));
    for key in ["halts", "orphans"] {
        for halt in list(key)? {
            tripped = true;
            let (kind, name) = (word(&halt["scope"]["kind"]), word(&halt["scope"]["name"]));
            let known = if key == "orphans" { " (not in the configuration)" } else { "" };
            let scope = if name.is_empty() { kind } else { format!("{kind} {name}") };
            text.push_str(&format!("{scope}: {} since epoch {}{known}\n", word(&halt["mode"]), halt["epoch"]));
            for cause in halt["causes"].as_array().into_iter().flatten() {
                let (at, actor, reason) = (word(&cause["at"]), word(&cause["actor"]), word(&cause["reason"]));
                text.push_str(&format!("    {at} {actor}: {reason}\n"));
            }
        }
    }
    if state["stale"] == true {
        text.push_str("the engine makes no progress\n");
    }
    // Names and reasons come from outside: nothing in them may move the cursor.
    let shown = text.chars().filter(|c| *c == '\n' || !c.is_control()).collect();
    Ok((tripped, shown))
}

fn ask(target: &Target, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
    let token = read_token(&target.token_file)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answer = async {
        let exchange = exchange(&target.url, &token, method, path, body);
        tokio::time::timeout(PATIENCE, exchange).await.context("no answer in time")?
    };
    let answer = runtime.block_on(answer);
    answer.with_context(|| format!("asking {}{path}", target.url))
}

fn read_token(path: &Path) -> Result<String> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading the token in {}", path.display()))?;
    let token = text.trim();
    ensure!(
        !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic()),
        "{} must hold one token and nothing else",
        path.display()
    );
    Ok(token.to_owned())
}

/// Host and port of `http://host:port`. The service speaks plain HTTP, on loopback or behind a proxy.
fn authority(url: &str) -> Result<&str> {
    let authority = url.strip_prefix("http://").context("the address must begin with http://")?;
    let authority = authority.strip_suffix('/').unwrap_or(authority);
    let bare = !authority.contains(['/', '?', '#', '@', ' ']);
    let port = authority.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    ensure!(bare && port, "the address must be http://HOST:PORT");
    Ok(authority)
}

async fn exchange(url: &str, token: &str, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
    let authority = authority(url)?;
    let stream = tokio::net::TcpStream::connect(authority).await.context("connecting")?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let bytes = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, authority)
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CONNECTION, "close")
        .body(Full::new(bytes))?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let bytes = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
    let bytes = bytes.map_err(|e| anyhow::anyhow!("reading the answer: {e}"))?.to_bytes();
    drop(sender);
    connection.abort();
    let answer: Option<Value> = serde_json::from_slice(&bytes).ok();
    if !status.is_success() {
        bail!("{}", refusal(status, answer.as_ref()));
    }
    answer.context("the answer is not JSON")
}

/// A problem document (RFC 9457) in one line.
fn refusal(status: StatusCode, problem: Option<&Value>) -> String {
    let part = |key: &str| problem.and_then(|p| p[key].as_str()).unwrap_or_default();
    format!("{status}: {} {}", part("title"), part("detail")).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_is_a_kind_and_a_name() {
        let scope_of = |kind: &str, name: &str| Ok(Scope { kind: kind.into(), name: name.into() });
        assert_eq!(scope("firm"), scope_of("firm", ""));
        assert_eq!(scope("strategy:alpha"), scope_of("strategy", "alpha"));
        for bad in ["", "firm:x", "strategy", "strategy:", "pair:a/b", "alpha"] {
            assert!(scope(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_address_is_plain_http_with_a_port() {
        assert_eq!(authority("http://127.0.0.1:7402/").unwrap(), "127.0.0.1:7402");
        assert_eq!(authority("http://[::1]:7402").unwrap(), "[::1]:7402");
        for bad in ["https://127.0.0.1:7402", "127.0.0.1:7402", "http://127.0.0.1", "http://a:1/v1", "http://u@h:1"] {
            assert!(authority(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_halt_anywhere_is_told_and_an_unknown_answer_is_no_all_clear() {
        let calm = json!({ "mode": "normal", "halts": [], "orphans": [], "stale": false });
        assert_eq!(summary(&calm).unwrap(), (false, "firm: normal\n".to_owned()));
        let mut halted = calm.clone();
        halted["halts"] = json!([{
            "scope": { "kind": "strategy", "name": "alpha" }, "mode": "halted", "epoch": 7,
            "causes": [{ "at": "t", "actor": "alice", "reason": "drill\u{1b}[2J" }],
        }]);
        let (tripped, text) = summary(&halted).unwrap();
        assert!(tripped);
        assert_eq!(text, "firm: normal\nstrategy alpha: halted since epoch 7\n    t alice: drill[2J\n");
        let mut orphan = calm.clone();
        // The firm has no name, and none is shown.
        let mut firm = calm.clone();
        firm["mode"] = json!("halted");
        firm["halts"] =
            json!([{ "scope": { "kind": "firm", "name": "" }, "mode": "halted", "epoch": 8, "causes": [] }]);
        assert_eq!(summary(&firm).unwrap(), (true, "firm: halted\nfirm: halted since epoch 8\n".to_owned()));
        orphan["orphans"] = json!([{ "scope": { "kind": "strategy", "name": "gone" }, "mode": "halted", "epoch": 1 }]);
        assert!(summary(&orphan).unwrap().0);
        assert!(summary(&json!({ "mode": "normal" })).is_err());
        assert!(summary(&json!({ "halts": [], "orphans": [] })).unwrap().0);
    }

    #[test]
    fn the_request_is_what_the_interface_asks_for_and_the_answer_is_read() {
        use std::io::{Read as _, Write as _};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            let mut chunk = [0; 1024];
            while !request.ends_with(b"}") {
                let n = stream.read(&mut chunk).unwrap();
                assert!(n > 0, "the request ended early");
                request.extend_from_slice(&chunk[..n]);
            }
            let body = r#"{"title":"No","detail":"not yours"}"#;
            let head = format!("HTTP/1.1 403 Forbidden\r\nContent-Length: {}\r\n\r\n", body.len());
            stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
            String::from_utf8(request).unwrap()
        });
        let dir = tempfile::tempdir().unwrap();
        let token_file = dir.path().join("token");
        std::fs::write(&token_file, "abc123\n").unwrap();
        let target = Target { url, token_file };
        let error = ask(&target, Method::POST, "/v1/kill", Some(&json!({ "reason": "r" }))).unwrap_err();
        assert!(format!("{error:#}").ends_with("403 Forbidden: No not yours"), "{error:#}");
        let request = server.join().unwrap();
        assert!(request.starts_with("POST /v1/kill HTTP/1.1\r\n"), "{request}");
        assert!(request.contains("authorization: Bearer abc123\r\n"), "{request}");
        assert!(request.ends_with("{\"reason\":\"r\"}"), "{request}");
    }
}
