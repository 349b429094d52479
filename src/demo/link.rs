//! The demo's ways to the service: a gateway's WebSocket connection, and one HTTP request.

use std::collections::VecDeque;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, HOST};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use super::ServiceHandle;
use super::alone::Control;
use super::live::{Denied, Heard, Link};
use crate::duty::Clock;
use crate::ingest::client::{self, Endpoint, Reply};
use crate::kill::words::mode_named;
use crate::model::{Claim, Event, Rule, ScopeKind, Universe};
use crate::wire::Protocol;

/// The answer of `GET path` with the operator's token.
///
/// # Errors
/// If the service cannot be reached, answers with an error or not with JSON.
pub async fn get(service: &ServiceHandle, path: &str) -> anyhow::Result<Value> {
    let host = service.http_url.strip_prefix("http://").context("the service's URL is not http://")?;
    let stream = TcpStream::connect(host).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = hyper::Request::get(path)
        .header(HOST, host)
        .header(AUTHORIZATION, format!("Bearer {}", service.operator_token))
        .body(Empty::<Bytes>::new())?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        ensure!(status.is_success(), "the service answered {status}: {}", String::from_utf8_lossy(&body));
        Ok(serde_json::from_slice(&body)?)
    };
    tokio::pin!(connection);
    tokio::select! {
        biased;
        answer = exchange => answer,
        ended = &mut connection => {
            ended?;
            bail!("the service closed the connection before it had answered")
        }
    }
}

/// A session's WebSocket connection.
pub struct WsLink {
    sender: client::Sender,
    receiver: client::Receiver,
    universe: Arc<Universe>,
    clock: Arc<dyn Clock>,
    /// What one message said besides its first part.
    heard: VecDeque<Heard>,
}

/// Events that may wait for their acknowledgement. A healthy service takes each within milliseconds.
const UNACKNOWLEDGED_MAX: usize = 1 << 18;

/// Connects as `session`, which says `claim` of itself.
///
/// # Errors
/// If the session has no token, or the connection is refused or fails.
pub async fn connect(service: &ServiceHandle, session: &str, claim: Claim) -> anyhow::Result<WsLink> {
    let endpoint = Endpoint {
        url: service.ws_url.clone(),
        token: (service.session_token)(session)?,
        protocol: Protocol::Json,
        universe: service.universe.clone(),
        claim,
        mass_cancel: false,
    };
    let memory = client::Memory::new(UNACKNOWLEDGED_MAX);
    let (sender, receiver, _) = client::connect(&endpoint, &memory).await?;
    let (universe, clock) = (service.universe.clone(), service.clock.clone());
    Ok(WsLink { sender, receiver, universe, clock, heard: VecDeque::new() })
}

impl Link for WsLink {
    fn queue(&mut self, mut event: Event) -> anyhow::Result<()> {
        event.sent_at = self.clock.now().unix;
        self.sender.queue(event)?;
        Ok(())
    }

    async fn flush(&mut self) -> anyhow::Result<()> {
        Ok(self.sender.flush().await?)
    }

    async fn hear(&mut self) -> anyhow::Result<Heard> {
        loop {
            if let Some(heard) = self.heard.pop_front() {
                return Ok(heard);
            }
            let scope = |scope: &str, name: &str| {
                let found = self.universe.scope_named(scope, name);
                found.with_context(|| format!("the service named an unknown scope: {scope} {name}"))
            };
            match self.receiver.next().await? {
                Reply::Applied(seq) => return Ok(Heard::Applied { seq }),
                Reply::Verdict(answer) => {
                    let denial = match answer.denied {
                        None => None,
                        Some(d) => Some(Denied {
                            rule: d.rule,
                            scope: scope(&d.scope.kind, &d.scope.name)?,
                            observed: d.observed,
                            limit: d.limit,
                        }),
                    };
                    return Ok(Heard::Verdict { kind: answer.kind, id: answer.id, denial });
                }
                Reply::Modes { scopes, .. } => {
                    for changed in &scopes {
                        let scope = scope(&changed.kind, &changed.name)?;
                        let mode = mode_named(&changed.mode);
                        let mode =
                            mode.with_context(|| format!("the service named an unknown mode: {}", changed.mode))?;
                        self.heard.push_back(Heard::Mode { scope, mode });
                    }
                }
                Reply::Cancel { id, .. } => return Ok(Heard::Cancel { id }),
                // One by one it is, and a simulated venue always answers.
                Reply::MassCancel { .. } | Reply::Disconnect { .. } => {}
                Reply::Error { seq, what } => bail!("the service could not read event {seq:?}: {what}"),
            }
        }
    }
}

/// A halt as `GET /v1/state` tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateHalt {
    /// Which scope, in words.
    pub scope: String,
    /// Its mode, in words.
    pub mode: String,
    /// The control that tripped, if one did.
    pub trip: Option<Control>,
    /// What did it, in words: the breach, or a person and the reason given. Empty if not known.
    pub cause: String,
    /// Whether it would survive a restart by now.
    pub durable: bool,
}

impl StateHalt {
    /// All of it in a line.
    #[must_use]
    pub fn text(&self) -> String {
        let by = if self.cause.is_empty() { String::new() } else { format!(" by {}", self.cause) };
        let latch = if self.durable { "latch durable" } else { "latch not durable yet" };
        format!("{} {}{by}, {latch}", self.scope, self.mode)
    }
}

/// The halts in the answer of `GET /v1/state`.
///
/// # Errors
/// If the answer does not have the shape that the API documents.
pub fn halts(state: &Value) -> anyhow::Result<Vec<StateHalt>> {
    let text = |value: &Value, key: &str| -> anyhow::Result<String> {
        Ok(value[key].as_str().with_context(|| format!("the answer lacks {key:?}"))?.to_owned())
    };
    let scope = |value: &Value| -> anyhow::Result<String> {
        Ok(format!("{} {}", text(value, "kind")?, text(value, "name")?).trim_end().to_owned())
    };
    let mut halts = Vec::new();
    for halt in state["halts"].as_array().context("the answer lacks \"halts\"")? {
        let (cause, trip) = (&halt["causes"][0], &halt["causes"][0]["trip"]);
        let mut told = StateHalt {
            scope: scope(&halt["scope"])?,
            mode: text(halt, "mode")?,
            trip: None,
            cause: String::new(),
            durable: state["latch"]["durable"] == true,
        };
        if trip.is_object() {
            let rule = text(trip, "rule")?;
            let kind = text(&trip["at"], "kind")?;
            let kind = ScopeKind::ALL.into_iter().find(|k| k.name() == kind);
            told.trip = Rule::from_name(&rule).zip(kind).map(|(rule, scope)| Control { rule, scope });
            let (observed, limit) = (text(trip, "observed")?, text(trip, "limit")?);
            told.cause = format!("{}  {rule} {observed} > {limit}", scope(&trip["at"])?);
        } else if cause.is_object() {
            told.cause = format!("{}: {}", text(cause, "actor")?, text(cause, "reason")?);
        }
        halts.push(told);
    }
    Ok(halts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn halts_are_told_with_their_cause() {
        let state = json!({
            "latch": { "durable": true },
            "halts": [
                { "scope": { "kind": "session", "name": "smars-8" }, "mode": "halted", "epoch": 1, "causes": [{
                    "actor": "engine", "reason": "order_rate", "trip": {
                        "rule": "order_rate", "at": { "kind": "session", "name": "smars-8" },
                        "observed": "301", "limit": "300",
                    } }] },
                { "scope": { "kind": "firm", "name": "" }, "mode": "halted", "epoch": 2,
                  "causes": [{ "actor": "desk", "reason": "drill" }] },
            ],
        });
        let halts = halts(&state).unwrap();
        let texts: Vec<String> = halts.iter().map(StateHalt::text).collect();
        assert_eq!(
            texts,
            [
                "session smars-8 halted by session smars-8  order_rate 301 > 300, latch durable",
                "firm halted by desk: drill, latch durable",
            ]
        );
        assert_eq!(halts[0].trip, Some(Control { rule: Rule::OrderRate, scope: ScopeKind::Session }));
        assert_eq!(halts[1].trip, None);
    }

    #[test]
    fn an_answer_of_another_shape_is_an_error() {
        assert!(halts(&json!({ "halt": [] })).is_err());
        assert!(halts(&json!({ "halts": [{ "mode": "halted" }] })).is_err());
    }
}
