//! A light HTTP/1.1 client. The load shares the processors with the servers that it measures, so a
//! request allocates nothing: buffers are reused, the connection is kept, and the body is written
//! from where it is.

use std::io::{self, IoSlice, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::content::{Content, File};

/// Space for the head of a reply and for each part of its body. Small ones stay in the processor's
/// cache when there are 50 clients.
const SMALL_BUFFER: usize = 64 << 10;
/// The same where a client reads or writes large files.
const LARGE_BUFFER: usize = 1 << 20;
/// Size of files from which the large buffer is used.
const LARGE: u64 = 1 << 20;
/// Longest wait for a server. Beyond it the measurement fails.
const PATIENCE: Duration = Duration::from_secs(120);

/// One connection to a server, opened by the first request.
pub(crate) struct Client<'a> {
    addr: &'a str,
    stream: Option<TcpStream>,
    head: Vec<u8>,
    buffer: Vec<u8>,
}

/// A reply whose body was read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// Length of the body in bytes.
    pub(crate) length: u64,
    /// Part of the buffer that holds the beginning of the body.
    start: usize,
    end: usize,
}

/// Head of a reply.
#[derive(Debug, Default)]
struct Head {
    status: u16,
    length: Option<u64>,
    is_last: bool,
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl<'a> Client<'a> {
    /// `size` is that of the files that will be transferred.
    pub(crate) fn new(addr: &'a str, size: u64) -> Self {
        let buffer = if size >= LARGE {
            LARGE_BUFFER
        } else {
            SMALL_BUFFER
        };
        Self {
            addr,
            stream: None,
            head: Vec::with_capacity(512),
            buffer: vec![0; buffer],
        }
    }

    /// Uploads a file. `target` writes the path.
    ///
    /// # Errors
    /// The connection's. It is closed then.
    pub(crate) fn put(
        &mut self,
        target: impl Fn(&mut Vec<u8>) -> io::Result<()>,
        file: &File,
        content: &mut Content,
    ) -> io::Result<Reply> {
        self.begin(b"PUT ", target)?;
        write!(self.head, "Content-Length: {}\r\n\r\n", file.size)?;
        let mut stream = self.connected()?;

        // The head goes out with the first part of the body, in one system call.
        let mut sent = content.part(file, 0).len() as u64;
        write_both(&mut stream, &self.head, content.part(file, 0))?;
        while sent < file.size {
            let part = content.part(file, sent);
            stream.write_all(part)?;
            sent += part.len() as u64;
        }
        self.finish(stream, |_| true)
    }

    /// Downloads a file or a range of it, first and last byte. `sink` takes each part of the body
    /// and returns false to fail.
    ///
    /// # Errors
    /// The connection's, and [`io::ErrorKind::InvalidData`] if `sink` fails. It is closed then.
    pub(crate) fn get(
        &mut self,
        target: impl Fn(&mut Vec<u8>) -> io::Result<()>,
        range: Option<(u64, u64)>,
        sink: impl FnMut(&[u8]) -> bool,
    ) -> io::Result<Reply> {
        self.begin(b"GET ", target)?;
        if let Some((first, last)) = range {
            write!(self.head, "Range: bytes={first}-{last}\r\n")?;
        }
        self.head.extend_from_slice(b"\r\n");
        let mut stream = self.connected()?;
        stream.write_all(&self.head)?;
        self.finish(stream, sink)
    }

    /// Returns the beginning of the body of the last reply, for messages.
    pub(crate) fn excerpt(&self, reply: &Reply) -> String {
        let end = reply.end.min(reply.start + 400);
        String::from_utf8_lossy(&self.buffer[reply.start..end]).into_owned()
    }

    fn begin(
        &mut self,
        method: &[u8],
        target: impl Fn(&mut Vec<u8>) -> io::Result<()>,
    ) -> io::Result<()> {
        self.head.clear();
        self.head.extend_from_slice(method);
        target(&mut self.head)?;
        write!(self.head, " HTTP/1.1\r\nHost: {}\r\n", self.addr)
    }

    fn connected(&mut self) -> io::Result<TcpStream> {
        if let Some(stream) = self.stream.take() {
            return Ok(stream);
        }
        let stream = TcpStream::connect(self.addr)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    /// Reads the reply and keeps the connection if the server does.
    fn finish(
        &mut self,
        mut stream: TcpStream,
        mut sink: impl FnMut(&[u8]) -> bool,
    ) -> io::Result<Reply> {
        let (start, end) = self.read_head(&mut stream)?;
        let head = parse(&self.buffer[..start])?;
        let length = match (head.status, head.length) {
            (204 | 304, _) => 0,
            (_, Some(length)) => length,
            _ => return Err(invalid("reply without content-length")),
        };
        let is_good = (200..300).contains(&head.status);
        let reply = Reply {
            status: head.status,
            length,
            start,
            end,
        };

        let mut left = length
            .checked_sub((end - start) as u64)
            .ok_or_else(|| invalid("more bytes than the reply announced"))?;
        if is_good && !sink(&self.buffer[start..end]) {
            return Err(invalid("the bytes are not those that were put"));
        }
        while left > 0 {
            // The head stays in the buffer until the end of an error: it is part of the message.
            let from = if is_good { 0 } else { end % self.buffer.len() };
            let most = (self.buffer.len() - from).min(usize::try_from(left).unwrap_or(usize::MAX));
            let count = stream.read(&mut self.buffer[from..from + most])?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            left -= count as u64;
            if is_good && !sink(&self.buffer[from..from + count]) {
                return Err(invalid("the bytes are not those that were put"));
            }
        }
        if !head.is_last {
            self.stream = Some(stream);
        }
        Ok(reply)
    }

    /// Reads until the head is complete. Returns where it ends in the buffer, and where the bytes
    /// end that were read.
    fn read_head(&mut self, stream: &mut TcpStream) -> io::Result<(usize, usize)> {
        let mut end = 0;
        loop {
            if end == self.buffer.len() {
                return Err(invalid("head of a reply is too long"));
            }
            let count = stream.read(&mut self.buffer[end..])?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let from = end.saturating_sub(3);
            end += count;
            let found = self.buffer[from..end]
                .windows(4)
                .position(|bytes| bytes == b"\r\n\r\n");
            if let Some(found) = found {
                return Ok((from + found + 4, end));
            }
        }
    }
}

/// Parses status, `Content-Length` and `Connection: close`.
fn parse(bytes: &[u8]) -> io::Result<Head> {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let first = lines.next().unwrap_or_default();
    let number = |text: &[u8]| std::str::from_utf8(text).ok()?.trim().parse::<u64>().ok();
    let status = first.get(9..12).and_then(number);
    let mut head = Head {
        status: status
            .and_then(|status| u16::try_from(status).ok())
            .ok_or_else(|| invalid("reply without a status"))?,
        ..Head::default()
    };
    for line in lines {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        if name.eq_ignore_ascii_case(b"content-length") {
            head.length = number(value);
        } else if name.eq_ignore_ascii_case(b"connection") {
            head.is_last = value.trim_ascii().eq_ignore_ascii_case(b"close");
        }
    }
    Ok(head)
}

fn write_both(stream: &mut TcpStream, head: &[u8], body: &[u8]) -> io::Result<()> {
    let count = stream.write_vectored(&[IoSlice::new(head), IoSlice::new(body)])?;
    if count < head.len() {
        stream.write_all(&head[count..])?;
        return stream.write_all(body);
    }
    stream.write_all(&body[count - head.len()..])
}
