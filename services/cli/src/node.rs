//! `cstore admin node`: what a person decides about a storage node that is away, or whose disk is
//! lost.

use std::io::Write;

use bytes::Bytes;
use cstore_node::Source;
use cstore_proto::{code_of, v1};
use cstore_types::StoreUuid;

use crate::exit::Failure;
use crate::master::{refused, run};

/// Gives up the disk of a node that is lost for good.
pub(crate) fn replace(node: &str, lost: StoreUuid, source: &dyn Source) -> Result<(), Failure> {
    run(source, async |master| {
        let request = v1::GiveUpStoreRequest {
            node_id: node.to_owned(),
            store_uuid: Bytes::copy_from_slice(lost.as_bytes()),
        };
        let answer = master.give_up_store(request).await;
        let ended = answer
            .map_err(|status| refused(code_of(&status), status.message()))?
            .releases_ended;
        let mut out = std::io::stdout().lock();
        writeln!(
            out,
            "{node}: store {lost} is given up, and {ended} releases with it; the node may come with another disk"
        )
        .map_err(Failure::output)
    })
}

/// Lets space come back without a node that stays away.
pub(crate) fn away(node: &str, source: &dyn Source) -> Result<(), Failure> {
    run(source, async |master| {
        let request = v1::ExcuseNodeRequest {
            node_id: node.to_owned(),
        };
        let answer = master.excuse_node(request).await;
        answer.map_err(|status| refused(code_of(&status), status.message()))?;
        let mut out = std::io::stdout().lock();
        writeln!(
            out,
            "{node}: space comes back without it until it is there again"
        )
        .map_err(Failure::output)
    })
}
