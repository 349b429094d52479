//! The demo's ways to the service: a gateway's WebSocket connection, and one HTTP request.

use anyhow::{Context, ensure};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, HOST};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use super::ServiceHandle;

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
            anyhow::bail!("the service closed the connection before it had answered")
        }
    }
}

/// tmp
pub struct WsLink;
impl super::live::Link for WsLink {
    async fn send(&mut self, _event: crate::model::Event) -> anyhow::Result<()> {
        Ok(())
    }
    async fn hear(&mut self) -> anyhow::Result<super::live::Heard> {
        std::future::pending().await
    }
}
/// tmp
pub async fn connect(_service: &ServiceHandle, _name: &str) -> anyhow::Result<WsLink> {
    Ok(WsLink)
}
