//! Requests that a test writes byte by byte.

use super::scene::{BRANCH, Scene, TOKEN};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

const BOUND: Duration = Duration::from_mins(1);
pub const ZERO: &str = "0000000000000000000000000000000000000000";

/// A connection to the gateway.
pub struct Raw(pub TcpStream);

impl Raw {
    pub async fn open(address: SocketAddr) -> Self {
        Self(TcpStream::connect(address).await.unwrap())
    }

    /// Whether all bytes could be sent.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.0.write_all(bytes.as_ref()).await.is_ok()
    }

    /// Everything until the gateway closes the connection, or it breaks.
    pub async fn rest(mut self) -> String {
        let mut answer = Vec::new();
        let _ = timeout(BOUND, self.0.read_to_end(&mut answer)).await.expect("the connection ends");
        String::from_utf8_lossy(&answer).into_owned()
    }
}

/// The head of a push to acme/shop with these further headers.
pub fn head(scene: &Scene, headers: &str) -> String {
    let path = format!("{}/git-receive-pack", scene.path("shop"));
    format!(
        "POST {path} HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {TOKEN}\r\nconnection: close\r\n\
         content-type: application/x-git-receive-pack-request\r\n{headers}\r\n"
    )
}

pub fn packet(text: &str) -> String {
    format!("{:04x}{text}", text.len() + 4)
}

/// The commands of a push that creates the workspace's branch at a commit of GitHub's, and a pack without objects.
pub fn creation(scene: &Scene) -> Vec<u8> {
    let commit = scene.refs("shop")["refs/heads/main"].clone();
    let line = packet(&format!("{ZERO} {commit} refs/heads/{BRANCH}\0 report-status object-format=sha1"));
    [line.as_bytes(), b"0000", &EMPTY_PACK[..]].concat()
}

/// A pack without objects, with its checksum.
pub const EMPTY_PACK: [u8; 32] = [
    b'P', b'A', b'C', b'K', 0, 0, 0, 2, 0, 0, 0, 0, 0x02, 0x9d, 0x08, 0x82, 0x3b, 0xd8, 0xa8, 0xea, 0xb5, 0x10, 0xad,
    0x6a, 0xc7, 0x5c, 0x82, 0x3c, 0xfd, 0x3e, 0xd3, 0x1e,
];
