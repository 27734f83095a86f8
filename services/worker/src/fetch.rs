//! Blocks from storage nodes: all nodes at once, every byte verified, tried again when a connection
//! breaks.

use std::collections::HashMap;

use bytes::Bytes;
use cstore_types::limits::MAX_BLOCK_BYTES;
use cstore_types::{BlockId, ErrorCode, Fault, NodeId, error_chain};
use cstore_wire::{ClientError, Connection};
use futures_util::future::try_join_all;
use tracing::Instrument;

use crate::cluster::Route;
use crate::error::lost_task;
use crate::limits::{INLINE_CHECK_BYTES, MAX_REQUEST_RETRIES, READ_PATIENCE, REQUEST_DEADLINE};
use crate::recipe_walk::Piece;
use crate::trace;

/// Blocks in the order of the file, with what each is for.
pub(crate) type Window = Vec<(Piece, Bytes)>;

/// One block by id, verified: a leaf of a recipe.
pub(crate) async fn fetch_one(route: &Route, id: BlockId) -> Result<Bytes, Fault> {
    let piece = Piece {
        id,
        offset: 0,
        len: 0,
    };
    let found = fetch_from(route, route.node_of(&id), &[&piece], MAX_BLOCK_BYTES).await?;
    let bytes = found.into_values().next().ok_or_else(|| missing(&id))?;
    if !id.matches(route.stores.key(), &bytes) {
        return Err(damaged(&id));
    }
    Ok(bytes)
}

/// Fetches the blocks of a window from all nodes at once, and verifies them off the async threads.
pub(crate) async fn fetch(route: &Route, pieces: Vec<Piece>) -> Result<Window, Fault> {
    let groups = route.by_node(&pieces, |piece| piece.id);
    let fetches = groups.iter().map(|(node, group)| {
        let bytes: u64 = group.iter().map(|piece| piece.len).sum();
        fetch_from(
            route,
            node,
            group,
            usize::try_from(bytes).unwrap_or(usize::MAX),
        )
    });
    let mut found: HashMap<BlockId, Bytes> = HashMap::new();
    for blocks in try_join_all(fetches).await? {
        found.extend(blocks);
    }
    let key = route.stores.key().clone();
    let verify = move || {
        for (id, bytes) in &found {
            if !id.matches(&key, bytes) {
                return Err(damaged(id));
            }
        }
        Ok(found)
    };
    let bytes: u64 = pieces.iter().map(|piece| piece.len).sum();
    let found = if bytes <= INLINE_CHECK_BYTES {
        verify()?
    } else {
        cstore_node::blocking(verify).await.map_err(lost_task)??
    };
    let take = |piece: Piece| {
        let bytes = found
            .get(&piece.id)
            .filter(|bytes| bytes.len() as u64 == piece.len);
        let bytes = bytes.cloned().ok_or_else(|| damaged(&piece.id))?;
        Ok((piece, bytes))
    };
    pieces.into_iter().map(take).collect()
}

async fn fetch_from(
    route: &Route,
    node: &NodeId,
    pieces: &[&Piece],
    bytes: usize,
) -> Result<HashMap<BlockId, Bytes>, Fault> {
    let mut tries = 0;
    loop {
        // Not tried again: it has waited for as long as it may.
        let connection = route.stores.connection(node, READ_PATIENCE).await?;
        match try_fetch(route, node, &connection, pieces, bytes).await {
            Err(fault) if fault.code == ErrorCode::Unavailable && tries < MAX_REQUEST_RETRIES => {
                tracing::debug!(error = %error_chain(&fault), tries, "fetch is tried again");
                tries += 1;
            }
            result => return result,
        }
    }
}

async fn try_fetch(
    route: &Route,
    node: &NodeId,
    connection: &Connection,
    pieces: &[&Piece],
    bytes: usize,
) -> Result<HashMap<BlockId, Bytes>, Fault> {
    let mut ids: Vec<BlockId> = pieces.iter().map(|piece| piece.id).collect();
    ids.sort_unstable();
    ids.dedup();
    let span = trace::batch_span("GetBlocks", node.as_str(), ids.len());
    let field = trace::field(&span);
    let fetch = async {
        let mut stream = connection
            .get_blocks(ids.clone(), bytes, route.version(), field, REQUEST_DEADLINE)
            .await?;
        let mut found = HashMap::with_capacity(ids.len());
        while let Some(block) = stream.next().await {
            let block = block?;
            let id = usize::try_from(block.index)
                .ok()
                .and_then(|at| ids.get(at))
                .copied();
            match (id, block.result) {
                (Some(id), Ok(bytes)) => drop(found.insert(id, bytes)),
                (Some(id), Err(ErrorCode::NotFound)) => return Err(missing(&id)),
                (Some(id), Err(ErrorCode::DataLoss)) => return Err(damaged(&id)),
                (_, Err(code)) => {
                    return Err(Fault::new(
                        code,
                        format!("storage node {node} refused a block: {code}"),
                    ));
                }
                (None, Ok(_)) => {
                    return Err(ClientError::Protocol("block index beyond the request").into());
                }
            }
        }
        Ok(found)
    };
    fetch.instrument(span).await
}

fn missing(id: &BlockId) -> Fault {
    Fault::new(ErrorCode::DataLoss, format!("block {id:?} is missing"))
}

fn damaged(id: &BlockId) -> Fault {
    Fault::new(ErrorCode::DataLoss, format!("block {id:?} is damaged"))
}
