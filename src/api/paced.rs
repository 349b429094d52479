//! A stream that reads seldom what comes in crumbs.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::api::places::Used;

/// Reads that a request may take before the rest of it is collected for a while. A press takes one or two, and a handshake before
/// it some more.
const FREE: u32 = 8;
/// How long the rest is collected between two reads from then on.
const PAUSE: Duration = Duration::from_millis(250);

/// A stream of requests that come whole, or nearly so. Each read gives its connection a turn, and has what there is of a head looked
/// at anew: somebody who sends a byte at a time over each of many connections would have that done as often as they can send.
pub(super) struct Paced<S> {
    stream: S,
    used: Arc<Used>,
    /// [`PAUSE`].
    collect: Duration,
    pause: Option<Pin<Box<Sleep>>>,
    /// The pause before the next read is over.
    may_read: bool,
}

impl<S> Paced<S> {
    /// `used` counts the reads, and the requests that are whole.
    pub(super) fn new(stream: S, used: Arc<Used>) -> Paced<S> {
        Paced { stream, used, collect: PAUSE, pause: None, may_read: false }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.used.reads() < FREE {
            this.pause = None;
        } else if !this.may_read {
            let collect = this.collect;
            ready!(this.pause.get_or_insert_with(|| Box::pin(tokio::time::sleep(collect))).as_mut().poll(context));
            this.pause = None;
            this.may_read = true;
        }
        let read = ready!(Pin::new(&mut this.stream).poll_read(context, buf));
        this.may_read = false;
        this.used.has_read();
        Poll::Ready(read)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn a_pause_that_a_whole_request_ended_is_not_the_pause_of_the_next() {
        let used = Arc::<Used>::default();
        let (mut sender, receiver) = tokio::io::duplex(1 << 10);
        let mut paced = Paced::new(receiver, used.clone());
        let long = Duration::from_secs(3_600);
        for request in 0..3 {
            paced.collect = long;
            for _ in 0..FREE {
                sender.write_all(b"x").await.unwrap();
                assert!(paced.read(&mut [0; 8]).now_or_never().is_some());
            }
            sender.write_all(b"x").await.unwrap();
            assert!(paced.read(&mut [0; 8]).now_or_never().is_none(), "request {request}");
            // One that is over by the time that the next request comes in crumbs.
            (paced.collect, paced.pause) = (Duration::from_millis(1), None);
            while paced.read(&mut [0; 8]).now_or_never().is_some() {
                sender.write_all(b"x").await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            used.is_whole();
        }
    }

    #[tokio::test]
    async fn what_comes_in_crumbs_is_read_seldom_and_a_whole_request_begins_anew() {
        let used = Arc::<Used>::default();
        let (mut sender, receiver) = tokio::io::duplex(1 << 10);
        let mut paced = Paced::new(receiver, used.clone());
        // So long that no pause is over before this test says so.
        let long = Duration::from_secs(3_600);
        paced.collect = long;
        let mut some = [0; 1 << 10];
        for round in 0..3 {
            for crumb in 0..FREE {
                sender.write_all(b"x").await.unwrap();
                let read = paced.read(&mut some).now_or_never().map(Result::unwrap);
                assert_eq!(read, Some(1), "crumb {crumb} of round {round}");
            }
            // From here on it is collected.
            for _ in 0..20 {
                sender.write_all(b"x").await.unwrap();
                assert!(paced.read(&mut some).now_or_never().is_none());
            }
            if round == 0 {
                (paced.collect, paced.pause) = (Duration::from_millis(1), None);
                assert_eq!(paced.read(&mut some).await.unwrap(), 20, "nothing is lost");
                paced.collect = long;
                sender.write_all(b"x").await.unwrap();
                assert!(paced.read(&mut some).now_or_never().is_none(), "the next read has to wait again");
            }
            // A request that is whole begins anew, also where a pause has begun.
            used.is_whole();
            assert!(paced.read(&mut some).now_or_never().is_some());
            used.begins(false);
        }
    }
}
