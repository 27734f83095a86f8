//! What some sessions use over all storage nodes.

use cstore_proto::v1;
use cstore_types::limits::MAX_USAGE_SESSIONS;
use cstore_wire::{Request, Response, SessionUse};
use futures_util::future::try_join_all;

use crate::blocks::unexpected;
use crate::cluster::Route;
use crate::error::Failure;

/// Asks every storage node and adds up: a block lies on one of them only.
pub(crate) async fn explain(
    route: &Route,
    request: v1::ExplainRequest,
) -> Result<v1::ExplainResponse, Failure> {
    let n = request.sessions.len();
    if n > MAX_USAGE_SESSIONS {
        let text = format!("field sessions: at most {MAX_USAGE_SESSIONS} are allowed, found {n}");
        return Err(Failure::invalid(text));
    }
    let session = |of: &v1::SessionUse| {
        let session =
            cstore_proto::session(&of.session).map_err(|error| Failure::invalid(error.to_string()))?;
        Ok(SessionUse { session, ends: of.ends })
    };
    let sessions = request.sessions.iter().map(session).collect::<Result<Vec<_>, Failure>>()?;
    if sessions.is_empty() {
        return Ok(v1::ExplainResponse::default());
    }
    let question = Request::Usage { sessions };
    let asked = (0..route.n_nodes()).map(|node| route.ask(node, &question, 0));
    let mut sum = v1::ExplainResponse::default();
    for answer in try_join_all(asked).await? {
        let Response::Usage(found) = answer else { return Err(unexpected(&answer)) };
        sum.blocks += found.blocks;
        sum.bytes += found.bytes;
        sum.shared_blocks += found.shared_blocks;
        sum.shared_bytes += found.shared_bytes;
    }
    Ok(sum)
}
