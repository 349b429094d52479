//! Connections: accepted, bounded, timed, served.
//!
//! `axum::serve` has no time-out for a request's head, so hyper is driven here. When all places are taken, one that nobody who is
//! known waits for makes room (see [`Places::take`]): neither a flood of silent connections nor one of slow requests keeps a
//! kill out, and who comes from elsewhere does not lose their place to it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{IpAddr, TcpListener as StdListener};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinError;
use tower::ServiceExt;

use crate::api::auth::network;
use crate::api::problem::Problem;
use crate::api::routes::{Origin, Received, router};
use crate::api::tls::Tls;
use crate::api::{ApiOptions, ApiParts, Authenticator, Caller};
use crate::duty::Clock;

/// Connections that may wait until we get to them. A flood fills what is usual, and a connection that finds no room tries again
/// after a second, which is long for a kill; with more, a kill would wait for all of them. The system bounds it
/// (`net.core.somaxconn`).
const BACKLOG: i32 = 1_024;

/// Serves on `listener` until `stop` is true (or its sender is gone). A thread's whole life: it makes its own runtime.
///
/// # Errors
/// If the runtime cannot be made or the listener not be used. A failing connection is no error.
pub fn run(listener: StdListener, parts: Arc<ApiParts>, stop: watch::Receiver<bool>) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    rustix::net::listen(&listener, BACKLOG)?;
    on_a_runtime(async { serve(TcpListener::from_std(listener)?, parts, stop).await })
}

/// As [`run`], for the local socket. On a thread of its own, so that nothing that goes on at the network is in its way.
///
/// # Errors
/// As [`run`].
pub fn run_local(listener: StdUnixListener, parts: Arc<ApiParts>, stop: watch::Receiver<bool>) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    rustix::net::listen(&listener, BACKLOG)?;
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

/// A listener, and how it knows who is at the other end.
trait Door {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    async fn connected(&self, options: &ApiOptions) -> io::Result<(Self::Stream, Origin)>;

    /// What is spoken here instead of plain HTTP.
    fn tls(parts: &ApiParts) -> Option<Arc<Tls>>;
}

impl Door for TcpListener {
    type Stream = TcpStream;

    async fn connected(&self, options: &ApiOptions) -> io::Result<(TcpStream, Origin)> {
        let (stream, peer) = self.accept().await?;
        let _ = stream.set_nodelay(true);
        // A peer that is gone without a word holds its place, and a stream its own, no longer than this.
        let unanswered = u32::try_from(options.unanswered.as_millis()).unwrap_or(u32::MAX);
        let _ = rustix::net::sockopt::set_tcp_user_timeout(&stream, unanswered);
        Ok((stream, Origin::Network(peer)))
    }

    fn tls(parts: &ApiParts) -> Option<Arc<Tls>> {
        parts.tls.clone()
    }
}

impl Door for UnixListener {
    type Stream = UnixStream;

    async fn connected(&self, _: &ApiOptions) -> io::Result<(UnixStream, Origin)> {
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
            accepted = door.connected(&server.options) => accepted,
        };
        match accepted {
            Ok((stream, origin)) => {
                let Some(place) = places.take(Source::of(origin)) else { continue };
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
        let mut line = Line { tls: false, certified: None, hangup: Arc::default(), used: place.used.clone() };
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
            line.used.begins(!request.body().is_end_stream());
            let changes = !request.method().is_safe();
            let work = async move {
                let arriving = |body| axum::body::Body::new(Arriving { body, used: line.used.clone() });
                let mut request: Request = request.map(arriving);
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
                response
            };
            // hyper drops a request whose sender hangs up, even one that it has not begun. A change has a task of its own: what
            // was asked is done, and recorded, all the same.
            let work: Answer = if changes { Box::pin(tokio::spawn(work)) } else { Box::pin(async { Ok(work.await) }) };
            async move {
                let answer = work.await;
                drop(busy);
                answer
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

/// The answer to one request.
type Answer = Pin<Box<dyn Future<Output = Result<Response, JoinError>> + Send>>;

/// What an endpoint may do with the connection that its request came over.
#[derive(Clone)]
pub(super) struct Line {
    /// Whether nobody on the way can read along.
    pub(super) tls: bool,
    /// Whom the certificate names that the other end sent.
    pub(super) certified: Option<Caller>,
    /// Ends the connection, whatever it is at.
    pub(super) hangup: Arc<Notify>,
    used: Arc<Used>,
}

impl Line {
    /// Keeps its place for the connection until dropped, as long as it is known whose it is.
    pub(super) fn busy(&self) -> Busy {
        self.used.reasons.fetch_add(1, Ordering::Relaxed);
        Busy(self.used.clone())
    }

    /// It is known who sent the request that is in progress.
    pub(super) fn is_known(&self) {
        self.used.known.store(true, Ordering::Relaxed);
    }
}

/// Marks a connection as busy as long as a request is in progress on it, or it has a stream.
pub(super) struct Busy(Arc<Used>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.reasons.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a connection is used for. Requests on it come one after the other.
#[derive(Default)]
struct Used {
    /// How many reasons there are not to take its place away.
    reasons: AtomicUsize,
    /// It is known who asks.
    known: AtomicBool,
    /// The body of the request is not all here.
    waits: AtomicBool,
}

impl Used {
    fn begins(&self, waits: bool) {
        self.known.store(false, Ordering::Relaxed);
        self.waits.store(waits, Ordering::Relaxed);
    }

    /// How well its place is deserved; `None`: it is not taken away.
    fn rank(&self) -> Option<u8> {
        if self.reasons.load(Ordering::Relaxed) == 0 {
            return Some(0);
        }
        // Whoever asks without a name, or lets us wait for what they want, can do so from as many connections as there are.
        let earned = self.known.load(Ordering::Relaxed) && !self.waits.load(Ordering::Relaxed);
        (!earned).then_some(1)
    }
}

/// The body of a request, which tells when it is all here.
struct Arriving {
    body: Incoming,
    used: Arc<Used>,
}

impl Body for Arriving {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if frame.is_none() || self.body.is_end_stream() {
            self.used.waits.store(false, Ordering::Relaxed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Where connections come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Source {
    Network(IpAddr),
    User(u32),
}

impl Source {
    fn of(origin: Origin) -> Source {
        match origin {
            Origin::Network(peer) => Source::Network(network(peer.ip())),
            Origin::Local(uid) => Source::User(uid),
        }
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
    /// How many of them come from where.
    crowds: HashMap<Source, usize>,
}

impl Open {
    /// Connections that are served in full.
    fn in_full(&self) -> usize {
        self.list.values().filter(|one| !one.kill_only).count()
    }

    fn crowd(&self, source: Source) -> usize {
        self.crowds.get(&source).copied().unwrap_or(0)
    }

    fn add(&mut self, connection: OpenConnection) -> u64 {
        self.next += 1;
        *self.crowds.entry(connection.source).or_default() += 1;
        self.list.insert(self.next, connection);
        self.next
    }

    fn remove(&mut self, number: u64) -> Option<OpenConnection> {
        let gone = self.list.remove(&number)?;
        if let Some(count) = self.crowds.get_mut(&gone.source) {
            *count -= 1;
            if *count == 0 {
                self.crowds.remove(&gone.source);
            }
        }
        Some(gone)
    }
}

struct OpenConnection {
    source: Source,
    used: Arc<Used>,
    kill_only: bool,
    task: Option<tokio::task::AbortHandle>,
}

/// A connection's place; free again when dropped.
struct Place {
    number: u64,
    used: Arc<Used>,
    kill_only: bool,
    places: Arc<Places>,
}

impl Places {
    fn new(connections: usize, reserved: usize) -> Places {
        Places { connections: connections.max(1), reserved: reserved.max(1), open: Mutex::default() }
    }

    /// A place for a new connection from `source`. If all are taken, somebody loses theirs: of the source that has most of them,
    /// the oldest without a request, else with one that nobody known has sent whole. Where the newcomer's source has fewer, that
    /// is so before the last ones are touched. `None` if nobody can be asked to go.
    fn take(self: &Arc<Self>, source: Source) -> Option<Place> {
        let mut open = self.lock();
        if open.in_full() >= self.connections {
            let deserves = |(number, one): (&u64, &OpenConnection)| {
                Some((Reverse(open.crowd(one.source)), one.used.rank()?, *number))
            };
            let is_full = open.list.len() >= self.connections + self.reserved;
            // One that is served in full makes room for one that is, if its crowd is larger.
            let served = open.list.iter().filter(|(_, one)| !one.kill_only).filter_map(deserves).min();
            let away = match served.filter(|(Reverse(most), ..)| *most > open.crowd(source) + 1) {
                None if is_full => Some(open.list.iter().filter_map(deserves).min()?),
                away => away,
            };
            if let Some((.., number)) = away
                && let Some(task) = open.remove(number).and_then(|c| c.task)
            {
                task.abort();
            }
        }
        let kill_only = open.in_full() >= self.connections;
        let used = Arc::<Used>::default();
        let number = open.add(OpenConnection { source, used: used.clone(), kill_only, task: None });
        Some(Place { number, used, kill_only, places: self.clone() })
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
        self.places.lock().remove(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(host: u8) -> Source {
        Source::of(Origin::Network((IpAddr::from([127, 0, 0, host]), 1).into()))
    }

    #[test]
    fn the_largest_crowd_makes_room_and_in_it_who_waits_for_nothing_and_nobody_who_is_known() {
        let places = Arc::new(Places::new(3, 2));
        let line =
            |place: &Place| Line { tls: false, certified: None, hangup: Arc::default(), used: place.used.clone() };
        let first = places.take(from(1)).unwrap();
        let crowd: Vec<Place> = (0..4).map(|_| places.take(from(2)).unwrap()).collect();
        let kept = |places: &Places| places.lock().list.keys().copied().collect::<Vec<_>>();
        assert_eq!(crowd.iter().map(|place| place.kill_only).collect::<Vec<_>>(), [false, false, true, true]);
        // Neither the eldest, which came alone, nor one with a request, as long as there is one without.
        let busy = line(&crowd[0]).busy();
        crowd[0].used.begins(true);
        let fresh = places.take(from(3)).unwrap();
        assert!(!fresh.kill_only, "those that are many are no reason not to serve others");
        assert_eq!(kept(&places), [1, 2, 4, 5, 6]);
        // A request counts for nothing before it is known who sent it, and before it is whole.
        let others: Vec<Busy> = crowd[2..].iter().map(|place| line(place).busy()).collect();
        crowd[2..].iter().for_each(|place| line(place).is_known());
        line(&crowd[0]).is_known();
        let more = places.take(from(2)).unwrap();
        assert_eq!(kept(&places), [1, 4, 5, 6, 7]);
        // Who is known and has asked keeps the place, whoever comes.
        let all: Vec<Busy> = [&first, &fresh, &more].map(|place| line(place).busy()).into();
        [&first, &fresh, &more].iter().for_each(|place| line(place).is_known());
        assert!(places.take(from(4)).is_none());
        drop((busy, others, all));
        let last = places.take(from(4)).unwrap();
        assert_eq!(kept(&places), [1, 4, 5, 6, 8], "one of those that are most, and are served in full");
        drop(last);
        assert_eq!(kept(&places), [1, 4, 5, 6]);
    }
}
