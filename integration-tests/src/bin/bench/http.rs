//! A small HTTP/1.1 client over one kept connection: enough to load a server, not to browse.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

pub(crate) struct Client {
    stream: BufReader<TcpStream>,
    host: String,
}

impl Client {
    pub(crate) fn connect(addr: &str) -> Self {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        Self { stream: BufReader::with_capacity(256 << 10, stream), host: addr.to_owned() }
    }

    /// Sends a request and answers status and body.
    pub(crate) fn call(
        &mut self,
        method: &str,
        path: &str,
        extra: &str,
        body: &[u8],
        sink: &mut Vec<u8>,
    ) -> (u16, usize) {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\ncontent-length: {}\r\n{extra}\r\n",
            self.host,
            body.len()
        );
        let stream = self.stream.get_mut();
        if body.len() <= 64 << 10 {
            let mut whole = head.into_bytes();
            whole.extend_from_slice(body);
            stream.write_all(&whole).unwrap();
        } else {
            stream.write_all(head.as_bytes()).unwrap();
            stream.write_all(body).unwrap();
        }
        self.answer(sink)
    }

    fn answer(&mut self, sink: &mut Vec<u8>) -> (u16, usize) {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        let status = line.split(' ').nth(1).unwrap_or("0").parse().unwrap_or(0);
        let mut length = 0usize;
        loop {
            line.clear();
            self.stream.read_line(&mut line).unwrap();
            let lower = line.to_ascii_lowercase();
            if let Some(value) = lower.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line == "\r\n" || line.is_empty() {
                break;
            }
        }
        sink.resize(length.min(4 << 20), 0);
        let mut left = length;
        while left > 0 {
            let some = left.min(sink.len());
            self.stream.read_exact(&mut sink[..some]).unwrap();
            left -= some;
        }
        (status, length)
    }
}
