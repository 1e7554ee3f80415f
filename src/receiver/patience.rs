//! A connection that may be silent for long between two requests, and only briefly before its first and within the head
//! of any.
//!
//! hyper knows one time for all of it: as short as slow heads need it, it would close connections that a proxy is about to
//! use again. Invariant: from the first byte of a head, the rest has so long, and the first head has it from the beginning;
//! then reading fails and the connection ends. And it is known of each connection since when nothing is going on there.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// What is going on on a connection. Clones are of the same one.
#[derive(Clone)]
pub struct Patience(Arc<Mutex<Progress>>);

struct Progress {
    /// Requests whose head was there.
    requests: usize,
    /// Of these, those that are being served, or whose bodies are still being taken off the line.
    served: usize,
    /// A further head has begun.
    is_head: bool,
    /// When the last request was done with.
    since: Instant,
}

/// A request is being served, until this is dropped.
pub struct Busy(Patience);

impl Patience {
    /// Of a new connection.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(Progress { requests: 0, served: 0, is_head: false, since: Instant::now() })))
    }

    /// A head was read to its end.
    #[must_use]
    pub fn busy(&self) -> Busy {
        let mut progress = self.lock();
        progress.requests += 1;
        progress.served += 1;
        progress.is_head = false;
        Busy(self.clone())
    }

    /// Since when nothing has been going on, if nothing is.
    #[must_use]
    pub fn idle_since(&self) -> Option<Instant> {
        let progress = self.lock();
        (progress.served == 0 && !progress.is_head).then_some(progress.since)
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut progress = self.0.lock();
        progress.served -= 1;
        progress.since = Instant::now();
    }
}

/// The connection.
pub struct Patient<S> {
    stream: S,
    patience: Patience,
    time: Duration,
    /// When the head that is expected must be there, and after how many others.
    deadline: Option<(Pin<Box<Sleep>>, usize)>,
}

impl<S> Patient<S> {
    /// A connection on which a head may take `time`.
    #[must_use]
    pub fn new(stream: S, patience: Patience, time: Duration) -> Self {
        let deadline = Some((Box::pin(sleep_until(Instant::now() + time)), 0));
        Self { stream, patience, time, deadline }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(context, buffer);
        let mut progress = this.patience.lock();
        // That head is there: what is read now is its body, or the next one.
        this.deadline.take_if(|(_, after)| *after != progress.requests);
        if read.is_ready() {
            if buffer.filled().len() > before && progress.served == 0 {
                progress.is_head = true;
                let (time, after) = (this.time, progress.requests);
                this.deadline.get_or_insert_with(|| (Box::pin(sleep_until(Instant::now() + time)), after));
            }
            return read;
        }
        drop(progress);
        let Some((deadline, _)) = &mut this.deadline else { return Poll::Pending };
        ready!(deadline.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::time::timeout;

    const HOUR: Duration = Duration::from_hours(1);

    /// The clock stands still but where nothing else is left to happen; what is on its way through a socket would not count.
    #[tokio::test(start_paused = true)]
    async fn a_head_has_its_time_and_a_body_and_silence_after_it_have_theirs() {
        let (mut client, stream) = duplex(64);
        let patience = Patience::new();
        let mut stream = Patient::new(stream, patience.clone(), HOUR);
        let mut bytes = [0; 4];
        let is_cut = async |stream: &mut Patient<DuplexStream>| {
            let mut byte = [0];
            timeout(2 * HOUR, stream.read(&mut byte)).await.is_ok_and(|read| read.is_err())
        };
        assert!(patience.idle_since().is_some());
        client.write_all(b"head").await.unwrap();
        stream.read_exact(&mut bytes).await.unwrap();
        assert!(patience.idle_since().is_none());
        let busy = patience.busy();
        client.write_all(b"body").await.unwrap();
        stream.read_exact(&mut bytes).await.unwrap();
        drop(busy);
        assert!(patience.idle_since().is_some());
        assert!(!is_cut(&mut stream).await, "silence after a request");
        client.write_all(b"head").await.unwrap();
        stream.read_exact(&mut bytes).await.unwrap();
        assert!(is_cut(&mut stream).await, "within a head");
        let (_client, silent) = duplex(64);
        assert!(is_cut(&mut Patient::new(silent, Patience::new(), HOUR)).await, "before the first head");
    }
}
