//! The loop of one connection: what is read and what is written take turns, and who says nothing for too long is let go.

use std::time::{Duration, Instant};

use futures_util::{FutureExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Bytes, Message};

use crate::ingest::ws::write::write_out;
use crate::ingest::ws::{Conn, Edge, count};
use crate::units::SessionId;

/// Messages readin one go before answers are written.
const READ_BATCH: usize = 64;
/// How many pings a connection leaves unanswered before it is closed.
const PINGS_PER_IDLE: u32 = 3;

/// Reads and writes until either side ends.
pub(super) async fn converse(edge: &Edge, ws: &mut WebSocketStream<TcpStream>, conn: &Conn, session: SessionId) {
    let period = (edge.options.idle_timeout / PINGS_PER_IDLE).max(Duration::from_millis(1));
    let mut tick = tokio::time::interval(period);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // How many ticks in a row nothing was heard at.
    let mut silent = 0;
    loop {
        if conn.end.get().is_some() || !write_out(edge, ws, conn, session).await {
            return;
        }
        tokio::select! {
            // What has arrived is read before anybody is called silent.
            biased;
            message = ws.next() => {
                let Some(Ok(message)) = message else { return };
                // While we look for answers ourselves the engine need not wake us.
                edge.wake.disarm();
                let mut goes_on = edge.take_message(conn, session, message).await;
                for _ in 1..READ_BATCH {
                    if !goes_on {
                        break;
                    }
                    match ws.next().now_or_never() {
                        Some(Some(Ok(message))) => goes_on = edge.take_message(conn, session, message).await,
                        Some(Some(Err(_)) | None) => goes_on = false,
                        None => break,
                    }
                }
                edge.hub.borrow().port.engine.ring();
                spin(edge, session);
                edge.wake.arm();
                if edge.pump() {
                    // There may be more than one batch: the pump goes on.
                    edge.wake.0.notify.notify_one();
                }
                // Only now: a client that we kept waiting for room in the ring was not silent.
                silent = 0;
                if !goes_on {
                    // What was decided is still said, if the client listens.
                    if conn.end.get().is_none() {
                        write_out(edge, ws, conn, session).await;
                    }
                    return;
                }
            }
            () = conn.ready.notified() => {}
            due = tick.tick() => {
                // Whether a ping was answered can only be told if we listened. After a time in which we stood still (stopped, or
                // without a processor) what is in the socket may not even be known to us yet.
                let stood_still = due.elapsed() > period / 2;
                if !stood_still && silent == PINGS_PER_IDLE {
                    count(&edge.stats.idle_closed, 1);
                    return;
                }
                silent += u32::from(!stood_still);
                conn.outbox.borrow_mut().frames.push_back(Message::Ping(Bytes::new()));
            }
        }
    }
}

/// Looks for the engine's answers to what `session` asked, for a moment.
fn spin(edge: &Edge, session: SessionId) {
    let waits = || edge.hub.borrow().sessions.get(usize::from(session.0)).is_some_and(|s| !s.pending.is_empty());
    if edge.options.spin.is_zero() || !waits() {
        return;
    }
    let since = Instant::now();
    while waits() && since.elapsed() < edge.options.spin {
        if !edge.pump() {
            std::hint::spin_loop();
        }
    }
}
