//! The real program, built beside the tests, so that they always run what the tree holds.
//!
//! The allocator of this program counts allocations. If [`SOCKET`] names a path, a thread serves the counts there on a Unix
//! socket, one line for each connection: `ALLOCATIONS BYTES`, both since the start. The thread is
//! blocked in `accept` in between, so it changes nothing that a test counts.

use std::alloc::System;
use std::io::Write;
use std::os::unix::net::UnixListener;
use std::process::ExitCode;

use cstore_node::{ProcessEnv, Source};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

/// Variable with the path of the socket. Absent: the counts are not served.
const SOCKET: &str = "COUNTED_ALLOCATIONS_SOCKET";

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn main() -> ExitCode {
    let env = ProcessEnv::snapshot();
    if let Some(path) = env.get(SOCKET) {
        match UnixListener::bind(&path) {
            Ok(listener) => {
                std::thread::spawn(move || serve(&listener));
            }
            Err(error) => {
                eprintln!("{SOCKET}: cannot listen at {path}: {error}");
                return ExitCode::FAILURE;
            }
        }
    }

    cstore::main_with(std::env::args_os(), &env)
}

/// Writes the counts to each connection. A reallocation counts as an allocation of the bytes that
/// it adds.
fn serve(listener: &UnixListener) {
    for connection in listener.incoming() {
        let stats = ALLOCATOR.stats();
        let allocations = stats.allocations + stats.reallocations;
        if let Ok(mut connection) = connection {
            // A test that went away needs no counts.
            let _ = writeln!(connection, "{allocations} {}", stats.bytes_allocated);
        }
    }
}
