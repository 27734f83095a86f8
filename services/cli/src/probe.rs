//! Finds out which protocol a port speaks, so that a wrong port is named and not only refused.

use cstore_node::HostPort;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::limits::{MAX_PROBE_BYTES, PROBE_TIMEOUT};

/// Protocol of a port, as far as its first bytes show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Speaker {
    /// HTTP/2 without TLS: the master's port or a worker's.
    Grpc,
    /// TLS.
    Tls,
    /// The REST port of a gateway.
    Gateway,
    /// The admin port of a role.
    Admin,
    /// HTTP/1 of another program.
    Http,
    /// The end of the connection without a byte, as from a storage node.
    Nothing,
    /// Bytes of another protocol.
    Other,
}

impl Speaker {
    /// Classifies what a port has sent after a request for `/ready` over HTTP/1.
    ///
    /// Sources: RFC 9113, 4.1 and 6.5 (a server of HTTP/2 begins with SETTINGS, or refuses by GOAWAY);
    /// RFC 8446, 5.1 (records of TLS: type, then version 3.x).
    pub(crate) fn of(bytes: &[u8]) -> Self {
        match bytes {
            [] => Self::Nothing,
            [0, _, _, 4 | 7, _, 0, 0, 0, 0, ..] => Self::Grpc,
            [0x15 | 0x16, 3, ..] => Self::Tls,
            _ if bytes.starts_with(b"HTTP/1.") => Self::of_http(&String::from_utf8_lossy(bytes)),
            _ => Self::Other,
        }
    }

    fn of_http(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
        if head.to_ascii_lowercase().contains("\nx-cstore-trace-id:") {
            Self::Gateway
        } else if serde_json::from_str::<Vec<Value>>(body.trim()).is_ok() {
            Self::Admin
        } else {
            Self::Http
        }
    }

    /// Says what the port seems to be, for a person who expected another one.
    pub(crate) const fn what(self) -> &'static str {
        match self {
            Self::Grpc => "this port speaks gRPC, not HTTP, as the master's and the workers' do",
            Self::Tls => {
                "this port speaks TLS: its URL is https://, unless it is an inner port of a cluster with CSTORE_TLS_DIR"
            }
            Self::Gateway => "this is the REST port of a gateway",
            Self::Admin => "this is the admin port of a role",
            Self::Http => "this is the HTTP port of another program",
            Self::Nothing => {
                "this port ends the connection without an answer, as a storage node's does"
            }
            Self::Other => "this port speaks neither HTTP nor gRPC nor TLS",
        }
    }
}

/// Sends a request for `/ready` over HTTP/1 and classifies the response. Returns `None` if there is no
/// connection, or nothing in time.
pub(crate) async fn look(host: &str, port: u16) -> Option<Speaker> {
    let mut bytes = Vec::new();
    let asked = timeout(PROBE_TIMEOUT, exchange(host, port, "/ready", &mut bytes)).await;
    match asked {
        Ok(Err(_)) | Err(_) if bytes.is_empty() => None,
        _ => Some(Speaker::of(&bytes)),
    }
}

/// Returns what the port at the address of the master is, if it is another one's.
pub(crate) async fn other_than_master(addr: &HostPort, is_tls: bool) -> Option<&'static str> {
    let master = if is_tls { Speaker::Tls } else { Speaker::Grpc };
    let found = look(&addr.host, addr.port).await?;
    (found != master).then(|| found.what())
}

/// Sends a request over HTTP/1.0, which has no chunks and ends with the connection, and reads up to
/// [`MAX_PROBE_BYTES`] into `bytes`. After an error, `bytes` has what came before it.
async fn exchange(host: &str, port: u16, path: &str, bytes: &mut Vec<u8>) -> std::io::Result<()> {
    let mut stream = TcpStream::connect((host, port)).await?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {host}:{port}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    stream.take(MAX_PROBE_BYTES).read_to_end(bytes).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_known_by_their_first_bytes() {
        for (bytes, speaker) in [
            (&[0, 0, 18, 4, 0, 0, 0, 0, 0, 0, 3][..], Speaker::Grpc),
            (&[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0], Speaker::Grpc),
            (&[0x15, 3, 3, 0, 2, 2, 10], Speaker::Tls),
            (b"HTTP/1.0 200 OK\r\n\r\n[]", Speaker::Admin),
            (
                b"HTTP/1.0 503 S\r\nA: b\r\n\r\n[{\"part\":\"master\"}]\n",
                Speaker::Admin,
            ),
            (
                b"HTTP/1.1 404 N\r\nX-Cstore-Trace-Id: 1\r\n\r\n{}",
                Speaker::Gateway,
            ),
            (b"HTTP/1.1 404 N\r\n\r\n<html>", Speaker::Http),
            (b"HTTP/1.1 404 N", Speaker::Http),
            (b"SSH-2.0-x\r\n", Speaker::Other),
            (b"", Speaker::Nothing),
        ] {
            assert_eq!(Speaker::of(bytes), speaker, "{bytes:?}");
        }
    }
}
