//! Resources that this process used, as the kernel counts them.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::counted_disk::Reads;

/// Clock ticks per second of /proc (USER_HZ on Linux).
const TICKS: f64 = 100.0;

/// Figures of one step.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Usage {
    /// Wall time in seconds.
    pub(crate) wall: f64,
    /// Processor time in seconds, of the program and of the kernel for it.
    pub(crate) cpu: f64,
    /// Peak resident memory of the process in bytes.
    pub(crate) peak: u64,
    /// Reads of files.
    pub(crate) reads: u64,
    /// Bytes that they asked for.
    pub(crate) read_bytes: u64,
    /// Records, or blocks, that were delivered: the step did what it should.
    pub(crate) items: u64,
}

/// A step that is being measured.
#[derive(Debug)]
pub(crate) struct Meter {
    begun: Instant,
    cpu: f64,
}

impl Meter {
    pub(crate) fn start() -> Self {
        Self {
            begun: Instant::now(),
            cpu: cpu_seconds(),
        }
    }

    /// Ends the step, in which `items` were delivered.
    pub(crate) fn finish(&self, reads: &Reads, items: u64) -> Usage {
        let wall: Duration = self.begun.elapsed();
        let (reads, read_bytes) = reads.totals();
        Usage {
            wall: wall.as_secs_f64(),
            cpu: cpu_seconds() - self.cpu,
            peak: status_bytes("VmHWM:"),
            reads,
            read_bytes,
            items,
        }
    }
}

/// Returns the processor time of this process in seconds, in steps of 10 ms.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    // The name of the program, in parentheses, may have spaces.
    let fields = stat.rsplit(')').next().unwrap().split_whitespace();
    let ticks = fields
        .skip(11)
        .take(2)
        .map(|field| field.parse::<f64>().unwrap());
    ticks.sum::<f64>() / TICKS
}

/// Returns a field of /proc/self/status in bytes.
fn status_bytes(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<u64>().unwrap() << 10
}
