//! The one program. Everything is in the library, so that tests can build the same program.

use std::process::ExitCode;

use cstore_node::ProcessEnv;

fn main() -> ExitCode {
    cstore::main_with(std::env::args_os(), &ProcessEnv::snapshot())
}
