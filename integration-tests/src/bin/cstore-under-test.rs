//! The real program, built beside the tests, so that they always run what the tree holds.

use std::process::ExitCode;

fn main() -> ExitCode {
    cstore::main_with(std::env::args_os(), &cstore_node::ProcessEnv::snapshot())
}
