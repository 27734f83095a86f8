//! A fake gateway whose answers a test chooses, also answers that no gateway would give.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

/// A request with its whole body.
#[derive(Debug, Clone, Default)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Path with the query.
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn is(&self, method: &str, path: &str) -> bool {
        self.method == method && self.path == path
    }
}

/// Answer of the fake gateway.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Number of bytes of the body after which the connection ends.
    pub(crate) cut: Option<usize>,
    /// True if the connection stays open after these bytes, and nothing more comes.
    pub(crate) hang: bool,
    /// True if the answer looks like that of another server.
    pub(crate) stranger: bool,
}

impl Reply {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            body: body.into(),
            ..Self::default()
        }
    }

    /// Makes a reply of nothing but the end of the connection.
    pub(crate) fn lost() -> Self {
        Self::default()
    }

    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Makes the answer look like that of a server that is no gateway.
    pub(crate) fn of_stranger(self) -> Self {
        Self {
            stranger: true,
            ..self
        }
    }

    pub(crate) fn cut(self, at: usize) -> Self {
        Self {
            cut: Some(at),
            ..self
        }
    }

    /// Makes a refusal like that of a gateway.
    pub(crate) fn problem(status: u16, code: &str) -> Self {
        let body = format!(
            r#"{{"status":{status},"detail":"said by a test","code":"{code}","trace_id":"t-1"}}"#
        );
        Self::new(status, body).with("x-cstore-trace-id", "t-1")
    }

    /// Makes an answer with a file, or with the rest of it that is asked for.
    pub(crate) fn file(request: &Request, content: &[u8], etag: &str) -> Self {
        let same = request
            .header("if-range")
            .is_none_or(|tag| tag == format!("\"{etag}\""));
        let from = request.header("range").filter(|_| same);
        let from = from.and_then(|range| {
            range
                .strip_prefix("bytes=")?
                .strip_suffix('-')?
                .parse::<usize>()
                .ok()
        });
        let reply = match from {
            None => Self::new(200, content),
            Some(from) => {
                let range = format!("bytes {from}-{}/{}", content.len() - 1, content.len());
                Self::new(206, &content[from..]).with("content-range", &range)
            }
        };
        reply.with("etag", &format!("\"{etag}\""))
    }
}

/// A gateway at a free port, until the test process ends.
pub(crate) struct Fake {
    pub(crate) url: String,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Fake {
    pub(crate) fn start(answer: impl FnMut(&Request) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (seen, answer) = (
            Arc::<Mutex<Vec<Request>>>::default(),
            Arc::new(Mutex::new(answer)),
        );
        let requests = seen.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, requests) = (answer.clone(), requests.clone());
                std::thread::spawn(move || {
                    let Some(request) = read(&stream) else { return };
                    requests
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(request.clone());
                    let reply = answer.lock().unwrap_or_else(PoisonError::into_inner)(&request);
                    let _ = write(&stream, &request, &reply);
                });
            }
        });
        Self { url, seen }
    }

    /// Returns all requests until now.
    pub(crate) fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) fn count(&self, method: &str) -> usize {
        self.seen()
            .iter()
            .filter(|request| request.method == method)
            .count()
    }
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split(' ');
    let mut request = Request {
        method: words.next()?.to_owned(),
        path: words.next()?.to_owned(),
        ..Request::default()
    };
    loop {
        line.clear();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        request
            .headers
            .push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    if request.header("transfer-encoding").is_some() {
        loop {
            line.clear();
            reader.read_line(&mut line).ok()?;
            let size = usize::from_str_radix(line.trim(), 16).ok()?;
            let mut chunk = vec![0; size + 2];
            reader.read_exact(&mut chunk).ok()?;
            request.body.extend_from_slice(&chunk[..size]);
            if size == 0 {
                break;
            }
        }
    } else if let Some(length) = request.header("content-length") {
        request.body = vec![0; length.parse().ok()?];
        reader.read_exact(&mut request.body).ok()?;
    }
    Some(request)
}

fn write(mut stream: &TcpStream, request: &Request, reply: &Reply) -> std::io::Result<()> {
    if reply.status == 0 {
        return Ok(());
    }
    let mut head = format!("HTTP/1.1 {} Said\r\nconnection: close\r\n", reply.status);
    if !reply
        .headers
        .iter()
        .any(|(name, _)| name == "content-length")
        && reply.status != 204
    {
        head.push_str(&format!("content-length: {}\r\n", reply.body.len()));
    }
    if !reply.stranger
        && !reply
            .headers
            .iter()
            .any(|(name, _)| name == "x-cstore-trace-id")
    {
        head.push_str("x-cstore-trace-id: t-0\r\n");
    }
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    if request.method != "HEAD" {
        stream.write_all(&reply.body[..reply.cut.unwrap_or(reply.body.len())])?;
    }
    if reply.hang {
        // Until the client goes.
        let _ = stream.read(&mut [0]);
    }
    Ok(())
}
