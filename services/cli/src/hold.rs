//! `cstore admin hold`: what is in doubt on storage disks, and the acceptance of a doubt. Asks the
//! master, with a bearer of the cluster secret.

use std::io::Write;

use cstore_mesh::member::connect_master;
use cstore_mesh::{ClientOptions, Dial, MasterClient, MeshMetrics, Protocol};
use cstore_node::{Env, HostPort, Source};
use cstore_proto::{Caller, Signer, code_of, v1};
use cstore_types::ErrorCode;
use serde::Serialize;
use tokio::time::{sleep, timeout};

use crate::exit::{End, Failure};
use crate::limits::{ACCEPT_PATIENCE, ACCEPT_POLL_PAUSE};
use crate::{secret, tls};

/// Connection to the master of this machine's settings.
#[derive(Debug)]
struct Door {
    master: HostPort,
    options: ClientOptions,
}

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
        let nodes = nodes(&master).await?;
        let mut out = std::io::stdout().lock();
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
        let done = timeout(ACCEPT_PATIENCE, until_accepted(&master, node, number)).await;
        match done {
            Ok(result) => result?,
            Err(_) => {
                let text = format!(
                    "node {node} has not accepted doubt {number} yet; its log says why, or it is away"
                );
                return Err(Failure::client(End::Unavailable, text));
            }
        }
        let mut out = std::io::stdout().lock();
        writeln!(out, "{node}: doubt {number} is accepted").map_err(Failure::output)
    })
}

async fn until_accepted(master: &MasterClient, node: &str, number: u32) -> Result<(), Failure> {
    loop {
        let nodes = nodes(master).await?;
        let is_open = nodes
            .iter()
            .filter(|found| found.node_id == node)
            .flat_map(|found| &found.doubts)
            .any(|doubt| doubt.number == number && !doubt.accepted);
        if !is_open {
            return Ok(());
        }
        sleep(ACCEPT_POLL_PAUSE).await;
    }
}

async fn nodes(master: &MasterClient) -> Result<Vec<v1::Node>, Failure> {
    let listed = master.list_nodes(v1::ListNodesRequest {}).await;
    let listed = listed.map_err(|status| refused(code_of(&status), status.message()))?;
    Ok(listed.nodes)
}

fn print(out: &mut impl Write, node: &str, doubt: &v1::Doubt, json: bool) -> std::io::Result<()> {
    let v1::Doubt {
        number,
        kind,
        detail,
        accepted,
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

/// Runs a command against the master, in a runtime of its own.
fn run(
    source: &dyn Source,
    command: impl AsyncFnOnce(MasterClient) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let door = door(source)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::failed)?;
    runtime.block_on(async {
        let master = connect_master(&door.master.to_string(), &door.options);
        command(master.map_err(Failure::failed)?).await
    })
}

fn door(source: &dyn Source) -> Result<Door, Failure> {
    let mut env = Env::new(source);
    let master = env.host_port("CSTORE_MASTER_ADDR", HostPort::new("127.0.0.1", 4_100));
    let path = secret::path(&mut env);
    let tls = tls::read(&mut env);
    env.finish().map_err(Failure::usage)?;

    let secret = secret::read(&path).map_err(Failure::usage)?;
    let signer = Signer::new(&secret, Caller::Operator);
    let options = ClientOptions::new("cli", signer, MeshMetrics::default());
    let dial = Dial::secured(tls.as_ref(), Protocol::Grpc);
    Ok(Door {
        master,
        options: ClientOptions { dial, ..options },
    })
}

fn refused(code: ErrorCode, message: &str) -> Failure {
    let end = match code {
        ErrorCode::NotFound => End::NotFound,
        ErrorCode::InvalidArgument => End::Usage,
        ErrorCode::PermissionDenied | ErrorCode::Unauthenticated => End::Denied,
        ErrorCode::Unavailable | ErrorCode::Overloaded | ErrorCode::Deadline => End::Unavailable,
        _ => End::Failed,
    };
    Failure::client(end, format!("master: {message}"))
}
