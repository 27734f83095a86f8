//! The gRPC services of the master. They translate between messages and the rules' types, and
//! nothing else.

mod cluster;
mod convert;
mod namespace;
mod uploads;

use std::sync::Arc;

use cstore_node::shutdown::Shutdown;

use crate::domain::Master;

/// The implementation of all three services.
#[derive(Debug, Clone)]
pub(crate) struct Services {
    pub(crate) master: Arc<Master>,
    /// Ends the streams that would never end by themselves.
    pub(crate) shutdown: Shutdown,
}
