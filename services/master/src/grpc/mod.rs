//! The gRPC doors of the master. They only translate: rules live in the modules above.

mod cluster;
mod namespace;
mod uploads;

use std::sync::Arc;

use crate::core::Master;

/// One value behind all three services.
#[derive(Debug, Clone)]
pub(crate) struct Doors(pub(crate) Arc<Master>);
