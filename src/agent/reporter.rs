//! Sends an agent's reports: one request each, over a new connection, with a token that is read each time.
//!
//! The invariant: the token goes to the address that the pod was given and nowhere else (the client follows no redirect and uses no
//! proxy), and into no message. Within the cluster reports go over plain http: the token serves for reports alone, and the
//! controller does not trust those.

use std::io;
use std::path::PathBuf;
use std::str::FromStr;

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use url::Url;
use zeroize::Zeroizing;

use super::credential::{CredentialError, token};
use super::report::{Answer, Report, bounded};

/// The most bytes of a reply.
const MOST_ANSWER: usize = 16 << 10;
/// The most bytes of a refusal that a message repeats.
const MOST_WORDS: usize = 200;

/// The http address for reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportUrl {
    host: String,
    port: u16,
    path: String,
}

/// A text is no such address. The message does not repeat the text, which may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an address for reports: write http://HOST:PORT/PATH, without a user name")]
pub struct ReportUrlError;

impl FromStr for ReportUrl {
    type Err = ReportUrlError;

    fn from_str(text: &str) -> Result<Self, ReportUrlError> {
        let url = Url::parse(text).map_err(|_| ReportUrlError)?;
        let odd = !url.username().is_empty() || url.password().is_some() || url.query().is_some();
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or(ReportUrlError)?;
        if url.scheme() != "http" || odd || url.fragment().is_some() {
            return Err(ReportUrlError);
        }
        let port = url.port_or_known_default().ok_or(ReportUrlError)?;
        Ok(Self { host: host.to_owned(), port, path: url.path().to_owned() })
    }
}

/// Why a report did not arrive.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The agent has no token.
    #[error(transparent)]
    Identity(#[from] CredentialError),
    /// No connection.
    #[error("{host}:{port} cannot be reached")]
    Connect {
        host: String,
        port: u16,
        #[source]
        source: io::Error,
    },
    /// The connection broke, or the reply is not http.
    #[error("the connection broke during the report")]
    Http(#[source] hyper::Error),
    /// The reply is malformed.
    #[error("the reply to the report is malformed")]
    Answer,
    /// The report was refused.
    #[error("the report was refused with {status}: {words}")]
    Refused { status: StatusCode, words: String },
}

impl ReportError {
    /// Whether a retry may succeed soon.
    #[must_use]
    pub fn passes(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Http(_) => true,
            Self::Refused { status, .. } => status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS,
            Self::Identity(_) | Self::Answer => false,
        }
    }
}

/// Sends reports with a pod's identity.
#[derive(Clone, Debug)]
pub struct Reporter {
    pub url: ReportUrl,
    /// The pod's projected token, which the kubelet renews.
    pub identity_file: PathBuf,
}

impl Reporter {
    /// Sends a report. The caller sets a timeout.
    pub async fn send(&self, report: &Report) -> Result<Answer, ReportError> {
        let token = token(&self.identity_file)?;
        let ReportUrl { host, port, path } = &self.url;
        let bearer = Zeroizing::new(format!("Bearer {}", token.expose()));
        let mut authorization = HeaderValue::from_str(&bearer).map_err(|_| ReportError::Answer)?;
        authorization.set_sensitive(true);
        let body = serde_json::to_vec(report).map_err(|_| ReportError::Answer)?;
        let request = Request::post(path)
            .header(header::HOST, format!("{host}:{port}"))
            .header(header::AUTHORIZATION, authorization)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|_| ReportError::Answer)?;

        // Only within a URL is an IPv6 address in brackets.
        let name = host.trim_matches(['[', ']']);
        let connected = TcpStream::connect((name, *port)).await;
        let stream = connected.map_err(|source| ReportError::Connect { host: host.clone(), port: *port, source })?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(ReportError::Http)?;
        let exchange = async {
            let answer = sender.send_request(request).await.map_err(ReportError::Http)?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), MOST_ANSWER).collect().await;
            let body = body.map_err(|_| ReportError::Answer)?.to_bytes();
            if status != StatusCode::OK {
                let words = String::from_utf8_lossy(&body).replace(token.expose(), "[redacted]");
                return Err(ReportError::Refused { status, words: bounded(words.trim(), MOST_WORDS) });
            }
            serde_json::from_slice(&body).map_err(|_| ReportError::Answer)
        };
        tokio::pin!(exchange, connection);
        tokio::select! {
            answer = &mut exchange => answer,
            // The reply may have arrived before the connection ended.
            ended = &mut connection => match ended {
                Ok(()) => exchange.await,
                Err(error) => Err(ReportError::Http(error)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_addresses_are_taken() {
        let url: ReportUrl = "http://landfall-reports.landfall-system:8082/v1/report".parse().unwrap();
        assert_eq!(
            url,
            ReportUrl { host: "landfall-reports.landfall-system".into(), port: 8082, path: "/v1/report".into() }
        );
        assert_eq!("http://[::1]/".parse::<ReportUrl>().unwrap().port, 80);
        for text in [
            "",
            "x",
            "https://h/",
            "http://",
            "http://a@h/",
            "http://a:b@h/",
            "http://h/?x",
            "http://h/#x",
            "file:///x",
        ] {
            assert_eq!(text.parse::<ReportUrl>(), Err(ReportUrlError), "{text}");
        }
    }
}
