//! HTTP/1.1 as bytes on a socket, so that tests can send what no client library would.

use std::net::SocketAddr;

use cstore_testkit::PATIENCE;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// An answer as it came.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find_map(|(found, value)| found.eq_ignore_ascii_case(name).then_some(value))
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{self:?} is not JSON"))
    }

    pub(crate) fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap().to_owned()
    }
}

/// Sends a request and reads one answer.
pub(crate) async fn send(addr: SocketAddr, request: impl AsRef<[u8]>) -> Answer {
    let head = request.as_ref().starts_with(b"HEAD ");
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(request.as_ref()).await.unwrap();
    read(&mut stream, head).await
}

/// Reads one answer off a connection.
pub(crate) async fn read(stream: &mut TcpStream, head_only: bool) -> Answer {
    tokio::time::timeout(PATIENCE, read_unbounded(stream, head_only))
        .await
        .expect("an answer comes in time")
}

async fn read_unbounded(stream: &mut TcpStream, head_only: bool) -> Answer {
    let mut bytes = Vec::new();
    let split = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at;
        }
        let read = stream.read_buf(&mut bytes).await.unwrap();
        assert!(
            read > 0,
            "the connection ended in the head: {:?}",
            String::from_utf8_lossy(&bytes)
        );
    };
    let head = String::from_utf8(bytes[..split].to_vec()).unwrap();
    let mut answer = Answer {
        status: head[9..12].parse().unwrap(),
        head,
        body: bytes[split + 4..].to_vec(),
    };
    let length: usize = answer
        .header("content-length")
        .map_or(0, |text| text.parse().unwrap());
    while !head_only && answer.status != 304 && answer.body.len() < length {
        if stream.read_buf(&mut answer.body).await.unwrap_or(0) == 0 {
            break;
        }
    }
    answer
}
