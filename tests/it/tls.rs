//! TLS at the real service: who comes with a certificate and who with a token, new certificates, the command line, and receivers
//! of alerts.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::Output;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

use crate::support::authority::Authority;
use crate::support::tls::{connect, exchange, server};
use crate::support::{Daemon, LIMITS, PATIENCE, config, haltline, token};

/// A service that speaks TLS, with a certificate of `authority`, which also signs clients'.
pub fn serve(authority: &Authority, more: &str) -> Daemon {
    let dir = tempfile::tempdir().unwrap();
    authority.sign("server", &["127.0.0.1"]).write(dir.path(), "server");
    std::fs::write(dir.path().join("ca.pem"), &authority.pem).unwrap();
    let tls = "\n[http.tls]\ncertificate = \"server.pem\"\nkey = \"server.key\"\nclient_ca = \"ca.pem\"\n\
               [[auth.certificates]]\nsubject = \"CN=carol\"\nname = \"carol\"\nrole = \"operator\"\n";
    let text = config(&dir.path().join("state"), &format!("{tls}{more}{LIMITS}"));
    std::fs::write(dir.path().join("haltline.toml"), text).unwrap();
    let made = haltline(&["init", "--config", "haltline.toml"]).current_dir(dir.path()).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    Daemon::run(dir)
}

fn bearer(who: &str) -> String {
    format!("Authorization: Bearer {}\r\n", token(who))
}

fn parsed((status, body): (u16, String)) -> (u16, Value) {
    (status, serde_json::from_str(&body).unwrap_or(Value::String(body)))
}

#[test]
fn a_person_is_known_by_certificate_or_token_and_a_stranger_by_neither() {
    let authority = Authority::new("desk");
    let daemon = serve(&authority, "");
    let nobody = authority.client(None);
    let me = |client, headers: &str| parsed(exchange(&daemon.http, client, "GET", "/v1/me", headers, "").unwrap());
    let (status, vera) = me(&nobody, &bearer("vera"));
    assert_eq!((status, &vera["name"], &vera["way"]), (200, &json!("vera"), &json!("token")));
    assert_eq!(me(&nobody, "").0, 401);
    let carol = authority.client(Some(&authority.sign("carol", &[])));
    let (status, known) = me(&carol, "");
    assert_eq!((status, &known["name"], &known["way"]), (200, &json!("carol"), &json!("certificate")));
    // In order, and nobody in the configuration; then one that somebody else has signed.
    assert_eq!(me(&authority.client(Some(&authority.sign("mallory", &[]))), "").0, 401);
    let forged = authority.client(Some(&Authority::new("desk").sign("carol", &[])));
    assert!(exchange(&daemon.http, &forged, "GET", "/v1/me", "", "").is_err());
    // Who believes another authority does not speak to this service; who does not speak TLS is not spoken to.
    assert!(connect(&daemon.http, &Authority::new("desk").client(None)).is_err());
    let mut plain = std::net::TcpStream::connect(&daemon.http).unwrap();
    plain.set_read_timeout(Some(PATIENCE)).unwrap();
    plain.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut said = Vec::new();
    let _ = plain.read_to_end(&mut said);
    assert!(!said.starts_with(b"HTTP"), "{said:?}");

    let body =
        json!({ "scope": { "kind": "strategy", "name": "alpha" }, "reason": "odd", "wait_ms": 5000 }).to_string();
    let kill = |headers: &str| parsed(exchange(&daemon.http, &carol, "POST", "/v1/kill", headers, &body).unwrap());
    // A browser sends the certificate whoever asks it to.
    assert_eq!(kill("").0, 403);
    let (status, receipt) = kill("X-Haltline: 1\r\n");
    let seen = (status, &receipt["actor"], &receipt["latch"]["durable"]);
    assert_eq!(seen, (200, &json!("carol"), &json!(true)), "{receipt}");
    let (status, _) = daemon.terminate();
    assert!(status.success());
}

/// What `/metrics` says of `series`.
fn metric(daemon: &Daemon, authority: &Authority, series: &str) -> f64 {
    let (status, text) = exchange(&daemon.http, &authority.client(None), "GET", "/metrics", "", "").unwrap();
    assert_eq!(status, 200);
    let line = text.lines().find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')));
    let value = line.and_then(|line| line.rsplit(' ').next()?.parse().ok());
    value.unwrap_or_else(|| panic!("{series} is not in {text}"))
}

#[test]
fn sighup_takes_a_new_certificate_for_new_connections_and_keeps_the_old_one_if_it_is_none() {
    let authority = Authority::new("desk");
    let daemon = serve(&authority, "");
    let shown = || {
        let stream = connect(&daemon.http, &authority.client(None)).unwrap();
        stream.conn.peer_certificates().unwrap()[0].clone().into_owned()
    };
    let mut open = connect(&daemon.http, &authority.client(None)).unwrap();
    let first = shown();
    let ends = metric(&daemon, &authority, "haltline_tls_certificate_expiry_timestamp_seconds");
    assert!(ends > 1e9, "{ends}");

    // A certificate without its key: nothing changes, and somebody is told.
    let new = authority.sign("server", &["127.0.0.1"]);
    std::fs::write(daemon.dir.path().join("server.pem"), &new.pem).unwrap();
    daemon.signal("HUP");
    let log = || std::fs::read_to_string(daemon.dir.path().join("log")).unwrap_or_default();
    let wait = |what: &str, holds: &dyn Fn() -> bool| {
        let begin = std::time::Instant::now();
        while !holds() {
            assert!(begin.elapsed() < PATIENCE, "waited in vain until {what}");
            std::thread::yield_now();
        }
    };
    wait("the old one stays", &|| log().contains("the old certificates stay in force"));
    assert_eq!(shown(), first);

    new.write(daemon.dir.path(), "server");
    daemon.signal("HUP");
    wait("the new one is shown", &|| shown() == new.der);
    // Who was there goes on.
    open.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    open.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn the_command_line_comes_with_a_token_or_a_certificate_and_believes_only_the_authority_it_was_given() {
    let authority = Authority::new("desk");
    let daemon = serve(&authority, "");
    let dir = daemon.dir.path();
    authority.sign("carol", &[]).write(dir, "carol");
    std::fs::write(dir.join("vera.token"), token("vera")).unwrap();
    std::fs::write(dir.join("other.pem"), Authority::new("desk").pem).unwrap();
    let url = format!("https://{}", daemon.http);
    let run = |args: &[&str]| -> Output { daemon.haltline(&[args, &["--url", &url]].concat()) };
    let said = |out: &Output| String::from_utf8_lossy(&[out.stdout.clone(), out.stderr.clone()].concat()).into_owned();

    let out = run(&["status", "--token-file", "vera.token", "--ca", "ca.pem", "--text"]);
    assert_eq!(out.status.code(), Some(0), "{}", said(&out));
    let out = run(&["status", "--token-file", "vera.token", "--ca", "other.pem"]);
    assert_eq!(out.status.code(), Some(5), "{}", said(&out));
    // The system's authorities have not signed it either.
    assert_ne!(run(&["status", "--token-file", "vera.token"]).status.code(), Some(0));
    // Over plain HTTP nobody answers: that the service was not understood is not "all is normal".
    let plain = format!("http://{}", daemon.http);
    let out = daemon.haltline(&["status", "--token-file", "vera.token", "--url", &plain]);
    assert_eq!(out.status.code(), Some(5), "{}", said(&out));

    let by_certificate = ["--cert", "carol.pem", "--key", "carol.key", "--ca", "ca.pem"];
    let out = run(&[&["kill", "--scope", "strategy:alpha", "--reason", "odd", "--json"][..], &by_certificate].concat());
    assert_eq!(out.status.code(), Some(0), "{}", said(&out));
    assert!(said(&out).contains("carol"), "{}", said(&out));
    let out = run(&[&["status", "--json"][..], &by_certificate].concat());
    assert_eq!(out.status.code(), Some(3), "{}", said(&out));
    // An operator may not do it.
    let out = run(&[&["wake", "alpha", "--reason", "r"][..], &by_certificate].concat());
    assert_eq!(out.status.code(), Some(4), "{}", said(&out));
}

/// A webhook over TLS that takes everything, and what it took.
fn hook(config: Arc<ServerConfig>) -> (String, Receiver<Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}/in", listener.local_addr().unwrap());
    let (tell, told) = channel();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let (config, tell) = (config.clone(), tell.clone());
            std::thread::spawn(move || {
                let stream = StreamOwned::new(ServerConnection::new(config).unwrap(), socket.unwrap());
                let mut reader = BufReader::new(stream);
                loop {
                    let (mut length, mut line) = (0, String::new());
                    while !line.ends_with("\r\n\r\n") {
                        let from = line.len();
                        // A handshake that came to nothing ends here.
                        let Ok(1..) = reader.read_line(&mut line) else { return };
                        if let Some(value) = line[from..].to_ascii_lowercase().strip_prefix("content-length:") {
                            length = value.trim().parse().unwrap();
                        }
                    }
                    let mut body = vec![0; length];
                    reader.read_exact(&mut body).unwrap();
                    let _ = tell.send(serde_json::from_slice(&body).unwrap());
                    let taken = b"HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n";
                    if reader.get_mut().write_all(taken).is_err() {
                        return;
                    }
                }
            });
        }
    });
    (url, told)
}

#[test]
fn a_webhook_over_tls_is_told_if_its_authority_is_the_one_and_a_wrong_one_is_an_alert() {
    let (ours, other) = (Authority::new("pager"), Authority::new("pager"));
    let (good, told) = hook(server(&ours));
    let (bad, never) = hook(server(&other));
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("secret"), "a-secret-that-is-long-enough\n").unwrap();
    std::fs::write(dir.path().join("pager.pem"), &ours.pem).unwrap();
    let receiver = |name: &str, url: &str| {
        format!("{{ name = \"{name}\", url = \"{url}\", secret_file = \"secret\", ca_file = \"pager.pem\" }}")
    };
    let section =
        format!("[alerts]\ntimeout = \"60s\"\nwebhooks = [{}, {}]\n", receiver("good", &good), receiver("bad", &bad));
    let daemon = Daemon::start_in(dir, &(section + LIMITS));
    daemon.kill("strategy", "alpha", "it buys and buys");
    let message = told.recv_timeout(PATIENCE).expect("the alert in time");
    assert_eq!((&message["type"], &message["alert"]["scope"]["name"]), (&json!("alert.fired"), &json!("alpha")));

    let failing = |d: &Daemon| d.get("vera", "/v1/alerts?kind=delivery&open=true")["alerts"][0].clone();
    daemon.until("the wrong authority is an alert", |d| failing(d).is_object());
    let text = failing(&daemon)["text"].as_str().unwrap().to_owned();
    assert!(text.contains("do not reach bad") && text.to_lowercase().contains("certificate"), "{text}");
    daemon.until("one fails", |d| {
        let scrape = d.get("vera", "/metrics");
        scrape.as_str().unwrap().lines().any(|line| line == "haltline_alert_receivers_failing 1")
    });
    assert!(never.try_recv().is_err(), "nothing was said to who could not show who it is");
}

/// What a service with TLS shows to Prometheus.
pub fn scrape() -> String {
    let authority = Authority::new("desk");
    let daemon = serve(&authority, "");
    exchange(&daemon.http, &authority.client(None), "GET", "/metrics", "", "").unwrap().1
}

#[test]
fn a_certificate_that_cannot_be_used_stops_the_start_with_its_name() {
    let authority = Authority::new("desk");
    let (_, dir) = serve(&authority, "").terminate();
    let run = |dir: &Path| haltline(&["serve", "--config", "haltline.toml"]).current_dir(dir).output().unwrap();
    authority.sign("another", &["127.0.0.1"]).write(dir.path(), "another");
    std::fs::rename(dir.path().join("another.key"), dir.path().join("server.key")).unwrap();
    let out = run(dir.path());
    assert!(!out.status.success());
    std::fs::remove_file(dir.path().join("server.pem")).unwrap();
    let out = run(dir.path());
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success() && said.contains("server.pem"), "{said}");
}
