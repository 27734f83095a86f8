//! Where endpoints come from: a fixed list, a name that is resolved again and again, or the
//! master's membership.

use std::collections::BTreeMap;
use std::net::IpAddr;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::error::MeshError;
use crate::limits::{MAX_ENDPOINTS, RESOLVE_INTERVAL, RESOLVE_TIMEOUT};
use crate::transport::io::Target;

/// How much an endpoint is wanted: the lowest class that has a healthy one is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Does all that is asked of it.
    Whole,
    /// Lives, but misses a part of the cluster: it can do some of what is asked.
    Partial,
}

/// Endpoints of one service and their classes.
pub type Endpoints = BTreeMap<Target, Class>;

/// Where endpoints come from.
#[derive(Debug, Clone)]
pub enum Discovery {
    /// A fixed list.
    Fixed(Endpoints),
    /// All addresses of a name.
    Name {
        /// Host name to resolve.
        host: String,
        /// Port of all addresses.
        port: u16,
    },
    /// Endpoints that another part publishes, for instance the master's view of its members.
    Members(watch::Receiver<Endpoints>),
}

impl Discovery {
    /// Makes the discovery of host:port: an address is fixed, a name is resolved.
    ///
    /// # Errors
    /// [`MeshError::Address`].
    pub fn of(addr: &str) -> Result<Self, MeshError> {
        let bad = |why| MeshError::Address {
            addr: addr.to_owned(),
            why,
        };
        let (host, port) = addr
            .rsplit_once(':')
            .ok_or_else(|| bad("the port is missing"))?;
        let port: u16 = port
            .parse()
            .map_err(|_| bad("the port is not a number up to 65535"))?;
        let target = Target::new(addr);
        if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c == '/') {
            return Err(bad("the host is not a name"));
        }
        if target.host.parse::<IpAddr>().is_ok() {
            return Ok(Self::Fixed(Endpoints::from([(target, Class::Whole)])));
        }
        Ok(Self::Name {
            host: target.host,
            port,
        })
    }

    /// Returns the endpoints that are known at once.
    pub(crate) fn first(&self) -> Endpoints {
        match self {
            Self::Fixed(endpoints) => endpoints.clone(),
            Self::Name { .. } => Endpoints::new(),
            Self::Members(members) => members.borrow().clone(),
        }
    }

    /// Waits for endpoints that differ from `known`. Never ends if there can be none.
    pub(crate) async fn next(&mut self, known: &Endpoints) -> Endpoints {
        match self {
            Self::Fixed(_) => std::future::pending().await,
            Self::Name { host, port } => resolve_until_other(host, *port, known).await,
            Self::Members(members) => follow(members, known).await,
        }
    }
}

async fn follow(members: &mut watch::Receiver<Endpoints>, known: &Endpoints) -> Endpoints {
    loop {
        let now = members.borrow_and_update().clone();
        if now != *known {
            return now;
        }
        if members.changed().await.is_err() {
            // Nobody can say anything new any more.
            std::future::pending::<()>().await;
        }
    }
}

async fn resolve_until_other(host: &str, port: u16, known: &Endpoints) -> Endpoints {
    loop {
        match timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host((host, port))).await {
            Ok(Ok(found)) => {
                let target = |addr: std::net::SocketAddr| {
                    (
                        Target {
                            addr: addr.to_string(),
                            host: host.to_owned(),
                        },
                        Class::Whole,
                    )
                };
                let found: Endpoints = found.take(MAX_ENDPOINTS).map(target).collect();
                // An empty answer is more often a fault of the resolver than the end of a service.
                if !found.is_empty() && found != *known {
                    return found;
                }
            }
            Ok(Err(error)) => tracing::debug!(host, %error, "a name does not resolve"),
            Err(_) => tracing::debug!(host, "a name did not resolve in time"),
        }
        sleep(RESOLVE_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_fixed_and_a_name_is_resolved() {
        assert!(matches!(
            Discovery::of("127.0.0.1:4100").unwrap(),
            Discovery::Fixed(_)
        ));
        assert!(matches!(
            Discovery::of("[::1]:4100").unwrap(),
            Discovery::Fixed(_)
        ));
        assert!(matches!(
            Discovery::of("master:4100").unwrap(),
            Discovery::Name { .. }
        ));
        for bad in [
            "",
            "no port",
            "a:b",
            ":80",
            "a b:80",
            "http://a:80",
            "a:65536",
        ] {
            assert!(Discovery::of(bad).is_err(), "{bad:?}");
        }
    }

    #[tokio::test]
    async fn a_name_resolves_to_all_its_addresses_under_its_own_name() {
        let mut discovery = Discovery::of("localhost:4100").unwrap();
        let found = discovery.next(&Endpoints::new()).await;
        assert!(
            found.keys().any(|target| target.addr == "127.0.0.1:4100"),
            "{found:?}"
        );
        assert!(found.keys().all(|target| target.host == "localhost"));
    }

    #[tokio::test]
    async fn members_are_followed() {
        let (sender, members) = watch::channel(Endpoints::new());
        let mut discovery = Discovery::Members(members);
        assert!(discovery.first().is_empty());
        let one = Endpoints::from([(Target::new("a:1"), Class::Partial)]);
        sender.send_replace(one.clone());
        assert_eq!(discovery.next(&Endpoints::new()).await, one);
    }
}
