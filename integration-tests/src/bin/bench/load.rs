//! Work on the server: so many requests of such a size, so many at once.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use cstore_integration_tests::http::Client;

/// Count, size in bytes, concurrency.
pub(crate) type Shape = (usize, usize, usize);
/// First and last byte, and how many files there are to choose from.
pub(crate) type Range = ((usize, usize), usize);

pub(crate) struct Load {
    pub(crate) addr: String,
    pub(crate) base: String,
}

pub(crate) struct Outcome {
    pub(crate) seconds: f64,
    pub(crate) bytes: usize,
    /// Of each request in milliseconds, sorted.
    pub(crate) latencies: Vec<f64>,
}

impl Load {
    pub(crate) fn put(&self, shape: Shape, data: &[u8], shift: usize) -> Outcome {
        let size = shape.1;
        self.run(shape, |client, n| {
            let start = (n * size + shift * n) % (data.len() - size + 1);
            let path = format!("{}{n}", self.base);
            let answer = client
                .call("PUT", &path, "", &data[start..start + size])
                .unwrap();
            assert_eq!(answer.status, 201, "PUT {path}: {}", answer.text());
            size
        })
    }

    pub(crate) fn get(&self, shape: Shape, range: Option<Range>) -> Outcome {
        self.run(shape, |client, n| {
            let (path, extra, expected) = match range {
                None => (format!("{}{n}", self.base), String::new(), shape.1),
                Some(((from, to), files)) => (
                    format!("{}{}", self.base, n % files),
                    format!("range: bytes={from}-{to}\r\n"),
                    to - from + 1,
                ),
            };
            let answer = client.call("GET", &path, &extra, b"").unwrap();
            let (status, length) = (answer.status, answer.body.len());
            assert!(
                matches!(status, 200 | 206) && length == expected,
                "GET {path}: {status}, {length} bytes"
            );
            length
        })
    }

    fn run(&self, shape: Shape, one: impl Fn(&mut Client, usize) -> usize + Sync) -> Outcome {
        let (count, _, conc) = shape;
        let next = AtomicUsize::new(0);
        let start = Instant::now();
        let worker = || {
            let mut client = Client::connect(&self.addr).unwrap();
            let (mut bytes, mut latencies) = (0, Vec::new());
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= count {
                    return (bytes, latencies);
                }
                let begin = Instant::now();
                bytes += one(&mut client, n);
                latencies.push(begin.elapsed().as_secs_f64() * 1_000.0);
            }
        };
        let results: Vec<(usize, Vec<f64>)> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..conc).map(|_| scope.spawn(worker)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        let seconds = start.elapsed().as_secs_f64();
        let bytes = results.iter().map(|(bytes, _)| bytes).sum();
        let mut latencies: Vec<f64> = results
            .into_iter()
            .flat_map(|(_, latencies)| latencies)
            .collect();
        latencies.sort_by(f64::total_cmp);
        Outcome {
            seconds,
            bytes,
            latencies,
        }
    }
}
