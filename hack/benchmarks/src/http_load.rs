//! Load on an HTTP server of this machine: HTTP/1.1 on connections that are kept, one request in flight on each.
//!
//! Invariant: every answer is looked at. One with another status than expected ends the run, for a server that refuses
//! is fast at it.

use std::io;
use std::net::SocketAddr;

use bytes::Bytes;
use futures::future::try_join_all;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::load::{Measured, Until, drive};

/// The server did not answer as it should.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// There is no connection.
    #[error("no connection to {address}: does the server run, and has it file descriptors left?")]
    Connect {
        /// The server.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A request has no answer.
    #[error("{address} did not answer a request")]
    Exchange {
        /// The server.
        address: SocketAddr,
        /// Why.
        #[source]
        source: hyper::Error,
    },
    /// It answered something else.
    #[error("{address} answered {found} where {expected} was expected: {body}")]
    Status {
        /// The server.
        address: SocketAddr,
        /// What was expected.
        expected: StatusCode,
        /// What it answered.
        found: StatusCode,
        /// The answer's body.
        body: String,
    },
}

/// A connection that is kept.
#[derive(Debug)]
pub struct Connection {
    address: SocketAddr,
    sender: SendRequest<Full<Bytes>>,
}

impl Connection {
    /// Connects.
    pub async fn open(address: SocketAddr) -> Result<Self, LoadError> {
        Ok(Self { address, sender: connect(address).await? })
    }

    /// So many of them.
    pub async fn open_many(address: SocketAddr, count: usize) -> Result<Vec<Self>, LoadError> {
        try_join_all((0..count).map(|_| Self::open(address))).await
    }

    /// Sends a request, whose address is a path, and reads the whole answer. A connection that the server closed since
    /// the last one is opened anew, within the time that this takes.
    pub async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, LoadError> {
        let address = self.address;
        let in_exchange = move |source| LoadError::Exchange { address, source };
        if self.sender.ready().await.is_err() {
            self.sender = connect(address).await?;
        }
        let (head, body) = self.sender.send_request(request).await.map_err(in_exchange)?.into_parts();
        let body = body.collect().await.map_err(in_exchange)?.to_bytes();
        Ok(Response::from_parts(head, body))
    }
}

async fn connect(address: SocketAddr) -> Result<SendRequest<Full<Bytes>>, LoadError> {
    let in_connect = move |source| LoadError::Connect { address, source };
    let stream = TcpStream::connect(address).await.map_err(in_connect)?;
    stream.set_nodelay(true).map_err(in_connect)?;
    let handshake = http1::handshake(TokioIo::new(stream)).await;
    let (sender, connection) = handshake.map_err(|source| LoadError::Exchange { address, source })?;
    // How it ends is told to whoever sends on it.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

/// Sends requests, as many at once as there are connections; each is made from its number. Every answer must have this
/// status.
pub async fn requests(
    connections: &mut [Connection],
    until: Until,
    expected: StatusCode,
    request: impl Fn(u64) -> Request<Full<Bytes>>,
) -> Result<Measured, LoadError> {
    drive(connections, until, async |connection: &mut Connection, number| {
        let answer = connection.send(request(number)).await?;
        if answer.status() == expected {
            return Ok(());
        }
        let (address, found) = (connection.address, answer.status());
        let body = String::from_utf8_lossy(answer.body()).into_owned();
        Err(LoadError::Status { address, expected, found, body })
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};

    use hyper::service::service_fn;
    use tokio::net::TcpListener;

    use super::*;

    /// A server that notes paths and counts connections; it refuses `/refused`, and closes after `/last`.
    async fn server() -> (SocketAddr, Arc<Mutex<Vec<String>>>, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (paths, connections) = (Arc::<Mutex<Vec<String>>>::default(), Arc::<AtomicUsize>::default());
        let (noted, counted) = (Arc::clone(&paths), Arc::clone(&connections));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                let noted = Arc::clone(&noted);
                let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                    let path = request.uri().path().to_owned();
                    let mut answer = Response::new(Full::new(Bytes::from_static(b"told")));
                    if path == "/refused" {
                        *answer.status_mut() = StatusCode::UNAUTHORIZED;
                    } else if path == "/last" {
                        answer.headers_mut().insert("connection", http::HeaderValue::from_static("close"));
                    }
                    noted.lock().unwrap().push(path);
                    async { Ok::<_, Infallible>(answer) }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        (address, paths, connections)
    }

    fn get(path: &str) -> Request<Full<Bytes>> {
        Request::get(path).header("host", "test").body(Full::default()).unwrap()
    }

    #[tokio::test]
    async fn connections_are_kept_and_answers_looked_at() {
        let (address, paths, connections) = server().await;
        let mut open = Connection::open_many(address, 3).await.unwrap();
        let measured =
            requests(&mut open, Until::Calls(30), StatusCode::OK, |number| get(&format!("/{number}"))).await.unwrap();
        assert_eq!((measured.calls(), paths.lock().unwrap().len(), connections.load(Ordering::SeqCst)), (30, 30, 3));
        let error = requests(&mut open, Until::Calls(1), StatusCode::OK, |_| get("/refused")).await.unwrap_err();
        assert!(error.to_string().ends_with("answered 401 Unauthorized where 200 OK was expected: told"), "{error}");
    }

    #[tokio::test]
    async fn what_the_server_closed_is_opened_anew() {
        let (address, _, connections) = server().await;
        let mut open = [Connection::open(address).await.unwrap()];
        requests(&mut open, Until::Calls(3), StatusCode::OK, |_| get("/last")).await.unwrap();
        assert_eq!(connections.load(Ordering::SeqCst), 3);
    }
}
