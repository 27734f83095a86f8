//! Load on one contestant: a number of requests from a number of clients.

use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::client::Client;
use crate::content::{Content, File};
use crate::processes::{Servers, cpu_seconds};

/// One request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request {
    pub(crate) is_put: bool,
    pub(crate) file: File,
    /// First and last byte of a download of a part.
    pub(crate) range: Option<(u64, u64)>,
}

/// Requests of one kind.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) count: usize,
    /// Clients that send one request at a time each.
    pub(crate) clients: usize,
    /// Size of the files in bytes.
    pub(crate) size: u64,
}

/// Figures of one load.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    pub(crate) seconds: f64,
    /// Bytes of bodies, sent or received.
    pub(crate) bytes: u64,
    /// Latencies of all requests in milliseconds, sorted.
    pub(crate) latencies: Vec<f64>,
    /// Processor time of this process.
    pub(crate) client_cpu_seconds: f64,
}

impl Load {
    /// Sends the requests and returns their figures.
    ///
    /// # Panics
    /// If a request fails.
    pub(crate) fn run(
        &self,
        servers: &Servers,
        request: impl Fn(usize) -> Request + Sync,
    ) -> Outcome {
        self.send(servers, &request, false)
    }

    /// Downloads the files of all requests and compares them with what was put.
    ///
    /// # Panics
    /// If a file has other bytes.
    pub(crate) fn verify(&self, servers: &Servers, request: impl Fn(usize) -> Request + Sync) {
        let download = |n| Request {
            is_put: false,
            ..request(n)
        };
        self.send(servers, &download, true);
    }

    fn send(
        &self,
        servers: &Servers,
        request: &(impl Fn(usize) -> Request + Sync),
        verify: bool,
    ) -> Outcome {
        let content = Content::new(self.size);
        let next = AtomicUsize::new(0);
        let ready = Barrier::new(self.clients + 1);
        let worker = || {
            let mut content = content.clone();
            let mut client = Client::new(&servers.addr, self.size);
            let mut latencies = Vec::with_capacity(self.count);
            let mut bytes = 0;
            ready.wait();
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= self.count {
                    return (bytes, latencies);
                }
                let request = request(n);
                let begin = Instant::now();
                bytes += one(servers, &mut client, &request, &mut content, verify);
                latencies.push(begin.elapsed().as_secs_f64() * 1_000.0);
            }
        };

        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..self.clients).map(|_| scope.spawn(worker)).collect();
            ready.wait();
            let begin = Instant::now();
            let cpu = cpu_seconds(std::process::id());
            let results: Vec<(u64, Vec<f64>)> = threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect();
            let seconds = begin.elapsed().as_secs_f64();
            let client_cpu_seconds = cpu_seconds(std::process::id()) - cpu;
            let bytes = results.iter().map(|(bytes, _)| bytes).sum();
            let mut latencies: Vec<f64> = results.into_iter().flat_map(|one| one.1).collect();
            latencies.sort_by(f64::total_cmp);
            Outcome {
                seconds,
                bytes,
                latencies,
                client_cpu_seconds,
            }
        })
    }
}

/// Sends one request and returns the bytes of its body.
fn one(
    servers: &Servers,
    client: &mut Client<'_>,
    request: &Request,
    content: &mut Content,
    verify: bool,
) -> u64 {
    let file = &request.file;
    let method = if request.is_put { "PUT" } else { "GET" };
    let target = |out: &mut Vec<u8>| {
        out.extend_from_slice(servers.folder.as_bytes());
        file.write_name(out)?;
        if request.is_put {
            out.extend_from_slice(servers.put_query.as_bytes());
        }
        Ok(())
    };
    let first = request.range.map_or(0, |(first, _)| first);
    let length = request
        .range
        .map_or(file.size, |(first, last)| last - first + 1);
    let reply = if request.is_put {
        client.put(target, file, content)
    } else {
        let mut offset = first;
        client.get(target, request.range, |bytes| {
            let is_same = !verify || content.is(file, offset, bytes);
            offset += bytes.len() as u64;
            is_same
        })
    };

    let reply =
        reply.unwrap_or_else(|error| panic!("{}: {method} {file:?}: {error}", servers.name));
    let is_good = match reply.status {
        200 | 201 | 204 if request.is_put => true,
        200 | 206 if !request.is_put => reply.length == length,
        _ => false,
    };
    assert!(
        is_good,
        "{}: {method} {file:?}: status {}, {} bytes: {}",
        servers.name,
        reply.status,
        reply.length,
        client.excerpt(&reply)
    );
    length
}
