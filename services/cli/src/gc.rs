//! `cstore admin gc`: how far the space of a storage node has come back, and what compaction has
//! done and could do. From the metrics of its admin port; compaction itself runs by itself.

use std::io::Write;
use std::net::{Ipv4Addr, TcpStream};

use cstore_node::{Env, HostPort, Source};
use serde::Serialize;

use crate::admin_port::{self, Answer, WANTED};
use crate::exit::{End, Failure};
use crate::files::out::human;
use crate::limits::GC_WATCH_PAUSE;
use crate::probe::Speaker;
use crate::process::ADMIN_PORT;
use crate::role::Role;

/// Default admin port of a storage node.
const STORAGE_PORT: u16 = 9_103;

/// Metrics of one storage node, in bytes or counts.
#[derive(Debug, Serialize, PartialEq, Eq)]
struct Progress {
    node: String,
    capacity_bytes: u64,
    allocated_bytes: u64,
    free_bytes: u64,
    physical_bytes: u64,
    dead_bytes: u64,
    winnable_bytes: u64,
    releases: u64,
    compacted_segments: u64,
    retired_segments: u64,
    moved_records: u64,
    moved_bytes: u64,
    pinned_segments: u64,
}

/// Prints one line of JSON, or a few for people, a node; with `watch` again and again.
#[allow(
    clippy::disallowed_methods,
    reason = "a watch has no condition to await: it ends by a signal or a closed pipe"
)]
pub(crate) fn run(
    addrs: &[String],
    json: bool,
    watch: bool,
    source: &dyn Source,
) -> Result<(), Failure> {
    let addrs = nodes(addrs, source)?;
    loop {
        let looked = look(&addrs, json);
        // A watch outlives a node that is away for a while, but not all of them.
        match looked {
            Ok(()) if watch => {}
            Err(failure) if watch && failure.end() == End::Partial => failure.tell(json),
            ended => return ended,
        }
        std::thread::sleep(GC_WATCH_PAUSE);
    }
}

fn nodes(addrs: &[String], source: &dyn Source) -> Result<Vec<HostPort>, Failure> {
    let mut env = Env::new(source);
    let port = env.port(ADMIN_PORT, STORAGE_PORT);
    env.finish().map_err(Failure::usage)?;
    let is_open = |port| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok();
    // A process with all roles has one admin port, that of a gateway.
    let shared = Role::Gateway.admin_port();
    let port = if env.is_default(ADMIN_PORT) && !is_open(port) && is_open(shared) {
        shared
    } else {
        port
    };
    if addrs.is_empty() {
        return Ok(vec![HostPort::new("127.0.0.1", port)]);
    }
    let parse = |text: &String| {
        let wrong = |_| {
            Failure::Usage(format!(
                "--addr: found {text:?}, allowed is host:port of an admin port, such as 127.0.0.1:{STORAGE_PORT}"
            ))
        };
        text.parse().map_err(wrong)
    };
    addrs.iter().map(parse).collect()
}

/// Looks at each node once. A node that cannot be reached is reported, and the others are shown.
fn look(addrs: &[HostPort], json: bool) -> Result<(), Failure> {
    let mut failed = Vec::new();
    for addr in addrs {
        let found =
            admin_port::get(addr, "/metrics").and_then(|answer| read(&addr.to_string(), &answer));
        let progress = match found {
            Ok(progress) => progress,
            Err(failure) => {
                if addrs.len() > 1 {
                    failure.tell(json);
                }
                failed.push(failure);
                continue;
            }
        };
        let text = if json {
            serde_json::to_string(&progress).map_err(Failure::failed)?
        } else {
            progress.to_string()
        };
        writeln!(std::io::stdout().lock(), "{text}").map_err(Failure::output)?;
    }
    let count = failed.len();
    match failed.pop() {
        None => Ok(()),
        Some(failure) if addrs.len() == 1 => Err(failure),
        Some(failure) => {
            let end = if count == addrs.len() {
                failure.end()
            } else {
                End::Partial
            };
            Err(Failure::client(
                end,
                format!("{count} of {} nodes could not be asked", addrs.len()),
            ))
        }
    }
}

fn read(node: &str, answer: &Answer) -> Result<Progress, Failure> {
    let value = |name: &str| {
        let line = answer
            .body
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let number = line.and_then(|rest| rest.split(' ').next()?.parse::<u64>().ok());
        number.ok_or_else(|| {
            let why = match answer.speaker {
                // Metrics are HTTP like any other.
                Speaker::Http => format!("it has no metric {name}"),
                other => other.what().to_owned(),
            };
            Failure::Failed(format!(
                "{node} is not the admin port of a storage node: {why}; {WANTED}"
            ))
        })
    };
    Ok(Progress {
        node: node.to_owned(),
        capacity_bytes: value("cstore_storage_capacity_bytes")?,
        allocated_bytes: value("cstore_storage_allocated_bytes")?,
        free_bytes: value("cstore_storage_free_bytes")?,
        physical_bytes: value("cstore_storage_physical_bytes")?,
        dead_bytes: value("cstore_storage_dead_bytes")?,
        winnable_bytes: value("cstore_storage_winnable_bytes")?,
        releases: value("cstore_storage_releases_total")?,
        compacted_segments: value("cstore_storage_compacted_files_total")?,
        retired_segments: value("cstore_storage_retired_files_total")?,
        moved_records: value("cstore_storage_moved_records_total")?,
        moved_bytes: value("cstore_storage_moved_bytes_total")?,
        pinned_segments: value("cstore_storage_pinned_files")?,
    })
}

impl std::fmt::Display for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "{}: {} in segments, {} of them live; capacity {}, {} free at once",
            self.node,
            human(self.allocated_bytes),
            human(self.physical_bytes),
            human(self.capacity_bytes),
            human(self.free_bytes),
        )?;
        writeln!(
            f,
            "  dead {}, of which compaction would win {} now; damage keeps {} segments",
            human(self.dead_bytes),
            human(self.winnable_bytes),
            self.pinned_segments,
        )?;
        write!(
            f,
            "  since its start: {} releases, {} segments emptied by moving {} records ({}), {} segments retired",
            self.releases,
            self.compacted_segments,
            self.moved_records,
            human(self.moved_bytes),
            self.retired_segments,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_of_another_role_is_told_from_a_storage_node() {
        let answer = Answer {
            status: Some(200),
            body: "# TYPE cstore_master_files gauge\ncstore_master_files 1\n".to_owned(),
            speaker: Speaker::Http,
        };
        let refused = read("h:1", &answer).unwrap_err();
        assert!(
            format!("{refused:?}").contains("not the admin port of a storage node"),
            "{refused:?}"
        );
    }
}
