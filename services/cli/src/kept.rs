//! `cstore admin kept`: uploads that may have committed in a history of the metadata that a person
//! has given up. Asks the master, with a bearer of the cluster secret.

use std::io::Write;
use std::time::Duration;

use bytes::Bytes;
use cstore_mesh::MasterClient;
use cstore_node::Source;
use cstore_proto::{code_of, v1};
use cstore_types::SessionId;
use cstore_types::limits::MAX_REPORTED_SESSIONS;
use serde::Serialize;

use crate::exit::Failure;
use crate::master::{refused, run};

/// A kept upload as a line of JSON.
#[derive(Debug, Serialize)]
struct Line {
    upload: String,
}

/// Number of uploads that may be kept later, as a line of JSON.
#[derive(Debug, Serialize)]
struct Undecided {
    undecided: u64,
    first_decision_ms: u64,
}

impl Undecided {
    fn sentence(&self) -> String {
        let first = Duration::from_secs(self.first_decision_ms.div_ceil(1_000));
        format!(
            "not decided yet: {}, which nodes hold and this master does not know; each is kept when it was silent for \
             CSTORE_TICKET_TTL_MS, the first in {}",
            self.undecided,
            humantime::format_duration(first)
        )
    }
}

/// Prints the uploads that are kept, and on stderr how many are not decided yet.
pub(crate) fn list(json: bool, source: &dyn Source) -> Result<(), Failure> {
    run(source, async |master| {
        let mut out = std::io::stdout().lock();
        let mut after = Bytes::new();
        let mut n_kept = 0;
        let mut undecided;
        loop {
            let listed = page(&master, after).await?;
            undecided = Undecided {
                undecided: listed.undecided,
                first_decision_ms: listed.first_decision_ms,
            };
            let page = listed.sessions;
            for session in &page {
                let upload = hex::encode(session);
                let printed = match json {
                    true => print_json(&mut out, &Line { upload }),
                    false => writeln!(out, "{upload}"),
                };
                printed.map_err(Failure::output)?;
            }
            n_kept += page.len();
            match page.last() {
                Some(last) if page.len() == MAX_REPORTED_SESSIONS => after = last.clone(),
                _ => break,
            }
        }
        if n_kept == 0 && !json {
            let yet = if undecided.undecided > 0 { " yet" } else { "" };
            writeln!(out, "no upload is kept{yet}").map_err(Failure::output)?;
        }
        if undecided.undecided > 0 {
            // Print to stderr: stdout lists only uploads, which a script may drop.
            let mut err = std::io::stderr().lock();
            match json {
                true => print_json(&mut err, &undecided),
                false => writeln!(err, "{}", undecided.sentence()),
            }
            .map_err(Failure::output)?;
        }
        Ok(())
    })
}

/// Lets the blocks of uploads go; of `all` that are kept now, if there are no `uploads`.
pub(crate) fn drop(uploads: &[SessionId], all: bool, source: &dyn Source) -> Result<(), Failure> {
    run(source, async |master| {
        let mut dropped = 0;
        for chunk in uploads.chunks(MAX_REPORTED_SESSIONS) {
            let raw = |session: &SessionId| Bytes::copy_from_slice(session.as_bytes());
            dropped += let_go(&master, chunk.iter().map(raw).collect()).await?;
        }
        if all {
            dropped += let_all_go(&master).await?;
        }
        let mut out = std::io::stdout().lock();
        writeln!(out, "{dropped} uploads are dropped").map_err(Failure::output)
    })
}

async fn let_all_go(master: &MasterClient) -> Result<u64, Failure> {
    let (mut after, mut dropped) = (Bytes::new(), 0);
    loop {
        let page = page(master, after).await?.sessions;
        let Some(last) = page.last().cloned() else {
            return Ok(dropped);
        };
        dropped += let_go(master, page).await?;
        after = last;
    }
}

async fn page(master: &MasterClient, after: Bytes) -> Result<v1::ListKeptResponse, Failure> {
    let listed = master.list_kept(v1::ListKeptRequest { after }).await;
    listed.map_err(|status| refused(code_of(&status), status.message()))
}

async fn let_go(master: &MasterClient, sessions: Vec<Bytes>) -> Result<u64, Failure> {
    let answer = master.drop_kept(v1::DropKeptRequest { sessions }).await;
    let answer = answer.map_err(|status| refused(code_of(&status), status.message()))?;
    Ok(answer.dropped)
}

fn print_json(out: &mut impl Write, line: &impl Serialize) -> std::io::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_undecided_uploads_has_the_time_of_the_first_decision() {
        let undecided = Undecided {
            undecided: 3,
            first_decision_ms: 3_540_001,
        };
        let text = undecided.sentence();
        assert!(text.starts_with("not decided yet: 3, "), "{text}");
        assert!(text.ends_with("the first in 59m 1s"), "{text}");
    }
}
