//! A proxy between the receiver and the API server, which a test can cut or hold.

use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// The state of the connection to the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// Data arrives.
    Open,
    /// Data waits until the line is open again.
    Held,
    /// Connections end, and new ones are refused.
    Cut,
}

pub struct Proxy {
    pub address: SocketAddr,
    line: watch::Sender<Line>,
}

impl Proxy {
    /// An open line to `server`.
    pub async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (line, state) = watch::channel(Line::Open);
        tokio::spawn(async move {
            loop {
                let Ok((client, _)) = listener.accept().await else { return };
                if *state.borrow() != Line::Cut {
                    tokio::spawn(carry(client, server, state.clone()));
                }
            }
        });
        Self { address, line }
    }

    pub fn set(&self, line: Line) {
        self.line.send_replace(line);
    }
}

async fn carry(client: TcpStream, server: SocketAddr, mut state: watch::Receiver<Line>) {
    let Ok(server) = TcpStream::connect(server).await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let mut held = state.clone();
    let forth = async move {
        let mut bytes = vec![0; 65536];
        loop {
            let Ok(read @ 1..) = from_client.read(&mut bytes).await else { return };
            let Ok(_) = held.wait_for(|line| *line == Line::Open).await else { return };
            if to_server.write_all(&bytes[..read]).await.is_err() {
                return;
            }
        }
    };
    let back = async move {
        let _ = tokio::io::copy(&mut from_server, &mut to_client).await;
    };
    tokio::select! {
        () = forth => {}
        () = back => {}
        _ = state.wait_for(|line| *line == Line::Cut) => {}
    }
}
