use super::*;
use flate2::Compression;
use flate2::write::GzEncoder;
use http_body_util::{Full, StreamBody};

fn time() -> TimeLimits {
    TimeLimits { until: Instant::now() + Duration::from_hours(1), stall: Duration::from_mins(1) }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn headers(encodings: &[&'static str]) -> HeaderMap {
    let values = encodings.iter().map(|encoding| (header::CONTENT_ENCODING, HeaderValue::from_static(encoding)));
    values.collect()
}

/// A body that arrives in pieces.
fn pieces(bytes: &[u8], piece: usize) -> impl Body<Data = Bytes, Error = std::io::Error> + Unpin {
    let frames: Vec<_> = bytes.chunks(piece).map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece)))).collect();
    StreamBody::new(futures::stream::iter(frames))
}

async fn read(encodings: &[&'static str], bytes: &[u8], piece: usize, most: u64) -> Result<Vec<u8>, StreamError> {
    let mut reader = Reader::decoded(&headers(encodings), pieces(bytes, piece), most, time()).unwrap();
    let mut read = Vec::new();
    while let Some(bytes) = reader.next().await? {
        assert!(bytes.len() < 128 << 10, "{} bytes at once", bytes.len());
        read.extend_from_slice(&bytes);
    }
    Ok(read)
}

#[tokio::test]
async fn bodies_are_read_plain_and_compressed() {
    let text: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
    let compressed = gzip(&text);
    for piece in [1, 3, 1000, compressed.len()] {
        assert_eq!(read(&["gzip"], &compressed, piece, u64::MAX).await.as_deref(), Ok(&text[..]), "{piece}");
    }
    assert_eq!(read(&[], &compressed, 1000, u64::MAX).await, Ok(compressed.clone()));
    assert_eq!(read(&["identity"], b"x", 1, 1).await, Ok(b"x".to_vec()));
    assert_eq!(read(&["GZIP"], &gzip(b""), 7, 0).await, Ok(vec![]));
    for encodings in [&["br"][..], &["gzip, gzip"], &["gzip", "gzip"], &["deflate"], &[""]] {
        assert!(Reader::decoded(&headers(encodings), Full::new(Bytes::new()), 1, time()).is_err(), "{encodings:?}");
    }
}

#[tokio::test]
async fn a_compressed_body_that_is_cut_or_goes_on_is_refused() {
    let compressed = gzip(&b"landfall ".repeat(100));
    for end in 0..compressed.len() {
        assert!(read(&["gzip"], &compressed[..end], 10, u64::MAX).await.is_err(), "{end}");
    }
    let longer = [&compressed[..], b"x"].concat();
    assert_eq!(read(&["gzip"], &longer, longer.len(), u64::MAX).await, Err(StreamError::Compressed));
    let twice = [&compressed[..], &compressed].concat();
    assert_eq!(read(&["gzip"], &twice, 10, u64::MAX).await, Err(StreamError::Compressed));
    let mut wrong = compressed.clone();
    let place = compressed.len() - 6;
    wrong[place] ^= 1;
    assert_eq!(read(&["gzip"], &wrong, 10, u64::MAX).await, Err(StreamError::Broken), "its checksum");
}

/// A pack that expands without end is cut at the limit, and was never in memory.
#[tokio::test]
async fn what_a_body_expands_to_is_counted() {
    let bomb = gzip(&vec![0; 64 << 20]);
    assert!(bomb.len() < 100 << 10);
    assert_eq!(read(&["gzip"], &bomb, bomb.len(), 8 << 20).await, Err(StreamError::TooLarge));
    assert_eq!(read(&[], b"abc", 1, 2).await, Err(StreamError::TooLarge));
}

#[tokio::test(start_paused = true)]
async fn a_body_without_progress_ends() {
    let silent = StreamBody::new(futures::stream::pending::<Result<Frame<Bytes>, std::io::Error>>());
    assert_eq!(Reader::plain(silent, 1, time()).next().await, Err(StreamError::Stalled));
    let silent = StreamBody::new(futures::stream::pending::<Result<Frame<Bytes>, std::io::Error>>());
    let soon = TimeLimits { until: Instant::now() + Duration::from_secs(1), ..time() };
    assert_eq!(Reader::plain(silent, 1, soon).next().await, Err(StreamError::Slow));
    // Nobody takes what is sent.
    let (sender, _body) = pipe();
    assert_eq!(
        Reader::plain(pieces(&[0; 100], 1), 1000, time()).pump(sender, Counter::default()).await,
        Err(StreamError::Stalled)
    );
    let (sender, body) = pipe();
    drop(body);
    assert_eq!(
        Reader::plain(pieces(&[0; 100], 1), 1000, time()).pump(sender, Counter::default()).await,
        Err(StreamError::Unwanted)
    );
}

#[tokio::test]
async fn a_body_ends_only_where_its_source_did() {
    let through = async |bytes: &[u8], most| {
        let (sender, body) = pipe();
        let pump = Reader::plain(pieces(bytes, 10), most, time()).pump(sender, Counter::default());
        let (pumped, collected) = tokio::join!(pump, body.collect());
        (pumped, collected.map(|collected| collected.to_bytes().to_vec()))
    };
    assert_eq!(through(&[7; 1000], 1000).await, (Ok(()), Ok(vec![7; 1000])));
    assert_eq!(through(&[7; 1000], 999).await, (Err(StreamError::TooLarge), Err(StreamError::Broken)));
    let failing = StreamBody::new(futures::stream::iter([
        Ok(Frame::data(Bytes::from_static(b"half of a pack"))),
        Err(std::io::Error::other("reset")),
    ]));
    let (sender, body) = pipe();
    let (pumped, collected) =
        tokio::join!(Reader::plain(failing, 1000, time()).pump(sender, Counter::default()), body.collect());
    assert_eq!((pumped, collected.err()), (Err(StreamError::Broken), Some(StreamError::Broken)));
}

/// hyper ends the body of a connection that is dropped like one that has arrived.
#[tokio::test]
async fn a_body_whose_connection_has_ended_is_not_complete() {
    let gone = CancellationToken::new();
    let read = async |gone: &CancellationToken| {
        let mut reader = Reader::plain(pieces(b"half", 2), 100, time()).of_connection(gone.clone());
        let mut read = Vec::new();
        while let Some(bytes) = reader.next().await? {
            read.extend_from_slice(&bytes);
        }
        Ok(read)
    };
    assert_eq!(read(&gone).await, Ok(b"half".to_vec()));
    gone.cancel();
    assert_eq!(read(&gone).await, Err(StreamError::Broken));
}
