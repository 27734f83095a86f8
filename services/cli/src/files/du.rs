//! `cstore du`: what files use.

use std::io::IsTerminal;

use futures_util::FutureExt;
use serde::{Deserialize, Serialize};

use super::list::{Entry, Names};
use super::out::human;
use super::{Session, prefix};
use crate::args::files::Du;
use crate::exit::{End, Failure, printable};

/// Note for named tenants, whose space is not shown: it would reveal whether others have the same
/// bytes.
pub(super) const SPACE_IS_HIDDEN: &str = "space is shown to the default tenant only";

/// The gateway's answer, or as much of it as the list of the files says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Usage {
    prefix: String,
    pub(super) files: u64,
    /// Sum of the sizes.
    pub(super) logical_bytes: u64,
    /// Their distinct blocks. `None` for named tenants, like the fields below.
    unique_bytes: Option<u64>,
    /// Those of them that other files use too.
    shared_bytes: Option<u64>,
    /// Bytes that a removal of all the files would free.
    pub(super) freed_bytes: Option<u64>,
}

impl Usage {
    /// Asks for the space of the files with a prefix. For a named tenant, counts them by their list.
    pub(super) async fn ask(session: &Session, prefix: &str) -> Result<Self, Failure> {
        match Self::of_store(session, prefix).await {
            Err(failure) if failure.end() == End::Denied => Self::of_list(session, prefix).await,
            asked => asked,
        }
    }

    /// Asks for the space of the files with a prefix. Refused for named tenants.
    pub(super) async fn of_store(session: &Session, prefix: &str) -> Result<Self, Failure> {
        session.ask(|| session.gateway.usage(prefix)).await?.parse()
    }

    async fn of_list(session: &Session, prefix: &str) -> Result<Self, Failure> {
        let mut usage = Self {
            prefix: prefix.to_owned(),
            files: 0,
            logical_bytes: 0,
            unique_bytes: None,
            shared_bytes: None,
            freed_bytes: None,
        };
        let mut names = Names::below(session, prefix);
        // Boxed, because this future is part of larger ones.
        while let Some(next) = names.next_entry().boxed().await {
            if let Entry::File(_, size) = next? {
                usage.files += 1;
                usage.logical_bytes = usage.logical_bytes.saturating_add(size);
            }
        }
        Ok(usage)
    }
}

pub(super) async fn run(session: &Session, options: &Du) -> Result<(), Failure> {
    let usage = Usage::ask(session, prefix(&options.prefix)?).await;
    let shown = match options.prefix.as_str() {
        "" => "/",
        prefix => prefix,
    };
    let usage = usage.map_err(|failure| failure.of(shown))?;
    if usage.files == 0 && !usage.prefix.is_empty() {
        // Zeros for a misspelt prefix or a pattern would look like an empty folder.
        let text = "no name begins with this; du takes prefixes and no patterns";
        return Err(Failure::client(End::NotFound, text).of(shown));
    }
    let people = options.human || (!options.bytes && std::io::stdout().is_terminal());
    session.out.show(&usage, || table(&usage, people))?;
    match usage.freed_bytes {
        Some(_) => session.note_pending_releases().await,
        None => session.out.note(SPACE_IS_HIDDEN),
    }
    Ok(())
}

fn table(usage: &Usage, people: bool) -> String {
    let size = |bytes: Option<u64>| match bytes {
        Some(bytes) if people => human(bytes),
        Some(bytes) => bytes.to_string(),
        None => "-".to_owned(),
    };
    let sizes = [
        Some(usage.logical_bytes),
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
            unique_bytes: Some(70_000),
            shared_bytes: Some(0),
            freed_bytes: Some(70_000),
        };
        let text = table(&usage, false);
        assert_eq!(
            text,
            "   logical  unique  shared  freed  files  prefix\n4000000000   70000       0  70000      3  a/\u{fffd}[2J"
        );
        assert!(table(&usage, true).contains("3.73 GiB"));
    }
}
