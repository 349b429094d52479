//! From a TCP connection to a session that is let in: the handshake and whose token it bears, `hello`, the look at what runs there.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::{HeaderMap, HeaderValue, StatusCode, header};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use crate::guard::door::{Arrival, ArrivalId, Peer, Way};
use crate::ingest::ws::talk::converse;
use crate::ingest::ws::{Conn, Edge, End, count};
use crate::model::Claim;
use crate::units::SessionId;
use crate::wire::hello::Hello;
use crate::wire::json::{self, Client, Server};
use crate::wire::{MESSAGE_BYTES_MAX, Problem, Protocol};

/// Who a handshake turned out to be from.
struct Admitted {
    session: SessionId,
    protocol: Protocol,
}

fn refusal(status: StatusCode, why: &str) -> ErrorResponse {
    let mut response = ErrorResponse::new(Some(why.to_owned()));
    *response.status_mut() = status;
    if status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let (one, None) = (all.next()?, all.next()) else { return None };
    let (scheme, token) = one.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// Judges the headers of a handshake; counts what it refuses.
fn admit(edge: &Edge, headers: &HeaderMap) -> Result<Admitted, Box<ErrorResponse>> {
    let foreign = headers
        .get_all(header::ORIGIN)
        .iter()
        .any(|o| !edge.options.origins.iter().any(|listed| o.as_bytes() == listed.as_bytes()));
    if foreign {
        count(&edge.stats.refused_origin, 1);
        return Err(Box::new(refusal(StatusCode::FORBIDDEN, "Origin: must be one that the configuration lists")));
    }
    let Some(session) = bearer(headers)
        .and_then(|token| edge.auth.session(token))
        .filter(|s| usize::from(s.0) < edge.universe.sessions.len())
    else {
        count(&edge.stats.refused_auth, 1);
        let why = "Authorization: must be Bearer and the token of a session";
        return Err(Box::new(refusal(StatusCode::UNAUTHORIZED, why)));
    };
    let offered = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
    let protocol =
        offered.filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')).find_map(|p| Protocol::from_name(p.trim()));
    let Some(protocol) = protocol else {
        count(&edge.stats.refused_protocol, 1);
        let why = "Sec-WebSocket-Protocol: must offer haltline.v1.json or haltline.v1.bin";
        return Err(Box::new(refusal(StatusCode::BAD_REQUEST, why)));
    };
    Ok(Admitted { session, protocol })
}

/// A connection from its handshake to its end.
pub(super) async fn connection(edge: &Rc<Edge>, stream: TcpStream) {
    // Without it a verdict may wait for the acknowledgement of the one before.
    let _ = stream.set_nodelay(true);
    let peer = match (stream.peer_addr(), stream.local_addr()) {
        (Ok(remote), Ok(local)) => Peer::Tcp { remote, local },
        (Err(_), _) | (_, Err(_)) => Peer::Unknown,
    };
    let config = WebSocketConfig::default()
        .read_buffer_size(MESSAGE_BYTES_MAX)
        .write_buffer_size(MESSAGE_BYTES_MAX)
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    let mut admitted = None;
    let mut refused = false;
    #[expect(clippy::result_large_err, reason = "the type is tungstenite's")]
    let judge = |request: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
        match admit(edge, request.headers()) {
            Ok(a) => {
                let name = HeaderValue::from_static(a.protocol.name());
                response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, name);
                admitted = Some(a);
                Ok(response)
            }
            Err(response) => {
                refused = true;
                Err(*response)
            }
        }
    };
    let shaken = tokio_tungstenite::accept_hdr_async_with_config(stream, judge, Some(config));
    let shaken = tokio::time::timeout(edge.options.handshake_timeout, shaken).await;
    let (Ok(Ok(mut ws)), Some(Admitted { session, protocol })) = (shaken, admitted) else {
        if !refused {
            count(&edge.stats.refused_handshake, 1);
        }
        return;
    };
    let hello = match tokio::time::timeout(edge.options.hello_timeout, hello(edge, &mut ws, session)).await {
        Ok(Ok(hello)) => hello,
        told => {
            count(&edge.stats.refused_handshake, 1);
            // What is wrong with it goes first: the reason of a close has no room for it.
            if let Ok(Err(Some(Problem { field, value, rule }))) = told {
                let error = Server::Error { seq: None, field: field.to_owned(), value, rule: rule.to_owned() };
                let say = ws.send(Message::Text(Utf8Bytes::from(error.encode())));
                let _ = tokio::time::timeout(Duration::from_millis(100), say).await;
            }
            let reason = "the first message must be hello, in time";
            close(&mut ws, CloseCode::Policy, reason).await;
            return;
        }
    };
    if edge.stopping.get() {
        return;
    }
    if let Some(reason) = has_gate(edge, session) {
        count(&edge.stats.refused_gate, 1);
        close(&mut ws, CloseCode::Policy, reason).await;
        return;
    }
    let Some(arrival) = pass_door(edge, session, &hello.claim, peer).await else {
        count(&edge.stats.refused_handshake, 1);
        close(&mut ws, CloseCode::Again, "what runs there could not be looked at in time").await;
        return;
    };
    if edge.stopping.get() {
        edge.door.leave(session, arrival);
        return;
    }
    // Another one came while this one was looked at: that is the one which counts at the door.
    if edge.hub.borrow().sessions[usize::from(session.0)].arrival != arrival {
        edge.door.leave(session, arrival);
        count(&edge.stats.taken_over, 1);
        close(&mut ws, CloseCode::Policy, "the session connected anew").await;
        return;
    }
    count(&edge.stats.accepted, 1);
    let conn = Rc::new(Conn {
        protocol,
        outbox: RefCell::default(),
        ready: Notify::new(),
        end: Cell::new(None),
        resend_asked: Cell::new(0),
        arrival,
    });
    edge.attach(&conn, session, hello);
    // SYNC by gate: a gate says that it comes before it looks who is connected, and we look again after we have said that we
    // are: one of the two sees the other, or both do, and both are refused.
    if let Some(reason) = has_gate(edge, session) {
        edge.detach(&conn, session);
        count(&edge.stats.refused_gate, 1);
        close(&mut ws, CloseCode::Policy, reason).await;
        return;
    }
    converse(edge, &mut ws, &conn, session).await;
    edge.detach(&conn, session);
    match conn.end.get() {
        Some(End::TakenOver) => close(&mut ws, CloseCode::Policy, "the session connected anew").await,
        Some(End::Slow) => count(&edge.stats.dropped_slow, 1),
        Some(End::Stopping) => close(&mut ws, CloseCode::Away, "the server ends").await,
        None => close(&mut ws, CloseCode::Normal, "").await,
    }
}

/// Announces `session` at the door and waits until it was looked at. `None`: it was not, in time.
async fn pass_door(edge: &Edge, session: SessionId, claim: &Claim, peer: Peer) -> Option<ArrivalId> {
    let (tell, looked_at) = tokio::sync::oneshot::channel();
    let arrival = Arrival { session, way: Way::WebSocket, claim: claim.clone(), peer };
    let id = edge.door.arrive(arrival, Box::new(move || _ = tell.send(())));
    edge.hub.borrow_mut().sessions[usize::from(session.0)].arrival = id;
    match tokio::time::timeout(edge.options.door_timeout, looked_at).await {
        Ok(Ok(())) => Some(id),
        Ok(Err(_)) | Err(_) => {
            edge.door.leave(session, id);
            None
        }
    }
}

/// Why `session` may not come in here, if a gate has it or had it.
fn has_gate(edge: &Edge, session: SessionId) -> Option<&'static str> {
    let view = edge.board.cell(usize::from(session.0))?.view();
    match (view.by_gate, view.was_by_gate) {
        (true, _) => Some("the session is attached by a gate on this host"),
        // What the gate sent did not come by here: the next sequence is not known, and events would be taken for repeated ones.
        (false, true) => Some("a gate on this host had the session: haltline has to be restarted first"),
        (false, false) => None,
    }
}

async fn close(ws: &mut WebSocketStream<TcpStream>, code: CloseCode, reason: &'static str) {
    let frame = CloseFrame { code, reason: Utf8Bytes::from_static(reason) };
    // The peer may be gone or not read: a moment is all it gets.
    let _ = tokio::time::timeout(Duration::from_millis(100), ws.close(Some(frame))).await;
}

/// The first message; what is wrong with it, if it can be said.
async fn hello(edge: &Edge, ws: &mut WebSocketStream<TcpStream>, session: SessionId) -> Result<Hello, Option<Problem>> {
    loop {
        match ws.next().await.ok_or(None)? {
            Ok(Message::Text(text)) => {
                return match json::decode(&text, &edge.universe, session) {
                    Ok(Client::Hello(hello)) => Ok(hello),
                    Ok(Client::ModeAck { .. } | Client::Event(_)) => Err(None),
                    Err(fault) => Err(Some(fault.problem)),
                };
            }
            Ok(Message::Ping(_) | Message::Pong(_)) => {}
            Ok(Message::Binary(_) | Message::Close(_) | Message::Frame(_)) | Err(_) => return Err(None),
        }
    }
}
