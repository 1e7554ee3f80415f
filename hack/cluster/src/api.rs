//! The few requests of the cluster itself to its API server: for readiness, creation and reading.
//!
//! A Kubernetes client would take longer to build than everything else here, and a clean checkout builds this crate
//! first.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::certificates::Identity;

/// The limit of one request. The API server of an idle machine answers within milliseconds; on a busy machine, the
/// first request to a new one takes longer.
const LIMIT: Duration = Duration::from_mins(1);

/// A client of one API server.
pub(crate) struct Api {
    address: SocketAddr,
    connector: TlsConnector,
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

impl Api {
    pub(crate) fn new(address: SocketAddr, authority: &str, identity: &Identity) -> io::Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(certificate(authority)?).map_err(io::Error::other)?;
        let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).map_err(io::Error::other)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![certificate(&identity.certificate)?], key)
            .map_err(io::Error::other)?;
        Ok(Self { address, connector: TlsConnector::from(Arc::new(config)) })
    }

    pub(crate) async fn get(&self, path: &str) -> io::Result<Answer> {
        self.request("GET", path, "").await
    }

    /// Creates an object. An existing one is left unchanged.
    pub(crate) async fn create(&self, collection: &str, object: &Value) -> io::Result<()> {
        let answer = self.request("POST", collection, &object.to_string()).await?;
        match answer.status {
            201 | 409 => Ok(()),
            status => Err(io::Error::other(format!(
                "POST {collection} was answered {status}: {}",
                String::from_utf8_lossy(&answer.body)
            ))),
        }
    }

    async fn request(&self, method: &str, path: &str, body: &str) -> io::Result<Answer> {
        tokio::time::timeout(LIMIT, self.exchange(method, path, body))
            .await
            .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, format!("{method} {path}"))))
    }

    async fn exchange(&self, method: &str, path: &str, body: &str) -> io::Result<Answer> {
        let stream = TcpStream::connect(self.address).await?;
        let mut stream = self.connector.connect(ServerName::from(self.address.ip()), stream).await?;
        // HTTP/1.0: the answer has no chunks and no successor, and ends with the connection.
        let request = format!(
            "{method} {path} HTTP/1.0\r\nHost: {}\r\nContent-Type: application/json\r\nUser-Agent: landfall-cluster\r\nContent-Length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        parse(&answer).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not an HTTP answer"))
    }
}

fn certificate(pem: &str) -> io::Result<CertificateDer<'static>> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(io::Error::other)
}

fn parse(answer: &[u8]) -> Option<Answer> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let status = head.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(Answer { status, body: answer[end + 4..].to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_status_and_body() {
        let answer = parse(b"HTTP/1.0 403 Forbidden\r\nA: b\r\n\r\nno\r\n\r\n").unwrap();
        assert_eq!((answer.status, answer.body.as_slice()), (403, b"no\r\n\r\n".as_slice()));
        assert!(parse(b"HTTP/1.0 200 OK\r\n").is_none(), "cut off within the head");
    }
}
