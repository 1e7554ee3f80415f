//! A connection that knows whether it waits for its client, and limits the time of a request's head.
//!
//! hyper has one timeout for the head of a request and for the silence before it. As short as slow heads need it, it would
//! close connections that a proxy is about to use again. Invariant: from its first byte a head has this long and arrives at
//! a least rate, and the first head has this long from the beginning of the connection; then reading fails and the
//! connection ends. A client that does not take its answer ends it likewise.

use super::Pace;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// The rate of a head. Clients send one in a single write.
const HEAD_PACE: Pace = Pace { grace: Duration::from_secs(3), bytes_per_second: 1024 };

/// The requests of one connection. Clones share it.
#[derive(Clone)]
pub(super) struct Activity(Arc<Mutex<State>>);

struct State {
    /// Requests whose head was complete.
    requests: usize,
    /// How many of these are in progress: they have no answer yet, or the rest of their body is still being read.
    active: usize,
    /// How many of those have arrived to their end.
    complete: usize,
    /// The head of another request has begun.
    in_head: bool,
    /// When the connection, its last silence or the head of its request began.
    since: Instant,
}

/// A request is in progress until this is dropped.
pub struct ActiveRequest {
    activity: Activity,
    complete: bool,
}

impl Activity {
    /// The activity of a new connection.
    pub(super) fn new() -> Self {
        let state = State { requests: 0, active: 0, complete: 0, in_head: false, since: Instant::now() };
        Self(Arc::new(Mutex::new(state)))
    }

    /// The head of a request is complete.
    pub(super) fn begin(&self) -> ActiveRequest {
        let mut state = self.lock();
        state.requests += 1;
        state.active += 1;
        state.in_head = false;
        ActiveRequest { activity: self.clone(), complete: false }
    }

    /// Since when the client has let the server wait: it is silent, or its request is not complete.
    pub(super) fn waiting_since(&self) -> Option<Instant> {
        let state = self.lock();
        (state.complete == 0).then_some(state.since)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ActiveRequest {
    /// Its body was read, or is not needed. From now on, until the answer, its connection is not closed for another.
    pub fn complete(&mut self) {
        if !self.complete {
            self.complete = true;
            self.activity.lock().complete += 1;
        }
    }

    #[cfg(test)]
    pub(super) fn is_of(&self, activity: &Activity) -> bool {
        Arc::ptr_eq(&self.activity.0, &activity.0)
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        let mut state = self.activity.lock();
        state.active -= 1;
        state.complete -= usize::from(self.complete);
        state.since = Instant::now();
    }
}

/// A connection on which a head may take only so long.
pub(super) struct TimedStream<S> {
    stream: S,
    activity: Activity,
    head: Duration,
    write: Duration,
    /// None while no head is expected.
    timer: Option<HeadTimer>,
    /// When the bytes that wait to be written must have moved.
    write_deadline: Option<Pin<Box<Sleep>>>,
}

/// The time of a head that has begun, or of the first one.
struct HeadTimer {
    due: Pin<Box<Sleep>>,
    /// When it is due whatever the rate.
    latest: Instant,
    /// The number of requests before it.
    after: usize,
    /// When its first byte came, and the number of its bytes.
    begun: Option<(Instant, usize)>,
}

impl HeadTimer {
    fn new(head: Duration, after: usize) -> Self {
        let latest = Instant::now() + head;
        Self { due: Box::pin(sleep_until(latest)), latest, after, begun: None }
    }

    fn count(&mut self, bytes: usize) {
        let (begun, count) = self.begun.get_or_insert_with(|| (Instant::now(), 0));
        *count += bytes;
        let due = self.latest.min(HEAD_PACE.due(*begun, *count));
        self.due.as_mut().reset(due);
    }
}

impl<S> TimedStream<S> {
    pub(super) fn new(stream: S, activity: Activity, head: Duration, write: Duration) -> Self {
        Self { stream, activity, head, write, timer: Some(HeadTimer::new(head, 0)), write_deadline: None }
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
        this.timer.take_if(|timer| timer.after != state.requests);
        if read.is_ready() {
            let bytes = buffer.filled().len() - before;
            if bytes > 0 && state.active == 0 {
                if !state.in_head {
                    state.in_head = true;
                    state.since = Instant::now();
                }
                let (head, after) = (this.head, state.requests);
                this.timer.get_or_insert_with(|| HeadTimer::new(head, after)).count(bytes);
            }
            return read;
        }
        drop(state);
        let Some(timer) = &mut this.timer else { return Poll::Pending };
        ready!(timer.due.as_mut().poll(context));
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
        client.write_all(b"head").await.unwrap();
        stream.read_exact(&mut bytes).await.unwrap();
        let mut request = activity.begin();
        client.write_all(b"body").await.unwrap();
        stream.read_exact(&mut bytes).await.unwrap();
        assert!(activity.waiting_since().is_some());
        request.complete();
        assert!(activity.waiting_since().is_none());
        drop(request);
        assert!(activity.waiting_since().is_some());
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

    #[tokio::test(start_paused = true)]
    async fn a_head_arrives_at_a_least_rate() {
        let arrives = async |bytes: usize, every: Duration| {
            let (mut client, stream) = duplex(64);
            let mut stream = TimedStream::new(stream, Activity::new(), HOUR, HOUR);
            tokio::spawn(async move {
                while client.write_all(&vec![b'x'; bytes]).await.is_ok() {
                    tokio::time::sleep(every).await;
                }
            });
            let mut head = vec![0; 16 * 1024];
            stream.read_exact(&mut head).await.is_ok()
        };
        assert!(!arrives(1, Duration::from_millis(50)).await);
        assert!(arrives(64, Duration::from_millis(50)).await);
        // Up to its first byte a client has the whole time.
        let (mut client, stream) = duplex(64);
        let mut stream = TimedStream::new(stream, Activity::new(), HOUR, HOUR);
        let late = tokio::spawn(async move { stream.read_u8().await });
        tokio::time::sleep(HOUR / 2).await;
        client.write_all(b"x").await.unwrap();
        assert!(late.await.unwrap().is_ok());
    }
}
