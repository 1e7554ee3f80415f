//! How an agent reports: one request, over a connection of its own, with a token that is read anew.
//!
//! The invariant: the token goes to the address that the pod was given and nowhere else (no redirect is followed, no proxy is asked),
//! and into no message. Within the cluster reports go in plain http: the token is good for reports alone, and
//! those are not believed.

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

/// The most bytes of an answer.
const MOST_ANSWER: usize = 16 << 10;
/// The most bytes of the words of a refusal that are repeated.
const MOST_WORDS: usize = 200;

/// The http address at which reports are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportUrl {
    host: String,
    port: u16,
    path: String,
}

/// A text that is no such address. It is not repeated, for there may be a password in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not where reports are taken: write http://HOST:PORT/PATH, without a user name")]
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
    /// There is nothing to prove by whose it is.
    #[error(transparent)]
    Identity(#[from] CredentialError),
    /// Nobody listens.
    #[error("{host}:{port} cannot be reached")]
    Connect {
        /// Where.
        host: String,
        /// At which port.
        port: u16,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The connection broke, or what came is not http.
    #[error("the report was cut off")]
    Http(#[source] hyper::Error),
    /// The request or its answer is not what it should be.
    #[error("the answer to the report is not understood")]
    Answer,
    /// It was not taken.
    #[error("the report was answered with {status}: {words}")]
    Refused {
        /// The status.
        status: StatusCode,
        /// The beginning of what was said.
        words: String,
    },
}

impl ReportError {
    /// Whether it may arrive soon.
    #[must_use]
    pub fn passes(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Http(_) => true,
            Self::Refused { status, .. } => status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS,
            Self::Identity(_) | Self::Answer => false,
        }
    }
}

/// Where an agent reports, and as whom.
#[derive(Clone, Debug)]
pub struct Reporter {
    /// Where.
    pub url: ReportUrl,
    /// The file with the pod's token, which the kubelet renews.
    pub identity_file: PathBuf,
}

impl Reporter {
    /// Reports. The caller bounds the time.
    ///
    /// # Errors
    /// It did not arrive, or was not taken.
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

        // An address of IPv6 is in brackets where it is part of a URL, and only there.
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
            // What was read before the end may be the answer.
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
