//! Memory of a contestant that stores many names and many bytes.

use crate::content::File;
use crate::load::{Load, Request};
use crate::processes::Servers;

/// Files of 4 KiB.
const NAMES: usize = 60_000;
/// Large files.
const LARGE: usize = 10;

/// Resident memory in MB, summed up over the servers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    pub(crate) peak: f64,
    /// Memory after the last reply.
    pub(crate) after: f64,
}

/// Returns the memory of the servers after 60,000 names and 10 large files, put to a new store and
/// read once.
pub(crate) fn measure(servers: &Servers, large: u64) -> Memory {
    let steps = [("names", NAMES, 32, 4 << 10), ("bulk", LARGE, 2, large)];
    for (group, count, clients, size) in steps {
        for is_put in [true, false] {
            let load = Load {
                count,
                clients,
                size,
            };
            load.run(servers, |number| Request {
                is_put,
                file: File {
                    group,
                    content: group,
                    round: 0,
                    number,
                    size,
                },
                range: None,
            });
        }
    }
    Memory {
        peak: servers.peak_rss_mb(),
        after: servers.rss_mb(),
    }
}
