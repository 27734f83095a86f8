//! `cstore health`: asks the admin port of a role whether it is ready. For health checks that have no curl.

use std::io::Write;
use std::time::Duration;

use cstore_node::{Env, HostPort, Source};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::exit::Failure;
use crate::process;

const TIMEOUT: Duration = Duration::from_secs(3);
const MAX_ANSWER: u64 = 64 << 10;

/// Fails with the reasons that the role gives.
pub(crate) fn run(addr: Option<&str>, source: &dyn Source) -> Result<(), Failure> {
    let mut env = Env::new(source);
    let port = env.port(process::ADMIN_PORT, 9_100);
    env.finish().map_err(Failure::usage)?;
    let addr = match addr {
        None => HostPort::new("127.0.0.1", port),
        Some(text) => text.parse().map_err(|_| Failure::Usage("--addr must be host:port".to_owned()))?,
    };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::failed)?;
    let asked = runtime.block_on(async { tokio::time::timeout(TIMEOUT, ask(&addr)).await });
    let answer = match asked {
        Err(_) => return Err(Failure::Failed(format!("{addr} did not answer in time"))),
        Ok(Err(error)) => return Err(Failure::Failed(format!("cannot ask {addr}: {error}"))),
        Ok(Ok(answer)) => answer,
    };
    if !is_ready(&answer) {
        let reasons = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body).trim();
        return Err(Failure::Failed(format!("not ready: {reasons}")));
    }
    writeln!(std::io::stdout().lock(), "ready").map_err(Failure::failed)
}

/// HTTP/1.0 has no chunks and ends with the connection: it needs no parser.
async fn ask(addr: &HostPort) -> std::io::Result<String> {
    let mut stream = TcpStream::connect((addr.host.as_str(), addr.port)).await?;
    stream.write_all(format!("GET /ready HTTP/1.0\r\nHost: {addr}\r\n\r\n").as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn is_ready(answer: &str) -> bool {
    let mut status = answer.split(' ');
    status.next().is_some_and(|version| version.starts_with("HTTP/1.")) && status.next() == Some("200")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_200_is_ready() {
        assert!(is_ready("HTTP/1.0 200 OK\r\n\r\n[]"));
        assert!(!is_ready("HTTP/1.0 503 Service Unavailable\r\n\r\n[]"));
        assert!(!is_ready("200"));
        assert!(!is_ready(""));
    }
}
