//! Reading back what was acknowledged.

use std::collections::BTreeSet;

use futures_util::{StreamExt, stream};
use tokio::time::{Instant, sleep};

use super::round::refused;
use super::{content, say};
use crate::args::Smoke;
use crate::client::Gateway;
use crate::exit::{End, Failure};
use crate::limits::SMOKE_PAUSE;

/// Result of reading a file back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    Equal,
    Missing,
    Wrong,
    /// No final answer in time; the text of the last one.
    Unknown(String),
}

/// Reads a file until the answer is final: a refusal that may be tried again, or a lost connection,
/// is not.
pub(super) async fn read(gateway: &Gateway, name: &str, deadline: Instant) -> Found {
    loop {
        let why = match gateway.get(name).await {
            Ok(answer) if answer.status.as_u16() == 200 => {
                let equal = content::bytes(name).is_some_and(|bytes| bytes == answer.body);
                return if equal { Found::Equal } else { Found::Wrong };
            }
            Ok(answer) if answer.status.as_u16() == 404 => return Found::Missing,
            Ok(answer) => format!("{} {}", answer.status.as_u16(), answer.told()),
            Err(lost) => lost.to_string(),
        };
        if Instant::now() >= deadline {
            return Found::Unknown(why);
        }
        sleep(SMOKE_PAUSE).await;
    }
}

/// Reads many at once.
pub(super) async fn read_all(
    gateway: &Gateway,
    names: Vec<String>,
    clients: usize,
    deadline: Instant,
) -> Vec<(String, Found)> {
    let read = |name: String| async move {
        let found = read(gateway, &name, deadline).await;
        (name, found)
    };
    stream::iter(names)
        .map(read)
        .buffer_unordered(clients)
        .collect()
        .await
}

/// Returns all names below a prefix.
pub(super) async fn list(
    gateway: &Gateway,
    prefix: &str,
    deadline: Instant,
) -> Result<BTreeSet<String>, Failure> {
    let (mut names, mut page) = (BTreeSet::new(), String::new());
    loop {
        let why = match gateway.list(&format!("{prefix}/"), &page).await {
            Ok(answer) if answer.status.is_success() => {
                let found = answer.json();
                let files = found["files"].as_array().into_iter().flatten();
                names.extend(files.filter_map(|file| file["name"].as_str().map(str::to_owned)));
                page = found["next_page_token"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned();
                if page.is_empty() {
                    return Ok(names);
                }
                continue;
            }
            // Time does not change a missing token or right.
            Ok(answer) if answer.failure().end() == End::Denied => {
                return Err(refused("list", &answer));
            }
            Ok(answer) => format!("{} {}", answer.status.as_u16(), answer.told()),
            Err(lost) => lost.to_string(),
        };
        if Instant::now() >= deadline {
            return Err(Failure::client(
                End::Unavailable,
                format!("the list cannot be read: {why}"),
            ));
        }
        sleep(SMOKE_PAUSE).await;
    }
}

/// `smoke --check`: every file below the prefix is equal, and every expected one is there.
pub(super) async fn run(gateway: &Gateway, prefix: &str, options: &Smoke) -> Result<(), Failure> {
    let deadline = Instant::now() + *options.settle;
    let mut names = list(gateway, prefix, deadline).await?;
    let listed = names.len();
    if let Some(path) = &options.names {
        let text = std::fs::read_to_string(path)
            .map_err(|error| Failure::Usage(format!("cannot read {}: {error}", path.display())))?;
        names.extend(
            text.lines()
                .filter(|line| !line.is_empty())
                .map(str::to_owned),
        );
    }
    let found = read_all(
        gateway,
        names.into_iter().collect(),
        options.clients,
        deadline,
    )
    .await;
    let bad: Vec<&(String, Found)> = found
        .iter()
        .filter(|(_, found)| *found != Found::Equal)
        .collect();
    for (name, found) in bad.iter().take(20) {
        say(&format!("{name}: {found:?}"));
    }
    let equal = found.len() - bad.len();
    say(&format!(
        "check: {listed} listed, {equal} equal, {} not",
        bad.len()
    ));
    let expected = options.expect.unwrap_or(0);
    if !bad.is_empty() || equal < expected {
        return Err(Failure::Failed(format!(
            "check: {equal} of {} files are as they were",
            expected.max(found.len())
        )));
    }
    Ok(())
}
