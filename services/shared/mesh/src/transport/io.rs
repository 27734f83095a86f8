//! Connections without their kind, and where they lead.

use tokio::io::{AsyncRead, AsyncWrite};

/// A connection of any kind.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A boxed connection of any kind.
pub type BoxIo = Box<dyn Io>;

/// The other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// Address that is dialled, host:port.
    pub addr: String,
    /// Name or address of the other side. Its certificate MUST carry it.
    pub host: String,
}

impl Target {
    /// Makes a target whose name is the host that is dialled.
    pub fn new(addr: impl Into<String>) -> Self {
        let addr = addr.into();
        let host = addr
            .rsplit_once(':')
            .map_or(addr.as_str(), |(host, _)| host);
        let host = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        Self { addr, host }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_known_by_its_host() {
        assert_eq!(
            Target::new("worker-1.workers:5000").host,
            "worker-1.workers"
        );
        assert_eq!(Target::new("127.0.0.1:5000").host, "127.0.0.1");
        assert_eq!(Target::new("[::1]:5000").host, "::1");
    }
}
