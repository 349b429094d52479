//! Where the service is, and one exchange with it: over its local socket as this user, or over HTTP with a token.

use std::cell::Cell;
use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use haltline::app::config;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::tls::Trust;
use super::{EXIT_FAILED, EXIT_NOT_REACHED, EXIT_REFUSED, EXIT_USAGE, Exit};

/// Where the service is and who asks.
#[derive(Args, Clone, Debug, Default)]
pub struct Target {
    /// The service's configuration file: it says where the local socket is
    #[arg(long, value_name = "FILE", env = "HALTLINE_CONFIG")]
    pub config: Option<PathBuf>,
    /// The local socket. Whoever runs this command is who asks
    #[arg(long, value_name = "PATH", env = "HALTLINE_SOCKET")]
    pub socket: Option<PathBuf>,
    /// The HTTP address [default: what the configuration says, else http://127.0.0.1:7402]
    #[arg(long, env = "HALTLINE_URL")]
    pub url: Option<String>,
    /// A file that holds a token and nothing else: its owner is who asks, over HTTP
    #[arg(long, value_name = "FILE", env = "HALTLINE_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// PEM file of the authorities to believe at an https address [default: the system's]
    #[arg(long, value_name = "FILE", env = "HALTLINE_CA")]
    pub ca: Option<PathBuf>,
    /// PEM file of a client certificate: who is named in it is who asks, over HTTPS
    #[arg(long, value_name = "FILE", env = "HALTLINE_CERT", requires = "key")]
    pub cert: Option<PathBuf>,
    /// PEM file of the certificate's private key
    #[arg(long, value_name = "FILE", env = "HALTLINE_KEY", requires = "cert")]
    pub key: Option<PathBuf>,
}

/// A way to the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Door {
    /// The Unix socket at this path.
    Local(PathBuf),
    /// HTTP at this address.
    Http {
        /// `http://HOST:PORT` or `https://HOST:PORT`.
        url: String,
        /// Holds a token.
        token_file: Option<PathBuf>,
        /// For https.
        trust: Trust,
    },
}

impl fmt::Display for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Door::Local(path) => write!(f, "local socket {}", path.display()),
            Door::Http { url, .. } => f.write_str(url),
        }
    }
}

/// Every way to the service that a [`Target`] tells of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ways {
    /// The local socket.
    pub local: Option<Door>,
    /// HTTP.
    pub http: Option<Door>,
    /// The file that halts the firm, for the advice to make it.
    pub kill_file: Option<PathBuf>,
    /// The file of the halt page.
    pub page: Option<PathBuf>,
    /// What is lacking, in words: a configuration that cannot be read, an address without a token.
    pub lacking: Vec<String>,
}

impl Target {
    /// What was given, and what the configuration adds. A configuration that is of no use takes nothing away.
    pub fn ways(&self) -> Ways {
        let mut lacking = Vec::new();
        let named = match self.config.as_deref().map(config::doors) {
            None => config::Doors::default(),
            Some(Ok(doors)) => doors,
            Some(Err(why)) => {
                lacking.push(why);
                config::Doors::default()
            }
        };
        let url = self.url.clone().unwrap_or_else(|| match named.http {
            Some(listen) if named.tls => format!("https://{listen}"),
            Some(listen) => format!("http://{listen}"),
            None => format!("http://{}", config::Http::default().listen),
        });
        let known = self.token_file.is_some() || self.cert.is_some();
        if self.url.is_some() && !known {
            lacking.push(format!("{url} needs a token: --token-file FILE"));
        }
        let identity = self.cert.clone().zip(self.key.clone());
        let trust = Trust { ca: self.ca.clone(), identity };
        let token_file = self.token_file.clone();
        Ways {
            local: self.socket.clone().or(named.socket).map(Door::Local),
            http: known.then_some(Door::Http { url, token_file, trust }),
            kill_file: named.kill_file,
            page: named.page,
            lacking,
        }
    }
}

/// How an exchange ended, if not with the answer that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The service cannot have heard of it.
    NotReached(String),
    /// Connected, and nothing came back in time: it may have been done, may be done later, or never.
    NoAnswer(String),
    /// The service said no.
    Refused(String),
    /// It answered something else.
    Unclear(String),
}

impl Failure {
    /// What happened, in words.
    pub fn text(&self) -> &str {
        match self {
            Failure::NotReached(text) | Failure::NoAnswer(text) | Failure::Refused(text) | Failure::Unclear(text) => {
                text
            }
        }
    }

    /// The command's exit code if that was all that it tried.
    pub fn exit_code(&self) -> u8 {
        match self {
            Failure::NotReached(_) | Failure::NoAnswer(_) => EXIT_NOT_REACHED,
            Failure::Refused(_) => EXIT_REFUSED,
            Failure::Unclear(_) => EXIT_FAILED,
        }
    }
}

/// How long to wait for an answer that nobody's halt depends on.
const PATIENCE: Duration = Duration::from_secs(10);
/// The largest answer that is read.
const ANSWER_MAX: usize = 64 << 20;

/// Asks through the one door that `target` means: HTTP as the token's owner if there is a token, else the local socket.
pub fn ask_one(target: &Target, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
    let door = one_door(target)?;
    let answer = ask(&door, method, path, body, PATIENCE)?;
    answer.map_err(|failure| {
        let text = format!("{door}: {}", failure.text());
        Exit { code: failure.exit_code(), text }.into()
    })
}

/// The one door that `target` means: HTTP as the token's owner if there is a token, else the local socket.
pub fn one_door(target: &Target) -> Result<Door> {
    let ways = target.ways();
    ways.http.or(ways.local).ok_or_else(|| {
        let mut text = "where is the service? Give --config FILE, --socket PATH or --token-file FILE".to_owned();
        for lacking in ways.lacking {
            text = format!("{lacking}\n{text}");
        }
        Exit { code: EXIT_USAGE, text }.into()
    })
}

/// Something to talk over.
pub trait Line: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Line for T {}

/// A connection through `door`, the host that it is to, and the token to send along.
///
/// # Errors
/// If it could not even be tried.
pub async fn open(door: &Door) -> Result<Result<(Box<dyn Line>, String, Option<String>), Failure>> {
    let not_reached = |error: std::io::Error| Failure::NotReached(error.to_string());
    let connect = async |authority: &str| {
        let connecting = tokio::time::timeout(PATIENCE, TcpStream::connect(authority)).await;
        connecting.map_err(|_| Failure::NotReached("no connection in time".to_owned()))?.map_err(not_reached)
    };
    match door {
        Door::Local(path) => {
            let line = connect_local(path).await.map(|(stream, _)| Box::new(stream) as Box<dyn Line>);
            Ok(line.map(|line| (line, "localhost".to_owned(), None)))
        }
        Door::Http { url, token_file, trust } => {
            let (tls, authority) = authority(url)?;
            let token = token_file.as_deref().map(read_token).transpose()?;
            let connector = tls.then(|| trust.connector(authority)).transpose()?;
            let line = match (connect(authority).await, connector) {
                (Err(failure), _) => Err(failure),
                (Ok(stream), None) => Ok(Box::new(stream) as Box<dyn Line>),
                (Ok(stream), Some((connector, name))) => connector
                    .connect(name, stream)
                    .await
                    .map(|line| Box::new(line) as Box<dyn Line>)
                    .map_err(not_reached),
            };
            Ok(line.map(|line| (line, authority.to_owned(), token)))
        }
    }
}

/// One exchange through `door`, over within `patience`.
///
/// # Errors
/// If it could not even be tried: no token, no runtime.
pub fn ask(
    door: &Door,
    method: Method,
    path: &str,
    body: Option<&Value>,
    patience: Duration,
) -> Result<Result<Value, Failure>> {
    let (token, tls) = match door {
        Door::Local(_) => (None, None),
        Door::Http { url, token_file, trust } => {
            let (tls, authority) = authority(url)?;
            let tls = tls.then(|| trust.connector(authority)).transpose()?;
            (token_file.as_deref().map(read_token).transpose()?, tls)
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Whom the connection reached, once there is one.
    let connected = Cell::new(None);
    let exchange = async {
        match door {
            Door::Local(path_to) => {
                let (stream, pid) = connect_local(path_to).await?;
                connected.set(Some(pid));
                exchange(stream, "localhost", None, method, path, body).await
            }
            Door::Http { url, .. } => {
                // Checked above.
                let (_, authority) = authority(url).unwrap_or_default();
                let not_reached = |error: std::io::Error| Failure::NotReached(error.to_string());
                let stream = TcpStream::connect(authority).await.map_err(not_reached)?;
                match tls {
                    None => {
                        connected.set(Some(None));
                        exchange(stream, authority, token.as_deref(), method, path, body).await
                    }
                    Some((connector, name)) => {
                        // Before the handshake is over nothing was said that could be heard.
                        let stream = connector.connect(name, stream).await.map_err(not_reached)?;
                        connected.set(Some(None));
                        exchange(stream, authority, token.as_deref(), method, path, body).await
                    }
                }
            }
        }
    };
    let answer = runtime.block_on(async { tokio::time::timeout(patience, exchange).await });
    Ok(answer.unwrap_or_else(|_| {
        let ms = patience.as_millis();
        Err(match connected.get() {
            Some(Some(pid)) => Failure::NoAnswer(format!("connected to process {pid}, but no answer within {ms} ms")),
            Some(None) => Failure::NoAnswer(format!("connected, but no answer within {ms} ms")),
            None => Failure::NotReached(format!("no connection within {ms} ms")),
        })
    }))
}

/// Connects to the socket at `path`, and makes sure that it is the service's: of root, of this user, or of whoever owns the
/// directory. Another user who may make files there could otherwise say "confirmed" in its place. Also returns the
/// process that listens, if it can be seen from here.
async fn connect_local(path: &Path) -> Result<(UnixStream, Option<i32>), Failure> {
    let not_reached = |error: std::io::Error| Failure::NotReached(error.to_string());
    let stream = UnixStream::connect(path).await.map_err(not_reached)?;
    let peer = stream.peer_cred().map_err(not_reached)?;
    let uid = peer.uid();
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let owner = std::fs::metadata(dir).map_err(not_reached)?.uid();
    let own = rustix::process::geteuid().as_raw();
    if ![0, own, owner].contains(&uid) {
        return Err(Failure::NotReached(format!(
            "it is held by uid {uid}, who is neither root, nor you, nor the owner of its directory: not asked"
        )));
    }
    Ok((stream, peer.pid().filter(|pid| *pid > 0)))
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

/// Whether the address is one of TLS, and its host and port.
fn authority(url: &str) -> Result<(bool, &str)> {
    let (tls, authority) = match (url.strip_prefix("http://"), url.strip_prefix("https://")) {
        (Some(authority), _) => (false, authority),
        (None, Some(authority)) => (true, authority),
        (None, None) => anyhow::bail!("the address must begin with http:// or https://"),
    };
    let authority = authority.strip_suffix('/').unwrap_or(authority);
    let bare = !authority.contains(['/', '?', '#', '@', ' ']);
    let port = authority.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    ensure!(bare && port, "the address must be http://HOST:PORT or https://HOST:PORT");
    Ok((tls, authority))
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    host: &str,
    token: Option<&str>,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Result<Value, Failure> {
    let bytes = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, host)
        .header(header::CONTENT_TYPE, "application/json")
        // What is known by its certificate alone has to say that it means it.
        .header("x-haltline", "1")
        .header(header::CONNECTION, "close");
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    let request = request.body(Full::new(bytes)).map_err(|error| Failure::NotReached(error.to_string()))?;
    // From here on it may have been heard.
    let lost = |error: hyper::Error| Failure::NoAnswer(format!("connected, but no answer: {error}"));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
    let connection = tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(lost)?;
    let status = response.status();
    let bytes = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
    let bytes = bytes.map_err(|e| Failure::Unclear(format!("the answer broke off: {e}")))?.to_bytes();
    drop(sender);
    connection.abort();
    let answer: Option<Value> = serde_json::from_slice(&bytes).ok();
    if !status.is_success() {
        return Err(Failure::Refused(refusal(status, answer.as_ref())));
    }
    answer.ok_or_else(|| Failure::Unclear("the answer is not JSON".to_owned()))
}

/// A problem document (RFC 9457) in one line.
pub fn refusal(status: StatusCode, problem: Option<&Value>) -> String {
    let part = |key: &str| problem.and_then(|p| p[key].as_str()).unwrap_or_default();
    format!("{status}: {} {}", part("title"), part("detail")).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use serde_json::json;

    use super::*;

    #[test]
    fn an_address_is_http_or_https_with_a_port() {
        assert_eq!(authority("http://127.0.0.1:7402/").unwrap(), (false, "127.0.0.1:7402"));
        assert_eq!(authority("https://[::1]:7402").unwrap(), (true, "[::1]:7402"));
        for bad in ["ftp://127.0.0.1:7402", "127.0.0.1:7402", "http://127.0.0.1", "http://a:1/v1", "http://u@h:1"] {
            assert!(authority(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_request_is_what_the_interface_asks_for_and_the_answer_is_read() {
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
        let door = Door::Http { url, token_file: Some(token_file), trust: Trust::default() };
        let answer = ask(&door, Method::POST, "/v1/kill", Some(&json!({ "reason": "r" })), PATIENCE * 12).unwrap();
        assert_eq!(answer, Err(Failure::Refused("403 Forbidden: No not yours".to_owned())));
        let request = server.join().unwrap();
        assert!(request.starts_with("POST /v1/kill HTTP/1.1\r\n"), "{request}");
        assert!(request.contains("authorization: Bearer abc123\r\n"), "{request}");
        assert!(request.ends_with("{\"reason\":\"r\"}"), "{request}");
    }

    #[test]
    fn who_does_not_answer_is_told_from_who_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let door = Door::Local(path.clone());
        let ask = |ms| ask(&door, Method::POST, "/v1/kill", None, Duration::from_millis(ms)).unwrap().unwrap_err();
        let press = || ask(PATIENCE.as_millis() as u64);
        assert!(matches!(press(), Failure::NotReached(_)));
        // Connections are taken by the kernel; nobody reads them.
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let pid = std::process::id();
        // A busy machine may not even connect within so short a time: then more is given.
        let (ms, late) = (0..)
            .map(|n| 30 << n)
            .map(|ms| (ms, ask(ms)))
            .find(|(ms, failure)| *failure != Failure::NotReached(format!("no connection within {ms} ms")))
            .unwrap();
        assert_eq!(late, Failure::NoAnswer(format!("connected to process {pid}, but no answer within {ms} ms")));
        drop(listener);
        assert!(matches!(press(), Failure::NotReached(_)));
    }

    #[test]
    fn a_configuration_names_the_ways_and_arguments_come_first() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.toml");
        std::fs::write(&file, "[service]\nstate_dir = \"/s\"\n[http]\nlisten = \"127.0.0.1:9\"").unwrap();
        let mut target = Target { config: Some(file), ..Target::default() };
        let ways = target.ways();
        assert_eq!((ways.local, ways.http), (Some(Door::Local("/s/control.sock".into())), None));
        target.token_file = Some("t".into());
        let http =
            |url: &str| Some(Door::Http { url: url.into(), token_file: Some("t".into()), trust: Trust::default() });
        assert_eq!(target.ways().http, http("http://127.0.0.1:9"));
        target.url = Some("http://127.0.0.1:8".into());
        target.socket = Some("/other".into());
        let ways = target.ways();
        assert_eq!((ways.local, ways.http), (Some(Door::Local("/other".into())), http("http://127.0.0.1:8")));
        // A configuration that is of no use takes nothing away.
        target.config = Some(dir.path().join("none"));
        let ways = target.ways();
        assert_eq!(ways.local, Some(Door::Local("/other".into())));
        assert!(ways.lacking[0].contains("cannot read"), "{:?}", ways.lacking);
        let bare = Target { url: Some("http://127.0.0.1:8".into()), ..Target::default() };
        assert!(bare.ways().http.is_none() && bare.ways().lacking[0].contains("needs a token"));
        let error = ask_one(&Target::default(), Method::GET, "/v1/state", None).unwrap_err();
        assert_eq!(error.downcast::<Exit>().unwrap().code, EXIT_USAGE);
    }
}
