//! Usage of sessions, summed over all storage nodes.

use cstore_proto::{FieldError, session_usage, v1};
use cstore_types::limits::MAX_USAGE_SESSIONS;
use cstore_types::{Fault, SpaceUsage};
use cstore_wire::{Request, Response};
use futures_util::future::try_join_all;

use crate::blocks::unexpected;
use crate::cluster::Route;

/// Asks every storage node and adds up: each block is stored on one of them only.
pub(crate) async fn explain(
    route: &Route,
    request: v1::ExplainRequest,
) -> Result<SpaceUsage, Fault> {
    let n = request.sessions.len();
    if n > MAX_USAGE_SESSIONS {
        let rule = format!("at most {MAX_USAGE_SESSIONS} are allowed, found {n}");
        return Err(FieldError::new("sessions", rule).into());
    }
    let sessions = request
        .sessions
        .iter()
        .map(session_usage)
        .collect::<Result<Vec<_>, FieldError>>()?;
    if sessions.is_empty() {
        return Ok(SpaceUsage::default());
    }

    let question = Request::Usage { sessions };
    let ask = async |node| match route.ask(node, &question, 0).await? {
        Response::Usage(found) => Ok(found),
        other => Err(unexpected(node, &other)),
    };
    let mut sum = SpaceUsage::default();
    for found in try_join_all(route.nodes().map(ask)).await? {
        sum += found;
    }
    Ok(sum)
}
