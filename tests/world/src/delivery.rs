//! An HTTP client that is written by hand and can stop in the middle of a request.

use aws_lc_rs::hmac;
use serde_json::Value;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long an answer may take, in real time; only a failing test waits so long.
pub const PATIENCE: Duration = Duration::from_mins(3);

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: String,
    pub body: Value,
}

impl Answer {
    /// The status, and the result in the body.
    pub fn result(&self) -> (u16, &str) {
        (self.status, self.body["result"].as_str().unwrap_or_default())
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        let is_it = |line: &&str| line.split(':').next().is_some_and(|found| found.eq_ignore_ascii_case(name));
        self.headers.lines().find(is_it)?.split_once(':').map(|(_, value)| value.trim())
    }
}

/// A delivery, ready to be sent.
#[derive(Clone)]
pub struct Delivery {
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Delivery {
    /// A delivery of this event, signed with this secret.
    pub fn new(path: &str, event: &str, guid: &str, body: &[u8], secret: &str) -> Self {
        let delivery = Self { path: path.into(), headers: Vec::new(), body: body.to_vec() };
        delivery
            .with("x-github-event", event)
            .with("x-github-delivery", guid)
            .with("content-type", "application/json")
            .with("user-agent", "GitHub-Hookshot/test")
            .with("x-hub-signature-256", &signature(secret, body))
    }

    /// The same with another value of a header.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self = self.without(name);
        self.headers.push((name.into(), value.into()));
        self
    }

    /// The same without a header.
    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(header, _)| header != name);
        self
    }

    /// The request up to its body.
    pub fn head(&self, further: &str) -> String {
        let mut head = format!("POST {} HTTP/1.1\r\nhost: landfall\r\nconnection: close\r\n{further}", self.path);
        for (name, value) in &self.headers {
            head.extend([name, ": ", value, "\r\n"]);
        }
        head + "\r\n"
    }

    /// The whole request.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.head(&format!("content-length: {}\r\n", self.body.len())).into_bytes();
        bytes.extend(&self.body);
        bytes
    }

    /// Sends it, and waits for the answer.
    pub async fn send(&self, address: SocketAddr) -> Answer {
        exchange(address, &self.bytes()).await
    }
}

/// The value of `X-Hub-Signature-256`.
pub fn signature(secret: &str, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    format!("sha256={}", hex::encode(hmac::sign(&key, body)))
}

/// Sends bytes, and reads the answer to them.
pub async fn exchange(address: SocketAddr, bytes: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    // The server may answer and close before everything was sent.
    let _ = stream.write_all(bytes).await;
    answer(&mut stream).await
}

/// Reads the answer on a connection that is closed after it.
pub async fn answer(stream: &mut TcpStream) -> Answer {
    parse(std::str::from_utf8(&until_closed(stream).await).expect("text"))
}

/// Reads an answer to its end, on a connection that is kept.
pub async fn kept_answer(stream: &mut TcpStream) -> Answer {
    let mut bytes = Vec::new();
    let reading = async {
        loop {
            let text = std::str::from_utf8(&bytes).expect("text");
            if let Some((headers, body)) = text.split_once("\r\n\r\n") {
                let answer = parse(text);
                let length = answer.header("content-length").unwrap_or_else(|| panic!("no length: {headers}"));
                if body.len() == length.parse::<usize>().expect("a length") {
                    return answer;
                }
            }
            assert!(stream.read_buf(&mut bytes).await.expect("an answer") > 0, "closed within {bytes:?}");
        }
    };
    timeout(PATIENCE, reading).await.expect("answered in time")
}

fn parse(text: &str) -> Answer {
    let (headers, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer but {text:?}"));
    let status = headers.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    Answer { status, headers: headers.to_owned(), body: serde_json::from_str(body).unwrap_or_default() }
}

/// All bytes until the other side closes.
pub async fn until_closed(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("closed in time");
    // Bytes that arrived before a reset still count.
    let _ = read;
    bytes
}
