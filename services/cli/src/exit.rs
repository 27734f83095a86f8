//! How the program ends, and what it says then.

use std::io::Write;
use std::process::ExitCode;

use cstore_node::env::EXIT_USAGE;

/// Why the program does not end well.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Started wrongly: arguments, variables, ports, the secret. Somebody must change something.
    #[error("{0}")]
    Usage(String),
    /// Something failed that may work the next time.
    #[error("{0}")]
    Failed(String),
}

impl Failure {
    /// Started wrongly, with the causes of an error.
    pub(crate) fn usage(error: impl Into<anyhow::Error>) -> Self {
        Self::Usage(chain(&error.into()))
    }

    /// Started wrongly in several ways, one a line; what two readers have found is said once.
    pub(crate) fn mistakes(lines: &str) -> Self {
        let mut told = Vec::new();
        for line in lines.lines() {
            if !told.contains(&line) {
                told.push(line);
            }
        }
        Self::Usage(told.join("\n"))
    }

    /// Failed, with the causes of an error.
    pub(crate) fn failed(error: impl Into<anyhow::Error>) -> Self {
        Self::Failed(chain(&error.into()))
    }

    /// Says it on stderr.
    pub(crate) fn report(&self) -> ExitCode {
        let mut stderr = std::io::stderr().lock();
        // When nobody can hear it, the status still tells.
        let _ = writeln!(stderr, "cstore: {self}");
        match self {
            Self::Usage(_) => usage_code(),
            Self::Failed(_) => ExitCode::FAILURE,
        }
    }
}

/// What clap has to say: help and version are not failures.
pub(crate) fn arguments(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    if error.use_stderr() { usage_code() } else { ExitCode::SUCCESS }
}

fn usage_code() -> ExitCode {
    ExitCode::from(u8::try_from(EXIT_USAGE).unwrap_or(1))
}

fn chain(error: &anyhow::Error) -> String {
    format!("{error:#}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mistake_is_said_and_none_twice() {
        assert_eq!(Failure::mistakes("A: x\nB: y\nA: x").to_string(), "A: x\nB: y");
    }

    #[test]
    fn an_error_is_said_with_its_causes() {
        let error = anyhow::anyhow!("disk is gone").context("open segment");
        assert_eq!(Failure::failed(error).to_string(), "open segment: disk is gone");
    }
}
