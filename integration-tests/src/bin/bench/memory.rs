//! Peak memory of a contestant that has many names and many bytes.

use crate::content::File;
use crate::load::{Load, Request};
use crate::processes::Servers;

/// Files of 4 KiB.
const NAMES: usize = 60_000;
/// Large files.
const LARGE: usize = 10;

/// Returns the sum of the servers' peaks of resident memory in MB after 60,000 names and 10 large
/// files, put to a new store and read once.
pub(crate) fn measure(servers: &Servers, large: u64) -> f64 {
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
    servers.peak_rss_mb()
}
