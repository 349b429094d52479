//! What a client says: decoded, its texts turned into numbers, passed to the engine as soon as there is room.

use std::time::Duration;

use tokio_tungstenite::tungstenite::Message;

use crate::engine::agent::Inbound;
use crate::engine::record::{Name, NameOf};
use crate::guard::signatures::Text;
use crate::ingest::intern::{NOBODY, Names, parent_number};
use crate::ingest::ws::session::{Pending, SessionState};
use crate::ingest::ws::{Conn, Edge, count};
use crate::model::{Event, EventKind, SessionKind};
use crate::units::{OrdId, SessionId};
use crate::wire::json::{self, Client};
use crate::wire::text::{self, TextMessage};
use crate::wire::{Draft, Fault, Problem, Protocol, bin};

impl Edge {
    /// Passes an event to the engine if there is room. `false`: there is none, nothing happened.
    fn submit(&self, conn: &Conn, draft: &Draft<'_>) -> bool {
        let mut hub = self.hub.borrow_mut();
        let hub = &mut *hub;
        if !hub.withdrawn.is_empty() || hub.port.events.is_full() || hub.port.names.slots() < 2 {
            return false;
        }
        let mut event = draft.event;
        let session = event.session;
        let Some(s) = hub.sessions.get_mut(usize::from(session.0)) else { return true };
        let asks = self.universe.sessions.get(usize::from(session.0)).is_some_and(|x| x.kind == SessionKind::Ask);
        let fresh = event.seq == s.next_seq;
        let mut new = |of, number, text: &str| {
            // No id is longer, and there is room for the two of an event.
            let name = Name::new(session, of, number, text);
            let told = name.is_none_or(|name| hub.port.names.push(name).is_ok());
            debug_assert!(told && name.is_some());
        };
        if let Err(field) = intern(s, draft, &mut event, asks, fresh, &mut new) {
            count(&self.stats.texts_full, 1);
            let value = if field == "id" { draft.id.as_deref() } else { draft.ref_id.as_deref() };
            let problem = Problem::new(field, value.unwrap_or(""), "is one text id more than the session may have");
            self.send_error(conn, Some(event.seq), problem);
            event.flags |= Event::MALFORMED;
        }
        let received = self.clock.now().mono;
        // Checked above: there is room.
        if hub.port.events.push(Inbound { event, received }).is_err() {
            return false;
        }
        count(&self.stats.events, 1);
        if fresh {
            s.next_seq += 1;
            if asks && event.kind.is_request() {
                s.pending.push_back(Pending { seq: event.seq, strategy: event.strategy, instrument: event.instrument });
            }
            if let Some(cell) = self.board.cell(usize::from(session.0)) {
                cell.set_last_seq(event.seq);
            }
        } else if event.seq < s.next_seq {
            count(&self.stats.duplicates, 1);
            conn.outbox.borrow_mut().applied_sent = 0;
            conn.ready.notify_one();
            if let Some(index) = s.kept_by_seq.get(&event.seq).and_then(|out| s.kept_at(*out)) {
                // The client may have seen this answer and sent the order: it is not admitted once more
                // under a halt, but the engine goes on counting it.
                let kept = &mut s.kept[index];
                let page = kept.page;
                let _ = self.withhold(kept, |slot, _| hub.changed_at[slot] <= page);
                self.send_verdict(conn, kept);
                count(&self.stats.replayed, 1);
            }
        }
        true
    }

    /// As [`Edge::submit`], waiting for room. `false`: the connection is to end.
    async fn submit_all(&self, conn: &Conn, draft: &Draft<'_>) -> bool {
        loop {
            if conn.end.get().is_some() {
                return false;
            }
            if self.submit(conn, draft) {
                return true;
            }
            count(&self.stats.ring_full, 1);
            self.hub.borrow().port.engine.ring();
            self.wake.arm();
            if !self.pump() {
                // A duplicate has no effect that would wake us, hence the time-out.
                let _ = tokio::time::timeout(Duration::from_millis(1), self.room.notified()).await;
            } else {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Deals with one message. `false`: the connection is to end.
    pub(super) async fn take_message(&self, conn: &Conn, session: SessionId, message: Message) -> bool {
        match message {
            Message::Text(text) => {
                count(&self.stats.bytes_in, text.len() as u64);
                match text::decode(&text) {
                    None => {}
                    Some(Ok(said)) => {
                        self.take_text(session, said);
                        return true;
                    }
                    Some(Err(problem)) => {
                        self.send_error(conn, None, problem);
                        return true;
                    }
                }
                match json::decode(&text, &self.universe, session) {
                    Ok(Client::Hello(_)) => {
                        let problem = Problem::new("type", "hello", "must be said once, first");
                        self.send_error(conn, None, problem);
                    }
                    Ok(Client::ModeAck { page }) => self.confirm(conn, session, page),
                    Ok(Client::Event(draft)) if conn.protocol == Protocol::Json => {
                        return self.submit_all(conn, &draft).await;
                    }
                    Err(fault) if conn.protocol == Protocol::Json => return self.take_fault(conn, *fault).await,
                    Ok(Client::Event(_)) | Err(_) => {
                        let problem = Problem::new("message", &text, "must be hello or mode_ack: events are binary");
                        self.send_error(conn, None, problem);
                    }
                }
                true
            }
            Message::Binary(bytes) => {
                count(&self.stats.bytes_in, bytes.len() as u64);
                if conn.protocol == Protocol::Json {
                    let problem = Problem::new("message", "", "must be text in this subprotocol");
                    self.send_error(conn, None, problem);
                    return true;
                }
                let records = match bin::records(&bytes) {
                    Ok(records) => records,
                    Err(problem) => {
                        self.send_error(conn, None, problem);
                        return true;
                    }
                };
                for record in records {
                    let goes_on = match bin::decode_event(record, &self.universe, session) {
                        Ok(event) => self.submit_all(conn, &Draft { event, id: None, ref_id: None }).await,
                        Err(fault) => self.take_fault(conn, *fault).await,
                    };
                    if !goes_on {
                        return false;
                    }
                }
                true
            }
            // tungstenite answers pings by itself.
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => true,
            Message::Close(_) => false,
        }
    }

    /// Passes a log line or a reject text to the guard. An order must never wait for one.
    fn take_text(&self, session: SessionId, said: TextMessage) {
        let TextMessage { source, text } = said;
        let text = Text { at: self.clock.now().unix.0, session, source, text };
        let counter = match self.texts.try_send(text) {
            Ok(()) => &self.stats.log_texts,
            Err(_) => &self.stats.log_texts_dropped,
        };
        count(counter, 1);
    }

    async fn take_fault(&self, conn: &Conn, fault: Fault<'_>) -> bool {
        self.send_error(conn, fault.draft.as_ref().map(|d| d.event.seq), fault.problem);
        match fault.draft {
            Some(mut draft) if draft.event.kind.is_request() => {
                draft.event.flags |= Event::MALFORMED;
                self.submit_all(conn, &draft).await
            }
            Some(_) | None => true,
        }
    }

    fn confirm(&self, conn: &Conn, session: SessionId, page: u64) {
        let Some(cell) = self.board.cell(usize::from(session.0)) else { return };
        // Nobody can confirm what he was not told.
        if page > cell.view().told || page > self.hub.borrow().seen_changes {
            let problem = Problem::new("page", &page.to_string(), "must be the page of a mode message that was sent");
            self.send_error(conn, None, problem);
        } else {
            cell.set_confirmed(page, self.clock.now().mono.0);
        }
    }
}

/// Gives the texts of `draft` their numbers in `event`. `fresh`: the engine will take it. `new` is told of each that got
/// one now.
///
/// # Errors
/// The field whose text found no room.
fn intern(
    s: &mut SessionState,
    draft: &Draft<'_>,
    event: &mut Event,
    asks: bool,
    fresh: bool,
    new: &mut dyn FnMut(NameOf, u64, &str),
) -> Result<(), &'static str> {
    let kind = event.kind;
    let mut tell = |of, names: &Names, before: usize, number: u64, text: &str| {
        if names.len() > before {
            new(of, number, text);
        }
    };
    let find = |names: &Names, text: &str| names.find(text).unwrap_or(NOBODY);
    if kind.is_parent() {
        event.id = draft.id.as_deref().map_or(event.id, |text| OrdId(parent_number(text)));
        return Ok(());
    }
    if let Some(text) = draft.ref_id.as_deref() {
        event.ref_id = match kind {
            EventKind::New => parent_number(text),
            EventKind::Fill | EventKind::Bust | EventKind::Correct if fresh => {
                // Without room it gets a number of its own: a fill is booked, if need be twice, never dropped.
                let before = s.execs.len();
                let number = s.execs.hold_once(text).unwrap_or_else(|_| s.execs.unnamed());
                tell(NameOf::Exec, &s.execs, before, number, text);
                number
            }
            EventKind::Fill | EventKind::Bust | EventKind::Correct => find(&s.execs, text),
            _ => find(&s.orders, text),
        };
    }
    if let Some(text) = draft.id.as_deref() {
        let before = s.orders.len();
        let held = match kind {
            EventKind::New | EventKind::Replace | EventKind::Cancel if asks && fresh => s.orders.hold(text),
            EventKind::New | EventKind::Replace if fresh => s.orders.hold_once(text),
            EventKind::Bust | EventKind::Correct => Ok(find(&s.execs, text)),
            _ => Ok(find(&s.orders, text)),
        };
        // A cancel is passed on in any case: it must reach the engine.
        match held {
            Ok(number) => {
                event.id = OrdId(number);
                tell(NameOf::Order, &s.orders, before, number, text);
            }
            Err(_) if kind == EventKind::Cancel => event.id = OrdId(NOBODY),
            Err(_) => return Err("id"),
        }
    }
    Ok(())
}
