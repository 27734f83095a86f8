//! Programs of others that some tests talk to when they are there: docker, helm, promtool, jaeger.

use std::io::Write;
use std::path::PathBuf;

/// Returns the path of a program on the PATH.
pub fn find(program: &str) -> Option<PathBuf> {
    let (_, path) = std::env::vars_os().find(|(key, _)| key == "PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}

/// Returns the path of `program` like [`find`], or prints `SKIP` and returns `None` if the machine
/// does not have it.
pub fn find_or_skip(program: &str, what: &str) -> Option<PathBuf> {
    let found = find(program);
    if found.is_none() {
        skip(what, &format!("{program} is not on this machine"));
    }
    found
}

/// Prints `SKIP` with what is not tested, and why. The line bypasses the test harness, which hides
/// the output of passed tests.
pub fn skip(what: &str, why: &str) {
    let line = format!("\nSKIP {what}: {why}\n");
    let _ = std::io::stdout().write_all(line.as_bytes());
}
