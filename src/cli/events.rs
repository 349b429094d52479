//! A stream of server-sent events from the service, event by event.

use anyhow::Result;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};

use super::client::{Door, Failure, open, refusal};

/// The longest line that is taken: the whole state of the largest configuration is far from it.
const LINE_MAX: usize = 64 << 20;

/// Calls `each` with the name and the data of every event at `path`, until it says `false` or the stream ends.
///
/// # Errors
/// If it could not even be tried: no token, no runtime.
pub fn follow(door: &Door, path: &str, mut each: impl FnMut(&str, Value) -> bool) -> Result<Result<(), Failure>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (stream, host, token) = match open(door).await? {
            Ok(opened) => opened,
            Err(failure) => return Ok(Err(failure)),
        };
        Ok(read(stream, &host, token.as_deref(), path, &mut each).await)
    })
}

async fn read(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    host: &str,
    token: Option<&str>,
    path: &str,
    each: &mut impl FnMut(&str, Value) -> bool,
) -> Result<(), Failure> {
    let mut request = Request::get(path).header(header::HOST, host).header(header::ACCEPT, "text/event-stream");
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| Failure::NotReached(error.to_string()))?;
    let lost = |error: hyper::Error| Failure::NoAnswer(format!("the connection broke off: {error}"));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
    let connection = tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(lost)?;
    let status = response.status();
    let mut body = response.into_body();
    if !status.is_success() {
        let bytes = body.collect().await.map_err(lost)?.to_bytes();
        return Err(Failure::Refused(refusal(status, serde_json::from_slice(&bytes).ok().as_ref())));
    }
    let mut lines = Lines::default();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(lost)?.into_data() else { continue };
        if !lines.take(&data, each)? {
            break;
        }
    }
    connection.abort();
    Ok(())
}

/// Makes events of bytes, however they were cut.
#[derive(Default)]
struct Lines {
    rest: Vec<u8>,
    name: String,
    data: Option<Value>,
}

impl Lines {
    /// Whether to go on.
    fn take(&mut self, bytes: &[u8], each: &mut impl FnMut(&str, Value) -> bool) -> Result<bool, Failure> {
        let unclear = |what: &str| Failure::Unclear(format!("the stream is not understood: {what}"));
        for part in bytes.split_inclusive(|b| *b == b'\n') {
            self.rest.extend_from_slice(part);
            if self.rest.len() > LINE_MAX {
                return Err(unclear("a line without end"));
            }
            if self.rest.last() != Some(&b'\n') {
                continue;
            }
            let line = std::mem::take(&mut self.rest);
            let line =
                core::str::from_utf8(&line).map_err(|_| unclear("it is no text"))?.trim_end_matches(['\r', '\n']);
            match line.split_once(": ") {
                Some(("event", name)) => name.clone_into(&mut self.name),
                Some(("data", data)) => {
                    self.data = Some(serde_json::from_str(data).map_err(|_| unclear("data that is not JSON"))?);
                }
                // A number, a time to wait, a comment.
                Some(_) => {}
                None if line.is_empty() => {
                    let name = std::mem::take(&mut self.name);
                    if let Some(data) = self.data.take()
                        && !each(&name, data)
                    {
                        return Ok(false);
                    }
                }
                None => {}
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_the_same_however_the_bytes_are_cut() {
        let text =
            "retry: 1000\n\nid: 1\nevent: state\ndata: {\"a\":\"é\"}\n\n: note\n\nevent: bye\ndata: {}\n\n".as_bytes();
        for size in 1..text.len() {
            let (mut lines, mut seen) = (Lines::default(), Vec::new());
            for piece in text.chunks(size) {
                assert!(
                    lines
                        .take(piece, &mut |name, data| {
                            seen.push((name.to_owned(), data));
                            true
                        })
                        .unwrap()
                );
            }
            let expected = [("state", serde_json::json!({ "a": "é" })), ("bye", serde_json::json!({}))];
            assert_eq!(seen, expected.map(|(name, data)| (name.to_owned(), data)), "{size}");
        }
        assert!(Lines::default().take(b"data: {\n", &mut |_, _| true).is_err());
        assert!(!Lines::default().take(b"data: 1\n\ndata: 2\n\n", &mut |_, data| data != 1).unwrap());
    }
}
