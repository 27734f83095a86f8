//! `cstore admin node replace`: the disk of a storage node is lost, and another one takes its
//! place.

use std::io::Write;

use bytes::Bytes;
use cstore_node::Source;
use cstore_proto::{code_of, v1};
use cstore_types::StoreUuid;

use crate::exit::Failure;
use crate::master::{refused, run};

/// Gives up the disk of a node that is lost for good.
pub(crate) fn run_replace(node: &str, lost: StoreUuid, source: &dyn Source) -> Result<(), Failure> {
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
