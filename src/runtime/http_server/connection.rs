//! A connection that knows whether a request is in progress, and limits the time of a request's head.
//!
//! hyper has one timeout for the head of a request and for the silence before it. As short as slow heads need it, it would
//! close connections that a proxy is about to use again. Invariant: from its first byte a head has this long, and the first
//! head has it from the beginning of the connection; then reading fails and the connection ends. A client that does not take its
//! answer ends it likewise.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// The requests of one connection. Clones share it.
#[derive(Clone)]
pub(super) struct Activity(Arc<Mutex<State>>);

struct State {
    /// Requests whose head was complete.
    requests: usize,
    /// How many of these are in progress: they have no answer yet, or the rest of their body is still being read.
    active: usize,
    /// The head of another request has begun.
    in_head: bool,
    /// When the last request ended.
    idle_since: Instant,
}

/// A request is in progress until this is dropped.
pub struct ActiveRequest(Activity);

impl Activity {
    /// The activity of a new connection.
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(State { requests: 0, active: 0, in_head: false, idle_since: Instant::now() })))
    }

    /// The head of a request is complete.
    pub(super) fn begin(&self) -> ActiveRequest {
        let mut state = self.lock();
        state.requests += 1;
        state.active += 1;
        state.in_head = false;
        ActiveRequest(self.clone())
    }

    /// Since when the connection has been idle, if it is.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        let state = self.lock();
        (state.active == 0 && !state.in_head).then_some(state.idle_since)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.active -= 1;
        state.idle_since = Instant::now();
    }
}

/// A connection on which a head may take only so long.
pub(super) struct TimedStream<S> {
    stream: S,
    activity: Activity,
    head: Duration,
    write: Duration,
    /// When the next head must be complete, and the number of requests before it.
    deadline: Option<(Pin<Box<Sleep>>, usize)>,
    /// When the bytes that wait to be written must have moved.
    write_deadline: Option<Pin<Box<Sleep>>>,
}

impl<S> TimedStream<S> {
    pub(super) fn new(stream: S, activity: Activity, head: Duration, write: Duration) -> Self {
        let deadline = Some((Box::pin(sleep_until(Instant::now() + head)), 0));
        Self { stream, activity, head, write, deadline, write_deadline: None }
    }

    /// Limits the time for which writing makes no progress.
    fn written<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.write_deadline = None;
            return written;
        }
        let write = self.write;
        let deadline = self.write_deadline.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + write)));
        ready!(deadline.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for TimedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(context, buffer);
        let mut state = this.activity.lock();
        // That head is complete: these bytes belong to its body, or to the next head.
        this.deadline.take_if(|(_, after)| *after != state.requests);
        if read.is_ready() {
            if buffer.filled().len() > before && state.active == 0 {
                state.in_head = true;
                let (head, after) = (this.head, state.requests);
                this.deadline.get_or_insert_with(|| (Box::pin(sleep_until(Instant::now() + head)), after));
            }
            return read;
        }
        drop(state);
        let Some((deadline, _)) = &mut this.deadline else { return Poll::Pending };
        ready!(deadline.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for TimedStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.written(context, written)
    }
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.written(context, flushed)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(context);
        self.written(context, shut)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.written(context, written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::time::timeout;

    const HOUR: Duration = Duration::from_hours(1);

    /// A paused clock moves only when nothing else is left to do. Bytes on their way through a socket would not hold it.
    #[tokio::test(start_paused = true)]
    async fn a_head_has_a_deadline_and_a_body_or_silence_between_requests_has_none() {
        let (mut client, stream) = duplex(64);
        let activity = Activity::new();
        let mut stream = TimedStream::new(stream, activity.clone(), HOUR, HOUR);
        let mut bytes = [0; 4];
        let is_cut = async |stream: &mut TimedStream<DuplexStream>| {
            let mut byte = [0];
            timeout(2 * HOUR, stream.read(&mut byte)).await.is_ok_and(|read| read.is_err())
        };
        assert!(activity.idle_since().is_some());
        client.write_all(b"head").await.unwrap();
        stream.read_exact(&mut bytes).await.unwrap();
        assert!(activity.idle_since().is_none());
        let request = activity.begin();
        client.write_all(b"body").await.unwrap();
        stream.read_exact(&mut bytes).await.unwrap();
        drop(request);
        assert!(activity.idle_since().is_some());
        assert!(!is_cut(&mut stream).await, "silence after a request");
        client.write_all(b"head").await.unwrap();
        stream.read_exact(&mut bytes).await.unwrap();
        assert!(is_cut(&mut stream).await, "within a head");
        let (_client, silent) = duplex(64);
        assert!(is_cut(&mut TimedStream::new(silent, Activity::new(), HOUR, HOUR)).await, "before the first head");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_ends_its_connection_and_a_slow_one_does_not() {
        let (mut client, stream) = duplex(64);
        let mut stream = TimedStream::new(stream, Activity::new(), HOUR, HOUR);
        let slow = async {
            let mut bytes = [0; 64];
            for _ in 0..4 {
                tokio::time::sleep(HOUR / 2).await;
                client.read_exact(&mut bytes).await.unwrap();
            }
        };
        let (written, ()) = tokio::join!(stream.write_all(&[0; 300]), slow);
        written.unwrap();
        let stalled = timeout(2 * HOUR, stream.write_all(&[0; 300])).await.unwrap();
        assert_eq!(stalled.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
