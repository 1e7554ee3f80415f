//! Opens the ports of every process, for IPv6 and IPv4.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

/// The number of connections that may wait to be accepted, as in tokio.
const BACKLOG: i32 = 1024;

/// Listens on `address`. `[::]` takes IPv4 too, whatever the system's `net.ipv6.bindv6only` says, and IPv4 alone on a machine
/// without IPv6.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    or_without_ipv6(address, open)
}

fn or_without_ipv6<T>(address: SocketAddr, open: impl Fn(SocketAddr) -> io::Result<T>) -> io::Result<T> {
    match open(address) {
        Err(error) if address.ip() == Ipv6Addr::UNSPECIFIED && lacks_ipv6(&error) => {
            open((Ipv4Addr::UNSPECIFIED, address.port()).into())
        }
        opened => opened,
    }
}

/// The kernel has no IPv6 at all, or it is disabled on every interface.
fn lacks_ipv6(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
        || error.kind() == io::ErrorKind::AddrNotAvailable
}

fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        socket.set_only_v6(false)?;
    }
    // After a restart the port is free at once, even if connections of the earlier process are not closed yet.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpStream;

    #[tokio::test]
    async fn the_unspecified_address_takes_both_families() {
        let listener = listen((Ipv6Addr::UNSPECIFIED, 0).into()).unwrap();
        let port = listener.local_addr().unwrap().port();
        for client in [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)] {
            TcpStream::connect((client, port)).await.unwrap();
            let (_, peer) = listener.accept().await.unwrap();
            assert_eq!(peer.ip().to_canonical(), client);
        }
    }

    #[test]
    fn a_machine_without_ipv6_listens_on_ipv4() {
        let without = |error: fn() -> io::Error| {
            move |address: SocketAddr| if address.is_ipv6() { Err(error()) } else { Ok(address) }
        };
        let no_family: fn() -> io::Error =
            || io::Error::from_raw_os_error(rustix::io::Errno::AFNOSUPPORT.raw_os_error());
        let disabled: fn() -> io::Error = || io::ErrorKind::AddrNotAvailable.into();
        let taken: fn() -> io::Error = || io::ErrorKind::AddrInUse.into();
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 8080));
        for error in [no_family, disabled] {
            assert_eq!(or_without_ipv6(any, without(error)).unwrap(), (Ipv4Addr::UNSPECIFIED, 8080).into());
        }
        assert_eq!(or_without_ipv6(any, without(taken)).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let other = SocketAddr::from((Ipv6Addr::LOCALHOST, 8080));
        assert!(or_without_ipv6(other, without(disabled)).is_err(), "who names an address means that one");
    }
}
