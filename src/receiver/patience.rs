//! A connection that may be silent for long between two requests, and only briefly within the head of one.
//!
//! hyper knows one time for both: as short as slow heads need it, it would close connections that a proxy is about to
//! use again. Invariant: from the first byte of a head, the rest has so long; then reading fails and the connection ends.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

/// How many requests began and ended on a connection: odd while one is being served. Clones are of the same one.
#[derive(Clone, Default)]
pub struct Patience(Arc<AtomicUsize>);

/// A request is being served, until this is dropped.
pub struct Busy(Patience);

impl Patience {
    /// A head was read to its end.
    #[must_use]
    pub fn busy(&self) -> Busy {
        self.0.fetch_add(1, Ordering::Relaxed);
        Busy(self.clone())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// The connection.
pub struct Patient {
    stream: TcpStream,
    patience: Patience,
    time: Duration,
    /// When the head that has begun must be there, and after how many changes it began.
    deadline: Option<(Pin<Box<Sleep>>, usize)>,
}

impl Patient {
    /// A connection on which a head may take `time`.
    #[must_use]
    pub fn new(stream: TcpStream, patience: Patience, time: Duration) -> Self {
        Self { stream, patience, time, deadline: None }
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let changes = self.patience.0.load(Ordering::Relaxed);
        // That head is there: what is read now is its body, or the next one.
        self.deadline.take_if(|(_, began)| *began != changes);
        let before = buffer.filled().len();
        match Pin::new(&mut self.stream).poll_read(context, buffer) {
            Poll::Ready(result) => {
                let is_head = buffer.filled().len() > before && changes.is_multiple_of(2);
                if is_head && self.deadline.is_none() {
                    self.deadline = Some((Box::pin(sleep_until(Instant::now() + self.time)), changes));
                }
                Poll::Ready(result)
            }
            Poll::Pending => {
                let Some((deadline, _)) = &mut self.deadline else { return Poll::Pending };
                ready!(deadline.as_mut().poll(context));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

impl AsyncWrite for Patient {
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
