//! What a client is told: queued in its outbox, bounded, and written as fast as it reads.

use std::collections::VecDeque;

use futures_util::SinkExt;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Bytes, Message, Utf8Bytes};

use crate::ingest::ws::session::Kept;
use crate::ingest::ws::{Conn, Edge, End, count};
use crate::kill::page::ModeWord;
use crate::model::{Scope, Universe};
use crate::units::{OrdId, SessionId};
use crate::wire::json::{ScopeMode, Server, VerdictMessage};
use crate::wire::{MESSAGE_BYTES_MAX, Problem, Protocol, bin};

/// What waits to be written.
#[derive(Default)]
pub(super) struct Outbox {
    pub(super) frames: VecDeque<Message>,
    /// Records of a binary frame that is not closed yet.
    pub(super) batch: Vec<u8>,
    pub(super) bytes: usize,
    pub(super) messages: usize,
    /// The last `applied` that was queued, and the one to be.
    pub(super) applied_sent: u64,
    pub(super) applied: u64,
    /// The page that the last queued `mode` tells.
    pub(super) told: Option<u64>,
}

impl Outbox {
    fn text(&mut self, text: Utf8Bytes) {
        self.close_batch();
        self.bytes += text.len();
        self.messages += 1;
        self.frames.push_back(Message::Text(text));
    }

    fn record(&mut self, answer: &bin::Answer) {
        self.batch.extend_from_slice(&bin::encode_answer(answer));
        self.bytes += bin::RECORD;
        self.messages += 1;
        if self.batch.len() >= MESSAGE_BYTES_MAX {
            self.close_batch();
        }
    }

    fn close_batch(&mut self) {
        if !self.batch.is_empty() {
            self.frames.push_back(Message::Binary(Bytes::from(std::mem::take(&mut self.batch))));
        }
    }
}

impl Edge {
    pub(super) fn send_modes(
        &self,
        conn: &Conn,
        session: SessionId,
        page: u64,
        words: &[ModeWord],
        slots: impl Iterator<Item = usize>,
    ) {
        let scopes = slots
            .filter_map(|slot| Some((self.universe.scope_at(slot)?, words.get(slot)?)))
            .filter(|(scope, _)| concerns(&self.universe, session, *scope))
            .map(|(scope, word)| ScopeMode {
                kind: scope.kind().name().to_owned(),
                name: self.universe.scope_name(scope),
                mode: word.mode.name().to_owned(),
                epoch: word.epoch,
            })
            .collect();
        self.send(conn, &Server::Mode { page, scopes });
        conn.outbox.borrow_mut().told = Some(page);
        count(&self.stats.mode_pushes, 1);
    }

    pub(super) fn send(&self, conn: &Conn, message: &Server) {
        self.send_text(conn, Utf8Bytes::from(message.encode()));
    }

    pub(super) fn send_text(&self, conn: &Conn, text: Utf8Bytes) {
        count(&self.stats.bytes_out, text.len() as u64);
        conn.outbox.borrow_mut().text(text);
        self.sent(conn);
    }

    pub(super) fn send_record(&self, conn: &Conn, answer: &bin::Answer) {
        count(&self.stats.bytes_out, bin::RECORD as u64);
        conn.outbox.borrow_mut().record(answer);
        self.sent(conn);
    }

    /// After something was queued: wakes the connection, or ends it if too much waits.
    fn sent(&self, conn: &Conn) {
        let (messages, bytes) = {
            let outbox = conn.outbox.borrow();
            (outbox.messages, outbox.bytes)
        };
        // The tables of names may be larger than the bound; nothing else alone is.
        if messages > self.options.queue_messages_max || bytes > self.options.queue_bytes_max + self.names.len() {
            conn.end(End::Slow);
        } else {
            conn.ready.notify_one();
        }
    }

    pub(super) fn send_verdict(&self, conn: &Conn, kept: &Kept) {
        let v = &kept.verdict;
        match conn.protocol {
            Protocol::Bin => self.send_record(
                conn,
                &bin::Answer::Verdict {
                    out: kept.out,
                    seq: v.seq,
                    // A text cannot be: ids are numbers in this protocol. After a change of protocol it may.
                    id: if kept.text.is_some() { 0 } else { v.id.0 },
                    kind: v.kind,
                    denial: v.denial,
                    checks: v.checks,
                },
            ),
            Protocol::Json => {
                let id = match &kept.text {
                    Some(text) => text.to_string(),
                    None if v.id.0 == 0 || v.id.0 & OrdId::TEXT != 0 => String::new(),
                    None => v.id.0.to_string(),
                };
                let mut message = VerdictMessage {
                    out: kept.out,
                    seq: v.seq,
                    id,
                    kind: v.kind.name().to_owned(),
                    verdict: "admit".to_owned(),
                    checks: format!("{:x}", v.checks),
                    rule: None,
                    why: None,
                    scope: None,
                    observed: None,
                    limit: None,
                    unit: None,
                };
                if let Some(denial) = &v.denial {
                    message = message.denied(denial, kept.instrument, &self.universe);
                }
                self.send(conn, &Server::Verdict(message));
            }
        }
    }

    pub(super) fn send_error(&self, conn: &Conn, seq: Option<u64>, problem: Problem) {
        count(&self.stats.errors, 1);
        let Problem { field, value, rule } = problem;
        self.send(conn, &Server::Error { seq, field: field.to_owned(), value, rule: rule.to_owned() });
    }
}

/// Whether `session` has to know about the mode of `scope`.
fn concerns(universe: &Universe, session: SessionId, scope: Scope) -> bool {
    let Some(spec) = universe.sessions.get(usize::from(session.0)) else { return true };
    match scope {
        Scope::Firm | Scope::Instrument(_) => true,
        Scope::Session(s) => s == session,
        Scope::Strategy(s) | Scope::Pair(s, _) => spec.strategies.is_empty() || spec.strategies.contains(&s),
        Scope::Account(a) => {
            spec.strategies.is_empty()
                || spec
                    .strategies
                    .iter()
                    .any(|s| universe.strategies.get(usize::from(s.0)).is_some_and(|x| x.account == a))
        }
    }
}

/// Writes what is queued and flushes once. `false`: the connection is to end.
pub(super) async fn write_out(
    edge: &Edge,
    ws: &mut WebSocketStream<TcpStream>,
    conn: &Conn,
    session: SessionId,
) -> bool {
    loop {
        let applied = {
            let mut outbox = conn.outbox.borrow_mut();
            let outbox = &mut *outbox;
            (outbox.applied > outbox.applied_sent).then(|| {
                outbox.applied_sent = outbox.applied;
                outbox.applied
            })
        };
        if let Some(seq) = applied {
            match conn.protocol {
                Protocol::Json => edge.send(conn, &Server::Applied { seq }),
                Protocol::Bin => edge.send_record(conn, &bin::Answer::Applied { seq }),
            }
        }
        let (frames, told) = {
            let mut outbox = conn.outbox.borrow_mut();
            outbox.close_batch();
            outbox.bytes = 0;
            outbox.messages = 0;
            (std::mem::take(&mut outbox.frames), outbox.told.take())
        };
        if frames.is_empty() {
            return true;
        }
        let write = async {
            for frame in frames {
                ws.feed(frame).await?;
            }
            ws.flush().await
        };
        let mut write = std::pin::pin!(tokio::time::timeout(edge.options.write_timeout, write));
        let written = loop {
            tokio::select! {
                biased;
                written = &mut write => break written,
                () = conn.ready.notified() => {
                    if conn.end.get().is_some() {
                        return false;
                    }
                }
            }
        };
        match written {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return false,
            Err(_) => {
                conn.end(End::Slow);
                return false;
            }
        }
        if let Some(page) = told
            && let Some(cell) = edge.board.cell(usize::from(session.0))
        {
            cell.set_told(page, edge.clock.now().mono.0);
        }
    }
}
