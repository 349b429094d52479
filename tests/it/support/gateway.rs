//! A gateway over WebSocket.

use std::time::Instant;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::{Daemon, PATIENCE, block_on, token};

/// A gateway that speaks JSON, written from the published messages alone.
///
/// A thread of its own has the connection: it answers pings and takes what comes, whatever the test is at, so a test that does
/// something else for a while is never taken for one that is gone or does not read. When it is dropped, the connection is closed
/// behind what was sent, and the drop waits until the service has read all of it: nothing is lost with a reset.
pub struct Gateway {
    /// To the thread and from it. `None` only while it is dropped.
    sends: Option<UnboundedSender<Message>>,
    hears: UnboundedReceiver<String>,
    thread: Option<std::thread::JoinHandle<()>>,
    pub seq: u64,
    /// The last sequence of which it was said that everything up to it was taken.
    taken: u64,
    /// Modes of scopes as pushed.
    pub modes: Vec<Value>,
}

impl Gateway {
    /// Connects and says hello. Returns the welcome too.
    pub async fn connect(daemon: &Daemon, session: &str) -> (Gateway, Value) {
        Gateway::connect_saying(daemon, session, json!({ "type": "hello" })).await
    }

    /// As [`Gateway::connect`], with this hello.
    pub async fn connect_saying(daemon: &Daemon, session: &str, hello: Value) -> (Gateway, Value) {
        Gateway::connect_to(&daemon.ws, session, hello).await
    }

    /// As [`Gateway::connect_saying`], to the service whose events are taken at `ws`.
    pub async fn connect_to(ws: &str, session: &str, hello: Value) -> (Gateway, Value) {
        let begin = Instant::now();
        loop {
            let mut gateway = Gateway::dial_to(ws, session, hello.clone()).await;
            // It hangs up without a word on who is too slow with the handshake or the hello, as this machine may be.
            let Some(welcome) = gateway.next_if_open().await else {
                assert!(begin.elapsed() < PATIENCE, "the connection is closed again and again");
                continue;
            };
            assert_eq!(welcome["type"], "welcome", "{welcome}");
            gateway.seq = welcome["next_seq"].as_u64().unwrap() - 1;
            return (gateway, welcome);
        }
    }

    /// Connects and says this hello, whatever comes of it.
    pub async fn dial(daemon: &Daemon, session: &str, hello: Value) -> Gateway {
        Gateway::dial_to(&daemon.ws, session, hello).await
    }

    async fn dial_to(ws: &str, session: &str, hello: Value) -> Gateway {
        let mut request = format!("ws://{ws}/").into_client_request().unwrap();
        let headers = request.headers_mut();
        headers.insert("authorization", format!("Bearer {}", token(session)).parse().unwrap());
        headers.insert("sec-websocket-protocol", "haltline.v1.json".parse().unwrap());
        let (sends, to_send) = unbounded_channel();
        let (heard, hears) = unbounded_channel();
        let (is_there, there) = tokio::sync::oneshot::channel();
        let thread = std::thread::spawn(move || {
            block_on(async {
                let mut socket = reached(request).await;
                // With the connection, as far as this thread can: it is waited for only so long.
                let said = socket.send(Message::text(hello.to_string())).await;
                let _ = is_there.send(());
                if said.is_ok() {
                    carry(socket, to_send, heard).await;
                }
            });
        });
        there.await.expect("a connection");
        Gateway { sends: Some(sends), hears, thread: Some(thread), seq: 0, taken: 0, modes: Vec::new() }
    }

    pub async fn send(&mut self, message: Value) {
        let sends = self.sends.as_ref().unwrap();
        sends.send(Message::text(message.to_string())).expect("an open connection");
    }

    /// Sends an event with the next sequence.
    pub async fn event(&mut self, mut message: Value) {
        self.seq += 1;
        message["seq"] = json!(self.seq);
        self.send(message).await;
    }

    /// A limit order of strategy `alpha`.
    pub async fn buy(&mut self, id: &str, qty: u64) -> Value {
        self.event(json!({
            "type": "new", "strategy": "alpha", "instrument": "ACME", "id": id, "side": "buy",
            "ord_type": "limit", "qty": qty, "px": "10.00",
        }))
        .await;
        // A new connection hears the answers of the one before again.
        loop {
            let verdict = self.verdict().await;
            if verdict["seq"] == self.seq {
                return verdict;
            }
        }
    }

    /// The next message of any type; a mode is confirmed and remembered.
    pub async fn next(&mut self) -> Value {
        tokio::time::timeout(PATIENCE, self.next_if_open())
            .await
            .expect("a message in time")
            .expect("an open connection")
    }

    /// As [`Gateway::next`], however long that takes; `None` once the connection is closed.
    pub async fn next_if_open(&mut self) -> Option<Value> {
        let message: Value = serde_json::from_str(&self.hears.recv().await?).unwrap();
        if message["type"] == "mode" {
            self.modes.extend(message["scopes"].as_array().unwrap().iter().cloned());
            let confirmed = json!({ "type": "mode_ack", "page": message["page"] });
            // Who has hung up since needs none.
            let _ = self.sends.as_ref().unwrap().send(Message::text(confirmed.to_string()));
        }
        if message["type"] == "applied" || message["type"] == "verdict" {
            self.taken = self.taken.max(message["seq"].as_u64().unwrap_or(0));
        }
        Some(message)
    }

    /// The next message of this type.
    pub async fn next_of(&mut self, kind: &str) -> Value {
        loop {
            let message = self.next().await;
            if message["type"] == kind {
                return message;
            }
        }
    }

    pub async fn verdict(&mut self) -> Value {
        self.next_of("verdict").await
    }

    /// Waits until the engine has taken every event that was sent; what is heard meanwhile is dropped.
    pub async fn until_taken(&mut self) {
        while self.taken < self.seq {
            self.next().await;
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        drop(self.sends.take());
        let thread = self.thread.take().unwrap();
        // A test that fails may have left a service that stands still.
        if !std::thread::panicking() {
            let _ = thread.join();
        }
    }
}

/// Connects. The service hangs up on who is too slow with the handshake: then it is tried again.
async fn reached(request: Request) -> WebSocketStream<MaybeTlsStream<tokio::net::TcpStream>> {
    let begin = Instant::now();
    loop {
        match connect_async(request.clone()).await {
            Ok((socket, _)) => return socket,
            Err(error @ Error::Http(_)) => panic!("{error}"),
            Err(error) => assert!(begin.elapsed() < PATIENCE, "{error}"),
        }
    }
}

/// Has the connection until either side ends it.
async fn carry(
    mut socket: WebSocketStream<MaybeTlsStream<tokio::net::TcpStream>>,
    mut to_send: UnboundedReceiver<Message>,
    heard: UnboundedSender<String>,
) {
    loop {
        tokio::select! {
            message = socket.next() => match message {
                Some(Ok(Message::Text(text))) => _ = heard.send(text.to_string()),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return,
            },
            message = to_send.recv() => {
                let Some(message) = message else { break };
                if socket.send(message).await.is_err() {
                    return;
                }
            }
        }
    }
    // A close with something unread resets the connection, and what was sent last may be lost with it.
    let MaybeTlsStream::Plain(stream) = socket.get_mut() else { unreachable!("ws:// is plain") };
    let _ = stream.shutdown().await;
    let mut rest = [0; 1 << 12];
    let end = async { while stream.read(&mut rest).await.is_ok_and(|read| read > 0) {} };
    let _ = tokio::time::timeout(PATIENCE, end).await;
}
