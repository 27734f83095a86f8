//! `cstore admin hold`: what is in doubt on storage disks, and the acceptance of a doubt. Asks the
//! master, with a bearer of the cluster secret.

use std::io::Write;

use cstore_mesh::MasterClient;
use cstore_node::Source;
use cstore_proto::{code_of, v1};
use serde::Serialize;
use tokio::time::{sleep, timeout};

use crate::exit::{End, Failure};
use crate::limits::{ACCEPT_PATIENCE, ACCEPT_POLL_PAUSE};
use crate::master::{refused, run};

/// A doubt as a line of JSON.
#[derive(Debug, Serialize)]
struct Line<'a> {
    node: &'a str,
    number: u32,
    kind: &'a str,
    detail: &'a str,
    accepted: bool,
}

/// Prints what is in doubt on the disks of all storage nodes.
pub(crate) fn list(json: bool, source: &dyn Source) -> Result<(), Failure> {
    run(source, async |master| {
        let v1::ListNodesResponse {
            nodes,
            releases_wait_for,
            kept_sessions,
            ..
        } = list_nodes(&master).await?;
        let mut out = std::io::stdout().lock();
        if !releases_wait_for.is_empty() && !json {
            let line = format!("space does not come back yet: waiting for {releases_wait_for}");
            writeln!(out, "{line}").map_err(Failure::output)?;
        }
        if kept_sessions > 0 && !json {
            let line = format!(
                "{kept_sessions} uploads of another history are kept: cstore admin kept list"
            );
            writeln!(out, "{line}").map_err(Failure::output)?;
        }
        let mut n_doubts = 0;
        for node in &nodes {
            for doubt in &node.doubts {
                n_doubts += 1;
                print(&mut out, &node.node_id, doubt, json).map_err(Failure::output)?;
            }
        }
        if n_doubts == 0 && !json {
            writeln!(out, "nothing is in doubt").map_err(Failure::output)?;
        }
        Ok(())
    })
}

/// Accepts a doubt, and waits until the node has done it.
pub(crate) fn accept(node: &str, number: u32, source: &dyn Source) -> Result<(), Failure> {
    run(source, async |master| {
        let request = v1::AcceptDoubtRequest {
            node_id: node.to_owned(),
            number,
        };
        let asked = master.accept_doubt(request).await;
        asked.map_err(|status| refused(code_of(&status), status.message()))?;
        let mut reason = String::new();
        let accepting = until_accepted(&master, node, number, &mut reason);
        match timeout(ACCEPT_PATIENCE, accepting).await {
            Ok(result) => result?,
            Err(_) => {
                let text = not_accepted(node, number, &reason);
                return Err(Failure::client(End::Unavailable, text));
            }
        }
        let mut out = std::io::stdout().lock();
        writeln!(out, "{node}: doubt {number} is accepted").map_err(Failure::output)
    })
}

/// Says that a node has not accepted a doubt in time, and why if the node is not ready.
fn not_accepted(node: &str, number: u32, reason: &str) -> String {
    let late = format!("node {node} has not accepted doubt {number} yet");
    match reason {
        "" => format!("{late}; its log says why, or it is away"),
        reason => format!(
            "{late}: it is not ready: {reason}. The master keeps the decision until the node takes it"
        ),
    }
}

/// Waits until the node has accepted the doubt. Keeps in `reason` why the node is not ready.
async fn until_accepted(
    master: &MasterClient,
    node: &str,
    number: u32,
    reason: &mut String,
) -> Result<(), Failure> {
    loop {
        let nodes = list_nodes(master).await?.nodes;
        // One that has nothing left to say is not listed any more.
        let is_open = |doubt: &v1::Doubt| doubt.number == number && !doubt.accepted;
        let node = nodes.iter().find(|found| found.node_id == node);
        if node.is_some_and(|found| !found.doubts.iter().any(is_open)) {
            return Ok(());
        }
        *reason = node.map(|found| found.reason.clone()).unwrap_or_default();
        sleep(ACCEPT_POLL_PAUSE).await;
    }
}

async fn list_nodes(master: &MasterClient) -> Result<v1::ListNodesResponse, Failure> {
    let listed = master.list_nodes(v1::ListNodesRequest {}).await;
    listed.map_err(|status| refused(code_of(&status), status.message()))
}

fn print(out: &mut impl Write, node: &str, doubt: &v1::Doubt, json: bool) -> std::io::Result<()> {
    let v1::Doubt {
        number,
        kind,
        detail,
        accepted,
        // `detail` says it.
        seal: _,
    } = doubt;
    if json {
        let line = Line {
            node,
            number: *number,
            kind,
            detail,
            accepted: *accepted,
        };
        serde_json::to_writer(&mut *out, &line)?;
        return writeln!(out);
    }
    let state = if *accepted { "accepted" } else { "OPEN" };
    writeln!(out, "{node}  {number:>3}  {state:<8}  {kind:<15}  {detail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i12_an_accept_that_is_late_says_why_the_node_is_not_ready() {
        let reason = "disk takes no writes and is open for reads only: read-only filesystem";
        let text = not_accepted("storage-1", 3, reason);
        assert!(text.contains(reason), "{text}");
        assert!(text.contains("keeps the decision"), "{text}");
        let text = not_accepted("storage-1", 3, "");
        assert!(text.contains("its log says why"), "{text}");
    }
}
