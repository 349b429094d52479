//! TLS on loopback: a server, and a client of the service.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Instant;

use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, ServerConfig, StreamOwned};

use super::authority::Authority;
use super::{PATIENCE, TOLERATED, unchunk};

/// A server on loopback with a certificate of `authority`.
pub fn server(authority: &Authority) -> Arc<ServerConfig> {
    let own = authority.sign("server", &["127.0.0.1"]);
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap();
    Arc::new(builder.with_no_client_auth().with_single_cert(vec![own.der.clone()], own.private()).unwrap())
}

/// Tries again what came to nothing if this process was so slow with it that the service was right to hang up.
fn unless_late<T>(attempt: impl Fn() -> std::io::Result<T>) -> std::io::Result<T> {
    let begin = Instant::now();
    loop {
        let tried = Instant::now();
        match attempt() {
            Err(_) if tried.elapsed() > TOLERATED && begin.elapsed() < PATIENCE => {}
            result => return result,
        }
    }
}

/// A connection to a service on loopback; its handshake is over.
pub fn connect(http: &str, client: &Arc<ClientConfig>) -> std::io::Result<StreamOwned<ClientConnection, TcpStream>> {
    unless_late(|| connect_once(http, client))
}

fn connect_once(http: &str, client: &Arc<ClientConfig>) -> std::io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let socket = TcpStream::connect(http)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let mut stream = StreamOwned::new(ClientConnection::new(client.clone(), name).unwrap(), socket);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(stream)
}

/// One exchange: the status and the body. An error if the connection came to nothing.
pub fn exchange(
    http: &str,
    client: &Arc<ClientConfig>,
    method: &str,
    path: &str,
    headers: &str,
    body: &str,
) -> std::io::Result<(u16, String)> {
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {http}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         {headers}Connection: close\r\n\r\n{body}",
        body.len()
    );
    let (head, body) = unless_late(|| {
        let mut stream = connect_once(http, client)?;
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").ok_or(std::io::ErrorKind::UnexpectedEof)?;
        Ok((head.to_owned(), body.to_owned()))
    })?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    Ok((status, if chunked { unchunk(&body) } else { body }))
}
