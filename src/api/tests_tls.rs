//! TLS at the network door, by a client that checks whom it talks to.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use serde_json::{Value, json};

use super::ApiOptions;
use super::tests::{ALPHA, Setup, World, alpha, patient};
use super::tls::{Tls, TlsFiles};
use crate::model::Mode;

#[path = "../../tests/it/support/authority.rs"]
mod authority;

use authority::Authority;

/// A server's certificate of `authority` as files in `dir`.
fn serve(authority: &Authority, dir: &Path) -> TlsFiles {
    authority.sign("server", &["127.0.0.1"]).write(dir, "server");
    std::fs::write(dir.join("clients"), &authority.pem).unwrap();
    TlsFiles { certificate: dir.join("server.pem"), key: dir.join("server.key"), client_ca: Some(dir.join("clients")) }
}

type Secure = StreamOwned<ClientConnection, TcpStream>;

fn connect(world: &World, config: &Arc<ClientConfig>) -> Secure {
    let name = ServerName::try_from("127.0.0.1").unwrap();
    StreamOwned::new(ClientConnection::new(config.clone(), name).unwrap(), world.connect())
}

/// One exchange: status, head, body. An error if the connection came to nothing.
fn send(
    world: &World,
    config: &Arc<ClientConfig>,
    method: &str,
    path: &str,
    headers: &str,
    body: &Value,
) -> std::io::Result<(u16, String, Value)> {
    let mut stream = connect(world, config);
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n{headers}\r\n{body}",
        world.addr,
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Ok((status, head.to_ascii_lowercase(), serde_json::from_str(body).unwrap_or_default()))
}

fn world(dir: &Path, authority: &Authority, options: ApiOptions) -> (World, Arc<Tls>) {
    let tls = Arc::new(Tls::load(serve(authority, dir)).unwrap());
    (World::new(Setup { tls: Some(tls.clone()), options, ..Setup::default() }), tls)
}

#[test]
fn certificate_of_a_client_names_its_owner_and_a_token_is_taken_without_one() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new("desk");
    let (world, _) = world(dir.path(), &authority, patient());
    let get = |config: &Arc<ClientConfig>, headers: &str| {
        send(&world, config, "GET", "/v1/me", headers, &Value::Null).map(|(status, _, body)| (status, body))
    };
    let nobody = authority.client(None);
    let (status, me) = get(&nobody, "authorization: Bearer token-of-olga\r\n").unwrap();
    assert_eq!((status, &me["name"], &me["way"]), (200, &json!("olga"), &json!("token")));
    assert_eq!(get(&nobody, "").unwrap().0, 401);

    let signed = authority.sign("carol", &[]);
    let carol = authority.client(Some(&signed));
    let (status, me) = get(&carol, "").unwrap();
    assert_eq!((status, &me["name"], &me["way"]), (200, &json!("carol"), &json!("certificate")));
    // A token that is sent along is who asks.
    assert_eq!(get(&carol, "authorization: Bearer token-of-vera\r\n").unwrap().1["name"], "vera");
    assert_eq!(get(&carol, "authorization: Bearer wrong\r\n").unwrap().0, 401);
    // A browser sends a certificate whoever asks it to.
    let kill = json!({ "scope": alpha(), "reason": "x" });
    let press = |headers: &str| send(&world, &carol, "POST", "/v1/kill", headers, &kill).unwrap();
    assert_eq!((press("").0, world.mode(ALPHA)), (403, Mode::Normal));
    let (status, _, receipt) = press("x-haltline: 1\r\n");
    assert_eq!((status, &receipt["actor"], world.mode(ALPHA)), (200, &json!("carol"), Mode::Halted));

    // In order, and nobody in the configuration.
    let signed = authority.sign("mallory", &["carol"]);
    assert_eq!(get(&authority.client(Some(&signed)), "").unwrap().0, 401);
    // Of another authority, with the right name.
    let signed = Authority::new("desk").sign("carol", &[]);
    assert!(get(&authority.client(Some(&signed)), "").is_err());
    // Who does not speak TLS is not spoken to.
    assert_eq!(world.send("GET", "/livez", "", "").status, 0);
    assert_eq!(get(&nobody, "authorization: Bearer token-of-olga\r\n").unwrap().0, 200);
}

#[test]
fn cookie_of_a_login_over_tls_is_sent_over_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new("desk");
    let (world, _) = world(dir.path(), &authority, patient());
    let body = json!({ "token": "token-of-olga" });
    let (status, head, _) = send(&world, &authority.client(None), "POST", "/v1/login", "", &body).unwrap();
    assert!(status == 200 && head.contains("; secure"), "{head}");
}

#[test]
fn new_certificates_are_for_new_connections_and_open_ones_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new("desk");
    let (world, tls) = world(dir.path(), &authority, patient());
    let signed = authority.sign("carol", &[]);
    let carol = authority.client(Some(&signed));
    let shown = |stream: &mut Secure| {
        stream.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        let mut status = [0; 12];
        stream.read_exact(&mut status).unwrap();
        assert_eq!(&status, b"HTTP/1.1 200");
        stream.conn.peer_certificates().unwrap()[0].clone().into_owned()
    };
    let mut open = connect(&world, &carol);
    let first = shown(&mut open);
    // Another certificate, and other authorities for clients.
    let (other, files) = (Authority::new("other"), serve(&authority, dir.path()));
    std::fs::write(files.client_ca.unwrap(), &other.pem).unwrap();
    tls.reload().unwrap();
    let second = shown(&mut connect(&world, &authority.client(None)));
    assert_ne!(first, second);
    open.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut rest = String::new();
    open.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("HTTP/1.1 200"), "{rest}");
    // What the client had been known by is no longer worth anything, resumed or not.
    assert!(send(&world, &carol, "GET", "/v1/me", "", &Value::Null).is_err());
}

#[test]
fn handshake_that_does_not_come_to_an_end_is_cut_off_and_takes_no_place_from_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new("desk");
    let options = ApiOptions { header_timeout: Duration::from_millis(100), ..patient() };
    let (slow, _) = world(dir.path(), &authority, options);
    let mut silent = slow.connect();
    let mut half = slow.connect();
    half.write_all(&[0x16, 3, 1, 2, 0]).unwrap();
    for stream in [&mut silent, &mut half] {
        // The server ends both; a read that gave up by itself would be another error.
        match stream.read_to_end(&mut Vec::new()) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        }
    }

    let options = ApiOptions { connections: 3, reserved: 2, ..patient() };
    let (world, _) = world(dir.path(), &authority, options);
    let flood: Vec<TcpStream> = (0..40).map(|_| world.connect()).collect();
    let kill = json!({ "scope": alpha(), "wait_ms": 0 });
    let headers = "authorization: Bearer token-of-olga\r\n";
    let (status, _, _) = send(&world, &authority.client(None), "POST", "/v1/kill", headers, &kill).unwrap();
    assert_eq!((status, world.mode(ALPHA)), (200, Mode::Halted));
    drop(flood);
}
