//! `cstore admin kept`: uploads that may have committed in a history of the metadata that a person
//! has given up. Asks the master, with a bearer of the cluster secret.

use std::io::Write;

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

/// Prints the uploads that are kept.
pub(crate) fn list(json: bool, source: &dyn Source) -> Result<(), Failure> {
    run(source, async |master| {
        let mut out = std::io::stdout().lock();
        let mut after = Bytes::new();
        let mut n_kept = 0;
        loop {
            let page = page(&master, after).await?;
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
            writeln!(out, "no upload is kept").map_err(Failure::output)?;
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
        let page = page(master, after).await?;
        let Some(last) = page.last().cloned() else {
            return Ok(dropped);
        };
        dropped += let_go(master, page).await?;
        after = last;
    }
}

async fn page(master: &MasterClient, after: Bytes) -> Result<Vec<Bytes>, Failure> {
    let listed = master.list_kept(v1::ListKeptRequest { after }).await;
    let listed = listed.map_err(|status| refused(code_of(&status), status.message()))?;
    Ok(listed.sessions)
}

async fn let_go(master: &MasterClient, sessions: Vec<Bytes>) -> Result<u64, Failure> {
    let answer = master.drop_kept(v1::DropKeptRequest { sessions }).await;
    let answer = answer.map_err(|status| refused(code_of(&status), status.message()))?;
    Ok(answer.dropped)
}

fn print_json(out: &mut impl Write, line: &Line) -> std::io::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    writeln!(out)
}
