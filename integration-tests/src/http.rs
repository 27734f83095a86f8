//! A small HTTP/1.1 client over one kept connection: enough to load a server and to be rude to it.

use cstore_testkit::PATIENCE;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Longest body that an answer is read into at once.
const PIECE: usize = 4 << 20;

/// One connection.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<TcpStream>,
    host: String,
}

/// An answer with its body.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("the body is JSON")
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }
}

impl Client {
    /// # Errors
    /// The system's.
    pub fn connect(addr: &str) -> io::Result<Self> {
        Self::over(TcpStream::connect(addr)?, PATIENCE)
    }

    /// Takes an open connection, each of whose reads and writes may take `patience`.
    ///
    /// # Errors
    /// The system's.
    pub fn over(stream: TcpStream, patience: Duration) -> io::Result<Self> {
        let addr = stream.peer_addr()?.to_string();
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        Ok(Self {
            stream: BufReader::with_capacity(256 << 10, stream),
            host: addr,
        })
    }

    /// Sends a request with a body and reads the whole answer. `extra` holds header lines, each
    /// ended by CRLF.
    ///
    /// # Errors
    /// The connection's, also when an answer is cut short.
    pub fn call(
        &mut self,
        method: &str,
        path: &str,
        extra: &str,
        body: &[u8],
    ) -> io::Result<Answer> {
        self.head(
            method,
            path,
            &format!("content-length: {}\r\n{extra}", body.len()),
        )?;
        // A server may refuse and close while the body is still on its way: its answer counts then.
        let sent = self.send(body);
        match self.answer(method == "HEAD") {
            Ok(answer) => Ok(answer),
            Err(error) => Err(sent.err().unwrap_or(error)),
        }
    }

    /// Sends the head of a request only.
    ///
    /// # Errors
    /// The connection's.
    pub fn head(&mut self, method: &str, path: &str, headers: &str) -> io::Result<()> {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\n{headers}\r\n",
            self.host
        );
        self.send(head.as_bytes())
    }

    /// Sends raw bytes.
    ///
    /// # Errors
    /// The connection's.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Reads an answer; `bodiless` for HEAD.
    ///
    /// # Errors
    /// The connection's, also when the answer is cut short.
    pub fn answer(&mut self, bodiless: bool) -> io::Result<Answer> {
        let mut answer = Answer::default();
        let length = self.answer_head(&mut answer)?;
        if !bodiless {
            answer.body.reserve(length.min(PIECE));
            let read = (&mut self.stream)
                .take(length as u64)
                .read_to_end(&mut answer.body)?;
            if read < length {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(answer)
    }

    fn answer_head(&mut self, answer: &mut Answer) -> io::Result<usize> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        answer.status = line
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .unwrap_or(0);
        loop {
            line.clear();
            self.stream.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else {
                break;
            };
            answer
                .headers
                .push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        Ok(answer
            .header("content-length")
            .and_then(|length| length.parse().ok())
            .unwrap_or(0))
    }
}
