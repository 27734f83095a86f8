//! The gRPC doors of the master. They only translate: rules live in the modules above.

mod cluster;
mod namespace;
mod uploads;

use std::sync::Arc;

use cstore_node::shutdown::Shutdown;

use crate::core::Master;

/// One value behind all three services: the rules, and when streams that never end have to.
#[derive(Debug, Clone)]
pub(crate) struct Doors(pub(crate) Arc<Master>, pub(crate) Shutdown);
