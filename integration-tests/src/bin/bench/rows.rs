//! Rows of the table: what is sent, and which figures count.

use crate::content::File;
use crate::load::{Load, Outcome, Request};
use crate::processes::{Servers, Usage};

/// Files of 100 KiB and of 4 KiB in one round.
const MID: usize = 2_000;
const SMALL: usize = 10_000;
const MID_SIZE: u64 = 100 << 10;
const SMALL_SIZE: u64 = 4 << 10;
/// Requests of one client alone.
const ALONE: usize = 1_000;
/// Downloads of a range, and its length.
const RANGES: usize = 200;
const RANGE: u64 = 1 << 20;

/// A figure of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Figure {
    MbPerSecond,
    PerSecond,
    P50,
    P99,
    CpuPerGib,
    CpuPerOperation,
    SyncsPerOperation,
}

impl Figure {
    /// All figures: the results list each of them for each row.
    pub(crate) const ALL: [Self; 7] = [
        Self::MbPerSecond,
        Self::PerSecond,
        Self::P50,
        Self::P99,
        Self::CpuPerGib,
        Self::CpuPerOperation,
        Self::SyncsPerOperation,
    ];

    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::MbPerSecond => "MB/s",
            Self::PerSecond => "/s",
            Self::P50 => "p50 ms",
            Self::P99 => "p99 ms",
            Self::CpuPerGib => "CPU s/GiB",
            Self::CpuPerOperation => "CPU µs/op",
            Self::SyncsPerOperation => "syncs/op",
        }
    }

    /// Returns true if a larger figure is the better one.
    pub(crate) fn is_rate(self) -> bool {
        matches!(self, Self::MbPerSecond | Self::PerSecond)
    }

    /// Returns the number of requests of a measurement.
    pub(crate) fn count(measured: &Measured) -> f64 {
        measured.outcome.latencies.len() as f64
    }

    /// Returns the figure of a measurement. `None` if the contestant does not tell it.
    pub(crate) fn of(self, measured: &Measured) -> Option<f64> {
        let outcome = &measured.outcome;
        let count = Self::count(measured);
        let quantile = |share: f64| {
            let last = outcome.latencies.len().saturating_sub(1);
            outcome
                .latencies
                .get((last as f64 * share) as usize)
                .copied()
        };
        match self {
            Self::MbPerSecond => Some(outcome.bytes as f64 / 1e6 / outcome.seconds),
            Self::PerSecond => Some(count / outcome.seconds),
            Self::P50 => quantile(0.5),
            Self::P99 => quantile(0.99),
            Self::CpuPerGib => {
                let gib = outcome.bytes as f64 / f64::from(1 << 30);
                Some(measured.used.cpu_seconds / gib)
            }
            Self::CpuPerOperation => Some(measured.used.cpu_seconds * 1e6 / count),
            Self::SyncsPerOperation => measured.used.syncs.map(|syncs| syncs / count),
        }
    }
}

/// One load on one contestant, and what its servers used for it.
#[derive(Debug, Clone)]
pub(crate) struct Measured {
    pub(crate) outcome: Outcome,
    pub(crate) used: Usage,
}

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Row {
    PutLarge,
    PutAgain,
    GetLarge,
    PutMid,
    GetMid,
    PutSmall,
    GetSmall,
    PutAlone,
    GetAlone,
    Range,
    Mixed,
}

impl Row {
    pub(crate) const ALL: [Self; 11] = [
        Self::PutLarge,
        Self::PutAgain,
        Self::GetLarge,
        Self::PutMid,
        Self::GetMid,
        Self::PutSmall,
        Self::GetSmall,
        Self::PutAlone,
        Self::GetAlone,
        Self::Range,
        Self::Mixed,
    ];

    /// Returns the name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::PutLarge => "put-1g",
            Self::PutAgain => "put-again",
            Self::GetLarge => "get-1g",
            Self::PutMid => "put-100k",
            Self::GetMid => "get-100k",
            Self::PutSmall => "put-4k",
            Self::GetSmall => "get-4k",
            Self::PutAlone => "put-4k-c1",
            Self::GetAlone => "get-4k-c1",
            Self::Range => "range-1m",
            Self::Mixed => "mixed-100k",
        }
    }

    /// # Errors
    /// A message if there is no such row.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|row| row.name() == text);
        found.ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(" ");
            format!("row {text:?} is unknown: allowed are {names}")
        })
    }

    /// Returns the title for readers; large files have `mib` MiB.
    pub(crate) fn title(self, mib: u64) -> String {
        let size = large_size(mib);
        match self {
            Self::PutLarge => format!("PUT {size}"),
            Self::PutAgain => format!("PUT the same {size} again"),
            Self::GetLarge => format!("GET {size}"),
            Self::PutMid => "PUT 2,000 × 100 KiB, 50 at once".to_owned(),
            Self::GetMid => "GET 2,000 × 100 KiB, 50 at once".to_owned(),
            Self::PutSmall => "PUT 10,000 × 4 KiB, 32 at once".to_owned(),
            Self::GetSmall => "GET 10,000 × 4 KiB, 32 at once".to_owned(),
            Self::PutAlone => "PUT 4 KiB, one client".to_owned(),
            Self::GetAlone => "GET 4 KiB, one client".to_owned(),
            Self::Range => "GET a range of 1 MiB, one client".to_owned(),
            Self::Mixed => "70 % GET, 30 % PUT of 100 KiB, 50 at once".to_owned(),
        }
    }

    /// Returns the figures that the table shows.
    pub(crate) fn figures(self) -> &'static [Figure] {
        use Figure::SyncsPerOperation;
        use Figure::{CpuPerGib, CpuPerOperation, MbPerSecond, P50, P99, PerSecond};
        match self {
            Self::PutLarge => &[MbPerSecond, CpuPerGib, SyncsPerOperation],
            Self::PutAgain | Self::GetLarge => &[MbPerSecond, CpuPerGib],
            Self::PutMid => &[PerSecond, CpuPerOperation, SyncsPerOperation],
            Self::GetMid => &[PerSecond, CpuPerOperation],
            Self::PutSmall => &[PerSecond, P50, P99, CpuPerOperation, SyncsPerOperation],
            Self::GetSmall => &[PerSecond, P50, P99, CpuPerOperation],
            Self::PutAlone | Self::GetAlone => &[P50],
            Self::Range => &[P50, P99],
            Self::Mixed => &[PerSecond],
        }
    }

    /// Returns the row whose files this one reads or repeats.
    fn needs(self) -> Option<Self> {
        match self {
            Self::PutAgain | Self::GetLarge | Self::Range => Some(Self::PutLarge),
            Self::GetMid | Self::Mixed => Some(Self::PutMid),
            Self::GetSmall | Self::GetAlone => Some(Self::PutSmall),
            Self::PutLarge | Self::PutMid | Self::PutSmall | Self::PutAlone => None,
        }
    }

    fn load(self, large: u64) -> Load {
        let load = |count, clients, size| Load {
            count,
            clients,
            size,
        };
        match self {
            Self::PutLarge | Self::PutAgain | Self::GetLarge => load(1, 1, large),
            Self::PutMid | Self::GetMid | Self::Mixed => load(MID, 50, MID_SIZE),
            Self::PutSmall | Self::GetSmall => load(SMALL, 32, SMALL_SIZE),
            Self::PutAlone | Self::GetAlone => load(ALONE, 1, SMALL_SIZE),
            Self::Range => load(RANGES, 1, large),
        }
    }

    /// Returns the n-th request of a round.
    fn request(self, round: usize, large: u64, n: usize) -> Request {
        let file = |group, size| File {
            group,
            content: group,
            round,
            number: n,
            size,
        };
        let request = |is_put, file| Request {
            is_put,
            file,
            range: None,
        };
        match self {
            Self::PutLarge => request(true, file("large", large)),
            Self::PutAgain => {
                let again = file("again", large);
                let content = "large";
                request(true, File { content, ..again })
            }
            Self::GetLarge => request(false, file("large", large)),
            Self::PutMid => request(true, file("mid", MID_SIZE)),
            Self::GetMid => request(false, file("mid", MID_SIZE)),
            Self::PutSmall => request(true, file("small", SMALL_SIZE)),
            Self::GetSmall | Self::GetAlone => request(false, file("small", SMALL_SIZE)),
            Self::PutAlone => request(true, file("alone", SMALL_SIZE)),
            Self::Range => {
                // Ranges of the middle half, in an order that no read ahead guesses.
                let places = (large / 2 / RANGE).max(1);
                let first = large / 4 + (n as u64 * 61 % places) * RANGE;
                let last = (first + RANGE).min(large) - 1;
                let number = 0;
                Request {
                    range: Some((first, last)),
                    ..request(
                        false,
                        File {
                            number,
                            ..file("large", large)
                        },
                    )
                }
            }
            Self::Mixed if n % 10 < 7 => {
                let number = n * 7 % MID;
                request(
                    false,
                    File {
                        number,
                        ..file("mid", MID_SIZE)
                    },
                )
            }
            Self::Mixed => request(true, file("mixed", MID_SIZE)),
        }
    }
}

/// Returns the size of the large files for readers.
pub(crate) fn large_size(mib: u64) -> String {
    match mib {
        1_024 => "1 GiB".to_owned(),
        mib => format!("{mib} MiB"),
    }
}

/// Measurements of one contestant in one round.
pub(crate) struct Round<'a> {
    pub(crate) servers: &'a Servers,
    pub(crate) round: usize,
    /// Size of large files in bytes.
    pub(crate) large: u64,
    /// Rows whose files are there.
    put: Vec<Row>,
}

impl<'a> Round<'a> {
    pub(crate) fn new(servers: &'a Servers, round: usize, large: u64) -> Self {
        Self {
            servers,
            round,
            large,
            put: Vec::new(),
        }
    }

    /// Measures a row. Files that it needs, and that no row before it put, are put first and not
    /// measured. With `verify`, each byte is compared with what was put, after the measurement.
    ///
    /// # Panics
    /// If a request fails, or bytes differ.
    pub(crate) fn measure(&mut self, row: Row, verify: bool) -> Measured {
        if let Some(needed) = row.needs()
            && !self.put.contains(&needed)
        {
            self.measure(needed, false);
        }
        // Bytes that others left in the page cache must not be written during this measurement.
        rustix::fs::sync();

        let load = row.load(self.large);
        let request = |n| row.request(self.round, self.large, n);
        let before = self.servers.usage();
        let outcome = load.run(self.servers, request);
        let used = self.servers.usage().since(&before);
        self.put.push(row);
        if verify {
            load.verify(self.servers, request);
        }
        Measured { outcome, used }
    }
}
