//! One GET of a role's admin port, for commands that have no need of a client.

use cstore_node::HostPort;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::exit::Failure;
use crate::limits::{ADMIN_PORT_TIMEOUT, MAX_ADMIN_ANSWER};

/// An answer: whether it is 200, and its body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) ok: bool,
    pub(crate) body: String,
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
        Err(_) => Err(Failure::Failed(format!("{addr} did not answer in time"))),
        Ok(Err(error)) => Err(Failure::Failed(format!("cannot ask {addr}: {error}"))),
        Ok(Ok(text)) => Ok(answer(&text)),
    }
}

/// HTTP/1.0 has no chunks and ends with the connection: it needs no parser.
async fn ask(addr: &HostPort, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect((addr.host.as_str(), addr.port)).await?;
    stream
        .write_all(format!("GET {path} HTTP/1.0\r\nHost: {addr}\r\n\r\n").as_bytes())
        .await?;
    let mut bytes = Vec::new();
    stream
        .take(MAX_ADMIN_ANSWER)
        .read_to_end(&mut bytes)
        .await?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn answer(text: &str) -> Answer {
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
    let mut status = head.split([' ', '\r']);
    let http = status
        .next()
        .is_some_and(|version| version.starts_with("HTTP/1."));
    Answer {
        ok: http && status.next() == Some("200"),
        body: body.trim().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_200_is_ok() {
        assert!(answer("HTTP/1.0 200 OK\r\n\r\n[]").ok);
        assert_eq!(
            answer("HTTP/1.0 503 Busy\r\nA: b\r\n\r\nwhy\n"),
            Answer {
                ok: false,
                body: "why".to_owned()
            }
        );
        assert!(!answer("200").ok);
        assert!(!answer("").ok);
    }
}
