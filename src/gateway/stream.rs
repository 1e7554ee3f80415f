//! Bodies that pass through: bounded in memory, in bytes and in time, in both directions.
//!
//! The invariant: a body that broke off, stalled or grew too large never ends like a complete one. Its receiver sees an error, so
//! GitHub takes no half of a pack for a whole one, and git no half of an answer. A transfer holds a few chunks, whatever its
//! length: the sender waits until the receiver took them.

use bytes::{Bytes, BytesMut};
use flate2::write::GzDecoder;
use http::{HeaderMap, HeaderValue, header};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame};
use prometheus_client::metrics::counter::Counter;
use std::io::Write as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

/// The chunks that wait for the receiver.
const CHUNKS: usize = 2;
/// The compressed bytes that are expanded at once. Deflate expands a byte to at most 1032, so this becomes about 64 KiB.
const COMPRESSED: usize = 64;

/// Why a transfer ended before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    #[error("no byte arrived in time")]
    Stalled,
    #[error("it took too long")]
    Slow,
    #[error("it is too large")]
    TooLarge,
    #[error("the compressed data cannot be read")]
    Compressed,
    #[error("the connection ended before the data did")]
    Broken,
    /// The receiver has gone.
    #[error("nobody takes it")]
    Unwanted,
}

/// The time for a transfer.
#[derive(Clone, Copy, Debug)]
pub struct TimeLimits {
    /// For the whole of it.
    pub until: Instant,
    /// Without a byte.
    pub stall: Duration,
}

impl TimeLimits {
    async fn wait<T>(&self, future: impl Future<Output = T>) -> Result<T, StreamError> {
        let stalled = Instant::now() + self.stall;
        let error = if stalled < self.until { StreamError::Stalled } else { StreamError::Slow };
        timeout_at(stalled.min(self.until), future).await.map_err(|_| error)
    }
}

/// A body that is read by parts.
pub struct Reader<B> {
    body: B,
    decoder: Option<Decoder>,
    left: u64,
    time: TimeLimits,
    has_ended: bool,
    /// Cancelled when the connection that the body comes from has ended.
    gone: Option<CancellationToken>,
}

/// An encoding of a body that is neither absent nor gzip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the encoding of the body is not supported; send it plain or as gzip")]
pub struct EncodingError;

/// The encoding of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Plain,
    Gzip,
}

impl Encoding {
    /// The one that the headers name.
    pub fn of(headers: &HeaderMap) -> Result<Self, EncodingError> {
        let mut encodings = headers.get_all(header::CONTENT_ENCODING).iter();
        match (encodings.next().map(HeaderValue::as_bytes), encodings.next()) {
            (None, _) => Ok(Self::Plain),
            (Some(encoding), None) if encoding.eq_ignore_ascii_case(b"identity") => Ok(Self::Plain),
            (Some(encoding), None) if encoding.eq_ignore_ascii_case(b"gzip") => Ok(Self::Gzip),
            _ => Err(EncodingError),
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Reader<B> {
    /// Reads at most `most` bytes as they are.
    pub fn plain(body: B, most: u64, time: TimeLimits) -> Self {
        Self { body, decoder: None, left: most, time, has_ended: false, gone: None }
    }

    /// The same, of a connection that may end before the body. hyper ends a body in the same way when all of it has arrived and when
    /// its connection is dropped.
    #[must_use]
    pub fn of_connection(self, gone: CancellationToken) -> Self {
        Self { gone: Some(gone), ..self }
    }

    /// The time for the body.
    #[must_use]
    pub fn time(&self) -> TimeLimits {
        self.time
    }

    /// Reads at most `most` bytes behind the encoding that the headers name.
    pub fn decoded(headers: &HeaderMap, body: B, most: u64, time: TimeLimits) -> Result<Self, EncodingError> {
        let decoder = match Encoding::of(headers)? {
            Encoding::Plain => None,
            Encoding::Gzip => Some(Decoder::default()),
        };
        Ok(Self { decoder, ..Self::plain(body, most, time) })
    }

    /// The next bytes; none at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, StreamError> {
        while !self.has_ended {
            if let Some(decoder) = &mut self.decoder
                && let Some(bytes) = decoder.decode()?
            {
                return self.counted(bytes).map(Some);
            }
            match self.time.wait(self.body.frame()).await? {
                None if self.gone.as_ref().is_some_and(CancellationToken::is_cancelled) => {
                    return Err(StreamError::Broken);
                }
                None => {
                    self.has_ended = true;
                    let rest = self.decoder.take().map(Decoder::finish).transpose()?.unwrap_or_default();
                    return if rest.is_empty() { Ok(None) } else { self.counted(rest).map(Some) };
                }
                Some(Err(_)) => return Err(StreamError::Broken),
                Some(Ok(frame)) => match (frame.into_data(), &mut self.decoder) {
                    (Ok(bytes), _) if bytes.is_empty() => {}
                    (Ok(bytes), None) => return self.counted(bytes).map(Some),
                    (Ok(bytes), Some(decoder)) => decoder.waiting = bytes,
                    // Trailers say nothing to git.
                    (Err(_), _) => {}
                },
            }
        }
        Ok(None)
    }

    fn counted(&mut self, bytes: Bytes) -> Result<Bytes, StreamError> {
        self.left = self.left.checked_sub(bytes.len() as u64).ok_or(StreamError::TooLarge)?;
        Ok(bytes)
    }

    /// Reads to the end and keeps nothing.
    pub async fn discard(mut self) -> Result<(), StreamError> {
        while self.next().await?.is_some() {}
        Ok(())
    }

    /// Reads to the end, and keeps at most `most` bytes.
    pub async fn text(mut self, most: usize) -> String {
        let mut text = Vec::new();
        while text.len() < most
            && let Ok(Some(bytes)) = self.next().await
        {
            text.extend_from_slice(&bytes[..bytes.len().min(most - text.len())]);
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Reads to the end, and keeps all.
    pub async fn bytes(mut self) -> Result<Bytes, StreamError> {
        let mut all = BytesMut::new();
        while let Some(bytes) = self.next().await? {
            all.extend_from_slice(&bytes);
        }
        Ok(all.freeze())
    }

    /// Sends all that is left, and the end. Counts the bytes.
    pub async fn pump(mut self, to: Sender, counted: Counter) -> Result<(), StreamError> {
        while let Some(bytes) = self.next().await? {
            counted.inc_by(bytes.len() as u64);
            to.send(bytes, self.time).await?;
        }
        to.end(self.time).await
    }
}

/// Expands gzip.
struct Decoder {
    inner: GzDecoder<Vec<u8>>,
    waiting: Bytes,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { inner: GzDecoder::new(Vec::new()), waiting: Bytes::new() }
    }
}

impl Decoder {
    /// The next bytes; none if more of the compressed ones have to arrive first.
    fn decode(&mut self) -> Result<Option<Bytes>, StreamError> {
        while !self.waiting.is_empty() {
            let part = self.waiting.split_to(self.waiting.len().min(COMPRESSED));
            // Bytes behind the end are refused, for git sends one member.
            self.inner.write_all(&part).map_err(|_| StreamError::Compressed)?;
            let expanded = std::mem::take(self.inner.get_mut());
            if !expanded.is_empty() {
                return Ok(Some(expanded.into()));
            }
        }
        Ok(None)
    }

    /// The last bytes, if the compressed data is complete.
    fn finish(self) -> Result<Bytes, StreamError> {
        self.inner.finish().map(Bytes::from).map_err(|_| StreamError::Broken)
    }
}

#[derive(Debug)]
enum Part {
    Bytes(Bytes),
    End,
}

/// The beginning of a pipe.
#[derive(Debug)]
pub struct Sender(mpsc::Sender<Part>);

/// The end of a pipe: the body of a request or of an answer.
#[derive(Debug)]
pub struct Piped {
    parts: mpsc::Receiver<Part>,
    has_ended: bool,
}

/// A body, and the end at which it is filled. If that end is dropped early, the body fails.
#[must_use]
pub fn pipe() -> (Sender, Piped) {
    let (sender, parts) = mpsc::channel(CHUNKS);
    (Sender(sender), Piped { parts, has_ended: false })
}

impl Sender {
    /// Waits until there is room.
    pub async fn send(&self, bytes: Bytes, time: TimeLimits) -> Result<(), StreamError> {
        self.part(Part::Bytes(bytes), time).await
    }

    /// The body is complete.
    pub async fn end(self, time: TimeLimits) -> Result<(), StreamError> {
        self.part(Part::End, time).await
    }

    async fn part(&self, part: Part, time: TimeLimits) -> Result<(), StreamError> {
        time.wait(self.0.send(part)).await?.map_err(|_| StreamError::Unwanted)
    }
}

impl Body for Piped {
    type Data = Bytes;
    type Error = StreamError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        Poll::Ready(match ready!(self.parts.poll_recv(context)) {
            Some(Part::Bytes(bytes)) => Some(Ok(Frame::data(bytes))),
            Some(Part::End) => {
                self.has_ended = true;
                None
            }
            None => {
                self.has_ended = true;
                Some(Err(StreamError::Broken))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended
    }
}

#[cfg(test)]
mod tests;
