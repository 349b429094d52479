//! Connections: accepted, bounded, timed, served.
//!
//! `axum::serve` has no time-out for a request's head, so hyper is driven here. When all places are taken, the
//! oldest connection without a request in progress makes room: a flood of silent connections cannot keep a kill out.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::TcpListener as StdListener;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Notify, watch};
use tower::ServiceExt;

use crate::api::problem::Problem;
use crate::api::routes::{Origin, Received, router};
use crate::api::tls::Tls;
use crate::api::{ApiOptions, ApiParts, Authenticator, Caller};
use crate::duty::Clock;

/// Serves on `listener` until `stop` is true (or its sender is gone). A thread's whole life: it makes its own runtime.
///
/// # Errors
/// If the runtime cannot be made or the listener not be used. A failing connection is no error.
pub fn run(listener: StdListener, parts: Arc<ApiParts>, stop: watch::Receiver<bool>) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    on_a_runtime(async { serve(TcpListener::from_std(listener)?, parts, stop).await })
}

/// As [`run`], for the local socket. On a thread of its own, so that nothing that goes on at the network is in its way.
///
/// # Errors
/// As [`run`].
pub fn run_local(listener: StdUnixListener, parts: Arc<ApiParts>, stop: watch::Receiver<bool>) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    on_a_runtime(async { serve(UnixListener::from_std(listener)?, parts, stop).await })
}

fn on_a_runtime(serving: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // One for each lane, one for the stream; kills need none of them.
        .max_blocking_threads(8)
        .thread_name("api-blocking")
        .build()?;
    runtime.block_on(serving)?;
    // A large answer that is still being made is of no use to anybody any more.
    runtime.shutdown_background();
    Ok(())
}

/// How long what was sent may stay unacknowledged.
const UNANSWERED_MS: u32 = 15_000;

/// A listener, and how it knows who is at the other end.
trait Door {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    async fn connected(&self) -> io::Result<(Self::Stream, Origin)>;

    /// What is spoken here instead of plain HTTP.
    fn tls(parts: &ApiParts) -> Option<Arc<Tls>>;
}

impl Door for TcpListener {
    type Stream = TcpStream;

    async fn connected(&self) -> io::Result<(TcpStream, Origin)> {
        let (stream, peer) = self.accept().await?;
        let _ = stream.set_nodelay(true);
        // A peer that is gone without a word holds its place, and a stream its own, no longer than this.
        let _ = rustix::net::sockopt::set_tcp_user_timeout(&stream, UNANSWERED_MS);
        Ok((stream, Origin::Network(peer)))
    }

    fn tls(parts: &ApiParts) -> Option<Arc<Tls>> {
        parts.tls.clone()
    }
}

impl Door for UnixListener {
    type Stream = UnixStream;

    async fn connected(&self) -> io::Result<(UnixStream, Origin)> {
        let (stream, _) = self.accept().await?;
        // As of the moment when the peer connected: a process that changed its user since is still the one it was.
        let uid = stream.peer_cred()?.uid();
        Ok((stream, Origin::Local(uid)))
    }

    fn tls(_: &ApiParts) -> Option<Arc<Tls>> {
        None
    }
}

async fn serve<D: Door>(door: D, parts: Arc<ApiParts>, mut stop: watch::Receiver<bool>) -> io::Result<()> {
    let places = Arc::new(Places::new(parts.options.connections, parts.options.reserved));
    let graceful = GracefulShutdown::new();
    let drain = parts.options.drain;
    let server = Arc::new(Server {
        router: router(parts.clone(), stop.clone()),
        auth: parts.auth.clone(),
        tls: D::tls(&parts),
        clock: parts.clock.clone(),
        options: parts.options,
    });
    loop {
        let accepted = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            accepted = door.connected() => accepted,
        };
        match accepted {
            Ok((stream, origin)) => {
                let Some(place) = places.take() else { continue };
                let watcher = graceful.watcher();
                let number = place.number;
                let task = tokio::spawn(server.clone().connection(stream, origin, place, watcher));
                places.set_task(number, task.abort_handle());
            }
            Err(error) => {
                // Most often out of descriptors: whoever closes one makes it go on.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
    drop(door);
    let _ = tokio::time::timeout(drain, graceful.shutdown()).await;
    Ok(())
}

/// What every connection of a door is served with.
struct Server {
    router: Router,
    auth: Arc<Authenticator>,
    tls: Option<Arc<Tls>>,
    clock: Arc<dyn Clock>,
    options: ApiOptions,
}

impl Server {
    async fn connection(
        self: Arc<Self>,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        origin: Origin,
        place: Place,
        watcher: Watcher,
    ) {
        let mut line = Line { tls: false, certified: None, hangup: Arc::default(), busy: place.busy.clone() };
        match &self.tls {
            None => self.talk(stream, origin, line, place.kill_only, watcher).await,
            Some(tls) => {
                // A handshake that fails or takes too long concerns nobody else.
                let shaken = tokio::time::timeout(self.options.header_timeout, tls.accept(stream)).await;
                if let Ok(Ok((stream, names))) = shaken {
                    line.tls = true;
                    line.certified = names.and_then(|names| self.auth.certified(&names));
                    self.talk(stream, origin, line, place.kill_only, watcher).await;
                }
            }
        }
        drop(place);
    }

    async fn talk(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        origin: Origin,
        line: Line,
        kill_only: bool,
        watcher: Watcher,
    ) {
        let hangup = line.hangup.clone();
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            let router = self.router.clone();
            let received = Received(self.clock.now());
            let (line, busy) = (line.clone(), line.busy());
            async move {
                let mut request: Request = request.map(axum::body::Body::new);
                let reserved = kill_only && request.uri().path() != "/v1/kill";
                let mut response: Response = if reserved {
                    Problem::new(
                        StatusCode::SERVICE_UNAVAILABLE,
                        "too-many-connections",
                        "Too many connections",
                        "only a kill is taken on the last connections",
                    )
                    .into_response()
                } else {
                    request.extensions_mut().insert(origin);
                    request.extensions_mut().insert(received);
                    request.extensions_mut().insert(line);
                    // The router is always ready and cannot fail.
                    router.oneshot(request).await.into_response()
                };
                if kill_only {
                    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                }
                drop(busy);
                Ok::<_, Infallible>(response)
            }
        });
        let serving = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.options.header_timeout)
            .max_buf_size(64 * 1024)
            .serve_connection(TokioIo::new(stream), service);
        // What ends a connection (a time-out, a peer that is gone, bytes that are not HTTP) concerns nobody else.
        tokio::select! {
            _ = watcher.watch(serving) => {}
            () = hangup.notified() => {}
        }
    }
}

/// What an endpoint may do with the connection that its request came over.
#[derive(Clone)]
pub(super) struct Line {
    /// Whether nobody on the way can read along.
    pub(super) tls: bool,
    /// Whom the certificate names that the other end sent.
    pub(super) certified: Option<Caller>,
    /// Ends the connection, whatever it is at.
    pub(super) hangup: Arc<Notify>,
    /// How many reasons there are not to take its place away.
    busy: Arc<AtomicUsize>,
}

impl Line {
    /// Keeps its place for the connection until dropped.
    pub(super) fn busy(&self) -> Busy {
        self.busy.fetch_add(1, Ordering::Relaxed);
        Busy(self.busy.clone())
    }
}

/// Marks a connection as busy as long as a request is in progress on it, or it has a stream.
pub(super) struct Busy(Arc<AtomicUsize>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The places for connections.
struct Places {
    connections: usize,
    reserved: usize,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    next: u64,
    /// By number, so the oldest first.
    list: BTreeMap<u64, OpenConnection>,
}

struct OpenConnection {
    busy: Arc<AtomicUsize>,
    task: Option<tokio::task::AbortHandle>,
}

/// A connection's place; free again when dropped.
struct Place {
    number: u64,
    busy: Arc<AtomicUsize>,
    kill_only: bool,
    places: Arc<Places>,
}

impl Places {
    fn new(connections: usize, reserved: usize) -> Places {
        Places { connections: connections.max(1), reserved: reserved.max(1), open: Mutex::default() }
    }

    /// A place for a new connection; `None` if every connection has a request in progress.
    fn take(self: &Arc<Self>) -> Option<Place> {
        let mut open = self.lock();
        if open.list.len() >= self.connections + self.reserved {
            let idle = open.list.iter().find(|(_, c)| c.busy.load(Ordering::Relaxed) == 0).map(|(n, _)| *n)?;
            if let Some(task) = open.list.remove(&idle).and_then(|c| c.task) {
                task.abort();
            }
        }
        let kill_only = open.list.len() >= self.connections;
        open.next += 1;
        let (number, busy) = (open.next, Arc::new(AtomicUsize::new(0)));
        open.list.insert(number, OpenConnection { busy: busy.clone(), task: None });
        Some(Place { number, busy, kill_only, places: self.clone() })
    }

    fn set_task(&self, number: u64, task: tokio::task::AbortHandle) {
        if let Some(connection) = self.lock().list.get_mut(&number) {
            connection.task = Some(task);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.lock().list.remove(&self.number);
    }
}
