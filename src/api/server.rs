//! Connections: accepted, bounded, timed, served.
//!
//! `axum::serve` has no time-out for a request's head, so hyper is driven here. When all places are taken, one that nobody who is
//! known waits for makes room (see [`Places::take`]): neither a flood of silent connections nor one of slow requests keeps a
//! kill out, and who comes from elsewhere does not lose their place to it.
//!
//! One thread does all of it, so a kill waits for whatever is begun before it. So connections do not stand in one queue, in which
//! a kill would be behind a crowd, but get their turns by where they come from ([`Lobby`]); not many are given places before
//! those that have them had a turn ([`Newcomers`]); and what comes in crumbs is read seldom ([`Paced`]).

use std::io;
use std::net::TcpListener as StdListener;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt as _;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use rustix::net::{RecvFlags, recv};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinError;
use tower::ServiceExt;

use crate::api::lobby::Lobby;
use crate::api::paced::Paced;
use crate::api::places::{Busy, Place, Places, Source, Used};
use crate::api::problem::Problem;
use crate::api::routes::{Origin, Received, router};
use crate::api::tls::Tls;
use crate::api::{ApiOptions, ApiParts, Authenticator, Caller};
use crate::duty::Clock;

/// Connections that the system keeps for us until we take them in. A flood fills what is usual, and a connection that finds no
/// room tries again after a second, which is long for a kill. The system bounds it (`net.core.somaxconn`).
const BACKLOG: i32 = 1_024;
/// Connections that are taken into the [`Lobby`] at once, before those that are in it get turns.
const AT_ONCE: usize = 256;
/// Connections that get a place and a first turn before more are taken in.
const TURNS: usize = 4;

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
    type Stream: AsyncRead + AsyncWrite + AsFd + Unpin + Send + 'static;

    async fn connected(&self) -> io::Result<(Self::Stream, Origin)>;

    /// What is set on a connection before it is served.
    fn prepare(stream: &Self::Stream, options: &ApiOptions);

    /// Whether the other end has closed the connection and everything that it sent is read.
    fn has_gone(stream: &Self::Stream) -> bool {
        let look = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        recv(stream, &mut [0; 1], look).is_ok_and(|(read, _)| read == 0)
    }

    /// What is spoken here instead of plain HTTP.
    fn tls(parts: &ApiParts) -> Option<Arc<Tls>>;
}

impl Door for TcpListener {
    type Stream = TcpStream;

    async fn connected(&self) -> io::Result<(TcpStream, Origin)> {
        let (stream, peer) = self.accept().await?;
        Ok((stream, Origin::Network(peer)))
    }

    fn prepare(stream: &TcpStream, options: &ApiOptions) {
        let _ = stream.set_nodelay(true);
        // A peer that is gone without a word holds its place, and a stream its own, no longer than this.
        let unanswered = u32::try_from(options.unanswered.as_millis()).unwrap_or(u32::MAX);
        let _ = rustix::net::sockopt::set_tcp_user_timeout(stream, unanswered);
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

    fn prepare(_: &UnixStream, _: &ApiOptions) {}

    fn tls(_: &ApiParts) -> Option<Arc<Tls>> {
        None
    }
}

async fn serve<D: Door>(door: D, parts: Arc<ApiParts>, mut stop: watch::Receiver<bool>) -> io::Result<()> {
    let places = Arc::new(Places::new(parts.options.connections, parts.options.reserved));
    let newcomers = Arc::new(Newcomers::default());
    let graceful = GracefulShutdown::new();
    let drain = parts.options.drain;
    let server = Arc::new(Server {
        router: router(parts.clone(), stop.clone()),
        auth: parts.auth.clone(),
        tls: D::tls(&parts),
        clock: parts.clock.clone(),
        options: parts.options,
    });
    let mut lobby = Lobby::default();
    'serving: loop {
        for _ in 0..AT_ONCE {
            if !lobby.has_room() {
                break;
            }
            let accepted = if lobby.is_empty() {
                tokio::select! {
                    biased;
                    _ = stop.wait_for(|stop| *stop) => break 'serving,
                    accepted = door.connected() => accepted,
                }
            } else {
                match tokio::task::unconstrained(door.connected()).now_or_never() {
                    Some(accepted) => accepted,
                    None => break,
                }
            };
            match accepted {
                // Who has gone again without a word costs no place and no turn.
                Ok((stream, _)) if D::has_gone(&stream) => {}
                Ok((stream, origin)) => lobby.enter(Source::of(origin), (stream, origin)),
                Err(error) => {
                    // Most often out of descriptors: whoever closes one makes it go on.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    break;
                }
            }
        }
        for _ in 0..TURNS {
            let Some((source, (stream, origin))) = lobby.next() else { break };
            // While it waited as well.
            if D::has_gone(&stream) {
                continue;
            }
            let Some(place) = places.take(source) else { continue };
            D::prepare(&stream, &server.options);
            let watcher = graceful.watcher();
            let number = place.number;
            let newcomer = newcomers.one();
            let task = tokio::spawn(server.clone().connection(stream, origin, place, watcher, newcomer));
            places.set_task(number, task.abort_handle());
        }
        if !lobby.is_empty() {
            newcomers.have_had_their_turns().await;
            if *stop.borrow() {
                break;
            }
        }
    }
    drop(door);
    let _ = tokio::time::timeout(drain, graceful.shutdown()).await;
    Ok(())
}

/// Counts the connections that have a place and have not had their first turn. Turns are given in the order in which they were
/// asked for: when the last of them has had its, so has everything that was waiting when it came.
#[derive(Default)]
struct Newcomers {
    waiting: AtomicUsize,
    none: Notify,
}

/// One of them; until it is dropped.
struct Newcomer(Arc<Newcomers>);

impl Newcomers {
    fn one(self: &Arc<Self>) -> Newcomer {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Newcomer(self.clone())
    }

    /// Waits until there are none.
    async fn have_had_their_turns(&self) {
        if self.waiting.load(Ordering::Relaxed) > 0 {
            // Everything here is on one thread: the last does not leave between the look and the wait.
            self.none.notified().await;
        } else {
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        if self.0.waiting.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.none.notify_waiters();
        }
    }
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
        newcomer: Newcomer,
    ) {
        drop(newcomer);
        let stream = Paced::new(stream, place.used.clone());
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
            // hyper drops what it is at when the sender hangs up. A change has a task of its own: what was begun is done to its end,
            // and recorded, all the same.
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
        self.used.busy()
    }

    /// It is known who sent the request that is in progress.
    pub(super) fn is_known(&self, caller: &str) {
        self.used.is_known(caller);
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
            self.used.is_whole();
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

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::fd::OwnedFd;
    use std::sync::mpsc;
    use std::time::Instant;

    use super::*;
    use crate::api::tests::{Setup, World};

    /// A door that gives a second handle of each connection away, by which to see what of it was not read yet.
    struct Watched {
        listener: UnixListener,
        accepted: mpsc::Sender<OwnedFd>,
    }

    impl Door for Watched {
        type Stream = UnixStream;

        async fn connected(&self) -> io::Result<(UnixStream, Origin)> {
            let (stream, origin) = self.listener.connected().await?;
            let _ = self.accepted.send(stream.as_fd().try_clone_to_owned()?);
            Ok((stream, origin))
        }

        fn prepare(_: &UnixStream, _: &ApiOptions) {}

        fn tls(_: &ApiParts) -> Option<Arc<Tls>> {
            None
        }
    }

    /// So many requests over `client`, one after the other.
    fn ask(client: &mut std::net::TcpStream, requests: usize) {
        for n in 0..requests {
            client.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
            let mut answer = Vec::new();
            while !answer.ends_with(b"\r\n\r\nok\n") {
                let mut byte = [0];
                client.read_exact(&mut byte).unwrap();
                answer.push(byte[0]);
                assert!(answer.len() < 4096, "request {n}: {}", String::from_utf8_lossy(&answer));
            }
        }
    }

    #[test]
    fn whole_requests_are_read_at_once_however_many_come_over_one_connection() {
        const REQUESTS: usize = 50;
        let world = World::new(Setup::default());
        // Were they taken for crumbs, all but the first eight would wait for a quarter of a second. Where the machine is so slow
        // itself, they are held against requests of which each has a connection of its own.
        let waits = Duration::from_millis(250) * (REQUESTS as u32 - 8);
        let at_once = || {
            let begun = Instant::now();
            ask(&mut world.connect(), REQUESTS);
            let over_one = begun.elapsed();
            over_one < waits || {
                let begun = Instant::now();
                (0..REQUESTS).for_each(|_| ask(&mut world.connect(), 1));
                over_one < begun.elapsed() * 3
            }
        };
        assert!((0..5).any(|_| at_once()));
    }

    #[test]
    fn a_head_that_comes_in_crumbs_is_read_seldom() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = StdUnixListener::bind(&path).unwrap();
        let (accepted, connections) = mpsc::channel();
        let serve_it = move |_, parts, stop| {
            listener.set_nonblocking(true)?;
            let listening =
                async { serve(Watched { listener: UnixListener::from_std(listener)?, accepted }, parts, stop).await };
            on_a_runtime(listening)
        };
        let options = ApiOptions { header_timeout: Duration::from_secs(3_600), ..ApiOptions::default() };
        let world = World::new(Setup { serve: Box::new(serve_it), options, ..Setup::default() });
        let mut client = std::os::unix::net::UnixStream::connect(&path).unwrap();
        let connection = connections.recv_timeout(Duration::from_secs(60)).unwrap();
        let mut crumb = |crumb: u8| {
            // On a local socket what is written is there at once.
            client.write_all(&[crumb]).unwrap();
            world.until("it is read", || rustix::io::ioctl_fionread(&connection).unwrap() == 0);
        };
        let (last, first) = b"GET /liv".split_last().unwrap();
        first.iter().for_each(|byte| crumb(*byte));
        let begun = Instant::now();
        crumb(*last);
        crumb(b'e');
        assert!(begun.elapsed() >= Duration::from_millis(200), "{:?}", begun.elapsed());
    }
}
