//! One GET of a role's admin port, for commands that have no need of a client.

use std::io::ErrorKind;

use cstore_node::HostPort;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::exit::{End, Failure};
use crate::limits::{ADMIN_PORT_TIMEOUT, MAX_ADMIN_ANSWER};
use crate::probe::Speaker;
use crate::process::ADMIN_PORT;

/// Hint at the port that a command needs.
pub(crate) const WANTED: &str =
    "CSTORE_ADMIN_PORT or --addr says where the admin port is, 9100 to 9103 by default";

/// A response, which may come from a server that is no admin port.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// HTTP status. `None` if the answer is not HTTP.
    pub(crate) status: Option<u16>,
    pub(crate) body: String,
    /// Kind of server that listens at the port.
    pub(crate) speaker: Speaker,
}

/// Asks, in a runtime of its own.
///
/// # Errors
/// When nobody is there or answers in time.
pub(crate) fn get(addr: &HostPort, path: &str) -> Result<Answer, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::failed)?;
    let asked =
        runtime.block_on(async { tokio::time::timeout(ADMIN_PORT_TIMEOUT, ask(addr, path)).await });
    match asked {
        Err(_) => Err(away(format!(
            "{addr} has not answered within {} s; {WANTED}",
            ADMIN_PORT_TIMEOUT.as_secs()
        ))),
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => Err(away(format!(
            "cannot ask {addr}: connection refused; is the role running, with this {ADMIN_PORT}? \
                 `cstore dev` goes without an admin port if 9100 is taken and {ADMIN_PORT} is not set"
        ))),
        Ok(Err(error)) => Err(away(format!("cannot ask {addr}: {error}"))),
        Ok(Ok(bytes)) => Ok(answer(&bytes)),
    }
}

fn away(message: String) -> Failure {
    Failure::client(End::Unavailable, message)
}

/// HTTP/1.0 has no chunks and ends with the connection: it needs no parser.
async fn ask(addr: &HostPort, path: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect((addr.host.as_str(), addr.port)).await?;
    stream
        .write_all(format!("GET {path} HTTP/1.0\r\nHost: {addr}\r\n\r\n").as_bytes())
        .await?;
    let mut bytes = Vec::new();
    match stream.take(MAX_ADMIN_ANSWER).read_to_end(&mut bytes).await {
        // A server of another protocol breaks the connection after what it has to say, or without.
        Err(error) if error.kind() != ErrorKind::ConnectionReset => Err(error),
        _ => Ok(bytes),
    }
}

fn answer(bytes: &[u8]) -> Answer {
    let text = String::from_utf8_lossy(bytes);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let mut status = head.split([' ', '\r']);
    let is_http = status
        .next()
        .is_some_and(|version| version.starts_with("HTTP/1."));
    let status = status.next().filter(|_| is_http);
    Answer {
        status: status.and_then(|status| status.parse().ok()),
        body: body.trim().to_owned(),
        speaker: Speaker::of(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_http_has_a_status() {
        assert_eq!(answer(b"HTTP/1.0 200 OK\r\n\r\n[]").status, Some(200));
        assert_eq!(
            answer(b"HTTP/1.0 503 Busy\r\nA: b\r\n\r\nwhy\n"),
            Answer {
                status: Some(503),
                body: "why".to_owned(),
                speaker: Speaker::Http,
            }
        );
        for other in ["200", "", "SSH-2.0 200", "HTTP/1.1 x"] {
            assert_eq!(answer(other.as_bytes()).status, None, "{other:?}");
        }
    }
}
