//! Restricts the IP addresses to which the operator connects for a repository.
//!
//! The invariant: the connection uses the address that was checked. A check of the name before the request would query DNS twice,
//! and the owner of the name could give two answers: a public address to the check, then the cloud's metadata service or a
//! database in the cluster. So the check is in the resolver of the connection itself ([`Screened`]), and for hosts that are IP
//! addresses, which are never resolved, in [`Reach::check_host`].
//!
//! A connection through a proxy is the exception: the proxy resolves the name, so [`Screened::permits`] keeps a name of the cluster
//! or of a private network from it, and the proxy has to refuse such addresses itself (docs/src/proxies.md).
use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use hyper_util::client::legacy::connect::dns::Name;
use tower::{BoxError, Service, ServiceExt as _};

use crate::github::transport::deeper;

/// The networks to which connections may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Anywhere: for addresses that a cluster administrator wrote.
    Anywhere,
    /// To the internet and to private networks, this machine included; not to link-local and metadata addresses.
    Private,
    /// To the internet only.
    Public,
}

/// The host has no address in the permitted networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the host has no address to which the operator may connect")]
pub struct Blocked;

impl Blocked {
    /// Whether it caused `error`.
    pub(super) fn is_in(error: &(dyn Error + 'static)) -> bool {
        std::iter::successors(Some(error), |error| deeper(*error)).any(<dyn Error>::is::<Self>)
    }
}

impl Reach {
    /// Whether a connection may go to `address`.
    #[must_use]
    pub fn allows(self, address: IpAddr) -> bool {
        match self {
            Self::Anywhere => true,
            Self::Private => kind(address) != Kind::Never,
            Self::Public => kind(address) == Kind::Public,
        }
    }

    /// Refuses a host that is an IP address outside these networks. A name passes: the resolver checks it.
    pub fn check_host(self, host: &str) -> Result<(), Blocked> {
        match literal(host) {
            Some(address) if !self.allows(address) => Err(Blocked),
            _ => Ok(()),
        }
    }
}

/// The IP address that a host is.
fn literal(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// The longest wait for the addresses of a name that a proxy resolves anyway.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// A resolver that drops addresses outside the permitted networks.
#[derive(Clone, Debug)]
pub struct Screened<R> {
    pub resolver: R,
    pub reach: Reach,
}

impl<R> Screened<R>
where
    R: Service<Name> + Clone,
    R::Response: Iterator<Item = SocketAddr>,
{
    /// Whether a proxy may be asked to connect to `host`. The proxy resolves the name itself and chooses among its addresses, so
    /// each address that this machine finds must be permitted. A name that it does not find is left to the proxy.
    pub async fn permits(&self, host: &str) -> Result<(), Blocked> {
        self.reach.check_host(host)?;
        let Ok(name) = host.parse::<Name>() else { return Ok(()) };
        if self.reach == Reach::Anywhere || literal(host).is_some() {
            return Ok(());
        }
        let lookup = tokio::time::timeout(LOOKUP_TIMEOUT, self.resolver.clone().oneshot(name));
        let Ok(Ok(mut found)) = lookup.await else { return Ok(()) };
        if found.all(|address| self.reach.allows(address.ip())) { Ok(()) } else { Err(Blocked) }
    }
}

impl<R> Service<Name> for Screened<R>
where
    R: Service<Name> + Clone + Send + 'static,
    R::Response: Iterator<Item = SocketAddr>,
    R::Error: Into<BoxError>,
    R::Future: Send,
{
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let Self { resolver, reach } = self.clone();
        Box::pin(async move {
            let found: Vec<SocketAddr> = resolver.oneshot(name).await.map_err(Into::into)?.collect();
            let left: Vec<SocketAddr> = found.iter().copied().filter(|address| reach.allows(address.ip())).collect();
            if left.is_empty() && !found.is_empty() {
                return Err(Blocked.into());
            }
            Ok(left.into_iter())
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Public,
    /// A private network, or this machine.
    Private,
    /// Never the address of a repository: link-local, metadata, multicast, reserved.
    Never,
}

fn kind(address: IpAddr) -> Kind {
    match address {
        IpAddr::V4(address) => kind_v4(address),
        IpAddr::V6(address) => embedded(address).map_or_else(|| kind_v6(address), kind_v4),
    }
}

/// <https://www.iana.org/assignments/iana-ipv4-special-registry>
fn kind_v4(address: Ipv4Addr) -> Kind {
    match address.octets() {
        // The metadata services. Most are link-local; Oracle's address is among those of protocols, Alibaba's among
        // those of carriers, and Azure's among the public ones.
        [169, 254, ..] | [192, 0, 0, _] | [100, 100, 100, 200] | [168, 63, 129, 16] => Kind::Never,
        [10 | 127, ..] | [172, 16..=31, ..] | [192, 168, ..] | [100, 64..=127, ..] => Kind::Private,
        octets => special_v4(octets),
    }
}

/// The rest of the registry: documentation and benchmarks, which some private networks use; reserved addresses.
fn special_v4(octets: [u8; 4]) -> Kind {
    match octets {
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] | [198, 18 | 19, ..] => Kind::Private,
        [0 | 224..=255, ..] | [192, 88, 99, _] => Kind::Never,
        _ => Kind::Public,
    }
}

/// The IPv4 address in an IPv6 address: mapped, compatible (RFC 4291), translated (RFC 2765), NAT64 (RFC 6052),
/// 6to4 (RFC 3056).
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let (high, low) = match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 1] => return None,
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..] => (high, low),
        _ => return None,
    };
    Some(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
}

/// <https://www.iana.org/assignments/iana-ipv6-special-registry>
fn kind_v6(address: Ipv6Addr) -> Kind {
    match address.segments() {
        // Amazon's metadata service, and addresses of protocols, for example Teredo.
        [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254] | [0x2001, 0..=0x1ff, ..] => Kind::Never,
        // Loopback, unique local, site-local (deprecated), documentation; a local NAT64 (RFC 8215), in which the IPv4 address
        // may be at any place.
        [0, 0, 0, 0, 0, 0, 0, 1]
        | [0xfc00..=0xfdff | 0xfec0..=0xfeff, ..]
        | [0x2001, 0xdb8, ..]
        | [0x3fff, 0..=0xfff, ..]
        | [0x64, 0xff9b, 1, ..] => Kind::Private,
        [0x2000..=0x3fff, ..] => Kind::Public,
        _ => Kind::Never,
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::{Arc, Mutex};

    use tower::service_fn;

    use super::*;

    #[test]
    fn addresses_are_public_private_or_no_place_for_a_repository() {
        let public = "1.1.1.1 8.8.8.8 140.82.112.3 172.15.0.1 172.32.0.1 100.63.0.1 100.128.0.1 192.0.1.1 198.17.0.1 198.20.0.1 \
                      223.255.255.255 2606:50c0:8000::1 2a00:1450:4001::1 ::ffff:1.1.1.1 ::1.1.1.1 64:ff9b::1.1.1.1 2002:101:101::1 \
                      ::ffff:0:1.1.1.1 3fff:1000::1";
        let private = "10.0.0.1 10.255.255.255 127.0.0.1 127.255.0.1 172.16.0.1 172.31.255.255 192.168.0.1 100.64.0.1 \
                       100.127.255.255 192.0.2.1 198.51.100.1 203.0.113.1 198.18.0.1 198.19.0.1 ::1 fc00::1 fd12:3456::1 fec0::1 \
                       2001:db8::1 3fff::1 64:ff9b:1::a00:1 ::ffff:10.0.0.1 ::ffff:127.0.0.1 ::10.0.0.1 64:ff9b::10.0.0.1 \
                       64:ff9b::7f00:1 2002:a00:1::1 2002:7f00:1::1 ::ffff:0:192.168.1.1";
        let never = "0.0.0.0 0.1.2.3 169.254.0.1 169.254.169.254 100.100.100.200 168.63.129.16 192.0.0.192 192.88.99.1 224.0.0.1 \
                     239.1.1.1 240.0.0.1 255.255.255.255 :: fe80::1 ff02::1 fd00:ec2::254 2001::1 2001:10::1 100::1 5f00::1 \
                     ::ffff:169.254.169.254 ::ffff:0.0.0.0 64:ff9b::169.254.169.254 2002:a9fe:a9fe::1 ::169.254.169.254 4000::1";
        for (addresses, kind) in [(public, Kind::Public), (private, Kind::Private), (never, Kind::Never)] {
            for text in addresses.split_whitespace() {
                let address: IpAddr = text.parse().unwrap();
                assert_eq!(super::kind(address), kind, "{text}");
                assert!(Reach::Anywhere.allows(address));
                assert_eq!(Reach::Private.allows(address), kind != Kind::Never, "{text}");
                assert_eq!(Reach::Public.allows(address), kind == Kind::Public, "{text}");
                for host in [text.to_owned(), format!("[{text}]")] {
                    assert_eq!(Reach::Public.check_host(&host).is_ok(), kind == Kind::Public, "{host}");
                }
            }
        }
        assert_eq!(Reach::Public.check_host("git.example.com"), Ok(()));
    }

    /// The system's resolver with answers of the test. Each query is recorded.
    async fn resolve(reach: Reach, answer: &'static str) -> (Result<Vec<String>, BoxError>, usize) {
        let asked = Arc::new(Mutex::new(0));
        let noted = Arc::clone(&asked);
        let resolver = service_fn(move |_: Name| {
            *noted.lock().unwrap() += 1;
            let found: Vec<SocketAddr> =
                answer.split_whitespace().map(|ip| SocketAddr::new(ip.parse().unwrap(), 0)).collect();
            async move { Ok::<_, Infallible>(found.into_iter()) }
        });
        let name: Name = "metadata.google.internal".parse().unwrap();
        let left = Screened { resolver, reach }.oneshot(name).await;
        let left = left.map(|left| left.map(|address| address.ip().to_string()).collect());
        (left, asked.lock().map(|asked| *asked).unwrap())
    }

    #[tokio::test]
    async fn a_name_goes_to_a_proxy_unless_one_of_its_addresses_is_refused() {
        let name = "git.example.com";
        for (reach, host, answer, expected, lookups) in [
            (Reach::Public, name, Some("1.1.1.1 2606:50c0:8000::1"), Ok(()), 1),
            (Reach::Public, name, Some("1.1.1.1 10.0.0.1"), Err(Blocked), 1),
            (Reach::Public, name, Some("169.254.169.254"), Err(Blocked), 1),
            (Reach::Private, name, Some("10.0.0.1"), Ok(()), 1),
            (Reach::Private, name, Some("10.0.0.1 fe80::1"), Err(Blocked), 1),
            (Reach::Public, name, None, Ok(()), 1),
            (Reach::Public, name, Some(""), Ok(()), 1),
            (Reach::Anywhere, name, Some("169.254.169.254"), Ok(()), 0),
            (Reach::Public, "10.0.0.1", None, Err(Blocked), 0),
            (Reach::Public, "[::ffff:10.0.0.1]", None, Err(Blocked), 0),
            (Reach::Public, "1.1.1.1", None, Ok(()), 0),
        ] {
            let asked = Arc::new(Mutex::new(0));
            let noted = Arc::clone(&asked);
            let resolver = service_fn(move |_: Name| {
                *noted.lock().unwrap() += 1;
                let found = answer.map(|answer| {
                    answer.split_whitespace().map(|ip| SocketAddr::new(ip.parse().unwrap(), 0)).collect::<Vec<_>>()
                });
                async move { found.map(Vec::into_iter).ok_or("there is no such name") }
            });
            let permitted = Screened { resolver, reach }.permits(host).await;
            assert_eq!((permitted, *asked.lock().unwrap()), (expected, lookups), "{reach:?} {host} {answer:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lookup_that_does_not_end_leaves_the_name_to_the_proxy() {
        let resolver =
            service_fn(|_: Name| std::future::pending::<Result<std::vec::IntoIter<SocketAddr>, Infallible>>());
        assert_eq!(Screened { resolver, reach: Reach::Public }.permits("git.example.com").await, Ok(()));
    }

    #[tokio::test]
    async fn what_a_name_resolves_to_is_screened_in_the_one_answer_that_is_used() {
        for (reach, answer, expected) in [
            (Reach::Public, "1.1.1.1 2606:50c0:8000::1", "1.1.1.1 2606:50c0:8000::1"),
            (Reach::Public, "10.0.0.1 1.1.1.1 ::1 169.254.169.254", "1.1.1.1"),
            (Reach::Private, "10.0.0.1 169.254.169.254", "10.0.0.1"),
            (Reach::Anywhere, "169.254.169.254", "169.254.169.254"),
            (Reach::Public, "", ""),
        ] {
            let (left, asked) = resolve(reach, answer).await;
            assert_eq!((left.unwrap().join(" ").as_str(), asked), (expected, 1), "{reach:?} {answer}");
        }
        for (reach, answer) in [
            (Reach::Public, "169.254.169.254"),
            (Reach::Public, "127.0.0.1 ::1"),
            (Reach::Public, "::ffff:10.0.0.1"),
            (Reach::Private, "169.254.169.254"),
            (Reach::Private, "fe80::1"),
        ] {
            let (left, _) = resolve(reach, answer).await;
            assert!(Blocked::is_in(&*left.unwrap_err()), "{reach:?} {answer}");
        }
    }
}
