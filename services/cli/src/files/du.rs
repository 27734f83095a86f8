//! `cstore du`: what files use.

use std::io::IsTerminal;

use serde::{Deserialize, Serialize};

use super::out::human;
use super::{Session, prefix};
use crate::args::files::Du;
use crate::exit::{Failure, printable};

/// The gateway's answer.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Usage {
    prefix: String,
    pub(super) files: u64,
    /// Sum of the sizes.
    pub(super) logical_bytes: u64,
    /// Their distinct blocks.
    unique_bytes: u64,
    /// Those of them that other files use too.
    shared_bytes: u64,
    /// Bytes that a removal of all the files would free.
    pub(super) freed_bytes: u64,
}

impl Usage {
    pub(super) async fn ask(session: &Session, prefix: &str) -> Result<Self, Failure> {
        session.ask(|| session.gateway.usage(prefix)).await?.parse()
    }
}

pub(super) async fn run(session: &Session, options: &Du) -> Result<(), Failure> {
    let usage = Usage::ask(session, prefix(&options.prefix)?).await;
    let usage = usage.map_err(|failure| failure.of(&options.prefix))?;
    let people = options.human || (!options.bytes && std::io::stdout().is_terminal());
    session.out.show(&usage, || table(&usage, people))
}

fn table(usage: &Usage, people: bool) -> String {
    let size = |bytes: u64| {
        if people {
            human(bytes)
        } else {
            bytes.to_string()
        }
    };
    let sizes = [
        usage.logical_bytes,
        usage.unique_bytes,
        usage.shared_bytes,
        usage.freed_bytes,
    ]
    .map(size);
    let heads = ["logical", "unique", "shared", "freed"];
    let mut lines = [String::new(), String::new()];
    for (head, size) in heads.iter().zip(&sizes) {
        let width = size.len().max(head.len());
        lines[0].push_str(&format!("{head:>width$}  "));
        lines[1].push_str(&format!("{size:>width$}  "));
    }
    let width = usage.files.to_string().len().max(5);
    lines[0].push_str(&format!("{:>width$}  prefix", "files"));
    lines[1].push_str(&format!(
        "{:>width$}  {}",
        usage.files,
        printable(&usage.prefix)
    ));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_their_heads() {
        let usage = Usage {
            prefix: "a/\u{1b}[2J".to_owned(),
            files: 3,
            logical_bytes: 4_000_000_000,
            unique_bytes: 70_000,
            shared_bytes: 0,
            freed_bytes: 70_000,
        };
        let text = table(&usage, false);
        assert_eq!(
            text,
            "   logical  unique  shared  freed  files  prefix\n4000000000   70000       0  70000      3  a/\u{fffd}[2J"
        );
        assert!(table(&usage, true).contains("3.73 GiB"));
    }
}
